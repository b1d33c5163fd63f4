"""A parser and an authenticator of webhooks, without I/O."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from adapty_async._api.results import parse_json, read_by_field
from adapty_async.errors import WebhookError
from adapty_async.webhooks._events import EVENT_TYPES, Event, UnknownEvent, Verification

#: The largest body that is parsed, in bytes. The example in Adapty's documentation has 3 KB.
MAX_BODY_BYTES = 1024 * 1024

#: No type has another name.
NO_NAMES: Mapping[str, str] = {}


def authenticate(header: str | bytes | None, secret: str | bytes) -> bool:
    """
    Return whether an ``Authorization`` header is the secret, in constant time.

    Adapty sends the value that is set in the dashboard unchanged. It documents no signature. An
    empty secret matches nothing.

    Args:
        header: the value of the header; None if the request has none. Frameworks decode headers
            as Latin-1 or as UTF-8, and both are recognised.
        secret: the value in the dashboard; text is UTF-8.

    Source: https://adapty.io/docs/set-up-webhook-integration
    """
    expected = _digest(secret.encode() if isinstance(secret, str) else secret)
    matches = [hmac.compare_digest(_digest(form), expected) for form in _forms(header)]
    return any(matches) and bool(secret)


def _digest(value: bytes) -> bytes:
    """Return a digest, so that a comparison does not depend on lengths."""
    return hashlib.sha256(value).digest()


def _forms(header: str | bytes | None) -> tuple[bytes, bytes]:
    if isinstance(header, bytes):
        return header, header
    text = header or ""
    return _encoded(text, "utf-8", "surrogateescape"), _encoded(text, "latin-1", "strict")


def _encoded(text: str, encoding: str, errors: str) -> bytes:
    try:
        return text.encode(encoding, errors)
    except UnicodeEncodeError:
        return b""


def parse(
    body: bytes | bytearray | memoryview | str, *, event_names: Mapping[str, str] = NO_NAMES
) -> Verification | Event:
    """
    Decode the body of a webhook: an empty object is a `Verification`, any other one an `Event`.

    Unknown types and fields are kept, and a field that is not as documented is None; see `Event`.

    Args:
        body: the body of the request, at most `MAX_BODY_BYTES`.
        event_names: the documented names of types by the names that the dashboard gives them.

    Raises:
        WebhookError: the body is too large, is no JSON object, or has no ``event_type``.

    Source: https://adapty.io/docs/webhook-event-types-and-fields
    """
    content = _content(body)
    if not content:
        return Verification()
    event_type = content.get("event_type")
    if not isinstance(event_type, str) or not event_type:
        raise WebhookError("event_type is not text, or is missing")
    if not isinstance(content.get("event_properties"), dict | None):
        raise WebhookError("event_properties is not an object")
    kind = EVENT_TYPES.get(event_names.get(event_type, event_type), UnknownEvent)
    fields = {**content, "raw": content}
    try:
        return msgspec.convert(fields, kind)
    except (ValueError, OverflowError):  # msgspec's errors are ValueErrors, as those of Unicode
        return read_by_field(kind, fields)


def _content(body: bytes | bytearray | memoryview | str) -> dict[str, Any]:
    try:
        data = body.encode() if isinstance(body, str) else bytes(body)
        if len(data) > MAX_BODY_BYTES:
            reason = f"larger than {MAX_BODY_BYTES} bytes"
        elif isinstance(content := parse_json(data), dict):
            return content
        else:
            reason = "not an object"
    except msgspec.DecodeError:
        reason = "not JSON"
    except (ValueError, RecursionError) as error:
        reason = type(error).__name__
    raise WebhookError(f"unreadable body ({reason})")  # the errors above hold the body
