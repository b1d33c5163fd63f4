"""The state of a call changes through methods, each of which one layer calls."""

from __future__ import annotations

import ast
import inspect
import math
import operator
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType

import msgspec
import pytest

from adapty_async._api.call import CallState, Headers
from adapty_async.errors import ConnectError, ServerError
from tests._support import a_request
from tests.test_layers import TREES

METHODS = {name for name, value in vars(CallState).items() if isinstance(value, FunctionType)}
EVENTS = {name for name in METHODS if not name.startswith("_")}
LAYERS = {
    # a layer: the attributes that it writes
    "check": {
        "attempts",
        "refusals",
        "connect_failures",
        "throttled",
        "ambiguous",
        "error",
        "is_creation_lost",
        "written",
    },
    "observe": {"call_id", "earlier_attempts"},
    "limit": {"outage_failures", "deadline", "requeue_within"},
    "create": {"is_creating", "settled"},
}
# The definitions of the pipeline that write, and their layers.
DEFINITIONS = {
    "check": "check",
    "_error_of": "check",
    "_record_failure": "check",
    "_record_error": "check",
    "without_state": "transport",
    "LimitLayer": "limit",
    "_release_failed": "limit",
    "observe": "observe",
    "Creation": "create",
}


def calls() -> Iterator[tuple[str, str]]:
    """Yield the method and the layer of each call of an event's method in the package."""
    for module, tree in TREES.items():
        for definition in tree.body:
            for node in ast.walk(definition):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    on = node.func.value
                    if node.func.attr in EVENTS and isinstance(on, ast.Name) and on.id == "state":
                        yield node.func.attr, layer_of(module, definition)


def layer_of(module: str, definition: ast.stmt) -> str:
    """Return the layer of a function or class."""
    if module.startswith("_http."):
        return "transport"
    return DEFINITIONS[getattr(definition, "name", "")]


def written_by(method: str) -> set[str]:
    """Return the attributes that a method writes."""
    source = ast.parse(textwrap.dedent(inspect.getsource(getattr(CallState, method))))
    return {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def test_every_attribute_has_one_layer_that_writes_it() -> None:
    """Only those of the connection have two: the transport sets them, an attempt resets them."""
    writers: dict[str, set[str]] = {}
    for method, layer in calls():
        for attribute in written_by(method):
            writers.setdefault(attribute, set()).add(layer)
    connection = {"on_wire", "reused"}
    shared = {attribute: writers.pop(attribute) for attribute in connection}

    assert shared == {name: {"transport", "check"} for name in connection}
    assert writers == {
        attribute: {layer} for layer, attributes in LAYERS.items() for attribute in attributes
    }


def test_every_event_is_recorded_by_somebody() -> None:
    """No method is unused, and those that adapt a transport of the caller's count, too."""
    assert {method for method, _ in calls()} == EVENTS


@pytest.mark.parametrize("module", [name for name in TREES if name != "_api.call"])
def test_no_other_module_assigns_an_attribute(module: str) -> None:
    """A layer changes the state of a call through its methods alone."""
    fields = set(CallState.__struct_fields__)
    assigned = [
        node.lineno
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Attribute)
        if isinstance(node.ctx, ast.Store) and node.attr in fields
        if isinstance(node.value, ast.Name) and node.value.id in {"state", "call", "call_state"}
    ]

    assert assigned == []


def test_a_request_is_frozen() -> None:
    """No attribute of a request can be set."""
    request = a_request()
    for name in request.__struct_fields__:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(request, name, None)


CHANGES: dict[str, Callable[[Headers], object]] = {
    "set": lambda headers: operator.setitem(headers, "A", "2"),
    "delete": lambda headers: operator.delitem(headers, "A"),
    "merge": lambda headers: headers.__ior__({"A": "2"}),
    "clear": Headers.clear,
    "pop": lambda headers: headers.pop("A"),
    "popitem": Headers.popitem,
    "setdefault": lambda headers: headers.setdefault("B", "2"),
    "update": lambda headers: headers.update(A="2"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_headers_of_a_request_are_immutable(change: Callable[[Headers], object]) -> None:
    """Every method that changes a dictionary raises an error that says what to do."""
    headers = Headers({"A": "1"})
    with pytest.raises(TypeError, match="are immutable; make a dict of them"):
        change(headers)

    assert dict(headers) == {"A": "1"}
    assert {**headers, "B": "2"} == headers | {"B": "2"} == {"A": "1", "B": "2"}


def test_a_new_call_has_no_history() -> None:
    """It has no deadline, no attempt, and is sent for the first time."""
    state = CallState()

    assert state.is_first_send
    assert msgspec.structs.asdict(state) == {
        **dict.fromkeys(state.__struct_fields__, 0),
        "on_wire": False,
        "reused": False,
        "ambiguous": False,
        "written": False,
        "deadline": math.inf,
        "requeue_within": math.inf,
        "error": None,
        "on_first_send": None,
        "on_refusal": None,
        "on_creation": None,
        "on_creation_end": None,
    }


def test_a_call_is_sent_for_the_first_time_until_an_attempt_may_be_processed() -> None:
    """Attempts that the server certainly did not process do not count."""
    state = CallState()
    for is_sent in (False, True):
        state.attempt_started()
        state.attempt_refused(is_sent=is_sent)
        assert state.is_first_send
    state.attempt_started()
    state.attempt_ended()

    assert not state.is_first_send
    assert (state.attempts, state.refusals, state.connect_failures) == (3, 2, 1)


def test_an_attempt_starts_off_the_wire() -> None:
    """It may go over another connection than the attempt before."""
    state = CallState()
    state.attempt_started()
    state.connection_reused()
    state.sent()
    assert (state.on_wire, state.reused) == (True, True)
    state.attempt_started()

    assert (state.on_wire, state.reused) == (False, False)


def test_a_deadline_is_set_once() -> None:
    """It is extended by waits, and replaced only after a return to the queue."""
    state = CallState()
    state.start_deadline(100.0, 60.0)
    state.start_deadline(130.0, 60.0)
    assert state.deadline == 160.0
    state.extend_deadline(20.0)
    assert state.deadline == 180.0
    state.requeued(3.0)
    state.start_deadline(200.0, 60.0)

    assert (state.deadline, state.requeue_within) == (260.0, 3.0)


def test_a_call_was_written_if_one_of_its_attempts_was() -> None:
    """A failure to connect after a lost response does not change that."""
    state = CallState()
    state.attempt_failed(ConnectError("refused"), is_sent=False)
    assert not state.written
    state.attempt_failed(ServerError("status 500", status=500), is_sent=True)
    state.attempt_failed(ConnectError("refused"), is_sent=False)

    assert state.written


def test_a_success_leaves_no_error_of_the_attempt_before() -> None:
    """The error is that of the latest attempt that ended."""
    state, refused = CallState(), ConnectError("refused")
    state.attempt_started()
    state.attempt_failed(refused, is_sent=False)
    state.attempt_started()
    assert state.error is refused
    state.attempt_ended()

    assert state.error is None


def test_a_creation_has_a_history_of_its_own() -> None:
    """What was lost before it does not make it uncertain, and its first attempt is a first send."""
    state = CallState()
    state.attempt_started()
    state.response_lost()
    assert state.is_uncertain
    state.attempt_started()
    state.creation_started()
    assert (state.is_first_send, state.is_uncertain) == (True, False)
    state.attempt_started()
    state.attempt_refused(is_sent=False)
    assert (state.is_first_send, state.is_uncertain) == (True, False)
    state.attempt_started()
    state.response_lost()
    assert (state.is_first_send, state.is_uncertain) == (False, True)
    state.creation_ended()

    assert not state.is_creating
