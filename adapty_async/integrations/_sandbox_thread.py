"""A sandbox that serves in a thread, for tests of any kind."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

from adapty_async.sandbox import Sandbox

T = TypeVar("T")


class _InThread:
    """
    A proxy of a sandbox that serves in a thread, so that tests need no event loop.

    Its methods run in the thread of the server, which is the only one that uses its database.
    """

    def __init__(self, sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
        self._sandbox = sandbox
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._sandbox, name)
        if inspect.iscoroutinefunction(attribute):
            return partial(self._call_async, attribute)
        return partial(self._call, attribute) if callable(attribute) else attribute

    def _call(self, method: Callable[..., T], *arguments: Any, **options: Any) -> T:
        async def call() -> T:
            return method(*arguments, **options)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    async def _call_async(
        self, method: Callable[..., Coroutine[Any, Any, T]], *arguments: Any, **options: Any
    ) -> T:
        future = asyncio.run_coroutine_threadsafe(method(*arguments, **options), self._loop)
        return await asyncio.wrap_future(future)


@contextmanager
def serving(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Serve a sandbox in a thread for the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="adapty-sandbox", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
        try:
            yield cast("Sandbox", _InThread(sandbox, loop))
        finally:
            asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
