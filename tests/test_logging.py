"""The library's log: what turns it on, which lines it has, and what is in none of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import structlog

from adapty_async import AdaptyClient, AdaptyError, RetryPolicy
from adapty_async._runtime import log
from adapty_async.files import InputFile
from adapty_async.hooks import CallEnded, Event, log_attempts
from adapty_async.testing import FakeTransport
from adapty_async.webhooks import WebhookReceiver
from tests._support import CANARY_EMAIL, CANARY_KEY
from tests.raw_server import RESET, RawServer, page, reply

TWICE = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
LOGGER = logging.getLogger("adapty_async")


@contextlib.contextmanager
def program(setting: str | None, *handlers: logging.Handler) -> Iterator[io.StringIO]:
    """Be a program with this setting and these handlers; return its standard error."""
    root, written = logging.getLogger(), io.StringIO()
    level = LOGGER.level
    with pytest.MonkeyPatch.context() as patch:  # in the test: pytest adds handlers of its own
        patch.setattr(sys, "stderr", written)
        patch.setattr(root, "handlers", list(handlers))
        patch.setattr(LOGGER, "handlers", [logging.NullHandler()])
        if setting is not None:
            patch.setenv("ADAPTY_ASYNC_LOG", setting)
        try:
            yield written
        finally:
            LOGGER.setLevel(level)


async def delete(*statuses: int) -> None:
    """Delete a profile with the responses of a script."""
    transport = FakeTransport([(status, {"X-Request-Id": "r1"}, b"") for status in statuses])
    async with AdaptyClient(CANARY_KEY, transport=transport, retry=TWICE) as client:
        await client.v2.profiles.delete(customer_user_id=CANARY_EMAIL)


async def test_the_variable_turns_the_log_on() -> None:
    """With ADAPTY_ASYNC_LOG=debug, each attempt and each retry is a line on standard error."""
    with program("debug") as written:
        await delete(503, 204)

    first, retry, second = written.getvalue().splitlines()
    prefix = " DEBUG adapty_async: "
    assert first.partition(prefix)[2].startswith(
        "v2.profiles.delete, call 1, attempt 1: ServerError (503) in 0."
    )
    assert retry.partition(prefix)[2].startswith("RetryScheduled(operation='v2.profiles.delete'")
    assert second.partition(prefix)[2].startswith("v2.profiles.delete, call 1, attempt 2: 204 in 0")
    assert second.endswith(" s, request id r1")


@pytest.mark.parametrize(
    ("value", "level"),
    [
        pytest.param(None, logging.NOTSET, id="unset"),
        pytest.param("", logging.NOTSET, id="empty"),
        pytest.param("INFO", logging.INFO, id="info"),
        pytest.param(" warning ", logging.WARNING, id="warning"),
        pytest.param("error", logging.ERROR, id="error"),
    ],
)
async def test_the_levels(value: str | None, level: int) -> None:
    """The value is the level of the library's logger, and above DEBUG an attempt has no line."""
    with program(value) as written:
        await delete(503, 204)
        assert (LOGGER.level, written.getvalue()) == (level, "")
        assert (log._handler in LOGGER.handlers) == bool(value)


async def test_a_value_that_is_no_level_is_reported() -> None:
    """A wrong value is one line that lists the levels, without the value, and stops nothing."""
    with program(CANARY_KEY) as written:
        await delete(204)
        assert LOGGER.level == logging.NOTSET

    [line] = written.getvalue().splitlines()
    assert line.endswith(
        " WARNING adapty_async: ADAPTY_ASYNC_LOG is ignored: it must be one of debug, info,"
        " warning, error"
    )


class Collector(logging.Handler):
    """A handler that keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


async def test_a_program_with_handlers_of_its_own_keeps_them() -> None:
    """If a program has configured its logging, the variable sets the level, and adds no handler."""
    own = Collector()
    with program("debug", own) as written:
        await delete(204)

    assert [record.levelname for record in own.records] == ["DEBUG"]
    assert written.getvalue() == ""


async def test_two_clients_log_each_attempt_once() -> None:
    """Neither a second client nor a hook that was passed doubles the lines."""
    with program("debug") as written:
        AdaptyClient(CANARY_KEY)
        client = AdaptyClient(
            CANARY_KEY, transport=FakeTransport([(204, {}, b"")]), hooks=(log_attempts,)
        )
        await client.v2.profiles.delete(customer_user_id="u1")

    assert len(written.getvalue().splitlines()) == 1


@pytest.mark.parametrize("is_there", [False, True], ids=["missing", "closed"])
async def test_standard_error_may_be_missing_or_broken(
    monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    """A program without standard error, or with one that fails, works as without a log."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    closed = io.StringIO()
    closed.close()
    with program("debug"):
        sys.stderr = closed if is_there else None
        await delete(204)


def test_a_webhook_receiver_reads_the_variable() -> None:
    """A program that only receives webhooks has the same variable."""

    async def handle(_: object) -> None: ...

    with program("info"):
        WebhookReceiver(handle, secret="secret")
        assert LOGGER.level == logging.INFO


class Complaint(Exception):  # noqa: N818  not an error of ours
    """An exception of a hook."""


def complain(event: Event) -> None:
    """Raise at the end of a call, while the call's own error is handled."""
    if isinstance(event, CallEnded):
        raise Complaint("the metrics backend is down")


async def test_no_line_shows_what_is_secret_or_personal(tmp_path: Path) -> None:
    """
    Failing, throttled and lost calls and bulk runs log no id, e-mail, key or body at any level.

    The lines are complete, with the tracebacks of exceptions.
    """
    echo = reply(400, f'{{"errors":[{{"errors":["{CANARY_EMAIL} {CANARY_KEY}"]}}]}}'.encode())
    people = [CANARY_EMAIL, f"{CANARY_EMAIL} ", f"x{CANARY_EMAIL}", f"y{CANARY_EMAIL}"]
    script = ((page(429),), (RESET,), (page(503),), (RESET,))
    own = Collector()
    with program("debug") as written:
        async with (
            RawServer(*script, then=(echo,)) as server,
            AdaptyClient(CANARY_KEY, base_url=server.url, retry=TWICE, hooks=(complain,)) as client,
        ):
            LOGGER.addHandler(own)
            for version in (client.v1, client.v2):
                with pytest.raises(AdaptyError):
                    await version.profiles.delete(customer_user_id=CANARY_EMAIL)
            report = await client.v2.profiles.bulk_delete(
                people,
                by="customer_user_id",
                journal=tmp_path / "run.db",
                outcomes=tmp_path / "run.ndjson",
            )

    assert report.failed == 4
    text = written.getvalue()
    for shown in ("RetryScheduled(", "attempt 1: RateLimitError (429)", "Complaint: the metrics"):
        assert shown in text
    text += "".join(repr(vars(record)) for record in own.records)
    assert CANARY_EMAIL not in text
    assert CANARY_KEY not in text


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "frame"])
async def test_a_warning_about_an_input_has_counts_and_lines_only(
    tmp_path: Path, *, is_file: bool
) -> None:
    """Ids that look damaged and columns that are left out are counted, and no id is shown."""
    path, damaged = tmp_path / "ids.csv", f"{CANARY_EMAIL}\u200b"
    rows = {
        "customer_user_id": ["user_1", damaged],
        "first_name": ["Zoë", "Al"],
        "plan": ["a", "b"],
    }
    frame = pl.DataFrame(rows)
    frame.write_csv(path)
    source = InputFile(path, ignore_unknown=True) if is_file else frame.drop("plan")
    transport = FakeTransport([(200, {}, b"{}")])  # the other row is rejected
    with program("warning") as written:
        async with AdaptyClient(CANARY_KEY, transport=transport) as client:
            await client.v2.profiles.bulk_update(source, by="customer_user_id")

    text = written.getvalue()
    assert " WARNING adapty_async: " in text
    assert (
        f"cannot be seen, such as a zero-width space: 1 ({'line 3' if is_file else 'row 2'})"
        in text
    )
    assert ("Columns left out: plan" in text) is is_file
    assert CANARY_EMAIL not in text
    assert CANARY_KEY not in text


def raise_at_the_end(event: Event) -> None:
    """Be a hook with a defect."""
    assert not isinstance(event, CallEnded)


def test_structlog_renders_the_lines() -> None:
    """With the formatter of the page, records are JSON, and an exception has its traceback."""
    page = Path(__file__).parents[1] / "docs" / "observability.md"
    code = re.search(r"^formatter = (.*?^\))", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert code
    handler = logging.StreamHandler(written := io.StringIO())
    handler.setFormatter(eval(code[1], {"structlog": structlog}))
    with program(None, handler):
        LOGGER.setLevel(logging.DEBUG)
        asyncio.run(make_a_call())

    attempt, failure = map(json.loads, written.getvalue().splitlines())
    assert (attempt["level"], attempt["logger"]) == ("debug", "adapty_async")
    assert attempt["event"].startswith("v2.profiles.delete, call 1, attempt 1: 204 in ")
    assert failure["level"] == "error"
    assert "in raise_at_the_end" in failure["exception"]


async def make_a_call() -> None:
    """Make a call with two hooks."""
    transport, hooks = FakeTransport([(204, {}, b"")]), (log_attempts, raise_at_the_end)
    client = AdaptyClient("key", transport=transport, hooks=hooks)
    await client.v2.profiles.delete(customer_user_id="u1")
