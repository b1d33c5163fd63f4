"""
A client that openapi-python-client generates from each document calls the sandbox's operations.

The generated client shares no code with the library. Each operation is called with the request that
the library makes of it, and its response has to be the documented success, which the generated
models decode and encode again without a loss.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import sys
import typing
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from adapty_async._api.call import Operation
from adapty_async.sandbox import Sandbox
from tests.contract.contract import Contract
from tests.contract.contracts import CONTRACTS
from tests.contract.test_openapi import sent
from tests.outsiders.mended import EVERYWHERE, mended, saved
from tests.outsiders.server import strict_sandbox


async def run(*, is_short: bool) -> list[str]:
    """Generate a client for each document, call its operations, and return the complaints."""
    del is_short  # a call of each operation is short
    complaints: list[str] = []
    with TemporaryDirectory(prefix="outsiders-") as name:
        sys.path.insert(0, name)
        for contract in CONTRACTS.values():
            package = contract.name.replace("-", "_")
            await _generate(contract, Path(name), package)
            async with strict_sandbox() as sandbox:
                sandbox.seed_profiles(["u1"])
                caller = _Caller(contract, sandbox, package)
                complaints += [one async for one in caller.complaints()]
        sys.path.remove(name)
    return complaints


async def _generate(contract: Contract, folder: Path, package: str) -> None:
    document = saved(mended(contract.name, EVERYWHERE), folder / f"{package}.json")
    command = "generate", "--path", str(document), "--meta", "none", "--output-path"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for ruff
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "openapi_python_client",
        *command,
        str(folder / package),
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode or b"WARNING" in output:
        raise RuntimeError(output.decode())


class _Caller:
    """A caller of the operations of one generated package."""

    def __init__(self, contract: Contract, sandbox: Sandbox, package: str) -> None:
        self._contract = contract
        self._package = package
        self._paywall_id = sandbox.add_paywalls("Sale")[0]
        prefix, key = contract.authorization(sandbox).split(" ")
        client = importlib.import_module(f"{package}.client").AuthenticatedClient
        self._client = client(base_url=sandbox.url, token=key, prefix=prefix)

    async def complaints(self) -> AsyncIterator[str]:
        """Call every operation, deletions last, and yield what is wrong with the responses."""
        async with self._client as client:
            names = sorted(self._contract.document.operations, key="deleteProfile".__eq__)
            for name in names:
                for complaint in await self._complaints_of(client, name):
                    yield f"{self._contract.name} {name}: {complaint}"
        print(f"generated client: {len(names)} operations of {self._contract.name}")

    async def _complaints_of(self, client: Any, name: str) -> list[str]:
        contract = self._contract
        if name == "revokeAccessLevel":  # there has to be one
            await self._call(client, "grantAccessLevel")
        response = await self._call(client, name)
        [success] = [
            status for status in contract.document.spec(name)["responses"] if status < "300"
        ]
        if response.status_code != int(success):
            return [f"{response.status_code} {response.content!r}"]
        if not response.content:
            return []
        if response.parsed is None:
            return ["the response was not decoded"]
        shown, again = json.loads(response.content), response.parsed.to_dict()
        return [*_differences("", shown, again)]

    async def _call(self, client: Any, name: str) -> Any:
        contract = self._contract
        ids = {"customer_user_id": "u1"} if contract.takes_identity(name) else {}
        call: Operation[Any] = (
            contract.sandbox[name](self._paywall_id)
            if name in contract.sandbox
            else contract.calls[name](**ids)
        )
        module = importlib.import_module(f"{self._package}.api.default.{_snake(name)}")
        arguments = self._arguments(name, module, call)
        return await module.asyncio_detailed(client=client, **arguments)

    def _arguments(self, name: str, module: ModuleType, call: Operation[Any]) -> dict[str, Any]:
        request = sent(call)
        declared = self._contract.document.declared(name, "header")
        given: dict[str, Any] = {
            _snake(header): value for header, value in request.headers.items() if header in declared
        }
        hints = typing.get_type_hints(module.asyncio_detailed)
        if "paywall_id" in hints:
            given["paywall_id"] = self._paywall_id
        if "body" in hints:
            body = json.loads(request.body or b"{}") or self._example(name)
            given["body"] = _model(hints["body"], body)
        return given

    def _example(self, name: str) -> Any:
        return next(iter(dict(self._contract.document.request_examples(name)).values()))


def _model(hint: Any, body: Mapping[str, Any]) -> Any:
    """Return the model that encodes a body without a loss, or the body if it has no model."""
    if hint is Any:
        return body
    for kind in typing.get_args(hint) or (hint,):
        if hasattr(kind, "from_dict"):
            try:
                model = kind.from_dict(body)
            except (KeyError, ValueError):  # it is the other of two
                continue
            if not [*_differences("", body, model.to_dict())]:
                return model
    raise ValueError(f"{hint} takes no {body}")


def _differences(name: str, shown: Any, again: Any) -> Iterator[str]:
    """Yield the differences between JSON and what a model made of it."""
    if isinstance(shown, dict) and isinstance(again, dict):
        for key in shown.keys() | again.keys():
            yield from _differences(f"{name}.{key}", shown.get(key), again.get(key))
    elif isinstance(shown, list) and isinstance(again, list):
        for number, (one, other) in enumerate(zip(shown, again, strict=True)):
            yield from _differences(f"{name}[{number}]", one, other)
    elif _comparable(shown) != _comparable(again):
        yield f"{name} is {again!r}, not {shown!r}"


def _comparable(value: Any) -> Any:
    """Return a value as it compares: models write UTC as an offset."""
    return re.sub(r"Z$", "+00:00", value) if isinstance(value, str) else value


def _snake(name: str) -> str:
    return (
        re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
        .replace("-", "_")
        .lower()
    )
