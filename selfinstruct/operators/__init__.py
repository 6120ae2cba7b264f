"""The two sorts of operator: a Drafter writes new tasks, an Answerer answers one; and what both are given.

A Drafter's step: ``draw`` parents from the pool, ``ask`` a request of them, ``read`` the reply. An Answerer is one
coroutine that asks as often as it needs. Neither knows of files, order, retries or concurrency. One that asks for
several answers to one prompt (``draft.samples``, ``answer.samples``) says so: ``reads_samples = True``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from selfinstruct.engines import Message, Reply, Request, Style
from selfinstruct.errors import UsageError
from selfinstruct.plugins import find
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import Recipe
from selfinstruct.records import Record
from selfinstruct.resources import PROMPTS
from selfinstruct.verifiable.constraints import PHRASINGS

if TYPE_CHECKING:
    from selfinstruct.filters.contamination import Benchmarks


class Unreadable(NamedTuple):
    """A part of a reply that made no record, and why."""

    by: str
    why: str
    text: str


def unread(reply: Reply) -> Unreadable:
    """What a reply with an error leaves: JSON that broke off is truncated, as any text would be."""
    assert reply.error is not None
    cut = reply.error.kind == "malformed" and reply.finish != "stop"
    return Unreadable("truncated" if cut else reply.error.kind, reply.error.message, reply.text.strip() and reply.text)


class Untouched(NamedTuple):
    """A record that is taken as it stands: no rule judges it, and nobody answers it."""

    record: Record


Read = Record | Unreadable | Untouched
Ask = Callable[[str, Request, int], Awaitable[Reply]]
"""``await ask(stage, request, attempt)``: the reply, from the journal or the engine. One that has an ``error`` was
malformed: it counts as an attempt that gave nothing to read."""


class Pool(NamedTuple):
    """The tasks that a step may draw from: all seeds, and the first ``visible`` of the drafts that passed."""

    seeds: Sequence[Record]
    drafts: Sequence[Record]
    visible: int
    planned: Callable[[], tuple[str, ...] | None] | None = None
    """In a replay, for a drafter that settles: the parents' tasks in the stored plan, or None where that ends."""


class Drafter(Protocol):
    stage: str
    stages: tuple[str, ...]
    """The stages whose prompts it asks with."""
    asks: bool
    """Whether a step asks a model. What asks none is drawn again in a replay, not looked up."""
    feeds_pool: bool
    """Whether later steps draw from what this one wrote."""

    def draw(self, pool: Pool, step: int, rng: Random) -> tuple[Record, ...] | None:
        """The parents of a step's new tasks; None ends the plan."""
        ...

    def ask(self, parents: Sequence[Record], steer: Mapping[str, str], rng: Random) -> Request | None:
        """What to ask of them; None where ``read`` needs no model. ``steer`` holds the lines drawn for ``--vary``."""
        ...

    def read(self, reply: Reply, parents: Sequence[Record], rng: Random) -> list[Read]:
        """The drafts of a reply, in its order. ``rng`` is at the same point as it was for ``ask``."""
        ...


@runtime_checkable
class Settler(Protocol):
    """A Drafter whose steps follow on what became of earlier ones. Its steps go round: step ``s`` is drawn when step
    ``s - rows`` is settled, and its drafts are judged when all rounds before it are. A draft of its that fails later
    gives up its place in the memory of the rules."""

    rows: int
    rounds: int

    def blank(self, parents: Sequence[Record], rng: Random) -> Record:
        """What stands for a draft that could not be read."""
        ...

    def settle(self, drafts: Sequence[Record], kept: Record | None) -> None:
        """What became of the next step, in plan order: all that was read, and the one that was kept, if one was."""
        ...


class Answerer(Protocol):
    stages: tuple[str, ...]
    """The stages that it may ask at, each with prompts of its own."""

    async def answer(self, draft: Record, ask: Ask, rng: Random) -> list[Read]:
        """The draft's records with their answers."""
        ...


@dataclass(frozen=True)
class Setting:
    """What operators are made from, and rules that need more than the recipe."""

    recipe: Recipe
    prompts: Prompts
    style: Style
    answer_style: Style
    system: str = ""
    """System text that goes with the answers, and into the rows."""
    source: Path | None = None
    """The dataset of an operator that reads one, and …"""
    rows: int = 0
    """… how many rows it has."""
    judge_style: Style = "chat"
    replays: bool = False
    """Whether a stored run is gone over again: then parents are the stored plan's."""
    benchmarks: Benchmarks | None = None
    """What no record may overlap, if anything."""
    phrasings: str = ""
    """The YAML of constraints and how to ask for them, for an operator that reads it."""

    def prompt_name(self, stage: str, style: Style) -> str:
        """The prompt file for a stage: its variant for the style. For prefill the one for small models goes first where
        the model is one; for prefill and JSON chat serves where there is none."""
        small = ("small",) if self.recipe.small == "yes" else ()
        variants = {"prefill": (*small, "prefill", "chat"), "json": ("json", "chat")}
        for variant in variants.get(style, (style,)):
            if f"{stage}/{variant}" in self.prompts:
                return f"{stage}/{variant}"
        raise UsageError(
            f"there is no prompt {stage}/{style}", hint="--style picks another; `selfinstruct prompts` lists them"
        )

    def draft(self, stage: str, values: Mapping[str, Any], **sampling: Any) -> Request:
        """A request for new tasks."""
        return self._request(stage, self.style, values, sampling)

    def answer(self, stage: str, values: Mapping[str, Any], **sampling: Any) -> Request:
        """A request on the way to an answer."""
        return self._request(stage, self.answer_style, values, sampling)

    def judge(self, stage: str, values: Mapping[str, Any], **sampling: Any) -> Request:
        """A request of a rule that asks a model."""
        return self._request(stage, self.judge_style, values, sampling)

    def understood(self, request: Request, reply: Reply) -> Reply:
        """The reply as operators and rules read it: of JSON, the text that the request's prompt makes of it. One that
        no prompt stands behind is its operator's own to read."""
        if request.json_schema is None or not request.purpose:
            return reply
        return self.prompts[request.purpose].understood(reply)

    def with_system(self, request: Request, system: str) -> Request:
        """The request with a system text in front."""
        if not system:
            return request
        if request.prompt is not None:
            raise UsageError(
                "a system text needs a chat model", hint="use --style chat, or an --answer-model that chats"
            )
        messages = request.messages
        if messages and messages[0].role == "system":
            joined = Message(role="system", content=f"{system}\n\n{messages[0].content}")
            return request.model_copy(update={"messages": (joined, *messages[1:])})
        return request.model_copy(update={"messages": (Message(role="system", content=system), *messages)})

    def _request(self, stage: str, style: Style, values: Mapping[str, Any], sampling: Mapping[str, Any]) -> Request:
        chosen = {**sampling, **self.recipe.sampling.get(stage, {})}
        request = self.prompts[self.prompt_name(stage, style)].request(values, **chosen)
        extra = self.recipe.request.extra
        return request.model_copy(update={"extra": extra}) if extra else request


def open_operator(name: str, setting: Setting) -> Any:
    """The operator of that name, ours or a third party's (entry points ``selfinstruct.operators``)."""
    return operator_factory(name)(setting)


def check_operators(recipe: Recipe, prompts: Prompts, *, judging: Sequence[str], system: bool, dataset: bool) -> None:
    """Raises UsageError where the recipe's operators are not there or not of their sort, where its sampling names a
    stage at which nothing is asked, where there is a system text and no answer that it could go with, or where there
    should be a dataset. ``judging`` are the stages at which its rules ask."""
    drafter, answerer = operator_factory(recipe.draft.operator), operator_factory(recipe.answer.operator)
    for key, factory, verb in (("draft", drafter, "draw"), ("answer", answerer, "answer")):
        if isinstance(factory, type) and not hasattr(factory, verb):
            name = getattr(recipe, key).operator
            raise UsageError(f"recipe: {key}.operator = {name!r} is no such operator", hint="see docs/recipes.md")
    for key, factory, table in (("draft", drafter, recipe.draft), ("answer", answerer, recipe.answer)):
        if table.samples > 1 and not getattr(factory, "reads_samples", False):
            raise UsageError(
                f"recipe: {key}.samples = {table.samples}: the operator {table.operator!r} reads one reply to a prompt",
                hint="draft.samples goes with bootstrap and alpaca; answer.samples with answer.operator=answer",
            )
    if recipe.answer.samples > 1 and hasattr(drafter, "settle"):
        raise UsageError(
            f"recipe: answer.samples = {recipe.answer.samples}: what evolves has one answer in each round",
            hint="`selfinstruct answer RUN --samples N` answers the evolved tasks several times",
        )
    if getattr(drafter, "reads_dataset", False) and not dataset:
        name = recipe.draft.operator
        hint = "`selfinstruct answer INPUT` and `selfinstruct evolve INPUT` name one"
        raise UsageError(f"the operator {name!r} of this recipe reads a dataset", hint=hint)
    if hasattr(drafter, "check"):
        drafter.check(recipe, prompts)
    stages = (getattr(drafter, "stage", None), *getattr(answerer, "stages", (None,)), *judging)
    unknown = sorted(recipe.sampling.keys() - set(stages))
    if unknown and None not in stages:
        hint = "this recipe asks at " + ", ".join(map(str, stages))
        raise UsageError(f"recipe: sampling.{unknown[0]}: nothing is asked at that stage", hint=hint)
    if system and getattr(answerer, "stages", (None,)) == ():
        raise UsageError("a system text goes with answers, and this recipe asks for none", hint="leave --system out")


def answered(recipe: Recipe) -> bool:
    """Whether every row of the recipe's dataset must hold an answer."""
    return not getattr(operator_factory(recipe.draft.operator), "takes_unanswered", False)


def phrasings_file(recipe: Recipe, prompts: Path | None) -> Path | None:
    """The file that says how constraints are asked for, where the recipe's operator reads one: that of the extra
    prompts, or our own."""
    if not getattr(operator_factory(recipe.draft.operator), "reads_phrasings", False):
        return None
    theirs = prompts / PHRASINGS if prompts is not None else None
    return theirs if theirs is not None and theirs.is_file() else PROMPTS / PHRASINGS


def operator_factory(name: str) -> Any:
    """What makes the operator of that name. Raises UsageError for an unknown one."""
    return find("operators", name, f"operator {name!r} in the recipe")
