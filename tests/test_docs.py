"""The examples of the README, the documentation and the examples folder, run as they stand."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import sys
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapty_async import AdaptyClient, v1, v2, web
from adapty_async.sandbox import Sandbox
from tests.warm import run_warm

pytestmark = pytest.mark.unmeasured

_ROOT = Path(__file__).parent.parent
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])"
_EXAMPLES = [
    pytest.param(match[1], id=f"{page.stem}-{number}")
    for page in _PAGES
    for number, match in enumerate(_BLOCK.finditer(page.read_text(encoding="utf-8")))
]


async def _run(arguments: Sequence[str], sandbox: Sandbox, folder: Path) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        *arguments,
        env=os.environ | sandbox.environment,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def test_every_page_is_found() -> None:
    """The README and the pages with examples are collected."""
    assert len(_EXAMPLES) >= 9


@pytest.mark.parametrize("page", _PAGES, ids=attrgetter("stem"))
def test_examples_of_a_page_do_not_share_a_journal(page: Path) -> None:
    """A reader may copy all examples of a page into one folder: no journal is of another run."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    named = [set(re.findall(r'(?:journal="|--journal )([\w.-]+)', block)) for block in blocks]

    assert sum(map(len, named)) == len(set().union(*named))


_CALLS = {
    page.stem: set(
        re.findall(r"\b(v[12](?:\.\w+)+|web(?:\.\w+){2,})\(", page.read_text(encoding="utf-8"))
    )
    for page in _PAGES
}


def test_every_call_that_a_page_names_is_there() -> None:
    """Methods and functions that pages name are the package's."""
    client, modules = AdaptyClient("key"), SimpleNamespace(v1=v1, v2=v2, web=web)
    for name in set().union(*_CALLS.values()):
        owner = client if name.count(".") == 2 else modules
        assert callable(attrgetter(name)(owner)), name


def test_the_migration_page_leaves_no_call_out() -> None:
    """Each call of version 1 is on the page, with its successor in version 2."""
    profiles = {f"v1.profiles.{name}" for name in vars(v1.Profiles) if not name.startswith("_")}
    described = {f"v1.{name}" for name in v1.__all__ if inspect.isfunction(getattr(v1, name))}

    assert _CALLS["migration"] >= profiles | described
    assert {name.replace("v1", "v2") for name in profiles} <= _CALLS["migration"]


@pytest.mark.parametrize("code", _EXAMPLES)
async def test_example_runs(code: str, tmp_path: Path) -> None:
    """An example runs to its end against the sandbox, without a warning."""
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(f"user_{number}" for number in range(1000))
        status, output = await run_warm(code, sandbox.environment, tmp_path)
    assert status == 0, output
    assert "failed=" not in output


_CHECKERS = [
    pytest.param("mypy", ["--strict", "--no-incremental"], id="mypy"),
    pytest.param("pyright", ["--pythonpath", sys.executable], id="pyright"),
]


@pytest.mark.parametrize(("checker", "options"), _CHECKERS)
async def test_every_example_is_typed(checker: str, options: list[str], tmp_path: Path) -> None:
    """All examples pass strict type checks, as a user's program has to."""
    pytest.importorskip(checker, reason="type checkers are in the group types")
    files = [f"example_{number}.py" for number in range(len(_EXAMPLES))]
    for name, example in zip(files, _EXAMPLES, strict=True):
        (tmp_path / name).write_text(str(example.values[0]), encoding="utf-8")
    files.append(str(_ROOT / "examples" / "erase_everywhere.py"))
    async with Sandbox() as sandbox:
        status, output = await _run(["-m", checker, *options, *files], sandbox, tmp_path)

    assert status == 0, output


async def test_the_way_of_an_erasure_runs(tmp_path: Path) -> None:
    """The commands of the page about erasures have the documented effect, in order."""
    page = (_ROOT / "docs" / "erasure.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    scripts = str(Path(sys.executable).parent)
    steps = f'set -eu; PATH="{scripts}:$PATH"\n{script}'
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["user_1", "user_2", "user_3", "user_4"])
        status, output = await _run(["-c", _SHELL, steps], sandbox, tmp_path)
        assert (status, sandbox.customer_user_ids()) == (0, {"user_4"}), output

    assert (
        "requests.csv: each of 4 rows has a final outcome, by the journal and the outcomes file."
        in output
    )
    assert "tickets.csv: each of 2 rows has a final outcome, by the outcomes file." in output
    assert '"id":"user_2","status":"done"' in output
    for name in ("erasure.db", "erasure.html", "tickets.json"):
        text = (tmp_path / name).read_bytes()
        assert text
        assert b"user_" not in text.replace(b"customer_user_id", b"")
