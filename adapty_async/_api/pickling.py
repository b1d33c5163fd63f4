"""The pickling of definitions by name, as Python pickles functions and classes."""

from __future__ import annotations

import functools
import importlib
import sys

__all__ = ("definition_at", "name_of")


@functools.lru_cache(maxsize=256)
def name_of(definition: object) -> tuple[str, str]:
    """
    Return the module and the name of a definition.

    The main module is the last choice: another process has another one.

    Raises:
        LookupError: it is no global of a module.
        TypeError: it cannot be hashed.
    """
    main = sys.modules["__main__"]  # which may have a second name
    for module_name, module in sorted(sys.modules.items(), key=lambda each: each[1] is main):
        for name, value in [*getattr(module, "__dict__", {}).items()]:
            if value is definition:
                return module_name, name
    raise LookupError(f"{definition} is no global of a module")


def definition_at(module: str, name: str) -> object:
    """Return the definition with a name, for `pickle`."""
    return getattr(importlib.import_module(module), name)
