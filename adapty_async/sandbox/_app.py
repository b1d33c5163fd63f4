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
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal, NamedTuple, cast

from aiohttp import web

from . import _export, _v1
from ._activity import Activity
from ._body import received
from ._faults import FaultPlan
from ._mail import Mail
from ._page import Page
from ._rate import TokenBucket
from ._rules import Problem
from ._service import Call, Refusal, Response, Service, storable
from ._shop import Shop
from ._store import Arrival, Store
from ._strict import Documents
from ._v2_app import AppV2, pattern
from ._v2_currencies import CurrenciesV2
from ._v2_profiles import ProfilesV2
from ._web import Web
from ._webhooks import Webhooks

_RESET = struct.pack("ii", 1, 0)


class Options(NamedTuple):
    """
    The options of a sandbox.

    `host` is the address that it listens on; `buckets` maps the name of an API to its rate limit.
    """

    host: str
    api_key: str
    mail_api_key: str
    public_key: str
    buckets: Mapping[str, TokenBucket]
    retry_after: Literal["seconds", "date", "none"]
    body_timeout: float
    virtual_currencies: bool
    strict: bool
    unknown_product_level: str | None
    unset_refund_saver: Literal["null", "defaults"]
    seed: int
    export_segments: int


class _Outcome(NamedTuple):
    """A decision about a request; without a response the connection is reset."""

    fault: str | None
    applied: bool
    response: Response | None


class App:
    """A request handler that serves the APIs, and pages about the sandbox, from one store."""

    def __init__(
        self, store: Store, faults: FaultPlan, options: Options, webhooks: Webhooks | None = None
    ) -> None:
        self.stopping = asyncio.Event()
        self._store = store
        self._faults = faults
        self._options = options
        self._check = Documents().check if options.strict else None
        shop = Shop(store.connection, options.unknown_product_level)
        profiles = ProfilesV2(store, shop, None if webhooks is None else webhooks.send)
        settings = AppV2(store, shop, profiles, options.unset_refund_saver)
        currencies = CurrenciesV2(
            store, shop, lambda: faults.latency, enabled=options.virtual_currencies
        )
        key = f"Api-Key {options.api_key}"
        self._services: dict[str, Service] = {
            _v1.PATH: _v1.ServerSideV1(store, key),
            **profiles.services(key),
            **settings.services(key),
            **currencies.services(key),
            **Web(store, shop).services(f"Api-Key {options.public_key}"),
            **Mail(store).services(f"Bearer {options.mail_api_key}"),
            **_export.services(key, _export.Numbers(options.seed, options.export_segments)),
        }
        self._activity = Activity()
        self._page = Page(
            store,
            shop,
            faults,
            self._activity,
            buckets=options.buckets,
            listens_on=options.host,
            body_timeout=options.body_timeout,
            stopping=self.stopping,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to one request of any kind."""
        service = self._services.get(pattern(request.path))
        if service is not None:
            return await self._serve(request, service)
        if self._page.serves(request.method, request.path):
            page = await self._page.handle(request)
            return page or _gateway_page(HTTPStatus.NOT_FOUND).to_web()
        return await self._unknown(request)

    # The APIs

    async def _serve(self, request: web.BaseRequest, service: Service) -> web.StreamResponse:
        body, refusal = await received(request, self._options.body_timeout)
        call = Call(request.method, request.path, request.headers, body, request.query, self._check)
        outcome = self._outcome(service, call, refusal)
        latency = self._faults.latency
        number = self._log(request, call, service.name, service.identity(call), outcome)
        if outcome.fault == "stall":
            await self.stopping.wait()
        if outcome.response is None:
            return _reset(request)
        if latency:
            await asyncio.sleep(latency)
            self._store.update_status(number, outcome.response.status)
        return await outcome.response.send(request)

    def _outcome(self, service: Service, call: Call, refusal: Refusal | None) -> _Outcome:
        """Decide what happens to a request: a fault, or the response of its service."""
        fault = self._faults.draw()
        if fault in ("reset", "stall"):
            return _Outcome(fault, applied=False, response=None)
        if fault is not None and fault != "reset_after":
            return _Outcome(fault, applied=False, response=self._fault_response(service, fault))
        response = self._response(service, call, refusal)
        applied = response.status < HTTPStatus.BAD_REQUEST
        return _Outcome(fault, applied, None if fault else response)

    def _response(self, service: Service, call: Call, refusal: Refusal | None) -> Response:
        """Return a 429 above the rate limit, otherwise the response of the service."""
        bucket = self._options.buckets.get(service.name)
        wait = bucket.acquire() if bucket else 0
        if wait:
            return self._throttled(service, wait)
        if refusal is not None:
            return service.error(refusal)
        try:
            return service.perform(call)
        except Refusal as refused:
            return service.error(refused)

    def _fault_response(self, service: Service, fault: str) -> Response:
        status = HTTPStatus(int(fault.removesuffix("-html")))
        if fault.endswith("-html"):
            return _gateway_page(status)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return self._throttled(service, 1)
        code = status.phrase.lower().replace(" ", "_")
        return service.error(Refusal(status.value, code, Problem(status.phrase)))

    def _throttled(self, service: Service, wait: float) -> Response:
        """Return a 429 in the format of the API, with a `Retry-After` if that is configured."""
        # Adapty's documentation states code and status of a 429, but no text and no Retry-After.
        response = service.error(Refusal(429, "rate_limited", Problem("Too many requests")))
        seconds = max(1, math.ceil(wait))
        if service.name == "export" or self._options.retry_after == "none":
            return response  # the documentation of exports shows neither body nor header
        if self._options.retry_after == "seconds":
            return response._replace(headers={"Retry-After": str(seconds)})
        moment = formatdate(math.ceil(time.time()) + seconds, usegmt=True)
        return response._replace(headers={"Retry-After": moment})

    def _log(
        self,
        request: web.BaseRequest,
        call: Call,
        api: str,
        identity: str | None,
        outcome: _Outcome,
    ) -> int:
        status = outcome.response.status if outcome.response else 0
        number = self._store.log(
            Arrival(
                number=0,
                at=time.time(),
                method=call.method,
                path=call.path,
                api=api,
                identity=identity and storable(identity),
                status=0 if self._faults.latency else status,
                fault=outcome.fault,
                applied=outcome.applied,
            )
        )
        self._activity.record(number, api, call, request.rel_url, status)
        return number

    async def _unknown(self, request: web.BaseRequest) -> web.StreamResponse:
        # The gateway responds, not one of the APIs, so the body has none of their formats.
        body, _ = await received(request, self._options.body_timeout)
        response = _gateway_page(HTTPStatus.NOT_FOUND)
        call = Call(request.method, request.path, request.headers, body, request.query)
        self._log(request, call, "other", None, _Outcome(None, applied=False, response=response))
        return response.to_web()


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
