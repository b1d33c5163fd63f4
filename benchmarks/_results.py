"""Results as files: what was recorded last, and what is recorded now."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from benchmarks._machine import describe

__all__ = ("FOLDER", "Recording", "read", "record")

RowT = TypeVar("RowT")

FOLDER = Path(__file__).parent / "results"


class Recording(msgspec.Struct, Generic[RowT], frozen=True, kw_only=True):
    """
    What a benchmark gave, and where.

    Attributes:
        server: what answered, None if nothing had to.
    """

    recorded: dt.date
    machine: str
    server: str | None
    rows: list[RowT]


def record(name: str, rows: Sequence[Any], server: str | None = None) -> None:
    """Write a benchmark's results down."""
    today = dt.datetime.now(dt.UTC).date()
    recording = Recording(recorded=today, machine=describe(), server=server, rows=list(rows))
    FOLDER.mkdir(exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(recording))
    (FOLDER / f"{name}.json").write_bytes(content + b"\n")


def read(name: str, row: type[RowT]) -> Recording[RowT] | None:
    """Return what was recorded last, None if nothing was."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return None
    recording: Recording[RowT] = msgspec.json.decode(path.read_bytes(), type=Recording[row])  # type: ignore[valid-type]
    return recording
