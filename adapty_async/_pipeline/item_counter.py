"""A counter of the items of all bulk runs of a client, by status."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from adapty_async._runtime.fork import register_fork_handler

__all__ = ("ItemCounter",)


class ItemCounter:
    """
    A counter that adds up the counts of bulk runs, those in progress included.

    A run counts its own items. The counter reads these counts when it is asked, so an item costs
    nothing here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # clients may be in use in several threads
        self._ended: dict[str, int] = {}  # the sums of runs that have ended
        self._in_progress: list[Mapping[Any, int]] = []
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Start fresh: the items belong to the parent process, and another thread's lock."""
        self._lock = threading.Lock()
        self._ended, self._in_progress = {}, []

    def start(self, counts: Mapping[Any, int]) -> None:
        """Include the counts of a run, which change until it ends."""
        with self._lock:
            self._in_progress.append(counts)

    def end(self, counts: Mapping[Any, int]) -> None:
        """Add the counts of a run that has ended; nothing if it started before a fork."""
        with self._lock:
            others = [each for each in self._in_progress if each is not counts]
            if len(others) < len(self._in_progress):
                self._ended = _sum([self._ended, counts])
            self._in_progress = others

    def counts(self) -> dict[str, int]:
        """Return the number of items by status, which never decreases; empty before any run."""
        with self._lock:
            return _sum([self._ended, *self._in_progress])


def _sum(parts: list[Mapping[Any, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for status, count in part.items():
            total[status] = total.get(status, 0) + count
    return total
