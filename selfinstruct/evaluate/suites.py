"""The suites that need no network: instructions that a program can check, labels, and answers beside references.

A suite is a list of items, each asked once, and for each answer its scores by metric: between 0 and 1, more is better,
None where nobody can tell. What shows in any answer (refusals, repetition, length) is counted beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from selfinstruct.encodings import Behaviour
from selfinstruct.errors import InputError, UsageError
from selfinstruct.evaluate.closed import label_space, matches, options, rouge
from selfinstruct.evaluate.figures import Score
from selfinstruct.formats import read_dataset
from selfinstruct.records import Record, digest
from selfinstruct.resources import SEEDS
from selfinstruct.verifiable.ifeval import Verifiable, accuracy, followed, read_verifiable

T = TypeVar("T")
OFFLINE = ("ifeval", "labels", "held-out")


class Item(NamedTuple):
    """What is asked."""

    instruction: str
    input: str = ""
    task: str = ""
    """Items of one task weigh together as much as those of another."""


Scores = dict[str, tuple[Score, ...]]
"""Of one answer, by metric; several where an item has several parts."""


class Suite(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def items(self) -> Sequence[Item]: ...

    @property
    def metrics(self) -> Sequence[str]:
        """The headline first."""
        ...

    @property
    def length(self) -> int:
        """Tokens that an answer may have, unless somebody says otherwise."""
        ...

    @property
    def free(self) -> bool:
        """Whether an answer is a text of which a judge can say that it is better than another."""
        ...

    def scores(self, at: int, answer: str) -> Scores:
        """Of the answer to the item of that number, which may be empty."""
        ...

    def parts(self, answers: Sequence[str | None]) -> dict[str, Any]:
        """Of all answers, what the suite counts by part; None for one that never came."""
        ...


class IFEval:
    """Verifiable instructions (Zhou et al. 2023): the share of prompts of which all instructions are followed, and of
    the instructions, strictly and loosely. Our own prompts, or a file in the public one's format."""

    name = "ifeval"
    metrics = ("prompts, strict", "prompts, loose", "instructions, strict", "instructions, loose")
    length = 512
    free = True

    def __init__(self, file: Path | None = None, limit: int | None = None, behaviour: Behaviour = "strict") -> None:
        every = read_verifiable(file or SEEDS / "verifiable.jsonl")
        self._asked: list[Verifiable] = few(every, limit, lambda one: one.prompt)
        self._behaviour = behaviour
        self.items = [Item(one.prompt) for one in self._asked]

    def scores(self, at: int, answer: str) -> Scores:
        found = followed(self._asked[at], answer, self._behaviour)
        scores: Scores = {}
        for how, verdicts in (("strict", found.strict), ("loose", found.loose)):
            parts = tuple(None if one is None else float(one) for one in verdicts)
            scores[f"instructions, {how}"] = parts
            failed = 0.0 in parts
            scores[f"prompts, {how}"] = (0.0 if failed else None if None in parts else 1.0,)
        return scores

    def parts(self, answers: Sequence[str | None]) -> dict[str, Any]:
        """By group and by type of instruction."""
        came = [(one, said) for one, said in zip(self._asked, answers, strict=True) if said is not None]
        found = accuracy([one for one, _ in came], [followed(one, said, self._behaviour) for one, said in came])
        return {
            name: {part: tally._asdict() for part, tally in tallies.items()}
            for name, tallies in (("groups", found.groups), ("types", found.types))
        }


class Labels:
    """Classification: the share of answers that are the label, as both are compared (``closed.normal``), every task
    weighing the same. Of a dataset, the rows that are marked as classification or name their labels."""

    name = "labels"
    metrics = ("accuracy",)
    length = 32
    free = False

    def __init__(self, rows: Iterable[Record], where: str, limit: int | None = None) -> None:
        labelled = [row for row in rows if row.classification or label_space(row.instruction) is not None]
        self._rows = few(labelled, limit, lambda row: row.id)
        if not self._rows:
            raise InputError(
                f"{where}: no row names its labels", hint="leave out --suite labels, or name another --data"
            )
        self.items = [Item(row.instruction, row.input, row.instruction) for row in self._rows]

    def scores(self, at: int, answer: str) -> Scores:
        row = self._rows[at]
        listed = options(f"{row.instruction}\n{row.input}")
        right = bool(answer.strip()) and matches(answer, [row.output], choices=listed)
        return {"accuracy": (float(right),)}

    def parts(self, answers: Sequence[str | None]) -> dict[str, Any]:
        return {}


class HeldOut:
    """ROUGE-L of answers with references of rows that were not trained on (Self-Instruct's measure, section 4.3)."""

    name = "held-out"
    metrics = ("ROUGE-L",)
    length = 256
    free = True

    def __init__(self, rows: Iterable[Record], where: str, limit: int | None = None) -> None:
        self._rows = few([row for row in rows if row.output.strip()], limit, lambda row: row.id)
        if not self._rows:
            raise InputError(f"{where}: no row with a reference", hint="--data names rows with answers")
        self.items = [Item(row.instruction, row.input) for row in self._rows]

    def scores(self, at: int, answer: str) -> Scores:
        return {"ROUGE-L": (rouge(answer, [self._rows[at].output]),)}

    def parts(self, answers: Sequence[str | None]) -> dict[str, Any]:
        return {}


def few(rows: Sequence[T], limit: int | None, text: Callable[[T], str]) -> list[T]:
    """At the most so many of the rows, in their order: the same ones wherever they stand."""
    if limit is None or limit >= len(rows):
        return list(rows)
    drawn = sorted(range(len(rows)), key=lambda at: (digest("few", text(rows[at])), at))[:limit]
    return [rows[at] for at in sorted(drawn)]


def open_suite(name: str, data: Path | None, ifeval: Path | None, limit: int | None = None) -> Suite:
    """The suite of that name, of at the most ``limit`` items. ``data`` are the rows of ``labels`` and ``held-out``.
    Raises UsageError for a name that is none or for one that lacks its rows, InputError for a flaw in a file."""
    if name == "ifeval":
        return IFEval(ifeval, limit)
    if name not in OFFLINE:
        raise UsageError(f"there is no suite {name!r}", hint=f"there are {', '.join(OFFLINE)}, and lm-eval:TASK")
    if data is None:
        raise UsageError(f"the suite {name} wants rows", hint="--data FILE, rows that the model was not trained on")
    rows = read_dataset(data)
    return Labels(rows, str(data), limit) if name == "labels" else HeldOut(rows, str(data), limit)
