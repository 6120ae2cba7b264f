"""An evaluation in a folder: every model asked every item once, replies kept in a journal, scores beside the base's.

The same call resumes, and what was answered is not asked again. Answers are greedy, so that a score is the model's and
not a draw's.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfinstruct.asking import Live
from selfinstruct.engines import Options, Reply, Request, Style, engine_factory, open_engine
from selfinstruct.engines.hf import check_hf
from selfinstruct.engines.vllm import check_vllm
from selfinstruct.errors import UsageError
from selfinstruct.evaluate.closed import Rates, Traits, rates, traits
from selfinstruct.evaluate.figures import (
    Figure,
    Floats,
    Interval,
    Score,
    clustered,
    differences,
    macro,
    share,
    share_difference,
)
from selfinstruct.evaluate.harness import Benchmark, Measured, Own, check_models, measure
from selfinstruct.evaluate.suites import Scores, Suite
from selfinstruct.evaluate.winrate import (
    LABEL,
    LengthControl,
    WinRate,
    both_orders,
    for_model,
    length_controlled,
    read_verdict,
    win_rate,
)
from selfinstruct.files import write_whole, writing
from selfinstruct.journal import Journal, Place, request_key
from selfinstruct.lock import claimed
from selfinstruct.prompts import Prompts
from selfinstruct.records import digest
from selfinstruct.schedule import cancelled

GREEDY = 0.0
OTHERS = ("run.json", "journal.sqlite", "sft.json", "report.json", "config.json", "data")
"""What other folders of ours hold, and no evaluation's."""
WEIGHTS = ("weights", "adapter", "lora weights", "sha256", "script_sha256", "commit")
"""What of an engine's facts tells that a model of that name is still the same."""
LOADS_LATER = ("local", "openai", "scripted")
"""Engines that load nothing before they are asked: such a one can be opened to see whether it is there."""


class Judged(NamedTuple):
    """What a judge says of a model's answers beside its base's, both read in either order."""

    win_rate: WinRate
    consistency: Interval | None
    length_controlled: LengthControl | None


class Row(NamedTuple):
    """A model's figures in a suite."""

    model: str
    figures: dict[str, Figure]
    """By metric."""
    beside_base: dict[str, Figure]
    """How much higher than the base on the same items, by metric; empty for the base itself."""
    rates: Rates | None
    """Of answers; None where lm-eval asked, which keeps its own."""
    judged: Judged | None
    """Against the base, where a judge was asked."""
    parts: dict[str, Any]
    """The suite's own table of parts."""
    own: dict[str, Own]
    """By metric, what is lm-eval's own and no mean over items."""


class Table(NamedTuple):
    suite: str
    items: int
    rows: list[Row]
    """The base first."""
    amounts: tuple[str, ...]
    """Metrics that are no share between 0 and 1."""
    about: dict[str, Any]
    """How lm-eval asked, where it did."""


def check(model: str, options: Options) -> None:
    """Raises UsageError for a model that cannot be had, as far as that shows without loading any weights."""
    kind, _, rest = model.partition("/")
    factory = engine_factory(model)
    if kind == "hf":
        check_hf(rest)
    elif kind == "vllm":
        check_vllm(rest)
    elif kind in LOADS_LATER:

        async def opened() -> None:
            await factory(rest, options).close()

        asyncio.run(opened())


class Evaluation:
    """``models``: the base first. Replies and ``scores.json`` go into ``folder``."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[str],
        suites: Sequence[Suite],
        *,
        options: Options | None = None,
        benchmarks: Sequence[Benchmark] = (),
        judge: str = "",
        max_tokens: int | None = None,
    ) -> None:
        self.folder, self.models, self.suites = folder, list(dict.fromkeys(models)), list(suites)
        self.benchmarks = list(benchmarks)
        self._judge = judge
        self._options = options or Options()
        self._max_tokens = max_tokens
        self._prompts = Prompts()
        slugs = {_slug(model) for model in self.models}
        if len(slugs) < len(self.models):
            raise UsageError(f"{', '.join(self.models)}: two of these are too alike", hint="give them other names")

    def run(self, report: Callable[[str, int, int], None]) -> list[Table]:
        """Ask and score. ``report`` hears which model has answered how many of how many items.

        Raises UsageError for a model that cannot be had, EngineError for one that fails.
        """
        for model in [*self.models, *([self._judge] if self._judge else [])]:  # before the first one has worked
            check(model, self._options)
        if self.benchmarks:
            check_models(self.models)
        there = next((name for name in OTHERS if (self.folder / name).exists()), None)
        if there:
            raise UsageError(f"{self.folder} holds {there}, and is no evaluation", hint="choose another --out")
        with claimed(self.folder):
            replies, found = {}, {}
            for model in self.models:
                replies[model] = self._answers(model, report) if self.suites else {}
                kept = self.folder / _slug(model) / "lm-eval"
                found[model] = measure(model, self.benchmarks, kept, self._options, report) if self.benchmarks else {}
            judged = self._judgements(replies, report) if self._judge and self.suites else {}
            tables = [
                self._table(suite, {model: replies[model][suite.name] for model in self.models}, judged)
                for suite in self.suites
            ]
            tables += [self._measured(one) for benchmark in self.benchmarks for one in benchmark.measured(found)]
            with writing(self.folder):
                write_whole(self.folder / "scores.json", json.dumps(as_json(tables), indent=2).encode() + b"\n")
        return tables

    def _answers(self, model: str, report: Callable[[str, int, int], None]) -> dict[str, list[Reply]]:
        """The model's answers, by suite."""

        def requests(style: Style) -> dict[Hashable, Request]:
            prompt = self._prompts[f"answer/{style}"]
            return {
                (suite.name, at): prompt.request(
                    {"instruction": item.instruction, "input": item.input},
                    temperature=GREEDY,
                    max_tokens=self._max_tokens or suite.length,
                )
                for suite in self.suites
                for at, item in enumerate(suite.items)
            }

        replies = asyncio.run(self._asked(_slug(model), model, requests, report))
        return {suite.name: [replies[suite.name, at] for at in range(len(suite.items))] for suite in self.suites}

    def _judgements(
        self, replies: Mapping[str, Mapping[str, Sequence[Reply]]], report: Callable[[str, int, int], None]
    ) -> dict[tuple[str, str], Judged]:
        """By suite and model, what the judge says of the answers beside the base's, each pair read in both orders."""
        base, *others = self.models
        free = {suite.name: suite for suite in self.suites if suite.free}
        pairs: dict[tuple[str, str, int], tuple[str, str]] = {}
        for name in free:
            for model in others:
                for at, (one, theirs) in enumerate(zip(replies[model][name], replies[base][name], strict=True)):
                    if not one.error and not theirs.error:
                        pairs[name, model, at] = one.text, theirs.text

        def requests(style: Style) -> dict[Hashable, Request]:
            prompt = self._prompts[f"judge/better/{style}"]
            wanted: dict[Hashable, Request] = {}
            for (name, model, at), (ours, theirs) in pairs.items():
                item = free[name].items[at]
                for order, (first, second) in enumerate(((ours, theirs), (theirs, ours))):
                    values = {"instruction": item.instruction, "input": item.input, "first": first, "second": second}
                    wanted[name, model, at, order] = prompt.request(values)
            return wanted

        verdicts = asyncio.run(self._asked(f"judge-{_slug(self._judge)}", self._judge, requests, report))

        def preference(name: str, model: str, at: int, order: int) -> Score:
            reply = verdicts.get((name, model, at, order))
            return None if reply is None or reply.error else for_model(read_verdict(reply.text), order == 0)

        found = {}
        for name, suite in free.items():
            for model in others:
                numbers = range(len(suite.items))
                both = both_orders(*([preference(name, model, at, order) for at in numbers] for order in (0, 1)))
                lengths = [[len(text) for text in pairs.get((name, model, at), ("", ""))] for at in numbers]
                control = length_controlled(both.preferences, *zip(*lengths, strict=True))
                found[name, model] = Judged(win_rate(both.preferences), both.consistency, control)
        return found

    async def _asked(
        self,
        folder: str,
        model: str,
        requests: Callable[[Style], dict[Hashable, Request]],
        report: Callable[[str, int, int], None],
    ) -> dict[Hashable, Reply]:
        """The model's replies, from the journal of that folder or from the model. The same request of the same weights
        is asked once, whatever else is evaluated with it."""
        with writing(self.folder / folder):
            (self.folder / folder).mkdir(exist_ok=True)
        done = 0
        engine = open_engine(model, self._options)
        style: Style = "chat" if "chat" in engine.styles else "completion"
        try:
            journal = Journal(self.folder / folder / "journal.sqlite")
            try:
                live, facts = Live(journal, engine), engine.facts()
                same = [facts.get(fact, "") for fact in WEIGHTS]
                wanted = requests(style)
                keys = {name: digest(request_key(model, request), *same) for name, request in wanted.items()}
                once = {keys[name]: request for name, request in wanted.items()}

                async def ask(key: str) -> tuple[str, Reply]:
                    nonlocal done
                    reply, _ = await live.reply(Place(key, 0), once[key], (), 0)
                    done += 1
                    report(model, done, len(once))
                    return key, reply

                found = dict(await _all([ask(key) for key in once]))
                return {name: found[key] for name, key in keys.items()}
            finally:
                journal.close()
        finally:
            await engine.close()

    def _table(
        self, suite: Suite, replies: Mapping[str, Sequence[Reply]], judged: Mapping[tuple[str, str], Judged]
    ) -> Table:
        scores = {
            model: [
                _none(suite, at) if reply.error else suite.scores(at, reply.text) for at, reply in enumerate(answers)
            ]
            for model, answers in replies.items()
        }
        base, rows, tasks = self.models[0], [], [item.task for item in suite.items]
        for model in self.models:
            own = {metric: [one[metric] for one in scores[model]] for metric in suite.metrics}
            figures = {metric: _figure(tasks, parts) for metric, parts in own.items()}
            beside = {
                metric: _difference(tasks, parts, [one[metric] for one in scores[base]])
                for metric, parts in (own.items() if model != base else ())
            }
            traits_of = rates(self._traits(suite, replies[model]))
            by_part = suite.parts([None if reply.error else reply.text for reply in replies[model]])
            rows.append(Row(model, figures, beside, traits_of, judged.get((suite.name, model)), by_part, {}))
        return Table(suite.name, len(suite.items), rows, (), {})

    def _measured(self, one: Measured) -> Table:
        base, rows = self.models[0], []
        parts = {
            model: {metric: [(score,) for score in scores] for metric, scores in metrics.items()}
            for model, metrics in one.scores.items()
        }
        for model in self.models:
            figures = {metric: _figure(one.tasks[metric], own) for metric, own in parts[model].items()}
            beside = {
                metric: _difference(one.tasks[metric], own, parts[base][metric])
                for metric, own in (parts[model].items() if model != base else ())
            }
            rows.append(Row(model, figures, beside, None, None, {}, one.own[model]))
        amounts = tuple(
            metric
            for metric in one.tasks
            if any(score is not None and not 0 <= score <= 1 for of in one.scores.values() for score in of[metric])
        )
        return Table(one.name, one.items, rows, amounts, one.about)

    def _traits(self, suite: Suite, replies: Sequence[Reply]) -> list[Traits | None]:
        return [
            None if reply.error else traits(item.instruction, item.input, reply.text, cut=reply.finish != "stop")
            for item, reply in zip(suite.items, replies, strict=True)
        ]


def _figure(tasks: Sequence[str], parts: Sequence[Sequence[Score]]) -> Figure:
    """The mean of a metric: of tasks that weigh the same, or of all parts of all items."""
    by_task: dict[str, list[Score]] = {}
    for task, one in zip(tasks, parts, strict=True):
        by_task.setdefault(task, []).extend(one)
    if len(by_task) > 1:
        return macro(by_task)
    return share([one for (one,) in parts]) if _single(parts) else clustered(parts)


def _difference(tasks: Sequence[str], parts: Sequence[Sequence[Score]], base: Sequence[Sequence[Score]]) -> Figure:
    """How much higher than the base's, on the same items."""
    if len(set(tasks)) < 2 and _single(parts):
        return share_difference([one for (one,) in parts], [one for (one,) in base])
    return _figure(tasks, [_parts(differences(*pair)) for pair in zip(parts, base, strict=True)])


def _single(parts: Sequence[Sequence[Score]]) -> bool:
    return all(len(one) == 1 for one in parts)


def _parts(scores: Floats) -> list[Score]:
    return [None if math.isnan(one) else one for one in scores.tolist()]


def _none(suite: Suite, at: int) -> Scores:
    """Of an answer that never came: missing in every part, and not wrong."""
    return {metric: (None,) * len(parts) for metric, parts in suite.scores(at, "").items()}


def _slug(model: str) -> str:
    """The model's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"


async def _all(asking: Sequence[Coroutine[Any, Any, tuple[str, Reply]]]) -> list[tuple[str, Reply]]:
    """What all of them return; the first error ends the others."""
    tasks = [asyncio.ensure_future(one) for one in asking]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await cancelled(tasks)


def _judged(one: Judged) -> dict[str, Any]:
    control = one.length_controlled
    return {
        **one.win_rate._asdict(),
        "consistency": one.consistency._asdict() if one.consistency else None,
        LABEL: {**control._asdict(), "doubtful": control.doubtful} if control else None,
    }


def as_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """All figures, for programs."""

    def figure(one: Figure) -> dict[str, Any]:
        ends = {"low": None, "high": None} if one.method == "none" else {}
        return {
            **({**one.interval._asdict(), **ends} if one.interval else {}),
            "items": one.items,
            "missing": one.missing,
            "empty": list(one.empty),
            "method": one.method,
        }

    def shares(of: Rates) -> dict[str, Any]:
        return {
            "answers": of.answers,
            "missing": of.missing,
            **{
                name: found._asdict() if (found := getattr(of, name)) else None
                for name in ("empty", "cut", "refusal", "repetition")
            },
            "words": figure(of.words),
        }

    return [
        {
            "suite": table.suite,
            "items": table.items,
            "amounts": list(table.amounts),
            "about": table.about,
            "models": [
                {
                    "model": row.model,
                    "figures": {metric: figure(one) for metric, one in row.figures.items()},
                    "beside_base": {metric: figure(one) for metric, one in row.beside_base.items()},
                    "rates": shares(row.rates) if row.rates else None,
                    "judged": _judged(row.judged) if row.judged else None,
                    "parts": row.parts,
                    "own": {metric: own._asdict() for metric, own in row.own.items()},
                }
                for row in table.rows
            ],
        }
        for table in tables
    ]
