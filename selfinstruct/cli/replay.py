"""`selfinstruct replay`: judge the stored replies again under other rules, without asking a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfinstruct.cli.generate import Decontaminate, Without


def register(app: typer.Typer) -> None:
    app.command()(replay)


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the result.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A threshold or filter. Repeatable.")
    ] = None,
    without: Without = None,
    decontaminate: Decontaminate = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="The figures as one JSON object.")] = False,
) -> None:
    """Re-judge a run's replies under other thresholds or filters. With no change it gives the same bytes."""
    from selfinstruct import state
    from selfinstruct.cli.panel import overlaps, overlaps_of, rejections
    from selfinstruct.cli.show import has_journal
    from selfinstruct.cli.terminal import data, say
    from selfinstruct.replaying import replay as again

    has_journal(run)
    figures = again(run, overrides or (), out, without=without or (), decontaminate=decontaminate or ()).figures()
    if json:
        data({"folder": str(out), **figures})
        return
    told = state.read(out)
    count = (
        f"{figures['kept']} of {told['target']} wanted" if told["state"] == "ended" else f"{figures['kept']} records"
    )
    rejected = sum(figures["rejected"].values())
    say(f"{count} in {out}/data, {rejected} rejected; no model was asked")
    rejections(figures)
    overlaps(overlaps_of(out))
