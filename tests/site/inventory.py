"""A checker of the inventory of a site: other documentation refers to its names by it."""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from pathlib import Path

import adapty_async

_HEADER_LINES = 4
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


def missing_names(folder: Path) -> list[str]:
    """Return the public names that are not in the inventory, by whichever module they come."""
    found = pkgutil.walk_packages(adapty_async.__path__, "adapty_async.")
    modules = [one.name for one in found if "._" not in one.name and ".cli" not in one.name]
    public = {
        f"{module}.{name}"
        for module in ("adapty_async", *modules)
        for name in importlib.import_module(module).__all__
    }
    return sorted(public - _IN_PROSE - names_in(folder))
