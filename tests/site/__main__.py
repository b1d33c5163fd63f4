"""
Check a built site: ``python -m tests.site FOLDER [--pictures FOLDER] [URL...]``.

The links between its pages, the names in its inventory and the descriptions of arguments are
checked without a browser, then some pages of it in Chromium, by axe. Further pages, such as that of
the sandbox, are given by their URL. Lighthouse, which comes from npm, checks the home page, a
how-to guide and the page of the sandbox.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from adapty_async.sandbox import Sandbox
from tests.chromium import CHROMIUM
from tests.site import lighthouse
from tests.site.browser import complaints_about, open_browser
from tests.site.inventory import missing_arguments, missing_names
from tests.site.links import broken_links

# The home page, two how-to guides, a page with wide tables, and one of the reference.
PAGES = ("index.html", "cookbook.html", "webhooks.html", "comparison.html", "api/bulk.html")
# The home page and a how-to guide, which Lighthouse checks, too.
LIGHTHOUSE_PAGES = ("index.html", "cookbook.html")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  a name of the base
        """Log nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def _in_browser(folder: Path, urls: list[str], pictures: Path | None) -> list[str]:
    with served(folder) as address:
        async with open_browser() as browser:
            pages = [f"{address}/{page}" for page in PAGES]
            complaints = await complaints_about(browser, [*pages, *urls], pictures)
        async with Sandbox() as sandbox:
            pages = [f"{address}/{page}" for page in LIGHTHOUSE_PAGES]
            return complaints + await lighthouse.complaints_about([*pages, f"{sandbox.url}/"])


def main() -> int:
    """Check, print what is wrong, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.site")
    parser.add_argument("folder", type=Path)
    parser.add_argument("urls", nargs="*")
    parser.add_argument("--pictures", type=Path, help="save a picture of each page in this folder")
    options = parser.parse_args()
    folder = options.folder.resolve()
    complaints = broken_links(folder)
    complaints += [f"{name}: is on no page of the reference" for name in missing_names(folder)]
    complaints += [f"{name} is not described" for name in missing_arguments(folder)]
    if CHROMIUM is None:
        print("Chromium is not installed: pages are not looked at in a browser")
    else:
        complaints += asyncio.run(_in_browser(folder, options.urls, options.pictures))
    for complaint in complaints:
        print(f"- {complaint}")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
