"""Bulk runs against the sandbox, with faults: the report matches the state of the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import pytest

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    BulkReport,
    Limits,
    MailProfile,
    Outcome,
    OutcomeStatus,
    RetryPolicy,
)
from adapty_async.mail import TransactionEvent
from adapty_async.sandbox import Sandbox
from adapty_async.v1 import ProfileAttributes

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

By = Literal["external_profile_id", "customer_user_id", "email"]

COUNT = 2000
FAULTS = "error=5%,reset=5%,reset_after=5%,stall=5%"
RETRY = RetryPolicy(attempts=12, deadline=60.0, wait_initial=0.01, wait_max=0.2)
BADLY = RetryPolicy(attempts=2, wait_initial=0.01, wait_max=0.01)
TIMEOUT = 0.8


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a sandbox that limits the rate and fails a fifth of all requests, in all ways."""
    async with Sandbox(rate=2000, burst=300, retry_after="none", faults=FAULTS, seed=7) as running:
        yield running


@pytest.fixture
async def adapty(sandbox: Sandbox) -> AsyncIterator[AdaptyClient]:
    """Open a client of the server-side API."""
    async with AdaptyClient(
        sandbox.api_key, base_url=sandbox.url, retry=RETRY, timeout=TIMEOUT
    ) as client:
        yield client


@pytest.fixture
async def mail(sandbox: Sandbox) -> AsyncIterator[AdaptyMailClient]:
    """Open a client of the Mail API."""
    async with AdaptyMailClient(
        sandbox.mail_api_key, base_url=sandbox.url, retry=RETRY, timeout=TIMEOUT
    ) as client:
        yield client


class Ledger:
    """Every outcome by item, for comparison with the server's state."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome[Any, Any]] = {}
        self.times = Counter[int]()

    def __call__(self, outcome: Outcome[Any, Any]) -> None:
        """Record an outcome."""
        self.times[outcome.index] += 1
        self.outcomes[outcome.index] = outcome

    def items(self, *statuses: OutcomeStatus) -> set[Any]:
        """Return the items that ended so."""
        return {item.item for item in self.outcomes.values() if item.status in statuses}

    def assert_complete(self, report: BulkReport[Any, Any], count: int) -> None:
        """Check that every item had one outcome, and that the counts add up to the items."""
        assert set(self.times) == set(range(count))
        assert set(self.times.values()) == {1}
        assert report.total == sum(report.counts.values()) == count
        assert report.counts == {
            status: sum(item.status is status for item in self.outcomes.values())
            for status in OutcomeStatus
        }


def ids(count: int = COUNT) -> list[str]:
    """Return *n* ids."""
    return [f"user-{number}" for number in range(count)]


DONE = (OutcomeStatus.DONE, OutcomeStatus.ABSENT)


async def test_an_erasure_reports_what_the_server_did(
    sandbox: Sandbox, adapty: AdaptyClient
) -> None:
    """Two thousand profiles are gone though a fifth of requests failed; the server's log agrees."""
    sandbox.seed_profiles(ids())
    ledger = Ledger()
    report = await adapty.v1.profiles.bulk_delete(
        iter(ids()), by="customer_user_id", concurrency=100, on_outcome=ledger
    )

    ledger.assert_complete(report, COUNT)
    assert not ledger.items(*DONE) & sandbox.customer_user_ids()
    assert sandbox.customer_user_ids() <= ledger.items(OutcomeStatus.FAILED)
    assert report.done > COUNT / 2
    arrivals = sandbox.arrivals()
    assert report.requests >= len(arrivals)  # one may time out before this busy server reads it
    assert report.throttled == sum(arrival.status == 429 for arrival in arrivals)
    deleted = Counter(arrival.identity for arrival in arrivals if arrival.applied)
    assert set(deleted.values()) == {1}
    attempts = Counter(arrival.identity for arrival in arrivals)
    assert all(attempts[item.item] <= item.attempts for item in ledger.outcomes.values())


async def test_an_erasure_with_few_attempts_claims_nothing_that_is_not_so(
    sandbox: Sandbox, adapty: AdaptyClient
) -> None:
    """Items without further retries are failed, not done, and a second run completes them."""
    sandbox.seed_profiles(ids())
    ledger = Ledger()
    hasty = adapty.with_options(retry=BADLY)
    report = await hasty.v1.profiles.bulk_delete(
        ids(), by="customer_user_id", concurrency=100, on_outcome=ledger
    )
    rest = ledger.items(OutcomeStatus.FAILED)

    ledger.assert_complete(report, COUNT)
    assert report.failed > 10
    assert sandbox.customer_user_ids() <= rest
    again = await adapty.v1.profiles.bulk_delete(rest, by="customer_user_id", concurrency=100)
    assert again.done + again.absent == again.total == len(rest)
    assert sandbox.customer_user_ids() == set()


async def test_profiles_that_are_missing_are_absent(sandbox: Sandbox, adapty: AdaptyClient) -> None:
    """Absent is what the server never had, apart from deletes that a gateway's error hid."""
    here, missing = ids(200), [f"missing-{number}" for number in range(200)]
    sandbox.seed_profiles(here)
    ledger = Ledger()
    report = await adapty.v1.profiles.bulk_delete(
        here + missing, by="customer_user_id", on_outcome=ledger
    )

    ledger.assert_complete(report, 400)
    assert not ledger.items(OutcomeStatus.ABSENT) & set(here)
    assert report.done + report.absent == 400


async def test_an_update_reports_what_the_server_did(
    sandbox: Sandbox, adapty: AdaptyClient
) -> None:
    """Each profile that is done has its own value, and its result contains it."""
    sandbox.seed_profiles(ids())
    updates = [(user, ProfileAttributes(first_name=f"Name of {user}")) for user in ids()]
    done = 0
    async with adapty.v1.profiles.bulk_update(
        updates, by="customer_user_id", concurrency=100
    ) as run:
        async for outcome in run:
            user = outcome.item[0]
            if outcome.status is OutcomeStatus.DONE:
                done += 1
                profile = sandbox.profile(customer_user_id=user)
                assert profile is not None
                assert outcome.result is not None
                assert profile["first_name"] == outcome.result.first_name == f"Name of {user}"

    assert run.report.total == COUNT
    assert run.report.done == done > COUNT / 2
    assert run.report.requests >= len(sandbox.arrivals())


def mail_profiles(count: int) -> Iterator[MailProfile]:
    """Yield profiles with all three identifiers."""
    for number in range(count):
        yield MailProfile(
            external_profile_id=f"profile-{number}",
            external_created_at="2026-01-01T00:00:00Z",
            email=f"user{number}@example.com",
            customer_user_id=f"user-{number}",
        )


async def live_mail_profiles(count: int) -> AsyncIterator[MailProfile]:
    """Yield the same from a live source."""
    for profile in mail_profiles(count):
        yield profile


async def test_saving_mail_profiles_reports_what_the_server_did(
    sandbox: Sandbox, mail: AdaptyMailClient
) -> None:
    """Every profile that is done exists; a save that was retried exists once."""
    ledger = Ledger()
    report = await mail.profiles.bulk_save(
        live_mail_profiles(COUNT), concurrency=100, on_outcome=ledger
    )

    ledger.assert_complete(report, COUNT)
    saved = {profile.external_profile_id for profile in ledger.items(OutcomeStatus.DONE)}
    assert saved <= sandbox.mail_profile_ids()
    assert report.done > COUNT / 2
    assert report.requests >= len(sandbox.arrivals())


IDENTIFIERS: dict[By, Callable[[MailProfile], Any]] = {
    "external_profile_id": lambda profile: profile.external_profile_id,
    "customer_user_id": lambda profile: profile.customer_user_id,
    "email": lambda profile: profile.email,
}


@pytest.mark.parametrize("by", IDENTIFIERS)
async def test_erasing_mail_profiles_reports_what_the_server_did(
    by: By, sandbox: Sandbox, mail: AdaptyMailClient
) -> None:
    """With each identifier, also with the e-mail address, whose retries always get a 404."""
    profiles = list(mail_profiles(400))
    await mail.profiles.bulk_save(profiles, concurrency=100)
    there = {
        IDENTIFIERS[by](profile)
        for profile in profiles
        if profile.external_profile_id in sandbox.mail_profile_ids()
    }
    sent = len(sandbox.arrivals())
    ledger = Ledger()
    report = await mail.profiles.bulk_delete(there, by=by, concurrency=100, on_outcome=ledger)

    ledger.assert_complete(report, len(there))
    left = {
        IDENTIFIERS[by](profile)
        for profile in profiles
        if profile.external_profile_id in sandbox.mail_profile_ids()
    }
    assert left <= ledger.items(OutcomeStatus.FAILED)
    assert report.absent == 0
    assert report.done > len(there) / 2
    assert report.requests >= len(sandbox.arrivals()) - sent


async def test_saving_events_reports_what_the_server_did(
    sandbox: Sandbox, mail: AdaptyMailClient
) -> None:
    """An event that was sent several times is recorded once."""
    events = [
        TransactionEvent(
            event_type="subscription_started",
            event_id=f"event-{number}",
            event_datetime="2026-01-01T00:00:00Z",
            external_profile_id="profile-1",
            store="app_store",
            store_product_id="premium",
            store_transaction_id=f"transaction-{number}",
            store_original_transaction_id="transaction-0",
            purchased_at="2026-01-01T00:00:00Z",
            originally_purchased_at="2026-01-01T00:00:00Z",
        )
        for number in range(400)
    ]
    ledger = Ledger()
    report = await mail.events.bulk_save(events, concurrency=100, on_outcome=ledger)

    ledger.assert_complete(report, 400)
    recorded = Counter(event["event_id"] for event in sandbox.mail_events())
    assert set(recorded.values()) == {1}
    assert {event.event_id for event in ledger.items(OutcomeStatus.DONE)} <= set(recorded)
    assert report.done > 200


async def test_a_rate_below_the_accounts_is_never_throttled() -> None:
    """A run with the account's rate is not throttled (429)."""
    async with (
        Sandbox(rate=500, burst=150) as strict,
        AdaptyClient(
            strict.api_key, base_url=strict.url, limits=Limits(rate=400.0, burst=20)
        ) as client,
    ):
        strict.seed_profiles(ids(300))
        report = await client.v1.profiles.bulk_delete(ids(300), by="customer_user_id")

    assert (report.done, report.throttled, report.requests) == (300, 0, 300)


async def test_a_throttled_run_ends_with_everything_done() -> None:
    """429 with Retry-After slows a run down and costs no item."""
    async with (
        Sandbox(rate=50, burst=20) as strict,
        AdaptyClient(strict.api_key, base_url=strict.url) as client,
    ):
        strict.seed_profiles(ids(60))
        report = await client.v1.profiles.bulk_delete(
            ids(60), by="customer_user_id", concurrency=40
        )

        assert report.requests == len(strict.arrivals())
        assert strict.customer_user_ids() == set()
    assert (report.done, report.ok) == (60, True)
    assert report.throttled > 0


async def test_a_wrong_key_leaves_everything_where_it_is() -> None:
    """The run stops, and the report has the items that were not sent."""
    async with (
        Sandbox() as plain,
        AdaptyClient("secret_live_wrong", base_url=plain.url) as client,
    ):
        plain.seed_profiles(ids())
        report = await client.v1.profiles.bulk_delete(ids(), by="customer_user_id", concurrency=8)

        assert len(plain.customer_user_ids()) == COUNT
        assert len(plain.arrivals()) == report.failed < 20
    assert report.total == COUNT
    assert report.not_sent == COUNT - report.failed
