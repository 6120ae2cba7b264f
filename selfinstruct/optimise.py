"""Optimisation: a descent in a folder. Iterating makes progress; the same call again resumes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import ValidationError

from selfinstruct import __version__, state
from selfinstruct.asking import Live
from selfinstruct.descent import (
    ANALYSE,
    ANSWER,
    ENDS,
    EVOLVE,
    FRAMES,
    INITIAL,
    NAME,
    PROPOSE,
    Descent,
    Questions,
    Search,
    Step,
    Trial,
    case,
    frames,
    initial_method,
    instructions,
    operator_file,
    split,
)
from selfinstruct.engines import Engine, Options, Style, engine_factory, open_engine
from selfinstruct.errors import InputError, SelfInstructError, UsageError
from selfinstruct.files import write_whole, writing
from selfinstruct.filters import check_filters
from selfinstruct.inputs import digest_of
from selfinstruct.journal import Journal, Totals
from selfinstruct.lock import Lock, claimed
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import differences
from selfinstruct.schedule import apart, cancelled
from selfinstruct.state import IDENTITY, Progress, State

TICK, SAVE = 0.2, 2.0
"""Seconds between two looks at how far the search is, and between two writings of run.json."""

log = logging.getLogger("selfinstruct")


class Optimisation:
    """A search in a folder. ``for progress in optimisation: …`` goes on to its end; the same call again resumes.

    ``source`` is any dataset or run folder. The engines take the place of those that the models' names would open.
    Iterating raises UsageError (refused folder, too few instructions), InputError (a file), EngineError, StorageError;
    whatever happens, the folder is whole.
    """

    def __init__(
        self,
        folder: str | Path,
        search: Search,
        source: str | Path,
        *,
        prompts: str | Path | None = None,
        options: Options | None = None,
        engine: Engine | None = None,
        answer_engine: Engine | None = None,
        optimiser_engine: Engine | None = None,
        fresh: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.search = search
        self._source = Path(source)
        self._prompts = Prompts(Path(prompts) if prompts is not None else None)
        self._own_prompts = prompts is not None
        self._options = options or Options()
        self._given = (engine, answer_engine, optimiser_engine)
        self._fresh = fresh
        self._out: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()
        self._asked_to: Literal["", "drain", "leave"] = ""

    # For the caller's thread.

    def __iter__(self) -> Iterator[Progress]:
        # In a thread of its own, as in Run: the caller may have an event loop already, and stays free for signals.
        self._out = queue.SimpleQueue()
        worker = threading.Thread(target=self._work, name="selfinstruct", daemon=True)
        worker.start()
        try:
            while (news := self._out.get()) is not None:
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

    def report(self) -> dict[str, Any]:
        """What report.json says as the folder stands; nothing before the first method was tried."""
        if not (self.folder / "report.json").exists():
            return {}
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return found

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
            self._out.put(None)
        except BaseException as error:  # noqa: BLE001 -- it is raised again in the caller's thread
            self._out.put(error)

    # The search in its folder.

    def check(self) -> list[str]:
        """The instructions, after a look at all that can be looked at before an engine is opened and anything written.

        Raises UsageError for a name that nothing answers to or too few instructions, InputError for a flaw in a file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file, not a folder", hint="choose another --out")
        check_filters(self.search.recipe)
        for model, given in zip(self._models(), self._given, strict=True):
            if model and given is None:
                engine_factory(model)
        strange = self.search.recipe.sampling.keys() - {"evolve", EVOLVE, ANALYSE, PROPOSE, "answer"}
        if strange:
            hint = f"a search asks at evolve, {EVOLVE}, {ANALYSE}, {PROPOSE} and answer"
            raise UsageError(f"recipe: sampling.{min(strange)}: nothing is asked at that stage", hint=hint)
        for name in self._prompts.strangers() if self._own_prompts else ():
            log.warning("--prompts: %s takes the place of no prompt of ours, and no search asks with it", name)
        initial_method(self._prompts)
        frames(self._prompts)
        rows = instructions(self._source)
        split(rows, self.search)
        return rows

    def _models(self) -> tuple[str, str, str]:
        return self.search.recipe.model, self.search.recipe.answer_model, self.search.optimiser

    async def _main(self) -> None:
        rows = self.check()
        with claimed(self.folder) as lock:
            if lock.taken_over:
                note = f"taking over from {lock.taken_over}, which did not leave in order"
                self._out.put(Progress("starting", 0, self.search.steps, note=note))
            self._refuse_strangers()
            if self._fresh:
                self._clear()
                self._fresh = False
            await self._resume(lock, rows)

    def _refuse_strangers(self) -> None:
        """What stands in the way and is no search's stays untouched, --fresh or not."""
        if any((self.folder / name).exists() for name in ("recipe.toml", "lineage.jsonl")):
            raise self._not_ours()
        path = self.folder / "journal.sqlite"
        if path.exists():
            with writing(path), path.open("rb") as file:
                if file.read(6) not in (b"SQLite", b""):
                    raise UsageError(f"{path} is not a journal", hint="choose another --out")
            return
        there = [name for name in OWN if (self.folder / name).exists()]
        if there and not (self._fresh and "steps.jsonl" in there):
            raise UsageError(
                f"{self.folder} has {', '.join(there)} but no journal: it is no search that can go on",
                hint="choose another --out" + (", or --fresh to start anew" if "steps.jsonl" in there else ""),
            )

    def _not_ours(self) -> UsageError:
        return UsageError(f"{self.folder} is the folder of another command's run", hint="choose another --out")

    def _clear(self) -> None:
        """Remove what an earlier search left here, and nothing else."""
        journal = [f"journal.sqlite{part}" for part in ("", "-wal", "-shm", "-journal")]
        with writing(self.folder):
            for name in (*journal, *OWN):
                (self.folder / name).unlink(missing_ok=True)
            for name in (f"prompts/evolve/frames/{NAME}", "prompts/evolve/frames", "prompts/evolve", "prompts"):
                with suppress(OSError):  # there is none, or it holds somebody else's files
                    (self.folder / name).rmdir()

    async def _resume(self, lock: Lock, rows: list[str]) -> None:
        journal = Journal(self.folder / "journal.sqlite")
        try:
            if journal.inputs() and "search" not in journal.inputs():
                raise self._not_ours()
            before = stored_search(journal)
            if before is not None:
                now = self._with_inputs(_like(self.search, before))
                changed = _changed(before, now)
                if changed:
                    raise UsageError(
                        f"{self.folder} was made with other settings:\n" + "\n".join(f"  {line}" for line in changed),
                        hint="give the old settings to go on, another --out to keep both, or --fresh to throw the old "
                        "search away",
                    )
                if before == now and self._done():
                    return
            opened: list[Engine] = []
            try:
                engines = await apart(
                    partial(self._open, opened),
                    lambda: bool(self._asked_to),
                    lambda: [asyncio.run(one.close()) for one in opened],
                    lambda: None,
                )
                if engines is None:
                    self._out.put(state.unopened(state.read(self.folder), 0))
                    return
                await self._go(lock, journal, rows, self._settled(before, engines), engines)
            finally:
                for one in opened:
                    await one.close()
        finally:
            journal.close()

    def _done(self) -> bool:
        """Whether the search is complete as it is; then no engine is opened."""
        known = state.read(self.folder)
        if known.get("state") != "complete" or known.get("sha256") != _checksums(self.folder):
            return False
        steps = self.report()["steps"]
        self._out.put(Progress("complete", len(steps) - 1, len(steps) - 1, note="complete already: nothing was asked"))
        return True

    def _open(self, opened: list[Engine]) -> tuple[Engine, Engine, Engine]:
        found: list[Engine] = []
        for model, given in zip(self._models(), self._given, strict=True):
            if given is None and model:
                given = next((one for one in opened if one.name == model), None)
                if given is None:
                    given = open_engine(model, self._options)
                    opened.append(given)
            found.append(given or found[0])
        evolver, answerer, optimiser = found
        return evolver, answerer, optimiser

    def _settled(self, before: Search | None, engines: tuple[Engine, Engine, Engine]) -> Search:
        """The search with nothing left open: styles picked, the digests of its inputs filled in."""
        search = _like(self.search, before) if before else self.search
        evolver, answerer, optimiser = engines
        style = _pick(search.recipe.style, evolver)

        def ways(wanted: str, engine: Engine) -> Style:
            return _pick(style if wanted == "auto" and engine is evolver else wanted, engine)

        small = search.recipe.small
        if small == "auto":
            small = "yes" if getattr(answerer, "small", False) else "no"
        styles = {"style": style, "answer_style": ways(search.recipe.answer_style, answerer), "small": small}
        recipe = search.recipe.model_copy(update=styles)
        asks = ways(search.optimiser_style, optimiser)
        return self._with_inputs(search.model_copy(update={"recipe": recipe, "optimiser_style": asks}))

    def _with_inputs(self, search: Search) -> Search:
        asked = Questions(search, self._prompts).examples("", "", 1).values()
        names = {
            INITIAL,
            *(request.purpose for request in asked),
            *(f"{EVOLVE}/{name}" for name in frames(self._prompts)),
        }
        digests = {"source": digest_of(self._source)}
        digests |= {f"prompt:{name}": self._prompts[name].digest for name in sorted(names)}
        return search.model_copy(update={"recipe": search.recipe.model_copy(update={"inputs": digests})})

    async def _go(
        self, lock: Lock, journal: Journal, rows: list[str], search: Search, engines: tuple[Engine, Engine, Engine]
    ) -> None:
        evolver, answerer, optimiser = engines
        before = journal.totals()
        live = Live(journal, evolver, {ANSWER: answerer, ANALYSE: optimiser, PROPOSE: optimiser})
        content = search.model_dump_json().encode()
        if journal.inputs().get("search") != hashlib.sha256(content).hexdigest():
            journal.keep_input("search", content)
        descent = Descent(search, self._prompts, rows, live)
        book = Book(self.folder, search, self._prompts, descent, live, before, engines)
        task = asyncio.ensure_future(self._descend(descent, book))
        drained: asyncio.Future[None] | None = None
        under_way: list[asyncio.Future[Any]] = [task]
        try:
            book.tell("running")
            saved = time.monotonic()
            while not task.done():
                await asyncio.wait({task}, timeout=TICK)
                if time.monotonic() - saved > SAVE:
                    lock.beat()
                    book.tell("running")
                    saved = time.monotonic()
                self._out.put(book.look("running"))
                if self._asked_to == "drain" and drained is None:
                    drained = asyncio.ensure_future(live.drained())
                    under_way.append(drained)
                if self._asked_to == "leave" or (drained is not None and drained.done()):
                    break
            if task.done():
                task.result()
            final: State = "complete" if task.done() else "interrupted"
        except BaseException as error:
            await cancelled(under_way)
            with suppress(SelfInstructError):  # the disk may be what stopped us, or another owner
                lock.beat()
                book.tell("stopped", error.message if isinstance(error, SelfInstructError) else repr(error))
            raise
        await cancelled(under_way)
        book.tell(final)
        self._out.put(book.look(final))

    async def _descend(self, descent: Descent, book: Book) -> None:
        async with aclosing(descent.steps()) as steps:
            async for step in steps:
                book.write(step)
                self._out.put(book.look("running", note=told(step)))


OPERATOR = f"prompts/evolve/{NAME}.md"
OWN = (
    "run.json",
    "report.json",
    "steps.jsonl",
    OPERATOR,
    *(f"prompts/evolve/frames/{NAME}/{one}.md" for one in FRAMES),
)
"""The files of the folder beside journal and lock."""


class Book:
    """Writes down a search: after every step the steps so far, a report and the best method, ready for ``evolve``."""

    def __init__(
        self,
        folder: Path,
        search: Search,
        prompts: Prompts,
        descent: Descent,
        live: Live,
        before: Totals,
        engines: Sequence[Engine],
    ) -> None:
        self._folder, self._search, self._descent, self._live, self._before = folder, search, descent, live, before
        self._engines = list({id(engine): engine for engine in engines}.values())
        self._frames = frames(prompts)
        self._lines: list[str] = []
        self._steps: list[dict[str, Any]] = []
        """Of each step what the report says."""
        self._best: dict[str, Any] = {}
        self._started = time.monotonic()
        self._earlier: list[dict[str, str]] = state.read(folder).get("engines", [])

    def write(self, step: Step) -> None:
        self._lines.append(json.dumps(_line(step), ensure_ascii=False) + "\n")
        rates = [trial.rate for trial in step.trials]
        self._steps.append({"step": step.number, "rates": rates, "best": step.best.rate, "why": step.why})
        if step.best.step == step.number:
            self._best = {**step.best._asdict(), **_figures(step.trials[step.best.candidate])}
        report = {
            "search": self._search.model_dump(mode="json", exclude={"recipe"}),
            "recipe": self._search.recipe.model_dump(mode="json"),
            "dev": self._descent.dev,
            "initial": self._steps[0]["best"],
            "best": self._best,
            "stopped": step.stop,
            "steps": self._steps,
            "replies": dict(sorted(self._descent.asked.items())),
        }
        files = {f"prompts/evolve/frames/{NAME}/{name}.md": text for name, text in self._frames.items()}
        files |= {OPERATOR: operator_file(step.best.method), "steps.jsonl": "".join(self._lines)}
        files["report.json"] = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        for name, text in files.items():
            write_whole(self._folder / name, text.encode())

    def look(self, state: State, note: str = "") -> Progress:
        live, outcomes = self._live, self._descent.outcomes
        done = max(0, len(self._steps) - 1)
        return Progress(
            state=state,
            kept=done,
            target=self._search.steps,
            figures={"kept": outcomes[""], "rejected": {by: count for by, count in outcomes.items() if by}},
            arrived=live.arrived,
            reused=live.reused,
            failed=live.failed,
            in_flight=live.in_flight,
            tokens=live.usage.completion,
            seconds=time.monotonic() - self._started,
            note=note,
        )

    def tell(self, now: State, error: str = "") -> None:
        """Write run.json. Raises StorageError where the disk refuses."""
        live, before = self._live, self._before
        engines = [{"name": one.name, **one.facts()} for one in self._engines]
        self._compare(engines)
        content = {
            "state": now,
            "command": "optimise",
            "steps": max(0, len(self._steps) - 1),
            "replies": before.replies + live.arrived,
            "uncertain": before.uncertain + live.sent - live.arrived,
            "usage": live.usage.model_dump(),
            "models": dict(sorted(live.models.items())),
            "changed on the wire": dict(sorted(live.notes.items())),
            "last_error": error or live.last_error,
            "seconds": round(time.monotonic() - self._started, 1),
            "updated": time.time(),
            "engines": engines,
            "versions": {"selfinstruct": __version__, "python": platform.python_version()},
            "sha256": _checksums(self._folder) if now != "running" else {},
        }
        state.write(self._folder, content)

    def _compare(self, engines: list[dict[str, str]]) -> None:
        """Say aloud, once, where a model is not what it was in an earlier call."""
        for before, now in zip(self._earlier, engines, strict=False):
            drifted = [key for key in IDENTITY if before.get(key) and now.get(key) and before[key] != now[key]]
            if drifted:
                key = drifted[0]
                log.warning("%s is not what it was: %s was %s, now %s", now["name"], key, before[key], now[key])
                self._earlier = []
                return


def told(step: Step) -> str:
    """A step in a line."""
    rates = " ".join("-" if one.rate is None else f"{one.rate:.3f}" for one in step.trials)
    return f"step {step.number}: λ {rates or '-'} · {step.why}" + (f" · {step.stop}" if step.stop else "")


def _line(step: Step) -> dict[str, Any]:
    """A step as it stands in steps.jsonl."""
    candidates = []
    for trial in step.trials:
        failed = [{"dev": at, **one._asdict()} for at, one in enumerate(trial.outcomes) if one.by]
        told = {"candidate": trial.candidate, "method": trial.method, **_figures(trial), "why": trial.why}
        candidates.append({**told, "failed": failed})
    return {
        "step": step.number,
        "trajectories": [case(one) for one in step.trajectories],
        "analysis": step.analysis,
        "candidates": candidates,
        "best": {"step": step.best.step, "candidate": step.best.candidate, "rate": step.best.rate},
        "why": step.why,
        "stop": step.stop,
    }


def _figures(trial: Trial) -> dict[str, Any]:
    """λ, the failures by kind, and the words added in the texts that were read: least, median, most."""
    added = sorted(one.added for one in trial.outcomes if one.evolved)
    return {
        "rate": trial.rate,
        "failures": dict(sorted(trial.failures.items())),
        "added": [added[0], median(added), added[-1]] if added else [],
    }


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of what the byte law covers."""
    paths = [folder / name for name in OWN if name != "run.json"]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }


def stored_search(journal: Journal) -> Search | None:
    """What the journal's replies were asked for; None where there are none, so that no setting is held to it."""
    content = journal.input("search")
    if content is None or not journal.totals().replies:
        return None
    try:
        return Search.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{journal.path}: the search in it cannot be read: {error.errors()[0]['msg']}",
            hint="another version of selfinstruct made it (run.json names it); --fresh starts anew",
        ) from error


def _like(search: Search, before: Search) -> Search:
    """The search with what was left to the engines settled as it was settled then."""
    keys = [key for key in ("style", "answer_style", "small") if getattr(search.recipe, key) == "auto"]
    recipe = search.recipe.model_copy(update={key: getattr(before.recipe, key) for key in keys})
    asks = before.optimiser_style if search.optimiser_style == "auto" else search.optimiser_style
    return search.model_copy(update={"recipe": recipe, "optimiser_style": asks})


def _changed(before: Search, now: Search) -> list[str]:
    """What stands between two searches, a line each, leaving out what moves only the end."""
    keys = [key for key in Search.model_fields if key not in ("recipe", *ENDS)]
    return differences(before.recipe, now.recipe) + [
        f"{key}: {getattr(before, key)!r} -> {getattr(now, key)!r}"
        for key in keys
        if getattr(before, key) != getattr(now, key)
    ]


def _pick(style: str, engine: Engine) -> Style:
    for known in engine.styles:
        if style in ("auto", known):
            return known
    raise UsageError(
        f"{engine.name} cannot be asked in the style {style!r}", hint=f"it knows {', '.join(engine.styles)}"
    )
