"""
Export a chart of Adapty's analytics to Parquet, a file for each month, on a schedule.

``python export_to_parquet.py revenue charts/revenue 2025-01`` writes ``2025-01.parquet`` and so on,
up to this month, into the folder. The secret key is in ADAPTY_API_KEY.

Run it every day. A month is exported again until it is over for SETTLED, since refunds change its
numbers; after that its file stays. A file appears when it is complete, so readers never see half a
month, and a run that ends early, or a second one at the same time, does no harm: the next run
exports what is missing.

Exit codes: 0 all files are up to date, 1 some are not, 2 a wrong call, folder, key or setting, 130
interrupted.

A line of a crontab, for a script that reads the key from a file::

    15 4 * * *  /srv/export.sh

A unit and a timer of systemd::

    [Service]
    Type=oneshot
    EnvironmentFile=/etc/adapty.env
    ExecStart=/srv/venv/bin/python /srv/export_to_parquet.py revenue /srv/charts 2025-01

    [Timer]
    OnCalendar=04:15
    Persistent=true
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from adapty_async import AdaptyExportClient
from adapty_async.errors import (
    AdaptyError,
    AuthenticationError,
    ConfigError,
    InvalidInputError,
    RequestRejectedError,
)
from adapty_async.export import Filters

SETTLED = dt.timedelta(days=35)

# Errors that the next run has, too, unless somebody changes the call, the key or a setting.
_LASTING = (AuthenticationError, ConfigError, InvalidInputError, RequestRejectedError)


async def export(chart: str, folder: Path, first: dt.date, last: dt.date) -> list[Path]:
    """Write the months of a chart that are missing or not settled, and return their files."""
    written = []
    async with AdaptyExportClient() as adapty:
        filters = Filters(date=(first, last))
        months = adapty.analytics(
            chart_id=chart, filters=filters, period_unit="day", tz="UTC", format="csv"
        ).chunks(by="month")
        for month, (begin, end) in zip(months.parts, months.dates, strict=True):
            path = folder / f"{begin:%Y-%m}.parquet"
            if not is_settled(path, end):
                write(await month.to_arrow(), path)
                written.append(path)
    return written


def is_settled(path: Path, end: dt.date) -> bool:
    """Return whether a file was written when the numbers of its month did not change any more."""
    if not path.exists():
        return False
    return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC).date() > end + SETTLED


def write(table: pa.Table, path: Path) -> None:
    """Write a table, unless it is empty, to a file that appears when it is complete."""
    if not table.num_rows:
        return
    # Whole numbers, and nothing, in one month may be fractions in another; readers join the files.
    fields = [
        field.with_type(pa.float64())
        if pa.types.is_integer(field.type) or pa.types.is_null(field.type)
        else field
        for field in table.schema
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        pq.write_table(table.cast(pa.schema(fields)), partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """Export the months up to this one, and return the exit code."""
    try:
        chart, folder, month = arguments
        first = dt.date.fromisoformat(f"{month}-01")
    except ValueError:
        print("Usage: export_to_parquet.py CHART FOLDER YYYY-MM", file=sys.stderr)
        return 2
    try:
        asyncio.run(export(chart, Path(folder), first, dt.datetime.now(dt.UTC).date()))
    except (*_LASTING, OSError) as error:
        print(f"export_to_parquet.py: {error}", file=sys.stderr)
        return 2
    except AdaptyError as error:
        print(f"{error}; the next run exports what is missing", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The next run exports what is missing.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
