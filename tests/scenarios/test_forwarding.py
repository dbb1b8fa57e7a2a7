"""Forwarding that an application cannot tell from a direct connection: methods, targets and fields on the wire."""

from __future__ import annotations

import pytest

from tests.support import Origin, joined, running_proxy, until

ADDED_TO_REQUESTS = {
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "x-request-id", "traceparent", "cdn-loop")
}
ADDED_TO_RESPONSES = {"via", "cache-status", "date", "etag", "content-length", "transfer-encoding"}


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


@pytest.mark.parametrize("following", ["hi", "hiGET /b HTTP/1.1\r\nHost: app.example\r\n\r\n"])
async def test_a_length_may_have_any_number_of_zeros(
    origin: Origin, following: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9110 8.6; Python reads no number of more than 4300 digits."""
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send(f"POST /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: {'0' * 5000}2\r\n\r\n{following}")
        answers = [await client.response() for _ in following.split("GET")]
    assert {answer.content for answer in answers} == {b"hello"}
    assert [request.content for request in origin.requests] == [b"hi", b""][: len(answers)]
    assert caplog.records == []


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
    assert not gone & set(request.names)
    assert request.get("x-forwarded-for") == "127.0.0.1"
    assert request.get("x-end") == answer.get("x-end") == "1"
    assert not {"keep-alive", "proxy-connection", "x-origin-hop", "connection"} & set(answer.names)


async def test_nothing_is_invented_for_the_origin(origin: Origin) -> None:
    """No User-Agent, no Accept, no Accept-Encoding, no cookies of other clients."""
    origin.respond("x", "Set-Cookie: session=1; Path=/", "Cache-Control: no-store")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await proxy.get("/a")
    assert set(origin.requests[1].names) == {"host"} | ADDED_TO_REQUESTS


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
