"""Speed of `selfinstruct sft` beside TRL's own trainer on the same rows, and the share of the machine's matrix speed.

    .venv/bin/python benchmarks/sft.py --shape small                    # a CPU: some minutes
    .venv/bin/python benchmarks/sft.py --shape 1b --rows 2000           # one GPU

A Llama of random weights is trained on rows of nonsense (`--words` in the middle, log-normal). Both sides pack, take
steps of as many rows, and are run in turns; the first step of each is left out. Model FLOPs are 6 for each parameter
and token (Chowdhery et al. 2022, appendix B, without attention), held against a matrix product of this machine.
"""

# ruff: noqa: T201 - a script that prints

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from selfinstruct.engines.grammar import instruction, sized
from selfinstruct.sft import train
from selfinstruct.trainer import Progress, quieten
from selfinstruct.tuning import Tuning, plan

SHAPES = {
    "small": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 9},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}
VOCABULARY = {"small": 4_000, "1b": 32_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--words", type=int, default=120)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    quieten()
    with tempfile.TemporaryDirectory() as name:
        base, data = Path(name) / "base", Path(name) / "rows.jsonl"
        parameters = model(base, given.shape)
        rows(data, given.rows, given.words)
        speed = matrix_speed()
        print(f"{parameters / 1e6:,.0f} million parameters, {given.rows:,} rows")
        print(f"matrix product: {speed / 1e12:.2f} TFLOP/s")
        found: dict[str, list[float]] = {"selfinstruct": [], "TRL": []}
        for turn in range(given.turns):
            found["selfinstruct"].append(ours(base, data, Path(name) / f"ours-{turn}", given))
            found["TRL"].append(theirs(base, data, Path(name) / f"theirs-{turn}", given))
        for side, speeds in found.items():
            middle = statistics.median(speeds)
            share = 6 * parameters * middle / speed
            print(f"{side:<13}{middle:>9,.0f} tokens/s ({min(speeds):,.0f} to {max(speeds):,.0f}), MFU {share:.1%}")
        ratios = [one / other for one, other in zip(*found.values(), strict=True)]
        print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def model(folder: Path, shape: str) -> int:
    """A model of random weights with a tokenizer of its own; its parameters without the table of tokens."""
    rng = random.Random(0)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        (instruction(rng.random) for _ in range(5_000)),
        trainers.BpeTrainer(
            vocab_size=4_000, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    its = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[shape],
        vocab_size=VOCABULARY[shape],
        max_position_embeddings=4096,
        eos_token_id=its.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    llama = LlamaForCausalLM(config)
    llama.save_pretrained(folder)
    its.save_pretrained(folder)
    return sum(one.numel() for one in llama.parameters())  # tied: the table is the last matrix, and is multiplied by


def rows(path: Path, number: int, words: int) -> None:
    rng = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(number):
            size = max(8, int(words * math.exp(rng.gauss(0, 0.7))))
            answer = sized("sentence", "sentence", size, size + 40, rng.random)
            file.write(json.dumps({"instruction": instruction(rng.random), "output": answer}) + "\n")


def matrix_speed() -> float:
    """FLOP a second of a large matrix product, in the type that the training computes in."""
    on_gpu = torch.cuda.is_available()
    size, kind = (8192, torch.bfloat16) if on_gpu else (2048, torch.float32)
    one, other = (torch.randn(size, size, dtype=kind, device="cuda" if on_gpu else "cpu") for _ in range(2))
    best = math.inf
    for _ in range(10):
        begun = time.perf_counter()
        product = one @ other
        product[0, 0].item()
        best = min(best, time.perf_counter() - begun)
    return float(2 * size**3 / best)


def ours(base: Path, data: Path, out: Path, given: Any) -> float:
    """Tokens a second after the first step."""
    tuning = Tuning(
        model=str(base),
        data=(str(data),),
        template="alpaca",
        epochs=1,
        batch_size=given.batch,
        max_length=given.length,
        held_out=0,
    )
    last: list[Progress] = []
    train(tuning, out, plan(tuning), lambda progress: last.append(progress))
    return last[-1].tokens / last[-1].seconds


def theirs(base: Path, data: Path, out: Path, given: Any) -> float:
    """The same of TRL's trainer as its documentation has it: prompt and completion, packed."""
    tuning = Tuning(model=str(base), data=(str(data),), template="alpaca", max_length=given.length, held_out=0)
    planned = plan(tuning)
    shown = [planned.shows(row) for row in planned.train]
    known = Dataset.from_dict({"prompt": [one for one, _ in shown], "completion": [other for _, other in shown]})
    on_gpu = torch.cuda.is_available()
    sequences = math.ceil(sum(len(row.ids) for row in planned.train) / given.length)
    each = max(1, round(given.batch * sequences / len(known)))
    told: list[tuple[float, int]] = []

    class Telling(TrainerCallback):  # type: ignore[misc]  # it ships no types
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                told.append((time.monotonic(), int(logs["num_tokens"])))

    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        SFTConfig(
            output_dir=str(out),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=each,
            num_train_epochs=1,
            max_length=given.length,
            packing=True,
            completion_only_loss=True,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            gradient_checkpointing=on_gpu,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=known,
        processing_class=planned.tokenizer,
        callbacks=[Telling()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    (began, before), (ended, after) = told[0], told[-1]
    return (after - before) / (ended - began)


if __name__ == "__main__":
    main()
