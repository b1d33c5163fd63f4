"""The page of the sandbox in a real browser: headless Chromium, where it is installed."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from adapty_async import AdaptyClient, v2
from adapty_async.sandbox import Sandbox
from tests.chromium import CHROMIUM, FLAGS, NAMES

from .conftest import Api, CutError

pytest.importorskip("playwright", reason="playwright is in the group tests")
pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is in the group tests")

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium: none of {', '.join(NAMES)}"),
]
expect.set_options(timeout=20_000)  # a bound for slow machines, not a wait
# What a page of another origin can try: a request without a preflight, one with, and a read.
ATTACK = """
async base => {
  const attempt = (path, options) =>
    fetch(base + path, options).then(response => response.type, error => error.name);
  return [
    await attempt("page/fail-next", {
      method: "POST", mode: "no-cors", body: JSON.stringify({ faults: ["500"] }),
    }),
    await attempt("page/faults", {
      method: "PUT", body: JSON.stringify({ faults: { error: 1 }, latency: 0 }),
    }),
    await attempt("state", {}),
  ];
}
"""
IMAGE = "<img src=x onerror=\"document.title='executed'\">"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Share one event loop, and with it the browser, between the tests of this module."""
    return "asyncio"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Start a browser."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        await started.close()


@pytest.fixture
async def page(browser: Browser, sandbox: Sandbox) -> AsyncIterator[Page]:
    """Open the page of the sandbox; an exception, or a resource that is blocked, fails the test."""
    async with await browser.new_context(
        permissions=["clipboard-read", "clipboard-write"], reduced_motion="reduce"
    ) as context:
        opened = await context.new_page()
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on(
            "console",
            lambda message: (
                problems.append(message.text)
                if "status of 400" not in message.text  # the browser's own note of a wrong value
                else None
            ),
        )
        await opened.goto(sandbox.url)
        await expect(opened.locator("#connection")).to_have_text("Live")
        yield opened
    assert problems == []


async def test_a_request_arrives_and_a_fault_is_switched(page: Page, api: Api) -> None:
    """A request is shown as it comes; the next client gets the fault, until all are off."""
    await api.v2("DELETE", "profile/")
    newest, text = page.locator("#requests tr").first, page.locator("#faults-text")
    await expect(newest).to_contain_text("DELETE /api/v2/server-side-api/profile/")
    await expect(newest.locator(".status")).to_have_text("404")

    await page.get_by_label("Throttling, percent").fill("100")
    await page.get_by_role("switch", name="Throttling").focus()
    await page.keyboard.press("Space")
    await expect(text).to_have_text("On: Throttling.")
    assert (await api.v1("GET")).status == 429
    await expect(newest.locator(".status")).to_have_text("429 throttled")
    await expect(page.locator("#count-throttled")).to_have_text("1")

    await page.get_by_role("button", name="All off").click()
    await expect(text).to_have_text("All off.")
    await page.get_by_label("Next request").select_option("reset")
    await page.get_by_role("button", name="Fail it").click()
    await expect(page.locator("#next-text")).to_have_text("Waiting: reset.")
    with pytest.raises(CutError):
        await api.v1("GET")
    await expect(newest).to_contain_text("fault: reset")
    await expect(page.locator("#next-text")).to_have_text("")
    assert (await api.v1("GET")).status == 404


async def test_switches_show_what_the_sandbox_does(page: Page, api: Api) -> None:
    """A wrong share is explained and taken back; a change from elsewhere is shown."""
    for title in ("Server errors", "Stalled requests"):
        await page.get_by_label(f"{title}, percent").fill("60")
    await page.get_by_role("switch", name="Server errors").check()
    await expect(page.locator("#faults-text")).to_have_text("On: Server errors.")
    await page.get_by_role("switch", name="Stalled requests").click()
    await expect(page.locator("#faults-text")).to_contain_text("must add up to no more than 1")
    await expect(page.get_by_role("switch", name="Stalled requests")).not_to_be_checked()

    api.sandbox.set_faults("reset_after=2.5%")
    await expect(page.get_by_role("switch", name="Lost responses")).to_be_checked()
    await expect(page.get_by_label("Lost responses, percent")).to_have_value("2.5")
    await expect(page.get_by_role("switch", name="Server errors")).not_to_be_checked()


async def test_data_is_never_markup_and_code_is_copied(page: Page, sandbox: Sandbox) -> None:
    """Markup in ids, attributes, paths and bodies is text; the copied code has no key."""
    sandbox.seed_profiles([IMAGE])
    async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as client:
        await client.v2.profiles.update(
            v2.ProfileAttributes(first_name=IMAGE), customer_user_id=IMAGE
        )
    await Api(sandbox).send("GET", f"/{IMAGE}?{IMAGE}")
    await expect(page.locator("#requests tr")).to_have_count(2)
    await expect(page.locator("#profiles .id")).to_have_text(IMAGE)
    await page.locator("#profiles summary").click()
    await expect(page.locator("#profiles pre")).to_contain_text("<img src=x")

    button = page.get_by_role("button", name="Code of request 1")
    await button.focus()
    await page.keyboard.press("Enter")
    copied = []
    for name in ("Python", "curl"):
        await page.get_by_role("button", name="Copy", description=name).click()
        await expect(page.locator("#code-text")).to_have_text("Copied.")
        copied.append(await page.evaluate("navigator.clipboard.readText()"))
        await page.evaluate("document.getElementById('code-text').textContent = ''")
    await page.keyboard.press("Escape")

    await expect(button).to_be_focused()
    assert "await adapty.v2.profiles.update(" in copied[0]
    assert "<img src=x" in copied[0]
    assert copied[1].startswith("curl ")
    assert "$ADAPTY_API_KEY" in copied[1]
    assert sandbox.api_key not in "".join(copied)
    assert await page.evaluate("[document.images.length, document.title]") == [0, "Adapty sandbox"]


async def test_the_lists_are_bounded(page: Page, api: Api) -> None:
    """The latest 200 requests can be held and filtered; many profiles are pages of 50."""
    api.sandbox.seed_profiles(f"user_{number:05}" for number in range(30_000))
    requests, profiles = page.locator("#requests tr"), page.locator("#profiles tr")
    for count in (70, 140, 210):  # at most 100 of them are in one event
        for _ in range(70):
            await api.v1("GET")
        await expect(page.get_by_label(f"Code of request {count}", exact=True)).to_be_visible()
    await expect(requests).to_have_count(200)
    pause = page.get_by_role("button", name="Pause")
    await pause.click()
    api.sandbox.fail_next("503")
    await api.v1("GET")

    await expect(profiles.first).to_contain_text("user_29999")
    await expect(profiles).to_have_count(50)
    await page.get_by_role("button", name="Older").click()
    await expect(profiles.first).to_contain_text("user_29949")
    await page.get_by_role("button", name="Newer").click()
    await expect(profiles.first).to_contain_text("user_29999")
    await page.get_by_label("Search").fill("R_0004")
    await expect(page.locator("#profiles-text")).to_have_text("10 profiles, newest first.")

    await expect(page.locator("#count-errors")).to_have_text("1")
    await expect(requests.first.locator(".status")).to_have_text("404")
    await pause.click()
    await expect(requests.first.locator(".status")).to_have_text("503")
    await page.get_by_label("Show").select_option("failed")
    await expect(requests).to_have_count(200)
    await page.get_by_label("Show").select_option("fault")
    await expect(requests).to_have_count(1)


async def test_a_delayed_response_is_pending_and_then_shown(page: Page, api: Api) -> None:
    """The status of a row changes in its place, and a filter selects by the final one."""
    api.sandbox.set_latency(3600)
    status = page.locator("#requests .status")
    async with asyncio.TaskGroup() as group:
        delayed = [group.create_task(api.v1("GET")) for _ in range(2)]
        await expect(status).to_have_text(["pending", "pending"])
        await page.get_by_role("button", name="Code of request 1").focus()
        finish(api, 1, 200)
        await expect(status).to_have_text(["pending", "200"])
        await expect(page.get_by_role("button", name="Code of request 1")).to_be_focused()
        await page.get_by_label("Show").select_option("failed")
        await expect(status).to_have_count(0)
        finish(api, 2, 404)
        await expect(status).to_have_text(["404"])
        for task in delayed:
            task.cancel()


def finish(api: Api, number: int, status: int) -> None:
    """Log the end of a request, without waiting for its latency."""
    assert api.sandbox._open is not None
    api.sandbox._open.update_status(number, status)


async def test_the_page_survives_a_restart(browser: Browser) -> None:
    """It connects again, and shows the requests of the new sandbox alone."""
    sandbox = Sandbox()
    async with await browser.new_context() as context:
        page = await context.new_page()
        async with sandbox:
            await page.goto(sandbox.url)
            await Api(sandbox).v1("GET")
            await expect(page.locator("#requests tr")).to_have_count(1)
        async with sandbox:  # at the same address
            await Api(sandbox).v1("DELETE")
            await expect(page.locator("#requests tr")).to_contain_text("DELETE")
            await expect(page.locator("#requests tr")).to_have_count(1)


async def test_a_page_has_one_connection(browser: Browser, sandbox: Sandbox) -> None:
    """A page that is shown again before its next attempt does not connect twice."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.clock.install()
        connections: list[str] = []
        page.on(
            "request", lambda sent: connections.append(sent.url) if "/events?" in sent.url else None
        )
        await page.route("**/events?*", lambda route: route.fulfill(status=503))
        await page.goto(sandbox.url)
        await expect(page.locator("#connection")).to_contain_text("Not connected")
        await page.unroute("**/events?*")
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await expect(page.locator("#connection")).to_have_text("Live")
        await page.clock.fast_forward(5_000)
        await page.evaluate("fetch('/')")  # behind what the timers of the page have sent

    assert len(connections) == 2


async def test_a_page_of_another_site_switches_nothing(browser: Browser, api: Api) -> None:
    """Its scripts reach neither the faults nor the state; its links open the page."""
    async with Sandbox() as other, await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{other.url}/elsewhere")
        outcomes = await page.evaluate(ATTACK, f"{api.sandbox.url}/_sandbox/")
        assert outcomes == ["opaque", "TypeError", "TypeError"]
        assert (await api.v1("GET")).status == 404
        assert api.sandbox.customer_user_ids() == set()

        await page.evaluate("url => { location = url; }", api.sandbox.url)
        await expect(page).to_have_title("Adapty sandbox")
        await expect(page.locator("#connection")).to_have_text("Live")


async def test_axe_finds_nothing(page: Page, api: Api) -> None:
    """No rule of axe is broken, light and dark, narrow and wide, with the code and without."""
    api.sandbox.seed_profiles(["u1"])
    api.sandbox.set_faults("reset_after=0.1%")
    await api.v2("PATCH", "profile/", {"first_name": "Anna"})
    await api.v2("POST", "purchase/profile/grant/access-level/", {"access_level_id": "premium"})
    api.sandbox.fail_next("503", "429", "404")
    for _ in range(3):
        await api.v2("GET", "profile/")
    await expect(page.locator("#requests tr")).to_have_count(5)
    await expect(page.locator("#profiles .level")).to_have_text("premium")
    for scheme, width in (("light", 400), ("dark", 1280)):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await page.set_viewport_size({"width": width, "height": 800})
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) > 600) == (scheme == "light")
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        await check(page)
        await page.get_by_role("button", name="Code of request 1").click()
        await expect(page.locator("#python")).to_contain_text("import asyncio")
        await check(page)
        await page.keyboard.press("Escape")


async def check(page: Page) -> None:
    """Run axe, with all of its rules."""
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
