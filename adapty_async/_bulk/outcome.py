"""The results of a bulk run: outcomes, a report whose counts add up, and a policy to end early."""

from __future__ import annotations

import datetime as dt
import enum
from collections import Counter
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from adapty_async._api.codec import MissingKeyError, is_page
from adapty_async._flow.circuit_breaker import cannot_be_the_api, is_transient
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    ConflictError,
    ConnectError,
    DecodeError,
    InvalidInputError,
    JournalError,
    name_or_none,
)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

# Outcomes that a report keeps, so that its memory is bounded.
_KEPT_FAILURES = 100


class OutcomeStatus(enum.StrEnum):
    """The status with which an item ended."""

    #: The server performed the operation.
    DONE = "done"
    #: The server found no such profile or object. Nothing is left to do for a deletion or a read; a
    #: write is `FAILED` instead.
    ABSENT = "absent"
    #: It was not done, or its outcome is uncertain; a retry is safe.
    FAILED = "failed"
    #: It was sent and the response was lost; a retry may perform it twice.
    UNKNOWN = "unknown"
    #: The run ended before it was sent.
    NOT_SENT = "not_sent"
    #: An earlier run with the same journal found it done or absent, or it is a duplicate; see
    #: `Outcome.earlier`.
    SKIPPED = "skipped"


_DONE = OutcomeStatus.DONE
_NOT_DONE = frozenset({OutcomeStatus.FAILED, OutcomeStatus.UNKNOWN})
_IN_ORDER = frozenset({OutcomeStatus.DONE, OutcomeStatus.ABSENT, OutcomeStatus.SKIPPED})


class EarlierStatus(enum.StrEnum):
    """The earlier status of a skipped item."""

    #: It was done in an earlier run with the same journal.
    DONE = "done"
    #: An earlier run with the same journal found that it does not exist.
    ABSENT = "absent"
    #: An equal request comes earlier in the input.
    DUPLICATE = "duplicate"


class StopReason(enum.StrEnum):
    """The reason why a run ended before its input."""

    #: Five authentication errors in a row.
    KEY_REJECTED = "key_rejected"
    #: The responses are not the API's. The first 20 responses or 20 successful ones in a row could
    #: not be Adapty's, the server's certificate was rejected, or a proxy required a password.
    WRONG_ADDRESS = "wrong_address"
    #: No request succeeded for `max_outage` seconds, or the server requested a longer pause.
    OUTAGE = "outage"
    #: The API rejected 50 items in a row with the same error, which a retry would not change.
    SAME_ERROR = "same_error"
    #: An item failed, and `fail_fast` was set.
    FAIL_FAST = "fail_fast"
    #: The caller stopped the run, or left it.
    STOPPED = "stopped"


class Outcome(msgspec.Struct, Generic[ItemT, ResultT], frozen=True):
    """
    The outcome of one item.

    Attributes:
        index: its position in the input, from 0.
        item: the item itself.
        status: see `OutcomeStatus`.
        attempts: the number of attempts made for it.
        throttled: the number of attempts that were throttled (429).
        elapsed: seconds since the worker started to process it.
        error: why it was not done; None if it was.
        result: the decoded result of the response; None if it was not done.
        earlier: the earlier status of a skipped item; None for every other status.
        connect_failures: the number of attempts that got no connection, so nothing was sent.
        http_status: the HTTP status of the response that it ended with; None without a response.
    """

    index: int
    item: ItemT
    status: OutcomeStatus
    attempts: int = 0
    throttled: int = 0
    elapsed: float = 0.0
    error: Exception | None = None
    result: ResultT | None = None
    earlier: EarlierStatus | None = None
    connect_failures: int = 0
    http_status: int | None = None
    # Raw values: their conversion takes longer than the rest of an outcome, and most outcomes are
    # only counted.
    _ended: float | None = None
    _request_id: str | None = None
    # It found no object, and did not create it, since another item lost that creation.
    _is_held_back: bool = False

    @property
    def at(self) -> dt.datetime | None:
        """
        The date and time at which it ended, in UTC.

        None for an item that this run did not process: one that is skipped, not sent, or unknown
        or failed since an earlier run.
        """
        return None if self._ended is None else dt.datetime.fromtimestamp(self._ended, dt.UTC)

    @property
    def request_id(self) -> str | None:
        """
        The request id of the last response, for Adapty's support; None if it had none.

        It is the value of the header ``Request-Id`` or ``X-Request-Id``.
        """
        return name_or_none(self._request_id)

    @property
    def requests(self) -> int:
        """The number of requests sent for it, retries included."""
        return self.attempts - self.connect_failures

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do for the item, which is done, absent or skipped."""
        return self.status in _IN_ORDER

    def __repr__(self) -> str:
        error = f", error={type(self.error).__name__}" if self.error is not None else ""
        return f"Outcome(index={self.index}, status={self.status}, attempts={self.attempts}{error})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("index", self.index), ("status", self.status.value), ("attempts", self.attempts)]


class BulkReport(msgspec.Struct, Generic[ItemT, ResultT], frozen=True, kw_only=True):
    """
    The report of a bulk run: every item that was read is in exactly one count.

    Attributes:
        total: the number of items read.
        done, absent, failed, unknown, not_sent, skipped: the number of items with each status; see
            `OutcomeStatus`.
        requests: the number of requests sent, retries included; an attempt without a connection
            does not count.
        throttled: the number of requests that were throttled (429).
        elapsed: seconds since the run started.
        failures: the first 100 outcomes that are failed or unknown.
        failures_omitted: the number of further failed or unknown outcomes.
        stop_reason: why the run ended before its input; None if it did not.
        skipped_earlier: the earlier status of the skipped items; the counts add up to `skipped`.
        sent: the number of items for which at least one request was sent.
        connect_failures: the number of attempts that got no connection, so nothing was sent.
    """

    total: int = 0
    done: int = 0
    absent: int = 0
    failed: int = 0
    unknown: int = 0
    not_sent: int = 0
    skipped: int = 0
    requests: int = 0
    throttled: int = 0
    elapsed: float = 0.0
    failures: tuple[Outcome[ItemT, ResultT], ...] = ()
    failures_omitted: int = 0
    stop_reason: StopReason | None = None
    skipped_earlier: Mapping[EarlierStatus, int] = msgspec.field(
        default_factory=lambda: dict.fromkeys(EarlierStatus, 0)
    )
    sent: int = 0
    connect_failures: int = 0

    @property
    def counts(self) -> dict[OutcomeStatus, int]:
        """The count of every status."""
        return {status: getattr(self, status.value) for status in OutcomeStatus}

    @property
    def ok(self) -> bool:
        """Whether every item read is done, absent or skipped, and the run was not stopped."""
        return self.total == self.done + self.absent + self.skipped and self.stop_reason is None

    def __repr__(self) -> str:
        return f"BulkReport({', '.join(f'{name}={value!r}' for name, value in self._shown())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return self._shown()

    def _shown(self) -> list[tuple[str, Any]]:
        counts = [(status.value, count) for status, count in self.counts.items() if count]
        stopped = [] if self.stop_reason is None else [("stop_reason", self.stop_reason.value)]
        return [("total", self.total), *counts, *stopped]

    def _repr_html_(self) -> str:
        """Return the report as HTML, without items, for notebooks."""
        from adapty_async._bulk.report_html import (  # noqa: PLC0415  notebooks alone need it
            Figures,
            report_html,
        )

        reasons = Counter((_reason(each.error), each.status.value) for each in self.failures)
        return report_html(
            Figures(
                ok=self.ok,
                total=self.total,
                counts={status.value: count for status, count in self.counts.items()},
                seconds=self.elapsed,
                requests=self.requests,
                throttled=self.throttled,
                stop_reason=self.stop_reason,
                reasons=reasons.most_common(),
                reasons_omitted=self.failures_omitted,
            )
        )


def _reason(error: Exception | None) -> str:
    """Return the kind of an error, which is the same for many items and has no text of a server."""
    facts: list[str | None] = [type(error).__name__]
    if isinstance(error, InvalidInputError):
        facts += [f"{error.field}: {error.rule}"]
    elif isinstance(error, ApiError):
        facts += [f"status {error.status}", name_or_none(error.error_code)]
    return ", ".join(filter(None, facts))


class ReportBuilder(Generic[ItemT, ResultT]):
    """
    A report builder that counts outcomes as they end, in constant memory.

    Attributes:
        counts: the number of items by status.
        earlier: the number of skipped items by their earlier status.
        requests, throttled, sent, connect_failures: as in `BulkReport`.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(OutcomeStatus, 0)
        self.earlier = dict.fromkeys(EarlierStatus, 0)
        self.requests = 0
        self.throttled = 0
        self.sent = 0
        self.connect_failures = 0
        self._failures: list[Outcome[ItemT, ResultT]] = []

    def add(self, outcome: Outcome[ItemT, ResultT]) -> None:
        """Count one outcome."""
        status = outcome.status
        self.counts[status] += 1
        if status is _DONE and outcome.attempts == 1:  # as nearly all
            self.requests += 1
            self.sent += 1
            return
        if requests := outcome.attempts:
            if outcome.connect_failures:
                self.connect_failures += outcome.connect_failures
                requests = outcome.requests
            self.requests += requests
            self.sent += requests > 0
            self.throttled += outcome.throttled
        elif outcome.earlier is not None:
            self.earlier[outcome.earlier] += 1
        if status in _NOT_DONE and len(self._failures) < _KEPT_FAILURES:
            self._failures.append(outcome)

    def report(
        self, *, elapsed: float, stop_reason: StopReason | None
    ) -> BulkReport[ItemT, ResultT]:
        """Return the report so far."""
        counts = {status.value: count for status, count in self.counts.items()}
        failures = counts["failed"] + counts["unknown"]
        return BulkReport(
            total=sum(counts.values()),
            **counts,
            requests=self.requests,
            throttled=self.throttled,
            elapsed=elapsed,
            failures=tuple(self._failures),
            failures_omitted=failures - len(self._failures),
            stop_reason=stop_reason,
            skipped_earlier=dict(self.earlier),
            sent=self.sent,
            connect_failures=self.connect_failures,
        )


# Authentication errors in a row. Adapty documents 401 for a missing profile too, so one alone does
# not prove a wrong key.
_REJECTIONS = 5
# Responses in a row that cannot be the API's.
_FOREIGN_RESPONSES = 20
# Items in a row that the API rejects for the same reason.
_SAME_ERRORS = 50

# General error codes, whose message contains the reason. Other codes are the reason, and their
# message may quote the item's value.
_GENERAL_CODES = frozenset({None, "base_error", "validation_error"})


class StopPolicy:
    """A policy that checks the outcomes of one run, in the order in which they end."""

    def __init__(self) -> None:
        self._rejections = 0
        self._foreign = 0
        self._reached = False  # the API responded at least once
        self._reason: tuple[Any, ...] = ()  # of the last rejection
        self._same_in_row = 0

    def check(self, outcome: Outcome[Any, Any]) -> StopReason | None:
        """
        Return why the run should end now; None if it should not.

        Raises:
            Exception: the item's error, if the item is not its cause: a closed client, a missing
                key, or a defect such as a hook's.
        """
        error = outcome.error
        if error is None:
            if outcome.attempts:
                self._rejections = self._foreign = self._same_in_row = 0
                self._reached = True
            return None
        if isinstance(error, JournalError | MissingKeyError) or not isinstance(error, AdaptyError):
            raise error
        if isinstance(error, ConfigError) and outcome.attempts:  # such as a closed client
            raise error
        if isinstance(error, CircuitOpenError):
            return StopReason.OUTAGE
        return self._check_failure(outcome, error) if outcome.attempts else None

    def _check_failure(self, outcome: Outcome[Any, Any], error: AdaptyError) -> StopReason | None:
        if isinstance(error, ConnectError) and error.permanent:
            return StopReason.WRONG_ADDRESS
        self._rejections = self._rejections + 1 if isinstance(error, AuthenticationError) else 0
        self._count_foreign(error)
        self._count_same(outcome, error)
        if self._rejections >= _REJECTIONS:
            return StopReason.KEY_REJECTED
        if self._foreign >= _FOREIGN_RESPONSES:
            return StopReason.WRONG_ADDRESS
        return StopReason.SAME_ERROR if self._same_in_row >= _SAME_ERRORS else None

    def _count_foreign(self, error: AdaptyError) -> None:
        """
        Count responses that cannot be the API's.

        Once the API has responded, pages and unknown errors are an outage, and the run waits for
        its end. From then on only successful responses that cannot be decoded count.
        """
        if not cannot_be_the_api(error):
            if isinstance(error, ApiError) and error.recognised:
                self._reached, self._foreign = True, 0
        elif not self._reached or (isinstance(error, DecodeError) and not is_page(error.body)):
            self._foreign += 1

    def _count_same(self, outcome: Outcome[Any, Any], error: AdaptyError) -> None:
        """
        Count items in a row that the API rejects permanently, for the same reason.

        Those that the run itself held back do not count. In a run that resumes they may be many,
        while the rest is done.
        """
        if outcome._is_held_back:  # noqa: SLF001  the run sets it, and no caller needs it
            return
        failed = outcome.status is OutcomeStatus.FAILED
        if not failed or not isinstance(error, ApiError) or not _is_rejection(error):
            self._same_in_row = 0
            return
        reason = _reason_of(error)
        self._same_in_row = self._same_in_row + 1 if reason == self._reason else 1
        self._reason = reason


def _is_rejection(error: ApiError) -> bool:
    """Return whether the API rejects an item for its content, not for an earlier request."""
    conflicts = isinstance(error, ConflictError)  # such as with an earlier run's request
    return error.recognised and not is_transient(error) and not conflicts


def _reason_of(error: ApiError) -> tuple[Any, ...]:
    """Return a value that is equal for two items that the API rejects for the same reason."""
    fields = tuple(item.field_name for item in error.errors)
    texts = tuple(item.message for item in error.errors if error.error_code in _GENERAL_CODES)
    return type(error), error.status, error.error_code, fields, texts
