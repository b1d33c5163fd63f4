"""
Stand-ins for the network and the clock, so that tests of code that calls Adapty never wait.

Example:
    >>> transport = FakeTransport([ConnectionLostError("gone"), (204, {}, b"")])
    >>> async with AdaptyClient("secret_live_key", transport=transport) as adapty:
    ...     await adapty.v1.profiles.delete(customer_user_id="u1")
    >>> [request.method for request in transport.requests]
    ['DELETE', 'DELETE']

A `MemoryJournal` is given to bulk runs as their ``journal``: those with the same one resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from adapty_async._api.operation import Request, Response
from adapty_async._journal import MemoryJournal
from adapty_async.errors import AdaptyError

__all__ = ("FakeClock", "FakeTransport", "MemoryJournal", "Reply")

#: An answer as its status, headers and body, or what is raised instead of one.
Reply: TypeAlias = tuple[int, Mapping[str, str], bytes] | BaseException


class FakeTransport:
    """
    A transport that answers from a script and remembers what it was asked.

    Args:
        replies: one for each request, in order; may be endless, as `itertools.repeat` is.

    Attributes:
        requests: every request it was given, in order.
    """

    def __init__(self, replies: Iterable[Reply] = ()) -> None:
        self.requests: list[Request] = []
        self._replies = iter(replies)

    async def __call__(self, request: Request) -> Response:
        """
        Give the next reply of the script.

        Raises:
            AssertionError: the script has come to its end.
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
        # the real transport looks names up in any case; the library asks for them in this one
        return Response(status, {name.title(): text for name, text in headers.items()}, body)

    def __repr__(self) -> str:
        return f"FakeTransport({len(self.requests)} requests)"


class FakeClock:
    """
    A clock that moves only when somebody sleeps by it, and then at once.

    Attributes:
        now: seconds, as calling the clock gives them; set it to let time pass.
        sleeps: every wait that was asked for, in seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let that much time pass without waiting for it."""
        self.sleeps.append(seconds)
        self.now += seconds

    def __repr__(self) -> str:
        return f"FakeClock({self.now})"
