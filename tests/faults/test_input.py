"""Odd and hostile input: rejected by its field's name before any request, or sent unchanged."""

from __future__ import annotations

import decimal
import gzip
import json
import math
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from adapty_async import AdaptyClient, AdaptyMailClient, InvalidInputError, MailProfile
from adapty_async.v1 import ProfileAttributes
from tests._support import CANARY_KEY
from tests.raw_server import RawServer, Received

TEXTS = {
    "plain": "u1",
    "empty": "",
    "blank": " ",
    "blank at the end": "u1 ",
    "blank inside": "u 1",
    "tab": "u\t1",
    "line feed": "u1\n",
    "another header": "u1\r\nX-Evil: 1",
    "another request": "u1\r\n\r\nDELETE / HTTP/1.1\r\n\r\n",
    "NUL": "u\x001",
    "DEL": "u\x7f1",
    "C1": "u\x9b1",
    "letter that is not ASCII": "ü1",
    "two code points for a letter": "u\u0308",
    "emoji": "👩‍👩‍👧",
    "right to left": "\u202eu1",
    "line separator": "u\u20281",
    "byte order mark": "\ufeffu1",
    "lone surrogate": "u\ud8001",
    "path": "../../admin",
    "encoded path": "%2e%2e%2f%00",
    "query": "u1?x=1#y&z",
    "quote": '"}],"x":"',
    "backslash": "u\\1\\u0000",
    "template": "${jndi:ldap://x} {{7*7}} %s %n",
    "spreadsheet": "=cmd|' /C calc'!A0",
    "list": "u1,u2;u3",
    "1 KiB": "u" * 1024,
    "1 KiB and 1": "u" * 1025,
    "1 MB": "u" * 1_000_000,
}
_NO_ID = {"empty", "blank", "blank at the end", "tab", "line feed", "another header"}
_NO_ID |= {"another request", "NUL", "DEL", "C1", "lone surrogate"}
_NOT_ASCII = {name for name, text in TEXTS.items() if not text.isascii()}
_TOO_LONG = {"1 KiB and 1", "1 MB"}


class Place(NamedTuple):
    """
    A parameter or field that takes a text.

    Attributes:
        field: its name in an error.
        call: makes a call with the text.
        found: extracts it from the request that arrived.
        rejected: the texts that must not be sent.
    """

    field: str
    call: Callable[[Any, Any], Awaitable[object]]
    found: Callable[[Received], str]
    refused: set[str]


def in_body(*path: str) -> Callable[[Received], Any]:
    """Return a function that reads a value of a JSON body with another JSON decoder."""

    def find(request: Received) -> Any:
        found = json.loads(request.body)
        for step in path:
            found = found[step]
        return found

    return find


def attribute_of(request: Received) -> Any:
    """Return the one custom attribute of the server-side API."""
    (attribute,) = json.loads(request.body)["custom_attributes"]
    return attribute["value"]


def attributes(**fields: Any) -> ProfileAttributes:
    """Return attributes with these fields."""
    return ProfileAttributes(**fields)


def saved(**fields: Any) -> MailProfile:
    """Return a Mail profile with these fields."""
    required = {"external_profile_id": "p1", "external_created_at": "2026-01-01T00:00:00Z"}
    return MailProfile(**{**required, "email": "jane@example.com", **fields})


SERVER_SIDE = {
    "id in a header": Place(
        "customer_user_id",
        lambda client, text: client.v1.profiles.delete(customer_user_id=text),
        lambda request: request.headers["adapty-customer-user-id"],
        _NO_ID | _NOT_ASCII | _TOO_LONG,
    ),
    "the API's own id in a header": Place(
        "profile_id",
        lambda client, text: client.v1.profiles.get(profile_id=text),
        lambda request: request.headers["adapty-profile-id"],
        _NO_ID | _NOT_ASCII | _TOO_LONG,
    ),
    "text": Place(
        "first_name",
        lambda client, text: client.v1.profiles.update(attributes(first_name=text), profile_id="1"),
        in_body("first_name"),
        {"lone surrogate"},
    ),
    "attribute": Place(
        "custom_attributes.key",
        lambda client, text: client.v1.profiles.update(
            attributes(custom_attributes={"key": text}), profile_id="1"
        ),
        attribute_of,
        {"lone surrogate", "1 KiB"} | _TOO_LONG,
    ),
    "key of an attribute": Place(
        "custom_attributes",
        lambda client, text: client.v1.profiles.update(
            attributes(custom_attributes={text: 1}), profile_id="1"
        ),
        lambda request: json.loads(request.body)["custom_attributes"][0]["key"],
        set(TEXTS) - {"plain"},
    ),
}
MAIL = {
    "id in a body": Place(
        "external_profile_id",
        lambda client, text: client.profiles.delete(external_profile_id=text),
        in_body("external_profile_id"),
        _NO_ID,
    ),
    "e-mail": Place(
        "email",
        lambda client, text: client.profiles.save(saved(email=text)),
        in_body("email"),
        set(TEXTS),
    ),
    "attribute": Place(
        "custom_attributes.key",
        lambda client, text: client.profiles.save(saved(custom_attributes={"key": text})),
        in_body("custom_attributes", "key"),
        {"lone surrogate"},
    ),
    "key of an attribute": Place(
        "custom_attributes key",
        lambda client, text: client.profiles.save(saved(custom_attributes={text: "x"})),
        lambda request: next(iter(json.loads(request.body)["custom_attributes"])),
        {"empty", "lone surrogate"},
    ),
}


async def put(kind: Callable[..., Any], place: Place, value: Any) -> Received | InvalidInputError:
    """Make the call; return the request that arrived, or the error if none did."""
    async with RawServer() as server, kind(CANARY_KEY, base_url=server.url) as client:
        try:
            await place.call(client, value)
        except InvalidInputError as error:
            assert server.connections == 0
            return error
        (request,) = server.requests
        return request


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        pytest.param(kind, place, id=f"{kind.__name__}: {name}")
        for kind, places in ((AdaptyClient, SERVER_SIDE), (AdaptyMailClient, MAIL))
        for name, place in places.items()
    ],
)
async def test_a_text_arrives_as_it_is_or_not_at_all(
    kind: Callable[..., Any], place: Place
) -> None:
    """A text that a field cannot take is rejected by field name; any other arrives unchanged."""
    refused = set()
    for name, text in TEXTS.items():
        ended = await put(kind, place, text)
        if isinstance(ended, InvalidInputError):
            refused.add(name)
            assert ended.field.startswith(place.field.partition(".")[0])
            assert not text.strip() or text not in str(ended) or name == "plain"
        else:
            assert place.found(ended) == text

    assert refused == place.refused


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


NUMBERS: dict[str, tuple[Any, bool]] = {
    "NaN": (math.nan, False),
    "infinity": (math.inf, False),
    "minus infinity": (-math.inf, False),
    "largest float": (sys.float_info.max, True),
    "smallest float": (5e-324, True),
    "minus zero": (-0.0, True),
    "64 bits": (2**63 - 1, True),
    "65 bits": (2**63, False),
    "below 64 bits": (-(2**63) - 1, False),
    "5,000 digits": (10**4000, False),
    "decimal": (decimal.Decimal("1.5"), False),
    "complex": (1j, False),
    "bytes": (b"1", False),
    "list": ([1], False),
    "nested 100,000 deep": (nested(100_000), False),
    "dict": ({"a": 1}, False),
    "set": ({1}, False),
    "object": (object(), False),
}


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        pytest.param(AdaptyClient, SERVER_SIDE["attribute"], id="server-side"),
        pytest.param(AdaptyMailClient, MAIL["attribute"], id="Mail"),
    ],
)
@pytest.mark.parametrize("name", NUMBERS)
async def test_a_number_arrives_as_it_is_or_not_at_all(
    name: str, kind: Callable[..., Any], place: Place
) -> None:
    """A number without a JSON form is rejected; any other arrives as the same number."""
    value, goes = NUMBERS[name]
    ended = await put(kind, place, value)
    if goes:
        assert isinstance(ended, Received)
        assert repr(place.found(ended)) == repr(value)
    else:
        assert isinstance(ended, InvalidInputError)
        assert ended.field == "custom_attributes.key"


@pytest.mark.parametrize("value", [True, False])
async def test_a_boolean_arrives_as_a_number(*, value: bool) -> None:
    """If the API has only numbers, a boolean is sent as one."""
    for kind, place in (
        (AdaptyClient, SERVER_SIDE["attribute"]),
        (AdaptyMailClient, MAIL["attribute"]),
    ):
        ended = await put(kind, place, value)
        assert isinstance(ended, Received)
        assert repr(place.found(ended)) == repr(float(value))


@pytest.mark.parametrize("value", [True, 7, 1.5, math.nan, b"u1", ["u1"], {"u1": 1}], ids=repr)
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        pytest.param(kind, places[name], id=name)
        for kind, places, name in (
            (AdaptyClient, SERVER_SIDE, "id in a header"),
            (AdaptyClient, SERVER_SIDE, "text"),
            (AdaptyMailClient, MAIL, "id in a body"),
            (AdaptyMailClient, MAIL, "e-mail"),
        )
    ],
)
async def test_what_is_no_text_is_rejected(
    kind: Callable[..., Any], place: Place, value: Any
) -> None:
    """No value is converted to text: a number has more than one text form."""
    ended = await put(kind, place, value)

    assert isinstance(ended, InvalidInputError)
    assert (ended.field, ended.rule) == (
        place.field,
        f"must be text, not {type(value).__name__}",
    )


async def test_a_hostile_item_stops_no_other() -> None:
    """In a bulk run, an item that cannot be sent fails alone, and all others arrive."""
    async with (
        RawServer() as server,
        AdaptyClient(CANARY_KEY, base_url=server.url) as client,
    ):
        report = await client.v1.profiles.bulk_delete(TEXTS.values(), by="customer_user_id")

        sent = set(server.identities)
    good = {
        text for name, text in TEXTS.items() if name not in SERVER_SIDE["id in a header"].refused
    }
    assert sent == good
    assert (report.done, report.failed) == (len(good), len(TEXTS) - len(good))
    assert all(isinstance(outcome.error, InvalidInputError) for outcome in report.failures)


READ = """
import sys
from pathlib import Path
from adapty_async._input.rows import open_rows

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

before = peak()
for row in open_rows(sys.argv[1], sys.argv[2], lambda names: None):
    print((row.line, row.broken, len(row.value)), file=sys.stderr)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak of memory is available")
@pytest.mark.parametrize("form", ["csv", "ndjson", "text"])
def test_a_line_of_100_mb_costs_little(tmp_path: Path, form: str) -> None:
    """A line of any length is reported by its number, and skipped with little memory."""
    path = tmp_path / "input"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"id\n" if form == "csv" else b'"u1"\n')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'\n"u3"\n')
    command = [sys.executable, "-c", READ, str(path), form]
    done = subprocess.run(command, check=True, capture_output=True, text=True)

    assert "(2, 'is longer than 1048576 characters', 100)" in done.stderr
    assert int(done.stdout.split()[-1]) < 32 * 1024
