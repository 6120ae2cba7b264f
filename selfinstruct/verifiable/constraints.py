"""Prompts of our own that a program can check: a task, and constraints on its answer that go together.

What is said stands in prompts/verifiable.yaml; what it was composed to, once, in seeds/verifiable.jsonl.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from random import Random
from types import MappingProxyType
from typing import Annotated, Any

import yaml
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selfinstruct.errors import InputError, UsageError
from selfinstruct.prompts import Prompts
from selfinstruct.resources import PROMPTS
from selfinstruct.verifiable.ifeval import TYPES, Verifiable

REPEAT, CHOICE = "combination:repeat_prompt", "detectable_format:constrained_response"
LETTERS = "jkqvxz"
"""Rare ones: of these an answer can have few, and does not have many by itself."""
ROWS = 200
"""Of seeds/verifiable.jsonl."""


class Base(BaseModel):
    """A task to put constraints on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    words: Annotated[tuple[str, ...], Field(min_length=5)]
    """What an answer may well say."""
    decides: bool = False
    """Whether yes, no or maybe answers it."""


class Material(BaseModel):
    """What prompts are composed of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phrasings: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]
    """By type, ways to ask for it: Jinja, with its kwargs as variables."""
    languages: dict[str, str]
    """By code, names."""
    first_words: tuple[str, ...]
    end_phrases: tuple[str, ...]
    words: Annotated[tuple[str, ...], Field(min_length=5)]
    """Where a task comes without its own."""
    bases: tuple[Base, ...] = ()


PHRASINGS = "verifiable.yaml"
"""Where it stands among the prompts."""


@cache
def material() -> Material:
    """Our own."""
    return read_material((PROMPTS / PHRASINGS).read_text(encoding="utf-8"), PHRASINGS)


def read_material(text: str, source: str) -> Material:
    """What stands in such a file. Raises InputError where it does not hold what it should."""
    try:
        found = Material.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{source}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", hint=_SHAPE) from error
    except yaml.YAMLError as error:
        raise InputError(f"{source}: {error}", hint=_SHAPE) from error
    lacks = [name for name in TYPES if name not in found.phrasings]
    if lacks:
        raise InputError(f"{source}: no phrasing of {lacks[0]}", hint=_SHAPE)
    return found


_SHAPE = f"prompts/{PHRASINGS} shows what stands in one"


# What a constraint asks for: ranges are those of Zhou et al. 2023, without what could not be followed or says nothing.


class Pool:
    """What kwargs are drawn from. A word is handed out once, so that none is both wanted and forbidden."""

    def __init__(self, task: str, words: Sequence[str], material: Material) -> None:
        self.task, self.material = task, material
        self._words = list(words)

    def words(self, rng: Random, number: int) -> list[str]:
        return [self._words.pop(rng.randrange(len(self._words))) for _ in range(number)]


Draw = Callable[[Random, Pool], dict[str, Any]]


def _number(name: str, least: int, most: int) -> Draw:
    return lambda rng, pool: {name: rng.randint(least, most)}


def _bound(number: str, relation: str, least: int, most: int, step: int = 1) -> Draw:
    def draw(rng: Random, pool: Pool) -> dict[str, Any]:
        chosen = rng.choice(("less than", "at least"))
        lowest = max(least, 2) if chosen == "less than" else least  # less than one is none at all
        return {number: rng.randrange(lowest, most + 1, step), relation: chosen}

    return draw


_occurrences = _bound("frequency", "relation", 1, 3)
_letters = _bound("let_frequency", "let_relation", 2, 6)


def _nth(rng: Random, pool: Pool) -> dict[str, Any]:
    paragraphs = rng.randint(2, 5)
    first = rng.choice(pool.material.first_words)
    return {"num_paragraphs": paragraphs, "nth_paragraph": rng.randint(1, paragraphs), "first_word": first}


def _sections(rng: Random, pool: Pool) -> dict[str, Any]:
    return {"section_spliter": rng.choice(("Section", "Part")), "num_sections": rng.randint(2, 5)}


_DRAWS: dict[str, Draw] = {
    "keywords:existence": lambda rng, pool: {"keywords": pool.words(rng, 2)},
    "keywords:frequency": lambda rng, pool: {"keyword": pool.words(rng, 1)[0], **_occurrences(rng, pool)},
    "keywords:forbidden_words": lambda rng, pool: {"forbidden_words": pool.words(rng, 2)},
    "keywords:letter_frequency": lambda rng, pool: {"letter": rng.choice(LETTERS), **_letters(rng, pool)},
    "language:response_language": lambda rng, pool: {"language": rng.choice(sorted(pool.material.languages))},
    "length_constraints:number_sentences": _bound("num_sentences", "relation", 2, 20),
    "length_constraints:number_paragraphs": _number("num_paragraphs", 2, 5),
    "length_constraints:number_words": _bound("num_words", "relation", 100, 500, step=10),
    "length_constraints:nth_paragraph_first_word": _nth,
    "detectable_content:number_placeholders": _number("num_placeholders", 1, 4),
    "detectable_content:postscript": lambda rng, pool: {"postscript_marker": rng.choice(("P.S.", "P.P.S"))},
    "detectable_format:number_bullet_lists": _number("num_bullets", 2, 5),
    "detectable_format:number_highlighted_sections": _number("num_highlights", 1, 4),
    "detectable_format:multiple_sections": _sections,
    REPEAT: lambda rng, pool: {"prompt_to_repeat": pool.task},
    "startend:end_checker": lambda rng, pool: {"end_phrase": rng.choice(pool.material.end_phrases)},
    "change_case:capital_word_frequency": _bound("capital_frequency", "capital_relation", 1, 20),
}
"""The other types have no kwargs."""


def draw(name: str, rng: Random, pool: Pool) -> dict[str, Any]:
    """Kwargs of a type that an answer can keep to."""
    return _DRAWS[name](rng, pool) if name in _DRAWS else {}


# What goes with what.

_FULL = {name.partition(":")[2]: name for name in TYPES}


def _all_but(*names: str) -> frozenset[str]:
    return frozenset(_FULL) - set(names)


_AGAINST: Mapping[str, Iterable[str]] = {
    # Zhou et al. 2023, each said from one side. What a type has against itself goes without saying.
    "constrained_response": _all_but(),
    "json_format": _all_but("existence", "forbidden_words"),
    "two_responses": _all_but("existence", "forbidden_words", "no_comma", "response_language"),
    "repeat_prompt": _all_but("existence", "number_placeholders", "number_highlighted_sections", "title", "postscript"),
    "response_language": (
        *("existence", "frequency", "forbidden_words", "multiple_sections", "end_checker"),
        *("english_capital", "english_lowercase", "capital_word_frequency"),
        *("letter_frequency", "number_words", "nth_paragraph_first_word"),  # ours: of words in Latin letters
    ),
    "number_paragraphs": ("nth_paragraph_first_word",),
    "english_capital": ("english_lowercase", "capital_word_frequency"),
    "english_lowercase": ("capital_word_frequency",),
    "multiple_sections": ("number_highlighted_sections", "number_paragraphs"),
    "quotation": ("title",),
    # Ours: some of their kwargs cannot be kept together, or a reader would not know how.
    "number_sentences": (
        *("number_paragraphs", "nth_paragraph_first_word", "number_words", "number_bullet_lists", "multiple_sections"),
        *("end_checker", "postscript", "title"),
    ),
    "nth_paragraph_first_word": ("title", "postscript", "multiple_sections", "number_bullet_lists"),
    "letter_frequency": ("existence", "frequency", "nth_paragraph_first_word", "end_checker"),
    "end_checker": ("postscript", "quotation", "english_capital", "english_lowercase"),
    "english_capital, english_lowercase": ("multiple_sections", "postscript"),
    "capital_word_frequency": ("postscript",),
}


def _conflicts(short: str) -> frozenset[str]:
    named = (one for ones, others in _AGAINST.items() for one in ones.split(", ") if short in others)
    own = (other for ones, others in _AGAINST.items() if short in ones.split(", ") for other in others)
    return frozenset(_FULL[one] for one in (short, *named, *own))


CONFLICTS: Mapping[str, frozenset[str]] = MappingProxyType({name: _conflicts(short) for short, name in _FULL.items()})
"""By type, those that do not go with it; itself among them."""


def conflicting(one: str, other: str) -> bool:
    """Whether two types cannot be asked for in one prompt."""
    return other in CONFLICTS[one]


# Prompts.


def compose(
    task: str,
    rng: Random,
    phrasings: Material,
    number: int,
    *,
    words: Sequence[str] = (),
    types: Iterable[str] = TYPES,
    used: Counter[str] | None = None,
) -> Verifiable:
    """A task with so many constraints that go together, of the types that were ``used`` the least, and now once more.

    ``words`` are those that constraints on words are about. Raises UsageError where so many do not go together,
    InputError for a phrasing that cannot be rendered.
    """
    used = Counter() if used is None else used
    ids = _compatible(sorted(types, key=lambda name: (used[name], rng.random())), number)
    ids.sort(key=lambda name: name != REPEAT)  # it says "above", and means the task alone
    used.update(ids)
    pool = Pool(task, words or phrasings.words, phrasings)
    kwargs = [draw(name, rng, pool) for name in ids]
    asked = [
        _asked(rng.choice(phrasings.phrasings[name]), one, phrasings) for name, one in zip(ids, kwargs, strict=True)
    ]
    return Verifiable(0, f"{task}\n\n{' '.join(asked)}", tuple(ids), tuple(kwargs))


def _compatible(names: Sequence[str], number: int) -> list[str]:
    """The first so many that go together."""
    for start in range(len(names)):
        chosen: list[str] = []
        for name in names[start:]:
            if not any(conflicting(name, other) for other in chosen):
                chosen.append(name)
            if len(chosen) == number:
                return chosen
    raise UsageError(f"no {number} of these types go together", hint="ask for fewer in a prompt, or allow more types")


def _asked(phrasing: str, kwargs: dict[str, Any], phrasings: Material) -> str:
    try:
        return str(_library().compile(phrasing).render(kwargs | {"languages": phrasings.languages}))
    except TemplateError as error:
        raise InputError(f"{phrasing!r}: {error}", hint="a phrasing is Jinja, its variables are the kwargs") from error


@cache
def _library() -> Prompts:
    return Prompts(stored={})


def suite() -> Iterator[Verifiable]:
    """What seeds/verifiable.jsonl holds: one constraint in 60 % of the prompts, two in 30 %, three in 10 %, every type
    about as often, and none twice with the same task."""
    ours, used, rng = material(), Counter[str](), Random("verifiable")
    had: defaultdict[str, set[str]] = defaultdict(set)
    bases: list[Base] = []
    for key in range(1, ROWS + 1):
        bases = bases or rng.sample(ours.bases, len(ours.bases))
        base = bases.pop()
        out = had[base.task] if base.decides else had[base.task] | {CHOICE}
        types = [name for name in TYPES if name not in out]
        number = (1, 2, 1, 1, 3, 2, 1, 1, 2, 1)[key % 10]
        item = compose(base.task, rng, ours, number, words=base.words, types=types, used=used)
        had[base.task].update(item.ids)
        yield item._replace(key=key)
