"""Request bodies: a reader with a timeout, the maximum length and content codings."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, cast

from aiohttp import web

from ._rules import Problem
from ._service import Refusal, storable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: The largest body in bytes, packed or unpacked, inclusive; as nginx and Django have it.
LENGTH_MAX = 1024**2
# zlib's window bits: a header of gzip or zlib is found out, or there is none.
_WITH_HEADER, _RAW = 47, -15


async def received(request: web.BaseRequest, timeout: float) -> tuple[bytes, Refusal | None]:  # noqa: ASYNC109 - it ends with a refusal, not with an exception
    """Return the body without content codings, and its refusal if it cannot be taken."""
    try:
        _expect(request)
        body = await complete(request, request.read, timeout)
        return unpacked(body, request.headers.get("Content-Encoding", "")), None
    except web.HTTPRequestEntityTooLarge:
        return b"", _too_large()
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


def unpacked(body: bytes, codings: str, limit: int | None = LENGTH_MAX) -> bytes:
    """
    Return a body without its content codings, the last of which was applied last.

    Raises:
        Refusal: the body is not in its coding, or too long after unpacking, or the coding is none
            of gzip, deflate and identity.
    """
    for coding in reversed([one.strip().lower() for one in storable(codings).split(",")]):
        if coding in ("gzip", "x-gzip"):
            body = _inflated(body, _WITH_HEADER, limit)
        elif coding == "deflate":
            # RFC 9110 wants zlib's header; there are clients that leave it out.
            has_header = body[:1] == b"\x78"
            body = _inflated(body, _WITH_HEADER if has_header else _RAW, limit)
        elif coding not in ("", "identity"):
            problem = Problem(f'Unsupported content coding "{coding}" in request.')
            raise Refusal(415, "unsupported_media_type", problem)
    return body


def _inflated(body: bytes, window_bits: int, limit: int | None) -> bytes:
    parts: list[bytes] = []
    room = -1 if limit is None else limit
    while body:
        unpacker = zlib.decompressobj(window_bits)
        try:
            # A length of 0 would be no limit: a body at the limit has one byte of room for more.
            part = unpacker.decompress(body, 0 if limit is None else room + 1)
        except zlib.error as error:
            raise _not_in_its_coding(str(error)) from None
        if limit is not None and len(part) > room:
            raise _too_large()
        if not unpacker.eof:
            raise _not_in_its_coding("it ends too early")
        room -= len(part)
        parts.append(part)
        body = unpacker.unused_data  # gzip allows several members in a row
    return b"".join(parts)


def _not_in_its_coding(reason: str) -> Refusal:
    return Refusal(400, "parse_error", Problem(f"The body cannot be unpacked: {reason}"))
