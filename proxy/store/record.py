"""Pure: a stored response as the octets that replicas share, and back.

    version, digest of the rest, length of the header, header (a JSON array), content

The digest is keyed by CACHE_SECRET where there is one, so that nobody else can write what is believed. What is of
another version, for another key, or changed on the way is no response.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, replace
from typing import Any

import orjson

from config.bulletin import Standing
from proxy.policy.freshness import current_age
from proxy.policy.messages import Fields, Freshness, ResponseHead, StoredResponse

VERSION = b"siding\x02"
DIGEST_BYTES = 16
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Record:
    """A stored response of another replica. age -- seconds, when it was written. asked_at -- where the log of
    invalidations stood when its origin was asked."""

    stored: StoredResponse
    age: float
    asked_at: Standing


def _digest(content: bytes, secret: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, key=secret[:64]).digest()


def packed(stored: StoredResponse, now: float, asked_at: Standing, secret: bytes) -> bytes:
    """The octets. now -- wall clock, seconds."""
    life = stored.freshness
    header = orjson.dumps(
        [
            stored.key,
            stored.uri,
            stored.secondary_key,
            stored.head.status,
            stored.head.reason,
            stored.head.fields.lines,
            [
                life.lifetime,
                life.stale_while_revalidate,
                life.stale_if_error,
                life.must_revalidate,
                life.no_cache,
            ],
            current_age(life, stored.response_time, now),
            list(asked_at),
            stored.tags,
            stored.made_etag,
            stored.origin_seconds,
        ]
    )
    rest = b"".join((_LENGTH.pack(len(header)), header, stored.content))
    return b"".join((VERSION, _digest(rest, secret), rest))


def unpacked(data: bytes, key: str, secret: bytes) -> Record | None:
    """What the octets say; None where they are not a record of this version for this key."""
    begin = len(VERSION) + DIGEST_BYTES
    digest, rest = data[len(VERSION) : begin], data[begin:]
    if not data.startswith(VERSION) or not hmac.compare_digest(digest, _digest(rest, secret)):
        return None
    try:
        [length] = _LENGTH.unpack_from(rest)
        header = orjson.loads(rest[_LENGTH.size : _LENGTH.size + length])
        return _record(header, rest[_LENGTH.size + length :]) if header[0] == key else None
    except (struct.error, ValueError, TypeError, IndexError, KeyError):
        return None


def _record(header: list[Any], content: bytes) -> Record:
    key, uri, secondary, status, reason, lines, life, age, (log, number), tags, made, seconds = header
    stored = StoredResponse(
        key=key,
        uri=uri,
        secondary_key=tuple((name, value) for name, value in secondary),
        head=ResponseHead(status, reason, Fields((name, value) for name, value in lines)),
        content=content,
        freshness=Freshness(0.0, *life),
        request_time=0.0,
        response_time=0.0,
        epoch=0,
        tags=tuple(tags),
        made_etag=made,
        origin_seconds=seconds,
    )
    return Record(stored, age, Standing(log, number))


def as_of(record: Record, elapsed: float, now: float, epoch: int, *, stale: bool) -> StoredResponse:
    """The stored response here. elapsed -- seconds since it was written, by the clock of the tier; no two machines'
    clocks are compared. now -- wall clock. stale -- from now on, whatever is left of its lifetime.
    """
    stored, elapsed = record.stored, max(0.0, elapsed)
    age = record.age + elapsed
    life = replace(stored.freshness, initial_age=record.age)
    if stale:
        life = replace(life, lifetime=min(life.lifetime, age))
    written = now - elapsed
    return replace(
        stored, freshness=life, request_time=written - stored.origin_seconds, response_time=written, epoch=epoch
    )
