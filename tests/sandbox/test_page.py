"""The page of the sandbox over HTTP: events, profiles, faults, and who may use them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

import msgspec
import pytest
from yarl import URL

from adapty_async.sandbox import Arrival, Faults, Sandbox
from adapty_async.sandbox._activity import SECONDS, Activity, EventStream
from adapty_async.sandbox._guard import objection
from adapty_async.sandbox._service import Call
from adapty_async.sandbox._store import Store

from .conftest import PROFILES, Api, CutError
from .reader import EVENTS, after, events, first
from .test_mail import PROFILE
from .test_pure import Clock
from .test_v2 import SET, SUBSCRIPTION

PAGE = "/_sandbox/page/"
FILES = ("page.css", "page.js", "icon.svg")
GRANT = "purchase/profile/grant/access-level/"
IMAGE = "<img src=x onerror=alert(1)>"


async def visit(api: Api, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Return the decoded response of one of the page's endpoints."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await api.send(method, f"/_sandbox/{path}", body, sent)).body


async def page_of(api_: Api, /, **query: str) -> Any:
    """Return a page of the list of profiles."""
    return await visit(api_, "GET", "page/profiles?" + "&".join(map("=".join, query.items())))


def decoded(event: bytes | None) -> Any:
    """Return the data of an event."""
    assert event is not None
    return msgspec.json.decode(event.partition(b"data: ")[2])


# The files


async def test_the_page_is_static(api: Api) -> None:
    """The page and its files hold nothing of the sandbox, and reading them is not logged."""
    empty = await api.send("GET", "/")
    api.sandbox.seed_profiles([IMAGE])
    await api.v1("GET")

    assert (await api.send("GET", "/")).body == empty.body
    for name in FILES:
        assert (await api.send("GET", PAGE + name)).status == 200
        assert PAGE + name in empty.body + (await api.send("GET", PAGE + "page.html")).body
    assert [arrival.path for arrival in api.sandbox.arrivals()] == [PROFILES]


async def test_the_page_needs_nothing_from_elsewhere(api: Api) -> None:
    """No file has a script or style inside, an event handler, or an address of another origin."""
    page = await api.send("GET", "/")
    policy = page.headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=)", page.body)
    for name in FILES:
        reply = await api.send("GET", PAGE + name)
        text = reply.body.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|@import|\beval\b", text)
        assert reply.headers["Content-Security-Policy"] == policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"


# Requests as they come


async def test_a_request_is_an_event(api: Api) -> None:
    """A reader gets a request with its parts, and then the next ones as they come."""
    async with events(api.sandbox) as stream:
        empty = await after(stream, "requests")
        await api.v2("PATCH", "profile/?a=%3C", {"email": IMAGE}, Idempotency_Key="k")
        event = await after(stream, "requests")
        await api.send("GET", f"/{IMAGE}".replace(" ", "%20"))
        unknown = await after(stream, "requests")

    (arrival, other) = api.sandbox.arrivals()
    (row,) = event.data["rows"]
    assert empty.data == {"reset": True, "skipped": 0, "rows": [], "settled": {}}
    assert row == {
        "number": 1,
        "at": arrival.at,
        "method": "PATCH",
        "path": "/api/v2/server-side-api/profile/",
        "api": "v2",
        "identity": "u1",
        "status": 404,
        "fault": None,
        "applied": False,
        "sent": {
            "target": "/api/v2/server-side-api/profile/?a=%3C",
            "headers": {
                "adapty-customer-user-id": "u1",
                "Idempotency-Key": "k",
                "Content-Type": "application/json",
            },
            "body": f'{{"email":"{IMAGE}"}}',
            "size": 40,
        },
    }
    assert event.data["reset"] is False
    (row,) = unknown.data["rows"]
    assert (row["path"], row["api"], row["status"]) == (other.path, "other", 404)
    assert other.path == f"/{IMAGE}"


@pytest.mark.parametrize(
    "body",
    [pytest.param(b"\xff" * 10, id="binary"), pytest.param(b"x" * 5000, id="large")],
)
async def test_a_body_that_is_no_short_text_is_left_out(api: Api, body: bytes) -> None:
    """Its size is shown."""
    await api.v2("PATCH", "profile/", body)
    (row,) = (await first(api.sandbox, "requests")).data["rows"]

    assert (row["sent"]["body"], row["sent"]["size"]) == (None, len(body))


async def test_no_key_reaches_the_page(api: Api) -> None:
    """Events have no key, neither the sandbox's nor a wrong one that a client sent."""
    await api.v2("GET", "profile/")
    await api.v2("GET", "profile/", Authorization="Api-Key secret_live_WRONG")
    data = str(await first(api.sandbox, "requests")) + str(await first(api.sandbox, "overview"))

    assert "Api-Key" not in data
    assert "secret_live" not in data


async def test_a_reader_resumes_after_the_last_event(api: Api) -> None:
    """Neither a request in the gap is lost, nor one from before it sent again."""
    await api.v1("GET")
    before = await first(api.sandbox, "requests")
    await api.v1("DELETE")
    await api.v1("PATCH", {})
    assert before.id is not None
    by_header = await first(api.sandbox, "requests", Last_Event_ID=before.id)
    by_query = await first(api.sandbox, "requests", f"{EVENTS}?after={before.id}")

    assert [row["method"] for row in by_header.data["rows"]] == ["DELETE", "PATCH"]
    assert by_header == by_query
    assert (by_header.data["reset"], by_header.data["skipped"]) == (False, 0)
    assert (await first(api.sandbox, "requests", Last_Event_ID=by_header.id or "")).data == {
        "reset": False,
        "skipped": 0,
        "rows": [],
        "settled": {},
    }


@pytest.mark.parametrize("last", ["other.1", "1", "", "x.", "x.-1", "x.٣", "x." + "9" * 30])
def test_an_id_of_another_run_starts_afresh(last: str) -> None:
    """A sandbox that was started again, or never sent such an id, sends its newest requests."""
    with contextlib.closing(Store(":memory:", 10)) as store:
        stream = EventStream(store, Activity(), "x", last)

        assert b'"reset":true' in (stream.requests() or b"")
        assert stream.requests() is None


async def test_a_run_has_ids_of_its_own() -> None:
    """After a restart a reader is asked to forget what it has."""
    sandbox = Sandbox()
    async with sandbox:
        await Api(sandbox).v1("GET")
        before = await first(sandbox, "requests")
    async with sandbox:
        again = await first(sandbox, "requests", Last_Event_ID=before.id or "")

    assert again.data["reset"] is True


def test_a_slow_reader_gets_the_newest_requests() -> None:
    """Between two events there is no queue: the rest of the requests is counted."""
    with contextlib.closing(Store(":memory:", 120)) as store:
        stream = EventStream(store, Activity(), "x", "x.0")
        stream.requests()
        for _ in range(350):  # of which the log has forgotten most
            store.log(Arrival(0, 1.0, "GET", "/", "v1", None, 200, None, applied=True))
        event = decoded(stream.requests())

    assert [row["number"] for row in event["rows"]] == list(range(251, 351))
    assert event["skipped"] == 250


def test_a_request_without_an_end_is_not_polled_for_ever() -> None:
    """The newest pending requests are settled; a client that has gone leaves older ones so."""
    with contextlib.closing(Store(":memory:", 1000)) as store:
        stream = EventStream(store, Activity(), "x", "x.0")
        pending = Arrival(0, 1.0, "GET", "/", "v1", None, 0, None, applied=True)
        first_one = store.log(pending)
        stream.requests()
        newest = [store.log(pending) for _ in range(100)][-1]
        stream.requests()
        store.update_status(first_one, 200)
        store.update_status(newest, 204)

        assert decoded(stream.requests())["settled"] == {str(newest): 204}
        assert stream.requests() is None


@pytest.mark.usefixtures("nothing_is_left")
async def test_a_reader_that_does_not_read_holds_nothing_up() -> None:
    """While a connection takes no more, the sandbox serves others, and stops at once."""
    async with Sandbox() as sandbox:
        host, port = sandbox.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        statuses = [(await Api(sandbox).v1("GET")).status for _ in range(20)]
    writer.close()
    await writer.wait_closed()

    assert statuses == [404] * 20


@pytest.mark.usefixtures("nothing_is_left")
async def test_a_reader_that_has_gone_leaves_nothing(api: Api) -> None:
    """Neither does one whose sandbox stops: its stream ends, and stopping does not wait."""
    for _ in range(3):
        await first(api.sandbox, "overview")
    async with Sandbox() as sandbox, events(sandbox) as stream:
        await after(stream, "overview")
        await sandbox.stop()
        with pytest.raises(AssertionError, match="the stream ended"):
            await after(stream, "nothing")


# Rates and faults


def test_rates_are_those_of_the_last_minute() -> None:
    """A second is complete when it has passed, and is forgotten after a minute."""
    clock = Clock()
    activity = Activity(clock)
    url, call = URL("/"), Call("GET", "/", {}, b"", {})

    def record(status: int) -> None:
        activity.record(1, "v2", call, url, status)

    record(200)
    assert activity.rates() == {}
    clock.now += 1.5
    record(429)
    record(0)
    clock.now += 1
    nothing = [[0, 0]] * (SECONDS - 2)

    assert activity.rates() == {"v2": [*nothing, [1, 0], [1, 1]]}
    assert activity.statuses == {200: 1, 429: 1, 0: 1}
    clock.now += SECONDS - 1
    assert activity.rates() == {"v2": [[1, 1], *nothing, [0, 0]]}
    clock.now += 1
    assert activity.rates() == {}


async def test_an_overview_has_counts_and_limits() -> None:
    """A new reader gets the state, the limits, and the faults with the latency."""
    async with Sandbox(rate=20, faults="stall=0.5%", latency=0.01) as sandbox:
        sandbox.seed_profiles(["u1", "u2"])
        sandbox.fail_next("503", "reset")
        api = Api(sandbox)
        assert (await api.v1("GET")).status == 503
        with contextlib.suppress(CutError):
            await api.v1("GET")
        data = (await first(sandbox, "overview")).data

    assert data.pop("rates").keys() <= {"v1"}
    assert data == {
        "profiles": 2,
        "mail_profiles": 0,
        "mail_events": 0,
        "statuses": {"503": 1, "0": 1},
        "limits": {"v1": 20, "v2": 20, "web": 20, "mail": 20, "export": 2},
        "faults": {
            "error": 0,
            "reset": 0,
            "reset_after": 0,
            "stall": 0.005,
            "throttled": 0,
        },
        "latency": 0.01,
        "next": [],
    }


async def test_faults_are_switched(api: Api) -> None:
    """New shares and latency apply to the next request, and scripted faults come before them."""
    shares = {"error": 0, "reset": 0, "reset_after": 0, "stall": 0, "throttled": 1}
    now = await visit(api, "PUT", "page/faults", {"faults": shares, "latency": 0.001})
    then = await visit(api, "POST", "page/fail-next", {"faults": ["502-html"]})
    statuses = [(await api.v1("GET")).status for _ in range(2)]
    await visit(api, "PUT", "page/faults", {"faults": {}, "latency": 0})

    assert now == {"faults": shares, "latency": 0.001, "next": []}
    assert then["next"] == ["502-html"]
    assert [*statuses, (await api.v1("GET")).status] == [502, 429, 404]


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("PUT", "page/faults", {"faults": {"error": 2}, "latency": 0}, "error=2.0: a share must"),
        ("PUT", "page/faults", {"faults": {"error": 0.6, "stall": 0.6}, "latency": 0}, "add up"),
        ("PUT", "page/faults", {"faults": {}, "latency": -1}, "latency=-1.0: must be 0 seconds"),
        ("PUT", "page/faults", {"faults": {}}, "missing required field `latency`"),
        ("PUT", "page/faults", b"{", "truncated"),
        ("POST", "page/fail-next", {"faults": ["200"]}, "a fault must be"),
        ("POST", "page/code", {"method": "GET"}, "missing required field `target`"),
        ("GET", "page/profiles?api=v2", None, "api must be v1 or mail"),
        ("GET", "page/profiles?before=x", None, "invalid literal"),
        ("GET", "page/profiles?before=-1", None, "before must be the number of a profile"),
    ],
)
async def test_what_the_page_cannot_have_sent_changes_nothing(
    api: Api, method: str, path: str, body: Any, message: str
) -> None:
    """A wrong value gets a 400 that says what is wrong."""
    reply = await api.send(method, f"/_sandbox/{path}", body)

    assert reply.status == 400
    assert message in reply.body
    assert (await first(api.sandbox, "overview")).data["faults"]["error"] == 0
    assert (await api.v1("GET")).status == 404


# Profiles


async def test_a_profile_has_its_access_levels_and_attributes(api: Api) -> None:
    """A level that has ended, or not begun, is not active."""
    [profile_id] = api.sandbox.seed_anonymous(1)
    api.sandbox.seed_profiles(["u1"])
    api.sandbox.add_access_levels("later", "earlier")
    await api.v2("PATCH", "profile/", {"first_name": IMAGE})
    for level, dates in (
        ("premium", {}),
        ("later", {"starts_at": "2999-01-01T00:00:00Z"}),
        ("earlier", {"expires_at": "2001-01-01T00:00:00+00:00"}),
    ):
        await api.v2("POST", GRANT, {"access_level_id": level, **dates})

    page = await page_of(api)
    user, anonymous = page["profiles"]
    assert (anonymous["id"], anonymous["other_id"]) == (None, profile_id)
    assert (user["id"], user["attributes"]) == ("u1", {"first_name": IMAGE})
    assert [(one["access_level_id"], one["is_active"]) for one in user["access_levels"]] == [
        ("premium", True),
        ("later", False),
        ("earlier", False),
    ]
    assert page["next"] is None


async def test_a_level_is_active_until_its_grace_period_ends(api: Api) -> None:
    """The end of a level is that of the grace period, not that of the paid time before it."""
    api.sandbox.seed_profiles(["u1"])
    ends = "2999-01-01T00:00:00Z"
    issue = {"billing_issue_detected_at": "2024-02-15T10:30:00Z", "grace_period_expires_at": ends}
    await api.v2("POST", SET, {**SUBSCRIPTION, **issue})

    [user] = (await page_of(api))["profiles"]
    [level] = user["access_levels"]
    assert (level["expires_at"][:10], level["is_active"]) == (ends[:10], True)


async def test_mail_profiles_are_listed(api: Api) -> None:
    """A profile of the Mail API has its fields, unless it was erased."""
    await api.mail("save", PROFILE)
    await api.mail("save", {**PROFILE, "external_profile_id": "gone"})
    await api.mail("delete", {"external_profile_id": "gone"})

    (profile,) = (await page_of(api, api="mail"))["profiles"]
    assert (profile["id"], profile["access_levels"]) == ("user_12345", [])
    assert profile["attributes"]["email"] == PROFILE["email"]
    assert (await page_of(api, api="mail", text="nobody"))["profiles"] == []


async def test_pages_of_many_profiles_are_complete(api: Api) -> None:
    """The pages of a search have every match once, newest first, also across slices."""
    api.sandbox.seed_profiles(f"user_{number:05}" for number in range(11_000))
    found: list[str] = []
    query: dict[str, str] = {"text": "R_%2000".replace("%20", "")}
    while True:
        page = await page_of(api, **query)
        assert len(page["profiles"]) <= 50
        found += [profile["id"] for profile in page["profiles"]]
        if page["next"] is None:
            break
        query["before"] = str(page["next"])

    expected = [f"user_{number:05}" for number in range(11_000) if f"{number:05}".startswith("00")]
    assert found == expected[::-1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("%25", ["100%"], id="percent"),
        pytest.param("!", ["a!b"], id="escape"),
        pytest.param("A_B", [], id="underscore"),
        pytest.param("A%21B", ["a!b"], id="case"),
        pytest.param("anna@", ["100%"], id="attribute"),
    ],
)
async def test_a_search_is_for_text(api: Api, text: str, found: list[str]) -> None:
    """Ids and attributes match a part of their text, without wildcards, in any case."""
    api.sandbox.seed_profiles(["a!b", "100%"])
    await api.v2("PATCH", "profile/", {"email": "anna@example.com"}, adapty_customer_user_id="100%")

    assert [one["id"] for one in (await page_of(api, text=text))["profiles"]] == found


# Who may use the page

SAME = {"Host": "127.0.0.1:8321", "Origin": "http://127.0.0.1:8321"}


@pytest.mark.parametrize(
    ("method", "headers", "listens_on"),
    [
        pytest.param("POST", {}, "127.0.0.1", id="program"),
        pytest.param("PUT", {**SAME, "Sec-Fetch-Site": "same-origin"}, "127.0.0.1", id="page"),
        pytest.param("GET", {**SAME, "Sec-Fetch-Site": "none"}, "127.0.0.1", id="typed"),
        pytest.param("GET", {"Host": "localhost"}, "127.0.0.1", id="localhost"),
        pytest.param("GET", {"Host": "app.localhost:1"}, "127.0.0.1", id="below-localhost"),
        pytest.param("GET", {"Host": "[::1]:8321"}, "::1", id="ipv6"),
        pytest.param("GET", {"Host": "127.0.0.1:8321"}, "localhost", id="address"),
        pytest.param("GET", {"Host": "sandbox.test"}, "0.0.0.0", id="network"),
        pytest.param("GET", {"Host": "sandbox.test"}, "sandbox.test", id="name"),
        pytest.param(
            "GET",
            {
                "Host": "localhost:8321",
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
            "localhost",
            id="link",
        ),
    ],
)
def test_who_may_use_the_page(method: str, headers: dict[str, str], listens_on: str) -> None:
    """Programs, the page itself, and links to it."""
    assert objection(method, headers, listens_on) is None


FOREIGN = [
    pytest.param({"Origin": "https://evil.example"}, "another site", id="origin"),
    pytest.param({"Origin": "null"}, "another site", id="opaque"),
    pytest.param({"Origin": "http://127.0.0.1:9999"}, "another site", id="port"),
    pytest.param({"Sec-Fetch-Site": "cross-site"}, "another site", id="site"),
    pytest.param({"Sec-Fetch-Site": "same-site"}, "another site", id="same-site"),
    pytest.param(
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "iframe",
        },
        "another site",
        id="frame",
    ),
    pytest.param(
        {"Host": "evil.example", "Origin": "http://evil.example"}, "listens on", id="rebinding"
    ),
    pytest.param({"Host": "localhost.evil.example"}, "listens on", id="suffix"),
    pytest.param({"Host": "[127.0.0.1"}, "listens on", id="no-host"),
]


PROTECTED: list[tuple[str, str, Any]] = [
    ("PUT", "page/faults", {"faults": {"error": 1}, "latency": 0}),
    ("POST", "page/fail-next", {"faults": ["500"]}),
    ("POST", "seed", ["u1"]),
    ("GET", "state", None),
    ("GET", "page/events", None),
]


@pytest.mark.parametrize("listens_on", ["localhost", "127.0.0.1", "::1"])
def test_another_host_leads_nowhere_on_this_machine(listens_on: str) -> None:
    """A sandbox that only this machine reaches serves no foreign name, whatever its own is."""
    reason = objection("GET", {"Host": "evil.example"}, listens_on)

    assert reason is not None
    assert "another name" in reason


@pytest.mark.parametrize(("headers", "message"), FOREIGN)
async def test_the_page_of_another_site_does_and_reads_nothing(
    api: Api, headers: dict[str, str], message: str
) -> None:
    """A request from a foreign page is rejected, also if its name was made to lead here."""
    for method, path, body in PROTECTED:
        reply = await api.send(method, f"/_sandbox/{path}", body, headers)
        assert reply.status == 403
        assert message in reply.body

    assert (await api.v1("GET")).status == 404
    assert api.sandbox.customer_user_ids() == set()


async def test_a_foreign_page_cannot_ask_whether_it_may(api: Api) -> None:
    """A preflight request gets no permission, so that a browser sends nothing else."""
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
    reply = await api.send("OPTIONS", "/_sandbox/page/faults", headers=asked)

    assert reply.status == 404
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]


def test_throttling_comes_last() -> None:
    """The choices of the other faults are the same as before there was such a share."""
    assert Faults.__struct_fields__[-1] == "throttled"
