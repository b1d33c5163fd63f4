"""A sample of requests shows what would be sent, without a key, and sends nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async.sandbox import Sandbox
from tests._support import CANARY_KEY
from tests.cli.conftest import Invoke

Put = Callable[[str, str | bytes], Path]

BY = ("--by", "customer-user-id")
DELETE = ("delete", "--api", "v2", *BY)
HEAD = "The first"


def test_the_first_requests_are_shown_and_not_sent(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Method, URL and ids of the first rows are shown; nothing is asked, sent or recorded."""
    monkeypatch.setenv("ADAPTY_API_KEY", CANARY_KEY)
    sandbox.seed_profiles(["u1", "u2"])
    path = put("ids.csv", "customer_user_id\nu1\n\nu2\nu3\n")
    result = invoke(*DELETE, path, "--sample", 2)

    assert result.exit_code == 0
    url = f"{sandbox.url}/api/v2/server-side-api/profile/"
    assert result.stdout.splitlines() == [
        "The first 2 rows of the input; nothing was sent.",
        "",
        "line 2:",
        f"DELETE {url}",
        "adapty-customer-user-id: u1",
        "",
        "line 4:",
        f"DELETE {url}",
        "adapty-customer-user-id: u2",
    ]
    assert sandbox.customer_user_ids() == {"u1", "u2"}
    assert CANARY_KEY not in result.output


def test_a_creation_is_shown_as_well(invoke: Invoke, put: Put) -> None:
    """A row that may need two requests shows both; no key and no server are needed."""
    path = put("users.csv", "customer_user_id,first_name\nu1,Zoë\u009b\n")
    result = invoke("create", path, "--if-missing", "--sample", 5)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "The first row of the input; nothing was sent.",
        "",
        "line 2:",
        "GET https://api.adapty.io/api/v2/server-side-api/profile/",
        "adapty-customer-user-id: u1",
        "and if there is no such profile:",
        "POST https://api.adapty.io/api/v2/server-side-api/profile/",
        "adapty-customer-user-id: u1",
        '{"first_name":"Zoë\\u009b"}',
    ]


@pytest.mark.parametrize("option", [(), ("--json",)], ids=["text", "json"])
def test_no_character_reaches_the_terminal_that_it_would_act_on(
    invoke: Invoke, put: Put, option: tuple[str, ...]
) -> None:
    """Names with control characters and tags are escaped as JSON does it, in both forms."""
    path = put("users.csv", "customer_user_id,first_name\nu1,a\u009b\U000e0001b\n")
    result = invoke("create", path, "--sample", 1, *option)

    assert '"a\\u009b\\udb40\\udc01b"' in result.stdout
    assert result.stdout.replace("\n", "").isprintable()


def test_a_row_that_cannot_be_sent_has_its_reason(invoke: Invoke, put: Put) -> None:
    """A row that breaks a rule is shown with the rule, and is in the exit code."""
    path = put("ids.csv", "customer_user_id,x\nu1\n u2,\n")
    result = invoke(*DELETE, path, "--sample", 9)
    listed = json.loads(invoke(*DELETE, path, "--sample", 9, "--json").stdout)

    assert result.exit_code == 1
    assert "line 2:\ncannot be sent: row: has 1 cells for 2 columns" in result.stdout
    assert "line 3:\ncannot be sent: " in result.stdout
    assert (listed["sample"], listed["dry_run"]) == (True, True)
    assert listed["requests"][0] == {
        "line": 2,
        "method": None,
        "url": None,
        "headers": {},
        "body": None,
        "if_missing": None,
        "error": "row: has 1 cells for 2 columns",
    }


def test_json_has_bodies_as_they_are_sent(invoke: Invoke, put: Put) -> None:
    """The body is JSON inside the JSON, number by number, and the request of a creation too."""
    path = put(
        "history.ndjson",
        json.dumps(
            {
                "customer_user_id": "u1",
                "purchase_type": "one_time_purchase",
                "store": "app_store",
                "store_product_id": "coins",
                "store_transaction_id": "t1",
                "store_original_transaction_id": "t1",
                "purchased_at": "2026-01-01T00:00:00Z",
                "price": {"country": "US", "currency": "USD", "value": "9.990"},
            }
        ),
    )
    command = ("import-transactions", path, *BY, "--create-missing", "--sample", 1)
    text = invoke(*command, "--json").stdout
    (request,) = json.loads(text)["requests"]

    assert '"value":9.990' in text
    assert request["method"] == "POST"
    assert request["headers"] == {"adapty-customer-user-id": "u1"}
    assert request["if_missing"]["url"].endswith("/profile/")
    assert request["error"] is None
