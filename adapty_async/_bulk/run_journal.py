"""A write-ahead log of a bulk run: items that are settled, items in flight, and their outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sized
from typing import Any, Protocol, runtime_checkable

import msgspec

from adapty_async._api.call import CallState, Operation, Request, RetrySafety, lock_key_of
from adapty_async._api.codec import plain
from adapty_async._bulk.outcome import BulkReport, EarlierStatus, Outcome, OutcomeStatus
from adapty_async._journal import (
    KEY_SIZE,
    OBJECT_KEY_SIZE,
    ItemState,
    Journal,
    JournalIdentity,
    JournalWriter,
)
from adapty_async._pipeline.retry import may_have_worked
from adapty_async._runtime.loop import despite_cancellation
from adapty_async.errors import (
    ApiError,
    ConfigError,
    ConnectionLostError,
    InvalidInputError,
    JournalError,
    NotFoundError,
)

# Constants, since the lookup of an enumeration member takes 0.1 µs in Python 3.11.
_ALWAYS = RetrySafety.ALWAYS
_DONE = OutcomeStatus.DONE
_DONE_STATE = ItemState.DONE
#: The states with which a resumed run skips an item, by position or by digest, and the status that
#: its outcome has then. Any other item is sent again, unless `ItemEntry.recall` objects.
EARLIER = {
    ItemState.DONE: EarlierStatus.DONE,
    ItemState.ABSENT: EarlierStatus.ABSENT,
    ItemState.DUPLICATE: EarlierStatus.DUPLICATE,
}
_AMBIGUOUS = frozenset({ItemState.STARTED, ItemState.LOST})
_NOT_REPEATABLE = frozenset({ItemState.STARTED, ItemState.UNKNOWN})
_RETRIED = frozenset({ItemState.RESERVED, ItemState.LOST})
_NOT_DONE = frozenset({OutcomeStatus.FAILED, OutcomeStatus.NOT_SENT})
# The state that the journal records of an item that ended with a status.
_STATE_OF = {
    OutcomeStatus.DONE: ItemState.DONE,
    OutcomeStatus.ABSENT: ItemState.ABSENT,
    OutcomeStatus.FAILED: ItemState.FAILED,
    OutcomeStatus.UNKNOWN: ItemState.UNKNOWN,
    OutcomeStatus.NOT_SENT: ItemState.NOT_SENT,
}
# Seconds between two records of the adaptive rate, with which a resumed run starts.
_RATE_SECONDS = 1.0
# Requests per second; a resumed run does not start with a lower rate.
_MIN_RATE = 0.001


@runtime_checkable
class InputIdentity(Protocol):
    """The interface of an input that can be read again in the same order, and can verify this."""

    def identity(self) -> dict[str, Any]:
        """Return a description that identifies this input, as JSON types; may block."""
        ...

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """Return the difference from an earlier description; None if equal, or only longer now."""
        ...


class _Input(msgspec.Struct, frozen=True):
    """An input that a file, a job id or both identify; without them, it may come in any order."""

    file: InputIdentity | None
    job_id: str | None

    @property
    def has_order(self) -> bool:
        """Whether positions identify the items; otherwise digests of their requests do."""
        return self.file is not None or self.job_id is not None

    def identity(self) -> dict[str, Any]:
        """Return the description of the file, with the job id."""
        described = {} if self.file is None else self.file.identity()
        return described if self.job_id is None else described | {"job_id": self.job_id}

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """Compare the job ids, and the files."""
        known = earlier.get("job_id")
        if self.job_id not in (None, known):
            return f"job_id {known!r} there, {self.job_id!r} here"
        return None if self.file is None else self.file.difference(earlier)


def _input_of(items: object, job_id: str | None) -> _Input:
    """
    Return the identity of an input, by which a resumed run compares it.

    Raises:
        ConfigError: the job id is empty, or the items have no order.
    """
    if job_id is not None:
        if not job_id:
            raise ConfigError("job_id must not be empty")
        if isinstance(items, set | frozenset):  # each process orders it in its own way
            raise ConfigError(
                "job_id needs items in the same order each time, which a set does not have: sort "
                "them, or leave job_id out"
            )
    return _Input(items if isinstance(items, InputIdentity) else None, job_id)


class RunIdentity(msgspec.Struct, frozen=True):
    """
    The identity of a run: its operation, server and account, without its input.

    Attributes:
        operation: the name of the call, and the kind of its items.
        origin: the server's scheme, host and port.
        secret: the value of the Authorization header; only digests of it are kept.
    """

    operation: str
    origin: str
    secret: str

    def digest(self, person: bytes, size: int) -> Any:
        """Return a BLAKE2 hash of the secret, with `person` as its purpose."""
        return hashlib.blake2b(self.secret.encode(), digest_size=size, person=person)

    def __repr__(self) -> str:
        return f"RunIdentity({self.operation}, {self.origin})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("operation", self.operation), ("origin", self.origin)]


class Digester:
    """
    Keyed digests of requests, without the headers of their client.

    Args:
        key: a secret.
    """

    def __init__(self, key: bytes) -> None:
        # the key is a prefix of the hashed data, which is as secure for BLAKE2 as its `key`; most
        # requests then fit into the same block, which halves the time
        self._keyed = hashlib.blake2b(key, digest_size=KEY_SIZE)
        # a set, such as a lock key, has another order in each process
        self._pack = msgspec.msgpack.Encoder(enc_hook=plain, order="deterministic").encode

    def of(self, operation: Operation[Any], request: Request) -> bytes:
        """Return the digest of a request. It begins with the key of the object it may create."""
        identity = operation.endpoint.name, operation.headers, operation.parameters, request.body
        if operation.if_missing is None or request.if_missing is None:
            return self._digest(identity)
        creation = self.of(operation.if_missing, request.if_missing)
        object_key = self.object_key(operation, request)
        return object_key + self._digest((*identity, creation))[OBJECT_KEY_SIZE:]

    def object_key(self, operation: Operation[Any], request: Request) -> bytes:
        """
        Return the key of the object that an operation is about, such as a profile.

        Raises:
            InvalidInputError: the lock key has a type of which there is no digest.
        """
        about = lock_key_of(operation)
        if about == id(operation):  # no headers or parameters; another process has another id
            about = operation.endpoint.path, request.body
        try:
            return self._digest(about)[:OBJECT_KEY_SIZE]
        except (NotImplementedError, OverflowError, UnicodeEncodeError):
            rule = "must return text, numbers or tuples of them, if the operation has an if_missing"
            raise InvalidInputError("Endpoint.lock_key", rule) from None

    def _digest(self, value: Any) -> bytes:
        digest = self._keyed.copy()
        digest.update(self._pack(value))
        return digest.digest()


class RunJournal:
    """
    A write-ahead log of one run, for its item processor.

    Args:
        storage: the storage of the journal.
        run: the operation and the account.
        items: the input.
        job_id: identifies the input; see `adapty_async.bulk.BulkOptions`.
        concurrency: maximum of items in flight.

    Attributes:
        by_position: items are identified by their position, not by their requests.
        digest_key: the key of the digests of requests, 32 bytes.
        writer: the states of the items, which the journal stores.
    """

    def __init__(
        self,
        storage: Journal,
        run: RunIdentity,
        items: object,
        job_id: str | None,
        concurrency: int,
    ) -> None:
        _require_utf8(run.operation, job_id or "")
        self._storage = storage
        self._identity = run
        self._input = _input_of(items, job_id)
        self._size = len(items) if isinstance(items, Sized) else None
        self._concurrency = concurrency
        self.by_position = self._input.has_order
        self.digest_key: bytes = run.digest(b"adapty digest", 32).digest()
        self.writer: JournalWriter  # set by `open`, as is the next
        self._timer: asyncio.TimerHandle

    async def open(self, measured_limit: Callable[[], float | None]) -> None:
        """
        Open the journal, and record the adaptive rate from now on.

        Raises:
            JournalError: it belongs to another run, is in use, is damaged, or is no journal.
        """
        identity = JournalIdentity(
            operation=self._identity.operation,
            origin=self._identity.origin,
            account=self._identity.digest(b"adapty account", KEY_SIZE).hexdigest(),
            keys="position" if self.by_position else "digest",
            input=await asyncio.to_thread(self._input.identity),
        )
        writer = JournalWriter(self._storage, concurrency=self._concurrency, size=self._size)
        await writer.open(identity, self._input.difference)
        self.writer = writer

        def record_rate() -> None:
            writer.record_rate(measured_limit())
            self._timer = loop.call_later(_RATE_SECONDS, record_rate)

        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_RATE_SECONDS, record_rate)

    async def aclose(self, rate: float | None, report: BulkReport[Any, Any]) -> None:
        """
        Record how the run ended, make everything durable, and close the journal.

        Args:
            rate: the adaptive rate; None if it is not known.
            report: the report of the run. Without a reason to stop, the input was read to its end.

        Raises:
            JournalError: something could not be stored.
        """
        self._timer.cancel()
        self.writer.record_rate(rate)
        if report.stop_reason is None:
            self.writer.end_at(report.total)
        await self.writer.close(report.stop_reason)

    @property
    def rate(self) -> float | None:
        """The requests per second that earlier runs found; None if there is no such rate."""
        rate = self.writer.rate
        return None if rate is None or rate < _MIN_RATE else rate

    def earlier(self, position: int) -> EarlierStatus | None:
        """Return the earlier status of an item; None if it is not settled."""
        return EARLIER.get(self.writer.state(position))

    def release(self, position: int) -> None:
        """
        Withdraw the reservation of an item that cannot be sent, which a killed run may have left.

        Items that are identified by their requests have none: this one has no request.
        """
        if self.by_position:
            self.writer.release(position)

    def entry(self, position: int, request: Request) -> ItemEntry:
        """Return the entry of an item; nothing is stored yet."""
        must_not_repeat = request.retry_safety is not _ALWAYS
        return ItemEntry(self.writer, position, request, must_not_repeat)


class ItemEntry(msgspec.Struct, eq=False, gc=False):  # nothing that it refers to refers to it
    """
    The entry of one item in the journal of its run: whether it was sent, and how it ended.

    Attributes:
        object_key: the key of the object that the item creates if it is missing; set before the
            item is sent.
        was_sent_earlier: an earlier run may have sent the item, and has no outcome.
        is_ambiguous: an earlier run sent the item and lost the response.
        is_creation_lost: an earlier run sent the creation of a missing object and lost the
            response.
    """

    _writer: JournalWriter
    _position: int
    _request: Request
    _must_not_repeat: bool
    _begun: bool = False  # the journal has an entry that the present attempt needs
    object_key: bytes = b""
    was_sent_earlier: bool = False
    is_ambiguous: bool = False
    is_creation_lost: bool = False

    async def claim(self, digest: bytes) -> bool:
        """
        Identify the item by the digest of its request; return False if this run did that before.

        Raises:
            JournalError: the index of digests cannot be used.
        """
        position = await self._writer.keys.claim(digest)
        if position is None:
            return False
        self._position = position
        return True

    @property
    def state(self) -> ItemState:
        """The last known state of the item."""
        return self._writer.state(self._position)

    def earlier(self) -> EarlierStatus | None:
        """Return the earlier status of the item; None if it is not settled."""
        return EARLIER.get(self.state)

    def recall(self) -> Exception | None:
        """
        Return the error of an item whose outcome stays unknown; None if the item is sent.

        An item that was only reserved may not have been sent, so a 404 now means that it is absent.
        If a lost creation of a missing object made it unknown, it is sent, but not created again.
        """
        before = self.state
        self.is_ambiguous = before in _AMBIGUOUS
        self.was_sent_earlier = self.is_ambiguous or before in _RETRIED
        if before in _NOT_REPEATABLE and self._request.if_missing and not self._must_not_repeat:
            self.is_ambiguous = self.is_creation_lost = self._begun = True
            return None
        if before is not ItemState.UNKNOWN:
            if not self.is_ambiguous or not self._must_not_repeat:
                return None
            self._writer.update(self._position, ItemState.UNKNOWN)
        return _lost_earlier(self._request.operation)

    def skip(self) -> None:
        """Record the item as a duplicate: an equal request comes earlier in the input."""
        self._writer.update(self._position, ItemState.DUPLICATE)

    def begin(self) -> Awaitable[None] | None:
        """
        Append the write-ahead entry; the caller awaits the result before it sends.

        The entry survives the death of the process. If the request must not be retried, the entry
        also survives a loss of power.
        """
        if self._begun:
            return None
        self._begun = True
        if self._must_not_repeat:
            return self._writer.start(self._position)
        return self._writer.reserve(self._position)

    def create(self) -> None:
        """Make the next entry one of a request that must not be retried, with its object's key."""
        self._begun, self._must_not_repeat = False, True
        self._writer.keys.add_creation(self._position, self.object_key)

    def created(self) -> None:
        """
        Record that the outcome of a creation is known, with the entry of the request after it.

        If the run is killed after that, a resumed run sends the item from the start.
        """
        self._begun, self._must_not_repeat = False, self._request.retry_safety is not _ALWAYS
        self._writer.retract(self._position)

    def retract(self) -> None:
        """
        Record that the server certainly did not process the item, if it must not be retried.

        If the run is killed while the item waits for a retry, a resumed run sends the item.
        """
        if self._must_not_repeat:
            self._writer.retract(self._position)
            self._begun = False

    def end(self, outcome: Outcome[Any, Any], state: CallState) -> None:
        """
        Record the outcome of an item that was started.

        If the storage has failed, no other item starts, and the run ends with its error.
        """
        if outcome.status is _DONE:  # as most are
            self._writer.update(self._position, _DONE_STATE, outcome.requests, outcome.throttled)
            return
        if not self._begun and not outcome.attempts:
            return
        if self.was_sent_earlier and not (outcome.requests or self.is_ambiguous):
            return  # it stays reserved: neither sent by this run nor certainly by the earlier one
        error, ended = outcome.error, _STATE_OF[outcome.status]
        if outcome.status in _NOT_DONE and _may_be_done(state, error):
            ended = ItemState.LOST
        reason = None if error is None or outcome.ok else _reason(error)
        self._writer.update(self._position, ended, outcome.requests, outcome.throttled, reason)

    async def saved(self) -> None:
        """
        Wait until everything recorded so far is durable, even if this is cancelled meanwhile.

        A failure is not raised here; it is raised when the next item starts, and on `aclose`.
        """
        with contextlib.suppress(JournalError):
            await despite_cancellation(self._writer.flush())  # the worker sees it at its next item


def unprocessed(index: int, item: Any, state: ItemState) -> Outcome[Any, Any]:
    """
    Return the outcome of an item that a run does not process, by its last known state.

    It is "not sent" only if no earlier run may have sent it.
    """
    error: ConnectionLostError | None = None
    if (earlier := EARLIER.get(state)) is not None:
        status = OutcomeStatus.SKIPPED
    elif state in _NOT_REPEATABLE:
        status, error = OutcomeStatus.UNKNOWN, _lost_earlier()
    elif state in _RETRIED:
        status, error = OutcomeStatus.FAILED, may_be_done()
    else:
        status = OutcomeStatus.NOT_SENT
    return Outcome(index, item, status, error=error, earlier=earlier)


def may_be_done() -> ConnectionLostError:
    """Return the error of an item that an earlier run may have sent, and that may be retried."""
    return ConnectionLostError(
        "an earlier run sent this request, or was about to, and got no response; a retry is safe"
    )


def _lost_earlier(operation: str | None = None) -> ConnectionLostError:
    return ConnectionLostError(
        "an earlier run sent this request and lost the response; not retried, since the server may"
        " have processed it",
        operation=operation,
    )


def _require_utf8(*names: str) -> None:
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise ConfigError("a run with a journal must be named in UTF-8, its job_id too") from None


def _may_be_done(state: CallState, error: Exception | None) -> bool:
    if isinstance(error, NotFoundError):
        return False  # it does not exist, so an earlier lost attempt had no lasting effect
    return state.ambiguous or (error is not None and may_have_worked(error))


def _reason(error: Exception) -> tuple[str, int]:
    return type(error).__name__, error.status if isinstance(error, ApiError) else 0
