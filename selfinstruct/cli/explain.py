"""`selfinstruct explain`: the whole lineage of one record or reject."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

ABOUT = 300
"""Characters of an item that are shown on each side of the words that it shares with a reject, at the most."""


def register(app: typer.Typer) -> None:
    app.command()(explain)


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    name: Annotated[
        str, typer.Argument(metavar="ID", help="A record's id, a task's id, or a reject's name (bootstrap:3.1).")
    ],
    prompt: Annotated[
        bool, typer.Option("--prompt", metavar="", help="Also every prompt, exactly as the model read it.")
    ] = False,
    nearest: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Also the K nearest before it by ROUGE-L, and the mean F with all."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="As one JSON object.")] = False,
) -> None:
    """Where a record came from, or why a draft was not kept: parents, requests, replies, rules."""
    from selfinstruct.cli.show import is_run, nameless
    from selfinstruct.cli.terminal import data
    from selfinstruct.lineage import lineage

    is_run(run)
    told = lineage(run, name, with_prompts=prompt, nearest=nearest or 0)
    if told is None:
        raise nameless(run, name)
    if json:
        data(told)
    else:
        _print(told)


def _print(told: dict[str, Any]) -> None:
    from selfinstruct.cli.show import body
    from selfinstruct.cli.terminal import say

    verdict = told["verdict"]
    say(
        told["name"] + (f"  rejected at {verdict['at']} by {verdict['by']}" if verdict else "  kept"),
        style="bold yellow" if verdict else "bold",
    )
    body(told["record"]["instruction"], told["record"]["input"], told["record"]["output"])
    if verdict:
        say(f"why: {verdict['why']}")
        if told["neighbour"]:
            say(f"neighbour {verdict['neighbour']}: {told['neighbour']}")
        if told["overlap"]:
            _print_overlap(told["overlap"])
        if told["text"]:
            say("as it came:", style="dim")
            say(told["text"], indent=4)
    if "nearest" in told:
        near = told["nearest"]
        say(f"nearest of the {near['of']:,} that were there before it, by ROUGE-L F; {near['mean']:.3f} is the mean:")
        for one in near["nearest"]:
            say(f"{one['f']:.3f}  {one['name']:<16}  {one['instruction']}", indent=2)
    for one in told["record"]["constraints"]:
        mended = " (put right by a program)" if one["type"] in told["record"]["repaired"] else ""
        say(f"constraint: {one['type']}{mended}  {_sampling(one['kwargs'])}".rstrip())
    for slot, line in told["vary"].items():
        say(f"{slot}: {line}")
    if told["evolution"]:
        _print_evolution(told)
    elif told["parents"]:
        say("shown to the model:" if told["asked"] else "made of:")
        for parent in told["parents"]:
            say(f"{parent['task']:<16}  {parent['origin']:<9}  {parent['instruction']}", indent=2)
    for name, score in told["scores"].items():
        say(f"{name}: {score:g}")
    for remark in told["remarks"]:
        say(f"remarked: {remark}")
    for asked in told["asked"]:
        say()
        say(f"{asked['place']}  {asked['prompt']} {asked['digest']}  {asked['model']}", style="cyan")
        say(_sampling(asked["sampling"]), style="dim", indent=2)
        if asked.get("read"):
            say("the model read:", style="dim", indent=2)
            say(asked["read"], indent=4)
        if asked.get("reasoning"):
            say("the model thought:", style="dim", indent=2)
            say(asked["reasoning"], indent=4)
        say("the model wrote:", style="dim", indent=2)
        say(asked.get("wrote", "(no journal here)") or "(nothing)", indent=4)


def _print_overlap(overlap: dict[str, Any]) -> None:
    from selfinstruct.cli.terminal import say

    if overlap["item"]:
        say(f"{overlap['eval_id']} asks:")
        say(about(overlap["item"], overlap["words"].removesuffix(" …")), indent=4)
    else:
        say(f"{overlap['eval_id']}: no bytes of it in a journal here, and of its words only these", style="dim")
    share = f"{overlap['coverage']:.0%} of its words" + (f", {overlap['run']} in a row" if overlap["run"] else "")
    say(f"both have {share}:")
    say(overlap["words"], indent=4)


def about(text: str, words: str) -> str:
    """A text, cut to what lies about some words of it, which are told without case and punctuation; to its beginning
    where they cannot be found in it so."""
    from selfinstruct.filters.novelty import tokens

    spelt = r"[\W_]*".join(map(re.escape, tokens(words, "unicode")))
    found = re.search(spelt, text, re.IGNORECASE)
    begin, end = found.span() if found else (0, 0)
    begin, end = max(begin - ABOUT, 0), end + ABOUT
    return "…" * (begin > 0) + text[begin:end] + "…" * (end < len(text))


def _print_evolution(told: dict[str, Any]) -> None:
    from selfinstruct.cli.show import when
    from selfinstruct.cli.terminal import say

    known = told["evolution"]
    if not known["round"]:
        say(f"row {known['lineage']} of what was evolved, counted from 0")
        return
    told_of = [known["direction"] or "", "" if told["text"] else f"{known['added']:+} words"]  # text: it was not read
    said = [*filter(None, told_of), f"attempt {known['attempt']} at its parent"]
    say(f"evolved by {when(told)}: {', '.join(said)}")
    for parent in told["parents"]:
        say(f"parent {parent['place']}  {when(parent)}", style="cyan")
        say(parent["instruction"], indent=4)
        if known["direction"] == "answer":
            say(f"output: {parent['output']}", indent=4)


def _sampling(sampling: dict[str, Any]) -> str:
    import json

    return "  ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sampling.items())
