"""Shielded waits: for a task, and for a blocking call in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

__all__ = ("in_thread", "result_of", "until_ended")

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


async def result_of(task: asyncio.Future[T]) -> T:
    """
    Wait until a task ends, and return its result.

    Raises:
        CancelledError: the caller was cancelled; raised after the end, from the task's error.
    """
    try:
        await until_ended(task)
    except asyncio.CancelledError as cancelled:
        raise cancelled from task.exception()
    return task.result()


async def in_thread(call: Callable[[], T]) -> T:
    """
    Run a blocking call in a thread, and return its result.

    Raises:
        CancelledError: the caller was cancelled; raised after the end of the call.
    """
    return await result_of(asyncio.get_running_loop().run_in_executor(None, call))
