"""``none``: nobody, for a recipe that asks no model."""

from __future__ import annotations

from selfinstruct.engines import Options, Reply, Request, Style
from selfinstruct.errors import EngineError


class Nobody:
    """Answers nothing."""

    name = "none"
    concurrency = 1
    styles: tuple[Style, ...] = ("chat", "completion")

    async def complete(self, request: Request) -> Reply:
        raise EngineError("this recipe asks a model, and --model none is nobody", hint="--model names one")

    def facts(self) -> dict[str, str]:
        return {}

    async def close(self) -> None:
        pass


def open_none(rest: str, options: Options) -> Nobody:
    """The engine of the name ``none``."""
    return Nobody()
