"""A real browser for tests of pages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.programs import Unavailable, program

PATIENCE_MS = 15_000.0


@dataclass
class Tab:
    """A page, and what it complained of: faults of scripts, breaches of its policy, what could not be loaded."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda fault: self.faults.append(str(fault)))


@contextlib.asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Chromium without a screen. The test is skipped where there is none and none can be fetched."""
    try:
        chromium = program("chromium-headless-shell")
    except Unavailable as reason:
        pytest.skip(str(reason))
    # as root it would refuse to start; what it is shown here is our own
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium.path,
            env=dict(chromium.environ),
            args=["--disable-gpu", "--disable-dev-shm-usage", *sandbox],
        )
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def tab(
    browser: Browser, url: str, width: int = 1280, scheme: Literal["light", "dark"] = "light"
) -> AsyncIterator[Tab]:
    """A page of its own, with storage of its own."""
    context = await browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    try:
        opened = Tab(await context.new_page())
        await opened.page.goto(url)
        yield opened
    finally:
        await context.close()
