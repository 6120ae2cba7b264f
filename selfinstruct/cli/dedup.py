"""`selfinstruct dedup`: datasets without their duplicates and near-duplicates, from the command line."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from selfinstruct.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct.dedup import Outcome, Step

TRIED = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""The thresholds of ``--dry-run``."""
CLUSTERS = 5
"""How many of the biggest clusters the summary names."""
_ABOUT = 3
"""Words that are shown on both sides of a difference."""
_MOST = 600
"""Words of a text in which differences are looked for."""


class Which(StrEnum):
    best = "best"
    first = "first"


def register(app: typer.Typer) -> None:
    app.command()(dedup)


def dedup(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Run folders, or datasets in any format that we read.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder for the rows that stay.")] = None,
    threshold: Annotated[
        float,
        typer.Option(
            metavar="J", min=0.5, max=1.0, help="A row goes if its Jaccard similarity with a kept one is J or more."
        ),
    ] = 0.8,
    rouge_l: Annotated[
        float | None,
        typer.Option(
            "--rouge-l",
            metavar="F",
            min=0.0,
            max=1.0,
            help="Also drop a row whose instruction and input have a ROUGE-L F above this with a kept row's.",
        ),
    ] = None,
    keep: Annotated[
        Which,
        typer.Option(
            metavar="WHICH",
            help="Which of such rows stays: the `best`, that is the longest output, or the `first` as given.",
        ),
    ] = Which.best,
    show: Annotated[int, typer.Option(metavar="N", min=0, max=20, help="Least convincing drops to show.")] = 5,
    fresh: Annotated[bool, typer.Option("--fresh", metavar="", help="Replace an earlier result in DIR.")] = False,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", metavar="", help="Go on where a row cannot be read; DIR/unread.jsonl has it, with the reason."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="How many rows stay under which threshold; writes nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", metavar="", help="The summary as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="No progress.")] = False,
) -> None:
    """Drop the rows of datasets that say the same as another row.

    Whole records are compared: instruction, input and output, and text under any other key. What stays is unchanged.
    """
    if dry_run:
        _survey(inputs, threshold, rouge_l, keep.value, skip_bad, as_json=json, quiet=quiet)
        return
    if out is None:
        raise UsageError("no --out", hint="--out DIR names a new folder; --dry-run needs none, and writes nothing")
    from selfinstruct.dedup import Dedup

    made = Dedup(inputs, out, threshold=threshold, rouge_l=rouge_l, keep=keep.value, fresh=fresh, skip_bad=skip_bad)
    with _ended_in_order(), _View(quiet) as view:
        for step in made:
            view.show(step)
    _summary(made.report(), out, show, as_json=json)


def _survey(
    inputs: Sequence[Path],
    threshold: float,
    rouge_l: float | None,
    keep: str,
    skip_bad: bool,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from selfinstruct.cli.terminal import data, say
    from selfinstruct.dedup import Outcome, Thresholds, survey

    tried = [Thresholds(one) for one in sorted({*TRIED, threshold})]
    if rouge_l is not None:
        tried += [Thresholds(threshold, one) for one in sorted({*TRIED, rouge_l})]
    found: list[Outcome] = []
    with _ended_in_order(), _View(quiet) as view:
        for news in survey(inputs, tried, keep="first" if keep == "first" else "best", skip_bad=skip_bad):
            if isinstance(news, Outcome):
                found.append(news)
            else:
                view.show(news)
    rows = found[0].kept + sum(found[0].dropped.values())
    by_jaccard = [one for one in found if one.thresholds.rouge_l is None]
    by_rouge_l = [one for one in found if one.thresholds.rouge_l is not None]
    if as_json:
        told = {"rows": rows, "unread": found[0].unread, "keep": keep, "jaccard": [_outcome(one) for one in by_jaccard]}
        data(told | ({"rouge_l": [_outcome(one) for one in by_rouge_l]} if by_rouge_l else {}))
        return
    say(f"{rows:,} rows" + (f", {found[0].unread:,} more could not be read" if found[0].unread else ""))
    say()
    say(f"{'Jaccard':>9}{'kept':>12}{'share':>8}{'duplicate':>12}{'near-duplicate':>16}{'recall':>10}")
    for one in by_jaccard:
        mark = "*" if one.thresholds.jaccard == threshold else " "
        dropped = f"{one.dropped.get('duplicate', 0):>12,}{one.dropped.get('near-duplicate', 0):>16,}"
        name = f"{one.thresholds.jaccard:g}"
        say(f"{mark}{name:>8}{one.kept:>12,}{one.kept / rows:>8.1%}{dropped}{one.recall:>10.5f}")
    if by_rouge_l:
        say()
        say(f"{'ROUGE-L':>9}{'kept':>12}{'share':>8}{'novelty':>12}      (with Jaccard {threshold:g})")
    for one in by_rouge_l:
        mark = "*" if one.thresholds.rouge_l == rouge_l else " "
        name = f"{one.thresholds.rouge_l:g}"
        say(f"{mark}{name:>8}{one.kept:>12,}{one.kept / rows:>8.1%}{one.dropped.get('novelty', 0):>12,}")
    say()
    say(
        "* as asked; recall: of the pairs exactly at the threshold, the share that is compared at all. Nothing written."
    )


def _outcome(one: Outcome) -> dict[str, Any]:
    return {**one.thresholds._asdict(), "kept": one.kept, "dropped": one.dropped, "recall": round(one.recall, 6)}


def _summary(report: Mapping[str, Any], out: Path, show: int, *, as_json: bool) -> None:
    from selfinstruct.cli.panel import called, short
    from selfinstruct.cli.terminal import data, say

    if as_json:
        data({"folder": str(out), **report})
        return
    dropped = sum(report["dropped"].values())
    say(f"{report['kept']:,} of {report['rows']:,} rows kept in {out}/data, {dropped:,} dropped")
    for rule, count in report["dropped"].items():
        say(f"{count:>8,}  {rule}", indent=2)
    if report["unread"]:
        say(f"{report['unread']:>8,}  could not be read: {out}/unread.jsonl says why", indent=2)
    if len(report["inputs"]) > 1:
        say()
        say("by input")
        for one in report["inputs"]:
            say(f"{one['kept']:>8,} of {one['rows']:,}  {one['path']}", indent=2)
    if clusters := report["biggest_clusters"][:CLUSTERS]:
        say()
        say("biggest clusters (rows, and the one that stays)")
    for one in clusters:
        say(f"{one['rows']:>8,}  {one['at']}  {short(one['instruction'], 120)}", indent=2)
    for rule, name in (("near-duplicate", "jaccard"), ("novelty", "rouge_l")):
        drops = [one for one in report["least_convincing"] if one["rule"] == rule][:show]
        if drops:
            say()
            say(f"least convincing drops by {rule} (threshold {report['parameters'][name]:g})")
        for one in drops:
            _compared(one)
    if dropped:
        say()
        say(f"every drop, with its neighbour: {out}/dropped.jsonl")
        say("what other thresholds would keep:")
        paths = " ".join(shlex.quote(one["path"]) for one in report["inputs"])
        skip = " --skip-bad" if report["unread"] else ""
        say(f"{called()} dedup {paths} --dry-run{skip}", indent=2)


def _compared(drop: Mapping[str, Any]) -> None:
    """A drop beside its neighbour, and where they differ."""
    from selfinstruct.cli.panel import short
    from selfinstruct.cli.terminal import say

    beside = drop["neighbour"]
    say()
    say(f"{drop['score']:.3f}  {drop['at']}", indent=2)
    say(f"went    {short(_text(drop), 240)}", indent=4)
    say(f"stays   {short(_text(beside), 240)}  ({beside['at']})", indent=4)
    say(f"differ  {short(differences(_text(beside), _text(drop)), 400)}", indent=4)


def _text(row: Mapping[str, str]) -> str:
    return " | ".join(filter(None, (row["instruction"], row["input"], row["output"], row["more"])))


def differences(stays: str, went: str) -> str:
    """Where two texts differ, word by word: what stays, an arrow, what went; a few words about each place, and how many
    words are alike between."""
    from difflib import SequenceMatcher

    one, other = stays.split()[:_MOST], went.split()[:_MOST]
    found: list[str] = []
    folded, others = ([word.casefold() for word in words] for words in (one, other))  # as the rules see them
    for what, start, end, start_2, end_2 in SequenceMatcher(None, folded, others, autojunk=False).get_opcodes():
        if what != "equal":
            found.append(f"[{' '.join(one[start:end])} → {' '.join(other[start_2:end_2])}]")
            continue
        before = one[start : min(start + _ABOUT, end)] if start or start_2 else []
        after = one[max(end - _ABOUT, start) : end] if end < len(one) or end_2 < len(other) else []
        if end - start <= len(before) + len(after):
            found += one[start:end]
        else:
            found += [*before, f"…{end - start - len(before) - len(after)}…", *after]
    return " ".join(found)


class _View:
    """How far it is, on stderr: one line that is drawn anew on a terminal, a line now and then elsewhere."""

    def __init__(self, quiet: bool) -> None:
        from selfinstruct.cli.terminal import console

        self._quiet = quiet
        self._status: Any = None
        self._stage, self._begun, self._told = "", 0.0, time.monotonic()
        if not quiet and sys.stderr.isatty() and not console(err=True).is_dumb_terminal:
            self._status = console(err=True).status("reading")

    def __enter__(self) -> _View:
        if self._status:
            self._status.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._status:
            self._status.__exit__(*error)

    def show(self, step: Step) -> None:
        from selfinstruct.cli.panel import PLAIN_EVERY
        from selfinstruct.cli.terminal import say

        now = time.monotonic()
        if step.stage != self._stage:
            self._stage, self._begun = step.stage, now
        if self._quiet:
            return
        text = f"{step.stage} · {step.done:,}" + (f" of {step.total:,}" if step.total is not None else "")
        text += f" {step.unit}"
        if now - self._begun > 1:
            text += f" · {step.done / (now - self._begun):,.0f} {step.unit}/s"
        if self._status:
            self._status.update(text)
        elif now - self._told >= PLAIN_EVERY:
            self._told = now
            say(text, err=True)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM leaves as Ctrl-C does: what was half made is taken away."""

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
