"""The pickling of definitions by name, as Python pickles functions and classes."""

from __future__ import annotations

import functools
import importlib
import sys
import types

__all__ = ("definition_at", "name_of")

# Reads the globals of a module. A lazy one would be imported by an access to its attributes.
_globals_of = vars(types.ModuleType)["__dict__"].__get__


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
        names = _globals_of(module) if issubclass(type(module), types.ModuleType) else {}
        for name, value in [*names.items()]:
            if value is definition:
                return module_name, name
    raise LookupError(f"{definition} is no global of a module")


def definition_at(module: str, name: str) -> object:
    """Return the definition with a name, for `pickle`."""
    return getattr(importlib.import_module(module), name)
