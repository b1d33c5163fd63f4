"""The figures of a journal as text: rates are of the time in which rows ended."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from adapty_async._input.layout import Row
from adapty_async._journal import Run, RunName
from adapty_async.bulk import BulkReport, ItemState, JournalSummary, StopReason
from adapty_async.cli._job import JobResult
from adapty_async.cli._journal_text import next_steps, status_text
from tests.report.journals import IDENTITY, minute, run


def test_status_divides_by_the_time_that_a_run_lasted() -> None:
    """The first and last minutes are partial, and between two runs nothing is counted."""
    summary = JournalSummary(
        identity=msgspec.structs.replace(IDENTITY, input={"rows": 900}),
        is_in_use=False,
        counts=dict.fromkeys(ItemState, 0) | {ItemState.DONE: 900},
        runs=(run(1, start=50, seconds=70), run(2, start=5 * 3600, seconds=50)),
        minutes=(minute(0, done=200), minute(1, done=600), minute(300, run=2, done=100)),
        reasons=(),
    )
    text = status_text(summary)

    assert text.splitlines()[-3:] == [
        "  2026-11-30 00:54:50Z          200 ended, 20/s",
        "  2026-11-30 00:55:00Z          600 ended, 10/s",
        "  2026-11-30 05:54:00Z          100 ended, 2/s",
    ]
    assert "run 2 ended 2026-11-30 05:54:50Z" in text


def test_a_run_without_outcomes_has_no_rate() -> None:
    """A journal in which nothing ended yet has counts of zero and no times."""
    summary = JournalSummary(
        identity=msgspec.structs.replace(IDENTITY, input={"job_id": "j"}),
        is_in_use=True,
        counts=dict.fromkeys(ItemState, 0),
        runs=(run(seconds=0, ended_at=None),),
        minutes=(minute(requests=0),),
        reasons=(),
    )
    text = status_text(msgspec.structs.replace(summary, minutes=()))

    assert "left" not in text
    assert text.endswith("run 1 is still running, 0/s in its last minute")
    assert status_text(summary).endswith("  2026-11-30 00:54:00Z            0 ended")


@pytest.mark.parametrize(
    ("last", "advice"),
    [
        pytest.param(
            run(stop_reason="stopped"), "for the same command to resume with", id="stopped"
        ),
        pytest.param(run(ended_at=None), "for the same command to resume with", id="killed"),
        pytest.param(run(), "if they cannot be sent, put them, corrected, into", id="ended"),
    ],
)
def test_rows_that_were_not_read_need_no_correction(last: Run, advice: str) -> None:
    """Rows without a record cannot be sent only if the run has read all of its input."""
    summary = JournalSummary(
        identity=msgspec.structs.replace(IDENTITY, input={"rows": 900}),
        is_in_use=False,
        counts=dict.fromkeys(ItemState, 0) | {ItemState.DONE: 800},
        runs=(last,),
        minutes=(),
        reasons=(),
    )
    assert f"  left             100   {advice}" in status_text(summary)


def test_a_run_that_is_interrupted_before_it_has_its_journal_may_resume(tmp_path: Path) -> None:
    """The second signal ends the run while the journal is created, so it holds nothing yet."""
    journal = tmp_path / "journal"
    journal.touch()
    report: BulkReport[Row, object] = BulkReport(stop_reason=StopReason.STOPPED)
    result = JobResult(report=report, interrupted=True, error=None)
    name = RunName.parse("v1.profiles.delete by customer_user_id")

    assert next_steps(result, journal, name, None) == [
        "Run the same command again to resume; rows that are done are skipped."
    ]
