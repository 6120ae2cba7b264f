"""Tiny tokenizers and models for tests: trained and drawn here, nothing downloaded."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # what is so small waits for its threads longer than it computes

needs_training = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install '.[train]'"
)
SEEDS = Path(__file__).parent.parent / "seeds" / "175.jsonl"
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>", "<s>"]

OWN = {
    "thinks": "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    "trims and begins": "<s>{% for m in messages %}[{{ m.role }}]\n{{ m.content | trim }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}",
}
"""Chat templates of the sorts that models bring along: after one that thinks, and one that trims, puts a blank before
the end, and begins with a token."""


def tokenizer(kind: str) -> Any:
    """One of: ``bytes`` (a token a byte), ``words`` (byte-level BPE, GPT-2's cut into words), ``crossing`` (the same
    without the cut: merges reach over every boundary), ``begins`` (one that puts a token before every text)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "crossing")
    made.decoder = decoders.ByteLevel()
    texts = [json.loads(line)["instruction"] for line in SEEDS.read_text(encoding="utf-8").splitlines()]
    texts += [f"### Response:{word} ASSISTANT: {word}.<" for word in ("Hello", "The", "I", "1", "(a", '"')] * 50
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(alphabet) + len(SPECIAL) + (0 if kind == "bytes" else 300)
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    if kind == "begins":
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", bos_token="<s>")


KINDS = ("bytes", "words", "crossing", "begins")


def model(folder: Path, kind: str = "words", **more: Any) -> Path:
    """A Llama of some ten thousand random weights, in a folder as any model is."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    its = tokenizer(kind)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": len(its), "eos_token_id": its.eos_token_id, "bos_token_id": its.bos_token_id}
    LlamaForCausalLM(
        LlamaConfig(**{**shape, **ids, "num_key_value_heads": 2, "max_position_embeddings": 512, **more})
    ).save_pretrained(folder)
    its.save_pretrained(folder)
    return folder
