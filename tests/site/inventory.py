"""A checker of the reference: its names, to which other sites refer, and their arguments."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import adapty_async

_HEADER_LINES = 4
_PRIVATE = re.compile(r"\._|\.cli\b")
# Values that the page of the package describes in a sentence, and hooks that only pytest calls.
_IN_PROSE = {
    "adapty_async.UNSET",
    "adapty_async.__version__",
    "adapty_async.integrations.pytest.pytest_addoption",
    "adapty_async.integrations.pytest.pytest_configure",
}


def names_in(folder: Path) -> set[str]:
    """Return the names of Python objects in the inventory of a built site."""
    *_, packed = (folder / "objects.inv").read_bytes().split(b"\n", _HEADER_LINES)
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def _modules() -> list[str]:
    found = pkgutil.walk_packages(adapty_async.__path__, "adapty_async.")
    return ["adapty_async", *(one.name for one in found if not _PRIVATE.search(one.name))]


def missing_names(folder: Path) -> list[str]:
    """Return the public names that are not in the inventory, by whichever module they come."""
    public = {
        f"{module}.{name}"
        for module in _modules()
        for name in importlib.import_module(module).__all__
    }
    return sorted(public - _IN_PROSE - names_in(folder))


def missing_arguments(folder: Path) -> list[str]:
    """Return the classes on pages of the reference that do not describe their arguments."""
    return [
        f"{module}.{name}: {argument}"
        for module in _modules()
        for name in importlib.import_module(module).__all__
        for description in _descriptions(folder, module, name)
        for argument in _arguments(getattr(importlib.import_module(module), name))
        if f"<strong>{argument}</strong>" not in description
    ]


def _descriptions(folder: Path, module: str, name: str) -> Iterator[str]:
    """Yield the description of a class, up to the next class, if the page of a module has it."""
    page = folder / "api" / f"{module.removeprefix('adapty_async.')}.html"
    if page.exists():
        _, start, rest = page.read_text("utf-8").partition(f'id="{module}.{name}"')
        if start:
            yield rest.partition('<dl class="py class">')[0]


def _arguments(thing: object) -> list[str]:
    """Return the arguments that the docstring of a class's own `__init__` describes."""
    own = vars(thing).get("__init__") if inspect.isclass(thing) else None
    section = re.search(r"^Args:\n((?: .*\n)+)", inspect.getdoc(own) or "", re.MULTILINE)
    return re.findall(r"^ {4}(\w+):", section[1], re.MULTILINE) if section else []
