"""What is checked of version 2 before it is sent, and what only if the client is to."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async import UNSET, v2
from adapty_async._api.call import Operation
from adapty_async.errors import AdaptyError, InvalidInputError
from adapty_async.testing import FakeTransport
from tests.v2.samples import IDS, PAYWALL, client, coins, one_time, subscription, success

BOUGHT = "2024-01-15T10:30:00Z"
EARLIER = "2024-01-15T10:29:59.999Z"
LATER = dt.datetime(2024, 1, 15, 12, 30, 0, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))
SAME = "2024-01-15T12:30:00+02:00"
FREE = v2.Price(country="US", currency="USD", value=0)
TRIAL = v2.Offer(category="introductory", type="free_trial")
META = "3fa85f64-5717-4562-b3fc-2c963f66afa6"


def update(**fields: Any) -> Operation[v2.Profile]:
    """Describe an update of those fields."""
    return v2.update_profile(v2.ProfileAttributes(**fields), **IDS)


def device(**fields: Any) -> Operation[v2.Profile]:
    """Describe an update of those facts of a device."""
    return update(installation_meta=v2.InstallationMeta(**{"device_id": META, **fields}))


def bought(transaction: v2.Transaction) -> Operation[v2.Profile]:
    """Describe the recording of a transaction."""
    return v2.set_transaction(transaction, **IDS)


def offered(category: Any, kind: Any = "pay_as_you_go", **fields: Any) -> Operation[v2.Profile]:
    """Describe a subscription that was bought with that offer."""
    return bought(subscription(offer=v2.Offer(category=category, type=kind, **fields)))


def spend(*items: v2.VirtualCurrencyBalanceAdjustment, **fields: Any) -> Operation[Any]:
    """Describe a transaction of virtual currencies."""
    return v2.create_virtual_currency_transaction(items, **IDS, **fields)


def priced(**fields: Any) -> Operation[v2.Profile]:
    """Describe a purchase at that price."""
    price: dict[str, Any] = {"country": "US", "currency": "USD", "value": 1, **fields}
    return bought(one_time(price=v2.Price(**price)))


def history(**fields: Any) -> Operation[Any]:
    """Describe a page of a history."""
    return v2.list_virtual_currency_transactions(**IDS, **fields)


BROKEN: dict[str, tuple[Callable[[], Operation[Any]], str, str]] = {
    # what is described, the field, the rule
    "gender": (lambda: update(gender="x"), "gender", "must be one of f, m, o"),
    "email": (lambda: update(email="jane"), "email", "must be an e-mail address"),
    "ip_country": (lambda: update(ip_country="FR, US"), "ip_country", "must be two upper-case"),
    "store_country": (lambda: update(store_country="usa"), "store_country", "must be two upper-"),
    "ip_v4_address": (lambda: update(ip_v4_address="::1"), "ip_v4_address", "must be an IPv4"),
    "store": (lambda: update(store="amazon"), "store", "must be one of app_store, play_store"),
    "token": (lambda: update(store_account_token="x"), "store_account_token", "must be a UUID"),
    "att_status": (lambda: update(att_status=4), "att_status", "must be 0 to 3"),
    "no attributes": (
        lambda: update(custom_attributes={}),
        "custom_attributes",
        "must have 1 to 30 entries",
    ),
    "many attributes": (
        lambda: update(custom_attributes={f"k{number}": 1 for number in range(31)}),
        "custom_attributes",
        "must have 1 to 30 entries",
    ),
    "key": (lambda: update(custom_attributes={"a b": 1}), "custom_attributes", "a key must be 1"),
    "long key": (
        lambda: update(custom_attributes={"k" * 31: 1}),
        "custom_attributes",
        "a key must be 1 to 30",
    ),
    "long value": (
        lambda: update(custom_attributes={"k": "v" * 51}),
        "custom_attributes.k",
        "must not be longer than 50 characters",
    ),
    "device_id": (lambda: device(device_id="x"), "installation_meta.device_id", "must be a UUID"),
    "platform": (
        lambda: device(platform="Symbian"),
        "installation_meta.platform",
        "must be one of iOS",
    ),
    "platform of a creation": (
        lambda: v2.create_profile(platform="ios", **IDS),  # type: ignore[arg-type]
        "platform",
        "must be one of iOS, macOS, iPadOS, Android, visionOS, web",
    ),
    "platform of an update": (
        lambda: v2.update_profile(v2.ProfileAttributes(), platform="Symbian", **IDS),  # type: ignore[arg-type]
        "platform",
        "must be one of iOS",
    ),
    "environment": (lambda: bought(one_time(environment="Test")), "environment", "must be one of"),
    "reason": (
        lambda: bought(one_time(cancellation_reason="bored")),
        "cancellation_reason",
        "must be one of billing_error",
    ),
    "price country": (lambda: priced(country="usa"), "price.country", "must be two upper-case"),
    "currency": (lambda: priced(currency="usd"), "price.currency", "must be three upper-case"),
    "category": (lambda: offered("gift", id="x"), "offer.category", "must be one of introductory"),
    "type": (lambda: offered("introductory", "gift"), "offer.type", "must be one of free_trial"),
    "long id": (
        lambda: bought(subscription(store_transaction_id="1" * 51)),
        "store_transaction_id",
        "must not be longer than 50 characters",
    ),
    # https://adapty.io/docs/api-adapty/operations/setTransaction, by error code
    "billing_issue_detected_at_date_comparison_error": (
        lambda: bought(subscription(billing_issue_detected_at=SAME)),
        "billing_issue_detected_at",
        "must be later than purchased_at",
    ),
    "expires_date_error": (
        lambda: bought(subscription(expires_at=BOUGHT)),
        "expires_at",
        "must be later than purchased_at",
    ),
    "family_share_price_error": (
        lambda: bought(one_time(is_family_shared=True)),
        "price.value",
        "must be 0 if is_family_shared is True",
    ),
    "free_trial_price_error": (
        lambda: bought(subscription(offer=TRIAL)),
        "price.value",
        "must be 0 if offer.type is free_trial",
    ),
    "grace_period_billing_error": (
        lambda: bought(subscription(grace_period_expires_at="2024-02-20T00:00:00Z")),
        "billing_issue_detected_at",
        "must be set if grace_period_expires_at is",
    ),
    "grace_period_expires_date_error": (
        lambda: bought(
            subscription(
                billing_issue_detected_at=LATER, grace_period_expires_at="2024-02-15T10:29:59Z"
            )
        ),
        "grace_period_expires_at",
        "must not be earlier than expires_at",
    ),
    "missing_offer_id": (
        lambda: offered("promotional"),
        "offer.id",
        "must be set, unless category is introductory",
    ),
    "missing_offer_id null": (lambda: offered("win_back", id=None), "offer.id", "must be set"),
    "one_time_purchase_trial_error": (
        lambda: bought(one_time(offer=TRIAL, price=FREE)),
        "offer.type",
        "a one-time purchase has no free trial",
    ),
    "originally_purchased_date_error": (
        lambda: bought(subscription(originally_purchased_at=LATER)),
        "originally_purchased_at",
        "must not be later than purchased_at",
    ),
    "refund_date_error": (
        lambda: bought(one_time(refunded_at=EARLIER, cancellation_reason="refund")),
        "refunded_at",
        "must be later than purchased_at",
    ),
    "refund_fields_error": (
        lambda: bought(one_time(refunded_at=LATER)),
        "refunded_at",
        "it and cancellation_reason='refund' must be set together",
    ),
    "refund_fields_error the other way": (
        lambda: bought(subscription(cancellation_reason="refund")),
        "refunded_at",
        "it and cancellation_reason='refund' must be set together",
    ),
    "renew_status_changed_date_error": (
        lambda: bought(subscription(renew_status_changed_at=BOUGHT)),
        "renew_status_changed_at",
        "must be later than purchased_at",
    ),
    "store_transaction_id_error": (
        lambda: bought(one_time(store_original_transaction_id="999")),
        "store_transaction_id",
        "must be equal to store_original_transaction_id",
    ),
    # the others
    "revoked in the past": (
        lambda: v2.revoke_access_level("premium", revoke_at=BOUGHT, **IDS),
        "revoke_at",
        "must be in the future, or None for now",
    ),
    "no setting": (
        lambda: v2.set_refund_saver_settings(**IDS),
        "custom_preference",
        "it or another field must be set",
    ),
    "preference": (
        lambda: v2.set_refund_saver_settings(custom_preference="perhaps", **IDS),  # type: ignore[arg-type]
        "custom_preference",
        "must be one of grant, grant_prorated, no_preference, decline",
    ),
    "no identifier": (
        lambda: v2.set_integration_identifiers(v2.IntegrationIdentifiers(), **IDS),
        "adjust_device_id",
        "it or another field must be set",
    ),
    "no config": (
        lambda: v2.update_paywall(PAYWALL, []),
        "remote_configs",
        "must have at least one entry",
    ),
    "no JSON": (
        lambda: v2.update_paywall(PAYWALL, [v2.RemoteConfig(locale="en", data="{")]),
        "remote_configs.data",
        "must be JSON text",
    ),
    "page number": (lambda: v2.list_paywalls(page_number=0), "page_number", "must be 1 or more"),
    "page size": (lambda: v2.list_paywalls(page_size=101), "page_size", "must be 1 to 100"),
    "limit": (lambda: history(limit=0), "limit", "must be 1 to 100"),
    "no items": (spend, "items", "must have 1 to 20 entries"),
    "21 items": (
        lambda: spend(*(coins(1, f"C{number}") for number in range(21))),
        "items",
        "must have 1 to 20 entries",
    ),
    "one currency twice": (
        lambda: spend(coins(1), coins(2)),
        "items.currency_code",
        "must be a different one each time",
    ),
    "nothing": (lambda: spend(coins(0)), "items.amount", "must not be 0"),
    "33 bits": (lambda: spend(coins(2**31)), "items.amount", "must fit into 32 bits"),
    "-33 bits": (lambda: spend(coins(-(2**31) - 1)), "items.amount", "must fit into 32 bits"),
    "metadata": (
        lambda: spend(coins(1), metadata={f"k{number}": "" for number in range(6)}),
        "metadata",
        "must not have more than 5 entries",
    ),
    "metadata key": (
        lambda: spend(coins(1), metadata={"Reason": "x"}),
        "metadata",
        "a key must be 1 to 30 of a to z, 0 to 9 and _",
    ),
    "metadata value": (
        lambda: spend(coins(1), metadata={"reason": "x" * 201}),
        "metadata.reason",
        "must not be longer than 200 characters",
    ),
    "key of version 1": (
        lambda: spend(coins(1), idempotency_key="c9a64638-5ae2-11f1-8de9-0242ac120002"),
        "idempotency_key",
        "must be a UUID of version 4",
    ),
}


@pytest.mark.parametrize(("describe", "field", "rule"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_rule_is_named_and_nothing_is_sent(
    describe: Callable[[], Operation[Any]], field: str, rule: str
) -> None:
    """A value that the server would reject raises with field and rule, without a request."""
    transport = FakeTransport()

    with pytest.raises(InvalidInputError) as caught:
        await client(transport).execute(describe())
    assert caught.value.field == field
    assert caught.value.rule.startswith(rule)
    assert transport.requests == []


@pytest.mark.parametrize("describe", [case[0] for case in BROKEN.values()], ids=BROKEN)
async def test_a_client_can_leave_the_rules_to_the_server(
    describe: Callable[[], Operation[Any]],
) -> None:
    """With validate=False the same call is sent; with_options() keeps that choice."""
    operation = describe()
    transport = FakeTransport([success(operation.endpoint.name)])
    await client(transport, validate=False).with_options(timeout=5).execute(operation)

    assert len(transport.requests) == 1


KEPT: dict[str, Callable[[], Operation[Any]]] = {
    "nothing": update,
    "everything cleared": lambda: update(
        **dict.fromkeys(
            set(v2.ProfileAttributes.__struct_fields__) - {"custom_attributes", "installation_meta"}
        )
    ),
    "attributes": lambda: update(custom_attributes={"a.b-c_D9": "v" * 50, "x": None, "y": ""}),
    "empty device": lambda: device(advertising_id="", idfa=None, platform="web"),
    "50 characters": lambda: bought(subscription(store_transaction_id="1" * 50)),
    "a custom store": lambda: bought(one_time(store="my shop", offer=None, variation_id=None)),
    "bought at its origin": lambda: bought(subscription(originally_purchased_at=SAME)),
    "grace from the expiry": lambda: bought(
        subscription(
            billing_issue_detected_at=LATER, grace_period_expires_at="2024-02-15T10:30:00Z"
        )
    ),
    "refund": lambda: bought(one_time(refunded_at=LATER, cancellation_reason="refund")),
    "another reason": lambda: bought(one_time(cancellation_reason="upgraded", refunded_at=None)),
    "free in the family": lambda: bought(one_time(is_family_shared=True, price=FREE)),
    "not in the family": lambda: bought(one_time(is_family_shared=False)),
    "free trial": lambda: bought(subscription(offer=TRIAL, price=FREE)),
    "named offer": lambda: offered("promotional", id="x"),
    "one-time offer": lambda: bought(
        one_time(offer=v2.Offer(category="introductory", type="pay_up_front"))
    ),
    "revoke now": lambda: v2.revoke_access_level("premium", revoke_at=None, **IDS),
    "revoke later": lambda: v2.revoke_access_level(
        "premium", revoke_at=dt.datetime.now(dt.UTC) + dt.timedelta(days=1), **IDS
    ),
    "granted in the past": lambda: v2.grant_access_level("premium", expires_at=BOUGHT, **IDS),
    "a setting of null": lambda: v2.set_refund_saver_settings(consent=None, **IDS),
    "an identifier of null": lambda: v2.set_integration_identifiers(
        v2.IntegrationIdentifiers(tenjin_analytics_installation_id=None), **IDS
    ),
    "20 items": lambda: spend(*(coins(-1, f"C{number}") for number in range(20))),
    "32 bits": lambda: spend(coins(2**31 - 1), coins(-(2**31), "GEMS"), metadata=None),
    "5 entries": lambda: spend(coins(1), metadata={f"k{number}": "v" * 200 for number in range(5)}),
    "100 at a time": lambda: v2.list_paywalls(page_size=100),
    "server's limit": history,
}


@pytest.mark.parametrize("describe", KEPT.values(), ids=KEPT)
async def test_what_the_documents_allow_is_sent(describe: Callable[[], Operation[Any]]) -> None:
    """The edges of every rule are inside."""
    operation = describe()
    transport = FakeTransport([success(operation.endpoint.name)])
    await client(transport).execute(operation)

    assert len(transport.requests) == 1


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    # what can't be sent, whatever the rules are
    "name": (lambda: update(first_name=5), "^first_name: must be text, not int$"),
    "surrogate": (lambda: device(device="\ud800"), "^device: must not contain lone surrogates$"),
    "device": (lambda: device(os=1), "^os: must be text, not int$"),
    "meta": (
        lambda: update(installation_meta={}),
        "^installation_meta: must be a v2.InstallationMeta",
    ),
    "no device_id": (lambda: device(device_id=None), "^device_id: must be text, not NoneType$"),
    "bool for a number": (lambda: update(att_status=True), "^att_status: must be a whole number"),
    "attributes": (lambda: update(custom_attributes=[]), "^custom_attributes: must be a dict"),
    "birthday": (lambda: update(birthday="31.12.2000"), "^birthday: must be a date"),
    "naive": (
        lambda: subscription(expires_at=dt.datetime(2024, 2, 1)),  # noqa: DTZ001
        "^expires_at: must be a datetime with a time zone",
    ),
    "no offset": (lambda: one_time(purchased_at="2024-01-15T10:30:00"), "^purchased_at: must be a"),
    "renew": (lambda: subscription(renew_status=1), "^renew_status: must be True or False"),
    "price": (lambda: one_time(price={"value": 1}), "^price: must be a v2.Price$"),
    "offer": (lambda: one_time(offer={"type": "x"}), "^offer: must be a v2.Offer$"),
    "id": (lambda: one_time(store_transaction_id=" 1"), "^store_transaction_id: must not begin"),
    "bool price": (lambda: priced(value=True), "^value: must be a number, not bool$"),
    "no price": (lambda: priced(value=None), "^value: must be a number, not NoneType$"),
    "words": (lambda: priced(value="1,50"), "^value: must be a decimal number as text"),
    "infinite": (lambda: priced(value=float("inf")), "^value: must be a finite number$"),
    "no number": (lambda: priced(value=Decimal("sNaN")), "^value: must be a finite number$"),
    "level": (lambda: v2.grant_access_level("", **IDS), "^access_level_id: must not be empty$"),
    "grant": (
        lambda: v2.grant_access_level("premium", starts_at="now", **IDS),
        "^starts_at: must be a datetime, or ISO 8601",
    ),
    "consent": (
        lambda: v2.set_refund_saver_settings(consent=1, **IDS),  # type: ignore[arg-type]
        "^consent: must be True or False, not int$",
    ),
    "identifier": (
        lambda: v2.IntegrationIdentifiers(branch_id="b\n"),
        "^branch_id: must not contain control characters",
    ),
    "token": (
        lambda: v2.validate_paddle_purchase(customer_user_id="u", paddle_token=""),
        "^paddle_token: must not be empty$",
    ),
    "stripe user": (
        lambda: v2.validate_stripe_purchase(customer_user_id="u ", stripe_token="x"),
        "^customer_user_id: must not begin or end with a blank$",
    ),
    "configs": (
        lambda: v2.update_paywall(PAYWALL, [{"locale": "en"}]),  # type: ignore[list-item]
        "^remote_configs: must be RemoteConfigs$",
    ),
    "locale": (
        lambda: v2.update_paywall(PAYWALL, [v2.RemoteConfig(locale=1, data="{}")]),  # type: ignore[arg-type]
        "^remote_configs.locale: must be text, not int$",
    ),
    "page": (lambda: v2.list_paywalls(page_number="1"), "^page_number: must be a whole number"),  # type: ignore[arg-type]
    "size": (lambda: v2.list_paywalls(page_size=1.5), "^page_size: must be a whole number"),  # type: ignore[arg-type]
    "limit": (lambda: history(limit=True), "^limit: must be a whole number, not bool$"),
    "cursor": (lambda: history(cursor=""), "^cursor: must not be empty$"),
    "code": (lambda: history(currency_code=1), "^currency_code: must be text, not int$"),
    "items": (lambda: spend({"COINS": 1}), "^items: must be VirtualCurrencyBalanceAdjustments$"),  # type: ignore[arg-type]
    "item list": (
        lambda: v2.VirtualCurrencyTransactionRequest(items=[coins(1)]),  # type: ignore[arg-type]
        "^items: must be VirtualCurrencyBalanceAdjustments$",
    ),
    "amount": (lambda: coins(1.5), "^amount: must be a whole number, not float$"),  # type: ignore[arg-type]
    "metadata": (lambda: spend(coins(1), metadata=[]), "^metadata: must be a dict, not list$"),
    "entries": (
        lambda: spend(coins(1), metadata={"k": 1}),
        "^metadata: must have text as keys and values$",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_sent_at_all_is_rejected_when_it_is_made(
    make: Callable[[], Any], message: str
) -> None:
    """Values of the wrong kind never come as far as a client, whatever it checks."""
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_a_rule_reads_no_value_aloud() -> None:
    """The error of a rule names field and rule, never the value."""
    with pytest.raises(InvalidInputError) as caught:
        update(email="canary").endpoint.check(update(email="canary"))  # type: ignore[misc]
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (0.1 + 0.2, b"0.3"),
        (109.88999999999999, b"109.89"),
        (9.99, b"9.99"),
        (9, b"9"),
        (0, b"0"),
        (-1.5, b"-1.5"),
        ("9.990", b"9.990"),
        (Decimal("1234567890.123456789"), b"1234567890.123456789"),
        (Decimal("1E+3"), b"1E+3"),
        (1e22, b"1E+22"),
        (1e-7, b"0.0"),
        (Decimal("1E+999999"), b"1E+999999"),
    ],
    ids=str,
)
def test_money_is_sent_without_noise(value: Any, sent: bytes) -> None:
    """A float is rounded to six decimals, anything else goes as it was given."""
    price = v2.Price(country="US", currency="USD", value=value)
    body = v2.SET_TRANSACTION.encode(one_time(price=price))

    assert b'"value":' + sent + b"}" in body
    assert isinstance(price.value, Decimal)


@given(st.decimals(-(10**9), 10**9, places=6))
def test_money_survives_being_a_float(value: Decimal) -> None:
    """A price in millionths that went through a float is sent as what it was."""
    price = v2.Price(country="US", currency="USD", value=float(value))
    [_, rest] = v2.SET_TRANSACTION.encode(one_time(price=price)).split(b'"value":')

    assert Decimal(rest.partition(b"}")[0].decode()) == value


def test_what_is_unset_is_left_out_and_none_is_null() -> None:
    """A field that was never set is not sent, None is sent as null."""
    body = json.loads(
        v2.SET_TRANSACTION.encode(subscription(offer=None, variation_id=UNSET, refunded_at=None))
    )

    assert body["purchase_type"] == "subscription"
    assert (body["offer"], body["refunded_at"]) == (None, None)
    assert "variation_id" not in body
    assert "environment" not in body


def test_attributes_are_a_list_with_numbers_for_booleans() -> None:
    """Custom attributes are sent as keys and values, True as 1.0."""
    body = update(custom_attributes={"a": True, "b": None}, email=None)

    assert body.endpoint.encode(body.body) == (
        b'{"email":null,"custom_attributes":[{"key":"a","value":1.0},{"key":"b","value":null}]}'
    )


def test_every_error_of_a_rule_is_of_this_library() -> None:
    """An error of a rule is an AdaptyError and a ValueError."""
    assert issubclass(InvalidInputError, AdaptyError)
    assert issubclass(InvalidInputError, ValueError)
