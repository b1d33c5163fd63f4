"""A short form of `tests.jobs.kills`: nothing is lost, claimed or sent too often."""

from __future__ import annotations

import pytest

from tests.jobs.kills import Settings, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.unmeasured]


@pytest.mark.parametrize(
    ("store", "everything"), [("sqlite", False), ("postgresql", True)], ids=["sqlite", "postgresql"]
)
def test_a_job_whose_workers_are_killed_loses_and_claims_nothing(
    store: str, *, everything: bool
) -> None:
    """After kills of workers, the planner and the servers, each id was sent and has one state."""
    settings = Settings(
        store=store,
        ids=800,
        workers=2,
        kills=2,
        planner_kills=1,
        part_size=100,
        everything=everything,
        pause=0.2,
    )
    found = run(settings)
    assert (found.never, found.claimed) == (0, 0)
    assert found.repeated <= found.allowed
    assert found.report.done == 800
    assert found.report.has_ended


def test_creates_whose_workers_are_killed_are_sent_once() -> None:
    """What must not be sent twice is sent once, or its outcome is unknown."""
    found = run(
        Settings(
            store="postgresql",
            call="create",
            ids=400,
            workers=2,
            kills=2,
            planner_kills=0,
            part_size=50,
            everything=False,
        )
    )
    report = found.report
    assert (found.repeated, found.claimed) == (0, 0)
    assert found.never <= report.unknown <= found.allowed
    assert report.done + report.unknown == 400
    assert report.has_ended
