"""Dedup: whole datasets without their duplicates and near-duplicates. Iterating it makes progress."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from array import array
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from selfinstruct import __version__
from selfinstruct.errors import InputError, StorageError, UsageError
from selfinstruct.files import replacing, write_whole, writing
from selfinstruct.filters.novelty import NoveltyIndex
from selfinstruct.filters.text import normal_form
from selfinstruct.formats import Stored, read_stored, stored_row, stored_texts
from selfinstruct.inputs import digest_of
from selfinstruct.lock import at_work
from selfinstruct.minhash import PERMUTATIONS, WORDS, Kept, Signatures, banding
from selfinstruct.values import Unread

Keep = Literal["best", "first"]
RULES = ("duplicate", "near-duplicate", "novelty")
"""Why a row goes, in the order of asking."""
ROWS = 100_000
"""Rows in a shard."""
SHOWN = 20
"""How many of the biggest clusters, and of the least convincing drops of each rule, a report tells."""
SHOWN_OF_MORE = 2_000
"""Characters that a report tells of what a row says under keys that we do not read: it may be a picture."""
EVERY = 1_000
"""Rows between two steps."""


class Step(NamedTuple):
    """How far it is."""

    stage: Literal["reading", "sorting", "comparing", "writing"]
    done: int
    total: int | None
    """None while nobody knows."""
    unit: Literal["rows", "bands"] = "rows"


class Thresholds(NamedTuple):
    """What to hold rows against."""

    jaccard: float = 0.8
    rouge_l: float | None = None


class Outcome(NamedTuple):
    """What would be kept under other thresholds."""

    thresholds: Thresholds
    kept: int
    dropped: dict[str, int]
    """By rule."""
    recall: float
    """The probability that a pair exactly at the Jaccard threshold becomes a candidate."""
    unread: int = 0
    """Rows that cannot be read."""


class Dedup:
    """The rows of datasets without those that say the same as another. ``for step in Dedup(…): …`` does all of it, and
    ``report()`` then tells what went.

    Rows are gone through in an order of quality (``best``: the longest output first, then the longest text, then by
    content) or as they stand (``first``). A row goes if, of those kept before it, one says the same but for case,
    blanks and punctuation (``duplicate``), one has a Jaccard similarity over runs of five words of at least the
    threshold (``near-duplicate``), or, where that is asked for, the ROUGE-L F of instruction and input with one
    exceeds its threshold (``novelty``). So each row that goes stands beside a kept one, and with ``best`` the order of
    the rows decides nothing. Rows come out unchanged, in their order. What a row says under keys that we do not read
    (``formats.read_stored``) is part of it: of two that differ there neither is a duplicate, and near-duplicates are
    near with and without it.

    With ``skip_bad`` a row that cannot be read is counted and set aside in unread.jsonl; without, it ends everything.
    ``out`` is a new or an empty folder; with ``fresh``, also one that this wrote before. It is there whole or not at
    all. Iterating raises UsageError (a folder that is refused), InputError (a file), StorageError.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        out: str | Path,
        *,
        threshold: float = 0.8,
        rouge_l: float | None = None,
        keep: Keep = "best",
        fresh: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self.inputs = [Path(path) for path in inputs]
        self.out = Path(out).resolve() if Path(out).is_symlink() else Path(out)  # what it leads to is replaced
        self.thresholds = Thresholds(threshold, rouge_l)
        self.keep = keep
        self._fresh = fresh
        self._skip_bad = skip_bad
        self._report: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Step]:
        _check_inputs(self.inputs)
        self._check_out()
        with _beside(self.out) as folder:
            (folder / "work").mkdir()
            rows = _Rows(folder / "work", self.thresholds.rouge_l is not None)
            try:
                read = yield from rows.read(self.inputs, skip_bad=self._skip_bad)
                verdicts = _Verdicts(len(rows))
                yield from verdicts.judge(rows, self.thresholds, rows.order(self.keep), folder / "work")
                yield from self._write(folder, rows, verdicts, read)
            finally:
                rows.close()
            shutil.rmtree(folder / "work")
            self._move(folder)

    def report(self) -> dict[str, Any]:
        """What dedup.json says; nothing before the end."""
        return self._report

    # The folder.

    def _check_out(self) -> None:
        out = self.out
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out} is a file, not a folder", hint="choose another --out")
        for path in self.inputs:
            if path.resolve().is_relative_to(out.resolve()):
                raise UsageError(f"{path} lies in the folder {out}", hint="choose another --out")
            if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
                raise UsageError(f"{out} lies in the dataset {path}", hint="choose another --out")
        there = _there(out)
        if not there:
            return
        if there & {"lineage.jsonl", "journal.sqlite", "recipe.toml"}:
            raise UsageError(f"{out} is a run folder, not a result of dedup", hint="choose another --out")
        strange = sorted(name for name in there if not _ours(name))
        if strange or "dedup.json" not in there:
            named = ", ".join((strange or sorted(there))[:5])
            raise UsageError(f"{out} holds {named}, which is not ours", hint="choose another --out")
        if not self._fresh:
            raise UsageError(
                f"{out} holds an earlier result", hint="choose another --out, or --fresh to replace what is there"
            )

    def _move(self, folder: Path) -> None:
        """Put the whole folder in its place."""
        self._check_out()  # somebody may have been quicker
        with writing(self.out):
            if not self.out.exists():
                folder.rename(self.out)
                return
            old = folder.with_name(f"{folder.name}.old")
            self.out.rename(old)
            try:
                folder.rename(self.out)
            except OSError:
                old.rename(self.out)
                raise
            shutil.rmtree(old)

    # What it holds.

    def _write(self, folder: Path, rows: _Rows, verdicts: _Verdicts, read: list[dict[str, Any]]) -> Iterator[Step]:
        kept_of = [0] * len(read)
        columns: dict[str, str] = {}
        size = shard = 0
        position = 0
        stored = rows.stored()
        with replacing(folder / "dropped.jsonl") as dropped:
            while position < len(rows):
                with replacing(folder / "data" / f"train-{shard:05d}.jsonl") as file:
                    written = 0
                    while position < len(rows) and written < ROWS:
                        where, line = next(stored)
                        if verdicts.rule[position]:
                            dropped.write(f"{self._dropped(rows, verdicts, position, where, line)}\n".encode())
                        else:
                            file.write(line + b"\n")
                            written, size = written + 1, size + len(line) + 1
                            kept_of[rows.source(position)] += 1
                            _see(columns, json.loads(line))
                        position += 1
                        if position % EVERY == 0 or position == len(rows):
                            yield Step("writing", position, len(rows))
                if written == 0:  # the last rows all went: a loader can read no empty file
                    (folder / "data" / f"train-{shard:05d}.jsonl").unlink()
                shard += 1
        for told, count in zip(read, kept_of, strict=True):
            told["kept"] = count
        if rows.unread:
            rows.unread_path.rename(folder / "unread.jsonl")
        self._report = self._told(rows, verdicts, read)
        write_whole(folder / "README.md", _card(self._report, size, columns).encode())
        write_whole(folder / "dedup.json", f"{json.dumps(self._report, ensure_ascii=False, indent=1)}\n".encode())

    def _dropped(self, rows: _Rows, verdicts: _Verdicts, position: int, where: str, line: bytes) -> str:
        beside = int(verdicts.beside[position])
        at, other = rows.at(beside)
        value = {
            "at": where,
            **verdicts.told(position, at),
            "neighbour": {"at": at, "instruction": stored_texts(json.loads(other), at)[0]},
            "row": json.loads(line),
        }
        return stored_row(value)

    def _told(self, rows: _Rows, verdicts: _Verdicts, read: list[dict[str, Any]]) -> dict[str, Any]:
        jaccard, rouge_l = self.thresholds
        cut = banding(jaccard)
        dropped = np.flatnonzero(verdicts.rule)
        heads, sizes = np.unique(verdicts.beside[dropped], return_counts=True)
        biggest = np.argsort(-sizes, kind="stable")[:SHOWN]

        def row(position: int) -> dict[str, str]:
            where, line = rows.at(position)
            *texts, more = stored_texts(json.loads(line), where)
            return {"at": where, **dict(zip(_FIELDS, (*texts, more[:SHOWN_OF_MORE]), strict=True))}

        def cluster(head: int, size: int) -> dict[str, Any]:
            members = verdicts.rule[dropped[verdicts.beside[dropped] == head]]
            return {"rows": size + 1, **_counted(members), **row(head)}

        def drop(position: int) -> dict[str, Any]:
            at, _ = rows.at(int(verdicts.beside[position]))
            return {**verdicts.told(position, at), **row(position), "neighbour": row(int(verdicts.beside[position]))}

        near = [_least(verdicts, rule) for rule in (2, 3)]
        return {
            "rows": len(rows),
            "kept": len(rows) - dropped.size,
            "dropped": _counted(verdicts.rule),
            "unread": rows.unread,
            "parameters": {
                "keep": self.keep,
                "jaccard": jaccard,
                "rouge_l": rouge_l,
                "shingle": f"{WORDS} words",
                "permutations": PERMUTATIONS,
                "bands": cut.bands,
                "rows_of_a_band": cut.rows,
            },
            "recall_at_threshold": round(cut.found(jaccard), 6),
            "versions": {"selfinstruct": __version__, "datasketch": version("datasketch"), "numpy": np.__version__},
            "inputs": read,
            "cluster_sizes": {
                str(size + 1): int(count) for size, count in zip(*np.unique(sizes, return_counts=True), strict=True)
            },
            "biggest_clusters": [cluster(int(heads[i]), int(sizes[i])) for i in biggest],
            "least_convincing": [drop(position) for found in near for position in found],
        }


def survey(
    inputs: Sequence[str | Path], tried: Sequence[Thresholds], *, keep: Keep = "best", skip_bad: bool = False
) -> Iterator[Step | Outcome]:
    """What would be kept under each of several thresholds, without writing anything but temporary files. Each Jaccard
    threshold is served by bands of its own. Raises UsageError and InputError as Dedup does."""
    paths = [Path(path) for path in inputs]
    _check_inputs(paths)
    with tempfile.TemporaryDirectory(prefix="selfinstruct-") as name:
        rows = _Rows(Path(name), any(one.rouge_l is not None for one in tried))
        try:
            yield from rows.read(paths, skip_bad=skip_bad)
            order = rows.order(keep)
            for thresholds in tried:
                verdicts = _Verdicts(len(rows))
                yield from verdicts.judge(rows, thresholds, order, Path(name))
                counts = _counted(verdicts.rule)
                recall = banding(thresholds.jaccard).found(thresholds.jaccard)
                yield Outcome(thresholds, len(rows) - sum(counts.values()), counts, recall, rows.unread)
        finally:
            rows.close()


_FIELDS = ("instruction", "input", "output", "more")


def _check_inputs(paths: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UsageError(f"{path} is named twice", hint="name each INPUT once")
        seen.add(path.resolve())
    if not paths:
        raise UsageError("no INPUT", hint="name a run folder, or a dataset in any format that we read")


class _Rows:
    """All rows of the inputs on disk, and what is compared of them. In memory: some 60 bytes a row."""

    def __init__(self, folder: Path, questions: bool) -> None:
        self._path = folder / "rows"
        self.unread_path, self.unread = folder / "unread.jsonl", 0
        self.texts = Signatures(folder)
        self._file = self._path.open("w+b")
        self._questions = (folder / "questions").open("w+b") if questions else None
        self._starts, self._asked = array("Q"), array("Q", [0])
        self._sources = array("Q")
        """By input: the position after its last row."""
        self._same, self._tie = array("Q"), array("Q")
        self._answer, self._whole = array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, paths: Sequence[Path], *, skip_bad: bool) -> Generator[Step, None, list[dict[str, Any]]]:
        """Read them all; returns what each input is."""
        told = []
        for path in paths:
            before, first, unread = digest_of(path), len(self), self.unread
            for stored in read_stored(path, self._set_aside if skip_bad else None):
                self._add(stored)
                if len(self) % EVERY == 0:
                    yield Step("reading", len(self), None)
            if digest_of(path) != before:
                raise InputError(f"{path}: it changed while it was read", hint="give the same command when it is whole")
            self._sources.append(len(self))
            told.append(
                {"path": str(path), "sha256": before, "rows": len(self) - first, "unread": self.unread - unread}
            )
        self._file.flush()
        self.texts.finish()
        yield Step("reading", len(self), len(self))
        return told

    def _set_aside(self, found: Unread) -> None:
        with writing(self.unread_path), self.unread_path.open("ab") as file:
            file.write(f"{stored_row({'at': found.where, 'why': found.why, 'row': found.value})}\n".encode())
        self.unread += 1

    def _add(self, stored: Stored) -> None:
        texts, line = stored.texts, stored_row(stored.fields)
        with writing(self._path):
            self._starts.append(self._file.tell())
            encoded = line.encode()
            self._file.write(b"%s\n%s\n" % (json.dumps(stored.where).encode(), encoded))
            self.texts.add("\n".join(texts), stored.more)
            form = "\0".join(map(normal_form, (*texts, stored.more))).encode("utf-8", "surrogatepass")
            self._same.frombytes(blake2b(form, digest_size=16).digest())
            self._tie.frombytes(blake2b(encoded, digest_size=8).digest())
            self._answer.append(len(texts[2]))
            self._whole.append(sum(map(len, texts)) + len(stored.more))
            if self._questions is not None:
                question = "\n".join(texts[:2]).encode("utf-8", "surrogatepass")
                self._questions.write(question)
                self._asked.append(self._asked[-1] + len(question))

    def order(self, keep: Keep) -> NDArray[np.int64]:
        """All positions, those to prefer first."""
        if keep == "first":
            return np.arange(len(self))
        answer, whole = (np.array(found, np.int64) for found in (self._answer, self._whole))
        return np.lexsort((np.frombuffer(self._tie, np.uint64), -whole, -answer))

    def groups(self) -> NDArray[np.int64]:
        """By position: a number that rows share which say the same."""
        pairs = np.frombuffer(self._same, np.uint64).reshape(-1, 2)
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        pairs = pairs[order]
        new = np.concatenate(([False], (pairs[1:] != pairs[:-1]).any(axis=1)))
        found = np.empty(len(self), np.int64)
        found[order] = np.cumsum(new)
        return found

    def question(self, position: int) -> str:
        assert self._questions is not None
        start, end = self._asked[position], self._asked[position + 1]
        self._questions.seek(start)
        return self._questions.read(end - start).decode("utf-8", "surrogatepass")

    def source(self, position: int) -> int:
        """Which of the inputs it came from."""
        return next(number for number, end in enumerate(self._sources) if position < end)

    def at(self, position: int) -> tuple[str, bytes]:
        """Where a row stood, and the row."""
        self._file.seek(self._starts[position])
        return json.loads(self._file.readline()), self._file.readline().rstrip(b"\n")

    def stored(self) -> Iterator[tuple[str, bytes]]:
        """All of them, in order."""
        with self._path.open("rb") as file:
            for where in file:
                yield json.loads(where), next(file).rstrip(b"\n")

    def close(self) -> None:
        self._file.close()
        self.texts.close()
        if self._questions is not None:
            self._questions.close()


class _Verdicts:
    """What became of each row, by position: 17 bytes a row."""

    def __init__(self, count: int) -> None:
        self.rule = np.zeros(count, np.int8)
        """0: kept; else the number of the rule, from 1."""
        self.beside = np.full(count, -1, np.int64)
        self.score = np.ones(count)

    def judge(self, rows: _Rows, thresholds: Thresholds, order: NDArray[np.int64], folder: Path) -> Iterator[Step]:
        near = Kept(rows.texts, order, thresholds.jaccard, folder)
        for band in near.build():
            yield Step("sorting", band, near.banding.bands, "bands")
        novel = NoveltyIndex(thresholds.rouge_l, "unicode") if thresholds.rouge_l is not None else None
        asked = array("Q")  # positions of rows, by their positions in the index
        groups = rows.groups()
        first = np.full(len(rows), -1, np.int64)  # by group: the row that was kept of it
        for place, position in enumerate(order.tolist()):
            if place % EVERY == 0:
                yield Step("comparing", place, len(rows))
            if first[groups[position]] >= 0:
                self._drop(position, 1, int(first[groups[position]]), 1.0)
                continue
            if near.shares[place] and (twin := near.nearest(place)) is not None:
                self._drop(position, 2, int(order[twin.place]), twin.jaccard)
                continue
            if novel is not None:
                question = rows.question(position)
                if (neighbour := novel.nearest(question)) is not None:
                    self._drop(position, 3, asked[neighbour.position], neighbour.f)
                    continue
                novel.add(question)
                asked.append(position)
            first[groups[position]] = position
            if near.shares[place]:
                near.keep(place)
        yield Step("comparing", len(rows), len(rows))

    def _drop(self, position: int, rule: int, beside: int, score: float) -> None:
        self.rule[position], self.beside[position], self.score[position] = rule, beside, score

    def told(self, position: int, beside: str) -> dict[str, Any]:
        """Rule, reason and score of a drop."""
        rule, score = int(self.rule[position]), float(self.score[position])
        why = ("says the same as", f"Jaccard {score:.3f} with", f"ROUGE-L {score:.3f} with")[rule - 1]
        return {"rule": RULES[rule - 1], "why": f"{why} {beside}", "score": score}


def _counted(rules: NDArray[np.int8]) -> dict[str, int]:
    counts = Counter(rules.tolist())
    return {name: counts[number] for number, name in enumerate(RULES, 1) if counts[number]}


def _least(verdicts: _Verdicts, rule: int) -> list[int]:
    """The drops of a rule whose score is nearest to its threshold, the nearest first."""
    found = np.flatnonzero(verdicts.rule == rule)
    return [int(position) for position in found[np.argsort(verdicts.score[found], kind="stable")[:SHOWN]]]


# Folders


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder next to another, in which it is made whole; gone if anything goes wrong."""
    out = out.resolve()
    start, end = f".{out.name}.{socket.gethostname()}.", ".part"
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{out.name}.*{end}"):  # of processes that were killed
            pid = left.name.removeprefix(start).removesuffix(end)
            if pid.isdecimal() and not at_work({"host": socket.gethostname(), "pid": int(pid), "age": 0.0}):
                shutil.rmtree(left, ignore_errors=True)
        folder = out.with_name(f"{start}{os.getpid()}{end}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _there(folder: Path) -> set[str]:
    """The files of a folder, and of data/ in it."""
    try:
        found = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if (folder / "data").is_dir():
            found = found - {"data"} | {f"data/{path.name}" for path in (folder / "data").iterdir()}
    except OSError as error:
        raise StorageError(f"{folder}: cannot read: {error.strerror}", hint="check its permissions") from error
    return found


def _ours(name: str) -> bool:
    shard = name.startswith("data/train-") and name.endswith(".jsonl")
    return shard or name in ("dropped.jsonl", "unread.jsonl", "dedup.json", "README.md")


# The card

_OTHER = "other"


def _see(columns: dict[str, str], fields: Mapping[str, Any]) -> None:
    """Take note of the types of a row's columns."""
    for key, value in fields.items():
        known = columns.setdefault(key, "")
        kind = "" if value is None else _DTYPES.get(type(value), _OTHER)
        if kind and kind != known:
            numbers = {kind, known} == {"int64", "float64"}
            columns[key] = kind if not known else "float64" if numbers else _OTHER


_DTYPES = {str: "string", bool: "bool", int: "int64", float: "float64"}


def _card(report: Mapping[str, Any], size: int, columns: Mapping[str, str]) -> str:
    """The text of README.md: what it is, how it was made, and, where columns are simple, features that let every loader
    read the shards."""
    kept, dropped, parameters = report["kept"], report["dropped"], report["parameters"]
    info: dict[str, Any] = {"config_name": "default", "download_size": size}
    if _OTHER not in columns.values():
        info["features"] = [{"name": name, "dtype": kind or "string"} for name, kind in columns.items()]
    head = {
        "license": "other",
        "task_categories": ["text-generation"],
        "tags": ["instruction-tuning", "selfinstruct", "deduplicated"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.jsonl"}]}],
        "dataset_info": [info],
    }
    rule = f"Jaccard similarity over runs of {WORDS} words of at least {parameters['jaccard']:g}"
    if parameters["rouge_l"] is not None:
        rule += f", or ROUGE-L F of instruction and input above {parameters['rouge_l']:g}"
    which = "the longest output" if parameters["keep"] == "best" else "the first"
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip("\n"),
        "---",
        "",
        f"# {kept} of {report['rows']} records, deduplicated",
        "",
        f"Made with `selfinstruct` {__version__} (`selfinstruct dedup`): {rule}; of such rows {which} stays. "
        "The rows are as they were, in their order.",
        "",
        "- `data/train-*.jsonl`: the records. `dropped.jsonl`: every row that went, why, and beside which. "
        "`dedup.json`: parameters, versions, counts and clusters.",
        *([f"- `unread.jsonl`: {report['unread']} rows that could not be read, and why."] if report["unread"] else []),
        "- Licence: that of the inputs.",
        "",
        "## Accounting",
        "",
        "| input | SHA-256 | rows | kept |",
        "|---|---|---:|---:|",
        *(f"| {one['path']} | `{one['sha256'][:16]}…` | {one['rows']} | {one['kept']} |" for one in report["inputs"]),
        "",
        "| rule | rows |",
        "|---|---:|",
        *(f"| {name} | {count} |" for name, count in dropped.items()),
        f"| kept | {kept} |",
    ]
    return "\n".join(lines) + "\n"
