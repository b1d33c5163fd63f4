"""The name of a run in its journal, which commands make and reports parse."""

from __future__ import annotations

import re
from typing import Self

import msgspec

_NAME = re.compile(
    r"(?P<what>.*?)(?: by (?P<by>(?:external|customer|profile)[a-z_-]*id|email))?"
    r"(?:, column (?P<column>.*?))?(?:, columns (?P<columns>[0-9a-f]{12}))?"
    r"(?:, from (?P<form>csv|ndjson|text|parquet|arrow|excel)"
    r'(?: in (?P<encoding>[^,"]+)|, sheet "(?P<sheet>.*)")?)?',
    re.DOTALL,
)
_DELETION = re.compile("(v1|v2|mail) delete")
# The methods of a program in which an id has one request.
_ID_METHOD = re.compile(r"(v1|v2|mail)\.profiles\.(delete|get)")
_OF_ACCESS = re.compile("v2 (grant|revoke) .*", re.DOTALL)
_LOOKS_FIRST = re.compile("v2 (create if|import transactions, create) missing")


class RunName(msgspec.Struct, frozen=True, kw_only=True):
    """
    The name of a command's run: its operation, and how it reads its input.

    Its text looks like "v1 delete by profile-id, column id, from csv in cp1252". The run of a
    program has the name of its method, such as "v1.profiles.delete by profile_id". It parses, too.

    Attributes:
        what: the API and the operation with its values.
        by: the kind of the ids; None if the operation has one kind.
        column: the column of the ids; None if it is the usual one.
        columns: the digest of the mapping of columns; None without one.
        form: the format of the input; None if the name does not state it.
        encoding: the option for the encoding of the input.
        sheet: the option for the sheet of the input.
    """

    what: str
    by: str | None = None
    column: str | None = None
    columns: str | None = None
    form: str | None = None
    encoding: str | None = None
    sheet: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the operation of a journal's identity; text of another form is all in `what`."""
        found = _NAME.fullmatch(text)
        assert found is not None  # noqa: S101  `what` matches any text
        return cls(**found.groupdict())

    def __str__(self) -> str:
        parts = (
            self.what,
            "" if self.by is None else f" by {self.by}",
            "" if self.column is None else f", column {self.column}",
            "" if self.columns is None else f", columns {self.columns}",
            "" if self.form is None else f", from {self.form}",
            "" if self.encoding is None else f" in {self.encoding}",
            "" if self.sheet is None else f', sheet "{self.sheet}"',
        )
        return "".join(parts)

    @property
    def api(self) -> str:
        """The API of a command's run, such as ``v2``."""
        return self.what.partition(" ")[0]

    @property
    def id_column(self) -> str | None:
        """The column or field with the ids; None if the name does not state it."""
        if self.column is None and self.what == "mail save":
            return "external_profile_id"
        return self.column or (self.by and self.by.replace("-", "_"))

    @property
    def has_optional_ids(self) -> bool:
        """Whether rows without an id are left out."""
        return self._is_deletion or self._is_of_access

    @property
    def looks_first(self) -> bool:
        """Whether a profile is looked up before it is created."""
        return _LOOKS_FIRST.match(self.what) is not None

    @property
    def is_id_enough(self) -> bool:
        """
        Whether every request of an id is the same.

        Rows of a grant or revocation have fields of their own, unless they are lines of text.
        """
        if self.by is not None and _ID_METHOD.fullmatch(self.what):
            return True
        return self._is_deletion or (self._is_of_access and self.form == "text")

    @property
    def _is_deletion(self) -> bool:
        return _DELETION.fullmatch(self.what) is not None

    @property
    def _is_of_access(self) -> bool:
        return _OF_ACCESS.fullmatch(self.what) is not None
