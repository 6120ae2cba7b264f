"""What survives of an evolution, by operator, round and rule: words added, difficulty, and what a kept record costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from selfinstruct import state
from selfinstruct.errors import InputError
from selfinstruct.journal import Journal
from selfinstruct.lineage import check_evolves, evolution_of
from selfinstruct.records import Evolution
from selfinstruct.shards import read_lines, read_rejected

WINDOW = (10, 20)
"""The words that Evol-Instruct's prompts ask to add (Xu et al. 2024, appendix A)."""


class Price(NamedTuple):
    """US dollars per million tokens, read and written."""

    prompt: float
    completion: float


class Spread(NamedTuple):
    """Words added, over kept records. The quartiles are words that a record has: the nearest rank."""

    mean: float
    quartiles: tuple[int, int, int]
    in_window: float
    """The share inside ``WINDOW``, ends included."""


@dataclass
class Tally:
    """What became of some tries, or in round 0 of the rows."""

    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    added: Counter[int] = field(default_factory=Counter)
    """How many kept records have so many words more than their parents; rows have none."""
    scores: dict[str, Counter[float]] = field(default_factory=dict)
    """By name, how many kept records the judge gave which score."""
    requests: int = 0
    """Replies to everything that was asked at these steps: draft, rules that ask, answer; failed tries included."""
    prompt: int = 0
    completion: int = 0

    @property
    def tried(self) -> int:
        return self.kept + self.rejected.total()

    def spread(self) -> Spread | None:
        """None where nothing was kept."""
        count = self.added.total()
        if not count:
            return None
        first, median, third = (_rank(self.added, share) for share in (0.25, 0.5, 0.75))
        inside = sum(times for words, times in self.added.items() if WINDOW[0] <= words <= WINDOW[1])
        return Spread(_mean(self.added), (first, median, third), inside / count)

    def cost(self, price: Price) -> float:
        """In US dollars."""
        return (self.prompt * price.prompt + self.completion * price.completion) / 1e6

    def score(self, name: str) -> float | None:
        """The mean of what the judge gave; None where it gave nothing."""
        return _mean(self.scores[name]) if self.scores.get(name) else None

    def spend(self, spent: _Spent) -> None:
        self.requests += spent.requests
        self.prompt += spent.prompt
        self.completion += spent.completion

    def per_kept(self, amount: float) -> float | None:
        return amount / self.kept if self.kept else None

    def include(self, other: Tally) -> None:
        self.kept += other.kept
        self.rejected += other.rejected
        self.added += other.added
        for name, scores in other.scores.items():
            self.scores.setdefault(name, Counter()).update(scores)
        self.requests += other.requests
        self.prompt += other.prompt
        self.completion += other.completion

    def figures(self, *, counted: bool, price: Price | None) -> dict[str, Any]:
        """Every number, for JSON; tokens where they were counted, cost where a price is given."""
        found: dict[str, Any] = {
            "tried": self.tried,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
        }
        spread = self.spread()
        if spread is not None:
            found["added"] = {**spread._asdict(), "histogram": {str(n): self.added[n] for n in sorted(self.added)}}
        found["scores"] = {
            name: {"mean": self.score(name), "count": scores.total()} for name, scores in sorted(self.scores.items())
        }
        if counted:
            found["tokens"] = {
                "requests": self.requests,
                "prompt": self.prompt,
                "completion": self.completion,
                "prompt per kept": self.per_kept(self.prompt),
                "completion per kept": self.per_kept(self.completion),
            }
        if counted and price is not None:
            cost = self.cost(price)
            found["usd"] = {"all": cost, "per kept": self.per_kept(cost)}
        return found


@dataclass
class Survival:
    """Tallies by operator and round, from which all others are sums; the rows are round 0, of no operator."""

    cells: dict[tuple[str, int], Tally]
    counted: bool
    """Whether tokens are known: a journal was there."""
    unsettled: Tally
    """Tokens of steps that no line tells of: what was asked ahead when the run was stopped, or under way."""

    @property
    def operators(self) -> list[str]:
        return sorted({operator for operator, _ in self.cells if operator})

    @property
    def rounds(self) -> list[int]:
        return sorted({number for _, number in self.cells})

    def of(self, *, operator: str | None = None, round: int | None = None) -> Tally:
        """The sum over one operator, one round or one of both; over all tries of evolution where neither is given."""
        whole = Tally()
        for (name, number), tally in self.cells.items():
            if (number > 0 if round is None else number == round) and operator in (None, name):
                whole.include(tally)
        return whole

    def figures(self, price: Price | None = None) -> dict[str, Any]:
        """Every number, for JSON."""

        def told(tally: Tally) -> dict[str, Any]:
            return tally.figures(counted=self.counted, price=price)

        cells = [
            {"operator": operator, "round": number, **told(self.cells[operator, number])}
            for operator, number in sorted(self.cells)
            if number
        ]
        return {
            "rows": told(self.of(round=0)),
            "evolved": told(self.of()),
            "operators": {operator: told(self.of(operator=operator)) for operator in self.operators},
            "rounds": {str(number): told(self.of(round=number)) for number in self.rounds},
            "cells": cells,
            **({"unsettled": told(self.unsettled)["tokens"]} if self.counted else {}),
        }


class _Line(NamedTuple):
    """What a line of lineage.jsonl or rejected.jsonl tells of its step."""

    step: int
    evolution: Evolution
    by: str
    """The rule that rejected it; empty: kept."""
    scores: Mapping[str, float]


def survival(folder: Path) -> Survival:
    """The figures of a run as its folder stands; it may be under way. Lines and replies are gone through in plan order,
    none of them is held: memory grows by operators, rounds and rules alone.

    Raises UsageError where the run does not evolve, and InputError where a line is not one that a run writes.
    """
    check_evolves(folder)
    # A replay has no journal of its own: it re-judged another folder's replies.
    path = Path(state.read(folder).get("replay of", folder)) / "journal.sqlite"
    counted = path.is_file()
    found = Survival({}, counted, Tally())
    with closing(Journal(path, read_only=True)) if counted else nullcontext() as journal:
        spending = _spending(journal) if journal else iter(())
        spent = next(spending, None)
        lines = merge(_kept(folder), _rejected(folder), key=lambda line: line.step)
        for step, of_step in groupby(lines, key=lambda line: line.step):
            cell = found.unsettled
            for line in of_step:
                cell = found.cells.setdefault((line.evolution.operator, line.evolution.round), Tally())
                _count(cell, line)
            while spent is not None and spent.step <= step:
                (cell if spent.step == step else found.unsettled).spend(spent)
                spent = next(spending, None)
        while spent is not None:
            found.unsettled.spend(spent)
            spent = next(spending, None)
    return found


def _kept(folder: Path) -> Iterator[_Line]:
    path = folder / "lineage.jsonl"
    for number, line in enumerate(read_lines(path, frozenset(["place", "evolution"])), 1):
        yield _line(f"{path}:{number}", line["place"], line, "")


def _rejected(folder: Path) -> Iterator[_Line]:
    for number, line in enumerate(read_rejected(folder), 1):
        yield _line(f"{folder / 'rejected.jsonl'}:{number}", line["name"], line, line["by"])


def _line(where: str, name: str, line: Mapping[str, Any], by: str) -> _Line:
    try:
        step = int(name.rpartition(":")[2].partition(".")[0])
    except ValueError as error:
        hint = "delete the file and give the run's command again: it is rebuilt from the journal"
        raise InputError(f"{where}: {name!r} names no step", hint=hint) from error
    return _Line(step, evolution_of(line, where), by, line.get("scores", {}))


def _count(cell: Tally, line: _Line) -> None:
    if line.by:
        cell.rejected[line.by] += 1
        return
    cell.kept += 1
    if line.evolution.round:
        cell.added[line.evolution.added] += 1
    for name, score in line.scores.items():
        cell.scores.setdefault(name, Counter())[score] += 1


class _Spent(NamedTuple):
    """What was asked at a step, in all."""

    step: int
    requests: int
    prompt: int
    completion: int


def _spending(journal: Journal) -> Iterator[_Spent]:
    """In plan order."""
    for step, replies in groupby(journal.replies(), key=lambda stored: stored.place.step):
        requests = prompt = completion = 0
        for stored in replies:
            requests += 1
            prompt += stored.reply.usage.prompt
            completion += stored.reply.usage.completion
        yield _Spent(step, requests, prompt, completion)


def _mean(values: Counter[Any]) -> float:
    return float(sum(value * times for value, times in values.items()) / values.total())


def _rank(values: Counter[int], share: float) -> int:
    """The smallest value that at least so large a share of all does not exceed."""
    passed, wanted = 0, share * values.total()
    for value in sorted(values):
        passed += values[value]
        if passed >= wanted:
            return value
    raise ValueError("nothing to rank")
