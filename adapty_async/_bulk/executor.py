"""An executor of bulk runs: it validates the options of a run, and makes its parts."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Unpack

from adapty_async._api.call import Operation
from adapty_async._bulk.bulk_run import BulkRun
from adapty_async._bulk.item_processor import ItemProcessor, Items
from adapty_async._bulk.outcome import StopPolicy
from adapty_async._bulk.recording import OutcomesPath, Recording, numbering_of
from adapty_async._bulk.run_journal import RunIdentity, RunJournal
from adapty_async._bulk.settings import (
    DRAIN_SECONDS,
    MAX_CONCURRENCY,
    MAX_OUTAGE,
    MOST_WORKERS,
    BulkOptions,
    RunSettings,
)
from adapty_async._bulk.workers import source_of
from adapty_async._flow.concurrency_limit import ConcurrencyLimit
from adapty_async._flow.limits import (
    LimiterRegistry,
    RunLimits,
    check_interval,
    remaining_patience,
    wakeful_clock,
)
from adapty_async._flow.rate_limiter import FixedRateLimiter
from adapty_async._input.items import TableItems, checked, require_no_table
from adapty_async._journal import RunName, SqliteJournal, belongs_to_journal
from adapty_async._pipeline.layers import Executor, build
from adapty_async.config import positive, whole_number
from adapty_async.errors import ConfigError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class BulkExecutor(Executor):
    """An executor that also sends operations in bulk runs."""

    def bulk(
        self,
        items: Items[ItemT],
        build_operation: Callable[[ItemT], Operation[ResultT]],
        name: str,
        /,
        **options: Unpack[BulkOptions[ItemT, ResultT]],
    ) -> BulkRun[ItemT, ResultT]:
        """Return a run that sends one operation for each item."""
        require_no_table(items)
        if isinstance(items, TableItems):
            build_operation = checked(build_operation)
        layers = self.layers
        limits = _limits_of(options, layers.timing.clock)
        settings = _settings_from(options, limits, layers.limiters)
        journal = self._journal(options, items, name, settings.concurrency)
        calls = ItemProcessor(
            build_operation,
            functools.partial(self._encode, low_priority=True),
            build(layers, self.options.retry, limits),
            layers,
            journal,
            dedupe=options.get("dedupe", False),
        )
        outcomes = _outcomes_of(options)
        processor: ItemProcessor[ItemT, ResultT] | Recording[ItemT, ResultT] = calls
        if outcomes is not None:
            is_any_order = journal is not None and not journal.by_position
            processor = Recording(
                outcomes,
                build_operation,
                calls,
                numbering_of(items),
                has_journal=journal is not None,
                by_id=is_any_order and RunName.parse(name).is_id_enough,
            )
        return BulkRun(
            source_of(items),
            processor.process,
            StopPolicy().check,
            settings,
            processor.open,
            processor.pass_over,
        )

    def _journal(
        self, options: BulkOptions[Any, Any], items: object, name: str, workers: int
    ) -> RunJournal | None:
        """Return the journal of a run, which is not open yet; None without one."""
        storage, defaults = options.get("journal"), self.options.defaults
        if storage is None:
            if options.get("job_id") is not None:
                raise ConfigError("job_id needs a journal")
            return None
        if isinstance(storage, str | os.PathLike):
            storage = SqliteJournal(Path(storage), owed=2 * workers)
        run = RunIdentity(name, defaults.origin, defaults.account)
        return RunJournal(storage, run, items, options.get("job_id"), workers)


def _limits_of(options: BulkOptions[Any, Any], clock: Callable[[], float]) -> RunLimits:
    rate, concurrency = options.get("rate"), options.get("concurrency")
    max_outage = MAX_OUTAGE
    if "max_outage" in options:
        max_outage = positive("max_outage", options["max_outage"])
    return RunLimits(
        rate_limiter=None if rate is None else _run_rate_limiter(positive("rate", rate), clock),
        concurrency=ConcurrencyLimit(MOST_WORKERS, clock) if concurrency is None else None,
        max_outage=max_outage,
        awake=wakeful_clock(clock, max_outage),
    )


def _outcomes_of(options: BulkOptions[Any, Any]) -> OutcomesPath | None:
    outcomes, journal = options.get("outcomes"), options.get("journal")
    if outcomes is None:
        return None
    path = Path(outcomes)
    if isinstance(journal, str | os.PathLike) and belongs_to_journal(path, Path(journal)):
        raise ConfigError("outcomes must not be the journal, nor a file that goes with it")
    return OutcomesPath(path, outcomes.identify if isinstance(outcomes, OutcomesPath) else None)


def _run_rate_limiter(rate: float, clock: Callable[[], float]) -> FixedRateLimiter:
    # a burst that compensates for a busy event loop, and no more: the server throttles a burst as
    # large as its own if the requests arrive closer together than they were sent
    return FixedRateLimiter(rate, max(1, round(rate / 50)), clock)


def _settings_from(
    options: BulkOptions[Any, Any], limits: RunLimits, limiters: LimiterRegistry
) -> RunSettings:
    """
    Validate the options of a bulk method, and return the settings of its run.

    Args:
        options: the options.
        limits: the limits of the run.
        limiters: the limits of the client.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    require_known(options, BulkOptions)
    concurrency = options.get("concurrency")
    if concurrency is not None:
        whole_number("concurrency", concurrency, MAX_CONCURRENCY)
    if inspect.iscoroutinefunction(options.get("on_outcome")):
        raise ConfigError("on_outcome must be a plain function; an async one is never awaited")
    return RunSettings(
        concurrency=MOST_WORKERS if concurrency is None else concurrency,
        worker_limit=limits.concurrency,
        fail_fast=options.get("fail_fast", False),
        ordered=options.get("ordered", False),
        drain=positive("drain", options["drain"]) if "drain" in options else DRAIN_SECONDS,
        on_outcome=options.get("on_outcome"),
        stopping=limits.stopping,
        patience=functools.partial(remaining_patience, limiters, limits),
        check_interval=check_interval(limits.max_outage),
    )


def require_known(options: Mapping[str, Any], known: type[Any]) -> None:
    """
    Validate the names of options by the typed dictionary that has them.

    Raises:
        ConfigError: an option is unknown.
    """
    unknown = options.keys() - known.__annotations__.keys()
    if unknown:
        raise ConfigError(f"unknown option: {', '.join(sorted(unknown))}")
