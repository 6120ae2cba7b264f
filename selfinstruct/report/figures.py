"""Every figure of a run folder as it stands, in one value for JSON; of several runs, each under its name."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from selfinstruct import __version__
from selfinstruct.errors import UsageError
from selfinstruct.lock import at_work, owner
from selfinstruct.report.clusters import Clusters
from selfinstruct.report.costs import Costs
from selfinstruct.report.curves import Curves
from selfinstruct.report.diversity import Diversity
from selfinstruct.report.funnel import Funnel
from selfinstruct.report.margins import Close, Margins
from selfinstruct.report.nearest import Nearest
from selfinstruct.report.roots import english_model
from selfinstruct.report.rows import Source, rows, source
from selfinstruct.report.texts import Lengths, Scores, Types
from selfinstruct.report.traits import Traits
from selfinstruct.report.verbs import Verbs
from selfinstruct.survival import Price, survival

FORMAT = 1
"""Of the keys: raised when one goes or means something else."""
EXAMPLES = 10
"""Decisions on either side of a threshold, and records that a trait slipped through in."""


def report(folders: Sequence[Path], *, price: Price | None = None, examples: int = EXAMPLES) -> dict[str, Any]:
    """The figures of each run under its name, the folder as it was given. Raises UsageError where two are one."""
    names = [str(folder) for folder in folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a run is named twice", hint="name each RUN once")
    runs = {name: figures(folder, price=price, examples=examples) for name, folder in zip(names, folders, strict=True)}
    return {"format": FORMAT, "selfinstruct": __version__, "runs": runs}


def figures(folder: str | Path, *, price: Price | None = None, examples: int = EXAMPLES) -> dict[str, Any]:
    """Every figure of a run folder, for JSON; docs/report.md says what each means. The run may be under way.

    The journal is read once, or twice where the run evolves, and the records twice. Raises InputError where the folder
    is not what a run writes.
    """
    folder = Path(folder)
    about = source(folder)
    costs = Costs(about.journal)
    funnel, curves, margins = Funnel(about.recipe), Curves(), Margins(about.recipe, examples)
    nearest = Nearest(about.recipe, about.seeds, about.unseeded)
    lengths, types, scores, diversity, verbs = Lengths(), Types(), Scores(), Diversity(), Verbs(english_model())
    traits = Traits(examples)
    evolves = False
    with tempfile.TemporaryDirectory(prefix="selfinstruct-") as scratch, closing(Clusters(Path(scratch))) as clusters:
        task: tuple[int, int] | None = None
        for row in rows(folder):
            for part in (costs, funnel, curves, margins, nearest, lengths, types, scores, diversity, traits, clusters):
                part.add(row)
            if row.kept and (row.step, row.item) != task:
                task = (row.step, row.item)
                verbs.add(row.record.instruction)
            evolves = evolves or row.record.evolution is not None
        clusters.find()
        closest = nearest.closest(examples)
        tasks = margins.neighbours() | {neighbour for _, neighbour, _ in closest}
        names = clusters.wanted() | {task.name for task, _, _ in closest}
        told, known = _looked_up(about, names, tasks)
        near = [Close(f, told[task.name], neighbour) for task, neighbour, f in closest]
        target = None if evolves or about.recipe.inputs.get("seeds") is None else about.recipe.num
        return {
            "run": _about(about, funnel.kept),
            "funnel": funnel.figures(),
            "costs": costs.figures(funnel.kept, price),
            "curves": curves.figures(costs.steps, target),
            "similarity": nearest.figures(),
            "verbs": verbs.figures(),
            "lengths": lengths.figures(),
            "types": types.figures(),
            "diversity": diversity.figures(),
            "traits": traits.figures(),
            "scores": scores.figures(),
            "survival": survival(folder).figures(price) if evolves else None,
            "clusters": clusters.figures(told),
            "margins": margins.figures(near, known),
        }


def _about(about: Source, kept: int) -> dict[str, Any]:
    """What run.json and the recipe say of the run."""
    recipe, known, held = about.recipe, about.known, owner(about.folder)
    state = known.get("state", "starting")
    lives = held is not None and at_work(held)
    return {
        "folder": str(about.folder),
        # A run that says it is running while nobody holds it was killed.
        "state": "killed" if state == "running" and not lives else state,
        "recipe": recipe.name,
        "about": recipe.about,
        "behaviour": recipe.behaviour,
        "seed": recipe.seed,
        "models": {"model": recipe.model, "answer_model": recipe.answer_model, "judge_model": recipe.judge_model},
        "license": recipe.license,
        "inputs": dict(recipe.inputs),
        "replay_of": known.get("replay of", ""),
        "target": known.get("target"),
        "kept": kept,
        "updated": known.get("updated"),
        "versions": known.get("versions", {}),
        "last_error": known.get("last_error", ""),
    }


def _looked_up(
    about: Source, names: set[str], tasks: set[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Records by their name, and tasks that others were held against: seeds, kept records, and drafts that were let in
    and whose answers were rejected."""
    told: dict[str, dict[str, Any]] = {}
    known: dict[str, dict[str, Any]] = {}
    for seed in about.seeds:
        if seed.task in tasks:
            known.setdefault(seed.task, _task("seed", seed.task, seed.instruction, seed.input))
    for row in rows(about.folder) if names or tasks - known.keys() else ():
        if row.name in names:
            told.setdefault(row.name, row.told())
        record = row.record
        if record.task in tasks and (row.kept or row.line["at"] == "answer"):
            kind = "kept" if row.kept else "rejected"
            known.setdefault(record.task, _task(kind, row.name, record.instruction, record.input))
    return told, known


def _task(kind: str, name: str, instruction: str, given: str) -> dict[str, Any]:
    return {"kind": kind, "id": name, "instruction": instruction, "input": given}
