"""Reports from a program: what is written, and whether everything is final."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from adapty_async import AdaptyClient, BulkReport, BulkRun
from adapty_async._report import write_file
from adapty_async.errors import ConfigError, InvalidInputError, JournalError
from adapty_async.files import InputFile
from adapty_async.report import write_report
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport
from adapty_async.v2 import ProfileAttributes
from tests.report.journals import Recorded, run, write

IDS = ["anna", "ben", "anna", "nobody"]


async def erase(folder: Path) -> None:
    """Erase people with a journal and an outcomes file."""
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["anna", "ben", "carl"])
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
            await adapty.v2.profiles.bulk_delete(
                IDS,
                by="customer_user_id",
                journal=folder / "run.db",
                outcomes=folder / "run.ndjson",
            )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the records of an erasure."""
    asyncio.run(erase(tmp_path))
    return tmp_path


def test_a_report_of_a_run_is_a_page_without_ids(folder: Path) -> None:
    """The page has the operation and the check, and only its owner can read it."""
    page = folder / "report.html"

    assert write_report(folder / "run.db", page, outcomes=folder / "run.ndjson", ids=IDS)
    text = page.read_text("utf-8")
    assert "v2.profiles.delete by customer_user_id" in text
    assert "Each row of <code><bdi>ids</bdi></code> has a final outcome" in text
    assert not [name for name in ("anna", "ben", "nobody") if name in text]
    assert page.stat().st_mode & 0o777 == 0o600


def test_an_id_without_an_outcome_is_named_by_its_position(folder: Path) -> None:
    """A list with somebody who was not sent is not complete."""
    output = folder / "report.json"
    ids = (one for one in ["ben", "carl", "anna"])

    assert not write_report(folder / "run.db", output, outcomes=folder / "run.ndjson", ids=ids)
    content = json.loads(output.read_text("utf-8"))
    assert content["check"]["missing"] == [{"line": 2, "state": "none"}]
    assert content["outcomes"]["counts"] == {"absent": 1, "done": 2}


@pytest.mark.parametrize("call", ["delete", "update"])
async def test_an_id_that_comes_again_after_a_stop_is_final(call: str, tmp_path: Path) -> None:
    """A row behind the end of a stopped run is a duplicate when the run resumes."""
    ids = ["anna", "ben", "anna"]
    done: tuple[int, dict[str, str], bytes] = (200, {}, b"{}")
    transport = FakeTransport([done, (400, {}, b'{"error_code":"bad_request"}'), done])
    options: Any = {"by": "customer_user_id", "journal": tmp_path / "run.db", "concurrency": 1}
    options["outcomes"] = tmp_path / "run.ndjson"
    reports: list[BulkReport[Any, Any]] = []
    async with AdaptyClient("key", transport=transport) as adapty:
        profiles = adapty.v2.profiles
        run: BulkRun[Any, Any]
        for fail_fast in (True, False):
            if call == "delete":
                run = profiles.bulk_delete(ids, **options, fail_fast=fail_fast)
            else:
                pairs = [(one, ProfileAttributes(first_name="A")) for one in ids]
                run = profiles.bulk_update(pairs, **options, fail_fast=fail_fast)
            reports.append(await run)

    first, second = reports
    assert (first.done, first.failed, first.skipped) == (1, 1, 1)
    assert (second.done, second.skipped) == (1, 2)
    output = tmp_path / "report.json"
    assert write_report(tmp_path / "run.db", output, outcomes=tmp_path / "run.ndjson", ids=ids)


@pytest.mark.parametrize("ids", [None, ["u1"]], ids=["items", "ids"])
async def test_an_outcomes_file_of_other_runs_proves_nothing(
    ids: list[str] | None, tmp_path: Path
) -> None:
    """A complete journal and an id that is done elsewhere are no proof together."""
    await write(tmp_path / "run.db", Recorded(run=run(), states="dddddddddd"))
    facts = {"http_status": 204, "request_id": None, "attempts": 1, "error": None}
    entry = {"line": 1, "id": "u1", "status": "done", "at": "2020-01-01T00:00:00Z"} | facts
    (tmp_path / "other.ndjson").write_text(json.dumps(entry) + "\n")
    output = tmp_path / "report.html"

    assert not write_report(
        tmp_path / "run.db", output, outcomes=tmp_path / "other.ndjson", ids=ids
    )
    assert "outcomes of other runs" in output.read_text("utf-8")


def test_a_journal_that_does_not_know_its_items_is_not_complete_by_itself(folder: Path) -> None:
    """Without ids, a run over an iterable has no number of items to compare with."""
    assert not write_report(folder / "run.db", folder / "report.html")


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        pytest.param("ddddaaaauu", False, id="unknown outcomes"),
        pytest.param("ddddaaaadd", True, id="final outcomes"),
    ],
)
async def test_a_journal_that_knows_its_items_is_complete_by_itself(
    states: str, *, expected: bool, tmp_path: Path
) -> None:
    """Without ids, each of the ten items of a file must be final in the journal."""
    await write(tmp_path / "run.db", Recorded(run=run(), states=states))

    assert write_report(tmp_path / "run.db", tmp_path / "report.html") == expected


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param("run.db", "output must not be the journal", id="journal"),
        pytest.param("run.db-wal", "output must not be the journal", id="side file"),
        pytest.param("run.ndjson", "output must not be .* the outcomes file", id="outcomes"),
        pytest.param(".", "must be a regular file", id="folder"),
        pytest.param("none/report.html", "cannot be written: No such file", id="missing folder"),
    ],
)
def test_a_report_replaces_no_other_file(output: str, message: str, folder: Path) -> None:
    """A path that is no free place for a report is rejected, and the records stay."""
    before = {path: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(ConfigError, match=message):
        write_report(folder / "run.db", folder / output, outcomes=folder / "run.ndjson")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_report_replaces_only_a_report(folder: Path) -> None:
    """The outcomes file of the runs stays as it is, although the caller does not name it."""
    outcomes = folder / "run.ndjson"
    before = outcomes.read_bytes()

    with pytest.raises(ConfigError, match="it holds something else than a report"):
        write_report(folder / "run.db", outcomes)
    assert outcomes.read_bytes() == before
    for name in ("report.html", "report.json"):
        for _ in range(2):
            write_report(folder / "run.db", folder / name)


def test_ids_are_looked_up_in_outcomes(folder: Path) -> None:
    """A journal has no ids, so ids without an outcomes file are a mistake."""
    with pytest.raises(ConfigError, match="ids need outcomes"):
        write_report(folder / "run.db", folder / "report.html", ids=IDS)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        pytest.param("anna", "several ids, not one string", id="one id"),
        pytest.param(b"anna", "several ids, not one string", id="bytes"),
        pytest.param(InputFile("ids.csv"), "pass the column of a file", id="file"),
        pytest.param(pl.DataFrame({"anna": ["ben"]}), "column of .* a data frame", id="frame"),
        pytest.param(pd.DataFrame({"anna": ["ben"]}), "column of .* a data frame", id="columns"),
        pytest.param(7, "must be several ids", id="number"),
    ],
)
def test_ids_are_several(ids: Any, message: str, folder: Path) -> None:
    """The characters of a string and the columns of a frame are not checked as ids."""
    with pytest.raises(ConfigError, match=message):
        write_report(
            folder / "run.db", folder / "report.html", outcomes=folder / "run.ndjson", ids=ids
        )
    assert not (folder / "report.html").exists()


def test_a_column_of_a_data_frame_has_ids(folder: Path) -> None:
    """The values of a column are ids; one that is no text has no outcome."""
    output, outcomes = folder / "report.json", folder / "run.ndjson"

    assert write_report(folder / "run.db", output, outcomes=outcomes, ids=pl.Series(IDS))
    assert not write_report(
        folder / "run.db", output, outcomes=outcomes, ids=pd.Series([*IDS, None], dtype=object)
    )
    content = json.loads(output.read_text("utf-8"))
    assert content["check"]["missing"] == [{"line": 5, "state": "unreadable"}]


def test_an_empty_list_of_ids_is_no_proof(folder: Path) -> None:
    """Ids that are none are rejected, as an empty file is on the command line."""
    with pytest.raises(InvalidInputError, match="ids: must have at least one id"):
        write_report(
            folder / "run.db", folder / "report.html", outcomes=folder / "run.ndjson", ids=iter([])
        )
    assert not (folder / "report.html").exists()


def test_a_report_needs_a_journal(tmp_path: Path) -> None:
    """A journal that is not there has no report."""
    with pytest.raises(JournalError, match=r"run\.db"):
        write_report(tmp_path / "run.db", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    """A report that cannot be finished is not there at all."""
    path = tmp_path / "report.html"
    path.write_text("an earlier report")

    def pieces() -> Iterator[str]:
        yield "half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        write_file(path, pieces())
    assert [each.read_text() for each in tmp_path.iterdir()] == ["an earlier report"]
