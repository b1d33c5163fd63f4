"""
A checker of the relative links of Markdown pages, as the repository shows them.

Sphinx checks the pages of the site alone, and the README is on none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ("anchors_of", "broken_links", "relative_links")

_CODE = re.compile(r"^(```+|~~~+).*?^\1|(`+).*?\2", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^(```+|~~~+).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(<?([^()<>\s]+)>?[^()]*\)|^\[[^\]]+\]: *<?([^<>\s]+)", re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)
_LINK_TEXT = re.compile(r"\[([^\]]*)\]\([^()]*\)")


def relative_links(text: str) -> list[str]:
    """Return the links of a page that lead to no other host, in order and as they stand."""
    links = (match[1] or match[2] for match in _LINK.finditer(_CODE.sub("x", text)))
    return [link for link in links if not urlsplit(link).scheme and not link.startswith("//")]


def anchors_of(text: str) -> set[str]:
    """Return the anchors that GitHub, like Sphinx, gives to the headings of a page."""
    anchors: set[str] = set()
    for match in _HEADING.finditer(_FENCE.sub("", text)):
        words = _LINK_TEXT.sub(r"\1", match[1]).lower().replace(" ", "-")
        slug = re.sub(r"[^\w-]", "", words)
        names = (slug if number == 0 else f"{slug}-{number}" for number in count())
        anchors.add(next(name for name in names if name not in anchors))
    return anchors


def broken_links(root: Path, pages: list[Path]) -> list[str]:
    """Return the relative links of pages below a folder that lead to no file or no heading."""
    return [
        f"{page.relative_to(root)}: {link}: {fault}"
        for page in pages
        for link in relative_links(page.read_text("utf-8"))
        for fault in _faults(page, link)
    ]


def _faults(page: Path, link: str) -> Iterator[str]:
    parts = urlsplit(link)
    target = page.parent / unquote(parts.path) if parts.path else page
    if not target.exists():
        yield "there is no such file"
    elif parts.fragment and unquote(parts.fragment) not in anchors_of(target.read_text("utf-8")):
        yield "there is no such heading"
