"""The contract of the Mail API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from adapty_async import mail
from adapty_async._api.call import Operation
from adapty_async.errors import AuthenticationError, NotFoundError, RequestRejectedError
from tests.contract.contract import STATUSES, Contract, built
from tests.contract.documents import DOCUMENTS

DOCUMENT = DOCUMENTS["mail-api"]
PROFILE = mail.MailProfile(
    external_profile_id="u1", external_created_at="2026-06-01T10:30:00Z", email="jane@example.com"
)
EVENT = mail.TransactionEvent(
    event_type="subscription_started",
    event_id="e1",
    event_datetime="2026-06-10T14:20:05Z",
    external_profile_id="u1",
    store="app_store",
    store_product_id="p",
    store_transaction_id="1",
    store_original_transaction_id="1",
    purchased_at="2026-06-10T14:20:00Z",
    originally_purchased_at="2026-06-10T14:20:00Z",
)
BUILT_OF: dict[str, Callable[[Any], Any]] = {
    "device_info": lambda value: mail.DeviceInfo(**value),
    "offer": lambda value: mail.Offer(**value),
}
CALLS: dict[str, Callable[..., Operation[Any]]] = {
    "saveProfile": lambda: mail.save_profile(PROFILE),
    "deleteProfile": lambda: mail.delete_profile(external_profile_id="u1"),
    "saveTransactionEvent": lambda: mail.save_event(EVENT),
}
DEFECTS: dict[str, Callable[[], bool]] = {
    "field_name is null in examples, a string in the schema": lambda: (
        None
        in [
            error["field_name"]
            for _, _, body in DOCUMENT.error_examples()
            for error in body["errors"]
        ]
        and DOCUMENT.schemas["Errors"]["properties"]["errors"]["items"]["properties"]["field_name"]
        == {"type": "string"}
    ),
    "a country is any string, although only two capital letters are taken": lambda: (
        DOCUMENT.schemas["ProfileDTO"]["properties"]["country"] == {"type": "string"}
    ),
    "a value of a custom attribute is anything, although the prose says text or a number": lambda: (
        DOCUMENT.schemas["ProfileDTO"]["properties"]["custom_attributes"] == {"type": "object"}
    ),
}

CONTRACT = Contract(
    name="mail-api",
    module=mail,
    calls=CALLS,
    requests={
        "ProfileDTO": mail.MailProfile,
        "DeviceInfoDTO": mail.DeviceInfo,
        "TransactionEventDTO": mail.TransactionEvent,
        "Offer": mail.Offer,
    },
    responses={},
    parts=frozenset({"TransactionEventType", "OfferCategory", "OfferType"}),
    elsewhere={
        "ProfileDeleteDTO": "the arguments of delete_profile; its examples are built",
        "Errors": "the codec decodes every error format; its examples are decoded",
    },
    builders={
        "saveProfile": lambda body: mail.save_profile(mail.MailProfile(**built(body, BUILT_OF))),
        "deleteProfile": lambda body: mail.delete_profile(**body),
        "saveTransactionEvent": lambda body: mail.save_event(
            mail.TransactionEvent(**built(body, BUILT_OF))
        ),
    },
    error_kinds={
        (400, "base_error"): RequestRejectedError,
        (400, "missing_identifier"): RequestRejectedError,
        (403, "secret_key_does_not_exist_error"): AuthenticationError,
        (404, "profile_not_found_error"): NotFoundError,
    },
    statuses=STATUSES,
    authorization=lambda sandbox: f"Bearer {sandbox.mail_api_key}",
    filling=(mail.save_profile(PROFILE),),
    defects=DEFECTS,
    # A caller may send null on purpose; no document says whether the server takes it.
    takes_null=frozenset(
        (struct.__name__, field.name)
        for struct in (mail.MailProfile, mail.DeviceInfo, mail.TransactionEvent, mail.Offer)
        for field in msgspec.structs.fields(struct)
        if not field.required
    )
    - {
        ("MailProfile", "custom_attributes"),
        ("MailProfile", "device_info"),
        ("TransactionEvent", "offer"),
    },
)
