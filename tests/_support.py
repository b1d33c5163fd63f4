"""Shared fixtures and factories of test modules."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import importlib.util
import inspect
from typing import Any

import aiohttp
import msgspec
import pytest

from adapty_async import errors
from adapty_async._api.call import (
    CallState,
    Endpoint,
    Headers,
    Layer,
    Request,
    Response,
    RetrySafety,
    Send,
)
from adapty_async._api.results import no_result
from adapty_async._flow import adaptive_rate as _adaptive_rate
from adapty_async._flow.queues import PrioritySemaphore
from adapty_async.errors import AdaptyError

CANARY_KEY = "secret_live_CANARY.key"
CANARY_EMAIL = "canary@example.com"

ERROR_CLASSES = tuple(
    kind
    for name in errors.__all__
    if inspect.isclass(kind := getattr(errors, name)) and issubclass(kind, AdaptyError)
)

ERASE: Endpoint[None] = Endpoint(
    name="test.erase",
    method="DELETE",
    path="/erase/",
    docs="https://example.com",
    retry_safety=RetrySafety.ALWAYS,
    bucket="test",
    decode=no_result,
    is_deletion=True,
)

#: The parameters of a fixture `anyio_backend` that runs a module's tests on both loops.
LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(
        ("asyncio", {"use_uvloop": True}),
        id="uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
        ),
    ),
]

_REQUEST = Request(
    operation="test.call",
    method="POST",
    url="https://example.com/call/",
    headers=Headers(),
    body=None,
    retry_safety=RetrySafety.ALWAYS,
    bucket="test",
    is_deletion=False,
    timeout=30.0,
    total_timeout=60.0,
)


def patch_as_a_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrap the constructor of aiohttp's sessions, as tracers do; clients use the standard path."""
    make = aiohttp.ClientSession.__init__

    @functools.wraps(make)
    def made(self: aiohttp.ClientSession, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", made)


class _Replacement(type):
    def __instancecheck__(cls, value: object) -> bool:
        """Accept what the replaced class accepts."""
        return isinstance(value, cls.__mro__[1])


def replace_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the classes of `datetime` by subclasses, as freezegun does."""
    for name in ("date", "datetime"):
        replacement = _Replacement(f"Fake{name}", (getattr(dt, name),), {})
        monkeypatch.setattr(dt, name, replacement)


async def loop_turns(count: int) -> None:
    """Wait for `count` iterations of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def has_waiters(permits: PrioritySemaphore) -> bool:
    """Return whether a task waits for a permit; cancelled ones may still be queued."""
    return not all(waiter.done() for waiter in (*permits._urgent, *permits._normal))


def begin_at(monkeypatch: pytest.MonkeyPatch, rate: float, *, min_rate: float) -> None:
    """Make bulk runs start at `rate` by default, and never go below `min_rate`."""
    kind, max_rate = _adaptive_rate.AdaptiveRateLimiter, max(rate, _adaptive_rate._MAX_RATE)
    begin = functools.partialmethod(kind.__init__, min_rate=min_rate, max_rate=max_rate)
    monkeypatch.setattr(_adaptive_rate, "_START", rate)
    monkeypatch.setattr(kind, "__init__", begin)


def a_request(**changes: Any) -> Request:
    """Return a new request, with these fields changed."""
    return msgspec.structs.replace(_REQUEST, **changes)


def unwritten(send: Send) -> Layer:
    """Adapt a transport that receives the request alone, and never writes it to a socket."""

    async def send_request(request: Request, _: CallState) -> Response:
        return await send(request)

    return send_request


def a_response(status: int = 200, body: Any = b"", **headers: str) -> Response:
    """Return a response; a body other than bytes is encoded as JSON."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Response(status, named, body if isinstance(body, bytes) else msgspec.json.encode(body))
