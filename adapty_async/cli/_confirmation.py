"""A confirmation prompt for destructive commands, before anything is sent."""

from __future__ import annotations

import sys

import click

from adapty_async.bulk import summarise
from adapty_async.cli._job import Exit, Job
from adapty_async.cli._streams import write_error
from adapty_async.errors import JournalError

__all__ = ("ask", "describe_users")


def describe_users(job: Job, origin: str) -> str:
    """Return the number of users that a command changes, and their input."""
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
        return 0  # it is empty, or the run raises the same error
    identity = summary.identity
    same = (identity.operation, identity.origin) == (job.name, origin)
    return summary.settled if same else 0  # the run raises an error


def ask(job: Job, question: str, after: str) -> None:
    """
    Prompt on the terminal; without consent, write `after` and exit.

    Raises:
        click.UsageError: there is no terminal to ask on.
    """
    if job.rows.path == "-" or not sys.stdin.isatty():
        raise click.UsageError(f"There is no terminal to ask on: add --yes. {question}")
    if not click.confirm(question, err=True):
        write_error(after)
        sys.exit(Exit.NOT_ALL_DONE)
