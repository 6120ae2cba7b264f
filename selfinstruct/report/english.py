"""English as far as finding a root takes it: a lexicon of verbs, the words of the closed classes, and the singular."""

from __future__ import annotations

from pathlib import Path

LEXICON = frozenset(Path(__file__).with_name("verbs.txt").read_text(encoding="utf-8").split())
"""Verbs, in their base form."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ASKING = _set("what which how why when where who whom whose")
AUXILIARY = _set(
    "is are was were am be been being do does did has have had can could should would will shall may might must"
)
CLAUSE = _set(
    "given in using if suppose supposing as for with based when while after before from at on considering assuming "
    "without by during to once under according imagine unlike because since"
)
"""What may begin a clause before the one that says what to do."""
POLITE = tuple(
    tuple(phrase.split())
    for phrase in (
        "you are to",
        "you have to",
        "you need to",
        "you want to",
        "you will",
        "you should",
        "you must",
        "you can",
        "i want you to",
        "i need you to",
        "i would like you to",
        "i'd like you to",
        "i\u2019d like you to",
        "we want you to",
        "can you",
        "could you",
        "would you",
        "will you",
        "your task is to",
        "your job is to",
        "your goal is to",
        "the task is to",
        "the goal is to",
        "do you know",
        "do you think",
        "i wonder",
        "help me to",
        "help me",
        "help us",
        "let us",
        "let's",
        "let\u2019s",
        "try to",
        "do not",
        "don't",
        "don\u2019t",
        "never",
        "please",
        "kindly",
        "now",
        "then",
        "next",
        "first",
        "just",
        "simply",
        "also",
        "and",
        "to",
    )
)
DETERMINER = _set(
    "a an the this that these those my your his her its our their some any each every all both no another other others "
    "such several many few more most much enough various either neither following given one's half"
)
NUMBER = _set(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty hundred thousand million dozen first second third fourth fifth last "
    "next single"
)
PRONOUN = _set("me us him them it you i he she we they there himself herself itself themselves yourself who something")
STOP = AUXILIARY | _set(
    "in on at by for with from to into onto about as of off than then per via without within among between through "
    "during over under against across after before behind around towards toward upon until since because so if whether "
    "while when where why how what which who whom whose that and or but nor not using based regarding concerning given "
    "containing including explaining describing related out up down such like unlike beginning starting along "
    "made written taken known drawn seen found far near except despite plus versus vs according"
)
"""Prepositions, conjunctions and what begins a clause: there a noun phrase ends."""
PARTICLE = _set("out up down off back away")
PHRASAL = {"come": "with", "think": "of", "talk": "about"}
"""What follows these, with or without a particle between, belongs to the verb."""
OF = _set(
    "list set series kind type sort number couple pair piece group variety range selection collection bunch handful "
    "lot dozen bit form lists sets kinds types sorts pairs pieces groups"
)
"""Of these, what stands behind "of" is meant."""
NO_HEAD = _set(
    "good better best bad worse worst new old big small large great high low long short simple easy hard difficult "
    "possible impossible important necessary likely common popular famous different similar same main major minor "
    "brief clear correct wrong true false safe free real full certain able available useful healthy blue red green "
    "white black below above here again too together today now only also very quite well instead"
)
"""Adjectives and adverbs that may stand behind a noun, or before a comma and another adjective."""
CAUSING = _set("make let help have see watch hear")
"""Of these, what the object does may follow it: "make the sentence sound better"."""
_IRREGULAR = {
    "people": "person", "children": "child", "men": "man", "women": "woman", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "leaves": "leaf", "lives": "life", "wives": "wife", "knives": "knife",
    "halves": "half", "shelves": "shelf", "wolves": "wolf", "thieves": "thief", "loaves": "loaf", "selves": "self",
    "analyses": "analysis", "hypotheses": "hypothesis", "crises": "crisis", "theses": "thesis", "axes": "axis",
    "bases": "basis", "criteria": "criterion", "phenomena": "phenomenon", "matrices": "matrix", "indices": "index",
    "vertices": "vertex", "movies": "movie", "cookies": "cookie", "ties": "tie", "pies": "pie", "shoes": "shoe",
}  # fmt: skip
_ALIKE = _set("news series species physics mathematics economics politics ethics statistics lens bus gas yes christmas")


def singular(noun: str) -> str:
    """An English noun in the singular, as far as its spelling tells.

    >>> [singular(noun) for noun in ("stories", "boxes", "people", "glass")]
    ['story', 'box', 'person', 'glass']
    """
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if len(noun) < 4 or noun in _ALIKE or not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    return noun[:-2] if noun.endswith(("sses", "shes", "ches", "xes", "zes", "oes")) else noun[:-1]
