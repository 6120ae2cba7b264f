"""Request, Reply, the Engine protocol, and how a model's name finds its engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from selfinstruct.plugins import find

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "content_filter"]
Style = Literal["completion", "chat", "prefill"]


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


class Request(Frozen):
    """One call of a model: either ``prompt`` (text to continue) or ``messages``.

    ``prefill`` begins the assistant's turn for the model; a Reply never repeats it.
    """

    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    prefill: str = ""
    sampling: Sampling = Sampling()
    seed: int | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    """Sent to the server verbatim (recipe table ``[request.extra]``)."""
    purpose: str = ""
    """The prompt file that it was made from, e.g. ``bootstrap/prefill``. Never sent."""

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


class Reply(Frozen):
    """What came back for one request, whole."""

    text: ModelText = ""
    finish: Finish = "stop"
    reasoning: ModelText = ""
    """Thinking, kept apart from the answer."""
    usage: Usage = Usage()
    error: Failure | None = None
    changed: tuple[ModelText, ...] = ()
    """What the wire needed: parameters dropped or renamed."""
    model: ModelText = ""
    """The model's name as the engine reports it."""
    fingerprint: ModelText = ""
    first_token: dict[str, float] = Field(default_factory=dict)
    """Log-probabilities of the first token's alternatives, where asked for and given."""


class Options(Frozen):
    """What a person says of an engine besides the model's name. Nothing here can change the data."""

    base_urls: tuple[str, ...] = ()
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int | None = None
    """Requests under way; None lets the engine choose."""


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
    (entry points ``selfinstruct.engines``, where ours stand too)."""
    return engine_factory(name)(name.partition("/")[2], options or Options())
