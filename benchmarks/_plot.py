"""Bar charts as SVG."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence

import msgspec

__all__ = ("Bars", "drawn")

_COLOURS = ("#2f6fab", "#8fb8de")
_LEFT, _WIDTH, _RIGHT = 230, 420, 90
_BAR, _GAP, _TOP = 13, 10, 58
_FONT = "font-family='sans-serif' font-size='12' fill='#222'"


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    """
    A bar chart with one bar of each series for each label.

    Attributes:
        form: the format of the number at the end of a bar.
        mark: the number at which a line is drawn, None for no line.
    """

    title: str
    series: Sequence[str]
    values: Mapping[str, Sequence[float]]
    form: str
    mark: float | None = None

    @property
    def longest(self) -> float:
        """The largest number in the chart."""
        return max((max(row) for row in self.values.values()), default=1.0)


def drawn(bars: Bars) -> str:
    """Return the chart as an SVG document."""
    each = len(bars.series) * _BAR + _GAP
    height = _TOP + len(bars.values) * each + _GAP
    width = _LEFT + _WIDTH + _RIGHT
    inside = [
        f"<rect width='{width}' height='{height}' fill='#fff'/>",
        f"<text x='12' y='22' {_FONT} font-weight='bold'>{html.escape(bars.title)}</text>",
        *_legend(bars),
        *_rows(bars, each),
        *_mark(bars, height),
    ]
    size = f"width='{width}' height='{height}' viewBox='0 0 {width} {height}'"
    lines = "\n".join(inside)
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size}>\n{lines}\n</svg>\n"


def _legend(bars: Bars) -> Iterator[str]:
    for number, name in enumerate(bars.series):
        x = _LEFT + 90 * number
        yield f"<rect x='{x}' y='34' width='10' height='10' fill='{_COLOURS[number]}'/>"
        yield f"<text x='{x + 15}' y='43' {_FONT}>{html.escape(name)}</text>"


def _rows(bars: Bars, each: int) -> Iterator[str]:
    for row, (label, values) in enumerate(bars.values.items()):
        top = _TOP + row * each
        middle = top + len(values) * _BAR / 2 + 4
        end = f"x='{_LEFT - 8}' text-anchor='end'"
        yield f"<text {end} y='{middle:g}' {_FONT}>{html.escape(label)}</text>"
        for number, value in enumerate(values):
            y = top + number * _BAR
            long = _scaled(bars, value)
            size = f"width='{long:.1f}' height='{_BAR - 1}'"
            yield f"<rect x='{_LEFT}' y='{y}' {size} fill='{_COLOURS[number]}'/>"
            text = bars.form.format(value)
            yield f"<text x='{_LEFT + long + 5:.1f}' y='{y + 10}' {_FONT}>{text}</text>"


def _mark(bars: Bars, height: int) -> Iterator[str]:
    if bars.mark is not None:
        x = _LEFT + _scaled(bars, bars.mark)
        ends = f"x1='{x:.1f}' x2='{x:.1f}' y1='{_TOP - 6}' y2='{height - _GAP}'"
        yield f"<line {ends} stroke='#b33' stroke-dasharray='4 3'/>"


def _scaled(bars: Bars, value: float) -> float:
    return _WIDTH * value / max(bars.longest, bars.mark or 0.0)
