"""The report of a run as HTML: what a notebook shows of it."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._bulk.outcome import ReportBuilder
from adapty_async._bulk.report_html import COLORS
from adapty_async.bulk import BulkReport, Outcome, OutcomeStatus, StopReason
from adapty_async.errors import ConnectError, InvalidInputError, RequestRejectedError
from tests._support import CANARY_EMAIL

_FAILED, _DONE = OutcomeStatus.FAILED, OutcomeStatus.DONE


def report_of(
    *ended: tuple[OutcomeStatus, Exception | None], stop_reason: StopReason | None = None
) -> BulkReport[str, str]:
    """Return the report of items that must not be shown."""
    builder: ReportBuilder[str, str] = ReportBuilder()
    for index, (status, error) in enumerate(ended):
        builder.add(Outcome(index, CANARY_EMAIL, status, 1, 0, 0.1, error, CANARY_EMAIL))
    return builder.report(elapsed=90.0, stop_reason=stop_reason)


def texts_of(report: BulkReport[str, str]) -> list[str]:
    """Return the texts of a report's HTML, which is well formed."""
    return [text for text in ET.fromstring(report._repr_html_()).itertext() if text.strip()]


def rejected(code: str) -> RequestRejectedError:
    """Return an error with a code of the server's, and an echo of personal data."""
    error = RequestRejectedError("rejected", status=400)
    error.error_code, error.body = code, CANARY_EMAIL.encode()
    return error


def test_a_report_has_counts_times_and_reasons() -> None:
    """Each status with items has its count and share, each reason its number of items."""
    invalid = InvalidInputError("email", "must be an address")
    ended = [(_DONE, None)] * 5 + [(_FAILED, invalid)] * 2 + [(_FAILED, rejected("bad_value"))]

    assert texts_of(report_of(*ended, (OutcomeStatus.UNKNOWN, ConnectError("refused")))) == [
        "Not complete: 9 items were read.",
        *("Items by status", "done", "5", "55.6%", "failed", "3", "33.3%", "unknown", "1", "11.1%"),
        "1 min 30 s, 9 requests (0.1 per second), 0 throttled (429).",
        "Why items were not done",
        *("InvalidInputError, email: must be an address", "failed", "2"),
        *("RequestRejectedError, status 400, bad_value", "failed", "1"),
        *("ConnectError", "unknown", "1"),
    ]


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        pytest.param(
            report_of((_DONE, None)), "Complete: 1 item, nothing is left to do.", id="complete"
        ),
        pytest.param(
            report_of((_DONE, None), stop_reason=StopReason.SAME_ERROR),
            "Stopped (same error): 1 item was read.",
            id="stopped",
        ),
        pytest.param(
            BulkReport[str, str](), "Complete: 0 items, nothing is left to do.", id="empty"
        ),
    ],
)
def test_a_report_begins_with_the_verdict(report: BulkReport[str, str], verdict: str) -> None:
    """The first line says whether something is left to do, and why a run stopped."""
    assert texts_of(report)[0] == verdict


def test_a_report_counts_failures_beyond_those_that_a_report_keeps() -> None:
    """The reasons are those of the kept failures, and the report says how many there are more."""
    report = report_of(*[(_FAILED, ConnectError("refused"))] * 130)

    assert texts_of(report)[-4:] == [
        *("ConnectError", "failed", "100"),
        "Of the first 100 failures; 30 more.",
    ]


def test_a_report_has_no_item_and_no_text_of_a_server() -> None:
    """Neither an item, nor its result, nor what a server echoed is in the HTML."""
    shown = report_of((_FAILED, rejected(CANARY_EMAIL)))._repr_html_()

    assert CANARY_EMAIL not in shown
    assert "RequestRejectedError, status 400<" in shown


@given(st.text(), st.text())
def test_a_report_escapes_what_it_shows(field: str, rule: str) -> None:
    """Whatever a field or a rule contains is text, and opens no element."""
    error = InvalidInputError(f"<b>{field}", f"'\"<script>{rule}")
    root = ET.fromstring(report_of((_FAILED, error))._repr_html_())

    tags = {"div", "p", "strong", "span", "table", "caption", "tr", "th", "td"}
    assert {each.tag for each in root.iter()} == tags


def luminance(color: str) -> float:
    """Return the relative luminance of a colour, as WCAG 2 defines it."""
    channels = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(part * share for part, share in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


@pytest.mark.parametrize("status", OutcomeStatus)
def test_the_colours_of_a_report_are_seen_on_light_and_dark_pages(status: OutcomeStatus) -> None:
    """Each status has a colour with a contrast of 3:1 on white and on black."""
    own = luminance(COLORS[status])

    assert 1.05 / (own + 0.05) >= 3
    assert (own + 0.05) / 0.05 >= 3


def test_a_report_brings_no_style_for_the_rest_of_a_page() -> None:
    """The only colours are those of the statuses, so text is readable on any page."""
    html = report_of(*[(status, None) for status in OutcomeStatus])._repr_html_()

    assert "<style" not in html
    assert set(re.findall(r"#\w{6}", html)) == set(COLORS.values())
    assert len(html) < 5_000
