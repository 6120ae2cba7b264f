"""The measures of a report, each alone: MTLD and distinct-n by hand, the nearest by brute force, fits and spans."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from selfinstruct.filters.novelty import rouge_l
from selfinstruct.recipe import Recipe, load
from selfinstruct.records import Evolution, Record
from selfinstruct.report.costs import busy
from selfinstruct.report.curves import Fit, fit, projected
from selfinstruct.report.diversity import Field, distinct, mtld
from selfinstruct.report.nearest import Nearest
from selfinstruct.report.rows import Row
from selfinstruct.report.texts import binned

SCORER = rouge_scorer.RougeScorer(["rougeL"])


# MTLD and distinct n-grams.


def numbered(text: str) -> list[int]:
    known: dict[str, int] = {}
    return [known.setdefault(word, len(known)) for word in text.split()]


def test_mtld_by_hand() -> None:
    # Forwards a b a falls to 2/3, a full factor; then b c and what is left: a ratio of 1, no part of one.
    # Backwards c b a b falls no lower than 3/4, with the last a it is 3/5: one full factor, nothing left.
    assert mtld(numbered("a b a b c")) == pytest.approx((5 / 1 + 5 / 1) / 2)
    # Forwards "a b c a": 3/4 is above 0.72, so one part: (1 - 0.75) / 0.28. Backwards "a c b a": the same.
    assert mtld(numbered("a b c a")) == pytest.approx(4 / (0.25 / 0.28))
    # a a is 1/2 and full, each time: three factors in six words, from either end.
    assert mtld(numbered("a a b b c c")) == pytest.approx(2.0)
    assert mtld(numbered("a b c d")) is None
    assert mtld([0]) is None


def test_mtld_ends_a_factor_where_the_ratio_reaches_its_size() -> None:
    words = [*range(18), *range(7)]  # 18 types in 25 tokens: exactly 0.72
    assert mtld([*words, *range(100, 118), *range(100, 107)]) == pytest.approx(25.0)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=80))
def test_mtld_reads_both_ways(words: list[int]) -> None:
    found = mtld(words)
    assert found == mtld(words[::-1])
    assert (found is None) == (len(set(words)) == len(words))
    assert found is None or found >= 2


def hashed(text: str) -> Any:
    return np.array([hash(word) % 2**63 for word in text.split()], np.uint64)


def test_distinct_by_hand() -> None:
    texts = [hashed("the cat saw the cat"), hashed("the cat"), hashed("")]
    assert distinct(texts, 1) == (3, 7)
    assert distinct(texts, 2) == (3, 5)  # the cat, cat saw, saw the; of two texts none
    assert distinct(texts, 3) == (3, 3)
    assert distinct(texts, 6) == (0, 0)


@given(st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=12), st.integers(1, 4))
def test_distinct_counts_what_sets_count(texts: list[list[int]], n: int) -> None:
    grams = [tuple(text[at : at + n]) for text in texts for at in range(len(text) - n + 1)]
    assert distinct([np.array(text, np.uint64) for text in texts], n) == (len(set(grams)), len(grams))


def test_a_field_of_too_many_words_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfinstruct.report.diversity.WORDS", 100)
    field = Field()
    for at in range(1_000):
        field.add(f"word{at} again again")
    found = field.figures()
    assert found["texts_in_all"] == 1_000
    assert 50 <= found["words"] <= 100
    assert found["texts"] == found["words"] / 3
    assert found["vocabulary"] == found["texts"] + 1  # one in 32, from the first to the last
    assert found["texts"] == -(-1_000 // 32)


# The nearest.

WORDS = ["write", "a", "poem", "about", "the", "sea", "of", "rain", "and", "name", "each", "bird", "Ünter", "42", "-"]
EDGES = [edge / 20 for edge in range(21)]
texts = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


def row(at: int, text: str, lineage: int | None = None, direction: Any = None) -> Row:
    evolution = None if lineage is None else Evolution(lineage=lineage, root="r", direction=direction)
    record = Record(instruction=text, output="x", task=f"t{at}", origin="test", evolution=evolution)
    return Row(at, 0, kept=True, record=record, line={"id": f"r{at}"})


def brute(text: str, others: Sequence[str]) -> float:
    return max((SCORER.score(other, text)["rougeL"].fmeasure for other in others), default=0.0)


@settings(max_examples=60)
@given(st.lists(st.tuples(texts, st.none() | st.integers(0, 2)), max_size=14), st.lists(texts, max_size=4, unique=True))
def test_the_nearest_is_rouge_scores(drawn: list[tuple[str, int | None]], seeds: list[str]) -> None:
    known = [Record(instruction=text, output="x", task=f"s{at}") for at, text in enumerate(seeds)]
    near = Nearest(load("self-instruct"), known, "" if seeds else "none")
    for at, (text, lineage) in enumerate(drawn):
        near.add(row(at, text, lineage))
    found = near.figures()
    to_seed = [brute(text, seeds) for text, _ in drawn]
    to_other = [
        brute(text, [other for b, (other, own) in enumerate(drawn) if b != a and (own is None or own != lineage)])
        for a, (text, lineage) in enumerate(drawn)
    ]
    for side, values in (("seeds", to_seed if seeds else []), ("others", to_other)):
        assert found[side]["histogram"] == np.histogram(values, EDGES)[0].tolist()
        assert found[side]["mean"] == (pytest.approx(np.mean(values), abs=1e-15) if values else None)
        assert found[side]["above_0.5"] == (pytest.approx(np.mean(np.array(values) > 0.5)) if values else None)
    before = [
        max(
            to_seed[a],
            brute(text, [other for other, own in drawn[:a] if own is None or own != lineage]),
        )
        for a, (text, lineage) in enumerate(drawn)
    ]
    for most in (0, 1, 3, 100):
        closest = near.closest(most)
        assert [f for _, _, f in closest] == sorted((f for f in before if f), reverse=True)[:most]
        assert all(before[int(task.task[1:])] == f for task, _, f in closest)


def test_the_nearest_of_many_texts() -> None:
    random = Random(5)
    drawn = [" ".join(random.choices(WORDS[:-3], k=random.randint(1, 25))) for _ in range(400)]
    near = Nearest(load("self-instruct"), (), "none")
    for at, text in enumerate(drawn):
        near.add(row(at, text))
    wanted = [max(rouge_l(text, other) for other in drawn[:at] + drawn[at + 1 :]) for at, text in enumerate(drawn)]
    assert near.figures()["others"]["histogram"] == np.histogram(wanted, EDGES)[0].tolist()
    assert near.figures()["others"]["mean"] == pytest.approx(np.mean(wanted), abs=1e-15)


def test_records_of_a_task_and_rewritten_answers_are_no_task_of_their_own() -> None:
    near = Nearest(load("self-instruct"), (), "none")
    twice = row(0, "Name a bird of the sea.")
    near.add(twice)
    near.add(twice._replace(line={"id": "other"}))
    near.add(row(1, "Name a bird of the sea.", 0, "answer"))
    assert near.figures()["tasks"] == 1


def with_input() -> Recipe:
    return load("self-instruct", ("novelty.key=instruction+input", "novelty.tokenizer=unicode"))


def test_what_is_compared_is_what_the_rule_compares() -> None:
    near = Nearest(with_input(), (), "none")
    for at, said in enumerate(("один два три", "один два три")):
        record = Record(instruction="同じ" if at else "違う", input=said, output="x", task=f"t{at}")
        near.add(Row(at, 0, kept=True, record=record, line={"id": f"r{at}"}))
    assert near.figures()["others"]["mean"] == pytest.approx(0.6)
    assert near.figures()["wordless"] == 0


# Fits.


@given(st.floats(0.1, 20), st.floats(-0.3, 1.4), st.integers(8, 60), st.integers(1, 500))
def test_a_law_without_noise_is_found(a0: float, k: float, windows: int, size: int) -> None:
    ends = np.cumsum(np.full(windows, float(size)))
    middles = ends - size / 2
    counts = a0 * middles**-k * size
    found = fit(middles, counts, np.full(windows, float(size)))
    assert found is not None
    assert found.k == pytest.approx(k, abs=1e-5)
    assert found.a0 == pytest.approx(a0, rel=1e-4)


def test_noise_leaves_the_law_within_its_error() -> None:
    rng = np.random.default_rng(11)
    off = []
    for _ in range(200):
        ends = np.arange(1, 101) * 50.0
        counts = rng.poisson(3.0 * (ends - 25) ** -0.3 * 50)
        found = fit(ends - 25, counts, np.full(100, 50.0))
        assert found is not None
        off.append(abs(found.k - 0.3) / found.error)
    assert 0.85 < np.mean(np.array(off) < 1.96) <= 1.0


@given(st.floats(0.05, 5), st.floats(-0.2, 1.5), st.integers(10, 10_000), st.integers(1, 10_000))
def test_until_is_where_the_integral_reaches(a0: float, k: float, start: int, more: int) -> None:
    end = Fit(a0, k, 0.0, 20).until(start, more)
    if end == math.inf:  # what is left in all never comes to that
        assert k > 1 or a0 * start ** (1 - k) < 1e-2 * more
        return
    assume(end < 1e12)
    edges = np.geomspace(start, end, 20_001)
    middles = np.sqrt(edges[1:] * edges[:-1])
    assert float((a0 * middles**-k * np.diff(edges)).sum()) == pytest.approx(more, rel=1e-3)


def test_aprojected_says_when_not_to_be_trusted() -> None:
    sure = Fit(2.0, 0.0, 0.01, 50)
    assert projected(sure, 1_000, 500, 2_000) == {"reached": False, "requests": 1_000, "doubts": []}
    assert projected(sure, 2_000, 900, 2_000) == {"reached": True, "requests": 900, "doubts": []}
    far = projected(sure, 1_000, 500, 1_000_000)
    assert far["requests"] == 500_000
    assert far["doubts"] == ["1000 times as many requests as were seen"]
    unsure = projected(Fit(2.0, 0.0, 0.4, 5), 20, 10, 40)["doubts"]
    assert [doubt.split()[0] for doubt in unsure] == ["only", "only", "k"]
    never = projected(Fit(2.0, 1.5, 0.01, 50), 1_000, 500, 2_000)
    assert never["requests"] is None
    assert never["doubts"] == ["at this decay the target is never reached"]
    assert projected(None, 0, 500, 2_000)["requests"] is None
    assert projected(sure, 10, 500, None)["reached"] is None


@given(st.lists(st.floats(0, 100), max_size=40))
def test_nothing_to_fit_is_no_error(counts: list[float]) -> None:
    sizes = np.full(len(counts), 3.0)
    found = fit(np.arange(len(counts)) * 3 + 1.5, counts, sizes)
    assert found is None or math.isfinite(found.a0 + found.k)


# Spans and bins.


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15)), max_size=12))
def testbusy_seconds_are_those_of_the_union(spans: list[tuple[int, int]]) -> None:
    sent = array("d", [float(start) for start, _ in spans])
    arrived = array("d", [float(start + length) for start, length in spans])
    assert busy(sent, arrived) == len({second for start, length in spans for second in range(start, start + length)})


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=60))
def test_every_length_is_in_its_bin(values: list[int]) -> None:
    found = binned(np.array(values))
    assert sum(one["count"] for one in found) == len(values)
    for one in found:
        high = math.inf if one["to"] is None else one["to"]
        assert one["count"] == sum(one["from"] <= value < high for value in values)
        assert high - one["from"] == (5 if one["from"] < 100 else 20) or high == math.inf
