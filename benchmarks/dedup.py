"""Time and memory of `selfinstruct dedup`, what it finds of planted near-duplicates, and datasketch's share.

    .venv/bin/python benchmarks/dedup.py --corpus ../shared/corpus/instructions.jsonl.gz --rows 52000

Any JSONL with an ``instruction`` a line serves as corpus. A row's output is four of its texts in a row; one row in ten
is an earlier one with up to three words replaced, or none.
"""

# ruff: noqa: T201 - a script that prints

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selfinstruct import minhash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--threshold", type=float, default=0.8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, out = Path(name) / "data.jsonl", Path(name) / "out"
        planted = write(data, given.corpus, given.rows, given.threshold)
        command = [sys.executable, "-m", "selfinstruct", "dedup", str(data), "--out", str(out), "--json", "--quiet"]
        begun = time.perf_counter()
        done = subprocess.run(
            [*command, "--threshold", str(given.threshold)], stdout=subprocess.PIPE, text=True, check=True
        )
        wall, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads(done.stdout)
        with (out / "dropped.jsonl").open(encoding="utf-8") as lines:
            dropped = {json.loads(line)["row"]["id"] for line in lines}
        with data.open(encoding="utf-8") as lines:
            sets = [minhash.shingles(said(json.loads(line))) for line, _ in zip(lines, range(5_000), strict=False)]
        size = data.stat().st_size
    minhash.signatures(sets[:1])  # imports datasketch
    begun = time.process_time()
    minhash.signatures(sets)
    share = (time.process_time() - begun) / len(sets)
    cpu = (used.ru_utime + used.ru_stime) / given.rows
    missed = sum(one not in dropped and other not in dropped for one, other in planted)
    print(f"{given.rows:,} rows, {size / 1e6:.0f} MB: {report['kept']:,} kept, dropped {report['dropped']}")
    print(f"{wall:.1f} s; {1e6 * cpu:.0f} µs of CPU a row; peak memory {used.ru_maxrss / 1024:.0f} MB")
    print(f"datasketch: {1e6 * share:.0f} µs a row, {share / cpu:.0%}; {sum(map(len, sets)) / len(sets):.0f} shingles")
    print(f"planted pairs at or above the threshold: {len(planted):,}, of which both stayed: {missed}")


def write(path: Path, corpus: Path, rows: int, threshold: float) -> list[tuple[int, int]]:
    """A dataset of so many rows; returns the pairs that were planted with at least that similarity."""
    with gzip.open(corpus, "rt", encoding="utf-8") if corpus.suffix == ".gz" else corpus.open() as lines:
        texts = [json.loads(line)["instruction"] for line in lines]
    rng = random.Random(5)
    rng.shuffle(texts)
    planted, recent = [], []
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            if recent and rng.random() < 0.1:
                twin = rng.choice(recent)
                words = twin["output"].split()
                for _ in range(rng.randint(0, 3)):
                    words[rng.randrange(len(words))] = rng.choice(["alpha", "beta", "gamma"])
                row = {**twin, "output": " ".join(words), "id": i}
                if minhash.jaccard(*(minhash.shingles(said(one)) for one in (twin, row))) >= threshold:
                    planted.append((twin["id"], i))
            else:
                row = {"instruction": texts[i % len(texts)], "input": "", "id": i}
                row["output"] = f"{' '.join(rng.sample(texts, 4))} {i}"
            recent = [*recent[-4999:], row]
            file.write(json.dumps(row) + "\n")
    return planted


def said(row: dict[str, str]) -> str:
    return f"{row['instruction']}\n\n{row['output']}"


if __name__ == "__main__":
    main()
