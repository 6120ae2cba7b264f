"""How a conversation is written for a model, in training as when it is served: Alpaca, Vicuna, ChatML, or its own way.

A template is a Jinja chat template as transformers and every server read it, so that what a model was trained on and
what it is asked with later come from one text. What is trained in it is the answer and the token that ends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfinstruct.errors import InputError, UsageError
from selfinstruct.records import Record
from selfinstruct.resources import PROMPTS

OURS = ("alpaca", "vicuna", "chatml")
NO_THOUGHT = "{%- set enable_thinking = false -%}"
"""What stands in front of the template of a model that thinks first: its answers are trained, and asked for, without
a thought, whoever asks."""
MARKS = {
    "### Response:": re.compile(r"^### (?:Instruction|Input|Response):", re.MULTILINE),
    "ASSISTANT:": re.compile(r"(?:^|\s)(?:USER|ASSISTANT):"),
}
"""By what a template writes: what of it would begin a turn where a text holds it."""


class Refused(InputError):
    """A template that cannot write a conversation."""


class Template(NamedTuple):
    """A chat template: ``name`` is one of OURS, ``model`` or a file's path."""

    name: str
    text: str

    @property
    def thoughtless(self) -> bool:
        """Whether the model would think first by its own template."""
        return self.text.startswith(NO_THOUGHT)

    def forges(self, control: Iterable[str], record: Record) -> str:
        """What in a record's own words would be taken for the template's: a token of ``control``, or the beginning of a
        turn; empty if nothing is."""
        said = "\n".join((record.system, record.instruction, record.input, record.output))
        for token in control:
            if token in said:
                return token
        for written, mark in MARKS.items():
            found = mark.search(said) if written in self.text else None
            if found:
                return found[0].strip()
        return ""


def messages_of(record: Record) -> list[dict[str, str]]:
    """The turns up to the answer, as `eval` and `answer` send them too: the input stands below the instruction."""
    system = [{"role": "system", "content": record.system}] if record.system else []
    question = f"{record.instruction}\n\n{record.input}" if record.input else record.instruction
    return [*system, {"role": "user", "content": question}]


class Written(NamedTuple):
    """A record as it is written. Offsets count characters of ``text``."""

    text: str
    asked: int
    """Where what is served ends and the model begins."""
    end: int
    """Behind the token that ends the answer."""


def chosen(name: str, tokenizer: Any) -> Template:
    """The template of that name for a tokenizer: ``auto`` is the model's own, or Alpaca where it has none.

    Raises UsageError for a name that is none, or a template that the tokenizer cannot write; InputError for a file.
    """
    own = _own(tokenizer)
    if name == "auto":
        name = "model" if own else "alpaca"
    if name == "model":
        if not own:
            raise UsageError(
                "the model has no chat template", hint="a base model wants --template alpaca, vicuna or chatml"
            )
        return _without_thoughts(Template(name, own), tokenizer)
    if name in OURS:
        text = (PROMPTS / "templates" / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")
    elif Path(name).is_file():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name}: {error}", hint="a template is a readable UTF-8 text file") from error
    else:
        raise UsageError(f"there is no template {name!r}", hint=f"auto, model, {', '.join(OURS)}, or a Jinja file")
    if "eos_token" in text and not tokenizer.eos_token:
        raise UsageError("the tokenizer has no token that ends a text", hint="set its eos_token, or choose chatml")
    if name == "chatml" and tokenizer.convert_tokens_to_ids("<|im_end|>") in (None, tokenizer.unk_token_id):
        raise UsageError(
            "the tokenizer does not know <|im_end|>", hint="--template alpaca or vicuna fits any tokenizer"
        )
    begins = tokenizer("").input_ids
    if name in OURS and begins and begins[0] == tokenizer.bos_token_id:  # it puts one before every text by itself
        text = "{{- bos_token -}}" + text
    return Template(name, text)


def _own(tokenizer: Any) -> str:
    """The tokenizer's template, of several the one that is taken for a chat; empty if it has none."""
    try:
        return str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
    except ValueError:
        return ""


def _without_thoughts(template: Template, tokenizer: Any) -> Template:
    asked = [{"role": "user", "content": "?"}]
    plain = Template(template.name, NO_THOUGHT + template.text)
    try:
        same = prompted(template, tokenizer, asked) == prompted(plain, tokenizer, asked)
    except Refused:  # it wants something else first
        same = True
    return template if same else plain


def controls(tokenizer: Any) -> list[str]:
    """The tokens of control by their text, the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens), key=lambda one: (-len(one), one))


def prompted(template: Template, tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """What is served: the turns, up to where the model's answer begins."""
    return _rendered(template, tokenizer, messages, add_generation_prompt=True)


def written(template: Template, tokenizer: Any, record: Record, control: Sequence[str]) -> Written | None:
    """A record with its answer; None where the template changes the answer's words, or begins otherwise than what is
    served. Raises Refused for a template that cannot write it, InputError for one that lets answers run on."""
    messages = messages_of(record)
    prompt = prompted(template, tokenizer, messages)
    whole = [*messages, {"role": "assistant", "content": record.output}]
    text = _rendered(template, tokenizer, whole, add_generation_prompt=False)
    if not text.startswith(prompt):
        return None
    answer = text.find(record.output, len(prompt))
    if answer < 0 or text[len(prompt) : answer].strip():
        return None
    behind = answer + len(record.output)
    blank = len(text[behind:]) - len(text[behind:].lstrip())
    for token in control:
        if text.startswith(token, behind + blank):
            return Written(text, len(prompt), behind + blank + len(token))
    raise InputError(
        f"the template {template.name} does not end an answer: a model trained with it would never stop",
        hint="it should write {{ eos_token }} behind the assistant's content",
    )


def _rendered(
    template: Template, tokenizer: Any, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=template.text,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise Refused(
            f"the template {template.name} cannot write a conversation: {error}",
            hint="system texts are refused by some models' templates; --template chooses another",
        ) from error
