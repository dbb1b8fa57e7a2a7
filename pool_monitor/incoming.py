"""What comes from the server on a connection, counted before asyncpg has it, which takes an answer however large it is.

An answer beyond its bounds ends the connection: the protocol has no other way to stop what is on its way.
"""

from __future__ import annotations

import asyncio
import struct

_HEADER = struct.Struct(">BI")
"""A message's kind, and its length without that. Source: PostgreSQL's documentation, "Message Formats"."""
_ROW, _COMPLETE = ord("D"), ord("C")


class Incoming(asyncio.Protocol):
    """Stands before the protocol of a transport, and passes on what comes.

    octets, rows -- that came since `begin`, or with the statement under way.
    exceeded -- they are too many, and ended the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._behind: asyncio.Protocol = transport.get_protocol()  # type: ignore[assignment]  # asyncpg's is one
        self._most: tuple[int, int] | None = None
        self._begun = b""
        self._left = 0
        self.octets = self.rows = 0
        self.exceeded = False
        transport.set_protocol(self)

    def begin(self, octets: int, rows: int) -> None:
        """Bound each answer from now on: more `octets`, or more `rows`, end the connection.

        To be called when nothing is on its way: what comes without bounds is not looked into, which saves most of the
        time that a small query would spend here.
        """
        self._most = octets, rows
        self._begun, self._left = b"", 0
        self.octets = self.rows = 0

    def end(self) -> tuple[int, int] | None:
        """Bound nothing any more. Gives what `begin` was given last, if that still held."""
        most, self._most = self._most, None
        return most

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._most is not None:
            self._count(data)
        if self.exceeded:
            self._transport.abort()
        else:
            self._behind.data_received(data)

    def _count(self, data: bytes) -> None:
        """Go from message to message; one begins behind what is left of the last, maybe with what came before."""
        counted = len(self._begun)
        data, at, rows, size = self._begun + data, self._left, 0, len(self._begun) + len(data)
        while at + _HEADER.size <= size:
            kind, length = _HEADER.unpack_from(data, at)
            at += 1 + length
            if kind == _ROW:
                rows += 1
            elif kind == _COMPLETE:
                end = min(at, size)
                self._add(end - counted, rows)
                counted, rows = end, 0
                if not self.exceeded:
                    self.octets = self.rows = 0
        self._add(size - counted, rows)
        self._begun, self._left = data[at:], max(0, at - size)

    def _add(self, octets: int, rows: int) -> None:
        self.octets += octets
        self.rows += rows
        if self._most is not None and (self.octets > self._most[0] or self.rows > self._most[1]):
            self.exceeded = True

    def eof_received(self) -> bool | None:
        """See asyncio."""
        return self._behind.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._behind.resume_writing()
