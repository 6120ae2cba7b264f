"""The bundled supervised fine-tune: from instruction data to a model that answers, by TRL, transformers and PEFT.

What is ours is what goes in and comes out: which tokens are trained (masks.py), how a conversation is written
(templates.py), and a folder that every server reads, with the template and the token that ends an answer in it. The
loop, the optimiser and the adapters are TRL's, transformers' and PEFT's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from selfinstruct.engines.hf import no_model
from selfinstruct.errors import EngineError, InputError, UsageError
from selfinstruct.files import write_whole, writing
from selfinstruct.formats import dataset_files, write_dataset
from selfinstruct.lock import Lock
from selfinstruct.trainer import HELD_OUT_LOSS, Progress, quieten, trainer_of, unpackable
from selfinstruct.tuned import finish, write_card
from selfinstruct.tuning import Plan, Tuning

STATE, HELD_OUT = "sft.json", "held-out.json"


def train(
    tuning: Tuning,
    out: Path,
    planned: Plan,
    report: Callable[[Progress], None],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train, and write the model into ``out``; what became of it. The same call resumes from the last checkpoint, and
    one is written when, after a step, ``stop`` says so: then the state is ``interrupted``.

    Raises UsageError for a folder that holds something else, and EngineError where memory does not suffice.
    """
    known = _state_of(tuning, out)
    if known.get("state") == "complete":
        return known
    quieten()
    import torch
    from transformers import set_seed

    set_seed(tuning.seed)
    on_gpu = torch.cuda.is_available()
    if torch.cuda.device_count() > 1 and "WORLD_SIZE" not in os.environ:
        hint = "`accelerate launch -m selfinstruct sft …` uses all, CUDA_VISIBLE_DEVICES=0 one"
        raise UsageError(f"{torch.cuda.device_count()} GPUs are visible to one process", hint=hint)
    _check_memory(tuning, on_gpu=on_gpu)
    model = _model(tuning, on_gpu=on_gpu)
    first = is_first()
    with _held(out) if first else nullcontext():
        if first and not known:
            begun = {"state": "running", "tuning": tuning.model_dump(mode="json"), "data": _digests(tuning.data)}
            with writing(out):
                write_whole(out / STATE, json.dumps(begun, indent=2).encode() + b"\n")
        return _trained(tuning, out, planned, report, stop, model, on_gpu=on_gpu)


def is_first() -> bool:
    """Whether this process writes and speaks, where accelerate started several."""
    return os.environ.get("RANK", "0") == "0"


def _trained(
    tuning: Tuning,
    out: Path,
    planned: Plan,
    report: Callable[[Progress], None],
    stop: Callable[[], bool],
    model: Any,
    *,
    on_gpu: bool,
) -> dict[str, Any]:
    import torch

    tokenizer = planned.tokenizer
    # Where the tokenizer has no token to pad with, the end token does: labels are made of lengths, never of ids.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    apart = "as asked" if tuning.packing == "no" else unpackable(model, planned.train, planned.most)
    trainer, apart, rows_a_step = trainer_of(tuning, out, model, planned, report, stop, apart=apart, on_gpu=on_gpu)
    checkpoint = _checkpoint(out)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise EngineError("the GPU's memory does not hold this training", hint=_SMALLER) from error
    if trainer.state.global_step < trainer.state.max_steps:
        return {"state": "interrupted", "step": trainer.state.global_step, "steps": trainer.state.max_steps}
    log = trainer.state.log_history
    known = {
        "state": "complete",
        "tuning": tuning.model_dump(mode="json"),
        "base": _place(tuning.model),
        "data": _digests(tuning.data),
        "template": planned.template.name,
        **planned.figures(),
        "packing": not apart,
        "not_packed": apart,
        "rows_a_step": rows_a_step,
        "learning_rate": tuning.rate,
        "steps": trainer.state.global_step,
        "loss": [[line["step"], line["loss"]] for line in log if "loss" in line],
        "held_out_loss": [[line["step"], line[HELD_OUT_LOSS]] for line in log if HELD_OUT_LOSS in line],
        "versions": _versions(),
    }
    if trainer.is_world_process_zero():
        finish(trainer.model, tokenizer, planned.template, planned.end, out)
        if planned.held_out:
            write_dataset((row.record for row in planned.held_out), out / HELD_OUT, "alpaca")
        write_card(out, known)
        with writing(out):
            write_whole(out / STATE, json.dumps(known, indent=2).encode() + b"\n")
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return known


def _digests(data: Sequence[str]) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for one in data for path in dataset_files(Path(one))
    }


def _state_of(tuning: Tuning, out: Path) -> dict[str, Any]:
    """What stands in the folder of this very training. Raises UsageError where it is another's."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="choose another --out")
    path = out / STATE
    if not path.is_file():
        # A lock may be there, and what a write that was killed left.
        if out.is_dir() and any(one.name != "lock" and not one.name.startswith(".") for one in out.iterdir()):
            raise UsageError(f"{out} is not empty, and no training of ours", hint="choose another --out")
        return {}
    try:
        known: Any = json.loads(path.read_text(encoding="utf-8"))
        before = dict(known["tuning"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is not what `sft` writes", hint="choose another --out") from error
    if known.get("data") != _digests(tuning.data):
        raise UsageError(f"{out} was trained on other data", hint="choose another --out")
    now = tuning.model_dump(mode="json")
    changed = [key for key, value in now.items() if before.get(key) != value and key != "micro_batch"]
    if changed:
        told = ", ".join(f"{key} {before.get(key)!r} is {now[key]!r} now" for key in changed)
        raise UsageError(f"{out} was begun with other settings: {told}", hint="choose another --out")
    return dict(known)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """One training a folder; a finished model has no lock in it."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out)
    try:
        yield
    finally:
        lock.release(remove=True)


def _checkpoint(out: Path) -> Path | None:
    """The last checkpoint that is whole: one that was being written when the process ended is passed over."""
    from safetensors import SafetensorError, safe_open

    found = sorted((out / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in reversed(found):
        weights = [*path.glob("*.safetensors")]
        try:
            for one in weights:
                with safe_open(one, "pt"):
                    pass
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError):
            continue
        if weights and all((path / name).is_file() for name in ("optimizer.pt", "scheduler.pt")):
            return path
    return None


def _place(model: str) -> str:
    """Where the model lies, from wherever it is asked for; of the hub, its id."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


_SMALLER = "a smaller --micro-batch, which may change here; or, into another --out, --lora, --max-length, another model"


def _check_memory(tuning: Tuning, *, on_gpu: bool) -> None:
    """Raises EngineError where the weights, gradients and moments alone are more than is free."""
    import psutil
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tuning.model))
    except (OSError, ValueError) as error:
        raise no_model(tuning.model, error) from error
    parameters = sum(one.numel() for one in empty.parameters())
    # fp32 weights, gradients and two moments of Adam; beside an adapter the weights stay as they are.
    each = 16 if tuning.method == "full" else 2 if on_gpu else 4
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    if parameters * each > free:
        raise EngineError(
            f"{parameters / 1e6:,.0f} million parameters need {parameters * each / 2**30:.1f} GiB to be trained, "
            f"and {free / 2**30:.1f} GiB are free",
            hint=_SMALLER,
        )


def _model(tuning: Tuning, *, on_gpu: bool) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    # A full fine-tune keeps its weights in fp32, and computes in bf16 on a GPU.
    half = on_gpu and tuning.method == "lora"
    try:
        dtype = torch.bfloat16 if half else torch.float32
        model = AutoModelForCausalLM.from_pretrained(_place(tuning.model), dtype=dtype)
    except (OSError, ValueError, SafetensorError) as error:
        raise no_model(tuning.model, error) from error
    return model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}") if on_gpu else model


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("selfinstruct", "torch", "transformers", "trl", "peft")}
