"""The states of items, and counts of outcomes by minute and by reason."""

from __future__ import annotations

from adapty_async._journal import Changes, ItemState, Minute, Reason
from adapty_async._journal.changes import ItemStates, OutcomeCounter
from tests.journal.support import span


class Clock:
    """A clock that stands still."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_state_is_known_on_both_sides_of_the_end_of_a_span() -> None:
    """A position behind all spans has no state, and the spans of earlier runs may have gaps."""
    states = ItemStates({0: span("d" * 512), 2: span("f")})
    found = [states.get(position) for position in (511, 512, 1024, 1025, 1536, 9999)]
    assert found == [ItemState[each] for each in ["DONE", "NONE", "FAILED", "NONE", "NONE", "NONE"]]
    states.set(1536, ItemState.ABSENT)
    assert [states.get(1535 + n) for n in range(3)] == [
        ItemState.NONE,
        ItemState.ABSENT,
        ItemState.NONE,
    ]
    assert states.pop_changes() == {3: span("a")}
    states.reserve(1530, 1536)
    assert [*states.pop_changes()] == [2]


def test_outcomes_are_counted_in_the_minute_of_their_commit() -> None:
    """Each minute has its own counts, which grow until the next one begins."""
    clock = Clock(120.0)
    counter = OutcomeCounter(3, clock)
    assert counter.pop_changes() == ([], [])
    counter.count((ItemState.DONE, 2, 1))
    clock.now = 121.0
    counter.pop_changes()
    counter.count((ItemState.ABSENT, 1, 0))
    clock.now = 122.0
    (minute,), _ = counter.pop_changes()
    assert minute == Minute(
        run=3, minute=2, first_at=121.0, last_at=122.0, done=1, absent=1, requests=3, throttled=1
    )
    counter.count((ItemState.DUPLICATE, 0, 0))
    clock.now = 180.0
    (minute,), _ = counter.pop_changes()
    assert minute == Minute(run=3, minute=3, first_at=180.0, last_at=180.0, duplicate=1)


def test_a_clock_that_is_set_back_loses_no_counts() -> None:
    """Outcomes after the clock is set back go to the latest minute, which replaces its row."""
    clock = Clock(600.0)
    counter = OutcomeCounter(1, clock)
    rows: dict[int, Minute] = {}
    for now in (600.0, 660.0, 610.0, 670.0, 730.0):
        clock.now = now
        counter.count((ItemState.DONE, 1, 0))
        rows.update({minute.minute: minute for minute in counter.pop_changes()[0]})
    assert {number: minute.done for number, minute in rows.items()} == {10: 1, 11: 3, 12: 1}
    assert rows[11].last_at == 670.0


def test_counts_that_were_not_stored_are_in_the_next_commit() -> None:
    """The commit after a failed one has its minutes and reasons, and those recorded meanwhile."""
    clock = Clock(60.0)
    counter = OutcomeCounter(1, clock)
    counter.count((ItemState.FAILED, 1, 0))
    counter.count_reason(ItemState.FAILED, ("X", 500))
    minutes, reasons = counter.pop_changes()
    counter.count((ItemState.FAILED, 1, 0))
    counter.count_reason(ItemState.FAILED, ("X", 500))
    counter.restore(Changes(minutes=minutes, reasons=reasons))
    clock.now = 119.0
    (minute,), (reason,) = counter.pop_changes()
    assert (minute.failed, minute.requests, reason.items) == (2, 2, 2)
    counter.restore(Changes(minutes=[minute], reasons=[reason]))
    clock.now = 120.0
    assert counter.pop_changes() == ([minute], [reason])


def test_only_a_hundred_reasons_are_kept() -> None:
    """Whatever errors a server makes up, the counts stay small and add up."""
    counter = OutcomeCounter(1, Clock(0.0))
    for number in range(500):
        state = ItemState.FAILED if number % 2 else ItemState.UNKNOWN
        counter.count_reason(state, (f"E{number}", 400))
    _, reasons = counter.pop_changes()
    assert len(reasons) == 102
    assert sum(reason.items for reason in reasons) == 500
    others = [reason for reason in reasons if reason.error == "others"]
    assert sorted(others, key=lambda each: each.state) == [
        Reason(run=1, state="failed", error="others", http_status=0, items=200),
        Reason(run=1, state="unknown", error="others", http_status=0, items=200),
    ]
