"""How close a new text is to the texts already kept: ROUGE-L, to rouge-score's last bit, by an exact index.

What F > threshold takes is a whole number of common tokens (``_least``). Two bounds spare nearly every comparison and
never change an answer:

- texts of m and n tokens that share o of them share one of the m-o+1 rarest of the one and the n-o+1 rarest of the
  other, so only those are posted and looked up;
- each token sets one of 64 bits, and one of 256, for 64 fill up where evolution makes texts long. A bit set on one side
  only is a token on one side only, and too many of those leave too few in common.

What survives both is measured, all of it: the nearest is the nearest, not the first that was near enough.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from selfinstruct.records import Objection, Record

if TYPE_CHECKING:
    from selfinstruct.recipe import Recipe

Tokenizer = Literal["rouge", "unicode"]
Codes = str | tuple[int, ...]
"""A text as its tokens' numbers: one code point each while code points last, for rapidfuzz is quickest on those."""


class Neighbour(NamedTuple):
    """A kept text, by its place in the order of adding, and its F with the text asked about."""

    position: int
    f: float


class Novelty:
    """The rule of the loop: objects to a draft whose ROUGE-L F against a seed or an accepted draft exceeds the
    threshold, and names that neighbour (Self-Instruct, Wang et al. 2023, section 2.2).

    Texts of a draft's own lineage are passed over: a child that keeps the 18 words of its parent and adds 15 has F 0.71
    with it. A rewritten answer is no new text here, for its instruction is in already.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._index = NoveltyIndex(recipe.novelty.threshold, recipe.novelty.tokenizer)
        self._with_input = recipe.novelty.key == "instruction+input"
        self._tasks: list[str] = []
        """By position; empty where the draft was forgotten."""
        self._seeds: set[str] = set()
        self._positions: dict[int | None, array[int]] = {}
        """By lineage, in the order of learning; None: of what is in none."""

    def _text(self, record: Record) -> str:
        return f"{record.instruction}\n{record.input}" if self._with_input else record.instruction

    def objection(self, record: Record) -> Objection | None:
        if keeps_instruction(record):
            return None
        own = self._positions.get(record.evolution.lineage, ()) if record.evolution is not None else ()
        near = self._index.nearest(self._text(record), exclude=own)
        if near is None:
            return None
        task = self._tasks[near.position]
        return Objection(by="novelty", why=f"ROUGE-L {near.f:.3f} with {task}", neighbour=task, score=near.f)

    def learn(self, record: Record) -> None:
        if keeps_instruction(record):
            return
        if not self._with_input and record.origin == "seed":
            if record.task in self._seeds:  # another instance of a seed whose instruction is in already
                return
            self._seeds.add(record.task)
        self._positions.setdefault(_lineage(record), array("i")).append(self._index.add(self._text(record)))
        self._tasks.append(record.task)

    def forget(self, record: Record) -> None:
        """Take back what the last ``learn`` of the draft put in."""
        own = self._positions.get(_lineage(record), array("i"))
        position = next((at for at in reversed(own) if self._tasks[at] == record.task), None)
        if position is None or keeps_instruction(record):
            return
        self._index.remove(position)
        self._tasks[position] = ""
        own.remove(position)


def _lineage(record: Record) -> int | None:
    return record.evolution.lineage if record.evolution is not None else None


def keeps_instruction(record: Record) -> bool:
    """Whether only its answer was rewritten: then it says nothing that is not in memory already."""
    return record.evolution is not None and record.evolution.direction == "answer"


class NoveltyIndex:
    """The texts kept so far, and whether a new one comes too close to any of them.

    Answers depend only on which texts are in, never on how or when they came. A text without tokens is near nothing,
    not even itself.
    """

    _order_first_at = 512
    """Texts after which rarity is counted for the first time; after that at every doubling."""

    def __init__(self, threshold: float = 0.7, tokenizer: Tokenizer = "rouge") -> None:
        if not threshold >= 0:
            raise ValueError(f"the threshold of novelty must be 0 or more, not {threshold!r}")
        self.threshold = threshold
        self.tokenizer: Tokenizer = tokenizer
        self._number: dict[str, int] = {}
        """By token, from 1: 0 stands for all that no text here contains."""
        self._rank = array("i", (0,))
        """By number: small is rare. Unique, so that both sides of a comparison order their tokens alike."""
        self._postings: list[bytes | bytearray] = [b""]
        """By number: the positions where it is among the rarest, 4 bytes each."""
        self._free: list[int] = []
        """Numbers of words that were in removed texts only."""
        self._codes: list[Codes] = []
        self._coarse, self._fine = array("Q"), array("Q")
        self._lengths = array("i")
        """By position; -1 where the text was removed, which no bound lets through."""
        self._removed = 0
        self._stale = 0
        """Removed texts that are posted still."""
        self._longest = 0
        self._bounds: dict[int, _Bounds] = {}
        self._order_at = self._order_first_at

    def __len__(self) -> int:
        return len(self._codes) - self._removed

    def add(self, text: str) -> int:
        """Keep a text, unjudged, and return its position: 0, 1, 2, …"""
        position = len(self._codes)
        if len(self) >= self._order_at:
            self._order_by_rarity()
        numbers = [self._numbered(word) for word in tokens(text, self.tokenizer)]
        if len(numbers) > self._longest:
            self._longest = len(numbers)
            self._bounds.clear()
        self._codes.append(_coded(numbers))
        coarse, fine = _bitmaps(numbers)
        self._coarse.append(coarse)
        self._fine.frombytes(fine)
        self._lengths.append(len(numbers))
        self._post(position, numbers)
        return position

    def remove(self, position: int) -> None:
        """Take a text out again. The positions of the others stay as they are, and its own is not given again."""
        if not 0 <= position < len(self._codes) or self._lengths[position] < 0:
            raise IndexError(f"no text at position {position!r}")
        self._codes[position] = ""
        self._lengths[position] = -1
        self._removed += 1
        self._stale += 1
        if self._stale > max(len(self) // 2, self._order_first_at):  # seldom enough to cost little, soon enough to pay
            self._order_by_rarity()

    def nearest(self, text: str, *, exclude: Collection[int] = ()) -> Neighbour | None:
        """The text with the highest F, the earliest of equals, if that F exceeds the threshold. Positions in
        ``exclude`` are passed over."""
        numbers = self._looked_up(text)
        survivors = self._survivors(numbers)
        if exclude and survivors.size:
            survivors = survivors[[position not in exclude for position in survivors.tolist()]]
        if not survivors.size:
            return None
        scores = self._scores(numbers, survivors)
        best = int(scores.argmax())  # the first of equals, and survivors are in order
        return Neighbour(int(survivors[best]), float(scores[best])) if scores[best] > self.threshold else None

    def top(self, text: str, k: int) -> list[Neighbour]:
        """The ``k`` nearest, however far, earlier ones first among equals. Looks at every text."""
        positions, scores = self._all_scores(text)
        order = np.argsort(-scores, kind="stable")[: max(k, 0)]
        return [Neighbour(int(positions[i]), float(scores[i])) for i in order]

    def mean(self, text: str) -> float:
        """The mean F over all texts, 0 when there are none. Looks at every text."""
        _, scores = self._all_scores(text)
        return float(scores.mean()) if scores.size else 0.0

    def _looked_up(self, text: str) -> list[int]:
        return [self._number.get(word, 0) for word in tokens(text, self.tokenizer)]

    def _survivors(self, numbers: list[int]) -> NDArray[np.intp]:
        """Positions, in order, of all texts that may exceed the threshold."""
        known = sorted([number for number in numbers if number], key=self._rank.__getitem__)
        unknown = len(numbers) - len(known)  # the rarest of all, and on this side only
        bounds = self._bounds_for(len(numbers))
        rarest = set(known[: max(bounds.prefix - unknown, 0)])
        positions = np.frombuffer(b"".join([self._postings[number] for number in rarest]), "<i4")
        if not positions.size:
            return np.empty(0, np.intp)
        allowed = (bounds.apart - unknown).take(np.frombuffer(self._lengths, np.int32)[positions], mode="clip")
        coarse, fine = _bitmaps(known)
        apart = np.bitwise_count(np.frombuffer(self._coarse, np.uint64)[positions] ^ np.uint64(coarse))
        near = apart <= allowed
        positions, allowed = positions[near], allowed[near]
        bits = np.frombuffer(self._fine, np.uint64).reshape(-1, _WORDS)[positions]
        apart = np.bitwise_count(bits ^ np.frombuffer(fine, np.uint64)).sum(axis=1, dtype=np.int32)
        return np.unique(positions[apart <= allowed]).astype(np.intp)

    def _scores(self, numbers: list[int], positions: NDArray[np.intp]) -> NDArray[np.float64]:
        codes = [self._codes[position] for position in positions.tolist()]
        common = process.cdist([_coded(numbers)], codes, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return _f(common, len(numbers), np.frombuffer(self._lengths, np.int32)[positions])

    def _all_scores(self, text: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        positions = np.flatnonzero(np.frombuffer(self._lengths, np.int32) >= 0)
        return positions, self._scores(self._looked_up(text), positions) if positions.size else np.empty(0)

    def _numbered(self, word: str) -> int:
        number = self._number.get(word)
        if number is None:
            if not self._free:
                self._free.append(len(self._rank))
                self._rank.append(0)
                self._postings.append(b"")
            number = self._number[word] = self._free.pop()
            self._rank[number] = -number  # rarer than all that have been counted
        return number

    def _post(self, position: int, numbers: list[int]) -> None:
        prefix = self._bounds_for(len(numbers)).prefix
        postings, place = self._postings, position.to_bytes(4, "little")
        for number in set(sorted(numbers, key=self._rank.__getitem__)[:prefix]):
            if postings[number]:
                postings[number] += place
            else:
                postings[number] = bytearray(place)

    def _order_by_rarity(self) -> None:
        """Rank all tokens by how often they occur, and post every text anew: of removed ones nothing stays."""
        counts = Counter(chain.from_iterable(map(_decoded, self._codes)))
        if self._stale:
            self._number = {word: number for word, number in self._number.items() if number in counts}
            self._free = [number for number in range(1, len(self._rank)) if number not in counts]
            self._stale = 0
        for rank, number in enumerate(sorted(range(len(self._rank)), key=counts.__getitem__)):
            self._rank[number] = rank
        self._postings = [b""] * len(self._rank)
        for position, codes in enumerate(self._codes):
            self._post(position, list(_decoded(codes)))
        self._order_at = max(2 * len(self), self._order_first_at)

    def _bounds_for(self, length: int) -> _Bounds:
        bounds = self._bounds.get(length)
        if bounds is None:
            bounds = _bounds(length, self.threshold, self._longest)
            if length <= 256:  # long texts are few, and their tables long
                self._bounds[length] = bounds
        return bounds


class _Bounds(NamedTuple):
    """What a text of one length must share with another if their F is to exceed the threshold."""

    prefix: int
    """How many of its rarest tokens to look at: one of them is shared. 0 if no text can come so near."""
    apart: NDArray[np.int32]
    """By the other's length: how many tokens at most are in one of the two only; -1 where that length is never near
    enough. The last entry stands for all that is longer."""


def _bounds(length: int, threshold: float, longest: int) -> _Bounds:
    if length == 0 or threshold >= 1:
        return _Bounds(0, np.array([-1], np.int32))
    longest = max(longest, length)
    if threshold > 0:  # F <= 2 * length / (length + other), whatever they share
        longest = int(min(longest, length * (2 - threshold) / threshold + 2))
    other = np.arange(longest + 1)
    least = _least(length, other, threshold)
    possible = (least <= other) & (least <= length)
    apart = np.where(possible, length + other - 2 * least, -1).astype(np.int32)
    return _Bounds(length - int(least[possible].min()) + 1, apart)


def _least(m: int, n: NDArray[np.intp], threshold: float) -> NDArray[np.intp]:
    """The least LCS of texts with m and n tokens whose F exceeds the threshold; above min(m, n) where none does.

    An integer rule is not enough: at an exact tie rouge-score's floats fall on either side (7, 7, 13 exceeds 0.7;
    7, 10, 10 does not). So begin surely below the tie and ask the floats.
    """
    least = np.maximum(np.floor(threshold * (m + n) / 2).astype(np.intp) - 1, 0)
    while (low := _f(least, m, n) <= threshold).any():
        least += low
    return least


def _f(common: NDArray[Any], m: int, n: NDArray[Any]) -> NDArray[np.float64]:
    """F as rouge-score computes it, operation by operation; 0 where nothing is common."""
    precision = common / np.maximum(n, 1)
    recall = common / max(m, 1)
    total = precision + recall
    f: NDArray[np.float64] = np.divide(2 * precision * recall, total, out=np.zeros(np.shape(total)), where=total > 0)
    return f


def rouge_l(a: str, b: str, tokenizer: Tokenizer = "rouge") -> float:
    """ROUGE-L's F of two texts, the float that rouge-score gives (without stemming)."""
    ones, others = tokens(a, tokenizer), tokens(b, tokenizer)
    number = {word: place for place, word in enumerate(dict.fromkeys(ones + others))}
    common = LCSseq.similarity([number[word] for word in ones], [number[word] for word in others])
    return float(_f(np.array(common), len(ones), np.array(len(others))))


_WORDS = 4


def _bitmaps(numbers: list[int]) -> tuple[int, bytes]:
    coarse = fine = 0
    for number in numbers:
        spread = number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF  # the golden ratio spreads neighbours well apart
        coarse |= 1 << (spread >> 58)
        fine |= 1 << (spread >> 56)
    return coarse, fine.to_bytes(8 * _WORDS, "little")


_CODE_POINTS = 0x110000


def _coded(numbers: list[int]) -> Codes:
    return "".join(map(chr, numbers)) if max(numbers, default=0) < _CODE_POINTS else tuple(numbers)


def _decoded(codes: Codes) -> Iterable[int]:
    return map(ord, codes) if isinstance(codes, str) else codes


def tokens(text: str, tokenizer: Tokenizer) -> list[str]:
    """The words of a text. ``rouge``: runs of a-z and 0-9 in lower case, rouge-score's without stemming; a text in
    another script has none. ``unicode``: runs of letters and digits of any script, case-folded, with the marks on
    them; scripts written without spaces are split by character."""
    if text.isascii():  # the two agree, and bytes are quickest
        return text.encode("ascii").translate(_ASCII).decode("ascii").split()
    if tokenizer == "rouge":
        return _NOT_ROUGE.sub(" ", text.lower()).split()
    return _unicode_tokens(text)


_ASCII = bytes(ord(c.lower()) if (c := chr(i)).isalnum() and i < 128 else ord(" ") for i in range(256))
_NOT_ROUGE = re.compile(r"[^a-z0-9]+")

# Thai, Lao, Myanmar, Khmer; Han, Hiragana, Katakana. A run of these is a phrase or a sentence, and as one token would
# match all or nothing. Hangul is not here: Korean puts spaces between its words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\uaa60-\uaa7f\ua9e0-\ua9ff"
    "\u3005-\u3007\u3021-\u3029\u3031-\u303c\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
_JOINERS = "\u200c\u200d"
"""Zero-width: inside words of Persian and of Indian scripts."""


def _unicode_tokens(text: str) -> list[str]:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    words: list[str] = []
    after: Literal["gap", "run", "character"] = "gap"
    for c in folded:
        if c.isalnum():
            if _UNSPACED.match(c) and not c.isdecimal():
                words.append(c)
                after = "character"
            elif after == "run":
                words[-1] += c
            else:
                words.append(c)
                after = "run"
        elif after != "gap" and (c in _JOINERS or unicodedata.category(c).startswith("M")):
            words[-1] += c
        else:
            after = "gap"
    return words
