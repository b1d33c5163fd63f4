"""The sandbox as a server: faults, limits, the log, its own pages, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from adapty_async.sandbox import Arrival, Faults, Sandbox

from .conftest import PROFILES, Api, CutError
from .test_mail import PROFILE

if TYPE_CHECKING:
    from pathlib import Path


async def arrived(sandbox: Sandbox, count: int = 1) -> None:
    """Return when the sandbox has logged `count` requests."""
    while len(sandbox.arrivals()) < count:  # noqa: ASYNC110 - the sandbox has no event for it
        await asyncio.sleep(0.001)


# The log


async def test_arrivals_are_logged_in_order(api: Api) -> None:
    """Every request to an API is logged with what it was about and how it ended."""
    before = time.time()
    await api.v1("POST", {})
    await api.v1("DELETE", adapty_customer_user_id="nobody")
    await api.mail("save", PROFILE)

    first, second, third = api.sandbox.arrivals()
    assert before <= first.at <= third.at <= time.time()
    assert first == Arrival(1, first.at, "POST", PROFILES, "v1", "u1", 200, None, applied=True)
    assert second == Arrival(
        2, second.at, "DELETE", PROFILES, "v1", "nobody", 404, None, applied=False
    )
    path = "/api/v1/profile/save/"
    assert third == Arrival(
        3, third.at, "POST", path, "mail", "user_12345", 200, None, applied=True
    )
    assert api.sandbox.arrivals(identity="u1") == [first]
    assert api.sandbox.arrivals(path=path) == [third]
    assert api.sandbox.arrivals(identity="u1", path=path) == []
    assert api.sandbox.count() == {200: 2, 404: 1}


async def test_the_log_forgets_the_oldest() -> None:
    """No more than `log_size` arrivals are kept, and numbering continues."""
    async with Sandbox(log_size=3) as sandbox:
        for _ in range(5):
            await Api(sandbox).v1("GET")

        assert [arrival.number for arrival in sandbox.arrivals()] == [3, 4, 5]
        assert sandbox.count() == {404: 3}


async def test_an_unknown_path_is_no_response_of_the_api(api: Api) -> None:
    """A wrong address gets a page that isn't the API's error body, and is logged as neither API."""
    reply = await api.send("GET", "/api/v1/server-side-api/profiles")

    assert (reply.status, reply.headers["Content-Type"]) == (404, "text/html")
    assert [(a.api, a.status) for a in api.sandbox.arrivals()] == [("other", 404)]


# Faults


@pytest.mark.parametrize("fault", ["reset", "reset_after"])
async def test_a_reset_is_an_rst(api: Api, fault: str) -> None:
    """The connection is reset, not closed, and only `reset_after` has carried the operation out."""
    api.sandbox.seed_profiles(["u1"])
    api.sandbox.fail_next(fault)
    host, port = api.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"DELETE {PROFILES} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Api-Key {api.sandbox.api_key}\r\n"
        "adapty-customer-user-id: u1\r\n\r\n".encode()
    )
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()

    (arrival,) = api.sandbox.arrivals()
    carried_out = fault == "reset_after"
    assert (arrival.status, arrival.fault, arrival.applied) == (0, fault, carried_out)
    assert api.sandbox.customer_user_ids() == (set() if carried_out else {"u1"})


async def test_reset_after_a_refusal_applies_nothing(api: Api) -> None:
    """A request that would have returned 404 is reset and counts as not carried out."""
    api.sandbox.fail_next("reset_after")
    with pytest.raises(CutError):
        await api.v1("DELETE")

    assert [arrival.applied for arrival in api.sandbox.arrivals()] == [False]


async def test_an_error_changes_nothing(api: Api) -> None:
    """A scripted status comes in the error body of the requested API."""
    api.sandbox.seed_profiles(["u1"])
    api.sandbox.fail_next("503", "500")

    v1, mail = await api.v1("DELETE"), await api.mail("save", PROFILE)

    assert (v1.status, v1.body["error_code"]) == (503, "service_unavailable")
    assert (mail.status, mail.body["errors"][0]["error_code"]) == (500, "internal_server_error")
    assert api.sandbox.customer_user_ids() == {"u1"}
    assert api.sandbox.mail_profile_ids() == set()
    assert [arrival.fault for arrival in api.sandbox.arrivals()] == ["503", "500"]


async def test_a_gateway_responds_with_a_page(api: Api) -> None:
    """A status with `-html` has a body that is no JSON."""
    api.sandbox.fail_next("502-html")

    reply = await api.v1("GET")

    assert (reply.status, reply.headers["Content-Type"]) == (502, "text/html")
    assert "<h1>502 Bad Gateway</h1>" in reply.body


async def test_a_stall_ends_when_the_client_goes_away(api: Api) -> None:
    """A stalled request gets no response, and the sandbox serves the next one."""
    api.sandbox.fail_next("stall")
    stalled = asyncio.create_task(api.v1("DELETE"))
    await arrived(api.sandbox)
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled

    assert (await api.v1("GET")).status == 404
    assert [(a.status, a.fault) for a in api.sandbox.arrivals()] == [(0, "stall"), (404, None)]


async def test_stopping_cuts_off_what_is_in_flight() -> None:
    """Stalled and slow requests do not delay stopping."""
    async with Sandbox(latency=60) as sandbox:
        sandbox.fail_next("stall")
        tasks = [asyncio.create_task(Api(sandbox).v1("GET")) for _ in range(20)]
        await arrived(sandbox, 20)
        started = time.monotonic()
    assert time.monotonic() - started < 30  # half the latency

    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(reply, CutError) for reply in replies)


async def test_random_faults_are_the_same_for_a_seed() -> None:
    """The same requests in the same order fail alike."""

    async def faults(seed: int) -> list[str | None]:
        async with Sandbox(faults="error=30%,reset=10%,reset_after=10%", seed=seed) as sandbox:
            for _ in range(40):
                with contextlib.suppress(CutError):
                    await Api(sandbox).v1("GET")
            return [arrival.fault for arrival in sandbox.arrivals()]

    assert await faults(1) == await faults(1) != await faults(2)


async def test_faults_may_be_given_as_shares() -> None:
    """A `Faults` has the same effect as its text."""
    async with Sandbox(faults=Faults(error=1)) as sandbox:
        assert (await Api(sandbox).v1("GET")).status >= 500


async def test_latency_comes_after_the_operation() -> None:
    """While a response is delayed, its operation is carried out and its status is 0."""
    async with Sandbox(latency=0.03) as sandbox:
        sandbox.seed_profiles(["u1"])
        started = time.monotonic()
        request = asyncio.create_task(Api(sandbox).v1("DELETE"))
        await arrived(sandbox)
        assert [(a.status, a.applied) for a in sandbox.arrivals()] == [(0, True)]
        assert (await request).status == 204

        assert time.monotonic() - started >= 0.03
        assert sandbox.count() == {204: 1}


# Rate limit


async def test_above_the_rate_each_api_responds_with_429() -> None:
    """Each API has a bucket of its own, and throttles with its own error body."""
    async with Sandbox(rate=0.001, burst=2) as sandbox:
        api = Api(sandbox)
        sandbox.seed_profiles(["u1"])
        v1 = [await api.v1("GET"), await api.v1("GET"), await api.v1("DELETE")]
        mail = [await api.mail("save", PROFILE) for _ in range(3)]

        assert [reply.status for reply in v1 + mail] == [200, 200, 429, 200, 200, 429]
        assert v1[2].body["error_code"] == "rate_limited"
        assert mail[2].body["errors"][0]["error_code"] == "rate_limited"
        assert 900 < int(v1[2].headers["Retry-After"]) <= 1000
        assert sandbox.customer_user_ids() == {"u1"}


async def test_a_retry_after_is_never_too_early() -> None:
    """The seconds of a 429 are rounded up: a request after them is served."""
    async with Sandbox(rate=0.4, burst=1) as sandbox:
        begun = time.monotonic()
        assert (await Api(sandbox).v1("GET")).status == 404
        throttled = await Api(sandbox).v1("GET")

        assert throttled.status == 429
        assert int(throttled.headers["Retry-After"]) >= 2.5 - (time.monotonic() - begun)


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
async def test_retry_after_has_three_forms(form: Any) -> None:
    """A 429 states whole seconds, a date that is not in the past, or nothing."""
    before = time.time()
    async with Sandbox(retry_after=form) as sandbox:
        sandbox.fail_next("429")
        reply = await Api(sandbox).v1("GET")

    header = reply.headers.get("Retry-After", "")
    assert reply.status == 429
    if form == "date":
        assert before < parsedate_to_datetime(header).timestamp() <= time.time() + 2
    else:
        assert header == {"seconds": "1", "none": ""}[form]


async def test_faults_and_latency_change_while_it_runs(api: Api) -> None:
    """New shares apply to the next request, and a wrong value changes nothing."""
    api.sandbox.set_faults("throttled=1")
    throttled = await api.v1("GET")
    api.sandbox.set_faults(Faults())
    api.sandbox.set_latency(0.001)
    with pytest.raises(ValueError, match="error=2"):
        api.sandbox.set_faults("error=2")
    for latency in (-1, float("inf")):
        with pytest.raises(ValueError, match=f"latency={latency}"):
            api.sandbox.set_latency(latency)

    assert (throttled.status, throttled.headers["Retry-After"]) == (429, "1")
    assert (await api.v1("GET")).status == 404


# Endpoints for programs


async def test_another_process_can_read_the_state(api: Api) -> None:
    """Counts, ids and arrivals need no key, and reading them is not logged."""
    api.sandbox.seed_profiles(f"u{number:05}" for number in range(6_000))
    await api.mail("save", PROFILE)
    await api.v1("GET")

    state = await api.send("GET", "/_sandbox/state")
    customers = await api.send("GET", "/_sandbox/profiles")
    mail = await api.send("GET", "/_sandbox/profiles?api=mail")
    arrivals = await api.send("GET", "/_sandbox/arrivals")

    assert state.body == {
        "v1_profiles": 6_000,
        "mail_profiles": 1,
        "mail_events": 0,
        "arrivals": {"200": 1, "404": 1},
    }
    lines = customers.body.splitlines()
    assert (len(lines), lines[0], lines[-1]) == (6_000, '"u00000"', '"u05999"')
    assert mail.body == '"user_12345"\n'
    logged = msgspec.json.Decoder(Arrival).decode_lines(arrivals.body)
    assert logged == api.sandbox.arrivals()
    assert len(logged) == 2


async def test_the_pages_refuse_what_they_do_not_know(api: Api) -> None:
    """A wrong API name is 400, another page 404, and neither is logged."""
    assert (await api.send("GET", "/_sandbox/profiles?api=v2")).status == 400
    assert (await api.send("GET", "/_sandbox/secrets")).status == 404
    assert api.sandbox.arrivals() == []


@pytest.mark.parametrize("body", [b'["u1", "u2"]', b'"u1"\n"u2"\n'], ids=["list", "lines"])
async def test_another_process_can_seed(api: Api, body: bytes) -> None:
    """Customer user ids are accepted as a JSON list or a JSON string per line."""
    api.sandbox.seed_profiles(["u2"])

    assert (await api.send("POST", "/_sandbox/seed", body)).body == {"added": 1}
    assert api.sandbox.customer_user_ids() == {"u1", "u2"}


async def test_a_seed_may_be_large_but_must_be_json_strings(api: Api) -> None:
    """More than a mebibyte is accepted; anything but strings is rejected with nothing added."""
    large = [f"user-{number:020}" for number in range(50_000)]

    assert (await api.send("POST", "/_sandbox/seed", b'"u1"\n2\n')).status == 400
    assert api.sandbox.customer_user_ids() == set()
    assert (await api.send("POST", "/_sandbox/seed", large)).body == {"added": 50_000}


async def test_a_failing_source_of_ids_seeds_nothing(sandbox: Sandbox) -> None:
    """Profiles are added all together or not at all."""

    def broken() -> Any:
        yield "u1"
        raise LookupError

    with pytest.raises(LookupError):
        sandbox.seed_profiles(broken())
    assert sandbox.customer_user_ids() == set()
    assert sandbox.seed_profiles(["u1", "u1"]) == 1


# Start and stop


async def test_a_file_keeps_the_state(tmp_path: Path) -> None:
    """A sandbox with a file resumes at the same address with its former state."""
    sandbox = Sandbox(db=str(tmp_path / "sandbox.db"))
    async with sandbox:
        url = sandbox.url
        sandbox.seed_profiles(["u1"])
        await Api(sandbox).mail("save", PROFILE)
    async with sandbox:
        await Api(sandbox).v1("GET")
        assert sandbox.url == url
        assert sandbox.customer_user_ids() == {"u1"}
        assert sandbox.mail_profile_ids() == {"user_12345"}
        assert [arrival.number for arrival in sandbox.arrivals()] == [1, 2]


async def test_a_stopped_sandbox_says_so() -> None:
    """Before the start and after the end there is no address and no state."""
    sandbox = Sandbox()
    await sandbox.stop()
    address = (lambda: sandbox.url, lambda: sandbox.environment)
    for look in (*address, sandbox.arrivals, sandbox.customer_user_ids):
        with pytest.raises(RuntimeError, match="isn't running"):
            look()


async def test_it_starts_once(sandbox: Sandbox) -> None:
    """A second start raises, and does not affect the running server."""
    with pytest.raises(RuntimeError, match="running already"):
        await sandbox.start()
    assert (await Api(sandbox).v1("GET")).status == 404


async def test_a_start_that_fails_leaves_nothing_open(sandbox: Sandbox, tmp_path: Path) -> None:
    """A port in use and a file that is not a database raise, and the sandbox can be stopped."""
    taken = Sandbox(port=int(sandbox.url.rpartition(":")[2]))
    with pytest.raises(OSError, match="address"):
        await taken.start()
    await taken.stop()

    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        await Sandbox(db=str(text)).start()


async def test_an_ipv6_address_is_bracketed() -> None:
    """The URL of an IPv6 host can be used as it is."""
    async with Sandbox(host="::1") as sandbox:
        assert sandbox.url.startswith("http://[::1]:")
        assert (await Api(sandbox).v1("GET")).status == 404


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency": -1}, "latency=-1"),
        ({"log_size": 0}, "log_size=0"),
        ({"export_segments": 0}, "export_segments=0"),
        ({"export_rate": 0}, "^export_rate=0"),
        ({"retry_after": "second"}, "retry_after='second': must be one of seconds, date, none"),
        ({"rate": 0}, "rate=0"),
        ({"rate": 5, "burst": 0}, "burst=0"),
        ({"faults": "stall=2"}, "stall=2"),
        ({"body_timeout": 0}, "body_timeout=0"),
        ({"unknown_products": "gold"}, "unknown_products='gold': must be one of ignored, premium"),
        ({"unset_refund_saver": ""}, "unset_refund_saver='': must be one of null, defaults"),
    ],
)
def test_options_are_checked_when_it_is_made(options: dict[str, Any], message: str) -> None:
    """An option out of range is named before anything is started."""
    with pytest.raises(ValueError, match=message):
        Sandbox(**options)


async def test_a_profile_is_looked_up_by_one_id(sandbox: Sandbox) -> None:
    """Neither id, or both of them, is a mistake of the caller; an unknown one is not."""
    assert sandbox.profile(customer_user_id="nobody") is None
    with pytest.raises(ValueError, match="exactly one"):
        sandbox.profile()
    with pytest.raises(ValueError, match="exactly one"):
        sandbox.profile(customer_user_id="u1", profile_id="p")
