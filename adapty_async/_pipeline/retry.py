"""
Layers that send a request again: a retry layer, and one that creates a missing object.

The retry layer is a decision table, executed by tenacity. The first attempt runs outside tenacity,
which costs 16 to 45 µs and which a successful call does not need. Only a failed first attempt
starts its loop.

The creation layer creates an object that a call finds missing, and never creates it twice.
"""

from __future__ import annotations

import logging
from typing import Protocol

import msgspec
import tenacity

from adapty_async._api.call import CallState, Layer, Request, Response, RetrySafety
from adapty_async._flow.circuit_breaker import (
    IN_FLIGHT,
    RetryBudget,
    cannot_be_the_api,
    is_transient,
)
from adapty_async._flow.limits import RunLimits
from adapty_async._pipeline.observe import Emitter
from adapty_async._runtime.files import is_out_of_files
from adapty_async._runtime.loop import Timing
from adapty_async.config import RetryPolicy
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    ConflictError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.hooks import RetryScheduled

logger = logging.getLogger("adapty_async")
logger.addHandler(logging.NullHandler())

# The maximum random share added to a `Retry-After`, so that requests throttled together are not
# retried together.
_SPREAD = 0.25
# Maximum number of 429 responses, and of responses in an outage that are not the API's, that do not
# count as attempts of a bulk run's item.
_FREE = 3


def may_retry(retry_safety: RetrySafety, error: BaseException) -> bool:
    """Return whether a request of this retry safety may be retried after an error."""
    if isinstance(error, ConnectError):
        return not error.permanent
    if _surely_unprocessed(error):
        return True
    if retry_safety is RetrySafety.IF_UNSENT:
        return False
    if isinstance(error, ApiError):
        return is_transient(error) or error.error_code == IN_FLIGHT
    return isinstance(error, ConnectionLostError | RequestTimeoutError)


def may_have_worked(error: BaseException) -> bool:
    """Return whether the server may have processed a request that ended with an error."""
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
    """Return whether nothing was processed: after a 429, or a 503 with `Retry-After`."""
    throttled = isinstance(error, RateLimitError)
    return throttled or (
        isinstance(error, ServerError) and error.status == 503 and error.retry_after is not None
    )


def is_requeued(request: Request, state: CallState, error: AdaptyError) -> bool:
    """Return whether a request returns to its wait queue: throttled, in a bulk run."""
    throttled = isinstance(error, RateLimitError)
    return request.low_priority and throttled and state.throttled <= _FREE


def retry(
    send: Layer,
    policy: RetryPolicy,
    timing: Timing,
    budget: RetryBudget,
    emitter: Emitter | None = None,
    run: RunLimits | None = None,
) -> Layer:
    """
    Retry failed requests as the policy, the retry budget and the request's retry safety allow.

    A bulk run that is stopping retries nothing.
    """

    async def send_with_retries(request: Request, state: CallState) -> Response:
        try:
            response = await send(request, state)
        except AdaptyError as error:
            first = error
        else:
            budget.release()
            return response
        loop = _RetryLoop(request, state, policy, timing, budget, emitter, run)
        return await loop.run(send, first)

    return send_with_retries


class _TenacityState(Protocol):
    """The part of the state of tenacity that this module uses."""

    attempt_number: int
    upcoming_sleep: float


class _RetryLoop(msgspec.Struct, eq=False):
    """A retry loop for one call whose first attempt failed."""

    _request: Request
    _state: CallState
    _policy: RetryPolicy
    _timing: Timing
    _budget: RetryBudget
    _emitter: Emitter | None
    _run: RunLimits | None
    _error: AdaptyError = msgspec.field(default_factory=AdaptyError)  # the latest one
    _cost: int = 0  # tokens of the retry budget, for the latest retry
    _seen_outage_failures: int = 0  # its failures due to an outage, as of the last check
    _foreign: int = 0  # responses in an outage that were not the API's

    async def run(self, send: Layer, first: AdaptyError) -> Response:
        """Retry until a success or a final error; a 404 after a lost deletion is a success."""
        failed, state = [first], self._state

        async def attempt() -> Response:
            if failed:
                raise failed.pop()
            sent = state.attempts
            try:
                return await send(self._request, state)
            except AdaptyError as error:
                if state.attempts == sent:
                    raise error from self._error  # the cause of the retry
                raise

        loop = tenacity.AsyncRetrying(
            sleep=self._timing.sleep,
            retry=tenacity.retry_if_exception(self._may_retry),
            wait=self._wait,
            stop=self._stop,
            before_sleep=self._emit,
            reraise=True,
        )
        try:
            response: Response = await loop(attempt)
        except AdaptyError as error:
            if isinstance(error, NotFoundError) and self._request.is_deletion and state.ambiguous:
                # the attempt with the lost response removed it
                named = {"Request-Id": error.request_id} if error.request_id else {}
                return Response(error.status, named, b"")
            error.attempts = state.attempts
            raise
        self._budget.release(self._cost)
        return response

    def _may_retry(self, error: BaseException) -> bool:
        if not isinstance(error, AdaptyError):
            return False
        self._error = error
        state = self._state
        is_outage = state.outage_failures > self._seen_outage_failures
        self._seen_outage_failures = state.outage_failures
        if may_retry(self._request.retry_safety, error):
            return True
        return is_outage and self._request.low_priority and self._may_retry_foreign(error)

    def _may_retry_foreign(self, error: AdaptyError) -> bool:
        """Return whether to retry a response that is not the API's: at most three times."""
        if self._request.retry_safety is RetrySafety.IF_UNSENT or not cannot_be_the_api(error):
            return False
        self._foreign += 1
        return self._foreign <= _FREE

    def _wait(self, retries: _TenacityState) -> float:
        """Return the seconds before the next attempt: `Retry-After`, otherwise the backoff."""
        policy = self._policy
        asked = getattr(self._error, "retry_after", None)
        if asked is not None:
            if self._is_requeued():  # the limiter enforces a longer pause, for all requests
                asked = min(asked, policy.retry_after_max, self._state.requeue_within)
            return float(asked) + self._timing.uniform(0.0, _SPREAD * asked)
        doubled = policy.wait_initial * 2.0 ** min(retries.attempt_number - 1, 60)
        return self._timing.uniform(0.0, min(policy.wait_max, doubled))

    def _is_requeued(self) -> bool:
        return is_requeued(self._request, self._state, self._error)

    def _stop(self, retries: _TenacityState) -> bool:
        """Return whether to give up: no attempt, time or token of the retry budget is left."""
        if self._run is not None and self._run.stopping.is_set:
            return True
        if self._is_requeued():
            return False
        state = self._state
        asked = getattr(self._error, "retry_after", None) or 0.0
        free = (
            state.outage_failures + min(state.throttled, _FREE) if self._request.low_priority else 0
        )
        return (
            retries.attempt_number - free >= self._policy.attempts
            or asked > self._policy.retry_after_max
            or self._timing.clock() + retries.upcoming_sleep >= state.deadline
            or not self._acquire_tokens()
        )

    def _acquire_tokens(self) -> bool:
        """Acquire tokens for a retry; a bulk run, with its own bounds, may proceed with fewer."""
        if is_out_of_files(self._error):  # the service has no part in it
            self._cost = 0
            return True
        throttled = isinstance(self._error, RateLimitError)
        cost = RetryBudget.THROTTLED if throttled else RetryBudget.TRANSIENT
        if self._request.low_priority:
            cost = min(cost, self._budget.left)
        self._cost = cost
        return self._budget.try_acquire(cost)

    def _emit(self, retries: _TenacityState) -> None:
        event = RetryScheduled(
            operation=self._request.operation,
            attempt=retries.attempt_number,
            wait=retries.upcoming_sleep,
            error=type(self._error).__name__,
            status=getattr(self._error, "status", None),
            call_id=self._state.call_id,
            errno=getattr(self._error, "errno", None),
        )
        if self._run is not None:
            self._run.hold(self._request, retries.upcoming_sleep)
        logger.debug("%s", event)
        if self._emitter is not None:
            self._emitter.emit(event)


def lost_creation(request: Request) -> ConnectionLostError:
    """Return the error of an item whose creation an earlier run sent and lost the response of."""
    return ConnectionLostError(
        "an earlier run sent the creation and lost the response; it is not created again, since the"
        " server may still have processed it",
        operation=request.operation,
    )


class Creation(msgspec.Struct, eq=False):
    """A call of an operation, and of the one that creates its object if that is missing."""

    _send: Layer
    _request: Request
    _creation: Request
    _state: CallState

    async def run(self) -> Response:
        """
        Return the response of the request or of the creation.

        1. The server finds the object: the response of the request.
        2. It finds none, and an earlier run lost the response to a creation: the outcome stays
           unknown.
        3. It finds none: create it. If that does not do what the request does, send the request
           again.
        """
        try:
            return await self._send(self._request, self._state)
        except NotFoundError as error:
            missing = error
        if self._state.is_creating:
            failure = lost_creation(self._request)
            failure.attempts = self._state.attempts
            raise failure from missing
        response = await self._create()
        if response is not None:
            return response
        return await self._send(self._request, self._state)

    async def _create(self) -> Response | None:
        """
        Create the object; return the response of the call, or None to send the request again.

        If the server rejects the creation, somebody else may have created the object. If the
        response was lost, the server may have created it. A second look decides both:

        1. It finds the object: its response is that of the call.
        2. It finds nothing: the error of the creation is raised, since the server may process a
           lost request later.
        3. It fails: the error of a lost creation is raised, or, after a rejected one, its own.
        """
        state = self._state
        state.creation_started()
        try:
            response = await self._send(self._creation, state)
        except AdaptyError as error:
            if not _is_undecided(error):
                raise
            failure = error
        else:
            if self._request.is_done_by_creation:
                return response
            self._end_creation()
            return None
        if not may_have_worked(failure):
            self._end_creation()
        return await self._look_again(failure)

    def _end_creation(self) -> None:
        state = self._state
        state.creation_ended()
        if state.on_creation_end is not None:
            state.on_creation_end()

    async def _look_again(self, failure: AdaptyError) -> Response:
        try:
            return await self._send(self._request, self._state)
        except AdaptyError as error:
            if not may_have_worked(failure) and not isinstance(error, NotFoundError):
                raise
            failure.attempts = self._state.attempts
            raise failure from None


def _is_undecided(error: AdaptyError) -> bool:
    """Return whether the object may exist although its creation failed."""
    return may_have_worked(error) or isinstance(error, ConflictError | RequestRejectedError)
