"""What `--decontaminate` costs: a made-up benchmark, the time to read it, what of it is held, and the time to judge.

python benchmarks/decontaminate.py --items 50000
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from random import Random

from selfinstruct.filters.contamination import Benchmarks
from selfinstruct.recipe import Decontaminate
from selfinstruct.records import Record

JUDGED = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=50_000, help="of 20 to 180 words each")
    options = parser.parse_args()
    chance = Random(1)
    words = [f"w{int(chance.paretovariate(0.5)) % 200_000}" for _ in range(400_000)]  # few often, many seldom

    def text(length: int) -> str:
        return " ".join(chance.choices(words, k=length))

    content = "".join(
        json.dumps({"question": text(chance.randint(20, 180))}) + "\n" for _ in range(options.items)
    ).encode()
    before, begin = peak(), time.perf_counter()
    benchmarks = Benchmarks(Decontaminate(), {"made-up.jsonl": content})
    took, grown = time.perf_counter() - begin, peak() - before
    sys.stdout.write(
        f"{options.items:,} items, {len(content) / 1e6:.0f} MB: read in {took:.1f} s, peak {grown:.0f} MB more\n"
    )
    for what, record in (
        ("a draft of 18 words", lambda: Record(instruction=text(18))),
        ("a record of 145 words", lambda: Record(instruction=text(25), input=text(20), output=text(100))),
    ):
        records = [record() for _ in range(JUDGED)]
        begin = time.perf_counter()
        for one in records:
            benchmarks.hits(one)
        sys.stdout.write(f"{what}: {(time.perf_counter() - begin) / JUDGED * 1000:.2f} ms\n")


def peak() -> float:
    """MB that this process has had at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
