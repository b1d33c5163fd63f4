"""The command line as real processes, with pipes or with a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from adapty_async.sandbox import Sandbox

COMMAND = (sys.executable, "-m", "adapty_async.cli")
DEADLINE = 100.0  # before pytest ends the test, which would not say what was waited for
_STEP = 0.01


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with pipes."""
    ended = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    return subprocess.CompletedProcess(
        ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
    )


@contextlib.contextmanager
def started(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command with pipes; whatever happens, it does not outlive the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], **{**pipes, **options})
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as a condition holds; fail when it has not for too long."""
    give_up = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        select.select((), (), (), _STEP)


def wait_for_arrivals(sandbox: Sandbox, count: int) -> None:
    """Return as soon as *n* requests have reached the sandbox."""
    wait_until(lambda: len(sandbox.arrivals()) >= count)


class Terminal:
    """A command whose three streams are a terminal."""

    def __init__(self, *arguments: object, columns: int | None = None) -> None:
        self._here, there = pty.openpty()
        environment = {**os.environ, "TERM": "xterm"}
        for size in ("COLUMNS", "LINES"):  # set, they would hide the size of the terminal
            environment.pop(size, None)
        if columns is None:
            environment |= {"COLUMNS": "120", "LINES": "40"}
        else:
            self.resize(columns)
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=there,
            stdout=there,
            stderr=there,
            env=environment,
            start_new_session=True,
        )
        os.close(there)
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._here)

    def wait_for(self, text: str) -> None:
        """Read until a text was shown."""
        give_up = time.monotonic() + DEADLINE
        while text not in self.shown:
            assert time.monotonic() < give_up, self.shown
            assert self._read(), self.shown

    def wait_for_more(self, text: str) -> None:
        """Read until a text was shown after what was shown so far."""
        before = self.shown
        self.shown = ""
        try:
            self.wait_for(text)
        finally:
            self.shown = before + self.shown

    def resize(self, columns: int) -> None:
        """Change the width; the system then sends SIGWINCH to the processes of the terminal."""
        fcntl.ioctl(self._here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._here, text.encode())

    def interrupt(self, *, until: str | None = None) -> None:
        """
        Send what Ctrl-C sends; again if a text is not shown soon, as people do.

        Between showing a prompt and waiting for its answer Python keeps a signal to itself.
        """
        give_up = time.monotonic() + DEADLINE
        self.process.send_signal(signal.SIGINT)
        again = time.monotonic() + 1
        while until is not None and until not in self.shown:
            assert time.monotonic() < give_up, self.shown
            if time.monotonic() > again:
                self.process.send_signal(signal.SIGINT)
                again += 1
            assert self._read(), self.shown

    def end(self) -> int:
        """Read to the end and return the exit code."""
        give_up = time.monotonic() + DEADLINE
        while self._read():
            assert time.monotonic() < give_up, self.shown
        return self.process.wait(DEADLINE)

    def _read(self) -> bool:
        if select.select((self._here,), (), (), _STEP)[0]:
            try:
                more = os.read(self._here, 65536)
            except OSError:  # the other side is closed
                return False
            self.shown += more.decode(errors="replace")
            return bool(more)
        return True
