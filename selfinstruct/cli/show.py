"""`selfinstruct show`: the records of a run, or what was rejected and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selfinstruct.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(show)


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    rejected: Annotated[bool, typer.Option("--rejected", metavar="", help="What was not kept, and why.")] = False,
    by: Annotated[str | None, typer.Option(metavar="RULE", help="Only what this rule rejected.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=0, help="At most so many; 0 for all.")] = 20,
    json: Annotated[bool, typer.Option("--json", metavar="", help="One JSON object a line.")] = False,
) -> None:
    """Show a run's records, as they stand; the run may be under way."""
    from itertools import islice

    from selfinstruct.cli.terminal import data, say, unread
    from selfinstruct.shards import read_kept, read_rejected

    is_run(run)
    of_rejects = rejected or by is not None
    found: Any = (
        (line for line in read_rejected(run) if by is None or line["by"] == by) if of_rejects else read_kept(run)
    )
    shown = 0
    for one in islice(found, limit or None):
        shown += 1
        if json:
            data(one if of_rejects else {**one[0].model_dump(), **one[1]})
        elif of_rejects:
            _reject(one)
        else:
            record, origin = one
            say(f"{origin['id']}  {origin['place']}", style="cyan")
            body(record.instruction, record.input, record.output)
        if unread():
            return
    if not shown:
        what = f"was rejected by {by!r}" if by else "was rejected" if rejected else "has been kept"
        say(f"nothing {what} so far", err=True)
    elif next(found, None) is not None:
        say(f"the first {shown}; -n 0 shows all", err=True)


def _reject(line: dict[str, Any]) -> None:
    from selfinstruct.cli.terminal import say

    # A near-duplicate's reason names its neighbour already.
    beside = line["neighbour"] and line["neighbour"] not in line["why"]
    near = f" (beside {line['neighbour']})" if beside else ""
    say(f"{line['name']}  {line['by']}: {line['why']}{near}", style="yellow")
    body(line["instruction"], line["input"], line["output"] or line["text"])


def body(instruction: str, given: str, output: str) -> None:
    """A record's text, indented."""
    from selfinstruct.cli.terminal import say

    for label, text in (("", instruction), ("input: ", given), ("output: ", output)):
        if text:
            say(label + text, indent=4)
    say()


def is_run(folder: Path) -> None:
    """Raises UsageError where the folder is no run."""
    if not (folder / "lineage.jsonl").is_file():
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
