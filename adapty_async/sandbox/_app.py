"""
The request handler of the sandbox: fault, rate limit, service, log, response.

The handler awaits nothing between the arrival of the last byte and the decision about the
response. The log, the seeded faults and the state therefore process requests in the same order.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import msgspec
from aiohttp import web

from . import _export, _mail, _page, _v1
from ._body import LENGTH_MAX, too_large, unpacked
from ._export import Export
from ._mail import Mail
from ._rules import Problem
from ._service import Call, Conflicts, Refusal, Response, Service, storable
from ._store import Arrival
from ._strict import Documents
from ._v1 import ServerSideV1
from ._v2 import ServerSideV2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._faults import FaultPlan
    from ._rate import TokenBucket
    from ._store import Store

_RESET = struct.pack("ii", 1, 0)
_NDJSON = "application/x-ndjson"


class Options(NamedTuple):
    """The options of a sandbox; `buckets` maps the name of an API to its rate limit."""

    api_key: str
    mail_api_key: str
    buckets: Mapping[str, TokenBucket]
    retry_after: Literal["seconds", "date", "none"]
    latency: float
    virtual_currencies: bool
    seed: int
    export_segments: int
    strict: bool
    conflicts: Conflicts


class _Outcome(NamedTuple):
    """A decision about a request; without a response the connection is reset."""

    fault: str | None
    applied: bool
    response: Response | None


class App:
    """A request handler that serves the APIs, and pages about the sandbox, from one store."""

    def __init__(self, store: Store, faults: FaultPlan, options: Options) -> None:
        """Build the services; nothing is started."""
        self.stopping = asyncio.Event()
        self._store = store
        self._faults = faults
        self._options = options
        self._check = Documents().check if options.strict else None
        v1, mail = ServerSideV1(store, options.api_key), Mail(store, options.mail_api_key)
        self._v2 = ServerSideV2(
            store,
            options.api_key,
            options.latency,
            currencies=options.virtual_currencies,
            conflicts=options.conflicts,
        )
        self._services: dict[str, Service] = {
            **dict.fromkeys(_v1.PATHS, v1),
            **dict.fromkeys(_mail.PATHS, mail),
            **dict.fromkeys(
                _export.PATHS, Export(options.api_key, options.seed, options.export_segments)
            ),
        }
        self._pages = {
            ("GET", "/"): self._overview,
            ("GET", "/_sandbox/state"): self._state,
            ("GET", "/_sandbox/arrivals"): self._arrivals,
            ("GET", "/_sandbox/profiles"): self._profiles,
            ("POST", "/_sandbox/seed"): self._seed,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to one request of any kind."""
        service = self._services.get(request.path) or self._v2.at(request.path)
        if service is not None:
            return await self._serve(request, service)
        page = self._pages.get((request.method, request.path))
        if page is not None:
            return await page(request)
        return await self._not_found(request)

    # The APIs

    async def _serve(self, request: web.BaseRequest, service: Service) -> web.StreamResponse:
        body, refusal = await _received(request)
        call = Call(request.method, request.path, request.headers, body, request.query, self._check)
        outcome = self._outcome(service, call, refusal)
        number = self._log(call, service.name, service.identity(call), outcome)
        if outcome.fault == "stall":
            await self.stopping.wait()
        if outcome.response is None:
            return _reset(request)
        if self._options.latency:
            await asyncio.sleep(self._options.latency)
            self._store.update_status(number, outcome.response.status)
        return await outcome.response.send(request)

    def _outcome(self, service: Service, call: Call, refusal: Refusal | None) -> _Outcome:
        fault = self._faults.draw()
        if fault in ("reset", "stall"):
            return _Outcome(fault, applied=False, response=None)
        if fault is not None and fault != "reset_after":
            return _Outcome(fault, applied=False, response=self._fault_response(service, fault))
        response = self._response(service, call, refusal)
        applied = response.status < HTTPStatus.BAD_REQUEST
        return _Outcome(fault, applied, None if fault else response)

    def _response(self, service: Service, call: Call, refusal: Refusal | None) -> Response:
        bucket = self._options.buckets.get(service.name)
        wait = bucket.acquire() if bucket else 0
        if wait:
            return self._throttled(service, wait)
        if refusal is not None:
            return service.error(refusal)
        try:
            return service.perform(call)
        except Refusal as refused:
            return service.error(refused)._replace(allow=refused.allow)

    def _fault_response(self, service: Service, fault: str) -> Response:
        status = HTTPStatus(int(fault.removesuffix("-html")))
        if fault.endswith("-html"):
            return _gateway_page(status)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return self._throttled(service, 1)
        code = status.phrase.lower().replace(" ", "_")
        return service.error(Refusal(status.value, code, Problem(status.phrase)))

    def _throttled(self, service: Service, wait: float) -> Response:
        # Adapty's documentation states code and status of a 429, but no text and no Retry-After.
        response = service.error(Refusal(429, "rate_limited", Problem("Too many requests")))
        seconds = max(1, math.ceil(wait))
        if service.name == Export.name:  # its documentation shows neither body nor header
            return response
        if self._options.retry_after == "seconds":
            return response._replace(retry_after=str(seconds))
        if self._options.retry_after == "date":
            moment = math.ceil(time.time()) + seconds
            return response._replace(retry_after=formatdate(moment, usegmt=True))
        return response

    def _log(self, call: Call, api: str, identity: str | None, outcome: _Outcome) -> int:
        is_final = outcome.response is not None and not self._options.latency
        return self._store.log(
            Arrival(
                number=0,
                at=time.time(),
                method=call.method,
                path=call.path,
                api=api,
                identity=identity and storable(identity),
                status=outcome.response.status if outcome.response and is_final else 0,
                fault=outcome.fault,
                applied=outcome.applied,
            )
        )

    async def _not_found(self, request: web.BaseRequest) -> web.StreamResponse:
        # The gateway responds, not one of the APIs, so the body has none of their formats.
        response = _gateway_page(HTTPStatus.NOT_FOUND)
        if not request.path.startswith("/_sandbox/"):
            call = Call(request.method, request.path, request.headers, b"", request.query)
            self._log(call, "other", None, _Outcome(None, applied=False, response=response))
        return response.to_web()

    # About the sandbox

    async def _overview(self, _request: web.BaseRequest) -> web.StreamResponse:
        page = _page.render(
            self._store.state(),
            self._store.count(),
            self._store.newest(50),
            self._store.latest(50),
        )
        return web.Response(text=page, content_type="text/html")

    async def _state(self, _request: web.BaseRequest) -> web.StreamResponse:
        profiles, mail_profiles, mail_events = self._store.state()
        return _json(
            {
                "v1_profiles": profiles,
                "mail_profiles": mail_profiles,
                "mail_events": mail_events,
                "arrivals": {str(status): count for status, count in self._store.count().items()},
            }
        )

    async def _arrivals(self, request: web.BaseRequest) -> web.StreamResponse:
        return await _stream(request, self._store.arrival_pages())

    async def _profiles(self, request: web.BaseRequest) -> web.StreamResponse:
        api = request.query.get("api", "v1")
        if api not in ("v1", "mail"):
            return web.Response(status=400, text="api must be v1 or mail")
        return await _stream(request, self._store.id_pages(api))

    async def _seed(self, request: web.BaseRequest) -> web.StreamResponse:
        # Not request.read(): a hundred thousand ids exceed its limit of 1 MiB.
        body = await request.content.read()
        try:
            ids = _seed_ids(unpacked(body, request.headers.get("Content-Encoding", ""), None))
        except Refusal as refusal:
            return web.Response(status=refusal.status, text=refusal.problems[0].message)
        except (msgspec.DecodeError, ValueError) as error:
            return web.Response(status=400, text=f"customer user ids as JSON strings: {error}")
        return _json({"added": self._store.seed(ids)})


async def _received(request: web.BaseRequest) -> tuple[bytes, Refusal | None]:
    """Return the body without content codings, and its refusal if it cannot be taken."""
    try:
        _expect(request)
        body = await request.read()
        return unpacked(body, request.headers.get("Content-Encoding", "")), None
    except web.HTTPRequestEntityTooLarge:
        return b"", too_large()
    except Refusal as refusal:
        return b"", refusal


def _expect(request: web.BaseRequest) -> None:
    """Send the interim response that a client with an `Expect` header waits for."""
    expected = request.headers.get("Expect")
    if (request.content_length or 0) > LENGTH_MAX:
        raise too_large()  # before the body is sent
    if expected is None or request.version < (1, 1):
        return
    if expected.lower() != "100-continue":
        problem = Problem("The only expectation is 100-continue")
        raise Refusal(417, "expectation_failed", problem)
    cast("asyncio.Transport", request.transport).write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    # A handler is cancelled when its client disconnects, so the transport exists. Closing with
    # a linger time of 0 sends RST.
    transport = cast("asyncio.Transport", request.transport)
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
    return web.Response()


def _gateway_page(status: HTTPStatus) -> Response:
    title = f"{status.value} {status.phrase}"
    page = (
        f"<html>\n<head><title>{title}</title></head>\n"
        f"<body>\n<center><h1>{title}</h1></center>\n</body>\n</html>\n"
    )
    return Response(status.value, page.encode(), "text/html")


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _stream(request: web.BaseRequest, pages: Iterable[list[Any]]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": _NDJSON})
    await response.prepare(request)
    encoder = msgspec.json.Encoder()
    for page in pages:
        await response.write(encoder.encode_lines(page))
    await response.write_eof()
    return response


def _seed_ids(body: bytes) -> list[str]:
    if body.lstrip().startswith(b"["):
        return msgspec.json.decode(body, type=list[str])
    return msgspec.json.Decoder(str).decode_lines(body)
