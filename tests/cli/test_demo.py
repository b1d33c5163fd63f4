"""The demo: it shows the whole way on its own sandbox, and notices when something is not right."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async.cli import _demo
from adapty_async.cli._demo import write_examples
from adapty_async.config import RetryPolicy
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke
from tests.cli.processes import DEADLINE, Terminal

Put = Callable[[str, str | bytes], Path]

HEADER = "external_profile_id,external_created_at,email\n"


def people(*ids: str) -> str:
    """Write profiles as CSV."""
    return HEADER + "".join(f"{each},2026-06-01T10:30:00Z,x@example.com\n" for each in ids)


def test_demo_shows_the_whole_way(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are made up, saved, erased and checked; the faults on the way cost nobody."""
    few = functools.partial(write_examples, count=300, erased=90)
    monkeypatch.setattr(_demo, "write_examples", few)
    result = invoke("demo")
    assert result.exit_code == 0, result.output
    assert "The sandbox holds 298 profiles; 2 rows could not be sent." in result.stdout
    assert "      90 of the listed users are gone\n" in result.stdout
    assert "      40 listed ids never belonged to anybody\n" in result.stdout
    assert "Exactly the listed users are gone. Nothing is missing." in result.stdout


def test_demo_takes_files(invoke: Invoke, put: Put) -> None:
    """With files of one's own it does the same, broken rows, repeated and empty ids included."""
    profiles = put("people.csv", people("u1", "u2", "u3", "u2", "") + "u4\n")
    result = invoke("demo", profiles, put("ids.csv", "customer_user_id,x\nu1,\n,y\nu9,\nu3\n"))
    assert result.exit_code == 0, result.output
    assert "The sandbox holds 3 profiles; 2 rows could not be sent." in result.stdout
    assert "       1 of the listed users are gone\n" in result.stdout
    assert "       2 other users are untouched\n" in result.stdout


def test_demo_needs_both_files(invoke: Invoke, put: Put) -> None:
    """One file alone is rejected."""
    result = invoke("demo", put("people.csv", people("u1")))
    assert result.exit_code == 2
    assert "PROFILES and IDS go together" in result.stderr


def test_demo_rejects_other_columns(invoke: Invoke, put: Put) -> None:
    """A file that holds no profiles is rejected by its column."""
    result = invoke("demo", put("people.csv", "nickname\nJ\n"), put("ids.txt", "u1\n"))
    assert result.exit_code == 2
    assert 'adapty-async: header: unknown column "nickname"; expected: ' in result.stderr


def test_demo_says_what_cannot_be_erased(invoke: Invoke, put: Put) -> None:
    """A listed user whose id cannot be sent is found out by the check at the end."""
    result = invoke("demo", put("people.csv", people("Zoë", "u1")), put("ids.txt", "Zoë\n"))
    assert result.exit_code == 1
    assert "NOT as it should be: 1 left over, 0 too many." in result.stdout


def test_shipped_examples_are_what_is_written(tmp_path: Path) -> None:
    """The example files in the repository are those that the module writes."""
    command = [sys.executable, "-m", "adapty_async.cli._demo", str(tmp_path)]
    subprocess.run(command, timeout=DEADLINE, check=True)
    shipped = Path(__file__).parents[2] / "examples"
    for name in ("profiles.csv", "erase.txt"):
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes()


async def test_check_finds_users_that_are_wrongly_gone() -> None:
    """Users who are missing without being listed are reported."""
    said: list[str] = []
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["u3"])
        code = _demo._check(sandbox, {"u1", "u2", "u3"}, {"u1", "u3"}, said.append)
    assert code == 1
    assert said[-1] == "NOT as it should be: 1 left over, 1 too many."


def test_profiles_that_did_not_arrive_are_found_out(
    invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When profiles are lost on the way the demo does not end well."""
    monkeypatch.setattr(_demo, "_FAULTS", "error=100%")
    monkeypatch.setattr(_demo, "_RETRY", RetryPolicy(attempts=1))
    result = invoke("demo", put("people.csv", people("u1")), put("ids.txt", "u9\n"))
    assert result.exit_code == 1
    assert "The sandbox holds 0 profiles; 1 row could not be sent." in result.stdout


@pytest.mark.parametrize("title", ["Saving", "Deleting"])
def test_demo_can_be_interrupted(put: Put, title: str) -> None:
    """Ctrl-C ends the demo in either part, without a start of the next."""
    many = "".join(f"u{number}\n" for number in range(5000))
    saving = title == "Saving"
    profiles = people(*many.split()) if saving else people("u1")
    with Terminal("demo", put("people.csv", profiles), put("ids.txt", many)) as terminal:
        terminal.wait_for(title)
        terminal.wait_for("/5000")
        terminal.interrupt()
        assert terminal.end() == 130
    assert ("2. Erase" in terminal.shown) is not saving
    assert "3. Ask the sandbox" not in terminal.shown
    assert "Traceback" not in terminal.shown


def test_the_lines_of_the_demo_fit_into_the_terminal(put: Put) -> None:
    """They end at blanks, as those of the other commands do."""
    files = put("people.csv", people("u1")), put("ids.txt", "u1\n")
    with Terminal("demo", *files, columns=60) as terminal:
        assert terminal.end() == 0

    first, last = terminal.shown.index("A sandbox"), terminal.shown.index("1. Save")
    assert max(map(len, terminal.shown[first:last].splitlines())) <= 60
