"""The admin listener over real sockets, and its guards over every case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from unittest import mock

import orjson
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from config import answers
from config.access import Refusal, is_local_authority, is_loopback, refusal_of
from config.everywhere import set_flags
from config.flags import Flags
from proxy.observe.events import PurgeKind
from proxy.observe.live import Numbers, added_up
from proxy.server.admin import PurgeOrder, admin_app, parse_purge

SESAME = "correct horse battery staple"
Client = TestClient[web.Request, web.Application]


@dataclass
class Scripted:
    """A `Control` that answers as told and remembers what it was asked."""

    state: tuple[bool, str] = (True, "serving")
    switches: Flags = field(default_factory=Flags)
    orders: list[PurgeOrder] = field(default_factory=list)
    accepts: list[str] = field(default_factory=list)
    fault: Exception | None = None

    async def ready(self) -> tuple[bool, str]:
        return self.state

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        return b"siding_up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async def report_cache(self) -> dict[str, object]:
        if self.fault is not None:
            raise self.fault
        return {"cacheHits": 45, "cacheMisses": 20, "cacheHitRate": "69.23%", "enabled": True}

    async def live(self) -> Numbers:
        return added_up([])

    async def flags(self) -> dict[str, bool]:
        return self.switches.as_dict()

    async def set_flags(self, changes: Mapping[str, object], *, everywhere: bool = False) -> dict[str, bool]:
        return await set_flags(self.switches, changes, everywhere=everywhere, tell=None)

    async def purge(self, order: PurgeOrder) -> dict[str, object]:
        self.orders.append(order)
        return {"purged": order.kind, "value": order.value, "soft": order.soft}

    async def routes(self) -> list[dict[str, object]]:
        return [{"match": "/reports/*", "ttl": 300}]


@pytest.fixture
def control() -> Scripted:
    return Scripted()


@pytest.fixture
async def client(control: Scripted) -> AsyncIterator[Client]:
    """A client of a listener without ADMIN_TOKEN."""
    async with TestClient(TestServer(admin_app(control))) as client:
        yield client


@pytest.fixture
async def guarded(control: Scripted) -> AsyncIterator[Client]:
    """A client of a listener with ADMIN_TOKEN."""
    async with TestClient(TestServer(admin_app(control, SecretStr(SESAME)))) as client:
        yield client


BEARER = {"Authorization": f"Bearer {SESAME}"}


# -- reading


async def test_healthz(client: Client) -> None:
    response = await client.get("/healthz")
    assert response.status == 200
    assert await response.json() == {"status": "ok"}
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("state", "status"), [((True, "serving"), 200), ((False, "draining: no new connections are accepted"), 503)]
)
async def test_readyz(client: Client, control: Scripted, state: tuple[bool, str], status: int) -> None:
    control.state = state
    response = await client.get("/readyz")
    assert response.status == status
    assert await response.json() == {"ready": state[0], "reason": state[1]}


async def test_metrics_go_by_the_accept_field(client: Client, control: Scripted) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    response = await client.get("/metrics", headers=[("Accept", accept), ("Accept", "text/plain")])
    assert await response.read() == b"siding_up 1\n"
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert control.accepts == [f"{accept},text/plain"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "/api/metrics/report-cache",
            {"cacheHits": 45, "cacheMisses": 20, "cacheHitRate": "69.23%", "enabled": True},
        ),
        ("/api/flags", Flags().as_dict()),
        ("/api/routes", [{"match": "/reports/*", "ttl": 300}]),
    ],
)
async def test_documents(guarded: Client, path: str, expected: object) -> None:
    response = await guarded.get(path)
    assert (response.status, response.content_type) == (200, "application/json")
    assert response.headers["Cache-Control"] == "no-store"
    assert orjson.loads(await response.read()) == expected
    assert (await guarded.head(path)).status == 200


async def test_an_unknown_path_is_told_the_known_ones(client: Client) -> None:
    response = await client.get("/nope")
    document = await response.json()
    assert response.status == 404
    assert document["error"]["code"] == "not-found"
    assert document["paths"] == [
        "/",
        "/api/flags",
        "/api/live",
        "/api/metrics/report-cache",
        "/api/purge",
        "/api/routes",
        "/healthz",
        "/metrics",
        "/readyz",
    ]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/healthz", "GET, HEAD"),
        ("GET", "/api/purge", "POST"),
        ("DELETE", "/api/flags", "GET, HEAD, PATCH"),
        ("OPTIONS", "/api/flags", "GET, HEAD, PATCH"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(client: Client, method: str, path: str, allow: str) -> None:
    response = await client.request(method, path)
    assert (response.status, response.headers["Allow"]) == (405, allow)
    assert (await response.json())["error"]["code"] == "method-not-allowed"


async def test_a_fault_is_logged_and_told_in_json(
    client: Client, control: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    control.fault = RuntimeError("the reason")
    response = await client.get("/api/metrics/report-cache")
    assert response.status == 500
    assert (await response.json())["error"]["code"] == "internal-error"
    assert "the reason" not in await response.text()
    assert "the reason" in caplog.text


# -- changing


async def test_flags_are_flipped_and_all_of_them_told(client: Client) -> None:
    response = await client.patch("/api/flags", json={"BYPASS": True})
    assert response.status == 200
    assert await response.json() == Flags().as_dict() | {"BYPASS": True}


async def test_every_fault_of_a_flag_change_is_told(client: Client, control: Scripted) -> None:
    response = await client.patch("/api/flags", json={"NOPE": True, "BYPASS": "perhaps"})
    assert response.status == 400
    document = await response.json()
    assert document["error"]["code"] == "bad-flags"
    assert "NOPE" in document["faults"][0]
    assert "perhaps" in document["faults"][1]
    assert all(fault in document["error"]["message"] for fault in document["faults"])
    assert control.switches.as_dict() == Flags().as_dict()


@pytest.mark.parametrize("document", [[], {}, None, "BYPASS", 7])
async def test_flags_must_be_an_object_of_flags(client: Client, document: object) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.patch("/api/flags", data=orjson.dumps(document), headers=headers)
    assert response.status == 400
    assert (await response.json())["error"]["code"] == "bad-flags"


async def test_a_purge_is_ordered(client: Client, control: Scripted) -> None:
    response = await client.post("/api/purge", json={"tag": "reports", "soft": True})
    assert response.status == 200
    assert await response.json() == {"purged": "tag", "value": "reports", "soft": True}
    assert control.orders == [PurgeOrder(PurgeKind.TAG, "reports", True)]


async def test_a_bad_purge_purges_nothing(client: Client, control: Scripted) -> None:
    response = await client.post("/api/purge", json={"tags": "reports"})
    document = await response.json()
    assert response.status == 400
    assert document["error"]["code"] == "bad-purge"
    assert len(document["faults"]) == 2
    assert control.orders == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"all": tru}', b"\xff", b"[" * 2000])
async def test_what_is_not_json_is_refused(client: Client, content: bytes) -> None:
    response = await client.post("/api/purge", data=content, headers={"Content-Type": "application/json"})
    assert response.status == 400
    assert (await response.json())["error"]["code"] == "bad-json"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_what_a_web_form_can_send_is_refused(client: Client, control: Scripted, content_type: str) -> None:
    response = await client.post("/api/purge", data=b'{"all": true}', headers={"Content-Type": content_type})
    assert (response.status, response.headers["Accept"]) == (415, "application/json")
    assert control.orders == []


async def test_a_charset_does_no_harm(client: Client, control: Scripted) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    response = await client.post("/api/purge", data=b'{"all": true}', headers=headers)
    assert response.status == 200
    assert control.orders == [PurgeOrder(PurgeKind.ALL)]


async def test_large_content_is_refused(client: Client) -> None:
    content = b'{"tag": "' + b"a" * answers.MAX_CONTENT_BYTES + b'"}'
    response = await client.post("/api/purge", data=content, headers={"Content-Type": "application/json"})
    assert response.status == 413
    assert (await response.json())["error"]["code"] == "too-large"


async def test_content_that_does_not_come_is_not_waited_for(
    client: Client, control: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "READ_SECONDS", 0.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"POST /api/purge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"
    )
    async with asyncio.timeout(10):
        status_line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert status_line.split()[1] == b"408"
    assert control.orders == []


# -- with ADMIN_TOKEN


@pytest.mark.parametrize(("method", "path"), [("PATCH", "/api/flags"), ("POST", "/api/purge")])
async def test_the_token_lets_in_and_its_absence_does_not(guarded: Client, method: str, path: str) -> None:
    document = {"BYPASS": True} if method == "PATCH" else {"all": True}
    refused = await guarded.request(method, path, json=document)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="siding admin"'
    assert (await refused.json())["error"]["code"] == "unauthorized"
    assert (await guarded.request(method, path, json=document, headers=BEARER)).status == 200


async def test_a_wrong_token_is_refused_without_touching_anything(guarded: Client, control: Scripted) -> None:
    response = await guarded.post("/api/purge", json={"all": True}, headers={"Authorization": "Bearer wrong"})
    assert response.status == 401
    assert "invalid_token" in response.headers["WWW-Authenticate"]
    assert control.orders == []


@pytest.mark.parametrize(
    ("credentials", "allowed"),
    [
        ([f"Bearer {SESAME}"], True),
        ([f"bearer {SESAME}"], True),
        ([f"Bearer   {SESAME} "], True),
        ([SESAME], False),
        ([f"Basic {SESAME}"], False),
        (["Bearer"], False),
        (["Bearer "], False),
        ([f"Bearer {SESAME}x"], False),
        ([f"Bearer {SESAME[:-1]}"], False),
        (["Bearer \udcff\udce9"], False),
        (["Bearer é"], False),
        ([f"Bearer {SESAME}", f"Bearer {SESAME}"], False),
        ([f"Bearer {SESAME}", "Bearer wrong"], False),
        ([], False),
    ],
)
def test_only_the_token_itself_is_the_token(credentials: list[str], allowed: bool) -> None:
    refusal = refusal_of("192.0.2.1", {"authorization": credentials}, SESAME)
    assert (refusal is None) is allowed
    if refusal is not None:
        assert refusal.status == 401


def test_a_token_may_be_any_text() -> None:
    # a field's octets beyond ASCII reach us decoded as UTF-8
    assert refusal_of("192.0.2.1", {"authorization": ["Bearer zażółć"]}, "zażółć") is None


@given(st.text())
def test_no_other_text_is_the_token(text: str) -> None:
    refusal = refusal_of("127.0.0.1", {"authorization": [f"Bearer {text}"]}, SESAME)
    assert (refusal is None) is (text.strip() == SESAME)


def test_the_token_counts_on_this_machine_too() -> None:
    refusal = refusal_of("127.0.0.1", {"host": ["localhost"]}, SESAME)
    assert refusal is not None
    assert refusal.status == 401


# -- without ADMIN_TOKEN


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - compared, not bound
        ("::", False),
        ("fe80::1%eth0", False),
        ("2001:db8::1", False),
        ("localhost", False),
        ("", False),
        (None, False),
    ],
)
def test_what_is_this_machine(peer: str | None, expected: bool) -> None:
    assert is_loopback(peer) is expected


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("localhost", True),
        ("localhost:9090", True),
        ("LOCALHOST:9090", True),
        ("127.0.0.1", True),
        ("127.0.0.1:9090", True),
        ("192.0.2.1:9090", True),
        ("[::1]", True),
        ("[::1]:9090", True),
        ("evil.example", False),
        ("evil.example:9090", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost:9090:9090", False),
        ("localhost:", False),
        ("localhost:http", False),
        ("localhost:\u0661", False),
        ("::1", False),
        ("[::1", False),
        ("[evil]", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_which_authorities_no_stranger_can_answer_for(authority: str, expected: bool) -> None:
    assert is_local_authority(authority) is expected


@pytest.mark.parametrize(
    ("peer", "fields", "code"),
    [
        ("127.0.0.1", {"host": ["localhost:9090"]}, None),
        ("::ffff:127.0.0.1", {"host": ["127.0.0.1:9090"]}, None),
        ("::1", {"host": ["[::1]:9090"], "origin": ["http://[::1]:9090"]}, None),
        ("192.0.2.1", {"host": ["localhost:9090"]}, "admin-token-not-set"),
        ("192.0.2.1", {"host": ["localhost"], "x-forwarded-for": ["127.0.0.1"]}, "admin-token-not-set"),
        ("192.0.2.1", {"host": ["localhost"], "authorization": ["Bearer x"]}, "admin-token-not-set"),
        (None, {"host": ["localhost"]}, "admin-token-not-set"),
        ("127.0.0.1", {}, "host-not-local"),
        ("127.0.0.1", {"host": ["evil.example:9090"]}, "host-not-local"),
        ("127.0.0.1", {"host": ["localhost", "localhost"]}, "host-not-local"),
        ("127.0.0.1", {"host": ["localhost:9090"], "origin": ["http://evil.example"]}, "cross-origin"),
        ("127.0.0.1", {"host": ["localhost:9090"], "origin": ["http://localhost:3000"]}, "cross-origin"),
        ("127.0.0.1", {"host": ["localhost:9090"], "origin": ["https://localhost:9090"]}, "cross-origin"),
        ("127.0.0.1", {"host": ["localhost:9090"], "origin": ["null"]}, "cross-origin"),
        (
            "127.0.0.1",
            {"host": ["localhost:9090"], "origin": ["http://localhost:9090", "http://localhost:9090"]},
            "cross-origin",
        ),
    ],
)
def test_who_may_change_something_without_a_token(
    peer: str | None, fields: dict[str, list[str]], code: str | None
) -> None:
    refusal = refusal_of(peer, fields, None)
    assert (refusal.code if refusal is not None else None) == code
    if refusal is not None:
        assert refusal.status == 403
        assert "ADMIN_TOKEN" in refusal.message


def test_an_empty_token_is_none() -> None:
    refusal = refusal_of("192.0.2.1", {"authorization": ["Bearer "]}, "")
    assert refusal is not None
    assert refusal.code == "admin-token-not-set"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"Origin": "http://evil.example"}, "cross-origin"),
        ({"Host": "rebound.example"}, "host-not-local"),
    ],
)
async def test_a_browser_led_astray_changes_nothing(
    client: Client, control: Scripted, fields: dict[str, str], code: str
) -> None:
    response = await client.post("/api/purge", json={"all": True}, headers=fields)
    assert response.status == 403
    assert (await response.json())["error"]["code"] == code
    assert control.orders == []


async def test_our_own_page_may_change_something(client: Client) -> None:
    own = f"http://127.0.0.1:{client.port}"
    assert (await client.post("/api/purge", json={"all": True}, headers={"Origin": own})).status == 200


@pytest.mark.parametrize("peername", [("192.0.2.7", 4711), ("2001:db8::7", 4711, 0, 0), "", None])
async def test_the_peer_is_that_of_the_socket(control: Scripted, peername: object) -> None:
    transport = mock.Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: peername if name == "peername" else default
    app = admin_app(control)
    app.freeze()
    headers = {"Host": "localhost", "Content-Type": "application/json", "X-Forwarded-For": "127.0.0.1"}
    request = make_mocked_request("POST", "/api/purge", headers=headers, transport=transport, app=app)
    response = await app._handle(request)
    assert isinstance(response, web.Response)
    assert response.status == 403
    assert isinstance(response.body, bytes)
    assert orjson.loads(response.body)["error"]["code"] == "admin-token-not-set"
    assert control.orders == []


async def test_a_page_that_asks_first_gets_no_permission(client: Client) -> None:
    async with ClientSession() as session:
        preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        async with session.options(client.make_url("/api/purge"), headers=preflight) as response:
            assert response.status == 405
            assert not [name for name in response.headers if name.lower().startswith("access-control")]


# -- what a purge names


@pytest.mark.parametrize(
    ("document", "order"),
    [
        ({"all": True}, PurgeOrder(PurgeKind.ALL)),
        ({"all": True, "soft": True}, PurgeOrder(PurgeKind.ALL, "", True)),
        ({"tag": "reports"}, PurgeOrder(PurgeKind.TAG, "reports")),
        ({"tag": "http://x", "soft": False}, PurgeOrder(PurgeKind.TAG, "http://x")),
        ({"url": "/reports?week=40"}, PurgeOrder(PurgeKind.URL, "/reports?week=40")),
        ({"prefix": "/reports/"}, PurgeOrder(PurgeKind.PREFIX, "/reports/")),
        ({"url": "HTTP://Example.ORG:80/A/b?C"}, PurgeOrder(PurgeKind.URL, "http://example.org/A/b?C")),
        ({"url": "https://example.org:443/"}, PurgeOrder(PurgeKind.URL, "https://example.org/")),
        ({"url": "https://example.org:80/"}, PurgeOrder(PurgeKind.URL, "https://example.org:80/")),
        ({"url": "http://example.org"}, PurgeOrder(PurgeKind.URL, "http://example.org/")),
        ({"prefix": "http://Example.o"}, PurgeOrder(PurgeKind.PREFIX, "http://example.o")),
        ({"prefix": "http://Example.org:80/A"}, PurgeOrder(PurgeKind.PREFIX, "http://example.org/A")),
        ({"url": "/caf\u00e9"}, PurgeOrder(PurgeKind.URL, "/caf\u00c3\u00a9")),
    ],
)
def test_what_a_purge_means(document: dict[str, object], order: PurgeOrder) -> None:
    assert parse_purge(document) == order


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        (None, ["not a JSON object"]),
        ([], ["not a JSON object"]),
        ({}, ["0 of url, prefix, tag and all"]),
        ({"soft": True}, ["0 of url, prefix, tag and all"]),
        ({"tag": "a", "url": "/a"}, ["2 of url, prefix, tag and all"]),
        ({"tag": "a", "regex": ".*"}, ["unknown key 'regex'"]),
        ({"tag": "a", "soft": 1}, ['"soft" is neither']),
        ({"tag": "a", "soft": None}, ['"soft" is neither']),
        ({"all": False}, ['"all" is not true']),
        ({"all": 1}, ['"all" is not true']),
        ({"tag": ""}, ['"tag" is not a text']),
        ({"tag": 7}, ['"tag" is not a text']),
        ({"tag": ["a"]}, ['"tag" is not a text']),
        ({"tag": "a" * 257}, ['"tag" is longer than 256 bytes']),
        ({"url": "/" + "a" * 16384}, ['"url" is longer than 16384 bytes']),
        ({"url": "reports"}, ['"url" is neither a path']),
        ({"url": "ftp://example.org/"}, ['"url" is neither a path']),
        ({"url": "http:///reports"}, ['"url" is neither a path']),
        ({"url": "http://example.org?x"}, ['"url" is neither a path']),
        ({"prefix": "http://"}, ['"prefix" is neither a path']),
        ({"url": "http://example.org/#top"}, ['"url" is neither a path']),
        ({"tag": 7, "soft": "yes", "x": 1}, ["unknown key 'x'", '"soft" is neither', '"tag" is not a text']),
    ],
)
def test_what_is_wrong_with_a_purge(document: object, faults: list[str]) -> None:
    with pytest.raises(Refusal) as caught:
        parse_purge(document)
    told = caught.value.more["faults"]
    assert isinstance(told, list)
    assert len(told) == len(faults)
    assert all(expected in given for expected, given in zip(faults, told, strict=True))
    assert "exactly one of" in caught.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
keys = st.sampled_from(["url", "prefix", "tag", "all", "soft", "other"])


@given(st.dictionaries(keys, json_values | st.sampled_from([True, "/a", "http://a/"]), max_size=3) | json_values)
def test_any_document_is_an_order_or_a_refusal(document: object) -> None:
    try:
        order = parse_purge(document)
    except Refusal:
        return
    assert isinstance(document, dict)
    assert order.kind in document
    assert set(document) <= {order.kind, "soft"}
    assert order.soft is document.get("soft", False)
