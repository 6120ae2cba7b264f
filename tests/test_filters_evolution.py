"""The rules of evolution: each fires on its own case and on no other, at its border exactly, in any script."""

# ruff: noqa: RUF001 - letters and marks of other scripts are meant

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.engines import Reply
from selfinstruct.filters import evolution
from selfinstruct.filters.evolution import (
    LEAKED,
    STOP_WORDS,
    Circles,
    Copied,
    Distance,
    FrameLeak,
    Growth,
    Hollow,
    Intent,
    Struggles,
    Unchanged,
)
from selfinstruct.filters.judge import Equal
from selfinstruct.filters.novelty import rouge_l, tokens
from selfinstruct.filters.text import normal_form
from selfinstruct.recipe import Recipe, load
from selfinstruct.records import Direction, Evolution, Objection, Record
from selfinstruct.words import words

LAW = settings(deadline=None, max_examples=200)
FRAMES = Path(__file__).parents[1] / "prompts" / "evolve" / "frames"
DIRECTIONS: tuple[Direction, ...] = ("in-depth", "in-breadth", "downward", "answer")
DRAFT_RULES = (FrameLeak, Copied, Circles, Unchanged, Growth, Intent, Distance)
ALL_RULES = (*DRAFT_RULES, Struggles, Hollow)


@cache
def recipe(*overrides: str) -> Recipe:
    return load("evolve/wizardlm", overrides)


def child(before: str, after: str, direction: Direction = "in-depth", output: str = "", **more: Any) -> Record:
    """What an operator made of ``before``."""
    given = {"instruction": "Do it.", "output": after} if direction == "answer" else {"instruction": after}
    evolution = Evolution(lineage=7, root="r", round=1, operator="o", direction=direction, before=before, **more)
    return Record(**{"output": output, **given}, task="t", origin="evolve", parents=("parent",), evolution=evolution)


def said(rule: type, record: Record, *overrides: str) -> str | None:
    found = rule(recipe(*overrides)).objection(record)
    return found.why if isinstance(found, Objection) else found


def objects(rule: type, record: Record, *overrides: str) -> bool:
    return said(rule, record, *overrides) is not None


# What the prompt itself says.

ASKED = "Let it take several steps. For example: name three birds that fly by night, and say what each of them eats."
RUN = "Name three birds that fly by night, and"


@pytest.mark.parametrize(
    ("before", "after", "copied"),
    [
        ("Name a bird.", f"{RUN} one that does not.", "name three birds that fly by night and"),
        ("Name a bird.", f"Name a bird, {RUN.upper()} ONE MORE.", "name three birds that fly by night and"),
        ("Name a bird.", "Name three birds that fly by night, or one that does not.", None),  # seven words
        (f"{RUN} their food.", f"{RUN} their food in winter.", None),  # its parent's own
        (f"{RUN} their food.", f"{RUN} say what each of them eats.", "three birds that fly by night and say"),
        ("Name a bird.", "Name a bird that flies by night. Let it take several steps, at least.", None),
    ],
)
def test_what_a_draft_copies_of_its_prompt_is_told(before: str, after: str, copied: str | None) -> None:
    found = said(Copied, child(before, after, prompt=ASKED))
    assert (copied is None) == (found is None)
    assert copied is None or (found is not None and repr(copied) in found)
    assert said(Copied, child(before, after)) is None


CIRCLES = "Name a bird" + ", and do not say where it lives" * 3


@pytest.mark.parametrize(
    ("before", "after", "fires"),
    [
        ("Name a bird.", f"{CIRCLES}.", True),
        ("Name a bird.", "Name a bird" + ", and do not say where it lives" * 2, False),
        (CIRCLES, f"{CIRCLES}, or what it eats.", False),  # its parent's own
        ("Count.", "Continue the pattern: " + "red blue green " * 8, False),
        ("Count.", "Count the letter pairs in " + "A C G T " * 9, False),
        ("Count.", "How many errors are there?\n" + "12:01 the disk of the host is full\n" * 5, False),
        ("Sort.", "Sort this by age:\n```\nname, age\n" + "Ada, 36\n" * 6 + "```", False),
    ],
)
def test_a_draft_that_goes_round_in_one_line_is_told(before: str, after: str, fires: bool) -> None:
    assert objects(Circles, child(before, after)) == fires


# The four failure cases of the paper, and equality.

PARENT = "Explain why leaves change their colour in autumn."
CHILD = "Explain why leaves change their colour in autumn, and why some trees stay green all winter."
GOOD = "The green fades when the days grow short, and other colours show; needles are made to last."
SORRY = "I am so sorry that"


def apology(count: int) -> str:
    return " ".join([*SORRY.split(), *["word"] * (count - len(SORRY.split()))])


@pytest.mark.parametrize(
    ("fires", "after", "output", "verdict"),
    [
        (None, CHILD, GOOD, "Not equal"),
        ("Equal", CHILD, GOOD, "Equal"),
        ("Struggles", CHILD, apology(79), "Not equal"),
        (None, CHILD, apology(80), "Not equal"),
        ("Hollow", CHILD, "…, . the of", "Not equal"),
        ("Hollow", CHILD, "?!", "Not equal"),
        ("FrameLeak", f"#Rewritten Prompt#:\n{CHILD}", GOOD, "Not equal"),
        ("FrameLeak", f"{CHILD} (the given prompt)", GOOD, "Not equal"),
        ("Unchanged", PARENT, GOOD, "Not equal"),
    ],
)
def test_each_failure_case_fires_on_its_own_example_and_only_there(
    fires: str | None, after: str, output: str, verdict: str
) -> None:
    record = child(PARENT, after, output=output)
    fired = {rule.__name__ for rule in (FrameLeak, Unchanged, Struggles, Hollow) if objects(rule, record)}
    if Equal(recipe()).read(record, Reply(text=verdict)).objection is not None:
        fired.add("Equal")
    assert fired == ({fires} if fires else set())


@pytest.mark.parametrize("rule", ALL_RULES)
@pytest.mark.parametrize("evolution", [None, Evolution(lineage=0, root="r")])
def test_what_was_not_evolved_is_none_of_their_business(rule: type, evolution: Evolution | None) -> None:
    record = Record(instruction="#Given Prompt#", output="A leaf.", parents=("x",), evolution=evolution)
    assert not objects(rule, record)


@LAW
@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(DIRECTIONS), st.sampled_from(["strict", "compat"]))
def test_no_rule_raises_and_each_reason_is_one_line(
    before: str, after: str, direction: Direction, behaviour: str
) -> None:
    for rule in ALL_RULES:
        why = said(rule, child(before, after, direction, output=after), f"behaviour={behaviour}")
        assert why is None or (why and "\n" not in why)


# Leaked wording.


@LAW
@given(
    st.sampled_from(LEAKED),
    st.text(st.characters(max_codepoint=127), max_size=30),
    st.text(st.characters(max_codepoint=127), max_size=30),
    st.sampled_from(DIRECTIONS),
    st.data(),
)
def test_a_leak_is_seen_in_any_case_and_inside_any_text(
    phrase: str, left: str, right: str, direction: Direction, data: Any
) -> None:
    cases = data.draw(st.lists(st.booleans(), min_size=len(phrase), max_size=len(phrase)))
    shouted = "".join(c.upper() if up else c for c, up in zip(phrase, cases, strict=True))
    assert objects(FrameLeak, child("A parent.", left + shouted + right, direction))


@LAW
@given(
    st.lists(st.sampled_from(["given", " ", "prompt", "#", "rewritten", "answer", "Σ", "ß", ":", "easier"]), max_size=9)
)
def test_case_decides_nothing_about_a_leak(parts: list[str]) -> None:
    text = "".join(parts)
    decisions = {
        objects(FrameLeak, child("A parent.", one)) for one in (text, text.upper(), text.lower(), text.title())
    }
    assert len(decisions) == 1


def test_marks_hide_no_label_and_are_quoted_with_it() -> None:
    for label in ("#Given Prompt#", "#Rewritten Prompt#", "#Created Prompt#"):
        assert repr(label.casefold()) in str(said(FrameLeak, child("A parent.", f"Do it.\n\n{label}:\nMore.")))
        assert objects(FrameLeak, child("A parent.", f"**{label.strip('#')}**Do it."))


def test_every_phrase_is_one_phrase_and_is_found_by_itself() -> None:
    assert {"given prompt", "rewritten prompt", "created prompt"} < set(LEAKED)
    for phrase in LEAKED:  # a comma that is missing between two would make one of them
        assert phrase == phrase.casefold() and len(phrase.split()) in (2, 3)
        assert objects(FrameLeak, child("A parent.", phrase))


def test_what_the_parent_says_itself_has_not_leaked_but_to_the_letter_it_has() -> None:
    record = child("Shorten the given prompt: Hi!", "Shorten the Given Prompt by half: Hi!")
    assert not objects(FrameLeak, record)
    assert objects(FrameLeak, record, "behaviour=compat")
    other = child("Shorten the given prompt: Hi!", "Shorten the given prompt into a rewritten prompt: Hi!")
    assert "'rewritten prompt'" in str(said(FrameLeak, other))


@pytest.mark.parametrize("frame", sorted(FRAMES.glob("*/*.md")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_labels_of_our_own_frames_are_known(frame: Path) -> None:
    text = frame.read_text(encoding="utf-8").rstrip()
    above = re.findall(r"^([^{\n]*:)\s+\{\{ (?:instruction|output)", text, re.MULTILINE)
    assert above
    for label in (*above, text.split("\n")[-1]):
        assert label.endswith(":") and objects(FrameLeak, child("A parent.", f"Do it.\n\n{label}\nMore.")), label


# Unchanged.

PUNCTUATION = st.text(st.sampled_from(list(".,;:!?…“”\"'«»()。、！？؟،।")), max_size=3)
WORDS = st.sampled_from(
    ["Write", "poem", "Straße", "éclair", "море", "写诗", "กลอน", "시를", "قصيدة", "x1", "3.5", "C++", "∑"]
)


@LAW
@given(st.text(max_size=60), st.text(max_size=60))
def test_being_unchanged_is_mutual(a: str, b: str) -> None:
    assert objects(Unchanged, child(a, b)) == objects(Unchanged, child(b, a))


@LAW
@given(st.text(max_size=60), st.sampled_from(DIRECTIONS))
def test_every_text_is_itself_in_any_composition_and_between_any_blanks(text: str, direction: Direction) -> None:
    for same in (text, unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text), f"\n {text}\t "):
        assert objects(Unchanged, child(text, same, direction))


@LAW
@given(st.lists(st.tuples(WORDS, PUNCTUATION, PUNCTUATION), min_size=1, max_size=6))
def test_case_blanks_and_punctuation_change_nothing(parts: list[tuple[str, str, str]]) -> None:
    one = " ".join(word for word, _, _ in parts)
    other = "  ".join(f"{mark}{word.upper()}{end}" for word, mark, end in parts)
    assert objects(Unchanged, child(one, other))


@LAW
@given(st.lists(WORDS, min_size=1, max_size=6), st.integers(0, 5), WORDS)
def test_another_word_is_a_change(parts: list[str], place: int, word: str) -> None:
    at = place % len(parts)
    other = [*parts[:at], f"{word}z", *parts[at + 1 :]]
    assert not objects(Unchanged, child(" ".join(parts), " ".join(other)))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("写一首诗，关于大海。", "写一首诗 关于大海", True),
        ("เขียน บทกวี", "เขียนบทกวี", True),
        ("می\u200cخواهم", "میخواهم", True),
        ("Write it in C.", "Write it in C++.", False),
        ("What is 3 - 2?", "What is 3 * 2?", False),
        ("What is 3-2?", "What is 3+2?", False),
        ("What is 1.5?", "What is 15?", False),
        ("?!", "? !", True),
        ("?!", "!", False),
        ("…", "", False),
        ("", " \n", True),
        ("👍", "👎", False),
        ("naïve", "naive", False),
        ("\u1fb3\u0301", "\u1fb4", True),
    ],
)
def test_what_counts_as_a_change(a: str, b: str, same: bool) -> None:
    assert objects(Unchanged, child(a, b)) == same


@LAW
@given(st.text(max_size=60))
def test_the_normal_form_is_its_own(text: str) -> None:
    assert normal_form(normal_form(text)) == normal_form(text)


# Growth.


def text_of(count: int) -> str:
    return " ".join(["word"] * count)


@LAW
@given(st.integers(1, 60), st.integers(0, 120), st.integers(0, 20), st.integers(0, 60))
def test_in_depth_so_many_words_are_added_and_no_others(before: int, after: int, low: int, more: int) -> None:
    high = low + more
    bounds = recipe().growth.model_copy(update={"min_added": low, "max_added": high})
    rule = Growth(recipe().model_copy(update={"growth": bounds}))
    passes = low <= after - before <= high
    assert (rule.objection(child(text_of(before), text_of(after))) is None) == passes
    assert objects(Growth, child(text_of(before), text_of(after), may_add=(low, high))) != passes


@pytest.mark.parametrize(("added", "passes"), [(0, False), (1, True), (40, True), (41, False), (-1, False)])
def test_in_depth_one_to_forty_words_are_added(added: int, passes: bool) -> None:
    record = child(text_of(30), text_of(30 + added))
    why = said(Growth, record)
    assert (why is None) == passes
    assert passes or (f"{30 + added} words" in str(why) and "parent has 30" in str(why))


@pytest.mark.parametrize("direction", ["in-breadth", "downward"])
@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [(30, 14, False), (30, 15, True), (30, 60, True), (30, 61, False), (0, 2, True), (0, 3, False), (1, 1, True)],
)
def test_elsewhere_and_downward_it_is_half_to_twice_as_long(
    direction: Direction, before: int, after: int, passes: bool
) -> None:
    assert objects(Growth, child(text_of(before), text_of(after), direction)) != passes


@LAW
@given(st.integers(1, 50), st.integers(1, 40))
def test_a_ratio_that_is_allowed_is_allowed_at_its_border(tenths: int, tens: int) -> None:
    bounds = recipe().growth.model_copy(update={"min_ratio": tenths / 10, "max_ratio": tenths / 10})
    rule = Growth(recipe().model_copy(update={"growth": bounds}))
    for more in (-1, 0, 1):
        record = child(text_of(10 * tens), text_of(tenths * tens + more), "downward")
        assert (rule.objection(record) is None) == (more == 0)


@pytest.mark.parametrize(("added", "passes"), [(-5, False), (0, False), (1, True), (500, True)])
def test_an_answer_grows_without_an_end_unless_its_operator_sets_one(added: int, passes: bool) -> None:
    assert objects(Growth, child(text_of(30), text_of(30 + added), "answer")) != passes
    assert objects(Growth, child(text_of(30), text_of(30 + added), "answer", may_add=(10, 20)))


def test_an_operator_may_ask_for_fewer_words() -> None:
    for added, passes in ((-11, False), (-10, True), (-2, True), (-1, False)):
        assert objects(Growth, child(text_of(30), text_of(30 + added), "downward", may_add=(-10, -2))) != passes
    assert "2 fewer" in str(said(Growth, child(text_of(30), text_of(29), "downward", may_add=(-10, -2))))


def test_characters_are_words_where_no_blanks_are() -> None:
    assert words("写一首关于大海的诗") == 9
    assert not objects(Growth, child("写一首诗", "写一首关于大海的诗"))
    assert objects(Growth, child("写一首诗", "写一首诗" * 12))


# Intent.


@LAW
@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 10))
def test_enough_of_the_parents_content_words_are_kept(parent: int, kept: int, tenths: int) -> None:
    kept = min(kept, parent)
    before = " ".join(f"noun{i}" for i in range(parent))
    after = " ".join([*(f"noun{i}" for i in range(kept)), "new", "words", "the", "of"])
    assert objects(Intent, child(before, after), f"intent.min_recall={tenths / 10}") == (10 * kept < tenths * parent)


def test_only_in_depth_has_to_keep_its_intent() -> None:
    for direction in DIRECTIONS:
        assert objects(Intent, child("Name three rivers.", "Bake some bread.", direction)) == (direction == "in-depth")


@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        ("How do I do it?", "Bake a cake.", True),  # nothing to keep
        ("…", "Bake a cake.", True),
        ("Name the RIVERS of Asia", "the name of the thing and the of", True),
        ("What is the of and", "x", True),
        ("Опиши море и небо", "Испеки хлеб дома", False),
        ("Опиши море и небо", "Опиши МОРЕ утром", True),
        ("写一首关于大海的诗", "写一首关于大海的长诗，要押韵", True),
        ("写一首关于大海的诗", "解释光合作用", False),
    ],
)
def test_intent_is_seen_in_any_script(before: str, after: str, passes: bool) -> None:
    assert objects(Intent, child(before, after)) != passes


# Distance.

NUMBERED = [f"w{i}" for i in range(20)]
TEXTS = st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join)


@pytest.mark.parametrize(("common", "passes"), [(6, True), (7, False), (10, False)])
def test_in_breadth_a_text_keeps_its_distance_from_its_parent(common: int, passes: bool) -> None:
    before, after = " ".join(NUMBERED[:10]), " ".join(NUMBERED[:common] + NUMBERED[10 : 20 - common])
    found = Distance(recipe()).objection(child(before, after, "in-breadth"))
    assert (found is None) == passes
    if found is not None:
        assert (found.by, found.neighbour, found.score) == ("distance", "parent", rouge_l(before, after))
    for direction in ("in-depth", "downward", "answer"):
        assert not objects(Distance, child(before, after, direction))


def test_distance_is_measured_with_the_tokens_of_the_recipe() -> None:
    record = child("写一首关于大海的诗", "写一首关于大海的歌", "in-breadth")
    assert not objects(Distance, record)
    assert objects(Distance, record, "novelty.tokenizer=unicode")


@LAW
@given(TEXTS, TEXTS, st.floats(0, 1) | st.none())
def test_from_the_threshold_on_it_is_too_close(a: str, b: str, most: float | None) -> None:
    f = rouge_l(a, b)
    bound = recipe().intent.model_copy(update={"max_similarity": f if most is None else most})
    rule = Distance(recipe().model_copy(update={"intent": bound}))
    assert (rule.objection(child(a, b, "in-breadth")) is None) == (most is not None and f < most)


# Struggling answers.


def struggles(output: str, instruction: str = "Name a river.", given: str = "", *overrides: str) -> bool:
    return objects(Struggles, Record(instruction=instruction, input=given, output=output), *overrides)


@pytest.mark.parametrize(
    ("output", "fails"),
    [
        (apology(79), True),
        (apology(80), False),
        ("SORRY", True),
        ("Sorry-looking dogs are still dogs.", True),
        ("I cannot do that.", False),
        ("", False),
        (f"Sorry. {'很' * 78}", True),
        (f"Sorry. {'很' * 79}", False),
    ],
)
def test_an_apology_is_eighty_words_long_or_none(output: str, fails: bool) -> None:
    assert struggles(output) == fails


@pytest.mark.parametrize(
    "prompt",
    [
        "Write an apology to a customer.",
        "How do I say sorry in Danish?",
        "Reject the offer politely.",
        "Write a letter of condolence.",
        "写一封英文道歉信。",
        "Schreibe eine Entschuldigung auf Englisch.",
    ],
)
def test_an_apology_that_was_asked_for_is_an_answer(prompt: str) -> None:
    assert not struggles("I am sorry for being late.", prompt)
    assert not struggles("I am sorry for being late.", "Do what the input says.", prompt)
    assert struggles("I am sorry for being late.", prompt, "", "behaviour=compat")


def test_sorry_is_looked_for_in_the_answer_and_in_rewritten_ones_too() -> None:
    assert not objects(Struggles, child(PARENT, f"{CHILD} Sorry!", output=GOOD))
    assert objects(Struggles, child(GOOD, "Sorry, I cannot.", "answer"))


# Hollow answers.


def hollow(output: str, instruction: str = "Describe the sea.", *overrides: str) -> bool:
    return objects(Hollow, Record(instruction=instruction, output=output), *overrides)


@pytest.mark.parametrize(
    "output", ["…, . the of", "", " \n", "...", "The", "of the, and to it", "```\n```", "。！", "it's"]
)
def test_punctuation_and_stop_words_are_no_answer(output: str) -> None:
    assert hollow(output)
    assert hollow(output, "Describe the sea.", "behaviour=compat")


@pytest.mark.parametrize(
    "output", ["No", "no.", "None", "Both", "On", "It is.", "They do", "A", "(a)", "I don't.", "Never!", "May"]
)
def test_short_answers_of_stop_words_answer_and_to_the_letter_do_not(output: str) -> None:
    assert not hollow(output)
    assert hollow(output, "Describe the sea.", "behaviour=compat")


@pytest.mark.parametrize(
    "output", ["Yes", "True", "false", "42", "3.", "x", "是", "Да", "नहीं", "👍", "€", "The sea of it"]
)
def test_content_is_content_in_any_script(output: str) -> None:
    assert not hollow(output)
    assert not hollow(output, "Describe the sea.", "behaviour=compat")


def test_signs_of_arithmetic_answer() -> None:
    for sign in ("<", "=", "+", "$"):
        assert not hollow(sign) and hollow(sign, "Compare 3 and 4.", "behaviour=compat")


@pytest.mark.parametrize(
    "prompt",
    ["Which preposition fits: she sat ___ the chair?", "Translate 'sie' to English.", "Which keyword starts it?"],
)
def test_where_a_word_is_asked_for_any_word_answers(prompt: str) -> None:
    assert not hollow("in", prompt) and not hollow("for", prompt) and hollow("in")
    assert hollow("...", prompt)


def test_the_stop_words_are_sorted_and_none_holds_what_tokens_part() -> None:
    for block, listed in ((evolution._FUNCTION_WORDS, STOP_WORDS), (evolution._ANSWERING, evolution._ANSWERS)):
        assert block.split() == sorted(set(block.split())) == sorted(listed)
        assert [tokens(word, "unicode") for word in block.split()] == [[word] for word in block.split()]
    assert evolution._ANSWERS < STOP_WORDS
    assert STOP_WORDS.isdisjoint({"yes", "true", "false", "zero"})
