"""What the scripted model writes: each writer reads what is asked for and writes it, now and then with a defect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from selfinstruct.engines import Finish, Frozen, Request
from selfinstruct.engines.grammar import LABELS, Toss, capital, content, instruction, pick, say, sentences, sized
from selfinstruct.records import Direction
from selfinstruct.words import words

Share = Annotated[float, Field(ge=0, le=1)]
Writer = Literal[
    "tasks", "yesno", "instances", "labels", "alpaca", "answer", "evolve", "equal", "answerable", "difficulty"
]

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
        of_items = writer in OF_ITEMS
        return tuple(Planted(at if of_items else None, f"{writer}.{defect}") for at, defect in left)


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
    "evolve": "evolve",
    "equal": "equal",
    "answerable": "answerable",
    "difficulty": "difficulty",
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


_MOST_ADDED, _MOST_ANSWERED = 250, 600
"""Words: what the most generous of our operators may add, and what an answer may have."""


def _long(toss: Toss) -> str:
    """More words than any answer is allowed."""
    text = ""
    while words(text) <= _MOST_ANSWERED + 20:
        text += sentences(8, toss) + " "
    return text.rstrip()


def _answer(job: Job) -> Written:
    defect = fate(job.shares.of_reply, job.toss())
    text = sentences(4, job.toss)
    if defect is None or defect == "truncated":
        return Written((job.lead + text,), cut=0 if defect else None)
    text = {"refusal": _REFUSAL, "empty": "", "punctuation": "..."}[defect]
    return Written((job.lead + text if text else "",), planted=((None, defect),))


_LABEL = re.compile(r"\S{1,30}(?: \S{1,30}){0,3}:[ \t]*")
_LABELLED = re.compile(r"^[A-Z][\w-]*(?: [\w-]+){0,3}:[ \t]*", re.MULTILINE)
_ANNOUNCED = re.compile(r"[\"“`]([^\"“”`\n]{1,40}:)[\"”`]")
_TAGGED = re.compile(r"^<(\w+)>\n(.*)\n</\1>\Z", re.MULTILINE | re.DOTALL)


def _shown(job: Job) -> tuple[str, str]:
    """The text that is to be evolved or judged, and the label for what comes of it; empty where there is none.

    No labels are agreed upon. The text is the last one shown: below the label that ends in the same word as the one
    that waits or is announced ("Given prompt:" and "Rewritten prompt:"), in tags, below any label, or a block of its
    own. What stands under a waiting label further up belongs to a worked example.
    """
    messages = job.request.messages
    text = (messages[-1].content if messages else job.read).rstrip()
    at = text.rfind("\n") + 1
    label = text[at:] if _LABEL.fullmatch(text, at) else ""
    since = 0
    if label:
        text = text[:at].rstrip()
        example = text.rfind(f"\n{label}")
        since = example + 1 + len(label) if example >= 0 else 0
    elif announced := _ANNOUNCED.search(text):
        label = announced[1]
    if label:
        word = re.escape(label.split()[-1])
        paired = re.compile(rf"^.{{0,60}}(?<!\w){word}[ \t]*$", re.MULTILINE).search(text, since)
        if paired:
            return text[paired.end() :].strip("\n"), label
    tagged = _TAGGED.search(text)
    return tagged[2] if tagged else _last_block(text, since), label


def _last_block(text: str, since: int) -> str:
    """Below the label that the worked examples end at, or else the last that has a line of its own, or shares one."""
    labels = list(_LABELLED.finditer(text, since))
    alone = [label for label in labels if text.startswith("\n", label.end())]
    if not labels:
        return text.rpartition("\n\n")[2]
    above = labels[0] if since else (alone or labels)[-1]
    return text[above.end() :].strip("\n")


_DIRECTIONS: dict[Direction, re.Pattern[str]] = {
    "answer": re.compile(r"answer:|response:|/quality"),
    "downward": re.compile(r"easier|simpler|downward"),
    "in-breadth": re.compile(r"breadth|created|(?<![a-z])new(?![a-z])"),
}


def _evolve(job: Job) -> Written:
    """The shown text, harder, easier, or left for another one: whichever the operator's name or the label says."""
    toss = job.toss
    flaw = fate(job.shares.of_reply, toss())
    parent, label = _shown(job)
    says = f"{job.request.purpose} {label}".casefold()
    signed: list[Direction] = [direction for direction, sign in _DIRECTIONS.items() if sign.search(says)]
    direction = signed[0] if signed else "in-depth"
    text = _evolved(parent, direction, toss)
    if flaw is None or flaw == "truncated":
        return Written((_continued(text, job, ()),), cut=0 if flaw else None)
    spoilt = _devolved(flaw, parent, text, direction, toss)
    if spoilt is None:
        return Written((_continued(text, job, ()),))
    # A text that does not arrive whole no longer has its defect; an empty one always does.
    return Written((_continued(spoilt, job, ()) if spoilt else "",), planted=((0 if spoilt else None, flaw),))


def _evolved(parent: str, direction: Direction, toss: Toss) -> str:
    count = words(parent)
    if direction == "in-breadth":
        return _new((count + 1) // 2 + count // 4, count + 3 * count // 4, toss)
    if direction == "downward":
        return _new((count + 1) // 2, count, toss)
    return _longer(parent, 10, 20, direction, toss)


def _new(low: int, high: int, toss: Toss) -> str:
    """An instruction of about that many words."""
    high = max(2, high)
    first = "stub" if high < 4 else "brief" if high < 15 else "instruction"
    return sized(first, "more", low, high, toss) or capital(say(first, toss))


def _longer(parent: str, low: int, high: int, direction: Direction, toss: Toss) -> str:
    """The text, then so many words more."""
    symbol = "sentence" if direction == "answer" else "more"
    more = sized(symbol, symbol, low, high, toss) or capital(say(symbol, toss))
    if not parent:
        return more
    if "\n" in parent:  # an input or a block of code
        return f"{parent}\n\n{more}"
    return f"{parent}{'.' if parent[-1].isascii() and parent[-1].isalnum() else ''} {more}"


_FRAMES_WORDS = ("#Given Prompt#", "#Rewritten Prompt#", "#Created Prompt#")
_SORRY = "I'm sorry, but I can't rewrite that."


def _devolved(defect: str, parent: str, text: str, direction: Direction, toss: Toss) -> str | None:
    """What comes of the shown text with its defect; None where it cannot have it."""
    count = words(parent)
    anew = direction in ("in-breadth", "downward")
    if defect == "empty":
        return ""
    if defect == "apology_prompt":
        return _SORRY
    if defect == "leak":
        return f"{text} ({pick(_FRAMES_WORDS, toss)})"
    if defect == "bloated":
        if anew:
            return sized("instruction", "more", 2 * count + 15, 2 * count + 45, toss) or None
        most = _MOST_ANSWERED if direction == "answer" else _MOST_ADDED
        return _longer(parent, most + 10, most + 50, direction, toss)
    if defect == "unchanged":
        return parent or None
    if defect == "shrunk":
        most = count // 5 if anew else count // 2
        less = first_words(parent, most)
        return less if 0 < words(less) <= most else None
    if defect == "drifted":
        if direction != "in-depth":
            return None
        return sized("instruction", "more", count + 10, count + 40, toss, content(parent)) or None
    if defect == "close":
        return _near(parent, toss) if direction == "in-breadth" and len(_TOKEN.findall(parent.lower())) > 4 else None
    return _near(_stock(count.bit_length(), int(toss() * 3)), toss) if anew and count >= 8 else None


@cache
def _stock(size: int, number: int) -> str:
    """One of three instructions that every lineage of that size meets: half as long to twice as long as its texts."""
    low = 1 << size - 1
    return _new(low, 2 * low - 1, Random(f"{size} {number}").random)


def _equal(job: Job) -> Written:
    return _verdict({None: "Not equal", "equal": "Equal"}, job)


def _answerable(job: Job) -> Written:
    return _verdict({None: "Yes", "unanswerable": "No"}, job)


def _difficulty(job: Job) -> Written:
    """A point for each eight words, up to ten."""
    score = min(10, 1 + words(_shown(job)[0]) // 8)
    return _verdict({None: f"{score}" if job.begun else f"Score: {score}"}, job)


def _verdict(said: dict[str | None, str], job: Job) -> Written:
    defect = fate(job.shares.of_reply, job.toss())
    text = job.lead + said.get(defect, "Perhaps.")
    return Written((text,), planted=((0, defect),) if defect else ())


_WRITE: dict[Writer, Callable[[Job], Written]] = {
    "tasks": _tasks,
    "yesno": _yesno,
    "instances": _instances,
    "labels": _labels,
    "alpaca": _alpaca,
    "answer": _answer,
    "evolve": _evolve,
    "equal": _equal,
    "answerable": _answerable,
    "difficulty": _difficulty,
}
