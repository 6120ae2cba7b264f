"""Texts as the numbers of their tokens, and the nearest among them by ROUGE-L: bounds in numpy, the rest in rapidfuzz.

What F > threshold takes is a whole number of common tokens (``least``). Two bounds spare nearly every comparison and
never change an answer:

- texts of m and n tokens that share o of them share one of the m-o+1 rarest of the one and the n-o+1 rarest of the
  other, so only those are posted and looked up, and it stands early enough in both for as many to follow;
- each token sets one of 64 bits, and one of 256, for 64 fill up where evolution makes texts long. A bit set on one side
  only is a token on one side only, and too many of those leave too few in common.

What survives both is measured, all of it: the nearest is the nearest, not the first that was near enough.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

Codes = str | tuple[int, ...]
"""A text as its tokens' numbers: one code point each while code points last, for rapidfuzz is quickest on those."""


class Texts(Protocol):
    """Texts by position, each the numbers of its tokens: from 1, a number a word. 0 is a word that no text here has."""

    def __len__(self) -> int:
        """How many positions were given, to removed texts too."""
        ...

    def text(self, position: int) -> list[int] | None:
        """The numbers of a text; None where it was removed."""
        ...

    def add(self, numbers: list[int]) -> None: ...

    def remove(self, position: int) -> None:
        """Raises IndexError where there is none."""
        ...

    def nearest(self, numbers: list[int], exclude: Collection[int]) -> tuple[int, float] | None:
        """Position and F of the one with the highest F, the earliest of equals, if that exceeds the threshold."""
        ...

    def scores(self, numbers: list[int]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """All positions that hold a text, in order, and F with each."""
        ...

    def order(self, size: int) -> NDArray[np.intp]:
        """Rank the words by how rare they are here, and how often each of ``size`` numbers occurs. Answers do not
        depend on it; how quickly they come does."""
        ...


class Arrays:
    """Texts in numpy arrays and in rapidfuzz's strings."""

    _many = 1_500
    """Entries from which on it pays to look at their places first."""

    def __init__(self, threshold: float) -> None:
        self._bounds = Bounds(threshold)
        self._rank = array("i", (0,))
        """By number: small is rare. Unique, so that both sides of a comparison order their tokens alike."""
        self._postings: list[bytes | bytearray] = [b""]
        """By number: an entry for each text where it is among the rarest: position, length and place there, in 32, 16
        and 16 bits."""
        self._codes: list[Codes] = []
        self._coarse, self._fine = array("Q"), array("Q")
        self._lengths = array("i")
        """By position; -1 where the text was removed, which no bound lets through."""

    def __len__(self) -> int:
        return len(self._codes)

    def text(self, position: int) -> list[int] | None:
        return list(_decoded(self._codes[position])) if self._lengths[position] >= 0 else None

    def add(self, numbers: list[int]) -> None:
        while max(numbers, default=0) >= len(self._rank):
            self._rank.append(-len(self._rank))  # rarer than all that have been counted
            self._postings.append(b"")
        self._codes.append(_coded(numbers))
        coarse, fine = _bitmaps(numbers)
        self._coarse.append(coarse)
        self._fine.frombytes(fine)
        self._lengths.append(len(numbers))
        self._bounds.widen(len(numbers))
        self._post(len(self._codes) - 1, numbers)

    def remove(self, position: int) -> None:
        if not 0 <= position < len(self._codes) or self._lengths[position] < 0:
            raise IndexError(f"no text at position {position!r}")
        self._codes[position] = ""
        self._lengths[position] = -1

    def nearest(self, numbers: list[int], exclude: Collection[int]) -> tuple[int, float] | None:
        survivors = self.survivors(numbers)
        if exclude and survivors.size:
            survivors = survivors[[position not in exclude for position in survivors.tolist()]]
        if not survivors.size:
            return None
        scores = self._scores(numbers, survivors)
        best = int(scores.argmax())  # the first of equals, and survivors are in order
        return (int(survivors[best]), float(scores[best])) if scores[best] > self._bounds.threshold else None

    def scores(self, numbers: list[int]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        positions = np.flatnonzero(np.frombuffer(self._lengths, np.int32) >= 0)
        return positions, self._scores(numbers, positions) if positions.size else np.empty(0)

    def survivors(self, numbers: list[int]) -> NDArray[np.intp]:
        """Positions, in order, of all texts that may exceed the threshold."""
        known = sorted([number for number in numbers if number], key=self._rank.__getitem__)
        unknown = len(numbers) - len(known)  # the rarest of all, and on this side only
        bounds = self._bounds.of(len(numbers))
        rarest = known[: max(bounds.prefix - unknown, 0)]
        posted = [self._postings[number] for number in dict.fromkeys(rarest)]
        entries = np.frombuffer(b"".join(posted), "<u8")
        if not entries.size:
            return np.empty(0, np.intp)
        if entries.size > self._many:
            entries = entries[_early(entries, posted, rarest, unknown, bounds)]
        positions = (entries >> np.uint64(32)).astype(np.intp)
        allowed = (bounds.apart - unknown).take(np.frombuffer(self._lengths, np.int32)[positions], mode="clip")
        coarse, fine = _bitmaps(known)
        apart = np.bitwise_count(np.frombuffer(self._coarse, np.uint64)[positions] ^ np.uint64(coarse))
        near = apart <= allowed
        positions, allowed = positions[near], allowed[near]
        bits = np.frombuffer(self._fine, np.uint64).reshape(-1, WORDS)[positions]
        apart = np.bitwise_count(bits ^ np.frombuffer(fine, np.uint64)).sum(axis=1, dtype=np.int32)
        return np.unique(positions[apart <= allowed]).astype(np.intp)

    def order(self, size: int) -> NDArray[np.intp]:
        counts = np.zeros(max(size, len(self._rank)), np.intp)
        numbers = np.fromiter(chain.from_iterable(map(_decoded, self._codes)), np.int32)
        counts += np.bincount(numbers, minlength=counts.size)
        self._rank = array("i", bytes(4 * counts.size))
        np.frombuffer(self._rank, np.int32)[np.argsort(counts, kind="stable")] = np.arange(counts.size)
        self._postings = [b""] * counts.size
        for position, codes in enumerate(self._codes):
            self._post(position, list(_decoded(codes)))
        return counts

    def posted(self) -> int:
        """How many places are posted, of removed texts too."""
        return sum(map(len, self._postings)) // 8

    def _scores(self, numbers: list[int], positions: NDArray[np.intp]) -> NDArray[np.float64]:
        codes = [self._codes[position] for position in positions.tolist()]
        common = process.cdist([_coded(numbers)], codes, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return f_measure(common, len(numbers), np.frombuffer(self._lengths, np.int32)[positions])

    def _post(self, position: int, numbers: list[int]) -> None:
        prefix = self._bounds.of(len(numbers)).prefix
        postings, entry = self._postings, position << 32 | min(len(numbers), 0xFFFF) << 16
        last = 0
        for place, number in enumerate(sorted(numbers, key=self._rank.__getitem__)[:prefix]):
            if number == last:
                continue
            last, here = number, (entry | min(place, 0xFFFF)).to_bytes(8, "little")
            if postings[number]:
                postings[number] += here
            else:
                postings[number] = bytearray(here)


def _early(
    entries: NDArray[np.uint64], posted: list[bytes | bytearray], rarest: list[int], unknown: int, bound: Bound
) -> NDArray[np.bool]:
    """Which entries have their word early enough for as many common tokens to follow as it takes."""
    places = [place for place, number in enumerate(rarest) if not place or rarest[place - 1] != number]
    # By word and the other's length: the last place where it may have this word.
    farthest = np.where(np.array(places)[:, None] + unknown <= bound.reach, bound.room, -1)
    width = farthest.shape[1]
    if width > 0x10000:  # this length stands for all longer ones
        farthest[:, 0xFFFF] = 0xFFFF
    words = np.repeat(np.arange(0, farthest.size, width), [len(one) >> 3 for one in posted])
    parts = entries.view("<u2").reshape(-1, 4)
    early: NDArray[np.bool] = parts[:, 0] <= farthest.take(words + np.minimum(parts[:, 1], np.int64(width - 1)))
    return early


# What a text must share with another.


class Bound(NamedTuple):
    """What a text of one length must share with another if their F is to exceed the threshold."""

    prefix: int
    """How many of its rarest tokens to look at: one of them is shared. 0 if no text can come so near."""
    apart: NDArray[np.int32]
    """By the other's length: how many tokens at most are in one of the two only; -1 where that length is never near
    enough. The last entry stands for all that is longer."""
    reach: NDArray[np.int32]
    """By the other's length: the last place of this one, rarest first, where the first common token may stand."""
    room: NDArray[np.int32]
    """The same of the other; -1 where that length is never near enough."""


class Bounds:
    """The bound for every length, among texts as long as they have come."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._longest = 0
        self._known: dict[int, Bound] = {}

    def widen(self, length: int) -> None:
        """A text of this length is in."""
        if length > self._longest:
            self._longest = length
            self._known.clear()

    def of(self, length: int) -> Bound:
        bound = self._known.get(length)
        if bound is None:
            bound = _bound(length, self.threshold, self._longest)
            if length <= 256:  # long texts are few, and their tables long
                self._known[length] = bound
        return bound


def _bound(length: int, threshold: float, longest: int) -> Bound:
    if length == 0 or threshold >= 1:
        return Bound(0, *(np.array([-1], np.int32),) * 3)
    longest = max(longest, length)
    if threshold > 0:  # F <= 2 * length / (length + other), whatever they share
        longest = int(min(longest, length * (2 - threshold) / threshold + 2))
    other = np.arange(longest + 1)
    enough = least(length, other, threshold)
    possible = (enough <= other) & (enough <= length)
    apart, reach, room = (
        np.where(possible, most, -1).astype(np.int32)
        for most in (length + other - 2 * enough, length - enough, other - enough)
    )
    return Bound(length - int(enough[possible].min()) + 1, apart, reach, room)


def least(m: int, n: NDArray[np.intp], threshold: float) -> NDArray[np.intp]:
    """The least LCS of texts with m and n tokens whose F exceeds the threshold; above min(m, n) where none does.

    An integer rule is not enough: at an exact tie rouge-score's floats fall on either side (7, 7, 13 exceeds 0.7;
    7, 10, 10 does not). So begin surely below the tie and ask the floats.
    """
    enough = np.maximum(np.floor(threshold * (m + n) / 2).astype(np.intp) - 1, 0)
    while (low := f_measure(enough, m, n) <= threshold).any():
        enough += low
    return enough


def f_measure(common: NDArray[Any], m: int, n: NDArray[Any]) -> NDArray[np.float64]:
    """F as rouge-score computes it, operation by operation; 0 where nothing is common."""
    precision = common / np.maximum(n, 1)
    recall = common / max(m, 1)
    total = precision + recall
    f: NDArray[np.float64] = np.divide(2 * precision * recall, total, out=np.zeros(np.shape(total)), where=total > 0)
    return f


WORDS = 4
"""Of 64 bits, in the finer bitmap."""
SPREAD = 0x9E3779B97F4A7C15
"""The golden ratio spreads neighbours well apart."""


def _bitmaps(numbers: list[int]) -> tuple[int, bytes]:
    coarse = fine = 0
    for number in numbers:
        spread = number * SPREAD & 0xFFFFFFFFFFFFFFFF
        coarse |= 1 << (spread >> 58)
        fine |= 1 << (spread >> 56)
    return coarse, fine.to_bytes(8 * WORDS, "little")


_CODE_POINTS = 0x110000


def _coded(numbers: list[int]) -> Codes:
    return "".join(map(chr, numbers)) if max(numbers, default=0) < _CODE_POINTS else tuple(numbers)


def _decoded(codes: Codes) -> Iterable[int]:
    return map(ord, codes) if isinstance(codes, str) else codes
