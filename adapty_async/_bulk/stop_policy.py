"""
The rules that end a bulk run early: a wrong key, a wrong address, or the same error each time.
"""

from __future__ import annotations

from typing import Any

from adapty_async._api.codec import is_page
from adapty_async._bulk.outcome import Outcome, OutcomeStatus, StopReason
from adapty_async._flow.circuit_breaker import cannot_be_the_api, is_transient
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    ConflictError,
    ConnectError,
    DecodeError,
    JournalError,
)

__all__ = ("StopPolicy",)

# Authentication errors in a row: Adapty documents 401 for a missing profile too, so that one alone
# does not prove a wrong key.
_REJECTIONS = 5
# Responses in a row that cannot be the API's.
_STRANGE = 20
# Items in a row that are rejected for the same reason.
_SAME = 50

# Error codes that leave it to the text what is wrong. Other codes say it, and their text may quote
# the item's own value.
_GENERAL = frozenset({None, "base_error", "validation_error"})


class StopPolicy:
    """Watches the outcomes of one run in the order they come."""

    def __init__(self) -> None:
        self._rejections = 0
        self._strange = 0
        self._reached = False  # the API, at least once
        self._reason: tuple[Any, ...] = ()  # of the last refusal
        self._repeated = 0

    def check(self, outcome: Outcome[Any, Any]) -> StopReason | None:
        """
        Return why the run should end here; None if it should not.

        Raises:
            Exception: what ended the item was not its own failure: a closed client, or a defect
                such as a hook's.
        """
        error = outcome.error
        if error is None:
            if outcome.attempts:
                self._rejections = self._strange = self._repeated = 0
                self._reached = True
            return None
        if isinstance(error, JournalError) or not isinstance(error, AdaptyError):
            raise error
        if isinstance(error, ConfigError) and outcome.attempts:  # such as a closed client
            raise error
        if isinstance(error, CircuitOpenError):
            return StopReason.OUTAGE
        return self._judge_failure(outcome, error) if outcome.attempts else None

    def _judge_failure(self, outcome: Outcome[Any, Any], error: AdaptyError) -> StopReason | None:
        if isinstance(error, ConnectError) and error.permanent:
            return StopReason.WRONG_ADDRESS
        self._rejections = self._rejections + 1 if isinstance(error, AuthenticationError) else 0
        self._count_strange(error)
        self._count_same(outcome, error)
        if self._rejections >= _REJECTIONS:
            return StopReason.KEY_REJECTED
        if self._strange >= _STRANGE:
            return StopReason.WRONG_ADDRESS
        return StopReason.SAME_ERROR if self._repeated >= _SAME else None

    def _count_strange(self, error: AdaptyError) -> None:
        """
        Count responses that cannot be the API's.

        Once the API was reached, pages and unknown errors are an outage, which the run waits for.
        From then on only successes that cannot be decoded count.
        """
        if not cannot_be_the_api(error):
            if isinstance(error, ApiError) and error.recognised:
                self._reached, self._strange = True, 0
        elif not self._reached or (isinstance(error, DecodeError) and not is_page(error.body)):
            self._strange += 1

    def _count_same(self, outcome: Outcome[Any, Any], error: AdaptyError) -> None:
        """
        Count items in a row that the API rejects, and would reject again, for the same reason.
        """
        failed = outcome.status is OutcomeStatus.FAILED
        if not failed or not isinstance(error, ApiError) or not _is_refusal(error):
            self._repeated = 0
            return
        reason = _reason_of(error)
        self._repeated = self._repeated + 1 if reason == self._reason else 1
        self._reason = reason


def _is_refusal(error: ApiError) -> bool:
    """Return whether the API refuses an item for what it says, and not for what was done before."""
    conflicts = isinstance(error, ConflictError)  # such as one that an earlier run has done
    return error.recognised and not is_transient(error) and not conflicts


def _reason_of(error: ApiError) -> tuple[Any, ...]:
    """Return what is equal for two items that the API refuses for the same reason."""
    fields = tuple(item.field_name for item in error.errors)
    texts = tuple(item.message for item in error.errors if error.error_code in _GENERAL)
    return type(error), error.status, error.error_code, fields, texts
