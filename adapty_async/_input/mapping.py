"""
A mapping from the columns of an input to the fields of requests.

Invariants:

- A field comes from one column or one constant. Two sources for a field are an error.
- The id of a row is the cell of the id column as it is; no other column can take its place. A field
  with the name of the id column is another thing.
- The column with the ids of users is named by the caller, or by a page that leaves no doubt.
- The name of a column that is left out is shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from adapty_async._input.findings import escaped, shown
from adapty_async._input.presets import PRESETS, Preset, utc
from adapty_async._input.schema import (
    ColumnSchema,
    RowSchema,
    id_columns,
    id_from,
    require_distinct,
    rows_of,
)
from adapty_async.errors import InvalidInputError


class ColumnOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Options that state what the columns of an input are.

    Attributes:
        columns: pairs of a column and its field; a column may be that of several fields.
        constants: text by field, for every row.
        constant_options: the option that gave a constant, by field, if it is not ``--set``.
        preset: the name of an export with known columns; one of `PRESETS`.
        ignore_unknown: leave unknown columns out, and fields that a row's kind of purchase lacks.
        id_column: the column with the ids.
    """

    columns: tuple[tuple[str, str], ...] = ()
    constants: Mapping[str, str] = {}
    constant_options: Mapping[str, str] = {}
    preset: str | None = None
    ignore_unknown: bool = False
    id_column: str | None = None


class RowMapping:
    """
    A mapping of the rows of an input to the fields of a call.

    Args:
        options: what the columns are.
        schema: the fields of the call; None if it needs ids only.
        id_field: the name of the ids; None if they are a field like others.

    Attributes:
        id_column: the column with the ids; without `id_field`, the one by which rows are recorded.
        ignored: the names of columns that were left out so far, in order, as keys.

    Raises:
        InvalidInputError: an option names an unknown field, or a field has two sources.
    """

    def __init__(
        self, options: ColumnOptions, schema: ColumnSchema | None, id_field: str | None
    ) -> None:
        self._options = options
        self._has_ids_only = schema is None
        self._schema = RowSchema({}, nested={}) if schema is None else rows_of(schema)
        self._id_field = id_field
        self._preset = preset_of(options.preset)
        self._is_lenient = options.ignore_unknown or self._preset is not None
        self._mapped = self._mapped_fields()
        self._sources = self._preset_sources() | self._mapped
        self._replaced = self._replaced_columns()
        mapped_id = self._sources.pop(id_field, None) if id_field is not None else None
        self.id_column = self._choose_id_column(mapped_id)
        self.ignored: dict[str, None] = {}
        self._known: dict[str, tuple[str, ...]] = {}  # the fields of columns that came up
        self._is_plain = options == ColumnOptions(id_column=options.id_column)

    def _mapped_fields(self) -> dict[str, str]:
        """Return the columns that the options name, by field."""
        mapped: dict[str, str] = {}
        for column, field in self._options.columns:
            self._require_known("columns", field, column)
            if mapped.setdefault(field, column) != column:
                raise InvalidInputError("columns", f"names two columns for {field}")
        for field in self._options.constants:
            self._require_known("constants", field)
            if field in mapped or field == self._id_field:
                raise self._twice(field, ": it comes from a column")
        return mapped

    def _require_known(self, option: str, field: str, column: str | None = None) -> None:
        if self._is_known(field):
            return
        order = ""
        if column is not None and self._is_known(column):
            order = f' ("{shown(column)}" is one: the column comes first, and then the field)'
        expected = self._id_field if self._has_ids_only else self._schema.expected
        raise InvalidInputError(
            option, f'unknown field "{shown(field)}"{order}; expected: {expected}'
        )

    def _is_known(self, field: str) -> bool:
        return field == self._id_field or self._schema.is_known(field)

    def _preset_sources(self) -> dict[str, str]:
        columns = {} if self._preset is None else self._preset.columns
        return {
            field: column
            for field, column in columns.items()
            if self._schema.is_known(field) and field not in self._options.constants
        }

    def _replaced_columns(self) -> set[str]:
        """Return the columns of the preset for whose fields the options name another source."""
        columns = {} if self._preset is None else self._preset.columns
        return {
            column
            for field, column in columns.items()
            if field in self._options.constants or self._mapped.get(field, column) != column
        }

    def _choose_id_column(self, mapped: str | None) -> str:
        """Return the column with the ids: of the options, of the preset, or of the ids' name."""
        field, named, preset = self._id_field, self._options.id_column, self._preset
        if field is None:
            if named is not None:
                raise InvalidInputError(
                    "id_column", "must not be named, since the id is a field: map its column"
                )
            return self._sources.get("external_profile_id", "external_profile_id")
        if named is not None and mapped not in {None, named}:
            raise InvalidInputError(
                "columns", f"names two columns for {field}, one of them as the column of the ids"
            )
        chosen = named or mapped
        if chosen is None and preset is not None:
            return preset.column_of_ids(field)
        return chosen or field

    @property
    def digest(self) -> str | None:
        """The digest by which a run's name identifies the mapping; None if it is plain."""
        if self._is_plain:
            return None
        return hashlib.sha256(self._description.encode()).hexdigest()[:12]

    @property
    def _description(self) -> str:
        # their order has no effect
        columns = tuple(sorted({*self._options.columns}))
        constants = sorted(self._options.constants.items())
        options = (self._options.preset, self._options.ignore_unknown)
        return repr((columns, constants)) + repr(options)

    def identity(self, *reading: str | None) -> str:
        """
        Return a digest of the mapping and the column of the ids, for a journal.

        Args:
            reading: what else determines the rows of the file, in a fixed order.
        """
        # a repr of strings has quotes around each, so no two mappings have the same one
        description = repr((reading, self.id_column, self._description))
        return hashlib.sha256(description.encode()).hexdigest()

    def lacking(self) -> list[str]:
        """Return the fields of a subscription that the export of the preset does not have."""
        without = () if self._preset is None else self._preset.without
        given = {*self._sources, *self._options.constants}
        return [one for one in without if self._schema.is_known(one) and one not in given]

    def check(self, names: list[str]) -> Collection[str]:
        """
        Validate the names of columns, and return those that matter.

        Raises:
            InvalidInputError: a column is missing, unknown, or has a field that has another source.
        """
        if self._preset is not None:
            self._preset.require_match("header", names)
        if self._has_ids_only:
            return id_columns(self.id_column)(names)
        fields = self._require_mapped(names)
        self._schema.require_known(fields)
        if self._id_field is not None and self.id_column not in names:
            raise InvalidInputError(escaped(self.id_column), "is a required column")
        self._schema.check([*fields, *self._options.constants])
        used = [name for name in names if self.matters(name)]
        require_distinct(used)
        return set(used)

    def check_keys(
        self, names: Collection[str], /, *, is_all: bool, are_failures: bool = False
    ) -> None:
        """
        Validate the keys of objects: those of all rows, or of the first row that was read.

        Of one row only the preset is checked, since other rows may have other keys. The rows of a
        failures file may lack columns of the preset, and columns that the options name; but not
        the latter if other keys are left out, of which one may be the column that was meant.

        Raises:
            InvalidInputError: as `check`.
        """
        if self._preset is not None:
            self._preset.require_match("input", names, may_lack=are_failures)
        if not is_all:
            return
        if self._id_field is not None:
            id_columns(self.id_column, label="input", noun="key")(list(names))
        if not self._has_ids_only:
            fields = self._require_mapped(names, are_failures=are_failures)
            self._schema.check_keys([*fields, *self._options.constants])

    def _require_mapped(self, names: Collection[str], *, are_failures: bool = False) -> list[str]:
        """Return the fields of columns, after a check that those that the options name exist."""
        may_lack = are_failures and all(map(self.matters, names))
        for column in self._mapped.values():
            if column not in names and not may_lack:
                rule = f'names a column that is not in the input: "{shown(column)}"'
                hint = "; if its cells are empty, do not name it" if are_failures else ""
                raise InvalidInputError("columns", rule + hint)
        fields = list(dict.fromkeys(one for name in names for one in self._fields_of(name)))
        self._require_no_constant(fields)
        return fields

    def _is_id(self, name: str) -> bool:
        return self._id_field is not None and name == self.id_column

    def matters(self, name: str) -> bool:
        """Return whether a column or a key has the ids or a field."""
        return self._is_id(name) or (not self._has_ids_only and bool(self._fields_of(name)))

    def _require_no_constant(self, fields: Collection[str]) -> None:
        for field in self._options.constants:
            if field in fields:
                raise self._twice(field, ", which is in the input")

    def _twice(self, field: str, why: str) -> InvalidInputError:
        option = self._options.constant_options.get(field, "constants")
        return InvalidInputError(option, f"must not name {field}{why}")

    def _fields_of(self, name: str) -> tuple[str, ...]:
        """Return the fields of a column; none if it is left out, or has the ids only."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._find_fields(name)
        return found

    def _find_fields(self, name: str) -> tuple[str, ...]:
        """Return the fields of a column by the options and the schema; see `_fields_of`."""
        found = tuple(field for field, column in self._sources.items() if column == name)
        if found or self._is_id(name):
            return found
        if name in self._mapped and name not in self._replaced:
            raise InvalidInputError(
                "columns", f"must not name a column for {name}, which is a column itself"
            )
        has_other = name in self._sources or name in self._replaced
        if not self._is_lenient or (self._schema.is_known(name) and not has_other):
            return (name,)
        self.ignored.setdefault(name)
        return ()

    def is_number(self, name: str) -> bool:
        """Return whether numbers in a column stay numbers."""
        return any(map(self._schema.is_number, self._fields_of(name)))

    def id(self, value: Any) -> str:
        """
        Return the id of a row.

        Raises:
            InvalidInputError: it has none, or it is not text.
        """
        return id_from(value, self.id_column)

    def item(self, value: Any) -> tuple[str, Any]:
        """
        Return the id of a row, and the struct that is sent.

        Raises:
            InvalidInputError: there is no id, a name is unknown, or a value breaks a rule.
        """
        id_column = self.id_column if self._is_plain else None  # otherwise it is no field
        found = self._schema.struct(self._fields(value), id_column, lenient=self._is_lenient)
        return self.id(value), found

    def struct(self, value: Any) -> Any:
        """
        Return the struct of a row without an id of its own.

        Raises:
            InvalidInputError: a name is unknown, or a value breaks a rule.
        """
        return self._schema.struct(self._fields(value), lenient=self._is_lenient)

    def _fields(self, value: Any) -> Any:
        if self._is_plain or not isinstance(value, dict):
            return value
        fields = {
            field: self._converted(field, one)
            for name, one in value.items()
            for field in self._fields_of(name)
        }
        self._require_no_constant(fields)
        return {**fields, **self._options.constants}

    def _converted(self, field: str, value: Any) -> Any:
        """Return a cell as the preset reads it; a column that the caller named stays as it is."""
        preset = self._preset
        if preset is None or value is None:
            return value
        if preset.is_utc and field.endswith("_at"):
            value = utc(value)
        change = None if field in self._mapped else preset.convert.get(field)
        return value if change is None else change(value)


def preset_of(name: str | None) -> Preset | None:
    """
    Return the preset with a name; None for none.

    Raises:
        InvalidInputError: it is unknown.
    """
    if name is None:
        return None
    if name not in PRESETS:
        raise InvalidInputError("preset", f"must be one of {', '.join(PRESETS)}")
    return PRESETS[name]
