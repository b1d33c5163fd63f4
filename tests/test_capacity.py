"""
The number of requests in flight that a run finds out, answer by answer.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._capacity import Capacity
from adapty_async.errors import (
    AdaptyError,
    ConnectionLostError,
    DeadlineError,
    NotFoundError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.testing import FakeClock


class Run:
    """
    A run whose requests end as they are told to.

    Attributes:
        capacity: what is tested.
        clock: seconds, moved on by the test alone.
    """

    def __init__(self, most: int = 256, now: float = 100.0) -> None:
        self.clock = FakeClock(now)
        self.capacity = Capacity(most, self.clock)

    @property
    def count(self) -> int:
        """
        How many requests may be in flight.
        """
        return self.capacity.places.count

    async def end(
        self, seconds: float, failure: AdaptyError | None = None, *, wanted: bool = False
    ) -> int:
        """
        End one of as many requests as may be in flight, perhaps while one more waits to be sent.

        Returns:
            How many may be in flight then.
        """
        places = self.capacity.places
        while places.free > 0:
            await places.take()
        waiting = asyncio.create_task(places.take()) if wanted else None
        await asyncio.sleep(0)
        self.capacity.leave(failure, seconds)
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return self.count

    async def after(self, pause: float, seconds: float, *, wanted: bool = False) -> int:
        """
        Let so much time pass, and then end a request.
        """
        self.clock.now += pause
        return await self.end(seconds, wanted=wanted)


@pytest.mark.parametrize(("most", "start"), [(1, 1), (64, 64), (10, 10), (2048, 64)], ids=str)
def test_it_starts_with_64_or_as_many_as_allowed(most: int, start: int) -> None:
    """
    Before anything is known, 64 requests may be in flight, unless fewer are allowed at all.
    """
    places = Capacity(most, FakeClock()).places

    assert (places.count, places.free) == (start, start)


async def test_a_place_is_given_back_however_the_request_ended() -> None:
    """
    Every way to end frees the place for the next.
    """
    failures: list[AdaptyError | None] = [
        None,
        ServerError("status 500", status=500),
        ConnectionLostError("reset"),
        DeadlineError("too late"),
        RequestTimeoutError("no answer"),
    ]
    capacity = Capacity(4, FakeClock())
    for failure in failures:
        await capacity.places.take()
        capacity.leave(failure, 0.1)
        assert capacity.places.free == capacity.places.count == 4


async def test_it_grows_by_a_quarter_while_somebody_waits_for_a_place() -> None:
    """
    As long as answers come as fast as ever, those who wait are given more places.
    """
    run = Run(most=130)

    assert await run.end(0.1, wanted=True) == 80
    assert await run.after(0.2, 0.1, wanted=True) == 100
    assert await run.after(0.2, 0.1, wanted=True) == 125
    assert await run.after(0.2, 0.1, wanted=True) == 130
    assert await run.after(0.2, 0.1, wanted=True) == 130


async def test_it_does_not_grow_while_nobody_waits() -> None:
    """
    More places are of no use as long as those that are there are enough, even if all are taken.
    """
    run = Run()

    assert await run.end(0.1) == 64
    assert await run.after(1.0, 0.1) == 64


async def test_it_does_not_grow_into_places_that_were_just_taken_away() -> None:
    """
    When more have a place than there are, that alone is no reason for more places.
    """
    run = Run()
    await run.end(0.1)
    assert await run.end(30.0, RequestTimeoutError("no answer")) == 32

    assert run.capacity.places.free < 0
    assert await run.after(1.0, 0.1) == 32


async def test_those_who_wait_get_the_new_places_at_once() -> None:
    """
    A change wakes as many as now fit, beside the one who gets the place that was given back.
    """
    run = Run()
    places = run.capacity.places
    for _ in range(64):
        await places.take()
    waiting = [asyncio.create_task(places.take()) for _ in range(20)]
    await asyncio.sleep(0)
    run.capacity.leave(None, 0.1)
    await asyncio.sleep(0)

    assert [task.done() for task in waiting] == [True] * 17 + [False] * 3
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_it_does_not_grow_while_answers_are_slower_than_they_can_be() -> None:
    """
    Half as slow again as the fastest is the most; above that, more at once would only wait there.
    """
    run = Run()
    await run.end(0.1)

    for _ in range(100):
        await run.after(0.0, 0.16)
    assert await run.after(1.0, 0.16, wanted=True) == 64
    for _ in range(100):
        await run.after(0.0, 0.14)
    assert await run.after(1.0, 0.14, wanted=True) == 80


async def test_it_shrinks_by_a_tenth_when_answers_take_far_longer() -> None:
    """
    Three times the fastest and a quarter of a second is far longer, whoever waits.
    """
    run = Run()
    await run.end(0.1)

    for _ in range(30):
        assert await run.after(0.6, 0.54) == 64
    counts = [await run.after(0.6, 0.6, wanted=True) for _ in range(12)]
    assert list(dict.fromkeys(counts))[:5] == [64, 58, 52, 47, 42]


async def test_answers_of_a_quarter_of_a_second_are_never_far_too_slow() -> None:
    """
    A service that answers at once is not given up on for what our own loop may have taken.
    """
    run = Run()
    await run.end(0.0001)

    for _ in range(30):
        assert await run.after(0.3, 0.25) == 64


async def test_it_is_halved_when_no_answer_comes_in_time() -> None:
    """
    A timeout takes half of the places away, and never the last four.
    """
    run = Run()
    await run.end(0.1)

    for count in (32, 16, 8, 4, 4):
        run.clock.now += 1.0
        assert await run.end(30.0, RequestTimeoutError("no answer")) == count


async def test_one_change_is_made_per_usual_answer_time() -> None:
    """
    Requests that end together count once: what comes of a change has to be seen first.
    """
    run = Run()
    await run.end(0.5, wanted=True)
    assert run.count == 80

    for _ in range(10):
        assert await run.end(30.0, RequestTimeoutError("no answer")) == 80
    assert await run.after(0.4, 0.5, wanted=True) == 80
    assert await run.after(0.1, 0.5, wanted=True) == 100


@pytest.mark.parametrize("most", [1, 2, 3, 4])
async def test_a_run_that_is_allowed_little_keeps_it(most: int) -> None:
    """
    Four places or fewer are never taken away, and never become more than allowed.
    """
    run = Run(most)

    assert await run.end(30.0, RequestTimeoutError("no answer")) == most
    assert await run.after(1.0, 0.1, wanted=True) == most


@pytest.mark.parametrize(
    ("failure", "counts"),
    [
        (NotFoundError("no such profile", status=404), True),
        (ServerError("status 500", status=500), True),
        (ConnectionLostError("reset"), False),
        (DeadlineError("too late"), False),
    ],
    ids=["404", "500", "lost", "late"],
)
async def test_only_what_was_answered_tells_how_fast_the_service_is(
    failure: AdaptyError, *, counts: bool
) -> None:
    """
    An error that the server answered with is an answer; one without an answer is not.
    """
    run = Run()
    await run.end(10.0)
    count = await run.end(0.001, failure)

    assert count == (58 if counts else 64)  # far slower than that, or as fast as ever


@pytest.mark.parametrize(("fast", "forgotten"), [(0, 60), (15, 60), (29, 60), (30, 90)], ids=str)
async def test_the_fastest_answer_is_forgotten_after_half_a_minute_to_a_minute(
    fast: int, forgotten: int
) -> None:
    """
    A service that became slower for good is accepted, and what is usual now is as fast as ever.
    """
    run = Run()
    for _ in range(fast):
        await run.end(0.2)
        run.clock.now += 1.0
    await run.end(0.1)
    for _ in range(100):
        await run.end(0.2)

    for _ in range(fast + 1, forgotten):
        assert await run.after(1.0, 0.2, wanted=True) == 64
    assert await run.after(1.0, 0.2, wanted=True) == 80


@given(
    most=st.integers(1, 300),
    answers=st.lists(
        st.tuples(
            st.floats(0.0, 40.0), st.floats(0.0, 40.0), st.sampled_from("atc"), st.booleans()
        ),
        max_size=60,
    ),
)
def test_it_stays_within_its_bounds_whatever_comes(
    most: int, answers: list[tuple[float, float, str, bool]]
) -> None:
    """
    Never fewer than four places or all that are allowed, never more, and no growth unasked.
    """
    failures = {"t": RequestTimeoutError("no answer"), "c": ConnectionLostError("reset")}

    async def go() -> None:
        run = Run(most)
        for pause, seconds, kind, wanted in answers:
            before = run.count
            run.clock.now += pause
            await run.end(seconds, failures.get(kind), wanted=wanted)
            assert min(4, most) <= run.count <= most
            assert run.count <= before or (wanted and kind == "a")
            assert run.count >= before // 2

    asyncio.run(go())
