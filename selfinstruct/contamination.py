"""contamination.json: what of a run overlaps which benchmark, beside the lines above which the field tells of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfinstruct.filters.contamination import RULES, Benchmarks, Hit, nearest
from selfinstruct.loop import Kept, Rejected
from selfinstruct.recipe import RULE
from selfinstruct.records import Record

Place = Literal["seeds", "dropped", "data"]
PLACES: tuple[Place, ...] = ("seeds", "dropped", "data")
"""Where a record that overlaps may be: in the seed file, among the rejects, or in data/."""
RUN_LINE = 0.01
"""The share of a benchmark's items above which 13-grams are reported (OPT-IML, Iyer et al. 2022)."""
COVERAGE_LINE = 0.02
"""The share of covered items above which a training set is called contaminated (Tülu 3, Lambert et al. 2024)."""


class Line(NamedTuple):
    """A benchmark, in the card."""

    name: str
    sha256: str
    items: int
    dropped: int
    """Rejects that overlap it, and …"""
    data: int
    """… rows of data/: those that were given, or all where the rule is switched off."""


class Report:
    """What overlaps, filled in plan order. It judges what it is handed itself, so that rows that no rule judges are
    told of too. It holds a line for every record that overlaps, and nine bytes an item."""

    def __init__(self, benchmarks: Benchmarks, seeds: Sequence[Record]) -> None:
        self._benchmarks = benchmarks
        self._rows: list[list[dict[str, Any]]] = [[] for _ in benchmarks.names]
        self._items = [
            {place: np.zeros((len(RULES), count), bool) for place in PLACES} for count in benchmarks.items
        ]  # by benchmark: whether some record there overlaps an item, by rule
        self._dropped: Counter[str] = Counter()
        self._in: Counter[Place] = Counter()
        self.changed = True
        told: set[str] = set()
        for seed in seeds:  # a task may have several instances
            if seed.task not in told and self._add("seeds", seed.task, seed):
                told.add(seed.task)

    def keep(self, kept: Kept) -> None:
        self._add("data", kept.record.id, kept.record)

    def reject(self, rejected: Rejected) -> None:
        if rejected.objection.by == RULE:
            hits = self._add("dropped", rejected.name, rejected.record)
            if hits:  # a third party's filter may go by the same name
                self._dropped[self._benchmarks.label(nearest(hits).rules[0])] += 1

    def _add(self, place: Place, name: str, record: Record) -> list[Hit]:
        hits = self._benchmarks.hits(record)
        for at in dict.fromkeys(hit.benchmark for hit in hits):
            own = [hit for hit in hits if hit.benchmark == at]
            best = nearest(own)
            row = {
                "train_id": name,
                "in": place,
                "eval_id": self._benchmarks.where(best),
                "rule": self._benchmarks.label(best.rules[0]),
                "coverage": round(best.coverage, 4),
                "words": self._benchmarks.words(best),
            }
            self._rows[at].append(row)
            for hit in own:
                for rule in hit.rules:
                    self._items[at][place][RULES.index(rule), hit.item] = True
        if hits:
            self._in[place] += 1
            self.changed = True
        return hits

    def lines(self) -> list[Line]:
        """The benchmarks, as the card tells of them."""
        benchmarks = self._benchmarks
        return [
            Line(name, sha256, items, *(sum(row["in"] == place for row in rows) for place in ("dropped", "data")))
            for name, sha256, items, rows in zip(
                benchmarks.names, benchmarks.sha256, benchmarks.items, self._rows, strict=True
            )
        ]

    def content(self) -> bytes:
        """The file's bytes."""
        benchmarks, table = self._benchmarks, self._benchmarks.table
        told = {
            "words": table.words,
            "grams": table.grams,
            "coverage": table.coverage,
            "dropped": {label: self._dropped[label] for label in dict.fromkeys(map(benchmarks.label, RULES))},
            "overlapping": {place: self._in[place] for place in PLACES},
            "eval_sets": [self._told(at) for at in range(len(benchmarks.names))],
        }
        return (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")

    def _told(self, at: int) -> dict[str, Any]:
        benchmarks, count = self._benchmarks, self._benchmarks.items[at]
        overlapped = {place: self._counted(found) for place, found in self._items[at].items()}
        data = overlapped["data"]
        # By 13 or by 8 words no item can be met that has fewer: beside them stands what was met exactly.
        lines: dict[str, Any] = {"exact": {"share": round(data["exact"] / max(count, 1), 6)}}
        for rule, line in (("run", RUN_LINE), ("coverage", COVERAGE_LINE)):
            label = benchmarks.label("run" if rule == "run" else "coverage")
            share = data[label] / max(count, 1)
            lines[label] = {"line": line, "share": round(share, 6), "above": share > line}
        return {
            "eval_set": benchmarks.names[at],
            "sha256": benchmarks.sha256[at],
            "items": count,
            "overlapped": overlapped,
            "lines": lines,
            "rows": self._rows[at],
        }

    def _counted(self, found: NDArray[np.bool_]) -> dict[str, int]:
        """Items that some record overlaps, by rule, and by any."""
        by_rule = {self._benchmarks.label(rule): int(found[at].sum()) for at, rule in enumerate(RULES)}
        return {**by_rule, "any": int(found.any(axis=0).sum())}


def read(folder: Path) -> dict[str, Any] | None:
    """contamination.json of a run folder; None where there is none, or one that was not written by us."""
    try:
        known = json.loads((folder / "contamination.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and "eval_sets" in known else None
