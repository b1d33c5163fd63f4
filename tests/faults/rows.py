"""A runner of one fault with every kind of call, which returns the observed ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from adapty_async import AdaptyError, RetryPolicy
from adapty_async.hooks import CallEnded
from tests._shown import shown_by
from tests._support import CANARY_KEY
from tests.faults.ends import Cell, Ends, Fault
from tests.faults.kinds import KINDS, Kind, KindName
from tests.raw_server import ABSENT, DONE, RawServer, Steps

Mode: TypeAlias = Literal["single", "run"]

TWICE = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001, retry_after_max=2.0)
_SHORT = 1.0
#: The number of 429s that do not count as attempts of an item in a run.
FREE = 3
ONCE = RetryPolicy(attempts=1)


class Seen(NamedTuple):
    """
    The observed end of one call.

    Attributes:
        error: the class of the error, "ok" for none.
        status: the item's status in a run; empty for a single call.
        sent: requests that arrived.
        reported: attempts that the library reports.
        shown: everything that a caller could print, log or store.
    """

    error: str
    status: str
    sent: int
    reported: int
    shown: str


class Row(NamedTuple):
    """The observed ends of all calls of a row."""

    ends: Ends
    shown: str


async def row(fault: Fault, *, once: bool) -> Row:
    """Make every kind of call, single and in a run, all concurrently."""
    pairs: list[tuple[KindName, Mode]] = [(name, mode) for name in KINDS for mode in _MODES]
    seen = await asyncio.gather(*(_meet(fault, name, mode, once=once) for name, mode in pairs))
    calls = dict(zip(pairs, seen, strict=True))
    ends = {name: _cell(calls[name, "single"], calls[name, "run"]) for name in KINDS}
    return Row(ends, "".join(each.shown for each in seen))


def _cell(single: Seen, run: Seen) -> Cell:
    free = FREE if single.error == "RateLimitError" and single.sent > 1 else 0
    assert (single.sent + free, single.reported + free) == (run.sent, run.reported)
    # if `Retry-After` ends a single call, a run waits for a limited time
    assert run.error in {single.error, "ok", "CircuitOpenError"}
    assert run.error != "CircuitOpenError" or single.error == "RateLimitError"
    return Cell(single.error, run.status, single.sent, single.reported)


async def _meet(fault: Fault, name: KindName, mode: Mode, *, once: bool) -> Seen:
    first: tuple[Steps, ...] = (fault.before,) if fault.before else ()
    if once:
        later = ABSENT if fault.acted and name == "delete" else DONE
        server = RawServer(*first, fault.steps, then=later, tls=_tls(fault))
    else:
        server = RawServer(*first, then=fault.steps, tls=_tls(fault))
    async with server:
        async with fault.target.enter(server) as options:
            seen = await _seen(fault, KINDS[name], mode, server, options)
        await server.until_left()
        around = bool(fault.before) + (not fault.dead)
        direct = [request for request in server.requests if request.method != "CONNECT"]
        to_proxy = [request for request in server.requests if request.method == "CONNECT"]
        shown = seen.shown + repr(to_proxy)
        return seen._replace(sent=len(direct) - around, shown=shown)


async def _seen(
    fault: Fault, kind: Kind, mode: Mode, server: RawServer, options: dict[str, Any]
) -> Seen:
    events: list[Any] = []
    client = kind.client(
        CANARY_KEY, retry=TWICE, timeout=fault.timeout, hooks=(events.append,), **options
    )
    async with client:
        await _call_before(fault, kind, client, server)
        events.clear()
        error, status, shown = await _MODES[mode](kind, client)
        attempts = sum(each.attempts for each in events if isinstance(each, CallEnded))
        shown += repr((client, events, vars(client)))
        if client.statistics().paused_for < _SHORT:
            await _call_after(fault, kind, client, server)
            return Seen(error, status, attempts, attempts, shown)
    async with kind.client(CANARY_KEY, timeout=fault.timeout, **options) as other:
        await _call_after(fault, kind, other, server)
    return Seen(error, status, attempts, attempts, shown)


def _tls(fault: Fault) -> Any:
    return fault.target.tls and fault.target.tls()


async def _call_before(fault: Fault, kind: Kind, client: Any, server: RawServer) -> None:
    if fault.before:
        await kind.call(client)
        server.released.set()
        await _settle()


async def _call_after(fault: Fault, kind: Kind, client: Any, server: RawServer) -> None:
    """Make one more call, which has to succeed at its first attempt."""
    if not fault.dead:
        server.answer(DONE)
        await _settle()
        await kind.call(client.with_options(retry=ONCE, timeout=10.0))


async def _settle() -> None:
    """Yield to the loop until both sides of a connection have read the other's bytes."""
    for _ in range(8):
        await asyncio.sleep(0)


async def _single(kind: Kind, client: Any) -> tuple[str, str, str]:
    try:
        result = await kind.call(client)
    except AdaptyError as error:
        return type(error).__name__, "", shown_by(error)
    return "ok", "", repr(result)


async def _run(kind: Kind, client: Any) -> tuple[str, str, str]:
    report = await kind.run(client)
    (status,) = (status.value for status, count in report.counts.items() if count)
    shown = repr((report, report.failures))
    for outcome in report.failures:
        return type(outcome.error).__name__, status, shown + shown_by(outcome.error)
    return "ok", status, shown


_MODES: dict[Mode, Callable[[Kind, Any], Awaitable[tuple[str, str, str]]]] = {
    "single": _single,
    "run": _run,
}
