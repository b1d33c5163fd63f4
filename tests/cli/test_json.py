"""The objects that commands print with --json have the keys of the documentation, in its order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke

_DOCS = Path(__file__).parents[2] / "docs"

Put = Callable[[str, str | bytes], Path]


def documented(page: str, before: str) -> list[tuple[str, str]]:
    """Return the keys of the first table after some words, each with its meaning."""
    text = (_DOCS / page).read_text(encoding="utf-8").partition(before)[2]
    rows = re.findall(
        r"^\| (`.*?) \| (.*) \|$", text.partition("\n|")[2].partition("\n\n")[0], re.MULTILINE
    )
    return [(key, meaning) for names, meaning in rows for key in re.findall(r"`(\w+)`", names)]


@pytest.fixture
def ids(put: Put, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a list of ids in the current folder."""
    path = put("ids.txt", "anna\nben\n")
    monkeypatch.chdir(path.parent)
    return path


def printed(invoke: Invoke, *arguments: object) -> dict[str, Any]:
    """Return the object that a command prints."""
    found: dict[str, Any] = json.loads(invoke(*arguments, "--json").stdout)
    return found


@pytest.mark.parametrize("option", ["--yes", "--dry-run"])
def test_a_report_has_the_documented_keys(invoke: Invoke, ids: Path, option: str) -> None:
    """Some of them are in the report of a dry run only."""
    found = printed(invoke, "delete", ids, "--by", "customer-user-id", option)

    keys = documented("command-line.md", "The object has these keys:")
    assert len(keys) > 20
    is_dry = option == "--dry-run"
    assert set(found) == {key for key, text in keys if is_dry or "in a dry run only" not in text}


def test_the_status_of_a_journal_has_the_documented_keys(invoke: Invoke, ids: Path) -> None:
    """They are in the order of the table."""
    invoke("delete", ids, "--by", "customer-user-id", "--yes", "--journal", "run.db")

    keys = documented("command-line.md", "With `--json` it prints one object")
    assert [*printed(invoke, "status", "run.db")] == [key for key, _ in keys]


@pytest.mark.parametrize("command", ["work", "status"])
def test_the_report_of_a_job_has_the_documented_keys(
    invoke: Invoke, ids: Path, command: str
) -> None:
    """They are in the order of the table, and those of its objects, too."""
    invoke("job", "plan", ids, "--name", "j", "--by", "customer-user-id", "--yes")
    found = printed(invoke, "job", command, "j")

    keys = dict(documented("jobs.md", "`job status --watch` one a line"))
    assert [*found] == [*keys]
    assert all(f"`{key}`" in keys["parts"] for key in found["parts"])
    assert sum(found["counts"].values()) == found["items"] == 2
