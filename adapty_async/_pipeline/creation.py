"""A creation layer: it creates an object that a call finds missing, and never creates it twice."""

from __future__ import annotations

from collections.abc import Awaitable

from adapty_async._api.call_state import CallState, Layer
from adapty_async._api.operation import Request, Response
from adapty_async._pipeline.retry import may_have_worked
from adapty_async.errors import (
    AdaptyError,
    ConflictError,
    ConnectionLostError,
    NotFoundError,
    RequestRejectedError,
)

__all__ = ("create_missing", "lost_creation")


def create_missing(
    send: Layer, request: Request, creation: Request, state: CallState
) -> Awaitable[Response]:
    """Send a request, and its creation if the server finds no such object."""
    return _Creation(send, request, creation, state).run()


def lost_creation(request: Request) -> ConnectionLostError:
    """Return the error of an item whose creation an earlier run sent and lost the response of."""
    return ConnectionLostError(
        "an earlier run sent the creation and lost the response; it is not created again, since the"
        " server may still have processed it",
        operation=request.operation,
    )


class _Creation:
    """A call of an operation, and of the one that creates its object if that is missing."""

    def __init__(self, send: Layer, request: Request, creation: Request, state: CallState) -> None:
        self._send = send
        self._request = request
        self._creation = creation
        self._state = state

    async def run(self) -> Response:
        """
        Return the response of the request or of the creation.

        1. The server finds the object: the response of the request.
        2. It finds none, and an earlier run lost the response to a creation: the outcome stays
           unknown.
        3. It finds none: create it. If that does not do what the request does, send the request
           again.
        """
        try:
            return await self._send(self._request, self._state)
        except NotFoundError as error:
            missing = error
        if self._state.is_creating:
            failure = lost_creation(self._request)
            failure.attempts = self._state.attempts
            raise failure from missing
        response = await self._create()
        if response is not None:
            return response
        return await self._send(self._request, self._state)

    async def _create(self) -> Response | None:
        """
        Create the object; return the response of the call, or None to send the request again.

        If the server rejects the creation, somebody else may have created the object. If the
        response was lost, the server may have created it. A second look decides both:

        1. It finds the object: its response is that of the call.
        2. It finds nothing: the error of the creation is raised, since the server may process a
           lost request later.
        3. It fails: the error of a lost creation is raised, or, after a rejected one, its own.
        """
        state = self._state
        state.creation_started()
        try:
            response = await self._send(self._creation, state)
        except AdaptyError as error:
            if not _is_undecided(error):
                raise
            failure = error
        else:
            if self._request.is_done_by_creation:
                return response
            await state.creation_ended()
            return None
        if not may_have_worked(failure):
            await state.creation_ended()
        return await self._look_again(failure)

    async def _look_again(self, failure: AdaptyError) -> Response:
        try:
            return await self._send(self._request, self._state)
        except AdaptyError as error:
            if not may_have_worked(failure) and not isinstance(error, NotFoundError):
                raise
            failure.attempts = self._state.attempts
            raise failure from None


def _is_undecided(error: AdaptyError) -> bool:
    """Return whether the object may exist although its creation failed."""
    return may_have_worked(error) or isinstance(error, ConflictError | RequestRejectedError)
