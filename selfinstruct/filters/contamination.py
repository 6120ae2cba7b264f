"""The rule against benchmarks: a record may not be one of their items, share a long run of words with it, or cover it.

Three rules (docs/decontaminate.md), each on the words of ``tokens(text, "unicode")``: a text that is an item but for
case, blanks and punctuation; 13 words in a row that an item has too (OPT-IML, Iyer et al. 2022); more than half of an
item's words within runs of 8 words that one record has too (Tülu 3, Lambert et al. 2024).

13 words in a row are six runs of 8, one after another on both sides, so one table of the benchmarks' runs finds both:
sorted 64-bit hashes, each hit confirmed on the words. It takes 16 bytes a word (hash, place and the word's number), 12
a text for its exact form, and the vocabulary once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from array import array
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfinstruct.errors import UsageError
from selfinstruct.evalsets import empty, read_items
from selfinstruct.filters.novelty import tokens
from selfinstruct.filters.text import normal_form
from selfinstruct.recipe import RULE, Decontaminate, Recipe
from selfinstruct.records import Objection, Record
from selfinstruct.words import HAN, THAI

if TYPE_CHECKING:
    from selfinstruct.operators import Setting

ALONE = 4
"""Words of an item that counts where it is a record's whole input; a shorter one ("yes") only where it is all that the
record asks."""
TOLD = 30
"""Words of what is shared that a report tells at the most."""

log = logging.getLogger("selfinstruct")

Rule = Literal["exact", "run", "coverage"]
RULES: tuple[Rule, ...] = ("exact", "run", "coverage")
"""From the surest on."""


class Hit(NamedTuple):
    """A text of a benchmark that a record overlaps."""

    benchmark: int
    """By its place among the names in order."""
    item: int
    """By its place in the benchmark."""
    line: int
    exact: bool
    run: int
    """Words of the longest run that both have; 0 below a gram's."""
    coverage: float
    """The share of the text's words within grams that the record has; 1 where it is exact."""
    rules: tuple[Rule, ...]
    """Those that it offends, the surest first."""
    begin: int
    """Where in all benchmarks' words those begin that both have, the longest run of them, and …"""
    length: int
    """… how many they are: all of the text where it is exact."""


class Benchmarks:
    """The items of all benchmarks, and which of them a record overlaps. An item without any word is none.

    ``contents`` holds each file's bytes by a name that tells by its ending what it is; ``sources`` what errors call it,
    and where it is a file that nobody read before: what is left out of it is warned of.
    Raises InputError with file:line, UsageError where a package is missing that reads one.
    """

    def __init__(
        self, table: Decontaminate, contents: Mapping[str, bytes], sources: Mapping[str, str] | None = None
    ) -> None:
        self.table = table
        self.names = tuple(sorted(contents))  # however they were named on the command line
        self.sha256 = tuple(hashlib.sha256(contents[name]).hexdigest() for name in self.names)
        self.items: list[int] = []
        """How many with a word in them each benchmark has."""
        self._number: dict[str, int] = {}  # of each word, from 1: 0 is one that no benchmark has
        self._words = array("i")  # of all texts, one after another
        starts, first = array("q"), 0
        self._lines, self._item_of, self._first = array("i"), array("i"), [0]
        exact = array("Q")
        for name in self.names:
            source, wordless = (sources or {}).get(name, name), 0
            for item in read_items(contents[name], name, source):
                texts = len(starts)
                for text in item.texts:
                    words = tokens(text, "unicode")
                    if words:
                        starts.append(len(self._words))
                        self._words.extend(self._number.setdefault(word, len(self._number) + 1) for word in words)
                        self._item_of.append(len(self._lines))
                        exact.append(_hash(normal_form(text)))
                if len(starts) > texts:
                    self._lines.append(item.line)
                else:
                    wordless += 1
            if len(self._lines) == first:
                raise empty(source)
            if wordless and name in (sources or {}):
                what = "item has no word, and is" if wordless == 1 else "items have no word, and are"
                log.warning("%s: %d %s left out of the count", source, wordless, what)
            self.items.append(len(self._lines) - first)
            first = len(self._lines)
            self._first.append(first)
        self._starts = np.array([*starts, len(self._words)], np.int64)
        self._numbers = np.frombuffer(self._words, np.intc) if self._words else np.empty(0, np.intc)
        forms = np.array(exact, np.uint64)
        order = np.argsort(forms, kind="stable")
        self._exact, self._exact_texts = forms[order], order.astype(np.int32)
        self._grams, self._places = self._sorted_grams()

    def _sorted_grams(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """The hashes of all runs of ``grams`` words that lie within one text, in order, and where each begins."""
        hashes = _hashes(self._numbers, self.table.grams)
        ends = np.repeat(self._starts[1:], np.diff(self._starts))
        places = np.arange(len(hashes))
        places = places[places + self.table.grams <= ends[: len(hashes)]]
        hashes = hashes[places]
        order = np.argsort(hashes, kind="stable")
        return hashes[order], places[order].astype(np.uint32)

    def hits(self, record: Record) -> list[Hit]:
        """Every text that the record overlaps, in the order of benchmarks and lines."""
        exact = self._same(record)
        shared = self._shared(record)
        lengths = np.diff(self._starts)
        found = []
        for text in sorted(exact | shared.keys()):
            run, covered, begin = shared.get(text, (0, 0, 0))
            coverage = 1.0 if text in exact else covered / int(lengths[text])
            tests = (text in exact, run >= self.table.words, covered / int(lengths[text]) > self.table.coverage)
            rules = tuple(rule for rule, offends in zip(RULES, tests, strict=True) if offends)
            if rules:
                item = self._item_of[text]
                benchmark = next(at for at, first in enumerate(self._first[1:]) if item < first)
                place = item - self._first[benchmark]
                line, length = self._lines[item], run
                if text in exact:
                    begin, length = int(self._starts[text]), int(lengths[text])
                found.append(Hit(benchmark, place, line, text in exact, run, coverage, rules, begin, length))
        return found

    def where(self, hit: Hit) -> str:
        """The item, as file:line."""
        return f"{self.names[hit.benchmark]}:{hit.line}"

    def words(self, hit: Hit) -> str:
        """The words that both have: of an exact hit all of the text's, otherwise the longest run of them; without case
        and punctuation, and cut after ``TOLD``."""
        numbers = self._words[hit.begin : hit.begin + min(hit.length, TOLD)]
        words = _BLANK_BETWEEN.sub("", " ".join(self._spelt[number - 1] for number in numbers))
        return f"{words} …" if hit.length > TOLD else words

    @cached_property
    def _spelt(self) -> list[str]:
        return list(self._number)

    def told(self, hit: Hit) -> str:
        """What a hit is, for a person."""
        where = self.where(hit)
        if hit.exact:
            return f"exact: says the same as {where}"
        if hit.rules[0] == "run":
            return f"{self.table.words}-gram: {hit.run} words in a row as in {where}, coverage {hit.coverage:.2f}"
        return f"{self.table.grams}-gram: coverage {hit.coverage:.2f} of {where}"

    def label(self, rule: Rule) -> str:
        """The rule's name in reports: by how many words it is."""
        return {"exact": "exact", "run": f"{self.table.words}-gram", "coverage": f"{self.table.grams}-gram"}[rule]

    def _same(self, record: Record) -> set[int]:
        """The texts that are the whole question of a record, or its input."""
        question = f"{record.instruction}\n{record.input}" if record.input.strip() else record.instruction
        forms = [(question, 1)]
        if record.input.strip():
            forms.append((record.input, ALONE))
        found: set[int] = set()
        for text, least in forms:
            length = len(tokens(text, "unicode"))
            if length >= least:
                form = np.uint64(_hash(normal_form(text)))
                first, end = np.searchsorted(self._exact, form, "left"), np.searchsorted(self._exact, form, "right")
                found.update(self._exact_texts[first:end].tolist())
        return found

    def _shared(self, record: Record) -> dict[int, tuple[int, int, int]]:
        """By text: the longest run of words that the record has too, how many of the text's words are covered, and
        where that run begins; of several of that length, the first in the text."""
        grams = self.table.grams
        words = tokens(f"{record.instruction}\n{record.input}\n{record.output}", "unicode")
        known = np.fromiter((self._number.get(word, 0) for word in words), np.intc, len(words))
        hashes = _hashes(known, grams)
        first, end = np.searchsorted(self._grams, hashes, "left"), np.searchsorted(self._grams, hashes, "right")
        counts = end - first
        if not counts.any():
            return {}
        # Every pair of a run of the record and one of a benchmark with the same hash; then those of the same words.
        ours = np.repeat(np.arange(len(hashes)), counts)
        steps = np.arange(len(ours)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = self._places[np.repeat(first, counts) + steps].astype(np.int64)
        same = np.ones(len(ours), bool)
        for at in range(grams):
            same &= self._numbers[places + at] == known[ours + at]
        ours, places = ours[same], places[same]
        if not len(places):
            return {}
        longest: dict[int, tuple[int, int]] = {}
        for text, run, begin in zip(*(one.tolist() for one in self._runs(ours, places)), strict=True):
            longest[text] = max((run, -begin), longest.get(text, (0, 0)))
        places = np.unique(places)
        # Where the next run begins sooner than this one ends, only what lies before it is counted here. Runs of two
        # texts never do.
        added = np.minimum(np.diff(places, append=places[-1] + grams), grams)
        found, begin = np.unique(self._text_at(places), return_index=True)
        covered = np.add.reduceat(added, begin)
        counted = zip(found.tolist(), covered.tolist(), strict=True)
        return {text: (longest[text][0], count, -longest[text][1]) for text, count in counted}

    def _runs(
        self, ours: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The text, the length in words and the place of every run that is common and longer on neither side."""
        apart = places - ours
        order = np.lexsort((places, apart))
        apart, places = apart[order], places[order]
        begins = np.flatnonzero(np.r_[True, (np.diff(apart) != 0) | (np.diff(places) != 1)])
        lengths = np.diff(np.r_[begins, len(places)]) + self.table.grams - 1
        return self._text_at(places[begins]), lengths, places[begins]

    def _text_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, places, "right") - 1


def nearest(hits: list[Hit]) -> Hit:
    """The one that a report names: by the surest rule, then by how much of it is there, then the first."""
    return max(hits, key=lambda hit: (-RULES.index(hit.rules[0]), hit.coverage, hit.run))


class Overlap(NamedTuple):
    """What a record shares with an item, for a person."""

    item: str
    """The item's text that it overlaps, whole."""
    words: str
    """As ``Benchmarks.words``."""
    run: int
    """As in ``Hit``, and …"""
    coverage: float


def overlap(table: Decontaminate, content: bytes, where: str, record: Record) -> Overlap | None:
    """What a record shares with the item at a place (``Benchmarks.where``) of a benchmark with that content; None where
    that is nothing."""
    name, _, line = where.rpartition(":")
    texts = [text for item in read_items(content, name, name) if str(item.line) == line for text in item.texts]
    worded = [text for text in texts if tokens(text, "unicode")]
    if not worded:
        return None
    # Several items may begin on one line: each of their texts becomes an item of its own here.
    alone = Benchmarks(table, {"texts.jsonl": "".join(f"{json.dumps(text)}\n" for text in worded).encode()})
    hits = alone.hits(record)
    if not hits:
        return None
    hit = nearest(hits)
    return Overlap(worded[hit.item], alone.words(hit), hit.run, round(hit.coverage, 4))


_BLANK_BETWEEN = re.compile(f"(?<=[{HAN}{THAI}]) (?=[{HAN}{THAI}])")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def _hashes(numbers: NDArray[np.intc], grams: int) -> NDArray[np.uint64]:
    """A hash of each run of so many words."""
    count = max(len(numbers) - grams + 1, 0)
    whole = np.zeros(count, np.uint64)
    for at in range(grams):
        whole = (whole ^ numbers[at : at + count].astype(np.uint64)) * _FACTOR  # unsigned: it wraps around
        whole ^= whole >> np.uint64(29)
    return whole


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


class Contaminated:
    """Overlaps an item of a benchmark (``--decontaminate``). Judged of a draft before anything is paid for its answer,
    and of the whole record once it has input and output: what is trained on is all of it."""

    def __init__(self, recipe: Recipe) -> None:
        self._benchmarks: Benchmarks | None = None

    def prepare(self, setting: Setting) -> None:
        self._benchmarks = setting.benchmarks

    def objection(self, record: Record) -> Objection | None:
        hits = self._benchmarks.hits(record) if self._benchmarks is not None else []
        if not hits:
            return None
        assert self._benchmarks is not None
        hit = nearest(hits)
        where = self._benchmarks.where(hit)
        return Objection(by=RULE, why=self._benchmarks.told(hit), neighbour=where, score=round(hit.coverage, 4))


def check_decontamination(recipe: Recipe, *, given: bool) -> None:
    """Raises UsageError where no benchmark is given, and yet the recipe has a rule or thresholds for one."""
    if given:
        return
    asked = {*recipe.filters.draft, *recipe.filters.answer} - set(recipe.filters.off)
    if RULE in asked or recipe.decontaminate != Decontaminate():
        what = f"the rule {RULE!r} compares" if RULE in asked else "the table `decontaminate` bounds"
        raise UsageError(f"{what} nothing here", hint="--decontaminate FILE names a benchmark")


def overlapping(benchmarks: Benchmarks, records: Iterator[tuple[str, Record]]) -> Iterator[tuple[str, str]]:
    """Of records with a name each: those that overlap, and what they overlap."""
    for name, record in records:
        hits = benchmarks.hits(record)
        if hits:
            yield name, benchmarks.told(nearest(hits))
