"""Files of batches: on disk, private to their owner and to this process, gone after a day and when it ends.

They have no name in any folder, so that nothing is left of them however the process ends.
"""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from config.tasks import end
from pool_monitor.grading.calls import CallersFault, UpstreamFault

if sys.platform != "win32":  # which has no such limit
    import resource

FILE_PREFIX = "file-siding-"
BUDGET_BYTES = 2 * 1024**3
KEEP_SECONDS = 86_400.0
SWEEP_SECONDS = 300.0
PIECE_BYTES = 256 * 1024
MOST_FILES = 10_000
DESCRIPTORS_SHARE = 4
"""Each file takes a descriptor: no more than this part of those that the process may have."""
SENDERS_SHARE = 2
"""What one caller sends takes no more than this part of the room: others find some, and so do answers."""


class NoRoom(UpstreamFault):
    """Nothing more can be kept (507). Its message says why."""

    def __init__(self, why: str) -> None:
        super().__init__(507, "storage_full", f"there is no room for files of batches: {why}")


class FolderError(OSError):
    """There is no place for files of batches; `strerror` says why, and what to do about it."""


def new_id(prefix: str) -> str:
    """Unguessable."""
    return prefix + secrets.token_hex(16)


class Octets:
    """What is on disk under no name, until whoever holds it has closed it.

    freed -- called when nobody holds it any more.
    """

    def __init__(self) -> None:
        self._stream: BinaryIO | None = None
        self._holders = 1
        self._lock = threading.Lock()
        self.freed: Callable[[], None] = lambda: None

    def hold(self) -> None:
        """Keep it until it was closed once more; who only waits takes no descriptor."""
        with self._lock:
            self._holders += 1

    def write(self, content: bytes, at: int) -> None:
        """In a thread, which may outlive whoever waits for it, and closes this. Raises OSError."""
        with self._lock:
            if not self._holders:
                return
            if self._stream is None:
                self._stream = _nameless()
            left = memoryview(content)
            while left:
                written = os.pwrite(self._stream.fileno(), left, at)
                left, at = left[written:], at + written

    def opened(self) -> BinaryIO:
        """To be read by position, and closed, by somebody else. Raises OSError; ValueError when it is gone."""
        with self._lock:
            return os.fdopen(os.dup(self._stream.fileno() if self._stream is not None else -1), "rb", buffering=0)

    def close(self) -> None:
        """It is gone when everyone has. Who has opened it reads on."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            if self._stream is not None:
                self._stream.close()
        self.freed()


def _nameless() -> BinaryIO:
    return tempfile.TemporaryFile(prefix="siding-batches-", buffering=0)


@dataclass(frozen=True, slots=True)
class File:
    """Octets `begin` to `begin + size` of these. Times in seconds since 1970."""

    id: str
    owner: str
    purpose: str
    name: str
    octets: Octets
    begin: int
    size: int
    created: float
    expires: float

    @property
    def document(self) -> dict[str, Any]:
        """As OpenAI's API tells it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": int(self.created),
            "expires_at": int(self.expires),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Draft:
    """What is being written; on disk only when it is more than a piece, or kept. sender -- as given to Files.draft.

    reserve -- so many octets, and files. ending -- what was set aside may be used.
    """

    def __init__(self, reserve: Callable[[int, int], None], sender: str | None) -> None:
        self.octets = Octets()
        self.sender = sender
        self._reserve = reserve
        self._buffer = bytearray()
        self._written = 0
        self._kept = False
        self._lock = asyncio.Lock()
        self._aside = 0
        self.places = 0
        self.ending = False

    @property
    def size(self) -> int:
        """Octets."""
        return self._written + len(self._buffer)

    def set_aside(self, size: int) -> None:
        """Room for so many octets at the end, and for a file of them. Raises NoRoom."""
        self._reserve(size, 1)
        self._aside, self.places = size, 1

    async def write(self, content: bytes) -> None:
        """At the end. Raises NoRoom when the budget is used up, or the disk; then it is still held."""
        self._buffer += content
        if len(self._buffer) >= PIECE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """To disk. Raises NoRoom."""
        async with self._lock:
            content = bytes(self._buffer)
            if not content:
                # it would take a descriptor for nothing, or be told that there is none
                return
            aside = min(self._aside, len(content)) if self.ending else 0
            self._reserve(len(content) - aside, 0)
            self._aside -= aside
            try:
                await asyncio.to_thread(self.octets.write, content, self._written)
            except BaseException as fault:
                # also where whoever sends it leaves meanwhile
                self._reserve(aside - len(content), 0)
                self._aside += aside
                if isinstance(fault, OSError):
                    raise NoRoom(f"{fault.strerror}, where temporary files go (TMPDIR)") from fault
                raise
            del self._buffer[: len(content)]
            self._written += len(content)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it."""
        if self._written:
            with self.octets.opened() as stream:
                async with aclosing(read(stream, 0, self._written)) as pieces:
                    async for piece in pieces:
                        yield piece
        if self._buffer:
            yield bytes(self._buffer)

    def without_rest(self) -> bytes:
        """What is not on disk, and is no longer to go there."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def discard(self) -> None:
        """Remove what is on disk, unless a file was made of it. At once: whoever does may have been given up."""
        self._buffer.clear()
        if not self._kept:
            self.octets.close()
        self._reserve(-self.given_up(), 0)

    def given_up(self) -> int:
        """What it has written, whose room is another's from now on."""
        self._kept = True
        self._reserve(-self._aside, -self.places)
        written, self._written, self._aside, self.places = self._written, 0, 0, 0
        return written


async def read(stream: BinaryIO, begin: int, size: int) -> AsyncGenerator[bytes, None]:
    """Octets of what was opened, piece by piece. Raises OSError.

    On the event loop: they were written a short while ago, and a thread could outlive whoever closes the stream.
    """
    while size > 0 and (piece := os.pread(stream.fileno(), min(size, PIECE_BYTES), begin)):
        yield piece
        begin += len(piece)
        size -= len(piece)


class _Part(io.RawIOBase):
    """Octets of what was opened as a stream of their own: streams that were opened together share their position."""

    def __init__(self, stream: BinaryIO, begin: int, size: int) -> None:
        self._stream = stream
        self._at = begin
        self._end = begin + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = os.pread(self._stream.fileno(), min(len(buffer), self._end - self._at), self._at)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def lines_of(stream: BinaryIO, begin: int, size: int) -> io.BufferedReader:
    """The same, line by line."""
    return io.BufferedReader(_Part(stream, begin, size), PIECE_BYTES)


class Files:
    """See the module. wall -- since 1970. keep_seconds -- the longest that one is kept."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        budget: int = BUDGET_BYTES,
        most: int = MOST_FILES,
    ) -> None:
        self._wall = wall
        self._budget = budget
        self._most = most
        self.keep_seconds = KEEP_SECONDS
        self._files: dict[str, File] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._on_disk = 0
        self._sent: dict[str, tuple[int, int]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._files)

    async def start(self) -> None:
        """See whether there is a place for them. Raises FolderError."""
        try:
            await asyncio.to_thread(lambda: _nameless().close())
        except OSError as fault:
            advice = "free some space, or set TMPDIR to a folder that can be written"
            why = f"no folder for files of batches can be made: {fault.strerror}; {advice}"
            raise FolderError(fault.errno, why) from fault
        self._most = min(self._most, _descriptors() // DESCRIPTORS_SHARE)
        self._sweeper = asyncio.create_task(self._sweep_on())

    async def close(self) -> None:
        """Remove everything."""
        await end([self._sweeper])
        for file in list(self._files.values()):
            self.remove(file)

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._sweep()

    def _sweep(self) -> None:
        now = self._wall()
        for file in [one for one in self._files.values() if one.expires <= now]:
            self.remove(file)

    def draft(self, sender: str | None = None) -> Draft:
        """Something to write to. Discard or keep it. sender -- the owner of what a caller sends; None: it is ours."""
        return Draft(partial(self._reserve, sender), sender)

    def _reserve(self, sender: str | None, size: int, files: int) -> None:
        if size > 0:
            self._check(sender, size=size, files=files)
        self._add(sender, size=size, files=files)

    def _add(self, sender: str | None, *, size: int, files: int = 0) -> None:
        """So many more are there, or fewer."""
        self.bytes += size
        self._on_disk += files
        if sender is not None:
            bytes_, number = self._sent.pop(sender, (0, 0))
            if (left := (bytes_ + size, number + files)) != (0, 0):
                self._sent[sender] = left

    def _check(self, sender: str | None, *, size: int = 0, files: int = 0) -> None:
        """Raises NoRoom where so many more are too many."""
        if self._why_not(sender, size, files) is not None:
            self._sweep()
            if (why := self._why_not(sender, size, files)) is not None:
                raise NoRoom(why)

    def _why_not(self, sender: str | None, size: int, files: int) -> str | None:
        if self.bytes + size > self._budget:
            return f"{self._budget} bytes are in use"
        if self._on_disk + files > self._most:
            return f"there are {self._most} files"
        if sender is None:
            return None
        bytes_, number = self._sent.get(sender, (0, 0))
        if bytes_ + size > self._budget // SENDERS_SHARE:
            return f"{self._budget // SENDERS_SHARE} bytes are one caller's"
        if number + files > self._most // SENDERS_SHARE:
            return f"{self._most // SENDERS_SHARE} files are one caller's"
        return None

    async def keep(
        self,
        draft: Draft,
        owner: str,
        purpose: str,
        name: str,
        *,
        part: tuple[int, int] | None = None,
        seconds: float | None = None,
    ) -> File:
        """A file of what was written, or of a part of it, for so many seconds at most. Raises NoRoom."""
        self._check(draft.sender, files=1 - draft.places)
        await draft.flush()
        begin, end = part if part is not None else (0, draft.size)
        now = self._wall()
        keep = min(self.keep_seconds, seconds) if seconds is not None else self.keep_seconds
        file = File(new_id(FILE_PREFIX), owner, purpose, name, draft.octets, begin, end - begin, now, now + keep)
        size = draft.given_up()
        self._add(draft.sender, size=0, files=1)
        file.octets.freed = lambda: self._add(draft.sender, size=-size, files=-1)
        self._files[file.id] = file
        return file

    def find(self, owner: str, file_id: str) -> File:
        """Raises UpstreamFault (404): there is none, or it is another's."""
        file = self._files.get(file_id)
        if file is not None and file.expires <= self._wall():
            self.remove(file)
            file = None
        if file is None or file.owner != owner:
            raise CallersFault(404, "file_not_found", f"No such File object: {file_id}")
        return file

    def remove(self, file: File) -> None:
        """Now. Who reads it already reads on, and who holds it will."""
        if self._files.pop(file.id, None) is not None:
            file.octets.close()


def _descriptors() -> int:
    """How many the process may have."""
    if sys.platform == "win32":
        return MOST_FILES * DESCRIPTORS_SHARE
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES * DESCRIPTORS_SHARE if soft == resource.RLIM_INFINITY else soft
