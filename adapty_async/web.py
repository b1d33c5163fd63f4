"""
The web API: the paywall of a placement, its views, and the attribution of a user.

A web app calls it with the account's public key, and identifies a user by exactly one of two ids:
`customer_user_id`, the user's id in your system, or `profile_id`, Adapty's id. For every call a
function such as `get_paywall` returns the operation alone, for `AdaptyClient.execute` and
`AdaptyClient.bulk`.

Calls are validated and results are decoded as in `adapty_async.v2`.

Source: https://adapty.io/docs/web-api
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Literal, Unpack, get_args

import msgspec
from msgspec import UNSET

from adapty_async._api.call import (
    By,
    Endpoint,
    Execute,
    Operation,
    RetrySafety,
    identity,
    pair,
    require_kind,
)
from adapty_async._api.codec import to_json
from adapty_async._api.results import ResultStruct, data_decoder, no_result
from adapty_async._api.validation import (
    Check,
    DocumentedStruct,
    OrUnset,
    any_text,
    check_body,
    date_time,
    identifier,
    instance_of,
    one_of,
    uuid,
)
from adapty_async.bulk import BulkOptions, BulkRun, Items, StartBulk

__all__ = (
    "ADD_ATTRIBUTION",
    "GET_PAYWALL",
    "RECORD_PAYWALL_VIEW",
    "AddAttributionRequest",
    "Attribution",
    "AttributionStatus",
    "Attributions",
    "GetPaywallRequest",
    "Paywall",
    "Paywalls",
    "Product",
    "ProductOffer",
    "RecordPaywallViewRequest",
    "RemoteConfig",
    "Web",
    "add_attribution",
    "get_paywall",
    "record_paywall_view",
)

AttributionStatus = Literal["organic", "non_organic", "unknown"]

_DOCS = "https://adapty.io/docs/api-web/operations"
_PATH = "/api/v2/web-api"
_IDS: Mapping[str, Check] = {"customer_user_id": identifier, "profile_id": identifier}


class GetPaywallRequest(DocumentedStruct, frozen=True, kw_only=True):
    """
    The body of `Paywalls.get`.

    Raises:
        InvalidInputError: a value is not text.
    """

    store: str
    placement_id: str
    locale: OrUnset[str] = UNSET
    customer_user_id: OrUnset[str] = UNSET
    profile_id: OrUnset[str] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        **_IDS,
        "store": identifier,
        "placement_id": identifier,
        "locale": any_text,
    }


class RecordPaywallViewRequest(DocumentedStruct, frozen=True, kw_only=True):
    """
    The body of `Paywalls.record_view`.

    Raises:
        InvalidInputError: a value is of the wrong kind. The rules of Adapty's documentation are
            checked when the call is sent.
    """

    store: str
    variation_id: str
    visited_at: OrUnset[dt.datetime | str] = UNSET
    customer_user_id: OrUnset[str] = UNSET
    profile_id: OrUnset[str] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        **_IDS,
        "store": identifier,
        "variation_id": identifier,
        "visited_at": date_time,
    }
    documented: ClassVar[Mapping[str, Check]] = {"variation_id": uuid}


class Attribution(DocumentedStruct, frozen=True, kw_only=True):
    """
    The source from which a user came.

    Attributes:
        status: whether the user came without marketing: one of `AttributionStatus`.
        attribution_user_id: the id that the source has given to the user.
        channel, campaign, ad_group, ad_set: names of the marketing channel, its campaign, and the
            group and set of the ad.
        creative: the keyword of the creative.

    Raises:
        InvalidInputError: a value is not text. The rules of Adapty's documentation are checked
            when the call is sent.

    Source: https://adapty.io/docs/api-web/operations/addAttribution
    """

    status: AttributionStatus
    attribution_user_id: OrUnset[str] = UNSET
    channel: OrUnset[str] = UNSET
    campaign: OrUnset[str] = UNSET
    ad_group: OrUnset[str] = UNSET
    ad_set: OrUnset[str] = UNSET
    creative: OrUnset[str] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "status": any_text,
        "attribution_user_id": any_text,
        "channel": any_text,
        "campaign": any_text,
        "ad_group": any_text,
        "ad_set": any_text,
        "creative": any_text,
    }
    documented: ClassVar[Mapping[str, Check]] = {"status": one_of(*get_args(AttributionStatus))}


class AddAttributionRequest(Attribution, frozen=True, kw_only=True):
    """
    The body of `Attributions.add`: an attribution and the id of its user.

    Raises:
        InvalidInputError: a value is not text.
    """

    customer_user_id: OrUnset[str] = UNSET
    profile_id: OrUnset[str] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {**Attribution.rules, **_IDS}


class ProductOffer(ResultStruct, frozen=True, kw_only=True):
    """
    The offer of a product.

    Attributes:
        category: ``introductory``, ``promotional``, ``offer_code``, ``win_back``, ``retention`` or
            a newer one.
        type: ``free_trial``, ``pay_as_you_go``, ``pay_up_front``, ``unknown`` or a newer one.
        id: the offer's id in the store.
    """

    category: str = ""
    type: str = ""
    id: str | None = None


class Product(ResultStruct, frozen=True, kw_only=True):
    """
    A product of a paywall.

    Attributes:
        title: the product's name in the Adapty dashboard.
        vendor_product_id: the product's id in its store.
        introductory_offer_eligibility, promotional_offer_eligibility: whether the user may get such
            an offer.
        base_plan_id: the base plan of Google Play, or the price of Stripe.
    """

    title: str = ""
    is_consumable: bool = False
    adapty_product_id: str = ""
    vendor_product_id: str = ""
    introductory_offer_eligibility: bool = False
    promotional_offer_eligibility: bool = False
    base_plan_id: str | None = None
    offer: ProductOffer | None = None


class RemoteConfig(ResultStruct, frozen=True, kw_only=True):
    """
    The remote config of a paywall in one language.

    Attributes:
        lang: its locale, such as ``en`` or ``pt-br``.
        data: the config, as JSON in text.
    """

    lang: str = ""
    data: str = ""

    @property
    def value(self) -> Any:
        """
        The decoded config.

        Raises:
            ValueError: `data` is not JSON.
        """
        return msgspec.json.decode(self.data or "")  # None if it is odd


class Paywall(ResultStruct, frozen=True, kw_only=True):
    """
    The paywall that a placement shows to a user.

    Attributes:
        placement_id: the id of the placement.
        variation_id: identifies the paywall in an A/B test; `Paywalls.record_view` and the
            transactions of `adapty_async.v2` take it.
        ab_test_name: the name of the A/B test; that of the paywall without one.
        remote_config: None if the paywall has none.

    Source: https://adapty.io/docs/api-web/operations/getPaywall
    """

    placement_id: str = ""
    variation_id: str = ""
    paywall_id: str = ""
    ab_test_name: str = ""
    paywall_name: str = ""
    products: tuple[Product, ...] = ()
    remote_config: RemoteConfig | None = None

    essential: ClassVar[frozenset[str]] = frozenset({"variation_id"})


def _lock_key(body: Any) -> Hashable:
    """Return the header that identifies the same user in calls of the server-side API."""
    given = (body.customer_user_id, body.profile_id)
    [header] = identity(*(None if value is UNSET else value for value in given))
    return header


GET_PAYWALL: Endpoint[Paywall] = Endpoint(
    name="web.paywalls.get",
    method="POST",
    path=f"{_PATH}/paywall/",
    docs=f"{_DOCS}/getPaywall",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="web",
    decode=data_decoder(Paywall, requires=("variation_id",)),  # a view is recorded with it
    encode=to_json,
    absent_if_missing=True,
    lock_key=_lock_key,
    check=check_body,
    uses_public_key=True,
)
RECORD_PAYWALL_VIEW: Endpoint[None] = Endpoint(
    name="web.paywalls.record_view",
    method="POST",
    path=f"{_PATH}/paywall/visit/",
    docs=f"{_DOCS}/recordPaywallView",
    retry_safety=RetrySafety.IF_UNSENT,  # the server cannot recognise a retry, and may count twice
    bucket="web",
    decode=no_result,
    encode=to_json,
    lock_key=_lock_key,
    check=check_body,
    uses_public_key=True,
)
ADD_ATTRIBUTION: Endpoint[None] = Endpoint(
    name="web.attribution.add",
    method="POST",
    path=f"{_PATH}/attribution/",
    docs=f"{_DOCS}/addAttribution",
    retry_safety=RetrySafety.ALWAYS,  # a retry writes the same values
    bucket="web",
    decode=no_result,
    encode=to_json,
    lock_key=_lock_key,
    check=check_body,
    uses_public_key=True,
)


def _ids(customer_user_id: str | None, profile_id: str | None) -> dict[str, Any]:
    identity(customer_user_id, profile_id)  # exactly one
    ids = {"customer_user_id": customer_user_id, "profile_id": profile_id}
    return {name: value for name, value in ids.items() if value is not None}


def get_paywall(
    placement_id: str,
    *,
    store: str,
    locale: OrUnset[str] = UNSET,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[Paywall]:
    """Return the operation of `Paywalls.get`."""
    ids = _ids(customer_user_id, profile_id)
    body = GetPaywallRequest(placement_id=placement_id, store=store, locale=locale, **ids)
    return Operation(GET_PAYWALL, body=body)


def record_paywall_view(
    variation_id: str,
    *,
    store: str,
    visited_at: OrUnset[dt.datetime | str] = UNSET,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[None]:
    """Return the operation of `Paywalls.record_view`."""
    ids = _ids(customer_user_id, profile_id)
    body = RecordPaywallViewRequest(
        variation_id=variation_id, store=store, visited_at=visited_at, **ids
    )
    return Operation(RECORD_PAYWALL_VIEW, body=body)


def add_attribution(
    attribution: Attribution,
    *,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[None]:
    """Return the operation of `Attributions.add`."""
    ids = _ids(customer_user_id, profile_id)
    instance_of(Attribution)("attribution", attribution)
    fields: dict[str, Any] = {
        name: getattr(attribution, name) for name in Attribution.__struct_fields__
    }
    return Operation(ADD_ATTRIBUTION, body=AddAttributionRequest(**fields, **ids))


class Paywalls:
    """A resource of the calls on the paywall of a placement."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def get(
        self,
        placement_id: str,
        *,
        store: str,
        locale: OrUnset[str] = UNSET,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> Paywall:
        """
        Return the paywall that a placement shows to a user.

        Args:
            placement_id: the id of the placement in the Adapty dashboard.
            store: ``app_store``, ``play_store``, ``stripe``, or the id of a custom store.
            locale: the language of the remote config, such as ``en`` or ``pt-br``.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the user.

        Raises:
            InvalidInputError: not exactly one id was passed, or a value breaks a rule.
            ConfigError: the client has no public key.
            NotFoundError: there is no such profile, or no paywall for it in this placement.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-web/operations/getPaywall
        """
        return await self._execute(
            get_paywall(
                placement_id,
                store=store,
                locale=locale,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
            )
        )

    async def record_view(
        self,
        variation_id: str,
        *,
        store: str,
        visited_at: OrUnset[dt.datetime | str] = UNSET,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> None:
        """
        Record that a user saw a paywall.

        A second request may count as a second view, so a request is not retried after a lost
        response. The call then raises a `ConnectionLostError` or `RequestTimeoutError`.

        Args:
            variation_id: the `variation_id` of the paywall.
            store: ``app_store``, ``play_store``, ``stripe``, or the id of a custom store.
            visited_at: when the user saw it: an aware datetime, or ISO 8601 text with its offset.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the user.

        Raises:
            InvalidInputError: not exactly one id was passed, or a value breaks a rule.
            ConfigError: the client has no public key.
            NotFoundError: there is no such profile or variation.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-web/operations/recordPaywallView
        """
        await self._execute(
            record_paywall_view(
                variation_id,
                store=store,
                visited_at=visited_at,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
            )
        )


class Attributions:
    """A resource of the call on a user's attribution and of the bulk run on attributions."""

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self._execute = execute
        self._bulk = bulk

    async def add(
        self,
        attribution: Attribution,
        *,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> None:
        """
        Set the attribution of a user.

        Raises:
            InvalidInputError: not exactly one id was passed, or a value breaks a rule.
            ConfigError: the client has no public key.
            NotFoundError: there is no such profile.
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-web/operations/addAttribution
        """
        await self._execute(
            add_attribution(attribution, customer_user_id=customer_user_id, profile_id=profile_id)
        )

    def bulk_add(
        self,
        items: Items[tuple[str, Attribution]],
        *,
        by: By,
        **options: Unpack[BulkOptions[tuple[str, Attribution], None]],
    ) -> BulkRun[tuple[str, Attribution], None]:
        """
        Set attributions in bulk: one request each, several in flight.

        Args:
            items: pairs of an id and its attribution, from any iterable or async iterable.
            by: the kind of the ids: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            InvalidInputError: `items` or `by` is invalid. An invalid pair becomes a failed outcome
                instead.
            ConfigError: the client has no public key.

        Source: https://adapty.io/docs/api-web/operations/addAttribution
        """
        require_kind("by", by)

        def build(item: tuple[str, Attribution]) -> Operation[None]:
            item_id, attribution = pair(item, Attribution)
            return add_attribution(attribution, **{by: item_id})

        return self._bulk(items, build, f"{ADD_ATTRIBUTION.name} by {by}", **options)


class Web:
    """
    The web API.

    Attributes:
        paywalls: the paywall of a placement, and its views.
        attribution: the source from which a user came.
    """

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self.paywalls = Paywalls(execute)
        self.attribution = Attributions(execute, bulk)
