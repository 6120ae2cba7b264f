"""Evaluation sets, whose items no record may overlap: the questions of Parquet, JSONL, JSON and text files."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from selfinstruct.errors import InputError
from selfinstruct.values import GZIP, ZSTD, reading, table, unpacked

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
_REFUSED = {".csv": "CSV", ".tsv": "TSV"}
"""What would be read as text, header and answers included."""
_HINT = (
    "a benchmark is Parquet, JSONL, JSON (a list, or an object with a list in it) or text with an item a line, or .gz "
    "or .zst of these"
)
_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


class Item(NamedTuple):
    """A row of a benchmark: what its share is counted in."""

    line: int
    """Where it begins, counted from 1; of Parquet, its row."""
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
    """The items of a benchmark's file. ``name`` says by its ending what it is, ``source`` what errors call it; what is
    packed, and Parquet, is known by its first bytes too.

    Of an object the texts under the keys of ``ASKED`` are compared, at any depth, or all its texts where it has none of
    these. A list in a JSON file holds an item an element; an object there is one item, or as many as those lists in it
    hold that ask something.

    Raises InputError with file:line, UsageError where the package that reads such a file is not installed.
    """
    content, name = _unpacked(content, name.lower(), source)
    for ending, kind in _REFUSED.items():
        if name.endswith(ending):
            hint = "keep the column that asks: its header and its answers would be taken for items"
            raise InputError(f"{source}: {kind} is not read: convert it to JSONL", hint=hint)
    if name.endswith(".parquet") or (content[:4] == content[-4:] == b"PAR1"):
        rows = table(io.BytesIO(content), Path(source), only_text=True)
    else:
        rows = _rows(_decoded(content, source), name, source)
    worded = False
    for line, value in rows:
        try:
            texts = tuple(dict.fromkeys(asked(_inner(value))))
        except RecursionError as error:
            raise InputError(f"{source}:{line}: nested too deeply", hint=_HINT) from error
        worded = worded or any(map(str.strip, texts))
        yield Item(line, texts)
    if not worded:
        raise empty(source)


def empty(source: str) -> InputError:
    """What is told of a benchmark without any text."""
    return InputError(f"{source}: no text to compare with", hint=_HINT)


def asked(value: Any) -> list[str]:
    """What a row asks: its question-like texts, or all of them where no key says which those are."""
    return list(_named(value)) or list(_strings(value))


def _inner(value: Any) -> Any:
    """A row without what the hub's rows API puts around it."""
    if isinstance(value, dict) and "row_idx" in value and isinstance(value.get("row"), dict):
        return value["row"]
    return value


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


def _unpacked(content: bytes, name: str, source: str) -> tuple[bytes, str]:
    """What a file holds, and its name without the ending of what it was packed with."""
    path = Path(source)
    for ending, magic in ((".gz", GZIP), (".zst", ZSTD)):
        if name.endswith(ending) and not content.startswith(magic):  # as text it would be a benchmark of nonsense
            raise InputError(f"{path}: damaged, or cut off: not {ending}", hint="make or fetch the file again")
    with reading(path):
        plain = unpacked(io.BufferedReader(cast(io.RawIOBase, io.BytesIO(content))), content[:4], path).read()
    return plain, name.removesuffix(".gz").removesuffix(".zst")


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
            places = _places(text, whole)
        except RecursionError as error:
            raise InputError(f"{source}: nested too deeply", hint=_HINT) from error
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # several values: lines of JSON under the wrong name
                raise InputError(f"{source}:{error.lineno}: not JSON: {error.msg}", hint=_HINT) from error
        except ValueError as error:
            raise InputError(f"{source}: not JSON: {error}", hint=_HINT) from error
        else:
            yield from _elements(text, whole, places)
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


def _places(text: str, whole: Any) -> list[int]:
    """Where the lists of a JSON text begin whose elements are its rows; of an object, those that ask: its columns, or
    lists of rows with a question in them, or whatever holds a text. Beside rows, lists of features, of keywords or of
    metrics are none."""
    start = _past(text, 0)
    if isinstance(whole, list):
        return [start]
    if not isinstance(whole, dict):
        return []
    lists = {key: value for key, value in whole.items() if isinstance(value, list) and value}
    rows = {key for key in lists if key.casefold() in ASKED}
    others = {key: value for key, value in lists.items() if key.casefold() not in ANSWERED}
    rows = rows or {key for key, value in others.items() if any(map(_is_row, value))}
    rows = rows or {key for key, value in others.items() if any(map(str.strip, _strings(value)))}
    last = dict(_members(text, start)) if rows else {}  # of a key that is there twice the last one counts, as in whole
    return sorted(last[key] for key in rows)


def _is_row(value: Any) -> bool:
    """Whether an element names what it asks, or comes from the hub's rows API."""
    return _inner(value) is not value or any(map(str.strip, _named(value)))


def _elements(text: str, whole: Any, places: list[int]) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON text that is known to be right, as ``whole``, and whose lists begin at those places."""
    if not places:
        yield text.count("\n", 0, _past(text, 0)) + 1, whole
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
