"""A checkpoint for vLLM: its name taken apart, what its files say, and what tells it from another in its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from selfinstruct.errors import UsageError

KNOWN = ("lora", "quantization", "dtype", "revision", "reasoning_parser")
SMALL = 400_000_000
"""Parameters under which a model counts as too small to follow worked examples (docs/quality.md)."""
PARSERS = {
    "seed_oss": "seed_oss",
    "minimax_m2": "minimax_m2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "qwen3_next": "qwen3",
    "glm4_moe": "glm45",
    "nemotron_h": "nemotron_v3",
}
"""vLLM's parsers of thoughts by ``model_type``. The first two think whatever their template says."""
ALWAYS = ("seed_oss", "minimax_m2")
ENDS = 1 << 20
"""Bytes at both ends of a file of weights by which it is told from others."""


class Name(NamedTuple):
    """A model's name, taken apart: ``PATH_OR_ID?lora=PATH&quantization=fp8``. What changes the data is in the name."""

    model: str
    lora: str = ""
    quantization: str = ""
    dtype: str = ""
    revision: str = ""
    reasoning_parser: str = ""

    @classmethod
    def read(cls, rest: str) -> Name:
        """Raises UsageError for a name without a model or with a key that is none."""
        model, _, query = rest.partition("?")
        parts = [part.partition("=") for part in query.split("&")] if query else []
        pairs = {key: unquote(value) for key, _, value in parts}
        unknown = [key for key in pairs if key not in KNOWN]
        if not model:
            raise UsageError("vllm/ names no model", hint="give a hub id or a path, e.g. vllm/Qwen/Qwen3-8B")
        if unknown or not all(pairs.values()):
            raise UsageError(f"vllm/{rest}: cannot read {query!r}", hint=f"?KEY=VALUE&…, keys are {', '.join(KNOWN)}")
        if len(pairs) < len(parts):
            raise UsageError(f"vllm/{rest}: says one thing twice", hint="a flag such as --lora is the same as ?lora=")
        return cls(model, **pairs)

    @property
    def is_path(self) -> bool:
        """Whether it can be no hub id, which is ``NAME`` or ``OWNER/NAME``."""
        return self.model.startswith(("/", ".", "~")) or self.model.count("/") > 1 or "\\" in self.model


def config_of(named: Name) -> dict[str, Any]:
    """The model's config.json; nothing where it cannot be had, for vLLM will say so better."""
    path = _file_of(named.model, "config.json", named.revision)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _file_of(model: str, name: str, revision: str = "") -> Path | None:
    """A file of a model's folder, or of its repository on the hub."""
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(model, name, revision=revision or None))
    except Exception:  # noqa: BLE001 -- offline, gated, no such repository: vLLM will say so
        return None


def commit_of(named: Name) -> str:
    """The commit of a model of the hub: the folder that its files lie in."""
    if Path(named.model).is_dir():
        return ""
    path = _file_of(named.model, "config.json", named.revision)
    return path.parent.name if path else ""


def digest_of(model: str, revision: str = "", *, name: str = "config.json") -> str:
    """What tells one checkpoint from another in the same place: SHA-256 over each file's name, size and both ends."""
    found = _file_of(model, name, revision)
    if found is None:
        return ""
    whole = hashlib.sha256()
    for path in sorted(path for path in found.parent.iterdir() if path.suffix in (".safetensors", ".bin", ".pt")):
        size = path.stat().st_size
        whole.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            whole.update(file.read(ENDS))
            file.seek(max(0, size - ENDS))
            whole.update(file.read(ENDS))
    return whole.hexdigest()[:16]


def parameters_of(config: Mapping[str, Any]) -> int:
    """Roughly how many parameters a dense model of this shape has; 0 where that cannot be told."""
    text = config.get("text_config", config)
    shape = [text.get(key) for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")]
    if not all(isinstance(value, int) for value in shape) or any("experts" in key for key in text):
        return 0
    hidden, layers, inner, words = shape
    return int(layers * (4 * hidden * hidden + 3 * hidden * inner) + words * hidden)


def parser_of(named: Name, config: Mapping[str, Any]) -> str:
    """vLLM's parser for the thoughts of a model that thinks unless told otherwise; empty for one that does not.

    The type alone does not tell: some of one type think, others never do, and a parser would take all that these say
    for thoughts. A template that heeds ``enable_thinking``, or that begins a thought for the model, does.
    """
    kind = str(config.get("model_type"))
    if named.reasoning_parser or kind in ALWAYS:
        return named.reasoning_parser or PARSERS[kind]
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(named.model, revision=named.revision or None)
        turns = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
            )
            for thinking in (True, False)
        ]
        begun = turns[0].rstrip().endswith("<think>")
        if not begun and turns[0] == turns[1]:
            return ""
        return PARSERS.get(kind, "deepseek_r1" if begun and "</think>" in tokenizer.get_vocab() else "")
    except Exception:  # noqa: BLE001 -- no template, a template of another kind, a tokenizer that only vLLM reads
        return ""


def adapter_of(path: str) -> tuple[Any, int]:
    """The LoRA adapter as vLLM takes it, and the rank that it has to make room for."""
    if not path:
        return None, 0
    from vllm.lora.request import LoRARequest

    found = _file_of(path, "adapter_config.json")
    if found is not None and not Path(path).is_dir():
        from huggingface_hub import snapshot_download

        snapshot_download(path)
    if found is None:
        raise UsageError(f"{path!r} is no LoRA adapter", hint="a PEFT adapter's folder has an adapter_config.json")
    try:
        rank = int(json.loads(found.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{found}: cannot read the adapter's rank", hint='PEFT writes it as "r"') from error
    room = next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)
    return LoRARequest("adapter", 1, str(found.parent)), room
