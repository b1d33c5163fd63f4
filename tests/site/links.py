"""A checker of the links between the pages of a site, and of their anchors; it needs no network."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

# Attributes that lead to another resource.
_LINKS = {"a": "href", "img": "src", "link": "href", "script": "src"}


class Page(NamedTuple):
    """The targets and the links of a page."""

    anchors: set[str]
    links: list[str]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page(set(), [])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.page.anchors.update(filter(None, (values.get("id"), values.get("name"))))
        link = values.get(_LINKS.get(tag, ""))
        if link:
            self.page.links.append(link)


def read(text: str) -> Page:
    """Return the targets and the links of an HTML page."""
    reader = _Reader()
    reader.feed(text)
    return reader.page


def broken_links(folder: Path) -> list[str]:
    """Return the links of a folder of pages that lead to no file or no anchor in it."""
    pages = {path: read(path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}
    complaints = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists():
                complaints.append(f"{path.relative_to(folder)}: {link}: there is no such file")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                complaints.append(f"{path.relative_to(folder)}: {link}: there is no such anchor")
    return complaints
