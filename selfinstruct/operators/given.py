"""Tasks that are there already: the rows of a dataset, one a step, untouched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from selfinstruct.engines import Reply
from selfinstruct.formats import read_dataset
from selfinstruct.operators import Pool, Read, Setting
from selfinstruct.records import Record


class Given:
    """Reads the dataset as the plan goes on: nothing but what is under way is held in memory."""

    stage = "given"
    stages = ()
    asks = False
    feeds_pool = False
    reads_dataset = True
    takes_unanswered = True

    def __init__(self, setting: Setting) -> None:
        assert setting.source is not None
        self._rows: Iterator[Record] = iter(read_dataset(setting.source, answered=False))

    def draw(self, pool: Pool, step: int, rng: Random) -> tuple[Record, ...] | None:
        row = next(self._rows, None)
        return None if row is None else (row,)

    def ask(self, parents: Sequence[Record], steer: Mapping[str, str], rng: Random) -> None:
        return None

    def read(self, reply: Reply, parents: Sequence[Record], rng: Random) -> list[Read]:
        row = parents[0]
        return [row.model_copy(update={"origin": self.stage, "parents": (row.id,)})]
