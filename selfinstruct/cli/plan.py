"""`--dry-run` of `generate`, `answer` and `evolve`: the plan, with requests and tokens estimated."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from selfinstruct.cli.terminal import data, say

if TYPE_CHECKING:
    from selfinstruct.engines import Style
    from selfinstruct.filters.contamination import Benchmarks
    from selfinstruct.operators import Drafter, Setting
    from selfinstruct.prompts import Prompt
    from selfinstruct.recipe import Recipe
    from selfinstruct.records import Record

GIVEN = ("given", "constrained")
"""Operators whose tasks ask no model."""
PASS = 0.5
"""The share of drafts and of answers that an estimate takes to pass."""
EVOLVED = 0.9
"""The share of evolutions that an estimate takes to pass: near what the paper's sizes come to, so a bound for most."""
ADDED = 15 * 6
"""Bytes that a round adds to a text: the middle of the 10 to 20 words that the prompts ask for."""
BYTES_PER_TOKEN = 4


class Stage(NamedTuple):
    name: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    """At the most: what max_tokens allows."""


def print_plan(
    recipe: Recipe,
    source: Path,
    prompts: Path | None,
    folder: Path,
    *,
    as_json: bool,
    benchmarks: Benchmarks | None = None,
    rows: int = 0,
) -> None:
    """Print what a run would ask of a seed file, or of a dataset of so many rows. No engine is opened, nothing is
    written."""
    from selfinstruct import state

    there = state.read(folder).get("replies", 0)
    style, stages = estimate(recipe, source, prompts, benchmarks)
    given, evolving = recipe.draft.operator in GIVEN, recipe.draft.operator == "evolve"
    each = recipe.constraints.variants if recipe.draft.operator == "constrained" else 1
    overlapping = rows * each - stages[0].requests if given and stages else 0
    prompt, completion = sum(one.prompt_tokens for one in stages), sum(one.completion_tokens for one in stages)
    if as_json:
        content = {
            "recipe": recipe.model_dump(mode="json"),
            "style": style,
            "stages": [stage._asdict() for stage in stages],
            "prompt_tokens": prompt,
            "completion_tokens_at_most": completion,
            "replies_there": there,
        }
        if benchmarks:
            content["benchmarks"] = dict(zip(benchmarks.names, benchmarks.items, strict=True))
            content["rows_that_overlap"] = overlapping
        data(content)
        return
    wanted = f"{source}" if given else f"{recipe.num} records"
    if evolving:
        wanted = f"{source}, rounds: {recipe.evolve.rounds}"
    if recipe.style == "auto" and recipe.model.startswith("vllm/"):
        style += " (or as its template has it: settled when it is loaded)"
    say(f"recipe {recipe.name} ({recipe.behaviour}), model {recipe.model}, style {style}, {wanted}")
    width = max(14, *(len(stage.name) + 2 for stage in stages))
    say(f"{'stage':<{width}}{'requests':>10}{'prompt tokens':>16}{'completion tokens at most':>28}")
    for stage in stages:
        say(f"{stage.name:<{width}}{stage.requests:>10,}{stage.prompt_tokens:>16,}{stage.completion_tokens:>28,}")
    say(f"{'sum':<{width}}{sum(one.requests for one in stages):>10,}{prompt:>16,}{completion:>28,}")
    if not stages:
        say("this recipe asks no model")
    elif given:
        say(f"estimated from every row, {BYTES_PER_TOKEN} bytes a token; nothing was asked")
    elif evolving:
        say(
            f"estimated from every row, {BYTES_PER_TOKEN} bytes a token, {EVOLVED:.0%} of evolutions passing, each of "
            "them 15 words longer; nothing was asked"
        )
    else:
        say(
            f"estimated from one rendered prompt a stage, {BYTES_PER_TOKEN} bytes a token, {PASS:.0%} of drafts and of "
            "answers passing, one record a task; nothing was asked"
        )
    if benchmarks:
        files, items = len(benchmarks.names), sum(benchmarks.items)
        say(f"{files:,} benchmark{'s' * (files != 1)}, {items:,} item{'s' * (items != 1)}")
    if overlapping:
        what = "row overlaps one and goes" if overlapping == 1 else "rows overlap one and go"
        say(f"{overlapping:,} {what} unanswered: not in the sum")
    if there:
        say(f"{folder} has {there:,} replies already: what they answer is not asked for again")


def estimate(
    recipe: Recipe, source: Path, prompts: Path | None, benchmarks: Benchmarks | None = None
) -> tuple[str, list[Stage]]:
    """The style that would be asked in, and requests and tokens by stage. Rows to answer that overlap a benchmark are
    left out where the recipe has the rule against it."""
    from selfinstruct.formats import read_dataset, read_seeds
    from selfinstruct.operators import Pool, Setting, open_operator, phrasings_file
    from selfinstruct.prompts import Prompts

    style = usual_style(recipe.model) if recipe.style == "auto" else recipe.style
    answer_style = recipe.answer_style
    if answer_style == "auto":
        answer_style = usual_style(recipe.answer_model) if recipe.answer_model else style
    if recipe.small == "auto":
        answers = recipe.answer_model or recipe.model
        recipe = recipe.model_copy(update={"small": "yes" if answers == "local" else "no"})
    judge_style = recipe.judge_style
    if judge_style == "auto":
        judge_style = usual_style(recipe.judge_model) if recipe.judge_model else style
    phrasings = phrasings_file(recipe, prompts)
    setting = Setting(
        recipe,
        Prompts(prompts),
        style,
        answer_style,
        source=source,
        judge_style=judge_style,
        phrasings=phrasings.read_text(encoding="utf-8-sig") if phrasings else "",
    )
    if recipe.draft.operator in GIVEN:
        asks = open_operator(recipe.answer.operator, setting).stages
        return answer_style, [_answering(setting, benchmarks)] if asks else []
    if recipe.draft.operator == "evolve":
        return style, _evolving(setting, read_dataset(source))
    drafter = open_operator(recipe.draft.operator, setting)
    answerer = open_operator(recipe.answer.operator, setting)
    parents = drafter.draw(Pool(read_seeds(source), [], 0), 0, Random(0))
    request = drafter.ask(parents, {}, Random(0))
    tasks = math.ceil(recipe.num / (PASS * recipe.answer.samples)) if answerer.stages else recipe.num
    steps = math.ceil(tasks / (recipe.draft.items * PASS * recipe.draft.samples))
    stages = [_stage(drafter.stage, steps, request.text(), request.sampling.max_tokens * recipe.draft.samples)]
    asked = []
    for stage in answerer.stages:
        prompt = setting.prompts[setting.prompt_name(stage, setting.answer_style)]
        most = _most(recipe, stage, prompt.sampling.max_tokens)
        asked.append(_stage(stage, tasks, prompt.example().text(), most * recipe.answer.samples))
    return style, stages + _either(asked)


def _answering(setting: Setting, benchmarks: Benchmarks | None) -> Stage:
    """Of a recipe that answers what is given: every task that its rows give, as the run draws it."""
    from selfinstruct.engines import Reply
    from selfinstruct.journal import Place
    from selfinstruct.loop import rng_for
    from selfinstruct.operators import Pool, open_operator
    from selfinstruct.recipe import RULE
    from selfinstruct.records import Record

    recipe = setting.recipe
    prompt = setting.prompts[setting.prompt_name("answer", setting.answer_style)]
    held = benchmarks if RULE in set(recipe.filters.draft) - set(recipe.filters.off) else None
    drafter: Drafter = open_operator(recipe.draft.operator, setting)
    tasks = size = 0
    for step in count():
        parents = drafter.draw(Pool([], [], 0), step, Random(0))
        if parents is None:
            break
        for task in drafter.read(Reply(), parents, rng_for(recipe, "ask", Place(drafter.stage, step))):
            if isinstance(task, Record) and not (held is not None and held.hits(task)):
                tasks += 1
                size += len(prompt.request({"instruction": task.instruction, "input": task.input}).text().encode())
    most = _most(recipe, "answer", prompt.sampling.max_tokens)
    return Stage("answer", tasks, size // BYTES_PER_TOKEN, tasks * most * recipe.answer.samples)


def _evolving(setting: Setting, source: Iterable[Record]) -> list[Stage]:
    """Of a recipe that evolves: every row in every round, at the most, and what follows where an evolution passes."""
    from selfinstruct.filters import Rules
    from selfinstruct.operators import open_operator

    recipe, rounds = setting.recipe, setting.recipe.evolve.rounds
    tables = [phase for phase in recipe.evolve.first for _ in range(phase.rounds)] + [recipe.evolve] * rounds
    shares: defaultdict[str, float] = defaultdict(float)  # of all draws
    for table in tables[:rounds]:
        weights = table.weights or (1.0,) * len(table.operators)
        for name, weight in zip(table.operators, weights, strict=True):
            shares[name] += weight / sum(weights) / rounds
    drawn = [(setting.prompts[setting.prompt_name(f"evolve/{name}", setting.style)], shares[name]) for name in shares]
    answers = any(prompt.head.direction == "answer" for prompt, _ in drawn)

    rows = texts = beside = 0  # and bytes: of what is evolved, and of what stands beside it
    for row in source:
        rows += 1
        task, output = len(f"{row.instruction}{row.input}".encode()), len(row.output.encode())
        texts, beside = (texts + output, beside + task) if answers else (texts + task, 0)
    # The parents of round t have passed t - 1 times, their children once more.
    parents = rounds * texts + rows * ADDED * EVOLVED * rounds * (rounds - 1) / 2
    passed = math.ceil(EVOLVED * rows * rounds)
    children = EVOLVED * (parents + rows * rounds * ADDED)

    frame = sum(share * _size(prompt) for prompt, share in drawn)
    longest = sum(share * _most(recipe, "evolve", prompt.sampling.max_tokens) for prompt, share in drawn)
    stages = [_sized("evolve", rows * rounds, frame, parents + rounds * beside, longest)]
    for _, rule in Rules(recipe.filters.draft, recipe, "draft").asking:
        prompt = setting.prompts[setting.prompt_name(rule.stage, setting.judge_style)]
        asked, shown = passed, children + (EVOLVED * parents if "before" in prompt.head.slots else 0)
        if rule.measures:
            asked, shown = asked + rows, shown + texts
        stages.append(
            _sized(rule.stage, asked, _size(prompt), shown, _most(recipe, rule.stage, prompt.sampling.max_tokens))
        )
    answered = []
    for stage in open_operator(recipe.answer.operator, setting).stages:
        prompt = setting.prompts[setting.prompt_name(stage, setting.answer_style)]
        most = _most(recipe, stage, prompt.sampling.max_tokens)
        answered.append(_sized(stage, passed, _size(prompt), children, most))
    return stages + _either(answered)


def _sized(name: str, requests: int, around: float, texts: float, most: float) -> Stage:
    return Stage(name, requests, round((requests * around + texts) / BYTES_PER_TOKEN), round(requests * most))


def _size(prompt: Prompt) -> int:
    """Bytes of a prompt with nothing in its slots."""
    return len(prompt.bare().encode())


def _either(asked: list[Stage]) -> list[Stage]:
    """A task is answered output-first or input-first: the dearer of the two is counted for all."""
    either = [stage for stage in asked if stage.name in ("output-first", "input-first")]
    if not either:
        return asked
    dearer = max(either, key=lambda stage: stage.prompt_tokens)._replace(name="instances")
    return [stage for stage in asked if stage not in either] + [dearer]


def usual_style(model: str) -> Style:
    """What an engine would pick: the local ones continue a begun answer, servers are asked in chat."""
    return "prefill" if model.split("/")[0] in ("local", "vllm", "hf", "scripted") else "chat"


def _stage(name: str, requests: int, text: str, most: int) -> Stage:
    return Stage(name, requests, requests * len(text.encode()) // BYTES_PER_TOKEN, requests * most)


def _most(recipe: Recipe, stage: str, usual: int) -> int:
    """max_tokens of a stage: the recipe's, or the prompt's."""
    return int(recipe.sampling.get(stage, {}).get("max_tokens", usual))
