"""The search for a method: the least failures win, ties go to the earlier, and the same call gives the same bytes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runfolders import ROOT, SCRIPTS, Watched, stored_keys, told

from selfinstruct.cli import main
from selfinstruct.descent import (
    ANALYSE,
    ANSWER,
    EVOLVE,
    INITIAL,
    PROPOSE,
    ROUNDS,
    TRAJECTORY,
    Search,
    failure,
    frames,
    initial_method,
    instructions,
    operator_file,
    read_method,
    requests,
    split,
)
from selfinstruct.errors import EngineError, UsageError
from selfinstruct.journal import Place
from selfinstruct.loop import seed_for
from selfinstruct.optimise import OWN, Optimisation
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import load
from selfinstruct.run import Run
from selfinstruct.shards import read_kept
from selfinstruct.state import Progress

MODEL = f"scripted/{SCRIPTS / 'optimise.toml'}"
SMALL = {"dev": 6, "batch": 2, "candidates": 3, "steps": 3, "early_stop": 3}


def search(model: str = MODEL, *sets: str, seed: int = 0, **values: Any) -> Search:
    recipe = load("evolve/wizardlm", sets, {"model": model, "seed": seed})
    return Search(recipe=recipe, **{**SMALL, **values})


def zoo(folder: Path, rows: int = 30) -> Path:
    """A dataset of so many instructions."""
    path = folder / "zoo.jsonl"
    animals = ({"instruction": f"Describe animal {n:02} of the zoo.", "output": "?"} for n in range(rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in animals), encoding="utf-8")
    return path


def finish(folder: Path, chosen: Search, engine: Watched | None = None, **more: Any) -> Progress:
    source = folder.parent / "zoo.jsonl"
    if not source.exists():
        zoo(folder.parent)
    *_, last = Optimisation(folder, chosen, source, engine=engine, **more)
    return last


def found(folder: Path) -> dict[str, bytes]:
    """The files that the byte law covers."""
    names = [name for name in OWN if name != "run.json"]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def report(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return read


def steps(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]


def stages(folder: Path) -> Counter[str]:
    """Replies in the journal by stage, read without our code."""
    with closing(sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True)) as db:
        return Counter(dict(db.execute("SELECT stage, count(*) FROM replies WHERE reply IS NOT NULL GROUP BY stage")))


def prompts_with(folder: Path, method: str) -> Path:
    """A prompts folder whose search begins with that method."""
    path = folder / f"{INITIAL}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\nabout: for a test\n---\n{method}\n", encoding="utf-8")
    return folder


# F1: the method with the fewest failures, and where the search stops


class Planned(NamedTuple):
    """How many of five dev instructions fail under the first method and under each candidate of each step."""

    first: int
    steps: list[list[int]]
    early_stop: int


DEV = 5
PLANS = st.builds(
    Planned,
    st.integers(0, DEV),
    st.integers(1, 3).flatmap(
        lambda many: st.lists(st.lists(st.integers(0, DEV), min_size=many, max_size=many), min_size=1, max_size=4)
    ),
    st.integers(1, 3),
)


def scripts(folder: Path, dev: list[str], plan: Planned) -> tuple[str, str]:
    """Two models: one whose evolutions fail on the first ``n`` dev instructions under a method that says "limit n",
    and one that writes the methods of the plan, in its order."""
    failing = "Rewritten prompt: Describe the animal of the zoo that nobody named, and say where it sleeps."
    fine = "Rewritten prompt: Describe one animal of the zoo in two sentences without its colour."
    rules: list[dict[str, Any]] = []
    for n in range(1, DEV + 1):
        names = "|".join(text.removeprefix("Describe ").removesuffix(" of the zoo.") for text in dev[:n])
        rules.append({"purpose": "optimise/evolve/*", "match": f"(?s)limit {n}\\b.*({names}) of", "reply": failing})
    rules.append({"purpose": "optimise/evolve/*", "reply": fine})
    rules.append({"purpose": "answer/*", "match": "nobody named", "reply": "Of course! Which one do you mean?"})
    rules.append({"purpose": "answer/*", "reply": "It is grey."})
    many, written = len(plan.steps[0]), []
    for number, counts in enumerate(plan.steps):
        for candidate, n in enumerate(counts):
            call = number * (1 + many) + 2 + candidate  # each step begins with the analysis
            text = f"<method>limit {n}, step {number + 1}, candidate {candidate}</method>"
            written.append({"calls": [call], "purpose": "optimise/propose/*", "reply": text})
    for name, content in (("evolver", rules), ("optimiser", written)):
        (folder / f"{name}.toml").write_text(tomli_w.dumps({"rule": content}), encoding="utf-8")
    return f"scripted/{folder / 'evolver.toml'}", f"scripted/{folder / 'optimiser.toml'}"


def by_hand(plan: Planned) -> list[tuple[int, int, int]]:
    """After each step: the step and candidate of the best method so far, and how many fail under it."""
    best, idle = (0, 0, plan.first), 0
    told = [best]
    for number, counts in enumerate(plan.steps, start=1):
        if best[2] == 0 or idle == plan.early_stop:
            break
        fewest = min(counts)
        idle = 0 if fewest < best[2] else idle + 1
        best = (number, counts.index(fewest), fewest) if fewest < best[2] else best
        told.append(best)
    return told


def searched(plan: Planned, seed: int, folder: Path) -> list[tuple[int, int, int]]:
    """After each step the best method so far, as the folder tells it; all else that must be true is looked at too."""
    source = zoo(folder, 12)
    sizes = {"dev": DEV, "batch": 1, "candidates": len(plan.steps[0]), "steps": len(plan.steps)}
    chosen = search("scripted", seed=seed, early_stop=plan.early_stop, **sizes)
    dev, _ = split(instructions(source), chosen)
    evolver, optimiser = scripts(folder, dev, plan)
    chosen = search(evolver, seed=seed, early_stop=plan.early_stop, optimiser=optimiser, **sizes)
    finish(folder / "out", chosen, prompts=prompts_with(folder / "prompts", f"limit {plan.first}"))

    last, lines = report(folder / "out"), steps(folder / "out")
    for step, counts in zip(lines[1:], plan.steps, strict=False):
        assert [one["rate"] * DEV for one in step["candidates"]] == counts
    assert last["dev"] == dev
    assert [bool(step["stop"]) for step in lines] == [False] * (len(lines) - 1) + [True]
    assert last["best"]["method"] in (folder / "out/prompts/evolve/auto.md").read_text(encoding="utf-8")
    assert all(stages(folder / "out")[stage] <= most for stage, most in requests(chosen).items())
    assert not stages(folder / "out").keys() - requests(chosen).keys()
    bests = [*(step["best"] for step in lines), last["best"]]
    told = [(best["step"], best["candidate"], round(best["rate"] * DEV)) for best in bests]
    assert told.pop() == told[-1]
    return told


@pytest.mark.parametrize(
    ("plan", "best"),
    [
        (Planned(2, [[2, 3], [1, 1], [1, 4], [3, 1]], 2), [(0, 0, 2), (0, 0, 2), (2, 0, 1), (2, 0, 1), (2, 0, 1)]),
        (Planned(5, [[4, 3, 3], [3, 2, 2]], 2), [(0, 0, 5), (1, 1, 3), (2, 1, 2)]),  # ties go to the earlier
        (Planned(2, [[2], [2], [0]], 2), [(0, 0, 2)] * 3),  # no lower for two steps
        (Planned(2, [[2], [1], [1], [0]], 2), [(0, 0, 2), (0, 0, 2), (2, 0, 1), (2, 0, 1), (4, 0, 0)]),
        (Planned(3, [[0], [0]], 2), [(0, 0, 3), (1, 0, 0)]),  # nothing fails any more
        (Planned(0, [[0]], 2), [(0, 0, 0)]),
    ],
)
def test_the_method_with_the_fewest_failures_is_selected(
    plan: Planned, best: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    assert searched(plan, 0, tmp_path) == best == by_hand(plan)


@given(plan=PLANS, seed=st.integers(0, 3))
@settings(max_examples=6, deadline=None)
def test_the_method_under_which_the_least_fails_wins_and_the_search_stops_in_time(plan: Planned, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        assert searched(plan, seed, Path(name)) == by_hand(plan)


def test_a_candidate_without_a_method_or_with_a_known_one_is_not_tried_and_never_wins(tmp_path: Path) -> None:
    finish(tmp_path / "out", search(candidates=12, steps=1))
    (_, step) = steps(tmp_path / "out")
    whys = Counter(one["why"].split(":")[0] for one in step["candidates"])
    assert whys["unreadable"] > 0
    assert sum(count for why, count in whys.items() if why.startswith("the same as candidate")) > 0
    tried = [one for one in step["candidates"] if not one["why"]]
    assert len({one["method"] for one in tried}) == len(tried)
    assert all(one["rate"] is None and not one["failures"] for one in step["candidates"] if one["why"])
    assert stages(tmp_path / "out")[EVOLVE] == (1 + len(tried)) * SMALL["dev"]


def test_a_step_whose_analysis_fails_is_a_step_without_improvement(tmp_path: Path) -> None:
    rules = [{"purpose": "optimise/analyse/*", "error": {"kind": "content_policy", "message": "not that"}}]
    (tmp_path / "optimiser.toml").write_text(tomli_w.dumps({"rule": rules}), encoding="utf-8")
    finish(tmp_path / "out", search(optimiser=f"scripted/{tmp_path / 'optimiser.toml'}", early_stop=2))
    last = report(tmp_path / "out")
    assert [step["rates"] for step in last["steps"][1:]] == [[], []]
    assert "content_policy" in last["steps"][1]["why"]
    assert last["stopped"] == "no lower λ for 2 steps"
    assert stages(tmp_path / "out")[PROPOSE] == 0


# What is a failure


ANIMAL = "Describe the animal and say where it sleeps."
FAILED = [
    ("acknowledges", ANIMAL, "Understood. What is the next step?"),
    ("acknowledges", ANIMAL, "Thank you for the instruction! How can I help you with it?"),
    ("acknowledges", ANIMAL, "**Got it!** Shall I begin? 😊"),
    ("acknowledges", ANIMAL, "OK, what would you like to know about it?"),
    ("offers", ANIMAL, "Sure! Which animal do you mean?"),
    ("offers", ANIMAL, "Of course, I would be glad to.\n\nWhat kind of animal is it?\n"),
    ("offers", ANIMAL, "I\u2019d be happy to help. Could it be a bat?"),
    ("offers", "Answer the following question about the animal.", "Certainly! What is the question?"),
    ("asks", ANIMAL, "Please provide the name of the animal."),
    ("asks", ANIMAL, "To describe it, I will need more information about the animal."),
    ("asks", ANIMAL, "It depends.\nCould you clarify which animal is meant?"),
    ("asks", ANIMAL, "It seems that you haven\u2019t provided a text, so there is nothing to describe."),
]
NEAR = [
    (ANIMAL, "It sleeps in a cave. Who would not?"),  # a question, but no empty word before it
    (ANIMAL, "Sure. It is a bat, and it sleeps in a cave."),
    (ANIMAL, "Surely you know the bat? No? It sleeps in a cave, doesn't it?"),
    (ANIMAL, "Thankfully it is a bat. Where else would it sleep but in a cave?"),
    (ANIMAL, "Sure? It said so. Of course it did."),
    (ANIMAL, "It is a bat. If you need more information, the library opens at nine."),
    (ANIMAL, "The zoo will provide straw, so please bring none."),
    ("Write three questions for a zookeeper.", "Sure!\n1. When do you get up?\n2. Which animal bites?"),
    ("Come up with a riddle about an animal.", "Of course: what has ears and sleeps upside down?"),
    ("Write an e-mail to a customer whose order number is missing.", "Dear customer, please provide your number."),
    ("Turn the complaint into a polite letter.", "Thank you for the tea. Could you please provide sugar as well?"),
    ("Ask the guard for the key.", "Could you give me the key, please?"),
    (ANIMAL, ""),
]


@pytest.mark.parametrize(("kind", "instruction", "response"), FAILED)
def test_a_response_that_gives_a_failed_evolution_away(kind: str, instruction: str, response: str) -> None:
    found = failure(instruction, response)
    assert found is not None
    assert found[0] == kind


@pytest.mark.parametrize(("instruction", "response"), NEAR)
def test_a_response_that_only_looks_like_it(instruction: str, response: str) -> None:
    assert failure(instruction, response) is None


def test_what_evolve_would_throw_away_counts_as_failed_and_is_not_answered(tmp_path: Path) -> None:
    failing = {
        "unreadable": {"reply": " "},
        "truncated": {"reply": "Rewritten prompt: Describe the animal of the zoo and its", "finish": "length"},
        "unchanged": {"reply": "Rewritten prompt: Describe animal 00 of the zoo."},
        "frame-leak": {"reply": "Rewritten prompt: Describe the given prompt on an animal of the zoo with care."},
        "gave_up": {"error": {"kind": "gave_up", "message": "it failed all its attempts"}},
        "": {"reply": "Rewritten prompt: Describe animal and keeper of the zoo in the order in which they get up."},
    }
    for at, (by, outcome) in enumerate(failing.items()):
        home = tmp_path / str(at)
        home.mkdir()
        zoo(home, 2)  # one of them is the dev set, and both read the same
        lines = [json.dumps({"instruction": f"Describe animal {n:02} of the zoo.", "output": "?"}) for n in range(2)]
        (home / "zoo.jsonl").write_text("\n".join(lines), encoding="utf-8")
        seed = next(
            n
            for n in range(9)
            if split(instructions(home / "zoo.jsonl"), search(dev=1, batch=1, seed=n))[0][0][16:18] == "00"
        )
        rules = [{"purpose": "optimise/evolve/*", **outcome}, {"purpose": "answer/*", "reply": "It is grey."}]
        (home / "script.toml").write_text(tomli_w.dumps({"rule": rules}), encoding="utf-8")
        finish(home / "out", search(f"scripted/{home / 'script.toml'}", dev=1, batch=1, steps=1, seed=seed))
        (first, *_) = steps(home / "out")
        (trial,) = first["candidates"]
        assert trial["failures"] == ({by: 1} if by else {}), by
        assert trial["rate"] == bool(by)
        assert [one["by"] for one in trial["failed"]] == ([by] if by else [])
        assert bool(stages(home / "out")[ANSWER]) is not bool(by)


@pytest.mark.parametrize(
    ("by", "outcome"),
    [("empty", {"reply": " "}), ("content_policy", {"error": {"kind": "content_policy", "message": "no"}})],
)
def test_an_instruction_that_gets_no_answer_counts_as_failed(by: str, outcome: dict[str, Any], tmp_path: Path) -> None:
    text = "Rewritten prompt: Describe animal and keeper of the zoo in the order in which they get up."
    rules = [{"purpose": "optimise/evolve/*", "reply": text}, {"purpose": "answer/*", **outcome}]
    (tmp_path / "script.toml").write_text(tomli_w.dumps({"rule": rules}), encoding="utf-8")
    finish(tmp_path / "out", search(f"scripted/{tmp_path / 'script.toml'}", early_stop=1))
    assert report(tmp_path / "out")["best"]["failures"] == {by: SMALL["dev"]}


def test_every_failure_stands_in_steps_jsonl_with_what_gave_it_away(tmp_path: Path) -> None:
    finish(tmp_path / "out", search(dev=20))
    kinds: Counter[str] = Counter()
    for step in steps(tmp_path / "out"):
        for trial in step["candidates"]:
            failed = Counter(one["by"] for one in trial["failed"])
            assert dict(failed) == trial["failures"]
            if trial["rate"] is not None:
                assert trial["rate"] == failed.total() / 20
            for one in trial["failed"]:
                assert one["why"]
                if one["by"] in ("acknowledges", "offers", "asks"):
                    assert failure(one["evolved"], one["response"]) == (one["by"], one["why"])
                else:
                    assert not one["response"]
            kinds += failed
    assert {"acknowledges", "offers", "asks", "frame-leak", "growth"} <= kinds.keys()


# The method is a value


@pytest.mark.parametrize(
    ("text", "begun", "method"),
    [
        ("<method>\n1. Do it.\n</method>", False, "1. Do it."),
        ("Here it is:\n<method>1. Do it.\r\n2. Well.</method>\nGood luck!", False, "1. Do it.\n2. Well."),
        ("not <method>this</method> but <method>that</method>", False, "that"),
        ("1. Do it.\n</method>\nmore", True, "1. Do it."),
        ("1. Do it.", True, "1. Do it."),
        ("<method>1. Do it.</method>", True, "1. Do it."),
        ("1. Do it.", False, ""),
        ("<method> </method>", False, ""),
    ],
)
def test_a_method_stands_between_its_marks(text: str, begun: bool, method: str) -> None:
    assert read_method(text, begun=begun) == method


PIECES = [
    "{",
    "}",
    "%",
    "#",
    "{{ x }}",
    "{% raw %}",
    "{% endraw %}",
    "{# c #}",
    "<!--",
    "-->",
    "\n",
    "\n<!-- user -->\n",
]
PIECES += ["{<!-- user -->", "{{ method }}", "---\n", '{{ "{" }}', "\\", '"', "1. Do it. "]
SHIPPED = Prompts()
METHODS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(st.characters(codec="utf-8"), max_size=5))).map("".join)


@given(text=METHODS, instruction=st.sampled_from(["Sing.", "{{ method }}", "\n<!-- user -->\n"]))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_operator_asks_with_exactly_the_words_that_the_method_was_tried_with(
    text: str, instruction: str, tmp_path: Path
) -> None:
    method = read_method(f"<method>{text}</method>", begun=False)
    if not method:
        return
    tried = SHIPPED
    (tmp_path / "evolve/frames/auto").mkdir(parents=True, exist_ok=True)
    for name, frame in frames(tried).items():
        (tmp_path / f"evolve/frames/auto/{name}.md").write_bytes(frame.encode())
    (tmp_path / "evolve/auto.md").write_bytes(operator_file(method).encode())
    kept = Prompts(tmp_path)
    for name in ("chat", "completion"):
        before = tried[f"{EVOLVE}/{name}"].request({"method": method, "instruction": instruction, "vary": {}})
        after = kept[f"evolve/auto/{name}"].request({"instruction": instruction, "vary": {}})
        assert after.model_copy(update={"purpose": before.purpose}) == before


def test_evolve_takes_what_was_found_as_one_of_its_operators(tmp_path: Path) -> None:
    finish(tmp_path / "out", search(seed=1))
    best = report(tmp_path / "out")["best"]
    assert best["step"], "no candidate won, and this shows less than it should"
    recipe = load("evolve/wizardlm", (), {"model": "scripted", "evolve": {"operators": ["auto"], "rounds": 1}})
    engine = Watched("scripted")
    folder = tmp_path / "run"
    *_, last = Run(folder, recipe, source=tmp_path / "zoo.jsonl", prompts=tmp_path / "out/prompts", engine=engine)
    assert last.state == "complete"
    asked = [request.text() for _, request in engine.asked if request.purpose.startswith("evolve/auto/")]
    assert len(asked) == 30
    assert all(best["method"] in text for text in asked)
    evolved = [record.evolution for record, _ in read_kept(folder) if record.evolution and record.evolution.round]
    assert evolved
    assert {one.operator for one in evolved} == {"auto"}


def test_a_method_from_a_model_is_never_read_as_a_template(tmp_path: Path) -> None:
    engine = Watched(MODEL)
    finish(tmp_path / "out", search(candidates=8), engine)
    hostile = "2. Add {{ 7*7 }} and {% raw %} to it."
    asked = [request.text() for _, request in engine.asked if request.purpose.startswith("optimise/evolve/")]
    assert sum(hostile in text for text in asked) >= SMALL["dev"]
    assert not any("49" in text for text in asked)


def test_the_shipped_method_and_frames_are_what_the_search_needs() -> None:
    library = Prompts()
    assert len(initial_method(library).splitlines()) == 4
    assert all(library[f"{EVOLVE}/{name}"].head.direction == "in-depth" for name in frames(library))
    for stage in (ANALYSE, PROPOSE, EVOLVE):
        assert {library[f"{stage}/{name}"].style for name in ("chat", "completion")} == {"chat", "completion"}
        slots = [set(library[f"{stage}/{name}"].head.slots) for name in ("chat", "completion")]
        assert slots[0] == slots[1]


# The folder


def test_the_bytes_depend_on_nothing_but_search_and_replies(tmp_path: Path) -> None:
    zoo(tmp_path)
    for at, engine in enumerate((Watched(MODEL), Watched(MODEL, concurrency=1), Watched(MODEL, jitter=7))):
        finish(tmp_path / str(at), search(), engine)
    assert found(tmp_path / "0") == found(tmp_path / "1") == found(tmp_path / "2")
    assert len(found(tmp_path / "0")) == 5
    finish(tmp_path / "other", search(seed=1))
    assert found(tmp_path / "other")["steps.jsonl"] != found(tmp_path / "0")["steps.jsonl"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nobody interrupted. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    finish(folder, search(), Watched(MODEL))
    return folder


@given(at=st.lists(st.integers(1, 60), min_size=1, max_size=2), jitter=st.integers(0, 99))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_search_that_was_struck_anywhere_ends_in_the_same_bytes_and_asks_nothing_twice(
    at: list[int], jitter: int, whole: Path
) -> None:
    def strike() -> None:
        raise EngineError("the server is down")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        stored: set[str] = set()
        for call in at:
            engine = Watched(MODEL, at=call, strike=strike, jitter=jitter)
            try:
                finish(folder, search(), engine)
            except EngineError:
                assert told(folder)["state"] == "stopped"
            assert not stored & set(engine.keys)
            stored = set(stored_keys(folder))
            if (folder / "steps.jsonl").exists():
                assert (whole / "steps.jsonl").read_bytes().startswith((folder / "steps.jsonl").read_bytes())
        engine = Watched(MODEL)
        finish(folder, search(), engine)
        assert not stored & set(engine.keys)
        assert found(folder) == found(whole)
        assert told(folder)["state"] == "complete"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
@pytest.mark.parametrize("call", [9, 40])
def test_a_search_that_was_killed_goes_on_and_says_from_whom(call: int, whole: Path, tmp_path: Path) -> None:
    zoo(tmp_path)
    program = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT / "tests")!r}]
from pathlib import Path
from test_optimise import MODEL, Watched, finish, search
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
finish(Path({str(tmp_path / "out")!r}), search(), Watched(MODEL, at={call}, strike=kill))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    stored = set(stored_keys(tmp_path / "out"))
    assert stored
    engine = Watched(MODEL)
    first, *_ = Optimisation(tmp_path / "out", search(), tmp_path / "zoo.jsonl", engine=engine)
    assert "taking over" in first.note
    assert not stored & set(engine.keys)
    assert found(tmp_path / "out") == found(whole)


def test_a_complete_search_opens_no_engine_and_a_longer_one_ends_as_if_asked_for_at_once(tmp_path: Path) -> None:
    for name, counts in (("long", [3]), ("grown", [1, 2, 3])):
        for count in counts:
            finish(tmp_path / name, search(steps=count))
    assert found(tmp_path / "grown") == found(tmp_path / "long")
    before = found(tmp_path / "long"), told(tmp_path / "long")
    engine = Watched(MODEL)
    last = finish(tmp_path / "long", search(), engine)
    assert (last.state, last.note) == ("complete", "complete already: nothing was asked")
    assert engine.asked == []
    assert (found(tmp_path / "long"), told(tmp_path / "long")) == before
    (tmp_path / "long" / "report.json").write_text("{}", encoding="utf-8")  # and what was edited is made anew
    finish(tmp_path / "long", search(), engine)
    assert engine.asked == []
    assert found(tmp_path / "long") == before[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dev": 7}, "dev: 6 -> 7"),
        ({"batch": 1}, "batch: 2 -> 1"),
        ({"candidates": 4}, "candidates: 3 -> 4"),
        ({"seed": 5}, "seed: 0 -> 5"),
        ({"optimiser": "scripted"}, "optimiser: '' -> 'scripted'"),
    ],
)
def test_a_changed_setting_is_refused_with_the_difference(changed: dict[str, Any], words: str, whole: Path) -> None:
    before = found(whole)
    with pytest.raises(UsageError, match="other settings") as refused:
        finish(whole, search(**changed))
    assert refused.value.message.splitlines()[1:] == [f"  {words}"]
    assert found(whole) == before


def test_a_changed_prompt_or_dataset_is_refused_and_fresh_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    finish(folder, search())
    before = found(folder)
    with pytest.raises(UsageError, match=r'inputs."prompt:optimise/initial": '):
        finish(folder, search(), prompts=prompts_with(tmp_path / "prompts", "Be careful."))
    zoo(tmp_path, 31)
    with pytest.raises(UsageError, match=r"inputs\.source: "):
        finish(folder, search())
    assert found(folder) == before
    (folder / "prompts" / "mine.md").write_text("mine", encoding="utf-8")
    finish(folder, search(), fresh=True)
    assert found(folder) != before
    assert (folder / "prompts" / "mine.md").read_text(encoding="utf-8") == "mine"


def test_the_dev_set_is_held_out_and_an_input_stands_behind_a_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "zoo.jsonl"
    rows = [
        {"instruction": f"Describe animal {n:02} of the zoo.", "input": "bat" * (n % 2), "output": ""}
        for n in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + rows), encoding="utf-8")
    read = instructions(path)
    assert len(read) == 20
    assert read[1] == "Describe animal 01 of the zoo.\n\nbat"
    finish(tmp_path / "out", search(dev=9, batch=5))
    dev = report(tmp_path / "out")["dev"]
    starts = [case["start"] for step in steps(tmp_path / "out") for case in step["trajectories"]]
    assert len(set(dev)) == 9
    assert starts
    assert not set(dev) & set(starts)
    assert set(dev) | set(starts) <= set(read)


def test_a_trajectory_goes_on_from_what_passed_and_from_the_parent_where_nothing_did(tmp_path: Path) -> None:
    engine, chosen = Watched(MODEL), search(batch=9)
    finish(tmp_path / "out", chosen, engine)
    asked = {request.seed: request.text() for _, request in engine.asked}
    seen: Counter[bool] = Counter()
    for step in steps(tmp_path / "out"):
        for at, case in enumerate(step["trajectories"]):
            first, _ = case["rounds"]
            parent = case["start"] if first["flaw"] else first["text"]
            second = asked[seed_for(chosen.recipe, Place(TRAJECTORY, step["step"], at * ROUNDS + 1))]
            assert second.rstrip().endswith(f"Given prompt:\n{parent}")
            seen[bool(first["flaw"] and first["text"])] += 1
    assert seen[True]
    assert seen[False]


# From the command line


class Out(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Out]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """`selfinstruct optimise` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Out:
        monkeypatch.setattr(sys, "argv", ["selfinstruct", "optimise", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Out(left.value.code if isinstance(left.value.code, int) else 0, said.out, said.err)

    return run


FLAGS = ("--model", MODEL, "--dev", 6, "--batch", 2, "--candidates", 3, "--steps", 3, "--early-stop", 3)


def test_the_command_prints_a_line_a_step_and_what_to_do_next(call: Call, tmp_path: Path) -> None:
    source = zoo(tmp_path)
    said = call(source, "--out", "out", *FLAGS)
    assert said.code == 0
    last = report(tmp_path / "out")
    assert f"λ {last['initial']:.3f} → {last['best']['rate']:.3f} on 6 instructions" in said.out
    assert "evolve " in said.out
    assert "--prompts out/prompts --operators auto" in said.out
    assert [line.split(":")[0] for line in said.err.splitlines()] == [f"step {n}" for n in range(len(last["steps"]))]
    again = call(source, "--out", "out", *FLAGS, "--json", "--quiet")
    assert (again.code, again.err) == (0, "")
    assert json.loads(again.out)["best"] == last["best"]
    assert json.loads(again.out)["replies"] == last["replies"]


def test_a_dry_run_asks_nothing_and_counts_what_is_sent_where_nothing_is_lost(call: Call, tmp_path: Path) -> None:
    source = zoo(tmp_path)
    plan = Planned(5, [[4, 4, 4], [4, 4, 4]], 3)
    chosen = search("scripted", dev=DEV, batch=2, candidates=3, steps=2)
    evolver, optimiser = scripts(tmp_path, split(instructions(source), chosen)[0], plan)
    words = (source, "--out", "out", "--model", evolver, "--optimiser", optimiser, "--dev", DEV, "--batch", 2)
    words += ("--candidates", 3, "--steps", 2, "--early-stop", 3)
    words += ("--prompts", prompts_with(tmp_path / "prompts", "limit 5"))
    told = json.loads(call(*words, "--dry-run", "--json").out)
    assert not (tmp_path / "out").exists()
    planned = {stage["name"]: stage["requests"] for stage in told["stages"]}
    assert f"{sum(planned.values()):,}" in call(*words, "--dry-run").out
    assert call(*words, "--quiet").code == 0
    assert stages(tmp_path / "out") == planned
    assert planned == {TRAJECTORY: 8, ANALYSE: 2, PROPOSE: 6, EVOLVE: 35, ANSWER: 35}
    assert told["requests_at_most"] == 86


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_cannot_be_done_is_refused_before_anything_is_written(call: Call, tmp_path: Path, dry: tuple[str]) -> None:
    source = zoo(tmp_path)
    (tmp_path / "broken.jsonl").write_text('{"instruction": "Sing."\n', encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    prompts_with(tmp_path / "marked", "<!-- user -->\nDo it.")
    prompts_with(tmp_path / "slotted", "Do it.")
    (tmp_path / "slotted/optimise/evolve").mkdir(parents=True)
    frame = frames(Prompts())["chat"].replace("{{ method }}", "{{method}}")
    (tmp_path / "slotted/optimise/evolve/chat.md").write_text(frame, encoding="utf-8")
    for code, words, hint in (
        (3, ("nothing.jsonl", "--out", "out"), "nothing.jsonl"),
        (3, ("broken.jsonl", "--out", "out"), "broken.jsonl:1"),
        (2, (source, "--out", "file", *FLAGS), "is a file"),
        (2, (source, "--out", "out", "--dev", 29, "--batch", 2), "30 different instructions, and 29 + 2 are needed"),
        (2, (source, "--out", "out", *FLAGS, "--optimiser", "nobody/x"), "nobody"),
        (2, (source, "--out", "out", *FLAGS, "--set", "novelty.nothing=1"), "novelty.nothing"),
        (2, (source, "--out", "out", *FLAGS, "--set", "sampling.nothing.top_p=1"), "sampling.nothing"),
        (2, (source, "--out", "out", *FLAGS, "--without", "nothing"), "'nothing'"),
        (2, (source, "--out", "out", "--dev", 0), "--dev"),
        (3, (source, "--out", "out", *FLAGS, "--prompts", "marked"), "plain text"),
        (3, (source, "--out", "out", *FLAGS, "--prompts", "slotted"), "{{ method }}"),
        (2, (source,), "--out"),
    ):
        said = call(*words, *dry)
        assert (said.code, said.out) == (code, ""), said.err
        assert hint in said.err
        assert said.err.splitlines()[-1].startswith("hint: ")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_something_else_is_left_alone(call: Call, tmp_path: Path) -> None:
    source = zoo(tmp_path)
    for name, content in (("recipe.toml", "x"), ("journal.sqlite", "no journal"), ("report.json", "{}")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(content, encoding="utf-8")
        for more in ((), ("--fresh",)):
            assert call(source, "--out", folder, *FLAGS, *more).code == 2
        assert (folder / name).read_text(encoding="utf-8") == content
        assert not (folder / "steps.jsonl").exists()


def test_a_model_that_fails_leaves_a_folder_that_goes_on(call: Call, tmp_path: Path) -> None:
    source = zoo(tmp_path)
    script = tmp_path / "script.toml"
    rules = (SCRIPTS / "optimise.toml").read_text(encoding="utf-8")
    script.write_text(f'{rules}\n[outage]\nafter = 20\nmessage = "the server is down"\n', encoding="utf-8")
    words = (source, "--out", "out", "--model", f"scripted/{script}", *FLAGS[2:])
    said = call(*words)
    assert said.code == 6
    assert "the server is down" in said.err
    assert told(tmp_path / "out")["state"] == "stopped"
    script.write_text(rules, encoding="utf-8")
    assert call(*words, "--quiet").code == 0
    assert told(tmp_path / "out")["state"] == "complete"


def test_a_stop_lets_arrive_what_is_under_way_and_the_same_call_goes_on(tmp_path: Path, whole: Path) -> None:
    script = tmp_path / "slow.toml"
    rules = (SCRIPTS / "optimise.toml").read_text(encoding="utf-8")
    script.write_text(f"[latency]\nmedian_ms = 90\nsigma = 0.1\n{rules}", encoding="utf-8")
    for at in (2, 14):  # before the first method is through, and after that
        stopped: list[Optimisation] = []
        engine = Watched(f"scripted/{script}", concurrency=2, at=at, strike=lambda: stopped[0].drain())  # noqa: B023
        stopped.append(Optimisation(tmp_path / "out", search(f"scripted/{script}"), zoo(tmp_path), engine=engine))
        *_, last = stopped[0]
        assert last.state == told(tmp_path / "out")["state"] == "interrupted"
        assert engine.answered == len(engine.asked)
        assert (stopped[0].report() == {}) is (at == 2)
    assert told(tmp_path / "out")["uncertain"] == 0
    finish(tmp_path / "out", search(f"scripted/{script}"))
    assert steps(tmp_path / "out") == steps(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
def test_ctrl_c_leaves_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    script = tmp_path / "slow.toml"
    rules = (SCRIPTS / "optimise.toml").read_text(encoding="utf-8")
    script.write_text(f"[latency]\nmedian_ms = 400\n{rules}", encoding="utf-8")
    words = ["optimise", zoo(tmp_path), "--out", tmp_path / "out", "--model", f"scripted/{script}", *FLAGS[2:]]
    command = [sys.executable, "-m", "selfinstruct", *map(str, words)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as child:
        while not stored_keys(tmp_path / "out"):
            assert child.poll() is None, child.stderr and child.stderr.read()
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "the same command again goes on" in out
    assert "stopping when the requests under way have arrived" in err
    assert told(tmp_path / "out")["state"] == "interrupted"
