"""Clients of commands, with hints about proxies of the environment if a connection fails."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from adapty_async._http.session_sender import PROXY_SCHEMES
from adapty_async._runtime.files import is_out_of_files
from adapty_async.cli._options import Connection
from adapty_async.cli._streams import write_error
from adapty_async.client import AdaptyClient, AdaptyExportClient, AdaptyMailClient
from adapty_async.errors import ConfigError
from adapty_async.hooks import Hook, RetryScheduled

ClientT = TypeVar("ClientT", bound=AdaptyClient | AdaptyMailClient | AdaptyExportClient)


def client_with_hints(
    kind: type[ClientT],
    connection: Connection,
    hooks_of: Callable[..., tuple[Hook, ...]],
    **settings: Any,
) -> ClientT:
    """
    Make a client whose failed connections are explained on standard error.

    Args:
        kind: its class.
        connection: the options of the command.
        hooks_of: `connection_hooks` or `proxy_hooks`.
        settings: other arguments of the client, which those of the connection replace.

    Raises:
        ConfigError: an option is missing or invalid, or aiohttp does not support the proxy.
    """
    settings |= connection.settings()
    origin = kind(**settings).origin
    if connection.trust_env:
        require_usable_proxy(origin)
    hooks = hooks_of(origin, trust_env=connection.trust_env)
    return kind(**settings, trust_env=connection.trust_env, hooks=hooks)


def require_usable_proxy(origin: str) -> None:
    """
    Validate that aiohttp supports the proxy of an origin in the environment.

    Raises:
        ConfigError: the URL of the proxy does not begin with ``http://`` or ``https://``.
    """
    scheme = urlsplit(origin).scheme
    url = _proxies_for(origin).get(scheme)
    if url is not None and not url.lower().startswith(PROXY_SCHEMES):
        name = _variable(f"{scheme}_proxy")
        raise ConfigError(f"--trust-env needs a proxy with http:// or https:// in {name}")


def proxy_hooks(origin: str, *, trust_env: bool) -> tuple[Hook, ...]:
    """Return a hook that names an unused proxy if a connection fails; empty without a proxy."""
    scheme = urlsplit(origin).scheme
    proxies = _proxies_for(origin)
    if scheme in proxies:
        unused = _variable(f"{scheme}_proxy")
        hint = f"A connection failed. {unused} is set but not used: --trust-env uses its proxy."
        return () if trust_env else (_hint_once(hint),)
    if "all" in proxies:
        wanted = f"{scheme}_proxy".upper()
        hint = (
            f"A connection failed. {_variable('all_proxy')} is not supported: set {wanted}, and "
            "add --trust-env."
        )
        return (_hint_once(hint),)
    return ()


def connection_hooks(origin: str, *, trust_env: bool) -> tuple[Hook, ...]:
    """Return hooks that name the address, an unused proxy or a limit, if a connection fails."""
    hint = f"No connection to {origin}: retrying. If this is no outage, check the address."
    return (*proxy_hooks(origin, trust_env=trust_env), _hint_once(hint), _files_hint())


def _proxies_for(origin: str) -> dict[str, str]:
    host = urlsplit(origin).hostname or ""
    if urllib.request.proxy_bypass(host):
        return {}
    return urllib.request.getproxies_environment()


def _variable(name: str) -> str:
    """Return the spelling of a variable in the environment; its value may contain a password."""
    written = (name, name.upper(), *os.environ)
    return next(each for each in written if each.lower() == name and each in os.environ)


def _files_hint() -> Callable[[object], None]:
    hint = "Too many open files: fewer connections are used. ulimit -n raises the limit."
    return _hint_once(hint, out_of_files=True)


def _hint_once(hint: str, *, out_of_files: bool = False) -> Callable[[object], None]:
    hints = [hint]

    def on_event(event: object) -> None:
        is_meant = isinstance(event, RetryScheduled) and event.error == "ConnectError"
        if hints and is_meant and is_out_of_files(event) is out_of_files:
            write_error(hints.pop())

    return on_event
