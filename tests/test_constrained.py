"""Tasks with constraints: what is drawn, what is kept of the answers, and what a person is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from runfolders import dataset, finish, lines, plan, run_of
from test_ifeval import answering

from selfinstruct import state
from selfinstruct.engines import Reply
from selfinstruct.errors import EngineError, InputError, UsageError
from selfinstruct.filters.follows import Follows
from selfinstruct.journal import Place
from selfinstruct.loop import rng_for
from selfinstruct.operators import Setting
from selfinstruct.operators.constrained import ENOUGH, Constrained
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import Recipe, load
from selfinstruct.records import Constraint, Record
from selfinstruct.replaying import replay, verify
from selfinstruct.resources import PROMPTS
from selfinstruct.shards import read_kept, read_rejected
from selfinstruct.verifiable.constraints import CHOICE, PHRASINGS, REPEAT, Pool, conflicting, draw, material
from selfinstruct.verifiable.ifeval import TYPES, Verifiable, followed
from selfinstruct.verifiable.repair import MENDS, repaired

pytestmark = pytest.mark.usefixtures("no_hang")

TEXT = (PROMPTS / PHRASINGS).read_text(encoding="utf-8")


def drafter(source: Path, *sets: str) -> tuple[Constrained, Recipe]:
    recipe = load("verifiable", sets)
    return Constrained(Setting(recipe, Prompts(), "chat", "chat", source=source, phrasings=TEXT)), recipe


def as_verifiable(task: Record) -> Verifiable:
    return Verifiable(
        0, task.instruction, tuple(one.type for one in task.constraints), tuple(one.kwargs for one in task.constraints)
    )


def drawn(source: Path, *sets: str) -> list[list[Record]]:
    """The tasks of each row, as a run draws them."""
    operator, recipe = drafter(source, *sets)
    found: list[list[Record]] = []
    while (parents := operator.draw(None, len(found), Random(0))) is not None:  # type: ignore[arg-type]
        rng = rng_for(recipe, "ask", Place("constrained", len(found)))
        found.append([task for task in operator.read(Reply(), parents, rng) if isinstance(task, Record)])
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), given_input=st.booleans(), out=st.sets(st.sampled_from(sorted(TYPES)), max_size=20))
def test_what_is_drawn_goes_together_is_allowed_and_can_be_followed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, given_input: bool, out: set[str]
) -> None:
    row = Record(instruction="Say why rivers bend.", input="the Danube" if given_input else "", output="?")
    source = dataset(tmp_path_factory.mktemp("rows"), 1)
    operator, _ = drafter(source, f"constraints.without={json.dumps(sorted(out))}", "constraints.number=[1, 1, 1]")
    if len(set(TYPES) - out - {CHOICE} - ({REPEAT} if given_input else set())) < 6:
        return  # then so many may not go together
    (task,) = operator.read(Reply(), [row], Random(seed))
    assert isinstance(task, Record)
    names = [one.type for one in task.constraints]
    assert not set(names) & (out | {CHOICE} | ({REPEAT} if given_input else set()))
    assert 1 <= len(names) <= 3
    assert not any(conflicting(one, other) for at, one in enumerate(names) for other in names[:at])
    assert task.instruction.startswith("Say why rivers bend.\n\n")
    assert (task.input, task.output, task.parents) == (row.input, "", (row.id,))
    answer = answering(as_verifiable(task))
    rule = Follows(load("verifiable"))
    assert rule.objection(task.model_copy(update={"output": answer})) is None


def test_the_same_seed_draws_the_same_and_another_something_else(tmp_path: Path) -> None:
    source = dataset(tmp_path, 12)
    first, again, other = drawn(source), drawn(source), drawn(source, "seed=1")
    assert first == again
    assert first != other
    assert [len(tasks) for tasks in drawn(source, "constraints.variants=3")] == [3] * 12


def test_numbers_are_as_likely_as_the_recipe_says(tmp_path: Path) -> None:
    tasks = [task for row in drawn(dataset(tmp_path, 300), "constraints.number=[0, 1]") for task in row]
    assert {len(task.constraints) for task in tasks} == {2}
    singles = [task for row in drawn(dataset(tmp_path, 300)) for task in row if len(task.constraints) == 1]
    assert 140 <= len(singles) <= 220  # 180 of 300, give or take five standard deviations


def test_words_are_those_of_the_row_where_it_has_enough(tmp_path: Path) -> None:
    words = ["meander", "current", "silt", "valley", "erosion", "bedrock", "floodplain", "gravel", "oxbow"]
    assert len([word for word in words if len(word) >= 5]) >= ENOUGH
    source = tmp_path / "rows.jsonl"
    row = {"instruction": "Say why rivers bend.", "input": "", "output": " ".join(words)}
    source.write_text(f"{json.dumps(row)}\n" * 200, encoding="utf-8")
    asked = [
        word
        for (task,) in drawn(source)
        for one in task.constraints
        for word in one.kwargs.get("keywords", one.kwargs.get("forbidden_words", []))
    ]
    assert asked
    assert set(asked) <= set(words)


PROMPT = "Say why rivers bend."
TEXT_OF_FIVE = (
    "The river bends, and it is old. It carries silt!\nIts banks give way. Then it finds a new bed. Who knows why?"
)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(MENDS)), seed=st.integers(0, 10**6))
def test_an_answer_is_put_right_and_one_that_is_right_is_left_alone(name: str, seed: int) -> None:
    kwargs = draw(name, Random(seed), Pool("Say why rivers bend.", ["river", "silt"], material()))
    constraint = Constraint(type=name, kwargs=kwargs)
    text, done = repaired(PROMPT, TEXT_OF_FIVE, (constraint,))
    right = followed(Verifiable(0, "", (name,), (kwargs,)), text).strict == (True,)
    assert right
    assert done == ((name,) if text != TEXT_OF_FIVE else ())
    assert repaired(PROMPT, text, (constraint,)) == (text, ())
    bare = json.loads(text)["answer"] if name == "detectable_format:json_format" else text
    said = [re.findall(r"[a-z]+", one.lower()) for one in (TEXT_OF_FIVE, bare)]
    assert not set(said[0]) - set(said[1])  # every word is still there


@pytest.mark.parametrize(
    ("name", "text", "mended"),
    [
        ("punctuation:no_comma", "It rains, and, well, it pours.", "It rains and well it pours."),
        ("punctuation:no_comma", "It cost 1,200 dollars, twice.", None),
        ("punctuation:no_comma", "It is 3,141 in German, and (3, 4) is a pair.", None),
        ("punctuation:no_comma", "print(a, b) gives\n```\n1, 2\n```", None),
        ("punctuation:no_comma", "def f(a, b):\n    return b, a", None),
        ("change_case:english_lowercase", "See https://example.org/A for the rest of it.", None),
        ("change_case:english_lowercase", "| Name | Age |\n| --- | --- |\n| Ann | 7 |", None),
        ("startend:quotation", "x = {1, 2}", '"x = {1, 2}"'),
        ("startend:quotation", 'He said "yes"', None),
        ("detectable_format:number_highlighted_sections", "The product is 5*3 which is fifteen.", None),
        ("detectable_format:number_bullet_lists", "1. Wash it.\n2. Cut it.\n3) Boil it.\n* Eat it.", None),
        ("detectable_format:number_bullet_lists", "Dear Ann.\nIt rained\nYours,\nBob.", None),
        ("detectable_format:number_bullet_lists", "Wash it. Cut it. 👍", None),
        ("detectable_format:number_bullet_lists", "Wash it. Cut it.\nEat it.", "- Wash it.\n- Cut it. Eat it."),
    ],
)
def test_what_is_no_prose_keeps_its_marks(name: str, text: str, mended: str | None) -> None:
    kwargs = {"num_bullets": 2} if "bullet" in name else {}
    assert repaired(PROMPT, text, (Constraint(type=name, kwargs=kwargs),))[0] == (text if mended is None else mended)


def test_bullets_are_written_as_the_task_has_them() -> None:
    constraint = Constraint(type="detectable_format:number_bullet_lists", kwargs={"num_bullets": 2})
    text, _ = repaired('Say it in 2 points, each begins with "* ".', "Wash it. Cut it.", (constraint,))
    assert text == "* Wash it.\n* Cut it."


WORDS_TEXT = st.lists(
    st.sampled_from(
        ["The river bends, and turns.", "It is 3,5 metres.", "f(a, b)", "- an item", "Why?", "👍", "a*b", "x"]
    ),
    max_size=8,
).map("\n".join)


@settings(max_examples=200, deadline=None)
@given(
    text=WORDS_TEXT,
    names=st.lists(st.sampled_from(sorted(MENDS)), min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 999),
)
def test_no_word_or_number_is_lost_or_moved_and_nothing_that_followed_breaks(
    text: str, names: list[str], seed: int
) -> None:
    assume(not any(conflicting(one, other) for at, one in enumerate(names) for other in names[:at]))
    pool = Pool("Say why rivers bend.", ["river", "silt"], material())
    constraints = tuple(Constraint(type=name, kwargs=draw(name, Random(seed), pool)) for name in names)
    item = Verifiable(0, "", tuple(names), tuple(one.kwargs for one in constraints))
    mended, done = repaired(PROMPT, text, constraints)
    before, after = followed(item, text).strict, followed(item, mended).strict
    assert all(now for was, now in zip(before, after, strict=True) if was)
    assert {name for name, verdict in zip(names, after, strict=True) if verdict} >= set(done)
    bare = json.loads(mended)["answer"] if "detectable_format:json_format" in done else mended
    words = re.findall(r"[^\W_]+", text.casefold())
    left = iter(re.findall(r"[^\W_]+", bare.casefold()))
    assert all(word in left for word in words)  # in their order


@pytest.mark.parametrize(
    ("row", "never"),
    [
        ({"instruction": "Translate into French: I am tired."}, ("language:", "change_case:english")),
        ({"instruction": "写一首关于河流的诗。", "output": "河水向东流。"}, ("language:", "change_case:english")),
        ({"instruction": "Read this.\n\nThe cat sat.\n\nSay why."}, ("combination:repeat_prompt",)),
        ({"instruction": "Say why rivers bend."}, ("detectable_format:constrained_response",)),
    ],
)
def test_no_constraint_contradicts_the_task(row: dict[str, str], never: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({"input": "", "output": "", **row}) + "\n")
    names = [one.type for task in drawn(source, "constraints.variants=100")[0] for one in task.constraints]
    assert names
    assert not [name for name in names if name.startswith(never)]


def test_what_cannot_be_put_right_is_left_as_it_was() -> None:
    short = "It bends."
    for constraint in (
        Constraint(type="detectable_format:number_bullet_lists", kwargs={"num_bullets": 3}),
        Constraint(type="keywords:existence", kwargs={"keywords": ["silt", "valley"]}),
    ):
        assert repaired(PROMPT, short, (constraint,)) == (short, ())


def test_an_answer_that_was_put_right_says_so_and_can_be_had_as_it_was(tmp_path: Path) -> None:
    source = dataset(tmp_path, 40)
    sets = ("constraints.repair=true", "answer.samples=1", 'filters.answer=["follows"]')
    finish(tmp_path / "run", plan("verifiable", *sets, script="plain"), source=source)
    with_repair = list(read_kept(tmp_path / "run"))
    mended = [(record, line) for record, line in with_repair if record.repaired]
    assert mended
    for record, line in mended:
        assert line["repaired"] == list(record.repaired)
        assert set(record.repaired) <= {one.type for one in record.constraints}
        assert all(followed(as_verifiable(record), record.output).strict)
    assert all(finding.right for finding in verify(tmp_path / "run"))
    replay(tmp_path / "run", ("constraints.repair=false",), tmp_path / "raw")
    kept = {record.task for record, _ in read_kept(tmp_path / "raw")}
    assert kept == {record.task for record, _ in with_repair if not record.repaired}


def script(folder: Path, tasks: list[Record]) -> Path:
    """A model that keeps to the constraints of every other task, and to none of the others."""
    rules = [
        f"[[rule]]\nmatch = {json.dumps(re.escape(task.instruction))}\n"
        f"reply = {json.dumps(answering(as_verifiable(task)) if at % 2 else 'Ω, Ω, Ω!')}\n"
        for at, task in enumerate(tasks)
    ]
    path = folder / "script.toml"
    path.write_text("\n".join(rules), encoding="utf-8")
    return path


def test_only_what_follows_is_kept_and_each_reject_says_what_it_breaks(tmp_path: Path) -> None:
    source = dataset(tmp_path, 40)
    sets = ('answer_style="completion"', "constraints.variants=2", "answer.samples=1")
    tasks = [task for row in drawn(source, *sets) for task in row]
    model = f"scripted/{script(tmp_path, tasks)}"
    recipe = load("verifiable", sets, {"model": model})
    # An answer that follows may be no good for other reasons: here only the one rule is asked.
    recipe = recipe.model_copy(
        update={"filters": recipe.filters.model_copy(update={"draft": (), "answer": ("follows",)})}
    )
    last = finish(tmp_path / "run", recipe, source=source)
    assert last.state == "complete"

    kept = list(read_kept(tmp_path / "run"))
    rejected = list(read_rejected(tmp_path / "run"))
    assert len(kept) + len(rejected) == 80
    assert len(kept) >= 40
    for record, line in kept:
        assert record.constraints
        assert all(followed(as_verifiable(record), record.output).strict)
        assert line["parents"] != [line["task"]]
    for line in rejected:
        assert line["by"] == "follows"
        told = re.fullmatch(r"(?:does not follow|nobody can tell whether it follows) (.+)", line["why"])
        assert told
        one = Record(instruction=line["instruction"], constraints=[Constraint(**each) for each in line["constraints"]])
        verdicts = followed(as_verifiable(one), line["output"]).strict
        broken = [each.type for each, verdict in zip(one.constraints, verdicts, strict=True) if not verdict]
        assert set(told[1].split(", ")) <= set(broken)

    assert all(finding.right for finding in verify(tmp_path / "run"))
    replay(tmp_path / "run", (), tmp_path / "all", without=("follows",))
    assert sum(1 for _ in read_kept(tmp_path / "all")) > len(kept)
    assert {line["by"] for line in read_rejected(tmp_path / "all")} <= {"duplicate"}
    with pytest.raises(UsageError, match=r"replay cannot change constraints\.variants"):
        replay(tmp_path / "run", ("constraints.variants=3",), tmp_path / "more")


def test_an_answer_of_no_known_language_is_not_kept() -> None:
    rule = Follows(load("verifiable"))
    task = Record(
        instruction="Say it in German.",
        output="1 2 3",
        constraints=(Constraint(type="language:response_language", kwargs={"language": "de"}),),
    )
    assert rule.objection(task) == "nobody can tell whether it follows language:response_language"
    assert rule.objection(Record(instruction="Say it.", output="1 2 3")) is None


def test_phrasings_of_ones_own_are_asked_and_belong_to_the_run(tmp_path: Path) -> None:
    own = tmp_path / "prompts"
    own.mkdir()
    changed = TEXT.replace("Do not use any commas.", "Leave all commas at home.")
    assert changed != TEXT
    (own / PHRASINGS).write_text(changed, encoding="utf-8")
    only = [name for name in TYPES if name not in ("punctuation:no_comma", "detectable_format:title")]
    recipe = plan("verifiable", f"constraints.without={json.dumps(only)}", "constraints.number=[1]")
    finish(tmp_path / "run", recipe, prompts=own)
    asked = " ".join(
        line["instruction"]
        for line in (
            *lines(tmp_path / "run" / "rejected.jsonl"),
            *lines(tmp_path / "run" / "data" / "train-00000.jsonl"),
        )
    )
    assert "Leave all commas at home." in asked
    assert "Do not use any commas." not in asked
    assert all(finding.right for finding in verify(tmp_path / "run"))
    with pytest.raises(UsageError, match="phrasings"):
        list(run_of(tmp_path / "run", recipe))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("phrasings: {}\n", "the phrasings: "),
        ("- 1\n", "the phrasings: "),
        ("phrasings: [\n", "the phrasings: "),
        (re.sub(r"(?s)  punctuation:no_comma:.*?\n\n", "\n", TEXT), "no phrasing of punctuation:no_comma"),
    ],
)
def test_a_wrong_file_of_phrasings_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Constrained(Setting(load("verifiable"), Prompts(), "chat", "chat", source=dataset(tmp_path, 1), phrasings=text))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ('constraints.without=["no:such"]', "there is no type 'no:such'"),
        (f"constraints.without={json.dumps(list(TYPES))}", "no types are left"),
        ("constraints.number=[0, 0]", "not all of them 0"),
        ("constraints.number=[]", "constraints.number"),
        ("constraints.variants=0", "constraints.variants"),
    ],
)
def test_what_nothing_can_be_drawn_by_is_refused(override: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load("verifiable", (override,))


def test_the_plan_counts_every_task(tmp_path: Path) -> None:
    from selfinstruct.cli.plan import estimate

    source = dataset(tmp_path, 7)
    recipe = plan("verifiable", "constraints.variants=3")
    _, (stage,) = estimate(recipe, source, None)
    assert stage.requests == 21
    tasks = [task for row in drawn(source, "constraints.variants=3") for task in row]
    size = sum(len(f"{task.instruction}{task.input}".encode()) for task in tasks)
    assert stage.prompt_tokens * 4 >= size


def test_the_answers_of_a_dataset_are_put_right_without_a_model(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    answer = "Rivers carry silt. They bend. They flood the fields."
    rows = [{"instruction": f"Say what river number {n} does.", "input": "", "output": answer} for n in range(60)]
    source.write_text("".join(json.dumps(row) + "\n" for row in (*rows, {"instruction": "Say it.", "output": ""})))
    last = finish(tmp_path / "run", load("verifiable/own", ("constraints.variants=2",)), source=source)
    assert (last.state, state.read(tmp_path / "run")["replies"]) == ("complete", 0)
    kept = list(read_kept(tmp_path / "run"))
    assert any(record.repaired for record, _ in kept)
    for record, line in kept:
        assert all(followed(as_verifiable(record), record.output).strict)
        assert not line["asked"]
        if not record.repaired:
            assert record.output == answer
    assert {line["by"] for line in read_rejected(tmp_path / "run")} <= {"follows", "empty", "duplicate"}
    assert all(finding.right for finding in verify(tmp_path / "run"))
    assert "without a model" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


def test_an_answer_that_is_none_is_not_put_right(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Say what river number {n} does.", "output": " " * (n % 2)} for n in range(20)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finish(tmp_path / "run", load("verifiable/own", ("constraints.variants=4",)), source=source)
    assert not list(read_kept(tmp_path / "run"))
    assert {line["by"] for line in read_rejected(tmp_path / "run")} <= {"empty", "duplicate"}


def test_nobody_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="none is nobody"):
        finish(tmp_path / "run", load("answer", (), {"model": "none"}), source=dataset(tmp_path, 2))


def test_types_that_go_with_no_row_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    only = [name for name in TYPES if name not in (CHOICE, REPEAT)]
    recipe = plan("verifiable", f"constraints.without={json.dumps(only)}")
    with pytest.raises(UsageError, match="none of these goes with every row"):
        list(run_of(tmp_path / "run", recipe))
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_asks_nothing_has_a_plan_without_requests(tmp_path: Path) -> None:
    from selfinstruct.cli.plan import estimate

    assert estimate(load("verifiable/own"), dataset(tmp_path, 7), None)[1] == []
