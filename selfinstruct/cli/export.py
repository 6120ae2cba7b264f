"""`selfinstruct export`: a run or dataset in another format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from selfinstruct.records import Record


def register(app: typer.Typer) -> None:
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a dataset in any format that we read.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="A .json or .jsonl file, or a folder.")],
    format: Annotated[
        str,
        typer.Option(metavar="FORMAT", help="alpaca, messages, sharegpt, openai, trl, self-instruct or gpt3."),
    ] = "alpaca",
    json: Annotated[bool, typer.Option("--json", metavar="", help="What was written, as one JSON object.")] = False,
) -> None:
    """Write a run's records in the format that a trainer reads."""
    from selfinstruct.cli.terminal import data, say
    from selfinstruct.formats import read_dataset, write_dataset
    from selfinstruct.shards import read_kept

    # A run's lineage knows more than its rows: which of them are one task.
    is_run = (run / "lineage.jsonl").is_file() and any((run / "data").glob("train-*.jsonl"))
    count = 0

    def counted() -> Iterator[Record]:
        nonlocal count
        for record in (kept for kept, _ in read_kept(run)) if is_run else read_dataset(run):
            count += 1
            yield record

    files = [str(path) for path in write_dataset(counted(), out, format)]
    if json:
        data({"format": format, "records": count, "files": files})
        return
    for file in files:
        say(file)
    say(f"{count} records as {format}", err=True)
