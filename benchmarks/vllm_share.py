"""How much of vLLM's own speed is left when the whole loop drives it: tokens/s of both, on the same work.

    python benchmarks/vllm_share.py --model build/smollm2 --num 60
    python benchmarks/vllm_share.py --model DIR --source rows.jsonl --context 8192   # answers to the rows, unjudged

Two shares are told. *Whole*: all tokens over all the time from the first request to the last reply, the loop's first
steps (few may be asked ahead) and its end (no more is asked than the target is likely to need) included; the longer the
run, the less they weigh. *Full*: the same while there was work for every place, in either arm from the first moment in
which all places were taken to the last.

Each pair is a run of the loop, then vLLM alone in a process of its own: the token ids that the loop sent, in that
order, as many under way, each made to answer with as many tokens. Both arms start the engine anew and warm it up.
``--make-random DIR`` writes a Llama of 1.2 billion random parameters with the tokenizer of ``--model``, for machines
that can reach no weights; its answers are noise, so give it ``--source``.
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
from typing import Any, NamedTuple

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


class Span(NamedTuple):
    """A request under way, on the monotonic clock, and the tokens that it gave."""

    began: float
    ended: float
    tokens: int


def rates(spans: list[Span], places: int) -> tuple[float, float]:
    """Tokens/s over the whole time, and from the first moment in which all places were taken to the last. A request's
    tokens are spread evenly over its time."""
    turns = sorted([(one.began, 1) for one in spans] + [(one.ended, -1) for one in spans])
    under_way, full = 0, list[float]()
    for at, more in turns:
        if under_way == places:
            full.append(at)
        under_way += more
        if under_way == places:
            full.append(at)
    whole = sum(one.tokens for one in spans) / (turns[-1][0] - turns[0][0])
    if not full or full[-1] <= full[0]:
        return whole, 0.0
    start, end = full[0], full[-1]
    inside = sum(
        one.tokens * max(0.0, min(one.ended, end) - max(one.began, start)) / (one.ended - one.began) for one in spans
    )
    return whole, inside / (end - start)


class Watched:
    """The engine, warmed up, with a clock and a book of what was asked and how long each answer was."""

    def __init__(self, model: str, options: Options) -> None:
        self._engine = open_engine(model, options)
        self.name, self.concurrency, self.styles = model, self._engine.concurrency, self._engine.styles
        self.small = getattr(self._engine, "small", False)
        self.book: list[tuple[Request, Span]] = []
        self.ours = self.theirs = 0.0
        self._warm: asyncio.Task[None] | None = None

    async def complete(self, request: Request) -> Reply:
        self._warm = self._warm or asyncio.ensure_future(self._warm_up())
        await self._warm
        at, began = len(self.book), time.monotonic()
        self.book.append((request, Span(began, began, 0)))
        reply = await self._engine.complete(request)
        self.book[at] = (request, Span(began, time.monotonic(), reply.usage.completion))
        self.ours_now, self.theirs_now = time.process_time(), _of_children()
        return reply

    async def _warm_up(self) -> None:
        for request in WARM:
            await self._engine.complete(request)
        self.ours, self.theirs = time.process_time(), _of_children()

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
    answered = [(request, span) for request, span in engine.book if span.tokens]
    with (folder / "asked.jsonl").open("w", encoding="utf-8") as file:
        for request, span in answered:
            file.write(json.dumps({"request": request.model_dump(), "tokens": span.tokens}) + "\n")
    whole, full = rates([span for _, span in answered], engine.concurrency)
    return {
        "requests": len(answered),
        "tokens": sum(span.tokens for _, span in answered),
        "whole": whole,
        "full": full,
        "concurrency": engine.concurrency,
        "own_cpu": engine.ours_now - engine.ours,
        "engine_cpu": engine.theirs_now - engine.theirs,
    }


async def alone(options: argparse.Namespace) -> dict[str, Any]:
    """vLLM's engine and nothing else, in this process."""
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    from selfinstruct.engines.tokens import prompt_ids
    from selfinstruct.engines.vllm import open_vllm

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
        work.append((tokens_input(prompt_ids(opened._tokenizer, request, opened.name)), params))
    under_way = asyncio.Semaphore(options.concurrency)

    async def one(number: int) -> Span:
        prompt, params = work[number]
        async with under_way:
            began = time.monotonic()
            async for output in engine.generate(prompt, params, request_id=str(number)):
                last = output
        return Span(began, time.monotonic(), len(last.outputs[0].token_ids))

    spans = await asyncio.gather(*map(one, range(len(work))))
    await opened.close()
    whole, full = rates(spans, options.concurrency)
    return {"whole": whole, "full": full}


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
    wholes, fulls, own = list[float](), list[float](), list[float]()
    say("pair  requests  tokens   whole: loop   alone  share    full: loop   alone  share   own CPU")
    for number in range(1, options.pairs + 1):
        loop, bare = pair(options)
        wholes.append(loop["whole"] / bare["whole"])
        fulls.append(loop["full"] / bare["full"])
        own.append(loop["own_cpu"] / loop["engine_cpu"])
        say(
            f"{number:>4}{loop['requests']:>10}{loop['tokens']:>8}"
            f"{loop['whole']:>14.1f}{bare['whole']:>8.1f}{wholes[-1]:>7.1%}"
            f"{loop['full']:>14.1f}{bare['full']:>8.1f}{fulls[-1]:>7.1%}{own[-1]:>10.2%}"
        )
    for name, shares in (("whole", wholes), ("full", fulls)):
        middle, low, high = interval(shares)
        say(f"{name}: median {middle:.1%} of {len(shares)} pairs, from {low:.1%} to {high:.1%}")
    say(f"the loop's own CPU: median {interval(own)[0]:.2%} of the engine's; {loop['concurrency']} requests under way")


if __name__ == "__main__":
    main()
