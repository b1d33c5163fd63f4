"""A consistency check of a soak test: the client's claims against the server's record."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from adapty_async.sandbox import Arrival

__all__ = (
    "CREDIT",
    "SEEDED",
    "WORKS",
    "Claim",
    "Entry",
    "ServerRecord",
    "Total",
    "Work",
    "problems",
)

Kind: TypeAlias = Literal["make", "remove"]


class Work(NamedTuple):
    """
    A kind of work, with the expected effect of its calls.

    Attributes:
        kind: the effect on the profile of an id.
        api: the API that has the profile.
        seeded: whether the profile existed before.
        once: whether a request must not be retried after a lost response.
        resumed: whether a second run sends the requests that were not sent.
    """

    kind: Kind
    api: Literal["v1", "mail"] = "v1"
    seeded: bool = False
    once: bool = False
    resumed: bool = False


#: The only work whose ids recur: each credit adds a coin to that purse.
CREDIT = "credit-v2"
WORKS: Mapping[str, Work] = {
    "delete": Work("remove", seeded=True, resumed=True),
    "delete-v2": Work("remove", seeded=True),
    "create": Work("make", once=True),
    "grant-v2": Work("make", seeded=True),
    CREDIT: Work("make", seeded=True),
    "save": Work("make", "mail"),
    "erase": Work("remove", "mail"),
    "single-create": Work("make", once=True),
    "single-delete": Work("remove"),
}
SEEDED = [name for name, work in WORKS.items() if work.seeded]


class Claim(msgspec.Struct, frozen=True, tag=True):
    """The client's claim about one call: the status of its outcome, or the class of its error."""

    work: str
    id: str
    status: str


class Total(msgspec.Struct, frozen=True, tag=True):
    """The number of calls in the report of a run."""

    work: str
    count: int


Entry: TypeAlias = Claim | Total


class Seen(msgspec.Struct):
    """
    The server's counts for one id.

    Attributes:
        arrived: requests that arrived.
        passed: requests that the rate limit admitted.
        applied: requests that were carried out.
    """

    arrived: int = 0
    passed: int = 0
    applied: int = 0


class ServerRecord:
    """
    The server's record of all requests, and its final state.

    Attributes:
        faults: numbers of requests by injected fault.
        there: the ids of the existing profiles, by API.
        balances: coins by purse.
    """

    def __init__(
        self,
        arrivals: Iterable[Arrival],
        there: Mapping[str, set[str]],
        balances: Mapping[str, int],
    ) -> None:
        self.there = there
        self.balances = balances
        self.faults = Counter[str]()
        self._seen: defaultdict[tuple[Kind, str | None], Seen] = defaultdict(Seen)
        for arrival in arrivals:
            self._add(arrival)

    def _add(self, arrival: Arrival) -> None:
        is_throttled = arrival.status == 429
        self.faults["429" if is_throttled else arrival.fault or "none"] += 1
        if (kind := _kind_of(arrival)) is not None:
            seen = self._seen[kind, arrival.identity]
            seen.arrived += 1
            seen.passed += not is_throttled
            seen.applied += arrival.applied

    def seen(self, kind: Kind, identity: str) -> Seen:
        """Return the counts for an id."""
        return self._seen.get((kind, identity), Seen())


def _kind_of(arrival: Arrival) -> Kind | None:
    if arrival.method == "DELETE" or arrival.path.endswith("/delete/"):
        return "remove"
    return "make" if arrival.method == "POST" else None


class _Claims:
    """The claims of the client, by work and id."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.ended = Counter[str]()
        self.reported = Counter[str]()
        self.claims: dict[tuple[str, str], str] = {}
        self.purses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.twice: list[str] = []
        for entry in entries:
            if isinstance(entry, Total):
                self.reported[entry.work] += entry.count
            else:
                self.ended[entry.work] += 1
                self._add(entry)

    def _add(self, claim: Claim) -> None:
        if claim.work == CREDIT:
            self.purses[claim.id][claim.status] += 1
        elif (claim.work, claim.id) in self.claims:
            self.twice.append(f"{claim.work} {claim.id}")
        elif claim.work in WORKS:
            self.claims[claim.work, claim.id] = claim.status


def problems(entries: Iterable[Entry], record: ServerRecord) -> Iterator[str]:
    """Yield the calls that were lost, duplicated or claimed wrongly."""
    claimed = _Claims(entries)
    for one in claimed.twice:
        yield f"{one}: ended twice"
    for work, count in claimed.reported.items():
        if count != claimed.ended[work]:
            yield f"{work}: {count} in the reports, {claimed.ended[work]} ended"
    removed = {one for work, one in claimed.claims if WORKS[work].kind == "remove"}
    for (work, one), status in claimed.claims.items():
        seen = record.seen(WORKS[work].kind, one)
        is_there = one in record.there[WORKS[work].api]
        wrong = _wrong(WORKS[work], status, seen)
        if status == "done":
            wrong = wrong or _wrongly_done(
                WORKS[work], seen, is_there=is_there, is_removed=one in removed
            )
        if wrong is not None:
            yield f"{work} {one}, claimed {status}: {wrong}"
    yield from _wrong_balances(claimed.purses, record.balances)


def _wrong(work: Work, status: str, seen: Seen) -> str | None:
    if work.once and seen.passed > 1:
        return f"was sent {seen.passed} times"
    if status == "absent" and work.seeded:
        return "was there"
    if status == "failed" and work.once and seen.applied:
        return "was carried out"
    if status == "not_sent" and seen.arrived and not work.resumed:
        return "was sent"
    return None


def _wrongly_done(work: Work, seen: Seen, *, is_there: bool, is_removed: bool) -> str | None:
    # after a lost response and a 404, the profile of a delete may never have existed
    if not seen.applied and (work.seeded or work.kind == "make"):
        return "was not carried out"
    if is_there and work.kind == "remove":
        return "is still there"
    if work.kind == "make" and not is_there and not is_removed:
        return "is not there"
    return None


def _wrong_balances(
    purses: Mapping[str, Counter[str]], balances: Mapping[str, int]
) -> Iterator[str]:
    for purse, ends in purses.items():
        unsure = ends.total() - ends["done"] - ends["not_sent"]
        balance = balances.get(purse, 0)
        if not ends["done"] <= balance <= ends["done"] + unsure:
            yield f"{purse}: {balance} coins after {ends['done']} credits and {unsure} unsure ones"
