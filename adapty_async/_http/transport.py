"""
A transport over aiohttp, with one lazily created session for each event loop.

The pool of a loop is one session with its connections. A new pool replaces it if its kept
connections seem dead, or if a test mock or a tracer has patched aiohttp since the pool was made.
The old pool stays open until the requests in flight over it end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import warnings
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import aiohttp
import msgspec

from adapty_async._api.call import CallState, Request, Response
from adapty_async._http.attempt import Kept, ReadBody, SendOnce, TimeoutScheduler, failure_of
from adapty_async._http.direct_sender import Stamp, fastest_sender, why_standard
from adapty_async._http.session_sender import SESSION_OPTIONS, given_session_sender, session_sender
from adapty_async._http.streaming import STREAMED, Sink, read_into
from adapty_async._runtime.files import is_out_of_files
from adapty_async._runtime.fork import SocketFactory, register_fork_handler
from adapty_async._runtime.loop import LoopLocal
from adapty_async.errors import (
    AdaptyError,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    RequestTimeoutError,
)
from adapty_async.statistics import HttpPath

logger = logging.getLogger("adapty_async")

# The header of a request whose response is the last one on its connection.
_CLOSE = {"Connection": "close"}
# The share of connections to close if the process has no file descriptor left: a few more than the
# limiters give up, so that no others are opened instead.
_SURPLUS = 1 / 8
# Seconds between two checks whether the loop of another thread still runs.
_RECHECK = 0.1


class Transport:
    """
    A transport over pooled connections, with one aiohttp session per event loop.

    Sessions are made on first use. A session that `aclose` does not close is closed with its loop,
    if the loop ends in an orderly way, as with `asyncio.run`.

    Attributes:
        closed: whether it is closed and sends nothing.
        why_standard: the reason for the standard path of the latest session, or of the first one
            before it is made; None for the fast path.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        headers: Mapping[str, str] | None = None,
        trust_env: bool = False,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        if isinstance(session, aiohttp.ClientSession) and getattr(session, "auth", None):
            raise ConfigError(
                "session must have no auth: the API key is in the Authorization header"
            )
        self._clock = clock
        self._headers = headers
        self._trust_env = trust_env
        self._caller_session = session
        # without a reference cycle, a dropped client is freed at once, before its sessions
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
            Stamp(), session, given=session is not None, trust_env=trust_env
        )
        register_fork_handler(self)

    def __call__(
        self, request: Request, state: CallState, sink: Sink | None = None
    ) -> Awaitable[Response]:
        """
        Send one request, once, and read its whole response.

        With a sink, the body of a success is passed to it block by block, on the standard path.

        Raises:
            ConfigError: the client or the caller's session is closed, or the session belongs to
                another event loop.
            ConnectError: no connection could be made.
            DeadlineError: the call's deadline has passed; nothing was sent.
            RequestTimeoutError: the attempt's timeout or the call's deadline has passed.
            ConnectionLostError: the connection broke.
            DecodeError: the response is larger than 8 MiB, and there is no sink.
        """
        if self.closed or self._caller_session is not None:
            self._require_open()
        resources = self._open.get()
        pool = resources.pool
        if sink is None and resources.guarded and not pool.surplus and pool.is_current():
            return self._send(resources, pool, pool.send, request, state)
        return self._send_when_ready(resources, request, state, sink)

    async def _send_when_ready(
        self, resources: _LoopResources, request: Request, state: CallState, sink: Sink | None
    ) -> Response:
        await self._make_ready(resources)
        pool = resources.pool
        send = pool.send
        if pool.surplus:
            pool.surplus -= 1
            request = request.with_headers(_CLOSE)
        if sink is not None:
            read_body = read_into(sink, resources.timeouts, state, self._clock)
            send = self._streaming_sender(pool, read_body)
            request = request.with_headers(STREAMED)
        return await self._send(resources, pool, send, request, state)

    async def _send(
        self,
        resources: _LoopResources,
        pool: _Pool,
        send: SendOnce,
        request: Request,
        state: CallState,
    ) -> Response:
        seconds = min(request.timeout, state.deadline - self._clock())
        if seconds <= 0:
            raise DeadlineError("no time left to send it", operation=request.operation)
        # with the loop, it does not ask for the process id, as Python 3.11 does in 0.5 µs
        timeouts, task = resources.timeouts, asyncio.current_task(resources.loop)
        assert task is not None  # noqa: S101  coroutines run in tasks
        responses, cancelled_before = pool.responses, task.cancelling()
        timeouts.schedule(task, seconds, state)
        pool.in_flight += 1
        try:
            response = await send(request, state)
        except BaseException as error:
            expired = task.cancelling() == cancelled_before + 1 and timeouts.expired(task)
            if (failure := failure_of(error, state, expired=expired)) is None:
                self._check_cancelled(error, task, state)
                raise
        else:
            pool.responses += 1
            return response
        finally:
            timeouts.cancel(task)
            pool.in_flight -= 1
            if pool is not resources.pool:
                await resources.retire(pool)
        try:
            failure.operation = request.operation
            await self._record_failure(resources, pool, state, failure, responses)
            raise failure
        finally:
            del failure  # otherwise the error and this frame would form a cycle

    async def _record_failure(
        self,
        resources: _LoopResources,
        pool: _Pool,
        state: CallState,
        failure: AdaptyError,
        responses: int,
    ) -> None:
        """Record a failed attempt, and renew a pool whose kept connections seem dead."""
        is_dead = pool.record_failure(state, failure, responses)
        # a session of the caller's is not among these, nor one that was closed with the client
        if is_dead and pool is resources.pool and pool.session in resources.sessions:
            await self._renew(resources)

    def _check_cancelled(
        self, error: BaseException, task: asyncio.Task[Any], state: CallState
    ) -> None:
        """
        Raise if the close of a session cancelled an attempt, and nothing cancelled its task.

        aiohttp cancels its name lookups when it closes.
        """
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if is_cancelled and not task.cancelling() and not state.on_wire:
            self._require_open()

    def _streaming_sender(self, pool: _Pool, read_body: ReadBody) -> SendOnce:
        if self._caller_session is not None:
            return given_session_sender(self._caller_session, read_body)
        return session_sender(
            pool.session, pool.kept, trust_env=self._trust_env, read_body=read_body
        )

    async def _make_ready(self, resources: _LoopResources) -> None:
        if not resources.guarded:
            await resources.start_guard()
        if not resources.pool.is_current():
            await self._renew(resources)

    def _require_open(self) -> None:
        if self.closed:
            raise ConfigError("the client is closed")
        session = self._caller_session
        if session is not None and self._forked:
            raise ConfigError("the session was given to the client before a fork")
        if session is not None and session.closed:
            raise ConfigError("the session that was given to the client is closed")

    def _make(self) -> _LoopResources:
        loop = asyncio.get_running_loop()
        if self._caller_session is not None:
            _require_loop(self._caller_session, loop)
            self._record_path(self.why_standard)
            return _LoopResources(
                loop,
                _Pool(given_session_sender(self._caller_session), self._caller_session),
                TimeoutScheduler(loop, self._clock),
            )
        if loop in self._foreign:
            raise ConfigError("this event loop was used before a fork; it is the parent's")
        self._loops.add(loop)
        self._used = True
        pool = self._new_pool()
        timeouts, sessions = TimeoutScheduler(loop, self._clock), _Sessions({pool.session})
        guard = _closed_with_its_loop(sessions)
        return _LoopResources(loop, pool, timeouts, sessions, guard)

    def _new_pool(self) -> _Pool:
        """Open a session of the client's own, on the fastest HTTP path."""
        stamp = Stamp()
        session = aiohttp.ClientSession(
            # the client bounds the requests in flight, so that no timeout includes a wait
            connector=aiohttp.TCPConnector(limit=0, socket_factory=self._sockets),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            **SESSION_OPTIONS,
        )
        kept: Kept = set()
        send, why = fastest_sender(session, kept, stamp, trust_env=self._trust_env)
        self._record_path(why)
        return _Pool(send, session, stamp.is_current, kept)

    def _record_path(self, why: str | None) -> None:
        self.why_standard = why
        if self._logged == why:
            return
        self._logged = why
        if why is None:
            logger.debug("HTTP path: %s", HttpPath.FAST)
        else:
            logger.info("HTTP path: %s, since %s", HttpPath.STANDARD, why)

    async def _renew(self, resources: _LoopResources) -> None:
        """Replace the pool of a loop; the old one is closed when no request uses it any more."""
        old, resources.pool = resources.pool, self._new_pool()
        resources.sessions.add(resources.pool.session)
        await resources.retire(old)

    async def aclose(self) -> None:
        """Close the client's own sessions in all loops; a session of the caller's stays open."""
        self.closed = True
        self._used = False
        running = asyncio.get_running_loop()
        for loop, resources in self._open.pop_all().items():
            if loop is running:
                await resources.close()
            elif loop.is_running():
                await _close_elsewhere(resources, loop)
            else:
                _close_later(resources, loop)

    def reopen(self) -> None:
        """Allow use again after `aclose`."""
        self.closed = False

    def after_fork(self) -> None:
        """Drop the sessions that were opened so far; they belong to the parent."""
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
    A connection pool: one session with its connections.

    Attributes:
        send: sends a request over the session.
        session: the client's own, or the caller's.
        is_current: returns whether nothing was patched since the pool was made.
        kept: the connections that were used before.
        in_flight: number of requests in flight.
        responses: number of responses so far.
        surplus: number of connections to close with their next response.
    """

    send: SendOnce
    session: aiohttp.ClientSession
    is_current: Callable[[], bool] = lambda: True
    kept: Kept = msgspec.field(default_factory=set)
    in_flight: int = 0
    responses: int = 0
    surplus: int = 0

    def record_failure(self, state: CallState, error: AdaptyError, responses: int) -> bool:
        """
        Record a failed attempt; return whether to drop all kept connections.

        1. A failure of a new connection is no sign of the state of the others. If no file
           descriptor was left for it, some of them close after their next response, since the rest
           of the process needs descriptors, too.
        2. No response in time: the network may have dropped them (a NAT, a machine that slept).
        3. It was closed: so are the others, unless one has had a response since the attempt began.
           A server that closes some of them now and then costs no others.
        """
        if is_out_of_files(error):
            self.surplus = max(self.surplus, math.ceil(_SURPLUS * self.in_flight))
        if not state.reused:
            return False
        if isinstance(error, RequestTimeoutError):
            return True
        return isinstance(error, ConnectionLostError) and self.responses == responses


class _Sessions(set[aiohttp.ClientSession]):
    """A set of the client's own open sessions in one event loop."""

    def __init__(self, sessions: Iterable[aiohttp.ClientSession] = ()) -> None:
        super().__init__(sessions)
        self._closing = asyncio.Lock()

    async def close(self) -> None:
        """Close all of them; a second call waits for the first one."""
        async with self._closing:
            while self:
                await self.pop().close()


class _LoopResources(msgspec.Struct):
    """
    The resources of one event loop.

    Attributes:
        loop: the event loop.
        pool: the current pool.
        timeouts: the timeout scheduler.
        sessions: the client's own sessions that are open.
        guard: an async generator that closes these sessions with the loop; None for the caller's
            session.
        guarded: whether the guard was started.
    """

    loop: asyncio.AbstractEventLoop
    pool: _Pool
    timeouts: TimeoutScheduler
    sessions: _Sessions = msgspec.field(default_factory=_Sessions)
    guard: AsyncGenerator[None, None] | None = None
    guarded: bool = False

    async def start_guard(self) -> None:
        """Start the guard, which closes the client's own sessions with their loop."""
        self.guarded = True
        if self.guard is not None:
            await anext(self.guard)

    async def retire(self, pool: _Pool) -> None:
        """Close a pool that was replaced, unless requests are in flight over it."""
        if not pool.in_flight and pool.session in self.sessions:
            self.sessions.discard(pool.session)
            await pool.session.close()

    async def close(self) -> None:
        """Close the sessions if they are the client's own; calls over another session continue."""
        if self.guard is not None:
            self.timeouts.close()
            await self.sessions.close()
            with contextlib.suppress(RuntimeError):  # the loop ends, and closes it already
                await self.guard.aclose()


def _require_loop(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other public way
        made_in = getattr(session, "loop", loop)
    if made_in is not loop and isinstance(made_in, asyncio.AbstractEventLoop):
        raise ConfigError(
            "the session that was given to the client belongs to another event loop; make one in "
            "each loop that uses the client, with a client of its own"
        )


async def _close_elsewhere(resources: _LoopResources, loop: asyncio.AbstractEventLoop) -> None:
    """Close the resources of a loop of another thread; a loop that ends closes them itself."""
    closing = resources.close()
    try:
        future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing, loop))
    except RuntimeError:  # the loop is closed
        closing.close()
        return
    while not future.done() and not loop.is_closed():
        await asyncio.wait({future}, timeout=_RECHECK)
    if not future.done():
        closing.close()
    elif not future.cancelled():
        future.result()


def _close_later(resources: _LoopResources, loop: asyncio.AbstractEventLoop) -> None:
    """
    Close the resources of an idle loop when it runs again, even if it runs only to end.

    Until then the loop keeps their guard, so that an orderly end waits for the close.
    """
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(lambda: loop.create_task(resources.close()))


async def _closed_with_its_loop(sessions: _Sessions) -> AsyncGenerator[None, None]:
    """
    Close the sessions when the loop ends.

    A closed loop runs no code, but before the close `asyncio.run` finalises the async generators
    that were started in it. So the `finally` of this one closes the sessions.
    """
    try:
        yield
    finally:
        await sessions.close()
