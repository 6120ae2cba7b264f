"""From a handful of seed tasks to instruction-tuning data.

from selfinstruct import Run, load_recipe

run = Run("runs/first", load_recipe("self-instruct", num=20, model="local"), seeds="seeds/175.jsonl")
*_, last = run
print(last.kept, "of", last.target, last.state)
print(next(run.records()).instruction)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfinstruct.recipe import Recipe
    from selfinstruct.records import Record
    from selfinstruct.replaying import replay, verify
    from selfinstruct.run import Run
    from selfinstruct.state import Progress

__version__ = "0.1.0"
__all__ = ["Progress", "Recipe", "Record", "Run", "load_recipe", "replay", "verify"]

_HOMES = {
    "Progress": "state",
    "Recipe": "recipe",
    "Record": "records",
    "Run": "run",
    "replay": "replaying",
    "verify": "replaying",
}


def load_recipe(name: str, *overrides: str, **values: Any) -> Recipe:
    """A recipe by name or path, with ``KEY=VALUE`` overrides and values: ``load_recipe("alpaca", num=500)``."""
    from selfinstruct.recipe import load

    return load(name, overrides, values)


def __getattr__(name: str) -> Any:
    # On demand, so that `selfinstruct --help` need not import what only a run needs.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"selfinstruct.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'selfinstruct' has no attribute {name!r}")
