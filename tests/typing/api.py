"""
What each public call gives, as type checkers see it.

Nothing in here is ever executed; mypy and pyright read it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import assert_type

from adapty_async import (
    UNSET,
    AdaptyClient,
    AdaptyMailClient,
    ApiError,
    BulkReport,
    BulkRun,
    DeviceInfo,
    InstallationMeta,
    InvalidInputError,
    Limits,
    MailProfile,
    Offer,
    Operation,
    Outcome,
    OutcomeStatus,
    RetryPolicy,
    TransactionEvent,
)
from adapty_async.bulk import StopReason
from adapty_async.errors import ErrorItem
from adapty_async.hooks import CallEnded, Event
from adapty_async.mail import (
    DELETE_PROFILE,
    Events,
    MailProfiles,
    delete_profile,
    save_event,
    save_profile,
)
from adapty_async.testing import FakeClock, FakeTransport
from adapty_async.v1 import (
    GET_PROFILE,
    V1,
    CustomAttributes,
    Profile,
    ProfileAttributes,
    Profiles,
    create_profile,
    get_profile,
    update_profile,
)
from adapty_async.v1 import delete_profile as delete_v1_profile


def hook(event: Event) -> None:
    """
    Take note of an event.
    """
    if isinstance(event, CallEnded):
        assert_type(event.status, int | None)
        assert_type(event.error, str | None)


async def clients() -> None:
    """
    Set up and use clients.
    """
    async with AdaptyClient(
        "key",
        base_url="https://api.example.com",
        retry=RetryPolicy(attempts=3, deadline=30),
        limits=Limits(connections=10, rate=5, burst=2),
        timeout=10,
        hooks=(hook,),
        id_encoding="utf-8",
        transport=FakeTransport([(204, {}, b""), TimeoutError()]),
    ) as adapty:
        assert_type(adapty, AdaptyClient)
        assert_type(adapty.v1, V1)
        assert_type(adapty.v1.profiles, Profiles)
        assert_type(adapty.with_options(timeout=5, headers={"X-Trace": "1"}), AdaptyClient)
        assert_type(await adapty.execute(Operation(GET_PROFILE)), Profile)
        assert_type(await adapty.aclose(), None)

    async with AdaptyMailClient() as mail:
        assert_type(mail, AdaptyMailClient)
        assert_type(mail.profiles, MailProfiles)
        assert_type(mail.events, Events)
        assert_type(mail.with_options(deadline=5), AdaptyMailClient)
        assert_type(await mail.execute(Operation(DELETE_PROFILE)), None)


async def calls_of_v1(adapty: AdaptyClient) -> None:
    """
    Make every single call of version 1.
    """
    profiles = adapty.v1.profiles
    attributes = ProfileAttributes(
        email=None,
        birthday="2000-12-31",
        first_name=UNSET,
        custom_attributes={"a": 1, "b": "x", "c": None, "d": True},
        installation_meta=InstallationMeta(device="x"),
    )

    assert_type(await profiles.get(customer_user_id="u1"), Profile)
    assert_type(await profiles.create(attributes, profile_id="p1"), Profile)
    assert_type(await profiles.create(customer_user_id="u1"), Profile)
    assert_type(await profiles.update(attributes, customer_user_id="u1"), Profile)
    assert_type(await profiles.delete(profile_id="p1"), None)

    assert_type(get_profile(customer_user_id="u1"), Operation[Profile])
    assert_type(create_profile(attributes, customer_user_id="u1"), Operation[Profile])
    assert_type(update_profile(attributes, customer_user_id="u1"), Operation[Profile])
    assert_type(delete_v1_profile(customer_user_id="u1"), Operation[None])


def results(profile: Profile, error: ApiError, invalid: InvalidInputError) -> None:
    """
    Look at what comes back.
    """
    assert_type(profile.email, str | None)
    assert_type(profile.analytics_disabled, bool | None)
    assert_type(profile.custom_attributes, CustomAttributes | None)
    assert_type(error.status, int)
    assert_type(error.error_code, str | None)
    assert_type(error.errors, tuple[ErrorItem, ...])
    assert_type(error.retry_after, float | None)
    assert_type(error.field_name, str | None)
    assert_type(error.attempts, int)
    assert_type(invalid.field, str)
    assert_type(invalid.rule, str)


async def calls_of_mail(
    mail: AdaptyMailClient, profile: MailProfile, event: TransactionEvent
) -> None:
    """
    Make every single call of the Mail API.
    """
    assert_type(await mail.profiles.save(profile), None)
    assert_type(await mail.profiles.delete(email="a@b", customer_user_id="u1"), None)
    assert_type(await mail.events.save(event), None)

    assert_type(save_profile(profile), Operation[None])
    assert_type(delete_profile(email="a@b"), Operation[None])
    assert_type(save_event(event), Operation[None])
    assert_type(Offer(category="introductory", offer_type="free_trial"), Offer)
    assert_type(DeviceInfo(platform="iOS"), DeviceInfo)


async def bulk_of_v1(
    adapty: AdaptyClient,
    ids: AsyncIterable[str],
    pairs: Iterable[tuple[str, ProfileAttributes]],
    operations: list[Operation[Profile]],
) -> None:
    """
    Make every bulk run of the server-side API.
    """
    deletions = adapty.v1.profiles.bulk_delete(ids, by="customer_user_id", concurrency=8)
    assert_type(deletions, BulkRun[str, None])
    assert_type(await deletions, BulkReport[str, None])

    updates = adapty.v1.profiles.bulk_update(pairs, by="profile_id", rate=10, ordered=True)
    async with updates as run:
        async for outcome in run:
            assert_type(outcome, Outcome[tuple[str, ProfileAttributes], Profile])
            assert_type(outcome.item, tuple[str, ProfileAttributes])
            assert_type(outcome.result, Profile | None)
            assert_type(outcome.status, OutcomeStatus)
            assert_type(outcome.error, Exception | None)
    assert_type(run.report.stop_reason, StopReason | None)
    assert_type(run.report.counts, dict[OutcomeStatus, int])
    assert_type(run.report.ok, bool)

    assert_type(await adapty.bulk(operations), BulkReport[Operation[Profile], Profile])
    built = adapty.bulk([1, 2], build=lambda item: get_profile(customer_user_id=str(item)))
    assert_type(built, BulkRun[int, Profile])


async def bulk_of_mail(
    mail: AdaptyMailClient, profiles: list[MailProfile], events: AsyncIterable[TransactionEvent]
) -> None:
    """
    Make every bulk run of the Mail API.
    """
    assert_type(await mail.profiles.bulk_save(profiles), BulkReport[MailProfile, None])
    assert_type(await mail.profiles.bulk_delete(["a@b"], by="email"), BulkReport[str, None])
    assert_type(await mail.events.bulk_save(events), BulkReport[TransactionEvent, None])


async def fakes(clock: FakeClock) -> None:
    """
    Use the stand-ins.
    """
    assert_type(clock(), float)
    assert_type(await clock.sleep(1), None)
    assert_type(clock.sleeps, list[float])
    assert_type([request.method for request in FakeTransport().requests], list[str])
