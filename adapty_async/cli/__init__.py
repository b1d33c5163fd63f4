"""
The command ``adapty-async``; it needs the extra ``cli``.
"""

from __future__ import annotations

import os
import sys

__all__ = ("main",)

_STANDARD_ERROR = 2


def main() -> None:
    """
    Run the command line.
    """
    _fill_standard_descriptors()
    try:
        # click and rich are an extra
        from adapty_async.cli._v2_commands import cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.stderr.write(
            "The command line needs more than the library: pip install 'adapty-async[cli]'\n"
        )
        sys.exit(2)
    try:
        cli(prog_name="adapty-async")
    finally:
        _leave_quietly()


def _leave_quietly() -> None:
    """
    Let a reader of standard error that went away not change the exit code.
    """
    try:
        sys.stderr.flush()
    except (OSError, AttributeError):  # its reader is gone, or it was never there
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, _STANDARD_ERROR)
        os.close(null)


def _fill_standard_descriptors() -> None:
    """
    Put the null device where a standard stream is closed, or a socket would get its number.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
