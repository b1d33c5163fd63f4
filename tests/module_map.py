"""``python -m tests.module_map``: each module of the package, its job, and what it defines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import adapty_async

_PACKAGE = Path(adapty_async.__file__).parent
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def module_map() -> Iterator[str]:
    """Yield a line for each module: path, first paragraph of its docstring, functions, classes."""
    for path in sorted(_PACKAGE.rglob("*.py"), key=lambda each: (each.parent, each.name)):
        tree = ast.parse(path.read_text("utf-8"))
        name = path.relative_to(_PACKAGE.parent).as_posix()
        job = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        yield f"{name}: {job} {', '.join(_defined(tree))}".rstrip()


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, _FUNCTIONS):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            methods = [each.name for each in node.body if isinstance(each, _FUNCTIONS)]
            own = dict.fromkeys(name for name in methods if not name.startswith("__"))
            yield f"{node.name} ({', '.join(own)})" if own else node.name


if __name__ == "__main__":
    print(*module_map(), sep="\n")
