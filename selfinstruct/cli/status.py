"""`selfinstruct status`: how far runs are, read from their folders; never needs the writer's lock."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selfinstruct.cli.show import is_run
from selfinstruct.errors import SelfInstructError, UsageError


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    json: Annotated[bool, typer.Option("--json", metavar="", help="One JSON object a line.")] = False,
) -> None:
    """Kept, rate, time left, last error and owner of each run."""
    from selfinstruct.cli.terminal import data, say

    strange: list[SelfInstructError] = []
    for folder in runs:
        try:
            found = _look(folder)
        except SelfInstructError as error:  # one of many (`status runs/*`): tell of the others first
            strange.append(error)
            continue
        if json:
            data(found)
        else:
            say(_line(found))
    if strange:
        raise strange[0]


def _look(folder: Path) -> dict[str, Any]:
    from selfinstruct import state
    from selfinstruct.lock import at_work, owner

    if not (folder / "journal.sqlite").is_file():
        try:
            is_run(folder)
        except UsageError as error:
            if (inside := _runs_in(folder)) is not None:
                raise UsageError(
                    error.message, hint=f"`selfinstruct status {inside}` tells of the runs in it"
                ) from error
            raise
    known = state.read(folder)
    held = owner(folder)
    figures = known.get("figures", {})
    kept = _lines(folder / "lineage.jsonl")
    target = known.get("target") or 0
    rate = known.get("kept_per_second", 0.0)
    running = known.get("state") == "running"
    lives = held is not None and at_work(held)
    began = "starting" if lives else "not begun"
    evolution = figures.get("evolution")
    left = target - (figures["steps"] if evolution else kept)
    return {
        "run": str(folder),
        # A run that says it is running while nobody holds it was killed.
        "state": "killed" if running and not lives else known.get("state", began),
        "kept": kept,
        "target": target,
        **({"steps": figures["steps"], "evolution": evolution} if evolution else {}),
        "kept_per_second": rate if running else 0.0,
        "eta_seconds": round(left / rate) if running and lives and rate > 0 and left > 0 else None,
        "rejected": figures.get("rejected", {}),
        "uncertain": known.get("uncertain", 0),
        "last_error": known.get("last_error", ""),
        "owner": {key: held[key] for key in ("host", "pid")} if held else None,
    }


def _runs_in(folder: Path) -> str | None:
    """What names the run folders in a folder, or in one of its folders."""
    for depth in ("*", "*/*"):
        for found in ("journal.sqlite", "lineage.jsonl"):
            if first := next(iter(sorted(folder.glob(f"{depth}/{found}"))), None):
                return f"{first.parent.parent}/*" if first.parent.parent != Path() else "*/"
    return None


def _lines(path: Path) -> int:
    """Whole lines, counted without reading what is in them."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _line(found: dict[str, Any]) -> str:
    from selfinstruct.cli.panel import duration, reached

    parts = [f"{found['run']}: {found['state']}"]
    if found["target"]:
        parts.append(reached(found["kept"], found["target"], found))
    if found["eta_seconds"] is not None:
        parts.append(f"{found['kept_per_second']:.2f}/s, ETA {duration(found['eta_seconds'])}")
    if found["owner"] and found["state"] != "killed":
        parts.append(f"process {found['owner']['pid']} on {found['owner']['host']}")
    if found["last_error"]:
        parts.append(f"last error: {found['last_error']}")
    return " · ".join(parts)
