"""
The table of all operations that Adapty publishes, built from the documents and the endpoints.

`docs/conf.py` fills the page ``operations`` with it. A cell is empty if the project lacks
something: `tests/contract/test_operations.py` fails then, unless the whole API is missing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

import adapty_async
from adapty_async import v1
from adapty_async._api.call import Endpoint
from adapty_async.sandbox import Sandbox
from tests.contract.contracts import CONTRACTS
from tests.contract.documents import DOCUMENTS

_ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# The clients of the APIs whose names do not begin with that of a client's attribute.
_CLIENTS = {"mail": "AdaptyMailClient", "export": "AdaptyExportClient"}
# Version 1 has pages and no document; their anchors are the operations.
_V1_TEST = "tests/test_v1.py"


class Row(NamedTuple):
    """
    One operation.

    Attributes:
        document: the name of its document, `v1` for version 1.
        operation: its `operationId`, or the anchor of its page.
        http: the HTTP method and the path.
        method: the method of the client, such as `v2.profiles.create`; empty if there is none.
        docs: the URL of Adapty's page on it.
        sandbox: whether the sandbox serves it.
        contract: the module or test that compares it with Adapty's documentation.
        example: the page of the documentation with an example that a test runs.

    """

    document: str
    operation: str
    http: str
    method: str
    docs: str
    sandbox: bool
    contract: str
    example: str


def rows() -> list[Row]:
    """Return a row for each operation: those of the documents, and those of version 1."""
    return asyncio.run(_rows())


async def _rows() -> list[Row]:
    pages = _pages()
    async with Sandbox(export_rate=None) as sandbox, aiohttp.ClientSession() as session:
        return [
            Row(
                document=name,
                operation=operation,
                http=f"{method} {path}",
                method=endpoint.name if endpoint and callable_of(endpoint.name) else "",
                docs=endpoint.docs if endpoint else "",
                sandbox=await _is_served(session, sandbox, method, path),
                contract=contract,
                example=_example(pages, endpoint.name) if endpoint else "",
            )
            for name, operation, method, path, endpoint, contract in _operations()
        ]


def _operations() -> Iterator[tuple[str, str, str, str, Endpoint[Any] | None, str]]:
    for name in v1.__all__:
        endpoint = getattr(v1, name)
        if isinstance(endpoint, Endpoint):
            operation = endpoint.docs.rpartition("#")[2]
            yield "v1", operation, endpoint.method, endpoint.path, endpoint, _V1_TEST
    for name, document in DOCUMENTS.items():
        contract = CONTRACTS.get(name)
        for operation, (method, path, _) in document.operations.items():
            endpoint = contract.endpoints.get(operation) if contract else None
            is_called = contract is not None and operation in contract.calls
            test = "tests/contract/test_openapi.py" if is_called else ""
            yield name, operation, method, path, endpoint, test


def callable_of(name: str) -> Any:
    """Return the method of a client that an endpoint's name stands for, `None` without one."""
    first, _, rest = name.partition(".")
    kind = _CLIENTS.get(first, "AdaptyClient")
    client = getattr(adapty_async, kind)("secret_live_a.b")
    try:
        return attrgetter(rest if first in _CLIENTS else name)(client)
    except AttributeError:
        return None


async def _is_served(
    session: aiohttp.ClientSession, sandbox: Sandbox, method: str, path: str
) -> bool:
    """Return whether the sandbox asks for a key; a path of no API is a 404 page."""
    async with session.request(method, sandbox.url + path) as response:
        return response.status in {401, 403}


def _pages() -> dict[str, str]:
    """Return the Python examples of the documentation's pages by the page's name."""
    paths = sorted((_ROOT / "docs").glob("*.md"), key=lambda path: path.stem == "operations")
    return {path.stem: "\n".join(_BLOCK.findall(path.read_text("utf-8"))) for path in paths}


def _example(pages: dict[str, str], name: str) -> str:
    """
    Return the first page whose examples call a method, or its form for bulk runs.

    The page of all operations is the last.
    """
    owner, _, last = name.rpartition(".")
    call = re.compile(rf"\b{re.escape(owner)}\.(bulk_)?{last}\(")
    return next((page for page, code in pages.items() if call.search(code)), "")


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| operation | HTTP | call | sandbox | contract test | example |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| [{row.operation}]({row.docs}) | `{row.http}` | `{row.method}()` | "
        f"{'yes' if row.sandbox else ''} | `{row.contract}` | [{row.example}]({row.example}.md) |"
        for row in rows()
        if row.method
    ]
    return "\n".join(lines)
