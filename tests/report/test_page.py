"""The page of a report: well formed, self-contained, escaped, readable and honest."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._html import element, html
from adapty_async._journal import Reason, Run
from adapty_async._report import Check, ListedItem, Report, page
from adapty_async._report.chart import TimeScale, bar_of_states, chart_over_time
from adapty_async._report.check import MissingLine
from adapty_async._report.figures import Interval, RunFigures
from adapty_async._report.outcomes import OutcomesSummary
from tests.report.journals import (
    IDENTITY,
    NOW,
    Recorded,
    in_use,
    minute,
    report_of,
    run,
    write,
)
from tests.report.test_figures import FIRST, SECOND, at

_VOID = {"meta"}
_SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)
_NAMESPACE = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></table><h1>gone</h1>",
    "&lt;b&gt; &amp; ]]> <!-- ",
    "' onmouseover='x",
    "\u202egnirts",
    "=cmd|' /C calc'!A0",
    "\0\x1b[31m\ud800",
)


class Parsed(HTMLParser):
    """The elements of a page; an end tag that does not fit fails."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """End the innermost element."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Record a text, and the elements that it is in."""
        self.texts.append((tuple(self.open), data))

    def attributes(self, name: str) -> list[str | None]:
        """Return the values of an attribute, of all elements."""
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    def text(self) -> str:
        """Return the text that people see."""
        return "".join(text for inside, text in self.texts if "style" not in inside)


def shown(report: Report, items: list[ListedItem] | None = None) -> Parsed:
    """Return the page of a report."""
    return Parsed("".join(page(report, items)))


async def a_report(folder: Path, *recorded: Recorded, **options: Any) -> Report:
    """Return the report of a journal with two runs, or of the given ones."""
    identity = options.pop("identity", IDENTITY)
    await write(folder / "run.db", *(recorded or (FIRST, SECOND)), identity=identity)
    return report_of(folder / "run.db", **options)


FINAL = "Items that are done, absent or duplicates:"
UNKNOWN_SIZE = "The size of the input is not known."
FILE = {"sha256": "ab" * 32, "size": 3}
CHECK = Check(
    input="ids.csv",
    by=("journal", "outcomes"),
    rows=30,
    final=18,
    missing=(MissingLine(7, "none"), MissingLine(9, "not_sent")),
    missing_omitted=10,
    ok=False,
)
OUTCOMES = OutcomesSummary(
    name="outcomes.ndjson", sha256="ef" * 32, lines=12, items=9, counts={"done": 9}, is_torn=True
)


async def test_the_page_has_the_figures(tmp_path: Path) -> None:
    """Counts, times, runs, reasons and how to verify are on the page, as the report has them."""
    report = await a_report(tmp_path, check=CHECK, outcomes=OUTCOMES, is_input_verified=True)
    text = shown(report).text()

    for part in (
        f"Not complete. {FINAL} 5 of 10. Others: 5.",
        "v1 delete by customer-user-id, column customer_user_id, from text",
        "https://api.adapty.io",
        "4f" * 16,
        "a file of 10 rows, 12 bytes",
        "ab" * 32,
        "has these bytes, or begins with them",
        "2026-11-30 00:54:01Z to 2026-11-30 01:04:59Z",
        "Items left: 4. The same command resumes with them.",
        "after 2026-11-30 00:56:10Z",
        "stopped: no request succeeded for too long",
        "A run that was killed, or whose machine failed, did not record its end.",
        "7 min 50 s",
        "ServerError",
        "12 of 30 rows of ids.csv have no final outcome, by the journal and the outcomes file.",
        "And 10 more.",
        "9 (9 done)",
        "Its last line is incomplete, and was omitted.",
        f"{report.journal.sha256}",
        "head -c 12 INPUT | sha256sum",
        "sqlite3 run.db 'select state, count(*) from item group by state'",
        "This page holds no ids of people.",
    ):
        assert part in text


async def test_the_states_are_explained(tmp_path: Path) -> None:
    """An item whose outcome is unknown has a line with the meaning and the next step."""
    text = shown(await a_report(tmp_path)).text()

    assert "They are not sent again, since that could do it twice. Look each of them up" in text
    assert "Nothing is recorded: no run has read them, or they cannot be sent" in text


@pytest.mark.parametrize(
    ("states", "described", "verdict"),
    [
        pytest.param("da=", FILE | {"rows": 3}, "Complete: each of 3 items is", id="complete"),
        pytest.param("du", FILE | {"rows": 2}, f"Not complete. {FINAL} 1 of 2", id="unknown"),
        pytest.param("df", {"job_id": "<7>"}, f"{UNKNOWN_SIZE} {FINAL} 1", id="job"),
        pytest.param(
            "d",
            FILE | {"rows": 1, "job_id": "<7>"},
            "Complete: the only item is",
            id="both",
        ),
        pytest.param("", {}, f"{UNKNOWN_SIZE} {FINAL} 0", id="nothing"),
    ],
)
async def test_the_verdict_is_the_first_sentence(
    states: str, described: dict[str, Any], verdict: str, tmp_path: Path
) -> None:
    """The page begins with whether all is done."""
    identity = msgspec.structs.replace(IDENTITY, input=described, keys="digest")
    report = await a_report(tmp_path, Recorded(run=run(), states=states), identity=identity)
    text = shown(report).text()

    assert verdict in text
    assert "No item that was sent ended with an error." in text
    assert ("a job of the caller's, <7>" in text) is ("job_id" in described)
    assert ("SHA-256 of the input" in text) is ("sha256" in described)
    assert ("not a file, so its content is not recorded" in text) is (not described)
    assert "digests of their requests, in any order" in text


@pytest.mark.parametrize(
    ("missing", "verdict", "color"),
    [
        pytest.param(
            (),
            "Complete: each of 3 rows of the list that was checked is done, absent or a",
            "verdict good",
            id="final",
        ),
        pytest.param(
            (MissingLine(2, "none"),),
            f"{UNKNOWN_SIZE} {FINAL} 3",
            "verdict open",
            id="open",
        ),
    ],
)
async def test_a_check_decides_if_the_size_of_the_input_is_not_known(
    missing: tuple[MissingLine, ...], verdict: str, color: str, tmp_path: Path
) -> None:
    """The items of an iterable have no number, but a list that was checked against them has one."""
    identity = msgspec.structs.replace(IDENTITY, input={}, keys="digest")
    found = Check(
        input="ids",
        by=("outcomes",),
        rows=3,
        final=3 - len(missing),
        missing=missing,
        missing_omitted=0,
        ok=not missing,
    )
    report = await a_report(tmp_path, Recorded(run=run(), states="dda"), identity=identity)
    page = shown(msgspec.structs.replace(report, check=found))

    assert verdict in page.text()
    assert page.attributes("class")[0] == color


@pytest.mark.parametrize(
    ("last", "advice"),
    [
        pytest.param(run(stop_reason="stopped"), "The same command resumes", id="stopped"),
        pytest.param(run(ended_at=None), "The same command resumes", id="killed"),
        pytest.param(run(), "Those that cannot be sent have to be corrected", id="ended"),
    ],
)
async def test_rows_that_were_not_read_need_no_correction(
    last: Run, advice: str, tmp_path: Path
) -> None:
    """Rows without a record cannot be sent only if the run has read all of its input."""
    report = await a_report(tmp_path, Recorded(run=last, states="ddd"))

    assert f"Items left: 7. {advice}" in shown(report).text()


async def test_a_run_in_progress_is_not_called_complete(tmp_path: Path) -> None:
    """While a run uses the journal, the page begins with that."""
    identity = msgspec.structs.replace(IDENTITY, input={"rows": 1})
    recorded = Recorded(run=run(ended_at=None), states="d")
    async with in_use(tmp_path / "run.db", recorded, identity=identity):
        page = shown(report_of(tmp_path / "run.db"))

    text = page.text()
    assert f"A run is in progress. {FINAL} 1 of 1" in text
    assert page.attributes("class")[0] == "verdict open"
    assert "still running" in text
    assert "SHA-256 of the journal" not in text


async def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    """Every element has its end, ids are unique, nothing is loaded, and no script can run."""
    report = await a_report(tmp_path, check=CHECK, outcomes=OUTCOMES)
    text = "".join(page(report, [ListedItem(line=1, id="a", status="done")]))
    parsed = Parsed(text)
    names = {tag for tag, _ in parsed.elements}
    ids = [one for one in parsed.attributes("id") if one]

    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert not names & {"script", "link", "img", "iframe", "object", "a", "form"}
    assert not parsed.attributes("src") + parsed.attributes("href") + parsed.attributes("style")
    assert re.findall(r"url\(([^)]*)\)", text) == ["#pause"]
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace(
        "https://api.adapty.io", ""
    ).replace("HTTP", "").replace("http-equiv", "")
    assert "default-src 'none'; style-src 'unsafe-inline'" in parsed.attributes("content")
    assert len(ids) == len(set(ids))


async def test_the_pictures_are_well_formed_and_described(tmp_path: Path) -> None:
    """Each SVG is XML, with a title and a description that its label refers to."""
    text = "".join(page(await a_report(tmp_path)))
    pictures = [ET.fromstring(each) for each in _SVG.findall(text)]

    assert len(pictures) == 2
    for picture in pictures:
        title, described = picture[0], picture[1]
        assert (title.tag, described.tag) == (f"{_NAMESPACE}title", f"{_NAMESPACE}desc")
        assert title.text
        assert described.text
        labels = picture.attrib["aria-labelledby"].split()
        assert labels == [title.attrib["id"], described.attrib["id"]]
        assert picture.attrib["role"] == "img"


async def test_tables_have_captions_and_headers(tmp_path: Path) -> None:
    """Each table has a caption, each of its columns and rows a header with its scope."""
    parsed = shown(await a_report(tmp_path, check=CHECK))
    counts = dict.fromkeys(("table", "caption", "th", "tr"), 0)
    for tag, attributes in parsed.elements:
        if tag in counts:
            counts[tag] += 1
        if tag == "th":
            assert attributes["scope"] in {"col", "row"}

    assert counts["table"] == counts["caption"] == 5
    assert parsed.attributes("scope").count("row") == counts["tr"] - counts["table"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_texts_stay_texts(text: str, tmp_path: Path) -> None:
    """No operation, origin, error, reason, name or id, whatever its text, adds an element."""
    plain = text.encode(errors="replace").decode().replace("\0", "?")  # SQLite has no more
    identity = msgspec.structs.replace(
        IDENTITY, operation=plain, origin=plain, account=plain, input={"job_id": plain}
    )
    reason = Reason(run=1, state="failed", error=plain, http_status=0, items=1)
    stopped = Recorded(run=run(stop_reason=plain), states="f", reasons=[reason])
    report = await a_report(
        tmp_path,
        stopped,
        identity=identity,
        check=msgspec.structs.replace(CHECK, input=text),
        outcomes=msgspec.structs.replace(OUTCOMES, name=text, counts={text: 1}),
    )
    report = msgspec.structs.replace(
        report, journal=msgspec.structs.replace(report.journal, name=text)
    )
    items = [ListedItem(line=1, id=text, status="done", request_id=text, error=text)]
    calm = msgspec.structs.replace(
        report, operation="calm", origin="calm", account="calm", input={"job_id": "calm"}
    )
    parsed, other = shown(report, items), shown(calm, items)

    tags = [tag for tag, _ in parsed.elements]
    assert tags == [tag for tag, _ in other.elements]
    assert not set(tags) & {"script", "img", "b", "br"}
    assert not any(name.startswith("on") for _, found in parsed.elements for name in found)
    assert parsed.text().count(re.sub("[\0\x1b\ud800]", "\ufffd", text)) >= 6
    alone = [inside[-1] for inside, each in parsed.texts if each.startswith("\u202e")]
    assert set(alone) <= {"bdi"}


async def test_ids_are_listed_only_if_given(tmp_path: Path) -> None:
    """The list of items has each id with its state, and the page states that it holds ids."""
    items = [
        ListedItem(line=2, id="anna", status="not_sent"),
        ListedItem(line=3, id=None, status="none"),
    ]
    detailed = ListedItem(
        line=4,
        id="ben",
        status="failed",
        at=NOW,
        http_status=503,
        request_id="r-9",
        attempts=4,
        error="ServerError",
    )
    text = shown(await a_report(tmp_path), items).text()

    assert "2annanot sent" in text
    assert "3no readable idno record" in text
    assert "This page holds the ids of people" in text
    assert "Request id" not in text
    report = msgspec.structs.replace(report_of(tmp_path / "run.db"), outcomes=OUTCOMES)
    assert "4benfailed2026-11-30 00:00:00Z503r-94ServerError" in shown(report, [detailed]).text()
    assert "anna" not in shown(report_of(tmp_path / "run.db")).text()


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        pytest.param({}, "Line", id="command with text"),
        pytest.param({"operation": "v1 delete, from parquet"}, "Row", id="command with a table"),
        pytest.param({"input": {"read_as": {"form": "csv"}}}, "Line", id="program with text"),
        pytest.param({"input": {"read_as": {"form": "excel"}}}, "Row", id="program with a table"),
        pytest.param({"operation": "v1.profiles.delete by profile_id"}, "Row", id="data frame"),
    ],
)
async def test_the_list_is_numbered_as_messages_are(
    tmp_path: Path, fields: dict[str, Any], head: str
) -> None:
    """Items of a table are in rows, and those of a text in lines."""
    identity = msgspec.structs.replace(IDENTITY, **fields)
    parsed = shown(await a_report(tmp_path, identity=identity), [])

    assert f"Items by {head.lower()}{head}IdState" in parsed.text()


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


async def test_colours_differ_from_the_paper(tmp_path: Path) -> None:
    """Text has a contrast of 4.5 and a picture's part of 3 at least, on light and on dark."""
    text = "".join(page(await a_report(tmp_path)))
    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", each)) for each in text.split("@media")]
    schemes = [scheme for scheme in schemes if scheme]

    assert [len(scheme) for scheme in schemes] == [14, 14]
    for scheme in schemes:
        for name in ("ink", "faint"):
            assert contrast(scheme[name], scheme["paper"]) >= 4.5
            assert contrast(scheme[name], scheme["soft"]) >= 4.5
        for name in set(scheme) - {"paper", "soft", "line", "ink", "faint"}:
            assert contrast(scheme[name], scheme["paper"]) >= 3, name


runs_of_any_kind = st.lists(
    st.tuples(
        st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(["killed", "input_read"])
    ),
    min_size=1,
    max_size=12,
)


@given(runs_of_any_kind)
def test_the_time_scale_keeps_order_and_proportion(drawn: list[tuple[int, int, str]]) -> None:
    """Runs and pauses follow each other over the whole width, and longer runs are not narrower."""
    runs: list[RunFigures] = []
    clock = 0.0
    for number, (pause_ms, run_ms, ending) in enumerate(drawn, 1):
        pause, seconds = pause_ms / 1000, run_ms / 1000
        clock += pause if runs else 0
        runs.append(
            RunFigures(
                number=number,
                started_at=at(clock),
                ended_at=None,
                last_at=at(clock + seconds),
                ending=ending,
                stop_reason=None,
                pause_before=pause if runs else None,
                counts={},
                requests=0,
                throttled=0,
            )
        )
        clock += seconds
    scale = TimeScale(runs)
    stretches = sorted([*scale.runs.values(), *scale.pauses], key=lambda each: each.left)

    assert stretches[0].left == 0
    assert sum(each.width for each in stretches) == pytest.approx(100)
    ends = [each.left + each.width for each in stretches]
    assert ends[:-1] == pytest.approx([each.left for each in stretches[1:]])
    by_length = sorted(scale.runs.values(), key=lambda each: each.seconds)
    widths = [each.width for each in by_length]
    assert widths == pytest.approx(sorted(widths))
    interval = Interval(run=1, start=at(0), seconds=1e7, ended=1, requests=1, throttled=1)
    left, width = scale.span(interval)
    assert (left, width) == pytest.approx((0, scale.runs[1].width))
    ET.fromstring(html(chart_over_time(runs, [interval])))


async def test_a_short_pause_is_to_scale_and_a_long_one_is_cut(tmp_path: Path) -> None:
    """A pause that is drawn shortened is marked as such, with its duration."""
    recorded = [
        Recorded(run=run(1, seconds=600)),
        Recorded(run=run(2, start=610, seconds=600)),
        Recorded(run=run(3, start=1210 + 86_400, seconds=600, ended_at=None)),
    ]
    report = await a_report(tmp_path, *recorded)
    short, long = TimeScale(report.runs).pauses
    first = TimeScale(report.runs).runs[1]
    text = shown(report).text()

    assert (short.is_cut, long.is_cut) == (False, True)
    assert short.width / first.width == pytest.approx(10 / 600)
    assert "Pause of 10 s" in text
    assert "Pause of 10 s, not" not in text
    assert "Pause of 1 d, not to scale" in text
    assert "3 runs, 2 pauses between them." in text


async def test_one_run_has_no_plural(tmp_path: Path) -> None:
    """The picture's description counts in plain English."""
    recorded = Recorded(run=run(), states="d", minutes=[minute(done=1, requests=1)])
    report = await a_report(tmp_path, recorded)

    assert "1 run, 0 pauses between them. 1 request, of which" in shown(report).text()


async def test_a_second_of_throttling_is_shown(tmp_path: Path) -> None:
    """The picture has a bar for requests and one for those that were throttled, in proportion."""
    duplicates = minute(1, duplicate=2)  # for which no request was sent
    minutes = [minute(done=3, requests=4, throttled=1), duplicates]
    recorded = Recorded(run=run(seconds=120), minutes=minutes)
    picture = ET.fromstring(
        _SVG.findall("".join(page(await a_report(tmp_path, recorded))))[1],
    )
    drawn = [
        (kind, float(each.attrib["height"]))
        for each in picture.iter(f"{_NAMESPACE}rect")
        if (kind := each.attrib["class"]) in {"served", "throttled"}
    ]
    bars = dict(drawn)

    assert len(drawn) == 2
    assert bars["served"] == pytest.approx(3 * bars["throttled"], rel=1e-3)


def test_nothing_yet_is_an_empty_bar() -> None:
    """Without items there are no parts."""
    picture = ET.fromstring(html(bar_of_states([("done", 0)])))

    assert [each.tag for each in picture] == [f"{_NAMESPACE}title", f"{_NAMESPACE}desc"]
    assert picture[1].text == "none yet."


@given(st.text())
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    """Text and attributes are escaped, and only what a document may not hold is replaced."""
    parsed = Parsed(html(element("p", text, element("b", text), text, title=text)))
    wanted = re.sub(
        "[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]", "\ufffd", text
    )

    assert parsed.text() == 3 * wanted
    assert parsed.attributes("title") == [wanted]
