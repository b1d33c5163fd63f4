"""The examples of web services: real servers in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from adapty_async import AdaptyClient
from adapty_async.errors import AuthenticationError, ConfigError
from adapty_async.sandbox import Sandbox
from examples import service_aiohttp, service_fastapi
from tests.ports import held_port

_FOLDER = Path(service_aiohttp.__file__).parent
_SECRET = "Bearer s3cret"
_URL = re.compile(r"http://[\d.]+:(\d+)")
_COMMANDS = {
    "aiohttp": ["service_aiohttp.py"],
    "fastapi": ["-m", "uvicorn", "service_fastapi:app", "--port", "0", "--no-access-log"],
}


class Service:
    """A running service, with a client for it."""

    def __init__(self, process: asyncio.subprocess.Process, http: aiohttp.ClientSession) -> None:
        self.process = process
        self._http = http

    async def get(self, path: str) -> tuple[int, Any]:
        """Return the status and the body of a GET request."""
        async with self._http.get(URL(path, encoded=True)) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json else text

    async def post(self, path: str, secret: str, **body: Any) -> int:
        """Return the status of a POST request."""
        headers = {"Authorization": secret}
        async with self._http.post(path, json=body, headers=headers) as response:
            return response.status


async def _url_in(output: asyncio.StreamReader) -> str:
    seen = b""
    async for line in output:
        seen += line
        if found := _URL.search(line.decode()):
            return f"http://127.0.0.1:{found[1]}"
    raise AssertionError(seen.decode())


@asynccontextmanager
async def running(name: str, sandbox: Sandbox, folder: Path) -> AsyncIterator[Service]:
    """Run a service, and kill it if it still runs at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *_COMMANDS[name],
        cwd=_FOLDER,
        env=os.environ
        | {
            "ADAPTY_API_KEY": sandbox.api_key,
            "ADAPTY_BASE_URL": sandbox.url,
            "ADAPTY_WEBHOOK_SECRET": _SECRET,
            "WEBHOOK_STORE": str(folder / "webhooks.db"),
            "PORT": "0",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        url = await _url_in(process.stdout)
        async with aiohttp.ClientSession(url) as http:
            yield Service(process, http)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _grant(sandbox: Sandbox, user: str) -> None:
    async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
        await adapty.v2.access_levels.grant("premium", customer_user_id=user)


@pytest.mark.parametrize("name", _COMMANDS)
async def test_a_service_checks_access(name: str, tmp_path: Path) -> None:
    """
    A service responds with the access that webhooks keep fresh, through an outage, to its end.

    One process takes all the steps, since each one takes a second to start.
    """
    with held_port() as held:  # the sandbox is stopped, and starts again
        async with Sandbox(latency=0.05, port=held.getsockname()[1]) as sandbox:
            await _check(name, sandbox, tmp_path)


async def _check(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.seed_profiles(["anna", "ben", "a/b"])
    async with running(name, sandbox, tmp_path) as service:
        assert await service.get("/health") == (200, {"status": "ok"})
        assert await service.get("/ready") == (200, {"status": "ok", "v2": "closed"})
        await _check_access(service, sandbox)
        await _check_outage(service, sandbox)
        await _check_shutdown(service, sandbox)


async def _check_access(service: Service, sandbox: Sandbox) -> None:
    closed, opened = (200, {"access": False}), (200, {"access": True})
    anna = "/users/anna/access/premium"

    assert await service.get(anna) == closed
    await _grant(sandbox, "anna")
    assert await service.get(anna) == closed  # as it was read
    event = {"event_type": "access_level_updated", "customer_user_id": "anna"}
    assert await service.post("/adapty", "wrong", **event) == 401
    assert await service.get(anna) == closed
    assert await service.post("/adapty", _SECRET, **event) == 200
    assert await service.get(anna) == opened
    await _grant(sandbox, "a/b")
    assert await service.get("/users/a%2Fb/access/premium") == opened
    status, body = await service.get("/users/%20anna/access/premium")
    assert (status, body["detail"]) == (
        422,
        "customer_user_id: must not begin or end with a blank",
    )


async def _check_outage(service: Service, sandbox: Sandbox) -> None:
    await sandbox.stop()

    assert await service.get("/users/anna/access/premium") == (200, {"access": True})
    status, body = await service.get("/users/ben/access/premium")
    assert (status, body["detail"]) in {(503, "ConnectError"), (503, "DeadlineError")}
    assert (await service.get("/ready"))[0] == 200
    status, text = await service.get("/metrics")
    label = 'operation="v2.profiles.get"'
    assert status == 200
    assert re.search(rf"adapty_client_call_duration_seconds_count{{.*{label}.*}} \d", text)
    assert f'error="{body["detail"]}"' in text
    await sandbox.start()


async def _check_shutdown(service: Service, sandbox: Sandbox) -> None:
    before = len(sandbox.arrivals())
    response = asyncio.ensure_future(service.get("/users/ben/access/premium"))
    while len(sandbox.arrivals()) == before:
        assert not response.done()
        await asyncio.sleep(0)
    service.process.send_signal(signal.SIGTERM)

    assert await response == (200, {"access": False})
    assert service.process.stdout is not None
    output = (await service.process.stdout.read()).decode()
    assert await service.process.wait() in {0, -signal.SIGTERM}  # uvicorn sends it to itself again
    assert "Traceback" not in output
    assert "Unclosed" not in output
    assert (
        "WARNING:adapty_async:webhook: status 401: the Authorization header is not the secret"
        in output
    )


@pytest.fixture
def wrong_key(adapty_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an environment with a key that the API rejects."""
    monkeypatch.setenv("ADAPTY_API_KEY", f"{adapty_sandbox.api_key}x")
    monkeypatch.setenv("ADAPTY_WEBHOOK_SECRET", _SECRET)
    monkeypatch.setenv("WEBHOOK_STORE", str(tmp_path / "webhooks.db"))


async def _start_fastapi() -> None:
    async with service_fastapi.lifespan(service_fastapi.app):
        pass


async def _start_aiohttp() -> None:
    runner = web.AppRunner(service_aiohttp.make_app())
    try:
        await runner.setup()
    finally:
        await runner.cleanup()


@pytest.mark.usefixtures("wrong_key")
@pytest.mark.parametrize("start", [_start_fastapi, _start_aiohttp], ids=["fastapi", "aiohttp"])
async def test_a_service_without_a_valid_key_does_not_start(
    start: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at its start, be the key wrong or missing, and not with each request."""
    with pytest.raises(AuthenticationError, match="status 401"):
        await start()
    monkeypatch.delenv("ADAPTY_API_KEY")
    with pytest.raises(ConfigError, match="ADAPTY_API_KEY"):
        await start()
