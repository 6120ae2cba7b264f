"""The same training for those who train elsewhere: a configuration for Axolotl, LLaMA-Factory or TRL's own command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from selfinstruct.errors import UsageError
from selfinstruct.resources import PROMPTS
from selfinstruct.templates import OURS
from selfinstruct.tuning import Tuning, settled

TRAINERS = ("axolotl", "llamafactory", "trl")


def config(tuning: Tuning, trainer: str, out: Path | None) -> str:
    """The trainer's YAML, below the commands that it goes with. Raises UsageError for one that we do not know."""
    if trainer == "llamafactory" and tuning.template not in ("auto", "model", *OURS):
        raise UsageError("LLaMA-Factory reads no Jinja file", hint="--template auto, or one that it knows")
    if trainer not in TRAINERS:
        raise UsageError(f"--print-config {trainer}: no such trainer", hint=f"one of {', '.join(TRAINERS)}")
    made, format, file, command = {
        "axolotl": (_axolotl, "messages", "train.jsonl", "axolotl train this.yaml"),
        "llamafactory": (_llamafactory, "alpaca", "train.json", "llamafactory-cli train this.yaml"),
        "trl": (_trl, "trl", "train.jsonl", "trl sft --config this.yaml"),
    }[trainer]
    tuning = settled(tuning)
    lines = [f"selfinstruct export {path} --format {format} --out {file}" for path in tuning.data]
    if len(lines) > 1:
        lines.append("(several inputs: each into a file of its own, and then one after the other into one)")
    if trainer == "llamafactory":
        lines.append('dataset_info.json beside it: {"train": {"file_name": "train.json"}}')
    lines.append(command)
    if trainer == "llamafactory" and tuning.template not in ("auto", "model"):
        lines.append(f"its own template {tuning.template}, whose words may differ from ours")
    split = "at random there" if trainer != "trl" else "nowhere there (eval_dataset names rows of your own)"
    lines.append(f"Rows are held out {split}, and by what they ask here. Unpacked, so that a step has as many rows.")
    told = "".join(f"# {line}\n" for line in lines)
    return told + yaml.safe_dump(made(tuning, str(out or "tuned")), sort_keys=False)


def _file(tuning: Tuning) -> Path | None:
    """The file of the template; None for the model's own."""
    if tuning.template in ("auto", "model"):
        return None
    return PROMPTS / "templates" / f"{tuning.template}.jinja" if tuning.template in OURS else Path(tuning.template)


def _template(tuning: Tuning) -> str:
    path = _file(tuning)
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except OSError as error:
        hint = f"auto, model, {', '.join(OURS)}, or a Jinja file"
        raise UsageError(f"--template {tuning.template}: {error.strerror}", hint=hint) from error


def _steps(tuning: Tuning) -> int:
    """Of gradients that are added up, for one device."""
    return max(1, round(tuning.batch_size / tuning.micro_batch))


def _axolotl(tuning: Tuning, out: str) -> dict[str, Any]:
    text = _template(tuning)
    made: dict[str, Any] = {
        "base_model": tuning.model,
        **({"chat_template": "jinja", "chat_template_jinja": text} if text else {"chat_template": "tokenizer_default"}),
        "datasets": [
            {
                "path": "train.jsonl",
                "ds_type": "json",
                "type": "chat_template",
                "field_messages": "messages",
                "roles_to_train": ["assistant"],
                "train_on_eos": "turn",
            }
        ],
        "val_set_size": tuning.held_out,
        "sequence_len": tuning.max_length,
        "sample_packing": False,
        "micro_batch_size": tuning.micro_batch,
        "gradient_accumulation_steps": _steps(tuning),
        "num_epochs": tuning.epochs,
        "learning_rate": tuning.rate,
        "lr_scheduler": "cosine",
        "warmup_ratio": tuning.warmup,
        "weight_decay": tuning.weight_decay,
        "optimizer": "adamw_torch",
        "bf16": "auto",
        "gradient_checkpointing": True,
        "seed": tuning.seed,
        "output_dir": out,
    }
    if tuning.method == "lora":
        made |= {"adapter": "lora", "lora_r": tuning.rank, "lora_alpha": tuning.alpha, "lora_target_linear": True}
    return made


def _llamafactory(tuning: Tuning, out: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "model_name_or_path": tuning.model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": tuning.method,
        "dataset_dir": ".",
        "dataset": "train",
        **({} if tuning.template in ("auto", "model") else {"template": tuning.template}),
        "cutoff_len": tuning.max_length,
        "packing": False,
        "val_size": tuning.held_out,
        "per_device_train_batch_size": tuning.micro_batch,
        "gradient_accumulation_steps": _steps(tuning),
        "num_train_epochs": tuning.epochs,
        "learning_rate": tuning.rate,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": tuning.warmup,
        "weight_decay": tuning.weight_decay,
        "bf16": True,
        "seed": tuning.seed,
        "output_dir": out,
    }
    if tuning.method == "lora":
        made |= {"lora_rank": tuning.rank, "lora_alpha": tuning.alpha, "lora_target": "all"}
    return made


def _trl(tuning: Tuning, out: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "model_name_or_path": tuning.model,
        "datasets": [{"path": "json", "data_files": "train.jsonl"}],
        "max_length": tuning.max_length,
        "packing": False,
        "completion_only_loss": True,
        **({"chat_template_path": str(_file(tuning))} if _file(tuning) else {}),
        "per_device_train_batch_size": tuning.micro_batch,
        "gradient_accumulation_steps": _steps(tuning),
        "num_train_epochs": tuning.epochs,
        "learning_rate": tuning.rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": tuning.warmup,
        "weight_decay": tuning.weight_decay,
        "bf16": True,
        "seed": tuning.seed,
        "output_dir": out,
    }
    if tuning.method == "lora":
        made |= {"use_peft": True, "lora_r": tuning.rank, "lora_alpha": int(tuning.alpha)}
        made["lora_target_modules"] = "all-linear"
    return made
