"""An evaluation: figures that an independent count gives too, the base beside every model, nothing asked twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import tinymodels
from runfolders import SEEDS
from typer.testing import CliRunner

from selfinstruct.cli import app
from selfinstruct.cli.eval import base_of, warn_of_trained
from selfinstruct.engines import open_engine
from selfinstruct.errors import InputError, UsageError
from selfinstruct.evaluate.evaluation import Evaluation, as_json
from selfinstruct.evaluate.suites import open_suite

ROWS = [
    {"instruction": "Is the review kind? Answer yes or no.", "input": "Lovely!", "output": "yes"},
    {"instruction": "Is the review kind? Answer yes or no.", "input": "Awful.", "output": "no"},
    {"instruction": "Name the sea between Italy and Croatia.", "input": "", "output": "It is the Adriatic Sea."},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def scripted(folder: Path, name: str, *replies: tuple[str, str]) -> str:
    """A model that answers by what it is asked: one rule for each pattern."""
    path = folder / f"{name}.toml"
    rules = "".join(f"[[rule]]\nmatch = {json.dumps(match)}\nreply = {json.dumps(reply)}\n" for match, reply in replies)
    path.write_text(rules + '[[rule]]\nreply = "Who knows."\n')
    return f"scripted/{path}"


def silent(model: str, done: int, of: int) -> None:
    """Nobody looks."""


def figures(told: Any, at: int, metric: str) -> Any:
    return told["models"][at]["figures"][metric]


def test_scores_are_what_a_count_by_hand_gives(tmp_path: Path, data: Path) -> None:
    base = scripted(tmp_path, "base")
    good = scripted(tmp_path, "good", ("Lovely", "Yes."), ("Awful", "NO"), ("sea", "It is the Adriatic Sea."))
    half = scripted(tmp_path, "half", ("Lovely", "yes"), ("sea", "the Adriatic"))
    suites = [open_suite(name, data, None) for name in ("labels", "held-out")]
    labels, held_out = as_json(Evaluation(tmp_path / "out", [base, good, half], suites).run(silent))
    assert [figures(labels, at, "accuracy")["value"] for at in range(3)] == [0, 1, 0.5]
    rouge = [figures(held_out, at, "ROUGE-L")["value"] for at in range(3)]
    assert rouge[1] == pytest.approx((1 + 1 + 1) / 3)
    assert rouge[2] == pytest.approx((1 + 0 + 2 * (1 * 2 / 5) / (1 + 2 / 5)) / 3)
    beside = labels["models"][2]["beside_base"]["accuracy"]
    assert beside["value"] == 0.5 and beside["low"] <= 0.5 <= beside["high"]
    assert labels["models"][0]["beside_base"] == {}
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == [labels, held_out]


def test_ifeval_counts_prompts_and_instructions_strictly_and_loosely(tmp_path: Path) -> None:
    public = tmp_path / "public.jsonl"
    rows = [
        {"key": 1, "prompt": "Say it.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        {
            "key": 2,
            "prompt": "Say it in JSON.",
            "instruction_id_list": ["detectable_format:json_format", "keywords:existence"],
            "kwargs": [{}, {"keywords": ["cat"]}],
        },
    ]
    public.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = scripted(tmp_path, "base", ("JSON", '{"a": 1}'), ("Say it.", "One, two."))
    other = scripted(tmp_path, "other", ("JSON", 'Sure:\n{"a": "cat"}'), ("Say it.", "One two."))
    (told,) = as_json(Evaluation(tmp_path / "out", [base, other], [open_suite("ifeval", None, public)]).run(silent))
    found = {metric: [figures(told, at, metric)["value"] for at in (0, 1)] for metric in told["models"][0]["figures"]}
    assert found == {
        "prompts, strict": [0, 0.5],
        "prompts, loose": [0, 1],
        "instructions, strict": [pytest.approx(1 / 3), pytest.approx(2 / 3)],
        "instructions, loose": [pytest.approx(1 / 3), 1],
    }


def test_what_was_answered_is_not_asked_again(tmp_path: Path, data: Path) -> None:
    base = scripted(tmp_path, "base")
    suites = [open_suite("held-out", data, None)]
    folder = tmp_path / "out"
    first = Evaluation(folder, [base], suites).run(silent)
    (journal,) = folder.glob("*/journal.sqlite")
    with sqlite3.connect(journal) as database:
        database.execute("DELETE FROM replies WHERE rowid = 1")
        before = set(database.execute("SELECT stage, sent FROM replies"))
    asked: list[int] = []
    assert Evaluation(folder, [base], suites).run(lambda model, done, of: asked.append(done)) == first
    with sqlite3.connect(journal) as database:
        after = set(database.execute("SELECT stage, sent FROM replies"))
    assert len(after) == 3 and before < after  # what was there was not sent again
    Evaluation(folder, [base], [*suites, open_suite("labels", data, None)]).run(
        lambda model, done, of: asked.append(of)
    )
    assert set(asked[3:]) == {5}
    with sqlite3.connect(journal) as database:  # the labels' answers may be shorter: other requests
        assert database.execute("SELECT count(*) FROM replies").fetchone() == (5,)
    Path(base.removeprefix("scripted/")).write_text('[[rule]]\nreply = "It is the Adriatic Sea."\n')  # trained anew
    (again,) = as_json(Evaluation(folder, [base], suites).run(silent))
    assert figures(again, 0, "ROUGE-L")["value"] > 0


def test_a_judge_reads_both_orders_and_a_win_counts_where_they_agree(tmp_path: Path, data: Path) -> None:
    base = scripted(tmp_path, "base", ("Lovely", "yes"), ("Awful", "bad words"), ("sea", "worse"))
    model = scripted(tmp_path, "model", ("Lovely", "no"), ("Awful", "better words"), ("sea", "better still"))
    # It likes the answer that says so wherever that stands, and has no verdict of the kind review.
    judge = scripted(tmp_path, "judge", ("(?s)<answer-a>.{1,3}better", "A"), ("(?s)<answer-b>.{1,3}better", "B"))
    suites = [open_suite("held-out", data, None)]
    evaluation = Evaluation(tmp_path / "out", [base, model], suites, judge=judge)
    (told,) = as_json(evaluation.run(silent))
    judged = told["models"][1]["judged"]
    assert (judged["wins"], judged["losses"], judged["ties"], judged["unread"]) == (2, 0, 0, 1)
    assert judged["value"] == 100 and judged["consistency"]["value"] == 1 and judged["LC (surrogate)"] is None
    assert told["models"][0]["judged"] is None
    first = scripted(tmp_path, "first", ("<answer-a>", "A"))  # the first, whatever it says
    (told,) = as_json(Evaluation(tmp_path / "more", [base, model], suites, judge=first).run(silent))
    judged = told["models"][1]["judged"]
    assert (judged["value"], judged["ties"], judged["consistency"]["value"]) == (50, 3, 0)


def test_fewer_items_are_the_same_ones_in_any_order(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(40)]
    drawn = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in order))
        drawn.append({item.instruction for item in open_suite("held-out", path, None, 7).items})
    assert drawn[0] == drawn[1] and len(drawn[0]) == 7
    assert len(open_suite("ifeval", None, None, 9).items) == 9


def test_a_suite_that_cannot_be_had_is_said(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="no suite 'mmlu'"):
        open_suite("mmlu", data, None)
    with pytest.raises(UsageError, match="wants rows"):
        open_suite("labels", None, None)
    data.write_text(json.dumps(ROWS[2]) + "\n")
    with pytest.raises(InputError, match="no row names its labels"):
        open_suite("labels", data, None)


def test_the_folder_of_something_else_is_left_alone(tmp_path: Path, data: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    base = scripted(tmp_path, "base")
    with pytest.raises(UsageError, match=r"holds run\.json, and is no evaluation"):
        Evaluation(run, [base], [open_suite("held-out", data, None)]).run(silent)
    assert [one.name for one in run.iterdir()] == ["run.json"]


def test_our_own_prompts_are_there(tmp_path: Path) -> None:
    suite = open_suite("ifeval", None, None)
    assert len(suite.items) == 200 and len({item.instruction for item in suite.items}) == 200
    labels = open_suite("labels", SEEDS, None)
    assert len(labels.items) > 20


class TestCommand:
    def test_the_base_is_that_of_what_sft_made(self, tmp_path: Path) -> None:
        (tmp_path / "sft.json").write_text('{"state": "complete", "base": "some/base"}')
        assert base_of(["openai/x", f"hf/{tmp_path}"]) == "hf/some/base"
        assert base_of([f"vllm/{tmp_path}?dtype=float16&lora=x"]) == "vllm/some/base?dtype=float16"
        with pytest.raises(UsageError, match="no base"):
            base_of(["openai/x"])

    def test_it_prints_the_base_first_and_keeps_the_replies(self, tmp_path: Path, data: Path) -> None:
        base, good = scripted(tmp_path, "base"), scripted(tmp_path, "good", ("Lovely", "yes"), ("Awful", "no"))
        line = ["eval", good, "--base", base, "--suite", "labels", "--data", str(data), "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
        first, second = (text for text in done.stdout.splitlines() if "accuracy" in text)
        assert base in first and "0.0 %" in first
        assert good in second and "beside base +100.0 %" in second
        assert CliRunner().invoke(app, [*line, "--json"]).stdout.startswith('[{"suite": "labels"')

    @tinymodels.needs_training
    def test_a_model_that_fails_ends_it_with_its_exit_code_and_leaves_what_was_answered(
        self, tmp_path: Path, data: Path
    ) -> None:
        base, model = scripted(tmp_path, "base"), tinymodels.model(tmp_path / "model")
        (model / "model.safetensors").write_bytes(b"half")
        line = ["eval", f"hf/{model}", "--base", base, "--suite", "held-out", "--data", str(data)]
        done = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
        assert isinstance(done.exception, UsageError)
        assert len(list((tmp_path / "out").glob("*/journal.sqlite"))) == 1
        assert open_engine(base).name == base

    @pytest.mark.parametrize(
        "wrong", ["hf/no/where/at/all", "vllm/no/where/at/all", "vllm/x?y=z", "scripted/none.toml", "openai/", "odd/x"]
    )
    @pytest.mark.parametrize("place", ["model", "judge"])
    def test_a_name_that_is_none_is_said_before_anybody_is_asked(
        self, tmp_path: Path, data: Path, wrong: str, place: str
    ) -> None:
        base, good = scripted(tmp_path, "base"), scripted(tmp_path, "good")
        line = ["eval", *([good, "--judge", wrong] if place == "judge" else [good, wrong]), "--base", base]
        done = CliRunner().invoke(
            app, [*line, "--suite", "held-out", "--data", str(data), "--out", str(tmp_path / "out")]
        )
        assert isinstance(done.exception, UsageError)
        assert not (tmp_path / "out").exists()

    def test_types_of_instructions_stand_below_with_a_letter_for_each_model(self, tmp_path: Path) -> None:
        base, good = scripted(tmp_path, "base" * 20), scripted(tmp_path, "good" * 20, (".", "no commas here"))
        line = ["eval", good, "--base", base, "--out", str(tmp_path / "out"), "--limit", "60"]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        at = lines.index("  instructions followed by type, strictly:")
        assert lines[at + 1 : at + 3] == [f"    A {base}", f"    B {good}"]
        assert lines[at + 3].split() == ["A", "B"]
        below = lines[at + 4 : lines.index("", at)]
        told = json.loads((tmp_path / "out" / "scores.json").read_text())[0]["models"]
        shown = {name: figures for name, *figures in map(str.split, below)}
        assert shown == {
            name: [f"{one['parts']['types'][name]['strict']}/{one['parts']['types'][name]['of']}" for one in told]
            for name in told[0]["parts"]["types"]
        }
        assert all(len(text) <= 80 for text in lines[at + 3 : at + 4 + len(below)])

    def test_intervals_without_width_are_not_told_as_certain(self, tmp_path: Path, data: Path) -> None:
        rows = [{"instruction": "Kind? Answer yes or no.", "input": f"{n}", "output": "yes"} for n in range(10)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        base, same = scripted(tmp_path, "base", (".", "no")), scripted(tmp_path, "same", (".", "No."))
        line = ["eval", same, "--base", base, "--suite", "labels", "--suite", "held-out", "--data", str(data)]
        done = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
        told = [text for text in done.stdout.splitlines() if "accuracy" in text or "ROUGE" in text]
        assert "0.0 % (0.0 to 27.8, Wilson)" in told[0]
        assert told[1].endswith("beside base +0.0 % (-27.8 to +27.8, Tango)")
        labels, _ = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert figures(labels, 0, "accuracy")["method"] == "wilson"
        assert labels["models"][1]["beside_base"]["accuracy"]["method"] == "tango"

    def test_items_that_are_all_alike_have_no_interval(self, tmp_path: Path, data: Path) -> None:
        base, same = (scripted(tmp_path, name, ("sea", "the Adriatic")) for name in ("base", "same"))
        data.write_text(json.dumps(ROWS[2]) + "\n")
        line = ["eval", same, "--base", base, "--suite", "held-out", "--data", str(data)]
        done = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
        told = [text for text in done.stdout.splitlines() if "ROUGE" in text]
        assert told[0].endswith("57.1 %, all items alike") and told[1].endswith("beside base +0.0 %, no item differs")
        (table,) = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert figures(table, 0, "ROUGE-L")["low"] is None and figures(table, 0, "ROUGE-L")["method"] == "none"


class TestTrained:
    """What `sft` says of its data, beside what a model is scored on."""

    @pytest.fixture
    def model(self, tmp_path: Path, data: Path) -> Path:
        """A folder as `sft` leaves it: trained on two of the three rows, the third held out."""
        folder = tmp_path / "tuned"
        folder.mkdir()
        (folder / "held-out.json").write_text(json.dumps([ROWS[2]]))
        told = {"state": "complete", "data": {str(data): hashlib.sha256(data.read_bytes()).hexdigest()}}
        (folder / "sft.json").write_text(json.dumps(told))
        return folder

    def told(self, capsys: pytest.CaptureFixture[str], model: Path, data: Path) -> str:
        warn_of_trained([f"hf/{model}"], data)
        return capsys.readouterr().err

    def test_rows_are_known_in_any_file(
        self, tmp_path: Path, data: Path, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = tmp_path / "other.jsonl"
        other.write_text("".join(json.dumps(row) + "\n" for row in [ROWS[1], ROWS[2], {**ROWS[0], "output": "no"}]))
        assert f"1 of the 3 rows of {other} are among the training data" in self.told(capsys, model, other)
        assert "2 of the 3 rows" in self.told(capsys, model, data)
        assert not self.told(capsys, model, model / "held-out.json")

    def test_without_its_data_the_file_alone_is_known(
        self, tmp_path: Path, data: Path, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        moved = data.rename(tmp_path / "moved.jsonl")
        assert f"was trained on {moved}" in self.told(capsys, model, moved)
        moved.write_text(moved.read_text() + json.dumps({**ROWS[0], "output": "no"}) + "\n")
        assert "nobody can tell" in self.told(capsys, model, moved)

    def test_of_any_other_model_nothing_is_said(
        self, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert not self.told(capsys, tmp_path, data)
