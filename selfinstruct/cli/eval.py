"""`selfinstruct eval`: scores of models beside their base's, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfinstruct.cli.models import Where, placed
from selfinstruct.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct.evaluate.closed import Rates
    from selfinstruct.evaluate.evaluation import Judged, Table
    from selfinstruct.evaluate.figures import Figure
    from selfinstruct.evaluate.harness import Own

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
        list[str] | None,
        typer.Option(metavar="NAME", help="`ifeval` (the default), `labels`, `held-out`, `lm-eval:TASK`. Repeatable."),
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
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for replies and scores. Default: evals/MODEL-SUITES….")
    ] = None,
    judge: Annotated[
        str, typer.Option(metavar="MODEL", help="Who says which answer is better, the model's or the base's.")
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Items of each suite, drawn by a hash; of lm-eval's tasks the first.", min=1),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of an answer to a suite of ours; each has a number of its own.", min=1),
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", metavar="", help="To lm-eval's tasks, where a model has one.")
    ] = False,
    *,
    where: Where,
    json: Annotated[bool, typer.Option("--json", metavar="", help="Every figure as one JSON object.")] = False,
) -> None:
    """Score models beside their base, with what chance leaves open. The same command resumes."""
    from selfinstruct.cli.terminal import Line, say
    from selfinstruct.cli.terminal import data as as_data
    from selfinstruct.evaluate.evaluation import Evaluation, as_json
    from selfinstruct.evaluate.harness import PREFIX, check_models, open_benchmarks
    from selfinstruct.evaluate.suites import open_suite

    named = [where.name(model) for model in models]
    base = where.name(base) if base else base_of(named)
    where.check(base, *named, judge)
    if data is not None:
        warn_of_trained(named, data)
    names = list(dict.fromkeys(suite or ("ifeval",)))
    suites = [open_suite(name, data, ifeval, limit) for name in names if not name.startswith(PREFIX)]
    line, tasks = Line(BETWEEN), [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    if tasks:
        check_models([base, *named])
        line.tell("reading lm-eval's tasks and their data")
    elif apply_chat_template:
        raise UsageError(
            "--apply-chat-template is for lm-eval's tasks", hint="leave it out; ours are asked by it anyway"
        )
    benchmarks = open_benchmarks(tasks, limit, chat=apply_chat_template) if tasks else []
    others = ([data.stem] if data else []) + ([str(limit)] if limit else [])  # other items, another folder
    folder = out or Path("evals") / "-".join(
        (Path(named[-1]).name, *(Path(name).stem.replace(":", "-") for name in names), *others)
    )
    evaluation = Evaluation(
        folder,
        [base, *named],
        suites,
        options=where.options,
        benchmarks=benchmarks,
        judge=judge,
        max_tokens=max_tokens,
    )
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
    path = Path(models[0].partition("/")[2].partition("?")[0])
    gone = f": there is no folder {path}" if len(path.parts) > 1 and not path.exists() else ""
    raise UsageError(
        f"no base to stand beside{gone}", hint="--base MODEL names it; the row of a model alone says little"
    )


def made_by_sft(folder: Path) -> dict[str, Any]:
    """What `sft` says of a model that it made; empty for any other."""
    import json

    try:
        told = json.loads((folder / "sft.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and told.get("state") == "complete" else {}


def warn_of_trained(models: list[str], data: Path) -> None:
    """Say so where a model was trained on rows that it is scored on."""
    import hashlib

    from selfinstruct.cli.terminal import say
    from selfinstruct.formats import dataset_files, read_dataset

    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    rows = {row.id for row in read_dataset(data)}
    for model in models:
        folder = Path(model.partition("/")[2].partition("?")[0])
        files: dict[str, str] = made_by_sft(folder).get("data", {})
        there = [Path(path) for path, sha in files.items() if Path(path).is_file() and sha256(Path(path)) == sha]
        trained = {row.id for path in there for row in read_dataset(path)}
        held_out = folder / "held-out.json"
        kept = {row.id for row in read_dataset(held_out)} if held_out.is_file() else set()
        both = rows & (trained - kept)
        if both:
            told = f"{len(both)} of the {len(rows)} rows of {data} are among the training data of {model}"
            say(f"warning: {told}; rows that it has not seen are in its held-out.json", err=True)
        elif set(files.values()) & set(map(sha256, dataset_files(data))):
            say(f"warning: {model} was trained on {data}", err=True)
        elif len(there) < len(files):
            say(f"warning: the data of {model} are gone: nobody can tell if rows of {data} are in them", err=True)


def drawn(table: Table) -> list[str]:
    """The table in lines: a row a model and metric, and below them what shows in the answers."""
    asked = f", {table.about['shots']} examples" if table.about.get("shots") else ""
    lines = [f"{table.suite}, {table.items} items{asked} (95 % intervals by bootstrap over items, unless said)"]
    width = max(len(row.model) for row in table.rows)
    less = table.about.get("less_is_better", [])
    named = {
        metric: metric + (", less is better" if metric.partition(" ")[0] in less else "")
        for row in table.rows
        for metric in (*row.figures, *row.own)
    }
    wide = max(map(len, [*named.values(), "answers", "win rate"]))
    for metric in table.rows[0].figures:
        amount = metric in table.amounts
        for row in table.rows:
            beside = row.beside_base.get(metric)
            found = f"  {named[metric]:<{wide}}  {row.model:<{width}}  {_figure(row.figures[metric], amount):<24}"
            lines.append((found + (f"  beside base {_figure(beside, amount, sign=True)}" if beside else "")).rstrip())
    lines += [
        f"  {named[metric]:<{wide}}  {row.model:<{width}}  {_as_it_is(row.own[metric])}"
        for metric in dict.fromkeys(metric for row in table.rows for metric in row.own)
        for row in table.rows
        if metric in row.own
    ]
    judged = [(row.model, row.judged) for row in table.rows if row.judged is not None]
    lines += [f"  {'win rate':<{wide}}  {model:<{width}}  {_won(said)}" for model, said in judged]
    lines += [f"  {'answers':<{wide}}  {row.model:<{width}}  {_shown(row.rates)}" for row in table.rows if row.rates]
    return lines + _by_type([(row.model, row.parts["types"]) for row in table.rows if "types" in row.parts])


def _by_type(rows: list[tuple[str, dict[str, dict[str, int]]]]) -> list[str]:
    """How many instructions of each type were followed, a letter a model: two long names leave no room for figures."""
    if not rows:
        return []
    letters = [chr(ord("A") + at) for at in range(len(rows))]
    lines = ["  instructions followed by type, strictly:"]
    lines += [f"    {letter} {model}" for letter, (model, _) in zip(letters, rows, strict=True)]
    types = list(dict.fromkeys(name for _, tallies in rows for name in tallies))
    wide = max(map(len, types))
    lines.append(f"  {'':<{wide}}" + "".join(f"{letter:>9}" for letter in letters))
    for name in types:
        told = (f"{of[name]['strict']}/{of[name]['of']}" if name in of else "" for _, of in rows)
        lines.append((f"  {name:<{wide}}" + "".join(f"{one:>9}" for one in told)).rstrip())
    return lines


def _shown(rates: Rates) -> str:
    """What shows in a model's answers."""
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
    return ", ".join(shares)


def _as_it_is(own: Own) -> str:
    if own.value is None:
        return "nothing to score"
    error = "" if own.error is None else f" ± {own.error:.2g}"
    return f"{own.value:.4g}{error} (lm-eval's own: no mean over items)"


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


def _figure(figure: Figure, amount: bool, *, sign: bool = False) -> str:
    """``amount``: it is no share, and so not in per cent."""
    if figure.interval is None:
        return "nothing to score"
    form, times, unit = (
        ("+" if sign else "") + (".4g" if amount else ".1f"),
        1 if amount else 100,
        "" if amount else " %",
    )
    value, low, high = (f"{times * end:{form}}" for end in figure.interval)
    if figure.method == "none":
        told = f"{value}{unit}, " + ("no item differs" if sign and not figure.interval.value else "all items alike")
    else:
        by = {"wilson": ", Wilson", "tango": ", Tango"}.get(figure.method, "")
        told = f"{value}{unit} ({low} to {high}{by})"
    return told + (f", {figure.missing} unknown" if figure.missing else "")
