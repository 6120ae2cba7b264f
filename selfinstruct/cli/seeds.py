"""`selfinstruct seeds`: check a seed file, beside the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfinstruct.errors import InputError

seeds = typer.Typer(help="Check seed files.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(seeds, name="seeds")


@seeds.callback()
def _group() -> None:
    pass


@seeds.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A seed file.")],
    json: Annotated[bool, typer.Option("--json", metavar="", help="Profile, problems and drift as JSON.")] = False,
) -> None:
    """Validate a seed file and print its profile beside the released Self-Instruct seeds'. Exit 3 on a problem."""
    from selfinstruct.cli.terminal import data, say
    from selfinstruct.filters import Rules
    from selfinstruct.formats import read_seeds
    from selfinstruct.recipe import load
    from selfinstruct.seeds import REFERENCE, drift, problems, profile, table

    records = read_seeds(file)
    recipe = load("self-instruct")
    rules = tuple(name for name in recipe.filters.draft if name not in ("duplicate", "novelty", "opening"))
    found = problems(records, Rules(rules, recipe, "draft").objection)
    this = profile(records)
    away = drift(this, REFERENCE)
    if json:
        content = {
            "profile": this.model_dump(),
            "problems": [one.model_dump() for one in found],
            "drift": away,
        }
        data(content)
    else:
        _print_table([("", "this", "reference"), *table(this, REFERENCE)])
        say()
        for line in away:
            say(f"away from the reference: {line}")
        for one in found:
            say(f"{one.task}: {one.by}: {one.why}", style="yellow")
    if found:
        raise InputError(
            f"{file}: {len(found)} problems", hint="a flaw in a seed is copied into what is written from it"
        )
    if not json:
        say("no problems")


WIDE = 16
"""Characters of the widest value that gets a column: three columns fit into eighty."""


def _print_table(rows: list[tuple[str, str, str]]) -> None:
    """Three columns; a value that is too wide for its column stands below its label."""
    from selfinstruct.cli.terminal import say

    slim = [row for row in rows if max(map(len, row[1:])) <= WIDE]
    label, ours = max(len(row[0]) for row in slim), max(len(row[1]) for row in slim)
    for row in rows:
        if row in slim:
            say(f"{row[0]:<{label}}  {row[1]:<{ours}}  {row[2]}")
        else:
            say(row[0])
            say(f"{'this':<9}  {row[1]}", indent=4)
            say(f"reference  {row[2]}", indent=4)
