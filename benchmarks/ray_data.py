"""Would an offline stage gain from Ray Data? MinHash signatures as such a job, in one process, and the whole of dedup.

    pip install 'ray[data]'
    python benchmarks/ray_data.py --rows 100000

Signing is the part of `selfinstruct dedup` in which rows know nothing of each other, so it is all that a job over
batches could take over; which rows go is decided in one order over all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from selfinstruct.dedup import Dedup
from selfinstruct.engines.grammar import instruction
from selfinstruct.minhash import shingles, signatures


def sign(batch: dict[str, Any]) -> dict[str, Any]:
    return {"signature": signatures([shingles(str(text)) for text in batch["instruction"]])}


def on_ray(path: Path) -> tuple[float, float]:
    """Seconds for the job with Ray's start, and without."""
    import ray

    began = time.monotonic()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    started = time.monotonic()
    rows = ray.data.read_json(str(path)).map_batches(sign, batch_size=4096).materialize().count()
    ended = time.monotonic()
    assert rows
    ray.shutdown()
    return ended - began, ended - started


def in_one_process(path: Path) -> float:
    began = time.monotonic()
    texts: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["instruction"])
            if len(texts) == 4096:
                sign({"instruction": texts})
                texts.clear()
    sign({"instruction": texts})
    return time.monotonic() - began


def whole(path: Path, out: Path) -> float:
    began = time.monotonic()
    for _ in Dedup([path], out):
        pass
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        path, toss = Path(name) / "rows.jsonl", Random(0).random
        with path.open("w", encoding="utf-8") as file:
            for number in range(options.rows):
                text = f"{instruction(toss)} {instruction(toss)} {instruction(toss)}"
                file.write(json.dumps({"instruction": text, "input": "", "output": f"It is done, {number}."}) + "\n")
        alone = in_one_process(path)
        everything = whole(path, Path(name) / "distinct")
        with_start, job = on_ray(path)
    sys.stdout.write(f"{options.rows:,} rows, {os.cpu_count()} cores\n")
    sys.stdout.write(f"signing, in one process      {alone:6.1f} s\n")
    sys.stdout.write(f"signing, as a Ray Data job   {job:6.1f} s, {with_start:.1f} s with Ray's start\n")
    sys.stdout.write(f"the whole of dedup           {everything:6.1f} s\n")


if __name__ == "__main__":
    main()
