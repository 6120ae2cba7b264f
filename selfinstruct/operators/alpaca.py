"""Whole tasks, many in one reply, after three seeds (Stanford Alpaca, Taori et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from selfinstruct.engines import Reply, Request
from selfinstruct.errors import UsageError
from selfinstruct.operators import Ask, Pool, Read, Setting, Unreadable
from selfinstruct.operators.bootstrap import parted, shown, tidied, unfenced
from selfinstruct.records import Record


class Alpaca:
    """Shows whole tasks with their inputs and outputs; instruction, input and output come back together.

    The originals show seeds only; ``draft.pool_examples`` lets model-written tasks in.
    """

    stage = "alpaca"
    stages = ("alpaca",)
    asks = True
    reads_samples = True

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._recipe = setting.recipe.draft
        self.feeds_pool = setting.recipe.draft.pool_examples > 0
        self._strict = setting.recipe.behaviour == "strict"
        self._drawable: list[Record] | None = None

    def draw(self, pool: Pool, step: int, rng: Random) -> tuple[Record, ...]:
        if self._drawable is None:
            self._drawable = self._tasks(pool.seeds)
        drawn = rng.sample(self._drawable, min(self._recipe.seed_examples, len(self._drawable)))
        if self._recipe.pool_examples:
            whole = [draft for draft in pool.drafts[: pool.visible] if draft.output]
            drawn += rng.sample(whole, min(self._recipe.pool_examples, len(whole)))
            rng.shuffle(drawn)
        return tuple(drawn)

    def _tasks(self, seeds: Sequence[Record]) -> list[Record]:
        """One record a task, its first instance; only those that have an output to show."""
        tasks: dict[str, Record] = {}
        for seed in seeds:
            if seed.output:
                tasks.setdefault(seed.task, seed)
        if not tasks and self._recipe.seed_examples:
            raise UsageError("no seed has an output", hint="alpaca shows whole tasks: write the seeds' outputs")
        return list(tasks.values())

    def ask(self, parents: Sequence[Record], steer: Mapping[str, str], rng: Random) -> Request:
        examples = [
            {"instruction": shown(one.instruction), "input": one.input or "<noinput>", "output": one.output}
            for one in parents
        ]
        count = len(parents) + self._recipe.items + 1
        values = {"examples": examples, "count": count, "mark": self._mark(parents, rng), "vary": dict(steer)}
        # The originals also stop inside an output that has a list of twenty points.
        stop = (f"\n{count}. Instruction:",) if self._strict else (f"\n{count}", f"{count}.")
        request = self._setting.draft(self.stage, values, stop=stop)
        return request.model_copy(update={"samples": self._recipe.samples})

    def read(self, reply: Reply, parents: Sequence[Record], rng: Random) -> list[Read]:
        first, cut = len(parents) + 1, reply.finish != "stop"
        text = reply.text
        label = _LABEL.search(text) if self._strict else _BEGUN.match(text)
        if label is None or (self._strict and label["of"] != "Instruction"):
            text = f"{first}. Instruction:{text}"  # the prompt begins the first item's label
        reader = read_tasks if self._strict else read_tasks_compat
        found = reader(text, self._mark(parents, rng), first, cut=cut)
        origin = tuple(parent.task for parent in parents)
        items: list[Read] = []
        count = 0
        for one in found:
            if isinstance(one, Unreadable):
                items.append(one)
                continue
            count += 1
            if count > self._recipe.items:
                items.append(
                    Unreadable("too-many", f"more than {self._recipe.items} items in one reply", "\n".join(one))
                )
            else:
                instruction, given, output = one
                items.append(
                    Record(instruction=instruction, input=given, output=output, origin=self.stage, parents=origin)
                )
        return items

    def _mark(self, parents: Sequence[Record], rng: Random) -> str:
        """What separates items: chosen anew for each request, so that no content can collide with it."""
        if not self._strict:
            return "###"
        shown_text = "\n".join(f"{one.instruction}\n{one.input}\n{one.output}" for one in parents)
        while (mark := f"«{rng.getrandbits(32):08x}»") in shown_text:
            pass
        return mark


class AsDrafted:
    """The answerer for drafts that come with their output."""

    stages = ()

    def __init__(self, setting: Setting) -> None:
        pass

    async def answer(self, draft: Record, ask: Ask, rng: Random) -> list[Read]:
        return [draft]


_Task = tuple[str, str, str]
_NO_INPUT = re.compile(
    r"\W*(no[ _-]?input( (is )?(needed|required|necessary|given|provided))?|n/a|none|not applicable)\W*", re.IGNORECASE
)
"""Only as the whole input: "None of the above" is one, and so is "Na"."""

_BEGUN = re.compile(r"\s*+\d++\s*+\.\s*+Instruction:")
_LABEL = re.compile(
    r"^[ \t>#*\-]*+(?:(?P<number>\d{1,4})[ \t]*+[.)])?+[ \t*]*+(?P<of>Instruction|Input|Output)\**+[ \t]*+:\**+",
    re.MULTILINE,
)


def read_tasks(text: str, mark: str, first: int, *, cut: bool) -> list[_Task | Unreadable]:
    """The tasks of a reply, strictly: separated by lines that are the mark, however decorated, and by the numbered
    instruction that is due; labels only where a line begins. A wrong number, or none, loses nothing; of a reply that
    was ``cut`` the last item goes."""
    text = text.replace("\r\n", "\n")
    said, aside_below = parted(text)
    said = unfenced(tidied(said))
    digits = re.escape(re.sub(r"[\W_]", "", mark))
    marked = re.split(rf"^(?:[^\w\n]|_)*+{digits}(?:[^\w\n]|_)*+$", said, flags=re.MULTILINE)
    pieces = [item for piece in marked for item in _items(piece, alone=len(marked) == 1)]
    found: list[_Task | Unreadable] = []
    for at, piece in enumerate(pieces):
        if not _worth(piece):
            continue
        labels = _labels(piece)
        if cut and not aside_below and at == len(pieces) - 1:
            found.append(Unreadable("truncated", "the reply was cut off inside this item", piece.strip()))
        elif labels is None:
            found.append(Unreadable("unreadable", "no Instruction, Input and Output in this order", piece.strip()))
        else:
            asked, given, output = labels
            if aside := _worth(piece[: asked.start()]):
                found.append(Unreadable("aside", "stands before the item's first label", aside))
            instruction = " ".join(piece[asked.end() : (given or output).start()].split())
            material = piece[given.end() : output.start()].strip() if given else ""
            if instruction:
                given_text = "" if _NO_INPUT.fullmatch(material) else material
                found.append((instruction, given_text, tidied(piece[output.end() :].strip()).strip()))
            else:
                found.append(Unreadable("unreadable", "the instruction is empty", piece.strip()))
    if aside_below:
        found.append(Unreadable("aside", "stands behind the last item", aside_below))
    return found or [Unreadable("unreadable", "the reply is empty", text)]


def _worth(piece: str) -> str:
    """What is left of a piece without rules and fences."""
    return tidied(f"\n{piece.strip()}").strip()


def _items(piece: str, *, alone: bool) -> list[str]:
    """The items of what stands between two marks, each from its instruction on: the one with the next number begins
    an item (a gap of at most two is allowed), and where the reply has no mark at all (``alone``) any other does."""
    starts, number, answered = [0], None, False
    begun = False
    for label in _LABEL.finditer(piece):
        answered |= label["of"] == "Output"
        if label["of"] != "Instruction":
            continue
        own = int(label["number"]) if label["number"] else None
        due = own is not None and number is not None and number < own <= number + 3
        if begun and (due or (alone and (answered if own is None and number is None else own is not None))):
            starts.append(label.start())
        elif begun:
            continue
        begun, answered, number = True, False, own
    return [piece[start:end] for start, end in zip(starts, [*starts[1:], len(piece)], strict=True)]


def _labels(piece: str) -> tuple[re.Match[str], re.Match[str] | None, re.Match[str]] | None:
    """Where instruction, input and output begin: if possible at labels of one number, so that those of other numbers
    may stand in the text; else at whatever labels there are, even none for the input."""
    labels = list(_LABEL.finditer(piece))
    asked = next((label for label in labels if label["of"] == "Instruction"), None)
    if asked is None:
        return None
    after = [label for label in labels if label.start() > asked.start() and label["of"] != "Instruction"]
    same = [label for label in after if label["number"] == asked["number"]]
    for choice in (same, after):
        output = next((label for label in choice if label["of"] == "Output"), None)
        if output and choice[0]["of"] == "Input":
            return asked, choice[0], output
    if after and after[0]["of"] == "Output" and not any(label["of"] == "Input" for label in same):
        return asked, None, after[0]
    return None


def read_tasks_compat(text: str, mark: str, first: int, *, cut: bool) -> list[_Task | Unreadable]:
    """The tasks as the original code reads them: three hashes anywhere separate, and the item at position i must carry
    number ``first + i`` on all three labels."""
    pieces = text.split(mark)
    found: list[_Task | Unreadable] = []
    for at, piece in enumerate(pieces):
        number = first + at
        parts = re.split(rf"{number}\.\s+(Instruction|Input|Output):", piece)
        if cut and at == len(pieces) - 1:
            found.append(Unreadable("truncated", "the reply was cut off", piece.strip()))
        elif len(parts) != 7:
            if piece.strip():
                found.append(
                    Unreadable("unreadable", f"not one Instruction, Input and Output numbered {number}", piece)
                )
        else:
            given = parts[4].strip()
            found.append((parts[2].strip(), "" if given.casefold() == "<noinput>" else given, parts[6].strip()))
    return found or [Unreadable("unreadable", "the reply is empty", text)]
