"""
Where requests go: an aiohttp session for each event loop, made when it is needed, closed in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp
import msgspec

from adapty_async._exchange import Ask, InStep, ask_environment, ask_given, ask_own, exchange
from adapty_async._fork import Sockets, on_fork
from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Request, Response
from adapty_async._watch import Watch
from adapty_async.errors import ConfigError

__all__ = ("Transport",)

_LOOK = 0.1
"""
Seconds after which who waits for another loop looks whether there still is one.
"""


class Transport:
    """
    Send requests over pooled connections, with one aiohttp session per event loop.

    Sessions are made when first needed. One that is not closed by `aclose` is closed when its
    loop ends, as `asyncio.run` closes it in an orderly way.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        trust_env: bool = False,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self._clock = clock
        self._trust_env = trust_env
        self._given = session
        # a client that is dropped goes at once then, and its sessions are closed before they go
        this: Any = weakref.proxy(self)
        self._open: LoopLocal[_Here] = LoopLocal(functools.partial(Transport._make, this))
        self._sockets = Sockets()
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._foreign: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._forked = False
        self._used = False
        self.closed = False
        on_fork(self)

    async def __call__(self, request: Request) -> Response:
        """
        Send one request, once, and read its whole answer.

        Raises:
            ConnectError: no connection could be made.
            RequestTimeoutError: the attempt's or the call's time was over.
            ConnectionLostError: the connection broke.
            DecodeError: the answer is larger than 8 MiB.
        """
        if self.closed or self._given is not None:
            self._demand_open()
        here = self._open.get()
        if not here.guarded:
            await here.start_guard()
        seconds = min(request.timeout, request.tally.deadline - self._clock())
        answer = await exchange(here.ask, here.watch, request, seconds)
        if isinstance(answer, Response):
            return answer
        try:
            answer.operation = request.operation
            raise answer
        finally:
            del answer  # else the error and this frame would hold each other

    def _demand_open(self) -> None:
        if self.closed:
            raise ConfigError("the client is closed")
        if self._given is not None and self._forked:
            raise ConfigError("the session was given to the client before a fork")
        if self._given is not None and self._given.closed:
            raise ConfigError("the session that was given to the client is closed")

    def _make(self) -> _Here:
        loop = asyncio.get_running_loop()
        if self._given is not None:
            return _Here(ask_given(self._given), self._given, Watch(loop))
        if loop in self._foreign:
            raise ConfigError("this event loop was used before a fork; it is the parent's")
        self._loops.add(loop)
        self._used = True
        session = aiohttp.ClientSession(
            # the client bounds what is in flight, so that waiting is not charged to a timeout
            connector=aiohttp.TCPConnector(limit=0, socket_factory=self._sockets),
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=InStep,
        )
        ask = ask_environment(session) if self._trust_env else ask_own(session)
        return _Here(ask, session, Watch(loop), _closed_with_its_loop(session))

    async def aclose(self) -> None:
        """
        Close this client's own sessions, in whichever loops they are; a given one stays open.
        """
        self.closed = True
        self._used = False
        here = asyncio.get_running_loop()
        for loop, there in self._open.pop_all().items():
            if loop is here:
                await there.close()
            elif loop.is_running():
                await _close_elsewhere(there, loop)

    def reopen(self) -> None:
        """
        Allow use again after `aclose`.
        """
        self.closed = False

    def after_fork(self) -> None:
        """
        Leave what was opened so far to the parent.
        """
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


class _Here(msgspec.Struct):
    """
    What belongs to one event loop.

    Attributes:
        ask: sends a request over the session.
        session: the client's own, or the one that was given to it.
        watch: of the time of attempts.
        guard: closes its own session with the loop, once it was started.
    """

    ask: Ask
    session: aiohttp.ClientSession
    watch: Watch
    guard: AsyncGenerator[None, None] | None = None
    guarded: bool = False

    async def start_guard(self) -> None:
        """
        See to it that a session of the client's own is closed with its loop.
        """
        self.guarded = True
        if self.guard is not None:
            await anext(self.guard)

    async def close(self) -> None:
        """
        Close the session if it is the client's own.
        """
        self.watch.close()
        if self.guard is not None:
            await self.session.close()
            with contextlib.suppress(RuntimeError):  # its loop ends, and is closing it already
                await self.guard.aclose()


async def _close_elsewhere(there: _Here, loop: asyncio.AbstractEventLoop) -> None:
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


async def _closed_with_its_loop(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """
    Close the session when the loop ends.

    A loop can run no more code once it is closed, but before that `asyncio.run` finalises the
    async generators that were started in it; so this one lends its `finally`.
    """
    try:
        yield
    finally:
        await session.close()
