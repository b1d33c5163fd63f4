"""Names of files, and content of inputs, that are not UTF-8 or that a terminal would act on."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async.cli._app import _exit_on_error
from adapty_async.cli._report import report_json
from adapty_async.errors import JournalError
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke
from tests.cli.test_report import Report
from tests.input.tables import write_excel, write_feather, write_parquet

Put = Callable[[str, str | bytes], Path]

BY = ("--by", "customer-user-id")
NOT_UTF8 = os.fsdecode(b"caf\xe9")
TOO_LONG = "n" * 300
CLEARS = "\x1b[2J\x9b2J\n"


@pytest.mark.parametrize(
    ("suffix", "command"),
    [
        (".parquet", ("delete", *BY, "--yes")),
        (".feather", ("delete", *BY, "--dry-run")),
        (".xlsx", ("delete", *BY, "--sample", "1")),
        (".txt", ("job", "plan", *BY, "--yes", "--name", "erasure")),
    ],
)
def test_some_files_need_a_name_in_utf8(
    suffix: str, command: tuple[str, ...], sandbox: Sandbox, invoke: Invoke, tmp_path: Path
) -> None:
    """The libraries that read tables, and a job store, have no other names."""
    path = tmp_path / f"ids{suffix}"
    if suffix == ".xlsx":
        write_excel(path, [["customer_user_id"], ["u1"]])
    elif suffix == ".txt":
        path.write_text("u1\n")
    else:
        writer = {".parquet": write_parquet, ".feather": write_feather}[suffix]
        writer(path, {"customer_user_id": ["u1"]})
    result = invoke(*command, path.rename(tmp_path / f"{NOT_UTF8}{suffix}"))

    assert result.exit_code == 2
    assert f"caf\\udce9{suffix}: must have a name in UTF-8 " in result.stderr
    assert sandbox.arrivals() == []


def test_other_names_are_any_bytes(sandbox: Sandbox, invoke: Invoke, tmp_path: Path) -> None:
    """The result in JSON has a replacement for bytes that are not UTF-8."""
    dates = ("--from", "2025-01-01", "--to", "2025-01-31")
    target = ("-o", tmp_path / NOT_UTF8, "--json")
    exported = invoke("export", "analytics", "--chart", "mrr", *dates, *target)
    failed = report_json(Report(total=0), error=JournalError(f"the journal {NOT_UTF8} is full"))

    assert json.loads(exported.stdout)["path"] == str(tmp_path / "caf\ufffd")
    assert json.loads(failed)["error"] == r"the journal caf\udce9 is full"


def test_a_terminal_acts_on_no_output(sandbox: Sandbox, invoke: Invoke, tmp_path: Path) -> None:
    """Neither the name of a file nor the text of one clears the screen of its user."""
    failure = {"line": 1, "item": "u", "status": "failed", "attempts": 0}
    error = {"type": "InvalidInputError", "field_name": "row", "rule": CLEARS}
    path = tmp_path / f"ids{CLEARS}.ndjson"
    path.write_text(json.dumps(failure | {"error": error}))
    journal = tmp_path / "run.db"
    missing = invoke("delete", tmp_path / f"no{CLEARS}.txt", *BY, "--yes")
    failures = ("--failures", tmp_path / f"f{CLEARS}.ndjson")
    run = invoke("delete", path, *BY, "--yes", "--journal", journal, *failures)
    check = invoke("report", journal, "--check", path, "-o", tmp_path / "report.html")
    target = ("--from", "2025-01-01", "--to", "2025-01-31", "-o", tmp_path / f"x{CLEARS}.csv")
    export = invoke("export", "analytics", "--chart", "mrr", *target)

    assert r"no\x1b[2J\x9b2J\n.txt: cannot be read" in missing.stderr
    assert [each.exit_code for each in (missing, run, check, export)] == [2, 1, 1, 0]
    for each in (missing, run, check, export):
        assert all(line.isprintable() for line in each.output.split("\n"))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("delete", "ids.txt", *BY, "--yes", "--journal", TOO_LONG), id="journal"),
        pytest.param(("report", "run.db", "-o", TOO_LONG), id="report"),
        pytest.param(("job", "status", "name", "--store", f"sqlite:///{TOO_LONG}"), id="store"),
    ],
)
def test_a_file_that_cannot_be_looked_up_is_an_error_of_one_line(
    command: tuple[str, ...], sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """Its name is too long, or only another user may search its folder."""
    with contextlib.chdir(put("ids.txt", "a\n").parent):
        assert invoke("delete", "ids.txt", *BY, "--yes", "--journal", "run.db").exit_code == 0
        result = invoke(*command)
    assert (result.exit_code, len(sandbox.arrivals())) == (2, 1)
    assert re.fullmatch(r"adapty-async: .+\n", result.stderr)
    assert TOO_LONG in result.stderr or "-o cannot be written" in result.stderr


def test_a_folder_that_was_deleted_is_an_error_of_one_line(invoke: Invoke, tmp_path: Path) -> None:
    """A shell may stay in a folder that a script has removed."""
    with contextlib.chdir(tmp_path):
        gone = tmp_path / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
        result = invoke("job", "status", "name")
    assert (result.exit_code, result.stderr) == (2, "adapty-async: No such file or directory\n")


def test_a_defect_keeps_its_traceback() -> None:
    """An error of the system without a reason comes from no file."""
    with pytest.raises(TimeoutError), _exit_on_error():
        raise TimeoutError
