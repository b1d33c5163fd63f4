"""The mapping of webhook events to transaction events of the Mail API."""

from __future__ import annotations

import copy
import datetime as dt
import json
from typing import Any, get_args

import msgspec
import pytest

from adapty_async import UNSET, AdaptyMailClient, InvalidInputError, TransactionEvent
from adapty_async.mail import EventType
from adapty_async.sandbox import Sandbox
from adapty_async.webhooks import Event, parse, transaction_event
from tests.webhooks.samples import EVENT_ID, ONE_TIME, SAMPLES, STARTED

MIDNIGHT = dt.datetime(2000, 1, 31, tzinfo=dt.UTC)


def event_of(fields: dict[str, Any], **properties: Any) -> Event:
    """Parse a sample with other properties."""
    fields = copy.deepcopy(fields)
    fields["event_properties"].update(properties)
    event = parse(json.dumps(fields))
    assert isinstance(event, Event)
    return event


def mapped(fields: dict[str, Any], **properties: Any) -> TransactionEvent:
    """Map a sample with other properties, which has a counterpart."""
    event = transaction_event(event_of(fields, **properties))
    assert event is not None
    return event


def test_a_purchase_has_all_fields_of_the_mail_api() -> None:
    """The documented example becomes a transaction event with the same facts."""
    assert mapped(STARTED) == TransactionEvent(
        event_type="subscription_started",
        event_id=EVENT_ID,
        event_datetime=MIDNIGHT,
        external_profile_id="UserIdInYourSystem",
        customer_user_id="UserIdInYourSystem",
        store="play_store",
        store_product_id="onemonth_no_trial",
        store_transaction_id="0000000000000001",
        store_original_transaction_id="0000000000000000",
        purchased_at=dt.datetime(2024, 11, 15, 10, 45, 36, 181000, dt.UTC),
        originally_purchased_at=MIDNIGHT,
        price_usd="4.99",
        expires_at=dt.datetime(2000, 2, 29, tzinfo=dt.UTC),
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_only_types_of_the_mail_api_are_mapped(name: str) -> None:
    """A type is mapped if the Mail API has it; for any other one there is no event."""
    event = transaction_event(event_of(SAMPLES[name]))

    assert (event is not None) == (name in get_args(EventType))
    assert event is None or event.event_type == name


def test_an_unknown_type_is_not_mapped() -> None:
    """The name of an unknown type counts for nothing, even if it is one of the Mail API's."""
    assert transaction_event(event_of({**STARTED, "event_type": "mine"})) is None


async def test_mapped_events_are_accepted() -> None:
    """The Mail API of the sandbox accepts the event of each sample, twice, and keeps it once."""
    events = [transaction_event(event_of(fields)) for fields in SAMPLES.values()]
    numbered = [
        msgspec.structs.replace(event, event_id=f"{number}")
        for number, event in enumerate(events)
        if event is not None
    ]
    async with (
        Sandbox() as sandbox,
        AdaptyMailClient(sandbox.mail_api_key, base_url=sandbox.url) as mail,
    ):
        report = await mail.events.bulk_save([*numbered, *numbered])

        assert report.done == 2 * len(get_args(EventType))
        assert len(sandbox.mail_events()) == len(get_args(EventType))


def test_a_one_time_purchase_does_not_expire() -> None:
    """The event of a one-time purchase has no expiry, whatever the webhook has."""
    assert mapped(ONE_TIME, subscription_expires_at="2030-01-01T00:00:00Z").expires_at is UNSET
    assert mapped(STARTED, subscription_expires_at=None).expires_at is UNSET


@pytest.mark.parametrize(
    ("price", "text"),
    [(4.99, "4.99"), (100.0, "100"), (0, "0"), (0.1 + 0.2, "0.3"), (1e-7, "0"), (None, UNSET)],
    ids=str,
)
def test_a_price_is_a_decimal_text(price: float | None, text: str) -> None:
    """A price has no exponent and no digits of a binary fraction."""
    assert mapped(STARTED, price_usd=price).price_usd == text


@pytest.mark.parametrize(
    ("category", "kind", "expected"),
    [
        ("promotional", "pay_up_front", ("promotional", "pay_up_front", UNSET)),
        ("retention", "pay_up_front", None),
        ("promotional", "newer", None),
        (None, None, None),
    ],
    ids=str,
)
def test_an_offer_is_mapped_if_the_mail_api_knows_its_category(
    category: str | None, kind: str | None, expected: tuple[Any, ...] | None
) -> None:
    """An offer keeps category and type, without Adapty's id of it, which is not the store's."""
    offer = mapped(
        STARTED,
        store_offer_category=category,
        store_offer_discount_type=kind,
        promotional_offer_id="adapty",
    ).offer

    assert (None if offer is UNSET else msgspec.structs.astuple(offer)) == expected


def test_an_anonymous_profile_needs_an_id() -> None:
    """Without a customer user id, the id of the mail profile has to be passed."""
    event = event_of({**STARTED, "customer_user_id": None})
    with pytest.raises(InvalidInputError, match="external_profile_id: "):
        transaction_event(event)
    mail_event = transaction_event(event, external_profile_id="x")

    assert mail_event is not None
    assert (mail_event.external_profile_id, mail_event.customer_user_id) == ("x", UNSET)


def test_a_missing_field_is_named() -> None:
    """A field that the Mail API requires and the webhook lacks is named."""
    event = event_of(STARTED, transaction_id=None)

    with pytest.raises(InvalidInputError, match="store_transaction_id: "):
        transaction_event(event)


def test_the_time_of_the_event_may_be_in_its_properties() -> None:
    """The date and time of the envelope counts, otherwise that of the properties."""
    fields = {**STARTED, "event_datetime": None}

    assert mapped(fields).event_datetime == MIDNIGHT
