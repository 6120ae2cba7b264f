"""`selfinstruct optimise`: look for a better method of evolution, from the command line."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfinstruct.cli.generate import (
    AnswerModel,
    DryRun,
    Fresh,
    Json,
    Model,
    Overrides,
    PromptsDir,
    Quiet,
    Seed,
    Style,
    Without,
)
from selfinstruct.cli.models import Where, placed

if TYPE_CHECKING:
    from selfinstruct.descent import Search
    from selfinstruct.optimise import Optimisation
    from selfinstruct.state import Progress


def register(app: typer.Typer) -> None:
    app.command()(optimise)


@placed
def optimise(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A run folder, a seed file, or a dataset in any format that we read."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The search's folder. The same command again resumes it.")],
    dev: Annotated[
        int,
        typer.Option(
            metavar="K", min=1, help="Instructions held out, on which methods are compared.", rich_help_panel="Search"
        ),
    ] = 50,
    batch: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Instructions a step to learn from.", rich_help_panel="Search"),
    ] = 10,
    candidates: Annotated[
        int, typer.Option(metavar="M", min=1, help="Changed methods a step.", rich_help_panel="Search")
    ] = 5,
    steps: Annotated[int, typer.Option(metavar="T", min=1, help="Steps at the most.", rich_help_panel="Search")] = 12,
    early_stop: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Steps without fewer failures after which to stop.", rich_help_panel="Search"
        ),
    ] = 2,
    without: Without = None,
    overrides: Overrides = None,
    seed: Seed = None,
    prompts: PromptsDir = None,
    model: Model = None,
    answer_model: AnswerModel = None,
    optimiser: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Another model that finds flaws and writes methods.",
            rich_help_panel="Models",
        ),
    ] = None,
    style: Style = None,
    *,
    where: Where,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for a method of evolution under which less fails.

    The best one found is an operator: `selfinstruct evolve INPUT --prompts DIR/prompts --operators auto`.
    """
    from selfinstruct.cli.generate import recipe_of
    from selfinstruct.descent import Search
    from selfinstruct.optimise import Optimisation

    values = {"seed": seed, "model": model, "answer_model": answer_model, "style": style}
    search = Search(
        recipe=where.named(recipe_of("evolve/wizardlm", overrides, values, without), optimiser or ""),
        optimiser=optimiser or "",
        dev=dev,
        batch=batch,
        candidates=candidates,
        steps=steps,
        early_stop=early_stop,
    )
    found = Optimisation(out, search, source, prompts=prompts, options=where.options, fresh=fresh)
    if dry_run:
        _print_plan(found, prompts, as_json=json)
        return
    _drive(found, source, as_json=json, quiet=quiet)


def _drive(found: Any, source: Path, *, as_json: bool, quiet: bool) -> None:
    """Go on to the end with a line a step on stderr and the summary on stdout."""
    from selfinstruct.cli.panel import PLAIN_EVERY, Plain, Silent, figures
    from selfinstruct.cli.terminal import STOPPING, say, signals

    class Steps(Plain):
        def show(self, progress: Progress) -> None:
            if progress.note:
                say(progress.note, err=True)
            elif time.monotonic() - self._told < PLAIN_EVERY:
                return
            else:
                say(" · ".join([f"step {progress.kept} of {progress.target} taken", *figures(progress)[1:]]), err=True)
            self._told = time.monotonic()

    if found.search.recipe.model == "local" and not quiet:
        say("note: `local` is a 135M demo model; it can neither follow a method nor improve one", err=True)
    view: Any = Silent() if quiet else Steps()
    caught: list[int] = []
    last: Progress | None = None
    with signals(caught, found.drain, found.leave, STOPPING), view:
        for progress in found:
            if progress.state == "starting":
                view.say(progress.note)
                continue
            last = progress
            if progress.state == "running":
                view.show(progress)
    assert last is not None
    _summary(found, source, last, as_json=as_json)
    if last.state == "interrupted":
        raise typer.Exit(128 + (caught[0] if caught else signal.SIGINT))


def _summary(found: Optimisation, source: Path, last: Progress, *, as_json: bool) -> None:
    from selfinstruct.cli.terminal import data, say

    report = found.report()
    if as_json:
        told = {key: report.get(key) for key in ("initial", "best", "stopped", "steps", "replies")}
        data({"folder": str(found.folder), "state": last.state, **told})
        return
    if last.note:
        say(last.note)
    if not report:
        say("no method has been tried on all of the dev set yet; the same command again goes on")
        return
    best = report["best"]
    say(f"{'step':>6}{'lowest λ':>11}{'best so far':>14}")
    for step in report["steps"]:
        rates = [rate for rate in step["rates"] if rate is not None]
        lowest = f"{min(rates):.3f}" if rates else "-"
        say(f"{step['step']:>6}{lowest:>11}{step['best']:>14.3f}")
    say()
    origin = f"candidate {best['candidate']} of step {best['step']}" if best["step"] else "the initial method"
    say(f"λ {report['initial']:.3f} → {best['rate']:.3f} on {len(report['dev'])} instructions: {origin}")
    for by, count in sorted(best["failures"].items(), key=lambda one: (-one[1], one[0])):
        say(f"{count:>6,}  {by}", indent=2)
    if best["added"]:
        least, middle, most = best["added"]
        say(f"words added: {middle:g} ({least} to {most})")
    say(f"{sum(report['replies'].values()):,} replies; {report['stopped'] or last.state}")
    folder = shlex.quote(str(found.folder))
    program = "selfinstruct" if shutil.which("selfinstruct") else shlex.quote(sys.argv[0])
    say()
    say("next:")
    if last.state == "interrupted":
        say("the same command again goes on", indent=2)
    say(f"cat {folder}/prompts/evolve/auto.md", indent=2)
    say(f"{program} evolve {shlex.quote(str(source))} --prompts {folder}/prompts --operators auto", indent=2)


def _print_plan(found: Optimisation, prompts: Path | None, *, as_json: bool) -> None:
    """What a search would ask, at the most. No engine is opened, nothing is written."""
    from selfinstruct.cli.plan import BYTES_PER_TOKEN, Stage
    from selfinstruct.cli.terminal import data, say
    from selfinstruct.descent import Questions, initial_method, requests
    from selfinstruct.prompts import Prompts

    rows = sorted(found.check(), key=len)
    search, library = _styled(found.search), Prompts(prompts)
    usual = Questions(search, library).examples(initial_method(library), rows[len(rows) // 2], search.batch)
    stages = []
    for stage, count in requests(search).items():
        size = count * len(usual[stage].text().encode()) // BYTES_PER_TOKEN
        stages.append(Stage(stage, count, size, count * usual[stage].sampling.max_tokens))
    total = sum(one.requests for one in stages)
    if as_json:
        settings = search.model_dump(mode="json", exclude={"recipe"})
        data({"search": settings, "stages": [one._asdict() for one in stages], "requests_at_most": total})
        return
    say(f"{'stage':<22}{'requests at most':>18}{'prompt tokens':>16}{'completion tokens at most':>28}")
    for one in stages:
        say(f"{one.name:<22}{one.requests:>18,}{one.prompt_tokens:>16,}{one.completion_tokens:>28,}")
    prompt, completion = sum(one.prompt_tokens for one in stages), sum(one.completion_tokens for one in stages)
    say(f"{'sum':<22}{total:>18,}{prompt:>16,}{completion:>28,}")
    say(
        f"each prompt with an instruction of median length, {BYTES_PER_TOKEN} bytes a token; fewer where the search "
        "stops early or an evolution fails; nothing was asked"
    )


def _styled(search: Search) -> Search:
    """The search as an engine would settle it, for what no engine was asked about."""
    from selfinstruct.cli.plan import usual_style

    recipe = search.recipe
    style = usual_style(recipe.model) if recipe.style == "auto" else recipe.style
    answers = usual_style(recipe.answer_model) if recipe.answer_model else style
    asks = usual_style(search.optimiser) if search.optimiser else style
    if recipe.answer_style != "auto":
        answers = recipe.answer_style
    recipe = recipe.model_copy(update={"style": style, "answer_style": answers})
    return search.model_copy(update={"recipe": recipe, "optimiser_style": asks})
