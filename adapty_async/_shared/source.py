"""The rate source of one bucket of a process, with and without the other processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._shared.exchange import Grant, Report
from adapty_async._shared.member import Member, limiter_alone
from adapty_async.errors import ConfigError, StoreError

logger = logging.getLogger("adapty_async")

# Seconds until a store whose exchanges take too long is tried again.
_RETRY = 0.25
# Seconds without an exchange in time after which a process continues alone, if the store is slow
# and if other processes are faster. Of many that start at once, each gets through after a while.
_SLOW, _STARVED = 1.0, 5.0


class SharedSource:
    """
    A `RateSource` of one bucket, whose rate several processes share.

    It does no I/O. While the store is down, the process uses its share of the known limit on its
    own.

    Args:
        name: a random name of this process.
        fallback: the share of the known limit that all members use without a store.
        clock: returns monotonic seconds.
        on_due: called when the time of the next exchange moves to an earlier one.

    Attributes:
        member: exchanges with the other processes.
        exchanges: number of successful exchanges.
    """

    def __init__(
        self,
        name: str,
        fallback: float,
        clock: Callable[[], float],
        on_due: Callable[[], object] = lambda: None,
    ) -> None:
        self._fallback = fallback
        self._clock = clock
        self._alone: AdaptiveRateLimiter | None = None  # while the store is down
        self._alone_with = 0.0, 0  # the limit and the number of processes that it was made for
        self._is_closed = False
        self.member = Member(name, clock, on_due)
        self.exchanges = 0

    @property
    def _source(self) -> Member | AdaptiveRateLimiter:
        return self.member if self._alone is None else self._alone

    @property
    def is_alone(self) -> bool:
        """Whether the store is down, so that the process uses its share on its own."""
        return self._alone is not None

    @property
    def members(self) -> int:
        """The number of processes, as of the last exchange."""
        return self.member.members

    @property
    def rate(self) -> float:
        """The requests per second of all processes; of this one while the store is down."""
        return self._source.rate

    @property
    def limit(self) -> float | None:
        """The last measured limit of the server; None during a search for it."""
        return self.member.limit

    @property
    def paused_until(self) -> float:
        """The time before which nothing is sent; it may be past."""
        return self._source.paused_until

    @property
    def probing(self) -> bool:
        """Whether the server rejects everything, so that only single probes are sent."""
        return self._source.probing

    @property
    def overstated(self) -> bool:
        """Whether the server accepts requests before the end of a long `Retry-After`."""
        return self._source.overstated

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
        self._keep_pause()

    def throttled(
        self, sent: float, retry_after: float | None = None, *, within: float = math.inf
    ) -> None:
        """Record a 429 response; see `RateSource.throttled`."""
        self._source.throttled(sent, retry_after, within=within)
        self._keep_pause()

    def _keep_pause(self) -> None:
        """Report the pause of a process alone when the store is back."""
        if self._alone is not None:
            self.member.paused_until = self._alone.paused_until

    def search_from(self, rate: float) -> None:
        """Start the search at the rate of counted requests, unless a search began before."""
        self.member.search_from(rate)

    def expect(self, rate: float) -> None:
        """Start with the limit that an earlier run found; see `RateSource.expect`."""
        self.member.expect(rate)
        self._adjust_alone()

    def restart(self, rate: float | None) -> None:
        """Start again, and end a pause; see `RateSource.restart`."""
        self.member.restart(rate)
        if self._alone is not None:
            self._continue_alone()

    def accept(self, report: Report, grant: Grant, began: float) -> None:
        """Use the result of an exchange that began at `began`; the store is up."""
        self.member.accept(report, grant, began)
        self.exchanges += 1
        if self.member.late_since is not None:
            self._require_timely(_SLOW)
        elif self._alone is not None:
            self._alone = None
            logger.info("shared rate: the store is back; the processes share one rate again")

    def lose(self, again: float) -> None:
        """Record that other processes were faster than an exchange; try again at a time."""
        self.member.lose(again)
        self._require_timely(_STARVED)

    def _require_timely(self, seconds: float) -> None:
        """Continue alone if exchanges take so long, or lose so often, that permits are void."""
        since = self.member.late_since
        if self._alone is not None or (since is not None and self._clock() - since > seconds):
            self.fail(StoreError("exchanges with the store take too long, or others are faster"))

    def fail(self, error: StoreError, wait: float = _RETRY) -> None:
        """Continue without the other processes, since the store is down; try again in seconds."""
        if self._alone is None:
            rate = self._continue_alone().rate
            logger.warning(
                "shared rate: %s; this process continues at %.1f requests per second on its own",
                error,
                rate,
            )
        self._adjust_alone()
        self.member.interrupt(self._clock() + wait)

    def _adjust_alone(self) -> None:
        """Change the share of a process alone if a late exchange or a run knows better."""
        before, member = self._alone, self.member
        if before is not None and self._alone_with != (member.known, member.members):
            self._continue_alone().pause_until(before.paused_until)

    def _continue_alone(self) -> AdaptiveRateLimiter:
        member = self.member
        known, members = self._alone_with = member.known, member.members
        self._alone = limiter_alone(
            self._clock, known, self._fallback, members, member.paused_until
        )
        return self._alone

    def close(self) -> None:
        """Admit no further request."""
        self._is_closed = True

    def __repr__(self) -> str:
        return (
            f"SharedSource(rate={self.rate:.1f}, limit={self.limit}, members={self.members}, "
            f"is_alone={self.is_alone})"
        )
