"""Recipes: what is loaded is checked, what is written is read back, and every difference is named."""

from __future__ import annotations

import copy
import datetime
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.errors import InputError, UsageError
from selfinstruct.recipe import MAY_CHANGE, Recipe, check, differences, dump, load, parse, presets, with_values

MINIMAL = 'name = "mine"\ndraft = {operator = "bootstrap"}\nanswer = {operator = "answer"}\n'
WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
NAMES = st.one_of(WORDS, st.sampled_from(["a", "a.b", "b", 'q"', "prompt:bootstrap/prefill"]))
NUMBERS = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
SAMPLINGS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "top_k": st.integers(0, 99),
        "stop": st.lists(WORDS, max_size=3),
        "max_tokens": st.integers(1, 4096),
    },
)
RAW = st.fixed_dictionaries(
    {
        "name": WORDS,
        "draft": st.fixed_dictionaries({"operator": WORDS}, optional={"items": st.integers(1, 100)}),
        "answer": st.fixed_dictionaries({"operator": WORDS}),
    },
    optional={
        "about": WORDS,
        "behaviour": st.sampled_from(["strict", "compat"]),
        "seed": st.integers(0, 2**70),
        "num": st.integers(1, 10**9),
        "columns": st.permutations(["id", "instruction", "input", "output"]),
        "filters": st.fixed_dictionaries(
            {},
            optional={
                "draft": st.lists(WORDS, max_size=3),
                "options": st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=2), max_size=2),
            },
        ),
        "novelty": st.fixed_dictionaries({"threshold": st.floats(0, 1)}),
        "sampling": st.dictionaries(NAMES, SAMPLINGS, max_size=2),
        "request": st.fixed_dictionaries({"extra": st.dictionaries(NAMES, VALUES, max_size=3)}),
        "inputs": st.dictionaries(NAMES, WORDS, max_size=3),
    },
)
RECIPES = RAW.map(lambda raw: check(raw, "a test"))


def leaves(tree: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every value of a recipe, with its type, by its path."""
    if isinstance(tree, dict) and (tree or not above):
        return {path: text for key, value in tree.items() for path, text in leaves(value, (*above, key)).items()}
    return {above: canonical(tree)}


def canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{canonical(inner)}" for key, inner in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return repr(value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return path


class TestPresets:
    @pytest.mark.parametrize("name", presets())
    @pytest.mark.parametrize("overrides", [(), ("behaviour=compat",)])
    def test_each_loads_and_carries_its_name(self, name: str, overrides: tuple[str, ...]) -> None:
        recipe = load(name, overrides)
        assert recipe.name == name
        assert recipe.about

    def test_there_are_the_three_that_are_documented(self) -> None:
        assert {"self-instruct", "alpaca", "answer"} <= set(presets())


class TestWritingAndReading:
    @given(RECIPES)
    def test_what_is_written_is_read_back_the_same(self, recipe: Recipe) -> None:
        text = dump(recipe)
        again = parse(text, "recipe.toml")
        assert again == recipe
        assert dump(again) == text
        assert differences(recipe, again) == []

    @pytest.mark.parametrize("name", presets())
    def test_a_preset_that_was_written_is_a_recipe_file(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "written.toml"
        path.write_text(dump(load(name)))
        assert load(path) == load(name)

    def test_a_byte_order_mark_is_no_part_of_it(self, file: Path) -> None:
        file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
        assert load(file).name == "mine"


class TestDifferences:
    @given(RAW, RAW)
    def test_name_exactly_the_keys_that_changed(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        mixed = copy.deepcopy(one) | {key: other[key] for key in list(other)[1::2]}
        old, new = check(one, "old"), check(mixed, "new")
        before, after = leaves(old.model_dump(mode="json")), leaves(new.model_dump(mode="json"))
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        whole = {path for path in changed if not any(o != path and o[: len(path)] == path for o in changed)}
        expected = {path for path in whole if ".".join(path) not in MAY_CHANGE}
        lines = differences(old, new)
        assert len(lines) == len(expected)
        assert (old == new) or lines or changed
        for path in expected:
            assert any(line.startswith(path[0]) and path[-1][:5] in line.replace("\\", "") for line in lines) or any(
                not part.isascii() or not part.isprintable() or set(part) & set('\\"') for part in path
            )

    def test_show_both_values(self) -> None:
        old, new = load("alpaca"), load("alpaca", ["novelty.threshold=0.5", "draft.items=3", "num=7"])
        assert differences(old, new) == ["draft.items: 16 -> 3", "novelty.threshold: 0.7 -> 0.5"]

    @pytest.mark.parametrize("key", MAY_CHANGE)
    def test_leave_out_what_may_change(self, key: str) -> None:
        value = "mit" if key in ("license", "about") else "7"
        assert load("alpaca", [f"{key}={value}"]) != load("alpaca")
        assert differences(load("alpaca"), load("alpaca", [f"{key}={value}"])) == []

    def test_tell_apart_what_only_python_holds_for_equal(self) -> None:
        old, new = load("alpaca", ["request.extra.a=1"]), load("alpaca", ["request.extra.a=true"])
        assert differences(old, new) == ["request.extra.a: 1 -> True"]

    def test_quote_a_name_that_has_a_dot(self) -> None:
        old, new = load("alpaca", ['request.extra."a.b"=1']), load("alpaca", ["request.extra.a.b=1"])
        assert differences(old, new) == ['request.extra."a.b": 1 -> (none)', "request.extra.a.b: (none) -> 1"]

    def test_do_not_see_the_order_of_keys(self) -> None:
        old = load("alpaca", ["request.extra.a=1", "request.extra.b=2"])
        assert differences(old, load("alpaca", ["request.extra.b=2", "request.extra.a=1"])) == []


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "path", "value"),
        [
            ("num=7", "num", 7),
            (" num = 7 ", "num", 7),
            ("novelty.threshold=0.6", "novelty.threshold", 0.6),
            ("novelty.threshold=1", "novelty.threshold", 1.0),
            ("model=openai/gpt-5", "model", "openai/gpt-5"),
            ("model='openai/gpt-5'", "model", "openai/gpt-5"),
            ("model=http://a/?b=c", "model", "http://a/?b=c"),
            ("about=", "about", ""),
            ("about=# no comment", "about", "# no comment"),
            ("about=two\nlines = 3", "about", "two\nlines = 3"),
            ("about=über 中文", "about", "über 中文"),
            ("filters.draft=[]", "filters.draft", ()),
            ('filters.draft=["length", "start"]', "filters.draft", ("length", "start")),
            ("filters={draft=[]}", "filters.draft", ()),
            ("request.extra.thinking=true", "request.extra", {"thinking": True}),
            ("request.extra.deep={a=[1, {b=2}]}", "request.extra", {"deep": {"a": [1, {"b": 2}]}}),
            ("sampling.bootstrap.temperature=1", "sampling", {"bootstrap": {"temperature": 1.0}}),
            ('inputs."prompt:bootstrap/prefill"=x', "inputs", {"prompt:bootstrap/prefill": "x"}),
            ("inputs.prompt:bootstrap/prefill=x", "inputs", {"prompt:bootstrap/prefill": "x"}),
            ('inputs."a.b=c".=x', "", None),
            ('inputs."a.b=c"=x', "inputs", {"a.b=c": "x"}),
            ("filters.options.my-filter.max=3", "filters.options", {"my-filter": {"max": 3}}),
        ],
    )
    def test_are_read_as_toml_or_as_bare_words(self, override: str, path: str, value: Any) -> None:
        if not path:
            with pytest.raises(UsageError, match="not KEY=VALUE"):
                load("alpaca", [override])
            return
        found: Any = load("alpaca", [override])
        for part in path.split("."):
            found = getattr(found, part)
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize("override", ["num", "=3", " = 3", "", "a..b=1", ".num=1", '"num=1', "num\n=1\nx=2"[:4]])
    def test_that_are_not_key_value_are_refused(self, override: str) -> None:
        with pytest.raises(UsageError, match="not KEY=VALUE") as caught:
            load("alpaca", [override])
        assert repr(override) in caught.value.message
        assert caught.value.hint

    def test_a_later_one_wins_and_tables_are_joined(self) -> None:
        recipe = load("self-instruct", ["num=1", "draft={items=3}", "num=2"])
        assert (recipe.num, recipe.draft.items, recipe.draft.seed_examples) == (2, 3, 6)

    def test_values_win_over_them_and_are_left_as_they_are(self) -> None:
        values = {"num": 9, "sampling": {"bootstrap": {"top_k": 1}}, "draft": {"items": 2}}
        before = copy.deepcopy(values)
        recipe = load("alpaca", ["num=1", "sampling.bootstrap.top_k=3", "sampling.bootstrap.top_p=0.5"], values)
        assert (recipe.num, recipe.draft.items) == (9, 2)
        assert recipe.sampling == {"bootstrap": {"top_k": 1, "top_p": 0.5}}
        assert values == before

    def test_one_below_a_value_is_refused(self) -> None:
        with pytest.raises(UsageError, match="'a' is not a table"):
            load("alpaca", ["request.extra.a=1", "request.extra.a.b=2"])

    def test_on_a_checked_recipe_do_the_same_as_on_its_file(self) -> None:
        overrides = ["novelty={threshold=0.5}", 'request.extra."a.b"=1', "filters.draft=[]"]
        assert with_values(load("alpaca"), overrides) == load("alpaca", overrides)


class TestCompat:
    def test_lays_its_table_over_the_recipe(self) -> None:
        strict, compat = load("self-instruct"), load("self-instruct", ["behaviour=compat"])
        assert strict.filters.draft != compat.filters.draft
        assert "blacklist" in compat.filters.draft
        assert compat.filters.answer == ()
        assert compat.novelty == strict.novelty

    def test_yields_to_what_the_user_sets(self) -> None:
        recipe = load("self-instruct", ["behaviour=compat", 'filters.draft=["length"]'])
        assert recipe.filters.draft == ("length",)
        assert recipe.filters.answer == ()

    def test_may_be_the_files_own_choice_and_be_taken_back(self, file: Path) -> None:
        file.write_text('behaviour = "compat"\n' + MINIMAL + "[compat.novelty]\nthreshold = 0.1\n")
        assert load(file).novelty.threshold == 0.1
        assert load(file, ["behaviour=strict"]).novelty.threshold == 0.7

    def test_that_is_no_table_is_refused(self, file: Path) -> None:
        file.write_text("compat = 3\n" + MINIMAL)
        with pytest.raises(UsageError, match="compat = 3"):
            load(file)


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("override", "named", "hinted"),
        [
            ("nom=3", "'nom'", "num"),
            ("draft.itens=3", "'draft.itens'", "items"),
            ("sampling.bootstrap.temprature=1", "'sampling.bootstrap.temprature'", "temperature"),
            ("novelty threshold=1", "'novelty threshold'", "novelty"),
        ],
    )
    def test_an_unknown_key_is_named_beside_those_there_are(self, override: str, named: str, hinted: str) -> None:
        with pytest.raises(UsageError) as caught:
            load("alpaca", [override])
        assert named in caught.value.message
        assert hinted in caught.value.hint

    @pytest.mark.parametrize(
        "override",
        [
            "num=many",
            "num=0",
            "novelty.threshold=1.5",
            "filters.draft=length",
            "filters.draft=[1]",
            "style=loud",
            "name=3",
            "draft=bootstrap",
            "sampling.bootstrap.temperature=hot",
            "sampling.bootstrap.temperature=inf",
            "sampling.bootstrap=3",
            "request.extra.when=2026-01-01",
            "request.extra.much=nan",
            "request.extra.deep={a=[inf]}",
            "filters.options.mine=3",
        ],
    )
    def test_a_value_of_the_wrong_kind_is_shown_with_its_key(self, override: str) -> None:
        with pytest.raises(UsageError) as caught:
            load("alpaca", [override])
        assert override.split("=")[0] in caught.value.message
        assert "\n" not in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize("value", [None, math.inf, datetime.date(2026, 1, 1), {"a": None}])
    def test_a_value_that_could_not_be_written_is_refused(self, value: Any) -> None:
        with pytest.raises(UsageError, match=r"request\.extra\.x"):
            load("alpaca", values={"request": {"extra": {"x": value}}})

    def test_a_missing_key_is_named(self, file: Path) -> None:
        file.write_text('name = "mine"\ndraft = {}\nanswer = {operator = "answer"}\n')
        with pytest.raises(UsageError, match=r"mine\.toml.*'draft\.operator'"):
            load(file)

    @pytest.mark.parametrize("name", ["self-instrukt", "nowhere.toml", "a/b", ""])
    def test_an_unknown_recipe_is_refused_with_those_there_are(self, name: str) -> None:
        with pytest.raises(UsageError, match="there is no recipe") as caught:
            load(name)
        assert "self-instruct" in caught.value.hint

    @pytest.mark.parametrize(
        "content", [b"name = ", b'\n\nname = "a\n', b"\xff\xfe", b"name = 1\nname = 2\n", b"x = " + b"1" * 5000]
    )
    def test_malformed_toml_is_an_error_of_the_file(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"mine\.toml") as caught:
            load(file)
        assert caught.value.hint

    def test_malformed_toml_is_shown_by_line(self, file: Path) -> None:
        file.write_text(MINIMAL + "\n[oops\n")
        with pytest.raises(InputError, match=r"mine\.toml:5: "):
            load(file)

    def test_a_stored_recipe_that_is_no_toml_is_an_error_of_the_file(self) -> None:
        with pytest.raises(InputError, match="the journal"):
            parse("= 3", "the journal")


@pytest.mark.parametrize("columns", [[], ["id", "foo"], ["id", "instruction", "output"], ["id"] * 4])
def test_columns_that_no_row_could_fill_are_refused(columns: list[str]) -> None:
    with pytest.raises(UsageError, match="columns"):
        load("self-instruct", (), {"columns": columns})
