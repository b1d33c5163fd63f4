"""The values of a journal, and the interface of its storage, without I/O."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from adapty_async.errors import AuthenticationError, JournalError

#: Items of a span.
SPAN_SIZE = 512
#: Bytes of an entry key.
KEY_SIZE = 16
#: States by span number; position ``n`` is at ``n % 512`` in span ``n // 512``.
Spans: TypeAlias = Mapping[int, bytes]
#: Receives the entry keys of earlier runs, in batches, in the order in which they were stored, and
#: the states.
LoadKeys: TypeAlias = Callable[[Iterable[bytes], Spans], object]
#: Compares an input with the description of an earlier one: returns the difference, None if none.
InputCheck: TypeAlias = Callable[[dict[str, Any]], str | None]


class DamageError(Exception):
    """An internal error about a journal; its storage adds the path and raises `JournalError`."""


class ItemState(enum.IntEnum):
    """The last known state of an item; its value is its character in a span."""

    #: Nothing is known.
    NONE = ord(".")
    #: A request that may be retried is about to be sent, or was sent.
    RESERVED = ord("r")
    #: A request that must not be retried is about to be sent, or was sent.
    STARTED = ord("s")
    #: The server performed the operation.
    DONE = ord("d")
    #: The server responded that the profile does not exist.
    ABSENT = ord("a")
    #: Certainly not done.
    FAILED = ord("f")
    #: The response was lost, so the outcome is unknown. The request may be retried.
    LOST = ord("l")
    #: The response was lost, so the outcome is unknown. The request must not be retried.
    UNKNOWN = ord("u")
    #: The run ended before the item was sent.
    NOT_SENT = ord("n")
    #: An equal request comes earlier in the input.
    DUPLICATE = ord("=")


#: States by their values; the lookup is several times faster than `ItemState(value)`.
STATES: dict[int, ItemState] = {int(state): state for state in ItemState}
_VALUES = bytes(STATES)
# The error of an item whose key was rejected.
_REJECTED = AuthenticationError.__name__
# Ways to identify items, in the words of callers.
_KEYS = {"position": "position (of a file, or with job_id)"}
# The states of items that certainly were not done.
_NOT_DONE = bytes((ItemState.NONE, ItemState.FAILED, ItemState.NOT_SENT, ItemState.DUPLICATE))


def validate_states(states: bytes) -> None:
    """
    Validate the states of a span.

    Raises:
        DamageError: the length is wrong, or a state is unknown.
    """
    if len(states) != SPAN_SIZE or states.translate(None, _VALUES):
        raise DamageError("it holds a state that this release does not understand")


def state_at(spans: Spans, position: int) -> ItemState:
    """Return the state of the item at a position."""
    number, at = divmod(position, SPAN_SIZE)
    span = spans.get(number)
    return ItemState.NONE if span is None else STATES[span[at]]


class JournalIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """
    The identity of a journal: the run and input that it belongs to.

    Attributes:
        operation: the name of the call, and the kind of its items.
        origin: the server's scheme, host and port.
        account: a digest of the API key.
        keys: how items are identified: ``position`` or ``digest``.
        input: a description of the input, such as a file's size and digest, or a job id.
    """

    operation: str
    origin: str
    account: str
    keys: str
    input: dict[str, Any]


def require_same_run(
    name: str, found: JournalIdentity, wanted: JournalIdentity, check: InputCheck
) -> None:
    """
    Validate that a journal belongs to this run.

    Raises:
        JournalError: it belongs to another run; the message lists the differences.
    """
    texts = [
        f"{field}: {getattr(found, field)} there, {getattr(wanted, field)} here"
        for field in ("operation", "origin")
        if getattr(found, field) != getattr(wanted, field)
    ]
    if found.keys != wanted.keys:
        there, here = _KEYS.get(found.keys, found.keys), _KEYS.get(wanted.keys, wanted.keys)
        texts.append(f"keys: {there} there, {here} here")
    if found.account != wanted.account:
        texts.append("account: another key")
    if found.keys == wanted.keys and (difference := check(found.input)):
        texts.append(f"input: {difference}")
    if texts:
        raise JournalError(f"the journal {name} belongs to another run; {'; '.join(texts)}")


class Run(msgspec.Struct, kw_only=True):
    """
    The record of one run. Times are in seconds since the epoch.

    Attributes:
        number: from 1.
        started_at: when the run opened the journal.
        last_at: when the run last wrote to the journal; at most some seconds before it was killed.
        ended_at: when the run closed the journal; None if it was killed or is still running.
        stop_reason: why the run ended before its input did; None if it did not.
        rate: the adaptive rate, in requests per second; None if there is no such rate.
    """

    number: int
    started_at: float
    last_at: float
    ended_at: float | None = None
    stop_reason: str | None = None
    rate: float | None = None


def adopted(
    found: JournalIdentity,
    wanted: JournalIdentity,
    reasons: Iterable[Reason],
    spans: Spans,
) -> JournalIdentity:
    """
    Return the identity of a journal, with the new run's account if nothing was done so far.

    A run with a rejected key leaves a journal without a single item that was done or may be done.
    The run with the correct key may use it. Digests depend on the key, so that holds by position
    alone.
    """
    is_free = (
        any(reason.error == _REJECTED for reason in reasons)
        and found.keys == wanted.keys == "position"
        and not any(states.translate(None, _NOT_DONE) for states in spans.values())
    )
    return msgspec.structs.replace(found, account=wanted.account) if is_free else found


class Minute(msgspec.Struct, kw_only=True):
    """
    The counts of the outcomes in one minute of one run.

    Attributes:
        run: the number of the run.
        minute: minutes since the epoch.
        first_at, last_at: times of the first and the last outcome, in seconds since the epoch.
        done, absent, failed, lost, unknown, not_sent, duplicate: the number of items that ended in
            each state.
        requests: requests sent for these items, retries included.
        throttled: responses with status 429 among them.
    """

    run: int
    minute: int
    first_at: float
    last_at: float
    done: int = 0
    absent: int = 0
    failed: int = 0
    lost: int = 0
    unknown: int = 0
    not_sent: int = 0
    duplicate: int = 0
    requests: int = 0
    throttled: int = 0

    @property
    def items(self) -> int:
        """The number of items that ended."""
        ended = self.done + self.absent + self.failed + self.lost
        return ended + self.unknown + self.not_sent + self.duplicate


class Reason(msgspec.Struct, kw_only=True):
    """
    The count of one reason why items of a run were not done.

    Attributes:
        run: the number of the run.
        state: the name of the state that these items ended in.
        error: the class of the error, or a code that Adapty documents; never text of the server.
        http_status: the status of the last response, 0 if there was none.
        items: the number of items.
    """

    run: int
    state: str
    error: str
    http_status: int
    items: int = 0


class Changes(msgspec.Struct, kw_only=True):
    """
    The content of one commit. Every row replaces the row with the same key.

    Attributes:
        run: the present run; None if it has not changed.
        spans: states by span number; position ``n`` is at ``n % 512`` in span ``n // 512``.
        first_key: the number of the first new entry key. By digest, it is the item's position.
        new_keys: new entry keys, one after another.
        minutes: counts of a minute.
        reasons: counts of a reason.
    """

    run: Run | None = None
    spans: dict[int, bytes] = {}
    first_key: int = 0
    new_keys: bytes = b""
    minutes: list[Minute] = []
    reasons: list[Reason] = []


class Resumed(msgspec.Struct, kw_only=True):
    """
    The content of a journal that a run has opened.

    Attributes:
        run: the record of the present run.
        spans: states by span number, as earlier runs left them.
        rate: the requests per second that earlier runs found; None if they found none.
    """

    run: Run
    spans: dict[int, bytes]
    rate: float | None

    @property
    def is_new(self) -> bool:
        """Whether there was no earlier run."""
        return self.run.number == 1


def resumed(earlier: Sequence[Run], spans: Mapping[int, bytes], now: float) -> Resumed:
    """Return the content of a journal for the run that follows the earlier ones."""
    run = Run(number=len(earlier) + 1, started_at=now, last_at=now)
    rates = [each.rate for each in earlier if each.rate is not None]
    return Resumed(run=run, spans=dict(spans), rate=rates[-1] if rates else None)


class Journal(Protocol):
    """The interface of a journal's storage, which one run at a time has open."""

    async def open(
        self, identity: JournalIdentity, check: InputCheck, load_keys: LoadKeys
    ) -> Resumed:
        """
        Open the journal for a run, or create it.

        `load_keys` may be called in another thread, once, before this returns.

        Raises:
            JournalError: it belongs to another run, is in use, is damaged, or is no journal.
        """
        ...

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """
        Store changes, all or none, so that the death of the process cannot undo them.

        With `durable`, a loss of power cannot undo them or earlier commits either. The result is an
        error if these changes are stored, but there may be no room for others.

        Raises:
            JournalError: the changes are not stored.
        """
        ...

    async def close(self) -> None:
        """
        Close the journal, even if this is cancelled. All commits become durable.

        Raises:
            JournalError: the disk has failed.
        """
        ...
