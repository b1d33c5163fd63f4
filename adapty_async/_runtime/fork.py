"""
What a forked process must not share with the one it was copied from.

A fork copies everything but the threads: connections whose answers are the parent's, a journal that
the parent writes to, locks that a thread held which is not there any more, counts of requests that
the copy will never see answered. What has such things lets go of them here, before any other code
runs in the new process. So nothing needs to look at the process' number before each call.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Any, Protocol

__all__ = ("ForkAware", "SocketFactory", "register_fork_handler")


class ForkAware(Protocol):
    """What has something that is not to be shared."""

    def after_fork(self) -> None:
        """Let go of it, in the new process."""
        ...


_forkables: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register_fork_handler(thing: ForkAware) -> None:
    """Have a thing let go of what is not to be shared, in every process that is forked."""
    _forkables.add(thing)


def _after_fork() -> None:
    for thing in tuple(_forkables):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch  Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


class SocketFactory:
    """
    Makes sockets, and takes a forked process its copies of them.

    There, they look as if the server had closed them. The numbers of their files stay taken, so
    that whoever still has one closes nothing else by it; and nothing is said over the connection,
    nor to what the parent waits with, when they are closed.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        register_fork_handler(self)

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        """Make a socket for an address as `socket.getaddrinfo` gives it."""
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._made.add(made)
        return made

    def after_fork(self) -> None:
        """Close the copies."""
        closed, other = socket.socketpair()
        other.close()
        with closed:
            for made in self._made:
                with contextlib.suppress(OSError):  # it may be closed already
                    os.dup2(closed.fileno(), made.fileno(), inheritable=False)
