"""
The types of a transport: a function from a request to its response, passed as ``transport=``.

`adapty_async.testing.FakeTransport` is a transport for unit tests.
"""

from __future__ import annotations

from adapty_async._api.operation import Headers, Request, Response, Send

__all__ = ("Headers", "Request", "Response", "Send")
