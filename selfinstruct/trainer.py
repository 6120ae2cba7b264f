"""TRL's trainer as it is used here: which rows are packed, how many make a step, and what is told of each step."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfinstruct.masks import Row
from selfinstruct.tuning import Plan, Tuning

SAVE = 300.0
"""Seconds from one checkpoint to the next."""
SAME = 1e-4
"""What packed and unpacked logits may differ by."""
HELD_OUT_LOSS = "eval_token_loss"
"""In the trainer's log."""


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


def trainer_of(
    tuning: Tuning,
    out: Path,
    model: Any,
    planned: Plan,
    report: Callable[[Progress], None],
    stop: Callable[[], bool],
    *,
    apart: str,
    on_gpu: bool,
) -> tuple[Any, str, float]:
    """The trainer, why rows are not packed (empty: they are), and how many there are in a step. ``apart``: why they
    could not be in any case."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig, pack_dataset

    def dataset(rows: Sequence[Row]) -> Any:
        return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})

    train, devices = dataset(planned.train), int(os.environ.get("WORLD_SIZE", "1"))
    each = math.ceil(tuning.batch_size / devices)
    micro = max(number for number in range(1, min(tuning.micro_batch, each) + 1) if each % number == 0)
    accumulated, packed = each // micro, 1.0
    if not apart:
        sequences = pack_dataset(train, planned.most, "bfd")
        packed = len(train) / len(sequences)
        if packed * devices > tuning.batch_size:
            apart, packed = f"{packed:.1f} a sequence are more than a step's {tuning.batch_size}", 1.0
        else:  # so many sequences for a step that it has about as many rows
            train, micro, accumulated = sequences, 1, max(1, round(tuning.batch_size / packed / devices))
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
        padding_free=not apart,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        logging_steps=1,
        logging_strategy="steps",
        eval_strategy="epoch" if planned.held_out else "no",
        save_strategy="no",  # by the clock: `_saving`
        save_total_limit=2,
        seed=tuning.seed,
        data_seed=tuning.seed,
        report_to=[],
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=tuning.rank, lora_alpha=tuning.alpha, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
    )
    trainer = _by_token()(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dataset(planned.held_out) if planned.held_out else None,
        processing_class=planned.tokenizer,
        peft_config=lora if tuning.method == "lora" else None,
        callbacks=[_telling(report), _saving(stop)],
        compute_metrics=lambda found: {
            "token_loss": float(found.predictions[:, 0].sum() / found.predictions[:, 1].sum())
        },
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, apart, round(packed * micro * accumulated * devices, 1)


def _by_token() -> Any:
    """TRL's trainer, whose loss of what is held out is a mean over tokens, as that of a step is. The loop's own is the
    mean of its batches' means, in which a row of two tokens weighs as much as one of five hundred."""
    import torch
    from trl import SFTTrainer

    class ByToken(SFTTrainer):  # type: ignore[misc]  # it ships no types
        def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
            loss, _, _ = super().prediction_step(model, inputs, True, ignore_keys)
            rows = len(inputs["labels"])
            trained = (inputs["labels"][..., 1:] != -100).sum().to(loss)
            both = torch.stack([loss * trained, trained]).repeat(rows, 1) / rows
            return loss, both, both[:, 0]

    return ByToken


def _saving(stop: Callable[[], bool]) -> Any:
    """What writes a checkpoint every ``SAVE`` seconds: whatever a step costs, no more than that is lost, and of a large
    model, whose checkpoints take long, no more of them are written than that. And one when it is to ``stop``."""
    import torch
    from transformers import TrainerCallback

    saved, waits, stopped = time.monotonic(), False, False

    class Saving(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            nonlocal saved, waits, stopped
            stops = stop()
            due = stops or time.monotonic() - saved >= SAVE
            if torch.distributed.is_available() and torch.distributed.is_initialized():  # all of them, or none
                told = torch.tensor([due, stops], device=args.device, dtype=torch.int)
                torch.distributed.broadcast(told, 0)
                due, stops = map(bool, told.tolist())
            if due and state.global_step < state.max_steps:
                # An epoch's last step is kept with the loss of what is held out, which is measured after it.
                waits = abs(state.epoch - round(state.epoch)) < 1e-9
                control.should_save, control.should_training_stop = not waits, control.should_training_stop or stops
                saved, stopped = time.monotonic(), stops

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            nonlocal waits
            if waits:
                control.should_save, waits = True, False
            elif stopped:
                control.should_evaluate = False

    return Saving()


def _telling(report: Callable[[Progress], None]) -> Any:
    """What tells of each step."""
    from transformers import TrainerCallback

    first: list[tuple[float, int, int]] = []  # when the first step of this call ended, its number, the tokens by then

    class Telling(TrainerCallback):  # type: ignore[misc]  # it ships no types
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not state.is_world_process_zero or not logs or not ({"loss", HELD_OUT_LOSS} & logs.keys()):
                return
            now, step = time.monotonic(), state.global_step
            tokens = int(logs.get("num_tokens") or logs.get("eval_num_tokens") or 0)
            if not first:  # the first step takes what starting takes
                first.append((now, step, tokens))
            began, at, before = first[0]
            left = (now - began) / (step - at) * (state.max_steps - step) if step > at else None
            losses = logs.get("loss"), logs.get(HELD_OUT_LOSS)
            report(Progress(step, state.max_steps, *losses, tokens - before, now - began, left))

    return Telling()


def unpackable(model: Any, rows: Sequence[Row], most: int) -> str:
    """Why rows are not packed; empty where this model keeps rows apart that are: its logits for them are those that it
    has for each alone, and those of one do not change with the words of the other."""
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    short = sorted((row.ids for row in rows), key=len)[:3]
    while sum(map(len, short)) > most:
        short.pop()
    if len(short) < 2:
        return f"no two fit into {most} tokens"
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
            if leaks > SAME or (differs > SAME and model.dtype == torch.float32):
                return "the model does not keep packed rows apart"
            return ""
    except (TypeError, ValueError, RuntimeError) as error:  # a model that cannot be asked like that
        return f"the model takes no packed rows: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    finally:
        model.train(was_training)


def quieten() -> None:
    """One line tells how far it is: no bars, and no words about what the libraries will drop one day."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin starve each other on shared cores
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|peft")
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
