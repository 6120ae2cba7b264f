"""Evolve tasks round after round: in depth, in breadth, or their answers (Evol-Instruct, Xu et al. 2024, section 3)."""

from __future__ import annotations

import json
import os
import re
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import IO, NamedTuple

from selfinstruct.engines import Reply, Request
from selfinstruct.errors import InputError, UsageError
from selfinstruct.files import writing
from selfinstruct.formats import read_dataset
from selfinstruct.operators import Pool, Read, Setting, Unreadable, Untouched
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import Phase, Recipe, Rounds
from selfinstruct.records import Evolution, Record
from selfinstruct.words import words

FOLDER = "evolve"
"""Where the operators' prompts lie, and the stage at which they are asked."""


class Evolve:
    """Round 0 is the dataset, untouched. In every later round each row's lineage is tried once with an operator drawn
    for it; a draft that is kept takes its parent's place, and where none is, the parent is tried again in the next.

    The lineages go round in a queue that lies on disk, so that no more of them is in memory than is under way.
    """

    stage = FOLDER
    asks = True
    feeds_pool = False
    reads_dataset = True

    def __init__(self, setting: Setting) -> None:
        assert setting.source is not None
        self._setting = setting
        self._recipe = setting.recipe
        self._source: Iterator[Record] = iter(read_dataset(setting.source))
        self.rows = setting.rows
        self.rounds = setting.recipe.evolve.rounds
        prompts = {name: setting.prompts[self._prompt(name)] for name in operators(setting.recipe.evolve)}
        self._heads = {name: prompt.head for name, prompt in prompts.items()}
        self._bare = {name: prompt.bare() for name, prompt in prompts.items()}
        self.stages = tuple(f"{FOLDER}/{name}" for name in self._heads)
        self._directions = {name: head.direction or "in-depth" for name, head in self._heads.items()}
        self._answers = "answer" in self._directions.values()
        self._queue = _Queue()
        self._drawn: deque[_Lineage] = deque()

    @staticmethod
    def check(recipe: Recipe, prompts: Prompts) -> None:
        """Raises UsageError for an operator that there is no prompt for, and where some rewrite answers and others do
        not."""
        table = recipe.evolve
        there = operators_in(prompts)
        for name in operators(table):
            if name not in there:
                raise UsageError(f"there is no operator {name!r}", hint="there are " + ", ".join(there))
        if not table.operators and table.rounds > sum(phase.rounds for phase in table.first):
            raise UsageError("the recipe names no operators", hint="--operators does, or evolve.operators in it")
        names = {}
        for name in operators(table):
            ways = [f"{FOLDER}/{name}{way}" for way in ("", "/chat", "/json", "/completion", "/prefill", "/small")]
            known = next((way for way in ways if way in prompts), None)
            if known is None:
                raise UsageError(f"the operator {name!r} has no prompt", hint=f"{FOLDER}/{name}.md would be it")
            prompts[known].example()  # raises where its text cannot be rendered
            names[name] = known
        answers = {name: prompts[known].head.direction == "answer" for name, known in names.items()}
        if len(set(answers.values())) > 1:
            odd = next(name for name, one in answers.items() if not one)
            raise UsageError(
                f"operator {odd!r} rewrites instructions, and others of this recipe rewrite answers",
                hint="an evolution does one or the other: choose --operators of one kind",
            )

    def _prompt(self, name: str) -> str:
        try:
            return self._setting.prompt_name(f"{FOLDER}/{name}", self._setting.style)
        except UsageError as error:
            raise UsageError(
                f"the operator {name!r} cannot be asked in the style {self._setting.style}",
                hint="a file without `frame:` is a whole prompt, asked in its own way alone: name a frame, or --style",
            ) from error

    # A step.

    def draw(self, pool: Pool, step: int, rng: Random) -> tuple[Record, ...] | None:
        """The row itself in round 0; later what has become of it, with the try that is now made of it as its evolution.
        Nothing where the lineage rests."""
        if step >= self.rows * (self.rounds + 1):
            return None
        if step < self.rows:
            read = next(self._source, None)
            if read is None:
                raise InputError(
                    f"{self._setting.source} has fewer rows than when the run began", hint="put back what it was"
                )
            row = self._row(read, step)
            self._drawn.append(_Lineage(row))
            return (row,)
        lineage = self._queue.pop()
        parent = lineage.current
        planned = None if pool.planned is None else pool.planned()
        if planned == () or (self._rests(lineage) and not planned):
            self._drawn.append(lineage)
            return ()
        if pool.planned is not None:
            if planned is None:
                return None
            known = (parent, *reversed(lineage.drafts))
            parent = next((record for record in known if (record.task,) == planned), parent)
        tries = lineage.tries + 1 if parent.task == lineage.tried else 1
        self._drawn.append(lineage._replace(tries=tries, tried=parent.task))
        assert parent.evolution is not None
        under_way = Evolution(
            lineage=parent.evolution.lineage, root=parent.evolution.root, round=step // self.rows, attempt=tries
        )
        return (parent.model_copy(update={"evolution": under_way}),)

    def ask(self, parents: Sequence[Record], steer: Mapping[str, str], rng: Random) -> Request | None:
        if not parents or _is_row(parents[0]):
            return None
        parent = parents[0]
        values = {"instruction": parent.instruction, "input": parent.input, "output": parent.output}
        sampling = self._recipe.sampling.get(FOLDER, {})
        name = self._operator(parent, rng)
        return self._setting.draft(f"{FOLDER}/{name}", {**values, "vary": dict(steer)}, **sampling)

    def read(self, reply: Reply, parents: Sequence[Record], rng: Random) -> list[Read]:
        if not parents:
            return []
        if _is_row(parents[0]):
            return [Untouched(parents[0])]
        child = self.blank(parents, rng)
        parent, evolution = parents[0], child.evolution
        assert evolution is not None
        compat = self._recipe.behaviour == "compat"
        text = reply.text.strip() if compat else unwrapped(reply.text, answer=self._answers)
        if reply.finish != "stop" and not compat:  # the released script takes what there is
            return [Unreadable("truncated", f"the reply was cut off ({reply.finish})", reply.text)]
        if not text:
            return [Unreadable("unreadable", "the reply holds no text", reply.text)]
        before = parent.output if self._answers else parent.instruction
        compared = {"before": before, "prompt": self._bare[evolution.operator]}
        evolution = evolution.model_copy(update={"added": words(text) - words(before), **compared})
        update = {"evolution": evolution, "output" if self._answers else "instruction": text}
        if self._answers:
            update |= {"instruction": parent.instruction, "input": parent.input}
        return [child.model_copy(update=update)]

    def blank(self, parents: Sequence[Record], rng: Random) -> Record:
        parent = parents[0]
        assert parent.evolution is not None
        name = self._operator(parent, rng)
        how = {"operator": name, "direction": self._directions[name], "may_add": self._heads[name].added}
        evolution = parent.evolution.model_copy(update=how)
        return Record(
            instruction="", origin=self.stage, parents=(parent.task,), system=parent.system, evolution=evolution
        )

    def settle(self, drafts: Sequence[Record], kept: Record | None) -> None:
        lineage = self._drawn.popleft()
        if kept is not None:
            lineage = lineage._replace(current=kept, tries=0, tried="")
        if self._setting.replays:  # its parents are the stored plan's: any of them may come next
            lineage = lineage._replace(drafts=(*lineage.drafts, *drafts))
        self._queue.push(lineage)

    # What a step is made of.

    def _row(self, row: Record, number: int) -> Record:
        """A row of the dataset as round 0 has it: instruction and input are one text from now on."""
        given = row.input
        if self._answers:
            text = row.instruction
        elif self._recipe.behaviour == "compat":
            given, text = "", f"{row.instruction}\r\n{row.input}"
        else:
            given, text = "", f"{row.instruction}\n\n{row.input}" if row.input.strip() else row.instruction
        task = row.task or row.id
        evolution = Evolution(lineage=number, root=task)
        update = {"instruction": text, "input": given, "origin": "given", "task": task, "parents": (row.id,)}
        return row.model_copy(update={**update, "evolution": evolution})

    def _rests(self, lineage: _Lineage) -> bool:
        most = self._recipe.evolve.max_failures
        return 0 < most <= lineage.tries and lineage.tried == lineage.current.task

    def _operator(self, parent: Record, rng: Random) -> str:
        """The operator drawn for the next try of a parent."""
        assert parent.evolution is not None
        table = _drawn_from(self._recipe.evolve, parent.evolution.round)
        return rng.choices(table.operators, table.weights or None)[0]


def operators(table: Rounds) -> tuple[str, ...]:
    """The operators that some round may draw, each once."""
    names = [name for phase in table.first for name in phase.operators]
    return tuple(dict.fromkeys((*names, *table.operators)))


def operators_in(prompts: Prompts) -> list[str]:
    """All operators that there are prompts for: the files in ``evolve/``, and the folders beside its frames."""
    parts = [name.split("/")[1] for name in prompts.names() if name.startswith(f"{FOLDER}/")]
    return sorted(set(parts) - {"frames"})


def _drawn_from(table: Rounds, number: int) -> Rounds | Phase:
    """Where the operators of a round stand, counted from 1."""
    for phase in table.first:
        if number <= phase.rounds:
            return phase
        number -= phase.rounds
    return table


def _is_row(record: Record) -> bool:
    return record.evolution is not None and record.evolution.round == 0


_KIND = r"(?:new|rewritten|evolved|created|harder|easier|revised|improved)"
_AROUND = r"[ \t#*_>]*"
_LABEL = re.compile(rf"\A{_AROUND}(?:the |your )?{_KIND} \w+{_AROUND}:{_AROUND}", re.IGNORECASE)
_OUR_LABEL = re.compile(
    rf"^{_AROUND}(?:rewritten|created|evolved|easier) (?:prompt|answer){_AROUND}:{_AROUND}(?=\s*\S)",
    re.IGNORECASE | re.MULTILINE,
)
"""One of the labels of our frames, which a model repeats after what it repeats of the frame, with text below it."""
_LAST_LABEL = re.compile(
    rf"\n{_AROUND}(?:rewritten|created|evolved|easier) (?:prompt|answer){_AROUND}:{_AROUND}\Z", re.IGNORECASE
)
_PREFACE = re.compile(
    rf"\A(?:(?:sure|certainly|of course|okay|ok|absolutely)\b|here(?:'s| is| are|\u2019s)\b)(?=[^\n]*\b{_KIND}\b)"
    r"[^\n]{0,120}:[ \t*]*\n+(?=\S)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\A```[\w+-]*[ \t]*\n(.*)\n```\Z", re.DOTALL)
_QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb", "``")


def unwrapped(text: str, *, answer: bool = False) -> str:
    """An evolved text without what models wrap it in: a label, what precedes the last label of ours, a first line that
    announces a new version, a fence or quotes around the whole. Of an ``answer`` the fence stays: it may be code."""
    while True:
        before = text
        text = _LAST_LABEL.sub("", text)
        labels = list(_OUR_LABEL.finditer(text))
        text = (text[labels[-1].end() :] if labels else text).strip()
        text = _PREFACE.sub("", _LABEL.sub("", text, count=1), count=1).strip()
        if not answer:
            fence = _FENCE.match(text)
            if fence and "```" not in fence[1]:
                text = fence[1].strip()
            if len(text) > 1 and text[0] + text[-1] in _QUOTES and not {text[0], text[-1]} & set(text[1:-1]):
                text = text[1:-1].strip()
        if text == before:
            return text


class _Lineage(NamedTuple):
    """A row and what has become of it."""

    current: Record
    drafts: tuple[Record, ...] = ()
    """In a replay, all that was made of it."""
    tries: int = 0
    """How often in a row ``tried``, a task, has been tried."""
    tried: str = ""


class _Queue:
    """First in, first out, on disk: a file for every so many lineages, gone once it has been read."""

    def __init__(self, each: int = 65_536) -> None:
        self._each = each
        self._files: deque[IO[bytes]] = deque()
        weakref.finalize(self, _close, self._files)
        self._written = self._read = self._at = 0  # lines of the last file and of the first one, and its next byte

    def push(self, lineage: _Lineage) -> None:
        records = [record.model_dump(exclude_defaults=True) for record in (lineage.current, *lineage.drafts)]
        with writing(Path(tempfile.gettempdir())):
            if not self._files or self._written == self._each:
                self._files.append(tempfile.TemporaryFile(prefix="selfinstruct-"))  # noqa: SIM115 - closed by pop
                self._written = 0
            self._files[-1].seek(0, os.SEEK_END)
            self._files[-1].write(json.dumps([records, lineage.tries, lineage.tried]).encode() + b"\n")
            self._written += 1

    def pop(self) -> _Lineage:
        with writing(Path(tempfile.gettempdir())):
            self._files[0].seek(self._at)
            line = self._files[0].readline()
            self._at += len(line)
            self._read += 1
            if self._read == self._each:
                self._files.popleft().close()
                self._read = self._at = 0
        records, tries, tried = json.loads(line)
        current, *drafts = map(Record.model_validate, records)
        return _Lineage(current, tuple(drafts), tries, tried)


def _close(files: deque[IO[bytes]]) -> None:
    for file in files:
        file.close()
