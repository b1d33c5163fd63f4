"""
A fuzzer that feeds bytes to the parsers and checks their contracts.

`make fuzz` runs each parser for ten seconds; options of libFuzzer may follow a parser's name:

    .venv/bin/python -m fuzz answers -max_total_time=600

Each run has one parser, since libFuzzer prefers inputs that lead to new code: in a combined run,
reading files had nine tenths of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["adapty_async", "csv", "email", "gzip"]):
    from adapty_async import AdaptyClient, mail, v1, v2
    from adapty_async._api.call import Endpoint, Operation, Response
    from adapty_async._api.codec import decode, error_from, parse_retry_after
    from adapty_async._input.rows import SizedRows, open_rows
    from adapty_async._input.schema import id_columns, id_from, rows_of
    from adapty_async.bulk import ItemState, summarise
    from adapty_async.errors import (
        ApiError,
        DecodeError,
        InvalidInputError,
        JournalError,
        WebhookError,
    )
    from adapty_async.testing import FakeTransport
    from adapty_async.webhooks import Event, parse, transaction_event

ENDPOINTS: tuple[Endpoint[object], ...] = tuple(
    row for module in (v1, mail, v2) for row in vars(module).values() if isinstance(row, Endpoint)
)
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
HERE = Path(__file__).parent


def answers(data: bytes) -> None:
    """Check that a successful response is a result or a DecodeError."""
    for endpoint in ENDPOINTS:
        with contextlib.suppress(DecodeError):
            decode(Operation(endpoint), Response(200, {}, data))


def errors(data: bytes) -> None:
    """Check that any other response is an ApiError whose text is one line of ASCII."""
    status, *values, body = (data.split(b"\n", 4) + [b""] * 5)[:5]
    names = ("Retry-After", "Date", "Request-Id")
    headers = {
        name: value.decode("utf-8", "surrogateescape")  # as aiohttp does
        for name, value in zip(names, values, strict=True)
    }
    number = 300 + int.from_bytes(status[:2], "big") % 700
    error = error_from("fuzz.call", Response(number, headers, body))
    assert isinstance(error, ApiError)
    assert str(error).isascii()
    assert str(error).isprintable()
    assert error.retry_after is None or 0.0 <= error.retry_after < math.inf


def waits(data: bytes) -> None:
    """Check that a Retry-After is a finite number of seconds, or None."""
    text = data.decode("latin-1")
    value, _, date = text.partition("\n")
    seconds = parse_retry_after(value, date)
    assert seconds is None or 0.0 <= seconds < math.inf


def journal(data: bytes) -> None:
    """Check that a journal with changed bytes is summarised or rejected."""
    path = FOLDER / "journal"
    content = bytearray(JOURNAL)
    for start in range(0, len(data) - 3, 3):
        place = int.from_bytes(data[start : start + 2], "big") % len(content)
        content[place] = data[start + 2]
    path.write_bytes(content)
    with contextlib.suppress(JournalError):
        assert summarise(path).counts[ItemState.DONE] <= 700


def a_journal() -> bytes:
    """Return the bytes of the journal of a completed run."""

    async def run() -> None:
        transport = FakeTransport(itertools.repeat((204, {}, b"")))
        async with AdaptyClient("key", transport=transport) as adapty:
            ids = (f"u{number}" for number in range(700))
            await adapty.v1.profiles.bulk_delete(
                ids, by="customer_user_id", journal=FOLDER / "whole"
            )

    asyncio.run(run())
    return (FOLDER / "whole").read_bytes()


def files(form: str) -> Callable[[bytes], None]:
    """
    Return a check that each row of an input file is usable or rejected by its field's name.

    Counting and reading agree, and line numbers ascend.
    """

    def read(data: bytes) -> None:
        path = FOLDER / form
        path.write_bytes(data)
        with contextlib.suppress(InvalidInputError):
            rows = open_rows(os.fspath(path), form, id_columns("id"), id_column="id")  # type: ignore[arg-type]
            read = list(rows)
            assert isinstance(rows, SizedRows)
            assert len(rows) == len(read)
            numbers = [row.line for row in read]
            assert numbers == sorted(set(numbers))
            for row in read:
                assert row.line > 0
                if row.broken is None:
                    with contextlib.suppress(InvalidInputError):
                        mail.delete_profile(email=id_from(row.value, "id"))
                    with contextlib.suppress(InvalidInputError):
                        mail.save_profile(rows_of(mail.PROFILE_COLUMNS).struct(row.value))

    return read


def webhooks(data: bytes) -> None:
    """Check that a webhook is an event, the verification or a WebhookError."""
    with contextlib.suppress(WebhookError):
        event = parse(data)
        if isinstance(event, Event):
            assert len(event.deduplication_key or 64 * " ") == 64
            with contextlib.suppress(InvalidInputError):
                transaction_event(event, external_profile_id="u1")


JOURNAL = a_journal()
READERS = {
    "answers": answers,
    "errors": errors,
    "waits": waits,
    "journal": journal,
    "csv": files("csv"),
    "ndjson": files("ndjson"),
    "text": files("text"),
    "webhooks": webhooks,
}


def main(name: str, *options: str) -> None:
    """
    Run a parser as long as the options say; keep inputs that reach new code.

    The run starts with the inputs in `seeds`: the fuzzer does not instrument msgspec, and finds no
    JSON.
    """
    corpus = HERE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    folders = map(os.fspath, (corpus, HERE / "seeds" / name))
    atheris.Setup([sys.argv[0], "-max_len=4096", *options, *folders], READERS[name])
    atheris.Fuzz()


main(*sys.argv[1:])
