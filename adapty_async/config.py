"""How a client behaves: policies that are checked when made and never change."""

from __future__ import annotations

import ipaddress
import math
import os
import urllib.parse
from typing import NoReturn

import msgspec

from adapty_async.errors import ConfigError

__all__ = ("ApiKey", "Limits", "RetryPolicy", "origin_from", "positive")


def positive(name: str, value: float) -> float:
    """Return `value` if it is a finite number above zero, else raise `ConfigError` naming it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} must be a number above 0, not {value!r}")

    return value


def _count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a whole number from 1, not {value!r}")


class RetryPolicy(msgspec.Struct, frozen=True):
    """
    When a failed request is repeated, if its endpoint allows that at all.

    Waits between attempts are random between 0 and a bound that doubles each time (full jitter).
    A wait that does not fit into what is left of the deadline is not begun: the error is raised
    at once.

    Attributes:
        attempts: requests for one call at most, the first included; 1 never repeats.
        deadline: seconds for the whole call: queueing, attempts and waits.
        wait_initial: the bound of the first wait, in seconds.
        wait_max: the bound no wait exceeds, in seconds.
        retry_after_max: the longest wait, in seconds, that a server may ask for.
        budget: tokens for repeats, shared by all calls of a client: a repeat takes 14, or 5 after
            a 429; they come back with success. So an outage is not multiplied by repeats.

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
        _count("RetryPolicy.attempts", self.attempts)
        _count("RetryPolicy.budget", self.budget)
        for name in ("deadline", "wait_initial", "wait_max", "retry_after_max"):
            positive(f"RetryPolicy.{name}", getattr(self, name))


class Limits(msgspec.Struct, frozen=True):
    """
    How much one client does at a time.

    Attributes:
        connections: open connections, and so requests in flight, per event loop.
        rate: requests per second, repeats included; None sets no rate.
        burst: requests that may go at once after a pause; None is a tenth of a second's worth.

    Raises:
        ConfigError: a value is out of range, or there is a burst without a rate.
    """

    connections: int = 256
    rate: float | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        _count("Limits.connections", self.connections)
        if self.rate is not None:
            positive("Limits.rate", self.rate)
        if self.burst is not None:
            _count("Limits.burst", self.burst)
            if self.rate is None:
                raise ConfigError("Limits.burst needs a Limits.rate")


class ApiKey:
    """
    A secret key that shows itself only when asked to.

    Raises:
        ConfigError: the key is missing, or has characters that no key has.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | None, *, env: str) -> None:
        self._value = os.environ.get(env, "") if value is None else value
        del value  # there are tools that print the locals of every frame of a traceback
        if not self._value:
            raise ConfigError(f"no API key: pass api_key=, or set {env}")
        if not self._is_printable():
            raise ConfigError("api_key must be printable ASCII text")
        if " " in self._value:
            raise ConfigError("api_key must not contain blanks; pass it without its scheme word")

    def _is_printable(self) -> bool:
        text = self._value
        return isinstance(text, str) and text.isascii() and text.isprintable()

    def reveal(self) -> str:
        """Return the key itself."""
        return self._value

    def __repr__(self) -> str:
        return "ApiKey('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled")


def origin_from(base_url: str | None, *, env: str, default: str, allow_insecure: bool) -> str:
    """
    Return the origin that requests go to: the argument, else the environment, else the default.

    Raises:
        ConfigError: it is no ``https://host[:port]``, or plain http to another machine.
    """
    url = base_url or os.environ.get(env) or default
    if not isinstance(url, str):
        raise ConfigError("base_url must be text")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port  # raises for a port that is no number
    except ValueError:
        raise ConfigError("base_url is not a URL, or its port is not a number") from None
    _check_origin(parts, allow_insecure=allow_insecure)
    try:
        host = (parts.hostname or "").encode("idna").decode()
    except UnicodeError:  # such as an empty label, or one that is too long to be looked up
        raise ConfigError("base_url has a host name that cannot be") from None
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _check_origin(parts: urllib.parse.SplitResult, *, allow_insecure: bool) -> None:
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not host.isprintable() or " " in (host or " "):
        raise ConfigError("base_url must look like https://host or https://host:port")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("base_url must not contain a user name or password")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError("base_url is only the origin; paths are added by the library")
    if parts.scheme == "http" and not allow_insecure and not _is_loopback(host):
        raise ConfigError("base_url must be https, unless allow_insecure=True or on this machine")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
