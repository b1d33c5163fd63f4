"""The commands that create profiles, against a sandbox: `create`, and an import that creates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke
from tests.cli.test_v2 import BY, HISTORY

Put = Callable[[str, str | bytes], Path]

PEOPLE = "customer_user_id,first_name,custom_attributes.plan\nu1,Jane,annual\nu2,Joe,\n"


def methods(sandbox: Sandbox) -> list[tuple[str, str | None]]:
    """Return the methods and ids of what arrived, sorted."""
    return sorted((one.method, one.identity) for one in sandbox.arrivals())


def first_name(sandbox: Sandbox, customer_user_id: str) -> Any:
    """Return the first name of a profile that exists."""
    profile = sandbox.profile(customer_user_id=customer_user_id)
    assert profile is not None
    return profile.get("first_name")


def test_create_creates_each_profile(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """One creation a row, with the attributes of the columns."""
    result = invoke("create", put("people.csv", PEOPLE), "--json")

    assert result.exit_code == 0, result.output
    assert msgspec.json.decode(result.stdout)["done"] == 2
    assert methods(sandbox) == [("POST", "u1"), ("POST", "u2")]
    profile = sandbox.profile(customer_user_id="u1") or {}
    assert profile["custom_attributes"] == [{"key": "plan", "value": "annual"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("ids.txt", "u1\nu2\n", id="text"),
        pytest.param("ids.csv", "user\nu1\nu2\n", id="CSV"),
        pytest.param("ids.ndjson", '{"user":"u1"}\n{"user":"u2"}\n', id="NDJSON"),
    ],
)
def test_create_takes_bare_ids(
    sandbox: Sandbox, invoke: Invoke, put: Put, name: str, content: str
) -> None:
    """A file of ids in any format makes profiles without attributes."""
    result = invoke("create", put(name, content), "--column", "user")

    assert result.exit_code == 0, result.output
    assert sandbox.customer_user_ids() == {"u1", "u2"}


def test_create_if_missing_leaves_profiles_as_they_are(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """A profile that exists is read and not written; the command resumes, and may be run again."""
    sandbox.seed_profiles(["u1"])
    arguments = ("create", put("people.csv", PEOPLE), "--if-missing", "--journal")
    results = [invoke(*arguments, tmp_path / name) for name in ("one.db", "one.db", "two.db")]

    assert [result.exit_code for result in results] == [0, 0, 0], results[0].output
    assert methods(sandbox) == [*[("GET", "u1")] * 2, *[("GET", "u2")] * 2, ("POST", "u2")]
    assert (first_name(sandbox, "u1"), first_name(sandbox, "u2")) == (None, "Joe")
    assert "2 done by an earlier run" in results[1].output


def test_a_journal_of_one_kind_of_creation_is_not_that_of_the_other(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """A run that creates without a look does not resume one with it."""
    people, journal = put("people.csv", PEOPLE), tmp_path / "run.db"
    invoke("create", people, "--journal", journal)
    result = invoke("create", people, "--if-missing", "--journal", journal)

    assert result.exit_code == 2
    assert "belongs to another run" in result.output
    assert len(sandbox.arrivals()) == 2


def test_a_creation_whose_response_is_lost_is_unknown_unless_it_can_be_seen(
    start_sandbox: Any, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """`create` cannot tell what became of a lost creation, `create --if-missing` can."""
    ids = put("ids.txt", "u1\n")
    failures = tmp_path / "failures.ndjson"
    with start_sandbox() as sandbox:
        sandbox.fail_next("reset_after")
        plain = invoke("create", ids, "--failures", failures)
        [entry] = msgspec.json.Decoder().decode_lines(failures.read_bytes())
    with start_sandbox() as sandbox:
        sandbox.fail_next("404", "reset_after")
        careful = invoke("create", ids, "--if-missing", "--json")
        sent = [(one.method, one.status) for one in sandbox.arrivals()]

    assert (plain.exit_code, entry["status"]) == (1, "unknown")
    assert (careful.exit_code, msgspec.json.decode(careful.stdout)["done"]) == (0, 1)
    assert sent == [("GET", 404), ("POST", 0), ("GET", 200)]


def test_a_dry_run_of_create_validates_each_row(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Nothing is sent, and a row that breaks a documented rule is named."""
    people = "customer_user_id,email\nu1,jane@example.com\nu2,nobody\n"
    result = invoke("create", put("people.csv", people), "--if-missing", "--dry-run", "--json")
    report = msgspec.json.decode(result.stdout)

    assert result.exit_code == 1
    assert (report["dry_run"], report["sendable"], report["failed"]) == (True, 1, 1)
    assert sandbox.arrivals() == []


def test_an_unknown_column_of_create_is_named(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A column that is no attribute is rejected before anything is sent."""
    result = invoke("create", put("people.csv", "customer_user_id,shoe_size\nu1,44\n"))

    assert result.exit_code == 2
    assert 'unknown column "shoe_size"' in result.output
    assert sandbox.arrivals() == []


def test_an_import_creates_missing_profiles(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A purchase of an unknown user makes a profile first; without the option its row fails."""
    sandbox.seed_profiles(["u1"])
    history = put("history.csv", HISTORY)
    plain = invoke("import-transactions", history, *BY, "--json")
    creating = invoke("import-transactions", history, *BY, "--create-missing", "--json")

    assert (plain.exit_code, msgspec.json.decode(plain.stdout)["failed"]) == (1, 1)
    report = msgspec.json.decode(creating.stdout)
    assert (creating.exit_code, report["done"], report["requests"]) == (0, 2, 4)
    assert sandbox.customer_user_ids() == {"u1", "u2"}


def test_an_import_creates_by_customer_user_id_only(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A profile id is Adapty's choice, so no profile can be created by one."""
    history = put("history.csv", HISTORY.replace("customer_user_id", "profile_id"))
    result = invoke("import-transactions", history, "--by", "profile-id", "--create-missing")

    assert result.exit_code == 2
    assert "--create-missing goes with --by customer-user-id only" in result.output
    assert sandbox.arrivals() == []


def test_a_public_key_alone_is_no_key_for_the_command_line(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands need the secret key, whatever else is in the environment."""
    monkeypatch.setenv("ADAPTY_PUBLIC_KEY", sandbox.public_key)
    monkeypatch.delenv("ADAPTY_API_KEY")
    result = invoke("create", put("ids.txt", "u1\n"))

    assert result.exit_code == 2
    told = "no API key: set ADAPTY_API_KEY, or name a file with it by --api-key-file\n"
    assert result.stderr == f"adapty-async: {told}"


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        pytest.param((), "Look each of them up at Adapty; a new journal sends", id="create"),
        pytest.param(
            ("--if-missing",), "Use a new journal: profiles that exist are found.", id="if-missing"
        ),
    ],
)
def test_unknown_rows_are_not_left_for_the_same_command(
    options: tuple[str, ...], advice: str, sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """After a failure of the server, the advice is what can help."""
    path = put("ids.txt", "u1\n")
    sandbox.fail_next(*(["404"] if options else []), "500", *["503"] * 9)
    result = invoke("create", path, *options, "--journal", path.with_name("journal"))

    assert result.exit_code == 1, result.output
    assert "  unknown            1" in result.stdout
    assert advice in result.stdout
    assert "resume" not in result.stdout
