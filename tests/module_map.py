"""
``python3 -m tests.module_map``: a map of the package for grep, with one line for each name.

A line is ``path: Name — first sentence of its docstring``. The line of a module comes before those
of its names. A constant or field has its value, and the comment above it.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_ASSIGNMENTS = ast.Assign | ast.AnnAssign
# Maximum characters of a purpose, and of a value: terminals and tools cut long lines.
_PURPOSE, _VALUE = 200, 60


class Name(NamedTuple):
    """A module, or a name that it defines: its path, its name ("" for a module), its purpose."""

    path: str
    name: str
    purpose: str

    def __str__(self) -> str:
        return f"{self.path}: {' — '.join(filter(None, self[1:]))}"


def module_map() -> Iterator[Name]:
    """Yield each module of the package and each outside of it, followed by its names."""
    package = (ROOT / "adapty_async").rglob("*.py")
    outside = ROOT.glob("_adapty_async_*.py")
    for path in [*sorted(outside), *sorted(package, key=_folder_first)]:
        text = path.read_text("utf-8")
        tree, relative = ast.parse(text), path.relative_to(ROOT).as_posix()
        for name, purpose in [("", _purpose(tree)), *_defined(tree, text.splitlines())]:
            yield Name(relative, name, textwrap.shorten(purpose, _PURPOSE, placeholder=" ..."))


def _folder_first(path: Path) -> tuple[Path, str]:
    return path.parent, path.name


def _defined(
    scope: ast.Module | ast.ClassDef, lines: list[str], outer: str = ""
) -> Iterator[tuple[str, str]]:
    attributes = _attributes(scope)
    for node in scope.body:
        if isinstance(node, _FUNCTIONS) and not node.name.startswith("__"):
            yield outer + node.name, _purpose(node) or f"({ast.unparse(node.args)})"
        elif isinstance(node, ast.ClassDef):
            yield outer + node.name, _purpose(node)
            yield from _defined(node, lines, f"{outer}{node.name}.")
        elif isinstance(node, _ASSIGNMENTS):
            for name in _targets(node):
                about = attributes.pop(name.partition(" ")[0], None)
                yield outer + name, about or _comment_above(node, lines)
    for name, about in attributes.items():  # those that a method sets
        yield outer + name, about


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """Return the names that an assignment binds, each with the value if that is short."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    value = f" = {ast.unparse(node.value)}" if node.value else ""
    value = value if len(value) <= _VALUE else ""
    names = [
        each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)
    ]
    return [name + value for name in names if not name.startswith("__")]


def _attributes(scope: ast.Module | ast.ClassDef) -> dict[str, str]:
    """Return the attributes that a docstring lists, each with its first line."""
    _, _, listed = (ast.get_docstring(scope) or "").partition("\nAttributes:\n")
    return dict(re.findall(r"^    (\w+): (.+)", listed.partition("\n\n")[0], re.MULTILINE))


def _comment_above(node: ast.stmt, lines: list[str]) -> str:
    start = node.lineno - 1
    while lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return _first_sentence("\n".join(line.lstrip(" #:") for line in lines[start : node.lineno - 1]))


def _purpose(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return _first_sentence(ast.get_docstring(node) or "")


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph, maxsplit=1)[0]


def main() -> None:
    """Print the map; a reader such as ``head`` may close the pipe early."""
    try:
        for line in module_map():
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


if __name__ == "__main__":
    main()
