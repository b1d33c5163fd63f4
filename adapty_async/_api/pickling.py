"""The pickling of definitions by name, as Python pickles functions and classes."""

from __future__ import annotations

import functools
import importlib
import sys
import types

# Reads the globals of a module. A lazy one would be imported by an access to its attributes.
_globals_of = vars(types.ModuleType)["__dict__"].__get__


@functools.lru_cache(maxsize=256)
def name_of(definition: object) -> tuple[str, str] | None:
    """
    Return the module and the name of a definition; None if it is no global of a module.

    A module of this library is the first choice, since each process that reads the pickle has it.
    The main module is the last one: another process has another one.

    Raises:
        TypeError: the definition cannot be hashed.
    """
    main = sys.modules["__main__"]  # which may have a second name

    def rank(each: tuple[str, object]) -> tuple[bool, bool]:
        name, module = each
        return module is main, not name.startswith("adapty_async.")

    for module_name, module in sorted(sys.modules.items(), key=rank):
        names = _globals_of(module) if issubclass(type(module), types.ModuleType) else {}
        for name, value in [*names.items()]:
            if value is definition:
                return module_name, name
    return None


def definition_at(module: str, name: str) -> object:
    """Return the definition with a name, for `pickle`."""
    return getattr(importlib.import_module(module), name)
