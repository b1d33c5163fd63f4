"""
The activity that the page shows: a meter of requests, the latest ones, and events for each reader.

Every request is recorded, also when nobody looks at the page, so recording copies nothing. Nothing
here does I/O.

The log of arrivals is the only queue. A reader that is slow, or was away, resumes from its cursor:
it gets the newest requests and the number of those in between. No reader costs more memory than
another.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from yarl import URL

from ._service import Call, storable
from ._snippets import SENT_HEADERS
from ._store import Arrival, Store

#: The complete seconds whose rates are kept.
SECONDS = 60
#: The requests whose headers and bodies are kept.
KEPT = 200
#: Bytes of the largest body that is kept, inclusive: with the headers, the ring stays below 4 MiB.
BODY_MAX = 4096
#: Requests of one event, at most: the ring buffer of their bodies holds more.
ROWS = 100


class Received(NamedTuple):
    """A request as it arrived; `body` is empty if it is larger than `BODY_MAX`, `size` is not."""

    url: URL
    headers: Mapping[str, str]
    body: bytes
    size: int


class Activity:
    """
    A record of the requests since the start.

    Attributes:
        statuses: the number of requests by the status of the response, 0 for none.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with no requests; `clock` returns seconds."""
        self.statuses: Counter[int] = Counter()
        self._clock = clock
        self._second = -1
        self._counts: dict[str, list[int]] = {}  # of this second: by API, served and throttled
        self._seconds: deque[tuple[int, dict[str, list[int]]]] = deque(maxlen=SECONDS + 1)
        self._received: deque[tuple[int, Received]] = deque(maxlen=KEPT)

    def record(self, number: int, api: str, call: Call, url: URL, status: int) -> None:
        """Record the request with the number that it has in the log of arrivals."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._counts = second, {}
            self._seconds.append((second, self._counts))
        counts = self._counts.get(api)
        if counts is None:
            counts = self._counts[api] = [0, 0]
        counts[status == HTTPStatus.TOO_MANY_REQUESTS] += 1
        self.statuses[status] += 1
        size = len(call.body)
        body = call.body if size <= BODY_MAX else b""
        self._received.append((number, Received(url, call.headers, body, size)))

    def rates(self) -> dict[str, list[list[int]]]:
        """
        Return the requests of the last complete seconds by API, oldest second first.

        Each second is a list of two numbers: served and throttled requests.
        """
        first = int(self._clock()) - SECONDS
        rates: dict[str, list[list[int]]] = {}
        for second, counts in self._seconds:
            if not 0 <= second - first < SECONDS:
                continue
            for api, pair in counts.items():
                series = rates.setdefault(api, [[0, 0] for _ in range(SECONDS)])
                series[second - first] = list(pair)
        return rates

    def received(self) -> dict[int, Received]:
        """Return the latest requests by their numbers."""
        return dict(self._received)


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
