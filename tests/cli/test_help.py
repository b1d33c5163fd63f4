"""The help of commands, their examples, and the completion of shells."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from adapty_async.cli._job_commands import cli

_PROGRAM = "adapty-async"
# The files that the examples name.
_FILES = ("ids.csv", "ids.txt", "people.csv", "profiles.csv", "run.db", "run.ndjson")


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of each command and each group."""
    yield path
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


_PATHS = [pytest.param(path, id=" ".join(path) or _PROGRAM) for path in commands(cli)]


def help_of(path: tuple[str, ...]) -> str:
    """Return the help of a command."""
    result = CliRunner().invoke(cli, [*path, "--help"], prog_name=_PROGRAM)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_lists_of_commands_are_not_truncated() -> None:
    """In 80 columns, each command has a whole sentence in the list of its group."""
    groups = [path for path in commands(cli) if isinstance(command_of(path), click.Group)]
    lines = [line for path in groups for line in help_of(path).splitlines()]

    assert len(groups) == 3
    assert [line for line in lines if re.search(r"[^\]]\.\.\.$", line)] == []


def command_of(path: tuple[str, ...]) -> click.Command:
    """Return the command of a path."""
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


def parse(arguments: list[str]) -> None:
    """Parse a command line with the parser of its command, and run nothing."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    # a command keeps the names of its help option, which the context of its group has
    command.make_context(command.name, arguments, parent=click.Context(cli, **cli.context_settings))


@pytest.mark.parametrize("path", _PATHS)
def test_each_command_has_an_example_that_it_understands(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command shows examples of itself, on one line each, with options that exist."""
    monkeypatch.chdir(tmp_path)
    for name in _FILES:
        (tmp_path / name).touch()
    shown = [line for line in help_of(path).splitlines() if line.startswith(f"    {_PROGRAM} ")]

    assert shown
    for line in shown:
        assert len(line) <= 100
        program, *arguments = shlex.split(line)
        assert program == _PROGRAM
        assert tuple(arguments[: len(path)]) == path
        parse(arguments)


@pytest.mark.parametrize(
    ("shell", "words", "number", "found"),
    [
        pytest.param("bash", "adapty-async ", 1, "plain,delete", id="commands"),
        pytest.param("bash", "adapty-async job ", 2, "plain,work", id="subcommands"),
        pytest.param("bash", "adapty-async delete --ap", 2, "plain,--api", id="options"),
        pytest.param("bash", "adapty-async delete --api ", 3, "plain,v2", id="values"),
        pytest.param("bash", "adapty-async delete ids", 2, "file,ids", id="an input"),
        pytest.param("bash", "adapty-async status run", 2, "file,run", id="a journal"),
        pytest.param("bash", "adapty-async report x --check i", 4, "file,i", id="a list"),
        pytest.param("zsh", "adapty-async delete --api ", 3, "plain\nv2\n_", id="zsh"),
        pytest.param("fish", "adapty-async delete --api ", 3, "plain,v2", id="fish"),
    ],
)
def test_completion(shell: str, words: str, number: int, found: str) -> None:
    """Commands, options, their values and file names are completed, as each shell asks for them."""
    incomplete = words.rpartition(" ")[2]
    cursor = incomplete if shell == "fish" else str(number)
    environment = {
        "_ADAPTY_ASYNC_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words.strip(),
        "COMP_CWORD": cursor,
    }
    result = CliRunner().invoke(cli, [], prog_name=_PROGRAM, env=environment)

    assert result.exit_code == 0, result.output
    assert found in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str) -> None:
    """The printed script is the one of the shell, for this program."""
    result = CliRunner().invoke(cli, ["completion", shell], prog_name=_PROGRAM)

    assert result.exit_code == 0, result.output
    assert f"_ADAPTY_ASYNC_COMPLETE={shell}_complete" in result.stdout
    shell_path = shutil.which(shell)
    if shell_path is not None:  # its own parser accepts it
        subprocess.run([shell_path, "-n"], input=result.stdout.encode(), check=True, timeout=50)


_COMPLETE = """
eval "$SCRIPT"
COMP_WORDS=(adapty-async delete ids.csv --b) COMP_CWORD=3
_adapty_async_completion "$PROGRAM"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not there")
def test_bash_completes(tmp_path: Path) -> None:
    """Bash with the script completes an option of a real process of the program."""
    program = tmp_path / _PROGRAM
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m adapty_async.cli "$@"\n')
    program.chmod(0o700)
    script = CliRunner().invoke(cli, ["completion", "bash"], prog_name=_PROGRAM).stdout
    ended = subprocess.run(
        ["bash", "-c", _COMPLETE],
        env={**os.environ, "SCRIPT": script, "PROGRAM": str(program)},
        capture_output=True,
        timeout=50,
        check=True,
    )

    assert ended.stdout.decode().split() == ["--base-url", "--by"]
