"""
Whether a failed request is sent again, and when: a table, and tenacity walking it.

The first attempt runs outside tenacity, since a call that succeeds needs nothing of it and it
costs 16 to 45 µs. Only a failed first attempt enters its loop.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import tenacity

from adapty_async._api.operation import Request, Response, RetrySafety, Send
from adapty_async._flow.circuit_breaker import (
    IN_FLIGHT,
    RetryBudget,
    cannot_be_the_api,
    is_transient,
)
from adapty_async._flow.run_limits import RunLimits
from adapty_async._runtime.clock import Timing
from adapty_async.config import RetryPolicy
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.hooks import Hook, RetryScheduled

__all__ = ("is_refusal", "may_have_worked", "may_retry", "retry")

logger = logging.getLogger("adapty_async")
logger.addHandler(logging.NullHandler())

# By how much a wait the server asked for is lengthened at random, so that tasks it sent away
# together do not come back together.
_SPREAD = 0.25


def may_retry(replay: RetrySafety, error: BaseException) -> bool:
    """Say whether a request of that replay class may be sent again after that error."""
    if isinstance(error, ConnectError):
        return not error.permanent
    if _surely_unprocessed(error):
        return True
    if replay is RetrySafety.IF_UNSENT:
        return False
    if isinstance(error, ApiError):
        return is_transient(error) or error.error_code == IN_FLIGHT
    return isinstance(error, ConnectionLostError | RequestTimeoutError)


def may_have_worked(error: BaseException) -> bool:
    """Say whether the server may have carried out a request that ended with that error."""
    if _surely_unprocessed(error):
        return False
    if isinstance(error, ServerError):
        return True
    if isinstance(error, ApiError):
        return error.status == 408 or error.error_code == IN_FLIGHT
    return isinstance(error, ConnectionLostError | RequestTimeoutError | DecodeError)


def is_refusal(error: BaseException) -> bool:
    """Return whether the error proves that the server did not process the request."""
    return isinstance(error, ConnectError) or _surely_unprocessed(error)


def _surely_unprocessed(error: BaseException) -> bool:
    throttled = isinstance(error, RateLimitError)
    return throttled or (
        isinstance(error, ServerError) and error.status == 503 and error.retry_after is not None
    )


def retry(
    send: Send,
    policy: RetryPolicy,
    timing: Timing,
    budget: RetryBudget,
    hooks: tuple[Hook, ...] = (),
    run: RunLimits | None = None,
) -> Send:
    """
    Repeat failed requests as the policy, the budget and the request's replay class allow.

    A bulk run that is stopping retries nothing.
    """

    async def send_with_retries(request: Request) -> Response:
        try:
            response = await send(request)
        except AdaptyError as error:
            first = error
        else:
            budget.release()
            return response
        return await _Repeats(request, policy, timing, budget, hooks, run).run(send, first)

    return send_with_retries


# Responses 429, and responses in an outage that are not the API's, that an item of a bulk run gets
# without that being an attempt of its own.
_FREE = 3


class _State(Protocol):
    """The part of tenacity's state that is used here."""

    attempt_number: int
    upcoming_sleep: float


class _Repeats:
    """The attempts of one call after its first one failed."""

    def __init__(
        self,
        request: Request,
        policy: RetryPolicy,
        timing: Timing,
        budget: RetryBudget,
        hooks: tuple[Hook, ...],
        run: RunLimits | None,
    ) -> None:
        self._request = request
        self._policy = policy
        self._timing = timing
        self._budget = budget
        self._hooks = hooks
        self._run = run
        self._error: AdaptyError = AdaptyError()
        self._cost = 0
        self._excused = 0  # of its failures, as far as they were looked at
        self._strange = 0  # responses in an outage that were not the API's

    async def run(self, send: Send, first: AdaptyError) -> Response:
        failed: list[AdaptyError] = [first]

        async def attempt() -> Response:
            if failed:
                raise failed.pop()
            sent = self._request.state.attempts
            try:
                return await send(self._request)
            except AdaptyError as error:
                if self._request.state.attempts == sent:
                    raise error from self._error  # why there was a retry to wait for
                raise

        loop = tenacity.AsyncRetrying(
            sleep=self._timing.sleep,
            retry=tenacity.retry_if_exception(self._may_retry),
            wait=self._wait,
            stop=self._stop,
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            response: Response = await loop(attempt)
        except AdaptyError as error:
            request = self._request
            if isinstance(error, NotFoundError) and request.erases and request.state.ambiguous:
                # the attempt whose answer was lost is what removed it
                named = {"Request-Id": error.request_id} if error.request_id else {}
                return Response(error.status, named, b"")
            error.attempts = request.state.attempts
            raise
        self._request.state.error = None
        self._budget.release(self._cost)
        return response

    def _may_retry(self, error: BaseException) -> bool:
        if not isinstance(error, AdaptyError):
            return False
        self._error = error
        tally = self._request.state
        tally.ambiguous = tally.ambiguous or may_have_worked(error)
        tally.error, tally.written = error, tally.written or not isinstance(error, ConnectError)
        is_excused, self._excused = tally.outage_failures > self._excused, tally.outage_failures
        if may_retry(self._request.retry_safety, error):
            return True
        return is_excused and self._request.low_priority and self._was_in_the_way(error)

    def _was_in_the_way(self, error: AdaptyError) -> bool:
        """Return whether a response that is not the API's is to be retried: at most three times."""
        if self._request.retry_safety is RetrySafety.IF_UNSENT or not cannot_be_the_api(error):
            return False
        self._strange += 1
        return self._strange <= _FREE

    def _wait(self, state: _State) -> float:
        policy = self._policy
        asked = getattr(self._error, "retry_after", None)
        if asked is not None:
            if self._goes_back():  # where all wait for longer, if that is what the server wants
                asked = min(asked, policy.retry_after_max)
            return float(asked) + self._timing.uniform(0.0, _SPREAD * asked)
        doubled = policy.wait_initial * 2.0 ** min(state.attempt_number - 1, 60)
        return self._timing.uniform(0.0, min(policy.wait_max, doubled))

    def _goes_back(self) -> bool:
        """
        Say whether the request goes back into the queue it came from: throttled, in a bulk run.
        """
        request = self._request
        throttled = isinstance(self._error, RateLimitError)
        return request.low_priority and throttled and request.state.throttled <= _FREE

    def _stop(self, state: _State) -> bool:
        tally = self._request.state
        if self._run is not None and self._run.stopping.is_set():
            return True
        if self._goes_back():
            tally.deadline = math.inf  # it gets a new one with its next turn
            return False
        asked = getattr(self._error, "retry_after", None) or 0.0
        free = (
            tally.outage_failures + min(tally.throttled, _FREE) if self._request.low_priority else 0
        )
        return (
            state.attempt_number - free >= self._policy.attempts
            or asked > self._policy.retry_after_max
            or self._timing.clock() + state.upcoming_sleep >= tally.deadline
            or not self._afford()
        )

    def _afford(self) -> bool:
        """Pay for a repeat. Bulk runs pay what is there: they have other bounds in an outage."""
        throttled = isinstance(self._error, RateLimitError)
        cost = RetryBudget.THROTTLED if throttled else RetryBudget.TRANSIENT
        if self._request.low_priority:
            cost = min(cost, self._budget.left)
        self._cost = cost
        return self._budget.try_acquire(cost)

    def _tell(self, state: _State) -> None:
        event = RetryScheduled(
            operation=self._request.operation,
            attempt=state.attempt_number,
            wait=state.upcoming_sleep,
            error=type(self._error).__name__,
            status=getattr(self._error, "status", None),
        )
        if self._run is not None:
            self._run.hold(self._request, state.upcoming_sleep)
        logger.debug("%s", event)
        for hook in self._hooks:
            hook(event)
