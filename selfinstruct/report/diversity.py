"""How varied the words are: distinct n-grams (Li et al. 2016) and MTLD (McCarthy and Jarvis 2010)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfinstruct.filters.novelty import tokens
from selfinstruct.report.rows import Row

FACTOR = 0.72
"""The ratio of types to tokens at which a factor of MTLD is full."""
WORDS = 2_000_000
"""Tokens of a field that are looked at, at the most: of more, every second record, every fourth, …"""
_ODD = np.uint64(0x9E3779B97F4A7C15)


def mtld(words: Sequence[int]) -> float | None:
    """The mean length of runs that keep the ratio above ``FACTOR``, forwards and backwards averaged. None where no word
    comes back, for then nothing bounds it."""
    found = [_factors(words), _factors(words[::-1])]
    return None if 0.0 in found else sum(len(words) / factors for factors in found) / 2


def _factors(words: Sequence[int]) -> float:
    """Full factors, and the part of one that is left: how far its ratio has come from 1 to ``FACTOR``."""
    full, seen, count = 0, set[int](), 0
    for word in words:
        seen.add(word)
        count += 1
        if len(seen) <= FACTOR * count:
            full, count = full + 1, 0
            seen.clear()
    return full + ((1 - len(seen) / count) / (1 - FACTOR) if count else 0.0)


def distinct(texts: Sequence[NDArray[np.uint64]], n: int) -> tuple[int, int]:
    """How many different n-grams of words' numbers there are, and how many in all; none reaches over two texts."""
    grams = [_grams(text, n) for text in texts if len(text) >= n]
    if not grams:
        return 0, 0
    whole = np.concatenate(grams)
    return int(np.unique(whole).size), int(whole.size)


def _grams(words: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """A number of 64 bits for each: two that differ have the same once in 10**19."""
    count = len(words) - n + 1
    found = np.zeros(count, np.uint64)
    for at in range(n):
        found = (found + words[at : at + count]) * _ODD
        found ^= found >> np.uint64(29)
    return found


class Field:
    """The words of one field, thinned where they are too many."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._texts: list[array[int]] = []
        self._seen = self._size = 0
        self._stride = 1

    def add(self, text: str) -> None:
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        said = tokens(text, "unicode")
        numbers = self._numbers
        self._texts.append(array("i", [numbers.setdefault(word, len(numbers)) for word in said]))
        self._size += len(said)
        while self._size > WORDS and len(self._texts) > 1:
            self._texts = self._texts[::2]
            self._stride *= 2
            self._size = sum(map(len, self._texts))

    def figures(self) -> dict[str, Any]:
        hashed = np.array([_hash(word) for word in self._numbers], np.uint64)
        texts = [hashed[np.array(text, np.intp)] for text in self._texts]
        found: dict[str, Any] = {"texts": len(texts), "texts_in_all": self._seen, "words": self._size}
        found["vocabulary"] = len(np.unique(np.concatenate(self._texts))) if self._size else 0
        for n in (1, 2, 3):
            some, whole = distinct(texts, n)
            found[f"distinct_{n}"] = some / whole if whole else None
        joined = array("i")
        for text in self._texts:
            joined.extend(text)
        found["mtld"] = mtld(joined) if joined else None
        return found


def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Diversity:
    """Of instructions once a task, of outputs in every record; in the order of the records."""

    def __init__(self) -> None:
        self._instructions, self._outputs = Field(), Field()
        self._last: tuple[int, int] | None = None

    def add(self, row: Row) -> None:
        if not row.kept:
            return
        if (row.step, row.item) != self._last:
            self._instructions.add(row.record.instruction)
        self._last = (row.step, row.item)
        self._outputs.add(row.record.output)

    def figures(self) -> dict[str, Any]:
        return {"instruction": self._instructions.figures(), "output": self._outputs.figures()}
