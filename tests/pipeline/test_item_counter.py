"""The counts of a client's bulk runs, by status."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapty_async._pipeline.layers import ItemCounter


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["start", "end", "done", "failed"]))))
def test_counts_are_those_of_all_runs(steps: list[tuple[int, str]]) -> None:
    """Whatever starts, counts and ends, each item is counted once, and no count decreases."""
    counter, runs = ItemCounter(), dict[int, dict[str, int]]()
    expected = {"done": 0, "failed": 0}
    for run, step in steps:
        before = counter.counts()
        if step == "start" and run not in runs:
            runs[run] = {"done": 0, "failed": 0}
            counter.start(runs[run])
        elif step == "end" and run in runs:
            counter.end(runs.pop(run))
        elif step in expected and run in runs:
            runs[run][step] += 1
            expected[step] += 1
        after = counter.counts()
        assert after in ({}, expected)
        assert all(after[status] >= count for status, count in before.items())


def test_a_forked_process_starts_fresh() -> None:
    """Items of the parent process are not counted in the child, even if a run of it ends there."""
    counter, counts = ItemCounter(), {"done": 3}
    counter.start(counts)
    counter.after_fork()
    counter.end(counts)

    assert counter.counts() == {}
