"""A fault and the expected end of each call, with the patterns of nearly all faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias, cast

from tests.faults.kinds import KindName
from tests.faults.targets import SERVER, Target
from tests.raw_server import Drip, Step, Steps

REPEATABLE: tuple[KindName, ...] = ("read", "delete", "upsert")


class Cell(NamedTuple):
    """
    The end of one kind of call.

    Attributes:
        single: the class of the error that a single call raises, "ok" for none.
        run: the status of the item in a bulk run.
        sent: requests that arrived at the server.
        reported: attempts that the library reports.
    """

    single: str
    run: str
    sent: int
    reported: int

    def __str__(self) -> str:
        attempts = "" if self.reported == self.sent else f" of {self.reported}"
        return f"{self.single}, {self.run}, {self.sent}{attempts}"


Ends: TypeAlias = Mapping[KindName, Cell]


class Fault(NamedTuple):
    """
    A row of the table of faults.

    Attributes:
        name: the name of the fault in the table.
        steps: the server's steps when a request arrives.
        lasts: the end of each kind of call if all requests meet the fault.
        once: the same if only the first request meets it; None if that makes no difference.
        target: the target of the client.
        before: the server's steps for an earlier request on the same connection; a fault of an idle
            connection begins after HOLD.
        acted: whether the server carried out the request, so that the retry of a delete finds
            nothing.
        timeout: seconds for an attempt.
        dead: whether no response of the server could make a later call succeed.
    """

    name: str
    steps: Steps
    lasts: Ends
    once: Ends | None = None
    target: Target = SERVER
    before: Steps = ()
    acted: bool = False
    timeout: float = 10.0
    dead: bool = False

    def but(self, **cells: Cell) -> Fault:
        """Return the same fault with other ends for some kinds, both lasting and once."""
        changed = cast("Ends", cells)
        once = None if self.once is None else {**self.once, **changed}
        return self._replace(lasts={**self.lasts, **changed}, once=once)


def cell(single: str, run: str, sent: int, reported: int | None = None) -> Cell:
    """Return the end of a call; by default all requests that were sent are reported."""
    return Cell(single, run, sent, sent if reported is None else reported)


OK = cell("ok", "done", 1)
OK_AT_SECOND = cell("ok", "done", 2)


def _all(end: Cell) -> Ends:
    return {"read": end, "delete": end, "upsert": end, "create": end}


def fine(name: str, *steps: bytes | Step, before: Steps = ()) -> Fault:
    """Return a fault that changes nothing for the caller."""
    return Fault(name, steps, _all(OK), before=before)


def bodiless(name: str, *steps: bytes | Step) -> Fault:
    """Return a success without a body: a write has done its work, and a read has read nothing."""
    return fine(name, *steps).but(read=cell("DecodeError", "failed", 1))


def lost(name: str, steps: Steps, error: str = "ConnectionLostError", arrives: int = 1) -> Fault:
    """Return a fault with an unknown outcome on the server: a create is not retried."""
    once = cell(error, "unknown", arrives, 1)
    twice = cell(error, "failed", 2 * arrives, 2)
    again = cell("ok", "done", arrives + 1, 2)
    return Fault(
        name,
        steps,
        {**dict.fromkeys(REPEATABLE, twice), "create": once},
        {**dict.fromkeys(REPEATABLE, again), "create": once},
        acted=True,
    )


def late(name: str, *steps: bytes | Step | Drip) -> Fault:
    """Return a fault that only the timeout of the attempt ends."""
    return lost(name, steps, "RequestTimeoutError")._replace(timeout=1.5)


def unsent(name: str, steps: Steps, error: str, arrives: int = 1) -> Fault:
    """Return a fault that proves that nothing was done: every kind of call is retried."""
    return Fault(
        name,
        steps,
        _all(cell(error, "failed", 2 * arrives, 2)),
        _all(cell("ok", "done", arrives + 1, 2)),
    )


def unreached(name: str, target: Target, *steps: bytes | Step) -> Fault:
    """Return a fault of connecting: nothing arrives, and every kind of call is retried."""
    never = _all(cell("ConnectError", "failed", 0, 2))
    return Fault(name, steps, never, None, target, dead=True)


def forbidden(name: str, target: Target) -> Fault:
    """Return a fault of connecting that no retry can overcome."""
    never = _all(cell("ConnectError", "failed", 0, 1))
    return Fault(name, (), never, None, target, dead=True)


def final(name: str, steps: Steps, error: str) -> Fault:
    """Return a response that rejects the request, and would reject a retry."""
    return Fault(name, steps, _all(cell(error, "failed", 1)))


def unreadable(name: str, steps: Steps) -> Fault:
    """Return a response that reports success and cannot be decoded: there is no retry."""
    end = {
        **_all(cell("DecodeError", "failed", 1)),
        "create": cell("DecodeError", "unknown", 1),
    }
    return Fault(name, steps, end)
