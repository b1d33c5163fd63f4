"""Command-line options that all benchmarks share."""

from __future__ import annotations

import argparse

__all__ = ("options",)


def options(about: str | None) -> argparse.ArgumentParser:
    """Return a parser with the shared options, to which others can be added."""
    parser = argparse.ArgumentParser(description=about)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="a smoke: does it work at all?")
    how.add_argument("--record", action="store_true", help="write the results down")
    return parser
