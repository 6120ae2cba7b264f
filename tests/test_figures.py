"""Figures: an interval holds its value, a paired difference sees only what differs, and nothing unscored is lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.evaluate.figures import column, differences, macro, mean, share, share_difference, wilson

SCORES = st.floats(-100, 100, width=32)
SOME = st.lists(SCORES | st.none() | st.just(math.nan), max_size=30)
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=30)
STRATA = st.dictionaries(st.text(max_size=3), SOME, max_size=5)
FEW = 200


@given(SOME, st.integers(0, 9))
def test_an_interval_holds_its_value_and_every_item_is_counted(scores, seed):
    figure = mean(scores, seed=seed, resamples=FEW)
    there = [score for score in scores if score is not None and not math.isnan(score)]
    assert (figure.items, figure.missing, figure.empty) == (len(there), len(scores) - len(there), ())
    assert (figure.interval is None) == (not there)
    if figure.interval:
        assert figure.interval.value == pytest.approx(sum(there) / len(there), abs=1e-9)
        assert min(there) - 1e-9 <= figure.interval.low <= figure.interval.value <= figure.interval.high
        assert figure.interval.high <= max(there) + 1e-9
        assert figure == mean(scores, seed=seed, resamples=FEW)


@given(PAIRS)
def test_swapping_the_models_negates_their_difference(pairs):
    model, base = zip(*pairs, strict=True)
    there = mean(differences(model, base), resamples=FEW).interval
    back = mean(differences(base, model), resamples=FEW).interval
    assert there and back
    assert there == pytest.approx((-back.value, -back.high, -back.low), abs=1e-9)


@given(st.lists(SCORES, min_size=1, max_size=30), SCORES)
def test_a_constant_added_to_every_score_shifts_the_figure(scores, by):
    before = mean(scores, resamples=FEW).interval
    after = mean([score + by for score in scores], resamples=FEW).interval
    assert before and after
    assert after == pytest.approx([end + by for end in before], abs=1e-6)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30), st.integers(-9, 9))
def test_a_paired_difference_that_is_the_same_on_all_items_is_certain(scores, by):
    figure = mean(differences([score + by for score in scores], scores), resamples=FEW)
    assert figure.interval == (by, by, by)


@given(SCORES, st.integers(1, 30))
def test_of_equal_scores_the_ends_are_the_value(score, items):
    assert mean([score] * items, resamples=FEW).interval == (score, score, score)


@given(STRATA, st.randoms(use_true_random=False))
def test_a_macro_mean_weighs_strata_alike_in_whatever_order_they_come(strata, chance):
    figure = macro(strata, resamples=FEW)
    full = {name: there for name, scores in strata.items() if (there := column(scores)[~np.isnan(column(scores))]).size}
    assert figure.empty == tuple(sorted(set(strata) - set(full)))
    assert figure.items == sum(map(len, full.values()))
    assert figure.items + figure.missing == sum(map(len, strata.values()))
    if figure.interval:
        assert figure.interval.value == pytest.approx(np.mean([np.mean(there) for there in full.values()]), abs=1e-9)
        assert figure.interval.low <= figure.interval.value <= figure.interval.high
    shuffled = list(strata.items())
    chance.shuffle(shuffled)
    assert macro(dict(shuffled), resamples=FEW) == figure


def test_items_are_drawn_within_their_stratum():
    # Drawn from all items together, the tasks would change their shares, and the interval would be no point.
    figure = macro({"easy": [1.0] * 5, "hard": [0.0] * 15})
    assert figure.interval == (0.5, 0.5, 0.5)


@given(st.lists(SCORES, min_size=1, max_size=30))
def test_tasks_of_one_item_are_drawn_together(scores):
    alone = macro({f"{at:02}": [score] for at, score in enumerate(scores)}, resamples=FEW)
    assert alone.interval and alone.interval == pytest.approx(mean(scores, resamples=FEW).interval, abs=1e-9)


def test_a_task_of_one_item_weighs_as_much_as_any_other():
    figure = macro({"large": [1.0, 1.0, 1.0], "one": [0.0], "two": [1.0]})
    assert figure.interval == pytest.approx((2 / 3, 1 / 3, 1))


@pytest.mark.parametrize("level", [0.01, 0.5, 0.9, 0.99])
def test_an_interval_of_any_level_holds_its_value_and_lies_in_those_of_higher_ones(level):
    scores = np.random.default_rng(0).exponential(1, 30) ** 3
    narrow, wide = mean(scores, level=level).interval, mean(scores, level=0.999).interval
    assert narrow and wide
    assert wide.low < narrow.low <= narrow.value <= narrow.high < wide.high


def test_without_items_there_is_no_figure():
    assert mean([])[:4] == (None, 0, 0, ())
    assert mean([None, math.nan, math.inf])[:4] == (None, 0, 3, ())
    assert macro({})[:4] == (None, 0, 0, ())
    assert macro({"b": [None], "a": []})[:4] == (None, 0, 1, ("a", "b"))
    assert share([None]).interval is share_difference([None], [1.0]).interval is None


def test_a_difference_is_missing_where_either_score_is():
    figure = mean(differences([1.0, None, 0.5, 1.0], [0.0, 1.0, math.nan, 1.0]), resamples=FEW)
    assert (figure.items, figure.missing) == (2, 2)
    assert figure.interval and figure.interval.value == 0.5
    with pytest.raises(ValueError, match="the same ones"):
        differences([1.0], [0.0, 1.0])


def test_pairing_takes_the_difficulty_of_items_out():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 1, 200)
    model, base = difficulty + rng.normal(0.1, 0.1, 200), difficulty + rng.normal(0, 0.1, 200)
    paired, alone = mean(differences(model, base)).interval, mean(model).interval
    assert paired and alone
    assert paired.low > 0
    assert paired.high - paired.low < (alone.high - alone.low) / 4


@pytest.mark.parametrize("strata", [1, 3])
def test_95_of_100_intervals_hold_the_truth(strata):
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(400):
        scores = {str(name): rng.normal(name, 1 + name, 60) for name in range(strata)}
        interval = macro(scores, seed=trial, resamples=400).interval
        held += interval is not None and interval.low <= (strata - 1) / 2 <= interval.high
    assert 0.90 <= held / 400 <= 0.98


def test_a_large_suite_is_drawn_in_blocks(monkeypatch):
    scores = np.random.default_rng(0).normal(0, 1, 500)
    whole = mean(scores).interval
    monkeypatch.setattr("selfinstruct.evaluate.figures._BLOCK", 7_000)
    parts = mean(scores).interval
    assert whole and parts
    assert parts == pytest.approx(whole, abs=0.01)


def test_wilsons_interval_is_that_of_the_textbooks():
    assert wilson(81, 263) == pytest.approx((0.3080, 0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert wilson(0, 20) == pytest.approx((0, 0, 0.1611), abs=5e-5)
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="3 hits of 2"):
        wilson(3, 2)


@given(st.integers(1, 10_000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
@settings(max_examples=300)
def test_wilsons_interval_holds_the_share_and_mirrors_it(share):
    hits, of = share
    found, mirrored = wilson(hits, of), wilson(of - hits, of)
    assert found and mirrored
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found == pytest.approx((1 - mirrored.value, 1 - mirrored.high, 1 - mirrored.low), abs=1e-12)
    assert found.low < found.high


@given(st.lists(st.sampled_from([0.0, 1.0, None]), max_size=30))
def test_a_share_is_never_certain(scores):
    figure, there = share(scores), [score for score in scores if score is not None]
    assert (figure.items, figure.missing) == (len(there), len(scores) - len(there))
    if not there:
        assert figure.interval is None
        return
    assert figure.interval and figure.interval.value == pytest.approx(sum(there) / len(there))
    assert 0 <= figure.interval.low < figure.interval.high <= 1
    alike = len(set(there)) == 1
    assert figure.method == ("wilson" if alike else "bootstrap")
    assert figure.interval == (wilson(int(sum(there)), len(there)) if alike else mean(scores).interval)


@pytest.mark.parametrize("scores", [[0.5, 0.5], [3.0], [2.0, 2.0]])
def test_what_is_no_share_gets_no_interval_of_one(scores):
    assert share(scores).method == share_difference(scores, [0.0] * len(scores)).method == "none"


def tango(ones: int, others: int, of: int) -> tuple[float, float]:
    """Where the score test of a difference gives up, by bisection (Tango 1998): ``ones`` pairs (1, 0), ``others``
    (0, 1)."""

    def score(by: float) -> float:
        b = (2 * of - ones + others) * by - ones - others
        q = (math.sqrt(max(b * b + 8 * of * others * by * (1 - by), 0)) - b) / (4 * of)
        above, spread = ones - others - of * by, of * (2 * q + by * (1 - by))
        return above / math.sqrt(spread) if spread > 0 else above * math.inf if above else 0

    def end(z: float) -> float:
        low, high = -1 + 1e-12, 1 - 1e-12
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > z else (low, middle)
        return low

    return end(1.959963984540054), end(-1.959963984540054)


@pytest.mark.parametrize("items", [1, 4, 20, 300])
@pytest.mark.parametrize("pair", [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_where_all_pairs_are_alike_tangos_interval_is_the_one_of_the_score_test(items, pair):
    figure = share_difference([pair[0]] * items, [pair[1]] * items)
    low, high = tango(items if pair == (1, 0) else 0, items if pair == (0, 1) else 0, items)
    assert figure.method == "tango"
    assert figure.interval == pytest.approx((pair[0] - pair[1], low, high), abs=1e-6)


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, None])] * 2), min_size=1, max_size=20))
def test_a_difference_of_shares_is_never_certain(pairs):
    figure = share_difference(*zip(*pairs, strict=True))
    by = [one - other for one, other in pairs if one is not None and other is not None]
    assert figure.items == len(by)
    if by:
        assert figure.interval and figure.interval.value == pytest.approx(sum(by) / len(by))
        assert -1 <= figure.interval.low < figure.interval.high <= 1
        assert figure.method == ("tango" if len(set(by)) == 1 else "bootstrap")


def test_draws_that_are_all_the_same_are_said_to_be():
    assert macro({"easy": [1.0] * 5, "hard": [0.0] * 15}).method == "none"
    assert macro({"easy": [1.0] * 5, "hard": [0.0, 1.0]}).method == "bootstrap"
