"""
A script that erases the users in a text file, one id per line, from Adapty and Adapty Mail.

Run it as ``python examples/erase_users.py examples/erase.txt``; the keys are in ADAPTY_API_KEY and
ADAPTY_MAIL_API_KEY.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from adapty_async import AdaptyClient, AdaptyMailClient


def ids_in(path: Path) -> Iterator[str]:
    """Yield ids on demand, so that memory stays constant."""
    with path.open(encoding="utf-8", newline="\n") as lines:  # by default, a CR also ends a line
        for line in lines:
            yield line.rstrip("\r\n")


async def main(path: Path) -> int:
    """Erase all users, and return the exit code."""
    async with AdaptyClient() as adapty, AdaptyMailClient() as mail:
        profiles, people = await asyncio.gather(
            adapty.v1.profiles.bulk_delete(ids_in(path), by="customer_user_id"),
            mail.profiles.bulk_delete(ids_in(path), by="external_profile_id"),
        )
    print(f"Adapty: {profiles}\nMail:   {people}")
    for outcome in (*profiles.failures, *people.failures):
        print(f"line {outcome.index + 1}: {outcome.status}: {outcome.error}", file=sys.stderr)
    return 0 if profiles.ok and people.ok else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
