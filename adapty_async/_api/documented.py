"""
Validation by the rules of Adapty's documentation, when a call is sent; a client may turn it off.

The type of a value (text, a number, a date and time with a zone) is validated when its struct is
created. The server decides on lengths, ranges, enumerations and dependencies of fields. Validating
them here as well saves a request and names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import UNSET

from adapty_async._api.call import Operation
from adapty_async._api.validation import Check, RequestStruct, matching
from adapty_async.errors import InvalidInputError

__all__ = ("HEX", "DocumentedStruct", "check_body", "is_given", "struct_in", "uuid")

#: The pattern of a hexadecimal digit.
HEX = "[0-9a-fA-F]"

uuid = matching(rf"{HEX}{{8}}(-{HEX}{{4}}){{3}}-{HEX}{{12}}", "must be a UUID")


class DocumentedStruct(RequestStruct, frozen=True, kw_only=True):
    """The base class of structs with rules that are validated when they are sent."""

    documented: ClassVar[Mapping[str, Check]] = {}

    def check_documented(self) -> None:
        """
        Validate the fields that are set.

        Raises:
            InvalidInputError: a field breaks its rule.
        """
        for field, check in self.documented.items():
            value = getattr(self, field)
            if is_given(value):
                check(field, value)


def check_body(operation: Operation[Any]) -> None:
    """Validate the body of an operation."""
    operation.body.check_documented()


def struct_in(field: str, value: DocumentedStruct) -> None:
    """Validate a nested struct; an error names its field with the path from the outer one."""
    try:
        value.check_documented()
    except InvalidInputError as error:
        raise InvalidInputError(f"{field}.{error.field}", error.rule) from None


def is_given(value: Any) -> bool:
    """Return whether a value is neither UNSET nor None."""
    return value is not UNSET and value is not None
