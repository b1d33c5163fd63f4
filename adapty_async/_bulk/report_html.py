"""
The report of a bulk run as a piece of HTML, for notebooks.

A notebook shows it among foreign styles, on a light or a dark page, and each front end marks a dark
page in another way. All styles are therefore inline, text has the colour of its surroundings, and
the other colours have a contrast of 3:1 or more on white and on black.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from adapty_async._html import Content, Element, element, html
from adapty_async._runtime.words import counted, duration_text

#: The colour of each status, whose contrast is at least 3:1 on white and on black (WCAG 2, 1.4.11).
COLORS: Mapping[str, str] = {
    "done": "#2da44e",
    "absent": "#1795a3",
    "failed": "#e5534b",
    "unknown": "#986ee2",
    "not_sent": "#c27803",
    "skipped": "#808890",
}
_CELL = "padding:2px 16px 2px 0;background:none;text-align:"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """
    The figures of a run.

    Attributes:
        ok: nothing is left to do.
        total: the number of items read.
        counts: the number of items by status.
        seconds: the duration.
        requests: the number of requests, retries included.
        throttled: the number of requests that were throttled (429).
        stop_reason: why the run ended before its input; None if it did not.
        reasons: pairs of a reason and a status, with the number of items; the most frequent first.
        reasons_omitted: the number of failures that `reasons` does not count.
    """

    ok: bool
    total: int
    counts: Mapping[str, int]
    seconds: float
    requests: int
    throttled: int
    stop_reason: str | None
    reasons: Sequence[tuple[tuple[str, str], int]]
    reasons_omitted: int


def report_html(figures: Figures) -> str:
    """Return a run's figures as HTML."""
    counts = [(status, count) for status, count in figures.counts.items() if count]
    rows = [
        (_status(status), f"{count:,}", f"{count / figures.total:.1%}") for status, count in counts
    ]
    content: list[Content] = [element("p", element("strong", _verdict(figures)))]
    if rows:
        content += [_bar(counts, figures.total), _table("Items by status", rows)]
    content += [element("p", _speed(figures)), *_reasons(figures)]
    return html(element("div", *content, style="max-width:48em;color:inherit"))


def _verdict(figures: Figures) -> str:
    if figures.ok:
        return f"Complete: {counted(figures.total, 'item')}, nothing is left to do."
    state = "Not complete"
    if figures.stop_reason is not None:
        state = f"Stopped ({_shown(figures.stop_reason)})"
    verb = "was" if figures.total == 1 else "were"
    return f"{state}: {counted(figures.total, 'item')} {verb} read."


def _shown(name: str) -> str:
    return name.replace("_", " ")


def _bar(counts: Sequence[tuple[str, int]], total: int) -> Element:
    label = ", ".join(f"{_shown(status)} {count:,}" for status, count in counts)
    parts = (
        element("span", style=f"width:{100 * count / total:.3f}%;background:{COLORS[status]}")
        for status, count in counts
    )
    style = "display:flex;height:12px;border-radius:3px;overflow:hidden;margin:4px 0 8px"
    return element("div", *parts, style=style, role="img", aria_label=label)


def _status(status: str) -> Element:
    style = (
        f"display:inline-block;width:10px;height:10px;margin-right:8px;background:{COLORS[status]}"
    )
    return element("span", element("span", style=style, aria_hidden="true"), _shown(status))


def _table(caption: str, rows: Sequence[Sequence[Content]]) -> Element:
    """Return a table with row headers, whose second and further columns are numbers."""
    body = [
        element(
            "tr",
            element("th", row[0], scope="row", style=f"{_CELL}left;font-weight:normal"),
            *(element("td", cell, style=f"{_CELL}right") for cell in row[1:]),
        )
        for row in rows
    ]
    named = element("caption", caption, style="text-align:left;color:inherit;font-weight:bold")
    return element("table", named, *body, style="margin:4px 0 8px;color:inherit")


def _speed(figures: Figures) -> str:
    text = f"{duration_text(figures.seconds)}, {figures.requests:,} requests"
    if figures.seconds:
        text += f" ({figures.requests / figures.seconds:,.1f} per second)"
    return f"{text}, {figures.throttled:,} throttled (429)."


def _reasons(figures: Figures) -> Iterator[Content]:
    if not figures.reasons:
        return
    rows = [
        (reason, element("span", _shown(status)), f"{count:,}")
        for (reason, status), count in figures.reasons
    ]
    yield _table("Why items were not done", rows)
    if figures.reasons_omitted:
        shown = sum(count for _, count in figures.reasons)
        yield element("p", f"Of the first {shown:,} failures; {figures.reasons_omitted:,} more.")
