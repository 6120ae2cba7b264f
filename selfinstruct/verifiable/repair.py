"""Putting an answer right where it breaks a constraint that asks for a form, and not for other content.

A model that writes well enough but does not yet keep to forms gives few answers that do. Lower case, a list of so many
points or a last sentence can be had of prose by a program. Every word and number of the answer stays, in its order;
what is no prose is left alone; and whether all constraints are kept then is for the rule ``follows`` to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from selfinstruct.records import Constraint
from selfinstruct.verifiable.ifeval import Verifiable, followed, parted

Mend = Callable[..., str]
"""A text and the type's kwargs to a text that follows, or to the same one where that cannot be had."""

_NO_PROSE = re.compile(
    r"`|://|^\s*\||\s\|\s|[{}<>\\=\t]|\w\(|\w\s*\*+\s*\w|^ +\S|^\s*(?:[-*•#>]|\(?\d{1,3}[.)])\s", re.MULTILINE
)
"""Code, tables, addresses, formulas, lists, headings: what case, marks and the ends of lines mean something in."""
_ENDED = re.compile(r"[.!?…。！？][\"'”’)\]*_]*\Z")  # noqa: RUF001


def repaired(prompt: str, text: str, constraints: Sequence[Constraint]) -> tuple[str, tuple[str, ...]]:
    """The answer to a prompt with what it breaks put right as far as possible, and the types for which something was
    done. What follows already is left as it is."""
    done, prose = [], not _NO_PROSE.search(text)
    if not text.strip():
        return text, ()
    # What makes parts of a text goes first, what goes around it next, and the case of all of it last.
    for one in (one for name in MENDS for one in constraints if one.type == name):
        if one.type not in AROUND and not prose:
            continue
        mend = partial(_bullets, mark="* " if '"* ' in prompt else "- ") if one.type == BULLETS else MENDS[one.type]
        before = _follow(constraints, text)
        if before[constraints.index(one)]:
            continue
        mended = mend(text.strip(), **one.kwargs)
        after = _follow(constraints, mended)
        right = after[constraints.index(one)] and all(now for was, now in zip(before, after, strict=True) if was)
        if right and _said(text) in _said(mended):
            text = mended
            done.append(one.type)
    return text, tuple(done)


def _follow(constraints: Sequence[Constraint], text: str) -> list[bool]:
    """By constraint, whether the text is sure to follow it."""
    item = Verifiable(0, "", tuple(one.type for one in constraints), tuple(one.kwargs for one in constraints))
    return [verdict is True for verdict in followed(item, text).strict]


def _said(text: str) -> str:
    """The words and numbers, whatever their case and what stands between them."""
    bare = json.loads(text)["answer"] if text.startswith('{"answer": ') else text
    bare = re.sub(r"^(?:Section|Part) \d+$", "", bare, flags=re.MULTILINE | re.IGNORECASE)  # what _sections put in
    words = " ".join(re.findall(r"[^\W_]+", bare.casefold()))
    return f" {words} "


def _groups(text: str, number: int) -> list[str]:
    """Prose in so many parts of whole sentences, about alike in number; none where it has too few, or lines that are no
    sentences: verse, a letter, a list."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    said = [one for line in lines for one in parted(line)]
    whole = "".join("".join(said).split()) == "".join(text.split())  # no sentence of signs alone is lost
    if len(said) < number or not whole or not all(map(_ENDED.search, lines)):
        return []
    ends = [len(said) * at // number for at in range(number + 1)]
    return [" ".join(said[start:end]) for start, end in pairwise(ends)]


def _bullets(text: str, *, num_bullets: int, mark: str = "- ") -> str:
    return "\n".join(mark + part for part in _groups(text, num_bullets)) or text


def _sections(text: str, *, section_spliter: str, num_sections: int) -> str:
    parts = _groups(text, num_sections)
    return "\n\n".join(f"{section_spliter} {at}\n{part}" for at, part in enumerate(parts, 1)) or text


def _paragraphs(text: str, *, num_paragraphs: int) -> str:
    return "\n***\n".join(_groups(text, num_paragraphs)) or text


def _highlights(text: str, *, num_highlights: int) -> str:
    """The longest words, each once; a text with asterisks in it has a use for them already."""
    if "*" in text:
        return text
    found = sorted(set(re.findall(r"\b[^\W\d_]{4,}\b", text)), key=lambda word: (-len(word), text.index(word)))
    for word in found[:num_highlights]:
        text = re.sub(rf"(?<![*\w]){word}(?![*\w])", f"*{word}*", text, count=1)
    return text


def _no_comma(text: str) -> str:
    """Without those of prose; between figures one may be a decimal's, a thousand's or a list's."""
    if re.search(r"\d\s*,\s*\d", text):
        return text
    return re.sub(r",(?=\s|\Z|[\"')\]”’])", "", text)  # noqa: RUF001


BULLETS = "detectable_format:number_bullet_lists"
MENDS: dict[str, Mend] = {
    BULLETS: _bullets,
    "detectable_format:multiple_sections": _sections,
    "length_constraints:number_paragraphs": _paragraphs,
    "detectable_format:number_highlighted_sections": _highlights,
    "punctuation:no_comma": _no_comma,
    "combination:repeat_prompt": lambda text, *, prompt_to_repeat: f"{prompt_to_repeat}\n\n{text}",
    "startend:end_checker": lambda text, *, end_phrase: f"{text}\n\n{end_phrase}",
    "detectable_format:json_format": lambda text: json.dumps({"answer": text}, ensure_ascii=False),
    "startend:quotation": lambda text: text if '"' in text else f'"{text}"',
    "change_case:english_lowercase": str.lower,
    "change_case:english_capital": str.upper,
}
"""By type, in the order in which they go together."""
AROUND = frozenset(
    [
        "combination:repeat_prompt",
        "startend:end_checker",
        "detectable_format:json_format",
        "startend:quotation",
    ]
)
"""Those that leave the text itself as it is."""
