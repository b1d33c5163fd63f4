"""
What a run leaves behind: a report for people or programs, and a file of what did not succeed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import msgspec

from adapty_async.bulk import (
    BulkReport,
    Entry,
    JournalSummary,
    Outcome,
    OutcomeStatus,
    StopReason,
)
from adapty_async.cli._findings import Findings
from adapty_async.cli._input import Row
from adapty_async.errors import ConfigError, InvalidInputError

__all__ = ("FailuresFile", "dry_run_text", "report_json", "report_text", "status_text")

_SHOWN_FAILURES = 5
_FIRST_BYTES = b'{"line":'
"""
What a failures file begins with.
"""
_MEANING = {
    OutcomeStatus.DONE: "",
    OutcomeStatus.ABSENT: "the server says that they do not exist",
    OutcomeStatus.FAILED: "not done, or not for certain; the reasons follow",
    OutcomeStatus.UNKNOWN: "sent, but the answer was lost; look before you send them again",
    OutcomeStatus.NOT_SENT: "their turn did not come",
    OutcomeStatus.SKIPPED: "done by an earlier run, or the same as an earlier row",
}
_STOPPED = {
    StopReason.KEY_REJECTED: "The key was rejected.",
    StopReason.WRONG_ADDRESS: "These answers are not Adapty's: check --base-url.",
    StopReason.OUTAGE: "Stopped: there was no service for too long.",
    StopReason.FAIL_FAST: "Stopped at the first failure.",
    StopReason.STOPPED: "Stopped before the end of the input.",
}


class FailuresFile:
    """
    An NDJSON file of the outcomes that are not done; only its owner can read it.

    A line has the number of the input's line, the item, the status, the attempts and the error's
    type, status, code, field and request id. It can be used as an input itself.

    With a journal, what an earlier run left undone goes again, and is noted again: its list is
    replaced, but not before the run is known to go on with that journal.

    Raises:
        ConfigError: the file cannot be written, is the input or the journal, or has something in it
            that is not to be replaced.
    """

    def __init__(self, path: Path, *, source: str, journal: Path | None = None) -> None:
        if _is_input(path, source):
            raise ConfigError("--failures must not be the input file")
        if journal is not None and path.resolve() == journal.resolve():
            raise ConfigError("--failures must not be the journal")
        with _as_config_errors():
            if path.is_file() and path.stat().st_size:
                _demand_replaceable(path, journal)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            self._is_regular = stat.S_ISREG(os.fstat(self._file).st_mode)
            if self._is_regular:
                os.fchmod(self._file, 0o600)  # it may have been there before, open to others
        self._begun = False

    def begin(self) -> None:
        """
        Forget what an earlier run left in the file, unless this one has begun to write already.
        """
        if self._is_regular and not self._begun:
            with _as_config_errors():
                os.ftruncate(self._file, 0)
        self._begun = True

    def note(self, outcome: Outcome[Row, Any]) -> None:
        """
        Write a line for an outcome, unless it is done, absent or skipped.
        """
        if not self._begun:
            self.begin()
        if not outcome.ok:
            line = _encoded(_failure(outcome)) + b"\n"
            with _as_config_errors():
                while line:
                    line = line[os.write(self._file, line) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)


def _demand_replaceable(path: Path, journal: Path | None) -> None:
    if journal is None:
        raise ConfigError(
            "--failures must not be a file with something in it: it may be the only list of what "
            "an earlier run left undone"
        )
    with path.open("rb") as file:
        if file.read(len(_FIRST_BYTES)) != _FIRST_BYTES:
            raise ConfigError("--failures must not be a file of something else than failures")


def _is_input(path: Path, source: str) -> bool:
    try:
        there, read = path.stat(), os.fstat(0) if source == "-" else Path(source).stat()
    except OSError:
        return False  # not there yet, or opening it tells more
    return stat.S_ISREG(there.st_mode) and os.path.samestat(there, read)


@contextlib.contextmanager
def _as_config_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--failures cannot be written: {error.strerror}") from None


def _encoded(failure: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(failure)
    except RecursionError:  # JSON that was nested just not too deep to be read
        return msgspec.json.encode(failure | {"item": None})


def _failure(outcome: Outcome[Row, Any]) -> dict[str, Any]:
    row, error = outcome.item, outcome.error
    if error is None and row.broken is not None:  # it was not reached; fed back it stays broken
        error = InvalidInputError("row", row.broken)
    return {
        "line": outcome.item.line,
        "item": outcome.item.value,
        "status": outcome.status.value,
        "attempts": outcome.attempts,
        "error": None if error is None else _error_facts(error),
    }


def _error_facts(error: Exception) -> dict[str, Any]:
    """
    Name what is known of an error, with the same keys for each.
    """
    facts = ("status", "error_code", "field_name", "request_id")
    content = {"type": type(error).__name__} | {name: getattr(error, name, None) for name in facts}
    if isinstance(error, InvalidInputError):
        content |= {"field_name": error.field, "rule": error.rule}
    return content


def report_json(report: BulkReport[Any, Any], findings: Findings | None = None) -> str:
    """
    Write a report as one JSON object, with what was found in the input.
    """
    content: dict[str, Any] = {"total": report.total}
    content |= {status.value: count for status, count in report.counts.items()}
    content |= {
        "requests": report.requests,
        "throttled": report.throttled,
        "elapsed": round(report.elapsed, 3),
        "stop_reason": report.stop_reason,
        "ok": report.ok,
    }
    if findings is not None:
        content |= {"many_absent": _many_absent(report)} | findings.as_json()
    return msgspec.json.encode(content).decode()


def report_text(
    report: BulkReport[Row, Any], *, failures: Path | None, total: int | None = None
) -> str:
    """
    Write a report as a few lines that a person likes to read; `total` is the number of rows.
    """
    pace = report.total / report.elapsed if report.elapsed else 0.0
    lines = [f"{report.total:,} rows in {report.elapsed:.1f} s ({pace:,.0f}/s)", ""]
    lines += [
        f"  {status.value:<9}{count:>11,}   {_MEANING[status]}".rstrip()
        for status, count in report.counts.items()
        if count or status is OutcomeStatus.DONE
    ]
    throttled = f"{report.throttled:,} of them answered 429" if report.throttled else ""
    lines += [f"  {'requests':<9}{report.requests:>11,}   {throttled}".rstrip(), ""]
    lines += _failure_lines(report)
    lines += _stop_lines(report, total)
    if report.total == report.absent > 0:
        lines.append("Not one of them was there: check --by, and how the ids are written.")
    elif _many_absent(report):
        lines.append("More than a tenth of them were not there: check how the ids are written.")
    if failures is not None and report.failed + report.unknown + report.not_sent:
        what = "What was read and" if report.stop_reason is StopReason.STOPPED else "What"
        name = click.format_filename(failures)
        lines.append(f"{what} is not done is in {name}; it can be used as the next input.")
    return "\n".join(lines).rstrip()


def _many_absent(report: BulkReport[Any, Any]) -> bool:
    return report.absent * 10 > report.total - report.skipped


def dry_run_text(
    report: BulkReport[Row, Any], *, failures: Path | None, total: int | None = None
) -> str:
    """
    Write what a dry run found; `total` is the number of rows.
    """
    lines = [f"Dry run of {report.total:,} rows; nothing was sent.", ""]
    lines += [f"  {report.done:>11,} can be sent", f"  {report.failed:>11,} cannot"]
    if report.skipped:
        lines.append(f"  {report.skipped:>11,} are done already, or the same as earlier rows")
    lines.append("")
    lines += _failure_lines(report)
    lines += _stop_lines(report, total)
    if failures is not None and report.failed:
        lines.append(f"Those that cannot be sent are in {click.format_filename(failures)}.")
    return "\n".join(lines).rstrip()


def _stop_lines(report: BulkReport[Row, Any], total: int | None) -> list[str]:
    if report.stop_reason is None:
        return []
    unread = 0 if total is None else total - report.total
    if not unread:
        return [_STOPPED[report.stop_reason]]
    rest = f"Rows that were not read: {unread:,}, all after the first {report.total:,}."
    return [_STOPPED[report.stop_reason], rest]


def _failure_lines(report: BulkReport[Row, Any]) -> list[str]:
    by_message: dict[str, Outcome[Row, Any]] = {}
    for outcome in report.failures:  # a mistake in all rows is shown once, with others next to it
        by_message.setdefault(_message_of(outcome), outcome)
    shown = list(by_message.values())[:_SHOWN_FAILURES]
    lines = [f"  line {outcome.item.line}: {outcome.error}" for outcome in shown]
    more = len(report.failures) - len(shown) + report.failures_omitted
    if more:
        lines.append(f"  and {more:,} more")
    return [*lines, ""] if lines else []


def _message_of(outcome: Outcome[Row, Any]) -> str:
    """
    Return what makes a failure one of its kind: an input error's text, otherwise the row itself.
    """
    is_input = isinstance(outcome.error, InvalidInputError)
    return str(outcome.error) if is_input else f"line {outcome.item.line}"


_SAID = {
    Entry.DONE: "",
    Entry.ABSENT: "the server said that they do not exist",
    Entry.DUPLICATE: "the same as an earlier row",
    Entry.FAILED: "not done; they go again",
    Entry.LOST: "perhaps done; they go again, which changes nothing more",
    Entry.BEGUN: "begun, with no end noted: in flight now, or when the run was cut off",
    Entry.UNKNOWN: "perhaps done, and not safe to send again",
    Entry.NOT_SENT: "their turn did not come",
}
_SPANS = 10


def status_text(summary: JournalSummary) -> str:
    """
    Write what a journal says of its run.
    """
    binding = summary.binding
    lines = [f"{binding.operation}, at {binding.origin}", ""]
    lines += [
        f"  {entry.name.lower():<9}{summary.counts[entry]:>11,}   {said}".rstrip()
        for entry, said in _SAID.items()
        if summary.counts[entry] or entry is Entry.DONE
    ]
    if summary.left is not None:
        lines.append(f"  {'left':<9}{summary.left:>11,}   for the same command to do")
    if summary.first is not None and summary.last is not None:
        lines += ["", f"first entry {_moment(summary.first)}, last {_moment(summary.last)}"]
    lines += _pace_lines(summary.ended)
    return "\n".join(lines)


def _pace_lines(ended: dict[int, int]) -> list[str]:
    if not ended:
        return []
    start, end = min(ended), max(ended) + 1
    span = -(-(end - start) // _SPANS)
    lines = []
    for begin in range(start, end, span):
        count = sum(ended.get(minute, 0) for minute in range(begin, begin + span))
        pace = count / span / 60
        lines.append(f"  {_moment(begin * 60)}  {count:>11,} ended, {pace:,.1f}/s")
    return lines


def _moment(time: float) -> str:
    return dt.datetime.fromtimestamp(time, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
