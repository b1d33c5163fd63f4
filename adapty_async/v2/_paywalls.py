"""Paywalls: list and read them, and replace their remote configs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
from msgspec import field

from adapty_async._api.call import Endpoint, Execute, Operation, RetrySafety
from adapty_async._api.codec import to_json
from adapty_async._api.results import DateTime, ResultStruct, data_decoder
from adapty_async._api.validation import any_text, matching
from adapty_async.errors import InvalidInputError
from adapty_async.v2._models import DOCS, PATH
from adapty_async.v2._paging import Pages
from adapty_async.v2._rules import in_range, whole_number


class ProductOffer(ResultStruct, frozen=True, kw_only=True):
    """The offer of a paywall for a product."""

    product_offer_id: str = ""
    title: str = ""


class Product(ResultStruct, frozen=True, kw_only=True):
    """
    A product on a paywall.

    Attributes:
        product_set: ``weekly``, ``monthly``, ``trimonthly``, ``semiannual``, ``annual``,
            ``lifetime``, ``uncategorised``, ``nonsubscriptions``, ``two_months``, ``consumable``
            or a newer one.
    """

    product_id: str = ""
    title: str = ""
    product_set: str = ""
    offer: ProductOffer | None = None


class RemoteConfig(msgspec.Struct, frozen=True, kw_only=True):
    """
    The remote config of a paywall in one language, for reading and writing.

    Attributes:
        locale: such as ``en``.
        data: the config as JSON text, nested in the JSON.
    """

    locale: str
    data: str

    @classmethod
    def of(cls, locale: str, value: Any) -> RemoteConfig:
        """Return a remote config of a value that can be encoded as JSON."""
        return cls(locale=locale, data=to_json(value).decode())

    @property
    def value(self) -> Any:
        """
        The decoded JSON text.

        Raises:
            ValueError: the text is not JSON.
        """
        return msgspec.json.decode(self.data)


class Screenshot(ResultStruct, frozen=True, kw_only=True):
    """The picture of a paywall in the dashboard."""

    image_id: int = 0
    url: str = ""


class PaywallListItem(ResultStruct, frozen=True, kw_only=True):
    """
    An entry of a list of paywalls, without its remote configs.

    Attributes:
        state: ``draft``, ``live``, ``inactive``, ``archived`` or a newer one.
    """

    title: str = ""
    paywall_id: str = ""
    use_paywall_builder: bool = False
    use_paywall_builder_legacy: bool = False
    updated_at: DateTime | None = None
    created_at: DateTime | None = None
    state: str = ""
    is_deleted: bool = False
    web_purchase_url: str | None = None
    products: tuple[Product, ...] = ()

    essential: ClassVar[frozenset[str]] = frozenset({"paywall_id"})


class Paywall(PaywallListItem, frozen=True, kw_only=True):
    """
    A paywall.

    Attributes:
        remote_configs: one for each language. One unreadable config makes the paywall
            unreadable, since a write of the others would delete it.
    """

    remote_configs: tuple[RemoteConfig, ...] = ()
    main_screenshot: Screenshot | None = None

    essential: ClassVar[frozenset[str]] = frozenset({"paywall_id", "remote_configs"})


class Pagination(ResultStruct, frozen=True, kw_only=True):
    """
    The position of a page in a list.

    Attributes:
        count: the number of paywalls in the list.
        page: the number of this page, from 1.
        pages: the number of pages.
    """

    count: int = 0
    page: int = 0
    pages: int = 0

    essential: ClassVar[frozenset[str]] = frozenset({"pages"})


class PaywallListMeta(ResultStruct, frozen=True, kw_only=True):
    """The metadata of a page of paywalls."""

    pagination: Pagination = field(default_factory=Pagination)

    essential: ClassVar[frozenset[str]] = frozenset({"pagination"})


class PaywallList(ResultStruct, frozen=True, kw_only=True):
    """A page of paywalls."""

    data: tuple[PaywallListItem, ...] = ()
    meta: PaywallListMeta = field(default_factory=PaywallListMeta)

    essential: ClassVar[frozenset[str]] = frozenset({"data", "meta"})


class _Update(msgspec.Struct, frozen=True):
    remote_configs: tuple[RemoteConfig, ...]


_NUMBER, _SIZE = "page[number]", "page[size]"
_ID = matching(r"[A-Za-z0-9_-]+", "must be letters, digits and dashes, as in a UUID")


def _check_page(operation: Operation[Any]) -> None:
    given = dict(operation.parameters)
    in_range(1)("page_number", int(given.get(_NUMBER, 1)))
    in_range(1, 100)("page_size", int(given.get(_SIZE, 20)))


def _check_update(operation: Operation[Any]) -> None:
    configs = operation.body.remote_configs
    if not configs:
        raise InvalidInputError("remote_configs", "must have at least one entry")
    for config in configs:
        try:
            msgspec.json.decode(config.data)
        except (ValueError, RecursionError):
            raise InvalidInputError("remote_configs.data", "must be JSON text") from None


_read_page = data_decoder(PaywallList, unwrap=False, requires=("data", "meta.pagination.pages"))


def _read_list(body: bytes) -> PaywallList:
    """Decode a page. A number of pages that contradicts its paywalls would end a list early."""
    listed = _read_page(body)
    position = listed.meta.pagination
    if position.pages < 1 if listed.data else (position.page or 0) < position.pages:
        raise msgspec.ValidationError("not as documented - at `$.meta.pagination.pages`")
    return listed


LIST_PAYWALLS: Endpoint[PaywallList] = Endpoint(
    name="v2.paywalls.list",
    method="GET",
    path=f"{PATH}/paywalls/",
    docs=f"{DOCS}/listPaywalls",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="v2",
    decode=_read_list,
    check=_check_page,
)
GET_PAYWALL: Endpoint[Paywall] = Endpoint(
    name="v2.paywalls.get",
    method="GET",
    path=f"{PATH}/paywalls/{{paywall_id}}/",
    docs=f"{DOCS}/getPaywall",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="v2",
    decode=data_decoder(Paywall, requires=("paywall_id",)),
    absent_if_missing=True,
)
UPDATE_PAYWALL: Endpoint[Paywall] = Endpoint(
    name="v2.paywalls.update",
    method="PUT",
    path=f"{PATH}/paywalls/{{paywall_id}}/",
    docs=f"{DOCS}/updatePaywall",
    retry_safety=RetrySafety.ALWAYS,  # a retry writes the same values
    bucket="v2",
    decode=data_decoder(Paywall),
    encode=to_json,
    check=_check_update,
)


def list_paywalls(*, page_number: int = 1, page_size: int = 20) -> Operation[PaywallList]:
    """Return the operation that reads one page of `Paywalls.list`."""
    whole_number("page_number", page_number)
    whole_number("page_size", page_size)
    page = ((_NUMBER, str(int(page_number))), (_SIZE, str(int(page_size))))
    return Operation(LIST_PAYWALLS, parameters=page)


def _following(
    operation: Operation[PaywallList], page: PaywallList
) -> Operation[PaywallList] | None:
    given = dict(operation.parameters)
    number, size = int(given[_NUMBER]), int(given[_SIZE])
    # counts from the requested number: a server that returns the same number would never end
    if not page.data or number >= page.meta.pagination.pages:
        return None
    return list_paywalls(page_number=number + 1, page_size=size)


def _about(paywall_id: str) -> tuple[tuple[str, str], ...]:
    _ID("paywall_id", paywall_id)
    return (("paywall_id", paywall_id),)


def get_paywall(paywall_id: str) -> Operation[Paywall]:
    """Return the operation of `Paywalls.get`."""
    return Operation(GET_PAYWALL, parameters=_about(paywall_id))


def update_paywall(paywall_id: str, remote_configs: Iterable[RemoteConfig]) -> Operation[Paywall]:
    """Return the operation of `Paywalls.update`."""
    about = _about(paywall_id)
    configs = tuple(remote_configs)
    for config in configs:
        if not isinstance(config, RemoteConfig):
            raise InvalidInputError("remote_configs", "must be RemoteConfigs")
        any_text("remote_configs.locale", config.locale)
        any_text("remote_configs.data", config.data)
    return Operation(UPDATE_PAYWALL, body=_Update(configs), parameters=about)


class Paywalls:
    """A resource of the calls on paywalls."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def list(
        self, *, page_number: int = 1, page_size: int = 20
    ) -> Pages[PaywallListItem, PaywallList]:
        """
        Read the paywalls of the app, page by page; use it with ``async for``.

        Args:
            page_number: the first page to read.
            page_size: the number of paywalls in a page, 1 to 100.

        Raises:
            InvalidInputError: an argument is not a number. The range is checked when the first
                page is read.

        Source: https://adapty.io/docs/api-adapty/operations/listPaywalls
        """
        first = list_paywalls(page_number=page_number, page_size=page_size)
        return Pages(self._execute, first, _following)

    async def get(self, paywall_id: str) -> Paywall:
        """
        Read a paywall with its remote configs.

        Raises:
            InvalidInputError: the id cannot be sent.
            NotFoundError: there is no such paywall.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/getPaywall
        """
        return await self._execute(get_paywall(paywall_id))

    async def update(self, paywall_id: str, remote_configs: Iterable[RemoteConfig]) -> Paywall:
        """
        Replace all remote configs of a paywall.

        The update deletes every language that is not passed. To keep them, read the paywall first
        and pass its configs too. Nothing prevents two writers from overwriting each other.

        Raises:
            InvalidInputError: the id cannot be sent, or a config is not JSON text.
            NotFoundError: there is no such paywall.
            RequestRejectedError: the server rejects a config; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/updatePaywall
        """
        return await self._execute(update_paywall(paywall_id, remote_configs))
