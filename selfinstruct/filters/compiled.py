"""The search of arrays.py compiled by numba, where that is installed (`selfinstruct[fast]`): the same answers, sooner.

The bounds are those of arrays.py, but for the coarser bitmap: in a loop the finer one costs as little.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq

from selfinstruct.filters.arrays import SPREAD, WORDS, Bounds, f_measure

Array = NDArray[Any]


def _compiled(function: Any) -> Any:
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep the machine code: it is made again every time
        return njit(nogil=True, error_model="numpy")(function)


LONG = 4096
"""Tokens from which on a text is measured by rapidfuzz: the masks of a loop would take their square in bits."""
BLOCK = 8
"""Of 8 bytes: a cache line."""


class Compiled:
    """Texts in flat arrays: what was posted when the words were ordered last lies in one piece for each word, what
    came after it in chains."""

    def __init__(self, threshold: float) -> None:
        self._bounds = Bounds(threshold)
        self._count = self._used = self._chained = 0
        self._tokens = np.zeros(1 << 12, np.int32)
        self._starts = np.zeros(1 << 8, np.int64)
        self._lengths = np.zeros(1 << 8, np.int32)
        """By position; -1 where the text was removed."""
        self._bits = np.zeros((1 << 8, WORDS), np.uint64)
        self._size = 1
        """How many numbers have a rank."""
        self._rank = np.zeros(1 << 8, np.int32)
        """By number: small is rare. Unique, so that both sides of a comparison order their tokens alike."""
        self._slots = np.zeros(1 << 8, np.int32)
        """By number: where the masks of the text that is asked about stand; 0 between two questions."""
        self._heads = np.zeros(2, np.int64)
        self._pieces = np.zeros(0, np.uint64)
        """An entry: position, length and place among the rarest, in 32, 16 and 16 bits."""
        self._last = np.full(1 << 8, -1, np.int32)
        """By number: the end of its chain."""
        self._chain = np.zeros((1 << 8, BLOCK), np.uint64)
        """Blocks of a cache line: how many entries, and the number of the block before, from 1; then entries."""

    def __len__(self) -> int:
        return self._count

    def text(self, position: int) -> list[int] | None:
        if self._lengths[position] < 0:
            return None
        start = self._starts[position]
        found: list[int] = self._tokens[start : start + self._lengths[position]].tolist()
        return found

    def add(self, numbers: list[int]) -> None:
        text, length = np.array(numbers, np.int32), len(numbers)
        self._rank_up_to(int(text.max(initial=0)) + 1)
        self._bounds.widen(length)
        at = self._count
        self._tokens = _room(self._tokens, self._used + length)
        self._starts, self._lengths = _room(self._starts, at + 1), _room(self._lengths, at + 1)
        self._bits = _room(self._bits, at + 1)
        self._chain = _room(self._chain, self._chained + length)
        self._tokens[self._used : self._used + length] = text
        self._starts[at], self._lengths[at] = self._used, length
        prefix = self._bounds.of(length).prefix
        self._chained = _put(at, text, prefix, self._rank, self._bits, self._last, self._chain, self._chained)
        self._used += length
        self._count += 1

    def remove(self, position: int) -> None:
        if not 0 <= position < self._count or self._lengths[position] < 0:
            raise IndexError(f"no text at position {position!r}")
        self._lengths[position] = -1

    def nearest(self, numbers: list[int], exclude: Collection[int]) -> tuple[int, float] | None:
        bound = self._bounds.of(len(numbers))
        if not bound.prefix:
            return None
        text = np.array(numbers, np.int32)
        survivors = _survivors(
            text,
            bound.prefix,
            bound.apart,
            np.fromiter(exclude, np.int32, len(exclude)),
            self._lengths,
            self._bits,
            self._rank,
            self._heads,
            self._pieces,
            self._last,
            self._chain,
        )
        if not survivors.size:
            return None
        scores = f_measure(self._common(text, survivors), len(numbers), self._lengths[survivors])
        best = int(scores.argmax())  # the first of equals, and survivors are in order
        return (int(survivors[best]), float(scores[best])) if scores[best] > self._bounds.threshold else None

    def scores(self, numbers: list[int]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        positions = np.flatnonzero(self._lengths[: self._count] >= 0)
        common = self._common(np.array(numbers, np.int32), positions)
        return positions, f_measure(common, len(numbers), self._lengths[positions])

    def _common(self, text: Array, positions: Array) -> Array:
        """The LCS of a text with each."""
        if len(text) > LONG:
            numbers, others = text.tolist(), (self.text(position) for position in positions.tolist())
            return np.array([LCSseq.similarity(numbers, other or []) for other in others], np.int64)
        found: Array = _common(text, positions, self._tokens, self._starts, self._lengths, self._slots)
        return found

    def order(self, size: int) -> NDArray[np.intp]:
        self._used = _compacted(self._tokens, self._starts, self._lengths[: self._count])
        self._rank_up_to(size)
        lengths = self._lengths[: self._count]
        counts: NDArray[np.intp] = _counted(self._tokens, self._starts, lengths, self._size)
        self._rank[np.argsort(counts, kind="stable")] = np.arange(self._size, dtype=np.int32)
        prefixes = np.zeros(int(lengths.max(initial=0)) + 1, np.int64)
        for length in np.unique(lengths[lengths >= 0]).tolist():
            prefixes[length] = self._bounds.of(length).prefix
        self._heads, self._pieces = _posted(self._tokens, self._starts, lengths, prefixes, self._rank, self._size)
        self._last[:] = -1
        self._chained = 0
        return counts

    def _rank_up_to(self, size: int) -> None:
        if size <= self._size:
            return
        if size > self._rank.size:
            more = max(size, 2 * self._rank.size)
            self._rank, self._slots = _room(self._rank, more), _room(self._slots, more)
            self._last = np.concatenate([self._last, np.full(more - self._last.size, -1, np.int32)])
        self._rank[self._size : size] = -np.arange(self._size, size)  # rarer than all that have been counted
        self._size = size


def _room(kept: Array, size: int) -> Array:
    """The array, or a longer one that begins like it."""
    if size <= len(kept):
        return kept
    longer = np.zeros((max(size, len(kept) + len(kept) // 2), *kept.shape[1:]), kept.dtype)
    longer[: len(kept)] = kept
    return longer


def _population(context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


_popcount: Any = intrinsic(_population)


@_compiled
def _by_rank(text: Array, rank: Array) -> Array:
    """The known numbers of a text, rarest first."""
    known = np.empty(len(text), np.int32)
    count = np.int64(0)
    if len(text) > 64:
        known[: len(text)] = text[np.argsort(rank[text], kind="mergesort")]
        for number in known:
            if number:
                known[count] = number
                count += 1
        return known[:count]
    for number in text:  # few: insertion is quickest
        if number:
            at = count
            while at and rank[known[at - 1]] > rank[number]:
                known[at] = known[at - 1]
                at -= 1
            known[at] = number
            count += 1
    return known[:count]


@_compiled
def _set(bits: Array, text: Array) -> None:
    for number in text:
        spread = np.uint64(number) * np.uint64(SPREAD)
        bits[spread >> np.uint64(62)] |= np.uint64(1) << ((spread >> np.uint64(56)) & np.uint64(63))


@_compiled
def _put(
    at: int,
    text: Array,
    prefix: int,
    rank: Array,
    bits: Array,
    last: Array,
    chain: Array,
    chained: int,
) -> int:
    """Post a text behind what its rarest words have already; how long the chains are then."""
    bits[at] = 0
    _set(bits[at], text)
    known = _by_rank(text, rank)
    for place in range(min(prefix, len(known))):
        number = known[place]
        if place and known[place - 1] == number:
            continue
        block = np.int64(last[number])
        if block < 0 or chain[block, 0] & np.uint64(0xFF) == BLOCK - 1:
            chain[chained, 0] = np.uint64(block + 1) << np.uint64(8)
            block = np.int64(chained)
            last[number] = block
            chained += 1
        chain[block, 0] += np.uint64(1)
        chain[block, chain[block, 0] & np.uint64(0xFF)] = _entry(at, len(text), place)
    return chained


@_compiled
def _entry(at: int, length: int, place: int) -> Any:
    return (
        (np.uint64(at) << np.uint64(32))
        | (np.uint64(min(length, 0xFFFF)) << np.uint64(16))
        | np.uint64(min(place, 0xFFFF))
    )


@_compiled
def _compacted(tokens: Array, starts: Array, lengths: Array) -> Any:
    """Close the gaps that removed texts left; how many tokens there are then."""
    used = np.int64(0)
    for at in range(len(lengths)):
        start, length = starts[at], max(lengths[at], 0)
        if used < start:
            for i in range(length):  # forwards: they may overlap
                tokens[used + i] = tokens[start + i]
        starts[at] = used
        used += length
    return used


@_compiled
def _counted(tokens: Array, starts: Array, lengths: Array, size: int) -> Array:
    counts = np.zeros(size, np.int64)
    for at in range(len(lengths)):
        for i in range(starts[at], starts[at] + max(lengths[at], 0)):
            counts[tokens[i]] += 1
    return counts


@_compiled
def _posted(
    tokens: Array,
    starts: Array,
    lengths: Array,
    prefixes: Array,
    rank: Array,
    size: int,
) -> tuple[Array, Array]:
    """Every text's entries, in one piece for each word, and where each piece begins."""
    heads = np.zeros(size + 1, np.int64)
    for filling in range(2):  # first they are counted
        if filling:
            total = 0
            for number in range(size + 1):
                here = heads[number]
                heads[number] = total
                total += here
            pieces = np.empty(total, np.uint64)
            ends = heads[:-1].copy()
        for at in range(len(lengths)):
            length = lengths[at]
            if length < 0:
                continue
            known = _by_rank(tokens[starts[at] : starts[at] + length], rank)
            for place in range(min(prefixes[length], len(known))):
                number = known[place]
                if place and known[place - 1] == number:
                    continue
                if filling:
                    pieces[ends[number]] = _entry(at, length, place)
                    ends[number] += 1
                else:
                    heads[number] += 1
    return heads, pieces


@_compiled
def _sharing(
    known: Array,
    prefix: int,
    unknown: int,
    m: int,
    apart: Array,
    heads: Array,
    pieces: Array,
    last: Array,
    chain: Array,
) -> Any:
    """Entries of the texts that have one of the rarest words of this one, and may share enough after it. Some twice.

    Nearly all is passed over here, and which cannot be guessed: so every entry is written down, and most again over.
    """
    found = np.empty(256, np.uint64)
    count = np.int64(0)
    farthest = np.empty(len(apart), np.int64)
    for i in range(min(prefix - unknown, len(known))):
        number = known[i]
        if i and known[i - 1] == number:
            continue
        # By the other's length: the last place where it may have this word.
        for n in range(len(apart)):
            needed = (m + n - apart[n]) >> 1
            farthest[n] = n - needed if apart[n] >= 0 and unknown + i <= m - needed else -1
        if len(apart) > 0xFFFF + 1:  # this length stands for all longer ones
            farthest[0xFFFF] = 0xFFFF
        begin, end = np.int64(0), np.int64(0)
        if number + 1 < len(heads):
            begin, end = heads[number], heads[number + 1]
        if count + end - begin >= len(found):
            found = _longer(found, count, 2 * (count + end - begin))
        count = _passed(pieces[begin:end], farthest, found, count)
        block = np.int64(last[number])
        while block >= 0:
            if count + BLOCK > len(found):
                found = _longer(found, count, 2 * len(found))
            count = _passed(chain[block, 1 : 1 + np.int64(chain[block, 0] & np.uint64(0xFF))], farthest, found, count)
            block = np.int64(chain[block, 0] >> np.uint64(8)) - 1
    return found[:count]


@_compiled
def _passed(entries: Array, farthest: Array, found: Array, count: int) -> Any:
    """Write down the entries whose word stands early enough for their length; how many there are then.

    Unsigned, for an index that may be below zero costs another look.
    """
    kept, beyond = np.uint64(count), np.uint64(len(farthest) - 1)
    for at in range(np.uint64(len(entries))):
        entry = entries[at]
        length = min((entry >> np.uint64(16)) & np.uint64(0xFFFF), beyond)
        found[kept] = entry
        kept += np.uint64(np.int64(entry & np.uint64(0xFFFF)) <= farthest[length])
    return np.int64(kept)


@_compiled
def _longer(kept: Array, count: int, size: int) -> Array:
    longer = np.empty(size, np.uint64)
    longer[:count] = kept[:count]
    return longer


@_compiled
def _survivors(
    text: Array,
    prefix: int,
    apart: Array,
    exclude: Array,
    lengths: Array,
    bits: Array,
    rank: Array,
    heads: Array,
    pieces: Array,
    last: Array,
    chain: Array,
) -> Array:
    """Positions, in order, of all texts that the bounds let through."""
    known = _by_rank(text, rank)
    unknown = len(text) - len(known)  # the rarest of all, and on this side only
    own = np.zeros(WORDS, np.uint64)
    _set(own, known)
    found = _sharing(known, prefix, unknown, len(text), apart, heads, pieces, last, chain)
    count = np.int64(0)
    for entry in found:
        position = np.int64(entry >> np.uint64(32))
        length = np.int64((entry >> np.uint64(16)) & np.uint64(0xFFFF))
        if length == 0xFFFF:
            length = np.int64(lengths[position])
        differing = np.int64(0)
        for word in range(WORDS):
            differing += np.int64(_popcount(own[word] ^ bits[position, word]))
        found[count] = np.uint64(position)
        count += np.int64(0 <= length < len(apart) and differing <= apart[length] - unknown)
    survivors = np.sort(found[:count]).astype(np.int64)
    kept = np.int64(0)
    for at in range(count):
        position = survivors[at]
        if (kept and survivors[kept - 1] == position) or lengths[position] < 0:  # found by two words; removed
            continue
        excluded = False
        for other in exclude:
            excluded = excluded or other == position
        if not excluded:
            survivors[kept] = position
            kept += 1
    return survivors[:kept]


@_compiled
def _common(
    text: Array,
    positions: Array,
    tokens: Array,
    starts: Array,
    lengths: Array,
    slots: Array,
) -> Array:
    """The LCS of a text with each."""
    masks = _masks(text, slots)
    found = np.zeros(len(positions), np.int64)
    for at in range(len(positions)):
        start = starts[positions[at]]
        found[at] = _lcs(masks, len(text), tokens[start : start + lengths[positions[at]]], slots)
    _forget(text, slots)
    return found


@_compiled
def _masks(text: Array, slots: Array) -> Array:
    """By the slot of a number: the bits of the places where the text has it."""
    masks = np.zeros((len(text) + 1, max(1, (len(text) + 63) // 64)), np.uint64)
    used = np.int32(0)
    for place in range(len(text)):
        number = text[place]
        if number:
            if not slots[number]:
                used += np.int32(1)
                slots[number] = used
            masks[slots[number], place // 64] |= np.uint64(1) << np.uint64(place % 64)
    return masks


@_compiled
def _forget(text: Array, slots: Array) -> None:
    for number in text:
        slots[number] = 0


@_compiled
def _lcs(masks: Array, m: int, other: Array, slots: Array) -> Any:
    """The length of the longest common subsequence, 64 places at a time (Hyyrö 2004)."""
    words = masks.shape[1]
    if words == 1:
        state = ~np.uint64(0)
        for number in other:
            slot = slots[number]
            if slot:
                matched = state & masks[slot, 0]
                state = (state + matched) | (state - matched)
        inside = ~np.uint64(0) if m == 64 else (np.uint64(1) << np.uint64(m)) - np.uint64(1)
        return np.int64(_popcount(~state & inside))
    states = np.full(words, ~np.uint64(0), np.uint64)
    for number in other:
        slot = slots[number]
        if slot:
            carry = np.uint64(0)
            for word in range(words):
                state = states[word]
                matched = state & masks[slot, word]
                added = state + matched
                summed = added + carry
                carry = np.uint64(added < state or summed < added)
                states[word] = summed | (state & ~masks[slot, word])
    common = np.int64(0)
    for word in range(words):
        here = min(m - 64 * word, 64)
        inside = ~np.uint64(0) if here == 64 else (np.uint64(1) << np.uint64(here)) - np.uint64(1)
        common += np.int64(_popcount(~states[word] & inside))
    return common
