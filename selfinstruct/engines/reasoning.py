"""Splitting what a model thought from what it answered, without losing a word of either."""

from __future__ import annotations

import re
from dataclasses import dataclass

TAG = re.compile(r"<(/?)think>")


@dataclass(frozen=True)
class Split:
    """``text`` of split_reasoning, in two. ``start`` is where the answer begins in it."""

    reasoning: str
    answer: str
    start: int
    open: bool = False
    """The thinking never ended, so there is no answer."""


def split_reasoning(text: str) -> Split:
    """Thinking is what ``<think>…</think>`` blocks at the start hold, or what stands before an unmatched ``</think>``.

    Chat templates often write the opening tag themselves, hence the second form. A tag that comes later, after the
    answer has begun, is the answer's own text. Without thinking the answer is the text, untouched.
    """
    thoughts: list[str] = []
    start = 0
    while (begin := _skip_space(text, start)) < len(text) and text.startswith("<think>", begin):
        close = _closing(text, begin)
        if close is None:
            thoughts.append(text[begin + len("<think>") :])
            return Split(_joined(thoughts), "", len(text), open=True)
        thoughts.append(text[begin + len("<think>") : close.start()])
        start = close.end()
    if not thoughts:
        first = TAG.search(text)
        if first is None or not first[1]:
            return Split("", text, 0)
        thoughts.append(text[: first.start()])
        start = first.end()
    start = _skip_space(text, start)
    return Split(_joined(thoughts), text[start:], start)


def _closing(text: str, begin: int) -> re.Match[str] | None:
    """The tag that ends the block opened at ``begin``: the balanced one, or the last where a thought names the tag."""
    depth, last = 0, None
    for tag in TAG.finditer(text, begin):
        depth += -1 if tag[1] else 1
        last = tag if tag[1] else last
        if depth == 0:
            return tag
    return last


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(thought.strip() for thought in thoughts if thought.strip())
