"""Record, one instruction with its answer and where it came from; Objection, why one was not kept."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict


def digest(*parts: str | None) -> str:
    """16 hex digits of the SHA-256 over the JSON list of ``parts``: how everything here is named by content."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


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
