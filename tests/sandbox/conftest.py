"""Fixtures of the sandbox tests: a running sandbox, and a client independent of the library."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import msgspec
import pytest

from adapty_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

PROFILES = "/api/v1/server-side-api/profiles/"


class Reply(NamedTuple):
    """A response, with its body decoded if it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


class CutError(Exception):
    """An exception for a missing response."""


async def once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Raise `CutError` for a broken connection, since aiohttp retries after its own errors."""
    try:
        return await handler(request)
    except aiohttp.ClientError as error:
        raise CutError from error


class Api:
    """A client that sends requests as documented, each on a connection of its own."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Use the sandbox's address and keys."""
        self.sandbox = sandbox

    async def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request; a `body` that isn't bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        async with (
            aiohttp.ClientSession(middlewares=[once]) as session,
            session.request(
                method, self.sandbox.url + path, data=data and BytesIO(data), headers=headers
            ) as response,
        ):
            content = await response.read()
            is_json = content and response.content_type == "application/json"
            decoded = msgspec.json.decode(content) if is_json else content.decode()
            return Reply(response.status, response.headers, decoded)

    async def v1(self, method: str, body: Any = None, **headers: str | None) -> Reply:
        """Send a request about profile `u1`; a header given as `None` is left out."""
        merged = {
            "Authorization": f"Api-Key {self.sandbox.api_key}",
            "Content-Type": "application/json",
            "adapty-customer-user-id": "u1",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return await self.send(
            method, PROFILES, body, {name: value for name, value in merged.items() if value}
        )

    async def v2(self, method: str, path: str, body: Any = None, **headers: str | None) -> Reply:
        """Send a request of version 2 about profile `u1`; a header given as `None` is left out."""
        merged = {
            "Authorization": f"Api-Key {self.sandbox.api_key}",
            "Content-Type": "application/json",
            "adapty-customer-user-id": "u1",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        path = path if path.startswith("/") else f"/api/v2/server-side-api/{path}"
        return await self.send(
            method, path, body, {name: value for name, value in merged.items() if value}
        )

    async def mail(self, action: str, body: Any, **headers: str) -> Reply:
        """Post to `save`, `delete` or `transaction-event/save`."""
        merged = {
            "Authorization": f"Bearer {self.sandbox.mail_api_key}",
            "Content-Type": "application/json",
            **headers,
        }
        return await self.send("POST", f"/api/v1/profile/{action}/", body, merged)


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, the only backend of aiohttp."""
    return "asyncio"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a sandbox without faults and limits."""
    async with Sandbox() as running:
        yield running


@pytest.fixture
def api(sandbox: Sandbox) -> Api:
    """Return a client of `sandbox`."""
    return Api(sandbox)
