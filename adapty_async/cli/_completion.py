"""The command ``completion``, which prints the script by which a shell completes commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from adapty_async.cli._help import examples
from adapty_async.cli._v2_commands import cli

__all__ = ("cli", "completion")

_NAME = "adapty-async"
_VARIABLE = "_ADAPTY_ASYNC_COMPLETE"  # the one that click reads


@cli.command(epilog=examples("completion bash", "completion fish"))
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
