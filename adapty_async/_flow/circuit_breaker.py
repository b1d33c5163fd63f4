"""
A circuit breaker, a retry budget and an outage timer, which protect a service in an outage.

They only count and read the clock. Their callers wait, or raise.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from adapty_async.errors import (
    AdaptyError,
    ApiError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.statistics import CircuitState

#: The error code of a 409: an earlier attempt with the same idempotency key is in progress.
IN_FLIGHT = "idempotency_in_flight"
# The statuses below 500 that are transient, and those of 5xx that are not.
_TRANSIENT = frozenset({408, 425, 429})
_FINAL = frozenset({501, 505})

# Consecutive failures that open the circuit. With one request in seven failing at random, which is
# the worst for a service that still works, such a series occurs once in 10^17 requests.
_FAILURES = 20
_SHARE = 0.04
# The next probe follows after 1/25 of the duration of the outage, within these seconds: few probes
# in a long outage, and a short delay after a short one.
_SHORTEST, _LONGEST = 1.0, 30.0


class Sign(enum.Enum):
    """A classification of an attempt's result as a sign of the state of the service."""

    WORKS = enum.auto()
    THROTTLED = enum.auto()
    FAILS = enum.auto()
    #: A response came, but not from the API.
    STRANGE = enum.auto()
    NONE = enum.auto()


def sign_of(error: AdaptyError) -> Sign:
    """Return the meaning of an error for the state of the service."""
    if cannot_be_the_api(error):
        return Sign.STRANGE
    if isinstance(error, ApiError):
        return _sign_of_response(error)
    broken = isinstance(error, ConnectError | ConnectionLostError | RequestTimeoutError)
    return Sign.FAILS if broken and not getattr(error, "permanent", False) else Sign.NONE


def _sign_of_response(error: ApiError) -> Sign:
    if isinstance(error, RateLimitError):
        return Sign.THROTTLED
    if isinstance(error, ServerError) or is_transient(error):
        return Sign.FAILS
    # an idempotency key in use is neither progress nor a failure
    return Sign.NONE if error.error_code == IN_FLIGHT else Sign.WORKS


def is_transient(error: ApiError) -> bool:
    """
    Return whether a response promises that the same request may succeed later.

    All 5xx do, Cloudflare's 520 to 530 among them, except 501 and 505.
    """
    status = error.status
    return status in _TRANSIENT or (500 <= status <= 599 and status not in _FINAL)


def cannot_be_the_api(error: BaseException) -> bool:
    """
    Return whether a response came from something in front of the API, or in its place.

    A gateway may send 5xx, 408, 425 and 429 for the API.
    """
    if isinstance(error, ApiError):
        return error.status < 500 and not error.recognised and not is_transient(error)
    return isinstance(error, DecodeError) and not error._may_be_the_api  # noqa: SLF001  not for users


class RetryBudget:
    """
    A token bucket that bounds retries: each retry costs tokens, and success refunds them.

    The numbers are those of the AWS SDKs since 2026: 500 tokens, 14 for a retry after a transient
    failure, 5 after a 429. Source: the retry behaviour page of their reference guide.

    Attributes:
        size: maximum number of tokens.
        left: tokens that are available.
    """

    #: Tokens of a retry after a transient failure.
    TRANSIENT = 14
    #: Tokens of a retry after a 429.
    THROTTLED = 5

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size

    def try_acquire(self, cost: int) -> bool:
        """Acquire tokens if enough are available; return whether they were."""
        if cost > self.left:
            return False
        self.left -= cost
        return True

    def release(self, tokens: int = 1) -> None:
        """Refund tokens, up to the size."""
        if self.left < self.size:
            self.left = min(self.size, self.left + tokens)


class CircuitBreaker:
    """
    A circuit breaker that opens in an outage and schedules probes.

    Args:
        clock: returns monotonic seconds.
        uniform: returns a random number between two bounds; spreads the probes of many clients.

    Attributes:
        since: start of the outage, on the clock; None without one.
    """

    def __init__(
        self, clock: Callable[[], float], uniform: Callable[[float, float], float]
    ) -> None:
        self._clock = clock
        self._uniform = uniform
        self._failures = 0
        self._first_failure = 0.0
        self._last_success = -math.inf
        self._next_probe = 0.0
        self.since: float | None = None

    @property
    def state(self) -> CircuitState:
        """Whether requests may be sent: all of them, none, or one probe."""
        if self.since is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self._clock() < self._next_probe else CircuitState.HALF_OPEN

    def delay(self) -> float:
        """Return the seconds until a request may be sent; 0 if it may be sent now."""
        return 0.0 if self.since is None else max(0.0, self._next_probe - self._clock())

    def record_probe(self) -> None:
        """Record that a probe is sent: the only request until its response or the next probe."""
        self._schedule_probe(0.0)

    def record_success(self, sent: float) -> None:
        """Record a response of a working service to a request that was sent at `sent`."""
        if sent > self._last_success:  # noqa: PLR1730  max() takes 0.1 µs
            self._last_success = sent
        if self._failures and sent >= self._first_failure:
            self._failures = 0
            self._next_probe = 0.0
            self.since = None

    def record_failure(self, sent: float, retry_after: float | None = None) -> None:
        """Record a failure that counts towards opening the circuit."""
        if sent < self._last_success:
            return  # it was sent before the last success, and only took longer to fail
        if not self._failures:
            self._first_failure = sent
        self._failures += 1
        if self._failures == _FAILURES:
            self.since = self._first_failure
        if self.since is not None:
            self._schedule_probe(retry_after or 0.0)

    def _schedule_probe(self, asked: float) -> None:
        """Set the time of the next probe, which follows later the longer the outage has lasted."""
        now = self._clock()
        share = 0.0 if self.since is None else _SHARE * (now - self.since)
        wait = max(min(asked, _LONGEST), _SHORTEST, min(_LONGEST, share))
        self._next_probe = max(self._next_probe, now + self._uniform(wait, 1.25 * wait))


class WakefulClock:
    """
    A clock that stands still while an event loop is blocked: in a blocking call, or after Ctrl-Z.

    Nothing is sent then, and received responses are unread, so such time is no sign of an outage.
    After the first tick, the clock runs for a limited time without another tick.

    Args:
        clock: returns monotonic seconds.
        most: maximum seconds between two ticks that count.
    """

    def __init__(self, clock: Callable[[], float], most: float) -> None:
        self._clock = clock
        self._most = most
        self._until = math.inf
        self._blocked = 0.0

    def __call__(self) -> float:
        """Return monotonic seconds without the time of blocks."""
        now = self._clock()
        return min(self._until, now) - self._blocked

    def tick(self) -> None:
        """Record that the event loop runs."""
        now = self._clock()
        self._blocked += max(0.0, now - self._until)
        self._until = now + self._most


class OutageTimer:
    """
    A stopwatch for the time in which one run had no success from one bucket.

    Each success resets it to 0. It runs while requests are in flight, and while they wait because
    of a response: for a retry, a pause, the end of an outage. It stands still while the run sends
    nothing for another reason: a configured rate, a slow source, or the disk of its journal.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_flight = 0
        # start of the measured time; advanced by the time for which it stood still
        self._since = self._runs_until = clock()

    @property
    def lasted(self) -> float:
        """The seconds without a success."""
        now = self._clock()
        return (now if self._in_flight else min(now, self._runs_until)) - self._since

    @property
    def is_held(self) -> bool:
        """Whether requests wait because of a response."""
        return self._runs_until > self._clock()

    def start(self) -> None:
        """Record a request that is sent."""
        if not self._in_flight:
            self._resume()
        self._in_flight += 1

    def end(self, *, worked: bool) -> None:
        """Record the end of a request, and whether the API worked."""
        self._in_flight -= 1
        if worked:
            self._since = self._clock()
        if not self._in_flight:  # otherwise it runs on
            self._runs_until = max(self._runs_until, self._clock())

    def hold(self, seconds: float) -> None:
        """Record that requests wait for a number of seconds because of a response."""
        if not self._in_flight:
            self._resume()
        self._runs_until = max(self._runs_until, self._clock() + seconds)

    def _resume(self) -> None:
        stood_still = self._clock() - self._runs_until
        if stood_still > 0.0:
            self._since += stood_still
            self._runs_until += stood_still
