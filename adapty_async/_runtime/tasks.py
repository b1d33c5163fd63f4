"""Shielded waits: for a task, and for a blocking call in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

__all__ = ("in_thread", "until_ended")

T = TypeVar("T")


async def until_ended(task: asyncio.Future[Any]) -> None:
    """Wait until a task ends; a cancellation of the caller is raised only after that."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def in_thread(call: Callable[[], T]) -> T:
    """
    Run a blocking call in a thread, and return its result.

    A cancellation of the caller is raised after the end of the call, whose result is then lost.
    """
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await until_ended(future)
    except asyncio.CancelledError:
        future.exception()  # otherwise asyncio logs that nobody retrieved it
        raise
    return future.result()
