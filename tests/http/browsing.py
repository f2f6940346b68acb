"""A real Chromium, headless, driven by Playwright; and all that it asked for and complained of."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest
from playwright.async_api import Browser, Page, async_playwright

REQUIRED = "RELAY_TEST_REQUIRE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DESKTOP, PHONE = (1280, 900), (390, 844)


def find_chromium() -> str:
    """Return its path; skip the test without one, or fail it where one is required."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    why = f"no Chromium found: install Debian's package chromium ({', '.join(NAMES)})"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(why)
    pytest.skip(why)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start it."""
    path = find_chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        await browser.close()


@dataclass
class Seen:
    """A page, and what happened in it."""

    page: Page
    url: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def has(self, script: str, seconds: float = 20) -> None:
        """Wait until an expression of JavaScript is true in the page.

        Playwright's own way of waiting evaluates a text in the page, which the policy forbids.
        """
        deadline = time.monotonic() + seconds
        while not await self.page.evaluate(script):
            assert time.monotonic() < deadline, f"still not so after {seconds} s: {script}"
            await asyncio.sleep(0.05)

    async def headline(self, text: str, seconds: float = 20) -> None:
        await self.has(f"document.getElementById('headline').textContent === '{text}'", seconds)

    async def text(self, selector: str) -> str:
        return (await self.page.text_content(selector) or "").strip()

    async def tab_to(self, wanted: str, most: int = 40) -> None:
        """Press Tab until the focused element matches the selector ``wanted``."""
        for _ in range(most):
            await self.page.keyboard.press("Tab")
            if await self.page.evaluate(f"document.activeElement.matches({wanted!r})"):
                return
        pytest.fail(f"Tab does not lead to {wanted}")


@asynccontextmanager
async def looking_at(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
    may_complain: Callable[[str], bool] = lambda _: False,
) -> AsyncIterator[Seen]:
    """Open the page; afterwards see that nothing else was asked for, and nothing went wrong."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        java_script_enabled=scripts,
    )
    page = await context.new_page()
    seen = Seen(page, url)
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("console", lambda message: seen.complaints.append(message.text))
    await page.goto(url)
    yield seen
    elsewhere = [each for each in seen.requests if not each.startswith((url, "data:"))]
    assert not elsewhere, elsewhere
    complaints = [each for each in seen.complaints if not may_complain(each)]
    assert not complaints, complaints
    await context.close()
