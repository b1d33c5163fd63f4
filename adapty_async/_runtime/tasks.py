"""A shielded wait for a task."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

__all__ = ("until_ended",)


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
