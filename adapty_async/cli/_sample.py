"""A sample of the requests that a command would send; nothing is sent, and no key is shown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec

from adapty_async._api.call import Headers, Request
from adapty_async._api.codec import RequestDefaults, encode
from adapty_async._input.rows import Row
from adapty_async.cli._job import Job
from adapty_async.cli._terminal import visible, visible_json
from adapty_async.config import RetryPolicy
from adapty_async.errors import InvalidInputError

__all__ = ("SampledRow", "sample", "sample_json", "sample_text")

# The beginnings of the headers with ids and options of a call. No other header is shown.
_SHOWN_HEADERS = ("adapty-", "idempotency-key")


class SampledRow(msgspec.Struct, frozen=True):
    """
    A row of the input, and its request.

    Attributes:
        row: the row.
        request: the request; None if the row cannot be sent.
        error: why it cannot be sent.
    """

    row: Row
    request: Request | None
    error: InvalidInputError | None


def sample(job: Job, count: int, origin: str, id_encoding: str) -> list[SampledRow]:
    """Return the requests of the first rows. They are encoded without the key of the client."""
    headers = Headers({"Authorization": "not shown"})
    defaults = RequestDefaults(
        origin=origin, headers=headers, public_headers=headers, id_encoding=id_encoding
    )
    return [_sampled(job, row, defaults) for row in itertools.islice(job.rows, count)]


def _sampled(job: Job, row: Row, defaults: RequestDefaults) -> SampledRow:
    policy = RetryPolicy()
    try:
        if row.broken is not None:
            raise InvalidInputError("row", row.broken)
        request = encode(
            job.build(row.value), defaults, timeout=policy.deadline, total_timeout=policy.deadline
        )
    except InvalidInputError as error:
        return SampledRow(row, None, error)
    return SampledRow(row, request, None)


def sample_text(rows: list[SampledRow], noun: str) -> str:
    """Return the requests for people: method, URL, headers and body."""
    what = "row" if len(rows) == 1 else f"{len(rows):,} rows"
    lines = [f"The first {what} of the input; nothing was sent."]
    for one in rows:
        lines += ["", f"{noun} {one.row.line}:"]
        if one.request is None:
            lines.append(f"cannot be sent: {visible(str(one.error))}")
            continue
        lines += _request_lines(one.request)
        if one.request.if_missing is not None:
            lines += ["and if there is no such profile:", *_request_lines(one.request.if_missing)]
    return "\n".join(lines)


def _request_lines(request: Request) -> Iterator[str]:
    yield f"{request.method} {request.url}"
    for name, value in _headers(request).items():
        yield f"{name}: {visible(value)}"
    if request.body is not None:
        yield visible_json(msgspec.Raw(request.body))


def sample_json(rows: list[SampledRow]) -> str:
    """Return the requests as one JSON object."""
    requests = [
        {
            "line": one.row.line,
            **_request_facts(one.request),
            "if_missing": None if one.request is None else _creation_facts(one.request),
            "error": None if one.error is None else str(one.error),
        }
        for one in rows
    ]
    return visible_json({"sample": True, "dry_run": True, "requests": requests})


def _creation_facts(request: Request) -> dict[str, Any] | None:
    return None if request.if_missing is None else _request_facts(request.if_missing)


def _request_facts(request: Request | None) -> dict[str, Any]:
    if request is None:
        return {"method": None, "url": None, "headers": {}, "body": None}
    body = None if request.body is None else msgspec.Raw(request.body)
    return {
        "method": request.method,
        "url": request.url,
        "headers": _headers(request),
        "body": body,
    }


def _headers(request: Request) -> dict[str, str]:
    found = ((name.lower(), value) for name, value in request.headers.items())
    return {name: value for name, value in found if name.startswith(_SHOWN_HEADERS)}
