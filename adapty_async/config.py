"""The configuration of a client: immutable policies that are validated at construction."""

from __future__ import annotations

import ipaddress
import math
import os
import urllib.parse
from typing import Any, NoReturn, Protocol

import msgspec

from adapty_async.errors import ConfigError

__all__ = (
    "ApiKey",
    "Limits",
    "RateSharing",
    "RetryPolicy",
    "optional_key",
    "origin_from",
    "positive",
    "whole_number",
)


def positive(name: str, value: float) -> float:
    """Return `value` if it is a finite number above 0; otherwise raise a `ConfigError`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} must be a number above 0, not {value!r}")

    return value


def whole_number(name: str, value: int, most: int | None = None) -> int:
    """Return `value` if it is a whole number from 1 to `most`; otherwise raise a `ConfigError`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < 1 or (most is not None and value > most):
        bounds = f"from 1, not {value!r}" if most is None else f"from 1 to {most:,}"
        raise ConfigError(f"{name} must be a whole number {bounds}")

    return value


class RetryPolicy(msgspec.Struct, frozen=True):
    """
    A retry policy: when a failed request is retried, if its retry safety allows that at all.

    The backoff is exponential with full jitter: each wait is random between 0 and a bound that
    doubles every time. A wait that exceeds the rest of the deadline does not start; the error is
    raised at once.

    Attributes:
        attempts: maximum requests for one call, including the first; 1 never retries.
        deadline: seconds for the whole call: queueing, attempts and waits.
        wait_initial: bound of the first wait, in seconds.
        wait_max: maximum bound of a wait, in seconds.
        retry_after_max: longest wait, in seconds, that the server may request.
        budget: size of the retry budget in tokens, shared by all calls of a client. A retry costs
            14 tokens, or 5 after a 429. Success refunds them. So retries do not multiply the load
            in an outage.

    Raises:
        ConfigError: a value is out of range.
    """

    attempts: int = 5
    deadline: float = 60.0
    wait_initial: float = 0.5
    wait_max: float = 30.0
    retry_after_max: float = 60.0
    budget: int = 500

    def __post_init__(self) -> None:
        whole_number("RetryPolicy.attempts", self.attempts)
        whole_number("RetryPolicy.budget", self.budget)
        for name in ("deadline", "wait_initial", "wait_max", "retry_after_max"):
            positive(f"RetryPolicy.{name}", getattr(self, name))


class RateSharing(Protocol):
    """A protocol of a rate that several processes share: `adapty_async.shared.SharedRate`."""

    def rate_source(self, account: str, bucket: str) -> Any:
        """Return the rate source of a bucket of an account, for the limiters of a client."""
        ...


class Limits(msgspec.Struct, frozen=True):
    """
    The concurrency and rate limits of one client.

    Attributes:
        connections: maximum open connections, and so requests in flight, per event loop.
        rate: maximum requests per second, including retries; None sets no limit.
        burst: requests that may be sent at once after a pause; None allows those of a tenth of a
            second.
        shared: the rate that this client shares with other processes, a
            `adapty_async.shared.SharedRate`; it excludes `rate`.

    Raises:
        ConfigError: a value is out of range, `burst` is set without `rate`, or both `shared` and
            `rate` are set.
    """

    connections: int = 256
    rate: float | None = None
    burst: int | None = None
    shared: RateSharing | None = None

    def __post_init__(self) -> None:
        whole_number("Limits.connections", self.connections)
        if self.rate is not None:
            positive("Limits.rate", self.rate)
        if self.burst is not None:
            whole_number("Limits.burst", self.burst)
            if self.rate is None:
                raise ConfigError("Limits.burst needs a Limits.rate")
        if self.shared is not None:
            if not callable(getattr(self.shared, "rate_source", None)):
                raise ConfigError("Limits.shared must be a SharedRate")
            if self.rate is not None:
                raise ConfigError("Limits.shared and Limits.rate exclude each other")


# Some readers of .env files keep the quotes around a value.
_QUOTES = "\"'`"


class ApiKey:
    """
    A wrapper of an API key: only `reveal` returns the key.

    Args:
        value: the key; None for that of the environment.
        env: the environment variable with the key.
        argument: the name of the caller's argument, for messages.

    Raises:
        ConfigError: the key is missing, or has characters that no key has.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | None, *, env: str, argument: str = "api_key") -> None:
        name = env if value is None else argument
        self._value = os.environ.get(env, "") if value is None else value
        del value  # some tools print the locals of every frame of a traceback
        if not self._value:
            raise ConfigError(f"no API key: set {env}, or pass {argument}= in Python")
        if not isinstance(self._value, str):
            raise ConfigError(f"{name} must be text")
        if (fault := self._fault()) is not None:
            raise ConfigError(f"{name} {fault}")
        self._value = str.__str__(self._value)  # a subclass may hide it

    def _fault(self) -> str | None:
        """Return the rule that the key breaks; None if it breaks none."""
        text = self._value
        if any(each.isspace() for each in text):  # such as the line end of a file from Windows
            return "must not contain blanks or line breaks; pass it without its scheme word"
        if not text.isascii() or not text.isprintable():
            return "must be printable ASCII text"
        if text[0] in _QUOTES or text[-1] in _QUOTES:
            return "must not be in quotes"
        return None

    def reveal(self) -> str:
        """Return the key in plain text."""
        return self._value

    def __repr__(self) -> str:
        return "ApiKey('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled")


def optional_key(value: str | None, *, env: str, argument: str) -> ApiKey | None:
    """
    Return the key that was passed or that the environment has; None without one.

    Raises:
        ConfigError: the key has characters that no key has.
    """
    try:
        is_missing = value is None and not os.environ.get(env)
        return None if is_missing else ApiKey(value, env=env, argument=argument)
    finally:
        del value  # some tools print the locals of every frame of a traceback


def origin_from(base_url: str | None, *, env: str, default: str, allow_insecure: bool) -> str:
    """
    Return the origin of requests: the argument, or the environment variable, or the default.

    Raises:
        ConfigError: the origin is not ``https://host[:port]``, or is plain http to another machine.
    """
    if base_url is not None:
        return _origin(base_url, "base_url", allow_insecure=allow_insecure)
    return _origin(os.environ.get(env, default), env, allow_insecure=allow_insecure)


def _origin(url: str, name: str, *, allow_insecure: bool) -> str:
    if not isinstance(url, str):
        raise ConfigError(f"{name} must be text")
    if not url:  # such as a setting that was not filled in: it must not lead to real users
        raise ConfigError(f"{name} must not be empty; leave it out for Adapty's own")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port  # raises for a port that is not a number
    except ValueError:
        raise ConfigError(f"{name} is not a URL, or its port is not a number") from None
    _check_origin(parts, name, allow_insecure=allow_insecure)
    try:
        host = (parts.hostname or "").encode("idna").decode()
    except UnicodeError:  # such as an empty label, or one that is too long for a lookup
        raise ConfigError(f"{name} has a host name that is not valid") from None
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _check_origin(parts: urllib.parse.SplitResult, name: str, *, allow_insecure: bool) -> None:
    """Validate that a base URL is an origin, and https unless it is local or allowed."""
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not host.isprintable() or " " in (host or " "):
        raise ConfigError(f"{name} must look like https://host or https://host:port")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{name} must not contain a user name or password")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"{name} must be an origin; the library adds the paths")
    if parts.scheme == "http" and not allow_insecure and not _is_loopback(host):
        raise ConfigError(f"{name} must be https, unless allow_insecure=True or on this machine")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
