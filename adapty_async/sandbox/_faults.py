"""
A fault injector: scripted faults first, then a seeded random choice. It does no I/O.

A fault is a status from 400 up as text (`"500"`, with the API's error body), a status with
`-html` (`"502-html"`, a gateway's page), or one of `reset`, `reset_after` and `stall`.
"""

from __future__ import annotations

import math
from collections import deque
from http import HTTPStatus
from itertools import accumulate
from random import Random

import msgspec

_ON_THE_WIRE = frozenset({"reset", "reset_after", "stall"})
_ERRORS = tuple(f"{status}{suffix}" for status in (500, 502, 503, 504) for suffix in ("", "-html"))


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """
    The share of requests, between 0 and 1 inclusive, for each kind of fault.

    Attributes:
        error: the response is a 500, 502, 503 or 504, and the operation is not carried out.
        reset: the TCP connection is reset before the operation is carried out.
        reset_after: the operation is carried out, then the connection is reset.
        stall: no response comes until the client disconnects or the server stops; the operation
            is not carried out.
        throttled: the response is a 429, whatever the rate, and the operation is not carried out.
    """

    error: float = 0.0
    reset: float = 0.0
    reset_after: float = 0.0
    stall: float = 0.0
    throttled: float = 0.0  # last: a share of 0 leaves the choices of the others as they are

    def __post_init__(self) -> None:
        """
        Check the shares.

        Raises:
            ValueError: a share is not between 0 and 1, or they add up to more than 1.
        """
        for name, share in msgspec.structs.asdict(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: a share must be between 0 and 1")
        if math.fsum(msgspec.structs.astuple(self)) > 1:  # sum() adds rounding errors
            raise ValueError(f"{self}: the shares must add up to no more than 1")

    @classmethod
    def parse(cls, spec: str) -> Faults:
        """
        Parse shares such as ``error=5%,reset=0.02``; an empty string means no faults.

        Raises:
            ValueError: a part is wrong; the message names the part and the rule.
        """
        shares: dict[str, float] = {}
        for part in filter(None, map(str.strip, spec.split(","))):
            name, _, share = map(str.strip, part.partition("="))
            if name not in cls.__struct_fields__:
                names = ", ".join(cls.__struct_fields__)
                raise ValueError(f"{part!r}: the fault must be one of {names}")
            if name in shares:
                raise ValueError(f"{part!r}: a fault must be given once")
            shares[name] = _share(part, share)
        return cls(**shares)


def _share(part: str, text: str) -> float:
    scale = 100 if text.endswith("%") else 1
    try:
        return float(text.removesuffix("%")) / scale
    except ValueError:
        raise ValueError(
            f"{part!r}: the share must be a number such as 0.05, or a percentage such as 5%"
        ) from None


class FaultPlan:
    """A sequence of faults, one for each request, and the latency of the responses."""

    def __init__(self, faults: Faults, seed: int = 0, latency: float = 0.0) -> None:
        """
        Start the sequence that belongs to `seed`; `latency` is in seconds.

        Raises:
            ValueError: the latency is not a number from 0 up.
        """
        self._scripted: deque[str] = deque()
        self._random = Random(seed)  # noqa: S311 - repeatable is the point
        self.set_faults(faults)
        self.set_latency(latency)

    def set_faults(self, faults: Faults) -> None:
        """Replace the shares; the sequence of random numbers continues."""
        self.faults = faults
        self._edges = tuple(
            zip(accumulate(msgspec.structs.astuple(faults)), faults.__struct_fields__, strict=True)
        )

    def set_latency(self, latency: float) -> None:
        """
        Replace the seconds between an operation and its response.

        Raises:
            ValueError: it is not a number from 0 up.
        """
        if not 0 <= latency < math.inf:
            raise ValueError(f"latency={latency}: must be 0 seconds or more")
        self.latency = latency

    @property
    def scripted(self) -> list[str]:
        """The faults of the next requests, in order."""
        return list(self._scripted)

    def script(self, *names: str) -> None:
        """
        Assign these faults to the next requests, in order.

        Raises:
            ValueError: a name is not a fault; none of them is assigned.
        """
        for name in names:
            _check_name(name)
        self._scripted.extend(names)

    def draw(self) -> str | None:
        """Return the fault of the next request, `None` for no fault."""
        if self._scripted:
            return self._scripted.popleft()
        drawn = self._random.random()
        for edge, name in self._edges:
            if drawn < edge:
                return self._fault(name)
        return None

    def _fault(self, name: str) -> str:
        if name == "throttled":
            return str(HTTPStatus.TOO_MANY_REQUESTS.value)
        return self._random.choice(_ERRORS) if name == "error" else name


def _check_name(name: str) -> None:
    if name in _ON_THE_WIRE:
        return
    try:
        known = HTTPStatus(int(name.removesuffix("-html"))) >= HTTPStatus.BAD_REQUEST
    except (AttributeError, ValueError):  # the first of a number in place of its text
        known = False
    if not known:
        raise ValueError(
            f"{name!r}: a fault must be reset, reset_after, stall, or a status from 400 up "
            "such as '503' or '502-html'"
        )
