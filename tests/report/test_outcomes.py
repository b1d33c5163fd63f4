"""Outcomes files are read by id, and inputs are checked against the records of their runs."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapty_async._journal import SPAN_SIZE, Spans, read_journal
from adapty_async._report import Check, InputRow, OutcomesFile, as_json, check, listed
from adapty_async.errors import InvalidInputError
from tests.report.journals import IDENTITY, Recorded, in_use, minute, report_of, run, write

FACTS = {
    "at": "2026-11-30T00:54:30Z",  # within the runs of tests.report.journals
    "http_status": 204,
    "request_id": "r-1",
    "attempts": 1,
    "error": None,
}


def line(number: int, one: str | None, status: str, **facts: Any) -> bytes:
    """Return a line of an outcomes file."""
    return (
        json.dumps({"line": number, "id": one, "status": status} | FACTS | facts).encode() + b"\n"
    )


def put(folder: Path, *lines: bytes) -> Path:
    """Write an outcomes file."""
    path = folder / "outcomes.ndjson"
    path.write_bytes(b"".join(lines))
    return path


def items_of(path: Path) -> list[tuple[Any, ...]]:
    """Return the line, id and status of each id."""
    with OutcomesFile(path) as outcomes:
        return [(each.line, each.id, each.status) for each in outcomes.items()]


def test_the_last_line_of_each_id_counts(tmp_path: Path) -> None:
    """An id that failed and is done later is done; the order is that of the lines."""
    path = put(
        tmp_path,
        line(2, "b", "absent"),
        line(1, "a", "failed"),
        line(1, "a", "done"),
        line(3, "c", "failed"),
    )
    with OutcomesFile(path) as outcomes:
        summary = outcomes.summary

    assert items_of(path) == [(1, "a", "done"), (2, "b", "absent"), (3, "c", "failed")]
    assert (summary.lines, summary.items, summary.is_torn) == (4, 3, False)
    assert summary.counts == {"absent": 1, "done": 1, "failed": 1}
    assert summary.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_item_has_the_facts_of_its_line(tmp_path: Path) -> None:
    """Time, HTTP status, request id, attempts and error are those of the line that counts."""
    error = {"type": "RequestRejectedError", "error_code": "bad", "field_name": None, "status": 400}
    facts = {"at": "2026-11-29T02:00:00Z", "http_status": 400, "request_id": "r-2", "attempts": 3}
    with OutcomesFile(put(tmp_path, line(7, "a", "failed", error=error, **facts))) as outcomes:
        (item,) = outcomes.items()

    expected = {
        "line": 7,
        "id": "a",
        "status": "failed",
        "error": "RequestRejectedError, bad",
    } | facts
    assert msgspec.to_builtins(item) == expected


def test_an_item_that_cannot_be_sent_has_the_rule_that_it_breaks(tmp_path: Path) -> None:
    """It was not sent, so it has no time of its own."""
    error = {"type": "InvalidInputError", "field_name": "email", "rule": "must be ASCII"}
    facts = {"at": None, "http_status": None, "request_id": None, "attempts": 0}
    with OutcomesFile(put(tmp_path, line(7, "a", "failed", error=error, **facts))) as outcomes:
        (item,) = outcomes.items()

    assert (item.at, item.error) == (None, "InvalidInputError, email, must be ASCII")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((("done", None), ("skipped", "duplicate")), id="duplicate-last"),
        pytest.param((("skipped", "duplicate"), ("done", None)), id="duplicate-first"),
        pytest.param((("failed", None), ("skipped", "done")), id="done-by-a-run-without-a-file"),
        pytest.param((("done", None), ("not_sent", None)), id="another-row-that-was-not-reached"),
        pytest.param((("not_sent", None), ("done", None)), id="not-reached-at-first"),
    ],
)
def test_a_skipped_line_says_how_the_id_ended(
    lines: tuple[tuple[str, str | None], ...], tmp_path: Path
) -> None:
    """A skipped item has its earlier status; a duplicate does not set the status of its id."""
    path = put(
        tmp_path,
        *(
            line(number, "a", status, **({"earlier": earlier} if earlier else {}))
            for number, (status, earlier) in enumerate(lines, 1)
        ),
    )

    assert [status for _, _, status in items_of(path)] == ["done"]


def test_an_id_in_several_rows_is_several_items(tmp_path: Path) -> None:
    """By line, each row of an id has its own outcome; the id is final when all of them are."""
    path = put(
        tmp_path,
        line(1, "a", "failed"),
        line(2, "a", "done"),
        line(3, "a", "skipped", earlier="duplicate"),
        line(4, "b", "skipped", earlier="duplicate"),
    )
    with OutcomesFile(path, by_line=True) as outcomes:
        assert (outcomes.status_of("a"), outcomes.status_of("b")) == ("failed", None)
        assert outcomes.summary.counts == {"done": 1, "duplicate": 2, "failed": 1}
    path.write_bytes(path.read_bytes() + line(1, "a", "absent"))
    with OutcomesFile(path, by_line=True) as outcomes:
        assert check("ids", rows("a"), None, outcomes).ok
        assert [each.status for each in outcomes.items()][:2] == ["absent", "done"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [("not_sent", "duplicate"), ("failed", "duplicate"), ("done", "done"), ("absent", "absent")],
)
def test_a_row_may_be_a_duplicate_when_the_run_resumes(
    status: str, expected: str, tmp_path: Path
) -> None:
    """A row that was not sent is final once it is a duplicate, and a result is not replaced."""
    lines = line(5, "a", status), line(5, "a", "skipped", earlier="duplicate")
    with OutcomesFile(put(tmp_path, *lines), by_line=True) as outcomes:
        assert [each.status for each in outcomes.items()] == [expected]


def test_a_last_line_that_is_torn_is_left_out(tmp_path: Path) -> None:
    """Whatever a crash left of the last line, the lines before it count."""
    whole, last = line(1, "a", "done"), line(2, "b", "done")
    for size in range(1, len(last) - 1):
        path = put(tmp_path, whole, last[:size])
        with OutcomesFile(path) as outcomes:
            assert outcomes.summary.is_torn is (size < len(last) - 1)
            assert outcomes.summary.counts == {"done": 1}
    assert len(items_of(put(tmp_path, whole, last[:-1]))) == 2


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"user_1\n", id="text"),
        pytest.param(b'{"line": 1, "id": "a"}\n', id="no-status"),
        pytest.param(b'{"line": 1, "id": "a", "status": "paid"}\n', id="another-status"),
        pytest.param(b"\xff\n", id="bytes"),
        pytest.param(b"\n", id="empty"),
        pytest.param(line(2**70, "b", "done"), id="line-number"),
        pytest.param(line(2, "b", "done", attempts=2**70), id="attempts"),
    ],
)
def test_a_file_of_something_else_is_rejected(bad: bytes, tmp_path: Path) -> None:
    """A line that is no outcome is named, and nothing is reported."""
    with pytest.raises(InvalidInputError, match=r"outcomes\.ndjson, line 2: is not an outcome"):
        OutcomesFile(put(tmp_path, line(1, "a", "done"), bad))


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """The reason is the system's."""
    with pytest.raises(InvalidInputError, match="none: cannot be read: No such file or directory"):
        OutcomesFile(tmp_path / "none")


def test_no_room_for_the_ids_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary database may find no room."""
    connect = sqlite3.connect

    def small(name: str) -> sqlite3.Connection:
        db = connect(name)
        db.execute("PRAGMA max_page_count = 2")
        return db

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(InvalidInputError, match="there is no room for a temporary database"):
        OutcomesFile(put(tmp_path, *(line(n, f"{n}" * 50, "done") for n in range(1, 200))))


def test_ids_may_be_any_text_or_none(tmp_path: Path) -> None:
    """Half of a surrogate pair is an id of its own, and each row without a readable id counts."""
    path = put(
        tmp_path, line(1, "\ud800", "done"), line(2, None, "failed"), line(3, None, "failed")
    )
    with OutcomesFile(path) as outcomes:
        assert outcomes.status_of("\ud800") == "done"
        assert outcomes.status_of("\ufffd") is None
    assert [one for _, one, _ in items_of(path)] == ["\ufffd" * 3, None, None]


def test_texts_of_others_may_be_half_a_character(tmp_path: Path) -> None:
    """A file that was edited is shown as far as it can be."""
    error = {"type": "RequestRejectedError", "error_code": "\ud800"}
    path = put(tmp_path, line(1, "a", "failed", request_id="r\ud800", error=error))
    with OutcomesFile(path) as outcomes:
        (item,) = outcomes.items()

    assert item.request_id == "r" + "\ufffd" * 3
    assert item.error == "RequestRejectedError, " + "\ufffd" * 3


def rows(*ids: str | None) -> Iterator[InputRow]:
    """Return the rows of a file with a header line."""
    return (InputRow(number, one) for number, one in enumerate(ids, 2))


def states(text: str) -> Spans:
    """Return states by position."""
    return {0: text.encode().ljust(SPAN_SIZE, b".")}


def found(result: Check) -> list[tuple[int, str]]:
    """Return the lines that have no final outcome."""
    return [(each.line, each.state) for each in result.missing]


def test_by_the_journal_each_row_has_its_own_state() -> None:
    """Done, absent and duplicate are final; failed, unknown, unread, unreadable rows are named."""
    ids = ("a", "b", "a", "c", "d", None, "e")
    result = check("ids.csv", rows(*ids), states("da=fu."), None)

    expected = [(5, "failed"), (6, "unknown"), (7, "unreadable"), (8, "none")]
    assert (found(result), result.ok, result.by) == (expected, False, ("journal",))
    assert (result.rows, result.final, result.missing_omitted) == (7, 3, 0)


def test_by_the_outcomes_file_each_id_counts_wherever_it_is(tmp_path: Path) -> None:
    """Another list with the same ids, in any order and with an id twice, can be checked."""
    path = put(tmp_path, line(1, "a", "done"), line(2, "b", "absent"), line(3, "c", "unknown"))
    with OutcomesFile(path) as outcomes:
        assert check("ids", rows("b", "a", "b"), None, outcomes).ok
        result = check("ids", rows("b", "c", "missing"), None, outcomes)

    assert found(result) == [(3, "unknown"), (4, "none")]
    assert result.by == ("outcomes",)


def test_with_both_records_a_row_has_to_be_in_both(tmp_path: Path) -> None:
    """A row that one of the records lacks has no final outcome."""
    with OutcomesFile(put(tmp_path, line(1, "a", "done"), line(2, "b", "done"))) as outcomes:
        result = check("ids", rows("a", "b", "c"), states("dfd"), outcomes)

    assert found(result) == [(3, "failed"), (4, "none")]
    assert result.by == ("journal", "outcomes")


def test_a_row_that_cannot_be_sent_is_shown_as_the_outcomes_file_has_it(tmp_path: Path) -> None:
    """The journal records nothing of such a row, which is no reason to hide its failure."""
    with OutcomesFile(put(tmp_path, line(1, "a", "failed"), line(2, "b", "done"))) as outcomes:
        result = check("ids", rows("a", "b", "c"), states(".."), outcomes)

    assert found(result) == [(2, "failed"), (3, "none"), (4, "none")]


def test_each_row_of_an_id_has_its_own_outcome(tmp_path: Path) -> None:
    """In the input of the run, a row that failed does not spoil other rows of its id."""
    path = put(
        tmp_path,
        line(2, "a", "done"),
        line(3, "a", "failed"),
        line(4, "a", "done"),
        line(9, "b", "done"),
    )
    with OutcomesFile(path, by_line=True) as outcomes:
        result = check("ids", rows("a", "a", "a", "b"), states("dfdd"), outcomes)

    assert found(result) == [(3, "failed"), (5, "none")]


BY_DIGEST = msgspec.structs.replace(IDENTITY, keys="digest", input={})
OF_ANY_ROW = msgspec.structs.replace(BY_DIGEST, operation="v2 update by profile-id, from csv")
KILLED = run(ended_at=None)
# The runs of `run()` begin at 2026-11-30T00:54:00Z and take a minute.
WITHIN, BEFORE, AFTER = "2026-11-30T00:54:30Z", "2026-11-29T00:53:59Z", "2026-12-01T00:55:01Z"


@pytest.mark.parametrize(
    ("recorded", "identity", "lines", "expected"),
    [
        pytest.param("dda", IDENTITY, ["done", "done", "absent"], False, id="the same"),
        pytest.param("dda", IDENTITY, ["done", "failed"], False, id="fewer"),
        pytest.param("aa", IDENTITY, ["absent", "absent"], False, id="nobody there"),
        pytest.param("ddf", IDENTITY, ["done", "done", "failed", "failed"], False, id="failed"),
        pytest.param("ddf", IDENTITY, ["done", "absent", "done"], True, id="more"),
        pytest.param("d=", IDENTITY, ["done", "duplicate"], False, id="duplicate"),
        pytest.param("d=", IDENTITY, ["done", "done"], True, id="done instead of duplicate"),
        pytest.param("du", IDENTITY, ["done", "done"], True, id="done instead of unknown"),
        pytest.param("d", BY_DIGEST, ["done", "done"], True, id="by digest"),
        pytest.param("d", OF_ANY_ROW, ["done", "done"], False, id="rows in any order"),
    ],
)
async def test_an_outcomes_file_with_more_outcomes_is_of_other_runs(
    recorded: str, identity: Any, lines: list[str], *, expected: bool, tmp_path: Path
) -> None:
    """Items that a journal does not know as done or absent are those of other runs."""
    await write(tmp_path / "run.db", Recorded(run=run(), states=recorded), identity=identity)
    path = put(tmp_path, *(a_line(n, each) for n, each in enumerate(lines, 1)))
    with OutcomesFile.of_runs(path, read_journal(tmp_path / "run.db")[0]) as outcomes:
        assert outcomes.summary.has_others is expected
        made = check("ids.txt", [InputRow(1, "u1")], None, outcomes)

    assert (made.final, made.has_others, made.ok) == (1, expected, not expected)


def a_line(number: int, status: str, at: str = WITHIN) -> bytes:
    """Return a line of an item with an id of its own."""
    if status == "duplicate":
        return line(number, f"u{number}", "skipped", at=None, earlier=status)
    return line(number, f"u{number}", status, at=at)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param(BEFORE, True, id="before"),
        pytest.param("2026-11-29T00:54:00Z", False, id="a day before"),
        pytest.param(WITHIN, False, id="within"),
        pytest.param("2026-12-01T00:55:00Z", False, id="a day after"),
        pytest.param(AFTER, True, id="after"),
        pytest.param("2026-12-01T01:00:30Z", False, id="when the clock was wrong"),
        pytest.param(None, False, id="at no time"),
    ],
)
async def test_an_outcome_at_another_time_is_of_another_run(
    at: str | None, *, expected: bool, tmp_path: Path
) -> None:
    """An item is not done by a run that was over for a day, whichever clock it had."""
    minutes = [] if at != "2026-12-01T01:00:30Z" else [minute(6, done=1)]
    recorded = Recorded(run=run(), states="dd", minutes=minutes)
    await write(tmp_path / "run.db", recorded)
    lines = [line(1, "a", "done", at=WITHIN), line(2, "b", "done", at=at), line(3, "c", "failed")]
    with OutcomesFile.of_runs(put(tmp_path, *lines), read_journal(tmp_path / "run.db")[0]) as file:
        assert file.summary.has_others is expected


@pytest.mark.parametrize(
    ("states", "done", "expected"),
    [
        pytest.param("d", 11, False, id="unfinished"),
        pytest.param("dddddddddd", 11, True, id="finished"),
        pytest.param("dddddddduu", 10, False, id="unknown"),
        pytest.param("dddddddduu", 11, True, id="more than unknown"),
    ],
)
async def test_a_killed_run_may_have_recorded_more_in_its_outcomes_file(
    states: str, done: int, *, expected: bool, tmp_path: Path
) -> None:
    """The run that resumes sends those items again or leaves them unknown."""
    await write(tmp_path / "run.db", Recorded(run=KILLED, states=states))
    lines = (a_line(number, "done") for number in range(1, done + 1))
    with OutcomesFile.of_runs(put(tmp_path, *lines), read_journal(tmp_path / "run.db")[0]) as file:
        assert file.summary.has_others is expected


async def test_the_records_of_a_run_in_progress_are_not_compared(tmp_path: Path) -> None:
    """They are of different moments."""
    async with in_use(tmp_path / "run.db", Recorded(run=run(), states="d")):
        summary, _ = read_journal(tmp_path / "run.db")
    path = put(tmp_path, a_line(1, "done"), a_line(2, "done", AFTER))
    with OutcomesFile.of_runs(path, summary) as file:
        assert not file.summary.has_others


def test_the_first_ten_lines_are_named_and_the_rest_counted() -> None:
    """A long list of lines is not shown."""
    result = check("ids", rows(*"abcdefghijklm"), states(""), None)

    assert [each.line for each in result.missing] == list(range(2, 12))
    assert result.missing_omitted == 3


def test_rows_are_listed_with_their_states() -> None:
    """An input by position supplies the ids that a journal lacks, across spans."""
    two = {0: b"d" * SPAN_SIZE, 1: b"f".ljust(SPAN_SIZE, b".")}
    ids = [f"u{number}" for number in range(SPAN_SIZE + 2)]
    found = [(each.line, each.id, each.status) for each in listed(rows(*ids), two)]

    assert found[SPAN_SIZE - 1 :] == [
        (SPAN_SIZE + 1, "u511", "done"),
        (SPAN_SIZE + 2, "u512", "failed"),
        (SPAN_SIZE + 3, "u513", "none"),
    ]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_json_lists_the_items_behind_the_figures(count: int, tmp_path: Path) -> None:
    """With ids, the JSON object has a list of the items as its last key."""
    await write(tmp_path / "run.db", Recorded(run=run(), states="dd"))
    report = report_of(tmp_path / "run.db")
    items = list(listed(rows(*(f"u{number}" for number in range(count))), states("dd")))
    content = json.loads("".join(as_json(report, items)))

    assert content.pop("listed") == msgspec.to_builtins(items)
    assert content == json.loads("".join(as_json(report)))
