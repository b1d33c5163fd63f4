"""
The sender of webhooks: verification, delivery, and retries as Adapty documents them.

Source: https://adapty.io/docs/set-up-webhook-integration#handle-webhook-events
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from time import time
from typing import Any

import aiohttp
import msgspec

_logger = logging.getLogger("adapty_async.sandbox")
# "approximately 1 minute after the initial failure, doubling on each subsequent attempt — up to 9
# retries": they take 8.5 hours, so no event reaches the age of 24 hours, after which none is sent.
_FIRST_RETRY = 60.0
_RETRIES = 9
# "no successful delivery for 24 hours": failed events are not retried then.
_GIVES_UP_AFTER = 24 * 3600.0
# "If Adapty doesn't receive a response within 10 seconds"
_TIMEOUT = 10.0
# "outside the 200-404 range"
_NOT_RETRIED = range(200, 405)
_KEPT = 10_000


class Delivery(msgspec.Struct, frozen=True):
    """
    A log entry for one attempt to deliver a webhook.

    Attributes:
        at: the time of the response or failure, in seconds since the epoch.
        event_type: the type of the event; `None` for the verification request.
        profile_event_id: the id of the event; `None` for the verification request.
        attempt: the number of the attempt, from 1.
        status: the status of the response; 0 without one.
    """

    at: float
    event_type: str | None
    profile_event_id: str | None
    attempt: int
    status: int


class Webhooks:
    """A sender with one task for each event that is not delivered yet."""

    def __init__(
        self,
        url: str,
        authorization: str | None,
        time_scale: float = 1.0,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """
        Configure a sender; the verification is sent by `start()`, or before the first event.

        `time_scale` multiplies the waits between attempts. `clock` returns seconds; by default, it
        is that of the event loop.
        """
        if not 0 < time_scale < math.inf:
            raise ValueError(f"webhook_time_scale={time_scale}: must be a number above 0")
        if not url.startswith(("http://", "https://")) or not url.isprintable():
            raise ValueError("webhook_url must begin with http:// or https://")
        if authorization is not None and not authorization.isprintable():
            raise ValueError("webhook_authorization must not contain control characters")
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if authorization is not None:
            self._headers["Authorization"] = authorization
        self._scale = time_scale
        self._clock = clock
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._verifying = asyncio.Lock()
        self._is_verified = False
        self._failing_since: float | None = None  # the first failure since the last success
        self.deliveries: deque[Delivery] = deque(maxlen=_KEPT)

    def start(self) -> None:
        """Send the verification request, as saving the webhook in the dashboard does."""
        self._spawn(self.verify())

    def send(self, event: Mapping[str, Any]) -> None:
        """Deliver an event, with retries, in a task."""
        self._spawn(self._deliver(event))

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def verify(self) -> bool:
        """Send the verification request; return whether the response is 2xx with a JSON body."""
        async with self._verifying:
            return await self._verify()

    async def _verify(self) -> bool:
        status, body = await self._post(b"{}")
        self._is_verified = 200 <= status < 300 and _is_json(body)
        self._log(Delivery(time(), None, None, 1, status))
        return self._is_verified

    async def _ensure_verified(self) -> bool:
        """Return whether the verification has succeeded; send it again if it has not."""
        async with self._verifying:
            return self._is_verified or await self._verify()

    async def wait(self) -> None:
        """Wait until every event is delivered, or is no longer retried."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """Cancel the deliveries, and close the connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._verifying = asyncio.Lock()  # the next start may be in another event loop
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _deliver(self, event: Mapping[str, Any]) -> None:
        """Deliver an event; retry as Adapty does until a status is final, or after too long."""
        body = msgspec.json.encode(event)
        event_id = event["event_properties"]["profile_event_id"]
        waits = [_FIRST_RETRY * 2**retry * self._scale for retry in range(_RETRIES)]
        for attempt, wait in enumerate((0.0, *waits), 1):
            if wait:
                await self._sleep(wait)
            # "Once Adapty receives a valid response, it starts sending subscription events."
            status = (await self._post(body))[0] if await self._ensure_verified() else 0
            self._log(Delivery(time(), event["event_type"], event_id, attempt, status))
            if status in _NOT_RETRIED or self._has_given_up():
                return

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_TIMEOUT))
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers, allow_redirects=False
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, b""

    def _log(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if HTTPStatus.OK <= delivery.status < HTTPStatus.BAD_REQUEST:
            self._failing_since = None
            return
        answer = f"status {delivery.status}" if delivery.status else "no response"
        what = delivery.event_type or "the verification request"
        _logger.warning(
            "a webhook was not delivered: %s (%s, attempt %d)", answer, what, delivery.attempt
        )
        if self._failing_since is None:
            self._failing_since = self._now()

    def _has_given_up(self) -> bool:
        since = self._failing_since
        return since is not None and self._now() - since >= _GIVES_UP_AFTER * self._scale

    def _now(self) -> float:
        return (self._clock or asyncio.get_running_loop().time)()


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True
