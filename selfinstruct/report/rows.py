"""A run folder read for its figures: recipe, seeds, and every kept and rejected record in plan order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from selfinstruct import state
from selfinstruct.errors import InputError
from selfinstruct.formats import read_seeds
from selfinstruct.inputs import digest_of
from selfinstruct.journal import Journal
from selfinstruct.recipe import Recipe, parse
from selfinstruct.records import Record
from selfinstruct.resources import SEEDS
from selfinstruct.shards import read_kept, read_rejected

_REBUILD = "delete the file and give the run's command again: it is rebuilt from the journal"


class Row(NamedTuple):
    """One record, kept or rejected, with its line in lineage.jsonl or rejected.jsonl."""

    step: int
    item: int
    """Step and item of its draft: what was kept or rejected of the same one is of one task."""
    kept: bool
    record: Record
    line: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The id of a record, the name of a reject."""
        return str(self.line["id"] if self.kept else self.line["name"])

    @property
    def operator(self) -> str:
        """What evolved it; where nothing did, where it came from."""
        known = self.record.evolution
        return (known.operator if known is not None else "") or self.origin

    @property
    def origin(self) -> str:
        """The operator that wrote it; of a reject, the stage that its draft was asked at."""
        if self.kept:
            return self.record.origin
        asked = self.line["asked"]
        return str((asked[0]["place"] if asked else self.name).rpartition(":")[0])

    def told(self) -> dict[str, Any]:
        """Everything that a browser of records shows, for JSON."""
        record, line = self.record, self.line
        known = record.evolution
        return {
            "id": self.name,
            "kind": "kept" if self.kept else "rejected",
            "step": self.step,
            "item": self.item,
            "at": "" if self.kept else line["at"],
            "rule": "" if self.kept else line["by"],
            "why": "" if self.kept else line["why"],
            "score": None if self.kept else line["score"],
            "neighbour": "" if self.kept else line["neighbour"],
            "task": record.task,
            "origin": self.origin,
            "operator": known.operator if known is not None else "",
            "round": known.round if known is not None else None,
            "lineage": known.lineage if known is not None else None,
            "added": known.added if known is not None else None,
            "classification": record.classification,
            "instruction": record.instruction,
            "input": record.input,
            "output": record.output,
            "system": record.system,
            "reasoning": record.reasoning,
            "text": line.get("text", ""),
            "parents": list(record.parents),
            "scores": dict(line.get("scores", {})),
            "remarks": list(line.get("remarks", [])),
            "constraints": [one.type for one in record.constraints],
            "repaired": list(record.repaired),
            "vary": dict(line["vary"]),
            "models": sorted({str(asked["model"]) for asked in line["asked"]}),
        }


def rows(folder: Path) -> Iterator[Row]:
    """Every record of a run folder in plan order, of one draft the kept ones first. The run may be under way.

    Raises InputError where a line is not one that a run writes.
    """
    return merge(_kept(folder), _rejected(folder), key=lambda row: (row.step, row.item, not row.kept))


def _kept(folder: Path) -> Iterator[Row]:
    lines = read_kept(folder)
    while True:
        try:
            record, line = next(lines)
        except StopIteration:
            return
        except ValidationError as error:
            raise InputError(f"{folder}: {_first(error)}: not a record that a run writes", hint=_REBUILD) from error
        yield Row(*_place(line["place"], folder), kept=True, record=record, line=line)


def _rejected(folder: Path) -> Iterator[Row]:
    for line in read_rejected(folder):
        fields = {key: line[key] for key in ("instruction", "input", "output", "task", "parents")}
        try:
            known = {key: line[key] for key in ("evolution", "constraints", "repaired") if key in line}
            record = Record(**fields, origin="rejected", **known)
        except ValidationError as error:
            where = f"{folder / 'rejected.jsonl'}: {line['name']}"
            raise InputError(f"{where}: {_first(error)}: not a reject that a run writes", hint=_REBUILD) from error
        yield Row(*_place(line["name"], folder), kept=False, record=record, line=line)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _place(name: object, folder: Path) -> tuple[int, int]:
    """Step and item of ``stage:step.item``, whatever follows."""
    try:
        step, item, *_ = str(name).rpartition(":")[2].split(".")
        return int(step), int(item)
    except ValueError as error:
        raise InputError(f"{folder}: {name!r} names no step", hint=_REBUILD) from error


@dataclass(frozen=True)
class Source:
    """What a run folder knows of itself besides its records."""

    folder: Path
    recipe: Recipe
    known: Mapping[str, Any]
    """What run.json says; nothing where it is not there yet."""
    journal: Path | None
    """None where there is none: a replay whose run is gone, or a folder that was moved without it."""
    seeds: tuple[Record, ...]
    unseeded: str
    """Why there are no seeds; empty where there are."""

    @property
    def evolves(self) -> bool:
        return bool(self.recipe.evolve.operators or self.recipe.evolve.first)


def source(folder: Path) -> Source:
    """Raises InputError where the folder has no recipe."""
    path = folder / "recipe.toml"
    try:
        recipe = parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing", hint="is this a run folder? its command makes it anew") from error
    known = state.read(folder)
    # A replay has no journal of its own: it re-judged another folder's replies.
    journal = Path(known.get("replay of", folder)) / "journal.sqlite"
    there = journal if journal.is_file() else None
    seeds, why = _seeds(recipe, there)
    return Source(folder, recipe, known, there, seeds, why)


def _seeds(recipe: Recipe, journal: Path | None) -> tuple[tuple[Record, ...], str]:
    """The journal holds the seed file itself. Without one, ours may be the very file."""
    wanted = recipe.inputs.get("seeds")
    if wanted is None:
        return (), "the run reads a dataset: it has no seeds"
    if journal is not None:
        with closing(Journal(journal, read_only=True)) as stored:
            content = stored.input("seeds")
        if content is not None:
            with tempfile.TemporaryDirectory(prefix="selfinstruct-") as scratch:
                path = Path(scratch) / "seeds.json"
                path.write_bytes(content)
                return tuple(read_seeds(path)), ""
    for path in sorted(SEEDS.glob("*.jsonl")):
        if digest_of(path) == wanted:
            return tuple(read_seeds(path)), ""
    return (), "no journal here, and with it no seeds: the run's own folder has them"
