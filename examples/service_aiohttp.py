"""
An aiohttp service that checks access, receives webhooks and exports metrics.

Run it with ``python service_aiohttp.py``. The environment has

- ADAPTY_API_KEY, the secret key,
- ADAPTY_WEBHOOK_SECRET, the header that is set in the dashboard,
- WEBHOOK_STORE, the file of processed events, by default ``webhooks.db``,
- ACCESS_DEADLINE, by default 2,
- HOST and PORT, by default 127.0.0.1 and 8000.

An access check waits ACCESS_DEADLINE seconds at most. In an outage of Adapty, a user whose profile
was read within the last hour keeps the known access; for others, the response is 503. Neither
``/health`` nor ``/ready`` fails then, or all replicas would leave the load balancer at once. A
webhook removes the user from the cache, so a purchase opens access at the next request. At SIGTERM,
aiohttp ends the requests in flight before the connections to Adapty are closed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from adapty_async import AdaptyClient, RetryPolicy
from adapty_async.access import AccessCache
from adapty_async.errors import AdaptyError, AuthenticationError, ConfigError, InvalidInputError
from adapty_async.integrations.prometheus import PrometheusMetrics
from adapty_async.webhooks import SqliteStore, WebhookReceiver
from adapty_async.webhooks.aiohttp import webhook_handler

ADAPTY, CACHE = web.AppKey("adapty", AdaptyClient), web.AppKey("cache", AccessCache)
RECEIVER = web.AppKey("receiver", WebhookReceiver)
REGISTRY = web.AppKey("registry", CollectorRegistry)
routes = web.RouteTableDef()


async def check_key(cache: AccessCache) -> None:
    """Fail the start without a valid key, and not the first request; an outage may pass."""
    try:
        await cache.profile(customer_user_id="start")
    except (AuthenticationError, ConfigError):
        raise
    except AdaptyError as error:
        print(f"Adapty does not respond now: {type(error).__name__}", file=sys.stderr)


async def lifespan(app: web.Application) -> AsyncIterator[None]:
    """Keep the client, the cache and the receiver open while the service runs."""
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
        app[ADAPTY], app[CACHE], app[RECEIVER] = adapty, cache, receiver
        app[REGISTRY] = CollectorRegistry()
        PrometheusMetrics(app[REGISTRY]).instrument(adapty)
        await check_key(cache)
        yield


@routes.get("/users/{user}/access/{level}")
async def access(request: web.Request) -> web.Response:
    """Return whether an access level of a user is open."""
    user, level = request.match_info["user"], request.match_info["level"]
    try:
        found = await request.app[CACHE].has_access(level, customer_user_id=user)
    except InvalidInputError as error:
        return web.json_response({"detail": str(error)}, status=422)
    except AdaptyError as error:
        detail = {"detail": type(error).__name__}
        return web.json_response(detail, status=503, headers={"Retry-After": "5"})
    return web.json_response({"access": found})


@routes.post("/adapty")
async def webhook(request: web.Request) -> web.StreamResponse:
    """Receive a webhook of Adapty."""
    return await webhook_handler(request.app[RECEIVER])(request)


@routes.get("/health")
async def health(_: web.Request) -> web.Response:
    """Return 200 while the event loop responds."""
    return web.json_response({"status": "ok"})


@routes.get("/ready")
async def ready(request: web.Request) -> web.Response:
    """Return 200 after the start, with the state of each circuit breaker for people."""
    buckets = request.app[ADAPTY].statistics().buckets
    circuits = {name: bucket.circuit for name, bucket in buckets.items()}
    return web.json_response({"status": "ok"} | circuits)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Return the metrics for Prometheus."""
    headers = {"Content-Type": CONTENT_TYPE_LATEST}
    return web.Response(body=generate_latest(request.app[REGISTRY]), headers=headers)


def make_app() -> web.Application:
    """Return the service, for `aiohttp.web.run_app` and for tests."""
    app = web.Application()
    app.cleanup_ctx.append(lifespan)
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    logging.basicConfig()  # shows rejected webhooks
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))
    web.run_app(make_app(), host=host, port=port, shutdown_timeout=15.0)
