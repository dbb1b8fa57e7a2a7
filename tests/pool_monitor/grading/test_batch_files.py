"""Files of batches: the form in which they arrive, and how they are kept."""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
import threading
from pathlib import Path

import pytest

from pool_monitor.grading.batch_files import Files
from pool_monitor.grading.batch_form import Form, FormError
from tests.pool_monitor.grading.batching import answering, begun, ended, line, lines_of, multipart, theirs
from tests.pool_monitor.grading.wrapped import SAID, Wrapped, says, wrapping


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
    async with wrapping() as wrapped, wrapped.sdk() as sdk:
        for number in range(3):
            await sdk.files.create(file=("a.jsonl", line(number)), purpose="batch")
        assert wrapped.upstream.asked == []
        wrapped.upstream.answering = theirs
        assert (await sdk.files.create(file=("a.jsonl", line(3)), purpose="batch")).id == "file-theirs"


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
