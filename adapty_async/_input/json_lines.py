"""Checks of lines of NDJSON, for what a parser of JSON does not tell."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

# A JSON string; the group is empty if it has no end. No part is tried twice, so time is linear.
_JSON_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+("?)', re.DOTALL)


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object, duplicates included."""


def duplicate_key(text: str, value: Any, matters: Callable[[str], bool]) -> str | None:
    """
    Return a key that matters and is twice in its object; parsers differ in the value that counts.

    A key of an object in the row has a dot. None if there is none.
    """
    if not isinstance(value, dict) or text.count(":") == len(value):  # the usual case of ids
        return None
    pairs: _Pairs = json.loads(text, object_pairs_hook=_Pairs)
    objects = [("", pairs)]
    objects += [(f"{key}.", one) for key, one in pairs if isinstance(one, _Pairs) and matters(key)]
    for before, each in objects:
        for key, count in Counter(key for key, _ in each).items():
            if count > 1 and (before or matters(key)):
                return before + key
    return None


def is_unfinished(text: str) -> bool:
    """
    Return whether text that is not JSON may be the beginning of JSON that has several lines.

    It may if a string, an object or a list in it has no end, or if more has to follow.
    """
    if any(not found[1] for found in _JSON_STRING.finditer(text)):
        return True
    rest = _JSON_STRING.sub("", text).rstrip()
    opened = rest.count("{") + rest.count("[") - rest.count("}") - rest.count("]")
    return opened > 0 or rest.endswith((",", ":"))
