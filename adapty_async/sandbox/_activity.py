"""
A meter of requests per second, and a ring buffer of the latest requests. It does no I/O.

Every request is recorded, also when nobody looks at the page, so recording copies nothing.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yarl import URL

    from ._service import Call

#: The complete seconds whose rates are kept.
SECONDS = 60
#: The requests whose headers and bodies are kept.
KEPT = 200
#: Bytes of the largest body that is kept, inclusive: with the headers, the ring stays below 4 MiB.
BODY_MAX = 4096


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
