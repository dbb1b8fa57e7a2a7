"""An origin behind TLS: whom the client believes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from proxy import errors
from tests.origin.support import ask, at_rest, client_of, read_all


@contextlib.asynccontextmanager
async def secure_origin() -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """An https origin on 127.0.0.1, and a context that trusts it."""
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trusting)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], trusting
    finally:
        server.close()


async def test_a_trusted_certificate() -> None:
    async with (
        secure_origin() as (port, trusting),
        client_of(f"https://127.0.0.1:{port}", ssl_context=trusting) as client,
    ):
        for _ in range(2):
            assert await read_all(await ask(client)) == b"secret"
        assert client.idle == 1


async def test_a_certificate_nobody_vouches_for() -> None:
    async with secure_origin() as (port, _), client_of(f"https://127.0.0.1:{port}") as client:
        with pytest.raises(errors.OriginRefused, match="TLS"):
            await ask(client)
        assert at_rest(client)


async def test_a_certificate_for_another_name() -> None:
    async with (
        secure_origin() as (port, trusting),
        client_of(f"https://localhost:{port}", ssl_context=trusting) as client,
    ):
        with pytest.raises(errors.OriginRefused, match="TLS"):
            await ask(client)


async def test_a_port_that_accepts_and_says_nothing_of_tls(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with client_of(f"https://127.0.0.1:{port}", connect_timeout=0.2) as client:
            with pytest.raises(errors.OriginTimeout, match=r"did not agree on TLS within 0\.2 s"):
                await ask(client)
            assert at_rest(client)
    assert [f"127.0.0.1:{port}" in told for told in caplog.messages] == [True]
