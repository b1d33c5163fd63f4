"""The tree of errors: base classes, texts, copies and pickles."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import adapty_async
import adapty_async.jobs
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    ConflictError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    DecodeError,
    ErrorItem,
    ExportError,
    InvalidInputError,
    JournalError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
    StoreError,
    TransportError,
    WebhookError,
)
from tests._support import CANARY_EMAIL, ERROR_CLASSES

OF_JOBS = (
    "JobError",
    "JobStoppedError",
    "PartBusyError",
    "PartChangedError",
    "StoreUnavailableError",
)
PARENTS: dict[type[AdaptyError], tuple[type[Exception], ...]] = {
    AdaptyError: (Exception,),
    ConfigError: (AdaptyError,),
    InvalidInputError: (AdaptyError, ValueError),
    TransportError: (AdaptyError,),
    ConnectError: (TransportError,),
    RequestTimeoutError: (TransportError,),
    ConnectionLostError: (TransportError,),
    ApiError: (AdaptyError,),
    AuthenticationError: (ApiError,),
    NotFoundError: (ApiError,),
    RequestRejectedError: (ApiError,),
    ConflictError: (ApiError,),
    RateLimitError: (ApiError,),
    ServerError: (ApiError,),
    DecodeError: (AdaptyError,),
    DeadlineError: (AdaptyError,),
    CircuitOpenError: (AdaptyError,),
    JournalError: (AdaptyError,),
    WebhookError: (AdaptyError, ValueError),
    ExportError: (AdaptyError,),
    StoreError: (AdaptyError,),
}
FIELDS: dict[str, Any] = {
    "attempts": 3,
    "operation": "v1.profiles.get",
    "permanent": True,
    "errno": 24,
    "status": 418,
    "error_code": "teapot",
    "errors": (ErrorItem("short and stout", field_name="spout"),),
    "recognised": True,
    "request_id": "758f01df",
    "retry_after": 1.5,
    "body": b"short and stout",
    "_may_be_the_api": True,
}


def filled(kind: type[AdaptyError]) -> AdaptyError:
    """Return an error of that class with a value in every field."""
    error = kind("name", "rule") if kind is InvalidInputError else kind("message")
    assert vars(error).keys() <= FIELDS.keys() | {"field", "rule"}, "a field without a sample"
    for name in vars(error).keys() & FIELDS.keys():
        setattr(error, name, FIELDS[name])

    return error


@pytest.mark.parametrize("kind", ERROR_CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_its_place_in_the_tree(kind: type[AdaptyError]) -> None:
    """Each error class has the base class of its cause."""
    assert kind.__bases__ == PARENTS[kind]


def below(kind: type[AdaptyError]) -> Iterator[type[AdaptyError]]:
    """Return a class and all that are derived from it, by the package itself."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.partition(".")[0] == adapty_async.__name__:
            yield from below(child)


def test_there_are_no_other_errors() -> None:
    """The tree of classes is the one that is tested here, whichever module a class is in."""
    for module in pkgutil.walk_packages(adapty_async.__path__, "adapty_async."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    found = set(below(AdaptyError))
    assert {kind for kind in found if kind.__module__ == "adapty_async.errors"} == set(PARENTS)
    assert set(ERROR_CLASSES) == set(PARENTS)
    others = {kind.__name__ for kind in found if kind.__module__ != "adapty_async.errors"}
    assert others == {*OF_JOBS, "MissingKeyError"}


def test_the_errors_of_jobs_are_public_there() -> None:
    """Errors that only jobs raise are in their module, which needs an extra."""
    assert set(OF_JOBS) == {name for name in adapty_async.jobs.__all__ if name.endswith("Error")}


def test_every_error_is_found_at_the_root() -> None:
    """Every error class can be imported from the root of the package."""
    assert {name: getattr(adapty_async, name) for name in (kind.__name__ for kind in PARENTS)} == {
        kind.__name__: kind for kind in ERROR_CLASSES
    }


@pytest.mark.parametrize("kind", ERROR_CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "again",
    [
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
    ],
)
def test_a_copy_of_an_error_has_everything(
    kind: type[AdaptyError], again: Callable[[AdaptyError], AdaptyError]
) -> None:
    """Copying keeps the class, every field and the text of an error."""
    error = filled(kind)
    same = again(error)

    assert type(same) is kind
    assert vars(same) == vars(error)
    assert (same.args, str(same)) == (error.args, str(error))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ERROR_CLASSES, ids=lambda kind: kind.__name__)
def test_a_pickle_of_an_error_goes_without_the_servers_words(
    kind: type[AdaptyError], protocol: int
) -> None:
    """Pickling keeps the class, the text and every field except the server's text."""
    error = filled(kind)
    same = pickle.loads(pickle.dumps(error, protocol))
    left_out = {"body": b"", "errors": (ErrorItem("", field_name="spout"),)}

    assert type(same) is kind
    assert vars(same) == vars(error) | {
        name: value for name, value in left_out.items() if name in vars(error)
    }
    assert (same.args, str(same)) == (error.args, str(error))


def test_a_pickle_has_no_names_that_are_none() -> None:
    """A code or a field in an entry of a response that is not a name is not pickled."""
    error = ApiError("status 400", status=400)
    error.errors = (ErrorItem("taken", f"no {CANARY_EMAIL}", 400, CANARY_EMAIL),)
    error.body = CANARY_EMAIL.encode()
    stored = pickle.dumps(error)

    assert b"canary" not in stored
    assert pickle.loads(stored).errors == (ErrorItem("", status_code=400),)
    assert copy.copy(error).errors == error.errors


@pytest.mark.parametrize("kind", ERROR_CLASSES, ids=lambda kind: kind.__name__)
def test_errors_are_copied_and_pickled_in_groups_and_with_what_caused_them(
    kind: type[AdaptyError],
) -> None:
    """An error in a group keeps its notes and fields; its cause is dropped."""
    error = filled(kind)
    error.add_note("beside")
    error.__cause__ = ConnectError("first")
    group = ExceptionGroup("together", [error, ValueError("other")])
    [same, _] = pickle.loads(pickle.dumps(group)).exceptions

    assert type(same) is kind
    assert (str(same), same.__notes__) == (str(error), ["beside"])
    assert vars(copy.deepcopy(group.exceptions[0])) == vars(error)


class TheirError(ApiError):
    """An error that a user has derived, with a field of its own."""

    tenant = "none"


def test_an_error_that_a_user_derived_is_copied_and_pickled() -> None:
    """Fields of derived classes are kept."""
    error = TheirError("message", status=418)
    error.tenant = "acme"
    for same in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(same) is TheirError
        assert (same.tenant, same.status, str(same)) == ("acme", 418, "message")


def test_a_copy_of_an_error_has_notes_of_its_own() -> None:
    """A note that is added to a deep copy is not added to the error."""
    error = AdaptyError("message")
    error.add_note("first")
    copy.deepcopy(error).add_note("second")

    assert error.__notes__ == ["first"]


def test_the_text_of_an_api_error_has_all_that_helps() -> None:
    """Status, code, field, operation, attempts and request id are in the text, in this order."""
    error = filled(RequestRejectedError)
    error.args = ("status 418",)

    assert str(error) == (
        "status 418, error_code teapot, field spout, operation v1.profiles.get, attempts 3,"
        " request 758f01df"
    )


def test_the_text_of_a_bare_error_is_its_message() -> None:
    """Unknown fields are not in the text."""
    assert str(ConnectError("cannot connect")) == "cannot connect"
    assert str(ApiError("status 500", status=500)) == "status 500"
    assert str(AdaptyError()) == ""


def test_nothing_the_server_wrote_is_in_a_text() -> None:
    """The server's text, and codes that are not names, are not in str and repr."""
    error = ApiError("status 400", status=400)
    error.error_code = f"no {CANARY_EMAIL}"
    error.request_id = f"forged\nline {CANARY_EMAIL}"
    error.body = CANARY_EMAIL.encode()
    error.errors = (ErrorItem(f"{CANARY_EMAIL} is taken", CANARY_EMAIL, 400, CANARY_EMAIL),)

    assert str(error) == "status 400"
    assert CANARY_EMAIL not in repr(error) + repr(error.errors)
    assert repr(error.errors) == "(ErrorItem(),)"


def test_an_item_shows_its_names() -> None:
    """The code and the field of an entry are shown, its message is not."""
    item = ErrorItem("must be earlier", "value_error", 400, "revoke_at")

    assert repr(item) == "ErrorItem(error_code='value_error', field_name='revoke_at')"


@pytest.mark.parametrize(
    ("items", "field_name"),
    [
        pytest.param((), None, id="no entries"),
        pytest.param((ErrorItem("x"), ErrorItem("y", field_name="email")), "email", id="second"),
        pytest.param(
            (ErrorItem("x", field_name="jane's"), ErrorItem("y", field_name="email")),
            "email",
            id="text of somebody",
        ),
    ],
)
def test_the_field_name_is_the_first_one_there_is(
    items: tuple[ErrorItem, ...], field_name: str | None
) -> None:
    """The first entry that names a field gives the error's field name."""
    error = ApiError("status 400", status=400)
    error.errors = items

    assert error.field_name == field_name


def test_invalid_input_is_a_value_error_with_field_and_rule() -> None:
    """A caller can catch it as ValueError, and read which field broke which rule."""
    with pytest.raises(ValueError, match=r"^birthday: must be a date$") as caught:
        raise InvalidInputError("birthday", "must be a date")

    assert isinstance(caught.value, InvalidInputError)
    assert (caught.value.field, caught.value.rule) == ("birthday", "must be a date")
