"""The parts of commands that help a reader: their examples, and completion of file names."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

__all__ = ("complete_file", "examples")


def examples(*commands: str) -> str:
    """
    Return the examples at the end of a command's help.

    Args:
        commands: commands with their arguments, without the name of the program.
    """
    lines = [f"  adapty-async {command}" for command in commands]
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\n".join(["\b", title, *lines])  # \b keeps the lines as they are


def complete_file(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]
