"""How close a new text is to the texts already kept: ROUGE-L, to rouge-score's last bit, by an exact index.

The index gives words numbers; arrays.py and compiled.py hold the texts, and find the nearest.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from rapidfuzz.distance import LCSseq

from selfinstruct.filters.arrays import Arrays, Texts, f_measure
from selfinstruct.records import Objection, Record

if TYPE_CHECKING:
    from selfinstruct.recipe import Recipe

Tokenizer = Literal["rouge", "unicode"]


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
        self._recipe = recipe
        self._index = NoveltyIndex(recipe.novelty.threshold, recipe.novelty.tokenizer)
        self._tasks: list[str] = []
        """By position; empty where the draft was forgotten."""
        self._seeds: set[str] = set()
        self._positions: dict[int | None, array[int]] = {}
        """By lineage, in the order of learning; None: of what is in none."""

    def objection(self, record: Record) -> Objection | None:
        if keeps_instruction(record):
            return None
        own = self._positions.get(record.evolution.lineage, ()) if record.evolution is not None else ()
        near = self._index.nearest(compared(record, self._recipe), exclude=own)
        if near is None:
            return None
        task = self._tasks[near.position]
        return Objection(by="novelty", why=f"ROUGE-L {near.f:.3f} with {task}", neighbour=task, score=near.f)

    def learn(self, record: Record) -> None:
        if keeps_instruction(record):
            return
        if self._recipe.novelty.key == "instruction" and record.origin == "seed":
            if record.task in self._seeds:  # another instance of a seed whose instruction is in already
                return
            self._seeds.add(record.task)
        self._positions.setdefault(_lineage(record), array("i")).append(self._index.add(compared(record, self._recipe)))
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


def compared(record: Record, recipe: Recipe) -> str:
    """What of a record is compared."""
    return f"{record.instruction}\n{record.input}" if recipe.novelty.key == "instruction+input" else record.instruction


def _lineage(record: Record) -> int | None:
    return record.evolution.lineage if record.evolution is not None else None


def keeps_instruction(record: Record) -> bool:
    """Whether only its answer was rewritten: then it says nothing that is not in memory already."""
    return record.evolution is not None and record.evolution.direction == "answer"


class NoveltyIndex:
    """The texts kept so far, and whether a new one comes too close to any of them.

    Answers depend only on which texts are in, never on how or when they came, nor on whether numba is there. A text
    without tokens is near nothing, not even itself.
    """

    _order_first_at = 512
    """Texts after which rarity is counted for the first time; …"""
    _order_again = 2.0
    """… and how much they must have grown before it is again."""
    _compiled_from = 20_000
    """Texts from which on loading the compiled search is worth its time."""

    def __init__(self, threshold: float = 0.7, tokenizer: Tokenizer = "rouge") -> None:
        if not threshold >= 0:
            raise ValueError(f"the threshold of novelty must be 0 or more, not {threshold!r}")
        self.threshold = threshold
        self.tokenizer: Tokenizer = tokenizer
        self._texts: Texts = Arrays(threshold)
        self._number: dict[str, int] = {}
        """By token, from 1: 0 stands for all that no text here contains."""
        self._free: list[int] = []
        """Numbers of words that were in removed texts only."""
        self._next = 1
        self._removed = 0
        self._stale = 0
        """Removed texts that are posted still."""
        self._order_at = self._order_first_at
        self._asked: tuple[str, list[str]] = ("", [])
        """The text asked about last, for it is the one that is added next."""

    def __len__(self) -> int:
        return len(self._texts) - self._removed

    def add(self, text: str) -> int:
        """Keep a text, unjudged, and return its position: 0, 1, 2, …"""
        if len(self) >= self._order_at:
            self._order_by_rarity()
        if len(self._texts) == self._compiled_from:
            self._compile()
        self._texts.add([self._numbered(word) for word in self._words(text)])
        return len(self._texts) - 1

    def remove(self, position: int) -> None:
        """Take a text out again. The positions of the others stay as they are, and its own is not given again."""
        self._texts.remove(position)
        self._removed += 1
        self._stale += 1
        if self._stale > max(len(self) // 2, self._order_first_at):  # seldom enough to cost little, soon enough to pay
            self._order_by_rarity()

    def nearest(self, text: str, *, exclude: Collection[int] = ()) -> Neighbour | None:
        """The text with the highest F, the earliest of equals, if that F exceeds the threshold. Positions in
        ``exclude`` are passed over."""
        found = self._texts.nearest(self._looked_up(text), exclude)
        return Neighbour(*found) if found else None

    def top(self, text: str, k: int) -> list[Neighbour]:
        """The ``k`` nearest, however far, earlier ones first among equals. Looks at every text."""
        positions, scores = self._texts.scores(self._looked_up(text))
        order = np.argsort(-scores, kind="stable")[: max(k, 0)]
        return [Neighbour(int(positions[i]), float(scores[i])) for i in order]

    def mean(self, text: str) -> float:
        """The mean F over all texts, 0 when there are none. Looks at every text."""
        _, scores = self._texts.scores(self._looked_up(text))
        return float(scores.mean()) if scores.size else 0.0

    def _words(self, text: str) -> list[str]:
        if self._asked[0] != text:
            self._asked = text, tokens(text, self.tokenizer)
        return self._asked[1]

    def _looked_up(self, text: str) -> list[int]:
        number = self._number
        return [number.get(word, 0) for word in self._words(text)]

    def _numbered(self, word: str) -> int:
        number = self._number.get(word)
        if number is None:
            if self._free:
                number = self._free.pop()
            else:
                number, self._next = self._next, self._next + 1
            self._number[word] = number
        return number

    def _order_by_rarity(self) -> None:
        """Rank all tokens by how often they occur, and post every text anew: of removed ones nothing stays."""
        counts = self._texts.order(self._next)
        if self._stale:
            self._number = {word: number for word, number in self._number.items() if counts[number]}
            self._free = [number for number in range(1, self._next) if not counts[number]]
            self._stale = 0
        self._order_at = max(int(self._order_again * len(self)), self._order_first_at)

    def _compile(self) -> None:
        """Move into the compiled search where numba is installed."""
        try:
            from selfinstruct.filters.compiled import Compiled
        except ImportError:
            return
        self._texts, self._order_again = moved(self._texts, Compiled(self.threshold)), 1.1
        self._order_by_rarity()


def moved(texts: Texts, to: Texts) -> Texts:
    """``to`` with all texts at the positions that they have."""
    for position in range(len(texts)):
        numbers = texts.text(position)
        to.add(numbers or [])
        if numbers is None:
            to.remove(position)
    return to


def rouge_l(a: str, b: str, tokenizer: Tokenizer = "rouge") -> float:
    """ROUGE-L's F of two texts, the float that rouge-score gives (without stemming)."""
    ones, others = tokens(a, tokenizer), tokens(b, tokenizer)
    number = {word: place for place, word in enumerate(dict.fromkeys(ones + others))}
    common = LCSseq.similarity([number[word] for word in ones], [number[word] for word in others])
    return float(f_measure(np.array(common), len(ones), np.array(len(others))))


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
