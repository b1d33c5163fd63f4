"""CONTRIBUTING follows a call through every module that it enters."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, cast

import adapty_async
from adapty_async import AdaptyClient
from tests.raw_server import RawServer

PACKAGE = Path(adapty_async.__file__).parent
TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")
# Helpers without a place in the walk: times, errors, values, and the inside of the journal.
HELPERS = {"config", "errors", "_api.validation", "_bulk.settings"}
INSIDE = ("_runtime.", "_journal.")
# Modules that are entered; a change that needs more of them makes a call harder to follow. Two are
# of the adaptive rate limiter: its decisions, and the parts of its state.
OF_A_DELETE, OF_A_RUN = 15, 35


def named_after(heading: str) -> set[str]:
    """Return the modules that a walk of CONTRIBUTING names."""
    walk = TEXT.partition(f"### {heading}")[2].partition("\n#")[0]
    dotted = re.findall(r"`((?:_\w+\.)?\w+)\.\w+(?:\.\w+)*`", walk)
    return {name for name in dotted if (PACKAGE / f"{name.replace('.', '/')}.py").exists()}


async def entered(call: Callable[[], Coroutine[Any, Any, object]]) -> set[str]:
    """Return the modules of the package in which a call runs a function, in any thread."""
    codes: set[CodeType] = set()

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    before = sys.getprofile()
    threading.setprofile(record)
    sys.setprofile(record)
    try:
        await call()
    finally:
        sys.setprofile(before)
        threading.setprofile(cast("Any", None))
    paths = {Path(code.co_filename) for code in codes.copy()}  # a thread may still add to it
    inside = {path.relative_to(PACKAGE) for path in paths if path.is_relative_to(PACKAGE)}
    return {".".join(path.with_suffix("").parts) for path in inside}


def missing(modules: set[str], named: set[str]) -> set[str]:
    """Return the modules that should be in a walk and are not."""
    return {each for each in modules - named - HELPERS if not each.startswith(INSIDE)}


async def test_the_walk_of_a_deletion_names_every_module() -> None:
    """A single deletion over a kept connection enters no module that the walk leaves out."""
    async with RawServer() as server, AdaptyClient("secret_live_x", base_url=server.url) as client:
        delete = client.v1.profiles.delete
        await delete(customer_user_id="u0")
        modules = await entered(lambda: delete(customer_user_id="u1"))

    assert missing(modules, named_after("One deletion")) == set()
    assert len(modules) <= OF_A_DELETE, sorted(modules)


async def test_the_walk_of_a_bulk_deletion_names_every_module(tmp_path: Path) -> None:
    """A bulk deletion with a journal enters no module that both walks leave out."""
    async with RawServer() as server, AdaptyClient("secret_live_x", base_url=server.url) as client:
        await client.v1.profiles.delete(customer_user_id="u")
        run = client.v1.profiles.bulk_delete
        ids = [f"u{number}" for number in range(3)]

        async def erase() -> object:
            return await run(ids, by="customer_user_id", journal=tmp_path / "journal")

        modules = await entered(erase)

    named = named_after("One deletion") | named_after("One bulk deletion")
    assert missing(modules, named) == set()
    assert len(modules) <= OF_A_RUN, sorted(modules)
