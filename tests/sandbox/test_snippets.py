"""Requests as code: the code sends the request again, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from adapty_async import (
    AdaptyClient,
    AdaptyError,
    AdaptyExportClient,
    AdaptyMailClient,
    export,
    v1,
)
from adapty_async.sandbox import Sandbox
from adapty_async.sandbox._snippets import Sent, curl, python
from tests import test_mail, test_web
from tests.v2.samples import CALLS as V2
from tests.v2.samples import IDS, subscription

from .conftest import Api
from .reader import first

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

URL = "http://127.0.0.1:8321"
META = v1.InstallationMeta(device_id="d", platform="iOS")
V1: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "get": lambda api: api.profiles.get(**IDS),
    "create": lambda api: api.profiles.create(**IDS),
    "update": lambda api: api.profiles.update(
        v1.ProfileAttributes(
            first_name="A\"n'n\\a",
            custom_attributes={"plan": "annual", "seats": 3.0, "gone": None},
            installation_meta=META,
        ),
        **IDS,
    ),
    "delete": lambda api: api.profiles.delete(profile_id="3286abd3-48b0-4e9c-a5f6-ac0a006804a6"),
}
# One call for each way in which the library lists endpoints, with its client and the text of its
# code; without a text, the code is that of an endpoint that the library does not list.
CALLS: list[Any] = [
    *(
        pytest.param(
            AdaptyClient,
            lambda client, call=call: call(client.v2),
            None if name in ("paywalls.list", "virtual_currencies.list_transactions") else name,
            id=f"v2.{name}",
        )
        for name, call in V2.items()
    ),
    pytest.param(
        AdaptyClient,
        lambda client: client.v2.transactions.set(subscription(), **IDS),
        "v2.transactions.set(\n            v2.SubscriptionPurchase(",
        id="v2.subscription",
    ),
    *(
        pytest.param(
            AdaptyClient, lambda client, call=call: call(client.v1), f"v1.profiles.{name}", id=name
        )
        for name, call in V1.items()
    ),
    *(
        pytest.param(
            AdaptyClient, lambda client, call=call: call(client.web), f"web.{name}", id=name
        )
        for name, call in test_web.CALLS.items()
    ),
    *(
        pytest.param(AdaptyMailClient, call, "await adapty.", id=path.split("/", 4)[4])
        for path, (call, _) in test_mail.CALLS.items()
    ),
    pytest.param(
        AdaptyExportClient,
        lambda client: client.funnel(
            filters=export.Filters(date=("2026-01-01", "2026-01-02")), tz="Europe/Berlin"
        ),
        None,
        id="export",
    ),
]


@pytest.fixture
def environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that the sandbox prints, without its addresses: the code has them."""
    for name, value in (
        ("ADAPTY_API_KEY", sandbox.api_key),
        ("ADAPTY_PUBLIC_KEY", sandbox.public_key),
        ("ADAPTY_MAIL_API_KEY", sandbox.mail_api_key),
    ):
        monkeypatch.setenv(name, value)


async def sent(api: Api) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the latest request as the page shows it, and its code."""
    row = (await first(api.sandbox, "requests")).data["rows"][-1]
    request = {"method": row["method"], **row["sent"]}
    return request, (await api.send("POST", "/_sandbox/page/code", request)).body


async def run_python(code: str) -> None:
    """Run a program in this event loop, whatever the API responds."""
    program, _, end = code.rpartition("\n\n\n")
    assert end == "asyncio.run(main())\n"
    namespace: dict[str, Any] = {}
    exec(compile(program, "copied.py", "exec"), namespace)
    with contextlib.suppress(AdaptyError):
        await namespace["main"]()


async def run_shell(command: str) -> str:
    """Return the output of a command."""
    process = await asyncio.create_subprocess_shell(
        command, env=dict(os.environ), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode()


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("kind", "call", "text"), CALLS)
async def test_python_sends_the_request_again(
    api: Api, kind: type[Any], call: Callable[[Any], Awaitable[Any]], text: str | None
) -> None:
    """The program sends the same method, path, query, ids and body, without any key in it."""
    async with kind(base_url=api.sandbox.url) as client:
        with contextlib.suppress(AdaptyError):
            await call(client)
    before, code = await sent(api)
    await run_python(code["python"])
    after, _ = await sent(api)

    assert len(api.sandbox.arrivals()) == 2
    assert after == before
    assert (text or "ENDPOINT = Endpoint(") in code["python"]
    for key in (api.sandbox.api_key, api.sandbox.mail_api_key, api.sandbox.public_key):
        assert key not in code["python"] + code["curl"]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        pytest.param("GET", "profile/", None, {}, id="no-body"),
        pytest.param("PATCH", "profile/", '{"first_name": "O\'Neil $HOME `x`\n"}', {}, id="quotes"),
        pytest.param(
            "PATCH", "profile/", '{"email": "\u009b2J\\u202e%d\'"}\n\n', {}, id="not-printable"
        ),
        pytest.param(
            "POST",
            "x/{y}/../[1-3]/?a=%20b&a='",
            "no JSON",
            {"Content-Type": "text/plain"},
            id="odd",
        ),
        pytest.param("DELETE", "profile/", None, {"adapty_customer_user_id": "ä'\\ é"}, id="id"),
        pytest.param("DELETE", "profile/", None, {"adapty_customer_user_id": ""}, id="no-id"),
        pytest.param("OPTIONS", "*", None, {}, id="no-path"),
    ],
)
async def test_curl_sends_the_request_again(
    api: Api, method: str, path: str, body: str | None, headers: dict[str, str]
) -> None:
    """The command sends the same bytes, whatever a shell or curl makes of such characters."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    target = path if path == "*" else f"/api/v2/server-side-api/{path}"
    await raw(api, method, target, (body or "").encode(), headers)
    before, code = await sent(api)
    await run_shell(code["curl"].replace("curl ", "curl --silent ", 1))
    after, _ = await sent(api)

    assert len(api.sandbox.arrivals()) == 2
    assert after == before


async def raw(api: Api, method: str, target: str, body: bytes, headers: dict[str, str]) -> None:
    """Send a request as it is, since a client would make another URL of some targets."""
    host, port = api.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = {
        "Host": f"{host}:{port}",
        "Authorization": f"Api-Key {api.sandbox.api_key}",
        "Content-Type": "application/json",
        "adapty-customer-user-id": "u1",
        "Connection": "close",
        **{name.replace("_", "-"): value for name, value in headers.items()},
        **({"Content-Length": str(len(body))} if body else {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
    await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(
            Sent("GET", "/a?b=1&b=2", {}, "", 0), "its query has a name more than once", id="query"
        ),
        pytest.param(
            Sent("GET", "/a|b", {}, "", 0),
            "its path has characters that the library does not send",
            id="path",
        ),
        pytest.param(Sent("POST", "/a", {}, "{", 1), "its body is not JSON", id="body"),
        pytest.param(
            Sent("POST", "/a", {}, None, 9999), "the sandbox does not keep its body", id="large"
        ),
    ],
)
def test_python_says_why_there_is_none(request_: Sent, reason: str) -> None:
    """A request that the library cannot send gets a comment instead of a program."""
    assert python(request_, URL) == f"# No Python for this request: {reason}. Use curl.\n"


def test_a_body_that_is_not_kept_is_a_file() -> None:
    """The command for a body that is too large, or no text, names a file."""
    command = curl(Sent("POST", "/a", {}, None, 9999), URL)

    assert command.startswith("# The sandbox does not keep this body of 9999 bytes.\ncurl ")
    assert "--data-binary @body" in command


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"first_name": "Anna", "shoe_size": 38}', id="unknown-field"),
        pytest.param('{"first_name": 5}', id="wrong-type"),
        pytest.param('{"installation_meta": {"device_id": "d", "colour": "red"}}', id="nested"),
        pytest.param("[1]", id="no-object"),
    ],
)
def test_a_body_that_the_method_cannot_send_is_sent_as_it_is(body: str) -> None:
    """The code of a request with an unknown or wrong field sends that field, too."""
    target = "/api/v2/server-side-api/profile/"
    code = python(Sent("PATCH", target, {"adapty-profile-id": "p"}, body, len(body)), URL)

    assert "Endpoint(" in code
    assert 'headers={"adapty-profile-id": "p"}' in code


@pytest.mark.usefixtures("environment")
async def test_an_endpoint_that_is_not_listed_is_sent_again(api: Api) -> None:
    """The program of an unknown path has its query, its idempotency key and its body."""
    await raw(api, "POST", "/new/?a=%3C&b=", b'{"a": [1, 2.5, null]}', {"Idempotency_Key": "k-1"})
    before, code = await sent(api)
    await run_python(code["python"])
    after, _ = await sent(api)

    assert {**after, "body": None, "size": 0} == {**before, "body": None, "size": 0}
    assert after["body"] == '{"a":[1,2.5,null]}'


def test_code_of_the_web_api_has_the_public_key() -> None:
    """A request of the web API that no method sends needs the other key."""
    request = Sent("POST", "/api/v2/web-api/paywall/", {}, '{"a": [1, null]}', 16)

    assert "uses_public_key=True" in python(request, URL)
    assert '{"a": [1, None]}' in python(request, URL)
    assert "Api-Key $ADAPTY_PUBLIC_KEY" in curl(request, URL)
