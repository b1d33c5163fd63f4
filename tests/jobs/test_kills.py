"""A short form of `tests.jobs.kills`: nothing is lost, claimed or sent too often."""

from __future__ import annotations

import pytest

from tests.jobs.kills import Settings, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_a_job_whose_workers_are_killed_loses_and_claims_nothing(store: str) -> None:
    """After kills of workers, the planner and the servers, each id was sent and has one state."""
    found = run(
        Settings(store=store, ids=1_500, workers=2, kills=2, planner_kills=1, part_size=100)
    )
    assert found.never == 0
    assert found.repeated <= found.allowed
    assert found.report.done == 1_500
    assert found.report.has_ended


def test_creates_whose_workers_are_killed_are_sent_once() -> None:
    """What must not be sent twice is sent once, or its outcome is unknown."""
    found = run(
        Settings(
            store="postgresql",
            call="create",
            ids=600,
            workers=2,
            kills=3,
            planner_kills=0,
            part_size=50,
            everything=False,
        )
    )
    report = found.report
    assert found.repeated == 0
    assert found.never <= report.unknown <= found.allowed
    assert report.done + report.unknown == 600
    assert report.has_ended
