"""
A wrapper of the command line that prints the peak of its memory in MB as the last line.

Run as ``python -m benchmarks._command ARGUMENTS``.
"""

from __future__ import annotations

import sys

from adapty_async import cli
from benchmarks._machine import peak_mb

__all__ = ("main",)


def main() -> None:
    """Run a command."""
    try:
        cli.main()
    finally:
        sys.stdout.write(f"\n{peak_mb()}\n")


if __name__ == "__main__":
    main()
