"""
Counts of suspicious ids and rows of an input, shown before anything is sent.

No id is shown, only its kind and the first line numbers: a log may keep what is printed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any

from adapty_async._runtime.words import counted

# Line numbers that are shown of a kind.
_SHOWN_LINES = 3
# Names of columns in a message: a table may have thousands.
_SHOWN_NAMES = 20
# Characters of the name of a column that an id may have at its end by chance.
_SHORT_NAME = 5
# Digits that a spreadsheet keeps of a number.
_KEPT_DIGITS = 15
# Words for "no value" of databases, data frames, spreadsheets and programs, in small letters. If an
# app identifies users as one of them, many share its profile.
_PLACEHOLDERS = frozenset(
    {
        "0",
        "-1",
        "null",
        "nan",
        "none",
        "nil",
        "undefined",
        "n/a",
        "#n/a",
        "na",
        "<na>",
        "<null>",
        "(null)",
        "[null]",
        "(not set)",
        "(blank)",
        "nat",
        "\\n",
        "#nv",
        "#n/d",
        "00000000-0000-0000-0000-000000000000",
        "[object object]",
    }
)
# No character can be matched by two parts, so time is linear: an id may be as long as a row.
_PLAIN = re.compile(r"[_$:@-]*[A-Za-z0-9][A-Za-z0-9_$:@-]*")
_QUOTES = "\"'`\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e"
_EXPONENT = re.compile(r"[+-]?[0-9]+([.,][0-9]+[eE][+-]?|[eE][+-])[0-9]+")
# Errors of spreadsheets in any language, such as #REF! and #BEZUG!.
_FORMULA_ERROR = re.compile(r"#[^\s#]+[!?]")
_DECIMAL = re.compile(r"[+-]?[0-9]+[.,]0+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z_. -]{0,59}")
_BROKEN_LETTERS = re.compile("[\ufffd]|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac")

# By kind: its description, and a predicate of an id. The first kind that matches counts.
_KINDS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "placeholder": (
        "words for no value, such as NULL, NaN or 0",
        lambda one: one.lower() in _PLACEHOLDERS or _FORMULA_ERROR.fullmatch(one),
    ),
    "spreadsheet_exponent": (
        "numbers that a spreadsheet rounded, such as 1.23457E+14",
        _EXPONENT.fullmatch,
    ),
    "decimal_number": (
        "whole numbers that became decimals, such as 100045.0",
        _DECIMAL.fullmatch,
    ),
    "column_name": (
        "the name of the column, or an id with it behind, as if files were joined",
        lambda _: False,  # only the counter of an input knows it
    ),
    "rounded_number": (
        "numbers of more than 15 digits that end with zeros, as spreadsheets round them",
        lambda _: False,  # only the share of such numbers tells
    ),
    "number": (
        "numbers of a spreadsheet or a column of floats, whose leading zeros would be lost",
        lambda _: False,  # only the reader of a table knows
    ),
    "json": (
        "JSON, as if an object or a list were taken for an id",
        lambda one: one[:1] + one[-1:] in {"{}", "[]"},
    ),
    "quotes": (
        "a quote at the beginning or the end, which is part of the id",
        lambda one: one[:1] in _QUOTES or one[-1:] in _QUOTES or one.startswith('="'),
    ),
    "separator": (
        "a blank, comma, semicolon, tab or bar inside, as if a row were taken for an id",
        lambda one: any(mark in one.strip(" ") for mark in " ,;|\t"),
    ),
    "no_letters": (
        "neither a letter nor a digit",
        lambda one: not any(map(str.isalnum, one)),
    ),
    "broken_letters": (
        "letters that a wrong encoding leaves",
        _BROKEN_LETTERS.search,
    ),
    "invisible": (
        "characters that cannot be seen, such as a zero-width space",
        lambda one: any(map(_is_invisible, one)),
    ),
    "unusual_digits": (
        "digits that are not 0 to 9",
        lambda one: any(each.isdecimal() and not each.isascii() for each in one),
    ),
}


def _is_invisible(one: str) -> bool:
    return unicodedata.category(one) in {"Cf", "Cc", "Zs", "Zl", "Zp"} and one != " "


def kind_of(identifier: str) -> str | None:
    """Return the kind of damage that an id shows, None if it shows none."""
    if _PLAIN.fullmatch(identifier):
        return "placeholder" if identifier.lower() in _PLACEHOLDERS else None
    return next((kind for kind, (_, looks) in _KINDS.items() if looks(identifier)), None)


class Findings:
    """
    A counter of suspicious ids and rows; the rows of an input are added one by one.

    Args:
        id_column: the column or field with the ids; None if no id is checked.
        noun: what the numbers of rows count: lines of a text, or rows of a table.

    Attributes:
        id_column, noun: as above.
        suspicious: ids that look damaged, by kind.
        without_id: rows that were left out since they have no id.
        multiline: rows of more than one line.
        ignored: the names of columns that are left out, as keys.
    """

    def __init__(self, id_column: str | None = None, noun: str = "line") -> None:
        self.id_column = id_column
        self.noun = noun
        self.suspicious: dict[str, int] = {}
        self.without_id = 0
        self.multiline = 0
        self.ignored: Mapping[str, None] = {}
        self._first_lines: dict[str, list[int]] = {}  # by kind
        self._long_numbers = 0
        self._first_multiline = (0, 0)  # its first and last line

    def add_row(self, line: int, value: Any) -> None:
        """Check a row's id, if it has one."""
        one = value.get(self.id_column) if isinstance(value, dict) else value
        if self.id_column is None or not isinstance(one, str) or not one:
            return
        kind = "column_name" if _ends_with_name(one, self.id_column) else kind_of(one)
        if kind is not None:
            self.add(kind, line)
        elif len(one) > _KEPT_DIGITS and one.isdigit():
            self._long_numbers += 1
            if not one[_KEPT_DIGITS:].strip("0"):
                self.add("rounded_number", line)

    def add(self, kind: str, line: int) -> None:
        """Count an id of a kind of damage."""
        self.suspicious[kind] = self.suspicious.get(kind, 0) + 1
        lines = self._first_lines.setdefault(kind, [])
        if len(lines) < _SHOWN_LINES:
            lines.append(line)

    def add_multiline(self, first: int, last: int) -> None:
        """Count a row of more than one line."""
        if not self.multiline:
            self._first_multiline = first, last
        self.multiline += 1

    def lines(self) -> list[str]:
        """Return the counts as lines for people; empty if nothing was found."""
        lines = []
        suspicious = self._likely()
        if suspicious:
            lines.append("These ids look damaged and may match no profile:")
        for kind, count in suspicious.items():
            where = ", ".join(f"{line:,}" for line in self._first_lines[kind])
            more = ", ..." if count > _SHOWN_LINES else ""
            lines.append(f"  {_KINDS[kind][0]}: {count:,} ({self.noun} {where}{more})")
        if self.multiline:
            first, last = self._first_multiline
            row = counted(self.multiline, "row")
            lines.append(f"{row} of more than one line (first: lines {first:,} to {last:,}).")
        if self.without_id:
            lines.append(f"{counted(self.without_id, 'row')} without an id, left out.")
        if self.ignored:
            lines.append(f"Columns left out: {listed(self.ignored)}.")
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return the counts by the keys that they have in the JSON report."""
        return {
            "suspicious_ids": self._likely(),
            "rows_without_id": self.without_id,
            "multiline_rows": self.multiline,
            "ignored_columns": list(map(shown, self.ignored)),
        }

    def _likely(self) -> dict[str, int]:
        """Return the counts of suspicious ids; one in ten long numbers ends with a zero anyway."""
        found = dict(self.suspicious)
        if 2 * found.get("rounded_number", 0) <= self._long_numbers:
            found.pop("rounded_number", None)
        return found


def shown(name: str) -> str:
    """Return a name that looks like a column's; without a header line it may be personal data."""
    return name if _NAME.fullmatch(name) else "…"


def escaped(name: str) -> str:
    """Return a name with escapes for what a terminal would interpret."""
    return name if name.isprintable() else repr(name)[1:-1]


def listed(names: Collection[str], form: str = "{}") -> str:
    """Return the first names for a message, each in a form, and the number of the others."""
    first = ", ".join(form.format(shown(name)) for name in list(names)[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return f"{first} and {more:,} more" if more > 0 else first


def _ends_with_name(identifier: str, column: str) -> bool:
    """Return whether an id is a header, or has one behind it, as in files that were joined."""
    # an id may end with a short name by chance, as "android" does with "id"
    return identifier == column or (len(column) > _SHORT_NAME and identifier.endswith(column))
