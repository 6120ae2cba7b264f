"""What novelty costs: ours, rapidfuzz and rouge-score over the whole pool, Alpaca's variant, and MinHash, in one run.

    python benchmarks/novelty.py --corpus instructions.jsonl.gz --plot docs/novelty.svg

The corpus is JSON lines with an ``instruction``; it is read in order, and what is novel joins the pool, as in a run.
Where it ends, texts follow that a Markov chain makes of it, one in seven of them an earlier text with a few words
changed. At each pool size the same next candidates are judged by every method that can be waited for; the others are
extrapolated from their time a pair, and marked. Times are CPU of one process, the least of three interleaved rounds.

The exit code is 1 if a single decision, neighbour or score of ours differs from rapidfuzz's over the whole pool or from
rouge-score's own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq
from rouge_score import rouge_scorer  # type: ignore[import-untyped]  # it ships no types

from selfinstruct.filters.novelty import Neighbour, NoveltyIndex, tokens

ROUNDS = 3
CHECKED_WHOLE = 5_000
"""Pool size up to which the whole greedy run is repeated by brute force."""
SCORED_PAIRS = 40_000
"""How many pairs rouge-score and Alpaca's variant are given."""
HASHED = 52_000
"""The largest pool that MinHash is given: it takes 4 to 5 KB a text."""


class Judge(Protocol):
    def nearest(self, text: str) -> Neighbour | None: ...


class InNumpy(NoveltyIndex):
    """Ours, as it is without numba."""

    _compiled_from = sys.maxsize


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


class Alpaca:
    """rouge-score as Alpaca calls it: the tokens of the pool are kept, and its inner function is asked."""

    def __init__(self, pool: list[str], threshold: float) -> None:
        self.threshold = threshold
        self.tokenizer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)._tokenizer
        self.pool = [self.tokenizer.tokenize(text) for text in pool]

    def nearest(self, text: str) -> Neighbour | None:
        said = self.tokenizer.tokenize(text)
        scores: list[float] = [rouge_scorer._score_lcs(said, kept).fmeasure for kept in self.pool]
        f = max(scores)
        return Neighbour(scores.index(f), f) if f > self.threshold else None


class Hashed:
    """datasketch: MinHash of 128 permutations over the words, and LSH at the same number as a threshold of Jaccard."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self.make: Any = MinHash
        self.lsh = MinHashLSH(threshold=threshold, num_perm=128)
        self.count = 0

    def hashed(self, text: str) -> Any:
        signature = self.make(num_perm=128)
        signature.update_batch([word.encode() for word in set(tokens(text, "rouge"))])
        return signature

    def add(self, text: str) -> None:
        self.lsh.insert(self.count, self.hashed(text))
        self.count += 1

    def nearest(self, text: str) -> Neighbour | None:
        found = self.lsh.query(self.hashed(text))
        return Neighbour(min(found), math.nan) if found else None


# What is judged.


def instructions(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["instruction"]


def synthetic(texts: Sequence[str], seed: int = 7) -> Iterator[str]:
    """Texts like these, without end: two words decide the next, 3 of 100 times any word follows, and 15 of 100 texts
    are earlier ones with one to four words changed, put in or left out."""
    chance = Random(seed).random
    following: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    words: list[str] = []
    for text in texts:
        before = ("", "")
        for word in text.split():
            following[before].append(word)
            before = (before[1], word)
            words.append(word)
        following[before].append("")
    earlier = list(texts)

    def any_of(some: Sequence[str]) -> str:
        return some[int(chance() * len(some))]

    while True:
        if chance() < 0.15:
            made = any_of(earlier).split()
            for _ in range(1 + int(chance() * 4)):
                at, how = int(chance() * (len(made) + 1)), chance()
                if how < 1 / 3 or at == len(made):
                    made.insert(at, any_of(words))
                elif how < 2 / 3 or len(made) < 5:
                    made[at] = any_of(words)
                else:
                    del made[at]
        else:
            made, before = [], ("", "")
            while len(made) < 150:
                word = any_of(following[before]) if before in following and chance() >= 0.03 else any_of(words)
                if not word:
                    break
                made.append(word)
                before = (before[1], word)
        if len(made) >= 4:
            earlier.append(" ".join(made))
            yield earlier[-1]


def stream(corpus: Path) -> Iterator[tuple[str, bool]]:
    """The texts in order, and whether each is of the corpus."""
    texts = list(instructions(corpus))
    for text in texts:
        yield text, True
    for text in synthetic(texts):
        yield text, False


# How it is measured.


def timed(judge: Judge, candidates: list[str]) -> tuple[float, list[Neighbour | None]]:
    """CPU seconds per candidate, and the answers."""
    begin = time.process_time()
    answers = [judge.nearest(text) for text in candidates]
    return (time.process_time() - begin) / len(candidates), answers


def differing(some: list[Neighbour | None], others: list[Neighbour | None]) -> int:
    return sum(one != other for one, other in zip(some, others, strict=True))


class Loaded(NamedTuple):
    """A pool put into an index of its own process, unjudged: what resuming does."""

    seconds: float
    bytes_per_text: float


def loaded(pool: Sequence[str], threshold: float, kind: str) -> Loaded:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.json"
        path.write_text(json.dumps(list(pool)), encoding="utf-8")
        asked = [sys.executable, __file__, "--load", str(path), "--as", kind, "--threshold", str(threshold)]
        said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    return Loaded(**json.loads(said))


def load(path: Path, kind: str, threshold: float) -> None:
    """The other process."""
    texts = json.loads(path.read_text(encoding="utf-8"))
    index: Any = {"ours": NoveltyIndex, "numpy": InNumpy, "datasketch": Hashed}[kind](threshold)
    if kind == "ours" and len(texts) >= NoveltyIndex._compiled_from:  # its code is not part of a text
        warm = NoveltyIndex(threshold)
        warm._compile()
        warm.add("warm")
        warm.nearest("warm")
    before, begin = resident(), time.process_time()
    for text in texts:
        index.add(text)
    seconds = time.process_time() - begin
    sys.stdout.write(json.dumps({"seconds": seconds, "bytes_per_text": (resident() - before) / len(texts)}))


def resident() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(statm.read_text().split()[1]) * resource.getpagesize()


class Greedy:
    """One method's own greedy run over the stream."""

    def __init__(self, index: NoveltyIndex) -> None:
        self.index = index
        self.seconds = 0.0

    def take(self, text: str) -> Neighbour | None:
        start = time.process_time()
        neighbour = self.index.nearest(text)
        if neighbour is None:
            self.index.add(text)
        self.seconds += time.process_time() - start
        return neighbour


def alone(corpus: Path, sizes: list[int], threshold: float) -> None:
    """Each of our greedy runs with the caches to itself."""
    for name, kind in (("ours", NoveltyIndex), ("ours, without numba", InNumpy)):
        run, source, read = Greedy(kind(threshold)), stream(corpus), 0
        for size in sizes:
            while len(run.index) < size:
                run.take(next(source)[0])
                read += 1
            sys.stdout.write(f"{name}: {size:,} of {read:,} in {spoken(run.seconds)}\n")


class Row(NamedTuple):
    """One method at one pool size."""

    method: str
    pool: int
    each: float
    """CPU seconds per candidate at this pool."""
    whole: float
    """CPU seconds of the greedy run up to it."""
    held: float | None
    """Bytes a text beside the text."""
    exact: str
    extrapolated: bool = False

    def markdown(self) -> str:
        mark = "*" if self.extrapolated else ""
        held = "" if self.held is None else f"{self.held:,.0f}"
        return (
            f"| {self.pool:,} | {self.method} | {spoken(self.each)}{mark} | {spoken(self.whole)}{mark} | {held} "
            f"| {self.exact} |"
        )


HEAD = """\
| pool | method | CPU per candidate | CPU of the greedy run | bytes a text | exact |
|---:|---|---:|---:|---:|---|
"""


def spoken(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size * (2 if size > 1 else 1):
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":")[1].strip() for line in names if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.system()}"


def versions() -> str:
    found = []
    for name in ("selfinstruct", "numpy", "rapidfuzz", "numba", "rouge-score", "datasketch"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def draw(rows: list[Row], path: Path) -> None:
    """CPU per candidate against the pool, both in powers of ten; what is extrapolated is dashed."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "selfinstruct"  # the same picture, the same bytes
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        sizes, each = [row.pool for row in mine], [row.each * 1000 for row in mine]
        dashed = any(row.extrapolated for row in mine)
        axes.plot(sizes, each, marker="o", linestyle="--" if dashed else "-", label=method)
    axes.set(xscale="log", yscale="log", xlabel="texts in the pool", ylabel="ms of CPU per candidate")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="JSON lines with an instruction, .gz or not")
    parser.add_argument("--pools", default="1000,10000,52000,200000,1000000", help="pool sizes to measure at")
    parser.add_argument("--candidates", type=int, default=500, help="candidates judged at each pool size")
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--plot", type=Path, help="draw it, as SVG")
    parser.add_argument("--alone", action="store_true", help="only the greedy runs of ours, one after the other")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--as", dest="kind", default="ours", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load, options.kind, options.threshold)
        return 0
    if options.corpus is None:
        parser.error("--corpus names the texts")
    sizes = sorted(int(size) for size in options.pools.split(","))

    if options.alone:
        alone(options.corpus, sizes, options.threshold)
        return 0

    begin = time.perf_counter()
    source = stream(options.corpus)
    ours, bare = Greedy(NoveltyIndex(options.threshold)), Greedy(InNumpy(options.threshold))
    brute, hashed, pool = Brute(options.threshold), Hashed(options.threshold), list[str]()
    hashing = 0.0
    read = made = checked = wrong = 0
    per_pair: dict[str, float] = {}
    rows = list[Row]()
    resumed = dict[int, Loaded]()
    for size in sizes:
        while len(pool) < size:
            text, real = next(source)
            read, made = read + 1, made + (not real)
            neighbour = ours.take(text)
            checked += 1
            wrong += neighbour != bare.take(text)
            if len(pool) < CHECKED_WHOLE:
                checked += 1
                wrong += neighbour != brute.nearest(text)
            if neighbour is None:
                pool.append(text)
                brute.add(text)
                if size <= HASHED:
                    start = time.process_time()
                    hashed.add(text)
                    hashing += time.process_time() - start
        candidates = [next(source)[0] for _ in range(options.candidates)]
        judges: dict[str, Judge] = {"ours": ours.index, "ours, without numba": bare.index, "rapidfuzz cdist": brute}
        if size <= HASHED:
            judges["datasketch LSH 0.7"] = hashed
        rounds = [{name: timed(judge, candidates) for name, judge in judges.items()} for _ in range(ROUNDS)]
        each = {name: min(one[name][0] for one in rounds) for name in judges}
        said = {name: answers for name, (_, answers) in rounds[0].items()}
        checked += 2 * len(candidates)
        wrong += differing(said["ours"], said["rapidfuzz cdist"])
        wrong += differing(said["ours, without numba"], said["rapidfuzz cdist"])
        if not per_pair:
            part = pool[:1000]
            few = candidates[: max(1, SCORED_PAIRS // len(part))]
            twin = NoveltyIndex(options.threshold)
            for text in part:
                twin.add(text)
            expected = timed(twin, few)[1]
            for name, judge in (
                ("Alpaca's variant", Alpaca(part, options.threshold)),
                ("rouge-score", RougeScore(part, options.threshold)),
            ):
                seconds, scored = timed(judge, few)
                per_pair[name] = seconds / len(part)
                checked += len(few)
                wrong += differing(expected, scored)
        resumed[size] = loaded(pool, options.threshold, "ours")
        held = {"ours": resumed[size], "ours, without numba": loaded(pool, options.threshold, "numpy")}
        if size <= HASHED:
            held["datasketch LSH 0.7"] = loaded(pool, options.threshold, "datasketch")
            true = sum(answer is not None for answer in said["ours"])
            caught = sum(
                answer is not None and other is not None
                for answer, other in zip(said["ours"], said["datasketch LSH 0.7"], strict=True)
            )
            share = f"no: finds {caught} of {true}"
        pairs = size * (read / 2)  # the pool grows evenly, near enough
        for name in judges:
            whole = {
                "ours": ours.seconds,
                "ours, without numba": bare.seconds,
                "rapidfuzz cdist": each[name] / size * pairs,
            }
            rows.append(
                Row(
                    name,
                    size,
                    each[name],
                    whole.get(name, hashing + each[name] * read),
                    held[name].bytes_per_text if name in held else None,
                    share if name.startswith("datasketch") else "yes",
                )
            )
        rows += [Row(name, size, pair * size, pair * pairs, None, "yes", True) for name, pair in per_pair.items()]
        sys.stderr.write(f"pool of {size:,}: {time.perf_counter() - begin:.0f} s\n")

    order = {name: at for at, name in enumerate(dict.fromkeys(row.method for row in rows))}
    rows.sort(key=lambda row: (row.pool, order[row.method]))
    resuming = ", ".join(f"{size:,} in {one.seconds:.2g} s" for size, one in resumed.items())
    a_pair = ", ".join(f"{name} {pair * 1e6:.1f} µs" for name, pair in per_pair.items())
    notes = f"""
CPU of one process, threshold {options.threshold}. "Greedy run": every candidate judged, and what is novel added, up to
that pool; of rapidfuzz, its time at that pool for half of the pairs. `*` extrapolated from the time a pair at a pool of
1,000: {a_pair}. Bytes beside the text, as resident memory grows.

Accepted {len(pool):,} of {read:,} read, the last {made:,} of them synthetic. {checked:,} answers compared, with brute
force or without numba: {wrong} differ in verdict, neighbour or F. Put in unjudged, as resuming does: {resuming}.

{machine()}; Python {platform.python_version()}; {versions()}; took {time.perf_counter() - begin:.0f} s.
"""
    sys.stdout.write(HEAD + "".join(row.markdown() + "\n" for row in rows) + notes)
    if options.plot:
        draw(rows, options.plot)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
