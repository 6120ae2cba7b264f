"""From a method of evolution to a better one, by what fails under it (Auto Evol-Instruct, Zeng et al. 2024, section 3).

A step evolves a mini-batch with the method as it stands, lets the optimiser model find what went wrong, asks it for
changed methods, and tries each on the same held-out instructions, the dev set. λ is the share of these that fail. The
method with the lowest λ so far stays, and ties go to the earlier one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import Field

from selfinstruct.asking import Live
from selfinstruct.engines import Reply, Request
from selfinstruct.errors import InputError, UsageError
from selfinstruct.filters import Rules
from selfinstruct.formats import read_dataset
from selfinstruct.journal import Place
from selfinstruct.loop import rng_for, seed_for
from selfinstruct.operators import Setting
from selfinstruct.operators.evolve import unwrapped
from selfinstruct.prompts import METHOD, Prompts
from selfinstruct.recipe import Recipe, Table
from selfinstruct.records import Evolution, Record, digest
from selfinstruct.schedule import cancelled
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

    def understood(self, request: Request, reply: Reply) -> Reply:
        return self._writer.understood(request, reply)

    def answer(self, instruction: str) -> Request:
        return self._writer.answer("answer", {"instruction": instruction, "input": ""})

    def analyse(self, method: str, trajectories: Iterable[Trajectory]) -> Request:
        cases = [case(one) for one in trajectories]
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


def case(trajectory: Trajectory) -> dict[str, Any]:
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
            prompt=self._ask.evolve(method, "").text(),
        )
        objection = self._rules.objection(Record(instruction=text, origin="evolve", evolution=evolution))
        return Evolved(text, objection.by, objection.why) if objection else Evolved(text)

    async def _reply(self, place: Place, request: Request, parents: tuple[str, ...] = ()) -> Reply:
        request = request.model_copy(update={"seed": seed_for(self._search.recipe, place)})
        reply, _ = await self._live.reply(place, request, [digest(parent) for parent in parents], 0)
        self.asked[place.stage] += 1
        return self._ask.understood(request, reply)


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
        f"{row.instruction}\n\n{row.input}" if row.input.strip() else row.instruction
        for row in read_dataset(source, answered=False)
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
