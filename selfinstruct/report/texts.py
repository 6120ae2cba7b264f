"""What the kept records look like: lengths beside the published ones, kinds of task, and how they begin."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

import numpy as np

from selfinstruct.filters.text import Opening
from selfinstruct.report.rows import Row
from selfinstruct.words import words

PUBLISHED = {"instruction": 15.9, "input": 12.7, "output": 18.9}
"""Mean words in Self-Instruct's data (Wang et al. 2023, table 1): of inputs, those that are not empty."""
NARROW, WIDE, CHANGE, LONGEST = 5, 20, 100, 1_000
"""Bins are so many words wide up to ``CHANGE``, and so many beyond; the last one has no end."""
OPENINGS = 30
"""How many of the commonest are told."""


class Lengths:
    """Words of each field: of instructions once a task, of inputs and outputs in every record."""

    def __init__(self) -> None:
        self._counts = {field: array("q") for field in PUBLISHED}
        self._last: tuple[int, int] | None = None

    def add(self, row: Row) -> None:
        if not row.kept:
            return
        record = row.record
        if (row.step, row.item) != self._last:
            self._counts["instruction"].append(words(record.instruction))
        self._last = (row.step, row.item)
        if record.input.strip():
            self._counts["input"].append(words(record.input))
        self._counts["output"].append(words(record.output))

    def figures(self) -> dict[str, Any]:
        return {field: {**_spread(counts), "published": PUBLISHED[field]} for field, counts in self._counts.items()}


def _spread(counts: array[int]) -> dict[str, Any]:
    values = np.array(counts, np.int64)
    if not values.size:
        return {"n": 0, "mean": None, "sd": None, "histogram": []}
    ranks = (10, 25, 50, 75, 90)
    steps = {f"p{rank}": float(value) for rank, value in zip(ranks, np.percentile(values, ranks), strict=True)}
    return {
        "n": int(values.size),
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "min": int(values.min()),
        **steps,
        "max": int(values.max()),
        "histogram": binned(values),
    }


def binned(values: np.ndarray[Any, np.dtype[np.int64]]) -> list[dict[str, int | None]]:
    """From 0 to the longest, empty bins too."""
    edges = [*range(0, CHANGE, NARROW), *range(CHANGE, LONGEST + 1, WIDE)]
    at = np.searchsorted(edges, values, side="right") - 1
    counts = np.bincount(at)
    ends: list[int | None] = [*edges[1:], None]
    return [{"from": edges[i], "to": ends[i], "count": int(count)} for i, count in enumerate(counts)]


class Types:
    """Kinds of task: to be classified or not, with an input or without, by what wrote them; and how they begin."""

    def __init__(self) -> None:
        self._classification: Counter[bool | None] = Counter()
        self._by: dict[str, Counter[str]] = {}
        self._openings: Counter[str] = Counter()
        self._records = self._with_input = 0
        self._last: tuple[int, int] | None = None

    def add(self, row: Row) -> None:
        if not row.kept:
            return
        record = row.record
        given = bool(record.input.strip())
        self._records += 1
        self._with_input += given
        cell = self._by.setdefault(row.operator, Counter())
        cell.update(records=1, with_input=given)
        if (row.step, row.item) != self._last:
            self._last = (row.step, row.item)
            self._classification[record.classification] += 1
            self._openings[" ".join(Opening.trigram(record))] += 1
            cell.update(tasks=1, classification=record.classification is True)

    def figures(self) -> dict[str, Any]:
        tasks = self._classification.total()
        opening = sorted(self._openings.items(), key=lambda one: (-one[1], one[0]))[:OPENINGS]
        names = ("tasks", "records", "with_input", "classification")
        return {
            "tasks": tasks,
            "records": self._records,
            "classification": self._classification[True],
            "other": self._classification[False],
            "unlabelled": self._classification[None],
            "with_input": self._with_input,
            "by": {name: {key: cell[key] for key in names} for name, cell in sorted(self._by.items())},
            "openings": {
                "distinct": len(self._openings),
                "top": [{"words": words, "count": count} for words, count in opening],
            },
        }


class Scores:
    """What judges gave, by the name of the score, to what was kept and what was rejected."""

    def __init__(self) -> None:
        self._given: dict[str, dict[str, Counter[float]]] = {}

    def add(self, row: Row) -> None:
        for name, score in row.line.get("scores", {}).items():
            given = self._given.setdefault(name, {"kept": Counter(), "rejected": Counter()})
            given["kept" if row.kept else "rejected"][score] += 1

    def figures(self) -> dict[str, Any]:
        return {
            name: {
                side: {
                    "count": scores.total(),
                    "mean": sum(score * n for score, n in scores.items()) / scores.total() if scores else None,
                    "histogram": {f"{score:g}": scores[score] for score in sorted(scores)},
                }
                for side, scores in given.items()
            }
            for name, given in sorted(self._given.items())
        }
