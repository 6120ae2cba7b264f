"""`selfinstruct generate` and `selfinstruct answer`: a run, from the command line."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfinstruct.cli.models import Where, placed
from selfinstruct.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct.recipe import Recipe
    from selfinstruct.run import Run
    from selfinstruct.state import Progress

Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Who writes: `local` (demo), `local/PATH.gguf`, `vllm/ID`, `openai/NAME`, `scripted/FILE`.",
        rich_help_panel="Models",
    ),
]
AnswerModel = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Another model for classification and answers.", rich_help_panel="Models"),
]
Style = Annotated[
    str | None,
    typer.Option(metavar="STYLE", help="auto, completion, chat, prefill or json.", rich_help_panel="Models"),
]
Samples = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=128, help="Answers to each row; every one that differs becomes a record."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any value of the recipe. Repeatable.", rich_help_panel="Recipe"),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        "--without", metavar="RULE", help="A rule of the recipe to switch off. Repeatable.", rich_help_panel="Recipe"
    ),
]
Decontaminate = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="A benchmark (Parquet, JSONL, JSON or text) that no record may overlap. Repeatable.",
        rich_help_panel="Recipe",
    ),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SLOT=FILE",
        help="Draw a line per step into the prompt: topic, persona, domain, language. Repeatable.",
        rich_help_panel="Recipe",
    ),
]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="The run's random seed.", rich_help_panel="Recipe")]
PromptsDir = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="DIR", help="Prompt files that go before the package's own.", rich_help_panel="Recipe"
    ),
]
System = Annotated[
    Path | None, typer.Option(metavar="FILE", help="System text that goes with the answers.", rich_help_panel="Recipe")
]
License = Annotated[
    str | None, typer.Option(metavar="NAME", help="The licence that the card states.", rich_help_panel="Recipe")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder. The same command again resumes it.")]
Fresh = Annotated[bool, typer.Option("--fresh", metavar="", help="Throw an earlier run in that folder away.")]
Json = Annotated[bool, typer.Option("--json", metavar="", help="The summary on stdout as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="No progress and no notes but warnings.")]

DryRun = Annotated[bool, typer.Option("--dry-run", metavar="", help="Print the plan, ask nothing.")]


def register(app: typer.Typer) -> None:
    app.command()(generate)
    app.command()(answer)


@placed
def generate(
    seeds: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Seed tasks. Default: the 175 that come along.")
    ] = None,
    num: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Records wanted, seeds excluded. Default: 100.")
    ] = None,
    out: Out = None,
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="self-instruct, alpaca, or a .toml file.", rich_help_panel="Recipe")
    ] = "self-instruct",
    overrides: Overrides = None,
    without: Without = None,
    decontaminate: Decontaminate = None,
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
    """Write new tasks from seed tasks.

    `selfinstruct generate --seeds seeds/175.jsonl` runs as it stands; Ctrl-C is safe, and the same command goes on.
    """
    from selfinstruct.resources import SEEDS
    from selfinstruct.run import Run

    seeds = seeds or SEEDS / "175.jsonl"
    values = {
        "num": num, "seed": seed, "model": model, "answer_model": answer_model, "style": style,
        "license": license,
    }  # fmt: skip
    chosen = recipe_of(recipe, overrides, values, without)
    chosen = where.named(chosen)
    run = Run(
        out or Path("runs") / f"{seeds.stem}-{Path(recipe).stem}",
        chosen,
        seeds=seeds,
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
        print_plan(run.recipe, seeds, prompts, run.folder, as_json=json, benchmarks=run.benchmarks)
        return
    drive(run, as_json=json, quiet=quiet)


@placed
def answer(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A dataset in any format that we read, or a run folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder. The same command again resumes it.")],
    model: Model = None,
    samples: Samples = None,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="answer; verifiable, verifiable/own: with constraints that a program checks; a .toml file.",
            rich_help_panel="Recipe",
        ),
    ] = "answer",
    overrides: Overrides = None,
    without: Without = None,
    decontaminate: Decontaminate = None,
    system: System = None,
    seed: Seed = None,
    prompts: PromptsDir = None,
    license: License = None,
    style: Style = None,
    *,
    where: Where,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer, or answer anew, the instructions of any dataset.

    Instructions and inputs stay as they are, but for what the recipe `verifiable` asks on top; a row whose new answer
    fails the rules is rejected, with its reason.
    """
    from selfinstruct.run import Run

    values: dict[str, Any] = {"seed": seed, "model": model, "style": style, "license": license}
    if samples is not None:
        values["answer"] = {"samples": samples}
    chosen = recipe_of(recipe, overrides, values, without)
    chosen = where.named(chosen)
    run = Run(
        out,
        chosen,
        source=source,
        prompts=prompts,
        system=system,
        decontaminate=decontaminate or (),
        options=where.options,
        fresh=fresh,
    )
    if dry_run:
        from selfinstruct.cli.plan import print_plan

        rows = run.check().rows
        print_plan(run.recipe, source, prompts, run.folder, as_json=json, benchmarks=run.benchmarks, rows=rows)
        return
    drive(run, as_json=json, quiet=quiet)


def recipe_of(
    name: str, overrides: Sequence[str] | None, flags: Mapping[str, Any], without: Sequence[str] | None
) -> Recipe:
    """The recipe of that name with ``--set``, then the flags that were given, then the rules that are switched off."""
    from selfinstruct.recipe import load

    recipe = load(name, overrides or (), {key: value for key, value in flags.items() if value is not None})
    off = tuple(dict.fromkeys((*recipe.filters.off, *(without or ()))))
    return recipe.model_copy(update={"filters": recipe.filters.model_copy(update={"off": off})})


def drive(run: Run, *, as_json: bool, quiet: bool) -> None:
    """Iterate a run to its end with progress on stderr and the summary on stdout."""
    from selfinstruct.cli.panel import Silent, panel, summary
    from selfinstruct.cli.terminal import STOPPING, say, signals

    if run.recipe.model == "local" and not quiet:
        say(
            "note: `local` is a 135M demo model; it shows that everything works. For data worth training on: "
            "--model openai/NAME --base-url …",
            err=True,
        )
    view: Any = Silent() if quiet else panel(run.folder)
    caught: list[int] = []
    last: Progress | None = None
    with signals(caught, run.drain, run.leave, STOPPING), view:
        for progress in run:
            if progress.state != "starting":
                last = progress
                if not progress.note:  # what the summary will say
                    view.show(progress)
            elif progress.note:
                view.say(progress.note)
    assert last is not None
    summary(run, last, as_json=as_json)
    if last.state == "interrupted":
        raise typer.Exit(128 + (caught[0] if caught else signal.SIGINT))


def vary_files(pairs: Sequence[str]) -> dict[str, Path]:
    """The files of ``--vary SLOT=FILE``, by slot."""
    files = {}
    for pair in pairs:
        slot, sign, path = pair.partition("=")
        if not sign or slot not in ("topic", "persona", "domain", "language"):
            raise UsageError(f"--vary {pair!r}: not SLOT=FILE", hint="SLOT is topic, persona, domain or language")
        files[slot] = Path(path)
    return files
