"""Texts that are sent unchanged, and the fields with a rule, with the source of the rule."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec
import pytest

from adapty_async import AdaptyClient, AdaptyMailClient, MailProfile, mail, v1, v2
from adapty_async._api.validation import DocumentedStruct, RequestStruct
from adapty_async.errors import InvalidInputError
from adapty_async.sandbox import Sandbox

_STRUCTS = [
    kind
    for module in (v1, v2, mail)
    for name in module.__all__
    if isinstance(kind := getattr(module, name), type) and issubclass(kind, RequestStruct)
]
_NAMES = {kind: f"{kind.__module__.split('.')[1]}.{kind.__name__}" for kind in _STRUCTS}

_MAIL = "https://adapty.io/docs/api-adapty-mail"
_V1 = "https://adapty.io/docs/getting-started-with-server-side-api"
_IDENTITY = "names whom or what the call is about"
HAS_A_RULE: dict[str, str] = {
    # rejected when the struct is constructed
    "v1.ProfileAttributes.birthday": f"an ISO 8601 date: {_V1}",
    "v1.ProfileAttributes.ip_country": f"ISO 3166-2: {_V1}",
    "v1.ProfileAttributes.store_country": f"ISO 3166-2, as ip_country: {_V1}",
    "v2.ProfileAttributes.birthday": "format: date",
    "v2.AccessGrant.access_level_id": _IDENTITY,
    "v2.AccessGrant.starts_at": "format: date-time",
    "v2.AccessGrant.expires_at": "format: date-time",
    "v2.AccessRevocation.access_level_id": _IDENTITY,
    "v2.AccessRevocation.revoke_at": "format: date-time",
    "v2.Price.value": "type: number",
    "v2.StripeValidationRequest.customer_user_id": _IDENTITY,
    "v2.StripeValidationRequest.stripe_token": _IDENTITY,
    "v2.PaddleValidationRequest.customer_user_id": _IDENTITY,
    "v2.PaddleValidationRequest.paddle_token": _IDENTITY,
    "v2.VirtualCurrencyBalanceAdjustment.currency_code": _IDENTITY,
    **{
        f"v2.{kind}.{field}": rule
        for kind in ("OneTimePurchase", "SubscriptionPurchase")
        for field, rule in {
            "store_product_id": _IDENTITY,
            "store_transaction_id": _IDENTITY,
            "store_original_transaction_id": _IDENTITY,
            "purchased_at": "format: date-time",
            "refunded_at": "format: date-time",
        }.items()
    },
    "v2.SubscriptionPurchase.originally_purchased_at": "format: date-time",
    "v2.SubscriptionPurchase.expires_at": "format: date-time",
    "v2.SubscriptionPurchase.renew_status_changed_at": "format: date-time",
    "v2.SubscriptionPurchase.billing_issue_detected_at": "format: date-time",
    "v2.SubscriptionPurchase.grace_period_expires_at": "format: date-time",
    "mail.MailProfile.external_profile_id": _IDENTITY,
    "mail.MailProfile.external_created_at": f"format: date-time: {_MAIL}",
    "mail.MailProfile.email": f"format: email, and an identity: {_MAIL}",
    "mail.MailProfile.customer_user_id": _IDENTITY,
    "mail.MailProfile.birthday": f"format: date: {_MAIL}",
    "mail.MailProfile.country": f"ISO 3166-1 alpha-2, anything else is rejected: {_MAIL}",
    "mail.MailProfile.store_country": f"ISO 3166-1 alpha-2, anything else is rejected: {_MAIL}",
    "mail.Offer.category": f"an enum: {_MAIL}",
    "mail.Offer.offer_type": f"an enum: {_MAIL}",
    "mail.TransactionEvent.event_type": f"an enum: {_MAIL}",
    "mail.TransactionEvent.event_id": _IDENTITY,
    "mail.TransactionEvent.event_datetime": f"format: date-time: {_MAIL}",
    "mail.TransactionEvent.external_profile_id": _IDENTITY,
    "mail.TransactionEvent.store_product_id": _IDENTITY,
    "mail.TransactionEvent.store_transaction_id": _IDENTITY,
    "mail.TransactionEvent.store_original_transaction_id": _IDENTITY,
    "mail.TransactionEvent.purchased_at": f"format: date-time: {_MAIL}",
    "mail.TransactionEvent.originally_purchased_at": f"format: date-time: {_MAIL}",
    "mail.TransactionEvent.customer_user_id": _IDENTITY,
    "mail.TransactionEvent.email": f"format: email: {_MAIL}",
    "mail.TransactionEvent.price_usd": f"a decimal string: {_MAIL}",
    "mail.TransactionEvent.expires_at": f"format: date-time: {_MAIL}",
}
HAS_A_RULE_WHEN_SENT: dict[str, str] = {
    # rejected when a call is sent, unless the client leaves documented rules to the server
    "v2.InstallationMeta.device_id": "format: uuid",
    "v2.InstallationMeta.platform": "an enum",
    "v2.ProfileAttributes.gender": "an enum",
    "v2.ProfileAttributes.email": "format: email",
    "v2.ProfileAttributes.ip_country": "ISO 3166-1 alpha-2",
    "v2.ProfileAttributes.ip_v4_address": "an IPv4 address",
    "v2.ProfileAttributes.store_country": "ISO 3166-1 alpha-2",
    "v2.ProfileAttributes.store": "an enum",
    "v2.ProfileAttributes.store_account_token": "format: uuid",
    "v2.Price.country": "ISO 3166-1 alpha-2",
    "v2.Price.currency": "ISO 4217",
    "v2.Offer.category": "an enum",
    "v2.Offer.type": "an enum",
    "v2.OneTimePurchase.environment": "an enum",
    "v2.OneTimePurchase.cancellation_reason": "an enum",
    "v2.SubscriptionPurchase.environment": "an enum",
    "v2.SubscriptionPurchase.cancellation_reason": "an enum",
    "v2.RefundSaverSettingsRequest.custom_preference": "an enum",
}


def _takes_text(hint: Any) -> bool:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return any(map(_takes_text, typing.get_args(hint)))
    return hint is str or typing.get_origin(hint) is typing.Literal


TEXTS = {
    f"{_NAMES[kind]}.{field.name}": (kind, field.name)
    for kind in _STRUCTS
    for field in msgspec.structs.fields(kind)
    if _takes_text(field.type)
}


def _is_refused(check: Any, field: str, value: str) -> bool:
    try:
        check(field, value)
    except InvalidInputError:
        return True
    return False


def test_an_empty_text_is_rejected_only_where_a_rule_is_stated() -> None:
    """Each text field of each struct takes "" unless the table has its rule."""
    refused = {
        name for name, (kind, field) in TEXTS.items() if _is_refused(kind.rules[field], field, "")
    }

    assert refused == HAS_A_RULE.keys()


def test_an_empty_text_is_rejected_when_sent_only_where_a_rule_is_stated() -> None:
    """Each text field of version 2 is sent as "" unless the table has its rule."""
    refused = {
        name
        for name, (kind, field) in TEXTS.items()
        if name not in HAS_A_RULE
        and issubclass(kind, DocumentedStruct)
        and field in kind.documented
        and _is_refused(kind.documented[field], field, "")
    }

    assert refused == HAS_A_RULE_WHEN_SENT.keys()


@pytest.mark.parametrize(
    "text", [" ", "\t", "a\nb", " x ", "x" * 10_000, "ünïcødé 🦊", "\x00", "null", "-1"], ids=ascii
)
def test_any_other_text_is_accepted_where_an_empty_one_is(text: str) -> None:
    """Blanks, line breaks, length and letters are not checked without a stated rule."""
    ids = set(v2.IntegrationIdentifiers.__struct_fields__)
    for name, (kind, field) in TEXTS.items():
        if name in HAS_A_RULE or field in ids:
            continue
        assert not _is_refused(kind.rules[field], field, text), name


async def test_an_empty_text_arrives_as_one() -> None:
    """Both APIs receive "" unchanged."""
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["u1"])
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
            ids: Any = {"customer_user_id": "u1"}
            await adapty.v1.profiles.update(v1.ProfileAttributes(last_name=""), **ids)
            await adapty.v2.profiles.update(v2.ProfileAttributes(phone_number=""), **ids)
            identifiers = v2.IntegrationIdentifiers(branch_id="")
            await adapty.v2.integrations.set(identifiers, **ids)
            assert (await adapty.v2.integrations.get(**ids)).branch_id == ""
        stored = sandbox.profile(customer_user_id="u1") or {}
        assert (stored["last_name"], stored["phone_number"]) == ("", "")

        async with AdaptyMailClient(sandbox.mail_api_key, base_url=sandbox.url) as adapty_mail:
            profile = MailProfile(
                external_profile_id="p1",
                external_created_at="2026-01-01T00:00:00Z",
                email="jane@example.com",
                first_name="",
                custom_attributes={"plan": ""},
            )
            await adapty_mail.profiles.save(profile)
        saved = sandbox.mail_profile("p1") or {}
        assert (saved["first_name"], saved["custom_attributes"]) == ("", {"plan": ""})
