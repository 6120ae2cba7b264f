"""The Filter protocol, and how a rule's name in the recipe finds its filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from selfinstruct.engines import Reply, Request
from selfinstruct.errors import UsageError
from selfinstruct.plugins import find
from selfinstruct.records import Objection, Record

if TYPE_CHECKING:
    from selfinstruct.operators import Setting
    from selfinstruct.recipe import Recipe


class Filter(Protocol):
    """A rule that may object to a record: to a draft before anything is paid for its answer, or to an answer.

    ``objection`` returns None, an Objection, or just the reason as text. A filter with memory also has
    ``learn(record)``, called in plan order for every seed and for every draft that passed all rules, and
    ``forget(record)`` if it can take one back: where a recipe evolves, a draft that fails later gives its place up. One
    that only remarks has ``remarks(record)``: words that go into the lineage as flags. One that needs more than the
    recipe has ``prepare(setting)``. A rule that needs a model is an ``Asking``.
    """

    def objection(self, record: Record) -> Objection | str | None: ...


@runtime_checkable
class Learner(Protocol):
    def learn(self, record: Record) -> None: ...


@runtime_checkable
class Remarker(Protocol):
    def remarks(self, record: Record) -> tuple[str, ...]: ...


@runtime_checkable
class Forgetter(Protocol):
    def forget(self, record: Record) -> None: ...


class Verdict(NamedTuple):
    """What a rule read from the reply of the model that it asked."""

    objection: str | None = None
    """Why the draft goes; None where it may stay."""
    scores: Mapping[str, float] = {}
    """Figures for the lineage, such as ``{"difficulty": 6}``."""
    unread: str = ""
    """Why there is no verdict in the reply: it is asked for again, and at last the draft may stay, with a remark."""


@runtime_checkable
class Asking(Protocol):
    """A rule that asks a model about a draft: after all rules that ask none, and before its answer is paid for."""

    stage: str
    """Where it stands in the plan, and where its prompts lie: ``judge/equal``."""
    measures: bool
    """Whether rows that no rule judges are asked about too, for the scores."""

    def ask(self, record: Record, setting: Setting) -> Request | None:
        """The question (``setting.judge(stage, values)``); None where there is nothing to ask about this draft."""
        ...

    def read(self, record: Record, reply: Reply) -> Verdict: ...


@runtime_checkable
class Prepared(Protocol):
    """A rule that needs more than the recipe: it is given the run's setting once, before it judges anything."""

    def prepare(self, setting: Setting) -> None: ...


Factory = Callable[["Recipe"], Filter | Asking]
"""What an entry point of the group ``selfinstruct.filters`` names."""


class Rules:
    """The filters of one moment (draft or answer), asked in the recipe's order: the first objection counts. ``asking``
    holds those that ask a model."""

    def __init__(
        self, names: tuple[str, ...], recipe: Recipe, at: Literal["draft", "answer"], setting: Setting | None = None
    ) -> None:
        self._at = at
        rules = [(name, open_filter(name, recipe)) for name in names if name not in recipe.filters.off]
        for _, rule in rules:
            if setting is not None and isinstance(rule, Prepared):
                rule.prepare(setting)
        self.asking = [(name, rule) for name, rule in rules if isinstance(rule, Asking)]
        self._filters = [(name, rule) for name, rule in rules if not isinstance(rule, Asking)]
        self._learners = [rule for _, rule in rules if isinstance(rule, Learner)]
        self._forgetters = [rule for _, rule in rules if isinstance(rule, Forgetter)]
        self._remarkers = [rule for _, rule in rules if isinstance(rule, Remarker)]

    def objection(self, record: Record) -> Objection | None:
        for name, rule in self._filters:
            found = rule.objection(record)
            if isinstance(found, Objection):
                return found if found.at == self._at else found.model_copy(update={"at": self._at})
            if found is not None:
                return Objection(by=name, why=found, at=self._at)
        return None

    def learn(self, record: Record) -> None:
        for rule in self._learners:
            rule.learn(record)

    def forget(self, record: Record) -> None:
        for rule in self._forgetters:
            rule.forget(record)

    def remarks(self, record: Record) -> tuple[str, ...]:
        return tuple(word for rule in self._remarkers for word in rule.remarks(record))


def check_filters(recipe: Recipe) -> None:
    """Raises UsageError where a rule of the recipe is not there, stands where it cannot be asked, or is switched off
    without being on."""
    for name in (*recipe.filters.draft, *recipe.filters.answer):
        _factory(name)
    for name, rule in ((name, open_filter(name, recipe)) for name in recipe.filters.answer):
        if isinstance(rule, Asking):
            raise UsageError(f"recipe: filters.answer: {name!r} asks a model", hint="it belongs into filters.draft")
    asked = set(recipe.filters.draft) - set(recipe.filters.off)
    if recipe.difficulty != type(recipe.difficulty)() and "difficulty" not in asked:
        raise UsageError("difficulty.min and difficulty.max bound nothing here", hint="--judge MODEL adds the rule")
    strangers = set(recipe.filters.off) - {*recipe.filters.draft, *recipe.filters.answer}
    if strangers:
        there = ", ".join((*recipe.filters.draft, *recipe.filters.answer))
        raise UsageError(f"recipe: there is no rule {min(strangers)!r} to switch off", hint=f"it has {there}")


def asking_stages(recipe: Recipe) -> list[str]:
    """The stages at which the recipe's rules ask a model."""
    return [rule.stage for _, rule in Rules(recipe.filters.draft, recipe, "draft").asking]


def open_filter(name: str, recipe: Recipe) -> Filter | Asking:
    """The filter of that name, ours or a third party's. Raises UsageError for an unknown one."""
    return _factory(name)(recipe)


def _factory(name: str) -> Factory:
    factory: Factory = find("filters", name, f"filter {name!r} in the recipe")
    return factory
