"""
The rules that a request body has to keep, written from the API documents; pure.

A rule is a function that returns the value as it is stored, or raises `Invalid`. The server-side
API document describes the Profile object, the Mail API document the profile, device, event and
offer objects.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    Rule = Callable[[Any], Any]

_ATTRIBUTES_MAX = 30
_ATTRIBUTE_KEY = re.compile(r"[A-Za-z0-9._-]{1,30}")
_ATTRIBUTE_LENGTH = 30
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Problem(NamedTuple):
    """
    Say what is wrong, and with which field; `None` is the request as a whole.
    """

    message: str
    field: str | None = None


class Invalid(Exception):  # noqa: N818 - an answer to the client, not a failure of the sandbox
    """
    Say that a value breaks one rule or more.
    """

    def __init__(self, *problems: Problem) -> None:
        """
        Keep the problems, in the order found.
        """
        super().__init__(*problems)
        self.problems = problems

    def under(self, name: str) -> Iterable[Problem]:
        """
        Return the problems with their fields named as seen from the object around them.
        """
        for message, field in self.problems:
            yield Problem(message, name if field is None else f"{name}.{field}")


def _wrong(message: str) -> Invalid:
    return Invalid(Problem(message))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("Input should be a valid string")
    return value


def _identifier(value: Any) -> str:
    if not _text(value):
        raise _wrong("String should have at least 1 character")
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong("Input should be a valid boolean")
    return value


def _matching(pattern: str, message: str) -> Rule:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if not compiled.fullmatch(_text(value)):
            raise _wrong(message)
        return str(value)

    return check


def _one_of(*allowed: str) -> Rule:
    def check(value: Any) -> str:
        if value not in allowed:
            raise _wrong(f"Input should be one of {', '.join(allowed)}")
        return str(value)

    return check


def _birthday(value: Any) -> str:
    # The pattern comes first: fromisoformat also reads 20001231 and week dates.
    try:
        if _ISO_DATE.fullmatch(_text(value)):
            return date.fromisoformat(value).isoformat()
    except ValueError:
        pass
    raise _wrong("Input should be a valid date in the format YYYY-MM-DD")


def _instant(value: Any) -> str:
    try:
        aware = datetime.fromisoformat(_text(value)).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise _wrong("Input should be a valid ISO 8601 date-time with an offset")
    return str(value)


def record(
    fields: Mapping[str, Rule], *, required: Collection[str] = (), nullable: bool = False
) -> Rule:
    """
    Return the rule of an object: known fields are checked, unknown ones left out.

    With `nullable` a null passes for every field, and means "clear it".
    """

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong("Input should be a valid object")
        problems = [Problem("Field required", name) for name in required if name not in value]
        clean: dict[str, Any] = {}
        for name in (known for known in fields if known in value):
            try:
                cleared = nullable and value[name] is None
                clean[name] = None if cleared else fields[name](value[name])
            except Invalid as inner:
                problems.extend(inner.under(name))
        if problems:
            raise Invalid(*problems)
        return clean

    return check


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    """
    Return the keys and values of custom attributes.

    The table of the Profile object has a dictionary, the example request a list of key and value.
    """
    if isinstance(value, dict):
        return value.items()
    if not isinstance(value, list):
        raise _wrong("Input should be a list of key and value")
    if not all(isinstance(item, dict) and {"key", "value"} <= item.keys() for item in value):
        raise _wrong("Each custom attribute needs a key and a value")
    return [(item["key"], item["value"]) for item in value]


def _attribute_key(key: Any) -> str:
    if not _ATTRIBUTE_KEY.fullmatch(_text(key)):
        raise _wrong(
            "A key has 1 to 30 characters: letters, numbers, dashes, points and underscores"
        )
    return str(key)


def _attribute_value(value: Any) -> str | float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if len(value) > _ATTRIBUTE_LENGTH:
            raise _wrong(f"A value has no more than {_ATTRIBUTE_LENGTH} characters")
        return value
    return _number(value)


def _number(value: Any) -> float:
    if not isinstance(value, (bool, int, float)):
        raise _wrong("A value is a string or a number")
    try:
        return float(value)
    except OverflowError as error:
        raise _wrong("The number is too large") from error


def _custom_attributes(value: Any) -> dict[str, str | float | None]:
    changes = {_attribute_key(key): _attribute_value(given) for key, given in _pairs(value)}
    if not changes:
        raise _wrong("At least one attribute key is required")
    return changes


v1_profile = record(
    {
        "first_name": _text,
        "last_name": _text,
        "gender": _text,
        "email": _text,
        "phone_number": _text,
        "birthday": _birthday,
        # The document's own example is "FR, US", so nothing stricter than a string can hold.
        "ip_country": _text,
        "store_country": _text,
        "store": _text,
        "analytics_disabled": _flag,
        "custom_attributes": _custom_attributes,
        "installation_meta": record(
            {
                "device_id": _text,
                "device": _text,
                "locale": _text,
                "os": _text,
                "platform": _text,
                "timezone": _text,
                "user_agent": _text,
                "idfa": _text,
                "idfv": _text,
                "advertising_id": _text,
                "android_id": _text,
                "android_app_set_id": _text,
            },
            nullable=True,
        ),
    },
    nullable=True,
)


def _merged(stored: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(stored)
    for name, change in changes.items():
        value = _merged(result.get(name, {}), change) if isinstance(change, dict) else change
        result[name] = value
        if value is None or value == {}:
            del result[name]
    return result


def updated(stored: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the attributes of a server-side profile after `changes` that keep `v1_profile`.

    A null clears, what is absent stays, objects are merged key by key.

    Raises:
        Invalid: the profile would have more than 30 custom attributes.

    """
    result = _merged(stored, changes)
    if len(result.get("custom_attributes", ())) > _ATTRIBUTES_MAX:
        raise Invalid(
            Problem(f"No more than {_ATTRIBUTES_MAX} custom attributes", "custom_attributes")
        )
    return result


def _mail_attribute(value: Any) -> str | float:
    # No conversion and no length here: the Mail API document states neither.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _wrong("Input should be a string or a number")
    return value


def _mail_attributes(value: Any) -> Any:
    names = value if isinstance(value, dict) else ()
    return record(dict.fromkeys(names, _mail_attribute))(value)


_email = _matching(r"[^@\s]+@[^@\s]+\.[^@\s]+", "Input should be a valid email address")
_country = _matching(r"[A-Z]{2}", "Input should be a two-letter upper-case country code")

mail_profile = record(
    {
        "external_profile_id": _identifier,
        "external_created_at": _instant,
        "email": _email,
        "customer_user_id": _text,
        "first_name": _text,
        "last_name": _text,
        "gender": _text,
        "birthday": _birthday,
        "country": _country,
        "store_country": _country,
        "custom_attributes": _mail_attributes,
        "device_info": record(
            {
                "platform": _text,
                "device": _text,
                "os": _text,
                "locale": _text,
                "timezone": _text,
                "app_version": _text,
            },
            required=("platform",),
        ),
    },
    required=("external_profile_id", "external_created_at", "email"),
)

mail_identifiers = record(
    {"external_profile_id": _text, "customer_user_id": _text, "email": _email}, nullable=True
)

mail_event = record(
    {
        "event_type": _one_of(
            "subscription_started",
            "subscription_renewed",
            "subscription_renewal_cancelled",
            "subscription_renewal_reactivated",
            "billing_issue_detected",
            "entered_grace_period",
            "subscription_refunded",
            "subscription_expired",
            "non_subscription_purchase",
            "non_subscription_purchase_refunded",
        ),
        "event_id": _identifier,
        "event_datetime": _instant,
        "external_profile_id": _identifier,
        "customer_user_id": _text,
        "email": _email,
        "store": _text,
        "store_product_id": _text,
        "store_transaction_id": _text,
        "store_original_transaction_id": _text,
        "purchased_at": _instant,
        "originally_purchased_at": _instant,
        "price_usd": _matching(r"-?[0-9]+(\.[0-9]+)?", "Input should be a decimal string"),
        "expires_at": _instant,
        "offer": record(
            {
                "category": _one_of("introductory", "promotional", "offer_code", "win_back"),
                "offer_type": _one_of("free_trial", "pay_as_you_go", "pay_up_front"),
                "offer_id": _text,
            },
            required=("category", "offer_type"),
        ),
    },
    required=(
        "event_type",
        "event_id",
        "event_datetime",
        "external_profile_id",
        "store",
        "store_product_id",
        "store_transaction_id",
        "store_original_transaction_id",
        "purchased_at",
        "originally_purchased_at",
    ),
)
