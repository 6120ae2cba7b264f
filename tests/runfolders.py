"""Runs for tests: recipes on the scripted engine, engines that interrupt, and what stands in a folder afterwards."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

from selfinstruct.engines import Engine, Options, Reply, Request, open_engine
from selfinstruct.journal import request_key
from selfinstruct.recipe import Recipe, load
from selfinstruct.replaying import replay, verify
from selfinstruct.run import Run
from selfinstruct.shards import projections, read_kept
from selfinstruct.state import Progress

ROOT = Path(__file__).parent.parent
SEEDS = ROOT / "seeds" / "175.jsonl"
SCRIPTS = Path(__file__).parent / "scripts"
WRITING = (("self-instruct", "strict"), ("self-instruct", "compat"), ("alpaca", "strict"), ("alpaca", "compat"))
"""What writes tasks from seeds, up to a number."""
EVOLVING = (("evolve/wizardlm", "strict"), ("evolve/wizardlm", "compat"), ("evolve/quality", "strict"))
CHEAP = (
    "frame-leak",
    "copied",
    "declines",
    "unchanged",
    "growth",
    "intent",
    "distance",
    "circles",
    "duplicate",
    "novelty",
)
"""The draft rules of evolution that ask no model, in their order."""
KINDS = (*WRITING, ("answer", "strict"), *EVOLVING, ("verifiable", "strict"))
GIVEN = ("given", "constrained", "evolve")
"""Operators that read a dataset."""


def plan(kind: tuple[str, str] | str = "self-instruct", *sets: str, script: str = "scrambled", **values: Any) -> Recipe:
    name, behaviour = (kind, "strict") if isinstance(kind, str) else kind
    if name.startswith("evolve/"):
        sets = ("evolve.rounds=3", *sets)
    return load(name, (f"behaviour={behaviour}", *sets), {"model": f"scripted/{SCRIPTS / script}.toml", **values})


def dataset(folder: Path, rows: int = 40) -> Path:
    """A dataset to answer or to evolve, beside the run folder."""
    path = folder / "source.jsonl"
    lines = (
        {"instruction": f"Say what the number {n} is good for.", "input": f"case {n}" * (n % 2), "output": "?"}
        for n in range(rows)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def run_of(folder: Path, recipe: Recipe, engine: Engine | None = None, **more: Any) -> Run:
    """A run on the 175 seeds, or, for a recipe that reads one, on ``dataset``."""
    if recipe.draft.operator in GIVEN:
        source = folder.parent / "source.jsonl"
        more.setdefault("source", source if source.exists() else dataset(folder.parent))
    else:
        more.setdefault("seeds", SEEDS)
    return Run(folder, recipe, engine=engine, **more)


def finish(folder: Path, recipe: Recipe, engine: Engine | None = None, **more: Any) -> Progress:
    """Go on to the end."""
    *_, last = run_of(folder, recipe, engine, **more)
    return last


def found(folder: Path) -> dict[str, bytes]:
    """The files that the byte law covers."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in projections(folder)}


def is_prefix(part: dict[str, bytes], whole: dict[str, bytes]) -> bool:
    """Whether each growing file is the beginning of the other's, and all full shards are whole."""
    growing = [name for name in part if name not in ("README.md", "recipe.toml")]
    return all(whole.get(name, b"").startswith(part[name]) for name in growing)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def told(folder: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return known


def sound(folder: Path, again: Path) -> int:
    """All books right, and a replay with no change gives the same bytes. The number of records."""
    assert [finding for finding in verify(folder) if not finding.right] == []
    replay(folder, (), again)
    assert found(again) == found(folder)
    return sum(1 for _ in read_kept(folder))


def stored_keys(folder: Path) -> list[str]:
    """The keys of all replies in the journal, read without our code."""
    if not (folder / "journal.sqlite").exists():
        return []
    with closing(sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        rows = db.execute("SELECT key FROM replies WHERE reply IS NOT NULL") if "replies" in tables else ()
        return [key for (key,) in rows]


def replies(folder: Path) -> int:
    """How many are stored, whoever may be writing."""
    with suppress(sqlite3.Error):
        return len(stored_keys(folder))
    return 0


class Watched:
    """An engine around the scripted one: it notes what it is asked, lets others overtake, and strikes when told.

    ``strike`` is called before the reply to the call of that number; what it raises, the engine raises.
    """

    def __init__(
        self,
        model: str,
        *,
        concurrency: int = 16,
        jitter: int | None = None,
        at: int = 0,
        strike: Callable[[], None] = lambda: None,
    ) -> None:
        self.inner = open_engine(model, Options(concurrency=concurrency))
        self.name, self.concurrency, self.styles = self.inner.name, self.inner.concurrency, self.inner.styles
        self.small = getattr(self.inner, "small", False)
        self.asked: list[tuple[str, Request]] = []
        """Key and request of every call."""
        self.answered = 0
        self._order = None if jitter is None else Random(jitter)
        self.at, self.strike = at, strike

    async def complete(self, request: Request) -> Reply:
        self.asked.append((request_key(self.name, request), request))
        call = len(self.asked)
        if self._order is not None:
            # Turns of the event loop: any order, in no time. Now and then one is overtaken by many.
            for _ in range(int(self._order.paretovariate(0.7)) % 400):
                await asyncio.sleep(0)
        reply = await self.inner.complete(request)
        if call == self.at:
            self.strike()
        self.answered += 1
        return reply

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.asked]

    def facts(self) -> dict[str, str]:
        return self.inner.facts()

    async def close(self) -> None:
        await self.inner.close()


def watched(recipe: Recipe, **more: Any) -> Watched:
    return Watched(recipe.model, **more)


def steps(folder: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Every line of lineage.jsonl and rejected.jsonl with the step and the item that it comes from."""
    for line in lines(folder / "lineage.jsonl") + lines(folder / "rejected.jsonl"):
        _, _, place = (line.get("place") or line["name"]).rpartition(":")
        step, item, *_ = place.split(".")
        yield int(step), int(item), line
