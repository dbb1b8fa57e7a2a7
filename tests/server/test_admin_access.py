"""Who may change something at the admin listener, with a token and without, over every case."""

from __future__ import annotations

from unittest import mock

import orjson
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from config.access import is_local_authority, is_loopback, refusal_of
from proxy.server.admin import admin_app
from tests.server.control import BEARER, SESAME, Client, Scripted

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
