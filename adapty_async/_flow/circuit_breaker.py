"""
Protection of a service in an outage: a retry budget, a circuit breaker and a timer.

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

__all__ = (
    "IN_FLIGHT",
    "CircuitBreaker",
    "OutageTimer",
    "RetryBudget",
    "Sign",
    "WakefulClock",
    "cannot_be_the_api",
    "is_transient",
    "sign_of",
)

#: The error code of a 409: an earlier attempt with the same idempotency key is in progress.
IN_FLIGHT = "idempotency_in_flight"
_TRANSIENT = frozenset({408, 425, 429})
_FINAL = frozenset({501, 505})

# Failures in a row that make an outage: with one request in seven failing at random, as bad as a
# service gets that still works, that many come together once in 10^17 requests.
_FAILURES = 20
_SHARE = 0.04
#: The next try comes after a twenty-fifth of the time the outage has lasted, within these seconds:
#: few tries in a long outage, little lost after a short one.
_SHORTEST, _LONGEST = 1.0, 30.0


class Sign(enum.Enum):
    """The meaning of an attempt's end for the state of the service."""

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
    # a key that is in use is no progress, and no failure
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
    return isinstance(error, DecodeError)


class RetryBudget:
    """
    Tokens for repeats: they are taken by each repeat, and come back with success.

    The numbers are those of the AWS SDKs since 2026: 500 tokens, 14 for a repeat after a transient
    failure, 5 after being throttled. Source: the retry behaviour page of their reference guide.

    Attributes:
        size: tokens at most.
        left: tokens that are there.
    """

    TRANSIENT = 14
    THROTTLED = 5

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size

    def try_acquire(self, cost: int) -> bool:
        """Take tokens, if there are as many."""
        if cost > self.left:
            return False
        self.left -= cost
        return True

    def release(self, tokens: int = 1) -> None:
        """Put tokens back, up to the size."""
        self.left = min(self.size, self.left + tokens)


class CircuitBreaker:
    """
    Knows whether the service is down, and when it is to be tried again.

    Args:
        clock: seconds that only ever grow.
        uniform: a random number between two bounds; spreads the tries of many clients.

    Attributes:
        since: when the outage began, on the clock; None without one.
    """

    def __init__(
        self, clock: Callable[[], float], uniform: Callable[[float, float], float]
    ) -> None:
        self._clock = clock
        self._uniform = uniform
        self._failures = 0
        self._first_failure = 0.0
        self._worked = -math.inf
        self._next_try = 0.0
        self.since: float | None = None

    @property
    def state(self) -> CircuitState:
        """What is let through now."""
        if self.since is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self._clock() < self._next_try else CircuitState.HALF_OPEN

    @property
    def open_for(self) -> float:
        """The seconds that the outage has lasted; 0 without one."""
        return 0.0 if self.since is None else self._clock() - self.since

    def delay(self) -> float:
        """Return the seconds until a request may go; 0 if it may go now."""
        return 0.0 if self.since is None else max(0.0, self._next_try - self._clock())

    def record_probe(self) -> None:
        """Let a request go in an outage: it is the only one until its answer, or the next try."""
        self._set_next_try(0.0)

    def record_success(self, sent: float) -> None:
        """
        Take note of an answer that only a working service gives, and of when it was asked for.
        """
        self._worked = max(self._worked, sent)
        if self._failures and sent >= self._first_failure:
            self._failures = 0
            self._next_try = 0.0
            self.since = None

    def record_failure(self, sent: float, retry_after: float | None = None) -> None:
        """Take note of a failure that an outage would have caused."""
        if sent < self._worked:
            return  # it was asked for before, and only took longer to fail
        if not self._failures:
            self._first_failure = sent
        self._failures += 1
        if self._failures == _FAILURES:
            self.since = self._first_failure
        if self.since is not None:
            self._set_next_try(retry_after or 0.0)

    def _set_next_try(self, asked: float) -> None:
        now = self._clock()
        share = _SHARE * self.open_for
        wait = max(min(asked, _LONGEST), _SHORTEST, min(_LONGEST, share))
        self._next_try = max(self._next_try, now + self._uniform(wait, 1.25 * wait))


class WakefulClock:
    """
    A clock that stands still while an event loop does: in a blocking call, or after Ctrl-Z.

    Nothing can be sent then, and responses that have come are not read yet, so such time says
    nothing of the service. It runs from the first look on at most for a given time without another.

    Args:
        clock: seconds that only ever grow.
        most: seconds between two looks that count at most.
    """

    def __init__(self, clock: Callable[[], float], most: float) -> None:
        self._clock = clock
        self._most = most
        self._until = math.inf
        self._lost = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return min(self._clock(), self._until) - self._lost

    def look(self) -> None:
        """Record that the event loop turns."""
        now = self._clock()
        self._lost += max(0.0, now - self._until)
        self._until = now + self._most


class OutageTimer:
    """
    A stopwatch for the time in which one run got no success from one bucket.

    Each success sets it to 0. It runs while requests are in flight, and while they wait because
    of a response: for a retry, a pause, the end of an outage. It stands still while the run sends
    nothing for another reason: a given rate, or a slow source.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_flight = 0
        # it has run since then; moved on by the time for which it stood still
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
            self._go_on()
        self._in_flight += 1

    def end(self, *, worked: bool) -> None:
        """Record the end of a request, and whether it was a success."""
        self._in_flight -= 1
        now = self._clock()
        if worked:
            self._since = now
        self._runs_until = max(self._runs_until, now)

    def hold(self, seconds: float) -> None:
        """Record that requests wait for that time because of a response."""
        if not self._in_flight:
            self._go_on()
        self._runs_until = max(self._runs_until, self._clock() + seconds)

    def _go_on(self) -> None:
        stood_still = self._clock() - self._runs_until
        if stood_still > 0.0:
            self._since += stood_still
            self._runs_until += stood_still
