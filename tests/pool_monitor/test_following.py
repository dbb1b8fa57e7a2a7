"""What is followed is followed again, and a fault is told when it begins."""

from __future__ import annotations

import asyncio

import pytest

from pool_monitor.following import Following
from tests.support import PATIENCE


class Followed(Following):
    """Goes through `story`: a fault is raised, None is a moment in which it works."""

    def __init__(self, story: list[Exception | None]) -> None:
        super().__init__("the weather", 0.0)
        self.story = story
        self.over = asyncio.Event()

    async def follow(self) -> None:
        while self.story:
            fault = self.story.pop(0)
            if fault is not None:
                raise fault
            self.works()
        self.over.set()
        await asyncio.Event().wait()


async def test_each_fault_is_told_once_and_again_after_it_was_over(caplog: pytest.LogCaptureFixture) -> None:
    refused = OSError("refused\nand more")
    with caplog.at_level("INFO", "siding.following"):
        followed = Followed([None, refused, refused, TimeoutError(), refused, None, None, refused, None])
        followed.start()
        async with asyncio.timeout(PATIENCE):
            await followed.over.wait()
        await followed.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the weather cannot be read: refused",
        "the weather cannot be read: no answer in time",
        "the weather can be read again",
        "the weather cannot be read: refused",
        "the weather can be read again",
    ]
    await followed.close()


async def test_what_is_no_fault_of_the_connection_ends_it() -> None:
    followed = Followed([RuntimeError("ours")])
    followed.start()
    assert followed._task is not None
    await asyncio.wait([followed._task], timeout=PATIENCE)
    assert isinstance(followed._task.exception(), RuntimeError)
    await followed.close()
