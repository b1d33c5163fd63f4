"""Patches of aiohttp like those of tracers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import aiohttp

__all__ = ("patched", "traced")


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Patch the constructor of sessions, at no cost per request; clients use the standard path."""
    make = aiohttp.ClientSession.__init__

    @functools.wraps(make)
    def made(self: aiohttp.ClientSession, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)

    aiohttp.ClientSession.__init__ = made  # type: ignore[method-assign]
    try:
        yield
    finally:
        aiohttp.ClientSession.__init__ = make  # type: ignore[method-assign]


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Trace every session with OpenTelemetry, and discard the spans."""
    from opentelemetry.instrumentation.aiohttp_client import (  # noqa: PLC0415  a group's package
        AioHttpClientInstrumentor,
    )
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    try:
        yield
    finally:
        instrumentor.uninstrument()
