"""The root verb of an English instruction and its direct object: by rules and a lexicon, or by a model of spaCy.

A question has no such verb: it counts under ``ask:what``, ``ask:how``, …, with what it asks about.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from selfinstruct.report.english import (
    ASKING,
    AUXILIARY,
    CAUSING,
    CLAUSE,
    DETERMINER,
    LEXICON,
    NO_HEAD,
    NUMBER,
    OF,
    PARTICLE,
    PHRASAL,
    POLITE,
    PRONOUN,
    STOP,
    singular,
)


class Root(NamedTuple):
    """What an instruction tells to do, and with what; each is None where it cannot be told."""

    verb: str | None
    noun: str | None


_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[^\w\s]|_")
_SENTENCE = re.compile(r"(?<=[.!?])[\"'\u2019\u201d)]*\s+|\n")
_LONGEST = 2_000
"""Characters of a sentence that are looked at."""


def root(instruction: str) -> Root:
    """The root of an instruction's first sentence, by rules.

    >>> root("Given two dates, please write a short list of the holidays between them.")
    Root(verb='write', noun='holiday')
    """
    sentence = next((part for part in _SENTENCE.split(instruction.strip()) if part.strip()), "")[:_LONGEST]
    words = [word.lower() for word in _TOKEN.findall(sentence)]
    at = _politely(words, 0)
    asks = at < len(words) and words[at] in ASKING | AUXILIARY
    if not asks and at < len(words) and words[at] in CLAUSE:
        at = _main_clause(words, at)
    elif not asks and not _tells(words, at):
        at = _main_clause(words, at - 1)
    if at >= len(words):
        return Root(None, None)
    if words[at] in ASKING:
        return _question(words, at)
    if words[at] in AUXILIARY and (words[-1] == "?" or words[at] not in ("do", "have")):
        return Root("ask:is", _object(words, at + 1, to_verb=True))
    return Root(words[at], _object(words, _behind_verb(words, at), to_verb=words[at] in CAUSING))


def _politely(words: Sequence[str], at: int) -> int:
    """Where it goes on behind "please", "can you", "your task is to" and adverbs."""
    while at < len(words):
        phrase = next((phrase for phrase in POLITE if tuple(words[at : at + len(phrase)]) == phrase), ())
        adverb = len(words[at]) > 4 and words[at].endswith("ly") and words[at] not in LEXICON
        step = len(phrase) or int(adverb or words[at] in "\"'\u201c(-*")
        if not step or at + step >= len(words):
            return at
        at += step
    return at


def _tells(words: Sequence[str], at: int) -> bool:
    """Whether what stands there may be the verb of an order."""
    return at < len(words) and words[at] in LEXICON and words[at] not in AUXILIARY - {"do", "have"}


def _main_clause(words: Sequence[str], at: int) -> int:
    """Behind the first comma, colon or semicolon that an order or a question follows; else the first word that can be a
    verb where it stands. The end where there is none."""
    for place in range(max(at, 0), len(words)):
        if words[place] in ",:;\u2014\u2013":
            begin = _politely(words, place + 1)
            if _tells(words, begin) or (begin < len(words) and words[begin] in ASKING):
                return begin
    inner = DETERMINER | NUMBER | (STOP - {"to", "then", "and"})
    for place in range(max(at, 0) + 1, len(words)):
        before = words[place - 1]
        if _tells(words, place) and before not in inner and before not in PRONOUN | {"'", '"'}:
            return place
    return len(words)


def _question(words: Sequence[str], at: int) -> Root:
    asked, helped = at + 1, False
    if words[at] == "how" and asked < len(words) and words[asked] in ("many", "much"):
        asked += 1
    if asked < len(words) and words[asked] in AUXILIARY:
        asked, helped = asked + 1, True  # why do bees dance in the dark: what they do ends the phrase
    noun = _object(words, asked, to_verb=helped)
    if noun is None and asked < len(words) and words[asked] in PRONOUN and _tells(words, asked + 1):
        noun = _object(words, asked + 2)  # how do I bake a cake?
    return Root(f"ask:{words[at]}", noun)


def _behind_verb(words: Sequence[str], at: int) -> int:
    """Where the object may begin: behind particles and an indirect object."""
    place = at + 1
    place += place < len(words) and words[place] in PARTICLE
    place += place < len(words) and words[place] == PHRASAL.get(words[at])
    if words[place : place + 2] in (["to", "me"], ["to", "us"]):
        return place + 2
    return place + (place < len(words) and words[place] in PRONOUN)


def _object(words: Sequence[str], at: int, *, to_verb: bool = False) -> str | None:
    """The head of the noun phrase that begins there, in the singular. ``to_verb``: any verb ends it."""
    phrase: list[str] = []
    place = at
    while place < len(words):
        word = words[place]
        after = words[place + 1] if place + 1 < len(words) else ""
        if word == "of" and phrase and phrase[-1] in OF:
            phrase = []
        elif word in (",", "and") and phrase and phrase[-1] in NO_HEAD and after[:1].isalpha():
            pass  # a short, funny story
        elif word in ("one", "ones") and not phrase and (not after or after in STOP or not after[:1].isalnum()):
            phrase.append("one")
        elif word in PRONOUN or (word in STOP and word not in DETERMINER) or (phrase and word in DETERMINER):
            break
        elif word in DETERMINER or word in NUMBER or (not phrase and word in '"\u201c\u2018\u00ab'):
            pass
        elif not word[:1].isalnum() or (phrase and _ends_phrase(word, after, to_verb=to_verb)):
            break
        elif not word[:1].isdigit():
            phrase.append(word)
        place += 1
    heads = [word for word in phrase if len(word) > 1 and word not in NO_HEAD and not re.match(r"\w{3,}ly\Z", word)]
    head = (heads or [""])[-1].removesuffix("'s").removesuffix("\u2019s")
    return singular(head) if len(head) > 1 and head[:1].isalpha() else None


def _ends_phrase(word: str, after: str, *, to_verb: bool) -> bool:
    """A second verb: "the words used in", "the sentence sound better", "a letter explaining why"."""
    last = not after or after in STOP or not after[:1].isalnum()
    if to_verb and word in LEXICON and not last:
        return True
    if word.endswith("ed") and len(word) > 4:
        return last
    return word.endswith("ing") and len(word) > 5 and (after in DETERMINER or after in ASKING)


def english_model() -> Any:
    """An English model of spaCy, or None where there is none."""
    try:
        spacy = importlib.import_module("spacy")
        name = next(name for name in sorted(spacy.util.get_installed_models()) if name.startswith("en_"))
        return spacy.load(name, exclude=["ner"])
    except (ImportError, StopIteration, OSError):
        return None


def parsed(model: Any, texts: Sequence[str]) -> Iterator[Root]:
    """Breadth-first from the root of the first sentence to the first verb, and its direct object."""
    whole = (text.strip()[:_LONGEST].encode("utf-8", "replace").decode() for text in texts)  # no halves of surrogates
    for document in model.pipe(whole):
        found = Root(None, None)
        waiting = [sentence.root for sentence in list(document.sents)[:1]]
        while waiting and found.verb is None:
            token = waiting.pop(0)
            if token.pos_ == "VERB":
                nouns = (
                    child.lemma_.lower()
                    for child in token.children
                    if child.dep_ in ("dobj", "obj") and child.pos_ in ("NOUN", "PROPN")
                )
                found = Root(token.lemma_.lower(), next(nouns, None))
            waiting += token.children
        yield found
