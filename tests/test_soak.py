"""The consistency check of the soak test: lost, duplicated or wrongly claimed calls."""

from __future__ import annotations

from typing import Any

import pytest

from adapty_async.sandbox import Arrival
from benchmarks._soak_check import Claim, Entry, ServerRecord, Total, problems


def arrival(method: str, identity: str, *, status: int = 200, applied: bool = True) -> Arrival:
    """Return the sandbox's log entry of a request."""
    return Arrival(
        number=1,
        at=0.0,
        method=method,
        path="/",
        api="v1",
        identity=identity,
        status=status,
        fault=None,
        applied=applied,
    )


DELETED = arrival("DELETE", "u1")
LOST = arrival("DELETE", "u1", status=0, applied=False)
THROTTLED = arrival("POST", "u1", status=429, applied=False)
CREATED = arrival("POST", "u1")


def found(
    *entries: Entry, arrivals: tuple[Arrival, ...] = (), there: str = "", coins: int = 0
) -> list[str]:
    """Return the problems with calls for one id."""
    ids: dict[str, Any] = {"v1": {there}, "mail": {there}}
    return list(problems(entries, ServerRecord(arrivals, ids, {"u1": coins})))


def test_what_is_as_the_client_says_is_no_problem() -> None:
    """A retried delete, a create that was throttled before and credited coins are consistent."""
    assert not found(Claim("delete", "u1", "done"), arrivals=(LOST, DELETED))
    assert not found(Claim("create", "u1", "done"), arrivals=(THROTTLED, CREATED), there="u1")
    assert not found(Claim("single-delete", "u1", "done"), arrivals=(LOST, LOST))
    assert not found(Claim("create", "u1", "unknown"), arrivals=(CREATED,), there="u1")
    assert not found(Claim("delete", "u1", "not_sent"), Total("delete", 1), arrivals=(DELETED,))
    purse = [Claim("credit-v2", "u1", status) for status in ("done", "failed", "not_sent")]
    assert not found(*purse, coins=1)
    assert not found(*purse, coins=2)


@pytest.mark.parametrize(
    ("work", "status", "arrivals", "there", "wrong"),
    [
        ("delete", "done", (DELETED,), "u1", "is still there"),
        ("delete", "done", (LOST,), "", "was not carried out"),
        ("delete", "absent", (DELETED,), "", "was there"),
        ("delete-v2", "not_sent", (DELETED,), "", "was sent"),
        ("create", "done", (CREATED,), "", "is not there"),
        ("create", "unknown", (CREATED, CREATED), "u1", "was sent 2 times"),
        ("create", "failed", (CREATED,), "u1", "was carried out"),
        ("single-create", "ConnectionLostError", (CREATED, CREATED), "", "was sent 2 times"),
    ],
)
def test_differences_from_the_clients_record_are_reported(
    work: str, status: str, arrivals: tuple[Arrival, ...], there: str, wrong: str
) -> None:
    """Each claim is compared with the arrivals and the final state."""
    problem = found(Claim(work, "u1", status), arrivals=arrivals, there=there)

    assert problem == [f"{work} u1, claimed {status}: {wrong}"]


def test_wrong_counts_are_reported() -> None:
    """An item without an end or with two, and too many or too few coins are problems."""
    done = Claim("save", "u1", "done")
    credit = Claim("credit-v2", "u1", "done")

    assert found(Total("save", 1)) == ["save: 1 in the reports, 0 ended"]
    assert found(done, done, arrivals=(CREATED,), there="u1") == ["save u1: ended twice"]
    assert found(credit, coins=2) == ["u1: 2 coins after 1 credits and 0 unsure ones"]
    assert found(credit, coins=0) == ["u1: 0 coins after 1 credits and 0 unsure ones"]
