"""CONTRIBUTING and the page on the architecture name only what is there."""

from __future__ import annotations

import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.module_map import ROOT, module_map

PACKAGE = ROOT / "adapty_async"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
BEFORE_WALKS, _, WALKS = CONTRIBUTING.partition("## Architecture")
TASKS = BEFORE_WALKS.partition("## Where to do what")[2]
_PATH = re.compile(r"`([\w./]+\.(?:py|css|md|toml))`")
_DOTTED = re.compile(r"`(\w+(?:\.\w+)+)`")
_NAME = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)`")
_PLACED = re.compile(r"`([\w.]+)` in `([\w./]+\.py)`")
# One thing to edit: a name in a module, or a file that is no module of the package.
_TARGET = re.compile(rf"{_PLACED.pattern}|`[\w./]+`")


class Row(NamedTuple):
    """A row of a table of tasks: the task, the name to edit, and what belongs to it."""

    task: str
    target: str
    more: str


ROWS = [
    Row(*(cell.strip() for cell in line.strip("|").split("|")))
    for line in TASKS.splitlines()
    if line.startswith("| ") and not line.startswith("| to change |")
]


def names_by_path() -> dict[str, set[str]]:
    """Return the names that each module defines; a method also without its class."""
    names: dict[str, set[str]] = defaultdict(set)
    for path, defined, _ in module_map():
        name = defined.partition(" ")[0]
        names[path] |= {name, name.rpartition(".")[2]}
    return names


NAMES = names_by_path()


def path_of(name: str) -> str:
    """Return the path of a file from the root; most are named from the package."""
    return f"adapty_async/{name}" if (PACKAGE / name).exists() else name


def names_in(text: str) -> set[str]:
    """Return the names in a text that are no paths; those with two underscores every class has."""
    named = {name for name in _NAME.findall(text) if not _PATH.fullmatch(f"`{name}`")}
    return {name for name in named if not name.startswith("__")}


def faults_of(row: Row) -> Iterator[str]:
    """Yield what is wrong with a row."""
    words = f"{row.target} {row.more}"
    if not _TARGET.fullmatch(row.target):
        yield f"{row.task}: not one name in one file"
    in_row = set().union(*(NAMES[path_of(path)] for path in _PATH.findall(words)))
    yield from (f"{row.task}: {name} in no file of the row" for name in names_in(words) - in_row)
    for name, path in _PLACED.findall(words):
        if name not in NAMES[path_of(path)]:
            yield f"{row.task}: {name} not in {path}"


def test_each_task_has_one_name_to_edit_which_is_where_the_row_says() -> None:
    """A row has one name to edit, and its names are defined in the files that it names."""
    tasks = [row.task for row in ROWS]

    assert len(tasks) > 200
    assert len(set(tasks)) == len(tasks)
    assert [fault for row in ROWS for fault in faults_of(row)] == []


@pytest.mark.parametrize(
    "row",
    [
        Row("two names", "`may_retry` and `retry` in `_pipeline/retry.py`", ""),
        Row("no file", "`may_retry`, in the pipeline", ""),
        Row("another file", "`may_retry` in `_pipeline/layers.py`", "`_pipeline/retry.py`"),
        Row("a name that is gone", "`may_retry` in `_pipeline/retry.py`", "`may_vanish`"),
    ],
    ids=lambda row: row.task,
)
def test_a_fault_of_a_row_is_found(row: Row) -> None:
    """The check finds a row with several targets, and a name that is elsewhere or nowhere."""
    assert list(faults_of(row))


@pytest.mark.parametrize("page", [CONTRIBUTING, ARCHITECTURE], ids=["contributing", "architecture"])
def test_each_named_file_exists(page: str) -> None:
    """A file that a page names is in the package or in the project."""
    named = set(_PATH.findall(page))

    assert named
    assert {name for name in named if not (ROOT / path_of(name)).exists()} == set()


@pytest.mark.parametrize("text", [TASKS, ARCHITECTURE], ids=["tasks", "architecture"])
def test_each_name_is_defined_somewhere(text: str) -> None:
    """A name that a page names is one of a module, class, function, method, field or constant."""
    named = names_in(text)

    assert named
    assert named - set().union(*NAMES.values()) == set()


def test_each_function_of_a_walk_exists() -> None:
    """Each function, class and method that CONTRIBUTING follows a call through is there."""
    named = {name for name in _DOTTED.findall(WALKS) if not _PATH.fullmatch(f"`{name}`")}

    assert len(named) > 30
    for name in named:
        full = f"adapty_async.{name.removeprefix('adapty_async.')}"
        assert pkgutil.resolve_name(full) is not None
