"""Ordered asking with a bounded lookahead: the one place that knows concurrency.

Lookahead decides data: step *i* draws from the pool as it stood after step *i - lookahead(i)*, whatever has arrived
meanwhile. Concurrency decides speed: how many requests are under way. The first never follows from the second.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


def lookahead(step: int, cap: int) -> int:
    """How many steps before ``step`` it may not see yet. It grows with the step, so that a large cap does not make
    the early pool stale; under it the visible pool never moves backwards."""
    return max(4, min(cap, step // 2))


def seen_by(step: int, cap: int) -> int:
    """How many of the first steps are visible to ``step``: those before ``step - lookahead`` and that one."""
    return max(0, step - lookahead(step, cap) + 1)


async def in_order(
    ask: Callable[[int], Awaitable[T] | None], may: Callable[[int, int], bool], wake: asyncio.Event
) -> AsyncGenerator[T, None]:
    """Yield the results of ``ask(0)``, ``ask(1)``, … in order, with several of them under way.

    ``may(step, taken)`` says whether a step can be asked for now that ``taken`` results have been taken; it is asked
    again after each result and each time ``wake`` is set. ``ask`` draws when it is called, and returns None at the
    end of the plan. What is under way when the consumer leaves is cancelled.
    """
    under_way: deque[asyncio.Future[T]] = deque()
    step = taken = 0
    ended = False
    try:
        while True:
            wake.clear()
            while not ended and may(step, taken):
                result = ask(step)
                if result is None:
                    ended = True
                else:
                    under_way.append(asyncio.ensure_future(result))
                    step += 1
            if not under_way and ended:
                return
            await _first(under_way[0] if under_way else None, wake)
            while under_way and under_way[0].done():
                taken += 1
                yield under_way.popleft().result()
                if not ended and may(step, taken):
                    break
    finally:
        await cancelled(under_way)


async def _first(head: asyncio.Future[Any] | None, wake: asyncio.Event) -> None:
    if head is not None and head.done():
        return
    waker = asyncio.ensure_future(wake.wait())
    try:
        await asyncio.wait({waker} if head is None else {waker, head}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waker.cancel()


async def cancelled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel and see them end. What one of them raised counts as seen: the one that matters is raised already."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def apart(
    work: Callable[[], T], enough: Callable[[], bool], undo: Callable[[], object], tick: Callable[[], None]
) -> T | None:
    """The result of blocking work, in a thread of its own; None if ``enough`` says so before it is there.

    Then nobody waits for the thread, and ``undo`` is called when it ends. ``tick`` is called while it lasts.
    """
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    ends: list[Callable[[], T]] = []
    lock, left = threading.Lock(), False

    def run() -> None:
        end = _ending(work)
        with lock:
            if not left:
                ends.append(end)
                loop.call_soon_threadsafe(there.set)
                return
        undo()

    # A daemon: a program that is told to leave does not stay for it.
    threading.Thread(target=run, name="apart", daemon=True).start()
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(there.wait(), 0.1)
        with lock:
            if ends:
                return ends[0]()
            left = enough()
            if left:
                return None
        tick()


def _ending(work: Callable[[], T]) -> Callable[[], T]:
    """How the work ended, to be heard elsewhere: calling it returns what it returned, or raises what it raised."""
    try:
        made = work()
    except BaseException as error:  # noqa: BLE001 -- it is raised again where the result is waited for
        failure = error

        def fail() -> T:
            raise failure

        return fail
    return lambda: made


class Gate:
    """Lets so many through at once, the most urgent (the least) first and equals in the order in which they came."""

    def __init__(self, width: int) -> None:
        self._free = width
        self._order = itertools.count()
        self._waiting: list[tuple[tuple[int, ...], int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def passing(self, urgency: tuple[int, ...]) -> AsyncIterator[None]:
        await self._enter(urgency)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, urgency: tuple[int, ...]) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in and cancelled in the same turn: hand the place on
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
