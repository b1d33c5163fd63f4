"""A short form of `tests.jobs.kills`: nothing is lost, claimed or sent too often."""

from __future__ import annotations

import pytest

from tests.jobs.kills import Settings, run

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]


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
    assert not found.faults(settings)


def test_creates_whose_workers_are_killed_are_sent_once() -> None:
    """What must not be sent twice is sent once, or its outcome is unknown."""
    settings = Settings(
        store="postgresql",
        call="create",
        ids=400,
        workers=2,
        kills=2,
        planner_kills=0,
        part_size=50,
        everything=False,
    )
    assert not run(settings).faults(settings)
