"""A dry run and a sample show what would be sent, and how long it takes; they send nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async._journal import Changes, JournalIdentity, SqliteJournal
from adapty_async.bulk import summarise
from adapty_async.cli._dry_run import DryJournal, estimate_of
from adapty_async.sandbox import Sandbox
from tests._support import CANARY_KEY
from tests.cli.conftest import HOSTILE, Invoke

Put = Callable[[str, str | bytes], Path]

BY = ("--by", "customer-user-id")
DELETE = ("delete", "--api", "v2", *BY)


def dry_run(invoke: Invoke, path: Path, *options: object) -> Any:
    """Return the report of a dry run."""
    result = invoke("delete", path, *BY, "--dry-run", "--json", *options)
    assert "\x1b" not in result.stdout
    assert "\x9b" not in result.stdout
    return json.loads(result.stdout)


def test_a_dry_run_has_the_first_and_the_last_id(invoke: Invoke, put: Put) -> None:
    """A program gets the ids as they are; null for those that are not known."""
    path = put("ids.ndjson", f"{json.dumps(HOSTILE)}\n7\n")
    report = dry_run(invoke, path)
    assert (report["first_id"], report["last_id"]) == (HOSTILE, None)

    text = invoke("delete", put("ids.txt", "u1\nu2\n"), *BY, "--dry-run").stdout
    assert 'The input: first id "u1", last id "u2".' in text
    empty = dry_run(invoke, put("empty.txt", "\n"))
    assert (empty["first_id"], empty["last_id"]) == (None, None)
    plain = invoke("delete", put("empty.txt", "\n"), *BY, "--dry-run").stdout
    assert plain.endswith("0 cannot\n")


@pytest.mark.parametrize(
    ("rate", "earlier", "expected"),
    [
        pytest.param(None, None, (None, None, "unknown"), id="unknown"),
        pytest.param(8.0, None, (13, 8.0, "rate"), id="rate"),
        pytest.param(None, 20.0, (5, 20.0, "journal"), id="journal"),
        pytest.param(8.0, 20.0, (13, 8.0, "rate"), id="lower-rate"),
        pytest.param(40.0, 20.0, (5, 20.0, "journal"), id="lower-measurement"),
    ],
)
def test_an_estimate_says_what_it_rests_on(
    rate: float | None, earlier: float | None, expected: tuple[int | None, float | None, str]
) -> None:
    """The rate is the option, or the lower one that an earlier run measured."""
    found = estimate_of(100, rate, earlier).as_json()

    assert found == dict(zip(("seconds", "rate", "basis"), expected, strict=True))


def test_a_dry_run_estimates_the_time(invoke: Invoke, put: Put) -> None:
    """It says how long the run takes at a rate that is given, and what is not known without one."""
    path = put("ids.txt", "".join(f"u{number}\n" for number in range(1000)))
    assert dry_run(invoke, path, "--rate", "8")["estimate"] == {
        "seconds": 125,
        "rate": 8.0,
        "basis": "rate",
    }
    text = invoke("delete", path, *BY, "--dry-run").stdout
    assert "which Adapty does not publish and no earlier run has reached" in text
    assert "at 100 requests/s, that takes 10 s or more" in text


async def add_run(path: Path, *, rate: float) -> None:
    """Add a run to a journal that measured a rate, and did nothing else."""
    journal = SqliteJournal(path, owed=1)
    identity = summarise(path).identity
    run = (await journal.open(identity, lambda _: None, lambda keys, spans: None)).run
    run.rate = rate
    await journal.commit(Changes(run=run), durable=False)
    await journal.close()


def test_an_estimate_uses_the_measurement_of_the_journal(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A rate that an earlier run with the journal measured is the basis of the estimate."""
    path = put("ids.txt", "u1\nu2\n")
    journal = path.with_name("run.db")
    invoke("delete", path, *BY, "--yes", "--journal", journal)
    asyncio.run(add_run(journal, rate=4.0))
    path.write_text("u1\nu2\n" + "".join(f"new{number}\n" for number in range(10)))

    assert dry_run(invoke, path, "--journal", journal)["estimate"] == {
        "seconds": 3,
        "rate": 4.0,
        "basis": "journal",
    }
    text = invoke("delete", path, *BY, "--dry-run", "--journal", journal).stdout
    assert "At 4 requests/s, as an earlier run with this journal measured, that takes 3 s" in text


async def test_a_dry_run_is_not_slowed_by_its_journal(tmp_path: Path) -> None:
    """The rate that an earlier run measured is that of requests, which a dry run does not send."""
    identity = JournalIdentity(
        operation="v2 delete", origin="http://x", account="a", keys="position", input={}
    )
    path = tmp_path / "run.db"
    journal = SqliteJournal(path, owed=1)
    await journal.open(identity, lambda _: None, lambda keys, spans: None)
    await journal.close()
    await add_run(path, rate=4.0)
    dry = DryJournal(path, owed=1)
    resumed = await dry.open(identity, lambda _: None, lambda keys, spans: None)
    await dry.commit(Changes(run=resumed.run), durable=True)
    await dry.close()

    assert (resumed.rate, resumed.run.number) == (None, 3)
    assert len(summarise(path).runs) == 3


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


def test_a_sample_has_the_encoding_of_the_ids(invoke: Invoke, put: Put) -> None:
    """The header of an id is the one that the run would send, or the rule that it breaks."""
    command = ("delete", put("ids.txt", "Zoë\n"), *BY, "--sample", 1)

    assert "cannot be sent: customer_user_id: must be ASCII" in invoke(*command).stdout
    assert "adapty-customer-user-id: Zo" in invoke(*command, "--id-encoding", "utf-8").stdout


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
    assert "line 2:\ncannot be sent: row: has 1 cell for 2 columns" in result.stdout
    assert "line 3:\ncannot be sent: " in result.stdout
    assert (listed["sample"], listed["dry_run"]) == (True, True)
    assert listed["requests"][0] == {
        "line": 2,
        "method": None,
        "url": None,
        "headers": {},
        "body": None,
        "if_missing": None,
        "error": "row: has 1 cell for 2 columns",
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


def test_a_dry_run_keeps_the_list_of_failures(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """The list of the run is not replaced by one of what was only checked."""
    path = put("ids.txt", "u1\n u2\n")
    listed = path.with_name("failures")
    command = ("delete", path, *BY, "--journal", path.with_name("run.db"), "--failures", listed)
    assert invoke(*command, "--yes").exit_code == 1
    before = listed.read_bytes()
    result = invoke(*command, "--dry-run")

    assert result.exit_code == 2
    assert "--failures must not be a file with something in it" in result.stderr
    assert listed.read_bytes() == before != b""


def test_a_dry_run_of_a_journal_needs_its_key(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal belongs to a key, so a missing one is not reported as another one."""
    path = put("ids.txt", "u1\n")
    command = ("delete", path, *BY, "--journal", path.with_name("run.db"))
    assert invoke(*command, "--yes").exit_code == 0
    monkeypatch.delenv("ADAPTY_API_KEY")
    result = invoke(*command, "--dry-run")

    assert result.exit_code == 2
    assert "set ADAPTY_API_KEY" in result.stderr
    assert len(sandbox.arrivals()) == 1
