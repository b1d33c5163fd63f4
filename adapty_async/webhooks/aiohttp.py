"""An adapter that connects a `WebhookReceiver` to a server of aiohttp."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from adapty_async.webhooks._receiver import WebhookReceiver

__all__ = ("webhook_handler",)


def webhook_handler(
    receiver: WebhookReceiver,
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """
    Return a handler of POST requests that passes them to a receiver.

    Example:
        >>> app.router.add_post("/adapty", webhook_handler(receiver))
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        response = await receiver.receive(authorization, _body(request))
        return web.Response(
            status=response.status, body=response.body, content_type="application/json"
        )

    return handle


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    if not request.can_read_body:  # it has none, or a middleware has read it
        yield await request.read()
    async for piece in request.content.iter_any():
        yield piece
