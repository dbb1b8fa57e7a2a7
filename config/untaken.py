"""What is on its way on a connection, and taken by neither end yet."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios


def untaken(transport: asyncio.WriteTransport) -> int:
    """Octets that the client's machine has not acknowledged, here and in the kernel.

    The kernel asks for more only when a third of a buffer of megabytes is free, so what
    waits here can stand still for minutes while a slow client reads (tcp(7), SIOCOUTQ).
    """
    return transport.get_write_buffer_size() + _asked(transport, termios.TIOCOUTQ)


def unread(transport: asyncio.BaseTransport) -> int:
    """Octets that the client has sent, and that wait in the kernel while this process is busy (tcp(7), SIOCINQ)."""
    return _asked(transport, termios.FIONREAD)


def _asked(transport: asyncio.BaseTransport, what: int) -> int:
    connection = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(connection.fileno(), what, bytes(4))
    except (AttributeError, OSError, ValueError):  # closed meanwhile, or a system that does not tell
        return 0
    return int.from_bytes(answer, sys.byteorder)
