"""The sandbox that tools of others get: strict, and without limits of its own."""

from __future__ import annotations

import inspect
from typing import Any

from adapty_async.sandbox import Sandbox


def strict_sandbox() -> Sandbox:
    """Return a strict sandbox whose responses have the schemas of the documents."""
    options: dict[str, Any] = {"strict": True, "unset_refund_saver": "defaults"}
    if "export_rate" in inspect.signature(Sandbox).parameters:
        options["export_rate"] = None  # two requests a second would hide all other responses
    return Sandbox(**options)
