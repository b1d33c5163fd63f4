"""
Version 2 against Adapty's own OpenAPI document, given by its path in ADAPTY_OPENAPI.

Rows, parameters, fields, types and examples are walked. Where the document contradicts itself, the
contradiction is in the list of known defects, together with a test that it is still there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from adapty_async import v2
from adapty_async._api.codec import RequestDefaults, encode, error_from
from adapty_async._api.operation import Endpoint, Headers, Operation, Request, Response
from adapty_async.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    ServerError,
)
from tests.v2 import documented

_PATH = os.environ.get("ADAPTY_OPENAPI")
if not _PATH:
    pytest.skip(
        "ADAPTY_OPENAPI is not set: give it the path of Adapty's server-side OpenAPI document",
        allow_module_level=True,
    )
yaml = pytest.importorskip("yaml", reason="pyyaml reads the document; it is in the group dev")
DOCUMENT: dict[str, Any] = yaml.safe_load(Path(_PATH).read_text("utf-8"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    spec["operationId"]: (method.upper(), path, spec)
    for path, methods in DOCUMENT["paths"].items()
    for method, spec in methods.items()
}
ROWS: dict[str, Endpoint[Any]] = {
    row.docs.rpartition("/")[2]: row
    for name in v2.__all__
    if isinstance(row := getattr(v2, name), Endpoint)
}
WIRE = RequestDefaults(
    origin="https://example.com",
    headers=Headers({"Authorization": "x", "Content-Type": "application/json"}),
)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Follow references, also those in an allOf of one, and keep their sibling keys."""
    beside = {key: value for key, value in schema.items() if key not in {"$ref", "allOf"}}
    if "$ref" in schema:
        return {**resolved(SCHEMAS[schema["$ref"].rpartition("/")[2]]), **beside}
    if "allOf" in schema:
        [only] = schema["allOf"]
        return {**resolved(only), **beside}
    return schema


# Known defects of the document. Each is a sentence, and a test that it is still so: when Adapty
# mends one, its exemption below has to go as well.


def _profile_example(example: str) -> Any:
    spec = OPERATIONS["setTransaction"][2]["requestBody"]["content"]["application/json"]
    return spec["examples"][example]["value"]


DEFECTS: dict[str, Callable[[], bool]] = {
    "nullable is a word of OpenAPI 3.0 and has no meaning in 3.1": lambda: (
        DOCUMENT["openapi"].startswith("3.1")
        and SCHEMAS["Profile"]["properties"]["customer_user_id"].get("nullable") is True
    ),
    "a security scheme has no default": lambda: (
        "default" in DOCUMENT["components"]["securitySchemes"]["apikeyAuth"]
    ),
    "the discriminator's values are not the schemas' names, and there is no mapping": lambda: (
        "mapping" not in SCHEMAS["TransactionDTORequest"]["discriminator"]
    ),
    "errors is a list of strings in examples, of objects in the schema": lambda: any(
        isinstance(entry, str)
        for _, _, body in error_examples()
        for entry in body.get("errors", ())
    ),
    "installation_meta is required, although the prose says it is not": lambda: (
        SCHEMAS["ProfileRequest"]["required"] == ["installation_meta"]
    ),
    "adapty-platform is declared on createProfile alone, and recommended for updates": lambda: (
        [name for name in OPERATIONS if "adapty-platform" in declared(name, "header")]
        == ["createProfile"]
    ),
    "a value of a custom attribute is never null, although null deletes one": lambda: (
        {"type": "null"} not in SCHEMAS["CustomAttribute"]["properties"]["value"]["oneOf"]
    ),
    "the subscription's free trial costs something, which is free_trial_price_error": lambda: (
        _profile_example("subscription")["offer"]["type"] == "free_trial"
        and _profile_example("subscription")["price"]["value"] != 0
    ),
    "the scheduled revocation is in the past, which is value_error": lambda: (
        dict(request_examples("revokeAccessLevel"))["scheduled_revoke"]["revoke_at"]
        < dt.datetime.now(dt.UTC).isoformat()
    ),
    "the Paddle token is neither txn_ nor sub_": lambda: (
        dict(request_examples("validatePaddlePurchase"))["example"]["paddle_token"][:5] == "live_"
    ),
    "the Paddle answer has a one-time purchase among the subscriptions": lambda: (
        "purchase_id"
        in dict(answer_examples("validatePaddlePurchase"))["example"]["data"]["subscriptions"][0]
    ),
}
NOT_DECLARED = {"updateProfile": {"adapty-platform"}}
NOT_REQUIRED = {("ProfileRequest", "installation_meta")}
BREAKS_A_RULE = {
    ("setTransaction", "subscription"): "price.value",
    ("revokeAccessLevel", "scheduled_revoke"): "revoke_at",
}
NOT_IN_THE_STRUCT = {
    ("validatePaddlePurchase", "Subscription", name)
    for name in ("purchase_id", "is_refund", "is_consumable")
}


def declared(operation: str, place: str) -> set[str]:
    """Return the names of an operation's parameters in the header, the query or the path."""
    parameters = OPERATIONS[operation][2].get("parameters", ())
    return {one["name"] for one in parameters if one["in"] == place}


def examples_of(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the examples of a body, by name, its schema's own one included."""
    for media in content.values():
        if "example" in media:
            yield "example", media["example"]
        for name, example in media.get("examples", {}).items():
            yield name, example["value"]
        if "example" in (schema := resolved(media["schema"])):
            yield "schema", schema["example"]


def request_examples(operation: str) -> Iterator[tuple[str, Any]]:
    """Yield the documented bodies of a request."""
    yield from examples_of(OPERATIONS[operation][2].get("requestBody", {}).get("content", {}))


def answer_examples(operation: str) -> Iterator[tuple[str, Any]]:
    """Yield the documented bodies of a success."""
    for status, answer in OPERATIONS[operation][2]["responses"].items():
        if status.startswith("2"):
            yield from examples_of(answer.get("content", {}))


def error_examples() -> Iterator[tuple[str, int, Any]]:
    """Yield the documented bodies of failures, with operation and status."""
    for operation, (_, _, spec) in OPERATIONS.items():
        for status, answer in spec["responses"].items():
            if not status.startswith("2"):
                for _, body in examples_of(answer.get("content", {})):
                    yield operation, int(status), body


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_known_defect_is_still_there(defect: str) -> None:
    """Each defect that is exempted below is still in the document."""
    assert DEFECTS[defect]()


# Rows and parameters


def test_every_operation_has_a_row_and_every_row_an_operation() -> None:
    """The rows are the document's operations, with the same method, path and media type."""
    described = {name: (row.method, row.path) for name, row in ROWS.items()}

    assert described == {name: (method, path) for name, (method, path, _) in OPERATIONS.items()}
    for name, (_, _, spec) in OPERATIONS.items():
        [media_type] = spec.get("requestBody", {}).get("content", ["application/json"])
        assert (ROWS[name].media_type or "application/json") == media_type


META = v2.InstallationMeta(device_id="3fa85f64-5717-4562-b3fc-2c963f66afa6")
PRICE = v2.Price(country="US", currency="USD", value=0)
NOW = dt.datetime.now(dt.UTC)
BOUGHT = v2.OneTimePurchase(
    store="app_store",
    store_product_id="p",
    store_transaction_id="1",
    store_original_transaction_id="1",
    price=PRICE,
    purchased_at=NOW,
)
COINS = v2.VirtualCurrencyBalanceAdjustment(currency_code="COINS", amount=1)
CALLS: dict[str, Callable[..., Operation[Any]]] = {
    "createProfile": lambda **ids: v2.create_profile(platform="iOS", **ids),
    "getProfile": v2.get_profile,
    "updateProfile": lambda **ids: v2.update_profile(
        v2.ProfileAttributes(installation_meta=META), platform="iOS", **ids
    ),
    "deleteProfile": v2.delete_profile,
    "setTransaction": lambda **ids: v2.set_transaction(BOUGHT, **ids),
    "grantAccessLevel": lambda **ids: v2.grant_access_level("premium", **ids),
    "revokeAccessLevel": lambda **ids: v2.revoke_access_level("premium", **ids),
    "getRefundSaverSettings": v2.get_refund_saver_settings,
    "setRefundSaverSettings": lambda **ids: v2.set_refund_saver_settings(consent=True, **ids),
    "validateStripePurchase": lambda: v2.validate_stripe_purchase(
        customer_user_id="u", stripe_token="sub_1"
    ),
    "validatePaddlePurchase": lambda: v2.validate_paddle_purchase(
        customer_user_id="u", paddle_token="txn_1"
    ),
    "getIntegrationIdentifiers": v2.get_integration_identifiers,
    "setIntegrationIdentifiers": lambda **ids: v2.set_integration_identifiers(
        v2.IntegrationIdentifiers(branch_id="b"), **ids
    ),
    "listPaywalls": v2.list_paywalls,
    "getPaywall": lambda: v2.get_paywall("fd891d4f-5906-45b9-97c1-13cc3dc665df"),
    "updatePaywall": lambda: v2.update_paywall(
        "fd891d4f-5906-45b9-97c1-13cc3dc665df", [v2.RemoteConfig.of("en", {})]
    ),
    "createVirtualCurrencyTransaction": lambda **ids: v2.create_virtual_currency_transaction(
        [COINS], **ids
    ),
    "listVirtualCurrencyTransactions": lambda **ids: v2.list_virtual_currency_transactions(
        currency_code="COINS", cursor="c", limit=1, **ids
    ),
    "listVirtualCurrencyBalances": v2.list_virtual_currency_balances,
}


def requests_of(operation: str) -> list[Request]:
    """Return a request for each identity that the operation takes, with everything it can carry."""
    ids: list[dict[str, str]] = [{"customer_user_id": "u1"}, {"profile_id": "p1"}]
    described = ids if "adapty-profile-id" in declared(operation, "header") else [{}]
    calls = [CALLS[operation](**chosen) for chosen in described]
    return [encode(call, WIRE, timeout=1, total_timeout=1) for call in calls]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_call_carries_the_documents_parameters(operation: str) -> None:
    """Headers, query and path of a call are those that the document declares, and no others."""
    requests = requests_of(operation)

    headers = {name for request in requests for name in request.headers} - WIRE.headers.keys()
    query = {name for request in requests for name in parse_qs(urlsplit(request.url).query)}
    assert headers == declared(operation, "header") | NOT_DECLARED.get(operation, set())
    assert query == declared(operation, "query")
    assert all("{" not in request.url for request in requests)
    assert ROWS[operation].path.count("{") == len(declared(operation, "path"))


def test_both_identities_are_taken_by_creation_alone() -> None:
    """Only createProfile is described as taking two ids at once."""
    both = {"customer_user_id": "u1", "profile_id": "p1"}
    taken = []
    for operation in OPERATIONS:
        if "adapty-profile-id" in declared(operation, "header"):
            with contextlib.suppress(InvalidInputError):
                CALLS[operation](**both)
                taken.append(operation)

    assert taken == ["createProfile"]


# Schemas

REQUESTS: dict[str, type[msgspec.Struct]] = {
    "ProfileRequest": v2.ProfileAttributes,
    "OneTimePurchaseDTO": v2.OneTimePurchase,
    "SubscriptionDTO": v2.SubscriptionPurchase,
    "GrantAccessRequest": v2.AccessGrant,
    "RevokeAccessRequest": v2.AccessRevocation,
    "RefundSaverSettingsRequest": v2.RefundSaverSettingsRequest,
    "PaddleValidationRequest": v2.PaddleValidationRequest,
    "IntegrationIdentifiersRequest": v2.IntegrationIdentifiers,
    "VirtualCurrencyTransactionRequest": v2.VirtualCurrencyTransactionRequest,
    "RemoteConfigObject": v2.RemoteConfig,
}
ANSWERS: dict[str, type[msgspec.Struct]] = {
    "Profile": v2.Profile,
    "RefundSaverSettingsResponse": v2.RefundSaverSettingsResponse,
    "RefundSaverSettingsObject": v2.RefundSaverSettings,
    "IntegrationIdentifiersResponse": v2.IntegrationIdentifiersResponse,
    "IntegrationIdentifiersObject": v2.IntegrationIdentifiersResponse,
    "PaywallResponse": v2.Paywall,
    "PaywallObject": v2.Paywall,
    "PaywallListResponse": v2.PaywallList,
    "PaywallListItem": v2.PaywallListItem,
    "ProductObject": v2.Product,
    "PaginationObject": v2.Pagination,
    "VirtualCurrencyTransactionResponse": v2.VirtualCurrencyTransaction,
    "VirtualCurrencyBalanceListResponse": v2.VirtualCurrencyBalanceList,
    "VirtualCurrencyTransactionsHistoryResponse": v2.VirtualCurrencyTransactionsHistory,
}
# schemas that are walked as parts of the others, or are no structs here
ELSEWHERE = {
    "ProfileResponse": "the envelope of Profile",
    "TransactionDTORequest": "the union of the two transactions",
    "CustomAttribute": "an entry of the dict",
    "StripeValidationRequest": "nested; its example is built",
    "StripeValidationResponse": "null",
    "PaywallUpdateRequest": "the arguments of update_paywall; its example is built",
    "ErrorResponse": "read by _codec, whatever its shape; its examples are read",
    "ErrorObject": "read by _codec",
    "StripeErrorResponse": "read by _codec; its example is read",
}


def within(schema: dict[str, Any], struct: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    """Yield the complaints about a struct that stands for a schema, going into nested objects."""
    hints = typing.get_type_hints(struct)
    properties: dict[str, Any] = schema["properties"]
    names = {*struct.__struct_fields__}
    tag = struct.__struct_config__.tag
    if tag is not None:
        names.add("purchase_type")
        if properties["purchase_type"]["enum"] != [tag]:
            yield "purchase_type", f"is {tag}"
    for name in properties.keys() ^ names:
        yield name, "is on one side only"
    for name in properties.keys() & {*struct.__struct_fields__}:
        yield from misfits(name, resolved(properties[name]), hints[name])


def misfits(name: str, schema: dict[str, Any], hint: Any) -> Iterator[tuple[str, str]]:
    """Yield the mismatches of the type of a field."""
    kinds = [*typing.get_args(hint)] if is_union(hint) else [hint]
    nullable = schema.get("nullable", False)
    if nullable != (type(None) in kinds) and (nullable or UnsetType in kinds):
        yield name, "must take null" if nullable else "must not send null"
    words = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
    if words and set(typing.get_args(words[0])) != set(schema.get("enum", ())):
        yield name, "has other words"
    yield from inner_misfits(name, schema, kinds)


def inner_misfits(name: str, schema: dict[str, Any], kinds: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield the mismatches of a value's type, or of its parts."""
    nested = [kind for kind in kinds if is_struct(kind)]
    if nested and "properties" in schema:
        yield from within(schema, nested[0])
    elif name == "custom_attributes":
        if not any(
            typing.get_origin(kind) is dict or kind is v2.CustomAttributes for kind in kinds
        ):
            yield name, "must be a dict"
    elif schema.get("type") == "array":
        yield from items_misfit(name, resolved(schema["items"]), kinds)
    elif not any(fits(kind, schema) for kind in kinds):
        yield name, f"{kinds} does not fit {schema.get('type')} {schema.get('format', '')}"


def items_misfit(name: str, schema: dict[str, Any], kinds: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield the mismatches of the entries of a list."""
    [entries] = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    [entry, _] = typing.get_args(entries)
    yield from misfits(f"{name}[]", schema, entry)


def is_union(hint: Any) -> bool:
    """Return whether a hint is a union, in either syntax."""
    return typing.get_origin(hint) in {typing.Union, types.UnionType}


def is_struct(kind: Any) -> bool:
    """Return whether a type is a struct."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


FITTING: dict[tuple[str, str | None], type] = {
    ("string", None): str,
    ("string", "uuid"): str,
    ("string", "uri"): str,
    ("string", "email"): str,
    ("string", "date"): dt.date,
    ("string", "date-time"): dt.datetime,
    ("number", "float"): float,
    ("integer", None): int,
    ("integer", "int32"): int,
    ("integer", "int64"): int,
    ("boolean", None): bool,
}


def fits(kind: Any, schema: dict[str, Any]) -> bool:
    """Return whether a plain type fits a schema."""
    if schema["type"] == "object":
        return typing.get_origin(kind) is dict
    wanted = FITTING[schema["type"], schema.get("format")]
    if typing.get_origin(kind) is typing.Literal:
        return all(isinstance(word, wanted) for word in typing.get_args(kind))
    return kind is wanted


def test_every_schema_is_looked_at() -> None:
    """No schema of the document is left out, but for those that others contain."""
    looked_at = {*REQUESTS, *ANSWERS, *ELSEWHERE}
    left = SCHEMAS.keys() - looked_at

    assert looked_at <= SCHEMAS.keys()
    assert left == {
        "InstallationMeta",
        "AccessLevel",
        "Subscription",
        "NonSubscription",
        "PriceDTO",
        "OfferDTO",
        "VirtualCurrencyBalanceAdjustment",
        "VirtualCurrencyBalanceSnapshot",
        "VirtualCurrencyProfileBalanceItem",
        "VirtualCurrencyTransactionsHistoryItem",
        "VirtualCurrencyBalanceChange",
        "VirtualCurrencyHistoryPagination",
    }  # these are properties of the ones that are walked


@pytest.mark.parametrize("name", [*REQUESTS, *ANSWERS])
def test_a_struct_has_every_property_with_a_type_that_fits(name: str) -> None:
    """
    Each property is a field of the struct, of a type that takes its values, and there are no more.
    """
    struct = REQUESTS.get(name) or ANSWERS[name]

    assert list(within(SCHEMAS[name], struct)) == []


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_required_has_no_default(name: str) -> None:
    """A required property must be given, any other can be left out."""
    struct = REQUESTS[name]
    required = {
        one for one in SCHEMAS[name].get("required", ()) if (name, one) not in NOT_REQUIRED
    } - {"purchase_type"}
    fields = {one.name: one for one in msgspec.structs.fields(struct)}

    assert {one for one, field in fields.items() if field.required} == required
    assert all(field.default is UNSET for field in fields.values() if not field.required)


# Examples

BUILT_OF: dict[str, Callable[[Any], Any]] = {
    "installation_meta": lambda value: v2.InstallationMeta(**value),
    "custom_attributes": lambda value: {one["key"]: one["value"] for one in value},
    "price": lambda value: v2.Price(**value),
    "offer": lambda value: None if value is None else v2.Offer(**value),
    "items": lambda value: tuple(v2.VirtualCurrencyBalanceAdjustment(**one) for one in value),
}


def built(struct: Callable[..., Any], body: dict[str, Any]) -> Any:
    """Make a struct of an example's JSON, as a caller would."""
    values = {
        name: BUILT_OF.get(name, lambda value: value)(value)
        for name, value in body.items()
        if name != "purchase_type"
    }
    return struct(**values)


TRANSACTIONS = {"one_time_purchase": v2.OneTimePurchase, "subscription": v2.SubscriptionPurchase}
IDS: dict[str, Any] = {"customer_user_id": "u1"}
BUILDERS: dict[str, Callable[[Any], Operation[Any]]] = {
    "createProfile": lambda body: v2.create_profile(built(v2.ProfileAttributes, body), **IDS),
    "updateProfile": lambda body: v2.update_profile(built(v2.ProfileAttributes, body), **IDS),
    "setTransaction": lambda body: v2.set_transaction(
        built(TRANSACTIONS[body["purchase_type"]], body), **IDS
    ),
    "grantAccessLevel": lambda body: v2.grant_access_level(**body, **IDS),
    "revokeAccessLevel": lambda body: v2.revoke_access_level(**body, **IDS),
    "setRefundSaverSettings": lambda body: v2.set_refund_saver_settings(**body, **IDS),
    "validateStripePurchase": lambda body: v2.validate_stripe_purchase(
        **body["data"]["attributes"]
    ),
    "validatePaddlePurchase": lambda body: v2.validate_paddle_purchase(**body),
    "setIntegrationIdentifiers": lambda body: v2.set_integration_identifiers(
        v2.IntegrationIdentifiers(**body), **IDS
    ),
    "updatePaywall": lambda body: v2.update_paywall(
        "p", [v2.RemoteConfig(**one) for one in body["remote_configs"]]
    ),
    "createVirtualCurrencyTransaction": lambda body: v2.create_virtual_currency_transaction(
        **{name: BUILT_OF.get(name, lambda value: value)(value) for name, value in body.items()},
        **IDS,
    ),
}
SENT = [
    pytest.param(operation, name, body, id=f"{operation}-{name}")
    for operation in OPERATIONS
    for name, body in request_examples(operation)
]
RECEIVED = [
    pytest.param(operation, body, id=f"{operation}-{name}")
    for operation in OPERATIONS
    for name, body in answer_examples(operation)
]
FAILED = [
    pytest.param(status, body, id=f"{operation}-{status}-{number}")
    for number, (operation, status, body) in enumerate(error_examples())
]


def test_examples_are_found() -> None:
    """The document has examples of all three kinds, and of every operation with a body."""
    assert (len(SENT), len(RECEIVED), len(FAILED)) >= (16, 12, 20)
    assert {one.values[0] for one in SENT} == BUILDERS.keys()


@pytest.mark.parametrize(("operation", "name", "body"), SENT)
def test_a_request_of_the_document_is_sent_as_it_stands(
    operation: str, name: str, body: Any
) -> None:
    """
    Structs built from an example's values are encoded to the example's JSON and are valid.
    """
    call = BUILDERS[operation](body)

    sent = json.loads(call.endpoint.encode(call.body), parse_float=Decimal)
    assert sent == json.loads(json.dumps(body), parse_float=Decimal)
    broken = BREAKS_A_RULE.get((operation, name))
    if broken is None:
        encode(call, WIRE, timeout=1, total_timeout=1)
    else:
        with pytest.raises(InvalidInputError, match=f"^{broken}: "):
            encode(call, WIRE, timeout=1, total_timeout=1)


def differences(operation: str, shown: Any, read: Any) -> Iterator[str]:
    """Yield the differences between a decoded value and its JSON."""
    if isinstance(read, v2.CustomAttributes):
        shown = {one["key"]: one["value"] for one in shown}
    if isinstance(read, msgspec.Struct):
        for name, value in shown.items():
            if (operation, type(read).__name__, name) not in NOT_IN_THE_STRUCT:
                yield from differences(operation, value, getattr(read, name))
    elif isinstance(read, tuple):
        for one, other in zip(shown, read, strict=True):
            yield from differences(operation, one, other)
    elif plain(shown, read) != read:
        yield f"{shown!r} {read!r}"


def plain(shown: Any, read: Any) -> Any:
    """
    Return a value of an example as it should be decoded; dates and times compare with a zone.
    """
    return dt.datetime.fromisoformat(shown) if isinstance(read, dt.datetime) else shown


@pytest.mark.parametrize(("operation", "body"), RECEIVED)
def test_an_answer_of_the_document_is_read_in_full(operation: str, body: Any) -> None:
    """Every value of an example is found in the result."""
    result = ROWS[operation].decode(json.dumps(body).encode())
    inner = body["data"] if body.keys() == {"data"} else body

    assert list(differences(operation, inner, result)) == []


# Limits

#: The words that set a limit, and the way from the last allowed value to one that is not.
BEYOND = {"minimum": -1, "minItems": -1, "maximum": 1, "maxItems": 1, "maxLength": 1}


def limits_in(place: str, schema: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield the limits of a schema itself."""
    yield from ((place, word, schema[word]) for word in BEYOND if word in schema)


def limits() -> Iterator[tuple[str, str, int]]:
    """Yield the limits that the document sets to what is sent, by parameter or property."""
    for operation, (_, _, spec) in OPERATIONS.items():
        for one in spec.get("parameters", ()):
            yield from limits_in(f"{operation} {one['name']}", one["schema"])
    for name in [*REQUESTS, "CustomAttribute"]:
        for one, schema in SCHEMAS[name]["properties"].items():
            yield from limits_in(f"{name}.{one}", schema)


def bought(length: int) -> v2.OneTimePurchase:
    """Return a purchase whose ids have that length."""
    changes = {"store_transaction_id": "1" * length, "store_original_transaction_id": "1" * length}
    return msgspec.structs.replace(BOUGHT, **changes)


def subscribed(length: int) -> v2.SubscriptionPurchase:
    """Return a subscription whose id has that length."""
    return v2.SubscriptionPurchase(
        store="app_store",
        store_product_id="p",
        store_transaction_id="1" * length,
        store_original_transaction_id="1",
        price=PRICE,
        purchased_at=NOW,
        originally_purchased_at=NOW,
        expires_at=NOW + dt.timedelta(days=1),
        renew_status=True,
    )


LIMITED: dict[str, Callable[[int], Operation[Any]]] = {
    "listPaywalls page[number]": lambda number: v2.list_paywalls(page_number=number),
    "listPaywalls page[size]": lambda number: v2.list_paywalls(page_size=number),
    "listVirtualCurrencyTransactions limit": lambda number: v2.list_virtual_currency_transactions(
        limit=number, **IDS
    ),
    "CustomAttribute.key": lambda length: v2.update_profile(
        v2.ProfileAttributes(custom_attributes={"k" * length: 1}), **IDS
    ),
    "OneTimePurchaseDTO.store_transaction_id": lambda length: v2.set_transaction(
        bought(length), **IDS
    ),
    "SubscriptionDTO.store_transaction_id": lambda length: v2.set_transaction(
        subscribed(length), **IDS
    ),
    "VirtualCurrencyTransactionRequest.items": lambda count: v2.create_virtual_currency_transaction(
        [
            v2.VirtualCurrencyBalanceAdjustment(currency_code=f"C{number}", amount=1)
            for number in range(count)
        ],
        **IDS,
    ),
}


def test_every_limit_of_the_document_is_looked_at() -> None:
    """What has a limit in the document is built below at that limit."""
    assert {place for place, _, _ in limits()} == LIMITED.keys()


@pytest.mark.parametrize(("place", "word", "limit"), list(limits()))
def test_a_limit_of_the_document_is_kept(place: str, word: str, limit: int) -> None:
    """The last value that the document allows is sent, the one beyond it is refused."""
    encode(LIMITED[place](limit), WIRE, timeout=1, total_timeout=1)
    with pytest.raises(InvalidInputError):
        encode(LIMITED[place](limit + BEYOND[word]), WIRE, timeout=1, total_timeout=1)


# Errors

KINDS = {(one.status, one.code): one.kind for one in documented.ERRORS}
#: What an answer is that the document gives a status alone.
WITHOUT_A_CODE: dict[int, type[ApiError]] = {
    400: RequestRejectedError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    422: RequestRejectedError,
    429: RateLimitError,
    500: ServerError,
}


def codes_of(operation: str) -> Iterator[tuple[int, str]]:
    """Yield the statuses and codes of an operation's failures, from examples and descriptions."""
    for status, answer in OPERATIONS[operation][2]["responses"].items():
        if status.startswith("2"):
            continue
        for _, body in examples_of(answer.get("content", {})):
            if "error_code" in body:
                yield int(status), body["error_code"]
        words = re.findall(r"`([a-z]+(?:_[a-z]+)+)`", answer.get("description", ""))
        if "error_code" in words:  # the others name the causes
            yield from ((int(status), word) for word in words if word != "error_code")


CODES = sorted({code for operation in OPERATIONS for code in codes_of(operation)})
STATUSES = sorted(
    {
        int(status)
        for _, _, spec in OPERATIONS.values()
        for status in spec["responses"]
        if not status.startswith("2")
    }
)


def test_every_error_code_of_the_document_is_known() -> None:
    """The table of documented errors is what the document has, and what its pages alone have."""
    assert len(CODES) >= 20
    assert set(CODES) == KINDS.keys() - documented.ON_PAGES_ONLY


@pytest.mark.parametrize("shape", documented.SHAPES)
@pytest.mark.parametrize(("status", "code"), CODES)
def test_a_code_of_the_document_has_its_class_in_every_shape(
    status: int, code: str, shape: str
) -> None:
    """Whichever body a code comes in, the error has the class, the field and the words of it."""
    failure = documented.Documented(status, code, ApiError, "some_field", "What was wrong")
    body = json.dumps(documented.SHAPES[shape](failure)).encode()
    error = error_from("v2", Response(status, {}, body))

    assert type(error) is KINDS[status, code]
    assert (error.status, error.error_code) == (status, code)
    assert [item.message for item in error.errors] == ["What was wrong"]
    assert error.field_name == (None if shape == "strings" else "some_field")


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_of_the_document_has_a_class_without_a_code(status: int) -> None:
    """Bodies that the document describes and does not show are told by their status."""
    body = {"errors": [{"source": None, "errors": ["What was wrong"]}], "status_code": status}
    error = error_from("v2", Response(status, {}, json.dumps(body).encode()))

    assert type(error) is WITHOUT_A_CODE[status]


@pytest.mark.parametrize(("status", "body"), FAILED)
def test_an_error_of_the_document_is_read_in_full(status: int, body: Any) -> None:
    """Every example of a failure gives an error with its class, status, code, fields and texts."""
    error = error_from("v2", Response(status, {}, json.dumps(body).encode()))

    code = body.get("error_code")
    assert type(error) is (KINDS[status, code] if code else WITHOUT_A_CODE[status])
    assert error.recognised
    assert (error.status, error.error_code) == (status, code)
    assert [(item.field_name, item.message) for item in error.errors] == [
        told(entry) for entry in body["errors"]
    ]


def told(entry: Any) -> tuple[str | None, str]:
    """Return the field and the words of an entry of an example."""
    if isinstance(entry, str):
        return None, entry
    if "detail" in entry:
        return entry["source"]["pointer"].split("/")[-1], entry["detail"]
    [words] = entry["errors"]
    return (None if entry["source"] == documented.NONE else entry["source"]), words
