"""Codings applied here can be undone by others, whole and while they arrive."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.encoding import CODINGS
from proxy.server.coding import OFF_LOOP_BYTES, encode, encode_whole, stream_coder

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def decoder(coding: str) -> Callable[[bytes], bytes]:
    """Decodes as it arrives."""
    if coding == "br":
        brotli_decoder = brotli.Decompressor()
        return lambda data: bytes(brotli_decoder.process(data))
    if coding == "zstd":
        zstd_decoder = zstd.ZstdDecompressor()
        return lambda data: b"" if zstd_decoder.eof else zstd_decoder.decompress(data)
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress


@pytest.mark.parametrize("coding", CODINGS)
@given(content=st.binary(max_size=2000))
def test_whole(coding: str, content: bytes) -> None:
    assert decoder(coding)(encode(content, coding)) == content


@pytest.mark.parametrize("coding", CODINGS)
async def test_off_the_loop(coding: str) -> None:
    content = b"homework " * OFF_LOOP_BYTES
    coded = await encode_whole(content, coding)
    assert coded == encode(content, coding)
    assert len(coded) < len(content) / 100


@pytest.mark.parametrize("coding", CODINGS)
@given(pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=6))
def test_each_piece_can_be_read_when_it_arrives(coding: str, pieces: list[bytes]) -> None:
    coder, decode = stream_coder(coding), decoder(coding)
    for piece in pieces:
        assert decode(coder.feed(piece)) == piece
    assert decode(coder.finish()) == b""
