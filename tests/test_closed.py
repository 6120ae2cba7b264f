"""Closed tasks and what shows in answers: labels are compared without their clothes, and ROUGE-L is rouge-score's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from selfinstruct.evaluate.closed import (
    Traits,
    first_line,
    label_space,
    matches,
    normal,
    options,
    rates,
    rouge,
    traits,
)

SEEDS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "seeds" / "175.jsonl").read_text(encoding="utf-8").splitlines()
]
SCORER = rouge_scorer.RougeScorer(["rougeL"])
WORDS = st.lists(st.sampled_from(["the", "a", "The", "cat", "Sat", "sat", "on", "x-1", "né", "猫", "."]), max_size=14)
TEXTS = WORDS.map(" ".join)
CHEMISTRY = "Which change is chemical?\nA) Ice melts.\nB) Sugar dissolves.\nC) A nail rusts in the rain."


# Labels.


@given(st.text())
def test_a_normal_form_is_its_own(text):
    assert normal(normal(text)) == normal(text)


@given(
    st.text("aàB1é猫 -", min_size=1),
    st.sampled_from(["", "the ", "A ", "**", '"', "(", " \n"]),
    st.sampled_from(["", ".", "**", '"', " \t", "!"]),
)
def test_what_stands_around_a_label_makes_no_other(label, before, after):
    label = f"x{label}x"
    assert normal(f"{before}{label.upper()}{after}") == normal(label)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Positive.\n", "positive"),
        ("**“Not  enough information”**", "not enough information"),
        ("`yes`", "yes"),
        ("The answer", "answer"),
        ("A nail rusts.", "nail rusts"),
        ("a", "a"),
        ("The.", "the"),
        ("Café", normal("Cafe\u0301")),
        ("\uff39\uff25\uff33", "yes"),
        ("\u210c", "h"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("- 5", "5"),
        (".5", ".5"),
        ("(20%)", "20%"),
        ("C#.", "c#"),
        ("C++", "c++"),
        ("] )", "] )"),
        ("", ""),
        ("\ufeffno\u200b", "no"),
    ],
)
def test_normal_forms_by_hand(text, expected):
    assert normal(text) == expected


def test_truth_has_other_names_only_where_the_task_says_so():
    for names in (("Yes", "true.", "1"), ("No", "FALSE", "0")):
        assert len({normal(name, booleans=True) for name in names}) == 1
        assert len({normal(name) for name in names}) == 3
        assert matches(names[0], [names[1]], booleans=True)
        assert not matches(names[0], [names[1]])


def test_of_an_answer_the_first_line_is_the_label():
    assert first_line("\n \n Positive\nNegative") == " Positive"
    assert first_line(" \n") == ""
    assert matches("\nPositive.\n\nReview: more of them", ["negative", "positive"])
    assert not matches("Positive\nand more", ["positive"], label=False)
    assert not matches("Not positive", ["positive"])
    assert not matches("", ["positive"])
    with pytest.raises(ValueError, match="without a reference"):
        matches("positive", [])


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_an_answer_matches_if_it_matches_one(answer, references):
    assert matches(answer, references) == any(matches(answer, [one]) for one in references)
    assert matches(references[0], [*references[1:], references[0]], label=False)


def test_an_options_letter_stands_for_its_text_on_either_side():
    choices = options(CHEMISTRY)
    assert choices == {"a": "Ice melts.", "b": "Sugar dissolves.", "c": "A nail rusts in the rain."}
    for answer in ("C", "c.", "(C)", "C) A nail rusts in the rain.", "a nail rusts in the rain", "**C**"):
        assert matches(answer, ["A nail rusts in the rain."], choices=choices)
        assert matches(answer, ["C"], choices=choices)
        assert not matches(answer, ["B", "Ice melts."], choices=choices)
    assert not matches("C) Ice melts.", ["C"], choices=choices)
    assert not matches("C", ["A nail rusts in the rain."])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was (A) louder (B) quieter", {"a": "louder", "b": "quieter"}),
        ("- a. one\n- b. two", {"a": "one", "b": "two"}),
        ("A) one\nC) three", {}),
        ("B) two\nC) three", {}),
        ("A) one\nB) two\n\nA) eins\nB) zwei", {}),
        ("A) one", {}),
        ("Plan A) or so. I, Robot", {}),
        ("Which is it?", {}),
    ],
)
def test_options_are_a_list_from_a_on(text, expected):
    assert options(text) == expected


# Label spaces.


def test_the_seeds_labels_are_in_the_spaces_found_and_other_seeds_have_none():
    found = 0
    for seed in SEEDS:
        space = label_space(seed["instruction"])
        assert space is None or seed["is_classification"], seed["instruction"]
        if space:
            found += 1
            assert all(matches(space_label, space) for space_label in space)
            assert all(matches(instance["output"], space) for instance in seed["instances"]), seed["instruction"]
    assert found >= 20


@pytest.mark.parametrize(
    ("instruction", "space"),
    [
        ("Answer yes or no.", ("yes", "no")),
        ("Is it spam? Answer only with Yes or No. Explain nothing.", ("Yes", "No")),
        ("Output A or B", ("A", "B")),
        ("Classify the tweet as positive, negative, or neutral.", ("positive", "negative", "neutral")),
        ('Choose between "Siren far" and "Siren near".', ("Siren far", "Siren near")),
        ("Possible answers are: calm, angry, and sad.", ("calm", "angry", "sad")),
        ("Tell whether it is spam. Answer toxic or not toxic.", ("toxic", "not toxic")),
        ("Classify the review as good or bad. Output good or bad.", ("good", "bad")),
        ("Which is it? (A) hot (B) cold\nAnswer hot or cold.", ("hot", "cold")),
        # Better none than a wrong one.
        ("Answer in one or two sentences.", None),
        ("Answer briefly or at length.", None),
        ("Choose one or more.", None),
        ("Choose red or blue items.", None),
        ("Choose a name or a number and explain why.", None),
        ("Return the list or an empty string.", None),
        ("Output JSON or YAML.", None),
        ("Answer yes or no. If you are not sure, answer unknown.", None),
        ("Answer yes or no if you can.", None),
        ("Output Supported or Refuted, otherwise output Unknown.", None),
        ("Answer yes or no. Then answer right or wrong.", None),
        ("Write a poem or a story.", None),
        ("Which is more important: health or wealth?", None),
        ("Create a function that tells whether a number is even or odd.", None),
        ("Describe a village or town that you know.", None),
        ('Choose between "ice" and "sand". Ice is smooth since it has (A) more friction (B) less friction', None),
        ("", None),
    ],
)
def test_a_label_space_is_found_where_an_instruction_names_it_plainly(instruction, space):
    assert label_space(instruction) == space


@given(
    st.text(st.sampled_from("ab, .:\n\"or'(A)"))
    | st.lists(st.sampled_from(["Answer", "a", "b", "or", ",", ":", '"', "if"])).map(" ".join)
)
def test_whatever_is_found_is_several_different_labels(instruction):
    space = label_space(instruction)
    assert space is None or (len({normal(label) for label in space}) == len(space) > 1 and all(space))


# Free text.


@given(TEXTS | st.text(), st.lists(TEXTS | st.text(), min_size=1, max_size=4))
def test_rouge_l_with_the_nearest_reference_is_rouge_scores(answer, references):
    assert rouge(answer, references) == max(SCORER.score(one, answer)["rougeL"].fmeasure for one in references)


def test_rouge_l_has_another_tokenizer_for_other_scripts():
    assert rouge("猫", ["猫"]) == 0
    assert rouge("猫", ["犬", "猫"], "unicode") == 1


def test_traits_are_what_the_rules_of_the_data_object_to():
    assert traits("Name a river.", "", "The Rhine.", cut=False) == (False, False, False, False, 2)
    assert traits("Name a river.", "", " \n", cut=False).empty
    assert traits("Name a river.", "", "I'm sorry, but I cannot help with that.", cut=False).refusal
    assert not traits("Refuse politely.", "", "I'm sorry, but I cannot help with that.", cut=False).refusal
    circles = "It flows to the sea.\n" * 4
    assert traits("Name a river.", "", circles, cut=True) == (False, True, False, True, 20)
    assert not traits("Repeat it four times.", "", circles, cut=False).repetition


@given(st.lists(st.none() | st.builds(Traits, *(st.booleans(),) * 4, st.integers(0, 900)), max_size=20))
def test_rates_are_shares_of_the_answers_that_came(answers):
    found = rates(answers)
    there = [one for one in answers if one is not None]
    assert (found.answers, found.missing) == (len(there), len(answers) - len(there))
    assert (found.words.items, found.words.missing) == (found.answers, found.missing)
    for name in ("empty", "cut", "refusal", "repetition"):
        share = getattr(found, name)
        assert (share is None) == (not there)
        if share:
            assert share.value == sum(getattr(one, name) for one in there) / len(there)
    if found.words.interval:
        assert found.words.interval.value == pytest.approx(sum(one.words for one in there) / len(there))
