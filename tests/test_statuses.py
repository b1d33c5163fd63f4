"""The documentation's table of statuses by bulk method, compared with a sandbox."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    MailProfile,
    TransactionEvent,
    mail,
    v1,
    v2,
    web,
)
from adapty_async._api.call import Operation, RetrySafety
from adapty_async.bulk import BulkRun, OutcomeStatus
from adapty_async.config import RetryPolicy
from adapty_async.errors import ConnectionLostError, NotFoundError
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport
from tests.v2.samples import coins, one_time

_PAGE = Path(__file__).parent.parent / "docs" / "bulk.md"
_ROW = re.compile(
    r"^\| `(\w+\.[\w.]+\.bulk_\w+)\(\)` \| [^|]+ \| `(\w+)`[^|]* \| `(\w+)` \|$", re.MULTILINE
)
_TABLE = {name: rest for name, *rest in _ROW.findall(_PAGE.read_text(encoding="utf-8"))}
_BY: Any = {"by": "customer_user_id"}


class Clients(NamedTuple):
    """A client of each API."""

    adapty: AdaptyClient
    mail: AdaptyMailClient


def _saved(one: str) -> MailProfile:
    return MailProfile(
        external_profile_id=one, external_created_at="2026-01-01T00:00:00Z", email=f"{one}@x.com"
    )


def _event(one: str) -> TransactionEvent:
    return TransactionEvent(
        event_type="subscription_started",
        event_id=f"event of {one}",
        event_datetime="2026-01-01T00:00:00Z",
        external_profile_id=one,
        store="app_store",
        store_product_id="p",
        store_transaction_id="1",
        store_original_transaction_id="1",
        purchased_at="2026-01-01T00:00:00Z",
        originally_purchased_at="2026-01-01T00:00:00Z",
    )


_GRANT = v2.AccessGrant(access_level_id="premium")
_REVOCATION = v2.AccessRevocation(access_level_id="premium")
RUNS: dict[str, Callable[[Clients, str], BulkRun[Any, Any]]] = {
    # each bulk method, about one id
    "v1.profiles.bulk_delete": lambda to, one: to.adapty.v1.profiles.bulk_delete([one], **_BY),
    "v1.profiles.bulk_update": lambda to, one: to.adapty.v1.profiles.bulk_update(
        [(one, v1.ProfileAttributes(first_name="x"))], **_BY
    ),
    "v2.profiles.bulk_get": lambda to, one: to.adapty.v2.profiles.bulk_get([one], **_BY),
    "v2.profiles.bulk_delete": lambda to, one: to.adapty.v2.profiles.bulk_delete([one], **_BY),
    "v2.profiles.bulk_update": lambda to, one: to.adapty.v2.profiles.bulk_update(
        [(one, v2.ProfileAttributes(first_name="x"))], **_BY
    ),
    "v2.profiles.bulk_get_or_create": lambda to, one: to.adapty.v2.profiles.bulk_get_or_create(
        [(one, v2.ProfileAttributes(first_name="x"))]
    ),
    "v2.profiles.bulk_ensure": lambda to, one: to.adapty.v2.profiles.bulk_ensure(
        [(one, v2.ProfileAttributes(first_name="x"))]
    ),
    "v2.transactions.bulk_set": lambda to, one: to.adapty.v2.transactions.bulk_set(
        [(one, one_time())], **_BY
    ),
    "v2.access_levels.bulk_grant": lambda to, one: to.adapty.v2.access_levels.bulk_grant(
        [(one, _GRANT)], **_BY
    ),
    "v2.access_levels.bulk_revoke": lambda to, one: to.adapty.v2.access_levels.bulk_revoke(
        [(one, _REVOCATION)], **_BY
    ),
    "web.attribution.bulk_add": lambda to, one: to.adapty.web.attribution.bulk_add(
        [(one, web.Attribution(status="organic"))], **_BY
    ),
    "mail.profiles.bulk_save": lambda to, one: to.mail.profiles.bulk_save([_saved(one)]),
    "mail.profiles.bulk_delete": lambda to, one: to.mail.profiles.bulk_delete(
        [one], by="external_profile_id"
    ),
    "mail.events.bulk_save": lambda to, one: to.mail.events.bulk_save([_event(one)]),
}
EACH = pytest.mark.parametrize("method", RUNS)


def test_the_table_has_every_bulk_method() -> None:
    """The page, these runs and the resources name the same methods."""
    clients = Clients(AdaptyClient("key"), AdaptyMailClient("key"))
    resources: list[tuple[str, Iterable[tuple[str, object]]]] = [
        ("v1", vars(clients.adapty.v1).items()),
        ("v2", vars(clients.adapty.v2).items()),
        ("web", vars(clients.adapty.web).items()),
        ("mail", vars(clients.mail).items()),
    ]
    methods = {
        f"{api}.{resource}.{name}"
        for api, members in resources
        for resource, owner in members
        for name in dir(owner)
        if name.startswith("bulk_")
    }

    assert methods == RUNS.keys() == _TABLE.keys()


async def _outcome_of(run: BulkRun[Any, Any]) -> Any:
    async with run:
        [outcome] = [outcome async for outcome in run]
    assert run.report.counts[outcome.status] == 1
    return outcome


@EACH
async def test_a_profile_that_is_there_and_one_that_is_not(method: str) -> None:
    """Each bulk method reports a profile that exists as done, and a missing one as its row says."""
    missing = OutcomeStatus(_TABLE[method][0])
    async with (
        Sandbox() as sandbox,
        AdaptyClient(
            sandbox.api_key, public_key=sandbox.public_key, base_url=sandbox.url
        ) as adapty,
        AdaptyMailClient(sandbox.mail_api_key, base_url=sandbox.url) as mail_client,
    ):
        clients = Clients(adapty, mail_client)
        sandbox.seed_profiles(["here"])
        await mail_client.profiles.save(_saved("here"))
        await adapty.v2.access_levels.grant("premium", customer_user_id="here")

        found = await _outcome_of(RUNS[method](clients, "here"))
        outcome = await _outcome_of(RUNS[method](clients, "nobody"))

    assert (found.status, found.error) == (OutcomeStatus.DONE, None)
    assert isinstance(found.result, v2.Profile) == (
        method.startswith("v2.") and "del" not in method
    )
    assert outcome.status is missing
    assert outcome.ok == (missing is not OutcomeStatus.FAILED)
    assert isinstance(outcome.error, NotFoundError) == (missing is not OutcomeStatus.DONE)


@EACH
async def test_a_lost_response(method: str) -> None:
    """Each bulk method reports an item whose response is lost as its row says."""
    adapty = AdaptyClient("key", public_key="key", **_losing())
    clients = Clients(adapty, AdaptyMailClient("key", **_losing()))
    outcome = await _outcome_of(RUNS[method](clients, "u1"))

    assert outcome.status is OutcomeStatus(_TABLE[method][1])
    assert isinstance(outcome.error, ConnectionLostError)


def _losing() -> dict[str, Any]:
    """Return options for a client that loses every response."""
    transport = FakeTransport(itertools.repeat(ConnectionLostError("lost")))
    return {"transport": transport, "retry": RetryPolicy(attempts=2, wait_initial=1e-9)}


ABOUT: Any = {"customer_user_id": "u1"}
OTHERS: dict[str, Operation[Any]] = {
    # operations of client.bulk() without a bulk method
    "create_profile": v2.create_profile(**ABOUT),
    "validate_stripe_purchase": v2.validate_stripe_purchase(stripe_token="sub_1", **ABOUT),
    "validate_paddle_purchase": v2.validate_paddle_purchase(paddle_token="txn_1", **ABOUT),
    "record_paywall_view": web.record_paywall_view(
        "d76feea0-c0cf-4942-bef5-84ed701fc6db", store="stripe", **ABOUT
    ),
    "create_virtual_currency_transaction": v2.create_virtual_currency_transaction(
        [coins(1)], **ABOUT
    ),
}


@pytest.mark.parametrize("operation", OTHERS.values(), ids=OTHERS)
async def test_what_is_not_safe_to_send_again_is_unknown(operation: Operation[Any]) -> None:
    """The operations that the page names as unknown are unknown when their response is lost."""
    client = AdaptyClient("key", public_key="key", **_losing())
    outcome = await _outcome_of(client.bulk([operation]))

    assert outcome.status is OutcomeStatus.UNKNOWN


def test_the_page_names_all_that_is_not_safe_to_send_again() -> None:
    """No other endpoint of any API has an operation that may be unknown."""
    rows = {
        row.name
        for module in (v1, v2, web, mail)
        for name in module.__all__
        if (row := getattr(module, name)).__class__.__name__ == "Endpoint"
        and row.retry_safety is not RetrySafety.ALWAYS
    }
    page = _PAGE.read_text(encoding="utf-8")

    assert rows == {operation.endpoint.name for operation in OTHERS.values()} | {
        "v1.profiles.create"
    }
    assert all(f"`{name}()`" in page for name in OTHERS)
