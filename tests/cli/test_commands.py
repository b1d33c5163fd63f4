"""The commands, in this process, against a sandbox: what is sent, what is said, how it ends."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result

from adapty_async._bulk.settings import MOST_WORKERS
from adapty_async._flow.concurrency_limit import INITIAL_CONCURRENCY
from adapty_async.bulk import BulkOptions
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke, StartSandbox
from tests.cli.processes import run, started, wait_for_arrivals

Put = Callable[[str, str | bytes], Path]

PROFILES = """\
external_profile_id,external_created_at,email,custom_attributes.plan,device_info.platform
u1,2026-06-01T10:30:00Z,u1@example.com,annual,iOS
u2,2026-06-01T10:30:00Z,u2@example.com,,
u3,2026-06-01T10:30:00Z,u3@example.com,trial,Android
"""
BY = ("--by", "customer-user-id")
V1 = ("--api", "v1", *BY)


def ids(*numbers: int) -> str:
    """Write ids as lines."""
    return "".join(f"u{number}\n" for number in numbers)


def report_of(result: Result) -> Any:
    """Read the report that was asked for as JSON, which is all that is on standard output."""
    return msgspec.json.decode(result.stdout)


def test_delete_erases_exactly_the_listed(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """The listed users are gone, the others are there, and unknown ids count as done."""
    sandbox.seed_profiles(["u1", "u2", "u3"])
    result = invoke("delete", put("ids.txt", ids(1, 3, 9)), *V1, "--yes")
    assert result.exit_code == 0, result.output
    assert sandbox.customer_user_ids() == {"u2"}
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "done 2" in lines
    assert "absent 1 the server responded that they do not exist" in lines
    assert result.stderr == ""


def test_delete_by_the_apis_own_id(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Users of the server-side API can be named by their profile id."""
    sandbox.seed_profiles(["u1", "u2"])
    profile = sandbox.profile(customer_user_id="u1")
    assert profile is not None
    path = put("ids.csv", f"name,profile_id\nJane,{profile['profile_id']}\n")
    result = invoke("delete", path, "--api", "v1", "--by", "profile-id", "--yes", "--json")
    assert report_of(result)["done"] == 1
    assert sandbox.customer_user_ids() == {"u2"}


@pytest.mark.parametrize(
    ("by", "value"),
    [
        pytest.param("external-profile-id", "u1", id="external-profile-id"),
        pytest.param("customer-user-id", "c1", id="customer-user-id"),
        pytest.param("email", "u1@example.com", id="email"),
    ],
)
def test_delete_mail_profiles_by_any_id(
    sandbox: Sandbox, invoke: Invoke, put: Put, by: str, value: str
) -> None:
    """Mail profiles can be named by each of their three ids."""
    profile = {
        "external_profile_id": "u1",
        "external_created_at": "2026-06-01T10:30:00Z",
        "email": "u1@example.com",
        "customer_user_id": "c1",
    }
    invoke("save", put("one.ndjson", msgspec.json.encode(profile)))
    assert sandbox.mail_profile_ids() == {"u1"}
    result = invoke("delete", put("ids.txt", value), "--api", "mail", "--by", by, "--yes")
    assert result.exit_code == 0, result.output
    assert sandbox.mail_profile_ids() == set()


def test_save_sends_every_field(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Rows arrive as profiles, with their nested fields, and empty cells are left out."""
    result = invoke("save", put("people.csv", PROFILES), "--json")
    assert result.exit_code == 0, result.output
    assert report_of(result) == report_of(result) | {
        "total": 3,
        "done": 3,
        "requests": 3,
        "ok": True,
    }
    first, second = sandbox.mail_profile("u1"), sandbox.mail_profile("u2")
    assert first is not None
    assert second is not None
    assert first["custom_attributes"] == {"plan": "annual"}
    assert first["device_info"] == {"platform": "iOS"}
    assert not second.get("custom_attributes")


def test_save_needs_more_than_text(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A text file holds no profiles."""
    result = invoke("save", put("ids.txt", ids(1)))
    assert result.exit_code == 2
    assert result.stderr == (
        "adapty-async: INPUT: must be CSV, NDJSON or a table: a line of text is not a profile\n"
    )
    assert sandbox.arrivals() == []


def test_bad_rows_are_named_and_stop_nobody(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Each bad row is reported with its line and its reason, while all good ones are saved."""
    bad = "short,row\nu9,2026-06-01T10:30:00Z,u9@example.com,,\nu8,now,u8@example.com,,\n"
    result = invoke("save", put("people.csv", PROFILES + bad))
    assert result.exit_code == 1
    assert sandbox.mail_profile_ids() == {"u1", "u2", "u3", "u9"}
    assert "  line 5: row: has 2 cells for 5 columns\n" in result.stdout
    assert "  line 7: external_created_at: must be a datetime" in result.stdout


def test_failures_can_be_fed_back(
    start_sandbox: StartSandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """What fails in one run is the next run's input, until all is done; nothing is lost between."""
    failures, again = tmp_path / "f.ndjson", tmp_path / "f2.ndjson"
    with start_sandbox() as sandbox:
        sandbox.seed_profiles(f"u{number}" for number in range(20))
        sandbox.fail_next(*["400"] * 5)
        path = put("ids.csv", "customer_user_id;x\n" + "".join(f"u{n};é\n" for n in range(20)))
        first = invoke("delete", path, *V1, "--yes", "--failures", failures)
        assert first.exit_code == 1
        assert len(sandbox.customer_user_ids()) == 5
        assert "next input" in first.stdout
        second = invoke("delete", failures, *V1, "--yes", "--failures", again)
        assert second.exit_code == 0, second.output
        assert sandbox.customer_user_ids() == set()
    assert again.read_bytes() == b""


def test_unread_lines_are_not_erased_when_fed_back(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """A line that could not be read is not taken for an id, which nobody has, and thus for done."""
    sandbox.seed_profiles(["u1"])
    failures, again = tmp_path / "f.ndjson", tmp_path / "f2.ndjson"
    path = put("ids.csv", "customer_user_id,name\nu1\n")
    assert invoke("delete", path, *V1, "--yes", "--failures", failures).exit_code == 1
    assert invoke("delete", failures, *V1, "--yes", "--failures", again).exit_code == 1
    assert sandbox.arrivals() == []
    assert msgspec.json.decode(again.read_bytes())["item"] == "u1"


def test_dry_run_sends_nothing(sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path) -> None:
    """A dry run checks all rows, at full speed and without asking, and no request arrives."""
    sandbox.seed_profiles(["u1"])
    path, failures = put("ids.txt", ids(*range(2000)) + "é\n"), tmp_path / "f"
    arguments = ("--dry-run", "--rate", "0.1", "--failures", failures)
    result = invoke("delete", path, *V1, *arguments)
    assert result.exit_code == 1
    assert "2,000 can be sent" in result.stdout
    assert "line 2001: customer_user_id: must be ASCII" in result.stdout
    assert f"Those that cannot be sent are in {failures}." in result.stdout
    assert sandbox.arrivals() == []
    assert sandbox.customer_user_ids() == {"u1"}


def test_dry_run_needs_no_key(invoke: Invoke, put: Put) -> None:
    """Input can be checked by someone who has no key."""
    assert invoke("save", put("people.csv", PROFILES), "--dry-run").exit_code == 0


@pytest.mark.parametrize("api", ["v1", "v2", "mail"])
def test_delete_without_a_terminal_needs_yes(
    sandbox: Sandbox, invoke: Invoke, put: Put, api: str
) -> None:
    """What cannot be asked is not done, and the message says what would be, and how."""
    result = invoke("delete", put("ids.txt", ids(1, 2)), "--api", api, *BY)
    assert result.exit_code == 2
    assert "Delete 2 users in" in result.stderr
    assert f"by customer-user-id, at {sandbox.url}?" in result.stderr
    assert "There is no terminal to ask on: add --yes" in result.stderr
    assert sandbox.arrivals() == []


def test_missing_key_is_an_error(invoke: Invoke, put: Put) -> None:
    """Without a key nothing is sent, and the message names the variable."""
    result = invoke("delete", put("ids.txt", ids(1)), *V1, "--yes")
    assert result.exit_code == 2
    assert "set ADAPTY_API_KEY" in result.stderr


@pytest.mark.parametrize("rows", [ids(1), ids(*range(500)), "\xa0x\n" + ids(1)])
def test_wrong_key_has_its_own_exit_code(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    """A rejected key is reported as such for any number of rows, and ends a long run early."""
    monkeypatch.setenv("ADAPTY_API_KEY", "secret_live_wrong.KEY")
    result = invoke("delete", put("ids.txt", rows), *V1, "--yes", "--concurrency", "32")
    assert result.exit_code == 3, result.output
    assert 1 <= len(sandbox.arrivals()) < 100
    assert "secret_live_wrong" not in result.output


def test_rejected_key_leaves_all_rows_in_the_file(
    sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When a run stops by itself, the rows whose turn did not come are written down too."""
    monkeypatch.setenv("ADAPTY_API_KEY", "secret_live_wrong.KEY")
    path, failures = put("ids.txt", ids(*range(500))), tmp_path / "f"
    result = invoke("delete", path, *V1, "--yes", "--failures", failures)
    assert "Stopped: the key was rejected." in result.stdout
    items = [msgspec.json.decode(line)["item"] for line in failures.read_bytes().splitlines()]
    assert sorted(items) == sorted(f"u{number}" for number in range(500))


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        pytest.param(
            ("delete", *V1, "--yes"),
            "id,…\nu1,x\n",
            'header: has no column "customer_user_id"; found: id, …',
            id="delete-column",
        ),
        pytest.param(
            ("delete", *V1, "--yes", "--column", "uid"),
            "id\nu1\n",
            'header: has no column "uid"; found: id; name it with --column',
            id="delete-given-column",
        ),
        pytest.param(
            ("save", *BY),
            "uid,first_name\nu1,Jo\n",
            'has no column "customer_user_id"; found: uid, first_name; name it with --map COLUMN=',
            id="save-without-ids",
        ),
        pytest.param(
            ("save",),
            PROFILES[9:],
            'header: unknown column "profile_id"; expected: ',
            id="save-unknown",
        ),
        pytest.param(
            ("save",), "email\nx@example.com\n", "external_profile_id: is a required", id="save-few"
        ),
        pytest.param(("save",), "", "must begin with a line of column names", id="empty"),
    ],
)
def test_wrong_columns_end_a_run_before_it_begins(
    sandbox: Sandbox,
    invoke: Invoke,
    put: Put,
    command: tuple[str, ...],
    content: str,
    message: str,
) -> None:
    """A file with the wrong columns is rejected as a whole: no request has arrived."""
    name, *options = command
    result = invoke(name, put("input.csv", content), *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert sandbox.arrivals() == []


def test_a_header_of_a_pipe_gets_the_same_hint(sandbox: Sandbox) -> None:
    """The header of a pipe is read during the run, and its error names the same option."""
    options = ("--format", "csv", "--column", "uid", "--yes")
    ended = run("delete", "-", *V1, *options, stdin=b"id\nu1\n")
    assert ended.returncode == 2
    assert 'header: has no column "uid"; found: id; name it with --column' in ended.stderr
    assert sandbox.arrivals() == []


def test_column_and_format_can_be_given(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Ids may stand in any column of a file of any name."""
    sandbox.seed_profiles(["u1", "u2"])
    path = put("export", '{"uid": "u1", "customer_user_id": "u2"}\n')
    options = ("--format", "ndjson", "--column", "uid", "--yes")
    assert invoke("delete", path, *V1, *options).exit_code == 0
    assert sandbox.customer_user_ids() == {"u2"}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("delete", *V1, "--yes"), id="delete"),
        pytest.param(("create",), id="create"),
        pytest.param(("revoke", *BY, "--access-level=x", "--yes"), id="revoke"),
        pytest.param(("import-transactions", *BY), id="import-transactions"),
        pytest.param(("job", "plan", *BY, "--name=x"), id="job"),
    ],
)
def test_an_empty_column_is_not_the_usual_one(
    sandbox: Sandbox, invoke: Invoke, put: Put, command: tuple[str, ...]
) -> None:
    """A variable that is not set in a script names no users."""
    path = put("users.csv", "customer_user_id,uid\nu1,u2\n")
    result = invoke(*command, path, "--column", "")
    assert result.exit_code == 2
    assert "Invalid value for '--column': must not be empty" in result.stderr
    assert sandbox.arrivals() == []


def test_id_encoding_lets_other_ids_through(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Ids that are not ASCII are rejected one by one, unless their encoding was chosen."""
    sandbox.seed_profiles(["Zoë", "u1"])
    path = put("ids.txt", "Zoë\nu1\n")
    assert invoke("delete", path, *V1, "--yes").exit_code == 1
    assert sandbox.customer_user_ids() == {"Zoë"}
    assert invoke("delete", path, *V1, "--yes", "--id-encoding", "utf-8").exit_code == 0
    assert sandbox.customer_user_ids() == set()


def test_rate_holds(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Requests arrive no faster than was asked for."""
    path, began = put("ids.txt", ids(*range(14))), time.time()
    assert invoke("delete", path, *V1, "--yes", "--rate", "10").exit_code == 0
    # 14 requests, 2 of them at once, 10 a second
    assert sandbox.arrivals()[-1].at - began >= 1.1


def test_concurrency_holds(start_sandbox: StartSandbox, invoke: Invoke, put: Put) -> None:
    """With one row at a time a request arrives after the response to the one before."""
    with start_sandbox(latency=0.02) as sandbox:
        path = put("ids.txt", ids(*range(5)))
        assert invoke("delete", path, *V1, "--yes", "--concurrency", "1").exit_code == 0
        times = [arrival.at for arrival in sandbox.arrivals()]
    assert all(later - earlier >= 0.02 for earlier, later in itertools.pairwise(times))


def test_concurrency_may_be_above_the_clients_own(start_sandbox: StartSandbox, put: Put) -> None:
    """As many rows are in flight as was asked for, also more than a client's usual connections."""
    with start_sandbox(faults="stall=100%") as sandbox:
        path = put("ids.txt", ids(*range(300)))
        with started("delete", path, *V1, "--yes", "--concurrency", "300", "--rate", "1000"):
            wait_for_arrivals(sandbox, 300)
        arrivals = sandbox.arrivals()
    assert len({arrival.identity for arrival in arrivals}) == 300
    # before the first one was given up after 30 s, which makes room for another
    assert arrivals[-1].at - arrivals[0].at < 30.0


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order-mark"])
def test_key_is_read_from_a_file(
    mark: str, sandbox: Sandbox, invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key in a file that its owner alone can read is used, its line end and mark left out."""
    monkeypatch.delenv("ADAPTY_API_KEY")
    sandbox.seed_profiles(["u1"])
    key = put("key", f"{mark}{sandbox.api_key}\n")
    key.chmod(0o600)
    options = ("--yes", "--api-key-file", key, "--base-url", sandbox.url)
    assert invoke("delete", put("ids.txt", ids(1)), *V1, *options).exit_code == 0
    assert sandbox.customer_user_ids() == set()


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        pytest.param(b"key", 0o640, "must be readable by its owner only: chmod 600", id="group"),
        pytest.param(b"key", 0o604, "must be readable by its owner only: chmod 600", id="others"),
        pytest.param(b"\xff\xfe", 0o600, "is not text", id="binary"),
        pytest.param(b" \n", 0o600, "is empty", id="empty"),
        pytest.param(b"a\nb", 0o600, "key must not contain blanks or line", id="two-lines"),
        pytest.param(b"'key'", 0o600, "key must not be in quotes", id="quotes"),
    ],
)
def test_key_file_that_cannot_be_used_is_rejected(
    sandbox: Sandbox, invoke: Invoke, put: Put, content: bytes, mode: int, message: str
) -> None:
    """A key that others could read, or that is none, is rejected with the reason."""
    key = put("key", content)
    key.chmod(mode)
    result = invoke("delete", put("ids.txt", ids(1)), *V1, "--yes", "--api-key-file", key)
    assert result.exit_code == 2
    assert message in result.stderr
    assert sandbox.arrivals() == []


@pytest.mark.parametrize("command", ["delete", "job plan"])
def test_key_of_the_environment_that_cannot_be_used_is_rejected(
    invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The message names the variable, which may be from a file with the line ends of Windows."""
    monkeypatch.setenv("ADAPTY_API_KEY", "key\r")
    name = ("--name", "x") if command == "job plan" else ()
    result = invoke(*command.split(), put("ids.txt", ids(1)), *V1, "--yes", *name)
    assert result.exit_code == 2
    assert result.stderr.startswith("adapty-async: ADAPTY_API_KEY must not contain blanks or line")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ("--api", "v1", "--by", "email"), "--by for --api v1 is one of", id="v1-email"
        ),
        pytest.param(("--api", "mail", "--by", "profile-id"), "--by for --api mail", id="mail-id"),
        pytest.param(("--api", "v1"), "Missing option '--by'", id="no-by"),
        pytest.param(("--by", "email"), "email needs --api mail", id="mail-only"),
        pytest.param((*V1, "--rate", "0"), "x>=0.001", id="rate-0"),
        pytest.param((*V1, "--dry-run", "--rate", "1e-320"), "x>=0.001", id="tiny-rate"),
        pytest.param((*V1, "--dry-run", "--rate", "inf"), "not a finite number", id="infinite"),
        pytest.param((*V1, "--dry-run", "--rate", "nan"), "not a finite number", id="nan"),
        pytest.param((*V1, "--concurrency", "0"), "1<=x<=10000", id="concurrency-0"),
        pytest.param((*V1, "--concurrency", "10001"), "1<=x<=10000", id="concurrency-10001"),
        pytest.param((*V1, "--failures", "."), "is a directory", id="failures-directory"),
        pytest.param((*V1, "--yes", "--failures", "no/f"), "--failures cannot be", id="no-folder"),
        pytest.param((*V1, "--base-url", "http://example.com"), "must be https", id="http"),
        pytest.param((*V1, "--base-url", "https://a.b/c"), "must be an origin", id="path"),
        pytest.param((*V1, "--api-key-file", "none"), "does not exist", id="no-key-file"),
        pytest.param((*V1, "--format", "xml"), "'xml' is not one of", id="format"),
    ],
)
def test_bad_usage_is_rejected(
    sandbox: Sandbox, invoke: Invoke, put: Put, arguments: tuple[str, ...], message: str
) -> None:
    """Every option that cannot be used is reported with what it could be, and nothing is sent."""
    result = invoke("delete", put("ids.txt", ids(1)), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert sandbox.arrivals() == []


def test_input_that_is_missing_is_rejected(sandbox: Sandbox, invoke: Invoke) -> None:
    """A file that is not there is reported before the question."""
    result = invoke("delete", "nowhere.txt", *V1)
    assert result.exit_code == 2
    assert result.stderr == (
        "adapty-async: nowhere.txt: cannot be read: No such file or directory\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
def test_full_disk_ends_a_run_with_its_report(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """When failures cannot be written down, what was done is reported, and the reason shown."""
    path = put("ids.txt", ids(1) + " x\n" + ids(*range(100, 200)))
    options = ("--yes", "--concurrency", "1", "--failures", "/dev/full")
    result = invoke("delete", path, *V1, *options)
    assert result.exit_code == 2
    assert result.stdout.startswith("2 rows in ")
    assert "Rows that were not read: 100, all after the first 2." in result.stdout
    assert "next input" not in result.stdout
    assert "--failures cannot be written: No space left on device" in result.stderr
    assert len(sandbox.arrivals()) == 1


def test_output_shows_neither_keys_nor_people(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """Whatever goes wrong, a person and the key are found in the failures file at most."""
    failures = tmp_path / "f"
    sandbox.fail_next("400", "422", "403-html")
    for name, content in (
        ("bad.csv", PROFILES.replace("@", "@ ").replace("u1,", "u1,Jane-CANARY,")),
        ("people.csv", PROFILES.replace("u1@", "CANARY@").replace("annual", "CANARY")),
        ("headless.csv", "CANARY7,canary@example.com\n"),
        ("keys.ndjson", '{"canary@example.com": "CANARY"}\n{"email": {"CANARY": 1}}\nCANARY\n'),
    ):
        result = invoke("save", put(name, content), "--failures", failures)
        assert result.exit_code in {1, 2}
        assert "canary" not in result.output.lower()
        assert sandbox.mail_api_key not in result.output + failures.read_text()


def test_json_is_alone_on_standard_output(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A program reads the report as it is, whatever the run was."""
    for options in (("--yes",), ("--dry-run",)):
        result = invoke("delete", put("ids.txt", ids(1) + " x\n"), *V1, "--json", *options)
        assert result.exit_code == 1
        assert report_of(result)["failed"] == 1


@pytest.fixture
def busy_port() -> Iterator[int]:
    """Return a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_sandbox_needs_a_free_port(invoke: Invoke, busy_port: int) -> None:
    """A port in use is reported by its option's name."""
    result = invoke("sandbox", "--port", busy_port)
    assert result.exit_code == 2
    assert "--port cannot be used: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--faults", "error=2"), "a share must be between 0 and 1", id="share"),
        pytest.param(("--faults", "fire=1%"), "the fault must be one of", id="fault"),
        pytest.param(("--rate", "0"), "x>=0.001", id="rate"),
        pytest.param(("--latency", "nan"), "not a finite number", id="latency-nan"),
        pytest.param(("--latency", "-1"), "-1.0 is not in the range x>=0", id="latency"),
        pytest.param(("--port", "70000"), "0<=x<=65535", id="port"),
        pytest.param(
            ("--webhook-url", "http://127.0.0.1:1", "--webhook-time-scale", "0"),
            "0.0 is not in the range x>0",
            id="time scale",
        ),
        pytest.param(
            ("--webhook-url", "http://127.0.0.1:1"),
            "ADAPTY_WEBHOOK_SECRET must not contain control characters",
            id="secret",
        ),
    ],
)
def test_sandbox_options_are_checked(
    invoke: Invoke, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that cannot be set up is rejected with the reason."""
    monkeypatch.setenv("ADAPTY_WEBHOOK_SECRET", "secret\r")
    result = invoke("sandbox", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_sandbox_database_is_checked(invoke: Invoke, tmp_path: Path, put: Put) -> None:
    """A path or file that cannot be a database is reported by the option's name."""
    for path in (tmp_path / "none" / "db", put("no-db", "not a database, but long enough" * 9)):
        result = invoke("sandbox", "--port", "0", "--db", path)
        assert result.exit_code == 2
        assert "--db cannot be used: " in result.stderr
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "no-db")) as database,
        pytest.raises(sqlite3.DatabaseError),
    ):
        database.execute("select 1 from sqlite_master")


def test_sandbox_database_is_no_journal(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A journal with the tables of a sandbox could not be read any more."""
    path = put("ids.txt", ids(1))
    journal = path.with_name("run.db")
    assert invoke("delete", path, *V1, "--yes", "--journal", journal).exit_code == 0
    before = journal.read_bytes()
    result = invoke("sandbox", "--port", "0", "--db", journal)

    assert result.exit_code == 2
    assert "--db cannot be used: it is a database of another program" in result.stderr
    assert journal.read_bytes() == before


def test_sandbox_seed_file_is_checked(invoke: Invoke, put: Put) -> None:
    """A wrong line of the seed file is named with its option, and the sandbox does not start."""
    path = put("seed.ndjson", '"u1"\n{}\n')
    result = invoke("sandbox", "--port", "0", "--seed-file", path)
    assert result.exit_code == 2
    assert f"--seed-file {path}, line 2: One of customer_user_id, " in result.stderr
    assert "Sandbox at" not in result.stdout


def test_every_text_has_the_same_default_concurrency(invoke: Invoke) -> None:
    """The help, the README and the documentation say what the code does."""
    help_text = " ".join(invoke("delete", "--help").stdout.split())
    told = f"{INITIAL_CONCURRENCY} at first, up to {MOST_WORKERS}"
    assert f"Requests in flight at most. By default {told}, as many as help." in help_text
    root = Path(__file__).parent.parent.parent
    for page in ("README.md", "docs/bulk.md", "docs/command-line.md", "docs/pace.md"):
        assert told in (root / page).read_text("utf-8"), page
    assert told in " ".join((BulkOptions.__doc__ or "").split())
    guarantees = (root / "docs" / "guarantees.md").read_text("utf-8")
    assert f"`concurrency` requests ({MOST_WORKERS} if" in guarantees


def test_a_dry_run_claims_no_success(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Its JSON has the rows that can be sent, and 0 requests."""
    result = invoke("delete", put("ids.txt", ids(1, 2, 2) + " x\n"), *V1, "--json", "--dry-run")
    report = report_of(result)
    assert result.exit_code == 1
    assert report == report | {
        "dry_run": True,
        "total": 4,
        "sendable": 2,
        "failed": 1,
        "skipped": 1,
        "done": 0,
        "requests": 0,
        "ok": False,
    }
    assert sandbox.arrivals() == []
