"""An executor of operations whose responses are passed to a sink."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from typing import Protocol, TypeVar

import msgspec

from adapty_async._api.call import CallState, Layer, Operation, Request, Response
from adapty_async._http.streaming import Sink
from adapty_async._pipeline.layers import Executor
from adapty_async._runtime.loop import in_thread

ResultT = TypeVar("ResultT")


class SendInto(Protocol):
    """A transport that passes the body of a success to a sink."""

    def __call__(self, request: Request, state: CallState, sink: Sink, /) -> Awaitable[Response]:
        """Send one request, once; the response's body is what the sink's `finish` returned."""
        ...


def whole(send: Layer) -> SendInto:
    """Return a transport over one that returns whole bodies, such as a fake in a test."""

    async def send_into(request: Request, state: CallState, sink: Sink) -> Response:
        response = await send(request, state)
        if not 200 <= response.status < 300:
            return response

        def receive() -> bytes:
            sink.restart()
            sink.write(response.body)
            return sink.finish()

        return msgspec.structs.replace(response, body=await in_thread(receive))

    return send_into


class StreamExecutor:
    """
    An executor that sends operations through a client's pipeline, into a sink.

    The pipeline is that of all calls, around another transport. A failed attempt is retried, and
    the sink starts again. The permit is held until the body has ended.

    Attributes:
        account: a digest of the origin and the API key.
    """

    def __init__(self, executor: Executor, send: SendInto) -> None:
        self._executor = executor
        self._send = send
        defaults = executor.options.defaults
        secret = f"{defaults.origin} {defaults.account}"
        self.account = hashlib.sha256(secret.encode()).hexdigest()

    async def __call__(self, operation: Operation[ResultT], sink: Sink) -> ResultT:
        """
        Send one operation, and return the result that its endpoint decodes.

        Raises:
            AdaptyError: the call failed; see `adapty_async.errors`.
        """
        layers = msgspec.structs.replace(
            self._executor.layers,
            transport=lambda request, state: self._send(request, state, sink),
        )
        return await Executor(layers, self._executor.options).execute(operation)
