"""Commands with `--outcomes`: the outcome of each row, with the failures file and over resumes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from adapty_async import v2
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke, StartSandbox
from tests.cli.processes import COMMAND, run, started, wait_for_arrivals

Put: TypeAlias = Callable[[str, str | bytes], Path]

V1 = ("--api", "v1", "--by", "customer-user-id", "--yes", "--json")


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an outcomes file."""
    text = path.read_text("ascii")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def ids(count: int) -> list[str]:
    """Return *n* ids."""
    return [f"user-{number}" for number in range(count)]


def test_each_row_has_a_line(sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path) -> None:
    """A line has the line number of its row and the id of its column, also if it is unreadable."""
    sandbox.seed_profiles(["here"])
    path = put("in.csv", 'n,customer_user_id\n1,here\n\n"2\n2",gone\n3," bad"\n4,here,5\n5,here\n')
    outcomes, failures = tmp_path / "o.ndjson", tmp_path / "f.ndjson"
    result = invoke("delete", path, *V1, "--outcomes", outcomes, "--failures", failures)
    found = {line["line"]: line for line in lines(outcomes)}

    assert result.exit_code == 1
    assert {number: (line["id"], line["status"]) for number, line in found.items()} == {
        2: ("here", "done"),
        4: ("gone", "absent"),
        6: (" bad", "failed"),
        7: (None, "failed"),
        8: ("here", "skipped"),
    }
    assert found[8]["earlier"] == "duplicate"
    assert found[7]["error"]["rule"] == "has 3 cells for 2 columns"
    undone = {line["line"]: line for line in lines(failures)}
    assert {number: line["error"] for number, line in undone.items()} == {
        number: found[number]["error"] for number in (6, 7)
    }
    assert stat.S_IMODE(outcomes.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("command", "content", "expected"),
    [
        pytest.param(
            ("save",),
            '{"external_profile_id": "e1", "external_created_at": "2026-01-01T00:00:00Z", '
            '"email": "e1@x.com"}\n{"email": "e2@x.com"}\n{"external_profile_id": 3}\n',
            ["e1", None, None],
            id="save",
        ),
        pytest.param(
            ("save", "--api", "v2", "--by", "profile-id"),
            '{"profile_id": "p1", "first_name": "x"}\n{"profile_id": "p2", "first_name": 1}\n',
            ["p1", "p2"],
            id="update",
        ),
        pytest.param(
            ("import-transactions", "--by", "customer-user-id", "--column", "user"),
            json.dumps({"user": "u1"} | dict.fromkeys(v2.TRANSACTION_COLUMNS.required, "x")) + "\n",
            ["u1"],
            id="import",
        ),
        pytest.param(
            ("grant", "--by", "customer-user-id", "--access-level", "premium"),
            '"u1"\n{"customer_user_id": "u2"}\n7\n',
            ["u1", "u2", None],
            id="grant",
        ),
        pytest.param(
            ("revoke", "--by", "customer-user-id", "--access-level", "premium", "--yes"),
            '"u1"\n"\\ud800"\n',
            ["u1", None],
            id="revoke",
        ),
    ],
)
@pytest.mark.usefixtures("sandbox")
def test_each_command_has_its_id(
    command: tuple[str, ...], content: str, expected: list[str | None], invoke: Invoke, put: Put
) -> None:
    """The id is the one in the column of the command, also if no item could be made of it."""
    path = put("in.ndjson", content)
    invoke(*command[:1], path, *command[1:], "--outcomes", path.with_name("o"))

    found = {line["line"]: line["id"] for line in lines(path.with_name("o"))}
    assert [found[number] for number in sorted(found)] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("in.txt", "--outcomes must not be the input file", id="input"),
        pytest.param("folder/../in.txt", "--outcomes must not be the input file", id="path"),
        pytest.param("linked", "--outcomes must not be the input file", id="linked-input"),
        pytest.param("f", "--outcomes and --failures must not be the same file", id="failures"),
        pytest.param("f2", "--outcomes and --failures must not be the same file", id="linked"),
        pytest.param("run.db", "--outcomes must not be the journal", id="journal"),
        pytest.param("run.db-lock", "--outcomes must not be the journal", id="lock-of-journal"),
        pytest.param("other", "line 1 of it is not an outcome", id="something-else"),
    ],
)
def test_another_file_is_no_outcomes_file(
    name: str, message: str, sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """A file that is used for something else is rejected, stays as it is, and nothing is sent."""
    path, other = put("in.txt", "a\nb\n"), put("other", '{"line":1,"item":"a","status":"failed"}\n')
    failures = put("f", "")
    (tmp_path / "folder").mkdir()
    os.link(path, tmp_path / "linked")
    os.link(failures, tmp_path / "f2")
    before = {each: each.read_bytes() for each in (path, other, failures)}
    options = ("--journal", tmp_path / "run.db", "--failures", failures)
    result = invoke("delete", path, *V1, *options, "--outcomes", tmp_path / name)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert sandbox.arrivals() == []
    assert {each: each.read_bytes() for each in before} == before


def test_standard_input_is_no_outcomes_file(sandbox: Sandbox, put: Put) -> None:
    """The outcomes file is not the input, also when that is standard input."""
    path = put("in", "a\n")
    command = (*COMMAND, "delete", "-", "--format", "text", *V1, "--outcomes", str(path))
    with path.open("rb") as stdin:
        ended = subprocess.run(command, stdin=stdin, capture_output=True, check=False)

    assert ended.returncode == 2
    assert b"--outcomes must not be the input file" in ended.stderr
    assert (path.read_text(), sandbox.arrivals()) == ("a\n", [])


def test_a_dry_run_writes_no_outcomes(invoke: Invoke, put: Put, tmp_path: Path) -> None:
    """Rows that were only checked are not recorded as done."""
    path = put("in.txt", "a\nb\n")
    result = invoke("delete", path, *V1, "--dry-run", "--outcomes", tmp_path / "o")

    assert result.exit_code == 0
    assert not (tmp_path / "o").exists()


def test_a_pipe_has_lines_too(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rows that can be read only once are recorded, and a second command adds its own."""
    command = ("delete", "-", "--format", "text", *V1, "--outcomes", tmp_path / "o")
    assert run(*command, stdin=b"a\n\nb\n").returncode == 0
    assert run(*command, stdin=b"c\n").returncode == 0

    found = [(line["line"], line["id"], line["status"]) for line in lines(tmp_path / "o")]
    assert sorted(found) == [(1, "a", "absent"), (1, "c", "absent"), (3, "b", "absent")]
    assert len(sandbox.arrivals()) == 3


@pytest.mark.parametrize("failures", [None, "f"], ids=["outcomes", "outcomes-and-failures"])
def test_a_command_that_is_killed_and_resumed_has_a_line_for_each_row(
    failures: str | None, start_sandbox: StartSandbox, put: Put, tmp_path: Path
) -> None:
    """After a kill and the same command again, the last line of each id says how it ended."""
    outcomes = tmp_path / "o.ndjson"
    with start_sandbox(latency=0.02) as sandbox:
        sandbox.seed_profiles(ids(1000))
        path = put("in.txt", "\n".join([*ids(1000), " bad", ""]))
        keep = ("--journal", tmp_path / "run.db", "--outcomes", outcomes)
        command = (
            "delete",
            path,
            *V1,
            *keep,
            *(("--failures", tmp_path / failures) if failures else ()),
        )
        with started(*command) as process:
            wait_for_arrivals(sandbox, 300)
            process.kill()
            process.wait()
        ended = run(*command)

        assert sandbox.customer_user_ids() == set()
    report = json.loads(ended.stdout)
    last = {line["id"]: line for line in lines(outcomes)}
    assert (ended.returncode, report["total"], report["failed"]) == (1, 1001, 1)
    assert sum(report["skipped_earlier"].values()) == report["skipped"] > 0
    assert last.keys() == {*ids(1000), " bad"}
    ends = {line.get("earlier", line["status"]) for one, line in last.items() if one != " bad"}
    assert ends <= {"done", "absent"}
    if failures:
        assert [line["item"] for line in lines(tmp_path / failures)] == [" bad"]
        told = [line for line in last.values() if line["status"] != "skipped"]
        assert len(told) >= 1000 - 256  # at most those in flight were not told
