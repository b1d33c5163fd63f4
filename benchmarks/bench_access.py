"""
A benchmark of a hit in the cache of profiles: processor time of one lookup, by percentile.

Run it as ``python -m benchmarks.bench_access``. The cache holds 10,000 users, each with three
access levels, and lookups are of random users.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time

from adapty_async import AdaptyClient
from adapty_async.access import AccessCache
from adapty_async.transport import Request, Response

__all__ = ("main",)

_USERS = 10_000
_LOOKUPS = 200_000


async def _respond(_request: Request) -> Response:
    levels = [{"access_level_id": name} for name in ("basic", "extra", "premium")]
    fields = {"profile_id": "p", "customer_user_id": "u", "access_levels": levels}
    return Response(200, {}, json.dumps({"data": fields}).encode())


async def _times(level: str) -> list[int]:
    """Return the processor time of each lookup, in nanoseconds, without that of the clock."""
    users = [f"user_{number}" for number in range(_USERS)]
    async with (
        AdaptyClient("key", transport=_respond) as client,
        AccessCache(client, ttl=3600) as cache,
    ):
        for user in users:
            await cache.has_access(level, customer_user_id=user)
        clock = time.thread_time_ns
        overhead = statistics.median(-clock() + clock() for _ in range(1000))
        times = []
        for user in random.choices(users, k=_LOOKUPS):
            begin = clock()
            await cache.has_access(level, customer_user_id=user)
            times.append(clock() - begin - int(overhead))
    return times


def main() -> None:
    """Print the percentiles."""
    for level, what in (("premium", "with access"), ("none", "without access")):
        times = sorted(asyncio.run(_times(level)))
        shown = (
            f"p{part:g} {times[int(_LOOKUPS * part / 100)] / 1000:.1f}" for part in (50, 99, 99.9)
        )
        print(f"a hit, {what}: {', '.join(shown)} µs of processor time")


if __name__ == "__main__":
    main()
