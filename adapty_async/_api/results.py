"""
Results of calls: a decoder, strict first, field by field if that fails, and raw responses.

One field that is not as documented does not make a result unreadable. The field is None, and its
raw value is in `ResultStruct.odd_fields`. The decoder never guesses a value.
"""

from __future__ import annotations

import codecs
import datetime as dt
import functools
import json
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, NoReturn, TypeVar

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from adapty_async._api.call import Response, request_id_in
from adapty_async._api.validation import PrivateStruct
from adapty_async.errors import AdaptyError, name_or_none

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)
StructT = TypeVar("StructT", bound="ResultStruct")

#: A date and time with its zone. One that the server sends without a zone is read as UTC.
DateTime = Annotated[dt.datetime, msgspec.Meta(tz=True)]
_OPTIONAL_DATE_TIME = DateTime | None
_INTEGERS = (int, int | None)
_ODD_FIELDS = "_odd_fields"
# The beginning of the names of this library's modules.
_OWN = f"{__name__.partition('.')[0]}."
#: The reason of a `DecodeError` for a body that is an error of the API.
ERROR_IN_SUCCESS = "an error, in spite of the status"
# Messages of msgspec and of this library that quote nothing of the body, and the path at the end of
# others: they may quote a value, such as one that is none of an enumeration.
_PATH = r" - at `(?:key` in `)?\$[\w.\[\]-]*`"
_AT_END = re.compile(f"{_PATH}$", re.ASCII)
_QUOTES_NOTHING = re.compile(
    r"(?:Expected `[^`]*`(?:, got `\w+`)?|Object missing required field `[^`]*`|missing"
    rf"|not as documented|no JSON object|JSON, not CSV|{ERROR_IN_SUCCESS})(?:{_PATH})?",
    re.ASCII,
)
_NO_FIELDS: Mapping[str, Any] = types.MappingProxyType({})


class ResultStruct(PrivateStruct, frozen=True, kw_only=True, dict=True):
    """
    The base class of results. A field that the server leaves out has its default.

    A field that is not as documented is None, whatever its annotation says: the annotation states
    what Adapty's documentation promises. See `odd_fields`.
    """

    # Fields without which the result is useless: the identity, and whether more pages follow.
    essential: ClassVar[frozenset[str]] = frozenset()

    @property
    def odd_fields(self) -> Mapping[str, Any]:
        """
        The raw values of fields that are not as documented; empty for nearly all results.

        A key is the path of the field, such as ``access_levels[0].expires_at``; the value is the
        decoded JSON. List entries that are not objects are left out of their list and are found
        here. Copies and pickles keep it; `msgspec.structs.replace` and encoding leave it out.
        """
        odd_fields: Mapping[str, Any] = getattr(self, _ODD_FIELDS, _NO_FIELDS)
        return odd_fields

    def __copy__(self) -> typing.Self:
        return _construct(type(self), self._values(), self.odd_fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _construct, (type(self), self._values(), dict(self.odd_fields))

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


def _construct(kind: type[StructT], values: Mapping[str, Any], odd: Mapping[str, Any]) -> StructT:
    result = kind(**values)
    if odd:
        vars(result)[_ODD_FIELDS] = types.MappingProxyType(dict(odd))
    return result


def no_result(body: bytes) -> None:
    """
    Validate a response without a result: its body is empty, or an object that is no error.

    Raises:
        ValueError: the body is something else, so it may not come from the API.
    """
    if body and (stripped := _stripped(body)):
        _require_no_error(_read_envelope(stripped))


def no_content(body: bytes) -> None:
    """
    Validate the response to a deletion: its body is empty, or an object with nothing but ``data``.

    The documented responses have no body. Any other object, such as that of a gateway or of a wrong
    address, is no evidence that something was deleted.

    Raises:
        ValueError: the body is something else, so it may not come from the API.
    """
    if body and (stripped := _stripped(body)) and _read_fields(stripped).keys() - {"data"}:
        raise msgspec.ValidationError("not as documented - at `$`")


class _Envelope(msgspec.Struct):
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    errors: Any = None
    error_code: Any = None


_read_envelope = msgspec.json.Decoder(_Envelope).decode
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_require_json = msgspec.json.Decoder(msgspec.Raw).decode


def _require_no_error(envelope: _Envelope) -> None:
    if envelope.errors or envelope.error_code:
        raise msgspec.ValidationError(ERROR_IN_SUCCESS)


def content_of(body: bytes, *, unwrap: bool = True) -> bytes | msgspec.Raw:
    """
    Return the JSON object of a response; with `unwrap`, the one under ``data`` if there is one.

    An empty body counts as an empty object.

    Raises:
        ValueError: the body is not an object, or is an error.
    """
    body = _stripped(body)
    if not body:
        return b"{}"
    envelope = _read_envelope(body)
    _require_no_error(envelope)
    inner = envelope.data
    if inner is msgspec.UNSET or not unwrap:
        return body
    return b"{}" if bytes(inner) == b"null" else inner


def _stripped(body: bytes) -> bytes:
    return body.removeprefix(codecs.BOM_UTF8).strip()


def data_decoder(
    result: type[ResultT], *, unwrap: bool = True, requires: Collection[str] = ()
) -> Callable[[bytes], ResultT]:
    """
    Return a decoder of an object that stands alone or under ``data``; an empty body is ``{}``.

    The decoder reads a `ResultStruct` field by field only if strict decoding fails, since that
    takes more time.

    Args:
        result: the type of the object.
        unwrap: the object stands under ``data`` if there is such a field.
        requires: fields that must be there, for reads: an empty success of a gateway would
            otherwise look like a user without access, or an empty list. Names of nested fields are
            dotted. Null is allowed if it is the default.
    """
    strict = msgspec.json.Decoder(result, dec_hook=_read_custom)
    is_result = _is_result(result)

    def read(body: bytes) -> ResultT:
        try:
            return strict.decode(content_of(body, unwrap=unwrap))
        except msgspec.DecodeError:
            if not is_result:
                raise
            content = _parsed_content(body, unwrap=unwrap)
        kind: Any = result
        decoded: ResultT = read_by_field(kind, content)
        return decoded

    return _requiring(result, requires, read, unwrap=unwrap) if requires else read


def _requiring(
    result: type[ResultT],
    names: Collection[str],
    read: Callable[[bytes], ResultT],
    *,
    unwrap: bool,
) -> Callable[[bytes], ResultT]:
    default = result()
    readers = {name: operator.attrgetter(name) for name in names}

    def read_required(body: bytes) -> ResultT:
        decoded = read(body)
        for name, value_of in readers.items():
            expected = value_of(default)
            if value_of(decoded) == expected:  # such as an empty list, or left out
                content = _parsed_content(_stripped(body) or b"{}", unwrap=unwrap)
                if not _has(content, name.split("."), nullable=expected is None):
                    raise msgspec.ValidationError(f"missing - at `$.{name}`")
        return decoded

    return read_required


def _has(content: Any, path: Sequence[str], *, nullable: bool) -> bool:
    """Return whether parsed JSON has a value at a path; null is one if the field may be null."""
    *outer, name = path
    for key in outer:
        content = content.get(key) or {}
    return name in content if nullable else content.get(name) not in (None, "")


def nonempty_decoder(read: Callable[[bytes], ResultT]) -> Callable[[bytes], ResultT]:
    """
    Return a decoder that rejects an empty body, for reads that require no field.

    Args:
        read: decodes any other body.
    """

    def read_nonempty(body: bytes) -> ResultT:
        if not _stripped(body):
            raise msgspec.ValidationError("no JSON object - at `$`")
        return read(body)

    return read_nonempty


def json_decoder(result: type[ResultT], *, unwrap: bool = True) -> Callable[[bytes], ResultT]:
    """
    Return a decoder of JSON to a type that msgspec supports: a struct, a dataclass, ``dict``, ...

    Args:
        result: the type.
        unwrap: the value stands in an object under ``data``, or is that object itself, as in
            Adapty's APIs. An empty body is an empty object then. With False, the body is the value,
            whatever it has.

    Raises:
        TypeError: msgspec does not support the type.
    """
    whole = msgspec.json.Decoder(result, dec_hook=_read_custom)
    read = data_decoder(result) if unwrap else whole.decode

    def read_own(body: bytes) -> ResultT:
        try:
            return read(_stripped(body))
        except msgspec.ValidationError as error:
            raise _MismatchError(str(error)) from None

    return read_own


def is_json(body: bytes) -> bool:
    """Return whether a body is empty, or JSON of any type that is no error."""
    body = _stripped(body)
    try:
        if body:
            _require_json(body)
        if body.startswith(b"{"):
            no_result(body)
    except (ValueError, RecursionError):
        return False
    return True


class _MismatchError(msgspec.ValidationError):
    """An error of decoding: a body is not of the type that the caller expects."""


def reason_of(error: Exception) -> str:
    """Return a description of the error that a decoder raised; it quotes nothing of the body."""
    if type(error) is msgspec.DecodeError and _is_own(error):
        return "not JSON"
    if not isinstance(error, msgspec.ValidationError):
        return f"{type(error).__name__}{_line_of(error)}"
    text = str(error)
    if _QUOTES_NOTHING.fullmatch(text):
        return text
    found = _AT_END.search(text)
    return f"unexpected value{found[0] if found else ''}"


def is_of_caller(error: Exception) -> bool:
    """Return whether a decoder of the caller's raised an error, or one of the caller's type."""
    return isinstance(error, _MismatchError) or not _is_own(error)


def _is_own(error: Exception) -> bool:
    called = error.__traceback__ and error.__traceback__.tb_next
    return called is not None and called.tb_frame.f_globals.get("__name__", "").startswith(_OWN)


def _line_of(error: Exception) -> str:
    """Return the line that raised an error, if a bug may be the cause: the caller's or our own."""
    called = error.__traceback__ and error.__traceback__.tb_next
    if _is_own(error):
        if isinstance(error, ValueError | RecursionError):  # only the body is
            return ""
        while called is not None and called.tb_next is not None:
            called = called.tb_next
    if called is None:
        return ""
    return f" in {PurePath(called.tb_frame.f_code.co_filename).name}, line {called.tb_lineno}"


def _parsed_content(body: bytes, *, unwrap: bool) -> Any:
    """Return what `content_of` returns, parsed, for JSON that msgspec may be unable to parse."""
    content = _parse_lenient(_stripped(body))
    if not isinstance(content, dict):
        return content
    _require_no_error(_Envelope(errors=content.get("errors"), error_code=content.get("error_code")))
    if not unwrap or "data" not in content:
        return content
    return {} if content["data"] is None else content["data"]


def parse_json(body: bytes) -> Any:
    """
    Parse JSON with whatever proxies put around it: a byte order mark and blanks.

    Raises:
        ValueError: the body is not JSON.
        RecursionError: its nesting is too deep.
    """
    body = _stripped(body)
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return _parse_lenient(body)


def _parse_lenient(text: bytes) -> Any:
    """
    Parse JSON that msgspec rejects: it has lone surrogates, or numbers that are out of range.

    A number that Python cannot represent stays text.
    """
    try:
        return json.loads(
            text.decode(), parse_float=_float, parse_int=_int, parse_constant=_raise_for_no_json
        )
    except json.JSONDecodeError:  # the error holds the text
        raise msgspec.DecodeError("JSON is malformed") from None


def _float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _int(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # more digits than Python converts
        return text


def _raise_for_no_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Field(NamedTuple):
    """
    A field of a result struct.

    Attributes:
        entry: the struct type of the field, of its entries or members; None for a plain value.
        container: the type of a field with several entries, a tuple or a mapping by name.
    """

    name: str
    kind: Any
    entry: type[ResultStruct] | None
    container: type[Any] | None
    is_essential: bool


@functools.cache
def _fields_of(struct: type[ResultStruct]) -> tuple[_Field, ...]:
    return tuple(
        _Field(
            name=info.name,
            kind=info.type,
            entry=next(filter(_is_result, (info.type, *typing.get_args(info.type))), None),
            container=typing.get_origin(info.type),
            is_essential=info.name in struct.essential,
        )
        for info in msgspec.structs.fields(struct)
    )


def _is_result(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, ResultStruct)


_ODD = object()
_MAPPINGS = (dict, Mapping)


def read_by_field(result: type[StructT], content: Any, path: str = "$") -> StructT:
    """
    Decode a result field by field: null is left out, an undocumented field is None.

    Raises:
        msgspec.ValidationError: it is not an object, or an essential field is not as documented.
    """
    if not isinstance(content, dict):
        raise msgspec.ValidationError(f"Expected `object` - at `{path}`")
    values: dict[str, Any] = {}
    odd: dict[str, Any] = {}
    for field in _fields_of(result):
        raw = content.get(field.name)
        if raw is None:  # the schema says that lists are never null, the prose does not
            continue
        value = _value(field, raw, path, odd)
        if value is _ODD:
            if field.is_essential:
                raise msgspec.ValidationError(f"not as documented - at `{path}.{field.name}`")
            value, odd[field.name] = None, raw
        values[field.name] = value
    return _construct(result, values, odd)


def _value(field: _Field, raw: Any, path: str, odd: dict[str, Any]) -> Any:
    if field.entry is None:
        return _plain(field.kind, raw)
    if field.container is tuple:
        if not isinstance(raw, list):
            return _ODD
        return tuple(_entries(field, enumerate(raw), path, odd).values())
    if not isinstance(raw, dict):
        return _ODD
    if field.container in _MAPPINGS:
        return _entries(field, raw.items(), path, odd)
    return _inner(field.entry, raw, path, field.name, odd)


def _entries(
    field: _Field, raw: Iterable[tuple[Any, Any]], path: str, odd: dict[str, Any]
) -> dict[Any, Any]:
    entries = {}
    for key, entry in raw:
        name = f"{field.name}[{key}]"
        if isinstance(entry, dict):
            entries[key] = _inner(field.entry, entry, path, name, odd)
        else:
            odd[name] = entry
    return entries


def _inner(kind: Any, raw: Any, path: str, name: str, odd: dict[str, Any]) -> Any:
    inner: ResultStruct = read_by_field(kind, raw, f"{path}.{name}")
    odd.update({f"{name}.{field}": value for field, value in inner.odd_fields.items()})
    return inner


def _plain(kind: Any, raw: Any) -> Any:
    if kind in _INTEGERS and isinstance(raw, float) and raw.is_integer():
        return int(raw)
    try:
        return msgspec.convert(raw, kind, dec_hook=_read_custom)
    except (ValueError, OverflowError):  # msgspec's errors are ValueErrors
        return _date_time(raw) if kind == _OPTIONAL_DATE_TIME else _ODD


def _date_time(raw: Any) -> Any:
    try:
        timestamp = dt.datetime.fromisoformat(raw)
    except (TypeError, ValueError):
        return _ODD
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=dt.UTC)


class CustomAttributes(dict[str, str | float | None]):
    """A dictionary of custom attributes by key, in whichever form the server sent them."""

    def __repr__(self) -> str:
        return f"CustomAttributes({len(self)} keys)"


class _Entry(msgspec.Struct):
    key: str
    value: Any = None


def _read_custom(kind: type, value: Any) -> Any:
    """Decode a type that msgspec does not know: custom attributes, from a list or a dictionary."""
    if kind is not CustomAttributes:
        return value  # of a type of the caller's, so msgspec rejects it
    read = msgspec.convert(value, list[_Entry] | dict[str, Any])
    if isinstance(read, list):
        read = {entry.key: entry.value for entry in read}
    return CustomAttributes(read)


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
