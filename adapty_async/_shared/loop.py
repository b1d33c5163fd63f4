"""A task that exchanges a process's shares of all its rates with other processes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import random
from collections.abc import Callable, Sequence

import msgspec

from adapty_async._runtime.loop import until_ended
from adapty_async._shared.exchange import Grant, Report, SharedState, exchange
from adapty_async._shared.member import INTERVAL
from adapty_async._shared.source import SharedSource
from adapty_async._shared.store import Change, Store
from adapty_async.errors import StoreError

# Maximum seconds until the second attempt at a bucket for which another member was faster. They
# double with each attempt, so that many members get through, up to a multiple of the interval:
# with more, one of two members at a distance starves at times.
_BACKOFF, _MAX_INTERVALS = 0.002, 5
# Doublings after which a wait has reached its maximum.
_DOUBLINGS = 10
# Maximum number of attempts to leave.
_LEAVING = 5
# Maximum seconds until a store that is down is tried again, after its first failure and after
# others; a random half of them passes in any case. With the time of an attempt they are less than
# those after which a process counts as gone.
_RETRY, _MAX_RETRY = 0.25, 1.5

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SharedState).decode


class ExchangeLoop:
    """
    A background task that exchanges the rates of all buckets of a process with other processes.

    One exchange carries every bucket that is due, and begins `INTERVAL` after the last one at the
    earliest. A bucket that becomes due meanwhile waits for the rest of that interval.

    Args:
        store: the store of all buckets.
        name: a random name of this process.
        fallback: the share of the known limit that all members use without a store.
        clock: returns monotonic seconds.

    Attributes:
        event_loop: the event loop of the task.
        sources: the rate sources of the buckets, by the key of their state in the store.
    """

    def __init__(
        self, store: Store, name: str, fallback: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._name = name
        self._fallback = fallback
        self._clock = clock
        self._is_closed = False
        self._woken = asyncio.Event()
        self._next = -math.inf  # earliest time of the next attempt
        self._failures = 0  # the last attempts in a row in which the store was down
        self._task: asyncio.Task[None] | None = None  # from the first bucket on
        # not that of the first call, whose spans and values the task would keep for its whole life
        self._context = contextvars.copy_context()
        self.event_loop = asyncio.get_running_loop()
        self.sources: dict[str, SharedSource] = {}

    def source(self, key: str) -> SharedSource:
        """Return the rate source of a bucket, by the key of its state in the store."""
        if key not in self.sources:
            self.sources[key] = SharedSource(
                self._name, self._fallback, self._clock, self._woken.set
            )
            self._woken.set()
        if self._task is None:
            self._task = self.event_loop.create_task(self._run(), context=self._context)
        return self.sources[key]

    async def aclose(self) -> None:
        """Leave the other members, if the store is up; the task has ended afterwards."""
        # the task is not cancelled: libraries of stores may lose a cancellation
        self._is_closed = True
        for source in self.sources.values():
            source.close()
        self._woken.set()
        if self._task is not None:
            await until_ended(self._task)

    async def _run(self) -> None:
        while keys := await self._due():
            try:
                await self._exchange(keys)
            except StoreError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001  without the task, all requests would wait
                self._fail(StoreError(f"its values cannot be used: {type(error).__name__}"))
        await self._leave()

    async def _due(self) -> list[str]:
        """Wait until an exchange is due; return the keys of its buckets, none after the close."""
        while not self._is_closed:
            dues, now = {key: one.member.due for key, one in self.sources.items()}, self._clock()
            wait = max(self._next, min(dues.values())) - now
            if wait <= 0.0:
                return [key for key, due in dues.items() if due <= now]
            await self._sleep(wait)
        return []

    async def _sleep(self, seconds: float) -> None:
        """Wait until a bucket may have become due; at most for some seconds."""
        self._woken.clear()
        timer = self.event_loop.call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()

    async def _exchange(self, keys: Sequence[str]) -> None:
        """Exchange for some buckets; those for which another member was faster remain due."""
        began = self._clock()
        self._next = began + INTERVAL
        results = await self._results(keys)
        self._failures = 0
        for key in keys:
            if key in results:
                self.sources[key].accept(*results[key])
            else:
                member = self.sources[key].member
                again = self._clock() + _backoff(member.lost, member.interval)
                self.sources[key].lose(again)
                self._next = min(self._next, again)

    async def _results(self, keys: Sequence[str]) -> dict[str, tuple[Report, Grant, float]]:
        """Attempt an exchange, and once more: the connection may only have been idle for long."""
        try:
            return await self._attempt(keys)
        except StoreError:
            if all(self.sources[key].is_alone for key in keys):
                raise
        return await self._attempt(keys)

    async def _attempt(
        self, keys: Sequence[str], *, is_leaving: bool = False
    ) -> dict[str, tuple[Report, Grant, float]]:
        """Return the results of an exchange and its start by key, if no member was faster."""
        asked = self._clock()
        loaded = await self._store.load(keys)
        received = self._clock()
        results: dict[str, tuple[Report, Grant, float]] = {}
        changes = []
        for key, (version, value, now) in zip(keys, loaded, strict=True):
            member = self.sources[key].member
            member.store_clock.record(asked, now, received)
            report = member.report(is_leaving=is_leaving)
            state, grant = _exchanged(value, now, report)
            results[key] = report, grant, asked
            changes.append(Change(key, version, _encode(state)))
        swapped = await self._store.swap(changes)
        return {key: results[key] for key, won in zip(keys, swapped, strict=True) if won}

    def _fail(self, error: StoreError) -> None:
        """Continue with all buckets alone: they have one store."""
        wait = _outage_wait(self._failures)
        self._failures += 1
        for source in self.sources.values():
            source.fail(error, wait)

    async def _leave(self) -> None:
        """Report the last responses. Without success, the others notice within seconds."""
        keys = [key for key, source in self.sources.items() if not source.is_alone]
        lost = 0
        with contextlib.suppress(Exception):  # nobody would retrieve an error of the task
            while keys and lost < _LEAVING:
                left = await self._attempt(keys, is_leaving=True)
                if keys := [key for key in keys if key not in left]:
                    await asyncio.sleep(_backoff(lost, INTERVAL))
                lost += 1


def _backoff(lost: int, interval: float) -> float:
    """Return random seconds until the next attempt, after a number of lost ones before."""
    most = min(_BACKOFF * 2 ** min(lost, _DOUBLINGS), _MAX_INTERVALS * interval)
    return random.uniform(0.0, most)  # noqa: S311  no secret


def _outage_wait(failures: int) -> float:
    """Return random seconds until a store that is down is tried again, after failures before."""
    most = min(_MAX_RETRY, _RETRY * 2 ** min(failures, _DOUBLINGS))
    return random.uniform(most / 2, most)  # noqa: S311  no secret


def _exchanged(value: bytes | None, now: float, report: Report) -> tuple[SharedState, Grant]:
    """Return the result of an exchange; a value that cannot be used counts as none."""
    if value is not None:
        with contextlib.suppress(msgspec.MsgspecError, ArithmeticError, ValueError):
            return exchange(_decode(value), now, report)
    return exchange(None, now, report)
