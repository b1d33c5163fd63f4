"""The example of a scheduled export: a Parquet file for each month."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapty_async import AdaptyExportClient
from adapty_async.export import Filters
from adapty_async.sandbox import Sandbox
from examples import export_to_parquet
from examples.export_to_parquet import export, main, write
from tests.raw_server import RawServer, reply

FIRST, LAST = dt.date(2025, 1, 1), dt.date(2025, 3, 10)
MONTHS = ["2025-01.parquet", "2025-02.parquet", "2025-03.parquet"]


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """Serve a sandbox that a client finds by its environment."""
    async with Sandbox() as serving:
        monkeypatch.setenv("ADAPTY_API_KEY", serving.api_key)
        monkeypatch.setenv("ADAPTY_EXPORT_BASE_URL", serving.url)
        yield serving


def exports(sandbox: Sandbox) -> int:
    """Return the number of requests without those that came too early, and again."""
    return sum(arrival.status != 429 for arrival in sandbox.arrivals())


def names_in(folder: Path) -> list[str]:
    """Return the names of all files in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def test_an_export_that_ends_early_is_resumed(sandbox: Sandbox, tmp_path: Path) -> None:
    """A cancelled export leaves complete months alone, and the next one writes those missing."""
    folder = tmp_path / "charts" / "revenue"
    task = asyncio.create_task(export("revenue", folder, FIRST, LAST))
    while not (folder / MONTHS[0]).exists():
        assert not task.done()
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names_in(folder) == MONTHS[:1]

    assert [path.name for path in await export("revenue", folder, FIRST, LAST)] == MONTHS[1:]
    assert names_in(folder) == MONTHS
    assert await export("revenue", folder, FIRST, LAST) == []
    rows = pq.read_table(folder).num_rows
    async with AdaptyExportClient() as adapty:
        filters = Filters(date=(FIRST, LAST))
        whole = adapty.analytics(
            chart_id="revenue", filters=filters, period_unit="day", format="csv"
        )
        assert rows == (await whole.to_arrow()).num_rows == 31 + 28 + 10
    assert exports(sandbox) <= 5  # three months, the one that was cancelled, and the whole


async def test_a_month_is_exported_until_it_is_settled(sandbox: Sandbox, tmp_path: Path) -> None:
    """A file that was written within 35 days of the end of its month is replaced."""
    await export("installs", tmp_path, FIRST, FIRST)
    path = tmp_path / MONTHS[0]
    columns = {str(field.type) for field in pq.read_schema(path)}
    settled = dt.datetime(2025, 2, 6, tzinfo=dt.UTC).timestamp()

    assert "int64" not in columns
    for seconds, expected in ((settled - 1, [path]), (settled, [])):
        os.utime(path, (seconds, seconds))
        assert await export("installs", tmp_path, FIRST, FIRST) == expected
    assert exports(sandbox) == 2


def test_months_can_be_joined(tmp_path: Path) -> None:
    """A column with whole numbers or nothing in one month has the type of its other months."""
    for number, cells in enumerate([[1, 2], [0.5, 2.5], [None, None]]):
        write(pa.table({"date": ["a", "b"], "value": cells}), tmp_path / f"{number}.parquet")
    write(pa.table({"date": pa.nulls(0), "value": pa.nulls(0)}), tmp_path / "empty.parquet")

    joined = pq.read_table(tmp_path)["value"].to_pylist()
    assert joined == [1.0, 2.0, 0.5, 2.5, None, None]
    assert "empty.parquet" not in names_in(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [[], ["revenue", "charts"], ["revenue", "charts", "january"]],
    ids=["none", "no month", "no number"],
)
def test_a_wrong_call_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The usage names the arguments."""
    assert main(arguments) == 2
    assert capsys.readouterr().err == "Usage: export_to_parquet.py CHART FOLDER YYYY-MM\n"


async def test_the_command_exports_up_to_this_month(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A chart is written; a failure of the API that may pass has the exit code 1."""
    month = f"{dt.datetime.now(dt.UTC):%Y-%m}"
    assert await asyncio.to_thread(main, ["revenue", str(tmp_path), month]) == 0
    assert names_in(tmp_path)[0] == f"{month}.parquet"
    async with RawServer(then=(reply(503, retry_after="9999"),)) as server:
        monkeypatch.setenv("ADAPTY_EXPORT_BASE_URL", server.url)
        assert await asyncio.to_thread(main, ["revenue", str(tmp_path / "x"), month]) == 1
    assert capsys.readouterr().err.endswith("; the next run exports what is missing\n")


async def test_an_error_that_stays_is_one_line(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong chart, folder or key has the exit code 2, and no promise that the next run helps."""
    file = tmp_path / "file"
    file.touch()

    async def failed(chart: str, folder: Path) -> str:
        assert await asyncio.to_thread(main, [chart, str(folder), "2025-01"]) == 2
        return capsys.readouterr().err

    for chart, folder, reason in (
        ("revenu", tmp_path, "status 400"),
        ("revenue", file, "File exists"),
    ):
        error = await failed(chart, folder)
        assert error.startswith("export_to_parquet.py: ")
        assert reason in error
        assert "the next run" not in error
    monkeypatch.setenv("ADAPTY_API_KEY", f"{sandbox.api_key}x")
    assert "status 401" in await failed("revenue", tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="the signal is another one")
def test_an_interruption_is_one_line(tmp_path: Path) -> None:
    """Ctrl-C ends the command with the exit code of a shell."""
    command = [sys.executable, export_to_parquet.__file__, "revenue", str(tmp_path), "2025-01"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = os.environ | {"ADAPTY_API_KEY": "secret", "ADAPTY_EXPORT_BASE_URL": url}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, error = process.communicate(timeout=60)

    assert process.returncode == 130
    assert error == b"Interrupted. The next run exports what is missing.\n"
