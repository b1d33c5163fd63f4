"""Operations in queues and other processes."""

from __future__ import annotations

import copy
import datetime as dt
import importlib.util
import pickle
import subprocess
import sys
import types
from pathlib import Path

import msgspec
import pytest

from adapty_async import Endpoint, Operation, export, mail, v1, v2, web
from adapty_async._api.pickling import name_of
from adapty_async.endpoints import json_decoder

OWN = Endpoint(name="own", method="GET", path="/own/", decode=json_decoder(dict))


def endpoints() -> list[Endpoint[object]]:
    """Return the endpoints of the library, and one of a user."""
    found = [value for module in (v1, v2, mail, web, export) for value in vars(module).values()]
    return [each for each in found if isinstance(each, Endpoint)] + [OWN]


@pytest.mark.parametrize("endpoint", endpoints(), ids=lambda each: each.name)
def test_an_endpoint_is_pickled_by_its_name(endpoint: Endpoint[object]) -> None:
    """Its copies are the same object, whatever functions it has."""
    assert pickle.loads(pickle.dumps(endpoint)) is endpoint
    assert copy.deepcopy(endpoint) is endpoint


OPERATIONS = [
    v1.delete_profile(customer_user_id="anna"),
    v2.create_profile(v2.ProfileAttributes(gender="f"), customer_user_id="anna"),
    v2.grant_access_level(
        "premium", expires_at=dt.datetime(2027, 1, 1, tzinfo=dt.UTC), profile_id="p"
    ),
    OWN(headers={"x-own": "1"}, parameters={"page": 2}),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.endpoint.name)
def test_an_operation_can_be_pickled(operation: Operation[object]) -> None:
    """A queue gives back an equal operation."""
    assert pickle.loads(pickle.dumps(operation)) == operation


def test_another_process_can_read_an_operation() -> None:
    """A process that has not imported the library yet finds the endpoint."""
    code = "import pickle, sys; print(repr(pickle.load(sys.stdin.buffer)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(OPERATIONS[1]),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"Operation(v2.profiles.create)\n"), done.stderr


def test_the_main_module_is_the_last_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that imports an endpoint has another name, or none, in other processes."""
    monkeypatch.setattr(sys.modules["__main__"], "OWN", OWN, raising=False)
    name_of.cache_clear()
    assert name_of(OWN) == (__name__, "OWN")


def test_the_library_is_the_first_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of an application that imports an endpoint may be missing elsewhere."""
    app = types.ModuleType("app")
    endpoint = app.ENDPOINT = v1.DELETE_PROFILE  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "modules", {"app": app, **sys.modules})
    name_of.cache_clear()
    assert name_of(endpoint) == ("adapty_async.v1", "DELETE_PROFILE")


def test_a_lazy_module_is_not_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module of a lazy loader imports itself at the first access, and may fail."""
    (tmp_path / "lazy.py").write_text("import module_that_is_not_installed")
    spec = importlib.util.spec_from_file_location("lazy", tmp_path / "lazy.py")
    assert spec is not None
    assert spec.loader is not None
    lazy = importlib.util.module_from_spec(spec)
    importlib.util.LazyLoader(spec.loader).exec_module(lazy)
    monkeypatch.setattr(sys, "modules", {"lazy": lazy, "none": object(), **sys.modules})
    name_of.cache_clear()
    assert name_of(OWN) == (__name__, "OWN")


class Unhashable(msgspec.Struct):
    """A decoder that cannot be the key of a dictionary."""

    def __call__(self, body: bytes) -> bytes:
        """Return the body."""
        return body


def test_an_endpoint_that_is_no_global_is_pickled_by_its_values() -> None:
    """A function without a name is an error, as elsewhere in Python."""
    own = Endpoint(name="own", method="GET", path="/", decode=bytes)
    assert pickle.loads(pickle.dumps(own)) == own
    unhashable = Endpoint(name="own", method="GET", path="/", decode=Unhashable())
    assert pickle.loads(pickle.dumps(unhashable)) == unhashable
    local = Endpoint(name="own", method="GET", path="/", decode=lambda body: body)
    with pytest.raises(Exception, match="lambda"):
        pickle.dumps(local)
