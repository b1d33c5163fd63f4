"""Request bodies: content codings and the maximum length. It does no I/O."""

from __future__ import annotations

import zlib

from ._rules import Problem
from ._service import Refusal, storable

#: The largest body in bytes, packed or unpacked, inclusive; as nginx and Django have it.
LENGTH_MAX = 1024**2
# zlib's window bits: a header of gzip or zlib is found out, or there is none.
_WITH_HEADER, _RAW = 47, -15


def too_large() -> Refusal:
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
            raise too_large()
        if not unpacker.eof:
            raise _not_in_its_coding("it ends too early")
        room -= len(part)
        parts.append(part)
        body = unpacker.unused_data  # gzip allows several members in a row
    return b"".join(parts)


def _not_in_its_coding(reason: str) -> Refusal:
    return Refusal(400, "parse_error", Problem(f"The body cannot be unpacked: {reason}"))
