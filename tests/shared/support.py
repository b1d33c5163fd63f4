"""Helpers of the tests of shared rates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ("until",)


async def until(happened: Callable[[], object]) -> None:
    """Wait until something has happened in a background task."""
    async with asyncio.timeout(50):
        while not happened():  # noqa: ASYNC110  what happens has no event
            await asyncio.sleep(0.002)
