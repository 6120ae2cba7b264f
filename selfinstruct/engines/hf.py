"""transformers in this process: a folder or a model of the hub, and a batch of what has come and samples alike."""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
from collections.abc import Hashable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from selfinstruct.engines import Failure, Finish, Options, Reply, Request, Sample, Style, Usage
from selfinstruct.engines.checkpoints import SMALL, digest_of
from selfinstruct.engines.reasoning import split_reasoning
from selfinstruct.engines.replies import THINKING_HINT, without_prefill
from selfinstruct.engines.tokens import has_template, prompt_ids, template_thinks
from selfinstruct.errors import EngineError, UsageError

INSTALL = "pip install 'selfinstruct[train]'"
BATCH = 16
"""Requests that are decoded together, unless another number is asked for."""
TAIL = 64
"""Tokens at the end of an answer in which a stop string is looked for."""
UNREAD = ("frequency_penalty", "presence_penalty")
"""Sampling parameters that transformers has nothing for."""


def open_hf(rest: str, options: Options) -> HFEngine:
    """``hf/<folder or hub id>``, of a whole model or of a PEFT adapter. It comes back when the weights are loaded.

    Raises UsageError where transformers is not installed or nothing can be read there.
    """
    _possible(rest)
    return HFEngine(rest, options)


def check_hf(rest: str) -> None:
    """Raises UsageError where no model of that name can be had, as far as that shows without its weights."""
    _possible(rest)
    from transformers import AutoConfig, AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(rest)
        if is_adapter(rest):
            from peft import PeftConfig

            AutoConfig.from_pretrained(PeftConfig.from_pretrained(rest).base_model_name_or_path)
        else:
            AutoConfig.from_pretrained(rest)
    except (OSError, ValueError) as error:
        raise no_model(f"hf/{rest}", error) from error


def _possible(rest: str) -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError("transformers is not installed", hint=INSTALL) from error
    if not rest:
        raise UsageError("hf/ names no model", hint="a folder or a hub id, e.g. hf/runs/tuned")


def is_adapter(path: str) -> bool:
    """Whether a folder holds a PEFT adapter and no whole model."""
    return (Path(path) / "adapter_config.json").is_file()


def weights_of(path: str) -> dict[str, str]:
    """What tells the weights of that name from others in their place."""
    adapter = digest_of(path, name="adapter_config.json") if is_adapter(path) else ""
    return {"weights": digest_of(path), "adapter": adapter}


def load(path: str) -> tuple[Any, Any]:
    """Tokenizer and model, on the GPU if there is one. Raises UsageError where there are none."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        if is_adapter(path):
            from peft import AutoPeftModelForCausalLM

            model = AutoPeftModelForCausalLM.from_pretrained(path, dtype=dtype)
            if (Path(path) / "generation_config.json").is_file():  # how an answer ends belongs to the adapter
                model.generation_config = GenerationConfig.from_pretrained(path)
        else:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError, SafetensorError) as error:
        raise no_model(f"hf/{path}", error) from error
    return tokenizer, model.to(device).eval()


def no_model(name: str, error: Exception) -> UsageError:
    """What is said where transformers reads no model."""
    return UsageError(
        f"{name}: no model can be read there: {str(error).splitlines()[0]}",
        hint="a folder with config.json, weights and tokenizer, or a hub id that this machine can reach",
    )


class _Asked(NamedTuple):
    request: Request
    ids: list[int]
    reply: asyncio.Future[Reply]


class HFEngine:
    """A model of transformers, asked in batches: what has come while one is decoded and wants the same sampling makes
    the next. A batch lasts as long as its longest answer, so it is for small models, short answers and evaluation;
    vLLM is for the rest.

    A Sampling value that is None is the model's own (``generation_config.json``). With ``options.deterministic`` a
    request is decoded alone, by its seed.
    """

    def __init__(self, model: str, options: Options) -> None:
        self.name = f"hf/{model}"
        self._path = model
        self._options = options
        self._tokenizer, self._model = load(model)
        limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 0) or 1 << 30
        self.context = min(options.context or limit, limit)
        self.concurrency = options.concurrency or BATCH
        self.styles: tuple[Style, ...] = ("completion",)
        if has_template(self._tokenizer):
            self.styles = ("prefill", "chat", "completion")
            if template_thinks(self._tokenizer):
                self.styles = ("chat", "prefill", "completion")
        self.small = sum(one.numel() for one in self._model.parameters()) < SMALL
        self._waiting: dict[Hashable, list[_Asked]] = {}
        self._working: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._closing = threading.Event()

    async def complete(self, request: Request) -> Reply:
        try:
            ids = prompt_ids(self._tokenizer, request, self.name)
        except ValueError as error:
            return Reply(error=Failure(kind="rejected", message=str(error)))
        if len(ids) >= self.context:
            told = f"{len(ids)} tokens of prompt, and the context holds {self.context}"
            return Reply(error=Failure(kind="too_long", message=told))
        asked = _Asked(request, ids, asyncio.get_running_loop().create_future())
        key: Hashable = (request.sampling, request.answers)
        if self._options.deterministic or len(ids) + request.sampling.max_tokens > self.context:
            key = next(self._numbers)  # alone: by its seed, or with what the context leaves to it
        self._waiting.setdefault(key, []).append(asked)
        if self._working is None or self._working.done():
            self._working = asyncio.ensure_future(self._work())
        return await asked.reply

    async def _work(self) -> None:
        """Decode batch after batch, of the sort that has waited longest, until nothing waits."""
        await asyncio.sleep(0)  # what is asked in the same turn belongs together
        while self._waiting:
            key = next(iter(self._waiting))
            waiting = [one for one in self._waiting.pop(key) if not one.reply.done()]
            batch, rest = waiting[: self.concurrency], waiting[self.concurrency :]
            if rest:
                self._waiting[key] = rest
            if not batch:
                continue
            try:
                replies = await asyncio.to_thread(
                    self._decode, [one.request for one in batch], [one.ids for one in batch]
                )
            except Exception as error:  # noqa: BLE001 -- torch raises anything at all
                replies, told = [], f"{self.name}: {type(error).__name__}: {str(error)[:300]}"
                for one in batch:
                    if not one.reply.done():
                        one.reply.set_exception(EngineError(told, hint="a smaller --concurrency or --context may fit"))
            if self._closing.is_set():  # what was broken off is no answer
                for one in (*batch, *(one for waiting in self._waiting.values() for one in waiting)):
                    one.reply.cancel()
                self._waiting.clear()
            for one, reply in zip(batch, replies, strict=False):
                if not one.reply.done():
                    one.reply.set_result(reply)

    def facts(self) -> dict[str, str]:
        known = {
            "model": self._path,
            **weights_of(self._path),
            "architecture": type(self._model).__name__,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "context": self.context,
            "device": str(self._model.device),
            "transformers": version("transformers"),
            "torch": version("torch"),
        }
        return {fact: str(value) for fact, value in known.items() if value not in (None, "")}

    async def close(self) -> None:
        """Leave what is being decoded at its next token."""
        self._closing.set()
        if self._working is not None:
            await asyncio.gather(self._working, return_exceptions=True)
        self._model = None

    # In a thread.

    def _decode(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> list[Reply]:
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        first = requests[0]
        sampling, samples = first.sampling, first.answers
        longest = max(map(len, prompts))
        most = min(sampling.max_tokens, self.context - longest)
        pad = self._pad()
        ids = torch.tensor([[pad] * (longest - len(one)) + one for one in prompts], device=self._model.device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=self._model.device)
        chosen = {key: value for key, value in sampling.choosing().items() if key not in UNREAD}
        if sampling.temperature == 0:
            chosen = {key: value for key, value in chosen.items() if key == "repetition_penalty"}
            chosen["do_sample"] = False
        elif sampling.temperature is not None:
            chosen["do_sample"] = True
        config = copy.deepcopy(self._model.generation_config)
        config.update(
            **chosen,
            max_new_tokens=most,
            num_return_sequences=samples,
            eos_token_id=self._ends() or None,
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_logits=bool(sampling.logprobs),
        )
        ended: dict[int, int] = {}  # by row, after how many tokens
        ends, stops, tokenizer, closing = self._ends(), sampling.stop, self._tokenizer, self._closing

        class Ended(StoppingCriteria):  # type: ignore[misc]
            """Of what is new, for transformers' own rule for stop strings reads the prompt's end too."""

            def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
                count = ids.shape[1] - longest
                for row, new in enumerate(ids[:, longest:].tolist()):
                    if row in ended:
                        continue
                    tail = tokenizer.decode(new[-TAIL:]) if any(stops) else ""
                    if new[-1] in ends or any(stop and stop in tail for stop in stops):
                        ended[row] = count
                done = [closing.is_set() or row in ended for row in range(ids.shape[0])]
                return torch.tensor(done, device=ids.device)

        if self._options.deterministic and first.seed is not None:
            torch.manual_seed(first.seed)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([Ended()]),
            )
        written = [new[: ended.get(row, most)] for row, new in enumerate(out.sequences[:, longest:].tolist())]
        logits = out.logits[0] if sampling.logprobs else None
        replies = []
        for at, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            own = range(at * samples, (at + 1) * samples)
            read = [self._sample(request, written[one], most, None if logits is None else logits[one]) for one in own]
            usage = Usage(prompt=len(prompt), completion=sum(count for _, count in read))
            dropped = tuple(f"{key} dropped" for key in UNREAD if getattr(sampling, key))
            (only, _), *others = read
            replies.append(
                Reply(
                    **dict(only),
                    more=tuple(sample for sample, _ in others),
                    usage=usage,
                    changed=dropped,
                    model=self._path,
                )
            )
        return replies

    def _pad(self) -> int:
        for token in (self._tokenizer.pad_token_id, *self._ends()):
            if token is not None:
                return int(token)
        return 0

    def _ends(self) -> list[int]:
        known = self._model.generation_config.eos_token_id
        ends = known if isinstance(known, list) else [known]
        return [one for one in (*ends, self._tokenizer.eos_token_id) if one is not None]

    def _sample(self, request: Request, ids: list[int], most: int, logits: Any) -> tuple[Sample, int]:
        """One answer, and how many tokens it has."""
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        stops = [at for stop in request.sampling.stop if stop and (at := text.find(stop)) >= 0]
        finish: Finish = "stop" if stops or (ids and ids[-1] in self._ends()) else "length"
        split = split_reasoning(text[: min(stops)] if stops else text)
        error = None
        if split.open and not split.answer.strip():
            told = f"{most} tokens went into thinking, none were left; {THINKING_HINT}"
            error = Failure(kind="thinking", message=told)
        answer = split.answer
        if request.prefill and request.prompt is None:
            answer = without_prefill(answer, request.prefill)
        first: dict[str, float] = {}
        if logits is not None and not split.reasoning:
            import torch

            values, tokens = torch.log_softmax(logits.float(), -1).topk(request.sampling.logprobs or 1)
            for value, token in zip(values.tolist(), tokens.tolist(), strict=True):
                first.setdefault(self._tokenizer.decode([token]), float(value))
        reasoning = split.reasoning.strip()
        return Sample(text=answer, finish=finish, reasoning=reasoning, error=error, first_token=first), len(ids)
