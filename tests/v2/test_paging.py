"""Lists that come in pages, by number and by cursor."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from adapty_async import Operation, v2
from adapty_async.errors import DecodeError, InvalidInputError, RequestRejectedError
from adapty_async.testing import FakeTransport, Reply
from tests.v2.samples import IDS, client, read_all


def paywalls(*titles: str, page: int = 1, pages: int = 1) -> Reply:
    """Return a page of paywalls."""
    pagination = {"count": 99, "page": page, "pages": pages}
    body = {"data": [{"title": title} for title in titles], "meta": {"pagination": pagination}}
    return 200, {}, msgspec.json.encode(body)


def history(*ids: str, cursor: str | None = None) -> Reply:
    """Return a page of transactions."""
    body = {"data": [{"transaction_id": one} for one in ids], "pagination": {"next_cursor": cursor}}
    return 200, {}, msgspec.json.encode(body)


def queries(transport: FakeTransport) -> list[dict[str, str]]:
    """Return what was asked for, request by request."""
    return [
        {name: value for name, [value] in parse_qs(urlsplit(request.url).query).items()}
        for request in transport.requests
    ]


async def test_numbered_pages_are_read_to_the_last() -> None:
    """All items of all pages come in order, and every page is asked for once."""
    transport = FakeTransport(
        [paywalls("a", "b", pages=3), paywalls("c", "d", pages=3), paywalls("e", pages=3)]
    )
    read = [one.title async for one in client(transport).v2.paywalls.list(page_size=2)]

    assert read == ["a", "b", "c", "d", "e"]
    assert queries(transport) == [
        {"page[number]": str(number), "page[size]": "2"} for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("replies", "titles"),
    [
        pytest.param([paywalls(pages=0)], [], id="nothing"),
        pytest.param(
            [paywalls("a", pages=2), paywalls(page=2, pages=2)], ["a"], id="gone meanwhile"
        ),
        pytest.param(
            [paywalls("a", pages=2), paywalls("b", pages=3), paywalls("c", pages=3)],
            ["a", "b", "c"],
            id="more meanwhile",
        ),
        pytest.param([paywalls("a", page=7, pages=1)], ["a"], id="a wrong number"),
    ],
)
async def test_numbered_pages_come_to_an_end(replies: list[Reply], titles: list[str]) -> None:
    """The list ends with its last page, also if that changes while it is read."""
    read = [one.title async for one in client(FakeTransport(replies)).v2.paywalls.list()]

    assert read == titles


@pytest.mark.parametrize("body", [b'{"data":null}', b'{"meta":null}', b"{}", b""])
async def test_a_page_without_data_is_not_the_last_one(body: bytes) -> None:
    """The empty success of a gateway does not end a list."""
    transport = FakeTransport([paywalls("a", pages=2), (200, {}, body)])

    with pytest.raises(DecodeError, match=r"missing - at `\$\.data`"):
        await read_all(client(transport).v2.paywalls.list())


PAGES: Mapping[str, Callable[[v2.V2], AsyncIterable[object]]] = {
    "paywalls": lambda api: api.paywalls.list(),
    "transactions": lambda api: api.virtual_currencies.list_transactions(**IDS),
}


NO_PAGES = r"missing - at `\$\.meta\.pagination\.pages`"
WRONG_PAGES = r"not as documented - at `\$\.meta\.pagination\.pages`"
NO_CURSOR = r"missing - at `\$\.pagination\.next_cursor`"


def position(**fields: Any) -> dict[str, Any]:
    """Return the metadata of a page of paywalls."""
    return {"meta": {"pagination": fields}}


@pytest.mark.parametrize(
    ("listed", "body", "reason"),
    [
        pytest.param("paywalls", {}, NO_PAGES, id="no meta"),
        pytest.param("paywalls", {"meta": None}, NO_PAGES, id="null meta"),
        pytest.param("paywalls", {"meta": {}}, NO_PAGES, id="empty meta"),
        pytest.param("paywalls", position(count=99), NO_PAGES, id="no number"),
        pytest.param("paywalls", position(page=1, pages=None), NO_PAGES, id="null"),
        pytest.param("paywalls", position(page=1, pages=0), WRONG_PAGES, id="0"),
        pytest.param("paywalls", position(page=1, pages=-1), WRONG_PAGES, id="-1"),
        pytest.param("paywalls", position(page=1, pages="2"), WRONG_PAGES, id="text"),
        pytest.param("paywalls", {"data": []}, NO_PAGES, id="no meta and no paywall"),
        pytest.param(
            "paywalls", {"data": [], **position(page=1, pages=2)}, WRONG_PAGES, id="empty page"
        ),
        pytest.param(
            "paywalls", {"data": [], **position(page="1", pages=2)}, WRONG_PAGES, id="odd page"
        ),
        pytest.param("transactions", {}, NO_CURSOR, id="no pagination"),
        pytest.param("transactions", {"pagination": None}, NO_CURSOR, id="null pagination"),
        pytest.param("transactions", {"pagination": {}}, NO_CURSOR, id="empty pagination"),
        pytest.param(
            "transactions", {"data": [], "pagination": {}}, NO_CURSOR, id="and no transaction"
        ),
        pytest.param(
            "transactions",
            {"pagination": {"next_cursor": 7}},
            r"not as documented - at `\$\.pagination\.next_cursor`",
            id="cursor of another type",
        ),
    ],
)
async def test_a_page_that_does_not_tell_the_next_one_is_an_error(
    listed: str, body: dict[str, Any], reason: str
) -> None:
    """A list does not end early because the server stops telling how to go on."""
    content = {"data": [{"paywall_id": "a", "transaction_id": "a"}], **body}
    transport = FakeTransport([(200, {"Request-Id": "r1"}, msgspec.json.encode(content))])

    with pytest.raises(DecodeError, match=reason) as caught:
        await read_all(PAGES[listed](client(transport).v2))
    error = caught.value
    assert (error.status, error.request_id, error.attempts) == (200, "r1", 1)
    assert msgspec.json.decode(error.body) == content


async def test_a_list_begins_at_its_cursor() -> None:
    """A page number is where reading begins; reading again begins there again."""
    transport = FakeTransport([paywalls("c", pages=2), paywalls("d", pages=2)])
    listed = client(transport).v2.paywalls.list(page_number=2)

    assert [one.title async for one in listed] == ["c"]
    assert [one.title async for one in listed] == ["d"]
    assert [query["page[number]"] for query in queries(transport)] == ["2", "2"]


async def test_whole_pages_can_be_read() -> None:
    """Pages come as the server made them, with what they say about the list."""
    transport = FakeTransport([paywalls("a", "b", pages=2), paywalls("c", page=2, pages=2)])
    pages = await read_all(client(transport).v2.paywalls.list(page_size=2).pages())

    assert [[one.title for one in page.data] for page in pages] == [["a", "b"], ["c"]]
    assert [page.meta.pagination.page for page in pages] == [1, 2]
    assert pages[0].meta.pagination.count == 99


async def test_a_page_is_not_read_before_it_is_needed() -> None:
    """Leaving the loop on the first page leaves the second unread."""
    transport = FakeTransport([paywalls("a", "b", pages=2)])
    async for one in client(transport).v2.paywalls.list():
        if one.title == "b":
            break

    assert len(transport.requests) == 1


async def test_cursors_are_followed_to_the_end() -> None:
    """Each page is asked for with the cursor of the one before, the same filter and profile."""
    transport = FakeTransport([history("3", "2", cursor="a+b/c="), history("1")])
    listed = client(transport).v2.virtual_currencies.list_transactions(
        currency_code="COINS", limit=2, **IDS
    )

    assert [one.transaction_id async for one in listed] == ["3", "2", "1"]
    kept = {"currency_code": "COINS", "limit": "2"}
    assert queries(transport) == [kept, {**kept, "cursor": "a+b/c="}]
    assert {one.headers["adapty-customer-user-id"] for one in transport.requests} == {"u1"}


async def test_reading_resumes_at_a_cursor() -> None:
    """A cursor that was kept is where reading begins; whole pages tell the next one."""
    transport = FakeTransport([history("2", cursor="y"), history("1", cursor="")])
    listed = client(transport).v2.virtual_currencies.list_transactions(cursor="x", **IDS)
    cursors = [page.pagination.next_cursor async for page in listed.pages()]

    assert cursors == ["y", ""]
    assert [query["cursor"] for query in queries(transport)] == ["x", "y"]


async def test_a_cursor_that_leads_nowhere_is_an_error() -> None:
    """A page that names itself as the next one ends in an error, not in an endless list."""
    transport = FakeTransport([history("1", cursor="x"), history("1", cursor="x")])
    listed = client(transport).v2.virtual_currencies.list_transactions(**IDS)

    with pytest.raises(DecodeError, match=r"^the next page is the same page, operation v2\."):
        await read_all(listed)
    assert len(transport.requests) == 2


async def test_an_error_ends_the_list() -> None:
    """The items before it were given; the error is the call's own."""
    refused: Reply = (400, {}, b'{"errors":[],"error_code":"invalid_cursor","status_code":400}')
    transport = FakeTransport([history("2", cursor="x"), refused])
    read: list[v2.VirtualCurrencyTransactionsHistoryItem] = []

    async def read_on() -> None:
        async for one in client(transport).v2.virtual_currencies.list_transactions(**IDS):
            read.append(one)  # noqa: PERF401  what came before the error counts

    with pytest.raises(RequestRejectedError, match="error_code invalid_cursor"):
        await read_on()
    assert [one.transaction_id for one in read] == ["2"]


async def test_a_page_can_be_requested_by_hand() -> None:
    """Without a number and a size, the server decides on both."""
    transport = FakeTransport([paywalls("a")])
    page = await client(transport).execute(Operation(v2.LIST_PAYWALLS))

    assert [one.title for one in page.data] == ["a"]
    assert queries(transport) == [{}]


async def test_a_rule_is_checked_when_the_first_page_is_read() -> None:
    """A size that is out of range is rejected before any request."""
    transport = FakeTransport()
    listed: Any = client(transport).v2.paywalls.list(page_size=101)

    with pytest.raises(InvalidInputError, match=r"^page_size: must be 1 to 100$"):
        await read_all(listed)
    assert transport.requests == []
