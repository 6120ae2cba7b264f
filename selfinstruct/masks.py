"""From records to token ids and what of them is trained: the answer and the token that ends it, from one tokenisation.

A token is trained if it begins in what the model is to write. The prompt's tokens are those that a server would send:
where the tokens of the whole text differ there, because one of them reaches over the boundary, the text is cut at the
boundary as it is when the model is served, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from selfinstruct.records import Record
from selfinstruct.templates import Refused, Template, controls, written

IGNORED = -100
"""The label of what is not trained, as torch's cross-entropy has it."""


class Row(NamedTuple):
    """A record as tokens."""

    ids: list[int]
    asked: int
    """How many of them are the prompt: they are not trained, and the others are."""
    record: Record
    whole: bool = True
    """Whether the answer's end is among them."""

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * self.asked + self.ids[self.asked :]

    @property
    def trained(self) -> int:
        return len(self.ids) - self.asked


class Rows(NamedTuple):
    """What became of the records."""

    rows: list[Row]
    dropped: Counter[str]
    """Records that are not trained on, by why."""
    noted: Counter[str]
    """Of those that are, how many were changed and how."""


def tokenised(tokenizer: Any, template: Template, records: Iterable[Record], most: int) -> Rows:
    """Each record as at the most ``most`` tokens. One of which no token of the answer is left is dropped, and so is one
    whose words forge a turn. Raises InputError for a template that does not end answers."""
    rows: list[Row] = []
    dropped, noted = Counter[str](), Counter[str]()
    control = controls(tokenizer)
    for record in records:
        record = record.model_copy(update={"output": record.output.strip()})
        if not record.output:
            dropped["no response"] += 1
            continue
        if template.forges(control, record):
            dropped["its words forge a turn"] += 1
            continue
        try:
            said = written(template, tokenizer, record, control)
        except Refused:
            if not record.system:
                raise
            dropped["the template refuses it with a system text"] += 1
            continue
        if said is None:
            dropped["the template rewrites it"] += 1
            continue
        text, prompt = said.text[: said.end], tokenizer(said.text[: said.asked], add_special_tokens=False).input_ids
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if ids[: len(prompt)] != prompt:
            cut = prompt + tokenizer(text[said.asked :], add_special_tokens=False).input_ids
            if decoded(tokenizer, cut) != decoded(tokenizer, ids):
                dropped["cannot be cut where the answer begins"] += 1  # a tokenizer that begins every text with a blank
                continue
            ids = cut
            noted["cut where a token reached over the answer's beginning"] += 1
        if len(prompt) >= min(len(ids), most):
            dropped["the prompt fills the context"] += 1
            continue
        if len(ids) > most:
            noted["cut at the end of the context"] += 1
        if record.reasoning:
            noted["its reasoning is left out"] += 1
        rows.append(Row(ids[:most], len(prompt), record, whole=len(ids) <= most))
    return Rows(rows, dropped, noted)


def decoded(tokenizer: Any, ids: list[int]) -> str:
    """The text of tokens, with nothing tidied."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
