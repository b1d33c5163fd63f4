"""Outcomes and reports: what counts as what, and that the counts add up."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from adapty_async._bulk.outcome import ReportBuilder
from adapty_async.bulk import BulkReport, EarlierStatus, Outcome, OutcomeStatus, StopReason
from adapty_async.errors import ConnectError
from tests._support import CANARY_EMAIL

IN_ORDER = {OutcomeStatus.DONE, OutcomeStatus.ABSENT, OutcomeStatus.SKIPPED}


def outcome(status: OutcomeStatus, index: int = 0, attempts: int = 1) -> Outcome[str, str]:
    """Return an outcome of an item that must not be shown."""
    return Outcome(index, CANARY_EMAIL, status, attempts, 0, 0.1, None, CANARY_EMAIL)


@pytest.mark.parametrize("status", OutcomeStatus)
def test_an_outcome_is_ok_when_nothing_is_left_to_do(status: OutcomeStatus) -> None:
    """Done, absent and skipped items need nothing more; the others do."""
    assert outcome(status).ok == (status in IN_ORDER)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(None, "Outcome(index=3, status=done, attempts=2)", id="done"),
        pytest.param(
            ConnectError(CANARY_EMAIL),
            "Outcome(index=3, status=done, attempts=2, error=ConnectError)",
            id="with error",
        ),
    ],
)
def test_an_outcome_shows_no_item(error: Exception | None, text: str) -> None:
    """Position, status, attempts and the error's class are shown, items and results are not."""
    shown = Outcome(3, CANARY_EMAIL, OutcomeStatus.DONE, 2, 0, 0.1, error, CANARY_EMAIL)

    assert repr(shown) == text
    assert pretty_repr(shown) == "Outcome(index=3, status='done', attempts=2)"


@given(st.lists(st.tuples(st.sampled_from(OutcomeStatus), st.integers(0, 5)), max_size=300))
def test_the_counts_of_a_report_add_up(items: list[tuple[OutcomeStatus, int]]) -> None:
    """Every outcome is in exactly one count, and requests are added up."""
    recorder: ReportBuilder[str, str] = ReportBuilder()
    for index, (status, attempts) in enumerate(items):
        recorder.add(outcome(status, index, attempts))
    report = recorder.report(elapsed=1.5, stop_reason=None)

    assert report.counts == {**dict.fromkeys(OutcomeStatus, 0), **Counter(s for s, _ in items)}
    assert report.total == len(items) == sum(report.counts.values())
    assert report.requests == sum(attempts for _, attempts in items)
    assert report.elapsed == 1.5
    assert len(report.failures) + report.failures_omitted == report.failed + report.unknown
    assert len(report.failures) <= 100
    assert report.ok == all(status in IN_ORDER for status, _ in items)


def test_a_report_counts_how_skipped_items_ended_before() -> None:
    """Each skipped item is in exactly one of the counts."""
    recorder: ReportBuilder[str, str] = ReportBuilder()
    for number, earlier in enumerate([*EarlierStatus, EarlierStatus.DONE]):
        recorder.add(Outcome(number, "", OutcomeStatus.SKIPPED, earlier=earlier))
    report = recorder.report(elapsed=1.0, stop_reason=None)

    assert report.skipped_earlier == {"done": 2, "absent": 1, "duplicate": 1}
    assert (report.skipped, report.sent) == (4, 0)


def test_a_report_counts_requests_that_were_sent() -> None:
    """An attempt without a connection is no request, and an item without a request was not sent."""
    recorder: ReportBuilder[str, str] = ReportBuilder()
    failed = OutcomeStatus.FAILED
    for number, (attempts, refused) in enumerate([(5, 5), (3, 2), (1, 0), (0, 0)]):
        recorder.add(Outcome(number, "", failed, attempts, connect_failures=refused))
    for number, attempts in enumerate([1, 1, 2], 4):
        recorder.add(Outcome(number, "", OutcomeStatus.DONE, attempts))
    report = recorder.report(elapsed=1.0, stop_reason=None)

    assert (report.requests, report.connect_failures, report.sent) == (6, 7, 5)


@pytest.mark.parametrize("status", OutcomeStatus)
def test_a_report_has_an_attribute_for_every_status(status: OutcomeStatus) -> None:
    """Each count is found by the name of its status."""
    report: BulkReport[str, str] = BulkReport(**{"total": 1, status.value: 1})  # type: ignore[arg-type]

    assert report.counts[status] == 1
    assert report.ok == (status in IN_ORDER)


def test_the_first_hundred_failures_are_kept() -> None:
    """A report holds a bounded number of failures, and counts the rest."""
    recorder: ReportBuilder[str, str] = ReportBuilder()
    for index in range(150):
        recorder.add(outcome(OutcomeStatus.FAILED, index))
    report = recorder.report(elapsed=0.0, stop_reason=None)

    assert [failure.index for failure in report.failures] == list(range(100))
    assert report.failures_omitted == 50


def test_throttled_requests_are_counted() -> None:
    """Throttled (429) responses are added up over all items."""
    recorder: ReportBuilder[str, None] = ReportBuilder()
    for throttled in (0, 2, 1):
        recorder.add(Outcome(0, "", OutcomeStatus.DONE, 3, throttled))

    assert recorder.report(elapsed=0.0, stop_reason=None).throttled == 3


def test_a_run_that_was_stopped_is_not_ok() -> None:
    """Even if all that was read is done, what was not read is not."""
    report: BulkReport[str, None] = BulkReport(total=1, done=1, stop_reason=StopReason.STOPPED)

    assert not report.ok


def test_a_report_shows_why_the_run_was_stopped() -> None:
    """The reason is in the report, and there is none for a run that came to its end."""
    recorder: ReportBuilder[str, None] = ReportBuilder()

    stopped = recorder.report(elapsed=0.0, stop_reason=StopReason.OUTAGE)
    assert stopped.stop_reason is StopReason.OUTAGE
    assert recorder.report(elapsed=0.0, stop_reason=None).stop_reason is None


@pytest.mark.parametrize(
    ("report", "text"),
    [
        pytest.param(BulkReport(), "BulkReport(total=0)", id="empty"),
        pytest.param(
            BulkReport(
                total=3, done=2, failed=1, failures=(outcome(OutcomeStatus.FAILED),), elapsed=1.0
            ),
            "BulkReport(total=3, done=2, failed=1)",
            id="with failures",
        ),
        pytest.param(
            BulkReport(total=1, done=1, stop_reason=StopReason.OUTAGE),
            "BulkReport(total=1, done=1, stop_reason='outage')",
            id="stopped",
        ),
    ],
)
def test_a_report_shows_counts_and_no_items(report: BulkReport[str, str], text: str) -> None:
    """The counts that aren't zero are shown, items are not."""
    assert repr(report) == pretty_repr(report) == text


def test_a_report_is_laid_out_by_rich_where_there_is_little_room() -> None:
    """Each count has a line of its own then, and still none that is zero."""
    report: BulkReport[str, str] = BulkReport(total=3, done=2, failed=1)

    assert pretty_repr(report, max_width=20) == (
        "BulkReport(\n    total=3,\n    done=2,\n    failed=1\n)"
    )
