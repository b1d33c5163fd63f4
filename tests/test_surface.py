"""The public surface: names, docstrings, imports, and redaction."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.pretty import pretty_repr

import adapty_async
from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    BulkReport,
    ConnectionLostError,
    MailProfile,
    Outcome,
    OutcomeStatus,
    RequestRejectedError,
    v2,
    web,
)
from adapty_async._api.call import Headers, Response
from adapty_async._api.codec import RequestDefaults, encode
from adapty_async._bulk.run_journal import RunIdentity
from adapty_async.errors import ErrorItem, RedactedBytes
from adapty_async.mail import delete_profile, save_profile
from adapty_async.testing import FakeTransport
from adapty_async.v1 import CustomAttributes, Profile, ProfileAttributes, update_profile
from tests._support import CANARY_EMAIL, CANARY_KEY

ROOT_NAMES = """
    AdaptyClient AdaptyError AdaptyExportClient AdaptyMailClient ApiError AuthenticationError
    BulkReport BulkRun CircuitOpenError ConfigError ConflictError ConnectError ConnectionLostError
    DeadlineError DecodeError DeviceInfo Endpoint ExportError InstallationMeta InvalidInputError
    JournalError Limits MailProfile NotFoundError Offer Operation Outcome OutcomeStatus
    RateLimitError RawResponse StoreError
    RequestRejectedError RequestTimeoutError RetryPolicy RetrySafety ServerError TransactionEvent
    TransportError UNSET WebhookError __version__
"""
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(adapty_async.__path__, "adapty_async.")
    if not module.name.endswith("__main__")
)
PUBLIC = [name for name in MODULES if "._" not in name]


def test_the_roots_names_are_exact() -> None:
    """The root exports exactly these names, sorted as isort does."""
    names = adapty_async.__all__

    assert set(names) == set(ROOT_NAMES.split())
    assert list(names) == sorted(names, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(adapty_async, name) for name in names)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_module_says_what_it_offers(name: str) -> None:
    """A public module declares its names, each once, and has them all."""
    module = importlib.import_module(name)

    assert len(set(module.__all__)) == len(module.__all__)
    assert [one for one in module.__all__ if not hasattr(module, one)] == []


def documented(tree: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield a module's public functions and classes, and the public methods of the latter."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_") or is_overload(node):
                continue
            yield node
            if isinstance(node, ast.ClassDef):
                yield from documented(node)


def is_overload(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a definition is a declaration for type checkers only."""
    return any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)


@pytest.mark.parametrize("name", ["adapty_async", *MODULES])
def test_every_public_thing_is_described(name: str) -> None:
    """Modules, classes, functions and methods have a docstring in the required layout."""
    source = inspect.getsource(importlib.import_module(name))
    lines = source.splitlines()
    tree = ast.parse(source)
    undescribed = [
        node.name if not isinstance(node, ast.Module) else name
        for node in (tree, *documented(tree))
        if not is_described(node, lines)
    ]

    assert undescribed == []


def is_described(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]
) -> bool:
    """
    Return whether there is a docstring in the required layout.

    It stands on one line with its quotes, or the quotes stand on lines of their own.
    """
    first = node.body[0] if node.body else None
    if first is None or not ast.get_docstring(node):
        return False
    begin, end = lines[first.lineno - 1].strip(), lines[(first.end_lineno or 0) - 1].strip()
    if first.lineno == first.end_lineno:
        return begin.startswith('"""') and end.endswith('"""')
    return begin == end == '"""'


def in_a_fresh_interpreter(code: str) -> str:
    """Run code in a new interpreter in which every warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_more_than_it_needs() -> None:
    """Neither optional libraries nor a server are loaded before they are used."""
    loaded = in_a_fresh_interpreter("import adapty_async, sys; print(*sys.modules)").split()
    servers = ("aiohttp.web", "adapty_async.sandbox")
    extras = ("cachetools", "click", "opentelemetry", "polars", "procrastinate", "rich", "uvloop")
    more = ("prometheus_client", "psycopg", "pyarrow", "pytest", "redis", "starlette")
    unwanted = servers + extras + more

    assert "adapty_async.client" in loaded
    assert [one for one in loaded if one.startswith(unwanted)] == []


def test_every_module_can_be_imported_first() -> None:
    """Whichever module comes first after the package, it is importable, without a warning."""
    in_a_fresh_interpreter(
        f"""
import adapty_async, importlib, sys
with_the_package = set(sys.modules)
for first in {MODULES!r}:
    for name in set(sys.modules) - with_the_package:
        if name.partition(".")[0] == "adapty_async":
            del sys.modules[name]
    importlib.import_module(first)
"""
    )


DEFAULTS = RequestDefaults(
    origin="https://example.com", headers=Headers(Authorization=f"Api-Key {CANARY_KEY}")
)
ATTRIBUTES = ProfileAttributes(email=CANARY_EMAIL, custom_attributes={"mail": CANARY_EMAIL})
MAIL_PROFILE = MailProfile(
    external_profile_id=CANARY_EMAIL,
    external_created_at="2026-06-01T10:30:00Z",
    email=CANARY_EMAIL,
)
UPDATE = update_profile(ATTRIBUTES, customer_user_id=CANARY_EMAIL)


def rejected() -> RequestRejectedError:
    """Return an error whose response quotes secrets."""
    error = RequestRejectedError("status 400", status=400)
    error.errors = (ErrorItem(f"{CANARY_EMAIL} is taken", CANARY_EMAIL, 400, CANARY_EMAIL),)
    error.body = CANARY_EMAIL.encode()
    return error


OUTCOME: Outcome[str, Profile] = Outcome(
    0, CANARY_EMAIL, OutcomeStatus.FAILED, 1, error=rejected(), result=Profile(email=CANARY_EMAIL)
)
SHOWN: dict[str, Callable[[], Any]] = {
    "AdaptyClient": lambda: AdaptyClient(CANARY_KEY, transport=FakeTransport()),
    "AdaptyMailClient": lambda: AdaptyMailClient(CANARY_KEY, transport=FakeTransport()),
    "options": lambda: AdaptyClient(CANARY_KEY)._executor.options,
    "resource": lambda: AdaptyClient(CANARY_KEY).v1.profiles,
    "request defaults": lambda: DEFAULTS,
    "Operation": lambda: UPDATE,
    "Mail Operation": lambda: save_profile(MAIL_PROFILE),
    "Mail deletion": lambda: delete_profile(email=CANARY_EMAIL),
    "Request": lambda: encode(UPDATE, DEFAULTS, timeout=1.0, total_timeout=1.0),
    "Headers": lambda: DEFAULTS.headers,
    "RunIdentity": lambda: RunIdentity("call", "https://example.com", f"Api-Key {CANARY_KEY}"),
    "ServerWords": lambda: RedactedBytes(CANARY_EMAIL.encode()),
    "Response": lambda: Response(200, {"X": CANARY_EMAIL}, CANARY_EMAIL.encode()),
    "ProfileAttributes": lambda: ATTRIBUTES,
    "MailProfile": lambda: MAIL_PROFILE,
    "v2.Profile": lambda: v2.Profile(
        customer_user_id=CANARY_EMAIL, custom_attributes=CustomAttributes(mail=CANARY_EMAIL)
    ),
    "v2.ProfileAttributes": lambda: v2.ProfileAttributes(email=CANARY_EMAIL),
    "v2 Operation": lambda: v2.update_profile(
        v2.ProfileAttributes(email=CANARY_EMAIL), customer_user_id=CANARY_EMAIL
    ),
    "web.AddAttributionRequest": lambda: web.AddAttributionRequest(
        status="organic", customer_user_id=CANARY_EMAIL, campaign=CANARY_EMAIL
    ),
    "web Operation": lambda: web.add_attribution(
        web.Attribution(status="organic", campaign=CANARY_EMAIL), customer_user_id=CANARY_EMAIL
    ),
    "web.Paywall": lambda: web.Paywall(variation_id=CANARY_EMAIL),
    "public key": lambda: AdaptyClient(public_key=CANARY_KEY, transport=FakeTransport()),
    "creation": lambda: v2.ensure_profile(
        v2.ProfileAttributes(email=CANARY_EMAIL), customer_user_id=CANARY_EMAIL
    ),
    "v2.PaddleValidationRequest": lambda: v2.PaddleValidationRequest(
        customer_user_id=CANARY_EMAIL, paddle_token=CANARY_KEY
    ),
    "v2.IntegrationIdentifiers": lambda: v2.IntegrationIdentifiers(branch_id=CANARY_EMAIL),
    "v2.VirtualCurrencyTransactionRequest": lambda: v2.VirtualCurrencyTransactionRequest(
        items=(), metadata={"mail": CANARY_EMAIL}
    ),
    "v2.Paywalls": AdaptyClient(CANARY_KEY).v2.paywalls.list,
    "Profile": lambda: Profile(email=CANARY_EMAIL, access_levels=[CANARY_EMAIL]),
    "CustomAttributes": lambda: CustomAttributes({"mail": CANARY_EMAIL}),
    "ErrorItem": lambda: rejected().errors[0],
    "ApiError": rejected,
    "Outcome": lambda: OUTCOME,
    "BulkReport": lambda: BulkReport(total=1, failed=1, failures=(OUTCOME,)),
    "BulkReport.failures": lambda: BulkReport(total=1, failed=1, failures=(OUTCOME,)).failures,
}


@pytest.mark.parametrize("show", [repr, str, format, pretty_repr, ascii])
@pytest.mark.parametrize("name", SHOWN)
def test_keys_and_personal_data_are_never_shown(name: str, show: Callable[[Any], str]) -> None:
    """No text form of an object contains the key or personal data."""
    assert "canary" not in show(SHOWN[name]()).lower()


def test_a_run_shows_no_items() -> None:
    """A bulk run prints its counts; one that was never awaited says so."""
    run = AdaptyClient(CANARY_KEY).v1.profiles.bulk_delete([CANARY_EMAIL], by="profile_id")

    assert "canary" not in (repr(run) + pretty_repr(run)).lower()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        del run


@pytest.mark.parametrize(
    "name",
    [
        "AdaptyClient",
        "AdaptyMailClient",
        "options",
        "request defaults",
        "Headers",
        "Request",
        "public key",
    ],
)
def test_a_key_is_never_pickled(name: str) -> None:
    """A key doesn't leave the process inside of a pickle."""
    with pytest.raises(TypeError, match=r"holds? .*key; (it is|they are) not pickled($|\n)"):
        pickle.dumps(SHOWN[name]())


async def test_hooks_and_errors_of_a_call_show_nothing() -> None:
    """Events and errors of a call contain neither key nor personal data."""
    told: list[object] = []
    client = AdaptyClient(
        CANARY_KEY, transport=FakeTransport([ConnectionLostError("lost")]), hooks=(told.append,)
    )

    with pytest.raises(ConnectionLostError) as caught:
        await client.v1.profiles.create(ATTRIBUTES, customer_user_id=CANARY_EMAIL)
    shown = "".join(map(repr, [*told, caught.value, vars(caught.value)])) + str(caught.value)
    assert "canary" not in shown.lower()
    assert len(told) == 3
