"""From the bytes of a data file to its values: JSONL, a JSON list, either packed by gzip or zstd, or Parquet."""

from __future__ import annotations

import base64
import codecs
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, time
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, cast

from selfinstruct.errors import InputError, StorageError, UsageError

LIMIT = 10_000_000
"""The most bytes of one JSONL line, or characters of one element of a JSON list."""
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
"""How such files begin."""
BATCH = 256
"""Rows of a Parquet file that are held at once."""
JSON_HINT = "the file must be JSONL, one object a line, or one JSON list of objects, saved as UTF-8"
CSV_HINT = (
    'python3 -c "import csv,json,sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin)]" '
    "<data.csv >data.jsonl makes JSONL of it"
)


class Unread(NamedTuple):
    """A row that cannot be read."""

    where: str
    why: str
    value: object
    """The row, or its line where that is no JSON; None where it is no text, or too long."""


def values(
    path: Path, unread: Callable[[Unread], None] | None = None, headings: Collection[str] = ()
) -> Iterator[tuple[str, object]]:
    """Every row of a file, with where it begins. Holds one row at a time, or a few of a Parquet file. A line that is no
    row goes to ``unread``, where that is given. ``headings`` are what tells the first line of a CSV file.

    Raises InputError with file:line, StorageError, and UsageError where the package that reads such a file is missing.
    """
    with reading(path), path.open("rb") as stored:
        head = stored.peek(4)[:4]
        if head == b"PAR1":
            yield from ((f"{path}: row {number}", row) for number, row in table(stored, path))
            return
        with unpacked(stored, head, path) as file:
            if file.peek(3)[:3] == codecs.BOM_UTF8:
                file.read(3)
            line = 1
            while (byte := file.peek(1)[:1]) in (b" ", b"\t", b"\r", b"\n"):
                line += file.read(1) == b"\n"
            if is_csv(path) and byte not in (b"{", b"[", b""):
                raise _csv(path)
            yield from _Elements(file, path, line) if byte == b"[" else _lines(file, path, line, unread, headings)


def is_csv(path: Path) -> bool:
    """By its name, packed or not."""
    return path.name.lower().removesuffix(".gz").removesuffix(".zst").endswith((".csv", ".tsv"))


def _csv(path: Path) -> InputError:
    return InputError(f"{path}: CSV is not read; rows come as JSONL, a JSON list or Parquet", hint=CSV_HINT)


def _is_heading(text: str, headings: Collection[str]) -> bool:
    """Whether a line is the heading of a CSV file."""
    cells = [cell.strip("\"' \r\n") for cell in re.split("[,;\t]", text)]
    return len(cells) > 1 and all(cells) and any(cell.lower() in headings for cell in cells)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Errors of the file system, and of what is packed, as errors that name the file."""
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


def unpacked(stored: io.BufferedReader, head: bytes, path: Path) -> io.BufferedReader:
    """What a file holds that begins with ``head``, gzip and zstd undone."""
    if head.startswith(GZIP):
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stored)), 1 << 20)
    if head == ZSTD:
        return io.BufferedReader(_Zstd(stored, path), 1 << 20)
    return stored


class _Zstd(io.RawIOBase):
    """What a file of zstd frames holds. The library's own reader takes the end of a file that was cut off for its
    end."""

    def __init__(self, stored: io.BufferedReader, path: Path) -> None:
        self._library = optional("zstandard", path)
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


def optional(library: str, path: Path) -> Any:
    """A package of the extra `data`. Raises UsageError where it is not installed."""
    try:
        return import_module(library)
    except ImportError as error:
        raise UsageError(
            f"{path}: reading it takes the package {library.partition('.')[0]}",
            hint="pip install 'selfinstruct[data]'",
        ) from error


def table(file: BinaryIO, path: Path, *, only_text: bool = False) -> Iterator[tuple[int, object]]:
    """Every row of a Parquet file, with its number from 1. ``only_text`` leaves out what is no text, unread: pictures,
    say."""
    arrow = optional("pyarrow", path)
    number = 0
    try:
        parquet = optional("pyarrow.parquet", path).ParquetFile(file)
        leaves = [parquet.schema.column(at) for at in range(len(parquet.schema))]
        texts = [leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"]
        for batch in parquet.iter_batches(BATCH, columns=texts if only_text else None):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of what is on it
        what = str(error).splitlines()[0] if str(error) else "damaged"
        raise InputError(
            f"{path}: not Parquet that can be read, after row {number}: {what}", hint="make or fetch the file again"
        ) from error


def plain(value: object) -> object:
    """A value of a Parquet file as JSON has it."""
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _lines(
    file: BinaryIO,
    path: Path,
    number: int,
    unread: Callable[[Unread], None] | None,
    headings: Collection[str],
) -> Iterator[tuple[str, object]]:
    # Split at b"\n" only: U+2028 and its kin are text.
    begun = number
    while raw := file.readline(LIMIT + 1):
        where = f"{path}:{number}"
        whole = len(raw) <= LIMIT or raw.endswith(b"\n")
        try:
            value = _line(file, raw, path, number, whole)
        except InputError as error:
            if number == begun and whole and _is_heading(raw.decode("utf-8", "replace"), headings):
                raise _csv(path) from error
            if unread is None:
                raise
            text = raw.decode("utf-8", "replace").rstrip(_BLANK) if whole else None
            unread(left_unread(error, where, text))
        else:
            if value is not _BLANK:
                yield where, value
        number += 1


def _line(file: BinaryIO, raw: bytes, path: Path, number: int, whole: bool) -> object:
    """The value of a line; _BLANK where there is none."""
    size = len(raw)
    while not whole and (rest := file.readline(1 << 20)):
        size += len(rest)
        if rest.endswith(b"\n"):
            break
    text = _decoded(_Decoder(), raw, path, number, final=whole)
    if not whole:
        raise InputError(f"{path}:{number}: a line of {size:,} bytes; {LIMIT:,} are the most", hint=JSON_HINT)
    if not text.strip(_BLANK):
        return _BLANK
    return parsed(text.rstrip(_BLANK), f"{path}:{number}")


def parsed(text: str, where: str) -> object:
    """The value of a JSON text."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {_complaint(error)}", hint=JSON_HINT) from error


def left_unread(error: InputError, where: str, value: object) -> Unread:
    """What is told of a row that cannot be read."""
    return Unread(where, error.message.removeprefix(f"{where}: "), value)


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
        raise InputError(f"{self.path}:{self.line}: not JSON: {what}", hint=JSON_HINT)


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
