"""What is trained, and of which data: a training's settings, and its rows as tokens, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from selfinstruct.engines import Frozen
from selfinstruct.engines.hf import INSTALL, no_model
from selfinstruct.errors import InputError, UsageError
from selfinstruct.formats import read_dataset
from selfinstruct.masks import Row, Rows, decoded, tokenised
from selfinstruct.records import Record, digest
from selfinstruct.templates import Template, chosen

RATES = {"full": 2e-5, "lora": 2e-4}
"""Learning rates where none is given: Alpaca's (Taori et al. 2023), and ten times it for adapters."""
LENGTH = 1024
"""Tokens of a row, unless somebody says otherwise."""
BUCKETS = 10_000
"""Parts of the held-out share."""


class Tuning(Frozen):
    """Everything that can change the model that comes out."""

    model: str
    data: tuple[str, ...]
    template: str = "auto"
    method: Literal["full", "lora"] = "full"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    epochs: float = Field(3, gt=0)
    batch_size: int = Field(32, ge=1)
    """Rows for each step of the optimiser, over all devices."""
    micro_batch: int = Field(4, ge=1)
    """Rows that one device holds at once; it decides memory and speed, not the steps."""
    learning_rate: float | None = Field(None, gt=0)
    warmup: float = Field(0.03, ge=0, le=1)
    """Share of the steps."""
    weight_decay: float = Field(0, ge=0)
    max_length: int | None = Field(None, ge=16)
    """Tokens of a row; None: LENGTH, or what the model was made for if that is less."""
    packing: Literal["auto", "no"] = "auto"
    held_out: float = Field(0.05, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def rate(self) -> float:
        return self.learning_rate or RATES[self.method]


class Plan(NamedTuple):
    """What a training would do, before any weight is loaded."""

    template: Template
    found: Rows
    train: list[Row]
    held_out: list[Row]
    said: tuple[str, ...]
    """What a person should know before it starts."""
    tokenizer: Any
    most: int
    """Tokens of a row."""
    end: int
    """The token that ends an answer."""

    def shows(self, row: Row) -> tuple[str, str]:
        """A row's text: what is not trained of it, and what is."""
        return decoded(self.tokenizer, row.ids[: row.asked]), decoded(self.tokenizer, row.ids[row.asked :])

    def figures(self) -> dict[str, Any]:
        return {
            "rows": len(self.train),
            "held_out": len(self.held_out),
            "dropped": dict(self.found.dropped),
            "noted": dict(self.found.noted),
            "trained_tokens": sum(row.trained for row in self.train),
        }


def plan(tuning: Tuning) -> Plan:
    """Read, write and tokenise the data. Raises UsageError for a model or template that cannot be had, InputError for
    data that cannot be read or of which nothing can be trained."""
    tokenizer = tokenizer_of(tuning.model)
    most = length_of(tuning)
    template = chosen(tuning.template, tokenizer)
    said = []
    if template.thoughtless:
        said.append(f"{tuning.model} thinks first: it is trained, and will be served, without thoughts")
    if tuning.template == "auto" and template.name != "model":
        said.append(f"{tuning.model} has no chat template: it is trained with --template {template.name}, and keeps it")
    found = tokenised(tokenizer, template, _records(tuning.data), most)
    if not found.rows:
        why = ", ".join(f"{number} {name}" for name, number in found.dropped.most_common()) or "they hold no rows"
        raise InputError(
            f"nothing to train on in {', '.join(tuning.data)}: {why}",
            hint="a larger --max-length, another --template, or `selfinstruct answer` for rows without a response",
        )
    said += [f"{number} of {len(found.rows)} rows: {name}" for name, number in found.noted.most_common()]
    said += [f"{number} rows dropped: {name}" for name, number in found.dropped.most_common()]
    train = [row for row in found.rows if not _is_held_out(row.record, tuning.held_out)]
    held_out = [row for row in found.rows if _is_held_out(row.record, tuning.held_out)]
    if not train:
        raise InputError("every row is held out", hint="give a smaller --held-out, or more data")
    ends = [row.ids[-1] for row in found.rows if row.whole]
    if not ends:
        raise InputError(
            f"no answer fits into {most} tokens: none would be trained to end", hint="a larger --max-length"
        )
    return Plan(template, found, train, held_out, tuple(said), tokenizer, most, ends[0])


def length_of(tuning: Tuning) -> int:
    """Tokens of a row. Raises UsageError where the model was made for fewer than were asked for."""
    limit = _positions(tuning.model)
    most = tuning.max_length or min(LENGTH, limit or LENGTH)
    if limit and most > limit:
        raise UsageError(f"--max-length {most}: the model was made for {limit} tokens", hint=f"--max-length {limit}")
    return most


def settled(tuning: Tuning) -> Tuning:
    """The same settings with nothing left open: the template that the model gets, and the length of its rows."""
    template = chosen(tuning.template, tokenizer_of(tuning.model))
    return tuning.model_copy(
        update={
            "max_length": length_of(tuning),
            "template": template.name if tuning.template == "auto" else tuning.template,
        }
    )


def tokenizer_of(model: str) -> Any:
    """The model's tokenizer. Raises UsageError where there is none, or transformers is not installed."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError("training needs transformers, TRL and PEFT", hint=INSTALL) from error
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise no_model(model, error) from error


def _positions(model: str) -> int:
    """Tokens that the model was made for; 0 where it does not say."""
    from transformers import AutoConfig

    try:
        return int(getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", 0) or 0)
    except (OSError, ValueError) as error:
        raise no_model(model, error) from error


def _records(data: Sequence[str]) -> Iterator[Record]:
    for path in data:
        yield from read_dataset(Path(path))


def _is_held_out(record: Record, share: float) -> bool:
    """By what is asked: the same rows are held out of every training, wherever they stand, and none whose prompt is
    trained with another answer."""
    asked = digest("held out", record.system, record.instruction, record.input)
    return int(asked, 16) % BUCKETS < share * BUCKETS
