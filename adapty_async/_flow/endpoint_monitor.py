"""A monitor that finds endpoints with a lower rate limit than the bucket they belong to."""

from __future__ import annotations

import msgspec

# 429 responses to one operation without a success, and successes of others meanwhile, that show a
# limit of its own, unless the others are throttled too, up to a share of their successes: a bucket
# that is overloaded rejects all operations alike.
_OWN_LIMIT = 5
_OVERLOAD = 0.2


class Suspicion(msgspec.Struct):
    """
    Counts since the first 429 of an operation that had no success since.

    Attributes:
        limit: the measured limit of the bucket at that time.
        throttled: 429 responses to the operation.
        others_worked: successes of other operations of the bucket.
        others_throttled: 429 responses to these.
    """

    limit: float | None
    throttled: int = 0
    others_worked: int = 0
    others_throttled: int = 0

    @property
    def is_confirmed(self) -> bool:
        """Whether the operation is throttled, and the bucket is not overloaded."""
        return (
            min(self.throttled, self.others_worked) >= _OWN_LIMIT
            and self.others_throttled <= _OVERLOAD * self.others_worked
        )


class EndpointMonitor:
    """
    A monitor of the endpoints of one bucket, which finds those with a lower limit of their own.

    Adapty's documentation says that some have one. The requests of such an endpoint are throttled
    while others of the bucket succeed. Its 429 responses say nothing about the bucket.

    Attributes:
        separate: operations that have their own limit.
        suspicions: operations that were throttled and had no success since.
    """

    def __init__(self) -> None:
        self.separate: set[str] = set()
        self.suspicions: dict[str, Suspicion] = {}

    def record_success(self, operation: str) -> None:
        """Record a success of an operation, which ends the suspicion against it."""
        self.suspicions.pop(operation, None)
        for each in self.suspicions.values():
            each.others_worked += 1

    def record_throttled(self, operation: str, limit: float | None) -> Suspicion | None:
        """Record a 429 response; return the suspicion if it shows a limit of the operation."""
        for name, each in self.suspicions.items():
            each.others_throttled += name != operation
        suspicion = self.suspicions.setdefault(operation, Suspicion(limit))
        suspicion.throttled += 1
        if operation in self.separate or not suspicion.is_confirmed:
            return None
        self.separate.add(operation)
        return suspicion

    def __repr__(self) -> str:
        return f"EndpointMonitor(separate={sorted(self.separate)})"
