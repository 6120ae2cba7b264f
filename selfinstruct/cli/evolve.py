"""`selfinstruct evolve`: rounds of evolution over the rows of any dataset, from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from selfinstruct.cli.generate import (
    AnswerModel,
    Decontaminate,
    DryRun,
    Fresh,
    Json,
    License,
    Model,
    Out,
    Overrides,
    PromptsDir,
    Quiet,
    Seed,
    Style,
    System,
    Vary,
    Without,
)
from selfinstruct.cli.models import Where, placed
from selfinstruct.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(evolve)


@placed
def evolve(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A run folder, a seed file, or a dataset in any format that we read."),
    ],
    out: Out = None,
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="wizardlm, code, math, complexity, quality, or a .toml file.",
            rich_help_panel="Evolution",
        ),
    ] = "wizardlm",
    rounds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=100, help="Rounds; 4 in wizardlm.", rich_help_panel="Evolution"),
    ] = None,
    operators: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,C",
            help="Operators to draw from, in place of the preset's: files in `prompts/evolve/`. Repeatable.",
            rich_help_panel="Evolution",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="2,1,1",
            help="How likely each is, in the same order. Default: all alike.",
            rich_help_panel="Evolution",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Who judges what was evolved; with one, its difficulty too.",
            rich_help_panel="Evolution",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Rows to draw from the union into `sample.jsonl`.", rich_help_panel="Evolution"
        ),
    ] = None,
    without: Without = None,
    decontaminate: Decontaminate = None,
    overrides: Overrides = None,
    vary: Vary = None,
    system: System = None,
    seed: Seed = None,
    prompts: PromptsDir = None,
    license: License = None,
    model: Model = None,
    answer_model: AnswerModel = None,
    style: Style = None,
    *,
    where: Where,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evolve instructions, round after round.

    Each row is rewritten, harder or anew; what fails a rule goes, with its reason, and its parent has another try.
    """
    from selfinstruct.cli.generate import drive, recipe_of, vary_files
    from selfinstruct.run import Run

    table: dict[str, Any] = {"rounds": rounds, "sample": sample}
    if operators:
        table |= {"operators": _names(operators), "weights": (), "first": ()}
    if weights is not None:
        table["weights"] = _numbers(weights)
    values = {
        "seed": seed, "model": model, "answer_model": answer_model, "judge_model": judge, "style": style,
        "license": license, "evolve": {key: value for key, value in table.items() if value is not None},
    }  # fmt: skip
    chosen = recipe_of(_preset(preset), overrides, values, without)
    chosen = where.named(chosen)
    if chosen.draft.operator != "evolve":
        raise UsageError(
            f"{preset}: draft.operator = {chosen.draft.operator!r}: this recipe evolves nothing",
            hint="`selfinstruct generate --recipe` takes the others",
        )
    whole = source.resolve()
    run = Run(
        out or Path("runs") / f"{whole.name if whole.is_dir() else whole.stem}-{Path(preset).stem}",
        chosen,
        source=source,
        prompts=prompts,
        vary=vary_files(vary or ()),
        system=system,
        decontaminate=decontaminate or (),
        options=where.options,
        fresh=fresh,
    )
    if dry_run:
        from selfinstruct.cli.plan import print_plan

        run.check()
        print_plan(run.recipe, source, prompts, run.folder, as_json=json, benchmarks=run.benchmarks)
        return
    drive(run, as_json=json, quiet=quiet)


def _preset(name: str) -> str:
    """The recipe behind ``--preset``."""
    from selfinstruct.recipe import presets

    if name.endswith(".toml"):
        return name
    there = [preset.removeprefix("evolve/") for preset in presets() if preset.startswith("evolve/")]
    if name not in there:
        raise UsageError(
            f"--preset {name!r}: there is no such preset", hint=f"there are {', '.join(there)}, or give a .toml file"
        )
    return f"evolve/{name}"


def _names(given: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for part in given for name in part.split(","))
    if not all(names):
        raise UsageError(f"--operators {','.join(given)!r}: a name is missing", hint="--operators constraints,deepen")
    return names


def _numbers(given: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError:
        raise UsageError(f"--weights {given!r}: not numbers", hint="one an operator: --weights 2,1,1") from None
