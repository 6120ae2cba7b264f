"""`selfinstruct evolve` as a user and as an attacker meets it."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runfolders import ROOT, Watched, found, lines, told

from selfinstruct.card import Sample, card
from selfinstruct.cli import main
from selfinstruct.cli.evolve import _names, _numbers
from selfinstruct.cli.panel import figures, reached
from selfinstruct.cli.plan import estimate
from selfinstruct.engines import Reply
from selfinstruct.filters import Asking, Verdict
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import load
from selfinstruct.records import Record
from selfinstruct.run import Run
from selfinstruct.state import Progress


class Out(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Out]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """The command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)

    def run(*words: object) -> Out:
        monkeypatch.setattr(sys, "argv", ["selfinstruct", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        code = left.value.code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Out(code if isinstance(code, int) else 0, said.out, said.err)

    return run


def refused(said: Out, code: int, *words: str) -> None:
    assert said.code == code, said.err
    assert said.out == ""
    error, hint = said.err.rstrip("\n").rsplit("\n", 1)
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    for word in words:
        assert word in said.err


# A dataset, and an evolver whose failures are planned: by what it is shown, so that it knows no order.

ROWS = (
    "Describe how a lighthouse keeper spends an ordinary winter evening.",
    "Compare wooden violins with carbon ones for outdoor concerts.",
    "Explain why sourdough bread rises more slowly than yeast bread.",
    "List the tools that a beekeeper carries into the orchard.",
    "Outline a timetable for watering seedlings during a hot June.",
)
MORE = (
    "Mention {0} storms, {0} lamps and whatever {0} logbook entries reveal about loneliness there.",
    "Consider {0} budgets, {0} transport and how {0} critics would object to your conclusion.",
    "Assume {0} helpers are absent, {0} supplies run short and {0} visitors keep interrupting everything.",
    "Weigh {0} risks against {0} rewards, ranking {0} alternatives by regret rather than price.",
)
WORDS = ("north", "copper", "village", "amber", "quiet")
LEAKS, EQUAL, SORRY = 2, 3, 4
"""Rows whose evolutions fail: at once by wording, at the second round by the judge, at every answer."""
ROUNDS = 3
DEPTH = ("--preset", "complexity")
"""Operators in depth alone: the replies lengthen what they are given."""
ONE = ("--operators", "constraints")


def text(row: int, times: int) -> str:
    """A row after so many successes."""
    return " ".join([ROWS[row], *(more.format(WORDS[row]) for more in MORE[:times])])


def rule(purpose: str, reply: str, match: str = "") -> str:
    # JSON's strings are TOML's.
    shown = f"match = {json.dumps(match)}\n" if match else ""
    return f"[[rule]]\npurpose = {json.dumps(purpose)}\n{shown}reply = {json.dumps(reply)}\n"


def evolver(path: Path, *, planned: bool = True) -> str:
    """A scripted model that lengthens what it is shown; with its failures, or without."""
    rules = []
    if planned:
        rules += [
            rule("evolve/*", "Answer the #Given Prompt# in a song.", re.escape(ROWS[LEAKS])),
            rule("judge/equal*", "Equal", re.escape(text(EQUAL, 2))),
            rule("answer*", "Sorry, that is beyond me.", re.escape(ROWS[SORRY])),
        ]
    rules += [
        rule("evolve/*", text(row, times + 1), re.escape(text(row, times)))
        for times in reversed(range(len(MORE)))
        for row in range(len(ROWS))
    ]
    rules += [
        rule("judge/equal*", "Not equal"),
        rule("judge/answerable*", "Yes"),
        rule("judge/difficulty*", "Score: 6"),
        rule("answer*", "One way to do this is to begin early, take notes and ask a neighbour for help."),
    ]
    path.write_text("".join(rules), encoding="utf-8")
    return f"scripted/{path}"


@pytest.fixture
def model(tmp_path: Path) -> str:
    return evolver(tmp_path / "evolver.toml")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    rows = [{"instruction": row, "input": "", "output": f"As it was, {WORDS[at]}."} for at, row in enumerate(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sent(folder: Path) -> Counter[str]:
    """Replies by stage, as the lines of a run that is complete tell of them."""
    asked = Counter()
    for line in lines(folder / "lineage.jsonl") + lines(folder / "rejected.jsonl"):
        asked.update(one["place"].split(":")[0] for one in line["asked"])
    return asked


# A run


def test_a_planned_evolution_comes_out_as_planned(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    said = call("evolve", source, "--model", model, *DEPTH, "--rounds", ROUNDS, "--json", "-q")
    assert (said.code, said.err) == (0, "")
    summary = json.loads(said.out)
    run = tmp_path / "runs" / "tasks-complexity"  # named by INPUT and preset, so that the same command resumes
    assert (summary["folder"], summary["state"]) == ("runs/tasks-complexity", "complete")
    assert summary["evolution"] == {"round": 3, "rounds": 3, "rows": 5, "tried": 15, "survived": 7}
    assert summary["rounds"] == [
        {"round": number, "tried": 5, "kept": kept} for number, kept in ((1, 3), (2, 2), (3, 2))
    ]
    assert summary["rejected"] == {"equal": 2, "frame-leak": 3, "struggles": 3}
    assert summary["kept"] == len(ROWS) + 7
    kept = {line["instruction"] for line in lines(run / "data/train-00000.jsonl")}
    successes = {0: 3, 1: 3, LEAKS: 0, EQUAL: 1, SORRY: 0}
    assert kept == {text(row, times) for row, most in successes.items() for times in range(most + 1)}


def test_the_summary_tells_of_rounds_rules_and_what_to_do_next(call: Call, model: str, source: Path) -> None:
    said = call("evolve", source, "--model", model, *DEPTH, "--rounds", ROUNDS, "--out", "a run")
    assert said.code == 0, said.err
    assert "5 rows and 7 evolved in a run/data (complete), 8 rejected" in said.out
    assert re.search(r"^ +3 +frame-leak$", said.out, re.MULTILINE)
    assert re.search(r"^ +1 +5 +3 +60%$", said.out, re.MULTILINE)
    assert re.search(r"^ +3 +5 +2 +40%$", said.out, re.MULTILINE)
    assert text(1, 3)[:60] in said.out  # what was evolved last, not the rows
    commands = [shlex.split(line)[1:] for line in said.out.partition("next:\n")[2].splitlines()]
    assert [command[:2] + command[2:3] * (command[0] == "show") for command in commands] == [
        ["show", "a run", "--rejected"],
        ["show", "a run", "--survival"],
        ["show", "a run", "--tree"],
        ["show", "a run"],
        ["export", "a run"],
    ]
    for command in commands:  # as they can be pasted
        assert call(*command).code == 0, command

    again = call("evolve", source, "--model", model, *DEPTH, "--rounds", ROUNDS, "--out", "a run")
    assert again.code == 0
    assert again.out.startswith("complete already")
    assert "5 rows and 7 evolved" in again.out
    status = call("status", "a run")
    assert "complete · round 3 of 3 · 5 of 5 tried · 7 evolved" in status.out
    assert call("verify", "a run").code == 0


def test_more_rounds_go_on_to_the_bytes_of_all_at_once(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    words = ("evolve", source, "--model", model, *DEPTH, "-q", "--json")
    first = json.loads(call(*words, "--rounds", 1, "--out", "r").out)
    assert first["evolution"]["rounds"] == 1
    on = json.loads(call(*words, "--rounds", ROUNDS, "--out", "r").out)
    assert on["evolution"]["rounds"] == ROUNDS
    assert call(*words, "--rounds", ROUNDS, "--out", "whole").code == 0
    assert found(tmp_path / "r") == found(tmp_path / "whole")
    fewer = json.loads(call(*words, "--rounds", 1, "--out", "r").out)  # what was begun is not taken back
    assert fewer["evolution"]["rounds"] == ROUNDS
    assert found(tmp_path / "r") == found(tmp_path / "whole")


def test_nothing_survived_is_exit_code_five(call: Call, source: Path, tmp_path: Path) -> None:
    (tmp_path / "deaf.toml").write_text(rule("evolve/*", "Sing the given prompt."))
    said = call("evolve", source, "--model", f"scripted/{tmp_path}/deaf.toml", "--rounds", 2, "--out", "r", "-q")
    assert said.code == 5
    assert "frame-leak" in said.err
    assert len(lines(tmp_path / "r/data/train-00000.jsonl")) == len(ROWS)  # what was there is there


def test_every_flag_is_read(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    judge = evolver(tmp_path / "judge.toml", planned=False)
    answers = tmp_path / "answers.toml"
    answers.write_text(rule("answer*", "It depends on who is asking, and on the time of the year."))
    (tmp_path / "topics.txt").write_text("tides\nknots\n")
    (tmp_path / "system.txt").write_text("Be brief.")
    said = call(
        "evolve", source, "--out", "r", "--preset", "complexity", "--rounds", 2, "--operators", "constraints,deepen",
        "--operators", "second_reader", "--weights", "3,1,0", "--judge", judge, "--sample", 4, "--without", "struggles",
        "--without", "intent", "--set", "filters.attempts=3", "--vary", "topic=topics.txt", "--system", "system.txt",
        "--seed", 5, "--prompts", prompts(tmp_path / "mine"), "--license", "cc0-1.0", "--model", model,
        "--answer-model", f"scripted/{answers}", "--style", "chat", "--concurrency", 2, "--fresh", "--json", "-q",
    )  # fmt: skip
    assert said.code == 0, said.err
    summary = json.loads(said.out)
    kept, rejected = lines(tmp_path / "r/lineage.jsonl"), lines(tmp_path / "r/rejected.jsonl")
    evolved = [line for line in kept if line["evolution"]["round"]]
    assert summary["evolution"]["rounds"] == 2
    assert summary["rejected"] == {"frame-leak": 2}  # no --without row is sorry, and this judge finds nothing equal
    assert {line["evolution"]["operator"] for line in evolved + rejected} <= {"constraints", "deepen"}
    assert {line["vary"]["topic"] for line in evolved} == {"tides", "knots"}
    models = {one["place"].split(":")[0]: one["model"] for line in evolved for one in line["asked"]}
    assert models == {
        "evolve": model,
        **{f"judge/{name}": judge for name in ("equal", "answerable", "difficulty")},
        "answer": f"scripted/{answers}",
    }
    assert all(line["scores"] == {"difficulty": 6} for line in kept)
    recipe = (tmp_path / "r/recipe.toml").read_text()
    for said_so in ("seed = 5", "attempts = 3", 'style = "chat"', 'off = [\n    "struggles",\n    "intent",\n]'):
        assert said_so in recipe
    rows = lines(tmp_path / "r/data/train-00000.jsonl")
    assert {row["system"] for row in rows[len(ROWS) :]} == {"Be brief."}
    assert len(lines(tmp_path / "r/sample.jsonl")) == 4
    assert "license: cc0-1.0" in (tmp_path / "r/README.md").read_text()


def test_operators_take_the_place_of_the_presets_and_of_its_phases(
    call: Call, model: str, source: Path, tmp_path: Path
) -> None:
    words = ("evolve", source, "--model", model, "--preset", "math", "-q")
    assert call(*words, "--out", "own", "--operators", "concretise").code == 0
    table = load(str(tmp_path / "own/recipe.toml")).evolve
    assert (table.operators, table.weights, table.first, table.rounds) == (("concretise",), (), (), 5)
    assert call(*words, "--out", "weighed", "--weights", "1,0,0").code == 0
    weighed = load(str(tmp_path / "weighed/recipe.toml")).evolve
    assert weighed.weights == (1.0, 0.0, 0.0)
    assert weighed.first == load("evolve/math").evolve.first
    later = [line["evolution"] for line in lines(tmp_path / "weighed/lineage.jsonl")]
    assert {one["operator"] for one in later if one["round"] > 2} <= {weighed.operators[0]}


def test_rules_are_switched_off_in_every_verb_that_runs(call: Call, source: Path, tmp_path: Path) -> None:
    (tmp_path / "deaf.toml").write_text(rule("answer*", "I'm sorry, but as an AI model I cannot help with that."))
    words = ("answer", source, "--model", f"scripted/{tmp_path}/deaf.toml", "-q", "--json")
    assert call(*words, "--out", "strict").code != 0 or lines(tmp_path / "strict/rejected.jsonl")
    lenient = json.loads(call(*words, "--out", "lenient", "--without", "refusal").out)
    assert (lenient["kept"], lenient["rejected"]) == (len(ROWS), {})
    refused(call(*words, "--out", "r", "--without", "nonesuch"), 2, "nonesuch", "refusal")
    generated = call("generate", "--model", "scripted", "--num", 3, "--out", "g", "-q", "--without", "novelty")
    assert generated.code == 0
    assert 'off = [\n    "novelty",\n]' in (tmp_path / "g/recipe.toml").read_text()


# The plan


def test_the_plan_counts_what_would_be_sent(call: Call, source: Path, tmp_path: Path) -> None:
    model = evolver(tmp_path / "willing.toml", planned=False)
    words = ("evolve", source, "--model", model, *DEPTH, "--rounds", ROUNDS, "--judge", model)
    said = call(*words, "--dry-run", "--json")
    assert said.code == 0, said.err
    assert not (tmp_path / "runs").exists()
    planned = {stage["name"]: stage for stage in json.loads(said.out)["stages"]}
    assert call(*words, "-q", "--out", "r").code == 0
    count = sent(tmp_path / "r")
    assert planned.keys() == count.keys()
    assert planned["evolve"]["requests"] == count["evolve"] == len(ROWS) * ROUNDS
    for name in count.keys() - {"evolve"}:
        assert planned[name]["requests"] == pytest.approx(count[name], rel=0.15)
    shown = call(*words, "--dry-run").out
    assert "nothing was asked" in shown
    assert "r has" in call(*words, "--out", "r", "--dry-run").out.splitlines()[-1]
    assert max(map(len, shown.splitlines()[1:-1])) <= 80


def test_the_plan_estimates_what_would_be_read(source: Path, tmp_path: Path) -> None:
    """Within a quarter where all passes: nine tenths are taken to."""
    engine = Watched(evolver(tmp_path / "willing.toml", planned=False))
    recipe = load("evolve/complexity", values={"model": engine.name, "evolve": {"rounds": ROUNDS}})
    style, stages = estimate(recipe, source, None)
    assert style == "prefill"
    *_, last = Run(tmp_path / "r", recipe, source=source, engine=engine)
    assert last.figures["evolution"]["survived"] == len(ROWS) * ROUNDS
    read: defaultdict[str, int] = defaultdict(int)
    for _, request in engine.asked:
        purpose = request.purpose.rpartition("/")[0]
        read["evolve" if purpose.startswith("evolve/") else purpose] += len(request.text().encode())
    assert {stage.name for stage in stages} == read.keys()
    for stage in stages:
        assert stage.prompt_tokens * 4 == pytest.approx(read[stage.name], rel=0.25), stage.name


def test_the_plan_of_answers_asks_for_none_beside_them(call: Call, source: Path) -> None:
    said = call("evolve", source, "--preset", "quality", "--dry-run", "--json")
    assert [stage["name"] for stage in json.loads(said.out)["stages"]] == ["evolve"]


# Bad input


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nowhere.jsonl",), 3, ("nowhere.jsonl",)),
        (("empty.jsonl",), 3, ("empty.jsonl", "no rows")),
        (("broken.jsonl",), 3, ("broken.jsonl:2",)),
        (("strange.jsonl",), 3, ("strange.jsonl:1", "instruction")),
        (("unanswered.jsonl",), 3, ("unanswered.jsonl:1", "`output`", "selfinstruct answer")),
        (("tasks.jsonl", "--set", "difficulty.min=3"), 2, ("difficulty.min", "--judge")),
        (("tasks.jsonl", "--preset", "alpaca"), 2, ("'alpaca'", "wizardlm")),
        (("tasks.jsonl", "--preset", "nonesuch"), 2, ("'nonesuch'", "wizardlm")),
        (("tasks.jsonl", "--preset", "nowhere.toml"), 2, ("nowhere.toml",)),
        (("tasks.jsonl", "--preset", "given.toml"), 2, ("given.toml", "evolves nothing")),
        (("tasks.jsonl", "--operators", "deepen,nonesuch"), 2, ("nonesuch", "constraints", "breadth")),
        (("tasks.jsonl", "--operators", "deepen,,breadth"), 2, ("--operators", "missing")),
        (("tasks.jsonl", "--operators", "deepen,deepen"), 2, ("twice",)),
        (("tasks.jsonl", "--operators", "deepen,quality_deeper"), 2, ("deepen", "answers")),
        (("tasks.jsonl", "--operators", "deepen", "--weights", "1,2"), 2, ("2 weights for 1",)),
        (("tasks.jsonl", "--weights", "1,2"), 2, ("2 weights for 6",)),
        (("tasks.jsonl", "--weights", "1,1,1,1,1,x"), 2, ("--weights", "numbers")),
        (("tasks.jsonl", "--weights", "0,0,0,0,0,0"), 2, ("weights",)),
        (("tasks.jsonl", "--weights", "nan,1,1,1,1,1"), 2, ("weights",)),
        (("tasks.jsonl", "--without", "nonesuch"), 2, ("nonesuch", "frame-leak")),
        (("tasks.jsonl", "--rounds", "0"), 2, ("--rounds",)),
        (("tasks.jsonl", "--sample", "0"), 2, ("--sample",)),
        (("tasks.jsonl", "--judge", "nobody/x"), 2, ("nobody",)),
        (("tasks.jsonl", "--preset", "quality", "--judge", "scripted"), 2, ("judge",)),
        (("tasks.jsonl", "--vary", "colour=tasks.jsonl"), 2, ("--vary",)),
        (("tasks.jsonl", "--set", "growth.min_adde=3"), 2, ("growth.min_adde", "min_added")),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_bad_input_is_told_before_anything_is_asked_or_written(
    call: Call, source: Path, tmp_path: Path, words: tuple[str, ...], code: int, says: tuple[str, ...], dry: tuple[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text(f"{source.read_text().splitlines()[0]}\n{{'single': 'quotes'}}\n")
    (tmp_path / "unanswered.jsonl").write_text('{"instruction": "Name a river."}\n')
    (tmp_path / "strange.jsonl").write_text('{"instruction": ["a list"], "output": "?"}\n')
    (tmp_path / "given.toml").write_text('name = "x"\ndraft.operator = "given"\nanswer.operator = "answer"\n')
    before = sorted(tmp_path.rglob("*"))
    refused(call("evolve", *words, "--model", "scripted", *dry), code, *says)
    assert sorted(tmp_path.rglob("*")) == before


@given(st.lists(st.sampled_from(["deepen", "breadth", "easier_topic"]), min_size=1), st.data())
def test_names_mean_the_same_joined_or_repeated(names: list[str], data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(1, len(names))))
    edges = sorted({0, len(names)} | cuts)
    parts = [", ".join(names[start:end]) for start, end in pairwise(edges)]
    assert _names(parts) == tuple(names)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_weights_are_read_as_they_are_written(weights: list[float]) -> None:
    assert list(_numbers(",".join(map(repr, weights)))) == weights


def test_a_begun_run_is_held_to_its_rules(call: Call, model: str, source: Path) -> None:
    words = ("evolve", source, "--model", model, *ONE, "--rounds", 1, "--out", "r", "-q")
    assert call(*words).code == 0
    refused(call(*words, "--without", "equal"), 2, "filters.off", "equal")
    refused(call(*words, "--operators", "deepen"), 2, "evolve.operators")
    assert call(*words, "--license", "mit").code == 0


# Prompts, and what the docs promise of them


def block(page: str, language: str, holds: str) -> str:
    """The block of that language on a page of docs/ that holds some words."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (text for text in blocks if holds in text)
    return str(found)


def prompts(folder: Path) -> Path:
    """An operator of one's own, as docs/evolve.md has it."""
    (folder / "evolve").mkdir(parents=True, exist_ok=True)
    (folder / "evolve/second_reader.md").write_text(block("evolve.md", "markdown", "second reader"))
    return folder


def test_an_operator_is_a_file(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    mine = prompts(tmp_path / "mine")
    shown = call("prompts", "evolve/second_reader", "--prompts", "mine")
    assert shown.code == 0
    assert "Let the answer serve a second reader too" in shown.out
    assert "{{" not in shown.out
    assert call("prompts", "evolve/second_reader/chat", "--prompts", mine).out == shown.out
    completion = call("prompts", "evolve/second_reader/completion", "--prompts", mine)
    assert completion.code == 0
    assert "Let the answer serve a second reader too" in completion.out
    assert completion.out != shown.out

    words = ("evolve", source, "--model", model, "--rounds", ROUNDS, "--out", "r", "-q")
    said = call(*words, "--prompts", mine, "--operators", "constraints,second_reader", "--weights", "0,1")
    assert (said.code, said.err) == (0, "")
    evolved = [line["evolution"] for line in lines(tmp_path / "r/lineage.jsonl") if line["origin"] == "evolve"]
    assert {(one["operator"], one["direction"]) for one in evolved} == {("second_reader", "in-depth")}


def test_the_rule_of_ones_own_in_the_docs_is_one_that_asks() -> None:
    told_of: dict[str, Any] = {}
    exec(block("plugins.md", "python", "Verdict"), told_of)
    rule = told_of["Harmless"](None)
    assert isinstance(rule, Asking)
    record = Record(instruction="Sort a list.")
    assert rule.read(record, Reply(text="Yes")) == Verdict(scores={"harmless": 1.0})
    assert rule.read(record, Reply(text="no")).objection
    assert rule.read(record, Reply(text="Perhaps")).unread


def test_operators_are_listed_with_what_they_do_and_frames_apart(call: Call) -> None:
    listed = call("prompts").out.splitlines()
    names = [line.split("  ")[0] for line in listed if line.strip()]
    constraints = next(line for line in listed if line.startswith("evolve/constraints "))
    assert Prompts()["evolve/constraints"].head.about in constraints
    assert constraints.endswith("(in-depth)")
    heading = next(at for at, name in enumerate(names) if name.startswith("frames"))
    assert all("/frames/" not in name for name in names[:heading])
    assert all("/frames/" in name for name in names[heading + 1 :])
    frames = {line["name"]: line["frame"] for line in map(json.loads, call("prompts", "--json").out.splitlines())}
    assert frames["evolve/breadth"] == "in-breadth"
    assert frames["answer/chat"] == ""
    refused(call("prompts", "evolve/constraints/prefill"), 2, "evolve/constraints/completion")


# How it looks on the way, and the card


def progress(steps: int, rows: int, rounds: int, **more: Any) -> Progress:
    number = min(steps // rows, rounds)
    evolution = {"round": number, "rounds": rounds, "rows": rows, "tried": max(steps - rows, 0), "survived": 2}
    return Progress("running", rows, rows * (rounds + 1), {"steps": steps, "evolution": evolution}, **more)


@given(st.integers(1, 10**6), st.integers(1, 9), st.data())
def test_progress_names_the_round_and_how_much_of_it_is_done(rows: int, rounds: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(0, rows * (rounds + 1)))
    now = progress(steps, rows, rounds)
    said = reached(now.kept, now.target, now.figures).replace(",", "")
    match = re.match(r"round (\d+) of (\d+) · (\d+) of (\d+) (read|tried) · 2 evolved$", said)
    assert match
    number, of, done, whole = map(int, match.groups()[:4])
    assert (of, whole) == (rounds, rows)
    assert number * rows + done == steps
    assert done <= rows


def test_what_is_left_of_an_evolution_is_steps(tmp_path: Path) -> None:
    assert figures(progress(60, 50, 4, per_second=2.0))[0].endswith("ETA 1 min 35 s")
    assert "ETA" not in figures(progress(250, 50, 4, per_second=2.0))[0]


def test_status_of_an_evolution_that_was_killed(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    assert call("evolve", source, "--model", model, *ONE, "--rounds", 2, "--out", "r", "-q").code == 0
    known = told(tmp_path / "r")
    known["state"] = "running"
    known["figures"] |= {"steps": 7, "evolution": known["figures"]["evolution"] | {"round": 1, "survived": 1}}
    (tmp_path / "r/run.json").write_text(json.dumps(known))
    assert "killed · round 1 of 2 · 2 of 5 tried · 1 evolved" in call("status", "r").out
    looked = json.loads(call("status", "r", "--json").out)
    assert (looked["steps"], looked["target"], looked["evolution"]["round"]) == (7, 15, 1)


def test_the_card_says_what_each_round_kept(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    words = ("evolve", source, "--model", model, "--preset", "math", "--out", "r", "-q")
    assert call(*words).code == 0
    text = (tmp_path / "r/README.md").read_text()
    rounds = Counter(line["evolution"]["round"] for line in lines(tmp_path / "r/lineage.jsonl"))
    assert f"\n| 0 | | {rounds[0]} |\n| 1 | easier, easier_topic | {rounds[1]} |\n" in text
    assert f"\n| 5 | constraints, concretise, reasoning | {rounds[5]} |\n" in text


@pytest.mark.parametrize("drawn", [0, 3])
def test_loaders_see_the_union_and_the_sample(tmp_path: Path, drawn: int) -> None:
    import datasets

    folder, cache = tmp_path / "r", str(tmp_path / "cache")
    (folder / "data").mkdir(parents=True)
    recipe = load("evolve/wizardlm")

    def load_all(rows: int, *name: str) -> Any:
        lines = [json.dumps(dict.fromkeys(recipe.columns, "") | {"id": str(at)}) + "\n" for at in range(rows)]
        (folder / "data/train-00000.jsonl").write_text("".join(lines))
        (folder / "sample.jsonl").write_text("".join(lines[rows - drawn :]))
        size = len("".join(lines).encode())
        sample = Sample(drawn, len("".join(lines[rows - drawn :]).encode())) if drawn else None
        text = card(recipe, rows, size, {}, Counter(), rounds={0: rows}, sample=sample)
        (folder / "README.md").write_text(text)
        return datasets.load_dataset(str(folder), *name, split="train", cache_dir=cache)

    assert len(load_all(5)) == 5
    assert len(load_all(6)) == 6  # grown, and not what is in the cache
    if drawn:
        assert load_all(6, "sample")["id"] == ["3", "4", "5"]
        assert load_all(7, "sample")["id"] == ["4", "5", "6"]
        assert "`sample.jsonl`: 3 of the records" in (folder / "README.md").read_text()
    else:
        with pytest.raises(ValueError, match="sample"):
            load_all(6, "sample")


def test_a_sample_is_drawn_from_the_union_and_drawn_anew(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    words = ("evolve", source, "--model", model, *ONE, "--rounds", 2, "--out", "r", "-q")
    assert call(*words, "--sample", 6).code == 0
    assert call(*words, "--sample", 9).code == 0
    union = [row["id"] for row in lines(tmp_path / "r/data/train-00000.jsonl")]
    drawn = [row["id"] for row in lines(tmp_path / "r/sample.jsonl")]
    assert len(drawn) == len(set(drawn)) == 9
    assert drawn == [row for row in union if row in drawn]
    assert "config_name: sample" in (tmp_path / "r/README.md").read_text()
    assert call(*words).code == 0  # a sample that was drawn stays
    assert [row["id"] for row in lines(tmp_path / "r/sample.jsonl")] == drawn
    assert "config_name: sample" in (tmp_path / "r/README.md").read_text()


def test_a_run_folder_evolves_under_its_name(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    words = ("--model", model, *ONE, "--rounds", 1, "-q")
    assert call("evolve", source, *words, "--out", "made.v1").code == 0
    assert call("evolve", "made.v1", *words).code == 0
    again = tmp_path / "runs/made.v1-wizardlm"
    roots = [line for line in lines(again / "lineage.jsonl") if not line["evolution"]["round"]]
    assert len(roots) == len(lines(tmp_path / "made.v1/data/train-00000.jsonl"))
    shutil.copy("made.v1/recipe.toml", tmp_path / "own.toml")
    assert call("evolve", source, *words, "--preset", "own.toml").code == 0
    assert (tmp_path / "runs/tasks-own/data").is_dir()
