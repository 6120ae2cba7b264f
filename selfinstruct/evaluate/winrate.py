"""How often a judge prefers a model's outputs to its base's, and how often it would at equal lengths (AlpacaEval).

A preference is between 0 and 1 for the model, 0.5 a tie, None where the judge's verdict cannot be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from selfinstruct.evaluate.figures import Floats, Interval, Score, column, wilson

LABELS = ("A", "B")
"""What the judge calls the first output and the second."""


# The judge's verdict.


def for_model(first: Score, model_first: bool) -> float | None:
    """The preference for the model, from that for the first output."""
    return first if first is None or model_first else 1 - first


_SAID = r"(?P<said>[ab]|(?:a )?(?:tie|draw)|equal|equally good)"
_NAMED = r"(?:(?:the )?(?:output|answer|response|reply|assistant|model) )?"
_BETTER = r"(?: (?:wins|is (?:(?:clearly|slightly|much|the|overall) )*(?:better|best|preferred|preferable|superior)))?"
_LABEL = (
    r"(?:(?:my |the |final |overall )*(?:verdict|winner|preference|preferred|better|best|choice|decision|judge?ment|"
    r"answer|conclusion)(?: output| answer| response)?(?: ?:| is) ?)"
)
_SO = r"(?:(?:overall|so|thus|therefore|hence|in short|finally),? )?(?:i (?:would )?(?:prefer|choose|pick) )?"
_BRACKETS = re.compile(r"\[\[ ?(?P<said>[abc]|tie) ?\]\]", re.IGNORECASE)
_LAST = re.compile(rf"{_SO}{_LABEL}?{_NAMED}{_SAID}{_BETTER}[.! ]*", re.IGNORECASE)
_LABELLED = re.compile(rf"{_LABEL}{_NAMED}{_SAID}{_BETTER}[.! ]*", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`#>\"\u201c\u201d()\[\]{}]+")


def read_verdict(text: str) -> float | None:
    """1 where the judge prefers the first output, 0 the second, 0.5 a tie, None where it says none of these.

    In this order: the last letter in double square brackets (MT-Bench's form, where C is a tie), the last line if it
    holds a verdict and nothing else, the last line that is a verdict by its label. An A that begins a sentence is none.
    """
    marked = list(_BRACKETS.finditer(text))
    if marked:
        return _preference(marked[-1]["said"])
    lines = [" ".join(_MARKUP.sub(" ", line).split()).replace(" :", ":") for line in text.splitlines()]
    lines = [line for line in lines if line]
    found = [one for one in map(_LABELLED.fullmatch, lines) if one]
    if lines and (last := _LAST.fullmatch(lines[-1])):
        found.append(last)
    return _preference(found[-1]["said"]) if found else None


def _preference(said: str) -> float:
    return {"a": 1.0, "b": 0.0}.get(said.casefold(), 0.5)


class BothOrders(NamedTuple):
    """Preferences of a judge that was asked twice, the outputs changing places."""

    preferences: list[float | None]
    consistency: Interval | None
    """In what share of the items that were read twice it said the same twice; None of none."""


def both_orders(model_first: Sequence[Score], base_first: Sequence[Score]) -> BothOrders:
    """A win or a loss only where both orders agree, else a tie (Zheng et al. 2023, section 3.4). Both columns are
    preferences for the model; what is unread in one order is unread."""
    pairs = [
        (np.sign(one - 0.5), np.sign(other - 0.5)) if one is not None and other is not None else None
        for one, other in zip(model_first, base_first, strict=True)
    ]
    agreed = [pair[0] == pair[1] for pair in pairs if pair]
    preferences = [None if pair is None else float(0.5 + pair[0] / 2 if pair[0] == pair[1] else 0.5) for pair in pairs]
    return BothOrders(preferences, wilson(sum(agreed), len(agreed)))


# The win rate.


class WinRate(NamedTuple):
    """In per cent of the rows that were read."""

    value: float | None
    """None where none was."""
    error: float | None
    """The standard error of the mean, in points; None below two rows."""
    wins: int
    ties: int
    losses: int
    unread: int


def win_rate(preferences: Iterable[Score]) -> WinRate:
    """The mean preference for the model over its base (AlpacaEval): half a win for a tie, and as much of one as a
    judge's probability says."""
    every = _checked(preferences)
    read = every[~np.isnan(every)]
    return WinRate(
        value=100 * float(read.mean()) if read.size else None,
        error=100 * float(read.std(ddof=1)) / math.sqrt(read.size) if read.size > 1 else None,
        wins=int((read > 0.5).sum()),
        ties=int((read == 0.5).sum()),
        losses=int((read < 0.5).sum()),
        unread=every.size - read.size,
    )


def _checked(preferences: Iterable[Score]) -> Floats:
    found = column(preferences)
    if ((found < 0) | (found > 1)).any():
        raise ValueError("a preference lies between 0 and 1")
    return found


# The win rate at equal lengths.

LABEL = "LC (surrogate)"
"""What the figure is called wherever it is shown: AlpacaEval's own is fitted over many models together."""
ROWS = 100
"""Below so many rows there is none."""
PHI = -1.0
"""What the weight of length is believed to be before any row is read: over 200 models of AlpacaEval it is -1.5 ± 0.4,
for lengths of the baseline minus the model."""
_BELIEF = 50 / 805
"""How firmly, by row; …"""
_THETA = 1e-3
"""… and how firmly theta is believed to be 0."""


class LengthControl(NamedTuple):
    """A win rate at equal lengths, in per cent."""

    value: float
    raw: float
    """The win rate of the same rows."""
    theta: float
    phi: float
    """The weight of length, baseline minus model: below 0 where the judge likes the longer output."""
    rows: int

    @property
    def doubtful(self) -> bool:
        """So far from the raw win rate that both need a look: by more than 10 points, or by more than a quarter of the
        way from there to the nearer end."""
        return abs(self.value - self.raw) > min(10, min(self.raw, 100 - self.raw) / 4)


def length_controlled(
    preferences: Iterable[Score], model_lengths: Iterable[float], base_lengths: Iterable[float]
) -> LengthControl | None:
    """What the win rate would be if both wrote equally long (Length-Controlled AlpacaEval, Dubois et al. 2024, section
    3), from one pair of models alone: their regression without the term for an instruction's difficulty, which the
    intercept takes in, under a prior in the place of the many models. None below ``ROWS`` rows. Lengths are characters.
    """
    every = _checked(preferences)
    z = length_term(model_lengths, base_lengths, among=~np.isnan(every))
    read = every[~np.isnan(every)]
    if read.size < ROWS:
        return None
    features = np.column_stack([np.ones(read.size), np.tanh(z)])
    centre, weight = np.array([0.0, PHI]), np.array([_THETA, _BELIEF * read.size])
    theta, phi = fit(features, read, centre, weight).tolist()
    return LengthControl(100 * float(_sigmoid(np.array(theta))), 100 * float(read.mean()), theta, phi, read.size)


def length_term(
    model: Iterable[float], base: Iterable[float], among: np.ndarray[tuple[int], np.dtype[np.bool]]
) -> Floats:
    """By row ``among`` them, how much longer the baseline's output is than the model's, in standard deviations of that
    difference; 0 where it is the same in all rows, for then nothing can be learnt from it."""
    longer = (column(base) - column(model))[among]
    return longer / longer.std() if longer.size and np.ptp(longer) else np.zeros(longer.size)


def fit(features: Floats, preferences: Floats, centre: Floats, weight: Floats) -> Floats:
    """The coefficients of a logistic regression on preferences that are most probable under the prior N(centre,
    1/weight) of each: Newton's method, its steps halved while they lead uphill."""

    def loss(at: Floats) -> float:
        odds = features @ at
        return float((np.logaddexp(0, odds) - preferences * odds).sum() + (weight * (at - centre) ** 2).sum() / 2)

    at = centre.astype(np.float64)
    for _ in range(200):
        p = _sigmoid(features @ at)
        slope = features.T @ (p - preferences) + weight * (at - centre)
        bend = (features.T * (p * (1 - p))) @ features + np.diag(weight)
        step = np.linalg.solve(bend, slope)
        if np.abs(step).max() < 1e-8:
            return at - step
        # So near the end that rounding hides what a step gains, Newton needs no such care.
        while slope @ step > 1e-6 and loss(at - step) > loss(at):
            step = step / 2
        at = at - step
    raise ArithmeticError("the regression on lengths does not converge")


def _sigmoid(odds: Floats) -> Floats:
    return (1 + np.tanh(odds / 2)) / 2
