"""The files and batches of OpenAI's API, as far as batches need them; whatever is not ours is forwarded as it came.

A file is ours when its purpose is `batch` and its requests are for chat completions; the one stands before or behind
its content, the other in it, so what arrives is written aside until it is known, and handed on from there when the file
is another's. Where there is no room for it, it is handed on too: then the upstream does the batch. Of a caller without
a key, or with one that the upstream refuses, nothing is kept: that one is the upstream's to refuse.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from config.answers import answer_json
from config.told import Episode
from pool_monitor.grading.batch_files import FILE_PREFIX, PIECE_BYTES, Draft, File, Files, NoRoom, read
from pool_monitor.grading.batch_form import Form, FormError
from pool_monitor.grading.batch_http import CallOf, answer_fault, asker_of
from pool_monitor.grading.batch_input import endpoint_of
from pool_monitor.grading.batch_running import WINDOW
from pool_monitor.grading.batches import BATCH_PREFIX, Batches
from pool_monitor.grading.calls import CHAT, Answer, Call, CallersFault, UpstreamFault
from pool_monitor.grading.receiving import pieces_of

log = logging.getLogger("siding.grading")

FILES = "/v1/files"
BATCHES = "/v1/batches"
PURPOSE = "batch"
MOST_FILE_BYTES = 200 * 1024 * 1024
"""As much as OpenAI takes: https://platform.openai.com/docs/guides/batch"""
MOST_REQUEST_BYTES = 64 * 1024
MOST_LISTED = 100
MOST_METADATA = 16
FEWEST_SECONDS, MOST_SECONDS = 3600, 2_592_000
"""For which a file may be asked to be kept: https://platform.openai.com/docs/api-reference/files/create"""

NO_SUCH_LIST = frozenset({404, 405})
"""Of an API like OpenAI's that has no batches."""

Forward = Callable[[web.Request, AsyncIterator[bytes] | bytes | None], Awaitable[web.StreamResponse]]
Fetch = Callable[[web.Request, str], Awaitable[Answer]]
Refuses = Callable[[Call], Awaitable[bool]]


class BatchesApi:
    """See the module. forward -- sends a request on with this content. fetch -- gets what the upstream has at a target.
    secret -- of owners' keys. has_key -- whether a key goes to the upstream with what this one asks. refuses -- whether
    the upstream refuses that key, as far as it tells.
    """

    def __init__(
        self,
        batches: Batches,
        files: Files,
        call_of: CallOf,
        forward: Forward,
        fetch: Fetch,
        secret: bytes,
        has_key: Callable[[Call], bool],
        refuses: Refuses,
    ) -> None:
        self._batches = batches
        self._files = files
        self._call_of = call_of
        self._forward = forward
        self._fetch = fetch
        self._secret = secret
        self._has_key = has_key
        self._refuses = refuses
        self._full: dict[str, Episode] = {}

    @staticmethod
    def concerns(request: web.Request, *, taking: bool) -> bool:
        """Whether a request is, or may be, about something of ours. taking -- whether new files and batches are."""
        path = request.path
        if path in {FILES, BATCHES}:
            return taking and (request.method == "POST" or (request.method == "GET" and path == BATCHES))
        return path.startswith((f"{FILES}/{FILE_PREFIX}", f"{BATCHES}/{BATCH_PREFIX}"))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A request that `concerns` us."""
        try:
            match [request.method, *request.path.strip("/").split("/")[1:]]:
                case ["POST", "files"]:
                    return await self._upload(request)
                case ["GET", "files", file_id]:
                    return answer_json(200, self._file(request, file_id).document)
                case ["DELETE", "files", file_id]:
                    self._files.remove(self._file(request, file_id))
                    return answer_json(200, {"id": file_id, "object": "file", "deleted": True})
                case ["GET", "files", file_id, "content"]:
                    return await _content(request, self._file(request, file_id))
                case ["POST", "batches"]:
                    return await self._create(request)
                case ["GET", "batches"]:
                    return await self._list(request)
                case ["GET", "batches", batch_id]:
                    return answer_json(200, self._batches.find(self._owner(request), batch_id).document)
                case ["POST", "batches", batch_id, "cancel"]:
                    batch = self._batches.find(self._owner(request), batch_id)
                    self._batches.cancel(batch)
                    return answer_json(200, batch.document)
            raise CallersFault(404, "unknown_url", f"there is no {request.method} of this")
        except UpstreamFault as fault:
            return answer_fault(fault)

    def _asker(self, request: web.Request) -> Call:
        return asker_of(request, self._call_of)

    def _owner(self, request: web.Request) -> str:
        return self._asker(request).keyed(self._secret)

    def _file(self, request: web.Request, file_id: str) -> File:
        return self._files.find(self._owner(request), file_id)

    # -- files

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        boundary, asker = _boundary_of(request.headers.get("Content-Type", "")), self._asker(request)
        if boundary is None or not self._has_key(asker):
            return await self._forward(request, pieces_of(request))
        form, draft = Form(boundary), self._files.draft(asker.keyed(self._secret))
        # not closed here: the upstream may answer before it has them all, and then they are still being sent
        pieces = pieces_of(request)
        try:
            kept = await self._kept(form, draft, pieces, asker)
            if kept is None:
                return await self._forward(request, _chained(draft, pieces))
            return answer_json(200, kept.document)
        finally:
            draft.discard()

    async def _kept(self, form: Form, draft: Draft, pieces: AsyncIterator[bytes], asker: Call) -> File | None:
        """None where it is not ours, its key is refused, or there is no room for it, which is said once."""
        assert draft.sender is not None
        try:
            if not await self._is_ours(form, draft, pieces, asker):
                return None
            seconds = _seconds(form.values.get("expires_after[seconds]"), "expires_after[seconds]")
            name = form.file_name or "upload"
            return await self._files.keep(draft, draft.sender, PURPOSE, name, part=form.file, seconds=seconds)
        except NoRoom as fault:
            if self._full.setdefault(fault.message, Episode()).begins(time.monotonic()):
                log.warning("batches are left to the upstream, which may take a day: %s", fault.message)
            return None

    async def _is_ours(self, form: Form, draft: Draft, pieces: AsyncIterator[bytes], asker: Call) -> bool:
        """Read until it is known whose file it is; all of it when it is ours. What was read is in the draft.

        The key is tried as soon as it may be ours, and before there is much of it. Raises NoRoom.
        """
        tried = False
        async for piece in pieces:
            await draft.write(piece)
            try:
                form.feed(piece)
            except FormError:
                return False
            purpose = form.values.get("purpose")
            if (purpose is not None and purpose != PURPOSE) or draft.size > MOST_FILE_BYTES:
                return False
            if not tried and (purpose is not None or draft.size >= PIECE_BYTES):
                tried = True
                if await self._refuses(asker):
                    return False
        if not form.ended or form.values.get("purpose") != PURPOSE or form.file is None:
            return False
        await draft.flush()
        begin, end = form.file
        return await asyncio.to_thread(endpoint_of, draft.octets, begin, end - begin) in {None, CHAT}

    # -- batches

    async def _create(self, request: web.Request) -> web.StreamResponse:
        content = b""
        pieces = pieces_of(request)
        async for piece in pieces:
            content += piece
            if len(content) > MOST_REQUEST_BYTES:
                return await self._forward(request, _joined(content, pieces))
        given = _object(content)
        input_id = given.get("input_file_id")
        if not (isinstance(input_id, str) and input_id.startswith(FILE_PREFIX)):
            return await self._forward(request, content)
        asker = self._asker(request)
        source = self._files.find(asker.keyed(self._secret), input_id)
        metadata = _checked(given)
        expires = given.get("output_expires_after")
        kept = expires.get("seconds") if isinstance(expires, dict) else None
        seconds = _seconds(kept, "output_expires_after.seconds")
        return answer_json(200, self._batches.create(source, asker, metadata, seconds).document)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """Ours, the newest first, and behind them the upstream's, as it lists them."""
        after, text = request.query.get("after"), request.query.get("limit", "20")
        valid = re.fullmatch("[0-9]{1,9}", text) is not None and 1 <= int(text) <= MOST_LISTED
        if not valid or (after is not None and not after.startswith(BATCH_PREFIX)):
            return await self._forward(request, None)
        found, more = self._batches.of(self._owner(request), after, int(text))
        if not found and after is None:
            return await self._forward(request, None)
        ours = [one.document for one in found]
        if len(ours) == int(text):
            # there may be some of the upstream's as well: who asks for the next page sees
            return answer_json(200, _page({"object": "list"}, ours, more=True))
        left = {"limit": str(int(text) - len(ours))}
        others = {name: value for name, value in request.query.items() if name not in {"after", "limit"}}
        answer = await self._fetch(request, str(URL.build(path="/batches", query={**others, **left})))
        if answer.status in NO_SUCH_LIST:
            return answer_json(200, _page({"object": "list"}, ours, more=more))
        theirs = _object(answer.content) if answer.ok else {}
        if not isinstance(theirs.get("data"), list):
            return web.Response(status=answer.status, headers=CIMultiDict(answer.fields), body=answer.content)
        return answer_json(200, _page(theirs, [*ours, *theirs["data"]], more=theirs.get("has_more") is True))


def _page(like: Mapping[str, Any], data: list[Any], *, more: bool) -> dict[str, Any]:
    ids = [one.get("id") if isinstance(one, dict) else None for one in data] or [None]
    return {**like, "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": more}


def _checked(given: dict[str, Any]) -> dict[str, str] | None:
    """The metadata of a batch that can be done. Raises UpstreamFault."""
    wanted = {"endpoint": CHAT, "completion_window": WINDOW}
    for name, value in wanted.items():
        if given.get(name) != value:
            message = f"{name} must be {value!r} for this file"
            raise CallersFault(400, "invalid_value", message)
    metadata = given.get("metadata")
    if metadata is None:
        return None
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if not texts or len(metadata) > MOST_METADATA:
        message = f"metadata must be an object of at most {MOST_METADATA} texts"
        raise CallersFault(400, "invalid_value", message)
    return dict(metadata)


def _object(content: bytes) -> dict[str, Any]:
    try:
        given = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return given if isinstance(given, dict) else {}


def _seconds(given: object, name: str) -> float | None:
    """How long a file is to be kept. Raises UpstreamFault."""
    if given is None:
        return None
    text = str(given)
    if not (re.fullmatch("[0-9]{1,9}", text) and FEWEST_SECONDS <= int(text) <= MOST_SECONDS):
        message = f"{name} must be a whole number from {FEWEST_SECONDS} to {MOST_SECONDS}"
        raise CallersFault(400, "invalid_value", message)
    return float(text)


def _boundary_of(content_type: str) -> str | None:
    kind, *parameters = content_type.split(";")
    if kind.strip().lower() != "multipart/form-data":
        return None
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "boundary" and value.strip('"').isascii():
            return value.strip('"') or None
    return None


async def _chained(draft: Draft, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(draft.pieces()) as pieces:
        async for piece in pieces:
            yield piece
    async for piece in rest:
        yield piece


async def _joined(begin: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begin
    async for piece in rest:
        yield piece


async def _content(request: web.Request, file: File) -> web.StreamResponse:
    fields = {"Content-Type": "application/octet-stream", "Content-Length": str(file.size)}
    response = web.StreamResponse(headers=fields)
    with file.octets.opened() as stream:
        await response.prepare(request)
        async with aclosing(read(stream, file.begin, file.size)) as pieces:
            async for piece in pieces:
                await response.write(piece)
    await response.write_eof()
    return response
