"""Content codings undone."""

from __future__ import annotations

import gzip

import brotli
from backports import zstd

DECODERS = {"gzip": gzip.decompress, "br": brotli.decompress, "zstd": zstd.decompress}
