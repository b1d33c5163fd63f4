"""
Endpoint definitions in public use: for calls that the library does not list.

An `Endpoint` says what the library has to know of an operation. Called with the values of a call,
it returns an `Operation`, which `adapty_async.AdaptyClient.execute` and
`adapty_async.AdaptyClient.bulk` take. Retries, limits, hooks, journals and reports are those of
every other call.
"""

from __future__ import annotations

from adapty_async._api.call import Endpoint, Operation, RetrySafety
from adapty_async._api.results import RawResponse, json_decoder, no_result

__all__ = (
    "Endpoint",
    "Operation",
    "RawResponse",
    "RetrySafety",
    "json_decoder",
    "no_result",
)
