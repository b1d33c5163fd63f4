"""
The departures of the sandbox from Adapty's OpenAPI documents that Schemathesis finds.

Each row has its reason. A failure that no row matches fails the run, and so does a row of the long
form that matches nothing any more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from tests.v2 import documented


class Failure(NamedTuple):
    """
    A check of Schemathesis that failed.

    Attributes:
        check: the name of the check.
        document: the name of the document.
        operation: its `operationId`; the method and the path if the document has no such operation.
        broken: the part of the request that the document forbids, such as `header` or `body`.
        status: the status of the response.
        code: the error code in its body, an empty text without one.
        field: the field that the body names, an empty text without one.
        message: the first message of the body.

    """

    check: str
    document: str
    operation: str
    broken: str
    status: int
    code: str
    field: str
    message: str


class Departure(NamedTuple):
    """
    A row for failures that are as they should be; an empty collection matches everything.

    Attributes:
        reason: the sentence that explains the row.
        check: the name of the check.
        statuses: the statuses of the response.
        documents: the names of documents.
        operations: the `operationId` of operations.
        codes: the error codes.
        fields: the fields.
        broken: the parts of the request that the document forbids.
        messages: the first messages of the bodies.
        often: whether the long form has to find it.

    """

    reason: str
    check: str
    statuses: Collection[int]
    documents: Collection[str] = ()
    operations: Collection[str] = ()
    codes: Collection[str] = ()
    fields: Collection[str] = ()
    broken: Collection[str] = ()
    messages: Collection[str] = ()
    often: bool = True

    def matches(self, failure: Failure) -> bool:
        """Return whether the row explains a failure."""
        pairs = (
            ((self.check,), failure.check),
            (self.statuses, failure.status),
            (self.documents, failure.document),
            (self.operations, failure.operation),
            (self.codes, failure.code),
            (self.fields, failure.field),
            (self.broken, failure.broken),
            (self.messages, failure.message),
        )
        return all(not allowed or value in allowed for allowed, value in pairs)


_REJECTED = "positive_data_acceptance"
_UNDOCUMENTED = "status_code_conformance"
_V2 = ("server-side-api-v2",)
_MAIL = ("mail-api",)
_CODES = frozenset({one.code for one in documented.ERRORS} - {"validation_error"})

DEPARTURES: tuple[Departure, ...] = (
    Departure(
        "No document has a status for a body without its media type; every API needs JSON.",
        _UNDOCUMENTED,
        (415,),
        codes=("unsupported_media_type",),
    ),
    Departure(
        "The page of createProfile shows 400 and 404, its document 200, 401 and 500 alone.",
        _UNDOCUMENTED,
        (400,),
        _V2,
        ("createProfile",),
        ("validation_error",),
    ),
    Departure(
        "One of two headers is required by the prose; the documents have no status for neither.",
        _UNDOCUMENTED,
        (400,),
        _V2,
        ("getProfile", "deleteProfile", "getIntegrationIdentifiers"),
        ("validation_error",),
    ),
    Departure(
        "Rules between fields and of the app have documented error codes and no schema.",
        _REJECTED,
        (400,),
        _V2,
        codes=_CODES,
    ),
    Departure(
        "Stripe accepts subscriptions and payment intents that exist; its errors have no code.",
        _REJECTED,
        (400,),
        _V2,
        ("validateStripePurchase",),
        fields=("/data/attributes/stripe_token", "/data/attributes/customer_user_id"),
    ),
    Departure(
        "An identifier is not empty; that is no rule of the schemas.",
        _REJECTED,
        (400, 422),
        messages=("String should have at least 1 character",),
    ),
    Departure(
        "The prose has the alphabet of custom attributes' keys, and a key at least.",
        _REJECTED,
        (400,),
        _V2,
        ("createProfile", "updateProfile"),
        ("validation_error",),
        ("custom_attributes",),
    ),
    Departure(
        "The prose has countries of two capital letters, dotted addresses and domains with a dot.",
        _REJECTED,
        (400,),
        _V2,
        ("createProfile", "updateProfile"),
        ("validation_error",),
        ("ip_country", "store_country", "ip_v4_address", "email"),
        often=False,
    ),
    Departure(
        "A price has the country and the currency of ISO 3166 and ISO 4217.",
        _REJECTED,
        (400,),
        _V2,
        ("setTransaction",),
        ("validation_error",),
        ("price.country", "price.currency"),
        often=False,
    ),
    Departure(
        "A setting, an identifier or a remote config at least has to be in the body.",
        _REJECTED,
        (400,),
        _V2,
        ("setRefundSaverSettings", "setIntegrationIdentifiers", "updatePaywall"),
        ("validation_error",),
        ("", "remote_configs"),
    ),
    Departure(
        "The prose limits metadata to five keys of small letters; a currency code is not empty.",
        _REJECTED,
        (422,),
        _V2,
        ("createVirtualCurrencyTransaction",),
        ("validation_error",),
    ),
    Departure(
        "An id that is none of those in the mended document belongs to a profile by now: "
        "createProfile takes any id, and others find its profile.",
        "negative_data_rejection",
        (200, 204),
        _V2,
        broken=("header",),
    ),
    Departure(
        "The Mail API says 403 for a missing key.",
        "missing_required_header",
        (403,),
        _MAIL,
    ),
    Departure(
        "One of three identifiers is required and not empty; the documented code says so.",
        _REJECTED,
        (400,),
        _MAIL,
        ("deleteProfile",),
        ("missing_identifier",),
    ),
    Departure(
        "The prose has decimal prices, countries of two capital letters, and attributes that are "
        "text or numbers; identifiers are not empty and addresses have a domain with a dot.",
        _REJECTED,
        (400,),
        _MAIL,
        codes=("base_error",),
    ),
    Departure(
        "The prose has periods that do not end before they begin, products with their store, and "
        "countries of two letters.",
        _REJECTED,
        (400,),
        ("export-analytics-api",),
        codes=("validation_error",),
        fields=(
            "filters.date",
            "filters.compare_date",
            "filters.store_product_id",
            "filters.country",
        ),
    ),
)


def explained(failure: Failure) -> Departure | None:
    """Return the first row that explains a failure, `None` if there is none."""
    return next((row for row in DEPARTURES if row.matches(failure)), None)
