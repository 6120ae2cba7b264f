"""`selfinstruct generate --dry-run`: the plan, with requests and tokens estimated."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from selfinstruct.cli.terminal import data, say

if TYPE_CHECKING:
    from selfinstruct.engines import Style
    from selfinstruct.recipe import Recipe

PASS = 0.5
"""The share of drafts and of answers that an estimate takes to pass."""
BYTES_PER_TOKEN = 4


class Stage(NamedTuple):
    name: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    """At the most: what max_tokens allows."""


def print_plan(recipe: Recipe, source: Path, prompts: Path | None, *, as_json: bool) -> None:
    """Print what a run would ask of a seed file, or of a dataset to answer. No engine is opened, nothing is written."""
    style, stages = estimate(recipe, source, prompts)
    prompt, completion = sum(one.prompt_tokens for one in stages), sum(one.completion_tokens for one in stages)
    if as_json:
        content = {
            "recipe": recipe.model_dump(mode="json"),
            "style": style,
            "stages": [stage._asdict() for stage in stages],
            "prompt_tokens": prompt,
            "completion_tokens_at_most": completion,
        }
        data(content)
        return
    given = recipe.draft.operator == "given"
    wanted = f"{source}" if given else f"{recipe.num} records"
    say(f"recipe {recipe.name} ({recipe.behaviour}), model {recipe.model}, style {style}, {wanted}")
    say(f"{'stage':<14}{'requests':>10}{'prompt tokens':>16}{'completion tokens at most':>28}")
    for stage in stages:
        say(f"{stage.name:<14}{stage.requests:>10,}{stage.prompt_tokens:>16,}{stage.completion_tokens:>28,}")
    say(f"{'sum':<14}{sum(one.requests for one in stages):>10,}{prompt:>16,}{completion:>28,}")
    if given:
        say(f"estimated from every row, {BYTES_PER_TOKEN} bytes a token; nothing was asked")
        return
    say(
        f"estimated from one rendered prompt a stage, {BYTES_PER_TOKEN} bytes a token, {PASS:.0%} of drafts and of "
        "answers passing, one record a task; nothing was asked"
    )


def estimate(recipe: Recipe, source: Path, prompts: Path | None) -> tuple[str, list[Stage]]:
    """The style that would be asked in, and requests and tokens by stage."""
    from selfinstruct.formats import read_dataset, read_seeds
    from selfinstruct.operators import Pool, Setting, open_operator
    from selfinstruct.prompts import Prompts

    style = _usual(recipe.model) if recipe.style == "auto" else recipe.style
    answer_style = recipe.answer_style
    if answer_style == "auto":
        answer_style = _usual(recipe.answer_model) if recipe.answer_model else style
    if recipe.small == "auto":
        answers = recipe.answer_model or recipe.model
        recipe = recipe.model_copy(update={"small": "yes" if answers == "local" else "no"})
    setting = Setting(recipe, Prompts(prompts), style, answer_style)
    if recipe.draft.operator == "given":
        prompt = setting.prompts[setting.prompt_name("answer", setting.answer_style)]
        most, rows, size = _most(recipe, "answer", prompt.sampling.max_tokens), 0, 0
        for row in read_dataset(source):
            rows += 1
            size += len(prompt.request({"instruction": row.instruction, "input": row.input}).text().encode())
        return answer_style, [Stage("answer", rows, size // BYTES_PER_TOKEN, rows * most)]
    drafter = open_operator(recipe.draft.operator, setting)
    answerer = open_operator(recipe.answer.operator, setting)
    parents = drafter.draw(Pool(read_seeds(source), [], 0), 0, Random(0))
    request = drafter.ask(parents, {}, Random(0))
    tasks = math.ceil(recipe.num / PASS) if answerer.stages else recipe.num
    steps = math.ceil(tasks / (recipe.draft.items * PASS))
    stages = [_stage(drafter.stage, steps, request.text(), request.sampling.max_tokens)]
    # A task is answered output-first or input-first: the dearer of the two is counted for all.
    asked = []
    for stage in answerer.stages:
        prompt = setting.prompts[setting.prompt_name(stage, setting.answer_style)]
        most = _most(recipe, stage, prompt.sampling.max_tokens)
        asked.append(_stage(stage, tasks, prompt.example().text(), most))
    either = [stage for stage in asked if stage.name in ("output-first", "input-first")]
    if either:
        asked = [stage for stage in asked if stage not in either]
        asked.append(max(either, key=lambda stage: stage.prompt_tokens)._replace(name="instances"))
    return style, stages + asked


def _usual(model: str) -> Style:
    """What an engine would pick: the local ones continue a begun answer, servers are asked in chat."""
    return "prefill" if model.split("/")[0] in ("local", "vllm", "scripted") else "chat"


def _stage(name: str, requests: int, text: str, most: int) -> Stage:
    return Stage(name, requests, requests * len(text.encode()) // BYTES_PER_TOKEN, requests * most)


def _most(recipe: Recipe, stage: str, usual: int) -> int:
    """max_tokens of a stage: the recipe's, or the prompt's."""
    return int(recipe.sampling.get(stage, {}).get("max_tokens", usual))
