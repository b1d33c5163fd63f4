"""A check that the library of an extra is installed."""

from __future__ import annotations

import importlib.util

from adapty_async.errors import ConfigError


def require(library: str, extra: str) -> None:
    """
    Raise an error if the library of an extra is not installed.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec(library) is None:
        name = library.replace("_", "-")
        raise ConfigError(f"{name} is not installed: pip install 'adapty-async[{extra}]'")
