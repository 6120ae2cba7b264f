"""Reads a server's answer of status 200: a Reply, whichever of the many dialects it is written in."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

from selfinstruct.engines import Failure, Finish, Reply, Request, Usage
from selfinstruct.engines.endpoints import Again
from selfinstruct.engines.reasoning import split_reasoning

THINKING_HINT = (
    "raise max_tokens, or turn thinking off in [request.extra], "
    'e.g. chat_template_kwargs = {enable_thinking = false} or reasoning_effort = "low"'
)


def read_reply(payload: Any, request: Request, changed: tuple[str, ...]) -> Reply:
    """A body of status 200 as a Reply; raises Again if it is none."""
    choices = as_dict(payload).get("choices")
    choice = as_dict(choices[0]) if isinstance(choices, list) and choices else {}
    message = as_dict(choice.get("message"))
    if not ("text" in choice if request.prompt is not None else message):
        raise Again(f"a reply without an answer: {_excerpt(payload)}", kind="malformed")
    said = choice.get("finish_reason")
    if said in BROKEN_OFF:
        why = as_dict(choice.get("error")).get("message") or "no reason given"
        raise Again(f"the server broke off (finish_reason {said!r}): {why}", kind="gave_up")

    content, thoughts = _content(choice.get("text") if request.prompt is not None else message.get("content"))
    thoughts += [
        sound(message[name]) for name in ("reasoning", "reasoning_content") if isinstance(message.get(name), str)
    ]
    if not content and isinstance(message.get("refusal"), str):
        content = sound(message["refusal"])
    if request.prefill and request.prompt is None:
        content = without_prefill(content, request.prefill)
    split = split_reasoning(content)
    reasoning = "\n\n".join(dict.fromkeys(t.strip() for t in (*thoughts, split.reasoning) if t.strip()))
    text, stopped = cut(split.answer, request.sampling.stop)
    notes = list(changed)
    finish: Finish = "stop"
    if said == "length" or said == "content_filter":
        finish = "stop" if stopped else said
    elif said != "stop":
        notes.append(f"finish_reason {said!r} read as 'stop'")
    reply = Reply(
        text=text,
        finish=finish,
        reasoning=reasoning,
        usage=_usage(as_dict(as_dict(payload).get("usage"))),
        changed=tuple(notes),
        model=_string(as_dict(payload).get("model")),
        fingerprint=_string(as_dict(payload).get("system_fingerprint")),
        first_token=_first_token(choice.get("logprobs"), split.answer, bool(reasoning)),
    )
    failure = _failure(reply, split.open, request.sampling.max_tokens)
    return reply if failure is None else reply.model_copy(update={"error": failure})


def _failure(reply: Reply, still_thinking: bool, max_tokens: int) -> Failure | None:
    if reply.text.strip():
        return None
    if reply.finish == "content_filter":
        return Failure(kind="content_policy", message="the server's content filter withheld the answer")
    # hosted models count their thinking without showing it
    if reply.finish == "length" and (reply.reasoning or reply.usage.reasoning):
        spent = reply.usage.reasoning or reply.usage.completion or max_tokens
        return Failure(kind="thinking", message=f"{spent} tokens went into thinking, none were left; {THINKING_HINT}")
    if still_thinking:
        return Failure(kind="thinking", message="a stop string ended the reply while it was still thinking")
    return None


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """``text`` up to the earliest stop string, and whether there was one. Servers ignore them, or take four."""
    places = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def without_prefill(text: str, prefill: str) -> str:
    """The new text alone. llama.cpp's server repeats the begun answer, vLLM's does not; templates trim its ends."""
    if text.startswith(prefill):
        return text[len(prefill) :]
    bare, trimmed = text.lstrip(), prefill.strip()
    return bare[len(trimmed) :] if trimmed and bare.startswith(trimmed) else text


BROKEN_OFF = ("error", "abort", "aborted", "cancelled", "insufficient_system_resource")
"""Finish reasons by which servers say that half an answer is all there is: no data."""


def _content(content: Any) -> tuple[str, list[str]]:
    """Text and thoughts of a message's content: a string, or Mistral's list of parts."""
    if not isinstance(content, list):
        return _string(content), []
    parts = [as_dict(part) for part in content]
    thoughts = [part["thinking"] for part in parts if "thinking" in part]
    flat = [_content(thought)[0] for thought in thoughts]
    return "".join(_string(part.get("text")) for part in parts), [thought for thought in flat if thought]


def _usage(usage: dict[str, Any]) -> Usage:
    spent, given = as_dict(usage.get("completion_tokens_details")), as_dict(usage.get("prompt_tokens_details"))
    return Usage(
        prompt=_count(usage.get("prompt_tokens")),
        completion=_count(usage.get("completion_tokens")),
        reasoning=_count(spent.get("reasoning_tokens")),
        cached=_count(given.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))),
    )


def _first_token(logprobs: Any, answer: str, thought: bool) -> dict[str, float]:
    """The alternatives for the token that begins the answer; empty if it cannot be told which one that was."""
    given = as_dict(logprobs)
    texts: list[str]
    pairs: list[list[tuple[Any, Any]]]
    if given.get("content"):
        tokens = [as_dict(token) for token in as_list(given["content"])]
        texts = [_string(token.get("token")) for token in tokens]
        tables = [[token, *map(as_dict, as_list(token.get("top_logprobs")))] for token in tokens]
        pairs = [[(row.get("token"), row.get("logprob")) for row in table] for table in tables]
    else:
        texts = [_string(token) for token in as_list(given.get("tokens"))]
        others = [as_dict(table) for table in as_list(given.get("top_logprobs"))] + [{}] * len(texts)
        chosen = zip(texts, as_list(given.get("token_logprobs")), others, strict=False)
        pairs = [[(text, value), *table.items()] for text, value, table in chosen]
    at = 0
    if thought:
        joined = "".join(texts)
        start = split_reasoning(joined).start
        if not answer or not joined[start:].lstrip().startswith(answer.lstrip()[:8]):
            return {}
        ends = list(itertools.accumulate(len(text) for text in texts))
        at = next((place for place, end in enumerate(ends) if end > start), len(texts))
    if at >= len(pairs):
        return {}
    return {
        sound(token): float(value)
        for token, value in pairs[at]
        if isinstance(token, str) and isinstance(value, int | float) and math.isfinite(value)
    }


def read_json(content: bytes) -> Any:
    """JSON as it came, or the text where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")


def _excerpt(payload: Any) -> str:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return repr(text) if text.strip() else "an empty body"


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _string(value: Any) -> str:
    return sound(value) if isinstance(value, str) else ""


def sound(text: str) -> str:
    """``text`` without half characters (JSON can carry them, UTF-8 cannot)."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0
