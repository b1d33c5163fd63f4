"""Text and JSON for a terminal, with escapes for the characters that it would act on."""

from __future__ import annotations

import json
from typing import Any

import msgspec

__all__ = ("visible", "visible_json")


def visible(text: str) -> str:
    """Return text with an escape of Python for each character that is not printable."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def visible_json(content: Any) -> str:
    """Return a value as JSON, with an escape of JSON for each character that is not printable."""
    text = msgspec.json.encode(content).decode()
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
