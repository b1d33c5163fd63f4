"""A task that exchanges a process's share of a rate with other processes, through a store."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import msgspec

from adapty_async._runtime.tasks import until_ended
from adapty_async._shared.exchange import Grant, Report, SharedState, exchange
from adapty_async._shared.member import INTERVAL
from adapty_async._shared.source import SharedSource
from adapty_async._shared.store import Store
from adapty_async.errors import StoreError

__all__ = ("SharedBucket",)

# Maximum attempts of one exchange; an attempt fails if another member was faster.
_ATTEMPTS = 20
# Maximum seconds until the second attempt. They double with each, so that many members get through.
_BACKOFF = 0.002
_MAX_BACKOFF = 0.05

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SharedState).decode


class SharedBucket:
    """
    A background task that exchanges the rate of one bucket with other processes.

    Args:
        store: the store; other buckets may use it too.
        key: the key of the state in the store.
        name: a random name of this process.
        fallback: the share of the known limit that all members use without a store.
        clock: returns monotonic seconds.

    Attributes:
        source: the rate source of the bucket.
    """

    def __init__(
        self, store: Store, key: str, name: str, fallback: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._is_closed = False
        self._woken = asyncio.Event()
        self.source = SharedSource(name, fallback, clock, self._woken.set)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Leave the other members, if the store is up; the task has ended afterwards."""
        # the task is not cancelled: libraries of stores may lose a cancellation
        self._is_closed = True
        self.source.close()
        self._woken.set()
        await until_ended(self._task)

    async def _run(self) -> None:
        while await self._is_due():
            try:
                await self._exchange()
            except StoreError as error:
                await self._recover(error)
            except Exception as error:  # noqa: BLE001  without the task, all requests would wait
                self.source.fail(StoreError(f"its value cannot be used: {type(error).__name__}"))
        if not self.source.is_alone:
            await self._leave()

    async def _is_due(self) -> bool:
        """Wait until an exchange is due; return False instead when the bucket is closed."""
        while not self._is_closed and (wait := self.source.member.due - self._clock()) > 0.0:
            self._woken.clear()
            timer = asyncio.get_running_loop().call_later(wait, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
        return not self._is_closed

    async def _recover(self, error: StoreError) -> None:
        """Try once more at once: the connection may only have been idle for too long."""
        if not self.source.is_alone:
            try:
                await self._exchange()
            except StoreError as again:
                error = again
            else:
                return
        self.source.fail(error)

    async def _exchange(self) -> None:
        began = self._clock()
        for attempt in range(_ATTEMPTS):
            result = await self._attempt(is_leaving=False)
            if result is not None:
                self.source.accept(*result, began)
                return
            bound = min(_MAX_BACKOFF, _BACKOFF * 2**attempt)
            await asyncio.sleep(random.uniform(0.0, bound))  # noqa: S311  no secret
        self.source.member.postpone(self._clock() + INTERVAL)

    async def _attempt(self, *, is_leaving: bool) -> tuple[Report, Grant] | None:
        """Return the result of an exchange; None if another member was faster."""
        member, asked = self.source.member, self._clock()
        version, value, now = await self._store.load(self._key)
        member.store_clock.record(asked, now, self._clock())
        report = member.report(is_leaving=is_leaving)
        state, grant = _exchanged(value, now, report)
        swapped = await self._store.swap(self._key, version, _encode(state))
        return (report, grant) if swapped else None

    async def _leave(self) -> None:
        """Report the last responses. Without success, the others notice within seconds."""
        with contextlib.suppress(StoreError):
            await self._attempt(is_leaving=True)

    def __repr__(self) -> str:
        return f"SharedBucket({self._key}, {self.source!r})"


def _exchanged(value: bytes | None, now: float, report: Report) -> tuple[SharedState, Grant]:
    """Return the result of an exchange; with a state that has impossible numbers, of the first."""
    try:
        return exchange(_state_from(value), now, report)
    except (ArithmeticError, ValueError):
        return exchange(None, now, report)


def _state_from(value: bytes | None) -> SharedState | None:
    """Return the state in the store; None if there is none, or only one that is damaged."""
    try:
        return None if value is None else _decode(value)
    except msgspec.MsgspecError:
        return None
