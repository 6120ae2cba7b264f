"""The dataset card of a run folder: what it is, how it was made, and features that let every loader read its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import yaml

from selfinstruct import __version__
from selfinstruct.loop import NO_VERDICT
from selfinstruct.recipe import Recipe

if TYPE_CHECKING:
    from selfinstruct.contamination import Line

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class Sample(NamedTuple):
    """The training subset that was drawn into sample.jsonl."""

    rows: int
    size: int
    """Bytes."""


def card(
    recipe: Recipe,
    kept: int,
    size: int,
    rejected: Mapping[tuple[str, str], int],
    remarks: Counter[str],
    *,
    rounds: Mapping[int, int] | None = None,
    sample: Sample | None = None,
    benchmarks: Sequence[Line] = (),
) -> str:
    """The text of README.md. It depends on the recipe and on what was kept and rejected, and on nothing else. ``size``:
    bytes of all shards. ``rounds``: of a recipe that evolves, the rows that were kept of each round. ``benchmarks``:
    what it was held against."""
    files = {"default": ("data/train-*.jsonl", size)}
    if sample:
        files["sample"] = ("sample.jsonl", sample.size)
    head = {
        "license": recipe.license,
        "pretty_name": f"{recipe.name} ({recipe.model})",
        "size_categories": [next((name for most, name in _SIZES if kept < most), "1M<n<10M")],
        "task_categories": ["text-generation"],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "tags": ["synthetic", "instruction-tuning", "selfinstruct", recipe.name],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, (path, _) in files.items()
        ],
        "dataset_info": [
            {
                "config_name": name,
                # Declared, so that a shard whose column is empty throughout has the type of the others.
                "features": [{"name": column, "dtype": "string"} for column in recipe.columns],
                # So that `datasets` does not take a folder that has grown for the one that it has in its cache.
                "download_size": held,
            }
            for name, (_, held) in files.items()
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip("\n"),
        "---",
        "",
        f"# {recipe.name}: {kept} records",
        "",
        f"Synthetic instruction-tuning data, {_made(recipe)} with `selfinstruct` {__version__}, "
        f"recipe `{recipe.name}` ({recipe.behaviour}), run seed {recipe.seed}. Recipe: {recipe.about}.",
        "",
        "- `data/train-*.jsonl`: the records. `lineage.jsonl`: where each came from, by `id`. "
        "`rejected.jsonl`: everything that was not kept, and why. `recipe.toml`: every setting.",
    ]
    if sample:
        lines.append(
            f"- `sample.jsonl`: {sample.rows} of the records, drawn with equal probability; "
            '`load_dataset(…, "sample")` loads them.'
        )
    lines += [
        f"- Licence: `{recipe.license}`. {_terms(recipe)}",
        "- No person has checked these records. They may be wrong, biased or unsafe in the ways of their model.",
        "",
    ]
    if rounds is not None:
        lines += _rounds(recipe, rounds)
    if benchmarks:
        lines += _benchmarks(benchmarks)
    lines += [
        "## Accounting",
        "",
        "| at | rule | rejected |",
        "|---|---|---:|",
        *(f"| {at} | {rule} | {count} |" for (at, rule), count in sorted(rejected.items(), key=_order)),
        f"| | kept | {kept} |",
    ]
    told = sorted(remarks.items(), key=lambda one: (-one[1], one[0]))
    for what, verdicts in (
        ("Words in kept instructions that may hint at more than text", False),
        ("Kept although a rule that asks a model came to nothing", True),
    ):
        if found := [f"{remark} {count}" for remark, count in told if remark.endswith(NO_VERDICT) == verdicts]:
            lines += ["", f"{what}: {', '.join(found)}."]
    return "\n".join(lines) + "\n"


def _made(recipe: Recipe) -> str:
    """Who wrote it, and whoever else had a part in it."""
    if recipe.model == "none":
        return "made of given rows, without a model,"
    models = (("written", recipe.model), ("answered", recipe.answer_model), ("judged", recipe.judge_model))
    *most, last = (f"{verb} by `{model}`" for verb, model in models if model)
    return f"{', '.join(most)} and {last}" if most else last


def _rounds(recipe: Recipe, rounds: Mapping[int, int]) -> list[str]:
    """What was kept of each round, and what drew it."""
    evolve = recipe.evolve
    tables = [phase for phase in evolve.first for _ in range(phase.rounds)] + [evolve] * evolve.rounds
    lines = [
        "## Rounds",
        "",
        "The rows of round 0 stand as they were found. A later round tries each lineage once at the most, with an "
        "operator drawn for it.",
        "",
        "| round | operators | rows |",
        "|---:|---|---:|",
        f"| 0 | | {rounds.get(0, 0)} |",
    ]
    for number, table in enumerate(tables[: evolve.rounds], 1):
        weights = table.weights or (1.0,) * len(table.operators)
        drawn = (
            name if len(set(weights)) == 1 else f"{name} {weight:g}"
            for name, weight in zip(table.operators, weights, strict=True)
        )
        lines.append(f"| {number} | {', '.join(drawn)} | {rounds.get(number, 0)} |")
    return [*lines, ""]


def _benchmarks(benchmarks: Sequence[Line]) -> list[str]:
    """What the records were held against."""
    return [
        "## Decontamination",
        "",
        "Held against these benchmarks; `contamination.json` has every overlap that was found.",
        "",
        "| benchmark | SHA-256 | items | rejected records that overlap it | records here that overlap it |",
        "|---|---|---:|---:|---:|",
        *(
            f"| {_celled(one.name)} | {one.sha256[:12]} | {one.items} | {one.dropped} | {one.data} |"
            for one in benchmarks
        ),
        "",
    ]


def _celled(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _order(one: tuple[tuple[str, str], int]) -> tuple[str, int, str]:
    (at, rule), count = one
    return ("0" if at == "draft" else "1", -count, rule)


def _terms(recipe: Recipe) -> str:
    models = " and ".join(f"`{name}`" for name in dict.fromkeys((recipe.model, recipe.answer_model)) if name)
    if recipe.model == "none":
        models = "whatever answered the rows"
    if recipe.license != "other":
        return "As stated by whoever made the run."
    sources = (
        "of the seed tasks"
        if recipe.draft.operator not in ("given", "constrained", "evolve")
        else "of the rows it began with"
    )
    return f"The outputs are subject to the terms of {models} and {sources}; state a licence with `--license`."
