"""
A benchmark of encoding a Mail profile and decoding a profile, compared with json, orjson, pydantic.

Run it as ``python -m benchmarks.bench_codec``. Times are processor time, the minimum of several
rounds, since any excess has other causes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
import timeit
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from adapty_async.mail import SAVE_PROFILE
from adapty_async.v1 import GET_PROFILE
from adapty_async.v2 import GET_PROFILE as GET_PROFILE_V2
from benchmarks._machine import CLIENT, describe, pin
from benchmarks._options import options
from benchmarks._ours import mail_profile
from benchmarks._results import read, record
from benchmarks._samples import PROFILE_V1, PROFILE_V2, mail_fields

__all__ = ("NAME", "Row", "main")

NAME = "codec"
_ID = "user_1"
Ways = dict[str, Callable[[], Any]]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The time of one implementation of a task, in microseconds."""

    task: str
    way: str
    size: int
    time: float

    @property
    def key(self) -> str:
        """The key that identifies the same implementation in another recording."""
        return f"{self.task}, {self.way}"


def _plain() -> Mapping[str, Ways]:
    """Return the implementations that need only this library."""
    profile, fields = mail_profile(_ID), mail_fields(_ID)
    return {
        "make a Mail profile": {
            "ours, checked": lambda: mail_profile(_ID),
            "dict, unchecked": lambda: mail_fields(_ID),
        },
        "encode a Mail profile": {
            "ours": lambda: SAVE_PROFILE.encode(profile),
            "json, of a dict": lambda: json.dumps(fields).encode(),
        },
        "decode a profile of version 1": {
            "ours, typed": lambda: GET_PROFILE.decode(PROFILE_V1),
            "json, to a dict": lambda: json.loads(PROFILE_V1)["data"],
        },
        "decode a profile of version 2": {
            "ours, typed": lambda: GET_PROFILE_V2.decode(PROFILE_V2),
            "json, to a dict": lambda: json.loads(PROFILE_V2)["data"],
        },
    }


def _orjson() -> Mapping[str, Ways]:
    import orjson  # noqa: PLC0415  in the dependency group "bench" only, as pydantic

    fields = mail_fields(_ID)
    return {
        "encode a Mail profile": {"orjson, of a dict": lambda: orjson.dumps(fields)},
        "decode a profile of version 1": {
            "orjson, to a dict": lambda: orjson.loads(PROFILE_V1)["data"]
        },
        "decode a profile of version 2": {
            "orjson, to a dict": lambda: orjson.loads(PROFILE_V2)["data"]
        },
    }


def _pydantic() -> Mapping[str, Ways]:
    from benchmarks import _models  # noqa: PLC0415

    fields = mail_fields(_ID)
    profile = _models.MAIL_PROFILE(**fields)
    decode = _models.ANSWER.model_validate_json
    validate = _models.ANSWER.model_validate
    return {
        "make a Mail profile": {"pydantic, checked": lambda: _models.MAIL_PROFILE(**fields)},
        "encode a Mail profile": {"pydantic": lambda: profile.model_dump_json().encode()},
        "decode a profile of version 2": {
            "pydantic, typed": lambda: decode(PROFILE_V2).data,
            "json and pydantic, typed": lambda: validate(json.loads(PROFILE_V2)).data,
        },
    }


def _ways() -> Mapping[str, Ways]:
    ways = {task: dict(plain) for task, plain in _plain().items()}
    for package, others in (("orjson", _orjson), ("pydantic", _pydantic)):
        if importlib.util.find_spec(package) is None:
            print(f"{package}: left out, it is not installed (pip install --group bench)")
            continue
        for task, more in others().items():
            ways[task] |= more
    return ways


def _sizes() -> Mapping[str, int]:
    mail = len(SAVE_PROFILE.encode(mail_profile(_ID)))
    return {
        "make a Mail profile": mail,
        "encode a Mail profile": mail,
        "decode a profile of version 1": len(PROFILE_V1),
        "decode a profile of version 2": len(PROFILE_V2),
    }


def main() -> None:
    """Measure all implementations and print their times."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    number, rounds = (100, 3) if chosen.quick else (5_000, chosen.rounds)
    pin(os.getpid(), CLIENT)
    recorded = read(NAME, Row)
    before = {} if recorded is None else {row.key: row.time for row in recorded.rows}
    sizes = _sizes()
    print(f"{describe()}\n\n{'':<58}{'bytes':>8}{'µs':>8}{'of ours':>9}{'recorded':>10}")
    rows = []
    for task, ways in _ways().items():
        timers = {way: timeit.Timer(run, timer=time.process_time) for way, run in ways.items()}
        turns = [
            {way: timer.timeit(number) for way, timer in timers.items()} for _ in range(rounds)
        ]
        times = {way: min(turn[way] for turn in turns) / number * 1e6 for way in ways}
        ours = next(iter(times.values()))
        for way, took in times.items():
            rows.append(Row(task=task, way=way, size=sizes[task], time=took))
            then = before.get(rows[-1].key)
            line = f"{task:<32}{way:<26}{sizes[task]:>8,}{took:>8.2f}{took / ours:>9.2f}"
            print(line if then is None else f"{line}{then:>10.2f}", flush=True)
    if chosen.record:
        record(NAME, rows)


if __name__ == "__main__":
    main()
