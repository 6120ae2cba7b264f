"""The figures of a report beside the same counted naively from the files of small runs; folders in any state."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from runfolders import SEEDS, finish, lines, plan, told

from selfinstruct.cli import main
from selfinstruct.errors import ExhaustedError, InputError, UsageError
from selfinstruct.filters.text import Leak, Placeholder, Refusal, Repetition, Unfinished
from selfinstruct.journal import Place
from selfinstruct.loop import Kept, Rejected
from selfinstruct.minhash import jaccard, shingles
from selfinstruct.recipe import load
from selfinstruct.records import Objection, Record
from selfinstruct.replaying import replay
from selfinstruct.report.figures import figures, report
from selfinstruct.report.roots import root
from selfinstruct.report.rows import rows
from selfinstruct.shards import Shards
from selfinstruct.survival import Price, survival

SCORER = rouge_scorer.RougeScorer(["rougeL"])
RUNS = {
    "self-instruct": plan("self-instruct", script="defects", num=120),
    "alpaca": plan("alpaca", script="defects", num=80),
    "answer": plan("answer", script="defects"),
    "evolve": plan("evolve/wizardlm", script="evolve-defects"),
    "judged": plan("evolve/wizardlm", "judge_model=scripted", "difficulty.min=4", script="evolve-defects"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, recipe in RUNS.items():
        found[name] = tmp_path_factory.mktemp(name) / "run"
        assert finish(found[name], recipe).state == "complete"
    return found


@pytest.fixture(scope="module")
def all_figures(made: dict[str, Path]) -> dict[str, dict[str, Any]]:
    return {name: figures(folder) for name, folder in made.items()}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, made: dict[str, Path]) -> Path:
    return made[request.param]


@pytest.fixture
def found(run: Path, made: dict[str, Path], all_figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return next(all_figures[name] for name, folder in made.items() if folder == run)


# Read without our code: JSON lines and SQLite.


def shards(folder: Path) -> list[dict[str, Any]]:
    return [line for path in sorted((folder / "data").glob("*.jsonl")) for line in lines(path)]


def kept(folder: Path) -> list[dict[str, Any]]:
    """Rows with their lineage."""
    return [{**origin, **row} for row, origin in zip(shards(folder), lines(folder / "lineage.jsonl"), strict=True)]


def tasks(folder: Path) -> list[dict[str, Any]]:
    """The first record of each draft."""
    return list({line["place"]: line for line in reversed(kept(folder))}.values())[::-1]


def draft(name: str) -> tuple[int, int]:
    step, item, *_ = name.partition(":")[2].split(".") if "/" not in name else name.rpartition(":")[2].split(".")
    return int(step), int(item)


def journal(folder: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as db:
        rows = db.execute("SELECT stage, step, sent, arrived, reply FROM replies WHERE reply IS NOT NULL").fetchall()
    keys = ("stage", "step", "sent", "arrived", "reply")
    return [{**dict(zip(keys, row, strict=True)), "reply": json.loads(row[4])} for row in rows]


# The laws.


def test_the_funnel_counts_what_the_run_counted(run: Path, found: dict[str, Any]) -> None:
    funnel, counters = found["funnel"], told(run)["figures"]
    for name in ("kept", "drafts", "let_in", "answers"):
        assert funnel[name] == counters[name]
    by_rule: Counter[str] = Counter()
    for stage in funnel["stages"]:
        by_rule[stage["rule"]] += stage["rejected"]
    assert +by_rule == Counter(counters["rejected"])
    rejects = Counter((line["at"], line["by"]) for line in lines(run / "rejected.jsonl"))
    assert {(one["at"], one["rule"]): one["rejected"] for one in funnel["stages"] if one["rejected"]} == rejects
    left = {"draft": funnel["drafts"], "answer": funnel["answers"]}
    for stage in funnel["stages"]:
        left[stage["at"]] -= stage["rejected"]
        assert stage["left"] == left[stage["at"]]
    assert left == {"draft": funnel["let_in"], "answer": funnel["kept"]}
    recipe = RUNS[next(name for name in RUNS if found["run"]["recipe"] == RUNS[name].name)]
    for at, rules in (("draft", recipe.filters.draft), ("answer", recipe.filters.answer)):
        asked = [one["rule"] for one in funnel["stages"] if one["at"] == at and one["kind"] == "rule"]
        assert [rule for rule in asked if rule in rules] == list(rules)
    reading = sum(one["rejected"] for one in funnel["stages"] if one["kind"] == "reading")
    assert funnel["malformed"] == reading


def test_costs_are_the_journals(run: Path, found: dict[str, Any]) -> None:
    costs, replies = found["costs"], journal(run)
    assert costs["requests"] == costs["replies"] == len(replies)
    for stage in {reply["stage"] for reply in replies}:
        of_stage = [reply for reply in replies if reply["stage"] == stage]
        one = costs["stages"][stage]
        assert one["requests"] == len(of_stage)
        for kind in ("prompt", "completion"):
            assert one["tokens"][kind] == sum(reply["reply"].get("usage", {}).get(kind, 0) for reply in of_stage)
        took = [reply["arrived"] - reply["sent"] for reply in of_stage]
        assert one["seconds"]["under_way"] == pytest.approx(sum(took))
        assert one["seconds"]["p50"] == pytest.approx(statistics.median(took))
    assert set(costs["stages"]) == {reply["stage"] for reply in replies}
    assert set(costs["models"]) == {reply["reply"].get("model", "") for reply in replies}
    assert costs["all"]["tokens"]["completion"] == told(run)["usage"]["completion"]


def test_a_price_is_paid_for_every_token(run: Path) -> None:
    costs = figures(run, price=Price(2.0, 3.0))["costs"]
    tokens = costs["all"]["tokens"]
    usd = (tokens["prompt"] * 2 + tokens["completion"] * 3) / 1e6
    assert costs["all"]["usd"] == {"all": pytest.approx(usd), "per_kept": pytest.approx(usd / len(kept(run)))}
    assert sum(one["usd"]["all"] for one in costs["stages"].values()) == pytest.approx(usd)


def test_the_curves_are_recounted(run: Path, found: dict[str, Any]) -> None:
    curves = found["curves"]
    rejected = [(draft(line["name"])[0], line["by"]) for line in lines(run / "rejected.jsonl")]
    steps = [draft(line["place"])[0] for line in kept(run)]
    last = max([*steps, *(step for step, _ in rejected)])
    asked = sorted(reply["step"] for reply in journal(run))
    settled = [step for step in asked if step <= last]
    assert (curves["requests"], curves["ahead"]) == (len(settled), len(asked) - len(settled))
    assert len(curves["windows"]) <= 201
    before, whole = 0, sorted({*steps, *settled, *(step for step, _ in rejected)})
    for window in curves["windows"]:
        end, inside, whole = window["requests"], whole[: window["steps"]], whole[window["steps"] :]
        assert end - before == sum(step in inside for step in settled)
        assert window["kept"] == sum(step in inside for step in steps)
        assert window["cumulative"] == sum(step <= max(inside) for step in steps)
        assert window["rejected"] == Counter(by for step, by in rejected if step in inside)
        assert window["per_request"] == window["kept"] / (end - before)
        before = end
    assert not whole
    assert before == len(settled)
    assert curves["windows"][-1]["cumulative"] == curves["kept"] == len(steps)
    assert sum(window["drafts"] for window in curves["windows"]) == found["funnel"]["drafts"]


def brute(text: str, others: list[str]) -> float:
    return max((SCORER.score(other, text)["rougeL"].fmeasure for other in others), default=0.0)


def nearest(folder: Path, *, before: bool = False, seeds: list[str]) -> list[tuple[str, float, float]]:
    """Of each task its id, and F with the nearest seed and the nearest other task, or one before it."""
    every = [one for one in tasks(folder) if (one.get("evolution") or {}).get("direction") != "answer"]
    found = []
    for at, one in enumerate(every):
        lineage = (one.get("evolution") or {}).get("lineage")
        others = [
            other["instruction"]
            for b, other in enumerate(every[:at] if before else every)
            if b != at and (lineage is None or other["evolution"]["lineage"] != lineage)
        ]
        found.append((one["id"], brute(one["instruction"], seeds), brute(one["instruction"], others)))
    return found


def seeds_of(folder: Path) -> list[str]:
    known = "seeds" in load_inputs(folder)
    return list({line["instruction"]: None for line in lines(SEEDS)}) if known else []


def load_inputs(folder: Path) -> dict[str, str]:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as db:
        return dict(db.execute("SELECT name, sha256 FROM inputs"))


def test_similarity_is_rouge_scores(run: Path, found: dict[str, Any]) -> None:
    near, seeds = found["similarity"], seeds_of(run)
    wanted = nearest(run, seeds=seeds)
    assert near["tasks"] == len(wanted)
    assert near["seeds"]["count"] == len(seeds)
    assert bool(near["seeds"]["missing"]) == (not seeds)
    sides = {"others": [other for _, _, other in wanted]} | (
        {"seeds": [seed for _, seed, _ in wanted]} if seeds else {}
    )
    for side, values in sides.items():
        bins = [0] * 20
        for value in values:
            bins[min(sum(value >= edge / 20 for edge in range(1, 20)), 19)] += 1
        assert near[side]["histogram"] == bins
        assert near[side]["mean"] == pytest.approx(statistics.fmean(values), abs=1e-14)
        for most in (0.5, 0.7):
            assert near[side][f"above_{most}"] == pytest.approx(sum(value > most for value in values) / len(values))


def test_the_least_convincing_of_novelty(run: Path, found: dict[str, Any]) -> None:
    margin = next((one for one in found["margins"] if one["rule"] == "novelty"), None)
    if margin is None:
        assert "novelty" not in {line["by"] for line in lines(run / "rejected.jsonl")}
        return
    wanted = sorted(
        (max(seed, other) for _, seed, other in nearest(run, before=True, seeds=seeds_of(run))), reverse=True
    )
    assert [close["value"] for close in margin["kept"]] == wanted[:10]
    for close in margin["kept"]:
        assert SCORER.score(close["neighbour"]["instruction"], close["row"]["instruction"])[
            "rougeL"
        ].fmeasure == pytest.approx(close["value"])
    scores = sorted(line["score"] for line in lines(run / "rejected.jsonl") if line["by"] == "novelty")
    assert [close["value"] for close in margin["rejected"]] == scores[:10]
    for close in margin["rejected"]:
        beside, text = close["neighbour"]["instruction"], close["row"]["instruction"]
        assert SCORER.score(beside, text)["rougeL"].fmeasure == pytest.approx(close["value"])


def test_the_least_convincing_of_other_rules(run: Path, found: dict[str, Any]) -> None:
    rejects = lines(run / "rejected.jsonl")
    for margin in found["margins"]:
        bound = margin["bound"]
        if margin["rule"] == "length":
            values = [len(line["instruction"].split()) for line in kept(run)]
            lost = [len(line["instruction"].split()) for line in rejects if line["by"] == "length"]
        elif margin["rule"] == "answer-length":
            values = [len(line["output"].split()) for line in kept(run)]
            lost = [len(line["output"].split()) for line in rejects if line["by"] == "answer-length"]
        elif margin["rule"] == "distance":
            texts = {(line["evolution"]["lineage"], line["task"]): line["instruction"] for line in kept(run)}
            values, lost = (
                [
                    SCORER.score(texts[line["evolution"]["lineage"], line["parents"][0]], line["instruction"])[
                        "rougeL"
                    ].fmeasure
                    for line in side
                    if line["evolution"]["direction"] == "in-breadth"
                ]
                for side in (kept(run), [line for line in rejects if line["by"] == "distance"])
            )
        elif margin["rule"] == "difficulty":
            values = [line["scores"]["difficulty"] for line in kept(run) if "difficulty" in line["scores"]]
            lost = [line["scores"]["difficulty"] for line in rejects if line["by"] == "difficulty"]
        else:
            continue
        lost = [value for value in lost if (value >= bound if margin["above"] else value <= bound)]
        for side, every in (("kept", values), ("rejected", lost)):
            wanted = sorted(abs(value - bound) for value in every)[:10]
            assert [abs(close["value"] - bound) for close in margin[side]] == wanted


def test_lengths_are_recounted(run: Path, found: dict[str, Any]) -> None:
    counts = {
        "instruction": [len(line["instruction"].split()) for line in tasks(run)],
        "input": [len(line["input"].split()) for line in kept(run) if line["input"].strip()],
        "output": [len(line["output"].split()) for line in kept(run)],
    }
    for field, values in counts.items():
        one = found["lengths"][field]
        assert one["n"] == len(values)
        if not values:
            continue
        assert one["mean"] == pytest.approx(statistics.fmean(values))
        assert one["sd"] == pytest.approx(statistics.pstdev(values))
        assert one["p50"] == pytest.approx(statistics.median(values))
        for cell in one["histogram"]:
            assert cell["count"] == sum(cell["from"] <= value < (cell["to"] or math.inf) for value in values)
        assert sum(cell["count"] for cell in one["histogram"]) == len(values)


def test_types_verbs_and_words_are_recounted(run: Path, found: dict[str, Any]) -> None:
    types, every = found["types"], tasks(run)
    assert types["tasks"] == len(every)
    assert types["records"] == len(kept(run))
    labels = Counter(line["classification"] for line in every)
    assert [types[name] for name in ("classification", "other", "unlabelled")] == [
        labels[k] for k in (True, False, None)
    ]
    assert types["with_input"] == sum(bool(line["input"].strip()) for line in kept(run))
    by = Counter((line.get("evolution") or {}).get("operator") or line["origin"] for line in kept(run))
    assert {name: cell["records"] for name, cell in types["by"].items()} == by
    roots = [root(line["instruction"]) for line in every]
    assert found["verbs"]["parsed"] == sum(bool(verb and noun) for verb, noun in roots)
    for field, texts in (("instruction", every), ("output", kept(run))):
        one = found["diversity"][field]
        said = ["".join(c if c.isalnum() else " " for c in text[field].lower()).split() for text in texts]
        assert one["words"] == sum(map(len, said))
        for n in (1, 2, 3):
            grams = [tuple(text[at : at + n]) for text in said for at in range(len(text) - n + 1)]
            assert one[f"distinct_{n}"] == len(set(grams)) / len(grams)
        assert one["mtld"] == pytest.approx(naive_mtld([word for text in said for word in text]))


def naive_mtld(words: list[str]) -> float:
    lengths = []
    for way in (words, words[::-1]):
        factors, run = 0.0, list[str]()
        for word in way:
            run.append(word)
            if len(set(run)) / len(run) <= 0.72:
                factors, run = factors + 1, []
        factors += (1 - len(set(run)) / len(run)) / 0.28 if run else 0
        lengths.append(len(words) / factors)
    return statistics.fmean(lengths)


def test_traits_are_what_the_rules_say(run: Path, found: dict[str, Any]) -> None:
    rejects = lines(run / "rejected.jsonl")
    records = [
        Record(**{key: line[key] for key in ("instruction", "input", "output", "classification")}) for line in kept(run)
    ]
    rules = {"refusal": Refusal, "repetition": Repetition, "leak": Leak, "placeholder": Placeholder}
    for trait, rule in {**rules, "truncation": Unfinished}.items():
        one = found["traits"][trait]
        assert one["kept"]["count"] == sum(rule().objection(record) is not None for record in records)
        assert one["kept"]["of"] == len(records)
        names = {trait} if trait != "truncation" else {"truncated", "unfinished"}
        assert one["rejected"]["count"] == sum(line["by"] in names for line in rejects)
        assert one["rejected"]["of"] == len(rejects)


def test_survival_and_scores_are_there_where_a_run_evolves(run: Path, found: dict[str, Any]) -> None:
    every = kept(run) + lines(run / "rejected.jsonl")
    if any("evolution" in line for line in every):
        assert found["survival"] == survival(run).figures()
    else:
        assert found["survival"] is None
    given = Counter(("kept" if "id" in line else "rejected", name) for line in every for name in line.get("scores", {}))
    assert {(side, name): one["count"] for name, both in found["scores"].items() for side, one in both.items()} == {
        (side, name): given[side, name] for name in found["scores"] for side in ("kept", "rejected")
    }


def test_a_browser_gets_every_row_once_in_plan_order(run: Path) -> None:
    every = [row.told() for row in rows(run)]
    assert [one["id"] for one in every if one["kind"] == "kept"] == [line["id"] for line in kept(run)]
    assert [one["id"] for one in every if one["kind"] == "rejected"] == [
        line["name"] for line in lines(run / "rejected.jsonl")
    ]
    places = [(one["step"], one["item"]) for one in every]
    assert places == sorted(places)
    by_name = {line["id"]: line for line in kept(run)} | {line["name"]: line for line in lines(run / "rejected.jsonl")}
    for one in every:
        line = by_name[one["id"]]
        for key in ("instruction", "input", "output", "task", "parents"):
            assert one[key] == line[key]
        assert one["rule"] == line.get("by", "")
        assert one["lineage"] == (line.get("evolution") or {}).get("lineage")
    json.dumps(every, allow_nan=False)


def test_everything_is_json_that_a_browser_reads(found: dict[str, Any]) -> None:
    text = json.dumps(found, allow_nan=False)
    assert json.dumps(json.loads(text)) == text


# Folders whose records are chosen.


def write(folder: Path, records: list[Record], rejects: list[tuple[Record, str]] = []) -> Path:  # noqa: B006
    """The folder of a run that drafted these, by the real shards, without a journal."""
    with closing(Shards(folder, load("alpaca"), {})) as made:
        step = 0
        for step, record in enumerate(records):
            made.keep(Kept(record.model_copy(update={"task": record.id}), Place("alpaca", step, 0), {}, (), ()))
        for more, (record, text) in enumerate(rejects, step + 1):
            objection = Objection(by="unreadable", why="so it is", at="draft")
            made.reject(Rejected(f"alpaca:{more}.0", objection, record, text, {}, ()))
    return folder


def test_clusters_are_those_of_the_true_jaccard(tmp_path: Path) -> None:
    base = "Name a bird that lives by the sea and tell what it eats in a long and cold winter on the cliffs"
    words = base.split()
    records = []
    for at in range(60):  # some words of it are changed, the same ones now and then
        text = [f"{word}{at % 7}" if n in {at % 5, at % 11, 40 - at} else word for n, word in enumerate(words)]
        records.append(Record(instruction=" ".join(text), output=f"It eats fish and number {at % 3}."))
    records = list({record.id: record for record in records}.values())
    records.append(records[0].model_copy(update={"output": records[0].output.upper()}))
    found = figures(write(tmp_path / "run", records))["clusters"]
    sets = [shingles(f"{record.instruction}\n{record.input}\n{record.output}") for record in records]
    heads: dict[int, int] = {}
    for at, own in enumerate(sets):
        score, head = max(((jaccard(own, sets[head]), -head) for head in heads), default=(0.0, 0))
        if score >= 0.8:
            heads[-head] += 1
        else:
            heads[at] = 0
    sizes = Counter(str(near + 1) for near in heads.values() if near)
    assert found["sizes"] == sizes
    assert found["clusters"] == sizes.total() > 1
    assert found["near"] == sum(heads.values())
    largest = found["largest"][0]
    assert largest["size"] == max(heads.values()) + 1
    for member in largest["members"]:
        texts = [f"{one['instruction']}\n{one['input']}\n{one['output']}" for one in (largest["head"], member)]
        assert member["jaccard"] == pytest.approx(jaccard(*map(shingles, texts)))


def test_what_slipped_through_is_told(tmp_path: Path) -> None:
    answers = {
        "refusal": "I'm sorry, but I cannot help with that request.",
        "leak": "<think>so</think> Four.",
        "placeholder": "Dear [insert name], hello.",
        "repetition": "\n".join(["It goes round and round again."] * 9),
    }
    records = [Record(instruction=f"Answer number {at}.", output=text) for at, text in enumerate(answers.values())]
    found = figures(write(tmp_path / "run", [*records, Record(instruction="Add two and two.", output="4")]))["traits"]
    for trait, text in answers.items():
        assert found[trait]["kept"]["count"] == 1
        assert found[trait]["kept"]["value"] == 0.2
        assert found[trait]["examples"][0]["output"] == text


hostile = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["\x00\x1b[2J", "\u202e", "</script><!--", "{{ 7*7 }}", "\ud7ff\ue000", "e\u0301" * 30, "字" * 50, " ", "?", "of"]
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(hostile, hostile, hostile), max_size=5), st.lists(st.tuples(hostile, hostile), max_size=3))
def test_any_texts_have_figures(tmp_path: Path, told: list[tuple[str, str, str]], lost: list[tuple[str, str]]) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    records = [Record(instruction=one, input=given, output=output) for one, given, output in told]
    folder = write(tmp_path / "run", records, [(Record(instruction=one), text) for one, text in lost])
    found = figures(folder)
    assert (found["funnel"]["kept"], found["funnel"]["rejected"]) == (len(told), len(lost))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_half_a_pair_of_surrogates_is_a_character_like_others(tmp_path: Path, call: Callable[..., Any]) -> None:
    half = "HALF the birds of HALF"
    folder = write(
        tmp_path / "run", [Record(instruction=half, input=half, output=half)], [(Record(instruction=half), half)]
    )
    for path in (folder / "rejected.jsonl", folder / "data" / "train-00000.jsonl"):
        path.write_text(path.read_text(encoding="utf-8").replace("HALF", "\\ud83e"), encoding="utf-8")
    assert [row.told()["instruction"] for row in rows(folder)] == ["\ud83e the birds of \ud83e"] * 2
    assert figures(folder)["funnel"]["kept"] == figures(folder)["funnel"]["rejected"] == 1
    code, out, _ = call("report", folder, "--json")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(report([folder])))


def test_a_line_that_no_run_writes_is_told(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "run", [Record(instruction="Name a bird.", output="Owl.")], [(Record(instruction="N"), "")]
    )
    for name, old, new, what in (
        ("rejected.jsonl", '"instruction": "N"', '"instruction": 7', "not a reject that a run writes"),
        ("lineage.jsonl", '"origin": "seed"', '"origin": 7', "not a record that a run writes"),
        ("lineage.jsonl", "alpaca:0.0", "elsewhere", "names no step"),
    ):
        before = (folder / name).read_text(encoding="utf-8")
        assert old in before
        (folder / name).write_text(before.replace(old, new), encoding="utf-8")
        with pytest.raises(InputError, match=what):
            figures(folder)
        (folder / name).write_text(before, encoding="utf-8")


# Folders in any state.


def test_an_empty_run_has_figures(tmp_path: Path) -> None:
    found = figures(write(tmp_path / "run", []))
    assert found["funnel"]["drafts"] == found["curves"]["requests"] == 0
    assert found["curves"]["windows"] == []
    assert found["similarity"]["others"]["mean"] is None
    assert found["costs"]["counted"] is False
    json.dumps(found, allow_nan=False)


def test_a_run_with_nothing_kept_has_figures(tmp_path: Path) -> None:
    with pytest.raises(ExhaustedError):
        finish(tmp_path / "run", plan("self-instruct", "length.min_words=140", script="plain"))
    found = figures(tmp_path / "run")
    assert found["funnel"]["kept"] == 0 < found["funnel"]["rejected"]
    assert found["curves"]["projection"]["requests"] is None
    assert found["margins"][0]["kept"] == []
    json.dumps(found, allow_nan=False)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(("self-instruct", "evolve")))
def test_a_run_under_way_has_figures(made: dict[str, Path], tmp_path: Path, data: st.DataObject, name: str) -> None:
    """Every file ends anywhere: they are written one after the other, rows last."""
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made[name], folder)
    known = told(folder)
    (folder / "run.json").write_text(json.dumps({**known, "state": "running"}))
    for path in (folder / "rejected.jsonl", folder / "lineage.jsonl", *sorted((folder / "data").iterdir())):
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    found = figures(folder)
    whole = [path.read_bytes().count(b"\n") for path in (folder / "lineage.jsonl", folder / "data/train-00000.jsonl")]
    assert found["funnel"]["kept"] == min(whole)
    assert found["run"]["state"] == "killed"
    assert found["curves"]["requests"] + found["curves"]["ahead"] == len(journal(folder))
    json.dumps(found, allow_nan=False)


def test_a_replay_has_its_runs_journal_and_seeds(made: dict[str, Path], tmp_path: Path) -> None:
    replay(made["self-instruct"], ("novelty.threshold=0.4",), tmp_path / "again")
    found = figures(tmp_path / "again")
    assert found["similarity"]["seeds"]["count"] == 175
    assert found["similarity"]["threshold"] == 0.4
    assert found["costs"]["replies"] == len(journal(made["self-instruct"]))


def test_a_folder_without_its_journal_tells_what_it_can(made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(made["self-instruct"], tmp_path / "moved")
    (tmp_path / "moved" / "journal.sqlite").unlink()
    found, whole = figures(tmp_path / "moved"), figures(made["self-instruct"])
    assert found["funnel"] == whole["funnel"]
    assert found["similarity"] == whole["similarity"]  # the seeds are our own
    assert found["curves"]["windows"][-1]["cumulative"] == whole["funnel"]["kept"]
    recipe = tmp_path / "moved" / "recipe.toml"
    digest = load_inputs(made["self-instruct"])["seeds"]
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(digest, "0" * 64), encoding="utf-8")
    near = figures(tmp_path / "moved")["similarity"]
    assert near["seeds"]["count"] == 0
    assert "no journal" in near["seeds"]["missing"]
    assert near["others"] == whole["similarity"]["others"]


def test_a_run_that_goes_on_is_projected(made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(made["self-instruct"], tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("num = 120", "num = 240"), encoding="utf-8")
    curves = figures(tmp_path / "run")["curves"]
    assert curves["projection"]["reached"] is False
    assert curves["requests"] < curves["projection"]["requests"] < 4 * curves["requests"]


# Several runs, and the command.


def test_each_run_stands_under_its_name(made: dict[str, Path]) -> None:
    folders = [made["alpaca"], made["answer"]]
    found = report(folders)
    assert list(found["runs"]) == [str(folder) for folder in folders]
    assert found["runs"][str(folders[0])] == figures(folders[0])
    with pytest.raises(UsageError, match="twice"):
        report([folders[0], folders[0] / ".." / "run"])


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfinstruct", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        out = capsys.readouterr()
        return int(left.value.code or 0), out.out, out.err

    yield run


def test_the_command_prints_every_figure(made: dict[str, Path], call: Callable[..., Any]) -> None:
    code, out, err = call("report", made["alpaca"], made["evolve"], "--json", "--price", "1,2")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(report([made["alpaca"], made["evolve"]], price=Price(1, 2))))


def test_the_command_has_words_for_people(made: dict[str, Path], tmp_path: Path, call: Callable[..., Any]) -> None:
    code, out, _ = call("report", *made.values(), write(tmp_path / "none", []))
    assert code == 0
    assert "80 kept" in out
    assert "it has no seeds" in out
    assert "0 kept · 0 rejected" in out


def test_what_is_no_run_is_refused(made: dict[str, Path], tmp_path: Path, call: Callable[..., Any]) -> None:
    assert call("report", tmp_path)[0] == 2
    assert call("report", made["alpaca"], made["alpaca"])[0] == 2
    assert call("report", made["alpaca"], "--price", "free")[0] == 2
    shutil.copytree(made["alpaca"], tmp_path / "run")
    (tmp_path / "run" / "recipe.toml").unlink()
    code, _, err = call("report", tmp_path / "run")
    assert code == 3
    assert "recipe.toml is missing" in err
