"""The question that a destructive command asks before it sends anything."""

from __future__ import annotations

import sys

import click

from adapty_async.bulk import summarise
from adapty_async.cli._job import Exit, Job
from adapty_async.cli._streams import tell
from adapty_async.errors import JournalError

__all__ = ("ask", "whom")


def whom(job: Job, origin: str) -> str:
    """Return how many users a command is about to change, and in which input."""
    if job.total is None:
        return f"all users in {job.rows.path}"
    settled = _settled(job, origin)
    if not settled:
        return f"{_users(job.total)} in {job.rows.path}"
    return f"the {_users(job.total - settled)} left of {job.total:,} in {job.rows.path}"


def _users(count: int) -> str:
    return "1 user" if count == 1 else f"{count:,} users"


def _settled(job: Job, origin: str) -> int:
    if job.journal is None or not job.journal.exists():
        return 0
    try:
        summary = summarise(job.journal)
    except JournalError:
        return 0  # it is empty, or the run is refused for the same reason
    identity = summary.identity
    same = (identity.operation, identity.origin) == (job.name, origin)
    return summary.settled if same else 0  # the run is refused


def ask(job: Job, question: str, after: str) -> None:
    """
    Ask on the terminal whether to continue; `after` is printed when the command ends instead.

    Raises:
        click.UsageError: there is no terminal to ask on.
    """
    if job.rows.path == "-" or not sys.stdin.isatty():
        raise click.UsageError(f"There is no terminal to ask on: add --yes. {question}")
    if not click.confirm(question, err=True):
        tell(after)
        sys.exit(Exit.NOT_ALL_DONE)
