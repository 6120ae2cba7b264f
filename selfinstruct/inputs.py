"""The files that a plan is made from: seeds, a dataset, lists to vary by, the system text, benchmarks, phrasings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from selfinstruct.errors import InputError
from selfinstruct.formats import dataset_files, read_dataset, read_seeds
from selfinstruct.records import Record

BENCHMARK = "benchmark:"
"""What the name of a benchmark among the inputs begins with."""


class Inputs(NamedTuple):
    """What stands in them."""

    seeds: list[Record]
    vary: dict[str, list[str]]
    system: str
    rows: int = 0
    """Rows of the dataset."""
    systems: int = 0
    """Rows among them that have a system text of their own."""
    phrasings: str = ""


@dataclass(frozen=True)
class Sources:
    """Where they are. ``dataset`` is what a recipe reads row by row; it is never held in memory."""

    seeds: Path | None = None
    dataset: Path | None = None
    vary: Mapping[str, Path] = field(default_factory=dict)
    system: Path | None = None
    benchmarks: Mapping[str, Path] = field(default_factory=dict)
    """By names that tell them apart (``benchmarks.names_of``)."""
    phrasings: Path | None = None
    """How constraints are asked for."""

    def contents(self) -> dict[str, bytes]:
        """Every file's bytes but the dataset's, by the name of the input."""
        paths = {f"vary:{name}": path for name, path in self.vary.items()}
        paths |= {f"{BENCHMARK}{name}": path for name, path in self.benchmarks.items()}
        others = {"seeds": self.seeds, "system": self.system, "phrasings": self.phrasings}
        paths |= {name: path for name, path in others.items() if path is not None}
        return {name: _read(path) for name, path in paths.items()}

    def benchmark_contents(self) -> dict[str, bytes]:
        """The benchmarks' bytes, by name."""
        return {name: _read(path) for name, path in self.benchmarks.items()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of every input, by its name."""
        found = {name: hashlib.sha256(content).hexdigest() for name, content in self.contents().items()}
        if self.dataset is not None:
            found["source"] = digest_of(self.dataset)
        return found

    def read(self, *, answered: bool) -> Inputs:
        """``answered``: whether every row of the dataset must hold an answer.

        Raises InputError, with file:line, where a file does not hold what it should."""
        rows = systems = 0
        if self.dataset is not None:
            # All of it is read once before anything is paid: a flaw in its last row is told now.
            for row in read_dataset(self.dataset, answered=answered):
                rows += 1
                systems += bool(row.system)
        return Inputs(
            seeds=read_seeds(self.seeds) if self.seeds else [],
            vary={name: lines(_text(path), str(path)) for name, path in self.vary.items()},
            system=_text(self.system).strip() if self.system else "",
            rows=rows,
            systems=systems,
            phrasings=_text(self.phrasings) if self.phrasings else "",
        )


def lines(text: str, source: str) -> list[str]:
    """The values of a list to vary by: one a line, blank lines left out."""
    found = [line.strip() for line in text.split("\n") if line.strip()]
    if not found:
        raise InputError(f"{source}: no lines to vary by", hint="one value a line")
    return found


def digest_of(dataset: Path) -> str:
    """SHA-256 of a dataset: of the files that are read of it, in order."""
    whole = hashlib.sha256()
    for path in dataset_files(dataset):
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    whole.update(block)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}", hint="check the path") from error
    return whole.hexdigest()


def _text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {error}", hint="save it as UTF-8 text") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", hint="check the path") from error
