"""A raw response: what the server sent in a success, and its result on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, TypeVar

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from adapty_async._api.call import Response
from adapty_async._api.codec import request_id_in
from adapty_async.errors import AdaptyError, name_or_none

__all__ = ("RawResponse", "raw_response")

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)


class RawResponse(msgspec.Struct, Generic[ResultT_co], frozen=True):
    """
    The successful response to a call, as `adapty_async.AdaptyClient.execute` returns it.

    Its repr shows no header and nothing of the body, which may contain personal data.

    Attributes:
        status: the HTTP status, from 200 to 299. It is 404 for a deletion whose first response was
            lost, and which had worked.
        headers: the headers of the response; their names ignore case.
        body: the whole body, not decoded.
        attempts: the number of requests that were sent for the call.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    attempts: int
    _decode: Callable[[], ResultT_co]

    @property
    def request_id(self) -> str | None:
        """The request id, for Adapty's support; None if the response has none."""
        return name_or_none(request_id_in(self.headers))

    def parse(self) -> ResultT_co:
        """
        Return the result of the call, decoded from the body.

        Raises:
            DecodeError: the body is not a result of the call.
        """
        try:
            return self._decode()
        except AdaptyError as error:
            error.attempts = self.attempts
            raise

    def __repr__(self) -> str:
        return f"RawResponse({self.status}, {len(self.body)} bytes)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status), ("bytes", len(self.body))]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a raw response belongs to its client; pickle its parsed result instead")


def raw_response(
    response: Response, attempts: int, decode: Callable[[], ResultT]
) -> RawResponse[ResultT]:
    """Return a response of any transport as a raw response."""
    headers = CIMultiDictProxy(CIMultiDict(response.headers))
    return RawResponse(response.status, headers, response.body, attempts, decode)
