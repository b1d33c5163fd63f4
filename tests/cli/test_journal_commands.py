"""The commands that read a journal: what they say of runs, and what they keep to themselves."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import openpyxl
import pytest

from adapty_async import AdaptyClient
from adapty_async._input.fingerprint import fingerprint
from adapty_async._journal import JournalIdentity
from adapty_async.bulk import summarise
from adapty_async.cli._recorded import RecordedInput
from adapty_async.errors import InvalidInputError
from adapty_async.files import InputFile
from adapty_async.sandbox import Sandbox
from tests.cli import processes
from tests.cli.conftest import Invoke
from tests.input.tables import write_excel
from tests.report.journals import IDENTITY, Recorded, in_use, run, write
from tests.report.test_outcomes import line

Put = Callable[[str, str | bytes], Path]
V1 = ("--api", "v1", "--by", "customer-user-id", "--yes", "--json")
CANARY = "canary@example.com"


Erased = tuple[Path, Path, dict[str, Any]]


@pytest.fixture
def erase(sandbox: Sandbox, invoke: Invoke, put: Put) -> Callable[..., Erased]:
    """Return a function that erases some users and returns the run's input, journal and report."""

    def run_with(*faults: str) -> Erased:
        sandbox.seed_profiles([CANARY, "b", "c"])
        sandbox.fail_next(*faults)
        path = put("ids.txt", f"{CANARY}\nb\nnobody\nb\n bad\nc\n")
        journal = path.with_name("run.db")
        result = invoke("delete", path, *V1, "--journal", journal, "--concurrency", 1)
        return path, journal, json.loads(result.stdout)

    return run_with


@pytest.fixture
def erased(erase: Callable[..., Erased]) -> Erased:
    """Erase some users without faults."""
    return erase()


def line_now(number: int, one: str, status: str) -> bytes:
    """Return a line of an outcomes file of a run that ended just now."""
    return line(number, one, status, at=f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}")


def test_the_report_agrees_with_the_run(erase: Callable[..., Erased], invoke: Invoke) -> None:
    """Counts, requests and throttled responses are those that the command itself reported."""
    _, journal, told = erase("429", "500")
    report = json.loads(invoke("report", journal, "--format", "json").stdout)
    (only,) = report["runs"]

    counts = report["counts"]
    assert (counts["done"], counts["absent"]) == (told["done"], told["absent"]) == (3, 1)
    assert counts["duplicate"] == told["skipped_earlier"]["duplicate"] == 1
    assert report["unrecorded"] == told["failed"] == 1  # it cannot be sent
    assert (only["requests"], only["throttled"]) == (told["requests"], told["throttled"]) == (6, 1)
    assert (report["items"], report["left"], report["is_complete"]) == (told["total"], 1, False)
    assert only["ending"] == "input_read"


def test_status_has_the_same_figures_in_every_form(erased: Erased, invoke: Invoke) -> None:
    """The text, the JSON object and the function in Python do not differ."""
    _, journal, _ = erased
    summary = summarise(journal)
    content = json.loads(invoke("status", journal, "--json").stdout)
    text = invoke("status", journal).stdout

    counts = {state.name.lower(): count for state, count in summary.counts.items()}
    assert content["counts"] == counts
    assert (content["items"], content["left"]) == (summary.items, summary.left) == (6, 1)
    assert content["first_at"] <= content["last_at"]
    assert content["rate"] == pytest.approx(summary.rate, abs=0.001)
    assert (content["runs"], content["in_use"]) == (1, False)
    assert "  done               3\n" in text
    assert "  left               1   if they cannot be sent, put them, corrected, into" in text
    assert "\nrun 1 ended 20" in text


@pytest.mark.parametrize("form", ["html", "json"])
def test_no_id_and_no_key_is_shown_by_default(
    form: str, erased: Erased, invoke: Invoke, put: Put, sandbox: Sandbox
) -> None:
    """Whatever else is given, a report has no ids; with --with-ids it has them, and never a key."""
    path, journal, _ = erased
    outcomes = put("outcomes.ndjson", line(1, CANARY, "done") + line(2, "b", "failed"))
    given = ("--input", path, "--outcomes", outcomes, "--check", path, "--format", form)
    without = invoke("report", journal, *given)
    with_ids = invoke("report", journal, *given, "--with-ids")

    assert CANARY not in without.output
    assert "nobody" not in without.output
    assert CANARY in with_ids.stdout
    assert CANARY not in with_ids.stderr
    assert sandbox.api_key not in without.output + with_ids.output


def test_ids_come_from_the_input_by_position(erased: Erased, invoke: Invoke) -> None:
    """Without an outcomes file, each line of the input is listed with its last known state."""
    path, journal, _ = erased
    given = ("--input", path, "--with-ids", "--format", "json")
    report = json.loads(invoke("report", journal, *given).stdout)
    listed = [(each["line"], each["id"], each["status"]) for each in report["listed"]]

    assert listed == [
        (1, CANARY, "done"),
        (2, "b", "done"),
        (3, "nobody", "absent"),
        (4, "b", "duplicate"),
        (5, " bad", "none"),
        (6, "c", "done"),
    ]
    assert report["is_input_verified"] is True


def test_ids_come_from_the_outcomes_file(erased: Erased, invoke: Invoke, put: Put) -> None:
    """An outcomes file is listed with what it knows, up to a last line that is torn."""
    _, journal, _ = erased
    outcomes = put("outcomes.ndjson", line(1, CANARY, "done") + line(2, "b", "done")[:20])
    given = ("--outcomes", outcomes, "--with-ids", "--format", "json")
    report = json.loads(invoke("report", journal, *given).stdout)

    assert [(each["id"], each["http_status"]) for each in report["listed"]] == [(CANARY, 204)]
    assert (report["outcomes"]["lines"], report["outcomes"]["is_torn"]) == (1, True)


def test_a_check_names_the_lines_without_a_final_outcome(erased: Erased, invoke: Invoke) -> None:
    """The exit code is 1 as long as a row of the input is not done, absent or a duplicate."""
    path, journal, _ = erased
    result = invoke("report", journal, "--check", path, "--format", "json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["check"]["missing"] == [{"line": 5, "state": "none"}]
    assert result.stderr.endswith(
        "ids.txt: rows without a final outcome, by the journal: 1 of 6\n  line 5: none\n"
    )


def test_a_check_of_a_longer_file_names_its_new_rows(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """Rows that were added since, and so were not read, are named; a complete file passes."""
    sandbox.seed_profiles(["a"])
    path = put("ids.txt", "a\n")
    journal = path.with_name("run.db")
    invoke("delete", path, *V1, "--journal", journal)
    whole = invoke("report", journal, "--check", path)
    path.write_text("a\n" + "".join(f"new-{number}\n" for number in range(12)))
    longer = invoke("report", journal, "--check", path)

    assert whole.exit_code == 0
    assert whole.stderr == "ids.txt: the only row has a final outcome, by the journal.\n"
    assert whole.stdout.startswith("<!DOCTYPE html>")
    assert longer.exit_code == 1
    assert longer.stderr.endswith("  line 11: none\n  and 2 more\n")
    assert "new-" not in longer.output


def test_another_list_is_checked_by_the_outcomes_file(
    erased: Erased, invoke: Invoke, put: Put
) -> None:
    """A list in another order and format needs an outcomes file, and maybe its column's name."""
    _, journal, _ = erased
    other = put("other.csv", f"mail,user\nx,c\nx,{CANARY}\nx,\nx,missing\n")
    outcomes = put("outcomes.ndjson", line_now(1, CANARY, "done") + line_now(6, "c", "absent"))
    refused = invoke("report", journal, "--check", other, "--column", "user")
    given = ("--outcomes", outcomes, "--check", other)
    result = invoke("report", journal, *given, "--column", "user")

    assert refused.exit_code == 2
    assert "the file's first" in refused.stderr or "the file had" in refused.stderr
    assert "with --outcomes its ids are looked up" in refused.stderr
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "by the outcomes file: 1 of 3\n  line 5: none\n  1 row without an id, left out.\n"
    )
    assert "1 row without an id, left out." in result.stdout
    again = f"report {journal.name} --check INPUT --outcomes outcomes.ndjson --column user"
    assert again in result.stdout
    assert invoke("report", journal, *given).stderr == (
        'adapty-async: header: has no column "customer_user_id"; found: mail, user; name it with '
        "--column\n"
    )


def test_another_list_may_have_an_encoding_or_a_sheet(
    erased: Erased, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """A check reads a list as its options say, which are those of no run."""
    _, journal, _ = erased
    outcomes = put("outcomes.ndjson", line_now(1, "b", "done") + line_now(2, "\xfc", "done"))
    text = put("other.txt", "b\n\xfc\n".encode("cp1252"))
    book = write_excel(tmp_path / "other.xlsx", [["customer_user_id"], ["b"], ["\xfc"]])
    given = ("report", journal, "--outcomes", outcomes, "--format", "json", "--check")
    read = invoke(*given, text, "--encoding", "cp1252")
    wrong = invoke(*given, book, "--sheet", "Old")
    not_for_text = invoke(*given, text, "--sheet", "Old")
    shown = invoke(*given[:-2], "html", "--check", text, "--encoding", "cp1252").stdout

    assert (read.exit_code, json.loads(read.stdout)["check"]["final"]) == (0, 2)
    assert invoke(*given, text).exit_code == 1  # the second one is not UTF-8
    assert invoke(*given, book, "--sheet", "Users").exit_code == 0
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith('adapty-async: --sheet: "Old" ')
    assert not_for_text.stderr.startswith("adapty-async: --sheet: is for spreadsheets only")
    assert " --check INPUT --outcomes outcomes.ndjson --encoding cp1252 --format json" in shown


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        pytest.param("windows-1252", None, id="that-of-the-run"),
        pytest.param("cp437", "the run read it in cp1252", id="another"),
        pytest.param("nonsense", None, id="unknown"),
    ],
)
def test_the_input_of_the_run_in_another_encoding_is_another_list(
    encoding: str, reason: str | None, sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A check of ids that no run has read does not pass by the positions of others."""
    path = put("ids.csv", "customer_user_id;name\na;Zo\xeb\n".encode("cp1252"))
    journal = path.with_name("run.db")
    invoke("delete", path, *V1, "--encoding", "cp1252", "--journal", journal)
    result = invoke("report", journal, "--check", path, "--encoding", encoding)

    assert result.exit_code == (0 if encoding == "windows-1252" else 2)
    if reason is not None:
        assert f"not the input of the journal ({reason}); with --outcomes its" in result.stderr


def test_another_sheet_of_the_input_is_another_list(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """A check of a sheet that was not erased fails, although its file was the input."""
    path = write_excel(tmp_path / "ids.xlsx", [["customer_user_id"], ["a"]])
    book = openpyxl.load_workbook(path)
    others = book.create_sheet("Others")
    others.append(["customer_user_id"])
    others.append(["b"])
    book.save(path)
    journal, outcomes = tmp_path / "run.db", tmp_path / "outcomes.ndjson"
    run = ("--sheet", "Users", "--journal", journal, "--outcomes", outcomes)
    invoke("delete", path, *V1, *run)
    given = ("report", journal, "--check", path, "--sheet")
    wrong = invoke(*given, "Others")
    looked_up = invoke(*given, "Others", "--outcomes", outcomes)

    assert invoke(*given, "Users").exit_code == 0
    assert wrong.exit_code == 2
    assert "not the input of the journal (the run did not name this sheet); with" in wrong.stderr
    assert looked_up.exit_code == 1
    assert looked_up.stderr.endswith("by the outcomes file: 1 of 1\n  row 2: none\n")
    heads = looked_up.stdout.partition("Rows without a final outcome")[2].partition("</thead>")[0]
    assert (">Row<" in heads, ">Line<" in heads) == (True, False)


@pytest.mark.parametrize("option", ["--encoding", "--sheet"])
def test_options_of_a_list_need_one(option: str, erased: Erased, invoke: Invoke) -> None:
    """An option of a list to check is no option of the input, which is read as in the run."""
    _, journal, _ = erased

    assert "--encoding and --sheet need --check" in invoke("report", journal, option, "x").stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("ids.csv", f"customer_user_id,x\nb,1\n{CANARY},2\nb,3\nnone,4\n", id="csv"),
        pytest.param("ids.txt", f"b\n\n{CANARY}\n\nb\nnone\n", id="text"),
    ],
)
async def test_the_records_of_a_program_pass_the_check_of_its_file(
    name: str, content: str, sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """Its outcomes file has the numbers of the lines, or rows, of the file."""
    sandbox.seed_profiles([CANARY, "b"])
    path, journal, outcomes = put(name, content), tmp_path / "run.db", tmp_path / "run.ndjson"
    async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
        await adapty.v2.profiles.bulk_delete(
            InputFile(path), by="customer_user_id", journal=journal, outcomes=outcomes
        )
    given = ("report", journal, "--outcomes", outcomes, "--check", path, "--format", "json")
    passed = invoke(*given)
    lines = outcomes.read_bytes().splitlines(keepends=True)
    outcomes.write_bytes(b"".join(lines[:-1]))
    lacking = json.loads(invoke(*given).stdout)["check"]

    assert (passed.exit_code, json.loads(passed.stdout)["check"]["missing"]) == (0, [])
    assert [each["state"] for each in lacking["missing"]] == ["none"]


def test_a_list_that_other_runs_have_done_passes_no_check(
    erased: Erased, invoke: Invoke, put: Put
) -> None:
    """An outcomes file of other runs proves nothing about those of the journal."""
    _, journal, _ = erased
    other = put("other.txt", "a\nb\n")
    long_ago = "2020-01-01T00:00:00Z"
    lines = line(1, "a", "done", at=long_ago) + line(2, "b", "absent", at=long_ago)
    outcomes = put("outcomes.ndjson", lines)
    given = ("report", journal, "--outcomes", outcomes, "--check", other)
    result = invoke(*given, "--format", "json")
    page = invoke(*given).stdout

    assert result.exit_code == 1
    assert json.loads(result.stdout)["check"]["ok"] is False
    assert result.stderr == (
        "other.txt: each of 2 rows has a final outcome, by the outcomes file.\n"
        "The outcomes file has outcomes of other runs than the journal's: it proves nothing.\n"
    )
    assert "It has outcomes of other runs than the journal's" in page


@pytest.mark.parametrize(
    "content", [pytest.param("user\n", id="no-rows"), pytest.param("user,x\n,1\n", id="no-ids")]
)
def test_a_list_without_ids_passes_no_check(
    content: str, erased: Erased, invoke: Invoke, put: Put
) -> None:
    """An export that failed is no evidence that all of its ids are erased."""
    _, journal, _ = erased
    other, outcomes = put("other.csv", content), put("outcomes.ndjson", line(1, CANARY, "done"))
    given = ("--outcomes", outcomes, "--check", other, "--column", "user")
    result = invoke("report", journal, *given)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "adapty-async: --check: has no row with an id\n"


def test_an_empty_input_is_complete(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """The input of the run itself may have no rows; its report has all parts."""
    path = put("ids.txt", "")
    journal = path.with_name("run.db")
    invoke("delete", path, *V1, "--journal", journal)
    result = invoke("report", journal, "--check", path)

    assert sandbox.arrivals() == []
    assert result.exit_code == 0
    assert "Complete: each of 0 items" in result.stdout


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param("x\n" * 40, "the file's first 37 bytes have changed", id="changed"),
        pytest.param("x\n", "the file had 37 bytes, and has 2 now", id="shorter"),
    ],
)
def test_another_file_is_not_the_input(
    content: str, why: str, erased: Erased, invoke: Invoke
) -> None:
    """Ids come by position from the input of the journal alone."""
    path, journal, _ = erased
    path.write_text(content)
    result = invoke("report", journal, "--input", path, "--with-ids")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"adapty-async: --input: is not the input of the journal: {why}\n"


async def test_the_input_of_a_job_has_no_positions(
    invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """A journal of a program's own items names no file."""
    identity = msgspec.structs.replace(
        IDENTITY, operation="v1.profiles.delete by profile_id", input={"job_id": "j"}
    )
    await write(tmp_path / "run.db", Recorded(run=run(), states="d"), identity=identity)
    path, outcomes = put("ids.txt", "a\n"), put("outcomes.ndjson", line(1, "a", "done"))
    refused = invoke("report", tmp_path / "run.db", "--input", path)
    checked = invoke("report", tmp_path / "run.db", "--outcomes", outcomes, "--check", path)

    assert refused.exit_code == 2
    assert "the journal was kept for an input that is not a file" in refused.stderr
    assert checked.exit_code == 0


@pytest.mark.parametrize(
    ("operation", "column", "facts"),
    [
        pytest.param(
            "mail delete by external-profile-id, column id, from csv in cp1252",
            None,
            ("id", "csv", "cp1252", True),
            id="delete",
        ),
        pytest.param(
            "v2 grant a by profile-id by customer-user-id, column u, from, x, from ndjson",
            None,
            ("u, from, x", "ndjson", None, True),
            id="grant",
        ),
        pytest.param(
            "v2 import transactions by profile-id, column profile_id, from csv",
            "other",
            ("other", "csv", None, False),
            id="column-given",
        ),
        pytest.param(
            "v2 update by customer-user-id, from csv",
            None,
            ("customer_user_id", "csv", None, False),
            id="update",
        ),
        pytest.param(
            "mail save, from csv in utf-16",
            None,
            ("external_profile_id", "csv", "utf-16", False),
            id="save",
        ),
        pytest.param(
            "v1.profiles.delete by customer_user_id",
            None,
            ("customer_user_id", None, None, False),
            id="method",
        ),
        pytest.param("my own job", None, (None, None, None, False), id="own-name"),
    ],
)
def test_a_journal_says_how_its_input_is_read(
    operation: str, column: str | None, facts: tuple[Any, ...]
) -> None:
    """Column, format and encoding are those of the command that wrote the journal."""
    identity: JournalIdentity = msgspec.structs.replace(IDENTITY, operation=operation)
    found = RecordedInput.of(identity, column)

    assert (found.column, found.form, found.encoding, found.id_optional) == facts


def test_an_input_that_changes_after_it_was_compared_is_not_listed(put: Put) -> None:
    """The ids in a report are those of the file that was compared."""
    path = put("ids.csv", "customer_user_id\na\nb\n")
    identity = msgspec.structs.replace(
        IDENTITY,
        operation="v1 delete by customer-user-id, from csv",
        input=fingerprint(path, path.stat().st_size),
    )
    recorded = RecordedInput.of(identity, None)
    assert recorded.difference(str(path)) is None
    rows = recorded.rows(str(path), is_same=True)
    assert [one.id for one in recorded.items(rows)] == ["a", "b"]
    path.write_text("customer_user_id\nc\nd\n")
    with pytest.raises(InvalidInputError, match="not have the rows of the journal: the file's"):
        recorded.rows(str(path), is_same=True)


def test_an_input_that_was_read_as_other_rows_is_not_listed(put: Put) -> None:
    """An id has the state of its position, so the rows have to be as many as those of the run."""
    path = put("ids.csv", "customer_user_id\na\nb\n")
    identity = msgspec.structs.replace(
        IDENTITY,
        operation="v1 delete by customer-user-id, from csv",
        input=fingerprint(path, path.stat().st_size) | {"rows": 3},
    )
    with pytest.raises(InvalidInputError, match="was read as 3 rows, and is read as 2 now"):
        RecordedInput.of(identity, None).rows(str(path), is_same=True)


async def test_a_list_without_a_column_of_ids_is_rejected(
    invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """Where neither the journal nor the user names the column, none is guessed."""
    identity = msgspec.structs.replace(IDENTITY, operation="my own job")
    await write(tmp_path / "run.db", Recorded(run=run(), states="d"), identity=identity)
    path, outcomes = put("ids.csv", "a\nb\n"), put("outcomes.ndjson", line(1, "b", "done"))
    given = ("report", tmp_path / "run.db", "--outcomes", outcomes, "--check", path)
    refused = invoke(*given)

    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == ("adapty-async: --column: is required: the journal does not name it\n")
    assert invoke(*given, "--column", "a").exit_code == 0


def test_each_command_is_read_as_it_was_written(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A CSV file with a column, an encoding and rows without id is read by position as it was."""
    sandbox.seed_profiles(["a", "b"])
    path = put("users.csv", "name;id\nJürgen;a\nx;\ny;b\n".encode("cp1252"))
    journal = path.with_name("run.db")
    options = (*V1, "--column", "id", "--encoding", "cp1252")
    invoke("delete", path, *options, "--journal", journal)
    result = invoke("report", journal, "--input", path, "--with-ids", "--format", "json")

    listed = json.loads(result.stdout)["listed"]
    assert [(each["line"], each["id"], each["status"]) for each in listed] == [
        (2, "a", "done"),
        (4, "b", "done"),
    ]


async def test_the_file_of_a_program_is_checked_by_its_lines(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """Cells of several lines and rows without an id move the lines of a program's outcomes."""
    sandbox.seed_profiles(["a", "b"])
    path = put("users.csv", 'name;id\n"x\ny";a\nx;\nz; b\ny;b\n')
    journal, outcomes = path.with_name("run.db"), path.with_name("outcomes.ndjson")
    rows = InputFile(path, id_column="id", skip_rows_without_id=True)
    async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
        await adapty.v2.profiles.bulk_delete(
            rows, by="customer_user_id", journal=journal, outcomes=outcomes
        )
    result = invoke(
        *("report", journal, "--outcomes", outcomes, "--check", path, "--format", "json")
    )

    found = json.loads(result.stdout)["check"]
    assert (found["rows"], found["final"], found["without_id"]) == (3, 2, 1)
    assert found["missing"] == [{"line": 5, "state": "failed"}]


async def test_another_column_moves_no_row(invoke: Invoke, put: Put, tmp_path: Path) -> None:
    """Of the input itself, the rows are those of the run, whichever column is shown or checked."""
    path = put("users.csv", "user,mail\na,a@x\nb,\n,z@x\nc,c@x\n")
    described = fingerprint(path, path.stat().st_size) | {"rows": 3}
    operation = "v1 delete by customer-user-id, column user, from csv"
    identity = msgspec.structs.replace(IDENTITY, operation=operation, input=described)
    await write(tmp_path / "run.db", Recorded(run=run(), states="ddf"), identity=identity)
    given = ("report", tmp_path / "run.db", "--column", "mail", "--format", "json")
    result = invoke(*given, "--check", path, "--input", path, "--with-ids")
    report = json.loads(result.stdout)

    assert result.exit_code == 1
    assert report["check"]["missing"] == [
        {"line": 3, "state": "unreadable"},
        {"line": 5, "state": "failed"},
    ]
    assert [(each["line"], each["id"], each["status"]) for each in report["listed"]] == [
        (2, "a@x", "done"),
        (3, None, "done"),
        (5, "c@x", "failed"),
    ]
    refused = invoke("report", tmp_path / "run.db", "--column", "none", "--check", path)
    assert 'has no column "none"' in refused.stderr


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        pytest.param("v2 import transactions by profile-id, column id, from csv", 1, id="import"),
        pytest.param("v2 update by profile-id, from csv", 1, id="update"),
        pytest.param("v2.access_levels.grant by profile_id", 1, id="grant-each-with-its-own"),
        pytest.param("my own job", 1, id="own-name"),
        pytest.param("v2 grant a by profile-id, column id, from csv", 1, id="grant-csv"),
        pytest.param("v2 grant a by profile-id, column id, from text", 0, id="grant"),
        pytest.param("v1.profiles.delete by profile_id", 0, id="delete-method"),
        pytest.param("mail delete by email, column email, from text", 0, id="delete"),
    ],
)
async def test_a_failed_request_is_not_hidden_by_another_of_the_same_id(
    operation: str, code: int, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """Of a pipe, an id is one item only where every request of an id is the same."""
    identity = msgspec.structs.replace(IDENTITY, operation=operation, keys="digest", input={})
    await write(tmp_path / "run.db", Recorded(run=run(), states="fd"), identity=identity)
    outcomes = put("outcomes.ndjson", line(1, "a", "failed") + line(2, "a", "done"))
    path = put("ids.txt", "a\n")
    given = ("--outcomes", outcomes, "--check", path)

    assert invoke("report", tmp_path / "run.db", *given).exit_code == code


def test_an_input_that_grew_is_not_said_to_be_the_same(erased: Erased, invoke: Invoke) -> None:
    """A file with new lines behind the recorded ones has neither their size nor their digest."""
    path, journal, _ = erased
    with path.open("a") as file:
        file.write("new\n")
    page = invoke("report", journal, "--input", path).stdout

    assert "has this size and digest" not in page
    assert "has these bytes, or begins with them" in page


def test_a_pipe_can_be_checked(erased: Erased, invoke: Invoke, put: Put) -> None:
    """Standard input is another list, and is looked up in the outcomes file."""
    _, journal, _ = erased
    outcomes = put("outcomes.ndjson", line_now(1, "a", "done"))
    pipe = journal.with_name("pipe")
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    os.write(writer, b"a\n")
    result = invoke("report", journal, "--check", pipe)

    assert result.exit_code == 2
    assert "it is not a regular file" in result.stderr
    assert "it is a pipe" in invoke("report", journal, "--check", "-").stderr
    assert "cannot be read: No such file" in invoke("report", journal, "--check", "no").stderr
    os.close(writer)
    ended = processes.run(
        *("report", journal, "--outcomes", outcomes, "--check", "-", "--format", "json"),
        stdin=b"a\n",
    )
    assert (ended.returncode, json.loads(ended.stdout)["check"]["input"]) == (0, "standard input")


def test_the_file_is_private_and_its_name_says_the_format(erased: Erased, invoke: Invoke) -> None:
    """A report replaces an earlier one as a whole, and only its owner can read it."""
    _, journal, _ = erased
    for name, begin in (("r.html", "<!DOCTYPE html>"), ("r.json", "{\n"), ("r", "<!DOCTYPE html>")):
        path = journal.with_name(name)
        path.touch(0o644)
        for _ in range(2):
            assert invoke("report", journal, "-o", path).exit_code == 0
            assert path.read_text(encoding="utf-8").startswith(begin)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            path.chmod(0o644)
    forced = journal.with_name("forced.json")
    invoke("report", journal, "-o", forced, "--format", "html")
    assert forced.read_text(encoding="utf-8").startswith("<!DOCTYPE")
    assert not list(journal.parent.glob(".*"))


def test_files_may_have_any_name(erased: Erased, invoke: Invoke, put: Put) -> None:
    """Names that are not UTF-8 are shown as far as they can be."""
    path, journal, _ = erased
    names = [os.fsdecode(b"%s \xff?#" % each) for each in (b"j", b"o", b"i", b"r.json")]
    journal = journal.rename(journal.with_name(names[0]))
    outcomes = put(names[1], line(1, CANARY, "done"))
    source, output = path.rename(path.with_name(names[2])), path.with_name(names[3])
    given = ("--outcomes", outcomes, "--input", source, "--check", source, "-o", output)
    result = invoke("report", journal, *given, "--format", "json")

    assert result.exit_code == 1
    assert json.loads(output.read_bytes())["journal"]["name"] == "j \ufffd?#"
    assert json.loads(output.read_bytes())["check"]["input"] == "i \ufffd?#"


@pytest.mark.parametrize(
    "name", ["run.db", "run.db-wal", "run.db-lock", "ids.txt", "outcomes.ndjson", "link", "hard"]
)
def test_a_report_replaces_no_other_file(
    name: str, erased: Erased, invoke: Invoke, put: Put
) -> None:
    """The journal, its side files, the input and the outcomes file are rejected by any name."""
    path, journal, _ = erased
    outcomes = put("outcomes.ndjson", line(1, "a", "done"))
    path.with_name("link").symlink_to(path)
    path.with_name("hard").hardlink_to(outcomes)
    before = {each: each.read_bytes() for each in (path, journal, outcomes)}
    given = ("--input", path, "--outcomes", outcomes, "-o", path.with_name(name))
    result = invoke("report", journal, *given)

    assert result.exit_code == 2
    assert result.stderr.endswith("-o must not be the journal, the input or the outcomes file\n")
    assert before == {each: each.read_bytes() for each in before}


def test_a_report_replaces_no_file_of_a_journal_with_a_link(erased: Erased, invoke: Invoke) -> None:
    """Without its lock, a second command could use the journal of a run."""
    _, journal, _ = erased
    link = journal.with_name("link.db")
    link.symlink_to(journal)
    result = invoke("report", link, "-o", journal.with_name("run.db-lock"))

    assert result.exit_code == 2
    assert result.stderr.endswith("-o must not be the journal, the input or the outcomes file\n")


@pytest.mark.parametrize("name", ["ids.txt", "outcomes.ndjson"])
def test_a_report_replaces_only_a_report(
    name: str, erased: Erased, invoke: Invoke, put: Put
) -> None:
    """The input and the outcomes file stay as they are, although the command names neither."""
    path, journal, _ = erased
    outcomes = put("outcomes.ndjson", line(1, "a", "done"))
    before = {each: each.read_bytes() for each in (path, outcomes)}
    result = invoke("report", journal, "-o", path.with_name(name))

    assert result.exit_code == 2
    assert result.stderr.endswith("-o cannot be written: it holds something else than a report\n")
    assert before == {each: each.read_bytes() for each in before}


def test_a_report_needs_a_place(erased: Erased, invoke: Invoke) -> None:
    """A folder that is not there, and a device, are rejected with the reason."""
    _, journal, _ = erased
    missing = invoke("report", journal, "-o", journal.parent / "none" / "r.html")
    device = invoke("report", journal, "-o", "/dev/null")

    assert (missing.exit_code, device.exit_code) == (2, 2)
    assert missing.stderr.endswith("-o cannot be written: No such file or directory\n")
    assert device.stderr.endswith("-o must be a regular file\n")


def test_ids_need_a_source(erased: Erased, invoke: Invoke) -> None:
    """A journal has no ids."""
    _, journal, _ = erased
    result = invoke("report", journal, "--with-ids")

    assert result.exit_code == 2
    assert "--with-ids needs --outcomes or --input" in result.stderr


async def test_a_run_in_progress_is_shown_as_such(invoke: Invoke, tmp_path: Path) -> None:
    """The status of a run is read while it runs; after its death it is that of a killed run."""
    path = tmp_path / "run.db"
    async with in_use(path, Recorded(run=run(ended_at=None, seconds=5), states="dr")):
        text, content = invoke("status", path).stdout, invoke("status", path, "--json").stdout
    stopped = Recorded(run=run(stop_reason="outage"))
    killed = invoke("status", path).stdout
    await write(tmp_path / "other.db", stopped)

    assert "run 1 is still running, 0/s in its last minute" in text
    assert json.loads(content)["in_use"] is True
    assert "run 1 was killed, after 2026-11-30 00:54:05Z" in killed
    assert (
        "run 1 ended 2026-11-30 00:55:00Z (outage)"
        in invoke("status", tmp_path / "other.db").stdout
    )


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_damaged_journal_has_no_report(command: str, erased: Erased, invoke: Invoke) -> None:
    """Damage is an error with exit code 2, and nothing is printed as if it were true."""
    _, journal, _ = erased
    content = bytearray(journal.read_bytes())
    place = content.index(b"dda=.d")
    content[place] = ord("a")
    journal.write_bytes(content)
    result = invoke(command, journal)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "run.db cannot be read: a row of the table span is damaged" in result.stderr


def test_a_terminal_gets_a_summary(erased: Erased) -> None:
    """Nobody reads HTML on a terminal, so the figures of the status come, and what was checked."""
    path, journal, _ = erased
    with processes.Terminal("report", journal, "--check", path) as terminal:
        assert terminal.end() == 1

    assert "<html" not in terminal.shown
    assert "  done               3" in terminal.shown
    assert "The report itself: add -o FILE, or --format json." in terminal.shown
    assert "line 5: none" in terminal.shown


def test_the_lines_of_a_summary_fit_into_the_terminal(erased: Erased) -> None:
    """They end at blanks, as those of the status do."""
    _, journal, _ = erased
    with processes.Terminal("report", journal, columns=40) as terminal:
        assert terminal.end() == 0

    assert max(map(len, terminal.shown.splitlines())) <= 40


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["status", "report"])
def test_a_report_that_cannot_be_written_is_an_error(command: str, erased: Erased) -> None:
    """A standard output that is full ends the command with 1."""
    _, journal, _ = erased
    program = f"{sys.executable} -m adapty_async.cli {command} {journal} > /dev/full 2>/dev/null"

    assert os.waitstatus_to_exitcode(os.system(program)) == 1
