"""What the handlers share: who asks, what was sent, and answers in the shapes Fastify and Express give."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from aiohttp import ETag, web

from deploy.example_origin.school import Document, School


@dataclass
class State:
    """Everything one origin remembers. report_seconds -- how long making a report takes."""

    report_seconds: float
    school: School = field(default_factory=School)
    requests: Counter[str] = field(default_factory=Counter)
    not_modified: int = 0
    in_progress: int = 0
    announcements: list[Document] = field(default_factory=list)
    leaderboards: int = 0
    websockets: set[web.WebSocketResponse] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


STATE = web.AppKey("STATE", State)


class Refused(Exception):
    """An answer that says what is wrong with the request, as Fastify words it."""

    def __init__(self, status: int, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields


def json_answer(document: object, *, status: int = 200, fields: Mapping[str, str] | None = None) -> web.Response:
    """`document` as JSON, written as Node writes it: no white space, UTF-8."""
    # a lone surrogate has no UTF-8, but its escape is JSON
    content = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return web.Response(status=status, body=content, headers=fields, content_type="application/json", charset="utf-8")


def refusal(fault: Refused) -> web.Response:
    """`fault` as the client gets it."""
    reason = web.Response(status=fault.status).reason
    document = {"statusCode": fault.status, "error": reason, "message": str(fault)}
    return json_answer(document, status=fault.status, fields=fault.fields)


def user_of(request: web.Request) -> str:
    """The user that the bearer token stands for: what comes before its first dot. Raises Refused (401).

    `alice`, `alice.phone` and `alice.laptop` are three credentials of one user.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    user = token.strip().partition(".")[0]
    if scheme.lower() != "bearer" or not user:
        raise Refused(401, "send Authorization: Bearer USER", {"WWW-Authenticate": 'Bearer realm="example"'})
    return user


async def json_object(request: web.Request) -> Document:
    """The content as a JSON object, whatever its declared type: `curl -d` declares a form. Raises Refused (400)."""
    try:
        document = json.loads(await request.read() or b"{}")
    except ValueError as fault:
        raise Refused(400, f"the content is not JSON: {fault}") from fault
    if not isinstance(document, dict):
        raise Refused(400, "the content is not a JSON object")
    return document


def number_in_query(request: web.Request, name: str, default: float, *, most: float) -> float:
    """A query parameter from 0 to `most`. Raises Refused (400)."""
    given = request.query.get(name)
    if given is None:
        return default
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise Refused(400, f"{name} must be a number from 0 to {most:g}")
    return number


async def pause(request: web.Request, seconds: float) -> bool:
    """Let `seconds` pass. False when the origin is stopping, which ends the wait at once."""
    try:
        async with asyncio.timeout(seconds):
            await request.app[STATE].stopping.wait()
    except TimeoutError:
        return True
    return False


async def work(request: web.Request, seconds: float) -> None:
    """Take `seconds` over an answer. Raises Refused (503) when the origin is stopping."""
    if not await pause(request, seconds):
        raise Refused(503, "the origin is stopping", {"Retry-After": "1"})


def etag_of(content: object, *, weak: bool) -> ETag:
    """A validator that changes with the content."""
    written = json.dumps(content, sort_keys=True).encode()
    return ETag(is_weak=weak, value=hashlib.sha256(written).hexdigest()[:24])


def conditional(
    request: web.Request, answer: web.Response, etag: ETag, last_modified: datetime | None = None
) -> web.Response:
    """`answer` with its validators, or 304 if the client's copy is current (RFC 9110 13.2.2: ETags come first)."""
    answer.etag = etag
    answer.last_modified = last_modified
    known = request.if_none_match
    if known is not None:
        same = any(candidate.value in {"*", etag.value} for candidate in known)
    else:
        since = request.if_modified_since
        same = since is not None and last_modified is not None and last_modified <= since
    if same:
        kept = ("ETag", "Last-Modified", "Cache-Control", "Vary", "Content-Location", "Expires")
        return web.Response(status=304, headers={name: answer.headers[name] for name in kept if name in answer.headers})
    return answer
