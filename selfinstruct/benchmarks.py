"""Benchmarks, whose items no record may overlap: the questions of any JSONL, JSON or text file, item by item."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from selfinstruct.errors import InputError

ASKED = frozenset(
    (
        *("question", "question_stem", "question_content", "stem", "prompt", "instruction", "problem"),
        *("problem_statement", "input", "inputs", "text", "query", "goal", "ctx", "context", "passage", "premise"),
        *("hypothesis", "sentence", "sentence1", "sentence2", "statement", "claim", "story", "article", "document"),
        *("body", "content", "value", "turns", "user", "human"),
    )
)
"""The keys, in any case, whose texts are what a benchmark asks."""
ANSWERED = frozenset(
    (
        *("choices", "options", "answers", "answer", "answer_key", "answerkey", "target", "targets", "output"),
        *("outputs", "completion", "response", "responses", "solution", "solutions", "label", "labels", "endings"),
        *("canonical_solution", "test", "tests", "rationale", "explanation", "distractors"),
    )
)
"""The keys below which none of those is looked for: a choice or an answer may be any short text."""
SPEAKERS = frozenset(("assistant", "gpt", "model", "bot", "system", "tool", "function"))
"""Whose turns of a conversation ask nothing."""

_JSON = (".json",)
_LINES = (".jsonl", ".ndjson")
_HINT = (
    "a benchmark is JSONL, JSON (a list, or an object with a list in it) or text with an item a line, or .gz of these"
)
_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


class Item(NamedTuple):
    """A row of a benchmark: what its share is counted in."""

    line: int
    """Where it begins, counted from 1."""
    texts: tuple[str, ...]
    """Each is compared by itself."""


def names_of(paths: Iterable[Path]) -> dict[str, Path]:
    """Each file by a name that no other has: its own, with as many of its folders as tell it from the others."""
    parts = {path.absolute().parts: path for path in paths}
    named = {}
    for own, path in parts.items():
        others = [other for other in parts if other != own]
        tails = (own[-count:] for count in range(1, len(own) + 1))
        tail = next(tail for tail in tails if all(other[-len(tail) :] != tail for other in others))
        name = "/".join(tail).encode("utf-8", "backslashreplace").decode()  # a file's name may be no text
        named[name] = path
    return named


def read_items(content: bytes, name: str, source: str) -> Iterator[Item]:
    """The items of a benchmark's file. ``name`` says by its ending what it is, ``source`` what errors call it.

    Of a JSON object the texts under the keys of ``ASKED`` are compared, at any depth, or all its texts where it has
    none of these. A list in a JSON file holds an item an element; an object there is one item, or as many as the lists
    in it hold.

    Raises InputError with file:line.
    """
    name = name.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{source}: not whole as .gz: {error}", hint=_HINT) from error
    text = _decoded(content, source)
    worded = False
    for line, value in _rows(text, name, source):
        try:
            texts = tuple(dict.fromkeys(asked(value)))
        except RecursionError as error:
            raise InputError(f"{source}:{line}: nested too deeply", hint=_HINT) from error
        worded = worded or any(map(str.strip, texts))
        yield Item(line, texts)
    if not worded:
        raise InputError(f"{source}: no text to compare with", hint=_HINT)


def asked(value: Any) -> list[str]:
    """What a row asks: its question-like texts, or all of them where no key says which those are."""
    return list(_named(value)) or list(_strings(value))


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _named(part)
    elif isinstance(value, dict) and not _answers(value):
        for key, part in value.items():
            if key.casefold() in ASKED:
                yield from asked(part)
            elif key.casefold() not in ANSWERED:
                yield from _named(part)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, dict) and not _answers(value):
        for part in value.values():
            yield from _strings(part)


def _answers(turn: dict[str, Any]) -> bool:
    """Whether it is a turn of a conversation in which nobody asks."""
    speaker = turn.get("role", turn.get("from"))
    return isinstance(speaker, str) and speaker.casefold() in SPEAKERS


def _decoded(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{source}:{line}: not UTF-8 text: {error.reason}", hint=_HINT) from error


def _rows(text: str, name: str, source: str) -> Iterator[tuple[int, Any]]:
    """The rows of a file with the lines where they begin."""
    if name.endswith(_JSON):
        try:
            whole = json.loads(text)
        except RecursionError as error:
            raise InputError(f"{source}: nested too deeply", hint=_HINT) from error
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # several values: lines of JSON under the wrong name
                raise InputError(f"{source}:{error.lineno}: not JSON: {error.msg}", hint=_HINT) from error
        except ValueError as error:
            raise InputError(f"{source}: not JSON: {error}", hint=_HINT) from error
        else:
            yield from _elements(text, whole)
            return
    lines = name.endswith((*_JSON, *_LINES))
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line) if lines else line
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{source}:{number}: not JSON: {why}", hint=_HINT) from error


def _elements(text: str, whole: Any) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON text that is known to be right, as ``whole``."""
    start = _past(text, 0)
    if isinstance(whole, list):
        places = [start]
    elif isinstance(whole, dict):
        lists = {key for key, value in whole.items() if isinstance(value, list) and value}
        columns = {key for key in lists if key.casefold() in ASKED}
        rows = columns or {key for key in lists if key.casefold() not in ANSWERED}
        last = dict(_members(text, start))  # of a key that is there twice the last one counts, as in ``whole``
        places = sorted(last[key] for key in rows)
    else:
        places = []
    if not places:
        yield text.count("\n", 0, start) + 1, whole
        return
    line, counted = 1, 0
    for place in places:
        for at, value in _listed(text, place):
            line, counted = line + text.count("\n", counted, at), at
            yield line, value


def _members(text: str, at: int) -> Iterator[tuple[str, int]]:
    """Each key of the object at a place, and where its value begins."""
    at = _past(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _past(text, _past(text, at) + 1)
        yield key, at
        _, at = _DECODER.raw_decode(text, at)
        at = _past(text, at)
        if text[at] == ",":
            at = _past(text, at + 1)


def _listed(text: str, at: int) -> Iterator[tuple[int, Any]]:
    """Each value of the list at a place, and where it begins."""
    at = _past(text, at + 1)
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        yield at, value
        at = _past(text, end)
        if text[at] == ",":
            at = _past(text, at + 1)


def _past(text: str, at: int) -> int:
    """The next place that is no blank."""
    found = _BLANK.match(text, at)
    assert found is not None
    return found.end()
