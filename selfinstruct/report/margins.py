"""The least convincing decisions of each rule with a threshold: those nearest to it, on either side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

from selfinstruct.filters.novelty import rouge_l
from selfinstruct.recipe import Recipe
from selfinstruct.records import Record
from selfinstruct.report.rows import Row
from selfinstruct.words import words


class Threshold(NamedTuple):
    """What a rule measures, and the bound that it draws."""

    rule: str
    what: str
    bound: float
    above: bool
    """Whether what lies above the bound is rejected, or what lies below it."""
    measure: Callable[[Row, str], float | None]
    """Of a row whose parent says that; None where the rule does not look at such a row."""


def thresholds(recipe: Recipe) -> list[Threshold]:
    """Those of the recipe's rules that are asked and draw a line, novelty's first."""
    length, bounds = recipe.length, recipe.difficulty
    strict = recipe.behaviour == "strict"
    every = [
        Threshold("novelty", "ROUGE-L with the nearest", recipe.novelty.threshold, True, _score),
        Threshold("distance", "ROUGE-L with its parent", recipe.intent.max_similarity, True, _distance(recipe)),
        Threshold("length", "words of the instruction", length.min_words, False, _instruction(strict=strict)),
        Threshold("length", "words of the instruction", length.max_words, True, _instruction(strict=strict)),
        Threshold("answer-length", "words of the output", length.max_output_words, True, _output),
        Threshold("difficulty", "the judge's score", bounds.min, False, _difficulty),
        Threshold("difficulty", "the judge's score", bounds.max, True, _difficulty),
        Threshold("contaminated", "share of an item that is covered", recipe.decontaminate.coverage, True, _score),
    ]
    filters = recipe.filters
    every = [one for one in every if one.rule != "difficulty" or 1 < one.bound < 10]  # the ends of its scale
    asked = {*filters.draft, *filters.answer} - set(filters.off)
    return [one for one in every if one.rule in asked]


def _score(row: Row, parent: str) -> float | None:
    """Written down where it was rejected; of kept ones it is not."""
    return None if row.kept else row.line["score"]


def _distance(recipe: Recipe) -> Callable[[Row, str], float | None]:
    def measure(row: Row, parent: str) -> float | None:
        known = row.record.evolution
        if known is None or known.direction != "in-breadth" or not parent:
            return None
        return rouge_l(row.record.instruction, parent, recipe.novelty.tokenizer)

    return measure


def _instruction(*, strict: bool) -> Callable[[Row, str], float | None]:
    return lambda row, parent: float(words(row.record.instruction) if strict else len(row.record.instruction.split()))


def _output(row: Row, parent: str) -> float | None:
    return float(words(row.record.output))


def _difficulty(row: Row, parent: str) -> float | None:
    score = row.line.get("scores", {}).get("difficulty")
    return None if score is None else float(score)


class Close(NamedTuple):
    """A decision near a threshold."""

    value: float
    row: Mapping[str, Any]
    """As a browser shows it."""
    neighbour: str
    """The task that it was held against; empty where there is none."""


class Margins:
    """Keeps so many decisions on either side of each threshold, the nearest; of equally near ones the earliest."""

    def __init__(self, recipe: Recipe, most: int) -> None:
        self._thresholds = thresholds(recipe)
        self._most = most
        self._sides = [(_Nearest(most), _Nearest(most)) for _ in self._thresholds]
        """What was kept, what was rejected."""
        self._parents: dict[int, Record] = {}
        """By lineage: what was kept last."""

    def add(self, row: Row) -> None:
        known = row.record.evolution
        parent = self._parents.get(known.lineage) if known is not None else None
        text = parent.instruction if parent is not None and parent.task in row.record.parents else ""
        for one, (kept, rejected) in zip(self._thresholds, self._sides, strict=True):
            if not row.kept and row.line["by"] != one.rule:
                continue
            value = one.measure(row, text)
            if value is None or not (row.kept or (value >= one.bound if one.above else value <= one.bound)):
                continue
            (kept if row.kept else rejected).add(abs(value - one.bound), value, row)
        if row.kept and known is not None:
            self._parents[known.lineage] = row.record

    def neighbours(self) -> set[str]:
        """The tasks that decisions were held against."""
        return {close.neighbour for sides in self._sides for side in sides for close in side.found()} - {""}

    def figures(self, closest: Sequence[Close], told: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """``closest``: what the rule ``novelty`` kept; ``told``: tasks that decisions were held against."""

        def shown(found: Sequence[Close]) -> list[dict[str, Any]]:
            return [{"value": close.value, "row": close.row, "neighbour": told.get(close.neighbour)} for close in found]

        return [
            {
                "rule": one.rule,
                "what": one.what,
                "bound": one.bound,
                "above": one.above,
                "kept": shown(closest if one.rule == "novelty" else kept.found()),
                "rejected": shown(rejected.found()),
            }
            for one, (kept, rejected) in zip(self._thresholds, self._sides, strict=True)
        ]


class _Nearest:
    """The rows nearest to a bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, Close]] = []
        self._count = 0

    def add(self, off: float, value: float, row: Row) -> None:
        self._count -= 1
        if len(self._heap) >= self._most and (not self._heap or (-off, self._count) < self._heap[0][:2]):
            return
        neighbour = "" if row.kept else str(row.line["neighbour"])
        if row.kept and row.record.evolution is not None and row.record.parents:
            neighbour = row.record.parents[0]
        heappush(self._heap, (-off, self._count, Close(value, row.told(), neighbour)))
        if len(self._heap) > self._most:
            heappop(self._heap)

    def found(self) -> list[Close]:
        """The nearest first."""
        return [close for _, _, close in sorted(self._heap, key=lambda one: one[:2], reverse=True)]
