"""
Charts of a report, as SVG that fits any width: horizontal lengths are percentages.

Text is not scaled, and the colours are in the page's style sheet.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from adapty_async._html import Content, Element, element
from adapty_async._report.figures import Interval, RunFigures
from adapty_async._runtime.words import counted, duration_text

# Maximum width of all shortened pauses together, as a share of the time in runs.
_PAUSE_SHARE = 0.3
_TOP, _RUNS, _PLOT, _BOTTOM = 16, 18, 150, 40
_BAND = _TOP + _RUNS
_BASE = _BAND + 14 + _PLOT
_HEIGHT = _BASE + _BOTTOM
# Minimum distance of two labels, in percent of the width.
_MIN_DISTANCE = 20.0


class Stretch(msgspec.Struct, frozen=True):
    """A run or a pause on the time axis: its seconds, and its extent in percent of the width."""

    seconds: float
    left: float
    width: float
    is_cut: bool = False


class TimeScale:
    """
    A time axis with the runs to scale, and shortened pauses between them.

    Attributes:
        runs: the stretch of each run, by its number.
        pauses: the stretch of each pause, in order; the first follows the first run.
    """

    def __init__(self, runs: Sequence[RunFigures]) -> None:
        self._starts = {run.number: run.started_at for run in runs}
        active = sum(run.seconds for run in runs) or 1.0
        most = active * min(0.06, _PAUSE_SHARE / max(1, len(runs) - 1))
        # keeps the shortest run visible
        lengths = [max(run.seconds, active / 200) for run in runs]
        pauses = [run.pause_before or 0.0 for run in runs]
        total = sum(lengths) + sum(min(pause, most) for pause in pauses)
        self.runs: dict[int, Stretch] = {}
        self.pauses: list[Stretch] = []
        at = 0.0
        for run, length, pause in zip(runs, lengths, pauses, strict=True):
            shown = 100 * min(pause, most) / total
            if pause:
                self.pauses.append(Stretch(pause, at, shown, is_cut=pause > most))
            width = 100 * length / total
            self.runs[run.number] = Stretch(run.seconds, at + shown, width)
            at += shown + width

    def span(self, interval: Interval) -> tuple[float, float]:
        """Return the left end and the width of an interval."""
        stretch = self.runs[interval.run]
        per_second = stretch.width / (stretch.seconds or 1.0)
        since = (interval.start - self._starts[interval.run]).total_seconds()
        left = stretch.left + min(max(0.0, since) * per_second, stretch.width)
        return left, min(interval.seconds * per_second, stretch.left + stretch.width - left)


def bar_of_states(counts: Iterable[tuple[str, int]]) -> Element:
    """Draw the number of items in each state, as one bar."""
    present = [(name, count) for name, count in counts if count > 0]
    total = sum(count for _, count in present)
    parts, left = [], 0.0
    for name, count in present:
        width = 100 * count / total
        title = element("title", f"{name}: {count:,}")
        parts.append(_rect(left, 0, width, 28, f"state-{name}", title))
        left += width
    described = ", ".join(f"{count:,} {name}" for name, count in present) or "none yet"
    return _picture("bar", "Items by their last known state", f"{described}.", 28, parts)


def chart_over_time(runs: Sequence[RunFigures], over_time: Sequence[Interval]) -> Element:
    """Draw the runs, the pauses between them, and the requests per second."""
    scale = TimeScale(runs)
    max_rate = max((each.requests / each.seconds for each in over_time if each.seconds), default=0)
    top = _round_up(max_rate)
    parts = [_hatching(), *_grid(), *_bars(scale, over_time, top), *_scale_labels(top)]
    parts += [part for pause in scale.pauses for part in _pause(pause)]
    parts += [part for run in runs for part in _run(run, scale.runs[run.number])]
    parts += _times(runs, scale)
    requests = sum(each.requests for each in over_time)
    throttled = sum(each.throttled for each in over_time)
    described = (
        f"{counted(len(runs), 'run')}, {counted(len(scale.pauses), 'pause')} between them."
        f" {counted(requests, 'request')}, of which throttled: {throttled:,}; at most"
        f" {max_rate:,.1f} requests per second."
    )
    return _picture("time", "Requests per second over time", described, _HEIGHT, parts)


def _picture(
    name: str, title: str, described: str, height: int, parts: Iterable[Content]
) -> Element:
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", described, id=f"{name}-desc"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_=name,
        width="100%",
        height=height,
    )


def _rect(x: float, y: float, width: float, height: float, kind: str, *title: Element) -> Element:
    lengths = {"x": f"{x:.3f}%", "y": f"{y:g}", "width": f"{width:.3f}%", "height": f"{height:g}"}
    return element("rect", *title, class_=kind, **lengths)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> Element:
    return element("text", text, x=f"{x:.3f}%", y=f"{y:g}", class_=kind, text_anchor=anchor)


def _hatching() -> Element:
    line = element("path", d="M0 6L6 0M-1 1L1 -1M5 7L7 5", class_="hatch")
    pattern = {"id": "pause", "width": 6, "height": 6, "patternUnits": "userSpaceOnUse"}
    return element("defs", element("pattern", line, **pattern))


def _grid() -> Iterator[Element]:
    for share in (0.0, 0.5, 1.0):
        y = f"{_BASE - _PLOT * share:g}"
        yield element("line", x1="0", x2="100%", y1=y, y2=y, class_="grid")


def _scale_labels(top: float) -> Iterator[Element]:
    yield _text(0, _BASE - _PLOT / 2 - 3, f"{top / 2:,.5g}", "label")
    yield _text(0, _BASE - _PLOT - 3, f"{top:,.5g} requests/s", "label")


def _bars(scale: TimeScale, over_time: Iterable[Interval], top: float) -> Iterator[Element]:
    for each in over_time:
        if not each.seconds or not each.requests:
            continue
        left, width = scale.span(each)
        height = _PLOT * each.requests / each.seconds / top
        throttled = height * min(1.0, each.throttled / each.requests)
        title = (
            f"{each.start:%Y-%m-%d %H:%M:%S}Z, {duration_text(each.seconds)}:"
            f" {counted(each.requests, 'request')} ({each.requests / each.seconds:,.1f}/s),"
            f" {each.throttled:,} throttled (429), {counted(each.ended, 'item')} ended"
        )
        served = height - throttled
        yield _rect(left, _BASE - served, width, served, "served", element("title", title))
        if throttled:
            y = _BASE - height
            yield _rect(left, y, width, throttled, "throttled", element("title", title))


def _run(run: RunFigures, stretch: Stretch) -> Iterator[Element]:
    mark = {"killed": " †", "running": " …"}.get(run.ending, "")
    title = f"Run {run.number}, {duration_text(run.seconds)}, {run.ending}"
    yield _rect(stretch.left, _TOP, stretch.width, 12, f"run {run.ending}", element("title", title))
    if stretch.width > 10:
        yield _text(stretch.left, _TOP - 4, f"Run {run.number}{mark}", "label")


def _pause(pause: Stretch) -> Iterator[Element]:
    cut = ", not to scale" if pause.is_cut else ""
    title = element("title", f"Pause of {duration_text(pause.seconds)}{cut}")
    yield _rect(pause.left, _TOP, pause.width, _BASE - _TOP, "pause", title)


def _times(runs: Sequence[RunFigures], scale: TimeScale) -> Iterator[Element]:
    """Label the start of each run and the end of the last, if there is space."""
    last = runs[-1]
    end = last.started_at + dt.timedelta(seconds=last.seconds)
    next_left = 0.0
    for run in runs:
        left = scale.runs[run.number].left
        if left >= next_left and left <= 100 - 2 * _MIN_DISTANCE:
            yield from _time(left, run.started_at, "start")
            next_left = left + _MIN_DISTANCE
    yield from _time(100, end, "end")


def _time(x: float, at: dt.datetime, anchor: str) -> Iterator[Element]:
    yield _text(x, _BASE + 16, f"{at:%H:%M:%S}", "label", anchor)
    yield _text(x, _BASE + 31, f"{at:%Y-%m-%d}", "label", anchor)


def _round_up(value: float) -> float:
    """Return the next larger 1, 2, 4, 5 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 10) if step * power >= value)
