"""
The library against Adapty's OpenAPI documents.

Endpoint definitions, parameters, fields, types, limits, examples and errors are walked, document by
document; `tests.contract.contracts` has a row for each. If a document contradicts itself, the
contradiction is one of the row's known defects, with a test that it is still there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from msgspec import UNSET

from adapty_async import v2
from adapty_async._api.call import Headers, Operation, Request, Response
from adapty_async._api.codec import RequestDefaults, encode, error_from
from adapty_async.errors import ApiError, InvalidInputError
from tests.contract.contract import Contract
from tests.contract.contracts import CONTRACTS, MODULES
from tests.contract.documents import DOCUMENTS
from tests.contract.structs import BEYOND, limits, mismatches
from tests.v2 import documented

HEADERS = Headers({"Authorization": "x", "Content-Type": "application/json"})
WIRE = RequestDefaults(
    origin="https://example.com", headers=HEADERS, public_headers=Headers(HEADERS)
)
ROWS = [pytest.param(contract, id=name) for name, contract in CONTRACTS.items()]
each_document = pytest.mark.parametrize("contract", ROWS)
each_operation = pytest.mark.parametrize(
    ("contract", "operation"),
    [
        pytest.param(contract, operation, id=f"{name}-{operation}")
        for name, contract in CONTRACTS.items()
        for operation in contract.document.operations
    ],
)
each_defect = pytest.mark.parametrize(
    ("contract", "defect"),
    [
        pytest.param(contract, defect, id=f"{name}-{defect}")
        for name, contract in CONTRACTS.items()
        for defect in contract.defects
    ],
)


def sent(operation: Operation[Any]) -> Request:
    """Return the request of an operation."""
    return encode(operation, WIRE, timeout=1, total_timeout=1)


def test_every_document_has_a_contract() -> None:
    """A document without a row is one whose module the library does not have yet."""
    assert MODULES.keys() == DOCUMENTS.keys()
    missing = {name for name, module in MODULES.items() if importlib.util.find_spec(module) is None}
    assert CONTRACTS.keys() == DOCUMENTS.keys() - missing


def test_the_documents_have_32_operations() -> None:
    """Adapty describes 32 operations in documents; the four of version 1 have pages alone."""
    counts = [len(document.operations) for document in DOCUMENTS.values()]

    assert counts == [19, 3, 3, 7]


@each_defect
def test_a_known_defect_is_still_there(contract: Contract, defect: str) -> None:
    """Each defect that is exempted is still in the document."""
    assert contract.defects[defect]()


# Endpoint definitions and parameters


@each_document
def test_every_operation_has_an_endpoint_and_every_endpoint_an_operation(
    contract: Contract,
) -> None:
    """Endpoint definitions have the methods, paths and media types of the document."""
    document = contract.document
    described = {name: (row.method, row.path) for name, row in contract.endpoints.items()}

    assert described == {
        name: (method, path) for name, (method, path, _) in document.operations.items()
    }
    for name, endpoint in contract.endpoints.items():
        assert (endpoint.media_type or "application/json") == document.media_type(name)


def requests_of(contract: Contract, operation: str) -> list[Request]:
    """Return a request for each identity that the operation takes, with everything it can carry."""
    ids: list[dict[str, str]] = [{"customer_user_id": "u1"}, {"profile_id": "p1"}]
    described = ids if contract.takes_identity(operation) else [{}]
    return [sent(contract.calls[operation](**chosen)) for chosen in described]


@each_operation
def test_a_call_carries_the_documents_parameters(contract: Contract, operation: str) -> None:
    """Headers, query and path of a call are those that the document declares, and no others."""
    declared = contract.document.declared
    requests = requests_of(contract, operation)

    headers = {name for request in requests for name in request.headers} - WIRE.headers.keys()
    query = {name for request in requests for name in parse_qs(urlsplit(request.url).query)}
    undeclared = contract.undeclared.get(operation, set())
    assert headers == declared(operation, "header") | undeclared
    assert query == declared(operation, "query")
    assert all("{" not in request.url for request in requests)
    endpoint = contract.endpoints[operation]
    assert endpoint.path.count("{") == len(declared(operation, "path"))


def test_both_identities_are_accepted_by_creation_alone() -> None:
    """Only createProfile is described as taking two ids at once."""
    contract = CONTRACTS["server-side-api-v2"]
    both = {"customer_user_id": "u1", "profile_id": "p1"}
    taken = []
    for operation in contract.document.operations:
        if contract.takes_identity(operation):
            with contextlib.suppress(InvalidInputError):
                contract.calls[operation](**both)
                taken.append(operation)

    assert taken == ["createProfile"]


# Schemas


@each_document
def test_every_schema_is_looked_at(contract: Contract) -> None:
    """No schema of a document is left out, but for those that others contain."""
    looked_at = {*contract.requests, *contract.responses, *contract.elsewhere}

    assert contract.document.schemas.keys() == looked_at | contract.parts
    assert not looked_at & contract.parts


@pytest.mark.parametrize(
    ("contract", "schema", "struct"),
    [
        pytest.param(contract, schema, struct, id=f"{name}-{schema}")
        for name, contract in CONTRACTS.items()
        for schema, struct in (*contract.requests.items(), *contract.responses.items())
    ],
)
def test_a_struct_has_every_property_with_a_type_that_fits(
    contract: Contract, schema: str, struct: type[msgspec.Struct]
) -> None:
    """Each property is a field of the struct, of a type for its values; there are no others."""
    assert list(mismatches(contract, contract.document.schemas[schema], struct)) == []


@pytest.mark.parametrize(
    ("contract", "schema"),
    [
        pytest.param(contract, schema, id=f"{name}-{schema}")
        for name, contract in CONTRACTS.items()
        for schema in contract.requests
    ],
)
def test_what_is_required_has_no_default(contract: Contract, schema: str) -> None:
    """A required property must be given, any other can be left out."""
    struct = contract.requests[schema]
    required = {
        one
        for one in contract.document.schemas[schema].get("required", ())
        if (schema, one) not in contract.optional
    } - {"purchase_type"}
    fields = {one.name: one for one in msgspec.structs.fields(struct)}

    assert {one for one, field in fields.items() if field.required} == required
    assert all(field.default is UNSET for field in fields.values() if not field.required)


# Examples

SENT = [
    pytest.param(contract, operation, example, body, id=f"{name}-{operation}-{example}")
    for name, contract in CONTRACTS.items()
    for operation in contract.document.operations
    for example, body in contract.document.request_examples(operation)
]
RECEIVED = [
    pytest.param(contract, operation, body, id=f"{name}-{operation}-{example}")
    for name, contract in CONTRACTS.items()
    for operation in contract.document.operations
    for example, body in contract.document.response_examples(operation)
]
FAILED = [
    pytest.param(contract, status, body, id=f"{name}-{operation}-{status}-{number}")
    for name, contract in CONTRACTS.items()
    for number, (operation, status, body) in enumerate(contract.document.error_examples())
]


@each_document
def test_every_documented_body_has_a_builder(contract: Contract) -> None:
    """Every operation with a body has an example, which is built below."""
    document = contract.document
    with_example = {name for name in document.operations if list(document.request_examples(name))}

    assert {name for name in document.operations if "requestBody" in document.spec(name)} <= (
        with_example
    )
    assert with_example == contract.builders.keys()


def test_examples_are_found() -> None:
    """The documents have examples of all three kinds."""
    assert (len(SENT), len(RECEIVED), len(FAILED)) >= (16, 12, 20)


@pytest.mark.parametrize(("contract", "operation", "example", "body"), SENT)
def test_a_request_of_the_document_is_sent_as_it_stands(
    contract: Contract, operation: str, example: str, body: Any
) -> None:
    """Structs built from an example's values are encoded to the example's JSON and are valid."""
    call = contract.builders[operation](body)

    encoded = json.loads(call.endpoint.encode(call.body), parse_float=Decimal)
    assert encoded == json.loads(json.dumps(body), parse_float=Decimal)
    broken = contract.breaks_a_rule.get((operation, example))
    if broken is None:
        sent(call)
    else:
        with pytest.raises(InvalidInputError, match=f"^{broken}: "):
            sent(call)


def differences(contract: Contract, operation: str, shown: Any, read: Any) -> Iterator[str]:
    """Yield the differences between a decoded value and its JSON."""
    if isinstance(read, v2.CustomAttributes):
        shown = {one["key"]: one["value"] for one in shown}
    if isinstance(read, msgspec.Struct | dict):
        for name, value in shown.items():
            if (operation, type(read).__name__, name) not in contract.not_in_the_struct:
                yield from differences(contract, operation, value, member(read, name))
    elif isinstance(read, tuple):
        for one, other in zip(shown, read, strict=True):
            yield from differences(contract, operation, one, other)
    elif plain(shown, read) != read:
        yield f"{shown!r} {read!r}"


def member(read: msgspec.Struct | dict[str, Any], name: str) -> Any:
    """Return a value of a struct, or of an object whose names are data."""
    return read[name] if isinstance(read, dict) else getattr(read, name)


def plain(shown: Any, read: Any) -> Any:
    """Return an example's value as it should be decoded; dates and times compare with a zone."""
    return dt.datetime.fromisoformat(shown) if isinstance(read, dt.datetime) else shown


@pytest.mark.parametrize(("contract", "operation", "body"), RECEIVED)
def test_a_response_of_the_document_is_read_in_full(
    contract: Contract, operation: str, body: Any
) -> None:
    """Every value of an example is found in the result; an empty object is no result."""
    result = contract.endpoints[operation].decode(json.dumps(body).encode())
    is_envelope = body.keys() == {"data"} and not hasattr(result, "data")
    content = body["data"] if is_envelope else body

    assert list(differences(contract, operation, content or result, result)) == []


# Limits

LIMITS = [
    pytest.param(contract, place, word, limit, id=f"{place}-{word}")
    for contract in CONTRACTS.values()
    for place, word, limit in limits(contract)
]


@each_document
def test_every_limit_of_the_document_is_looked_at(contract: Contract) -> None:
    """What has a limit in the document is built below at that limit."""
    assert {place for place, _, _ in limits(contract)} == contract.limited.keys()


@pytest.mark.parametrize(("contract", "place", "word", "limit"), LIMITS)
def test_a_limit_of_the_document_is_kept(
    contract: Contract, place: str, word: str, limit: int
) -> None:
    """The last value that the document allows is sent, the one beyond it is rejected."""
    sent(contract.limited[place](limit))
    with pytest.raises(InvalidInputError):
        sent(contract.limited[place](limit + BEYOND[word]))


# Errors


def codes(contract: Contract) -> list[tuple[int, str]]:
    """Return the statuses and codes of failures that the document has."""
    document = contract.document
    return sorted({code for name in document.operations for code in document.error_codes(name)})


def statuses(contract: Contract) -> list[int]:
    """Return the statuses of failures that the document has."""
    specs = [spec for _, _, spec in contract.document.operations.values()]
    return sorted(
        {int(one) for spec in specs for one in spec["responses"] if not one.startswith("2")}
    )


@each_document
def test_every_error_code_of_the_document_is_known(contract: Contract) -> None:
    """The table of documented errors is what the document has, and what its pages alone have."""
    known = contract.error_kinds.keys() - contract.error_kinds_on_pages_only

    assert set(codes(contract)) == known


@pytest.mark.parametrize("shape", documented.SHAPES)
@pytest.mark.parametrize(
    ("contract", "status", "code"),
    [
        pytest.param(contract, status, code, id=f"{name}-{status}-{code}")
        for name, contract in CONTRACTS.items()
        for status, code in codes(contract)
    ],
)
def test_a_code_of_the_document_has_its_class_in_every_shape(
    contract: Contract, status: int, code: str, shape: str
) -> None:
    """Whichever body a code comes in, the error has the class, the field and the words of it."""
    failure = documented.Documented(status, code, ApiError, "some_field", "What was wrong")
    body = json.dumps(documented.SHAPES[shape](failure)).encode()
    error = error_from(contract.name, Response(status, {}, body))

    assert type(error) is contract.error_kinds[status, code]
    assert (error.status, error.error_code) == (status, code)
    assert [item.message for item in error.errors] == ["What was wrong"]
    assert error.field_name == (None if shape == "strings" else "some_field")


@pytest.mark.parametrize(
    ("contract", "status"),
    [
        pytest.param(contract, status, id=f"{name}-{status}")
        for name, contract in CONTRACTS.items()
        for status in statuses(contract)
    ],
)
def test_a_status_of_the_document_has_a_class_without_a_code(
    contract: Contract, status: int
) -> None:
    """The status identifies an error whose body is described and not shown."""
    body = {"errors": [{"source": None, "errors": ["What was wrong"]}], "status_code": status}
    error = error_from(contract.name, Response(status, {}, json.dumps(body).encode()))

    assert type(error) is contract.statuses[status]


@pytest.mark.parametrize(("contract", "status", "body"), FAILED)
def test_an_error_of_the_document_is_read_in_full(
    contract: Contract, status: int, body: Any
) -> None:
    """Every example of a failure gives an error with its class, status, code, fields and texts."""
    error = error_from(contract.name, Response(status, {}, json.dumps(body).encode()))

    code = body.get("error_code") or body["errors"][0].get("error_code")
    kind = contract.error_kinds[status, code] if code else contract.statuses[status]
    assert type(error) is kind
    assert error.recognised
    assert (error.status, error.error_code) == (status, code)
    assert [(item.field_name, item.message) for item in error.errors] == [
        described(entry) for entry in body["errors"]
    ]


def described(entry: Any) -> tuple[str | None, str]:
    """Return the field and the words of an entry of an example."""
    if isinstance(entry, str):
        return None, entry
    if "detail" in entry:
        return entry["source"]["pointer"].split("/")[-1], entry["detail"]
    if "message" in entry:
        return entry["field_name"], entry["message"]
    [words] = entry["errors"]
    return (None if entry["source"] == documented.NONE else entry["source"]), words
