"""What a stored response weighs: the bytes of memory it and everything it holds take up.

Every object is counted at the size of the block the allocator gives for it. What is made on first use (the
index of the fields) counts from the start, and what could be shared counts in full, so that the sum is never
less than the truth.
"""

from __future__ import annotations

import sys
from functools import lru_cache

from proxy.policy.messages import Fields, Freshness, ResponseHead, StoredResponse
from proxy.policy.prepared import chain_of

_POOLED = 512
"""Up to here CPython's own allocator serves an object, in steps of 16 bytes; above it the C library's does."""
_MAPPED = 128 * 1024
"""From here on the C library maps whole pages."""
_PAGE = 4096
_NUMBER = 32
_NUMBERS = 9
"""Two times, the origin's seconds, the epoch, the status and the four seconds of `Freshness`."""


def block(size: int) -> int:
    """The bytes an allocator takes for an object of `size` bytes."""
    if size <= _POOLED:
        return (size + 15) & ~15
    if size < _MAPPED:
        return (size + 8 + 15) & ~15
    return (size + 16 + _PAGE - 1) & ~(_PAGE - 1)


def _of(value: object) -> int:
    return block(sys.getsizeof(value))


@lru_cache(maxsize=256)
def _dict(entries: int) -> int:
    """A dict of `entries` text keys, without the keys and values."""
    sample: dict[str, None] = {}
    for number in range(entries):
        sample[str(number)] = None
    return _of(sample) + 16


def _skeleton() -> int:
    """The objects that every stored response consists of, with their numbers."""
    fields = Fields()
    head = ResponseHead(200, "", fields)
    freshness = Freshness()
    stored = StoredResponse("", "", (), head, b"", freshness, 0.0, 0.0, 0)
    return _of(fields) + _of(head) + _of(freshness) + _of(stored) + _NUMBERS * _NUMBER


_SKELETON = _skeleton()
_PAIR = _of(("", ""))
_SINGLE = _of(("",))


def _fields(fields: Fields) -> int:
    """Packed ones, or lines with their index by name, as if every name occurred once (which takes the most)."""
    if fields.octets is not None:
        return _of(fields.octets)
    total = _of(fields.lines) + _dict(len(fields.lines))
    for name, value in fields.lines:
        total += _PAIR + _SINGLE + 2 * _of(name) + _of(value)
    return total


def weigh(stored: StoredResponse) -> int:
    """Bytes of memory that `stored` takes up, its content and codings included."""
    total = _SKELETON + _of(stored.key) + _of(stored.uri) + _of(stored.head.reason) + _of(stored.content)
    total += _fields(stored.head.fields) + _of(stored.secondary_key) + _of(stored.tags)
    if stored.codings:
        total += _dict(len(stored.codings))
    for name, value in stored.secondary_key:
        total += _PAIR + _of(name) + _of(value)
    if stored.part is not None:
        total += _of(stored.part) + 2 * _NUMBER
    for tag in stored.tags:
        total += _of(tag)
    for coding, content in stored.codings.items():
        total += _of(coding) + _of(content)
    for form in chain_of(stored.prepared):
        total += _of(form) + _NUMBER
        if form.fields is not stored.head.fields.octets:
            total += _of(form.fields)
    return total
