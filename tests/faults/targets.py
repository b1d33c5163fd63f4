"""
Targets of a client: the server itself, or an address to which no connection can be made.

A target is a context manager on a server that returns the options of the client.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, NoReturn, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver

from tests.faults.certificates import server_context, trusting_context
from tests.raw_server import RawServer

Options: TypeAlias = dict[str, Any]


class Target(NamedTuple):
    """
    A target of a client.

    Attributes:
        enter: returns a context manager with the options of the client.
        tls: returns the server's TLS context, None for plain HTTP.
    """

    enter: Callable[[RawServer], AbstractAsyncContextManager[Options]]
    tls: Callable[[], ssl.SSLContext] | None = None


@contextlib.asynccontextmanager
async def _directly(server: RawServer) -> AsyncIterator[Options]:
    yield {"base_url": server.url}


@contextlib.asynccontextmanager
async def _by_tls(server: RawServer) -> AsyncIterator[Options]:
    yield {"base_url": server.url.replace("http:", "https:")}


@contextlib.asynccontextmanager
async def _at_a_closed_port(server: RawServer) -> AsyncIterator[Options]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield {"base_url": f"http://127.0.0.1:{free.getsockname()[1]}"}


@contextlib.asynccontextmanager
async def _at_a_full_port(server: RawServer) -> AsyncIterator[Options]:
    """Listen with a full backlog, so that a connection is neither accepted nor refused."""
    async with contextlib.AsyncExitStack() as scope:
        listener = scope.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = scope.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        soon = aiohttp.ClientTimeout(sock_connect=0.1)
        session = await scope.enter_async_context(aiohttp.ClientSession(timeout=soon))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield {"base_url": url, "session": session}


@contextlib.asynccontextmanager
async def _behind_a_proxy(server: RawServer) -> AsyncIterator[Options]:
    async with aiohttp.ClientSession(proxy=server.url) as session:
        yield {"base_url": "https://api.example", "session": session}


class _NoNames(AbstractResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> NoReturn:
        raise OSError(None, "Name or service not known")

    async def close(self) -> None:
        """Do nothing: there are no resources."""


@contextlib.asynccontextmanager
async def _at_an_unknown_name(server: RawServer) -> AsyncIterator[Options]:
    connector = aiohttp.TCPConnector(resolver=_NoNames())
    async with aiohttp.ClientSession(connector=connector) as session:
        yield {"base_url": "https://api.example", "session": session}


def _trusting(
    kind: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> Callable[[RawServer], AbstractAsyncContextManager[Options]]:
    @contextlib.asynccontextmanager
    async def enter(server: RawServer) -> AsyncIterator[Options]:
        context = trusting_context(kind, version)
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield {"base_url": server.url, "session": session}

    return enter


def _old() -> ssl.SSLContext:
    context = server_context("good")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _requiring_client() -> ssl.SSLContext:
    context = server_context("good")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


SERVER = Target(_directly)
CLOSED_PORT = Target(_at_a_closed_port)
FULL_PORT = Target(_at_a_full_port)
UNKNOWN_NAME = Target(_at_an_unknown_name)
PROXY = Target(_behind_a_proxy)
PLAIN_SERVER_BY_TLS = Target(_by_tls)
TRUSTED = Target(_trusting("good"), lambda: server_context("good"))
SELF_SIGNED = Target(_directly, lambda: server_context("good"))
WRONG_HOST = Target(_trusting("elsewhere"), lambda: server_context("elsewhere"))
EXPIRED = Target(_trusting("expired"), lambda: server_context("expired"))
OLD_TLS = Target(_trusting("good", ssl.TLSVersion.TLSv1_3), _old)
CLIENT_CERTIFICATE = Target(_trusting("good"), _requiring_client)
