"""The adapters of web frameworks: the same requests on each of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any, TypeAlias

import aiohttp
import httpx
import pytest
from aiohttp import web
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.routing import Route

from adapty_async.webhooks import MAX_BODY_BYTES, Event, WebhookReceiver
from adapty_async.webhooks.aiohttp import webhook_handler
from adapty_async.webhooks.starlette import webhook_endpoint
from tests.webhooks.samples import STARTED

SECRET = "schlüssel"
#: Posts a body with a header, and returns status, media type and decoded body.
Post: TypeAlias = Callable[..., Awaitable[tuple[int, str, Any]]]


class Events(list[Event]):
    """A list of the events that were passed on; the first delivery of ``x`` fails."""

    async def handle(self, event: Event) -> None:
        """Append an event."""
        self.append(event)
        if event.event_type == "x" and len(self) == 1:
            raise ValueError


@asynccontextmanager
async def on_aiohttp(receiver: WebhookReceiver, *middlewares: Any) -> AsyncIterator[Post]:
    """Serve a receiver with aiohttp, on a socket."""
    app = web.Application(middlewares=middlewares)
    app.router.add_post("/adapty", webhook_handler(receiver))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/adapty"

    async def post(body: bytes, secret: str | None, **headers: str) -> tuple[int, str, Any]:
        headers |= {} if secret is None else {"Authorization": secret}
        async with session.post(url, data=BytesIO(body), headers=headers) as response:
            return response.status, response.content_type, await response.json()

    async with aiohttp.ClientSession() as session:
        yield post
    await runner.cleanup()


async def _post_to(app: Any, body: bytes, secret: str | None) -> tuple[int, str, Any]:
    headers = [] if secret is None else [(b"Authorization", secret.encode())]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post("/adapty", content=body, headers=headers)
        return response.status_code, response.headers["content-type"], response.json()


@asynccontextmanager
async def on_starlette(receiver: WebhookReceiver, *middlewares: Any) -> AsyncIterator[Post]:
    """Serve a receiver with Starlette."""
    app = Starlette(
        routes=[Route("/adapty", webhook_endpoint(receiver), methods=["POST"])],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=one) for one in middlewares],
    )
    yield lambda body, secret: _post_to(app, body, secret)


@asynccontextmanager
async def on_fastapi(receiver: WebhookReceiver) -> AsyncIterator[Post]:
    """Serve a receiver with FastAPI."""
    app = FastAPI()
    app.add_api_route("/adapty", webhook_endpoint(receiver), methods=["POST"])
    yield lambda body, secret: _post_to(app, body, secret)


@pytest.fixture
def events() -> Events:
    """Return the events that are passed on."""
    return Events()


@pytest.fixture(params=[on_aiohttp, on_starlette, on_fastapi], ids=lambda one: one.__name__)
async def post(request: pytest.FixtureRequest, events: Events) -> AsyncIterator[Post]:
    """Serve a receiver with each framework."""
    async with (
        WebhookReceiver(events.handle, secret=SECRET) as receiver,
        request.param(receiver) as posting,
    ):
        yield posting


async def test_a_framework_verifies_and_passes_events_on(post: Post, events: Events) -> None:
    """The verification and an event get 200 with JSON, and the event reaches the callable."""
    body = json.dumps(STARTED).encode()

    assert await post(b"{}", SECRET) == (200, "application/json", {})
    assert await post(body, SECRET) == (200, "application/json", {})
    assert await post(body, SECRET) == (200, "application/json", {})
    assert [event.customer_user_id for event in events] == ["UserIdInYourSystem"]


async def test_a_framework_rejects_what_is_not_authentic(post: Post, events: Events) -> None:
    """A missing or wrong header gets 401, with or without a body."""
    for header in (None, "wrong", SECRET.encode().decode("latin-1") + "x"):
        assert (await post(json.dumps(STARTED).encode(), header))[0] == 401
    assert events == []


async def test_a_framework_bounds_the_body(post: Post, events: Events) -> None:
    """A body beyond the bound gets 413, and one at the bound is read."""
    assert (await post(b" " * (MAX_BODY_BYTES + 1), SECRET))[0] == 413
    assert (await post(b" " * (MAX_BODY_BYTES - 2) + b"{}", SECRET))[0] == 200
    assert (await post(b"nothing", SECRET))[0] == 422
    assert (await post(b"", SECRET))[0] == 422


async def test_a_body_with_a_wrong_encoding_is_sent_again(events: Events) -> None:
    """Aiohttp decompresses bodies itself; one that cannot be decompressed has a status to retry."""
    async with (
        WebhookReceiver(events.handle, secret="ascii") as receiver,
        on_aiohttp(receiver) as post,
    ):
        assert (await post(b"nothing", "ascii", **{"Content-Encoding": "gzip"}))[0] == 422


@web.middleware
async def reading(request: web.Request, handler: Any) -> Any:
    """Read the body first, as a middleware of aiohttp."""
    await request.text()
    return await handler(request)


async def reading_first(request: Request, call_next: Any) -> Any:
    """Read the body first, as a middleware of Starlette."""
    await request.body()
    return await call_next(request)


@pytest.mark.parametrize(
    ("serve", "middleware"),
    [
        pytest.param(on_aiohttp, reading, id="aiohttp"),
        pytest.param(on_starlette, reading_first, id="Starlette"),
    ],
)
async def test_a_middleware_may_have_read_the_body(
    serve: Callable[..., Any], middleware: Any, events: Events
) -> None:
    """A middleware that logs bodies, for instance, takes nothing away from the receiver."""
    body = json.dumps({**STARTED, "more": "x" * 300_000}).encode()
    async with (
        WebhookReceiver(events.handle, secret="ascii") as receiver,
        serve(receiver, middleware) as post,
    ):
        assert (await post(b"{}", "ascii"))[0] == 200
        assert (await post(body, "ascii"))[0] == 200
        assert (await post(b"", "ascii"))[0] == 422

    assert [event.customer_user_id for event in events] == ["UserIdInYourSystem"]


async def test_a_framework_lets_a_failed_event_come_again(post: Post, events: Events) -> None:
    """An exception of the callable gets 500, and the next delivery succeeds."""
    body = b'{"event_type": "x"}'

    assert [(await post(body, SECRET))[0] for _ in range(3)] == [500, 200, 200]
    assert len(events) == 2


ALONE = """
import adapty_async.webhooks, sys
assert not {"starlette", "fastapi", "aiohttp.web", "cachetools"} & sys.modules.keys()
for library in ("starlette", "cachetools", "opentelemetry", "prometheus_client"):
    sys.modules[library] = None
for module in ("webhooks.starlette", "access", "integrations.opentelemetry",
               "integrations.prometheus"):
    try:
        __import__(f"adapty_async.{module}")
    except ImportError as error:
        print(error)
"""


def test_the_core_needs_no_framework_and_a_missing_extra_is_named() -> None:
    """Parsing loads no framework, and a module without its library says how to install it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Starlette is missing: pip install 'adapty-async[starlette]'",
        "cachetools is missing: pip install 'adapty-async[cache]'",
        "OpenTelemetry is missing: pip install 'adapty-async[otel]'",
        "prometheus_client is missing: pip install 'adapty-async[prometheus]'",
    ]
