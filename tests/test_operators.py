"""The papers' readers: in compat what the originals read, in strict nothing lost and nothing made up; and what is drawn
and asked."""

# ruff: noqa: RUF001 - marks of other scripts are meant

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selfinstruct.encodings import WITH_INPUT, WITHOUT_INPUT, cut_label, encode
from selfinstruct.engines import Failure, Reply, Request, Sample, Style
from selfinstruct.errors import UsageError
from selfinstruct.filters import Rules
from selfinstruct.formats import read_seeds
from selfinstruct.operators import Pool, Read, Setting, Unreadable
from selfinstruct.operators.alpaca import Alpaca, AsDrafted, read_tasks, read_tasks_compat
from selfinstruct.operators.answer import Answer
from selfinstruct.operators.bootstrap import Bootstrap, parted, read_list, read_list_compat, shown, tidied, unfenced
from selfinstruct.operators.instances import (
    Instance,
    Instances,
    is_classification,
    read_instances,
    read_instances_compat,
    read_labels,
    read_labels_compat,
)
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import load
from selfinstruct.records import Record

SEEDS = read_seeds(Path(__file__).parents[1] / "seeds" / "175.jsonl")
PROMPTS = Prompts()
LAW = settings(deadline=None, max_examples=200)
MARK = "«3fa9c01b»"


def setting(recipe: str, *overrides: str, style: Style = "completion", **more: Any) -> Setting:
    return Setting(load(recipe, overrides), PROMPTS, style, style, **more)


def why(found: Sequence[object]) -> list[str]:
    """What was read, and the reason for what was not."""
    return [
        one.by if isinstance(one, Unreadable) else one.instruction if isinstance(one, Record) else str(one)
        for one in found
    ]


def pairs(found: Sequence[Instance | Unreadable]) -> list[tuple[str, str] | str]:
    return [one.by if isinstance(one, Unreadable) else (one.input, one.output) for one in found]


def read(found: Sequence[Any]) -> list[Any]:
    return [one for one in found if not isinstance(one, Unreadable)]


def replies(*said: Reply | str) -> tuple[Callable[[str, Request, int], Coroutine[Any, Any, Reply]], list[Any]]:
    """An ``ask`` that gives these replies in turn, and the list of what it was asked."""
    asked: list[tuple[str, Request, int]] = []

    async def ask(stage: str, request: Request, attempt: int) -> Reply:
        one = said[len(asked)]
        asked.append((stage, request, attempt))
        return one if isinstance(one, Reply) else Reply(text=one)

    return ask, asked


# The list, as the original code reads it.

PERU = (
    " Name three rivers in Peru.\n10. Explain why NASA uses SI units.\n11 . Draw a cat.\n12. Go home now\n"
    '13. Sum it up!\n14. "Quote" the first line here\n15. Éclair recipes for a party please'
)


@pytest.mark.parametrize(
    ("completion", "cut", "accepted"),
    [
        (PERU, False, ["Name three rivers in peru.", "Explain why nasa uses si units."]),
        (PERU, True, []),
        (
            " Write a program that prints a list\n10. write a PROGRAM to sort\n11. Write a function in Rust to add",
            False,
            ["Write a function in rust to add"],
        ),
        (
            " Find the bitmap of the given roadmap\n10. Find the map of the area",
            False,
            ["Find the bitmap of the given roadmap"],
        ),
        (
            " One two three\n10. one two three four\n9. weird numbering is still split",
            False,
            ["One two three four", "Weird numbering is still split"],
        ),
        (" Convert version 1\n2. 5 to text now please", False, ["5 to text now please"]),
    ],
)
def test_compat_accepts_from_a_list_what_the_original_accepts(completion: str, cut: bool, accepted: list[str]) -> None:
    recipe = load("self-instruct", ["behaviour=compat"])
    rules = Rules(recipe.filters.draft, recipe, "draft")
    kept = []
    for item in read(read_list_compat(completion, cut=cut)):
        record = Record(instruction=item, task=item)
        if rules.objection(record) is None:
            rules.learn(record)
            kept.append(item)
    assert kept == accepted


# The list, strictly. Numbers in comments are those of docs/methods.md.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" Name rivers in Peru.\n10. explain NASA's rules.", ["Name rivers in Peru.", "Explain NASA's rules."]),  # 1
        (" Put in order:\n1. boil\n2. pour\n10. Next one.", ["Put in order: 1. boil 2. pour", "Next one."]),  # 3
        (" One.\n10) Two.\n11 : Three.\n12.Four.", ["One.", "Two.", "Three.", "Four."]),
        (" One.\n12. Two, after a gap.", ["One.", "Two, after a gap."]),
        (" One.\n13. still one", ["One. 13. still one"]),
        (" One.\n9. again\n8. back", ["aside", "Again 8. back"]),
        (" Ask who is on page 16. Then go on.\n10. Two.", ["Ask who is on page 16. Then go on.", "Two."]),  # 4
        (" One.\n10. Two,", ["One.", "dangling"]),  # 5
        (" One.\n10. Sort by name and", ["One.", "dangling"]),
        (" One.\n10. Translate this:", ["One.", "dangling"]),
        (" 翻译。\n10. 苹果、", ["翻译。", "dangling"]),
        (" Translate this:\n10. Find the brand.", ["Translate this:", "Find the brand."]),
        (" One.\n**10. Two.**\n**11.** Three.\n**12**. Four.", ["One.", "Two.", "Three.", "Four."]),
        (" One.\n### 10. Two.\n11. **Sort** by 2**3.", ["One.", "Two.", "Sort by 2**3."]),
        ("9. One.\n10. Two.", ["One.", "Two."]),
        ("1. One.\n2. Two.\n3. Three.", ["One.", "Two.", "Three."]),
        ("10. Ten.\n11. Eleven.", ["Ten.", "Eleven."]),
        (" One.\r\n10. Two.\r\n11. Three.\r\n", ["One.", "Two.", "Three."]),
        (" 10 apples cost 3 euros; how much is one?\n10. 3 men dig. How long?", None),
        (" 9.5 litres of water weigh how much?\n10. 10:30 is how many minutes after nine?", None),
        (" Un.\n10、二。\n11．三。\n１２）四。", ["Un.", "二。", "三。", "四。"]),
        ("\n10. Ten.\n\n\n11. \n12. Twelve.", ["Ten.", "Twelve."]),
        (" One.\n10. Two.\n\nShall I go on?", ["One.", "Two.", "aside"]),
        ("", ["unreadable"]),
        (" \n ", ["unreadable"]),
        ("9.", ["unreadable"]),
    ],
)
def test_a_list_is_read_by_the_numbers_that_are_due(text: str, wanted: list[str] | None) -> None:
    if wanted is None:
        one, two = text.split("\n10. ")
        wanted = [one.strip(), two]
    assert why(read_list(text, 9, 7, cut=False)) == wanted


def test_a_list_that_was_cut_loses_its_last_item_alone() -> None:
    text = " One.\n10. Two.\n11. Thr"
    assert why(read_list(text, 9, 7, cut=True)) == ["One.", "Two.", "truncated"]  # 2
    assert why(read_list(text + "ee.\n\nShall I g", 9, 7, cut=True)) == ["One.", "Two.", "Three.", "aside"]
    assert why(read_list(" One.\n10. Two.\n11.", 9, 7, cut=True)) == ["One.", "Two."]


def test_a_list_never_gives_more_items_than_were_asked_for() -> None:
    text = "".join(f"{n}. Task number {n}\n" for n in range(9, 30))
    found = read_list(text, 9, 7, cut=False)  # 4
    assert len(read(found)) == 7 and Counter(why(found))["too-many"] == 14
    assert read(found)[-1] == "Task number 15"


def test_what_a_chat_model_says_around_its_list_is_no_task() -> None:
    chat = "Sure! Here are seven tasks:\n\n1. Sort.\n2. Count.\n\nShall I go on?"
    assert why(read_list(chat, 9, 7, cut=False, begun=False)) == ["aside", "Sort.", "Count.", "aside"]
    nine = "Here they are:\n9. Sort.\n10. Count."
    assert why(read_list(nine, 9, 7, cut=False, begun=False)) == ["aside", "Sort.", "Count."]
    assert why(read_list(nine, 9, 7, cut=False)) == ["aside", "Sort.", "Count."]
    assert why(read_list("I cannot do that.", 9, 7, cut=False, begun=False)) == ["unreadable"]
    assert why(read_list("Sort.\n10. Count.", 9, 7, cut=False, begun=False)) == ["Sort.", "Count."]


NUMBERS = st.sampled_from(
    ["1. ", "2) ", "9. ", "10. ", "11) ", "12 : ", "**10.** ", "**11. ", "### 12. ", "40. ", "10、"]
)
WORDS = st.sampled_from(
    ["Sort the list", "and", ",", ":", "2**3", "**Bold**", "10.5", "10:30", "ß", "一", "Output:", "#"]
)
BREAKS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", " \n \n", " ", "\t", "\x0b", "\u2028"])
LIST_REPLIES = st.lists(NUMBERS | WORDS | BREAKS | st.text(max_size=6), max_size=40).map("".join) | st.text()


def fold(text: str) -> str:
    return "".join(text.upper().casefold().split())


def is_numbering(character: str) -> bool:
    return character.isdecimal() or character in "#*.):、．）："


@LAW
@given(LIST_REPLIES, st.integers(1, 12), st.integers(1, 9), st.booleans(), st.booleans())
@example(" One.\n**10. ß", 9, 7, False, True)
def test_every_character_of_a_list_is_read_or_rejected_once(
    text: str, first: int, most: int, cut: bool, begun: bool
) -> None:
    found = read_list(text, first, most, cut=cut, begun=begun)
    said = fold("".join(one.text if isinstance(one, Unreadable) else one for one in found))
    at = 0
    for character in fold(tidied(unfenced(text))):  # what was read is the text in its order; what is between is numbers
        if at < len(said) and said[at] == character:
            at += 1
        else:
            assert is_numbering(character), (character, found)
    assert at == len(said), found
    assert found and len(read(found)) <= most
    assert all(item and item == " ".join(item.split()) for item in read(found))


SOUP = st.lists(
    NUMBERS
    | WORDS
    | BREAKS
    | st.text(max_size=6)
    | st.sampled_from(["\nExample 1\n", "\nExample 2\n", "Example", "\nInput: ", "\nOutput: ", "Output 2:"])
    | st.sampled_from(["\nClass label: ", "Class label:", "Task:", "Example " + "9" * 30, "9" * 5000 + "."])
    | st.sampled_from(["4. Instruction: ", "\n4. Input:\n", "\n4. Output:\n", "\n5. Instruction:", "<noinput>"])
    | st.sampled_from(["###", f"\n{MARK}\n"]),
    max_size=40,
).map("".join)


@LAW
@given(SOUP, st.booleans())
def test_no_text_makes_a_reader_raise_or_say_nothing(text: str, cut: bool) -> None:
    for reader in (read_instances, read_labels, read_instances_compat, read_labels_compat, read_list_compat):
        assert reader(text, cut=cut)
    assert read_list(text, 9, 7, cut=cut)
    assert read_tasks(text, MARK, 4, cut=cut)
    assert read_tasks_compat(text, "###", 4, cut=cut)
    assert is_classification(Reply(text=text)) in (True, False, None)


@pytest.mark.parametrize(
    "filler", [" ", "*", "\n", "# ", "9", "9. ", "Example 1", "4. Instruction: x\n", "4. Input:\n", "\n---", "```\n"]
)
def test_a_reply_that_runs_in_circles_is_read_in_no_time(filler: str) -> None:
    text = "Example 1" + filler * (60_000 // len(filler)) + "x"
    before = time.process_time()
    for reader in (read_instances, read_labels, read_instances_compat, read_labels_compat):
        reader(text, cut=False)
    read_list(text, 9, 7, cut=False)
    read_tasks(f"{MARK}\n{text}", MARK, 4, cut=False)
    assert time.process_time() - before < 2


SENTENCES = st.lists(st.text("abcdefgh", min_size=2, max_size=8), min_size=4, max_size=8).map(
    lambda words: " ".join(words).capitalize() + "."
)


@LAW
@given(st.lists(SENTENCES, min_size=1, max_size=7))
def test_compat_and_strict_read_a_well_formed_list_alike(items: list[str]) -> None:
    text = "\n".join(f"{n}. {item}" for n, item in enumerate(items, start=9)).removeprefix("9.")
    assert read_list(text, 9, 7, cut=False) == read_list_compat(text, cut=False) == items


# Instances, as the original code reads them.

TWO = "Example 1\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: d"
LABELS = "Class label: pos\nText: good\nClass label: neg\nText: bad"


@pytest.mark.parametrize(
    ("text", "reader", "cut", "wanted"),
    [
        (TWO, read_instances_compat, False, [("a", "b"), ("c", "d")]),
        (TWO, read_instances_compat, True, [("a", "b")]),
        (TWO.replace("c", "a"), read_instances_compat, False, []),
        (
            "Example 1\nInput: a\nOutput: a\nExample 2\nSentence: c\nOutput: d",
            read_instances_compat,
            False,
            [("Sentence: c", "d")],
        ),
        ("Output: For Example 3 cats sat.", read_instances_compat, False, [("", "For"), ("", "cats sat.")]),
        ("Output: first\nOutput 2: second", read_instances_compat, False, [("", "first")]),
        ("Input: q\nOutput: ans\nInput: r", read_instances_compat, False, [("q", "ans")]),
        ("Example 1\nOutput: x\nExample 2\nOutput: y", read_instances_compat, False, [("", "x"), ("", "y")]),
        ("Output: list follows:", read_instances_compat, False, []),
        ("no marker at all", read_instances_compat, False, []),
        (LABELS, read_labels_compat, False, [("Text: good", "pos"), ("Text: bad", "neg")]),
        (LABELS, read_labels_compat, True, [("Text: good", "pos")]),
        ("Class label: x\nsame\nClass label: y\nsame", read_labels_compat, False, []),
        ("Class label: A", read_labels_compat, False, [("", "A")]),
    ],
)
def test_compat_reads_the_instances_that_the_original_reads(text: str, reader: Any, cut: bool, wanted: Any) -> None:
    assert [tuple(one) for one in read(reader(text, cut=cut))] == wanted


# Instances, strictly.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (TWO, [("a", "b"), ("c", "d")]),
        ("Output: For Example 3 cats sat.", [("", "For Example 3 cats sat.")]),  # 12
        ("Output: Say it with Output: and Input: in it.", [("", "Say it with Output: and Input: in it.")]),
        ("Example 1\nInput: a\nOutput: b\nExample 3\nmore", [("a", "b\nExample 3\nmore")]),
        ("Input: a\nOutput: b\nExample 2\nInput: c\nOutput: d", [("a", "b"), ("c", "d")]),
        ("Example 4\nInput: a\nOutput: b\nExample 5\nInput: c\nOutput: d", [("a", "b"), ("c", "d")]),
        ("Input: a\nOutput: b\nInput: c\nOutput: d", [("a", "b"), ("c", "d")]),
        ("Input: q\nOutput: ans\nInput: r", [("q", "ans"), "no-output"]),
        ("Output: first\nOutput 2: second", [("", "first"), ("", "second")]),
        ("Example 1\nSentence: c\nInput: d\nOutput: e", [("Sentence: c\nInput: d", "e")]),
        ("Example 1\nMail: c\nTone: d\nOutput: e", [("Mail: c\nTone: d", "e")]),
        ("Example 1\nInput:\nl1\n\nl2\nOutput:\nm1\n\nm2\n", [("l1\n\nl2", "m1\n\nm2")]),
        (
            "Example 1\r\nInput: a\r\nx\r\nOutput: b\r\nExample 2\r\nInput: c\r\nOutput: d\r\n",
            [("a\nx", "b"), ("c", "d")],
        ),
        (
            "### Example 1:\n**Input:** a\n**Output:** **b**\n**Example 2**\n**Input**: c\n**Output**: d",
            [("a", "**b**"), ("c", "d")],
        ),
        ("Certainly!\n\nExample 1\nInput: a\nOutput: b", ["no-output", ("a", "b")]),
        (TWO.replace("c", "a") + "\nExample 3\nInput: e\nOutput: f", ["conflict", "conflict", ("e", "f")]),  # 13
        (TWO + "\nExample 3\nInput: a\nOutput: b", [("a", "b"), ("c", "d"), "duplicate"]),  # 14
        ("Example 1\nOutput: x\nExample 2\nOutput: y", [("", "x"), ("", "y")]),
        ("no marker at all", ["no-output"]),
        ("", ["unreadable"]),
    ],
)
def test_an_example_is_read_where_a_line_says_so(text: str, wanted: Any) -> None:
    assert pairs(read_instances(text, cut=False)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (LABELS, [("Text: good", "pos"), ("Text: bad", "neg")]),
        ("Class label: A", [("", "A")]),
        ("Class label: A\nClass label: B", [("", "A"), ("", "B")]),
        ("Class label: pos\nInput: good\nand more", [("good\nand more", "pos")]),
        ("Class label:\nText: good", [("Text: good", "")]),
        ("class label 1: pos\r\nText: a Class label: in it\r\n", [("Text: a Class label: in it", "pos")]),
        ("**Class label:** pos\nText: a", [("Text: a", "pos")]),
        ("Here they are:\nClass label: pos\nText: a", ["aside", ("Text: a", "pos")]),
        ("Class label: x\nsame\nClass label: y\nsame\nClass label: x\nother", ["conflict", "conflict", ("other", "x")]),
        ("no label", ["unreadable"]),
        ("", ["unreadable"]),
    ],
)
def test_a_label_is_read_where_a_line_says_so(text: str, wanted: Any) -> None:
    assert pairs(read_labels(text, cut=False)) == wanted


def test_instances_that_were_cut_lose_the_last_alone() -> None:
    assert pairs(read_instances(TWO, cut=True)) == [("a", "b"), "truncated"]
    assert pairs(read_labels(LABELS, cut=True)) == [("Text: good", "pos"), "truncated"]
    # What was cut takes no part in a conflict: it may have been about to say the same.
    assert pairs(read_instances(TWO.replace("c", "a"), cut=True)) == [("a", "b"), "truncated"]


# What chat models put around instances.

PAIRS = [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    "text",
    [
        "Example 1: Formal tone\nInput: a\nOutput: b\n\nExample 2: Casual tone\nInput: c\nOutput: d",
        "**Example 1 – Formal**\nInput: a\nOutput: b\n\n**Example 2 – Casual**\nInput: c\nOutput: d",
        "### Example 1\n- **Input:** a\n- **Output:** b\n\n---\n\n### Example 2\n- **Input:** c\n- **Output:** d\n---",
        "Example 1 (formal)\n1. Input: a\n2. Output: b\nExample 2 (casual)\n1. Input: c\n2. Output: d",
        "#### Example 1\n#### Input:\na\n#### Output:\nb\n#### Example 2\n> Input: c\n> **Output: d**",
        "Example 1: Input: a\nOutput: b\nExample 2: Input: c\nOutput: d",
        "Example 1: a\nOutput: b\nExample 2: c\nOutput: d",  # a title alone is the input
        "```\nExample 1\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: d\n```",
        "Example 1\n```\nInput: a\nOutput: b\n```\nExample 2\n```text\nInput: c\nOutput: d\n```",
        "Example 1\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: d\n```\n",
    ],
)
def test_decorated_examples_are_read_as_plain_ones(text: str) -> None:
    assert pairs(read_instances(text, cut=False)) == PAIRS


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Example 1\nInput: a\nOutput: Run it.\nInput: x\nOutput: 3", [("a", "Run it.\nInput: x\nOutput: 3")]),
        ("Output: Run it.\nInput: x\nOutput: 3", [("", "Run it.\nInput: x\nOutput: 3")]),
        ("Output:\n```python\nf()\n```\nOutput: 3", [("", "```python\nf()\n```\nOutput: 3")]),
        (
            "Input: ```\nOutput: x\nExample 2\n```\nOutput: b\nInput: c\nOutput: d",
            [("```\nOutput: x\nExample 2\n```", "b"), ("c", "d")],
        ),
        ("Output: Two.\nExample 1: a cat\nExample 2: a dog", [("", "Two.\nExample 1: a cat\nExample 2: a dog")]),
        (
            "Example 1\nInput: a\nOutput: b\nExample 2 shows it.\nOutput: c",
            [("a", "b\nExample 2 shows it.\nOutput: c")],
        ),
        ("Example 1\nInput 1: a\nOutput 1: b\nInput 2: c\nOutput 2: d", PAIRS),
        ("Example 1\nOutput: ```sh\nls\n```", [("", "```sh\nls\n```")]),
    ],
)
def test_a_label_inside_an_output_or_in_code_splits_nothing(text: str, wanted: Any) -> None:
    assert pairs(read_instances(text, cut=False)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "- **Class label: pos**\nText: good\n- **Class label: neg**\nText: bad\n\n---\n",
        "1. Class label: **pos**\nText: good\n2. Class label: **neg**\nText: bad",
        "### Example 1\nClass label: pos\nText: good\n\n### Example 2\nClass label: neg\nText: bad",
        "```\n" + LABELS + "\n```",
        "#### Class label: pos\n- **Input:** Text: good\n\n#### Class label: neg\n- **Input:** Text: bad\n```",
    ],
)
def test_decorated_labels_are_read_as_plain_ones(text: str) -> None:
    assert pairs(read_labels(text, cut=False)) == [("Text: good", "pos"), ("Text: bad", "neg")]


@pytest.mark.parametrize("offer", ["Let me know if you need more!", "I hope these help.", "That completes the set."])
def test_a_closing_offer_belongs_to_no_instance_and_no_task(offer: str) -> None:
    for cut in (False, True):  # the last instance is whole where an offer follows it
        assert pairs(read_instances(f"{TWO}\n\n{offer}", cut=cut)) == [*PAIRS, "aside"]
        assert pairs(read_labels(f"{LABELS}\n\n---\n\n{offer}", cut=cut))[1:] == [("Text: bad", "neg"), "aside"]
        assert why(read_tasks(f"{items(1)}\n\n{offer}", MARK, 4, cut=cut)) == [str(("Say 4", "", "said 4")), "aside"]
    letter = f"Output: Dear Ann,\n\nsee you at ten.\n\n{offer}"
    assert parted(letter) == (letter, "")
    assert parted(f"Output: It is so.\n\nI hope so too.\n\nNo offer: {offer}")[1] == ""


LINE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=30)
FREE = st.lists(
    LINE | st.sampled_from(["Example of it", "  return x", "The Output: 3", "Sentence: a", "1. x", ""]), max_size=4
).map(lambda lines: "\n".join(lines).strip())
MARKER = re.compile(r"^[#* \t]*(Example\s+\d|(Output|Input|Class label)\b)", re.MULTILINE | re.IGNORECASE)
DECORATION = re.compile(r"```|-{3,}\s*\Z")  # what readers take off, or read nothing in
PLAIN = FREE.filter(lambda text: not MARKER.search(text) and not DECORATION.search(text))


@LAW
@given(st.lists(st.tuples(PLAIN, PLAIN.filter(bool)), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_written_instances_are_read_back(instances: list[tuple[str, str]]) -> None:
    examples = "".join(
        f"Example {n}\n" + (f"Input: {given}\n" if given else "") + f"Output: {output}\n"
        for n, (given, output) in enumerate(instances, start=1)
    )
    for begun in (examples, examples.removeprefix("Example 1\n"), examples.replace("\n", "\r\n")):
        assert pairs(read_instances(begun, cut=False)) == instances
    labelled = [(given, output.split("\n")[0]) for given, output in instances]
    labels = "".join(f"Class label: {label}\n{given}\n" for given, label in labelled)
    assert pairs(read_labels(labels, cut=False)) == [(given, label.strip()) for given, label in labelled]


@LAW
@given(
    st.lists(
        st.sampled_from(["\nExample 1\n", "\nExample 2\n", "\nInput: ", "\nOutput: ", "\nClass label: ", "\n\n", " "]),
        max_size=20,
    ),
    st.booleans(),
)
def test_no_word_of_an_answer_is_lost(marks: list[str], cut: bool) -> None:
    text = "word0" + "".join(f"{mark}word{n} " for n, mark in enumerate(marks, start=1))
    for reader in (read_instances, read_labels):
        found = "\n".join(one.text if isinstance(one, Unreadable) else "\n".join(one) for one in reader(text, cut=cut))
        assert set(found.split()) >= {word for word in text.split() if word.startswith("word")}


@LAW
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=5))
def test_compat_and_strict_read_well_formed_instances_alike(instances: list[tuple[str, str]]) -> None:
    distinct = list({given: (given, output) for given, output in instances if given != output}.values())
    examples = "\n".join(f"Example {n}\nInput: {i}\nOutput: {o}" for n, (i, o) in enumerate(distinct, start=1))
    labels = "\n".join(f"Class label: {o}\n{i}" for i, o in distinct)
    if distinct:
        assert read_instances(examples, cut=False) == read_instances_compat(examples, cut=False) == distinct
        assert read_labels(labels, cut=False) == read_labels_compat(labels, cut=False) == distinct


# Whole tasks.


def items(count: int, mark: str = "###", first: int = 4) -> str:
    return f"\n{mark}\n".join(
        f"{n}. Instruction: Say {n}\n{n}. Input:\n<noinput>\n{n}. Output:\nsaid {n}"
        for n in range(first, first + count)
    )


def test_compat_reads_the_tasks_that_the_original_reads() -> None:
    said = [("Say 4", "", "said 4"), ("Say 5", "", "said 5"), ("Say 6", "", "said 6")]
    three = items(3)
    assert read_tasks_compat(three, "###", 4, cut=False) == said
    assert read(read_tasks_compat(three, "###", 4, cut=True)) == said[:2]
    hashes = three.replace("said 4", "a ### b")
    assert read(read_tasks_compat(hashes, "###", 4, cut=False)) == [("Say 4", "", "a")]
    misnumbered = three.replace("5. Input", "7. Input")
    assert read(read_tasks_compat(misnumbered, "###", 4, cut=False)) == [said[0], said[2]]
    assert read(read_tasks_compat(three.replace("<noinput>", "<NoInput>"), "###", 4, cut=False)) == said
    assert read(read_tasks_compat(items(1).replace("<noinput>", "none"), "###", 4, cut=False)) == [
        ("Say 4", "none", "said 4")
    ]


def test_strict_loses_no_task_to_hashes_or_numbers() -> None:
    said: list[Any] = [("Say 4", "", "said 4"), ("Say 5", "", "said 5"), ("Say 6", "", "said 6")]
    three = items(3, MARK)
    assert read_tasks(three, MARK, 4, cut=False) == said
    assert why(read_tasks(three, MARK, 4, cut=True)) == [*map(str, said[:2]), "truncated"]
    assert read_tasks(f"{three}\n{MARK}\n", MARK, 4, cut=True) == said  # cut, but after the last was whole
    assert read_tasks(three.replace("said 4", "a ###\n###\nb"), MARK, 4, cut=False)[0] == ("Say 4", "", "a ###\n###\nb")
    for other in (
        three.replace("5. Input", "7. Input"),
        three.replace("5. ", "17. "),
        three.replace("5. ", ""),
        three.replace("5. Input:\n<noinput>\n", ""),
        three.replace("5. Instruction:", "**5. Instruction:**"),
        three.replace("\n", "\r\n"),
        three.replace(f"\n{MARK}\n", "\n\n"),
    ):
        assert read_tasks(other, MARK, 4, cut=False) == said
    assert why(read_tasks(three.replace("5. Output:", ""), MARK, 4, cut=False)) == [
        str(said[0]),
        "unreadable",
        str(said[2]),
    ]
    turned = "4. Instruction: a\n4. Output:\nb\n4. Input:\nc"
    assert why(read_tasks(turned, MARK, 4, cut=False)) == ["unreadable"]
    assert why(read_tasks("4. Instruction: \n4. Input:\nb\n4. Output:\nc", MARK, 4, cut=False)) == ["unreadable"]
    assert why(read_tasks(f"Sure!\n\n{three}", MARK, 4, cut=False)) == ["aside", *map(str, said)]


@pytest.mark.parametrize("mark", ["**«3fa9c01b»**", "<<3fa9c01b>>", "`«3fa9c01b»`", " 3fa9c01b ", "--- «3fa9c01b» ---"])
def test_a_decorated_mark_separates_as_a_plain_one_does(mark: str) -> None:
    assert read_tasks(items(3, mark) + f"\n{mark}", MARK, 4, cut=False) == read_tasks(
        items(3, MARK), MARK, 4, cut=False
    )


def test_a_task_whose_mark_is_missing_is_told_by_the_number_that_is_due() -> None:
    said: list[Any] = [(f"Say {n}", "", f"said {n}") for n in range(4, 8)]
    four = items(4, MARK)
    for text in (
        four.replace(f"{MARK}\n6.", "6."),
        four.replace(f"{MARK}\n5.", "\n- **5.").replace(f"{MARK}\n7.", "7."),
        four.replace(f"{MARK}\n", ""),
        four.replace(f"{MARK}\n", "---\n"),
        re.sub(r"^\d\. ", "", four.replace(f"{MARK}\n", ""), flags=re.MULTILINE),
        f"```\n{four}\n```",
        f"{four}\n---\n",
        f"{four}\n```",
    ):
        assert read_tasks(text, MARK, 4, cut=False) == said
    quoted = four.replace("said 5", "17. Instruction: no task")
    assert read_tasks(quoted.replace(f"{MARK}\n6.", "6."), MARK, 4, cut=False)[1] == (
        "Say 5",
        "",
        "17. Instruction: no task",
    )


@pytest.mark.parametrize(
    "text", ["<noinput>", "<NOINPUT>", "N/A", "n/a.", "None", "(none)", "No input", "No input needed."]
)
def test_an_input_that_says_there_is_none_is_none(text: str) -> None:
    assert read_tasks(items(1).replace("<noinput>", text), MARK, 4, cut=False) == [("Say 4", "", "said 4")]


@pytest.mark.parametrize(
    "text", ["None of the above", "Na", "NA", "Nonet", "empty", "no", "The input is none", "-", "0"]
)
def test_a_short_input_is_an_input(text: str) -> None:
    assert read_tasks(items(1).replace("<noinput>", text), MARK, 4, cut=False) == [("Say 4", text, "said 4")]


OWN = st.lists(
    LINE
    | st.sampled_from(
        ["###", "17. Instruction: x", "99. Output: y", "Input: z", "5. five", "«deadbeef»", f"a {MARK}", "```\nx\n```"]
    ),
    max_size=4,
).map(lambda lines: "\n".join(lines).strip())
CONTENT = OWN.filter(
    lambda text: (
        not text.count("```") % 2
        and not re.search(r"-{3,}\s*\Z", text)
        and not re.search(rf"^\s*{MARK}\s*$|^[\s#*]*[4-9]\W*(Instruction|Input|Output)", text, re.MULTILINE)
    )
)


@LAW
@given(st.lists(st.tuples(LINE.map(lambda t: f"Do {t}"), CONTENT, CONTENT), min_size=1, max_size=5), st.booleans())
@example([("Do", "No", "")], False)
def test_whole_tasks_are_read_back_whatever_they_say(tasks: list[tuple[str, str, str]], cut: bool) -> None:
    tasks = [(" ".join(instruction.split()), given, output) for instruction, given, output in tasks]
    text = "".join(
        f"{n}. Instruction: {instruction}\n{n}. Input:\n{given or '<noinput>'}\n{n}. Output:\n{output}\n{MARK}\n"
        for n, (instruction, given, output) in enumerate(tasks, start=4)
    )
    wanted = [
        (instruction, "" if given.casefold() in ("none", "n/a", "no input") else given, output)
        for instruction, given, output in tasks
    ]
    assert read_tasks(text, MARK, 4, cut=cut) == wanted


@LAW
@given(st.lists(st.tuples(SENTENCES, SENTENCES | st.just(""), SENTENCES), min_size=1, max_size=5))
def test_compat_and_strict_read_well_formed_tasks_alike(tasks: list[tuple[str, str, str]]) -> None:
    text = "\n###\n".join(
        f"{n}. Instruction: {a}\n{n}. Input:\n{b or '<noinput>'}\n{n}. Output:\n{c}"
        for n, (a, b, c) in enumerate(tasks, start=4)
    )
    assert (
        read_tasks(text.replace("###", MARK), MARK, 4, cut=False)
        == read_tasks_compat(text, "###", 4, cut=False)
        == tasks
    )


# What is drawn and asked.


def drafts(count: int) -> list[Record]:
    return [
        Record(instruction=f"Draft {n}.", output=f"Done {n}.", task=f"d{n}", origin="bootstrap") for n in range(count)
    ]


@LAW
@given(st.integers(0, 9), st.integers(0, 99))
def test_two_of_eight_examples_are_model_written_as_soon_as_two_are_visible(visible: int, number: int) -> None:
    drafter, pool = Bootstrap(setting("self-instruct")), Pool(SEEDS, drafts(12), visible)
    parents = drafter.draw(pool, 0, Random(number))
    assert len(parents) == 8 == len({parent.task for parent in parents})
    written = [parent for parent in parents if parent.origin != "seed"]
    assert len(written) == min(2, visible)
    assert {parent.task for parent in written} <= {f"d{n}" for n in range(visible)}
    assert parents == drafter.draw(pool, 0, Random(number))
    assert Alpaca(setting("alpaca")).draw(pool, 0, Random(number)) == tuple(Random(number).sample(SEEDS, 3))


def test_drawn_examples_are_shuffled_and_all_are_drawn() -> None:
    drafter, pool = Bootstrap(setting("self-instruct")), Pool(SEEDS, drafts(2), 2)
    draws = [drafter.draw(pool, 0, Random(number)) for number in range(300)]
    assert {[parent.origin for parent in draw].index("bootstrap") for draw in draws} == set(range(7))
    assert {parent.task for draw in draws for parent in draw} == {r.task for r in SEEDS} | {"d0", "d1"}


def test_only_classification_seeds_are_drawn_where_the_recipe_says_so() -> None:
    drafter = Bootstrap(setting("self-instruct", "draft.kind=classification"))
    parents = drafter.draw(Pool(SEEDS, [], 0), 0, Random(0))
    assert len(parents) == 8 and all(parent.classification for parent in parents)
    assert "classification tasks" in drafter.ask(parents, {}, Random(0)).text()
    with pytest.raises(UsageError, match="classification"):
        Bootstrap(setting("self-instruct", "draft.kind=classification")).draw(
            Pool([seed for seed in SEEDS if not seed.classification], [], 0), 0, Random(0)
        )


def test_a_seed_with_many_instances_is_shown_once() -> None:
    many = [Record(instruction="Sort.", input=str(n), output="x", task="one") for n in range(9)]
    other = [Record(instruction=f"Count {n}.", output="x", task=f"t{n}") for n in range(9)]
    for drafter in (Bootstrap(setting("self-instruct")), Alpaca(setting("alpaca", "draft.seed_examples=8"))):
        tasks = [parent.task for parent in drafter.draw(Pool(many + other, [], 0), 0, Random(4))]
        assert len(tasks) == 8 == len(set(tasks))


def test_the_list_goes_on_behind_the_examples_and_stops_only_where_a_line_begins() -> None:
    examples = tuple(SEEDS[:8])
    drafter = Bootstrap(setting("self-instruct"))
    request = drafter.ask(examples, {}, Random(0))
    assert request.prompt is not None and request.prompt.endswith(f"\n8. {shown(SEEDS[7].instruction)}\n9.")
    assert set(request.sampling.stop) == {"\n\n", "\n16."}
    compat = Bootstrap(setting("self-instruct", "behaviour=compat")).ask(examples, {}, Random(0))
    assert set(compat.sampling.stop) == {"\n\n", "\n16", "16.", "16 ."}
    # A chat model may put a blank line behind its preamble, or between any two items.
    chat = Bootstrap(setting("self-instruct", style="chat")).ask(examples, {}, Random(0))
    assert chat.sampling.stop == ("\n16.",)
    assert shown("  Sort\nthe words: ") == "Sort the words"


def test_a_reply_gives_seven_drafts_at_most_with_their_parents() -> None:
    examples = tuple(SEEDS[:8])
    text = "".join(f"\n{n}. Write text number {n}" for n in range(9, 19)).removeprefix("\n9.")
    for style in ("completion", "prefill"):
        found = Bootstrap(setting("self-instruct", style=style)).read(Reply(text=text), examples, Random(0))
        assert len(read(found)) == 7 and why(found)[7:] == ["too-many"] * 3
        assert all(one.parents == tuple(s.task for s in examples) and one.origin == "bootstrap" for one in read(found))
    chat = Bootstrap(setting("self-instruct", style="chat"))
    assert why(chat.read(Reply(text="Gladly:\n1. Sort it.\n2. Count it."), examples, Random(0))) == [
        "aside",
        "Sort it.",
        "Count it.",
    ]
    filtered = Reply(text=" Sort it.\n10. Count", finish="content_filter")
    assert why(Bootstrap(setting("self-instruct")).read(filtered, examples, Random(0))) == ["Sort it.", "truncated"]


def test_alpaca_shows_seeds_only_unless_the_recipe_lets_drafts_in() -> None:
    pool = Pool(SEEDS, [*drafts(9), Record(instruction="No output.", task="bare")], 10)
    assert not Alpaca(setting("alpaca")).feeds_pool
    for number in range(50):
        assert all(one.origin == "seed" for one in Alpaca(setting("alpaca")).draw(pool, 0, Random(number)))
    drafter = Alpaca(setting("alpaca", "draft.pool_examples=2"))
    drawn = [drafter.draw(pool, 0, Random(number)) for number in range(50)]
    assert drafter.feeds_pool and all(Counter(o.origin for o in d) == {"seed": 3, "bootstrap": 2} for d in drawn)
    assert all(len({one.task for one in draw}) == 5 and all(one.output for one in draw) for draw in drawn)
    bare = [seed.model_copy(update={"output": ""}) for seed in SEEDS]
    with pytest.raises(UsageError, match="no seed has an output"):
        Alpaca(setting("alpaca")).draw(Pool(bare, [], 0), 0, Random(0))


def test_the_mark_of_alpaca_differs_per_request_and_is_in_nothing_shown() -> None:
    drafter = Alpaca(setting("alpaca"))
    texts = [drafter.ask(SEEDS[:3], {}, Random(number)).text() for number in range(200)]
    assert len({re.findall("«[0-9a-f]{8}»", text)[0] for text in texts}) == 200
    first = f"«{Random(7).getrandbits(32):08x}»"
    seed = Record(instruction="Copy it.", input=f"a\n{first}\nb", output="x", task="s")
    asked = drafter.ask([seed], {}, Random(7)).text()
    assert asked.count(first) == 1
    (mark,) = set(re.findall("«[0-9a-f]{8}»", asked)) - {first}
    reply = items(2, mark, first=2).removeprefix("2. Instruction:").replace("said 2", f"x\n{first}\ny")
    found = drafter.read(Reply(text=reply), [seed], Random(7))
    assert [(one.instruction, one.output) for one in read(found)] == [("Say 2", f"x\n{first}\ny"), ("Say 3", "said 3")]
    assert all(one.parents == ("s",) and one.origin == "alpaca" for one in read(found))


def test_alpaca_reads_sixteen_tasks_of_twenty_and_a_first_label_once_or_not_at_all() -> None:
    drafter, seeds = Alpaca(setting("alpaca")), SEEDS[:3]
    mark = f"«{Random(1).getrandbits(32):08x}»"
    begun = items(17, mark).removeprefix("4. Instruction:")
    for text in (begun, f"4. Instruction:{begun}", f"{mark}\n4. Instruction:{begun}\n{mark}"):
        found = drafter.read(Reply(text=text), seeds, Random(1))
        assert why(found) == [f"Say {n}" for n in range(4, 20)] + ["too-many"]
        assert isinstance(found[-1], Unreadable) and found[-1].text == "Say 20\n\nsaid 20"
    assert drafter.ask(seeds, {}, Random(1)).sampling.stop == ("\n20. Instruction:",)  # not in a list of twenty
    chatty = f"Gladly!\n\n{items(2, mark)}"
    assert why(drafter.read(Reply(text=chatty), seeds, Random(1))) == ["aside", "Say 4", "Say 5"]
    compat = Alpaca(setting("alpaca", "behaviour=compat"))
    assert compat.ask(seeds, {}, Random(1)).sampling.stop == ("\n20", "20.")
    assert why(compat.read(Reply(text=items(2).removeprefix("4. Instruction:")), seeds, Random(1))) == [
        "Say 4",
        "Say 5",
    ]


# Answers.


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        (Reply(text=" Yes"), True),
        (Reply(text="**no**, it is not"), False),
        (Reply(text="YES."), True),
        (Reply(text="Not sure"), None),
        (Reply(text="Nothing"), None),
        (Reply(text="Yesterday"), None),
        (Reply(text=""), None),  # 18
        (Reply(text="No", first_token={" Yes": math.log(0.3), "yes": math.log(0.3), "No": math.log(0.4)}), True),
        (Reply(text="Yes", first_token={"Yes": -1.0, "No": -0.9}), False),
        (Reply(text="Yes", first_token={"The": -0.1, "▁Yes": -3.0, "No,": -4.0}), True),
        (Reply(text="No", first_token={"The": -0.1}), False),
        (Reply(text="No", first_token={"The": -0.8, "Yes": -1.0, "No": -4.0}), False),  # less than half of the mass
        (Reply(text='> __"Yes"__\n\nThe labels are fixed.'), True),
        (Reply(text="The answer is **no**."), False),
        (Reply(text="It may be yes or no."), None),
        (Reply(text="Since the task asks for free text of any length, my answer is no."), None),
    ],
)
def test_yes_or_no_is_told_by_probability_else_by_the_first_word(reply: Reply, label: bool | None) -> None:
    assert is_classification(reply) is label


DRAFT = Record(instruction="Sort the words.", task="t", parents=("s",), origin="bootstrap")


def answers(operator: Any, *said: Reply | str, draft: Record = DRAFT, seed: int = 0) -> tuple[list[Read], list[Any]]:
    ask, asked = replies(*said)
    return asyncio.run(operator.answer(draft, ask, Random(seed))), asked


def test_a_classification_task_is_answered_output_first_and_any_other_input_first() -> None:
    found, asked = answers(Instances(setting("self-instruct")), " Yes", LABELS)
    assert [stage for stage, *_ in asked] == ["classify", "output-first"]
    assert [(r.input, r.output, r.classification, r.task) for r in read(found)] == [
        ("Text: good", "pos", True, "t"),
        ("Text: bad", "neg", True, "t"),
    ]
    for said, label in ((" No", False), ("who knows", None)):
        found, asked = answers(Instances(setting("self-instruct")), said, TWO)
        assert [stage for stage, *_ in asked] == ["classify", "input-first"]
        assert [(r.input, r.output, r.classification) for r in read(found)] == [("a", "b", label), ("c", "d", label)]
    compat = Instances(setting("self-instruct", "behaviour=compat"))
    assert answers(compat, " yes", LABELS)[1][1][0] == "output-first"
    assert answers(compat, "Yes!", TWO)[1][1][0] == "input-first"  # the original wants the bare word


def test_an_answer_that_was_begun_for_the_model_is_read_with_its_beginning(tmp_path: Path) -> None:
    prompt = tmp_path / "input-first" / "prefill.md"
    prompt.parent.mkdir()
    prompt.write_text(
        "---\nabout: worked examples\nslots: {instruction: Sort.}\n---\n"
        "<!-- user -->\n{{ instruction }}\n<!-- assistant -->\nExample 1\n"
    )
    operator = Instances(Setting(load("self-instruct"), Prompts(tmp_path), "prefill", "prefill"))
    found, asked = answers(operator, "No", "\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: d")
    assert asked[1][1].prefill == "Example 1"
    assert [(r.input, r.output) for r in read(found)] == [("a", "b"), ("c", "d")]
    trimmed, _ = answers(operator, "No", "Input: a\nOutput: b\nExample 2\nInput: c\nOutput: d")
    assert trimmed == found
    found, asked = answers(operator, "Yes", " pos\nText: good\nClass label: neg\nText: bad")
    assert asked[1][1].prefill == "Class label:"
    assert [(r.input, r.output) for r in read(found)] == [("Text: good", "pos"), ("Text: bad", "neg")]
    small = Instances(setting("self-instruct", "small=yes", style="prefill"))
    found, asked = answers(small, "No", " a b\n")
    assert asked[1][1].prefill == "Output:"
    assert [(r.input, r.output) for r in read(found)] == [("", "a b")]


def test_instances_are_asked_for_again_only_when_none_can_be_read() -> None:
    operator = Instances(setting("self-instruct", "answer.attempts=3"))
    found, asked = answers(operator, "No", "nothing", Reply(text=TWO[:-9], finish="length"), TWO, TWO)
    assert [(stage, attempt) for stage, _, attempt in asked] == [
        ("classify", 0),
        ("input-first", 0),
        ("input-first", 1),
    ]
    assert why(found) == ["Sort the words.", "truncated"]
    found, asked = answers(operator, "No", "a", "b", "c", TWO)
    assert len(asked) == 4 and why(found) == ["no-output"]
    assert len(answers(Instances(setting("self-instruct")), "No", "a", TWO)[1]) == 2


def test_instances_beyond_five_are_left_out_by_chance_and_always_the_same() -> None:
    nine = "\n".join(f"Example {n}\nInput: i{n}\nOutput: o{n}" for n in range(1, 10))
    operator = Instances(setting("self-instruct"))
    chosen = set()
    for seed in range(20):
        found, asked = answers(operator, "No", nine, seed=seed)
        assert found == answers(operator, "No", nine, seed=seed)[0]
        assert len(found) == 9 and len(read(found)) == 5 and Counter(why(found))["too-many"] == 4
        chosen.add(tuple(one.input for one in read(found)))
    assert len(chosen) > 10
    assert "\nExample 6" in asked[1][1].sampling.stop


def test_an_answer_leaves_the_instruction_and_is_asked_for_again_only_when_it_is_none() -> None:
    draft = DRAFT.model_copy(update={"input": "b a"})
    operator = Answer(setting("answer", "answer.attempts=3", style="chat"))
    cut = Reply(text="a", finish="length")
    found, asked = answers(operator, cut, "  ", Reply(text=" a b\n", reasoning="easy"), "z", draft=draft)
    assert found == [draft.model_copy(update={"output": "a b", "reasoning": "easy"})]
    assert [attempt for *_, attempt in asked] == [0, 1, 2]
    assert asked[0][1].messages[-1].content == "Sort the words.\n\nb a"
    once = Answer(setting("answer", style="chat"))
    assert why(answers(once, cut)[0]) == ["truncated"]
    assert why(answers(once, Reply(text="a", finish="content_filter"))[0]) == ["truncated"]
    assert why(answers(once, "\n")[0]) == ["empty"]


def test_of_several_samples_each_readable_answer_that_differs_is_a_record_of_the_task() -> None:
    operator = Answer(setting("answer", "answer.samples=5", "answer.attempts=2", style="chat"))
    gone = Failure(kind="gave_up", message="no")
    more = (Sample(text="b"), Sample(text="a "), Sample(text="", finish="length"), Sample(error=gone))
    found, asked = answers(operator, Reply(text="a", more=more))
    assert asked[0][1].samples == 5 and len(asked) == 1
    assert [(one.output, one.task) for one in read(found)] == [("a", "t"), ("b", "t")]
    assert why(found)[2:] == ["duplicate", "truncated", "gave_up"]
    none = Reply(text=" ", more=(Sample(text="", finish="length"),))
    found, asked = answers(operator, none, none)
    assert (why(found), len(asked)) == (["empty", "truncated"], 2)
    once, asked = answers(Answer(setting("answer", style="chat")), "a")
    assert asked[0][1].samples == 1 and len(once) == 1


def test_a_malformed_answer_is_an_attempt_and_its_text_is_kept() -> None:
    bad = Reply(text="{", error=Failure(kind="malformed", message="not JSON"))
    cut = Reply(text="{", finish="length", error=Failure(kind="malformed", message="the reply was cut off (length)"))
    operator = Answer(setting("answer", "answer.attempts=2", style="chat"))
    assert read(answers(operator, bad, "a")[0])[0].output == "a"
    assert answers(operator, bad, bad)[0] == [Unreadable("malformed", "not JSON", "{")]
    assert answers(operator, bad, cut)[0] == [Unreadable("truncated", "the reply was cut off (length)", "{")]
    instances = Instances(setting("self-instruct", "answer.attempts=2"))
    found, asked = answers(instances, bad, bad, "Output: a b")
    assert [stage for stage, *_ in asked] == ["classify", "input-first", "input-first"]
    assert read(found)[0].classification is None and read(found)[0].output == "a b"


@pytest.mark.parametrize(("recipe", "drafter"), [("self-instruct", Bootstrap), ("alpaca", Alpaca)])
def test_drafts_are_asked_for_in_as_many_samples_as_the_recipe_says(recipe: str, drafter: Any) -> None:
    for overrides, samples in (((), 1), (("draft.samples=4",), 4)):
        operator = drafter(setting(recipe, *overrides, style="chat"))
        assert operator.ask(operator.draw(Pool(SEEDS, [], 0), 0, Random(1)), {}, Random(1)).samples == samples


def test_in_json_no_stop_string_is_sent_and_the_list_is_numbered_anew() -> None:
    operator = Bootstrap(setting("self-instruct", style="json"))
    request = operator.ask(operator.draw(Pool(SEEDS, [], 0), 0, Random(1)), {}, Random(1))
    assert request is not None and request.json_schema is not None and request.sampling.stop == ()
    tasks = {"tasks": ["Name a river.", "Why do\nbees hum?"]}
    understood = setting("self-instruct", style="json").understood
    for overrides in ((), ("behaviour=compat",)):
        bootstrap = Bootstrap(setting("self-instruct", *overrides, style="json"))
        request = bootstrap.ask(SEEDS[:8], {}, Random(1))
        reply = understood(request, Reply(text=json.dumps(tasks)))
        assert why(bootstrap.read(reply, SEEDS[:8], Random(1))) == ["Name a river.", "Why do bees hum?"]


def test_json_that_no_prompt_asked_for_is_its_operators_own_to_read() -> None:
    said = Reply(text='{"a": 1}')
    assert setting("self-instruct").understood(Request(json_schema={"type": "object"}), said) is said


def test_in_json_chat_serves_where_a_stage_has_no_such_prompt() -> None:
    assert setting("self-instruct").prompt_name("classify", "json") == "classify/chat"
    assert setting("self-instruct").prompt_name("bootstrap", "json") == "bootstrap/json"


def test_the_system_text_goes_with_the_answer() -> None:
    found, asked = answers(Answer(setting("answer", style="chat", system="Be brief.")), "a b")
    assert "Be brief." in asked[0][1].text() and read(found)[0].system == "Be brief."
    for style in ("chat", "completion"):
        found, asked = answers(Answer(setting("answer", style=style)), "a b")
        assert "Sort the words." in asked[0][1].text() and read(found)[0].system == ""
    with pytest.raises(UsageError, match="needs a chat model"):
        answers(Answer(setting("answer", system="Be brief.")), "a b")
    own = DRAFT.model_copy(update={"system": "Be kind."})
    found, asked = answers(Answer(setting("answer", style="chat")), "a b", draft=own)
    assert asked[0][1].messages[0].content == "Be kind." and read(found)[0].system == "Be kind."


def test_a_task_that_was_drafted_whole_is_its_own_answer() -> None:
    whole = DRAFT.model_copy(update={"output": "a b"})
    found, asked = answers(AsDrafted(setting("alpaca")), draft=whole)
    assert not asked and found == [whole]


# The encodings for fine-tuning.


@pytest.mark.parametrize(
    ("text", "compat", "strict"),
    [
        ("Sentence: hello", "hello", "hello"),
        ("Meet at 10:30 pm", "30 pm", "Meet at 10:30 pm"),
        ("A: 1\nB: 2", "A: 1\nB: 2", "A: 1\nB: 2"),
        ("A: 1\nA: 2", "1\nA: 2", "A: 1\nA: 2"),
        ("see https://x.y/z", "//x.y/z", "see https://x.y/z"),
        ("https://x.y/z", "//x.y/z", "https://x.y/z"),
        ("10: ten", "ten", "10: ten"),
        ("Frage: 10:30 Uhr?", "Frage: 10:30 Uhr?", "10:30 Uhr?"),
        ("try:\n    run()", "run()", "try:\n    run()"),
        ("no colon", "no colon", "no colon"),
        ("", "", ""),
    ],
)
def test_a_label_is_cut_from_an_input(text: str, compat: str, strict: str) -> None:
    assert cut_label(text, "compat") == compat
    assert cut_label(text, "strict") == strict


def test_there_are_thirteen_encodings_and_each_is_drawn() -> None:
    record = Record(instruction=" Sort {input}. ", input="b a ", output=" a b\n")
    said = {encode(record, Random(n)) for n in range(200)}
    assert said == {
        ("Sort {input}.\nInput: b a\nOutput:", " a b<|endoftext|>"),
        ("Sort {input}.\n\nInput: b a\n\nOutput:", " a b<|endoftext|>"),
        ("Task: Sort {input}.\nInput: b a\nOutput:", " a b<|endoftext|>"),
        ("Sort {input}.\n\nb a\n\nOutput:", " a b<|endoftext|>"),
        ("Sort {input}.\n\nb a\n\n", "a b<|endoftext|>"),
        ("Sort {input}.\nb a\n\n", "a b<|endoftext|>"),
        ("Task: Sort {input}.\n\nb a\n\n", "a b<|endoftext|>"),
    }
    bare = record.model_copy(update={"input": " "})
    assert {encode(bare, Random(n), end="</s>") for n in range(200)} == {
        ("Sort {input}. Output:", " a b</s>"),
        ("Sort {input}.\nOutput:", " a b</s>"),
        ("Sort {input}.\n\nOutput:", " a b</s>"),
        ("Sort {input}.\n", "a b</s>"),
        ("Sort {input}.\n\n", "a b</s>"),
        ("Task: Sort {input}.\n\n", "a b</s>"),
    }
    assert len(WITH_INPUT) == 7 and len(WITHOUT_INPUT) == 6


def test_one_coin_cuts_labels_and_blank_lines_in_half_of_all_inputs() -> None:
    record = Record(instruction="Sort.", input="Words: b\n\n \na: {x}", output="a")
    prompts = [encode(record, Random(n))[0] for n in range(400)]
    assert all("Words: b" in prompt for prompt in prompts)  # two fields: no label is cut
    assert 150 < sum("b\na: {x}" in prompt for prompt in prompts) < 250
    record = record.model_copy(update={"input": "Words: b\n\n \na"})
    prompts = [encode(record, Random(n))[0] for n in range(400)]
    cut = [prompt for prompt in prompts if "Words: " not in prompt]
    assert 150 < len(cut) < 250
    assert all("b\na" in prompt for prompt in cut)
    assert all("Words: b\n\n \na" in prompt for prompt in set(prompts) - set(cut))


@LAW
@given(
    st.builds(Record, instruction=st.text(), input=st.text(), output=st.text()),
    st.integers(),
    st.sampled_from(["strict", "compat"]),
)
def test_an_encoding_keeps_instruction_and_output_whole(record: Record, seed: int, behaviour: Any) -> None:
    prompt, completion = encode(record, Random(seed), behaviour=behaviour, end="")
    assert record.instruction.strip() in prompt
    assert completion == (" " if prompt.endswith("Output:") and completion[:1] == " " else "") + record.output.strip()
    assert (prompt, completion) == encode(record, Random(seed), behaviour=behaviour, end="")


def test_only_a_model_too_small_for_worked_examples_is_asked_without_them() -> None:
    for small, name in (("yes", "input-first/small"), ("no", "input-first/chat")):
        operator = Instances(setting("self-instruct", f"small={small}", style="prefill"))
        _, asked = answers(operator, "No", TWO)
        assert asked[1][1].purpose == name


def test_compat_reads_a_chat_list_from_its_first_number_on() -> None:
    chat = Bootstrap(setting("self-instruct", "behaviour=compat", style="chat"))
    for text in ("9. Sort it.\n10. Count it.", "Sure, 7 tasks:\n\n9. Sort it.\n10. Count it."):
        assert why(chat.read(Reply(text=text), SEEDS[:8], Random(0))) == ["Sort it.", "Count it."]
    begun = Bootstrap(setting("self-instruct", "behaviour=compat"))
    assert why(begun.read(Reply(text=" Sort it.\n10. Count it."), SEEDS[:8], Random(0))) == ["Sort it.", "Count it."]


def test_a_list_in_a_fence_or_above_a_rule_is_the_list_alone() -> None:
    assert why(read_list("```\n9. Sort.\n10. Count.\n```", 9, 7, cut=False, begun=False)) == ["Sort.", "Count."]
    assert why(read_list(" Sort.\n10. Count.\n---\n", 9, 7, cut=False)) == ["Sort.", "Count."]


def test_a_begun_answer_that_begins_again_is_begun_once() -> None:
    small = Instances(setting("self-instruct", "small=yes", style="prefill"))
    found, _ = answers(small, "No", "Output: a b")
    assert [(one.input, one.output) for one in read(found)] == [("", "a b")]
