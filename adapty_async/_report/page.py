"""A page with a report: one HTML document without scripts and external resources."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterable, Iterator
from importlib.resources import files

from adapty_async._html import Content, Element, element, html, table
from adapty_async._report.chart import bar_of_states, chart_over_time
from adapty_async._report.check import Check
from adapty_async._report.figures import Report, RunFigures
from adapty_async._report.outcomes import FINAL, ListedItem, OutcomesSummary
from adapty_async._runtime.words import counted, duration_text, each_of

# The meaning of each state of an item; ``none`` without a record.
_STATES = {
    "done": "The server performed the operation.",
    "absent": "The server responded that the profile does not exist.",
    "duplicate": "An equal request comes earlier in the input, so it was not sent again.",
    "failed": "Not done. A run that resumes sends them again.",
    "lost": "Outcome unknown: the response was lost, or the server failed after it may have"
    " processed the request. A run that resumes sends them again, which is harmless.",
    "reserved": "Next in the queue or in flight. After a run that was killed, they may or may not"
    " have been sent; a run that resumes sends them, which is harmless.",
    "started": "In flight. After a run that was killed, their outcome is unknown.",
    "unknown": "Outcome unknown: the response was lost, or the server failed after it may have"
    " processed the request. They are not sent again, since that could do it twice. Look each of"
    " them up at Adapty.",
    "not_sent": "The run ended before they were sent.",
    "none": "Nothing is recorded: no run has read them, or they cannot be sent, such as an id that"
    " breaks a rule.",
}
_STOPPED = {
    "key_rejected": "stopped: the key was rejected",
    "wrong_address": "stopped: the responses were not Adapty's",
    "outage": "stopped: no request succeeded for too long",
    "same_error": "stopped: many items in a row had the same error",
    "fail_fast": "stopped: an item failed",
    "stopped": "stopped by the caller or a signal",
}
_ENDED = {
    "input_read": "at the end of its input",
    "killed": "killed",
    "running": "still running",
}
_RUN_HEADS = (
    "Run",
    "Began",
    "Ended",
    "Duration",
    "Pause before",
    "How it ended",
    "Items ended",
    "Requests",
    "Throttled",
)
_ITEM_HEADS = ("Id", "State", "Ended", "HTTP status", "Request id", "Attempts", "Error")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_ITEMS = '<tbody id="items"></tbody>'


def page(report: Report, items: Iterable[ListedItem] | None = None) -> Iterator[str]:
    """
    Yield the pieces of a report as HTML.

    Args:
        report: the figures.
        items: the items with their ids; None for a page without ids.
    """
    text = html(_document(report, has_ids=items is not None))
    head, _, tail = text.partition(_ITEMS)
    yield f"<!DOCTYPE html>\n{head}"
    if items is not None:
        yield "<tbody>"
        for item in items:
            yield html(_item(item, is_detailed=report.outcomes is not None))
        yield f"</tbody>{tail}"
    yield "\n"


def _document(report: Report, *, has_ids: bool) -> Element:
    title = f"Record of a run: {report.operation}"
    style = files("adapty_async._report").joinpath("page.css").read_text(encoding="utf-8")
    return element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("meta", name="robots", content="noindex"),
            element("title", title),
            element("style", style),
        ),
        element("body", element("main", *_sections(report, has_ids=has_ids))),
        lang="en",
    )


def _sections(report: Report, *, has_ids: bool) -> Iterator[Content]:
    """Yield the sections of the page in their order."""
    yield element("h1", "Record of a run: ", _name(report.operation))
    yield element("p", verdict(report), class_=f"verdict {_color(report)}")
    yield _section("Operation and input", _facts(_operation(report)))
    yield _section("Items by their last known state", *_result(report))
    yield _section("Runs and pauses", *_runs(report))
    yield _section("Why items were not done", *_reasons(report))
    if report.outcomes is not None:
        yield _section("Outcomes file", *_outcomes(report.outcomes))
    if report.check is not None:
        yield _section("Check of an input", *_check(report.check))
    if has_ids:
        yield _section("Items", _empty_items(report))
    yield _section("How to verify", *_how_to_verify(report))
    ids = "holds the ids of people: keep it as safely" if has_ids else "holds no ids of people"
    made = f"Made by {report.made_by} at ", _time(report.made_at)
    yield element("footer", element("p", *made, f". Times are UTC. This page {ids}."))


def _section(title: str, *content: Content) -> Element:
    return element("section", element("h2", title), *content)


def _name(text: str) -> Element:
    """Isolate external text, so that its writing direction affects nothing else."""
    return element("bdi", text)


def _code(text: str) -> Element:
    return element("code", _name(text))


def _time(at: dt.datetime) -> Element:
    return element("time", f"{at:%Y-%m-%d %H:%M:%S}Z", datetime=at.isoformat())


def verdict(report: Report) -> str:
    """Return one or two sentences about whether all items are final."""
    if report.journal.is_in_use:
        return f"A run is in progress. {_progress(report)}"
    if report.is_complete:
        items = each_of(report.items or 0, "item")
        return f"Complete: {items} is done, absent or a duplicate."
    if report.items is None:
        return _verdict_without_size(report)
    return f"Not complete. {_progress(report)}"


def _verdict_without_size(report: Report) -> str:
    """Return the verdict of an input of unknown size, by the check of a list if there is one."""
    check = report.check
    if check is not None and check.ok:
        rows = f"{each_of(check.rows, 'row')} of the list that was checked"
        return f"Complete: {rows} is done, absent or a duplicate."
    return f"The size of the input is not known. {_progress(report)}"


def _progress(report: Report) -> str:
    final = sum(report.counts[state] for state in FINAL)
    if report.items is None:
        rest = sum(report.counts.values()) - final
        return f"Items that are done, absent or duplicates: {final:,}. Others: {rest:,}."
    return (
        f"Items that are done, absent or duplicates: {final:,} of {report.items:,}."
        f" Others: {report.items - final:,}."
    )


def _color(report: Report) -> str:
    is_complete = report.is_complete
    if report.items is None:
        is_complete = report.check is not None and report.check.ok
    return "good" if is_complete and not report.journal.is_in_use else "open"


def _facts(facts: Iterable[tuple[str, Content]]) -> Element:
    rows = (element("div", element("dt", name), element("dd", fact)) for name, fact in facts)
    return element("dl", *rows)


def _operation(report: Report) -> Iterator[tuple[str, Content]]:
    yield "Operation", _name(report.operation)
    yield "Sent to", _code(report.origin)
    yield "Account (digest of the API key)", _code(report.account)
    yield from _input(report)
    by = "their position in the input"
    if report.identified_by != "position":
        by = "digests of their requests, in any order"
    yield "Items are identified by", by
    if report.first_at is not None and report.last_at is not None:
        times = _time(report.first_at), " to ", _time(report.last_at)
        yield "First and last outcome", element("span", *times)
    yield "Journal", _code(report.journal.name)
    if report.journal.sha256 is not None:
        yield "SHA-256 of the journal", _code(report.journal.sha256)


def _input(report: Report) -> Iterator[tuple[str, Content]]:
    known = report.input
    if "job_id" in known:
        yield "Input", element("span", "a job of the caller's, ", _name(f"{known['job_id']}"))
    elif "sha256" not in known:
        yield "Input", "not a file, so its content is not recorded"
    if "sha256" in known:
        rows = counted(known.get("rows", 0), "row")
        yield "Input", f"a file of {rows}, {known.get('size', 0):,} bytes"
        yield "SHA-256 of the input", _code(f"{known['sha256']}")
    if report.is_input_verified:
        yield "The file given as input", "has these bytes, or begins with them"


def _result(report: Report) -> Iterator[Content]:
    """Yield the bar and the table of the counts by state."""
    recorded = {**report.counts, "none": report.unrecorded or 0}
    counts = [(state, recorded[state]) for state in _STATES if state in recorded]
    total = report.items or sum(count for _, count in counts) or 1
    yield bar_of_states(counts)
    rows = [
        (_state(state), f"{count:,}", f"{100 * count / total:.2f} %", _STATES[state])
        for state, count in counts
        if count or state == "done"
    ]
    heads = ("State", "Items", "Share", "Meaning")
    yield table("Items by their last known state, over all runs", heads, rows, (1, 2))
    if report.left:
        yield element("p", f"Items left: {report.left:,}. {_what_helps(report)}")


def _what_helps(report: Report) -> str:
    if report.left == report.unrecorded and report.runs[-1].ending == "input_read":
        return (
            "Those that cannot be sent have to be corrected in a new file, and sent with a new "
            "journal; the same command sends the others."
        )
    return "The same command resumes with them."


def _state(state: str) -> Element:
    """Return the name of a state, with its colour in the charts."""
    swatch = element("span", class_=f"swatch state-{state}", aria_hidden="true")
    return element("span", swatch, _shown(state), class_="state")


def _shown(state: str) -> str:
    return "no record" if state == "none" else state.replace("_", " ")


def _runs(report: Report) -> Iterator[Content]:
    """Yield the chart of requests over time, the table of runs and that of the chart's figures."""
    yield chart_over_time(report.runs, report.over_time)
    key = [_key("served", "requests"), _key("throttled", "throttled (429)")]
    if len(report.runs) > 1:
        key.append(_key("pause", "pause between runs: nothing was sent"))
    if any(run.ending == "killed" for run in report.runs):
        key.append(_key("killed", "a run that was killed (†)"))
    yield element("p", *key, class_="key")
    yield table("Each run", _RUN_HEADS, [_run(run) for run in report.runs], (0, 3, 4, 6, 7, 8))
    yield from _remarks(report)
    rows = [
        (
            _time(each.start),
            f"{each.run}",
            duration_text(each.seconds),
            f"{each.ended:,}",
            f"{each.requests:,}",
            f"{each.throttled:,}",
        )
        for each in report.over_time
    ]
    heads = ("From", "Run", "Duration", "Items ended", "Requests", "Throttled")
    figures = table("Requests over time", heads, rows, range(1, 6))
    yield element("details", element("summary", "The figures of the chart"), figures)


def _key(kind: str, text: str) -> Element:
    return element("span", element("span", class_=f"swatch {kind}", aria_hidden="true"), text)


def _run(run: RunFigures) -> tuple[Content, ...]:
    return (
        f"{run.number}",
        _time(run.started_at),
        _time(run.ended_at) if run.ended_at else element("span", "after ", _time(run.last_at)),
        duration_text(run.seconds),
        "" if run.pause_before is None else duration_text(run.pause_before),
        _name(_ending(run)),
        f"{sum(run.counts.values()):,}",
        f"{run.requests:,}",
        f"{run.throttled:,}",
    )


def _ending(run: RunFigures) -> str:
    if run.ending in _ENDED:
        return _ENDED[run.ending]
    return _STOPPED.get(f"{run.stop_reason}", f"stopped: {run.stop_reason}")


def _remarks(report: Report) -> Iterator[Content]:
    yield element(
        "p",
        "An item counts in each run in which it ended, and its requests in the minute in which it"
        " ended. Rows that cannot be sent are not counted.",
    )
    killed = [run for run in report.runs if run.ending == "killed"]
    if killed:
        yield element(
            "p",
            "A run that was killed, or whose machine failed, did not record its end. The journal"
            " shows when it last wrote, at most some seconds before; the counts over time can lack"
            " the last moment of such a run. The states of the items are complete: an item is never"
            " done without a response.",
        )


def _reasons(report: Report) -> Iterator[Content]:
    """Yield the table of the reasons why items were not done."""
    if not report.reasons:
        yield element("p", "No item that was sent ended with an error.")
        return
    rows = [
        (
            _name(each.error),
            "none" if each.http_status is None else f"{each.http_status}",
            _name(_shown(each.state)),
            f"{each.times:,}",
            f"{each.times_in_last_run:,}",
        )
        for each in report.reasons
    ]
    heads = ("Error", "HTTP status", "State", "All runs", "Last run")
    yield table("Reasons, over all runs", heads, rows, (1, 3, 4))
    yield element("p", "An item that failed in two runs counts twice; it may be done since.")


def _outcomes(outcomes: OutcomesSummary) -> Iterator[Content]:
    counts = ", ".join(f"{count:,} {name}" for name, count in outcomes.counts.items())
    yield _facts(
        [
            ("File", _code(outcomes.name)),
            ("SHA-256", _code(outcomes.sha256)),
            ("Lines", f"{outcomes.lines:,}"),
            ("Items, by their last line", f"{outcomes.items:,} ({counts})"),
        ]
    )
    if outcomes.is_torn:
        yield element("p", "Its last line is incomplete, and was omitted.")
    if outcomes.has_others:
        yield element(
            "p",
            "It has outcomes of other runs than the journal's, so it is no evidence: more items are"
            " done or absent than in the journal, or some ended more than a day before or after its"
            " runs.",
            class_="verdict open",
        )


def _check(check: Check) -> Iterator[Content]:
    missing = check.rows - check.final
    subject = f"{missing:,} of {check.rows:,} rows of " if missing else "Each row of "
    what = " have no final outcome" if missing else " has a final outcome"
    final = "Final are done, absent, and a duplicate of another row."
    kind = "verdict good" if check.ok else "verdict open"
    yield element(
        "p", subject, _code(check.input), f"{what}, by the {check.records}. {final}", class_=kind
    )
    if check.missing:
        rows = [(f"{each.line:,}", _shown(each.state)) for each in check.missing]
        yield table("Rows without a final outcome", (check.noun.capitalize(), "State"), rows, (0,))
    if check.missing_omitted:
        yield element("p", f"And {check.missing_omitted:,} more.")
    if check.without_id:
        yield element("p", f"{counted(check.without_id, 'row')} without an id, left out.")


def _empty_items(report: Report) -> Element:
    heads = _ITEM_HEADS[:2] if report.outcomes is None else _ITEM_HEADS
    made = table(f"Items by {report.noun}", (report.noun.capitalize(), *heads), (), (0, 4, 6))
    for body in made.iter("tbody"):
        body.set("id", "items")
    return made


def _item(item: ListedItem, *, is_detailed: bool) -> Element:
    cells: list[Content] = [
        _name("no readable id" if item.id is None else item.id),
        _shown(item.status),
    ]
    if is_detailed:
        cells += [
            None if item.at is None else _time(item.at),
            None if item.http_status is None else f"{item.http_status}",
            item.request_id and _name(item.request_id),
            None if item.attempts is None else f"{item.attempts}",
            item.error and _name(item.error),
        ]
    line = element("th", f"{item.line:,}", scope="row", class_="number")
    return element("tr", line, *(element("td", cell) for cell in cells))


def _check_options(report: Report) -> str:
    """Return the options of a check like the one of this report."""
    options = {"--outcomes": None if report.outcomes is None else report.outcomes.name}
    if report.check is not None:
        names = ("column", "encoding", "sheet")
        options |= {f"--{name}": getattr(report.check, name) for name in names}
    given = [
        f"{option} {shlex.quote(value)}" for option, value in options.items() if value is not None
    ]
    return " ".join(["--check INPUT", *given])


def _how_to_verify(report: Report) -> Iterator[Content]:
    journal = shlex.quote(report.journal.name)
    steps: list[tuple[str, str]] = []
    if "sha256" in report.input:
        size = report.input.get("size", 0)
        steps.append(("The digest of the input:", f"head -c {size} INPUT | sha256sum"))
    if report.journal.sha256 is not None:
        steps.append(("The digest of the journal:", f"sha256sum {journal}"))
    steps += [
        (
            "The counts, with SQLite's own command line:",
            f"sqlite3 {journal} 'select state, count(*) from item group by state'",  # noqa: S608
        ),
        (
            "Whether each id of a list has a final outcome (exit code 0 if so):",
            f"adapty-async report {journal} {_check_options(report)} --format json",
        ),
    ]
    yield element(
        "ol", *(element("li", subject, element("pre", _code(how))) for subject, how in steps)
    )
    yield element(
        "p",
        "Every row of the journal has a checksum, and reading it verifies all of them. That detects"
        " damage; it is no signature. Keep the digests elsewhere to detect a change.",
    )
