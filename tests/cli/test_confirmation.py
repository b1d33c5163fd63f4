"""What a command shows before it changes anybody: which users, how many, and for how long."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async._journal import Changes, JournalIdentity, SqliteJournal
from adapty_async.bulk import OutcomeStatus, summarise
from adapty_async.cli._confirmation import describe_ends
from adapty_async.cli._dry_journal import DryJournal
from adapty_async.cli._earlier import EarlierRuns
from adapty_async.cli._estimate import estimate_of
from adapty_async.cli._job_text import failure_json, outcome_json
from adapty_async.jobs import JobOutcome
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke

Put = Callable[[str, str | bytes], Path]

BY = ("--by", "customer-user-id")
# An id that would clear a terminal, set its title and turn the text around.
HOSTILE = 'u\x1b[2J\x9b2J\x1b]0;x\x07\u202e"\\'


@pytest.mark.parametrize(
    ("first", "last", "shown"),
    [
        pytest.param("u1", "u9", 'first id "u1", last id "u9"', id="two"),
        pytest.param("u1", "u1", 'id "u1"', id="one"),
        pytest.param(" ü ", "日本", 'first id " ü ", last id "日本"', id="letters"),
        pytest.param(None, "u9", 'first id not readable, last id "u9"', id="no-first"),
        pytest.param(None, None, "first id not readable, last id not readable", id="none"),
        pytest.param(
            "x" * 64, "x" * 65, f'first id "{"x" * 64}", last id "{"x" * 64}…"', id="long"
        ),
        pytest.param(
            HOSTILE,
            HOSTILE,
            r'id "u\x1b[2J\x9b2J\x1b]0;x\x07\u202e\"\\"',
            id="control-characters",
        ),
    ],
)
def test_ids_are_shown_in_quotes(first: str | None, last: str | None, shown: str) -> None:
    """Blanks of an id can be seen, and a terminal interprets nothing of it."""
    assert describe_ends(first, last) == shown


@pytest.mark.parametrize(
    ("name", "content", "users"),
    [
        pytest.param(
            "ids.txt", "u1\nu2\nu3\n", '3 users in {} (first id "u1", last id "u3")', id="3"
        ),
        pytest.param("ids.txt", "u1\n", '1 user in {} (id "u1")', id="one"),
        pytest.param(
            "ids.csv",
            "customer_user_id,revoke_at\nu1,1\n,2\nu3\n",
            '2 users in {} (first id "u1", last id not readable)',
            id="broken",
        ),
        pytest.param(
            "ids.ndjson",
            json.dumps(HOSTILE) + "\n7\n",
            '2 users in {} (first id "u\\x1b[2J\\x9b2J\\x1b]0;x\\x07\\u202e\\"\\\\", '
            "last id not readable)",
            id="hostile",
        ),
    ],
)
def test_a_question_names_the_first_and_the_last_id(
    sandbox: Sandbox, invoke: Invoke, put: Put, name: str, content: str, users: str
) -> None:
    """The question of a deletion and of a revocation says whom it is about."""
    path = put(name, content)
    deletion = invoke("delete", path, *BY)
    revocation = invoke("revoke", path, *BY, "--access-level", "premium")

    for result in (deletion, revocation):
        assert result.exit_code == 2
        assert users.format(path) in result.stderr
        assert "\x1b" not in result.output
    assert sandbox.arrivals() == []


def test_the_name_of_the_input_is_shown_without_escapes(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A file may be called anything; a terminal interprets nothing of its name."""
    path = put("a\x1b[2J\nb.txt", "u1\n")
    shown = str(path).replace("\x1b", "\\x1b").replace("\n", "\\n")
    job = ("job", "plan", path, "--name", "j", *BY)
    for result in (invoke("delete", path, *BY), invoke(*job)):
        assert f'1 user in {shown} (id "u1")' in result.stderr
        assert "\x1b" not in result.output


def test_an_empty_file_needs_no_confirmation(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A file without rows needs no confirmation, since nothing would be sent."""
    result = invoke("delete", put("ids.txt", "\n"), *BY)

    assert (result.exit_code, sandbox.arrivals()) == (0, [])
    assert "0 rows" in result.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_read_for_its_question(
    sandbox: Sandbox, invoke: Invoke, tmp_path: Path
) -> None:
    """The question about a pipe says that its ids are not known, and reads nothing of it."""
    path = tmp_path / "ids.txt"
    os.mkfifo(path)
    result = invoke("delete", path, *BY)

    assert result.exit_code == 2
    assert f"all users in {path}, whose number and ids are not known beforehand" in result.stderr
    assert sandbox.arrivals() == []


def dry_run(invoke: Invoke, path: Path, *options: object) -> Any:
    """Return the report of a dry run."""
    result = invoke("delete", path, *BY, "--dry-run", "--json", *options)
    assert "\x1b" not in result.stdout
    assert "\x9b" not in result.stdout
    return json.loads(result.stdout)


def test_a_dry_run_has_the_first_and_the_last_id(invoke: Invoke, put: Put) -> None:
    """A program gets the ids as they are; null for those that are not known."""
    path = put("ids.ndjson", f"{json.dumps(HOSTILE)}\n7\n")
    report = dry_run(invoke, path)
    assert (report["first_id"], report["last_id"]) == (HOSTILE, None)

    text = invoke("delete", put("ids.txt", "u1\nu2\n"), *BY, "--dry-run").stdout
    assert 'The input: first id "u1", last id "u2".' in text
    empty = dry_run(invoke, put("empty.txt", "\n"))
    assert (empty["first_id"], empty["last_id"]) == (None, None)
    plain = invoke("delete", put("empty.txt", "\n"), *BY, "--dry-run").stdout
    assert plain.endswith("0 cannot\n")


@pytest.mark.parametrize("encode", [outcome_json, failure_json])
def test_listed_ids_of_a_job_are_no_escapes(encode: Callable[[JobOutcome, str], str]) -> None:
    """The list of a job can be shown on a terminal, and is read as the ids that it is about."""
    hostile = f"{HOSTILE}\x7f\U000e0001ü"
    outcome = JobOutcome(index=0, line=1, item=hostile, status=OutcomeStatus.FAILED)
    line = encode(outcome, "v2 delete by customer-user-id")

    assert line.isprintable()
    assert hostile in json.loads(line).values()
    assert "ü" in line


@pytest.mark.parametrize("operation", ["v2.profiles.delete by customer_user_id", "tag"])
def test_an_id_that_can_be_sent_has_no_error(operation: str) -> None:
    """The store holds no reasons, so only an id that cannot be sent has one."""
    outcome = JobOutcome(index=0, line=1, item="u1", status=OutcomeStatus.FAILED)

    assert json.loads(failure_json(outcome, operation))["error"] is None


@pytest.mark.parametrize(
    ("rate", "earlier", "expected"),
    [
        pytest.param(None, None, (None, None, "unknown"), id="unknown"),
        pytest.param(8.0, None, (13, 8.0, "rate"), id="rate"),
        pytest.param(None, 20.0, (5, 20.0, "journal"), id="journal"),
        pytest.param(8.0, 20.0, (13, 8.0, "rate"), id="lower-rate"),
        pytest.param(40.0, 20.0, (5, 20.0, "journal"), id="lower-measurement"),
    ],
)
def test_an_estimate_says_what_it_rests_on(
    rate: float | None, earlier: float | None, expected: tuple[int | None, float | None, str]
) -> None:
    """The rate is the option, or the lower one that an earlier run measured."""
    found = estimate_of(100, rate, EarlierRuns(rate=earlier)).as_json()

    assert found == dict(zip(("seconds", "rate", "basis"), expected, strict=True))


def test_a_dry_run_estimates_the_time(invoke: Invoke, put: Put) -> None:
    """It says how long the run takes at a rate that is given, and what is not known without one."""
    path = put("ids.txt", "".join(f"u{number}\n" for number in range(1000)))
    assert dry_run(invoke, path, "--rate", "8")["estimate"] == {
        "seconds": 125,
        "rate": 8.0,
        "basis": "rate",
    }
    text = invoke("delete", path, *BY, "--dry-run").stdout
    assert "which Adapty does not publish and no earlier run has reached" in text
    assert "at 100 requests/s, that takes 10 s or more" in text


async def add_run(path: Path, *, rate: float) -> None:
    """Add a run to a journal that measured a rate, and did nothing else."""
    journal = SqliteJournal(path, owed=1)
    identity = summarise(path).identity
    run = (await journal.open(identity, lambda _: None, lambda keys, spans: None)).run
    run.rate = rate
    await journal.commit(Changes(run=run), durable=False)
    await journal.close()


def test_an_estimate_uses_the_measurement_of_the_journal(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A rate that an earlier run with the journal measured is the basis of the estimate."""
    path = put("ids.txt", "u1\nu2\n")
    journal = path.with_name("run.db")
    invoke("delete", path, *BY, "--yes", "--journal", journal)
    asyncio.run(add_run(journal, rate=4.0))
    path.write_text("u1\nu2\n" + "".join(f"new{number}\n" for number in range(10)))

    assert dry_run(invoke, path, "--journal", journal)["estimate"] == {
        "seconds": 3,
        "rate": 4.0,
        "basis": "journal",
    }
    text = invoke("delete", path, *BY, "--dry-run", "--journal", journal).stdout
    assert "At 4 requests/s, as an earlier run with this journal measured, that takes 3 s" in text


async def test_a_dry_run_is_not_slowed_by_its_journal(tmp_path: Path) -> None:
    """The rate that an earlier run measured is that of requests, which a dry run does not send."""
    identity = JournalIdentity(
        operation="v2 delete", origin="http://x", account="a", keys="position", input={}
    )
    path = tmp_path / "run.db"
    journal = SqliteJournal(path, owed=1)
    await journal.open(identity, lambda _: None, lambda keys, spans: None)
    await journal.close()
    await add_run(path, rate=4.0)
    dry = DryJournal(path, owed=1)
    resumed = await dry.open(identity, lambda _: None, lambda keys, spans: None)
    await dry.commit(Changes(run=resumed.run), durable=True)
    await dry.close()

    assert (resumed.rate, resumed.run.number) == (None, 3)
    assert len(summarise(path).runs) == 3


def test_version_2_is_the_default(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Without --api, ids of both versions go to version 2, and an update as well."""
    sandbox.seed_profiles(["u1"])
    saved = invoke("save", put("people.csv", "customer_user_id,first_name\nu1,Jane\n"), *BY)
    deleted = invoke("delete", put("ids.txt", "u1\n"), *BY, "--yes")

    assert (saved.exit_code, deleted.exit_code) == (0, 0)
    assert {arrival.api for arrival in sandbox.arrivals()} == {"v2"}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_a_journal_of_another_api_is_rejected(
    sandbox: Sandbox, invoke: Invoke, put: Put, dry: tuple[str, ...]
) -> None:
    """A run that began with version 1 does not resume with version 2, and says how to resume it."""
    path = put("ids.txt", "u1\nu2\n")
    journal = path.with_name("run.db")
    invoke("delete", path, "--api", "v1", *BY, "--yes", "--journal", journal)
    sent = len(sandbox.arrivals())
    refused = invoke("delete", path, *BY, "--journal", journal, *dry)
    path.write_text("u1\nu2\nu3\n")
    resumed = invoke("delete", path, "--api", "v1", *BY, "--yes", "--journal", journal)

    assert refused.exit_code == 2
    assert refused.stderr == (
        f"adapty-async: the journal {journal} belongs to a run with --api v1, and this one would "
        "use v2: add --api v1 to resume it, or name a new journal\n"
    )
    assert (resumed.exit_code, len(sandbox.arrivals()) - sent) == (0, 1)


def test_a_journal_of_saved_profiles_keeps_its_api(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """An update does not resume a run that saved to the Mail API."""
    row = {"external_profile_id": "u1", "external_created_at": "2026-06-01T10:30:00Z"}
    path = put("one.ndjson", json.dumps(row | {"email": "a@example.com"}))
    journal = path.with_name("run.db")
    invoke("save", path, "--journal", journal)
    refused = invoke("save", path, *BY, "--journal", journal)

    assert refused.exit_code == 2
    assert "belongs to a run with --api mail, and this one would use v2" in refused.stderr
