"""Run: a folder, a recipe and engines. Iterating it makes progress; the same call again resumes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from selfinstruct import state
from selfinstruct.asking import Live
from selfinstruct.contamination import Report
from selfinstruct.engines import Engine, Options, Style, engine_factory, open_engine
from selfinstruct.errors import InputError, SelfInstructError, UsageError
from selfinstruct.evalsets import names_of
from selfinstruct.files import writing
from selfinstruct.filters import asking_stages, check_filters
from selfinstruct.filters.contamination import Benchmarks, check_decontamination, overlapping
from selfinstruct.filters.novelty import tokens
from selfinstruct.formats import read_dataset
from selfinstruct.inputs import BENCHMARK, Inputs, Sources
from selfinstruct.journal import Journal
from selfinstruct.lock import Lock, at_work, claimed, owner
from selfinstruct.loop import Loop
from selfinstruct.operators import (
    Answerer,
    Drafter,
    Setting,
    Settler,
    answered,
    check_operators,
    open_operator,
    operator_factory,
    phrasings_file,
)
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import Recipe, decontaminated, differences, dump, parse
from selfinstruct.records import Record
from selfinstruct.schedule import apart, cancelled
from selfinstruct.shards import TOLD, Shards, checksums, read_kept, read_lines
from selfinstruct.state import Ledger, Progress, State
from selfinstruct.verdicts import Verdicts

TICK = 0.2
"""Seconds between two looks at how far the run is."""
SAVE = 2.0
"""Seconds between two writings of run.json."""
LONG = 3.0
"""Seconds of loading after which it is said what takes so long."""
LEAD, FARTHEST = 4, 16_384
"""Steps ahead that each request under way wants, and at the most (docs/gpus.md: how busy that keeps an engine)."""
TOLD_OF = 5
"""Seeds or rows that overlap a benchmark and are named in a warning each."""

log = logging.getLogger("selfinstruct")


class Run:
    """A run in a folder. ``for progress in run: …`` goes on to the target; ``records()`` reads what was kept.

    ``seeds`` is a file of seed tasks, ``source`` the dataset of a recipe that reads one. ``vary`` names files of lines,
    one of which is drawn per step into the prompt's slot of that name. ``decontaminate`` names files of benchmarks that
    no record may overlap: the recipe gets the rule ``contaminated``. ``engine``, ``answer_engine`` and
    ``judge_engine`` take the place of the engines that the recipe's model names would open.

    Iterating raises UsageError (refused folder, bad recipe), InputError (a file), ExhaustedError, EngineError,
    StorageError; whatever happens, the folder is whole and the same call resumes.
    """

    def __init__(
        self,
        folder: str | Path,
        recipe: Recipe,
        *,
        seeds: str | Path | None = None,
        source: str | Path | None = None,
        prompts: str | Path | None = None,
        vary: Mapping[str, str | Path] | None = None,
        system: str | Path | None = None,
        decontaminate: Iterable[str | Path] = (),
        options: Options | None = None,
        engine: Engine | None = None,
        answer_engine: Engine | None = None,
        judge_engine: Engine | None = None,
        fresh: bool = False,
    ) -> None:
        self.folder = Path(folder)
        benchmarks = names_of(map(Path, decontaminate))
        self.recipe = decontaminated(recipe) if benchmarks else recipe
        self._sources = Sources(
            seeds=Path(seeds) if seeds is not None else None,
            dataset=Path(source) if source is not None else None,
            vary={name: Path(path) for name, path in (vary or {}).items()},
            system=Path(system) if system is not None else None,
            benchmarks=benchmarks,
            phrasings=phrasings_file(recipe, Path(prompts) if prompts is not None else None),
        )
        self._benchmarks: Benchmarks | None = None
        self._prompts = Prompts(Path(prompts) if prompts is not None else None)
        self._options = options or Options()
        self._engines = (engine, answer_engine, judge_engine)
        self._rows = 0
        self._phrasings = ""
        self._digests: dict[str, str] = {}
        self._fresh = fresh
        self._systems = False  # whether any answer is asked with a system text
        self._out: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()
        self._asked_to: Literal["", "drain", "leave"] = ""

    # For the caller's thread.

    def __iter__(self) -> Iterator[Progress]:
        # In a thread of its own: the caller may have an event loop already (notebooks), and stays free for signals.
        self._out = queue.SimpleQueue()  # what an earlier iteration left unread is not this one's
        worker = threading.Thread(target=self._work, name="selfinstruct", daemon=True)
        worker.start()
        try:
            while True:
                news = self._out.get()
                if news is None:
                    return
                if isinstance(news, BaseException):
                    raise news
                yield news
        finally:
            if worker.is_alive():
                self.leave()
                worker.join()
            self._asked_to = ""

    def drain(self) -> None:
        """Stop when the requests under way have arrived. Safe from any thread and from a signal handler."""
        self._asked_to = self._asked_to or "drain"

    def leave(self) -> None:
        """Stop now. What had arrived is in the journal."""
        self._asked_to = "leave"

    @property
    def benchmarks(self) -> Benchmarks | None:
        """What the records are held against, once ``check`` has read it."""
        return self._benchmarks

    def records(self) -> Iterator[Record]:
        """What is kept, as the folder stands, with where each came from."""
        return (record for record, _ in read_kept(self.folder))

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
            self._out.put(None)
        except BaseException as error:  # noqa: BLE001 -- it is raised again in the caller's thread
            self._out.put(error)

    # The run itself.

    async def _main(self) -> None:
        inputs = self.check()  # before anything is written: a refused start leaves nothing behind
        with claimed(self.folder) as lock:
            if lock.taken_over:
                note = f"taking over from {lock.taken_over}, which did not leave in order"
                self._out.put(Progress("starting", 0, self.recipe.num, note=note))
            self._refuse_strangers()
            self._systems = bool(inputs.system or inputs.systems)
            if self._fresh:
                self._clear()
                self._fresh = False
            await self._resume(lock, inputs)

    def check(self) -> Inputs:
        """Look at all that can be looked at before an engine is opened and anything is written.

        Raises UsageError for a name that nothing answers to, InputError for a flaw in a file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file, not a run folder", hint="choose another --out")
        source = self._sources.dataset
        if source is not None and source.resolve().is_relative_to(self.folder.resolve()):
            raise UsageError(f"{source} lies in the run folder {self.folder}", hint="choose another --out")
        recipe = self.recipe
        check_filters(recipe)
        check_decontamination(recipe, given=bool(self._sources.benchmarks))
        judging = asking_stages(recipe)
        system, dataset = self._sources.system is not None, self._sources.dataset is not None
        check_operators(recipe, self._prompts, judging=judging, system=system, dataset=dataset)
        for model, given in zip((recipe.model, recipe.answer_model, recipe.judge_model), self._engines, strict=True):
            if model and given is None:
                engine_factory(model)
        if recipe.answer_model and getattr(operator_factory(recipe.answer.operator), "stages", None) == ():
            raise UsageError("this recipe asks for no answers", hint="leave --answer-model out")
        if recipe.judge_model and not judging:
            raise UsageError(
                "no rule of this recipe asks a judge", hint="leave --judge out, or name one in filters.draft"
            )
        for name in self._prompts.strangers():
            # Operators of evolution, and the questions of third parties' rules, are anyone's own.
            if not name.startswith((f"{recipe.draft.operator}/", *(f"{stage}/" for stage in judging))):
                log.warning("--prompts: %s takes the place of no prompt of ours, and nothing asks with it", name)
        held = owner(source) if source is not None else None
        if held is not None and at_work(held):
            raise UsageError(
                f"{source} is being written by process {held['pid']} on {held['host']}",
                hint="wait until that run has ended: a dataset that grows cannot be gone over again",
            )
        inputs = self._sources.read(answered=answered(recipe))
        self._digests = self._sources.digests()
        self._rows, self._phrasings = inputs.rows, inputs.phrasings
        _warn_of_blind_novelty(recipe, inputs)
        if self._sources.benchmarks:
            self._benchmarks = Benchmarks(
                recipe.decontaminate,
                self._sources.benchmark_contents(),
                {name: str(path) for name, path in self._sources.benchmarks.items()},
            )
            self._warn_of_contamination(self._benchmarks, inputs)
        return inputs

    def _warn_of_contamination(self, benchmarks: Benchmarks, inputs: Inputs) -> None:
        """Say which of what was given overlaps a benchmark and stays: all that is made of it may be lost."""
        source = self._sources.dataset
        if source is None:
            given, what = ((f"task {seed.task}", seed) for seed in inputs.seeds), f"{self._sources.seeds}"
        elif not answered(self.recipe):
            return  # its rows are drafts, and go by the rule
        else:
            # As `explain` and the names of an evolution count them.
            rows = enumerate(read_dataset(source))
            given, what = ((f"row {number}, counted from 0,", row) for number, row in rows), f"{source}"
        found = list(dict(overlapping(benchmarks, given)).items())
        for name, told in found[:TOLD_OF]:
            log.warning("%s: %s overlaps a benchmark, and stays: %s", what, name, told)
        if len(found) > TOLD_OF:
            log.warning("%s: %d more overlap one; contamination.json lists all", what, len(found) - TOLD_OF)

    def _refuse_strangers(self) -> None:
        """What stands in the way of our files and is no run's stays untouched, --fresh or not."""
        journal = self.folder / "journal.sqlite"
        if journal.exists():
            with writing(journal), journal.open("rb") as file:
                if file.read(6) not in (b"SQLite", b""):
                    raise UsageError(f"{journal} is not a journal", hint="choose another --out")
            return
        there = [path.relative_to(self.folder).as_posix() for path in self._own() if path.exists()]
        was_run = (self.folder / "lineage.jsonl").exists()
        if there and not (was_run and self._fresh):
            raise UsageError(
                f"{self.folder} has {', '.join(there[:5])} but no journal: it is not a run that can go on",
                hint="choose another --out" + (", or --fresh to remove them and start anew" if was_run else ""),
            )

    def _own(self) -> list[Path]:
        """The files of a run folder beside journal and lock."""
        return [*sorted((self.folder / "data").glob("train-*.jsonl")), *(self.folder / name for name in OWN)]

    def _clear(self) -> None:
        """Remove what an earlier run left here, and nothing else."""
        journal = [self.folder / f"journal.sqlite{part}" for part in ("", "-wal", "-shm", "-journal")]
        with writing(self.folder):
            for path in (*journal, *self._own()):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # there is none, or it holds somebody else's files
                (self.folder / "data").rmdir()

    async def _resume(self, lock: Lock, inputs: Inputs) -> None:
        journal = self._journal()
        try:
            if journal.inputs() and "recipe" not in journal.inputs():
                raise UsageError(f"{self.folder} is another command's folder", hint="choose another --out")
            before = stored_recipe(journal)
            if before is not None:
                changed = differences(before, self._with_inputs(_like(self.recipe, before)))
                if changed:
                    raise _changed(self.folder, changed)
                if self.recipe.evolve.rounds < before.evolve.rounds:
                    log.warning("the run has %d rounds, and keeps them", before.evolve.rounds)
                if self._done(before):
                    return
            opened: list[Engine] = []
            try:
                engines = await self._opened(opened)
                if engines is None:
                    return
                recipe = self._settled(before, engines)
                decided = state.read(self.folder).get("decided") or {}
                with closing(Verdicts(self.folder / "rejected.jsonl", decided)) as verdicts:
                    await self._go(lock, journal, recipe, inputs, engines, verdicts)
            finally:
                for one in opened:
                    await one.close()
        finally:
            journal.close()

    def _journal(self) -> Journal:
        """The folder's journal; a new one where nothing was ever asked or read, so that no setting is held to it."""
        path = self.folder / "journal.sqlite"
        journal = Journal(path)
        read = any(_size(self.folder / name) > 0 for name in ("lineage.jsonl", "rejected.jsonl"))
        if read or journal.totals().replies or not journal.inputs():
            return journal
        journal.close()
        self._clear()
        return Journal(path)

    def _done(self, before: Recipe) -> bool:
        """Whether the run is complete as it is; then no engine is opened."""
        known = state.read(self.folder)
        reached = self._sources.dataset is not None or known.get("figures", {}).get("kept", 0) >= self.recipe.num
        if known.get("state") != "complete" or not reached:
            return False
        recipe = _no_fewer_rounds(self._with_inputs(_like(self.recipe, before)), before)
        recipe = recipe.model_copy(update={"num": before.num})
        if checksums(self.folder) != known.get("sha256") or recipe != before:
            return False
        self._out.put(state.complete(known))
        return True

    async def _opened(self, opened: list[Engine]) -> Engines | None:
        """The engines, which may take minutes to load a model; None if we are told to stop meanwhile."""
        began, told = time.monotonic(), False

        def tick() -> None:
            nonlocal told
            if not told and time.monotonic() - began > LONG:
                told = True
                note = f"loading {self.recipe.model}: it may take minutes"
                self._out.put(Progress("starting", 0, self.recipe.num, note=note))

        def close() -> None:
            for one in opened:
                asyncio.run(one.close())

        engines = await apart(partial(self._open, opened), lambda: bool(self._asked_to), close, tick)
        if engines is None:
            self._out.put(state.unopened(state.read(self.folder), self.recipe.num))
        return engines

    def _open(self, opened: list[Engine]) -> Engines:
        found: list[Engine | None] = []
        models = (self.recipe.model, self.recipe.answer_model, self.recipe.judge_model)
        for model, given in zip(models, self._engines, strict=True):
            if given is None and model:
                given = next((one for one in opened if one.name == model), None)
                if given is None:
                    given = open_engine(model, self._options)
                    opened.append(given)
            found.append(given)
        writer, answerer, judge = found
        assert writer is not None
        return Engines(writer, answerer or writer, judge or writer)

    def _settled(self, before: Recipe | None, engines: Engines) -> Recipe:
        """The recipe with nothing left open: styles picked, the digests of its inputs filled in."""
        recipe = _like(self.recipe, before) if before else self.recipe
        style = _pick(recipe.style, engines.writer)
        answer_style = _pick(_after(recipe.answer_style, style, engines.answerer, engines.writer), engines.answerer)
        judge_style = _pick(_after(recipe.judge_style, style, engines.judge, engines.writer), engines.judge)
        # A smaller target than before stops sooner, but nothing that is kept is taken back.
        kept = sum(1 for _ in read_lines(self.folder / "lineage.jsonl"))
        num = max(recipe.num, kept) if self._sources.dataset is None else recipe.num
        small = recipe.small
        if small == "auto":
            small = "yes" if getattr(engines.answerer, "small", False) else "no"
        if self._systems and answer_style == "completion":
            hint = "use --style chat, or an --answer-model that chats"
            raise UsageError("a system text needs a chat model, and this one is asked to complete texts", hint=hint)
        styles = {"style": style, "answer_style": answer_style, "judge_style": judge_style}
        recipe = recipe.model_copy(update={**styles, "small": small, "num": num})
        return self._with_inputs(_no_fewer_rounds(recipe, before) if before else recipe)

    def _with_inputs(self, recipe: Recipe) -> Recipe:
        digests = dict(self._digests)
        if "auto" not in (recipe.style, recipe.answer_style, recipe.judge_style):
            digests |= {f"prompt:{name}": self._prompts[name].digest for name in self._prompt_names(recipe)}
        columns = recipe.columns
        if self._systems and "system" not in columns:
            columns = (*columns, "system")
        return recipe.model_copy(update={"inputs": dict(sorted(digests.items())), "columns": columns})

    def _prompt_names(self, recipe: Recipe) -> list[str]:
        return [name for name, _ in self._asking(recipe)]

    def _asking(self, recipe: Recipe) -> list[tuple[str, Style]]:
        """The prompts that are asked with, each with the style in which it was wanted."""
        drafter, answerer = self._operators(recipe, "")
        setting = self._setting(recipe, "")
        wanted = [(stage, setting.style) for stage in drafter.stages]
        wanted += [(stage, setting.answer_style) for stage in answerer.stages]
        wanted += [(stage, setting.judge_style) for stage in asking_stages(recipe)]
        return [(setting.prompt_name(stage, style), style) for stage, style in wanted]

    def _warn_of_chat(self, recipe: Recipe) -> None:
        asking = self._asking(recipe)
        chats = [name for name, style in asking if style == "json" and self._prompts[name].style != style]
        if chats:
            log.warning("style json: asked in chat all the same, for want of a JSON prompt: %s", ", ".join(chats))

    def _setting(self, recipe: Recipe, system: str) -> Setting:
        assert recipe.style != "auto"
        assert recipe.answer_style != "auto"
        assert recipe.judge_style != "auto"
        return Setting(
            recipe,
            self._prompts,
            recipe.style,
            recipe.answer_style,
            system,
            self._sources.dataset,
            self._rows,
            recipe.judge_style,
            benchmarks=self._benchmarks,
            phrasings=self._phrasings,
        )

    def _operators(self, recipe: Recipe, system: str) -> tuple[Drafter, Answerer]:
        setting = self._setting(recipe, system)
        return open_operator(recipe.draft.operator, setting), open_operator(recipe.answer.operator, setting)

    async def _go(
        self, lock: Lock, journal: Journal, recipe: Recipe, inputs: Inputs, engines: Engines, verdicts: Verdicts
    ) -> None:
        if self._sources.digests() != self._digests:  # engines may take minutes to open
            raise InputError(
                "an input changed while the run began", hint="give the same command again when it is whole"
            )
        drafter, answerer = self._operators(recipe, inputs.system)
        self._refuse_unread_steering(recipe, drafter)
        self._warn_of_chat(recipe)
        if not journal.totals().replies:
            _warn_of_idle(recipe, max(recipe.num, inputs.rows), max(one.concurrency for one in engines))
        judging = dict.fromkeys(asking_stages(recipe), engines.judge)
        live = Live(journal, engines.answerer, {drafter.stage: engines.writer, **judging})
        before = journal.totals()
        used = list({id(one): one for one in engines}.values())
        endless = self._sources.dataset is not None
        loop = Loop(
            recipe,
            inputs.seeds,
            drafter,
            answerer,
            live,
            setting=self._setting(recipe, inputs.system),
            vary=inputs.vary,
            width=max(one.concurrency for one in used),
            endless=endless,
            verdicts=verdicts,
        )
        self._keep_inputs(journal, recipe)
        digests = {name: self._prompts[name].digest for name in self._prompt_names(recipe)}
        report = Report(self._benchmarks, inputs.seeds) if self._benchmarks else None
        shards = Shards(self.folder, recipe, digests, report)
        rounds = 1 + (drafter.rounds if isinstance(drafter, Settler) else 0)
        each = getattr(drafter, "variants", 1) * rounds * recipe.answer.samples
        target = inputs.rows * each if endless else recipe.num
        ledger = Ledger(self.folder, target, loop.counts, live, before, used)
        task = asyncio.ensure_future(loop.run(shards))
        drained: asyncio.Future[None] | None = None
        under_way: list[asyncio.Future[Any]] = [task]

        def decided() -> Mapping[str, Any]:  # while it catches up, what was vouched for before is more
            return max(shards.decided(), verdicts.vouched, key=lambda one: int(one["bytes"]))

        try:
            ledger.write("running", decided())
            saved = time.monotonic()
            while not task.done():
                await asyncio.wait({task}, timeout=TICK)
                shards.flush()
                if time.monotonic() - saved > SAVE:
                    lock.beat()
                    ledger.write("running", decided())
                    saved = time.monotonic()
                self._out.put(ledger.look("running", loop.waiting))
                if self._asked_to == "drain" and drained is None:
                    drained = asyncio.ensure_future(live.drained())
                    under_way.append(drained)
                if self._asked_to == "leave" or (drained is not None and drained.done()):
                    break
            final = self._ending(task)
        except BaseException as error:
            await cancelled(under_way)
            with suppress(SelfInstructError):  # the disk may be what stopped us, or another owner
                lock.beat()
                try:
                    shards.close()
                finally:
                    told = error.message if isinstance(error, SelfInstructError) else repr(error)
                    ledger.write("stopped", decided(), told)
            raise
        await cancelled(under_way)
        if final == "complete":
            shards.draw_sample()
        shards.close()
        ledger.write(final, decided())
        self._out.put(ledger.look(final))

    def _refuse_unread_steering(self, recipe: Recipe, drafter: Drafter) -> None:
        setting = self._setting(recipe, "")
        names = [setting.prompt_name(stage, setting.style) for stage in drafter.stages]
        if self._sources.vary and names and not any("vary" in self._prompts[name].head.slots for name in names):
            hint = "a prompt shows the lines drawn where it has the slot `vary`; see bootstrap/chat"
            raise UsageError(f"--vary: the prompt {names[0]} has no slot for it", hint=hint)

    def _ending(self, task: asyncio.Future[bool]) -> State:
        if not task.done():
            return "interrupted"
        task.result()
        return "complete"

    def _keep_inputs(self, journal: Journal, recipe: Recipe) -> None:
        """Everything that a replay needs goes into the journal: a run folder can be re-judged anywhere."""
        there = journal.inputs()
        contents = self._sources.contents() | {"recipe": dump(recipe).encode()}
        for name in self._prompt_names(recipe):
            for part in self._prompts.closure(name):
                contents[f"text:{part}"] = self._prompts.read(part)[1].encode()
        if self._sources.dataset is not None:
            contents["source path"] = str(self._sources.dataset.resolve()).encode()
        for name, content in contents.items():
            if there.get(name) != hashlib.sha256(content).hexdigest():
                journal.keep_input(name, content)


class Engines(NamedTuple):
    """Who writes, who answers and who judges: often the same."""

    writer: Engine
    answerer: Engine
    judge: Engine


OWN = ("recipe.toml", "run.json", "lineage.jsonl", "rejected.jsonl", "sample.jsonl", *TOLD)
"""The files of a run folder beside data/, journal and lock."""


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def stored_recipe(journal: Journal) -> Recipe | None:
    """The recipe that the journal's plan was made with, or None for a new journal."""
    content = journal.input("recipe")
    return None if content is None else parse(content.decode(), f"{journal.path}: recipe")


def _like(recipe: Recipe, before: Recipe) -> Recipe:
    """The recipe with what was left to the engine settled as it was settled then."""
    open_ones = ("style", "answer_style", "judge_style", "small")
    return recipe.model_copy(update={key: getattr(before, key) for key in open_ones if getattr(recipe, key) == "auto"})


def _no_fewer_rounds(recipe: Recipe, before: Recipe) -> Recipe:
    """Rounds that were planned are not taken back, and a sample that was drawn stays."""
    new, old = recipe.evolve, before.evolve
    kept = {"rounds": max(new.rounds, old.rounds), "sample": new.sample or old.sample}
    return recipe.model_copy(update={"evolve": new.model_copy(update=kept)})


def _after(style: str, writers: str, engine: Engine, writer: Engine) -> str:
    """What is left open goes as the writer is asked, where it is asked itself."""
    return writers if style == "auto" and engine is writer else style


def _pick(style: str, engine: Engine) -> Style:
    if style == "auto":
        return engine.styles[0]
    for known in engine.styles:
        if style == known:
            return known
    raise UsageError(
        f"{engine.name} cannot be asked in the style {style!r}", hint=f"it knows {', '.join(engine.styles)}"
    )


def _changed(folder: Path, changed: list[str]) -> UsageError:
    if any(line.startswith(f'inputs."{BENCHMARK}') for line in changed):
        again = f"`selfinstruct replay {folder} --decontaminate FILE --out NEW` holds what is there against a benchmark"
    else:
        again = "`selfinstruct replay` applies new thresholds to the replies that are there"
    return UsageError(
        f"{folder} was made with other settings:\n" + "\n".join(f"  {line}" for line in changed),
        hint="give the old settings to go on, another --out to keep both, or --fresh to throw the old run away; "
        + again,
    )


def _warn_of_idle(recipe: Recipe, steps: int, width: int) -> None:
    """Lookahead decides data and is settled with the first reply, so it is said before."""
    wanted = min(FARTHEST, LEAD * width)
    if recipe.schedule.lookahead < wanted <= steps:
        log.warning(
            "%d requests keep this model busy, and a lookahead of %d leaves it idle now and then; --set "
            "schedule.lookahead=%d fills it, and cannot be given later",
            width,
            recipe.schedule.lookahead,
            wanted,
        )


def _warn_of_blind_novelty(recipe: Recipe, inputs: Inputs) -> None:
    if "novelty" not in recipe.filters.draft or recipe.novelty.tokenizer != "rouge":
        return
    blind = sum(not tokens(seed.instruction, "rouge") for seed in inputs.seeds)
    if blind:
        log.warning(
            "%d of %d seeds have no word of a-z or 0-9, which is all that ROUGE-L's own tokenizer sees; "
            "--set novelty.tokenizer=unicode compares every script",
            blind,
            len(inputs.seeds),
        )
