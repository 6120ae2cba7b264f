"""`selfinstruct report`: what the data of runs looks like in figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from selfinstruct.cli.show import is_run, price_of


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="USD per million tokens, read and written: 0.25,2.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="Every figure, as one JSON object.")] = False,
) -> None:
    """Acceptance, novelty, diversity, lengths, flaws and costs of runs, as they stand; they may be under way."""
    from selfinstruct.cli.terminal import data, say
    from selfinstruct.report.figures import report

    for run in runs:
        is_run(run)
    found = report(runs, price=price_of(price) if price is not None else None)
    if json:
        data(found)
        return
    for name, figures in found["runs"].items():
        say(f"{name}: {figures['run']['recipe']}, {figures['run']['state']}")
        for line in _lines(figures):
            say(line, indent=2)


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    """The main figures, a line each; what there is nothing of is left out."""
    funnel, costs, curves = figures["funnel"], figures["costs"], figures["curves"]
    yield (
        f"{funnel['kept']:,} kept · {funnel['rejected']:,} rejected · {funnel['drafts']:,} drafts, "
        f"{funnel['let_in']:,} let in · {costs['requests']:,} requests"
    )
    if costs["counted"]:
        whole = costs["all"]
        told = f"{whole['tokens']['prompt']:,} tokens read, {whole['tokens']['completion']:,} written"
        told += f"; {whole['seconds']['busy']:,.0f} s under way"
        if whole.get("usd"):
            told += f"; {whole['usd']['all']:,.2f} USD, {whole['usd']['per_kept'] or 0:,.5f} a kept record"
        yield told
    for at in ("draft", "answer"):
        lost = [stage for stage in funnel["stages"] if stage["at"] == at and stage["rejected"]]
        if lost:
            yield f"rejected {at}s: " + ", ".join(f"{one['rule']} {one['rejected']:,}" for one in lost)
    if (ahead := curves["projection"])["reached"] is False:
        wanted = f"{ahead['requests']:,} requests in all" if ahead["requests"] else "no number of requests"
        doubts = f" (not to be trusted: {'; '.join(ahead['doubts'])})" if ahead["doubts"] else ""
        yield f"to the target of {curves['target']:,}: {wanted}{doubts}"
    if not funnel["kept"]:
        return
    near = figures["similarity"]
    for what, of in (("the nearest seed", near["seeds"]), ("the nearest other task", near["others"])):
        if of["mean"] is not None:
            shares = ", ".join(f"above {most} {of[f'above_{most}']:.1%}" for most in (0.5, 0.7))
            yield f"ROUGE-L with {what}: mean {of['mean']:.3f}, {shares}"
    if near["seeds"]["missing"]:
        yield f"ROUGE-L with the nearest seed: {near['seeds']['missing']}"
    yield "words, mean (published): " + ", ".join(
        f"{field} {one['mean']:.1f} ({one['published']})" for field, one in figures["lengths"].items() if one["n"]
    )
    verbs, words = figures["verbs"], figures["diversity"]["instruction"]
    yield (
        f"verb and object: {verbs['coverage_without_questions']:.1%} of instructions "
        f"({verbs['reference']['coverage']:.1%}), {verbs['pairs']:,} pairs, {verbs['effective_pairs']:,.0f} effective"
    )
    if words["distinct_1"] is not None:
        ratios = ", ".join(f"{words[f'distinct_{n}']:.3f}" for n in (1, 2, 3) if words[f"distinct_{n}"] is not None)
        reach = f", MTLD {words['mtld']:.1f}" if words["mtld"] is not None else ""
        yield f"distinct 1-, 2-, 3-grams of instructions: {ratios}{reach}"
    kinds = figures["types"]
    yield (
        f"tasks: {kinds['tasks']:,}, {kinds['classification']:,} of classification; "
        f"records with an input: {kinds['with_input'] / kinds['records']:.1%}"
    )
    yield "slipped through: " + ", ".join(
        f"{trait} {one['kept']['value']:.2%}" for trait, one in figures["traits"].items()
    )
    clusters = figures["clusters"]
    yield f"near-duplicates: {clusters['near']:,} records near another, in {clusters['clusters']:,} clusters"
