"""The nearest of many texts by ROUGE-L, however far it is: by the tokens that each has in common with every other.

No more tokens than two texts share can be a common subsequence of theirs. So those that share the most are measured
first, and then all that might still be nearer. The searches of filters/ ask who exceeds a threshold; below 0.5 nearly
all texts might, and this is quicker.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from selfinstruct.filters.arrays import f_measure

_FIRST, _THEN = 32, 256
"""So many of those that share the most are measured at once."""
_SLACK = 1e-9
"""Floats: what may be nearer by the bound is looked at where it is as near."""
_COMMON = 16
"""A token in more than one of so many texts has a row of all texts; of others it is known which texts they are in."""


class Overlap:
    """Texts as the numbers of their tokens. Memory: some 30 bytes a token."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        number: dict[tuple[int, int], int] = {}
        few = max((max(text, default=0) for text in texts), default=0) <= sys.maxunicode
        self._codes = ["".join(map(chr, text)) if few else tuple(text) for text in texts]  # rapidfuzz likes strings
        self._lengths = np.array([len(text) for text in texts], np.int64)
        elements = [_numbered(text, number) for text in texts]
        whole = np.concatenate([*elements, np.empty(0, np.int64)])
        order = np.argsort(whole, kind="stable")
        self._where = np.repeat(np.arange(len(texts)), self._lengths)[order]
        self._starts = np.searchsorted(whole[order], np.arange(len(number) + 1))
        sizes = np.diff(self._starts)
        common = np.flatnonzero(sizes > len(texts) / _COMMON)
        self._row = np.full(len(number), -1)
        self._row[common] = np.arange(common.size)
        self._rows = np.zeros((common.size, len(texts)), np.uint8)
        for row, element in enumerate(common.tolist()):
            self._rows[row, self._where[self._starts[element] : self._starts[element + 1]]] = 1
        self._elements = elements

    def nearest(self, at: int, exclude: Sequence[int]) -> float:
        """The highest F of a text with another; those of ``exclude``, itself too, are passed over."""
        shared = self._shared(self._elements[at])
        shared[np.asarray(exclude, np.intp)] = 0
        bounds = f_measure(shared, int(self._lengths[at]), self._lengths)
        best, found = 0.0, np.flatnonzero(bounds > 0)
        for most in (_FIRST, _THEN):
            if found.size <= most:
                break
            top = found[np.argpartition(-bounds[found], most)[:most]]
            best = max(best, self._measured(at, top))
            found = found[bounds[found] > best - _SLACK]
        return max(best, self._measured(at, found))

    def _shared(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tokens the text shares with each, as often as both have them."""
        rows = self._row[elements]
        parts = [self._where[self._starts[one] : self._starts[one + 1]] for one in elements[rows < 0].tolist()]
        found = np.bincount(np.concatenate([*parts, np.empty(0, np.int64)]), minlength=self._lengths.size)
        if (rows >= 0).any():
            found += self._rows[rows[rows >= 0]].sum(0, dtype=np.uint16)
        return found

    def _measured(self, at: int, others: NDArray[np.intp]) -> float:
        if not others.size:
            return 0.0
        codes = [self._codes[other] for other in others.tolist()]
        common = process.cdist([self._codes[at]], codes, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return float(f_measure(common, int(self._lengths[at]), self._lengths[others]).max())


def _numbered(text: Sequence[int], number: dict[tuple[int, int], int]) -> NDArray[np.int64]:
    """A number for each token and how often it came before."""
    seen: Counter[int] = Counter()
    found = np.empty(len(text), np.int64)
    for at, token in enumerate(text):
        found[at] = number.setdefault((token, seen[token]), len(number))
        seen[token] += 1
    return found
