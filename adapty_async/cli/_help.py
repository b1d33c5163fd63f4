"""The help for users of commands: the examples of each, and completion in their shell."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

_NAME = "adapty-async"
_VARIABLE = "_ADAPTY_ASYNC_COMPLETE"  # the one that click reads


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


@click.command(epilog=examples("completion bash", "completion fish"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print a completion script for SHELL.

    With it, the shell completes commands, options and file names.

    For bash and zsh, add eval "$(adapty-async completion bash)" to ~/.bashrc, or the same with zsh
    to ~/.zshrc. For fish, write the output to ~/.config/fish/completions/adapty-async.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  click has all three
    click.echo(kind(click.get_current_context().find_root().command, {}, _NAME, _VARIABLE).source())
