"""
How answers of version 2 are read: as its documents say, and failing that, as they are meant.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from adapty_async._checks import PrivateStruct
from adapty_async._codec import content_of
from adapty_async._profiles import read_attributes

__all__ = ("Instant", "ResultStruct", "reader", "whole_reader")

ResultT = TypeVar("ResultT")

Instant = Annotated[dt.datetime, msgspec.Meta(tz=True)]
"""
A point in time with its zone. One that a server writes without a zone is read as UTC.
"""


class ResultStruct(PrivateStruct, frozen=True, kw_only=True):
    """
    The base of structs that the server fills in; what it leaves out is empty.
    """


def reader(result: type[ResultT]) -> Callable[[bytes], ResultT]:
    """
    Make a decoder for an object that stands alone or under ``data``.
    """
    return _reader(result, unwrap=True)


def whole_reader(result: type[ResultT]) -> Callable[[bytes], ResultT]:
    """
    Make a decoder for an object whose ``data`` is one field of several, as in pages of a list.
    """
    return _reader(result, unwrap=False)


def _reader(result: type[ResultT], *, unwrap: bool) -> Callable[[bytes], ResultT]:
    strict = msgspec.json.Decoder(result, dec_hook=read_attributes)

    def read(body: bytes) -> ResultT:
        content = content_of(body, unwrap=unwrap)
        try:
            return strict.decode(content)
        except msgspec.ValidationError:
            # The documents promise that lists are never null, their older prose does not; instants
            # without a zone are not mentioned. Looking for either takes time, so only now.
            mended = _mended(msgspec.json.decode(content))
            return msgspec.convert(mended, result, dec_hook=read_attributes)

    return read


_FREE = frozenset({"custom_attributes", "metadata"})
"""
Where names are the user's, and say nothing about their values.
"""


def _mended(value: Any) -> Any:
    """
    Leave out what is null, and give instants their zone.
    """
    match value:
        case dict():
            return {name: _field(name, one) for name, one in value.items() if one is not None}
        case list():
            return [_mended(one) for one in value]
        case _:
            return value


def _field(name: str, value: Any) -> Any:
    if name in _FREE:
        return value
    return _instant(value) if name.endswith("_at") else _mended(value)


def _instant(value: Any) -> Any:
    try:
        moment = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value  # it may be no instant, and in a field that nobody asks for
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
