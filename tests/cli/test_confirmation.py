"""What a command shows before it changes anybody: which users, how many, and by which API."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async.bulk import OutcomeStatus
from adapty_async.cli._confirmation import describe_ends
from adapty_async.cli._job_text import failure_json, outcome_json
from adapty_async.jobs import JobOutcome
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import HOSTILE, Invoke

Put = Callable[[str, str | bytes], Path]

BY = ("--by", "customer-user-id")


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
