"""What the scripted model writes: each writer reads what is asked for and writes it, now and then with a defect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from selfinstruct.engines import Finish, Frozen, Request
from selfinstruct.engines.grammar import LABELS, Toss, capital, instruction, pick, say, sentences

Share = Annotated[float, Field(ge=0, le=1)]
Writer = Literal["tasks", "yesno", "instances", "labels", "alpaca", "answer"]

OF_ITEMS = ("tasks", "instances", "labels", "alpaca")
"""Writers of more than one item."""


class Writers(Frozen):
    """How much is written."""

    tasks: int = Field(8, ge=1, le=200)
    """Items of a list where neither the stop strings nor the prompt say which is the last."""
    alpaca: int = Field(16, ge=1, le=200)
    instances: int = Field(3, ge=1, le=50)
    """At the most, as with labels."""
    labels: int = Field(4, ge=1, le=50)
    yes: Share = 0.35
    without_input: Share = 0.4
    restart: Share = 0
    """Share of the chat replies whose list begins again at 1."""


class Shares(NamedTuple):
    """How often a writer plants each defect: those counted by item, and those counted by reply."""

    of_item: dict[str, float]
    of_reply: dict[str, float]


def fate(shares: dict[str, float], at: float) -> str | None:
    """The defect, if any, on which a number between 0 and 1 falls."""
    bound = 0.0
    for defect, share in shares.items():
        bound += share
        if at < bound:
            return defect
    return None


@dataclass(frozen=True, slots=True)
class Planted:
    """A defect that stands in a reply."""

    item: int | None
    """Which item of the reply, from 0; None means the reply as a whole."""
    defect: str
    """As in the script: ``tasks.near_duplicate``."""


Places = Sequence[tuple[int | None, str]]
"""Defects and the items that they are in; None is the reply as a whole."""


class Written(NamedTuple):
    """What a writer wrote, before stop strings and max_tokens."""

    items: Sequence[str]
    join: str = "\n"
    planted: Places = ()
    cut: int | None = None
    """The item in which the text breaks off, planned."""

    def ended(self, stops: Sequence[str], budget: int) -> tuple[str, Finish, int, bool]:
        """The text as a server lets it arrive, how it ended, its tokens, and whether it is all that was written."""
        finish: Finish = "stop"
        whole = self.cut is None
        text = self.join.join(self.items[: self.cut])
        if self.cut is not None:
            last = self.items[self.cut]
            text += (self.join if text else "") + first_words(last, 1 + len(last.split()) // 2)
            finish = "length"
        count = len(text.split())
        if count > budget:
            text, finish, whole, count = first_words(text, budget), "length", False, budget
        at = min((found for stop in stops if stop and (found := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            text, finish, whole = text[:at], "stop", False
            count = len(text.split())
        return text, finish, count, whole

    def standing(self, writer: Writer, text: str, finish: Finish) -> tuple[Planted, ...]:
        """What was planted and stands whole in the text that arrived; a cut item is only truncated."""
        whole, last, start = set(), 0, 0
        for at, item in enumerate(self.items):
            if start < len(text):
                last = at
                if start + len(item) <= len(text):
                    whole.add(at)
            start += len(item) + len(self.join)
        if finish == "length":
            whole.discard(last)
        left = [(at, defect) for at, defect in self.planted if at is None or at in whole]
        if sum(defect == "conflict" for _, defect in left) == 1:  # its twin did not arrive
            left = [(at, defect) for at, defect in left if defect != "conflict"]
        if finish == "length":
            left.append((last if text and writer in OF_ITEMS else None, "truncated"))
        return tuple(Planted(at, f"{writer}.{defect}") for at, defect in left)


def first_words(text: str, count: int) -> str:
    rest = text.split(None, count)[count:]
    return text[: len(text) - len(rest[0])].rstrip() if rest else text


@dataclass(frozen=True, slots=True)
class Job:
    """What a writer has to go by."""

    size: Writers
    shares: Shares
    request: Request
    read: str
    """All that the model reads."""
    toss: Toss

    @property
    def begun(self) -> str:
        """The text that the reply continues; empty in chat."""
        return (self.request.prompt or "") + self.request.prefill

    @property
    def lead(self) -> str:
        """What stands between the text begun and the first word."""
        begun = self.begun
        return " " if begun and not begun[-1].isspace() else ""


def write(writer: Writer, job: Job) -> Written:
    return _WRITE[writer](job)


def writer_of(purpose: str) -> Writer:
    return next((_WRITER_OF[part] for part in purpose.split("/") if part in _WRITER_OF), "answer")


_WRITER_OF: dict[str, Writer] = {
    "bootstrap": "tasks",
    "classify": "yesno",
    "input-first": "instances",
    "output-first": "labels",
    "alpaca": "alpaca",
}

_NUMBERED = re.compile(r"^[ \t]*(\d{1,4}) ?[.):][ \t]+(\S.*)$", re.MULTILINE)
_OPEN_TASK = re.compile(r"[ \t]*(\d{1,4}) ?[.):][ \t]*")
_RANGE = re.compile(r"\b(\d{1,4})(?: to | through |-)(\d{1,4})\b")


def _tasks(job: Job) -> Written:
    """A numbered list, from the number that is due to the one at which the stop strings end it."""
    toss, begun = job.toss, job.begun
    open_item = _OPEN_TASK.fullmatch(begun, begun.rfind("\n") + 1)
    if open_item:
        first = int(open_item[1])
    else:
        first = 1 + max((int(number) for number, _ in _NUMBERED.findall(job.read)[-1:]), default=0)
        if not begun and toss() < job.size.restart:
            first = 1
    over = _stop_number(job)
    flaw = fate(job.shares.of_reply, toss())
    items: list[str] = []
    planted: list[tuple[int | None, str]] = []
    for at, number in enumerate(_numbers(job, first, over, job.size.tasks)):
        defect = None if number == over else fate(job.shares.of_item, toss())
        text = instruction(toss)
        glued = open_item and not at
        if defect == "misnumbered":
            spoilt = not glued
            number = _far_from(number)
        else:
            repeated = defect and _spoilt(defect, text, _shown_tasks(job.read), toss)
            spoilt, text = repeated is not None, repeated or text
        if defect and spoilt:
            planted.append((at, defect))
        items.append(text if glued else f"{number}. {text}")
    items[0] = (job.lead if open_item else "\n" if job.lead else "") + items[0]
    return Written(items, "\n", planted, _cut(items, toss) if flaw == "truncated" else None)


def _stop_number(job: Job) -> int:
    """The number that a stop string waits for; 0 where none does."""
    stops = job.request.sampling.stop
    return max((int(found[1]) for stop in stops if (found := re.fullmatch(r"\s*(\d{1,4})\s?\.?", stop))), default=0)


def _numbers(job: Job, first: int, over: int, size: int) -> range:
    """Up to the number that a stop string waits for, or to the end of the range that the prompt names, or ``size``."""
    if first <= over < first + 200:
        return range(first, over + 1)
    if not job.begun:
        for start, end in _RANGE.findall(job.read):
            if int(start) == first <= int(end) < first + 200:
                return range(first, int(end) + 1)
    return range(first, first + size)


def _far_from(number: int) -> int:
    """A number that no tolerance takes for the one that is due."""
    return number - 5 if number > 5 else number + 40


def _cut(items: Sequence[str], toss: Toss) -> int:
    """Some item but the last, if there are several."""
    return int(toss() * max(1, len(items) - 1))


def _shown_tasks(read: str) -> list[str]:
    """The tasks of the last numbered list in the prompt."""
    shown: list[str] = []
    due: int | None = None
    for number, text in reversed(_NUMBERED.findall(read)):
        if due is not None and int(number) != due:
            break
        due = int(number) - 1
        shown.append(text)
    return shown


def _spoilt(defect: str, text: str, shown: Iterable[str], toss: Toss) -> str | None:
    """The instruction with its defect; None where the prompt shows nothing that could be repeated."""
    if defect == "too_short":
        return say("stub", toss)
    if defect == "blacklisted":
        return capital(say("unwritable", toss))
    if defect == "punctuation_first":
        return pick(("... ", "- ", "& ", "/ "), toss) + text
    fit = [task for task in shown if _fits_for_repetition(task)]
    if not fit:
        return None
    task = pick(fit, toss)
    return task if defect == "exact_duplicate" else _near(task, toss)


_TOKEN = re.compile(r"[a-z0-9]+")
_OFFENDS = re.compile(
    r"\b(?:images?|graphs?|pictures?|photos?|files?|maps?|draw|sketch|paint|plot|go to|video|audio|music|flowchart|"
    r"diagram)\b|^write a program",
    re.IGNORECASE,
)


def _fits_for_repetition(task: str) -> bool:
    """Repeated, it offends against novelty and nothing else."""
    return (
        4 <= len(task.split()) <= 100
        and len(_TOKEN.findall(task.lower())) >= 4
        and re.match("[A-Za-z]", task) is not None
        and not _OFFENDS.search(task)
    )


def _near(task: str, toss: Toss) -> str:
    """The task with one word more or another last word: of four words or more, three quarters stay in order."""
    body = task.rstrip(".?!")
    end = task[len(body) :]
    edit = int(toss() * 3)
    if edit == 0:
        lower = body[:1].lower() + body[1:] if body[1:2].islower() else body
        return f"Please {lower}{end}"
    if edit == 1:
        return f"{body} today{end}"
    head, _, word = body.rpartition(" ")
    # A hyphenated word is several tokens, and one without letters none: then a word is added instead.
    return f"{head} {say('noun', toss)}{end}" if _TOKEN.fullmatch(word.lower()) else f"{body} again{end}"


def _yesno(job: Job) -> Written:
    word = "Yes" if job.toss() < job.size.yes else "No"
    if fate(job.shares.of_reply, job.toss()):
        return Written((job.lead + "It depends",), planted=((None, "unreadable"),))
    return Written((job.lead + word,))


_EXAMPLE = re.compile(r"Example (\d{1,3})[.:]?(?:\s*\nInput:)?\s*\Z")


def _instances(job: Job) -> Written:
    """``Example k`` / ``Input:`` / ``Output:`` blocks, or a single ``Output:``."""
    toss, begun = job.toss, job.begun.rstrip()[-80:]
    flaw = fate(job.shares.of_reply, toss())
    bare = toss() < job.size.without_input
    count = 1 + int(toss() * job.size.instances)
    opened = _EXAMPLE.search(begun)
    at_output = begun.endswith("\nOutput:") or begun == "Output:"
    if flaw == "no_marker" and not at_output:
        return _unmarked(3, job)
    if at_output:
        bare = True
    elif opened or begun.endswith("\nInput:") or begun == "Input:" or flaw == "conflict":
        bare = False
    if bare:
        count = 1
    elif flaw == "conflict":
        count = max(2, count)
    pairs = [(sentences(2, toss), sentences(2, toss)) for _ in range(count)]
    planted: list[tuple[int | None, str]] = []
    if flaw == "conflict" and not bare:
        pairs[-1] = (pairs[0][0], pairs[-1][1])
        planted = [(0, "conflict"), (count - 1, "conflict")]
    else:
        for at, (given, output) in enumerate(pairs):
            defect = fate(job.shares.of_item, toss())
            if defect == "empty_output":
                pairs[at] = given, ""
            elif defect == "ends_in_colon":
                pairs[at] = given, output.rstrip(".") + ":"
            elif defect == "same_as_input" and not bare:
                pairs[at] = given, given
            else:
                continue
            planted.append((at, defect))
    first = int(opened[1]) if opened else 1
    items = [
        f"Output: {output}" if bare else f"Example {first + at}\nInput: {given}\nOutput: {output}"
        for at, (given, output) in enumerate(pairs)
    ]
    items[0] = _continued(items[0], job, (f"Example {first}\nInput:", f"Example {first}", "Input:", "Output:"))
    return Written(items, "\n", planted, count - 1 if flaw == "truncated" else None)


def _unmarked(most: int, job: Job) -> Written:
    """Sentences where fields were asked for."""
    return Written((_continued(sentences(most, job.toss), job, ()),), planted=((None, "no_marker"),))


def _continued(item: str, job: Job, heads: Iterable[str]) -> str:
    """The item without the head that the prompt has already begun."""
    begun = job.begun
    for head in heads:
        at = item.find(head)
        if at >= 0 and begun.rstrip().endswith(head):
            rest = item[at + len(head) :]
            return rest.lstrip() if begun[-1:].isspace() else rest
    return ("\n" if job.lead else "") + item


def _labels(job: Job) -> Written:
    """``Class label:`` blocks, the label first."""
    toss = job.toss
    flaw = fate(job.shares.of_reply, toss())
    labels = pick(LABELS, toss)
    name = pick(("Input", "Text", "Sentence", "Message", "Review"), toss)
    count = 1 + int(toss() * job.size.labels)
    if flaw == "no_marker" and not job.begun.rstrip().endswith("Class label:"):
        return _unmarked(2, job)
    if flaw == "conflict":
        count = max(2, count)
    texts = [f"{name}: {sentences(2, toss)}" for _ in range(count)]
    planted: list[tuple[int | None, str]] = []
    if flaw == "conflict":
        texts[1] = texts[0]
        planted = [(0, "conflict"), (1, "conflict")]
    else:
        for at in range(count):
            if fate(job.shares.of_item, toss()):
                texts[at] = labels[at % len(labels)]
                planted.append((at, "same_as_input"))
    items = [f"Class label: {labels[at % len(labels)]}\n{text}" for at, text in enumerate(texts)]
    items[0] = _continued(items[0], job, ("Class label:",))
    return Written(items, "\n", planted, count - 1 if flaw == "truncated" else None)


_FIELD = re.compile(r"^(\d{1,4})\. ?(Instruction|Input|Output):", re.MULTILINE)
_OPEN_FIELD = re.compile(r"(\d{1,4})\.(?: ?Instruction:)?[ \t]*")
_MARK = re.compile(r"^(«[^»\n]{1,40}»|#{3,}|-{3,}|={3,})[ \t]*$", re.MULTILINE)
_SHOWN = re.compile(r"^\d{1,4}\. ?Instruction:[ \t]*(\S.*)\n\d{1,4}\. ?Input:", re.MULTILINE)
_REFUSAL = "I'm sorry, but I can't help with that."


def _alpaca(job: Job) -> Written:
    """Whole tasks in three numbered fields, between the marks that the prompt uses."""
    toss, begun = job.toss, job.begun
    marks = _MARK.findall(job.read)
    between = f"\n{marks[-1] if marks else '###'}\n"
    open_item = _OPEN_FIELD.fullmatch(begun, begun.rfind("\n") + 1)
    if open_item:
        first = int(open_item[1])
    else:
        first = 1 + max((int(number) for number, _ in _FIELD.findall(job.read)), default=0)
    over = _stop_number(job)
    flaw = fate(job.shares.of_reply, toss())
    items: list[str] = []
    planted: list[tuple[int | None, str]] = []
    for at, number in enumerate(_numbers(job, first, over, job.size.alpaca)):
        defect = None if number == over else fate(job.shares.of_item, toss())
        text = instruction(toss)
        given = "<noinput>" if toss() < job.size.without_input else sentences(2, toss)
        output: str | None = sentences(3, toss)
        spoilt = True
        if defect == "misnumbered":
            spoilt = not (open_item and not at)
            number = _far_from(number) if spoilt else number
        elif defect == "missing_field":
            output = None
        elif defect == "empty_output":
            output = ""
        elif defect == "same_as_input":
            output = given = sentences(1, toss)
        elif defect == "refusal":
            output = _REFUSAL
        elif defect == "too_long":
            output = _long(toss)
        elif defect:
            repeated = _spoilt(defect, text, _SHOWN.findall(job.read), toss)
            spoilt, text = repeated is not None, repeated or text
        if defect and spoilt:
            planted.append((at, defect))
        item = f"{number}. Instruction: {text}\n{number}. Input:\n{given}"
        items.append(item if output is None else f"{item}\n{number}. Output:\n{output}")
    if begun:
        items[0] = _continued(items[0], job, (f"{first}. Instruction:", f"{first}."))
    else:
        items[0] = between.lstrip() + items[0]
    return Written(items, between, planted, _cut(items, toss) if flaw == "truncated" else None)


def _long(toss: Toss) -> str:
    """More words than any answer is allowed."""
    words = ""
    while len(words.split()) <= 620:
        words += sentences(8, toss) + " "
    return words.rstrip()


def _answer(job: Job) -> Written:
    defect = fate(job.shares.of_reply, job.toss())
    text = sentences(4, job.toss)
    if defect is None or defect == "truncated":
        return Written((job.lead + text,), cut=0 if defect else None)
    text = {"refusal": _REFUSAL, "empty": "", "punctuation": "..."}[defect]
    return Written((job.lead + text if text else "",), planted=((None, defect),))


_WRITE: dict[Writer, Callable[[Job], Written]] = {
    "tasks": _tasks,
    "yesno": _yesno,
    "instances": _instances,
    "labels": _labels,
    "alpaca": _alpaca,
    "answer": _answer,
}
