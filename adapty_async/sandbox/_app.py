"""
The way of a request through the sandbox: fault, rate limit, service, log, answer.

From the arrival of the last byte to the decision about the answer nothing is awaited, so the log,
the seeded faults and the state all see the requests in one order.
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

from . import _mail, _page, _v1
from ._mail import Mail
from ._rules import Problem
from ._store import Arrival
from ._v1 import ServerSideV1
from ._v2 import ServerSideV2
from ._wire import Answer, Call, Refusal, Service, storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._faults import FaultPlan
    from ._rate import TokenBucket
    from ._store import Store

_RESET = struct.pack("ii", 1, 0)
_NDJSON = "application/x-ndjson"


class Options(NamedTuple):
    """Hold what a sandbox was made with; the rate limits by the name of their API."""

    api_key: str
    mail_api_key: str
    buckets: Mapping[str, TokenBucket]
    retry_after: Literal["seconds", "date", "none"]
    latency: float
    virtual_currencies: bool


class _Outcome(NamedTuple):
    """Hold what was decided about a request; without an answer the connection is cut."""

    fault: str | None
    applied: bool
    answer: Answer | None


class App:
    """Serve the APIs, and a few pages about the sandbox itself, from one store."""

    def __init__(self, store: Store, faults: FaultPlan, options: Options) -> None:
        """Take what is needed; nothing is started."""
        self.stopping = asyncio.Event()
        self._store = store
        self._faults = faults
        self._options = options
        v1, mail = ServerSideV1(store, options.api_key), Mail(store, options.mail_api_key)
        self._v2 = ServerSideV2(
            store, options.api_key, options.latency, currencies=options.virtual_currencies
        )
        self._services: dict[str, Service] = {
            **dict.fromkeys(_v1.PATHS, v1),
            **dict.fromkeys(_mail.PATHS, mail),
        }
        self._pages = {
            ("GET", "/"): self._overview,
            ("GET", "/_sandbox/state"): self._state,
            ("GET", "/_sandbox/arrivals"): self._arrivals,
            ("GET", "/_sandbox/profiles"): self._profiles,
            ("POST", "/_sandbox/seed"): self._seed,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of any kind."""
        service = self._services.get(request.path)
        if service is None and self._v2.serves(request.path):
            service = self._v2
        if service is not None:
            return await self._serve(request, service)
        page = self._pages.get((request.method, request.path))
        if page is not None:
            return await page(request)
        return await self._not_found(request)

    # The APIs

    async def _serve(self, request: web.BaseRequest, service: Service) -> web.StreamResponse:
        body = await request.read()
        call = Call(request.method, request.path, request.headers, body, request.query)
        outcome = self._outcome(service, call)
        number = self._log(call, service.name, service.identity(call), outcome)
        if outcome.fault == "stall":
            await self.stopping.wait()
        if outcome.answer is None:
            return _cut(request)
        if self._options.latency:
            await asyncio.sleep(self._options.latency)
            self._store.answered(number, outcome.answer.status)
        return outcome.answer.response()

    def _outcome(self, service: Service, call: Call) -> _Outcome:
        fault = self._faults.draw()
        if fault in ("reset", "stall"):
            return _Outcome(fault, applied=False, answer=None)
        if fault is not None and fault != "reset_after":
            return _Outcome(fault, applied=False, answer=self._fault_answer(service, fault))
        answer = self._answer(service, call)
        applied = answer.status < HTTPStatus.BAD_REQUEST
        return _Outcome(fault, applied, None if fault else answer)

    def _answer(self, service: Service, call: Call) -> Answer:
        bucket = self._options.buckets.get(service.name)
        wait = bucket.take() if bucket else 0
        if wait:
            return self._throttled(service, wait)
        try:
            return service.perform(call)
        except Refusal as refusal:
            return service.error(refusal)

    def _fault_answer(self, service: Service, fault: str) -> Answer:
        status = HTTPStatus(int(fault.removesuffix("-html")))
        if fault.endswith("-html"):
            return _gateway_page(status)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return self._throttled(service, 1)
        code = status.phrase.lower().replace(" ", "_")
        return service.error(Refusal(status.value, code, Problem(status.phrase)))

    def _throttled(self, service: Service, wait: float) -> Answer:
        # The documents give code and status of a 429, not its text, and no form of Retry-After.
        answer = service.error(Refusal(429, "rate_limited", Problem("Too many requests")))
        seconds = max(1, math.ceil(wait))
        if self._options.retry_after == "seconds":
            return answer._replace(retry_after=str(seconds))
        if self._options.retry_after == "date":
            moment = math.ceil(time.time()) + seconds
            return answer._replace(retry_after=formatdate(moment, usegmt=True))
        return answer

    def _log(self, call: Call, api: str, identity: str | None, outcome: _Outcome) -> int:
        answered = outcome.answer is not None and not self._options.latency
        return self._store.log(
            Arrival(
                number=0,
                at=time.time(),
                method=call.method,
                path=call.path,
                api=api,
                identity=identity and storable(identity),
                status=outcome.answer.status if outcome.answer and answered else 0,
                fault=outcome.fault,
                applied=outcome.applied,
            )
        )

    async def _not_found(self, request: web.BaseRequest) -> web.StreamResponse:
        # A server behind a gateway, but not one of the APIs: the body is not theirs either.
        answer = _gateway_page(HTTPStatus.NOT_FOUND)
        if not request.path.startswith("/_sandbox/"):
            call = Call(request.method, request.path, request.headers, b"", request.query)
            self._log(call, "other", None, _Outcome(None, applied=False, answer=answer))
        return answer.response()

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
        # Not request.read(): ids by the hundred thousand are more than its limit of 1 MiB.
        body = await request.content.read()
        try:
            ids = _seed_ids(body)
        except (msgspec.DecodeError, ValueError) as error:
            return web.Response(status=400, text=f"customer user ids as JSON strings: {error}")
        return _json({"added": self._store.seed(ids)})


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    # A handler whose client has gone is cancelled, so a transport is still there. Closing with
    # a linger time of 0 sends RST.
    transport = cast("asyncio.Transport", request.transport)
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
    return web.Response()


def _gateway_page(status: HTTPStatus) -> Answer:
    title = f"{status.value} {status.phrase}"
    page = (
        f"<html>\n<head><title>{title}</title></head>\n"
        f"<body>\n<center><h1>{title}</h1></center>\n</body>\n</html>\n"
    )
    return Answer(status.value, page.encode(), "text/html")


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
