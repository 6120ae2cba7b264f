"""The loop and the run folder: the plan decides order, and whatever happens, the same call ends in the same bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runfolders import (
    EVOLVING,
    KINDS,
    SCRIPTS,
    SEEDS,
    WRITING,
    Watched,
    dataset,
    finish,
    found,
    is_prefix,
    lines,
    plan,
    run_of,
    steps,
    stored_keys,
    told,
    watched,
)

import selfinstruct.run
from selfinstruct import __version__
from selfinstruct.engines import Options, Reply, Request
from selfinstruct.errors import EngineError, ExhaustedError, InputError, StorageError, UsageError
from selfinstruct.filters import Rules
from selfinstruct.formats import read_seeds
from selfinstruct.journal import Journal, request_key
from selfinstruct.lineage import lineage
from selfinstruct.recipe import Recipe
from selfinstruct.records import Objection, Record
from selfinstruct.replaying import replay, verify
from selfinstruct.resources import PROMPTS
from selfinstruct.run import Run
from selfinstruct.schedule import lookahead

pytestmark = pytest.mark.usefixtures("no_hang", "quick_ticks")
KIND = pytest.mark.parametrize("kind", KINDS, ids="-".join)
Whole = Callable[[Recipe], dict[str, bytes]]


@pytest.fixture
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that last a blink must be interrupted in the middle."""
    monkeypatch.setattr(selfinstruct.run, "TICK", 0.002)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The bytes of an uninterrupted run, one request at a time; made once for each recipe."""
    known: dict[str, dict[str, bytes]] = {}

    def bytes_of(recipe: Recipe) -> dict[str, bytes]:
        name = recipe.model_dump_json()
        if name not in known:
            folder = tmp_path_factory.mktemp("whole") / "run"
            finish(folder, recipe, watched(recipe, concurrency=1))
            known[name] = found(folder)
        return known[name]

    return bytes_of


# Order.


@KIND
@pytest.mark.parametrize("seed", [0, 1])
def test_neither_concurrency_nor_order_of_arrival_changes_a_byte(
    kind: tuple[str, str], seed: int, tmp_path: Path, whole: Whole
) -> None:
    recipe = plan(kind, num=30, seed=seed)
    expected = whole(recipe)
    if kind[0] in ("self-instruct", "alpaca"):
        assert expected["data/train-00000.jsonl"].count(b"\n") == 30
    for concurrency, jitter in ((3, 1), (16, None), (16, 2), (64, 3)):
        finish(tmp_path / f"{concurrency}-{jitter}", recipe, watched(recipe, concurrency=concurrency, jitter=jitter))
        assert found(tmp_path / f"{concurrency}-{jitter}") == expected


def test_real_latency_changes_no_byte(tmp_path: Path, whole: Whole) -> None:
    recipe = plan(num=60)
    finish(tmp_path / "run", recipe, options=Options(concurrency=32))
    assert found(tmp_path / "run") == whole(recipe)


def test_no_order_of_arrival_makes_a_run_hang(tmp_path: Path, whole: Whole) -> None:
    for jitter in range(int(os.environ.get("SELFINSTRUCT_ORDERS", "9"))):
        recipe = plan("self-instruct", f"schedule.lookahead={(4, 7, 1024)[jitter % 3]}", num=25)
        engine = watched(recipe, concurrency=1 + Random(jitter).randrange(40), jitter=jitter)
        finish(tmp_path / str(jitter), recipe, engine)
        assert found(tmp_path / str(jitter)) == whole(recipe)


# Interruption.

HOW = ("drain", "leave", "engine", "bug", "break")


def interrupted(folder: Path, recipe: Recipe, how: str, at: int, jitter: int) -> Watched:
    """Begin or go on, and stop after the call of that number in one of the ways in which a run can stop."""

    def strike() -> None:
        if how == "engine":
            raise EngineError("the server is gone")
        if how == "bug":
            raise ValueError("a bug")
        getattr(run, how, lambda: None)()

    engine = watched(recipe, jitter=jitter, at=at, strike=strike)
    run = run_of(folder, recipe, engine)
    try:
        for progress in run:
            if how == "break" and progress.arrived >= at:
                break
    except (EngineError, ValueError) as error:
        assert str(error) in ("the server is gone", "a bug")
        assert told(folder)["state"] == "stopped"
        assert str(error) in told(folder)["last_error"]
    return engine


@KIND
@settings(
    max_examples=int(os.environ.get("SELFINSTRUCT_STOPS", "5")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    stops=st.lists(st.tuples(st.sampled_from(HOW), st.integers(1, 60)), min_size=1, max_size=3),
    jitter=st.integers(0, 10**6),
)
def test_a_run_interrupted_anyhow_is_a_prefix_and_ends_in_the_same_bytes(
    kind: tuple[str, str],
    stops: list[tuple[str, int]],
    jitter: int,
    whole: Whole,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    recipe = plan(kind, num=40, seed=3)
    expected = whole(recipe)
    folder = tmp_path_factory.mktemp("stopped") / "run"
    called = 0
    for how, at in stops:
        before = stored_keys(folder)
        engine = interrupted(folder, recipe, how, at, jitter)
        called += len(engine.asked)
        assert not set(engine.keys) & set(before), "asked for again, though its reply was stored"
        assert is_prefix(found(folder), expected)
        assert (told(folder)["replies"], told(folder)["uncertain"]) == (
            len(stored_keys(folder)),
            called - len(stored_keys(folder)),
        )
        assert told(folder)["figures"]["kept"] == len(lines(folder / "lineage.jsonl"))
        assert all(finding.right for finding in verify(folder)), verify(folder)
        if how == "drain":
            assert engine.answered == len(engine.asked), "what was under way was not waited for"
    before = stored_keys(folder)
    engine = watched(recipe, jitter=jitter + 1)
    finish(folder, recipe, engine)
    assert not set(engine.keys) & set(before)
    assert found(folder) == expected
    assert told(folder)["uncertain"] == called + len(engine.asked) - len(stored_keys(folder))
    assert all(finding.right for finding in verify(folder))


ASKING = [
    ("self-instruct", ("style=json",)),
    ("self-instruct", ("draft.samples=3",)),
    ("alpaca", ("draft.samples=2",)),
    ("answer", ("answer.samples=3",)),
    ("evolve/wizardlm", ("style=json",)),
]


@pytest.mark.parametrize(("name", "sets"), ASKING)
def test_json_and_samples_are_resumed_to_the_same_bytes_and_replayed(
    name: str, sets: tuple[str, ...], whole: Whole, tmp_path: Path
) -> None:
    recipe = plan(name, *sets, num=40, seed=3)
    expected = whole(recipe)
    for how, at, jitter in (("engine", 4, 1), ("leave", 9, 2), ("drain", 20, 3)):
        interrupted(tmp_path / "run", recipe, how, at, jitter)
        assert is_prefix(found(tmp_path / "run"), expected)
    finish(tmp_path / "run", recipe, watched(recipe, jitter=4))
    assert found(tmp_path / "run") == expected
    assert all(finding.right for finding in verify(tmp_path / "run"))
    replay(tmp_path / "run", [], tmp_path / "again")
    assert found(tmp_path / "again") == expected
    with closing(Journal(tmp_path / "run" / "journal.sqlite", read_only=True)) as journal:
        stored = list(journal.replies())
    assert any(one.reply.more for one in stored) == any("samples" in key for key in sets)
    assert any(one.reply.text.startswith("{") for one in stored) == ("style=json" in sets)


def test_json_that_cannot_be_read_is_rejected_where_it_was_asked_for_and_kept_as_it_came(tmp_path: Path) -> None:
    script = tmp_path / "bad.toml"
    script.write_text(
        '[[rule]]\npurpose = "bootstrap/*"\ncalls = [1, 2]\nreply = "Sure!"\n'
        '[[rule]]\npurpose = "bootstrap/*"\ncalls = [3]\nfinish = "length"\n'
        'reply = \'{"tasks": ["Name ten old harbours.", "Cut\'\n'
    )
    recipe = plan("self-instruct", "style=json", num=20).model_copy(update={"model": f"scripted/{script}"})
    finish(tmp_path / "run", recipe, watched(recipe, concurrency=1))
    bad = [line for line in lines(tmp_path / "run" / "rejected.jsonl") if line["by"] in ("malformed", "truncated")]
    assert [(line["by"], line["text"]) for line in bad] == [
        ("malformed", "Sure!"), ("malformed", "Sure!"), ("truncated", "Cut"),
    ]  # fmt: skip
    assert "Name ten old harbours." in {
        row["instruction"] for row in lines(tmp_path / "run" / "data" / "train-00000.jsonl")
    }
    assert told(tmp_path / "run")["figures"]["errors"] == 0  # they came, and are paid for
    assert all(finding.right for finding in verify(tmp_path / "run"))


def test_a_malformed_verdict_is_asked_for_again(tmp_path: Path) -> None:
    script = tmp_path / "bad.toml"
    script.write_text(
        '[[rule]]\npurpose = "judge/*"\nmatch = "number 3 "\nreply = "Equal"\n'
        '[[rule]]\npurpose = "evolve/*"\nwrite = "evolve"\n'
    )
    recipe = plan("evolve/wizardlm", "style=json", "evolve.rounds=1").model_copy(update={"model": f"scripted/{script}"})
    finish(tmp_path / "run", recipe)
    with closing(Journal(tmp_path / "run" / "journal.sqlite", read_only=True)) as journal:
        again = [one.place for one in journal.replies() if one.place.attempt]
    assert again and {place.stage for place in again} == {"judge/equal"}
    kept = [line for line in lines(tmp_path / "run" / "lineage.jsonl") if line["remarks"]]
    assert [line["remarks"] for line in kept] == [["equal: no verdict"]]


def test_one_run_object_can_be_iterated_until_it_is_done(tmp_path: Path, whole: Whole) -> None:
    recipe = plan(num=30)
    run = run_of(tmp_path / "run", recipe, watched(recipe, concurrency=2, jitter=1), fresh=True)
    for _ in range(3):
        for progress in run:
            if progress.arrived > 10:
                break
    kept = len(lines(tmp_path / "run" / "lineage.jsonl"))
    *_, last = run
    assert last.state == "complete"
    assert last.kept == 30 > kept
    assert found(tmp_path / "run") == whole(recipe)


def test_a_call_to_leave_before_the_start_is_heard(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", plan(num=30, script="unhurried"))
    run.drain()
    *_, last = run
    assert last.state == "interrupted"


def test_torn_lines_and_leftovers_are_repaired(tmp_path: Path, whole: Whole) -> None:
    recipe = plan(num=40, seed=3)
    folder = tmp_path / "run"
    interrupted(folder, recipe, "engine", 60, 1)
    for name in ("lineage.jsonl", "rejected.jsonl"):
        content = (folder / name).read_bytes()
        assert content
        (folder / name).write_bytes(content[: -len(content.splitlines()[-1]) // 2])
    (folder / "data" / ".train-00000.jsonl.77.part").write_text("{")
    (folder / ".run.json.77.part").write_text("{")
    finish(folder, recipe)
    assert found(folder) == whole(recipe)
    assert not list(folder.rglob("*.part"))


def test_an_engine_that_answers_though_it_was_cancelled_is_not_asked_on(tmp_path: Path, whole: Whole) -> None:
    class Stubborn(Watched):
        async def complete(self, request: Request) -> Reply:
            key = request_key(self.name, request)
            self.asked.append((key, request))
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                cancelled[key] = len(self.asked)
            return await self.inner.complete(request)

    cancelled: dict[str, int] = {}
    recipe = plan(num=30)
    engine = Stubborn(recipe.model, concurrency=4)
    folder = tmp_path / "run"
    for progress in run_of(folder, recipe, engine):
        if progress.arrived > 8:
            break
    assert cancelled
    assert set(cancelled) <= set(stored_keys(folder))
    assert set(cancelled.values()) == {len(engine.asked)}
    assert told(folder)["replies"] == len(stored_keys(folder))
    finish(folder, recipe)
    assert found(folder) == whole(recipe)


# Target and extension.


@pytest.mark.parametrize("kind", WRITING, ids="-".join)
def test_extending_a_run_gives_the_bytes_of_having_asked_for_it_at_once(
    kind: tuple[str, str], tmp_path: Path, whole: Whole
) -> None:
    folder, asked = tmp_path / "run", 0
    for num in (20, 50, 73):
        recipe = plan(kind, num=num)
        engine = watched(recipe)
        last = finish(folder, recipe, engine)
        assert last.kept == num == len(lines(folder / "data" / "train-00000.jsonl"))
        assert found(folder) == whole(recipe)
        if asked:
            assert last.reused > 0
            assert len(stored_keys(folder)) == asked + len(engine.asked)
            assert last.reused <= asked
        asked = len(stored_keys(folder))
        before = found(folder)
        finish(folder, plan(kind, num=5), watched(recipe))
        assert found(folder) == before
    assert all(finding.right for finding in verify(folder))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num=st.integers(1, 60), seed=st.integers(0, 9))
def test_exactly_so_many_are_kept(tmp_path_factory: pytest.TempPathFactory, num: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("exactly")
    recipe = plan(num=num, seed=seed)
    finish(folder, recipe, watched(recipe, jitter=seed))
    assert len(lines(folder / "data" / "train-00000.jsonl")) == num == told(folder)["figures"]["kept"]
    assert len({line["id"] for line in lines(folder / "lineage.jsonl")}) == num


def test_a_complete_run_asks_no_engine_and_writes_nothing(tmp_path: Path) -> None:
    folder, recipe = tmp_path / "run", plan(num=12)
    finish(folder, recipe)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if "sqlite" not in path.name}
    script = Path(recipe.model.removeprefix("scripted/"))
    gone = plan(num=12, model=f"scripted/{script}")
    assert finish(folder, gone).note.startswith("complete already")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    refusing = watched(recipe, at=1, strike=lambda: pytest.fail("asked"))
    assert finish(folder, recipe, refusing).kept == 12


def test_a_licence_or_a_lost_shard_is_mended_in_a_complete_run(tmp_path: Path, whole: Whole) -> None:
    folder, recipe = tmp_path / "run", plan(num=12)
    finish(folder, recipe)
    (folder / "data" / "train-00000.jsonl").unlink()
    engine = watched(recipe)
    finish(folder, recipe, engine)
    assert found(folder) == whole(recipe)
    licensed = plan(num=12, license="cc-by-4.0")
    finish(folder, licensed, engine)
    assert not engine.asked
    assert found(folder) == whole(licensed)
    assert b"license: cc-by-4.0" in found(folder)["README.md"]


def test_many_shards_are_cut_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfinstruct.shards.ROWS", 7)
    monkeypatch.setattr("selfinstruct.shards.PAUSE", 0.0)
    recipe = plan("alpaca", num=28)
    finish(tmp_path / "once", recipe)
    for num in (6, 7, 8, 20):
        finish(tmp_path / "run", plan("alpaca", num=num))
    interrupted(tmp_path / "run", recipe, "leave", 1, 1)
    finish(tmp_path / "run", recipe)
    assert found(tmp_path / "run") == found(tmp_path / "once")
    assert sum(name.startswith("data/") for name in found(tmp_path / "run")) == 4


# Refusals.


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Everything that a plan can be made from, as files to be changed."""
    there = {name: tmp_path / name for name in ("seeds", "topics", "system", "prompts")}
    there["seeds"].write_bytes(SEEDS.read_bytes())
    there["topics"].write_text("bees\nrivers\n")
    there["system"].write_text("Be brief.")
    (there["prompts"] / "bootstrap").mkdir(parents=True)
    (there["prompts"] / "bootstrap" / "chat.md").write_bytes((PROMPTS / "bootstrap" / "chat.md").read_bytes())
    return there


def from_files(folder: Path, recipe: Recipe, files: dict[str, Path], **more: Any) -> Run:
    vary = {"topic": files["topics"]}
    return run_of(
        folder, recipe, seeds=files["seeds"], vary=vary, system=files["system"], prompts=files["prompts"], **more
    )


@pytest.mark.parametrize("how_far", ["complete", "interrupted"])
def test_whatever_could_change_a_byte_is_refused_by_name_and_nothing_changes(
    how_far: str, files: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    recipe = plan(num=10, style="chat")
    run = from_files(folder, recipe, files, engine=watched(recipe, at=5, strike=lambda: run.leave()))
    for _ in run:
        pass
    if how_far == "complete":
        for _ in from_files(folder, recipe, files):
            pass

    def refused(changed: Recipe, *names: str, exactly: bool = True) -> None:
        before = {path: path.read_bytes() for path in folder.rglob("*.*") if "sqlite-" not in path.name}
        with pytest.raises(UsageError) as error:
            for _ in from_files(folder, changed, files, engine=watched(recipe, at=1, strike=lambda: pytest.fail(""))):
                pass
        said = {line.split(":")[0].strip() for line in error.value.message.splitlines()[1:]}
        assert said == set(names) if exactly else said >= set(names)
        assert "--fresh" in error.value.hint
        assert {path: path.read_bytes() for path in before} == before

    refused(plan("self-instruct", "novelty.threshold=0.6", "length.max_words=99", num=10, style="chat"),
            "novelty.threshold", "length.max_words")  # fmt: skip
    refused(plan(num=10, style="completion"), "style", exactly=False)
    refused(plan(num=10, style="chat", seed=1), "seed")
    refused(plan(num=10, style="chat", script="plain"), "model")
    for name, path, key in (
        ("seeds", files["seeds"], "inputs.seeds"),
        ("topics", files["topics"], 'inputs."vary'),
        ("system", files["system"], "inputs.system"),
        ("prompts", files["prompts"] / "bootstrap" / "chat.md", 'inputs."prompt'),
    ):
        content = path.read_bytes()
        added = (
            b'{"instruction": "Name a colour of autumn leaves.", "output": "Red"}\n' if name == "seeds" else b"And.\n"
        )
        path.write_bytes(content + added)
        refused(recipe, key)
        path.write_bytes(content)
    if how_far == "complete":
        with pytest.raises(UsageError, match="columns"):
            finish(folder, recipe, seeds=files["seeds"], vary={"topic": files["topics"]}, prompts=files["prompts"])
    allowed = plan("self-instruct", "schedule.patience=70", num=12, style="chat", license="mit")
    *_, last = from_files(folder, allowed, files)
    assert last.kept == 12


def test_fresh_starts_anew_and_leaves_what_is_not_its_own(tmp_path: Path, whole: Whole) -> None:
    folder = tmp_path / "run"
    finish(folder, plan(num=20, seed=5))
    (folder / "data" / "mine.jsonl").write_text("{}\n")
    (folder / "notes.txt").write_text("mine")
    finish(folder, plan(num=10), fresh=True)
    assert found(folder) == whole(plan(num=10))
    assert (folder / "data" / "mine.jsonl").read_text() == "{}\n"
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["README.md", "recipe.toml", "data/train-00000.jsonl"])
def test_a_folder_that_is_no_run_keeps_its_files(name: str, fresh: bool, tmp_path: Path) -> None:
    path = tmp_path / "project" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UsageError, match=name):
        finish(tmp_path / "project", plan(num=3), fresh=fresh)
    assert path.read_text() == "mine"


def test_a_run_without_its_journal_is_refused_and_fresh_helps(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(folder, plan(num=5))
    (folder / "journal.sqlite").unlink()
    with pytest.raises(UsageError, match="no journal") as error:
        finish(folder, plan(num=5))
    assert "--fresh" in error.value.hint
    assert finish(folder, plan(num=5), fresh=True).kept == 5


def test_settings_that_nothing_came_of_can_be_corrected(tmp_path: Path, whole: Whole) -> None:
    folder = tmp_path / "run"
    topics = tmp_path / "topics"
    topics.write_text("bees\n")
    with pytest.raises(UsageError, match="unknown filter"):
        finish(folder, plan("self-instruct", 'filters.draft=["novely"]', num=5), vary={"topic": topics})
    finish(folder, plan(num=5))
    assert found(folder) == whole(plan(num=5))
    assert all(finding.right for finding in verify(folder))


def test_malformed_seeds_can_be_corrected(tmp_path: Path, whole: Whole) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_bytes(SEEDS.read_bytes() + b"{\n")
    with pytest.raises(InputError, match=r"seeds.jsonl:176"):
        finish(tmp_path / "run", plan(num=5), seeds=seeds)
    seeds.write_bytes(SEEDS.read_bytes())
    finish(tmp_path / "run", plan(num=5), seeds=seeds)
    assert found(tmp_path / "run") == whole(plan(num=5))


@pytest.mark.parametrize("kind", [*WRITING, *(kind for kind in EVOLVING if kind[1] == "strict")], ids="-".join)
def test_what_was_decided_is_not_judged_again(
    kind: tuple[str, str], tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Record] = []
    judge = Rules.objection

    def objection(rules: Rules, record: Record) -> Objection | None:
        judged.append(record)
        return judge(rules, record)

    longer, folder, twin = plan(kind, num=70), tmp_path / "run", tmp_path / "twin"
    shorter = plan(kind, num=40)
    if kind in EVOLVING:
        shorter = shorter.model_copy(update={"evolve": shorter.evolve.model_copy(update={"rounds": 1})})
    expected = whole(longer)
    finish(folder, shorter)
    content = (folder / "rejected.jsonl").read_bytes()
    whole_file = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "version": __version__}
    assert told(folder)["decided"] == whole_file
    there = list(steps(folder))
    last = max(step for step, _, line in there if "by" in line)  # what came before its step is known
    known = {line["task"] for step, _, line in there if step < last} - {""}
    shutil.copytree(folder, twin)
    monkeypatch.setattr(Rules, "objection", objection)
    finish(folder, longer)
    assert found(folder) == expected
    afterwards = {line["task"] for step, _, line in steps(folder) if step >= last}
    assert known - afterwards
    assert {record.task for record in judged} & (known - afterwards) == set()
    once = len(judged)
    (twin / "run.json").unlink()  # nothing vouches for them now
    finish(twin, longer)
    assert found(twin) == expected
    assert len(judged) - once > once > 0


def test_an_edited_file_is_noticed_on_resuming(tmp_path: Path) -> None:
    for name in ("lineage.jsonl", "rejected.jsonl", "data/train-00000.jsonl"):
        folder = tmp_path / name.partition(".")[0].replace("/", "-")
        finish(folder, plan(num=10))
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"a", b"e", 1))
        with pytest.raises(UsageError, match="was edited"):
            finish(folder, plan(num=20))
        (folder / name).unlink()
        assert finish(folder, plan(num=20)).kept == 20


def test_a_plan_that_no_longer_matches_its_replies_is_refused(tmp_path: Path) -> None:
    import sqlite3

    folder = tmp_path / "run"
    finish(folder, plan(num=10))
    db = sqlite3.connect(folder / "journal.sqlite")
    db.execute("UPDATE replies SET key = 'another' WHERE step = 1 AND item = -1")
    db.commit()
    db.close()
    with pytest.raises(UsageError, match="bootstrap:1 asks for something else"):
        finish(folder, plan(num=20))


# Conservation.


@KIND
def test_everything_that_was_read_is_kept_or_rejected(kind: tuple[str, str], tmp_path: Path) -> None:
    folder, recipe = tmp_path / "run", plan(kind, num=60)
    finish(folder, recipe, watched(recipe))
    kept, rejected = lines(folder / "lineage.jsonl"), lines(folder / "rejected.jsonl")
    figures = told(folder)["figures"]
    at = Counter(line["at"] for line in rejected)
    places = {(step, item) for step, item, line in steps(folder) if line.get("at") != "draft"}
    assert figures["drafts"] == len(places) + at["draft"]
    assert figures["let_in"] == len(places)
    assert figures["answers"] == len(kept) + at["answer"]
    assert figures["kept"] == len(kept) == len(lines(folder / "data" / "train-00000.jsonl"))
    assert figures["rejected"] == Counter(line["by"] for line in rejected)
    names = [line["name"] for line in rejected]
    assert len(set(names)) == len(names)
    # Items of a step are numbered without a hole, but in the last one, which is cut.
    items = defaultdict(set)
    for step, item, _ in steps(folder):
        items[step].add(item)
    assert sorted(items) == list(range(len(items)))
    assert all(sorted(of) == list(range(len(of))) for of in items.values())
    # Every reply up to the cut is named by what came of it, and errors are rejects of their own kind.
    asked = {one["place"] for line in kept + rejected for one in line["asked"]}
    assert len(asked) == figures["used"] + figures["errors"]
    failures = sum(figures["rejected"].get(by, 0) for by in ("gave_up", "content_policy", "malformed", "thinking"))
    if kind[0].startswith("evolve/"):  # a judge that fails is remarked, and asked again
        assert failures <= figures["errors"]
    else:
        assert failures == figures["errors"]
    assert failures or kind[0] == "alpaca"
    readme = (folder / "README.md").read_text()
    for (moment, by), count in Counter((line["at"], line["by"]) for line in rejected).items():
        assert f"| {moment} | {by} | {count} |" in readme


RULES = {
    "tasks.near_duplicate": {"novelty", "duplicate"},
    "tasks.exact_duplicate": {"duplicate", "novelty"},
    "tasks.too_short": {"length"},
    "tasks.blacklisted": {"wording"},
    "tasks.punctuation_first": {"start"},
    "tasks.truncated": {"truncated"},
    "instances.empty_output": {"empty"},
    "instances.same_as_input": {"echo"},
    "instances.ends_in_colon": {"colon"},
    "instances.truncated": {"truncated"},
    "labels.same_as_input": {"echo"},
    "labels.truncated": {"truncated"},
    "alpaca.near_duplicate": {"novelty", "duplicate"},
    "alpaca.exact_duplicate": {"duplicate", "novelty"},
    "alpaca.too_short": {"length"},
    "alpaca.blacklisted": {"wording"},
    "alpaca.missing_field": {"unreadable"},
    "alpaca.empty_output": {"empty"},
    "alpaca.same_as_input": {"echo"},
    "alpaca.refusal": {"refusal"},
    "alpaca.too_long": {"answer-length"},
    "alpaca.truncated": {"truncated"},
    "answer.refusal": {"refusal"},
    "answer.empty": {"empty"},
    "answer.truncated": {"truncated"},
}


@pytest.mark.parametrize("name", ["self-instruct", "alpaca", "answer"])
def test_what_was_planted_is_rejected_for_its_reason_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    folder, recipe = tmp_path / "run", plan(name, num=200, script="planted")
    if name == "answer":
        dataset(tmp_path, 200)
    engine = watched(recipe)
    finish(folder, recipe, engine)
    planted = {request.seed: engine.inner.plan(request) for _, request in engine.asked}  # type: ignore[attr-defined]

    # Which item of which reply each line is: (sampling seed, item) -> rule.
    verdicts: dict[tuple[int, int], str] = {}
    rows = {row["id"]: row for row in lines(folder / "data" / "train-00000.jsonl")}
    about_it = set()
    for _, item, line in steps(folder):
        if "at" not in line:
            row = rows[line["id"]]
            if re.search("declin|refus|reject|sorry|apolog|robot", row["instruction"] + row["input"], re.IGNORECASE):
                about_it.add((line["asked"][0]["seed"], item if name == "alpaca" else 0))
            continue
        of_draft = line["at"] == "draft" or name == "alpaca"
        asked = line["asked"][0 if of_draft else -1]
        verdicts[asked["seed"], item if of_draft else int(line["name"].rpartition(".")[2])] = line["by"]
    seen = {(asked["seed"]) for _, _, line in steps(folder) for asked in line["asked"]}
    cut = max(step for step, _, _ in steps(folder))
    last = {asked["seed"] for step, _, line in steps(folder) if step == cut for asked in line["asked"]}

    expected: dict[tuple[int, int], set[str]] = {}
    for seed in seen:
        for one in planted[seed]:
            expected[seed, one.item or 0] = RULES[one.defect]
    assert len(expected) > 30
    for place, rules in expected.items():
        if place not in verdicts and (place[0] in last or (rules == {"refusal"} and place in about_it)):
            continue  # beyond the cut, or an apology where one is wanted
        assert verdicts.get(place) in rules, (place, rules)
    by_chance = {by for place, by in verdicts.items() if place not in expected}
    assert by_chance <= {"novelty", "opening", "duplicate"}
    assert sum(place not in expected for place in verdicts) <= len(expected) // 4


# Failures.


def test_a_disk_that_refuses_stops_the_run_whole_and_resumable(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = plan(num=40, seed=3)
    expected = whole(recipe)
    real = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if broken and mode in ("ab", "wb") and folder in path.parents:
            raise OSError(28, "No space left on device")
        return real(path, mode, *args, **more)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr("selfinstruct.shards.PAUSE", 0.0)
    for at in (1, 30, 70):
        folder, broken = tmp_path / str(at), []
        engine = watched(recipe, jitter=1, at=at, strike=lambda broken=broken: broken.append(1))  # type: ignore[misc]
        with pytest.raises(StorageError, match="No space left") as error:
            finish(folder, recipe, engine)
        assert "same command" in error.value.hint
        assert is_prefix(found(folder), expected)
        broken.clear()
        before = stored_keys(folder)
        engine = watched(recipe)
        finish(folder, recipe, engine)
        assert not set(before) & set(engine.keys)
        assert found(folder) == expected


def test_a_journal_that_refuses_stops_the_run_whole_and_resumable(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages that SQLite may use are limited, which is what a full disk is to it."""
    recipe = plan(num=40, seed=3)
    folder = tmp_path / "run"
    init = Journal.__init__

    def small(self: Journal, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        self._db.execute(f"PRAGMA max_page_count = {pages}")

    pages = 24
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "__init__", small)
        with pytest.raises(StorageError, match="full"):
            finish(folder, recipe)
    assert stored_keys(folder)
    assert is_prefix(found(folder), whole(recipe))
    engine, before = watched(recipe), stored_keys(folder)
    finish(folder, recipe, engine)
    assert not set(before) & set(engine.keys)
    assert found(folder) == whole(recipe)


def test_two_runs_do_not_share_a_folder(tmp_path: Path, whole: Whole) -> None:
    folder, recipe = tmp_path / "run", plan(num=30)
    refused = 0
    for progress in run_of(folder, recipe, watched(recipe, concurrency=1)):
        if not refused and progress.arrived:
            with pytest.raises(UsageError, match="in use by process"):
                finish(folder, recipe)
            refused += 1
    assert refused
    assert found(folder) == whole(recipe)


@pytest.mark.parametrize(("name", "rule", "patience"), [("self-instruct", "duplicate", 9), ("alpaca", "unreadable", 4)])
def test_a_run_that_gives_nothing_new_stops_at_one_point_and_more_patience_goes_on(
    name: str, rule: str, patience: int, tmp_path: Path
) -> None:
    recipe = plan(name, f"schedule.patience={patience}", num=3000, script="barren")
    said, files = set(), []
    for concurrency in (1, 16):
        folder = tmp_path / str(concurrency)
        for again in (False, True):
            engine = watched(recipe, concurrency=concurrency, jitter=concurrency)
            with pytest.raises(ExhaustedError, match=f"{patience} steps in a row .* '{rule}'") as error:
                finish(folder, recipe, engine)
            assert bool(engine.asked) != again, "what is known to give nothing was asked again"
            said.add(error.value.message)
            files.append(found(folder))
            assert (told(folder)["state"], told(folder)["last_error"]) == ("stopped", error.value.message)
            assert told(folder)["uncertain"] == 0, "what was under way was not waited for"
            assert all(finding.right for finding in verify(folder))
    assert len(said) == 1
    assert all(one == files[0] for one in files)
    with pytest.raises(ExhaustedError, match="15 steps in a row"):
        finish(folder, plan(name, "schedule.patience=15", num=3000, script="barren"))
    assert is_prefix(files[0], found(folder))
    assert len(found(folder)["rejected.jsonl"]) > len(files[0]["rejected.jsonl"])


# The plan.


def test_the_plan_shows_six_seeds_and_two_written_tasks_that_are_old_enough(tmp_path: Path) -> None:
    folder, recipe = tmp_path / "run", plan("self-instruct", "schedule.lookahead=8", num=150)
    finish(folder, recipe, watched(recipe, concurrency=32, jitter=8))
    seeds = {seed.task for seed in read_seeds(SEEDS)}
    let_in: dict[int, dict[int, str]] = defaultdict(dict)
    parents: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for step, item, line in steps(folder):
        if line.get("at") != "answer" or line["instruction"]:
            parents[step].add(tuple(line["parents"]))
        if line.get("at") != "draft" and line["task"]:
            let_in[step][item] = line["task"]
    assert max(parents) > 20
    for step, shown in parents.items():
        assert len(shown) == 1
        visible = {task for at, tasks in let_in.items() if at <= step - lookahead(step, 8) for task in tasks.values()}
        written = [task for task in next(iter(shown)) if task not in seeds]
        assert len(next(iter(shown))) == 8 == len(set(next(iter(shown))))
        assert set(written) <= visible
        assert len(written) == min(2, len(visible))


# Steering.


def test_steering_stands_in_the_prompt_and_in_lineage_and_moves_nothing_else(tmp_path: Path) -> None:
    topics, languages = tmp_path / "topics", tmp_path / "languages"
    topics.write_text("bees {and} %s\n\n  rivers\n", encoding="utf-8")
    languages.write_text("\ufeffDeutsch\r\n日本語\r\n", encoding="utf-8")
    recipe = plan(num=60, script="plain")
    vary = {"topic": topics, "language": languages}
    finish(tmp_path / "plain", recipe)
    finish(tmp_path / "run", recipe, vary=vary)
    finish(tmp_path / "other", recipe, watched(recipe, concurrency=1), vary=vary)
    assert found(tmp_path / "run") == found(tmp_path / "other")
    drawn: dict[int, dict[str, str]] = {}
    for step, _, line in steps(tmp_path / "run"):
        assert drawn.setdefault(step, line["vary"]) == line["vary"]
        assert line["vary"]["topic"] in ("bees {and} %s", "rivers")
        assert line["vary"]["language"] in ("Deutsch", "日本語")
    assert len({tuple(one.items()) for one in drawn.values()}) > 1
    for line in lines(tmp_path / "run" / "lineage.jsonl")[::6]:
        story = lineage(tmp_path / "run", line["id"], with_prompts=True)
        assert story is not None
        assert all(value in story["asked"][0]["read"] for value in line["vary"].values())
        assert not any(value in story["asked"][-1]["read"] for value in line["vary"].values())
    # The draws of the first steps, which depend on no reply, are those of a run without steering.
    plain = {step: line["parents"] for step, _, line in steps(tmp_path / "plain") if step < 4}
    steered = {step: line["parents"] for step, _, line in steps(tmp_path / "run") if step < 4}
    assert {step: plain[step] for step in plain.keys() & steered.keys()} == {
        step: steered[step] for step in plain.keys() & steered.keys()
    }


# From Python.


def test_it_works_inside_a_running_event_loop(tmp_path: Path, whole: Whole) -> None:
    recipe = plan(num=12)

    async def notebook() -> list[str]:
        finish(tmp_path / "run", recipe)
        assert all(finding.right for finding in verify(tmp_path / "run"))
        return [record.id for record in run_of(tmp_path / "run", recipe).records()]

    assert len(asyncio.run(notebook())) == 12
    assert found(tmp_path / "run") == whole(recipe)


def test_two_runs_go_on_side_by_side(tmp_path: Path, whole: Whole) -> None:
    recipes = {str(seed): plan(num=20, seed=seed) for seed in range(2)}
    failed: list[BaseException] = []

    def one(name: str) -> None:
        try:
            finish(tmp_path / name, recipes[name])
        except BaseException as error:  # noqa: BLE001 -- told below
            failed.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in recipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(found(tmp_path / name) == whole(recipe) for name, recipe in recipes.items())


@pytest.mark.parametrize("how", ["raise", "close"])
def test_a_consumer_that_gives_up_leaves_no_thread_and_a_resumable_folder(
    how: str, tmp_path: Path, whole: Whole
) -> None:
    recipe = plan(num=20)
    progress = iter(run_of(tmp_path / "run", recipe, watched(recipe, concurrency=1, jitter=1)))
    if how == "close":
        next(progress)
        progress.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(ZeroDivisionError):
            for _ in run_of(tmp_path / "run", recipe, watched(recipe, concurrency=1, jitter=1)):
                1 / 0  # noqa: B018
    assert not [thread for thread in threading.enumerate() if thread.name == "selfinstruct"]
    assert told(tmp_path / "run")["state"] == "interrupted"
    assert not (tmp_path / "run" / "lock").read_text()
    finish(tmp_path / "run", recipe)
    assert found(tmp_path / "run") == whole(recipe)


def test_run_json_names_the_model_and_every_file(tmp_path: Path) -> None:
    folder, recipe = tmp_path / "run", plan(num=5)
    finish(folder, recipe)
    known = told(folder)
    script = Path(recipe.model.removeprefix("scripted/")).read_bytes()
    assert known["engines"][0]["script_sha256"] == hashlib.sha256(script).hexdigest()
    assert known["sha256"] == {name: hashlib.sha256(content).hexdigest() for name, content in found(folder).items()}


def test_a_smaller_target_stops_a_stopped_run_sooner_and_takes_nothing_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for progress in run_of(folder, plan(script="slow", num=5000)):
        if progress.kept > 20:
            break
    before = found(folder)
    kept = len(lines(folder / "lineage.jsonl"))
    assert finish(folder, plan(script="slow", num=10)).state == "complete"
    assert is_prefix(before, found(folder))
    assert len(lines(folder / "lineage.jsonl")) == max(10, kept)


def test_a_start_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("not json\n")
    with pytest.raises(InputError):
        finish(tmp_path / "run", plan(), seeds=seeds)
    with pytest.raises(UsageError, match="filter 'nobody'"):
        finish(tmp_path / "run", plan("self-instruct", 'filters.draft=["nobody"]'))
    with pytest.raises(UsageError, match="model 'nobody/x'"):
        finish(tmp_path / "run", plan().model_copy(update={"model": "nobody/x"}))
    nowhere = plan().model_copy(update={"model": f"vllm/{tmp_path}/none"})
    with pytest.raises(UsageError, match="no such folder"):  # what is seen when the model is opened
        finish(tmp_path / "run", nowhere)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="no such folder"):
        finish(tmp_path / "run", nowhere)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_model_that_cannot_be_opened_leaves_a_run_as_it_was(tmp_path: Path) -> None:
    folder, script = tmp_path / "run", tmp_path / "slow.toml"
    script.write_bytes((SCRIPTS / "slow.toml").read_bytes())
    recipe = plan(num=20).model_copy(update={"model": f"scripted/{script}"})
    for progress in run_of(folder, recipe):
        if progress.kept > 3:
            break
    before = found(folder), stored_keys(folder)
    script.unlink()
    with pytest.raises(UsageError):
        finish(folder, recipe)
    assert (found(folder), stored_keys(folder)) == before
    assert before[1]


@pytest.mark.parametrize(
    ("recipe", "more", "said"),
    [
        (plan("self-instruct", "sampling.bootsrap.temperature=2"), {}, "sampling.bootsrap"),
        (plan("self-instruct", "draft.operator=answer"), {}, "draft.operator"),
        (plan("self-instruct", "answer.operator=bootstrap"), {}, "answer.operator"),
        (plan("self-instruct", "answer.samples=2"), {}, "answer.samples = 2: the operator 'instances'"),
        (plan("alpaca", "answer.samples=2"), {}, "answer.samples"),
        (plan("answer", "draft.samples=2"), {}, "draft.samples"),
        (plan("evolve/wizardlm", "draft.samples=2"), {}, "draft.samples"),
        (plan("evolve/wizardlm", "answer.samples=2"), {}, "one answer in each round"),
        (plan("alpaca"), {"system": True}, "system text"),
        (plan("self-instruct", "style=completion"), {"system": True}, "system text"),
        (plan("self-instruct"), {"vary": True}, "no slot"),
    ],
)
def test_what_no_request_would_read_is_refused_before_anything_is_paid(
    tmp_path: Path, recipe: Recipe, more: dict[str, Any], said: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Speak like a pirate.\n")
    if more.pop("system", None):
        more["system"] = text
    if more.pop("vary", None):
        prompt = tmp_path / "prompts" / "bootstrap" / "prefill.md"
        prompt.parent.mkdir(parents=True)
        body = "{% for one in examples %}{{ one }}{% endfor %}{{ last }}{{ kind }}"
        prompt.write_text(
            f"---\nabout: mine\nslots: {{examples: [a], last: 2, kind: any}}\n---\n<!-- user -->\n{body}\n"
        )
        more |= {"vary": {"topic": text}, "prompts": tmp_path / "prompts"}
    with pytest.raises(UsageError, match=said):
        finish(tmp_path / "run", recipe, **more)
    assert not (tmp_path / "run" / "journal.sqlite").exists() or not list(
        Journal(tmp_path / "run" / "journal.sqlite", read_only=True).replies()
    )


def test_a_rows_own_system_text_goes_with_its_new_answer(tmp_path: Path) -> None:
    source = tmp_path / "chat.jsonl"
    turns = [
        {"role": role, "content": text} for role, text in (("system", "Be brief."), ("user", "Hi?"), ("assistant", "?"))
    ]
    source.write_text(json.dumps({"messages": turns}) + "\n")
    finish(tmp_path / "run", plan("answer"), source=source)
    rows = lines(tmp_path / "run" / "data" / "train-00000.jsonl") + lines(tmp_path / "run" / "rejected.jsonl")
    assert rows[0].get("system", "Be brief.") == "Be brief."
    assert '"system"' in (tmp_path / "run" / "recipe.toml").read_text()


def test_the_digest_of_a_dataset_is_of_what_is_read_of_it(tmp_path: Path) -> None:
    finish(tmp_path / "made", plan(num=5))
    run = run_of(tmp_path / "again", plan("answer"), source=tmp_path / "made")
    list(run)
    (tmp_path / "made" / "notes.json").write_text("{}")
    again = list(run_of(tmp_path / "again", plan("answer"), source=tmp_path / "made"))
    assert [progress.state for progress in again] == ["complete"]


def test_fresh_leaves_a_file_that_only_bears_a_journals_name(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_text("my notes")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="not a journal"):
        finish(tmp_path, plan(num=5), fresh=True)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_model_that_is_not_what_it_was_is_said_aloud_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "model.toml"
    script.write_text("seed = 1\n")
    recipe = plan(num=5).model_copy(update={"model": f"scripted/{script}"})
    finish(tmp_path / "run", recipe)
    script.write_text("seed = 2\n")
    finish(tmp_path / "run", recipe.model_copy(update={"num": 8}))
    assert len([one for one in caplog.messages if "is not what it was" in one]) == 1
    assert len(told(tmp_path / "run")["earlier engines"]) == 1


@pytest.mark.parametrize(("width", "num", "warned"), [(64, 300, True), (64, 200, False), (8, 300, False)])
def test_a_lookahead_that_cannot_fill_the_engine_is_told_of_before_it_is_settled(
    width: int, num: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = plan("self-instruct", "schedule.lookahead=64", num=num)
    for _ in range(2):  # said once, before the first reply
        progress = iter(run_of(tmp_path / "run", recipe, options=Options(concurrency=width)))
        for _ in range(3):
            next(progress)
        progress.close()  # type: ignore[attr-defined]
    told = [one for one in caplog.messages if "schedule.lookahead=256" in one]
    assert len(told) == warned
