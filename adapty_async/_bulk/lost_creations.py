"""A record of the creations of a run whose responses were lost."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from adapty_async._api.call_state import CallState
from adapty_async._api.operation import Request
from adapty_async._bulk.outcome import OutcomeStatus

__all__ = ("LostCreations",)


class LostCreations:
    """
    A set of the lock keys whose creation was lost, so that no later item of the run creates again.

    Several items may be about one object, such as the purchases of a profile. If the server finds
    no object after a lost creation, it may still create it.
    """

    def __init__(self) -> None:
        self._lock_keys: set[Hashable] = set()

    def record(self, lock_key: Hashable, state: CallState | None, status: OutcomeStatus) -> None:
        """Record an item that is not done, before the lock of its lock key is released."""
        if state is not None and state.is_creating and status is OutcomeStatus.UNKNOWN:
            self._lock_keys.add(lock_key)

    def respect(self, lock_key: Hashable, request: Request) -> Request:
        """Return a request as it may be sent: without a creation if an earlier one was lost."""
        if request.if_missing is None or lock_key not in self._lock_keys:
            return request
        return msgspec.structs.replace(request, if_missing=None)
