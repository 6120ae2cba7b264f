"""Near-duplicates among the kept records, by the machinery of dedup: each cluster is a record and what is near it."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfinstruct.filters.text import normal_form
from selfinstruct.minhash import Kept, Signatures
from selfinstruct.report.rows import Row

JACCARD = 0.8
LARGEST = 20
"""How many of the largest clusters are told, and …"""
MEMBERS = 5
"""… how many records near the first of each."""


class _Near(NamedTuple):
    name: str
    jaccard: float
    """1 where it says the same but for case, blanks and punctuation."""


class Clusters:
    """Records are gone through as they stand: one that is near an earlier head joins it, any other heads a cluster of
    its own. So all members are near their head, and none is here by a chain. What is compared lies in files of
    ``folder``; memory grows by some 250 bytes a record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts = Signatures(folder)
        self._names: list[str] = []
        self._forms: list[bytes] = []
        self.members: dict[int, list[_Near]] = {}
        """By the position of the head."""

    def add(self, row: Row) -> None:
        if not row.kept:
            return
        record = row.record
        texts = (record.instruction, record.input, record.output)
        self._names.append(row.name)
        self._texts.add("\n".join(texts))
        form = "\0".join(map(normal_form, texts)).encode("utf-8", "surrogatepass")
        self._forms.append(blake2b(form, digest_size=16).digest())

    def find(self) -> None:
        """No more will be added."""
        self._texts.finish()
        order = np.arange(len(self._names))
        near = Kept(self._texts, order, JACCARD, self._folder)
        for _ in near.build():
            pass
        heads: dict[bytes, int] = {}
        for place, form in enumerate(self._forms):
            head, score = heads.get(form), 1.0
            if head is None and near.shares[place] and (twin := near.nearest(place)) is not None:
                head, score = twin.place, twin.jaccard
            if head is not None:
                self.members.setdefault(head, []).append(_Near(self._names[place], score))
                continue
            heads[form] = place
            if near.shares[place]:
                near.keep(place)

    def close(self) -> None:
        self._texts.close()

    def wanted(self) -> set[str]:
        """The names of the records that ``figures`` tells."""
        return {name for head in self._largest() for name in self._shown(head)}

    def figures(self, told: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """``told``: the records of ``wanted``, by name."""
        sizes = Counter(len(members) + 1 for members in self.members.values())
        return {
            "jaccard": JACCARD,
            "records": len(self._names),
            "clusters": len(self.members),
            "near": sum(len(members) for members in self.members.values()),
            "sizes": {str(size): sizes[size] for size in sorted(sizes)},
            "largest": [
                {
                    "size": len(self.members[head]) + 1,
                    "head": told[self._names[head]],
                    "members": [{"jaccard": near.jaccard, **told[near.name]} for near in self.members[head][:MEMBERS]],
                }
                for head in self._largest()
            ],
        }

    def _largest(self) -> list[int]:
        return sorted(self.members, key=lambda head: (-len(self.members[head]), head))[:LARGEST]

    def _shown(self, head: int) -> list[str]:
        return [self._names[head], *(near.name for near in self.members[head][:MEMBERS])]
