"""A builder of HTML and SVG trees that escapes all text and attributes, for reports."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

__all__ = ("Content", "Element", "element", "html", "table")

Content: TypeAlias = "Element | str | None"

# Characters that a document must not contain: control characters, surrogates, noncharacters.
_FORBIDDEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def element(tag: str, *content: Content, **attributes: object) -> Element:
    """
    Return an element.

    Args:
        tag: its name.
        content: elements and text, in order; None is omitted.
        attributes: a trailing underscore is removed, others become hyphens; None is omitted.
    """
    made = Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): _clean(str(value))
            for name, value in attributes.items()
            if value is not None
        },
    )
    last: Element | None = None
    for each in content:
        if isinstance(each, Element):
            made.append(each)
            last = each
        elif each is not None and last is None:
            made.text = (made.text or "") + _clean(each)
        elif each is not None and last is not None:
            last.tail = (last.tail or "") + _clean(each)
    return made


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def table(
    caption: str, heads: Iterable[str], rows: Iterable[Iterable[Content]], numbers: Iterable[int]
) -> Element:
    """
    Return a table whose first column has row headers, in a box that scrolls if it is too wide.

    Args:
        caption: its title.
        heads: the names of the columns.
        rows: the cells, row by row.
        numbers: the indexes of the columns that are aligned as numbers.
    """
    right = set(numbers)
    classes = {True: "number", False: None}
    head = [
        element("th", each, scope="col", class_=classes[column in right])
        for column, each in enumerate(heads)
    ]
    body = [
        element(
            "tr",
            *(
                element("td", cell, class_=classes[column in right])
                if column
                else element("th", cell, scope="row", class_=classes[column in right])
                for column, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    made = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head)),
        element("tbody", *body),
    )
    box = {"class_": "scroll", "role": "region", "aria_label": caption, "tabindex": 0}
    return element("div", made, **box)


def html(made: Element) -> str:
    """Return an element as HTML."""
    return tostring(made, encoding="unicode", method="html")
