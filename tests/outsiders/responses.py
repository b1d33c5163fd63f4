"""
Prism responds to the client from each document: with its examples, and with random values.

Every response of a success is decoded, and each of its values has to be in the result. Random
bodies of errors have to become the error of their status.

Prism comes from npm. Without npm, nothing is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import aiohttp
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from yarl import URL

import adapty_async
from adapty_async import Limits, RetryPolicy
from adapty_async._api.call import Operation
from adapty_async.errors import ApiError
from tests import npm
from tests.contract.contract import Contract
from tests.contract.contracts import CONTRACTS
from tests.contract.documents import Document
from tests.contract.test_openapi import differences
from tests.outsiders.mended import EVERYWHERE, mended, pages_are_counted_from_one, saved

PRISM = "@stoplight/prism-cli@5.14.2"
#: The least number of random responses of the long form, over all documents.
RESPONSES_MIN = 1000
# Seconds that Prism may take to read a document.
_STARTED_WITHIN = 60
_PAYWALL = "fd891d4f-5906-45b9-97c1-13cc3dc665df"
_CLIENTS = {
    "server-side-api-v2": ("AdaptyClient", "api_key"),
    "mail-api": ("AdaptyMailClient", "api_key"),
    "web-api": ("AdaptyClient", "public_key"),
    "export-analytics-api": ("AdaptyExportClient", "api_key"),
}


async def run(*, is_short: bool) -> list[str]:
    """Call every operation on Prism, and return the complaints."""
    command = await npm.program(PRISM, "prism")
    if command is None:
        return []
    count = sum(len(contract.document.operations) for contract in CONTRACTS.values())
    rounds = 2 if is_short else -(-RESPONSES_MIN // count)
    complaints: list[str] = []
    for contract in CONTRACTS.values():
        async with _served(command, contract) as url, _Caller(contract, url) as caller:
            complaints += await caller.complaints(rounds)
            print(f"Prism: {caller.count:,} responses of {contract.name} decoded")
    return sorted({*complaints})


@contextlib.asynccontextmanager
async def _served(command: Path, contract: Contract) -> AsyncIterator[str]:
    """Run Prism on a document, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory(prefix="outsiders-") as name:
        mends = (*EVERYWHERE, pages_are_counted_from_one)
        document = saved(mended(contract.name, mends), Path(name, "document.json"))
        options = "--host", "127.0.0.1", "--port", str(port)
        process = await asyncio.create_subprocess_exec(
            command,
            "mock",
            *options,
            str(document),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        # It says so once it listens; what it logs for each request has to be read as well.
        async with asyncio.timeout(_STARTED_WITHIN):
            async for line in process.stdout:
                if b"is listening" in line:
                    break
            else:
                raise RuntimeError(f"Prism does not start on {contract.name}")
        reading = asyncio.create_task(process.stdout.read())
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()
            await reading


class _Recorder:
    """A reverse proxy that adds a preference to requests, and records the bodies of responses."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self.prefer = ""
        self.body = b""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward one request."""
        headers = {**request.headers, "Prefer": self.prefer}
        async with self._session.request(
            request.method,
            URL(self._url + request.raw_path, encoded=True),
            headers=headers,
            data=await request.read(),
        ) as response:
            self.body = await response.read()
        content_type = response.headers.get("Content-Type", "text/plain")
        return web.Response(
            status=response.status, body=self.body, headers={"Content-Type": content_type}
        )


class _Caller:
    """A caller of a document's operations through the library's client."""

    def __init__(self, contract: Contract, url: str) -> None:
        self._contract = contract
        self._url = url
        self._exit = contextlib.AsyncExitStack()
        self.count = 0

    async def __aenter__(self) -> Self:
        session = await self._exit.enter_async_context(aiohttp.ClientSession())
        self._recorder = _Recorder(self._url, session)
        server = await self._exit.enter_async_context(RawTestServer(self._recorder.handle))
        kind, key = _CLIENTS[self._contract.name]
        client = getattr(adapty_async, kind)(
            **{key: "live_a.b"},
            base_url=str(server.make_url("/")).rstrip("/"),
            retry=RetryPolicy(attempts=1),
            limits=Limits(rate=1000),
        )
        self._client = await self._exit.enter_async_context(client)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._exit.aclose()

    async def complaints(self, rounds: int) -> list[str]:
        """Call every operation: its example, random successes, and random errors."""
        found: list[str] = []
        for name in self._contract.document.operations:
            for prefer in ["", *["dynamic=true"] * rounds]:
                found += [
                    f"{self._contract.name} {name}: {one}"
                    async for one in self._of_a_success(name, prefer)
                ]
            for status in self._statuses(name):
                for _ in range(min(rounds, 5)):
                    found += [
                        f"{self._contract.name} {name}: {one}"
                        async for one in self._of_an_error(name, status)
                    ]
        return found

    def _statuses(self, name: str) -> Iterator[int]:
        for status, response in self._contract.document.spec(name)["responses"].items():
            if status >= "400" and "content" in response:
                yield int(status)

    async def _of_a_success(self, name: str, prefer: str) -> AsyncIterator[str]:
        self._recorder.prefer = prefer
        try:
            result = await self._client.execute(self._call(name))
        except adapty_async.AdaptyError as error:
            yield f"{error!r} of {self._recorder.body!r}"
            return
        self.count += 1
        if result is not None:
            schema = self._schema(name)
            shown = _documented(self._contract.document, schema, json.loads(self._recorder.body))
            is_envelope = shown.keys() == {"data"} and not hasattr(result, "data")
            inner = shown["data"] if is_envelope else shown
            for difference in differences(self._contract, name, inner, result):
                yield f"{difference} of {self._recorder.body!r}"

    async def _of_an_error(self, name: str, status: int) -> AsyncIterator[str]:
        self._recorder.prefer = f"dynamic=true, code={status}"
        try:
            await self._client.execute(self._call(name))
        except ApiError as error:
            self.count += 1
            if error.status != status or not error.recognised:
                yield f"{error!r} of status {status}, {self._recorder.body!r}"
        else:
            yield f"no error of status {status}, {self._recorder.body!r}"

    def _schema(self, name: str) -> dict[str, Any]:
        responses = self._contract.document.spec(name)["responses"]
        [success] = [status for status in responses if status < "300"]
        schema: dict[str, Any] = next(iter(responses[success]["content"].values()))["schema"]
        return schema

    def _call(self, name: str) -> Operation[Any]:
        contract = self._contract
        if name in contract.sandbox:
            return contract.sandbox[name](_PAYWALL)
        ids = {"customer_user_id": "u1"} if contract.takes_identity(name) else {}
        return contract.calls[name](**ids)


def _documented(document: Document, schema: dict[str, Any], value: Any) -> Any:
    """Return a value without the properties that its schema does not have: Prism adds some."""
    schema = document.resolved(schema)
    if isinstance(value, list) and "items" in schema:
        return [_documented(document, schema["items"], one) for one in value]
    if isinstance(value, dict) and "properties" in schema:
        return {
            name: _documented(document, inner, value[name])
            for name, inner in schema["properties"].items()
            if name in value
        }
    return value
