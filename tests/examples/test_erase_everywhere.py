"""The example of a privacy erasure: interrupted, resumed, and with evidence."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapty_async.bulk import Outcome, OutcomeStatus
from adapty_async.sandbox import Sandbox
from examples import erase_everywhere
from tests.ports import held_port

PEOPLE = 300


def write_people(folder: Path, *rows: str) -> Path:
    """Write the list of people who asked to be erased."""
    path = folder / "people.csv"
    path.write_text("\n".join(["customer_user_id,email", *rows, ""]), encoding="utf-8-sig")
    return path


def set_environment(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    """Make clients find a sandbox."""
    monkeypatch.setenv("ADAPTY_API_KEY", sandbox.api_key)
    monkeypatch.setenv("ADAPTY_BASE_URL", sandbox.url)
    monkeypatch.setenv("ADAPTY_MAIL_API_KEY", sandbox.mail_api_key)
    monkeypatch.setenv("ADAPTY_MAIL_BASE_URL", sandbox.url)


def ids_in(path: Path) -> set[str]:
    """Return the ids in an outcomes file that are done or absent."""
    lines = map(json.loads, path.read_text("utf-8").splitlines())
    return {line["id"] for line in lines if line["status"] in {"done", "absent"}}


@pytest.fixture
def port() -> Iterator[int]:
    """Return a port for servers one after the other: the journals belong to an address."""
    with held_port() as held:
        yield held.getsockname()[1]


async def test_an_erasure_is_interrupted_and_resumed(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle has exit code 130; the same command sends the rest and proves it."""
    people = write_people(
        tmp_path, *(f"user_{number},{number}@example.com" for number in range(PEOPLE))
    )
    folder, store = tmp_path / "erasure", str(tmp_path / "sandbox.db")
    command = [sys.executable, "-W", "error", erase_everywhere.__file__, str(people), str(folder)]
    # after the burst, the rest would take hours: the signal comes before the end
    async with Sandbox(db=store, port=port, rate=0.01, burst=PEOPLE // 3) as slow:
        slow.seed_profiles(f"user_{number}" for number in range(PEOPLE + 1))
        set_environment(monkeypatch, slow)
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        while len(slow.customer_user_ids()) > PEOPLE * 3 / 4:
            assert process.returncode is None
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
        erased = PEOPLE + 1 - len(slow.customer_user_ids())

    assert (process.returncode, errors) == (130, b"Interrupted. The same command resumes.\n")
    assert PEOPLE / 4 <= erased <= PEOPLE / 3
    async with Sandbox(db=store, port=port) as sandbox:
        assert await asyncio.to_thread(erase_everywhere.main, [str(people), str(folder)]) == 0
        assert sandbox.customer_user_ids() == {f"user_{PEOPLE}"}
        requests = sandbox.arrivals()
    assert sum(each.status != 429 for each in requests) == 2 * PEOPLE
    assert len(ids_in(folder / "adapty.ndjson")) == len(ids_in(folder / "mail.ndjson")) == PEOPLE
    for name in ("adapty.html", "mail.html"):
        page = (folder / name).read_text("utf-8")
        assert f"Complete: each of {PEOPLE} items" in page
        assert "Run 2" in page
        assert hashlib.sha256(people.read_bytes()).hexdigest() in page
        assert "user_1" not in page
        assert "example.com" not in page


def test_an_erasure_that_is_not_complete_has_exit_code_1(
    adapty_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id that cannot be sent is named by its position, and the evidence says that it is open."""
    adapty_sandbox.seed_profiles(["anna", "ben"])
    people = write_people(tmp_path, "anna,anna@example.com", " ben,", ",carl@example.com")

    assert erase_everywhere.main([str(people), str(tmp_path / "erasure")]) == 1
    output = capsys.readouterr()
    assert "BulkReport(total=2, done=1, failed=1)" in output.out
    assert "adapty, line 3: failed: customer_user_id: must not begin or end" in output.err
    assert adapty_sandbox.customer_user_ids() == {"ben"}
    assert ids_in(tmp_path / "erasure" / "mail.ndjson") == {"anna@example.com", "carl@example.com"}
    assert "duplicates: 1 of 2." in (tmp_path / "erasure" / "adapty.html").read_text("utf-8")


RAGGED = "name,customer_user_id,email\nJohn,Smith,u2,b@x.com\nAnna,anna,anna@example.com\nBen,ben\n"


def test_a_ragged_row_erases_nobody(
    adapty_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row with too many or too few cells fails with its line, and moves no cell elsewhere."""
    adapty_sandbox.seed_profiles(["Smith", "u2", "anna", "ben"])
    people = tmp_path / "people.csv"
    people.write_text(RAGGED)

    assert erase_everywhere.main([str(people), str(tmp_path / "erasure")]) == 1
    errors = capsys.readouterr().err
    for api in ("adapty", "mail"):
        assert f"{api}, line 2: failed: line 2: has 4 cells for 3 columns" in errors
        assert f"{api}, line 4: failed: line 4: has 2 cells for 3 columns" in errors
    assert adapty_sandbox.customer_user_ids() == {"Smith", "u2", "ben"}


def test_semicolons_and_people_with_one_id_are_read(
    adapty_sandbox: Sandbox, tmp_path: Path
) -> None:
    """A list of a spreadsheet, in which some people have one of the two ids, is complete."""
    adapty_sandbox.seed_profiles(["anna", "ben"])
    people = tmp_path / "people.csv"
    people.write_text("customer_user_id;email\nanna;\n;carl@example.com\nben;ben@example.com\n")
    folder = tmp_path / "erasure"

    assert erase_everywhere.main([str(people), str(folder)]) == 0
    assert not adapty_sandbox.customer_user_ids()
    assert ids_in(folder / "mail.ndjson") == {"carl@example.com", "ben@example.com"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("customer_user_id,mail\nu1,a@x.com\n", "email", id="no column"),
        pytest.param("customer_user_id,email,email\nu1,,a@x.com\n", "email", id="column twice"),
        pytest.param("customer_user_id,email\n,\n", "has no ids", id="nobody"),
        pytest.param("", "column names", id="empty"),
        pytest.param(None, "cannot be read", id="no file"),
    ],
)
def test_a_file_that_is_none_is_one_line(
    adapty_sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    message: str,
) -> None:
    """A file that is wrong as a whole has exit code 2 and sends nothing."""
    people = tmp_path / "people.csv"
    if text is not None:
        people.write_text(text)

    assert erase_everywhere.main([str(people), str(tmp_path / "erasure")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("erase_everywhere.py: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert not adapty_sandbox.arrivals()


def test_a_wrong_call_or_setting_is_one_line(
    adapty_sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No arguments, no key and a journal that is none have exit code 2, and no traceback."""
    folder = tmp_path / "erasure"
    arguments = [str(write_people(tmp_path, "anna,")), str(folder)]

    assert erase_everywhere.main([]) == 2
    assert capsys.readouterr().err == "Usage: erase_everywhere.py PEOPLE.csv FOLDER\n"
    folder.mkdir()
    (folder / "adapty.db").write_bytes(b"no journal" * 100)
    assert erase_everywhere.main(arguments) == 2
    assert "adapty.db" in capsys.readouterr().err
    monkeypatch.delenv("ADAPTY_API_KEY")
    assert erase_everywhere.main(arguments) == 2
    assert "ADAPTY_API_KEY" in capsys.readouterr().err
    assert not adapty_sandbox.arrivals()


def test_progress_is_a_line_for_every_thousand_people(capsys: pytest.CaptureFixture[str]) -> None:
    """A long erasure shows now and then how far each API is."""
    show = erase_everywhere.progress("mail")
    for index in range(2500):
        show(Outcome(index, f"{index}@example.com", OutcomeStatus.DONE))

    assert capsys.readouterr().err == "mail: 1,000 people\nmail: 2,000 people\n"


def test_people_are_appended_to_a_list_that_is_otherwise_kept(
    adapty_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same folder takes a list that has grown; a list that was changed needs another one."""
    adapty_sandbox.seed_profiles(["anna", "ben"])
    folder = str(tmp_path / "erasure")
    arguments = [str(write_people(tmp_path, "anna,")), folder]

    assert erase_everywhere.main(arguments) == 0
    write_people(tmp_path, "anna,", "ben,ben@example.com")
    assert erase_everywhere.main(arguments) == 0
    assert "done=1, skipped=1" in capsys.readouterr().out
    write_people(tmp_path, "anne,", "ben,ben@example.com")
    assert erase_everywhere.main(arguments) == 2
    assert "belongs to another" in capsys.readouterr().err
    assert len(adapty_sandbox.arrivals()) == 3
