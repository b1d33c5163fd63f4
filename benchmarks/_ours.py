"""The jobs of the benchmarks, made with the library."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, Unpack

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    BulkReport,
    DeviceInfo,
    MailProfile,
    v1,
    v2,
)
from adapty_async._api.call import Request, Response
from adapty_async.bulk import BulkOptions
from adapty_async.hooks import Event
from benchmarks._raw import KEY
from benchmarks._samples import CUSTOM_ATTRIBUTES, DEVICE, ids
from benchmarks._traced import patched, traced
from benchmarks._work import Work

__all__ = ("JOBS", "mail_profile", "server_side")

T = TypeVar("T")

# A rate that is never reached: the job measures the cost of the limiter alone.
_HIGH = 1e6
_DEVICE = DeviceInfo(**DEVICE)


def server_side(work: Work, **settings: Any) -> AdaptyClient:
    """Return a client for the benchmark's server."""
    return AdaptyClient(KEY, base_url=work.url, **settings)


def mail_profile(each: str) -> MailProfile:
    """Return the profile of `mail_fields` as a validated object."""
    return MailProfile(
        external_profile_id=each,
        external_created_at="2024-05-01T12:30:00+00:00",
        email="jane.doe@example.com",
        customer_user_id=each,
        first_name="Jane",
        last_name="Doe",
        gender="f",
        birthday="1990-04-12",
        country="US",
        store_country="US",
        custom_attributes=dict(CUSTOM_ATTRIBUTES),
        device_info=_DEVICE,
    )


async def _singles(
    work: Work, call: Callable[[str], Awaitable[T]], is_right: Callable[[T], bool]
) -> int:
    """Make single calls from `work.workers` concurrent workers."""
    done = 0
    source = ids(work.items)

    async def run_worker() -> None:
        nonlocal done
        for each in source:
            result = await call(each)
            done += is_right(result)

    await asyncio.gather(*(run_worker() for _ in range(work.workers)))
    return done


def _is_nothing(result: object) -> bool:
    return result is None


def _is_jane(profile: v1.Profile | v2.Profile) -> bool:
    return profile.customer_user_id == "user_1"


async def _delete(work: Work) -> int:
    async with server_side(work) as adapty:
        delete = adapty.v1.profiles.delete
        return await _singles(work, lambda each: delete(customer_user_id=each), _is_nothing)


async def _get_v1(work: Work) -> int:
    async with server_side(work) as adapty:
        get = adapty.v1.profiles.get
        return await _singles(work, lambda each: get(customer_user_id=each), _is_jane)


async def _get_v2(work: Work) -> int:
    async with server_side(work) as adapty:
        get = adapty.v2.profiles.get
        return await _singles(work, lambda each: get(customer_user_id=each), _is_jane)


async def _save(work: Work) -> int:
    async with AdaptyMailClient(KEY, base_url=work.url) as mail:
        save = mail.profiles.save
        return await _singles(work, lambda each: save(mail_profile(each)), _is_nothing)


def _settled(report: BulkReport[Any, Any]) -> int:
    return report.done if report.ok else 0


async def _erased(work: Work, **options: Unpack[BulkOptions[str, None]]) -> int:
    async with server_side(work) as adapty:
        return _settled(
            await adapty.v1.profiles.bulk_delete(ids(work.items), by="customer_user_id", **options)
        )


async def _bulk_delete(work: Work) -> int:
    return await _erased(work, concurrency=work.workers)


async def _bulk_delete_alone(work: Work) -> int:
    """Use default options only, including the number of requests in flight."""
    return await _erased(work)


async def _bulk_delete_standard(work: Work) -> int:
    """Send through the standard HTTP path, as if a tracer had patched aiohttp."""
    with patched():
        return await _bulk_delete(work)


async def _bulk_delete_traced(work: Work) -> int:
    with traced():
        return await _bulk_delete(work)


def _instrument(client: AdaptyClient, ratio: float) -> None:
    """Make spans of a share of the calls, and metrics, by OpenTelemetry's SDK, and discard them."""
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  a group's package
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415

    from adapty_async.integrations import opentelemetry  # noqa: PLC0415  needs an extra

    tracer_provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio))
    opentelemetry.instrument(client, tracer_provider, MeterProvider())


async def _bulk_delete_instrumented(work: Work, ratio: float = 1.0) -> int:
    """Use the library's own integration."""
    async with server_side(work) as adapty:
        _instrument(adapty, ratio)
        return _settled(
            await adapty.v1.profiles.bulk_delete(
                ids(work.items), by="customer_user_id", concurrency=work.workers
            )
        )


async def _bulk_delete_sampled(work: Work) -> int:
    return await _bulk_delete_instrumented(work, ratio=0.01)


async def _bulk_save(work: Work) -> int:
    async with AdaptyMailClient(KEY, base_url=work.url) as mail:
        profiles = map(mail_profile, ids(work.items))
        return _settled(await mail.profiles.bulk_save(profiles, concurrency=work.workers))


async def _deduped(work: Work) -> int:
    return await _erased(work, concurrency=work.workers, dedupe=True)


async def _with_journal(work: Work, job_id: str | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        if job_id is None:
            return await _erased(work, concurrency=work.workers, journal=journal)
        return await _erased(work, concurrency=work.workers, journal=journal, job_id=job_id)


async def _by_position(work: Work) -> int:
    return await _with_journal(work, "benchmark")


async def _by_digest(work: Work) -> int:
    return await _with_journal(work, None)


async def _all_on(work: Work) -> int:
    """Use a rate limit, a journal and a hook at the same time."""
    events = 0

    def hook(_event: Event) -> None:
        nonlocal events
        events += 1

    with tempfile.TemporaryDirectory() as folder:
        async with server_side(work, hooks=(hook,)) as adapty:
            report = await adapty.v1.profiles.bulk_delete(
                ids(work.items),
                by="customer_user_id",
                concurrency=work.workers,
                rate=_HIGH,
                journal=Path(folder) / "journal",
                job_id="benchmark",
            )
    # A call starts and ends, and so does its one attempt, which has an event for its end only.
    return _settled(report) if events == 3 * work.items else 0


async def _accept(_request: Request) -> Response:
    """Return a response without a server, but yield to the event loop, as a request would."""
    await asyncio.sleep(0)
    return Response(204, {}, b"")


async def _bulk_delete_in_process(work: Work) -> int:
    async with AdaptyClient(KEY, transport=_accept) as adapty:
        return _settled(
            await adapty.v1.profiles.bulk_delete(
                ids(work.items), by="customer_user_id", concurrency=work.workers
            )
        )


JOBS = {
    "delete": _delete,
    "get": _get_v1,
    "get v2": _get_v2,
    "save": _save,
    "bulk_delete": _bulk_delete,
    "bulk_delete alone": _bulk_delete_alone,
    "bulk_delete standard": _bulk_delete_standard,
    "bulk_delete traced": _bulk_delete_traced,
    "bulk_delete instrumented": _bulk_delete_instrumented,
    "bulk_delete sampled": _bulk_delete_sampled,
    "bulk_delete in process": _bulk_delete_in_process,
    "bulk_save": _bulk_save,
    "bulk_delete journal by position": _by_position,
    "bulk_delete journal by digest": _by_digest,
    "bulk_delete deduped": _deduped,
    "bulk_delete all on": _all_on,
}
