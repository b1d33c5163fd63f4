"""Operations of version 2: virtual currencies."""

from __future__ import annotations

import math
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec

from . import _v2_rules as rules
from ._rules import Invalid, Problem
from ._server_side import BASE, ServerSide, require_profile, whole_number
from ._service import Call, Refusal, Response, Service, json_response, read
from ._shop import IdempotencyRecord, Shop
from ._store import Store, StoredProfile

_KEY_SECONDS = 3600.0
_LIMIT, _LIMIT_MAX = 50, 100
_NEWEST = 2**62


class CurrenciesV2:
    """The operations on virtual currencies of one profile."""

    def __init__(
        self, store: Store, shop: Shop, latency: Callable[[], float], *, enabled: bool
    ) -> None:
        """Serve the profiles of `store`; a transaction is in flight for `latency()` seconds."""
        self._store = store
        self._shop = shop
        self._latency = latency
        self._enabled = enabled

    def services(self, authorization: str) -> dict[str, Service]:
        """Return the services by path."""
        transactions = {"POST": self._create, "GET": self._list}
        return {
            f"{BASE}/vc/transactions/": ServerSide(authorization, transactions),
            f"{BASE}/vc/balances/": ServerSide(authorization, {"GET": self._balances}),
        }

    def _profile(self, call: Call) -> StoredProfile:
        if not self._enabled:
            message = (
                "Server API for virtual currencies is not enabled for this app. "
                "Contact Adapty support to request access."
            )
            raise Refusal(403, "feature_not_enabled", Problem(message))
        return require_profile(self._store, call)

    # Transactions

    def _create(self, call: Call) -> Response:
        profile_id = self._profile(call).profile_id
        body = read(call, rules.currency_transaction)
        key = _key(call)
        before = key and self._shop.idempotency_record(profile_id, key, time.time() - _KEY_SECONDS)
        if before:
            return self._stored_response(before)
        changes = [(item["currency_code"], item["amount"]) for item in body["items"]]
        after = self._balances_after(profile_id, changes)
        fields: dict[str, Any] = {
            "transaction_id": str(uuid4()),
            "transaction_type": "api_transaction",
            "items": [
                {"currency_code": code, "amount": amount, "balance_after": after[code]}
                for code, amount in changes
            ],
            "created_at": datetime.now(UTC).isoformat(),
        }
        if body.get("metadata"):
            fields["metadata"] = body["metadata"]
        names = self._shop.currencies()
        balances = [_balance(code, names[code], after[code]) for code, _ in changes]
        response = msgspec.json.encode(
            {"transaction_id": fields["transaction_id"], "balances": balances}
        )
        record = (key, IdempotencyRecord(time.time(), response)) if key else None
        self._shop.add_currency_transaction(profile_id, fields, changes, record)
        return Response(200, response)

    def _stored_response(self, before: IdempotencyRecord) -> Response:
        left = before.at + self._latency() - time.time()
        if left > 0:
            raise Refusal(
                409,
                "idempotency_in_flight",
                Problem("A similar request is being processed."),
                headers={"Retry-After": str(math.ceil(left))},
            )
        return Response(200, before.response)

    def _balances_after(self, profile_id: str, changes: list[tuple[str, int]]) -> dict[str, int]:
        """
        Return the balances after the changes.

        Raises:
            Refusal: a currency is unknown, or a balance would be too small or too large.
        """
        known, balances = self._shop.currencies(), self._shop.balances(profile_id)
        after = {}
        for code, amount in changes:
            if code not in known:
                problem = Problem(f"Unknown currency {code}", "currency_code")
                raise Refusal(400, "unknown_currency", problem)
            after[code] = balances.get(code, 0) + amount
            if after[code] < 0:
                problem = Problem(f"Insufficient balance for currency {code}", "currency_code")
                raise Refusal(400, "insufficient_balance", problem)
            if after[code] >= rules.INT32:
                problem = Problem(f"Balance overflow for currency {code}", "currency_code")
                raise Refusal(400, "balance_overflow", problem)
        return after

    # Lists

    def _list(self, call: Call) -> Response:
        profile_id = self._profile(call).profile_id
        limit = _limit(call)
        before = _position(call.query.get("cursor"))
        code = call.query.get("currency_code")
        rows = self._shop.currency_history(profile_id, code, before, limit + 1)
        page, more = rows[:limit], rows[limit:]
        cursor = _cursor(page[-1][0]) if more else None
        return json_response(
            200, {"data": [fields for _, fields in page], "pagination": {"next_cursor": cursor}}
        )

    def _balances(self, call: Call) -> Response:
        balances = self._shop.balances(self._profile(call).profile_id)
        listed = [
            _balance(code, name, balances.get(code, 0))
            for code, name in self._shop.currencies().items()
        ]
        return json_response(200, {"response_created_at": int(time.time() * 1000), "data": listed})


def _balance(code: str, name: str, balance: int) -> dict[str, Any]:
    return {"code": code, "name": name, "balance": balance, "held": 0, "available": balance}


def _key(call: Call) -> str | None:
    key = call.headers.get("Idempotency-Key")
    if key is None:
        return None
    try:
        good = UUID(key).version == 4 and str(UUID(key)) == key.lower()
    except ValueError:
        good = False
    if not good:
        problem = Problem("Idempotency-Key must be a valid UUID v4", "Idempotency-Key")
        raise Refusal(400, "idempotency_key_invalid", problem)
    return key.lower()


def _limit(call: Call) -> int:
    limit = whole_number(call.query.get("limit", str(_LIMIT)))
    if not 1 <= limit <= _LIMIT_MAX:
        raise Invalid(Problem(f"Must be between 1 and {_LIMIT_MAX}", "limit"))
    return limit


def _cursor(number: int) -> str:
    return urlsafe_b64encode(f"before:{number}".encode()).decode()


def _position(cursor: str | None) -> int:
    if cursor is None:
        return _NEWEST
    try:
        name, _, number = urlsafe_b64decode(cursor).decode().partition(":")
        position = whole_number(number) if name == "before" else 0
    except ValueError:
        position = 0
    if position < 1:
        raise Refusal(400, "invalid_cursor", Problem("Invalid cursor", "cursor"))
    return position
