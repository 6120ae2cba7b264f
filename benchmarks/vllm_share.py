"""How much of vLLM's own speed is left when the whole loop drives it: tokens/s of both, on the same work.

    python benchmarks/vllm_share.py --model build/smollm2 --num 60
    python benchmarks/vllm_share.py --model DIR --source rows.jsonl --context 8192   # answers to the rows, unjudged

Each pair is a run of the loop, then vLLM alone in a process of its own: the token ids that the loop sent, in that
order, as many under way, each made to answer with as many tokens. Both arms start the engine anew and warm it up; the
clock runs from the first request to the last reply. ``--make-random DIR`` writes a Llama of 1.2 billion random
parameters with the tokenizer of ``--model``, for machines that can reach no weights; its answers are noise, so give it
``--source``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from selfinstruct import Run, load_recipe
from selfinstruct.engines import Message, Options, Reply, Request, Sampling, open_engine

ROOT = Path(__file__).parent.parent
WARM = (
    Request(messages=(Message(role="user", content="Name three rivers."),), sampling=Sampling(max_tokens=16)),
    Request(prompt="1. Red\n2.", sampling=Sampling(max_tokens=8, temperature=0.7, top_p=0.9, logprobs=5)),
    Request(prompt="word " * 600, sampling=Sampling(max_tokens=4, repetition_penalty=1.1)),
)
"""What makes an engine compile all that it compiles when it is first asked."""


class Watched:
    """The engine, warmed up, with a clock and a book of what was asked and how long each answer was."""

    def __init__(self, model: str, options: Options) -> None:
        self._engine = open_engine(model, options)
        self.name, self.concurrency, self.styles = model, self._engine.concurrency, self._engine.styles
        self.small = getattr(self._engine, "small", False)
        self.book: list[tuple[Request, int]] = []
        self.began = self.ended = 0.0
        self.ours = self.theirs = 0.0
        self._warm: asyncio.Task[None] | None = None

    async def complete(self, request: Request) -> Reply:
        self._warm = self._warm or asyncio.ensure_future(self._warm_up())
        await self._warm
        at = len(self.book)
        self.book.append((request, 0))
        reply = await self._engine.complete(request)
        self.book[at] = (request, reply.usage.completion)
        self.ended = time.monotonic()
        self.ours_now, self.theirs_now = time.process_time(), _of_children()
        return reply

    async def _warm_up(self) -> None:
        for request in WARM:
            await self._engine.complete(request)
        self.began, self.ours, self.theirs = time.monotonic(), time.process_time(), _of_children()

    def facts(self) -> dict[str, str]:
        return self._engine.facts()

    async def close(self) -> None:
        await self._engine.close()


def _of_children() -> float:
    """CPU seconds of the engine's processes."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.Error:
            continue
        total += used.user + used.system
    return total


def the_loop(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A run over the model; what it asked goes into ``asked.jsonl``."""
    name = f"vllm/{options.model}"
    engine = Watched(name, Options(context=options.context, concurrency=options.concurrency))
    more: dict[str, Any] = {}
    if options.source:
        recipe = load_recipe("answer", *options.set, model=name)
        recipe = recipe.model_copy(update={"filters": recipe.filters.model_copy(update={"answer": ()})})
        more["source"] = options.source
    else:
        recipe = load_recipe("self-instruct", *options.set, model=name, num=options.num)
        more["seeds"] = ROOT / "seeds" / "175.jsonl"
    try:
        for _ in Run(folder / "run", recipe, engine=engine, **more):
            pass
    finally:
        asyncio.run(engine.close())
    answered = [(request, tokens) for request, tokens in engine.book if tokens]
    with (folder / "asked.jsonl").open("w", encoding="utf-8") as file:
        for request, tokens in answered:
            file.write(json.dumps({"request": request.model_dump(), "tokens": tokens}) + "\n")
    seconds, tokens = engine.ended - engine.began, sum(tokens for _, tokens in answered)
    return {
        "requests": len(answered),
        "tokens": tokens,
        "seconds": seconds,
        "rate": tokens / seconds,
        "concurrency": engine.concurrency,
        "own_cpu": engine.ours_now - engine.ours,
        "engine_cpu": engine.theirs_now - engine.theirs,
    }


async def alone(options: argparse.Namespace) -> dict[str, Any]:
    """vLLM's engine and nothing else, in this process."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    from selfinstruct.engines.vllm import _input, open_vllm

    # Opened by us, so that both arms have the same arguments; asked directly.
    opened = open_vllm(options.model, Options(context=options.context))
    engine = opened._engine
    for request in WARM:
        await opened.complete(request)
    work = []
    for line in options.alone.read_text(encoding="utf-8").splitlines():
        read = json.loads(line)
        request = Request.model_validate(read["request"])
        planned = opened._params(request, read["tokens"], None, [])
        params = SamplingParams(
            temperature=planned.temperature,
            top_p=planned.top_p,
            top_k=planned.top_k,
            min_p=planned.min_p,
            repetition_penalty=planned.repetition_penalty,
            frequency_penalty=planned.frequency_penalty,
            presence_penalty=planned.presence_penalty,
            logprobs=planned.logprobs,
            min_tokens=read["tokens"],
            max_tokens=read["tokens"],
            ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        work.append((_input(opened._ids(request)), params))
    under_way = asyncio.Semaphore(options.concurrency)

    async def one(number: int) -> int:
        prompt, params = work[number]
        async with under_way:
            async for output in engine.generate(prompt, params, request_id=str(number)):
                last = output
        return len(last.outputs[0].token_ids)

    began = time.monotonic()
    tokens = sum(await asyncio.gather(*map(one, range(len(work)))))
    seconds = time.monotonic() - began
    await opened.close()
    return {"requests": len(work), "tokens": tokens, "seconds": seconds, "rate": tokens / seconds}


def pair(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = the_loop(options, folder)
        command = [sys.executable, __file__, "--model", options.model, "--alone", str(folder / "asked.jsonl")]
        command += ["--context", str(options.context), "--concurrency", str(first["concurrency"])]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            sys.exit(told.stderr)
        return first, json.loads(told.stdout.splitlines()[-1])


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and the interval that holds the median of all pairs with 95 % or all that so few can tell."""
    from math import comb

    ordered, n, cut = sorted(values), len(values), 0
    while cut + 1 < n / 2 and 2 * sum(comb(n, k) for k in range(cut + 2)) / 2**n <= 0.05:
        cut += 1
    middle = ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
    return middle, ordered[cut], ordered[-1 - cut]


def make_random(model: str, out: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    tokenizer.save_pretrained(out)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(out)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="build/smollm2")
    parser.add_argument("--num", type=int, default=60)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of the recipe")
    parser.add_argument("--make-random", type=Path, metavar="DIR")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.make_random:
        make_random(options.model, options.make_random)
        return
    if options.alone:
        say(json.dumps(asyncio.run(alone(options))))
        return
    shares, own = [], []
    say(f"{'pair':>4} {'requests':>8} {'tokens':>8} {'loop':>9} {'alone':>9} {'share':>7} {'own CPU':>8}")
    for number in range(1, options.pairs + 1):
        loop, bare = pair(options)
        shares.append(loop["rate"] / bare["rate"])
        own.append(loop["own_cpu"] / loop["engine_cpu"])
        say(
            f"{number:>4} {loop['requests']:>8} {loop['tokens']:>8} {loop['rate']:>5.0f} t/s {bare['rate']:>5.0f} t/s "
            f"{shares[-1]:>7.1%} {own[-1]:>8.2%}",
        )
    middle, low, high = interval(shares)
    say(f"share: median {middle:.1%} of {len(shares)} pairs, from {low:.1%} to {high:.1%}")
    say(f"{loop['concurrency']} requests under way")
    say(f"the loop's own CPU: median {interval(own)[0]:.2%} of the engine's")


if __name__ == "__main__":
    main()
