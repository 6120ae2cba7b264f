"""Means beside the interval that chance leaves them: bootstraps over items, paired and by strata; Wilson's for shares.

What has no score (None, NaN, infinite) is never taken for 0 and never lost: each figure counts it apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Score = float | None
Floats = NDArray[np.float64]

RESAMPLES, LEVEL = 2_000, 0.95
_BLOCK = 1 << 20
"""So many items are drawn at once, for 2,000 times a large suite would fill the memory."""


class Interval(NamedTuple):
    """A figure between the ends of its interval: ``low <= value <= high``."""

    value: float
    low: float
    high: float


Method = Literal["bootstrap", "wilson", "tango", "none"]
"""Where an interval is from. none: all items are alike, the ends are the value, and nothing tells of chance."""


class Figure(NamedTuple):
    """A mean, and over how many items it is one."""

    interval: Interval | None
    """None where no item has a score."""
    items: int
    missing: int
    """Items without a score."""
    empty: tuple[str, ...] = ()
    """Strata of which no item has a score: the mean of strata goes without them."""
    method: Method = "bootstrap"


def column(scores: Iterable[Score]) -> Floats:
    """Scores as an array, NaN where there is none."""
    found = np.array(list(scores), dtype=np.float64)
    return np.where(np.isfinite(found), found, math.nan)


def mean(scores: Iterable[Score], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> Figure:
    """The mean of the items' scores, with the percentile interval of the bootstrap over items (Efron and Tibshirani
    1993, section 13.3)."""
    return macro({"": scores}, seed=seed, resamples=resamples, level=level)._replace(empty=())


def macro(
    strata: Mapping[str, Iterable[Score]], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Figure:
    """The mean of the strata's means: every task weighs the same, however many items it has. Items are drawn anew
    within their stratum (Efron and Tibshirani 1993, section 8.3), so that no draw lacks one. A stratum of one item says
    nothing of chance: such are drawn together, as one stratum with the weight of all of them (collapsed strata, Cochran
    1977, section 5A.12)."""
    columns = {name: column(scores) for name, scores in sorted(strata.items())}
    there = {name: scores[~np.isnan(scores)] for name, scores in columns.items()}
    full = [scores for scores in there.values() if scores.size]
    items = sum(scores.size for scores in full)
    missing = sum(scores.size for scores in columns.values()) - items
    empty = tuple(name for name, scores in there.items() if not scores.size)
    if not full:
        return Figure(None, 0, missing, empty)
    rng = np.random.default_rng(seed)
    value = float(np.mean([_mean(scores) for scores in full]))
    single = [scores for scores in full if scores.size == 1]
    groups = [(scores, 1) for scores in full if scores.size > 1]
    groups += [(np.concatenate(single), len(single))] if single else []
    draws = np.sum([weight * _draws(scores, rng, resamples) for scores, weight in groups], axis=0) / len(full)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]).tolist()
    interval, method = _around(value, low, high)
    return Figure(interval, items, missing, empty, method)


def clustered(
    parts: Sequence[Sequence[Score]], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Figure:
    """The mean over all parts of all items, where an item has several: items are drawn anew with all their parts, which
    do not speak for themselves (the cluster bootstrap, Davison and Hinkley 1997, section 3.8)."""
    scores = [column(one) for one in parts]
    there = [(float(np.nansum(one)), int((~np.isnan(one)).sum())) for one in scores]
    sums, counts = (np.array([one[side] for one in there], dtype=np.float64) for side in (0, 1))
    items, missing = int(sum(count for _, count in there)), sum(one.size for one in scores)
    if not items:
        return Figure(None, 0, missing)
    rng, drawn = np.random.default_rng(seed), []
    rows = max(_BLOCK // len(parts), 1)
    for at in range(0, resamples, rows):
        picked = rng.integers(len(parts), size=(min(rows, resamples - at), len(parts)))
        drawn.append(sums[picked].sum(axis=1) / np.maximum(counts[picked].sum(axis=1), 1))
    value = float(sums.sum() / counts.sum())
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2]).tolist()
    interval, method = _around(value, low, high)
    return Figure(interval, items, missing - items, (), method)


def differences(model: Iterable[Score], base: Iterable[Score]) -> Floats:
    """By item, how much higher the model scores than its base on the same one; NaN where either has no score. Their
    ``mean`` or ``macro`` is the paired comparison: an item that is hard for both says nothing about either."""
    ones, others = column(model), column(base)
    if ones.size != others.size:
        raise ValueError(f"{ones.size} items beside {others.size}: a paired difference needs the same ones")
    return ones - others


def wilson(hits: int, of: int, *, level: float = LEVEL) -> Interval | None:
    """A share with its score interval (Wilson 1927), which holds for few items and near 0 and 1 too; None of none."""
    if not 0 <= hits <= of:
        raise ValueError(f"{hits} hits of {of}")
    if not of:
        return None
    share, z = hits / of, NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z * z / (2 * of)
    reach = z * math.sqrt(share * (1 - share) / of + (z / (2 * of)) ** 2)
    whole = 1 + z * z / of
    return Interval(
        share, max(0.0, min((middle - reach) / whole, share)), min(1.0, max((middle + reach) / whole, share))
    )


def share(scores: Iterable[Score], *, seed: int = 0, level: float = LEVEL) -> Figure:
    """The mean of scores, with Wilson's interval where all of them are 0 or all are 1: every draw of such is the same,
    and a bootstrap would call certain what few items leave open."""
    every = column(scores)
    figure, there = mean(every, seed=seed, level=level), every[~np.isnan(every)]
    if not there.size or not ((there == 0).all() or (there == 1).all()):
        return figure
    return figure._replace(interval=wilson(int(there.sum()), there.size, level=level), method="wilson")


def share_difference(model: Iterable[Score], base: Iterable[Score], *, seed: int = 0, level: float = LEVEL) -> Figure:
    """The mean paired difference, with Tango's score interval (1998) where both have scores of 0 and 1 alone and all
    items differ by the same."""
    ones, others = column(model), column(base)
    by = differences(ones, others)
    figure, there = mean(by, seed=seed, level=level), by[~np.isnan(by)]
    binary = np.isin(ones[~np.isnan(by)], (0, 1)).all() and np.isin(others[~np.isnan(by)], (0, 1)).all()
    if not there.size or not binary or np.ptp(there):
        return figure
    # That no item differs does not say that none ever would. Where all pairs are of one kind, Tango's ends have a
    # closed form: the upper end of Wilson's for 0 of as many, once from 0 and twice from 1.
    none = wilson(0, there.size, level=level)
    assert none is not None
    value, reach = float(there[0]), none.high * (2 if there[0] else 1)
    return figure._replace(interval=Interval(value, max(-1, value - reach), min(1, value + reach)), method="tango")


def _around(value: float, low: float, high: float) -> tuple[Interval, Method]:
    """At a low level the percentiles of skewed draws, or the last bit of a sum, may miss the mean."""
    return Interval(value, min(low, value), max(high, value)), "bootstrap" if low < high else "none"


def _mean(scores: Floats) -> float:
    """Of equal scores exactly that score."""
    return float(scores[0] if np.ptp(scores) == 0 else scores.mean())


def _draws(scores: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """The means of so many draws of as many items, with replacement."""
    if np.ptp(scores) == 0:
        return np.full(resamples, scores[0])
    rows = max(_BLOCK // scores.size, 1)
    sizes = [(min(rows, resamples - at), scores.size) for at in range(0, resamples, rows)]
    return np.concatenate([scores[rng.integers(scores.size, size=size)].mean(axis=1) for size in sizes])
