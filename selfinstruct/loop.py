"""The loop: draw, ask, read, judge, keep; one for every recipe, live or replayed.

Two coroutines share the pool. ``_draft`` judges steps strictly in plan order and lets passed drafts into the pool;
their answers are asked for at once. ``_keep`` takes the same steps in the same order, waits for the answers, judges
them and hands everything that was read to the shards, kept or rejected. So order is decided by the plan, whatever
arrives first, and the output of a run is a prefix of one endless stream, cut where the target is reached.

Where a recipe evolves, a step follows on what became of an earlier one: it is drawn when that is settled, and its
drafts are judged when all that they may see is. What they see is decided by the plan as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from random import Random
from typing import Any, NamedTuple, Protocol

from selfinstruct.engines import Failure, Reply, Request
from selfinstruct.errors import ExhaustedError
from selfinstruct.filters import Rules, Verdict
from selfinstruct.journal import Place
from selfinstruct.operators import Answerer, Ask, Drafter, Pool, Read, Setting, Settler, Unreadable, Untouched, unread
from selfinstruct.recipe import Recipe
from selfinstruct.records import Objection, Record
from selfinstruct.schedule import cancelled, in_order, seen_by

NO_VERDICT = ": no verdict"
"""What follows a rule's name in the remarks of a record that it could not judge."""
UNKEPT = 16
"""Drafts that are not kept or rejected yet, for each request that the engine takes at once."""
WIDE = 256
"""Requests at once above which more is asked ahead: a slow draft holds up all after it, and of so many some are slow.
Below, what is asked for nothing at the end would weigh more."""
GRACE = 5.0
"""Seconds that requests under way are given at the end."""


def rng_for(recipe: Recipe, purpose: str, place: Place) -> Random:
    """The randomness of one decision: it depends on the run's seed and the place, and on nothing that happened."""
    return Random(_number(recipe, purpose, place))


def seed_for(recipe: Recipe, place: Place) -> int:
    """The sampling seed of a request: 31 bits."""
    return _number(recipe, "sampling", place) % 2**31


def _number(recipe: Recipe, purpose: str, place: Place) -> int:
    text = f"{recipe.seed}|{purpose}|{place.stage}|{place.step}|{place.item}|{place.attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


class Asked(NamedTuple):
    """A request on the way to a record, for its lineage."""

    place: Place
    request: Request
    model: str
    failed: bool = False


class Unanswered(Exception):
    """A replay has no reply for a place. ``new``: the original run had rejected the draft, and so never asked."""

    def __init__(self, *, new: bool) -> None:
        super().__init__()
        self.new = new


class Asker(Protocol):
    """Where replies come from: the journal first, then (unless it is a replay) the engine."""

    replays: bool
    end: int | None
    """In a replay, the step before which it ends, if that is known."""

    async def reply(self, place: Place, request: Request, parents: Sequence[str], urgency: int) -> tuple[Reply, str]:
        """The reply, and the name of the model."""
        ...

    def planned(self, step: int) -> tuple[str, ...] | None:
        """In a replay: the parents of a step; None where the stored plan ends, () where nothing was asked."""
        ...

    def close(self) -> None:
        """Let nothing new leave."""
        ...

    async def drained(self) -> None:
        """Let nothing new leave, and return when all that was under way has arrived."""
        ...


class Known(Protocol):
    """What the rules said in an earlier call of the run."""

    def known(self, step: int) -> bool: ...

    def of(self, step: int, name: str) -> Objection | None: ...

    def forget(self, step: int) -> None: ...


class Sink(Protocol):
    """Where everything that was read goes, in plan order."""

    def keep(self, kept: Kept) -> None: ...

    def reject(self, rejected: Rejected) -> None: ...


class Kept(NamedTuple):
    record: Record
    place: Place
    steer: Mapping[str, str]
    remarks: tuple[str, ...]
    asked: tuple[Asked, ...]
    scores: Mapping[str, float] = {}


class Rejected(NamedTuple):
    name: str
    """``stage:step.item``, with ``.k`` for the k-th record of an answer."""
    objection: Objection
    record: Record
    text: str
    """What could not be read, as it came."""
    steer: Mapping[str, str]
    asked: tuple[Asked, ...]
    scores: Mapping[str, float] = {}


class Item(NamedTuple):
    """One thing read from a step's reply: rejected already, or a draft whose answer is on its way."""

    read: Read
    record: Record
    objection: Objection | None
    answer: asyncio.Task[Answered] | None


class Answered(NamedTuple):
    """What came of a draft that passed: the verdict of a rule that asked a model, or its answers."""

    reads: list[Read]
    asked: tuple[Asked, ...]
    objection: Objection | None = None
    scores: Mapping[str, float] = {}
    remarks: tuple[str, ...] = ()


class Step(NamedTuple):
    number: int
    parents: tuple[Record, ...]
    steer: Mapping[str, str]
    reads: list[Read]
    asked: tuple[Asked, ...]
    blank: Record
    """What stands for a part that could not be read."""


class _NoReply(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _failed(reply: Reply) -> bool:
    """Whether no answer came of a request at all."""
    return all(one.error for one in (reply, *reply.more))


class Counts:
    """The figures of a run so far: of what was kept and rejected up to the cut, and of what is known beyond it."""

    def __init__(self) -> None:
        self.kept = 0
        self.drafts = 0
        """Everything read from drafting replies up to the cut."""
        self.answers = 0
        """Everything read from answers up to the cut."""
        self.let_in = 0
        """Drafts among them that passed."""
        self.steps = 0
        self.used = 0
        """Replies that what was read up to the cut came from."""
        self.errors = 0
        """Replies up to the cut that were a request's error."""
        self.rejected: Counter[str] = Counter()
        self.evolution: dict[str, int] = {}
        """Where the recipe evolves: the round, of how many, the rows, and how many tries had which outcome."""

    def count(self, asked: Iterable[Asked]) -> None:
        for one in asked:
            self.errors += one.failed
            self.used += not one.failed

    def yield_per_step(self) -> float:
        return (self.kept + 1) / (self.steps + 1)

    def figures(self) -> dict[str, Any]:
        """As they stand in run.json."""
        return {
            "kept": self.kept,
            "drafts": self.drafts,
            "let_in": self.let_in,
            "answers": self.answers,
            "steps": self.steps,
            "used": self.used,
            "errors": self.errors,
            "rejected": dict(sorted(self.rejected.items())),
            **({"evolution": dict(self.evolution)} if self.evolution else {}),
        }


class Loop:
    """One run of the loop over a recipe. ``width`` is how many requests keep the engine busy; it decides how far work
    is started ahead, never what is kept. ``endless``: go on to the end of the plan, whatever the target. What
    ``verdicts`` knows is not judged again."""

    def __init__(
        self,
        recipe: Recipe,
        seeds: Sequence[Record],
        drafter: Drafter,
        answerer: Answerer,
        asker: Asker,
        *,
        setting: Setting,
        vary: Mapping[str, Sequence[str]] | None = None,
        width: int = 8,
        endless: bool = False,
        verdicts: Known | None = None,
    ) -> None:
        self.counts = Counts()
        self._recipe = recipe
        self._drafter, self._answerer, self._asker, self._setting = drafter, answerer, asker, setting
        self._settler = drafter if isinstance(drafter, Settler) else None
        self._given_up: deque[tuple[int, Record]] = deque()  # drafts that failed after they had passed, by step
        self._waiters: defaultdict[int, list[asyncio.Future[None]]] = defaultdict(list)  # for so many steps settled
        self._vary = dict(vary or {})
        self._width = width
        wide = width > WIDE
        self._asked = (4 if wide else 2) * width  # drafting requests under way, at the most
        self._stock = (8 if wide else 2) * width  # drafts in want of an answer up to which new drafts go first
        self._verdicts = verdicts
        self._target: float = math.inf if endless else recipe.num
        self._at_draft = Rules(recipe.filters.draft, recipe, "draft", setting)
        self._at_answer = Rules(recipe.filters.answer, recipe, "answer", setting)
        self._seeds = list(seeds)
        self._by_task: dict[str, Record] = {}
        for seed in seeds:  # of a task with several instances the one that is shown: the first with an output
            if seed.task not in self._by_task or not self._by_task[seed.task].output:
                self._by_task[seed.task] = seed
        self._pool: list[Record] = []
        self._visible: list[int] = [0]  # after how many steps the pool had how many drafts
        self._ids: set[str] = set()
        self._decided: deque[tuple[Step, list[Item]]] = deque()
        self._more = asyncio.Event()  # something was decided, for _keep
        self._wake = asyncio.Event()  # something changed that may let a step be asked for, for _draft
        self._ended = False
        self._drafting = 0  # drafting requests under way
        self._answering: set[asyncio.Task[Answered]] = set()
        self._unkept = 0  # drafts that passed and are not kept or rejected yet

    async def run(self, sink: Sink) -> bool:
        """Fill the sink until the target is reached (True) or the plan ends (False).

        Raises ExhaustedError after ``schedule.patience`` steps in a row without a kept record, and whatever the asker
        raises. Cancelling it is safe at any moment: what was handed to the sink is a prefix of the full run's.
        """
        for seed in self._seeds:
            self._at_draft.learn(seed)
        self._count_settled(None)
        drafting = asyncio.ensure_future(self._draft())
        keeping = asyncio.ensure_future(self._keep(sink))
        try:
            await asyncio.wait({drafting, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if drafting.done() and not keeping.done():
                drafting.result()  # raises what stopped it; otherwise the plan has ended and the rest is to be kept
            try:
                reached = await keeping
            except ExhaustedError:
                await self._grace()
                raise
            if reached:
                await self._grace()
            return reached
        finally:
            self._asker.close()  # one that is cancelled makes room for the next
            await cancelled([drafting, keeping])
            await cancelled(self._answering)

    @property
    def waiting(self) -> int:
        """Drafts that passed, and whose answers are not kept or rejected yet."""
        return self._unkept

    async def _grace(self) -> None:
        """What is under way is paid for: give it a moment to arrive, for when the target or the patience grows."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._asker.drained(), GRACE)

    # Drafting.

    async def _draft(self) -> None:
        async with aclosing(in_order(self._start, self._may_start, self._wake)) as steps:
            async for step in steps:
                self._forget(step.number)
                items = [self._judge(step, at, read) for at, read in enumerate(step.reads)]
                if self._drafter.feeds_pool:
                    self._visible.append(len(self._pool))
                self._decided.append((step, items))
                self._more.set()
        self._ended = True
        self._more.set()

    def _may_start(self, step: int, taken: int) -> bool:
        if self._settler is None:
            if seen_by(step, self._recipe.schedule.lookahead) > taken:
                return False
        elif step - taken >= self._recipe.schedule.lookahead or step - self._settler.rows >= self.counts.steps:
            return False
        unkept = max(self._unkept, len(self._decided))
        return self._drafting < self._asked and unkept < UNKEPT * self._width and not self._enough()

    def _enough(self) -> bool:
        """Whether what is under way is likely to reach the target: then more would be paid for nothing."""
        under_way = self._drafting + len(self._decided)
        return under_way > 0 and under_way * self.counts.yield_per_step() >= self._target - self.counts.kept

    def _start(self, index: int) -> asyncio.Future[Step] | None:
        if self._asker.end is not None and index >= self._asker.end:
            return None
        place = Place(self._drafter.stage, index)
        steer = {name: rng_for(self._recipe, f"vary {name}", place).choice(lines) for name, lines in self._vary.items()}
        if self._asker.replays and self._drafter.asks and self._settler is None:
            planned = self._asker.planned(index)
            if planned is None:
                return None
            parents = tuple(self._by_task.get(task) or Record(instruction="", task=task) for task in planned)
        else:
            seen = seen_by(index, self._recipe.schedule.lookahead) if self._drafter.feeds_pool else 0
            planned_here = partial(self._asker.planned, index) if self._asker.replays else None
            pool = Pool(self._seeds, self._pool, self._visible[seen], planned_here)
            drawn = self._drafter.draw(pool, index, rng_for(self._recipe, "draw", place))
            if drawn is None:
                return None
            parents = drawn
        self._drafting += 1
        return asyncio.ensure_future(self._step(place, parents, steer))

    async def _step(self, place: Place, parents: tuple[Record, ...], steer: Mapping[str, str]) -> Step:
        try:
            step = await self._read(place, parents, steer)
        finally:
            self._drafting -= 1
            self._wake.set()
        if self._settler is not None:
            await self._until_settled(self._seen(self._settler, place.step))
        return step

    async def _read(self, place: Place, parents: tuple[Record, ...], steer: Mapping[str, str]) -> Step:
        def rng() -> Random:
            return rng_for(self._recipe, "ask", place)

        blank = Record(instruction="", origin=self._drafter.stage, parents=tuple(parent.task for parent in parents))
        request = self._drafter.ask(parents, steer, rng())
        if request is None:
            return Step(place.step, parents, steer, self._drafter.read(Reply(), parents, rng()), (), blank)
        if self._settler is not None:
            blank = self._settler.blank(parents, rng())
        request = request.model_copy(update={"seed": seed_for(self._recipe, place)})
        urgency = 0 if len(self._answering) < self._stock else 2
        reply, model = await self._asker.reply(place, request, [parent.task for parent in parents], urgency)
        reads: list[Read] = []
        for one in self._setting.understood(request, reply).each():
            reads += [unread(one)] if one.error else self._drafter.read(one, parents, rng())
        return Step(place.step, parents, steer, reads, (Asked(place, request, model, _failed(reply)),), blank)

    # What a step of evolution may see.

    def _seen(self, settler: Settler, step: int) -> int:
        """How many steps are settled in the eyes of a step: all rounds before its own, and of its own what is further
        back than the lookahead."""
        return max(step // settler.rows * settler.rows, step + 1 - self._recipe.schedule.lookahead)

    async def _until_settled(self, steps: int) -> None:
        if self.counts.steps < steps:
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[steps].append(settled)
            await settled

    def _forget(self, step: int) -> None:
        """Free the places of drafts that passed and failed later, as far as the step sees that."""
        if self._settler is not None:
            seen = self._seen(self._settler, step)
            while self._given_up and self._given_up[0][0] < seen:
                self._at_draft.forget(self._given_up.popleft()[1])

    def _settle(self, step: Step, items: list[Item], kept: list[Record]) -> None:
        self.counts.steps += 1
        for waiter in self._waiters.pop(self.counts.steps, ()):
            if not waiter.done():
                waiter.set_result(None)
        if self._settler is None:
            return
        if not kept:
            self._given_up.extend((step.number, item.record) for item in items if item.answer is not None)
        drafts = [item.record for item in items if not isinstance(item.read, Unreadable)]
        self._settler.settle(drafts, kept[0] if kept else None)
        self._count_settled(bool(kept) if items and step.number >= self._settler.rows else None)

    def _count_settled(self, survived: bool | None) -> None:
        """Count a try of evolution; None where nothing was tried."""
        if self._settler is None:
            return
        known, rows, rounds = self.counts.evolution, self._settler.rows, self._settler.rounds
        self.counts.evolution = {
            "round": min(self.counts.steps // max(rows, 1), rounds),
            "rounds": rounds,
            "rows": rows,
            "tried": known.get("tried", 0) + (survived is not None),
            "survived": known.get("survived", 0) + bool(survived),
        }

    def _judge(self, step: Step, at: int, read: Read) -> Item:
        if isinstance(read, Unreadable):
            return Item(read, step.blank, Objection(by=read.by, why=read.why, at="draft"), None)
        record = read.record if isinstance(read, Untouched) else read
        record = record if record.task else record.model_copy(update={"task": record.id})
        objection = None if isinstance(read, Untouched) else self._objection(step, at, record)
        if self._asker.replays and self._settler is None:
            self._by_task.setdefault(record.task, record)
        if objection is not None:
            return Item(read, record, objection, None)
        self._at_draft.learn(record)
        if self._drafter.feeds_pool:
            self._pool.append(record)
        answer = asyncio.ensure_future(self._answer(step.number, at, read, record))
        self._answering.add(answer)
        answer.add_done_callback(self._answered)
        self._unkept += 1
        return Item(read, record, None, answer)

    def _objection(self, step: Step, at: int, draft: Record) -> Objection | None:
        if self._verdicts is None or not self._verdicts.known(step.number):
            return self._at_draft.objection(draft)
        found = self._verdicts.of(step.number, str(Place(self._drafter.stage, step.number, at)))
        asking = {name for name, _ in self._at_draft.asking}  # they will find it in the journal
        return None if found is not None and found.by in asking else found

    # Answering.

    async def _answer(self, step: int, item: int, read: Read, draft: Record) -> Answered:
        asked: list[Asked] = []

        async def ask(stage: str, request: Request, attempt: int) -> Reply:
            place = Place(stage, step, item, attempt)
            request = request.model_copy(update={"seed": seed_for(self._recipe, place)})
            reply, model = await self._asker.reply(place, request, (draft.task,), 1)
            asked.append(Asked(place, request, model, _failed(reply)))
            if reply.error and _failed(reply):
                raise _NoReply(reply.error)
            return self._setting.understood(request, reply)

        untouched = isinstance(read, Untouched)
        rng = rng_for(self._recipe, "answer", Place("answer", step, item))
        scores: dict[str, float] = {}
        remarks: list[str] = []
        objection = None
        reads: list[Read] = [draft]
        try:
            objection = await self._ask_rules(draft, ask, scores, remarks, measuring=untouched)
            if objection is None and not untouched:
                reads = await self._answerer.answer(draft, ask, rng)
        except _NoReply as none:
            reads = [Unreadable(none.failure.kind, none.failure.message, "")]
        except Unanswered as unanswered:
            if not unanswered.new:
                raise
            reads = [Unreadable("unanswered", "let in by the new rules, but never answered", "")]
        return Answered(reads, tuple(asked), objection, scores, tuple(remarks))

    async def _ask_rules(
        self, draft: Record, ask: Ask, scores: dict[str, float], remarks: list[str], *, measuring: bool
    ) -> Objection | None:
        """The first objection of the rules that ask a model. Where only ``measuring``, there is none: a row as it was
        given is scored and stays."""
        for name, rule in self._at_draft.asking:
            request = rule.ask(draft, self._setting) if rule.measures or not measuring else None
            if request is None:
                continue
            missing = ""
            for attempt in range(self._recipe.filters.attempts):
                try:
                    reply = await ask(rule.stage, request, attempt)
                except _NoReply as none:
                    missing = none.failure.message
                    continue
                except Unanswered as unanswered:
                    if unanswered.new and attempt:  # a replay that would ask more often than the run did
                        break
                    raise
                verdict = Verdict(unread=reply.error.message) if reply.error else rule.read(draft, reply)
                missing = verdict.unread
                if missing:
                    continue
                scores.update(verdict.scores)
                if verdict.objection is not None and not measuring:
                    return Objection(by=name, why=verdict.objection, at="draft")
                break
            if missing:  # no verdict is no reason to lose what is paid for; but it is told
                remarks.append(name + NO_VERDICT)
        return None

    def _answered(self, answer: asyncio.Task[Answered]) -> None:
        self._answering.discard(answer)
        if not answer.cancelled():
            answer.exception()  # seen: _keep raises it when its turn comes
        self._wake.set()

    # Keeping.

    async def _keep(self, sink: Sink) -> bool:
        barren = 0
        while True:
            while not self._decided:
                if self._ended:
                    if self._settler is not None and not self.counts.evolution["survived"]:
                        raise self._exhausted(self.counts.steps - self._settler.rows)
                    return False
                self._more.clear()
                await self._more.wait()
            step, items = self._decided[0]
            kept: list[Record] = []
            self.counts.count(step.asked)
            for at, item in enumerate(items):
                try:
                    if await self._keep_item(sink, step, at, item, kept):
                        return True
                except Unanswered:
                    return False
            self._decided.popleft()
            if self._verdicts is not None:
                self._verdicts.forget(step.number)
            self._settle(step, items, kept)
            self._wake.set()
            barren = 0 if kept else barren + 1 if items or self._settler is None else barren
            if barren >= self._recipe.schedule.patience:
                raise self._exhausted(barren)

    async def _keep_item(self, sink: Sink, step: Step, at: int, item: Item, kept: list[Record]) -> bool:
        """Keep or reject one item and all that came of it; True when the target is reached."""
        self.counts.drafts += 1
        place = Place(self._drafter.stage, step.number, at)
        if item.answer is None:
            assert item.objection is not None
            text = item.read.text if isinstance(item.read, Unreadable) else ""
            self._reject(sink, Rejected(str(place), item.objection, item.record, text, step.steer, step.asked))
            return False
        answered = await item.answer
        self._unkept -= 1
        self.counts.count(answered.asked)
        asked = step.asked + answered.asked
        if answered.objection is not None:
            self._reject(
                sink, Rejected(str(place), answered.objection, item.record, "", step.steer, asked, answered.scores)
            )
            return False
        self.counts.let_in += 1
        stage = answered.asked[-1].place.stage if answered.asked else self._drafter.stage
        for number, read in enumerate(answered.reads):
            self.counts.answers += 1
            name = f"{Place(stage, step.number, at)}.{number}"
            if isinstance(read, Unreadable):
                objection = Objection(by=read.by, why=read.why, at="answer")
                self._reject(
                    sink, Rejected(name, objection, item.record, read.text, step.steer, asked, answered.scores)
                )
                continue
            record = read.record if isinstance(read, Untouched) else read
            if isinstance(item.read, Untouched):
                found = None
            elif self._verdicts is not None and self._verdicts.known(step.number):
                found = self._verdicts.of(step.number, name)
            else:
                found = self._at_answer.objection(record) or self._twin(record)
            if found is not None:
                self._reject(sink, Rejected(name, found, record, "", step.steer, asked, answered.scores))
                continue
            self._ids.add(record.id)
            remarks = self._at_draft.remarks(record) + self._at_answer.remarks(record) + answered.remarks
            sink.keep(Kept(record, place, step.steer, remarks, asked, answered.scores))
            kept.append(record)
            self.counts.kept += 1
            if self.counts.kept >= self._target:
                return True
        return False

    def _twin(self, record: Record) -> Objection | None:
        if record.id not in self._ids:
            return None
        return Objection(by="duplicate", why="the same instruction, input and output are kept already", at="answer")

    def _reject(self, sink: Sink, rejected: Rejected) -> None:
        self.counts.rejected[rejected.objection.by] += 1
        sink.reject(rejected)

    def _exhausted(self, barren: int) -> ExhaustedError:
        rule, times = self.counts.rejected.most_common(1)[0] if self.counts.rejected else ("nothing was read", 0)
        target = f" of {self._target}" if self._target < math.inf else ""
        how = f"{self.counts.kept}{target} kept, then {barren} steps in a row gave nothing"
        what = "a stronger model, more varied seeds, --vary, or a larger schedule.patience may help"
        if self.counts.evolution:
            what = (
                "a stronger model, other --operators, or a rule less (--without RULE, `selfinstruct replay`) may help"
            )
        if self.counts.evolution and not self.counts.evolution["survived"]:
            how = f"nothing survived of {self.counts.evolution['tried']} tries"
        return ExhaustedError(
            f"{how}; most were rejected by {rule!r} ({times} of {sum(self.counts.rejected.values())})",
            hint=f"`selfinstruct show RUN --rejected` lists them; {what}",
        )
