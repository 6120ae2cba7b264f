"""How busy the loop keeps an engine that takes thousands of requests at once: the scripted engine with drawn latencies.

    python benchmarks/busy.py --concurrency 4096 --lookahead 16384 --median 8

What is measured begins when the lookahead is full (its rule: half the steps so far, at most the cap): the mean number
of requests under way, as a share of what the engine takes. Until then replies come at once, for the way there is long
with latencies: half as many steps again take as long as the slowest of their requests. Latencies are log-normal.
``--items 1`` is the hardest case: drafts that hold one task each leave the fewest answers to fill the gaps with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from selfinstruct import Run, load_recipe
from selfinstruct.engines import Options, Reply, Request, open_engine

ROOT = Path(__file__).parent.parent


class Watched:
    """The engine, and the sum over time of the requests that it had under way since ``reset``."""

    def __init__(self, script: Path, concurrency: int) -> None:
        self._slow = open_engine(f"scripted/{script}", Options(concurrency=concurrency))
        self._quick = open_engine("scripted", Options(concurrency=concurrency))
        self.name, self.concurrency, self.styles = self._slow.name, concurrency, self._slow.styles
        self.slow = False
        self._now, self._area, self._at = 0, 0.0, time.monotonic()
        self._since, self._before = self._at, (self._at, 0.0)
        self.answered = 0

    def _note(self, more: int) -> None:
        now = time.monotonic()
        self._area += self._now * (now - self._at)
        self._now, self._at = self._now + more, now

    def reset(self) -> None:
        self._note(0)
        self._area, self._since, self.answered = 0.0, self._at, 0
        self._before = (self._at, 0.0)

    def lately(self) -> float:
        """Mean requests under way since the last call."""
        self._note(0)
        (at, area), self._before = self._before, (self._at, self._area)
        return (self._area - area) / max(self._at - at, 1e-9)

    def busy(self) -> float:
        """Mean requests under way since the last reset."""
        self._note(0)
        return self._area / max(self._at - self._since, 1e-9)

    async def complete(self, request: Request) -> Reply:
        self._note(1)
        try:
            return await (self._slow if self.slow else self._quick).complete(request)
        finally:
            self._note(-1)
            self.answered += 1

    def facts(self) -> dict[str, str]:
        return {}

    async def close(self) -> None:
        await self._slow.close()
        await self._quick.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, default=4096)
    parser.add_argument("--lookahead", type=int, default=16_384)
    parser.add_argument("--median", type=float, default=8.0, help="seconds of the log-normal latency")
    parser.add_argument("--sigma", type=float, default=0.7)
    parser.add_argument("--items", type=int, help="tasks that a draft is asked for; the recipe's own if left out")
    parser.add_argument("--settle", type=float, default=60.0, help="seconds from the first latency to the measurement")
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        script = Path(name) / "slow.toml"
        script.write_text(f"[latency]\nmedian_ms = {options.median * 1000}\nsigma = {options.sigma}\n")
        engine = Watched(script, options.concurrency)
        recipe = load_recipe(
            "self-instruct",
            f"schedule.lookahead={options.lookahead}",
            *([f"draft.items={options.items}"] if options.items else []),
            num=1_000_000,
            model="scripted",
        )
        run = Run(Path(name) / "run", recipe, seeds=ROOT / "seeds" / "175.jsonl", engine=engine)
        began, full, told, cpu = time.monotonic(), 0.0, 0.0, 0.0
        for progress in run:
            steps, now = progress.figures.get("steps", 0), time.monotonic()
            if now - told > 20:
                told = now
                say(f"{now - began:6.0f} s  step {steps:>7,}  {engine.lately():7.0f} under way on average")
            if not engine.slow and steps >= 2 * options.lookahead:
                engine.slow, full = True, now + options.settle
            if engine.slow and not cpu and now > full:
                cpu = time.process_time()
                engine.reset()
            if cpu and now - full > options.seconds:
                # Before the run is left, which stops what is under way.
                share, seconds, cpu = engine.busy() / options.concurrency, now - full, time.process_time() - cpu
                answered = engine.answered
                break
        say(
            f"{share:.1%} busy with {options.concurrency} in flight, lookahead {options.lookahead}, drafts of "
            f"{recipe.draft.items} tasks, latencies of "
            f"{options.median:g} s (log-normal, sigma {options.sigma:g}); {answered / seconds:.0f} replies/s, "
            f"{cpu / seconds:.0%} of a core"
        )


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
