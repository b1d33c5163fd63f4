"""
Erase people from Adapty and Adapty Mail, and keep evidence of who was erased, when, and how.

``python erase_everywhere.py people.csv erasure`` reads the columns ``customer_user_id`` and
``email`` of the file; a cell may be empty. The keys are in ADAPTY_API_KEY and
ADAPTY_MAIL_API_KEY.

The folder ``erasure`` then has, for each of the two APIs, a journal (``.db``), the outcome of each
person (``.ndjson``, with their ids) and a report without ids (``.html``). After Ctrl-C, a crash or
a failure, the same command resumes: profiles that are deleted are skipped. People may be appended
to the file; after another change of it, such as a correction, use a new folder.

Exit codes: 0 every profile is deleted or absent, 1 some are not, 2 a wrong call, file or setting,
130 interrupted.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from adapty_async import AdaptyClient, AdaptyMailClient
from adapty_async.bulk import BulkRun, Outcome
from adapty_async.errors import AdaptyError, InvalidInputError
from adapty_async.files import InputFile
from adapty_async.report import write_report

# The column of each API.
COLUMNS = {"adapty": "customer_user_id", "mail": "email"}


def progress(api: str) -> Callable[[Outcome[str, None]], None]:
    """Return a callback that prints a line after every 1,000 people."""
    numbers = itertools.count(1)

    def show(_: Outcome[str, None]) -> None:
        if (number := next(numbers)) % 1000 == 0:
            print(f"{api}: {number:,} people", file=sys.stderr)

    return show


async def run(api: str, erasure: BulkRun[str, None], lines: list[int]) -> None:
    """Delete the profiles of one API; print the counts, and the line of each failure."""
    report = await erasure
    print(f"{api}: {report}")
    for failure in report.failures:
        where = f"{api}, line {lines[failure.index]}"
        print(f"{where}: {failure.status}: {failure.error}", file=sys.stderr)


async def erase(file: str, folder: Path) -> None:
    """Erase the people in a file from both APIs at the same time."""
    people = {
        api: InputFile(file, id_column=column, skip_rows_without_id=True)
        for api, column in COLUMNS.items()
    }
    # reads the file before anything is sent, and raises what is wrong with it
    lines = {api: each.line_numbers(COLUMNS[api]) for api, each in people.items()}
    if not any(lines.values()):
        raise InvalidInputError(file, "has no ids")
    async with AdaptyClient() as adapty, AdaptyMailClient() as mail:
        runs = {
            "adapty": adapty.v2.profiles.bulk_delete(
                people["adapty"],
                by="customer_user_id",
                journal=folder / "adapty.db",
                outcomes=folder / "adapty.ndjson",
                on_outcome=progress("adapty"),
            ),
            "mail": mail.profiles.bulk_delete(
                people["mail"],
                by="email",
                journal=folder / "mail.db",
                outcomes=folder / "mail.ndjson",
                on_outcome=progress("mail"),
            ),
        }
        async with asyncio.TaskGroup() as both:
            for api, each in runs.items():
                both.create_task(run(api, each, lines[api]))


def evidence(api: str, folder: Path) -> bool:
    """Write the report of an API; return whether every profile is deleted or absent."""
    outcomes = folder / f"{api}.ndjson"
    return write_report(folder / f"{api}.db", folder / f"{api}.html", outcomes=outcomes)


def main(arguments: list[str]) -> int:
    """Erase the people in a file, write the evidence, and return the exit code."""
    if len(arguments) != 2:
        print("Usage: erase_everywhere.py PEOPLE.csv FOLDER", file=sys.stderr)
        return 2
    file, folder = arguments[0], Path(arguments[1])
    code = 1
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        asyncio.run(erase(file, folder))
        complete = {api: evidence(api, folder) for api in COLUMNS}
        code = 0 if all(complete.values()) else 1
    except* (AdaptyError, OSError) as errors:
        print(f"erase_everywhere.py: {errors.exceptions[0]}", file=sys.stderr)
        code = 2
    except* KeyboardInterrupt:
        print("Interrupted. The same command resumes.", file=sys.stderr)
        code = 130
    return code


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")  # shows ids that look damaged
    sys.exit(main(sys.argv[1:]))
