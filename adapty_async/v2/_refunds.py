"""Refund Saver: the preference that Adapty sends to a store when a user requests a refund."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

from msgspec import UNSET, field

from adapty_async._api.call import Endpoint, Execute, Operation, RetrySafety, identity
from adapty_async._api.codec import to_json
from adapty_async._api.results import ResultStruct, data_decoder
from adapty_async._api.validation import (
    Check,
    DocumentedStruct,
    OrUnset,
    any_text,
    boolean,
    check_body,
    nullable,
    one_of,
)
from adapty_async.v2._models import DOCS, PATH
from adapty_async.v2._rules import require_some

RefundPreference = Literal["grant", "grant_prorated", "no_preference", "decline"]


class RefundSaverSettingsRequest(DocumentedStruct, frozen=True, kw_only=True):
    """
    The settings to write, at least one.

    Raises:
        InvalidInputError: a value is of the wrong kind.
    """

    custom_preference: OrUnset[RefundPreference | None] = UNSET
    consent: OrUnset[bool | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "custom_preference": nullable(any_text),
        "consent": nullable(boolean),
    }
    documented: ClassVar[Mapping[str, Check]] = {
        "custom_preference": one_of(*get_args(RefundPreference)),
    }

    def check_documented(self) -> None:
        """
        Validate the preference, and that at least one setting is set.

        Raises:
            InvalidInputError: a value breaks a rule.
        """
        super().check_documented()
        require_some(self)


class RefundSaverSettings(ResultStruct, frozen=True, kw_only=True):
    """
    The settings of a profile.

    Attributes:
        consent: the user agreed to sharing data with Apple; None if unknown.
        custom_preference: one of `RefundPreference`, or a newer one.
    """

    consent: bool | None = None
    custom_preference: str | None = None


class RefundSaverSettingsResponse(ResultStruct, frozen=True, kw_only=True):
    """A profile's Refund Saver settings."""

    profile_id: str = ""
    settings: RefundSaverSettings = field(default_factory=RefundSaverSettings)

    essential: ClassVar[frozenset[str]] = frozenset({"profile_id"})


_PATH = f"{PATH}/purchase/profile/refund-saver/settings/"

GET_REFUND_SAVER_SETTINGS: Endpoint[RefundSaverSettingsResponse] = Endpoint(
    name="v2.refund_saver.get",
    method="GET",
    path=_PATH,
    docs=f"{DOCS}/getRefundSaverSettings",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="v2",
    decode=data_decoder(RefundSaverSettingsResponse, requires=("profile_id",)),
    absent_if_missing=True,
)
SET_REFUND_SAVER_SETTINGS: Endpoint[RefundSaverSettingsResponse] = Endpoint(
    name="v2.refund_saver.set",
    method="POST",
    path=_PATH,
    docs=f"{DOCS}/setRefundSaverSettings",
    retry_safety=RetrySafety.ALWAYS,  # a retry writes the same values
    bucket="v2",
    decode=data_decoder(RefundSaverSettingsResponse),
    encode=to_json,
    check=check_body,
)


def get_refund_saver_settings(
    *, customer_user_id: str | None = None, profile_id: str | None = None
) -> Operation[RefundSaverSettingsResponse]:
    """Return the operation of `RefundSaver.get`."""
    return Operation(GET_REFUND_SAVER_SETTINGS, identity(customer_user_id, profile_id))


def set_refund_saver_settings(
    *,
    custom_preference: OrUnset[RefundPreference | None] = UNSET,
    consent: OrUnset[bool | None] = UNSET,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[RefundSaverSettingsResponse]:
    """Return the operation of `RefundSaver.set`."""
    about = identity(customer_user_id, profile_id)
    settings = RefundSaverSettingsRequest(custom_preference=custom_preference, consent=consent)
    return Operation(SET_REFUND_SAVER_SETTINGS, about, settings)


class RefundSaver:
    """A resource of the calls on the Refund Saver settings of one profile."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def get(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> RefundSaverSettingsResponse:
        """
        Read the Refund Saver settings of a profile.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/getRefundSaverSettings
        """
        return await self._execute(
            get_refund_saver_settings(customer_user_id=customer_user_id, profile_id=profile_id)
        )

    async def set(
        self,
        *,
        custom_preference: OrUnset[RefundPreference | None] = UNSET,
        consent: OrUnset[bool | None] = UNSET,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> RefundSaverSettingsResponse:
        """
        Write at least one of the two settings of a profile.

        Args:
            custom_preference: the preference for the App Store and Google Play. Google does not
                support ``grant_prorated`` and receives no preference then.
            consent: the user agrees to sharing data with Apple.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.

        Raises:
            InvalidInputError: not exactly one id was passed, it cannot be sent, or no setting
                is set, or one is unknown.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/setRefundSaverSettings
        """
        return await self._execute(
            set_refund_saver_settings(
                custom_preference=custom_preference,
                consent=consent,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
            )
        )
