"""Policies, keys and origins: accepted values and validation errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from adapty_async.config import ApiKey, Limits, RetryPolicy, origin_from, positive
from adapty_async.errors import ConfigError
from tests._support import CANARY_KEY

ENV = "ADAPTY_TEST_SETTING"
NAN = float("nan")


@pytest.mark.parametrize("value", [1, 0.001, 1e300], ids=str)
def test_a_positive_number_is_returned(value: float) -> None:
    """A finite number above zero passes unchanged."""
    assert positive("name", value) == value


@pytest.mark.parametrize("value", [0, -1, NAN, float("inf"), True, "1", None], ids=repr)
def test_what_is_no_positive_number_is_rejected(value: Any) -> None:
    """Zero, negative, infinite and other values are rejected by name."""
    with pytest.raises(ConfigError, match=r"^name must be a number above 0, not "):
        positive("name", value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: RetryPolicy(attempts=0),
            "RetryPolicy.attempts must be a whole number from 1",
            id="attempts=0",
        ),
        pytest.param(
            lambda: RetryPolicy(attempts=True), "RetryPolicy.attempts must", id="attempts=True"
        ),
        pytest.param(
            lambda: RetryPolicy(attempts=2.0),  # type: ignore[arg-type]
            "RetryPolicy.attempts must",
            id="attempts=2.0",
        ),
        pytest.param(lambda: RetryPolicy(deadline=0), "RetryPolicy.deadline must", id="deadline"),
        pytest.param(
            lambda: RetryPolicy(wait_initial=-1), "RetryPolicy.wait_initial must", id="wait_initial"
        ),
        pytest.param(lambda: RetryPolicy(wait_max=NAN), "RetryPolicy.wait_max must", id="wait_max"),
        pytest.param(
            lambda: RetryPolicy(retry_after_max=float("inf")),
            "RetryPolicy.retry_after_max must",
            id="retry_after_max",
        ),
        pytest.param(
            lambda: Limits(connections=0), "Limits.connections must be a whole", id="connections"
        ),
        pytest.param(lambda: Limits(rate=0), "Limits.rate must", id="rate"),
        pytest.param(lambda: Limits(rate=1, burst=0), "Limits.burst must be a whole", id="burst"),
        pytest.param(
            lambda: Limits(burst=5), r"Limits.burst needs a Limits.rate", id="burst alone"
        ),
    ],
)
def test_a_policy_that_cannot_work_is_rejected(make: Callable[[], object], message: str) -> None:
    """A value out of range is rejected at construction, with its name and rule."""
    with pytest.raises(ConfigError, match=message):
        make()


def test_policies_have_bounds_by_default() -> None:
    """Attempts, total time, waits and connections are bounded by default."""
    assert RetryPolicy() == RetryPolicy(5, 60.0, 0.5, 30.0, 60.0)
    assert Limits() == Limits(256, None, None)
    assert Limits(rate=0.5, burst=1).burst == 1


@pytest.mark.parametrize("policy", [RetryPolicy(), Limits()], ids=lambda one: type(one).__name__)
def test_a_policy_never_changes(policy: RetryPolicy | Limits) -> None:
    """A policy is frozen."""
    with pytest.raises(AttributeError, match="immutable"):
        setattr(policy, policy.__struct_fields__[0], 1)


@pytest.mark.parametrize(
    ("given", "in_env", "expected"),
    [
        pytest.param("given", "in-env", "given", id="argument first"),
        pytest.param(None, "in-env", "in-env", id="environment"),
    ],
)
def test_a_key_comes_from_argument_or_environment(
    monkeypatch: pytest.MonkeyPatch, given: str | None, in_env: str, expected: str
) -> None:
    """The argument overrides the environment."""
    monkeypatch.setenv(ENV, in_env)

    assert ApiKey(given, env=ENV).reveal() == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(None, f"no API key: set {ENV}, or pass api_key= in Python", id="missing"),
        pytest.param("", "no API key", id="empty"),
        pytest.param(f"{CANARY_KEY}\n", "not contain blanks or line breaks", id="line break"),
        pytest.param(f"{CANARY_KEY}\r", "not contain blanks or line breaks", id="Windows"),
        pytest.param(" ", "not contain blanks or line breaks", id="blank"),
        pytest.param(f"{CANARY_KEY}é", "must be printable ASCII", id="non-ASCII"),
        pytest.param(f"{CANARY_KEY}\0", "must be printable ASCII", id="control character"),
        pytest.param(f'"{CANARY_KEY}"', "must not be in quotes", id="quotes"),
        pytest.param(f"{CANARY_KEY}'", "must not be in quotes", id="quote"),
        pytest.param(123, "must be text", id="number"),
        pytest.param(CANARY_KEY.encode(), "must be text", id="bytes"),
        pytest.param(f"Api-Key {CANARY_KEY}", "without its scheme word", id="scheme word"),
    ],
)
def test_a_bad_key_is_rejected_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, value: Any, message: str
) -> None:
    """The error has the reason, and not the key."""
    monkeypatch.delenv(ENV, raising=False)

    with pytest.raises(ConfigError, match=message) as caught:
        ApiKey(value, env=ENV)
    assert "CANARY" not in str(caught.value)


def test_a_bad_key_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, which is where it has to be corrected."""
    monkeypatch.setenv(ENV, f"{CANARY_KEY}\r")

    with pytest.raises(ConfigError, match=f"^{ENV} must not contain blanks or line breaks"):
        ApiKey(None, env=ENV)


def test_a_key_shows_itself_only_on_request() -> None:
    """Text and repr hide the key, and it isn't pickled."""
    key = ApiKey(CANARY_KEY, env=ENV)

    assert repr(key) == str(key) == "ApiKey('***')"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)


def origin(base_url: Any, *, allow_insecure: bool = False) -> str:
    """Return the origin for an argument."""
    return origin_from(
        base_url, env=ENV, default="https://api.example.com", allow_insecure=allow_insecure
    )


@pytest.mark.parametrize(
    ("given", "in_env", "expected"),
    [
        pytest.param("https://a.example", "https://b.example", "https://a.example", id="argument"),
        pytest.param(None, "https://b.example", "https://b.example", id="environment"),
        pytest.param(None, None, "https://api.example.com", id="default"),
    ],
)
def test_the_origin_comes_from_argument_environment_or_default(
    monkeypatch: pytest.MonkeyPatch, given: str | None, in_env: str | None, expected: str
) -> None:
    """The argument overrides the environment, which overrides the default."""
    if in_env is None:
        monkeypatch.delenv(ENV, raising=False)
    else:
        monkeypatch.setenv(ENV, in_env)

    assert origin(given) == expected


def test_an_origin_that_is_empty_is_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that was not filled in must not lead to Adapty; the message names it."""
    monkeypatch.setenv(ENV, "")
    with pytest.raises(ConfigError, match=rf"^{ENV} must not be empty"):
        origin(None)

    monkeypatch.setenv(ENV, "https://b.example")
    with pytest.raises(ConfigError, match=r"^base_url must not be empty"):
        origin("")


def test_an_error_of_an_origin_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named if it has the origin."""
    monkeypatch.setenv(ENV, "https://host/api")
    with pytest.raises(ConfigError, match=rf"^{ENV} must be an origin; the library adds the paths"):
        origin(None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Example.com/", "https://example.com"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443"),
        ("http://localhost:8321", "http://localhost:8321"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://[::1]:8321", "http://[::1]:8321"),
        ("https://B\u00fccher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_is_written_one_way(url: str, expected: str) -> None:
    """Whatever its spelling, an origin is scheme, host and port; loopback may be plain http."""
    assert origin(url) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://host:port", "base_url is not a URL"),
        ("https://[::1", "base_url is not a URL"),
        (f"https://{'a' * 64}.example", "a host name that is not valid"),
        ("https://a..example", "a host name that is not valid"),
        ("https://\u2100.example", "base_url is not a URL"),
        ("ftp://host", "must look like https://host"),
        ("example.com", "must look like https://host"),
        ("https://", "must look like https://host"),
        ("https://ho st", "must look like https://host"),
        ("https://user:pass@host", "must not contain a user name or password"),
        ("https://host/api", "must be an origin"),
        ("https://host?a=1", "must be an origin"),
        ("https://host#a", "must be an origin"),
        ("http://example.com", "must be https"),
        ("http://10.0.0.1", "must be https"),
        ("http://localhost.example.com", "must be https"),
        (123, "must be text"),
        (b"https://host", "must be text"),
    ],
    ids=str,
)
def test_what_is_no_origin_is_rejected(url: Any, message: str) -> None:
    """Paths, credentials, other schemes, and plain http to other machines are rejected."""
    with pytest.raises(ConfigError, match=message):
        origin(url)


def test_plain_http_to_another_machine_is_a_choice() -> None:
    """The option `allow_insecure` permits sending keys over plain http."""
    assert origin("http://10.0.0.1", allow_insecure=True) == "http://10.0.0.1"


class Sharing:
    """A rate that processes share."""

    def rate_source(self, account: str, bucket: str) -> str:
        """Return a name in the place of a rate source."""
        return f"{account} {bucket}"


def test_a_shared_rate_is_a_limit() -> None:
    """An object that shares a rate is accepted, together with the number of connections."""
    sharing = Sharing()

    assert Limits(connections=5, shared=sharing).shared is sharing
    assert sharing.rate_source("account", "v1") == "account v1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: Limits(rate=5.0, shared=Sharing()),
            "Limits.shared and Limits.rate exclude each other",
            id="both",
        ),
        pytest.param(
            lambda: Limits(shared="redis://host"),  # type: ignore[arg-type]
            "Limits.shared must be a SharedRate",
            id="a URL",
        ),
    ],
)
def test_a_shared_rate_that_is_not_one_is_rejected(
    make: Callable[[], Limits], message: str
) -> None:
    """Only one rate can hold, and a URL is not opened by a client."""
    with pytest.raises(ConfigError, match=message):
        make()
