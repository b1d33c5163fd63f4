"""Every fault with every kind of call, as single calls and in bulk runs, on real sockets."""

from __future__ import annotations

import logging

import pytest

from tests._support import CANARY_EMAIL, CANARY_KEY
from tests.faults.catalogue import GROUPS
from tests.faults.certificates import are_to_be_had
from tests.faults.ends import Ends, Fault
from tests.faults.page import PAGE, rows, written
from tests.faults.rows import row
from tests.raw_server import own_tasks

ROWS = list(rows())
_HAPPENED: dict[tuple[str, bool], Ends] = {}


def _needs_certificates(fault: Fault) -> bool:
    return fault.target.tls is not None and not are_to_be_had()


@pytest.mark.parametrize(
    ("fault", "once"),
    [
        pytest.param(fault, once, id=f"{fault.name}-{'once' if once else 'each time'}")
        for fault, once in ROWS
    ],
)
async def test_a_fault_ends_as_it_must(
    fault: Fault,
    once: bool,  # noqa: FBT001  a row
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each call ends as its kind must, and shows neither its key nor personal data."""
    if _needs_certificates(fault):
        pytest.skip("openssl makes no certificates here")
    caplog.set_level(logging.DEBUG)
    before = own_tasks()
    seen = await row(fault, once=once)
    _HAPPENED[fault.name, once] = seen.ends

    assert seen.ends == (fault.once if once else fault.lasts)
    assert own_tasks() == before
    for canary in (CANARY_KEY, CANARY_EMAIL):
        assert canary not in seen.shown
        assert canary not in caplog.text


def test_the_faults_have_names_of_their_own() -> None:
    """There are enough faults, and each has a unique name on the page."""
    names = [fault.name for faults in GROUPS.values() for fault in faults]

    assert len(names) >= 60
    assert len(set(names)) == len(names)


async def test_the_page_says_what_happened() -> None:
    """The page in the documentation shows the observed ends; `make faults` regenerates it."""
    if any(_needs_certificates(fault) for fault, _ in ROWS):
        pytest.skip("openssl makes no certificates here")
    happened = {
        (fault.name, once): _HAPPENED.get((fault.name, once)) or (await row(fault, once=once)).ends
        for fault, once in ROWS
    }

    assert PAGE.read_text(encoding="utf-8") == written(happened)
