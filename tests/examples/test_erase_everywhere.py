"""The example of a privacy erasure: interrupted, resumed, and with evidence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapty_async.sandbox import Sandbox
from examples import erase_everywhere

PEOPLE = 300


def write_people(folder: Path, *rows: str) -> Path:
    """Write the list of people who asked to be erased."""
    path = folder / "people.csv"
    path.write_text("\n".join(["customer_user_id,email", *rows, ""]), encoding="utf-8-sig")
    return path


def ids_in(path: Path) -> set[str]:
    """Return the ids in an outcomes file that are done or absent."""
    lines = map(json.loads, path.read_text("utf-8").splitlines())
    return {line["id"] for line in lines if line["status"] in {"done", "absent"}}


@pytest.mark.adapty_sandbox(latency=0.02)
def test_an_erasure_is_interrupted_and_resumed(adapty_sandbox: Sandbox, tmp_path: Path) -> None:
    """Ctrl-C in the middle has exit code 130; the same command sends the rest and proves it."""
    adapty_sandbox.seed_profiles(f"user_{number}" for number in range(PEOPLE + 1))
    people = write_people(
        tmp_path, *(f"user_{number},{number}@example.com" for number in range(PEOPLE))
    )
    folder = tmp_path / "erasure"
    command = [sys.executable, "-W", "error", erase_everywhere.__file__, str(people), str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len(adapty_sandbox.arrivals()) < PEOPLE / 4:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    sent = len(adapty_sandbox.arrivals())

    assert (process.returncode, errors) == (130, "Interrupted. The same command resumes.\n")
    assert sent < PEOPLE
    assert erase_everywhere.main(people, folder) == 0
    assert adapty_sandbox.customer_user_ids() == {f"user_{PEOPLE}"}
    assert len(adapty_sandbox.arrivals()) == 2 * PEOPLE
    assert len(ids_in(folder / "adapty.ndjson")) == len(ids_in(folder / "mail.ndjson")) == PEOPLE
    for name in ("adapty.html", "mail.html"):
        page = (folder / name).read_text("utf-8")
        assert "has a final outcome" in page
        assert "Run 2" in page
        assert "user_1" not in page
        assert "example.com" not in page


def test_an_erasure_that_is_not_complete_has_exit_code_1(
    adapty_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id that cannot be sent is named by its position, and the evidence says that it is open."""
    adapty_sandbox.seed_profiles(["anna", "ben"])
    people = write_people(tmp_path, "anna,anna@example.com", " ben,", ",carl@example.com")

    assert erase_everywhere.main(people, tmp_path / "erasure") == 1
    output = capsys.readouterr()
    assert "BulkReport(total=2, done=1, failed=1)" in output.out
    assert output.err.startswith("item 2: failed: customer_user_id: must not begin or end")
    assert adapty_sandbox.customer_user_ids() == {"ben"}
    assert ids_in(tmp_path / "erasure" / "mail.ndjson") == {"anna@example.com", "carl@example.com"}
    assert "1 of 2 rows of" in (tmp_path / "erasure" / "adapty.html").read_text("utf-8")
