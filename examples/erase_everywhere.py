"""
Erase people from Adapty and Adapty Mail, and keep evidence of who was erased, when, and how.

``python erase_everywhere.py people.csv erasure`` reads the columns ``customer_user_id`` and
``email`` of the file; a cell may be empty. The keys are in ADAPTY_API_KEY and
ADAPTY_MAIL_API_KEY.

The folder ``erasure`` then has, for each of the two APIs, a journal (``.db``), the outcome of each
person (``.ndjson``, with their ids) and a report without ids (``.html``). After Ctrl-C, a crash or
a failure, the same command resumes: profiles that are deleted are skipped.

Exit codes: 0 every profile is deleted or absent, 1 some are not, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import csv
import sys
from pathlib import Path

from adapty_async import AdaptyClient, AdaptyMailClient
from adapty_async.report import write_report


def read_ids(people: Path, column: str) -> list[str]:
    """Return the cells of a column that are not empty."""
    with people.open(encoding="utf-8-sig", newline="") as file:
        return [row[column] for row in csv.DictReader(file, strict=True) if row[column]]


async def erase(users: list[str], emails: list[str], folder: Path) -> None:
    """Erase profiles from both APIs at the same time."""
    async with AdaptyClient() as adapty, AdaptyMailClient() as mail:
        reports = await asyncio.gather(
            adapty.v2.profiles.bulk_delete(
                users,
                by="customer_user_id",
                journal=folder / "adapty.db",
                outcomes=folder / "adapty.ndjson",
            ),
            mail.profiles.bulk_delete(
                emails, by="email", journal=folder / "mail.db", outcomes=folder / "mail.ndjson"
            ),
        )
    for report in reports:
        print(report)
        for failure in report.failures:
            print(f"item {failure.index + 1}: {failure.status}: {failure.error}", file=sys.stderr)


def main(people: Path, folder: Path) -> int:
    """Erase the people in a file, write the evidence, and return the exit code."""
    ids = {
        "adapty": read_ids(people, "customer_user_id"),
        "mail": read_ids(people, "email"),
    }
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        asyncio.run(erase(ids["adapty"], ids["mail"], folder))
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes.", file=sys.stderr)
        return 130
    complete = [
        write_report(
            folder / f"{api}.db",
            folder / f"{api}.html",
            outcomes=folder / f"{api}.ndjson",
            ids=listed,
        )
        for api, listed in ids.items()
    ]
    return 0 if all(complete) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
