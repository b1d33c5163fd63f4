"""``python -m tests.module_map``: each module of the package, its job, and what it defines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import adapty_async

_PACKAGE = Path(adapty_async.__file__).parent
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """A module: its path, the first paragraph of its docstring, and its functions and classes."""

    path: str
    job: str
    names: list[str]


def module_map() -> Iterator[Module]:
    """Yield each module of the package."""
    for path in sorted(_PACKAGE.rglob("*.py"), key=lambda each: (each.parent, each.name)):
        tree = ast.parse(path.read_text("utf-8"))
        name = path.relative_to(_PACKAGE.parent).as_posix()
        job = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        yield Module(name, job, list(_defined(tree)))


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, _FUNCTIONS):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            methods = [each.name for each in node.body if isinstance(each, _FUNCTIONS)]
            own = dict.fromkeys(name for name in methods if not name.startswith("__"))
            yield f"{node.name} ({', '.join(own)})" if own else node.name


if __name__ == "__main__":
    for path, job, names in module_map():
        print(f"{path}: {job} {', '.join(names)}".rstrip())
