"""Where the package's own prompts, seeds and recipes lie: in the wheel, or at the root of a checkout."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def _folder(name: str) -> Path:
    packaged = _HERE / f"_{name}"
    return packaged if packaged.is_dir() else _HERE.parent / name


PROMPTS = _folder("prompts")
SEEDS = _folder("seeds")
RECIPES = _folder("recipes")
