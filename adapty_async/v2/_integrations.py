"""Integrations: the ids of a profile in other services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec import UNSET

from adapty_async._api.call import Endpoint, Execute, Operation, RetrySafety, identity
from adapty_async._api.codec import to_json
from adapty_async._api.results import ResultStruct, data_decoder, no_result, nonempty_decoder
from adapty_async._api.validation import (
    Check,
    DocumentedStruct,
    OrUnset,
    any_identifier,
    check_body,
    instance_of,
    nullable,
)
from adapty_async.v2._models import DOCS, PATH
from adapty_async.v2._rules import require_some


class IntegrationIdentifiers(DocumentedStruct, frozen=True, kw_only=True):
    """
    The ids to write, at least one. UNSET is not sent, None is sent as null.

    Attributes:
        one_signal_player_id: the older kind of OneSignal's ids.
        one_signal_subscription_id: the newer kind, which OneSignal recommends.

    Raises:
        InvalidInputError: a value is not an id.

    Source: https://adapty.io/docs/api-adapty/operations/setIntegrationIdentifiers
    """

    adjust_device_id: OrUnset[str | None] = UNSET
    airbridge_device_id: OrUnset[str | None] = UNSET
    amplitude_device_id: OrUnset[str | None] = UNSET
    amplitude_user_id: OrUnset[str | None] = UNSET
    appmetrica_device_id: OrUnset[str | None] = UNSET
    appmetrica_profile_id: OrUnset[str | None] = UNSET
    appsflyer_id: OrUnset[str | None] = UNSET
    branch_id: OrUnset[str | None] = UNSET
    facebook_anonymous_id: OrUnset[str | None] = UNSET
    firebase_app_instance_id: OrUnset[str | None] = UNSET
    mixpanel_user_id: OrUnset[str | None] = UNSET
    one_signal_player_id: OrUnset[str | None] = UNSET
    one_signal_subscription_id: OrUnset[str | None] = UNSET
    posthog_distinct_user_id: OrUnset[str | None] = UNSET
    pushwoosh_hwid: OrUnset[str | None] = UNSET
    tenjin_analytics_installation_id: OrUnset[str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {}

    def check_documented(self) -> None:
        """
        Validate that at least one id is set.

        Raises:
            InvalidInputError: no id is set.
        """
        require_some(self)


IntegrationIdentifiers.rules = dict.fromkeys(
    IntegrationIdentifiers.__struct_fields__, nullable(any_identifier)
)


class IntegrationIdentifiersResponse(ResultStruct, frozen=True, kw_only=True):
    """The known ids of a profile in other services; None for an unknown id."""

    adjust_device_id: str | None = None
    airbridge_device_id: str | None = None
    amplitude_device_id: str | None = None
    amplitude_user_id: str | None = None
    appmetrica_device_id: str | None = None
    appmetrica_profile_id: str | None = None
    appsflyer_id: str | None = None
    branch_id: str | None = None
    facebook_anonymous_id: str | None = None
    firebase_app_instance_id: str | None = None
    mixpanel_user_id: str | None = None
    one_signal_player_id: str | None = None
    one_signal_subscription_id: str | None = None
    posthog_distinct_user_id: str | None = None
    pushwoosh_hwid: str | None = None
    tenjin_analytics_installation_id: str | None = None


_PATH = f"{PATH}/integration/profile/set/integration-identifiers/"

GET_INTEGRATION_IDENTIFIERS: Endpoint[IntegrationIdentifiersResponse] = Endpoint(
    name="v2.integrations.get",
    method="GET",
    path=_PATH,
    docs=f"{DOCS}/getIntegrationIdentifiers",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="v2",
    decode=nonempty_decoder(data_decoder(IntegrationIdentifiersResponse)),
    absent_if_missing=True,
)
SET_INTEGRATION_IDENTIFIERS: Endpoint[None] = Endpoint(
    name="v2.integrations.set",
    method="POST",
    path=_PATH,
    docs=f"{DOCS}/setIntegrationIdentifiers",
    retry_safety=RetrySafety.ALWAYS,  # a retry writes the same values
    bucket="v2",
    decode=no_result,
    encode=to_json,
    check=check_body,
)


def get_integration_identifiers(
    *, customer_user_id: str | None = None, profile_id: str | None = None
) -> Operation[IntegrationIdentifiersResponse]:
    """Return the operation of `Integrations.get`."""
    return Operation(GET_INTEGRATION_IDENTIFIERS, identity(customer_user_id, profile_id))


def set_integration_identifiers(
    identifiers: IntegrationIdentifiers,
    *,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[None]:
    """Return the operation of `Integrations.set`."""
    about = identity(customer_user_id, profile_id)
    instance_of(IntegrationIdentifiers)("identifiers", identifiers)
    return Operation(SET_INTEGRATION_IDENTIFIERS, about, identifiers)


class Integrations:
    """A resource of the calls on the ids of one profile in other services."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def get(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> IntegrationIdentifiersResponse:
        """
        Read the ids of a profile in other services.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/getIntegrationIdentifiers
        """
        return await self._execute(
            get_integration_identifiers(customer_user_id=customer_user_id, profile_id=profile_id)
        )

    async def set(
        self,
        identifiers: IntegrationIdentifiers,
        *,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> None:
        """
        Write ids of a profile in other services; UNSET leaves an id unchanged.

        Raises:
            InvalidInputError: not exactly one id was passed, it cannot be sent, or no id is
                set.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/setIntegrationIdentifiers
        """
        await self._execute(
            set_integration_identifiers(
                identifiers, customer_user_id=customer_user_id, profile_id=profile_id
            )
        )
