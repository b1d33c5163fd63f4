"""A canary through the command line: the person is in the failures file, and the key in no file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from adapty_async.sandbox import Sandbox
from tests._support import CANARY_EMAIL
from tests.cli.conftest import Invoke

Put: TypeAlias = Callable[[str, str | bytes], Path]

ROWS = "".join(f"{number}.{CANARY_EMAIL}\n" for number in range(12))
FAULTS = ["400", "403-html", "422", "502-html"]


def shows(path: Path, text: str) -> bool:
    """Say whether a file has the text in it."""
    return text.encode() in path.read_bytes()


@pytest.mark.parametrize("way", [["--json"], []], ids=["json", "text"])
def test_a_run_with_faults_shows_nobody(
    sandbox: Sandbox,
    invoke: Invoke,
    put: Put,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    way: list[str],
) -> None:
    """Output, logs and journal of a run with many failures name neither a person nor the key."""
    caplog.set_level(logging.DEBUG)
    sandbox.fail_next(*FAULTS)
    ids = put("ids.txt", ROWS + f'{CANARY_EMAIL}\x01\n"{CANARY_EMAIL}\n')
    command = ["delete", ids, "--api", "mail", "--by", "email", "--yes", "--concurrency", "1"]
    files = ["--journal", tmp_path / "journal", "--failures", tmp_path / "failures"]
    result = invoke(*command, *files, *way)
    status = invoke("status", tmp_path / "journal")

    assert result.exit_code == 1
    assert status.exit_code == 0
    for text in (result.output, result.stderr, status.output, caplog.text):
        assert CANARY_EMAIL not in text
        assert sandbox.mail_api_key not in text
    assert shows(tmp_path / "failures", CANARY_EMAIL)
    assert not shows(tmp_path / "journal", CANARY_EMAIL)
    for path in tmp_path.iterdir():
        assert not shows(path, sandbox.mail_api_key)


def test_a_key_that_is_rejected_is_not_shown(
    invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key with a blank in it is named by its place, in the environment or in a file."""
    monkeypatch.setenv("ADAPTY_MAIL_API_KEY", f"Bearer {CANARY_EMAIL}")
    key = put("key", f"Bearer {CANARY_EMAIL}")
    key.chmod(0o600)
    command = ["delete", put("ids.txt", "u1\n"), "--api", "mail", "--by", "email", "--yes"]
    for options, name in ([], "ADAPTY_MAIL_API_KEY"), (["--api-key-file", key], f"file {key}"):
        result = invoke(*command, *options)

        assert result.exit_code == 2
        assert f"{name} must not contain blanks" in result.stderr
        assert CANARY_EMAIL not in result.output
