"""
The revealed types of all public calls.

None of this code is executed; mypy and pyright check it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterable, Iterable, Mapping
from pathlib import Path
from typing import Any, assert_type

from adapty_async import (
    UNSET,
    AdaptyClient,
    AdaptyExportClient,
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
    export,
    v2,
    web,
)
from adapty_async.bulk import StopReason
from adapty_async.endpoints import Endpoint, RawResponse, json_decoder, no_result
from adapty_async.errors import ErrorItem
from adapty_async.hooks import CallEnded, Event, log_attempts
from adapty_async.mail import (
    DELETE_PROFILE,
    Events,
    MailProfiles,
    delete_profile,
    save_event,
    save_profile,
)
from adapty_async.report import write_report
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
    """Accept an event."""
    if isinstance(event, CallEnded):
        assert_type(event.status, int | None)
        assert_type(event.error, str | None)


async def clients() -> None:
    """Set up and use clients."""
    async with AdaptyClient(
        "key",
        public_key="key",
        base_url="https://api.example.com",
        retry=RetryPolicy(attempts=3, deadline=30),
        limits=Limits(connections=10, rate=5, burst=2),
        timeout=10,
        hooks=(hook, log_attempts),
        id_encoding="utf-8",
        transport=FakeTransport([(204, {}, b""), TimeoutError()]),
    ) as adapty:
        assert_type(adapty, AdaptyClient)
        assert_type(adapty.v1, V1)
        assert_type(adapty.v2, v2.V2)
        assert_type(adapty.web, web.Web)
        assert_type(adapty.v1.profiles, Profiles)
        assert_type(adapty.with_options(timeout=5, headers={"X-Trace": "1"}), AdaptyClient)
        assert_type(await adapty.execute(Operation(GET_PROFILE)), Profile)
        assert_type(adapty.statistics().bulk_items, Mapping[str, int])
        assert_type(await adapty.aclose(), None)

    async with AdaptyMailClient(hooks=[hook]) as mail:
        assert_type(mail, AdaptyMailClient)
        assert_type(mail.profiles, MailProfiles)
        assert_type(mail.events, Events)
        assert_type(mail.with_options(deadline=5), AdaptyMailClient)
        assert_type(await mail.execute(Operation(DELETE_PROFILE)), None)


def attributes_of_any_mapping(
    plans: dict[str, str], seats: Mapping[str, int], deleted: dict[str, None]
) -> None:
    """Pass attributes whose values are all of one kind."""
    times: dict[str, Any] = {"external_created_at": "2026-06-01T10:30:00Z"}
    MailProfile(external_profile_id="1", email="a@b", custom_attributes=plans, **times)
    MailProfile(external_profile_id="1", email="a@b", custom_attributes=seats, **times)
    for each in plans, seats, deleted:
        assert_type(ProfileAttributes(custom_attributes=each), ProfileAttributes)
        assert_type(v2.ProfileAttributes(custom_attributes=each), v2.ProfileAttributes)


async def calls_of_v1(adapty: AdaptyClient) -> None:
    """Make every single call of version 1."""
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
    """Check the types of results and errors."""
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
    """Make every single call of the Mail API."""
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
    """Make every bulk run of the server-side API."""
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


def several_kinds(
    adapty: AdaptyClient, read: Operation[v2.Profile], mixed: list[Operation[v2.Profile | None]]
) -> None:
    """Put operations of several kinds into one list, and use one as that of a wider result."""
    wider: list[Operation[v2.Profile | None]] = [read, v2.delete_profile(customer_user_id="u")]
    mixed += wider
    mixed.append(read)
    run = adapty.bulk(mixed)
    assert_type(run, BulkRun[Operation[v2.Profile | None], v2.Profile | None])
    adapty.bulk([v2.get_profile(profile_id="p"), delete_profile(email="a@b"), read])


def may_be_nothing(row: Endpoint[v2.Profile | None]) -> Endpoint[v2.Profile | None]:
    """Accept an endpoint definition with a narrower result."""
    return row if row.retry_safety else may_be_nothing(v2.GET_PROFILE)


def odd_fields(profile: v2.Profile, old: Profile) -> None:
    """Check fields that differ from Adapty's documentation."""
    assert_type(profile.odd_fields, Mapping[str, Any])
    assert_type(old.odd_fields, Mapping[str, Any])
    assert_type(profile.access_levels[0].odd_fields, Mapping[str, Any])


async def calls_of_v2(api: v2.V2) -> None:
    """Make every single call of version 2."""
    attributes = v2.ProfileAttributes(
        gender="f",
        birthday=None,
        custom_attributes={"a": 1, "b": "x", "c": None, "d": True},
        installation_meta=v2.InstallationMeta(device_id="x", platform="iOS"),
    )
    price = v2.Price(country="US", currency="USD", value=9.99)
    offer = v2.Offer(category="win_back", type="pay_up_front", id="x")
    bought = v2.OneTimePurchase(
        store="my shop",
        store_product_id="p",
        store_transaction_id="1",
        store_original_transaction_id="1",
        price=price,
        purchased_at="2024-01-15T10:30:00Z",
        offer=offer,
    )
    created = api.profiles.create(attributes, customer_user_id="u", profile_id="p", platform="web")
    assert_type(await created, v2.Profile)
    assert_type(await api.profiles.get(customer_user_id="u"), v2.Profile)
    assert_type(await api.profiles.update(attributes, profile_id="p"), v2.Profile)
    assert_type(await api.profiles.delete(profile_id="p"), None)
    assert_type(await api.transactions.set(bought, customer_user_id="u"), v2.Profile)
    assert_type(await api.access_levels.grant("premium", profile_id="p"), v2.Profile)
    assert_type(await api.access_levels.revoke("premium", profile_id="p"), v2.Profile)
    settings = await api.refund_saver.get(profile_id="p")
    assert_type(settings, v2.RefundSaverSettingsResponse)
    assert_type(settings.settings.consent, bool | None)
    chosen = await api.refund_saver.set(custom_preference="decline", profile_id="p")
    assert_type(chosen, v2.RefundSaverSettingsResponse)
    stripe = api.purchases.validate_stripe(customer_user_id="u", stripe_token="sub_1")
    assert_type(await stripe, None)
    paddle = api.purchases.validate_paddle(customer_user_id="u", paddle_token="txn_1")
    assert_type(await paddle, v2.Profile)
    identifiers = await api.integrations.get(profile_id="p")
    assert_type(identifiers, v2.IntegrationIdentifiersResponse)
    assert_type(identifiers.branch_id, str | None)
    ids = v2.IntegrationIdentifiers(branch_id=None)
    assert_type(await api.integrations.set(ids, profile_id="p"), None)


async def creations_of_v2(api: v2.V2, attributes: v2.ProfileAttributes) -> None:
    """Create profiles that are missing."""
    found = api.profiles.get_or_create(attributes, customer_user_id="u", platform="web")
    assert_type(await found, v2.Profile)
    assert_type(await api.profiles.get_or_create(customer_user_id="u"), v2.Profile)
    assert_type(await api.profiles.ensure(attributes, customer_user_id="u"), v2.Profile)


async def lists_of_v2(api: v2.V2) -> None:
    """Read paywalls and virtual currencies."""
    listed = api.paywalls.list(page_size=5)
    assert_type(listed, v2.Pages[v2.PaywallListItem, v2.PaywallList])
    async for item in listed:
        assert_type(item, v2.PaywallListItem)
    async for page in listed.pages():
        assert_type(page, v2.PaywallList)
        assert_type(page.meta.pagination.pages, int)
    paywall = await api.paywalls.get("p")
    assert_type(paywall, v2.Paywall)
    assert_type(paywall.remote_configs, tuple[v2.RemoteConfig, ...])
    assert_type(await api.paywalls.update("p", paywall.remote_configs), v2.Paywall)

    items = [v2.VirtualCurrencyBalanceAdjustment(currency_code="COINS", amount=-1)]
    spent = await api.virtual_currencies.create_transaction(items, customer_user_id="u")
    assert_type(spent, v2.VirtualCurrencyTransaction)
    assert_type(spent.balances, tuple[v2.VirtualCurrencyBalance, ...])
    history = api.virtual_currencies.list_transactions(customer_user_id="u")
    async for past in history:
        assert_type(past, v2.VirtualCurrencyTransactionsHistoryItem)
        assert_type(past.created_at, dt.datetime | None)
    async for part in history.pages():
        assert_type(part, v2.VirtualCurrencyTransactionsHistory)
    balances = await api.virtual_currencies.list_balances(customer_user_id="u")
    assert_type(balances, v2.VirtualCurrencyBalanceList)


def operations_about_profiles_of_v2(
    transaction: v2.Transaction,
    attributes: v2.ProfileAttributes,
    identifiers: v2.IntegrationIdentifiers,
) -> None:
    """Describe the calls of version 2 that are about a profile without making them."""
    created = v2.create_profile(customer_user_id="u", profile_id="p", platform="web")
    assert_type(created, Operation[v2.Profile])
    assert_type(v2.get_profile(customer_user_id="u"), Operation[v2.Profile])
    assert_type(v2.update_profile(attributes, profile_id="p"), Operation[v2.Profile])
    assert_type(v2.delete_profile(customer_user_id="u"), Operation[None])
    assert_type(v2.get_or_create_profile(customer_user_id="u"), Operation[v2.Profile])
    assert_type(v2.ensure_profile(attributes, customer_user_id="u"), Operation[v2.Profile])
    assert_type(v2.set_transaction(transaction, profile_id="p"), Operation[v2.Profile])
    assert_type(v2.grant_access_level("premium", profile_id="p"), Operation[v2.Profile])
    assert_type(v2.revoke_access_level("premium", profile_id="p"), Operation[v2.Profile])
    settings = v2.get_refund_saver_settings(profile_id="p")
    assert_type(settings, Operation[v2.RefundSaverSettingsResponse])
    chosen = v2.set_refund_saver_settings(consent=True, profile_id="p")
    assert_type(chosen, Operation[v2.RefundSaverSettingsResponse])
    read = v2.get_integration_identifiers(profile_id="p")
    assert_type(read, Operation[v2.IntegrationIdentifiersResponse])
    written = v2.set_integration_identifiers(identifiers, profile_id="p")
    assert_type(written, Operation[None])
    credit = v2.create_virtual_currency_transaction([], profile_id="p")
    assert_type(credit, Operation[v2.VirtualCurrencyTransaction])
    past = v2.list_virtual_currency_transactions(limit=5, profile_id="p")
    assert_type(past, Operation[v2.VirtualCurrencyTransactionsHistory])
    balances = v2.list_virtual_currency_balances(profile_id="p")
    assert_type(balances, Operation[v2.VirtualCurrencyBalanceList])


def other_operations_of_v2(configs: list[v2.RemoteConfig]) -> None:
    """Describe the other calls of version 2 without making them."""
    stripe = v2.validate_stripe_purchase(customer_user_id="u", stripe_token="sub_1")
    assert_type(stripe, Operation[None])
    paddle = v2.validate_paddle_purchase(customer_user_id="u", paddle_token="txn_1")
    assert_type(paddle, Operation[v2.Profile])
    assert_type(v2.list_paywalls(page_number=2), Operation[v2.PaywallList])
    assert_type(v2.get_paywall("p"), Operation[v2.Paywall])
    assert_type(v2.update_paywall("p", configs), Operation[v2.Paywall])


def access(profile: v2.Profile, now: dt.datetime) -> None:
    """Look at a profile of version 2."""
    assert_type(profile.has_access("premium", at=now), bool)
    assert_type(profile.customer_user_id, str | None)
    assert_type(profile.custom_attributes, CustomAttributes)
    assert_type(profile.access_levels, tuple[v2.AccessLevel, ...])
    assert_type(profile.access_levels[0].expires_at, dt.datetime | None)


async def bulk_of_v2(
    api: v2.V2,
    ids: AsyncIterable[str],
    purchases: Iterable[tuple[str, v2.Transaction]],
    grants: list[tuple[str, v2.AccessGrant]],
) -> None:
    """Make every bulk run of version 2."""
    read = api.profiles.bulk_get(ids, by="profile_id")
    assert_type(read, BulkRun[str, v2.Profile])
    async with read as run:
        async for outcome in run:
            assert_type(outcome.result, v2.Profile | None)
    assert_type(await api.profiles.bulk_delete(ids, by="profile_id"), BulkReport[str, None])
    imported = api.transactions.bulk_set(purchases, by="customer_user_id", create_missing=True)
    assert_type(await imported, BulkReport[tuple[str, v2.Transaction], v2.Profile])
    granted = api.access_levels.bulk_grant(grants, by="customer_user_id")
    assert_type(granted, BulkRun[tuple[str, v2.AccessGrant], v2.Profile])
    revoked = api.access_levels.bulk_revoke([], by="customer_user_id")
    assert_type(revoked, BulkRun[tuple[str, v2.AccessRevocation], v2.Profile])
    updates = [("u", v2.ProfileAttributes(email=None))]
    assert_type(
        api.profiles.bulk_update(updates, by="profile_id"),
        BulkRun[tuple[str, v2.ProfileAttributes], v2.Profile],
    )
    created = api.profiles.bulk_get_or_create(updates, concurrency=8)
    assert_type(created, BulkRun[tuple[str, v2.ProfileAttributes], v2.Profile])
    ensured = api.profiles.bulk_ensure(updates, journal="ensure.db")
    assert_type(await ensured, BulkReport[tuple[str, v2.ProfileAttributes], v2.Profile])


async def calls_of_web(
    api: web.Web, now: dt.datetime, pairs: list[tuple[str, web.Attribution]]
) -> None:
    """Make every call and bulk run of the web API."""
    paywall = await api.paywalls.get("p", store="stripe", locale="en", customer_user_id="u")
    assert_type(paywall, web.Paywall)
    assert_type(paywall.products, tuple[web.Product, ...])
    assert_type(paywall.products[0].offer, web.ProductOffer | None)
    assert_type(paywall.remote_config, web.RemoteConfig | None)
    viewed = api.paywalls.record_view("v", store="stripe", visited_at=now, profile_id="p")
    assert_type(await viewed, None)
    organic = web.Attribution(status="organic", channel="x")
    assert_type(await api.attribution.add(organic, customer_user_id="u"), None)
    run = api.attribution.bulk_add(pairs, by="profile_id")
    assert_type(run, BulkRun[tuple[str, web.Attribution], None])

    assert_type(web.get_paywall("p", store="s", profile_id="p"), Operation[web.Paywall])
    assert_type(web.record_paywall_view("v", store="s", profile_id="p"), Operation[None])
    assert_type(web.add_attribution(organic, profile_id="p"), Operation[None])


async def endpoints_of_callers(adapty: AdaptyClient, mail: AdaptyMailClient) -> None:
    """Define endpoints, and read raw responses."""
    listed = Endpoint(name="x", method="GET", path="/x/", decode=json_decoder(dict[str, int]))
    assert_type(listed, Endpoint[dict[str, int]])
    operation = listed(headers={"adapty-profile-id": "p"}, parameters={"page": 2})
    assert_type(operation, Operation[dict[str, int]])
    assert_type(await adapty.execute(operation), dict[str, int])
    nothing = Endpoint(name="y", method="POST", path="/y/{id}/", decode=no_result)
    assert_type(await mail.execute(nothing({"a": 1}, parameters={"id": "z"})), None)
    run = adapty.bulk(["a"], build=lambda one: listed(parameters={"id": one}))
    assert_type(run, BulkRun[str, dict[str, int]])

    raw = await adapty.with_raw_response(v2.get_profile(customer_user_id="u"))
    assert_type(raw, RawResponse[v2.Profile])
    assert_type(raw.parse(), v2.Profile)
    assert_type(raw.headers, Mapping[str, str])
    assert_type((raw.status, raw.attempts), tuple[int, int])
    assert_type((raw.request_id, raw.body), tuple[str | None, bytes])
    deleted = await mail.with_raw_response(delete_profile(email="a@b"))
    assert_type(deleted.parse(), None)


async def bulk_of_mail(
    mail: AdaptyMailClient, profiles: list[MailProfile], events: AsyncIterable[TransactionEvent]
) -> None:
    """Make every bulk run of the Mail API."""
    assert_type(await mail.profiles.bulk_save(profiles), BulkReport[MailProfile, None])
    assert_type(await mail.profiles.bulk_delete(["a@b"], by="email"), BulkReport[str, None])
    assert_type(await mail.events.bulk_save(events), BulkReport[TransactionEvent, None])


async def exports(client: AdaptyExportClient, filters: export.Filters) -> None:
    """Make every export."""
    chart = client.analytics(chart_id=export.Chart.MRR, filters=filters, period_unit="week")
    assert_type(chart, export.JsonExport[export.AnalyticsResult])
    assert_type(await chart, export.AnalyticsResult)
    assert_type((await chart).data["mrr"], export.Metric)
    assert_type((await chart).data["mrr"].data, tuple[dict[str, Any], ...])
    assert_type(chart.operation, Operation[export.AnalyticsResult])
    assert_type(await chart.write_to("chart.json"), export.ExportedFile)
    async for chunk in chart.chunks(by="month"):
        assert_type(chunk, export.JsonChunk[export.AnalyticsResult])
        assert_type(chunk.dates, tuple[dt.date, dt.date])
    lines = client.analytics(chart_id="new", filters=filters, format="csv", tz="Europe/Berlin")
    assert_type(lines, export.CsvExport)
    assert_type([line async for line in lines.chunks(by="month")], list[str])
    assert_type(lines.parts, tuple[export.CsvExport, ...])
    assert_type(await lines.write_to("chart.csv", on_chunk=print), export.ExportedFile)
    assert_type(await client.cohort(filters=filters, renewal_days=[7]), export.CohortResult)
    conversion = client.conversion(filters=filters, from_period=None, to_period="1")
    assert_type(await conversion, export.ConversionResult)
    assert_type(await client.funnel(filters=filters, show_value_as="both"), export.FunnelResult)
    assert_type(await client.ltv(filters=filters, format="json"), export.LtvResult)
    assert_type(await client.retention(filters=filters, use_trial=True), export.RetentionResult)
    placements = export.PlacementFilters(placement_type="paywall")
    assert_type(await client.placements(filters=placements), export.PlacementsResult)
    assert_type(client.placements(filters=placements, format="csv"), export.CsvExport)
    assert_type(client.with_options(timeout=5), AdaptyExportClient)


async def fakes(clock: FakeClock) -> None:
    """Use the fakes."""
    assert_type(clock(), float)
    assert_type(await clock.sleep(1), None)
    assert_type(clock.sleeps, list[float])
    assert_type([request.method for request in FakeTransport().requests], list[str])


def evidence(journal: Path) -> None:
    """Write a report."""
    assert_type(write_report(journal, "report.html"), bool)
    assert_type(write_report("run.db", journal, outcomes=journal, ids=(i for i in "ab")), bool)
