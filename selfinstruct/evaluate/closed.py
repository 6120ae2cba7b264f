"""What an answer is worth beside references, by label or ROUGE-L, and what shows in it alone: refusals, repetition."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from selfinstruct.evaluate.figures import Figure, Interval, mean, wilson
from selfinstruct.filters.novelty import Tokenizer, rouge_l
from selfinstruct.filters.text import Empty, Refusal, Repetition
from selfinstruct.records import Record
from selfinstruct.words import words

# Labels.

_TRUTH = {"yes": "yes", "true": "yes", "1": "yes", "no": "no", "false": "no", "0": "no"}
_ARTICLE = re.compile(r"\A(?:an?|the) (?=\S)")
_FIGURE = re.compile(r"[-+.]*\d")


def normal(text: str, *, booleans: bool = False) -> str:
    """A label as it is compared: NFKC, lower case, blanks collapsed, without punctuation and articles around it
    (Super-NaturalInstructions and FLAN compare so, Wang et al. 2022 and Wei et al. 2022).

    What belongs to a figure or a name stays: -5, 20%, c#. So does a text of punctuation only. ``booleans``: yes, true
    and 1 are one label, and no, false and 0 another, where a task says so.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()).replace("\u2212", "-")
    left = " ".join(folded.split())
    before = ""
    while left != before:
        before, left = left, _ARTICLE.sub("", _bare(left))
    return _TRUTH.get(left, left) if booleans else left


def _bare(text: str) -> str:
    """Without punctuation around it, unless nothing else is there."""
    start, end = 0, len(text)
    while start < end and _outer(text[start]) and not _FIGURE.match(text, start):
        start += 1
    while end > start and _outer(text[end - 1]) and not (text[end - 1] in "%#" and text[end - 2 : end - 1].isalnum()):
        end -= 1
    return text[start:end] or text


def _outer(character: str) -> bool:
    """Punctuation, a blank, a lone accent (the ` of Markdown is one) or what is not seen at all."""
    kind = unicodedata.category(character)
    return kind[0] in "PZ" or kind in ("Sk", "Cf", "Cc")


def first_line(text: str) -> str:
    """The first line that says something: where a label is wanted, a base model goes on after it."""
    return next((line for line in text.splitlines() if line.strip()), "")


_OPTION = re.compile(r"(?:^[ \t]*(?:[-*][ \t]+)?([A-Za-z])[.):]|\(([A-Za-z])\))[ \t]+(?=\S)", re.MULTILINE)
_LETTERED = re.compile(r"\s*\(?([A-Za-z])[.):]\s+(?=\S)")


def options(text: str) -> dict[str, str]:
    """The options that a question lists, by their letter in lower case: ``B) Sugar dissolves.`` in a line of its own,
    ``(B) sugar`` anywhere. They begin at A and leave no letter out; else there are none."""
    marks = list(_OPTION.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    letters = "".join(mark[1] or mark[2] for mark in marks).lower()
    if len(marks) < 2 or letters != "abcdefghijklmnopqrstuvwxyz"[: len(letters)]:
        return {}
    return {letters[at]: first_line(text[mark.end() : ends[at]]).strip() for at, mark in enumerate(marks)}


def matches(
    answer: str,
    references: Iterable[str],
    *,
    choices: Mapping[str, str] | None = None,
    label: bool = True,
    booleans: bool = False,
) -> bool:
    """Whether an answer is one of the references, as ``normal`` has them (exact match).

    ``choices``: the question's ``options``; a letter stands for its option's text, on either side. ``label``: only the
    first line counts.
    """
    wanted = list(references)
    if not wanted:
        raise ValueError("without a reference nothing is right or wrong")

    def compared(text: str) -> str:
        return normal(_spelt(text, choices or {}), booleans=booleans)

    return compared(first_line(answer) if label else answer) in map(compared, wanted)


def _spelt(text: str, choices: Mapping[str, str]) -> str:
    """The text of the option that a letter names, alone or before that text."""
    alone = choices.get(normal(text))
    lettered = _LETTERED.match(text)
    named = choices.get(lettered[1].lower()) if lettered else None
    if alone is None and lettered and named is not None and normal(text[lettered.end() :]) == normal(named):
        return named
    return text if alone is None else alone


# Which labels an instruction names.

_QUOTES = "\"'\u2018\u2019\u201c\u201d`*"
_ITEM = rf"(?:[{_QUOTES}]+[^{_QUOTES},;]{{1,40}}[{_QUOTES}]+|(?![{_QUOTES}])[^\s,;:()]+(?: [^\s,;:()]+){{0,2}}?)"
_OR = rf"({_ITEM}(?:, {_ITEM}){{0,18}},? or {_ITEM})"
_AND = rf"({_ITEM}(?:, {_ITEM}){{0,18}},? and {_ITEM})"
_VERB = r"(?:answer|output|reply|respond|return|choose|pick|select|print)"
_SORT = r"(?:classify|label|mark|categori[sz]e|tag)"
_TELL = r"(?:decide|determine|tell|judge|say|state|predict|identify|classify)"
_HOW = r"(?:(?:only|just|simply|either|with|from|as|exactly|one of) ){0,3}"
_START = r"(?:(?:please|then|and) )*(?:given .*, )?(?:you (?:can|should|must|need to) )?"
_NAMING = {
    "said": rf"{_START}(?:{_VERB} {_HOW}{_OR}|{_VERB} (?:only )?between {_AND})",
    "sorted": rf"{_START}{_SORT} .* as (?:either )?{_OR}",
    "listed": rf"{_START}(?:{_VERB}|{_SORT}|predict|identify|categories|options|labels)(?: .*)?: {_OR}",
    "possible": rf"(?:.*\W)?(?:possible|allowed|valid|available) \w+ are:? {_AND}",
    "whether": rf"{_START}{_TELL} (?:.* )?whether .* (?:is|are) (?:either )?{_OR}",
}
_NAMED_BY = {way: re.compile(pattern, re.IGNORECASE) for way, pattern in _NAMING.items()}
_MORE = re.compile(rf"\b(?:otherwise|if|else|unless)\b.*\b{_VERB}\b|\botherwise\b|\b{_VERB}\b.*\bif\b", re.IGNORECASE)
_NO_LABEL = re.compile(
    r"(?:an?|the|any|each|your|its|in|at|by|with|without|to|from|of|than|that|which|who|and|or|if|when|unless|but|one|two|"
    r"three|four|five|ten|more|less|fewer|not|both|neither|all|none|json|xml|csv|yaml|html|markdown|sentences?|words?|"
    r"paragraphs?|lines?|about|being)\Z|.+ly\Z",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.?!])\s+|\n+")


def label_space(instruction: str) -> tuple[str, ...] | None:
    """The labels that an instruction names plainly ("Answer positive, negative or mixed."), in its order and spelling;
    None where it names none, or may mean others too. Better none than a wrong one."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for sentence in _SENTENCE.split(instruction):
        if _MORE.search(sentence):
            return None
        plain = sentence.strip().rstrip(".?! ")
        for way, naming in _NAMED_BY.items():
            named = naming.fullmatch(plain)
            if named and (labels := _labels(next(filter(None, named.groups())), way)):
                found[tuple(sorted(map(normal, labels)))] = labels
                break
    listed = tuple(sorted(map(normal, options(instruction).values())))
    if len(found) != 1 or (listed and listed not in found):  # the question's own options may be what is wanted
        return None
    return next(iter(found.values()))


def _labels(items: str, way: str) -> tuple[str, ...] | None:
    parts = re.split(r",? (?:or|and) (?=\S+(?: \S+)*\Z)|, ", items)
    labels = tuple(part.strip(_QUOTES + " ") for part in parts)
    if not all(labels) or len({normal(label) for label in labels}) < len(labels):
        return None
    if all(part[0] in _QUOTES for part in parts):
        return labels
    negated = {f"not {label}".casefold() for label in labels}
    for label in labels:
        known = label.casefold() in negated or re.fullmatch("[A-Z]", label)  # A, but not a
        if not known and any(map(_NO_LABEL.match, label.split())):
            return None
    if way in ("listed", "possible"):
        return labels
    # "Choose red or blue items" names no label "blue items".
    lengths = [words(label) for label in labels]
    tail = lengths[-1] > max(lengths[:-1]) and labels[-1].casefold() not in negated
    return None if tail or (way == "whether" and max(lengths) > 1) else labels


# Free text.


def rouge(answer: str, references: Iterable[str], tokenizer: Tokenizer = "rouge") -> float:
    """ROUGE-L's F with the nearest reference (Lin 2004, section 3; the float that rouge-score gives, without stemming).
    The tokenizer ``rouge`` sees a-z and 0-9 only."""
    return max(rouge_l(reference, answer, tokenizer) for reference in references)


class Traits(NamedTuple):
    """What shows in one answer, whatever the right one is."""

    empty: bool
    cut: bool
    refusal: bool
    repetition: bool
    words: int


_EMPTY, _REFUSAL, _REPETITION = Empty(), Refusal(), Repetition()


def traits(instruction: str, given: str, answer: str, *, cut: bool) -> Traits:
    """The traits of an answer, by the same rules that keep such answers out of the data. ``cut``: the model was
    stopped at its limit of tokens."""
    record = Record(instruction=instruction, input=given, output=answer)
    empty, refusal, repetition = (rule.objection(record) is not None for rule in (_EMPTY, _REFUSAL, _REPETITION))
    return Traits(empty, cut, refusal, repetition, words(answer))


class Rates(NamedTuple):
    """Traits over many answers: shares of those that are there."""

    answers: int
    missing: int
    """Where the model gave no answer at all; an empty one is one."""
    empty: Interval | None
    cut: Interval | None
    refusal: Interval | None
    repetition: Interval | None
    words: Figure


def rates(answers: Iterable[Traits | None], *, seed: int = 0) -> Rates:
    """The shares of answers with each trait, and their mean length in words; None for an answer that never came."""
    every = list(answers)
    there = [one for one in every if one is not None]

    def share(found: Iterable[bool]) -> Interval | None:
        return wilson(sum(found), len(there))

    return Rates(
        answers=len(there),
        missing=len(every) - len(there),
        empty=share(one.empty for one in there),
        cut=share(one.cut for one in there),
        refusal=share(one.refusal for one in there),
        repetition=share(one.repetition for one in there),
        words=mean((None if one is None else one.words for one in every), seed=seed),
    )
