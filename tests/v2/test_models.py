"""The result structs of version 2: their fields and methods."""

from __future__ import annotations

import codecs
import copy
import datetime as dt
import pickle
import re
from typing import Any

import msgspec
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async import v2
from adapty_async.errors import DecodeError, InvalidInputError
from adapty_async.testing import FakeTransport, Reply
from tests.v2.samples import CALLS, IDS, LEAST, PAYWALL, client

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


async def profile_of(**data: Any) -> v2.Profile:
    """Return the profile of a response with those fields and an id."""
    reply: Reply = (200, {}, msgspec.json.encode({"data": {"profile_id": "p1", **data}}))
    return await client(FakeTransport([reply])).v2.profiles.get(customer_user_id="u1")


@pytest.mark.parametrize(
    ("level", "active"),
    [
        pytest.param({}, True, id="lifetime"),
        pytest.param({"starts_at": NOW}, True, id="starts now"),
        pytest.param({"starts_at": NOW + DAY}, False, id="starts later"),
        pytest.param({"starts_at": NOW - DAY, "expires_at": NOW + DAY}, True, id="within"),
        pytest.param({"expires_at": NOW}, False, id="expires now"),
        pytest.param({"expires_at": NOW - DAY}, False, id="expired"),
        pytest.param({"expires_at": NOW - DAY, "is_in_grace_period": True}, True, id="in grace"),
        pytest.param(
            {"starts_at": NOW + DAY, "expires_at": NOW - DAY, "is_in_grace_period": True},
            False,
            id="in grace before it starts",
        ),
        pytest.param({"renewal_cancelled_at": NOW - DAY}, True, id="cancelled, but paid for"),
    ],
)
def test_access_follows_from_start_expiry_and_grace(level: dict[str, Any], active: bool) -> None:  # noqa: FBT001
    """A level is open once it has started, until it expires, and through its grace period."""
    profile = v2.Profile(access_levels=(v2.AccessLevel(access_level_id="premium", **level),))

    assert profile.has_access("premium", at=NOW) is active
    assert profile.has_access("other", at=NOW) is False


def test_any_of_several_levels_of_one_name_opens() -> None:
    """A level that ended does not close another one of the same name."""
    ended = v2.AccessLevel(access_level_id="premium", expires_at=NOW - DAY)
    profile = v2.Profile(access_levels=(ended, v2.AccessLevel(access_level_id="premium")))

    assert profile.has_access("premium", at=NOW)


def test_without_a_moment_it_is_now() -> None:
    """The clock of this machine is asked when no moment is given."""
    now = dt.datetime.now(dt.UTC)
    level = v2.AccessLevel(access_level_id="a", starts_at=now - DAY, expires_at=now + DAY)

    assert level.is_active()
    assert v2.Profile(access_levels=(level,)).has_access("a")
    assert not level.is_active(at=now + 2 * DAY)


@pytest.mark.parametrize(
    "at", [NOW.replace(tzinfo=None), "2026-01-01T00:00:00Z", 0, pd.NaT], ids=repr
)
def test_a_moment_has_a_time_zone(at: Any) -> None:
    """A naive datetime is rejected, even if there is no access level."""
    with pytest.raises(InvalidInputError, match=r"^at: must be a datetime with a time zone$"):
        v2.Profile().has_access("premium", at=at)


@pytest.mark.parametrize(
    "written",
    [
        "2024-12-24T10:50:23+00:00",
        "2024-12-24T10:50:23.000000+00:00",
        "2024-12-24T10:50:23Z",
        "2024-12-24T10:50:23.000Z",
        "2024-12-24T12:50:23.000000+0200",
        "2024-12-24 10:50:23+00:00",
        "2024-12-24T10:50:23",
        "2024-12-24 10:50:23.000000",
    ],
)
async def test_a_time_has_its_zone_whatever_was_written(written: str) -> None:
    """All forms of Adapty's documentation are one date and time; without a zone it is UTC."""
    profile = await profile_of(
        access_levels=[{"expires_at": written, "starts_at": None}],
        subscriptions=[{"purchased_at": written}],
    )

    for read in (profile.access_levels[0].expires_at, profile.subscriptions[0].purchased_at):
        assert read == dt.datetime(2024, 12, 24, 10, 50, 23, tzinfo=dt.UTC)
        assert read is not None
        assert read.utcoffset() is not None
    assert profile.access_levels[0].starts_at is None


async def test_what_the_documents_do_not_know_is_no_trouble() -> None:
    """Unknown fields are left out, unknown words are kept as text."""
    profile = await profile_of(
        profile_id="p1",
        of_next_year={"deep": [1]},
        access_levels=[{"store": "moon_store", "offer": {"category": "retention", "x": 1}}],
        subscriptions=[{"cancellation_reason": "boredom", "environment": "Xcode"}],
    )

    assert profile.profile_id == "p1"
    [level], [subscription] = profile.access_levels, profile.subscriptions
    assert level.store == "moon_store"
    assert level.offer == v2.AppliedOffer(category="retention")
    assert subscription.cancellation_reason == "boredom"
    assert subscription.environment == "Xcode"


async def test_null_where_the_documents_have_none_is_nothing() -> None:
    """Collections and texts that are null are empty, as if they were left out."""
    names = v2.Profile.__struct_fields__
    profile = await profile_of(**dict.fromkeys(names) | {"profile_id": "p1"})

    assert profile == v2.Profile(profile_id="p1")
    assert profile.custom_attributes == {}


@pytest.mark.parametrize(
    ("custom", "read"),
    [
        ([{"key": "a", "value": 1.5}, {"key": "b", "value": "x"}], {"a": 1.5, "b": "x"}),
        ({"a": 1.5}, {"a": 1.5}),
        ([], {}),
    ],
    ids=["list", "dict", "empty"],
)
async def test_custom_attributes_are_a_dict(custom: Any, read: Any) -> None:
    """A list of keys and values, or a dictionary, is read as a dict."""
    strict = await profile_of(custom_attributes=custom)
    mended = await profile_of(custom_attributes=custom, access_levels=None)

    assert strict.custom_attributes == mended.custom_attributes == read
    assert isinstance(mended.custom_attributes, v2.CustomAttributes)


async def test_names_of_the_users_own_are_left_alone() -> None:
    """An attribute or a field of next year that ends like an date and time's is none."""
    custom = {"seen_at": "2024-01-01", "left_at": "never", "gone": None}
    profile = await profile_of(
        custom_attributes=custom, access_levels=None, blocked_at="never", banned_at=7
    )
    assert profile.custom_attributes == custom

    item = {"created_at": "2024-01-01T00:00:00", "metadata": {"due_at": "2024-01-01"}}
    body = {"data": [item], "pagination": {"next_cursor": None}}
    transport = FakeTransport([(200, {}, msgspec.json.encode(body))])
    [past] = await CALLS["virtual_currencies.list_transactions"](client(transport).v2)
    assert past.metadata == {"due_at": "2024-01-01"}
    assert past.created_at == dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"profile_id": 1}, "profile_id"),
        ({"customer_user_id": ["u1"]}, "customer_user_id"),
        ({"access_levels": "x", "profile_id": {}}, "profile_id"),
    ],
    ids=str,
)
async def test_a_profile_of_nobody_is_an_error(data: Any, path: str) -> None:
    """An id that is none makes the whole profile unreadable; the error names the field."""
    with pytest.raises(DecodeError, match=rf"^status 200, unreadable .* at `\$\.{path}`"):
        await profile_of(**data)


@pytest.mark.parametrize("body", [b"[]", b"7", b'"x"', b"{", b"\xff", b'{"data":[]}'])
@pytest.mark.parametrize(
    "call", ["profiles.get", "paywalls.list", "virtual_currencies.list_balances"]
)
async def test_a_response_that_is_no_object_is_an_error(call: str, body: bytes) -> None:
    """Whatever is no object of the API is a DecodeError, a list's page being one without items."""
    transport = FakeTransport([(200, {}, body)])
    if body == b'{"data":[]}' and call == "virtual_currencies.list_balances":
        assert await CALLS[call](client(transport).v2) is not None
        return
    with pytest.raises(DecodeError):
        await CALLS[call](client(transport).v2)


@pytest.mark.parametrize("reply", [(200, {}, b""), (204, {}, b""), (200, {}, b"{}")], ids=str)
@pytest.mark.parametrize("call", sorted(CALLS.keys() - LEAST.keys()))
async def test_an_empty_response_is_a_success(call: str, reply: Any) -> None:
    """A success without content is no failure of a write."""
    transport = FakeTransport([reply])
    await CALLS[call](client(transport).v2)

    assert len(transport.requests) == 1


EMPTY = [b"", b" \n", b"{}", b'{"data":null}', b'{"app_id":"a1"}', b'{"new":"\\ud800"}']


@pytest.mark.parametrize("body", EMPTY, ids=repr)
@pytest.mark.parametrize("call", sorted(LEAST.keys() - {"integrations.get"}))
async def test_an_empty_response_is_no_result(call: str, body: bytes) -> None:
    """A gateway's empty success is neither a user without access nor an empty list."""
    transport = FakeTransport([(200, {}, body)])

    with pytest.raises(DecodeError, match=r"missing - at `\$\.(profile_id|paywall_id|data)`"):
        await CALLS[call](client(transport).v2)
    assert len(transport.requests) == 1


@pytest.mark.parametrize("body", [b"", b" \n", codecs.BOM_UTF8], ids=repr)
async def test_no_response_at_all_is_no_profile_without_ids(body: bytes) -> None:
    """A read whose fields may all be missing needs a body nevertheless."""
    with pytest.raises(DecodeError, match=r"no JSON object - at `\$`"):
        await CALLS["integrations.get"](client(FakeTransport([(200, {}, body)])).v2)


@pytest.mark.parametrize("raw", [b'""', b"null"])
async def test_an_empty_id_is_no_result(raw: bytes) -> None:
    """An id that is there and empty identifies nobody."""
    transport = FakeTransport([(200, {}, b'{"data":{"profile_id":' + raw + b"}}")])

    with pytest.raises(DecodeError, match=r"missing - at `\$\.profile_id`"):
        await CALLS["profiles.get"](client(transport).v2)


@pytest.mark.parametrize("call", CALLS)
async def test_an_error_with_the_status_of_a_success_is_none(call: str) -> None:
    """A response with an error is never decoded as a result."""
    body = b'{"errors":["No"],"error_code":"feature_not_enabled","status_code":403}'

    with pytest.raises(DecodeError, match=r"^status 200, unreadable response"):
        await CALLS[call](client(FakeTransport([(200, {}, body)])).v2)


@pytest.mark.parametrize("body", [b"{}", b'{"data":null}', b""], ids=["object", "null", "nothing"])
@pytest.mark.parametrize("call", sorted(CALLS.keys() - LEAST.keys()))
async def test_a_byte_order_mark_and_blanks_say_nothing(call: str, body: bytes) -> None:
    """What proxies put around a body is no part of it, whether or not it has to be mended."""
    transport = FakeTransport([(200, {}, codecs.BOM_UTF8 + b" \r\n" + body + b"\n")])
    await CALLS[call](client(transport).v2)

    assert len(transport.requests) == 1


async def test_a_null_under_data_is_a_success() -> None:
    """Stripe's validation responds with null, and a profile that was written may come so, too."""
    transport = FakeTransport([(200, {}, b'{"data":null}')] * 2)
    api = client(transport).v2

    await api.purchases.validate_stripe(customer_user_id="u", stripe_token="t")
    assert await api.profiles.create(**IDS) == v2.Profile()


async def test_settings_identifiers_and_paywalls_stand_alone() -> None:
    """Responses without an envelope are read as well, and those with one."""
    for wrap in (lambda body: body, lambda body: {"data": body}):
        bodies = [
            {"profile_id": "p", "settings": {"consent": True, "custom_preference": "later"}},
            {"branch_id": "b", "appsflyer_id": None},
            {
                "paywall_id": PAYWALL,
                "created_at": "2025-07-30T11:13:58.798Z",
                "products": [{"offer": {"title": "x"}}, {"offer": None}],
                "remote_configs": [{"locale": "en", "data": '{"a": 1}'}],
                "main_screenshot": {"image_id": 5, "url": "https://example.com"},
            },
        ]
        transport = FakeTransport([(200, {}, msgspec.json.encode(wrap(one))) for one in bodies])
        api = client(transport).v2
        settings = await api.refund_saver.get(**IDS)
        identifiers = await api.integrations.get(**IDS)
        paywall = await api.paywalls.get(PAYWALL)

        assert settings.settings == v2.RefundSaverSettings(consent=True, custom_preference="later")
        assert identifiers == v2.IntegrationIdentifiersResponse(branch_id="b")
        assert [product.offer for product in paywall.products] == [
            v2.ProductOffer(title="x"),
            None,
        ]
        assert paywall.main_screenshot == v2.Screenshot(image_id=5, url="https://example.com")
        assert paywall.remote_configs[0].value == {"a": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_a_remote_config_gives_back_what_it_was_made_of(value: Any) -> None:
    """Any value of JSON goes into a remote config and comes out of it."""
    assert v2.RemoteConfig.of("en", value).value == value


FIELDS = ("app_id", "customer_user_id", "timestamp", "access_levels", "subscriptions")
UNKNOWN = r"^access levels are not as documented: see odd_fields$"
ODD_DATES = [{"expires_at": 1}, {"starts_at": "soon"}, {"is_in_grace_period": "no"}]


@pytest.mark.parametrize("odd", ODD_DATES, ids=str)
async def test_access_is_never_guessed_from_an_odd_date(odd: dict[str, Any]) -> None:
    """A level without a readable date is neither open nor closed, unless another one is open."""
    level = {"access_level_id": "premium", **odd}
    profile = await profile_of(access_levels=[level, {"access_level_id": "basic"}])

    for read in (profile, copy.copy(profile), pickle.loads(pickle.dumps(profile))):
        with pytest.raises(DecodeError, match=UNKNOWN):
            read.has_access("premium", at=NOW)
        with pytest.raises(DecodeError, match="the dates of an access level"):
            read.access_levels[0].is_active(at=NOW)
        assert read.has_access("basic", at=NOW)
        assert not read.has_access("other", at=NOW)

    profile = await profile_of(access_levels=[level, {"access_level_id": "premium"}])
    assert profile.has_access("premium", at=NOW)


@pytest.mark.parametrize(
    "levels", [{"premium": {}}, ["premium"], [{"access_level_id": 7}]], ids=["dict", "words", "id"]
)
async def test_access_is_not_known_where_levels_are_unreadable(levels: Any) -> None:
    """A level that cannot be read may be any."""
    profile = await profile_of(access_levels=levels, app_id="a1")

    assert profile.app_id == "a1"
    with pytest.raises(DecodeError, match=UNKNOWN):
        profile.has_access("premium")


async def test_null_among_levels_hides_none() -> None:
    """Null says nothing, and is no level."""
    profile = await profile_of(access_levels=[None, {"access_level_id": "premium"}])

    assert profile.odd_fields == {"access_levels[0]": None}
    assert len(profile.access_levels) == 1
    assert profile.has_access("premium")
    assert not profile.has_access("other")


async def test_a_config_that_is_not_read_is_not_lost_by_writing_the_others() -> None:
    """A paywall whose remote configs cannot all be read is unreadable: an update replaces all."""
    configs = [{"locale": "en", "data": "{}"}, {"locale": "fr", "data": {}}]
    body = msgspec.json.encode({"paywall_id": PAYWALL, "remote_configs": configs})
    api = client(FakeTransport([(200, {}, body)])).v2

    with pytest.raises(DecodeError, match=r"at `\$\.remote_configs`"):
        await api.paywalls.get(PAYWALL)


@pytest.mark.parametrize(
    ("call", "body", "path"),
    [
        pytest.param("paywalls.list", {"data": {}}, "data", id="paywalls"),
        pytest.param("paywalls.list", {"data": [{}], "meta": 1}, "meta", id="meta"),
        pytest.param(
            "paywalls.list",
            {"data": [{}], "meta": {"pagination": {"pages": "2"}}},
            "meta.pagination.pages",
            id="pages",
        ),
        pytest.param(
            "paywalls.list", {"data": [{"paywall_id": 1}]}, "data[0].paywall_id", id="paywall_id"
        ),
        pytest.param(
            "virtual_currencies.list_transactions",
            {"data": [{}], "pagination": {"next_cursor": 7}},
            "pagination.next_cursor",
            id="cursor",
        ),
    ],
)
async def test_a_list_does_not_end_early(call: str, body: Any, path: str) -> None:
    """A page that does not say what follows it is unreadable, not the last one."""
    transport = FakeTransport([(200, {}, msgspec.json.encode(body))])

    with pytest.raises(DecodeError, match=re.escape(f"at `$.{path}`")):
        await CALLS[call](client(transport).v2)


@given(st.dictionaries(st.sampled_from([*FIELDS, "expires_at", "data"]), JSON, max_size=4))
def test_reading_never_fails_in_an_unknown_way(data: dict[str, Any]) -> None:
    """Whatever fields hold, a profile is read or the response is said to be unreadable."""
    for body in (data, {"data": data}, {"access_levels": [data]}):
        try:
            profile = v2.GET_PROFILE.decode(msgspec.json.encode(body))
        except ValueError:  # what _codec.decode makes a DecodeError of
            continue
        assert isinstance(profile, v2.Profile)
