"""A stop policy that ends a bulk run early: a wrong key or address, or one error many times."""

from __future__ import annotations

from typing import Any

from adapty_async._api.codec import MissingKeyError, is_page
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

# Authentication errors in a row. Adapty documents 401 for a missing profile too, so one alone does
# not prove a wrong key.
_REJECTIONS = 5
# Responses in a row that cannot be the API's.
_FOREIGN_RESPONSES = 20
# Items in a row that the API rejects for the same reason.
_SAME_ERRORS = 50

# General error codes, whose message contains the reason. Other codes are the reason, and their
# message may quote the item's value.
_GENERAL_CODES = frozenset({None, "base_error", "validation_error"})


class StopPolicy:
    """A policy that checks the outcomes of one run, in the order in which they end."""

    def __init__(self) -> None:
        self._rejections = 0
        self._foreign = 0
        self._reached = False  # the API responded at least once
        self._reason: tuple[Any, ...] = ()  # of the last rejection
        self._same_in_row = 0

    def check(self, outcome: Outcome[Any, Any]) -> StopReason | None:
        """
        Return why the run should end now; None if it should not.

        Raises:
            Exception: the item's error, if the item is not its cause: a closed client, a missing
                key, or a defect such as a hook's.
        """
        error = outcome.error
        if error is None:
            if outcome.attempts:
                self._rejections = self._foreign = self._same_in_row = 0
                self._reached = True
            return None
        if isinstance(error, JournalError) or not isinstance(error, AdaptyError):
            raise error
        if isinstance(error, MissingKeyError):
            raise error
        if isinstance(error, ConfigError) and outcome.attempts:  # such as a closed client
            raise error
        if isinstance(error, CircuitOpenError):
            return StopReason.OUTAGE
        return self._check_failure(outcome, error) if outcome.attempts else None

    def _check_failure(self, outcome: Outcome[Any, Any], error: AdaptyError) -> StopReason | None:
        if isinstance(error, ConnectError) and error.permanent:
            return StopReason.WRONG_ADDRESS
        self._rejections = self._rejections + 1 if isinstance(error, AuthenticationError) else 0
        self._count_foreign(error)
        self._count_same(outcome, error)
        if self._rejections >= _REJECTIONS:
            return StopReason.KEY_REJECTED
        if self._foreign >= _FOREIGN_RESPONSES:
            return StopReason.WRONG_ADDRESS
        return StopReason.SAME_ERROR if self._same_in_row >= _SAME_ERRORS else None

    def _count_foreign(self, error: AdaptyError) -> None:
        """
        Count responses that cannot be the API's.

        Once the API has responded, pages and unknown errors are an outage, and the run waits for
        its end. From then on only successful responses that cannot be decoded count.
        """
        if not cannot_be_the_api(error):
            if isinstance(error, ApiError) and error.recognised:
                self._reached, self._foreign = True, 0
        elif not self._reached or (isinstance(error, DecodeError) and not is_page(error.body)):
            self._foreign += 1

    def _count_same(self, outcome: Outcome[Any, Any], error: AdaptyError) -> None:
        """
        Count items in a row that the API rejects permanently, for the same reason.

        Those that the run itself held back do not count. In a run that resumes they may be many,
        while the rest is done.
        """
        if outcome._is_held_back:  # noqa: SLF001  the run sets it, and no caller needs it
            return
        failed = outcome.status is OutcomeStatus.FAILED
        if not failed or not isinstance(error, ApiError) or not _is_rejection(error):
            self._same_in_row = 0
            return
        reason = _reason_of(error)
        self._same_in_row = self._same_in_row + 1 if reason == self._reason else 1
        self._reason = reason


def _is_rejection(error: ApiError) -> bool:
    """Return whether the API rejects an item for its content, not for an earlier request."""
    conflicts = isinstance(error, ConflictError)  # such as with an earlier run's request
    return error.recognised and not is_transient(error) and not conflicts


def _reason_of(error: ApiError) -> tuple[Any, ...]:
    """Return a value that is equal for two items that the API rejects for the same reason."""
    fields = tuple(item.field_name for item in error.errors)
    texts = tuple(item.message for item in error.errors if error.error_code in _GENERAL_CODES)
    return type(error), error.status, error.error_code, fields, texts
