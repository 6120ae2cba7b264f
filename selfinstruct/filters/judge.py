"""The rules that ask a model about a draft: does it say more than its parent, can it be answered, how hard is it?

A verdict is read where the prompt wants it, in a line of its own at the end, and else where models put it all the same.
A reply that holds none, or was cut off before one, is unread, and never a reason against a draft.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from selfinstruct.engines import Reply, Request
from selfinstruct.filters import Verdict
from selfinstruct.records import Record

if TYPE_CHECKING:
    from selfinstruct.operators import Setting
    from selfinstruct.recipe import Recipe


class Equal:
    """No information gain: the judge finds the draft equal to its parent in what it requires, and in how deeply and how
    widely it asks (Evol-Instruct, Xu et al. 2024, section 3.2, case 1). A rewritten answer is not compared."""

    stage = "judge/equal"
    measures = False

    def __init__(self, recipe: Recipe) -> None:
        pass

    def ask(self, record: Record, setting: Setting) -> Request | None:
        how = record.evolution
        if how is None or how.direction in (None, "answer"):
            return None
        return setting.judge(self.stage, {"before": how.before, "after": record.instruction})

    def read(self, record: Record, reply: Reply) -> Verdict:
        said = _EQUAL.read(reply)
        if said is None:
            return Verdict(unread=_unread(reply, "neither equal nor not equal"))
        return Verdict("no information gain: the judge finds it equal to its parent" if said else None)


class Answerable:
    """Nobody can answer it as it stands: what grows round after round may drift there."""

    stage = "judge/answerable"
    measures = False

    def __init__(self, recipe: Recipe) -> None:
        pass

    def ask(self, record: Record, setting: Setting) -> Request | None:
        return setting.judge(self.stage, {"instruction": _whole(record)})

    def read(self, record: Record, reply: Reply) -> Verdict:
        said = _ANSWERABLE.read(reply)
        if said is None:
            return Verdict(unread=_unread(reply, "neither yes nor no"))
        return Verdict(None if said else "the judge finds that it cannot be answered as it stands")


class Difficulty:
    """Too easy or too hard by the judge's score, from 1 to 10. Rows of round 0 are scored too."""

    stage = "judge/difficulty"
    measures = True

    def __init__(self, recipe: Recipe) -> None:
        self._min, self._max = recipe.difficulty.min, recipe.difficulty.max

    def ask(self, record: Record, setting: Setting) -> Request | None:
        return setting.judge(self.stage, {"instruction": _whole(record)})

    def read(self, record: Record, reply: Reply) -> Verdict:
        score = _score(reply)
        if score is None:
            return Verdict(unread=_unread(reply, "no score"))
        if not 1 <= score <= 10:
            return Verdict(unread=f"the score is {score:g}, not from 1 to 10")
        scores = {"difficulty": score}
        if score < self._min:
            return Verdict(f"difficulty {score:g}, less than {self._min:g}", scores)
        return Verdict(f"difficulty {score:g}, more than {self._max:g}" if score > self._max else None, scores)


def _whole(record: Record) -> str:
    """Instruction and input, as one text."""
    return f"{record.instruction}\n\n{record.input}" if record.input.strip() else record.instruction


def _unread(reply: Reply, missing: str) -> str:
    if reply.finish != "stop":
        return f"the verdict was cut off ({reply.finish})"
    return f"{missing} in it: {reply.text.strip()[-60:]!r}" if reply.text.strip() else "the reply is empty"


# Yes or no.


_MARKUP = re.compile(r"<[^<>\n]*>|[*_`~#>|\"\u201c\u201d\u201e\u00ab\u00bb)\[\]{}$\\]")
_PLAIN = str.maketrans({"\u2019": "'", "\u2013": "-", "\u2014": "-", "\u2212": "-", "(": " - "})


def _lines(text: str) -> list[str]:
    """The lines that say something, without case and markup."""
    plain = _MARKUP.sub(" ", text.translate(_PLAIN)).casefold()
    return [" ".join(line.split()) for line in plain.splitlines() if line.strip()]


class _Words(NamedTuple):
    """The words for a verdict, as patterns with a group ``yes``."""

    begins: re.Pattern[str]
    """A line that is a verdict, after a label perhaps and before a reason."""
    ends: re.Pattern[str]
    """A line that comes to one."""
    anywhere: re.Pattern[str]
    """Words that stand for nothing else."""

    def read(self, reply: Reply) -> bool | None:
        """What the last line comes to; else the last line that is a verdict; else, if the reply is whole, the last
        words that stand for one."""
        lines, whole = _lines(reply.text), reply.finish == "stop"
        found = [self.begins.match(line) for line in lines]
        if whole:
            found += [self.ends.search(line) for line in lines[-1:]]
        verdicts = [one for one in found if one]
        if not verdicts and whole:
            verdicts = list(self.anywhere.finditer(" ".join(lines)))
        return verdicts[-1]["yes"] is not None if verdicts else None


def _words(yes: str, no: str, anywhere_yes: str, anywhere_no: str) -> _Words:
    verdict = rf"(?<!\w)(?:{no}|(?P<yes>{yes}))"
    return _Words(
        re.compile(rf"(?:[-.\d\u2022]+ )?(?:[^:]{{0,60}}: ?)?{verdict}(?: ?[-.,;:!](?!\w).*)?\Z"),
        re.compile(rf"{verdict}[ .!]*\Z"),
        re.compile(rf"(?<!\w)(?:{anywhere_no}|(?P<yes>{anywhere_yes}))(?!\w)"),
    )


_NOT = r"(?:not|never|hardly|cannot|\w+n't)(?:[- ][\w']+){0,2}?[- ]"
_SAME = r"(?:equal|equivalent|identical|(?:the )?same)"
_UNEQUAL = rf"{_NOT}equal|notequal|unequal|inequal|non-?equal"
_EQUAL = _words(rf"{_SAME}|(?:not|\w+n't) different", rf"{_UNEQUAL}|{_NOT}{_SAME}|different", r"(?!)", _UNEQUAL)
_ANSWERED = r"(?:answerable|(?:can|could) be answered)"
_UNANSWERED = rf"unanswerable|{_NOT}(?:answerable|be answered)"
_ANSWERABLE = _words(rf"yes|{_ANSWERED}", rf"no|{_UNANSWERED}", _ANSWERED, _UNANSWERED)


# Scores.


_RATING = r"(?:scor|rat(?:e|ing)|difficult|level|grade|verdict|answer|result|point)"
_SCALE = re.compile(
    r"(?<![\w.])1 ?(?:to|through|and|-) ?10(?![\w%]|[.,]\d)|(?:/|\bout of|\bof) ?(?:a possible )?10(?![\w%]|[.,]\d)"
)
_NUMBER = r"(?P<score>(?:(?<!\S)-)?\d+(?:[.,]\d+)?)(?![\w%]|[.,]\d)"
_SCORE_LINE = re.compile(rf"(?:[^\d:=]{{0,60}}{_RATING}[^\d:=]{{0,60}}(?:[:=]|- )? ?)?{_NUMBER}(?: points?)?[ .!]*\Z")
_RATED = re.compile(rf"{_RATING}[^\d\n]{{0,40}}?{_NUMBER}")
_ALONE = re.compile(rf"(?<![\w.,]){_NUMBER}")


def _score(reply: Reply) -> float | None:
    """The score of the last line that is one; else, if the reply is whole, of the last words that rate, or the only
    number there is."""
    whole = reply.finish == "stop"
    text = reply.text if whole else reply.text.rstrip("0123456789.,")  # of a number cut off, who knows the rest
    lines = [_SCALE.sub(" ", line) for line in _lines(text)]
    scores = [one for one in map(_SCORE_LINE.match, lines) if one]
    if not scores and whole:
        scores = list(_RATED.finditer("\n".join(lines)))
    if not scores and whole:
        numbers = list(_ALONE.finditer("\n".join(lines)))
        scores = numbers if len(numbers) == 1 else []
    return float(scores[-1]["score"].replace(",", ".")) if scores else None
