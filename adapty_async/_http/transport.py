"""
Where requests go: an aiohttp session for each event loop, made when it is needed, closed in time.

A loop's pool is one session with its connections. It is replaced by a new one when its kept
connections seem to have died in silence, and when aiohttp was patched since it was made, by a test
mock or a tracer. The requests that are in flight over the old one keep it open until they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from adapty_async._api.operation import CallState, Request, Response
from adapty_async._http.direct_sender import Stamp, ask_fastest, is_same, stamp, why_standard
from adapty_async._http.session_sender import SESSION_OPTIONS, SendOnce, ask_given, exchange
from adapty_async._http.timeouts import TimeoutScheduler
from adapty_async._runtime.fork import SocketFactory, register_fork_handler
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.errors import (
    AdaptyError,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    RequestTimeoutError,
)
from adapty_async.statistics import HttpPath

__all__ = ("Transport",)

logger = logging.getLogger("adapty_async")

# Seconds after which who waits for another loop looks whether there still is one.
_LOOK = 0.1


def _is_of_a_closed_session(request: Request) -> bool:
    """
    Return whether nobody cancelled this task: aiohttp cancels who waits for a name when it closes.
    """
    task = asyncio.current_task()
    return task is not None and not task.cancelling() and not request.state.on_wire


class Transport:
    """
    Send requests over pooled connections, with one aiohttp session per event loop.

    Sessions are made when first needed. One that is not closed by `aclose` is closed when its
    loop ends, as `asyncio.run` closes it in an orderly way.

    Attributes:
        closed: it sends nothing.
        why_standard: why the latest request was sent, or the first one would be, by the standard
            path; None if by the fast one.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        headers: Mapping[str, str] | None = None,
        trust_env: bool = False,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self._clock = clock
        self._headers = headers
        self._trust_env = trust_env
        self._given = session
        # a client that is dropped goes at once then, and its sessions are closed before they go
        this: Any = weakref.proxy(self)
        self._open: LoopLocal[_LoopResources] = LoopLocal(functools.partial(Transport._make, this))
        self._sockets = SocketFactory()
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._foreign: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._forked = False
        self._used = False
        self._logged: str | None = ""
        self.closed = False
        self.why_standard = why_standard(
            stamp(), session, given=session is not None, trust_env=trust_env
        )
        register_fork_handler(self)

    async def __call__(self, request: Request) -> Response:
        """
        Send one request, once, and read its whole answer.

        Raises:
            ConnectError: no connection could be made.
            DeadlineError: the call's time was over already; nothing was sent.
            RequestTimeoutError: the attempt's or the call's time was over.
            ConnectionLostError: the connection broke.
            DecodeError: the answer is larger than 8 MiB.
        """
        self._require_open()
        here = self._open.get()
        if not here.guarded or not _is_current(here.pool):
            await self._make_ready(here)
        seconds = min(request.timeout, request.state.deadline - self._clock())
        if seconds <= 0:
            raise DeadlineError("no time left to send it", operation=request.operation)
        answer = await self._attempt(here, request, seconds)
        if isinstance(answer, Response):
            return answer
        try:
            answer.operation = request.operation
            raise answer
        finally:
            del answer  # else the error and this frame would hold each other

    async def _attempt(
        self, here: _LoopResources, request: Request, seconds: float
    ) -> Response | AdaptyError:
        pool = here.pool
        answered = pool.answered
        pool.in_flight += 1
        try:
            answer = await exchange(pool.ask, here.timeouts, request, seconds)
        except asyncio.CancelledError:
            if _is_of_a_closed_session(request):
                self._require_open()
            raise
        finally:
            pool.in_flight -= 1
            if pool is not here.pool:
                await here.retire(pool)
        if isinstance(answer, Response):
            pool.answered += 1
            return answer
        await self._renew_if_dead(here, pool, dead=pool.is_dead(request.state, answer, answered))
        return answer

    async def _renew_if_dead(self, here: _LoopResources, pool: _Pool, *, dead: bool) -> None:
        if dead and pool is here.pool:
            await self._renew(here)

    async def _make_ready(self, here: _LoopResources) -> None:
        if not here.guarded:
            await here.start_guard()
        if not _is_current(here.pool):
            await self._renew(here)

    def _require_open(self) -> None:
        if self.closed:
            raise ConfigError("the client is closed")
        if self._given is None:
            return
        if self._forked:
            raise ConfigError("the session was given to the client before a fork")
        if self._given.closed:
            raise ConfigError("the session that was given to the client is closed")

    def _make(self) -> _LoopResources:
        loop = asyncio.get_running_loop()
        if self._given is not None:
            self._note_path(self.why_standard)
            return _LoopResources(
                _Pool(ask_given(self._given), self._given), TimeoutScheduler(loop, self._clock)
            )
        if loop in self._foreign:
            raise ConfigError("this event loop was used before a fork; it is the parent's")
        self._loops.add(loop)
        self._used = True
        pool = self._new_pool()
        sessions = {pool.session}
        guard = _closed_with_its_loop(sessions)
        return _LoopResources(pool, TimeoutScheduler(loop, self._clock), sessions, guard)

    def _new_pool(self) -> _Pool:
        now = stamp()
        session = aiohttp.ClientSession(
            # the client bounds what is in flight, so that waiting is not charged to a timeout
            connector=aiohttp.TCPConnector(limit=0, socket_factory=self._sockets),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            **SESSION_OPTIONS,
        )
        ask, why = ask_fastest(session, now, trust_env=self._trust_env)
        self._note_path(why)
        return _Pool(ask, session, now)

    def _note_path(self, why: str | None) -> None:
        self.why_standard = why
        if self._logged == why:
            return
        self._logged = why
        if why is None:
            logger.debug("HTTP path: %s", HttpPath.FAST)
        else:
            logger.info("HTTP path: %s, since %s", HttpPath.STANDARD, why)

    async def _renew(self, here: _LoopResources) -> None:
        """
        Give a loop a new pool; the old one is closed when nothing is in flight over it any more.
        """
        old, here.pool = here.pool, self._new_pool()
        here.sessions.add(here.pool.session)
        await here.retire(old)

    async def aclose(self) -> None:
        """Close this client's own sessions, in whichever loops they are; a given one stays open."""
        self.closed = True
        self._used = False
        here = asyncio.get_running_loop()
        for loop, there in self._open.pop_all().items():
            if loop is here:
                await there.close()
            elif loop.is_running():
                await _close_elsewhere(there, loop)

    def reopen(self) -> None:
        """Allow use again after `aclose`."""
        self.closed = False

    def after_fork(self) -> None:
        """Leave what was opened so far to the parent."""
        self._forked = True
        self._used = False
        self._foreign.update(self._loops)
        self._loops.clear()

    def __del__(self) -> None:
        if getattr(self, "_used", False):
            warnings.warn(
                "a client was not closed: use 'async with', or await its aclose()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


class _Pool(msgspec.Struct):
    """
    A session and its connections.

    Attributes:
        ask: sends a request over the session.
        session: the client's own, or the one that was given to it.
        stamp: of aiohttp when the session was made, None if it was given.
        in_flight: requests.
        answered: responses so far.
    """

    ask: SendOnce
    session: aiohttp.ClientSession
    stamp: Stamp | None = None
    in_flight: int = 0
    answered: int = 0

    def is_dead(self, tally: CallState, error: AdaptyError, answered: int) -> bool:
        """
        Return whether to drop all kept connections, after an attempt over one failed.

        1. A given session's connections are not the client's to close.
        2. A failure of a new connection is no sign of the state of the others.
        3. No response in time: the network may have forgotten them (a NAT, a machine that slept).
        4. It was closed: so are the others, unless a response came over any since it was used. A
           server that closes some of them now and then costs no others.
        """
        if self.stamp is None or not tally.reused:
            return False
        if isinstance(error, RequestTimeoutError):
            return True
        return isinstance(error, ConnectionLostError) and self.answered == answered


def _is_current(pool: _Pool) -> bool:
    """Say whether nothing was patched since a pool was made."""
    return pool.stamp is None or is_same(pool.stamp, stamp())


class _LoopResources(msgspec.Struct):
    """
    The resources of one event loop.

    Attributes:
        pool: the present one.
        watch: of the time of attempts.
        sessions: the client's own that are open.
        guard: closes its own sessions with the loop, once it was started.
    """

    pool: _Pool
    timeouts: TimeoutScheduler
    sessions: set[aiohttp.ClientSession] = msgspec.field(default_factory=set)
    guard: AsyncGenerator[None, None] | None = None
    guarded: bool = False

    async def start_guard(self) -> None:
        """Ensure that the client's own sessions are closed with their loop."""
        self.guarded = True
        if self.guard is not None:
            await anext(self.guard)

    async def retire(self, pool: _Pool) -> None:
        """Close a pool that was replaced, unless something is in flight over it."""
        if not pool.in_flight and pool.session in self.sessions:
            self.sessions.discard(pool.session)
            await pool.session.close()

    async def close(self) -> None:
        """Close the sessions if they are the client's own."""
        self.timeouts.close()
        if self.guard is not None:
            await _close(self.sessions)
            with contextlib.suppress(RuntimeError):  # its loop ends, and is closing it already
                await self.guard.aclose()


async def _close(sessions: set[aiohttp.ClientSession]) -> None:
    while sessions:
        await sessions.pop().close()


async def _close_elsewhere(there: _LoopResources, loop: asyncio.AbstractEventLoop) -> None:
    """
    Close what belongs to a loop of another thread; a loop that ends meanwhile does that itself.
    """
    closing = there.close()
    try:
        future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing, loop))
    except RuntimeError:  # the loop is closed
        closing.close()
        return
    while not future.done() and not loop.is_closed():
        await asyncio.wait({future}, timeout=_LOOK)
    if not future.done():
        closing.close()
    elif not future.cancelled():
        future.result()


async def _closed_with_its_loop(
    sessions: set[aiohttp.ClientSession],
) -> AsyncGenerator[None, None]:
    """
    Close the sessions when the loop ends.

    A loop can run no more code once it is closed, but before that `asyncio.run` finalises the
    async generators that were started in it; so this one lends its `finally`.
    """
    try:
        yield
    finally:
        await _close(sessions)
