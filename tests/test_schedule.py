"""Ordered asking and the gate: order is the plan's, whatever arrives first, fails or is cancelled."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.schedule import Gate, apart, in_order, lookahead, seen_by

T = TypeVar("T")
STEPS = st.integers(0, 200_000)
CAPS = st.integers(4, 20_000)
DELAYS = st.lists(st.integers(0, 6), max_size=25)
RUNNER: asyncio.Runner
FEW = pytest.mark.parametrize("width", [1, 2, 7])


@pytest.fixture(scope="module", autouse=True)
def runner() -> Iterator[None]:
    global RUNNER
    with asyncio.Runner() as RUNNER:
        yield


def quietly(main: Coroutine[Any, Any, T]) -> T:
    """Run it; whatever the event loop would have complained of fails the test."""
    complaints: list[dict[str, Any]] = []
    RUNNER.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
    try:
        return RUNNER.run(main)
    finally:
        gc.collect(1)
        assert not complaints, complaints


async def turns(count: int) -> None:
    """So many turns of the event loop: a delay without a clock."""
    for _ in range(count):
        await asyncio.sleep(0)


class Plan:
    """Steps that take so many turns each, and a record of what was asked, ended and cancelled."""

    def __init__(self, delays: list[int], ahead: int = 4, failing: frozenset[int] = frozenset()) -> None:
        self.delays = delays
        self.ahead = ahead
        self.failing = failing
        self.asked: list[int] = []
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.allowed: list[tuple[int, int]] = []

    def ask(self, step: int) -> Awaitable[int] | None:
        if step == len(self.delays):
            return None
        assert self.allowed[-1][0] == step
        self.asked.append(step)
        return self.answer(step)

    async def answer(self, step: int) -> int:
        self.begun.append(step)
        try:
            await turns(self.delays[step])
        except asyncio.CancelledError:
            self.cancelled.append(step)
            raise
        self.ended.append(step)
        if step in self.failing:
            raise ArithmeticError(step)
        return step

    def may(self, step: int, taken: int) -> bool:
        if step < taken + self.ahead:
            self.allowed.append((step, taken))
            return True
        return False

    def steps(self, wake: asyncio.Event | None = None) -> AsyncGenerator[int, None]:
        return in_order(self.ask, self.may, wake or asyncio.Event())


class TestLookahead:
    @given(STEPS, CAPS)
    def test_what_is_visible_never_moves_backwards_and_leaves_room(self, step: int, cap: int) -> None:
        assert 0 <= seen_by(step, cap) <= seen_by(step + 1, cap) <= seen_by(step, cap) + 1
        assert seen_by(step, cap) <= max(0, step - 3)
        assert 4 <= lookahead(step, cap) <= max(4, cap)

    @given(STEPS, CAPS)
    def test_a_step_sees_what_was_kept_up_to_its_lookahead_before_it(self, step: int, cap: int) -> None:
        assert seen_by(step, cap) == len(range(step - lookahead(step, cap) + 1))

    @given(st.integers(0, 2_000), CAPS)
    def test_the_early_steps_do_not_know_the_cap(self, step: int, cap: int) -> None:
        assert step // 2 > cap or lookahead(step, cap) == lookahead(step, 2**60)


class TestInOrder:
    @given(DELAYS, st.integers(1, 8))
    def test_results_come_in_order_whatever_ends_first(self, delays: list[int], ahead: int) -> None:
        plan = Plan(delays, ahead)

        async def main() -> list[int]:
            return [step async for step in plan.steps()]

        assert quietly(main()) == list(range(len(delays))) == plan.asked
        assert all(step < taken + ahead for step, taken in plan.allowed)

    @given(DELAYS, st.integers(2, 8), st.integers(0, 25))
    def test_what_is_under_way_when_the_consumer_leaves_is_cancelled(
        self, delays: list[int], ahead: int, leave: int
    ) -> None:
        plan = Plan(delays, ahead)

        async def main() -> None:
            async with aclosing(plan.steps()) as steps:
                async for step in steps:
                    if step == leave:
                        break
            ended = list(plan.ended)
            await turns(10)
            assert plan.ended == ended

        quietly(main())
        assert sorted(plan.ended + plan.cancelled) == sorted(plan.begun)

    @given(DELAYS.filter(bool), st.integers(1, 8), st.data())
    def test_an_error_is_raised_when_its_turn_comes_and_ends_the_rest(
        self, delays: list[int], ahead: int, data: st.DataObject
    ) -> None:
        failing = data.draw(st.frozensets(st.integers(0, len(delays) - 1), min_size=1))
        plan = Plan(delays, ahead, failing)
        seen: list[int] = []

        async def main() -> None:
            async with aclosing(plan.steps()) as steps:
                async for step in steps:
                    seen.append(step)  # noqa: PERF401 -- what was seen before the error counts

        with pytest.raises(ArithmeticError) as caught:
            quietly(main())  # and no other failure is reported as forgotten
        assert caught.value.args == (min(failing),)
        assert seen == list(range(min(failing)))

    def test_waking_lets_a_step_begin_that_was_held(self) -> None:
        held = True
        wake = asyncio.Event()
        asked: list[int] = []

        def ask(step: int) -> Awaitable[int] | None:
            if step == 3:
                return None
            asked.append(step)
            return asyncio.sleep(0, step)

        async def release() -> None:
            nonlocal held
            await turns(20)
            assert asked == [0, 1]
            wake.set()  # in vain
            await turns(20)
            assert asked == [0, 1]
            held = False
            wake.set()

        async def main() -> list[int]:
            releasing = asyncio.ensure_future(release())
            steps = [step async for step in in_order(ask, lambda step, taken: step < 2 or not held, wake)]
            await releasing
            return steps

        assert quietly(main()) == [0, 1, 2]

    def test_a_step_begins_while_the_first_is_still_under_way(self) -> None:
        allowed = 1
        wake = asyncio.Event()
        plan = Plan([50, 0, 0])

        async def main() -> list[int]:
            nonlocal allowed

            async def more() -> None:
                nonlocal allowed
                await turns(5)
                allowed = 3
                wake.set()
                await turns(10)
                assert plan.ended == [1, 2]

            asking = asyncio.ensure_future(more())

            def may(step: int, taken: int) -> bool:
                return step < allowed + taken and plan.may(step, taken)

            steps = [step async for step in in_order(plan.ask, may, wake)]
            await asking
            return steps

        assert quietly(main()) == [0, 1, 2]

    def test_a_plan_of_nothing_ends(self) -> None:
        async def main() -> list[int]:
            return [step async for step in Plan([]).steps()]

        assert quietly(main()) == []


class Door:
    """A gate, and a record of who passed it in which order and how many were inside."""

    def __init__(self, width: int) -> None:
        self.gate = Gate(width)
        self.width = width
        self.inside = 0
        self.passed: list[int] = []

    async def pass_(self, who: int, urgency: int, stay: int) -> None:
        async with self.gate.passing((urgency,)):
            self.inside += 1
            assert self.inside <= self.width
            self.passed.append(who)
            try:
                await turns(stay)
            finally:
                self.inside -= 1

    async def is_whole(self) -> bool:
        """Whether as many can be inside as at the start."""
        before = len(self.passed)
        tasks = [asyncio.ensure_future(self.pass_(-1, 0, 1000)) for _ in range(self.width + 1)]
        await turns(10)
        inside = len(self.passed) - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return inside == self.width and self.inside == 0


GUESTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=20)


class TestGate:
    @given(GUESTS, st.integers(1, 5))
    def test_never_more_than_its_width_are_inside_and_all_get_through(
        self, guests: list[tuple[int, int]], width: int
    ) -> None:
        async def main() -> None:
            door = Door(width)
            await asyncio.gather(*(door.pass_(who, *guest) for who, guest in enumerate(guests)))
            assert sorted(door.passed) == list(range(len(guests)))
            assert await door.is_whole()

        quietly(main())

    @given(GUESTS, st.integers(1, 5))
    def test_the_urgent_go_first_and_equals_in_the_order_of_coming(
        self, guests: list[tuple[int, int]], width: int
    ) -> None:
        async def main() -> list[int]:
            door = Door(width)
            blockers = [asyncio.ensure_future(door.pass_(-1, 0, 3)) for _ in range(width)]
            await turns(1)
            await asyncio.gather(*(door.pass_(who, *guest) for who, guest in enumerate(guests)), *blockers)
            return door.passed[width:]

        assert quietly(main()) == sorted(range(len(guests)), key=lambda who: (guests[who][0], who))

    @given(GUESTS, st.lists(st.tuples(st.integers(0, 19), st.integers(0, 12)), max_size=20), st.integers(1, 3))
    def test_no_place_is_lost_to_a_cancellation_at_any_moment(
        self, guests: list[tuple[int, int]], cancels: list[tuple[int, int]], width: int
    ) -> None:
        async def main() -> None:
            door = Door(width)
            tasks = [asyncio.ensure_future(door.pass_(who, *guest)) for who, guest in enumerate(guests)]
            for moment in range(13):
                for who, when in cancels:
                    if when == moment and who < len(tasks):
                        tasks[who].cancel()
                await turns(1)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
            assert await door.is_whole()

        quietly(main())

    @FEW
    def test_one_who_is_let_in_and_cancelled_in_the_same_turn_hands_the_place_on(self, width: int) -> None:
        async def main() -> list[int]:
            door = Door(width)
            inside = [asyncio.ensure_future(door.pass_(-1, 0, 5)) for _ in range(width)]
            await turns(1)
            first = asyncio.ensure_future(door.pass_(1, 0, 0))
            second = asyncio.ensure_future(door.pass_(2, 0, 0))
            await turns(1)
            leaving: Callable[[asyncio.Future[None]], None] = lambda _: first.cancel()  # noqa: E731
            inside[0].add_done_callback(leaving)
            await asyncio.gather(second, *inside)
            await asyncio.gather(first, return_exceptions=True)
            assert await door.is_whole()
            return door.passed[width : width + 2]

        assert 2 in quietly(main())


class TestApart:
    def test_gives_what_the_work_gives_or_raises_what_it_raises(self) -> None:
        def fails() -> int:
            raise KeyError("x")

        async def main() -> None:
            assert await apart(lambda: 7, lambda: False, print, lambda: None) == 7
            with pytest.raises(KeyError):
                await apart(fails, lambda: False, print, lambda: None)

        asyncio.run(main())

    def test_waits_for_nobody_who_is_wanted_no_more_and_undoes_what_comes_of_it(self) -> None:
        going, undone, ticks = threading.Event(), list[int](), list[int]()

        def work() -> int:
            going.wait(30)
            return 7

        async def main() -> int | None:
            return await apart(work, lambda: len(ticks) == 2, lambda: undone.append(7), lambda: ticks.append(1))

        assert asyncio.run(main()) is None
        assert undone == []
        going.set()
        deadline = time.monotonic() + 30
        while not undone and time.monotonic() < deadline:
            time.sleep(0.01)
        assert undone == [7]
