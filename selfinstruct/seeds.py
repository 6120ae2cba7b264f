"""What a seed set looks like in figures, beside the one that Self-Instruct released, and what to fix in it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from selfinstruct.filters.novelty import tokens
from selfinstruct.records import Objection, Record, digest

SAMPLE = 2_000
"""Up to so many instructions are compared each with each for the profile; of more, so many are drawn."""

NEAR = 0.7
"""ROUGE-L F above which two instructions are near-duplicates, as in the paper."""

_ROWS = 256
_SENTENCE_END = re.compile(r"[.!?]+[\"'\u2019\u201d\u00bb)\]]*(?=\s|$)|[\u3002\uff01\uff1f]+")
_FIELD = re.compile(r"[^\W\d_][\w '\u2019/()-]{0,30}:(?=\s|$)")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Frozen):
    """How a number is spread over ``n`` texts; all zero when there are none."""

    n: int
    mean: float
    sd: float
    min: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    max: float


class Similarity(_Frozen):
    """ROUGE-L F between instructions: of each with its nearest other, and of all pairs."""

    compared: int
    """Instructions compared each with each; fewer than the tasks when a sample was drawn."""
    mean: float
    median: float
    p90: float
    max: float
    above: int
    """Instructions with another one nearer than ``NEAR``."""
    all_pairs: float


class Profile(_Frozen):
    """Figures of a seed set. Those of instructions count tasks, those of inputs and outputs count instances."""

    tasks: int
    instances: int
    classification: int
    other: int
    unlabelled: int
    with_input: int
    classification_with_input: int

    instruction: Spread
    """Words between blanks, here and below."""
    instruction_classification: Spread
    instruction_other: Spread
    input: Spread
    """Of the inputs that are not empty."""
    input_classification: Spread
    output: Spread
    output_classification: Spread
    output_other: Spread

    sentences: tuple[int, int, int, int]
    """Instructions of one, two, three, and four or more sentences."""
    final_marks: dict[str, int]
    """Instructions by their last character where it is a mark, else by the empty string."""
    questions: int
    """Instructions with a question mark anywhere."""
    multiline_inputs: int
    multiline_outputs: int
    field_inputs: int
    """Inputs that open with a named field, such as ``Question:``."""
    non_ascii_instructions: int
    non_ascii_instances: int
    """Instances with a character outside ASCII in the input or the output."""
    first_words: int
    """Distinct first words of instructions."""
    commonest: tuple[tuple[str, int], ...]
    """The commonest first words, at most ten."""
    similarity: Similarity
    wordless: int
    """Instructions in which ROUGE-L's tokeniser sees no word (none of a to z, 0 to 9): to it they are all new."""

    def means(self) -> dict[str, float]:
        """The figures that are means, by their name in a table."""
        found = {f"{label}, words": spread.mean for label, spread in self._spreads() if spread.n}
        if self.similarity.compared > 1:
            found["similarity to the nearest"] = self.similarity.mean
            found["similarity of all pairs"] = self.similarity.all_pairs
        return found

    def shares(self) -> dict[str, float]:
        """The figures that are shares, from 0 to 1, by their name in a table."""
        tasks, instances, inputs = max(self.tasks, 1), max(self.instances, 1), max(self.with_input, 1)
        found = {
            "classification": self.classification / tasks,
            "with input": self.with_input / instances,
            "classification with input": self.classification_with_input / max(self.output_classification.n, 1),
        }
        for count, label in zip(
            self.sentences, ("one sentence", "two sentences", "three", "four or more"), strict=True
        ):
            found[f"instructions of {label}"] = count / tasks
        for mark in (".", "?", ":", ""):
            found[f"instructions ending in {mark or 'no mark'}"] = self.final_marks.get(mark, 0) / tasks
        return found | {
            "instructions with a question": self.questions / tasks,
            "distinct first words": self.first_words / tasks,
            "instructions nearer than 0.7": self.similarity.above / max(self.similarity.compared, 1),
            "inputs of several lines": self.multiline_inputs / inputs,
            "inputs that open with a field": self.field_inputs / inputs,
            "outputs of several lines": self.multiline_outputs / instances,
            "instructions beyond ASCII": self.non_ascii_instructions / tasks,
            "instances beyond ASCII": self.non_ascii_instances / instances,
        }

    def _spreads(self) -> Iterator[tuple[str, Spread]]:
        yield "instruction", self.instruction
        yield "instruction, classification", self.instruction_classification
        yield "instruction, other", self.instruction_other
        yield "input", self.input
        yield "input, classification", self.input_classification
        yield "output", self.output
        yield "output, classification", self.output_classification
        yield "output, other", self.output_other


class Problem(_Frozen):
    """One thing to fix in a seed set."""

    task: str
    """The seed's id, or its place in the list where it has none."""
    by: str
    """The rule: ``empty instruction``, ``empty output``, ``label``, ``duplicate``, ``near-duplicate``, or the name of
    the draft filter that objects."""
    why: str
    neighbour: str = ""
    score: float | None = None


def profile(records: Sequence[Record]) -> Profile:
    """The figures of a seed set. They do not depend on the order of the records.

    >>> profile([Record(instruction="Name a river.", output="Oder", task="r")]).instruction.mean
    3.0
    """
    tasks = [instances[0] for _, instances in _tasks(records)]
    texts = [task.instruction.strip() for task in tasks]
    inputs = [record for record in records if record.input.strip()]
    first_words = Counter(word for text in texts if (word := _first_word(text)))
    sentences = Counter(min(count_sentences(text), 4) for text in texts)
    marks = Counter(_final_mark(text) for text in texts)
    return Profile(
        tasks=len(tasks),
        instances=len(records),
        classification=sum(task.classification is True for task in tasks),
        other=sum(task.classification is False for task in tasks),
        unlabelled=sum(task.classification is None for task in tasks),
        with_input=len(inputs),
        classification_with_input=sum(record.classification is True for record in inputs),
        instruction=_words(tasks, "instruction"),
        instruction_classification=_words(tasks, "instruction", True),
        instruction_other=_words(tasks, "instruction", False),
        input=_words(inputs, "input"),
        input_classification=_words(inputs, "input", True),
        output=_words(records, "output"),
        output_classification=_words(records, "output", True),
        output_other=_words(records, "output", False),
        sentences=(sentences[1], sentences[2], sentences[3], sentences[4]),
        final_marks=dict(sorted(marks.items(), key=lambda item: (-item[1], item[0]))),
        questions=sum("?" in text or "\uff1f" in text for text in texts),
        multiline_inputs=sum("\n" in record.input.strip() for record in inputs),
        multiline_outputs=sum("\n" in record.output.strip() for record in records),
        field_inputs=sum(_FIELD.match(record.input.strip()) is not None for record in inputs),
        non_ascii_instructions=sum(not text.isascii() for text in texts),
        non_ascii_instances=sum(not (record.input + record.output).isascii() for record in records),
        first_words=len(first_words),
        commonest=tuple(sorted(first_words.items(), key=lambda item: (-item[1], item[0]))[:10]),
        similarity=_similarity(texts),
        wordless=sum(not tokens(text, "rouge") for text in texts),
    )


def problems(records: Sequence[Record], objection: Callable[[Record], Objection | None] | None = None) -> list[Problem]:
    """What to fix in a seed set, whatever set it is held against; seed by seed, in their order.

    ``objection`` is what the draft stage would say of a seed's instruction: a seed that a run would itself reject
    teaches the model to write drafts that are rejected.
    """
    tasks = _tasks(records)
    twins = _twins([instances[0].instruction.strip() for _, instances in tasks])
    labelled = any(record.classification is not None for record in records)
    found: list[Problem] = []
    for (name, instances), near in zip(tasks, twins, strict=True):
        first = instances[0]
        if not first.instruction.strip():
            found.append(Problem(task=name, by="empty instruction", why="there is nothing to ask"))
        elif objection and (said := objection(first)):
            found.append(Problem(task=name, by=said.by, why=said.why, neighbour=said.neighbour, score=said.score))
        if empty := sum(not instance.output.strip() for instance in instances):
            why = "it has no output" if len(instances) == 1 else f"{empty} of {len(instances)} instances have no output"
            found.append(Problem(task=name, by="empty output", why=why))
        labels = {instance.classification for instance in instances}
        if not labelled:
            pass  # a plain list of instructions and outputs has no such label at all
        elif None in labels:
            found.append(Problem(task=name, by="label", why="it lacks is_classification, which others have"))
        elif len(labels) > 1:
            why = "its instances disagree on whether it is a classification task"
            found.append(Problem(task=name, by="label", why=why))
        for elder, score in near:
            other = tasks[elder][0]
            if score is None:
                why = f"it has the instruction of {other}: make them instances of one task"
                found.append(Problem(task=name, by="duplicate", why=why, neighbour=other))
            else:
                why = f"it is too close to {other} (ROUGE-L {score:.3f} > {NEAR}): {first.instruction.strip()!r}"
                found.append(Problem(task=name, by="near-duplicate", why=why, neighbour=other, score=score))
    return found


def drift(this: Profile, reference: Profile, *, mean: float = 0.15, share: float = 0.10) -> list[str]:
    """Where a mean is off by more than a part of the reference's, or a share by more than so many points, in words."""
    found = []
    theirs = reference.means()
    ours = this.means()
    for label, wanted in theirs.items():
        if label not in ours:
            found.append(f"{label}: none, reference {_number(wanted)}")
        elif abs(ours[label] - wanted) > mean * wanted:
            found.append(f"{label}: mean {_number(ours[label])}, reference {_number(wanted)}")
    for (label, has), wanted in zip(this.shares().items(), reference.shares().values(), strict=True):
        if abs(has - wanted) > share:
            found.append(f"{label}: {has:.0%}, reference {wanted:.0%}")
    return found


def table(this: Profile, reference: Profile) -> list[tuple[str, str, str]]:
    """Rows of (figure, this set, reference), ready to print."""

    def row(label: str, show: Callable[[Profile], str]) -> tuple[str, str, str]:
        return label, show(this), show(reference)

    rows = [
        row("tasks", lambda p: f"{p.tasks:,}"),
        row("instances", lambda p: f"{p.instances:,}"),
        row("classification / other / unlabelled", lambda p: f"{p.classification} / {p.other} / {p.unlabelled}"),
    ]
    mine = dict(this._spreads())
    for label, theirs in reference._spreads():
        rows.append((f"{label}: words, mean ± sd", _mean_sd(mine[label]), _mean_sd(theirs)))
        rows.append((f"{label}: min·p10·p25·p50·p75·p90·max", _steps(mine[label]), _steps(theirs)))
    shares = reference.shares()
    rows += [(label, f"{share:.0%}", f"{shares[label]:.0%}") for label, share in this.shares().items()]
    rows += [
        row("commonest first words", lambda p: ", ".join(f"{word} {count}" for word, count in p.commonest)),
        row("similarity to the nearest: mean", lambda p: f"{p.similarity.mean:.3f}"),
        row(
            "similarity to the nearest: median·p90·max",
            lambda p: " · ".join(f"{x:.3f}" for x in (p.similarity.median, p.similarity.p90, p.similarity.max)),
        ),
        row("similarity of all pairs: mean", lambda p: f"{p.similarity.all_pairs:.3f}"),
        row("instructions compared for similarity", lambda p: f"{p.similarity.compared:,}"),
        row("instructions without a word for ROUGE-L", lambda p: f"{p.wordless:,}"),
    ]
    return rows


def count_sentences(text: str) -> int:
    """Sentences of a text, at least one: full stops, question and exclamation marks that a blank or the end follows."""
    return max(1, len(_SENTENCE_END.findall(text)))


def pairwise_rouge_l(texts: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """ROUGE-L F of every text with every text, a block of rows at a time, each with the number of its first row.

    The floats are those of the package rouge-score, so that a threshold decides alike. All pairs at once are wanted
    here: asked of a NoveltyIndex one by one, 2,000 texts take 25 times as long.
    """
    numbers: dict[str, int] = {}
    split = [tokens(text, "rouge") for text in texts]
    # Each word becomes one character, surrogates left out: rapidfuzz is fastest on strings.
    coded = [
        "".join(chr(n + 0x800 if n >= 0xD800 else n) for n in (numbers.setdefault(w, len(numbers)) for w in words))
        for words in split
    ]
    length = np.array([len(words) for words in split], dtype=np.float64)
    for start in range(0, len(coded), _ROWS):
        rows = coded[start : start + _ROWS]
        common: NDArray[np.float64] = cdist(rows, coded, scorer=LCSseq.similarity, dtype=np.uint32).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = common / length[start : start + len(rows), None]
            recall = common / length[None, :]
            f = 2 * precision * recall / (precision + recall)
        yield start, np.where(common > 0, f, 0.0)


def _tasks(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Each task: how to name it, and its instances. A record that names no task stands alone."""
    found: dict[tuple[str, str], list[Record]] = {}
    names: list[str] = []
    for place, record in enumerate(records):
        key = (record.task or f"\0{place}", record.instruction)
        if key not in found:
            names.append(record.task or f"seed {place + 1}")
        found.setdefault(key, []).append(record)
    return list(zip(names, found.values(), strict=True))


def _words(
    records: Iterable[Record], field: Literal["instruction", "input", "output"], classification: bool | None = None
) -> Spread:
    """The spread of the words of a field, over all records or over those with a label."""
    chosen = (r for r in records if classification is None or r.classification is classification)
    return _spread([len(getattr(record, field).split()) for record in chosen])


def _spread(counts: Sequence[int]) -> Spread:
    if not counts:
        return Spread(n=0, mean=0, sd=0, min=0, p10=0, p25=0, p50=0, p75=0, p90=0, max=0)
    values = np.sort(np.array(counts, dtype=np.float64))
    p10, p25, p50, p75, p90 = (float(p) for p in np.percentile(values, [10, 25, 50, 75, 90]))
    return Spread(
        n=len(counts),
        mean=float(values.mean()),
        sd=float(values.std()),
        min=float(values[0]),
        p10=p10,
        p25=p25,
        p50=p50,
        p75=p75,
        p90=p90,
        max=float(values[-1]),
    )


def _similarity(texts: Sequence[str]) -> Similarity:
    """Of a large set, the texts with the smallest digests are compared: a sample that no order of lines changes."""
    # Sorted, so that sums of floats do not depend on the order either.
    chosen = sorted(texts, key=digest)[:SAMPLE]
    if len(chosen) < 2:
        return Similarity(compared=len(chosen), mean=0, median=0, p90=0, max=0, above=0, all_pairs=0)
    nearest = np.zeros(len(chosen))
    total = 0.0
    for start, block in pairwise_rouge_l(chosen):
        here = np.arange(len(block))
        block[here, start + here] = 0.0
        nearest[start : start + len(block)] = block.max(axis=1)
        total += float(block.sum())
    return Similarity(
        compared=len(chosen),
        mean=float(nearest.mean()),
        median=float(np.median(nearest)),
        p90=float(np.percentile(nearest, 90)),
        max=float(nearest.max()),
        above=int((nearest > NEAR).sum()),
        all_pairs=total / (len(chosen) * (len(chosen) - 1)),
    )


def _twins(texts: Sequence[str]) -> list[list[tuple[int, float | None]]]:
    """For each text, the earlier ones that it equals (score None; the first of them only) or is too close to."""
    found: list[list[tuple[int, float | None]]] = [[] for _ in texts]
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        if text and first.setdefault(text, place) != place:
            found[place].append((first[text], None))
    # A text that repeats is compared by its first copy alone: one mistake is named once.
    places = list(first.values())
    for start, block in pairwise_rouge_l(list(first)):
        for row, column in zip(*np.nonzero(block > NEAR), strict=True):
            if column < start + row:
                found[places[start + row]].append((places[column], float(block[row, column])))
    return found


def _first_word(text: str) -> str:
    """The first word in lower case, without the marks around it."""
    return next((word for part in text.split() if (word := re.sub(r"^\W+|\W+$", "", part).lower())), "")


def _final_mark(text: str) -> str:
    return text[-1] if text and unicodedata.category(text[-1]).startswith("P") else ""


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def _mean_sd(spread: Spread) -> str:
    return f"{spread.mean:.1f} ± {spread.sd:.1f}" if spread.n else "none"


def _steps(spread: Spread) -> str:
    values = (spread.min, spread.p10, spread.p25, spread.p50, spread.p75, spread.p90, spread.max)
    return " · ".join(f"{value:g}" for value in (round(v, 1) for v in values)) if spread.n else "none"


def _of(n: int, mean: float, sd: float, *steps: float) -> Spread:
    names = ("min", "p10", "p25", "p50", "p75", "p90", "max")
    values: dict[str, Any] = dict(zip(names, steps, strict=True))
    return Spread(n=n, mean=mean, sd=sd, **values)


REFERENCE = Profile(
    tasks=175,
    instances=175,
    classification=26,
    other=149,
    unlabelled=0,
    with_input=125,
    classification_with_input=26,
    instruction=_of(175, 12.96, 7.95, 3, 7, 8, 11, 15, 22, 66),
    instruction_classification=_of(26, 17.15, 9.57, 7, 8, 11, 15, 20, 28, 45),
    instruction_other=_of(149, 12.23, 7.40, 3, 6, 8, 10, 15, 21, 66),
    input=_of(125, 35.5, 94.0, 1, 2, 6, 13, 35, 74, 992),
    input_classification=_of(26, 43.6, 45.2, 6, 10, 11, 35, 63, 83, 210),
    output=_of(175, 42.9, 65.3, 1, 1, 6, 20, 55, 93, 571),
    output_classification=_of(26, 1.5, 1.3, 1, 1, 1, 1, 1, 3, 6),
    output_other=_of(149, 50.1, 68.2, 1, 5, 12, 28, 66, 109, 571),
    sentences=(133, 34, 7, 1),
    final_marks={".": 151, "?": 17, ":": 5, "": 2},
    questions=20,
    multiline_inputs=41,
    multiline_outputs=63,
    field_inputs=32,
    non_ascii_instructions=2,
    non_ascii_instances=32,
    first_words=68,
    commonest=(
        ("write", 19),
        ("given", 14),
        ("give", 9),
        ("generate", 8),
        ("tell", 7),
        ("explain", 6),
        ("create", 5),
        ("in", 5),
        ("make", 5),
        ("find", 4),
    ),
    similarity=Similarity(compared=175, mean=0.362, median=0.333, p90=0.50, max=0.824, above=4, all_pairs=0.102),
    wordless=0,
)
"""The 175 seeds released with Self-Instruct (self-instruct at 0b26cca), as measured; no text of theirs is in here."""
