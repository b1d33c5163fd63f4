"""
Layers that emit the events of a call to hooks: its start and end, and the end of each attempt.

They exist only in clients with hooks, and emit in the task of the call.
"""

from __future__ import annotations

from collections.abc import Callable

from adapty_async._api.call_state import CallState, Layer
from adapty_async._api.codec import request_id_in
from adapty_async._api.operation import Request, Response
from adapty_async._pipeline.emitter import Emitter
from adapty_async.errors import name_or_none
from adapty_async.hooks import AttemptEnded, CallEnded, CallStarted

__all__ = ("observe", "observe_attempts")


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
