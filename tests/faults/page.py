"""A generator of the page about faults: the observed ends of calls, as tables."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.faults.catalogue import GROUPS
from tests.faults.ends import Ends, Fault
from tests.faults.kinds import KINDS
from tests.faults.rows import row

PAGE = Path(__file__).parent.parent.parent / "docs" / "faults.md"

_HEAD = """# Fault handling: the outcome of each network fault

{faults} faults of network and server, each with {kinds} kinds of calls, as single calls and in \
bulk runs, on real sockets: {calls:,} calls. The tests make all of them and check each against its \
expected end; `make faults` writes this page.

- **read** is `v1.profiles.get()`, **delete** `v1.profiles.delete()`, **upsert** Mail's \
`profiles.save()`; these may be retried. **create** is `v1.profiles.create()`, which may not be \
retried once the server may have acted.
- A cell contains the end of a single call, the status of an item of a bulk run, and the number of \
requests that arrived at the server. If the client counts another number of attempts, that number \
follows. The retry policy allows two attempts.
- Each fault affects every request ("each time"). If a retry makes a difference, it also affects \
only the first request ("once"): the next response is a success, or, for a delete that may have \
been carried out, "not found".
- After each call, another call with the same client succeeds at its first attempt. No connection \
and no task is left at the end.
- Errors, outcomes, events and logs of all these calls are searched, with the locals of every \
frame: the API key appears nowhere, and personal data only in the frame of the called method.

Notable cases:

- `create` ends as `unknown` in a bulk run if the profile may have been created. It is not \
retried; check the profile before you send it again.
- `delete` is `done` if a retry finds nothing: the attempt with the lost response has deleted the \
profile.
- A response with more bytes than it announces counts as lost, if they arrive together. Bytes that \
arrive on an idle connection close it, and are never read as the response to the next request. A \
session of your own (`session=`) does not have that protection.
- gzip without its checksum is decoded, as by most clients.
"""


def rows() -> Iterator[tuple[Fault, bool]]:
    """Yield every row: a fault, and whether it affects only the first request."""
    for faults in GROUPS.values():
        for fault in faults:
            yield fault, False
            if fault.once is not None:
                yield fault, True


async def observed() -> dict[tuple[str, bool], Ends]:
    """Make every kind of call with every fault, and return the ends."""
    return {(fault.name, once): (await row(fault, once=once)).ends for fault, once in rows()}


def written(happened: Mapping[tuple[str, bool], Ends]) -> str:
    """Return the text of the page."""
    faults = sum(map(len, GROUPS.values()))
    head = _HEAD.format(faults=faults, kinds=len(KINDS), calls=2 * len(KINDS) * len(happened))
    return "\n".join([head, *_tables(happened)])


def _tables(happened: Mapping[tuple[str, bool], Ends]) -> Iterator[str]:
    for group, faults in GROUPS.items():
        yield f"## {group}\n"
        yield f"| fault | | {' | '.join(KINDS)} |"
        yield "|---" * (len(KINDS) + 2) + "|"
        for fault in faults:
            yield _line(fault.name, "each time", happened[fault.name, False])
            if fault.once is not None:
                yield _line("", "once", happened[fault.name, True])
        yield ""


def _line(name: str, when: str, ends: Ends) -> str:
    cells = " | ".join(str(ends[kind]) for kind in KINDS)
    return f"| {name} | {when} | {cells} |"


def write() -> None:
    """Make all calls and write the page."""
    PAGE.write_text(written(asyncio.run(observed())), encoding="utf-8")
