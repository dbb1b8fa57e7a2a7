"""One client's request must never become another's answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import Origin, Turn, running_proxy, until

FRESH = "Cache-Control: max-age=60"


async def echo(turn: Turn, *names: str, fields: tuple[str, ...] = (FRESH,)) -> None:
    await turn.answer("; ".join(f"{name}={turn.request.get(name)}" for name in names), *fields)


async def test_the_targets_authority_replaces_host_for_the_origin_too(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "host", "x-forwarded-host")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("GET http://victim.example/a HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        first = await client.response()
        victim = await proxy.get("/a", host="victim.example")
    assert first.content == victim.content == b"host=victim.example; x-forwarded-host=victim.example"


@pytest.mark.parametrize("host", ["a b", "a/b", "user@a", "a?b", "", "[::1", "a:b"])
async def test_what_is_no_host_is_refused(origin: Origin, host: str) -> None:
    async with running_proxy(origin.url) as proxy:
        assert (await proxy.get("/a", host=host)).status == 400
    assert origin.requests == []


@pytest.mark.parametrize("host", ["a", "a:80", "[::1]:8080", "xn--a.example", "10.0.0.1:1", "a_b.internal"])
async def test_what_is_a_host_is_taken(origin: Origin, host: str) -> None:
    async with running_proxy(origin.url) as proxy:
        assert (await proxy.get("/a", host=host)).status == 200
    assert origin.requests[0].get("host") == host


async def test_a_field_that_connection_names_is_not_in_the_secondary_key(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "accept-language", fields=(FRESH, "Vary: Accept-Language"))

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Accept-Language: de", "Connection: accept-language")
        german = await proxy.get("/a", "Accept-Language: de")
    assert german.content == b"accept-language=de"


@pytest.mark.parametrize(
    "fields",
    [
        (FRESH, "Vary: Cookie", "Connection: vary, set-cookie"),
        (FRESH, "CDN-Cache-Control: private", "Connection: cdn-cache-control"),
        (FRESH, "Age: 100000", "Connection: age"),
    ],
)
async def test_an_origin_cannot_take_away_by_connection_what_forbids_to_share(
    origin: Origin, fields: tuple[str, ...]
) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "cookie", fields=fields)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Cookie: a=1")
        assert (await proxy.get("/a", "Cookie: a=2")).content == b"cookie=a=2"


async def test_a_field_that_connection_names_is_not_in_a_rules_key(origin: Origin, tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "x-tenant")

    origin.script = script
    rules = '[[route]]\nmatch = "/a"\nkey = ["header:x-tenant"]\n'
    async with running_proxy(origin.url, rules=rules, directory=tmp_path) as proxy:
        await proxy.get("/a", "X-Tenant: one", "Connection: x-tenant")
        one = await proxy.get("/a", "X-Tenant: one")
    assert one.content == b"x-tenant=one"


@pytest.mark.parametrize(
    "path", ["/static/../api/me", "/static/%2e%2e/api/me", "/static/..%2fapi/me", "/static/..;/api/me", "/static/.."]
)
async def test_no_rule_is_for_a_path_that_may_be_another(origin: Origin, tmp_path: Path, path: str) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "cookie", fields=())

    origin.script = script
    rules = '[[route]]\nmatch = "/static/*"\npublic = true\n'
    async with running_proxy(origin.url, rules=rules, directory=tmp_path) as proxy:
        await proxy.get(path, "Cookie: session=alice")
        assert (await proxy.get(path)).content == b"cookie=None"
        await proxy.get("/static/..a/b.js", "Cookie: session=alice")
        assert (await proxy.get("/static/..a/b.js")).content == b"cookie=session=alice"


@pytest.mark.parametrize(
    ("odd", "plain"), [("?%71=evil", ""), ("?x=1;q=evil&q=good", "?q=good"), ("?q%5B%5D=evil", "?t=1")]
)
async def test_an_argument_under_another_spelling_of_its_name_is_not_overlooked(
    origin: Origin, tmp_path: Path, odd: str, plain: str
) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer(turn.request.target)

    origin.script = script
    rules = '[[route]]\nmatch = "/a"\nkey = ["query:q"]\n'
    async with running_proxy(origin.url, rules=rules, directory=tmp_path) as proxy:
        for _ in range(3):
            assert (await proxy.get(f"/a{odd}")).content == f"/a{odd}".encode()
            assert (await proxy.get(f"/a{plain}")).content == f"/a{plain}".encode()
    assert len(origin.requests) == 2


@pytest.mark.parametrize("forwarded", ['for="x, host=evil.example', "for=1;host =evil", 'for="x;host=evil"'])
async def test_a_host_that_forwarded_hides_is_in_the_key(origin: Origin, forwarded: str) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "forwarded")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for _ in range(3):
            await proxy.get("/a", f"Forwarded: {forwarded}")
            assert (await proxy.get("/a")).content == b"forwarded=None"
    assert len(origin.requests) == 2


@pytest.mark.parametrize("name", ["X_Forwarded_Host", "X_Lang", "x.lang"])
async def test_a_field_that_an_origin_takes_for_another_is_in_the_key(origin: Origin, name: str) -> None:
    """As CGI has it, and what came of it: HTTP_X_LANG may have been written X-Lang or X_Lang."""

    async def script(turn: Turn) -> None:
        await echo(turn, name, fields=(FRESH, "Vary: X-Lang"))

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for _ in range(3):
            assert (await proxy.get("/a", f"{name}: evil")).content == f"{name}=evil".encode()
            assert (await proxy.get("/a")).content == f"{name}=None".encode()
    assert len(origin.requests) == 2


async def test_a_field_that_an_origin_takes_for_a_keyed_one_is_in_a_rules_key(origin: Origin, tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "x_tenant", fields=())

    origin.script = script
    rules = '[[route]]\nmatch = "/a"\nkey = ["header:x-tenant"]\n'
    async with running_proxy(origin.url, rules=rules, directory=tmp_path) as proxy:
        for _ in range(3):
            for tenant in ("one", "two"):
                found = await proxy.get("/a", f"X_Tenant: {tenant}")
                assert found.content == f"x_tenant={tenant}".encode()
            assert (await proxy.get("/a")).content == b"x_tenant=None"
    assert len(origin.requests) == 3


@pytest.mark.parametrize("host", ["App.Example", "app.example:80", "app.example:", "app.example:080"])
async def test_a_host_in_another_form_has_answers_of_its_own_that_are_purged_together(
    origin: Origin, host: str
) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "host")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for _ in range(3):
            assert (await proxy.get("/a", host=host)).content == f"host={host}".encode()
            assert (await proxy.get("/a")).content == b"host=app.example"
        assert len(origin.requests) == 2
        for by in ("app.example", host):
            await proxy.request("POST", "/a", host=by)
            await proxy.get("/a", host=host)
            await proxy.get("/a")
    assert len(origin.requests) == 8


@pytest.mark.parametrize("credential", ["Cookie: session=alice", "X-Api-Key: alice"])
async def test_a_guess_never_shares_what_was_made_for_a_credential(origin: Origin, credential: str) -> None:
    """RFC 9111 4.2.2 would let a cache guess; then Bob has Alice's page for a tenth of its age."""
    name = credential.partition(":")[0]

    async def script(turn: Turn) -> None:
        await echo(turn, name, fields=("Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT",))

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/me", credential)
        bob = await proxy.get("/me", f"{name}: bob")
        await origin.stop()
        nobody = await proxy.get("/me", f"{name}: bob")
    assert bob.content.endswith(b"=bob") or bob.content.endswith(b" bob")
    assert nobody.status == 502


@pytest.mark.parametrize("first", ["Cookie: session=alice", "Accept: a"])
async def test_a_page_that_has_not_changed_since_may_be_anothers(origin: Origin, first: str) -> None:
    """An origin that gives each user another page and dates both answers Bob's date with 304, and means his."""

    async def script(turn: Turn) -> None:
        if "if-modified-since" in turn.request.names:
            await turn.answer(status="304 Not Modified")
        else:
            await echo(turn, "cookie", fields=("Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT",))

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/me", first)
        proxy.clock.now += 100 * 86_400
        for _ in range(3):
            assert (await proxy.get("/me", "Cookie: session=bob")).content == b"cookie=session=bob"


@pytest.mark.parametrize("lifetime", ["X-A: b", "Cache-Control: max-age=0", "Expires: 0", "Cache-Control: no-cache"])
async def test_a_page_of_this_version_may_be_anothers(origin: Origin, lifetime: str) -> None:
    """An origin that gives each user another page, and makes tag and date of its version, means by a 304 Bob's."""

    async def script(turn: Turn) -> None:
        if {"if-none-match", "if-modified-since"} & set(turn.request.names):
            await turn.answer(status="304 Not Modified")
        else:
            fields = (lifetime, 'ETag: "7"', "Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT")
            await echo(turn, "cookie", fields=fields)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for name in ("alice", "bob", "bob"):
            assert (await proxy.get("/me", f"Cookie: {name}")).content == f"cookie={name}".encode()
        # what Bob has his browser has told
        assert (await proxy.get("/me", "Cookie: bob", 'If-None-Match: "7"')).status == 304
        assert "if-none-match" in origin.requests[-1].names


@pytest.mark.parametrize("lifetime", ["Cache-Control: max-age=0", "Expires: 0", "X-A: b"])
async def test_an_error_is_not_hidden_by_another_users_page(origin: Origin, lifetime: str) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.get("cookie") == "bob":
            await turn.answer(status="503 Service Unavailable")
        else:
            await echo(turn, "cookie", fields=(lifetime, "Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT"))

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/me", "Cookie: alice")
        assert (await proxy.get("/me", "Cookie: bob")).status == 503


async def test_who_has_seen_what_is_newer_does_not_go_back(origin: Origin) -> None:
    """With a cookie, so that nobody says that what he is told is for others."""
    dates = iter(("Fri, 01 Jan 2021 00:00:00 GMT", "Sat, 02 Jan 2021 00:00:00 GMT", "Sat, 02 Jan 2021 00:00:00 GMT"))

    async def script(turn: Turn) -> None:
        date = next(dates)
        await turn.answer(date, f"Last-Modified: {date}")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        assert (await proxy.get("/a", "Cookie: a=b")).content.startswith(b"Fri")
        reloaded = await proxy.get("/a", "Cookie: a=b", "Cache-Control: no-cache")
        again = await proxy.get("/a", "Cookie: a=b")
    assert reloaded.content == again.content == b"Sat, 02 Jan 2021 00:00:00 GMT"


@pytest.mark.parametrize("lifetime", ["X-A: b", "Cache-Control: max-age=0", "Cache-Control: no-cache"])
async def test_what_a_304_says_to_one_user_is_told_to_nobody_else(origin: Origin, lifetime: str) -> None:
    async def script(turn: Turn) -> None:
        status = "304 Not Modified" if "if-none-match" in turn.request.names else "200 OK"
        token = f"X-Csrf-Token: of-{turn.request.get('cookie') or 'nobody'}"
        dated = "Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT"
        await turn.answer(b"" if status[0] == "3" else b"page", lifetime, 'ETag: "7"', dated, token, status=status)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 100 * 86_400
        assert (await proxy.get("/a", "Cookie: bob")).get("x-csrf-token") == "of-bob"
        for cookie in ((), ("Cookie: carol",)):
            assert (await proxy.get("/a", *cookie)).get("x-csrf-token") != "of-bob"
        # nor does it keep anybody from what hides an error
        await origin.stop()
        proxy.clock.now += 86_401 if lifetime == "X-A: b" else 1
        assert (await proxy.get("/a")).status == (502 if "no-cache" in lifetime else 200)


async def test_what_is_told_to_one_user_takes_nothing_from_others(origin: Origin) -> None:
    """A page of his own is another, not a newer one; and the rest of a part is his own, too."""
    dated = "Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT"

    async def script(turn: Turn) -> None:
        if turn.request.get("range") == "bytes=0-3":
            part = ("Content-Range: bytes 0-3/8", 'ETag: "part"', dated)
            await turn.answer(b"page", *part, status="206 Partial Content")
        elif turn.request.get("cookie"):
            await turn.answer(b"his page", 'ETag: "his"', dated)
        else:
            await turn.answer(b"page", "Cache-Control: max-age=3600", 'ETag: "all"', dated)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        assert (await proxy.get("/a", "Cookie: bob", "Cache-Control: no-cache")).content == b"his page"
        assert "hit" in ((await proxy.get("/a")).get("cache-status") or "")
        await proxy.get("/part", "Range: bytes=0-3")
        before = len(origin.requests)
        assert (await proxy.get("/part", "Cookie: bob")).content == b"his page"
        assert [request.get("range") for request in origin.requests[before:]] == [None]


async def test_a_head_of_a_page_of_his_own_takes_nothing_either_but_what_is_older(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        who = turn.request.get("cookie") or ""
        day = "Sat, 02" if who == "eve" else "Fri, 01"
        await turn.answer(f"page of {who}", f"Last-Modified: {day} Jan 2021 00:00:00 GMT")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await proxy.request("HEAD", "/a", "Cookie: bob", "Cache-Control: no-cache")
        assert "hit" in ((await proxy.get("/a")).get("cache-status") or "")
        await proxy.request("HEAD", "/a", "Cookie: eve", "Cache-Control: no-cache")
        assert "hit" not in ((await proxy.get("/a")).get("cache-status") or "")


async def test_a_page_that_is_private_is_not_a_newer_one(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        own = ("Cache-Control: private", "Last-Modified: Sat, 02 Jan 2021 00:00:00 GMT")
        shared = ("Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT",)
        await echo(turn, "cookie", fields=own if turn.request.get("cookie") else shared)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        assert (await proxy.get("/a", "Cookie: bob", "Cache-Control: no-cache")).content == b"cookie=bob"
        assert "hit" in ((await proxy.get("/a")).get("cache-status") or "")


async def test_who_is_not_told_for_others_waits_for_the_origin(origin: Origin) -> None:
    """What came behind would not be stored: what is stale would be told as long as it may."""
    pages = iter(("v1", "v2", "v2"))

    async def script(turn: Turn) -> None:
        dated = "Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT"
        await turn.answer(next(pages), "Cache-Control: stale-while-revalidate=99999999", dated)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 100 * 86_400
        for _ in range(2):
            assert (await proxy.get("/a", "Cookie: bob")).content == b"v2"


async def test_who_is_told_apart_by_vary_has_a_store_of_his_own(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await echo(turn, "cookie", fields=("Vary: Cookie", "Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT"))

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for name in ("alice", "bob", "alice", "bob"):
            assert (await proxy.get("/a", f"Cookie: {name}")).content == f"cookie={name}".encode()
    assert len(origin.requests) == 2


async def test_who_asks_about_a_page_of_his_own_is_told_so(origin: Origin) -> None:
    """Where what is stored without a cookie may be another."""
    dated = "Fri, 01 Jan 2021 00:00:00 GMT"

    async def script(turn: Turn) -> None:
        status = "304 Not Modified" if "if-modified-since" in turn.request.names else "200 OK"
        await turn.answer(b"" if status[0] == "3" else b"page", f"Last-Modified: {dated}", status=status)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 100 * 86_400
        for _ in range(2):
            assert (await proxy.get("/a", "Cookie: a=b", f"If-Modified-Since: {dated}")).status == 304
        assert (await proxy.get("/a", "Cookie: a=b")).content == b"page"


async def test_the_tag_of_another_users_page_is_not_asked_about(origin: Origin) -> None:
    """An origin that makes it of the page's version means the page of whoever asks."""

    async def script(turn: Turn) -> None:
        if "if-none-match" in turn.request.names:
            await turn.answer(b"", status="304 Not Modified")
        else:
            await echo(turn, "cookie", fields=(FRESH, 'ETag: "7"', "Vary: Cookie"))

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for name in ("alice", "bob", "alice"):
            assert (await proxy.get("/me", f"Cookie: {name}")).content == f"cookie={name}".encode()
    assert len(origin.requests) == 2


async def test_a_stated_lifetime_is_the_origins_word(origin: Origin) -> None:
    origin.respond("all", FRESH)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Cookie: session=alice")
        bob = await proxy.get("/a", "Cookie: session=bob")
    assert "hit" in (bob.get("cache-status") or "")


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Request-Id", "traceparent"])
async def test_what_varies_by_a_field_made_here_is_not_shared(origin: Origin, name: str) -> None:
    origin.respond("yours", FRESH, f"Vary: {name}")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await proxy.get("/a")
    assert len(origin.requests) == 2


async def test_an_event_stream_is_nobody_elses(origin: Origin, tmp_path: Path) -> None:
    """Not kept for who comes later, and let go with its client, whatever a rule or the origin says."""
    gone: list[bytes] = []

    async def script(turn: Turn) -> None:
        await turn.send(
            f"HTTP/1.1 200 OK\r\n{FRESH}\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            "9\r\ndata: 1\n\n\r\n"
        )
        gone.append(await turn.reader.read(1))

    origin.script = script
    rules = '[[route]]\nmatch = "/events"\npublic = true\nttl = 60\n'
    async with running_proxy(origin.url, rules=rules, directory=tmp_path) as proxy:
        for count in (1, 2):
            client = await proxy.connect()
            await client.send("GET /events HTTP/1.1\r\nHost: app.example\r\n\r\n")
            head = await client.head()
            assert head.get("cache-status") == "siding; fwd=uri-miss; fwd-status=200"
            assert b"data: 1" in await client.reader.readuntil(b"\n\n")
            client.writer.transport.abort()
            await until(lambda count=count: len(gone) == count)  # type: ignore[misc]
    assert gone == [b"", b""]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"])
async def test_content_that_an_origin_does_not_read_is_nobodys_request(origin: Origin, method: str) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer(turn.request.target, "Date: Sun, 29 Nov 2026 00:00:00 GMT")
        if turn.request.get("connection") == "close":
            turn.writer.close()

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        for _ in range(3):
            await client.request(method, "/a", content=b"GET /smuggled HTTP/1.1\r\nHost: app.example\r\n\r\n")
            assert (await proxy.get("/alice")).content == b"/alice"
    assert [request.target for request in origin.requests] == 3 * ["/a", "/alice"]
