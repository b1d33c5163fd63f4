"""A reader of the page's server-sent events, independent of a browser."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from adapty_async.sandbox import Sandbox

EVENTS = "/_sandbox/page/events"


class Event(NamedTuple):
    """One event, with its decoded data."""

    name: str
    id: str | None
    data: Any


async def parsed(content: aiohttp.StreamReader) -> AsyncGenerator[Event, None]:
    """Yield the events of a stream, which ends without half an event."""
    fields: dict[str, str] = {}
    while line := (await content.readuntil()).decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["event"], fields.get("id"), msgspec.json.decode(fields["data"]))
            fields = {}


@asynccontextmanager
async def events(
    sandbox: Sandbox, path: str = EVENTS, **headers: str
) -> AsyncIterator[AsyncIterator[Event]]:
    """Read events in the block, and disconnect at its end."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(read_bufsize=2**20) as session,
        session.get(sandbox.url + path, headers=sent) as response,
    ):
        assert response.headers["Content-Type"] == "text/event-stream"
        async with aclosing(parsed(response.content)) as stream:
            yield stream


async def first(sandbox: Sandbox, name: str, path: str = EVENTS, **headers: str) -> Event:
    """Return the first event of that name on a new connection."""
    async with events(sandbox, path, **headers) as stream:
        return await after(stream, name)


async def after(stream: AsyncIterator[Event], name: str) -> Event:
    """Return the next event of that name."""
    async for event in stream:
        if event.name == name:
            return event
    raise AssertionError(f"the stream ended without the event {name}")
