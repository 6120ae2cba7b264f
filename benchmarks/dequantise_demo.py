"""Write the demo model's weights, which come as GGUF, in the format that vLLM and trainers read (bfloat16 safetensors).

.venv-vllm/bin/python benchmarks/dequantise_demo.py build/smollm2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from selfinstruct.engines import Options
from selfinstruct.engines.local import open_local


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out

    gguf = open_local("", Options()).path
    # Without dequantize=True the blocks stay packed, and cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The conversion loses add_bos_token; this model's GGUF says false, as the converted tokenizer does.
    assert tokenizer.encode("hello")[0] != tokenizer.bos_token_id
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)
    sys.stdout.write(f"{out}\n")


if __name__ == "__main__":
    main()
