"""A loop of one worker that runs the open parts of a job until none is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from adapty_async.jobs._errors import PartBusyError, PartChangedError, StoreUnavailableError

logger = logging.getLogger("adapty_async")

# Parts that are read from the store at once; a worker picks among them at random, so that few
# workers try to lock the same part.
_BATCH = 64
# Seconds between two attempts, if other workers have all open parts.
_POLL_SECONDS = 1.0
# Maximum seconds between two attempts, if the store is unavailable.
_MAX_WAIT_SECONDS = 5.0
# Seconds after a failure of the store until the next one counts as another outage.
_CALM_SECONDS = 30.0


def outage_wait(seconds: float) -> float:
    """Return random seconds until the next attempt at a store that is down for *n* seconds."""
    most = min(_MAX_WAIT_SECONDS, max(_POLL_SECONDS, seconds / 4))
    return random.uniform(most / 2, most)  # noqa: S311  no secret


async def _wait(ended: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for a number of seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ended.wait()


class PartCalls(NamedTuple):
    """
    The functions of a job that a loop calls, and the end that the job sets for it.

    Attributes:
        next_parts: returns at most *n* open parts.
        run_part: runs a part.
        recorded: returns how many runs of parts have recorded outcomes.
        stopping: set when the functions raise that the job was stopped; no wait for the store
            lasts longer.
    """

    next_parts: Callable[[int], Awaitable[list[int]]]
    run_part: Callable[[int], Awaitable[object]]
    recorded: Callable[[], int]
    stopping: asyncio.Event


class PartLoop:
    """
    A loop that runs the open parts of a job, several at once, and waits for those of others.

    1. A part that another runner has is tried again later: the runner may die.
    2. A part whose input has changed is left to the user.
    3. While the store is unavailable, no part begins. It may stay so for a time. An outage ends
       when a part records outcomes, and not with a read, since the store's disk may be full.
    4. Whatever else a part raises ends the loop, after the other parts in hand.

    Args:
        calls: reads and runs parts.
        parts: maximum of parts in hand.
        max_outage: maximum seconds without the store.
        clock: returns monotonic seconds.
        wait: waits for an event, for a number of seconds at most.
    """

    def __init__(
        self,
        calls: PartCalls,
        *,
        parts: int,
        max_outage: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[asyncio.Event, float], Awaitable[object]] = _wait,
    ) -> None:
        self._calls = calls
        self._parts = parts
        self._max_outage = max_outage
        self._clock = clock
        self._wait = wait
        self._turn = asyncio.Lock()
        self._candidates: list[int] = []
        self._in_hand: set[int] = set()
        self._busy: set[int] = set()  # parts of others, until the next poll
        self._ended = asyncio.Event()  # a part in hand ended; replaced each time
        self._outage_since = -math.inf
        self._failed_at = -math.inf  # the last failure of the store
        self._recorded_before = 0  # until then
        self._failure: Exception | None = None

    async def run(self) -> None:
        """
        Run parts until none is open.

        Raises:
            JobStoppedError: the job has stopped.
            StoreUnavailableError: the store was unavailable for too long.
            AdaptyError: any other failure of a part.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._parts):
                group.create_task(self._work())
        if self._failure is not None:
            raise self._failure

    async def _work(self) -> None:
        while self._failure is None:
            try:
                number = await self._next()
                if number is None:
                    return
                await self._run(number)
            except StoreUnavailableError as error:
                await self._wait_out(error)
            except Exception as error:  # noqa: BLE001  `run` raises it, after the other parts
                self._failure = self._failure or error

    async def _run(self, number: int) -> None:
        """Run a part; one that another worker has taken is left to it."""
        try:
            await self._calls.run_part(number)
        except PartChangedError:
            pass  # the report counts it
        except PartBusyError:
            self._busy.add(number)
        finally:
            self._in_hand.discard(number)
            ended, self._ended = self._ended, asyncio.Event()
            ended.set()

    async def _next(self) -> int | None:
        """Return a part to run; None if none is open, or the loop ends."""
        while self._failure is None:
            ended = self._ended
            async with self._turn:
                if not self._candidates and not await self._read():
                    return None
                if self._candidates:
                    number = self._candidates.pop()
                    self._in_hand.add(number)
                    return number
            await self._wait(ended, _POLL_SECONDS)
            if not ended.is_set():
                self._busy.clear()
        return None

    async def _read(self) -> bool:
        """Read the next candidates; return whether any part is open."""
        found = await self._calls.next_parts(_BATCH)
        passed_over = self._in_hand | self._busy
        self._candidates = [number for number in found if number not in passed_over]
        random.shuffle(self._candidates)
        return bool(found)

    async def _wait_out(self, error: StoreUnavailableError) -> None:
        """Wait for a store that is unavailable, or give up after `max_outage` seconds."""
        now, recorded = self._clock(), self._calls.recorded()
        if recorded != self._recorded_before or now - self._failed_at > _CALM_SECONDS:
            self._outage_since = now
            if now - self._failed_at >= _POLL_SECONDS:  # another part in hand may have logged it
                logger.warning("%s; this worker tries again for %g s", error, self._max_outage)
        self._failed_at, self._recorded_before = now, recorded
        if now - self._outage_since >= self._max_outage:
            self._failure = self._failure or error
        else:
            await self._wait(self._calls.stopping, outage_wait(now - self._outage_since))
