"""
Standard streams whose failures do not change the exit code of a command.

A report that cannot be written does not undo a run, so the exit code is the run's. A full disk, a
closed descriptor or a pipe without a reader is reported once, on standard error.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

_STANDARD_ERROR = 2


def guard_standard_streams() -> None:
    """Replace the standard streams by ones that never raise."""
    _fill_standard_descriptors()
    if sys.stderr is not None:
        sys.stderr = _guarded(sys.stderr, lambda _: None)  # no stream is left for a report
    sys.stdout = _guarded(sys.stdout, _report)


def output_failed() -> bool:
    """Return whether something could not be written to standard output."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Guarded) and raw.failed


def write_error(line: str) -> None:
    """Write a line to standard error, if there is one."""
    if sys.stderr is not None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()  # rich replaces the stream by one with a buffer


def _report(error: OSError) -> None:
    write_error(f"adapty-async: standard output cannot be written: {error.strerror}")


class _Guarded(io.RawIOBase):
    """
    A raw stream that discards what cannot be written.

    Attributes:
        failed: something was discarded; only the first time is reported.
    """

    def __init__(self, raw: Any, report: Callable[[OSError], None]) -> None:
        self._raw = raw  # None if the stream was closed before the process started
        self._report = report
        self.failed = False

    def write(self, data: Any) -> int:
        """Write some of the data, or discard all of it."""
        try:
            return self._write(data)
        except OSError as error:
            if not self.failed:
                self.failed = True
                self._report(error)
            return memoryview(data).nbytes

    def _write(self, data: Any) -> int:
        if self._raw is None:
            raise OSError(errno.EBADF, "it is closed")
        written: int | None = self._raw.write(data)
        if written is None:  # a pipe that does not block, and is full
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return written

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._raw is not None and bool(self._raw.isatty())

    def fileno(self) -> int:
        """Return the descriptor."""
        if self._raw is None:
            raise OSError(errno.EBADF, "it is closed")
        descriptor: int = self._raw.fileno()
        return descriptor


def _guarded(stream: TextIO | None, report: Callable[[OSError], None]) -> TextIO:
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(_Guarded(None, report)), encoding="utf-8")
    raw = getattr(stream.buffer, "raw", stream.buffer)  # python -u has no buffer in between
    return io.TextIOWrapper(
        io.BufferedWriter(_Guarded(raw, report)),
        encoding=stream.encoding,
        errors="backslashreplace",  # a path that the encoding lacks does not spoil a report
        line_buffering=True,
    )


def _fill_standard_descriptors() -> None:
    """Open the null device where a standard stream is closed, or a socket would get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
