"""Words in any script: how many a text has, and the pattern of a term as a whole one."""

from __future__ import annotations

import re

# Scripts without blanks between words: in the first a character is about a word, in the second (Thai, Lao, Burmese,
# Khmer) five of them are.
HAN = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
THAI = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_MARKS = "\u3000-\u3003\u3008-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff3d\uff5b-\uff65"
"""Wide punctuation, which no blank parts from words either."""
_RUN = f"[^\\s{HAN}{THAI}{_MARKS}]+"
WORD = re.compile(f"[{HAN}]|[{THAI}]{{1,5}}|{_RUN}")
PHRASE = re.compile(f"[{HAN}]{{1,2}}|[{THAI}]{{1,5}}|{_RUN}")
"""What weighs as much as an English word."""


SPACED = re.compile(f"[^{HAN}{THAI}]")


def words(text: str) -> int:
    """How many words: runs of non-blanks, each Han or Kana character, and every five letters of Thai and its like."""
    return len(WORD.findall(text))


def whole(term: str) -> str:
    """The pattern of a term as a whole word. Where no blanks part words, any place will do."""
    before, after = (rf"(?{side}\w)" if SPACED.match(end) else "" for side, end in (("<!", term[:1]), ("!", term[-1:])))
    return before + re.escape(term) + after
