"""What a novelty check costs per candidate: ours, rapidfuzz over the whole pool, and rouge-score, in one run.

    python benchmarks/novelty.py --corpus instructions.jsonl.gz

The corpus is JSON lines with an ``instruction``; it is read in order, and what is novel joins the pool, as in a run.
At each pool size the same next candidates are judged by every method. Times are CPU of this one process, the least of
three interleaved rounds. The exit code is 1 if a single decision, neighbour or score differs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import sys
import time
import tracemalloc
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq
from rouge_score import rouge_scorer  # type: ignore[import-untyped]  # it ships no types

from selfinstruct.filters.novelty import Neighbour, NoveltyIndex, tokens

ROUNDS = 3
CHECKED_WHOLE = 5_000
"""Pool size up to which the whole greedy run is repeated by brute force."""
SCORED_PAIRS = 40_000
"""How many pairs rouge-score is given; at larger pools its time is extrapolated from its time per pair."""


class Judge(Protocol):
    def nearest(self, text: str) -> Neighbour | None: ...


class Brute:
    """Every text of the pool, compared by rapidfuzz: what the index must agree with."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.number: dict[str, int] = {}
        self.codes: list[str] = []
        self.lengths: list[int] = []

    def code(self, text: str) -> str:
        return "".join([chr(self.number.setdefault(word, len(self.number))) for word in tokens(text, "rouge")])

    def add(self, text: str) -> None:
        self.codes.append(self.code(text))
        self.lengths.append(len(self.codes[-1]))

    def nearest(self, text: str) -> Neighbour | None:
        code = self.code(text)
        if not code or not self.codes:
            return None
        common = process.cdist([code], self.codes, scorer=LCSseq.similarity, dtype=np.int32)[0]
        hits = np.nonzero(common)[0]  # the others score 0, and would divide by it
        precision, recall = common[hits] / len(code), common[hits] / np.array(self.lengths)[hits]
        f = 2 * precision * recall / (precision + recall)
        if not hits.size or not f.max() > self.threshold:
            return None
        return Neighbour(int(hits[f.argmax()]), float(f.max()))


class RougeScore:
    """rouge-score as Self-Instruct calls it: the two texts, tokenized anew for every pair."""

    def __init__(self, pool: list[str], threshold: float) -> None:
        self.pool, self.threshold = pool, threshold
        self.scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)

    def nearest(self, text: str) -> Neighbour | None:
        scores: list[float] = [self.scorer.score(text, kept)["rougeL"].fmeasure for kept in self.pool]
        f = max(scores)
        return Neighbour(scores.index(f), f) if f > self.threshold else None


def instructions(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["instruction"]


def timed(judge: Judge, candidates: list[str]) -> tuple[float, list[Neighbour | None]]:
    """CPU seconds per candidate, and the answers."""
    begin = time.process_time()
    answers = [judge.nearest(text) for text in candidates]
    return (time.process_time() - begin) / len(candidates), answers


def differing(some: list[Neighbour | None], others: list[Neighbour | None]) -> int:
    return sum(one != other for one, other in zip(some, others, strict=True))


def bytes_per_record(pool: list[str], threshold: float) -> float:
    tracemalloc.start()
    index = NoveltyIndex(threshold)
    for text in pool:
        index.add(text)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(index)


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":")[1].strip() for line in names if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.system()}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.3f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"


class Row(NamedTuple):
    """One pool size; times are CPU seconds per candidate."""

    pool: int
    whole: float
    """Ours over the run so far, with adding to the index and ordering it."""
    ours: float
    brute: float
    scorer: float
    extrapolated: bool
    held: float

    def markdown(self) -> str:
        mark = "*" if self.extrapolated else ""
        times = [milliseconds(self.whole), milliseconds(self.ours), milliseconds(self.brute)]
        ratios = [f"{self.brute / self.ours:,.0f}", f"{self.scorer / self.ours:,.0f}{mark}"]
        cells = [f"{self.pool:,}", *times, f"{milliseconds(self.scorer)}{mark}", *ratios, f"{self.held:.0f}"]
        return f"| {' | '.join(cells)} |"


HEAD = """\
| pool | ours, whole run | ours | rapidfuzz cdist | rouge-score | cdist / ours | rouge-score / ours | bytes a record |
|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines with an instruction, .gz or not")
    parser.add_argument("--pools", default="1000,10000,52000", help="pool sizes to measure at")
    parser.add_argument("--candidates", type=int, default=500, help="candidates judged at each pool size")
    parser.add_argument("--threshold", type=float, default=0.7)
    options = parser.parse_args()
    sizes = sorted(int(size) for size in options.pools.split(","))

    begin = time.perf_counter()
    texts = list(instructions(options.corpus))
    index, brute, pool = NoveltyIndex(options.threshold), Brute(options.threshold), list[str]()
    read, whole, rows = 0, 0.0, list[Row]()
    checked = wrong = 0
    per_pair, pairs_pool = 0.0, 0
    for size in sizes:
        while len(pool) < size and read < len(texts):
            text = texts[read]
            read += 1
            start = time.process_time()
            neighbour = index.nearest(text)
            if neighbour is None:
                index.add(text)
            whole += time.process_time() - start
            if len(pool) < CHECKED_WHOLE:
                checked += 1
                wrong += neighbour != brute.nearest(text)
            if neighbour is None:
                pool.append(text)
                brute.add(text)
        candidates = texts[read : read + options.candidates]
        if not candidates:
            parser.error(f"{options.corpus}: too short for a pool of {size:,}; it holds {len(pool):,} novel texts")

        rounds = [(timed(index, candidates), timed(brute, candidates)) for _ in range(ROUNDS)]
        (_, ours), (_, theirs) = rounds[0]
        checked += len(candidates)
        wrong += differing(ours, theirs)

        if not per_pair:
            part = pool[:1000]
            few = candidates[: max(1, SCORED_PAIRS // len(part))]
            twin = NoveltyIndex(options.threshold)
            for text in part:
                twin.add(text)
            seconds, scored = timed(RougeScore(part, options.threshold), few)
            per_pair, pairs_pool = seconds / len(part), len(part)
            checked += len(few)
            wrong += differing(timed(twin, few)[1], scored)

        rows.append(
            Row(
                pool=size,
                whole=whole / read,
                ours=min(mine for (mine, _), _ in rounds),
                brute=min(its for _, (its, _) in rounds),
                scorer=per_pair * size,
                extrapolated=size != pairs_pool,
                held=bytes_per_record(pool[:size], options.threshold),
            )
        )

    versions = [f"{name} {version(name)}" for name in ("selfinstruct", "numpy", "rapidfuzz", "rouge-score")]
    sys.stdout.write(
        HEAD
        + "".join(row.markdown() + "\n" for row in rows)
        + f"""
CPU per candidate, threshold {options.threshold}. "Whole run" adds to the index and orders it, the others only ask.
`*` extrapolated from {per_pair * 1e6:.1f} µs a pair, measured at a pool of {pairs_pool:,}.

Accepted {len(pool):,} of {read:,} read. {checked:,} decisions compared with brute force: {wrong} differ in verdict,
neighbour or F.

{machine()}; Python {platform.python_version()}; {", ".join(versions)}; took {time.perf_counter() - begin:.0f} s.
"""
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
