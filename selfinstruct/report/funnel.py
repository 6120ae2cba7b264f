"""From what was read to what was kept: how many each rule took away, in the order in which the rules are asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

from selfinstruct.recipe import Recipe
from selfinstruct.report.rows import Row

MOMENTS = ("draft", "answer")


class Funnel:
    """Counts what became of drafts and answers."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._rejected: dict[str, Counter[str]] = {at: Counter() for at in MOMENTS}
        self._let_in = self.kept = 0
        self._draft: tuple[int, int] | None = None

    def add(self, row: Row) -> None:
        if row.kept:
            self.kept += 1
        else:
            self._rejected[row.line["at"]][str(row.line["by"])] += 1
            if row.line["at"] == "draft":
                return
        self._let_in += (row.step, row.item) != self._draft
        self._draft = (row.step, row.item)

    @property
    def rejected(self) -> Counter[str]:
        """By rule, whatever the moment."""
        return sum(self._rejected.values(), Counter[str]())

    def figures(self) -> dict[str, Any]:
        drafts = self._let_in + self._rejected["draft"].total()
        answers = self.kept + self._rejected["answer"].total()
        stages = self._stages("draft", drafts) + self._stages("answer", answers)
        return {
            "drafts": drafts,
            "let_in": self._let_in,
            "answers": answers,
            "kept": self.kept,
            "rejected": sum(rejected.total() for rejected in self._rejected.values()),
            "malformed": sum(stage["rejected"] for stage in stages if stage["kind"] == "reading"),
            "stages": stages,
        }

    def _stages(self, at: str, left: int) -> list[dict[str, Any]]:
        """What cannot be read is gone before any rule is asked, the commonest reason first."""
        filters = self._recipe.filters
        rules = filters.draft if at == "draft" else filters.answer
        counts = self._rejected[at]
        others = sorted(counts.keys() - set(rules), key=lambda name: (-counts[name], name))
        found = []
        for name in (*others, *rules):
            left -= counts[name]
            found.append(
                {
                    "at": at,
                    "rule": name,
                    "kind": "rule" if name in rules else "reading",
                    "off": name in filters.off,
                    "rejected": counts[name],
                    "left": left,
                }
            )
        return found
