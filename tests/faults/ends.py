"""What may come of a fault, and the few patterns that nearly all of them follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias, cast

from tests.faults.kinds import KindName
from tests.faults.places import SERVER, Place
from tests.raw_server import Drip, Step, Steps

REPEATABLE: tuple[KindName, ...] = ("read", "delete", "upsert")


class Cell(NamedTuple):
    """
    How one kind of call ends.

    Attributes:
        single: the class of the error that is raised, "ok" for none.
        run: the status of the item in a bulk run.
        sent: requests that arrived at the server.
        told: requests that the library says it sent.
    """

    single: str
    run: str
    sent: int
    told: int

    def __str__(self) -> str:
        told = "" if self.told == self.sent else f" of {self.told}"
        return f"{self.single}, {self.run}, {self.sent}{told}"


Ends: TypeAlias = Mapping[KindName, Cell]


class Fault(NamedTuple):
    """
    A row of the table.

    Attributes:
        what: what goes wrong, as it is named in the table.
        steps: what the server does when a request arrives.
        lasts: the end of each kind of call if that is so each time.
        once: the same if it is so only the first time; None where that makes no difference.
        place: where the client is pointed at.
        before: what the server does on a request that went before, over the same connection; a
            fault of an idle connection begins after HOLD.
        acted: the server has carried out what it broke off, so that a repeated delete finds
            nothing.
        timeout: seconds for an attempt.
        dead: nothing the server could do would make a later call succeed.
    """

    what: str
    steps: Steps
    lasts: Ends
    once: Ends | None = None
    place: Place = SERVER
    before: Steps = ()
    acted: bool = False
    timeout: float = 10.0
    dead: bool = False

    def but(self, **cells: Cell) -> Fault:
        """Return the same fault with other ends for some kinds, whether it lasts or not."""
        changed = cast("Ends", cells)
        once = None if self.once is None else {**self.once, **changed}
        return self._replace(lasts={**self.lasts, **changed}, once=once)


def cell(single: str, run: str, sent: int, told: int | None = None) -> Cell:
    """Return how a call ends; as many requests are told of as were sent, unless said."""
    return Cell(single, run, sent, sent if told is None else told)


OK = cell("ok", "done", 1)
OK_AT_SECOND = cell("ok", "done", 2)


def _all(end: Cell) -> Ends:
    return {"read": end, "delete": end, "upsert": end, "create": end}


def fine(what: str, *steps: bytes | Step, before: Steps = ()) -> Fault:
    """Return a fault that nobody notices."""
    return Fault(what, steps, _all(OK), before=before)


def lost(what: str, steps: Steps, error: str = "ConnectionLostError", arrives: int = 1) -> Fault:
    """
    Return a fault after which nobody knows whether the server acted: a create goes no further.
    """
    once = cell(error, "unknown", arrives, 1)
    twice = cell(error, "failed", 2 * arrives, 2)
    again = cell("ok", "done", arrives + 1, 2)
    return Fault(
        what,
        steps,
        {**dict.fromkeys(REPEATABLE, twice), "create": once},
        {**dict.fromkeys(REPEATABLE, again), "create": once},
        acted=True,
    )


def late(what: str, *steps: bytes | Step | Drip) -> Fault:
    """Return a fault that only the attempt's own time ends."""
    return lost(what, steps, "RequestTimeoutError")._replace(timeout=1.5)


def unsent(what: str, steps: Steps, error: str, arrives: int = 1) -> Fault:
    """Return a fault that proves that nothing was done: whatever the call, it is repeated."""
    return Fault(
        what,
        steps,
        _all(cell(error, "failed", 2 * arrives, 2)),
        _all(cell("ok", "done", arrives + 1, 2)),
    )


def unreached(what: str, place: Place, *steps: bytes | Step) -> Fault:
    """Return a fault of making the connection: nothing arrives, and everything is tried again."""
    never = _all(cell("ConnectError", "failed", 0, 2))
    return Fault(what, steps, never, None, place, dead=True)


def forbidden(what: str, place: Place) -> Fault:
    """Return a fault of making the connection that no repeat can heal."""
    never = _all(cell("ConnectError", "failed", 0, 1))
    return Fault(what, (), never, None, place, dead=True)


def final(what: str, steps: Steps, error: str) -> Fault:
    """Return an answer that says no, and would say it again."""
    return Fault(what, steps, _all(cell(error, "failed", 1)))


def unreadable(what: str, steps: Steps) -> Fault:
    """Return an answer that claims success and cannot be read: it is not asked for again."""
    end = {
        **_all(cell("DecodeError", "failed", 1)),
        "create": cell("DecodeError", "unknown", 1),
    }
    return Fault(what, steps, end)
