"""The benchmark of a shared rate, in a short form: real processes, a real store, a hidden limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_shared_rate import Server, measure

pytestmark = pytest.mark.unmeasured


def test_processes_do_all_items_once(tmp_path: Path) -> None:
    """Two processes and one with single calls send each item until it is accepted, and once."""
    store = Server(f"sqlite:///{tmp_path / 'rate.db'}")
    result = measure("calls", store, 2, 1.0, 150.0)

    assert [each.failed for each in result.processes] == [0, 0, 0]
    assert sum(len(each.done) for each in result.processes) == 190
    (record,) = result.records
    assert (record.once, record.repeated, record.never) == (190, 0, 0)
    assert "of the ideal" in result.line()
    assert sum(result.rates()) == 190
    assert all(each.exchanges > 0 for each in result.processes)
