"""The whole story of one record, reject or lineage: parents, requests, replies, verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from selfinstruct import contamination, state
from selfinstruct.errors import InputError, UsageError
from selfinstruct.filters.contamination import overlap
from selfinstruct.filters.novelty import NoveltyIndex, compared
from selfinstruct.inputs import BENCHMARK
from selfinstruct.journal import Journal, Place
from selfinstruct.loop import Kept, Rejected
from selfinstruct.recipe import RULE, parse
from selfinstruct.records import Evolution, Record
from selfinstruct.replaying import Story
from selfinstruct.shards import read_kept, read_lines, read_rejected

_Task = tuple[str, int | None]
"""A task and the lineage in which it is looked for, as two may come to the same; None: anywhere."""


def lineage(folder: Path, name: str, *, with_prompts: bool = False, nearest: int = 0) -> dict[str, Any] | None:
    """What a run folder knows of a record (by its id, its task or its place) or a reject (by its name or task).

    ``with_prompts`` renders every prompt again as the model read it, by going over the stored run; ``nearest`` measures
    ROUGE-L F with everything that was there before it, and lists so many. None where nothing has that name.
    """
    found = next((_story(record, line) for record, line in _lines(folder) if name in _names(line)), None)
    if found is None and ":" in name and "." not in name:  # a step; most have one draft
        return lineage(folder, f"{name}.0", with_prompts=with_prompts, nearest=nearest)
    if found is None:
        return None
    # A replay has no journal of its own: it re-judged another folder's replies.
    home = Path(state.read(folder).get("replay of", folder))
    story = Story(home) if (home / "journal.sqlite").is_file() else None
    try:
        ours = _lineage(found)
        near = (found["verdict"] or {}).get("neighbour", "")
        seeds = story.seeds if story else ()
        known: dict[_Task, dict[str, Any]] = {(seed.task, None): _told(seed, {}) for seed in seeds}
        wanted = {(task, ours) for task in found["parents"]} | ({(near, None)} if near else set())
        known |= _tasks(folder, wanted - known.keys())
        found["parents"] = [known.get((task, ours)) or _told(_gone(task), {}) for task in found["parents"]]
        found["neighbour"] = known[near, None]["instruction"] if (near, None) in known else ""
        found["overlap"] = _overlap(folder, found, story) if (found["verdict"] or {}).get("by") == RULE else None
        if story:
            found["asked"] = [_exchange(story.journal, asked) for asked in found["asked"]]
            if with_prompts:
                _add_prompts(story, found)
        if nearest:
            found["nearest"] = _nearest(folder, found, story, nearest)
    finally:
        if story:
            story.close()
    return found


def _lines(folder: Path) -> Iterator[tuple[Record, dict[str, Any]]]:
    """What was kept, then what was rejected, each with its line."""
    yield from read_kept(folder)
    for line in read_rejected(folder):
        fields = {key: line[key] for key in ("instruction", "input", "output", "task", "parents")}
        fields |= {key: line[key] for key in ("constraints", "repaired") if key in line}
        yield Record(**fields, origin="rejected"), line


def _names(line: Mapping[str, Any]) -> tuple[str, ...]:
    """What the record or reject of a line may be called; first the name that no other has."""
    names = (line["place"], line["id"], line["task"]) if "id" in line else (line["name"], line["task"], _draft(line))
    return tuple(filter(None, names))


def _draft(line: Mapping[str, Any]) -> str:
    """The place of the draft that a rejected answer belongs to: ``bootstrap:3.1`` for ``input-first:3.1.0``."""
    if line["at"] == "draft" or not line["asked"]:
        return ""
    place = line["name"].partition(":")[2].rpartition(".")[0]
    return f"{Place.read(line['asked'][0]['place']).stage}:{place}"


def _lineage(line: Mapping[str, Any]) -> int | None:
    number: int | None = (line.get("evolution") or {}).get("lineage")
    return number


def _story(record: Record, line: Mapping[str, Any]) -> dict[str, Any]:
    kept = "id" in line
    return {
        "name": f"{line['id']} {line['place']}" if kept else line["name"],
        "place": _names(line)[0],
        "record": record.model_dump(exclude={"evolution"}),
        "verdict": None if kept else {key: line[key] for key in ("at", "by", "why", "neighbour", "score")},
        "text": line.get("text", ""),
        "evolution": line.get("evolution"),
        "scores": line.get("scores", {}),
        "remarks": line.get("remarks", []),
        "vary": line["vary"],
        # A row's only parent is itself, as it stood in the dataset.
        "parents": [] if (line.get("evolution") or {}).get("round") == 0 else line["parents"],
        "asked": line["asked"],
    }


def _tasks(folder: Path, wanted: Collection[_Task]) -> dict[_Task, dict[str, Any]]:
    """The tasks of those names, among what was kept and what was rejected."""
    found: dict[_Task, dict[str, Any]] = {}
    for record, line in _lines(folder) if wanted else ():
        for key in {(record.task, _lineage(line)), (record.task, None)}:
            if key in wanted:
                found.setdefault(key, _told(record, line))
        if len(found) == len(wanted):
            break
    return found


def _told(record: Record, line: Mapping[str, Any]) -> dict[str, Any]:
    """A task as another's story tells it; a seed has no line."""
    return {
        "task": record.task,
        "origin": record.origin,
        "instruction": record.instruction,
        "output": record.output,
        "place": _names(line)[0] if line else "",
        "evolution": line.get("evolution"),
    }


def _gone(task: str) -> Record:
    return Record(instruction="(not in this folder)", task=task, origin="")


def _exchange(journal: Journal, asked: dict[str, Any]) -> dict[str, Any]:
    stored = journal.find(Place.read(asked["place"]))
    if stored is None:
        return {**asked, "wrote": "(no reply in the journal)"}
    reply = stored.reply
    texts = [f"(failed: {one.error.message})" if one.error else one.text for one in reply.each()]
    wrote = texts[0] if len(texts) == 1 else "\n\n".join(f"[{at}] {text}" for at, text in enumerate(texts, 1))
    return {**asked, "wrote": wrote, "reasoning": reply.reasoning, "usage": reply.usage.model_dump()}


def _overlap(folder: Path, found: Mapping[str, Any], story: Story | None) -> dict[str, Any] | None:
    """What a reject shares with the item of a benchmark that it names: that item from the journal's bytes. Of a
    benchmark that came with a replay no bytes are kept, and contamination.json has the words alone. None where a third
    party's rule of that name means something else."""
    where = found["verdict"]["neighbour"]
    known = folder / "recipe.toml"  # a replay's has its own thresholds, and may have another file of that name
    if story and known.is_file():
        recipe = parse(known.read_text(encoding="utf-8"), str(known))
        name = BENCHMARK + where.rpartition(":")[0]
        content = story.journal.input(name)
        if content is not None and story.journal.inputs()[name] == recipe.inputs.get(name):
            texts = {key: found["record"][key] for key in ("instruction", "input", "output")}
            shared = overlap(recipe.decontaminate, content, where, Record(**texts))
            if shared is not None:
                return {"eval_id": where, **shared._asdict()}
    report = contamination.read(folder) or {"eval_sets": []}
    for row in (row for one in report["eval_sets"] for row in one["rows"]):
        if (row["train_id"], row["eval_id"]) == (found["name"], where):
            words = row.get("words", "")
            return {"eval_id": where, "item": "", "words": words, "run": None, "coverage": row["coverage"]}
    return None


def _add_prompts(story: Story, found: dict[str, Any]) -> None:
    catch = _Catch({asked["place"] for asked in found["asked"]})
    story.tell(story.recipe, catch)
    for asked in found["asked"]:
        asked["read"] = catch.read.get(asked["place"], "")


def _nearest(folder: Path, found: Mapping[str, Any], story: Story | None, count: int) -> dict[str, Any]:
    """The tasks nearest to one by ROUGE-L, and its mean F with all: seeds, and drafts that were let in before it
    (``most_similar`` and ``avg_similarity_score`` of Self-Instruct's release)."""
    if story is None:
        raise UsageError(f"{folder}: no journal here, and with it no seeds", hint="the run's own folder has them")
    recipe = story.recipe
    index = NoveltyIndex(recipe.novelty.threshold, recipe.novelty.tokenizer)
    told: list[tuple[str, str]] = []
    own, there = _order(found["place"]), set[tuple[str, int | None]]()
    for seed in story.seeds:
        if (seed.task, None) not in there:
            there.add((seed.task, None))
            told.append((seed.task, seed.instruction))
            index.add(compared(seed, recipe))
    for record, line in _lines(folder):
        draft = _names(line)[0] if "id" in line or line["at"] == "draft" else _draft(line)
        key = (record.task, _lineage(line))
        if (line.get("at") == "draft") or not draft or _order(draft) >= own or key in there:
            continue
        there.add(key)
        told.append((draft, record.instruction))
        index.add(compared(record, recipe))
    text = compared(Record(**{key: found["record"][key] for key in ("instruction", "input")}), recipe)
    near = [
        {"name": told[one.position][0], "f": one.f, "instruction": told[one.position][1]}
        for one in index.top(text, count)
    ]
    return {"of": len(told), "mean": index.mean(text), "nearest": near}


def _order(name: str) -> tuple[int, int]:
    """Step and item of a name: what comes before what."""
    step, _, item = name.rpartition(":")[2].partition(".")
    return int(step), int(item.partition(".")[0] or 0)


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


class Node(NamedTuple):
    """The row, or a try of what it had become: kept, or rejected by a rule."""

    name: str
    """The place of a record, the name of a reject."""
    id: str
    """Of a record."""
    task: str
    parent: str
    """The name of the node that was evolved; empty for the row."""
    evolution: Evolution
    scores: Mapping[str, float]
    remarks: tuple[str, ...]
    by: str
    """The rule that rejected it; empty: kept."""
    why: str
    instruction: str
    input: str
    output: str
    text: str
    """What could not be read, as it came."""


class Tree(NamedTuple):
    """One lineage: its row first, then each round's try."""

    lineage: int
    nodes: tuple[Node, ...]
    others: tuple[str, ...]
    """What has the same name in other lineages."""

    def figures(self) -> dict[str, Any]:
        """Everything, for JSON."""
        nodes = [{**node._asdict(), "evolution": node.evolution.model_dump()} for node in self.nodes]
        return {**self._asdict(), "nodes": nodes}


def tree(folder: Path, name: str) -> Tree | None:
    """The lineage that a name belongs to: of a record or a reject as in ``lineage``, or of the row itself. None where
    nothing has that name.

    Raises UsageError where the run does not evolve.
    """
    check_evolves(folder)
    named = [line for line in origins(folder) if name in _names(line)]
    if not named and ":" in name and "." not in name:
        return tree(folder, f"{name}.0")
    if not named:
        return None
    number = _lineage(named[0])
    others = tuple(_names(line)[0] for line in named if _lineage(line) != number)
    nodes: list[Node] = []
    kept: dict[str, str] = {}  # which node a task came from; what is rejected here may be a parent in a replay
    rejected: dict[str, str] = {}
    for node in sorted(_nodes(folder, number), key=lambda node: (node.evolution.round, not node.by)):
        nodes.append(node._replace(parent=kept.get(node.parent) or rejected.get(node.parent, "")))
        (rejected if node.by else kept)[node.task] = node.name
    return Tree(number or 0, tuple(nodes), others)


def check_evolves(folder: Path) -> None:
    """Raises UsageError where a run's records have no rounds."""
    first = next(origins(folder), {})
    if "evolution" not in first:
        raise UsageError(f"{folder}: its records have no rounds", hint="`selfinstruct evolve` makes some that have")


def evolution_of(line: Mapping[str, Any], where: str) -> Evolution:
    """What a line of a run that evolves says of its try. Raises InputError where it says nothing of it."""
    try:
        return Evolution.model_validate(line.get("evolution"))
    except ValidationError as error:
        raise InputError(
            f"{where}: evolution is {line.get('evolution')!r}: not what a run writes",
            hint="delete the file and give the run's command again: it is rebuilt from the journal",
        ) from error


def origins(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of what was kept, without the records, then those of what was rejected."""
    yield from read_lines(folder / "lineage.jsonl", frozenset(["id", "task", "place"]))
    yield from read_rejected(folder)


def _nodes(folder: Path, number: int | None) -> Iterator[Node]:
    """All nodes of a lineage; ``parent`` is still a task."""
    for record, line in _lines(folder):
        if _lineage(line) != number:
            continue
        name = _names(line)[0]
        yield Node(
            name=name,
            id=line.get("id", ""),
            task=record.task,
            parent=record.parents[0] if record.parents else "",
            evolution=evolution_of(line, f"{folder}: {name}"),
            scores=line.get("scores", {}),
            remarks=tuple(line.get("remarks", ())),
            by=line.get("by", ""),
            why=line.get("why", ""),
            instruction=record.instruction,
            input=record.input,
            output=record.output,
            text=line.get("text", ""),
        )
