"""The rule that checks an answer by the constraints that its task came with (IFEval, Zhou et al. 2023, strictly)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfinstruct.records import Record
from selfinstruct.verifiable.ifeval import Verifiable, followed

if TYPE_CHECKING:
    from selfinstruct.recipe import Recipe


class Follows:
    """The answer breaks a constraint of its task, or nobody can tell. A task without any is none of its business."""

    def __init__(self, recipe: Recipe) -> None:
        self._behaviour = recipe.behaviour

    def objection(self, record: Record) -> str | None:
        if not record.constraints:
            return None
        names, kwargs = zip(*((one.type, one.kwargs) for one in record.constraints), strict=True)
        found = followed(Verifiable(0, record.instruction, names, kwargs), record.output, self._behaviour).strict
        broken = [name for name, verdict in zip(names, found, strict=True) if verdict is False]
        if broken:
            return f"does not follow {', '.join(broken)}"
        unknown = [name for name, verdict in zip(names, found, strict=True) if verdict is None]
        return f"nobody can tell whether it follows {', '.join(unknown)}" if unknown else None
