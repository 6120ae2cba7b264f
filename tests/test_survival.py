"""What survives of an evolution, counted twice: every figure adds up, and says what the folder's lines say."""

from __future__ import annotations

import asyncio
import json
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runfolders import SCRIPTS, SEEDS, finish, lines, plan, told

from selfinstruct.engines import Reply, Usage
from selfinstruct.errors import InputError, UsageError
from selfinstruct.journal import Journal, Place
from selfinstruct.lineage import lineage, tree
from selfinstruct.loop import Kept, Rejected
from selfinstruct.recipe import load
from selfinstruct.records import Evolution, Objection, Record
from selfinstruct.replaying import replay
from selfinstruct.shards import Shards
from selfinstruct.survival import Price, Survival, Tally, survival

OPERATORS = ("constraints", "deepen", "breadth")
RULES = ("growth", "equal", "struggles")


# Folders whose every step is chosen, written by the real shards and the real journal.


class Try(NamedTuple):
    """What becomes of a lineage in a round; nothing is tried where it rests."""

    operator: str
    by: str = ""
    added: int = 0
    score: int | None = None
    usage: tuple[tuple[int, int], ...] = ()
    """Tokens read and written, of draft, judges and answer."""


tries = st.builds(
    Try,
    operator=st.sampled_from(OPERATORS),
    by=st.sampled_from(("", "", *RULES)),
    added=st.integers(-60, 400),
    score=st.none() | st.integers(1, 10),
    usage=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 90)), max_size=3).map(tuple),
)
plans = st.integers(1, 4).flatmap(
    lambda rows: st.lists(st.lists(st.none() | tries, min_size=rows, max_size=rows), min_size=1, max_size=4)
)
"""Rounds of lineages. Round 0 holds the rows, of which only score and usage are looked at."""


def write(folder: Path, rounds: Sequence[Sequence[Try | None]], *, ahead: int = 0) -> None:
    """The run folder of a plan; the last ``ahead`` steps have replies, but no line yet."""
    folder.mkdir()
    whole = [(number, lineage, one) for number, tried in enumerate(rounds) for lineage, one in enumerate(tried)]
    parents: dict[int, Record] = {}
    with closing(Shards(folder, load("answer"), {})) as shards:
        for step, (number, lineage, one) in enumerate(whole[: len(whole) - ahead]):
            place = Place("evolve", step, 0)
            scores = {} if one is None or one.score is None else {"difficulty": float(one.score)}
            if not number:
                evolution = Evolution(lineage=lineage, root=f"row {lineage}")
                row = Record(
                    instruction=f"Row {lineage}.", output="Yes.", task=f"row {lineage}", origin="given",
                    evolution=evolution,
                )  # fmt: skip
                parents[lineage] = row
                shards.keep(Kept(row, place, {}, (), (), scores))
            elif one is not None:
                parent = parents[lineage]
                assert parent.evolution is not None
                evolution = Evolution(
                    lineage=lineage, root=f"row {lineage}", round=number, operator=one.operator, direction="in-depth",
                    attempt=number - parent.evolution.round, added=one.added,
                )  # fmt: skip
                child = Record(
                    instruction=f"{parent.instruction} More in round {number}.", output="Yes.", task=f"task {step}",
                    origin="evolve", parents=(parent.task,), evolution=evolution,
                )  # fmt: skip
                if one.by:
                    objection = Objection(by=one.by, why="it is so", at="draft")
                    shards.reject(Rejected(str(place), objection, child, "", {}, (), scores))
                else:
                    parents[lineage] = child
                    shards.keep(Kept(child, place, {}, (), (), scores))
    asyncio.run(_ask(folder, [one.usage if one else () for _, _, one in whole]))


async def _ask(folder: Path, usages: list[tuple[tuple[int, int], ...]]) -> None:
    with closing(Journal(folder / "journal.sqlite")) as journal:
        arriving = []
        for step, usage in enumerate(usages):
            for item, (prompt, completion) in enumerate(usage, -1):
                place = Place("evolve" if item < 0 else f"judge/{item}", step, item)
                journal.sending(place, "key", ())
                reply = Reply(text="…", usage=Usage(prompt=prompt, completion=completion))
                arriving.append(journal.arrived(place, reply))
        await asyncio.gather(*arriving)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("plans") / "run"


@settings(max_examples=40, deadline=None)
@given(plans, st.integers(0, 3))
def test_every_cell_counts_what_the_plan_says_of_it(scratch: Path, rounds: list[list[Try | None]], ahead: int) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    whole = [(number, one) for number, tried in enumerate(rounds) for one in tried]
    ahead = min(ahead, len(whole) - 1)
    write(scratch, rounds, ahead=ahead)
    found = survival(scratch)
    past = whole[: len(whole) - ahead]

    def expected(operator: str | None, number: int) -> list[Try]:
        ours = [one for at, one in past if at == number and one is not None]
        return [one for one in ours if operator in (None, one.operator)]

    for number in range(len(rounds)):
        for operator in (None, *OPERATORS) if number else (None,):
            ours, tally = expected(operator, number), found.of(operator=operator, round=number)
            tried = len([at for at, _ in past if at == number]) if not number else len(ours)
            kept = [one for one in ours if not one.by]
            assert tally.tried == tried
            if number:
                assert tally.kept == len(kept)
                assert tally.rejected == Counter(one.by for one in ours if one.by)
                assert tally.added == Counter(one.added for one in kept)
                judged = [one.score for one in kept if one.score is not None]
                assert tally.score("difficulty") == (sum(judged) / len(judged) if judged else None)
            assert tally.requests == sum(len(one.usage) for one in ours)
            assert tally.prompt == sum(prompt for one in ours for prompt, _ in one.usage)
            assert tally.completion == sum(written for one in ours for _, written in one.usage)
    asked = [pair for _, one in whole if one for pair in one.usage]
    resting = [pair for _, one in whole[len(past) :] if one for pair in one.usage]
    assert found.unsettled.requests == len(resting)
    assert adds_up(found).requests + found.unsettled.requests == len(asked)


def adds_up(found: Survival) -> Tally:
    """Cells, operators and rounds have the same sum; it, with the rows."""
    by_operator, by_round = Tally(), Tally()
    for operator in found.operators:
        by_operator.include(found.of(operator=operator))
    for number in found.rounds:
        tally = found.of(round=number)
        assert tally.tried == tally.kept + tally.rejected.total()
        if number:
            by_round.include(tally)
    assert by_operator == by_round == found.of()
    by_round.include(found.of(round=0))
    return by_round


@given(st.lists(st.integers(-99, 99), min_size=1))
def test_the_quartiles_are_nearest_ranks_and_the_histogram_holds_every_kept_record(added: list[int]) -> None:
    tally = Tally(kept=len(added), added=Counter(added))
    spread = tally.spread()
    assert spread is not None
    ranked = sorted(added)
    assert spread.quartiles == tuple(ranked[-(-len(added) * quarter // 4) - 1] for quarter in (1, 2, 3))
    assert spread.mean == pytest.approx(sum(added) / len(added))
    assert spread.in_window == sum(10 <= words <= 20 for words in added) / len(added)
    histogram = tally.figures(counted=False, price=None)["added"]["histogram"]
    assert {int(words): count for words, count in histogram.items()} == Counter(added)


def test_what_a_kept_record_costs_is_all_that_was_asked(tmp_path: Path) -> None:
    """Three tries of one operator, two of them failed: the third pays for all."""
    row = Try("", usage=((40, 4),))
    deepen = [Try("deepen", by="growth", usage=((100, 10),)), Try("deepen", by="equal", usage=((100, 10), (50, 1)))]
    deepen += [Try("deepen", added=12, usage=((100, 10), (50, 1), (30, 60)))]
    write(tmp_path / "run", [[row], *[[one] for one in deepen]])
    found = survival(tmp_path / "run")
    price = Price(2.0, 8.0)
    figures = found.figures(price)["operators"]["deepen"]
    assert (figures["tried"], figures["kept"]) == (3, 1)
    assert figures["tokens"] == {
        "requests": 6, "prompt": 430, "completion": 92, "prompt per kept": 430, "completion per kept": 92
    }  # fmt: skip
    assert figures["usd"]["per kept"] == pytest.approx(430 * 2e-6 + 92 * 8e-6)
    assert found.figures(price)["rows"]["tokens"]["prompt"] == 40
    write(tmp_path / "barren", [[row], [deepen[0]]])
    barren = survival(tmp_path / "barren").figures(price)["operators"]["deepen"]
    assert barren["tokens"]["prompt per kept"] is None
    assert barren["usd"] == {"all": pytest.approx(100 * 2e-6 + 10 * 8e-6), "per kept": None}


def test_difficulty_is_told_by_round_and_of_kept_records_alone(tmp_path: Path) -> None:
    rounds = [
        [Try("", score=2), Try("", score=4), Try("")],
        [Try("deepen", score=6), Try("deepen", by="equal", score=9), Try("breadth", score=7)],
    ]
    write(tmp_path / "run", rounds)
    told = survival(tmp_path / "run").figures()["rounds"]
    assert told["0"]["scores"] == {"difficulty": {"mean": 3.0, "count": 2}}
    assert told["1"]["scores"] == {"difficulty": {"mean": 6.5, "count": 2}}


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        tried = Try("deepen", added=12, usage=((9, 9), (9, 9)))
        write(tmp_path / str(rows), [[tried] * rows, [tried] * rows])
        tracemalloc.start()
        survival(tmp_path / str(rows))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # what is imported and compiled only once
    assert peak(1_000) < peak(100) + 64 * 1024


def test_a_run_that_does_not_evolve_is_refused_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    finish(tmp_path / "plain", plan(num=3))
    for look in (survival, lambda folder: tree(folder, "bootstrap:0.0")):
        with pytest.raises(UsageError, match="no rounds"):
            look(tmp_path / "plain")
    write(tmp_path / "run", [[Try("")], [Try("deepen")], [Try("deepen", by="equal")]])
    for name, at, old, new in (
        ("lineage.jsonl", 2, '"evolution"', '"revolution"'),
        ("lineage.jsonl", 2, '"round": 1', '"round": "x"'),
        ("lineage.jsonl", 2, "evolve:1.0", "evolve:one"),
        ("rejected.jsonl", 1, '"evolution"', '"revolution"'),
    ):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        path = tmp_path / "copy" / name
        *earlier, last = path.read_text(encoding="utf-8").splitlines(keepends=True)
        assert old in last
        path.write_text("".join([*earlier, last.replace(old, new)]), encoding="utf-8")
        with pytest.raises(InputError, match=f"{name}:{at}"):
            survival(tmp_path / "copy")


# A real run, with faults of every sort.


SEED_ROWS = SEEDS.read_text(encoding="utf-8").splitlines(keepends=True)


def evolved(folder: Path, *sets: str, script: str = "evolve-defects", rows: Sequence[str] = SEED_ROWS[:30]) -> Path:
    (folder.parent / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    model = f"scripted/{SCRIPTS / script}.toml"
    recipe = load("evolve/wizardlm", sets, {"model": model, "judge_model": model})
    finish(folder, recipe, source=folder.parent / "rows.jsonl")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evolved(tmp_path_factory.mktemp("evolved") / "run")


def test_the_figures_of_a_run_are_those_of_run_json_and_of_its_journal(run: Path) -> None:
    found, known = survival(run), told(run)
    whole, figures = adds_up(found), known["figures"]
    assert (whole.kept, dict(whole.rejected)) == (figures["kept"], figures["rejected"])
    assert whole.rejected.total() > 10
    assert found.of().tried == figures["evolution"]["tried"] == 30 * 4
    assert found.of().kept == figures["evolution"]["survived"]
    assert found.of(round=0).kept == figures["evolution"]["rows"]
    assert whole.requests == known["replies"] - known["surplus"]
    assert (whole.prompt, whole.completion) == (known["usage"]["prompt"], known["usage"]["completion"])
    assert found.unsettled == Tally()


def test_the_figures_of_a_run_are_those_of_its_lines(run: Path) -> None:
    found = survival(run)
    kept, rejects = lines(run / "lineage.jsonl"), lines(run / "rejected.jsonl")
    for (operator, number), tally in found.cells.items():

        def ours(line: dict[str, Any], cell: tuple[str, int] = (operator, number)) -> bool:
            return (line["evolution"]["operator"], line["evolution"]["round"]) == cell

        assert tally.kept == sum(map(ours, kept))
        assert tally.rejected == Counter(line["by"] for line in rejects if ours(line))
        added = Counter(line["evolution"]["added"] for line in kept if ours(line))
        assert tally.added == (added if number else Counter())
        scores = [line["scores"]["difficulty"] for line in kept if ours(line) and "difficulty" in line["scores"]]
        assert tally.score("difficulty") == (pytest.approx(sum(scores) / len(scores)) if scores else None)
    assert sum(tally.tried for tally in found.cells.values()) == len(kept) + len(rejects)


def test_lineages_that_rest_are_tried_no_more_and_everything_still_adds_up(tmp_path: Path) -> None:
    folder = evolved(tmp_path / "run", "evolve.max_failures=1", rows=SEED_ROWS[30:55])
    found, known = survival(folder), told(folder)
    whole = adds_up(found)
    assert found.of().tried == known["figures"]["evolution"]["tried"] < 25 * 4
    assert found.of().tried == found.of().kept + found.of().rejected.total()
    assert whole.prompt == known["usage"]["prompt"]
    by_lineage = Counter(line["evolution"]["lineage"] for line in lines(folder / "rejected.jsonl"))
    assert set(by_lineage.values()) == {1}


def test_a_replay_is_told_with_the_tokens_of_the_run_whose_replies_it_judged(run: Path, tmp_path: Path) -> None:
    replay(run, ["growth.max_added=14"], tmp_path / "stricter")
    found, before = survival(tmp_path / "stricter"), survival(run)
    whole = adds_up(found)
    assert found.of().rejected["growth"] > before.of().rejected["growth"]
    assert found.counted
    assert whole.prompt + found.unsettled.prompt == told(run)["usage"]["prompt"]
    # Parents are the stored plan's: some are rejected now, and stand in the tree all the same.
    grown = [tree(tmp_path / "stricter", f"evolve:{number}.0") for number in range(30)]
    parents = [(node.parent, one.nodes) for one in grown if one for node in one.nodes if node.evolution.round]
    assert all(parent in {node.name for node in nodes} for parent, nodes in parents)
    assert any(node.by for parent, nodes in parents for node in nodes if node.name == parent)
    shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("journal*"))
    bare = survival(tmp_path / "moved")
    assert not bare.counted
    assert adds_up(bare).prompt == 0
    assert "tokens" not in json.dumps(bare.figures(Price(1, 1)))


# Trees


def test_the_trees_of_all_lineages_hold_every_line_of_a_run_once(run: Path) -> None:
    kept, rejects = lines(run / "lineage.jsonl"), lines(run / "rejected.jsonl")
    seen: Counter[str] = Counter()
    for line in kept[:30]:
        grown = tree(run, line["place"])
        assert grown is not None
        seen.update(node.name for node in grown.nodes)
        row, *others = grown.nodes
        assert (row.evolution.round, row.parent, row.name) == (0, "", line["place"])
        assert [node.evolution.round for node in others] == [1, 2, 3, 4]
        current = row
        for node in others:  # a try is one of what was kept last, and what failed leaves it there
            assert node.parent == current.name
            current = current if node.by else node
    assert seen == Counter([line["place"] for line in kept] + [line["name"] for line in rejects])


def test_a_tree_is_found_by_every_name_of_what_stands_in_it(run: Path) -> None:
    reject = lines(run / "rejected.jsonl")[-1]
    child = next(line for line in reversed(lines(run / "lineage.jsonl")) if line["evolution"]["lineage"] == 7)
    for number, names in (
        (reject["evolution"]["lineage"], (reject["name"], reject["evolution"]["root"])),
        (7, (child["id"], child["task"], child["place"], child["evolution"]["root"])),
    ):
        for name in names:
            grown = tree(run, name)
            assert grown is not None
            assert grown.lineage == number
    assert tree(run, "nothing of this name") is None
    assert tree(run, "") is None


def test_a_parent_is_the_one_of_the_same_lineage_where_two_rows_say_the_same(tmp_path: Path) -> None:
    """Each of the twins has a child of its own: its parent is its own row, or a child of it."""
    # To the rules, what one twin becomes says what the other says.
    folder = evolved(tmp_path / "run", 'filters.off=["duplicate","novelty"]', script="evolve", rows=SEED_ROWS[:1] * 3)
    kept = lines(folder / "lineage.jsonl")
    assert len({line["task"] for line in kept[:3]}) == 1
    first = [line for line in kept if line["evolution"]["round"] == 1]
    assert len(first) > 1
    for line in first:
        story = lineage(folder, line["place"])
        assert story is not None
        assert [parent["place"] for parent in story["parents"]] == [f"evolve:{line['evolution']['lineage']}.0"]
    grown = tree(folder, kept[1]["task"])
    assert grown is not None
    assert (grown.lineage, grown.others) == (0, ("evolve:1.0", "evolve:2.0"))


def test_the_parents_of_every_record_and_reject_are_found_with_their_words(run: Path) -> None:
    whole = lines(run / "lineage.jsonl") + lines(run / "rejected.jsonl")
    for line in whole[30::25]:
        story = lineage(run, line.get("place") or line["name"], with_prompts=True)
        assert story is not None
        (parent,) = story["parents"]
        assert parent["evolution"]["lineage"] == line["evolution"]["lineage"]
        assert parent["evolution"]["round"] == line["evolution"]["round"] - line["evolution"]["attempt"]
        assert parent["instruction"] in story["asked"][0]["read"]
        assert story["evolution"] == line["evolution"]
        assert story["scores"] == line["scores"]
