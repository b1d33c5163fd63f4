"""
Traces and metrics of a client with OpenTelemetry. It needs ``pip install 'adapty-async[otel]'``.

Each call is a span, and each of its attempts a client span below it, with the attributes of the
semantic conventions for HTTP and the header ``traceparent`` on the wire. No attribute holds an id
of a user or a key.

Source: https://opentelemetry.io/docs/specs/semconv/http/
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import TypeAlias
from urllib.parse import urlsplit

try:
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.instrumentation.utils import suppress_http_instrumentation
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue
except ModuleNotFoundError as error:
    raise ImportError("OpenTelemetry is missing: pip install 'adapty-async[otel]'") from error

from adapty_async._client.base import BaseClient, original_of
from adapty_async._version import __version__
from adapty_async.hooks import AttemptEnded, CallEnded, CallStarted, Event
from adapty_async.integrations._metrics import (
    ALREADY,
    BUCKET_METRICS,
    BULK_ITEMS,
    CALL_DURATION,
    DURATION_BUCKETS,
    RETRY_BUDGET,
    Client,
)
from adapty_async.statistics import BucketStatistics, Statistics
from adapty_async.transport import Request, Response, Send

__all__ = ("instrument",)

_NAME = "adapty_async"
_PORTS = {"https": 443, "http": 80}

_Attributes: TypeAlias = dict[str, AttributeValue]
_Measured: TypeAlias = list[tuple["weakref.ref[BaseClient]", _Attributes]]
_Values: TypeAlias = list[tuple[float, _Attributes]]
_Read: TypeAlias = Callable[[CallbackOptions], Iterable[Observation]]


def instrument(
    client: Client,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    name: str | None = None,
) -> None:
    """
    Trace a client's calls and measure them. Call it once, before the client's first call.

    The instrumentation of aiohttp for OpenTelemetry creates no spans for these requests, so that
    both can be in use.

    Args:
        client: the client; clients that `AdaptyClient.with_options` makes of it are included.
        tracer_provider: where spans go; by default the global one.
        meter_provider: where measurements go; by default the global one.
        name: the value of the attribute ``adapty.client`` of the metrics ``adapty.client.*``, for
            clients of one API on one meter provider; by default they do not have it.

    Raises:
        ValueError: the client, or one that shares its limits, is instrumented with one of these
            providers already.
    """
    original = original_of(client)
    is_global = meter_provider is None or meter_provider is metrics.get_meter_provider()
    provider: object = metrics if is_global else meter_provider
    is_global = tracer_provider is None or tracer_provider is trace.get_tracer_provider()
    traced = _traced.setdefault(trace if is_global else tracer_provider, weakref.WeakSet())
    if original in traced or any(each() is original for each, _ in _measured.get(provider, ())):
        raise ValueError(ALREADY.format("instrumented", "requests"))
    traced.add(original)
    tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
    meter = metrics.get_meter(_NAME, __version__, meter_provider)
    server = _server_attributes(client.origin)
    client.add_middleware(_Attempts(tracer, server))
    named: _Attributes = {} if name is None else {"adapty.client": name}
    client.add_hook(_Calls(tracer, meter, named, server))
    _measure(original, named, meter, provider)


class _Call:
    """The span of a call, its tracer, the number of its requests so far, and the call around it."""

    def __init__(self, span: Span, tracer: Tracer, outer: _Call | None) -> None:
        self.span = span
        self.tracer = tracer
        self.outer = outer
        self.requests = 0
        self._token = context.attach(trace.set_span_in_context(span))

    def end(self, event: CallEnded) -> None:
        """Close the span and leave its context."""
        self.span.set_attribute("adapty.attempts", event.attempts)
        if event.error is not None:
            self.span.set_attribute("error.type", event.error)
            self.span.set_status(StatusCode.ERROR)
        context.detach(self._token)
        self.span.end()


# The innermost call of the running task: a middleware may make a call within another one.
_current: ContextVar[_Call | None] = ContextVar("adapty_async.call", default=None)


class _Calls:
    """A hook that opens a span when a call starts, and measures and closes it when it ends."""

    def __init__(
        self, tracer: Tracer, meter: Meter, named: _Attributes, server: _Attributes
    ) -> None:
        self._tracer = tracer
        self._named = named
        self._server = server
        self._calls = meter.create_histogram(
            "adapty.client.call.duration",
            unit="s",
            description=CALL_DURATION,
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._requests = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if isinstance(event, CallStarted):
            attributes = {"adapty.operation": event.operation}
            span = self._tracer.start_span(event.operation, attributes=attributes)
            _current.set(_Call(span, self._tracer, _current.get()))
        elif isinstance(event, AttemptEnded):
            measured = {"http.request.method": event.method, **self._server}
            measured |= _result_attributes(event.status, event.error)
            self._requests.record(event.elapsed, measured)
        elif isinstance(event, CallEnded):
            self._end(event)

    def _end(self, event: CallEnded) -> None:
        measured = {"adapty.operation": event.operation, **self._named}
        if event.error is not None:
            measured["error.type"] = event.error
        self._calls.record(event.elapsed, measured)
        call = _current.get()
        if call is not None:
            _current.set(call.outer)
            call.end(event)


class _Attempts:
    """A middleware that makes each attempt a client span, whose context goes over the wire."""

    def __init__(self, tracer: Tracer, server: _Attributes) -> None:
        self._tracer = tracer
        self._server = server

    async def __call__(self, request: Request, send: Send) -> Response:
        """Send a request within a span."""
        attributes = {"http.request.method": request.method, **self._server}
        call = _current.get()
        while call is not None and call.tracer is not self._tracer:  # with two providers
            call = call.outer
        if call is not None:
            if call.requests:
                attributes["http.request.resend_count"] = call.requests
            call.requests += 1
        span = self._tracer.start_span(request.method, kind=SpanKind.CLIENT, attributes=attributes)
        token = context.attach(trace.set_span_in_context(span))
        try:
            headers: dict[str, str] = {}
            propagate.inject(headers)
            with suppress_http_instrumentation():
                response = await send(request.with_headers(headers))
        except BaseException as error:
            _set_result(span, getattr(error, "status", None), type(error).__name__)
            raise
        else:
            _set_result(span, response.status, None)
            return response
        finally:
            context.detach(token)
            span.end()


def _server_attributes(origin: str) -> _Attributes:
    """Return the address and the port, which the conventions require also if it is the default."""
    parts = urlsplit(origin)
    port = parts.port or _PORTS[parts.scheme]
    return {"server.address": parts.hostname or "", "server.port": port}


def _result_attributes(status: int | None, error: str | None) -> _Attributes:
    attributes: _Attributes = {}
    if status is not None:
        attributes["http.response.status_code"] = status
    if status is not None and status >= 400:
        attributes["error.type"] = str(status)
    elif error is not None:
        attributes["error.type"] = error
    return attributes


def _set_result(span: Span, status: int | None, error: str | None) -> None:
    attributes = _result_attributes(status, error)
    span.set_attributes(attributes)
    if "error.type" in attributes:
        span.set_status(StatusCode.ERROR)


# The traced clients of each tracer provider; `trace` stands for the global one.
_traced: weakref.WeakKeyDictionary[object, weakref.WeakSet[BaseClient]]
_traced = weakref.WeakKeyDictionary()
# The measured clients of each meter provider, since a meter ignores an instrument that it has. The
# module `metrics` stands for the global provider, which may be set after a client was measured.
_measured: weakref.WeakKeyDictionary[object, _Measured] = weakref.WeakKeyDictionary()


def _measure(client: BaseClient, named: _Attributes, meter: Meter, provider: object) -> None:
    """Let the instruments of a provider, which its first client creates, read a client, too."""
    clients = _measured.get(provider)
    if clients is None:
        clients = _measured[provider] = []
        _create_gauges(meter, clients)
    clients[:] = [
        *(each for each in clients if each[0]() is not None),
        (weakref.ref(client), named),
    ]


def _create_gauges(meter: Meter, clients: _Measured) -> None:
    """Create the instruments that read the clients' statistics when they are collected."""

    def observing(read: Callable[[Statistics], _Values]) -> _Read:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            found = [(client, named) for each, named in clients if (client := each()) is not None]
            return [
                Observation(value, attributes | named)
                for client, named in found
                for value, attributes in read(client.statistics())
            ]

        return observe

    gauge, counter = meter.create_observable_gauge, meter.create_observable_counter
    for metric in BUCKET_METRICS:
        create = counter if metric.is_counter else gauge
        read = observing(partial(_by_bucket, metric.read))
        create(f"adapty.client.{metric.name}", [read], metric.unit, metric.text)
    gauge("adapty.client.retry_budget", [observing(_budget)], "{token}", RETRY_BUDGET)
    counter("adapty.client.bulk.items", [observing(_items)], "{item}", BULK_ITEMS)


def _by_bucket(read: Callable[[BucketStatistics], float], now: Statistics) -> _Values:
    return [(read(each), {"adapty.bucket": name}) for name, each in now.buckets.items()]


def _budget(now: Statistics) -> _Values:
    return [(now.budget, {})]


def _items(now: Statistics) -> _Values:
    found = now.bulk_items.items()
    return [(count, {"adapty.status": str(status)}) for status, count in found]
