"""What the other end of a connection has not taken yet."""

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
    waiting = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # closed meanwhile, or a system that does not tell
        return waiting
    return waiting + int.from_bytes(answer, sys.byteorder)
