"""Where a loop's replies come from: the journal first, then the engine; or, in a replay, the journal alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from selfinstruct.engines import Engine, Reply, Request, Usage
from selfinstruct.errors import UsageError
from selfinstruct.journal import Journal, Place, request_key
from selfinstruct.loop import Unanswered
from selfinstruct.schedule import Gate

QUIET = 50
"""Turns of the event loop in which no stored reply is taken: then the run as it stands has taken all that it can."""


class Live:
    """Asks the engine for what the journal does not hold, so many at a time, and keeps each reply as it arrives."""

    replays = False
    end: int | None = None

    def __init__(self, journal: Journal, engine: Engine, others: Mapping[str, Engine] | None = None) -> None:
        """``others`` are asked at the stages that they are named for, ``engine`` at all that are not named."""
        self._journal = journal
        self._engine = engine
        self._others = dict(others or {})
        self._gates = {id(one): Gate(one.concurrency) for one in (engine, *self._others.values())}
        self._open = True
        self._gone_over = asyncio.Event()
        self._resting = journal.totals().replies == 0
        if self._resting:
            self._gone_over.set()
        self._landed = asyncio.Event()
        self.in_flight = 0
        self.sent = 0
        self.reused = 0
        self.arrived = 0
        self.failed = 0
        self.usage = Usage()
        self.notes: dict[str, int] = {}
        """What the wire needed, and how often."""
        self.models: dict[str, int] = {}
        """The models' names and fingerprints as reported, and how often."""
        self.last_error = ""

    def planned(self, step: int) -> tuple[str, ...] | None:
        return None

    def close(self) -> None:
        """Let nothing new leave."""
        self._open = False

    async def drained(self) -> None:
        """Let nothing new leave, and return when all that was under way has arrived."""
        self.close()
        while self.in_flight:
            self._landed.clear()
            await self._landed.wait()

    async def _rest(self) -> None:
        """Wait until the run has gone over what the journal holds: one that needs no more than that asks nothing."""
        if not self._resting:  # the first who comes looks; the others wait
            self._resting = True
            quiet = 0
            while quiet < QUIET:
                before = self.reused
                await asyncio.sleep(0)
                quiet = quiet + 1 if self.reused == before else 0
            self._gone_over.set()
        await self._gone_over.wait()

    async def reply(self, place: Place, request: Request, parents: Sequence[str], urgency: int) -> tuple[Reply, str]:
        engine = self._others.get(place.stage, self._engine)
        gate = self._gates[id(engine)]
        key = request_key(engine.name, request)
        stored = self._journal.find(place)
        if stored is not None:
            if stored.key != key:
                raise UsageError(
                    f"the plan no longer matches the stored replies: {place} asks for something else now",
                    hint="another version of selfinstruct made this run; --fresh starts anew, `replay` re-judges it",
                )
            self.reused += 1
            self._note(stored.reply)
            return stored.reply, engine.name
        await self._rest()
        # Among equals the oldest step first: what is done soonest is kept soonest, and holds nothing up behind it.
        async with gate.passing((urgency, place.step)):
            if not self._open:
                await asyncio.Event().wait()  # until the loop is cancelled
            self.in_flight += 1
            self.sent += 1
            try:
                self._journal.sending(place, key, tuple(parents))
                reply = await engine.complete(request)
                self.arrived += 1  # even if we are cancelled while it is being written
                self._note(reply)
                await self._journal.arrived(place, reply)
            finally:
                self.in_flight -= 1
                self._landed.set()
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # the engine answered all the same: nothing further is asked
            raise asyncio.CancelledError
        return reply, engine.name

    def _note(self, reply: Reply) -> None:
        if reply.error:
            self.failed += 1
            self.last_error = reply.error.message
        for note in reply.changed:
            self.notes[note] = self.notes.get(note, 0) + 1
        who = " ".join(filter(None, (reply.model, reply.fingerprint)))
        if who:
            self.models[who] = self.models.get(who, 0) + 1
        old, new = self.usage, reply.usage
        self.usage = Usage(
            prompt=old.prompt + new.prompt,
            completion=old.completion + new.completion,
            reasoning=old.reasoning + new.reasoning,
            cached=old.cached + new.cached,
        )


class Replayed:
    """Takes the stored replies along the stored plan and asks no model.

    Where no ``end`` of that plan is known, it ends at the first reply that is missing: the rules are the run's own, and
    all that it came to has one. Before a known end, one that is missing belongs to a draft that was newly let in.
    """

    replays = True

    def __init__(
        self, journal: Journal, drafting: str, model: str, others: Mapping[str, str], *, end: int | None = None
    ) -> None:
        """``drafting`` is the stage of the drafts; ``others`` names the models of stages that are not ``model``'s."""
        self._journal = journal
        self._drafting = drafting
        self._model = model
        self._others = dict(others or {})
        self.end = end
        self.differing = 0
        """Stored replies to another request than the one that the plan asks now."""

    def planned(self, step: int) -> tuple[str, ...] | None:
        stored = self._journal.find(Place(self._drafting, step))
        if stored is None:
            return None if self.end is None else ()
        return stored.parents

    async def reply(self, place: Place, request: Request, parents: Sequence[str], urgency: int) -> tuple[Reply, str]:
        stored = self._journal.find(place)
        if stored is None:
            raise Unanswered(new=self.end is not None)
        model = self._others.get(place.stage, self._model)
        self.differing += stored.key != request_key(model, request)
        return stored.reply, model

    def close(self) -> None:
        pass

    async def drained(self) -> None:
        pass
