"""Traces and metrics with OpenTelemetry's own SDK, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

import pytest
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from adapty_async import (
    AdaptyClient,
    AdaptyExportClient,
    AdaptyMailClient,
    DecodeError,
    NotFoundError,
    OutcomeStatus,
    RetryPolicy,
)
from adapty_async._version import __version__
from adapty_async.export import PlacementFilters
from adapty_async.hooks import CallEnded
from adapty_async.integrations import opentelemetry
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport
from adapty_async.transport import Request, Response, Send
from tests._support import a_request
from tests.raw_server import RESET, RawServer, page

USER = "user-canary-8361"
POLICY = RetryPolicy(wait_initial=0.001, wait_max=0.001)
Derive: TypeAlias = Callable[[AdaptyClient], AdaptyClient]
# https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
RECOMMENDED_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Telemetry:
    """Providers of spans and metrics that keep everything in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their ends."""
        return list(self.exporter.get_finished_spans())

    def metrics(self) -> list[tuple[Any, Any]]:
        """Return all metrics, each after its scope."""
        data = self.reader.get_metrics_data()
        return [
            (scope.scope, metric)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def points(self, name: str) -> list[Any]:
        """Return the data points of a metric."""
        found = (metric.data.data_points for _, metric in self.metrics() if metric.name == name)
        return list(itertools.chain.from_iterable(found))


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Return providers, shut down at the end."""
    made = Telemetry()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Serve a sandbox with one user."""
    async with Sandbox() as running:
        running.seed_profiles([USER])
        yield running


def client_of(sandbox: Sandbox, telemetry: Telemetry) -> AdaptyClient:
    """Return an instrumented client."""
    client = AdaptyClient(sandbox.api_key, base_url=sandbox.url, retry=POLICY)
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    return client


async def test_a_call_is_a_span_above_its_attempts(sandbox: Sandbox, telemetry: Telemetry) -> None:
    """A retried call has one span, below the caller's own, and a client span for each attempt."""
    sandbox.fail_next("503")
    tracer = telemetry.tracers.get_tracer("service")
    async with client_of(sandbox, telemetry) as client:
        with tracer.start_as_current_span("request") as outer:
            await client.v2.profiles.delete(customer_user_id=USER)
            assert trace.get_current_span() is outer

    failed, succeeded, call, request = telemetry.spans
    assert (request.name, call.name, failed.name) == ("request", "v2.profiles.delete", "DELETE")
    assert call.parent is not None
    assert call.parent.span_id == request.context.span_id
    for attempt in (failed, succeeded):
        assert attempt.kind is SpanKind.CLIENT
        assert attempt.parent is not None
        assert attempt.parent.span_id == call.context.span_id
    host, port = sandbox.url.removeprefix("http://").split(":")
    common = {"http.request.method": "DELETE", "server.address": host, "server.port": int(port)}
    assert failed.attributes == common | {"http.response.status_code": 503, "error.type": "503"}
    assert failed.status.status_code is StatusCode.ERROR
    assert succeeded.attributes == common | {
        "http.response.status_code": 204,
        "http.request.resend_count": 1,
    }
    assert call.attributes == {"adapty.operation": "v2.profiles.delete", "adapty.attempts": 2}
    assert call.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("base_url", "server"),
    [
        ("https://api.adapty.io", {"server.address": "api.adapty.io", "server.port": 443}),
        ("http://[::1]", {"server.address": "::1", "server.port": 80}),
        ("http://[::1]:8080", {"server.address": "::1", "server.port": 8080}),
    ],
    ids=["no port", "IPv6", "IPv6 with a port"],
)
async def test_the_server_of_a_request(
    telemetry: Telemetry, base_url: str, server: dict[str, object]
) -> None:
    """An address is without its brackets, and a port is there also if it is the default."""
    transport = FakeTransport([(204, {}, b"")])
    async with AdaptyClient("key", base_url=base_url, transport=transport) as client:
        opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
        await client.v2.profiles.delete(customer_user_id=USER)

    attributes = telemetry.spans[0].attributes or {}
    assert {name: value for name, value in attributes.items() if "server" in name} == server


async def test_an_error_is_in_the_span_without_ids(sandbox: Sandbox, telemetry: Telemetry) -> None:
    """A failed call has the class of its error; no span and no metric holds the id or the key."""
    async with client_of(sandbox, telemetry) as client:
        with pytest.raises(NotFoundError):
            await client.v2.profiles.delete(customer_user_id="nobody-canary-8361")

    attempt, call = telemetry.spans
    assert (attempt.status.status_code, call.status.status_code) == (StatusCode.ERROR,) * 2
    assert call.attributes is not None
    assert call.attributes["error.type"] == "NotFoundError"
    everything = "".join(span.to_json() for span in telemetry.spans)
    everything += str(telemetry.reader.get_metrics_data())
    assert "canary" not in everything
    assert sandbox.api_key not in everything


async def test_an_attempt_without_a_response(sandbox: Sandbox, telemetry: Telemetry) -> None:
    """An attempt whose connection broke has the class of the error as its type."""
    sandbox.fail_next("reset")
    async with client_of(sandbox, telemetry) as client:
        await client.v1.profiles.delete(customer_user_id=USER)

    lost, *_ = telemetry.spans
    assert lost.attributes is not None
    assert lost.attributes["error.type"] == "ConnectionLostError"


async def test_the_context_goes_over_the_wire(telemetry: Telemetry) -> None:
    """Each attempt sends the traceparent of its own span."""
    async with RawServer((page(500),)) as server:
        client = AdaptyClient("key", base_url=server.url, retry=POLICY)
        opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
        async with client:
            await client.v1.profiles.delete(customer_user_id=USER)
            assert client.statistics().http_path == "fast"
        sent = [request.headers["traceparent"] for request in server.requests]

    *attempts, _ = telemetry.spans
    assert [
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}" for span in attempts
    ] == [header[:-3] for header in sent]  # without the flags


async def test_beside_the_instrumentation_of_aiohttp(
    sandbox: Sandbox, telemetry: Telemetry
) -> None:
    """With both in use, an attempt has one span."""
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracers)
    try:
        async with client_of(sandbox, telemetry) as client:
            await client.v2.profiles.delete(customer_user_id=USER)
    finally:
        instrumentor.uninstrument()

    assert [span.name for span in telemetry.spans] == ["DELETE", "v2.profiles.delete"]


async def test_an_attempt_outside_of_a_call(telemetry: Telemetry) -> None:
    """An attempt in a context without its call has a span, and no count of resends."""
    middleware = opentelemetry._Attempts(telemetry.tracers.get_tracer("test"), {})
    await middleware(a_request(), FakeTransport([(204, {}, b"")]))

    [attempt] = telemetry.spans
    assert attempt.attributes is not None
    assert "http.request.resend_count" not in attempt.attributes


async def test_calls_of_a_bulk_run(sandbox: Sandbox, telemetry: Telemetry) -> None:
    """Each item is a call; concurrent calls do not mix their spans."""
    users = [f"u{number}" for number in range(50)]
    sandbox.seed_profiles(users)
    async with client_of(sandbox, telemetry) as client:
        report = await client.v2.profiles.bulk_delete(users, by="customer_user_id", concurrency=8)
        assert report.done == 50

    calls = {span.context.span_id for span in telemetry.spans if span.kind is SpanKind.INTERNAL}
    attempts = [span.parent for span in telemetry.spans if span.kind is SpanKind.CLIENT]
    assert len(calls) == len(attempts) == 50
    assert {parent.span_id for parent in attempts if parent is not None} == calls
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_cancelled_call_closes_its_spans(telemetry: Telemetry) -> None:
    """The spans of a call that is cancelled end with it."""

    async def hang(request: object) -> Any:
        await asyncio.Event().wait()

    client = AdaptyClient("key", transport=hang)
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    call = asyncio.create_task(client.v1.profiles.delete(customer_user_id=USER))
    for _ in range(5):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await client.aclose()

    assert [span.name for span in telemetry.spans] == ["DELETE", "v1.profiles.delete"]


async def test_a_call_within_a_middleware_has_a_span_of_its_own(
    sandbox: Sandbox, telemetry: Telemetry
) -> None:
    """Each of two nested calls closes its span, and the inner one is below the attempt."""
    inner = client_of(sandbox, telemetry)
    outer = AdaptyClient(sandbox.api_key, base_url=sandbox.url)

    async def look_first(request: Request, send: Send) -> Response:
        await inner.v2.profiles.get(customer_user_id=USER)
        return await send(request)

    outer.add_middleware(look_first)
    opentelemetry.instrument(outer, telemetry.tracers, telemetry.meters)
    async with inner, outer:
        await outer.v2.profiles.delete(customer_user_id=USER)

    spans = telemetry.spans
    assert [span.name for span in spans] == [
        *("GET", "v2.profiles.get"),
        *("DELETE", "v2.profiles.delete"),
    ]
    parents = [span.parent and span.parent.span_id for span in spans]
    assert parents == [
        *(span.context and span.context.span_id for span in (spans[1], spans[2], spans[3])),
        None,
    ]
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_an_export_client(telemetry: Telemetry) -> None:
    """The calls of an export client have spans, too."""
    client = AdaptyExportClient("key", transport=FakeTransport([(200, {}, b'{"data":[]}')]))
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    async with client:
        await client.placements(filters=PlacementFilters(placement_type="paywall"))

    assert [span.name for span in telemetry.spans] == ["POST", "export.placements"]


async def test_metrics(sandbox: Sandbox, telemetry: Telemetry) -> None:
    """Durations by operation and status, and the client's statistics by bucket."""
    sandbox.fail_next("429")
    async with client_of(sandbox, telemetry) as client:
        await client.with_options(timeout=5.0).v2.profiles.delete(customer_user_id=USER)
        [call] = telemetry.points("adapty.client.call.duration")
        requests = telemetry.points("http.client.request.duration")
        [throttled] = telemetry.points("adapty.client.throttled")
        [sent] = telemetry.points("adapty.client.requests")
        [circuit] = telemetry.points("adapty.client.circuit")
        [budget] = telemetry.points("adapty.client.retry_budget")

    assert call.attributes == {"adapty.operation": "v2.profiles.delete"}
    assert call.count == 1
    assert {point.attributes["http.response.status_code"] for point in requests} == {429, 204}
    for point in (call, *requests):
        assert point.explicit_bounds == (*RECOMMENDED_BOUNDS, 30, 60)
    assert throttled.attributes == {"adapty.bucket": "v2"}
    assert (throttled.value, sent.value, circuit.value) == (1, 2, 0)
    assert budget.value > 0


async def test_durations_are_those_of_the_conventions(telemetry: Telemetry) -> None:
    """The attributes of a request name its server, its method and its end."""
    async with RawServer((page(500),), (RESET,)) as server:
        client = AdaptyClient("key", base_url=server.url, retry=POLICY)
        opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
        async with client:
            await client.v1.profiles.delete(customer_user_id=USER)
        host, port = server.url.removeprefix("http://").split(":")

    common = {"http.request.method": "DELETE", "server.address": host, "server.port": int(port)}
    failed = {"http.response.status_code": 500, "error.type": "500"}
    ends: list[dict[str, Any]]
    ends = [failed, {"error.type": "ConnectionLostError"}, {"http.response.status_code": 200}]
    points = telemetry.points("http.client.request.duration")
    assert [point.attributes for point in points] == [common | end for end in ends]
    resent = [(span.attributes or {}).get("http.request.resend_count") for span in telemetry.spans]
    assert resent == [None, 1, 2, None]  # the last one is that of the call
    shown = {metric.name: metric.description for _, metric in telemetry.metrics()}
    assert shown["http.client.request.duration"] == "Duration of HTTP client requests."
    scopes = [span.instrumentation_scope for span in telemetry.spans]
    scopes += [scope for scope, _ in telemetry.metrics()]
    assert {(scope.name, scope.version) for scope in scopes if scope} == {
        ("adapty_async", __version__)
    }


async def test_an_error_of_a_response_has_its_status(telemetry: Telemetry) -> None:
    """An error that a transport raises for a response, such as for one too large, names both."""
    client = AdaptyClient("key", transport=FakeTransport([DecodeError("too large", status=200)]))
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    with pytest.raises(DecodeError):
        await client.v1.profiles.get(customer_user_id=USER)

    attributes = telemetry.spans[0].attributes or {}
    assert attributes["http.response.status_code"] == 200
    assert attributes["error.type"] == "DecodeError"


async def test_items_of_a_bulk_run(sandbox: Sandbox, telemetry: Telemetry) -> None:
    """The items of bulk runs are counted by status, with no id in the attributes."""
    async with client_of(sandbox, telemetry) as client:
        assert telemetry.points("adapty.client.bulk.items") == []
        await client.v2.profiles.bulk_delete([USER, "nobody", ""], by="customer_user_id")
        points = telemetry.points("adapty.client.bulk.items")

    counts = {point.attributes["adapty.status"]: point.value for point in points}
    assert counts == dict.fromkeys(OutcomeStatus, 0) | {"done": 1, "absent": 1, "failed": 1}
    assert {tuple(point.attributes) for point in points} == {("adapty.status",)}


async def test_each_metric_has_its_kind_and_unit(telemetry: Telemetry) -> None:
    """Counters are sums, and units are those of the Unified Code for Units of Measure."""
    client = AdaptyClient("key", transport=FakeTransport([(204, {}, b"")]))
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    await client.v2.profiles.bulk_delete([USER], by="customer_user_id")

    metrics_of = {metric.name: metric for _, metric in telemetry.metrics()}
    assert {name: (type(each.data).__name__, each.unit) for name, each in metrics_of.items()} == {
        "adapty.client.requests": ("Sum", "{request}"),
        "adapty.client.throttled": ("Sum", "{request}"),
        "adapty.client.rate": ("Gauge", "{request}/s"),
        "adapty.client.in_flight": ("Gauge", "{request}"),
        "adapty.client.paused": ("Gauge", "s"),
        "adapty.client.circuit": ("Gauge", "1"),
        "adapty.client.retry_budget": ("Gauge", "{token}"),
        "adapty.client.bulk.items": ("Sum", "{item}"),
        "adapty.client.call.duration": ("Histogram", "s"),
        "http.client.request.duration": ("Histogram", "s"),
    }
    assert all(each.description.endswith(".") for each in metrics_of.values())


async def test_each_client_of_a_provider_is_measured(telemetry: Telemetry) -> None:
    """A meter has each instrument once, with the values of all clients that exist."""
    mail = AdaptyMailClient("key", transport=FakeTransport([(204, {}, b"")]))
    client = AdaptyClient("key", transport=FakeTransport())
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    client = AdaptyClient("key", transport=FakeTransport([(204, {}, b"")] * 2))  # in its place
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    opentelemetry.instrument(mail, telemetry.tracers, telemetry.meters)
    await client.v2.profiles.bulk_delete([USER, "u2"], by="customer_user_id")
    await mail.profiles.delete(email="user@example.com")

    requests = telemetry.points("adapty.client.requests")
    assert {point.attributes["adapty.bucket"]: point.value for point in requests} == {
        "v2": 2,
        "mail": 1,
    }
    items = telemetry.points("adapty.client.bulk.items")
    assert {point.attributes["adapty.status"]: point.value for point in items}["done"] == 2


async def test_a_client_is_instrumented_once(telemetry: Telemetry) -> None:
    """A second time would count each request twice, with one of the providers, too."""
    client = AdaptyClient("key", transport=FakeTransport([(204, {}, b"")]))
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    for providers in (
        (telemetry.tracers, telemetry.meters),
        (telemetry.tracers, MeterProvider()),
        (TracerProvider(), telemetry.meters),
    ):
        with pytest.raises(ValueError, match=r"^the client is instrumented already, "):
            opentelemetry.instrument(client, *providers)
    await client.v2.profiles.delete(customer_user_id=USER)

    assert [point.value for point in telemetry.points("adapty.client.requests")] == [1]
    assert [span.name for span in telemetry.spans] == ["DELETE", "v2.profiles.delete"]


async def test_the_global_providers_are_those_without_a_name() -> None:
    """A client that is instrumented with them is so, too, if they are passed."""
    client = AdaptyClient("key", transport=FakeTransport())
    opentelemetry.instrument(client)
    for providers in (
        (None, MeterProvider()),
        (trace.get_tracer_provider(), MeterProvider()),
        (TracerProvider(), None),
        (TracerProvider(), metrics.get_meter_provider()),
    ):
        with pytest.raises(ValueError, match=r"^the client is instrumented already, "):
            opentelemetry.instrument(client, *providers)


async def test_two_pairs_of_providers_count_for_themselves(telemetry: Telemetry) -> None:
    """Each has its own spans and metrics, and the first attempt of a call is no resend."""
    other = Telemetry()
    responses = FakeTransport([(503, {"Retry-After": "0"}, b""), (204, {}, b"")])
    client = AdaptyClient("key", transport=responses)
    for one in (telemetry, other):
        opentelemetry.instrument(client, one.tracers, one.meters)
    await client.v2.profiles.delete(customer_user_id=USER)

    for one in (telemetry, other):
        assert [point.value for point in one.points("adapty.client.requests")] == [2]
        assert [span.name for span in one.spans] == ["DELETE", "DELETE", "v2.profiles.delete"]
        resent = [(span.attributes or {}).get("http.request.resend_count") for span in one.spans]
        assert resent == [None, 1, None]
    other.tracers.shutdown()
    other.meters.shutdown()


def with_options(client: AdaptyClient) -> AdaptyClient:
    """Return a client of a client of the client's."""
    return client.with_options(timeout=5.0).with_options(timeout=4.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(lambda client: client, with_options, id="the client first"),
        pytest.param(with_options, lambda client: client, id="the client last"),
        pytest.param(with_options, with_options, id="siblings"),
    ],
)
async def test_clients_that_share_their_limits_are_instrumented_once(
    telemetry: Telemetry, first: Derive, second: Derive
) -> None:
    """They share their statistics, and a client of `with_options` may have the hooks as well."""
    client = AdaptyClient("key", transport=FakeTransport([(204, {}, b"")]))
    measured, earlier = first(client), second(client)
    opentelemetry.instrument(measured, telemetry.tracers, telemetry.meters)
    for other in (earlier, second(client)):
        with pytest.raises(ValueError, match="already, itself or through with_options"):
            opentelemetry.instrument(other, telemetry.tracers, telemetry.meters)
    await measured.v2.profiles.delete(customer_user_id=USER)

    assert [point.count for point in telemetry.points("adapty.client.call.duration")] == [1]
    assert [point.value for point in telemetry.points("adapty.client.requests")] == [1]
    assert [span.name for span in telemetry.spans] == ["DELETE", "v2.profiles.delete"]


async def test_a_client_that_takes_the_place_of_the_measured_one(telemetry: Telemetry) -> None:
    """The statistics are measured as long as any client that shares them exists."""
    client = AdaptyClient("key", transport=FakeTransport([(204, {}, b"")]))
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    client = client.with_options(timeout=5.0)
    gc.collect()
    await client.v2.profiles.delete(customer_user_id=USER)
    assert [point.value for point in telemetry.points("adapty.client.requests")] == [1]
    await client.aclose()
    del client
    gc.collect()

    assert telemetry.points("adapty.client.requests") == []


async def test_clients_of_one_api_are_distinguished_by_name(telemetry: Telemetry) -> None:
    """Each value of the client's own metrics has the name, so that none replaces another's."""
    clients = {}
    for name in ("anvil", "brush"):
        client = AdaptyClient("key", transport=FakeTransport([(204, {}, b"")] * 2))
        opentelemetry.instrument(client, telemetry.tracers, telemetry.meters, name=name)
        clients[name] = client
    await clients["anvil"].v2.profiles.bulk_delete([USER], by="customer_user_id")

    def named(metric: str) -> dict[Any, Any]:
        return {each.attributes["adapty.client"]: each for each in telemetry.points(metric)}

    assert named("adapty.client.call.duration").keys() == {"anvil"}
    assert named("adapty.client.retry_budget").keys() == clients.keys()
    assert named("adapty.client.bulk.items").keys() == {"anvil"}
    assert named("adapty.client.requests")["anvil"].attributes["adapty.bucket"] == "v2"
    [attempt] = telemetry.points("http.client.request.duration")
    assert "adapty.client" not in attempt.attributes


async def test_a_dropped_client_leaves_no_values(telemetry: Telemetry) -> None:
    """The instruments do not keep the client alive."""
    client = AdaptyClient("key", transport=FakeTransport([(204, {}, b"")]))
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    await client.v1.profiles.delete(customer_user_id=USER)
    await client.aclose()
    assert len(telemetry.points("adapty.client.requests")) == 1
    del client
    gc.collect()

    assert telemetry.points("adapty.client.requests") == []
    assert telemetry.points("adapty.client.retry_budget") == []


async def test_an_end_without_a_start_is_measured(telemetry: Telemetry) -> None:
    """A call that ends in a context of its own, without the start, is counted without a span."""
    client = AdaptyClient("key", transport=FakeTransport())
    opentelemetry.instrument(client, telemetry.tracers, telemetry.meters)
    emitter = client._executor.layers.emitter
    assert emitter is not None
    emitter.emit(CallEnded("v1.profiles.delete", 0, 0.1, None, "CancelledError"))
    await client.aclose()

    [call] = telemetry.points("adapty.client.call.duration")
    assert call.attributes["error.type"] == "CancelledError"
    assert telemetry.spans == []
