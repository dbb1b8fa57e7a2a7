"""Tags purged at the proxy, whatever the proxy is at."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from config.listen import spare_port
from pool_monitor import proxy_tags as module
from pool_monitor.proxy_tags import ProxyTags
from tests.pool_monitor.support import Proxy, purged_proxy
from tests.support import PATIENCE, holds, until


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(module, "TELL_SECONDS", 0.0)


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "siding.proxy_tags"]


async def fails_then_answers(proxy: Proxy, tags: ProxyTags, status: int) -> None:
    """It fails, is asked again, and answers so."""
    proxy.answers = 503
    tags.purge(["reports"])
    await proxy.asked.get()
    await proxy.asked.get()
    proxy.answers = status
    assert tags._task is not None
    await tags._task


async def test_a_proxy_that_is_away_is_asked_until_it_is_there(caplog: pytest.LogCaptureFixture) -> None:
    port = spare_port()
    tags = ProxyTags(f"http://127.0.0.1:{port}", SecretStr("door"))
    with caplog.at_level("INFO", "siding.proxy_tags"):
        tags.purge(["reports", "homework"])
        await holds(lambda: levels(caplog))
        async with purged_proxy(port) as proxy, asyncio.timeout(PATIENCE):
            purged = [await proxy.asked.get(), await proxy.asked.get()]
            await tags.close()
    assert sorted(purged, key=str) == [({"tag": "homework"}, "Bearer door"), ({"tag": "reports"}, "Bearer door")]
    assert levels(caplog) == ["WARNING", "INFO"]


async def test_one_that_fails_is_asked_again_and_one_that_refuses_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async with purged_proxy() as proxy, asyncio.timeout(PATIENCE):
        tags = ProxyTags(proxy.url, None)
        await fails_then_answers(proxy, tags, 401)
        # a wrong token is not told of with every change
        tags.purge(["homework"])
        assert tags._task is not None
        await tags._task
        await tags.close()
    assert caplog.text.count("the proxy answered 401; is PROXY_ADMIN_TOKEN its ADMIN_TOKEN?") == 1
    assert levels(caplog) == ["WARNING", "ERROR"]


@pytest.mark.parametrize("flags", ["an application", {"ok": True}, []])
async def test_the_token_is_for_an_admin_listener_alone(flags: object, caplog: pytest.LogCaptureFixture) -> None:
    async with purged_proxy() as other, asyncio.timeout(PATIENCE):
        other.flags, its = flags, other.flags
        tags = ProxyTags(other.url, SecretStr("door"))
        tags.purge(["reports"])
        for _ in range(3):
            await other.looked.get()
        assert other.asked.empty()
        other.flags = its
        assert await other.asked.get() == ({"tag": "reports"}, "Bearer door")
        await tags.close()
    assert caplog.text.count("what PROXY_ADMIN_URL names is no admin listener") == 1


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 429, 502])
async def test_who_answers_while_the_proxy_is_away_is_not_believed(status: int) -> None:
    async with purged_proxy() as proxy, asyncio.timeout(PATIENCE):
        tags = ProxyTags(proxy.url, SecretStr("door"))
        tags.purge(["reports"])
        await proxy.asked.get()
        # whoever that is, it has to show that it is an admin listener first
        proxy.answers, proxy.flags, its = status, "a router", proxy.flags
        proxy.looked.get_nowait()
        tags.purge(["homework"])
        await proxy.asked.get()
        for _ in range(3):
            await proxy.looked.get()
        assert proxy.asked.empty()
        proxy.answers, proxy.flags = 200, its
        assert await proxy.asked.get() == ({"tag": "homework"}, "Bearer door")
        await tags.close()


async def test_another_on_the_port_of_a_proxy_that_went_is_not_told_the_token() -> None:
    port = spare_port()
    tags = ProxyTags(f"http://127.0.0.1:{port}", SecretStr("door"))
    async with asyncio.timeout(PATIENCE):
        async with purged_proxy(port) as proxy:
            tags.purge(["reports"])
            await proxy.asked.get()
        tags.purge(["homework"])
        await until(lambda: bool(tags._wanted))
        async with purged_proxy(port) as other:
            other.flags = "another"
            await other.looked.get()
            await other.looked.get()
            assert other.asked.empty()
        async with purged_proxy(port) as proxy:
            assert await proxy.asked.get() == ({"tag": "homework"}, "Bearer door")
        await tags.close()


async def test_a_proxy_that_is_only_restarted_is_not_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "TELL_SECONDS", PATIENCE)
    async with purged_proxy() as proxy, asyncio.timeout(PATIENCE):
        tags = ProxyTags(proxy.url, None)
        await fails_then_answers(proxy, tags, 200)
        await tags.close()
    assert levels(caplog) == []


async def test_what_changes_while_it_is_being_purged_is_purged_again() -> None:
    async with purged_proxy() as proxy, asyncio.timeout(PATIENCE):
        tags = ProxyTags(proxy.url, None)
        proxy.go.clear()
        tags.purge(["reports"])
        await proxy.asked.get()
        tags.purge(["reports"])
        proxy.go.set()
        assert tags._task is not None
        await tags._task
        assert proxy.asked.qsize() == 1
        await tags.close()


async def test_what_is_wanted_in_any_moment_is_purged() -> None:
    async with purged_proxy() as proxy, asyncio.timeout(PATIENCE):
        tags = ProxyTags(proxy.url, None)
        for number in range(50):
            tags.purge([f"tag-{number}"])
            assert await proxy.asked.get() == ({"tag": f"tag-{number}"}, None)
            # a step further each time, until the last is done with
            for _ in range(number):
                await asyncio.sleep(0)
        await tags.close()


async def test_closing_tries_once_more_however_long_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", PATIENCE * 10)
    async with purged_proxy() as proxy, asyncio.timeout(PATIENCE):
        tags = ProxyTags(proxy.url, None)
        proxy.answers = 503
        tags.purge(["reports"])
        await proxy.asked.get()
        await until(lambda: bool(tags._wanted))
        proxy.answers = 200
        await tags.close()
        assert proxy.asked.get_nowait() == ({"tag": "reports"}, None)
        assert not tags._wanted


@pytest.mark.parametrize("mute", [True, False])
async def test_closing_does_not_wait_for_a_proxy_that_stays_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mute: bool
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.05)
    async with purged_proxy() as proxy, asyncio.timeout(PATIENCE):
        proxy.go.clear()
        tags = ProxyTags(proxy.url if mute else f"http://127.0.0.1:{spare_port()}", None)
        tags.purge(["reports", "homework"])
        await tags.close()
        proxy.go.set()
    assert "reports" in caplog.messages[-1]
    assert "homework" in caplog.messages[-1]
    assert levels(caplog)[-1] == "ERROR"


async def test_without_a_proxy_nothing_is_done() -> None:
    tags = ProxyTags(None, None)
    tags.purge(["reports"])
    assert tags._task is None
    await tags.close()
