"""
Validation rules for request bodies, written from Adapty's documentation. They do no I/O.

A rule is a function that returns the value as it is stored, or raises `Invalid`. The documentation
of the server-side API describes the Profile object; the one of the Mail API describes the profile,
device, event and offer objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

Rule = Callable[[Any], Any]

_ATTRIBUTES_MAX = 30
_ATTRIBUTE_KEY = re.compile(r"[A-Za-z0-9._-]{1,30}")
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Problem(NamedTuple):
    """One mistake and the field that has it; `None` stands for the request as a whole."""

    message: str
    field: str | None = None


class Invalid(Exception):  # noqa: N818 - a response to the client, not a failure of the sandbox
    """An exception for a value that breaks one or more rules."""

    def __init__(self, *problems: Problem) -> None:
        """Store the problems in the order in which they were found."""
        super().__init__(*problems)
        self.problems = problems

    def under(self, name: str) -> Iterable[Problem]:
        """Yield the problems with `name` as a prefix of their fields."""
        for message, field in self.problems:
            yield Problem(message, name if field is None else f"{name}.{field}")


def wrong(message: str) -> Invalid:
    """Return an `Invalid` with one message and no field."""
    return Invalid(Problem(message))


def text(value: Any) -> str:
    """Require a string."""
    if not isinstance(value, str):
        raise wrong("Input should be a valid string")
    return value


def identifier(value: Any) -> str:
    """Require a string that is not empty."""
    if not text(value):
        raise wrong("String should have at least 1 character")
    return str(value)


def flag(value: Any) -> bool:
    """Require a boolean."""
    if not isinstance(value, bool):
        raise wrong("Input should be a valid boolean")
    return value


def matching(pattern: str, message: str) -> Rule:
    """Return a rule for strings that match a pattern completely."""
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if not compiled.fullmatch(text(value)):
            raise wrong(message)
        return str(value)

    return check


def one_of(*allowed: str) -> Rule:
    """Return a rule for one of several strings."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise wrong(f"Input should be one of {', '.join(allowed)}")
        return str(value)

    return check


def birthday(value: Any) -> str:
    """Require a calendar date."""
    # The pattern comes first: fromisoformat also reads 20001231 and week dates.
    try:
        if _ISO_DATE.fullmatch(text(value)):
            return date.fromisoformat(value).isoformat()
    except ValueError:
        pass
    raise wrong("Input should be a valid date in the format YYYY-MM-DD")


def date_time(value: Any) -> str:
    """Require a date and time with a UTC offset; T and Z may be small, as in RFC 3339."""
    try:
        aware = datetime.fromisoformat(text(value).upper()).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise wrong("Input should be a valid ISO 8601 date-time with an offset")
    return str(value).upper()


class Required(NamedTuple):
    """The rule of a field that an object must have."""

    rule: Rule


def record(fields: Mapping[str, Rule | Required], *, nullable: bool = False) -> Rule:
    """
    Return a rule for objects that checks known fields and drops unknown ones.

    With `nullable`, every field that is not required may be null, which clears it.
    """
    required = [name for name, rule in fields.items() if isinstance(rule, Required)]
    rules = {
        name: rule.rule if isinstance(rule, Required) else rule for name, rule in fields.items()
    }

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong("Input should be a valid object")
        problems = [Problem("Field required", name) for name in required if name not in value]
        clean: dict[str, Any] = {}
        for name in (known for known in rules if known in value):
            try:
                cleared = nullable and value[name] is None and name not in required
                clean[name] = None if cleared else rules[name](value[name])
            except Invalid as inner:
                problems.extend(inner.under(name))
        if problems:
            raise Invalid(*problems)
        return clean

    return check


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    """
    Yield the keys and values of custom attributes.

    The table of the Profile object shows a dictionary, the example request a list of objects.
    """
    if isinstance(value, dict):
        return value.items()
    if not isinstance(value, list):
        raise wrong("Input should be a list of key and value")
    if not all(isinstance(item, dict) and {"key", "value"} <= item.keys() for item in value):
        raise wrong("Each custom attribute needs a key and a value")
    return [(item["key"], item["value"]) for item in value]


def _attribute_key(key: Any) -> str:
    if not _ATTRIBUTE_KEY.fullmatch(text(key)):
        raise wrong(
            "A key has 1 to 30 characters: letters, numbers, dashes, points and underscores"
        )
    return str(key)


def _attribute_value(value: Any, length: int) -> str | float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if len(value) > length:
            raise wrong(f"A value has no more than {length} characters")
        return value
    return _number(value)


def _number(value: Any) -> float:
    if not isinstance(value, (bool, int, float)):
        raise wrong("A value is a string or a number")
    try:
        return float(value)
    except OverflowError as error:
        raise wrong("The number is too large") from error


def custom_attributes(length: int) -> Rule:
    """Return a rule for custom attributes whose values have at most `length` characters."""

    def check(value: Any) -> dict[str, str | float | None]:
        changes = {
            _attribute_key(key): _attribute_value(given, length) for key, given in _pairs(value)
        }
        if not changes:
            raise wrong("At least one attribute key is required")
        return changes

    return check


v1_profile = record(
    {
        "first_name": text,
        "last_name": text,
        "gender": text,
        "email": text,
        "phone_number": text,
        "birthday": birthday,
        # The documented example is "FR, US", so the rule cannot be stricter than a string.
        "ip_country": text,
        "store_country": text,
        "store": text,
        "analytics_disabled": flag,
        "custom_attributes": custom_attributes(30),
        "installation_meta": record(
            {
                "device_id": text,
                "device": text,
                "locale": text,
                "os": text,
                "platform": text,
                "timezone": text,
                "user_agent": text,
                "idfa": text,
                "idfv": text,
                "advertising_id": text,
                "android_id": text,
                "android_app_set_id": text,
            },
            nullable=True,
        ),
    },
    nullable=True,
)


def _merged(stored: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(stored)
    for name, change in changes.items():
        if change is None:
            result.pop(name, None)
        else:
            is_object = isinstance(change, dict)
            result[name] = _merged(result.get(name, {}), change) if is_object else change
    return result


def updated(stored: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the attributes of a server-side profile after `changes` that keep `v1_profile`.

    A null clears a field, an absent field stays, and objects are merged key by key.

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
    # No conversion and no maximum length: the documentation of the Mail API states neither.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise wrong("Input should be a string or a number")
    return value


def _mail_attributes(value: Any) -> Any:
    names = value if isinstance(value, dict) else ()
    return record(dict.fromkeys(names, _mail_attribute))(value)


email = matching(r"[^@\s]+@[^@\s]+\.[^@\s]+", "Input should be a valid email address")
country = matching(r"[A-Z]{2}", "Input should be a two-letter upper-case country code")

mail_profile = record(
    {
        "external_profile_id": Required(identifier),
        "external_created_at": Required(date_time),
        "email": Required(email),
        "customer_user_id": text,
        "first_name": text,
        "last_name": text,
        "gender": text,
        "birthday": birthday,
        "country": country,
        "store_country": country,
        "custom_attributes": _mail_attributes,
        "device_info": record(
            {
                "platform": Required(text),
                "device": text,
                "os": text,
                "locale": text,
                "timezone": text,
                "app_version": text,
            }
        ),
    }
)

mail_identifiers = record(
    {"external_profile_id": text, "customer_user_id": text, "email": email}, nullable=True
)

mail_event = record(
    {
        "event_type": Required(
            one_of(
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
            )
        ),
        "event_id": Required(identifier),
        "event_datetime": Required(date_time),
        "external_profile_id": Required(identifier),
        "customer_user_id": text,
        "email": email,
        "store": Required(text),
        "store_product_id": Required(text),
        "store_transaction_id": Required(text),
        "store_original_transaction_id": Required(text),
        "purchased_at": Required(date_time),
        "originally_purchased_at": Required(date_time),
        "price_usd": matching(r"-?[0-9]+(\.[0-9]+)?", "Input should be a decimal string"),
        "expires_at": date_time,
        "offer": record(
            {
                "category": Required(
                    one_of("introductory", "promotional", "offer_code", "win_back")
                ),
                "offer_type": Required(one_of("free_trial", "pay_as_you_go", "pay_up_front")),
                "offer_id": text,
            }
        ),
    }
)
