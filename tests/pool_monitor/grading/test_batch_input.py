"""What a batch is to ask: a file with a line that is wrong is asked for in no part."""

from __future__ import annotations

import pytest

from pool_monitor.grading.jsons import MOST_VALUES
from tests.pool_monitor.grading.batching import answering, begun, ended, line
from tests.pool_monitor.grading.wrapped import Wrapped


@pytest.fixture
def wrapped(wrapped: Wrapped) -> Wrapped:
    wrapped.upstream.answering = answering
    return wrapped


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"not JSON", "invalid_json_line"),
        (b"[]", "invalid_item"),
        (b'{"method": "POST", "url": "/v1/chat/completions", "body": {}}', "missing_required_parameter"),
        (line(0), "duplicate_custom_id"),
        (line(2, url="/v1/embeddings"), "invalid_url"),
        (line(2, body=None), "invalid_body"),
        (line(2, body={"model": "m", "messages": [[]] * MOST_VALUES}), "too_many_values"),
    ],
)
async def test_one_line_that_is_wrong_fails_the_batch_before_anything_is_asked(
    wrapped: Wrapped, wrong: bytes, code: str
) -> None:
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, b"\n".join([line(0), b"", wrong, line(1)])))
    assert (batch.status, batch.request_counts.completed) == ("failed", 0)
    [error] = batch.errors.data
    assert (error.code, error.line) == (code, 3)
    assert not [asked for asked in wrapped.upstream.asked if asked.method == "POST"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not JSON", b'{"custom_id":"a"}'])
async def test_a_file_without_requests_fails(wrapped: Wrapped, content: bytes) -> None:
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, content))
    assert batch.status == "failed"
    assert batch.errors.data[0].message
