"""The whole story of one record or reject: parents, requests, replies, verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfinstruct import state
from selfinstruct.journal import Journal, Place
from selfinstruct.loop import Kept, Rejected
from selfinstruct.records import Record
from selfinstruct.replaying import Story
from selfinstruct.shards import read_kept, read_rejected


def lineage(folder: Path, name: str, *, with_prompts: bool = False) -> dict[str, Any] | None:
    """What a run folder knows of a record (by its id, its task or its place) or a reject (by its name or task).

    ``with_prompts`` renders every prompt again as the model read it, by going over the stored run. None where nothing
    has that name.
    """
    found = _kept(folder, name) or _rejected(folder, name)
    if found is None:
        return None
    # A replay has no journal of its own: it re-judged another folder's replies.
    home = Path(state.read(folder).get("replay of", folder))
    story = Story(home) if (home / "journal.sqlite").is_file() else None
    try:
        known = {seed.task: seed for seed in story.seeds} if story else {}
        wanted = {*found["parents"], (found["verdict"] or {}).get("neighbour", "")}
        known |= _tasks(folder, wanted - known.keys())
        found["parents"] = [_parent(task, known) for task in found["parents"]]
        neighbour = known.get((found["verdict"] or {}).get("neighbour", ""))
        found["neighbour"] = neighbour.instruction if neighbour else ""
        if story:
            found["asked"] = [_exchange(story.journal, asked) for asked in found["asked"]]
            if with_prompts:
                _add_prompts(story, found)
    finally:
        if story:
            story.close()
    return found


def _kept(folder: Path, name: str) -> dict[str, Any] | None:
    for record, origin in read_kept(folder):
        if name in (origin["id"], origin["task"], origin["place"]):
            return {
                "name": f"{origin['id']} {origin['place']}",
                "place": origin["place"],
                "record": record.model_dump(),
                "verdict": None,
                "text": "",
                "vary": origin["vary"],
                "parents": origin["parents"],
                "asked": origin["asked"],
            }
    return None


def _rejected(folder: Path, name: str) -> dict[str, Any] | None:
    for line in read_rejected(folder):
        if name in (line["name"], line["task"], _draft(line)):
            record = Record(instruction=line["instruction"], input=line["input"], output=line["output"])
            return {
                "name": line["name"],
                "place": line["name"],
                "record": record.model_dump(),
                "verdict": {key: line[key] for key in ("at", "by", "why", "neighbour", "score")},
                "text": line["text"],
                "vary": line["vary"],
                "parents": line["parents"],
                "asked": line["asked"],
            }
    return None


def _draft(line: dict[str, Any]) -> str:
    """The place of the draft that a rejected answer belongs to: ``bootstrap:3.1`` for ``input-first:3.1.0``."""
    if line["at"] == "draft" or not line["asked"]:
        return ""
    place = line["name"].partition(":")[2].rpartition(".")[0]
    return f"{Place.read(line['asked'][0]['place']).stage}:{place}"


def _tasks(folder: Path, wanted: set[str]) -> dict[str, Record]:
    """The model-written tasks of those names, among what was kept and what was rejected."""
    found: dict[str, Record] = {}
    for record, _ in read_kept(folder) if wanted else ():
        if record.task in wanted:
            found.setdefault(record.task, record)
    for line in read_rejected(folder) if wanted - found.keys() else ():
        if line["task"] in wanted:
            found.setdefault(
                line["task"], Record(instruction=line["instruction"], task=line["task"], origin="rejected")
            )
    return found


def _parent(task: str, known: Mapping[str, Record]) -> dict[str, str]:
    record = known.get(task)
    return {
        "task": task,
        "origin": record.origin if record else "",
        "instruction": record.instruction if record else "(not in this folder)",
    }


def _exchange(journal: Journal, asked: dict[str, Any]) -> dict[str, Any]:
    stored = journal.find(Place.read(asked["place"]))
    if stored is None:
        return {**asked, "wrote": "(no reply in the journal)"}
    reply = stored.reply
    wrote = f"(failed: {reply.error.message})" if reply.error else reply.text
    return {**asked, "wrote": wrote, "reasoning": reply.reasoning, "usage": reply.usage.model_dump()}


def _add_prompts(story: Story, found: dict[str, Any]) -> None:
    catch = _Catch({asked["place"] for asked in found["asked"]})
    story.tell(story.recipe, catch)
    for asked in found["asked"]:
        asked["read"] = catch.read.get(asked["place"], "")


class _Catch:
    """A sink that keeps the requests of some places."""

    def __init__(self, wanted: set[str]) -> None:
        self._wanted = wanted
        self.read: dict[str, str] = {}

    def keep(self, kept: Kept) -> None:
        self._look(kept)

    def reject(self, rejected: Rejected) -> None:
        self._look(rejected)

    def _look(self, one: Kept | Rejected) -> None:
        for asked in one.asked:
            if str(asked.place) in self._wanted:
                self.read[str(asked.place)] = asked.request.text()
