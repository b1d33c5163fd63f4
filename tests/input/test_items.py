"""Files as the items of bulk methods: the same rows as on the command line, with positions."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapty_async import AdaptyClient, AdaptyMailClient, JournalError, v2
from adapty_async._input.items import ids_in, pairs_in
from adapty_async._input.mapping import ColumnOptions, RowMapping
from adapty_async.bulk import EarlierStatus, OutcomeStatus
from adapty_async.errors import InvalidInputError
from adapty_async.files import InputFile, UnreadableRow
from adapty_async.sandbox import Sandbox
from tests.input.tables import (
    write_csv,
    write_excel,
    write_feather,
    write_ndjson,
    write_parquet,
)

UTC = "2026-01-01T00:00:00+00:00"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a sandbox with some profiles."""
    async with Sandbox() as running:
        running.seed_profiles(f"u{number}" for number in range(1, 6))
        yield running


def client_of(sandbox: Sandbox) -> AdaptyClient:
    """Return a client of the sandbox."""
    return AdaptyClient(sandbox.api_key, base_url=sandbox.url)


def write(path: Path, rows: list[list[Any]]) -> Path:
    """Write rows, the first one with the names, in the format of the path."""
    names, *cells = rows
    columns = {name: [row[i] for row in cells] for i, name in enumerate(names)}
    if path.suffix == ".parquet":
        return write_parquet(path, columns)
    if path.suffix == ".feather":
        return write_feather(path, columns)
    writers = {".csv": write_csv, ".ndjson": write_ndjson, ".xlsx": write_excel}
    return writers[path.suffix](path, rows)


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "parquet", "feather", "xlsx"])
async def test_a_file_of_each_format_is_erased(
    sandbox: Sandbox, tmp_path: Path, suffix: str
) -> None:
    """The users of a file are erased, a row without an id fails alone, and the counts add up."""
    path = write(
        tmp_path / f"ids.{suffix}",
        [["customer_user_id", "x"], ["u1", 1], [None, 2], ["u3", 3], ["nobody", 4]],
    )
    async with client_of(sandbox) as adapty:
        report = await adapty.v2.profiles.bulk_delete(InputFile(path), by="customer_user_id")

    assert (report.total, report.done, report.absent, report.failed) == (4, 2, 1, 1)
    assert sandbox.customer_user_ids() == {"u2", "u4", "u5"}
    failure: Any = report.failures[0]
    assert isinstance(failure.item, UnreadableRow)
    assert str(failure.error) == "customer_user_id: is required"


async def test_a_file_resumes_by_position(sandbox: Sandbox, tmp_path: Path) -> None:
    """A further run with the same journal skips rows by position, and another file is rejected."""
    path = write(tmp_path / "ids.parquet", [["customer_user_id"], ["u1"], ["u2"], ["u1"]])
    journal = tmp_path / "run.db"
    async with client_of(sandbox) as adapty:
        profiles = adapty.v2.profiles
        first = await profiles.bulk_delete(
            InputFile(path), by="customer_user_id", journal=journal, outcomes=tmp_path / "o.ndjson"
        )
        again = await profiles.bulk_delete(InputFile(path), by="customer_user_id", journal=journal)
        write(path, [["customer_user_id"], ["u1"], ["u2"], ["u1"], ["u3"]])
        with pytest.raises(JournalError, match="bytes"):
            await profiles.bulk_delete(InputFile(path), by="customer_user_id", journal=journal)

        write(path, [["customer_user_id"], ["u1"], ["u2"], ["u1"]])
        with pytest.raises(JournalError, match="the file was read with another format"):
            await profiles.bulk_delete(
                InputFile(path, ignore_unknown=True), by="customer_user_id", journal=journal
            )

    assert (first.done, first.absent) == (2, 1)
    assert again.skipped_earlier == {
        EarlierStatus.DONE: 2,
        EarlierStatus.ABSENT: 1,
        EarlierStatus.DUPLICATE: 0,
    }
    assert "u3" in sandbox.customer_user_ids()
    assert (tmp_path / "o.ndjson").read_text().count('"id":"u1"') == 2


async def test_outcomes_of_a_file_have_its_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rows of several lines, and rows that are left out, move the lines of the rows below."""
    path, outcomes = tmp_path / "crm.csv", tmp_path / "o.ndjson"
    path.write_text('id;note\nu1;x\nu2;"a\nb"\n;c\n u3;d\nu4;"e\nf\ng"\nu5;\n')
    rows = InputFile(path, id_column="id", skip_rows_without_id=True)
    async with client_of(sandbox) as adapty:
        for _ in range(2):  # the second run reads the file again
            await adapty.v2.profiles.bulk_delete(rows, by="customer_user_id", outcomes=outcomes)

    found = [json.loads(line) for line in outcomes.read_text().splitlines()]
    expected = [("u1", 2), ("u2", 3), (" u3", 6), ("u4", 7), ("u5", 10)]
    assert sorted((each["id"], each["line"]) for each in found) == sorted(expected * 2)


_READ_ANOTHER_WAY = "the file was read with another format, encoding, sheet or column mapping"


class _BytesPath(os.PathLike[bytes]):
    """A path of bytes."""

    def __fspath__(self) -> bytes:
        return b"ids.csv"


async def test_a_job_id_does_not_stand_for_the_content_of_a_file(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A file that was sorted has other ids in its positions, whatever its job is called."""
    path, journal = tmp_path / "ids.txt", tmp_path / "run.db"
    path.write_text("u1\nu3\n")
    options: Any = {"by": "customer_user_id", "journal": journal}
    async with client_of(sandbox) as adapty:
        delete = adapty.v2.profiles.bulk_delete
        await delete(InputFile(path), **options, job_id="job")
        with pytest.raises(JournalError, match="job_id 'job' there, 'other' here"):
            await delete(InputFile(path), **options, job_id="other")
        path.write_text("u2\nu1\n")
        with pytest.raises(JournalError, match="the file's first 6 bytes have changed"):
            await delete(InputFile(path), **options, job_id="job")
        path.write_text("u1\nu3\nu2\n")
        report = await delete(InputFile(path), **options, job_id="job")

    assert (report.skipped, report.done + report.absent) == (2, 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"encoding": "cp1252"}, {"encoding": "cp1251"}, id="encoding"),
        pytest.param({"format": "csv"}, {"format": "text"}, id="format"),
        pytest.param({}, {"id_column": "x"}, id="id-column"),
        pytest.param({}, {"columns": {"x": "customer_user_id"}}, id="columns"),
        pytest.param({}, {"ignore_unknown": True}, id="ignore-unknown"),
        pytest.param({}, {"skip_rows_without_id": True}, id="skipped-rows"),
        pytest.param({}, {"preset": "segment", "id_column": "customer_user_id"}, id="preset"),
    ],
)
async def test_a_journal_belongs_to_one_reading(
    sandbox: Sandbox, tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """The same file read another way has other ids, so no row of it is skipped."""
    path = tmp_path / "ids.csv"
    path.write_bytes(b"customer_user_id,x,id,received_at\nu1,u2,,\n")
    journal = tmp_path / "run.db"
    async with client_of(sandbox) as adapty:
        profiles = adapty.v2.profiles
        await profiles.bulk_delete(InputFile(path, **first), by="customer_user_id", journal=journal)
        with pytest.raises(JournalError, match=_READ_ANOTHER_WAY):
            await profiles.bulk_delete(
                InputFile(path, **second), by="customer_user_id", journal=journal
            )
        again = await profiles.bulk_delete(
            InputFile(path, **first), by="customer_user_id", journal=journal
        )

    assert again.skipped == 1
    assert "u2" in sandbox.customer_user_ids()


async def test_a_journal_belongs_to_the_constants_and_the_sheet(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Another constant or sheet is another request for the same row."""
    path = write(tmp_path / "ids.xlsx", [["customer_user_id"], ["u1"]])
    journal = tmp_path / "run.db"
    level = {"access_level_id": "premium"}
    others: list[dict[str, Any]] = [
        {"constants": {"access_level_id": "vip"}},
        {"constants": level, "sheet": "Users"},
    ]
    async with client_of(sandbox) as adapty:
        grants = adapty.v2.access_levels
        await grants.bulk_grant(
            InputFile(path, constants=level), by="customer_user_id", journal=journal
        )
        for other in others:
            with pytest.raises(JournalError, match=_READ_ANOTHER_WAY):
                await grants.bulk_grant(
                    InputFile(path, **other), by="customer_user_id", journal=journal
                )


def test_readings_are_not_confused() -> None:
    """No part of the identity of a reading passes for another part, and equal ones are equal."""

    def identity(sheet: str | None, id_column: str, encoding: str = "utf-8") -> str:
        options = ColumnOptions(id_column=id_column)
        return RowMapping(options, None, "customer_user_id").identity("csv", encoding, sheet)

    assert identity("a", "bc") != identity("ab", "c")
    assert identity(None, "None") != identity("None", "")
    assert identity("a', 'b", "c") != identity("a", "b', 'c")
    assert identity(None, "a") == identity(None, "a")


def test_an_encoding_has_one_name(tmp_path: Path) -> None:
    """UTF-8 is the same encoding by default and under each of its names."""
    path = write(tmp_path / "ids.csv", [["customer_user_id"], ["u1"]])
    found: list[Any] = [
        ids_in(InputFile(path, encoding=name), "customer_user_id")
        for name in (None, "utf8", "UTF-8")
    ]

    assert [one.identity() for one in found] == [found[0].identity()] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"format": "xml"},
            "format: must be one of csv, ndjson, text, parquet, arrow, excel",
            id="format",
        ),
        pytest.param({"format": ""}, "format: must be one of", id="empty-format"),
        pytest.param({"preset": "nobody"}, "preset: must be one of revenuecat", id="preset"),
        pytest.param({"encoding": "x"}, "encoding: 'x' is unknown", id="encoding"),
        pytest.param({"encoding": 8}, "encoding: must be text that is not empty", id="number"),
        pytest.param({"sheet": 1}, "sheet: must be text that is not empty", id="sheet"),
        pytest.param({"id_column": ""}, "id_column: must be text that is not empty", id="column"),
        pytest.param({"columns": ["a"]}, "columns: must be a mapping", id="columns"),
        pytest.param({"columns": {"a": 1}}, "columns: must map each column", id="field"),
        pytest.param({"columns": {"a": [1]}}, "columns: must map each column", id="fields"),
        pytest.param({"constants": ["a"]}, "constants: must map fields to text", id="constants"),
        pytest.param({"constants": {"a": 1}}, "constants: must map fields to text", id="constant"),
        pytest.param({"path": 1}, "path: must be text or a path, not int", id="path"),
        pytest.param({"path": b"a"}, "path: must be text or a path, not bytes", id="bytes"),
        pytest.param({"path": _BytesPath()}, "path: must be a path of text", id="bytes-path"),
    ],
)
def test_options_of_a_file_are_checked(options: dict[str, Any], message: str) -> None:
    """An argument that cannot be meant is rejected at once, by the name of the parameter."""
    with pytest.raises(InvalidInputError, match=f"^{re.escape(message)}"):
        InputFile(**{"path": "ids.csv"} | options)


async def test_no_message_of_a_program_names_options_of_commands(sandbox: Sandbox) -> None:
    """What the mapping rejects has the name of the parameter."""
    async with client_of(sandbox) as adapty:
        with pytest.raises(InvalidInputError, match=r"^columns: unknown field") as raised:
            adapty.v2.profiles.bulk_update(
                InputFile("ids.csv", columns={"a": "b"}), by="customer_user_id"
            )
    assert raised.value.field == "columns"


async def test_a_frame_resumes_by_its_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    """A data frame has no identity: a journal knows its items by their requests, in any order."""
    journal = tmp_path / "run.db"
    frame = pl.DataFrame({"customer_user_id": ["u1", "u2"]})
    async with client_of(sandbox) as adapty:
        profiles = adapty.v2.profiles
        await profiles.bulk_delete(frame, by="customer_user_id", journal=journal)
        again = await profiles.bulk_delete(frame.reverse(), by="customer_user_id", journal=journal)

    assert again.skipped == 2


async def test_an_export_is_imported(sandbox: Sandbox, tmp_path: Path) -> None:
    """Options of a file are those of the command line: a preset, columns, constants."""
    path = write(
        tmp_path / "transactions.csv",
        [
            [
                "rc_original_app_user_id",
                "store",
                "product_identifier",
                "store_transaction_id",
                "original_store_transaction_id",
                "start_time",
                "end_time",
                "is_auto_renewable",
                "country",
                "purchased_currency",
                "purchase_price_in_purchased_currency",
            ],
            [
                *("u1", "stripe", "m", "t1", "t1", "2026-01-01T10:00", "2026-02-01T10:00"),
                *("true", "US", "USD", "9.99"),
            ],
        ],
    )
    source = InputFile(
        path,
        preset="revenuecat",
        id_column="rc_original_app_user_id",
        columns={"start_time": ["originally_purchased_at", "purchased_at"]},
        constants={"renew_status": "true"},
    )
    assert repr(source) == f"InputFile({str(path)!r})"
    async with client_of(sandbox) as adapty:
        report = await adapty.v2.transactions.bulk_set(source, by="customer_user_id")
        profile = await adapty.v2.profiles.get(customer_user_id="u1")

    assert report.done == 1, report.failures
    assert [one.store_product_id for one in profile.subscriptions] == ["m"]


async def test_all_bulk_methods_take_tables(sandbox: Sandbox, tmp_path: Path) -> None:
    """Every bulk method with columns takes a frame, and creates what it describes."""
    attributes = pd.DataFrame({"customer_user_id": ["u1", "new"], "first_name": ["Jane", None]})
    async with client_of(sandbox) as adapty:
        v2_profiles = adapty.v2.profiles
        reports: list[Any] = [
            await v2_profiles.bulk_get_or_create(attributes),
            await v2_profiles.bulk_ensure(attributes[:1]),
            await v2_profiles.bulk_update(attributes[:1], by="customer_user_id"),
            await v2_profiles.bulk_get(attributes["customer_user_id"], by="customer_user_id"),
            await adapty.v2.access_levels.bulk_grant(
                pl.DataFrame({"customer_user_id": ["u1"], "access_level_id": ["premium"]}),
                by="customer_user_id",
            ),
            await adapty.v2.access_levels.bulk_revoke(
                InputFile(
                    write(tmp_path / "ids.csv", [["customer_user_id"], ["u1"]]),
                    constants={"access_level_id": "premium"},
                ),
                by="customer_user_id",
            ),
            await adapty.v1.profiles.bulk_delete(pl.Series(["u1", "u2"]), by="customer_user_id"),
        ]
        profile = await v2_profiles.get(customer_user_id="new")
    assert [report.done for report in reports] == [2, 1, 1, 2, 1, 1, 2], reports
    assert profile.customer_user_id == "new"

    mail_rows = pl.DataFrame(
        {
            "external_profile_id": ["e1"],
            "external_created_at": [UTC],
            "email": ["jane@example.com"],
            "custom_attributes": [{"visits": 7}],
        }
    )
    async with AdaptyMailClient(sandbox.mail_api_key, base_url=sandbox.url) as mail:
        assert (await mail.profiles.bulk_save(mail_rows)).done == 1
        ids = mail_rows.select("email")
        assert (await mail.profiles.bulk_delete(ids, by="email")).done == 1


async def test_no_method_takes_a_mapping(sandbox: Sandbox) -> None:
    """A mapping would be iterated as its keys."""
    items: Any = {"u1": "u1"}
    async with AdaptyClient(sandbox.api_key, public_key="k", base_url=sandbox.url) as adapty:
        for call in (
            lambda: adapty.bulk(items, build=lambda _: v2.delete_profile(profile_id="p")),
            lambda: adapty.v1.profiles.bulk_update(items, by="customer_user_id"),
            lambda: adapty.v2.profiles.bulk_delete(items, by="customer_user_id"),
            lambda: adapty.web.attribution.bulk_add(items, by="customer_user_id"),
        ):
            with pytest.raises(InvalidInputError, match="must not be a mapping"):
                call()


async def test_methods_without_columns_take_no_tables(sandbox: Sandbox, tmp_path: Path) -> None:
    """A data frame is never iterated as the names of its columns."""
    frame = pd.DataFrame({"u1": ["x"]})
    source: Any = InputFile(write(tmp_path / "ids.csv", [["u1"], ["x"]]))
    async with client_of(sandbox) as adapty:
        for items in (frame, source):
            with pytest.raises(InvalidInputError, match="must not be a data frame or an InputFile"):
                adapty.bulk(items, build=lambda one: v2.delete_profile(customer_user_id=one))
            with pytest.raises(InvalidInputError, match="must not be a data frame or an InputFile"):
                adapty.v1.profiles.bulk_update(items, by="customer_user_id")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param(
            "ids.txt",
            "u1\n",
            "must be CSV, NDJSON or a table: a line of text is an id only",
            id="text",
        ),
        pytest.param("ids.dat", "u1\n", "is required: the name does not end in", id="unknown"),
        pytest.param("ids.csv", "id\nu1\n", 'unknown column "id"', id="column"),
    ],
)
async def test_a_file_without_the_columns_is_rejected(
    sandbox: Sandbox, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    """A file that cannot have the items is rejected when the method gets it."""
    path = tmp_path / name
    path.write_text(content)
    async with client_of(sandbox) as adapty:
        with pytest.raises(InvalidInputError, match=reason):
            adapty.v2.profiles.bulk_update(InputFile(path), by="customer_user_id")


async def test_columns_that_are_left_out_are_logged(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown columns are named once, in a warning."""
    path = write(tmp_path / "ids.csv", [["customer_user_id", "note", "email"], ["u1", "x", None]])
    async with client_of(sandbox) as adapty:
        run = adapty.v2.profiles.bulk_update(
            InputFile(path, ignore_unknown=True), by="customer_user_id"
        )
        run.close()

    (message,) = (one.getMessage() for one in caplog.records)
    assert message == f'{path}, ids in "customer_user_id": Columns left out: note.'


async def test_a_pipe_is_rejected(sandbox: Sandbox) -> None:
    """An input that can be read only once is no file."""
    async with client_of(sandbox) as adapty:
        with pytest.raises(InvalidInputError, match="must be a file, not a pipe"):
            adapty.v2.profiles.bulk_delete(InputFile("/dev/null", format="text"), by="profile_id")


async def test_a_broken_row_fails_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    """A row that cannot be read is a failed outcome that names its line."""
    path = tmp_path / "ids.csv"
    path.write_text("customer_user_id,x\nu1,1\nu2\nu3,3\n")
    async with client_of(sandbox) as adapty:
        run = adapty.v2.profiles.bulk_delete(InputFile(path), by="customer_user_id", ordered=True)
        async with run:
            outcomes = [outcome async for outcome in run]

    assert [outcome.status for outcome in outcomes] == [
        OutcomeStatus.DONE,
        OutcomeStatus.FAILED,
        OutcomeStatus.DONE,
    ]
    assert str(outcomes[1].error) == "line 3: has 1 cell for 2 columns"


def _cells(*values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.tuples(*values).map(list)


_TEXT = st.text("abcXYZ0123 .,;'\"=-_@äß", min_size=1, max_size=12).filter(
    lambda text: text == text.strip() and not text.startswith(("=", "#"))
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        _cells(
            _TEXT,
            st.none() | _TEXT,
            st.none() | st.booleans(),
            st.sampled_from(["2026-01-01T00:00:00Z", "2026-06-01 10:30:00 UTC", None]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_all_formats_have_the_same_items(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[Any]]
) -> None:
    """A table is the same items, in the same order, whichever format it is written in."""
    folder = tmp_path_factory.mktemp("formats")
    names = ["id", "email", "analytics_disabled", "custom_attributes.at"]
    found = []
    for suffix in ("csv", "ndjson", "parquet", "feather", "xlsx"):
        source = InputFile(write(folder / f"rows.{suffix}", [names, *rows]), id_column="id")
        found.append(_items_of(source))

    assert all(items == found[0] for items in found)
    assert [item[0] for item in found[0]] == [row[0] for row in rows]


def _items_of(source: InputFile) -> list[Any]:
    items: Any = pairs_in(source, "customer_user_id", v2.ATTRIBUTE_COLUMNS)
    return [str(item.error) if isinstance(item, UnreadableRow) else item for item in items]


async def test_rows_without_an_id_are_left_out(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If asked to, a file leaves out rows without an id; outcomes are found by their lines."""
    path = write(
        tmp_path / "people.csv", [["id", "email"], ["", "a@x.com"], [" u1", ""], ["u2", ""]]
    )
    source = InputFile(path, id_column="id", skip_rows_without_id=True)
    journal = tmp_path / "run.db"
    async with client_of(sandbox) as adapty:
        profiles = adapty.v2.profiles
        report = await profiles.bulk_delete(source, by="customer_user_id", journal=journal)
        everybody = InputFile(path, id_column="id")
        with pytest.raises(JournalError, match="the file"):
            await profiles.bulk_delete(everybody, by="customer_user_id", journal=journal)
        whole = await profiles.bulk_delete(everybody, by="customer_user_id")

    assert (report.total, report.failed, whole.total, whole.failed) == (2, 1, 3, 2)
    assert source.line_numbers("customer_user_id") == [3, 4]
    assert everybody.line_numbers("customer_user_id") == [2, 3, 4]
    assert f'{path}, ids in "id": 1 row without an id, left out.' in caplog.text
