"""Virtual currencies: credits and debits, their balances and their history."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, field

from adapty_async._api.call import Endpoint, Execute, Operation, RetrySafety, identity
from adapty_async._api.codec import to_json
from adapty_async._api.results import DateTime, ResultStruct, data_decoder
from adapty_async._api.validation import (
    Check,
    DocumentedStruct,
    OrUnset,
    check_body,
    matching,
    nullable,
    struct_in,
    text,
)
from adapty_async.errors import DecodeError, InvalidInputError
from adapty_async.v2._models import DOCS, PATH
from adapty_async.v2._paging import Pages
from adapty_async.v2._rules import at_most, in_range, uuid4, whole_number

_INT32 = 2**31


def _amount(field_name: str, value: int) -> None:
    if not -_INT32 <= value < _INT32:
        raise InvalidInputError(field_name, "must fit into 32 bits")
    if value == 0:
        raise InvalidInputError(field_name, "must not be 0")


class VirtualCurrencyBalanceAdjustment(DocumentedStruct, frozen=True, kw_only=True):
    """
    A credit or debit of one balance.

    Attributes:
        amount: a whole number of 32 bits; above 0 is a credit, below 0 a debit.

    Raises:
        InvalidInputError: a value is of the wrong kind.
    """

    currency_code: str
    amount: int

    rules: ClassVar[Mapping[str, Check]] = {"currency_code": text, "amount": whole_number}
    documented: ClassVar[Mapping[str, Check]] = {"amount": _amount}


def _is_items(field_name: str, value: Any) -> None:
    good = isinstance(value, tuple) and all(
        isinstance(item, VirtualCurrencyBalanceAdjustment) for item in value
    )
    if not good:
        raise InvalidInputError(field_name, "must be VirtualCurrencyBalanceAdjustments")


def _items(field_name: str, items: tuple[VirtualCurrencyBalanceAdjustment, ...]) -> None:
    if not 1 <= len(items) <= 20:
        raise InvalidInputError(field_name, "must have 1 to 20 entries")
    for item in items:
        struct_in(field_name, item)
    if len({item.currency_code for item in items}) < len(items):
        raise InvalidInputError(f"{field_name}.currency_code", "must be a different one each time")


_KEY = matching(r"[a-z0-9_]{1,30}", "a key must be 1 to 30 of a to z, 0 to 9 and _")


def _is_metadata(field_name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidInputError(field_name, f"must be a dict, not {type(value).__name__}")
    for key, entry in value.items():
        if not isinstance(key, str) or not isinstance(entry, str):
            raise InvalidInputError(field_name, "must have text as keys and values")


def _metadata(field_name: str, value: dict[str, str]) -> None:
    if len(value) > 5:
        raise InvalidInputError(field_name, "must not have more than 5 entries")
    for key, entry in value.items():
        _KEY(field_name, key)
        at_most(200)(f"{field_name}.{key}", entry)


class VirtualCurrencyTransactionRequest(DocumentedStruct, frozen=True, kw_only=True):
    """
    A transaction of several balances, which is atomic.

    Attributes:
        items: 1 to 20 adjustments, each of another currency.
        metadata: text by key that is stored with the transaction: at most 5 entries; a key is 1 to
            30 of a to z, 0 to 9 and ``_``, a value at most 200 characters.

    Raises:
        InvalidInputError: a value is of the wrong kind.
    """

    items: tuple[VirtualCurrencyBalanceAdjustment, ...]
    metadata: OrUnset[dict[str, str] | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {"items": _is_items, "metadata": nullable(_is_metadata)}
    documented: ClassVar[Mapping[str, Check]] = {"items": _items, "metadata": _metadata}


class VirtualCurrencyBalance(ResultStruct, frozen=True, kw_only=True):
    """
    The balance of one currency of a profile.

    Attributes:
        name: the name of the currency for people.
        balance: the total amount, including the held amount.
        held: the reserved amount; at present always 0.
        available: the amount that can be spent.
    """

    code: str = ""
    name: str = ""
    balance: int = 0
    held: int = 0
    available: int = 0


class VirtualCurrencyTransaction(ResultStruct, frozen=True, kw_only=True):
    """
    A completed transaction.

    Attributes:
        balances: the balances after the transaction, one for each item.
    """

    transaction_id: str = ""
    balances: tuple[VirtualCurrencyBalance, ...] = ()

    essential: ClassVar[frozenset[str]] = frozenset({"transaction_id"})


class VirtualCurrencyBalanceList(ResultStruct, frozen=True, kw_only=True):
    """
    All balances of a profile.

    Attributes:
        response_created_at: the time of the response, in milliseconds since 1970.
    """

    response_created_at: int = 0
    data: tuple[VirtualCurrencyBalance, ...] = ()

    essential: ClassVar[frozenset[str]] = frozenset({"data"})


class VirtualCurrencyBalanceChange(ResultStruct, frozen=True, kw_only=True):
    """
    The change of one balance by a transaction.

    Attributes:
        amount: above 0 is a credit, below 0 a debit.
    """

    currency_code: str = ""
    amount: int = 0
    balance_after: int = 0


class VirtualCurrencyTransactionsHistoryItem(ResultStruct, frozen=True, kw_only=True):
    """
    A past transaction.

    Attributes:
        transaction_type: ``store_purchase``, ``subscription_renewal``, ``trial_start``,
            ``api_transaction``, ``dashboard_transaction``, ``refund``, ``expiry`` or a newer one.
    """

    transaction_id: str = ""
    transaction_type: str = ""
    items: tuple[VirtualCurrencyBalanceChange, ...] = ()
    metadata: dict[str, str] | None = None
    created_at: DateTime | None = None

    essential: ClassVar[frozenset[str]] = frozenset({"transaction_id"})


class VirtualCurrencyHistoryPagination(ResultStruct, frozen=True, kw_only=True):
    """
    The position of the next page.

    Attributes:
        next_cursor: None on the last page.
    """

    next_cursor: str | None = None

    essential: ClassVar[frozenset[str]] = frozenset({"next_cursor"})


class VirtualCurrencyTransactionsHistory(ResultStruct, frozen=True, kw_only=True):
    """A page of transactions, newest first."""

    data: tuple[VirtualCurrencyTransactionsHistoryItem, ...] = ()
    pagination: VirtualCurrencyHistoryPagination = field(
        default_factory=VirtualCurrencyHistoryPagination
    )

    essential: ClassVar[frozenset[str]] = frozenset({"data", "pagination"})


def _check_transaction(operation: Operation[Any]) -> None:
    check_body(operation)
    if operation.key is not None:
        uuid4("idempotency_key", operation.key)


def _check_history(operation: Operation[Any]) -> None:
    limit = dict(operation.parameters).get("limit")
    if limit is not None:
        in_range(1, 100)("limit", int(limit))


_TRANSACTIONS = f"{PATH}/vc/transactions/"

CREATE_VIRTUAL_CURRENCY_TRANSACTION: Endpoint[VirtualCurrencyTransaction] = Endpoint(
    name="v2.virtual_currencies.create_transaction",
    method="POST",
    path=_TRANSACTIONS,
    docs=f"{DOCS}/createVirtualCurrencyTransaction",
    retry_safety=RetrySafety.WITH_KEY,  # all attempts share a key; it is applied once
    bucket="v2.vc.create",  # a rate limit of its own: 600 requests a minute
    decode=data_decoder(VirtualCurrencyTransaction, unwrap=False),
    encode=to_json,
    check=_check_transaction,
)
LIST_VIRTUAL_CURRENCY_TRANSACTIONS: Endpoint[VirtualCurrencyTransactionsHistory] = Endpoint(
    name="v2.virtual_currencies.list_transactions",
    method="GET",
    path=_TRANSACTIONS,
    docs=f"{DOCS}/listVirtualCurrencyTransactions",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="v2",
    decode=data_decoder(
        VirtualCurrencyTransactionsHistory,
        unwrap=False,
        requires=("data", "pagination.next_cursor"),
    ),
    absent_if_missing=True,
    check=_check_history,
)
LIST_VIRTUAL_CURRENCY_BALANCES: Endpoint[VirtualCurrencyBalanceList] = Endpoint(
    name="v2.virtual_currencies.list_balances",
    method="GET",
    path=f"{PATH}/vc/balances/",
    docs=f"{DOCS}/listVirtualCurrencyBalances",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="v2",
    decode=data_decoder(VirtualCurrencyBalanceList, unwrap=False, requires=("data",)),
    absent_if_missing=True,
)


def create_virtual_currency_transaction(
    items: Iterable[VirtualCurrencyBalanceAdjustment],
    *,
    metadata: OrUnset[dict[str, str] | None] = UNSET,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
    idempotency_key: str | None = None,
) -> Operation[VirtualCurrencyTransaction]:
    """Return the operation of `VirtualCurrencies.create_transaction`, with an idempotency key."""
    about = identity(customer_user_id, profile_id)
    request = VirtualCurrencyTransactionRequest(items=tuple(items), metadata=metadata)
    key = str(uuid.uuid4()) if idempotency_key is None else idempotency_key
    return Operation(CREATE_VIRTUAL_CURRENCY_TRANSACTION, about, request, key)


def list_virtual_currency_transactions(
    *,
    currency_code: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[VirtualCurrencyTransactionsHistory]:
    """Return the operation that reads one page of `VirtualCurrencies.list_transactions`."""
    about = identity(customer_user_id, profile_id)
    nullable(text)("currency_code", currency_code)
    nullable(text)("cursor", cursor)
    nullable(whole_number)("limit", limit)
    size = None if limit is None else str(int(limit))
    given = {"currency_code": currency_code, "cursor": cursor, "limit": size}
    query = tuple((name, value) for name, value in given.items() if value is not None)
    return Operation(LIST_VIRTUAL_CURRENCY_TRANSACTIONS, about, parameters=query)


def _following(
    operation: Operation[VirtualCurrencyTransactionsHistory],
    page: VirtualCurrencyTransactionsHistory,
) -> Operation[VirtualCurrencyTransactionsHistory] | None:
    cursor = page.pagination.next_cursor
    if not cursor:
        return None
    if ("cursor", cursor) in operation.parameters:
        raise DecodeError("the next page is the same page", operation=operation.endpoint.name)
    others = (one for one in operation.parameters if one[0] != "cursor")
    return msgspec.structs.replace(operation, parameters=(*others, ("cursor", cursor)))


def list_virtual_currency_balances(
    *, customer_user_id: str | None = None, profile_id: str | None = None
) -> Operation[VirtualCurrencyBalanceList]:
    """Return the operation of `VirtualCurrencies.list_balances`."""
    return Operation(LIST_VIRTUAL_CURRENCY_BALANCES, identity(customer_user_id, profile_id))


class VirtualCurrencies:
    """A resource of the calls on the virtual currencies of one profile."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def create_transaction(
        self,
        items: Iterable[VirtualCurrencyBalanceAdjustment],
        *,
        metadata: OrUnset[dict[str, str] | None] = UNSET,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> VirtualCurrencyTransaction:
        """
        Credit or debit one or more currencies in one atomic transaction.

        All attempts of the call share an idempotency key, so the server applies the transaction
        once. The server remembers a key for up to an hour.

        Args:
            items: 1 to 20 changes, each of another currency.
            metadata: text by key, which is stored with the transaction.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.
            idempotency_key: a UUID of version 4, to retry a call of another process; by default, a
                new one.

        Raises:
            InvalidInputError: not exactly one id was passed, it cannot be sent, or a value breaks a
                rule.
            NotFoundError: there is no such profile.
            ConflictError: the store transaction was credited before.
            RequestRejectedError: the balance is too small, the currency is unknown, or the app may
                not use virtual currencies, among other reasons; see its `error_code`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/createVirtualCurrencyTransaction
        """
        return await self._execute(
            create_virtual_currency_transaction(
                items,
                metadata=metadata,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
                idempotency_key=idempotency_key,
            )
        )

    def list_transactions(
        self,
        *,
        currency_code: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> Pages[VirtualCurrencyTransactionsHistoryItem, VirtualCurrencyTransactionsHistory]:
        """
        Read the transactions of a profile, newest first; use it with ``async for``.

        Args:
            currency_code: only of this currency.
            cursor: the first page to read: the `next_cursor` of another page.
            limit: the number of transactions in a page, 1 to 100; 50 by default.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.

        Raises:
            InvalidInputError: not exactly one id was passed, or a value is of the wrong kind.
                Whether the limit is in range is checked when the first page is read.

        Source: https://adapty.io/docs/api-adapty/operations/listVirtualCurrencyTransactions
        """
        first = list_virtual_currency_transactions(
            currency_code=currency_code,
            cursor=cursor,
            limit=limit,
            customer_user_id=customer_user_id,
            profile_id=profile_id,
        )
        return Pages(self._execute, first, _following)

    async def list_balances(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> VirtualCurrencyBalanceList:
        """
        Read the balances of a profile in all currencies of the app.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/listVirtualCurrencyBalances
        """
        return await self._execute(
            list_virtual_currency_balances(customer_user_id=customer_user_id, profile_id=profile_id)
        )
