"""
When going on with a bulk run is pointless: the key is wrong, or the address is.
"""

from __future__ import annotations

from typing import Any

from adapty_async.bulk._outcome import Outcome, StopReason
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    DecodeError,
    JournalError,
)

__all__ = ("StopRules",)

_REJECTIONS = 5
"""
Authentication errors in a row: Adapty documents 401 for a missing profile too, so that one alone
does not prove a wrong key.
"""
_STRANGE = 20
"""
Answers from the start of a run of which not one can be the API's.
"""


class StopRules:
    """
    Watches the outcomes of one run in the order they come.
    """

    def __init__(self) -> None:
        self._rejections = 0
        self._strange: int | None = 0  # None once an answer was the API's

    def judge(self, outcome: Outcome[Any, Any]) -> StopReason | None:
        """
        Say whether the run should end here, and why.

        Raises:
            Exception: what ended the item was not its own failure: a closed client, or a defect
                such as a hook's.
        """
        error = outcome.error
        if error is None:
            if outcome.attempts:
                self._rejections, self._strange = 0, None
            return None
        if isinstance(error, JournalError) or not isinstance(error, AdaptyError):
            raise error
        if isinstance(error, ConfigError) and outcome.attempts:  # such as a closed client
            raise error
        if isinstance(error, CircuitOpenError):
            return StopReason.OUTAGE
        if outcome.attempts == 0:
            return None
        self._rejections = self._rejections + 1 if isinstance(error, AuthenticationError) else 0
        if self._rejections >= _REJECTIONS:
            return StopReason.KEY_REJECTED
        self._note_strange(error)
        return StopReason.WRONG_ADDRESS if self._strange == _STRANGE else None

    def _note_strange(self, error: AdaptyError) -> None:
        if self._strange is not None:
            self._strange = self._strange + 1 if _cannot_be_the_api(error) else None


def _cannot_be_the_api(error: AdaptyError) -> bool:
    if isinstance(error, ApiError):
        return error.status < 500 and error.status != 429 and not error.recognised
    return isinstance(error, DecodeError)
