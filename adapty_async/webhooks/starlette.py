"""
An adapter that connects a `WebhookReceiver` to Starlette and FastAPI.

It requires the extra ``starlette``, or FastAPI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

try:
    from starlette.requests import Request
    from starlette.responses import Response
except ModuleNotFoundError as error:
    raise ImportError("Starlette is missing: pip install 'adapty-async[starlette]'") from error

from adapty_async.webhooks._receiver import WebhookReceiver

__all__ = ("webhook_endpoint",)


def webhook_endpoint(receiver: WebhookReceiver) -> Callable[[Request], Awaitable[Response]]:
    """
    Return an endpoint for POST requests that passes them to a receiver.

    Example:
        >>> Route("/adapty", webhook_endpoint(receiver), methods=["POST"])  # Starlette
        >>> app.add_api_route("/adapty", webhook_endpoint(receiver), methods=["POST"])  # FastAPI
    """

    async def endpoint(request: Request) -> Response:
        authorization = request.headers.get("Authorization")
        response = await receiver.receive(authorization, request.stream())
        return Response(response.body, response.status, media_type="application/json")

    return endpoint
