"""The way in: what happens before there is a command, and without what a command needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async._version import __version__
from tests.cli.conftest import Invoke
from tests.cli.processes import COMMAND, DEADLINE, run


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run some code in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False
    )


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_extra_is_reported(missing: str) -> None:
    """Without click or rich the command says what to install."""
    ended = python(
        f"""
import sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent)
from adapty_async.cli import main
main()
"""
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "The command line needs more than the library: pip install 'adapty-async[cli]'\n"
    )


def test_other_missing_module_is_a_defect() -> None:
    """A module that is missing for another reason is not blamed on the extra."""
    ended = python(
        "import sys; sys.modules['adapty_async.cli._progress'] = None\n"
        "from adapty_async.cli import main\nmain()"
    )
    assert ended.returncode == 1
    assert "ModuleNotFoundError" in ended.stderr


@pytest.mark.parametrize("module", ["adapty_async", "adapty_async.errors", "click", "rich"])
def test_ctrl_c_while_modules_are_imported_is_an_exit_code(module: str) -> None:
    """An interrupt before there is a command leaves no traceback."""
    ended = python(
        f"""
import os, signal, sys
from _adapty_async_cli import main

class Interrupting:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting)
main()
"""
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_package_is_a_command() -> None:
    """The module can be run, and calls itself by the command's name."""
    ended = run("--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"adapty-async, version {__version__}\n"


def test_closed_streams_are_survived() -> None:
    """A process with all standard streams closed does its work; no file gets their numbers."""
    command = " ".join(COMMAND) + " delete {} --api v1 --by profile-id --format text --dry-run"
    for source, code in ((os.devnull, 0), ("-", 2)):
        line = f"{command.format(source)} <&- >&- 2>&-"
        ended = subprocess.run(["/bin/sh", "-c", line], timeout=DEADLINE, check=False)
        assert ended.returncode == code


def test_uvloop_is_optional(
    invoke: Invoke, put: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without uvloop a command runs on asyncio's own loop."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    ids = put("ids.txt", "u1\n")
    result = invoke("delete", ids, "--api", "v1", "--by", "profile-id", "--dry-run")
    assert result.exit_code == 0


@pytest.mark.parametrize("command", ["demo", "delete", "save", "sandbox"])
def test_every_command_has_help(invoke: Invoke, command: str) -> None:
    """Each command explains itself and each of its options."""
    result = invoke(command, "-h")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
