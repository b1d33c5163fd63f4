"""A command with a journal: cancelled, resumed, and its status."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from adapty_async import AdaptyClient
from adapty_async._input.fingerprint import difference, fingerprint
from adapty_async.bulk import summarise
from adapty_async.errors import JournalError
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke, StartSandbox
from tests.cli.processes import run, started, wait_until

Put: TypeAlias = Callable[[str, str | bytes], Path]

V1 = ("--api", "v1", "--by", "customer-user-id", "--yes", "--json")


def ids(count: int) -> str:
    """Return *n* ids, one a line."""
    return "".join(f"user-{number}\n" for number in range(count))


def seed(sandbox: Sandbox, count: int) -> None:
    """Put the users with these ids into the sandbox."""
    sandbox.seed_profiles(ids(count).split())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=str)
def test_the_same_command_resumes_where_it_ended(
    start_sandbox: StartSandbox, put: Put, tmp_path: Path, number: int
) -> None:
    """However a command was ended, the same command again does the rest and skips what is done."""
    concurrency, arrived = 16, 200
    with start_sandbox(latency=0.02) as sandbox:
        seed(sandbox, 1000)
        options = ("--concurrency", concurrency, "--journal", tmp_path / "journal")
        command = ("delete", put("ids.txt", ids(1000)), *V1, *options)
        with started(*command) as process:
            wait_until(lambda: len(sandbox.arrivals()) >= arrived)
            process.send_signal(number)
            process.wait()
        ended = run(*command)
        arrivals = sandbox.arrivals()

        assert sandbox.customer_user_ids() == set()
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["total"], report["ok"]) == (0, 1000, True)
    assert report["done"] + report["absent"] + report["skipped"] == 1000
    assert report["absent"] == len(arrivals) - 1000  # deleted by a run that was killed
    assert arrived - 2 * concurrency <= report["skipped"] < 1000
    assert 1000 <= len(arrivals) <= 1000 + 2 * concurrency
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o600


def test_what_to_do_next_is_said(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """An incomplete run states what helps, and the resumed run sends only what is left."""
    path = put("ids.txt", "a\n b\nc\n")
    command = ("delete", path, *V1[:-1], "--journal", path.with_name("journal"))
    listed = ("--failures", path.with_name("f"))
    sandbox.fail_next("400")
    failed = invoke(*command, "--concurrency", 1)
    first, second = invoke(*command), invoke(*command, *listed)

    resume = "Run the same command again to resume; rows that are done are skipped."
    assert resume in failed.stdout
    assert "Rows that cannot be sent are left: put them, corrected, into a new file" in first.stdout
    assert "correct them in the failures file, and pass it as INPUT with a new" in second.stdout
    assert resume not in first.stdout + second.stdout
    assert "line 2: customer_user_id: must not begin or end with a blank" in first.stdout
    assert "  skipped            2" in second.stdout
    assert len(sandbox.arrivals()) == 3


def test_the_advice_about_rows_that_cannot_be_sent_works(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """The failures file, corrected, needs a new journal: the first one belongs to its input."""
    sandbox.seed_profiles(["a", "b"])
    path, failures = put("ids.txt", "a\n b\n"), put("failures.ndjson", "")
    command = ("delete", *V1[:-1], "--journal")
    invoke(*command, path.with_name("journal"), path, "--failures", failures)
    failures.write_text(failures.read_text("utf-8").replace('" b"', '"b"'), "utf-8")
    with_the_same = invoke(*command, path.with_name("journal"), failures)
    with_a_new_one = invoke(*command, path.with_name("new"), failures)

    assert (with_the_same.exit_code, with_a_new_one.exit_code) == (2, 0), with_a_new_one.output
    assert "belongs to another run" in with_the_same.stderr
    assert sandbox.customer_user_ids() == set()


def test_a_run_that_stops_at_one_error_resumes_when_the_cause_is_gone(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """To run the same command again at once would not help: the same rows come first."""
    path = put("ids.txt", "".join(f"u{number}\n" for number in range(200)))
    options = ("--by", "customer-user-id", "--access-level", "premium", "--yes")
    # all are connected at the stop: a cancelled connect of aiohttp 3.14.3 may leave a socket open
    few = ("--concurrency", "8")
    command = ("grant", path, *options, *few, "--journal", path.with_name("journal"))
    first, second = invoke(*command), invoke(*command)
    sandbox.seed_profiles(f"u{number}" for number in range(200))
    third = invoke(*command)

    told = "The same command stops again while the cause lasts, such as missing profiles."
    assert told in first.stdout
    assert told in second.stdout
    assert "Run the same command again" not in first.stdout + second.stdout
    assert (first.exit_code, second.exit_code, third.exit_code) == (1, 1, 0), third.output
    assert told not in third.stdout


WRONG_KEY = "secret_live_wrong.KEY"


def test_the_correct_key_resumes_what_a_rejected_one_began(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal without an item that was done may be used with another key."""
    sandbox.seed_profiles(["a", "b"])
    path = put("ids.txt", "a\nb\na\n")
    command = ("delete", path, *V1[:-1], "--journal", path.with_name("journal"))
    with monkeypatch.context() as wrong:
        wrong.setenv("ADAPTY_API_KEY", WRONG_KEY)
        rejected = invoke(*command)
    resumed = invoke(*command)
    again = invoke(*command, "--dry-run")

    assert (rejected.exit_code, resumed.exit_code, again.exit_code) == (3, 0, 0), resumed.output
    assert "Correct the key, and run the same command again" in rejected.stdout
    assert sandbox.customer_user_ids() == set()


def test_a_rejected_key_keeps_a_journal_with_rows_that_are_done(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another key may be that of another app, in which nothing was done."""
    path = put("ids.txt", "a\nb\n")
    command = ("delete", path, *V1[:-1], "--journal", path.with_name("journal"))
    invoke(*command)
    path.write_text("a\nb\nc\n")
    sandbox.fail_next("401")
    revoked = invoke(*command)
    monkeypatch.setenv("ADAPTY_API_KEY", WRONG_KEY)
    refused = invoke(*command)

    assert (revoked.exit_code, refused.exit_code) == (3, 2)
    assert "A journal with rows that are done belongs to their key" in revoked.stdout
    assert "account: another key" in refused.stderr


def test_the_journal_of_a_pipe_stays_with_its_key(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entries are digests with the key, so another key needs another journal."""
    command = ("delete", "-", "--format", "text", *V1[:-1], "--journal", tmp_path / "journal")
    with monkeypatch.context() as wrong:
        wrong.setenv("ADAPTY_API_KEY", WRONG_KEY)
        rejected = run(*command, stdin=b"a\n")
    refused = run(*command, stdin=b"a\n")

    assert (rejected.returncode, refused.returncode) == (3, 2)
    assert "delete this journal or name a new one" in rejected.stdout
    assert "account: another key" in refused.stderr
    assert {one.status for one in sandbox.arrivals()} == {401}


def test_a_file_may_grow_at_its_end(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """New lines are sent, and the journal knows the longer file from then on."""
    path = put("ids.txt", "a\nb\n")
    command = ("delete", path, *V1, "--journal", path.with_name("journal"))
    invoke(*command)
    for more in ("c\n", "d\ne\n", ""):
        path.write_text(path.read_text() + more)
        assert invoke(*command).exit_code == 0
    identities = [arrival.identity for arrival in sandbox.arrivals()]

    assert "  absent             5   " in invoke("status", path.with_name("journal")).stdout
    assert sorted(str(each) for each in identities) == ["a", "b", "c", "d", "e"]
    path.write_text("a\nb\nX\nd\ne\n")
    refused = invoke(*command)
    assert refused.exit_code == 2
    assert refused.stderr.endswith("input: the file's first 10 bytes have changed\n")


def test_what_is_left_is_not_made_up(sandbox: Sandbox, invoke: Invoke, tmp_path: Path) -> None:
    """The journal of a program's own run does not know how long its input is."""
    journal = tmp_path / "journal"

    async def erase() -> None:
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
            profiles = adapty.v1.profiles
            await profiles.bulk_delete(["a", "b"], by="profile_id", journal=journal, job_id="j")

    asyncio.run(erase())
    result = invoke("status", journal)

    assert result.exit_code == 0
    assert "  absent             2   " in result.stdout
    assert "left" not in result.stdout


def test_a_hangup_that_is_ignored_stays_so(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Under nohup a command outlives its terminal."""
    seed(sandbox, 2)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = invoke("delete", put("ids.txt", ids(2)), *V1)
        after = signal.getsignal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert result.exit_code == 0
    assert after is signal.SIG_IGN


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(b"a\nb\n", b"a\nb\n", None, id="same"),
        pytest.param(b"a\nb\n", b"a\nb\nc\n", None, id="longer"),
        pytest.param(b"a\nb", b"a\nb\nc", None, id="longer after a line without an end"),
        pytest.param(b"a\r\nb", b"a\r\nb\r\nc", None, id="longer by a line of Windows"),
        pytest.param(b"a\nb", b"a\nb\rc\n", "last line has grown", id="longer by a letter CR"),
        pytest.param(b"", b"a\n", None, id="from nothing"),
        pytest.param(b"PAR1\n", b"PAR1\nPAR2\n", None, id="begins like a table"),
        pytest.param(
            "\ufeff\u040a".encode("utf-16-be"),
            "\ufeff\u040aa\n".encode("utf-16-be"),
            "last line has grown",
            id="half a letter is LF",
        ),
        pytest.param(b"a\nb", b"a\nbc\n", "last line has grown", id="another last line"),
        pytest.param(b"a\nb\n", b"a\n", "had 4 bytes, and has 2 now", id="shorter"),
        pytest.param(b"a\nb\n", b"a\nc\n", "first 4 bytes have changed", id="other"),
        pytest.param(
            gzip.compress(b"a\n"),
            gzip.compress(b"a\n") + gzip.compress(b"b\n"),
            "last line has grown",
            id="packed and longer",
        ),
    ],
)
def test_a_changed_file_is_rejected_and_a_longer_one_is_not(
    put: Put, before: bytes, after: bytes, told: str | None
) -> None:
    """Only whole lines at the end may be new."""
    earlier = fingerprint(put("file", before), len(before))
    found = difference(put("file", after), len(after), earlier, is_text=True)

    assert found is None if told is None else told in str(found)


def test_a_table_has_no_lines_at_its_end(put: Put) -> None:
    """A longer table is another one, whatever its first bytes are."""
    earlier = fingerprint(put("file", b"table\n"), 6)
    found = difference(put("file", b"table\nmore\n"), 11, earlier, is_text=False)

    assert found == "the file had 6 bytes, and has 11 now"


def test_a_journal_of_an_input_that_is_no_file_is_named(put: Put) -> None:
    """Without a size there is nothing to compare."""
    found = difference(put("file", "a\n"), 2, {"job_id": "x"}, is_text=True)
    assert found == "the journal was kept for an input that is not a file"


def test_another_command_is_rejected(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A journal serves the command it was begun with, and nothing is sent for another."""
    path = put("ids.txt", "a\n")
    journal = path.with_name("journal")
    invoke("delete", path, *V1, "--journal", journal)
    other = ("--api", "v1", "--by", "profile-id", "--yes")
    refused = invoke("delete", path, *other, "--journal", journal)

    assert refused.exit_code == 2
    assert "operation: v1 delete by customer-user-id" in refused.stderr
    assert len(sandbox.arrivals()) == 1


def test_a_pipe_is_resumed_by_its_requests(start_sandbox: StartSandbox, tmp_path: Path) -> None:
    """Standard input may come in another order, with more in it."""
    command = ("delete", "-", "--format", "text", *V1, "--journal", tmp_path / "journal")
    with start_sandbox() as sandbox:
        assert run(*command, stdin=b"a\nb\n").returncode == 0
        report = json.loads(run(*command, stdin=b"c\nb\na\n").stdout)

        assert (report["skipped"], report["absent"]) == (2, 1)
        assert sorted(str(each.identity) for each in sandbox.arrivals()) == ["a", "b", "c"]


def test_a_resumed_run_without_rows_leaves_the_list_of_failures(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """It retried none of them, while a run that skips every row has nothing left to list."""
    listed = tmp_path / "failures"
    options = ("--journal", tmp_path / "journal", "--failures", listed)
    command = ("delete", "-", "--format", "text", *V1, *options)
    assert run(*command, stdin=b"a\n b\n").returncode == 1
    before = listed.read_bytes()

    assert run(*command).returncode == 0
    assert listed.read_bytes() == before != b""
    assert run(*command, stdin=b"a\n").returncode == 0
    assert listed.read_bytes() == b""
    assert len(sandbox.arrivals()) == 1


@pytest.mark.parametrize(
    ("option", "sent"), [("--dedupe", 2), ("--no-dedupe", 3)], ids=["once", "each"]
)
def test_the_same_row_is_sent_once(
    sandbox: Sandbox, invoke: Invoke, put: Put, option: str, sent: int
) -> None:
    """A file's repeated rows are counted as skipped by default."""
    result = invoke("delete", put("ids.txt", "a\nb\na\n"), *V1, option)

    assert json.loads(result.stdout)["skipped"] == 3 - sent
    assert len(sandbox.arrivals()) == sent


def test_a_dry_run_says_what_is_left_and_how_long_it_takes(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """Rows that the journal has as done, and rows that come twice, need no request."""
    path = put("ids.txt", ids(10))
    journal = path.with_name("journal")
    dry = ("delete", path, *V1[:-1], "--journal", journal, "--dry-run", "--rate", "2")
    before = invoke(*dry).stdout
    invoke("delete", path, *V1, "--journal", journal)
    path.write_text(ids(14) + ids(1))
    kept = journal.read_bytes()
    after = invoke(*dry).stdout

    assert "10 can be sent" in before
    assert "At --rate 2, that takes 5 s or more." in before
    assert "4 can be sent" in after
    assert "At --rate 2, that takes 2 s or more." in after
    assert len(sandbox.arrivals()) == 10
    assert journal.read_bytes() == kept


def test_a_dry_run_rejects_what_the_run_would(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Another input, another call and another key are reported, with the journal's own name."""
    path = put("ids.txt", ids(3))
    journal = path.with_name("journal")
    invoke("delete", path, *V1, "--journal", journal)
    dry = ("--journal", journal, "--dry-run")
    other = put("other.txt", "a\nb\nc\nd\n")
    by_profile = ("--api", "v1", "--by", "profile-id")
    key = put("key", "secret_live_other.key")
    key.chmod(0o600)
    refused = [
        invoke("delete", other, *V1, *dry),
        invoke("delete", path, *by_profile, *dry),
        invoke("delete", path, *V1, *dry, "--api-key-file", key),
    ]

    assert [result.exit_code for result in refused] == [2, 2, 2]
    begin = f"adapty-async: the journal {journal} belongs to another run; "
    assert all(result.stderr.startswith(begin) for result in refused)
    assert "input: the file had 21 bytes, and has 8 now" in refused[0].stderr
    assert "operation: " in refused[1].stderr
    assert "account: another key" in refused[2].stderr
    assert len(sandbox.arrivals()) == 3


def test_a_dry_run_shows_why_a_journal_cannot_be_read(invoke: Invoke, put: Put) -> None:
    """The reason is the system's."""
    path = put("ids.txt", "a\n")
    os.mkfifo(path.with_name("journal"))
    dry = ("--journal", path.with_name("journal"), "--dry-run", "--api-key-file", put("key", "k"))
    path.with_name("key").chmod(0o600)
    result = invoke("delete", path, *V1, *dry)

    assert (result.exit_code, "cannot be read: " in result.stderr) == (2, True)


def test_a_file_that_grows_meanwhile_is_read_as_far_as_it_went(
    start_sandbox: StartSandbox, put: Put
) -> None:
    """Half a line that is added during a run is not read as an id, which would hide the whole."""
    path = put("ids.txt", ids(500))
    command = ("delete", path, *V1, "--concurrency", "2", "--journal", path.with_name("journal"))
    with start_sandbox(latency=0.002) as sandbox:
        with started(*command) as process:
            wait_until(lambda: len(sandbox.arrivals()) > 2)
            with path.open("a") as file:
                file.write("user-5")
            process.communicate()
        with path.open("a") as file:
            file.write("00\n")
        assert json.loads(run(*command).stdout)["absent"] == 1
        sent = [arrival.identity for arrival in sandbox.arrivals()]

    assert sent.count("user-5") == 1
    assert sorted(map(str, sent)) == sorted(ids(501).split())


def test_nothing_is_promised_of_a_journal_that_was_moved(
    start_sandbox: StartSandbox, put: Put
) -> None:
    """The error and exit code say what is wrong; the same command would start at the first row."""
    with start_sandbox() as sandbox:
        path = put("ids.txt", ids(2000))
        journal = path.with_name("journal")
        with started("delete", path, *V1, "--journal", journal, "--rate", "200") as process:
            wait_until(lambda: len(sandbox.arrivals()) > 20)
            journal.rename(path.with_name("moved"))
            out, err = process.communicate()

    report = json.loads(out)
    assert (process.returncode, report["ok"]) == (2, False)
    assert "was deleted, moved or replaced" in report["error"]
    assert b"resume" not in err


def test_what_to_do_next_does_not_spoil_json(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A report for programs stands alone; what is for people goes to standard error."""
    path = put("ids.txt", "a\n b\n")
    result = invoke("delete", path, *V1, "--journal", path.with_name("journal"))

    assert json.loads(result.stdout)["failed"] == 1
    assert result.stderr.startswith("Rows that cannot be sent are left")
    assert len(sandbox.arrivals()) == 1


def test_status_shows_how_far_a_run_is(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """The status has the counts, times and rate from the journal alone."""
    seed(sandbox, 2)
    path = put("ids.txt", "user-0\nuser-1\nnobody\nuser-0\n")
    journal = path.with_name("journal")
    invoke("delete", path, *V1, "--journal", journal)
    result = invoke("status", journal)

    assert result.exit_code == 0
    assert result.stdout.startswith(
        "v1 delete by customer-user-id, column customer_user_id, from text, at http://127.0.0.1:"
    )
    assert "  done               2\n" in result.stdout
    assert "  absent             1   the server responded that they do not exist\n" in result.stdout
    assert "  duplicate          1   the same as an earlier row\n" in result.stdout
    assert "  left               0   for the same command to resume with\n" in result.stdout
    assert "first entry 20" in result.stdout
    assert " ended, " in result.stdout
    assert sandbox.api_key not in result.stdout


def test_status_of_a_run_that_has_not_done_anything(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A journal without items has counts of zero, and no rate."""
    path = put("ids.txt", "")
    invoke("delete", path, *V1, "--journal", path.with_name("journal"))
    result = invoke("status", path.with_name("journal"))

    assert result.exit_code == 0
    assert "  done               0\n" in result.stdout
    assert " ended, " not in result.stdout
    assert sandbox.arrivals() == []


def test_a_journal_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """The reason is the system's."""
    with pytest.raises(JournalError, match="cannot be read: No such file or directory"):
        summarise(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("a user's own file\n", "is not a journal", id="something else"),
        pytest.param("", "holds nothing yet", id="empty"),
        pytest.param(
            "adapty-async journal 1\n", "a journal of a development version", id="an older one"
        ),
    ],
)
def test_status_of_what_is_no_journal_is_rejected(
    invoke: Invoke, put: Put, content: str, told: str
) -> None:
    """An unreadable journal is reported and stays unchanged."""
    path = put("file", content)
    result = invoke("status", path)

    assert (result.exit_code, told in result.stderr) == (2, True)
    assert path.read_text() == content


def test_the_question_says_how_many_users_are_left(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A resumed command asks about what it is going to delete, not about what is done."""
    path = put("ids.txt", ids(2) + ids(1))
    journal = path.with_name("journal")
    asked = ("delete", path, *V1[:4], "--journal", journal)
    assert "Delete 3 users in" in invoke(*asked).stderr
    journal.write_bytes(b"")  # killed before anything was written
    assert "Delete 3 users in" in invoke(*asked).stderr
    invoke("delete", path, *V1, "--journal", journal)
    path.write_text(ids(2) + ids(1) + "c\nd\n")
    assert "Delete the 2 users left of 5 in" in invoke(*asked).stderr
    other = ("--api", "v1", "--by", "profile-id", "--column", "id", "--journal", journal)
    assert "Delete 5 users in" in invoke("delete", path, *other).stderr
    assert "Delete 5 users in" in invoke(*asked, "--base-url", "http://localhost:1").stderr
    one = put("one.txt", "u1\n")
    assert "Delete 1 user in" in invoke("delete", one, *other).stderr
    assert len(sandbox.arrivals()) == 2


def test_a_profile_that_is_not_there_is_not_an_unknown_outcome(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """After a lost response, a 404 for an update is a definite failure, also in the status."""
    sandbox.fail_next("500")
    path = put("rows.csv", "customer_user_id,first_name\nnobody,Jane\n")
    journal = path.with_name("journal")
    options = ("--api", "v2", "--by", "customer-user-id", "--json", "--journal", journal)
    report = json.loads(invoke("save", path, *options).stdout)

    assert (report["failed"], report["requests"]) == (1, 2)
    assert "  failed             1   not done" in invoke("status", journal).stdout
    assert "lost" not in invoke("status", journal).stdout


def test_a_name_that_no_journal_can_hold_is_rejected(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A column's name may be bytes of another encoding; nothing is sent, and no journal created."""
    path = put("ids.txt", "a\n")
    journal = path.with_name("journal")
    result = invoke("delete", path, *V1, "--column", "n\udcff", "--journal", journal)

    assert (result.exit_code, sandbox.arrivals(), journal.exists()) == (2, [], False)
    assert "a run with a journal must be named in UTF-8" in result.stderr


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock", "-journal"])
def test_no_input_is_a_file_of_the_journal(
    suffix: str, sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """SQLite writes and removes files next to the journal, and the input stays as it is."""
    path = put(f"run{suffix}", ids(3))
    result = invoke("delete", path, *V1, "--format", "text", "--journal", path.with_name("run"))

    assert (result.exit_code, path.read_text(), sandbox.arrivals()) == (2, ids(3), [])
    assert "INPUT must not be the journal, nor one of its companion files" in result.stderr
