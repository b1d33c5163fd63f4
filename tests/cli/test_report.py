"""Reports and the failures file: what was not done is named, and nothing is named that was."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import resource
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from adapty_async._input.findings import Findings
from adapty_async._input.layout import Row
from adapty_async._input.rows import open_rows
from adapty_async.bulk import (
    BulkReport,
    EarlierStatus,
    Outcome,
    OutcomeStatus,
    StopReason,
)
from adapty_async.cli._report import (
    FailuresFile,
    dry_run_text,
    report_json,
    report_text,
)
from adapty_async.errors import (
    ConfigError,
    ConnectionLostError,
    InvalidInputError,
    JournalError,
    ServerError,
)

Put = Callable[[str, str | bytes], Path]
Report = BulkReport[Row, None]

BAD_ROW = Outcome[Row, None](
    0,
    Row(2, "u1;x", "has 2 cells for 1 column"),
    OutcomeStatus.FAILED,
    error=InvalidInputError("row", "has 2 cells for 1 column"),
)


def server_error() -> ServerError:
    """Return an error as of a response."""
    error = ServerError("the server failed", operation="v1.profiles.delete", status=503)
    error.request_id = "r-1"
    error.error_code = "unavailable"
    return error


def failed(count: int) -> tuple[Outcome[Row, None], ...]:
    """Return *n* failures."""
    return tuple(
        Outcome(index, Row(index + 1, f"u{index}"), OutcomeStatus.FAILED, 5, error=server_error())
        for index in range(count)
    )


def test_text_of_a_run_that_did_all() -> None:
    """When all is done the report is three numbers and no advice."""
    report = Report(total=1200, done=1200, sent=1200, requests=1200, elapsed=2.0)
    assert report_text(report, failures=Path("f.ndjson"), total=1200).splitlines() == [
        "1,200 rows in 2.0 s (600/s)",
        "",
        "  done           1,200",
        "  requests       1,200",
    ]


def test_text_of_a_run_that_did_not() -> None:
    """Every count has its meaning, the first failures their lines, and the file its name."""
    report = Report(
        total=21,
        done=1,
        absent=2,
        failed=7,
        unknown=3,
        not_sent=4,
        skipped=4,
        requests=40,
        throttled=3,
        failures=failed(7),
        failures_omitted=3,
    )
    lines = report_text(report, failures=Path("f.ndjson")).splitlines()
    assert lines[0] == "21 rows in 0.0 s"
    assert [line.split()[:2] for line in lines[2:9]] == [
        ["done", "1"],
        ["absent", "2"],
        ["failed", "7"],
        ["unknown", "3"],
        ["not_sent", "4"],
        ["skipped", "4"],
        ["requests", "40"],
    ]
    assert lines[8].endswith("3 of them throttled (429)")
    assert lines[10].startswith("  line 1: the server failed, error_code unavailable")
    assert [line[:9] for line in lines[10:16]] == [
        *(f"  line {n}:" for n in range(1, 6)),
        "  and 5 m",
    ]
    assert lines[-1] == "Rows that are not done are in f.ndjson; it can be used as the next input."


@pytest.mark.parametrize("reason", StopReason)
@pytest.mark.parametrize("tell", [report_text, dry_run_text], ids=["run", "dry-run"])
def test_text_shows_why_a_run_stopped(reason: StopReason, tell: Callable[..., str]) -> None:
    """Each reason to stop has a sentence, and rows that were not read are counted."""
    report = Report(total=3, done=3, stop_reason=reason)
    *_, sentence, unread = tell(report, failures=None, total=1003).splitlines()
    assert sentence.startswith("Stopped")
    assert unread == "Rows that were not read: 1,000, all after the first 3."
    *_, again, unread = tell(report, failures=None).splitlines()
    assert again == sentence
    assert unread == "After the first 3 rows, the input was not read."


def test_text_of_a_run_that_was_stopped_at_its_end() -> None:
    """A run that had read all rows was not stopped before the end of its input."""
    report = Report(total=3, done=3, stop_reason=StopReason.STOPPED)
    assert report_text(report, failures=None, total=3).endswith(
        "Stopped when all rows had been read."
    )
    report = Report(total=3, done=3, stop_reason=StopReason.OUTAGE)
    assert report_text(report, failures=None, total=3).endswith(
        "Stopped: no request succeeded for too long."
    )


def test_text_does_not_promise_what_the_file_has_not() -> None:
    """After a stop the file holds what was read; without failures it is not advertised."""
    report = Report(total=3, done=2, failed=1, stop_reason=StopReason.STOPPED)
    text = report_text(report, failures=Path("f"), total=9)
    assert text.endswith(
        "Rows that were read and are not done are in f; it can be used as the next input."
    )
    report = Report(total=3, done=3, stop_reason=StopReason.STOPPED)
    assert "next input" not in report_text(report, failures=Path("f"), total=9)
    report = Report(total=3, done=2, failed=1, stop_reason=StopReason.OUTAGE)
    assert "Rows that were read and are not done" in report_text(report, failures=Path("f"))
    assert "\nRows that are not done are in f" in report_text(report, failures=Path("f"), total=3)


def test_text_can_be_written_whatever_the_file_is_called() -> None:
    """A name that is not UTF-8 does not spoil the report."""
    path = Path(os.fsdecode(b"caf\xe9"))
    report = Report(total=1, failed=1, failures=(BAD_ROW,))
    assert "caf\ufffd".encode() in report_text(report, failures=path).encode()
    assert "caf\ufffd".encode() in dry_run_text(report, failures=path).encode()


def test_text_names_an_input_error_once() -> None:
    """A fault that many rows share is shown with the first of them."""
    wrong = InvalidInputError("row", 'unknown key "colour"; expected: price')
    other = InvalidInputError("id", "is required")
    failures: tuple[Outcome[Row, Any], ...] = tuple(
        Outcome(line, Row(line, {}), OutcomeStatus.FAILED, error=error)
        for line, error in enumerate([wrong] * 6 + [other], 1)
    )
    text = report_text(Report(total=7, failed=7, failures=failures), failures=None)
    assert text.splitlines()[-3:] == [
        '  line 1: row: unknown key "colour"; expected: price',
        "  line 7: id: is required",
        "  and 5 more",
    ]


def test_text_of_a_dry_run() -> None:
    """A dry run says what could be sent and what could not, with the reasons."""
    report = Report(total=3, done=2, failed=1, failures=(BAD_ROW,))
    assert dry_run_text(report, failures=Path("f")).splitlines() == [
        "Dry run of 3 rows; nothing was sent.",
        "",
        "            2 can be sent",
        "            1 cannot",
        "",
        "  line 2: row: has 2 cells for 1 column",
        "",
        "Those that cannot be sent are in f.",
    ]
    assert "are in" not in dry_run_text(Report(total=2, done=2), failures=Path("f"))


def test_text_of_a_dry_run_leaves_out_no_row() -> None:
    """Rows that an earlier run has settled, and rows that were not checked, are counted too."""
    earlier = {EarlierStatus.DONE: 5, EarlierStatus.ABSENT: 0, EarlierStatus.DUPLICATE: 2}
    report = Report(
        total=13, done=1, failed=2, unknown=2, not_sent=1, skipped=7, skipped_earlier=earlier
    )
    assert dry_run_text(report, failures=Path("f")).splitlines() == [
        "Dry run of 13 rows; nothing was sent.",
        "",
        "            1 can be sent",
        "            2 cannot",
        "            2 were sent by an earlier run, outcome unknown",
        "            1 were not checked",
        "            5 skipped: done by an earlier run",
        "            2 skipped: the same as an earlier row",
        "",
        "Those that cannot be sent or were not checked are in f.",
    ]


def test_text_says_how_skipped_rows_ended_before() -> None:
    """A resumed run tells rows that are done from absent ones and from duplicates."""
    earlier = {EarlierStatus.DONE: 1088, EarlierStatus.ABSENT: 3, EarlierStatus.DUPLICATE: 1}
    report = Report(
        total=3000,
        done=1908,
        sent=1908,
        requests=1908,
        elapsed=10.0,
        skipped=1092,
        skipped_earlier=earlier,
    )
    lines = report_text(report, failures=None, total=3000).splitlines()
    assert lines[0] == "3,000 rows in 10.0 s; 1,908 sent (191/s)"
    assert lines[2] == "  done           1,908"
    assert lines[3] == (
        "  skipped        1,092   1,088 done by an earlier run; 3 absent in an earlier run; "
        "1 the same as an earlier row"
    )
    assert msgspec.json.decode(report_json(report))["skipped_earlier"] == {
        "done": 1088,
        "absent": 3,
        "duplicate": 1,
    }


def test_text_counts_requests_and_attempts_without_a_connection() -> None:
    """An attempt that got no connection is no request."""
    report = Report(total=1, failed=1, throttled=1, requests=1, connect_failures=4, elapsed=1.0)
    lines = report_text(report, failures=None).splitlines()
    assert lines[0] == "1 row in 1.0 s"
    assert lines[4] == (
        "  requests           1   1 of them throttled (429); attempts without a connection: 4"
    )


def test_json_of_a_dry_run_claims_no_success() -> None:
    """Nothing is done and nothing is sent in a dry run, and the counts add up all the same."""
    report = Report(total=5, done=3, failed=1, skipped=1, requests=3, sent=3, elapsed=0.1)
    told = msgspec.json.decode(report_json(report, preview={}))
    assert told == told | {
        "dry_run": True,
        "total": 5,
        "sendable": 3,
        "done": 0,
        "failed": 1,
        "not_sent": 3,
        "skipped": 1,
        "sent": 0,
        "requests": 0,
        "ok": False,
    }
    assert told["total"] == sum(told[status] for status in OutcomeStatus)


def test_json_of_a_report() -> None:
    """A program gets every count by its name, and why the run stopped."""
    report = Report(
        total=3,
        done=1,
        failed=2,
        sent=2,
        requests=9,
        throttled=1,
        elapsed=1.23456,
        failures=failed(2),
        stop_reason=StopReason.KEY_REJECTED,
    )
    assert msgspec.json.decode(report_json(report)) == {
        "dry_run": False,
        "total": 3,
        "done": 1,
        "absent": 0,
        "failed": 2,
        "unknown": 0,
        "not_sent": 0,
        "skipped": 0,
        "skipped_earlier": {"done": 0, "absent": 0, "duplicate": 0},
        "sent": 2,
        "requests": 9,
        "throttled": 1,
        "connect_failures": 0,
        "elapsed": 1.235,
        "stop_reason": "key_rejected",
        "error": None,
        "ok": False,
    }


def test_json_of_a_run_that_an_error_ended_is_not_ok() -> None:
    """The record of a run may fail when its last row was done already."""
    error = JournalError("the journal j was deleted")
    told = msgspec.json.decode(report_json(Report(total=3, done=3), error=error))
    assert told == told | {"done": 3, "stop_reason": None, "error": str(error), "ok": False}


def lines_of(path: Path) -> list[Any]:
    """Read a failures file as a program does."""
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def test_failures_file_has_a_line_for_what_is_not_done(tmp_path: Path) -> None:
    """Failed, unknown and unsent items are written with their facts; the others are not."""
    path = tmp_path / "f.ndjson"
    lost = ConnectionLostError("lost")
    with FailuresFile(path, source="ids.txt") as file:
        for status in (OutcomeStatus.DONE, OutcomeStatus.ABSENT, OutcomeStatus.SKIPPED):
            file.record(Outcome(0, Row(1, "u0"), status))
        file.record(failed(1)[0])
        file.record(Outcome(2, Row(7, {"id": "u2"}), OutcomeStatus.UNKNOWN, 1, error=lost))
        file.record(Outcome(3, Row(8, "u3"), OutcomeStatus.NOT_SENT))
        file.record(BAD_ROW)
    nothing = dict.fromkeys(["status", "error_code", "field_name", "request_id"])
    facts = nothing | {"status": 503, "error_code": "unavailable", "request_id": "r-1"}
    rule = nothing | {"field_name": "row", "rule": "has 2 cells for 1 column"}
    assert lines_of(path) == [
        {
            "line": 1,
            "item": "u0",
            "status": "failed",
            "attempts": 5,
            "error": {"type": "ServerError", **facts},
        },
        {
            "line": 7,
            "item": {"id": "u2"},
            "status": "unknown",
            "attempts": 1,
            "error": {"type": "ConnectionLostError", **nothing},
        },
        {"line": 8, "item": "u3", "status": "not_sent", "attempts": 0, "error": None},
        {
            "line": 2,
            "item": "u1;x",
            "status": "failed",
            "attempts": 0,
            "error": {"type": "InvalidInputError", **rule},
        },
    ]


def test_failures_file_is_an_input(put: Put, tmp_path: Path) -> None:
    """Fed back, items come out as they were, and lines that could not be read stay unreadable."""
    source = put("ids.csv", 'id,x\nu1,"é, 1"\nu2\nu3,x,y\n\xff'.encode("latin-1"))
    rows = list(open_rows(str(source), None, set))
    path = tmp_path / "f.ndjson"
    with FailuresFile(path, source=str(source)) as file:
        for index, row in enumerate(rows):
            error = InvalidInputError("row", row.broken) if row.broken else server_error()
            file.record(Outcome(index, row, OutcomeStatus.FAILED, error=error))
    again = list(open_rows(str(path), None, set))
    assert [(row.value, row.broken) for row in again] == [(row.value, row.broken) for row in rows]


def test_a_line_of_a_failures_file_is_read_when_it_is_corrected(put: Put) -> None:
    """A line that could not be read is an item again once its item is right and its error gone."""
    unread: dict[str, Any] = {"line": 3, "item": "u2", "status": "failed", "attempts": 0}
    unread["error"] = {"type": "InvalidInputError", "field_name": "row", "rule": "has 1 cell"}
    corrected = {**unread, "item": {"id": "u2"}, "error": None}
    removed = {key: value for key, value in corrected.items() if key != "error"}
    lines = [msgspec.json.encode(one) for one in (unread, corrected, removed)]
    rows = open_rows(str(put("f.ndjson", b"\n".join(lines))), None, set)

    assert [(row.value, row.broken) for row in rows] == [
        ("u2", "has 1 cell"),
        ({"id": "u2"}, None),
        ({"id": "u2"}, None),
    ]


def test_row_that_was_not_reached_stays_broken_when_fed_back(put: Put, tmp_path: Path) -> None:
    """A row with a cell too few that a stopped run did not reach does not become an id."""
    (row,) = open_rows(str(put("ids.csv", "id,x\nvictim\n")), None, set)
    path = tmp_path / "f.ndjson"
    with FailuresFile(path, source="ids.csv") as file:
        file.record(Outcome(0, row, OutcomeStatus.NOT_SENT))
    (again,) = open_rows(str(path), None, set)
    assert again.broken == "has 1 cell for 2 columns"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"caf\xe9\n", id="short"),
        pytest.param(b"\xff" * (2**20 + 1), id="long"),
        pytest.param(b"\x01\x1b[2J\xed\xa0\x80\n", id="control-and-surrogate"),
    ],
)
def test_failures_file_takes_what_was_not_utf8(put: Put, tmp_path: Path, line: bytes) -> None:
    """An unreadable line can always be written; otherwise the run would end with it."""
    source = put("ids.txt", line)
    (row,) = open_rows(str(source), None, set)
    with FailuresFile(tmp_path / "f", source=str(source)) as file:
        file.record(Outcome(0, row, OutcomeStatus.FAILED))
    assert "\ufffd" in lines_of(tmp_path / "f")[0]["item"]


def test_failures_file_leaves_out_what_is_nested_too_deep(tmp_path: Path) -> None:
    """An item that cannot be written costs no more than itself; its line number is there."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with FailuresFile(tmp_path / "f", source="-") as file:
        file.record(Outcome(0, Row(7, deep), OutcomeStatus.FAILED))
    (line,) = lines_of(tmp_path / "f")
    assert (line["line"], line["item"]) == (7, None)


def test_a_run_that_found_nobody_asks_whether_the_ids_are_right() -> None:
    """When every row is absent, the wrong kind of id is more likely than a happy end."""
    hint = "Not one of them was there: check --by, and how the ids are written."
    assert hint in report_text(BulkReport(total=2, absent=2), failures=None)
    assert hint not in report_text(BulkReport(total=2, absent=1, done=1), failures=None)
    assert hint not in report_text(BulkReport(), failures=None)


def test_many_absent_items_are_shown_when_a_run_was_stopped() -> None:
    """A tenth is meant of the rows that the run came to: those that it left say nothing."""
    hint = "More than a tenth of them were not there"
    stopped = Report(total=1000, done=10, absent=50, not_sent=940, stop_reason=StopReason.OUTAGE)
    assert hint in report_text(stopped, failures=None)
    assert msgspec.json.decode(report_json(stopped, Findings()))["many_absent"] is True
    few = msgspec.structs.replace(stopped, done=55, absent=5)
    assert hint not in report_text(few, failures=None)


def test_failures_file_is_for_its_owner_only(put: Put, tmp_path: Path) -> None:
    """A new file and one that was open to others both end up with mode 0600."""
    old = put("old", "")
    old.chmod(0o644)
    for path in (old, tmp_path / "new"):
        with FailuresFile(path, source="ids.txt"):
            pass
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == b""


def test_failures_file_of_an_earlier_run_is_kept(put: Put) -> None:
    """A file with something in it is rejected and stays as it is."""
    old = put("old", "from yesterday\n")
    with pytest.raises(ConfigError, match="only list of what an earlier run left undone"):
        FailuresFile(old, source="ids.txt")
    assert old.read_text() == "from yesterday\n"


def test_failures_file_of_the_same_journal_is_replaced(put: Put) -> None:
    """The old list is replaced, since the run retries its rows, but only once an item ended."""
    journal, old = Path("journal"), put("old", b'{"line":1,"item":"a","status":"failed"}\n' * 9)
    before = old.read_bytes()
    resumed = functools.partial(FailuresFile, old, source="ids.txt", journal=journal)
    with resumed(is_resumed=True):
        pass
    assert old.read_bytes() == before  # the run was refused

    with resumed(is_resumed=True) as file:
        file.record(BAD_ROW)
        file.record(BAD_ROW)
    assert [msgspec.json.decode(line)["line"] for line in old.read_bytes().splitlines()] == [2, 2]


def test_failures_file_of_another_journal_is_kept(put: Put) -> None:
    """A new journal has no list yet, so the list is that of another run."""
    old = put("old", b'{"line":1,"item":"a","status":"failed"}\n')
    with pytest.raises(ConfigError, match="only list of what an earlier run left undone"):
        FailuresFile(old, source="ids.txt", journal=Path("new"))
    assert old.read_bytes() == b'{"line":1,"item":"a","status":"failed"}\n'


def test_failures_file_is_written_by_one_run(tmp_path: Path) -> None:
    """A second run would write over the lines of the first one."""
    path = tmp_path / "f"
    with FailuresFile(path, source="ids.txt") as file:
        with pytest.raises(ConfigError, match="must not be a file that another run writes to"):
            FailuresFile(path, source="other.txt")
        file.record(BAD_ROW)
    assert len(path.read_bytes().splitlines()) == 1


def test_a_failure_is_written_as_a_whole_or_reported(tmp_path: Path) -> None:
    """A disk that becomes full within a line ends the run, which half a line would not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with FailuresFile(tmp_path / "f", source="ids.txt") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            with pytest.raises(ConfigError, match="--failures cannot be written: File too large"):
                file.record(BAD_ROW)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("lacking", ["system", "file system"])
def test_failures_file_needs_no_locks(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, and on a file system without locks, the file is written without one."""

    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    if lacking == "system":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", fail)
    with FailuresFile(tmp_path / "f", source="ids.txt") as file:
        file.record(BAD_ROW)
    assert (tmp_path / "f").read_bytes()


def test_failures_file_replaces_nothing_else(put: Put) -> None:
    """With a journal, too, only an old failures file is replaced, never a file of the journal."""
    notes, journal = put("notes", "from yesterday\n"), put("journal", b'{"line":')
    with pytest.raises(ConfigError, match="must not be a file of something else than failures"):
        FailuresFile(notes, source="ids.txt", journal=journal, is_resumed=True)
    lock = journal.with_name("journal-lock")  # the end of the run would remove it
    for path in (journal, journal.parent / "x" / ".." / "journal", lock):
        with pytest.raises(ConfigError, match="--failures must not be the journal"):
            FailuresFile(path, source="ids.txt", journal=journal)
    assert (notes.read_text(), journal.read_bytes()) == ("from yesterday\n", b'{"line":')


def test_failures_file_may_be_a_device() -> None:
    """What is no regular file is left with the mode it has."""
    mode = Path(os.devnull).stat().st_mode
    with FailuresFile(Path(os.devnull), source="ids.txt") as file:
        file.record(BAD_ROW)
    assert Path(os.devnull).stat().st_mode == mode


def test_failures_file_must_not_be_the_input(put: Put, tmp_path: Path) -> None:
    """The input is not written over, by whichever name it is called."""
    source = put("ids.txt", "u1\n")
    link = tmp_path / "link"
    link.hardlink_to(source)
    for path in (source, link):
        with pytest.raises(ConfigError, match="--failures must not be the input file"):
            FailuresFile(path, source=str(source))
    assert source.read_text() == "u1\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param(".", "Is a directory", id="directory"),
        pytest.param("none/f", "No such file or directory", id="no-folder"),
        pytest.param("x" * 300, "File name too long", id="long-name"),
    ],
)
def test_failures_file_that_cannot_be_written_is_rejected(
    tmp_path: Path, name: str, reason: str
) -> None:
    """A path that cannot be written is reported before anything is sent."""
    with pytest.raises(ConfigError, match=f"--failures cannot be written: {reason}"):
        FailuresFile(tmp_path / name, source="ids.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
def test_failures_file_on_a_full_disk_ends_the_run() -> None:
    """A failure that cannot be written down is an error of the library, which ends the run."""
    with (
        FailuresFile(Path("/dev/full"), source="ids.txt") as file,
        pytest.raises(ConfigError, match="No space left on device"),
    ):
        file.record(BAD_ROW)
