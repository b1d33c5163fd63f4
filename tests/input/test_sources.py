"""A row has the same id and fields in each format, and those of the file that was counted."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapty_async import v2
from adapty_async._input.files import require_one_file
from adapty_async._input.findings import listed
from adapty_async._input.items import ids_in, pairs_in
from adapty_async._input.layout import Row
from adapty_async._input.mapping import ColumnOptions, RowMapping
from adapty_async._input.rows import open_rows
from adapty_async._input.schema import id_columns, require_distinct
from adapty_async.errors import InvalidInputError
from adapty_async.files import InputFile, UnreadableRow
from tests.input.tables import (
    write_csv,
    write_excel,
    write_feather,
    write_ndjson,
    write_parquet,
    write_stream,
)

_NAMES = ("email", "contact", "customer_user_id", "first_name", "uid")
_FIELDS = ("email", "first_name", "customer_user_id", "custom_attributes.plan")


def write_all(folder: Path, names: list[str]) -> list[Path]:
    """Write the same two rows in each kind of format."""
    rows = [[f"{name}{number}@example.com" for name in names] for number in (1, 2)]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return [
        write_csv(folder / "users.csv", [names, *rows]),
        write_ndjson(folder / "users.ndjson", [names, *rows]),
        write_feather(folder / "users.feather", columns),
    ]


def read(path: Path, options: dict[str, Any]) -> Any:
    """Return the items of a file as text; None if it is rejected."""
    try:
        items: Any = pairs_in(InputFile(path, **options), "customer_user_id", v2.ATTRIBUTE_COLUMNS)
    except InvalidInputError:
        return None
    return [
        str(one.error) if isinstance(one, UnreadableRow) else (one[0], repr(one[1]), one[1].email)
        for one in items
    ]


@settings(max_examples=80, deadline=None)
@given(
    names=st.lists(st.sampled_from(_NAMES), min_size=1, unique=True),
    columns=st.dictionaries(st.sampled_from(_NAMES), st.sampled_from(_FIELDS), max_size=2),
    constants=st.dictionaries(
        st.sampled_from(_FIELDS), st.just("constant@example.com"), max_size=1
    ),
    id_column=st.none() | st.sampled_from(_NAMES),
    ignore_unknown=st.booleans(),
)
def test_each_format_has_the_same_ids_and_fields(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], **options: Any
) -> None:
    """CSV, JSON and tables agree on the id and fields of a row, or all of them are rejected."""
    folder = tmp_path_factory.mktemp("formats")
    first, *others = (read(path, options) for path in write_all(folder, names))

    assert others == [first, first]
    if first is not None:
        column = options["id_column"] or next(
            (one for one, field in options["columns"].items() if field == "customer_user_id"),
            "customer_user_id",
        )
        assert [one[0] for one in first] == [f"{column}{i}@example.com" for i in (1, 2)]


@pytest.mark.parametrize("suffix", [".csv", ".ndjson", ".feather"])
def test_a_field_with_the_name_of_the_id_column_is_no_id(tmp_path: Path, suffix: str) -> None:
    """The id is the cell of its column, whatever other column or constant is a field like it."""
    (path,) = (one for one in write_all(tmp_path, ["email", "contact"]) if one.suffix == suffix)
    by_column = read(path, {"id_column": "email", "columns": {"contact": "email"}})
    by_both = read(path, {"columns": {"email": "customer_user_id", "contact": "email"}})
    constant = read(
        path,
        {"id_column": "email", "constants": {"email": "x@example.com"}, "ignore_unknown": True},
    )

    assert [(one[0], one[2]) for one in by_column] == [
        ("email1@example.com", "contact1@example.com"),
        ("email2@example.com", "contact2@example.com"),
    ]
    assert by_both == by_column
    assert [(one[0], one[2]) for one in constant] == [
        ("email1@example.com", "x@example.com"),
        ("email2@example.com", "x@example.com"),
    ]


def test_numbers_of_a_file_stay_numbers(tmp_path: Path) -> None:
    """A custom attribute that is a number in a table is no text in the request."""
    columns = {"customer_user_id": ["u1"], "custom_attributes.level": [5]}
    file = InputFile(write_parquet(tmp_path / "users.parquet", columns))
    items: Any = pairs_in(file, "customer_user_id", v2.ATTRIBUTE_COLUMNS)
    [(_, found)] = items
    assert found.custom_attributes == {"level": 5}


def test_a_field_that_is_twice_in_an_object_costs_its_row(tmp_path: Path) -> None:
    """Which value counts differs between readers, so a program sends none of them either."""
    path = tmp_path / "users.ndjson"
    path.write_text('{"customer_user_id": "u1", "email": "a@b.c", "email": "d@e.f"}\n')
    items: Any = pairs_in(InputFile(path), "customer_user_id", v2.ATTRIBUTE_COLUMNS)
    [row] = items
    assert isinstance(row, UnreadableRow)
    assert row.error.rule == 'has the key "email" more than once'


def test_a_file_can_be_read_again(tmp_path: Path) -> None:
    """The lines of items are those of the latest pass, also if the one before was given up."""
    path = tmp_path / "ids.txt"
    path.write_text("u1\n\nu2\n\nu3\n")
    items: Any = ids_in(InputFile(path), "customer_user_id")
    next(iter(items))
    assert [items.line_of(position) for position, _ in enumerate(items)] == [1, 3, 5]


@pytest.mark.parametrize(
    ("row", "options", "error"),
    [
        pytest.param(
            {"custom_attributes": {"plan": "gold"}},
            {"constants": {"custom_attributes.plan": "basic"}},
            "custom_attributes.plan: has two values",
            id="constant",
        ),
        pytest.param(
            {"custom_attributes": {"plan": "gold"}, "tariff": "basic"},
            {"columns": {"tariff": "custom_attributes.plan"}},
            "custom_attributes.plan: has two values",
            id="mapped",
        ),
        pytest.param(
            {"custom_attributes.plan": "basic", "custom_attributes": {"plan": "gold"}},
            {},
            "custom_attributes.plan: has two values",
            id="both-forms",
        ),
    ],
)
def test_a_field_with_two_values_costs_its_row(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], error: str
) -> None:
    """None of two values is chosen silently: the row fails, with its line."""
    path = tmp_path / "users.ndjson"
    rows = [{"customer_user_id": "u1", "tariff": "x"} if "tariff" in row else {}, row]
    lines = [{"customer_user_id": f"u{i}"} | one for i, one in enumerate(rows)]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    found: Any = pairs_in(InputFile(path, **options), "customer_user_id", v2.ATTRIBUTE_COLUMNS)
    items = list(found)

    assert items[0][0] in {"u0", "u1"}
    assert isinstance(items[1], UnreadableRow)
    assert (items[1].line, str(items[1].error).startswith(error)) == (2, True)


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        pytest.param(
            ["id", "received_at", "user_id", "anonymous_id"],
            {"preset": "segment"},
            "input: belongs to another table than",
            id="other-table",
        ),
        pytest.param(["id"], {"preset": "segment"}, "input: is not a segment", id="no-export"),
        pytest.param(
            ["customer_user_id"],
            {"columns": (("mail", "email"),)},
            'columns: names a column that is not in the input: "mail"',
            id="mapped",
        ),
        pytest.param(["email"], {}, 'input: has no key "customer_user_id"', id="no-ids"),
        pytest.param(
            ["customer_user_id", "colour"], {}, 'input: unknown key "colour"; exp', id="unknown"
        ),
        pytest.param(
            ["customer_user_id", "email"],
            {"constants": {"email": "x"}},
            "constants: must not name email",
            id="constant",
        ),
    ],
)
def test_keys_are_checked_as_columns_are(
    keys: list[str], options: dict[str, Any], message: str
) -> None:
    """What is wrong with the columns of CSV is wrong with the keys of JSON."""
    mapping = RowMapping(ColumnOptions(**options), v2.ATTRIBUTE_COLUMNS, "customer_user_id")
    with pytest.raises(InvalidInputError, match=f"^{message}"):
        mapping.check_keys(keys, is_all=True)


def test_rows_that_failed_may_lack_columns() -> None:
    """A failures file has no empty cells; but a column that was left out may be the one meant."""
    given = ColumnOptions(columns=(("until", "expires_at"),), ignore_unknown=True)
    mapping = RowMapping(given, v2.GRANT_COLUMNS, "customer_user_id")
    names = ["customer_user_id", "access_level_id"]
    mapping.check_keys(names, is_all=True, are_failures=True)
    with pytest.raises(
        InvalidInputError, match='not in the input: "until"; if its cells are empty'
    ):
        mapping.check_keys([*names, "until_date"], is_all=True, are_failures=True)

    calls = RowMapping(ColumnOptions(preset="segment"), None, "customer_user_id")
    calls.check_keys(["id"], is_all=True, are_failures=True)
    with pytest.raises(InvalidInputError, match="belongs to another table"):
        calls.check_keys(["id", "user_id"], is_all=True, are_failures=True)


def test_objects_of_transactions_need_the_required_keys() -> None:
    """A nested object has the required names of its fields; a key that no row has is missing."""
    mapping = RowMapping(ColumnOptions(), v2.TRANSACTION_COLUMNS, "customer_user_id")
    flat = [name for name in v2.TRANSACTION_COLUMNS.required if "." not in name]
    mapping.check_keys(["customer_user_id", *flat, "price"], is_all=True)
    with pytest.raises(InvalidInputError, match=r"^price\.country: is a required key"):
        mapping.check_keys(["customer_user_id", *flat], is_all=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_the_first_object_of_a_pipe_is_checked(tmp_path: Path) -> None:
    """A pipe of calls of Segment has ids of nobody; other rows need not have all keys."""
    mapping = RowMapping(ColumnOptions(preset="segment"), None, "customer_user_id")
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def read_pipe(*rows: object) -> list[Row]:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        writer = threading.Thread(target=path.write_text, args=(text,))
        writer.start()
        try:
            return list(
                open_rows(str(path), "ndjson", mapping.check, check_keys=mapping.check_keys)
            )
        finally:
            writer.join()

    good = {"id": "u1", "received_at": "2026-01-01"}
    assert len(read_pipe("u0", good, {"id": "u2"})) == 3
    assert [row.value for row in read_pipe(_FAILURE)] == [{"id": "u1"}]
    with pytest.raises(InvalidInputError, match=r"^input: belongs to another table"):
        read_pipe({"id": "call", "received_at": "x", "user_id": "u1"})


_FAILURE = {"line": 7, "item": {"id": "u1"}, "status": "failed", "attempts": 1}


@pytest.mark.parametrize(
    ("rows", "checked"),
    [
        pytest.param([{"a": 1}, "u1", {"b": 1}], (["a", "b"], True, False), id="some-rows-only"),
        pytest.param(["u1"], None, id="no-object"),
        pytest.param([_FAILURE], (["id"], True, True), id="failures"),
        pytest.param([_FAILURE, {"a": 1}], (["id", "a"], True, False), id="also-failures"),
    ],
)
def test_the_keys_of_a_file_are_checked_together(tmp_path: Path, rows: Any, checked: Any) -> None:
    """A key may be in some rows only; a file of failures is one with nothing else."""
    seen = []

    def check(names: list[str], /, *, is_all: bool, are_failures: bool) -> None:
        seen.append((names, is_all, are_failures))

    path = tmp_path / "users.ndjson"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    open_rows(str(path), None, id_columns("id"), check_keys=check)
    assert seen == ([] if checked is None else [checked])


def test_keys_are_bounded(tmp_path: Path) -> None:
    """Data as keys does not fill the memory."""
    path = tmp_path / "users.ndjson"
    rows = (dict.fromkeys(map(str, range(start, start + 50_000))) for start in (0, 50_000))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = RowMapping(ColumnOptions(), None, "1")
    open_rows(str(path), None, mapping.check, check_keys=mapping.check_keys)
    with path.open("a") as file:
        file.write('{"one more": 1}')
    with pytest.raises(InvalidInputError, match="has more than 100,000 different keys"):
        open_rows(str(path), None, mapping.check, check_keys=mapping.check_keys)


def _write(path: Path, ids: list[str]) -> None:
    """Write ids; those of a table in pieces, which are read one after the other."""
    if path.suffix == ".csv":
        path.write_text("customer_user_id\n" + "".join(f"{one}\n" for one in ids))
    elif path.suffix == ".ndjson":
        path.write_text("".join(f'{{"customer_user_id": "{one}"}}\n' for one in ids))
    elif path.suffix == ".gz":
        text = "".join(f"{one}\n" for one in ids)
        path.write_bytes(gzip.compress(text.encode(), compresslevel=0, mtime=0))
    elif path.suffix == ".parquet":
        write_parquet(path, {"customer_user_id": ids}, row_group_size=1000, compression="none")
    elif path.suffix == ".arrows":
        write_stream(path, pa.table({"customer_user_id": ids}))
    elif path.suffix == ".xlsx":
        write_excel(path, [["customer_user_id"], *([one] for one in ids)])
    else:
        write_feather(path, {"customer_user_id": ids}, chunksize=1000, compression="uncompressed")


_KINDS = [".csv", ".ndjson", ".txt.gz", ".parquet", ".feather"]


def _rewrite(path: Path, ids: list[str]) -> None:
    """Write other rows in place; the times of a file have a coarse clock, so one is set."""
    _write(path, ids)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("suffix", _KINDS)
def test_a_file_that_was_rewritten_is_not_read(tmp_path: Path, suffix: str) -> None:
    """Between the question and the answer, a file of the same size may have other people."""
    path = tmp_path / f"ids{suffix}"
    _write(path, ["user_1", "user_2"])
    items: Any = ids_in(InputFile(path), "customer_user_id")
    size, inode = path.stat().st_size, path.stat().st_ino
    _rewrite(path, ["anna_1", "anna_2"])

    assert (path.stat().st_size, path.stat().st_ino) == (size, inode)
    with pytest.raises(InvalidInputError, match="was changed meanwhile"):
        next(iter(items))
    path.write_bytes(b"\n" * size)
    with pytest.raises(InvalidInputError, match="was changed meanwhile"):
        next(iter(items))


@pytest.mark.parametrize("suffix", _KINDS)
def test_a_file_that_is_rewritten_during_a_run_ends_it(tmp_path: Path, suffix: str) -> None:
    """No row is sent that was not counted, wherever the file changes."""
    path = tmp_path / f"ids{suffix}"
    ids = [f"user_{i:05}" for i in range(60_000)]
    _write(path, ids)
    found: Any = ids_in(InputFile(path), "customer_user_id")
    items = iter(found)
    read = [next(items)]
    _rewrite(path, [*ids[:1], *(f"anna_{i:05}" for i in range(59_999))])
    with pytest.raises(InvalidInputError, match="was changed meanwhile"):
        read.extend(items)

    assert read == ids[: len(read)]


def test_a_table_that_changes_at_its_end_is_reported(tmp_path: Path) -> None:
    """The last row was read from the file that was counted, or the run has an error."""
    path = tmp_path / "ids.feather"
    _write(path, ["u1"])
    found: Any = ids_in(InputFile(path), "customer_user_id")
    items = iter(found)
    assert next(items) == "u1"
    os.utime(path, ns=(1, 1))
    with pytest.raises(InvalidInputError, match="was changed meanwhile"):
        next(items)


def test_a_text_that_grows_has_the_rows_that_it_had(tmp_path: Path) -> None:
    """Rows that are added after the count are not read, across blocks as well."""
    path = tmp_path / "ids.csv"
    ids = [f"user_{i:05}" for i in range(60_000)]
    _write(path, ids)
    items: Any = ids_in(InputFile(path), "customer_user_id")
    read = iter(items)
    begin = [next(read)]
    with path.open("a") as file:
        file.write("anna\n")

    assert begin + list(read) == ids
    assert list(items) == ids


def test_messages_name_few_columns() -> None:
    """A table with thousands of columns has no message of thousands of names."""
    names = ["".join(letters) for letters in itertools.product("abcdefghij", repeat=4)]
    with pytest.raises(InvalidInputError, match=r"aabj and 9,980 more$") as caught:
        id_columns("id")(names)
    assert len(str(caught.value)) < 500
    require_distinct(names)

    assert listed(["a", "b"], '"{}"') == '"a", "b"'
    assert listed([]) == ""


@pytest.mark.parametrize("value", [{}, {"\x1b[2J": None}, {"\x1b[2J": 1}])
def test_names_of_columns_do_not_act_on_a_terminal(value: dict[str, Any]) -> None:
    """The name of a column is escaped in each message about a row and the header."""
    mapping = RowMapping(ColumnOptions(id_column="\x1b[2J"), None, "customer_user_id")
    with pytest.raises(InvalidInputError, match=r"^\\x1b\[2J: "):
        mapping.id(value)
    with pytest.raises(InvalidInputError, match=r'no column "\\x1b\[2J"; found: none$'):
        mapping.check([])


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrows", ".xlsx"])
def test_files_that_were_joined_are_rejected(tmp_path: Path, suffix: str) -> None:
    """Readers of tables return the rows of one of the files, and would leave out the others."""
    whole, part = tmp_path / f"ids{suffix}", tmp_path / f"part{suffix}"
    _write(part, ["user_1", "user_2"])
    whole.write_bytes(2 * part.read_bytes())

    items: Any = ids_in(InputFile(part), "customer_user_id")
    assert list(items) == ["user_1", "user_2"]
    with pytest.raises(InvalidInputError, match="consists of several files that were joined"):
        ids_in(InputFile(whole), "customer_user_id")


@pytest.mark.parametrize("before", [0, 7, 256 * 1024 - 4, 256 * 1024 - 1, 256 * 1024])
def test_a_joint_of_files_is_found_between_blocks(tmp_path: Path, before: int) -> None:
    """A file is read block by block, and the joint may be in two of them."""
    path = tmp_path / "ids"
    path.write_bytes(before * b"-" + b"ENDBEGIN" + 9 * b"-")

    with pytest.raises(InvalidInputError, match="were joined"):
        require_one_file(str(path), b"ENDBEGIN")
    require_one_file(str(path), b"ENDBEGUN")


def test_a_file_that_is_read_as_other_rows_is_another_input(tmp_path: Path) -> None:
    """A journal has positions of rows, and each has to be the row that it was."""
    path = tmp_path / "ids.csv"
    _write(path, ["user_1", "user_2"])
    items: Any = ids_in(InputFile(path), "customer_user_id")
    earlier = items.identity()

    assert items.difference(earlier) is None
    assert "read as 3 rows, and is read as 2" in items.difference(earlier | {"rows": 3})
    with path.open("a") as file:
        file.write("user_3\n")
    grown: Any = ids_in(InputFile(path), "customer_user_id")
    assert grown.difference(earlier) is None
