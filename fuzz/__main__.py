"""
Feed bytes to the readers until one of them does what it must not do.

`make fuzz` runs this for a minute; options of libFuzzer may follow:

    .venv/bin/python -m fuzz -max_total_time=600 fuzz/corpus
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["adapty_async", "csv", "email", "gzip"]):
    from adapty_async import mail, v1
    from adapty_async._codec import decode, error_from, parse_retry_after
    from adapty_async._operation import Operation, Response
    from adapty_async.cli._input import open_rows
    from adapty_async.cli._items import id_columns, id_from, profile_from
    from adapty_async.errors import ApiError, DecodeError, InvalidInputError

ENDPOINTS = (v1.GET_PROFILE, v1.DELETE_PROFILE, mail.SAVE_PROFILE)
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def answers(data: bytes) -> None:
    """
    A successful answer is a result or a DecodeError.
    """
    for endpoint in ENDPOINTS:
        with contextlib.suppress(DecodeError):
            decode(Operation(endpoint), Response(200, {}, data))


def errors(data: bytes) -> None:
    """
    Any other answer is an ApiError whose text is one line of ASCII.
    """
    provider = atheris.FuzzedDataProvider(data)
    status = provider.ConsumeIntInRange(300, 999)
    names = ("Retry-After", "Date", "Request-Id")
    headers = {name: provider.ConsumeUnicode(40) for name in names}
    error = error_from("fuzz.call", Response(status, headers, provider.ConsumeBytes(1 << 16)))
    assert isinstance(error, ApiError)
    assert str(error).isascii()
    assert str(error).isprintable()
    assert error.retry_after is None or 0.0 <= error.retry_after < math.inf


def waits(data: bytes) -> None:
    """
    A Retry-After is a finite number of seconds, or nothing.
    """
    text = data.decode("latin-1")
    value, _, date = text.partition("\n")
    seconds = parse_retry_after(value, date)
    assert seconds is None or 0.0 <= seconds < math.inf


def files(form: str) -> Callable[[bytes], None]:
    """
    Make a reader of input files: rows, each of which is usable or refused by name.
    """

    def read(data: bytes) -> None:
        path = FOLDER / form
        path.write_bytes(data)
        with contextlib.suppress(InvalidInputError):
            for row in open_rows(os.fspath(path), form, id_columns("id")):  # type: ignore[arg-type]
                assert row.line > 0
                if row.broken is None:
                    with contextlib.suppress(InvalidInputError):
                        mail.delete_profile(email=id_from(row.value, "id"))
                    with contextlib.suppress(InvalidInputError):
                        mail.save_profile(profile_from(row.value))

    return read


READERS: tuple[Callable[[bytes], None], ...] = (
    answers,
    errors,
    waits,
    files("csv"),
    files("ndjson"),
    files("text"),
)


def one(data: bytes) -> None:
    """
    Let the first byte choose who reads the rest.
    """
    if data:
        READERS[data[0] % len(READERS)](data[1:])


atheris.Setup(sys.argv, one)
atheris.Fuzz()
