"""The dataset card of a run folder: what it is, how it was made, and features that let every loader read its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import yaml

from selfinstruct import __version__
from selfinstruct.recipe import Recipe

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card(recipe: Recipe, kept: int, size: int, rejected: Mapping[tuple[str, str], int], remarks: Counter[str]) -> str:
    """The text of README.md. It depends on the recipe and on what was kept and rejected, and on nothing else. ``size``:
    bytes of all shards."""
    head = {
        "license": recipe.license,
        "pretty_name": f"{recipe.name} ({recipe.model})",
        "size_categories": [next((name for most, name in _SIZES if kept < most), "1M<n<10M")],
        "task_categories": ["text-generation"],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "tags": ["synthetic", "instruction-tuning", "selfinstruct", recipe.name],
        # Declared, so that a shard whose column is empty throughout has the type of the others.
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.jsonl"}]}],
        # The size, so that `datasets` does not take a folder that has grown for the one that it has in its cache.
        "dataset_info": {
            "features": [{"name": column, "dtype": "string"} for column in recipe.columns],
            "download_size": size,
        },
    }
    answered = f" and answered by `{recipe.answer_model}`" if recipe.answer_model else ""
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip("\n"),
        "---",
        "",
        f"# {recipe.name}: {kept} records",
        "",
        f"Synthetic instruction-tuning data, written by `{recipe.model}`{answered} with `selfinstruct` {__version__}, "
        f"recipe `{recipe.name}` ({recipe.behaviour}), run seed {recipe.seed}. Recipe: {recipe.about}.",
        "",
        "- `data/train-*.jsonl`: the records. `lineage.jsonl`: where each came from, by `id`. "
        "`rejected.jsonl`: everything that was not kept, and why. `recipe.toml`: every setting.",
        f"- Licence: `{recipe.license}`. {_terms(recipe)}",
        "- No person has checked these records. They may be wrong, biased or unsafe in the ways of their model.",
        "",
        "## Accounting",
        "",
        "| at | rule | rejected |",
        "|---|---|---:|",
        *(f"| {at} | {rule} | {count} |" for (at, rule), count in sorted(rejected.items(), key=_order)),
        f"| | kept | {kept} |",
    ]
    if remarks:
        words = ", ".join(
            f"{word} {count}" for word, count in sorted(remarks.items(), key=lambda one: (-one[1], one[0]))
        )
        lines += ["", f"Words in kept instructions that may hint at more than text: {words}."]
    return "\n".join(lines) + "\n"


def _order(one: tuple[tuple[str, str], int]) -> tuple[str, int, str]:
    (at, rule), count = one
    return ("0" if at == "draft" else "1", -count, rule)


def _terms(recipe: Recipe) -> str:
    models = " and ".join(f"`{name}`" for name in dict.fromkeys((recipe.model, recipe.answer_model)) if name)
    if recipe.license != "other":
        return "As stated by whoever made the run."
    return f"The outputs are subject to the terms of {models} and of the seed tasks; state a licence with `--license`."
