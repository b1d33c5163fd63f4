"""A confirmation prompt for destructive commands, before anything is sent."""

from __future__ import annotations

import sys

import click

from adapty_async._input.rows import Rows, SizedRows
from adapty_async._runtime.words import counted
from adapty_async.cli._job import Exit, Job
from adapty_async.cli._streams import write_error
from adapty_async.cli._terminal import fitted, visible

# Characters of an id that are shown; one may have thousands.
_SHOWN_LENGTH = 64


def describe_users(job: Job, origin: str) -> str:
    """Return the number of users that a command changes, their input, and its first and last id."""
    path = visible(job.rows.path)
    if job.total is None:
        return f"all users in {path}, whose number and ids are not known beforehand"
    ends = ends_of(job.rows)
    ids = "" if ends is None else f" ({describe_ends(*ends)})"
    earlier = job.earlier(origin)
    if earlier is None or not earlier.settled:
        return f"{counted(job.total, 'user')} in {path}{ids}"
    left = counted(job.total - earlier.settled, "user")
    return f"the {left} left of {job.total:,} in {path}{ids}"


def ends_of(rows: Rows) -> tuple[str | None, str | None] | None:
    """
    Return the first and the last id of an input; None for a row without a readable one.

    There is no result for an input without rows, and for a pipe, whose last row is not known.
    """
    ends = rows.ends if isinstance(rows, SizedRows) else None
    if ends is None:
        return None
    first, last = ends
    return rows.identify(first)[1], rows.identify(last)[1]


def describe_ends(first: str | None, last: str | None) -> str:
    """Return the first and the last id for people, without control characters."""
    if first == last is not None:
        return f"id {_quoted(last)}"
    return f"first id {_quoted(first)}, last id {_quoted(last)}"


def _quoted(item_id: str | None) -> str:
    """Return an id in quotes, on one line: a terminal would interpret control characters."""
    if item_id is None:
        return "not readable"
    cut = item_id[:_SHOWN_LENGTH]
    shown = visible(cut.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{shown}{"…" if len(item_id) > len(cut) else ""}"'


def is_terminal() -> bool:
    """Return whether there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(question: str, after: str, *, is_free: bool = True) -> None:
    """
    Prompt on the terminal, unless it is the input; without consent, write `after` and exit.

    Raises:
        click.UsageError: there is no terminal to ask on.
    """
    if not (is_free and is_terminal()):
        raise click.UsageError(f"There is no terminal to ask on: add --yes. {question}")
    prompt = fitted(f"{question} [y/N]:", sys.stderr)
    if not click.confirm(f"{prompt} ", show_default=False, prompt_suffix="", err=True):
        write_error(after)
        sys.exit(Exit.NOT_ALL_DONE)


def ask_about(job: Job, question: str, after: str) -> None:
    """Ask whether to perform a job, unless it has no rows; see `ask`."""
    if job.total != 0:
        ask(question, after, is_free=job.rows.path != "-")
