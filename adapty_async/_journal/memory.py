"""A journal in memory; its content lasts as long as the object."""

from __future__ import annotations

import copy
import time
from collections.abc import Awaitable, Callable

from adapty_async._journal.model import (
    Changes,
    InputCheck,
    JournalIdentity,
    LoadKeys,
    Minute,
    Reason,
    Resumed,
    Run,
    adopted,
    require_same_run,
    resumed,
)
from adapty_async.errors import JournalError


class MemoryJournal:
    """
    A fake of a journal's storage for tests; runs with the same object resume.

    Args:
        clock: returns seconds since the epoch.

    Attributes:
        identity: the run and input that it belongs to; None until a run opens it.
        runs, spans, keys, minutes, reasons: the committed rows, by their keys.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.identity: JournalIdentity | None = None
        self.runs: dict[int, Run] = {}
        self.spans: dict[int, bytes] = {}
        self.keys = b""
        self.minutes: dict[tuple[int, int], Minute] = {}
        self.reasons: dict[tuple[int, str, str, int], Reason] = {}
        self._clock = clock
        self._is_open = False

    async def open(
        self, identity: JournalIdentity, check: InputCheck, load_keys: LoadKeys
    ) -> Resumed:
        """Open the journal for a run; see `Journal.open`."""
        if self._is_open:
            raise JournalError("the journal in memory cannot be used: it is in use")
        if self.identity is not None:
            known = adopted(self.identity, identity, self.reasons.values(), self.spans)
            require_same_run("in memory", known, identity, check)
        load_keys([self.keys], self.spans)
        content = resumed([*self.runs.values()], self.spans, self._clock())
        run = copy.copy(content.run)
        self.identity, self.runs[run.number], self._is_open = identity, run, True
        return content

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:  # noqa: ARG002
        """Store changes; see `Journal.commit`."""
        return self._commit(copy.deepcopy(changes))

    async def _commit(self, changes: Changes) -> None:
        if not self._is_open:
            raise JournalError("the journal is closed")
        if changes.run is not None:
            self.runs[changes.run.number] = changes.run
        self.spans.update(changes.spans)
        self.keys += changes.new_keys
        self.minutes.update({(each.run, each.minute): each for each in changes.minutes})
        self.reasons.update(
            {(each.run, each.state, each.error, each.http_status): each for each in changes.reasons}
        )

    async def close(self) -> None:
        """Close the journal, so that another run can open it."""
        self._is_open = False
