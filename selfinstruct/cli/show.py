"""`selfinstruct show`: the records of a run, what was rejected and why, and what an evolution made of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from selfinstruct.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct.survival import Price

RECORDS = 20
"""Records that are shown where nothing else is said, and …"""
TEXT_LINES = 2
"""… lines of each text in a tree."""


def register(app: typer.Typer) -> None:
    app.command()(show)


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    rejected: Annotated[bool, typer.Option("--rejected", metavar="", help="What was not kept, and why.")] = False,
    by: Annotated[str | None, typer.Option(metavar="RULE", help="Only what this rule rejected.")] = None,
    operator: Annotated[str | None, typer.Option(metavar="NAME", help="Only what this operator evolved.")] = None,
    number: Annotated[
        int | None, typer.Option("--round", metavar="N", min=0, help="Only this round of evolution; 0: the rows.")
    ] = None,
    survival: Annotated[
        bool, typer.Option("--survival", metavar="", help="What survived, by operator, round and rule.")
    ] = False,
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="USD per million tokens, for --survival: 0.25,2.")
    ] = None,
    tree: Annotated[str | None, typer.Option(metavar="ID", help="All that became of this record's row.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", metavar="N", min=0,
            help="At most so many (20), or of --tree lines of a text (2); 0 for all.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="One JSON object a line.")] = False,
) -> None:  # fmt: skip
    """Show a run's records, as they stand; the run may be under way."""
    is_run(run)
    wholes = [flag for flag, on in {"--survival": survival, "--tree": tree is not None}.items() if on]
    parts = {"--rejected": rejected, "--by": by, "--operator": operator, "--round": number is not None}
    if (wholes and any(parts.values())) or len(wholes) > 1:
        others = [*wholes[1:], *(flag for flag, on in parts.items() if on)]
        raise UsageError(f"{wholes[0]} goes without {others[0]}", hint="ask for one after the other")
    if price is not None and not survival:
        raise UsageError("--price goes with --survival", hint=f"`selfinstruct show {run} --survival --price {price}`")
    if survival:
        _survival(run, price_of(price) if price is not None else None, json)
    elif tree is not None:
        _tree(run, tree, TEXT_LINES if limit is None else limit, json)
    else:
        chosen = _Chosen(by, operator, number)
        _records(run, rejected or by is not None, chosen, RECORDS if limit is None else limit, json)


def _survival(run: Path, price: Price | None, json: bool) -> None:
    from selfinstruct.cli.evolution import print_survival
    from selfinstruct.cli.terminal import data
    from selfinstruct.survival import survival

    found = survival(run)
    if json:
        data(found.figures(price))
    else:
        print_survival(found, price)


def _tree(run: Path, name: str, limit: int, json: bool) -> None:
    from selfinstruct.cli.evolution import print_tree
    from selfinstruct.cli.terminal import data
    from selfinstruct.lineage import tree

    found = tree(run, name)
    if found is None:
        raise nameless(run, name)
    if json:
        data(found.figures())
    else:
        print_tree(found, limit)


class _Chosen(NamedTuple):
    """Which lines are wanted."""

    by: str | None
    operator: str | None
    round: int | None

    def wants(self, line: Mapping[str, Any]) -> bool:
        known = line.get("evolution", {})
        return (
            self.by in (None, line.get("by"))
            and self.operator in (None, known.get("operator"))
            and self.round in (None, known.get("round"))
        )

    def __str__(self) -> str:
        words = [f"by {self.by!r}"] if self.by is not None else []
        words += [f"of operator {self.operator!r}"] if self.operator is not None else []
        words += [f"in round {self.round}"] if self.round is not None else []
        return " ".join(words)


def _records(run: Path, of_rejects: bool, chosen: _Chosen, limit: int, json: bool) -> None:
    from itertools import islice

    from selfinstruct.cli.terminal import data, say, unread
    from selfinstruct.shards import read_kept, read_rejected

    if chosen.operator is not None or chosen.round is not None:
        from selfinstruct.lineage import check_evolves

        check_evolves(run)
    found: Any = (
        (line for line in read_rejected(run) if chosen.wants(line))
        if of_rejects
        else (one for one in read_kept(run) if chosen.wants(one[1]))
    )
    shown = 0
    for one in islice(found, limit or None):
        shown += 1
        if json:
            data(one if of_rejects else {**one[0].model_dump(exclude={"evolution"}), **one[1]})
        elif of_rejects:
            _reject(one)
        else:
            record, origin = one
            say("  ".join(filter(None, (origin["id"], origin["place"], when(origin)))), style="cyan")
            body(record.instruction, record.input, record.output)
        if unread():
            return
    if not shown:
        _refuse_unknown(run, chosen)
        what = "was rejected" if of_rejects else "has been kept"
        say(" ".join(filter(None, ("nothing", what, str(chosen), "so far"))), err=True)
    elif next(found, None) is not None:
        say(f"the first {shown}; -n 0 shows all", err=True)


def _reject(line: dict[str, Any]) -> None:
    from selfinstruct.cli.terminal import say

    # A near-duplicate's reason names its neighbour already.
    beside = line["neighbour"] and line["neighbour"] not in line["why"]
    near = f" (beside {line['neighbour']})" if beside else ""
    said = f"{line['by']}: {line['why']}{near}"
    say("  ".join(filter(None, (line["name"], when(line), said))), style="yellow")
    body(line["instruction"], line["input"], line["output"] or line["text"])


def when(line: Mapping[str, Any]) -> str:
    """Where in an evolution a line stands, ``deepen, round 2``; nothing where the run does not evolve."""
    known = line.get("evolution")
    return ", ".join(filter(None, (known["operator"], f"round {known['round']}"))) if known else ""


def _refuse_unknown(run: Path, chosen: _Chosen) -> None:
    """Raises UsageError where neither the recipe nor any line names the rule, or the operator, that was asked for."""
    from selfinstruct.lineage import origins
    from selfinstruct.operators.evolve import operators as operators_of
    from selfinstruct.recipe import parse

    path = run / "recipe.toml"
    recipe = parse(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None
    rules: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for line in origins(run):
        rules.update([line["by"]] if "by" in line else [])
        operators.update(filter(None, [line.get("evolution", {}).get("operator")]))
    asked = (*recipe.filters.draft, *recipe.filters.answer) if recipe else ()
    drawn = operators_of(recipe.evolve) if recipe else ()
    for what, name, counts, known in (
        ("rule", chosen.by, rules, asked), ("operator", chosen.operator, operators, drawn)
    ):  # fmt: skip
        if name is not None and name not in counts and name not in known:
            there = ", ".join(f"{one} ({count:,})" for one, count in counts.most_common())
            raise UsageError(f"{run} has no {what} {name!r}", hint=f"it has {there or 'none that did anything yet'}")


def body(instruction: str, given: str, output: str) -> None:
    """A record's text, indented."""
    from selfinstruct.cli.terminal import say

    for label, text in (("", instruction), ("input: ", given), ("output: ", output)):
        if text:
            say(label + text, indent=4)
    say()


def price_of(text: str) -> Price:
    """What ``--price`` says. Raises UsageError where that is not two prices."""
    from math import inf

    from selfinstruct.survival import Price

    try:
        price = Price(*map(float, text.split(",")))
        if all(0 <= one < inf for one in price):
            return price
    except (TypeError, ValueError):
        pass
    raise UsageError(f"--price {text!r} is not two prices", hint="USD per million tokens, read and written: 0.25,2")


def nameless(run: Path, name: str) -> UsageError:
    return UsageError(
        f"{run} has nothing named {name!r}",
        hint=f"`selfinstruct show {run}`, or with --rejected, prints every name",
    )


def is_run(folder: Path) -> None:
    """Raises UsageError where the folder is no run."""
    if not (folder / "lineage.jsonl").is_file():
        if (folder / "dedup.json").is_file():
            raise UsageError(
                f"{folder} is a result of dedup, not a run folder",
                hint=f"its rows lie in {folder / 'data'}, what went and why in {folder / 'dropped.jsonl'}",
            )
        begun = (folder / "journal.sqlite").is_file()
        raise UsageError(
            f"{folder}: nothing has been read in this run yet" if begun else f"{folder} is not a run folder",
            hint="`selfinstruct status` shows how far it is" if begun else "`selfinstruct generate --out` makes one",
        )


def has_journal(folder: Path) -> None:
    """Raises UsageError where the folder is no run, or one that was made by a replay and has no replies of its own."""
    if not (folder / "journal.sqlite").is_file():
        is_run(folder)
        raise UsageError(
            f"{folder} has no journal: it was made by a replay, or moved without it",
            hint="name the run that was replayed; run.json says which one it was",
        )
