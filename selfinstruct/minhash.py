"""Near-duplicates among whole records: MinHash signatures, buckets by bands of them, and the true Jaccard similarity.

Two texts are as near as the sets of their runs of five words are: what they share, over all that they have (Broder
1997). datasketch draws 128 permutations, and the least value of a set under each is its signature; two sets of
similarity s agree in one of them with probability s. Bands of a few permutations each are buckets: whoever shares one
is a candidate, and candidates are compared set by set, so that no estimate decides anything.

What grows with the data lies on disk: signatures and sets, then buckets, a band at a time. The tables of datasketch
would hold 4 to 5 KB a record in memory.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfinstruct.filters.novelty import tokens

WORDS = 5
"""Words of a shingle."""
PERMUTATIONS = 128
MISSED = 1e-3
"""Of the pairs that are exactly as similar as the threshold, the share that may have no bucket in common."""
_BLOCK = 1024
"""Signatures that are written at once."""
_BITS = 512
"""Of a parity map: each shingle turns one bit over."""
_ODD = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


class Banding(NamedTuple):
    """How a signature is cut into bands."""

    bands: int
    rows: int
    """Permutations of a band."""

    def found(self, similarity: float) -> float:
        """The probability that two sets of this similarity share a bucket."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


def banding(threshold: float) -> Banding:
    """The widest bands, and so the fewest candidates, of which a pair exactly at the threshold is missed once in a
    thousand at most. A more similar pair is missed more seldom."""
    for rows in range(PERMUTATIONS, 1, -1):
        cut = Banding(PERMUTATIONS // rows, rows)
        if 1 - cut.found(threshold) <= MISSED:
            return cut
    return Banding(PERMUTATIONS, 1)


def shingles(text: str) -> Hashes:
    """The runs of five words of a text, in any script, as a sorted set of 64-bit hashes: the same everywhere and ever.
    A shorter text is one run; a text without words has none. A sign of arithmetic, currency or the like is a word:
    2 + 3 is not 2 - 3, nor C++ C."""
    words = np.fromiter(map(_word, _words(text)), np.uint64)
    width = min(WORDS, len(words))
    if not width:
        return words
    runs = np.zeros(len(words) - width + 1, np.uint64)
    for at in range(width):
        runs = runs * _ODD + words[at : at + len(runs)]
    return np.unique(runs)


_SIGNS = r"[+<>=^%$]|[-*/](?=\s*\d)|(?<=\w)#"
"""Where they are no markup, hyphen or bullet."""


def _words(text: str) -> list[str]:
    others = "" if text.isascii() else "".join(sorted(c for c in set(text) if unicodedata.category(c)[0] == "S"))
    signs, at, found = _pattern(others), 0, list[str]()
    for sign in signs.finditer(text):
        found += tokens(text[at : sign.start()], "unicode")
        found.append("\u2212" if sign[0] == "-" else sign[0])
        at = sign.end()
    return found + tokens(text[at:], "unicode")


@lru_cache(256)
def _pattern(others: str) -> re.Pattern[str]:
    return re.compile(f"{_SIGNS}|[{re.escape(others)}]" if others else _SIGNS)


@lru_cache(1 << 17)
def _word(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def jaccard(one: Hashes, other: Hashes) -> float:
    """What two sets share, over all that they have; 0 where both are empty."""
    common = np.intersect1d(one, other, assume_unique=True).size
    return common / max(one.size + other.size - common, 1)


class _Sets:
    """Sets of hashes in a file, 8 bytes each; 72 a set in memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._ends = array("Q", [0])
        self._parities = bytearray()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, found: Hashes) -> None:
        self._file.write(found.data)
        self._ends.append(self._ends[-1] + found.size)
        turned = np.bincount((found >> np.uint64(55)).astype(np.intp), minlength=_BITS) & 1
        self._parities += np.packbits(turned.astype(np.uint8)).tobytes()

    def sizes(self) -> NDArray[np.int64]:
        """How many hashes each set has."""
        return np.diff(np.frombuffer(self._ends, np.uint64)).astype(np.int64)

    def parities(self) -> Hashes:
        """A row of 512 bits for each set: in how many they differ is at the most what is in one of two sets only."""
        return np.frombuffer(self._parities, np.uint64).reshape(-1, _BITS // 64)

    def __getitem__(self, position: int) -> Hashes:
        start, end = self._ends[position], self._ends[position + 1]
        self._file.seek(8 * start)
        return np.frombuffer(self._file.read(8 * (end - start)), np.uint64)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Signatures:
    """The texts of a dataset as sets and signatures, in files of a folder: 512 bytes and 8 a shingle for each on disk,
    80 in memory. A text may have more to it: it is then a set with and one without that, 72 bytes more."""

    def __init__(self, folder: Path) -> None:
        self.whole = _Sets(folder / "shingles")
        """By position: the text with what more it has."""
        self.bare = _Sets(folder / "bare")
        """The texts that have more, without it."""
        self._number = array("q")
        self._signatures = (folder / "signatures").open("w+b")
        self._waiting: list[Hashes] = []

    def __len__(self) -> int:
        return len(self.whole)

    def add(self, text: str, more: str = "") -> int:
        """Take a text in, and return its position: 0, 1, 2, …"""
        found = shingles(f"{text}\n{more}" if more else text)
        self._number.append(len(self.bare) if more else -1)
        if more:
            self.bare.add(shingles(text))
        self.whole.add(found)
        self._waiting.append(found)
        if len(self._waiting) == _BLOCK:
            self._sign()
        return len(self) - 1

    def finish(self) -> None:
        """No more will be added."""
        self._sign()
        self.whole.flush()
        self.bare.flush()
        self._signatures.flush()

    def close(self) -> None:
        self.whole.close()
        self.bare.close()
        self._signatures.close()

    def numbers(self) -> NDArray[np.int64]:
        """By position: which of the bare sets is the text's; -1 where it has no more than itself."""
        return np.frombuffer(self._number, np.int64)

    def keys(self, band: int, rows: int) -> Hashes:
        """The bucket of every text in a band of so many permutations."""
        found = np.zeros(len(self), np.uint64)
        for start in range(0, len(self), _BLOCK):
            count = min(_BLOCK, len(self) - start)
            self._signatures.seek(4 * (start * PERMUTATIONS + band * rows * count))
            values = np.frombuffer(self._signatures.read(4 * rows * count), np.uint32).reshape(rows, count)
            for row in values:
                found[start : start + count] = found[start : start + count] * _ODD + (row + np.uint64(1))
        return found

    def _sign(self) -> None:
        if self._waiting:
            self._signatures.write(np.ascontiguousarray(signatures(self._waiting).T).data)
            self._waiting = []


def signatures(sets: Sequence[Hashes]) -> NDArray[np.uint32]:
    """The MinHash signatures of sets, a row for each, as datasketch computes them."""
    from datasketch import MinHash  # type: ignore[import-untyped]

    halves = ((found >> np.uint64(32)).tolist() for found in sets)  # 32 bits are what this scheme permutes
    made = MinHash.generator(halves, num_perm=PERMUTATIONS, scheme="affine32", hashfunc=int)
    return np.array([one.hashvalues for one in made], np.uint32).reshape(-1, PERMUTATIONS)


class Near(NamedTuple):
    """A kept text, by its place in the order, and its similarity with the text asked about."""

    place: int
    jaccard: float


class Kept:
    """Which of the texts kept so far comes near to the next one. Texts are asked about by their place in ``order``, an
    array of positions; whoever asks decides what is kept.

    Memory: some 100 bytes a text and 16 a bucket of two or more; the buckets' members lie in files of the folder.
    """

    def __init__(self, texts: Signatures, order: NDArray[np.int64], threshold: float, folder: Path) -> None:
        self._texts, self._order, self.threshold = texts, order, threshold
        self.banding = banding(threshold)
        self._sizes, self._parities = texts.whole.sizes(), texts.whole.parities()
        self._numbers_of_bare = texts.numbers()
        self._bare_sizes, self._bare_parities = texts.bare.sizes(), texts.bare.parities()
        self._seen = np.zeros(len(order), bool)
        self._folder = folder
        self.shares = np.zeros(len(order), bool)
        """By place: whether the text shares a bucket with any other. The others are near nothing."""

    def build(self) -> Iterator[int]:
        """Find the buckets, a band at a time; yields how many are done."""
        count, bands = len(self._order), self.banding.bands
        # Sparse: what shares no bucket takes no room on disk.
        self._buckets = np.memmap(self._folder / "buckets", np.int32, "w+", shape=(max(count, 1), bands))
        worded = np.flatnonzero(self._sizes[self._order])
        many: list[NDArray[np.int64]] = []
        total = 0
        for band in range(bands):
            keys = self._texts.keys(band, self.banding.rows)[self._order[worded]]
            by_key = np.argsort(keys, kind="stable")
            keys = keys[by_key]
            first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if keys.size else worded
            sizes = np.diff(np.append(first, keys.size))
            shared = sizes > 1
            members = worded[by_key[np.repeat(shared, sizes)]]
            sizes = sizes[shared]
            self._buckets[members, band] = np.repeat(np.arange(total, total + sizes.size), sizes) + 1  # 0: none
            self.shares[members] = True
            many.append(sizes)
            total += sizes.size
            yield band + 1
        ends = np.cumsum(np.concatenate(([0], *many)))
        self._free = ends[:-1].copy()
        """By bucket: where its next member goes."""
        self._start = ends[:-1]
        self._members = np.memmap(self._folder / "members", np.int32, "w+", shape=(max(int(ends[-1]), 1),))

    def nearest(self, place: int) -> Near | None:
        """The kept text that is most similar, the earliest in the order of equals, if it is so by the threshold. Where
        one of the two has more to it, their similarity is the lesser of that with it and that without."""
        numbers = self._numbers(place)
        parts = [self._members[start:end] for start, end in zip(self._start[numbers], self._free[numbers], strict=True)]
        found = self._once(np.concatenate(parts)) if parts else np.empty(0, np.intp)
        position = int(self._order[place])
        bare = len(self._texts.bare) > 0
        found = found[self._possible(position, self._order[found])]
        if bare and found.size:
            found = found[self._possible(position, self._order[found], bare=True)]
        if not found.size:
            return None
        scores = self._scores(position, self._order[found])
        if bare:
            high = scores >= self.threshold
            found, scores = found[high], scores[high]
            if not found.size:
                return None
            scores = np.minimum(scores, self._scores(position, self._order[found], bare=True))
        best = int(scores.argmax())  # the first of equals
        return Near(int(found[best]), float(scores[best])) if scores[best] >= self.threshold else None

    def _possible(self, position: int, others: NDArray[np.int64], *, bare: bool = False) -> NDArray[np.bool_]:
        """Which of the others can be similar enough: what is in one of two sets only is a part of both together that
        the threshold bounds."""
        parities, own = self._bits(others, bare), self._bits(np.array([position]), bare)
        apart = np.bitwise_count(parities ^ own).sum(1, np.int64)
        sizes = self._counts(others, bare) + self._counts(np.array([position]), bare)
        possible: NDArray[np.bool_] = apart <= sizes * (1 - self.threshold) / (1 + self.threshold) + 1e-6
        return possible

    def _scores(self, position: int, others: NDArray[np.int64], *, bare: bool = False) -> NDArray[np.float64]:
        """The similarity with each of the others, of which there are some."""
        own, sizes = self._set(position, bare), self._counts(others, bare)
        sets = [self._set(other, bare) for other in others.tolist()]
        if not own.size or not sizes.all():  # with no words but in what more they have
            return np.array([jaccard(own, other) if own.size or other.size else 1.0 for other in sets])
        together = np.concatenate(sets)
        there = own[np.minimum(np.searchsorted(own, together), own.size - 1)] == together
        common = np.add.reduceat(there, np.cumsum(sizes) - sizes, dtype=np.int64)
        scores: NDArray[np.float64] = common / (sizes + own.size - common)
        return scores

    def _set(self, position: int, bare: bool) -> Hashes:
        number = int(self._numbers_of_bare[position]) if bare else -1
        return self._texts.bare[number] if number >= 0 else self._texts.whole[position]

    def _counts(self, positions: NDArray[np.int64], bare: bool) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._sizes[positions]
        if bare:
            numbers = self._numbers_of_bare[positions]
            found[numbers >= 0] = self._bare_sizes[numbers[numbers >= 0]]
        return found

    def _bits(self, positions: NDArray[np.int64], bare: bool) -> Hashes:
        found: Hashes = self._parities[positions]
        if bare:
            numbers = self._numbers_of_bare[positions]
            found[numbers >= 0] = self._bare_parities[numbers[numbers >= 0]]
        return found

    def keep(self, place: int) -> None:
        """The text stays: later ones are compared with it."""
        numbers = self._numbers(place)
        self._members[self._free[numbers]] = place
        self._free[numbers] += 1

    def _once(self, places: NDArray[np.int32]) -> NDArray[np.intp]:
        """Each place once, in order. Rows of one template share many buckets, and sorting them all would take long."""
        if places.size < len(self._seen) // 20:
            return np.unique(places).astype(np.intp)
        self._seen[places] = True
        found = np.flatnonzero(self._seen)
        self._seen[found] = False
        return found

    def _numbers(self, place: int) -> NDArray[np.int32]:
        row = np.asarray(self._buckets[place])
        return row[row > 0] - 1
