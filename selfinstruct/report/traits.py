"""What is wrong with answers on their face: what slipped through into the kept ones, and what the rules caught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from selfinstruct.evaluate.figures import wilson
from selfinstruct.filters import Filter
from selfinstruct.filters.text import Leak, Placeholder, Refusal, Repetition, Unfinished
from selfinstruct.report.rows import Row

TRAITS: Mapping[str, Filter] = {
    "refusal": Refusal(),
    "repetition": Repetition(),
    "leak": Leak(),
    "placeholder": Placeholder(),
    "truncation": Unfinished(),
}
"""Each with the shipped rule that tells of it; ``leak``: thinking tags, chat tokens, prompt headings."""
CAUGHT: Mapping[str, frozenset[str]] = {
    **{trait: frozenset([trait]) for trait in TRAITS},
    "truncation": frozenset(["unfinished", "truncated"]),
}
"""The rules that reject what has the trait. ``truncated``: the reply was cut off at its limit of tokens."""


class Traits:
    """Counts both; of what slipped through, the first few are told."""

    def __init__(self, examples: int) -> None:
        self._most = examples
        self._kept = self._rejected = 0
        self._slipped: Counter[str] = Counter()
        self._caught: Counter[str] = Counter()
        self._shown: dict[str, list[dict[str, Any]]] = {trait: [] for trait in TRAITS}

    def add(self, row: Row) -> None:
        if not row.kept:
            self._rejected += 1
            self._caught.update(trait for trait, rules in CAUGHT.items() if row.line["by"] in rules)
            return
        self._kept += 1
        wanted = {"placeholder"} if any("placeholders" in one.type for one in row.record.constraints) else set[str]()
        for trait, rule in TRAITS.items():
            why = rule.objection(row.record) if trait not in wanted else None
            if why is not None:
                self._slipped[trait] += 1
                if len(self._shown[trait]) < self._most:
                    self._shown[trait].append({**row.told(), "why": why})

    def figures(self) -> dict[str, Any]:
        return {
            trait: {
                "kept": _share(self._slipped[trait], self._kept),
                "rejected": _share(self._caught[trait], self._rejected),
                "examples": self._shown[trait],
            }
            for trait in TRAITS
        }


def _share(hits: int, of: int) -> dict[str, Any]:
    interval = wilson(hits, of)
    return {"count": hits, "of": of, **(interval._asdict() if interval else {"value": None, "low": None, "high": None})}
