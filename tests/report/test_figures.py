"""The figures of a journal: each is what the runs recorded."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._journal import Reason, is_in_use, read_journal
from adapty_async._report import Report, as_json, intervals, journal_file
from adapty_async.bulk import ItemState, JournalSummary, summarise
from adapty_async.errors import JournalError
from tests.report.journals import (
    IDENTITY,
    START,
    Recorded,
    in_use,
    minute,
    report_of,
    run,
    write,
)

FIRST = Recorded(
    run=run(1, seconds=130, ended_at=None, rate=20.0),
    states="ddafrr",
    minutes=[
        minute(0, done=1, absent=1, requests=3, throttled=1),
        minute(2, done=1, failed=1, requests=5, throttled=2),
    ],
    reasons=[
        Reason(run=1, state="failed", error="ServerError", http_status=503, items=1),
        Reason(run=1, state="lost", error="ConnectionLostError", http_status=0, items=2),
    ],
)
SECOND = Recorded(
    run=run(2, start=600, seconds=30, stop_reason="outage"),
    states="ddafdl=un",
    minutes=[
        minute(10, run=2, done=1, failed=1, lost=1, unknown=1, not_sent=1, duplicate=1, requests=9)
    ],
    reasons=[
        Reason(run=2, state="failed", error="ServerError", http_status=503, items=1),
        Reason(run=2, state="lost", error="ConnectionLostError", http_status=0, items=1),
    ],
)


def at(seconds: float) -> dt.datetime:
    """Return a time after `START`."""
    return dt.datetime.fromtimestamp(START + seconds, dt.UTC)


async def test_each_figure_is_what_the_runs_recorded(tmp_path: Path) -> None:
    """Counts by state, left items and times are those of the journal."""
    path = tmp_path / "run.db"
    await write(path, FIRST, SECOND)
    report = report_of(path)

    nothing = dict.fromkeys((state.name.lower() for state in ItemState if state.name != "NONE"), 0)
    assert report.counts == nothing | {
        "done": 3,
        "absent": 1,
        "failed": 1,
        "lost": 1,
        "duplicate": 1,
        "unknown": 1,
        "not_sent": 1,
    }
    assert (report.items, report.unrecorded, report.left) == (10, 1, 4)
    assert (report.first_at, report.last_at) == (at(1), at(659))
    assert (report.operation, report.origin) == (IDENTITY.operation, IDENTITY.origin)
    assert (report.account, report.input) == (IDENTITY.account, IDENTITY.input)
    assert report.is_complete is False
    assert report.journal.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


async def test_runs_begin_pause_and_end_as_they_did(tmp_path: Path) -> None:
    """A run without an end was killed, one with a reason stopped; the time between is a pause."""
    third = Recorded(run=run(3, start=700, seconds=10, ended_at=START + 712))  # it wrote earlier
    await write(tmp_path / "run.db", FIRST, SECOND, third, Recorded(run=run(4, start=720)))
    killed, stopped, ended, last = report_of(tmp_path / "run.db").runs

    assert [each.ending for each in (killed, stopped, ended)] == ["killed", "stopped", "input_read"]
    assert (killed.started_at, killed.ended_at, killed.last_at) == (at(0), None, at(130))
    assert ended.ended_at == at(712)
    assert (killed.seconds, stopped.seconds, ended.seconds) == (130, 30, 12)
    pauses = [each.pause_before for each in (killed, stopped, ended, last)]
    assert pauses == [None, 470, 70, 8]
    assert (stopped.stop_reason, ended.stop_reason) == ("outage", None)
    assert (killed.requests, killed.throttled, stopped.requests) == (8, 3, 9)
    assert (killed.counts["done"], killed.counts["absent"], killed.counts["failed"]) == (2, 1, 1)
    assert sum(stopped.counts.values()) == 6


async def test_reasons_are_summed_over_the_runs(tmp_path: Path) -> None:
    """A reason is one row, with its items in all runs and in the last; the most frequent first."""
    await write(tmp_path / "run.db", FIRST, SECOND)
    first, second = report_of(tmp_path / "run.db").reasons

    assert msgspec.structs.astuple(first) == ("lost", "ConnectionLostError", None, 3, 1)
    assert msgspec.structs.astuple(second) == ("failed", "ServerError", 503, 2, 1)


async def test_requests_over_time_lie_in_their_runs(tmp_path: Path) -> None:
    """An interval is a minute as far as the run went, with what ended and was sent in it."""
    await write(tmp_path / "run.db", FIRST, SECOND)
    rows = [msgspec.structs.astuple(each) for each in report_of(tmp_path / "run.db").over_time]

    assert rows == [
        (1, at(0), 60.0, 2, 3, 1),
        (1, at(120), 10.0, 2, 5, 2),
        (2, at(600), 30.0, 6, 9, 0),
    ]


@given(
    st.lists(st.integers(0, 600), min_size=1, max_size=60, unique=True),
    st.integers(1, 120),
)
def test_intervals_lose_nothing_and_do_not_overlap(numbers: list[int], at_most: int) -> None:
    """However many minutes there are, few intervals have all of their counts."""
    minutes = tuple(minute(number, done=number + 1, requests=2) for number in sorted(numbers))
    summary = JournalSummary(
        identity=IDENTITY,
        is_in_use=False,
        counts={},
        runs=(run(seconds=60 * 601),),
        minutes=minutes,
        reasons=(),
    )
    found = list(intervals(summary, at_most))

    assert len(found) <= at_most + 1
    assert sum(each.ended for each in found) == sum(each.items for each in minutes)
    assert sum(each.requests for each in found) == 2 * len(minutes)
    ends = [each.start + dt.timedelta(seconds=each.seconds) for each in found]
    assert all(each.seconds > 0 for each in found)
    assert all(end <= after.start for end, after in zip(ends, found[1:], strict=False))


@pytest.mark.parametrize(
    ("recorded", "rate"),
    [
        pytest.param(FIRST, 2 / 60, id="of-the-last-minute-and-a-part"),
        pytest.param(Recorded(run=run(seconds=30), minutes=[minute(done=60)]), 2.0, id="short"),
        pytest.param(Recorded(run=run(seconds=300), minutes=[minute(done=60)]), 0.0, id="idle"),
        pytest.param(Recorded(run=run(seconds=0)), None, id="no-time"),
    ],
)
async def test_the_rate_is_that_of_the_last_minute(
    recorded: Recorded, rate: float | None, tmp_path: Path
) -> None:
    """The rate is over the minutes that reach into the last sixty seconds of the last run."""
    path = tmp_path / "run.db"
    await write(path, recorded)

    assert summarise(path).rate == (rate if rate is None else pytest.approx(rate))
    assert report_of(path).rate == summarise(path).rate


async def test_a_journal_is_read_while_a_run_uses_it(tmp_path: Path) -> None:
    """The last run is running as long as its journal is open, and reading does not disturb it."""
    path = tmp_path / "run.db"
    running = Recorded(run=run(ended_at=None), states="dr")
    async with in_use(path, running):
        report, summary = report_of(path), await asyncio.to_thread(summarise, str(path))
        assert report.journal.is_in_use
        assert report.runs[-1].ending == "running"
        assert report.journal.sha256 is None
        assert (summary.counts[ItemState.DONE], summary.counts[ItemState.RESERVED]) == (1, 1)
    assert not is_in_use(path)
    assert report_of(path).runs[-1].ending == "killed"


async def test_a_link_to_a_journal_shows_its_run(tmp_path: Path) -> None:
    """The lock and the log are next to the file itself."""
    link = tmp_path / "links" / "latest.db"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "run.db")
    async with in_use(tmp_path / "run.db", Recorded(run=run(ended_at=None), states="dr")):
        report = report_of(link)
        assert report.runs[-1].ending == "running"
        killed = msgspec.structs.replace(summarise(link), is_in_use=False)
        assert journal_file(link, killed).sha256 is None


async def test_a_lock_that_was_left_is_no_run(tmp_path: Path) -> None:
    """The lock file of a killed process remains, and is not held."""
    path = tmp_path / "run.db"
    await write(path, Recorded(run=run(ended_at=None)))
    path.with_name("run.db-lock").touch()

    assert report_of(path).runs[-1].ending == "killed"


async def test_a_log_that_was_left_has_no_digest(tmp_path: Path) -> None:
    """The digest of a journal is that of all its content, or it is not given."""
    path = tmp_path / "run.db"
    await write(path, FIRST)
    path.with_name("run.db-wal").touch()

    assert report_of(path).journal.sha256 is None


async def test_a_journal_that_vanishes_is_reported(tmp_path: Path) -> None:
    """The digest of a file that is gone is an error with its name."""
    path = tmp_path / "run.db"
    await write(path, FIRST)
    summary, _ = read_journal(path)
    path.unlink()

    with pytest.raises(JournalError, match=r"run\.db cannot be read: No such file"):
        journal_file(path, summary)


@pytest.mark.parametrize(
    ("described", "states", "complete"),
    [
        pytest.param({"rows": 3}, "da=", True, id="all"),
        pytest.param({"rows": 4}, "da=", False, id="one-unread"),
        pytest.param({"rows": 3}, "dau", False, id="one-unknown"),
        pytest.param({"job_id": "j"}, "da=", None, id="no-size"),
    ],
)
async def test_complete_is_said_only_if_every_item_has_a_final_outcome(
    described: dict[str, Any],
    states: str,
    complete: bool | None,  # noqa: FBT001  a parametrised case
    tmp_path: Path,
) -> None:
    """Done, absent and duplicate are final; without a known size, completeness is unknown."""
    identity = msgspec.structs.replace(IDENTITY, input=described)
    await write(tmp_path / "run.db", Recorded(run=run(), states=states), identity=identity)

    assert report_of(tmp_path / "run.db").is_complete is complete


async def test_a_damaged_journal_has_no_figures(tmp_path: Path) -> None:
    """A row that was changed is an error, never a number."""
    path = tmp_path / "run.db"
    await write(path, Recorded(run=run(), states="d" * 600))
    content = path.read_bytes()
    place = content.index(b"d" * 512)
    path.write_bytes(content[:place] + b"a" + content[place + 1 :])

    with pytest.raises(JournalError, match="a row of the table span is damaged"):
        report_of(path)


async def test_json_has_the_figures(tmp_path: Path) -> None:
    """The report as JSON is the same as the values in Python, with times in UTC."""
    await write(tmp_path / "run.db", FIRST, SECOND)
    report = report_of(tmp_path / "run.db")
    content = json.loads("".join(as_json(report)))

    assert msgspec.convert(content, Report) == report
    assert (content["report"], content["first_at"]) == (1, "2026-11-30T00:54:01Z")
    assert "listed" not in content
