"""IFEval: whatever can be asked for can be followed, and missed by a little; both behaviours; and the shipped rows."""

# ruff: noqa: RUF001 - letters and marks of other scripts are meant

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.errors import InputError, UsageError
from selfinstruct.resources import SEEDS
from selfinstruct.verifiable import ifeval
from selfinstruct.verifiable.constraints import CHOICE, CONFLICTS, Pool, compose, conflicting, draw, material, suite
from selfinstruct.verifiable.ifeval import TYPES, Followed, Verifiable, accuracy, followed, read_verifiable, sentences

pytestmark = pytest.mark.usefixtures("no_hang")

SHIPPED = SEEDS / "verifiable.jsonl"
FULL = {name.partition(":")[2]: name for name in TYPES}
BOTH = ("strict", "compat")


def item(*asked: tuple[str, dict[str, Any]], prompt: str = "Say something.") -> Verifiable:
    return Verifiable(1, prompt, tuple(FULL[short] for short, _ in asked), tuple(kwargs for _, kwargs in asked))


def verdict(short: str, text: str, behaviour: Any = "strict", **kwargs: Any) -> bool | None:
    return followed(item((short, kwargs)), text, behaviour).strict[0]


# An answer to whatever is asked for.

PLAIN = "the path to the old mill is long and the water is cold in the morning"
"""English without a full stop, a comma, a capital, or a letter that constraints ask to be rare."""
SAID = {
    "ar": "الطريق إلى المدينة طويل والماء بارد جدا في الصباح ونحن نحب القراءة في البيت",
    "de": "Der Weg in die Stadt ist lang und das Wasser ist am Morgen noch sehr kalt",
    "es": "El camino a la ciudad es largo y el agua está muy fría por la mañana",
    "fr": "Le chemin vers la ville est long et l'eau est encore très froide le matin",
    "hi": "शहर का रास्ता लंबा है और सुबह पानी बहुत ठंडा होता है",
    "it": "La strada per la città è lunga e l'acqua è molto fredda la mattina",
    "ja": "町までの道は長くて、朝の水はとても冷たいです",
    "ko": "도시로 가는 길은 길고 아침에는 물이 아주 차갑습니다",
    "pl": "Droga do miasta jest długa i rano woda jest bardzo zimna",
    "pt": "O caminho para a cidade é longo e a água está muito fria pela manhã",
    "ru": "Дорога в город длинная и утром вода очень холодная",
    "tr": "Şehre giden yol uzun ve sabahları su çok soğuk oluyor",
}


def answering(one: Verifiable) -> str:
    """A text that does all that a prompt asks for, and no more than that where it asks for at least so much."""
    asked = {name.partition(":")[2]: kwargs for name, kwargs in zip(one.ids, one.kwargs, strict=True)}
    everything = {slot: value for kwargs in one.kwargs for slot, value in kwargs.items()}
    plain = SAID[everything["language"]] if "language" in everything else PLAIN
    keywords = " ".join(everything.get("keywords", ()))
    if "json_format" in asked:
        return f"```json\n{json.dumps({'answer': [plain, keywords]})}\n```"
    if "constrained_response" in asked:
        return f"{plain}. My answer is maybe."
    if "two_responses" in asked:
        return cased(f"{plain} {keywords}\n******\n{plain} {plain}", asked)
    short = " ".join(plain.split()[:4])
    parts = [plain, *[short] * (everything.get("num_paragraphs", 1) - 1)]
    if "nth_paragraph_first_word" in asked:
        at = everything["nth_paragraph"] - 1
        parts[at] = f"{everything['first_word']} {parts[at]}"
    if "number_sentences" in asked and asked["number_sentences"]["relation"] == "at least":
        parts = [" ".join([f"{plain}."] * everything["num_sentences"])]
    more = [f"<<{short}>>"] if "title" in asked else []
    more += [keywords] if keywords else []
    if "keyword" in everything:
        more.append(times(everything["keyword"], everything["frequency"], asked["frequency"]["relation"]))
    if "letter" in everything:
        more.append(times(everything["letter"], everything["let_frequency"], everything["let_relation"]))
    if "capital_frequency" in everything:
        more.append(times("MILL", everything["capital_frequency"], everything["capital_relation"]))
    if "number_words" in asked and asked["number_words"]["relation"] == "at least":
        more.append(" ".join((PLAIN.split() * 40)[: asked["number_words"]["num_words"]]))
    more += [" ".join([f"[{short}]"] * everything["num_placeholders"])] if "num_placeholders" in everything else []
    more += (
        [" ".join([short, *[f"*{short}*"] * everything["num_highlights"]])] if "num_highlights" in everything else []
    )
    for number in range(everything.get("num_sections", 0)):
        more.append(f"{everything['section_spliter']} {number + 1}\n{short}")
    more += [f"{'*-'[number % 2]} {short}" for number in range(everything.get("num_bullets", 0))]
    more += [f"{everything['postscript_marker']} {short}"] if "postscript" in asked else []
    more += [everything["end_phrase"]] if "end_phrase" in everything else []
    parts[-1] = "\n".join(filter(None, (parts[-1], *more)))
    text = ("\n***\n" if "number_paragraphs" in asked else "\n\n").join(parts)
    text = f"{everything['prompt_to_repeat']}\n\n{text}" if "prompt_to_repeat" in everything else text
    return cased(f'"{text}"' if "quotation" in asked else text, asked)


def cased(text: str, asked: dict[str, Any]) -> str:
    return text.upper() if "english_capital" in asked else text.lower() if "english_lowercase" in asked else text


def times(word: str, number: int, relation: str) -> str:
    """As often as the relation just allows."""
    return " ".join([word] * (number if relation == "at least" else number - 1))


def behaviours(one: Verifiable) -> tuple[str, ...]:
    """Those in which an answer is sure to follow: of words in capitals compat makes any language."""
    return BOTH[:1] if FULL["english_capital"] in one.ids else BOTH


def all_followed(one: Verifiable, text: str, behaviour: Any) -> bool:
    return all(followed(one, text, behaviour).strict)


# The least that makes such an answer fail.


def fewer_or_more(slot: str) -> Callable[[str, dict[str, Any]], str]:
    def change(text: str, kwargs: dict[str, Any]) -> str:
        word = kwargs.get(slot, slot)
        relation = next(value for name, value in kwargs.items() if name.endswith("relation"))
        return f"{text} {word}" if relation == "less than" else text.replace(word, "", 1)

    return change


SPOILED: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "existence": lambda text, kwargs: text.replace(kwargs["keywords"][1], ""),
    "frequency": fewer_or_more("keyword"),
    "forbidden_words": lambda text, kwargs: f"{text} {kwargs['forbidden_words'][1].upper()}",
    "letter_frequency": lambda text, kwargs: (
        f"{text}{kwargs['letter']}" if kwargs["let_relation"] == "less than" else text.replace(kwargs["letter"], "")
    ),
    "response_language": lambda text, kwargs: SAID["fr" if kwargs["language"] == "pt" else "pt"],
    "number_sentences": lambda text, kwargs: (
        text + ". More" * (kwargs["num_sentences"] - 1)
        if kwargs["relation"] == "less than"
        else text.replace(".", "", 1)
    ),
    "number_paragraphs": lambda text, kwargs: f"{text}\n***\nmore",
    "number_words": lambda text, kwargs: (
        text + " more" * (kwargs["num_words"] - len(text.split()))
        if kwargs["relation"] == "less than"
        else " ".join(text.split()[: kwargs["num_words"] - 1])
    ),
    "nth_paragraph_first_word": lambda text, kwargs: text.replace(kwargs["first_word"], f"{kwargs['first_word']}ly"),
    "number_placeholders": lambda text, kwargs: text.replace("]", "", 1),
    "postscript": lambda text, kwargs: text.replace("P.S", "PS"),
    "number_bullet_lists": lambda text, kwargs: text.replace("\n* ", "\n", 1),
    "constrained_response": lambda text, kwargs: text.replace("My", "my"),
    "number_highlighted_sections": lambda text, kwargs: text.replace("*", "", 1),
    "multiple_sections": lambda text, kwargs: text.replace(f" {kwargs['num_sections']}", ""),
    "json_format": lambda text, kwargs: f"Here: {text}",
    "title": lambda text, kwargs: text.replace(">>", "\n>>"),
    "two_responses": lambda text, kwargs: f"{text}\n******\nmore",
    "repeat_prompt": lambda text, kwargs: f"Sure! {text}",
    "end_checker": lambda text, kwargs: f"{text} Bye",
    "quotation": lambda text, kwargs: text[:-1],
    "capital_word_frequency": fewer_or_more("MILL"),
    "english_capital": lambda text, kwargs: f"{text}s",
    "english_lowercase": lambda text, kwargs: f"{text}S",
    "no_comma": lambda text, kwargs: f"{text},",
}


@pytest.mark.parametrize("short", FULL)
def test_whatever_is_drawn_can_be_followed_and_be_missed_by_a_little(short: str) -> None:
    for seed in range(50):
        kwargs = drawn(short, seed)
        one = item((short, kwargs))
        text = answering(one)
        worse = SPOILED[short](text, kwargs)
        assert all(all_followed(one, text, behaviour) for behaviour in behaviours(one)), (kwargs, text)
        assert not any(any(followed(one, worse, behaviour).strict) for behaviour in BOTH), (kwargs, worse)
        assert not any(any(followed(one, " \n", behaviour).loose) for behaviour in BOTH)


def drawn(short: str, seed: int) -> dict[str, Any]:
    rng = Random(f"{short}|{seed}")
    base = rng.choice(material().bases)
    return draw(FULL[short], rng, Pool(base.task, base.words, material()))


@settings(max_examples=150)
@given(seed=st.integers(0, 10**9), base=st.sampled_from(material().bases), number=st.integers(1, 3))
def test_whatever_is_composed_can_be_followed(seed: int, base: Any, number: int) -> None:
    one = compose(base.task, Random(seed), material(), number, words=base.words)
    assert len(set(one.ids)) == number and one.prompt.startswith(f"{base.task}\n\n")
    assert not any(conflicting(a, b) for a in one.ids for b in one.ids if a != b)
    assert all(all_followed(one, answering(one), behaviour) for behaviour in behaviours(one)), (one, answering(one))
    assert one == compose(base.task, Random(seed), material(), number, words=base.words)


def test_conflicts_go_both_ways_and_are_those_of_the_paper() -> None:
    for one in TYPES:
        assert conflicting(one, one)
        assert all(conflicting(one, other) == conflicting(other, one) for other in TYPES)
    against = {short: {other.partition(":")[2] for other in CONFLICTS[name]} for short, name in FULL.items()}
    assert against["constrained_response"] == set(FULL)
    assert set(FULL) - against["json_format"] == {"existence", "forbidden_words"}
    assert len(against["two_responses"]) > 18 < len(against["repeat_prompt"])
    cases = {"english_capital", "english_lowercase", "capital_word_frequency"}
    assert all(cases <= against[case] for case in cases)
    assert cases | {"existence", "frequency", "multiple_sections", "end_checker"} <= against["response_language"]
    assert {"number_highlighted_sections", "response_language"} <= against["multiple_sections"]
    assert "nth_paragraph_first_word" in against["number_paragraphs"] and "title" in against["quotation"]


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="no 2 of these types go together"):
        compose("Say it.", Random(0), material(), 2, types=[CHOICE])
    broken = material().model_copy(update={"phrasings": {CHOICE: ("{{ nothing }}",)}})
    with pytest.raises(InputError, match="'nothing' is undefined"):
        compose("Say it.", Random(0), broken, 1, types=[CHOICE])


def test_the_least_used_types_are_asked_for_first() -> None:
    used: Counter[str] = Counter()
    for seed in range(25):
        compose("Say it.", Random(seed), material(), 1, used=used)
    assert set(used.values()) == {1} and set(used) == set(TYPES)


# Golden values (Zhou et al. 2023, by their code), and where strict differs.

HIGHLIGHTS, PARTS = "number_highlighted_sections", "number_paragraphs"
GOLDEN: list[tuple[str, str, dict[str, Any], bool]] = [
    ("number_bullet_lists", "* a\n- b\n** c\n1. d", {"num_bullets": 2}, True),
    ("number_bullet_lists", "* a\n- b\n** c\n1. d", {"num_bullets": 3}, False),
    ("number_bullet_lists", "a\n---\nb", {"num_bullets": 1}, True),
    (HIGHLIGHTS, "*a* and **b**", {"num_highlights": 2}, True),
    (HIGHLIGHTS, "*a* and **b**", {"num_highlights": 3}, False),
    (HIGHLIGHTS, "* *", {"num_highlights": 1}, False),
    (HIGHLIGHTS, "**b**", {"num_highlights": 1}, True),
    (HIGHLIGHTS, "**b**", {"num_highlights": 2}, False),
    (PARTS, "A *** B", {"num_paragraphs": 2}, True),
    (PARTS, "***\nA *** B\n***", {"num_paragraphs": 2}, True),
    (PARTS, "A *** *** B", {"num_paragraphs": 2}, False),
    (PARTS, "A *** *** B", {"num_paragraphs": 3}, False),
    ("title", "<< >>", {}, False),
    ("title", "<<a>>", {}, True),
    ("title", "<<a\nb>>", {}, False),
    ("json_format", "Here: {}", {}, False),
    ("json_format", '```JSON\n{"a": [1]}\n```', {}, True),
    ("json_format", "[" * 100_000, {}, False),
    ("postscript", "PS bye", {"postscript_marker": "P.S."}, False),
    ("postscript", "so\nP. S. x", {"postscript_marker": "P.S."}, True),
    ("postscript", "so\nP.S. x", {"postscript_marker": "P.P.S"}, False),
    ("postscript", "so\np.p. s x", {"postscript_marker": "P.P.S"}, True),
    ("forbidden_words", "concatenate", {"forbidden_words": ["cat"]}, True),
    ("forbidden_words", "a Cat.", {"forbidden_words": ["dog", "cat"]}, False),
    ("letter_frequency", "Anna", {"letter": "A", "let_frequency": 2, "let_relation": "at least"}, True),
    ("letter_frequency", "Anna", {"letter": "a", "let_frequency": 2, "let_relation": "less than"}, False),
    ("number_words", "it's 2 words-or five", {"num_words": 6, "relation": "at least"}, True),
    ("number_words", "it's 2 words-or five", {"num_words": 6, "relation": "less than"}, False),
    ("number_placeholders", "[a] [b c] []", {"num_placeholders": 3}, True),
    ("number_placeholders", "[a\nb]", {"num_placeholders": 1}, False),
    ("two_responses", "a\n******\nb", {}, True),
    ("two_responses", "a\n******\na", {}, False),
    ("two_responses", "******a******b******", {}, True),
    ("two_responses", "a ****** ****** b", {}, False),
    ("end_checker", '"So it ENDS." ', {"end_phrase": "it ends."}, True),
    ("quotation", ' "a" ', {}, True),
    ("quotation", '"', {}, False),
    ("repeat_prompt", "\nsay IT. Done", {"prompt_to_repeat": "Say it."}, True),
    ("capital_word_frequency", "I AM NASA's U.S. man", {"capital_frequency": 3, "capital_relation": "at least"}, True),
    ("multiple_sections", "Section 1\na\nSection2", {"section_spliter": "Section", "num_sections": 2}, True),
    ("multiple_sections", "section 1", {"section_spliter": "Section", "num_sections": 1}, False),
    ("constrained_response", "Well. My answer is no.", {}, True),
    ("constrained_response", "My answer is no", {}, False),
]


@pytest.mark.parametrize(("short", "text", "kwargs", "expected"), GOLDEN)
def test_golden(short: str, text: str, kwargs: dict[str, Any], expected: bool) -> None:
    for behaviour in BOTH:
        assert verdict(short, text, behaviour, **kwargs) is expected


NTH = {"num_paragraphs": 2, "first_word": "two"}
TWICE = {"keyword": "cat", "frequency": 2}
DIFFER: list[tuple[str, str, dict[str, Any], bool | None, bool]] = [
    # Type, text, kwargs, strict, compat.
    ("existence", "concatenate", {"keywords": ["cat"]}, False, True),
    ("frequency", "cat, concatenate", {**TWICE, "relation": "at least"}, False, True),
    ("frequency", "cat, concatenate", {**TWICE, "relation": "less than"}, True, False),
    ("json_format", "3", {}, False, True),
    ("json_format", '"a"', {}, False, True),
    ("nth_paragraph_first_word", "one\n\n\n\ntwo", {**NTH, "nth_paragraph": 2}, True, False),
    ("nth_paragraph_first_word", "one\n \ntwo", {**NTH, "nth_paragraph": 2}, True, False),
    ("response_language", "12 + 3", {"language": "fr"}, None, True),
    ("response_language", f"{SAID['fr']}.".upper(), {"language": "fr"}, True, False),
    ("english_capital", "Ⅱ 1", {}, None, True),
    ("english_lowercase", "ⅱ 1", {}, None, True),
]


@pytest.mark.parametrize(("short", "text", "kwargs", "strict", "compat"), DIFFER)
def test_strict_corrects_what_compat_repeats(
    short: str, text: str, kwargs: dict[str, Any], strict: bool | None, compat: bool
) -> None:
    assert verdict(short, text, "strict", **kwargs) is strict
    assert verdict(short, text, "compat", **kwargs) is compat


def test_keywords_are_words_and_no_patterns() -> None:
    for behaviour in BOTH:
        assert verdict("existence", "I know C++ (a bit).", behaviour, keywords=["C++", "(a bit"]) is True
        assert verdict("existence", "cut", behaviour, keywords=["c.t"]) is False
        assert verdict("forbidden_words", "cut", behaviour, forbidden_words=["c.t", "["]) is True
        assert verdict("existence", "我喜欢喝茶", behaviour, keywords=["喝茶"]) is True
        assert verdict("multiple_sections", "(a) 1", behaviour, section_spliter="(a)", num_sections=1) is True


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Word: more", "word:"),
        ("'Word,' he said", "word"),
        ('"Don\'t"', "don"),
        ("Word.", "word"),
        ("- word", "-"),
    ],
)
def test_the_first_word_of_a_paragraph(text: str, first: str) -> None:
    for behaviour in BOTH:
        kwargs = {"num_paragraphs": 1, "nth_paragraph": 1}
        assert verdict("nth_paragraph_first_word", text, behaviour, first_word=first, **kwargs) is True
        assert verdict("nth_paragraph_first_word", text, behaviour, first_word=f"{first}s", **kwargs) is False


def test_a_paragraph_that_there_is_not_has_no_first_word() -> None:
    for behaviour in BOTH:
        kwargs = {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"}
        assert verdict("nth_paragraph_first_word", "a", behaviour, **kwargs) is False


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("...", 0),
        ("one", 1),
        ("One. Two! Three? four", 4),
        ("Dr. Lee met J. Ray at 5 p.m. on 3.5 roads.", 1),
        ("We met at 5 p.m. Then we left.", 2),
        ("1. First point\n2. Second point", 1),
        ("He paid 12. Then he left.", 2),
        ('"Stop!" she said. (It was late.) Then...', 4),
        ("P.S. I am here.", 1),
        ("So did I. And you?", 2),
        ("第一句。第二句！", 2),
        ("यह एक है। यह दो है।", 2),
    ],
)
def test_sentences(text: str, number: int) -> None:
    assert sentences(text) == number


@given(st.lists(st.sampled_from(["We walk", "It rains", "the dog (a small one) sleeps"]), max_size=12))
def test_every_full_stop_after_a_word_ends_one(said: list[str]) -> None:
    assert sentences(" ".join(f"{one}." for one in said)) == len(said)


# Strict and loose, and what is made of them.

CHATTY = "Sure, here it is:\n{}\nAnything else?"


def test_loose_forgives_first_and_last_lines_and_asterisks() -> None:
    def loose(text: str, short: str, **kwargs: Any) -> bool | None:
        found = followed(item((short, kwargs)), text)
        assert found.strict == (False,)
        return found.loose[0]

    assert loose(CHATTY.format('{"a": 1}'), "json_format") is True
    assert loose(CHATTY.format("**{}**"), "json_format") is True
    assert loose("Sure:\n{}", "json_format") is True
    assert loose("{}\nBye", "json_format") is True
    assert loose("**My** answer is *no*.", "constrained_response") is True
    assert loose("a\nb\n{}\nc", "json_format") is False
    assert loose("a, b", "no_comma") is False


def test_a_loose_pass_is_of_each_instruction_by_itself() -> None:
    one = item(("json_format", {}), ("end_checker", {"end_phrase": "else?"}))
    assert followed(one, CHATTY.format("{}")) == Followed((False, True), (True, True))


def test_an_empty_answer_follows_nothing() -> None:
    ids = ("no_comma", "number_paragraphs", "forbidden_words")
    one = item(*zip(ids, ({}, {"num_paragraphs": 0}, {"forbidden_words": ["a"]}), strict=True))
    for text in ("", " \n\t"):
        assert followed(one, text, "compat") == Followed((False,) * 3, (False,) * 3)


BITS = (
    *(
        "word",
        "NASA",
        "*",
        "**",
        "***",
        "******",
        "\n",
        "\n\n",
        " ",
        ".",
        ",",
        '"',
        "{}",
        "[a]",
        "<<a>>",
        "P.S.",
        "- a",
    ),
    *("Section 1", "My answer is no.", "Sure!", "3", PLAIN, SAID["de"]),
)
TEXTS = st.lists(st.sampled_from(BITS) | st.text(max_size=4), max_size=12).map("".join)
ASKED = st.integers(0, 400).map(lambda seed: compose("Say it.", Random(seed), material(), 1 + seed % 3))


@settings(max_examples=150)
@given(st.lists(st.tuples(ASKED, TEXTS), min_size=1, max_size=6), st.sampled_from(BOTH))
def test_loose_is_never_below_strict_nor_a_prompt_above_its_instructions(
    answered: list[tuple[Verifiable, str]], behaviour: Any
) -> None:
    items = [one for one, _ in answered]
    verdicts = [followed(one, text, behaviour) for one, text in answered]
    for strict, loose in verdicts:
        assert all(two for one, two in zip(strict, loose, strict=True) if one)
    found = accuracy(items, verdicts)
    for tally in (found.prompts, found.instructions, *found.groups.values(), *found.types.values()):
        assert 0 <= tally.strict <= tally.loose <= tally.of and tally.unknown <= tally.of - tally.strict
    assert found.prompts.of == len(items) and found.instructions.of == sum(len(one.ids) for one in items)
    for parts in (found.groups, found.types):
        sums = [sum(column) for column in zip(*parts.values(), strict=True)]
        assert sums == list(found.instructions)
    if behaviour == "compat":
        assert found.instructions.unknown == 0
    for number in {len(one.ids) for one in items}:  # in general it holds for prompts that ask for as much
        some = accuracy(
            *zip(*((i, v) for i, v in zip(items, verdicts, strict=True) if len(i.ids) == number), strict=True)
        )
        assert some.prompts.strict * number <= some.instructions.strict
        assert some.prompts.loose * number <= some.instructions.loose


def test_accuracy_by_hand() -> None:
    one = item(("no_comma", {}), ("response_language", {"language": "de"}))
    two = item(("no_comma", {}))
    unknown = (None,)
    found = accuracy(
        [one, one, two],
        [
            Followed((True, *unknown), (True, *unknown)),
            Followed((False, True), (True, True)),
            Followed((True,), (True,)),
        ],
    )
    assert found.prompts == (3, 1, 2, 1)
    assert found.instructions == (5, 3, 4, 1)
    assert found.groups == {"language": (2, 1, 1, 1), "punctuation": (3, 2, 3, 0)}
    assert found.types == {FULL["response_language"]: (2, 1, 1, 1), FULL["no_comma"]: (3, 2, 3, 0)}


# Languages.


def test_every_language_asked_for_is_told_and_always_the_same() -> None:
    assert set(SAID) == set(material().languages)
    for code, said in SAID.items():
        assert verdict("response_language", said, language=code) is True
        assert verdict("response_language", said, language="nl") is False
    told = set()
    for _ in range(20):
        ifeval.language_of.cache_clear()
        told.add(ifeval.language_of("la casa no me va"))
    assert len(told) == 1


def test_without_the_package_the_hint_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langdetect", None)
    ifeval._langdetect.cache_clear()
    with pytest.raises(UsageError) as caught:
        verdict("response_language", "without the package", language="en")
    assert caught.value.hint == "pip install 'selfinstruct[eval]'"
    assert verdict("english_capital", "no capitals, no question of a language") is False


# Reading.


def row(**changes: Any) -> dict[str, Any]:
    right = {"key": 1, "prompt": "Say.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    return {**right, **changes}


def of_type(short: str, **kwargs: Any) -> dict[str, Any]:
    return row(instruction_id_list=[FULL[short]], kwargs=[kwargs])


def test_rows_are_read_whatever_they_come_in(tmp_path: Path) -> None:
    kwargs = {"num_words": 300.0, "relation": "at least", "keywords": None, "language": None}
    rows = [
        row(),
        of_type("number_words", **kwargs),
        row(kwargs=[None], more="x"),
        of_type("existence", keywords=["a"]),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    found = read_verifiable(path)
    assert found[0] == Verifiable(1, "Say.", ("punctuation:no_comma",), ({},)) == found[2]
    assert found[1].kwargs == ({"num_words": 300, "relation": "at least"},)
    assert '"num_words": 300,' in found[1].line()
    assert found[3].kwargs == ({"keywords": ["a"]},)
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    assert read_verifiable(tmp_path / "rows.json.gz") == found
    path.write_text("".join(one.line() for one in found))
    assert read_verifiable(path) == found


def test_a_type_may_be_asked_for_twice(tmp_path: Path) -> None:
    asked = [{"num_sentences": 2, "relation": "at least"}, {"num_sentences": 4, "relation": "less than"}]
    (tmp_path / "twice.jsonl").write_text(
        json.dumps(row(instruction_id_list=[FULL["number_sentences"]] * 2, kwargs=asked))
    )
    (one,) = read_verifiable(tmp_path / "twice.jsonl")
    assert followed(one, "We go. They stay. It rains. So what?").strict == (True, False)


@pytest.mark.parametrize(
    ("wrong", "told", "hint"),
    [
        ([], "valid dictionary", "a row is"),
        (row(key=None), "key", "a row is"),
        (row(prompt=" "), "prompt", "a row is"),
        (row(kwargs=[{}, {}]), "1 instructions and kwargs of 2", "a row is"),
        (row(instruction_id_list=[], kwargs=[]), "instruction_id_list", "a row is"),
        (row(instruction_id_list=["no_comma"]), "there is no type 'no_comma'", "punctuation:no_comma"),
        (of_type("no_comma", keyword="a"), "punctuation:no_comma: keyword: Extra", "its kwargs: none"),
        (of_type("frequency", keyword="a", frequency=1), "relation: Field required", "keyword, frequency, relation"),
        (of_type("frequency", keyword="a", frequency=1, relation="at most"), "relation: Input", "keyword"),
        (of_type("number_words", num_words=1.5, relation="at least"), "num_words", "its kwargs"),
        (of_type("number_words", num_words=-1, relation="at least"), "num_words", "its kwargs"),
        (of_type("existence", keywords=[]), "keywords", "its kwargs: keywords"),
        (of_type("existence", keywords="cat"), "keywords", "its kwargs: keywords"),
        (of_type("existence", keywords=["a", " "]), "keywords.1", "its kwargs: keywords"),
        (of_type("letter_frequency", letter="ab", let_frequency=1, let_relation="at least"), "letter", "its kwargs"),
        (
            of_type("nth_paragraph_first_word", num_paragraphs=1, nth_paragraph=0, first_word="a"),
            "nth_paragraph",
            "its kwargs",
        ),
    ],
)
def test_a_wrong_row_is_told_with_its_line(tmp_path: Path, wrong: Any, told: str, hint: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(row())}\n\n{json.dumps(wrong)}\n")
    with pytest.raises(InputError) as caught:
        read_verifiable(path)
    assert caught.value.message.startswith(f"{path}:3: ") and told in caught.value.message
    assert hint in caught.value.hint


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"none\.jsonl: no prompts"):
        read_verifiable(tmp_path / "none.jsonl")


# What we ship.


def test_the_shipped_rows_are_what_the_code_makes() -> None:
    assert SHIPPED.read_bytes() == "".join(one.line() for one in suite()).encode()


def test_the_shipped_rows_can_be_followed_and_ask_for_everything() -> None:
    rows = read_verifiable(SHIPPED)
    assert [one.key for one in rows] == list(range(1, 201))
    assert len({one.prompt for one in rows}) == 200
    assert Counter(len(one.ids) for one in rows) == {1: 120, 2: 60, 3: 20}
    types = Counter(name for one in rows for name in one.ids)
    assert set(types) == set(TYPES) and min(types.values()) >= 8
    assert len({one.prompt.partition("\n\n")[0] for one in rows}) >= 60
    for one in rows:
        assert all(all_followed(one, answering(one), behaviour) for behaviour in behaviours(one)), one


@pytest.mark.parametrize("short", FULL)
def test_each_phrasing_says_all_that_is_asked_for(short: str) -> None:
    phrasings = material().phrasings[FULL[short]]
    assert len(set(phrasings)) == 3
    for phrasing in phrasings:
        alone = material().model_copy(update={"phrasings": {FULL[short]: (phrasing,)}})
        for seed in range(20):
            one = compose("Say it.", Random(seed), alone, 1, types=[FULL[short]])
            asked = one.prompt.removeprefix("Say it.\n\n")
            for slot, value in one.kwargs[0].items():
                said = {
                    "language": material().languages.get(value) if slot == "language" else "",
                    "prompt_to_repeat": "",
                }
                for part in value if isinstance(value, list) else [str(value).replace("less", "fewer")]:
                    assert said.get(slot, part) in asked
            assert not re.search(r"\b1 (times|words|passages|phrases|gaps|placeholders)\b|[{}]", asked)


def test_a_base_lends_words_of_its_own() -> None:
    bases = material().bases
    others = " ".join((*material().end_phrases, *material().first_words, PLAIN)).lower()
    assert len({base.task for base in bases}) == len(bases) >= 60 and sum(base.decides for base in bases) >= 10
    for words in (material().words, *(base.words for base in bases)):
        assert not any(one != other and one in other for one in words for other in words)
        assert all(re.fullmatch("[a-z]{3,}", word) and not re.search(rf"\b{word}\b", others) for word in words)
    assert all("," not in phrase for phrase in material().end_phrases)
    assert all("\n" not in base.task for base in bases)  # "the first paragraph of this message" is the task
