"""Shared parts of command-line tests: a sandbox next to the test, and ways to run a command."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from click.testing import CliRunner, Result

from adapty_async.cli._job_commands import cli
from adapty_async.sandbox import Sandbox

Invoke: TypeAlias = Callable[..., Result]
StartSandbox: TypeAlias = Callable[..., AbstractContextManager[Sandbox]]

# An id that would clear a terminal, set its title and turn the text around.
HOSTILE = 'u\x1b[2J\x9b2J\x1b]0;x\x07\u202e"\\'

_STARTED_WITHIN = 50  # seconds, below the time that pytest gives a test


@contextlib.contextmanager
def in_a_thread(**options: Any) -> Iterator[Sandbox]:
    """Run a sandbox on a loop of its own: a command blocks the one who calls it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    sandbox = Sandbox(**options)
    try:
        asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result(_STARTED_WITHIN)
        try:
            yield sandbox
        finally:
            asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result(_STARTED_WITHIN)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def start_sandbox(monkeypatch: pytest.MonkeyPatch) -> StartSandbox:
    """Return a way to start a sandbox that the environment then points to, keys included."""

    @contextlib.contextmanager
    def start(**options: Any) -> Iterator[Sandbox]:
        with in_a_thread(**options) as sandbox:
            monkeypatch.setenv("ADAPTY_BASE_URL", sandbox.url)
            monkeypatch.setenv("ADAPTY_API_KEY", sandbox.api_key)
            monkeypatch.setenv("ADAPTY_MAIL_BASE_URL", sandbox.url)
            monkeypatch.setenv("ADAPTY_MAIL_API_KEY", sandbox.mail_api_key)
            monkeypatch.setenv("ADAPTY_EXPORT_BASE_URL", sandbox.url)
            yield sandbox

    return start


@pytest.fixture
def sandbox(start_sandbox: StartSandbox) -> Iterator[Sandbox]:
    """Run a sandbox without limits and faults; the environment points to it."""
    with start_sandbox() as running:
        yield running


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADAPTY_API_KEY", "ADAPTY_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.replace("ADAPTY_", "ADAPTY_MAIL_"), raising=False)
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _can_be_interrupted() -> Iterator[None]:
    """Let signals reach processes of a test, although a shell or nohup may have it ignore them."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hang_up)


@pytest.fixture
def invoke() -> Invoke:
    """Return a way to run a command in this process; what it does not catch fails the test."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)

    return run


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Return a way to write an input file."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
