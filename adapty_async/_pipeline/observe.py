"""
Hooks: layers that emit the events of a call, and the emitter that delivers them.

The layers emit the start and end of a call, and the end of each attempt. They exist only in clients
with hooks, and emit in the task of the call. The emitter isolates calls from the errors of hooks.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import sys
from collections.abc import Callable

from adapty_async._api.call import CallState, Layer, Request, Response, request_id_in
from adapty_async.errors import ConfigError, name_or_none
from adapty_async.hooks import AttemptEnded, CallEnded, CallStarted, Event, Hook

logger = logging.getLogger("adapty_async")


class Emitter:
    """
    A composite hook that delivers every event to all hooks of a client, even if one raises.

    An exception is logged once per hook and kind of event, so that a metrics backend that is down
    does not fill the log of a bulk run.
    """

    def __init__(self, hooks: tuple[Hook, ...]) -> None:
        if any(map(inspect.iscoroutinefunction, hooks)):
            raise ConfigError("a hook must be a plain function; an async one is never awaited")
        self._hooks = hooks
        self._numbers = itertools.count(1)
        self._logged: set[tuple[int, type[Event]]] = set()  # at most one entry per hook and kind

    def with_hook(self, hook: Hook) -> Emitter:
        """Return an emitter that delivers events to one hook more; calls are numbered on."""
        emitter = Emitter((*self._hooks, hook))
        emitter._numbers = self._numbers
        return emitter

    def next_call_id(self) -> int:
        """Return the number of a new call, from 1."""
        return next(self._numbers)

    def emit(self, event: Event, /) -> None:
        """Deliver an event to all hooks."""
        outer = sys.exception()  # the exception that is about to end the call, if there is one
        for number, hook in enumerate(self._hooks):
            try:
                hook(event)
            except Exception as error:  # noqa: BLE001  a hook's defect is not the call's
                kind = type(event)
                if (number, kind) not in self._logged:
                    self._logged.add((number, kind))
                    _log(error, outer, kind)


def _log(error: Exception, outer: BaseException | None, kind: type[Event]) -> None:
    """Log a hook's exception without the frames of this library, whose locals hold requests."""
    traceback = error.__traceback__ and error.__traceback__.tb_next  # the first is the emitter's
    if error is not outer:
        error.__traceback__ = traceback
        _unchain(error, outer)
    logger.error(
        "a hook raised an exception on %s, which does not affect the call; not logged again for "
        "this hook and kind of event",
        kind.__name__,
        exc_info=(type(error), error, traceback),
    )


def _unchain(error: BaseException, outer: BaseException | None) -> None:
    """Remove the call's own exception from the end of a chain: its frames hold the request."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        if inner.__cause__ is outer:
            inner.__cause__ = None
        if inner.__context__ is outer:
            inner.__context__ = None
        inner = inner.__cause__ or inner.__context__


def observe(send: Layer, emitter: Emitter, clock: Callable[[], float]) -> Layer:
    """Number each call, and emit its start and its end, even if it is cancelled."""

    async def send_observed(request: Request, state: CallState) -> Response:
        state.call_numbered(emitter.next_call_id())
        emitter.emit(CallStarted(request.operation, state.call_id, request.method, request.host))
        started = clock()
        response, error = None, None
        try:
            response = await send(request, state)
        except BaseException as raised:
            error = raised
            raise
        else:
            return response
        finally:
            emitter.emit(
                CallEnded(
                    request.operation,
                    state.attempts - state.earlier_attempts,
                    clock() - started,
                    _status_of(response, error),
                    _name_of(error),
                    state.call_id,
                    request.method,
                    request.host,
                    _request_id_of(response, error),
                )
            )
            del error  # otherwise this frame and the error would form a cycle

    return send_observed


def observe_attempts(send: Layer, emitter: Emitter, clock: Callable[[], float]) -> Layer:
    """Emit the end of each attempt that counts, even if it is cancelled."""

    async def send_observed(request: Request, state: CallState) -> Response:
        before, started = state.attempts, clock()
        response, error = None, None
        try:
            response = await send(request, state)
        except BaseException as raised:
            error = raised
            raise
        else:
            return response
        finally:
            if state.attempts > before:
                emitter.emit(
                    AttemptEnded(
                        request.operation,
                        state.call_id,
                        request.method,
                        request.host,
                        state.attempts - state.earlier_attempts,
                        clock() - started,
                        _status_of(response, error),
                        _request_id_of(response, error),
                        _name_of(error),
                    )
                )
            del error

    return send_observed


def _status_of(response: Response | None, error: BaseException | None) -> int | None:
    return getattr(error, "status", None) if response is None else response.status


def _request_id_of(response: Response | None, error: BaseException | None) -> str | None:
    if response is None:
        return getattr(error, "request_id", None)
    return name_or_none(request_id_in(response.headers))


def _name_of(error: BaseException | None) -> str | None:
    return None if error is None else type(error).__name__
