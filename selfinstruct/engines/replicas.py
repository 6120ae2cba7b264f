"""Several copies of a model as one engine: the one with the least to do is asked, and any of them may be lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from selfinstruct.engines import Failure, Reply, Request, Style
from selfinstruct.engines.workers import Lost, Opened
from selfinstruct.errors import EngineError

T = TypeVar("T")

LIVES = 4
"""How often each copy is started, the first time included."""
DEATHS = 3
"""A request that was in flight when so many copies died is given up: it may be what kills them."""

log = logging.getLogger("selfinstruct")


class Replica(Protocol):
    """One copy, wherever it runs. It is opened once, and closed whatever happened."""

    @property
    def facts(self) -> Mapping[str, str]: ...

    async def open(self) -> Opened:
        """Raises SelfInstructError where the engine says what is wrong, and Lost where it says nothing."""
        ...

    async def complete(self, request: Request) -> Reply:
        """Raises Lost if the copy is gone before it has answered."""
        ...

    async def gone(self) -> Lost:
        """Returns when the copy is no more."""
        ...

    async def close(self) -> None: ...


@dataclass
class _Seat:
    """The place of one copy: its share of the GPUs or of a cluster."""

    number: int
    start: Callable[[], Replica]
    held: Replica | None = None
    """The last copy that was started here."""
    replica: Replica | None = None
    """The copy, while it can be asked."""
    lives: int = LIVES
    over: bool = False
    """No copy will ever be started here again."""
    in_flight: int = 0
    suspects: int = 0
    asked: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    dropped: int = 0
    """Requests that were in flight at a loss that is not told yet, and …"""
    told: Replica | None = None
    """… the last copy whose loss is."""


class Replicas:
    """The engine. It has a thread of its own, so that it notices a loss whatever its caller is at, and may be used from
    any event loop.

    The requests in flight at a copy that is lost were never answered: they are asked again at the others, while a new
    copy is started in the lost one's place.
    """

    def __init__(
        self,
        name: str,
        starts: Sequence[Callable[[], Replica]],
        *,
        most: int | None = None,
        facts: Mapping[str, str] | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens all copies; raises what the first of them to fail raises. ``most``: requests under way that were asked
        for; ``release`` is called when all are closed.
        """
        self.name = name
        self._seats = [_Seat(number, start) for number, start in enumerate(starts, 1)]
        self._facts = dict(facts or {})
        self._release = release
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replicas", daemon=True)
        self._change = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._asks: set[asyncio.Task[Reply]] = set()
        self._closed = False
        self._last: Exception = Lost("")
        self._thread.start()
        try:
            each = self._call(self._open()).result()
        except BaseException:
            self._closed = True
            self._call(self._shut()).result()
            self._halt()
            raise
        total = sum(one.concurrency for one in each)
        self.concurrency = total if most is None else min(most, total)
        self.styles: tuple[Style, ...] = each[0].styles
        self.small = each[0].small

    async def complete(self, request: Request) -> Reply:
        if self._closed:
            raise EngineError(f"{self.name} is closed")
        return await asyncio.wrap_future(self._call(self._answer(request)))

    def facts(self) -> dict[str, str]:
        """Those of every copy; where they differ, each that there is."""
        facts: dict[str, list[str]] = {}
        for seat in self._seats:
            for fact, value in dict(seat.facts).items():  # a copy at once, for they change in the thread
                facts.setdefault(fact, []).append(value)
        merged = {fact: ", ".join(dict.fromkeys(values)) for fact, values in facts.items()}
        return {**merged, **self._facts, "replicas": str(len(self._seats))}

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await asyncio.wrap_future(self._call(self._shut()))
        await asyncio.to_thread(self._halt)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _halt(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # In the thread.

    async def _open(self) -> list[Opened]:
        opening = [asyncio.create_task(self._begin(seat)) for seat in self._seats]
        self._tasks = [*opening]
        each = await asyncio.gather(*opening)
        self._tasks = [
            asyncio.create_task(self._tend(seat, replica)) for seat, (replica, _) in zip(self._seats, each, strict=True)
        ]
        return [opened for _, opened in each]

    async def _shut(self) -> None:
        ending = [*self._tasks, *self._asks]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for seat in self._seats:
            seat.replica, seat.over = None, True
        await asyncio.gather(*(seat.held.close() for seat in self._seats if seat.held))
        self._changed()
        self._release()

    async def _begin(self, seat: _Seat) -> tuple[Replica, Opened]:
        """A new copy in the seat, open. Raises what the engine raises, or EngineError if it ends without a word."""
        seat.lives -= 1
        seat.held = replica = seat.start()
        try:
            opened = await replica.open()
        except BaseException as error:
            await replica.close()
            if not isinstance(error, Lost | OSError):  # OSError: this machine has no room for another process
                raise
            told = f"{self.name}: replica {seat.number} did not open: {_at_length(error)}"
            raise EngineError(told, hint=f"`selfinstruct doctor --model '{self.name}'` tells more") from error
        seat.replica, seat.facts = replica, replica.facts
        self._changed()
        return replica, opened

    async def _tend(self, seat: _Seat, replica: Replica | None) -> None:
        """Starts a new copy where one is lost, as long as the seat has lives."""
        while replica is not None:
            self._last = lost = await replica.gone()
            seat.replica = None
            # some hear of it before us, and some after
            dropped = seat.dropped + seat.in_flight
            seat.dropped, seat.told = 0, replica
            words = lost.words.rpartition("\n")[2]
            log.warning(
                "%s lost replica %d of %d: %s; requests in flight there, now asked again: %d%s",
                self.name,
                seat.number,
                len(self._seats),
                " ".join(str(lost).split()),
                dropped,
                f"; its last words: {words}" if words else "",
            )
            await replica.close()
            replica = await self._anew(seat)
        seat.over = True
        self._changed()

    async def _anew(self, seat: _Seat) -> Replica | None:
        while seat.lives:
            try:
                return (await self._begin(seat))[0]
            except Exception as error:  # noqa: BLE001 -- whatever it was: nobody is to wait for a copy that never comes
                self._last = error
        return None

    async def _answer(self, request: Request) -> Reply:
        asking = asyncio.ensure_future(self._ask(request))
        self._asks.add(asking)
        asking.add_done_callback(self._asks.discard)
        try:
            return await asking
        except asyncio.CancelledError:
            if self._closed:
                raise EngineError(f"{self.name} was closed before it had answered") from None
            raise

    async def _ask(self, request: Request) -> Reply:
        deaths = 0
        while deaths < DEATHS:
            suspect = deaths == DEATHS - 1
            seat, replica = await self._freest(suspect)
            seat.in_flight += 1
            seat.suspects += suspect
            seat.asked += 1
            try:
                return await replica.complete(request)
            except Lost:
                deaths += 1
                seat.dropped += seat.told is not replica
                if seat.replica is replica:
                    seat.replica = None
            finally:
                seat.in_flight -= 1
                seat.suspects -= suspect
                if suspect:
                    self._changed()
        told = f"{DEATHS} replicas died while it was in flight there"
        return Reply(error=Failure(kind="gave_up", message=told))

    async def _freest(self, suspect: bool) -> tuple[_Seat, Replica]:
        """Where there is the least to do. Waits while new copies are being started.

        A request that one more death would condemn goes where it is the only one of that sort, so that those who were
        only ever beside the culprit are found innocent.
        """
        while True:
            alive = [(seat, seat.replica) for seat in self._seats if seat.replica is not None]
            free = [one for one in alive if not (suspect and one[0].suspects)]
            if free:
                return min(free, key=lambda one: (one[0].in_flight, one[0].asked))
            if all(seat.over for seat in self._seats):
                told = f"{self.name}: every replica is lost, the last one so: {_at_length(self._last)}"
                hints = ["what had arrived is kept: the same command goes on from there"]
                hints += filter(None, [getattr(self._last, "hint", "")])
                raise EngineError(told, hint="; ".join(hints))
            await self._change.wait()

    def _changed(self) -> None:
        """Wakes those who wait for a copy."""
        self._change.set()
        self._change = asyncio.Event()


def _at_length(error: Exception) -> str:
    words = error.words if isinstance(error, Lost) else ""
    return "\n  ".join([str(error), *words.splitlines()])
