"""`selfinstruct verify`: a run's books, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfinstruct.errors import InputError


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    json: Annotated[bool, typer.Option("--json", metavar="", help="The findings as one JSON list.")] = False,
) -> None:
    """Check that all replies and drafts are accounted for and the files are what the journal gives. Exit 3 if not."""
    from selfinstruct.cli.show import has_journal
    from selfinstruct.cli.terminal import data, say
    from selfinstruct.replaying import verify as check

    has_journal(run)
    findings = check(run)
    if json:
        data([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            say(
                f"{'ok   ' if finding.right else 'WRONG'} {finding.what}: {finding.figures}",
                style="" if finding.right else "bold red",
            )
    wrong = [finding.what for finding in findings if not finding.right]
    if wrong:
        raise InputError(
            f"{run}: {len(wrong)} of {len(findings)} checks failed, first {wrong[0]!r}",
            hint="delete the wrong file and give the run's command again: it is rebuilt from the journal",
        )
