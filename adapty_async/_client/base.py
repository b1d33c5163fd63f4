"""A base class of clients: their settings, their pipeline and their connections."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Self, TypeVar, Unpack, overload

import msgspec

from adapty_async._api.call import IDENTITIES, Headers, Middleware, Operation, Send
from adapty_async._api.codec import RequestDefaults, missing_key
from adapty_async._api.results import RawResponse
from adapty_async._api.validation import exact_text, header_name, header_value
from adapty_async._bulk.executor import BulkExecutor
from adapty_async._flow.circuit_breaker import RetryBudget
from adapty_async._flow.limits import LimiterRegistry
from adapty_async._flow.queues import ConnectionSemaphore
from adapty_async._flow.rate_limiter import FixedRateLimiter, RateSource
from adapty_async._http.transport import Transport
from adapty_async._pipeline.layers import CallOptions, PipelineConfig, without_state
from adapty_async._pipeline.observe import Emitter
from adapty_async._runtime.log import apply_log_setting
from adapty_async._runtime.loop import LoopLocal, Timing
from adapty_async._version import __version__
from adapty_async.bulk import BulkOptions, BulkRun, Items, StartBulk
from adapty_async.config import ApiKey, Limits, RetryPolicy, origin_from
from adapty_async.errors import ConfigError, InvalidInputError
from adapty_async.hooks import Hook, log_attempts
from adapty_async.statistics import HttpPath, Statistics

if TYPE_CHECKING:
    import aiohttp

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

# The client of each API, by the first part of its buckets; endpoints of the caller have others.
_CLIENTS = {
    "v1": "AdaptyClient",
    "v2": "AdaptyClient",
    "web": "AdaptyClient",
    "mail": "AdaptyMailClient",
    "export": "AdaptyExportClient",
}


class BaseClient:
    """A base class of all clients: settings, pipeline and connections."""

    _key_env: ClassVar[str]
    _url_env: ClassVar[str]
    _default_url: ClassVar[str]
    _scheme: ClassVar[str]
    _owner: ClassVar[str]  # of its operations, in `_CLIENTS`
    # taken at import: freezegun replaces it during a test, in which a run would wait for ever
    _clock = staticmethod(time.monotonic)
    _secret_key: ApiKey | None = None
    _public_key: ApiKey | None = None
    # The client of which with_options() made this one, directly or not. It owns the connections.
    _original: BaseClient | None = None

    def __init__(  # noqa: PLR0913  the keyword-only settings of a client
        self,
        api_key: str | None = None,
        *,
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
            api_key: the secret key; by default from the environment.
            base_url: the origin of requests; by default from the environment, otherwise Adapty's.
            retry: the policy that decides which failed requests are retried, and when.
            limits: the limits of connections and of requests per second.
            timeout: seconds for one attempt, without the wait for a free connection.
            session: an aiohttp session that sends the requests, in its event loop only; it is used
                without its own middlewares, and never closed.
            hooks: callbacks that receive the events of calls. An exception that one raises is
                logged, and does not affect the call. See `adapty_async.hooks`.
            id_encoding: "utf-8" allows ids that are not ASCII. The server's decoding of them is not
                documented, and a wrong guess would report an erasure as done that was not.
            trust_env: use the proxies of the environment variables.
            allow_insecure: allow plain http to other machines.
            validate: validate calls by the rules of Adapty's documentation before they are sent;
                False leaves that to the server, in case its rules have changed. Rules without which
                a call cannot be sent always apply.
            transport: sends the requests instead of aiohttp, for tests.

        Raises:
            ConfigError: a setting is missing or invalid.
        """
        try:
            if self._secret_key is None and self._public_key is None:
                self._secret_key = ApiKey(api_key, env=self._key_env)
        finally:
            del api_key  # some tools print the local variables of every frame of a traceback
        if id_encoding not in {"ascii", "utf-8"}:
            raise ConfigError('id_encoding must be "ascii" or "utf-8"')
        _require("retry", retry, RetryPolicy)
        if session is not None and transport is not None:
            raise ConfigError("session and transport exclude each other")
        origin = origin_from(
            base_url, env=self._url_env, default=self._default_url, allow_insecure=allow_insecure
        )
        headers = _headers_with(self._scheme, self._secret_key)
        defaults = RequestDefaults(
            origin=origin,
            headers=headers,
            public_headers=_headers_with(self._scheme, self._public_key),
            id_encoding=id_encoding,
            validate=validate,
        )
        all_hooks = tuple(hooks)
        if apply_log_setting() and log_attempts not in all_hooks:
            all_hooks = (*all_hooks, log_attempts)
        timing = Timing(self._clock, asyncio.sleep, random.uniform)
        self._connections = Transport(
            clock=self._clock, headers=headers, trust_env=trust_env, session=session
        )
        layers = PipelineConfig(
            transport=self._connections if transport is None else without_state(transport),
            connections=_connections(limits, session, self._clock),
            timing=timing,
            limiters=LimiterRegistry(
                timing, _rate_limiter(limits, self._clock), _rate_source(limits, defaults)
            ),
            budget=RetryBudget(retry.budget),
            emitter=Emitter(all_hooks) if all_hooks else None,
        )
        options = CallOptions(defaults=defaults, retry=retry, timeout=timeout)
        self._use(BulkExecutor(layers, options))

    def _use(self, executor: BulkExecutor) -> None:
        self._executor = executor

    @property
    def origin(self) -> str:
        """The origin of requests, such as ``https://api.adapty.io``."""
        return self._executor.options.defaults.origin

    async def execute(self, operation: Operation[ResultT]) -> ResultT:
        """
        Send one operation, and return its result.

        Args:
            operation: the call, such as ``v2.get_profile(customer_user_id="u1")``.

        Raises:
            AdaptyError: the call failed; see `adapty_async.errors`.
        """
        return await self._executor.execute(self._own(operation))

    async def with_raw_response(self, operation: Operation[ResultT]) -> RawResponse[ResultT]:
        """
        Send one operation, and return its successful response with status, headers and body.

        `RawResponse.parse` decodes the result. The retries and limits are those of `execute`.

        Args:
            operation: the call, such as ``v2.get_profile(customer_user_id="u1")``.

        Raises:
            AdaptyError: the call failed; see `adapty_async.errors`.
        """
        return await self._executor.execute_raw(self._own(operation))

    @overload
    def bulk(
        self,
        items: Items[Operation[ResultT]],
        *,
        name: str = ...,
        **options: Unpack[BulkOptions[Operation[ResultT], ResultT]],
    ) -> BulkRun[Operation[ResultT], ResultT]: ...

    @overload
    def bulk(
        self,
        items: Items[ItemT],
        *,
        build: Callable[[ItemT], Operation[ResultT]],
        name: str = ...,
        **options: Unpack[BulkOptions[ItemT, ResultT]],
    ) -> BulkRun[ItemT, ResultT]: ...

    def bulk(
        self,
        items: Items[Any],
        *,
        build: Callable[[Any], Operation[Any]] | None = None,
        name: str = "client.bulk",
        **options: Unpack[BulkOptions[Any, Any]],
    ) -> BulkRun[Any, Any]:
        """
        Return a run of large numbers of calls of any kind, with bounded concurrency.

        Args:
            items: operations, or values that `build` converts to operations, from any iterable or
                async iterable; they are read when they are needed.
            build: returns the operation of an item; outcomes then contain the original item. An
                `AdaptyError` that it raises is that item's outcome; any other error ends the run.
            name: the name of the run's operation, which a resumed journal must match.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            InvalidInputError: `items` is not iterable.
            ConfigError: an option is unknown or out of range.
        """
        own = self._own
        built = own if build is None else lambda item: own(build(item))
        return self._executor.bulk(items, built, name, **options)

    def _own(self, operation: Operation[ResultT]) -> Operation[ResultT]:
        """Return an operation, unless it is none, or belongs to an API of another client."""
        if not isinstance(operation, Operation):
            raise InvalidInputError(
                "operation",
                f"must be an Operation, as v2.get_profile() makes, not {type(operation).__name__}",
            )
        api = operation.endpoint.bucket.partition(".")[0]
        owner = _CLIENTS.get(api, self._owner)
        if owner != self._owner:
            rule = f"must be one of {self._owner}; {operation.endpoint.name} needs {owner}"
            raise InvalidInputError("operation", rule)
        return operation

    def with_options(
        self,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> Self:
        """
        Return a client over the same connections and limits, with other options for its calls.

        Args:
            timeout: seconds for one attempt.
            retry: the policy that decides which failed requests are retried, and when. Its `budget`
                has no effect: the retry budget stays that of the client.
            headers: headers to add to every request.
            deadline: seconds for a whole call; overrides the `deadline` of `retry`.

        Raises:
            ConfigError: a value is out of range.
            InvalidInputError: a header is reserved, or cannot be sent.
        """
        options = self._executor.options
        retry = options.retry if retry is None else retry
        _require("retry", retry, RetryPolicy)
        if deadline is not None:
            retry = msgspec.structs.replace(retry, deadline=deadline)
        options = msgspec.structs.replace(
            options,
            retry=retry,
            timeout=options.timeout if timeout is None else timeout,
            defaults=_with_headers(options.defaults, headers or {}),
        )
        other = object.__new__(type(self))
        vars(other).update(vars(self))  # those of a subclass, too
        other._original = original_of(self)
        other._use(BulkExecutor(self._executor.layers, options))
        return other

    def add_hook(self, hook: Hook) -> None:
        """
        Add a hook, which receives the events of calls that start later.

        Add hooks before the first call: neither resources, such as ``client.v2.profiles``, that
        were looked up before nor clients of `with_options` use it.
        """
        layers = self._executor.layers
        emitter = layers.emitter.with_hook(hook) if layers.emitter else Emitter((hook,))
        self._rebuild(emitter=emitter)

    def add_middleware(self, middleware: Middleware) -> None:
        """
        Add a middleware: a function that receives each attempt's request and a function to send it.

        It must call that function exactly once, with the request or a changed copy, and return its
        response or raise. It sees every attempt, inside the limits, so it holds a permit, and its
        time counts towards the call's deadline. The latest one is the outermost. Add middlewares
        before the first call; see `add_hook`.
        """
        self._rebuild(middlewares=(*self._executor.layers.middlewares, middleware))

    def _rebuild(self, **changes: Any) -> None:
        layers = msgspec.structs.replace(self._executor.layers, **changes)
        self._use(BulkExecutor(layers, self._executor.options))

    def statistics(self) -> Statistics:
        """Return the current request rate, pauses, requests in flight and outages."""
        layers = self._executor.layers
        why = self._connections.why_standard
        path = HttpPath.FAST if why is None else HttpPath.STANDARD
        if layers.transport is not self._connections:
            path, why = HttpPath.CUSTOM, "a transport was given"
        return Statistics(
            budget=layers.budget.left,
            budget_size=layers.budget.size,
            limit=layers.limiters.rate,
            buckets=layers.limiters.statistics(),
            http_path=path,
            http_path_reason=why,
            bulk_items=layers.items.counts(),
        )

    async def aclose(self) -> None:
        """
        Close the connections of all event loops; a session that you passed stays open.

        Clients of `with_options` use the same connections. Leaving the block of such a client
        closes nothing, its `aclose` closes the connections of all.
        """
        await self._connections.aclose()

    async def __aenter__(self) -> Self:
        self._connections.reopen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._original is None:
            await self.aclose()

    def __repr__(self) -> str:
        origin = self.origin if hasattr(self, "_executor") else ""  # not set yet
        return f"{type(self).__name__}({origin})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client holds connections and a key; it is not pickled")


def original_of(client: BaseClient) -> BaseClient:
    """
    Return the client that shares its connections, limits and statistics with a client, or itself.

    It exists as long as any client that `BaseClient.with_options` made of it.
    """
    return client if client._original is None else client._original  # noqa: SLF001  of this module


def _require(name: str, value: object, kind: type[object]) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")


def _headers_with(scheme: str, key: ApiKey | None) -> Headers:
    """Return the headers that all requests with a key share, its Authorization among them."""
    named = {} if key is None else {"Authorization": f"{scheme} {key.reveal()}"}
    common = {"Content-Type": "application/json", "User-Agent": f"adapty-async/{__version__}"}
    return Headers(named | common)


def _rate_limiter(limits: Limits, clock: Callable[[], float]) -> FixedRateLimiter | None:
    return None if limits.rate is None else FixedRateLimiter(limits.rate, limits.burst, clock)


def _rate_source(limits: Limits, defaults: RequestDefaults) -> Callable[[str], RateSource] | None:
    if limits.shared is None:
        return None
    return functools.partial(limits.shared.rate_source, f"{defaults.origin}\n{defaults.account}")


def _connections(
    limits: Limits, session: aiohttp.ClientSession | None, clock: Callable[[], float]
) -> LoopLocal[ConnectionSemaphore]:
    """
    Return a semaphore of requests in flight, so that none waits in a session for a connection.

    A wait in the session would count towards the attempt's timeout, and a stopped run would still
    send the waiting requests.
    """
    _require("limits", limits, Limits)
    bounds = [limits.connections]
    if session is not None and session.connector is not None:
        bounds += (session.connector.limit, session.connector.limit_per_host)
    count = min(bound for bound in bounds if bound)  # 0 means no limit
    return LoopLocal(lambda: ConnectionSemaphore(count, clock))


def _with_headers(defaults: RequestDefaults, headers: Mapping[str, str]) -> RequestDefaults:
    """Return the request defaults with headers of the caller, which replace equal names."""
    for name, value in headers.items():
        header_name(name, reserved=IDENTITIES)  # a client must not send one with each call
        header_value(f"headers.{name}", value, encoding="ascii")
    headers = {name: exact_text(value) for name, value in headers.items()}
    return msgspec.structs.replace(
        defaults,
        headers=defaults.headers.merged(headers),
        public_headers=defaults.public_headers.merged(headers),
    )


def bulk_with_key(executor: BulkExecutor, *, public: bool) -> StartBulk:
    """Return a factory of runs with one of the client's keys; their journals belong to that key."""
    defaults = executor.options.defaults
    if public:
        defaults = msgspec.structs.replace(defaults, headers=defaults.public_headers)
        executor = BulkExecutor(
            executor.layers, msgspec.structs.replace(executor.options, defaults=defaults)
        )
    if "Authorization" in defaults.headers:
        return executor.bulk

    def raise_missing_key(*_: Any, **__: Any) -> NoReturn:
        raise missing_key(public=public)

    return raise_missing_key
