"""lm-eval's tasks: what it finds itself, under intervals of ours; nothing asked twice, nothing heard of its chatter."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tinymodels
from typer.testing import CliRunner

from selfinstruct.cli import app
from selfinstruct.errors import EngineError, UsageError
from selfinstruct.evaluate.evaluation import Evaluation, as_json
from selfinstruct.evaluate.harness import Own, open_benchmarks

pytestmark = [
    tinymodels.needs_training,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install '.[lm-eval]'"
    ),
]

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}} Answer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
    "metadata": {"version": 1.0},
}
WORDS = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
        {"metric": "ter", "aggregation": "ter", "higher_is_better": False},
    ],
    "metadata": {"version": 2.0},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A base, and one of other weights that answers otherwise."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")
    for name in ("base", "other"):
        tinymodels.model(folder / name)
    other = AutoModelForCausalLM.from_pretrained(folder / "other")
    torch.manual_seed(1)
    for weights in other.parameters():
        weights.data += torch.randn_like(weights) * 0.3
    other.save_pretrained(folder / "other")
    return f"hf/{folder / 'base'}", f"hf/{folder / 'other'}"


def task(folder: Path, name: str, config: dict[str, Any], items: int = 20) -> str:
    """A task's file (JSON is YAML), beside data of its own."""
    words = [f"{one}{other}" for one in "bdgkmprt" for other in ("ag", "en", "ip", "ot", "um")]
    rows = [
        {
            "question": f"What is {n} and {n * n}?",
            "choices": [words[(n + at) % 40] for at in (0, 7, 21)],
            "answer": n % 3,
        }
        for n in range(items)
    ]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
    file = folder / f"{name}.yaml"
    file.write_text(
        json.dumps({"task": name, "dataset_path": "json", "dataset_kwargs": where, "test_split": "test", **config})
    )
    return str(file)


def evaluated(folder: Path, models: tuple[str, ...], names: list[str], asked: list[str], **how: Any) -> Any:
    benchmarks = open_benchmarks(names, **how)
    evaluation = Evaluation(folder, models, [], benchmarks=benchmarks)
    return as_json(evaluation.run(lambda model, done, of: asked.append(model)))


def test_the_scores_are_those_of_lm_eval_itself(tmp_path: Path, models: tuple[str, str]) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from selfinstruct.evaluate.harness import quiet

    files = [task(tmp_path, "choice", CHOICE), task(tmp_path, "words", WORDS, 6)]
    choice, words = evaluated(tmp_path / "out", models, files, [])
    assert (choice["suite"], choice["items"], words["suite"], words["items"]) == (
        "lm-eval:choice",
        20,
        "lm-eval:words",
        6,
    )
    for at, model in enumerate(models):
        with quiet():
            its = lm_eval.simple_evaluate(
                "hf",
                {"pretrained": model.removeprefix("hf/"), "dtype": "float32"},
                files,
                device="cpu",
                batch_size=1,
                task_manager=TaskManager(include_defaults=False),
            )["results"]
        for table, metrics in ((choice, ("acc", "acc_norm")), (words, ("exact_match",))):
            figures = table["models"][at]["figures"]
            assert tuple(figures) == metrics
            for metric in metrics:
                value = its[table["suite"].removeprefix("lm-eval:")][f"{metric},none"]
                assert figures[metric]["value"] == pytest.approx(value)
                assert figures[metric]["low"] <= value <= figures[metric]["high"]
        own = words["models"][at]["own"]
        assert own == {"ter": {"value": its["words"]["ter,none"], "error": its["words"]["ter_stderr,none"]}}
        assert own["ter"]["value"] > 0
    assert words["about"]["less_is_better"] == ["ter"]
    base, other = (one["figures"]["acc"]["value"] for one in choice["models"])
    assert base != other, choice["models"][1]["beside_base"]  # or the next line would say nothing
    assert choice["models"][1]["beside_base"]["acc"]["value"] == pytest.approx(other - base)


def test_examples_filters_and_drawn_answers_are_lm_evals_whatever_was_asked_before(
    tmp_path: Path, models: tuple[str, str]
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from selfinstruct.evaluate.harness import quiet

    first = [{"function": "take_first"}]
    config = {
        **WORDS,
        "num_fewshot": 2,
        "fewshot_split": "test",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0},
        "filter_list": [
            {"name": "whole", "filter": first},
            {"name": "word", "filter": [{"function": "regex", "regex_pattern": "(\\w+)"}, *first]},
        ],
    }
    files = [task(tmp_path, "choice", CHOICE), task(tmp_path, "drawn", config, 24)]
    _, after = evaluated(tmp_path / "both", models[1:], files, [])
    (alone,) = evaluated(tmp_path / "alone", models[1:], files[1:], [])
    assert after == alone and tuple(alone["models"][0]["figures"]) == ("exact_match (whole)", "exact_match (word)")
    (kept,) = tmp_path.glob("alone/*/lm-eval/drawn-*.json")
    with quiet():
        its = lm_eval.simple_evaluate(
            "hf",
            {"pretrained": models[1].removeprefix("hf/"), "dtype": "float32"},
            files[1:],
            device="cpu",
            batch_size=1,
            task_manager=TaskManager(include_defaults=False),
        )["samples"]["drawn"]
    ours = json.loads(kept.read_text())["samples"]
    assert [one["prompt_hash"] for one in ours] == [one["prompt_hash"] for one in its]
    assert [(one["filter"], one["answers"]) for one in ours] == [(one["filter"], one["filtered_resps"]) for one in its]
    assert len(ours) == 48


def test_the_same_call_asks_nothing_again_and_another_one_does(tmp_path: Path, models: tuple[str, str]) -> None:
    file, asked = task(tmp_path, "choice", CHOICE), []
    first = evaluated(tmp_path / "out", models[:1], [file], asked)
    assert set(asked) == {f"{models[0]}, choice"}
    asked.clear()
    assert evaluated(tmp_path / "out", models[:1], [file], asked) == first and not asked
    few = evaluated(tmp_path / "out", models[:1], [file], asked, limit=5)
    assert few[0]["items"] == 5 and asked
    asked.clear()
    assert evaluated(tmp_path / "out", models[:1], [file], asked) == first and not asked
    task(tmp_path, "choice", {**CHOICE, "doc_to_text": "{{question}}"})
    evaluated(tmp_path / "out", models[:1], [file], asked)
    assert asked
    asked.clear()
    task(tmp_path, "choice", CHOICE, 21)  # other data under the same name
    assert evaluated(tmp_path / "out", models[:1], [file], asked)[0]["items"] == 21 and asked


def test_other_weights_under_the_same_name_are_asked_anew(tmp_path: Path) -> None:
    folder, file, asked = tinymodels.model(tmp_path / "model"), task(tmp_path, "choice", CHOICE, 3), []
    evaluated(tmp_path / "out", (f"hf/{folder}",), [file], asked)
    asked.clear()
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    evaluated(tmp_path / "out", (f"hf/{folder}",), [file], asked)
    assert asked


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
def test_an_adapter_is_scored_with_its_base(tmp_path: Path, models: tuple[str, str]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = models[0].removeprefix("hf/")
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path / "merged")
    three = (models[0], f"hf/{tmp_path / 'adapter'}", f"hf/{tmp_path / 'merged'}")
    evaluated(tmp_path / "out", three, [task(tmp_path, "choice", CHOICE)], [])

    def told(model: str) -> list[float]:
        (kept,) = tmp_path.glob(f"out/*{Path(model).name}/lm-eval/choice-*.json")
        return [float(choice[0]) for one in json.loads(kept.read_text())["samples"] for choice in one["answers"]]

    base, adapter, whole = map(told, three)
    assert adapter == pytest.approx(whole, abs=1e-3) and adapter != pytest.approx(base, abs=1e-2)


def test_a_group_is_a_table_of_its_own(tmp_path: Path, models: tuple[str, str]) -> None:
    task(tmp_path, "long", CHOICE, 20)
    task(tmp_path, "short", CHOICE, 5)
    group = tmp_path / "both.yaml"

    def tables(by_size: bool) -> Any:
        means = [{"metric": "acc", "weight_by_size": by_size}]
        told = {"group": "both", "task": ["long", "short"], "aggregate_metric_list": means}
        group.write_text(json.dumps(told))
        return evaluated(tmp_path / "out", models, [str(group)], [])

    for by_size in (True, False):
        both, long, short = tables(by_size)
        assert (both["suite"], both["items"]) == ("lm-eval:both", 25)
        for at in range(2):
            parts = [one["models"][at]["figures"]["acc"]["value"] for one in (long, short)]
            mean = (20 * parts[0] + 5 * parts[1]) / 25 if by_size else sum(parts) / 2
            assert both["models"][at]["figures"]["acc"]["value"] == pytest.approx(mean)
        assert both["models"][1]["beside_base"]["acc"]["items"] == 25


def test_a_chat_template_is_applied_where_it_is_asked_for(tmp_path: Path, models: tuple[str, str]) -> None:
    path = tmp_path / "chats"
    tinymodels.model(path)
    (path / "chat_template.jinja").write_text(tinymodels.OWN["trims and begins"])
    file, prompts = task(tmp_path, "choice", CHOICE, 3), []
    for chat in (False, True):
        evaluated(tmp_path / f"out-{chat}", (models[0], f"hf/{path}"), [file], [], chat=chat)
        kept = sorted(tmp_path.glob(f"out-{chat}/*/lm-eval/*.json"))
        prompts += [json.loads(one.read_text())["samples"][0]["prompt_hash"] for one in kept]
    assert len(prompts) == 4 and len(set(prompts)) == 2


class TestRefused:
    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="there is no such file"):
            open_benchmarks([str(tmp_path / "none.yaml")])

    def test_data_that_cannot_be_had(self, tmp_path: Path) -> None:
        file = task(tmp_path, "choice", CHOICE)
        (tmp_path / "choice.jsonl").unlink()
        with pytest.raises(UsageError, match="cannot be loaded: FileNotFoundError") as refused:
            open_benchmarks([file])
        assert "data_files" in refused.value.hint

    def test_a_file_that_describes_no_task(self, tmp_path: Path) -> None:
        (tmp_path / "odd.yaml").write_text("what: this")
        with pytest.raises(UsageError, match="cannot be loaded"):
            open_benchmarks([str(tmp_path / "odd.yaml")])

    def test_two_tasks_of_one_name(self, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        files = [task(tmp_path, "choice", CHOICE), task(tmp_path / "b", "choice", CHOICE, 3)]
        with pytest.raises(UsageError, match="two different tasks are called choice"):
            open_benchmarks(files)

    def test_code_that_a_model_wrote(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="runs code that a model wrote"):
            open_benchmarks([task(tmp_path, "choice", {**CHOICE, "unsafe_code": True})])

    @pytest.mark.slow
    def test_a_name_that_lm_eval_does_not_know(self) -> None:
        with pytest.raises(UsageError, match="no task 'arc_eazy'") as refused:
            open_benchmarks(["arc_eazy"])
        assert "arc_easy" in refused.value.hint

    @pytest.mark.parametrize(("model", "hint"), [("vllm/x/y?dtype=half", "hf/x/y"), ("openai/gpt-5", "hf/FOLDER")])
    def test_a_model_that_tells_no_probabilities_before_any_task_is_read(self, model: str, hint: str) -> None:
        done = CliRunner().invoke(app, ["eval", model, "--base", "hf/nowhere", "--suite", "lm-eval:none.yaml"])
        assert isinstance(done.exception, UsageError) and model in str(done.exception)
        assert done.exception.hint.startswith(hint)

    def test_what_fails_while_it_is_asked_leaves_no_file(self, tmp_path: Path, models: tuple[str, str]) -> None:
        config = {**WORDS, "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4096}}  # more than the context holds
        with pytest.raises(EngineError, match=r"base, words: \w+: "):
            evaluated(tmp_path / "out", models[:1], [task(tmp_path, "words", config, 3)], [])
        assert not list(tmp_path.glob("out/*/lm-eval/*"))


def test_the_command_prints_its_tables_and_nothing_of_lm_evals(
    tmp_path: Path, models: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    files = [task(tmp_path, "choice", CHOICE), task(tmp_path, "words", WORDS, 6)]
    line = ["eval", models[1], "--base", models[0], "--out", str(tmp_path / "out"), "--limit", "4"]
    line += [part for file in files for part in ("--suite", f"lm-eval:{file}")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert [text for text in done.stdout.splitlines() if text.startswith("lm-eval:")] == [
        f"lm-eval:{name}, 4 items (95 % intervals by bootstrap over items, unless said)" for name in ("choice", "words")
    ]
    assert "ter, less is better" in done.stdout and "lm-eval's own: no mean over items" in done.stdout
    allowed = ("reading", "hf/")
    assert all(text.startswith(allowed) for text in done.stderr.splitlines()), done.stderr
    assert capfd.readouterr() == ("", "")
    again = CliRunner().invoke(app, [*line, "--json"])
    assert [table["suite"] for table in json.loads(again.stdout)] == ["lm-eval:choice", "lm-eval:words"]


def test_what_is_no_mean_is_told_as_it_is() -> None:
    from selfinstruct.evaluate.harness import _own

    results = {"alias": "x", "acc,none": 0.5, "bleu,none": 3.0, "bleu_stderr,none": "N/A", "odd,strict": float("nan")}
    assert _own(results, {"acc,none"}) == {"bleu": Own(3.0, None), "odd (strict)": Own(None, None)}
