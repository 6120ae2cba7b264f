"""Novelty: every answer of the index is the one that rouge-score gives, ties included."""

# ruff: noqa: RUF001 - letters of other scripts are meant
from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rapidfuzz import process
from rapidfuzz.distance import LCSseq
from rouge_score import rouge_scorer, scoring
from rouge_score.tokenize import tokenize

from selfinstruct.filters import arrays
from selfinstruct.filters.novelty import Neighbour, Novelty, NoveltyIndex, rouge_l, tokens
from selfinstruct.recipe import load
from selfinstruct.records import Direction, Evolution, Record

RECIPE = load("evolve/wizardlm")
SCORER = rouge_scorer.RougeScorer(["rougeL"])
CORPUS = Path(__file__).parents[2] / "shared" / "corpus" / "instructions.jsonl.gz"

THRESHOLDS = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.8, 1.0])
WORDS = st.integers(3, 8).flatmap(lambda size: st.lists(st.sampled_from("abcdefgh"[:size]), max_size=26))
TEXTS = WORDS.map(" ".join)
"""Few different words, so that ties, repetitions and near-duplicates abound."""


def near(text: str) -> st.SearchStrategy[str]:
    """``text`` with a few words dropped, doubled, changed or moved."""
    edits = st.lists(
        st.tuples(st.integers(0, 25), st.sampled_from(["", "a", "b", "new", "a b"]) | st.integers(0, 25)), max_size=4
    )

    def edited(changes: list[tuple[int, str | int]]) -> str:
        words = text.split()
        for place, change in changes:
            moved = words[place : place + 1]
            words[place : place + 1] = [change] if isinstance(change, str) else []
            if isinstance(change, int):
                words[change:change] = moved
        return " ".join(words)

    return edits.map(edited)


FAMILIES = st.lists(TEXTS, min_size=1, max_size=4).flatmap(
    lambda texts: st.lists(st.sampled_from(texts).flatmap(near) | TEXTS, max_size=24)
)


@cache
def rouge(a: str, b: str) -> float:
    return float(SCORER.score(a, b)["rougeL"].fmeasure)


class Restless(NoveltyIndex):
    """Orders its words by rarity after 2, 4, 8, … texts instead of after hundreds."""

    _order_first_at = 2
    _compiled_from = 1 << 40


class Early(Restless):
    """Looks at places from the first entry on."""

    def __init__(self, threshold: float = 0.7) -> None:
        class Few(arrays.Arrays):
            _many = 0

        super().__init__(threshold)
        self._texts = Few(threshold)


class Turning(Restless):
    """Moves into the compiled search after a few texts."""

    _compiled_from = 3


NUMBA = pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed: pip install 'selfinstruct[fast]'")
SEARCHES = pytest.mark.parametrize("search", [Restless, Early, pytest.param(Turning, marks=NUMBA)])


def by_hand(pool: dict[int, str], text: str) -> list[Neighbour]:
    """Everything in the pool, nearest first, earlier first among equals, by rouge-score alone."""
    scored = [Neighbour(position, rouge(kept, text)) for position, kept in pool.items()]
    return sorted(scored, key=lambda neighbour: (-neighbour.f, neighbour.position))


def nearest_by_hand(pool: dict[int, str], text: str, threshold: float) -> Neighbour | None:
    return next((neighbour for neighbour in by_hand(pool, text) if neighbour.f > threshold), None)


# tokens


@given(st.text())
def test_rouge_tokens_are_rouge_scores_own(text):
    assert tokens(text, "rouge") == tokenize(text, None)


@given(st.text(st.characters(max_codepoint=0x250) | st.sampled_from("İKſßéΣ\u0301\u2028\x1c_")))
def test_rouge_tokens_are_rouge_scores_own_around_latin(text):
    assert tokens(text, "rouge") == tokenize(text, None)


@given(st.text(st.characters(max_codepoint=127)))
def test_both_tokenizers_agree_on_ascii(text):
    assert tokens(text, "unicode") == tokens(text, "rouge")


@given(st.text())
def test_unicode_tokens_hold_every_letter_and_digit_in_order_and_no_blank(text):
    words = tokens(text, "unicode")
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    assert [c for word in words for c in word if c.isalnum()] == [c for c in folded if c.isalnum()]
    assert all(word[0].isalnum() for word in words)


@given(st.text())
def test_unicode_tokens_do_not_depend_on_how_accents_are_encoded(text):
    assert tokens(unicodedata.normalize("NFD", text), "unicode") == tokens(
        unicodedata.normalize("NFC", text), "unicode"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Straße, CAFÉ_1!", ["strasse", "café", "1"]),
        ("Напиши стих о море", ["напиши", "стих", "о", "море"]),
        ("कविता लिखो", ["कविता", "लिखो"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("写一首诗123。", ["写", "一", "首", "诗", "123"]),
        ("ひらがなカー々", list("ひらがなカー々")),
        ("か\u3099", ["が"]),
        ("시를 쓰세요", ["시를", "쓰세요"]),
        ("กินน้ำ ๑๒", ["กิ", "น", "น้", "ำ", "๑๒"]),
        ("\u0301 a", ["a"]),
    ],
)
def test_unicode_tokens_keep_words_whole_and_split_what_is_written_without_spaces(text, words):
    assert tokens(text, "unicode") == words


# F


@pytest.mark.parametrize(
    ("a", "b", "f"),
    [
        ("Write a short poem about the ocean.", "Write a poem about the sea", 0.769231),
        ("Explain why the sea is salty", "Write a poem about the sea", 0.333333),
        ("List five uses of copper wire", "List five uses of copper", 0.909091),
        ("Summarise the e-mail", "summarise the e mail!", 1.0),
        ("a b c d e f g", "a b c d e x y", 0.714286),
        ("a b c d e f g h i j", "a b c d e f g x y z", 0.7),
        ("写一首关于大海的诗", "写一首关于大海的诗", 0.0),
    ],
)
def test_the_known_pairs_score_as_known_and_are_near_only_above_the_threshold(a, b, f):
    index = NoveltyIndex()
    index.add(a)
    assert round(rouge_l(a, b), 6) == f
    assert rouge_l(a, b) == rouge(a, b)
    assert index.nearest(b) == (Neighbour(0, rouge(a, b)) if f > 0.7 else None)


@given(TEXTS | st.text(), TEXTS | st.text())
def test_f_is_rouge_scores_float_whichever_text_comes_first(a, b):
    assert rouge_l(a, b) == rouge_l(b, a) == rouge(a, b)


@pytest.mark.parametrize(("common", "m", "n", "is_near"), [(7, 7, 13, True), (7, 8, 12, True), (7, 10, 10, False)])
def test_at_an_exact_tie_rouge_scores_floats_decide(common, m, n, is_near):
    shared = [f"w{i}" for i in range(common)]
    index = NoveltyIndex(0.7)
    index.add(" ".join(shared + [f"x{i}" for i in range(m - common)]))
    assert (index.nearest(" ".join(shared + [f"y{i}" for i in range(n - common)])) is not None) is is_near


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0, 1), st.data())
def test_a_pair_exceeds_the_threshold_exactly_from_the_least_lcs_on(m, n, threshold, data):
    common = data.draw(st.integers(0, min(m, n)))
    if m and n and data.draw(st.booleans()):
        threshold = scoring.fmeasure(common / n, common / m)  # at the tie itself
    f = scoring.fmeasure(common / n, common / m) if m and n else 0
    least = int(arrays.least(m, np.array([n]), threshold)[0])
    assert (common >= least) == (f > threshold)


@given(st.integers(1, 300), st.floats(0, 1, exclude_max=True) | THRESHOLDS, st.integers(1, 700))
def test_the_bounds_hold_for_every_pair_above_the_threshold(m, threshold, longest):
    bounds = arrays._bound(m, threshold, longest)
    n = np.arange(max(m, longest) + 1)
    least = arrays.least(m, n, threshold)
    possible = least <= np.minimum(m, n)
    allowed = bounds.apart.take(n, mode="clip")
    assert (allowed[possible] == (m + n - 2 * least)[possible]).all()
    assert (allowed[~possible] == -1).all()
    assert (bounds.prefix >= (m - least + 1)[possible]).all()


# the index


@SEARCHES
@settings(deadline=None)
@given(FAMILIES, THRESHOLDS)
def test_greedy_decisions_are_rouge_scores_and_name_the_nearest(search, texts, threshold):
    index, pool = search(threshold), {}
    for text in texts:
        neighbour = index.nearest(text)
        assert neighbour == nearest_by_hand(pool, text, threshold)
        if neighbour is None:
            pool[index.add(text)] = text
    assert list(pool) == list(range(len(index)))


@SEARCHES
@settings(deadline=None)
@given(TEXTS.flatmap(lambda text: st.tuples(st.just(text), st.lists(near(text), min_size=1, max_size=5))))
def test_a_text_exactly_at_the_threshold_is_not_near_and_just_above_it_is(search, family):
    text, relatives = family
    pool = dict(enumerate(relatives))
    highest = by_hand(pool, text)[0]
    for threshold in (highest.f, np.nextafter(highest.f, 0)):
        index = search(float(threshold))
        for relative in relatives:
            index.add(relative)
        assert index.nearest(text) == (highest if highest.f > threshold else None)


@settings(deadline=None)
@given(FAMILIES, THRESHOLDS, TEXTS)
def test_no_text_above_the_threshold_is_lost_to_the_bounds(texts, threshold, text):
    index = Early(threshold)
    for kept in texts:
        index.add(kept)
    survivors = index._texts.survivors(index._looked_up(text)).tolist()
    assert {i for i, kept in enumerate(texts) if rouge(kept, text) > threshold} <= set(survivors)
    assert survivors == sorted(set(survivors))


@SEARCHES
@settings(deadline=None)
@given(FAMILIES, THRESHOLDS, TEXTS, st.sampled_from([1, 3, 512]))
def test_answers_do_not_depend_on_when_the_index_was_put_in_order(search, texts, threshold, text, order_at):
    class Other(search):
        _order_first_at = order_at

    restless, other = search(threshold), Other(threshold)
    for kept in texts:
        restless.add(kept)
        other.nearest(kept)
        other.add(kept)
    assert restless.nearest(text) == other.nearest(text)
    assert restless.top(text, 5) == other.top(text, 5)


class Pool(RuleBasedStateMachine):
    """An index beside a plain dict of texts that rouge-score compares one by one."""

    search: type[NoveltyIndex] = Restless

    @initialize(threshold=THRESHOLDS)
    def begin(self, threshold):
        self.index, self.threshold = self.search(threshold), threshold
        self.pool: dict[int, str] = {}
        self.given = 0

    @rule(text=TEXTS)
    def add(self, text):
        assert self.index.add(text) == self.given
        self.pool[self.given] = text
        self.given += 1

    @rule(data=st.data())
    def add_a_relative(self, data):
        self.add(self.relative(data))

    @rule(data=st.data())
    def remove(self, data):
        if self.pool:
            position = data.draw(st.sampled_from(sorted(self.pool)))
            self.index.remove(position)
            del self.pool[position]

    @rule(data=st.data())
    def refuse_to_remove_what_is_not_there(self, data):
        gone = sorted({-1, self.given, *range(self.given)} - set(self.pool))
        with pytest.raises(IndexError):
            self.index.remove(data.draw(st.sampled_from(gone)))

    @rule(data=st.data(), excluded=st.sets(st.integers(0, 30)), kind=st.sampled_from([set, frozenset, list, tuple]))
    def ask(self, data, excluded, kind):
        text = self.relative(data)
        rest = {position: kept for position, kept in self.pool.items() if position not in excluded}
        assert self.index.nearest(text) == nearest_by_hand(self.pool, text, self.threshold)
        assert self.index.nearest(text, exclude=kind(excluded)) == nearest_by_hand(rest, text, self.threshold)

    @rule(data=st.data(), k=st.integers(0, 12))
    def survey(self, data, k):
        text = self.relative(data)
        assert self.index.top(text, k) == by_hand(self.pool, text)[:k]
        scores = [rouge(kept, text) for kept in self.pool.values()]
        assert self.index.mean(text) == pytest.approx(np.mean(scores) if scores else 0, abs=1e-12)

    @invariant()
    def counts_what_is_in(self):
        assert len(self.index) == len(self.pool)

    def relative(self, data) -> str:
        return data.draw(st.sampled_from(sorted(self.pool.values())).flatmap(near) | TEXTS if self.pool else TEXTS)


Pool.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPool = Pool.TestCase


class EarlyPool(Pool):
    search = Early


EarlyPool.TestCase.settings = Pool.TestCase.settings
TestEarlyPool = EarlyPool.TestCase


class TurningPool(Pool):
    search = Turning


TurningPool.TestCase.settings = Pool.TestCase.settings
TestTurningPool = NUMBA(TurningPool.TestCase)


def test_words_beyond_the_last_code_point_are_told_apart():
    index = NoveltyIndex()
    index._next = 0x110000 - 100  # as if so many words had come before
    texts = [" ".join(f"w{i}" for i in range(start, start + 20)) for start in range(0, 300, 15)]
    for position, text in enumerate(texts):
        assert index.nearest(text) is None
        assert index.add(text) == position
    for position, text in enumerate(texts):
        assert index.nearest(text) == Neighbour(position, 1.0)
        assert index.top(text, 20) == by_hand(dict(enumerate(texts)), text)
    assert {type(codes) for codes in index._texts._codes} == {str, tuple}


def test_words_whose_numbers_are_surrogates_are_told_apart():
    index = NoveltyIndex()
    for start in range(0, 0xE100, 16):
        index.add(" ".join(f"w{i}" for i in range(start, start + 16)))
    for start in range(0xD7F0, 0xE010, 16):
        text = " ".join(f"w{i}" for i in range(start, start + 16))
        assert index.nearest(text) == Neighbour(start // 16, 1.0)
        assert [neighbour.f for neighbour in index.top(text, 2)] == [1.0, 0.0]


@SEARCHES
def test_long_texts_are_judged_exactly_and_leave_no_tables_behind(search):
    rng = random.Random(3)
    text = [f"w{rng.randrange(3000)}" for _ in range(10_000)]
    index = search(0.7)
    for i in range(5):
        index.add(" ".join(f"v{rng.randrange(50)}" for _ in range(20 * i)))
    index.add(" ".join(text))
    nearer, farther = " ".join(text[: 5385 + 10]), " ".join(text[: 5385 - 10])  # F = 0.7 at 5384.6 of 10,000
    assert index.nearest(nearer) == Neighbour(5, rouge_l(nearer, " ".join(text)))
    assert index.nearest(farther) is None
    assert 0.69 < index.top(farther, 1)[0].f <= 0.7
    assert max(index._texts._bounds._known, default=0) <= 256


@NUMBA
def test_where_machine_code_cannot_be_kept_it_is_made_anew():
    from selfinstruct.filters import compiled

    there: dict[str, Any] = {}
    exec("def twice(x):\n    return 2 * x\n", there)  # of no file: numba has no place for it
    assert compiled._compiled(there["twice"])(3) == 6


@NUMBA
def test_very_long_texts_take_no_more_memory_compiled():
    rng = random.Random(4)
    long = [f"w{rng.randrange(9000)}" for _ in range(30_000)]
    index = Turning(0.7)
    for text in ("one two", "three", "four", " ".join(long), "five"):
        index.add(text)
    changed = " ".join(long[:25_000])
    tracemalloc.start()
    assert index.nearest(changed) == Neighbour(3, rouge_l(changed, " ".join(long)))
    assert index.top("one two", 1) == [Neighbour(0, 1.0)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # its masks would take 30,000 * 25,000 bits, 94 MB


@SEARCHES
@given(st.lists(TEXTS, max_size=8), st.sampled_from([1.0, 1.5, float("inf")]))
def test_a_threshold_of_one_or_more_never_objects(search, texts, threshold):
    index = search(threshold)
    for text in texts:
        index.add(text)
        assert index.nearest(text) is None
    assert len(index) == len(texts)


@pytest.mark.parametrize("threshold", [-0.1, float("-inf"), float("nan")])
def test_a_threshold_below_zero_or_not_a_number_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        NoveltyIndex(threshold)


@SEARCHES
@given(st.floats(0, 1, exclude_max=True), WORDS.filter(bool))
def test_below_one_a_text_is_always_near_itself(search, threshold, words):
    index = search(threshold)
    index.add("something else")
    index.add(" ".join(words))
    assert index.nearest(" ".join(words)) == Neighbour(1, 1.0)


def test_texts_without_tokens_are_near_nothing():
    index = NoveltyIndex(0.0)
    for text in ["", "写一首诗", "?!", "word"]:
        index.add(text)
    assert [index.nearest(text) for text in ["", "写一首诗", "?!"]] == [None, None, None]
    assert index.mean("word") == 0.25
    assert (NoveltyIndex().mean("word"), NoveltyIndex().top("word", 3)) == (0.0, [])


def test_the_unicode_tokenizer_sees_what_rouge_score_is_blind_to():
    index = NoveltyIndex(tokenizer="unicode")
    index.add("写一首关于大海的诗")
    assert index.nearest("写一首关于大海的歌") == Neighbour(0, 8 / 9)
    assert index.nearest("解释海水为什么是咸的") is None
    assert rouge_l("写一首关于大海的诗", "写一首关于大海的歌", "unicode") == 8 / 9


def test_asking_leaves_nothing_behind():
    index = NoveltyIndex()
    index.add("one two three")
    before = len(index._number)
    index.nearest("four five five")
    index.top("four five five", 1)
    assert len(index._number) == before


def test_few_texts_are_looked_up_and_far_fewer_measured():
    rng = random.Random(5)
    words, weights = [f"w{i}" for i in range(5000)], [1 / (i + 1) for i in range(5000)]
    texts = [" ".join(rng.choices(words, weights, k=rng.randrange(6, 30))) for _ in range(2200)]
    index = NoveltyIndex()
    for text in texts[:2000]:
        index.add(text)
    posted = [len(entries) // 8 for entries in index._texts._postings]
    measured = [len(index._texts.survivors(index._looked_up(text))) for text in texts[2000:]]
    assert sum(posted) / 2000 < 10  # of 17 words
    assert sum(n * n for n in posted) / 2000 < 130  # what a text like these looks up
    assert sum(measured) / 200 < 1


def test_long_texts_are_measured_as_seldom_as_short_ones():
    rng = random.Random(6)
    words, weights = [f"w{i}" for i in range(5000)], [1 / (i + 1) for i in range(5000)]
    texts = [" ".join(rng.choices(words, weights, k=rng.randrange(50, 90))) for _ in range(1200)]
    index = NoveltyIndex()
    for text in texts[:1000]:
        index.add(text)
    measured = [len(index._texts.survivors(index._looked_up(text))) for text in texts[1000:]]
    assert sum(measured) / 200 < 5  # 64 bits alone leave hundreds


def test_a_removed_text_leaves_its_place_behind_and_nothing_else():
    rng = random.Random(7)
    index, fresh, kept = NoveltyIndex(), NoveltyIndex(), []
    for turn in range(6000):
        text = " ".join(f"{rng.randrange(300)}" for _ in range(14)) + f" turn{turn}"
        position = index.add(text)
        if turn % 20:
            index.remove(position)
        else:
            kept.append((position, text))
            fresh.add(text)
    assert len(index) == len(fresh) == 300
    waiting = 300 + index._order_first_at + 1  # what is in, and what is posted still
    assert index._texts.posted() <= 15 * waiting
    assert max(len(index._number), index._next // 2) <= 300 + waiting  # of 6,300 words
    for position, text in kept:
        relative = f"{text} and more"
        found, twin = index.nearest(relative), fresh.nearest(relative)
        assert found is not None and twin is not None and (found.position, found.f) == (position, twin.f)


# lineages


def evolved(text: str, lineage: int | None, task: str = "", direction: Direction | None = "in-depth") -> Record:
    evolution = None if lineage is None else Evolution(lineage=lineage, root="r", direction=direction)
    return Record(instruction=text, task=task or text, origin="evolve", evolution=evolution)


LINEAGES = st.sampled_from([0, 1, 2, None])


class Lineages(RuleBasedStateMachine):
    """The rule beside a plain list of what it has learnt and not forgotten, compared by rouge-score, and beside a new
    rule that never learnt the rest."""

    @initialize(threshold=THRESHOLDS)
    def begin(self, threshold):
        self.recipe = RECIPE.model_copy(update={"novelty": RECIPE.novelty.model_copy(update={"threshold": threshold})})
        self.rule, self.threshold = Novelty(self.recipe), threshold
        self.rule._index = Restless(threshold)
        self.learnt: list[Record] = []

    @rule(data=st.data(), lineage=LINEAGES, suffix=st.sampled_from("xy"))
    def learn(self, data, lineage, suffix):
        text = self.relative(data)
        record = evolved(text, lineage, f"{text}/{suffix}")
        self.rule.learn(record)
        self.learnt.append(record)

    @rule(data=st.data())
    def forget(self, data):
        if not self.learnt:
            return
        record = data.draw(st.sampled_from(self.learnt))
        self.rule.forget(record)
        last = max(at for at, other in enumerate(self.learnt) if other == record)
        del self.learnt[last]

    @rule(text=TEXTS, lineage=LINEAGES)
    def forget_what_was_never_learnt(self, text, lineage):
        self.rule.forget(evolved(text, lineage, "never learnt"))

    @rule(data=st.data(), lineage=LINEAGES)
    def ask(self, data, lineage):
        draft = evolved(self.relative(data), lineage)
        others = [
            one for one in self.learnt if lineage is None or one.evolution is None or one.evolution.lineage != lineage
        ]
        pool = {at: one.instruction for at, one in enumerate(others)}
        expected = nearest_by_hand(pool, draft.instruction, self.threshold)
        found = self.rule.objection(draft)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert (found.neighbour, found.score) == (others[expected.position].task, expected.f)
        fresh = Novelty(self.recipe)
        for one in self.learnt:
            fresh.learn(one)
        assert fresh.objection(draft) == found

    def relative(self, data) -> str:
        known = sorted({record.instruction for record in self.learnt})
        return data.draw(st.sampled_from(known).flatmap(near) | TEXTS if known else TEXTS)

    @invariant()
    def holds_no_more_than_was_learnt(self):
        assert sum(map(len, self.rule._positions.values())) == len(self.learnt) == len(self.rule._index)


Lineages.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLineages = Lineages.TestCase


def test_a_child_is_near_its_parent_by_arithmetic_and_passes_inside_its_lineage_only():
    parent = " ".join(f"kept{i}" for i in range(18))
    child = " ".join([parent, *(f"new{i}" for i in range(15))])
    assert rouge_l(parent, child) == rouge(parent, child) > 0.7
    novelty_rule = Novelty(RECIPE)
    novelty_rule.learn(evolved(parent, 4, "row", None))
    assert novelty_rule.objection(evolved(child, 4)) is None
    assert novelty_rule.objection(evolved(parent, 4)) is None  # that is another rule's
    for stranger in (evolved(child, 5), evolved(child, None)):
        found = novelty_rule.objection(stranger)
        assert found is not None and (found.neighbour, found.score) == ("row", rouge_l(parent, child))


def test_the_neighbour_is_the_earliest_of_the_nearest_outside_the_lineage():
    novelty_rule = Novelty(RECIPE)
    for lineage, task in ((1, "own row"), (2, "first"), (3, "second"), (1, "own child")):
        novelty_rule.learn(evolved("one two three four five", lineage, task))
    for asked, neighbour in ((1, "first"), (2, "own row"), (9, "own row")):
        found = novelty_rule.objection(evolved("one two three four five", asked))
        assert found is not None and found.neighbour == neighbour


def test_of_a_draft_that_was_learnt_twice_the_last_place_is_taken_back():
    novelty_rule = Novelty(RECIPE)
    twice = evolved("one two three four five", 1, "twice")
    for record in (twice, evolved("one two three four five", 2, "twin"), twice):
        novelty_rule.learn(record)
    for neighbour in ("twice", "twin"):
        novelty_rule.forget(twice)
        found = novelty_rule.objection(evolved("one two three four five", 3))
        assert found is not None and found.neighbour == neighbour


def test_a_rewritten_answer_is_no_new_text():
    novelty_rule = Novelty(RECIPE)
    novelty_rule.learn(evolved("one two three", 0, "row", None))
    novelty_rule.learn(evolved("one two three", 1, "twin", None))
    better = evolved("one two three", 0, "row", "answer")
    assert novelty_rule.objection(better) is None
    novelty_rule.learn(better)
    novelty_rule.forget(better)
    found = novelty_rule.objection(evolved("one two three", 1))
    assert found is not None and found.neighbour == "row"


@pytest.mark.slow
def test_on_real_instructions_greedy_decisions_are_rouge_scores():
    if not CORPUS.exists():
        pytest.skip(f"no corpus at {CORPUS}")
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["instruction"] for line, _ in zip(lines, range(3000), strict=False)]
    index, kept, codes, lengths = NoveltyIndex(), [], [], []
    number: dict[str, int] = {}
    near_threshold = []
    for text in texts:
        words = tokenize(text, None)
        code = "".join(chr(number.setdefault(word, len(number))) for word in words)
        expected = None
        if codes and words:
            common = process.cdist([code], codes, scorer=LCSseq.similarity, dtype=np.int32)[0]
            scores = [scoring.fmeasure(c / len(words), c / n) if n else 0 for c, n in zip(common, lengths, strict=True)]
            best = max(scores)
            near_threshold += [(text, kept[i], f) for i, f in enumerate(scores) if 0.6 < f < 0.8]
            if best > 0.7:
                expected = Neighbour(scores.index(best), best)
        assert index.nearest(text) == expected
        if expected is None:
            index.add(text)
            kept.append(text)
            codes.append(code)
            lengths.append(len(words))
    assert len(index) == len(kept) < len(texts)
    for a, b, f in random.Random(1).sample(near_threshold, min(300, len(near_threshold))):
        assert rouge(a, b) == rouge_l(a, b) == f
