"""
The web API against Adapty's own OpenAPI document, given by its path in ADAPTY_WEB_OPENAPI.

Rows, structs, examples and the sandbox's responses are walked.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec import UNSET, UnsetType

from adapty_async import AdaptyClient, NotFoundError, web
from adapty_async._api.codec import error_from
from adapty_async._api.operation import Endpoint, Operation, Response
from adapty_async.errors import ApiError, AuthenticationError, RequestRejectedError
from adapty_async.sandbox import Sandbox

_PATH = os.environ.get("ADAPTY_WEB_OPENAPI")
if not _PATH:
    pytest.skip(
        "ADAPTY_WEB_OPENAPI is not set: give it the path of the OpenAPI document of the web API",
        allow_module_level=True,
    )
yaml = pytest.importorskip("yaml", reason="pyyaml reads the document; it is in the group dev")
DOCUMENT: dict[str, Any] = yaml.safe_load(Path(_PATH).read_text("utf-8"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    spec["operationId"]: (method.upper(), path, spec)
    for path, methods in DOCUMENT["paths"].items()
    for method, spec in methods.items()
}
ROWS: dict[str, Endpoint[Any]] = {
    row.docs.rpartition("/")[2]: row
    for name in web.__all__
    if isinstance(row := getattr(web, name), Endpoint)
}
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "GetPaywallRequest": web.GetPaywallRequest,
    "RecordPaywallViewRequest": web.RecordPaywallViewRequest,
    "AddAttributionRequest": web.AddAttributionRequest,
    "PaywallResponse": web.Paywall,
    "Product": web.Product,
    "Offer": web.ProductOffer,
    "RemoteConfig": web.RemoteConfig,
}
REQUESTS = [name for name in STRUCTS if name.endswith("Request")]
PLAIN: dict[tuple[str, str | None], type] = {
    ("string", None): str,
    ("string", "uuid"): str,
    ("string", "date-time"): dt.datetime,
    ("boolean", None): bool,
}

#: Known defects of the document: sentences, each with a test that it is still so.
DEFECTS: dict[str, Callable[[], bool]] = {
    "the errors have six schemas of one shape, and none of them requires a field": lambda: (
        len({json.dumps(SCHEMAS[name]) for name in SCHEMAS if name.endswith("Error")}) == 1
        and "required" not in SCHEMAS["ParseError"]
    ),
    "nullable is a word of OpenAPI 3.0 and has no meaning in 3.1": lambda: (
        DOCUMENT["openapi"].startswith("3.1")
        and SCHEMAS["Product"]["properties"]["base_plan_id"].get("nullable") is True
    ),
    "no schema requires either of the two ids, although the prose does": lambda: all(
        not {"customer_user_id", "profile_id"} & set(SCHEMAS[name]["required"]) for name in REQUESTS
    ),
    "the response to a view has content, and no body": lambda: (
        "content" in OPERATIONS["recordPaywallView"][2]["responses"]["201"]
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_known_defect_is_still_there(defect: str) -> None:
    """Each defect that is exempted here is still in the document."""
    assert DEFECTS[defect]()


def test_every_operation_has_a_row_and_every_row_an_operation() -> None:
    """The rows are the document's operations, with the same method and path."""
    described = {name: (row.method, row.path) for name, row in ROWS.items()}

    assert described == {name: (method, path) for name, (method, path, _) in OPERATIONS.items()}


def test_every_schema_is_looked_at() -> None:
    """Each schema is a struct, or the body of an error."""
    assert {*STRUCTS, *(name for name in SCHEMAS if name.endswith("Error"))} == SCHEMAS.keys()


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_has_every_property_with_a_type_that_fits(name: str) -> None:
    """Each property is a field of the struct, of a type that takes its values, and no more."""
    struct, schema = STRUCTS[name], SCHEMAS[name]
    hints = typing.get_type_hints(struct)
    properties: dict[str, Any] = schema["properties"]

    assert properties.keys() == {*struct.__struct_fields__}
    for field, documented in properties.items():
        kinds = {*typing.get_args(hints[field])} or {hints[field]}
        if documented.get("nullable"):
            assert type(None) in kinds, field
        if "type" in documented and documented["type"] != "array" and "enum" not in documented:
            expected = PLAIN[documented["type"], documented.get("format")]
            assert expected in kinds, field
        if "enum" in documented and name in REQUESTS:
            assert list(typing.get_args(hints[field])) == documented["enum"], field


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_required_has_no_default(name: str) -> None:
    """A required property must be passed, any other can be left out."""
    fields = msgspec.structs.fields(STRUCTS[name])

    assert {one.name for one in fields if one.required} == set(SCHEMAS[name]["required"])
    assert all(one.default is UNSET for one in fields if not one.required)
    hints = typing.get_type_hints(STRUCTS[name])
    assert all(UnsetType in typing.get_args(hints[one.name]) for one in fields if not one.required)


def example(content: dict[str, Any]) -> Any:
    """Return the only example of a body."""
    [media] = content.values()
    [shown] = media["examples"].values()
    return shown["value"]


CALLS: dict[str, Callable[..., Operation[Any]]] = {
    "getPaywall": web.get_paywall,
    "recordPaywallView": web.record_paywall_view,
    "addAttribution": lambda **body: web.add_attribution(
        web.Attribution(
            **{name: value for name, value in body.items() if name != "customer_user_id"}
        ),
        customer_user_id=body["customer_user_id"],
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_request_of_the_document_is_sent_as_it_stands(name: str) -> None:
    """A call made of an example's values is encoded to the example's JSON and is valid."""
    body = example(OPERATIONS[name][2]["requestBody"]["content"])
    call = CALLS[name](**body)
    assert call.endpoint.check is not None
    call.endpoint.check(call)

    assert json.loads(call.endpoint.encode(call.body)) == body


def test_the_response_of_the_document_is_read_in_full() -> None:
    """Every value of the documented paywall is found in the result."""
    body = example(OPERATIONS["getPaywall"][2]["responses"]["200"]["content"])
    result = web.GET_PAYWALL.decode(json.dumps(body).encode())

    assert json.loads(msgspec.json.encode(result)) == body
    assert not result.odd_fields


STATUSES: dict[int, type[ApiError]] = {
    400: RequestRejectedError,
    401: AuthenticationError,
    404: NotFoundError,
}


def test_every_status_of_the_document_has_a_class() -> None:
    """The failures of each operation are the documented three, each with its class."""
    for _, _, spec in OPERATIONS.values():
        failures = {int(status) for status in spec["responses"] if not status.startswith("2")}
        assert failures == STATUSES.keys()
    for status, kind in STATUSES.items():
        body = {"errors": [{"source": None, "errors": ["x"]}], "status_code": status}
        error = error_from("web", Response(status, {}, json.dumps(body).encode()))
        assert type(error) is kind


@pytest.mark.parametrize("name", OPERATIONS)
async def test_the_sandbox_responds_as_the_document_says(name: str) -> None:
    """Status and body of a success on the sandbox are the documented ones."""
    body = example(OPERATIONS[name][2]["requestBody"]["content"])
    responses = OPERATIONS[name][2]["responses"]
    async with Sandbox() as sandbox:
        sandbox.seed_profiles([body["customer_user_id"]])
        sandbox.add_placements({"PaywallPlacementId": sandbox.add_paywalls("Sale")[0]})
        async with AdaptyClient(public_key=sandbox.public_key, base_url=sandbox.url) as adapty:
            await adapty.execute(CALLS[name](**body))
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                sandbox.url + OPERATIONS[name][1],
                json=body,
                headers={"Authorization": f"Api-Key {sandbox.public_key}"},
            ) as response,
        ):
            content = await response.read()

    assert str(response.status) in responses
    if name == "getPaywall":
        shown = json.loads(content)
        required = SCHEMAS["PaywallResponse"]["required"]
        assert set(required) <= shown.keys() <= SCHEMAS["PaywallResponse"]["properties"].keys()
        for product in shown["products"]:
            assert set(SCHEMAS["Product"]["required"]) <= product.keys()
            assert product.keys() <= SCHEMAS["Product"]["properties"].keys()
    else:
        assert content == b""
