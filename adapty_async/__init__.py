"""
An asyncio client for Adapty's HTTP APIs.

- `AdaptyClient` (server-side and web API), `AdaptyMailClient` (Mail API) and `AdaptyExportClient`
  (export analytics API) are the entry points.
- `adapty_async.v2`, `adapty_async.v1`, `adapty_async.web`, `adapty_async.mail` and
  `adapty_async.export` have the structs of requests and results.
- `adapty_async.endpoints` has what a call needs that the library does not list.
- `adapty_async.bulk` has bulk runs: one call for each of a large number of items, and a report.
- `adapty_async.report` writes a report of a run's journal, as evidence.
- `adapty_async.errors` has the errors, `adapty_async.config` the policies.
- `adapty_async.transport` has the types of a transport, `adapty_async.testing` one for unit tests.
- `adapty_async.webhooks` receives Adapty's webhooks, `adapty_async.access` caches access levels.
- `adapty_async.sandbox` is a local server of these APIs, for demos and tests.
"""

from __future__ import annotations

from msgspec import UNSET

from adapty_async._api.call import Endpoint, Operation, RetrySafety
from adapty_async._api.results import RawResponse
from adapty_async._version import __version__
from adapty_async.bulk import BulkReport, BulkRun, Outcome, OutcomeStatus
from adapty_async.client import AdaptyClient, AdaptyExportClient, AdaptyMailClient
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
    ExportError,
    InvalidInputError,
    JournalError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
    StoreError,
    TransportError,
    WebhookError,
)
from adapty_async.mail import DeviceInfo, MailProfile, Offer, TransactionEvent
from adapty_async.v1 import InstallationMeta

__all__ = (
    "UNSET",
    "AdaptyClient",
    "AdaptyError",
    "AdaptyExportClient",
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
    "Endpoint",
    "ExportError",
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
    "RawResponse",
    "RequestRejectedError",
    "RequestTimeoutError",
    "RetryPolicy",
    "RetrySafety",
    "ServerError",
    "StoreError",
    "TransactionEvent",
    "TransportError",
    "WebhookError",
    "__version__",
)
