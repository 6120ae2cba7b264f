"""`selfinstruct eval`: scores of models beside their base's, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfinstruct.cli.models import Where, placed
from selfinstruct.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct.evaluate.evaluation import Judged, Table
    from selfinstruct.evaluate.figures import Figure, Interval

BETWEEN = 2.0
"""Seconds between two lines where no terminal can be written over."""


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


@placed
def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="As anywhere: `hf/FOLDER`, `vllm/FOLDER`, `openai/NAME`, …")
    ],
    suite: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="`ifeval` (the default), `labels`, `held-out`. Repeatable.")
    ] = None,
    base: Annotated[
        str, typer.Option(metavar="MODEL", help="Whose row stands beside them; of what `sft` made, its own base.")
    ] = "",
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows with answers that no model here was trained on.")
    ] = None,
    ifeval: Annotated[
        Path | None, typer.Option(metavar="FILE", help="IFEval's public prompts, in the place of ours.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for replies and scores.")] = None,
    judge: Annotated[
        str, typer.Option(metavar="MODEL", help="Who says which answer is better, the model's or the base's.")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Items of each suite, drawn by a hash of their text.", min=1)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Of an answer; each suite has a number of its own.", min=1)
    ] = None,
    *,
    where: Where,
    json: Annotated[bool, typer.Option("--json", metavar="", help="Every figure as one JSON object.")] = False,
) -> None:
    """Score models beside their base, with what chance leaves open. The same command resumes."""
    from selfinstruct.cli.terminal import Line, say
    from selfinstruct.cli.terminal import data as as_data
    from selfinstruct.evaluate.evaluation import Evaluation, as_json
    from selfinstruct.evaluate.suites import open_suite

    named = [where.name(model) for model in models]
    base = where.name(base) if base else base_of(named)
    where.check(base, *named, judge)
    if data is not None:
        warn_of_trained(named, data)
    suites = [open_suite(name, data, ifeval, limit) for name in dict.fromkeys(suite or ("ifeval",))]
    folder = out or Path("evals") / "-".join((Path(named[-1]).name, *(one.name for one in suites)))
    evaluation = Evaluation(folder, [base, *named], suites, options=where.options, judge=judge, max_tokens=max_tokens)
    line = Line(BETWEEN)
    tables = evaluation.run(lambda model, done, of: line.tell(f"{model}: {done:,} of {of:,} answered", last=done == of))
    if json:
        as_data(as_json(tables))
        return
    for table in tables:
        for drawn_line in drawn(table):
            say(drawn_line)
        say()
    say(f"{folder}: replies, and every figure in scores.json")


def base_of(models: list[str]) -> str:
    """The base of the first model that `sft` made, asked as that model is. Raises UsageError where there is none."""
    for model in models:
        kind, _, rest = model.partition("/")
        folder, _, query = rest.partition("?")
        told = made_by_sft(Path(folder))
        if told:
            others = "&".join(part for part in query.split("&") if part and not part.startswith("lora="))
            return f"{kind}/{told['base']}" + (f"?{others}" if others else "")
    raise UsageError("no base to stand beside", hint="--base MODEL names it; the row of a model alone says little")


def made_by_sft(folder: Path) -> dict[str, Any]:
    """What `sft` says of a model that it made; empty for any other."""
    import json

    try:
        told = json.loads((folder / "sft.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and told.get("state") == "complete" else {}


def warn_of_trained(models: list[str], data: Path) -> None:
    """Say so where a model was trained on the very file that it is scored on."""
    import hashlib

    from selfinstruct.cli.terminal import say
    from selfinstruct.formats import dataset_files

    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in dataset_files(data)}
    for model in models:
        told = made_by_sft(Path(model.partition("/")[2].partition("?")[0]))
        if digests & set(told.get("data", {}).values()):
            say(f"warning: {model} was trained on {data}; its held-out rows are in held-out.json beside it", err=True)


def drawn(table: Table) -> list[str]:
    """The table in lines: a row a model and metric, and below them what shows in the answers."""
    lines = [f"{table.suite}, {table.items} items (95 % intervals by bootstrap over items)"]
    width = max(len(row.model) for row in table.rows)
    metrics = list(table.rows[0].figures)
    wide = max(map(len, metrics))
    for metric in metrics:
        for row in table.rows:
            beside = row.beside_base.get(metric)
            found = f"  {metric:<{wide}}  {row.model:<{width}}  {_percent(row.figures[metric]):<24}"
            lines.append((found + (f"beside base {_percent(beside, sign=True)}" if beside else "")).rstrip())
    judged = [(row.model, row.judged) for row in table.rows if row.judged is not None]
    lines += [f"  {'win rate':<{wide}}  {model:<{width}}  {_won(said)}" for model, said in judged]
    for row in table.rows:
        rates = row.rates
        shares = [
            f"{name} {share.value:.1%}"
            for name, share in (
                ("empty", rates.empty),
                ("cut off", rates.cut),
                ("refusals", rates.refusal),
                ("repetition", rates.repetition),
            )
            if share is not None
        ]
        words = rates.words.interval
        shares += [f"{words.value:.0f} words"] if words else []
        shares += [f"{rates.missing} without an answer"] if rates.missing else []
        lines.append(f"  {'answers':<{wide}}  {row.model:<{width}}  {', '.join(shares)}")
    return lines


def _won(judged: Judged) -> str:
    from selfinstruct.evaluate.winrate import LABEL

    won, control = judged.win_rate, judged.length_controlled
    if won.value is None:
        return f"no verdict could be read ({won.unread})"
    told = f"{won.value:.1f} %" + (f" ± {won.error:.1f}" if won.error is not None else "")
    told += f": {won.wins} won, {won.ties} drawn, {won.losses} lost" + (f", {won.unread} unread" if won.unread else "")
    if judged.consistency is not None:
        told += f"; the same in both orders {judged.consistency.value:.0%}"
    if control is not None:
        told += f"; {LABEL} {control.value:.1f} %" + (", far from it: look at the lengths" if control.doubtful else "")
    return told


def _percent(figure: Figure, *, sign: bool = False) -> str:
    if figure.interval is None:
        return "nothing to score"
    form = "+.1f" if sign else ".1f"
    one: Interval = figure.interval
    told = f"{100 * one.value:{form}} % ({100 * one.low:{form}} to {100 * one.high:{form}})"
    return told + (f", {figure.missing} unknown" if figure.missing else "")
