"""Reads the bodies of requests, which may be incomplete for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from aiohttp import web

from ._body import LENGTH_MAX, too_large, unpacked
from ._rules import Problem
from ._service import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def received(request: web.BaseRequest, timeout: float) -> tuple[bytes, Refusal | None]:  # noqa: ASYNC109 - it ends with a refusal, not with an exception
    """Return the body without content codings, and its refusal if it cannot be taken."""
    try:
        _expect(request)
        body = await complete(request, request.read, timeout)
        return unpacked(body, request.headers.get("Content-Encoding", "")), None
    except web.HTTPRequestEntityTooLarge:
        return b"", too_large()
    except Refusal as refusal:
        return b"", refusal


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
        raise too_large()  # before the body is sent
    if expected is None or request.version < (1, 1):
        return
    if expected.lower() != "100-continue":
        problem = Problem("The only expectation is 100-continue")
        raise Refusal(417, "expectation_failed", problem)
    cast("asyncio.Transport", request.transport).write(b"HTTP/1.1 100 Continue\r\n\r\n")
