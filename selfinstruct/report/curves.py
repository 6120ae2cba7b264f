"""Acceptance against requests, window by window; how fast novelty decays, and the requests that the target takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfinstruct.report.costs import Asked
from selfinstruct.report.rows import Row

WINDOWS = 200
"""At most so many windows, of equally many requests as far as whole steps go."""
NEAR = frozenset(["novelty", "duplicate"])
"""Rules that hold a draft against all earlier ones: what they reject grows with the pool."""
FEW_WINDOWS, FEW_KEPT, FAR, WIDE = 8, 100, 10.0, 0.1
"""A fit is doubted below so many windows or kept records, where it is carried on beyond so many times the requests that
were seen, or where k's standard error exceeds so much."""


class _Step(NamedTuple):
    drafts: int
    """Drafts that were let in or rejected."""
    near: int
    """Drafts that were rejected for what is there already."""
    kept: int
    rejected: Counter[str]


class Fit(NamedTuple):
    """a(n) = a0 * n**-k, by the likelihood of Poisson counts; the standard error of k with what they scatter more."""

    a0: float
    k: float
    error: float
    windows: int

    def until(self, start: float, more: float) -> float:
        """Where the integral from ``start`` reaches ``more``; infinite where it never does."""
        if self.a0 <= 0:
            return math.inf
        try:
            if abs(1 - self.k) < 1e-9:
                return start * math.exp(more / self.a0)
            power = start ** (1 - self.k) + more * (1 - self.k) / self.a0
            return float(power ** (1 / (1 - self.k))) if power > 0 else math.inf
        except OverflowError:
            return math.inf


class Curves:
    """Counts by step, in plan order: memory grows by steps."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}
        self._draft: tuple[int, int] | None = None

    def add(self, row: Row) -> None:
        old = self._steps.get(row.step) or _Step(0, 0, 0, Counter())
        new_draft = (row.step, row.item) != self._draft
        self._draft = (row.step, row.item)
        near = not row.kept and row.line["at"] == "draft" and row.line["by"] in NEAR
        if not row.kept:
            old.rejected[str(row.line["by"])] += 1
        self._steps[row.step] = _Step(old.drafts + new_draft, old.near + near, old.kept + row.kept, old.rejected)

    def figures(self, asked: Mapping[int, Asked], target: int | None) -> dict[str, Any]:
        """``target``: records to keep; None where the run ends with its rows. Requests of steps beyond the last one
        that was judged were made ahead, and stand in no window."""
        last = max(self._steps, default=-1)
        settled = {step: one for step, one in asked.items() if step <= last}
        windows = self._windows(settled)
        kept = sum(step.kept for step in self._steps.values())
        requests = sum(one.requests for one in settled.values())
        ends = np.array([window["requests"] for window in windows], np.float64)
        sizes = np.diff(ends, prepend=0.0)
        middles = ends - sizes / 2
        drafts = np.array([window["drafts"] for window in windows], np.float64)
        novel = drafts - np.array([window["near"] for window in windows], np.float64)
        acceptance = fit(middles, np.array([window["kept"] for window in windows]), sizes)
        return {
            "requests": requests,
            "ahead": sum(one.requests for step, one in asked.items() if step > last),
            "kept": kept,
            "target": target,
            "windows": windows,
            "acceptance": _told(acceptance),
            "novelty": _told(fit(middles, novel, drafts)),
            "projection": projected(acceptance, kept, requests, target),
        }

    def _windows(self, asked: Mapping[int, Asked]) -> list[dict[str, Any]]:
        width = sum(one.requests for one in asked.values()) / WINDOWS
        if not width:
            return []  # nothing was asked: there is nothing to go by
        windows: list[dict[str, Any]] = []
        whole = requests = kept = 0
        steps = drafts = near = here = tokens = size = 0
        rejected: Counter[str] = Counter()
        order = sorted(self._steps.keys() | asked.keys())
        for step in order:
            one, spent = self._steps.get(step), asked.get(step, Asked(0, 0))
            steps, size, tokens = steps + 1, size + spent.requests, tokens + spent.completion
            if one is not None:
                drafts, near, here = drafts + one.drafts, near + one.near, here + one.kept
                rejected += one.rejected
            whole += spent.requests
            if whole < width * (len(windows) + 1) - 1e-6 and step != order[-1]:
                continue
            requests, kept = requests + size, kept + here
            windows.append(
                {
                    "requests": requests,
                    "steps": steps,
                    "drafts": drafts,
                    "near": near,
                    "kept": here,
                    "cumulative": kept,
                    "rejected": dict(sorted(rejected.items())),
                    "per_request": here / size if size else None,
                    "completion": tokens,
                }
            )
            steps = drafts = near = here = tokens = size = 0
            rejected = Counter()
        return windows


def fit(n: NDArray[np.float64], counts: ArrayLike, sizes: NDArray[np.float64]) -> Fit | None:
    """Counts in windows of such sizes around n; None where there is nothing to fit."""
    counts = np.asarray(counts, np.float64)
    there = (sizes > 0) & (n > 0)
    n, counts, sizes = n[there], counts[there], sizes[there]
    if n.size < 3 or counts.sum() == 0:
        return None
    middle = float(np.average(np.log(n), weights=counts))  # about which slope and height hardly depend on each other
    design = np.stack([np.ones(n.size), middle - np.log(n)], axis=1)
    found, offset = np.array([math.log(counts.sum() / sizes.sum()), 0.0]), np.log(sizes)

    def likelihood(at: NDArray[np.float64]) -> float:
        log = design @ at + offset
        return float((counts * log - np.exp(np.minimum(log, 700.0))).sum())

    for _ in range(50):  # Newton's method: the likelihood is concave
        expected = np.exp(design @ found + offset)
        information = design.T @ (design * expected[:, None])
        step = np.linalg.pinv(information) @ (design.T @ (counts - expected))
        while likelihood(found + step) < likelihood(found) and np.abs(step).max() > 1e-12:
            step = step / 2
        found = found + step
        if np.abs(step).max() < 1e-10:
            break
    expected = np.exp(design @ found + offset)
    scatter = float(((counts - expected) ** 2 / np.maximum(expected, 1e-300)).sum() / (n.size - 2))
    variance = float(np.linalg.pinv(design.T @ (design * expected[:, None]))[1, 1]) * max(scatter, 1.0)
    height, k = found.tolist()
    return Fit(math.exp(min(height + k * middle, 700.0)), k, math.sqrt(max(variance, 0.0)), int(n.size))


def _told(found: Fit | None) -> dict[str, Any] | None:
    return None if found is None else found._asdict()


def projected(found: Fit | None, kept: int, requests: int, target: int | None) -> dict[str, Any]:
    """The requests at which the target is reached, and why not to trust that."""
    if target is None:
        return {"reached": None, "requests": None, "doubts": ["the run ends with its rows, not at a number of records"]}
    if kept >= target:
        return {"reached": True, "requests": requests, "doubts": []}
    if found is None:
        return {"reached": False, "requests": None, "doubts": ["too little was kept to fit anything"]}
    end = found.until(max(requests, 1), target - kept)
    doubts: list[str] = []
    if found.windows < FEW_WINDOWS:
        doubts.append(f"only {found.windows} windows, fewer than {FEW_WINDOWS}")
    if kept < FEW_KEPT:
        doubts.append(f"only {kept} records kept, fewer than {FEW_KEPT}")
    if found.error > WIDE:
        doubts.append(f"k is {found.k:.2f} give or take {found.error:.2f}")
    if end == math.inf:
        doubts.append("at this decay the target is never reached")
    elif end > FAR * max(requests, 1):
        doubts.append(f"{end / max(requests, 1):.0f} times as many requests as were seen")
    return {"reached": False, "requests": round(end) if end < math.inf else None, "doubts": doubts}
