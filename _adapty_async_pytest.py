"""
A pytest plugin: the sandbox and clients as fixtures, and a guard against calls of the real API.

pytest loads it by itself when the library is installed; ``-p no:adapty_async`` turns it off. The
fixtures are ordinary functions, so they serve tests with asyncio, anyio, or no event loop at all,
such as those with Starlette's ``TestClient``::

    async def test_erasure(adapty_sandbox, adapty_client):
        adapty_sandbox.seed_profiles(["anna"])
        await adapty_client.v2.profiles.delete(customer_user_id="anna")
        assert adapty_sandbox.customer_user_ids() == set()

A client that reads its settings from the environment reaches the sandbox as well, as long as a test
uses the fixture ``adapty_sandbox``.

This module is outside of the package, and imports it only in fixtures. A test run that uses none of
them therefore does not import the library, and coverage sees the imports of one that does.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from adapty_async import AdaptyClient, AdaptyExportClient, AdaptyMailClient
    from adapty_async.sandbox import Sandbox

__all__ = (
    "adapty_client",
    "adapty_export_client",
    "adapty_mail_client",
    "adapty_sandbox",
    "pytest_addoption",
    "pytest_configure",
)

# The end of the names of Adapty's servers.
_ADAPTY = ".adapty.io"
_MARKERS = (
    "adapty_sandbox(**options): options of Sandbox, such as rate=50, faults='error=5%', seed=7",
    "adapty_live: this test may connect to Adapty",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the guard."""
    parser.addini(
        "adapty_guard",
        "fail a test whose Adapty client connects to a host that is not loopback",
        type="bool",
        default=True,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and the guard unless it is turned off."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getini("adapty_guard"):
        guard = _Guard()
        config.pluginmanager.register(guard, "adapty_async_guard")
        sys.addaudithook(guard.audit)


class _Guard:
    """
    A guard that fails a test whose client connects to a host that is not loopback.

    It sees the sockets of this library's own sessions, and lookups of Adapty's names: without a
    network, a lookup fails before there is a socket. A test mock that responds without a socket is
    not affected.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._rejected: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Check the set-up, the call and the teardown of a test."""
        self._is_on = item.get_closest_marker("adapty_live") is None
        self._rejected.clear()
        try:
            return (yield)
        finally:
            self._is_on = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Fail a test whose connection was rejected, even if its code handled the error."""
        result = yield
        if self._rejected:
            pytest.fail(_reason(self._rejected[0]), pytrace=False)
        return result

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Reject a client's connection to a host that is not loopback, and a lookup of Adapty's."""
        host_of = _HOSTS.get(event)
        if host_of is None or not self._is_on:
            return
        host = host_of(*arguments)
        if host is not None:
            self._rejected.append(host)
            pytest.fail(_reason(host))


def _reason(host: str) -> str:
    return (
        f"an Adapty client connected to {host}, which is not loopback: use the fixture"
        " adapty_client, or mark the test with adapty_live"
    )


def _connected_host(made: object, address: Any) -> str | None:
    """Return the host that a client connects to; None if it is loopback, or no client connects."""
    if _is_loopback(address) or not _is_client_socket(made):
        return None
    return str(address[0])


def _looked_up_host(host: object, *_: object) -> str | None:
    """Return the host of a lookup, by a client or other code; None if it is not Adapty's."""
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    return name if isinstance(name, str) and name.endswith(_ADAPTY) else None


# The functions that return a host to reject, by the names of audit events.
_HOSTS: Mapping[str, Callable[..., str | None]] = {
    "socket.connect": _connected_host,
    "socket.getaddrinfo": _looked_up_host,
}


def _is_client_socket(made: object) -> bool:
    fork = sys.modules.get("adapty_async._runtime.fork")  # if not imported, there is no client
    return fork is not None and fork.is_client_socket(made)


def _is_loopback(address: Any) -> bool:
    try:
        return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    except (ValueError, TypeError, AttributeError):
        return True  # not an address of IP: a Unix socket


@pytest.fixture
def adapty_sandbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """
    A sandbox of its own for each test, which clients find through the environment.

    The marker ``adapty_sandbox`` sets its options. Its methods may be called from any thread.
    """
    from adapty_async.integrations._sandbox_thread import serving  # noqa: PLC0415  see above
    from adapty_async.sandbox import Sandbox  # noqa: PLC0415

    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("adapty_sandbox"))):
        if marker.args:
            raise pytest.UsageError("the marker adapty_sandbox takes keywords only")
        options |= marker.kwargs
    try:
        sandbox = Sandbox(**options)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"marker adapty_sandbox: {error}") from None
    with serving(sandbox) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def adapty_client(adapty_sandbox: Sandbox) -> Iterator[AdaptyClient]:
    """A client of the sandbox's server-side and web APIs, closed after the test."""
    from adapty_async import AdaptyClient  # noqa: PLC0415  see above

    client = AdaptyClient(
        adapty_sandbox.api_key,
        public_key=adapty_sandbox.public_key,
        base_url=adapty_sandbox.url,
    )
    yield client
    _close(client)


@pytest.fixture
def adapty_mail_client(adapty_sandbox: Sandbox) -> Iterator[AdaptyMailClient]:
    """A client of the sandbox's Mail API, closed after the test."""
    from adapty_async import AdaptyMailClient  # noqa: PLC0415  see above

    client = AdaptyMailClient(adapty_sandbox.mail_api_key, base_url=adapty_sandbox.url)
    yield client
    _close(client)


@pytest.fixture
def adapty_export_client(adapty_sandbox: Sandbox) -> Iterator[AdaptyExportClient]:
    """A client of the sandbox's export analytics API, closed after the test."""
    from adapty_async import AdaptyExportClient  # noqa: PLC0415  see above

    client = AdaptyExportClient(adapty_sandbox.api_key, base_url=adapty_sandbox.url)
    yield client
    _close(client)


def _close(client: AdaptyClient | AdaptyMailClient | AdaptyExportClient) -> None:
    import asyncio  # noqa: PLC0415  the fixture has imported it

    # unlike `asyncio.run`, it leaves the thread's current event loop, which other tests may use
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(client.aclose())
