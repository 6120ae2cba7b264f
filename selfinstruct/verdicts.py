"""What the rules said in an earlier call of a run, read from its rejects: they are not asked the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from selfinstruct import __version__
from selfinstruct.files import writing
from selfinstruct.records import Objection


class Verdicts:
    """The rejects of a run folder as far as ``decided`` of its run.json vouches for them, step after step.

    That of another version of this program counts for nothing. All steps before the last line's are known: what of
    theirs is not among the rejects had passed. ``verify`` takes nothing of this on trust, and judges all anew.
    """

    def __init__(self, path: Path, decided: Mapping[str, Any]) -> None:
        self._left = 0
        self._steps: dict[int, dict[str, Objection]] = {}
        self._next: tuple[int, str, Objection] | None = None
        self._last = 0
        """The step of the last line read: of those before it all is here."""
        self._file: BinaryIO | None = None
        self.vouched: Mapping[str, Any] = {"bytes": 0}
        """``decided``, if it holds still."""
        with writing(path):
            same = bool(decided) and decided["version"] == __version__ and path.is_file()
            if same and _begins_with(path, decided["bytes"], decided["sha256"]):
                self._file, self._left, self.vouched = path.open("rb"), decided["bytes"], decided
        self._advance()

    def known(self, step: int) -> bool:
        """Whether all that was said of a step is here. Steps are asked for in order, more than once perhaps."""
        while self._next is not None and self._next[0] <= step:
            at, name, objection = self._next
            self._steps.setdefault(at, {})[name] = objection
            self._advance()
        return step < self._last

    def of(self, step: int, name: str) -> Objection | None:
        """What was said of a draft or an answer of a step that is known; None: that it may stay."""
        return self._steps.get(step, {}).get(name)

    def forget(self, step: int) -> None:
        """Nobody will ask for this step again."""
        self._steps.pop(step, None)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _advance(self) -> None:
        self._next = None
        if self._file is None or self._left <= 0:
            return
        raw = self._file.readline()
        self._left -= len(raw)
        line = json.loads(raw)
        name = line["name"]
        objection = Objection(**{key: line[key] for key in ("by", "why", "at", "neighbour", "score")})
        self._last = int(name.rpartition(":")[2].partition(".")[0])
        self._next = self._last, name, objection


def _begins_with(path: Path, size: int, sha256: str) -> bool:
    """Whether the first ``size`` bytes of a file are those."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while size and (block := file.read(min(size, 1 << 20))):
            whole.update(block)
            size -= len(block)
    return not size and whole.hexdigest() == sha256
