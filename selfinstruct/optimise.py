"""Optimise the method of evolution by what fails under it (Auto Evol-Instruct, Zeng et al. 2024, section 3).

A step evolves a mini-batch with the method as it stands, lets the optimiser model find what went wrong, asks it for
changed methods, and tries each on the same held-out instructions, the dev set. λ is the share of these that fail. The
method with the lowest λ so far stays, and ties go to the earlier one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import Field, ValidationError

from selfinstruct import __version__, state
from selfinstruct.asking import Live
from selfinstruct.engines import Engine, Options, Reply, Request, Style, engine_factory, open_engine
from selfinstruct.errors import InputError, SelfInstructError, UsageError
from selfinstruct.files import write_whole, writing
from selfinstruct.filters import Rules, check_filters
from selfinstruct.formats import read_dataset
from selfinstruct.inputs import digest_of
from selfinstruct.journal import Journal, Place, Totals
from selfinstruct.lock import Lock
from selfinstruct.loop import rng_for, seed_for
from selfinstruct.operators import Setting
from selfinstruct.operators.evolve import unwrapped
from selfinstruct.prompts import METHOD, Prompts
from selfinstruct.recipe import Recipe, Table, differences
from selfinstruct.records import Evolution, Record, digest
from selfinstruct.schedule import cancelled
from selfinstruct.state import IDENTITY, Progress, State
from selfinstruct.words import words

TRAJECTORY, ANALYSE, PROPOSE = "optimise/trajectory", "optimise/analyse", "optimise/propose"
EVOLVE, ANSWER = "optimise/evolve", "optimise/answer"
"""The stages; the prompts of ``EVOLVE`` serve the trajectories too, and those of ``answer`` the answers."""
INITIAL = "optimise/initial"
"""The prompt file whose text is the first method."""
NAME = "auto"
"""The operator's name, and its frame's."""
FRAMES = ("chat", "completion", "prefill", "small")
"""The files that a frame may have, by the ways of asking."""
ROUNDS = 2
"""Rounds of evolution in a trajectory."""
TICK, SAVE = 0.2, 2.0
"""Seconds between two looks at how far the search is, and between two writings of run.json."""

log = logging.getLogger("selfinstruct")
T = TypeVar("T")
WayOfAsking = Literal["auto", "completion", "chat", "prefill"]


class Search(Table):
    """Everything that can change what a search finds."""

    recipe: Recipe
    """The recipe that would evolve with the method: models, styles, sampling, the rules of a draft, the seed."""
    optimiser: str = ""
    """Who analyses and writes methods; empty: the model that evolves."""
    optimiser_style: WayOfAsking = "auto"
    dev: int = Field(50, ge=1)
    """Instructions held out, on which every method is tried."""
    batch: int = Field(10, ge=1)
    """Instructions a step whose trajectories are analysed."""
    candidates: int = Field(5, ge=1)
    steps: int = Field(12, ge=1)
    early_stop: int = Field(2, ge=1)
    """Steps in a row without a lower λ after which the search stops."""


ENDS = ("steps", "early_stop")
"""What a later call may change: it moves the end of the search, and no request."""


def requests(search: Search) -> dict[str, int]:
    """The requests of a search by stage, at the most: it may stop early, and what is lost on the way is not asked."""
    methods = search.steps * search.candidates
    return {
        TRAJECTORY: search.steps * search.batch * ROUNDS,
        ANALYSE: search.steps,
        PROPOSE: methods,
        EVOLVE: (1 + methods) * search.dev,
        ANSWER: (1 + methods) * search.dev,
    }


# What counts as a failure.

_OPENING = r"\A[\W_]*(?:{})(?![\w-])"
_ACKNOWLEDGES = re.compile(
    _OPENING.format(r"understood|acknowledged|noted|got it|thank(?:s| you)|okay|ok|all ?right"),
)
_OFFERS = re.compile(
    _OPENING.format(
        r"sure|of course|certainly|absolutely|gladly|no problem|"
        r"(?:i(?:'d| would) be |i am |i'm )?(?:more than )?(?:happy|glad|delighted) to (?:help|assist)|"
        r"i can (?:certainly |definitely )?help"
    )
)
_ASKS = re.compile(
    r"\bplease (?:provide|specify|clarify)\b|"
    r"\b(?:i|we)(?:'ll| will| would|'d)? need (?:some |a (?:bit|little) |any )?more (?:information|details?|context)\b|"
    r"\bmore (?:information|details?|context) (?:is|are|would be) (?:needed|required|necessary)\b|"
    r"\b(?:could|can|would) you (?:please )?(?:clarify|specify|provide|share|elaborate|give me|tell me)\b|"
    r"\byou (?:have not|haven't|did not|didn't) (?:yet |actually )?"
    r"(?:provided?|included?|attach(?:ed)?|specif(?:y|ied))\b"
)
_ENDS_IN_A_QUESTION = re.compile(r"[?\uff1f][\W_]*\Z")
_ADDRESSED = re.compile(
    r"\b(?:write|writing|rewrite|rephrase|compose|draft|create|creating|generate|generating|list|suggest|propose|prepare|"
    r"design|make|give|come up with|formulate|pose|invent|turn|plan|imagine|develop|produce|tell|ask|craft)\b"
    r"[^.!?\n]{0,40}\b(?:questions?|questionnaires?|quiz(?:zes)?|riddles?|jokes?|surveys?|interviews?|faqs?|letters?|"
    r"e-?mails?|messages?|repl(?:y|ies)|announcements?|invitations?|dialogues?|conversations?|tweets?)\b|"
    r"\bask(?:s|ing)? (?:for|whether|if|the|a|an|your|his|her|their|them|him|me|us|people)\b"
)
"""An instruction that asks for questions, or for words to somebody: what answers it may well ask for something."""


def failure(instruction: str, response: str) -> tuple[str, str] | None:
    """Which kind of failed evolution a response gives away, and the words that do, or None (the detector F of section
    3.2): the responder ``acknowledges`` or ``offers`` and ends in a question, or ``asks`` for what is missing.

    Unlike the paper's it says nothing where the instruction itself asks for questions or for words to somebody.
    """
    asked, said = _folded(instruction), _folded(response)
    if _ADDRESSED.search(asked):
        return None
    if _ENDS_IN_A_QUESTION.search(said):
        for kind, pattern in (("acknowledges", _ACKNOWLEDGES), ("offers", _OFFERS)):
            if found := pattern.search(said):
                return kind, f"begins with {found[0]!r} and ends in a question"
    found = _ASKS.search(said)
    return ("asks", f"says {found[0]!r}") if found else None


def _folded(text: str) -> str:
    return " ".join(text.casefold().replace("\u2019", "'").split())


# The method as a text.

_METHOD = re.compile(r"<method>(.*?)(?:</method>|\Z)", re.DOTALL | re.IGNORECASE)
_READ_BY_JINJA = re.compile(r"\{(?=[{%#]|<!--)|<!--")


def read_method(text: str, *, begun: bool) -> str:
    """The method in a reply: what stands between the last <method> and </method>. Empty where there is none. ``begun``
    says that the prompt has written the first of the two already."""
    found = _METHOD.findall(f"<method>{text}" if begun and "<method>" not in text.casefold() else text)
    return found[-1].replace("\r\n", "\n").replace("\r", "\n").strip() if found else ""


def operator_file(method: str) -> str:
    """The prompt file of an operator whose text, rendered, is exactly ``method``: what a template would obey, and what
    would begin a section, stands in it as a string."""
    body = _READ_BY_JINJA.sub(r'{{ "\g<0>" }}', method)
    about = "A method that `selfinstruct optimise` found; report.json beside these prompts tells how"
    return f"---\nabout: {json.dumps(about)}\nframe: {NAME}\n---\n{body}\n"


# The search.


class Evolved(NamedTuple):
    """What was read from a reply. ``by`` names what it failed by; then nobody is asked to answer it."""

    text: str
    by: str = ""
    why: str = ""


class Outcome(NamedTuple):
    """What became of one dev instruction under a method."""

    evolved: str
    response: str
    by: str
    """The kind of its failure; empty where it did not fail."""
    why: str
    added: int
    """Words more than before."""


class Trial(NamedTuple):
    """A method on the whole dev set; without outcomes where there is none to try, and ``why``."""

    candidate: int
    method: str
    outcomes: tuple[Outcome, ...]
    why: str = ""

    @property
    def failures(self) -> Counter[str]:
        return Counter(one.by for one in self.outcomes if one.by)

    @property
    def rate(self) -> float | None:
        """λ."""
        return self.failures.total() / len(self.outcomes) if self.outcomes else None


class Best(NamedTuple):
    """The method with the lowest λ so far, and where it comes from. Step 0 is the initial method."""

    step: int
    candidate: int
    method: str
    rate: float


class Round(NamedTuple):
    text: str
    flaw: str
    """Why it is of no use: then the next round begins where this one had."""


class Trajectory(NamedTuple):
    start: str
    rounds: tuple[Round, ...]


class Step(NamedTuple):
    """Everything that was found out in a step, and what was decided by it."""

    number: int
    trajectories: tuple[Trajectory, ...]
    analysis: str
    trials: tuple[Trial, ...]
    best: Best
    why: str
    """Why that method is the best so far."""
    stop: str
    """Why the search ends here; empty where it goes on."""


class Questions:
    """What is asked, stage by stage. The search's styles are settled."""

    def __init__(self, search: Search, prompts: Prompts) -> None:
        recipe, asks = search.recipe, search.optimiser_style
        assert recipe.style != "auto"
        assert recipe.answer_style != "auto"
        assert asks != "auto"
        self._sampling = recipe.sampling.get("evolve", {})
        self._writer = Setting(recipe, prompts, recipe.style, recipe.answer_style)
        self._optimiser = replace(self._writer, style=asks)
        self.direction = prompts[self._writer.prompt_name(EVOLVE, recipe.style)].head.direction

    def evolve(self, method: str, instruction: str) -> Request:
        values = {"method": method, "instruction": instruction, "vary": {}}
        return self._writer.draft(EVOLVE, values, **self._sampling)

    def answer(self, instruction: str) -> Request:
        return self._writer.answer("answer", {"instruction": instruction, "input": ""})

    def analyse(self, method: str, trajectories: Iterable[Trajectory]) -> Request:
        cases = [_case(one) for one in trajectories]
        return self._optimiser.draft(ANALYSE, {"method": method, "trajectories": cases})

    def propose(self, method: str, analysis: str) -> Request:
        return self._optimiser.draft(PROPOSE, {"method": method, "analysis": analysis})

    def examples(self, method: str, instruction: str, batch: int) -> dict[str, Request]:
        """A request of each stage, for a method and an instruction that are like the others."""
        evolve = self.evolve(method, instruction)
        trajectory = Trajectory(instruction, (Round(instruction, ""),) * ROUNDS)
        return {
            TRAJECTORY: evolve,
            ANALYSE: self.analyse(method, [trajectory] * batch),
            PROPOSE: self.propose(method, method),
            EVOLVE: evolve,
            ANSWER: self.answer(instruction),
        }


def _case(trajectory: Trajectory) -> dict[str, Any]:
    return {"start": trajectory.start, "rounds": [one._asdict() for one in trajectory.rounds]}


class Descent:
    """The search itself, step after step. It depends on its arguments and on the replies, and on nothing else."""

    def __init__(self, search: Search, prompts: Prompts, rows: Sequence[str], live: Live) -> None:
        self._search, self._live = search, live
        self._ask = Questions(search, prompts)
        # With nothing learnt, the rules that compare with earlier texts let all pass; those that ask are not asked.
        self._rules = Rules(search.recipe.filters.draft, search.recipe, "draft")
        self._initial = initial_method(prompts)
        self.dev, self._rest = split(rows, search)
        self.asked: Counter[str] = Counter()
        """Replies taken, by stage."""
        self.outcomes: Counter[str] = Counter()
        """What became of the dev instructions so far, by the kind of failure; empty: none."""

    async def steps(self) -> AsyncGenerator[Step, None]:
        trial = await self._trial(0, 0, self._initial)
        assert trial.rate is not None
        best, idle = Best(0, 0, trial.method, trial.rate), 0
        yield Step(0, (), "", (trial,), best, "the initial method", self._stop(0, 0, best))
        for number in range(1, self._search.steps + 1):
            if self._stop(number - 1, idle, best):
                return
            trajectories, analysis, trials = await self._explore(number, best.method)
            known = [(trial.rate, trial) for trial in trials if trial.rate is not None]
            rate, lowest = min(known, key=lambda one: one[0], default=(None, None))  # of equals the first
            if rate is None or lowest is None:
                why = f"there is no method to try: {trials[0].why if trials else analysis.by}"
            elif rate < best.rate:
                why = f"candidate {lowest.candidate} fails less: λ {rate:.3f}, and {best.rate:.3f} before"
                best = Best(number, lowest.candidate, lowest.method, rate)
            else:
                why = f"the lowest λ, {rate:.3f} of candidate {lowest.candidate}, is not below {best.rate:.3f}"
            idle = 0 if best.step == number else idle + 1
            yield Step(number, trajectories, analysis.text, trials, best, why, self._stop(number, idle, best))

    def _stop(self, number: int, idle: int, best: Best) -> str:
        if best.rate == 0:
            return "nothing fails on the dev set any more"
        if idle >= self._search.early_stop:
            return f"no lower λ for {idle} {'step' if idle == 1 else 'steps'}"
        return f"all {number} steps were taken" if number >= self._search.steps else ""

    async def _explore(self, number: int, method: str) -> tuple[tuple[Trajectory, ...], Evolved, tuple[Trial, ...]]:
        """Trajectories, their analysis, and the changed methods on the dev set."""
        place = Place(TRAJECTORY, number)
        batch = rng_for(self._search.recipe, "batch", place).sample(self._rest, self._search.batch)
        trajectories = await _all(self._trajectory(number, at, method, row) for at, row in enumerate(batch))
        analysis = await self._analysis(number, method, trajectories)
        if analysis.by:
            return trajectories, analysis, ()
        numbers = range(self._search.candidates)
        proposed = await _all(self._proposal(number, candidate, method, analysis.text) for candidate in numbers)
        known = {method: "the same as before"}
        trials: list[Awaitable[Trial]] = []
        for candidate, (text, by, why) in enumerate(proposed):
            twin = known.get(text, "") if text else ""
            known.setdefault(text, f"the same as candidate {candidate}")
            trials.append(self._trial(number, candidate, text, twin or (f"{by}: {why}" if by else "")))
        return trajectories, analysis, await _all(trials)

    async def _trajectory(self, number: int, at: int, method: str, start: str) -> Trajectory:
        rounds: list[Round] = []
        current = start
        for again in range(ROUNDS):
            evolved = await self._evolve(Place(TRAJECTORY, number, at * ROUNDS + again), method, current)
            rounds.append(Round(evolved.text, f"{evolved.by}: {evolved.why}" if evolved.by else ""))
            current = current if evolved.by else evolved.text
        return Trajectory(start, tuple(rounds))

    async def _analysis(self, number: int, method: str, trajectories: Iterable[Trajectory]) -> Evolved:
        reply = await self._reply(Place(ANALYSE, number), self._ask.analyse(method, trajectories))
        # One that was cut off has found something all the same.
        return _flawed(reply, cut=False) or Evolved(reply.text.strip())

    async def _proposal(self, number: int, candidate: int, method: str, analysis: str) -> Evolved:
        request = self._ask.propose(method, analysis)
        reply = await self._reply(Place(PROPOSE, number, candidate), request)
        begun = request.text().rstrip().endswith("<method>")
        text = read_method(reply.text, begun=begun)
        flaw = _flawed(reply, cut=True)
        return flaw or Evolved(text, *(() if text else ("unreadable", "the reply holds no method")))

    async def _trial(self, number: int, candidate: int, method: str, why: str = "") -> Trial:
        if why:
            return Trial(candidate, method, (), why)
        first = candidate * len(self.dev)
        outcomes = await _all(
            self._outcome(number, first + at, method, instruction) for at, instruction in enumerate(self.dev)
        )
        return Trial(candidate, method, outcomes)

    async def _outcome(self, number: int, item: int, method: str, instruction: str) -> Outcome:
        """An instruction evolved and answered, and the failure that shows in it: λ's F(r)."""
        evolved = await self._evolve(Place(EVOLVE, number, item), method, instruction)
        by, why, response = evolved.by, evolved.why, ""
        if not by:
            reply = await self._reply(Place(ANSWER, number, item), self._ask.answer(evolved.text), (evolved.text,))
            response = reply.text.strip()
            if reply.error:
                by, why = reply.error.kind, reply.error.message
            elif not response:
                by, why = "empty", "the answer is empty"
            else:  # cut off or not: its beginning says whether the instruction could be answered
                by, why = failure(evolved.text, response) or ("", "")
        self.outcomes[by] += 1
        added = words(evolved.text) - words(instruction) if evolved.text else 0
        return Outcome(evolved.text, response, by, why, added)

    async def _evolve(self, place: Place, method: str, instruction: str) -> Evolved:
        """As ``evolve`` would read and judge it."""
        reply = await self._reply(place, self._ask.evolve(method, instruction), (instruction,))
        flaw = _flawed(reply, cut=True)
        if flaw:
            return flaw
        text = unwrapped(reply.text)
        if not text:
            return Evolved("", "unreadable", "the reply holds no text")
        evolution = Evolution(
            lineage=place.item,
            root=digest(instruction),
            round=1,
            operator=NAME,
            direction=self._ask.direction,
            attempt=1,
            added=words(text) - words(instruction),
            before=instruction,
        )
        objection = self._rules.objection(Record(instruction=text, origin="evolve", evolution=evolution))
        return Evolved(text, objection.by, objection.why) if objection else Evolved(text)

    async def _reply(self, place: Place, request: Request, parents: tuple[str, ...] = ()) -> Reply:
        request = request.model_copy(update={"seed": seed_for(self._search.recipe, place)})
        reply, _ = await self._live.reply(place, request, [digest(parent) for parent in parents], 0)
        self.asked[place.stage] += 1
        return reply


def _flawed(reply: Reply, *, cut: bool) -> Evolved | None:
    """What makes a reply useless, if something does; ``cut``: being cut off is enough."""
    if reply.error:
        return Evolved("", reply.error.kind, reply.error.message)
    if cut and reply.finish != "stop":
        return Evolved("", "truncated", f"the reply was cut off ({reply.finish})")
    return None if reply.text.strip() else Evolved("", "unreadable", "the reply holds no text")


async def _all(waiting: Iterable[Awaitable[T]]) -> tuple[T, ...]:
    """All results, in order; where one raises, the others are cancelled."""
    under_way = [asyncio.ensure_future(one) for one in waiting]
    try:
        return tuple(await asyncio.gather(*under_way))
    finally:
        await cancelled(under_way)


# What it is made from.


def instructions(source: Path) -> list[str]:
    """The instructions of a dataset, each with its input behind a blank line, and each once."""
    joined = (
        f"{row.instruction}\n\n{row.input}" if row.input.strip() else row.instruction for row in read_dataset(source)
    )
    return list(dict.fromkeys(joined))


def split(rows: Sequence[str], search: Search) -> tuple[list[str], list[str]]:
    """The dev set, drawn by the seed, and the rest, from which the mini-batches are drawn.

    Raises UsageError where there are too few for both.
    """
    if len(rows) < search.dev + search.batch:
        raise UsageError(
            f"there are {len(rows)} different instructions, and {search.dev} + {search.batch} are needed",
            hint="--dev and --batch say how many are held out, and how many a step looks at",
        )
    held = rng_for(search.recipe, "dev", Place(EVOLVE, 0)).sample(range(len(rows)), search.dev)
    apart = set(held)
    return [rows[at] for at in held], [row for at, row in enumerate(rows) if at not in apart]


def initial_method(prompts: Prompts) -> str:
    """The method that the search begins with."""
    prompt = prompts[INITIAL]
    text = prompt.request({}).prompt
    if not text or not text.strip():
        raise InputError(f"{prompt.source}: a method is a plain text", hint="without role markers, and not empty")
    return text.strip()


def frames(prompts: Prompts) -> dict[str, str]:
    """The frame's files: the prompts that the methods were tried in, word for word."""
    found = {}
    for name in FRAMES:
        if f"{EVOLVE}/{name}" not in prompts:
            continue
        source, text = prompts.read(f"{EVOLVE}/{name}")
        if text.count(METHOD) != 1:
            raise InputError(f"{source}: a frame has {METHOD} once", hint="there the method's text goes")
        found[name] = text
    return found


# The folder.


class Optimisation:
    """A search in a folder. ``for progress in optimisation: …`` goes on to its end; the same call again resumes.

    ``source`` is any dataset or run folder. The engines take the place of those that the models' names would open.
    Iterating raises UsageError (refused folder, too few instructions), InputError (a file), EngineError, StorageError;
    whatever happens, the folder is whole.
    """

    def __init__(
        self,
        folder: str | Path,
        search: Search,
        source: str | Path,
        *,
        prompts: str | Path | None = None,
        options: Options | None = None,
        engine: Engine | None = None,
        answer_engine: Engine | None = None,
        optimiser_engine: Engine | None = None,
        fresh: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.search = search
        self._source = Path(source)
        self._prompts = Prompts(Path(prompts) if prompts is not None else None)
        self._own_prompts = prompts is not None
        self._options = options or Options()
        self._given = (engine, answer_engine, optimiser_engine)
        self._fresh = fresh
        self._out: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()
        self._asked_to: Literal["", "drain", "leave"] = ""

    # For the caller's thread.

    def __iter__(self) -> Iterator[Progress]:
        # In a thread of its own, as in Run: the caller may have an event loop already, and stays free for signals.
        self._out = queue.SimpleQueue()
        worker = threading.Thread(target=self._work, name="selfinstruct", daemon=True)
        worker.start()
        try:
            while (news := self._out.get()) is not None:
                if isinstance(news, BaseException):
                    raise news
                yield news
        finally:
            if worker.is_alive():
                self.leave()
                worker.join()
            self._asked_to = ""

    def drain(self) -> None:
        """Stop when the requests under way have arrived. Safe from any thread and from a signal handler."""
        self._asked_to = self._asked_to or "drain"

    def leave(self) -> None:
        """Stop now. What had arrived is in the journal."""
        self._asked_to = "leave"

    def report(self) -> dict[str, Any]:
        """What report.json says as the folder stands; nothing before the first method was tried."""
        if not (self.folder / "report.json").exists():
            return {}
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return found

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
            self._out.put(None)
        except BaseException as error:  # noqa: BLE001 -- it is raised again in the caller's thread
            self._out.put(error)

    # The search in its folder.

    def check(self) -> list[str]:
        """The instructions, after a look at all that can be looked at before an engine is opened and anything written.

        Raises UsageError for a name that nothing answers to or too few instructions, InputError for a flaw in a file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file, not a folder", hint="choose another --out")
        check_filters(self.search.recipe)
        for model, given in zip(self._models(), self._given, strict=True):
            if model and given is None:
                engine_factory(model)
        strange = self.search.recipe.sampling.keys() - {"evolve", EVOLVE, ANALYSE, PROPOSE, "answer"}
        if strange:
            hint = f"a search asks at evolve, {EVOLVE}, {ANALYSE}, {PROPOSE} and answer"
            raise UsageError(f"recipe: sampling.{min(strange)}: nothing is asked at that stage", hint=hint)
        for name in self._prompts.strangers() if self._own_prompts else ():
            log.warning("--prompts: %s takes the place of no prompt of ours, and no search asks with it", name)
        initial_method(self._prompts)
        frames(self._prompts)
        rows = instructions(self._source)
        split(rows, self.search)
        return rows

    def _models(self) -> tuple[str, str, str]:
        return self.search.recipe.model, self.search.recipe.answer_model, self.search.optimiser

    async def _main(self) -> None:
        rows = self.check()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.folder)
        try:
            if lock.taken_over:
                note = f"taking over from {lock.taken_over}, which did not leave in order"
                self._out.put(Progress("starting", 0, self.search.steps, note=note))
            self._refuse_strangers()
            if self._fresh:
                self._clear()
                self._fresh = False
            await self._resume(lock, rows)
        finally:
            lock.release()

    def _refuse_strangers(self) -> None:
        """What stands in the way and is no search's stays untouched, --fresh or not."""
        if any((self.folder / name).exists() for name in ("recipe.toml", "lineage.jsonl")):
            raise self._not_ours()
        path = self.folder / "journal.sqlite"
        if path.exists():
            with writing(path), path.open("rb") as file:
                if file.read(6) not in (b"SQLite", b""):
                    raise UsageError(f"{path} is not a journal", hint="choose another --out")
            return
        there = [name for name in OWN if (self.folder / name).exists()]
        if there and not (self._fresh and "steps.jsonl" in there):
            raise UsageError(
                f"{self.folder} has {', '.join(there)} but no journal: it is no search that can go on",
                hint="choose another --out" + (", or --fresh to start anew" if "steps.jsonl" in there else ""),
            )

    def _not_ours(self) -> UsageError:
        return UsageError(f"{self.folder} is the folder of another command's run", hint="choose another --out")

    def _clear(self) -> None:
        """Remove what an earlier search left here, and nothing else."""
        journal = [f"journal.sqlite{part}" for part in ("", "-wal", "-shm", "-journal")]
        with writing(self.folder):
            for name in (*journal, *OWN):
                (self.folder / name).unlink(missing_ok=True)
            for name in (f"prompts/evolve/frames/{NAME}", "prompts/evolve/frames", "prompts/evolve", "prompts"):
                with suppress(OSError):  # there is none, or it holds somebody else's files
                    (self.folder / name).rmdir()

    async def _resume(self, lock: Lock, rows: list[str]) -> None:
        journal = Journal(self.folder / "journal.sqlite")
        try:
            if journal.inputs() and "search" not in journal.inputs():
                raise self._not_ours()
            before = stored_search(journal)
            if before is not None:
                now = self._with_inputs(_like(self.search, before))
                changed = _changed(before, now)
                if changed:
                    raise UsageError(
                        f"{self.folder} was made with other settings:\n" + "\n".join(f"  {line}" for line in changed),
                        hint="give the old settings to go on, another --out to keep both, or --fresh to throw the old "
                        "search away",
                    )
                if before == now and self._done():
                    return
            opened: list[Engine] = []
            try:
                engines = self._open(opened)
                await self._go(lock, journal, rows, self._settled(before, engines), engines)
            finally:
                for one in opened:
                    await one.close()
        finally:
            journal.close()

    def _done(self) -> bool:
        """Whether the search is complete as it is; then no engine is opened."""
        known = state.read(self.folder)
        if known.get("state") != "complete" or known.get("sha256") != _checksums(self.folder):
            return False
        steps = self.report()["steps"]
        self._out.put(Progress("complete", len(steps) - 1, len(steps) - 1, note="complete already: nothing was asked"))
        return True

    def _open(self, opened: list[Engine]) -> tuple[Engine, Engine, Engine]:
        found: list[Engine] = []
        for model, given in zip(self._models(), self._given, strict=True):
            if given is None and model:
                given = open_engine(model, self._options)
                opened.append(given)
            found.append(given or found[0])
        evolver, answerer, optimiser = found
        return evolver, answerer, optimiser

    def _settled(self, before: Search | None, engines: tuple[Engine, Engine, Engine]) -> Search:
        """The search with nothing left open: styles picked, the digests of its inputs filled in."""
        search = _like(self.search, before) if before else self.search
        evolver, answerer, optimiser = engines
        style = _pick(search.recipe.style, evolver)

        def ways(wanted: str, engine: Engine) -> Style:
            return _pick(style if wanted == "auto" and engine is evolver else wanted, engine)

        small = search.recipe.small
        if small == "auto":
            small = "yes" if getattr(answerer, "small", False) else "no"
        styles = {"style": style, "answer_style": ways(search.recipe.answer_style, answerer), "small": small}
        recipe = search.recipe.model_copy(update=styles)
        asks = ways(search.optimiser_style, optimiser)
        return self._with_inputs(search.model_copy(update={"recipe": recipe, "optimiser_style": asks}))

    def _with_inputs(self, search: Search) -> Search:
        asked = Questions(search, self._prompts).examples("", "", 1).values()
        names = {
            INITIAL,
            *(request.purpose for request in asked),
            *(f"{EVOLVE}/{name}" for name in frames(self._prompts)),
        }
        digests = {"source": digest_of(self._source)}
        digests |= {f"prompt:{name}": self._prompts[name].digest for name in sorted(names)}
        return search.model_copy(update={"recipe": search.recipe.model_copy(update={"inputs": digests})})

    async def _go(
        self, lock: Lock, journal: Journal, rows: list[str], search: Search, engines: tuple[Engine, Engine, Engine]
    ) -> None:
        evolver, answerer, optimiser = engines
        before = journal.totals()
        live = Live(journal, evolver, {ANSWER: answerer, ANALYSE: optimiser, PROPOSE: optimiser})
        content = search.model_dump_json().encode()
        if journal.inputs().get("search") != hashlib.sha256(content).hexdigest():
            journal.keep_input("search", content)
        descent = Descent(search, self._prompts, rows, live)
        book = Book(self.folder, search, self._prompts, descent, live, before, engines)
        task = asyncio.ensure_future(self._descend(descent, book))
        drained: asyncio.Future[None] | None = None
        under_way: list[asyncio.Future[Any]] = [task]
        try:
            book.tell("running")
            saved = time.monotonic()
            while not task.done():
                await asyncio.wait({task}, timeout=TICK)
                if time.monotonic() - saved > SAVE:
                    lock.beat()
                    book.tell("running")
                    saved = time.monotonic()
                self._out.put(book.look("running"))
                if self._asked_to == "drain" and drained is None:
                    drained = asyncio.ensure_future(live.drained())
                    under_way.append(drained)
                if self._asked_to == "leave" or (drained is not None and drained.done()):
                    break
            if task.done():
                task.result()
            final: State = "complete" if task.done() else "interrupted"
        except BaseException as error:
            await cancelled(under_way)
            with suppress(SelfInstructError):  # the disk may be what stopped us, or another owner
                lock.beat()
                book.tell("stopped", error.message if isinstance(error, SelfInstructError) else repr(error))
            raise
        await cancelled(under_way)
        book.tell(final)
        self._out.put(book.look(final))

    async def _descend(self, descent: Descent, book: Book) -> None:
        async with aclosing(descent.steps()) as steps:
            async for step in steps:
                book.write(step)
                self._out.put(book.look("running", note=told(step)))


OPERATOR = f"prompts/evolve/{NAME}.md"
OWN = (
    "run.json",
    "report.json",
    "steps.jsonl",
    OPERATOR,
    *(f"prompts/evolve/frames/{NAME}/{one}.md" for one in FRAMES),
)
"""The files of the folder beside journal and lock."""


class Book:
    """Writes down a search: after every step the steps so far, a report and the best method, ready for ``evolve``."""

    def __init__(
        self,
        folder: Path,
        search: Search,
        prompts: Prompts,
        descent: Descent,
        live: Live,
        before: Totals,
        engines: Sequence[Engine],
    ) -> None:
        self._folder, self._search, self._descent, self._live, self._before = folder, search, descent, live, before
        self._engines = list({id(engine): engine for engine in engines}.values())
        self._frames = frames(prompts)
        self._lines: list[str] = []
        self._steps: list[dict[str, Any]] = []
        """Of each step what the report says."""
        self._best: dict[str, Any] = {}
        self._started = time.monotonic()
        self._earlier: list[dict[str, str]] = state.read(folder).get("engines", [])

    def write(self, step: Step) -> None:
        self._lines.append(json.dumps(_line(step), ensure_ascii=False) + "\n")
        rates = [trial.rate for trial in step.trials]
        self._steps.append({"step": step.number, "rates": rates, "best": step.best.rate, "why": step.why})
        if step.best.step == step.number:
            self._best = {**step.best._asdict(), **_figures(step.trials[step.best.candidate])}
        report = {
            "search": self._search.model_dump(mode="json", exclude={"recipe"}),
            "recipe": self._search.recipe.model_dump(mode="json"),
            "dev": self._descent.dev,
            "initial": self._steps[0]["best"],
            "best": self._best,
            "stopped": step.stop,
            "steps": self._steps,
            "replies": dict(sorted(self._descent.asked.items())),
        }
        files = {f"prompts/evolve/frames/{NAME}/{name}.md": text for name, text in self._frames.items()}
        files |= {OPERATOR: operator_file(step.best.method), "steps.jsonl": "".join(self._lines)}
        files["report.json"] = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        for name, text in files.items():
            write_whole(self._folder / name, text.encode())

    def look(self, state: State, note: str = "") -> Progress:
        live, outcomes = self._live, self._descent.outcomes
        done = max(0, len(self._steps) - 1)
        return Progress(
            state=state,
            kept=done,
            target=self._search.steps,
            figures={"kept": outcomes[""], "rejected": {by: count for by, count in outcomes.items() if by}},
            arrived=live.arrived,
            reused=live.reused,
            failed=live.failed,
            in_flight=live.in_flight,
            tokens=live.usage.completion,
            seconds=time.monotonic() - self._started,
            note=note,
        )

    def tell(self, now: State, error: str = "") -> None:
        """Write run.json. Raises StorageError where the disk refuses."""
        live, before = self._live, self._before
        engines = [{"name": one.name, **one.facts()} for one in self._engines]
        self._compare(engines)
        content = {
            "state": now,
            "command": "optimise",
            "steps": max(0, len(self._steps) - 1),
            "replies": before.replies + live.arrived,
            "uncertain": before.uncertain + live.sent - live.arrived,
            "usage": live.usage.model_dump(),
            "models": dict(sorted(live.models.items())),
            "changed on the wire": dict(sorted(live.notes.items())),
            "last_error": error or live.last_error,
            "seconds": round(time.monotonic() - self._started, 1),
            "updated": time.time(),
            "engines": engines,
            "versions": {"selfinstruct": __version__, "python": platform.python_version()},
            "sha256": _checksums(self._folder) if now != "running" else {},
        }
        state.write(self._folder, content)

    def _compare(self, engines: list[dict[str, str]]) -> None:
        """Say aloud, once, where a model is not what it was in an earlier call."""
        for before, now in zip(self._earlier, engines, strict=False):
            drifted = [key for key in IDENTITY if before.get(key) and now.get(key) and before[key] != now[key]]
            if drifted:
                key = drifted[0]
                log.warning("%s is not what it was: %s was %s, now %s", now["name"], key, before[key], now[key])
                self._earlier = []
                return


def told(step: Step) -> str:
    """A step in a line."""
    rates = " ".join("-" if one.rate is None else f"{one.rate:.3f}" for one in step.trials)
    return f"step {step.number}: λ {rates or '-'} · {step.why}" + (f" · {step.stop}" if step.stop else "")


def _line(step: Step) -> dict[str, Any]:
    """A step as it stands in steps.jsonl."""
    candidates = []
    for trial in step.trials:
        failed = [{"dev": at, **one._asdict()} for at, one in enumerate(trial.outcomes) if one.by]
        told = {"candidate": trial.candidate, "method": trial.method, **_figures(trial), "why": trial.why}
        candidates.append({**told, "failed": failed})
    return {
        "step": step.number,
        "trajectories": [_case(one) for one in step.trajectories],
        "analysis": step.analysis,
        "candidates": candidates,
        "best": {"step": step.best.step, "candidate": step.best.candidate, "rate": step.best.rate},
        "why": step.why,
        "stop": step.stop,
    }


def _figures(trial: Trial) -> dict[str, Any]:
    """λ, the failures by kind, and the words added in the texts that were read: least, median, most."""
    added = sorted(one.added for one in trial.outcomes if one.evolved)
    return {
        "rate": trial.rate,
        "failures": dict(sorted(trial.failures.items())),
        "added": [added[0], median(added), added[-1]] if added else [],
    }


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of what the byte law covers."""
    paths = [folder / name for name in OWN if name != "run.json"]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }


def stored_search(journal: Journal) -> Search | None:
    """What the journal's replies were asked for; None where there are none, so that no setting is held to it."""
    content = journal.input("search")
    if content is None or not journal.totals().replies:
        return None
    try:
        return Search.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{journal.path}: the search in it cannot be read: {error.errors()[0]['msg']}",
            hint="another version of selfinstruct made it (run.json names it); --fresh starts anew",
        ) from error


def _like(search: Search, before: Search) -> Search:
    """The search with what was left to the engines settled as it was settled then."""
    keys = [key for key in ("style", "answer_style", "small") if getattr(search.recipe, key) == "auto"]
    recipe = search.recipe.model_copy(update={key: getattr(before.recipe, key) for key in keys})
    asks = before.optimiser_style if search.optimiser_style == "auto" else search.optimiser_style
    return search.model_copy(update={"recipe": recipe, "optimiser_style": asks})


def _changed(before: Search, now: Search) -> list[str]:
    """What stands between two searches, a line each, leaving out what moves only the end."""
    keys = [key for key in Search.model_fields if key not in ("recipe", *ENDS)]
    return differences(before.recipe, now.recipe) + [
        f"{key}: {getattr(before, key)!r} -> {getattr(now, key)!r}"
        for key in keys
        if getattr(before, key) != getattr(now, key)
    ]


def _pick(style: str, engine: Engine) -> Style:
    for known in engine.styles:
        if style in ("auto", known):
            return known
    raise UsageError(
        f"{engine.name} cannot be asked in the style {style!r}", hint=f"it knows {', '.join(engine.styles)}"
    )
