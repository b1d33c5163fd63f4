"""Standard streams that cannot be written: a run ends as it would have, and says so in one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async.cli._streams import _Guarded
from adapty_async.sandbox import Sandbox
from tests.cli.processes import COMMAND, DEADLINE

Put = Callable[[str, str | bytes], Path]

V1 = ("--api", "v1", "--by", "customer-user-id", "--yes")
FULL = "adapty-async: standard output cannot be written: No space left on device\n"
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in which $C is the command."""
    return subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; C='{' '.join(COMMAND)}'; {line}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.unmeasured
@only_linux
@pytest.mark.parametrize("options", ["", "--json", "--dry-run", "--dry-run --json"])
@pytest.mark.parametrize(("rows", "code"), [("a\n", 0), ("a\n b\n", 1)], ids=["done", "failed"])
def test_a_full_disk_does_not_change_the_exit_code(
    sandbox: Sandbox, put: Put, options: str, rows: str, code: int
) -> None:
    """A report that cannot be written leaves a line, and the exit code of the run."""
    path = put("ids.txt", rows)
    ended = shell(f"$C delete {path} {' '.join(V1)} {options} > /dev/full")
    assert (ended.returncode, ended.stderr) == (code, FULL)
    assert len(sandbox.arrivals()) == ("--dry-run" not in options)


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        pytest.param(">&-", "it is closed", id="closed"),
        pytest.param("| (exec <&-; sleep 0.1; cat)", "Broken pipe", id="no-reader"),
    ],
)
def test_an_output_without_a_reader_does_not_change_the_exit_code(
    sandbox: Sandbox, put: Put, redirection: str, reason: str
) -> None:
    """A closed output is reported in one line as well; `pipefail` shows the command's own code."""
    path = put("ids.txt", "a\n b\n")
    ended = shell(f"$C delete {path} {' '.join(V1)} {redirection}")
    told = [line for line in ended.stderr.splitlines() if line.startswith("adapty-async")]
    assert told == [f"adapty-async: standard output cannot be written: {reason}"]
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 1
    assert len(sandbox.arrivals()) == 1


@pytest.mark.unmeasured
@only_linux
def test_a_closed_standard_error_does_not_change_the_exit_code(put: Put) -> None:
    """A refusal that nobody can read is still a refusal, and bad usage too."""
    path = put("ids.txt", "a\n")
    for arguments in (f"delete {path} {' '.join(V1)}", "delete"):
        for redirection in ("2> /dev/full", "2>&-"):
            assert shell(f"$C {arguments} {redirection}").returncode == 2


@pytest.mark.unmeasured
@only_linux
def test_a_status_that_cannot_be_written_is_no_success(sandbox: Sandbox, put: Put) -> None:
    """Output is all that `status` is for, so the exit code is not 0; that of the help stays."""
    path = put("ids.txt", "a\n")
    journal = path.with_name("journal")
    assert shell(f"$C delete {path} {' '.join(V1)} --journal {journal}").returncode == 0
    ended = shell(f"$C status {journal} > /dev/full")
    assert (ended.returncode, ended.stderr) == (1, FULL)
    assert shell("$C --help > /dev/full").stderr == FULL
    assert len(sandbox.arrivals()) == 1


@pytest.mark.unmeasured
def test_an_unbuffered_interpreter_works(put: Put) -> None:
    """With PYTHONUNBUFFERED there is no buffer between the text and the descriptor."""
    path = put("ids.txt", "a\n")
    ended = shell(f"PYTHONUNBUFFERED=1 $C delete {path} {' '.join(V1)} --dry-run")
    assert ended.returncode == 0
    assert ended.stdout.startswith("Dry run of 1 row; nothing was sent.")


@pytest.mark.unmeasured
def test_a_name_that_the_output_cannot_show_does_not_spoil_the_report(put: Put) -> None:
    """In an old encoding, a foreign letter is written as an escape."""
    path = put("ids.txt", " a\n")
    failures = path.with_name("Ł")
    options = f"--dry-run --failures {failures}"
    ended = shell(f"PYTHONIOENCODING=latin-1 $C delete {path} {' '.join(V1)} {options}")
    assert ended.returncode == 1
    assert "Those that cannot be sent are in" in ended.stdout


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "command",
    [
        pytest.param("delete ids.ndjson --api mail --by email --sample 1 --json", id="sample"),
        pytest.param("delete ids.ndjson --api mail --by email --dry-run --json", id="dry-run"),
        pytest.param("job failures erasure --store sqlite:///jobs.db", id="job"),
        pytest.param("report run.db --input ids.ndjson --with-ids", id="page"),
        pytest.param("report run.db --input ids.ndjson --with-ids --format json", id="report"),
    ],
)
def test_what_programs_read_is_utf_8_in_every_locale(
    sandbox: Sandbox, put: Put, command: str
) -> None:
    """JSON and the page are; on Windows, a pipe has another encoding, which lacks many letters."""
    item = "j\u00fcrgen\U0001f600@example.com"
    folder = put("ids.ndjson", f'{{"email":"{item}"}}\n').parent
    prepared = shell(
        f"cd {folder}; set -e; $C delete ids.ndjson --api mail --by email --yes --journal run.db;"
        " $C job plan ids.ndjson --name erasure --api mail --by email --yes"
        " --store sqlite:///jobs.db"
    )
    assert prepared.returncode == 0
    ended = shell(f"cd {folder}; PYTHONIOENCODING=cp1252 $C {command} > output")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert item in (folder / "output").read_text(encoding="utf-8")
    assert len(sandbox.arrivals()) == 1


class _Full(io.RawIOBase):
    def write(self, _: object) -> None:
        return None


def test_a_stream_without_room_discards_and_reports_once() -> None:
    """A pipe that does not block and is full loses what is written, and says so the first time."""
    told: list[OSError] = []
    stream = _Guarded(_Full(), told.append)
    assert (stream.write(b"abc"), stream.write(b"d"), stream.failed) == (3, 1, True)
    assert [error.strerror for error in told] == ["Resource temporarily unavailable"]


def test_a_stream_that_was_never_open_has_no_descriptor() -> None:
    """A closed stream is no terminal, and has no number."""
    closed = _Guarded(None, lambda _: None)
    assert (closed.isatty(), closed.writable()) == (False, True)
    with pytest.raises(OSError, match="it is closed"):
        closed.fileno()
    with Path(os.devnull).open("wb", buffering=0) as raw:
        assert _Guarded(raw, lambda _: None).fileno() == raw.fileno()
