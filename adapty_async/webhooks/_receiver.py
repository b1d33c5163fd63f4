"""
A receiver of webhooks, independent of the web framework: authenticate, parse, process, record.

Adapty sends an event again if the status of the response is outside 200 to 404, or if none arrives
within ten seconds: up to nine times within a day. The receiver therefore responds with 200 only
after the callable has returned, and with a status above 404 for everything that may succeed later.

Invariants:
- An event is recorded as processed only after the callable has returned without an exception.
- At most one task of this process runs the callable for an event. A second delivery waits for it.
- Neither the end of a request nor a timeout cancels the callable.

Source: https://adapty.io/docs/set-up-webhook-integration#handle-webhook-events
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from inspect import isawaitable
from types import TracebackType
from typing import NamedTuple, NoReturn, Self, TypeAlias

import msgspec

from adapty_async._runtime.fork import keep_inherited, register_fork_handler
from adapty_async._runtime.log import apply_log_setting
from adapty_async.config import positive, whole_number
from adapty_async.errors import AdaptyError, ConfigError, WebhookError, strip_traceback
from adapty_async.webhooks._events import EVENT_TYPES, Event, Verification
from adapty_async.webhooks._parse import MAX_BODY_BYTES, NO_NAMES, authenticate, parse
from adapty_async.webhooks._store import EventStore, MemoryStore

#: A callable that processes an event. It may run twice for one event, though rarely.
EventHandler: TypeAlias = Callable[[Event], Awaitable[object]]

logger = logging.getLogger("adapty_async")


class WebhookResponse(msgspec.Struct, frozen=True):
    """A response to Adapty: its status and its body, which is JSON."""

    status: int
    body: bytes


class WebhookStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """
    The counts of a receiver since it was made.

    Attributes:
        verified: verification requests.
        processed: events that the callable processed.
        duplicates: deliveries of events that were processed before.
        failed: deliveries that the callable, or the store, failed to process.
        late: deliveries whose callable ran for longer than the timeout.
        rejected: deliveries without the secret, with an unreadable body, or beyond `max_in_flight`.
        in_flight: events whose callable runs now.
    """

    verified: int = 0
    processed: int = 0
    duplicates: int = 0
    failed: int = 0
    late: int = 0
    rejected: int = 0
    in_flight: int = 0


_TEXTS = {
    HTTPStatus.OK: b"{}",
    HTTPStatus.UNAUTHORIZED: b'{"error":"unauthorized"}',
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: b'{"error":"body too large"}',
    HTTPStatus.UNPROCESSABLE_ENTITY: b'{"error":"not a webhook of Adapty"}',
    HTTPStatus.INTERNAL_SERVER_ERROR: b'{"error":"processing failed, send again"}',
    HTTPStatus.SERVICE_UNAVAILABLE: b'{"error":"not processed yet, send again"}',
}


class WebhookReceiver:
    """
    A receiver that passes each event to an async callable at least once, and rarely twice.

    `adapty_async.webhooks.aiohttp` and `adapty_async.webhooks.starlette` connect it to a web
    framework. It works in one event loop.

    Example:
        >>> async with WebhookReceiver(handle, secret=secret) as receiver:
        ...     app.router.add_post("/adapty", webhook_handler(receiver))
    """

    def __init__(  # noqa: PLR0913  the keyword-only settings of a receiver
        self,
        handle: EventHandler,
        *,
        secret: str | list[str] | tuple[str, ...] | None,
        allow_unauthenticated: bool = False,
        store: EventStore | None = None,
        event_names: Mapping[str, str] = NO_NAMES,
        timeout: float = 8.0,
        max_in_flight: int = 256,
    ) -> None:
        """
        Configure a receiver.

        Args:
            handle: processes an event. It is async; a plain function blocks the event loop, and
                has to be quick. An exception makes Adapty send the event again. Its type and lines
                are logged, and its text if it is one of `adapty_async.errors`.
            secret: the value of the ``Authorization`` header in the dashboard. With several, each
                is accepted: for two environments, or while a value is changed.
            allow_unauthenticated: with ``secret=None``, accept requests of anyone.
            store: records processed events; by default a `MemoryStore`. `aclose` closes it.
            event_names: the documented names of types by the names that the dashboard gives them.
            timeout: seconds from the request to the response, below Adapty's ten. Longer work
                continues, and the response makes Adapty send the event again: by then it is done.
            max_in_flight: the maximum of events whose callable runs; more are left for a retry.

        Raises:
            ConfigError: a value is missing or out of range.
        """
        apply_log_setting()
        self._handle = handle
        self._store: EventStore = MemoryStore() if store is None else store
        self._tasks: dict[str, asyncio.Task[HTTPStatus]] = {}  # by deduplication key
        try:
            self._secrets = _secrets(secret, allow_unauthenticated=allow_unauthenticated)
        except ConfigError as error:
            raise strip_traceback(error) from None  # the frames below hold the secret
        finally:
            del secret  # some tools print the local variables of every frame of a traceback
        if isinstance(store, type) or not callable(getattr(self._store, "contains", None)):
            raise ConfigError('store must be an EventStore, such as SqliteStore("webhooks.db")')
        unknown = sorted({name for name in event_names.values() if name not in EVENT_TYPES})
        if unknown:
            raise ConfigError(f"event_names: not documented by Adapty: {', '.join(unknown)}")
        self._event_names = dict(event_names)
        if not positive("timeout", timeout) < 10:
            raise ConfigError(f"timeout must be below Adapty's 10 seconds, not {timeout!r}")
        self._timeout = timeout
        self._max_in_flight = whole_number("max_in_flight", max_in_flight)
        self._counts = dict.fromkeys(WebhookStatistics.__struct_fields__, 0)
        self._is_closed = False
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Leave the events in flight to the process that was forked."""
        keep_inherited(self._tasks)
        self._tasks = {}

    async def receive(
        self, authorization: str | bytes | None, body: AsyncIterable[bytes] | bytes
    ) -> WebhookResponse:
        """
        Process one request, and return the response to it.

        ========  ==========================================================================
        status    meaning
        ========  ==========================================================================
        200       verification, or the event is processed; with ``{}`` as its body
        401       not authentic; Adapty does not send it again
        413, 422  the body is above `MAX_BODY_BYTES`, incomplete, or no webhook; sent again
        500       the callable or the store failed; sent again
        503       not processed within the timeout, or too many in flight; sent again
        ========  ==========================================================================

        Args:
            authorization: the header ``Authorization``; None without one.
            body: the body in pieces, or as a whole. The pieces of a request that is not authentic
                are not read.
        """
        status = await self._status(authorization, body)
        return WebhookResponse(status.value, _TEXTS[status])

    async def _status(
        self, authorization: str | bytes | None, body: AsyncIterable[bytes] | bytes
    ) -> HTTPStatus:
        """Return the status of a request: authenticate it, read its body, and respond in time."""
        if self._is_closed:
            return HTTPStatus.SERVICE_UNAVAILABLE
        if not self._is_authentic(authorization):
            return self._rejected(
                HTTPStatus.UNAUTHORIZED, "the Authorization header is not the secret"
            )
        try:
            async with asyncio.timeout(self._timeout):
                content = await _read(body)
                if isinstance(content, _Unread):
                    return self._rejected(*content)
                return await self._respond(content)
        except TimeoutError:
            self._counts["late"] += 1
            logger.warning("webhook: not processed within %g s, left for a retry", self._timeout)
            return HTTPStatus.SERVICE_UNAVAILABLE

    def _is_authentic(self, authorization: str | bytes | None) -> bool:
        if self._secrets is None:
            return True
        matches = [authenticate(authorization, secret) for secret in self._secrets]  # all of them
        return any(matches)

    async def _respond(self, content: bytes) -> HTTPStatus:
        """Return the status of an authentic request: parse its body, and process its event once."""
        try:
            event = parse(content, event_names=self._event_names)
        except WebhookError as error:
            return self._rejected(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        if isinstance(event, Verification):
            self._counts["verified"] += 1
            return HTTPStatus.OK
        key = event.deduplication_key or sha256(content).hexdigest()
        task = self._tasks.get(key)
        if task is None:
            if self._is_closed:  # since the body was read
                return HTTPStatus.SERVICE_UNAVAILABLE
            if len(self._tasks) >= self._max_in_flight:
                return self._rejected(HTTPStatus.SERVICE_UNAVAILABLE, "too many events in flight")
            task = self._start(key, event)
        await asyncio.wait({task})  # a cancellation of this request does not cancel the task
        return HTTPStatus.SERVICE_UNAVAILABLE if task.cancelled() else task.result()

    def _rejected(self, status: HTTPStatus, reason: str) -> HTTPStatus:
        self._counts["rejected"] += 1
        logger.warning("webhook: status %d: %s", status, reason)
        return status

    def _start(self, key: str, event: Event) -> asyncio.Task[HTTPStatus]:
        task = asyncio.get_running_loop().create_task(self._process(key, event))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return task

    async def _process(self, key: str, event: Event) -> HTTPStatus:
        """Process an event that the store does not contain; return the status."""
        try:
            if await self._store.contains(key):
                self._counts["duplicates"] += 1
                return HTTPStatus.OK
            done: object = self._handle(event)
            if isawaitable(done):  # a plain function has processed the event: a retry would again
                await done
        except Exception as error:  # noqa: BLE001  the reason of a status that Adapty retries
            self._failed(event, error)
            return HTTPStatus.INTERNAL_SERVER_ERROR
        except asyncio.CancelledError as error:
            if not self._is_closed:  # the callable awaited something that was cancelled
                self._failed(event, error)
            raise
        self._counts["processed"] += 1
        await self._record(key, event)
        return HTTPStatus.OK

    def _failed(self, event: Event, error: BaseException) -> None:
        self._counts["failed"] += 1
        _log("left for a retry", event, error)

    async def _record(self, key: str, event: Event) -> None:
        try:
            await self._store.add(key)
        except Exception as error:  # noqa: BLE001  the event is processed, so a retry is no help
            _log("processed, but not recorded", event, error)

    def statistics(self) -> WebhookStatistics:
        """Return the counts of deliveries so far."""
        return WebhookStatistics(**{**self._counts, "in_flight": len(self._tasks)})

    async def aclose(self) -> None:
        """
        Stop receiving, let callables finish within the timeout, cancel the others, close the store.

        Adapty sends events again whose callable was cancelled.
        """
        self._is_closed = True
        try:
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=self._timeout)
        finally:  # also if the server does not wait that long
            await self._cancel()

    async def _cancel(self) -> None:
        unfinished = list(self._tasks.values())
        for task in unfinished:
            task.cancel()
        try:
            await asyncio.gather(*unfinished, return_exceptions=True)
        finally:
            await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a receiver holds a secret; it is not pickled")

    def __repr__(self) -> str:
        return f"WebhookReceiver({len(self._tasks)} in flight, {self._store!r})"


def _secrets(
    secret: str | list[str] | tuple[str, ...] | None, *, allow_unauthenticated: bool
) -> tuple[str, ...] | None:
    if secret is None:
        if not allow_unauthenticated:
            raise ConfigError("secret is required, or secret=None with allow_unauthenticated=True")
        return None
    if allow_unauthenticated:
        raise ConfigError("secret and allow_unauthenticated=True exclude each other")
    secrets = tuple(secret) if isinstance(secret, list | tuple) else (secret,)
    if not secrets or not all(map(_is_sendable, secrets)):
        raise ConfigError("secret must be text of printable characters, without blanks around it")
    return secrets


def _is_sendable(secret: object) -> bool:
    return isinstance(secret, str) and secret.isprintable() and secret.strip() == secret != ""


class _Unread(NamedTuple):
    """The status for a body that was not read to its end, and the reason."""

    status: HTTPStatus
    reason: str


async def _read(body: AsyncIterable[bytes] | bytes) -> bytes | _Unread:
    """Return the whole body, if it has an end within the bound."""
    content = bytearray()
    try:
        if isinstance(body, bytes):
            body = _in_one_piece(body)
        async for piece in body:
            content += piece
            if len(content) > MAX_BODY_BYTES:
                reason = f"larger than {MAX_BODY_BYTES} bytes"
                return _Unread(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
    except Exception as error:  # noqa: BLE001  each framework has its own, such as a disconnection
        reason = f"the body cannot be read ({type(error).__name__})"
        return _Unread(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
    return bytes(content)


async def _in_one_piece(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _log(what: str, event: Event, error: BaseException) -> None:
    """Log an exception by its type and lines; the text of a foreign one may hold personal data."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    kind = event.default_name or "unknown event"
    is_own = type(error).__module__ == AdaptyError.__module__
    reason = f"{type(error).__name__}: {error}" if is_own else type(error).__name__
    logger.error("webhook: %s %s: %s\n%s", kind, what, reason, lines)
