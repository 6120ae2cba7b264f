"""Classification or not, then instances: output-first for classification, input-first for the rest
(Self-Instruct, Wang et al. 2023, section 2.2, steps 2 and 3)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple

from selfinstruct.engines import Reply, Request
from selfinstruct.operators import Ask, Read, Setting, Unreadable, unread
from selfinstruct.operators.bootstrap import fenced, parted, tidied, unfenced
from selfinstruct.records import Record


class Instance(NamedTuple):
    input: str
    output: str


class Instances:
    """Asks whether a task is classification, then for inputs and outputs in the order that suits it."""

    stages = ("classify", "output-first", "input-first")

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._strict = setting.recipe.behaviour == "strict"
        self._most = setting.recipe.answer.max_instances
        self._attempts = setting.recipe.answer.attempts

    async def answer(self, draft: Record, ask: Ask, rng: Random) -> list[Read]:
        reply = await ask("classify", self._setting.answer("classify", {"instruction": draft.instruction}), 0)
        label = None
        if not reply.error:
            label = is_classification(reply) if self._strict else reply.text.strip() in ("Yes", "yes", "YES")
        stage = "output-first" if label else "input-first"
        request = self._request(stage, draft)
        found: list[Instance | Unreadable] = []
        for attempt in range(self._attempts):
            reply = await ask(stage, request, attempt)
            if reply.error:
                found = [unread(reply)]
                continue
            begun = request.prefill
            if self._strict and begun and reply.text.lstrip().startswith(begun):
                begun = ""  # the model has begun anew
            if begun[-1:].isalnum() and reply.text[:1].isalnum():
                begun += "\n"  # the engine or its template has trimmed the line end behind "Example 1"
            found = self._read(stage, begun + reply.text, cut=reply.finish != "stop")
            if any(isinstance(instance, Instance) for instance in found):
                break
        answered = {"classification": label, "system": self._setting.system, "reasoning": reply.reasoning}
        return [
            one if isinstance(one, Unreadable) else draft.model_copy(update=answered | one._asdict())
            for one in self._fewer(found, rng)
        ]

    def _request(self, stage: str, draft: Record) -> Request:
        values = {"instruction": draft.instruction, "max_instances": self._most}
        request = self._setting.with_system(self._setting.answer(stage, values), self._setting.system)
        sampling = request.sampling
        if stage == "input-first" or not self._strict:
            over = f"\nExample {self._most + 1}" if self._strict else f"Example {self._most + 1}"
            sampling = sampling.model_copy(update={"stop": (*sampling.stop, over)})
        return request.model_copy(update={"sampling": sampling})

    def _read(self, stage: str, text: str, *, cut: bool) -> list[Instance | Unreadable]:
        readers: dict[tuple[str, bool], Callable[..., list[Instance | Unreadable]]] = {
            ("output-first", True): read_labels,
            ("output-first", False): read_labels_compat,
            ("input-first", True): read_instances,
            ("input-first", False): read_instances_compat,
        }
        return readers[stage, self._strict](text, cut=cut)

    def _fewer(self, found: list[Instance | Unreadable], rng: Random) -> list[Instance | Unreadable]:
        """At most so many instances a task, chosen at random."""
        places = [at for at, one in enumerate(found) if isinstance(one, Instance)]
        chosen = set(rng.sample(places, self._most)) if len(places) > self._most else set(places)
        return [
            Unreadable("too-many", f"more than {self._most} instances", _text(one))
            if isinstance(one, Instance) and at not in chosen
            else one
            for at, one in enumerate(found)
        ]


def is_classification(reply: Reply) -> bool | None:
    """Yes, no, or None where the reply says neither. Log-probabilities decide where most of the mass is on the two."""
    odds = {"yes": 0.0, "no": 0.0}
    for token, log_probability in reply.first_token.items():
        word = re.sub(r"[\W_]", "", token).casefold()
        if word in odds:
            odds[word] += math.exp(log_probability)
    if sum(odds.values()) >= 0.5:
        return odds["yes"] > odds["no"]
    words: list[str] = re.findall(r"[^\W_]+", reply.text.casefold())
    if words and words[0] in ("yes", "no"):
        return words[0] == "yes"
    said = {"yes", "no"}.intersection(words) if len(words) <= 12 else set()
    return "yes" in said if len(said) == 1 else None


# Strict readers: a marker counts only where a line begins and outside code, and an example only with the number that
# is due. Chat models decorate all of them: "### Example 1", "- **Input:** …", "1. Class label: …".

_EXAMPLE = re.compile(
    r"^[#*>\- \t]*+Example[ \t]++(?P<number>\d{1,4})(?![.:]?\d)[* \t]*+(?P<end>[.:)\u2013\u2014(-])?+(?P<title>.*+)$",
    re.MULTILINE,
)
_BEFORE = r"^[ \t>#*\-]*+(?:\d{1,3}[.)])?+[ \t*]*+"
_AFTER = r"(?:[ \t]++(?P<number>\d{1,4}))?+\**+[ \t]*+:\**+[ \t]*+"
_FIELD = re.compile(rf"{_BEFORE}(?P<of>Input|Output){_AFTER}", re.MULTILINE)
_LABEL = re.compile(rf"{_BEFORE}Class label{_AFTER}", re.MULTILINE | re.IGNORECASE)


def read_instances(text: str, *, cut: bool) -> list[Instance | Unreadable]:
    """The instances of an input-first reply. One that conflicts with another (same input, other output) goes with it,
    and only that group; when the reply was ``cut`` the last one goes."""
    whole, text, aside = _reply(text)
    found: list[Instance | Unreadable] = []
    blocks = list(_examples(text))
    for title, block in blocks:
        found += _fields(block, title, series=blocks == [("", text)])
    return _sound(found, whole, cut, aside)


def _fields(block: str, title: str, *, series: bool) -> list[Instance | Unreadable]:
    """The instances of one example: what stands behind its first Output: is output, unless a number says that it is
    another. In a ``series`` no line says Example, and each pair of Input: and Output: is one."""
    block = tidied(unfenced(block))
    marks = _outside(_FIELD, block)
    first = next((mark for mark in marks if mark["of"] == "Output"), None)
    if first is None:
        return [Unreadable("no-output", "an example without an Output: line", f"{title}\n{block}".strip())]
    series = series and marks[0]["of"] == "Input"
    found: list[Instance | Unreadable] = []
    given, start, output, due = "", 0, None, 2
    for mark in marks:
        again = mark["number"] is not None and int(mark["number"]) == due
        if output is None:
            if mark["of"] == "Output":
                given, output = _bare(block[start : mark.start()]) or title, mark
        elif again or (series and mark["of"] == "Input"):
            found.append(Instance(given, _value(output, block[output.end() : mark.start()])))
            due += again and mark["of"] == "Output"
            if mark["of"] == "Output":
                output = mark
            else:
                start, output, due = mark.start(), None, due + again
    if output is None:
        found.append(Unreadable("no-output", "an input without an Output: line", block[start:].strip()))
    else:
        found.append(Instance(given, _value(output, block[output.end() :])))
    return found


def read_labels(text: str, *, cut: bool) -> list[Instance | Unreadable]:
    """The instances of an output-first reply: a ``Class label:`` line, then the input that it fits."""
    whole, text, aside = _reply(text)
    marks = _outside(_LABEL, text)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    found: list[Instance | Unreadable] = []
    if marks and (preamble := _unheaded(text[: marks[0].start()]).strip()):
        found.append(Unreadable("aside", "stands before the first label", preamble))
    for mark, end in zip(marks, ends, strict=False):  # without a mark there is one end all the same
        piece = text[mark.end() : end]
        label, _, given = (_unheaded(piece) if end < len(text) else piece).partition("\n")
        label = _value(mark, label)
        bold = re.fullmatch(r"\*\*(.+)\*\*", label)
        found.append(Instance(_bare(given), bold[1].strip() if bold else label))
    return _sound(found, whole, cut, aside)


def _reply(text: str) -> tuple[str, str, str]:
    """The reply, what is to be read of it, and what it says to its reader at the end."""
    text = text.replace("\r\n", "\n")
    said, aside = parted(text)
    return text, tidied(unfenced(tidied(said))), aside


def _outside(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Where the pattern is found, except in code."""
    marks, code = [], fenced(text)
    for mark in pattern.finditer(text):
        while code and code[0][1] <= mark.start():
            code.pop(0)
        if not code or mark.start() < code[0][0]:
            marks.append(mark)
    return marks


def _value(mark: re.Match[str], text: str) -> str:
    """What a label says; bold type that was opened in front of the label ends with it."""
    text = tidied(text.strip())
    line, *rest = text.split("\n", 1)
    if mark[0].count("**") % 2 and line.count("**") % 2 and line.rstrip().endswith("**"):
        line = line.rstrip().removesuffix("**")
    return "\n".join([line, *rest]).strip()


def _bare(given: str) -> str:
    """An input without the label ``Input:`` in front; fields of other names stay as they are."""
    given = tidied(given.strip()).strip()
    label = _FIELD.match(given)
    return _value(label, given[label.end() :]) if label and label["of"] == "Input" else given


def _unheaded(text: str) -> str:
    """The text without a line ``Example 2`` at its end."""
    head, _, last = text.rstrip().rpartition("\n")
    return head if _EXAMPLE.fullmatch(last) else text


def _examples(text: str) -> Iterable[tuple[str, str]]:
    """The titles and texts of the examples."""
    start, due, title = 0, 1, ""
    marks = _outside(_EXAMPLE, text)
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=False):  # without a mark there is one end all the same
        number, block = int(mark["number"]), text[start : mark.start()]
        # A reply may begin inside the first example, which the prompt has opened.
        if number != due and (due > 1 or (number != 2 and block.strip())):
            continue
        named = mark["title"].strip(" \t*:#_")
        if named and not (mark["end"] and _FIELD.search(text[mark.start("title") : end])):
            continue  # a sentence that begins like an example
        if block.strip():
            yield title, block
        start, due, title = mark.end(), number + 1, named.removesuffix(")") if mark["end"] == "(" else named
        if _FIELD.match(named):  # "Example 1: Input: …"
            start, title = mark.start("title"), ""
    if text[start:].strip():
        yield title, text[start:]


def _sound(found: list[Instance | Unreadable], text: str, cut: bool, aside: str) -> list[Instance | Unreadable]:
    if not found:
        return [Unreadable("unreadable", "no instance can be read", text)]
    if aside:
        found.append(Unreadable("aside", "stands behind the last instance", aside))
    elif cut:
        found[-1] = Unreadable("truncated", "the reply was cut off inside this instance", _text(found[-1]))
    conflicting = _conflicting(found)
    return [
        Unreadable("conflict", "the same input has different outputs", _text(one))
        if isinstance(one, Instance) and one in conflicting
        else one
        for one in _once(found)
    ]


def _conflicting(found: Iterable[Instance | Unreadable]) -> set[Instance]:
    """Instances whose input, if there is one, has another output elsewhere."""
    outputs: dict[str, set[str]] = {}
    sound = [one for one in found if isinstance(one, Instance) and one.input and one.output]
    for one in sound:
        outputs.setdefault(one.input, set()).add(one.output)
    return {one for one in sound if len(outputs[one.input]) > 1}


def _once(found: Iterable[Instance | Unreadable]) -> Iterable[Instance | Unreadable]:
    seen: set[Instance] = set()
    for one in found:
        if isinstance(one, Instance) and one in seen:
            yield Unreadable("duplicate", "the same instance again", _text(one))
        else:
            if isinstance(one, Instance):
                seen.add(one)
            yield one


def _text(one: Instance | Unreadable) -> str:
    return one.text if isinstance(one, Unreadable) else f"{one.input}\n{one.output}".strip()


# Compat readers: the original code's decisions, defects included.


def read_instances_compat(text: str, *, cut: bool) -> list[Instance | Unreadable]:
    """The bare word "Example" anywhere splits; only the first output of a part counts; any conflict drops the task."""
    if re.search(r"Example\s?\d*\.?", text):
        parts = [part.strip() for part in re.split(r"Example\s?\d*\.?", text) if part.strip()]
    elif re.search(r"Output\s*+\d*+\s*+:", text):
        parts = [text.strip()]
    else:
        parts = []
    found = []
    for part in parts:
        pieces = re.split(r"Output\s*+\d*+\s*+:", part)
        given, output = (pieces[0], pieces[1]) if len(pieces) > 1 else ("", part)
        output = re.split(r"Input\s*+\d*+\s*+:", output)[0].strip()
        found.append(Instance(re.sub(r"^Input\s*+\d*+\s*+:", "", given.strip()).strip(), output))
    return _compat(found, text, cut)


def read_labels_compat(text: str, *, cut: bool) -> list[Instance | Unreadable]:
    found = []
    for part in text.split("Class label:")[1:]:
        label, _, given = part.strip().partition("\n")
        found.append(Instance(given.strip(), label.strip()))
    return _compat(found, text, cut)


def _compat(found: list[Instance], text: str, cut: bool) -> list[Instance | Unreadable]:
    kept: list[Instance | Unreadable] = []
    if cut and found:
        kept.append(Unreadable("truncated", "the reply was cut off", _text(found.pop())))
    sound = []
    for one in found:
        if one.input == one.output or not one.output:
            kept.append(Unreadable("empty", "the output is empty or the input", _text(one)))
        elif one.input.strip().endswith(":") or one.output.strip().endswith(":"):
            kept.append(Unreadable("colon", "input or output ends in a colon", _text(one)))
        else:
            sound.append(one)
    if _conflicting(sound):
        kept += [Unreadable("conflict", "two instances of the task conflict", _text(one)) for one in sound]
    else:
        kept += _once(sound)
    return kept or [Unreadable("unreadable", "no instance can be read", text)]
