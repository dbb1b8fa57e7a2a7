"""The live page in a real browser, before a real proxy's process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from deploy.asking import ways
from deploy.check.monitor import grade
from proxy.server.live import LiveSettings
from tests.deploy.stacks import running_stack
from tests.e2e.browsers import PATIENCE_MS, Tab, running_browser, tab
from tests.e2e.proxies import proxy_process
from tests.redis_servers import running_redis
from tests.support import Client, Origin, Turn, serving

FRESH = "Cache-Control: max-age=60"
NASTY = "/<img/src=x/onerror=document.title='taken'>"
TOO_WIDE = """() => [...document.body.querySelectorAll("*")]
  .filter((one) => one.checkVisibility() && !one.matches(".unseen") && one.getBoundingClientRect().right > innerWidth)
  .map((one) => `${one.tagName} ${one.id} ${one.className}`)"""
NONE = "\N{EN DASH}"
"""Where there is no figure."""
SESAME = "correct-horse-battery-staple"
CONTROLS = {"button", "switch", "link", "textbox", "combobox", "checkbox", "meter", "dialog", "table"}

CONTRAST = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = numbers(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const faults = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(":disabled")) continue;
    const [one, two] = [light(numbers(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) faults.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return faults;
}"""
"""Texts that are nearer to their background than WCAG 2 (1.4.3) allows."""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as browser:
        yield browser


async def live(page: Page) -> None:
    """Until the first numbers are here."""
    await expect(page.get_by_text("Live", exact=True)).to_be_visible(timeout=PATIENCE_MS)


async def tab_to(page: Page, name: str) -> list[str]:
    """Press Tab until the flag's switch has the focus; the flags that had it before."""
    passed: list[str] = []
    for _ in range(20):
        await page.keyboard.press("Tab")
        flag = await page.evaluate("document.activeElement.dataset.flag || ''")
        if flag == name:
            return passed
        passed += [flag] if flag else []
    raise AssertionError(f"{name} is not reached by Tab")


async def flags_of(admin: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{admin}/api/flags") as answer:
        document: dict[str, Any] = await answer.json()
        return document


async def test_numbers_move_and_a_path_is_only_text(browser: Browser, origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        if "img" in turn.request.target:
            # what is shown is what is slow
            await asyncio.sleep(0.6)
        await turn.answer("hello", FRESH)

    origin.script = script
    async with proxy_process(origin.url) as proxy, tab(browser, f"{proxy.admin}/") as opened:
        page = opened.page
        await live(page)
        assert await page.locator("#no-outcomes").is_visible()
        client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
        try:
            for _ in range(4):
                assert (await client.request("GET", "/a")).status == 200
            assert (await client.request("GET", f"{NASTY}?secret=1")).status == 200
        finally:
            client.close()
        hits = page.get_by_role("row", name="hit fresh, from the cache")
        await expect(hits.get_by_role("cell").nth(2)).to_have_text("3", timeout=PATIENCE_MS)
        await expect(page.locator("#hit-rate")).to_have_text("60.0 %", timeout=PATIENCE_MS)
        await expect(page.locator("#rate")).not_to_have_text(NONE, timeout=PATIENCE_MS)
        slow = page.get_by_role("table", name="The slowest of the last ten minutes")
        await expect(slow.get_by_role("row")).to_have_count(2, timeout=PATIENCE_MS)
        assert await slow.locator("code").inner_text() == f"GET {NASTY}"
        assert "secret" not in await page.content()
        assert (await page.locator("img").count(), await page.title()) == (0, "Siding")
        await expect(page.locator("#p99")).to_contain_text("ms", timeout=PATIENCE_MS)
        await expect(page.locator("#pool-verdict")).to_have_text("Not known here: POOL_MONITOR_URL is not set.")
        assert opened.faults == []


async def test_a_flag_is_flipped_by_the_keyboard_alone(browser: Browser, origin: Origin) -> None:
    async with proxy_process(origin.url) as proxy, tab(browser, f"{proxy.admin}/") as opened:
        page = opened.page
        await live(page)
        assert await tab_to(page, "ENABLE_ETAG") == ["BYPASS", "ENABLE_QUERY_CACHE"]
        await page.keyboard.press("Space")
        await expect(page.get_by_text("ENABLE_ETAG is off.")).to_be_visible()
        assert not (await flags_of(proxy.admin))["ENABLE_ETAG"]
        etag = page.get_by_role("switch", name="ENABLE_ETAG")
        await expect(etag).to_have_attribute("aria-checked", "false")
        await expect(etag).to_be_focused()

        # what another flips is seen
        async with aiohttp.ClientSession() as session:
            await session.patch(f"{proxy.admin}/api/flags", json={"ENABLE_ETAG": True})
        await expect(etag).to_have_attribute("aria-checked", "true")

        # the master switch asks first, and Escape is no
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Enter")
        asked = page.get_by_role("dialog", name="Switch BYPASS on?")
        await expect(asked).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(asked).to_be_hidden()
        bypass = page.get_by_role("switch", name="BYPASS")
        await expect(bypass).to_be_focused()
        assert not (await flags_of(proxy.admin))["BYPASS"]
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Switch BYPASS on").click()
        await expect(page.get_by_text("Every request goes straight to the origin")).to_be_visible()
        assert (await flags_of(proxy.admin))["BYPASS"]
        await bypass.click()
        await expect(page.get_by_text("Every request goes straight to the origin")).to_be_hidden()
        assert not (await flags_of(proxy.admin))["BYPASS"]
        assert opened.faults == []


async def test_the_token_is_asked_for_once(browser: Browser, origin: Origin) -> None:
    async with (
        proxy_process(origin.url, admin_token=SESAME) as proxy,
        tab(browser, f"{proxy.admin}/") as opened,
    ):
        page = opened.page
        await live(page)
        await page.get_by_role("switch", name="ENABLE_DEDUP").click()
        asked, field = page.get_by_role("dialog", name="Token"), page.get_by_label("ADMIN_TOKEN", exact=True)
        await expect(field).to_be_focused()

        await asked.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_text("ENABLE_DEDUP was not changed: no token was given.")).to_be_visible()
        await page.get_by_role("switch", name="ENABLE_DEDUP").click()
        await field.fill("wrong")
        await page.keyboard.press("Enter")
        await expect(asked.get_by_role("alert")).to_have_text("That is not the token.")
        assert (await flags_of(proxy.admin))["ENABLE_DEDUP"]
        await field.fill(SESAME)
        await asked.get_by_role("button", name="Go on").click()
        await expect(page.get_by_text("ENABLE_DEDUP is off.")).to_be_visible()
        assert not (await flags_of(proxy.admin))["ENABLE_DEDUP"]

        await page.get_by_role("switch", name="ENABLE_ETAG").click()
        await expect(page.get_by_text("ENABLE_ETAG is off.")).to_be_visible()
        await page.reload()
        await live(page)
        await page.get_by_role("switch", name="ENABLE_ETAG").click()
        await expect(page.get_by_text("ENABLE_ETAG is on.")).to_be_visible()
        assert SESAME not in page.url + await page.content()

        await page.get_by_role("button", name="Forget the token").click()
        await page.get_by_role("switch", name="ENABLE_ETAG").click()
        await expect(asked).to_be_visible()
        # what a browser says of a 401 by itself
        assert [fault for fault in opened.faults if "401 (Unauthorized)" not in fault] == []


async def test_the_purge_box_purges(browser: Browser, origin: Origin) -> None:
    origin.respond("one", FRESH)
    async with (
        proxy_process(origin.url) as proxy,
        tab(browser, f"{proxy.admin}/") as opened,
        aiohttp.ClientSession() as session,
    ):
        page = opened.page
        await live(page)

        async def ask(path: str) -> str:
            async with session.get(f"{proxy.url}{path}") as answer:
                return answer.headers["Cache-Status"]

        for path in ("/a", "/b", "/c/1"):
            await ask(path)
            assert "; hit" in await ask(path)
        button, value = page.get_by_role("button", name="Purge", exact=True), page.get_by_label("Path or URL")

        await button.click()
        await expect(page.get_by_text("Say what is to be purged.")).to_be_visible()
        await expect(value).to_be_focused()
        await value.fill("/a")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("/a is purged")).to_be_visible()
        assert "fwd=uri-miss" in await ask("/a")
        assert "; hit" in await ask("/b")

        await page.get_by_label("What").select_option("a prefix")
        await value.fill("/c")
        await page.get_by_label("Only make stale").check()
        await button.click()
        await expect(page.get_by_text("What begins with /c is made stale")).to_be_visible()
        assert "fwd=stale" in await ask("/c/1")

        await page.get_by_label("What").select_option("a tag")
        await page.get_by_label("Tag", exact=True).fill("x" * 300)
        await button.click()
        await expect(page.get_by_text("Nothing was purged:")).to_contain_text("longer than 256 bytes")

        await page.get_by_label("Only make stale").uncheck()
        await page.get_by_label("What").select_option("everything")
        await button.click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        assert "; hit" in await ask("/b")
        await button.click()
        await page.get_by_role("button", name="Purge everything").click()
        await expect(page.get_by_text("Everything is purged")).to_be_visible()
        assert "fwd=uri-miss" in await ask("/b")
        # what a browser says of a 400 by itself
        assert [fault for fault in opened.faults if "400 (Bad Request)" not in fault] == []


async def test_a_restart_is_told_and_outlived(browser: Browser, origin: Origin) -> None:
    async with proxy_process(origin.url) as proxy:
        port = proxy.admin.rpartition(":")[2]
        async with tab(browser, f"{proxy.admin}/") as opened:
            page = opened.page
            await live(page)
            await page.get_by_label("Path or URL").fill("/half/typed")
            proxy.child.process.terminate()
            async with asyncio.timeout(5):
                # who listens to the stream keeps nothing from ending
                assert await proxy.child.end() == 0
            await expect(page.locator("#link")).to_contain_text("No data since", timeout=PATIENCE_MS)
            await expect(page.locator("#switch-scope")).to_contain_text("Not known now")
            await page.get_by_role("switch", name="ENABLE_ETAG").click()
            await expect(page.get_by_text("ENABLE_ETAG was not changed: the proxy did not answer.")).to_be_visible()
            async with proxy_process(origin.url, admin_port=port) as again, aiohttp.ClientSession() as session:
                await live(page)
                await expect(page.locator("#switch-scope")).to_contain_text("with the next request")
                assert await page.get_by_label("Path or URL").input_value() == "/half/typed"
                async with session.get(f"{again.url}/a"):
                    await expect(page.locator("#outcomes")).to_contain_text("pass", timeout=PATIENCE_MS)
                await page.get_by_role("switch", name="ENABLE_ETAG").click()
                await expect(page.get_by_text("ENABLE_ETAG is off.")).to_be_visible()
            # but for what a browser says of a connection that is refused or cut
            assert [fault for fault in opened.faults if "net::ERR_" not in fault] == []


async def test_it_says_why_there_is_no_stream(browser: Browser, origin: Origin) -> None:
    async with proxy_process(origin.url) as proxy:
        port = proxy.admin.rpartition(":")[2]
        # a browser takes every name under localhost for this machine, as an attacker's DNS may
        async with tab(browser, f"http://siding.localhost:{port}/") as opened:
            await expect(opened.page.locator("#link")).to_have_text(
                "No data (from this machine the Host must be localhost or an IP address); trying again"
            )


async def test_without_the_stream_it_asks_again_and_again(browser: Browser, origin: Origin) -> None:
    async with proxy_process(origin.url) as proxy, contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(headers={"Accept": "text/event-stream"}))
        for _ in range(LiveSettings().listeners):
            await stack.enter_async_context(session.get(f"{proxy.admin}/api/live"))
        opened = await stack.enter_async_context(tab(browser, f"{proxy.admin}/"))
        await live(opened.page)
        async with aiohttp.ClientSession() as other, other.get(f"{proxy.url}/a"):
            await expect(opened.page.locator("#outcomes")).to_contain_text("pass", timeout=PATIENCE_MS)


async def test_with_redis_a_flip_is_for_all_replicas_unless_told_otherwise(
    browser: Browser, origin: Origin, tmp_path: Path
) -> None:
    async with (
        running_redis(tmp_path) as redis,
        proxy_process(origin.url, redis_url=redis.url) as one,
        proxy_process(origin.url, redis_url=redis.url) as two,
        tab(browser, f"{one.admin}/") as opened,
    ):
        page = opened.page
        await live(page)
        await page.get_by_role("switch", name="ENABLE_ETAG").click()
        await expect(page.get_by_text("ENABLE_ETAG is off in all replicas.")).to_be_visible()
        async with asyncio.timeout(PATIENCE_MS / 1000):
            while (await flags_of(two.admin))["ENABLE_ETAG"]:
                pass
        await page.get_by_label("Flip in all replicas").uncheck()
        await page.get_by_role("switch", name="ENABLE_DEDUP").click()
        await expect(page.get_by_text("ENABLE_DEDUP is off.")).to_be_visible()
        assert not (await flags_of(one.admin))["ENABLE_DEDUP"]
        assert (await flags_of(two.admin))["ENABLE_DEDUP"]
        pinned = page.locator("#pinned")
        await expect(pinned).to_contain_text("whatever their settings say: ENABLE_ETAG off. To hand")
        await page.get_by_role("switch", name="ENABLE_ETAG").click()
        await expect(pinned).to_contain_text("ENABLE_ETAG off (not here).")
        await page.get_by_role("switch", name="ENABLE_COMPRESSION").click()
        await page.get_by_role("button", name="Hand all back").click()
        await expect(page.get_by_role("dialog")).to_contain_text(
            "Here that changes: ENABLE_DEDUP on, ENABLE_COMPRESSION on."
        )
        await page.get_by_role("button", name="Hand all back", exact=True).click()
        await expect(page.get_by_text("All flags are what the settings say of each replica.")).to_be_visible()
        await expect(page.get_by_role("switch", name="ENABLE_COMPRESSION")).to_have_attribute("aria-checked", "true")
        await expect(pinned).to_be_hidden(timeout=PATIENCE_MS)
        assert (await flags_of(one.admin))["pinned"] == {}
        assert opened.faults == []


async def test_what_is_lost_if_redis_stays_away_is_said(browser: Browser, origin: Origin, tmp_path: Path) -> None:
    async with (
        running_redis(tmp_path) as redis,
        proxy_process(origin.url, redis_url=redis.url) as proxy,
        tab(browser, f"{proxy.admin}/") as opened,
    ):
        page = opened.page
        await live(page)
        redis.process.kill()
        await redis.process.wait()
        await page.get_by_label("Flip in all replicas").check()
        await page.get_by_role("switch", name="ENABLE_ETAG").click()
        await expect(page.locator("#flag-result")).to_contain_text(
            "ENABLE_ETAG is off here alone: Redis does not answer"
        )
        await expect(page.locator("#flag-result")).to_contain_text("if this proxy ends before, it is lost.")
        await expect(page.locator("#untold")).to_contain_text(
            "not told yet: ENABLE_ETAG off. If this proxy ends before"
        )
        await page.get_by_label("Flip in all replicas").uncheck()
        await page.get_by_role("switch", name="ENABLE_ETAG").click()
        await expect(page.locator("#untold")).to_contain_text("not told yet: ENABLE_ETAG off (not here). If this")
        assert await page.evaluate(CONTRAST) == []
        await page.get_by_label("Path or URL").fill("/a")
        await page.get_by_role("button", name="Purge", exact=True).click()
        await expect(page.locator("#purge-result")).to_contain_text(
            "the other replicas purge it once it does, and not if"
        )
        assert opened.faults == []


async def test_before_the_whole_stack_it_shows_the_monitor_too(browser: Browser) -> None:
    async with (
        running_stack() as up,
        ways([up.monitor], 30) as (monitor,),
        tab(browser, f"{up.admin}/") as opened,
        aiohttp.ClientSession() as session,
    ):
        page = opened.page
        await live(page)
        await expect(page.locator("#pool-verdict")).to_have_text("Healthy.", timeout=PATIENCE_MS)
        await expect(page.get_by_role("meter", name="Database pool")).to_be_visible()
        await expect(page.locator("#pool-active")).to_contain_text("of 20")
        assert monitor is not None
        await grade(monitor)
        await expect(page.locator("#grading-words")).to_contain_text("fewer tokens", timeout=PATIENCE_MS)
        await expect(page.locator("#grading-input")).to_contain_text("%")
        await expect(page.locator("#grading-money")).to_contain_text("$")

        prompts = page.get_by_role("listitem").filter(has_text="USE_OPTIMIZED_PROMPTS")
        await expect(prompts).to_have_text("USE_OPTIMIZED_PROMPTS: on")
        await expect(page.locator("#monitor-flags-more")).to_contain_text(f"siding rollback --admin {up.monitor} --set")
        assert await page.get_by_role("switch", name="USE_OPTIMIZED_PROMPTS").count() == 0
        async with session.patch(f"{up.monitor}/api/flags", json={"USE_OPTIMIZED_PROMPTS": False}) as answer:
            assert answer.status == 200
        await expect(prompts).to_have_text("USE_OPTIMIZED_PROMPTS: off", timeout=PATIENCE_MS)
        assert opened.faults == []


async def test_services_that_do_not_know_yet_what_they_have_not_told_are_shown(
    browser: Browser, origin: Origin
) -> None:
    """Proxy, monitor and page are not of the same age while they are deployed one after the other."""
    documents: dict[str, dict[str, Any]] = {
        "/api/metrics/database-pool": {"state": "off", "verdict": "off", "activeConnections": 0},
        "/api/metrics/grading": {},
        "/api/flags": {"USE_OPTIMIZED_PROMPTS": True},
    }
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(documents[request.path])

    app.router.add_get("/{path:.*}", answer)
    async with (
        serving(app) as monitor,
        proxy_process(origin.url, pool_monitor_url=monitor) as proxy,
        tab(browser, f"{proxy.admin}/") as opened,
    ):
        page = opened.page
        await live(page)
        prompts = page.get_by_role("listitem").filter(has_text="USE_OPTIMIZED_PROMPTS")
        await expect(prompts).to_have_text("USE_OPTIMIZED_PROMPTS: on", timeout=PATIENCE_MS)
        async with aiohttp.ClientSession() as session, session.get(f"{proxy.admin}/api/live") as told:
            snapshot = await told.json()
        del snapshot["untold"]
        await page.evaluate("take", snapshot)
        assert opened.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_read_and_fits(
    browser: Browser, origin: Origin, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    origin.respond("one", FRESH)
    async with proxy_process(origin.url, workers="2") as proxy, aiohttp.ClientSession() as session:
        for _ in range(5):
            async with session.get(f"{proxy.url}/a"):
                pass
        async with session.get(f"{proxy.admin}/api/live") as answer:
            told = await answer.json()
        assert (sum(told["outcomes"].values()), sum(told["buckets"]), len(told["instances"])) == (5, 5, 2)
        for width in (1280, 390, 320):
            async with tab(browser, f"{proxy.admin}/", width, scheme) as opened:
                page = opened.page
                await live(page)
                await expect(page.locator("#about")).to_contain_text("2 of 2 workers answer")
                await expect(page.locator("#outcomes")).to_be_visible()
                assert await page.evaluate(TOO_WIDE) == []
                assert await page.evaluate(CONTRAST) == []
                await expect_names(opened)
                await page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
                await page.get_by_role("switch", name="BYPASS").click()
                assert await page.evaluate(CONTRAST) == []
                await expect_names(opened)
                await page.screenshot(path=tmp_path / f"{scheme}-{width}-asked.png")
                assert opened.faults == []


async def expect_names(opened: Tab) -> None:
    """Each control, table and dialog has a name for those who do not see it."""
    session = await opened.page.context.new_cdp_session(opened.page)
    tree = await session.send("Accessibility.getFullAXTree")
    nodes = [node for node in tree["nodes"] if not node["ignored"] and node["role"]["value"] in CONTROLS]
    assert len(nodes) > 1
    assert [node["role"]["value"] for node in nodes if not node.get("name", {}).get("value")] == []
    await session.detach()


# -- the pure part of the script


@pytest.fixture
async def figures(browser: Browser) -> Page:
    """A page that knows the functions of figures.js and nothing else."""
    page = await browser.new_page()
    path = Path(__file__).parents[2] / "proxy" / "server" / "page" / "figures.js"
    await page.add_script_tag(content=path.read_text(encoding="utf-8"))
    return page


def snapshot(at: float, hits: int = 0, instances: str = "a") -> dict[str, Any]:
    return {"at": at, "instances": [instances], "counts": {"hits": hits, "misses": 0}}


async def test_figures(figures: Page) -> None:
    async def ask(expression: str, argument: object = None) -> Any:
        return await figures.evaluate(f"(it) => {expression}", argument)

    bounds = [1, 2, 4]
    for buckets, share, expected in (
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),
        ([0, 10, 0, 0], 0.5, 1.5),
        ([5, 0, 5, 0], 0.5, 1),
        ([5, 0, 5, 0], 0.75, 3),
        ([1, 1, 1, 97], 0.95, 4),
    ):
        found = await ask("quantile(it[0], it[1], it[2])", [bounds, buckets, share])
        assert found == (None if expected is None else pytest.approx(expected)), (buckets, share)

    history = await ask("it.reduce(withSnapshot, [])", [snapshot(at, at) for at in range(300)])
    assert (len(history), history[0]["at"]) == (180, 120)
    minute = await ask("span(it, 60)", history)
    assert (minute["first"]["at"], minute["last"]["at"], minute["seconds"]) == (239, 299, 60)
    assert await ask("span(it, 60)", history[:1]) is None
    for other in (snapshot(300, 0, "b"), snapshot(10, 0)):
        assert await ask("withSnapshot(it[0], it[1])", [history, other]) == [other]
    assert await ask("series(it, 2, (between) => between.seconds)", history[:4]) == [None, 1, 2, 2]

    for slowest, expected in (([], 0.5), ([{"seconds": 2.01}], 2.01), ([{"seconds": 9}], 3)):
        last = {"bounds": bounds, "buckets": [1, 1, 3, 0], "slow": slowest, "slowSeconds": 0.5}
        both = {"first": {"buckets": [1, 1, 1, 0]}, "last": last}
        assert await ask("latency(it, 0.5)", both) == expected

    assert await ask("hitRate({ hits: 0, misses: 0 })") is None
    assert await ask("hitRate({ hits: 3, misses: 1 })") == 75
    for form, number, text in (
        ("seconds", 0.00042, "0.42 ms"),
        ("seconds", 0.25, "250 ms"),
        ("seconds", 2.013, "2.01 s"),
        ("seconds", 600, "10 min"),
        ("seconds", None, NONE),
        ("bytes", 0, "0 bytes"),
        ("bytes", 1536, "1.50 KiB"),
        ("bytes", 256 * 2**20, "256 MiB"),
        ("percent", 99.96, "99.96 %"),
        ("percent", 100, "100.0 %"),
        ("percent", None, NONE),
        ("rounded", 1234.5, "1,235"),
    ):
        assert await ask(f"{form}(it)", number) == text
    assert await ask("lines([null, 0, 10, null, 5], 1)") == [[[177, 34.5], [178, 1.5]]]
