"""Purchases in Stripe and Paddle, which Adapty looks up there and imports into a profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from adapty_async._api.call import IDENTITY_HEADERS, Endpoint, Execute, Operation, RetrySafety
from adapty_async._api.codec import to_json
from adapty_async._api.results import no_result
from adapty_async._api.validation import Check, RequestStruct, identifier
from adapty_async.v2._models import DOCS, PATH, Profile, read_profile


class StripeValidationRequest(RequestStruct, frozen=True, kw_only=True):
    """
    A purchase in Stripe and its user.

    Raises:
        InvalidInputError: a value is not an id.
    """

    customer_user_id: str
    stripe_token: str

    rules: ClassVar[Mapping[str, Check]] = {
        "customer_user_id": identifier,
        "stripe_token": identifier,
    }


class PaddleValidationRequest(RequestStruct, frozen=True, kw_only=True):
    """
    A purchase in Paddle and its user.

    Raises:
        InvalidInputError: a value is not an id.
    """

    customer_user_id: str
    paddle_token: str

    rules: ClassVar[Mapping[str, Check]] = {
        "customer_user_id": identifier,
        "paddle_token": identifier,
    }


def _write_stripe(request: StripeValidationRequest) -> bytes:
    return to_json({"data": {"type": "stripe_receipt_validation_result", "attributes": request}})


VALIDATE_STRIPE_PURCHASE: Endpoint[None] = Endpoint(
    name="v2.purchases.validate_stripe",
    method="POST",
    path="/api/v1/sdk/purchase/stripe/token/validate/",
    docs=f"{DOCS}/validateStripePurchase",
    retry_safety=RetrySafety.IF_UNSENT,  # the effect and the events of a retry are not documented
    bucket="v2",
    decode=no_result,
    encode=_write_stripe,
    lock_key=lambda request: (IDENTITY_HEADERS["customer_user_id"], request.customer_user_id),
    media_type="application/vnd.api+json",
)
VALIDATE_PADDLE_PURCHASE: Endpoint[Profile] = Endpoint(
    name="v2.purchases.validate_paddle",
    method="POST",
    path=f"{PATH}/purchase/paddle/token/validate/",
    docs=f"{DOCS}/validatePaddlePurchase",
    retry_safety=RetrySafety.IF_UNSENT,  # as for Stripe
    bucket="v2",
    decode=read_profile,
    encode=to_json,
    lock_key=lambda request: (IDENTITY_HEADERS["customer_user_id"], request.customer_user_id),
)


def validate_stripe_purchase(*, customer_user_id: str, stripe_token: str) -> Operation[None]:
    """Return the operation of `Purchases.validate_stripe`."""
    request = StripeValidationRequest(customer_user_id=customer_user_id, stripe_token=stripe_token)
    return Operation(VALIDATE_STRIPE_PURCHASE, body=request)


def validate_paddle_purchase(*, customer_user_id: str, paddle_token: str) -> Operation[Profile]:
    """Return the operation of `Purchases.validate_paddle`."""
    request = PaddleValidationRequest(customer_user_id=customer_user_id, paddle_token=paddle_token)
    return Operation(VALIDATE_PADDLE_PURCHASE, body=request)


class Purchases:
    """A resource of the calls that import purchases from Stripe and Paddle."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def validate_stripe(self, *, customer_user_id: str, stripe_token: str) -> None:
        """
        Import a purchase in Stripe, with its history, into the user's profile.

        A profile that does not exist is created. The effect of a retry is not documented, so a
        request is not retried after a lost response.

        Args:
            customer_user_id: the user's id in your system.
            stripe_token: the id of a subscription (``sub_…``) or a payment intent (``pi_…``).

        Raises:
            InvalidInputError: a value is not an id.
            RequestRejectedError: the purchase is unknown, among other reasons; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/validateStripePurchase
        """
        await self._execute(
            validate_stripe_purchase(customer_user_id=customer_user_id, stripe_token=stripe_token)
        )

    async def validate_paddle(self, *, customer_user_id: str, paddle_token: str) -> Profile:
        """
        Import a purchase in Paddle, with its history, into the user's profile.

        A profile that does not exist is created. The effect of a retry is not documented, so a
        request is not retried after a lost response.

        Args:
            customer_user_id: the user's id in your system.
            paddle_token: the id of a transaction (``txn_…``) or a subscription (``sub_…``).

        Raises:
            InvalidInputError: a value is not an id.
            RequestRejectedError: the purchase is unknown, or the app has no key for Paddle, among
                other reasons; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/validatePaddlePurchase
        """
        return await self._execute(
            validate_paddle_purchase(customer_user_id=customer_user_id, paddle_token=paddle_token)
        )
