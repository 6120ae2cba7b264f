"""The rules of evolution: what a draft may not be beside its parent, and what shows that an answer struggles.

Those of Evol-Instruct (Xu et al. 2024, section 3.2) and the ones that correct it. The evolved text is the output where
an operator rewrites answers, and otherwise the instruction. A record that was not evolved is none of theirs.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from selfinstruct.filters.novelty import rouge_l, tokens
from selfinstruct.filters.text import DECLINES, normal_form
from selfinstruct.records import Evolution, Objection, Record
from selfinstruct.words import words

if TYPE_CHECKING:
    from selfinstruct.recipe import Recipe


class _Evolved(NamedTuple):
    how: Evolution
    before: str
    after: str


def _evolved(record: Record) -> _Evolved | None:
    how = record.evolution
    if how is None or how.direction is None:
        return None
    return _Evolved(how, how.before, record.output if how.direction == "answer" else record.instruction)


# Drafts.


LEAKED = (
    "#given prompt#",
    "#rewritten prompt#",
    "#created prompt#",
    "given prompt",
    "rewritten prompt",
    "created prompt",
    "easier prompt",
    "rewritten answer",
    "given answer:",
    "what to change:",
    "how it differs:",
)
"""Labels of the published frames, and of those in ``prompts/evolve/frames``; with the colon where people say the same.
Longer ones first, for the reason names the first that is found."""


class FrameLeak:
    """Wording of the frame around it (section 3.2, case 4): a plain substring, whatever its case, for a label has marks
    that are at no word's border. What the parent says itself has not leaked; to the letter of the paper it has."""

    def __init__(self, recipe: Recipe) -> None:
        self._strict = recipe.behaviour == "strict"

    def objection(self, record: Record) -> str | None:
        evolved = _evolved(record)
        if evolved is None:
            return None
        text, given = evolved.after.casefold(), evolved.before.casefold() if self._strict else ""
        found = next((phrase for phrase in LEAKED if phrase in text and phrase not in given), None)
        return f"holds {found!r}, wording of the frame" if found else None


class Copied:
    """Eight words in a row of the prompt that asked for it: its method, or a worked example. What the parent says
    itself is not copied."""

    _run = 8

    def __init__(self, recipe: Recipe) -> None:
        self._prompts: dict[str, frozenset[tuple[str, ...]]] = {}

    def objection(self, record: Record) -> str | None:
        evolved = _evolved(record)
        if evolved is None or not evolved.how.prompt:
            return None
        asked = self._prompts.get(evolved.how.prompt)
        if asked is None:
            asked = self._prompts[evolved.how.prompt] = frozenset(self._runs(evolved.how.prompt))
        found = [run for run in self._runs(evolved.after) if run in asked]
        if not found:
            return None
        own = set(self._runs(evolved.before))
        copied = next((run for run in found if run not in own), None)
        return f"copies the prompt that asked for it: {' '.join(copied)!r}" if copied else None

    def _runs(self, text: str) -> list[tuple[str, ...]]:
        said = tokens(text, "unicode")
        return list(zip(*(said[at:] for at in range(self._run)), strict=False))


class Declines:
    """The model declined to rewrite, and what it said would pass for a task: in a chain one refusal spoils every later
    round."""

    def __init__(self, recipe: Recipe) -> None:
        pass

    def objection(self, record: Record) -> str | None:
        evolved = _evolved(record)
        if evolved is None:
            return None
        found = DECLINES.search(evolved.after.replace("\u2019", "'"))
        if not found or DECLINES.search(evolved.before.replace("\u2019", "'")):
            return None
        return f"declines to rewrite: {found[0].strip()!r}"


class Unchanged:
    """The parent over again, but for case, blanks, punctuation or the encoding of accents."""

    def __init__(self, recipe: Recipe) -> None:
        pass

    def objection(self, record: Record) -> str | None:
        evolved = _evolved(record)
        if evolved is None or normal_form(evolved.before) != normal_form(evolved.after):
            return None
        return f"says the same as its parent: {evolved.after.strip()[:60]!r}"


class Growth:
    """Too few or too many words more than the parent has; in breadth and downward, a share of its length that is too
    small or too large. What the operator itself allows comes before the recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self._growth = recipe.growth

    def objection(self, record: Record) -> str | None:
        evolved = _evolved(record)
        if evolved is None:
            return None
        before, after = words(evolved.before), words(evolved.after)
        low, high = self._added(evolved.how)
        said = f"{after} words, where its parent has {before}"
        if low is not None:
            if after - before < low:
                return f"{said}; at least {_more(low)} are wanted"
            return f"{said}; at most {_more(high)} are allowed" if after - before > high else None
        ratio = after / max(before, 1)
        if self._growth.min_ratio <= ratio <= self._growth.max_ratio:
            return None
        return f"{said}; {self._growth.min_ratio:g} to {self._growth.max_ratio:g} times as many are allowed"

    def _added(self, how: Evolution) -> tuple[int | None, float]:
        """The words that must and may be added; None where the length is judged as a share."""
        if how.may_add is not None:
            return how.may_add
        if how.direction == "in-depth":
            return self._growth.min_added, self._growth.max_added
        return (self._growth.min_added if how.direction == "answer" else None), math.inf


def _more(count: float) -> str:
    return f"{count:g} more" if count >= 0 else f"{-count:g} fewer"


class Intent:
    """In depth: too few of the parent's content words are left, and with them what it was about."""

    def __init__(self, recipe: Recipe) -> None:
        self._min = recipe.intent.min_recall

    def objection(self, record: Record) -> str | None:
        evolved = _evolved(record)
        if evolved is None or evolved.how.direction != "in-depth":
            return None
        wanted = set(tokens(evolved.before, "unicode")) - STOP_WORDS
        kept = wanted & set(tokens(evolved.after, "unicode"))
        if not wanted or len(kept) / len(wanted) >= self._min:
            return None
        return f"keeps {len(kept)} of its parent's {len(wanted)} content words, less than {self._min:.0%}"


class Distance:
    """In breadth: too close to the parent to be a new task."""

    def __init__(self, recipe: Recipe) -> None:
        self._max, self._tokenizer = recipe.intent.max_similarity, recipe.novelty.tokenizer

    def objection(self, record: Record) -> Objection | None:
        evolved = _evolved(record)
        if evolved is None or evolved.how.direction != "in-breadth":
            return None
        f = rouge_l(evolved.after, evolved.before, self._tokenizer)
        if f < self._max:
            return None
        parent = record.parents[0] if record.parents else ""
        return Objection(by="distance", why=f"ROUGE-L {f:.3f} with its parent {parent}", neighbour=parent, score=f)


class Circles:
    """Six words in a row stand three times in one line: a small model goes on and on. Two are different stop words, for
    data and patterns have none; what the parent repeats itself is its own."""

    _run, _times = 6, 3

    def __init__(self, recipe: Recipe) -> None:
        pass

    def objection(self, record: Record) -> str | None:
        evolved = _evolved(record)
        if evolved is None or evolved.how.direction == "answer":
            return None
        own = self._repeated(evolved.before)
        found = next((run for run in self._repeated(evolved.after) if run not in own), None)
        return f"runs in circles: {self._times} times or more {' '.join(found)!r}" if found else None

    def _repeated(self, text: str) -> dict[tuple[str, ...], int]:
        found: dict[tuple[str, ...], int] = {}
        for line in text.splitlines():
            said = tokens(line, "unicode")
            runs = Counter(zip(*(said[at:] for at in range(self._run)), strict=False))
            often = {run: count for run, count in runs.items() if count >= self._times}
            found |= {run: count for run, count in often.items() if len(_LINKING.intersection(run)) > 1}
        return found


# Answers.


_APOLOGY_WANTED = re.compile(
    r"sorry|apolog|regret|forgiv|excus|condol|sympath|refus|declin(?!ed)|reject|disculp|entschuldig|извин|道歉|抱歉|对不起|お詫び|謝罪",
    re.IGNORECASE,
)


class Struggles:
    """An apology in fewer than 80 words (section 3.2, case 2), where nobody asked for one."""

    _long = 80

    def __init__(self, recipe: Recipe) -> None:
        self._strict = recipe.behaviour == "strict"

    def objection(self, record: Record) -> str | None:
        if "sorry" not in record.output.casefold():
            return None
        count = words(record.output) if self._strict else len(record.output.split())
        if count >= self._long:
            return None
        if self._strict and _APOLOGY_WANTED.search(f"{record.instruction} {record.input}"):
            return None
        return f"says sorry, in {count} words; an answer that does has {self._long} or more"


class Hollow:
    """Nothing but punctuation and stop words (section 3.2, case 3). What answers a question by itself passes: a "no",
    "both" or "on" that most stop lists hold, a letter of multiple choice, "it is"; and any word where one is asked for.
    To the letter of the paper none of them does."""

    def __init__(self, recipe: Recipe) -> None:
        self._strict = recipe.behaviour == "strict"

    def objection(self, record: Record) -> str | None:
        said = tokens(record.output, "unicode")
        if set(said) - STOP_WORDS or any(map(self._is_symbol, record.output)):
            return None
        if self._strict and said and _answers(said, f"{record.instruction} {record.input}"):
            return None
        return f"only punctuation and stop words: {record.output.strip()[:60]!r}"

    def _is_symbol(self, c: str) -> bool:
        """A sign of arithmetic, currency, an emoji; in ASCII the paper's time counted them as punctuation."""
        return unicodedata.category(c) in ("Sm", "Sc", "So") and (self._strict or not c.isascii())


_FUNCTION_WORDS = """
a about above across after again against ain all along already also although am among an and another any anybody anyone
anything are aren around as at away be became because become been before behind being below beneath beside besides
between beyond both but by can cannot could couldn d despite did didn do does doesn doing don done down during each
either else enough etc even ever every everybody everyone everything except few for from further get gets got had hadn
has hasn have haven having he hence her here hers herself him himself his how however i if in indeed inside instead into
is isn it its itself just least less let like ll m many may maybe me might mightn mine more moreover most much must
mustn my myself near needn neither never next no nobody none nor not nothing now of off often on once one only onto or
other others otherwise ought our ours ourselves out outside over own per perhaps quite rather re really s same shall
shan she should shouldn since so some somebody someone something sometimes still such t than that the their theirs them
themselves then there therefore these they this those though through throughout thus till to together too toward towards
under unless until up upon us ve very via was wasn we were weren what whatever when whenever where whereas wherever
whether which whichever while who whoever whom whose why will with within without would wouldn yet you your yours
yourself yourselves
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Function words of English, as ``tokens`` parts them: of "doesn't" there are two."""
_LINKING = frozenset(word for word in STOP_WORDS if len(word) > 1)

_ANSWERING = """
above after again all already any anybody anyone anything away before behind below beneath beside besides between beyond
both can cannot down each either enough ever every everybody everyone everything few here how inside instead least less
like many may maybe mine more most much near neither never next no nobody none nor not nothing now off often on once one
other others out outside over perhaps same since some somebody someone something sometimes still t then there together
too under until up us what when where which who whom whose why will within without yet
"""
_ANSWERS = frozenset(_ANSWERING.split())
"""Those among them that can be a whole answer, or turn it: the t is that of "don't"."""
_CLAUSE = re.compile(
    r"(?:he|i|it|she|that|there|these|they|this|those|we|you) "
    r"(?:am|are|can|could|did|do|does|had|has|have|is|may|might|must|shall|should|was|were|will|would)"
)
"""What answers whether something is so."""
_WORD_WANTED = re.compile(
    r"preposition|pronoun|\barticle|conjunction|determiner|auxiliary|modal|stop ?word|function word|keyword|operator|"
    r"fill in|blank|missing|\b(?:which|what|one|single) word|translat",
    re.IGNORECASE,
)


def _answers(said: list[str], prompt: str) -> bool:
    """Whether these stop words answer something."""
    if len(said) == 1 and len(said[0]) == 1:  # an option: A, B, C
        return True
    if _CLAUSE.fullmatch(" ".join(said)):
        return True
    return not _ANSWERS.isdisjoint(said) or bool(_WORD_WANTED.search(prompt))
