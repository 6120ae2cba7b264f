"""Record, one instruction with its answer and where it came from; Objection, why one was not kept."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def digest(*parts: str | None) -> str:
    """16 hex digits of the SHA-256 over the JSON list of ``parts``: how everything here is named by content."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


Direction = Literal["in-depth", "in-breadth", "downward", "answer"]
"""Where an operator of evolution goes: harder, elsewhere, easier; or to a better answer of the same instruction."""


class Evolution(BaseModel):
    """A record's place in its lineage: the row that it began with, and all that was made of it, round after round
    (Evol-Instruct, Xu et al. 2024, section 3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lineage: int
    """The row, counted from 0: what names the lineage, for two rows may say the same."""
    root: str
    """The row's task."""
    round: int = 0
    """0 for the row itself."""
    operator: str = ""
    direction: Direction | None = None
    attempt: int = 0
    """Which try of its parent this is, from 1."""
    added: int = 0
    """Words more than its parent has; in the output where the answer was rewritten, otherwise in the instruction."""
    # For the rules of the moment, and in no file: the prompt and the parent's own line hold it.
    may_add: tuple[int, int] | None = Field(None, exclude=True)
    """What the operator allows of them; None: what the recipe says."""
    before: str = Field("", exclude=True)
    """The parent's text that was rewritten."""
    prompt: str = Field("", exclude=True)
    """What was asked with, without the parent's text."""


class Constraint(BaseModel):
    """What an answer must keep to, so that a program can check it (``verifiable.ifeval.TYPES``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    kwargs: dict[str, Any] = {}


class Record(BaseModel):
    """One instruction, with its input and output once it has them.

    Seeds, drafts (no output yet) and kept rows are all Records. ``task`` is the id that the record had when it
    was drafted, or a seed's own id: a task with several instances is several Records that share it, and
    ``parents`` are tasks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str
    input: str = ""
    output: str = ""
    system: str = ""
    reasoning: str = ""
    name: str = ""
    classification: bool | None = None
    task: str = ""
    origin: str = "seed"
    parents: tuple[str, ...] = ()
    evolution: Evolution | None = None
    constraints: tuple[Constraint, ...] = ()
    repaired: tuple[str, ...] = ()
    """The constraints for which a program changed the output."""

    @property
    def id(self) -> str:
        """Named by content: 16 hex of SHA-256 over [instruction, input, output]."""
        return digest(self.instruction, self.input, self.output)


class Objection(BaseModel):
    """Why a draft or an answer was not kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    """The rule, e.g. ``novelty``."""
    why: str
    """One sentence for a person."""
    at: Literal["draft", "answer"] = "draft"
    neighbour: str = ""
    """The task that the draft is too close to."""
    score: float | None = None
