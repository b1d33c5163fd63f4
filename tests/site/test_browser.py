"""The checker of pages in Chromium, on a page with faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chromium import CHROMIUM
from tests.site.__main__ import served
from tests.site.browser import complaints_about, open_browser

_PAGE = """
<!DOCTYPE html><html lang="en"><head><title>Faults</title></head>
<body><main><h1>Faults</h1><img src="data:," id="one"><p class="wide" style="width: 900px">text</p>
<div style="overflow: auto" tabindex="0"><p style="width: 3000px">This box scrolls.</p></div>
<script>missing()</script></main></body></html>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
async def test_faults_of_a_page_are_found_in_a_browser(tmp_path: Path) -> None:
    """A picture without a text, text wider than the window and an error of a script are faults."""
    (tmp_path / "page.html").write_text(_PAGE, "utf-8")
    with served(tmp_path) as address:
        async with open_browser() as browser:
            url = f"{address}/page.html"
            found = await complaints_about(browser, [url], tmp_path)

    assert found == [
        f"{url}, {form}: {fault}"
        for form in ("400 px, light", "400 px, dark", "1280 px, light", "1280 px, dark")
        for fault in (
            "image-alt: Images must have alternative text: #one",
            "wider than the window: p.wide",
            "script: missing is not defined",
        )
        if "wider" not in fault or form.startswith("400")
    ]
    assert (tmp_path / "page.html-400-dark.png").stat().st_size > 0
