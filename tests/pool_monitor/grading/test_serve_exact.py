"""Of a request only the prompt is another, and of an answer only the text: the rest stays as it came."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from aiohttp import web

from pool_monitor.grading import sse
from pool_monitor.grading.calls import CHAT
from tests.pool_monitor.grading.batching import begun, ended, line
from tests.pool_monitor.grading.samples import pretty
from tests.pool_monitor.grading.upstreams import COMPACT, ORIGINAL, Asked, chunks, completion, streamed
from tests.pool_monitor.grading.wrapped import AFTER, BEFORE, FULL, IMAGE, SAID, Wrapped, together, wrapping

JSON = {"Content-Type": "application/json"}
ODD = (
    b'"a": 18446744073709551617 ,"b":0.1000000000000000055511151231257827,"c":-0.0, "d":1.10,"e":[1E5 , 1e-400],'
    b'"f":{"k":1 ,"k" : 2},"a":12345678901234567890123,"z\\u00e9\\/":"\\u00fc\\/"'
)
"""What JSON may say, and is lost, or spelt anew, where it is read and written."""


def text(said: str) -> bytes:
    return orjson.dumps(said)


def request(prompt: str, more: bytes = ODD) -> bytes:
    """With white space but where something changes: there it may get lost."""
    said = b'{"type" : "text", "n":18446744073709551617,\n "text":' + text(BEFORE + prompt + AFTER) + b"}"
    parts = b"[" + said + b"," + orjson.dumps(IMAGE) + b"]"
    return b'{ "model":"m",\t"messages":[{"role": "user" ,"content":' + parts + b"}], " + more + b"}"


def answer(said: str) -> bytes:
    """Likewise."""
    message = b'{"role": "assistant" , "content":' + text(said) + b", " + ODD + b"}"
    return b'{"id":"i", "choices":[{"index" : 0,"message":' + message + b', "finish_reason": "stop" }], ' + ODD + b"}"


async def sent(wrapped: Wrapped, content: bytes, target: str = CHAT) -> bytes:
    async with wrapped.monitor.session.post(target, data=content, headers=JSON) as got:
        assert got.status == 200
        return await got.read()


def octets(content: bytes) -> Any:
    async def answering(asked: Asked, _: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type="application/json")

    return answering


async def test_of_a_request_only_the_prompt_is_another(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = octets(answer(SAID))
    await sent(wrapped, request(ORIGINAL))
    [asked] = wrapped.upstream.asked
    assert asked.content == request(COMPACT)


async def test_of_a_request_whose_images_have_less_detail_the_rest_stays() -> None:
    async with wrapping(grading_image_detail="low") as wrapped:
        wrapped.upstream.answering = octets(answer(SAID))
        await sent(wrapped, request(ORIGINAL))
        [asked] = wrapped.upstream.asked
        assert asked.content == request(COMPACT).replace(b'"high"', b'"low"')


async def test_a_request_that_is_asked_again_is_so_as_it_came(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = octets(answer("no JSON"))
    await sent(wrapped, request(ORIGINAL))
    assert [asked.content for asked in wrapped.upstream.asked[1:]] == [request(ORIGINAL)]


async def test_of_an_answer_only_the_text_is_another(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = octets(answer(SAID))
    assert await sent(wrapped, request(ORIGINAL)) == answer(pretty(FULL))


@pytest.mark.parametrize("stream", [False, True])
async def test_of_texts_that_are_there_twice_none_stays_compact(wrapped: Wrapped, stream: bool) -> None:
    """Some read the first one."""
    twice = b'"content":' + text(SAID)

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if stream:
            return await streamed(request, [event.replace(twice, twice + b"," + twice) for event in chunks([SAID])])
        return web.Response(body=answer(SAID).replace(twice, twice + b"," + twice), content_type="application/json")

    wrapped.upstream.answering = answering
    told = await sent(wrapped, request(ORIGINAL, b'"stream":true' if stream else ODD))
    assert text(SAID) not in told
    assert told.count(b'"content":' + text(pretty(FULL))[:20]) == 1


async def test_of_an_answer_with_the_cost_of_both_only_that_is_another(wrapped: Wrapped) -> None:
    def costing(tokens: bytes) -> bytes:
        return answer("no JSON")[:-1] + b',"usage":{"prompt_tokens":' + tokens + b"}}"

    wrapped.upstream.answering = octets(costing(b"1000"))
    assert await sent(wrapped, request(ORIGINAL)) == costing(b"2000")


@pytest.mark.parametrize("said", [SAID, SAID[:150]])
async def test_of_a_stream_only_the_text_is_another(wrapped: Wrapped, said: str) -> None:
    """Also where its end is that of another answer."""

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if b'"stream"' not in asked.content:
            return web.Response(body=answer(pretty(FULL)), content_type="application/json")
        pieces = [said[at : at + 40] for at in range(0, len(said), 40)]
        events = [event.replace(b'{"id"', b"{" + ODD + b',\n"id"') for event in chunks(pieces)]
        return await streamed(request, [event.replace(b"\n", b"\ndata:", event.count(b"\n") - 2) for event in events])

    wrapped.upstream.answering = answering
    content = request(ORIGINAL, b'"stream":true,' + ODD)
    events = sse.Decoder().feed(await sent(wrapped, content))
    told = [event for event in events if not event.is_last]
    assert all(ODD in event.data for event in told)
    documents = [event.document or {} for event in told]
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in documents) == pretty(FULL)
    whole = content.replace(b' "stream":true,', b"")
    assert all(asked.content == whole for asked in wrapped.upstream.asked[1:])


async def test_of_an_item_only_the_prompt_is_another(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = octets(answer(SAID))
    plain = b'{"messages":[ ], ' + ODD + b"}"
    items = [request(ORIGINAL), b'{"custom_id":"x", "body": ' + plain + b" }"]
    told = await sent(wrapped, b"[" + b" , ".join(items) + b"]", "/v1/batch/chat/completions")
    asked = {asked.content.strip() for asked in wrapped.upstream.asked}
    assert asked == {plain, request(COMPACT)}
    assert all(one in told for one in (answer(SAID), answer(pretty(FULL))))


async def test_of_a_line_of_a_file_only_the_prompt_is_another(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = octets(answer(SAID))
    one = line(1, body={"messages": ["here"]}).replace(b'{"messages":["here"]}', request(ORIGINAL).replace(b"\n", b""))
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, one))
        told = (await sdk.files.content(batch.output_file_id or "")).content
    [asked] = wrapped.upstream.asked
    assert asked.content == request(COMPACT).replace(b"\n", b"")
    assert answer(pretty(FULL)) in told


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'"seed":18446744073709551617', b'"seed":18446744073709551618'),
        (b'"p":0.10000000000000000555', b'"p":0.10000000000000000556'),
        (b'"p":1e-400', b'"p":1e-401'),
        (b'"n":2,"n":1', b'"n":1'),
    ],
)
async def test_what_is_read_alike_may_be_asked_apart(wrapped: Wrapped, one: bytes, other: bytes) -> None:
    assert await together(wrapped, *(sent(wrapped, request(ORIGINAL, more)) for more in (one, other, one))) == 2


async def test_a_completion_of_odd_octets_is_one(wrapped: Wrapped) -> None:
    """A mark of the order of octets, halves of pairs, NaN."""
    said = orjson.dumps(completion(SAID)).replace(b'"fp_1"', b'"\\ud83d"').replace(b"150", b"NaN")
    wrapped.upstream.answering = octets(b"\xef\xbb\xbf" + said)
    told = await sent(wrapped, request(ORIGINAL))
    assert told == said.replace(text(SAID), text(pretty(FULL)))
