"""Putting an answer right where it breaks a constraint that asks for a form, and not for other content.

A model that writes well enough but does not yet keep to forms gives few answers that do. Lower case, a list of so many
points or a last sentence can be had of an answer by a program. Whether all constraints are kept then is for the rule
``follows`` to say. No content is made up, and only marks are taken away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from selfinstruct.records import Constraint
from selfinstruct.verifiable.ifeval import Verifiable, followed, parted

Mend = Callable[..., str]
"""A text and the type's kwargs to a text that follows, or to the same one where that cannot be had."""


_NO_PROSE = re.compile(r"```|`[^`]+`|://|^\s*\||[{}<>\\=\t]", re.MULTILINE)
"""Code, tables, addresses, formulas: what case, commas and the ends of lines mean something in."""
_ITEM = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.)])\s+")


def repaired(text: str, constraints: Sequence[Constraint]) -> tuple[str, tuple[str, ...]]:
    """The answer with what it breaks put right as far as possible, and the types for which something was done."""
    done = []
    names = list(MENDS) if not _NO_PROSE.search(text) else AROUND
    # What makes parts of a text goes first, what goes around it next, and the case of all of it last.
    for one in (one for name in names for one in constraints if one.type == name):
        item = Verifiable(0, "", (one.type,), (one.kwargs,))
        if followed(item, text).strict == (False,):
            mended = MENDS[one.type](text.strip(), **one.kwargs)
            if followed(item, mended).strict == (True,):
                text = mended
                done.append(one.type)
    return text, tuple(done)


def _groups(text: str, number: int) -> list[str]:
    """The text in so many parts of whole sentences, about alike in number; none where it has too few."""
    said = [one for line in text.split("\n") for one in parted(_ITEM.sub("", line).strip())]
    if len(said) < number or not number:
        return []
    ends = [len(said) * at // number for at in range(number + 1)]
    return [" ".join(said[start:end]) for start, end in pairwise(ends)]


def _bullets(text: str, *, num_bullets: int) -> str:
    return "\n".join(f"- {part}" for part in _groups(text, num_bullets)) or text


def _sections(text: str, *, section_spliter: str, num_sections: int) -> str:
    parts = _groups(text, num_sections)
    return "\n\n".join(f"{section_spliter} {at}\n{part}" for at, part in enumerate(parts, 1)) or text


def _paragraphs(text: str, *, num_paragraphs: int) -> str:
    return "\n***\n".join(_groups(text, num_paragraphs)) or text


def _highlights(text: str, *, num_highlights: int) -> str:
    """The longest words, each once."""
    bare = text.replace("*", "")
    found = sorted(set(re.findall(r"\b[^\W\d_]{4,}\b", bare)), key=lambda word: (-len(word), bare.index(word)))
    for word in found[:num_highlights]:
        bare = re.sub(rf"(?<![*\w]){word}(?![*\w])", f"*{word}*", bare, count=1)
    return bare


def _no_comma(text: str) -> str:
    """Without those of prose and of thousands; one that may part a number from its decimals stays."""
    return re.sub(r",(?=\s|\Z|[\"')\]”’])|(?<=\d),(?=\d{3}\b)", "", text)  # noqa: RUF001


MENDS: dict[str, Mend] = {
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:multiple_sections": _sections,
    "length_constraints:number_paragraphs": _paragraphs,
    "detectable_format:number_highlighted_sections": _highlights,
    "punctuation:no_comma": _no_comma,
    "combination:repeat_prompt": lambda text, *, prompt_to_repeat: f"{prompt_to_repeat}\n\n{text}",
    "startend:end_checker": lambda text, *, end_phrase: f"{text}\n\n{end_phrase}",
    "detectable_format:json_format": lambda text: json.dumps({"answer": text}, ensure_ascii=False),
    "startend:quotation": lambda text: f'"{text.strip(chr(34))}"',
    "change_case:english_lowercase": str.lower,
    "change_case:english_capital": str.upper,
}
"""By type, in the order in which they go together."""
AROUND = (
    "combination:repeat_prompt",
    "startend:end_checker",
    "detectable_format:json_format",
    "startend:quotation",
)
"""Those that leave the text itself as it is."""
