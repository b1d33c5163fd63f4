"""
A local server with Adapty's HTTP APIs, for tests, demos and trying things out.

It is written from Adapty's documentation alone and shares no code with the client, so that a
mistake in one is not hidden by the same mistake in the other. It needs no account and no network::

    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["user-1", "user-2"])
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
            await adapty.v1.profiles.delete(customer_user_id="user-1")
        assert sandbox.customer_user_ids() == {"user-2"}

A page at its `url` shows profiles, requests as they come, and the rate, and switches faults. A
program in another process can read ``/_sandbox/state`` (JSON), ``/_sandbox/arrivals`` and
``/_sandbox/profiles?api=v1`` or ``mail`` (a JSON value per line), and add profiles with a POST of
their customer user ids, as a JSON list or a JSON string per line, to ``/_sandbox/seed``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, closing
from itertools import chain
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

from . import _seed, _v1
from ._app import App, Options
from ._faults import FaultPlan, Faults
from ._rate import TokenBucket
from ._shop import Shop
from ._store import Arrival, Store, StoredProfile
from ._webhooks import Delivery, Webhooks

__all__ = ["Arrival", "Delivery", "Faults", "Sandbox"]


class Sandbox:
    """
    A server with the server-side API, in both versions, the web, Mail and export analytics APIs.

    The profiles are shared by all but the Mail API. The app has an access level ``premium`` and two
    products that grant it, ``premium_monthly`` and ``premium_lifetime``, three paywalls, the
    placements ``onboarding``, ``sale`` and ``settings`` that show them, and the virtual currencies
    ``COINS``, ``GEMS`` and ``ENERGY``. Stripe accepts any token that begins with ``sub_`` or
    ``pi_``, Paddle any with ``txn_`` or ``sub_``. A token that ends with ``_no_products`` or
    ``_no_key`` causes those errors.

    Attributes:
        api_key: the secret key of the server-side API and the export analytics API.
        mail_api_key: the secret key of the Mail API.
        public_key: the public key of the web API.
    """

    def __init__(  # noqa: PLR0913 - each is one independent property of the server
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        db: str = ":memory:",
        api_key: str = "secret_live_sandbox.Wm3kT8vQ2rLx",
        mail_api_key: str = "secret_live_mail_sandbox.Zp6hN4cYd9Js",
        public_key: str = "public_live_sandbox.Kf7jB2mXs5Dw",
        rate: float | None = None,
        burst: int | None = None,
        retry_after: Literal["seconds", "date", "none"] = "seconds",
        latency: float = 0.0,
        faults: Faults | str | None = None,
        seed: int = 0,
        log_size: int = 1_000_000,
        virtual_currencies: bool = True,
        webhook_url: str | None = None,
        webhook_authorization: str | None = None,
        webhook_time_scale: float = 1.0,
        strict: bool = False,
        unknown_products: Literal["ignored", "premium"] = "ignored",
        unset_refund_saver: Literal["null", "defaults"] = "null",
        export_rate: float | None = 2.0,
        export_segments: int = 1,
        body_timeout: float = 10.0,
    ) -> None:
        """
        Configure a server, which `start()` or ``async with`` starts.

        Args:
            host: the address to listen on.
            port: the port to listen on; 0 picks a free one, and reuses it at a later start.
            db: an SQLite file, which outlives the server, or ``:memory:``, which does not.
            api_key: the key that the server-side API accepts.
            mail_api_key: the key that the Mail API accepts.
            public_key: the key that the web API accepts.
            rate: sustained requests per second that each API allows; `None` is no limit.
            burst: requests that each API allows at once after a pause; by default the requests of
                a tenth of a second, and at least 1.
            retry_after: the form of the ``Retry-After`` header of a 429.
            latency: seconds between the operation and its response.
            faults: the shares of requests that fail; a string is parsed by `Faults.parse()`.
            seed: seed of the random faults, and of the numbers of exports: the same requests in the
                same order fail alike.
            log_size: number of arrivals that are kept; the oldest are dropped first.
            virtual_currencies: whether the app may use them; otherwise their calls get a 403.
            webhook_url: receives the webhooks of version 2; see `webhook_deliveries()`.
            webhook_authorization: the ``Authorization`` header of the webhooks.
            webhook_time_scale: multiplies the waits before retries, which begin with a minute.
            strict: whether request bodies are held to Adapty's OpenAPI documents to the letter:
                required properties, such as `installation_meta` of a profile in version 2, types,
                formats and lengths. By default, only what the pages of the documentation ask for
                is checked.
            unknown_products: what a purchase of a product does that the app does not have: the
                purchase is recorded and grants nothing, or grants the access level ``premium``.
            unset_refund_saver: the settings of Refund Saver before they are set: both null, or
                ``consent`` false and ``custom_preference`` ``no_preference``.
            export_rate: requests per second that the export analytics API allows, and at once
                after a pause; `None` is no limit.
            export_segments: rows of an export for each period; a large number makes a large
                response.
            body_timeout: seconds until a request whose body is incomplete gets a 408.

        Raises:
            ValueError: a number is out of range, the URL or header of the webhook cannot be used,
                or an option has another value than those listed.
        """
        _require_above_0("body_timeout", body_timeout)
        _require_above_0("export_rate", export_rate)
        _require_at_least_1("log_size", log_size)
        _require_at_least_1("export_segments", export_segments)
        _require_one_of("retry_after", retry_after, "seconds", "date", "none")
        _require_one_of("unknown_products", unknown_products, "ignored", "premium")
        _require_one_of("unset_refund_saver", unset_refund_saver, "null", "defaults")
        self.api_key = api_key
        self.mail_api_key = mail_api_key
        self.public_key = public_key
        buckets = {
            api: TokenBucket(rate, burst) for api in ("v1", "v2", "web", "mail") if rate is not None
        }
        if export_rate is not None:
            buckets["export"] = TokenBucket(export_rate, max(1.0, export_rate))
        self._options = Options(
            host,
            api_key,
            mail_api_key,
            public_key,
            buckets,
            retry_after,
            body_timeout,
            virtual_currencies,
            strict,
            "premium" if unknown_products == "premium" else None,
            unset_refund_saver,
            seed,
            export_segments,
        )
        self._faults = FaultPlan(
            Faults.parse(faults) if isinstance(faults, str) else faults or Faults(), seed, latency
        )
        self._host, self._port = host, port
        self._db, self._log_size = db, log_size
        self._webhooks: Webhooks | None = None
        if webhook_url is not None:
            self._webhooks = Webhooks(webhook_url, webhook_authorization, webhook_time_scale)
        self._open: Store | None = None
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the server and return the sandbox."""
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        await self.stop()

    async def start(self) -> None:
        """
        Open the database and listen; `url` is available afterwards.

        Raises:
            RuntimeError: the sandbox is running already.
            OSError: the address cannot be listened on.
            sqlite3.Error: the database cannot be opened.
        """
        if self._open is not None:
            raise RuntimeError("the sandbox is running already")
        async with AsyncExitStack() as stack:
            store = stack.enter_context(closing(Store(self._db, self._log_size)))
            app = App(store, self._faults, self._options, self._webhooks)
            server = web.Server(
                app.handle,
                handler_cancellation=True,
                access_log=None,
                auto_decompress=False,  # a compressed body gets a 415 of the API's
            )
            # Stopping has to be quick: handlers that still sleep after 0.1 seconds are cancelled.
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port, backlog=4096).start()
            stack.callback(app.stopping.set)
            self._port = runner.addresses[0][1]
            if self._webhooks is not None:
                stack.push_async_callback(self._webhooks.aclose)
                self._webhooks.start()
            self._open = store
            self._exit = stack.pop_all()

    async def stop(self) -> None:
        """Cancel requests in flight and close everything; do nothing if it is not running."""
        self._open = None
        await self._exit.aclose()

    @property
    def url(self) -> str:
        """
        The origin of all APIs, with the port that the server listens on.

        Raises:
            RuntimeError: the sandbox is not running.
        """
        self._store()
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """
        The environment variables by which the clients of another process find this server.

        Raises:
            RuntimeError: the sandbox is not running.
        """
        return {
            "ADAPTY_BASE_URL": self.url,
            "ADAPTY_API_KEY": self.api_key,
            "ADAPTY_PUBLIC_KEY": self.public_key,
            "ADAPTY_MAIL_BASE_URL": self.url,
            "ADAPTY_MAIL_API_KEY": self.mail_api_key,
            "ADAPTY_EXPORT_BASE_URL": self.url,
        }

    def seed_profiles(self, customer_user_ids: Iterable[str]) -> int:
        """Add server-side profiles without any request, and return the number of new ones."""
        if isinstance(customer_user_ids, str):
            raise TypeError("customer_user_ids must be several ids, not one string")
        return self._store().seed(customer_user_ids)

    def seed_file(self, path: str | PathLike[str]) -> int:
        """
        Add the profiles of a file without any request, and return their number.

        The file has a JSON value per line; empty lines are skipped. A value is one of:

        - a string: the customer user id of a server-side profile without attributes;
        - an object with `customer_user_id`, `profile_id` (a UUID) or both, the attributes of a
          profile as in a request of version 2, and `access_levels`, a list of objects as in a
          request that grants one;
        - an object with `external_profile_id`: a profile of the Mail API, as in a request that
          saves one.

        A server-side profile that exists gets these attributes instead of its own.

        Raises:
            ValueError: a line is wrong, or has the id of another; the message names the line,
                the field and the rule. Nothing is added.
            OSError: the file cannot be read.
        """
        store = self._store()
        return _seed.apply(_seed.parsed(Path(path).read_bytes()), store, self._shop())

    def seed_anonymous(self, count: int) -> list[str]:
        """Add profiles without a customer user id, and return their profile ids."""
        return self._store().seed_anonymous(count)

    def add_access_levels(self, *ids: str) -> None:
        """Add access levels to the app."""
        self._shop().add_access_levels(*ids)

    def add_products(self, products: Mapping[str, str]) -> None:
        """Add products to the app, each with the access level that it grants."""
        self._shop().add_products(products)

    def add_currencies(self, currencies: Mapping[str, str]) -> None:
        """Add virtual currencies to the app: a mapping of codes to names."""
        self._shop().add_currencies(currencies)

    def add_paywalls(self, *titles: str) -> list[str]:
        """Add paywalls to the app, and return their ids."""
        return self._shop().add_paywalls(*titles)

    def add_placements(self, placements: Mapping[str, str]) -> None:
        """Add placements to the app: a mapping of their ids to the ids of paywalls."""
        self._shop().add_placements(placements)

    def profile(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> dict[str, Any] | None:
        """
        Return a server-side profile as version 1 shows it, without a timestamp.

        Raises:
            ValueError: not exactly one id was passed.
        """
        profile = self._find(customer_user_id, profile_id)
        return profile and _v1.view(profile)

    def attribution(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> dict[str, Any] | None:
        """
        Return the attribution of a profile; `None` if there is no such profile.

        Raises:
            ValueError: not exactly one id was passed.
        """
        profile = self._find(customer_user_id, profile_id)
        return profile and self._shop().settings(profile.profile_id, "attribution")

    def paywall_views(self) -> list[dict[str, Any]]:
        """Return the views of paywalls in the order in which they were recorded."""
        return self._shop().views()

    def customer_user_ids(self) -> set[str]:
        """Return the customer user ids of the server-side profiles that exist and have one."""
        return set(chain.from_iterable(self._store().id_pages("v1")))

    def mail_profile(self, external_profile_id: str) -> dict[str, Any] | None:
        """Return the fields of a mail profile; `None` if there is none, or it was erased."""
        return self._store().mail_profile(external_profile_id)

    def mail_profile_ids(self) -> set[str]:
        """Return the external profile ids of the mail profiles that are not erased."""
        return set(chain.from_iterable(self._store().id_pages("mail")))

    def mail_events(self) -> list[dict[str, Any]]:
        """Return the transaction events in the order in which they were first saved."""
        return self._store().events()

    def arrivals(self, *, identity: str | None = None, path: str | None = None) -> list[Arrival]:
        """Return the requests that arrived, oldest first; of one identity or path if passed."""
        return self._store().arrivals(identity, path)

    def count(self) -> dict[int, int]:
        """Count the requests that arrived, by status; 0 stands for those without a response."""
        return self._store().count()

    async def verify_webhook(self) -> bool:
        """
        Send the verification request, as saving the webhook in the dashboard does.

        `start()` sends it as well, and each event before which it has not succeeded yet. Return
        whether the response is 2xx with a JSON body.

        Raises:
            RuntimeError: the sandbox is not running, or has no `webhook_url`.
        """
        return await self._sender().verify()

    async def wait_for_webhooks(self) -> None:
        """
        Wait until every webhook is delivered, or is no longer retried.

        Raises:
            RuntimeError: the sandbox is not running, or has no `webhook_url`.
        """
        await self._sender().wait()

    def webhook_deliveries(self) -> list[Delivery]:
        """
        Return the latest 10,000 attempts to deliver webhooks, oldest first.

        Raises:
            RuntimeError: the sandbox is not running, or has no `webhook_url`.
        """
        return list(self._sender().deliveries)

    def _sender(self) -> Webhooks:
        self._store()
        if self._webhooks is None:
            raise RuntimeError("the sandbox has no webhook_url")
        return self._webhooks

    def fail_next(self, *faults: str) -> None:
        """
        Assign these faults to the next requests to the APIs, in order, before any random ones.

        A fault is ``reset``, ``reset_after``, ``stall``, or a status from 400 up: ``503`` with the
        API's error body, ``503-html`` with a gateway's page, ``429`` with ``Retry-After``.

        Raises:
            ValueError: one of them is not a fault; none is assigned.
        """
        self._faults.script(*faults)

    def set_faults(self, faults: Faults | str) -> None:
        """
        Replace the shares of requests that fail; a string is parsed by `Faults.parse()`.

        Raises:
            ValueError: a share is wrong; nothing is changed.
        """
        self._faults.set_faults(Faults.parse(faults) if isinstance(faults, str) else faults)

    def set_latency(self, latency: float) -> None:
        """
        Replace the seconds between each operation and its response.

        Raises:
            ValueError: it is not a number from 0 up.
        """
        self._faults.set_latency(latency)

    def _find(self, customer_user_id: str | None, profile_id: str | None) -> StoredProfile | None:
        passed = {"customer_user_id": customer_user_id, "profile_id": profile_id}
        ids = [(by, value) for by, value in passed.items() if value is not None]
        if len(ids) != 1:
            raise ValueError("exactly one of customer_user_id and profile_id is needed")
        return self._store().find(*ids[0])

    def _shop(self) -> Shop:
        return Shop(self._store().connection)

    def _store(self) -> Store:
        if self._open is None:
            raise RuntimeError("the sandbox isn't running")
        return self._open


def _require_above_0(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name}={value}: must be a number above 0")


def _require_at_least_1(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}: must be at least 1")


def _require_one_of(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")
