"""The rate source of one bucket of a process, which exchanges with other processes in a task."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable

import msgspec

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._runtime.tasks import until_ended
from adapty_async._shared.exchange import Grant, Report, SharedState, exchange
from adapty_async._shared.member import INTERVAL, Member, limiter_alone
from adapty_async._shared.store import Store
from adapty_async.errors import ConfigError, StoreError

__all__ = ("SharedBucket",)

logger = logging.getLogger("adapty_async")

# Seconds until a store that is down is tried again.
_RETRY = 0.25
# Maximum attempts of one exchange; an attempt fails if another member was faster.
_ATTEMPTS = 20
# Maximum seconds until the second attempt; it doubles with each, so that many members get through.
_BACKOFF = 0.002
_MAX_BACKOFF = 0.05

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SharedState).decode


class SharedBucket:
    """
    A `RateSource` of one bucket, whose rate several processes share through a store.

    While the store is down, the process uses its share of the known limit on its own.

    Args:
        store: the store; others may use it too.
        key: the key of the state in the store.
        name: a random name of this process.
        fallback: the share of the known limit that all members use without a store.
        clock: returns monotonic seconds.

    Attributes:
        exchanges: number of successful exchanges.
    """

    def __init__(
        self, store: Store, key: str, name: str, fallback: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._key = key
        self._fallback = fallback
        self._clock = clock
        self._woken = asyncio.Event()
        self._member = Member(name, clock, self._woken.set)
        self._alone: AdaptiveRateLimiter | None = None  # while the store is down
        self._is_closed = False
        self._task = asyncio.get_running_loop().create_task(self._run())
        self.exchanges = 0

    @property
    def _source(self) -> Member | AdaptiveRateLimiter:
        return self._member if self._alone is None else self._alone

    @property
    def is_alone(self) -> bool:
        """Whether the store is down, so that the process uses its share on its own."""
        return self._alone is not None

    @property
    def members(self) -> int:
        """The number of processes, as of the last exchange."""
        return self._member.members

    @property
    def rate(self) -> float:
        """The requests per second of all processes; of this one while the store is down."""
        return self._source.rate

    @property
    def limit(self) -> float | None:
        """The last measured limit of the server; None during a search for it."""
        return self._member.limit

    @property
    def estimate(self) -> float:
        """The limit, or the rate during a search for it; a later source may start with it."""
        return self._member.estimate

    @property
    def paused_until(self) -> float:
        """The time before which nothing is sent; it may be past."""
        return self._source.paused_until

    @property
    def probing(self) -> bool:
        """Whether the server rejects everything, so that only single probes are sent."""
        return self._source.probing

    def acquire(self) -> float:
        """
        Return the seconds until the next request may be sent; at 0 it counts as sent now.

        Raises:
            ConfigError: the shared rate is closed.
        """
        self._require_open()
        return self._source.acquire()

    def count(self) -> None:
        """
        Count a request sent without `acquire`; requests of all processes wait longer for it.

        Raises:
            ConfigError: the shared rate is closed.
        """
        self._require_open()
        self._source.count()

    def _require_open(self) -> None:
        if self._is_closed:
            raise ConfigError("the SharedRate of Limits.shared is closed; close the client first")

    def succeeded(self, sent: float, *, paced: bool = True) -> None:
        """Record a response other than 429 to a request that was sent at `sent`."""
        self._source.succeeded(sent, paced=paced)

    def throttled(
        self, sent: float, retry_after: float | None = None, *, within: float = math.inf
    ) -> None:
        """
        Record a 429 response to a request that was sent at `sent`, with its `Retry-After`.

        The next probe is due `within` these seconds: it is of no use later.
        """
        self._source.throttled(sent, retry_after, within=within)

    def search_from(self, rate: float) -> None:
        """Start the search at the rate of counted requests, unless a search began before."""
        self._member.search_from(rate)

    def expect(self, rate: float) -> None:
        """
        Start with the limit that an earlier run found, unless one was measured since.

        Raises:
            ValueError: the rate is not above 0, or infinite.
        """
        self._member.expect(rate)

    async def aclose(self) -> None:
        """Leave the other members, if the store is up; the task has ended afterwards."""
        self._close()
        await until_ended(self._task)

    def abandon(self) -> None:
        """Close in a forked child, whose parent has the task."""
        self._is_closed = True

    def _close(self) -> None:
        self._is_closed = True
        self._woken.set()

    async def _run(self) -> None:
        while await self._is_due():
            await self._exchange_or_be_alone()
        if self._alone is None:
            await self._leave()

    async def _is_due(self) -> bool:
        """Wait until an exchange is due; return False instead when the bucket is closed."""
        while not self._is_closed and (wait := self._member.due - self._clock()) > 0.0:
            self._woken.clear()
            timer = asyncio.get_running_loop().call_later(wait, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
        return not self._is_closed

    async def _exchange_or_be_alone(self) -> None:
        try:
            await self._exchange()
        except StoreError:
            await self._retry()

    async def _retry(self) -> None:
        """Try once more at once: a connection may have been closed because it was idle."""
        try:
            await self._exchange()
        except StoreError as error:
            self._be_alone(error)

    def _be_alone(self, error: StoreError) -> None:
        if self._alone is None:
            self._alone = limiter_alone(
                self._clock, self._member.estimate, self._fallback, self._member.members
            )
            logger.warning(
                "shared rate: %s; this process continues at %.1f requests per second on its own",
                error,
                self._alone.rate,
            )
        self._member.interrupt(self._clock() + _RETRY)

    async def _exchange(self) -> None:
        began = self._clock()
        for attempt in range(_ATTEMPTS):
            result = await self._attempt(is_leaving=False)
            if result is not None:
                self._accept(*result, began)
                return
            bound = min(_MAX_BACKOFF, _BACKOFF * 2**attempt)
            await asyncio.sleep(random.uniform(0.0, bound))  # noqa: S311  no secret
        self._member.postpone(self._clock() + INTERVAL)

    def _accept(self, report: Report, grant: Grant, began: float) -> None:
        self._member.accept(report, grant, began)
        self.exchanges += 1
        if self._alone is not None:
            self._alone = None
            logger.info("shared rate: the store is back; the processes share one rate again")

    async def _attempt(self, *, is_leaving: bool) -> tuple[Report, Grant] | None:
        """Return the result of an exchange; None if another member was faster."""
        asked = self._clock()
        version, value, now = await self._store.load(self._key)
        self._member.store_clock.record(asked, now, self._clock())
        report = self._member.report(is_leaving=is_leaving)
        state, grant = exchange(_state_from(value), now, report)
        swapped = await self._store.swap(self._key, version, _encode(state))
        return (report, grant) if swapped else None

    async def _leave(self) -> None:
        """Report the last responses; without success the others notice within seconds."""
        try:
            await self._attempt(is_leaving=True)
        except StoreError:
            logger.debug(
                "shared rate: the store is down, so the others notice later that this one left"
            )

    def __repr__(self) -> str:
        return (
            f"SharedBucket(rate={self.rate:.1f}, limit={self.limit}, members={self.members}, "
            f"is_alone={self.is_alone})"
        )


def _state_from(value: bytes | None) -> SharedState | None:
    """Return the state in the store; None if there is none, or only one that is damaged."""
    try:
        return None if value is None else _decode(value)
    except msgspec.MsgspecError:
        return None
