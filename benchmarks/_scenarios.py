"""Scenarios of the goodput benchmark: rate limits, and the targets of a bulk delete."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from benchmarks._limit_models import LimitSettings, Outage, Rates
from benchmarks._limited_server import ServerSettings

__all__ = ("SCENARIOS", "Scenario")


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """
    A server, a number of deletes, and the configuration of the clients.

    Attributes:
        items: the number of deletes.
        limit: the rate limit of the server.
        targets: upper bounds for our own client, by the names of `Run`'s measures.
        latency: seconds from a request to its response.
        retry_after: seconds in the `Retry-After` header of a 429, None for no header.
        in_flight: requests in flight that rivals are configured with if their default is too small
            for the limit at that latency; None leaves their default.
        rate: the option `rate=` of our client, in requests per second; None leaves it out.
    """

    name: str
    items: int
    limit: LimitSettings
    targets: Mapping[str, float]
    latency: float = 0.02
    retry_after: int | None = 1
    in_flight: int | None = None
    rate: float | None = None

    @property
    def ideal(self) -> float:
        """The seconds in which the limit admits all deletes."""
        return self.limit.ideal(self.items)

    @property
    def first_rate(self) -> float:
        """The initial limit, in requests per second, for clients configured with it."""
        return self.limit.rates.steps[0][1]

    def server(self, seed: int) -> ServerSettings:
        """Return the settings of the server."""
        return ServerSettings(
            items=self.items,
            limit=self.limit,
            latency=self.latency,
            retry_after=self.retry_after,
            seed=seed,
        )

    def shortened(self, seconds: float) -> Scenario:
        """Return the same scenario with an ideal of `seconds`."""
        factor = seconds / self.ideal
        limit = self.limit.scaled(factor)
        return msgspec.structs.replace(self, items=round(self.items * factor), limit=limit)

    def __str__(self) -> str:
        parts = [
            ", ".join(_rate_from(*step) for step in self.limit.rates.steps),
            "in each second" if self.limit.burst is None else f"burst {self.limit.burst:g}",
            f"{self.latency * 1000:g} ms",
            "no Retry-After" if self.retry_after is None else f"Retry-After {self.retry_after}",
        ]
        if self.limit.outage is not None:
            outage = self.limit.outage
            parts.append(f"503 from second {outage.start:.3g} to {outage.end:.3g}")
        if self.in_flight is not None:
            parts.append(f"rivals with {self.in_flight} in flight")
        if self.rate is not None:
            parts.append(f"ours with rate={self.rate:g}")
        return f"{', '.join(parts)}; {self.items:,} deletes, ideal {self.ideal:.1f} s"


def _rate_from(start: float, rate: float) -> str:
    return f"{rate:,.0f}/s" + (f" from second {start:.3g}" if start else "")


def _bucket(
    *steps: tuple[float, float], burst: float, outage: Outage | None = None
) -> LimitSettings:
    return LimitSettings(rates=Rates(steps), burst=burst, outage=outage)


_USUAL = _bucket((0.0, 400.0), burst=40)
_ALWAYS = {"failed": 0, "most_throttled": 3}
_CLOSE = _ALWAYS | {"slowness": 1.03, "throttled": 0.01}
_NEAR = _ALWAYS | {"slowness": 1.10, "throttled": 0.02}
_ENOUGH = 256  # 5,000/s at 20 ms are 100 in flight, 400/s at 300 ms 120; and some to spare

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="basic", items=24_000, limit=_USUAL, targets=_CLOSE),
        Scenario(
            name="no-retry-after", items=24_000, limit=_USUAL, targets=_NEAR, retry_after=None
        ),
        Scenario(name="slow", items=1_500, limit=_bucket((0.0, 25.0), burst=2.5), targets=_NEAR),
        Scenario(
            name="fast",
            items=150_000,
            limit=_bucket((0.0, 5_000.0), burst=500),
            targets=_NEAR,
            in_flight=_ENOUGH,
        ),
        Scenario(
            name="far",
            items=24_000,
            limit=_USUAL,
            targets=_NEAR,
            latency=0.3,
            in_flight=_ENOUGH,
        ),
        Scenario(
            name="window",
            items=24_000,
            limit=LimitSettings(rates=Rates(((0.0, 400.0),)), burst=None),
            targets=_NEAR,
        ),
        Scenario(
            name="moving",
            items=24_000,
            limit=_bucket((0.0, 400.0), (20.0, 150.0), (40.0, 800.0), burst=40),
            targets=_NEAR,
        ),
        Scenario(
            name="outage",
            items=24_000,
            limit=_bucket((0.0, 400.0), burst=40, outage=Outage(30.0, 60.0)),
            targets=_ALWAYS | {"unavailable": 0.01, "back_after": 3.0},
        ),
        Scenario(
            name="told",
            items=24_000,
            limit=_USUAL,
            targets=_CLOSE | {"throttled": 0.0},
            rate=400.0,
        ),
    )
}
