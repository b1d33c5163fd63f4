"""Clients of Adapty's APIs: settings, connections and resources."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import msgspec

from adapty_async._api.call import Send
from adapty_async._bulk.executor import BulkExecutor
from adapty_async._client.base import BaseClient, bulk_with_key
from adapty_async._pipeline.stream_executor import StreamExecutor, whole
from adapty_async.config import ApiKey, Limits, RetryPolicy, optional_key
from adapty_async.errors import ConfigError
from adapty_async.export import Exports
from adapty_async.hooks import Hook
from adapty_async.mail import Events, MailProfiles
from adapty_async.v1 import V1
from adapty_async.v2 import V2
from adapty_async.web import Web

if TYPE_CHECKING:
    import aiohttp

__all__ = ("AdaptyClient", "AdaptyExportClient", "AdaptyMailClient")

_PUBLIC_KEY_ENV = "ADAPTY_PUBLIC_KEY"
# Adapty allows two requests per second on all exports of a key together.
_EXPORT_LIMITS = Limits(rate=2.0, burst=1)


class AdaptyClient(BaseClient):
    """
    A client of the server-side API and the web API.

    By default the secret key comes from ``ADAPTY_API_KEY``, the public key from
    ``ADAPTY_PUBLIC_KEY``, and the origin from ``ADAPTY_BASE_URL``. The server-side API needs the
    secret key, the web API the public one. A call without its key raises a `ConfigError` before
    anything is sent. Use the client as an async context manager, or await `aclose` at the end.

    Attributes:
        v1: version 1 of the server-side API.
        v2: version 2 of the server-side API.
        web: the web API.

    Example:
        >>> async with AdaptyClient() as adapty:
        ...     profile = await adapty.v2.profiles.get(customer_user_id="u1")

    Source: https://adapty.io/docs/getting-started-with-server-side-api
    """

    _key_env = "ADAPTY_API_KEY"
    _url_env = "ADAPTY_BASE_URL"
    _default_url = "https://api.adapty.io"
    _scheme = "Api-Key"
    _owner = "AdaptyClient"

    def __init__(  # noqa: PLR0913  the keyword-only settings of a client
        self,
        api_key: str | None = None,
        *,
        public_key: str | None = None,
        base_url: str | None = None,
        retry: RetryPolicy = RetryPolicy(),
        limits: Limits = Limits(),
        timeout: float = 30.0,
        session: aiohttp.ClientSession | None = None,
        hooks: Iterable[Hook] = (),
        id_encoding: Literal["ascii", "utf-8"] = "ascii",
        trust_env: bool = False,
        allow_insecure: bool = False,
        validate: bool = True,
        transport: Send | None = None,
    ) -> None:
        """
        Configure a client; no connection is opened before the first call.

        Args:
            api_key: the secret key; by default from the environment. A client that only calls the
                web API needs none.
            public_key: the public key; by default from the environment.
            base_url: the origin of requests; by default from the environment, otherwise Adapty's.
            retry: the policy that decides which failed requests are retried, and when.
            limits: the limits of connections and of requests per second.
            timeout: seconds for one attempt, without the wait for a free connection.
            session: an aiohttp session that sends the requests, in its event loop only; it is used
                without its own middlewares, and never closed.
            hooks: callbacks that receive the events of calls. An exception that one raises is
                logged, and does not affect the call. See `adapty_async.hooks`.
            id_encoding: "utf-8" allows ids in headers that are not ASCII. The server's decoding of
                them is not documented, and a wrong guess would report an erasure as done that was
                not.
            trust_env: use the proxies of the environment variables.
            allow_insecure: allow plain http to other machines.
            validate: validate calls of version 2 and of the web API by the rules of Adapty's
                documentation before they are sent; False leaves that to the server, in case its
                rules have changed. Rules without which a call cannot be sent always apply.
            transport: sends the requests instead of aiohttp, for tests.

        Raises:
            ConfigError: a setting is invalid, or there is no key.
        """
        try:
            self._public_key = optional_key(public_key, env=_PUBLIC_KEY_ENV, argument="public_key")
            self._secret_key = (
                ApiKey(api_key, env=self._key_env)
                if self._public_key is None
                else optional_key(api_key, env=self._key_env, argument="api_key")
            )
        finally:
            del api_key, public_key  # as in the base class
        super().__init__(
            base_url=base_url,
            retry=retry,
            limits=limits,
            timeout=timeout,
            session=session,
            hooks=hooks,
            id_encoding=id_encoding,
            trust_env=trust_env,
            allow_insecure=allow_insecure,
            validate=validate,
            transport=transport,
        )

    def _use(self, executor: BulkExecutor) -> None:
        super()._use(executor)
        bulk = bulk_with_key(executor, public=False)
        self.v1 = V1(executor.execute, bulk)
        self.v2 = V2(executor.execute, bulk)
        self.web = Web(executor.execute, bulk_with_key(executor, public=True))


class AdaptyMailClient(BaseClient):
    """
    A client of the Mail API.

    By default the key comes from ``ADAPTY_MAIL_API_KEY``, and the origin from
    ``ADAPTY_MAIL_BASE_URL``. Use it as an async context manager, or await `aclose` at the end.

    Attributes:
        profiles: the calls for profiles.
        events: the calls for store transactions.

    Example:
        >>> async with AdaptyMailClient() as mail:
        ...     report = await mail.profiles.bulk_save(profiles)

    Source: https://adapty.io/docs/mail-send-data-via-api
    """

    _key_env = "ADAPTY_MAIL_API_KEY"
    _url_env = "ADAPTY_MAIL_BASE_URL"
    _default_url = "https://api-mail.adapty.io"
    _scheme = "Bearer"
    _owner = "AdaptyMailClient"

    def _use(self, executor: BulkExecutor) -> None:
        super()._use(executor)
        self.profiles = MailProfiles(executor.execute, executor.bulk)
        self.events = Events(executor.execute, executor.bulk)


class AdaptyExportClient(BaseClient, Exports):
    """
    A client of the export analytics API.

    By default the key comes from ``ADAPTY_API_KEY``, as for the server-side API, and the origin
    from ``ADAPTY_EXPORT_BASE_URL``. Use it as an async context manager, or await `aclose` at the
    end. All exports of a client together send at most two requests per second, since Adapty allows
    no more, unless `limits` has another rate.

    The timeout of 120 seconds holds until the first byte of a response, and then for each read. A
    whole call, with its retries and its body, may take `RetryPolicy.deadline`, an hour by default.

    Example:
        >>> async with AdaptyExportClient() as export:
        ...     filters = Filters(date=("2025-01-01", "2025-12-31"))
        ...     chart = await export.analytics(chart_id="revenue", filters=filters)

    Source: https://adapty.io/docs/export-analytics-api
    """

    _key_env = "ADAPTY_API_KEY"
    _url_env = "ADAPTY_EXPORT_BASE_URL"
    _default_url = "https://api-admin.adapty.io"
    _scheme = "Api-Key"
    _owner = "AdaptyExportClient"

    def __init__(  # noqa: PLR0913  the keyword-only settings of a client
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        retry: RetryPolicy = RetryPolicy(deadline=3600.0),
        limits: Limits = _EXPORT_LIMITS,
        timeout: float = 120.0,
        session: aiohttp.ClientSession | None = None,
        hooks: Iterable[Hook] = (),
        trust_env: bool = False,
        allow_insecure: bool = False,
        validate: bool = True,
        transport: Send | None = None,
    ) -> None:
        """
        Configure a client; no connection is opened before the first call.

        Args:
            api_key: the secret key; by default from the environment.
            base_url: the origin of requests; by default from the environment, otherwise Adapty's.
            retry: the policy that decides which failed requests are retried, and when.
            limits: the limits of connections and of requests per second; without a rate, that is
                two.
            timeout: seconds until a response begins, and then for each read of its body.
            session: an aiohttp session that sends the requests, in its event loop only; it is used
                without its own middlewares, and never closed.
            hooks: callbacks that receive the events of calls; see `adapty_async.hooks`.
            trust_env: use the proxies of the environment variables.
            allow_insecure: allow plain http to other machines.
            validate: validate filters by the rules of Adapty's documentation before they are sent.
            transport: sends the requests instead of aiohttp, for tests.

        Raises:
            ConfigError: a setting is missing or invalid.
        """
        if limits.shared is not None:
            raise ConfigError("limits.shared: exports have a fixed rate; pass limits.rate instead")
        if limits.rate is None:
            limits = msgspec.structs.replace(limits, rate=_EXPORT_LIMITS.rate, burst=1)
        try:
            super().__init__(
                api_key,
                base_url=base_url,
                retry=retry,
                limits=limits,
                timeout=timeout,
                session=session,
                hooks=hooks,
                trust_env=trust_env,
                allow_insecure=allow_insecure,
                validate=validate,
                transport=transport,
            )
        finally:
            del api_key  # some tools print the local variables of every frame of a traceback

    def _use(self, executor: BulkExecutor) -> None:
        super()._use(executor)
        own, transport = self._connections, executor.layers.transport
        self._stream = StreamExecutor(executor, own if transport is own else whole(transport))
