"""The index of the examples, and what holds for all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import examples

_FOLDER = Path(examples.__path__[0])
_PROGRAMS = sorted(
    path.relative_to(_FOLDER).as_posix()
    for pattern in ("*.py", "*.ipynb", "*.yaml")
    for path in _FOLDER.rglob(pattern)
    if path.parent.name in {"examples", "jobs"}
)


def test_the_index_has_a_row_for_each_example() -> None:
    """The table links to every program, and to no other file."""
    text = (_FOLDER / "README.md").read_text("utf-8")

    assert sorted(re.findall(r"\]\(([^)]+)\)", text)) == _PROGRAMS


@pytest.mark.parametrize("program", _PROGRAMS)
def test_an_example_uses_version_2(program: str) -> None:
    """No example shows the archived version of the API."""
    assert not re.search(r"\bv1\b", (_FOLDER / program).read_text("utf-8").replace("batch/v1", ""))


def test_the_table_of_a_migration_has_the_columns_that_the_example_reads() -> None:
    """The files that the index writes to try a migration have a header that it understands."""
    index = (_FOLDER / "README.md").read_text("utf-8")
    source = (_FOLDER / "migrate.py").read_text("utf-8")
    headers = re.findall(r"printf '([^\\]+)\\n[^']*' > export/", index)

    assert len(headers) == 3
    assert set(re.findall(r'row\["(\w+)"\]', source)) == set(",".join(headers).split(","))
