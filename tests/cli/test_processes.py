"""The commands as real processes: pipes, terminals and signals."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async.sandbox import Sandbox
from tests.cli.conftest import StartSandbox
from tests.cli.processes import (
    COMMAND,
    DEADLINE,
    Terminal,
    run,
    started,
    wait_for_arrivals,
)

pytestmark = pytest.mark.slow

Put = Callable[[str, str | bytes], Path]

V1 = ("--api", "v1", "--by", "customer-user-id")
PEOPLE = """\
external_profile_id,external_created_at,email
u1,2026-06-01T10:30:00Z,u1@example.com
u2,2026-06-01T10:30:00Z,u2@example.com
"""


def ids(count: int) -> str:
    """Write ids as lines."""
    return "".join(f"u{number}\n" for number in range(count))


def test_packed_standard_input_is_saved(sandbox: Sandbox) -> None:
    """Profiles come through a pipe, packed, with the format given."""
    ended = run("save", "-", "--format", "csv", stdin=gzip.compress(PEOPLE.encode()))
    assert ended.returncode == 0, ended.stderr
    assert sandbox.mail_profile_ids() == {"u1", "u2"}


@pytest.mark.parametrize("option", ["--failures", "--outcomes", "--journal"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_file_of_a_run_is_not_its_log(
    option: str, stream: str, sandbox: Sandbox, put: Put, tmp_path: Path
) -> None:
    """The report would be written over its first lines, so nothing is sent."""
    path = tmp_path / "log.txt"
    arguments = ("delete", put("ids.txt", ids(1)), *V1, "--yes", option, path)
    with path.open("w") as log, started(*arguments, **{stream: log}) as process:
        assert process.wait(DEADLINE) == 2
    assert sandbox.arrivals() == []


def test_wrong_columns_in_a_pipe_send_nothing(sandbox: Sandbox) -> None:
    """A pipe's header is looked at before its first row is sent."""
    ended = run("save", "-", "--format", "csv", stdin=PEOPLE.replace("email", "mail", 1).encode())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert 'adapty-async: header: unknown column "mail"; expected: ' in ended.stderr
    assert sandbox.arrivals() == []


def test_an_error_of_a_row_names_the_option(sandbox: Sandbox) -> None:
    """The keys of a pipe are known row by row, and the one who ran the command knows no Python."""
    rows = b'{"customer_user_id":"a","x":"Jo"}\n{"customer_user_id":"b","first_name":"Jo"}\n'
    options = ("--format", "ndjson", "--by", "customer-user-id", "--map", "x=first_name")
    ended = run("save", "-", *options, stdin=rows)
    assert "  line 2: --map: must not name a column for first_name, which" in ended.stdout
    assert len(sandbox.arrivals()) == 1


def test_pipe_that_breaks_off_is_accounted_for(sandbox: Sandbox) -> None:
    """When a pipe turns out damaged half-way, what was done till then is reported."""
    sandbox.seed_profiles(f"u{number}" for number in range(3000))
    packed = gzip.compress(ids(3000).encode())[:-2000]
    ended = run("delete", "-", "--format", "text", *V1, "--yes", "--json", stdin=packed)
    report = json.loads(ended.stdout)
    assert ended.returncode == 2
    assert ended.stderr.endswith("adapty-async: -: is a damaged gzip file\n")
    assert 0 < report["total"] == report["done"] == 3000 - len(sandbox.customer_user_ids())
    assert report["stop_reason"] == "stopped"


def test_pipe_that_ends_in_an_id_does_not_erase_another_user(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The last id of a program that was killed is not sent, and is in the failures file."""
    sandbox.seed_profiles(["100045", "100046", "1000"])
    noted = tmp_path / "failures.ndjson"
    options = ("--format", "text", *V1, "--yes", "--failures", noted)
    ended = run("delete", "-", *options, stdin=b"100045\n1000")
    assert ended.returncode == 1
    assert "may be incomplete: it has no line break at its end" in ended.stdout
    assert json.loads(noted.read_text())["item"] == "1000"
    assert sandbox.customer_user_ids() == {"100046", "1000"}


def test_input_must_not_be_written_over(sandbox: Sandbox, put: Put) -> None:
    """The failures file is not the input, also when that is standard input."""
    path = put("ids.txt", ids(3))
    command = (*COMMAND, "delete", "-", "--format", "text", *V1, "--yes", "--failures", str(path))
    with path.open("rb") as stdin:
        ended = subprocess.run(
            command, stdin=stdin, capture_output=True, timeout=DEADLINE, check=False
        )
    assert ended.returncode == 2
    assert b"--failures must not be the input file" in ended.stderr
    assert path.read_text() == ids(3)
    assert sandbox.arrivals() == []


def test_silent_pipe_can_be_interrupted(sandbox: Sandbox) -> None:
    """Rows are sent as they come, and Ctrl-C ends a run that waits for more of them."""
    with started("delete", "-", "--format", "text", *V1, "--yes") as process:
        assert process.stdin is not None
        process.stdin.write(b"u1\nu2\n")
        process.stdin.flush()
        wait_for_arrivals(sandbox, 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
        assert process.stdout is not None
        assert process.stdout.read().startswith(b"2 rows in")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_signal_ends_a_long_run(
    start_sandbox: StartSandbox, put: Put, tmp_path: Path, number: int
) -> None:
    """One signal: every row that was read is done or written down, and the rest is counted."""
    failures = tmp_path / "f"
    with start_sandbox(latency=0.3, faults="error=10%") as sandbox:  # some are always in flight
        sandbox.seed_profiles(f"u{number}" for number in range(5_000))
        path = put("ids.txt", ids(5_000))
        with started("delete", path, *V1, "--yes", "--json", "--failures", failures) as process:
            wait_for_arrivals(sandbox, 100)
            process.send_signal(number)
            output, progress = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130
        assert re.search(rb"Stopping: \d+ requests? in flight ha(ve|s) 5 s to finish\.", progress)
        report = json.loads(output)
        gone = 5_000 - len(sandbox.customer_user_ids())
    assert report["done"] + report["absent"] == gone
    left = report["failed"] + report["not_sent"]
    assert left == len(failures.read_bytes().splitlines())
    assert report["total"] == gone + left < 5_000


def test_second_signal_ends_a_run_that_hangs(
    start_sandbox: StartSandbox, put: Put, tmp_path: Path
) -> None:
    """Two signals cancel requests without a response at once, and record them."""
    failures = tmp_path / "f"
    with start_sandbox(faults="stall=100%") as sandbox:
        path = put("ids.txt", ids(100))
        options = ("--yes", "--concurrency", "8", "--failures", failures)
        with started("delete", path, *V1, *options) as process:
            wait_for_arrivals(sandbox, 8)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert process.stderr.readline() == b"\n"
            assert process.stderr.readline().startswith(b"Stopping")
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert b"failed             8 " in output
    assert b"Rows that were not read: 92, all after the first 8." in output
    items = [json.loads(line)["item"] for line in failures.read_bytes().splitlines()]
    assert sorted(items) == [f"u{number}" for number in range(8)]


def test_reader_of_the_progress_may_go_away(start_sandbox: StartSandbox, put: Put) -> None:
    """A run whose standard error is closed by its reader is stopped by a signal as any other."""
    with start_sandbox(latency=0.05) as sandbox:
        path = put("ids.txt", ids(5_000))
        with started("delete", path, *V1, "--yes", "--json") as process:
            assert process.stderr is not None
            process.stderr.close()
            wait_for_arrivals(sandbox, 50)
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            report = json.loads(process.stdout.read())
            assert process.wait(DEADLINE) == 130
    assert report["absent"] > 0
    assert report["total"] == report["absent"] + report["not_sent"]


def test_progress_is_on_standard_error_only(start_sandbox: StartSandbox, put: Put) -> None:
    """With a terminal for progress, standard output still holds the report alone."""
    with start_sandbox(latency=0.02) as sandbox:
        path = put("ids.txt", ids(500))
        here, there = os.openpty()
        with started("delete", path, *V1, "--yes", "--json", stderr=there) as process:
            os.close(there)
            wait_for_arrivals(sandbox, 500)
            output, _ = process.communicate(timeout=DEADLINE)
        # a terminal keeps some 4 KiB, so that a letter of three bytes may be cut off
        shown = os.read(here, 65536).decode(errors="replace")
        os.close(here)
    assert json.loads(output)["absent"] == 500
    assert "Deleting" in shown
    assert "/500" in shown


def test_terminal_shows_what_the_client_does(start_sandbox: StartSandbox, put: Put) -> None:
    """Below the bar are the rate and requests in flight; the counts stay after the run."""
    with start_sandbox(retry_after="none", latency=0.05) as sandbox:
        sandbox.fail_next("429", "429", "429")
        path = put("ids.txt", ids(100))
        with Terminal("delete", path, *V1, "--yes", "--rate", "120") as terminal:
            assert terminal.end() == 0
        shown = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown)
        sent = len(sandbox.arrivals())
    assert re.search(r"rate \d+/s, \d+ in flight, \d+ attempts", shown)
    *_, last = re.findall(r"(\d+) attempts, (\d+) throttled \([\d.]+ %\) *\r", shown)
    assert last == (str(sent), str(sent - 100)) == ("103", "3")


def test_dry_run_says_nothing_of_requests(sandbox: Sandbox, put: Put) -> None:
    """The bar of a run that sends nothing stands alone."""
    with Terminal("delete", put("ids.txt", ids(60)), *V1, "--dry-run") as terminal:
        assert terminal.end() == 0
    assert "60/60" in terminal.shown
    assert not re.search(r"in flight|\d sent", terminal.shown)
    assert sandbox.arrivals() == []


def test_question_says_what_will_happen_and_yes_does_it(sandbox: Sandbox, put: Put) -> None:
    """On a terminal the question names count, file, ids and address; yes continues."""
    sandbox.seed_profiles(["u0", "u1", "u2"])
    path = put("ids.txt", ids(2))
    with Terminal("delete", path, *V1) as terminal:
        terminal.wait_for("[y/N]:")
        question = re.sub(r"\s+", " ", terminal.shown)
        assert question == (
            f'Delete 2 users in {path} (first id "u0", last id "u1"), by customer-user-id, at '
            f"{sandbox.url}?"
            " There is no way back. [y/N]:" + question.partition("[y/N]:")[2]
        )
        assert sandbox.arrivals() == []
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "2/2" in terminal.shown
        assert "2 rows in" in terminal.shown
    assert sandbox.customer_user_ids() == {"u2"}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        pytest.param("n\n", 1, "Nothing was deleted.", id="no"),
        pytest.param("\n", 1, "Nothing was deleted.", id="enter"),
        pytest.param("\x04", 130, "Interrupted.", id="end-of-file"),
        pytest.param(None, 130, "Interrupted.", id="ctrl-c"),
    ],
)
def test_any_other_answer_deletes_nothing(
    sandbox: Sandbox, put: Put, answer: str | None, code: int, said: str
) -> None:
    """Whatever is not yes leaves everybody where they are."""
    sandbox.seed_profiles(["u0"])
    with Terminal("delete", put("ids.txt", ids(1)), *V1) as terminal:
        terminal.wait_for("[y/N]: ")
        if answer is None:
            terminal.interrupt(until=said)
        else:
            terminal.type(answer)
        assert terminal.end() == code
        assert said in terminal.shown
        assert "Traceback" not in terminal.shown
    assert sandbox.customer_user_ids() == {"u0"}
    assert sandbox.arrivals() == []


def test_pipe_with_a_name_is_confirmed_without_its_count(sandbox: Sandbox, tmp_path: Path) -> None:
    """What a shell's <(command) gives cannot be counted, but is deleted all the same."""
    sandbox.seed_profiles(["u0", "u1", "u2"])
    pipe = tmp_path / "ids.txt"
    os.mkfifo(pipe)
    with Terminal("delete", pipe, *V1) as terminal:
        terminal.wait_for("Delete all users in")
        terminal.type("y\n")
        pipe.write_text(ids(2))
        assert terminal.end() == 0
    assert sandbox.customer_user_ids() == {"u2"}


def test_ids_that_are_typed_end_with_one_ctrl_d(sandbox: Sandbox) -> None:
    """A terminal is an input as well, and its end is not waited for again."""
    sandbox.seed_profiles(["u0", "u1"])
    with Terminal("delete", "-", "--format", "text", *V1, "--yes") as terminal:
        terminal.type("u0\n\x04")  # shorter than what shows the format
        assert terminal.end() == 0
    assert sandbox.customer_user_ids() == {"u1"}


def test_ids_that_are_typed_need_yes(sandbox: Sandbox) -> None:
    """An id that is typed is no answer to a question."""
    with Terminal("delete", "-", "--format", "text", *V1) as terminal:
        terminal.type("y\n\x04")
        assert terminal.end() == 2
    assert "There is no terminal to ask on: add --yes." in terminal.shown
    assert sandbox.arrivals() == []


def test_without_standard_input_there_is_no_terminal_to_ask_on(sandbox: Sandbox, put: Put) -> None:
    """A service whose standard input is closed gets the error that names the option."""
    command = [*COMMAND, "delete", put("ids.txt", ids(1)), *V1]
    ended = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert ended.returncode == 2
    assert "There is no terminal to ask on: add --yes. Delete 1 user in" in ended.stderr
    assert sandbox.arrivals() == []


def test_sandbox_runs_until_ctrl_c() -> None:
    """The sandbox prints its usage, verifies the webhook, responds, and exits cleanly."""
    os.environ["ADAPTY_WEBHOOK_SECRET"] = "Bearer s3cret"
    with (
        socket.create_server(("127.0.0.1", 0)) as webhook,
        started(
            *("sandbox", "--port", "0", "--rate", "100", "--latency", "1"),
            *("--webhook-url", f"http://127.0.0.1:{webhook.getsockname()[1]}/adapty"),
        ) as process,
    ):
        webhook.settimeout(DEADLINE)
        with webhook.accept()[0] as connection, connection.makefile("rb") as request:
            head = [*iter(request.readline, b"\r\n")]
            assert head[0] == b"POST /adapty HTTP/1.1\r\n"
            assert b"Authorization: Bearer s3cret\r\n" in head
            assert request.read(2) == b"{}"
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(9)]
        url = re.findall(r"http://[0-9.:]+[0-9]", lines[0])[0]
        assert lines[:3] == [
            f"Sandbox at {url}, until Ctrl-C.\n",
            f"Its page is {url}/. To use it:\n",
            "\n",
        ]
        assert max(map(len, lines)) <= 80  # with the line break
        keys = dict(line.removeprefix("export ").strip().split("=") for line in lines[3:])
        assert {keys[name] for name in keys if name.endswith("_URL")} == {url}
        assert sum(value.startswith("secret_") for value in keys.values()) == 2
        os.environ.update(keys)
        command = run("delete", "-", "--format", "text", *V1, "--yes", stdin=b"u1\n")
        assert command.returncode == 0, command.stderr
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, output, errors) == (0, b"", b"")


def test_sandbox_shows_a_webhook_that_is_not_delivered() -> None:
    """A service that is not there yet is named by the request that it does not get."""
    with (
        socket.create_server(("127.0.0.1", 0)) as nobody,
        started(
            *("sandbox", "--port", "0"),
            *("--webhook-url", f"http://127.0.0.1:{nobody.getsockname()[1]}/adapty"),
        ) as process,
    ):
        nobody.settimeout(DEADLINE)
        nobody.accept()[0].close()
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)

    message = "a webhook was not delivered: no response (the verification request, attempt 1)"
    assert re.fullmatch(rf"[\d:]{{8}} {re.escape(message)}\n", line)


def test_sandbox_starts_with_the_profiles_of_a_file(tmp_path: Path) -> None:
    """A strict sandbox with a seed file says how many profiles it added."""
    path = tmp_path / "seed.ndjson"
    path.write_text('"u1"\n{"customer_user_id": "u2"}\n')
    with started("sandbox", "--port", "0", "--seed-file", path, "--strict") as process:
        assert process.stdout is not None
        first, second = (process.stdout.readline().decode() for _ in range(2))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)

    assert first == f"2 profiles added from {path}.\n"
    assert second.startswith("Sandbox at http://")
