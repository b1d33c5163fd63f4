"""Complete responses of a server, with canaries in everything that a server may echo."""

from __future__ import annotations

import json

from tests._support import CANARY_EMAIL, CANARY_KEY

MIB = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def response(status: int = 200, body: bytes = b"{}", *lines: str) -> bytes:
    """Return a response with its length; unlike `http.HTTPStatus`, it accepts every status."""
    head = [f"HTTP/1.1 {status} Some Words", *lines, f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def error_body(status: int, code: str) -> bytes:
    """Return an error body of the API, which quotes the request."""
    content = {
        "errors": [{"source": None, "errors": [f"{CANARY_EMAIL} with {CANARY_KEY}"]}],
        "error_code": code,
        "status_code": status,
    }
    return json.dumps(content).encode()


def said(status: int, code: str, *lines: str) -> tuple[bytes]:
    """Return an error response of the API."""
    return (response(status, error_body(status, code), *lines),)


def page(status: int, *lines: str) -> tuple[bytes]:
    """Return a gateway's page, which quotes the request."""
    return (response(status, f"<html>{CANARY_EMAIL} {CANARY_KEY}</html>".encode(), *lines),)


def packed(body: bytes, coding: str = "gzip") -> bytes:
    """Return a response that declares a content coding."""
    return response(200, body, f"Content-Encoding: {coding}")


def content(text: str | bytes) -> tuple[bytes]:
    """Return a successful response with that body."""
    return (response(200, text if isinstance(text, bytes) else text.encode()),)
