"""
The fast HTTP path: a direct sender, which makes one attempt over a session's connector.

It does not use `ClientSession.request`, but half-private parts of aiohttp. `reason_against` decides
whether they are allowed: any unusual condition selects the standard path. That path is in
`session_sender`. The invariants of `attempt` hold on both paths, and one conformance suite runs
over both.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import operator
import socket
import types
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

import aiohttp
import aiohttp.client_proto
import aiohttp.client_reqrep
import aiohttp.connector
import aiohttp.http_writer
import msgspec
import yarl
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from adapty_async._api.call import CallState, Request, Response
from adapty_async._http.attempt import (
    CONNECTIONS,
    DESYNCHRONISED,
    SWITCHING,
    Kept,
    SendOnce,
    Target,
    is_kept,
    may_be_unread,
    read,
    read_now,
    target_of,
)
from adapty_async._http.session_sender import session_sender
from adapty_async.errors import ConnectError

__all__ = (
    "TESTED",
    "Conditions",
    "DirectSender",
    "Stamp",
    "fastest_sender",
    "patch_check",
    "reason_against",
    "stamp",
    "why_standard",
)

#: The releases of aiohttp with which the conformance suite has passed. Another one may have changed
#: the parts that `DirectSender` uses in a way that causes no error.
TESTED = frozenset({"3.14.3", "3.14.4", "3.14.5"})
# Bytes that asyncio allocates for each read, before it knows the size of the data. Its default of
# 256 KiB returns to the operating system each time, which takes 18 of 75 µs for a small response
# (Python 3.11, Linux). TLS and uvloop read in another way.
_READ_SIZE = 64 * 1024
# The client's timeout scheduler bounds connecting as well.
_NO_TIMEOUTS = aiohttp.ClientTimeout(total=None, ceil_threshold=math.inf)

Stamp: TypeAlias = tuple[object, ...]


def fastest_sender(
    session: aiohttp.ClientSession, now: Stamp, *, trust_env: bool
) -> tuple[SendOnce, str | None]:
    """Return a sender over the client's own session, and the reason if it is not the fast one."""
    why = why_standard(now, session, given=False, trust_env=trust_env)
    if why is None:
        return DirectSender(session), None
    return session_sender(session, _read_less, trust_env=trust_env), why


class DirectSender:
    """
    A sender over the connections of a session in one event loop.

    It omits the rest of `ClientSession.request`: redirects, cookies, proxies, traces and retries.
    They take 36 of the 65 µs of a request (Python 3.11, one core, uvloop; on asyncio 39 of 72).
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._connector: Any = session.connector
        self._loop = asyncio.get_running_loop()
        self._connect_requests: dict[str, aiohttp.ClientRequest] = {}
        self._kept: Kept = set()

    async def __call__(self, request: Request, state: CallState) -> Response:
        """Send one request and read its whole response."""
        target = target_of(request.url)
        connect_request = self._connect_requests.get(target.origin) or self._connect_request(target)
        connection = await self._connector.connect(connect_request, traces=[], timeout=_NO_TIMEOUTS)
        if connection.protocol.should_close:  # unread bytes arrived before the request
            _drop(connection, connection.transport)
            connection = await self._connect_anew(connect_request)
        protocol = connection.protocol
        transport = protocol.transport  # a connector that is closed forgets it
        try:
            if is_kept(protocol, self._kept):
                state.connection_reused()
            else:
                _read_less(transport)
            protocol.set_response_params(read_until_eof=True)
            state.sent()
            await self._write(protocol, request, target)
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != SWITCHING:
                message, content = await protocol.read()
            body = read_now(content)
            if body is None:
                body = await read(content, request, message.code, message.headers)
        except BaseException:
            _drop(connection, transport)
            raise
        if message.code == SWITCHING or may_be_unread(request, message.code, protocol.transport):
            _drop(connection, transport)
        else:
            connection.release()
        return Response(message.code, message.headers, body)

    async def _connect_anew(self, connect_request: aiohttp.ClientRequest) -> Any:
        """Return another connection than one with unread bytes."""
        for _ in range(CONNECTIONS - 1):
            connection = await self._connector.connect(
                connect_request, traces=[], timeout=_NO_TIMEOUTS
            )
            if not connection.protocol.should_close:
                return connection
            _drop(connection, connection.transport)

        raise ConnectError(DESYNCHRONISED)

    def _connect_request(self, target: Target) -> aiohttp.ClientRequest:
        """Return a request for aiohttp's connector, which uses only its origin."""
        connect_request = aiohttp.ClientRequest(
            "GET", yarl.URL(target.origin), loop=self._loop, session=self._session
        )
        self._connect_requests[target.origin] = connect_request
        return connect_request

    async def _write(self, protocol: Any, request: Request, target: Target) -> None:
        body = request.body or b""
        headers = CIMultiDict(target.headers)
        headers.update(request.headers)
        if body or request.method != "GET":
            headers["Content-Length"] = str(len(body))
        writer = StreamWriter(protocol, self._loop)
        await writer.write_headers(f"{request.method} {target.path} HTTP/1.1", headers)
        if body:  # it is in memory anyway, and a server may respond before it has read it
            await writer.write(body, drain=False)
        else:
            writer.send_headers()


def _drop(connection: Any, transport: Any) -> None:
    """Abort a connection; an orderly close would first wait for the server to read the request."""
    if transport is not None:  # pragma: no branch  it may be lost before it is used
        transport.abort()
    connection.close()


def _read_less(transport: Any) -> None:
    if getattr(transport, "max_size", 0) > _READ_SIZE:
        transport.max_size = _READ_SIZE


# Patched by OpenTelemetry, Sentry and Datadog; by aioresponses, vcrpy, pook, Datadog, New Relic and
# Elastic; the third calls the second.
_OF_SESSION = operator.itemgetter("__init__", "_request", "request")


def stamp() -> Stamp:
    """
    Return the objects that test mocks and tracers patch; a patch, or its removal, changes them.

    It reads attributes from the `__dict__` of a class, since a wrapper of the package wrapt is a
    new object at each access, and equals the wrapped object.
    """
    sessions, connectors, sockets = aiohttp.ClientSession, aiohttp.TCPConnector, socket.socket
    try:
        of_connector = connectors.__dict__
        return (
            sessions,
            *_OF_SESSION(sessions.__dict__),
            connectors,
            of_connector.get("connect"),
            aiohttp.BaseConnector.__dict__["connect"],
            of_connector["_create_connection"],
            aiohttp.ClientRequest.__dict__["send"],  # New Relic
            aiohttp.ClientResponse.__dict__["start"],
            sockets,  # mocket, pytest-socket
        )
    except (AttributeError, KeyError):  # a class was replaced by something else
        return (sessions, connectors, sockets)


def patch_check() -> Callable[[], bool]:
    """
    Return a function that returns whether nothing was patched since this call.

    It runs for each request. So it compares each part of the present stamp where it is, which takes
    half the time of another stamp.
    """
    before = stamp()
    if len(before) != len(_PARTS):  # a class was replaced by something else
        return lambda: all(map(operator.is_, before, stamp()))
    sessions, make, send, request, connectors, own_connect, connect, create = before[:8]
    write, start, sockets = before[8:]
    bases, requests = aiohttp.BaseConnector, aiohttp.ClientRequest
    responses = aiohttp.ClientResponse
    session, connector, base = vars(sessions), vars(connectors), vars(bases)
    of_requests, of_responses = vars(requests), vars(responses)

    def is_unpatched() -> bool:
        try:
            return (
                aiohttp.ClientSession is sessions
                and session["__init__"] is make
                and session["_request"] is send
                and session["request"] is request
                and aiohttp.TCPConnector is connectors
                and connector.get("connect") is own_connect
                and connector["_create_connection"] is create
                and aiohttp.BaseConnector is bases
                and base["connect"] is connect
                and aiohttp.ClientRequest is requests
                and of_requests["send"] is write
                and aiohttp.ClientResponse is responses
                and of_responses["start"] is start
                and socket.socket is sockets
            )
        except (AttributeError, KeyError):  # one was removed
            return False

    return is_unpatched


_CLIENT, _CONNECTOR = aiohttp.client.__dict__, aiohttp.connector.__dict__
# The parts of a stamp: the name of each, and the namespace of its module.
_PARTS = (
    ("aiohttp.ClientSession", _CLIENT),
    ("aiohttp.ClientSession.__init__", _CLIENT),
    ("aiohttp.ClientSession._request", _CLIENT),
    ("aiohttp.ClientSession.request", _CLIENT),
    ("aiohttp.TCPConnector", _CONNECTOR),
    ("aiohttp.TCPConnector.connect", _CONNECTOR),
    ("aiohttp.BaseConnector.connect", _CONNECTOR),
    ("aiohttp.TCPConnector._create_connection", _CONNECTOR),
    ("aiohttp.ClientRequest.send", aiohttp.client_reqrep.__dict__),
    ("aiohttp.ClientResponse.start", aiohttp.client_reqrep.__dict__),
    ("socket.socket", socket.__dict__),
)


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """
    The conditions that select the HTTP path.

    Attributes:
        is_given: the session is the caller's.
        trust_env: the client uses the proxies of the environment.
        release: the version of aiohttp.
        lacking: a part of aiohttp that differs from the tested releases; None if none does.
        patched: a function or class that a test mock or a tracer has patched; None without one.
        is_traced: the session has trace configurations.
        is_wrapped: the session or its connector is not of aiohttp's own class.
    """

    is_given: bool
    trust_env: bool
    release: str
    lacking: str | None
    patched: str | None
    is_traced: bool = False
    is_wrapped: bool = False


def reason_against(conditions: Conditions) -> str | None:
    """
    Return the reason for the standard path, None if the fast one may be used.

    1. The session is the caller's: its proxies, traces and middlewares apply.
    2. `trust_env`: the environment may name a proxy.
    3. This release of aiohttp was not tested.
    4. It lacks a required part.
    5. A test mock or a tracer has patched aiohttp or sockets, before or after the session was made.
    6. The session has trace configurations: a tracer has added them.
    7. The session or its connector is of another class: a tracer has wrapped it.
    """
    reasons = (
        (conditions.is_given, "a session was given"),
        (conditions.trust_env, "trust_env"),
        (
            conditions.release not in TESTED,
            f"aiohttp {conditions.release} is not among the tested releases",
        ),
        (conditions.lacking, f"aiohttp has another {conditions.lacking}"),
        (conditions.patched, f"{conditions.patched} is patched"),
        (conditions.is_traced, "the session has trace configs"),
        (conditions.is_wrapped, "the session or its connector is wrapped"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def why_standard(
    now: Stamp, session: aiohttp.ClientSession | None, *, given: bool, trust_env: bool
) -> str | None:
    """Return the reason for the standard path at present, None if the fast one may be used."""
    conditions = Conditions(
        is_given=given,
        trust_env=trust_env,
        release=aiohttp.__version__,
        lacking=_lacking(),
        patched=_patched(now),
        is_traced=session is not None and bool(session.trace_configs),
        is_wrapped=session is not None and _is_wrapped(session),
    )
    return reason_against(conditions)


def _is_wrapped(session: aiohttp.ClientSession) -> bool:
    kinds = (type(session), type(session.connector))
    return kinds != (aiohttp.ClientSession, aiohttp.TCPConnector)


def _patched(now: Stamp) -> str | None:
    """Return the name of a patched part of a stamp, None if none is patched."""
    if len(now) != len(_PARTS):
        return "a class of aiohttp"
    parts = zip(_PARTS, now, strict=True)
    return next((name for (name, names), part in parts if not _is_own(part, names)), None)


def _is_own(part: object, names: dict[str, Any]) -> bool:
    """
    Return whether a function or class is the one that its module defines.

    A patch may be older than the import of this module, so there may be no original for a
    comparison. A wrapper has the original's name and module, yet not its globals.
    """
    if part is None:  # inherited
        return True
    if type(part) is types.FunctionType:
        return part.__globals__ is names
    return type(part) is type and part.__module__ == names["__name__"]


@functools.cache
def _lacking() -> str | None:
    """Return the part of aiohttp that differs from the tested releases; None if none does."""
    protocol = aiohttp.client_proto.ResponseHandler
    needs: tuple[tuple[str, Any, Iterable[str]], ...] = (
        ("connector", aiohttp.connector.BaseConnector.connect, ("req", "traces", "timeout")),
        ("connection", aiohttp.connector.Connection.release, ()),
        ("protocol", protocol.set_response_params, ("read_until_eof",)),
        ("protocol", protocol.read, ()),
        ("writer", StreamWriter.__init__, ("protocol", "loop")),
        ("writer", StreamWriter.write_headers, ("status_line", "headers")),
        ("writer", StreamWriter.write, ("chunk", "drain")),
        ("writer", StreamWriter.send_headers, ()),
    )
    for name, function, parameters in needs:
        if not set(parameters) <= set(inspect.signature(function).parameters):
            return name
    return None if isinstance(cast("Any", protocol).should_close, property) else "protocol"
