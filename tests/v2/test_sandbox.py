"""Version 2 on a real socket: the client against the sandbox, which knows nothing of it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

from adapty_async import AdaptyClient, RetryPolicy, v2
from adapty_async._api.call import Operation
from adapty_async.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    NotFoundError,
    RequestRejectedError,
)
from adapty_async.sandbox import Sandbox
from tests.v2.samples import ABOUT_PROFILES, CALLS, IDS, coins, one_time, read_all, subscription

POLICY = RetryPolicy(wait_initial=1e-9)
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


class World(NamedTuple):
    """Hold a sandbox with profile `u1`, and a client of it."""

    sandbox: Sandbox
    adapty: AdaptyClient

    @property
    def api(self) -> v2.V2:
        """Version 2."""
        return self.adapty.v2


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Run a sandbox and a client that checks what it sends."""
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["u1"])
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url, retry=POLICY) as adapty:
            yield World(sandbox, adapty)


@pytest.fixture
async def lenient(world: World) -> AsyncIterator[World]:
    """Use a client that leaves the rules to the server."""
    sandbox = world.sandbox
    async with AdaptyClient(
        sandbox.api_key, base_url=sandbox.url, retry=POLICY, validate=False
    ) as adapty:
        yield World(sandbox, adapty)


@pytest.mark.parametrize("call", sorted(CALLS.keys() - {"paywalls.get", "paywalls.update"}))
async def test_every_call_is_understood(world: World, call: str) -> None:
    """What each method sends has the method, path, headers and body that the sandbox asks for."""
    await world.api.access_levels.grant("premium", **IDS)
    await world.api.virtual_currencies.create_transaction([coins(5)], **IDS)
    before = len(world.sandbox.arrivals())
    if call == "virtual_currencies.list_transactions":
        with pytest.raises(RequestRejectedError, match="error_code invalid_cursor"):
            await CALLS[call](world.api)
    else:
        await CALLS[call](world.api)

    assert len(world.sandbox.arrivals()) == before + 1


async def test_a_profile_lives_and_ends(world: World) -> None:
    """Created, updated, read and deleted, by either id."""
    profiles = world.api.profiles
    created = await profiles.create(
        v2.ProfileAttributes(
            first_name="Jane",
            birthday=dt.date(2000, 12, 31),
            custom_attributes={"plan": "annual", "seats": 3, "beta": True},
            installation_meta=v2.InstallationMeta(
                device_id="3fa85f64-5717-4562-b3fc-2c963f66afa6", platform="iOS"
            ),
        ),
        customer_user_id="u2",
        platform="iOS",
    )
    assert created.customer_user_id == "u2"
    assert created.custom_attributes == {"plan": "annual", "seats": 3.0, "beta": 1.0}

    updated = await profiles.update(
        v2.ProfileAttributes(first_name=None, custom_attributes={"plan": None}),
        profile_id=created.profile_id,
    )
    assert updated.custom_attributes == {"seats": 3.0, "beta": 1.0}
    assert updated.timestamp >= created.timestamp

    await profiles.delete(customer_user_id="u2")
    with pytest.raises(NotFoundError):
        await profiles.get(customer_user_id="u2")


async def test_a_customer_is_attached_to_an_anonymous_profile(world: World) -> None:
    """Creation with both ids gives the profile its user."""
    [profile_id] = world.sandbox.seed_anonymous(1)
    before = await world.api.profiles.get(profile_id=profile_id)
    after = await world.api.profiles.create(profile_id=profile_id, customer_user_id="u7")

    assert (before.customer_user_id, after.customer_user_id) == (None, "u7")
    assert before.profile_id == after.profile_id == profile_id


async def test_purchases_open_access(world: World) -> None:
    """A subscription gives access until it ends, plus its grace period; a lifetime for ever."""
    bought = subscription(
        purchased_at=NOW - DAY, originally_purchased_at=NOW - DAY, expires_at=NOW + 29 * DAY
    )
    profile = await world.api.transactions.set(bought, **IDS)
    assert profile.has_access("premium")
    assert not profile.has_access("premium", at=NOW + 30 * DAY)
    assert profile.total_revenue_usd == 4.99

    late = subscription(
        purchased_at=NOW - 31 * DAY,
        originally_purchased_at=NOW - 31 * DAY,
        expires_at=NOW - DAY,
        billing_issue_detected_at=NOW - DAY,
        grace_period_expires_at=NOW + DAY,
    )
    profile = await world.api.transactions.set(late, **IDS)
    [level] = profile.access_levels
    assert (level.is_in_grace_period, profile.has_access("premium")) == (True, True)
    assert level.expires_at == NOW - DAY

    profile = await world.api.transactions.set(one_time(), **IDS)
    assert profile.has_access("premium", at=NOW + 9999 * DAY)
    assert [one.store_transaction_id for one in profile.non_subscriptions] == ["1000"]


async def test_access_is_granted_and_revoked(world: World) -> None:
    """A grant may begin later, a revocation may, too."""
    levels = world.api.access_levels
    profile = await levels.grant("premium", starts_at=NOW + DAY, expires_at=NOW + 9 * DAY, **IDS)
    assert not profile.has_access("premium")
    assert profile.has_access("premium", at=NOW + 2 * DAY)

    profile = await levels.revoke("premium", revoke_at=NOW + 2 * DAY, **IDS)
    assert not profile.has_access("premium", at=NOW + 3 * DAY)
    profile = await levels.revoke("premium", **IDS)
    assert not profile.has_access("premium", at=NOW + 2 * DAY)


async def test_settings_and_identifiers_are_read_back(world: World) -> None:
    """What was written is what is read."""
    await world.api.refund_saver.set(custom_preference="decline", consent=False, **IDS)
    await world.api.integrations.set(
        v2.IntegrationIdentifiers(branch_id="b", appsflyer_id="a"), **IDS
    )
    await world.api.integrations.set(v2.IntegrationIdentifiers(appsflyer_id=None), **IDS)

    settings = await world.api.refund_saver.get(**IDS)
    assert settings.settings == v2.RefundSaverSettings(consent=False, custom_preference="decline")
    identifiers = await world.api.integrations.get(**IDS)
    assert identifiers == v2.IntegrationIdentifiersResponse(branch_id="b")


async def test_other_stores_purchases_are_imported(world: World) -> None:
    """Paddle responds with the profile, Stripe nothing; both have imported."""
    purchases = world.api.purchases
    paddle = await purchases.validate_paddle(customer_user_id="u5", paddle_token="sub_1")
    await purchases.validate_stripe(customer_user_id="u5", stripe_token="pi_1")

    profile = await world.api.profiles.get(customer_user_id="u5")
    assert profile.profile_id == paddle.profile_id
    assert [one.store for one in profile.subscriptions] == ["paddle"]
    assert [one.store for one in profile.non_subscriptions] == ["stripe"]


async def test_paywalls_are_listed_read_and_changed(world: World) -> None:
    """All pages are listed; reading, changing and writing back keeps the other languages."""
    world.sandbox.add_paywalls(*(f"P{number}" for number in range(4)))
    paywalls = world.api.paywalls
    listed = await read_all(paywalls.list(page_size=3))
    pages = await read_all(paywalls.list(page_size=3).pages())
    assert [one.title for one in listed[-4:]] == ["P0", "P1", "P2", "P3"]
    assert [len(page.data) for page in pages] == [3, 3, 1]

    paywall_id = listed[0].paywall_id
    await paywalls.update(paywall_id, [v2.RemoteConfig.of(one, {"a": 1}) for one in ("en", "de")])
    paywall = await paywalls.get(paywall_id)
    kept = [config for config in paywall.remote_configs if config.locale != "de"]
    updated = await paywalls.update(paywall_id, [*kept, v2.RemoteConfig.of("de", {"a": 2})])
    assert {one.locale: one.value["a"] for one in updated.remote_configs} == {"en": 1, "de": 2}
    assert updated.updated_at is not None
    assert updated.updated_at > (paywall.created_at or NOW)


async def test_currencies_add_up_and_their_history_is_read(world: World) -> None:
    """Balances are the sum of the history, however many pages it has."""
    currencies = world.api.virtual_currencies
    balance = 0
    for amount in (500, -10, -20, 30, -40):
        spent = await currencies.create_transaction(
            [coins(amount)], metadata={"step": str(amount)}, **IDS
        )
        balance += amount
        assert [one.available for one in spent.balances] == [balance]

    history = await read_all(currencies.list_transactions(limit=2, **IDS))
    assert [one.items[0].amount for one in history] == [-40, 30, -20, -10, 500]
    assert [one.metadata for one in history[:1]] == [{"step": "-40"}]
    balances = await currencies.list_balances(**IDS)
    assert {one.code: one.balance for one in balances.data} == {
        "COINS": 460,
        "GEMS": 0,
        "ENERGY": 0,
    }


async def test_a_credit_whose_response_is_lost_is_made_once(world: World) -> None:
    """The retry with the same key is reported the first result."""
    world.sandbox.fail_next("reset_after", "503")
    result = await world.api.virtual_currencies.create_transaction([coins(5)], **IDS)

    assert [one.balance for one in result.balances] == [5]
    assert len(world.sandbox.arrivals()) == 3
    assert len(await read_all(world.api.virtual_currencies.list_transactions(**IDS))) == 1


async def test_a_credit_that_is_in_flight_is_rejected_to_others() -> None:
    """A second call with the same key, while the first one runs, is a conflict with its wait."""
    async with Sandbox(latency=1.0) as sandbox:
        sandbox.seed_profiles(["u1"])
        once = RetryPolicy(attempts=1)
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url, retry=once) as adapty:
            operation = v2.create_virtual_currency_transaction([coins(5)], **IDS)
            first, second = await asyncio.gather(
                *(adapty.execute(operation) for _ in range(2)), return_exceptions=True
            )

    refused = first if isinstance(first, BaseException) else second
    assert isinstance(refused, ConflictError)
    assert (refused.error_code, refused.retry_after) == ("idempotency_in_flight", 1.0)


async def test_a_deletion_whose_response_is_lost_is_done(world: World) -> None:
    """A 404 for the retry means success."""
    world.sandbox.fail_next("reset_after")
    await world.api.profiles.delete(**IDS)

    assert [one.status for one in world.sandbox.arrivals()] == [0, 404]


@pytest.mark.parametrize("call", sorted(ABOUT_PROFILES.keys() - {"profiles.create"}))
async def test_a_missing_profile_is_one_error(world: World, call: str) -> None:
    """However the server spells it, it is a NotFoundError."""
    with pytest.raises(NotFoundError):
        await world.adapty.execute(ABOUT_PROFILES[call](customer_user_id="nobody"))


@pytest.mark.parametrize("call", CALLS)
async def test_a_wrong_key_is_one_error(world: World, call: str) -> None:
    """Whatever was called, a key that is not accepted is an AuthenticationError."""
    async with AdaptyClient("wrong", base_url=world.sandbox.url) as adapty:
        with pytest.raises(AuthenticationError):
            await CALLS[call](adapty.v2)


def bought(**changes: Any) -> Operation[Any]:
    """Describe a one-time purchase."""
    return v2.set_transaction(one_time(**changes), **IDS)


def subscribed(**changes: Any) -> Operation[Any]:
    """Describe a subscription."""
    return v2.set_transaction(subscription(**changes), **IDS)


def spend(*items: v2.VirtualCurrencyBalanceAdjustment, key: str | None = None) -> Operation[Any]:
    """Describe a transaction of virtual currencies."""
    return v2.create_virtual_currency_transaction(items, idempotency_key=key, **IDS)


def paddle(token: str) -> Operation[Any]:
    """Describe the validation of a Paddle token."""
    return v2.validate_paddle_purchase(customer_user_id="u1", paddle_token=token)


TRIAL = v2.Offer(category="introductory", type="free_trial")
REFUSED: dict[str, tuple[Callable[[], Operation[Any]], str | None]] = {
    # error code: what is refused with it, the field that the server names
    "paid_access_level_does_not_exist": (lambda: v2.grant_access_level("vip", **IDS), None),
    "profile_paid_access_level_does_not_exist": (
        lambda: v2.revoke_access_level("premium", **IDS),
        None,
    ),
    "billing_issue_detected_at_date_comparison_error": (
        lambda: subscribed(billing_issue_detected_at="2024-01-01T00:00:00Z"),
        "billing_issue_detected_at",
    ),
    "expires_date_error": (
        lambda: subscribed(expires_at="2024-01-01T00:00:00Z"),
        "expires_at",
    ),
    "family_share_price_error": (lambda: bought(is_family_shared=True), "is_family_shared"),
    "free_trial_price_error": (lambda: subscribed(offer=TRIAL), "offer_type"),
    "grace_period_billing_error": (
        lambda: subscribed(grace_period_expires_at="2024-02-20T00:00:00Z"),
        "grace_period_billing_error",
    ),
    "grace_period_expires_date_error": (
        lambda: subscribed(
            billing_issue_detected_at="2024-02-01T00:00:00Z",
            grace_period_expires_at="2024-02-02T00:00:00Z",
        ),
        "grace_period_expires_at",
    ),
    "missing_offer_id": (
        lambda: subscribed(offer=v2.Offer(category="win_back", type="pay_up_front")),
        "offer_category",
    ),
    "one_time_purchase_trial_error": (lambda: bought(offer=TRIAL), "offer.type"),
    "originally_purchased_date_error": (
        lambda: subscribed(originally_purchased_at="2024-01-16T00:00:00Z"),
        "originally_purchased_at",
    ),
    "refund_date_error": (
        lambda: bought(refunded_at="2024-01-01T00:00:00Z", cancellation_reason="refund"),
        "refunded_at",
    ),
    "refund_fields_error": (lambda: bought(cancellation_reason="refund"), "refunded_at"),
    "renew_status_changed_date_error": (
        lambda: subscribed(renew_status_changed_at="2024-01-01T00:00:00Z"),
        "renew_status_changed_at",
    ),
    "store_transaction_id_error": (
        lambda: bought(store_original_transaction_id="1"),
        "store_transaction_id",
    ),
    "no_products_found": (lambda: paddle("txn_no_products"), None),
    "paddle_api_key_not_found": (lambda: paddle("txn_no_key"), None),
    "invalid_paddle_credentials_or_purchase_not_found": (lambda: paddle("live_1"), None),
    "validation_error": (lambda: v2.list_paywalls(page_size=0), "page_size"),
    "insufficient_balance": (lambda: spend(coins(-1)), "currency_code"),
    "unknown_currency": (lambda: spend(coins(1, "RUBIES")), "currency_code"),
    "duplicate_currency": (lambda: spend(coins(1), coins(2)), "currency_code"),
    "amount_zero": (lambda: spend(coins(0)), "amount"),
    "balance_overflow": (lambda: spend(coins(2**31 - 1, "GEMS")), "currency_code"),
    "empty_items": (spend, "items"),
    "idempotency_key_invalid": (lambda: spend(coins(1), key="1"), "Idempotency-Key"),
    "invalid_cursor": (
        lambda: v2.list_virtual_currency_transactions(cursor="x", **IDS),
        "cursor",
    ),
}


@pytest.mark.parametrize("code", REFUSED)
async def test_a_rejection_of_the_server_has_its_code_and_field(lenient: World, code: str) -> None:
    """Each documented rejection is an error with its code, field and message."""
    await lenient.api.virtual_currencies.create_transaction([coins(1, "GEMS")], **IDS)
    describe, field = REFUSED[code]

    with pytest.raises(ApiError) as caught:
        await lenient.adapty.execute(describe())
    error = caught.value
    assert type(error) is RequestRejectedError
    assert (error.status, error.error_code) == (400, code)
    assert error.field_name == field
    assert error.errors[0].message
    assert error.request_id


RULED = sorted(
    REFUSED.keys()
    - {
        # what only the server can know
        "paid_access_level_does_not_exist",
        "profile_paid_access_level_does_not_exist",
        "no_products_found",
        "paddle_api_key_not_found",
        "invalid_paddle_credentials_or_purchase_not_found",
        "insufficient_balance",
        "unknown_currency",
        "balance_overflow",
        "invalid_cursor",
    }
)


@pytest.mark.parametrize("code", RULED)
async def test_values_that_break_a_rule_are_rejected_before(world: World, code: str) -> None:
    """A client that checks sends nothing that the server would reject by a documented rule."""
    with pytest.raises(ValueError, match=": "):
        await world.adapty.execute(REFUSED[code][0]())
    assert world.sandbox.arrivals() == []


async def test_a_history_is_imported(world: World) -> None:
    """Large numbers of purchases of several users, through faults, arrive each and once."""
    world.sandbox.seed_profiles(f"c{number}" for number in range(20))
    purchases = [
        (f"c{number % 20}", one_time(**_ids(number), price=v2.Price(**_PRICE)))
        for number in range(200)
    ]
    world.sandbox.fail_next(*["503", "reset", "reset_after"] * 5)
    report = await world.api.transactions.bulk_set(purchases, by="customer_user_id", concurrency=16)
    assert (report.done, report.ok) == (200, True)

    run = world.api.profiles.bulk_get([f"c{number}" for number in range(20)], by="customer_user_id")
    async with run:
        profiles = [outcome.result async for outcome in run]
    assert [len(one.non_subscriptions) for one in profiles if one] == [10] * 20
    assert {one.total_revenue_usd for one in profiles if one} == {1.0}


_PRICE: dict[str, Any] = {"country": "US", "currency": "USD", "value": 0.1}


def _ids(number: int) -> dict[str, str]:
    return {"store_transaction_id": str(number), "store_original_transaction_id": str(number)}


async def test_access_is_granted_to_many_and_revoked_again(world: World) -> None:
    """Bulk grants and revocations end each user in one outcome."""
    world.sandbox.seed_profiles(["a", "b"])
    users = ["a", "b", "nobody"]
    levels = world.api.access_levels
    granted = await levels.bulk_grant(
        [(one, v2.AccessGrant(access_level_id="premium")) for one in users],
        by="customer_user_id",
    )
    assert (granted.done, granted.failed) == (2, 1)
    assert (await world.api.profiles.get(customer_user_id="b")).has_access("premium")

    revoked = await levels.bulk_revoke(
        [(one, v2.AccessRevocation(access_level_id="premium")) for one in users],
        by="customer_user_id",
    )
    assert (revoked.done, revoked.failed) == (2, 1)
    assert not (await world.api.profiles.get(customer_user_id="b")).has_access("premium")


async def test_many_profiles_are_updated_and_erased(world: World) -> None:
    """Bulk runs of version 2 do what those of version 1 do."""
    world.sandbox.seed_profiles(["a", "b"])
    updates = [(one, v2.ProfileAttributes(first_name="X")) for one in ("a", "b", "nobody")]
    updated = await world.api.profiles.bulk_update(updates, by="customer_user_id")
    erased = await world.api.profiles.bulk_delete(["a", "b", "nobody"], by="customer_user_id")

    assert (updated.done, updated.failed) == (2, 1)
    assert (erased.done, erased.absent) == (2, 1)
    assert world.sandbox.customer_user_ids() == {"u1"}


async def test_a_clients_rate_and_faults_do_not_lose_a_call(world: World) -> None:
    """Every read has a response through a rate limit and random faults."""
    async with Sandbox(rate=200, retry_after="none", faults="error=10%,reset=10%", seed=2) as one:
        one.seed_profiles(["u1"])
        policy = RetryPolicy(attempts=20, wait_initial=0.01)
        async with AdaptyClient(one.api_key, base_url=one.url, retry=policy) as adapty:
            report = await adapty.v2.profiles.bulk_get(["u1"] * 60, by="customer_user_id")

    assert report.ok
    assert report.done == 60
