"""Systems without POSIX signals, modes and locks, simulated: what they lack is taken away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from adapty_async.cli._signals import handled
from tests.cli.conftest import Invoke, StartSandbox
from tests.cli.processes import DEADLINE, wait_for_arrivals

Put = Callable[[str, str | bytes], Path]

V1 = ("--api", "v1", "--by", "customer-user-id", "--yes", "--json")
WITHOUT = """
import asyncio.unix_events, os, signal, sys
sys.modules["uvloop"] = sys.modules["fcntl"] = None
del signal.SIGHUP, os.fchmod, os.O_NOFOLLOW, os.O_CLOEXEC, os.pread, os.pwrite, os.geteuid
def missing(*_): raise NotImplementedError
asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = missing
sys.argv[0] = "adapty-async"
from adapty_async.cli import main
main()
"""


class _Loop(asyncio.SelectorEventLoop):
    def add_signal_handler(self, *_: object) -> NoReturn:
        raise NotImplementedError


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command on a system that lacks what Windows lacks."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_signal_reaches_a_loop_that_takes_none() -> None:
    """A handler of Python's own calls the function in the loop, and is gone after the block."""
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> list[int]:
        seen: list[int] = []
        arrived = asyncio.Event()

        def handler(number: int) -> None:
            asyncio.get_running_loop()  # raises elsewhere
            seen.append(number)
            arrived.set()

        with handled(handler):
            os.kill(os.getpid(), signal.SIGTERM)
            await arrived.wait()
        return seen

    with asyncio.Runner(loop_factory=_Loop) as runner:
        assert runner.run(main()) == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_thread_other_than_the_main_one_leaves_signals_alone() -> None:
    """Python handles signals in the main thread only, so a command in another one runs without."""
    before = signal.getsignal(signal.SIGTERM)

    def run() -> bool:
        with handled(lambda _: None):
            return signal.getsignal(signal.SIGTERM) is before

    assert await asyncio.to_thread(run)


@pytest.mark.slow
def test_ctrl_c_stops_a_run_in_order(start_sandbox: StartSandbox, put: Put, tmp_path: Path) -> None:
    """Without signal handlers of the loop, Ctrl-C still ends a run with its report."""
    with start_sandbox(latency=0.05) as sandbox:
        path = put("ids.txt", "".join(f"u{number}\n" for number in range(5_000)))
        options = ("--concurrency", 8, "--failures", tmp_path / "f")
        with started("delete", path, *V1, *options) as process:
            wait_for_arrivals(sandbox, 20)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=DEADLINE)
        report = json.loads(output)
        assert (process.returncode, report["stop_reason"]) == (130, "stopped")
        assert b"Stopping: " in errors
        assert b"Traceback" not in errors
        assert report["absent"] == report["requests"] == len(sandbox.arrivals()) < 5_000


def test_a_journal_without_posix_is_rejected_in_one_line(
    start_sandbox: StartSandbox, put: Put, tmp_path: Path
) -> None:
    """A command that needs the locks of POSIX ends before anything is sent."""
    with start_sandbox() as sandbox:
        path = put("ids.txt", "a\n")
        with started("delete", path, *V1, "--journal", tmp_path / "journal") as process:
            output, errors = process.communicate(timeout=DEADLINE)
        assert (process.returncode, output) == (2, b"")
        assert errors.decode().splitlines() == [
            "adapty-async: a journal needs POSIX file locks, which this system does not have"
        ]
        assert sandbox.arrivals() == []


def test_a_job_in_a_file_needs_no_posix(
    start_sandbox: StartSandbox, put: Put, tmp_path: Path
) -> None:
    """The store of a job has no lock of POSIX: workers of one machine share it on any system."""
    store = ("--store", f"sqlite:///{tmp_path.as_posix()}/jobs.db")
    delete = ("--api", "v2", "--by", "customer-user-id", "--yes")
    with start_sandbox() as sandbox:
        sandbox.seed_profiles(["a", "b"])
        path = put("ids.txt", "a\nb\n")
        for command in (("plan", path, "--name", "j", *delete), ("work", "j")):
            with started("job", *command, *store) as process:
                _, errors = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, errors
        assert sandbox.customer_user_ids() == set()


def test_a_failures_file_without_modes_is_written(
    start_sandbox: StartSandbox,
    invoke: Invoke,
    put: Put,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where files have no mode to change, failures are written all the same."""
    monkeypatch.delattr(os, "fchmod")
    with start_sandbox():
        result = invoke("delete", put("ids.txt", " a\n"), *V1, "--failures", tmp_path / "f")
    assert result.exit_code == 1
    assert json.loads((tmp_path / "f").read_bytes())["item"] == " a"
