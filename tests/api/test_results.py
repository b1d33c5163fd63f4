"""Results that are not as documented: one odd field, and everything else as it was."""

from __future__ import annotations

import copy
import datetime as dt
import functools
import json
import logging
import pickle
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapty_async import AdaptyClient, AdaptyExportClient, Limits, v1, v2
from adapty_async._api.call import Endpoint
from adapty_async._api.results import ResultStruct
from adapty_async.export import Filters
from adapty_async.testing import FakeTransport, Reply
from tests._support import CANARY_EMAIL

READ: dict[str, tuple[type[ResultStruct], Endpoint[Any]]] = {
    # every result that is decoded, and a call that has it
    "v1 profile": (v1.Profile, v1.GET_PROFILE),
    "profile": (v2.Profile, v2.GET_PROFILE),
    "settings": (v2.RefundSaverSettingsResponse, v2.GET_REFUND_SAVER_SETTINGS),
    "identifiers": (v2.IntegrationIdentifiersResponse, v2.GET_INTEGRATION_IDENTIFIERS),
    "paywall": (v2.Paywall, v2.GET_PAYWALL),
    "paywalls": (v2.PaywallList, v2.LIST_PAYWALLS),
    "transaction": (v2.VirtualCurrencyTransaction, v2.CREATE_VIRTUAL_CURRENCY_TRANSACTION),
    "history": (v2.VirtualCurrencyTransactionsHistory, v2.LIST_VIRTUAL_CURRENCY_TRANSACTIONS),
    "balances": (v2.VirtualCurrencyBalanceList, v2.LIST_VIRTUAL_CURRENCY_BALANCES),
}
PLAIN: dict[Any, Any] = {
    str: "text",
    int: 7,
    float: 1.5,
    bool: True,
    v2.CustomAttributes: [{"key": "plan", "value": "annual"}],
    v2.RemoteConfig: {"locale": "en", "data": "{}"},
    dict[str, str]: {"reason": "x"},
    dict[str, Any]: {"a": 1},
    list[Any]: ["a"],
}


def sample(kind: Any) -> Any:
    """Return what the server sends for a type when all is as documented."""
    if kind in PLAIN:
        return PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, ResultStruct):
        return {field.name: sample(field.type) for field in msgspec.structs.fields(kind)}
    if typing.get_origin(kind) is tuple:
        return [sample(typing.get_args(kind)[0])] * 2
    first = typing.get_args(kind)[0]
    return "2024-12-24T10:50:23+02:00" if first is dt.datetime else sample(first)


FieldPath = tuple[str | int, ...]


def optional_paths(kind: type[ResultStruct], inside: FieldPath = ()) -> Iterator[FieldPath]:
    """Yield the path of every field that is not essential, and of entries of lists."""
    for field in msgspec.structs.fields(kind):
        if field.name not in kind.essential:
            yield (*inside, field.name)
        for inner in (field.type, *typing.get_args(field.type)):
            if isinstance(inner, type) and issubclass(inner, ResultStruct):
                is_list = typing.get_origin(field.type) is tuple
                below: FieldPath = (*inside, field.name, 1) if is_list else (*inside, field.name)
                if is_list:
                    yield below
                yield from optional_paths(inner, below)


def flat(value: Any, inside: FieldPath = ()) -> dict[FieldPath, Any]:
    """Return the values of a result by their path."""
    if isinstance(value, ResultStruct):
        parts: Any = ((name, getattr(value, name)) for name in value.__struct_fields__)
    elif isinstance(value, tuple) and inside != ():
        parts = enumerate(value)
    else:
        return {inside: value}
    return {path: leaf for at, part in parts for path, leaf in flat(part, (*inside, at)).items()}


def name_of(path: FieldPath) -> str:
    """Write a path as `odd_fields` does."""
    written = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return written.removeprefix(".")


def put(content: Any, path: FieldPath, value: Any) -> Any:
    """Return JSON with another value at a path."""
    changed = json.loads(json.dumps(content))
    functools.reduce(lambda inner, at: inner[at], path[:-1], changed)[path[-1]] = value
    return changed


PATHS = [(name, path) for name, (kind, _) in READ.items() for path in optional_paths(kind)]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates, too
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT
    | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
LEVEL: FieldPath = ("access_levels", 1)


def test_every_documented_result_has_paths() -> None:
    """The paths that the next test chooses from are those of all results."""
    assert {name for name, _ in PATHS} == READ.keys()
    assert ("profile", (*LEVEL, "expires_at")) in PATHS
    assert ("paywalls", ("data", 1, "products", 1, "offer", "title")) in PATHS
    assert ("profile", ("profile_id",)) not in PATHS


@given(st.sampled_from(PATHS), ANY_JSON)
@example(("profile", (*LEVEL, "expires_at")), 1700000000)
@example(("profile", LEVEL), None)
@example(("profile", ("access_levels",)), {"premium": {}})
@example(("profile", (*LEVEL, "store")), 5)
@example(("profile", (*LEVEL, "store")), "\ud800")
@example(("profile", ("total_revenue_usd",)), 10**400)
@example(("profile", ("timestamp",)), 1736425645861.0)
@example(("history", ("data", 1, "metadata")), {"a": 1})
def test_any_json_in_an_optional_field_leaves_the_others_as_they_are(
    place: tuple[str, FieldPath], value: Any
) -> None:
    """Nothing is raised, and every other field is what it was."""
    name, path = place
    kind, endpoint = READ[name]
    content = sample(kind)
    before = flat(endpoint.decode(msgspec.json.encode(content)))
    try:
        result = endpoint.decode(json.dumps(put(content, path, value)).encode())
    except msgspec.ValidationError as error:  # an object without an essential field of its own
        assert isinstance(value, dict | list), value
        assert "not as documented - at `$." in str(error)  # noqa: PT017
        return

    after = flat(result)
    others = {at: leaf for at, leaf in before.items() if at[: len(path)] != path}
    if name_of(path) in result.odd_fields and isinstance(path[-1], int):
        others = {at: leaf for at, leaf in others.items() if at[: len(path) - 1] != path[:-1]}
    assert others.items() <= after.items()
    for odd, raw in result.odd_fields.items():
        assert odd.startswith(name_of(path))
        assert odd != name_of(path) or raw == value
    if name_of(path) in result.odd_fields and not isinstance(path[-1], int):
        assert after[path] is None


@pytest.mark.parametrize("name", READ)
def test_what_is_as_documented_has_no_odd_field(name: str) -> None:
    """The samples are read strictly, and reading them field by field gives the same."""
    kind, endpoint = READ[name]
    strict = endpoint.decode(msgspec.json.encode(sample(kind)))
    by_field = endpoint.decode(json.dumps(sample(kind) | {"new": "\ud800"}).encode())

    assert isinstance(strict, kind)
    assert strict == by_field
    assert strict.odd_fields == by_field.odd_fields == {}


def essential_of(kind: type[ResultStruct]) -> set[str]:
    """Return the names that a result and its parts cannot do without."""
    inner = {
        part
        for field in msgspec.structs.fields(kind)
        for part in (field.type, *typing.get_args(field.type))
        if isinstance(part, type) and issubclass(part, ResultStruct)
    }
    return set(kind.essential).union(*map(essential_of, inner))


def test_the_page_has_the_essential_fields() -> None:
    """The documentation names each field that makes a result unreadable, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "v2.md").read_text(encoding="utf-8")
    table = page.partition("| result | essential fields |")[2].partition("\n## ")[0]
    named = {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", table)}

    assert named == set().union(*(essential_of(kind) for kind, _ in READ.values()))


@pytest.mark.parametrize("odd", [b"", b',"timestamp":"x"'], ids=["strict", "by field"])
def test_of_two_fields_of_one_name_the_last_one_holds(odd: bytes) -> None:
    """A name that comes twice is read as parsers of JSON do."""
    profile = v2.GET_PROFILE.decode(b'{"profile_id":"p","app_id":"a","app_id":"b"' + odd + b"}")

    assert profile.app_id == "b"


def profile_with(**fields: Any) -> v2.Profile:
    """Return the profile that is decoded from those fields."""
    return v2.GET_PROFILE.decode(json.dumps({"data": {"profile_id": "p1", **fields}}).encode())


def test_the_raw_value_is_with_the_struct_and_with_what_holds_it() -> None:
    """A path begins where it is asked for."""
    profile = profile_with(app_id=5, subscriptions=[{}, {"offer": {"id": ["x"]}, "store": 1}])
    subscription = profile.subscriptions[1]

    assert flat(profile)["app_id",] is None
    assert profile.odd_fields == {
        "app_id": 5,
        "subscriptions[1].offer.id": ["x"],
        "subscriptions[1].store": 1,
    }
    assert subscription.odd_fields == {"offer.id": ["x"], "store": 1}
    assert subscription.offer is not None
    assert subscription.offer.odd_fields == {"id": ["x"]}
    assert profile.subscriptions[0].odd_fields == {}


@pytest.mark.parametrize(
    ("written", "kept"),
    [("1e999", "1e999"), ("9" * 5000, "9" * 5000), ('"\\ud800"', "\ud800")],
    ids=["float", "int", "surrogate"],
)
def test_what_python_cannot_hold_is_kept_as_it_was_written(written: str, kept: str) -> None:
    """A number beyond all bounds is the text of the JSON."""
    body = f'{{"data":{{"profile_id":"p","timestamp":{written},"app_id":"a"}}}}'.encode()
    profile = v2.GET_PROFILE.decode(body)

    assert profile.odd_fields == {"timestamp": kept}
    assert profile.app_id == "a"


@pytest.mark.parametrize("body", [b'{"app_id":NaN}', b'{"app_id":"\\ud800"', b'{"app_id":"\xff"}'])
def test_what_is_no_json_stays_unreadable(body: bytes) -> None:
    """Reading field by field begins with JSON."""
    with pytest.raises(ValueError, match=r"JSON|truncated|utf-8"):
        v2.GET_PROFILE.decode(body)


@pytest.mark.parametrize("body", [b'"\\ud800"', b'["\\ud800"]'])
def test_what_is_no_object_stays_unreadable(body: bytes) -> None:
    """Only objects have fields."""
    with pytest.raises(msgspec.ValidationError, match=r"at `\$`"):
        v2.GET_PROFILE.decode(body)


@pytest.mark.parametrize("unwrap", [v2.CREATE_PROFILE, v1.CREATE_PROFILE], ids=["v2", "v1"])
def test_a_surrogate_beside_the_content_changes_nothing(unwrap: Endpoint[Any]) -> None:
    """The envelope is taken off as it always is, and an error is still an error."""
    assert unwrap.decode(b'{"data":null,"new":"\\ud800"}') == unwrap.decode(b'{"data":null}')
    with pytest.raises(ValueError, match="an error, in spite of the status"):
        unwrap.decode(b'{"data":{},"errors":["\\ud800"]}')


def test_a_copy_keeps_what_was_odd() -> None:
    """Copies and pickles have the raw values, and stay equal."""
    profile = profile_with(timestamp="x", access_levels=[{"expires_at": 1}])
    for made in (copy.copy(profile), copy.deepcopy(profile), pickle.loads(pickle.dumps(profile))):
        assert made == profile
        assert made.odd_fields == profile.odd_fields
        assert made.access_levels[0].odd_fields == {"expires_at": 1}


async def test_an_odd_field_is_logged_once_and_without_its_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One record names operation and fields, however often they come; nothing shows a value."""
    data = {
        "profile_id": "p1",
        "app_id": [CANARY_EMAIL],
        "access_levels": [{"store": 1}, {"store": 2}, CANARY_EMAIL],
    }
    replies: list[Reply] = [(200, {}, msgspec.json.encode({"data": data}))] * 3
    more: Reply = (200, {}, msgspec.json.encode({"data": {**data, "timestamp": "x"}}))
    with caplog.at_level(logging.WARNING, "adapty_async"):
        client = AdaptyClient("key", transport=FakeTransport([*replies, more]))
        profile = await client.v2.profiles.get(customer_user_id="u1")
        await client.with_options(timeout=1.0).v2.profiles.get(customer_user_id="u1")
        await client.v2.profiles.bulk_get(["u2", "u3"], by="customer_user_id")

    assert [record.getMessage() for record in caplog.records] == [
        f"v2.profiles.get: not as documented, see odd_fields: {fields}"
        for fields in ("access_levels[], access_levels[].store, app_id", "timestamp")
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert CANARY_EMAIL not in caplog.text + repr(profile)


async def test_keys_of_the_server_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Metrics by name are one field of the log, whatever their names."""
    names = (CANARY_EMAIL, f"[0].{CANARY_EMAIL}", f"{CANARY_EMAIL}].x[\n")
    replies: list[Reply] = [
        (200, {}, msgspec.json.encode({"data": {name: 5, "mrr": {"data": {}, name: 1}}}))
        for name in names
    ]
    filters = Filters(date=("2024-01-01", "2024-01-31"))
    with caplog.at_level(logging.WARNING, "adapty_async"):
        limits = Limits(rate=10_000.0)
        client = AdaptyExportClient("key", transport=FakeTransport(replies), limits=limits)
        for _ in names:
            await client.analytics(chart_id="mrr", filters=filters)

    assert [record.getMessage() for record in caplog.records] == [
        "export.analytics: not as documented, see odd_fields: data[], data[].data"
    ]
