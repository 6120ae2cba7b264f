"""The rules that ask: what they ask and of whom, every form of a verdict, and garbage that is no verdict."""

# ruff: noqa: RUF001 - dashes and digits of other scripts are meant

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.engines import Options, Reply, Style
from selfinstruct.engines.scripted import open_scripted
from selfinstruct.filters import Asking, Verdict
from selfinstruct.filters.judge import Answerable, Difficulty, Equal
from selfinstruct.operators import Setting
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import load
from selfinstruct.records import Direction, Evolution, Record

LAW = settings(deadline=None, max_examples=300)
RECIPE = load("evolve/wizardlm")
PROMPTS = Prompts()
SCRIPT = Path(__file__).parent / "scripts" / "evolve.toml"
PARENT, CHILD = "Name three rivers.", "Name three rivers that end in a lake, and {{ say }} why {they} do."
ROW = Record(instruction="Name the rivers.", input="Rhine, bread, Nile", evolution=Evolution(lineage=0, root="r"))
RULES = (Equal, Answerable, Difficulty)


def child(direction: Direction = "in-depth", **more: Any) -> Record:
    evolution = Evolution(lineage=0, root="r", round=1, operator="o", direction=direction, attempt=1, before=PARENT)
    return Record(instruction=CHILD, task="t", evolution=evolution, **more)


def setting(style: Style = "chat") -> Setting:
    return Setting(RECIPE, PROMPTS, "prefill", "prefill", judge_style=style)


def read(rule: type[Equal] | type[Answerable], text: str, **more: Any) -> bool | None:
    """True where it objects, None where there is no verdict."""
    verdict = rule(RECIPE).read(child(), Reply(text=text, **more))
    assert not (verdict.unread and verdict.objection) and "\n" not in (verdict.objection or "") + verdict.unread
    return None if verdict.unread else verdict.objection is not None


def rated(text: str, *overrides: str, **more: Any) -> Verdict:
    return Difficulty(load("evolve/wizardlm", overrides) if overrides else RECIPE).read(
        child(), Reply(text=text, **more)
    )


# What is asked.


def test_each_is_a_rule_that_asks_and_says_where_its_prompt_lies() -> None:
    assert [rule.stage for rule in RULES] == ["judge/equal", "judge/answerable", "judge/difficulty"]
    assert [rule.measures for rule in RULES] == [False, False, True]
    for rule in RULES:
        assert isinstance(rule(RECIPE), Asking)


@pytest.mark.parametrize("style", ["chat", "completion"])
def test_texts_are_asked_about_as_they_are_with_the_judges_prompt(style: Style) -> None:
    for rule in RULES:
        request = rule(RECIPE).ask(child(), setting(style))
        assert request is not None and request.purpose == f"{rule.stage}/{style}"
        assert request.sampling.temperature == 0
        assert CHILD in request.text() and (PARENT in request.text()) == (rule is Equal)


def test_equality_is_asked_of_a_child_and_its_parent_only() -> None:
    equal = Equal(RECIPE)
    assert equal.ask(child("in-breadth"), setting()) is not None
    assert equal.ask(child("downward"), setting()) is not None
    for record in (child("answer"), ROW, Record(instruction="A task.")):
        assert equal.ask(record, setting()) is None


def test_an_input_that_stands_alone_is_asked_about_too() -> None:
    for rule in (Answerable, Difficulty):
        for record in (ROW, Record(instruction=ROW.instruction, input=ROW.input), child("answer")):
            request = rule(RECIPE).ask(record, setting())
            assert request is not None and record.instruction in request.text()
            assert not record.input or f"{record.instruction}\n\n{record.input}" in request.text()


@pytest.mark.parametrize("style", ["chat", "completion"])
def test_what_the_scripted_judge_says_of_good_drafts_is_read(style: Style) -> None:
    engine = open_scripted(str(SCRIPT), Options())
    for rule in RULES:
        asking = rule(RECIPE)
        request = asking.ask(child(), setting(style))
        assert request is not None
        verdict = asking.read(child(), asyncio.run(engine.complete(request.model_copy(update={"seed": 1}))))
        assert (verdict.objection, verdict.unread) == (None, "")
        assert set(verdict.scores) == ({"difficulty"} if rule is Difficulty else set())


# Yes or no.

EQUAL = ["Equal", "EQUAL", "The same", "same", "identical", "equivalent", "not different"]
UNEQUAL = ["Not equal", "NOT EQUAL", "not-equal", "not_equal", "Unequal", "non-equal", "Different", "not the same"]
UNEQUAL += ["aren’t equal", "not really equal", "never quite equal"]
YES = ["Yes", "YES", "answerable", "can be answered"]
NO = [
    "No",
    "NO",
    "unanswerable",
    "not answerable",
    "cannot be answered",
    "can't be answered",
    "cannot really be answered",
]
FORMS = [
    "{}",
    " {}\n",
    "**{}**",
    "`{}`.",
    "“{}”",
    "- {}",
    "1. {}",
    "<verdict>{}</verdict>",
    '{{"verdict": "{}"}}',
    "\\boxed{{{}}}",
    "Verdict: {}",
    "**Verdict:** {}!",
    "So my verdict is: **{}**",
    "I compared them with care.\n\n{}",
    "{}. There is a reason for that.",
    "{} – there is a reason for that.",
    "{} (there is a reason for that)",
    "{}\n\nThere is a reason for that.\nAnd another one.",
    "Hm.\n\nVerdict: {}\n\nThere is a reason for that.",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_verdict_is_read(form: str) -> None:
    for rule, objects, said in ((Equal, EQUAL, UNEQUAL), (Answerable, NO, YES)):
        for word in objects:
            assert read(rule, form.format(word)) is True, word
        for word in said:
            assert read(rule, form.format(word)) is False, word


@LAW
@given(st.sampled_from(FORMS[:13]), st.sampled_from(EQUAL + UNEQUAL), st.sampled_from(EQUAL + UNEQUAL))
def test_the_last_line_decides(form: str, earlier: str, last: str) -> None:
    assert read(Equal, f"{form.format(earlier)}\n{form.format(last)}") == (last in EQUAL)


@pytest.mark.parametrize(
    ("text", "equal"),
    [
        ("They are equal in depth.\n\nNot equal", False),
        ("Not equal\n\nThe second asks more, but both have equal length.", False),
        ("Not equal. The second has one condition more; both are of equal length.", False),
        ("Equal\n\nTherefore the prompts are not equal.", False),
        ("The two are equal in what they ask for, and in how deeply", None),
        ("Is it equal? I think the second prompt asks for more.", None),
        ("They are equal in constraints but not in depth.", None),
        ("They do not have equal requirements, for the second has one more", False),
        ("Equal or not?", None),
        ("They are equally hard", None),
        ("The same topic, but with other questions about different things", None),
        ("Perhaps.", None),
    ],
)
def test_prose_is_read_by_its_last_words_for_it(text: str, equal: bool | None) -> None:
    assert read(Equal, text) == equal


@pytest.mark.parametrize(
    ("text", "answerable"),
    [
        ("There is no table missing.\n\nYes", True),
        ("No: the text that it speaks of is missing.", False),
        ("Yes, although it is no simple task.", True),
        ("It refers to a table, and so it cannot be answered as it stands, in my view", False),
        ("There is no table in it", None),
        ("Nobody knows.", None),
    ],
)
def test_a_no_within_a_sentence_is_no_verdict(text: str, answerable: bool | None) -> None:
    found = read(Answerable, text)
    assert (None if found is None else not found) == answerable


# Scores.


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 7", 7),
        ("7", 7),
        (" 10\n", 10),
        ("**Score:** 7/10", 7),
        ("Score: 7 out of 10.", 7),
        ("[[7]]", 7),
        ("(7)", 7),
        ("Score: (7)", 7),
        ("Score: 7 (it takes 2 steps)", 7),
        ("Rating: [[8]]", 8),
        ("Score – 7", 7),
        ("score=3", 3),
        ("7.5", 7.5),
        ("Score: 7,5", 7.5),
        ("٧", 7),
        ("It takes 3 steps and 2 formulas.\n\nScore: 5", 5),
        ("Score: 7\n\n1. It takes algebra.\n2. It takes time.", 7),
        ("Difficulty: 4, because it takes 2 steps.", 4),
        ("I would rate it as a 6 on a scale from 1 to 10.", 6),
        ("On a scale of 1 to 10, this is a 6.", 6),
        ("1-10: 4", 4),
        ("Score: 8\nNo, wait.\nScore: 9", 9),
    ],
)
def test_every_form_of_a_score_is_read(text: str, score: float) -> None:
    assert rated(text) == Verdict(scores={"difficulty": score})


@pytest.mark.parametrize(
    "text",
    [
        *("", " \n", "Perhaps.", "Score: N", "Score: 0", "Score: 11", "Score: -3", "-3", "70%", "7th", "1 to 10"),
        "10" * 3000,
        "It has 3 parts and 4 questions.",
        "1. It takes algebra.\n2. It takes time.",
    ],
)
def test_what_is_no_score_from_1_to_10_is_unread(text: str) -> None:
    verdict = rated(text)
    assert verdict.unread and not verdict.scores and verdict.objection is None


@LAW
@given(st.integers(1, 100), st.integers(0, 10), st.integers(0, 10))
def test_a_draft_outside_the_bounds_goes_and_its_score_stays(tenths: int, low: int, high: int) -> None:
    if tenths < 10:
        return
    table = RECIPE.difficulty.model_copy(update={"min": float(low), "max": float(high)})
    rule = Difficulty(RECIPE.model_copy(update={"difficulty": table}))
    verdict = rule.read(child(), Reply(text=f"Score: {tenths / 10}"))
    assert verdict.scores == {"difficulty": tenths / 10}
    assert (verdict.objection is None) == (low <= tenths / 10 <= high)


def test_without_bounds_a_score_is_no_objection_and_with_them_the_reason_says_both() -> None:
    assert all(rated(str(score)).objection is None for score in range(1, 11))
    assert rated("9", "difficulty.max=8").objection == "difficulty 9, more than 8"
    assert rated("2", "difficulty.min=2.5").objection == "difficulty 2, less than 2.5"


# Replies without a verdict.


def test_a_reply_that_was_cut_off_has_the_verdict_that_stands_in_it_or_none() -> None:
    assert read(Equal, "Both are equal in depth, and", finish="length") is None
    assert read(Equal, "They come out equal", finish="length") is None
    assert read(Equal, "Not equal\n\nThe second", finish="length") is False
    assert read(Answerable, " Yes", finish="length") is False
    assert rated("Score: 7\n\nThis is", finish="length").scores == {"difficulty": 7}
    assert "cut off (length)" in rated("Score: 1", finish="length").unread  # of 10
    assert "cut off (content_filter)" in rated("", finish="content_filter").unread


def test_what_could_not_be_read_is_quoted() -> None:
    assert Equal(RECIPE).read(child(), Reply(text="Perhaps.")).unread == "neither equal nor not equal in it: 'Perhaps.'"
    assert Answerable(RECIPE).read(child(), Reply(text="")).unread == "the reply is empty"


PIECES = "equal not No yes Score: 7 10 /10 of ** - : . < > ( ) the can't be answered un"
WORDS = st.sampled_from([*PIECES.split(), "\n"])


@LAW
@given(st.text() | st.lists(WORDS | st.text(max_size=3)).map(" ".join), st.sampled_from(["stop", "length"]))
def test_garbage_is_unread_or_read_and_never_an_error(text: str, finish: Any) -> None:
    for rule in RULES:
        verdict = rule(RECIPE).read(child(), Reply(text=text, finish=finish))
        assert bool(verdict.unread) <= (verdict.objection is None and not verdict.scores)
        assert all(1 <= score <= 10 for score in verdict.scores.values())
        assert rule is not Difficulty or bool(verdict.unread) != bool(verdict.scores)


@pytest.mark.parametrize("piece", ["not ", "n't", "a", "equal ", "score ", "1", "1 ", "<", "**", ": ", "\n", "can be "])
def test_a_long_reply_is_read_in_a_moment(piece: str, no_hang: None) -> None:
    for rule in RULES:
        rule(RECIPE).read(child(), Reply(text=piece * (200_000 // len(piece))))
