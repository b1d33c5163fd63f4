"""
Redaction of keys and personal data in errors, logs, events and reports.

A canary key and a canary e-mail are passed in; all text forms of errors are searched for them, with
the locals of every frame of their tracebacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import pytest

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    ConfigError,
    InvalidInputError,
    JournalError,
    MailProfile,
    OutcomeStatus,
    RetryPolicy,
)
from adapty_async._api.call import Request, Response
from adapty_async.mail import TransactionEvent
from adapty_async.testing import FakeTransport
from adapty_async.v1 import ProfileAttributes, create_profile, get_profile
from tests._journals import GatedJournal
from tests._shown import shown_by
from tests._support import CANARY_EMAIL, CANARY_KEY
from tests.raw_server import RESET, STALL, RawServer, api_error

TWICE = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
BAD_KEYS = {
    "line break": f"{CANARY_KEY}\n",
    "blank": f"Api-Key {CANARY_KEY}",
    "letters": f"{CANARY_KEY}é",
    "bytes": CANARY_KEY.encode(),
}
BAD_SETTINGS: dict[str, dict[str, Any]] = {
    "base_url": {"base_url": "ftp://example.com"},
    "host": {"base_url": "https://a..b"},
    "id_encoding": {"id_encoding": "latin-1"},
    "timeout": {"timeout": 0},
    "transports": {"session": object(), "transport": FakeTransport()},
}


def shows_nothing(*texts: str) -> bool:
    """Return whether neither canary is in any of the texts."""
    return not any(canary in text for text in texts for canary in (CANARY_KEY, CANARY_EMAIL))


@pytest.mark.parametrize("kind", [AdaptyClient, AdaptyMailClient])
@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_that_is_rejected_is_not_shown(name: str, kind: Callable[..., object]) -> None:
    """A key with something wrong is still a secret."""
    with pytest.raises(ConfigError) as caught:
        kind(BAD_KEYS[name])

    assert shows_nothing(shown_by(caught.value))


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_key_is_not_shown_when_another_setting_is_rejected(name: str) -> None:
    """A valid key with an invalid setting is not in the error's frames."""
    with pytest.raises(ConfigError) as caught:
        AdaptyClient(CANARY_KEY, **BAD_SETTINGS[name])

    assert shows_nothing(shown_by(caught.value))


def test_headers_show_their_names_only() -> None:
    """Values of a client's headers, and of added ones, are not shown."""
    client = AdaptyClient(CANARY_KEY).with_options(headers={"X-Person": CANARY_EMAIL})
    headers = client._executor.options.defaults.headers

    assert repr(headers) == "Headers(Authorization, Content-Type, User-Agent, X-Person)"


BAD_EMAIL = f"{CANARY_EMAIL} "
EVENT = {"event_type": BAD_EMAIL, "event_id": CANARY_EMAIL, "event_datetime": BAD_EMAIL}
EVENT |= {"external_profile_id": CANARY_EMAIL, "store": CANARY_EMAIL}
EVENT |= {"store_product_id": CANARY_EMAIL, "store_transaction_id": CANARY_EMAIL}
EVENT |= {"store_original_transaction_id": CANARY_EMAIL, "purchased_at": CANARY_EMAIL}
EVENT |= {"originally_purchased_at": CANARY_EMAIL}
REFUSED: dict[str, Callable[[], object]] = {
    "text": lambda: ProfileAttributes(email=7, first_name=CANARY_EMAIL),  # type: ignore[arg-type]
    "surrogate": lambda: ProfileAttributes(email=f"{CANARY_EMAIL}\ud800"),
    "day": lambda: ProfileAttributes(birthday=CANARY_EMAIL),
    "attribute": lambda: ProfileAttributes(custom_attributes={"mail": f"{CANARY_EMAIL}{'x' * 30}"}),
    "key": lambda: ProfileAttributes(custom_attributes={CANARY_EMAIL: 1}),
    "number": lambda: ProfileAttributes(custom_attributes={CANARY_EMAIL[:6]: float("nan")}),
    "Mail": lambda: MailProfile(
        external_profile_id=CANARY_EMAIL, external_created_at=BAD_EMAIL, email=BAD_EMAIL
    ),
    "event": lambda: TransactionEvent(**EVENT),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_is_rejected_is_not_shown(name: str) -> None:
    """An invalid value is named by its field only, in the frames as well."""
    with pytest.raises(InvalidInputError) as caught:
        REFUSED[name]()

    assert shows_nothing(shown_by(caught.value))


@pytest.mark.parametrize("value", [BAD_EMAIL, f"{CANARY_EMAIL}\n", f"{CANARY_EMAIL}é"], ids=ascii)
async def test_an_id_that_is_rejected_is_not_shown(value: str) -> None:
    """An id that cannot be sent is in the frame of the method that was called, and nowhere else."""
    client = AdaptyClient(CANARY_KEY, transport=FakeTransport())
    errors = []
    for call in (client.v1.profiles.get, client.v1.profiles.delete):
        with pytest.raises(InvalidInputError) as caught:
            await call(customer_user_id=value)
        errors.append(caught.value)
    del value

    assert shows_nothing(*map(shown_by, errors))


@pytest.fixture
async def silent() -> AsyncIterator[AdaptyClient]:
    """Return a client of a server that never responds."""
    async with (
        RawServer(then=(STALL,)) as server,
        AdaptyClient(CANARY_KEY, base_url=server.url, retry=TWICE) as client,
    ):
        yield client


async def test_a_call_that_is_cancelled_shows_nothing(silent: AdaptyClient) -> None:
    """A caller's own timeout has no frames of aiohttp, which contain the headers."""
    operation = create_profile(ProfileAttributes(email=CANARY_EMAIL), profile_id=CANARY_EMAIL)
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.05):
            await silent.execute(operation)

    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert shows_nothing(shown_by(caught.value))


async def test_what_aiohttp_itself_cannot_do_shows_nothing() -> None:
    """An error other than a network error keeps its class, and loses aiohttp's frames."""

    class Broken(aiohttp.ClientRequest):
        async def send(self, conn: object) -> NoReturn:
            raise RuntimeError("no such thing") from ValueError(self.headers)

    async with (
        RawServer() as server,
        aiohttp.ClientSession(request_class=Broken) as session,
        AdaptyClient(CANARY_KEY, base_url=server.url, session=session) as client,
    ):
        with pytest.raises(RuntimeError, match="no such thing") as caught:
            await client.execute(get_profile(customer_user_id=CANARY_EMAIL))

    assert shows_nothing(shown_by(caught.value))


PEOPLE = (CANARY_EMAIL, BAD_EMAIL, f"{CANARY_EMAIL}\0")


async def test_outcomes_show_nothing() -> None:
    """Outcomes of failed items, sent or not, have no frames with items in them."""
    echo = (api_error(400, "value_error").replace(b"no", CANARY_EMAIL.encode()),)
    async with (
        RawServer((RESET,), (RESET,), then=echo) as server,
        AdaptyClient(CANARY_KEY, base_url=server.url, retry=TWICE) as client,
    ):
        report = await client.v1.profiles.bulk_delete(PEOPLE, by="customer_user_id")

    assert report.failed == 3
    assert shows_nothing(repr(report), repr(report.failures))
    assert shows_nothing(*(shown_by(outcome.error) for outcome in report.failures))


async def _complain(_request: Request) -> Response:
    raise LookupError("in the caller's transport")


async def test_a_run_that_ends_by_a_defect_shows_nothing() -> None:
    """A transport's defect is raised with its traceback, but without the current item."""
    client = AdaptyClient(CANARY_KEY, transport=_complain)
    run = client.v1.profiles.bulk_delete(PEOPLE[:1], by="customer_user_id")
    with pytest.raises(LookupError) as caught:
        await run

    assert "_complain" in {frame.name for frame in caught.traceback}
    assert shows_nothing(shown_by(caught.value))


async def test_a_run_that_ends_by_its_input_shows_nothing() -> None:
    """An error of ours that the input raises has no frame of the reader."""

    def read() -> Iterator[str]:
        for person in PEOPLE[:1]:
            yield "u1"
            raise InvalidInputError("line 2", f"is no id of {len(person)} letters")

    client = AdaptyClient(CANARY_KEY, transport=FakeTransport([(200, {}, b"")]))
    with pytest.raises(InvalidInputError, match="line 2") as caught:
        await client.v1.profiles.bulk_delete(read(), by="customer_user_id")

    assert shows_nothing(shown_by(caught.value))


async def test_a_run_that_ends_by_its_journal_shows_nothing(tmp_path: Path) -> None:
    """The error of a rejected journal shows neither the API key nor an item."""
    journal = tmp_path / "journal"
    client = AdaptyClient(CANARY_KEY, transport=FakeTransport([(200, {}, b"")]))
    await client.v1.profiles.bulk_delete(PEOPLE[:1], by="customer_user_id", journal=journal)
    run = client.v1.profiles.bulk_delete(PEOPLE[:1], by="profile_id", journal=journal)
    with pytest.raises(JournalError) as caught:
        await run

    assert shows_nothing(shown_by(caught.value), repr(vars(run)), journal.read_bytes().decode("l1"))


async def test_a_run_that_ends_by_its_disk_shows_nothing(tmp_path: Path) -> None:
    """An outcome that cannot be recorded ends the run, without showing the current item."""
    journal = GatedJournal(tmp_path / "journal")

    def fail(_event: object) -> None:
        journal.failure = JournalError("the journal cannot be written: no space left on the disk")

    client = AdaptyClient(CANARY_KEY, transport=FakeTransport([(200, {}, b"")]), hooks=(fail,))
    run = client.v1.profiles.bulk_delete(PEOPLE[:1], by="customer_user_id", journal=journal)
    with pytest.raises(JournalError, match="no space left") as caught:
        await run

    assert shows_nothing(shown_by(caught.value))


async def test_logs_show_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The complete log, including asyncio's messages on slow steps, has no personal data."""
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(enabled=True)
    loop.slow_callback_duration = 0.0
    try:
        async with (
            RawServer((RESET,), (api_error(400, "value_error"),)) as server,
            AdaptyClient(CANARY_KEY, base_url=server.url, retry=TWICE) as client,
        ):
            report = await client.v1.profiles.bulk_delete(PEOPLE, by="customer_user_id")
    finally:
        loop.set_debug(enabled=False)

    assert report.counts[OutcomeStatus.FAILED] == 3
    assert any(record.name == "adapty_async" for record in caplog.records)
    assert shows_nothing(caplog.text, *(repr(vars(record)) for record in caplog.records))


def test_the_logger_says_nothing_unasked() -> None:
    """The library's logger has a silent handler of its own, and leaves levels to others."""
    logger = logging.getLogger("adapty_async")

    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    assert logger.level == logging.NOTSET


async def test_a_result_that_cannot_be_read_shows_nothing() -> None:
    """The body of a response is in an error's field that is not printed, and in no frame."""
    body = f'{{"data":{{"profile_id":["{CANARY_EMAIL}"]}}}}'.encode()
    client = AdaptyClient(CANARY_KEY, transport=FakeTransport([(200, {}, body)]))
    with pytest.raises(Exception, match="unreadable response") as caught:
        await client.execute(get_profile(profile_id=CANARY_EMAIL))

    assert caught.value.body == body  # type: ignore[attr-defined]
    del body
    assert shows_nothing(shown_by(caught.value))
    assert repr(vars(caught.value)["body"]) == "<46 bytes>"
