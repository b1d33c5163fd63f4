"""Proxies that the environment names: used when asked for, and named when a connection fails."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from adapty_async.cli._proxies import connection_hooks, proxy_hooks, require_usable_proxy
from adapty_async.errors import ConfigError
from adapty_async.hooks import CallStarted, RetryScheduled
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke
from tests.cli.processes import run
from tests.faults.certificates import are_to_be_had, certificate, server_context
from tests.raw_server import DONE, RawServer, in_thread

Put = Callable[[str, str | bytes], Path]

V1 = ("--api", "v1", "--by", "customer-user-id", "--yes")
ORIGIN = "https://api.example.test"
PROXY = "http://user:CANARY@proxy.test:3128"
FAILED = RetryScheduled("v1.profiles.delete", 1, 0.5, "ConnectError", None)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def refused() -> Iterator[str]:
    """Return an origin where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def hint_of(origin: str, capsys: pytest.CaptureFixture[str], *, trust_env: bool = False) -> str:
    """Return what is reported when connections to an origin fail twice."""
    for hook in proxy_hooks(origin, trust_env=trust_env):
        for event in (CallStarted("v1.profiles.delete"), FAILED, FAILED):
            hook(event)
    return capsys.readouterr().err


def test_an_address_without_a_connection_is_named_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong address does not look like an outage, and no more retries are promised than made."""
    for hook in connection_hooks(ORIGIN, trust_env=False):
        for event in (CallStarted("v1.profiles.delete"), FAILED, FAILED):
            hook(event)
    told = f"No connection to {ORIGIN}: retrying. If this is no outage, check the address.\n"
    assert capsys.readouterr().err == told


def test_a_lack_of_file_descriptors_is_named_once_and_is_no_fault_of_the_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the address nor a proxy is to blame, and the hint has the remedy."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    event = msgspec.structs.replace(FAILED, errno=errno.EMFILE)
    for hook in connection_hooks(ORIGIN, trust_env=False):
        hook(event)
        hook(event)
    told = "Too many open files: fewer connections are used. ulimit -n raises the limit.\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "Https_Proxy"])
def test_a_proxy_that_is_not_used_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The hint has the variable as it is written, and never its value."""
    monkeypatch.setenv(name, PROXY)
    told = f"A connection failed. {name} is set but not used: --trust-env uses its proxy.\n"
    assert hint_of(ORIGIN, capsys) == told
    assert hint_of(ORIGIN, capsys, trust_env=True) == ""
    assert hint_of("http://localhost:1", capsys) == ""  # another scheme


def test_a_host_without_a_proxy_gets_no_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NO_PROXY says that the proxy is not for this host."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "example.test")
    assert hint_of(ORIGIN, capsys) == ""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.test")
    require_usable_proxy(ORIGIN)


@pytest.mark.parametrize("trust_env", [False, True], ids=["default", "trust-env"])
def test_a_variable_that_is_not_supported_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trust_env: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    """ALL_PROXY is not read, whether the environment is trusted or not."""
    monkeypatch.setenv("ALL_PROXY", PROXY)
    assert hint_of(ORIGIN, capsys, trust_env=trust_env) == (
        "A connection failed. ALL_PROXY is not supported: set HTTPS_PROXY, and add --trust-env.\n"
    )


@pytest.mark.parametrize("url", ["socks5://CANARY@p.test:1", "p.test:3128"])
def test_a_proxy_of_another_kind_is_rejected(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Aiohttp would take it for one of HTTP, or report a lost response."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(ConfigError, match="with http:// or https:// in HTTPS_PROXY") as caught:
        require_usable_proxy(ORIGIN)
    assert "CANARY" not in str(caught.value)


def test_trust_env_sends_through_the_proxy(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """The proxy gets the requests with the key, whatever passwords are in .netrc."""
    sandbox.seed_profiles(["a"])
    netrc = put("netrc", "default login x password y\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", sandbox.url)
    options = (*V1, "--base-url", refused, "--trust-env")
    assert invoke("delete", put("ids.txt", "a\n"), *options).exit_code == 0
    assert sandbox.customer_user_ids() == set()


@pytest.mark.skipif(not are_to_be_had(), reason="it needs openssl")
def test_the_connection_to_a_proxy_may_be_encrypted(
    put: Put, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """A proxy with https:// gets the requests as one with http:// does."""
    monkeypatch.setenv("ADAPTY_API_KEY", "key")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate("good")))
    with in_thread(RawServer(then=DONE, tls=server_context("good"))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        options = (*V1, "--base-url", refused, "--trust-env")
        ended = run("delete", put("ids.txt", "a\n"), *options)

    assert (ended.returncode, proxy.methods) == (0, ["DELETE"]), ended.stderr


def test_a_refused_connection_is_no_request(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """The report has 0 requests, and standard error the proxy that is not used."""
    monkeypatch.setenv("HTTP_PROXY", sandbox.url)
    result = invoke("delete", put("ids.txt", "a\n"), *V1, "--base-url", refused)
    assert result.exit_code == 1
    assert result.stdout.startswith("1 row in ")
    assert "  requests           0   attempts without a connection: 5\n" in result.stdout
    assert result.stderr.startswith(  # a progress line may follow
        "A connection failed. HTTP_PROXY is set but not used: --trust-env uses its proxy.\n"
    )
    assert sandbox.arrivals() == []


def test_a_worker_names_what_keeps_it_from_a_connection(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """A worker of a job says so like the other commands, while it retries."""
    path = put("ids.txt", "a\n")
    store = ("--store", f"sqlite:///{path.with_name('jobs.db')}", "--base-url", refused)
    monkeypatch.setenv("HTTP_PROXY", sandbox.url)
    assert invoke("job", "plan", path, "--name", "erasure", *V1, *store).exit_code == 0
    result = invoke("job", "work", "erasure", *store, "--max-outage", "0.1")
    assert "HTTP_PROXY is set but not used: --trust-env uses its proxy.\n" in result.stderr
    assert f"No connection to {refused}: retrying." in result.stderr
    assert sandbox.arrivals() == []
