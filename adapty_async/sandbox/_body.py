"""Request bodies: a reader with a timeout and a maximum length."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web

from ._rules import Problem
from ._service import Refusal, storable

#: The largest body in bytes, inclusive; as nginx and Django have it.
LENGTH_MAX = 1024**2


async def received(request: web.BaseRequest, timeout: float) -> tuple[bytes, Refusal | None]:  # noqa: ASYNC109 - it ends with a refusal, not with an exception
    """Return the body, and its refusal if it cannot be taken."""
    try:
        _expect(request)
        body = await complete(request, request.read, timeout)
    except web.HTTPRequestEntityTooLarge:
        return b"", _too_large()
    except Refusal as refusal:
        return b"", refusal
    coding = storable(request.headers.get("Content-Encoding", "identity"))
    if coding.lower() in ("", "identity"):
        return body, None
    # Adapty's documentation knows JSON alone.
    problem = Problem(f'Unsupported content coding "{coding}" in request.')
    return b"", Refusal(415, "unsupported_media_type", problem)


async def complete(
    request: web.BaseRequest,
    read: Callable[[], Awaitable[bytes]],
    timeout: float,  # noqa: ASYNC109 - see above
) -> bytes:
    """
    Return the body as `read` returns it.

    If the framing of a chunked body breaks after the head was served, aiohttp's parser (3.14.5)
    neither ends the body nor raises: the body never becomes complete.

    Raises:
        Refusal: the body is incomplete after `timeout` seconds.
    """
    if request.content.is_eof():
        return await read()  # almost every body is here; a timer would cost more than reading it
    try:
        async with asyncio.timeout(timeout):
            return await read()
    except TimeoutError:
        problem = Problem(f"The request body is incomplete after {timeout:g} seconds")
        raise Refusal(408, "request_timeout", problem) from None


def _expect(request: web.BaseRequest) -> None:
    """Send the interim response that a client with an `Expect` header waits for."""
    expected = request.headers.get("Expect")
    if (request.content_length or 0) > LENGTH_MAX:
        raise _too_large()  # before the body is sent
    if expected is None or request.version < (1, 1):
        return
    if expected.lower() != "100-continue":
        problem = Problem("The only expectation is 100-continue")
        raise Refusal(417, "expectation_failed", problem)
    cast("asyncio.Transport", request.transport).write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large() -> Refusal:
    """Return the refusal of a body above the maximum length."""
    message = f"Request body exceeds {LENGTH_MAX} bytes"
    return Refusal(413, "request_entity_too_large", Problem(message))
