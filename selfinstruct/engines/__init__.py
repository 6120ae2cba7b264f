"""Request, Reply, the Engine protocol, and how a model's name finds its engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from selfinstruct.plugins import find

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "content_filter"]
Style = Literal["completion", "chat", "prefill", "json"]
"""How a model is asked: a text to continue, a turn to answer, a turn begun for it, or a turn answered in JSON that
keeps to a schema."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Frozen):
    role: Role
    content: str


class Sampling(Frozen):
    """How the model is to sample. ``None`` leaves a parameter to the server."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logprobs: int | None = None
    """Alternatives wanted for the first token of the answer."""

    def choosing(self) -> dict[str, Any]:
        """What is set of that by which a token is chosen, under the names that vLLM gives it and most servers know."""
        return self.model_dump(exclude={"max_tokens", "stop", "logprobs"}, exclude_none=True)


class Request(Frozen):
    """One call of a model: either ``prompt`` (text to continue) or ``messages``.

    ``prefill`` begins the assistant's turn for the model; a Reply never repeats it.
    """

    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    prefill: str = ""
    sampling: Sampling = Sampling()
    samples: int = Field(1, ge=1)
    """Answers wanted to this one prompt; the Reply has up to so many."""
    json_schema: dict[str, Any] | None = None
    """JSON Schema that the answer is to keep to. Servers ignore what they do not know, so whoever reads it checks."""
    seed: int | None = None
    """Sampling seed. It names the request; it is sent only where ``Options.deterministic`` says so."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Sent to the server verbatim (recipe table ``[request.extra]``)."""
    purpose: str = ""
    """The prompt file that it was made from, e.g. ``bootstrap/prefill``. Never sent."""

    @property
    def answers(self) -> int:
        """Answers worth asking for: at temperature 0 all would be the same, and vLLM refuses to write several."""
        return 1 if self.sampling.temperature == 0 else self.samples

    def text(self) -> str:
        """Everything the model reads, as one text: for dry runs, rules of the scripted engine, and people."""
        if self.prompt is not None:
            return self.prompt
        return "\n\n".join(message.content for message in self.messages) + (
            "\n\n" + self.prefill if self.prefill else ""
        )


class Usage(Frozen):
    """Tokens, as the engine counted them."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0


def _encodable(text: object) -> object:
    """Half of a surrogate pair cannot be written as UTF-8: it becomes U+FFFD, as in every lenient decoder."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(text, str) else text


ModelText = Annotated[str, BeforeValidator(_encodable)]


class Failure(Frozen):
    """Why one request has no answer. The run goes on."""

    kind: Literal["content_policy", "too_long", "rejected", "gave_up", "malformed", "thinking"]
    """content_policy, too_long, rejected: the server refused this request (400). gave_up: it failed all its attempts
    while others succeeded. malformed: a reply that cannot be read. thinking: the budget went into reasoning."""
    message: ModelText


class Sample(Frozen):
    """One answer."""

    text: ModelText = ""
    finish: Finish = "stop"
    reasoning: ModelText = ""
    """Thinking, kept apart from the answer."""
    error: Failure | None = None
    first_token: dict[str, float] = Field(default_factory=dict)
    """Log-probabilities of the first token's alternatives, where asked for and given."""


class Reply(Sample):
    """What came back for one request, whole."""

    more: tuple[Sample, ...] = ()
    """The other answers, where ``Request.samples`` asked for several."""
    usage: Usage = Usage()
    """Of all answers together."""
    changed: tuple[ModelText, ...] = ()
    """What the wire needed: parameters dropped or renamed."""
    model: ModelText = ""
    """The model's name as the engine reports it."""
    fingerprint: ModelText = ""

    def each(self) -> list[Reply]:
        """The answers one by one, each as a reply of its own. What they share, usage too, stands in the first."""
        first = self.model_copy(update={"more": ()})
        return [first, *(Reply(**dict(sample), model=self.model) for sample in self.more)]


class Options(Frozen):
    """What a person says of an engine besides the model's name: where it runs and how fast, not what it is."""

    base_urls: tuple[str, ...] = ()
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int | None = None
    """Requests under way; None lets the engine choose."""
    context: int | None = None
    """Tokens of prompt and answer together; None: what the model was made for, or less where memory is short."""
    deterministic: bool = False
    """Send sampling seeds, and switch on what else makes a server repeat itself."""
    tensor_parallel: int = 1
    """GPUs over which each copy of the model is split."""
    gpu_memory: float | None = None
    """Share of each GPU's memory that one copy may take."""
    replicas: int | None = None
    """Copies of the model; None: as many as the visible GPUs hold for ``vllm/``, else one."""
    ray: str | None = None
    """Address of a Ray cluster on which the copies run; None: this machine."""


@runtime_checkable
class Engine(Protocol):
    """Anything that answers requests. A failure of one request is a Reply with ``error``; a failure of the work
    (refused key, unknown model, outage) raises EngineError. What a person should know meanwhile goes, once, to the
    logger ``selfinstruct`` as a warning of one line."""

    name: str
    """The model's name as the user gave it, e.g. ``openai/gpt-5``."""
    concurrency: int
    """Requests under way that keep it busy."""
    # It may also have ``small: bool``: whether the model is too small to follow worked examples.
    styles: tuple[Style, ...]
    """What it can be asked, best first: the first one is what ``--style auto`` picks."""

    async def complete(self, request: Request) -> Reply: ...

    def facts(self) -> dict[str, str]:
        """What can be known of the model, for run.json: hub commit or file digest, server name, library versions."""
        ...

    async def close(self) -> None: ...


Factory = Callable[[str, Options], Engine]
"""What an entry point of the group ``selfinstruct.engines`` names: ``factory(rest of the name, options)``."""


def engine_factory(name: str) -> Factory:
    """What opens a model of that name. Raises UsageError where nothing answers to what precedes its first slash."""
    prefix = name.partition("/")[0]
    asked = f"model {name!r}: nothing answers to {prefix!r}"
    factory: Factory = find("engines", prefix, asked, hint="; a model is PREFIX/NAME, e.g. openai/gpt-5")
    return factory


def open_engine(name: str, options: Options | None = None) -> Engine:
    """The engine for a model's name: ``local``, ``openai/gpt-5``, ``scripted/rules.toml``, or a third party's
    (entry points ``selfinstruct.engines``, where ours stand too); all its copies as one, where there are several."""
    options = options or Options()
    factory = engine_factory(name)
    from selfinstruct.engines.placing import open_placed

    return open_placed(name, options) or factory(name.partition("/")[2], options)
