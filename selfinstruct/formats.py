"""Reading seeds and datasets, and writing them in the field's formats."""

from __future__ import annotations

import base64
import codecs
import gzip
import io
import json
import logging
import math
import re
import reprlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from importlib import import_module
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, NoReturn, cast

from selfinstruct.encodings import encode
from selfinstruct.errors import InputError, StorageError, UsageError
from selfinstruct.files import replacing, writing
from selfinstruct.records import Record

LIMIT = 10_000_000
"""The most bytes of one JSONL line, or characters of one element of a JSON list."""
BATCH = 256
"""Rows of a Parquet file that are held at once."""

_PACKED = ("", ".gz", ".zst")
ENDINGS = (*(f"{kind}{packed}" for kind in (".json", ".jsonl") for packed in _PACKED), ".parquet")
"""Of the names of the files that a folder is looked through for."""

_SEED_HINT = 'a seed is {"instruction": "…", "input": "…", "output": "…"} or a Self-Instruct task with "instances"'
_UNANSWERED_HINT = "`selfinstruct answer` takes rows without an answer, and gives them one"
_DATASET_HINT = "rows are instruction + output, messages, conversations, prompt + completion, or instances"
_JSON_HINT = "the file must be JSONL, one object a line, or one JSON list of objects, saved as UTF-8"

log = logging.getLogger("selfinstruct")


# Reading


def read_seeds(path: Path) -> list[Record]:
    """The seeds of a file: Self-Instruct tasks or Alpaca rows, as JSONL or as a JSON list, in any language.

    Stricter than ``read_dataset``, for a flaw in a seed is copied a thousand times: nothing blank, nothing twice.
    A seed without an id is named by its content.
    """
    seeds: list[Record] = []
    contents: dict[str, str] = {}  # where each stood, by Record.id
    tasks: dict[str, str] = {}
    for where, value in _values(path):
        row = _Row(_object(value, where), where, origin="seed", answered=False)
        records = _task(row) if "instances" in row.fields else [_alpaca(row)]
        for record in records:
            _check_seed(record, where)
            if record.id in contents:
                twin = contents[record.id]
                what = "two of its instances are the same" if twin == where else f"the same task as {twin}"
                raise InputError(f"{where}: {what}", hint="delete one of the two")
            contents[record.id] = where
        task = records[0].task
        if task in tasks:
            raise InputError(
                f"{where}: the id {_short(task)} is taken by {tasks[task]}",
                hint="give every task its own id, or none at all; several examples of one task go into its instances",
            )
        tasks[task] = where
        seeds += records
    if not seeds:
        raise InputError(f"{path}: no tasks", hint=_SEED_HINT)
    return seeds


def _check_seed(record: Record, where: str) -> None:
    if not record.instruction.strip():
        raise InputError(
            f"{where}: the instruction is blank: {_short(record.instruction)}", hint="write it or delete it"
        )
    for field in ("instruction", "input", "output", "system", "reasoning", "name", "task"):
        if "\0" in (text := getattr(record, field)):
            raise InputError(f"{where}: a NUL character in {_short(text)}", hint="delete the NUL character")


def read_dataset(path: Path, *, answered: bool = True) -> Iterator[Record]:
    """The rows of a dataset, one at a time: a run folder, a folder of files, or one file. A file is JSONL, a JSON list,
    either of them packed by gzip or zstd, or Parquet; its first bytes tell.

    Each row is read by the first line here whose keys it has, a null being none; keys not named are ignored:

    ==========================  =============================================================================
    keys                        read as
    ==========================  =============================================================================
    instances                   Self-Instruct task (instruction, id, name, is_classification): a Record for
                                each instance {input, output}
    messages, or conversations  one question and one answer, with a system turn before them or a ``system``
                                key; turns are {role, content} or {from, value}; ``reasoning_content``
    prompt + completion         two strings, or two lists of turns (TRL)
    instruction + response      Dolly: context is the input (only where there is no ``output``)
    instruction + output        Alpaca, and our own shards: input, system, reasoning, id
    ==========================  =============================================================================

    With ``answered=False`` a row may be the question alone: without its output, its completion or its last turn.
    Conversations of several turns are refused, not cut. ``task`` is the row's id, or Record.id where there is none;
    ``origin`` is ``dataset``. A path without any row is an InputError.
    """
    return (record for where, value in _rows(path) for record in _records(value, where, answered=answered))


class Stored(NamedTuple):
    """A row of a dataset as it stands there, whatever its format."""

    where: str
    """file:line, the file and the item of its list, or the file and the row of its table."""
    fields: dict[str, Any]
    """All its keys; those too that we do not read."""
    texts: tuple[str, str, str]
    """What it says: instruction, input, output."""


def read_stored(path: Path) -> Iterator[Stored]:
    """The rows of a dataset as they are stored, one at a time, each with what it says.

    Nothing is cut here, so more can be read than by ``read_dataset``: a row may lack its answer, or be a conversation
    of several turns: what follows on the first question is then the output. The instances of a Self-Instruct task are
    one row, with all their inputs and outputs.
    """
    return (Stored(where, _object(value, where), stored_texts(value, where)) for where, value in _rows(path))


def stored_texts(value: object, where: str) -> tuple[str, str, str]:
    """What a row says, read as by ``read_stored``: instruction, input, output."""
    records = _records(value, where, answered=False, turns=True)
    inputs, outputs = ("\n".join(filter(None, (getattr(r, key) for r in records))) for key in ("input", "output"))
    return records[0].instruction, inputs, outputs


def stored_row(fields: Mapping[str, Any]) -> str:
    """A row as one line of JSON, without its line end: its keys and values as they were, in their order. Of what is no
    JSON in a Parquet file, times become ISO 8601, decimals text, bytes base64, and what is no number null."""
    text = _ENCODE(_plain(fields))
    if not text.isascii() and _half(text):  # under a key that we do not read: as an escape it stays what it is
        return json.dumps(json.loads(text))
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _rows(path: Path) -> Iterator[tuple[str, object]]:
    files = dataset_files(path)

    def rows() -> Iterator[tuple[str, object]]:
        empty = True
        for file in files:
            for found in _values(file):
                empty = False
                yield found
        if empty:
            raise InputError(f"{path}: no rows", hint="name a file or folder that holds some")

    return rows()


def read_row(line: str, where: str = "row") -> Record:
    """What ``row`` wrote."""
    try:
        value = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {_complaint(error)}", hint=_JSON_HINT) from error
    (record,) = _records(value, where)
    return record


def dataset_files(path: Path) -> list[Path]:
    """The data files behind a path, in order."""
    with _reading(path):
        if not path.is_dir():
            return [path]
        found = [file for file in (path / "data").glob("train-*") if file.name.endswith(ENDINGS)]
        # By length first: train-100000 comes after train-99999.
        if shards := sorted(found, key=lambda file: (len(file.name), file.name)):
            return shards
        if (path / "recipe.toml").exists():  # its other files (rejects, lineage) are no dataset
            raise InputError(f"{path}: this run has kept no rows yet", hint="start the same run again to continue it")
        found = sorted(file for file in path.iterdir() if file.name.endswith(ENDINGS) and file.name[0] != ".")
    if not found:
        raise InputError(
            f"{path}: no dataset in this folder",
            hint="name a run folder, or one of .json, .jsonl (.gz, .zst) or .parquet files",
        )
    return found


# From a row to Records


@dataclass(frozen=True, slots=True)
class _Row:
    """One JSON object, where it stood, and what to call its keys when one of them is wrong."""

    fields: dict[str, Any]
    where: str
    prefix: str = ""
    origin: str = "dataset"
    answered: bool = True
    """Whether it must hold an answer. A seed may lack its output, and so may a row that is to be answered."""
    turns: bool = False
    """Whether it may be a conversation of several turns."""

    def text(self, key: str, default: str | None = None) -> str:
        """The text under a key. With a default, the key may be missing or null."""
        value = self.fields.get(key)
        if value is None and default is not None:
            return default
        if key not in self.fields:
            has = ", ".join(map(repr, self.fields)) or "nothing"
            hint = _UNANSWERED_HINT if key in ("output", "completion") else self.hint
            raise InputError(f"{self.where}: no `{self.prefix}{key}`; there is {_cut(has)}", hint=hint)
        if not isinstance(value, str):
            self.wrong(key, value, "text")
        if half := _half(value):
            raise InputError(f"{self.where}: `{self.prefix}{key}` holds {half!r}, {_HALF}", hint=_HALF_HINT)
        return value

    @property
    def hint(self) -> str:
        return _SEED_HINT if self.origin == "seed" else _DATASET_HINT

    def output(self) -> str:
        return self.text("output", None if self.answered else "")

    def classification(self) -> bool | None:
        value = self.fields.get("is_classification")
        if value is not None and not isinstance(value, bool):
            self.wrong("is_classification", value, "true, false or null")
        return value

    def id(self) -> str:
        value = self.fields.get("id")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text("id", "")

    def objects(self, key: str) -> list[_Row]:
        """The list of objects under a key."""
        value = self.fields[key]
        if not isinstance(value, list):
            self.wrong(key, value, "a list")
        for i, item in enumerate(value):
            if not isinstance(item, dict):
                self.wrong(f"{key}[{i}]", item, "an object")
        return [
            _Row(item, self.where, f"{self.prefix}{key}[{i}].", self.origin, self.answered, self.turns)
            for i, item in enumerate(value)
        ]

    def record(self, **texts: Any) -> Record:
        record = Record(**texts, task=self.id(), origin=self.origin)
        return record if record.task else record.model_copy(update={"task": record.id})

    def wrong(self, key: str, value: object, wanted: str) -> NoReturn:
        raise InputError(
            f"{self.where}: `{self.prefix}{key}` must be {wanted}, found {_kind(value)}: {_short(value)}",
            hint=f"correct `{self.prefix}{key}` in this row",
        )


def _object(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise InputError(f"{where}: a row must be an object, found {_kind(value)}: {_short(value)}", hint=_JSON_HINT)


def _records(value: object, where: str, *, answered: bool = True, turns: bool = False) -> list[Record]:
    row = _Row(_object(value, where), where, answered=answered, turns=turns)
    has = {key for key, value in row.fields.items() if value is not None}  # tables have every column in every row
    if "instances" in has:
        return _task(row)
    if "messages" in has:
        return [_chat(row, row.objects("messages"))]
    if "conversations" in has:
        return [_chat(row, row.objects("conversations"))]
    if {"prompt", "completion"} <= has or ("prompt" in has and "instruction" not in has and not answered):
        return [_completed(row)]
    if {"instruction", "response"} <= has and "output" not in has:
        return [_dolly(row)]
    if "instruction" in has or "output" in has:
        return [_alpaca(row)]
    raise InputError(
        f"{where}: not a row of a known format; it has {_cut(', '.join(map(repr, row.fields))) or 'no keys'}",
        hint=_DATASET_HINT,
    )


def _task(row: _Row) -> list[Record]:
    """A Self-Instruct task: a Record for each instance, all sharing the task."""
    instruction, name, classification = row.text("instruction"), row.text("name", ""), row.classification()
    instances = row.objects("instances")
    if not instances:
        raise InputError(f"{row.where}: `instances` is empty", hint='write one: {"input": "…", "output": "…"}')
    records = [
        row.record(
            instruction=instruction,
            input=instance.text("input", ""),
            output=instance.output(),
            name=name,
            classification=classification,
        )
        for instance in instances
    ]
    return [record.model_copy(update={"task": records[0].task}) for record in records]


def _alpaca(row: _Row) -> Record:
    before: list[str] = []
    if history := row.fields.get("history"):
        if not row.turns:
            raise InputError(f"{row.where}: `history` makes this a conversation of several turns", hint=_ONE_TURN)
        said = {
            f"{i}.{j}": text for i, pair in enumerate(_list(row, "history", history)) for j, text in enumerate(pair)
        }
        before = [_Row(said, row.where, "history.").text(key) for key in said]
    return row.record(
        instruction=row.text("instruction"),
        input="\n\n".join([*before, row.text("input", "")]) if before else row.text("input", ""),
        output=row.output(),
        system=row.text("system", ""),
        reasoning=row.text("reasoning", ""),
        name=row.text("name", ""),
        classification=row.classification(),
    )


def _list(row: _Row, key: str, value: object) -> list[list[object]]:
    if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
        row.wrong(key, value, "a list of pairs")
    return value


def _dolly(row: _Row) -> Record:
    return row.record(instruction=row.text("instruction"), input=row.text("context", ""), output=row.text("response"))


def _completed(row: _Row) -> Record:
    completion = row.fields.get("completion")
    if isinstance(row.fields["prompt"], list) or isinstance(completion, list):
        return _chat(row, row.objects("prompt") + (row.objects("completion") if "completion" in row.fields else []))
    output = row.text("completion", None if row.answered else "")
    return row.record(instruction=row.text("prompt"), output=output, system=row.text("system", ""))


_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_ONE_TURN = "only one question with one answer can be read: cut such conversations first, or leave them out"


def _chat(row: _Row, turns: list[_Row]) -> Record:
    """One question and one answer, with at most one system turn before them."""
    said: list[tuple[str, str]] = []
    for turn in turns:
        speaker, content = ("from", "value") if "from" in turn.fields else ("role", "content")
        role = turn.text(speaker)
        if role not in _ROLES:
            raise InputError(
                f"{row.where}: `{turn.prefix}{speaker}` is {_short(role)}", hint=f"it can be {', '.join(_ROLES)}"
            )
        said.append((_ROLES[role], turn.text(content)))
    system = said.pop(0)[1] if said and said[0][0] == "system" else row.text("system", "")
    roles = [role for role, _ in said]
    if row.turns and "user" in roles:
        first = roles.index("user")
        others = [text for at, (_, text) in enumerate(said) if at != first]
        return row.record(instruction=said[first][1], output="\n\n".join(others), system=system)
    if roles[:2] == ["user", "assistant"] and len(roles) > 2:
        raise InputError(f"{row.where}: a conversation of {len(roles)} turns", hint=_ONE_TURN)
    if roles == ["user"] and not row.answered:
        return row.record(instruction=said[0][1], system=system)
    if roles != ["user", "assistant"]:
        raise InputError(
            f"{row.where}: the turns are {_cut(', '.join(roles)) or 'none'}; wanted: user, assistant", hint=_ONE_TURN
        )
    return row.record(
        instruction=said[0][1],
        output=said[1][1],
        system=system,
        reasoning=turns[-1].text("reasoning_content", ""),
    )


# From bytes to JSON values


def _values(path: Path) -> Iterator[tuple[str, object]]:
    """Every row of a file, with where it begins. Holds one row at a time, or a few of a Parquet file."""
    with _reading(path), path.open("rb") as stored:
        head = stored.peek(4)[:4]
        if head == b"PAR1":
            yield from _table(stored, path)
            return
        with _unpacked(stored, head, path) as file:
            if file.peek(3)[:3] == codecs.BOM_UTF8:
                file.read(3)
            line = 1
            while (byte := file.peek(1)[:1]) in (b" ", b"\t", b"\r", b"\n"):
                line += file.read(1) == b"\n"
            yield from _Elements(file, path, line) if byte == b"[" else _lines(file, path, line)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: damaged, or cut off: {error}", hint="make or fetch the file again") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: no such file", hint="check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, not a file", hint="name the file in it") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror}", hint="check its permissions") from error


def _unpacked(stored: io.BufferedReader, head: bytes, path: Path) -> io.BufferedReader:
    if head[:2] == b"\x1f\x8b":
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stored)), 1 << 20)
    if head == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(_Zstd(stored, path), 1 << 20)
    return stored


class _Zstd(io.RawIOBase):
    """What a file of zstd frames holds. The library's own reader takes the end of a file that was cut off for its
    end."""

    def __init__(self, stored: io.BufferedReader, path: Path) -> None:
        self._library = _optional("zstandard", path)
        self._stored, self._path = stored, path
        self._frame: Any = None
        self._packed = self._plain = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            # Little at a time, for it comes out whole: 256 bytes can hold 8 MB.
            packed = self._packed or self._stored.read(256)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the last frame has no end")
                return 0
            if self._frame is None:
                self._frame = self._library.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            try:
                self._plain = self._frame.decompress(packed)
            except self._library.ZstdError as error:
                raise EOFError(str(error)) from error
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count


def _optional(library: str, path: Path) -> Any:
    try:
        return import_module(library)
    except ImportError as error:
        raise UsageError(
            f"{path}: reading it takes the package {library.partition('.')[0]}",
            hint="pip install 'selfinstruct[data]'",
        ) from error


def _table(file: BinaryIO, path: Path) -> Iterator[tuple[str, object]]:
    """Every row of a Parquet file."""
    arrow = _optional("pyarrow", path)
    number = 0
    try:
        for batch in _optional("pyarrow.parquet", path).ParquetFile(file).iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        what = str(error).splitlines()[0] if str(error) else "damaged"
        raise InputError(
            f"{path}: not Parquet that can be read, after row {number}: {what}", hint="make or fetch the file again"
        ) from error


def _plain(value: object) -> object:
    """A value of a Parquet file as JSON has it."""
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _lines(file: BinaryIO, path: Path, number: int) -> Iterator[tuple[str, object]]:
    # Split at b"\n" only: U+2028 and its kin are text.
    while raw := file.readline(LIMIT + 1):
        where = f"{path}:{number}"
        whole = len(raw) <= LIMIT or raw.endswith(b"\n")
        text = _decoded(_Decoder(), raw, path, number, final=whole)
        if not whole:
            size = len(raw)
            while rest := file.readline(1 << 20):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
            raise InputError(f"{where}: a line of {size:,} bytes; {LIMIT:,} are the most", hint=_JSON_HINT)
        if text.strip(_BLANK):
            try:
                value = _DECODER.decode(text.rstrip(_BLANK))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: not JSON: {_complaint(error)}", hint=_JSON_HINT) from error
            yield where, value
        number += 1


class _Elements:
    """The elements of one JSON list, read through a window on the file that is as wide as an element needs."""

    def __init__(self, file: BinaryIO, path: Path, line: int) -> None:
        self.file, self.path = file, path
        self.decoder = _Decoder()
        self.text, self.at, self.ended = "", 0, False
        self.line, self.column = line, 1  # of self.at

    def __iter__(self) -> Iterator[tuple[str, object]]:
        self.take()
        number, closed = 0, self.peek() == "]"
        while not closed:
            number += 1
            self.peek()
            where = f"{self.path}:{self.line}: item {number}"
            yield where, self.element()
            if self.peek() not in (",", "]"):
                self.wrong("wanted a comma, or the closing bracket of the list")
            closed = self.peek() == "]"
            if not closed:
                self.take()
        self.take()
        if self.peek():
            self.wrong("there is more after the closing bracket of the list")

    def peek(self) -> str:
        """The next character that is not white space, left where it is; empty at the end of the file."""
        while True:
            start = self.at
            while self.text[start : start + 1] and self.text[start] in _BLANK:
                start += 1
            self.move(start)
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.widen()

    def take(self) -> None:
        self.peek()
        self.move(self.at + 1)

    def element(self) -> object:
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except RecursionError as error:
                self.wrong(_complaint(error))
            except ValueError as error:  # not JSON, or not yet
                too_long = len(self.text) - self.at > LIMIT
                if not self.ended and not too_long:
                    self.widen()
                    continue
                over = f"; the element of line {self.line} is over {LIMIT:,} characters" if too_long else ""
                if isinstance(error, json.JSONDecodeError):
                    self.move(error.pos)
                self.wrong(_complaint(error, self.column) + over)
            else:
                if end - self.at > LIMIT:
                    self.wrong(f"an element of {end - self.at:,} characters; {LIMIT:,} are the most")
                self.move(end)
                return value

    def widen(self) -> None:
        rest = self.text[self.at :]
        # Twice as wide each time, lest a long element be tried too often.
        raw = self.file.read(max(1 << 20, min(len(rest), LIMIT - len(rest))))
        self.ended = not raw
        line = self.line + rest.count("\n")
        self.text, self.at = rest + _decoded(self.decoder, raw, self.path, line, final=self.ended), 0

    def move(self, to: int) -> None:
        newline = self.text.rfind("\n", self.at, to)
        self.column = to - newline if newline >= 0 else self.column + to - self.at
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def wrong(self, what: str) -> NoReturn:
        raise InputError(f"{self.path}:{self.line}: not JSON: {what}", hint=_JSON_HINT)


def _decoded(decoder: codecs.IncrementalDecoder, raw: bytes, path: Path, line: int, *, final: bool) -> str:
    """``raw``, which begins at ``line``, as text."""
    try:
        text = decoder.decode(raw, final)
    except UnicodeDecodeError as error:
        line += error.object.count(b"\n", 0, error.start)
        raise InputError(
            f"{path}:{line}: not UTF-8: the byte 0x{error.object[error.start]:02x}", hint="save the file as UTF-8"
        ) from error
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise InputError(f"{path}:{line}: a NUL character", hint="save the file as UTF-8, without NUL characters")
    return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_Decoder = codecs.getincrementaldecoder("utf-8")
_BLANK = " \t\r\n"


def _complaint(error: ValueError | RecursionError, column: int | None = None) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (column {column or error.colno})"
    return str(error).partition(";")[0]  # after it, Python advises Python programmers


def _half(text: str) -> str:
    """The first lone half of a surrogate pair in the text, or nothing."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


_HALF = "half of a surrogate pair, which no UTF-8 file can hold"
_HALF_HINT = "delete it, or restore the character it was part of"


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a truth value", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _short(value: object) -> str:
    return _cut(repr(value[:100])) if isinstance(value, str) else reprlib.repr(value)


def _cut(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "…"


# Writing


def row(record: Record, columns: Sequence[str]) -> str:
    """A record as one line of a shard, without its line end: ``columns`` in their order, ``id`` among them."""
    return _json({column: getattr(record, column) for column in columns}, record)


def write_dataset(records: Iterable[Record], path: Path, format: str) -> list[Path]:
    """Write records in one of FORMATS; returns the files written. They are there whole, or not at all.

    The end of the name decides: ``.json`` is one list, a row a line; ``.jsonl`` is lines; anything without an ending
    is a folder, and the file in it is named after the format. Text goes out as it is: no lineage, no template.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}", hint=f"there are {', '.join(FORMATS)}")
    form = FORMATS[format]
    with writing(path):
        if path.is_dir() or (not path.suffix and not path.exists()):
            path = path / f"{format}{form.ending}"
    kind = path.suffix.lower()
    if kind not in (".json", ".jsonl"):
        raise UsageError(f"{path}: its name tells no format", hint="end it in .json (a list) or .jsonl (lines)")
    if format == "openai" and kind == ".json":
        raise UsageError(f"{path}: the fine-tuning API takes lines, not a list", hint="end the name in .jsonl")

    lost: Counter[str] = Counter()
    count = 0

    def counted() -> Iterator[Record]:
        for record in records:
            lost.update(
                field for field in ("system", "reasoning") if getattr(record, field) and field not in form.keeps
            )
            yield record

    with replacing(path) as file:
        opening, between, closing = ("[\n", ",\n", "\n]\n") if kind == ".json" else ("", "\n", "\n")
        for count, line in enumerate(form.lines(counted()), start=1):
            file.write(((between if count > 1 else opening) + line).encode())
        file.write((closing if count else "[]\n" if kind == ".json" else "").encode())

    for field, rows in lost.items():
        log.warning("%s: %d of %d rows have a %s, which the format %s leaves out", path, rows, count, field, format)
    if format == "openai" and count < 10:
        log.warning("%s: %d rows; fine-tuning at OpenAI wants at least 10", path, count)
    return [path]


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_BREAKS = re.compile("[\x85\u2028\u2029]")


def _json(value: object, record: Record) -> str:
    text = _ENCODE(value)
    if text.isascii():
        return text
    if half := _half(text):
        raise InputError(f"record {record.id} holds {half!r}, {_HALF}", hint=_HALF_HINT)
    # Python's splitlines, JavaScript and others break lines at these; inside JSON they may as well be escaped.
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@dataclass(frozen=True, slots=True)
class Format:
    """One way of the field to write a dataset."""

    about: str
    lines: Callable[[Iterable[Record]], Iterator[str]]
    keeps: frozenset[str] = frozenset()
    """Which of ``system`` and ``reasoning`` it has a place for."""
    ending: str = ".jsonl"
    """Of the file's name when only a folder is given."""


def _each(shape: Callable[[Record], dict[str, Any]]) -> Callable[[Iterable[Record]], Iterator[str]]:
    return lambda records: (_json(shape(record), record) for record in records)


def _as_alpaca(record: Record) -> dict[str, Any]:
    return {"instruction": record.instruction, "input": record.input, "output": record.output}


def _question(record: Record) -> list[dict[str, str]]:
    asked = f"{record.instruction}\n\n{record.input}" if record.input else record.instruction
    system = [{"role": "system", "content": record.system}] if record.system else []
    return [*system, {"role": "user", "content": asked}]


def _answer(record: Record) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": record.output}]


def _as_openai(record: Record) -> dict[str, Any]:
    return {"messages": _question(record) + _answer(record)}


def _as_messages(record: Record) -> dict[str, Any]:
    (answer,) = _answer(record)
    if record.reasoning:
        answer["reasoning_content"] = record.reasoning
    return {"messages": [*_question(record), answer]}


def _as_sharegpt(record: Record) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = _question(record) + _answer(record)
    return {"conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]}


def _as_trl(record: Record) -> dict[str, Any]:
    return {"prompt": _question(record), "completion": _answer(record)}


def _as_gpt3(record: Record) -> dict[str, Any]:
    prompt, completion = encode(record, Random(record.id))  # the same encoding in every file, at every place
    return {"prompt": prompt, "completion": completion}


def _self_instruct(records: Iterable[Record]) -> Iterator[str]:
    """Tasks with their instances, in the order of each task's first record."""
    tasks: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        tasks.setdefault((record.task or record.id, record.instruction), []).append(record)
    taken: set[str] = set()
    for (task, instruction), members in tasks.items():
        first = members[0]
        name = first.id if task in taken else task  # two instructions under one task are two tasks
        taken.add(name)
        value = {
            "id": name,
            "name": first.name,
            "instruction": instruction,
            "instances": [{"input": record.input, "output": record.output} for record in members],
            "is_classification": bool(first.classification),
        }
        yield _json(value, first)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "alpaca": Format("instruction, input, output", _each(_as_alpaca), ending=".json"),
        "messages": Format(
            "chat messages with roles; reasoning as reasoning_content",
            _each(_as_messages),
            keeps=frozenset({"system", "reasoning"}),
        ),
        "sharegpt": Format("conversations of human and gpt", _each(_as_sharegpt), keeps=frozenset({"system"})),
        "openai": Format("messages for OpenAI's fine-tuning API", _each(_as_openai), keeps=frozenset({"system"})),
        "trl": Format(
            "prompt and completion for TRL, whose loss is then on the completion",
            _each(_as_trl),
            keeps=frozenset({"system"}),
        ),
        "gpt3": Format(
            "prompt and completion as Self-Instruct fine-tuned GPT-3, each record in one of 13 encodings",
            _each(_as_gpt3),
        ),
        "self-instruct": Format("seed tasks with their instances", _self_instruct),
    }
)
