"""The rules that read one record's text: the papers', and the ones that correct them.

Rules of Self-Instruct (Wang et al. 2023, section 2.2 and its code) and of Stanford Alpaca stand here in the
decisions of the originals (used by ``behaviour = "compat"``) beside the strict ones.
"""

# ruff: noqa: RUF001 - the marks of other scripts are meant

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from selfinstruct.filters.novelty import keeps_instruction
from selfinstruct.records import Objection, Record, digest
from selfinstruct.words import HAN, PHRASE, THAI, WORD, whole, words

if TYPE_CHECKING:
    from selfinstruct.recipe import Recipe


class _FromTextAlone:
    """A rule that needs nothing of the recipe."""

    def __init__(self, recipe: Recipe | None = None) -> None:
        pass


# Drafts.


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


_SIGN = re.compile(r"[-*/](?=\s*\d)|(?<=\w)#")
_SIGNS = {"-": "−", "*": "×", "/": "÷", "#": "♯"}
"""What is no punctuation where it stands: signs of arithmetic, and that of C#."""
_NO_WORD_CHARACTER = re.compile(r"[^\w\s]|_")
_BLANKS_ABOUT = re.compile(f"(?<=[{HAN}{THAI}])\\s+|\\s+(?=[{HAN}{THAI}])")


def normal_form(text: str) -> str:
    """The same for two texts that differ in case, blanks, punctuation or the encoding of accents only, in any script.
    Signs of arithmetic are no punctuation; a text of nothing else keeps it."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    signed = _SIGN.sub(lambda sign: _SIGNS[sign[0]], folded)
    spaced = " ".join(_NO_WORD_CHARACTER.sub(_without_punctuation, signed).split())
    return _BLANKS_ABOUT.sub("", spaced) or "".join(folded.split())


def _without_punctuation(found: re.Match[str]) -> str:
    kind = unicodedata.category(found[0])
    if kind == "Cf":  # soft hyphens, joiners, byte order marks
        return ""
    return " " if kind == "Cc" or kind.startswith("P") else found[0]


class Duplicate:
    """The same text as an earlier one, but for case and blanks; in any script. Where a recipe evolves, but for
    punctuation too: inside a lineage nothing else compares texts that are not parent and child. A rewritten answer is
    no new text here, for its instruction is in already."""

    def __init__(self, recipe: Recipe) -> None:
        self._with_input = recipe.novelty.key == "instruction+input"
        self._form = normal_form if recipe.evolve.operators or recipe.evolve.first else _folded
        self._seen: dict[str, str] = {}
        """The earliest task of each text, and …"""
        self._again: dict[str, list[str]] = {}
        """… the later ones: rows are learnt unjudged."""

    def _key(self, record: Record) -> str:
        text = f"{record.instruction}\n{record.input}" if self._with_input else record.instruction
        return digest(self._form(text))

    def objection(self, record: Record) -> Objection | None:
        earlier = None if keeps_instruction(record) else self._seen.get(self._key(record))
        if earlier is None:
            return None
        return Objection(by="duplicate", why="says the same as an earlier task", neighbour=earlier, score=1.0)

    def learn(self, record: Record) -> None:
        if keeps_instruction(record):
            return
        key = self._key(record)
        if key in self._seen:
            self._again.setdefault(key, []).append(record.task)
        else:
            self._seen[key] = record.task

    def forget(self, record: Record) -> None:
        """Take back what the last ``learn`` of the draft put in."""
        if keeps_instruction(record):
            return
        key = self._key(record)
        again = self._again.get(key, [])
        if record.task in again:
            del again[len(again) - 1 - again[::-1].index(record.task)]
        elif self._seen.get(key) == record.task:
            if again:
                self._seen[key] = again.pop(0)
            else:
                del self._seen[key]
        if not again:
            self._again.pop(key, None)


class Length:
    """Too few or too many words in the instruction."""

    def __init__(self, recipe: Recipe) -> None:
        self._min, self._max = recipe.length.min_words, recipe.length.max_words
        self._count = words if recipe.behaviour == "strict" else lambda text: len(text.split())

    def objection(self, record: Record) -> str | None:
        count = self._count(record.instruction)
        if count < self._min:
            return f"{count} words, fewer than {self._min}"
        return f"{count} words, more than {self._max}" if count > self._max else None


class Wording:
    """Asks for what text cannot give or take (``hard``); words that only may hint at it are remarked (``soft``)."""

    def __init__(self, recipe: Recipe) -> None:
        self._hard = _any_of(recipe.wording.hard)
        self._spare = _any_of(recipe.wording.spare)
        self._soft = _any_of(recipe.wording.soft)

    def objection(self, record: Record) -> str | None:
        text = self._spare.sub("", record.instruction) if self._spare else record.instruction
        found = self._hard and self._hard.search(text)
        return f"asks for something that is not text: {found[0]!r}" if found else None

    def remarks(self, record: Record) -> tuple[str, ...]:
        found = self._soft.findall(record.instruction) if self._soft else []
        return tuple(dict.fromkeys(word.casefold() for word in found))


class Blacklist:
    """Any listed term as a whole word (the originals' rule: 13 terms in Self-Instruct, 18 in Alpaca)."""

    def __init__(self, recipe: Recipe) -> None:
        self._terms = _any_of(recipe.wording.hard)

    def objection(self, record: Record) -> str | None:
        found = self._terms and self._terms.search(record.instruction)
        return f"contains {found[0]!r}" if found else None


class WriteAProgram(_FromTextAlone):
    """Begins with "Write a program": the originals' repair of a skewed distribution. Strict caps openings instead."""

    def objection(self, record: Record) -> str | None:
        return "begins with 'Write a program'" if record.instruction.startswith("Write a program") else None


class AsciiStart(_FromTextAlone):
    """Begins with punctuation or a non-ASCII character (the originals' rule)."""

    def objection(self, record: Record) -> str | None:
        first = record.instruction[:1]
        if first and first in string.punctuation:
            return f"begins with the punctuation {first!r}"
        return None if first.isascii() else f"begins with the non-ASCII {first!r}"


_OPENING_MARKS = "\"'“”„‟‘’‚‛«»‹›「『《〈¿¡"
"""Each opens a quotation somewhere: „German“, ”Swedish”, »Danish«."""


class Start(_FromTextAlone):
    """Begins with something else than a letter, a digit or an opening quote, of any script."""

    def objection(self, record: Record) -> str | None:
        first = record.instruction[:1]
        if first and (unicodedata.category(first)[0] in "LN" or first in _OPENING_MARKS):
            return None
        return f"begins with {first!r}"


_AROUND = string.punctuation + _OPENING_MARKS + "…—–،؟।"


class Opening:
    """Too many tasks begin with the same three words (in Han and Kana: six characters). The pool must not become
    forty ways to "Write a program"."""

    def __init__(self, recipe: Recipe) -> None:
        self._share, self._floor = recipe.opening.max_share, recipe.opening.floor
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._pool = 0

    @staticmethod
    def trigram(record: Record) -> tuple[str, ...]:
        """What it begins with, as openings are compared."""
        found = PHRASE.findall(record.instruction.casefold())[:3]
        return tuple(word.strip(_AROUND) or word for word in found)

    def objection(self, record: Record) -> str | None:
        opening = self.trigram(record)
        allowed = max(self._floor, int(self._share * self._pool))
        if self._counts[opening] < allowed:
            return None
        return f"{self._counts[opening]} tasks already begin with {' '.join(opening)!r}"

    def learn(self, record: Record) -> None:
        self._counts[self.trigram(record)] += 1
        self._pool += 1

    def forget(self, record: Record) -> None:
        self._counts[self.trigram(record)] -= 1
        self._pool -= 1


# Answers.


class Empty(_FromTextAlone):
    """No answer."""

    def objection(self, record: Record) -> str | None:
        return None if record.output.strip() else "the output is empty"


class Echo:
    """The answer is the input, or the instruction, over again."""

    def __init__(self, recipe: Recipe) -> None:
        self._strict = recipe.behaviour == "strict"

    def objection(self, record: Record) -> str | None:
        if not self._strict:
            return "the output is the input" if record.output == record.input else None
        output = record.output.strip()
        if output and output == record.input.strip():
            return f"the output is the input: {output[:60]!r}"
        if output and output.casefold() == record.instruction.strip().casefold():
            return f"the output is the instruction: {output[:60]!r}"
        return None


class Colon(_FromTextAlone):
    """Input or output ends in a colon: what it announces is missing."""

    def objection(self, record: Record) -> str | None:
        for side, text in (("input", record.input), ("output", record.output)):
            if text.strip().endswith((":", "\uff1a")):
                return f"the {side} ends in a colon"
        return None


_CANNOT = r"i (?:can ?not|can't|could not|couldn't|am unable to|am not able to|will not|won't|am not allowed to)\b"
_SORRY = r"(?:unfortunately|i(?:'m| am) (?:\w+ )?sorry|sorry|i apologi[sz]e|my apologies)\b"
_SELF = r"(?:an? (?:ai|artificial intelligence|(?:large )?language model)\b)"
_REFUSAL = re.compile(
    # An apology alone is none: "I'm so sorry for your loss" is how many a letter begins.
    rf"\A\W*{_SORRY}[^.!?\n]{{0,40}}?\b{_CANNOT} (?:\w+ )?"
    r"(?:assist|help|fulfill?|comply|provide|answer|do that|create|write|generate|access|browse|open|view|give|draw)\b|"
    rf"\A\W*{_SORRY}[^.!?\n]{{0,40}}?\b(?:you (?:have not|haven't|did not|didn't) \w+|"
    r"no \w+(?: \w+)? (?:was|were|is|are|has been) (?:provided|given|attached|included))\b|"
    rf"\A\W*{_CANNOT} (?:\w+ )?"
    r"(?:assist|help (?:you|with)|fulfill?|comply|provide|answer (?:that|this|your|the)|do that|generate|browse)\b|"
    rf"\bas {_SELF}[^.!?\n]{{0,40}}?,? i\b|\bi(?:'m| am) (?:just |only )?{_SELF}",
    re.IGNORECASE,
)
DECLINES = re.compile(
    rf"\A\W*{_SORRY}[^.!?\n]{{0,40}}?\b{_CANNOT}|"
    rf"\A\W*{_CANNOT} (?:rewrite|rephrase|evolve|create|assist|help you|comply)\b|"
    rf"\A[^.!?\n]{{0,20}}\bas {_SELF}",
    re.IGNORECASE,
)
"""How a model begins that declines to rewrite a text."""
_ABOUT_IT = re.compile(
    r"sorry|apolog|refus|declin(?!ed)|reject|(?<![a-z])ai(?![a-z])|artificial intelligence|language model|"
    r"chatbot|robot",
    re.IGNORECASE,
)


class Refusal(_FromTextAlone):
    """The model declines, or speaks of itself as a machine, where nobody asked for that."""

    def objection(self, record: Record) -> str | None:
        found = _REFUSAL.search(record.output.replace("\u2019", "'"))
        if not found or _ABOUT_IT.search(f"{record.instruction} {record.input}"):
            return None
        return f"declines: {record.output[found.start() : found.end()].strip()!r}"


_PLACEHOLDER = re.compile(
    # Not an index (row[name]), not a link ([name](…)), not a key to press (<Enter>), not a tag with attributes.
    r"(?<![\w\])])\[(?:(?:insert|your|enter|add)\s[^\]\n=]{1,60}|"
    r"(?:(?:first|last|full|company|product|customer|recipient(?:['\u2019]s)?|sender(?:['\u2019]s)?) )?name|"
    r"date|company|topic|placeholder)\](?!\()|"
    r"<(?:insert|your|enter|add)\s[^>\n=]{1,60}>|<placeholder>|\blorem ipsum\b|<noinput>",
    re.IGNORECASE,
)
_BLANKS_WANTED = re.compile(r"template|placeholder|fill[- ]in|blank|anonymi|redact|\bmask", re.IGNORECASE)


class Placeholder(_FromTextAlone):
    """A blank that was left to be filled in, where nobody asked for one."""

    def objection(self, record: Record) -> str | None:
        if _BLANKS_WANTED.search(record.instruction):
            return None
        given = record.instruction.casefold()
        for side, text in (("input", record.input), ("output", record.output)):
            for found in _PLACEHOLDER.finditer(text):
                if found[0].casefold() not in given:
                    return f"the {side} has a placeholder: {found[0]!r}"
            given += f"\n{text.casefold()}"
        return None


_FENCED = re.compile(r"^```.*?(?:^```|\Z)", re.DOTALL | re.MULTILINE)


class Repetition(_FromTextAlone):
    """The answer runs in circles: one line makes up a third of it, or half its 4-word runs are repeats."""

    def objection(self, record: Record) -> str | None:
        if re.search(r"\brepeat|\btimes\b", record.instruction, re.IGNORECASE):
            return None
        prose = _FENCED.sub("", record.output)
        lines = [line.strip() for line in prose.split("\n") if line.strip()]
        long = Counter(line for line in lines if len(PHRASE.findall(line)) > 2 and any(map(str.isalpha, line)))
        line, times = long.most_common(1)[0] if long else ("", 0)
        if times >= 3 and 3 * times >= len(lines):
            return f"{times} times the line {line[:60]!r}"
        tokens = [word for word in WORD.findall(prose) if any(map(str.isalnum, word))]
        runs = [tuple(tokens[at : at + 4]) for at in range(len(tokens) - 3)]
        if len(runs) >= 12 and len(set(runs)) <= len(runs) / 2:
            run = " ".join(Counter(runs).most_common(1)[0][0])
            return f"only {len(set(runs))} of {len(runs)} runs of four words are new; one is {run!r}"
        return None


# A list's item; code, a table or an address.
_NO_SENTENCE = re.compile(r"\s*(?:[-*+•‣▪·–—]|\(?\w{1,3}[.):])\s|.*(?:[\t|={}<>\\]|://)")
_NO_WORD = re.compile(r"[@#_/\\]|\w\.\w")
"""In a last word that is a name for machines."""


class Unfinished(_FromTextAlone):
    """A long last line that stops without a sentence's end, in an answer whose other lines have one."""

    def objection(self, record: Record) -> str | None:
        if record.classification or "```" in record.output:
            return None
        *before, last = [line for line in record.output.split("\n") if line.strip()] or [""]
        phrases = len(PHRASE.findall(last))
        if phrases <= 12 or not _bare(last) or _NO_SENTENCE.match(last) or _NO_WORD.search(last.split()[-1]):
            return None
        # A poem, a list of headlines, the translation of a text that has no full stop either, keywords.
        if sum(map(_bare, before)) > len(before) / 2 or _bare(record.input) or 4 * (last.count(",") + 1) > phrases:
            return None
        return f"stops in the middle: {last.rstrip()[-40:]!r}"


def _bare(text: str) -> bool:
    """Ends in a letter, where a sentence would end in a mark. Thai and its like have none; emoji have tails."""
    last = text.rstrip().rstrip("\ufe0f\u200d")[-1:]
    return bool(last) and unicodedata.category(last)[0] in "LM" and not re.match(f"[{THAI}]", last)


class AnswerLength:
    """More words in the output than the recipe allows."""

    def __init__(self, recipe: Recipe) -> None:
        self._max = recipe.length.max_output_words

    def objection(self, record: Record) -> str | None:
        count = words(record.output)
        return f"{count} words, more than {self._max}" if count > self._max else None


_LEAK = re.compile(
    r"</?think(ing)?>|<[|｜][a-z_\u2581]+[|｜]>|\[/?INST\]|^### (Instruction|Response):", re.IGNORECASE | re.MULTILINE
)


class Leak(_FromTextAlone):
    """Traces of the model's machinery in the answer: thinking tags, chat tokens, prompt headings."""

    def objection(self, record: Record) -> str | None:
        given = f"{record.instruction}\n{record.input}"
        leaks = (found[0] for found in _LEAK.finditer(record.output) if found[0] not in given)
        return next((f"leaks {leak!r}" for leak in leaks), None)


def _any_of(terms: tuple[str, ...]) -> re.Pattern[str] | None:
    if not terms:
        return None
    return re.compile("|".join(map(whole, terms)), re.IGNORECASE)
