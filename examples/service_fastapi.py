"""
A FastAPI service that checks access, receives webhooks and exports metrics.

Run it with ``uvicorn service_fastapi:app --timeout-graceful-shutdown 15``. The environment has

- ADAPTY_API_KEY, the secret key,
- ADAPTY_WEBHOOK_SECRET, the header that is set in the dashboard,
- WEBHOOK_STORE, the file of processed events, by default ``webhooks.db``,
- ACCESS_DEADLINE, by default 2.

An access check waits ACCESS_DEADLINE seconds at most. In an outage of Adapty, a user whose profile
was read within the last hour keeps the known access; for others, the response is 503. Neither
``/health`` nor ``/ready`` fails then, or all replicas would leave the load balancer at once. A
webhook removes the user from the cache, so a purchase opens access at the next request. At SIGTERM,
uvicorn ends the requests in flight before the connections to Adapty are closed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from adapty_async import AdaptyClient, RetryPolicy
from adapty_async.access import AccessCache
from adapty_async.errors import AdaptyError, AuthenticationError, ConfigError, InvalidInputError
from adapty_async.integrations.prometheus import PrometheusMetrics
from adapty_async.webhooks import SqliteStore, WebhookReceiver
from adapty_async.webhooks.starlette import webhook_endpoint


async def check_key(cache: AccessCache) -> None:
    """Fail the start without a valid key, and not the first request; an outage may pass."""
    try:
        await cache.profile(customer_user_id="start")
    except (AuthenticationError, ConfigError):
        raise
    except AdaptyError as error:
        print(f"Adapty does not respond now: {type(error).__name__}", file=sys.stderr)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the client, the cache and the receiver open while the service runs."""
    logging.basicConfig()  # shows rejected webhooks
    deadline = float(os.environ.get("ACCESS_DEADLINE", "2"))
    async with (
        AdaptyClient(retry=RetryPolicy(deadline=deadline)) as adapty,
        AccessCache(adapty, ttl=60.0, stale=3600.0) as cache,
        WebhookReceiver(
            cache.handle,
            secret=os.environ["ADAPTY_WEBHOOK_SECRET"],
            store=SqliteStore(os.environ.get("WEBHOOK_STORE", "webhooks.db")),
        ) as receiver,
    ):
        app.state.adapty, app.state.cache = adapty, cache
        app.state.receive, app.state.registry = webhook_endpoint(receiver), CollectorRegistry()
        PrometheusMetrics(app.state.registry).instrument(adapty)
        await check_key(cache)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/users/{user:path}/access/{level}")  # an id may have a slash
async def access(user: str, level: str) -> dict[str, bool]:
    """Return whether an access level of a user is open."""
    try:
        return {"access": await app.state.cache.has_access(level, customer_user_id=user)}
    except InvalidInputError as error:
        raise HTTPException(422, str(error)) from None
    except AdaptyError as error:
        raise HTTPException(503, type(error).__name__, {"Retry-After": "5"}) from None


@app.post("/adapty")
async def webhook(request: Request) -> Response:
    """Receive a webhook of Adapty."""
    response: Response = await app.state.receive(request)
    return response


@app.get("/health")
async def health() -> dict[str, str]:
    """Return 200 while the event loop responds."""
    return {"status": "ok"}


@app.get("/ready")
async def ready() -> dict[str, str]:
    """Return 200 after the start, with the state of each circuit breaker for people."""
    buckets = app.state.adapty.statistics().buckets
    return {"status": "ok"} | {name: bucket.circuit for name, bucket in buckets.items()}


@app.get("/metrics")
async def metrics() -> Response:
    """Return the metrics for Prometheus."""
    return Response(generate_latest(app.state.registry), media_type=CONTENT_TYPE_LATEST)
