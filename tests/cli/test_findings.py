"""Suspicious ids are counted by kind, and shown without showing an id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapty_async._input.findings import Findings, kind_of
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke
from tests.cli.processes import run

Put = Callable[[str, str | bytes], Path]

V1 = ("--api", "v1", "--by", "customer-user-id")


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [
        ("user_1", None),
        ("jane.doe+x@example.com", None),
        ("3fa85f64-5717-4562-b3fc-2c963f66afa6", None),
        ("$RCAnonymousID:87c6049c58069238dce29853916d624c", None),
        ("Müller", None),
        ("1.5", None),
        ("12E5", None),
        ("NULL", "placeholder"),
        ("\\N", "placeholder"),
        ("#N/A", "placeholder"),
        ("#BEZUG!", "placeholder"),
        ("#NOM?", "placeholder"),
        ("#NV", "placeholder"),
        ("[NULL]", "placeholder"),
        ("(not set)", "placeholder"),
        ("0", "placeholder"),
        ("-1", "placeholder"),
        ("10", None),
        ("#1234", None),
        ("[object Object]", "placeholder"),
        ("00000000-0000-0000-0000-000000000000", "placeholder"),
        ("1.23457E+14", "spreadsheet_exponent"),
        ("1,23457e+14", "spreadsheet_exponent"),
        ("1.00045678E8", "spreadsheet_exponent"),
        ("100045.0", "decimal_number"),
        ('{"customer_user_id": "user_1"}', "json"),
        ('["user_1"]', "json"),
        ("{user_1", None),
        ('"user_1"', "quotes"),
        ('="user_1"', "quotes"),
        ("'user_1", "quotes"),
        ("user_1,", "separator"),
        ("(2 rows)", "separator"),
        ("user_1;a@example.com", "separator"),
        ("------", "no_letters"),
        ("J\u00c3\u00bcrgen", "broken_letters"),
        ("J\ufffdrgen", "broken_letters"),
        ("user_1\u200b", "invisible"),
        ("\ufeffuser_1", "invisible"),
        ("user\u00a01", "invisible"),
        ("\u200fuser_1", "invisible"),
        ("user\x071", "invisible"),
        ("user_1\u2028", "invisible"),
        ("user_1\u2029", "invisible"),
        (" user_1", None),  # a rule of ids rejects it
        ("\uff11\uff12", "unusual_digits"),
    ],
)
def test_ids_that_look_damaged_have_a_kind(identifier: str, kind: str | None) -> None:
    """Ids that a program damaged are found by their form, and usual ids are not suspected."""
    assert kind_of(identifier) == kind


@pytest.mark.parametrize("end", ["", "=", "!x"])
def test_a_long_id_is_checked_at_once(end: str) -> None:
    """A cell of a megabyte, such as an image in the wrong column, takes no hours."""
    assert kind_of("a" * 10**6 + end) is None


def test_findings_name_lines_and_no_id() -> None:
    """Each kind is shown with its count and its first lines."""
    findings = Findings("id")
    values: tuple[Any, ...] = (
        "NULL",
        {"id": "nan"},
        "NaN",
        "nil",
        "id",
        "u1",
        {},
        7,
        "1.0",
        "2.0",
        "3.0",
    )
    for line, value in enumerate(values):
        findings.add_row(line, value)
    assert findings.suspicious == {"placeholder": 4, "column_name": 1, "decimal_number": 3}
    assert findings.lines() == [
        "These ids look damaged and may match no profile:",
        "  words for no value, such as NULL, NaN or 0: 4 (line 0, 1, 2, ...)",
        "  the name of the column, or an id with it behind, as if files were joined: 1 (line 4)",
        "  whole numbers that became decimals, such as 100045.0: 3 (line 8, 9, 10)",
    ]


@pytest.mark.parametrize(
    ("ids", "count"),
    [
        pytest.param(["1234567890123450", "9876543210987650000"], 2, id="all"),
        pytest.param(["1234567890123450", "9876543210987650000", "1234567890123457"], 2, id="most"),
        pytest.param(["1234567890123450", "1234567890123457"], 0, id="by-chance"),
        pytest.param(
            ["123456789012340", "100000000000000", "user_1000000000000000"], 0, id="short"
        ),
    ],
)
def test_long_numbers_that_a_spreadsheet_rounded_are_found_together(
    ids: list[str], count: int
) -> None:
    """A spreadsheet keeps 15 digits and writes zeros for the others; some ids end with zeros."""
    findings = Findings("id")
    for line, one in enumerate(ids, 1):
        findings.add_row(line, one)

    assert findings.as_json()["suspicious_ids"] == ({"rounded_number": count} if count else {})
    found = "more than 15 digits that end with zeros, as spreadsheets round them: 2 (line 1, 2)"
    assert (found in "\n".join(findings.lines())) == bool(count)


@pytest.mark.parametrize(
    ("column", "identifier", "count"),
    [
        pytest.param("user_id", "user_id", 1, id="header"),
        pytest.param("user_id", "u5user_id", 1, id="no-line-break-in-between"),
        pytest.param("user_id", "user_id5", 0, id="at-the-beginning"),
        pytest.param("id", "android", 0, id="short-name"),
    ],
)
def test_the_header_of_a_second_file_is_found(column: str, identifier: str, count: int) -> None:
    """Files of ids that were joined have a header inside, perhaps on the line of an id."""
    findings = Findings(column)
    findings.add_row(3, {column: identifier})
    assert findings.suspicious.get("column_name", 0) == count


def test_damaged_ids_are_shown_before_anything_is_sent(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A run, a dry run and the question before a deletion show them; programs read the counts."""
    path = put("ids.csv", "customer_user_id\nuser_1\n1.23457E+14\n1.23458E+14\nNULL\n")
    asked = invoke("delete", path, *V1)
    assert asked.exit_code == 2
    assert "numbers that a spreadsheet rounded, such as 1.23457E+14: 2 (line 3, 4)" in asked.stderr
    assert sandbox.arrivals() == []
    for more in (("--dry-run",), ("--yes",)):
        report = msgspec.json.decode(invoke("delete", path, *V1, *more, "--json").stdout)
        assert report["suspicious_ids"] == {"spreadsheet_exponent": 2, "placeholder": 1}


def test_a_report_says_when_many_are_absent(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """More than a tenth of ids that nobody has is worth a look at how they are written."""
    sandbox.seed_profiles(f"u{number}" for number in range(18))
    ids = [f"u{number}" for number in range(20)]
    few = invoke("delete", put("few.txt", "\n".join([*ids[:9], "x1"])), *V1, "--yes")
    assert "More than a tenth" not in few.stdout
    many = invoke("delete", put("many.txt", "\n".join(ids[9:])), *V1, "--yes", "--json")
    assert msgspec.json.decode(many.stdout)["many_absent"] is True
    again = invoke("delete", put("again.txt", "u19\nu20\nu0\n"), *V1, "--yes")
    assert "Not one of them was there" in again.stdout


def test_the_findings_of_a_pipe_are_shown_at_the_end(sandbox: Sandbox) -> None:
    """A pipe cannot be read beforehand, so that its findings come with the report."""
    sandbox.seed_profiles(["u1"])
    ended = run("delete", "-", "--format", "text", *V1, "--yes", stdin=b"u1\nNULL\n")
    assert "such as NULL, NaN or 0: 1 (line 2)" in ended.stderr


def test_a_quoted_line_break_erases_nobody_else(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """The text of a cell is never taken for a row, whatever it looks like."""
    sandbox.seed_profiles(["user_1", "user_2", "victim"])
    content = 'customer_user_id,note\nuser_1,x\nuser_2,"bye\nvictim,x\n"\n'
    result = invoke("delete", put("a.csv", content), *V1, "--yes")
    assert result.exit_code == 0, result.output
    assert sandbox.customer_user_ids() == {"victim"}


def test_a_file_in_another_encoding_can_be_read(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """The encoding is an option."""
    sandbox.seed_profiles(["user_1"])
    path = put("a.csv", "customer_user_id,name\nuser_1,J\u00fcrgen\n".encode("cp1252"))
    assert invoke("delete", path, *V1, "--yes").exit_code == 1
    assert invoke("delete", path, *V1, "--yes", "--encoding", "cp1252").exit_code == 0
    assert sandbox.customer_user_ids() == set()
