"""The numbers of options: `float` and `click.FloatRange` accept NaN and infinity too."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ("RATE", "SECONDS", "FiniteRange")


class FiniteRange(click.FloatRange):
    """A parameter that is a finite number in a range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number of a text; other text is a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


#: Requests per second; with fewer, a run would take years.
RATE = FiniteRange(min=0.001)
#: Seconds that are waited.
SECONDS = FiniteRange(min=0.001)
