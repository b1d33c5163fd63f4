"""Chromium for tests of pages: where it is on this machine, and its flags."""

from __future__ import annotations

import shutil

__all__ = ("CHROMIUM", "FLAGS", "NAMES")

#: The names by which it is looked for, in this order.
NAMES = ("chromium", "chromium-browser", "google-chrome")
#: The path of Chromium, None if it is not installed.
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
#: Chromium runs as root in containers, and reaches no network of its own accord.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
