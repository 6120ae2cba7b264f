"""What a run asked for: requests, tokens and time by stage and by model, and the requests of each step."""

from __future__ import annotations

from array import array
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfinstruct.engines import Reply
from selfinstruct.journal import Journal, Place, Totals
from selfinstruct.report.rows import Row
from selfinstruct.survival import Price


@dataclass
class _Tally:
    """What some requests came to."""

    requests: int = 0
    failed: int = 0
    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0
    sent: array[float] = field(default_factory=lambda: array("d"))
    arrived: array[float] = field(default_factory=lambda: array("d"))

    def add(self, reply: Reply, sent: float, arrived: float) -> None:
        self.requests += 1
        self.failed += all(one.error for one in (reply, *reply.more))
        self.prompt += reply.usage.prompt
        self.completion += reply.usage.completion
        self.reasoning += reply.usage.reasoning
        self.cached += reply.usage.cached
        self.sent.append(sent)
        self.arrived.append(arrived)

    def figures(self, kept: int, price: Price | None) -> dict[str, Any]:
        took = np.maximum(np.array(self.arrived) - np.array(self.sent), 0.0)  # a clock may be set back
        found: dict[str, Any] = {
            "requests": self.requests,
            "failed": self.failed,
            "tokens": {
                "prompt": self.prompt,
                "completion": self.completion,
                "reasoning": self.reasoning,
                "cached": self.cached,
            },
            "seconds": {
                "under_way": float(took.sum()),
                "busy": busy(self.sent, self.arrived),
                "mean": float(took.mean()) if took.size else None,
                "p50": float(np.percentile(took, 50)) if took.size else None,
                "p90": float(np.percentile(took, 90)) if took.size else None,
            },
        }
        if price is not None:
            usd = (self.prompt * price.prompt + self.completion * price.completion) / 1e6
            found["usd"] = {"all": usd, "per_kept": usd / kept if kept else None}
        return found


def busy(sent: array[float], arrived: array[float]) -> float:
    """Seconds in which at least one request was under way: pauses between two calls of a run are none."""
    if not sent:
        return 0.0
    starts, ends = np.array(sent), np.array(arrived)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    gaps = np.maximum(starts[1:] - ends[:-1], 0.0).sum()
    return float(max(ends[-1] - starts[0] - gaps, 0.0))


class Asked(NamedTuple):
    """What was asked at a step."""

    requests: int
    completion: int


class Costs:
    """Reads the journal once; without one, what the records' own lines tell is counted: requests alone."""

    def __init__(self, journal: Path | None) -> None:
        self.counted = journal is not None
        self.steps: dict[int, Asked] = {}
        """By step. Filled by ``add`` where there is no journal."""
        self.failures: Counter[str] = Counter()
        """Requests without an answer, by the kind of failure."""
        self._whole = _Tally()
        self._stages: dict[str, _Tally] = {}
        self._models: dict[str, _Tally] = {}
        self._totals = Totals(0, 0)
        self._places: tuple[int, set[str]] = (-1, set())
        if journal is not None:
            with closing(Journal(journal, read_only=True)) as stored:
                self._totals = stored.totals()
                for one, sent, arrived in stored.timed():
                    self._count(one.place, one.reply, sent, arrived)

    def add(self, row: Row) -> None:
        if self.counted:
            return
        if row.step != self._places[0]:
            self._places = (row.step, set())
        self._places[1].update(str(asked["place"]) for asked in row.line["asked"])
        self.steps[row.step] = Asked(len(self._places[1]), 0)

    def figures(self, kept: int, price: Price | None) -> dict[str, Any]:
        if not self.counted:
            return {"counted": False, "requests": sum(one.requests for one in self.steps.values())}
        return {
            "counted": True,
            "requests": self._totals.replies + self._totals.uncertain,
            "replies": self._totals.replies,
            "uncertain": self._totals.uncertain,
            "failures": dict(sorted(self.failures.items())),
            "all": self._whole.figures(kept, price),
            "stages": {stage: one.figures(kept, price) for stage, one in sorted(self._stages.items())},
            "models": {model: one.figures(kept, price) for model, one in sorted(self._models.items())},
        }

    def _count(self, place: Place, reply: Reply, sent: float, arrived: float) -> None:
        for tally in (
            self._whole,
            self._stages.setdefault(place.stage, _Tally()),
            self._models.setdefault(reply.model, _Tally()),
        ):
            tally.add(reply, sent, arrived)
        self.failures.update(one.error.kind for one in (reply, *reply.more) if one.error)
        known = self.steps.get(place.step, Asked(0, 0))
        self.steps[place.step] = Asked(known.requests + 1, known.completion + reply.usage.completion)
