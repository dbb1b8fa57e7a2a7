"""Files of batches: on disk, private to their owner and to this process, gone after a day and when it ends."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pool_monitor.grading.calls import UpstreamFault

FILE_PREFIX = "file-siding-"
BUDGET_BYTES = 2 * 1024**3
KEEP_SECONDS = 86_400.0
SWEEP_SECONDS = 300.0
PIECE_BYTES = 256 * 1024
MOST_FILES = 10_000


class FolderError(OSError):
    """There is no place for files of batches; `strerror` says why, and what to do about it."""


def new_id(prefix: str) -> str:
    """Unguessable."""
    return prefix + secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class File:
    """Octets `begin` to `begin + size` of what is at `path`. Times in seconds since 1970."""

    id: str
    owner: str
    purpose: str
    name: str
    path: Path
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
    """What is being written; on disk only when it is more than a piece, or kept."""

    def __init__(self, path: Path, reserve: Callable[[int], None]) -> None:
        self.path = path
        self._reserve = reserve
        self._buffer = bytearray()
        self._written = 0
        self._lock = asyncio.Lock()

    @property
    def size(self) -> int:
        """Octets."""
        return self._written + len(self._buffer)

    async def write(self, content: bytes) -> None:
        """At the end. Raises UpstreamFault when the budget is used up, or the disk."""
        self._buffer += content
        if len(self._buffer) >= PIECE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """To disk. Raises UpstreamFault."""
        async with self._lock:
            content = bytes(self._buffer)
            self._reserve(len(content))
            try:
                await asyncio.to_thread(_append, self.path, content)
            except OSError as fault:
                self._reserve(-len(content))
                raise _full(f"it cannot be written: {fault.strerror}") from fault
            del self._buffer[: len(content)]
            self._written += len(content)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it."""
        if self._written:
            async with aclosing(read(self.path, 0, self._written)) as pieces:
                async for piece in pieces:
                    yield piece
        if self._buffer:
            yield bytes(self._buffer)

    async def discard(self) -> None:
        """Remove what is on disk."""
        async with self._lock:
            self._buffer.clear()
            if self._written:
                await asyncio.to_thread(self.path.unlink, missing_ok=True)
                self._reserve(-self._written)
                self._written = 0

    def given_up(self) -> int:
        """What it has reserved, which is another's from now on."""
        written, self._written = self._written, 0
        return written


def _append(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)


async def read(path: Path, begin: int, size: int) -> AsyncGenerator[bytes, None]:
    """Octets of a file, piece by piece. Raises OSError."""
    with open_for_reading(path) as file:
        while size > 0 and (piece := os.pread(file.fileno(), min(size, PIECE_BYTES), begin)):
            yield piece
            begin += len(piece)
            size -= len(piece)


def open_for_reading(path: Path) -> BinaryIO:
    """Read it on the event loop: it was written a short while ago, and a thread could outlive whoever closes it."""
    return cast(BinaryIO, path.open("rb", buffering=0))


def _full(message: str) -> UpstreamFault:
    return UpstreamFault(507, "storage_full", f"there is no room for files of batches: {message}")


class Files:
    """See the module. folder -- where a private one is made; None: where temporary files go. wall -- since 1970."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        folder: Path | None = None,
        budget: int = BUDGET_BYTES,
        keep_seconds: float = KEEP_SECONDS,
        most: int = MOST_FILES,
    ) -> None:
        self._wall = wall
        self._parent = folder
        self._budget = budget
        self._most = most
        self.keep_seconds = keep_seconds
        self._files: dict[str, File] = {}
        self._sizes: dict[Path, int] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self.bytes = 0
        self.folder: Path

    def __len__(self) -> int:
        return len(self._files)

    async def start(self) -> None:
        """Make the folder. Raises FolderError."""
        try:
            self.folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="siding-batches-", dir=self._parent))
        except OSError as fault:
            advice = "free some space, or set TMPDIR to a folder that can be written"
            why = f"no folder for files of batches can be made: {fault.strerror}; {advice}"
            raise FolderError(fault.errno, why) from fault
        self._sweeper = asyncio.create_task(self._sweep_on())

    async def close(self) -> None:
        """Remove everything."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        self._files.clear()

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._sweep()

    def _sweep(self) -> None:
        now = self._wall()
        for file in [one for one in self._files.values() if one.expires <= now]:
            self.remove(file)

    def draft(self) -> Draft:
        """Something to write to. Discard or keep it."""
        return Draft(self.folder / secrets.token_hex(16), self._reserve)

    def _reserve(self, size: int) -> None:
        if size > 0 and self.bytes + size > self._budget:
            self._sweep()
            if self.bytes + size > self._budget:
                raise _full(f"{self._budget} bytes are in use")
        self.bytes += size

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
        """A file of what was written, or of a part of it, for so many seconds at most. Raises UpstreamFault."""
        if len(self._files) >= self._most:
            self._sweep()
            if len(self._files) >= self._most:
                raise _full(f"there are {self._most} files")
        await draft.flush()
        begin, end = part if part is not None else (0, draft.size)
        now = self._wall()
        keep = min(self.keep_seconds, seconds) if seconds is not None else self.keep_seconds
        path = draft.path
        file = File(new_id(FILE_PREFIX), owner, purpose, name, path, begin, end - begin, now, now + keep)
        self._sizes[path] = draft.given_up()
        self._files[file.id] = file
        return file

    def find(self, owner: str, file_id: str) -> File:
        """Raises UpstreamFault (404): there is none, or it is another's."""
        file = self._files.get(file_id)
        if file is not None and file.expires <= self._wall():
            self.remove(file)
            file = None
        if file is None or file.owner != owner:
            raise UpstreamFault(404, "file_not_found", f"No such File object: {file_id}", "invalid_request_error")
        return file

    def remove(self, file: File) -> None:
        """Now. Who reads it already reads on."""
        if self._files.pop(file.id, None) is not None:
            self.bytes -= self._sizes.pop(file.path)
            with suppress(OSError):
                file.path.unlink()
