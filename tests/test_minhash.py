"""Near-duplicates: what is planted is found, what is far apart is not, and the similarity is the true one."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.filters.novelty import tokens
from selfinstruct.minhash import (
    MISSED,
    PERMUTATIONS,
    WORDS,
    Kept,
    Signatures,
    banding,
    jaccard,
    shingles,
    signatures,
)

word = st.sampled_from(["a", "b", "c", "d", "é", "语", "ไทย", "e1", "F"])
text = st.lists(word, max_size=14).map(" ".join)


@cache
def runs(text: str) -> set[tuple[str, ...]]:
    words = tokens(text, "unicode")
    width = min(WORDS, len(words))
    return {tuple(words[i : i + width]) for i in range(len(words) - width + 1)} if width else set()


def similarity(one: str, other: str) -> float:
    union = runs(one) | runs(other)
    return len(runs(one) & runs(other)) / len(union) if union else 0.0


@given(text, text)
def test_the_similarity_of_hashes_is_that_of_the_words(one: str, other: str) -> None:
    assert len(shingles(one)) == len(runs(one))
    assert jaccard(shingles(one), shingles(other)) == similarity(one, other)


def test_a_shingle_is_the_same_number_in_every_process() -> None:
    code = "from selfinstruct.minhash import shingles; print(shingles('one two three four five six é').tolist())"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{shingles('one two three four five six é').tolist()}\n"}


def test_a_text_of_fewer_words_than_a_run_is_one_run_and_one_without_words_has_none() -> None:
    assert len(shingles("one")) == len(shingles("one two three four")) == len(shingles("one two three four five")) == 1
    assert jaccard(shingles("One, two!"), shingles("one two")) == 1
    assert jaccard(shingles("one two"), shingles("two one")) == 0
    assert len(shingles("")) == len(shingles("?! …")) == 0 == jaccard(shingles(""), shingles("…"))


def test_signatures_estimate_the_similarity() -> None:
    rng = np.random.default_rng(3)
    for share in (0.2, 0.5, 0.8):
        common = int(300 * share)
        values = rng.integers(0, 1 << 63, 600 - common, dtype=np.uint64)
        one, other = np.sort(values[:300]), np.sort(values[300 - common :])
        first, second = signatures([one, other])
        expected = jaccard(one, other)
        spread = (expected * (1 - expected) / PERMUTATIONS) ** 0.5
        assert abs((first == second).mean() - expected) < 4 * spread


@given(st.floats(0.5, 1.0))
def test_bands_miss_no_more_than_is_said_and_wider_ones_would(threshold: float) -> None:
    cut = banding(threshold)
    assert cut.bands * cut.rows <= PERMUTATIONS and 1 - cut.found(threshold) <= MISSED
    wider = cut._replace(bands=PERMUTATIONS // (cut.rows + 1), rows=cut.rows + 1)
    assert wider.bands == 0 or 1 - wider.found(threshold) > MISSED


def test_the_bands_of_the_default() -> None:
    assert banding(0.8) == (25, 5)
    assert banding(0.8).found(0.8) == pytest.approx(1 - (1 - 0.8**5) ** 25)


def greedy(texts: Sequence[str], threshold: float, folder: Path) -> tuple[list[int], dict[int, tuple[int, float]]]:
    """What is kept of texts in their order, and beside which the others went."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = Signatures(folder)
    try:
        assert [stored.add(one) for one in texts] == list(range(len(texts)))
        stored.finish()
        found = Kept(stored, np.arange(len(texts)), threshold, folder)
        assert list(found.build()) == list(range(1, found.banding.bands + 1))
        kept, dropped = [], {}
        for place in range(len(texts)):
            near = found.nearest(place)
            if near is None:
                kept.append(place)
                found.keep(place)
            else:
                assert found.shares[place]
                dropped[place] = (near.place, near.jaccard)
        return kept, dropped
    finally:
        stored.close()


def brute(texts: Sequence[str], threshold: float) -> tuple[list[int], dict[int, tuple[int, float]]]:
    kept: list[int] = []
    dropped = {}
    for place, one in enumerate(texts):
        scores = [similarity(one, texts[other]) for other in kept]
        if scores and max(scores) >= threshold and runs(one):
            dropped[place] = (kept[scores.index(max(scores))], max(scores))
        else:
            kept.append(place)
    return kept, dropped


VOCABULARY = [f"w{i}" for i in range(400)]


def planted(rng: random.Random, count: int) -> list[str]:
    """Texts of 30 to 60 words, most of them an earlier one with some words replaced."""
    texts = [" ".join(rng.choices(VOCABULARY, k=rng.randint(30, 60)))]
    while len(texts) < count:
        words = rng.choice(texts).split() if rng.random() < 0.7 else rng.choices(VOCABULARY, k=rng.randint(30, 60))
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(len(words))] = rng.choice(VOCABULARY)
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_decisions_neighbours_and_scores_are_those_of_brute_force(threshold: float, tmp_path: Path) -> None:
    texts = planted(random.Random(int(100 * threshold)), 300)
    assert greedy(texts, threshold, tmp_path) == brute(texts, threshold)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_rows_of_one_template_are_decided_as_brute_force_decides(threshold: float, tmp_path: Path) -> None:
    rng = random.Random(6)
    template = [f"t{i}" for i in range(60)]
    texts = [" ".join(template + rng.choices(VOCABULARY[:4], k=rng.randint(5, 18))) for _ in range(150)]
    kept, dropped = greedy(texts, threshold, tmp_path)
    assert (kept, dropped) == brute(texts, threshold) and dropped


def test_more_texts_than_a_block_of_signatures(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.choices(VOCABULARY, k=9)) for _ in range(4500)]
    texts += [texts[7], texts[4200]]
    assert greedy(texts, 0.8, tmp_path)[1] == {4500: (7, 1.0), 4501: (4200, 1.0)}


def test_planted_pairs_are_found_and_random_ones_are_not(tmp_path: Path) -> None:
    rng = random.Random(2)
    texts = [" ".join(rng.choices(VOCABULARY, k=80)) for _ in range(500)]
    twins = [f"{one} and one more" for one in texts]  # 76 of 79 shingles
    kept, dropped = greedy(texts + twins, 0.8, tmp_path)
    assert kept == list(range(500))
    assert dropped == {500 + i: (i, 76 / 79) for i in range(500)}


def test_pairs_below_three_tenths_are_never_near(tmp_path: Path) -> None:
    rng = random.Random(4)
    texts = []
    for _ in range(150):  # pairs that share some 40 of 160 shingles: many are candidates at 0.5
        common = rng.choices(VOCABULARY, k=44)
        texts += [" ".join(common + rng.choices(VOCABULARY, k=60)) for _ in range(2)]
    assert all(0.1 < similarity(texts[i], texts[i + 1]) < 0.3 for i in range(0, 300, 2))
    assert greedy(texts, 0.5, tmp_path) == (list(range(300)), {})


@settings(max_examples=20)
@given(st.lists(text, max_size=12), st.sampled_from([0.5, 0.8, 1.0]))
def test_whatever_goes_stands_beside_a_kept_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], threshold: float
) -> None:
    kept, dropped = greedy(texts, threshold, tmp_path_factory.mktemp("near"))
    assert sorted([*kept, *dropped]) == list(range(len(texts)))
    for place, (beside, score) in dropped.items():
        assert beside in kept and beside < place
        assert score == similarity(texts[place], texts[beside]) >= threshold


def test_what_more_a_text_has_counts_with_it_and_without(tmp_path: Path) -> None:
    """Two texts are as near as they are with what more they have, or without it: whichever is less."""
    rng = random.Random(9)
    boilerplate = " ".join(rng.choices(VOCABULARY, k=80))
    texts: list[tuple[str, str]] = []
    for text in planted(rng, 60):
        other, new = f"{boilerplate} {rng.choice(VOCABULARY)}", " ".join(rng.choices(VOCABULARY, k=40))
        texts += [(text, more) for more in ("", boilerplate, other, new)]
    texts += [("", boilerplate), ("", boilerplate), ("", ""), ("", "short")]
    rng.shuffle(texts)

    def alike(one: tuple[str, str], other: tuple[str, str]) -> float:
        whole = similarity("\n".join(filter(None, one)), "\n".join(filter(None, other)))
        return whole if one[0] == other[0] else min(whole, similarity(one[0], other[0]))

    kept: list[int] = []
    dropped = {}
    for place, one in enumerate(texts):
        scores = [alike(one, texts[other]) for other in kept]
        if max(scores, default=0.0) >= 0.6:
            dropped[place] = (kept[scores.index(max(scores))], max(scores))
        else:
            kept.append(place)
    stored = Signatures(tmp_path)
    try:
        for text, more in texts:
            stored.add(text, more)
        stored.finish()
        found = Kept(stored, np.arange(len(texts)), 0.6, tmp_path)
        list(found.build())
        for place in range(len(texts)):
            near = found.nearest(place)
            assert (near and (near.place, near.jaccard)) == dropped.get(place)
            if near is None:
                found.keep(place)
    finally:
        stored.close()
    assert len(dropped) > 50 and len(kept) > 100


def test_no_texts_at_all(tmp_path: Path) -> None:
    assert greedy([], 0.8, tmp_path) == ([], {})
    assert greedy(["", "…", "…"], 0.8, tmp_path) == ([0, 1, 2], {})
