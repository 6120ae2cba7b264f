"""Finding an engine, operator or filter by name among the entry points, where ours stand beside third parties'."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from selfinstruct.errors import UsageError


@cache
def _scan(kind: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    # Once for each search path: to look through all installed packages takes milliseconds.
    return {point.name: point for point in entry_points(group=f"selfinstruct.{kind}")}


def _group(kind: str) -> dict[str, EntryPoint]:
    return _scan(kind, tuple(sys.path))


def names(kind: str) -> list[str]:
    """All there are of a kind: ``engines``, ``operators`` or ``filters``."""
    return sorted(_group(kind))


def find(kind: str, name: str, asked: str, *, hint: str = "") -> Any:
    """What the entry point of that name loads. ``asked`` is how an error names what was asked for; its hint lists what
    there is, and goes on with ``hint``.

    Raises UsageError where there is none, or where it cannot be imported.
    """
    point = _group(kind).get(name)
    if point is None:
        raise UsageError(f"unknown {asked}", hint="there are " + ", ".join(names(kind)) + hint)
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{asked}: {point.value} cannot be loaded: {error}", hint="is its package whole?") from error
