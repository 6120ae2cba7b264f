"""Replay and verify: a stored run gives its own bytes again, other rules give what they say, and no byte lies."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from runfolders import (
    KINDS,
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
    told,
    watched,
)

import selfinstruct.run
import selfinstruct.shards
from selfinstruct.engines import Reply, Request
from selfinstruct.errors import ExhaustedError, InputError, SelfInstructError, UsageError
from selfinstruct.formats import read_seeds
from selfinstruct.journal import Place
from selfinstruct.lineage import lineage
from selfinstruct.loop import Counts
from selfinstruct.recipe import Recipe, with_values
from selfinstruct.replaying import Finding, Story, replay, verify
from selfinstruct.shards import Shards

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A complete run of every kind. Nobody writes into it."""
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp("done") / "run"
        recipe = plan(kind, num=60, seed=7)
        finish(folders[kind], recipe, watched(recipe, jitter=1))
    return folders


@pytest.fixture
def copy(done: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(done["self-instruct", "strict"], tmp_path / "run"))


def stopped(folder: Path, recipe: Recipe, at: int) -> None:
    engine = watched(recipe, jitter=at, at=at, strike=lambda: run.leave())
    run = run_of(folder, recipe, engine)
    for _ in run:
        pass


def wrong(folder: Path) -> list[Finding]:
    return [finding for finding in verify(folder) if not finding.right]


# The same again.


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_replay_without_a_change_gives_the_same_bytes(
    kind: tuple[str, str], done: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    counts = replay(done[kind], [], tmp_path / "again")
    assert found(tmp_path / "again") == found(done[kind])
    assert counts.figures() == told(done[kind])["figures"]
    assert not wrong(done[kind])


def test_a_steered_run_on_files_of_ones_own_is_replayed_when_they_are_gone(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("seeds.json", "topics", "system")}
    files["seeds.json"].write_bytes(SEEDS.read_bytes())
    files["topics"].write_text("\ufeffrivers\r\nbees\r\n", encoding="utf-8")
    files["system"].write_text("Be brief.\n")
    recipe = plan(num=20)
    finish(tmp_path / "run", recipe, seeds=files["seeds.json"], vary={"topic": files["topics"]}, system=files["system"])
    for path in files.values():
        path.unlink()
    replay(tmp_path / "run", [], tmp_path / "again")
    assert found(tmp_path / "again") == found(tmp_path / "run")
    assert not wrong(tmp_path / "run")
    assert all(row["system"] == "Be brief." for row in lines(tmp_path / "again" / "data" / "train-00000.jsonl"))


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_runs_that_were_interrupted_and_extended_replay_to_their_bytes(
    kind: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfinstruct.run, "TICK", 0.002)
    folder = tmp_path / "run"
    for at in (9, 20, 40):
        stopped(folder, plan(kind, num=50), at)
        again = tmp_path / f"again {at}"
        replay(folder, [], again)
        assert is_prefix(found(folder), found(again))
        assert not wrong(folder)
    for num in (50, 70):
        finish(folder, plan(kind, num=num))
        replay(folder, [], tmp_path / f"again at {num}")
        assert found(tmp_path / f"again at {num}") == found(folder)


def test_a_run_that_gave_nothing_new_replays_to_its_bytes(tmp_path: Path) -> None:
    recipe = plan("self-instruct", "schedule.patience=8", num=500, script="barren")
    with pytest.raises(ExhaustedError):
        finish(tmp_path / "run", recipe)
    assert not wrong(tmp_path / "run")
    replay(tmp_path / "run", [], tmp_path / "again")
    assert found(tmp_path / "again") == found(tmp_path / "run")
    assert not (tmp_path / "again" / "journal.sqlite").exists()


def test_more_patience_and_a_larger_target_use_what_is_stored_beyond_the_cut(
    done: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    folder = done["self-instruct", "strict"]
    assert told(folder)["surplus"]
    more = replay(folder, ["num=70"], tmp_path / "more")
    assert 60 < more.kept <= 70
    assert is_prefix(found(folder), found(tmp_path / "more"))
    fewer = replay(folder, ["num=10"], tmp_path / "fewer")
    assert fewer.kept == 10
    assert is_prefix(found(tmp_path / "fewer"), found(folder))


# Other rules.


@pytest.mark.parametrize("kind", WRITING, ids="-".join)
def test_a_stricter_threshold_leaves_nothing_closer_than_it_says(
    kind: tuple[str, str], done: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    counts = replay(done[kind], ["novelty.threshold=0.3"], tmp_path / "out")
    assert 0 < counts.kept <= 60
    assert counts.rejected["novelty"] > told(done[kind])["figures"]["rejected"].get("novelty", 0)
    seeds = {seed.task: seed.instruction for seed in read_seeds(SEEDS)}
    earlier = dict(seeds)
    for row, origin in zip(
        lines(tmp_path / "out" / "data" / "train-00000.jsonl"), lines(tmp_path / "out" / "lineage.jsonl"), strict=True
    ):
        if origin["task"] in earlier:
            continue  # another instance of the same task
        for text in earlier.values():
            assert scorer.score(text, row["instruction"])["rougeL"].fmeasure <= 0.3
        earlier[origin["task"]] = row["instruction"]
    for line in lines(tmp_path / "out" / "rejected.jsonl"):
        if line["by"] == "novelty":
            assert line["score"] > 0.3
            if line["neighbour"] in earlier:
                score = scorer.score(earlier[line["neighbour"]], line["instruction"])["rougeL"].fmeasure
                assert score == pytest.approx(line["score"], abs=1e-12)


def test_what_a_looser_threshold_lets_in_was_never_answered(done: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    folder = done["self-instruct", "strict"]
    before = {line["name"] for line in lines(folder / "rejected.jsonl") if line["by"] in ("novelty", "duplicate")}
    draft = 'filters.draft=["length", "start", "wording", "opening"]'
    for number, change in enumerate((["novelty.threshold=1.0"], [draft])):
        counts = replay(folder, change, tmp_path / str(number))
        unanswered = [line for line in lines(tmp_path / str(number) / "rejected.jsonl") if line["by"] == "unanswered"]
        assert unanswered
        assert {line["name"].rpartition(".")[0] for line in unanswered} <= before
        assert all(line["at"] == "answer" for line in unanswered)
        assert counts.rejected["unanswered"] == len(unanswered)
        kept = {line["id"] for line in lines(tmp_path / str(number) / "lineage.jsonl")}
        assert kept == {line["id"] for line in lines(folder / "lineage.jsonl")}


def test_whole_tasks_let_in_later_have_their_answers(done: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    counts = replay(done["alpaca", "strict"], ["novelty.threshold=1.0", "num=70"], tmp_path / "out")
    assert "unanswered" not in counts.rejected
    before = {line["name"] for line in lines(done["alpaca", "strict"] / "rejected.jsonl") if line["by"] == "novelty"}
    assert before & {line["place"] for line in lines(tmp_path / "out" / "lineage.jsonl")}


def test_rules_that_are_taken_away_reject_nothing(done: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    folder = done["self-instruct", "strict"]
    counts = replay(folder, ["filters.answer=[]", "num=9999"], tmp_path / "out")
    assert not counts.rejected.keys() & {"empty", "echo", "colon", "leak", "refusal", "repetition", "unfinished"}
    assert counts.kept > 60
    counts = replay(folder, ['filters.draft=["length"]', "length.min_words=9"], tmp_path / "long")
    assert all(len(row["instruction"].split()) >= 9 for row in lines(tmp_path / "long" / "data" / "train-00000.jsonl"))
    assert "novelty" not in counts.rejected


@pytest.mark.parametrize(
    "change",
    ["seed=2", "model=scripted", "draft.items=3", "style=chat", "schedule.lookahead=9", "answer.max_instances=1",
     "behaviour=compat", "sampling.bootstrap.temperature=0", 'inputs.seeds="00"', "name=other",
     'columns=["id", "instruction", "input", "output", "reasoning"]'],
)  # fmt: skip
def test_what_would_have_changed_a_request_cannot_be_replayed(
    change: str, done: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"replay cannot change {change.split('=')[0]}"):
        replay(done["self-instruct", "strict"], [change], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_replay_overwrites_nothing(done: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    folder = done["self-instruct", "strict"]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for out in (folder, tmp_path / "file", tmp_path / "full"):
        with pytest.raises(UsageError, match="is not empty"):
            replay(folder, [], out)
    (tmp_path / "empty").mkdir()
    replay(folder, [], tmp_path / "empty")


def test_a_changed_dataset_is_not_replayed_as_if_it_were_the_old_one(tmp_path: Path) -> None:
    source = dataset(tmp_path)
    finish(tmp_path / "run", plan("answer"))
    with source.open("a") as file:
        file.write('{"instruction": "Another one.", "output": "?"}\n')
    for again in (lambda: verify(tmp_path / "run"), lambda: replay(tmp_path / "run", [], tmp_path / "out")):
        with pytest.raises(InputError, match="has changed since the run"):
            again()
    source.unlink()
    with pytest.raises(SelfInstructError, match=r"source\.jsonl"):
        verify(tmp_path / "run")


# Verify.


@pytest.mark.parametrize(
    "name", ["data/train-00000.jsonl", "lineage.jsonl", "rejected.jsonl", "recipe.toml", "README.md"]
)
def test_one_edited_byte_is_found(name: str, copy: Path) -> None:
    assert not wrong(copy)
    whole = (copy / name).read_bytes()
    random = Random(name)
    for _ in range(4):
        content = bytearray(whole)
        content[random.randrange(len(content))] ^= random.choice((1, 2, 128))
        (copy / name).write_bytes(content)
        assert name in {finding.what for finding in wrong(copy)}


@pytest.mark.parametrize("stage", ["bootstrap", "classify", "input-first", "output-first"])
def test_a_reply_that_was_deleted_is_found(stage: str, copy: Path) -> None:
    places = [asked["place"] for line in lines(copy / "lineage.jsonl") for asked in line["asked"]]
    place = Place.read([place for place in places if place.startswith(stage)][-1])
    with closing(sqlite3.connect(copy / "journal.sqlite")) as db:
        db.execute("DELETE FROM replies WHERE stage = ? AND step = ? AND item = ?", place[:3])
        db.commit()
    assert {"lineage.jsonl", "data/train-00000.jsonl"} <= {finding.what for finding in wrong(copy)}


def test_a_removed_or_added_shard_is_found(copy: Path) -> None:
    shard = copy / "data" / "train-00000.jsonl"
    shard.with_name("train-00001.jsonl").write_bytes(shard.read_bytes())
    assert "data/train-00001.jsonl" in {finding.what for finding in wrong(copy)}
    shard.with_name("train-00001.jsonl").unlink()
    shard.unlink()
    assert "data/train-00000.jsonl" in {finding.what for finding in wrong(copy)}


def test_damaged_replies_are_named(copy: Path) -> None:
    with closing(sqlite3.connect(copy / "journal.sqlite")) as db:
        db.execute("UPDATE replies SET reply = '{' WHERE stage = 'bootstrap' AND step = 2")
        db.commit()
    with pytest.raises(InputError, match="bootstrap:2 is damaged"):
        verify(copy)


def test_a_folder_that_is_no_run_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(SelfInstructError, match="no journal"):
        verify(tmp_path)


def test_an_edit_in_an_interrupted_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfinstruct.run, "TICK", 0.002)
    stopped(tmp_path / "run", plan(num=100), 150)
    for name in ("data/train-00000.jsonl", "lineage.jsonl", "rejected.jsonl", "recipe.toml", "README.md"):
        path = tmp_path / "run" / name
        content = path.read_bytes()
        assert content
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        assert wrong(tmp_path / "run"), name
        path.write_bytes(content)
    assert not wrong(tmp_path / "run")


# The story of one record.


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_every_record_and_reject_has_its_whole_story(kind: tuple[str, str], done: dict[tuple[str, str], Path]) -> None:
    folder = done[kind]
    for _, _, line in list(steps(folder))[::17]:
        name = line.get("id") or line["name"]
        story = lineage(folder, name, with_prompts=True)
        assert story is not None
        assert [asked["place"] for asked in story["asked"]] == [asked["place"] for asked in line["asked"]]
        for asked in story["asked"]:
            assert asked["wrote"] or line.get("by") in ("empty", "unreadable")
            assert asked["read"]
        if kind[0] not in ("answer", "verifiable"):  # theirs are rows of the dataset
            assert all(parent["instruction"] != "(not in this folder)" for parent in story["parents"])
        if line.get("by") == "novelty":
            assert story["neighbour"]
    assert lineage(folder, "nothing of this name") is None


def test_replay_and_verify_work_inside_a_running_event_loop(done: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    async def notebook() -> int:
        return replay(done["alpaca", "strict"], [], tmp_path / "out").kept

    assert asyncio.run(notebook()) == 60


# A run under way, and what its books cannot know.


def test_a_healthy_run_under_way_is_never_called_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfinstruct.run, "TICK", 0.01)
    monkeypatch.setattr(selfinstruct.shards, "PAUSE", 0.0)
    run = run_of(tmp_path / "run", plan("self-instruct", num=250, script="unhurried"))
    looks = grew = 0
    for progress in run:
        if progress.kept and looks < 12:
            before = len((tmp_path / "run" / "lineage.jsonl").read_bytes())
            assert not wrong(tmp_path / "run")
            looks += 1
            grew += len((tmp_path / "run" / "lineage.jsonl").read_bytes()) > before
            if looks == 12:
                run.leave()
    assert looks == 12
    assert grew


def test_replies_to_other_requests_than_the_plan_asks_are_counted(copy: Path) -> None:
    with closing(sqlite3.connect(copy / "journal.sqlite")) as db:
        db.execute("UPDATE replies SET key = 'another' WHERE stage = 'bootstrap' AND step < 2")
        db.commit()
    findings = {finding.what: finding for finding in verify(copy)}
    assert not findings["requests = what the plan asks"].right
    assert findings["requests = what the plan asks"].figures == "2 differ"


def test_a_replay_short_of_its_target_has_ended_and_one_that_reaches_it_is_complete(
    done: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    for kind, change, state, target in (
        (("self-instruct", "strict"), ["num=9999"], "ended", 9999),
        (("self-instruct", "strict"), ["num=9"], "complete", 9),
        (("answer", "strict"), [], "complete", 40),
    ):
        out = tmp_path / f"{kind[0]} {target}"
        replay(done[kind], change, out)
        assert (told(out)["state"], told(out)["target"]) == (state, target)


class Named(Watched):
    """Says of itself that it is another model from a call on."""

    async def complete(self, request: Request) -> Reply:
        reply = await super().complete(request)
        return reply.model_copy(update={"model": f"m{1 + (self.at and len(self.asked) > self.at)}"})


def test_a_name_that_changes_under_way_is_said_once_in_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def said() -> int:
        return sum("more than one model: m1, m2" in message for message in caplog.messages)

    for num in (10, 20):
        finish(tmp_path / "steady", plan(num=num), Named(plan().model))
    assert not said()
    for num in (10, 20):
        finish(tmp_path / "mixed", plan(num=num), Named(plan().model, at=5))
        assert said() == 1


def test_a_name_that_changes_between_two_calls_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finish(tmp_path / "run", plan(num=10), Named(plan().model))
    replies = told(tmp_path / "run")["replies"]
    finish(tmp_path / "run", plan(num=40), Named(plan().model, at=1))
    assert told(tmp_path / "run")["replies"] > replies + 1
    assert sum("more than one model: m1, m2" in message for message in caplog.messages) == 1


def test_a_script_that_changed_between_two_calls_is_said_and_its_earlier_facts_are_kept_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script, recipe = tmp_path / "model.toml", plan(num=5)
    for count, (seed, said) in enumerate(((1, 0), (2, 1), (2, 1), (1, 2), (2, 3)), 1):
        script.write_text(f"seed = {seed}\n")
        changed = recipe.model_copy(update={"model": f"scripted/{script}", "num": 5 * count})
        finish(tmp_path / "run", changed)
        assert sum("is not what it was: script_sha256" in message for message in caplog.messages) == said
    digests = [facts["script_sha256"] for facts in told(tmp_path / "run")["earlier engines"]]
    assert len(digests) == len(set(digests)) == 2


def test_what_arrives_while_a_run_is_gone_over_again_is_left_for_the_next_time(copy: Path, tmp_path: Path) -> None:
    columns = "stage, step, item, attempt, key, parents, asked, sent, arrived, reply"
    with closing(sqlite3.connect(copy / "journal.sqlite")) as db:
        late = db.execute(f"SELECT {columns} FROM replies WHERE step >= 5").fetchall()
        db.execute("DELETE FROM replies WHERE step >= 5")
        db.commit()

    class Growing(Story):
        readings = 0

        def _go_over(self, *rest: Any, **more: Any) -> Counts:
            counts = super()._go_over(*rest, **more)
            self.readings += 1
            if self.readings == 1:
                with closing(sqlite3.connect(copy / "journal.sqlite")) as db:
                    db.executemany(f"INSERT INTO replies ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", late)
                    db.commit()
            return counts

    with closing(Growing(copy)) as story:
        stricter = with_values(story.recipe, ["novelty.threshold=0.5"])
        with closing(Shards(tmp_path / "out", stricter, {})) as shards:
            counts = story.tell(stricter, shards)
        assert story.readings == 2
        assert late
        assert counts.steps == 5
