"""Files of batches: the form in which they arrive, and how they are kept."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from aiohttp import web

from pool_monitor.grading import batch_files, serve
from pool_monitor.grading.batch_files import PIECE_BYTES, Files
from pool_monitor.grading.batch_form import Form, FormError
from tests.pool_monitor.grading.batching import answering, begun, ended, line, lines_of, multipart, theirs
from tests.pool_monitor.grading.upstreams import Asked, completion, whole
from tests.pool_monitor.grading.wrapped import SAID, Wrapped, asked_for, says, wrapping
from tests.pool_monitor.support import running_monitor


@pytest.fixture
def wrapped(wrapped: Wrapped) -> Wrapped:
    wrapped.upstream.answering = answering
    return wrapped


@pytest.mark.parametrize("file_first", [False, True])
async def test_a_file_for_a_batch_in_either_order(wrapped: Wrapped, file_first: bool) -> None:
    """The vendor's SDKs differ in it."""
    parts = [("purpose", b"batch"), ("file", line(0))]
    content = multipart(*(reversed(parts) if file_first else parts))
    headers = {"Content-Type": 'multipart/form-data; boundary="xyz"', "Authorization": "Bearer k"}
    async with wrapped.monitor.session.post("/v1/files", data=content, headers=headers) as answer:
        told = await answer.json()
    assert (told["bytes"], told["filename"]) == (len(line(0)), "f.bin")
    assert wrapped.upstream.asked == []


async def test_what_is_on_disk_has_no_name_there(
    wrapped: Wrapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing is left of it however the process ends: SIGKILL, no memory, no power."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, line(0)))
        assert len(await lines_of(sdk, batch.output_file_id)) == 1
        assert os.listdir(tmp_path) == []
        for file in wrapped.monitor.monitor.grading._files._files.values():
            with file.octets.opened() as stream:
                assert os.fstat(stream.fileno()).st_nlink == 0


async def test_who_leaves_while_it_is_written_uses_up_no_room() -> None:
    files = Files(wall=lambda: 0.0)
    draft = files.draft()
    await draft.write(b"x")
    begins, go = threading.Event(), threading.Event()

    def slowly(*_: object) -> None:
        begins.set()
        go.wait(10)

    draft.octets.write = slowly  # type: ignore[method-assign,assignment]
    flushing = asyncio.create_task(draft.flush())
    await asyncio.to_thread(begins.wait, 10)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    go.set()
    draft.discard()
    assert files.bytes == 0


async def test_no_descriptor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with wrapping() as wrapped:
        wrapped.upstream.answering = says(SAID)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        async with wrapped.sdk() as sdk:
            files = wrapped.monitor.monitor.grading._files
            await ended(sdk, await begun(sdk, line(0)))
            octets = [one.octets for one in files._files.values()]
            assert len(octets) == 2
    for one in octets:
        with pytest.raises(ValueError, match="closed"):
            one.opened()


async def test_files_take_no_more_than_a_part_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (12, 12))
    async with wrapping() as wrapped:
        for number in range(3):
            await sent(wrapped, line(number), f"sk-{number}")
        assert wrapped.upstream.asked == []
        wrapped.upstream.answering = theirs
        assert await sent(wrapped, line(3), "sk-3") == "file-theirs"


# -- where there is no room


async def sent(wrapped: Wrapped, content: bytes, key: str = "sk-one") -> str:
    async with wrapped.sdk(key) as sdk:
        file = await sdk.files.create(file=("a.jsonl", content), purpose="batch")
    return str(file.id)


async def test_one_caller_does_not_take_all_the_room(wrapped: Wrapped, caplog: pytest.LogCaptureFixture) -> None:
    files = wrapped.monitor.monitor.grading._files
    files._budget, large = 30_000, line(0) + b" " * 6_000
    wrapped.upstream.answering = theirs
    first = await sent(wrapped, large)
    assert first.startswith("file-siding-")
    assert await sent(wrapped, large) == await sent(wrapped, large) == "file-theirs"
    assert (await sent(wrapped, large, "sk-two")).startswith("file-siding-")
    # there was room for another meanwhile: it is no news all the same
    assert await sent(wrapped, large) == "file-theirs"
    assert [record.message for record in caplog.records] == [
        "batches are left to the upstream, which may take a day: "
        "there is no room for files of batches: 15000 bytes are one caller's"
    ]
    # what was removed makes room again
    async with wrapped.sdk() as sdk:
        await sdk.files.delete(first)
    assert (await sent(wrapped, large)).startswith("file-siding-")


async def test_nor_all_the_places(wrapped: Wrapped) -> None:
    files = wrapped.monitor.monitor.grading._files
    files._most = 4
    wrapped.upstream.answering = theirs
    assert [(await sent(wrapped, line(0)))[:11] for _ in range(3)] == ["file-siding", "file-siding", "file-theirs"]
    assert (await sent(wrapped, line(0), "sk-two")).startswith("file-siding-")
    # whose files are gone is not remembered
    await files.close()
    assert (files.bytes, files._on_disk, files._sent) == (0, 0, {})


async def test_answers_find_the_room_that_callers_leave() -> None:
    files = Files(wall=lambda: 0.0, budget=100, most=1)
    draft = files.draft()
    await draft.write(b"x" * 100)
    assert (await files.keep(draft, "one", "batch_output", "a")).size == 100
    await files.close()


async def test_a_full_disk_is_told_and_the_upstream_does_the_batch(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    wrapped.upstream.answering = theirs
    assert await sent(wrapped, line(0)) == "file-theirs"
    assert b"hw-0" in wrapped.upstream.asked[0].content
    assert caplog.messages == [
        "batches are left to the upstream, which may take a day: there is no room for files of batches: "
        "No space left on device, where temporary files go (TMPDIR)"
    ]
    assert wrapped.monitor.monitor.grading._files.bytes == 0


async def test_answers_without_room_fail_the_batch_and_say_why(
    wrapped: Wrapped, caplog: pytest.LogCaptureFixture
) -> None:
    files = wrapped.monitor.monitor.grading._files
    async with wrapped.sdk() as sdk:
        file = await sent(wrapped, line(0) + b"\n" + line(1, body=asked_for(stream=True)))
        files._budget = files.bytes
        wanted: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await ended(sdk, await sdk.batches.create(input_file_id=file, **wanted))
    assert (batch.status, [one.code for one in batch.errors.data]) == ("failed", ["storage_full"])
    assert (batch.request_counts.completed, batch.request_counts.failed, batch.request_counts.total) == (0, 2, 2)
    assert "bytes are in use" in batch.errors.data[0].message
    assert [record.exc_info for record in caplog.records] == [None]
    # an answer that cannot be kept is not paid for
    assert wrapped.upstream.asked == []


async def test_for_errors_that_there_are_not_no_room_is_needed(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, left = batch_files._nameless, 2

    def few() -> BinaryIO:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return make()

    monkeypatch.setattr(batch_files, "_nameless", few)
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, line(0)))
    assert (batch.status, batch.errors, left) == ("completed", None, 0)


def says_much(octets: int) -> Any:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion("x" * octets))

    return answering


async def ended_early(wrapped: Wrapped, sdk: Any, lines: int) -> tuple[Any, list[Any], list[Any]]:
    """A batch of so many lines about jokes, and the lines of both of its files."""
    joke = asked_for("Tell a joke.", temperature=1)
    batch = await ended(sdk, await begun(sdk, b"\n".join(line(number, body=joke) for number in range(lines))))
    good = await lines_of(sdk, batch.output_file_id) if batch.output_file_id else []
    bad = await lines_of(sdk, batch.error_file_id) if batch.error_file_id else []
    assert (batch.request_counts.completed, len({one["custom_id"] for one in good})) == (len(good), len(good))
    assert batch.request_counts.completed + batch.request_counts.failed == batch.request_counts.total == lines
    return batch, good, bad


async def test_an_answer_too_large_for_the_room_that_is_left_has_its_line(wrapped: Wrapped) -> None:
    files = wrapped.monitor.monitor.grading._files
    files._budget = 1_600_000
    wrapped.upstream.answering = says_much(400_000)
    async with wrapped.sdk() as sdk:
        batch, good, bad = await ended_early(wrapped, sdk, 40)
    assert (batch.status, len(good) > 0) == ("completed", True)
    assert {one["custom_id"] for one in good + bad} == {f"hw-{number}" for number in range(40)}
    codes = [one["error"]["code"] for one in bad]
    assert set(codes) == {"storage_full", "batch_failed"}
    assert len(good) + codes.count("storage_full") == len(wrapped.upstream.asked)
    await files.close()
    assert (files.bytes, files._on_disk) == (0, 0)


@pytest.mark.parametrize("octets", [100, 10_000, 60_000])
async def test_room_that_ends_meanwhile_takes_no_answer_away(
    wrapped: Wrapped, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, octets: int
) -> None:
    """Nor does it stop the rest without a word, nor is more used than there is."""
    files, most, add = wrapped.monitor.monitor.grading._files, 0, Files._add

    def adding(self: Files, *args: Any, **more: Any) -> None:
        nonlocal most
        add(self, *args, **more)
        most = max(most, self.bytes)

    monkeypatch.setattr(Files, "_add", adding)
    files._budget = 2_600_000
    wrapped.upstream.answering = says_much(octets)
    lines = 60 if octets > 1000 else 1200
    async with wrapped.sdk() as sdk:
        batch, good, bad = await ended_early(wrapped, sdk, lines)
        assert most <= files._budget
        assert batch.status == "completed"
        whole_batch = len(good) == lines
        assert whole_batch is (octets < 60_000)
        if not whole_batch:
            codes = [one["error"]["code"] for one in bad]
            # whoever was asked is among them, but for answers on their way that are too large for the room that is left
            assert len(good) + codes.count("storage_full") == len(wrapped.upstream.asked)
            assert len(good) > 0
            assert [one.code for one in batch.errors.data] == ["storage_full"]
            assert set(codes) <= {"batch_failed", "storage_full"}
            assert len(good) + len(bad) == lines
            assert len([one for one in caplog.messages if "a batch ends before its end" in one]) == 1
        for file_id in (batch.input_file_id, batch.output_file_id, *([batch.error_file_id] if bad else [])):
            await sdk.files.delete(file_id)
    assert (files.bytes, files._on_disk) == (0, 0)


@pytest.mark.parametrize("places", [0, 1, 2])
async def test_a_batch_has_the_places_of_its_answers_before_it_asks(wrapped: Wrapped, places: int) -> None:
    files = wrapped.monitor.monitor.grading._files
    wrapped.upstream.answering = answering
    async with wrapped.sdk() as sdk:
        file = await sent(wrapped, line(0))
        files._most = files._on_disk + places
        wanted: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await ended(sdk, await sdk.batches.create(input_file_id=file, **wanted))
    assert batch.status == ("completed" if places == 2 else "failed")
    assert len(wrapped.upstream.asked) == (1 if places == 2 else 0)
    assert files._on_disk == (2 if places == 2 else 1)


@pytest.mark.parametrize("after", [0, 1_000_000])
async def test_a_disk_that_is_full_meanwhile_takes_only_what_is_not_on_it(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    write, left = os.pwrite, after

    def filling(descriptor: int, octets: memoryview, at: int) -> int:
        nonlocal left
        if b"batch_req_siding" in bytes(octets):
            left -= len(octets)
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, octets, at)

    monkeypatch.setattr(os, "pwrite", filling)
    wrapped.upstream.answering = says_much(20_000)
    async with wrapped.sdk() as sdk:
        batch, good, _ = await ended_early(wrapped, sdk, 200)
        assert batch.status == ("completed" if after else "failed")
        assert [one.code for one in batch.errors.data] == ["storage_full"]
        assert "No space left on device" in batch.errors.data[0].message
        assert (len(good) > 0) is (after > 0)
        assert len(wrapped.upstream.asked) < 200
    assert [record.exc_info for record in caplog.records] == [None]
    files = wrapped.monitor.monitor.grading._files
    assert files._on_disk == len(files)
    await files.close()
    assert files.bytes == 0


@pytest.mark.parametrize(
    ("fields", "ours", "taken"),
    [
        ({}, {}, False),
        ({"Authorization": ""}, {}, False),
        ({"OpenAI-Project": "p"}, {}, False),
        ({"X-Api-Key": "k"}, {}, True),
        ({}, {"grading_api_key": "sk-ours"}, True),
        # with which ours does not go
        ({"Authorization": ""}, {"grading_api_key": "sk-ours"}, False),
    ],
)
async def test_of_who_has_no_key_nothing_is_written(fields: dict[str, str], ours: dict[str, str], taken: bool) -> None:
    """The upstream refuses it in its own words."""

    async def refusing(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"error": {"message": "You didn't provide an API key.", "code": None}}, 401)

    content = multipart(("purpose", b"batch"), ("file", line(0)))
    headers = {"Content-Type": "multipart/form-data; boundary=xyz", **fields}
    async with wrapping(**ours) as wrapped:
        wrapped.upstream.answering = refusing
        async with wrapped.monitor.session.post("/v1/files", data=content, headers=headers) as answer:
            assert (answer.status, "error" in await answer.json()) == ((200, False) if taken else (401, True))
        assert [asked.content for asked in wrapped.upstream.asked] == ([] if taken else [content])
        assert len(wrapped.monitor.monitor.grading._files) == taken


@pytest.mark.parametrize("size", [10, 3 * PIECE_BYTES])
@pytest.mark.parametrize("file_first", [False, True])
@pytest.mark.parametrize("status", [401, 403])
async def test_of_whose_key_is_refused_nothing_is_kept(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch, size: int, file_first: bool, status: int
) -> None:
    """The upstream refuses it in its own words, and where it does not, has the file."""
    written, write = 0, os.pwrite

    def writing(descriptor: int, octets: memoryview, at: int) -> int:
        nonlocal written
        written += len(octets)
        return write(descriptor, octets, at)

    async def refusing(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}, 401)

    monkeypatch.setattr(os, "pwrite", writing)
    wrapped.upstream.answering, wrapped.upstream.tells = refusing, status
    parts = [("purpose", b"batch"), ("file", line(0) + b" " * size)]
    content = multipart(*(reversed(parts) if file_first else parts))
    headers = {
        "Content-Type": "multipart/form-data; boundary=xyz",
        "Authorization": "Bearer sk-wrong",
        "Idempotency-Key": "of-the-upload",
    }
    async with wrapped.monitor.session.post("/v1/files", data=content, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (401, "invalid_api_key")
    assert [asked.content for asked in wrapped.upstream.asked] == [content]
    [tried] = wrapped.upstream.tried
    assert (tried.method, tried.path) == ("POST", "/v1/chat/completions")
    fields = dict(tried.fields)
    assert (fields["Authorization"], "Idempotency-Key" in fields) == ("Bearer sk-wrong", False)
    files = wrapped.monitor.monitor.grading._files
    assert (len(files), files.bytes) == (0, 0)
    # of a long one not more than the first piece
    assert written < 2 * PIECE_BYTES


@pytest.mark.parametrize("status", [200, 400, 404, 422, 429, 500, 503])
async def test_who_is_not_refused_is_served(wrapped: Wrapped, status: int) -> None:
    wrapped.upstream.tells = status
    assert (await sent(wrapped, line(0))).startswith("file-siding-")


@pytest.mark.parametrize(("status", "told"), [(200, "tried"), (400, "tried"), (401, "tried"), (500, "error")])
async def test_a_key_that_is_tried_is_no_request_that_failed(wrapped: Wrapped, status: int, told: str) -> None:
    wrapped.upstream.tells, wrapped.upstream.answering = status, theirs
    await sent(wrapped, line(0))
    counted = {how: wrapped.metric("siding_grading_forwarded_seconds_count", outcome=how) for how in ("tried", "error")}
    assert counted == {"tried": 0, "error": 0, told: 1}


async def test_an_upstream_that_is_silent_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(serve, "TRIED_SECONDS", 0.01)
    headers = {"Content-Type": "multipart/form-data; boundary=xyz", "Authorization": "Bearer k"}
    content = multipart(("purpose", b"batch"), ("file", line(0)))
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with (
            running_monitor(None, grading_upstream_url=url) as monitor,
            monitor.session.post("/v1/files", data=content, headers=headers) as answer,
        ):
            assert (await answer.json())["id"].startswith("file-siding-")


# -- the form, as it arrives


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_form_is_read_however_it_arrives(size: int) -> None:
    file = b"\r\n--xy\r\n\r\n--xy-z"
    content = multipart(("purpose", b"batch"), ("file", file), ("expires_after[seconds]", b"60"))
    form = Form("xyz")
    for at in range(0, len(content), size):
        form.feed(content[at : at + size])
    assert form.ended
    assert form.values == {"purpose": "batch", "expires_after[seconds]": "60"}
    assert form.file is not None
    assert content[slice(*form.file)] == file


@pytest.mark.parametrize(
    "content",
    [
        b"--xyzjunk\r\n",
        b"--xyz\r\n\r\n\r\nno name",
        b"--xyz\r\n" + b"x" * 20_000,
        multipart(("a", b"1"), ("a", b"2")),
        multipart(("a", b"x" * 5000)),
        multipart(*((f"n{number}", b"") for number in range(200))),
    ],
)
def test_what_is_no_form(content: bytes) -> None:
    form = Form("xyz")
    with pytest.raises(FormError):
        form.feed(content)
