"""The benchmark of a shared rate, in a short form: real processes, a real store, a hidden limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_shared_rate import Server, measure

pytestmark = pytest.mark.unmeasured


def test_processes_do_all_items_once(tmp_path: Path) -> None:
    """Two processes and one with single calls, at two servers, do each item of both once."""
    store = Server(f"sqlite:///{tmp_path / 'rate.db'}")
    result = measure("calls", store, 2, 1.0, 300.0, servers=2)

    assert [each.failed for each in result.processes] == [0, 0, 0]
    assert sum(len(each.done) for each in result.processes) == 380
    for record in result.records:
        assert (record.once, record.repeated, record.never) == (190, 0, 0)
    assert "of the ideal" in result.line()
    assert sum(result.rates()) == 380
    assert all(each.exchanges > 0 for each in result.processes)
