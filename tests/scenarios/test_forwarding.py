"""Forwarding that an application cannot tell from a direct connection: what was on the wire, on both sides."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import Message, Origin, Proxy, Turn, joined, running_proxy, until

ADDED_TO_REQUESTS = {
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "x-request-id", "traceparent", "cdn-loop")
}
ADDED_TO_RESPONSES = {"via", "cache-status", "date", "etag", "content-length", "transfer-encoding"}


def names(message: Message) -> list[str]:
    return [name.lower() for name, _ in message.fields]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
async def test_every_method_reaches_the_origin(origin: Origin, method: str) -> None:
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.request(method, "/a")
    assert answer.status == 200
    assert [request.method for request in origin.requests] == [method]
    assert answer.content == (b"" if method == "HEAD" else b"hello")


@pytest.mark.parametrize("method", ["CONNECT", "INVENTED"])
async def test_methods_that_are_not_forwarded_are_refused(origin: Origin, method: str) -> None:
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.request(method, "app.example:80" if method == "CONNECT" else "/a")
    assert answer.status == 501
    assert b'"error"' in answer.content
    assert origin.requests == []


@pytest.mark.parametrize("bypass", [False, True])
async def test_max_forwards_is_counted_down_and_ends_here(origin: Origin, bypass: bool) -> None:
    """RFC 9110 7.6.2. A TRACE is not shown the fields that it came with (RFC 9110 9.3.8)."""
    async with running_proxy(origin.url, bypass=bypass) as proxy:
        client = await proxy.connect()
        for _ in range(2):
            assert (await client.request("OPTIONS", "/a", "Max-Forwards: 2")).content == b"hello"
            ended = await client.request("OPTIONS", "/a", "Max-Forwards: 0")
            assert (ended.status, ended.content, ended.get("content-length")) == (200, b"", "0")
            # it means nothing with other methods
            assert (await client.request("GET", "/a", "Max-Forwards: 0")).content == b"hello"
        assert (await proxy.request("TRACE", "/a", "Max-Forwards: 3")).content == b"hello"
        refused = await proxy.request("TRACE", "/a", "Max-Forwards: 0", "Cookie: sid=secret")
    assert (refused.status, refused.get("content-type")) == (501, "application/json")
    assert b"secret" not in refused.raw_head + refused.content
    told = [(request.method, request.get("max-forwards")) for request in origin.requests]
    assert [one for one in told if one[0] != "GET"] == [("OPTIONS", "1"), ("OPTIONS", "1"), ("TRACE", "2")]
    assert {one[1] for one in told if one[0] == "GET"} == {"0"}


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a//b/../c/./d",
        "/%2e%2E/%2f%2F;p=1?q=%20+%zz&q=2&&=",
        "/a?",
        "/a?b?c",
        "/[x]|{y}^`\"<>'",
        "/a;b=c,d@e:f!g$h&i*j(k)",
    ],
)
async def test_the_target_is_forwarded_octet_for_octet(origin: Origin, target: str) -> None:
    async with running_proxy(origin.url) as proxy:
        await proxy.get(target)
    assert [request.target for request in origin.requests] == [target]


async def test_an_absolute_form_target_becomes_origin_form_with_its_authority(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        await proxy.get("http://app.example/a?b", host="app.example")
    assert origin.requests[0].target == "/a?b"
    assert origin.requests[0].all("host") == ["app.example"]


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [("OPTIONS", "", "*"), ("OPTIONS", "/", "/"), ("OPTIONS", "?a", "/?a"), ("GET", "", "/"), ("GET", "?a", "/?a")],
)
async def test_an_absolute_form_target_without_a_path(origin: Origin, method: str, target: str, expected: str) -> None:
    """RFC 9112 3.2.1, 3.2.4."""
    async with running_proxy(origin.url) as proxy:
        assert (await proxy.request(method, f"http://app.example{target}")).status == 200
    assert (origin.requests[0].method, origin.requests[0].target) == (method, expected)


async def test_request_fields_arrive_in_order_and_as_they_were(origin: Origin) -> None:
    sent = [
        "X-One: 1",
        "x-TWO: a, b",
        "X-One: 2",
        "Cookie: a=1; b=2",
        "X-Latin: caf\xe9",
        "X-Empty:",
        "Accept-Encoding: br",
    ]
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", *sent)
    request = origin.requests[0]
    kept = [f"{name}: {value}".rstrip() for name, value in request.fields if name.lower() not in ADDED_TO_REQUESTS]
    assert kept == ["Host: app.example", *(line.rstrip() for line in sent)]
    assert request.all("x-one") == ["1", "2"]


async def test_response_fields_arrive_in_order_and_as_they_were(origin: Origin) -> None:
    sent = [
        "Set-Cookie: a=1; Path=/",
        "X-One: 1",
        "set-cookie: b=2",
        "X-One: 2",
        "X-Latin: caf\xe9",
        "Content-Type: x/y",
    ]
    origin.respond("x", *sent, status="200 All's Fine")
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a")
    assert [f"{name}: {value}" for name, value in answer.fields if name.lower() not in ADDED_TO_RESPONSES] == sent
    assert answer.start == "HTTP/1.1 200 All's Fine"


async def test_what_this_hop_adds_to_a_request(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", host="App.Example:8080")
    request = origin.requests[0]
    assert request.get("host") == "App.Example:8080"
    assert request.get("x-forwarded-for") == "127.0.0.1"
    assert request.get("x-forwarded-proto") == "http"
    assert request.get("x-forwarded-host") == "App.Example:8080"
    assert request.get("via") == "1.1 siding"
    assert len(request.get("x-request-id") or "") == 32
    version, trace, span, flags = (request.get("traceparent") or "").split("-")
    assert (version, len(trace), len(span), len(flags)) == ("00", 32, 16, 2)


async def test_what_the_client_brought_is_passed_on_or_appended_to(origin: Origin) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running_proxy(origin.url) as proxy:
        await proxy.get(
            "/a",
            "X-Forwarded-For: 203.0.113.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: public.example",
            "X-Request-Id: abc",
            f"traceparent: {trace}",
            "Via: 1.0 edge",
        )
    request = origin.requests[0]
    assert request.get("x-forwarded-for") == "203.0.113.7, 127.0.0.1"
    assert request.get("x-forwarded-proto") == "https"
    assert request.get("x-forwarded-host") == "public.example"
    assert (request.get("x-request-id"), request.get("traceparent")) == ("abc", trace)
    assert request.get("via") == "1.0 edge, 1.1 siding"


async def test_hop_by_hop_fields_end_here_and_those_connection_names_first(origin: Origin) -> None:
    origin.respond(
        "x",
        "Connection: keep-alive, X-Origin-Hop",
        "X-Origin-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "X-End: 1",
    )
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get(
            "/a",
            "Connection: keep-alive, X-Hop, X-Forwarded-For",
            "X-Hop: secret",
            "X-Forwarded-For: 203.0.113.7",
            "Keep-Alive: timeout=9",
            "TE: trailers",
            "Proxy-Authorization: Basic eDp5",
            "X-End: 1",
        )
    request = origin.requests[0]
    gone = {"connection", "keep-alive", "te", "proxy-authorization", "x-hop", "proxy-connection"}
    assert not gone & set(names(request))
    assert request.get("x-forwarded-for") == "127.0.0.1"
    assert request.get("x-end") == answer.get("x-end") == "1"
    assert not {"keep-alive", "proxy-connection", "x-origin-hop", "connection"} & set(names(answer))


async def test_nothing_is_invented_for_the_origin(origin: Origin) -> None:
    """No User-Agent, no Accept, no Accept-Encoding, no cookies of other clients."""
    origin.respond("x", "Set-Cookie: session=1; Path=/", "Cache-Control: no-store")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await proxy.get("/a")
    assert set(names(origin.requests[1])) == {"host"} | ADDED_TO_REQUESTS


async def test_redirects_are_the_clients_to_follow(origin: Origin) -> None:
    origin.respond("", "Location: /b", status="302 Found")
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a")
    assert (answer.status, answer.get("location")) == (302, "/b")
    assert len(origin.requests) == 1


async def test_a_content_coding_of_the_origin_is_untouched(origin: Origin) -> None:
    coded = b"\x1f\x8b not really gzip, and nobody here looks"
    origin.respond(coded, "Content-Encoding: gzip", "Content-Type: application/json", "Cache-Control: max-age=60")
    async with running_proxy(origin.url) as proxy:
        miss = await proxy.get("/a", "Accept-Encoding: br, gzip")
        hit = await proxy.get("/a", "Accept-Encoding: br, gzip")
    assert miss.content == hit.content == coded
    assert miss.all("content-encoding") == hit.all("content-encoding") == ["gzip"]


@pytest.mark.parametrize(("status", "fields"), [("204 No Content", []), ("304 Not Modified", ['ETag: "x"'])])
async def test_responses_without_content_keep_the_connection_in_step(
    origin: Origin, status: str, fields: list[str]
) -> None:
    origin.respond("", *fields, status=status)
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        first = await client.request("GET", "/a", 'If-None-Match: "x"')
        second = await client.request("GET", "/b", 'If-None-Match: "x"')
    assert first.status == second.status == int(status[:3])
    assert "content-length" not in names(first)
    assert "transfer-encoding" not in names(first)
    assert origin.connections == 1


async def test_head_keeps_the_declared_length_and_has_no_content(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.origin.client.HEAD_SECONDS", 0.0)

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nContent-Type: text/plain\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        first = await client.request("HEAD", "/a")
        second = await client.request("HEAD", "/a")
    assert first.get("content-length") == second.get("content-length") == "1234"
    assert origin.connections == 1


async def test_interim_responses_are_passed_on(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        await turn.send("HTTP/1.1 102 Processing\r\n\r\n")
        await turn.answer("x")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a")
    assert [hint.status for hint in answer.interim] == [103, 102]
    assert answer.interim[0].get("link") == "</a.css>; rel=preload"
    assert answer.content == b"x"


async def test_an_http_1_0_client_gets_no_chunks_and_no_interim_responses(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 103 Early Hints\r\n\r\n")
        await turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.0\r\nHost: app.example\r\n\r\n")
        answer = await client.response()
        closed = await client.at_end()
    assert (answer.content, closed, answer.interim) == (b"hello", True, [])
    assert "transfer-encoding" not in names(answer)


@pytest.mark.parametrize("ended", ["cut", "silent"])
async def test_an_http_1_0_client_never_takes_a_part_for_the_whole(origin: Origin, ended: str) -> None:
    """Without chunks the end of the connection is the end of the content: in good order only if it is (RFC 9112 8)."""
    read = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await read.wait()
        if ended == "cut":
            turn.writer.close()
        else:
            await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url, upstream_timeout_ms=200) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.0\r\nHost: app.example\r\n\r\n")
        await client.head()
        assert await client.reader.readexactly(5) == b"hello"
        read.set()
        with pytest.raises(ConnectionResetError):
            await client.reader.read(1)


async def test_an_http_1_0_client_that_reads_late_gets_all_of_it(origin: Origin) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await turn.send(chunk * 64 + b"0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.0\r\nHost: app.example\r\n\r\n")
        await asyncio.sleep(0.2)
        assert len((await client.response()).content) == 64 * 65536


async def test_expect_100_continue_waits_for_the_origin(origin: Origin) -> None:
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        asked.set()
        assert turn.request.get("expect") == "100-continue"
        await turn.send("HTTP/1.1 100 Continue\r\n\r\n")
        await turn.answer(await turn.content())

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await asked.wait()
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await client.send(b"hello")
        answer = await client.response()
    assert answer.content == b"hello"


async def test_an_expectation_that_the_origin_turns_down_costs_no_upload(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("no", "Connection: close", status="413 Content Too Large")
        turn.writer.close()

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        answer = await client.response()
    assert (answer.status, answer.content, answer.interim) == (413, b"no", [])


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_request_content_arrives_whole_and_framed_as_it_came(origin: Origin, framing: str) -> None:
    content = bytes(range(256)) * 1000
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        if framing == "length":
            await client.request("PUT", "/a", content=content)
        else:
            await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(content), 10_000):
                piece = content[start : start + 10_000]
                await client.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
            await client.send("0\r\nX-Trailer: dropped\r\n\r\n")
            await client.response()
    request = origin.requests[0]
    assert request.content == content
    assert request.get("content-length") == (str(len(content)) if framing == "length" else None)
    assert request.get("transfer-encoding") == (None if framing == "length" else "chunked")
    assert request.get("x-trailer") is None


async def test_an_empty_post_says_so(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        await proxy.request("POST", "/a", content=b"")
        await proxy.request("DELETE", "/a")
    assert [request.get("content-length") for request in origin.requests] == ["0", None]


async def test_trailers_of_the_origin_are_dropped_properly(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        await turn.send("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        first = await client.request("GET", "/a")
        second = await client.request("GET", "/b")
    assert first.content == second.content == b"hello"
    assert not {"trailer", "x-sum"} & set(names(first))
    assert origin.connections == 1


async def test_pieces_of_the_origin_reach_the_client_as_they_come(origin: Origin) -> None:
    """Server-sent events: each one is read by the client before the origin sends the next."""
    turns: asyncio.Queue[Turn] = asyncio.Queue()
    done = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await turns.put(turn)
        await done.wait()

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(10):
        client = await proxy.connect()
        await client.send("GET /events HTTP/1.1\r\nHost: app.example\r\nAccept-Encoding: gzip, br\r\n\r\n")
        head = await client.head()
        turn = await turns.get()
        assert head.get("content-encoding") is None
        for octet in b"data: 1\n\n":
            await turn.send(b"1\r\n%c\r\n" % octet)
            assert await client.reader.readexactly(6) == b"1\r\n%c\r\n" % octet
        await turn.send("0\r\n\r\n")
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"
        done.set()


async def test_trickled_request_content_reaches_the_origin_as_it_comes(origin: Origin) -> None:
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        for _ in range(5):
            await seen.put(await turn.reader.readexactly(1))
        await turn.answer("done")

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy, asyncio.timeout(10):
        client = await proxy.connect()
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\n\r\n")
        for octet in b"hello":
            await client.send(bytes([octet]))
            assert await seen.get() == bytes([octet])
        assert (await client.response()).content == b"done"


async def test_an_early_answer_reaches_a_client_that_is_still_sending(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("unauthorized", "Connection: close", status="401 Unauthorized")
        turn.writer.close()

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 50000\r\n\r\nabc")
        answer = await client.response()
    assert (answer.status, answer.content) == (401, b"unauthorized")


async def test_a_client_that_leaves_cancels_its_request(origin: Origin) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        asked.set()
        assert await turn.reader.read(1) == b""
        left.set()

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(10):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\nCache-Control: no-store\r\n\r\n")
        await asked.wait()
        client.close()
        await left.wait()


async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_it(origin: Origin) -> None:
    left = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert await turn.reader.read(1) == b""
        left.set()

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(10):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await client.head()
        client.close()
        await left.wait()


async def test_connections_to_the_origin_are_kept_and_used_again(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        for _ in range(5):
            await proxy.get("/a")
    assert len(origin.requests) == 5
    assert origin.connections == 1


async def test_a_stale_idle_connection_is_replaced_by_one_safe_retry(origin: Origin) -> None:
    async def closing(turn: Turn) -> None:
        if len(origin.requests) == 2:
            turn.writer.close()
            return
        await turn.answer("hello")

    origin.script = closing
    async with running_proxy(origin.url) as proxy:
        assert (await proxy.get("/a")).status == 200
        assert (await proxy.get("/b")).status == 200
    assert [request.target for request in origin.requests] == ["/a", "/b", "/b"]


async def test_a_post_is_never_sent_twice(origin: Origin) -> None:
    async def closing(turn: Turn) -> None:
        if turn.request.method == "POST":
            turn.writer.close()
            return
        await turn.answer("hello")

    origin.script = closing
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        answer = await proxy.request("POST", "/b", content=b"x")
    assert answer.status == 502
    assert [request.method for request in origin.requests] == ["GET", "POST"]


async def pipeline(proxy: Proxy, data: bytes, count: int) -> list[Message]:
    client = await proxy.connect()
    await client.send(data)
    return [await client.response() for _ in range(count)]


async def test_pipelined_requests_are_answered_in_order(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer(turn.request.target)

    origin.script = script
    lines = b"".join(b"GET /%d HTTP/1.1\r\nHost: app.example\r\n\r\n" % number for number in range(4))
    async with running_proxy(origin.url) as proxy:
        answers = await pipeline(proxy, lines, 4)
    assert [answer.content for answer in answers] == [b"/0", b"/1", b"/2", b"/3"]


async def test_content_that_nobody_read_is_not_taken_for_the_next_request(origin: Origin) -> None:
    """A hit on a request with content (Pingora CVE-2025-4366)."""
    origin.respond("stored", "Cache-Control: max-age=60")
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: app.example\r\n\r\n"
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        first = b"GET /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: %d\r\n\r\n%b" % (len(smuggled), smuggled)
        second = b"GET /next HTTP/1.1\r\nHost: app.example\r\n\r\n"
        await pipeline(proxy, first + second, 2)
    assert "/smuggled" not in [request.target for request in origin.requests]


async def test_cookies_and_codings_of_one_client_are_not_anothers(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Cookie: me=1")
        await proxy.get("/a")
        await until(lambda: len(origin.requests) == 2)
    assert joined(origin.requests[1].all("cookie")) == ""


async def test_two_proxies_one_after_the_other(origin: Origin) -> None:
    """Short ways and all: the second sees the mark of the first, which is not its own."""
    async with running_proxy(origin.url) as second, running_proxy(f"http://127.0.0.1:{second.port}") as first:
        client = await first.connect()
        for _ in range(5):
            for method in ("GET", "POST"):
                answer = await client.request(method, "/a", "CDN-Loop: cloudflare")
                assert (answer.status, answer.content) == (200, b"hello")
    for request in origin.requests:
        _, one, other = request.all("cdn-loop")
        assert one != other


async def test_what_has_been_here_is_refused(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        mark = origin.requests[0].get("cdn-loop")
        client = await proxy.connect()
        for method in ("GET", "POST", "POST", "OPTIONS"):
            answer = await client.request(method, "/b", f"cdn-loop:cloudflare, {mark}; x=1")
            assert (answer.status, b'"loop"' in answer.content) == (502, True)
        proxy.flags.update({"BYPASS": True})
        assert (await client.request("POST", "/b", f"CDN-Loop: {mark}")).status == 502
    assert len(origin.requests) == 1
