"""The fine-tune: TRL's loss on our tokens, rows kept apart when packed, a model that stops, a training that resumes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tinymodels import model as tiny
from tinymodels import needs_training, tokenizer
from typer.testing import CliRunner

from selfinstruct import trainer
from selfinstruct.cli import app
from selfinstruct.engines import open_engine
from selfinstruct.errors import EngineError, InputError, UsageError
from selfinstruct.formats import read_dataset
from selfinstruct.sft import train
from selfinstruct.templates import chosen, messages_of, prompted
from selfinstruct.trainer import Progress, unpackable
from selfinstruct.tuning import Tuning, plan

pytestmark = [pytest.mark.slow, needs_training, pytest.mark.filterwarnings("ignore::FutureWarning")]

ANSWERS = {
    "Name a colour of the sky.": "Blue.",
    "How many legs has a spider?": "Eight.",
    "Say where bread is baked.": "In an oven.",
    "What do bees make?": "Honey, and wax.",
}
CLOSE = {"batch_size": 4, "micro_batch": 2, "held_out": 0.0, "learning_rate": 5e-3, "max_length": 512}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"instruction": question, "input": "", "output": answer} for question, answer in ANSWERS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def silent(progress: Progress) -> None:
    """Nobody looks."""


def tuned(
    base: Path, data: Path, out: Path, report: Callable[[Progress], None] = silent, **more: Any
) -> dict[str, Any]:
    tuning = Tuning(model=str(base), data=(str(data),), **{**CLOSE, **more})
    return train(tuning, out, plan(tuning), report)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def learnt(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A model that knows its few rows by heart."""
    out = tmp_path_factory.mktemp("learnt") / "model"
    return out, tuned(base, data, out, epochs=60)


def test_the_loss_is_trls_completion_only_loss_where_the_masks_are_equal(
    base: Path, data: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    tuning = Tuning(model=str(base), data=(str(data),), **CLOSE)
    planned = plan(tuning)
    ours = [{"input_ids": row.ids, "labels": row.labels} for row in planned.train]
    its, template = planned.tokenizer, planned.template
    theirs = [
        {"prompt": prompted(template, its, messages_of(row.record)), "completion": row.record.output + "<|end|>"}
        for row in planned.train
    ]
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_eval_batch_size=4,
        eval_strategy="no",
    )
    losses = []
    for rows in (ours, theirs):
        model = AutoModelForCausalLM.from_pretrained(base)
        known = Dataset.from_list(rows)
        trainer = SFTTrainer(model, arguments, train_dataset=known, eval_dataset=known, processing_class=its)
        assert [row["labels"] for row in trainer.eval_dataset] == [row["labels"] for row in ours]
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_model_that_was_trained_stops_when_it_is_served(learnt: tuple[Path, dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, known = learnt
    assert known["loss"][-1][1] < 0.1 < known["loss"][0][1]
    its, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    for question, answer in ANSWERS.items():
        asked = its.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        given = model.generate(**asked, max_new_tokens=60, do_sample=False)[0, asked["input_ids"].shape[1] :]
        assert its.decode(given) == f"{answer}<|end|>"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [its.eos_token_id]


def test_the_folder_has_a_card_a_plot_and_no_checkpoints(learnt: tuple[Path, dict[str, Any]]) -> None:
    folder, known = learnt
    assert known["steps"] == 60 and known["packing"] is True
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
    assert "| rows trained on | 4 |" in card
    assert (folder / "loss.svg").read_text().startswith("<?xml")
    assert not (folder / "checkpoints").exists()
    assert json.loads((folder / "sft.json").read_text())["state"] == "complete"


def test_a_complete_training_is_not_done_again(learnt: tuple[Path, dict[str, Any]], base: Path, data: Path) -> None:
    folder, known = learnt

    def never(progress: Progress) -> None:
        pytest.fail("it trains")

    assert tuned(base, data, folder, never, epochs=60) == known


def test_adapters_learn_too(base: Path, data: Path, tmp_path: Path) -> None:
    known = tuned(base, data, tmp_path / "out", method="lora", epochs=40, learning_rate=1e-2)
    losses = [loss for _, loss in known["loss"]]
    assert sum(losses[-5:]) / 5 < 0.9 * sum(losses[:5]) / 5
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_training_that_was_struck_goes_on_and_ends_in_the_same_weights(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(trainer, "SAVE", 0.0)
    seen: list[int] = []

    def strike(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.step == 17:
            raise KeyboardInterrupt

    tuned(base, data, tmp_path / "whole", epochs=24)
    with pytest.raises(KeyboardInterrupt):
        tuned(base, data, tmp_path / "struck", strike, epochs=24)
    assert seen[-1] == 17
    tuned(base, data, tmp_path / "struck", lambda progress: seen.append(progress.step), epochs=24)
    assert min(seen[17:]) == 17  # from the checkpoint of step 16
    whole, struck = weights(tmp_path / "whole"), weights(tmp_path / "struck")
    assert all(torch.allclose(whole[name], struck[name], atol=1e-5) for name in whole)


class TestPacking:
    def test_a_model_that_keeps_rows_apart_packs_and_one_that_carries_a_state_over_does_not(self, base: Path) -> None:
        from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

        tuning = Tuning(model=str(base), data=(str(Path(__file__).parent.parent / "seeds" / "175.jsonl"),))
        rows = plan(tuning).train
        assert not unpackable(AutoModelForCausalLM.from_pretrained(base), rows, 512)
        state = MambaForCausalLM(MambaConfig(vocab_size=1000, hidden_size=32, num_hidden_layers=1, state_size=4))
        assert unpackable(state, rows, 512) == "the model does not keep packed rows apart"
        assert unpackable(state, rows[:1], 512) == "no two fit into 512 tokens"

    def test_packed_or_not_the_first_loss_is_the_same(self, base: Path, data: Path, tmp_path: Path) -> None:
        """All four rows are one step either way."""
        losses = [
            tuned(base, data, tmp_path / packing, packing=packing, epochs=1)["loss"][0][1] for packing in ("auto", "no")
        ]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)


class TestPlan:
    def test_no_prompt_is_on_both_sides(self, base: Path, tmp_path: Path) -> None:
        rows = [{"instruction": f"Say {n % 100}.", "output": f"{n}!"} for n in range(400)]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        planned = plan(Tuning(model=str(base), data=(str(path),), held_out=0.2))
        asked = [{row.record.instruction for row in side} for side in (planned.train, planned.held_out)]
        assert asked[1] and not asked[0] & asked[1]

    def test_what_is_held_out_follows_from_the_content_alone(self, base: Path, tmp_path: Path) -> None:
        rows = [{"instruction": f"Say {number}.", "output": f"{number}!"} for number in range(400)]
        held = []
        for name, order in (("a", rows), ("b", rows[::-1])):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in order))
            planned = plan(Tuning(model=str(base), data=(str(path),), held_out=0.1))
            held.append({row.record.instruction for row in planned.held_out})
            assert len(planned.train) + len(planned.held_out) == 400
        assert held[0] == held[1] and 20 < len(held[0]) < 60

    @pytest.mark.parametrize(
        ("rows", "more", "error", "said"),
        [
            ([], {}, InputError, "rows.jsonl: no rows"),
            ([{"instruction": "Say."}], {}, InputError, "rows.jsonl:1"),
            ([{"instruction": "Say.", "output": ""}], {}, InputError, "nothing to train on in .*: 1 no response"),
            ([{"instruction": "Say. " * 60, "output": "x"}], {"max_length": 64}, InputError, "1 the prompt fills"),
            ([{"instruction": "Say <|end|>", "output": "x"}], {}, InputError, "1 its words forge a turn"),
            ([{"instruction": "Say.", "output": "x"}], {"max_length": 600}, UsageError, "made for 512 tokens"),
            (
                [{"instruction": "Say.", "output": "x"}],
                {"model": "/no/where/at/all"},
                UsageError,
                "no model can be read",
            ),
            ([{"instruction": "Say.", "output": "x"}], {"template": "model"}, UsageError, "no chat template"),
        ],
    )
    def test_bad_input_is_an_error_before_anything_is_trained(
        self, rows: list[Any], more: dict[str, Any], error: type[Exception], said: str, base: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(error, match=said):
            plan(Tuning(**{"model": str(base), "data": (str(path),), "max_length": 512, **more}))

    def test_a_base_model_is_given_a_template_and_that_is_said(self, base: Path, data: Path) -> None:
        planned = plan(Tuning(model=str(base), data=(str(data),), max_length=512))
        assert planned.template == chosen("alpaca", tokenizer("words"))
        assert "no chat template" in planned.said[0] and "--template alpaca" in planned.said[0]
        asked, trained = planned.shows(planned.train[0])
        assert asked.endswith("### Response:") and trained.endswith("<|end|>")


def test_too_little_memory_is_said_before_the_weights_are_loaded(data: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig

    its = tokenizer("words")
    its.save_pretrained(tmp_path / "huge")
    LlamaConfig(vocab_size=len(its), hidden_size=16384, intermediate_size=65536, num_hidden_layers=64).save_pretrained(
        tmp_path / "huge"
    )
    with pytest.raises(EngineError, match="GiB are free"):
        tuned(tmp_path / "huge", data, tmp_path / "out")


def test_the_folder_of_something_else_or_of_another_training_is_left_alone(
    learnt: tuple[Path, dict[str, Any]], base: Path, data: Path, tmp_path: Path
) -> None:
    folder, _ = learnt
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"epochs 60\.0 is 5\.0 now"):
        tuned(base, data, folder, epochs=5)
    other = tmp_path / "other.jsonl"
    other.write_text('{"instruction": "Say.", "output": "x"}\n')
    with pytest.raises(UsageError, match="other data"):
        tuned(base, other, folder, epochs=60)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        tuned(base, data, tmp_path / "mine")


class TestCommand:
    def test_it_trains_and_says_what_became_of_it(self, base: Path, data: Path, tmp_path: Path) -> None:
        line = [
            "sft",
            str(data),
            "--model",
            str(base),
            "--out",
            str(tmp_path / "out"),
            "--epochs",
            "2",
            "--held-out",
            "0",
        ]
        line += ["--max-length", "128", "--batch-size", "4", "--no-packing"]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
        assert "2 steps, rows not packed (as asked), loss" in done.stdout and "no chat template" in done.stderr
        assert "step 2 of 2" in done.stderr
        again = CliRunner().invoke(app, [*line, "--json"])
        assert json.loads(again.stdout)["rows"] == 4

    def test_a_dry_run_shows_what_is_trained_and_writes_nothing(self, base: Path, data: Path, tmp_path: Path) -> None:
        line = ["sft", str(data), "--model", str(base), "--out", str(tmp_path / "out"), "--max-length", "128"]
        done = CliRunner().invoke(app, [*line, "--dry-run", "--held-out", "0", "--json"])
        assert done.exit_code == 0, done.output
        known = json.loads(done.stdout)
        assert (known["rows"], known["template"], known["trained"]) == (4, "alpaca", "Blue.<|end|>")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("trainer", ["axolotl", "llamafactory", "trl"])
    @pytest.mark.parametrize("lora", [[], ["--lora"]])
    def test_the_same_training_for_others(self, trainer: str, lora: list[str], base: Path, data: Path) -> None:
        done = CliRunner().invoke(app, ["sft", str(data), "--model", str(base), "--print-config", trainer, *lora])
        assert done.exit_code == 0, done.output
        known = yaml.safe_load(done.stdout)
        assert known["learning_rate"] == (2e-4 if lora else 2e-5)
        assert str(base) in known.values()
        assert 512 in known.values()  # what the model was made for
        text = (Path(__file__).parent.parent / "prompts" / "templates" / "alpaca.jinja").read_text(encoding="utf-8")
        template = {"axolotl": text, "llamafactory": "alpaca"}.get(trainer)  # it has none of its own
        assert template is None or template in known.values()
        assert done.stdout.startswith("# selfinstruct export")
        if trainer == "trl":
            from trl import SFTConfig

            fields = SFTConfig.__dataclass_fields__
            others = {"model_name_or_path", "datasets", "use_peft", "lora_r", "lora_alpha", "lora_target_modules"}
            assert set(known) - others <= set(fields)


@pytest.mark.parametrize(
    ("rows", "batch", "micro", "packing", "steps"),
    [(48, 6, 4, "no", 8), (48, 1, 4, "no", 48), (48, 12, 4, "no", 4), (48, 1, 4, "auto", 48), (48, 48, 4, "auto", 1)],
)
def test_a_step_has_the_rows_that_were_asked_for(
    rows: int, batch: int, micro: int, packing: str, steps: int, base: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"Say {n}.", "output": f"{n}!"}) + "\n" for n in range(rows)))
    more = {"batch_size": batch, "micro_batch": micro, "packing": packing, "epochs": 1}
    known = tuned(base, path, tmp_path / "out", **more)
    assert known["steps"] == steps and known["rows_a_step"] == pytest.approx(rows / steps, rel=0.05)


def test_even_one_step_learns(base: Path, data: Path, tmp_path: Path) -> None:
    tuned(base, data, tmp_path / "out", epochs=1)
    assert any((weights(base)[name] != new).any() for name, new in weights(tmp_path / "out").items())


def test_an_adapter_stops_where_its_template_ends_an_answer(base: Path, data: Path, tmp_path: Path) -> None:
    tuned(base, data, tmp_path / "out", method="lora", epochs=1, template="chatml")
    engine: Any = open_engine(f"hf/{tmp_path / 'out'}")
    assert tokenizer("words").convert_tokens_to_ids("<|im_end|>") in engine._ends()


def test_a_broken_checkpoint_is_passed_over(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(trainer, "SAVE", 0.0)

    def strike(progress: Progress) -> None:
        if progress.step == 23:
            raise KeyboardInterrupt

    tuned(base, data, tmp_path / "whole", epochs=24)
    with pytest.raises(KeyboardInterrupt):
        tuned(base, data, tmp_path / "struck", strike, epochs=24)
    last = tmp_path / "struck" / "checkpoints" / "checkpoint-22"
    (last / "model.safetensors").write_bytes((last / "model.safetensors").read_bytes()[:100])
    seen: list[int] = []
    tuned(base, data, tmp_path / "struck", lambda progress: seen.append(progress.step), epochs=24, micro_batch=4)
    assert seen[0] == 22
    whole, struck = weights(tmp_path / "whole"), weights(tmp_path / "struck")
    assert all(torch.allclose(whole[name], struck[name], atol=1e-4) for name in whole)


def test_one_that_is_told_to_stop_writes_a_checkpoint_and_goes_on(base: Path, data: Path, tmp_path: Path) -> None:
    import torch

    tuned(base, data, tmp_path / "whole", epochs=12)
    seen: list[int] = []
    tuning = Tuning(model=str(base), data=(str(data),), **{**CLOSE, "epochs": 12})

    def go_on(stop: bool) -> dict[str, Any]:
        return train(
            tuning, tmp_path / "out", plan(tuning), lambda one: seen.append(one.step), lambda: stop and len(seen) >= 4
        )

    assert go_on(stop=True) == {"state": "interrupted", "step": 5, "steps": 12}
    assert json.loads((tmp_path / "out" / "sft.json").read_text())["state"] == "running"
    assert go_on(stop=False)["state"] == "complete"
    assert seen == list(range(1, 13))
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.allclose(whole[name], stopped[name], atol=1e-5) for name in whole)


@pytest.mark.parametrize("later", [0, 2])
def test_no_loss_of_what_is_held_out_is_lost_where_it_stops(later: int, base: Path, tmp_path: Path) -> None:
    """At an epoch's last step, and two steps later."""
    rows = [{"instruction": f"Say {number}.", "output": f"{number}!"} for number in range(24)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"held_out": 0.2, "epochs": 2, "batch_size": 4, "packing": "no"}
    whole = tuned(base, path, tmp_path / "whole", **more)
    epoch = whole["held_out_loss"][0][0]
    step = epoch + later
    tuning = Tuning(model=str(base), data=(str(path),), **(CLOSE | more))
    seen: list[Progress] = []
    done = train(tuning, tmp_path / "out", plan(tuning), seen.append, lambda: bool(seen) and seen[-1].step >= step - 1)
    assert done["step"] == step
    assert [one.step for one in seen if one.held_out_loss is not None] == [epoch]
    known = train(tuning, tmp_path / "out", plan(tuning), silent)
    assert known["held_out_loss"] == [[at, pytest.approx(loss, abs=1e-4)] for at, loss in whole["held_out_loss"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(number: signal.Signals, base: Path, data: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "selfinstruct", "sft", data, "--model", base, "--out", tmp_path / "out"]
    command = [*map(str, line), "--epochs", "100000", "--held-out", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for told in process.stderr:
            if "step 1 of" in told:
                break
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 128 + number
    assert "stopping after this step; once more to leave now" in rest
    assert "the same command goes on" in rest
    assert not (tmp_path / "out" / "lock").exists()
    assert list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))


def test_one_training_a_folder(base: Path, data: Path, tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        with pytest.raises(UsageError, match="in use"):
            tuned(base, data, tmp_path / "out", epochs=2)

    tuned(base, data, tmp_path / "out", second, epochs=2)
    assert not (tmp_path / "out" / "lock").exists()


def test_rows_that_were_held_out_lie_beside_the_model(base: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {number}.", "output": f"{number}!"} for number in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = tuned(base, path, tmp_path / "out", held_out=0.2, epochs=1, batch_size=32)
    held = list(read_dataset(tmp_path / "out" / "held-out.json"))
    assert len(held) == known["held_out"] > 0
    assert len(known["held_out_loss"]) == 1


@pytest.mark.parametrize("packing", ["auto", "no"])
def test_the_loss_of_what_is_held_out_is_a_mean_over_its_tokens(base: Path, tmp_path: Path, packing: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(n + 1)))} for n in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"held_out": 0.2, "epochs": 1, "batch_size": 32, "packing": packing}
    known = tuned(base, path, tmp_path / "out", **settings)
    planned = plan(Tuning(model=str(base), data=(str(path),), **(CLOSE | settings)))
    assert known["packing"] == (packing == "auto")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    nats, tokens = 0.0, 0
    for row in planned.held_out:
        with torch.no_grad():
            logits = model(torch.tensor([row.ids])).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        nats += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))  # it ignores -100
        tokens += int((labels != -100).sum())
    ((_, told),) = known["held_out_loss"]
    assert told == pytest.approx(nats / tokens, abs=1e-4)
