"""
The types of transports and middlewares.

A transport is a function from a request to its response, passed as ``transport=``. A middleware is
a function around each attempt, passed to `adapty_async.AdaptyClient.add_middleware`.
`adapty_async.testing.FakeTransport` is a transport for unit tests.
"""

from __future__ import annotations

from adapty_async._api.call import Headers, Middleware, Request, Response, Send

__all__ = ("Headers", "Middleware", "Request", "Response", "Send")
