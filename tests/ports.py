"""A port for a server that starts later, or again after it was killed."""

from __future__ import annotations

import socket

__all__ = ("held_port",)


def held_port() -> socket.socket:
    """
    Bind a free port of 127.0.0.1, which no other program gets as long as the socket is open.

    Nothing listens there, so that connections are refused. A server that sets SO_REUSEADDR, as
    most do, can listen all the same.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
