"""Errors of jobs. Their messages hold names of jobs and numbers of parts, and never an id."""

from __future__ import annotations

from adapty_async.errors import AdaptyError, JournalError


class JobError(AdaptyError):
    """An error of a job or its store: it does not exist, has another input, or cannot be used."""


class JobStoppedError(JobError):
    """
    A job stopped before its parts ended; the parts that are left stay open.

    Attributes:
        reason: why it stopped; ``cancelled`` after `Job.cancel`.
        needs_retry: it stopped in all processes, and `Job.retry` resumes it.
    """

    def __init__(self, message: str, *, reason: str = "", needs_retry: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.needs_retry = needs_retry

    def __str__(self) -> str:
        return f"{super().__str__()}{'; Job.retry resumes it' if self.needs_retry else ''}"


class PartBusyError(JournalError):
    """
    Another runner works on the part, so that nothing was sent; or it has taken the part over.

    After a takeover nothing more is sent.
    """


class PartChangedError(JobError):
    """The input of a part is not the one that was planned. Nothing was sent for the part."""


class StoreUnavailableError(JournalError):
    """The job store cannot be reached. No item begins until it responds again."""
