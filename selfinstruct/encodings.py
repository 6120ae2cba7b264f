"""The prompts that Self-Instruct fine-tuned GPT-3 on: 13 ways to write a record down, one drawn for each (section 2.3).

They are many so that the tuned model answers however it is asked. What the loss falls on is the completion alone.
"""

from __future__ import annotations

import re
from random import Random
from typing import Literal

from selfinstruct.records import Record

Behaviour = Literal["strict", "compat"]

WITH_INPUT = (
    "{instruction}\nInput: {input}\nOutput:",
    "{instruction}\n\nInput: {input}\n\nOutput:",
    "Task: {instruction}\nInput: {input}\nOutput:",
    "{instruction}\n\n{input}\n\nOutput:",
    "{instruction}\n\n{input}\n\n",
    "{instruction}\n{input}\n\n",
    "Task: {instruction}\n\n{input}\n\n",
)
WITHOUT_INPUT = (
    "{instruction} Output:",
    "{instruction}\nOutput:",
    "{instruction}\n\nOutput:",
    "{instruction}\n",
    "{instruction}\n\n",
    "Task: {instruction}\n\n",
)


def encode(
    record: Record, rng: Random, *, behaviour: Behaviour = "strict", end: str = "<|endoftext|>"
) -> tuple[str, str]:
    """Prompt and completion. Half of all inputs lose their label and their blank lines, by one coin."""
    instruction, given, output = record.instruction.strip(), record.input.strip(), record.output.strip()
    if rng.random() < 0.5:
        given = re.sub(r"\n(?:[^\S\n]*\n)+", "\n", cut_label(given, behaviour)).strip()
    shape = rng.choice(WITH_INPUT if given else WITHOUT_INPUT)
    blank = " " if shape.endswith("Output:") else ""
    return shape.format(instruction=instruction, input=given), f"{blank}{output}{end}"


# "Sentence: " is a label; "10: ", "https://", and a word in the middle that happens to have a colon are not.
_LABEL = re.compile(r"^[^\W\d_]+: ", re.MULTILINE)


def cut_label(text: str, behaviour: Behaviour) -> str:
    """An input without the name of its only field. ``compat`` cuts at the first colon wherever just one word has one
    behind it, times and addresses included; ``strict`` cuts a word at the very start."""
    if behaviour == "compat":
        labels = set(re.findall(r"(\w+):", text))
        return text[text.index(":") + 1 :].strip() if len(labels) == 1 else text
    label = _LABEL.match(text)
    if label is None or len(_LABEL.findall(text)) > 1:  # several fields: their names tell them apart
        return text
    return text[label.end() :].strip()
