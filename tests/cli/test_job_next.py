"""The next commands that the commands of ``job`` print: a shell runs them as they are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from adapty_async.cli._job_text import next_command
from adapty_async.cli._options import Connection
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke

Put = Callable[[str, str | bytes], Path]
_PLAN = ("--by", "customer-user-id", "--yes")
_COMMAND = re.compile(r"adapty-async (job .*)")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def follow(invoke: Invoke, text: str) -> Result:
    """Run the last command in a text as a shell would."""
    *_, command = _COMMAND.findall(text)
    return invoke(*shlex.split(command, comments=True))


def test_every_next_command_uses_the_store_of_the_last_one(
    invoke: Invoke, put: Put, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A job of the same name in the store of this folder is left alone."""
    sandbox.seed_profiles(["anna", "ben"])
    other = invoke("job", "plan", put("others.txt", "ben\n"), "--name", "j j", *_PLAN)
    assert other.exit_code == 0
    store = f"sqlite:///{tmp_path}/our%20jobs&more.db"
    planned = invoke(
        "job", "plan", put("ids.txt", "anna\n"), "--name", "j j", *_PLAN, "--store", store
    )

    resumed = follow(invoke, invoke("job", "cancel", "j j", "--store", store).stdout)
    assert resumed.stdout.startswith("1 part is open now; next: ")
    invoke("job", "cancel", "j j", "--store", store)
    assert follow(invoke, invoke("job", "status", "j j", "--store", store).stdout).exit_code == 0
    invoke("job", "cancel", "j j", "--store", store)
    stopped = invoke("job", "work", "j j", "--store", store)
    assert stopped.exit_code == 75
    worked = follow(invoke, follow(invoke, stopped.stderr).stdout)
    assert worked.exit_code == 0, worked.output
    assert follow(invoke, planned.stdout).exit_code == 0
    assert sandbox.customer_user_ids() == {"ben"}


def test_the_command_after_a_plan_connects_as_the_plan_does(
    invoke: Invoke, put: Put, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin belongs to the job, and the key and the proxy may be no settings of the shell."""
    key = put("the key", sandbox.api_key)
    key.chmod(0o600)
    for name in ("ADAPTY_API_KEY", "ADAPTY_BASE_URL"):
        monkeypatch.delenv(name)
    options = ("--api-key-file", key, "--base-url", sandbox.url, "--trust-env")
    path = put("ids.txt", "b\u00e9a\n")
    planned = invoke(
        "job", "plan", path, "--name", "-j", *_PLAN, *options, "--id-encoding", "utf-8"
    )

    worked = follow(invoke, planned.stdout)
    assert worked.exit_code == 0, worked.output
    assert "absent" in worked.stdout


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3cret@h,g:1/d", "postgresql://u@h,g:1/d"),
        (
            "postgresql://u@h/d?sslmode=require&password=s3cret",
            "postgresql://u@h/d?sslmode=require",
        ),
        ("postgresql:///d?password=s3cret", "postgresql:///d"),
        ("postgresql://:s3cret@/d?%70assword=s3cret&host=/x", "postgresql://@/d?host=/x"),
    ],
)
def test_a_command_has_no_password(url: str, shown: str) -> None:
    """It may end up in a log; without its password, it fails and does nothing."""
    line = next_command("work", "j", url)
    command, _, comment = line.partition("  # ")
    assert shlex.split(command) == ["adapty-async", "job", "work", "j", "--store", shown]
    assert comment == "with its password in PGPASSWORD"


def test_a_command_has_nothing_that_is_usual() -> None:
    """Options that a user did not pass are not in it."""
    usual = Connection(base_url=None, trust_env=False, api_key_file=None, id_encoding="ascii")
    assert next_command("work", "j", None, usual.options()) == "adapty-async job work j"
