"""The pytest plugin in the tests of a project that uses the library."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Any

import pytest

import _adapty_async_pytest as plugin
from adapty_async._runtime.fork import SocketFactory
from adapty_async.integrations import pytest as named

pytest_plugins = ["pytester"]

_ROOT = Path(__file__).parent.parent.parent

PLAIN = """
import asyncio
import datetime as dt

import pytest
from adapty_async import (
    AdaptyClient,
    AdaptyExportClient,
    AdaptyMailClient,
    MailProfile,
    RetryPolicy,
    ServerError,
)

from adapty_async.export import PlacementFilters
from adapty_async.web import Attribution

PROFILE = MailProfile(
    external_profile_id="p1",
    external_created_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    email="a@example.com",
)


async def erase(client):
    await client.v1.profiles.delete(customer_user_id="anna")


def test_without_a_loop(adapty_sandbox, adapty_client):
    adapty_sandbox.seed_profiles(["anna"])
    asyncio.run(erase(adapty_client))
    assert adapty_sandbox.customer_user_ids() == set()


def test_the_next_test_has_a_sandbox_of_its_own(adapty_sandbox):
    assert adapty_sandbox.customer_user_ids() == set()


def test_the_environment_leads_to_the_sandbox(adapty_sandbox):
    async def work():
        async with AdaptyClient() as adapty, AdaptyMailClient() as mail:
            await erase(adapty)
            await mail.profiles.save(PROFILE)

    adapty_sandbox.seed_profiles(["anna"])
    asyncio.run(work())
    assert adapty_sandbox.mail_profile_ids() == {"p1"}
    assert AdaptyExportClient().origin == adapty_sandbox.url


def test_the_web_api(adapty_sandbox, adapty_client):
    async def add(client):
        organic = Attribution(status="organic")
        await client.web.attribution.add(organic, customer_user_id="anna")

    adapty_sandbox.seed_profiles(["anna"])
    asyncio.run(add(adapty_client))
    found = AdaptyClient()  # by the environment
    asyncio.run(add(found))
    asyncio.run(found.aclose())


def test_an_export(adapty_sandbox, adapty_export_client):
    async def work():
        filters = PlacementFilters(placement_type="paywall")
        return await adapty_export_client.placements(filters=filters)

    assert len(asyncio.run(work()).data) == 3


@pytest.mark.adapty_sandbox(faults="error=100%", seed=7)
class TestFaults:
    def test_faults(self, adapty_sandbox, adapty_client):
        with pytest.raises(ServerError):
            asyncio.run(erase(adapty_client.with_options(retry=RetryPolicy(attempts=1))))

    @pytest.mark.adapty_sandbox(faults="")
    def test_the_closest_marker_wins(self, adapty_sandbox, adapty_client):
        adapty_sandbox.seed_profiles(["anna"])
        asyncio.run(erase(adapty_client))


@pytest.mark.anyio
async def test_anyio(adapty_sandbox, adapty_mail_client):
    await adapty_mail_client.profiles.save(PROFILE)
    assert adapty_sandbox.count() == {200: 1}


@pytest.mark.anyio
@pytest.mark.adapty_sandbox(webhook_url="http://127.0.0.1:9/", webhook_time_scale=1e-6)
async def test_a_method_that_waits(adapty_sandbox, adapty_client):
    assert not await adapty_sandbox.verify_webhook()


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
ASYNCIO = """
import pytest


@pytest.mark.asyncio
async def test_asyncio(adapty_sandbox, adapty_client):
    adapty_sandbox.seed_profiles(["anna"])
    await adapty_client.v1.profiles.delete(customer_user_id="anna")
    assert adapty_sandbox.customer_user_ids() == set()
"""
CURRENT = """
import asyncio

import pytest


@pytest.fixture(scope="module", autouse=True)
def current_loop():
    with asyncio.Runner() as runner:
        yield runner.get_loop()


def test_first(adapty_sandbox, adapty_client):
    adapty_sandbox.seed_profiles(["anna"])
    delete = adapty_client.v1.profiles.delete(customer_user_id="anna")
    asyncio.get_event_loop().run_until_complete(delete)


def test_next(current_loop):
    assert asyncio.get_event_loop() is current_loop
"""
STARLETTE = """
import contextlib

from adapty_async import AdaptyClient
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient


@contextlib.asynccontextmanager
async def lifespan(app):
    async with AdaptyClient() as app.state.adapty:
        yield


async def erase(request):
    user = request.path_params["user"]
    await request.app.state.adapty.v1.profiles.delete(customer_user_id=user)
    return Response(status_code=204)


def test_service(adapty_sandbox):
    adapty_sandbox.seed_profiles(["anna", "bert"])
    app = Starlette(routes=[Route("/{user}", erase, methods=["DELETE"])], lifespan=lifespan)
    with TestClient(app) as client:
        assert client.delete("/anna").status_code == 204
    assert adapty_sandbox.customer_user_ids() == {"bert"}
"""
GUARDED = """
import asyncio
from contextlib import suppress

import pytest
from adapty_async import AdaptyClient, AdaptyError, RetryPolicy

ORIGIN = "https://192.0.2.1"  # TEST-NET-1, RFC 5737


async def work():
    policy = RetryPolicy(attempts=1)
    client = AdaptyClient("secret_live_x.y", base_url=ORIGIN, timeout=0.2, retry=policy)
    async with client:
        await client.v1.profiles.delete(customer_user_id="anna")


def test_refused():
    asyncio.run(work())


def test_refused_although_it_was_handled():
    try:
        asyncio.run(work())
    except BaseException:
        pass


def test_adapty():
    async def work():
        async with AdaptyClient("secret_live_x.y", retry=RetryPolicy(attempts=1)) as client:
            with suppress(AdaptyError):
                await client.v1.profiles.delete(customer_user_id="anna")

    asyncio.run(work())


@pytest.mark.adapty_live
def test_allowed():
    with pytest.raises(Exception, match="operation v1.profiles.delete"):
        asyncio.run(work())


def test_transport():
    from adapty_async.testing import FakeTransport

    async def work():
        transport = FakeTransport([(204, {}, b"")])
        async with AdaptyClient("secret_live_x.y", transport=transport) as client:
            await client.v1.profiles.delete(customer_user_id="anna")

    asyncio.run(work())
"""
BARE = """
import socket
import sys


def test_plain():
    with socket.socket() as made:
        made.settimeout(0.01)
        made.connect_ex(("192.0.2.1", 9))  # TEST-NET-1, RFC 5737
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {"adapty_async", "aiohttp", "msgspec", "tenacity"}
"""
WRONG = """
import pytest


@pytest.mark.adapty_sandbox(50)
def test_positional(adapty_sandbox): ...


@pytest.mark.adapty_sandbox(speed=50)
def test_unknown(adapty_sandbox): ...


@pytest.mark.adapty_sandbox(rate=-1)
def test_out_of_range(adapty_sandbox): ...
"""


def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, text: str, *options: str
) -> pytest.RunResult:
    """Run a module of tests as a project would, with nothing but the plugins named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(test_theirs=text)
    plugins = ["-p", "_adapty_async_pytest", "-p", "anyio.pytest_plugin", *options]
    return pytester.runpytest_subprocess("-q", "--strict-markers", "-W", "error", *plugins)


def test_the_plugin_is_installed() -> None:
    """The installed library offers the plugin to pytest under its own name, and has its module."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert project["project"]["entry-points"]["pytest11"] == {"adapty_async": plugin.__name__}
    assert (
        f"{plugin.__name__}.py" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    )


def test_a_run_without_the_fixtures_does_not_import_the_library(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin and its guard import neither the library nor what that needs."""
    run(pytester, monkeypatch, BARE).assert_outcomes(passed=1)


def test_the_plugin_by_its_name_in_the_library() -> None:
    """A project that loads plugins by name finds the same plugin in the library."""
    assert named.__all__ == plugin.__all__
    assert all(getattr(named, name) is getattr(plugin, name) for name in plugin.__all__)


def test_fixtures(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandbox and clients serve tests without a loop and with anyio, one sandbox for each test."""
    run(pytester, monkeypatch, PLAIN).assert_outcomes(passed=9)


def test_fixtures_of_pytest_asyncio(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same fixtures serve tests of pytest-asyncio."""
    options = ["-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"]

    run(pytester, monkeypatch, ASYNCIO, *options).assert_outcomes(passed=1)


def test_the_current_event_loop_stays(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client is closed without a change of the event loop that tests of a module share."""
    run(pytester, monkeypatch, CURRENT).assert_outcomes(passed=2)


def test_a_service_under_starlettes_test_client(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service whose client reads the environment reaches the sandbox in a synchronous test."""
    known = "ignore:The anyio.abc:DeprecationWarning"  # of older releases of starlette

    run(pytester, monkeypatch, STARLETTE, "-W", known).assert_outcomes(passed=1)


def test_the_guard(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test whose client connects to another machine fails, unless it is marked as live."""
    result = run(pytester, monkeypatch, GUARDED)

    result.assert_outcomes(failed=3, passed=2)
    result.stdout.fnmatch_lines(["*connected to 192.0.2.1, which is not loopback*"])
    result.stdout.fnmatch_lines(["*connected to api.adapty.io, which is not loopback*"])


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        pytest.param(("127.0.0.1", 80), True, id="IPv4"),
        pytest.param(("::1", 80, 0, 0), True, id="IPv6"),
        pytest.param("/run/socket", True, id="Unix"),
        pytest.param(("192.0.2.1", 80), False, id="another machine"),
        pytest.param(("fe80::1%eth0", 80, 0, 1), False, id="a zone"),
    ],
)
def test_the_guard_knows_addresses(address: Any, *, is_loopback: bool) -> None:
    """Only a socket of a client, on its way to another machine, is rejected, in a guarded test."""
    guard, made = plugin._Guard(), SocketFactory()
    family = socket.AF_INET, socket.SOCK_STREAM, 0
    with made(family) as ours, socket.socket() as other:
        guard.audit("socket.connect", (ours, address))
        guard._is_on = True
        guard.audit("socket.connect", (other, address))
        guard.audit("open", ())
        if is_loopback:
            guard.audit("socket.connect", (ours, address))
            return
        with pytest.raises(pytest.fail.Exception, match="is not loopback"):
            guard.audit("socket.connect", (ours, address))


@pytest.mark.parametrize(
    ("host", "is_adapty"),
    [
        pytest.param("api.adapty.io", True, id="text"),
        pytest.param(b"api-mail.adapty.io", True, id="bytes"),
        pytest.param("localhost", False, id="loopback"),
        pytest.param("notadapty.io", False, id="another name"),
        pytest.param(None, False, id="no name"),
    ],
)
def test_the_guard_rejects_lookups_of_adapty(host: Any, *, is_adapty: bool) -> None:
    """Without a network a lookup fails, and the test must not pass for that reason."""
    guard = plugin._Guard()
    guard._is_on = True
    if not is_adapty:
        guard.audit("socket.getaddrinfo", (host, 443, 0, 1, 0))
        return
    with pytest.raises(pytest.fail.Exception, match=r"connected to api.*\.adapty\.io, which"):
        guard.audit("socket.getaddrinfo", (host, 443, 0, 1, 0))


def test_the_guard_can_be_turned_off(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `adapty_guard = false`, connections are the project's own affair."""
    result = run(pytester, monkeypatch, GUARDED, "-o", "adapty_guard=false", "-k", "handled")

    result.assert_outcomes(passed=1, deselected=4)


def test_a_wrong_marker(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that a sandbox does not have, or rejects, is an error that names it."""
    result = run(pytester, monkeypatch, WRONG)

    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*takes keywords only*"])
    result.stdout.fnmatch_lines(["*unexpected keyword argument 'speed'*"])
    result.stdout.fnmatch_lines(["*rate=-1*"])
