"""
The entry point of the command line ``adapty-async``.

The module is outside of the package, whose import takes a while: otherwise, Ctrl-C during the
import would end with a traceback.
"""

from __future__ import annotations

import sys

__all__ = ("main",)

# The same as `adapty_async.cli._job.Exit.INTERRUPTED`, which may not be imported yet.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line. An interrupt that no command handles ends it with an exit code."""
    try:
        from adapty_async.cli import main as run  # noqa: PLC0415  it takes a while

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
