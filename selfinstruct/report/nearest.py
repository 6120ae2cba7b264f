"""How near each kept task comes to a seed, and to another kept task, by ROUGE-L: exact, whatever the distance."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from heapq import heappush, heapreplace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfinstruct.filters.arrays import Arrays
from selfinstruct.filters.novelty import compared, keeps_instruction, tokens
from selfinstruct.recipe import Recipe
from selfinstruct.records import Record
from selfinstruct.report.overlap import Overlap
from selfinstruct.report.rows import Row

BINS = 20
ABOVE = (0.5, 0.7)
"""Beyond these the share of tasks is told."""


class Near(NamedTuple):
    """The nearest text, by its position, and its F; -1 and 0 where no text shares a token."""

    position: int
    f: float


class Task(NamedTuple):
    """A kept task, by its first record."""

    name: str
    task: str
    lineage: int | None


class Nearest:
    """Kept tasks, each by its first record, for a task's records share its instruction. What is compared of it is what
    the rule ``novelty`` of the recipe compares, with its tokenizer. Texts of a task's own lineage are passed over, and
    so are rewritten answers, as by that rule."""

    def __init__(self, recipe: Recipe, seeds: Sequence[Record], unseeded: str) -> None:
        self._recipe = recipe
        self._unseeded = unseeded
        self._number: dict[str, int] = {}
        self._texts: list[array[int]] = []
        self.tasks: list[Task] = []
        self._lineages: dict[int, array[int]] = {}
        self._seed_tasks: list[str] = []
        self._seeds = Arrays(0.0)
        self._to_seed: list[Near] = []
        self._to_other: list[float] = []
        self._last: tuple[int, int] | None = None
        for seed, text in _distinct(seeds, recipe):
            self._seed_tasks.append(seed)
            self._seeds.add(self._numbered(text))

    def add(self, row: Row) -> None:
        if not row.kept or (row.step, row.item) == self._last or keeps_instruction(row.record):
            return
        self._last = (row.step, row.item)
        numbers = self._numbered(compared(row.record, self._recipe))
        known = row.record.evolution
        lineage = known.lineage if known is not None else None
        if lineage is not None:
            self._lineages.setdefault(lineage, array("i")).append(len(self.tasks))
        self.tasks.append(Task(row.name, row.record.task, lineage))
        self._texts.append(array("i", numbers))
        if self._seed_tasks:
            self._to_seed.append(_best(self._seeds.scores(numbers)))

    def seed(self, position: int) -> str:
        """The nearest seed's task."""
        near = self._to_seed[position] if self._to_seed else Near(-1, 0.0)
        return self._seed_tasks[near.position] if near.position >= 0 else ""

    def figures(self) -> dict[str, Any]:
        others = self._others()
        return {
            "key": self._recipe.novelty.key,
            "tokenizer": self._recipe.novelty.tokenizer,
            "threshold": self._recipe.novelty.threshold,
            "tasks": len(self.tasks),
            "wordless": sum(not text for text in self._texts),
            "seeds": {
                "count": len(self._seed_tasks),
                "missing": self._unseeded,
                **_spread([near.f for near in self._to_seed]),
            },
            "others": _spread(others),
        }

    def closest(self, most: int) -> list[tuple[Task, str, float]]:
        """The kept tasks that came nearest to a seed or to a task kept before them, the nearest first: each with that
        one's task."""
        others = self._others()
        # Later tasks count here, so that nothing comes nearer.
        bounds = [max(f, self._to_seed[at].f if self._to_seed else 0.0) for at, f in enumerate(others)]
        index = Arrays(1.0)  # everything that is looked at is measured
        for text in self._texts if most else ():
            index.add(text.tolist())
        heap: list[tuple[float, int, str]] = []
        for at in sorted(range(len(bounds)), key=lambda at: (-bounds[at], at)):
            if not most or bounds[at] == 0 or (len(heap) == most and bounds[at] <= heap[0][0]):
                break
            f, task = self._before(index, at)
            if f and len(heap) < most:
                heappush(heap, (f, -at, task))
            elif heap and (f, -at) > heap[0][:2]:
                heapreplace(heap, (f, -at, task))
        return [(self.tasks[-at], task, f) for f, at, task in sorted(heap, reverse=True)]

    def _before(self, index: Arrays, at: int) -> tuple[float, str]:
        """The nearest of the seeds and of the tasks kept before."""
        positions, scores = index.scores(self._texts[at].tolist())
        there = (positions < at) & ~np.isin(positions, self._own(at))
        near = _best((positions[there], scores[there]))
        seed = self._to_seed[at] if self._to_seed else Near(-1, 0.0)
        if seed.f >= near.f:
            return seed.f, self.seed(at)
        return near.f, self.tasks[near.position].task

    def _others(self) -> list[float]:
        """Of each task F with the nearest other one."""
        if len(self._to_other) < len(self.tasks):
            overlap = Overlap(self._texts)
            self._to_other = [overlap.nearest(at, self._own(at)) for at in range(len(self.tasks))]
        return self._to_other

    def _own(self, at: int) -> Sequence[int]:
        lineage = self.tasks[at].lineage
        return (at,) if lineage is None else self._lineages[lineage]

    def _numbered(self, text: str) -> list[int]:
        number = self._number
        return [number.setdefault(word, len(number) + 1) for word in tokens(text, self._recipe.novelty.tokenizer)]


def _distinct(seeds: Iterable[Record], recipe: Recipe) -> Iterable[tuple[str, str]]:
    """What the rule ``novelty`` knows of the seeds: one text a task, where only instructions are compared."""
    there: set[str] = set()
    for seed in seeds:
        if recipe.novelty.key != "instruction" or seed.task not in there:
            there.add(seed.task)
            yield seed.task, compared(seed, recipe)


def _best(found: tuple[NDArray[np.intp], NDArray[np.float64]]) -> Near:
    """The first of equals."""
    positions, scores = found
    if not scores.size or not scores.max():
        return Near(-1, 0.0)
    best = int(scores.argmax())
    return Near(int(positions[best]), float(scores[best]))


def _spread(nearest: Sequence[float]) -> dict[str, Any]:
    values = np.array(nearest)
    counts = np.histogram(values, [edge / BINS for edge in range(BINS + 1)])[0]
    shares = {f"above_{most}": float((values > most).mean()) if values.size else None for most in ABOVE}
    return {"histogram": counts.tolist(), "mean": float(values.mean()) if values.size else None, **shares}
