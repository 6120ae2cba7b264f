"""IFEval: 25 types of instruction that a program can check, and how many of them answers follow (Zhou et al. 2023).

``strict`` verdicts follow the paper's code but where that goes wrong, and ``compat`` goes with it there:

=========================  ==============================  ====================================================
types                      compat                          strict
=========================  ==============================  ====================================================
existence, frequency       a keyword is found inside       it is a word of its own
                           other words
nth_paragraph_first_word   counts the paragraphs that say  counts them in both places, and a line of blanks
                           something, and takes the n-th   parts paragraphs too
                           with the empty ones
json_format                a bare number is JSON           an object or a list
response_language,         a text of no known language     it is unknown, and no verdict; a text in capitals is
english_*                  counts as followed; of words    made small before its language is looked for
                           in capitals only the first
                           letters are looked at
=========================  ==============================  ====================================================

Keywords and phrases are always literal text, where that code takes them for patterns.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    create_model,
)

from selfinstruct.encodings import Behaviour
from selfinstruct.errors import InputError, UsageError
from selfinstruct.values import values
from selfinstruct.words import whole

Relation = Literal["less than", "at least"]
Text = Annotated[str, Field(pattern=r"\S")]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
Letter = Annotated[str, Field(min_length=1, max_length=1)]
Check = Callable[..., bool | None]

CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""One of them stands in an answer to constrained_response."""


class Type(NamedTuple):
    """A type of instruction."""

    check: Check
    """Whether a text follows it, given the kwargs by name; None where nobody can tell."""
    compat: Check
    """What the paper's code decides."""
    kwargs: type[BaseModel]
    """What they must be."""


_types: dict[str, Type] = {}


def _type(name: str) -> Callable[[Check], Check]:
    """Registers a check. Its keyword-only parameters are the type's kwargs; ``compat`` is none of them."""

    def register(check: Check) -> Check:
        parameters = inspect.signature(check, eval_str=True).parameters
        kwargs: dict[str, Any] = {
            slot: (parameter.annotation, ...)
            for slot, parameter in parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and slot != "compat"
        }
        compat = partial(check, compat=True) if "compat" in parameters else check
        _types[name] = Type(check, compat, create_model(name, __config__=ConfigDict(extra="forbid"), **kwargs))
        return check

    return register


def _holds(found: int, relation: Relation, number: int) -> bool:
    return found < number if relation == "less than" else found >= number


# The types.


def _times(word: str, text: str, compat: bool) -> int:
    return len(re.findall(re.escape(word) if compat else whole(word), text, re.IGNORECASE))


@_type("keywords:existence")
def _existence(text: str, *, keywords: Texts, compat: bool = False) -> bool:
    return all(_times(word, text, compat) for word in keywords)


@_type("keywords:frequency")
def _frequency(
    text: str, *, keyword: Text, frequency: NonNegativeInt, relation: Relation, compat: bool = False
) -> bool:
    return _holds(_times(keyword, text, compat), relation, frequency)


@_type("keywords:forbidden_words")
def _forbidden(text: str, *, forbidden_words: Texts) -> bool:
    return not any(_times(word, text, compat=False) for word in forbidden_words)


@_type("keywords:letter_frequency")
def _letters(text: str, *, letter: Letter, let_frequency: NonNegativeInt, let_relation: Relation) -> bool:
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


@_type("language:response_language")
def _in_language(text: str, *, language: Text, compat: bool = False) -> bool | None:
    found = language_of(text.lower() if text.isupper() and not compat else text)
    return found == language if found else compat or None


@_type("length_constraints:number_sentences")
def _sentences(text: str, *, num_sentences: NonNegativeInt, relation: Relation) -> bool:
    return _holds(sentences(text), relation, num_sentences)


@_type("length_constraints:number_paragraphs")
def _paragraphs(text: str, *, num_paragraphs: NonNegativeInt) -> bool:
    said = [bool(part.strip()) for part in text.split("***")]
    return all(said[1:-1]) and sum(said) == num_paragraphs


@_type("length_constraints:number_words")
def _words(text: str, *, num_words: NonNegativeInt, relation: Relation) -> bool:
    return _holds(len(re.findall(r"\w+", text)), relation, num_words)


@_type("length_constraints:nth_paragraph_first_word")
def _nth(
    text: str, *, num_paragraphs: NonNegativeInt, nth_paragraph: PositiveInt, first_word: Text, compat: bool = False
) -> bool:
    parts = text.split("\n\n") if compat else re.split(r"\n\s*\n", text)
    said = [part for part in parts if part.strip()]
    if len(said) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    first = (parts if compat else said)[nth_paragraph - 1].split()[:1]
    return bool(first) and re.split(r"[.,?!'\"]", first[0].lstrip("'\""))[0].lower() == first_word.lower()


@_type("detectable_content:number_placeholders")
def _placeholders(text: str, *, num_placeholders: NonNegativeInt) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


@_type("detectable_content:postscript")
def _postscript(text: str, *, postscript_marker: Text) -> bool:
    return bool(re.search(r"\.\s?".join(map(re.escape, postscript_marker.split("."))), text, re.IGNORECASE))


@_type("detectable_format:number_bullet_lists")
def _bullets(text: str, *, num_bullets: NonNegativeInt) -> bool:
    found = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE) + re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(found) == num_bullets


@_type("detectable_format:constrained_response")
def _choice(text: str) -> bool:
    return any(choice in text for choice in CHOICES)


@_type("detectable_format:number_highlighted_sections")
def _highlights(text: str, *, num_highlights: NonNegativeInt) -> bool:
    spans = re.findall(r"\*([^\n*]*)\*", text) + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(span.strip()) for span in spans) >= num_highlights


@_type("detectable_format:multiple_sections")
def _sections(text: str, *, section_spliter: Text, num_sections: NonNegativeInt) -> bool:
    return len(re.findall(re.escape(section_spliter) + r"\s?\d+", text)) >= num_sections


@_type("detectable_format:json_format")
def _json(text: str, *, compat: bool = False) -> bool:
    try:
        value = json.loads(re.sub(r"\A```(?:json)?|```\Z", "", text.strip(), flags=re.IGNORECASE))
    except (ValueError, RecursionError):
        return False
    return compat or isinstance(value, dict | list)


@_type("detectable_format:title")
def _title(text: str) -> bool:
    return any(title.strip("<> \t") for title in re.findall(r"<<[^\n]+>>", text))


@_type("combination:two_responses")
def _two(text: str) -> bool:
    said = [part.strip() for part in text.split("******")]
    both = [part for part in said if part]
    return all(said[1:-1]) and len(both) == 2 and both[0] != both[1]


@_type("combination:repeat_prompt")
def _repeat(text: str, *, prompt_to_repeat: Text) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


@_type("startend:end_checker")
def _end(text: str, *, end_phrase: Text) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_type("startend:quotation")
def _quotation(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


@_type("change_case:capital_word_frequency")
def _capitals(text: str, *, capital_frequency: NonNegativeInt, capital_relation: Relation) -> bool:
    # A point, apostrophe or hyphen inside a word is part of it: U.S, DON'T and WELL-KNOWN are one each.
    found = sum(word.isupper() for word in re.findall(r"\w+(?:[.'’&-]\w+)*", text))  # noqa: RUF001
    return _holds(found, capital_relation, capital_frequency)


@_type("change_case:english_capital")
def _all_capitals(text: str, *, compat: bool = False) -> bool | None:
    return text.isupper() and _in_language(text, language="en", compat=compat)


@_type("change_case:english_lowercase")
def _no_capitals(text: str, *, compat: bool = False) -> bool | None:
    return text.islower() and _in_language(text, language="en", compat=compat)


@_type("punctuation:no_comma")
def _no_comma(text: str) -> bool:
    return "," not in text


@cache
def _langdetect() -> Any:
    try:
        library = import_module("langdetect")
    except ImportError as error:
        raise UsageError(
            "telling what language an answer is in takes the package langdetect",
            hint="pip install 'selfinstruct[eval]'",
        ) from error
    library.DetectorFactory.seed = 0  # it draws by chance, anew for every text
    return library


def about_language(types: Collection[str]) -> bool:
    """Whether one of these types is about the language of an answer."""
    return any(name.startswith(("language:", "change_case:english")) for name in types)


def check_languages(types: Collection[str]) -> None:
    """Raises UsageError where one of these types is about a language, and nothing is installed that knows any."""
    if about_language(types):
        _langdetect()


@lru_cache(64)
def language_of(text: str) -> str | None:
    """The code of the language that a text is in; None for one of figures and marks only."""
    library = _langdetect()
    try:
        return str(library.detect(text))
    except library.LangDetectException:
        return None


_STOP = re.compile(r"[.!?…]+[\"'”’)\]*_]*(?=\s|\Z)|[。！？।؟]+")  # noqa: RUF001
_NEVER_LAST = frozenset(["mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "p.s", "p.p.s"])
_SELDOM_LAST = frozenset(["etc", "jr", "sr", "inc", "ltd", "co", "a.m", "p.m", "u.s", "u.k"])


def sentences(text: str) -> int:
    """How many sentences: runs with a letter or figure in them, up to a full stop, question or exclamation mark.

    nltk's punkt, which the paper's code counts with, has learnt its abbreviations from texts, and must be downloaded.
    Here they are a short list; a single letter and the number of a list's item end no sentence either; and the full
    stops of other scripts do. Line breaks end none, in both.
    """
    return len(parted(text))


def parted(text: str) -> list[str]:
    """The sentences, each with the mark that ends it."""
    found, start = [], 0
    for stop in _STOP.finditer(text):
        said = text[start : stop.start()]
        if stop[0] == "." and _goes_on(said, text[stop.end() :][:40].lstrip()):
            continue
        found.append(text[start : stop.end()])
        start = stop.end()
    return [one.strip() for one in (*found, text[start:]) if re.search(r"\w", one)]


def _goes_on(said: str, rest: str) -> bool:
    """Whether the full stop between the two belongs to a word."""
    line = said.rpartition("\n")[2]
    last = line.split()[-1].lstrip("\"'“‘([*_") if line.strip() else ""  # noqa: RUF001
    if last.isdecimal() and line.strip() == last:
        return True
    if last.lower() in _NEVER_LAST or (len(last) == 1 and last.isalpha() and last != "I"):
        return True
    return last.lower() in _SELDOM_LAST and not rest[:1].isupper()


TYPES: Mapping[str, Type] = MappingProxyType(_types)
"""The 25 types, as ``group:type``."""


# Prompts, and whether an answer follows them.


class Verifiable(NamedTuple):
    """A prompt with the instructions in it that can be checked."""

    key: int | str
    prompt: str
    ids: tuple[str, ...]
    kwargs: tuple[dict[str, Any], ...]
    """Of each instruction."""

    def line(self) -> str:
        """A line of a file in IFEval's format."""
        row = {"key": self.key, "prompt": self.prompt, "instruction_id_list": self.ids, "kwargs": self.kwargs}
        return json.dumps(row, ensure_ascii=False) + "\n"


class _Row(BaseModel):
    key: int | str
    prompt: Text
    instruction_id_list: Annotated[list[str], Field(min_length=1)]
    given: list[dict[str, Any] | None] = Field(validation_alias=AliasChoices("kwargs"))


_HINT = 'a row is {"key": 1, "prompt": "…", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}'


def read_verifiable(path: Path) -> list[Verifiable]:
    """The prompts of a file in IFEval's format, its own among them: JSONL, a JSON list, packed or not, or Parquet. A
    kwarg that is null is none: copies of the paper's file have every one in every row.

    Raises InputError with file:line.
    """
    found = [_read(value, where) for where, value in values(path)]
    if not found:
        raise InputError(f"{path}: no prompts", hint=_HINT)
    return found


def _read(value: object, where: str) -> Verifiable:
    try:
        row = _Row.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {_first(error)}", hint=_HINT) from error
    ids = row.instruction_id_list
    if len(row.given) != len(ids):
        raise InputError(f"{where}: {len(ids)} instructions and kwargs of {len(row.given)}", hint=_HINT)
    kwargs = []
    for name, given in zip(ids, row.given, strict=True):
        if name not in TYPES:
            raise InputError(f"{where}: there is no type {name!r}", hint=f"the types are {', '.join(TYPES)}")
        try:
            checked = TYPES[name].kwargs.model_validate(
                {slot: one for slot, one in (given or {}).items() if one is not None}
            )
        except ValidationError as error:
            slots = ", ".join(TYPES[name].kwargs.model_fields) or "none"
            raise InputError(f"{where}: {name}: {_first(error)}", hint=f"its kwargs: {slots}") from error
        kwargs.append(checked.model_dump(mode="json"))
    return Verifiable(row.key, row.prompt, tuple(ids), tuple(kwargs))


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))


class Followed(NamedTuple):
    """By instruction, whether an answer follows it; None where nobody can tell."""

    strict: tuple[bool | None, ...]
    loose: tuple[bool | None, ...]
    """As it stands, or without asterisks, its first line or its last: whichever way does."""


def followed(item: Verifiable, answer: str, behaviour: Behaviour = "strict") -> Followed:
    """Which of a prompt's instructions an answer follows. An empty one follows none."""
    texts = _variants(answer)
    strict, loose = [], []
    for name, kwargs in zip(item.ids, item.kwargs, strict=True):
        check = TYPES[name].check if behaviour == "strict" else TYPES[name].compat
        verdicts = [check(text, **kwargs) if text.strip() else False for text in texts[:1]]
        if not verdicts[0]:
            verdicts += [check(text, **kwargs) for text in texts[1:] if text.strip()]
        strict.append(verdicts[0])
        loose.append(any(verdicts) or (None if None in verdicts else False))
    return Followed(tuple(strict), tuple(loose))


def _variants(answer: str) -> list[str]:
    """The answer, and what else loose verdicts look at; each once."""
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys((*cut, *(text.replace("*", "") for text in cut))))


class Tally(NamedTuple):
    """How many were followed, of how many. What is unknown is not followed."""

    of: int
    strict: int
    loose: int
    unknown: int
    """Of which nobody could tell whether they were, strictly."""


class Accuracy(NamedTuple):
    """The figures of the paper's tables."""

    prompts: Tally
    """A prompt is followed when each of its instructions is."""
    instructions: Tally
    groups: dict[str, Tally]
    types: dict[str, Tally]


def accuracy(items: Iterable[Verifiable], answers: Iterable[Followed]) -> Accuracy:
    """How many prompts and instructions were followed, over all of them and by what they ask for."""
    prompts: list[tuple[bool | None, bool | None]] = []
    types: defaultdict[str, list[tuple[bool | None, bool | None]]] = defaultdict(list)
    for item, (strict, loose) in zip(items, answers, strict=True):
        prompts.append((_all(strict), _all(loose)))
        for name, *pair in zip(item.ids, strict, loose, strict=True):
            types[name].append((pair[0], pair[1]))
    groups: defaultdict[str, list[tuple[bool | None, bool | None]]] = defaultdict(list)
    for name in TYPES:
        groups[name.partition(":")[0]] += types[name]
    return Accuracy(
        _tally(prompts),
        _tally([pair for pairs in types.values() for pair in pairs]),
        {group: _tally(pairs) for group, pairs in groups.items() if pairs},
        {name: _tally(types[name]) for name in TYPES if types[name]},
    )


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    return None if None in verdicts and False not in verdicts else all(verdicts)


def _tally(pairs: Sequence[tuple[bool | None, bool | None]]) -> Tally:
    strict, loose = ([pair[at] for pair in pairs] for at in (0, 1))
    return Tally(len(pairs), strict.count(True), loose.count(True), strict.count(None))
