"""The facts that pages state: messages, commands, figures, modules and answers to questions."""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import _adapty_async_pytest
import adapty_async
from adapty_async import AdaptyClient, AdaptyError, RetryPolicy, bulk, errors, jobs
from adapty_async._bulk.settings import DRAIN_SECONDS, MAX_OUTAGE, MOST_WORKERS
from adapty_async._flow.concurrency_limit import INITIAL_CONCURRENCY
from adapty_async.access import AccessCache
from adapty_async.cli._job_commands import cli
from adapty_async.sandbox import Sandbox

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_PACKAGE = Path(adapty_async.__file__).parent
_PLUGIN = Path(_adapty_async_pytest.__file__)
_TROUBLESHOOTING = (_DOCS / "troubleshooting.md").read_text("utf-8")
_MESSAGES = re.findall(r"^### `(.+)`$", _TROUBLESHOOTING, re.MULTILINE)
_STATUSES = [message for message in _MESSAGES if message.startswith("status ")]


def _texts() -> Iterator[str]:
    """Yield the texts in the package, with `…` for each value that is inserted."""
    for path in [*_PACKAGE.rglob("*.py"), _PLUGIN]:
        if "sandbox" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            if isinstance(node, ast.JoinedStr):
                yield "".join(map(_shown, node.values))


def _shown(part: ast.expr) -> str:
    """Return a part of a text as the page has it; a message about a key is one about a column."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else part
    return "column" if isinstance(value, ast.Name) and value.id == "noun" else "…"


def _parts(message: str) -> list[str]:
    """Return the fixed parts of a message: without inserted values, field and setting."""
    rule = re.sub(r"^(\w+: |(ADAPTY_)?BASE_URL )", "", message, flags=re.IGNORECASE)
    return [part.strip(" ;,()") for part in rule.split("…") if part.strip(" ;,()")]


def test_messages_on_the_page_of_errors_are_those_of_the_library() -> None:
    """Each message that the page explains is a text of the package."""
    texts = [*_texts()]
    invented = [
        message
        for message in _MESSAGES
        if message not in _STATUSES
        if not any(all(part in text for part in _parts(message)) for text in texts)
    ]

    assert len(_MESSAGES) >= 30
    assert invented == []


@pytest.mark.parametrize("message", _STATUSES)
async def test_the_page_of_errors_shows_what_a_status_becomes(message: str) -> None:
    """The text of an error of the API begins as the page shows it."""
    status = int(message.partition(",")[0].removeprefix("status "))
    async with Sandbox() as sandbox:
        key = sandbox.api_key if status != 401 else "another"
        if status >= 429:
            sandbox.fail_next(str(status))
        once = RetryPolicy(attempts=1)
        async with AdaptyClient(key, base_url=sandbox.url, retry=once) as adapty:
            with pytest.raises(AdaptyError, match=re.escape(message)):
                await adapty.v2.profiles.get(customer_user_id="nobody")


_FENCE = re.compile(r"^```(?:console|sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]*adapty-async [^`\n]* --[^`\n]*)`")
_COMMAND = re.compile(r"^(?:\$ +|\s+)?(?:\w+='[^']*' )?adapty-async (.*)$", re.MULTILINE)


def _commands(page: Path) -> Iterator[str]:
    """Yield the commands of a page without the name of the program."""
    text = page.read_text("utf-8")
    for block in [*_FENCE.findall(text), *_INLINE.findall(text)]:
        yield from _COMMAND.findall(block.replace("\\\n", " "))


def _complaint(line: str) -> str | None:
    arguments = shlex.split(line, comments=True)
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    try:
        # a command keeps the names of its help option, which the context of its group has
        group = click.Context(cli, **cli.context_settings)
        command.make_context(command.name, arguments, parent=group)
    except click.UsageError as error:
        parameter = error.param if isinstance(error, click.BadParameter) else None
        if parameter is None or not isinstance(parameter.type, click.Path):  # it need not exist
            return f"{line}: {error.format_message()}"
    return None


def test_commands_on_pages_are_accepted_by_the_parser() -> None:
    """Each command on a page has the arguments and options that the command line accepts."""
    pages = [_ROOT / "README.md", *_DOCS.rglob("*.md")]
    lines = [line for page in pages for line in _commands(page)]

    assert len(lines) >= 30
    assert [found for line in lines if (found := _complaint(line))] == []


def test_figures_of_the_comparison_are_the_recorded_ones() -> None:
    """The comparison quotes the results of the benchmarks."""
    page = (_DOCS / "comparison.md").read_text("utf-8")
    results = _ROOT / "benchmarks" / "results"
    rows = json.loads((results / "peers.json").read_text("utf-8"))["rows"]
    peers = {row["name"]: row for row in rows if row["loop"] == "asyncio"}
    by_hand = peers["aiohttp by hand"]["cpu"]
    quoted = re.findall(r"^\| ([\w, +]+) \| (\d+) \| ([\d.]+) \| (\d+) \|$", page, re.MULTILINE)

    assert len(quoted) >= 7
    for name, cpu, ratio, memory in quoted:
        row = peers[name]
        assert (cpu, ratio, memory) == (
            f"{row['cpu']:.0f}",
            f"{row['cpu'] / by_hand:.2f}",
            f"{row['peak_mb']:.0f}",
        ), name

    row = next(
        line
        for line in (_DOCS / "speed.md").read_text("utf-8").splitlines()
        if line.startswith("| standard path |")
    )
    on_asyncio, on_uvloop = re.findall(r"\*\*([\d.]+)\*\*", row)
    assert f"{on_asyncio} times the loop by hand on asyncio and {on_uvloop} times on uvloop" in page


def test_the_page_of_errors_has_every_error() -> None:
    """Each class of error that a caller can import is on the page."""
    page = (_DOCS / "errors.md").read_text("utf-8")
    named = {
        name
        for module in (errors, jobs)
        for name in module.__all__
        if isinstance(kind := getattr(module, name, None), type)
        if issubclass(kind, AdaptyError)
    }

    assert len(named) >= 25
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []


def _options(page: str) -> dict[str, str]:
    """Return the defaults in the tables of options of a page, by the name of the option."""
    text = (_DOCS / page).read_text("utf-8").partition("| option | default | effect |")[2]
    rows = re.findall(r"^\| (`.+?`) \| (.+?) \|", text.partition("\n\n")[0], re.MULTILINE)
    return {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_page_of_bulk_runs_has_every_option_with_its_default() -> None:
    """Nobody has to read the source for an option of a bulk method."""
    options = _options("bulk.md")

    assert options.keys() == bulk.BulkOptions.__annotations__.keys()
    assert options["concurrency"] == f"{INITIAL_CONCURRENCY} at first, up to {MOST_WORKERS}"
    assert options["max_outage"] == f"{MAX_OUTAGE:g} s"
    assert options["drain"] == f"{DRAIN_SECONDS:g} s"


def test_the_page_of_the_cache_has_every_option_with_its_default() -> None:
    """The options are those of the class, but for the clock of a test."""
    parameters = inspect.signature(AccessCache).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    del defaults["clock"]

    shown = {name: text.removesuffix(" s") for name, text in _options("access.md").items()}
    assert shown == {name: f"{value:,.0f}" for name, value in defaults.items()}


def test_each_public_module_has_a_page_of_the_reference() -> None:
    """A public module with names of its own has a page, and no page is without a module."""
    modules = {
        module.name.removeprefix("adapty_async.")
        for module in pkgutil.walk_packages(adapty_async.__path__, "adapty_async.")
        if "._" not in module.name
    } - {"cli", "cli.__main__", "integrations"}

    assert {page.stem for page in (_DOCS / "api").glob("*.md")} == modules


# What a backend developer asks, the entry of the navigation that suggests the answer, and a part of
# the answer.
_QUESTIONS = {
    "is a webhook processed twice?": ("Receive webhooks", "A store recognises events that were"),
    "is access checked while Adapty is down?": ("Check access", "Outages are bridged"),
    "where is the client closed?": ("Run in web services, task queues", "close it when it ends"),
    "how does a task of Celery call it?": ("Run in web services, task queues", "tasks of Celery"),
    "how is an erasure proved later?": ("Erase users with evidence", "Keep the evidence"),
    "which key goes where?": ("Choose an API", "`ADAPTY_MAIL_API_KEY`"),
    "is anything sent twice after a crash?": ("Crash safety", "are sent a second time"),
    "two services get 429?": ("Share one rate limit", "Several processes that use one key"),
    "is a creation retried after a timeout?": ("Retries and timeouts", "`IF_UNSENT`"),
    "how is it tested without an account?": ("Test code", "`adapty_sandbox`"),
    "is `unknown` a failure?": ("Bulk runs", "`unknown`"),
    "how are purchases imported?": ("Cookbook", "Migrate purchases and access"),
    "a call is not in the library?": ("Unlisted operations, raw responses", "An `Endpoint`"),
    "what does this message mean?": ("Questions and errors", "`no response in time`"),
}


@pytest.mark.parametrize("question", _QUESTIONS)
def test_the_page_that_the_navigation_suggests_has_the_answer(question: str) -> None:
    """A newcomer's question is answered by the page whose title in the navigation suggests it."""
    title, answer = _QUESTIONS[question]
    index = (_DOCS / "index.md").read_text("utf-8")
    pages = dict(re.findall(r"^(.+) <([\w-]+)>$", index, re.MULTILINE))

    assert answer in (_DOCS / f"{pages[title]}.md").read_text("utf-8")


def test_an_inventory_has_each_name_once_in_order() -> None:
    """The lists of foreign names are sorted, so that a name is added at one place."""
    for path in sorted((_DOCS / "inventories").glob("*.inv")):
        names = [line.split()[0] for line in path.read_text("utf-8").splitlines()[3:]]
        assert names == sorted(set(names)), path.name
