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
from selfinstruct.contamination import Report
from selfinstruct.errors import ExhaustedError, InputError, UsageError
from selfinstruct.evalsets import names_of
from selfinstruct.filters import asking_stages, check_filters
from selfinstruct.filters.contamination import Benchmarks, check_decontamination
from selfinstruct.formats import read_dataset, read_seeds
from selfinstruct.inputs import BENCHMARK, Sources, digest_of, lines
from selfinstruct.journal import Journal
from selfinstruct.lock import owner
from selfinstruct.loop import Counts, Kept, Loop, Rejected, Sink
from selfinstruct.operators import Answerer, Drafter, Setting, answered, open_operator
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import RULE, Decontaminate, Recipe, decontaminated, differences, with_values
from selfinstruct.records import Record
from selfinstruct.run import stored_recipe
from selfinstruct.shards import TOLD, Shards, checksums, projections, read_lines, read_rejected

T = TypeVar("T")

JUDGING = (
    *("filters.", "novelty.", "length.", "wording.", "opening.", "growth.", "intent.", "difficulty."),
    *("decontaminate.", "constraints.repair"),
    *("evolve.rounds", "evolve.sample", "schedule.patience", "num", "license"),
)
"""The recipe keys that decide about replies and change no request: those that a replay may change."""


class Story:
    """A run folder with its plan read back from the journal: recipe, seeds, prompts as they were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.others = 0
        """Replies of the last telling that were stored for another request than the one that the plan asks now."""
        self.added: dict[str, bytes] = {}
        """Benchmarks that the run was not held against, by name, and …"""
        self.paths: dict[str, str] = {}
        """… where they are."""
        self._held: dict[tuple[Decontaminate, tuple[tuple[str, str], ...]], Benchmarks] = {}
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
        self.rows = sum(1 for _ in read_dataset(self._source, answered=answered(recipe))) if self._source else 0
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
            phrasings=self._text("phrasings") if "phrasings" in names else "",
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

    def benchmarks(self, recipe: Recipe) -> Benchmarks | None:
        """What the records are held against under a recipe: the run's own benchmarks, and those of ``added``."""
        inputs = {name: sha256 for name, sha256 in recipe.inputs.items() if name.startswith(BENCHMARK)}
        held = (recipe.decontaminate, tuple(inputs.items()))
        if inputs and held not in self._held:
            stored = self.journal.inputs()
            contents = {
                name.removeprefix(BENCHMARK): (self.journal.input(name) or b"")
                if stored.get(name) == sha256
                else self.added[name.removeprefix(BENCHMARK)]
                for name, sha256 in inputs.items()
            }
            self._held[held] = Benchmarks(recipe.decontaminate, contents, self.paths)
        return self._held.get(held)

    def report(self, recipe: Recipe) -> Report | None:
        """A contamination.json to be filled by going over the run under that recipe."""
        benchmarks = self.benchmarks(recipe)
        return Report(benchmarks, self.seeds) if benchmarks else None

    def add_benchmarks(self, recipe: Recipe, files: Iterable[str | Path]) -> Recipe:
        """The recipe with more benchmarks; a file takes the place of one of the run's own that has its name."""
        sources = Sources(benchmarks=names_of(map(Path, files)))
        self.added = sources.benchmark_contents()
        self.paths = {name: str(path) for name, path in sources.benchmarks.items()}
        if not self.added:
            return recipe
        inputs = dict(sorted((recipe.inputs | sources.digests()).items()))
        return decontaminated(recipe.model_copy(update={"inputs": inputs}))

    def tell(self, recipe: Recipe, sink: Sink) -> Counts:
        """Run the loop over the stored replies under ``recipe``'s rules, to its target, the end of the stored plan, or
        where it gives nothing new any more."""
        end = None
        if differences(_deciding(self.recipe), _deciding(recipe)):
            # First under the rules of the run itself: how far did it come? Up to there, what has no reply is newly let
            # in; from there on nobody knows.
            schedule = recipe.schedule.model_copy(update={"patience": 10**9})
            end = self._go_over(
                self.recipe.model_copy(update={"schedule": schedule}), _Nowhere(), None, endless=True
            ).steps
        return self._go_over(recipe, sink, end, endless=self._source is not None)

    def _go_over(self, recipe: Recipe, sink: Sink, end: int | None, *, endless: bool) -> Counts:
        setting = replace(self._setting, recipe=recipe, benchmarks=self.benchmarks(recipe))
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


def _deciding(recipe: Recipe) -> Recipe:
    """The recipe without what decides nothing: rules that are switched off, and benchmarks where no rule reads them."""
    filters = recipe.filters
    draft, answer = (
        tuple(name for name in rules if name not in filters.off) for rules in (filters.draft, filters.answer)
    )
    update: dict[str, object] = {
        "filters": filters.model_copy(update={"draft": draft, "answer": answer, "off": ()}),
    }
    if RULE not in (*draft, *answer):
        inputs = {name: sha256 for name, sha256 in recipe.inputs.items() if not name.startswith(BENCHMARK)}
        update |= {"inputs": inputs, "decontaminate": Decontaminate()}
    return recipe.model_copy(update=update)


class _Nowhere:
    def keep(self, kept: Kept) -> None:
        pass

    def reject(self, rejected: Rejected) -> None:
        pass


def _apart(work: Callable[[], T]) -> T:
    """Do it in a thread of its own: the caller may have an event loop (notebooks)."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def replay(
    folder: Path,
    overrides: Iterable[str],
    out: Path,
    *,
    without: Iterable[str] = (),
    decontaminate: Iterable[str | Path] = (),
) -> Counts:
    """Re-judge a run's stored replies along its stored plan, under changed thresholds or filters, into a new folder.
    ``without`` names rules to switch off, ``decontaminate`` files of benchmarks beside those that the run was held
    against.

    Raises UsageError where an override would have changed a request: what was asked cannot be asked differently now.
    """
    return _apart(lambda: _replay(folder, overrides, out, without, decontaminate))


def _replay(
    folder: Path,
    overrides: Iterable[str],
    out: Path,
    without: Iterable[str],
    decontaminate: Iterable[str | Path],
) -> Counts:
    story = Story(folder)
    try:
        recipe = with_values(story.recipe, overrides)
        off = tuple(dict.fromkeys((*recipe.filters.off, *without)))
        recipe = recipe.model_copy(update={"filters": recipe.filters.model_copy(update={"off": off})})
        for line in differences(story.recipe, recipe):
            if not line.startswith(JUDGING):
                raise UsageError(
                    f"replay cannot change {line}",
                    hint="it asks no model; what it may change: " + ", ".join(f"{key}*" for key in JUDGING),
                )
        recipe = story.add_benchmarks(recipe, decontaminate)
        check_filters(recipe)
        check_decontamination(recipe, given=any(name.startswith(BENCHMARK) for name in recipe.inputs))
        unasked = set(asking_stages(recipe)) - set(asking_stages(story.recipe))
        if unasked:
            raise UsageError(
                f"replay cannot ask: the run has no verdicts of {min(unasked)}",
                hint="rules that ask a model can be switched off in a replay, not on",
            )
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UsageError(f"{out} is not empty", hint="a replay writes into a new folder")
        report = story.report(recipe)  # a flaw in a file is told before anything is written
        with closing(Shards(out, recipe, story.digests(), report)) as shards:
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
        report = story.report(story.recipe)
        with tempfile.TemporaryDirectory(prefix="selfinstruct-") as scratch:
            rebuilt = Path(scratch)
            with closing(Shards(rebuilt, story.recipe, story.digests(), report)) as shards:
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
    if not finished and (rebuilt.startswith(there) or name in TOLD):
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
