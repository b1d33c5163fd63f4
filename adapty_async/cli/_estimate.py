"""An estimate of the time that a run takes, for its dry run."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from adapty_async._runtime.words import duration_text
from adapty_async.cli._earlier import EarlierRuns

__all__ = ("Estimate", "estimate_of")

# The request rate of the example if none is known.
_EXAMPLE_RATE = 100.0


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


def estimate_of(rows: int, rate: float | None, earlier: EarlierRuns) -> Estimate:
    """Return the estimate for rows that are to be sent; the lower one of two known rates counts."""
    if earlier.rate is not None and (rate is None or earlier.rate < rate):
        return Estimate(rows=rows, rate=earlier.rate, basis="journal")
    return Estimate(rows=rows, rate=rate, basis="unknown" if rate is None else "rate")
