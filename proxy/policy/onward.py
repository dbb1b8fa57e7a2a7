"""What of a plain request's head goes on to the next hop, made once for all that have the same heading."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.policy.forwarding import VIA
from proxy.policy.lines import Hole, Known, text_of


class Onward:
    """What of a heading goes on to the next hop, as `forwarding.to_origin` has it.

    pieces -- octets before, between and behind those values that go on as they are. going -- which values these are.
    forwarded, via -- what X-Forwarded-For and Via say outside of holes; forwarded_at, via_at -- of which value
    it is otherwise, -1 where of none. added -- what has to be said of scheme and host. traced, identified -- it goes on
    with the client's traceparent, with its request id.
    """

    __slots__ = (
        "_hop",
        "_peer",
        "added",
        "forwarded",
        "forwarded_at",
        "going",
        "identified",
        "pieces",
        "traced",
        "via",
        "via_at",
    )

    def __init__(self, lines: Sequence[Known | None], holes: list[Hole], host: str) -> None:
        self.pieces: list[bytes] = []
        self.going: list[int] = []
        self.forwarded_at = self.via_at = -1
        fields: dict[bytes, str] = {}
        piece = b"\r\n"
        number = 0
        for line in lines:
            if line is not None:
                piece += line.written() if line.wire is None else line.wire
                if line.minded:
                    before = fields.get(line.lower)
                    fields[line.lower] = line.line[1] if before is None else f"{before}, {line.line[1]}"
                continue
            hole = holes[number]
            if hole.before:
                self.pieces.append(piece + hole.before)
                self.going.append(number)
                piece = b"\r\n"
            elif hole.lower == b"x-forwarded-for":
                self.forwarded_at = number
            elif hole.lower == b"via":
                self.via_at = number
            fields.setdefault(hole.lower, "")
            number += 1
        self.pieces.append(piece)
        self.forwarded = fields.get(b"x-forwarded-for", "")
        self.via = fields.get(b"via", "")
        self.identified = b"x-request-id" in fields
        self.traced = b"traceparent" in fields
        self._peer: str | None = None
        self._hop = b""
        added = "" if b"x-forwarded-proto" in fields else "X-Forwarded-Proto: http\r\n"
        self.added = added if b"x-forwarded-host" in fields else f"{added}X-Forwarded-Host: {host}\r\n"

    def hop(self, peer: str, values: list[bytes]) -> bytes:
        """The lines that this hop adds for a client at `peer`."""
        if self.forwarded_at < 0 and self.via_at < 0:
            # most often the same as the last time
            if self._peer != peer:
                self._peer, self._hop = peer, self._lines(peer, self.forwarded, self.via)
            return self._hop
        forwarded = self.forwarded if self.forwarded_at < 0 else text_of(values[self.forwarded_at])
        return self._lines(peer, forwarded, self.via if self.via_at < 0 else text_of(values[self.via_at]))

    def _lines(self, peer: str, forwarded: str, via: str) -> bytes:
        chain = f"{forwarded}, {peer}" if forwarded else peer
        hops = f"{via}, {VIA}" if via else VIA
        return f"X-Forwarded-For: {chain}\r\n{self.added}Via: {hops}\r\n".encode("latin-1")
