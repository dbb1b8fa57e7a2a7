"""The admin listener over real sockets: what it tells, and what it changes."""

from __future__ import annotations

import asyncio
import logging

import orjson
import pytest

from config import answers
from config.flags import Flags
from proxy.observe.events import PurgeKind
from proxy.server.admin import PurgeOrder
from tests.server.control import Client, Scripted

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
        ("/api/flags", Flags().as_dict() | {"settings": Flags().as_dict(), "pinned": {"BYPASS": False}, "untold": {}}),
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


async def sent(client: Client, fields: str, content: str = "") -> str:
    """The answer to a change of flags with these fields."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = "PATCH /api/flags HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}{fields}\r\n\r\n{content}".encode("latin-1"))
    answer = (await reader.read()).decode()
    writer.close()
    return answer


async def test_a_length_may_have_any_number_of_zeros(client: Client) -> None:
    """RFC 9110 8.6; Python reads no number of more than 4300 digits."""
    answer = await sent(client, f"Content-Length: {'0' * 5000}16", '{"BYPASS": true}')
    assert answer.startswith("HTTP/1.1 200 OK")
    assert '"BYPASS":true' in answer


@pytest.mark.parametrize(
    "fields",
    ["Authorization: Bearer sk-geheim\x01", "Content-Length: sk-geheim", "sk-geheim", "Transfer-Encoding: sk-geheim"],
)
async def test_what_is_no_http_is_refused_and_not_logged(
    client: Client, fields: str, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp's server would show it, with whatever credential it holds."""
    caplog.set_level(logging.DEBUG)
    assert (await sent(client, fields)).startswith("HTTP/1.0 400 Bad Request")
    assert "geheim" not in caplog.text


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
