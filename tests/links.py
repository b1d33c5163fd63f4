"""
A checker of external links: each one that the project shows has to lead to a page.

`make links` collects the links of the pages for readers and of the package, whose endpoint
definitions name their documentation, and requests each once. A link is broken if the response is no
success, or if its host cannot be reached while another can. If none can, there is no network, and
nothing was checked. Fragments are not checked: many pages make their anchors by script.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urldefrag, urlsplit

import aiohttp

ROOT = Path(__file__).parent.parent
PAGES = ("*.md", "docs/**/*.md", "examples/**/*.md", "adapty_async/**/*.py")
#: Hosts in examples, and of the APIs themselves, which have no page to read.
NO_PAGES = re.compile(r"(localhost|127\.|example\.|host$|(api|api-\w+)\.adapty\.io$|[^.]*$)")

_LINK = re.compile(r"https?://[^\s<>\"'`{}\[\]|\\^]+")
_CONCURRENTLY = 8
_RETRIES = 2
_SECONDS = 30.0
_PAUSE = 5.0  # seconds before another attempt, when a server is busy
_BUSY = frozenset({429, 500, 502, 503, 504})
# Some sites refuse a client without the name of a program.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; adapty-async-links)"}


class Result(NamedTuple):
    """The result of a link: whether a server responded, and the fault, if there is one."""

    link: str
    responded: bool
    fault: str = ""


def links_of(text: str) -> set[str]:
    """Return the external links of a text, without their fragments and the stops after them."""
    found = (urldefrag(_stripped(match[0])).url for match in _LINK.finditer(text))
    return {link for link in found if not NO_PAGES.match(urlsplit(link).hostname or "")}


def links_of_project(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the links of all pages and modules, with the files that have them."""
    found: dict[str, list[str]] = {}
    for path in sorted(_files(root)):
        for link in sorted(links_of(path.read_text("utf-8"))):
            found.setdefault(link, []).append(path.relative_to(root).as_posix())
    return found


async def check(links: Iterable[str], *, pause: float = _PAUSE) -> list[Result]:
    """Request each link, and return the results in the order of the links."""
    permits = asyncio.Semaphore(_CONCURRENTLY)
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(headers=_HEADERS, timeout=timeout, trust_env=True) as session:

        async def limited(link: str) -> Result:
            async with permits:
                return await _check_one(session, link, pause)

        return await asyncio.gather(*map(limited, links))


def verdict(results: list[Result]) -> tuple[list[str], str]:
    """Return a line for each broken link, and one that says what was checked."""
    if not any(result.responded for result in results):
        return [], f"NOT checked: none of the hosts of {len(results)} links can be reached"
    broken = [f"{result.link}: {result.fault}" for result in results if result.fault]
    return broken, f"{len(results)} links checked, {len(broken)} broken"


def main() -> int:
    """Check all links, print the broken ones with their files, and return the exit code."""
    places = links_of_project()
    broken, summary = verdict(asyncio.run(check(places)))
    for line in broken:
        print(f"{line} ({', '.join(places[line.split(': ')[0]])})")
    print(f"links: {summary}")
    return bool(broken)


async def _check_one(session: aiohttp.ClientSession, link: str, pause: float) -> Result:
    """Request a link, and again while its server is busy."""
    try:
        status = await _status(session, link)
        for _ in range(_RETRIES):
            if status not in _BUSY:
                break
            await asyncio.sleep(pause)
            status = await _status(session, link)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Result(link, responded=False, fault=str(error) or type(error).__name__)
    return Result(link, responded=True, fault="" if status < 400 else f"status {status}")


async def _status(session: aiohttp.ClientSession, link: str) -> int:
    async with session.get(link) as response:
        return response.status


def _files(root: Path) -> Iterator[Path]:
    for pattern in PAGES:
        yield from root.glob(pattern)


def _stripped(link: str) -> str:
    """Return a link without what follows it in a sentence or in Markdown."""
    link = link.rstrip(".,;:!?*_")
    while link.endswith(")") and link.count(")") > link.count("("):
        link = link[:-1].rstrip(".,;:!?*_")
    return link


if __name__ == "__main__":
    sys.exit(main())
