"""Each text rule on both sides of its border, in many scripts; and none ever raises, or quotes what is not there."""

# ruff: noqa: RUF001 - letters and marks of other scripts are meant

from __future__ import annotations

import ast
import json
import re
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from hypothesis.stateful import rule as rule_of_machine

from selfinstruct.filters import Filter, Rules, open_filter
from selfinstruct.filters.text import Duplicate, Opening, normal_form
from selfinstruct.formats import read_seeds
from selfinstruct.recipe import load
from selfinstruct.records import Direction, Evolution, Objection, Record
from selfinstruct.words import words

LAW = settings(deadline=None, max_examples=300)
SEEDS = read_seeds(Path(__file__).parents[1] / "seeds" / "175.jsonl")
DRAFT_RULES = ("duplicate", "length", "start", "wording", "opening")
ANSWER_RULES = load("self-instruct").filters.answer


def rule(name: str, *overrides: str, recipe: str = "self-instruct") -> Filter:
    return open_filter(name, load(recipe, overrides))


def draft(name: str, instruction: str, *overrides: str) -> str | None:
    return said(rule(name, *overrides).objection(Record(instruction=instruction, task="t")))


def answer(name: str, output: str, instruction: str = "Do it.", given: str = "", **more: Any) -> str | None:
    return said(rule(name).objection(Record(instruction=instruction, input=given, output=output, task="t", **more)))


def said(found: Objection | str | None) -> str | None:
    return found.why if isinstance(found, Objection) else found


# Drafts.


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" Write  a\npoem. ", 3),
        ("写一首关于大海的诗。", 9),
        ("バスの運転手に手紙を書いて!", 14),
        ("用Python写一个函数", 7),
        ("Γράψε ένα ποίημα για τη θάλασσα", 6),
        ("समुद्र के बारे में एक कविता लिखो", 7),
        ("اكتب قصيدة قصيرة عن البحر", 5),
        ("바다에 대한 시를 쓰세요", 4),
        ("เขียนบทกวีเกี่ยวกับทะเล", 5),
        ("𠀀𠀁𠀂𠀃", 4),
    ],
)
def test_words_are_counted_in_any_script(text: str, count: int) -> None:
    assert words(text) == count
    recipe = ("length.min_words=4", "length.max_words=13")
    assert (draft("length", text, *recipe) is None) == (4 <= count <= 13)


@pytest.mark.parametrize(("count", "passes"), [(3, False), (4, True), (150, True), (151, False)])
def test_four_to_150_words_pass(count: int, passes: bool) -> None:
    for behaviour in ("strict", "compat"):
        found = draft("length", "word " * count, f"behaviour={behaviour}")
        assert (found is None) == passes
        assert passes or str(count) in str(found)


@pytest.mark.parametrize(
    "first", [*"Aaß9٣éΩЖतあ写ش한ก", '"', "'", "“", "„", "«", "»", "‹", "‘", "「", "《", "¿", "¡", "²"]
)
def test_an_instruction_may_begin_with_a_letter_digit_or_quotation_of_any_script(first: str) -> None:
    assert draft("start", f"{first}bc def") is None


@pytest.mark.parametrize(
    "first", ["-", "*", "(", "[", "#", ".", ",", ":", ")", "_", "/", "…", "•", "👍", " ", "\u0301"]
)
def test_an_instruction_may_not_begin_with_another_mark(first: str) -> None:
    assert first in str(draft("start", f"{first}bc def")) or repr(first) in str(draft("start", f"{first}bc def"))


def test_the_originals_want_a_first_letter_in_ascii() -> None:
    assert draft("ascii-start", "Write it") is None and draft("ascii-start", "9 is odd?") is None
    assert "'É'" in str(draft("ascii-start", "Éclair")) and "'\"'" in str(draft("ascii-start", '"Quote"'))
    assert draft("ascii-start", "") is None


def test_write_a_program_is_the_originals_rule_by_the_letter() -> None:
    assert draft("write-a-program", "Write a program to sort") is not None
    assert draft("write-a-program", "write a program to sort") is None
    assert draft("write-a-program", "Write a poem") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Draw a cat.", "Draw a"),
        ("What is in the attached file?", "in the attached"),
        ("Describe what you see in the photo.", "in the photo"),
        ("Withdraw a sum.", None),
        ("Draw a conclusion from the two reports.", None),
        ("Draw a conclusion, then draw a cat.", "draw a"),
        ("Explain the file format of PNG images.", None),
        ("Map the words to numbers.", None),
    ],
)
def test_hard_wording_rejects(text: str, found: str | None) -> None:
    assert draft("wording", text) == (found and f"asks for something that is not text: {found!r}")


def test_soft_wording_is_remarked_and_passes() -> None:
    record = Record(instruction="Go to the File of Pictures, the profile file and the map.", task="t")
    wording = rule("wording")
    rules = Rules(("length", "wording"), load("self-instruct"), "draft")
    assert wording.objection(record) is None
    assert rules.remarks(record) == ("go to", "file", "pictures", "map")
    assert rules.remarks(Record(instruction="Sort the words.")) == ()
    bare = open_filter("wording", load("self-instruct", ["wording.hard=[]", "wording.soft=[]"]))
    assert bare.objection(record) is None


def test_a_listed_word_is_a_whole_word_where_blanks_part_words_and_any_place_where_not() -> None:
    hard = 'wording.hard=["图片", "c++", "rajz", "صورة"]'
    for text, passes in {
        "请画一张图片吧": False,
        "请写一首诗吧": True,
        "Write it in C++ now": False,
        "Write it in C++14": True,
        "A rajz szép": False,
        "A rajzok szépek": True,
        "اكتب صورة قصيرة": False,
    }.items():
        assert (draft("wording", text, hard) is None) == passes, text
        assert (draft("blacklist", text, hard) is None) == passes, text


def test_the_originals_reject_any_listed_word() -> None:
    for recipe, count in (("self-instruct", 13), ("alpaca", 18)):
        compat = load(recipe, ["behaviour=compat"])
        blacklist = open_filter("blacklist", compat)
        assert len(compat.wording.hard) == count
        for word in compat.wording.hard:
            assert f"{word!r}" in str(blacklist.objection(Record(instruction=f"Use the {word}, please")))
        assert blacklist.objection(Record(instruction="Find the bitmap of a profile, or a videotape")) is None


def test_five_tasks_or_three_percent_of_the_pool_may_open_alike() -> None:
    opening = rule("opening")
    alike = [Record(instruction=f"Write a program, version {n}", task=f"a{n}") for n in range(20)]
    other = [Record(instruction=f"Task {n} is other", task=f"o{n}") for n in range(300)]
    learn = opening.learn  # type: ignore[attr-defined]
    for record in alike[:5]:
        assert opening.objection(record) is None
        learn(record)
    assert said(opening.objection(alike[5])) == "5 tasks already begin with 'write a program'"
    assert opening.objection(Record(instruction="WRITE  a “program” twice")) is not None
    assert opening.objection(Record(instruction="Write a poem now")) is None
    for record in other:
        learn(record)
    for record in alike[5:9]:  # 3 % of 305 and more is nine
        assert opening.objection(record) is None
        learn(record)
    assert opening.objection(alike[9]) is not None


def test_openings_are_capped_in_scripts_without_blanks_too() -> None:
    opening = rule("opening")
    for n in range(5):
        opening.learn(Record(instruction=f"请写一个程序，第{n}种"))  # type: ignore[attr-defined]
    assert opening.objection(Record(instruction="请写一个程序来排序")) is not None
    assert opening.objection(Record(instruction="请写一首诗来读")) is None


def test_a_duplicate_is_the_same_text_but_for_case_blanks_and_composition() -> None:
    duplicate = rule("duplicate")
    duplicate.learn(Record(instruction="Écris  un poème.", input="a", task="one"))  # type: ignore[attr-defined]
    again = duplicate.objection(Record(instruction=unicodedata.normalize("NFD", "écris UN\npoème. "), input="b"))
    assert isinstance(again, Objection) and again.neighbour == "one" and again.score == 1.0
    assert duplicate.objection(Record(instruction="Écris un poème")) is None
    both = rule("duplicate", 'novelty.key="instruction+input"')
    both.learn(Record(instruction="Sort.", input="a", task="one"))  # type: ignore[attr-defined]
    assert both.objection(Record(instruction="Sort.", input="b")) is None
    assert both.objection(Record(instruction="sort.", input="A")) is not None


def evolved(text: str, lineage: int, task: str = "", direction: Direction | None = "in-depth") -> Record:
    evolution = Evolution(lineage=lineage, root="r", direction=direction)
    return Record(instruction=text, task=task or text, evolution=evolution)


SAYINGS = st.sampled_from(["Sing", "sing!", "歌え", "歌 え。", "?!"])
RECORDS = st.builds(evolved, SAYINGS, st.integers(0, 1), st.sampled_from("abc"))


class Sayings(RuleBasedStateMachine):
    """The rule beside a plain list of what it has learnt and not forgotten, in whatever order."""

    @initialize(recipe=st.sampled_from(["self-instruct", "evolve/wizardlm"]))
    def begin(self, recipe: str) -> None:
        self.rule = Duplicate(load(recipe))
        self.form = normal_form if recipe.startswith("evolve") else lambda text: " ".join(text.casefold().split())
        self.learnt: list[Record] = []

    @rule_of_machine(record=RECORDS)
    def learn(self, record: Record) -> None:
        self.rule.learn(record)
        self.learnt.append(record)

    @rule_of_machine(data=st.data())
    def forget(self, data: Any) -> None:
        if self.learnt:
            record = data.draw(st.sampled_from(self.learnt))
            self.rule.forget(record)
            same = [at for at, one in enumerate(self.learnt) if self.same(one, record) and one.task == record.task]
            del self.learnt[same[-1]]

    @rule_of_machine(record=RECORDS)
    def forget_what_was_never_learnt(self, record: Record) -> None:
        self.rule.forget(record.model_copy(update={"task": "never learnt"}))

    @rule_of_machine(record=RECORDS)
    def ask(self, record: Record) -> None:
        earliest = next((one for one in self.learnt if self.same(one, record)), None)
        found = self.rule.objection(record)
        assert (found and found.neighbour) == (earliest and earliest.task)

    @invariant()
    def holds_nothing_else(self) -> None:
        assert sum(map(len, self.rule._again.values())) + len(self.rule._seen) == len(self.learnt)

    def same(self, one: Record, other: Record) -> bool:
        return self.form(one.instruction) == self.form(other.instruction)


Sayings.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestSayings = Sayings.TestCase


def test_the_earliest_that_is_left_is_the_one_named() -> None:
    duplicate = Duplicate(load("evolve/wizardlm"))
    for task in ("row", "draft", "other", "draft"):
        duplicate.learn(evolved("Sing.", 0, task))
    for forgotten, named in (("draft", "row"), ("row", "draft"), ("draft", "other"), ("other", None)):
        duplicate.forget(evolved("Sing.", 0, forgotten))
        found = duplicate.objection(evolved("Sing.", 1))
        assert (found and found.neighbour) == named


def test_where_a_recipe_evolves_punctuation_makes_no_new_text_and_a_lineage_no_exception() -> None:
    duplicate = Duplicate(load("evolve/wizardlm"))
    duplicate.learn(evolved("Name three rivers.", 0, "row", None))
    for lineage in (0, 1):
        found = duplicate.objection(evolved("“Name three rivers”!", lineage))
        assert found is not None and found.neighbour == "row"
    assert Duplicate(load("self-instruct")).objection(evolved("Name three rivers!", 0)) is None


def test_a_rewritten_answer_is_no_duplicate_and_takes_no_place() -> None:
    duplicate = Duplicate(load("evolve/quality"))
    duplicate.learn(evolved("Name three rivers.", 0, "row", None))
    better = evolved("Name three rivers.", 0, "row", "answer")
    assert duplicate.objection(better) is None
    duplicate.learn(better)
    duplicate.forget(better)
    assert duplicate.objection(evolved("Name three rivers.", 1)) is not None


def test_openings_that_are_taken_back_no_longer_count() -> None:
    opening = Opening(load("self-instruct"))
    alike = [Record(instruction=f"Write a poem about {n}.", task=str(n)) for n in range(6)]
    for record in alike[:5]:
        opening.learn(record)
    assert opening.objection(alike[5]) is not None
    opening.forget(alike[0])
    assert opening.objection(alike[5]) is None


# Answers.


def test_an_answer_is_not_empty() -> None:
    assert answer("empty", " \n") is not None and answer("empty", "0") is None


def test_an_answer_is_not_its_question() -> None:
    assert answer("echo", "b a ", given=" b a") == "the output is the input: 'b a'"
    assert answer("echo", "DO IT.") == "the output is the instruction: 'DO IT.'"
    assert answer("echo", "a b", given="b a") is None
    assert answer("echo", "") is None  # that is the rule `empty`
    compat = open_filter("echo", load("self-instruct", ["behaviour=compat"]))
    assert compat.objection(Record(instruction="a", input="b ", output="b")) is None
    assert compat.objection(Record(instruction="a", input="b", output="b")) is not None


def test_nothing_ends_in_a_colon() -> None:
    assert answer("colon", "As follows: \n") == "the output ends in a colon"
    assert answer("colon", "是：") is not None
    assert answer("colon", "a", given="Text:") == "the input ends in a colon"
    assert answer("colon", "Ratio 1:2", given="a: b", instruction="Sort:") is None


@pytest.mark.parametrize(
    "output",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m very sorry, I cannot browse the internet.",
        "Sorry, but I am unable to help you with this.",
        "I apologize, but I cannot provide medical advice.",
        "Unfortunately, I cannot access external files.",
        "I cannot fulfill this request.",
        "I am not able to generate images.",
        "I'm sorry, but you haven't provided a text.",
        "Sorry, no text was provided.",
        "As an AI language model, I do not have feelings.",
        "That depends. As a large language model I have no taste, but red is popular.",
        "I am an AI and have no favourite colour.",
    ],
)
def test_a_model_that_declines_is_heard(output: str) -> None:
    why = answer("refusal", output, "Name your favourite colour.")
    assert why is not None and why.startswith("declines: ")


@pytest.mark.parametrize(
    "output",
    [
        "I'm so sorry for your loss.",
        "I am sorry to hear that your dog is ill. Please come on Monday.",
        "Sorry I'm late! The bus broke down.",
        "I apologize for the delay; your parcel will arrive on Friday.",
        "I can't help but smile when I think of you.",
        "I cannot help falling in love with you.",
        "I'm sorry, I can't come to your party on Saturday.",
        "Unfortunately, I cannot attend the meeting.",
        "I won't forget you, said the fox.",
        "He said he was sorry, but he could not provide an answer.",
        "As an airport, I would be a small one.",
        "As an aide I can help you.",
        "Sorry seems to be the hardest word.",
    ],
)
def test_a_person_who_is_sorry_declines_nothing(output: str) -> None:
    assert answer("refusal", output, "Write what he says.") is None


@pytest.mark.parametrize(
    ("instruction", "output"),
    [
        ("Write an apology to a customer.", "I'm sorry, but I cannot provide a refund."),
        ("Decline the invitation politely.", "I'm sorry, I can't help you move on Sunday."),
        ("Explain what an AI can and cannot do, in its own voice.", "As an AI, I can read, but I cannot taste."),
        ("解释AI是什么。", "As an AI, I read texts."),
        ("Write the first line of a robot's diary.", "As an AI I have no birthday."),
    ],
)
def test_a_refusal_that_was_asked_for_is_an_answer(instruction: str, output: str) -> None:
    assert answer("refusal", output, instruction) is None
    assert answer("refusal", output, "Do what the input says.", given=instruction) is None
    assert answer("refusal", output, "Name a colour.") is not None


@pytest.mark.parametrize(
    "text",
    [
        "Dear [Name], welcome!",
        "Dear [Recipient's Name],",
        "Kind regards,\n[Your Name]",
        "We open on [date].",
        "[Insert the name of the city] is nice.",
        "Join <your company> today.",
        "Lorem ipsum dolor sit amet.",
        "<noinput>",
    ],
)
def test_a_blank_left_to_fill_in_is_seen(text: str) -> None:
    assert "the output has a placeholder" in str(answer("placeholder", text))
    assert "the input has a placeholder" in str(answer("placeholder", "fine", given=text))
    assert answer("placeholder", text, given=f"As in: {text}") == answer("placeholder", "", given=f"As in: {text}")
    assert (
        answer("placeholder", text, f"What does {text.upper()!r} say?".replace("\\N", "\n").replace('"', "'")) is None
    )
    assert answer("placeholder", text, "Write a letter template.") is None


@pytest.mark.parametrize(
    "text",
    [
        "print(row[name], table['x'][date])",
        "See [name](https://example.org/name).",
        "Press <Enter>, then [Insert].",
        'In the file: <add key="a" value="b"/>',
        "He said [sic] and [laughs] and <b>left</b>.",
        "a[0] < your < b > c",
        "[1, 2, 3]",
        "My name is Ada; the date is 3 May.",
    ],
)
def test_brackets_that_belong_there_are_no_blanks(text: str) -> None:
    assert answer("placeholder", text) is None


def test_a_second_blank_is_seen_behind_one_that_was_given() -> None:
    assert "[Your Name]" in str(answer("placeholder", "[Date], [Your Name]", "What comes after [date] in a letter?"))


CHORUS = """La la la la
the sea is wide
La la la la
the boat is small
La la la la
we row till dawn
with fish and salt
and songs for all
and no one sings alone
and home we come at last"""
CODE = """```python
def f(a, b, c):
    if a is None:
        return 0
    if a is None:
        return 1
    if a is None:
        return 2
```"""


@pytest.mark.parametrize(
    ("output", "passes"),
    [
        ("I like the sea.\nI like the sea.\nI like the sea.", False),
        ("The sea.\nI like it.\n" * 3, False),
        ("I like the sea.\nI like the sea.\nIt is wide.", True),
        (CHORUS, True),
        (CODE, True),
        ("| --- | --- | --- |\n" * 3 + "| a | b | c |", True),
        ("yes\nyes\nyes\nno", True),
        ("we go on and on and on and " * 6, False),
        ("我很好今天我很好今天我很好今天我很好今天", False),
        ("今天天气很好，我们去公园散步，然后回家吃饭。", True),
        ("one two three four five six seven eight nine ten eleven twelve thirteen", True),
    ],
)
def test_an_answer_that_runs_in_circles_is_seen(output: str, passes: bool) -> None:
    assert (answer("repetition", output) is None) == passes
    assert answer("repetition", output, "Repeat the line ten times.") is None


LONG = "This is a sentence with quite a few more than a dozen words that just"


@pytest.mark.parametrize(
    "output",
    [
        LONG,
        f"It begins well.\nIt goes on well.\n{LONG}",
        "Das ist ein langer Satz mit mehr als einem Dutzend Wörtern und ohne ein rechtes",
        "这是一个很长的句子它有很多很多的字但是到了最后它还是没有写完就停在这里了因为",
        "यह एक बहुत लंबा वाक्य है जिसमें बारह से अधिक शब्द हैं और जो बीच में ही रुक",
    ],
)
def test_a_long_line_that_just_stops_is_seen(output: str) -> None:
    why = str(answer("unfinished", output))
    assert "stops in the middle" in why and repr(output[-40:]) in why
    assert answer("unfinished", output, classification=True) is None


@pytest.mark.parametrize(
    "output",
    [
        "",
        "forty-two",
        "just a few words",
        f"{LONG} ends.",
        f"{LONG} asks?",
        f"“{LONG}”",
        f"({LONG})",
        f"{LONG} 42",
        f"{LONG} 50 %",
        f"{LONG} 😀",
        f"{LONG} ❤️",
        f"{LONG} at https://example.org/a",
        f"{LONG} in ./run_all.sh",
        f"Points:\n- {LONG}",
        f"Points:\n2. {LONG}",
        f"a) {LONG}",
        f"| a | {LONG} |",
        f"a\tb\t{LONG}",
        f"```\n{LONG}\n```",
        "find . -type f -name x -exec cat {} + | sort -u | grep a | wc -l",
        "The sea is wide and blue and deep\nand many ships are on it in their sleep\n"
        "and gulls above them cry and fly and look for fish and for a place to keep",
        "milk, two eggs, flour, sugar, a lemon, salt, butter, cream, vanilla, almonds, yeast, honey",
        "这是一个很长的句子，它有很多很多的字，最后它写完了，有一个句号在这里。",
        "人工智能在医疗领域的应用与发展前景",
        "यह एक बहुत लंबा वाक्य है जिसमें बारह से अधिक शब्द हैं और जो पूरा लिखा गया है।",
        "هذه جملة طويلة جدا فيها أكثر من اثنتي عشرة كلمة وهي تنتهي كما ينبغي أليس كذلك؟",
        "ประโยคนี้ยาวมากและมีคำมากกว่าสิบสองคำแต่ภาษาไทยไม่มีจุดที่ท้ายประโยคจึงถือว่าจบแล้วครับ",
    ],
)
def test_an_answer_that_ends_in_its_own_way_is_finished(output: str) -> None:
    assert answer("unfinished", output) is None


def test_an_answer_may_go_without_full_stops_where_its_input_does() -> None:
    assert answer("unfinished", LONG, given="das ist ein satz ohne punkt") is None
    assert answer("unfinished", LONG, given="Das ist ein Satz.") is not None


def test_an_answer_has_at_most_so_many_words() -> None:
    long = rule("answer-length", "length.max_output_words=3")
    assert long.objection(Record(instruction="a", output="one two three")) is None
    assert said(long.objection(Record(instruction="a", output="one two three four"))) == "4 words, more than 3"
    assert long.objection(Record(instruction="a", output="一二三四")) is not None


@pytest.mark.parametrize(
    ("output", "leak"),
    [
        ("<think>Hm.</think> Yes.", "<think>"),
        ("Yes.</thinking>", "</thinking>"),
        ("Yes.<|im_end|>", "<|im_end|>"),
        ("Yes.<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("[INST] Go on", "[INST]"),
        ("Yes.\n### Response:\nNo.", "### Response:"),
    ],
)
def test_traces_of_the_machinery_are_seen_unless_they_were_asked_about(output: str, leak: str) -> None:
    assert answer("leak", output) == f"leaks {leak!r}"
    assert answer("leak", output.replace("</think>", ""), f"What does {leak} mean?") is None
    assert answer("leak", f"{leak} <|pad|>", f"What does {leak} mean?") == "leaks '<|pad|>'"


@pytest.mark.parametrize(
    "output", ["I think so.", "a <| b |> c", "## Response", "x < think > y", "The ### Response: b"]
)
def test_what_only_looks_like_machinery_passes(output: str) -> None:
    assert answer("leak", output) is None


# All rules.


PIECES = st.sampled_from(
    [
        "I'm sorry, I cannot help you",
        "As an AI, I",
        "[Your Name]",
        "<noinput>",
        "a b c d " * 4,
        "Draw a",
        "图片",
        ":",
        "```",
    ]
) | st.sampled_from(["\n", " ", "“", "<|x|>", "- ", "| a |", "one two three\n" * 3, "写一首诗", "\u0301", "ครับ", LONG])
TEXT = st.text(max_size=30) | st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join)


FRESH = [
    (name, rule(name, f"behaviour={behaviour}"))
    for behaviour in ("strict", "compat")
    for name in (*DRAFT_RULES, *ANSWER_RULES, "blacklist", "write-a-program", "ascii-start")
]
QUOTE = re.compile(r"""(?:: |with |leaks |contains |line )('.*'|".*")\Z""")
BEFORE_ALL = Rules((*DRAFT_RULES[1:4], *ANSWER_RULES), load("self-instruct"), "answer")


@LAW
@given(st.builds(Record, instruction=TEXT, input=TEXT, output=TEXT, classification=st.none() | st.booleans()))
def test_no_rule_raises_and_what_an_objection_quotes_stands_in_the_text(record: Record) -> None:
    for name, one in FRESH:
        why = said(one.objection(record))
        if name in ("opening", "duplicate"):
            assert why is None  # of the first task of all
        if why is not None and (quote := QUOTE.search(why)):
            assert ast.literal_eval(quote[1]) in f"{record.instruction}\n{record.input}\n{record.output}", why


@LAW
@given(TEXT, TEXT)
def test_rules_without_memory_say_the_same_again(instruction: str, output: str) -> None:
    record = Record(instruction=instruction, output=output, task="t")
    assert BEFORE_ALL.objection(record) == BEFORE_ALL.objection(record)
    assert BEFORE_ALL.remarks(record) == BEFORE_ALL.remarks(record)


@pytest.mark.parametrize(
    "filler", [" ", "*", "I", "[", "a ", "a_", "sorry ", "i cannot ", "as an ai ", "\n", "a.a", "```\n"]
)
def test_a_long_answer_in_circles_is_judged_in_no_time(filler: str) -> None:
    record = Record(instruction="a", output=filler * (60_000 // len(filler)) + " x y")
    rules = [rule(name) for name in ANSWER_RULES]
    before = time.process_time()
    for one in rules:
        one.objection(record)
    assert time.process_time() - before < 2


def test_the_seeds_pass_every_rule() -> None:
    recipe = load("self-instruct")
    at_draft, at_answer = Rules(DRAFT_RULES, recipe, "draft"), Rules(recipe.filters.answer, recipe, "answer")
    for seed in SEEDS:
        assert at_draft.objection(seed) is None and at_answer.objection(seed) is None, (
            seed.task,
            json.dumps(seed.output),
        )
        at_draft.learn(seed)
