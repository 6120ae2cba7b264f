"""The scripted engine: replies that depend on nothing but script and request, and defects where the plan says."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import time
import tomllib
from collections import Counter
from pathlib import Path
from random import Random

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.engines import Engine, Message, Options, Reply, Request, Sampling, open_engine
from selfinstruct.engines.grammar import content, instruction
from selfinstruct.engines.scripted import DEMO, Rule, Script, Scripted, open_scripted
from selfinstruct.engines.writers import Planted
from selfinstruct.errors import EngineError, InputError, UsageError
from selfinstruct.filters import Rules
from selfinstruct.filters.novelty import NoveltyIndex, rouge_l
from selfinstruct.filters.text import words
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import load
from selfinstruct.records import Evolution, Record

SCRIPTS = Path(__file__).parent / "scripts"
SHOWN = (
    "Suggest three quiet board games for a rainy afternoon with two children.",
    "Why do some metals rust while others do not?",
    "Work out how many litres of paint the four walls need.",
    "Rewrite the notice so that a ten-year-old understands it.",
)
LIST = "\n".join(f"{number}. {text}" for number, text in enumerate(SHOWN, 1))
TASKS = f"Here are 10 different tasks:\n\n{LIST}\n5."
MARK = "«3fa9c01b»"
ALPACA = (
    "Rules:\n1. Vary the verbs.\n2. Stay short.\n\n"
    + "".join(
        f"{MARK}\n{k}. Instruction: {text}\n{k}. Input:\n<noinput>\n{k}. Output:\nFine.\n"
        for k, text in enumerate(SHOWN, 1)
    )
    + f"{MARK}\n5. Instruction:"
)


def script(name: str) -> Scripted:
    return open_scripted(str(SCRIPTS / f"{name}.toml"), Options())


def ask(engine: Engine, request: Request) -> Reply:
    return asyncio.run(engine.complete(request))


def ask_all(engine: Engine, requests: list[Request]) -> list[Reply]:
    async def gathered() -> list[Reply]:
        return await asyncio.gather(*map(engine.complete, requests))

    return asyncio.run(gathered())


def chat(text: str, purpose: str = "answer/chat", prefill: str = "", **sampling: object) -> Request:
    return Request(
        messages=(Message(role="user", content=text),), prefill=prefill, purpose=purpose, sampling=Sampling(**sampling)
    )


def tasks(seed: int, **sampling: object) -> Request:
    chosen = Sampling(**{"max_tokens": 2000, "stop": ("\n\n", "\n12."), **sampling})
    return Request(prompt=TASKS, sampling=chosen, seed=seed, purpose="bootstrap/completion")


PURPOSES = (
    "bootstrap/chat",
    "classify/chat",
    "input-first/chat",
    "output-first/chat",
    "alpaca/chat",
    "answer/chat",
    "evolve/deepen/chat",
    "evolve/breadth/chat",
    "judge/equal/chat",
    "judge/answerable/chat",
    "judge/difficulty/chat",
    "",
)
GIVEN = f"Make it harder.\n\nGiven prompt:\n{SHOWN[2]}\n\nRewritten prompt:"
TEXTS = st.one_of(st.sampled_from([TASKS, ALPACA, GIVEN, "Task: sort", ""]), st.text(max_size=40))
REQUESTS = st.builds(
    lambda text, style, rest: (
        Request(prompt=text, **rest)
        if style == "completion"
        else Request(messages=(Message(role="user", content="Go on."),), prefill=text, **rest)
        if style == "prefill"
        else Request(messages=(Message(role="user", content=text),), **rest)
    ),
    TEXTS,
    st.sampled_from(["completion", "prefill", "chat"]),
    st.fixed_dictionaries(
        {
            "purpose": st.sampled_from(PURPOSES),
            "seed": st.none() | st.integers(0, 10**6),
            "sampling": st.builds(
                Sampling,
                max_tokens=st.integers(0, 300),
                stop=st.lists(st.sampled_from(["\n\n", "\n7.", "the", ".", "a", "Task:", ""]), max_size=3).map(tuple),
                logprobs=st.none() | st.integers(0, 5),
            ),
        }
    ),
)
ENGINES = {name: script(name) for name in ("plain", "defects", "evolve-defects")} | {"demo": Scripted("scripted", DEMO)}


# Laws.


@settings(deadline=None)
@given(request=REQUESTS, name=st.sampled_from(sorted(ENGINES)))
def test_a_reply_is_a_function_of_script_and_request(request, name):
    again = Scripted("again", ENGINES[name]._script)
    assert ask(ENGINES[name], request) == ask(again, request) == ask(again, request)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)))
def test_no_order_of_concurrent_calls_changes_a_reply(order):
    engine = Scripted(
        "s", DEMO.model_copy(update={"latency": script("slow")._script.latency.model_copy(update={"median_ms": 0.5})})
    )
    requests = [tasks(seed) for seed in range(6)] + [chat(f"Question {n}?") for n in range(6)]

    replies = dict(zip(order, ask_all(engine, [requests[at] for at in order]), strict=True))
    assert [replies[at] for at in range(12)] == [ask(engine, request) for request in requests]


@settings(deadline=None)
@given(request=REQUESTS, name=st.sampled_from(sorted(ENGINES)))
def test_no_reply_holds_a_stop_string_or_more_than_its_tokens(request, name):
    reply = ask(ENGINES[name], request)
    assert not any(stop and stop in reply.text for stop in request.sampling.stop)
    assert reply.usage.completion == len(reply.text.split()) <= request.sampling.max_tokens
    assert reply.usage.prompt == len(request.text().split())


@settings(deadline=None)
@given(request=REQUESTS, more=st.integers(0, 400))
def test_more_tokens_only_lengthen_a_reply_that_was_cut(request, more):
    def allowed(tokens: int) -> Reply:
        sampling = request.sampling.model_copy(update={"max_tokens": tokens})
        return ask(ENGINES["plain"], request.model_copy(update={"sampling": sampling}))

    short, long = allowed(request.sampling.max_tokens), allowed(request.sampling.max_tokens + more)
    assert long.text.startswith(short.text)
    if short.finish == "stop":
        assert long == short
    else:
        assert short.usage.completion == request.sampling.max_tokens


@settings(deadline=None)
@given(request=REQUESTS, name=st.sampled_from(sorted(ENGINES)))
def test_the_plan_tells_of_truncation_exactly_when_the_reply_ended_for_length(request, name):
    cut = any(planted.defect.endswith(".truncated") for planted in ENGINES[name].plan(request))
    assert cut == (ask(ENGINES[name], request).finish == "length")


@settings(deadline=None)
@given(request=REQUESTS)
def test_a_script_without_defects_plans_nothing_but_what_max_tokens_cuts(request):
    assert all(planted.defect.endswith(".truncated") for planted in ENGINES["plain"].plan(request))


@settings(deadline=None)
@given(request=REQUESTS, name=st.sampled_from(sorted(ENGINES)), samples=st.integers(2, 5))
def test_samples_begin_with_what_comes_alone_and_each_other_differs(request, name, samples):
    alone, several = ask(ENGINES[name], request), ask(ENGINES[name], request.model_copy(update={"samples": samples}))
    first, *others = several.each()
    assert first.model_copy(update={"usage": alone.usage}) == alone
    assert len(others) == (0 if alone.error else samples - 1)
    assert several.usage.prompt == alone.usage.prompt
    assert several.usage.completion == sum(len(one.text.split()) for one in several.each())
    fewer = ask(ENGINES[name], request.model_copy(update={"samples": 2}))
    assert fewer.more == several.more[:1]


def test_samples_are_various():
    assert len({one.text for one in ask(script("plain"), tasks(1).model_copy(update={"samples": 20})).each()}) == 20


SCALARS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 60, "maxLength": 80},
        {"type": ["null", "integer"], "minimum": 3, "maximum": 5},
        {"type": "number", "minimum": 0.5, "maximum": 1},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["Yes", "No", 3, None]},
        {"const": {"a": [1]}},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"$ref": "#/$defs/tree"},
        {},
    ]
)
PARTS = st.recursive(
    SCALARS,
    lambda parts: st.one_of(
        st.builds(lambda part, low: {"type": "array", "items": part, "minItems": low}, parts, st.integers(0, 5)),
        st.builds(lambda part, most: {"items": part, "maxItems": most, "type": "array"}, parts, st.integers(0, 5)),
        st.dictionaries(st.sampled_from("abc"), parts, min_size=1).map(
            lambda found: {"type": "object", "properties": found, "required": sorted(found)}
        ),
    ),
    max_leaves=6,
)
TREE = {
    "type": "object",
    "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    "required": ["of"],
}


@settings(deadline=None)
@given(
    properties=st.dictionaries(st.sampled_from("abcd"), PARTS, min_size=1),
    purpose=st.sampled_from(PURPOSES),
    seed=st.integers(0, 99),
)
def test_where_json_is_asked_for_it_is_written_and_keeps_to_the_schema(properties, purpose, seed):
    schema = {"type": "object", "properties": properties, "required": sorted(properties), "$defs": {"tree": TREE}}
    schema["additionalProperties"] = False
    request = chat(GIVEN, purpose, max_tokens=10**6).model_copy(update={"json_schema": schema, "seed": seed})
    reply = ask(ENGINES["plain"], request)
    jsonschema.Draft202012Validator(schema).validate(json.loads(reply.text))
    assert reply == ask(ENGINES["plain"], request)


def test_the_plan_is_told_without_asking():
    engine = script("defects")
    assert any(engine.plan(tasks(seed)) for seed in range(20))
    assert engine.calls == 0


def test_requests_that_differ_in_seed_or_text_get_different_replies():
    engine = script("plain")
    replies = [ask(engine, tasks(seed)).text for seed in (1, 2, None)] + [
        ask(engine, chat(f"{n}")).text for n in (1, 2)
    ]
    assert len(set(replies)) == 5


def test_a_lone_surrogate_is_answered_like_any_text():
    assert ask(script("plain"), chat("broken \ud800")).text


# The writers, and the plan against the text.


def numbered(reply: Reply, first: int) -> list[tuple[int, str]]:
    """Items of a list whose first number stood in the prompt."""
    found = re.findall(r"^(\d+)\. (.*)$", f"{first}.{reply.text}", re.MULTILINE)
    return [(int(number), text) for number, text in found]


def test_the_list_goes_on_where_the_prompt_stopped_and_ends_where_the_stop_string_says():
    assert [number for number, _ in numbered(ask(script("plain"), tasks(1)), 5)] == [5, 6, 7, 8, 9, 10, 11]


def test_a_prefill_is_continued_like_a_prompt():
    request = Request(
        messages=(Message(role="user", content="Write a list."),), prefill=f"{LIST}\n5.", purpose="bootstrap/prefill"
    )
    items = numbered(ask(script("plain"), request), 5)
    assert [number for number, _ in items] == list(range(5, 13))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("Write tasks.", range(1, 9)), (LIST, range(5, 13)), (f"{LIST}\nWrite numbers 5 to 7.", range(5, 8))],
)
def test_in_chat_the_list_brings_its_own_numbers(text, numbers):
    reply = ask(script("plain"), chat(text, "bootstrap/chat"))
    assert [int(line.split(".")[0]) for line in reply.text.split("\n")] == list(numbers)


def test_a_chat_reply_may_begin_its_numbers_again():
    engine = Scripted("s", Script.model_validate({"writers": {"restart": 1, "tasks": 3}}))
    assert [line[:2] for line in ask(engine, chat(LIST, "bootstrap/chat")).text.split("\n")] == ["1.", "2.", "3."]


def shown_before(*texts: str) -> NoveltyIndex:
    """Knows what comes too close to these."""
    index = NoveltyIndex(0.7)
    for text in texts:
        index.add(text)
    return index


WORDING = re.compile(
    r"\b(images?|graphs?|pictures?|files?|maps?|draw|sketch|paint|plot|go to|video|audio|music)\b", re.I
)


def test_every_planned_task_defect_stands_where_the_plan_says_and_no_other_does():
    engine, index, seen = script("defects"), shown_before(*SHOWN), Counter()
    for seed in range(150):
        request = tasks(seed)
        reply, plan = (
            ask(engine, request),
            {p.item: p.defect.removeprefix("tasks.") for p in engine.plan(request)},
        )
        seen.update(plan.values())
        items = numbered(reply, 5)
        assert max((at for at in plan), default=0) < len(items)
        for at, (number, text) in enumerate(items):
            defect = plan.get(at)
            if defect == "truncated":
                continue
            assert (index.nearest(text) is not None) == (defect in ("near_duplicate", "exact_duplicate"))
            assert (text in SHOWN) == (defect == "exact_duplicate")
            assert (len(text.split()) < 4) == (defect == "too_short")
            assert (WORDING.search(text) is not None) == (defect == "blacklisted")
            assert text[0].isalpha() == (defect != "punctuation_first")
            assert (number != 5 + at) == (defect == "misnumbered")
    assert set(seen) == set(type(engine._script.defects.tasks).model_fields)


@settings(deadline=None)
@given(
    words=st.lists(st.sampled_from(["Name", "e-mail", "the", "rivers", "3", "of", "Peru's"]), min_size=4, max_size=9),
    seed=st.integers(0, 99),
)
def test_a_near_duplicate_of_any_shown_task_is_near(words, seed):
    engine = Scripted(
        "s", Script.model_validate({"defects": {"tasks": {"near_duplicate": 1}}, "writers": {"tasks": 1}})
    )
    shown = "Name " + " ".join(words) + "."
    request = chat(f"1. {shown}", "bootstrap/chat").model_copy(update={"seed": seed})
    text = ask(engine, request).text.removeprefix("2. ")
    assert engine.plan(request) == (Planted(0, "tasks.near_duplicate"),)
    assert shown_before(shown).nearest(text)


def test_where_nothing_is_shown_no_duplicate_is_planned():
    engine = Scripted("s", Script.model_validate({"defects": {"tasks": {"near_duplicate": 1}}}))
    assert engine.plan(chat("Write tasks.", "bootstrap/chat")) == ()


def test_every_planned_alpaca_defect_stands_where_the_plan_says_and_no_other_does():
    engine, seen = script("defects"), Counter()
    sampling = Sampling(max_tokens=9000, stop=("\n21.",))
    for seed in range(40):
        request = Request(prompt=ALPACA, sampling=sampling, seed=seed, purpose="alpaca/completion")
        reply, plan = (
            ask(engine, request),
            {p.item: p.defect.removeprefix("alpaca.") for p in engine.plan(request)},
        )
        seen.update(plan.values())
        items = [item for item in re.split(rf"\n?{MARK}\n?", "5. Instruction:" + reply.text) if item]
        assert len(items) == (16 if reply.finish == "stop" else 1 + max(plan))
        for at, item in enumerate(items):
            defect = plan.get(at)
            if defect == "truncated":
                assert at == len(items) - 1
                continue
            fields = re.fullmatch(r"(\d+)\. Instruction: (.+)\n\1\. Input:\n(.+)\n\1\. Output:\n(.*)", item)
            assert (fields is None) == (defect == "missing_field")
            if fields is not None:
                number, instruction, given_input, output = fields.groups()
                assert (int(number) != 5 + at) == (defect == "misnumbered")
                assert (output == "") == (defect == "empty_output")
                assert (output == given_input) == (defect == "same_as_input")
                assert output.startswith("I'm sorry") == (defect == "refusal")
                assert (len(output.split()) > 600) == (defect == "too_long")
                assert (instruction in SHOWN) == (defect == "exact_duplicate")
                assert (len(instruction.split()) < 4) == (defect == "too_short")
                assert (WORDING.search(instruction) is not None) == (defect == "blacklisted")
    assert set(seen) == set(type(engine._script.defects.alpaca).model_fields)


def test_in_chat_the_mark_stands_before_every_alpaca_item():
    text = ask(
        script("plain"), chat(ALPACA.removesuffix(f"{MARK}\n5. Instruction:") + "Write numbers 5 to 7.", "alpaca/chat")
    ).text
    assert re.findall(rf"^{MARK}\n(\d+)\. Instruction:", text, re.MULTILINE) == ["5", "6", "7"]


@pytest.mark.parametrize("prefill", ["", "Example 1"])
def test_every_planned_instance_defect_stands_where_the_plan_says_and_no_other_does(prefill):
    engine, seen = script("defects"), Counter()
    for seed in range(200):
        request = chat("Task: sort", "input-first/chat", prefill).model_copy(update={"seed": seed})
        reply = ask(engine, request)
        plan = [(planted.item, planted.defect.removeprefix("instances.")) for planted in engine.plan(request)]
        seen.update(defect for _, defect in plan)
        whole = prefill + reply.text
        assert ("Output:" not in whole) == ((None, "no_marker") in plan) or reply.finish == "length"
        blocks = [block for block in re.split(r"^Example \d+\n", whole, flags=re.MULTILINE) if block]
        pairs = [re.fullmatch(r"(?:Input: (.*)\n)?Output: ?(.*)\n?", block) for block in blocks]
        for at, pair in enumerate(pairs):
            if pair is None:
                assert {(None, "no_marker"), (at, "truncated")} & set(plan)
                continue
            if (at, "truncated") in plan:
                continue
            given_input, output = pair.groups()
            assert (output == "") == ((at, "empty_output") in plan)
            assert (output == given_input) == ((at, "same_as_input") in plan)
            assert output.endswith(":") == ((at, "ends_in_colon") in plan)
        inputs = Counter(pair[1] for pair in pairs if pair and pair[1])
        assert (max(inputs.values(), default=0) > 1) == any(defect == "conflict" for _, defect in plan) or (
            reply.finish == "length"
        )
    assert set(seen) == set(type(engine._script.defects.instances).model_fields)


@pytest.mark.parametrize("prefill", ["", "Class label:"])
def test_every_planned_label_defect_stands_where_the_plan_says(prefill):
    engine, seen = script("defects"), Counter()
    for seed in range(200):
        request = chat("Task: sort", "output-first/chat", prefill).model_copy(update={"seed": seed})
        reply = ask(engine, request)
        whole = prefill + reply.text
        blocks = re.findall(r"^Class label: (.*)(?:\n(.*))?", whole, re.MULTILINE)
        for planted in engine.plan(request):
            seen[defect := planted.defect.removeprefix("labels.")] += 1
            if defect == "no_marker":
                assert not blocks
            elif defect == "truncated":
                assert reply.finish == "length"
            elif defect == "same_as_input":
                assert blocks[planted.item][0] == blocks[planted.item][1]
            else:
                assert blocks[0][1] == blocks[1][1] and blocks[0][0] != blocks[1][0]
    assert set(seen) == set(type(engine._script.defects.labels).model_fields) - ({"no_marker"} if prefill else set())


def test_planned_answer_defects_are_what_the_reply_says():
    engine, seen = script("defects"), set()
    for seed in range(100):
        request = chat("Why?").model_copy(update={"seed": seed})
        reply = ask(engine, request)
        (defect,) = [planted.defect.removeprefix("answer.") for planted in engine.plan(request)] or [""]
        seen.add(defect)
        assert (reply.text == "") == (defect == "empty")
        assert (reply.text == "...") == (defect == "punctuation")
        assert reply.text.startswith("I'm sorry") == (defect == "refusal")
    assert len(seen) == 5


# Yes and no.


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), logprobs=st.integers(1, 5))
def test_the_log_probabilities_favour_what_was_said(seed, logprobs):
    request = Request(
        prompt="Task: x\nClassification:",
        seed=seed,
        purpose="classify/x",
        sampling=Sampling(max_tokens=3, logprobs=logprobs),
    )
    reply = ask(ENGINES["plain"], request)
    assert reply.text in (" Yes", " No")
    assert max(reply.first_token, key=reply.first_token.__getitem__) == reply.text
    assert len(reply.first_token) == min(logprobs, 2)
    assert sum(map(math.exp, reply.first_token.values())) <= 1 + 1e-9


def test_yes_comes_as_often_as_the_script_says():
    engine = Scripted("s", Script.model_validate({"writers": {"yes": 0.8}}))
    words = Counter(reply.text for reply in ask_all(engine, [chat(f"{n}", "classify/chat") for n in range(1000)]))
    assert 750 < words["Yes"] < 850


def test_log_probabilities_are_given_only_when_asked_for():
    assert ask(script("plain"), chat("x", "classify/chat")).first_token == {}


# Evolution.

PROMPTS = Prompts()
OPERATORS = {
    name.removeprefix("evolve/"): PROMPTS[f"{name}/chat"].head
    for name in PROMPTS.names()
    if name.startswith("evolve/") and not name.startswith("evolve/frames/")
}
ANY_STYLE = pytest.mark.parametrize("style", ["chat", "completion"])


def evolve(operator: str, parent: str, seed: int = 0, style: str = "chat") -> Request:
    """The question that a run asks; the answer to be rewritten is the parent, too."""
    values = {"instruction": parent, "input": "", "output": parent, "vary": {}, "method": "1. Add a condition."}
    stage = operator if "/" in operator else f"evolve/{operator}"
    return PROMPTS[f"{stage}/{style}"].request(values, seed=seed, max_tokens=4000)


def judge(stage: str, text: str, seed: int = 0, style: str = "chat") -> Request:
    values = {"instruction": text, "before": SHOWN[0], "after": text}
    return PROMPTS[f"judge/{stage}/{style}"].request(values, seed=seed)


def planting(defect: str) -> Scripted:
    return Scripted("s", Script.model_validate({"rule": [{"plant": defect}]}))


def parent_of(seed: int) -> str:
    return instruction(Random(seed).random)


def real_tasks() -> list[str]:
    """Our seeds as round 0 has them, with code, tables, tags and lines that end in a colon."""
    lines = (Path(__file__).parent.parent / "seeds" / "175.jsonl").read_text().splitlines()
    rows = [(row["instruction"], row["instances"][0]["input"]) for row in map(json.loads, lines)]
    return [f"{instruction}\n\n{given}" if given else instruction for instruction, given in rows]


@ANY_STYLE
def test_the_text_to_evolve_is_read_exactly_out_of_every_prompt_of_ours(style):
    engine, tasks = planting("evolve.unchanged"), real_tasks()
    for name in (*OPERATORS, "optimise/evolve"):
        for task in tasks:
            assert ask(engine, evolve(name, task, style=style)).text.removeprefix("\n") == task


@pytest.mark.parametrize(
    "frame",
    [
        "Make it harder: add a condition.\n\n#Given Prompt#:\n{}\n#Rewritten Prompt#:",
        "Instruction:\nSing.\n\nHarder instruction:\nSing a fugue.\n\nInstruction:\n{}\n\nHarder instruction:\n",
        "Rules: none.\n\nTask: Sing.\nHarder task: Sing a fugue.\n\nTask: {}\nHarder task:",
        'Rewrite it. Then write "The rewritten task:" and below it the new one.\n\nThe task:\n{}',
        "Rewrite it.\n\n<task>\n{}\n</task>",
        "Rewrite it.\n\nThe task:\n{}\n",
        "Rewrite the following.\n\n{}",
    ],
)
def test_other_prompts_need_not_agree_on_labels(frame):
    task = "Sum up the e-mail.\nIt is about bees: they sleep." if ":\n{}" in frame else "Sum up the e-mail about bees."
    assert ask(planting("evolve.unchanged"), chat(frame.format(task), "evolve/mine/chat")).text == task


PARENTS = st.lists(
    st.sampled_from(["Name", "the", "rivers", "of Peru.", "and", "3", "e-mails", "\n\n", "why", "河流", "\n- a:"]),
    min_size=1,
    max_size=120,
).map(lambda parts: " ".join(["Name", *parts]).strip())


def understood(engine: Engine, request: Request) -> Reply:
    return PROMPTS[request.purpose].understood(ask(engine, request))


def test_in_json_the_text_to_evolve_is_read_exactly_out_of_every_prompt_of_ours():
    engine = planting("evolve.unchanged")
    for name in OPERATORS:
        for task in real_tasks():
            assert understood(engine, evolve(name, task, style="json")).text == task


@pytest.mark.parametrize(("stage", "said"), [("equal", "Not equal"), ("answerable", "Yes"), ("difficulty", "Score: 2")])
def test_in_json_judges_say_what_they_would_say(stage, said):
    assert understood(script("plain"), judge(stage, SHOWN[0], style="json")).text == said


@pytest.mark.parametrize(
    ("stage", "defect", "said"), [("equal", "equal", "Equal"), ("answerable", "unanswerable", "No")]
)
def test_in_json_a_judge_objects_as_planned_and_what_cannot_be_read_is_no_json(stage, defect, said):
    assert understood(planting(f"{stage}.{defect}"), judge(stage, SHOWN[0], style="json")).text == said
    unread = understood(planting(f"{stage}.unreadable"), judge(stage, SHOWN[0], style="json"))
    assert unread.error.kind == "malformed"


def test_in_json_whole_lists_are_written():
    prompt = PROMPTS["bootstrap/json"]
    reply = understood(script("plain"), prompt.request(prompt.head.slots, seed=3))
    assert reply.error is None
    assert len(re.findall(r"^\d+\. ", reply.text, re.MULTILINE)) == 8


@settings(deadline=None)
@given(parent=PARENTS, seed=st.integers(0, 99), style=st.sampled_from(["chat", "completion"]))
def test_in_depth_and_in_answers_the_text_stays_and_10_to_20_words_are_added(parent, seed, style):
    for name in ("constraints", "complicate_input", "quality_deeper"):
        text = ask(ENGINES["plain"], evolve(name, parent, seed, style)).text.removeprefix("\n")
        assert text.startswith(parent)
        assert 10 <= words(text) - words(parent) <= 20


@settings(deadline=None)
@given(parent=PARENTS, seed=st.integers(0, 99))
def test_in_breadth_and_downward_the_text_is_another_one_of_like_length(parent, seed):
    count = words(parent)
    broader, easier = (ask(ENGINES["plain"], evolve(name, parent, seed)).text for name in ("breadth", "easier"))
    assert count / 2 <= words(broader) <= max(2, 2 * count)
    assert count / 2 <= words(easier) <= max(2, count)
    assert max(rouge_l(parent, broader), rouge_l(parent, easier)) < 0.7


def test_lineages_stay_apart_over_four_rounds():
    engine, index, near = script("evolve"), NoveltyIndex(0.7), 0
    lineages = [(parent_of(seed), [index.add(parent_of(seed))]) for seed in range(300)]
    for at, name in enumerate(("breadth", "deepen", "constraints", "concretise")):
        requests = [evolve(name, text, at) for text, _ in lineages]
        replies = ask_all(engine, requests)
        for place, (reply, (_, own)) in enumerate(zip(replies, lineages, strict=True)):
            near += index.nearest(reply.text, exclude=own) is not None
            lineages[place] = (reply.text, [*own, index.add(reply.text)])
    assert near < 0.01 * 4 * 300


ANEW = ("breadth", "easier")
DEFECTS_OF_EVOLVE = tuple(type(Script().defects.evolve).model_fields)


@pytest.mark.parametrize("operator", ["deepen", "breadth", "easier", "quality_deeper"])
def test_every_planned_defect_of_evolution_is_what_it_says_and_no_other_is_there(operator):
    engine, seen, anew = script("evolve-defects"), Counter(), operator in ANEW
    near: list[str] = []
    for seed in range(500):
        parent = parent_of(seed)
        request = evolve(operator, parent, seed)
        reply = ask(engine, request)
        text, count = reply.text, words(parent)
        (defect,) = [planted.defect.removeprefix("evolve.") for planted in engine.plan(request)] or [""]
        seen[defect] += 1
        assert (reply.finish == "length") == (defect == "truncated")
        assert (text == "") == (defect == "empty")
        assert text.startswith("I'm sorry") == (defect == "apology_prompt")
        if defect in ("truncated", "empty", "apology_prompt"):
            continue
        assert (text == parent) == (defect == "unchanged")
        assert bool(re.search("#(given|rewritten|created) prompt#", text, re.IGNORECASE)) == (defect == "leak")
        most = {"deepen": count + 250, "quality_deeper": count + 600}.get(operator, 2 * count)
        assert (words(text) > most) == (defect == "bloated")
        assert (words(text) < (count / 4 if anew else count)) == (defect == "shrunk")
        kept = len(content(parent) & content(text)) / len(content(parent))
        if operator == "deepen":
            assert (kept == 0) == (defect == "drifted")
        elif operator == "breadth":
            assert (rouge_l(parent, text) >= 0.7) == (defect in ("close", "unchanged"))
        if defect == "near":
            near += [text] if 16 <= count < 32 else []
            assert count / 2 <= words(text) <= 2 * count
    # Of those that meet parents of like size there are three, give or take a word.
    apart = [text for at, text in enumerate(near) if all(rouge_l(text, other) <= 0.7 for other in near[:at])]
    assert len(near) > len(apart) == 3 if anew else not near
    strangers = {
        "deepen": {"close", "near"},
        "breadth": {"drifted"},
        "easier": {"drifted", "close"},
        "quality_deeper": {"drifted", "close", "near"},
    }
    assert set(seen) == {*DEFECTS_OF_EVOLVE, ""} - strangers[operator]


@pytest.mark.parametrize(("operator", "recipe"), [("deepen", "wizardlm"), ("breadth", "wizardlm"), ("easier", "math")])
def test_every_planned_defect_of_evolution_goes_by_its_rule_and_nothing_else_goes(operator, recipe):
    engine, rules = (
        script("evolve-defects"),
        Rules(load(f"evolve/{recipe}").filters.draft, load(f"evolve/{recipe}"), "draft"),
    )
    went: dict[str, Counter[str]] = {}
    for seed in range(500):
        parent = parent_of(seed)
        request = evolve(operator, parent, seed)
        reply = ask(engine, request)
        (defect,) = [planted.defect.removeprefix("evolve.") for planted in engine.plan(request)] or [""]
        if reply.finish == "stop" and reply.text:
            head = OPERATORS[operator]
            how = Evolution(lineage=seed, root="r", direction=head.direction, may_add=head.added, before=parent)
            draft = Record(instruction=reply.text, task=f"{seed}", evolution=how)
            found = rules.objection(draft)
            went.setdefault(defect, Counter())[found.by if found else "kept"] += 1
            if found is None:
                rules.learn(draft)
    expected = {
        "": {"kept"},
        "leak": {"frame-leak"},
        "unchanged": {"unchanged"},
        "bloated": {"growth"},
        "shrunk": {"growth"},
        "drifted": {"intent"},
        "close": {"distance"},
        "near": {"kept", "novelty", "duplicate"},  # only what is the first of its like is kept
        "apology_prompt": {"declines"},
    }
    assert {defect: set(by) - expected[defect] for defect, by in went.items()} == {defect: set() for defect in went}
    assert went.get("near", Counter())["kept"] <= 9


def test_bloated_is_more_than_any_operator_of_ours_allows():
    bounds = [head.added for head in OPERATORS.values() if head.added]
    engine = planting("evolve.bloated")
    text = ask(engine, evolve("deepen", SHOWN[0])).text
    assert words(text) - words(SHOWN[0]) > max(most for _, most in bounds)


@pytest.mark.parametrize("operator", ["deepen", "breadth"])
def test_defects_of_evolution_come_as_often_as_the_script_says(operator):
    engine, count = script("evolve-defects"), 2500
    plans = [engine.plan(evolve(operator, parent_of(seed), seed)) for seed in range(count)]
    found = Counter(planted.defect.removeprefix("evolve.") for plan in plans for planted in plan)
    assert all(len(plan) <= 1 for plan in plans)
    for defect, share in engine._script.defects.evolve.model_dump().items():
        if defect in (("close", "near") if operator == "deepen" else ("drifted",)):
            assert not found[defect]
        elif defect != "near":  # no text of fewer than eight words has it
            assert abs(found[defect] - count * share) <= 3 * math.sqrt(count * share * (1 - share))


@pytest.mark.parametrize(
    ("defect", "operator", "parent"),
    [
        ("unchanged", "deepen", ""),
        ("shrunk", "deepen", "Why?"),
        ("shrunk", "deepen", "河流"),
        ("shrunk", "breadth", "Name a big bee."),
        ("drifted", "breadth", SHOWN[0]),
        ("close", "deepen", SHOWN[0]),
        ("close", "breadth", "Name a big bee."),
        ("near", "breadth", "Name a big bee."),
        ("near", "constraints", SHOWN[0]),
    ],
)
def test_a_text_that_cannot_have_the_defect_is_evolved_and_nothing_is_planned(defect, operator, parent):
    engine, request = planting(f"evolve.{defect}"), evolve(operator, parent)
    assert engine.plan(request) == ()
    assert words(ask(engine, request).text) >= words(parent)


def test_a_defect_that_did_not_arrive_whole_is_only_truncated():
    request = evolve("deepen", SHOWN[0])
    short = request.model_copy(update={"sampling": Sampling(max_tokens=5)})
    engine = planting("evolve.unchanged")
    assert engine.plan(request) == (Planted(None, "evolve.unchanged"),)
    assert engine.plan(short) == (Planted(None, "evolve.truncated"),)


# Judges.


@ANY_STYLE
@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("equal", {"": "Not equal", "equal": "Equal", "unreadable": "Perhaps."}),
        ("answerable", {"": "Yes", "unanswerable": "No", "unreadable": "Perhaps."}),
    ],
)
def test_judges_are_content_but_where_the_plan_says_otherwise(stage, said, style):
    engine, seen = script("evolve-defects"), Counter()
    for seed in range(200):
        request = judge(stage, parent_of(seed), seed, style)
        (defect,) = [planted.defect.removeprefix(f"{stage}.") for planted in engine.plan(request)] or [""]
        seen[defect] += 1
        assert ask(engine, request).text == (" " if style == "completion" else "") + said[defect]
    assert set(seen) == set(said)
    for defect, share in getattr(engine._script.defects, stage).model_dump().items():
        assert abs(seen[defect] - 200 * share) <= 3 * math.sqrt(200 * share * (1 - share))


@ANY_STYLE
def test_difficulty_rises_with_the_words_up_to_ten(style):
    lead = " " if style == "completion" else "Score: "

    def score(count: int) -> int:
        text = "Name " + "the " * (count // 2 - 1) + "\n\nE-mail:\n" + "bees " * (count - count // 2 - 1)
        reply = ask(ENGINES["plain"], judge("difficulty", text.rstrip(), style=style)).text
        assert reply.startswith(lead)
        return int(reply.removeprefix(lead))

    assert [score(count) for count in (4, 13, 28, 43, 58, 72, 400)] == [1, 2, 4, 6, 8, 10, 10]
    assert planting("difficulty.unreadable").plan(judge("difficulty", "x", style=style))


# A plan by hand.


def test_a_plan_by_hand_fails_the_lineages_and_rounds_that_it_names():
    """Of six lineages; each round has its operator. A failure leaves the parent for the next round."""
    engine = script("evolve-plan")
    roots = [f"Say how a {bird} finds food." for bird in ("heron", "otter", "newt", "osprey", "bittern", "rabbit")]
    pool, failed = list(roots), {root: [] for root in roots}
    for at, operator in enumerate(("constraints", "deepen", "concretise", "reasoning"), 1):
        for place, parent in enumerate(pool):
            draft = evolve(operator, parent, at)
            text = ask(engine, draft).text
            asked = (draft, judge("equal", text, at), chat(text, "answer/chat"))
            plan = [planted.defect for request in asked for planted in engine.plan(request)]
            if plan:
                failed[roots[place]].append((at, *plan))
            else:
                pool[place] = text
    assert list(failed.values()) == [
        [(1, "evolve.unchanged"), (2, "evolve.leak")],
        [(2, "evolve.leak"), (3, "evolve.bloated")],
        [(4, "evolve.drifted")],
        [(at, "equal.equal") for at in (1, 2, 3, 4)],
        [(at, "answer.refusal") for at in (1, 2, 3, 4)],
        [],
    ]
    assert [text == root for text, root in zip(pool, roots, strict=True)] == [False] * 3 + [True] * 2 + [False]
    assert all(text.startswith(root) for text, root in zip(pool, roots, strict=True))


# Rules.


def test_the_first_rule_that_fits_by_glob_and_pattern_decides():
    engine = script("rules")
    assert ask(engine, chat("about Bees", "bootstrap/chat")).text == "9. Count the bees.\n10. Name the queen."
    assert "bees" not in ask(engine, chat("about wasps", "bootstrap/chat")).text
    assert "bees" not in ask(engine, chat("about Bees", "answer/chat")).text
    assert ask(engine, chat("Label this")).text.startswith("Class label:")


def test_replies_are_picked_by_the_hash():
    engine = script("rules")
    picked = [ask(engine, chat(f"{n}", "judge/x")) for n in range(60)]
    assert {reply.text for reply in picked} == {"Score: 1", "Score: 2", "Score: 3"}
    assert {reply.fingerprint for reply in picked} == {"fp_1"}
    assert picked[0] == ask(engine, chat("0", "judge/x"))


def test_a_literal_reply_keeps_to_stop_strings_tokens_and_prefill():
    engine = script("rules")
    bees = ("Bees", "bootstrap/chat")
    assert ask(engine, chat(*bees, prefill="9.")).text == " Count the bees.\n10. Name the queen."
    assert ask(engine, chat(*bees, stop=("\n10",))).text == "9. Count the bees."
    cut = ask(engine, chat(*bees, max_tokens=3))
    assert (cut.text, cut.finish) == ("9. Count the", "length")


def test_a_rule_may_end_a_text_as_it_likes_unless_it_is_cut_before():
    engine = script("rules")
    assert ask(engine, chat("Half")).finish == "content_filter"
    assert ask(engine, chat("Half", max_tokens=2)).finish == "length"


def test_reasoning_is_kept_apart_and_eats_the_tokens():
    engine = script("rules")
    reply = ask(engine, chat("Think", max_tokens=10))
    assert (reply.text, reply.reasoning, reply.model) == ("done", "one two three four five", "thinker-2")
    assert (reply.usage.completion, reply.usage.reasoning) == (6, 5)
    spent = ask(engine, chat("Think", max_tokens=4))
    assert spent.error and spent.error.kind == "thinking"
    assert (spent.text, spent.reasoning) == ("", "one two three four")


def test_a_failure_of_one_request_is_a_reply():
    reply = ask(script("rules"), chat("Forbidden"))
    assert reply.error and (reply.error.kind, reply.error.message) == ("content_policy", "not that")


def test_a_rule_for_one_call_leaves_the_others_alone():
    engine = Scripted("s", Script.model_validate({"rule": [{"calls": [2, 4], "reply": "now"}]}))
    assert [ask(engine, chat("x")).text == "now" for _ in range(5)] == [False, True, False, True, False]


def test_a_rule_can_fail_the_engine():
    engine = Scripted("scripted/x", Script.model_validate({"rule": [{"match": "x", "fail": "key refused"}]}))
    with pytest.raises(EngineError, match="scripted/x: key refused"):
        ask(engine, chat("x"))
    assert ask(engine, chat("y")).text


def test_a_rule_that_fails_the_engine_plans_nothing():
    engine = Scripted(
        "s", Script.model_validate({"defects": {"answer": {"empty": 1}}, "rule": [{"match": "x", "fail": "no"}]})
    )
    assert [len(engine.plan(chat(text))) for text in "xy"] == [0, 1]


def test_a_rule_without_outcome_changes_only_what_it_names():
    engine = Scripted("s", Script.model_validate({"seed": 7, "rule": [{"model": "m", "delay_ms": 0}]}))
    assert ask(engine, tasks(1)) == ask(script("plain"), tasks(1)).model_copy(update={"model": "m"})


# Failure and time.


def test_the_outage_begins_after_so_many_calls():
    engine = script("failures")
    for n in range(40):
        ask(engine, chat(f"{n}"))
    for _ in range(2):
        with pytest.raises(EngineError, match="the model is gone"):
            ask(engine, chat("again"))


def test_an_outage_of_some_time_ends():
    engine = Scripted("s", Script.model_validate({"outage": {"after": 1, "seconds": 0.05}}))
    assert ask(engine, chat("x")).text
    with pytest.raises(EngineError):
        ask(engine, chat("x"))
    time.sleep(0.06)
    assert ask(engine, chat("x")).text


def test_requests_fail_as_often_and_in_the_ways_that_the_script_says():
    plain = script("failures")._script
    engine = Scripted("s", plain.model_copy(update={"outage": None, "rule": ()}))
    requests = [chat(f"{n}") for n in range(2000)]
    kinds = Counter()
    for request, reply in zip(requests, ask_all(engine, requests), strict=True):
        plan = engine.plan(request)
        kinds[reply.error.kind if reply.error else None] += 1
        assert bool(reply.error) == any(planted.defect.startswith("any.") for planted in plan)
        assert not (reply.error and reply.text)
    # Three attempts in a row fail with 0.5³; of the rest each kind takes a twentieth.
    assert 280 < kinds["gave_up"] < 400
    assert all(60 < kinds[kind] < 120 for kind in ("content_policy", "malformed", "thinking"))


def test_late_requests_overtake_early_ones():
    engine, done = script("slow"), []

    async def one(n: int) -> None:
        await engine.complete(chat(f"{n}"))
        done.append(n)

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, range(40)))

    asyncio.run(all_of_them())
    assert sorted(done) == list(range(40)) != done


def test_latency_is_log_normal_about_its_median():
    engine = Scripted("s", Script.model_validate({"latency": {"median_ms": 20, "sigma": 0.5}}))
    delays = sorted(_delay_ms(engine, chat(f"{n}")) for n in range(2000))
    assert 19 < delays[1000] < 21
    assert 1.5 < delays[1682] / delays[1000] < 1.8  # one sigma: e^0.5


def _delay_ms(engine: Scripted, request: Request) -> float:
    """The time that a call would sleep, without sleeping."""
    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfinstruct.engines.scripted.asyncio.sleep", note)
        coroutine = engine.complete(request)
        with pytest.raises(StopIteration):
            coroutine.send(None)
    return slept[0] * 1000


def test_attempts_that_failed_cost_time():
    def total(rate: float) -> float:
        table = {"latency": {"median_ms": 10, "sigma": 0}, "transient": {"rate": rate, "wait_ms": 5}}
        return sum(_delay_ms(Scripted("s", Script.model_validate(table)), chat(f"{n}")) for n in range(300))

    assert total(0) == pytest.approx(3000)
    assert total(0.5) > 4000
    assert total(1) == pytest.approx(300 * (4 * 10 + 3 * 5))


def test_a_reply_without_latency_still_lets_others_run():
    async def race() -> list[str]:
        order: list[str] = []

        async def reply() -> None:
            await script("plain").complete(chat("x"))
            order.append("reply")

        async def other() -> None:
            order.append("other")

        await asyncio.gather(reply(), other())
        return order

    assert asyncio.run(race()) == ["other", "reply"]


# Opening.


@pytest.mark.parametrize("name", ["scripted", "scripted/", "scripted/demo"])
def test_the_demo_needs_no_file(name):
    engine = open_engine(name)
    assert isinstance(engine, Engine)
    assert engine.facts() == {"script": "demo"}
    assert ask(engine, chat("Hello")).text


def test_a_script_is_named_by_its_path_and_known_by_its_digest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text('concurrency = 3\nstyles = ["completion"]\n')
    engine = open_engine("scripted/x.toml")
    assert (engine.name, engine.concurrency, engine.styles) == ("scripted/x.toml", 3, ("completion",))
    absolute = open_engine(f"scripted/{tmp_path / 'x.toml'}", Options(concurrency=5))
    assert (absolute.name, absolute.concurrency) == (f"scripted/{tmp_path}/x.toml", 5)
    assert engine.facts()["script_sha256"] == absolute.facts()["script_sha256"]
    asyncio.run(engine.close())


def test_concurrency_and_styles_have_defaults():
    engine = script("plain")
    assert (engine.concurrency, engine.styles) == (16, ("prefill", "chat", "completion", "json"))


def test_a_script_that_is_not_there_is_a_wrong_command():
    with pytest.raises(UsageError, match=r"there is no script 'nowhere\.toml'"):
        open_engine("scripted/nowhere.toml")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("seed = \n", r"x\.toml:1: not TOML"),
        ("speed = 1\n", r"x\.toml: speed: there is no such key"),
        ('seed = "many"\n', r"x\.toml: seed: .*integer.*not 'many'"),
        ('styles = ["talk"]\n', r"x\.toml: styles\.1: .*not 'talk'"),
        ("[defects.tasks]\nnear_duplicate = 1.5\n", r"x\.toml: defects\.tasks\.near_duplicate: .*not 1\.5"),
        ("[defects.tasks]\nugly = 0.5\n", r"x\.toml: defects\.tasks\.ugly: there is no such key"),
        ("[defects.answer]\nempty = 0.6\nrefusal = 0.6\n", r"x\.toml: defects: the shares of answer add up"),
        ('[[rule]]\nreply = "a"\n[[rule]]\nmatch = "("\n', r"x\.toml: rule\.2\.match: not a regular expression"),
        ('[[rule]]\nreply = "a"\nwrite = "tasks"\n', r"x\.toml: rule\.1: a rule has one outcome, .* reply and write"),
        (
            '[[rule]]\nplant = "evolve.ugly"\n',
            r"x\.toml: rule\.1\.plant: no writer has such a defect, not 'evolve\.ugly'",
        ),
        ('[[rule]]\nplant = "any.error"\n', r"x\.toml: rule\.1\.plant: no writer has such a defect"),
        ('[[rule]]\nreply = "a"\nplant = "equal.equal"\n', r"rule\.1: a rule has one outcome, .* reply and plant"),
        ('[[rule]]\nerror = {kind = "tired", message = "m"}\n', r"x\.toml: rule\.1\.error\.kind: .*not 'tired'"),
        ("[outage]\nseconds = 1\n", r"x\.toml: outage\.after: Field required"),
    ],
)
def test_a_wrong_script_is_refused_by_file_key_and_value(tmp_path, content, complaint):
    path = tmp_path / "x.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=complaint) as caught:
        open_scripted(str(path), Options())
    assert caught.value.hint


def test_a_script_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"seed = 1 # \xff")
    with pytest.raises(InputError, match=r"x\.toml: .*utf-8"):
        open_scripted(str(tmp_path / "x.toml"), Options())


# The grammar.


def written(count: int) -> list[str]:
    engine = script("plain")
    lines: list[str] = []
    for reply in ask_all(engine, [tasks(seed) for seed in range(math.ceil(count / 7))]):
        lines += [text for _, text in numbered(reply, 5)]
    return lines[:count]


def test_instructions_stay_novel():
    index = NoveltyIndex(0.7)
    for text in written(3000):
        if index.nearest(text) is None:
            index.add(text)
    assert len(index) > 0.9 * 3000


def test_instructions_offend_against_no_other_rule():
    texts = written(5000)
    assert all(4 <= len(text.split()) <= 60 for text in texts)
    assert all(re.fullmatch(r"[A-Z][^\d:]*[.?]|[A-Z][^\d]*: which [^\d:]*\?", text) for text in texts)
    assert not [text for text in texts if WORDING.search(text)]
    assert not [
        text for text in texts if re.search(r"\b[aA] (?!eulogy)[aeio]|\ban [^aeioh]|[{}]|  | [.,?]|\bExample\b", text)
    ]
    openings = Counter(" ".join(text.split()[:3]) for text in texts)
    assert max(openings.values()) < 0.02 * len(texts)


def test_the_writers_draw_only_from_their_own_chance():
    random.seed(1)
    first = ask(script("defects"), tasks(4))
    random.seed(2)
    assert ask(script("defects"), tasks(4)) == first


# The page about it.

PAGE = (Path(__file__).parent.parent / "docs" / "scripted.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_every_script_on_the_page_is_one(block, tmp_path):
    (tmp_path / "x.toml").write_text(block)
    assert open_scripted(str(tmp_path / "x.toml"), Options())


def test_the_page_shows_the_defaults_and_names_every_key():
    shown = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
    shown.pop("outage")
    assert Script.model_validate(shown) == Script()
    defects = Script().defects.model_dump()
    assert not [key for table in defects.values() for key in table if f"`{key}`" not in PAGE]
    assert not [key for key in Rule.model_fields if not re.search(rf"^{key} = ", PAGE, re.MULTILINE)]


def test_the_page_shows_a_plan_as_it_prints():
    assert repr(Planted(3, "tasks.near_duplicate")) in PAGE
