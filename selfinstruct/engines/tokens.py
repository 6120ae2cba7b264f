"""A Request as token ids, by the model's tokenizer and chat template: for engines that hold the model themselves."""

from __future__ import annotations

from typing import Any

from selfinstruct.engines import Request
from selfinstruct.errors import EngineError


def prompt_ids(tokenizer: Any, request: Request, name: str) -> list[int]:
    """The prompt as token ids, with one BOS at the most. Raises EngineError where a conversation needs a template that
    the model does not have, and ValueError where its template refuses this one."""
    if request.prompt is not None:
        return _once(tokenizer, tokenizer.encode(f"{request.prompt}{request.prefill}"))
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    turn: dict[str, Any] = {"add_generation_prompt": True}
    if request.prefill:
        messages.append({"role": "assistant", "content": request.prefill})
        turn = {"add_generation_prompt": False, "continue_final_message": True}
    turn |= request.extra.get("chat_template_kwargs", {})
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **turn)
    except Exception as error:  # a template is a program of the model's author, and raises what it likes
        if not has_template(tokenizer):
            raise EngineError(f"{name} has no chat template", hint="--style completion asks it without one") from error
        raise ValueError(f"the model's chat template refuses this conversation: {error}") from error
    return _once(tokenizer, tokenizer.encode(text, add_special_tokens=False) if isinstance(text, str) else list(text))


def _once(tokenizer: Any, ids: list[int]) -> list[int]:
    bos = getattr(tokenizer, "bos_token_id", None)
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def has_template(tokenizer: Any) -> bool:
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except Exception:  # noqa: BLE001 -- a template is a program of the model's author, and raises what it likes
        return False
    return True


def template_thinks(tokenizer: Any) -> bool:
    """Whether the template begins a thought for the model."""
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True)
    return isinstance(turn, str) and turn.rstrip().endswith("<think>")
