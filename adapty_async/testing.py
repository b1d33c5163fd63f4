"""
Fakes of the transport, the clock and the journal, for tests of code that calls Adapty.

Example:
    >>> transport = FakeTransport([ConnectionLostError("gone"), (204, {}, b"")])
    >>> async with AdaptyClient("secret_live_key", transport=transport) as adapty:
    ...     await adapty.v1.profiles.delete(customer_user_id="u1")
    >>> [request.method for request in transport.requests]
    ['DELETE', 'DELETE']

A `MemoryJournal` is the ``journal`` of bulk runs: runs with the same object resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from adapty_async._api.call import Request, Response
from adapty_async._journal import MemoryJournal
from adapty_async.errors import AdaptyError

__all__ = ("FakeClock", "FakeTransport", "MemoryJournal", "Reply")

#: A response as its status, headers and body, or an exception that is raised instead.
Reply: TypeAlias = tuple[int, Mapping[str, str], bytes] | BaseException


class FakeTransport:
    """
    A fake transport that returns scripted responses and records the requests.

    Args:
        replies: one for each request, in order; may be endless, such as `itertools.repeat`.

    Attributes:
        requests: every request that it received, in order.
    """

    def __init__(self, replies: Iterable[Reply] = ()) -> None:
        self.requests: list[Request] = []
        self._replies = iter(replies)

    async def __call__(self, request: Request) -> Response:
        """
        Return the next response of the script, or raise its exception.

        Raises:
            AssertionError: the script has no further reply.
        """
        self.requests.append(request)
        reply = next(self._replies, None)
        if reply is None:
            raise AssertionError(
                f"request {len(self.requests)} ({request.operation}) has no reply in the script"
            )
        if isinstance(reply, AdaptyError):
            reply.operation = request.operation
        if isinstance(reply, BaseException):
            raise reply
        status, headers, body = reply
        # a dictionary does not ignore the case of names, as the real transport's headers do
        return Response(status, {name.title(): text for name, text in headers.items()}, body)

    def __repr__(self) -> str:
        return f"FakeTransport({len(self.requests)} requests)"


class FakeClock:
    """
    A fake clock that advances only when its `sleep` is called, and then immediately.

    Attributes:
        now: seconds that the clock returns; set it to let time pass.
        sleeps: every requested sleep, in seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Advance the clock by *n* seconds without waiting."""
        self.sleeps.append(seconds)
        self.now += seconds

    def __repr__(self) -> str:
        return f"FakeClock({self.now})"
