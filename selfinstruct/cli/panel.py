"""What a run looks like on a terminal: one live panel, plain lines where there is no terminal, and the summary."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from selfinstruct.cli.terminal import Notes, clean, console, data, say

if TYPE_CHECKING:
    from selfinstruct.records import Record
    from selfinstruct.run import Run
    from selfinstruct.state import Progress

PLAIN_EVERY = 10.0
"""Seconds between two plain lines."""
RULES = 8
"""Rules that the panel names."""


class Silent:
    """Shows nothing; warnings go where they go without a view."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, note: str) -> None:
        pass

    def show(self, progress: Progress) -> None:
        pass


class Plain:
    """A line now and then: for logs, pipes and batch jobs."""

    def __init__(self) -> None:
        self._told = 0.0
        self._notes = Notes()

    def __enter__(self) -> Plain:
        logging.getLogger("selfinstruct").addHandler(self._notes)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("selfinstruct").removeHandler(self._notes)

    def say(self, note: str) -> None:
        say(f"note: {note}", err=True)

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told >= PLAIN_EVERY or progress.state not in ("starting", "running"):  # the last one is told
            self._told = now
            say(" · ".join(figures(progress)), err=True)


class Panelled(Plain):
    """One panel that is drawn anew in place; notes stand above it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._title = Text(clean(str(folder)))
        self._live = Live(
            self._panel(Text("starting")), console=console(err=True), refresh_per_second=5, transient=True
        )

    def __enter__(self) -> Panelled:
        super().__enter__()
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)
        super().__exit__(*error)

    def show(self, progress: Progress) -> None:
        bar = Table.grid(expand=True)  # by itself, a bar ends its line only where it is the last
        bar.add_row(ProgressBar(total=max(progress.target, 1), completed=_done(progress)))
        outcomes = Table.grid(padding=(0, 2))
        for name, count, share, style in _outcomes(progress.figures):
            outcomes.add_row(Text(clean(name), style=style), Text(count, justify="right"), Text(share, justify="right"))
        self._live.update(
            self._panel(Group(bar, Text(_reached(progress)), Text(" · ".join(_pace(progress))), Text(), outcomes))
        )

    def _panel(self, body: Any) -> Panel:
        # Two columns are left for the ^C that a terminal writes behind it, or it would break the line.
        width = max(console(err=True).width - 2, 20)
        return Panel(body, title=self._title, title_align="left", border_style="cyan", width=width)


def _outcomes(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What became of everything that was read so far: kept, or rejected by which rule; with its share and style. The
    rows that an evolution began with do not count: nothing could become of them."""
    evolution, rejected = found.get("evolution", {}), found.get("rejected", {})
    kept = evolution.get("survived", 0) if evolution else found.get("kept", 0)
    read = kept + sum(rejected.values())
    if not read:
        return []
    rules = _ranked(rejected)
    lines = [("evolved" if evolution else "kept", kept, "green")] + [
        (rule, count, "yellow") for rule, count in rules[:RULES]
    ]
    if rest := rules[RULES:]:
        lines.append((f"{len(rest)} other rules", sum(count for _, count in rest), "yellow"))
    return [(name, f"{count:,}", f"{count / read:.0%}", style) for name, count, style in lines]


def _ranked(rejected: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(rejected.items(), key=lambda one: (-one[1], one[0]))


def panel(folder: Path) -> Plain:
    """The live panel on a terminal, plain lines elsewhere; both on stderr."""
    draws = sys.stderr.isatty() and not console(err=True).is_dumb_terminal
    return Panelled(folder) if draws else Plain()


def figures(progress: Progress) -> list[str]:
    """A run's figures, each a few words: how far it is, then how it goes."""
    return [_reached(progress), *_pace(progress)]


def _done(progress: Progress) -> int:
    """How much of the target there is: steps of an evolution, otherwise records."""
    figures = progress.figures
    return int(figures["steps"]) if "evolution" in figures else progress.kept


def reached(kept: int, target: int, figures: Mapping[str, Any]) -> str:
    """How far a run is, in words. Of an evolution, ``figures`` holds its ``steps`` and itself."""
    evolution = figures.get("evolution")
    if not evolution:
        return f"{kept:,} of {target:,} kept"
    number, rows = evolution["round"], evolution["rows"]
    done = min(figures["steps"] - number * rows, rows)
    return (
        f"round {number} of {evolution['rounds']} · {done:,} of {rows:,} {'tried' if number else 'read'} · "
        f"{evolution['survived']:,} evolved"
    )


def _reached(progress: Progress) -> str:
    text, left = reached(progress.kept, progress.target, progress.figures), progress.target - _done(progress)
    if progress.state == "running" and progress.per_second and left > 0:
        text += f" · ETA {duration(left / progress.per_second)}"
    return text


def _pace(progress: Progress) -> list[str]:
    seconds = max(progress.seconds, 1e-9)
    found = []
    if progress.arrived:
        # The journal's replies cost no time now.
        new = progress.tokens * progress.arrived / (progress.arrived + progress.reused)
        found += [f"{progress.arrived / seconds:.1f} requests/s", f"{new / seconds:.0f} tokens/s"]
    if progress.in_flight:
        found.append(f"{progress.in_flight} under way")
    if progress.waiting:
        found.append(f"{progress.waiting:,} tasks wait for answers")
    if progress.reused:
        found.append(f"{progress.reused:,} from the journal")
    if progress.failed:
        found.append(f"{progress.failed:,} failed")
    return found


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def summary(run: Run, last: Progress, *, as_json: bool) -> None:
    """What came of a run, on stdout: records, rejections by rule, and what to do next."""
    evolves = "evolution" in last.figures
    shown, rounds = _evolved(run.folder) if evolves else (_first(run, 3), [])
    overlapping = overlaps_of(run.folder)
    if as_json:
        told: dict[str, Any] = {"rounds": [one._asdict() for one in rounds]} if evolves else {}
        if overlapping:
            told["benchmarks"] = [one._asdict() for one in overlapping]
        data({"folder": str(run.folder), "state": last.state, "target": last.target, **last.figures, **told})
        return
    if last.note:
        say(last.note)
    for record in shown:
        say()
        say(short(record.instruction, 200), indent=2)
        if record.input:
            say(f"input:  {short(record.input, 160)}", indent=2)
        say(f"output: {short(record.output, 240)}", indent=2)
    rejected = sum(last.figures.get("rejected", {}).values())
    records = f"{last.kept:,} records"
    if evolves:
        survived = last.figures["evolution"]["survived"]
        records = f"{last.kept - survived:,} rows and {survived:,} evolved"
    say()
    say(f"{records} in {run.folder}/data ({last.state}), {rejected:,} rejected")
    rejections(last.figures)
    overlaps(overlapping)
    if rounds:
        say()
        say(f"{'round':>6}{'tried':>9}{'kept':>9}{'share':>8}")
    for one in rounds:
        say(f"{one.round:>6}{one.tried:>9,}{one.kept:>9,}{one.kept / one.tried:>8.0%}")
    folder = shlex.quote(str(run.folder))
    program = called()
    say()
    say("next:")
    if last.state == "interrupted":
        say("the same command again goes on", indent=2)
    if rejected:
        say(f"{program} show {folder} --rejected", indent=2)
    if rounds:
        say(f"{program} show {folder} --survival", indent=2)
    if evolves and shown:
        say(f"{program} show {folder} --tree {shown[-1].id}", indent=2)
    if any(one.dropped or one.data or one.seeds for one in overlapping):
        say(f"{folder}/contamination.json names every overlap, and the words", indent=2)
    if last.kept:
        say(f"{program} show {folder}", indent=2)
        say(f"{program} export {folder} --format messages --out data.jsonl", indent=2)


def called() -> str:
    """The program as it can be typed here: in a checkout it is not on the PATH until the environment is activated."""
    if shutil.which("selfinstruct"):
        return "selfinstruct"
    if Path(sys.argv[0]).name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m selfinstruct"
    return shlex.quote(sys.argv[0])


class _Round(NamedTuple):
    round: int
    tried: int
    kept: int


def _evolved(folder: Path) -> tuple[list[Record], list[_Round]]:
    """The last few records that were evolved, and what became of each round's tries."""
    from selfinstruct.shards import read_kept, read_rejected

    last: deque[Record] = deque(maxlen=3)
    kept: Counter[int] = Counter()
    for record, _ in read_kept(folder):
        if record.evolution is not None and record.evolution.round:
            kept[record.evolution.round] += 1
            last.append(record)
    tried = kept + Counter(line["evolution"]["round"] for line in read_rejected(folder))
    return list(last), [_Round(number, tried[number], kept[number]) for number in sorted(tried)]


def rejections(found: Mapping[str, Any]) -> None:
    """How many were rejected by each rule, on stdout, a line each."""
    for rule, count in _ranked(found.get("rejected", {})):
        say(f"{count:>6,}  {rule}", indent=2)


class Overlaps(NamedTuple):
    """How many items of a benchmark overlap which records."""

    eval_set: str
    items: int
    dropped: int
    data: int
    seeds: int


def overlaps_of(folder: Path) -> list[Overlaps]:
    """What a folder's contamination.json counts, by benchmark; nothing where there is none."""
    if not (folder / "contamination.json").is_file():
        return []
    from selfinstruct.contamination import read

    return [
        Overlaps(
            one["eval_set"], one["items"], *(one["overlapped"][place]["any"] for place in ("dropped", "data", "seeds"))
        )
        for one in (read(folder) or {"eval_sets": []})["eval_sets"]
    ]


def overlaps(found: Iterable[Overlaps]) -> None:
    """What was found of each benchmark, on stdout, a line each."""
    for one in found:
        seeds = f", {one.seeds:,} the seeds" if one.seeds else ""
        say(
            f"{one.eval_set}: of {one.items:,} items {one.dropped:,} overlap what was rejected as contaminated, "
            f"{one.data:,} what is in data/{seeds}"
        )


def _first(run: Run, count: int) -> list[Record]:
    from itertools import islice

    from selfinstruct.shards import read_kept

    return [record for record, _ in islice(read_kept(run.folder), count)]


def short(text: str, most: int) -> str:
    """On one line, cut where it is longer."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
