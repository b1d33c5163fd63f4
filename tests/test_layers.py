"""
The shape of the package: who may import whom, and how large things may grow.

An import goes to a smaller number only, so there are no loops. A new module needs a place in
the table.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import adapty_async

ROOT = Path(adapty_async.__file__).parent
BODY_LINES = 40
MODULE_LINES = 500

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(modules.split())
    for modules in (
        """errors hooks statistics _fork _line _operation _pacer _places _tasks _timer _timing
        _version""",
        """bulk._outcome _emitter _loop_local _watch sandbox._rules sandbox._shop sandbox._store
        _journal.database _journal.model""",
        """_journal.counts _journal.keys _journal.log _journal.memory _journal.schema
        _journal.states config _capacity _checks _learned _outage sandbox._rate
        sandbox._wire""",
        """_attempt _journal.file _results _run_limits bulk._pool bulk._settings bulk._source
        bulk._turns""",
        """_codec _exchange _gate _journal.sqlite _journal.writer _retry bulk._runner
        sandbox._faults sandbox._mail sandbox._page sandbox._v1""",
        """_journal.summary _limits bulk._outcomes_file bulk._stop bulk._subject sandbox._v2_rules
        sandbox._v2_wire""",
        "_journal sandbox._v2_currencies sandbox._v2_profiles",
        "testing bulk._recording bulk._run_journal sandbox._v2_app",
        "sandbox._v2",
        "_pipeline _profiles _transport sandbox._app",
        "bulk._calls",
        "bulk sandbox",
        "_report.markup _report.outcomes",
        "_report.check",
        "_report.figures",
        "_report.chart",
        "_report.page",
        "_report",
        "v1 mail _caller v2._paging v2._read v2._rules",
        "v2._models",
        "v2._access v2._currencies v2._integrations v2._paywalls v2._profiles",
        "v2._purchases v2._refunds v2._transactions",
        "v2",
        "client",
        "adapty_async",
        """cli._demo_data cli._files cli._findings cli._fingerprint cli._records cli._signals
        cli._streams""",
        "cli._input cli._proxies",
        "cli._feed cli._items cli._report",
        "cli._progress cli._recorded cli._status cli._v2_items",
        "cli._job",
        "cli._confirmation",
        "cli._demo",
        "cli._app",
        "cli._v2_commands",
        "cli._journal_commands",
        "cli",
        "cli.__main__",
    )
)
NUMBERS = {module: number for number, modules in enumerate(LAYERS) for module in modules}

AT_HOME = {
    # what is foreign: the modules that may import it
    "aiohttp": ("_attempt", "_exchange", "_transport"),
    "aiohttp.web": ("sandbox",),
    "click": ("cli",),
    "rich": ("cli",),
    "tenacity": ("_retry",),
}
ONLY_FOR_TYPES = {("client", "aiohttp")}
PURE = ("_checks", "_codec", "_operation", "_results", "config", "errors")


def name_of(path: Path) -> str:
    """
    Return a module's name below the package; the package itself is called by its own name.
    """
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "adapty_async"


PATHS = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in PATHS.items()}


def targets(module: str, tree: ast.AST) -> Iterator[str]:
    """
    Yield the full name of everything that is imported anywhere in a piece of a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = base_of(module, node)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def base_of(module: str, node: ast.ImportFrom) -> str:
    """
    Return the full name of what an import is from, relative or not.
    """
    if not node.level:
        return node.module or ""
    inside = ["adapty_async", *module.split(".")]
    is_package = PATHS[module].name == "__init__.py"
    above = inside[: len(inside) - node.level + is_package]
    return ".".join([*above, *filter(None, [node.module])])


def ours(target: str) -> str | None:
    """
    Return the module of ours that an import is from, None for a foreign one.
    """
    if target.partition(".")[0] != "adapty_async":
        return None
    inner = target.removeprefix("adapty_async").removeprefix(".")
    while inner and inner not in PATHS:
        inner = inner.rpartition(".")[0]

    return inner or "adapty_async"


IMPORTS = {module: sorted(set(targets(module, tree))) for module, tree in TREES.items()}


def test_the_table_is_the_package() -> None:
    """
    Every module has exactly one place in the table, and every place a module.
    """
    assert sorted(module for modules in LAYERS for module in modules) == sorted(PATHS)


@pytest.mark.parametrize("module", PATHS)
def test_an_import_goes_down(module: str) -> None:
    """
    A module imports from lower layers only, for type checking as well.
    """
    imported = {target for one in IMPORTS[module] if (target := ours(one)) is not None}
    upward = {one for one in imported if NUMBERS[one] >= NUMBERS[module]}

    assert not upward


@pytest.mark.parametrize("foreign", AT_HOME)
def test_a_foreign_library_has_one_home(foreign: str) -> None:
    """
    Each library is imported in its own corner of the package alone.
    """
    guests = {module for module in PATHS if foreign in map(foreign_name, IMPORTS[module])}

    assert {
        module
        for module in guests
        if not module.startswith(AT_HOME[foreign]) and (module, foreign) not in ONLY_FOR_TYPES
    } == set()


def foreign_name(target: str) -> str:
    """
    Return the library of an import; aiohttp's server is another one than its client.
    """
    library = target.partition(".")[0]
    return "aiohttp.web" if target.startswith("aiohttp.web") else library


@pytest.mark.parametrize(("module", "foreign"), ONLY_FOR_TYPES, ids=str)
def test_an_import_for_types_is_not_executed(module: str, foreign: str) -> None:
    """
    What is needed in annotations alone stands under TYPE_CHECKING.
    """
    guarded = [
        target
        for node in TREES[module].body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for target in targets(module, node)
    ]

    assert [one for one in IMPORTS[module] if foreign_name(one) == foreign] == guarded == [foreign]


def test_the_sandbox_knows_nothing_of_the_client() -> None:
    """
    The sandbox imports nothing of ours but itself, so that both can't share one mistake.
    """
    foreign = {
        target
        for module in PATHS
        if module.startswith("sandbox")
        for one in IMPORTS[module]
        if (target := ours(one)) is not None and not target.startswith("sandbox")
    }

    assert foreign == set()


@pytest.mark.parametrize("module", PURE)
def test_the_pure_modules_never_wait(module: str) -> None:
    """
    Values, rules and codecs contain nothing asynchronous.
    """
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)

    assert [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, waits)] == []


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """
    Count a function's lines without its signature and its docstring.
    """
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        begin = first.end_lineno or 0
    else:
        begin = first.lineno - 1

    return (function.end_lineno or 0) - begin


@pytest.mark.parametrize("module", PATHS)
def test_functions_and_modules_stay_small(module: str) -> None:
    """
    No body is longer than forty lines, and no module reaches five hundred.
    """
    functions = [
        node
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {one.name: body_lines(one) for one in functions if body_lines(one) > BODY_LINES}

    assert long == {}
    assert len(PATHS[module].read_text("utf-8").splitlines()) < MODULE_LINES
