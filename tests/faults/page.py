"""The page of faults: what happened, as a table."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.faults.catalogue import GROUPS
from tests.faults.ends import Ends, Fault
from tests.faults.kinds import KINDS
from tests.faults.rows import row

PAGE = Path(__file__).parent.parent.parent / "docs" / "faults.md"

_HEAD = """# What becomes of faults

{faults} faults of network and server, each over {kinds} kinds of calls, as single calls and in \
bulk runs, on real sockets: {calls:,} calls. The tests make them all, check each against what must \
come of it, and write this page with `make faults`.

- **read** is `v1.profiles.get()`, **delete** `v1.profiles.delete()`, **upsert** Mail's \
`profiles.save()`; these may be repeated. **create** is `v1.profiles.create()`, which may not be, \
once the server may have acted.
- A cell says how a single call ends, how an item of a bulk run ends, and how many requests came \
to the server. Where that is not what the client counts as attempts, their number follows. The \
policy is to make two attempts.
- All faults meet every request ("each time"). Where a repeat makes a difference, they also meet \
only the first ("once"): the next answer is a good one, or, to a delete that may have worked, "not \
found".
- After each call, another one is made over the same client, and succeeds at once. No connection \
and no task is left at the end.
- Errors, outcomes, events and logs of all these calls are searched, with the locals of every \
frame: the key is nowhere, and personal data only in the frame of the method that was called.

What may surprise:

- `create` ends as `unknown` in a bulk run where nobody can say whether the profile was created. \
It is not sent again; look before you do that.
- `delete` is `done` when a repeat finds nothing: the attempt whose answer was lost is what \
removed it.
- An answer with more bytes behind it than it announces counts as lost, if they come together. \
Bytes that come while a connection is idle cost that connection, and are never taken for the \
answer to the next request; a session of your own (`session=`) has not got that protection.
- gzip without its checksum is read, as by most clients.
"""


def rows() -> Iterator[tuple[Fault, bool]]:
    """Yield every row: a fault, and whether it happens only once."""
    for faults in GROUPS.values():
        for fault in faults:
            yield fault, False
            if fault.once is not None:
                yield fault, True


async def observed() -> dict[tuple[str, bool], Ends]:
    """Let every fault meet every kind of call."""
    return {(fault.what, once): (await row(fault, once=once)).ends for fault, once in rows()}


def written(happened: Mapping[tuple[str, bool], Ends]) -> str:
    """Return the page."""
    faults = sum(map(len, GROUPS.values()))
    head = _HEAD.format(faults=faults, kinds=len(KINDS), calls=2 * len(KINDS) * len(happened))
    return "\n".join([head, *_tables(happened)])


def _tables(happened: Mapping[tuple[str, bool], Ends]) -> Iterator[str]:
    for group, faults in GROUPS.items():
        yield f"## {group}\n"
        yield f"| fault | | {' | '.join(KINDS)} |"
        yield "|---" * (len(KINDS) + 2) + "|"
        for fault in faults:
            yield _line(fault.what, "each time", happened[fault.what, False])
            if fault.once is not None:
                yield _line("", "once", happened[fault.what, True])
        yield ""


def _line(what: str, when: str, ends: Ends) -> str:
    cells = " | ".join(str(ends[kind]) for kind in KINDS)
    return f"| {what} | {when} | {cells} |"


def write() -> None:
    """Make all calls and write the page."""
    PAGE.write_text(written(asyncio.run(observed())), encoding="utf-8")
