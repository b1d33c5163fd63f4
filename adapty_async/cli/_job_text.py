"""The report and outcomes of a job, as text and JSON, and the next command, for a shell."""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
import subprocess
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from adapty_async._api.call import Headers
from adapty_async._api.codec import RequestDefaults, encode
from adapty_async._runtime.words import counted
from adapty_async.bulk import OutcomeStatus
from adapty_async.cli._options import DELETIONS
from adapty_async.cli._report import absent_lines, count_line, per_second
from adapty_async.cli._terminal import visible_json
from adapty_async.errors import InvalidInputError
from adapty_async.jobs import JobOutcome, JobReport

# A comment of shells. A command that is printed may end up in a log.
_WITHOUT_PASSWORD = "  # with its password in PGPASSWORD"  # noqa: S105  none
_PASSWORD = re.compile(r"(?<=://)([^:@/?]*):[^@/?]*@")
_PASSWORDS = frozenset({"password", "sslpassword"})
_DELETION = re.compile(r"(?P<api>v1|v2|mail)\.profiles\.delete by (?P<by>[a-z_]+)")
_MEANINGS: Mapping[str, str] = {
    "done": "",
    "absent": "the server responded that they do not exist",
    "failed": "not done, or uncertain: see job failures and job retry",
    "unknown": "outcome unknown; not sent again, since that may do it twice",
    "not_sent": "not sent yet",
    "skipped": "the same as an earlier row",
    "in_flight": "may have been sent: their worker is at work, or was killed",
}


def report_json(report: JobReport) -> str:
    """Return a report as one JSON object."""
    content: dict[str, Any] = {
        "job": report.name,
        "operation": report.operation,
        "items": report.items,
        "counts": report.counts,
        "parts": report.parts,
        "workers": report.workers,
        "rate": None if report.rate is None else round(report.rate, 3),
        "limit": None if report.limit is None else round(report.limit, 3),
        "requests": report.requests,
        "throttled": report.throttled,
        "reasons": [
            {"error": error, "http_status": status, "items": items}
            for (error, status), items in report.reasons.items()
        ],
        "planned_at": dt.datetime.fromtimestamp(report.planned_at, dt.UTC),
        "stop_reason": report.stop_reason,
        "ended": report.has_ended,
    }
    return msgspec.json.encode(content).decode()


def report_text(report: JobReport, retry: str) -> str:
    """Return a report as text; `retry` is the command that resumes a job that stopped."""
    lines = [f"{report.name}: {report.operation}, {report.items:,} ids", ""]
    lines += [
        count_line(name, report.counts[name], meaning)
        for name, meaning in _MEANINGS.items()
        if report.counts[name] or name == "done"
    ]
    lines += ["", *_work_lines(report, retry)]
    if report.reasons:
        lines.append("Why ids were not done, over all runs:")
    lines += [
        f"  {items:,} {error}{f', status {status}' if status else ''}"
        for (error, status), items in report.reasons.items()
    ]
    return "\n".join([*lines, *absent_lines(report.items, report.counts)])


def _work_lines(report: JobReport, retry: str) -> Iterator[str]:
    parts = report.parts
    yield f"{parts.ended:,} of {parts.total:,} parts ended, {parts.running:,} are running"
    if parts.changed:
        one = parts.changed == 1
        waiting = "1 part waits: its" if one else f"{parts.changed:,} parts wait: their"
        yield f"{waiting} input has changed since it was planned"
    if report.rate is not None:
        recent = f"{per_second(report.rate)} in the last minute"
        yield f"{counted(report.workers, 'worker')}, {recent}{_limit(report)}"
    if report.stop_reason is not None and not report.has_ended:
        yield f"stopped: {report.stop_reason}; to resume it: {retry}"
    if report.requests:
        yield f"{report.requests:,} requests, {report.throttled:,} of them throttled (429)"


def report_line(report: JobReport) -> str:
    """Return the progress of a job as one line."""
    left = report.not_sent + report.in_flight
    parts = [
        f"{report.items - left:,} of {report.items:,} ended",
        counted(report.workers, "worker"),
    ]
    if report.rate is not None:
        parts.append(f"{per_second(report.rate)}{_limit(report)}")
    if bad := report.failed + report.unknown:
        parts.append(f"{bad:,} failed")
    return f"{report.name}: {', '.join(parts)}"


def _limit(report: JobReport) -> str:
    return "" if report.limit is None else f", limit {per_second(report.limit)}"


def next_command(what: str, name: str, store: str | None, options: Iterable[str] = ()) -> str:
    """
    Return a command of ``job`` as a line that a shell runs.

    Args:
        what: the command, such as ``work``.
        name: the name of the job.
        store: the address of its store, which is shown without a password; None if the command
            finds it without the option.
        options: further options.
    """
    shown = None if store is None else _without_password(store)
    stores = [] if shown is None else ["--store", shown]
    # after the options, since a name may begin as they do
    names = ["--", name] if name.startswith("-") else [name]
    first, last = (names, []) if len(names) == 1 else ([], names)
    words = ["adapty-async", "job", what, *first, *stores, *options, *last]
    line = shlex.join(words) if os.name == "posix" else subprocess.list2cmdline(words)
    return line if shown == store else f"{line}{_WITHOUT_PASSWORD}"


def _without_password(url: str) -> str:
    bare, mark, query = _PASSWORD.sub(r"\1@", url).partition("?")
    fields = [
        field
        for field in query.split("&")
        if urllib.parse.unquote(field.partition("=")[0]) not in _PASSWORDS
    ]
    return f"{bare}{mark if fields else ''}{'&'.join(fields)}"


def outcome_json(outcome: JobOutcome, _operation: str = "") -> str:
    """Return an outcome as a line of JSON."""
    content = {"line": outcome.line, "id": outcome.item, "status": outcome.status.value}
    return visible_json(content)


def failure_json(outcome: JobOutcome, operation: str = "") -> str:
    """
    Return an outcome as a line of a failures file, which can be an input itself.

    The error is that of an id which the job's operation cannot send, or only workers with another
    encoding of ids. The store holds no other reasons.
    """
    error: InvalidInputError | None = InvalidInputError("row", "cannot be read")
    if outcome.item is not None:
        error = _invalid(outcome.item, operation)
    content: dict[str, Any] = {
        "line": outcome.line,
        "item": outcome.item or "",
        "status": outcome.status.value,
        "attempts": None,
        "error": None if error is None else _facts(error),
    }
    return visible_json(content)


def _facts(error: InvalidInputError) -> dict[str, Any]:
    return {"type": "InvalidInputError", "field_name": error.field, "rule": error.rule}


def _invalid(item: str, operation: str) -> InvalidInputError | None:
    """Return why an id cannot be sent; None if it can be, or the operation is a program's."""
    found = _DELETION.fullmatch(operation)
    if found is None:
        return None
    describe = DELETIONS[found["api"]]
    headers = Headers({"Authorization": "not sent"})
    for encoding in ("utf-8", "ascii"):  # the rule of any worker, and of one without an option
        defaults = RequestDefaults(
            origin="https://localhost", headers=headers, id_encoding=encoding
        )
        try:
            encode(describe(**{found["by"]: item}), defaults, timeout=1.0, total_timeout=1.0)
        except InvalidInputError as error:
            return error
    return None


#: The statuses of a failures file.
FAILURES = (OutcomeStatus.FAILED, OutcomeStatus.UNKNOWN, OutcomeStatus.NOT_SENT)
