"""
The architecture of the package: the direction of imports, and the size of modules.

A package imports only from packages before it in the table, and no package contains a cycle. A new
package needs a line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import adapty_async

ROOT = Path(adapty_async.__file__).parent
BODY_LINES = 40
MODULE_LINES = 600

PACKAGES = (
    "errors _version sandbox",
    "_html config hooks statistics _runtime",
    "_api",
    "_http _flow",
    "_pipeline transport endpoints _input",
    "_journal _shared",
    "testing _bulk",
    "bulk",
    "v1 v2 mail web export shared files",
    "_client",
    "client _report webhooks",
    "access report",
    "adapty_async",
    "jobs",
    "cli integrations",
)
NUMBERS = {package: number for number, names in enumerate(PACKAGES) for package in names.split()}

AT_HOME = {
    # a foreign library: the packages that may import it
    "aiohttp": ("_http", "sandbox._webhooks"),
    "aiohttp.web": ("sandbox", "webhooks.aiohttp"),
    "cachetools": ("access",),
    "click": ("cli",),
    "polars": ("export",),
    "pyarrow": ("export", "_input.arrow"),
    "python_calamine": ("_input.excel",),
    "psycopg": (
        "_runtime.postgres",
        "_shared.postgres",
        "jobs._link",
        "jobs._postgres",
        "jobs._query",
    ),
    "redis": ("_shared.redis",),
    "rich": ("cli",),
    "opentelemetry": ("integrations.opentelemetry",),
    "prometheus_client": ("integrations.prometheus",),
    "pytest": ("integrations.pytest",),
    "starlette": ("webhooks.starlette",),
    "tenacity": ("_pipeline.retry",),
}
ONLY_FOR_TYPES = {("_client.base", "aiohttp"), ("client", "aiohttp")}
PURE = (
    "_api.call",
    "_api.codec",
    "_api.results",
    "_api.validation",
    "config",
    "errors",
)


def name_of(path: Path) -> str:
    """Return a module's name below the package; the package itself is called by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "adapty_async"


PATHS = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in PATHS.items()}


def targets(module: str, tree: ast.AST) -> Iterator[str]:
    """Yield the full name of everything that is imported anywhere in a piece of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = base_of(module, node)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def base_of(module: str, node: ast.ImportFrom) -> str:
    """Return the full name of what an import is from, relative or not."""
    if not node.level:
        return node.module or ""
    inside = ["adapty_async", *module.split(".")]
    is_package = PATHS[module].name == "__init__.py"
    above = inside[: len(inside) - node.level + is_package]
    return ".".join([*above, *filter(None, [node.module])])


def ours(target: str) -> str | None:
    """Return the module of ours that an import is from, None for a foreign one."""
    if target.partition(".")[0] != "adapty_async":
        return None
    inner = target.removeprefix("adapty_async").removeprefix(".")
    while inner and inner not in PATHS:
        inner = inner.rpartition(".")[0]

    return inner or "adapty_async"


IMPORTS = {module: sorted(set(targets(module, tree))) for module, tree in TREES.items()}


def package_of(module: str) -> str:
    """Return the package of a module, or the module itself if it is in none."""
    return module.partition(".")[0]


def imported_by(module: str) -> set[str]:
    """Return the modules of ours that a module imports, for type checking as well."""
    return {target for one in IMPORTS[module] if (target := ours(one)) is not None}


def test_the_table_is_the_package() -> None:
    """Every package has exactly one place in the table, and every place a package."""
    names = [name for line in PACKAGES for name in line.split()]

    assert sorted(names) == sorted({package_of(module) for module in PATHS})


@pytest.mark.parametrize("module", PATHS)
def test_an_import_goes_down(module: str) -> None:
    """A module imports from its own package and from those before it in the table."""
    package = package_of(module)
    upward = {
        one
        for one in imported_by(module)
        if package_of(one) != package and NUMBERS[package_of(one)] >= NUMBERS[package]
    }

    assert not upward


@pytest.mark.parametrize("package", NUMBERS)
def test_no_package_contains_a_cycle(package: str) -> None:
    """The modules of a package can be sorted so that each imports only from those before it."""
    graph = {
        module: {one for one in imported_by(module) if package_of(one) == package} - {module}
        for module in PATHS
        if package_of(module) == package
    }

    assert set(TopologicalSorter(graph).static_order()) == set(graph)


@pytest.mark.parametrize("module", PATHS)
def test_no_private_name_is_imported_from_another_package(module: str) -> None:
    """A name with an underscore belongs to its package; the modules of a private package do not."""
    private = {
        target
        for target in IMPORTS[module]
        if (found := ours(target)) is not None
        and package_of(found) != package_of(module)
        and any(
            part.startswith("_") and not part.startswith("__")
            for part in target.removeprefix("adapty_async.").split(".")[1:]
        )
    }

    assert not private


@pytest.mark.parametrize("foreign", AT_HOME)
def test_a_foreign_library_has_one_home(foreign: str) -> None:
    """Each library is imported in its own corner of the package alone."""
    guests = {module for module in PATHS if foreign in map(foreign_name, IMPORTS[module])}

    assert {
        module
        for module in guests
        if not module.startswith(AT_HOME[foreign]) and (module, foreign) not in ONLY_FOR_TYPES
    } == set()


def foreign_name(target: str) -> str:
    """Return the library of an import; aiohttp's server is another one than its client."""
    library = target.partition(".")[0]
    return "aiohttp.web" if target.startswith("aiohttp.web") else library


@pytest.mark.parametrize(("module", "foreign"), sorted(ONLY_FOR_TYPES), ids=str)
def test_an_import_for_types_is_not_executed(module: str, foreign: str) -> None:
    """What is needed in annotations alone stands under TYPE_CHECKING."""
    guarded = [
        target
        for node in TREES[module].body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for target in targets(module, node)
    ]

    assert [one for one in IMPORTS[module] if foreign_name(one) == foreign] == guarded == [foreign]


def test_the_sandbox_knows_nothing_of_the_client() -> None:
    """The sandbox imports nothing of ours but itself, so that both can't share one mistake."""
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
    """Values, rules and codecs contain nothing asynchronous."""
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)

    assert [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, waits)] == []


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines without its signature and its docstring."""
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        begin = first.end_lineno or 0
    else:
        begin = first.lineno - 1

    return (function.end_lineno or 0) - begin


@pytest.mark.parametrize("module", PATHS)
def test_functions_and_modules_stay_small(module: str) -> None:
    """No body is longer than forty lines, and no module reaches five hundred."""
    functions = [
        node
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {one.name: body_lines(one) for one in functions if body_lines(one) > BODY_LINES}

    assert long == {}
    assert len(PATHS[module].read_text("utf-8").splitlines()) < MODULE_LINES
