"""Reads a server's answer of status 200: a Reply, whichever of the many dialects it is written in."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from selfinstruct.engines import Failure, Finish, Reply, Request, Sample, Usage
from selfinstruct.engines.endpoints import Again
from selfinstruct.engines.reasoning import split_reasoning

THINKING_HINT = (
    "raise max_tokens, or turn thinking off in [request.extra], "
    'e.g. chat_template_kwargs = {enable_thinking = false} or reasoning_effort = "low"'
)


class Miscounted(Exception):
    """A list of prompts was answered with another number of choices than was asked for."""


def read_reply(payload: Any, request: Request, changed: tuple[str, ...], wanted: int = 1) -> Reply:
    """A body of status 200 as a Reply with up to ``wanted`` answers; raises Again if it is none."""
    choices = [as_dict(choice) for choice in as_list(as_dict(payload).get("choices"))]
    if wanted > 1:
        places = [choice.get("index") for choice in choices]
        if all(isinstance(place, int) for place in places):
            choices.sort(key=lambda choice: int(choice["index"]))
        if len(choices) < wanted:
            changed = (*changed, f"{len(choices)} of {wanted} answers came")
    return _reply(payload, choices[:wanted], request, changed, _usage(as_dict(as_dict(payload).get("usage"))))


def read_list(
    payload: Any, requests: Sequence[Request], changed: tuple[str, ...], wanted: int
) -> list[Reply | Exception]:
    """The replies to the prompts of a list, or the Again of a prompt: choices ``i * wanted`` and on are prompt ``i``'s.

    Usage is told in sum: prompt tokens are shared out by the bytes of the prompts and completion tokens by those of the
    answers, so that the sums stay what they were. Raises Miscounted if there are not so many choices.
    """
    choices = [as_dict(choice) for choice in as_list(as_dict(payload).get("choices"))]
    by_index = {choice.get("index"): choice for choice in choices}
    if len(choices) != wanted * len(requests) or by_index.keys() != set(range(len(choices))):
        raise Miscounted(f"{len(choices)} choices for {len(requests)} prompts, {wanted} each")
    parts = [[by_index[i * wanted + k] for k in range(wanted)] for i in range(len(requests))]
    told = _usage(as_dict(as_dict(payload).get("usage")))
    read = [len((request.prompt or "").encode("utf-8", "replace")) for request in requests]
    written = [sum(len(_string(choice.get("text")).encode()) for choice in part) for part in parts]
    shares = [shared(told.prompt, read), shared(told.completion, written)]
    shares += [shared(told.reasoning, written), shared(told.cached, read)]
    replies: list[Reply | Exception] = []
    for request, part, (prompt, completion, reasoning, cached) in zip(
        requests, parts, zip(*shares, strict=True), strict=True
    ):
        usage = Usage(prompt=prompt, completion=completion, reasoning=reasoning, cached=cached)
        try:
            replies.append(_reply(payload, part, request, changed, usage))
        except Again as error:
            replies.append(error)
    return replies


def shared(total: int, weights: Sequence[int]) -> list[int]:
    """The total in whole parts, as the weights are to each other; without any weight all alike."""
    ends = list(itertools.accumulate(weights if any(weights) else [1] * len(weights), initial=0))
    cuts = [total * end // ends[-1] for end in ends] if weights else [0]
    return [after - before for before, after in itertools.pairwise(cuts)]


def _reply(
    payload: Any, choices: Sequence[dict[str, Any]], request: Request, changed: tuple[str, ...], usage: Usage
) -> Reply:
    """The answers to one prompt. Raises Again if none of them is one."""
    answers: list[_Answer] = []
    broken: list[Again] = []
    for choice in choices or ({},):
        try:
            answers.append(_answer(payload, choice, request, usage if len(choices) < 2 else Usage()))
        except Again as error:
            broken.append(error)
            answers.append(_Answer(Sample(error=Failure(kind=error.kind, message="the server broke this answer off"))))
    if len(broken) == len(answers):
        raise broken[0]
    return Reply(
        **dict(answers[0].sample),
        more=tuple(answer.sample for answer in answers[1:]),
        usage=usage,
        changed=tuple(dict.fromkeys((*changed, *(answer.note for answer in answers if answer.note)))),
        model=_string(as_dict(payload).get("model")),
        fingerprint=_string(as_dict(payload).get("system_fingerprint")),
    )


class _Answer(NamedTuple):
    sample: Sample
    note: str = ""


def _answer(payload: Any, choice: dict[str, Any], request: Request, usage: Usage) -> _Answer:
    """One choice. ``usage`` is its own, or nothing where it is told for several. Raises Again if it is no answer."""
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
    note = ""
    finish: Finish = "stop"
    if said == "length" or said == "content_filter":
        finish = "stop" if stopped else said
    elif said != "stop":
        note = f"finish_reason {said!r} read as 'stop'"
    sample = Sample(
        text=text,
        finish=finish,
        reasoning=reasoning,
        first_token=_first_token(choice.get("logprobs"), split.answer, bool(reasoning)),
    )
    failure = _failure(sample, usage, split.open, request.sampling.max_tokens)
    return _Answer(sample if failure is None else sample.model_copy(update={"error": failure}), note)


def _failure(sample: Sample, usage: Usage, still_thinking: bool, max_tokens: int) -> Failure | None:
    if sample.text.strip():
        return None
    if sample.finish == "content_filter":
        return Failure(kind="content_policy", message="the server's content filter withheld the answer")
    # hosted models count their thinking without showing it
    if sample.finish == "length" and (sample.reasoning or usage.reasoning):
        spent = usage.reasoning or usage.completion or max_tokens
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
