"""
The fast HTTP path: a direct sender, which makes one attempt over a session's connector.

It does not use `ClientSession.request`, but half-private parts of aiohttp. `why_standard` decides
whether they are allowed: any unusual condition selects the standard path, which is in
`session_sender`. The invariants of `attempt` hold on both paths, and one conformance suite runs
over both.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import socket
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import aiohttp
import aiohttp.client_proto
import aiohttp.client_reqrep
import aiohttp.connector
import aiohttp.http_writer
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
    may_be_unread,
    read,
    read_now,
    record_use,
    target_of,
)
from adapty_async._http.session_sender import session_sender
from adapty_async.errors import ConnectError

#: The releases of aiohttp with which the conformance suite has passed. Another one may have changed
#: the parts that `DirectSender` uses in a way that causes no error.
TESTED = frozenset({"3.14.3", "3.14.4", "3.14.5"})
# The client's timeout scheduler bounds connecting as well.
_NO_TIMEOUTS = aiohttp.ClientTimeout(total=None, ceil_threshold=math.inf)


def fastest_sender(
    session: aiohttp.ClientSession, kept: Kept, stamp: Stamp, *, trust_env: bool
) -> tuple[SendOnce, str | None]:
    """Return a sender over the client's own session, and the reason if it is not the fast one."""
    why = why_standard(stamp, session, given=False, trust_env=trust_env)
    if why is None:
        return DirectSender(session, kept), None
    return session_sender(session, kept, trust_env=trust_env), why


class DirectSender:
    """
    A sender over the connections of a session in one event loop.

    It omits the rest of `ClientSession.request`: redirects, cookies, proxies, traces and retries.
    They take 36 of the 65 µs of a request (Python 3.11, one core, uvloop; on asyncio 39 of 72).
    """

    def __init__(self, session: aiohttp.ClientSession, kept: Kept) -> None:
        self._session = session
        self._connector: Any = session.connector
        self._loop = asyncio.get_running_loop()
        self._connect_requests: dict[str, aiohttp.ClientRequest] = {}
        self._kept = kept

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
            record_use(protocol, self._kept, state)
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


# The classes and methods that test mocks and tracers patch: a module, a class, and its methods.
_PATCHED = (
    # the first by OpenTelemetry, Sentry and Datadog; the second, which the third calls, by
    # aioresponses, vcrpy, pook, Datadog, New Relic and Elastic
    (aiohttp, "ClientSession", ("__init__", "_request", "request")),
    (aiohttp, "TCPConnector", ("connect", "_create_connection")),
    (aiohttp, "BaseConnector", ("connect",)),
    (aiohttp, "ClientRequest", ("send",)),  # New Relic
    (aiohttp, "ClientResponse", ("start",)),
    (socket, "socket", ()),  # mocket, pytest-socket
)


class Stamp:
    """
    A stamp of the classes and methods that test mocks and tracers patch, as they are at present.

    It reads methods from the `__dict__` of their class, since a wrapper of the package wrapt is a
    new object at each access, and equals the wrapped object.

    Attributes:
        patched: the name of one that is patched; None if none is.
    """

    def __init__(self) -> None:
        parts = tuple(_parts())
        self.patched = next((path for path, *_, part in parts if not _is_own(part)), None)
        self._own = tuple((names, name, part) for _, names, name, part in parts if part is not None)
        # the names of inherited methods, which a patch would add to the class
        self._inherited = tuple((names, name) for _, names, name, part in parts if part is None)

    def is_current(self) -> bool:
        """Return whether nothing was patched since the stamp was made, and no patch was removed."""
        try:
            for names, name, part in self._own:  # `all` takes twice the time, for each request
                if names[name] is not part:
                    return False
        except KeyError:  # it was removed
            return False
        for names, name in self._inherited:  # noqa: SIM110
            if name in names:
                return False
        return True


def _parts() -> Iterator[tuple[str, Mapping[str, Any], str, object]]:
    """Yield the path of each class and method, its namespace, its name there, and its value."""
    for module, kind, methods in _PATCHED:
        path, names = f"{module.__name__}.{kind}", vars(module)
        yield path, names, kind, names[kind]
        of_class: Mapping[str, Any] = getattr(names[kind], "__dict__", {})
        for name in methods:
            yield f"{path}.{name}", of_class, name, of_class.get(name)


def _is_own(part: object) -> bool:
    """
    Return whether a class or method is the one that aiohttp or `socket` defines.

    A patch may be older than the import of this module, so there may be no original for a
    comparison. A wrapper has the original's name and module, yet not its globals.
    """
    if part is None:  # inherited
        return True
    if type(part) is types.FunctionType:
        return _is_of_library(part.__globals__.get("__name__", ""))
    return type(part) is type and _is_of_library(part.__module__)


def _is_of_library(module: str) -> bool:
    return module.partition(".")[0] in {"aiohttp", "socket"}


def why_standard(
    stamp: Stamp, session: aiohttp.ClientSession | None, *, given: bool, trust_env: bool
) -> str | None:
    """Return the reason for the standard path at present, None if the fast one may be used."""
    lacking = _lacking()
    reasons = (
        (given, "a session was given"),  # its proxies, traces and middlewares apply
        (trust_env, "trust_env"),  # the environment may name a proxy
        (
            aiohttp.__version__ not in TESTED,
            f"aiohttp {aiohttp.__version__} is not among the tested releases",
        ),
        (lacking, f"aiohttp has another {lacking}"),
        (stamp.patched, f"{stamp.patched} is patched"),
        # a tracer has added them, or wrapped the session
        (session is not None and session.trace_configs, "the session has trace configs"),
        (
            session is not None and _is_wrapped(session),
            "the session or its connector is wrapped",
        ),
    )
    return next((reason for holds, reason in reasons if holds), None)


def _is_wrapped(session: aiohttp.ClientSession) -> bool:
    kinds = (type(session), type(session.connector))
    return kinds != (aiohttp.ClientSession, aiohttp.TCPConnector)


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
