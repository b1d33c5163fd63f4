"""
A registry of fork handlers, which reset a forked child before any other code runs in it.

A fork copies everything but the threads: connections whose responses belong to the parent, a
journal that the parent writes to, locks held by threads that no longer exist, and counts of
requests whose responses the child never receives. Each owner of such a resource resets it in its
handler. So no call has to compare the process id.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Any, Protocol


class ForkAware(Protocol):
    """An object with resources that a forked child must not share with its parent."""

    def after_fork(self) -> None:
        """Drop these resources, in the child."""
        ...


_fork_handlers: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_inherited: list[object] = []


def register_fork_handler(resource: ForkAware) -> None:
    """Register an object whose `after_fork` runs in every forked child."""
    _fork_handlers.add(resource)


def keep_inherited(resource: object) -> None:
    """Keep a resource of the parent in a forked child: its collection would close connections."""
    _inherited.append(resource)


def _after_fork() -> None:
    for resource in tuple(_fork_handlers):
        resource.after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch  Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


class SocketFactory:
    """
    A factory that makes sockets and closes the copies of them in a forked child.

    In the child, the sockets look as if the server had closed them. Their file descriptors stay
    in use, so a later close of one closes no other file. The child sends nothing over the
    connections and does not change the parent's selector.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        register_fork_handler(self)

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        """Make a socket for an address in the format of `socket.getaddrinfo`."""
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._made.add(made)
        return made

    def __contains__(self, made: object) -> bool:
        return made in self._made

    def after_fork(self) -> None:
        """Replace the copies with closed sockets."""
        closed, other = socket.socketpair()
        other.close()
        with closed:
            for made in self._made:
                with contextlib.suppress(OSError):  # it may be closed already
                    os.dup2(closed.fileno(), made.fileno(), inheritable=False)


def is_client_socket(made: object) -> bool:
    """Return whether a socket factory, and so a client, made a socket."""
    factories = (each for each in tuple(_fork_handlers) if isinstance(each, SocketFactory))
    return any(made in factory for factory in factories)
