"""A run that sends nothing: its journal, the time that the real run takes, and its requests."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from adapty_async._api.call import Headers, Operation, Request
from adapty_async._api.codec import RequestDefaults, encode
from adapty_async._input.layout import Row
from adapty_async._input.rows import Rows
from adapty_async._journal import (
    Changes,
    InputCheck,
    JournalIdentity,
    LoadKeys,
    Resumed,
    SqliteJournal,
)
from adapty_async._runtime.words import duration_text
from adapty_async.bulk import JournalSummary, copy_journal
from adapty_async.cli._terminal import visible, visible_json
from adapty_async.config import RetryPolicy
from adapty_async.errors import InvalidInputError, JournalError

# The request rate of the example if none is known.
_EXAMPLE_RATE = 100.0
# The beginnings of the headers with ids and options of a call. No other header is shown.
_SHOWN_HEADERS = ("adapty-", "idempotency-key")


@contextlib.contextmanager
def copied(journal: Path | None) -> Iterator[Path | None]:
    """
    Return the path of a temporary copy of a journal, which a dry run may change; None without one.

    Raises:
        JournalError: the journal cannot be copied or used; the message names the original.
    """
    if journal is None or not journal.exists():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="adapty-async-") as folder:
        copy = Path(folder, "journal")
        copy_journal(journal, copy)
        try:
            yield copy
        except JournalError as error:
            raise JournalError(str(error).replace(str(copy), str(journal))) from None


class DryJournal:
    """
    A journal without the rate that earlier runs measured, by which a dry run would be slow.

    Args:
        path: the file, which is a copy.
        owed: maximum of items that are in flight or reserved.
    """

    def __init__(self, path: Path, *, owed: int) -> None:
        self._journal = SqliteJournal(path, owed=owed)

    async def open(
        self, identity: JournalIdentity, check: InputCheck, load_keys: LoadKeys
    ) -> Resumed:
        """Open the journal for a run; see `Journal.open`."""
        resumed = await self._journal.open(identity, check, load_keys)
        return msgspec.structs.replace(resumed, rate=None)

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """Store changes; see `Journal.commit`."""
        return self._journal.commit(changes, durable=durable)

    async def close(self) -> None:
        """Close the journal; see `Journal.close`."""
        await self._journal.close()


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """
    The least time that a run takes: each row needs one request, retries not included.

    Attributes:
        rows: rows that are to be sent.
        rate: requests per second; None if unknown.
        basis: where the rate comes from: ``rate`` is the option, ``journal`` the measurement of an
            earlier run, ``unknown`` neither.
    """

    rows: int
    rate: float | None
    basis: str

    @property
    def seconds(self) -> float | None:
        """The number of seconds; None if unknown."""
        return None if self.rate is None else self.rows / self.rate

    def as_json(self) -> dict[str, Any]:
        """Return the estimate as the value of a key of a JSON object."""
        seconds = None if self.seconds is None else math.ceil(self.seconds)
        return {"seconds": seconds, "rate": self.rate, "basis": self.basis}

    def text(self) -> str:
        """Return a sentence for people."""
        if self.seconds is None or self.rate is None:
            time = duration_text(self.rows / _EXAMPLE_RATE, round_up=True)
            return (
                "The time depends on the request rate of your key, which Adapty does not publish "
                f"and no earlier run has reached: at {_EXAMPLE_RATE:g} requests/s, that takes "
                f"{time} or more."
            )
        time = duration_text(self.seconds, round_up=True)
        if self.basis == "rate":
            return f"At --rate {self.rate:g}, that takes {time} or more."
        return (
            f"At {self.rate:.3g} requests/s, as an earlier run with this journal measured, that "
            f"takes {time} or more."
        )


def measured_rate(earlier: JournalSummary | None) -> float | None:
    """Return the rate that the latest run which reached a limit measured; None if none did."""
    rates = [run.rate for run in earlier.runs if run.rate is not None] if earlier else []
    return rates[-1] if rates else None


def estimate_of(rows: int, rate: float | None, measured: float | None) -> Estimate:
    """
    Return the estimate for rows that are to be sent; the lower one of two known rates counts.

    Args:
        rows: the number of rows.
        rate: the option.
        measured: the rate that an earlier run measured.
    """
    if measured is not None and (rate is None or measured < rate):
        return Estimate(rows=rows, rate=measured, basis="journal")
    return Estimate(rows=rows, rate=rate, basis="unknown" if rate is None else "rate")


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


def sample(
    rows: Rows,
    build: Callable[[Row], Operation[Any]],
    count: int,
    *,
    origin: str,
    id_encoding: str,
) -> list[SampledRow]:
    """Return the requests of the first rows. They are encoded without the key of the client."""
    headers = Headers({"Authorization": "not shown"})
    defaults = RequestDefaults(
        origin=origin, headers=headers, public_headers=headers, id_encoding=id_encoding
    )
    return [_sampled(row, build, defaults) for row in itertools.islice(rows, count)]


def _sampled(
    row: Row, build: Callable[[Row], Operation[Any]], defaults: RequestDefaults
) -> SampledRow:
    policy = RetryPolicy()
    try:
        request = encode(
            build(row), defaults, timeout=policy.deadline, total_timeout=policy.deadline
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
