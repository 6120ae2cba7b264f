"""The commonest verbs of the instructions with their commonest objects (Self-Instruct, Wang et al. 2023, figure 3)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from selfinstruct.report.roots import Root, parsed, root

VERBS, OBJECTS = 20, 4
"""Of the figure: so many of the commonest verbs, with so many of each one's commonest objects."""
REFERENCE = {"instructions": 52_445, "parsed": 26_559, "coverage": 26_559 / 52_445}
"""Self-Instruct's own data: instructions with a verb and an object."""


class Verbs:
    """Counts roots. By rules texts are parsed as they come, by a model of spaCy in batches."""

    def __init__(self, model: Any) -> None:
        self._spacy = model
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._bare: Counter[str] = Counter()
        self._waiting: list[str] = []
        self._count = 0

    def add(self, instruction: str) -> None:
        self._count += 1
        if self._spacy is None:
            self._take([root(instruction)])
            return
        self._waiting.append(instruction)
        if len(self._waiting) == 1_000:
            self._parse()

    def figures(self) -> dict[str, Any]:
        self._parse()
        pairs, count = self._pairs, max(self._count, 1)
        whole = pairs.total()
        asked = sum(times for (verb, _), times in pairs.items() if verb.startswith("ask:"))
        verbs: Counter[str] = Counter()
        objects: dict[str, Counter[str]] = {}
        for (verb, noun), times in pairs.items():
            verbs[verb] += times
            objects.setdefault(verb, Counter())[noun] += times
        top = [(verb, times, _commonest(objects[verb], OBJECTS)) for verb, times in _commonest(verbs, VERBS)]
        shown = sum(times for _, _, nouns in top for _, times in nouns)
        entropy = -sum(n / whole * math.log(n / whole) for n in pairs.values()) if whole else 0.0
        return {
            "backend": "rules" if self._spacy is None else f"spacy:{self._spacy.meta['name']}",
            "instructions": self._count,
            "parsed": whole,
            "coverage": whole / count,
            "questions": asked,
            "coverage_without_questions": (whole - asked) / count,
            "verb_only": self._bare.total(),
            "verbs": len(verbs),
            "pairs": len(pairs),
            "entropy": abs(entropy),
            "effective_pairs": math.exp(entropy) if whole else 0.0,
            "top_share": shown / count,
            "top": [
                {"verb": verb, "count": times, "objects": [{"noun": noun, "count": n} for noun, n in nouns]}
                for verb, times, nouns in top
            ],
            "reference": REFERENCE,
        }

    def _parse(self) -> None:
        if self._waiting:
            self._take(parsed(self._spacy, self._waiting))
            self._waiting = []

    def _take(self, roots: Iterable[Root]) -> None:
        for verb, noun in roots:
            if verb is not None and noun is not None:
                self._pairs[verb, noun] += 1
            elif verb is not None:
                self._bare[verb] += 1


def _commonest(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    """Of equals, in the order of the alphabet."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most]
