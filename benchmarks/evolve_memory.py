"""How much memory an evolution takes: rows of the grammar, evolved by the scripted engine, resident memory by step.

    python benchmarks/evolve_memory.py --rows 52000 --rounds 4

What grows is to be the index alone. The run folder is a temporary one.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from selfinstruct import Run, load_recipe
from selfinstruct.engines import Options
from selfinstruct.engines.grammar import instruction

SCRIPT = Path(__file__).parent.parent / "tests" / "scripts" / "evolve-defects.toml"


def rows(path: Path, count: int) -> None:
    """As many different instructions, each with an output."""
    seen: set[str] = set()
    toss = Random(0).random
    with path.open("w", encoding="utf-8") as file:
        while len(seen) < count:
            text = instruction(toss)
            if text not in seen:
                seen.add(text)
                file.write(json.dumps({"instruction": text, "output": "It is done."}) + "\n")


def resident() -> float:
    """MB of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def peak() -> float:
    """MB that this process has had at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--lines", type=int, default=12, help="how many lines the table has")
    options = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    sys.modules["numba"] = None  # type: ignore[assignment]  # its compiler takes 130 MB once, and is an extra
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        rows(source, options.rows)
        recipe = load_recipe("evolve/wizardlm", model=f"scripted/{SCRIPT}", evolve={"rounds": options.rounds})
        run = Run(Path(folder) / "run", recipe, source=source, options=Options(concurrency=options.concurrency))
        begin, steps, last = time.perf_counter(), options.rows * (options.rounds + 1), None
        following = 0
        say("| step | records kept | resident MB | peak MB |\n|---:|---:|---:|---:|")
        for last in run:
            step = last.figures.get("steps", 0)
            if step >= following and last.state == "running":
                say(f"| {step:,} | {last.kept:,} | {resident():.0f} | {peak():.0f} |")
                following = step + steps // options.lines
        assert last is not None
        say(f"| end | {last.kept:,} | {resident():.0f} | {peak():.0f} |")
        rejected = sum(last.figures["rejected"].values())
        size = sum(path.stat().st_size for path in (Path(folder) / "run").rglob("*") if path.is_file())
        say(
            f"\n{options.rows:,} rows x {options.rounds} rounds: {steps:,} steps, {last.arrived:,} replies, "
            f"{last.kept:,} kept, {rejected:,} rejected; {options.concurrency} in flight; "
            f"run folder {size / 1e9:.1f} GB; {time.perf_counter() - begin:.0f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
