"""The bundled supervised fine-tune: from instruction data to a model that answers, by TRL, transformers and PEFT.

What is ours is what goes in and comes out: which tokens are trained (masks.py), how a conversation is written
(templates.py), and a folder that every server reads, with the template and the token that ends an answer in it. The
loop, the optimiser and the adapters are TRL's, transformers' and PEFT's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from selfinstruct.engines import Frozen
from selfinstruct.engines.hf import INSTALL, no_model
from selfinstruct.errors import EngineError, InputError, UsageError
from selfinstruct.files import write_whole, writing
from selfinstruct.formats import dataset_files, read_dataset, write_dataset
from selfinstruct.lock import Lock
from selfinstruct.masks import Row, Rows, decoded, tokenised
from selfinstruct.records import Record
from selfinstruct.templates import Template, chosen
from selfinstruct.tuned import finish, write_card

RATES = {"full": 2e-5, "lora": 2e-4}
"""Learning rates where none is given: Alpaca's (Taori et al. 2023), and ten times it for adapters."""
SAME = 1e-4
"""What packed and unpacked logits may differ by."""
LENGTH = 1024
"""Tokens of a row, unless somebody says otherwise."""
BUCKETS = 10_000
"""Parts of the held-out share."""
STATE, HELD_OUT = "sft.json", "held-out.json"


class Tuning(Frozen):
    """Everything that can change the model that comes out."""

    model: str
    data: tuple[str, ...]
    template: str = "auto"
    method: Literal["full", "lora"] = "full"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    epochs: float = Field(3, gt=0)
    batch_size: int = Field(32, ge=1)
    """Rows for each step of the optimiser, over all devices."""
    micro_batch: int = Field(4, ge=1)
    """Rows that one device holds at once; it decides memory and speed, not the steps."""
    learning_rate: float | None = Field(None, gt=0)
    warmup: float = Field(0.03, ge=0, le=1)
    """Share of the steps."""
    weight_decay: float = Field(0, ge=0)
    max_length: int | None = Field(None, ge=16)
    """Tokens of a row; None: LENGTH, or what the model was made for if that is less."""
    packing: Literal["auto", "no"] = "auto"
    held_out: float = Field(0.05, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def rate(self) -> float:
        return self.learning_rate or RATES[self.method]


class Progress(NamedTuple):
    """How far a training is."""

    step: int
    steps: int
    loss: float | None
    held_out_loss: float | None
    tokens: int
    """Seen since the first of this call's steps, prompts included, in …"""
    seconds: float
    left: float | None
    """Seconds to the end, once that can be told."""


class Plan(NamedTuple):
    """What a training would do, before any weight is loaded."""

    template: Template
    found: Rows
    train: list[Row]
    held_out: list[Row]
    said: tuple[str, ...]
    """What a person should know before it starts."""
    tokenizer: Any
    most: int
    """Tokens of a row."""
    end: int
    """The token that ends an answer."""

    def shows(self, row: Row) -> tuple[str, str]:
        """A row's text: what is not trained of it, and what is."""
        return decoded(self.tokenizer, row.ids[: row.asked]), decoded(self.tokenizer, row.ids[row.asked :])

    def figures(self) -> dict[str, Any]:
        return {
            "rows": len(self.train),
            "held_out": len(self.held_out),
            "dropped": dict(self.found.dropped),
            "noted": dict(self.found.noted),
            "trained_tokens": sum(row.trained for row in self.train),
        }


def plan(tuning: Tuning) -> Plan:
    """Read, write and tokenise the data. Raises UsageError for a model or template that cannot be had, InputError for
    data that cannot be read or of which nothing can be trained."""
    tokenizer = tokenizer_of(tuning.model)
    limit = _positions(tuning.model)
    most = tuning.max_length or min(LENGTH, limit or LENGTH)
    if limit and most > limit:
        raise UsageError(f"--max-length {most}: the model was made for {limit} tokens", hint=f"--max-length {limit}")
    template = chosen(tuning.template, tokenizer)
    said = []
    if template.thoughtless:
        said.append(f"{tuning.model} thinks first: it is trained, and will be served, without thoughts")
    if tuning.template == "auto" and template.name != "model":
        said.append(f"{tuning.model} has no chat template: it is trained with --template {template.name}, and keeps it")
    found = tokenised(tokenizer, template, _records(tuning.data), most)
    if not found.rows:
        why = ", ".join(f"{number} {name}" for name, number in found.dropped.most_common()) or "they hold no rows"
        raise InputError(
            f"nothing to train on in {', '.join(tuning.data)}: {why}",
            hint="a larger --max-length, another --template, or `selfinstruct answer` for rows without a response",
        )
    said += [f"{number} of {len(found.rows)} rows: {name}" for name, number in found.noted.most_common()]
    said += [f"{number} rows dropped: {name}" for name, number in found.dropped.most_common()]
    train = [row for row in found.rows if not _is_held_out(row.record, tuning.held_out)]
    held_out = [row for row in found.rows if _is_held_out(row.record, tuning.held_out)]
    if not train:
        raise InputError("every row is held out", hint="give a smaller --held-out, or more data")
    ends = [row.ids[-1] for row in found.rows if row.whole]
    if not ends:
        raise InputError(
            f"no answer fits into {most} tokens: none would be trained to end", hint="a larger --max-length"
        )
    return Plan(template, found, train, held_out, tuple(said), tokenizer, most, ends[0])


def train(tuning: Tuning, out: Path, planned: Plan, report: Callable[[Progress], None]) -> dict[str, Any]:
    """Train, and write the model into ``out``; what became of it. The same call resumes from the last checkpoint.

    Raises UsageError for a folder that holds something else, and EngineError where memory does not suffice.
    """
    known = _state_of(tuning, out)
    if known.get("state") == "complete":
        return known
    _quieten()
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
        return _trained(tuning, out, planned, report, model, on_gpu=on_gpu)


def is_first() -> bool:
    """Whether this process writes and speaks, where accelerate started several."""
    return os.environ.get("RANK", "0") == "0"


def _trained(
    tuning: Tuning, out: Path, planned: Plan, report: Callable[[Progress], None], model: Any, *, on_gpu: bool
) -> dict[str, Any]:
    import torch

    tokenizer = planned.tokenizer
    # Where the tokenizer has no token to pad with, the end token does: labels are made of lengths, never of ids.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    packing = tuning.packing == "auto" and packs(model, planned.train, planned.most)
    trainer, packing, rows_a_step = _trainer(tuning, out, model, planned, report, packing=packing, on_gpu=on_gpu)
    checkpoint = _checkpoint(out)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise EngineError("the GPU's memory does not hold this training", hint=_SMALLER) from error
    log = trainer.state.log_history
    known = {
        "state": "complete",
        "tuning": tuning.model_dump(mode="json"),
        "base": _place(tuning.model),
        "data": _digests(tuning.data),
        "template": planned.template.name,
        **planned.figures(),
        "packing": packing,
        "rows_a_step": rows_a_step,
        "learning_rate": tuning.rate,
        "steps": trainer.state.global_step,
        "loss": [[line["step"], line["loss"]] for line in log if "loss" in line],
        "held_out_loss": [[line["step"], line["eval_loss"]] for line in log if "eval_loss" in line],
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


def packs(model: Any, rows: Sequence[Row], most: int) -> bool:
    """Whether this model keeps rows apart that are packed into one: its logits for them are those that it has for each
    alone, and those of one do not change with the words of the other."""
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    short = sorted((row.ids for row in rows), key=len)[:3]
    if len(short) < 2 or sum(map(len, short)) > most:
        return False
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():

            def logits(*packed: list[int]) -> Any:
                batch = collate([{"input_ids": ids, "labels": ids} for ids in packed])
                batch.pop("labels")
                given = {key: value.to(model.device) if hasattr(value, "to") else value for key, value in batch.items()}
                return model(**given, use_cache=False).logits[0].float()

            together, apart = logits(*short), torch.cat([logits(ids) for ids in short])
            first = len(short[0])
            turned = logits(short[0][::-1], *short[1:])
            leaks = float((together[first:] - turned[first:]).abs().max())
            differs = float((together - apart).abs().max())
            return leaks <= SAME and (differs <= SAME or model.dtype != torch.float32)
    except (TypeError, ValueError, RuntimeError):  # a model that cannot be asked like that
        return False
    finally:
        model.train(was_training)


def tokenizer_of(model: str) -> Any:
    """The model's tokenizer. Raises UsageError where there is none, or transformers is not installed."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError("training needs transformers, TRL and PEFT", hint=INSTALL) from error
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise no_model(model, error) from error


def _positions(model: str) -> int:
    """Tokens that the model was made for; 0 where it does not say."""
    from transformers import AutoConfig

    try:
        return int(getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", 0) or 0)
    except (OSError, ValueError) as error:
        raise no_model(model, error) from error


def _records(data: Sequence[str]) -> Iterator[Record]:
    for path in data:
        yield from read_dataset(Path(path))


def _is_held_out(record: Record, share: float) -> bool:
    """By content: the same row is held out of every training, wherever it stands."""
    return int(hashlib.sha256(f"held out|{record.id}".encode()).hexdigest(), 16) % BUCKETS < share * BUCKETS


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


def _trainer(
    tuning: Tuning,
    out: Path,
    model: Any,
    planned: Plan,
    report: Callable[[Progress], None],
    *,
    packing: bool,
    on_gpu: bool,
) -> tuple[Any, bool, float]:
    """The trainer, whether rows are packed, and how many there are in a step."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer, pack_dataset

    def dataset(rows: Sequence[Row]) -> Any:
        return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})

    train, devices = dataset(planned.train), int(os.environ.get("WORLD_SIZE", "1"))
    each = math.ceil(tuning.batch_size / devices)
    micro = max(number for number in range(1, min(tuning.micro_batch, each) + 1) if each % number == 0)
    accumulated, packed = each // micro, 1.0
    if packing:
        sequences = pack_dataset(train, planned.most, "bfd")
        packed = len(train) / len(sequences)
        packing = packed * devices <= tuning.batch_size  # else a step would have more rows than it should
        if packing:  # so many sequences for a step that it has about as many rows
            train, micro, accumulated = sequences, 1, max(1, round(tuning.batch_size / packed / devices))
    packed = packed if packing else 1.0
    steps = math.ceil(math.ceil(len(train) / (micro * devices * accumulated)) * tuning.epochs)
    arguments = SFTConfig(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=accumulated,
        num_train_epochs=tuning.epochs,
        learning_rate=tuning.rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(tuning.warmup * steps),  # none where the steps are few: the first would learn nothing
        weight_decay=tuning.weight_decay,
        max_length=None,  # no row is longer than it may be
        padding_free=packing,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        logging_steps=1,
        logging_strategy="steps",
        eval_strategy="epoch" if planned.held_out else "no",
        save_strategy="steps",
        save_steps=max(10, steps // 10),
        save_total_limit=2,
        seed=tuning.seed,
        data_seed=tuning.seed,
        report_to=[],
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=tuning.rank, lora_alpha=tuning.alpha, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dataset(planned.held_out) if planned.held_out else None,
        processing_class=planned.tokenizer,
        peft_config=lora if tuning.method == "lora" else None,
        callbacks=[_telling(report)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, packing, round(packed * micro * accumulated * devices, 1)


def _telling(report: Callable[[Progress], None]) -> Any:
    """What tells of each step."""
    from transformers import TrainerCallback

    first: list[tuple[float, int, int]] = []  # when the first step of this call ended, its number, the tokens by then

    class Telling(TrainerCallback):  # type: ignore[misc]  # it ships no types
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not state.is_world_process_zero or not logs or not ({"loss", "eval_loss"} & logs.keys()):
                return
            now, step = time.monotonic(), state.global_step
            tokens = int(logs.get("num_tokens") or logs.get("eval_num_tokens") or 0)
            if not first:  # the first step takes what starting takes
                first.append((now, step, tokens))
            began, at, before = first[0]
            left = (now - began) / (step - at) * (state.max_steps - step) if step > at else None
            losses = logs.get("loss"), logs.get("eval_loss")
            report(Progress(step, state.max_steps, *losses, tokens - before, now - began, left))

    return Telling()


def _quieten() -> None:
    """One line tells how far it is: no bars, and no words about what the libraries will drop one day."""
    import warnings

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin starve each other on shared cores
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|peft")
    import logging

    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("selfinstruct", "torch", "transformers", "trl", "peft")}
