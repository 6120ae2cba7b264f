"""Kept records, rejects, lineage and the dataset card on disk: atomic, byte-stable, loadable at every moment.

Everything here is a projection of the journal. A resumed run makes it again from the start: what stands on disk already
is compared, not written, so that an edited file is noticed and nothing on disk ever goes backwards.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfinstruct import __version__
from selfinstruct.card import Sample, card
from selfinstruct.errors import InputError, UsageError
from selfinstruct.files import replacing, write_whole, writing
from selfinstruct.formats import row
from selfinstruct.loop import Asked, Kept, Rejected
from selfinstruct.recipe import Recipe, dump
from selfinstruct.records import Record, digest

if TYPE_CHECKING:
    from selfinstruct.contamination import Report

ROWS = 1_000
"""Rows in a shard."""
TOLD = ("contamination.json", "README.md")
"""The files that tell of all the others: written anew as a run goes on."""
PAUSE = 1.0
"""Seconds between two flushes at the least."""


class Shards:
    """The sink of a run folder. Call ``flush`` now and then, and ``close`` at the end. ``report`` becomes the
    contamination.json of a run that is held against benchmarks.

    Raises StorageError where the disk refuses, and UsageError where a file is not what the run would write.
    """

    def __init__(self, folder: Path, recipe: Recipe, digests: dict[str, str], report: Report | None = None) -> None:
        self._folder = folder
        self._recipe = recipe
        self._digests = digests
        self._report = report
        self._rows: list[bytes] = []
        self._full = 0
        self._size = 0
        self._kept = 0
        self._rejected: Counter[tuple[str, str]] = Counter()
        self._remarks: Counter[str] = Counter()
        self._rounds: Counter[int] = Counter()
        self._sample: Sample | None = None
        self._flushed = 0.0
        with writing(folder):
            (folder / "data").mkdir(parents=True, exist_ok=True)
            for at in (folder, folder / "data"):  # what writers that were killed left; we are the only one now
                for part in at.glob(".*.part"):
                    part.unlink(missing_ok=True)
        self._lineage = _Lines(folder / "lineage.jsonl")
        self._rejects = _Lines(folder / "rejected.jsonl")
        try:
            write_whole(folder / "recipe.toml", dump(recipe).encode())
            self.flush(force=True)
        except BaseException:
            self._let_go()
            raise

    def keep(self, kept: Kept) -> None:
        line = f"{row(kept.record, self._recipe.columns)}\n".encode()
        self._rows.append(line)
        self._size += len(line)
        self._kept += 1
        self._remarks.update(kept.remarks)
        if kept.record.evolution is not None:
            self._rounds[kept.record.evolution.round] += 1
        if self._report is not None:
            self._report.keep(kept)
        self._lineage.add(_json(self._origin(kept)))
        if len(self._rows) == ROWS:
            self.flush(force=True)
            self._full += 1
            self._rows = []

    def reject(self, rejected: Rejected) -> None:
        objection, record = rejected.objection, rejected.record
        self._rejected[objection.at, objection.by] += 1
        if self._report is not None:
            self._report.reject(rejected)
        self._rejects.add(
            _json(
                {
                    "name": rejected.name,
                    "at": objection.at,
                    "by": objection.by,
                    "why": objection.why,
                    "neighbour": objection.neighbour,
                    "score": objection.score,
                    "task": record.task,
                    "instruction": record.instruction,
                    "input": record.input,
                    "output": record.output,
                    "text": rejected.text,
                    "parents": list(record.parents),
                    **_further(record, rejected.scores),
                    "vary": dict(rejected.steer),
                    "asked": [self._asked(asked) for asked in rejected.asked],
                }
            )
        )

    def flush(self, *, force: bool = False) -> None:
        """Bring the disk up to date, at most once a second unless forced."""
        now = time.monotonic()
        if not force and now - self._flushed < PAUSE:
            return
        # Rows last: whoever reads a row finds its lineage.
        self._rejects.flush()
        self._lineage.flush()
        self._write_shard()
        self._write_card()
        self._flushed = now

    def close(self) -> None:
        try:
            self.flush(force=True)
        finally:
            self._let_go()

    def decided(self) -> dict[str, Any]:
        """How much of the rejects is on disk and what this run would write: their bytes, the SHA-256 of these, and our
        version, for another one may judge otherwise."""
        return {**self._rejects.vouched(), "version": __version__}

    def draw_sample(self) -> None:
        """Write the training subset of a finished run: so many of its rows, each with the same probability.

        A row is in if few others have a smaller digest of seed and place, so that a longer run adds and replaces rows,
        and no row moves.
        """
        wanted = self._recipe.evolve.sample
        path = self._folder / "sample.jsonl"
        if not wanted:
            with writing(path):
                path.unlink(missing_ok=True)
            return
        self.flush(force=True)
        lots = (
            (digest(str(self._recipe.seed), "sample", origin["place"]), at)
            for at, origin in enumerate(read_lines(self._folder / "lineage.jsonl"))
        )
        drawn = {at for _, at in heapq.nsmallest(wanted, lots)}
        at = rows_drawn = size = 0
        with replacing(path) as file:
            for shard in sorted((self._folder / "data").glob("train-*.jsonl")):
                with shard.open("rb") as rows:
                    for line in rows:
                        if at in drawn:
                            file.write(line)
                            rows_drawn, size = rows_drawn + 1, size + len(line)
                        at += 1
        self._sample = Sample(rows_drawn, size)

    def _let_go(self) -> None:
        self._lineage.close()
        self._rejects.close()

    def _write_shard(self) -> None:
        if not self._rows:  # no file yet: no loader can read an empty one
            return
        path = self._folder / "data" / f"train-{self._full:05d}.jsonl"
        content = b"".join(self._rows)
        with writing(path):
            there = path.read_bytes() if path.is_file() else b""
        if there.startswith(content) and (there == content or len(self._rows) < ROWS):
            return
        if not content.startswith(there):
            raise _edited(path)
        write_whole(path, content)

    def _write_card(self) -> None:
        if self._lineage.caught_up and self._rejects.caught_up:
            rounds = self._rounds or None
            text = card(
                self._recipe,
                self._kept,
                self._size,
                self._rejected,
                self._remarks,
                rounds=rounds,
                sample=self._sample,
                benchmarks=self._report.lines() if self._report else (),
            )
            write_whole(self._folder / "README.md", text.encode())
            if self._report is not None and self._report.changed:
                write_whole(self._folder / "contamination.json", self._report.content())
                self._report.changed = False

    def _origin(self, kept: Kept) -> dict[str, Any]:
        record = kept.record
        return {
            "id": record.id,
            "task": record.task,
            "place": str(kept.place),
            "origin": record.origin,
            "parents": list(record.parents),
            "classification": record.classification,
            **_further(record, kept.scores),
            "vary": dict(kept.steer),
            "remarks": list(kept.remarks),
            "asked": [self._asked(asked) for asked in kept.asked],
        }

    def _asked(self, asked: Asked) -> dict[str, Any]:
        request = asked.request
        return {
            "place": str(asked.place),
            "prompt": request.purpose,
            "digest": self._digests.get(request.purpose, ""),
            "model": asked.model,
            "seed": request.seed,
            "sampling": request.sampling.model_dump(mode="json", exclude_defaults=True),
        }


class _Lines:
    """A file of lines that is only ever appended to. On opening, a line without its end is cut off; lines that are
    there already are compared with the ones that are added, and not written again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: list[str] = []
        self._end = self._left = self._sure = 0
        self._sum = hashlib.sha256()
        with writing(path):
            path.open("ab").close()
            self._there = path.open("rb")
            for line in self._there:
                if line.endswith(b"\n"):
                    self._end += len(line)
                    self._left += 1
            self._there.seek(0)
            self._cut()

    @property
    def caught_up(self) -> bool:
        """Whether everything that is there has been compared."""
        return not self._left

    def add(self, line: str) -> None:
        if not self._left:
            self._new.append(f"{line}\n")
            return
        with writing(self._path):
            there = self._there.readline()
        if there != f"{line}\n".encode():
            raise _edited(self._path)
        self._left -= 1
        self._vouch(there)

    def flush(self) -> None:
        if not self._new:
            return
        content = "".join(self._new).encode()
        with writing(self._path):
            try:
                with self._path.open("ab") as file:
                    file.write(content)
            except OSError:
                self._cut()  # a full disk may have taken a part
                raise
        self._end += len(content)
        self._vouch(content)
        self._new = []

    def close(self) -> None:
        self._there.close()

    def vouched(self) -> dict[str, Any]:
        return {"bytes": self._sure, "sha256": self._sum.copy().hexdigest()}

    def _vouch(self, content: bytes) -> None:
        self._sure += len(content)
        self._sum.update(content)

    def _cut(self) -> None:
        if self._path.stat().st_size > self._end:
            os.truncate(self._path, self._end)


def _further(record: Record, scores: Mapping[str, float]) -> dict[str, Any]:
    """What only some records have."""
    found: dict[str, Any] = {}
    if record.evolution is not None:
        found["evolution"] = record.evolution.model_dump()
    if record.evolution is not None or scores:
        found["scores"] = dict(scores)
    if record.constraints:
        found["constraints"] = [one.model_dump() for one in record.constraints]
    if record.repaired:
        found["repaired"] = list(record.repaired)
    return found


def _edited(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not what this run would write: it was edited, or made by another version",
        hint="give its old content back, or delete it: it is rebuilt from the journal",
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def read_kept(folder: Path) -> Iterator[tuple[Record, dict[str, Any]]]:
    """The kept records of a run folder with their lineage, in order. A run under way may be read.

    Raises InputError where a finished run has another number of rows than of lines in its lineage.
    """
    finished = _finished(folder)
    lineage = read_lines(folder / "lineage.jsonl", _LINEAGE)
    paths = sorted((folder / "data").glob("train-*.jsonl"))
    shards = (line for path in paths for line in read_lines(path, frozenset(("instruction", "input", "output"))))
    for line, origin in zip_longest(shards, lineage):
        if line is None or origin is None:
            if finished and _finished(folder):  # otherwise it is being written
                raise _ragged(folder, paths)
            return
        fields = {key: line[key] for key in ("instruction", "input", "output", "system", "reasoning") if key in line}
        known = {
            key: origin[key]
            for key in ("task", "origin", "parents", "classification", "evolution", "constraints", "repaired")
            if key in origin
        }
        yield Record(**fields, **known), origin


def _finished(folder: Path) -> bool:
    from selfinstruct import state  # which reads our checksums

    return state.read(folder).get("state") in ("complete", "ended")


def _ragged(folder: Path, paths: list[Path]) -> InputError:
    rows = sum(1 for path in paths for _ in read_lines(path))
    origins = sum(1 for _ in read_lines(folder / "lineage.jsonl"))
    return InputError(
        f"{folder}: {rows} rows in data/, but {origins} lines in lineage.jsonl",
        hint="`selfinstruct verify` says which file is not what it was",
    )


_LINEAGE = frozenset(["id", "task", "place", "origin", "parents", "classification", "vary", "remarks", "asked"])
_REJECT = frozenset(
    [
        "name",
        "at",
        "by",
        "why",
        "neighbour",
        "score",
        "task",
        "instruction",
        "input",
        "output",
        "text",
        "parents",
        "vary",
        "asked",
    ]
)


def read_rejected(folder: Path) -> Iterator[dict[str, Any]]:
    """The rejects of a run folder, in order."""
    return read_lines(folder / "rejected.jsonl", _REJECT)


def read_lines(path: Path, needs: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """The whole lines of one of a run's JSONL files. A last line without its end is still being written.

    Raises InputError with file:line where a line is not a JSON object with the keys that it needs.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            hint = "delete the file and give the run's command again: it is rebuilt from the journal"
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{number}: {error}", hint=hint) from error
            if not isinstance(found, dict) or not found.keys() >= needs:
                raise InputError(f"{path}:{number}: not a line that a run writes", hint=hint)
            yield found


def projections(folder: Path) -> Iterator[Path]:
    """The files of a run folder that the byte law covers, in a fixed order."""
    yield from sorted((folder / "data").glob("train-*.jsonl"))
    for name in ("lineage.jsonl", "rejected.jsonl", "sample.jsonl", "recipe.toml", *TOLD):
        if (folder / name).is_file():
            yield folder / name


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each projection, by its name in the folder."""
    return {path.relative_to(folder).as_posix(): _digest(path) for path in projections(folder)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
