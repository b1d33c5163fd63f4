"""
The events of the page: a cursor over the log of arrivals for each reader. It does no I/O.

The log is the only queue. A reader that is slow, or was away, resumes from its cursor: it gets the
newest requests and the number of those in between. No reader costs more memory than another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ._service import storable
from ._snippets import SENT_HEADERS

if TYPE_CHECKING:
    from ._activity import Activity, Received
    from ._store import Arrival, Store

#: Requests of one event, at most: the ring buffer of their bodies holds more.
ROWS = 100


class EventStream:
    """A cursor of one reader; `run` is the id of this run of the sandbox."""

    def __init__(self, store: Store, activity: Activity, run: str, last_event_id: str) -> None:
        """Resume after `last_event_id`, or begin with the newest requests if it is of no use."""
        self._store = store
        self._activity = activity
        self._run = run
        before, _, number = last_event_id.partition(".")
        resumes = before == run and number.isascii() and number.isdecimal() and len(number) < 19
        self._last = int(number) if resumes else None
        self._is_first = True
        self._pending: set[int] = set()

    def requests(self) -> bytes | None:
        """
        Return an event with the requests since the last one; `None` if nothing has changed.

        Its data has the new requests, oldest first, the number of those that are `skipped`, the
        statuses of earlier requests that were not known yet, and whether the reader must `reset`
        its list.
        """
        reset = self._last is None
        rows = self._store.since(self._last or 0, ROWS)
        settled = self._store.statuses(self._pending)
        if not (rows or settled or self._is_first):
            return None
        self._is_first = False
        newest = rows[-1].number if rows else self._last or 0
        skipped = 0 if self._last is None else newest - self._last - len(rows)
        self._last = newest
        self._pending -= settled.keys()
        self._pending.update(row.number for row in rows if not row.status and row.fault is None)
        # A request whose client has gone never gets a status.
        self._pending = {number for number in self._pending if number > newest - ROWS}
        received = self._activity.received()
        data = {
            "reset": reset,
            "skipped": skipped,
            "rows": [_row(row, received.get(row.number)) for row in rows],
            "settled": settled,
        }
        return event("requests", data, f"{self._run}.{newest}")


def event(name: str, data: Any, event_id: str | None = None) -> bytes:
    """Return a server-sent event; its data is JSON."""
    number = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {name}\n{number}data: ".encode() + msgspec.json.encode(data) + b"\n\n"


def _row(arrival: Arrival, received: Received | None) -> dict[str, Any]:
    sent = None if received is None else _sent(received)
    return {**msgspec.structs.asdict(arrival), "path": storable(arrival.path), "sent": sent}


def _sent(received: Received) -> dict[str, Any]:
    """Return the parts of a request that `_snippets` makes code of; no key is among them."""
    headers = {
        name: storable(value)
        for name in SENT_HEADERS
        if (value := received.headers.get(name)) is not None
    }
    try:
        body: str | None = received.body.decode()
    except UnicodeDecodeError:
        body = None
    if received.size > len(received.body):
        body = None
    return {
        "target": storable(received.url.raw_path_qs),
        "headers": headers,
        "body": body,
        "size": received.size,
    }
