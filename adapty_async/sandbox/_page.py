"""
The page at `/`, the endpoints that it uses, and those for programs, all of them below `/_sandbox/`.

None of them counts as a request to an API: they are in no log, meet no fault and no rate limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import web

from . import _guard, _snippets
from ._activity import Activity, EventStream, event
from ._body import complete
from ._faults import FaultPlan, Faults
from ._rate import TokenBucket
from ._service import Refusal, storable
from ._shop import Shop
from ._store import Store, StoredProfile
from ._webhook_events import access_properties

#: The paths that no API has.
PREFIX = "/_sandbox/"
_PAGE = f"{PREFIX}page/"
_NDJSON = "application/x-ndjson"
# Seconds between two checks for new requests, and checks between two overviews.
_CHECK_SECONDS, _CHECKS_PER_OVERVIEW = 0.25, 4
_PROFILES = 50
_NUMBER_MAX = 2**63 - 1
_TYPES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class _Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The faults that the page sets, with the latency in seconds."""

    faults: Faults
    latency: float


class _Next(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The faults of the next requests."""

    faults: list[str]


class Page:
    """The request handler of everything about the sandbox itself."""

    def __init__(  # noqa: PLR0913 - the parts of the sandbox that the page shows
        self,
        store: Store,
        shop: Shop,
        faults: FaultPlan,
        activity: Activity,
        *,
        buckets: Mapping[str, TokenBucket],
        listens_on: str,
        body_timeout: float,
        stopping: asyncio.Event,
    ) -> None:
        self._store = store
        self._shop = shop
        self._faults = faults
        self._activity = activity
        self._limits = {api: bucket.rate for api, bucket in buckets.items()}
        self._listens_on = listens_on
        self._body_timeout = body_timeout
        self._stopping = stopping
        self._run = uuid4().hex[:12]
        self._handlers: dict[
            tuple[str, str], Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
        ] = {
            ("GET", "/"): self._file,
            **{("GET", _PAGE + name): self._file for name in _TYPES},
            ("GET", f"{_PAGE}events"): self._events,
            ("GET", f"{_PAGE}profiles"): self._search,
            ("PUT", f"{_PAGE}faults"): self._set_faults,
            ("POST", f"{_PAGE}fail-next"): self._fail_next,
            ("POST", f"{_PAGE}code"): self._code,
            ("GET", f"{PREFIX}state"): self._state,
            ("GET", f"{PREFIX}arrivals"): self._arrivals,
            ("GET", f"{PREFIX}profiles"): self._ids,
            ("POST", f"{PREFIX}seed"): self._seed,
        }

    def serves(self, method: str, path: str) -> bool:
        """Return whether a request is none of an API's, even if there is nothing at its path."""
        return path.startswith(PREFIX) or (method, path) in self._handlers

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """Return the response to a request; `None` if there is nothing at its path."""
        handler = self._handlers.get((request.method, request.path))
        if handler is None:
            return None
        objection = _guard.objection(request.method, request.headers, self._listens_on)
        if objection is not None:
            return web.Response(status=403, text=objection)
        try:
            response = await handler(request)
        except Refusal as refusal:
            response = web.Response(status=refusal.status, text=refusal.problems[0].message)
            response.force_close()  # the rest of the body may be still under way
        except (msgspec.DecodeError, ValueError) as error:
            response = web.Response(status=400, text=storable(str(error)))
        if not response.prepared:
            response.headers.update(_guard.HEADERS)
        return response

    # The page

    async def _file(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.removeprefix(_PAGE) if request.path != "/" else "page.html"
        return web.Response(body=_content(name), content_type=_TYPES[name], charset="utf-8")

    async def _events(self, request: web.BaseRequest) -> web.StreamResponse:
        after = request.headers.get("Last-Event-ID") or request.query.get("after", "")
        stream = EventStream(self._store, self._activity, self._run, after)
        response = web.StreamResponse(
            headers={**_guard.HEADERS, "Content-Type": "text/event-stream"}
        )
        # A reader that has gone cancels this handler, or breaks the connection. One that does not
        # read stops the loop at its next write, with a buffer of bounded size.
        with suppress(ConnectionError):
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            check = 0
            while not self._stopping.is_set():
                events = [
                    stream.requests(),
                    None if check % _CHECKS_PER_OVERVIEW else self._overview(),
                ]
                for one in filter(None, events):
                    await response.write(one)
                check += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _CHECK_SECONDS)
            await response.write_eof()
        return response

    def _overview(self) -> bytes:
        profiles, mail_profiles, mail_events = self._store.state()
        return event(
            "overview",
            {
                "profiles": profiles,
                "mail_profiles": mail_profiles,
                "mail_events": mail_events,
                "statuses": self._activity.statuses,
                "limits": self._limits,
                "rates": self._activity.rates(),
                **self._conditions(),
            },
        )

    def _conditions(self) -> dict[str, Any]:
        return {
            "faults": self._faults.faults,
            "latency": self._faults.latency,
            "next": self._faults.scripted,
        }

    async def _search(self, request: web.BaseRequest) -> web.StreamResponse:
        api, before = _api_of(request), int(request.query.get("before", _NUMBER_MAX))
        if not 0 <= before <= _NUMBER_MAX:
            raise ValueError("before must be the number of a profile")
        text = storable(request.query.get("text", ""))
        found: list[tuple[int, dict[str, Any]]] = []
        while before and len(found) <= _PROFILES:
            limit = _PROFILES + 1 - len(found)
            if api == "mail":
                before, mail = self._store.mail_profiles_before(before, text, limit)
                found += [(number, _mail_view(fields)) for number, fields in mail]
            else:
                before, profiles = self._store.profiles_before(before, text, limit)
                found += [(number, self._view(profile)) for number, profile in profiles]
            await asyncio.sleep(0)  # other requests come first
        shown = found[:_PROFILES]
        return _json(
            {
                "profiles": [view for _, view in shown],
                "next": shown[-1][0] if len(found) > _PROFILES else None,
            }
        )

    def _view(self, profile: StoredProfile) -> dict[str, Any]:
        levels = self._shop.access(profile.profile_id).values()
        return {
            "id": profile.customer_user_id,
            "other_id": profile.profile_id,
            "access_levels": [_access(access) for access in levels],
            "attributes": profile.attributes,
        }

    async def _set_faults(self, request: web.BaseRequest) -> web.StreamResponse:
        conditions = msgspec.json.decode(await self._body(request), type=_Conditions)
        self._faults.set_latency(conditions.latency)  # it may raise; the faults are checked
        self._faults.set_faults(conditions.faults)
        return _json(self._conditions())

    async def _fail_next(self, request: web.BaseRequest) -> web.StreamResponse:
        self._faults.script(*msgspec.json.decode(await self._body(request), type=_Next).faults)
        return _json(self._conditions())

    async def _code(self, request: web.BaseRequest) -> web.StreamResponse:
        sent = msgspec.json.decode(await self._body(request), type=_snippets.Sent)
        base_url = f"http://{request.headers.get('Host', self._listens_on)}"
        return _json(
            {
                "python": _snippets.python(sent, base_url),
                "curl": _snippets.curl(sent, base_url),
            }
        )

    # For programs

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

    async def _ids(self, request: web.BaseRequest) -> web.StreamResponse:
        return await _stream(request, self._store.id_pages(_api_of(request)))

    async def _seed(self, request: web.BaseRequest) -> web.StreamResponse:
        # Not request.read(): a hundred thousand ids exceed its limit of 1 MiB.
        body = await complete(request, request.content.read, self._body_timeout)
        return _json({"added": self._store.seed(_seed_ids(body))})

    async def _body(self, request: web.BaseRequest) -> bytes:
        return await complete(request, request.read, self._body_timeout)


def _api_of(request: web.BaseRequest) -> str:
    api = request.query.get("api", "v1")
    if api not in ("v1", "mail"):
        raise ValueError("api must be v1 or mail")
    return api


def _mail_view(fields: Mapping[str, Any]) -> dict[str, Any]:
    ids = ("external_profile_id", "customer_user_id")
    return {
        "id": fields["external_profile_id"],
        "other_id": fields.get("customer_user_id"),
        "access_levels": [],
        "attributes": {name: value for name, value in fields.items() if name not in ids},
    }


def _access(access: Mapping[str, Any]) -> dict[str, Any]:
    properties = access_properties(access)
    return {name: properties[name] for name in ("access_level_id", "expires_at", "is_active")}


@cache
def _content(name: str) -> bytes:
    return files("adapty_async.sandbox").joinpath("page", name).read_bytes()


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _stream(request: web.BaseRequest, pages: Iterable[list[Any]]) -> web.StreamResponse:
    response = web.StreamResponse(headers={**_guard.HEADERS, "Content-Type": _NDJSON})
    await response.prepare(request)
    encoder = msgspec.json.Encoder()
    for page in pages:
        await response.write(encoder.encode_lines(page))
    await response.write_eof()
    return response


def _seed_ids(body: bytes) -> list[str]:
    try:
        if body.lstrip().startswith(b"["):
            return msgspec.json.decode(body, type=list[str])
        return msgspec.json.Decoder(str).decode_lines(body)
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"customer user ids as JSON strings: {error}") from None
