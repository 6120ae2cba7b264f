"""Where the time of `generate` goes at a large pool: the scripted engine, so many seeds of the grammar, and a profile.

    python benchmarks/profile_generate.py --pool 52000 --num 3000

An instant model makes every part of ours as conspicuous as it can be. Reading and remembering the seeds is counted
apart: it comes once.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import sys
import tempfile
from pathlib import Path
from random import Random

from selfinstruct import Run, load_recipe
from selfinstruct.engines import Options
from selfinstruct.engines.grammar import instruction

PARTS = {
    "novelty, judging": ("filters/novelty.py", "objection"),
    "all rules, judging": ("filters/__init__.py", "objection"),
    "prompts, rendering": ("prompts.py", "request"),
    "operators, reading replies": ("operators/bootstrap.py", "read"),
    "engine, scripted": ("engines/scripted.py", "complete"),
    "records, as JSON lines": ("shards.py", "_json"),
    "journal": ("journal.py", "_commit"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=52_000)
    parser.add_argument("--num", type=int, default=3_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds, toss, seen = Path(folder) / "seeds.jsonl", Random(0).random, set[str]()
        with seeds.open("w", encoding="utf-8") as file:
            while len(seen) < options.pool:
                text = instruction(toss)
                if text.casefold() not in seen:
                    seen.add(text.casefold())
                    file.write(json.dumps({"instruction": text, "output": "It is done."}) + "\n")
        recipe = load_recipe("self-instruct", num=options.num, model="scripted")
        run = Run(Path(folder) / "run", recipe, seeds=seeds, options=Options(concurrency=64))
        profile = cProfile.Profile()
        profile.enable()
        asyncio.run(run._main())  # in this thread: a profile sees no other
        profile.disable()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # it is there, if not for mypy
    took = {
        (file.partition("selfinstruct/")[2], name): (calls, whole)
        for (file, _, name), (_, calls, _, whole, _) in stats.items()
    }
    total = pstats.Stats(profile).total_tt  # type: ignore[attr-defined]
    learnt = took["filters/__init__.py", "learn"][1]
    start = took["run.py", "check"][1] + learnt
    sys.stdout.write(f"{total:.1f} s, of which {start:.1f} s for the seeds; of the rest\n")
    for what, key in PARTS.items():
        calls, whole = took.get(key, (0, 0.0))
        if calls:
            sys.stdout.write(
                f"{whole / (total - start):>7.1%}  {what}: {calls:,} calls, {whole / calls * 1e6:.0f} µs each\n"
            )


if __name__ == "__main__":
    main()
