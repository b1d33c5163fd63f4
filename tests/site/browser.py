"""
A checker of pages in Chromium: accessibility by axe, and no overflow at the width of a telephone.

Each page is checked in its light and its dark form, at 400 and 1,280 pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright

from tests.chromium import CHROMIUM, FLAGS

__all__ = ("complaints_about", "open_browser")

_WIDTHS = (400, 1280)
_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# Elements that reach beyond the window, other than those in a box of their own that scrolls.
_WIDER = """
() => [...document.querySelectorAll("body *")].filter(one => {
  if (one.getBoundingClientRect().right <= window.innerWidth + 1) return false;
  if (!one.checkVisibility({opacityProperty: true, visibilityProperty: true})) return false;
  for (let box = one; box; box = box.parentElement) {
    const {overflowX, position} = getComputedStyle(box);
    if (overflowX !== "visible" && box !== document.body) return false;
    if (position === "fixed") return false;
  }
  return true;
}).slice(0, 3).map(one => one.tagName.toLowerCase() + "." + one.className)
"""


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Run Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


async def complaints_about(
    browser: Browser, urls: Iterable[str], pictures: Path | None = None
) -> list[str]:
    """Return the faults of pages, and save a picture of each form into a folder."""
    complaints: list[str] = []
    errors: list[str] = []
    page = await browser.new_page()
    page.on("pageerror", lambda error: errors.append(f"script: {error.message}"))
    for url, width, scheme in itertools.product(urls, _WIDTHS, _SCHEMES):
        await page.set_viewport_size({"width": width, "height": 900})
        await page.emulate_media(color_scheme=scheme)
        await page.goto(url)
        found = [*await _faults_of(page), *errors]
        complaints += [f"{url}, {width} px, {scheme}: {one}" for one in found]
        errors.clear()
        if pictures is not None:
            name = url.partition("//")[2].partition("/")[2].replace("/", "-") or "home"
            await page.screenshot(path=pictures / f"{name}-{width}-{scheme}.png", full_page=True)
    await page.close()
    return complaints


async def _faults_of(page: Page) -> list[str]:
    results: Any = (await Axe().run(page)).response
    violations = [
        f"{one['id']}: {one['help']}: "
        + "; ".join(" ".join(map(str, node["target"])) for node in one["nodes"][:3])
        for one in results["violations"]
    ]
    return violations + [f"wider than the window: {one}" for one in await page.evaluate(_WIDER)]
