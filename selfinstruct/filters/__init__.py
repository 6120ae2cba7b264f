"""The Filter protocol, and how a rule's name in the recipe finds its filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from selfinstruct.plugins import find
from selfinstruct.records import Objection, Record

if TYPE_CHECKING:
    from selfinstruct.recipe import Recipe


class Filter(Protocol):
    """A rule that may object to a record: to a draft before anything is paid for its answer, or to an answer.

    ``objection`` returns None, an Objection, or just the reason as text. A filter with memory also has
    ``learn(record)``, called in plan order for every seed and for every draft that passed all rules. One that only
    remarks has ``remarks(record)``: words that go into the lineage as flags.
    """

    def objection(self, record: Record) -> Objection | str | None: ...


@runtime_checkable
class Learner(Protocol):
    def learn(self, record: Record) -> None: ...


@runtime_checkable
class Remarker(Protocol):
    def remarks(self, record: Record) -> tuple[str, ...]: ...


Factory = Callable[["Recipe"], Filter]
"""What an entry point of the group ``selfinstruct.filters`` names."""


class Rules:
    """The filters of one moment (draft or answer), asked in the recipe's order: the first objection counts."""

    def __init__(self, names: tuple[str, ...], recipe: Recipe, at: Literal["draft", "answer"]) -> None:
        self._at = at
        self._filters = [(name, open_filter(name, recipe)) for name in names]
        self._learners = [rule for _, rule in self._filters if isinstance(rule, Learner)]
        self._remarkers = [rule for _, rule in self._filters if isinstance(rule, Remarker)]

    def objection(self, record: Record) -> Objection | None:
        for name, rule in self._filters:
            found = rule.objection(record)
            if found is not None:
                return found if isinstance(found, Objection) else Objection(by=name, why=found, at=self._at)
        return None

    def learn(self, record: Record) -> None:
        for rule in self._learners:
            rule.learn(record)

    def remarks(self, record: Record) -> tuple[str, ...]:
        return tuple(word for rule in self._remarkers for word in rule.remarks(record))


def open_filter(name: str, recipe: Recipe) -> Filter:
    """The filter of that name, ours or a third party's. Raises UsageError for an unknown one."""
    factory: Factory = find("filters", name, f"filter {name!r} in the recipe")
    return factory(recipe)
