"""run.json: how far a run is, in words for programs: totals, versions, what is known of the model, checksums."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from selfinstruct import __version__
from selfinstruct.asking import Live
from selfinstruct.engines import Engine
from selfinstruct.errors import StorageError
from selfinstruct.files import write_whole
from selfinstruct.journal import Totals
from selfinstruct.loop import Counts
from selfinstruct.shards import checksums

State = Literal["starting", "running", "complete", "interrupted", "stopped", "ended"]
"""``ended``: a replay whose stored plan ended below the target."""


IDENTITY = ("file", "sha256", "script_sha256", "reported", "fingerprints", "commit", "weights", "lora weights")
"""The facts of an engine that say which model it is."""

log = logging.getLogger("selfinstruct")


class Progress(NamedTuple):
    """How far a run is."""

    state: State
    kept: int
    target: int
    figures: Mapping[str, Any] = {}
    """Read, kept and rejected by rule, up to the last record kept."""
    waiting: int = 0
    """Drafts that passed their rules, and whose answers are not kept or rejected yet."""
    arrived: int = 0
    """Replies that came from the engine in this call, and …"""
    reused: int = 0
    """… those that the journal held already."""
    failed: int = 0
    in_flight: int = 0
    tokens: int = 0
    """Tokens written by the model, journal included."""
    seconds: float = 0.0
    per_second: float = 0.0
    """Records kept a second, or tries of an evolution, over the last minute or so."""
    note: str = ""


class Ledger:
    """Looks at a run that is under way, and writes run.json."""

    def __init__(
        self, folder: Path, target: int, counts: Counts, live: Live, before: Totals, engines: Iterable[Engine]
    ) -> None:
        self._folder = folder
        self._target = target
        self._counts = counts
        self._live = live
        self._before = before
        self._engines = list(engines)
        known = read(folder)
        self._last: list[dict[str, str]] = known.get("engines", [])
        self._earlier: list[dict[str, str]] = known.get("earlier engines", [])
        self._reported = set(known.get("models", {}))
        self._mixed = False
        self._started = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()  # when how many were kept, or tried

    def look(self, state: State, waiting: int = 0) -> Progress:
        counts, live = self._counts, self._live
        return Progress(
            state=state,
            kept=counts.kept,
            target=self._target,
            figures=counts.figures(),
            waiting=waiting,
            arrived=live.arrived,
            reused=live.reused,
            failed=live.failed,
            in_flight=live.in_flight,
            tokens=live.usage.completion,
            seconds=time.monotonic() - self._started,
            per_second=self._rate(),
        )

    def write(self, state: State, decided: Mapping[str, Any], error: str = "") -> None:
        """``decided``: how far the rejects can be trusted. Raises StorageError where the disk refuses."""
        counts, live, before = self._counts, self._live, self._before
        replies = before.replies + live.arrived
        sums = checksums(self._folder) if state != "running" else {}
        engines = [{"name": one.name, **one.facts()} for one in self._engines]
        self._compare(engines)
        content = {
            "state": state,
            "target": self._target,
            "figures": counts.figures(),
            "replies": replies,
            "surplus": replies - counts.used - counts.errors,
            "uncertain": before.uncertain + live.sent - live.arrived,
            "usage": live.usage.model_dump(),
            "models": dict(sorted(live.models.items())),
            "changed on the wire": dict(sorted(live.notes.items())),
            "last_error": error or live.last_error,
            "seconds": round(time.monotonic() - self._started, 1),
            "kept_per_second": round(self._rate(), 4),
            "updated": time.time(),
            "engines": engines,
            "earlier engines": self._earlier,
            "versions": _versions(),
            "sha256": sums,
            "decided": dict(decided),
        }
        write(self._folder, content)

    def _compare(self, engines: list[dict[str, str]]) -> None:
        """Say aloud, once, where a model is not what it was, in an earlier call or in this one; the facts of an earlier
        one stay in run.json."""
        for before, now in zip(list(self._last), engines, strict=False):
            drifted = [key for key in IDENTITY if before.get(key) and now.get(key) and before[key] != now[key]]
            if drifted:
                key = drifted[0]
                log.warning("%s is not what it was: %s was %s, now %s", now["name"], key, before[key], now[key])
                self._earlier += [before] if before not in self._earlier else []
                self._last, self._mixed = [], True
        # Stored replies are among those that count, and two engines have two names.
        models = sorted(self._live.models)
        if not self._mixed and len(models) > len(engines) and not self._reported.issuperset(models):
            log.warning("the replies of this run come from more than one model: %s", ", ".join(models))
            self._mixed = True

    def _rate(self) -> float:
        now = time.monotonic()
        done = self._counts.evolution.get("tried", self._counts.kept)
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[0][0] < now - 60:
            self._seen.popleft()
        then, before = self._seen[0]
        return (done - before) / (now - then) if now > then else 0.0


def write(folder: Path, content: Mapping[str, Any]) -> None:
    write_whole(folder / "run.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read(folder: Path) -> dict[str, Any]:
    """What run.json says, or nothing. Raises StorageError where it is not what a run writes."""
    path, hint = folder / "run.json", "delete it: the same command makes it anew"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path}: {error}", hint=hint) from error
    try:
        _Told.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole of it"
        raise StorageError(f"{path}: {where} is {first['input']!r}: not what a run writes", hint=hint) from error
    told: dict[str, Any] = found
    return told


class _Evolution(BaseModel, strict=True):
    round: int
    rounds: int
    rows: int
    tried: int
    survived: int


class _Figures(BaseModel, strict=True):
    kept: int = 0
    steps: int = 0
    evolution: _Evolution | None = None
    rejected: dict[str, int] = {}


class _Usage(BaseModel, strict=True):
    completion: int = 0


class _Decided(BaseModel, strict=True):
    bytes: int = Field(ge=0)
    sha256: str
    version: str


class _Told(BaseModel, strict=True):
    """The shape of what others read in a run.json."""

    state: str = ""
    target: int | None = None  # null where an earlier version answered a dataset
    figures: _Figures = _Figures()
    replies: int = 0
    uncertain: int = 0
    usage: _Usage = _Usage()
    models: dict[str, int] = {}
    engines: list[dict[str, str]] = []
    earlier: list[dict[str, str]] = Field([], alias="earlier engines")
    last_error: str = ""
    kept_per_second: float = 0.0
    replay_of: str = Field("", alias="replay of")
    sha256: dict[str, str] = {}
    decided: _Decided | None = None


def complete(known: Mapping[str, Any]) -> Progress:
    """The progress of a run that run.json says is complete."""
    figures = known.get("figures", {})
    kept = figures.get("kept", 0)
    return Progress(
        "complete",
        kept,
        kept,
        figures,
        reused=known.get("replies", 0),
        tokens=known.get("usage", {}).get("completion", 0),
        note="complete already: nothing was asked",
    )


def unopened(known: Mapping[str, Any], target: int) -> Progress:
    """The progress of a run that was left before its models were there; ``known`` is what run.json says, if it is."""
    figures = known.get("figures", {})
    return Progress("interrupted", figures.get("kept", 0), target, figures, note="left before the model was loaded")


def _versions() -> dict[str, str]:
    found = {"selfinstruct": __version__, "python": platform.python_version()}
    for name in ("xllamacpp", "openai", "vllm", "rapidfuzz", "numpy", "jinja2", "pydantic"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
