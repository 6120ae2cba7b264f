"""Going over a stored run again without asking a model: replay under other rules, and verify."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from selfinstruct import state
from selfinstruct.asking import Replayed
from selfinstruct.errors import ExhaustedError, InputError, UsageError
from selfinstruct.filters import asking_stages, check_filters
from selfinstruct.formats import read_dataset, read_seeds
from selfinstruct.inputs import digest_of, lines
from selfinstruct.journal import Journal
from selfinstruct.lock import owner
from selfinstruct.loop import Counts, Kept, Loop, Rejected, Sink
from selfinstruct.operators import Answerer, Drafter, Setting, open_operator
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import Recipe, differences, with_values
from selfinstruct.records import Record
from selfinstruct.run import stored_recipe
from selfinstruct.shards import Shards, checksums, projections, read_lines, read_rejected

T = TypeVar("T")

JUDGING = (
    *("filters.", "novelty.", "length.", "wording.", "opening.", "growth.", "intent.", "difficulty."),
    *("evolve.rounds", "evolve.sample", "schedule.patience", "num", "license"),
)
"""The recipe keys that decide about replies and change no request: those that a replay may change."""


class Story:
    """A run folder with its plan read back from the journal: recipe, seeds, prompts as they were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.others = 0
        """Replies of the last telling that were stored for another request than the one that the plan asks now."""
        self._open = ExitStack()
        self.journal = Journal(folder / "journal.sqlite", read_only=True)
        self._open.callback(self.journal.close)
        recipe = stored_recipe(self.journal)
        if recipe is None:
            raise InputError(f"{folder}: the journal holds no recipe", hint="the run was stopped before it began")
        self.recipe = recipe
        names = self.journal.inputs()
        texts = {name.removeprefix("text:"): self._text(name) for name in names if name.startswith("text:")}
        self._prompts = Prompts(stored=texts)
        self._vary = {
            name.removeprefix("vary:"): lines(self._text(name), name) for name in names if name.startswith("vary:")
        }
        self._source = Path(self._text("source path")) if "source path" in names else None
        if self._source is not None and digest_of(self._source) != recipe.inputs["source"]:
            raise InputError(f"{self._source} has changed since the run", hint="a replay reads the same dataset again")
        self.seeds = self._read_seeds() if "seeds" in names else []
        system = self._text("system").strip() if "system" in names else ""
        assert recipe.style != "auto"
        assert recipe.answer_style != "auto"
        assert recipe.judge_style != "auto"
        self.rows = sum(1 for _ in read_dataset(self._source)) if self._source else 0
        self._setting = Setting(
            recipe,
            self._prompts,
            recipe.style,
            recipe.answer_style,
            system,
            self._source,
            self.rows,
            recipe.judge_style,
            replays=True,
        )

    def close(self) -> None:
        self._open.close()

    def _text(self, name: str) -> str:
        return (self.journal.input(name) or b"").decode("utf-8-sig")

    def _read_seeds(self) -> list[Record]:
        with tempfile.TemporaryDirectory(prefix="selfinstruct-") as scratch:
            path = Path(scratch) / "seeds.json"
            path.write_bytes(self.journal.input("seeds") or b"")
            return read_seeds(path)

    def digests(self) -> dict[str, str]:
        """The digests of the prompts that the plan names."""
        return {
            name.removeprefix("prompt:"): digest
            for name, digest in self.recipe.inputs.items()
            if name.startswith("prompt:")
        }

    def tell(self, recipe: Recipe, sink: Sink) -> Counts:
        """Run the loop over the stored replies under ``recipe``'s rules, to its target, the end of the stored plan, or
        where it gives nothing new any more."""
        end = None
        if differences(self.recipe, recipe):
            # First under the rules of the run itself: how far did it come? Up to there, what has no reply is newly let
            # in; from there on nobody knows.
            schedule = recipe.schedule.model_copy(update={"patience": 10**9})
            end = self._go_over(
                self.recipe.model_copy(update={"schedule": schedule}), _Nowhere(), None, endless=True
            ).steps
        return self._go_over(recipe, sink, end, endless=self._source is not None)

    def _go_over(self, recipe: Recipe, sink: Sink, end: int | None, *, endless: bool) -> Counts:
        setting = replace(self._setting, recipe=recipe)
        drafter: Drafter = open_operator(recipe.draft.operator, setting)
        answerer: Answerer = open_operator(recipe.answer.operator, setting)
        others = {drafter.stage: recipe.model}
        others |= dict.fromkeys(asking_stages(recipe), recipe.judge_model or recipe.model)
        replayed = Replayed(self.journal, drafter.stage, recipe.answer_model or recipe.model, others, end=end)
        loop = Loop(recipe, self.seeds, drafter, answerer, replayed, setting=setting, vary=self._vary, endless=endless)
        with suppress(ExhaustedError):
            asyncio.run(loop.run(sink))
        self.others = replayed.differing
        return loop.counts

    def reaches(self, counts: Counts, recipe: Recipe) -> tuple[int, bool]:
        """The target of a replay, and whether it was reached: with a dataset, when all of its steps were taken."""
        if self._source is None:
            return recipe.num, counts.kept >= recipe.num
        rounds = recipe.evolve.rounds if counts.evolution else 0
        return self.rows * (1 + rounds), counts.steps >= self.rows * (1 + rounds)


class _Nowhere:
    def keep(self, kept: Kept) -> None:
        pass

    def reject(self, rejected: Rejected) -> None:
        pass


def _apart(work: Callable[[], T]) -> T:
    """Do it in a thread of its own: the caller may have an event loop (notebooks)."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def replay(folder: Path, overrides: Iterable[str], out: Path, *, without: Iterable[str] = ()) -> Counts:
    """Re-judge a run's stored replies along its stored plan, under changed thresholds or filters, into a new folder.
    ``without`` names rules to switch off.

    Raises UsageError where an override would have changed a request: what was asked cannot be asked differently now.
    """
    return _apart(lambda: _replay(folder, overrides, out, without))


def _replay(folder: Path, overrides: Iterable[str], out: Path, without: Iterable[str]) -> Counts:
    story = Story(folder)
    try:
        recipe = with_values(story.recipe, overrides)
        off = tuple(dict.fromkeys((*recipe.filters.off, *without)))
        recipe = recipe.model_copy(update={"filters": recipe.filters.model_copy(update={"off": off})})
        check_filters(recipe)
        for line in differences(story.recipe, recipe):
            if not line.startswith(JUDGING):
                raise UsageError(
                    f"replay cannot change {line}",
                    hint="it asks no model; what it may change: " + ", ".join(f"{key}*" for key in JUDGING),
                )
        unasked = set(asking_stages(recipe)) - set(asking_stages(story.recipe))
        if unasked:
            raise UsageError(
                f"replay cannot ask: the run has no verdicts of {min(unasked)}",
                hint="rules that ask a model can be switched off in a replay, not on",
            )
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UsageError(f"{out} is not empty", hint="a replay writes into a new folder")
        with closing(Shards(out, recipe, story.digests())) as shards:
            counts = story.tell(recipe, shards)
            shards.draw_sample()
        target, reached = story.reaches(counts, recipe)
        content = {
            "state": "complete" if reached else "ended",
            "replay of": str(folder.resolve()),
            "target": target,
            "figures": counts.figures(),
            "sha256": checksums(out),
        }
        state.write(out, content)
        return counts
    finally:
        story.close()


class Finding(NamedTuple):
    """One thing that ``verify`` checked."""

    what: str
    right: bool
    figures: str


def verify(folder: Path) -> list[Finding]:
    """Check a run's books: every reply and every draft accounted for, and its files rebuilt and compared."""
    return _apart(lambda: _verify(folder))


def _verify(folder: Path) -> list[Finding]:
    lives = owner(folder) is not None  # then the files grow while they are rebuilt
    known = state.read(folder)
    story = Story(folder)
    findings: list[Finding] = []
    try:
        with tempfile.TemporaryDirectory(prefix="selfinstruct-") as scratch:
            rebuilt = Path(scratch)
            with closing(Shards(rebuilt, story.recipe, story.digests())) as shards:
                counts = story.tell(story.recipe, shards)
                if known.get("state") == "complete":
                    shards.draw_sample()
            # Otherwise a reply may be stored whose records are not written yet.
            finished = known.get("state") == "complete" and not lives
            for path in projections(rebuilt):
                name = path.relative_to(rebuilt).as_posix()
                findings.append(_compared(name, path.read_bytes(), folder / name, finished))
            names = {path.relative_to(rebuilt).as_posix() for path in projections(rebuilt)}
            for path in projections(folder):
                name = path.relative_to(folder).as_posix()
                drawn_before = name == "sample.jsonl" and not finished
                if name not in names and not lives and not drawn_before:
                    findings.append(Finding(name, right=False, figures="the journal knows nothing of it"))
        findings.append(
            Finding("requests = what the plan asks", right=not story.others, figures=f"{story.others} differ")
        )
        totals = story.journal.totals()
        surplus = totals.replies - counts.used - counts.errors
        findings.append(
            Finding(
                "replies = used + errors + surplus",
                right=surplus >= 0,
                figures=f"{totals.replies} = {counts.used} + {counts.errors} + {surplus}; {totals.uncertain} uncertain",
            )
        )
        try:
            findings += _books(folder, counts, finished)
        except InputError as error:
            findings.append(Finding("lines are JSON", right=False, figures=error.message))
        sums = {} if lives else known.get("sha256", {})
        for name, digest in sums.items():
            path = folder / name
            same = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
            findings.append(Finding(f"checksum of {name}", right=same, figures=digest[:16]))
        if finished and known.get("figures"):
            told, found = known["figures"], counts.figures()
            findings.append(Finding("totals in run.json", right=told == found, figures=f"{found['kept']} kept"))
    finally:
        story.close()
    return findings


def _compared(name: str, rebuilt: bytes, path: Path, finished: bool) -> Finding:
    there = path.read_bytes() if path.is_file() else None
    if there == rebuilt:
        return Finding(name, right=True, figures="rebuilt, equal")
    if there is None:
        return Finding(name, right=not finished, figures="missing")
    if not finished and there.startswith(rebuilt):
        return Finding(name, right=True, figures="the run went on meanwhile")
    if not finished and (rebuilt.startswith(there) or name == "README.md"):
        behind = len(rebuilt) - len(there)
        return Finding(name, right=True, figures=f"{behind} bytes behind the journal: resume writes them")
    end = min(len(there), len(rebuilt))
    at = next((at for at in range(end) if there[at] != rebuilt[at]), end)
    return Finding(name, right=False, figures=f"differs from the journal at byte {at}")


def _books(folder: Path, counts: Counts, finished: bool) -> list[Finding]:
    """Count the files themselves, without the loop's own counters."""
    kept = _count(folder / "lineage.jsonl")
    rows = sum(_count(path) for path in sorted((folder / "data").glob("train-*.jsonl")))
    at = Counter(reject.get("at") for reject in read_rejected(folder))
    answers = counts.answers == kept + at["answer"]
    return [
        Finding("rows = lineage", right=rows == kept or not finished, figures=f"{rows} = {kept}"),
        Finding(
            "answers read = kept + rejected",
            right=answers or not finished,
            figures=f"{counts.answers} = {kept} + {at['answer']}",
        ),
        Finding(
            "drafts read = let in + rejected",
            right=(counts.drafts - counts.let_in == at["draft"]) or not finished,
            figures=f"{counts.drafts} = {counts.let_in} + {at['draft']}",
        ),
    ]


def _count(path: Path) -> int:
    return sum(1 for _ in read_lines(path))
