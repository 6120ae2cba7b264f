"""Win rates: swapping the models turns every figure round, and length control gives what simulations put in."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from selfinstruct.evaluate.winrate import (
    both_orders,
    fit,
    for_model,
    length_controlled,
    length_term,
    read_verdict,
    win_rate,
)

PREFERENCES = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32)
SOME = st.lists(PREFERENCES | st.none(), max_size=30)
LENGTH = st.integers(0, 4_000)
ROWS = st.lists(st.tuples(PREFERENCES, LENGTH, LENGTH), min_size=100, max_size=160)


# The order of the two, and the judge's words.


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("A", 1.0),
        (" B\n", 0.0),
        ("**B**", 0.0),
        ("Tie", 0.5),
        ("Both name the river. A adds its length.\n\nVerdict: A", 1.0),
        ("Final verdict: **Output B**.", 0.0),
        ("The better answer is B.", 0.0),
        ("Overall, Output A is clearly better.", 1.0),
        ("I prefer Output (b).", 0.0),
        ("Winner: A\n\nIt gives the reason, and B does not.", 1.0),
        ("My first thought was [[B]]. It is wrong, so [[A]]", 1.0),
        ("Neither stands out: [[C]]", 0.5),
        ("Verdict: a tie", 0.5),
        ("They are equally good.\nVerdict: equally good", 0.5),
        ("", None),
        ("A better answer would name its source", None),
        ("Output A:\nIt is short.\nOutput B:\nIt is long.", None),
        ("Output A\nis short.", None),
        ("Output A is not better.", None),
        ("Worse: A", None),
        ("I cannot decide without the text.", None),
        ("Verdict: C", None),
    ],
)
def test_a_verdict_is_read_where_one_stands_and_nowhere_else(text, preference):
    assert read_verdict(text) == preference


@given(PREFERENCES | st.none(), st.booleans())
def test_the_preference_for_the_model_follows_its_place(first, model_first):
    found = for_model(first, model_first)
    assert found == (first if first is None or model_first else 1 - first)
    assert for_model(found, model_first) == (first if model_first or first is None else pytest.approx(first))


def test_both_orders_win_only_where_they_agree():
    said = {"win": 1.0, "tie": 0.5, "loss": 0.0}
    table = {
        ("win", "win"): 1.0,
        ("win", "tie"): 0.5,
        ("win", "loss"): 0.5,
        ("tie", "win"): 0.5,
        ("tie", "tie"): 0.5,
        ("tie", "loss"): 0.5,
        ("loss", "win"): 0.5,
        ("loss", "tie"): 0.5,
        ("loss", "loss"): 0.0,
    }
    assert set(table) == set(itertools.product(said, said))
    for (one, other), preference in table.items():
        found = both_orders([said[one]], [said[other]])
        assert found.preferences == [preference]
        assert found.consistency and found.consistency.value == (one == other)


def test_what_is_unread_in_one_order_is_unread_and_of_probabilities_the_side_counts():
    found = both_orders([None, 1.0, 0.9, 0.4], [1.0, None, 0.6, 0.51])
    assert found.preferences == [None, None, 1.0, 0.5]
    assert found.consistency and found.consistency.value == 0.5
    assert both_orders([None], [0.5]).consistency is None


# The win rate.


@given(SOME)
def test_swapping_the_models_turns_the_win_rate_round(preferences):
    there = win_rate(preferences)
    back = win_rate([None if one is None else 1 - one for one in preferences])
    assert there.wins + there.ties + there.losses + there.unread == len(preferences)
    assert (there.wins, there.ties, there.losses, there.unread) == (back.losses, back.ties, back.wins, back.unread)
    assert (there.value is None) == (back.value is None) == all(one is None for one in preferences)
    if there.value is not None and back.value is not None:
        assert there.value == pytest.approx(100 - back.value)
        assert there.error == pytest.approx(back.error)


def test_a_win_rate_by_hand():
    assert win_rate([1, 0, 0.5, 1, None]) == (62.5, pytest.approx(100 * math.sqrt(0.6875 / 3) / 2), 2, 1, 1, 1)
    assert win_rate([1]) == (100, None, 1, 0, 0, 0)
    assert win_rate([None]) == (None, None, 0, 0, 0, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        win_rate([1.5])  # AlpacaEval's own scale is 1 to 2


# The win rate at equal lengths.


def simulated(seed):
    """805 rows of a judge with a taste for length, and the difficulty that only the simulation knows."""
    rng = np.random.default_rng(seed)
    base = np.full(805, 5_000)
    model = base + np.rint(rng.normal(0.8, 1, 805) * 400).astype(int)
    difficulty = rng.normal(0, 1, 805)
    z = (model - base) / (model - base).std()
    p = 1 / (1 + np.exp(-(1.5 * np.tanh(z) + 0.5 * difficulty)))
    return (rng.random(805) < p).astype(float), model, base, difficulty


def unshrunk(preferences, *others):
    return fit(
        np.column_stack([np.ones(805), *others]), preferences, np.zeros(1 + len(others)), np.zeros(1 + len(others))
    )


def test_without_a_prior_the_fit_finds_what_a_simulation_put_in():
    raw, controlled, phis = [], [], []
    for seed in range(20):
        preferences, model, base, difficulty = simulated(seed)
        z = length_term(model, base, np.ones(805, bool))
        theta, phi, psi = unshrunk(preferences, np.tanh(z), difficulty)
        raw.append(100 * preferences.mean())
        controlled.append(100 * (1 / (1 + np.exp(-(theta + psi * difficulty)))).mean())
        phis.append(-phi)  # the simulation's lengths are those of the model minus the baseline
    assert np.mean(raw) == pytest.approx(64.4, abs=1)
    assert np.mean(controlled) == pytest.approx(49.8, abs=1.2)
    assert np.mean(phis) == pytest.approx(1.54, abs=0.1)


def test_a_taste_for_length_is_taken_out_of_the_win_rate():
    preferences, model, base, _ = simulated(0)
    found = length_controlled(preferences, model, base)
    assert found
    assert 60 <= found.raw <= 68
    assert 43 <= found.value <= 56
    assert found.phi < -1
    assert found.rows == 805
    assert found.doubtful
    theta, phi = unshrunk(preferences, np.tanh(length_term(model, base, np.ones(805, bool))))
    assert 43 <= 50 * (1 + np.tanh(theta / 2)) <= 56
    assert phi == pytest.approx(-1.5, abs=0.3)


@given(ROWS)
@settings(max_examples=40)
def test_swapping_the_models_turns_the_controlled_win_rate_round(rows):
    preferences, model, base = (list(part) for part in zip(*rows, strict=True))
    there = length_controlled(preferences, model, base)
    back = length_controlled([1 - one for one in preferences], base, model)
    assert there and back
    assert there.value == pytest.approx(100 - back.value, abs=1e-6)
    assert there.phi == pytest.approx(back.phi, abs=1e-6)
    assert there.raw == pytest.approx(100 - back.raw)


@given(st.lists(PREFERENCES, min_size=100, max_size=160), LENGTH, st.integers(0, 100))
@settings(max_examples=40)
def test_where_lengths_never_differ_otherwise_there_is_nothing_to_control(preferences, length, longer):
    rows = len(preferences)
    found = length_controlled(preferences, [length + longer] * rows, [length] * rows)
    assert found
    assert found.value == pytest.approx(found.raw, abs=0.1)


@given(st.lists(LENGTH, min_size=100, max_size=160))
@settings(max_examples=20)
def test_a_model_beside_itself_wins_exactly_half(lengths):
    found = length_controlled([0.5] * len(lengths), lengths, lengths)
    assert found and (found.value, found.raw, found.doubtful) == (50, 50, False)
    assert win_rate([0.5] * len(lengths)).value == 50


@given(ROWS, st.lists(st.booleans(), min_size=160, max_size=160))
@settings(max_examples=40)
def test_an_unread_row_is_as_if_it_were_not_there(rows, unread):
    kept = [row for row, drop in zip(rows, unread, strict=False) if not drop]
    there = [(None if drop else one, model, base) for (one, model, base), drop in zip(rows, unread, strict=False)]
    assert length_controlled(*zip(*there, strict=True)) == (
        length_controlled(*zip(*kept, strict=True)) if kept else None
    )


@given(ROWS)
@settings(max_examples=40)
def test_the_fit_is_where_no_step_improves_it(rows):
    preferences, model, base = (np.array(part, float) for part in zip(*rows, strict=True))
    assume(np.ptp(base - model) > 0)
    features = np.column_stack(
        [np.ones(preferences.size), np.tanh(length_term(model, base, np.ones(model.size, bool)))]
    )
    centre, weight = np.array([0.0, -1.0]), np.array([1e-3, 50 * preferences.size / 805])
    at = fit(features, preferences, centre, weight)
    slope = features.T @ (1 / (1 + np.exp(-features @ at)) - preferences) + weight * (at - centre)
    assert np.abs(slope).max() < 1e-6
    found = length_controlled(preferences, model, base)
    assert found and (found.theta, found.phi) == pytest.approx(tuple(at), abs=1e-9)


def test_below_100_rows_there_is_no_length_control():
    lengths = list(range(100))
    assert length_controlled([1.0] * 99, lengths[:99], [50] * 99) is None
    assert length_controlled([1.0] * 99 + [None], lengths, [50] * 100) is None
    assert length_controlled([1.0] * 100, lengths, [50] * 100) is not None


@pytest.mark.parametrize(
    ("value", "raw", "doubtful"),
    [(60, 50.5, False), (60.6, 50.5, True), (9, 8, False), (10.1, 8, True), (95, 97, True)],
)
def test_a_figure_far_from_the_raw_one_is_doubtful(value, raw, doubtful):
    found = length_controlled([0.5] * 100, range(100), range(100))
    assert found and found._replace(value=value, raw=raw).doubtful is doubtful
