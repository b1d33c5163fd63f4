"""The command line ``adapty-async``, which requires the extra ``cli``."""

from __future__ import annotations

import sys

from adapty_async.cli._streams import guard_standard_streams

__all__ = ("main",)


def main() -> None:
    """Run the command line."""
    guard_standard_streams()
    try:
        # click and rich are an extra
        from adapty_async.cli._job_commands import cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.stderr.write(
            "The command line needs more than the library: pip install 'adapty-async[cli]'\n"
        )
        sys.exit(2)
    cli(prog_name="adapty-async")
