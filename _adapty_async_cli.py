"""
The entry point of the command line ``adapty-async``.

This module is outside of the package, whose import takes a while: Ctrl-C meanwhile is no traceback.
"""

from __future__ import annotations

import sys

__all__ = ("main",)

# As `adapty_async.cli._job.Exit.INTERRUPTED`, which may not be imported yet.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; an interrupt that no command handles is an exit code."""
    try:
        from adapty_async.cli import main as run  # noqa: PLC0415  it takes a while

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
