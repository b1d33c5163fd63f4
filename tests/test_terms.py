"""
The vocabulary of the project: retired words do not come back, and pages name what exists.

`docs/glossary.md` defines the terms in use. A retired word is searched in the names of the package,
in its docstrings, comments and messages, and in the pages for readers.
"""

from __future__ import annotations

import ast
import io
import re
import runpy
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import adapty_async

PACKAGE = Path(adapty_async.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

#: Parts of names, as `snake_case` and `CamelCase` divide them, with the term that replaced them.
NAMES = {
    "allowance": "total_timeout",
    "background": "low_priority",
    "crew": "worker pool, worker limit",
    "demand": "require, validate",
    "door": "connect request",
    "doors": "connect request",
    "erases": "is_deletion",
    "excused": "outage_failures",
    "gate": "bucket limiter",
    "gates": "limiter registry",
    "judge": "check, stop policy",
    "ledger": "journal",
    "pace": "rate",
    "pacer": "rate limiter",
    "places": "semaphore, permits",
    "replay": "retry_safety",
    "slots": "semaphore, permits",
    "tally": "call state",
    "turns": "keyed lock",
}

#: Names of classes that were replaced; as parts of names these words have other meanings.
CLASSES = {
    "Ask": "SendOnce",
    "Before": "on_first_send",
    "Budget": "RetryBudget",
    "Caller": "Executor",
    "Capacity": "ConcurrencyLimit",
    "Circuit": "CircuitBreaker",
    "Direct": "DirectSender",
    "Feed": "ThreadedReader, EventStream",
    "Forkable": "ForkAware",
    "InStep": "DesyncGuardRequest",
    "Layers": "PipelineConfig",
    "LearnedRate": "AdaptiveRateLimiter",
    "Limiter": "RateLimiter",
    "Line": "WaitQueue",
    "Maybe": "OrUnset",
    "ServerWords": "RedactedBytes",
    "Settings": "RunSettings",
    "Sockets": "SocketFactory",
    "StopRules": "StopPolicy",
    "Watch": "TimeoutScheduler",
    "Wire": "RequestDefaults",
}

#: Words and phrases of prose, as regular expressions, with the term that replaced them.
PHRASES = {
    r"accounts? (?:of|for)": "record, report",
    r"accounted for": "reported",
    r"allowance": "total timeout",
    r"anew": "again, starts fresh",
    r"answer(?:s|ed|ing)?": "response, respond",
    r"(?:several|many|number|\d) at a time": "in flight, concurrently",
    r"beside": "in addition to, next to",
    r"crews?": "worker pool",
    r"cuts? off|cutting off": "cancel, abort, truncate",
    r"demands?|demanded": "require, validate",
    r"doors?": "connect request",
    r"(?:,|;|or) else": "otherwise",
    r"(?:goes|went|going|gone|go) on": "resume, continue",
    r"gates?": "bucket limiter",
    r"hears?": "receive, record",
    r"in work": "in flight",
    r"instants?": "date and time",
    r"intents?": "write-ahead entry",
    r"learned": "adaptive rate, measured",
    r"ledgers?": "journal",
    r"lets? go of": "close, release",
    r"paces?": "request rate",
    r"pacers?": "rate limiter",
    r"perhaps done": "outcome unknown",
    r"refus(?:e|es|ed|ing)": "reject, raise",
    r"repeat(?:s|ed|ing)?": "retry",
    r"replay class(?:es)?": "retry safety",
    r"slots?": "permit",
    r"so many": "n",
    r"subjects?": "lock key",
    r"takes? (?:a )?note|took note": "record",
    r"tallies|tally": "call state",
    r"tells? apart|telling apart|told apart": "identify, compare",
    r"the documents": "Adapty's documentation",
    r"unless told": "by default",
    r"told": "delivered, configured, throttled (429)",
    r"very many": "large numbers of",
    r"whoever": "the component, by its name",
}


class Allowed(NamedTuple):
    """An exception: a word that one file keeps, and the reason."""

    word: str
    where: str
    reason: str


_MOMENT = "a short moment, not the date and time of a field"
ALLOWED = (
    Allowed("refused", "docs/faults.md", 'the operating system\'s "connection refused"'),
    Allowed("repeat", "adapty_async/testing.py", "`itertools.repeat`"),
    Allowed("intent", "adapty_async/v2/_purchases.py", "Stripe's payment intent"),
    Allowed("told", "adapty_async/cli/_demo.py", "a value in an example file"),
    Allowed("instant", "adapty_async/_journal/summary.py", _MOMENT),
    Allowed("instant", "adapty_async/_journal/writer.py", _MOMENT),
)


def _parts(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [part.lower() for part in spaced.split("_") if part]


def _names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the classes, functions, arguments, variables and attributes that a module defines."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case _:
                pass


def _prose_in(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings, messages and comments of a module, each as one line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, " ".join(node.value.split())
    begin, row, words = 0, 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != row + 1:
                yield begin, words
                begin, words = token.start[0], ""
            row, words = token.start[0], f"{words} {token.string.lstrip('#: ')}".lstrip()
    yield begin, words


def _text_of(page: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page without code, the targets of links and recorded measurements."""
    text = _HIDDEN.sub(lambda match: "\n" * match[0].count("\n"), page)
    for number, line in enumerate(text.splitlines(), 1):
        yield number, re.sub(r"``[^`]*``|`[^`]*`|\]\([^)]*\)", " ", line)


_HIDDEN = re.compile(
    r"^(```.*?^```|<!-- begin (\w+) -->.*?<!-- end \2 -->)$", re.MULTILINE | re.DOTALL
)


def _is_allowed(word: str, path: Path) -> bool:
    where = path.relative_to(ROOT).as_posix()
    return any((one.word, one.where) == (word.lower(), where) for one in ALLOWED)


_PHRASE = re.compile(rf"(?:\b|(?=[,;]))(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)
# A sentence has a noun as its subject, unless it is a question.
_OPENING = re.compile(r"(?:^[\s#>*-]*|(?<=[.:;-] ))(?:What|Who|Whoever|That which) (?![^.]*\?)")


def _retired(lines: Iterator[tuple[int, str]], path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {found[0]}: {line[max(0, found.start() - 40) :][:90]}"
        for number, line in lines
        for found in (*_PHRASE.finditer(line), *_OPENING.finditer(line))
        if not _is_allowed(found[0], path)
    ]


def _id_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=_id_of)
def test_no_retired_name_comes_back(path: Path) -> None:
    """No class, function, argument, variable or attribute of the package has a retired name."""
    names = set(_names_in(ast.parse(path.read_text("utf-8"))))
    found = [
        f"{line}: {name}"
        for line, name in sorted(names)
        if not name.startswith("__")
        if name in CLASSES or not NAMES.keys().isdisjoint(_parts(name))
        if not _is_allowed(name, path)
    ]

    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=_id_of)
def test_no_retired_word_comes_back_in_the_package(path: Path) -> None:
    """No docstring, comment or message of the package has a retired word."""
    assert _retired(_prose_in(path.read_text("utf-8")), path) == []


@pytest.mark.parametrize("path", PAGES, ids=_id_of)
def test_no_retired_word_comes_back_on_a_page(path: Path) -> None:
    """No page for readers has a retired word outside of code."""
    assert _retired(_text_of(path.read_text("utf-8")), path) == []


def test_the_picture_of_the_packages_is_drawn_from_the_source() -> None:
    """The picture in the documentation is the one that the documentation's build draws."""
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    picture = (ROOT / "docs" / "_static" / "architecture.svg").read_text("utf-8")

    assert picture == conf["draw"](conf["layers"]())


def test_every_exception_is_needed() -> None:
    """Each exception names a word that its file has."""
    for one in ALLOWED:
        assert re.search(rf"\b{one.word}\b", (ROOT / one.where).read_text("utf-8")), one
