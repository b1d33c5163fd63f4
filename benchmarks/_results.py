"""A store of results in JSON files."""

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
    The results of a benchmark, with the machine and the server.

    Attributes:
        server: the description of the server, None without one.
    """

    recorded: dt.date
    machine: str
    server: str | None
    rows: list[RowT]


def record(name: str, rows: Sequence[Any], server: str | None = None) -> None:
    """Write the results of a benchmark to its file."""
    today = dt.datetime.now(dt.UTC).date()
    recording = Recording(recorded=today, machine=describe(), server=server, rows=list(rows))
    FOLDER.mkdir(exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(recording))
    (FOLDER / f"{name}.json").write_bytes(content + b"\n")


def read(name: str, row: type[RowT]) -> Recording[RowT] | None:
    """Return the last recording, None if there is none."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return None
    recording: Recording[RowT] = msgspec.json.decode(path.read_bytes(), type=Recording[row])  # type: ignore[valid-type]
    return recording
