"""
The asyncio client for Adapty's HTTP APIs.

Where to find what:

- `AdaptyClient` (server-side API) and `AdaptyMailClient` (Mail API) are where everything starts.
- `adapty_async.v2`, `adapty_async.v1` and `adapty_async.mail` hold the structs that go in and come
  out.
- `adapty_async.bulk` runs one call for each of very many items and accounts for all of them.
- `adapty_async.errors` is the tree of errors, `adapty_async.config` the policies.
- `adapty_async.sandbox` is all of these APIs on this machine, for demos and tests.
"""

from __future__ import annotations

from msgspec import UNSET

from adapty_async._api.operation import Operation
from adapty_async._version import __version__
from adapty_async.bulk import BulkReport, BulkRun, Outcome, OutcomeStatus
from adapty_async.client import AdaptyClient, AdaptyMailClient
from adapty_async.config import Limits, RetryPolicy
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    ConflictError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    DecodeError,
    InvalidInputError,
    JournalError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
    TransportError,
)
from adapty_async.mail import DeviceInfo, MailProfile, Offer, TransactionEvent
from adapty_async.v1 import InstallationMeta

__all__ = (
    "UNSET",
    "AdaptyClient",
    "AdaptyError",
    "AdaptyMailClient",
    "ApiError",
    "AuthenticationError",
    "BulkReport",
    "BulkRun",
    "CircuitOpenError",
    "ConfigError",
    "ConflictError",
    "ConnectError",
    "ConnectionLostError",
    "DeadlineError",
    "DecodeError",
    "DeviceInfo",
    "InstallationMeta",
    "InvalidInputError",
    "JournalError",
    "Limits",
    "MailProfile",
    "NotFoundError",
    "Offer",
    "Operation",
    "Outcome",
    "OutcomeStatus",
    "RateLimitError",
    "RequestRejectedError",
    "RequestTimeoutError",
    "RetryPolicy",
    "ServerError",
    "TransactionEvent",
    "TransportError",
    "__version__",
)
