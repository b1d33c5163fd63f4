"""The commands of ``job``."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from adapty_async import AdaptyClient, v1
from adapty_async.bulk import BulkRun
from adapty_async.cli import _confirmation, _job_commands, _job_work
from adapty_async.cli._job_commands import cli
from adapty_async.cli._job_text import report_line, report_text
from adapty_async.errors import ConnectionLostError
from adapty_async.jobs import JobReport, JobStore, Lines, Parts
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport, Reply
from tests.cli.conftest import Invoke, StartSandbox
from tests.cli.processes import Terminal, started, wait_for_arrivals, wait_until
from tests.cli.processes import run as run_process
from tests.servers import OwnPostgres, fresh_database

Put = Callable[[str, str | bytes], Path]
_DELETE = ("--api", "v1", "--by", "customer-user-id")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(invoke: Invoke, path: Path, *options: Any, name: str = "j") -> Result:
    """Plan a deletion without a question."""
    return invoke("job", "plan", path, "--name", name, *_DELETE, "--yes", *options)


def run_in(stream: io.StringIO, *arguments: object) -> int | str | None:
    """Run a command in this process, whose output other threads can read meanwhile."""
    with (
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main([str(each) for each in arguments])
    return ended.value.code


def status(invoke: Invoke, *options: Any) -> dict[str, Any]:
    """Return the status as JSON."""
    found: dict[str, Any] = json.loads(invoke("job", "status", "j", "--json", *options).stdout)
    return found


def test_a_job_from_plan_to_forget(invoke: Invoke, put: Put, sandbox: Sandbox) -> None:
    """The commands plan a job, work on it, show it, and delete what is known of it."""
    sandbox.seed_profiles(["anna", "ben"])
    path = put("ids.csv", "name,customer_user_id\nx,anna\ny,ben\nz,carl\n")
    planned = plan(invoke, path, "--part-size", 2)
    assert planned.exit_code == 0, planned.output
    assert "Planned j: 3 ids in 2 parts. Nothing is sent until a worker starts" in planned.stdout
    assert f"job work j --store sqlite:///{path.parent}/adapty-jobs.db" in planned.stdout
    assert not sandbox.arrivals()
    before = status(invoke)
    assert (before["items"], before["counts"]["not_sent"], before["workers"]) == (3, 3, 0)

    worked = invoke("job", "work", "j")
    assert worked.exit_code == 0, worked.output
    assert "2 of 2 parts ended, 0 are running" in worked.stdout
    found = status(invoke)
    assert found["counts"] == {
        "done": 2,
        "absent": 1,
        "failed": 0,
        "unknown": 0,
        "not_sent": 0,
        "skipped": 0,
        "in_flight": 0,
    }
    assert found["ended"]
    assert found["rate"] is None
    assert found["parts"] == {"total": 2, "ended": 2, "running": 0, "changed": 0}
    outcomes = invoke("job", "outcomes", "j").stdout.splitlines()
    assert json.loads(outcomes[2]) == {"line": 4, "id": "carl", "status": "absent"}
    assert invoke("job", "failures", "j").stdout == ""

    refused = invoke("job", "forget", "j")
    assert refused.exit_code == 2
    assert "There is no terminal to ask on: add --yes" in refused.output
    assert invoke("job", "forget", "j", "--yes").stdout == "Forgot j.\n"
    assert "the store has no job j" in invoke("job", "status", "j").stderr


def test_a_job_whose_ids_are_not_there_asks_whether_they_are_right(
    invoke: Invoke, put: Put, sandbox: Sandbox
) -> None:
    """Absent ids are done, and those of another kind are always absent, so a job warns of them."""
    sandbox.seed_profiles(["anna"])
    plan(invoke, put("ids.txt", "anna@example.com\n"))
    plan(invoke, put("more.txt", "anna\nanna@example.com\n"), name="k")

    none, some = invoke("job", "work", "j"), invoke("job", "work", "k")
    assert (none.exit_code, some.exit_code) == (0, 0)
    assert "Not one of them was there: check --by, and how the ids are written." in none.stdout
    assert "More than a tenth of them were not there" in some.stdout


def test_failures_can_be_an_input(invoke: Invoke, put: Put, sandbox: Sandbox) -> None:
    """What failed is listed with its id, and can be planned again."""
    path = put("ids.ndjson", '{"id": "anna"}\n{"id": "b\u00e9a"}\n{]\n{"id": " c"}\n')
    plan(invoke, path, "--column", "id")
    worked = invoke("job", "work", "j")
    assert worked.exit_code == 1
    assert "failed" in worked.stdout
    listed = invoke("job", "failures", "j").stdout
    assert [json.loads(line) for line in listed.splitlines()] == [
        {
            "line": 2,
            "item": "b\u00e9a",
            "status": "failed",
            "attempts": None,
            "error": {
                "type": "InvalidInputError",
                "field_name": "customer_user_id",
                "rule": 'must be ASCII, unless id_encoding is "utf-8" (--id-encoding utf-8)',
            },
        },
        {
            "line": 3,
            "item": "",
            "status": "failed",
            "attempts": None,
            "error": {
                "type": "InvalidInputError",
                "field_name": "row",
                "rule": "cannot be read",
            },
        },
        {
            "line": 4,
            "item": " c",
            "status": "failed",
            "attempts": None,
            "error": {
                "type": "InvalidInputError",
                "field_name": "customer_user_id",
                "rule": "must not begin or end with a blank",
            },
        },
    ]
    retried = invoke("job", "retry", "j")
    assert retried.stdout == "1 part is open now; next: adapty-async job work j\n"
    assert invoke("job", "work", "j", "--id-encoding", "utf-8").exit_code == 1
    again = put("failures.ndjson", listed)
    assert plan(invoke, again, name="again").exit_code == 0
    encoded = invoke("job", "work", "again", "--id-encoding", "utf-8", "--json")
    assert json.loads(encoded.stdout)["counts"]["absent"] == 1


def test_a_plan_asks_on_a_terminal_only(invoke: Invoke, put: Put, sandbox: Sandbox) -> None:
    """Without a terminal, a plan needs --yes, and shows what it is about to do."""
    path = put("ids.txt", "anna\nben\n")
    refused = invoke("job", "plan", path, "--name", "j", *_DELETE)
    assert refused.exit_code == 2
    assert "add --yes. Plan to delete 2 users in" in refused.output
    ends = 'first id "anna", last id "ben"'
    assert f"({ends}), by customer-user-id, at {sandbox.url}?" in refused.output
    assert plan(invoke, path).exit_code == 0
    again = invoke("job", "plan", path, "--name", "j", *_DELETE)  # it is planned already
    assert again.exit_code == 0
    empty = put("empty.txt", "\n")
    nothing = invoke("job", "plan", empty, "--name", "nothing", *_DELETE)
    assert "Planned nothing: 0 ids in 0 parts" in nothing.stdout


def test_a_plan_is_of_version_2_and_not_of_another_than_before(
    invoke: Invoke, put: Put, sandbox: Sandbox
) -> None:
    """Without --api a plan is of version 2; a job that was planned for another API is rejected."""
    path = put("ids.txt", "anna\n")
    by = ("--by", "customer-user-id", "--yes")
    assert invoke("job", "plan", path, "--name", "new", *by).exit_code == 0
    report = json.loads(invoke("job", "status", "new", "--json").stdout)
    assert report["operation"].startswith("v2.profiles.delete")
    assert invoke("job", "plan", path, "--name", "old", "--api", "v1", *by).exit_code == 0
    refused = invoke("job", "plan", path, "--name", "old", *by)
    assert refused.exit_code == 2
    assert "operation: v1.profiles.delete" in refused.stderr


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_plan_on_a_terminal(
    put: Put,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    invoke: Invoke,
    answer: str,
    code: int,
) -> None:
    """On a terminal, the answer decides."""
    monkeypatch.setattr(_confirmation, "is_terminal", lambda: True)
    path = put("ids.txt", "anna\n")
    command = ["job", "plan", str(path), "--name", "j", *_DELETE]
    done = CliRunner().invoke(_job_commands.cli, command, input=f"{answer}\n")
    assert done.exit_code == code
    assert "Plan to delete 1 user in" in done.stderr
    assert ("Nothing was planned." in done.stderr) == bool(code)
    assert path.with_name("adapty-jobs.db").exists() != bool(code)
    if not code:
        forget = ["job", "forget", "j"]
        kept = CliRunner().invoke(_job_commands.cli, forget, input="n\n")
        assert (kept.exit_code, kept.stderr[-23:]) == (1, "Nothing was forgotten.\n")
        assert CliRunner().invoke(_job_commands.cli, forget, input="y\n").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--api", "mail", "--by", "profile-id"), "--by for --api mail is one of"),
        ((*_DELETE, "--encoding", "none"), "'none' is unknown"),
        ((*_DELETE, "--store", "mysql://x"), "begins with postgresql:// or sqlite:///"),
        ((*_DELETE, "--column", "x", "--format", "csv"), 'has no column "x"; found: '),
    ],
    ids=["by", "encoding", "store", "column"],
)
def test_bad_options_are_rejected(
    invoke: Invoke, put: Put, sandbox: Sandbox, arguments: tuple[str, ...], message: str
) -> None:
    """The message names the option or the file."""
    path = put("ids.txt", "anna\n")
    done = invoke("job", "plan", path, "--name", "j", "--yes", *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_a_store_is_required_elsewhere(invoke: Invoke) -> None:
    """In a folder without a store, its address is needed."""
    done = invoke("job", "status", "j")
    assert done.exit_code == 2
    assert "--store: is required: there is no adapty-jobs.db here" in done.stderr


@pytest.mark.parametrize("command", ["work", "status", "failures", "cancel", "retry"])
def test_a_store_that_is_misspelt_is_not_created(
    command: str, invoke: Invoke, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Only a plan makes a store."""
    done = invoke("job", command, "j", "--store", f"sqlite:///{tmp_path}/no%20jobs.db")

    assert done.exit_code == 2
    assert done.stderr == f"adapty-async: --store: there is no file {tmp_path}/no jobs.db\n"
    assert not list(tmp_path.iterdir())
    assert not sandbox.arrivals()


def test_the_store_comes_from_the_environment(
    invoke: Invoke, put: Put, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ADAPTY_STORE_URL is the address for all commands."""
    monkeypatch.setenv("ADAPTY_STORE_URL", f"sqlite:///{tmp_path}/other.db")
    planned = plan(invoke, put("ids.txt", "anna\n"))
    assert planned.stdout.endswith("adapty-async job work j\n")
    assert (tmp_path / "other.db").exists()


@pytest.mark.parametrize("api", ["v2", "mail"])
def test_each_api_has_jobs(invoke: Invoke, put: Put, sandbox: Sandbox, api: str) -> None:
    """A worker calls the API that the job was planned for."""
    path = put("ids.txt", "anna\n")
    options = ("--api", api, "--by", "customer-user-id")
    assert invoke("job", "plan", path, "--name", "j", "--yes", *options).exit_code == 0
    assert invoke("job", "work", "j").exit_code == 0
    assert status(invoke)["operation"] == f"{api}.profiles.delete by customer_user_id"


def test_a_changed_input_is_rejected(invoke: Invoke, put: Put, sandbox: Sandbox) -> None:
    """Nothing is sent for a part whose input has changed; a copy elsewhere can be named."""
    path = put("ids.txt", "anna\n")
    plan(invoke, path)
    put("ids.txt", "ben\n")
    done = invoke("job", "work", "j")
    assert done.exit_code == 2
    assert "the input of 1 part has changed since the job was planned" in done.stderr
    assert "1 part waits: its input has changed since it was planned" in done.stdout
    assert not sandbox.arrivals()
    invoke("job", "retry", "j")
    copied = put("copy.txt", "anna\n")
    assert invoke("job", "work", "j", "--input", copied).exit_code == 0
    assert "anna" in invoke("job", "outcomes", "j", "--input", copied).stdout
    assert invoke("job", "outcomes", "j").exit_code == 2


def test_a_rejected_key_has_its_exit_code(
    invoke: Invoke, put: Put, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key stops the job, and retry resumes it."""
    monkeypatch.setenv("ADAPTY_API_KEY", "wrong")
    plan(invoke, put("ids.txt", "".join(f"user_{number}\n" for number in range(50))))
    done = invoke("job", "work", "j", "--concurrency", 2, "--rate", 1000)
    assert done.exit_code == 3
    assert "has stopped: key_rejected" in done.stderr
    assert "stopped: key_rejected; to resume it: adapty-async job retry j\n" in done.stdout
    assert re.search(r"over all runs:\n  \d ", done.stdout)
    assert "status 401" in done.stdout
    assert status(invoke)["reasons"][0]["error"] == "AuthenticationError"
    assert invoke("job", "work", "j").exit_code == 3


def test_a_cancelled_job_is_resumable(invoke: Invoke, put: Put, sandbox: Sandbox) -> None:
    """Workers of a cancelled job stop with the code of a job that can be resumed."""
    plan(invoke, put("ids.txt", "anna\n"))
    assert "Cancelled j" in invoke("job", "cancel", "j").stdout
    stopped = invoke("job", "work", "j")
    assert stopped.exit_code == 75
    text = "has stopped: cancelled; to resume it: adapty-async job retry j\n"
    assert stopped.stderr.endswith(text)
    assert "cancelled" in invoke("job", "status", "j", "--watch").stdout
    assert invoke("job", "retry", "j").exit_code == 0
    assert invoke("job", "work", "j").exit_code == 0


@pytest.mark.usefixtures("sandbox")
def test_a_job_without_failed_items_has_nothing_to_retry(invoke: Invoke, put: Put) -> None:
    """The message names no next command, which would do nothing."""
    plan(invoke, put("ids.txt", "anna\n"))
    invoke("job", "work", "j")

    assert invoke("job", "retry", "j").stdout == "j has ended: no item is left to send again.\n"


def test_a_job_that_has_ended_cannot_be_cancelled(
    invoke: Invoke, put: Put, sandbox: Sandbox
) -> None:
    """A cancellation that comes too late does not make workers fail again and again."""
    plan(invoke, put("ids.txt", "anna\n"))
    assert invoke("job", "work", "j").exit_code == 0
    text = "j has ended already: nothing is left to cancel.\n"
    assert invoke("job", "cancel", "j").stdout == text
    assert invoke("job", "work", "j").exit_code == 0
    assert "stopped" not in invoke("job", "status", "j").stdout
    assert json.loads(invoke("job", "status", "j", "--json").stdout)["stop_reason"] is None


def test_a_key_file_and_a_proxy(
    invoke: Invoke, put: Put, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key may come from a file, and the proxy of the environment is used on demand."""
    key = put("key", sandbox.api_key)
    key.chmod(0o600)
    monkeypatch.delenv("ADAPTY_API_KEY")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    options = ("--api-key-file", key, "--trust-env")
    assert plan(invoke, put("ids.txt", "anna\n"), *options).exit_code == 0
    assert invoke("job", "work", "j", *options).exit_code == 0


def test_a_worker_drains_on_sigterm(
    put: Put, start_sandbox: StartSandbox, invoke: Invoke, tmp_path: Path
) -> None:
    """SIGTERM ends a worker with the code of a job that can be resumed; another one ends it."""
    with start_sandbox(latency=1.0) as slow:
        plan(invoke, put("ids.txt", "".join(f"user_{number}\n" for number in range(400))))
        with started("job", "work", "j", "--concurrency", 2) as worker:
            wait_for_arrivals(slow, 1)
            worker.send_signal(signal.SIGTERM)
            output, error = worker.communicate()
        assert worker.returncode == 75
        assert re.search(rb"Stopping: [12] requests? in flight ha(ve|s) 5 s to finish", error)
        assert b"not sent yet" in output
        report = status(invoke)
        assert report["counts"]["in_flight"] == 0
        assert report["counts"]["absent"] == len(slow.arrivals())
        with started("job", "work", "j", "--concurrency", 2) as other:
            wait_for_arrivals(slow, len(slow.arrivals()) + 1)
            found = status(invoke)
            assert (found["workers"], found["parts"]["running"]) == (1, 1)
            for _ in range(2):
                other.send_signal(signal.SIGINT)
            other.communicate()
        assert other.returncode == 75


def test_a_signal_drains_a_worker(
    put: Put, start_sandbox: StartSandbox, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker in this process reports its progress, and stops at a signal."""
    monkeypatch.setattr(_job_work, "_LINE_SECONDS", 0.01)
    with start_sandbox(latency=0.1) as slow:
        plan(invoke, put("ids.txt", "".join(f"user_{number}\n" for number in range(600))))

        def signalled(shown: io.StringIO, numbers: tuple[int, ...]) -> None:
            wait_for_arrivals(slow, len(slow.arrivals()) + 2)
            wait_until(lambda: "of 600 ended, 1 worker" in shown.getvalue())
            for number in numbers:
                os.kill(os.getpid(), number)

        for numbers in ((signal.SIGTERM,), (signal.SIGTERM, signal.SIGINT)):
            shown = io.StringIO()
            killer = threading.Thread(target=signalled, args=(shown, numbers))
            killer.start()
            assert run_in(shown, "job", "work", "j", "--concurrency", 1) == 75
            killer.join()
        with started("job", "work", "j", "--concurrency", 2):
            wait_for_arrivals(slow, len(slow.arrivals()) + 5)
            watched = invoke("job", "status", "j")
            assert "1 worker" in watched.stdout


async def work_on_creations(store: str, path: Path) -> None:
    """Plan a job of a program and work on it: the response to its first request is lost."""
    replies: list[Reply] = [ConnectionLostError("gone"), (200, {}, b'{"profile_id":"x"}')]
    async with (
        JobStore(store) as opened,
        AdaptyClient("key", transport=FakeTransport(replies)) as adapty,
    ):

        def create(ids: Any, /, *, by: Any, **options: Any) -> BulkRun[Any, Any]:
            return adapty.bulk(
                ids, build=lambda one: v1.create_profile(**{by: one}), name="create", **options
            )

        job = await opened.plan("j", create, Lines(path), by="customer_user_id")
        await job.work(concurrency=1)


def test_failures_have_what_may_have_been_done(invoke: Invoke, put: Put, tmp_path: Path) -> None:
    """An item whose outcome is unknown is not done for certain, so it is listed."""
    asyncio.run(work_on_creations(f"sqlite:///{tmp_path}/adapty-jobs.db", put("ids.txt", "a\nb\n")))
    listed = invoke("job", "failures", "j").stdout

    assert [json.loads(line) for line in listed.splitlines()] == [
        {"line": 1, "item": "a", "status": "unknown", "attempts": None, "error": None}
    ]


def test_a_journal_is_no_store(invoke: Invoke, put: Put, sandbox: Sandbox, tmp_path: Path) -> None:
    """A journal with the tables of a store could not be read any more, nor its run be resumed."""
    path, journal = put("ids.txt", "anna\n"), tmp_path / "run.db"
    assert invoke("delete", path, *_DELETE, "--yes", "--journal", journal).exit_code == 0
    before = journal.read_bytes()
    store = ("--store", f"sqlite:///{journal}")
    for result in (plan(invoke, path, *store), invoke("job", "status", "j", *store)):
        assert result.exit_code == 2
        assert (
            f"the job store {journal} cannot be used: it is the journal of a run" in result.stderr
        )

    assert journal.read_bytes() == before
    assert invoke("status", journal).exit_code == 0


def test_the_concurrency_of_a_worker_may_be_above_its_clients_own(
    put: Put, start_sandbox: StartSandbox, invoke: Invoke
) -> None:
    """As many requests are in flight as was asked for, also more than a client's connections."""
    with start_sandbox(faults="stall=100%") as sandbox:
        plan(invoke, put("ids.txt", "".join(f"user_{number}\n" for number in range(300))))
        options = ("--parts", 1, "--concurrency", 300, "--rate", 1000)
        with started("job", "work", "j", *options):
            wait_for_arrivals(sandbox, 300)
        arrivals = sandbox.arrivals()
    assert len({arrival.identity for arrival in arrivals}) == 300
    assert arrivals[-1].at - arrivals[0].at < 30  # before the first one was given up


def test_a_second_signal_does_not_wait_for_responses(
    put: Put, start_sandbox: StartSandbox, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker cancels requests without a response, and the job can be resumed."""
    monkeypatch.setattr(_job_commands, "DRAIN_SECONDS", 1000)
    shown = io.StringIO()
    with start_sandbox(faults="stall=100%") as sandbox:
        plan(invoke, put("ids.txt", "anna\nben\n"))

        def interrupt() -> None:
            wait_for_arrivals(sandbox, 2)
            os.kill(os.getpid(), signal.SIGINT)
            wait_until(lambda: "Stopping" in shown.getvalue())
            os.kill(os.getpid(), signal.SIGINT)

        killer = threading.Thread(target=interrupt)
        killer.start()
        began = time.monotonic()
        assert run_in(shown, "job", "work", "j") == 75
        killer.join()
    assert time.monotonic() - began < 25  # before the requests would time out


def test_a_watched_job_is_shown_until_it_ends(
    put: Put, sandbox: Sandbox, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line in intervals shows how far it is, and the report its end."""
    monkeypatch.setattr(_job_commands, "_WATCH_SECONDS", 0.01)
    shown = io.StringIO()
    plan(invoke, put("ids.txt", "anna\nb\u00e9a\n"), "--part-size", 1)

    def work() -> None:
        wait_until(lambda: "ended" in shown.getvalue())
        run_process("job", "work", "j")

    worker = threading.Thread(target=work)
    worker.start()
    assert run_in(shown, "job", "status", "j", "--watch") == 0
    worker.join()
    assert shown.getvalue().startswith("j: 0 of 2 ended, 0 workers\n")
    assert "2 of 2 parts ended" in shown.getvalue()


def test_a_job_is_watched_through_an_outage_of_its_store(
    put: Put, sandbox: Sandbox, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines name the cause and the next attempt; only what does not heal ends the command."""
    monkeypatch.setattr(_job_commands, "_WATCH_SECONDS", 0.01)
    with OwnPostgres() as own:
        plan(invoke, put("ids.txt", "anna\n"), "--store", own.url)
        shown = io.StringIO()

        def disturb() -> None:
            wait_until(lambda: "j: 0 of 1 ended" in shown.getvalue())
            own.kill()
            wait_until(lambda: "the next attempt is in 0.04 s" in shown.getvalue())
            own.start()
            before = shown.getvalue().count("j: 0 of 1 ended")
            wait_until(lambda: shown.getvalue().count("j: 0 of 1 ended") > before)
            asyncio.run(forget())  # not as a command, whose streams would replace those above

        async def forget() -> None:
            async with JobStore(own.url) as store:
                await (await store.job("j")).forget()

        other = threading.Thread(target=disturb)
        other.start()
        assert run_in(shown, "job", "status", "j", "--watch", "--store", own.url) == 2
        other.join()
    assert "\nj: the job store cannot be reached: " in shown.getvalue()
    assert "; the next attempt is in 0.02 s\n" in shown.getvalue()
    assert shown.getvalue().endswith("\nadapty-async: the job j was forgotten\n")


@pytest.mark.parametrize("command", [["status", "--watch"], ["status"], ["outcomes"]])
def test_ctrl_c_ends_a_command_whose_store_does_not_respond_at_once(command: list[str]) -> None:
    """A command that only reads waits for nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/jobs?connect_timeout=60"
        with started("job", *command, "j", "--store", store) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=50)  # before the connection is given up
            connection.close()
    assert (process.returncode, error) == (130, b"\nInterrupted.\n")


async def test_a_line_of_progress_has_what_failed() -> None:
    """The progress counts items that failed or are unknown."""
    parts = Parts(total=3, ended=1, running=2, changed=0)
    report = JobReport(
        name="j",
        operation="x",
        items=10,
        done=4,
        absent=0,
        failed=1,
        unknown=1,
        not_sent=2,
        skipped=0,
        in_flight=2,
        requests=6,
        throttled=1,
        reasons={("Error", 0): 1, ("Other", 500): 1},
        parts=parts,
        workers=2,
        rate=3.0,
        limit=400.0,
        planned_at=0.0,
        stop_reason=None,
    )
    assert report_line(report) == "j: 6 of 10 ended, 2 workers, 3/s, limit 400/s, 2 failed"
    assert report_text(report, "").splitlines()[-5:] == [
        "2 workers, 3/s in the last minute, limit 400/s",
        "6 requests, 1 of them throttled (429)",
        "Why ids were not done, over all runs:",
        "  1 Error",
        "  1 Other, status 500",
    ]


def test_an_output_that_is_full_is_reported(
    put: Put, sandbox: Sandbox, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output is all that some commands are for; the exit code of a worker stays."""
    plan(invoke, put("ids.txt", "NULL\n"))
    monkeypatch.setenv("ADAPTY_STORE_URL", f"sqlite:///{tmp_path}/adapty-jobs.db")
    monkeypatch.chdir(Path(__file__).parents[2])  # there is no store
    for command, code in (("status", 1), ("outcomes", 1), ("work", 0)):
        with (
            Path("/dev/full").open("wb") as full,
            started("job", command, "j", stdout=full) as process,
        ):
            process.wait()
        assert process.returncode == code


@pytest.mark.parametrize(("setting", "shown"), [("", "adapty-async: away\n"), ("warning", "")])
def test_warnings_are_shown_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    shown: str,
) -> None:
    """A worker shows them as its own messages, unless the environment asks for a log."""
    monkeypatch.setenv("ADAPTY_ASYNC_LOG", setting)
    with _job_work._warnings_shown():
        _job_work.logger.warning("%s", "away")
    assert capsys.readouterr().err == shown


def test_a_store_that_goes_away_ends_a_worker(
    put: Put, start_sandbox: StartSandbox, invoke: Invoke, postgres_url: str
) -> None:
    """A worker that loses its store says so, and gives up after a time: the job is resumable."""
    with fresh_database(postgres_url) as url, start_sandbox(latency=0.05) as slow:
        path = put("ids.txt", "".join(f"user_{number}\n" for number in range(600)))
        plan(invoke, path, "--store", url)

        def renamed() -> None:
            wait_for_arrivals(slow, 3)
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                name = urllib.parse.urlsplit(url).path[1:]
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    (name,),
                )

        thief = threading.Thread(target=renamed)
        thief.start()
        options = ("--concurrency", 1, "--max-outage", 1)
        done = invoke("job", "work", "j", "--store", url, *options)
        thief.join()
    assert done.exit_code == 75
    assert "the job store cannot be reached" in done.stderr
    assert "; this worker tries again for 1 s" in done.stderr
    assert not done.stdout


def test_a_store_that_is_away_ends_a_worker(invoke: Invoke, sandbox: Sandbox) -> None:
    """A worker that starts while its store is down can be started again; nothing else can."""
    away = "postgresql://127.0.0.1:1/x"
    assert invoke("job", "work", "j", "--store", away).exit_code == 75
    assert invoke("job", "status", "j", "--store", away).exit_code == 2


def test_a_report_fits_into_a_narrow_terminal(invoke: Invoke, put: Put, sandbox: Sandbox) -> None:
    """Lines break at blanks: a number that is in two lines is read as another one."""
    sandbox.seed_profiles(f"u{number}" for number in range(1000))
    plan(invoke, put("ids.txt", "".join(f"u{number}\n" for number in range(1000))))
    with Terminal("job", "work", "j", columns=20) as terminal:
        assert terminal.end() == 0
    with Terminal("job", "status", "j", "--watch", columns=20) as again:
        assert again.end() == 0

    for shown in (terminal.shown, again.shown):
        lines = shown.splitlines()
        assert "    1,000" in lines
        assert max(map(len, lines)) <= 20
