"""The output of a run: a report for people or programs, and the failures file."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import click
import msgspec

from adapty_async._bulk.outcomes_file import error_facts
from adapty_async._input.findings import Findings
from adapty_async._input.layout import Row
from adapty_async._journal import belongs_to_journal
from adapty_async._runtime.files import try_lock
from adapty_async._runtime.words import counted
from adapty_async.bulk import BulkReport, EarlierStatus, Outcome, OutcomeStatus, StopReason
from adapty_async.cli._dry_run import Estimate
from adapty_async.cli._terminal import visible, visible_json
from adapty_async.errors import ConfigError, InvalidInputError

_SHOWN_FAILURES = 5
# Without this flag, Windows writes other line ends.
_BINARY = getattr(os, "O_BINARY", 0)
# From this rate per second on, a fraction is not shown.
_FAST = 10.0
# The first bytes of a failures file.
_FIRST_BYTES = b'{"line":'
# The words next to the count of each status.
_MEANING = {
    OutcomeStatus.DONE: "",
    OutcomeStatus.ABSENT: "the server responded that they do not exist",
    OutcomeStatus.FAILED: "not done, or not for certain; the reasons follow",
    OutcomeStatus.UNKNOWN: "sent; the response was lost, or the server failed after it may have "
    "processed the request; check before you send them again",
    OutcomeStatus.NOT_SENT: "the run ended before they were sent",
}
_EARLIER = {
    EarlierStatus.DONE: "done by an earlier run",
    EarlierStatus.ABSENT: "absent in an earlier run",
    EarlierStatus.DUPLICATE: "the same as an earlier row",
}
# The sentence about each reason why a run stopped.
_STOPPED = {
    StopReason.KEY_REJECTED: "Stopped: the key was rejected.",
    StopReason.WRONG_ADDRESS: "Stopped: the responses are not Adapty's. Check the base URL, the "
    "certificate, and whether a proxy or firewall responds instead.",
    StopReason.OUTAGE: "Stopped: no request succeeded for too long.",
    StopReason.SAME_ERROR: "Stopped: Adapty rejected 50 items in a row with the same error.",
    StopReason.FAIL_FAST: "Stopped at the first failure.",
    StopReason.STOPPED: "Stopped early.",
}


class FailuresFile:
    """
    An NDJSON file of the outcomes that are not done; only its owner can read it.

    A line has the number of the input's line, the item, the status, the attempts and the error's
    type, status, code, field and request id. It can be used as an input itself.

    With a journal, a resumed run retries the items of this list and records them again. Its first
    outcome replaces the list. One run writes to it at a time.

    Args:
        path: the file.
        source: the input.
        journal: the journal of the run; None without one.
        is_resumed: an earlier run used that journal.

    Raises:
        ConfigError: the file cannot be written, is in use, is the input or the journal, or has
            content that must not be replaced.
    """

    def __init__(
        self, path: Path, *, source: str, journal: Path | None = None, is_resumed: bool = False
    ) -> None:
        if _is_input(path, source):
            raise ConfigError("--failures must not be the input file")
        if journal is not None and belongs_to_journal(path, journal):
            raise ConfigError("--failures must not be the journal, nor one of its companion files")
        with as_config_errors("--failures"):
            if path.is_file() and path.stat().st_size:
                _require_replaceable(path, is_resumed=is_resumed)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | _BINARY, 0o600)
            self._is_regular = stat.S_ISREG(os.fstat(self._file).st_mode)
            if self._is_regular:
                self._lock()
            if self._is_regular and hasattr(os, "fchmod"):
                os.fchmod(self._file, 0o600)  # an existing file may be open to others
        self._begun = False

    def _lock(self) -> None:
        """Lock the file, if the system and the file system have locks."""
        try:
            is_locked = try_lock(self._file)
        except (ImportError, OSError):  # such as on Windows, and of a network file system
            return
        if not is_locked:
            os.close(self._file)
            raise ConfigError("--failures must not be a file that another run writes to")

    def record(self, outcome: Outcome[Row, Any]) -> None:
        """Write a line for an outcome, unless it is done, absent or skipped."""
        line = b"" if outcome.ok else _encoded(_failure(outcome)) + b"\n"
        with as_config_errors("--failures"):
            if self._is_regular and not self._begun:
                os.ftruncate(self._file, 0)  # the list of an earlier run
            self._begun = True
            while line:
                line = line[os.write(self._file, line) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _require_replaceable(path: Path, *, is_resumed: bool) -> None:
    if not is_resumed:
        raise ConfigError(
            "--failures must not be a file with something in it: it may be the only list of what "
            "an earlier run left undone"
        )
    with path.open("rb") as file:
        if file.read(len(_FIRST_BYTES)) != _FIRST_BYTES:
            raise ConfigError("--failures must not be a file of something else than failures")


def require_separate(
    outcomes: Path, *, source: str, failures: Path | None, journal: Path | None
) -> None:
    """
    Validate that an outcomes file is neither the input, the failures file nor the journal.

    Raises:
        ConfigError: it is one of them.
    """
    if _is_input(outcomes, source):
        raise ConfigError("--outcomes must not be the input file")
    if failures is not None and is_same_file(outcomes, failures):
        raise ConfigError("--outcomes and --failures must not be the same file")
    if journal is not None and belongs_to_journal(outcomes, journal):
        raise ConfigError("--outcomes must not be the journal, nor one of its companion files")


def is_same_file(path: Path, other: Path) -> bool:
    """Return whether two paths name one file, which need not exist yet."""
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except OSError:
        return False  # one does not exist yet, or opening it raises a clearer error


def require_no_stream(option: str, path: Path | None) -> None:
    """
    Validate that a file is not that of standard output or error, whose text would replace lines.

    Raises:
        ConfigError: it is; the message names the option.
    """
    if path is not None and (_is_file_of(path, 1) or _is_file_of(path, 2)):
        raise ConfigError(f"{option} must not be the file of standard output or error")


def _is_input(path: Path, source: str) -> bool:
    return _is_file_of(path, 0 if source == "-" else source)


def _is_file_of(path: Path, other: str | int) -> bool:
    """Return whether a path leads to a regular file to which a path or a descriptor leads, too."""
    try:
        found = path.stat()
        return stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.stat(other))  # noqa: PTH116
    except OSError:
        return False  # one does not exist yet, or opening it raises a clearer error


@contextlib.contextmanager
def as_config_errors(option: str) -> Iterator[None]:
    """Raise a `ConfigError` that names the option of a file, if the system raises an error."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{option} cannot be written: {error.strerror}") from None


def _encoded(failure: dict[str, Any]) -> bytes:
    try:
        line = msgspec.json.encode(failure)
        msgspec.json.decode(line)  # the line is an input of a later run
    except RecursionError:  # nested too deep to be written, or to be read again
        return msgspec.json.encode(failure | {"item": None})
    return line


def _failure(outcome: Outcome[Row, Any]) -> dict[str, Any]:
    """Return the line of a failures file, as JSON types."""
    row, error = outcome.item, outcome.error
    if error is None and row.broken is not None:  # it was not reached; as an input it stays broken
        error = InvalidInputError("row", row.broken)
    return {
        "line": outcome.item.line,
        "item": outcome.item.value,
        "status": outcome.status.value,
        "attempts": outcome.attempts,
        "error": None if error is None else error_facts(error),
    }


def report_json(
    report: BulkReport[Any, Any],
    findings: Findings | None = None,
    *,
    preview: dict[str, Any] | None = None,
    error: Exception | None = None,
) -> str:
    """
    Return a report as one JSON object, with the findings of the input and the final error.

    A dry run has a preview, see `preview_json`.
    """
    is_dry = preview is not None
    content: dict[str, Any] = {"dry_run": is_dry, "total": report.total}
    content |= {status.value: count for status, count in report.counts.items()}
    content |= {
        "skipped_earlier": report.skipped_earlier,
        "sent": report.sent,
        "requests": report.requests,
        "throttled": report.throttled,
        "connect_failures": report.connect_failures,
        "elapsed": round(report.elapsed, 3),
        "stop_reason": report.stop_reason,
        "error": None if error is None else visible(str(error)),
        "ok": report.ok and error is None,
    }
    if preview is not None:  # "done" rows were only validated
        content |= preview | {
            "sendable": report.done,
            "done": 0,
            "not_sent": report.done + report.not_sent,
            "sent": 0,
            "requests": 0,
            "ok": False,
        }
    if findings is not None:
        content |= {"many_absent": _many_absent(report.counts)} | findings.as_json()
    return visible_json(content)


def preview_json(ends: tuple[str | None, str | None] | None, expected: Estimate) -> dict[str, Any]:
    """Return the keys that only a dry run has: the first and the last id, and the time."""
    first, last = ends or (None, None)
    return {"first_id": first, "last_id": last, "estimate": expected.as_json()}


def report_text(
    report: BulkReport[Row, Any],
    *,
    failures: Path | None,
    total: int | None = None,
    noun: str = "line",
) -> str:
    """
    Return a report as a few lines for people.

    `total` is the number of rows, None if unknown; `noun` is what numbers of rows count.
    """
    meanings = _MEANING | {OutcomeStatus.SKIPPED: _earlier_parts(report)}
    lines = [f"{counted(report.total, 'row')} in {report.elapsed:.1f} s{_rate_of(report)}", ""]
    lines += [
        count_line(status.value, count, meanings[status])
        for status, count in report.counts.items()
        if count or status is OutcomeStatus.DONE
    ]
    lines += [count_line("requests", report.requests, _request_parts(report)), ""]
    lines += _failure_lines(report, noun)
    lines += _stop_lines(report, total)
    lines += absent_lines(report.total, report.counts)
    if failures is not None and report.failed + report.unknown + report.not_sent:
        read = "were read and " if _has_unread(report, total) else ""
        name = click.format_filename(failures)
        lines.append(
            f"Rows that {read}are not done are in {name}; it can be used as the next input."
        )
    return "\n".join(lines).rstrip()


def absent_lines(total: int, counts: Mapping[Any, int]) -> Iterator[str]:
    """Yield the advice for a run or a job whose ids were not there: wrong ones never are."""
    if counts["absent"] == total > 0:
        yield "Not one of them was there: check --by, and how the ids are written."
    elif _many_absent(counts):
        yield "More than a tenth of them were not there: check how the ids are written."


def _many_absent(counts: Mapping[Any, int]) -> bool:
    ended = sum(counts[status] for status in ("done", "absent", "failed", "unknown"))
    return counts["absent"] * 10 > ended


def dry_run_text(
    report: BulkReport[Row, Any],
    *,
    failures: Path | None,
    total: int | None = None,
    noun: str = "line",
) -> str:
    """Return the report of a dry run; see `report_text`."""
    lines = [f"Dry run of {counted(report.total, 'row')}; nothing was sent.", ""]
    lines += [f"  {report.done:>11,} can be sent", f"  {report.failed:>11,} cannot"]
    if report.unknown:
        lines.append(f"  {report.unknown:>11,} were sent by an earlier run, outcome unknown")
    if report.not_sent:
        lines.append(f"  {report.not_sent:>11,} were not checked")
    lines += [
        f"  {count:>11,} skipped: {_EARLIER[earlier]}"
        for earlier, count in report.skipped_earlier.items()
        if count
    ]
    lines.append("")
    lines += _failure_lines(report, noun)
    lines += _stop_lines(report, total)
    if failures is not None and report.failed + report.unknown + report.not_sent:
        what = "cannot be sent or were not checked" if report.not_sent else "cannot be sent"
        lines.append(f"Those that {what} are in {click.format_filename(failures)}.")
    return "\n".join(lines).rstrip()


def per_second(rate: float) -> str:
    """Return a rate for people, rounded to two digits if it is low."""
    return f"{rate:,.0f}/s" if rate >= _FAST else f"{rate:.2g}/s"


def _rate_of(report: BulkReport[Row, Any]) -> str:
    """Return the number of sent rows and their rate; the other rows take almost no time."""
    if not report.sent or not report.elapsed:
        return ""
    rate = per_second(report.sent / report.elapsed)
    return f" ({rate})" if report.sent == report.total else f"; {report.sent:,} sent ({rate})"


def count_line(name: str, count: int, meaning: str) -> str:
    """Return a line with a count, its name and its meaning."""
    return f"  {name:<9}{count:>11,}   {meaning}".rstrip()


def _earlier_parts(report: BulkReport[Row, Any]) -> str:
    found = report.skipped_earlier.items()
    return "; ".join(f"{count:,} {_EARLIER[earlier]}" for earlier, count in found if count)


def _request_parts(report: BulkReport[Row, Any]) -> str:
    parts = [f"{report.throttled:,} of them throttled (429)"] if report.throttled else []
    if report.connect_failures:
        parts.append(f"attempts without a connection: {report.connect_failures:,}")
    return "; ".join(parts)


def _has_unread(report: BulkReport[Row, Any], total: int | None) -> bool:
    """Return whether unread rows may be left; the end of a pipe is not known."""
    return report.stop_reason is not None and (total is None or total > report.total)


def _stop_lines(report: BulkReport[Row, Any], total: int | None) -> list[str]:
    if report.stop_reason is None:
        return []
    lines = [_STOPPED[report.stop_reason]]
    if total is None:
        lines.append(f"After the first {counted(report.total, 'row')}, the input was not read.")
    elif total > report.total:
        unread = total - report.total
        lines.append(f"Rows that were not read: {unread:,}, all after the first {report.total:,}.")
    elif report.stop_reason is StopReason.STOPPED:
        lines[0] = "Stopped when all rows had been read."
    return lines


def _failure_lines(report: BulkReport[Row, Any], noun: str) -> list[str]:
    """Return the first failures as lines for people, one for each kind of error."""
    by_message: dict[str, Outcome[Row, Any]] = {}
    for outcome in report.failures:  # an error of all rows is shown once, next to others
        by_message.setdefault(_message_of(outcome), outcome)
    shown = list(by_message.values())[:_SHOWN_FAILURES]
    lines = [f"  {noun} {outcome.item.line}: {outcome.error}" for outcome in shown]
    more = len(report.failures) - len(shown) + report.failures_omitted
    if more:
        lines.append(f"  and {more:,} more")
    return [*lines, ""] if lines else []


def _message_of(outcome: Outcome[Row, Any]) -> str:
    """Return the key that groups failures: an input error's text, otherwise the row's line."""
    is_input = isinstance(outcome.error, InvalidInputError)
    return str(outcome.error) if is_input else f"line {outcome.item.line}"
