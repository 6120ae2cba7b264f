"""Evolution: lineages, rounds, what fails and what becomes of it; the paper's algorithm, and ours around it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter, defaultdict, deque
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runfolders import CHEAP, SCRIPTS, Watched, finish, found, lines, run_of, told, watched

from selfinstruct.engines import Reply, Request
from selfinstruct.errors import EngineError, ExhaustedError, InputError, SelfInstructError, UsageError
from selfinstruct.filters import open_filter
from selfinstruct.journal import Journal, Place
from selfinstruct.lock import Lock
from selfinstruct.loop import Kept, rng_for
from selfinstruct.operators import Pool, Setting, Untouched
from selfinstruct.operators.evolve import Evolve, _Lineage, _Queue, operators_in, unwrapped
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import Recipe, load
from selfinstruct.records import Evolution, Record
from selfinstruct.replaying import replay, verify
from selfinstruct.shards import Shards

pytestmark = pytest.mark.usefixtures("no_hang")

DEPTH = ["constraints", "deepen", "concretise", "reasoning"]


def source(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def row(instruction: str, given: str = "", output: str = "An answer.") -> dict[str, str]:
    return {"instruction": instruction, "input": given, "output": output}


def evolution(*sets: str, script: str | Path = "evolve", **values: Any) -> Recipe:
    path = script if isinstance(script, Path) else SCRIPTS / f"{script}.toml"
    return load("evolve/wizardlm", sets, {"model": f"scripted/{path}", **values})


def tries(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """Every try and every row, by lineage and round: a line of lineage.jsonl or of rejected.jsonl."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for line in lines(folder / "lineage.jsonl") + lines(folder / "rejected.jsonl"):
        key = line["evolution"]["lineage"], line["evolution"]["round"]
        assert key not in found, "a lineage is tried once a round"
        found[key] = line
    return found


def rules(tmp_path: Path, *replies: tuple[str, str, str]) -> Path:
    """A script of rules: purpose, pattern, reply."""
    path = tmp_path / "rules.toml"
    path.write_text(
        "\n".join(
            f"[[rule]]\npurpose = {json.dumps(purpose)}\nmatch = {json.dumps(match)}\nreply = {json.dumps(reply)}\n"
            for purpose, match, reply in replies
        )
    )
    return path


# The draw of an operator (E1).


def drafter(folder: Path, recipe: Recipe, rows: int) -> Evolve:
    path = source(folder / "rows.jsonl", [row(f"Say what the number {n} is good for.") for n in range(rows)])
    return Evolve(Setting(recipe, Prompts(), "chat", "chat", source=path, rows=rows))


def drawn(folder: Path, recipe: Recipe, rows: int, rounds: int) -> list[list[str]]:
    """The operators of every round, with no success in any."""
    one, found = drafter(folder, recipe, rows), []
    for number in range(rounds + 1):
        names = []
        for step in range(number * rows, (number + 1) * rows):
            place = Place("evolve", step)
            parents = one.draw(Pool([], [], 0), step, rng_for(recipe, "draw", place))
            assert parents
            one.settle([], None)
            if number == 0:
                assert one.ask(parents, {}, rng_for(recipe, "ask", place)) is None
                continue
            evolved = one.blank(parents, rng_for(recipe, "ask", place)).evolution
            assert evolved is not None
            names.append(evolved.operator)
            if step % 40 == 0:  # what is asked is what is noted
                request = one.ask(parents, {}, rng_for(recipe, "ask", place))
                assert request is not None
                assert request.purpose.split("/")[1] == evolved.operator
        found.append(names)
    return found


def test_each_of_the_six_operators_is_drawn_equally_often(tmp_path: Path) -> None:
    counts = Counter(drawn(tmp_path, evolution(seed=3), 6000, 1)[1])
    assert len(counts) == 6
    sigma = (6000 * (1 / 6) * (5 / 6)) ** 0.5
    assert all(abs(count - 1000) <= 3 * sigma for count in counts.values()), counts


def test_a_failed_parent_is_given_a_fresh_draw(tmp_path: Path) -> None:
    first, second = drawn(tmp_path, evolution(), 600, 2)[1:]
    assert abs(sum(a == b for a, b in zip(first, second, strict=True)) - 100) < 4 * (600 * 5 / 36) ** 0.5


def test_weights_say_how_often(tmp_path: Path) -> None:
    recipe = evolution(evolve={"operators": ["deepen", "breadth", "constraints"], "weights": [3, 1, 0]})
    counts = Counter(drawn(tmp_path, recipe, 2000, 1)[1])
    assert set(counts) == {"deepen", "breadth"}
    assert abs(counts["deepen"] - 1500) <= 3 * (2000 * 0.75 * 0.25) ** 0.5


def test_first_rounds_may_draw_from_others(tmp_path: Path) -> None:
    rounds = drawn(tmp_path, load("evolve/math"), 40, 5)[1:]
    assert [set(names) for names in rounds] == [{"easier", "easier_topic"}] * 2 + [
        {"constraints", "concretise", "reasoning"}
    ] * 3


# Lineages (E2).

ANIMALS = ("heron", "otter", "newt", "osprey", "bittern", "plover")


def hollow_plan(folder: Path) -> Path:
    """evolve-plan.toml with an answer of dots: whether an apology counts depends on what the grammar has brought in."""
    plan = (SCRIPTS / "evolve-plan.toml").read_text()
    assert 'plant = "answer.refusal"' in plan
    path = folder / "plan.toml"
    path.write_text(plan.replace('plant = "answer.refusal"', 'plant = "answer.punctuation"'))
    return path


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rounds over six lineages, in which evolve-plan.toml says who fails when."""
    folder = tmp_path_factory.mktemp("planned")
    path = source(folder / "in.jsonl", [row(f"Explain how a {name} finds its food in winter.") for name in ANIMALS])
    phases = [{"rounds": 1, "operators": [name]} for name in DEPTH[:3]]
    recipe = evolution(script=hollow_plan(folder), evolve={"first": phases, "operators": DEPTH[3:], "rounds": 4})
    finish(folder / "run", recipe, watched(recipe, jitter=5), source=path)
    return folder / "run"


FAILS = {
    ("heron", 1): "unchanged",
    ("heron", 2): "frame-leak",
    ("otter", 2): "frame-leak",
    ("otter", 3): "growth",
    ("newt", 4): "intent",
    **{("osprey", number): "equal" for number in (1, 2, 3, 4)},
    **{("bittern", number): "hollow" for number in (1, 2, 3, 4)},
}


def test_who_fails_when_is_the_plan(planned: Path) -> None:
    for (lineage, number), line in tries(planned).items():
        assert line.get("by") == FAILS.get((ANIMALS[lineage], number)), (ANIMALS[lineage], number)
    kept = Counter(line["evolution"]["round"] for line in lines(planned / "lineage.jsonl"))
    failed = Counter(number for _, number in FAILS)
    assert kept == {0: 6, **{number: 6 - failed[number] for number in (1, 2, 3, 4)}}


def test_a_failure_leaves_the_parent_and_a_success_replaces_it(planned: Path) -> None:
    known = tries(planned)
    for lineage, name in enumerate(ANIMALS):
        current, attempt = known[lineage, 0]["task"], 1
        for number in (1, 2, 3, 4):
            line = known[lineage, number]
            assert line["parents"] == [current]
            assert line["evolution"]["attempt"] == attempt
            assert line["evolution"]["root"] == known[lineage, 0]["task"]
            failed = (name, number) in FAILS
            current, attempt = (current, attempt + 1) if failed else (line["task"], 1)


def test_a_lineage_is_never_deeper_than_its_round(planned: Path) -> None:
    parents = {line["task"]: line["parents"][0] for line in lines(planned / "lineage.jsonl")}
    for line in lines(planned / "lineage.jsonl"):
        task, depth = line["task"], 0
        while task != line["evolution"]["root"]:
            task, depth = parents[task], depth + 1
        assert depth <= line["evolution"]["round"]


def test_no_answer_is_asked_for_what_is_out(planned: Path) -> None:
    for line in tries(planned).values():
        asked = [one["place"].partition(":")[0] for one in line["asked"]]
        if line["evolution"]["round"] == 0:
            assert asked == []
        elif line.get("by") in CHEAP:
            assert asked == ["evolve"]
        elif line.get("by") == "equal":
            assert asked == ["evolve", "judge/equal"]
        else:
            assert asked == ["evolve", "judge/equal", "answer"]


def test_words_added_are_counted(planned: Path) -> None:
    texts = {line["task"]: line for line in lines(planned / "lineage.jsonl")}
    rows = [json.loads(line) for line in (planned / "data" / "train-00000.jsonl").read_text().splitlines()]
    words = {line["task"]: len(row["instruction"].split()) for line, row in zip(texts.values(), rows, strict=True)}
    for line in texts.values():
        if line["evolution"]["round"]:
            assert line["evolution"]["added"] == words[line["task"]] - words[line["parents"][0]]


# Round 0, the union, the files.

AWKWARD = [
    row("Sort these.", "b\na", "a\nb"),
    row("Sort these.", "b\na", "a\nb"),
    row("Sort these.", "  ", "Nothing to sort."),
    row("Apologise.", "", "Sorry."),
    row("Say nothing.", "", ""),
    row("Greet {x} {{ y }} %s ### <!-- user -->", "", "…"),
    row("列出三种水果。", "", "苹果、梨、桃。"),
]


def test_all_rows_form_round_0_with_their_outputs_untouched(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", AWKWARD)
    finish(tmp_path / "run", evolution("evolve.rounds=1"), source=path)
    made = [json.loads(line) for line in (tmp_path / "run/data/train-00000.jsonl").read_text("utf-8").splitlines()]
    first = made[: len(AWKWARD)]
    assert [one["output"] for one in first] == [one["output"] for one in AWKWARD]
    joined = ["Sort these.\n\nb\na"] * 2 + ["Sort these."] + [one["instruction"] for one in AWKWARD[3:]]
    assert [one["instruction"] for one in first] == joined
    assert {one["input"] for one in made} == {""}
    origins = lines(tmp_path / "run/lineage.jsonl")[: len(AWKWARD)]
    assert all(line["origin"] == "given" and line["evolution"]["round"] == 0 for line in origins)


def test_the_union_loads_as_instruction_and_output(planned: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(planned), split="train", cache_dir=str(planned.parent / "cache"))
    assert loaded.num_rows == len(lines(planned / "lineage.jsonl"))
    assert all(one["instruction"].strip() and one["output"].strip() for one in loaded)


def test_compat_is_the_released_script(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", AWKWARD[:4])
    recipe = evolution("behaviour=compat", script="evolve-defects")
    finish(tmp_path / "run", recipe, source=path)
    made = [json.loads(line) for line in (tmp_path / "run/data/train-00000.jsonl").read_text("utf-8").splitlines()]
    assert [one["instruction"] for one in made[:4]] == [
        f"{one['instruction']}\r\n{one['input']}" for one in AWKWARD[:4]
    ]
    assert told(tmp_path / "run")["figures"]["evolution"]["rounds"] == 1
    assert not {line["by"] for line in lines(tmp_path / "run/rejected.jsonl")} & {
        *CHEAP,
        "equal",
        "struggles",
        "hollow",
    }


def test_quality_leaves_instructions_and_inputs_alone(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", [row(f"Name {n} fruits.", "for a pie" * (n % 2)) for n in range(12)])
    recipe = load("evolve/quality", [], {"model": f"scripted/{SCRIPTS / 'evolve-defects.toml'}"})
    finish(tmp_path / "run", recipe, source=path)
    made = [json.loads(line) for line in (tmp_path / "run/data/train-00000.jsonl").read_text("utf-8").splitlines()]
    asked = [(one["instruction"], one["input"]) for one in made]
    for origin, one in zip(lines(tmp_path / "run/lineage.jsonl"), asked, strict=True):
        assert one == asked[origin["evolution"]["lineage"]]
    outputs = defaultdict(list)
    for origin, one in zip(lines(tmp_path / "run/lineage.jsonl"), made, strict=True):
        outputs[origin["evolution"]["lineage"]].append(one["output"])
    assert any(len(given) > 3 for given in outputs.values())
    assert all(len(set(given)) == len(given) for given in outputs.values())
    assert not any(
        line["asked"] and line["asked"][-1]["place"].startswith("answer") for line in tries_of(tmp_path / "run")
    )


def tries_of(folder: Path) -> list[dict[str, Any]]:
    return lines(folder / "lineage.jsonl") + lines(folder / "rejected.jsonl")


def test_a_run_evolves_another_run(tmp_path: Path, planned: Path) -> None:
    finish(tmp_path / "run", evolution("evolve.rounds=1"), source=planned)
    assert told(tmp_path / "run")["figures"]["evolution"]["rows"] == len(lines(planned / "lineage.jsonl"))


# A place in the index.


def test_a_place_is_reserved_by_a_draft_and_given_up_when_it_fails_later(tmp_path: Path) -> None:
    """Two lineages write the same. The second may have the place once the answer of the first has failed."""
    same = "Explain how a lamp works to somebody who has never seen one, in five short steps."
    path = source(
        tmp_path / "in.jsonl", [row("Explain how a lamp works."), row("Explain how a stove works to a lamp.")]
    )
    script = rules(
        tmp_path,
        ("evolve/*", "", same),
        ("judge/equal/*", "", "Not equal"),
        ("answer/*", "", "I am sorry, but I do not know how a lamp works at all."),
    )
    recipe = evolution("filters.off=['intent']", evolve={"operators": DEPTH, "rounds": 2}, script=script)
    with pytest.raises(ExhaustedError, match="nothing survived of 4 tries"):
        finish(tmp_path / "run", recipe, source=path)
    assert {key: line.get("by") for key, line in tries(tmp_path / "run").items() if key[1]} == {
        (0, 1): "struggles",
        (1, 1): "duplicate",
        (0, 2): "struggles",  # its own place of round 1 is free again, and taken once more
        (1, 2): "duplicate",
    }


def test_in_a_lineage_only_equality_counts(tmp_path: Path) -> None:
    parent = "Explain in a few words of your own how the lamp in a lighthouse is turned all night."
    child = f"{parent} Say what happens when the clockwork stops in the middle of a storm and nobody is awake."
    rows = [row(parent), row("Write a poem about rain.")]
    script = rules(tmp_path, ("evolve/*", "lighthouse", child), ("evolve/*", "", child), ("judge/*", "", "Not equal"))
    recipe = evolution("filters.off=['intent', 'growth']", evolve={"operators": DEPTH, "rounds": 2}, script=script)
    finish(tmp_path / "run", recipe, source=source(tmp_path / "in.jsonl", rows))
    known = tries(tmp_path / "run")
    assert "by" not in known[0, 1]
    assert known[0, 2]["by"] == "unchanged"
    assert known[1, 1]["by"] == known[1, 2]["by"] == "duplicate"
    near = rules(
        tmp_path, ("evolve/*", "lighthouse", child), ("evolve/*", "", f"{child} Now."), ("judge/*", "", "Not equal")
    )
    recipe = evolution("filters.off=['intent', 'growth']", evolve={"operators": DEPTH, "rounds": 1}, script=near)
    finish(tmp_path / "near", recipe, source=tmp_path / "in.jsonl")
    assert tries(tmp_path / "near")[1, 1]["by"] == "novelty"


@pytest.mark.parametrize(
    ("said", "declined"),
    [
        ("I'm sorry, but I can't rewrite that.", True),
        ("I\u2019m really sorry, but I cannot do this with the prompt as it stands.", True),
        ("I cannot rewrite this prompt in ten to twenty words more.", True),
        ("As an AI language model, I have no prompt to work on.", True),
        ("I cannot open the jar of pickles. What can I do?", False),
        ("Write what to say when you are sorry that you cannot come.", False),
    ],
)
def test_a_refusal_to_rewrite_is_no_task(said: str, declined: bool) -> None:
    how = Evolution(lineage=0, root="r", round=1, operator="breadth", direction="in-breadth", before="Name a river.")
    rule = open_filter("declines", load("evolve/wizardlm"))
    draft = Record(instruction=said, evolution=how)
    assert (rule.objection(draft) is not None) == declined
    begun = draft.model_copy(update={"evolution": how.model_copy(update={"before": said})})
    assert rule.objection(begun) is None


# Judges.


def judged(folder: Path, script: str = "evolve-defects", **values: Any) -> tuple[Watched, Watched]:
    path = source(folder / "in.jsonl", [row(f"Describe the work of a {name} in a village.") for name in JOBS])
    recipe = evolution("evolve.rounds=2", script=script, judge_model=f"scripted/{SCRIPTS / script}.toml", **values)
    writer, judge = watched(recipe), watched(recipe)
    finish(folder / "run", recipe, writer, judge_engine=judge, source=path)
    return writer, judge


JOBS = ("baker", "miller", "potter", "weaver", "tanner", "cooper", "smith", "thatcher", "wheelwright", "cobbler")


def test_a_judge_of_its_own_is_asked_by_the_rules_and_by_nobody_else(tmp_path: Path) -> None:
    writer, judge = judged(tmp_path)
    assert judge.asked
    assert all(request.purpose.startswith("judge/") for _, request in judge.asked)
    assert not any(request.purpose.startswith("judge/") for _, request in writer.asked)
    assert {request.purpose.split("/")[1] for _, request in judge.asked} == {"equal", "answerable", "difficulty"}


def test_difficulty_is_known_of_every_round(tmp_path: Path) -> None:
    judged(tmp_path, "evolve")
    scores = defaultdict(list)
    for line in lines(tmp_path / "run/lineage.jsonl"):
        scores[line["evolution"]["round"]].append(line["scores"]["difficulty"])
    assert len(scores[0]) == len(JOBS)
    means = [sum(scores[number]) / len(scores[number]) for number in (0, 1, 2)]
    assert means[0] < means[1] < means[2]


class Vague(Watched):
    """Never comes to a verdict."""

    async def complete(self, request: Request) -> Reply:
        reply = await super().complete(request)
        return reply.model_copy(update={"text": "Perhaps."}) if request.purpose.startswith("judge/") else reply


def test_a_draft_without_a_verdict_stays_and_that_is_told(tmp_path: Path) -> None:
    recipe = evolution("evolve.rounds=1", "filters.attempts=3")
    engine = Vague(recipe.model)
    path = source(tmp_path / "in.jsonl", [row("Explain why bread rises."), row("Describe a mill.")])
    finish(tmp_path / "run", recipe, engine, source=path)
    evolved = [line for line in lines(tmp_path / "run/lineage.jsonl") if line["evolution"]["round"]]
    assert evolved
    for line in evolved:
        assert "equal: no verdict" in line["remarks"]
        assert [one["place"].partition("+")[2] for one in line["asked"][1:4]] == ["", "1", "2"]


# Going on, again, otherwise.


def test_more_rounds_go_on_where_the_run_ended(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", [row(f"Describe the work of a {name} in a village.") for name in JOBS])
    at_once = evolution("evolve.rounds=4", script="evolve-defects")
    finish(tmp_path / "whole", at_once, source=path)
    finish(tmp_path / "run", evolution("evolve.rounds=2", script="evolve-defects"), source=path)
    before = found(tmp_path / "run")
    engine = watched(at_once)
    finish(tmp_path / "run", at_once, engine, source=path)
    assert found(tmp_path / "run") == found(tmp_path / "whole")
    assert found(tmp_path / "whole")["lineage.jsonl"].startswith(before["lineage.jsonl"])
    assert len(engine.asked) < told(tmp_path / "whole")["replies"]
    again = watched(at_once)
    finish(tmp_path / "run", evolution("evolve.rounds=3", script="evolve-defects"), again, source=path)
    assert not again.asked, "rounds that were made are not taken back"
    assert found(tmp_path / "run") == found(tmp_path / "whole")


def test_nothing_survives_and_that_is_an_error_each_time(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", AWKWARD[:2])
    recipe = evolution(
        "evolve.rounds=2", script=rules(tmp_path, ("evolve/*", "", "Do as the #Given Prompt# says, twice."))
    )
    for _ in range(2):
        with pytest.raises(ExhaustedError, match=r"nothing survived of 4 tries.*frame-leak"):
            finish(tmp_path / "run", recipe, source=path)
    assert len(lines(tmp_path / "run/lineage.jsonl")) == 2
    assert all(finding.right for finding in verify(tmp_path / "run"))


def test_a_lineage_rests_after_failures_in_a_row(tmp_path: Path, planned: Path) -> None:
    path = source(tmp_path / "in.jsonl", [row(f"Explain how a {name} finds its food in winter.") for name in ANIMALS])
    phases = [{"rounds": 1, "operators": [name]} for name in DEPTH[:3]]
    table = {"first": phases, "operators": DEPTH[3:], "rounds": 4, "max_failures": 2}
    recipe = evolution(script=hollow_plan(tmp_path), evolve=table)
    finish(tmp_path / "run", recipe, source=path)
    rested = {(0, 3), (0, 4), (1, 4), (3, 3), (3, 4), (4, 3), (4, 4)}
    assert set(tries(tmp_path / "run")) == set(tries(planned)) - rested
    replay(tmp_path / "run", [], tmp_path / "again")
    assert found(tmp_path / "again") == found(tmp_path / "run")
    replay(tmp_path / "run", ["growth.max_added=20"], tmp_path / "other")
    assert set(tries(tmp_path / "other")) == set(tries(tmp_path / "run"))


def test_a_replay_without_a_rule_lets_in_what_was_never_answered(tmp_path: Path, planned: Path) -> None:
    replay(planned, ["filters.off=['equal']"], tmp_path / "out")
    assert {by for (_, number), line in tries(tmp_path / "out").items() if number and (by := line.get("by"))} == {
        *set(FAILS.values()) - {"equal"},
        "unanswered",
    }
    by = Counter(line["by"] for line in lines(tmp_path / "out/rejected.jsonl"))
    assert by["unanswered"] == sum(rule == "equal" for rule in FAILS.values())


def test_a_replay_judges_every_draft_beside_the_parent_that_it_was_made_from(tmp_path: Path, planned: Path) -> None:
    replay(planned, ["growth.min_added=14"], tmp_path / "out")
    before, after = tries(planned), tries(tmp_path / "out")
    assert before.keys() == after.keys()
    for key, line in after.items():
        assert line["parents"] == before[key]["parents"]
        assert line["evolution"]["added"] == before[key]["evolution"]["added"]
        if key[1] and "by" not in before[key]:
            assert (line.get("by") == "growth") == (line["evolution"]["added"] < 14)


def test_a_replay_cannot_ask_a_judge(tmp_path: Path, planned: Path) -> None:
    with pytest.raises(UsageError, match="the run has no verdicts of judge/difficulty"):
        replay(planned, ["filters.draft=['difficulty']"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The training subset.


def test_the_sample_is_some_rows_of_the_union_in_its_order(tmp_path: Path, planned: Path) -> None:
    union = (planned / "data/train-00000.jsonl").read_text().splitlines()
    drawn: dict[int, list[str]] = {}
    for wanted in (1, 5, 9, 10_000):
        replay(planned, [f"evolve.sample={wanted}"], tmp_path / str(wanted))
        drawn[wanted] = (tmp_path / str(wanted) / "sample.jsonl").read_text().splitlines()
        assert len(drawn[wanted]) == min(wanted, len(union))
        at = [union.index(line) for line in drawn[wanted]]
        assert at == sorted(set(at))
    assert set(drawn[1]) < set(drawn[5]) < set(drawn[9]) < set(drawn[10_000])
    assert not (planned / "sample.jsonl").exists()


def test_every_row_is_as_likely_in_the_sample(tmp_path: Path) -> None:
    counts: Counter[int] = Counter()
    for seed in range(200):
        recipe = evolution("evolve.sample=5", seed=seed)
        with closing(Shards(tmp_path / str(seed), recipe, {})) as shards:
            for number in range(20):
                record = Record(instruction=f"Count to {number}.", output="…", task=str(number))
                shards.keep(Kept(record, Place("evolve", number, 0), {}, (), ()))
            shards.draw_sample()
        drawn = (tmp_path / str(seed) / "sample.jsonl").read_text().splitlines()
        counts.update(int(json.loads(line)["instruction"][9:-1]) for line in drawn)
    sigma = (200 * 0.25 * 0.75) ** 0.5
    assert len(counts) == 20
    assert all(abs(count - 50) < 4 * sigma for count in counts.values()), counts


def test_a_sample_that_is_asked_for_later_asks_no_model(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", AWKWARD[:3])
    finish(tmp_path / "run", evolution("evolve.rounds=1"), source=path)
    engine = watched(evolution())
    finish(tmp_path / "run", evolution("evolve.rounds=1", "evolve.sample=2"), engine, source=path)
    assert not engine.asked
    assert len((tmp_path / "run/sample.jsonl").read_text().splitlines()) == 2
    assert all(finding.right for finding in verify(tmp_path / "run"))
    (tmp_path / "run/sample.jsonl").write_text("{}\n")
    assert not all(finding.right for finding in verify(tmp_path / "run"))


# Operators are files.


def test_a_new_file_is_a_new_operator(tmp_path: Path) -> None:
    (tmp_path / "mine/evolve").mkdir(parents=True)
    text = "---\nabout: Ask for a table\nframe: in-depth\nadded: [1, 90]\n---\nWant a table with named columns.\n"
    (tmp_path / "mine/evolve/tabular.md").write_text(text)
    path = source(tmp_path / "in.jsonl", AWKWARD[:3])
    recipe = evolution(evolve={"operators": ["tabular"], "rounds": 1})
    engine = watched(recipe)
    finish(tmp_path / "run", recipe, engine, source=path, prompts=tmp_path / "mine")
    asked = [request.text() for _, request in engine.asked if request.purpose.startswith("evolve/tabular/")]
    assert len(asked) == 3
    assert all("Want a table with named columns." in one and "Sort these." in one for one in asked)
    with pytest.raises(UsageError, match="no operator 'tabular'") as refused:
        finish(tmp_path / "other", recipe, source=path)
    assert "constraints" in (refused.value.hint or "")
    assert not (tmp_path / "other").exists()


def test_answers_and_instructions_are_not_evolved_in_one_run(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", AWKWARD[:1])
    recipe = evolution(evolve={"operators": ["deepen", "quality_deeper"]})
    with pytest.raises(UsageError, match="rewrites instructions, and others of this recipe rewrite answers"):
        finish(tmp_path / "run", recipe, source=path)


def test_ours_are_there() -> None:
    there = set(operators_in(Prompts()))
    for name in ("wizardlm", "code", "math", "complexity", "quality"):
        recipe = load(f"evolve/{name}")
        assert {*recipe.evolve.operators, *(one for phase in recipe.evolve.first for one in phase.operators)} <= there
    assert "frames" not in there


# What stands in a reply.


@given(st.text(), st.booleans())
def test_unwrapping_is_done_at_once(text: str, answer: bool) -> None:
    assert unwrapped(unwrapped(text, answer=answer), answer=answer) == unwrapped(text, answer=answer)


@pytest.mark.parametrize(
    "reply",
    [
        "Name three rivers.",
        "Rewritten prompt: Name three rivers.",
        "Sure, here is the rewritten version:\n\nName three rivers.",
        "**Rewritten Prompt:** Name three rivers.",
        "#Rewritten Prompt#:\nName three rivers.",
        '"Name three rivers."',
        "\u201cName three rivers.\u201d",
        "```\nName three rivers.\n```",
        'Here\'s a harder one:\n```text\n"Name three rivers."\n```',
        "New prompt: Name three rivers.",
        "Given prompt: Name rivers.\n\nRewritten prompt: Name three rivers.",
        "Rewritten prompt: Name three rivers.\nRewritten prompt:",
    ],
)
def test_what_models_wrap_a_prompt_in_goes(reply: str) -> None:
    assert unwrapped(reply) == "Name three rivers."


@pytest.mark.parametrize(
    "text",
    [
        'Translate "yes" and "no"',
        "Sure of yourself? Explain how: write an essay.",
        "Fix this code.\n\n```python\nprint(1)\n```",
        "'Tis the season: explain the word 'tis'",
        "Write an answer: yes or no?",
        "Compare two drafts.\nOld version: Dogs like it.\nNew version: Dogs and food feel better outside.",
        "Here is a table of the sales, in CSV:\nday,rolls\nMonday,3",
        "Sure, solve this:\n2x = 4",
    ],
)
def test_what_belongs_to_a_prompt_stays(text: str) -> None:
    assert unwrapped(text) == text


@pytest.mark.parametrize(
    "text", ["Split the notice.\n\n**Final answer:** Please leave.", "Here are three reasons:\n- heat\n- rain"]
)
def test_what_belongs_to_an_answer_stays(text: str) -> None:
    assert unwrapped(text, answer=True) == text


def test_a_fence_around_an_answer_is_code() -> None:
    assert unwrapped("```\nprint(1)\n```", answer=True) == "```\nprint(1)\n```"


# The queue on disk.

records = st.builds(
    Record,
    instruction=st.text(),
    output=st.text(),
    task=st.text(),
    parents=st.lists(st.text(), max_size=2).map(tuple),
    evolution=st.none() | st.builds(Evolution, lineage=st.integers(0, 9), root=st.text()),
)
lineages = st.builds(
    _Lineage, current=records, drafts=st.lists(records, max_size=2).map(tuple), tries=st.integers(0, 9), tried=st.text()
)


@given(st.lists(st.one_of(st.none(), lineages), max_size=40))
def test_the_queue_gives_back_what_went_in_in_its_order(moves: list[_Lineage | None]) -> None:
    queue, model = _Queue(each=3), deque[_Lineage]()
    for move in moves:
        if move is not None:
            queue.push(move)
            model.append(move)
        elif model:
            assert queue.pop() == model.popleft()
    while model:
        assert queue.pop() == model.popleft()


def test_a_row_is_taken_untouched_whatever_it_says(tmp_path: Path) -> None:
    one = drafter(tmp_path, evolution(), 1)
    parents = one.draw(Pool([], [], 0), 0, Random(0))
    assert parents is not None
    (read,) = one.read(Reply(), parents, Random(0))
    assert isinstance(read, Untouched)


def test_without_a_dataset_nothing_is_begun(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'evolve' of this recipe reads a dataset"):
        finish(tmp_path / "run", evolution(), source=None)
    assert not (tmp_path / "run").exists()


# What a reviewer found.


def own(folder: Path, name: str, text: str) -> Path:
    """A folder of prompts with an operator in it."""
    (folder / "evolve").mkdir(parents=True, exist_ok=True)
    (folder / f"evolve/{name}.md").write_text(text)
    return folder


def test_a_stored_run_is_read_with_its_own_prompts_alone(tmp_path: Path) -> None:
    text = "---\nabout: Ours\nslots: {instruction: x}\n---\n<!-- user -->\nGiven:\n{{ instruction }}\n"
    prompts = own(tmp_path / "mine", "deepen", text)
    recipe = evolution("small=yes", evolve={"operators": ["deepen"], "rounds": 2}, style="prefill")
    finish(tmp_path / "run", recipe, source=source(tmp_path / "in.jsonl", AWKWARD[:4]), prompts=prompts)
    assert all(finding.right for finding in verify(tmp_path / "run"))


def test_an_operator_may_show_the_parents_answer(tmp_path: Path) -> None:
    text = (
        "---\nabout: With the answer\ndirection: in-depth\nslots: {instruction: x, output: y}\n---\n"
        "<!-- user -->\nThe answer was: {{ output }}\n\nGiven prompt:\n{{ instruction }}\n\nRewritten prompt:\n"
    )
    prompts = own(tmp_path / "mine", "answered", text)
    recipe = evolution(evolve={"operators": ["answered"], "rounds": 3}, style="chat")
    path = source(tmp_path / "in.jsonl", [row(f"Describe the work of a {name} in a village.") for name in JOBS])
    finish(tmp_path / "run", recipe, watched(recipe, jitter=1), source=path, prompts=prompts)
    assert told(tmp_path / "run")["figures"]["evolution"]["survived"]
    assert all(finding.right for finding in verify(tmp_path / "run"))


def test_an_operator_that_cannot_be_asked_is_refused_before_anything_is_begun(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", AWKWARD[:1])
    recipe = evolution(evolve={"operators": ["odd"]})
    (tmp_path / "a/evolve/odd").mkdir(parents=True)
    (tmp_path / "a/evolve/odd/notes.md").write_text("---\nabout: Notes\n---\nNothing.\n")
    broken = "---\nabout: Broken\nframe: in-depth\n---\n{{ instruction.no.such }}\n"
    turned = "---\nabout: Turned\nframe: in-depth\nadded: [9, 2]\n---\nBe odd.\n"
    for prompts, match in (
        (tmp_path / "a", "has no prompt"),
        (own(tmp_path / "b", "odd", broken), "odd.md"),
        (own(tmp_path / "c", "odd", turned), "nothing can be both"),
    ):
        with pytest.raises(SelfInstructError, match=match):
            finish(tmp_path / "run", recipe, source=path, prompts=prompts)
        assert not (tmp_path / "run").exists()


def test_a_dataset_that_changes_while_the_run_begins_is_refused(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", AWKWARD[:3])
    run = run_of(tmp_path / "run", evolution(), source=path)

    class Slow(Watched):
        @property
        def styles(self) -> tuple[str, ...]:  # asked for when the engine is open
            source(path, AWKWARD[:2])
            return ("chat",)

        @styles.setter
        def styles(self, given: tuple[str, ...]) -> None:
            pass

    run._engines = (Slow(evolution().model), None, None)
    with pytest.raises(InputError, match="changed while the run began"):
        list(run)


def test_a_run_that_is_being_written_is_no_input(tmp_path: Path, planned: Path) -> None:
    shutil.copytree(planned, tmp_path / "growing")
    lock = Lock(tmp_path / "growing")
    with pytest.raises(UsageError, match="is being written by process"):
        run_of(tmp_path / "run", evolution(), source=tmp_path / "growing").check()
    lock.release()
    run_of(tmp_path / "run", evolution(), source=tmp_path / "growing").check()


def test_a_replay_that_would_ask_a_judge_more_often_keeps_what_the_run_kept(tmp_path: Path) -> None:
    recipe = evolution("evolve.rounds=1", "filters.attempts=2")
    path = source(tmp_path / "in.jsonl", [row("Explain why bread rises."), row("Describe a mill.")])
    finish(tmp_path / "run", recipe, Vague(recipe.model), source=path)
    replay(tmp_path / "run", ["filters.attempts=4"], tmp_path / "out")
    assert found(tmp_path / "out")["data/train-00000.jsonl"] == found(tmp_path / "run")["data/train-00000.jsonl"]


def test_an_interrupted_continuation_may_have_an_old_sample(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", [row(f"Describe the work of a {name} in a village.") for name in JOBS])
    finish(tmp_path / "run", evolution("evolve.rounds=1", "evolve.sample=4"), source=path)
    longer = evolution("evolve.rounds=4")

    def gone() -> None:
        raise EngineError("the server is gone")

    with pytest.raises(EngineError):
        finish(tmp_path / "run", longer, watched(longer, at=10, strike=gone), source=path)
    assert all(finding.right for finding in verify(tmp_path / "run"))
    finish(tmp_path / "run", longer, source=path)
    assert len((tmp_path / "run/sample.jsonl").read_text().splitlines()) == 4, "a sample that was drawn stays"
    assert all(finding.right for finding in verify(tmp_path / "run"))


def test_quality_leaves_inputs_alone_in_compat_too(tmp_path: Path) -> None:
    path = source(tmp_path / "in.jsonl", [row("Name fruits.", "for a pie")])
    recipe = load("evolve/quality", ["behaviour=compat"], {"model": f"scripted/{SCRIPTS / 'evolve.toml'}"})
    finish(tmp_path / "run", recipe, source=path)
    made = [json.loads(line) for line in (tmp_path / "run/data/train-00000.jsonl").read_text("utf-8").splitlines()]
    assert len(made) > 1
    assert {(one["instruction"], one["input"]) for one in made} == {("Name fruits.", "for a pie")}


def test_a_folder_of_another_command_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with closing(Journal(tmp_path / "run/journal.sqlite")) as journal:
        journal.keep_input("search", b"{}")
        asyncio.run(journal_of_one(journal))
    with pytest.raises(UsageError, match="another command's folder"):
        finish(tmp_path / "run", evolution(), source=source(tmp_path / "in.jsonl", AWKWARD[:1]))


async def journal_of_one(journal: Journal) -> None:
    journal.sending(Place("optimise/evolve", 0), "key", ())
    await journal.arrived(Place("optimise/evolve", 0), Reply(text="x"))
