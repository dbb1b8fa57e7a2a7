"""What goes over the wire to the grading upstream, and what comes back: whole or in a stream."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from contextlib import aclosing
from pathlib import Path

import pytest
import trustme

from config.listen import spare_port
from pool_monitor.grading.asking import Ended
from pool_monitor.grading.calls import Answer, UpstreamFault
from pool_monitor.grading.upstream import Upstream
from tests.pool_monitor.grading.upstream_bench import (
    BODY,
    LIMITS,
    MEGABYTE,
    SECRET,
    SSE_HEAD,
    Bench,
    Clock,
    Held,
    Seen,
    completion,
    running,
)
from tests.support import Origin, Turn

# -- chat completions


async def test_the_callers_fields_go_as_they_are_and_no_others(bench: Bench) -> None:
    completion(bench.origin)
    await bench.upstream.complete(
        bench.call(
            ("Authorization", SECRET),
            ("User-Agent", "AsyncOpenAI/Python 1.2.3"),
            ("OpenAI-Organization", "org-1"),
            ("x-stainless-lang", "js"),
            ("X-Stainless-Retry-Count", "1"),
            ("Idempotency-Key", "k"),
            ("X-Twice", "a"),
            ("X-Twice", "b"),
        )
    )
    [request] = bench.origin.requests
    assert request.start == "POST /v1/chat/completions HTTP/1.1"
    assert {name.lower(): value for name, value in request.fields} == {
        "host": f"127.0.0.1:{bench.origin.port}",
        "authorization": SECRET,
        "user-agent": "AsyncOpenAI/Python 1.2.3",
        "openai-organization": "org-1",
        "x-stainless-lang": "js",
        "x-stainless-retry-count": "1",
        "idempotency-key": "k",
        "x-twice": "a, b",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "content-length": str(len(request.content)),
    }
    assert json.loads(request.content) == BODY


async def test_nothing_of_the_environment_is_sent(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Own: from-the-environment")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{spare_port()}")
    completion(origin)
    async with running(origin) as bench:
        assert (await bench.upstream.complete(bench.call())).ok
        await bench.forward("GET", "/models")
    for request in origin.requests:
        assert b"environment" not in request.raw_head
        assert request.get("authorization") is None


@pytest.mark.parametrize("given", ["true", "stream", "nonsense", None])
@pytest.mark.parametrize("streamed", [False, True])
async def test_fields_that_the_sdk_obeys_do_no_harm(bench: Bench, given: str | None, streamed: bool) -> None:
    body = completion(bench.origin)
    raw = () if given is None else (("X-Stainless-Raw-Response", given),)
    call = bench.call(("____stainless_override_cast_to", "int"), *raw)
    content = await bench.stream(call) if streamed else (await bench.upstream.complete(call)).content
    assert content == body
    assert bench.origin.requests[0].get("x-stainless-raw-response") == given
    assert bench.origin.requests[0].get("____stainless_override_cast_to") is None


async def test_our_key_is_for_callers_without_one(origin: Origin) -> None:
    completion(origin)
    async with running(origin, api_key="sk-ours") as bench:
        for fields in ((), (("authorization", SECRET),)):
            await bench.upstream.complete(bench.call(*fields))
            await bench.forward("GET", "/models", *fields)
    assert [request.all("authorization") for request in origin.requests] == [
        *[["Bearer sk-ours"]] * 2,
        *[[SECRET]] * 2,
    ]


async def test_an_error_is_an_answer_with_the_upstreams_own_fields(bench: Bench) -> None:
    body = completion(
        bench.origin,
        *("x-request-id: req_1", "x-ratelimit-remaining-requests: 0", "Connection: X-Hop", "X-Hop: 1", "x-a: caf\xe9"),
        status="400 Bad Request",
        content={"error": {"message": "no"}},
    )
    answer = await bench.upstream.complete(bench.call())
    assert answer == Answer(
        400,
        (
            ("Content-Type", "application/json"),
            ("x-request-id", "req_1"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-a", "caf\xe9"),
        ),
        body,
    )
    assert bench.seen.outcomes == [Ended.ERROR]
    assert len(bench.origin.requests) == 1


@pytest.mark.parametrize(
    "status", ["500 Oops", "502 Oops", "504 Oops", "408 Oops", "409 Oops", "301 Moved", "307 Moved"]
)
async def test_what_may_have_been_processed_is_asked_once(bench: Bench, status: str) -> None:
    completion(bench.origin, "Location: /v1/other", "retry-after: 1", status=status)
    assert (await bench.upstream.complete(bench.call())).status == int(status[:3])
    async with bench.upstream.stream(bench.call()) as streamed:
        assert streamed.status == int(status[:3])
    assert len(bench.origin.requests) == 2
    assert bench.clock.slept == []


async def test_a_coded_answer_is_decoded(bench: Bench) -> None:
    bench.origin.respond(gzip.compress(b'{"id":1}'), "Content-Type: application/json", "Content-Encoding: gzip")
    answer = await bench.upstream.complete(bench.call())
    assert (answer.content, answer.fields) == (b'{"id":1}', (("Content-Type", "application/json"),))
    assert await bench.stream(bench.call()) == b'{"id":1}'


async def test_large_requests_go_in_pieces_of_known_length(bench: Bench) -> None:
    completion(bench.origin)
    body = BODY | {"image": "x" * (3 * MEGABYTE)}
    assert (await bench.upstream.complete(bench.call(body=body))).ok
    [request] = bench.origin.requests
    assert request.get("content-length") == str(len(request.content))
    assert request.get("transfer-encoding") is None
    assert json.loads(request.content) == body


async def test_no_cookie_of_one_caller_goes_with_another(origin: Origin) -> None:
    completion(origin, "Set-Cookie: __cf_bm=secret; Path=/")
    # by a name: cookies of an address would not be kept anyhow
    async with running(origin, f"http://localhost:{origin.port}/v1") as bench:
        answer = await bench.upstream.complete(bench.call())
        assert ("Set-Cookie", "__cf_bm=secret; Path=/") in answer.fields
        await bench.upstream.complete(bench.call())
        await bench.forward("GET", "/models")
        await bench.forward("GET", "/models")
    assert [request.get("cookie") for request in origin.requests] == [None] * 4


async def test_connections_are_used_again_by_all(bench: Bench) -> None:
    completion(bench.origin)
    for _ in range(3):
        await bench.upstream.complete(bench.call())
        await bench.forward("POST", "/embeddings", content=b"{}")
        assert await bench.stream(bench.call())
    assert len(bench.origin.requests) == 9
    assert bench.origin.connections == 1


async def test_one_that_was_never_started_can_be_closed() -> None:
    await Upstream("http://127.0.0.1/v1", None, LIMITS, clock=Clock(), observe=Seen()).close()


# -- streams


async def test_pieces_of_a_stream_arrive_before_its_end(bench: Bench) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send(SSE_HEAD + b"9\r\ndata: 1\n\n\r\n")
        await go.wait()
        await turn.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    bench.origin.script = script
    async with bench.upstream.stream(bench.call()) as streamed:
        assert streamed.status == 200
        assert streamed.fields == (("Content-Type", "text/event-stream"), ("x-request-id", "r"))
        async with aclosing(streamed.pieces()) as pieces:
            assert await anext(pieces) == b"data: 1\n\n"
            assert bench.upstream.in_use == 1
            go.set()
            assert [piece async for piece in pieces] == [b"data: 2\n\n"]
    assert bench.upstream.in_use == 0
    assert bench.seen.outcomes == [Ended.ANSWERED]


async def test_the_error_of_a_stream_is_whole(bench: Bench) -> None:
    body = completion(bench.origin, status="401 Unauthorized", content={"error": {"code": "invalid_api_key"}})
    async with bench.upstream.stream(bench.call()) as streamed, aclosing(streamed.pieces()) as pieces:
        assert streamed.status == 401
        assert [piece async for piece in pieces] == [body]


async def test_a_stream_that_breaks_off(bench: Bench) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(SSE_HEAD + b"9\r\ndata: 1\n\n\r\n")
        turn.writer.close()

    bench.origin.script = script
    with pytest.raises(UpstreamFault) as fault:
        await bench.stream(bench.call())
    assert (fault.value.status, fault.value.code) == (502, "upstream_cut")
    assert bench.upstream.in_use == 0
    assert bench.seen.outcomes == [Ended.CUT]


async def test_a_stream_ends_with_its_deadline(bench: Bench) -> None:
    bench.origin.script = held = Held(SSE_HEAD + b"9\r\ndata: 1\n\n\r\n")
    with pytest.raises(UpstreamFault) as fault:
        await bench.stream(bench.call(seconds=0.2))
    assert fault.value.status == 504
    await asyncio.wait_for(held.left.wait(), 5)


# -- whom it trusts


async def test_by_https_it_trusts_whom_this_machine_trusts(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authorities.pem")
    completion(origin)
    async with await asyncio.start_server(origin._serve, "127.0.0.1", 0, ssl=context) as server:
        url = f"HTTPS://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with running(origin, url) as bench:
            with pytest.raises(UpstreamFault, match="no connection"):
                await bench.upstream.complete(bench.call())
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authorities.pem"))
        async with running(origin, url) as bench:
            assert (await bench.upstream.complete(bench.call())).status == 200


async def test_by_http_nobody_is_loaded_to_be_trusted(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than all else that is done before the first is asked."""
    monkeypatch.delattr(ssl, "create_default_context")
    completion(origin)
    async with running(origin) as bench:
        assert (await bench.upstream.complete(bench.call())).status == 200
