"""Root verbs and their objects: forty labelled sentences, the lexicon, and what hostile texts come to."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.report.english import LEXICON, singular
from selfinstruct.report.roots import Root, english_model, parsed, root
from selfinstruct.report.verbs import Verbs

LABELLED = (
    # Labelled by reading them, before the rules were written: the verb that says what to do, the head of its object.
    # Of a list of something, that something; of a question, the word that asks, and what it asks about.
    ("Write a short story about a lighthouse keeper who is afraid of the dark.", "write", "story"),
    ("Given a list of numbers, find the second largest one.", "find", "one"),
    ("Please summarize the following article in three sentences.", "summarize", "article"),
    ("Generate a list of ten healthy breakfast ideas.", "generate", "idea"),
    ("What is the capital of Mongolia?", "ask:what", "capital"),
    ("Can you explain the difference between weather and climate?", "explain", "difference"),
    ("Translate the sentence below into Portuguese.", "translate", "sentence"),
    ("Classify the sentiment of this review as positive or negative.", "classify", "sentiment"),
    ("Tell me a joke about penguins.", "tell", "joke"),
    ("How do bees find their way home?", "ask:how", "bee"),
    ("You are given two strings; decide whether one is an anagram of the other.", "decide", None),
    ("Using the ingredients listed below, suggest a recipe for dinner.", "suggest", "recipe"),
    ("I want you to act as a travel guide.", "act", None),
    ("In this task you need to identify all proper nouns in the text.", "identify", "noun"),
    ("Rewrite the paragraph so that a child can understand it.", "rewrite", "paragraph"),
    ("Why do leaves change colour in autumn?", "ask:why", "leaf"),
    ("Compare the economies of Japan and South Korea.", "compare", "economy"),
    ("Suggest five good names for a bakery.", "suggest", "name"),
    ("If a train leaves at noon and travels for three hours, calculate its arrival time.", "calculate", "time"),
    ("Correct the grammatical errors in the following sentence.", "correct", "error"),
    ("Come up with a slogan for a bicycle shop.", "come", "slogan"),
    ("Convert 45 degrees Fahrenheit to Celsius.", "convert", "fahrenheit"),
    ("As a nutritionist, recommend a weekly meal plan.", "recommend", "plan"),
    ("Describe how a bill becomes a law.", "describe", None),
    ("Could you please proofread my cover letter?", "proofread", "letter"),
    ("Which planet has the most moons?", "ask:which", "planet"),
    ("Create some kind of schedule for a busy student.", "create", "schedule"),
    ("Your job is to extract every date from the e-mail.", "extract", "date"),
    ("Suppose you have won the lottery: plan your first week.", "plan", "week"),
    ("Think of three reasons why people procrastinate.", "think", "reason"),
    ("Write an SQL query that returns the five oldest customers.", "write", "query"),
    ("Is it possible to grow tomatoes indoors?", "ask:is", None),
    ("Make a to-do list for moving to another city.", "make", "list"),
    ("Explain photosynthesis to a ten-year-old.", "explain", "photosynthesis"),
    ("Give me an example of a palindrome.", "give", "example"),
    ("Briefly outline the main causes of the French Revolution.", "outline", "cause"),
    ("For each of the following words, provide two synonyms.", "provide", "synonym"),
    ("Edit this e-mail to make it sound more polite.", "edit", "e-mail"),
    ("Name the author of the novel and its year of publication.", "name", "author"),
    ("Do not use the letter e in your answer.", "use", "letter"),
)


def test_the_rules_agree_with_a_reader() -> None:
    found = [root(sentence) for sentence, _, _ in LABELLED]
    verbs = [one.verb == verb for one, (_, verb, _) in zip(found, LABELLED, strict=True)]
    nouns = [one.noun == noun for one, (_, _, noun) in zip(found, LABELLED, strict=True)]
    wrong = [(one, line) for one, line, v, n in zip(found, LABELLED, verbs, nouns, strict=True) if not (v and n)]
    assert len(LABELLED) == 40
    assert sum(verbs) >= 0.85 * 40, wrong
    assert sum(nouns) >= 0.75 * 40, wrong


def test_the_lexicon_holds_base_forms_a_line_each() -> None:
    assert len(LEXICON) >= 1_200
    assert all(verb.isascii() and verb.isalpha() and verb.islower() for verb in LEXICON)
    assert {"write", "classify", "summarise", "summarize", "give", "find"} <= LEXICON
    assert not {"wrote", "writes", "writing", "given"} & LEXICON


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("stories", "story"), ("boxes", "box"), ("classes", "class"), ("class", "class"), ("analysis", "analysis"),
        ("children", "child"), ("leaves", "leaf"), ("news", "news"), ("ways", "way"), ("is", "is"),
    ],
)  # fmt: skip
def test_nouns_come_in_the_singular(many: str, one: str) -> None:
    assert singular(many) == one


ODD = ["of", "a", "the", ",", "?", ":", "list", "please", "write", "to", "you", "one", "given", "what", "do"]


@given(st.text(max_size=300) | st.lists(st.sampled_from(ODD), max_size=40).map(" ".join))
def test_any_text_has_at_most_one_root(text: str) -> None:
    verb, noun = root(text)
    assert verb is None or verb in LEXICON or verb.startswith("ask:")
    assert noun is None or (len(noun) > 1 and noun == noun.lower())
    assert noun is None or verb is not None


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "of " * 50_000, "please " * 50_000, ", write " * 20_000, "." * 100_000]
)
def test_a_long_text_takes_no_time(text: str, no_hang: None) -> None:
    root(text)


def test_the_figures_count_pairs_and_their_evenness() -> None:
    verbs = Verbs(model=None)
    texts = [
        "Write a poem.",
        "Write a poem.",
        "Write two poems about rain.",
        "Find the error.",
        "What is a star?",
        "Sleep.",
    ]
    for text in texts:
        verbs.add(text)
    found = verbs.figures()
    assert (found["instructions"], found["parsed"], found["questions"], found["verb_only"]) == (6, 5, 1, 1)
    assert found["coverage"] == 5 / 6
    assert found["coverage_without_questions"] == 4 / 6
    shares = [3 / 5, 1 / 5, 1 / 5]
    assert found["entropy"] == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert found["effective_pairs"] == pytest.approx(math.exp(found["entropy"]))
    assert found["top"][0] == {"verb": "write", "count": 3, "objects": [{"noun": "poem", "count": 3}]}
    assert found["top_share"] == 5 / 6


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=300))
def test_the_figure_shows_the_commonest(drawn: list[tuple[int, int]]) -> None:
    verbs = Verbs(model=None)
    known = sorted(verb for verb in LEXICON if verb not in ("do", "have", "be"))[:31]
    nouns = ["poem", "error", "letter", "story", "river", "question", "song", "number", "title", "map"]
    for verb, noun in drawn:
        verbs.add(f"{known[verb]} the {nouns[noun]}.".capitalize())
    found = verbs.figures()
    pairs = Counter((known[verb], nouns[noun]) for verb, noun in drawn)
    assert (found["parsed"], found["pairs"]) == (len(drawn), len(pairs))
    counts = Counter(known[verb] for verb, _ in drawn)
    assert [one["count"] for one in found["top"]] == sorted(counts.values(), reverse=True)[:20]
    for one in found["top"]:
        of_verb = sorted((n for (verb, _), n in pairs.items() if verb == one["verb"]), reverse=True)
        assert [pair["count"] for pair in one["objects"]] == of_verb[:4]


def test_spacy_finds_the_same_in_plain_orders() -> None:
    model = english_model()
    if model is None:
        pytest.skip("no spaCy with an English model")
    plain = ["Write a short poem about rain.", "Find the errors in this text."]
    assert list(parsed(model, plain)) == [Root("write", "poem"), Root("find", "error")]
    verbs = Verbs(model)
    for text in plain:
        verbs.add(text)
    assert verbs.figures()["parsed"] == 2
