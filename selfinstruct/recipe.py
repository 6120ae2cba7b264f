"""Recipe: everything that can change the data, as one checked value from TOML; presets, overrides, differences.

A recipe is a preset of ``recipes/`` (or a TOML file of the same shape), with ``--set KEY=VALUE`` on top. A table
``[compat]`` in it holds what ``behaviour = "compat"`` changes: the decisions of the original code, defects included. A
table ``[judged]`` holds what a ``judge_model`` of its own adds.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from selfinstruct.engines import Sampling
from selfinstruct.errors import InputError, UsageError
from selfinstruct.resources import RECIPES
from selfinstruct.verifiable.ifeval import TYPES


def _plain(value: JsonValue) -> JsonValue:
    """What both TOML, where it is kept, and JSON, in which it is sent, can hold."""
    if value is None:
        raise ValueError("there is no null in TOML: leave the key out")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON has no such number")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _plain(part)
    return value


Value = Annotated[JsonValue, AfterValidator(_plain)]


def _sampling(table: dict[str, Any]) -> dict[str, Any]:
    return Sampling(**table).model_dump(include=set(table))


Overrides = Annotated[dict[str, Annotated[Any, AfterValidator(_plain)]], AfterValidator(_sampling)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Draft(Table):
    """How new instructions are asked for."""

    operator: str
    seed_examples: int = Field(6, ge=0, le=100)
    """Seed tasks shown in a prompt."""
    pool_examples: int = Field(2, ge=0, le=100)
    """Model-written tasks shown beside them, once there are any; seeds fill in until then."""
    items: int = Field(7, ge=1, le=100)
    """New tasks read from one reply at the most."""
    samples: int = Field(1, ge=1, le=128)
    """Replies to one prompt, all of them read."""
    kind: Literal["any", "classification"] = "any"


class Answer(Table):
    """How a kept instruction is answered."""

    operator: str
    max_instances: int = Field(5, ge=1, le=100)
    attempts: int = Field(1, ge=1, le=10)
    """Times to ask for an answer when none can be read."""
    samples: int = Field(1, ge=1, le=128)
    """Answers to one prompt; each that differs becomes a record."""


class Filters(Table):
    """The rules, in the order in which they are asked."""

    draft: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    """Rules of either list that are not asked after all: the switch of each."""
    attempts: int = Field(2, ge=1, le=10)
    """Times to ask for the verdict of a rule that asks a model, when none can be read."""
    options: dict[str, dict[str, Value]] = Field(default_factory=dict)
    """Settings of third parties' filters, by name."""


class Novelty(Table):
    """Near-duplicates: a draft goes if its ROUGE-L F against an earlier instruction exceeds the threshold."""

    threshold: float = Field(0.7, ge=0.0, le=1.0)
    tokenizer: Literal["rouge", "unicode"] = "rouge"
    key: Literal["instruction", "instruction+input"] = "instruction"


class Length(Table):
    """Words: a Han or Kana character is one."""

    min_words: int = Field(4, ge=0)
    max_words: int = Field(150, ge=1)
    max_output_words: int = Field(600, ge=1)


class Wording(Table):
    """Whole words and phrases: ``hard`` ones reject a draft, but not within ``spare`` ones; ``soft`` ones are remarked
    in its lineage."""

    hard: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()


class Opening(Table):
    """The share of the pool that may begin with the same three words, and how many may in any case."""

    max_share: float = Field(0.03, gt=0.0, le=1.0)
    floor: int = Field(5, ge=1)


def _weigh(operators: tuple[str, ...], weights: tuple[float, ...]) -> None:
    if weights and len(weights) != len(operators):
        raise ValueError(f"{len(weights)} weights for {len(operators)} operators")
    if weights and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
        raise ValueError("weights are 0 or more, and not all of them 0")
    if len(set(operators)) < len(operators):
        raise ValueError("an operator is named twice: give it a weight instead")


class Phase(Table):
    """Some rounds of evolution with operators of their own."""

    rounds: int = Field(ge=1, le=100)
    operators: tuple[str, ...] = Field(min_length=1)
    weights: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        _weigh(self.operators, self.weights)
        return self


class Rounds(Table):
    """Rounds of evolution (Evol-Instruct, Xu et al. 2024, section 3)."""

    rounds: int = Field(4, ge=1, le=100)
    operators: tuple[str, ...] = ()
    """Names of prompt files in ``evolve/``: one is drawn for each record and round."""
    weights: tuple[float, ...] = ()
    """How likely each is; empty: all alike."""
    first: tuple[Phase, ...] = ()
    """What the first rounds draw from instead."""
    max_failures: int = Field(0, ge=0)
    """Failures in a row after which a lineage rests; 0: never."""
    sample: int = Field(0, ge=0)
    """Rows of the training subset that is drawn from the union, each with the same probability; 0: none."""

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        _weigh(self.operators, self.weights)
        return self


class Growth(Table):
    """Words that an evolved text may have more or less than its parent."""

    min_added: int = 1
    max_added: int = 40
    """In depth; an operator's prompt may name bounds of its own."""
    min_ratio: float = Field(0.5, ge=0.0)
    max_ratio: float = Field(2.0, gt=0.0)
    """In breadth and downward: the length as a share of the parent's."""


class Intent(Table):
    """How much of its parent an evolved instruction keeps."""

    min_recall: float = Field(0.3, ge=0.0, le=1.0)
    """In depth: the share of the parent's content words that are still there."""
    max_similarity: float = Field(0.7, ge=0.0, le=1.0)
    """In breadth: the ROUGE-L F with the parent from which on it is no new task."""


class Difficulty(Table):
    """On the judge's scale from 1 to 10."""

    min: float = Field(0.0, ge=0.0, le=10.0)
    max: float = Field(10.0, ge=0.0, le=10.0)


class Constraints(Table):
    """What is asked of the answers to given tasks, so that a program can check it."""

    variants: int = Field(1, ge=1, le=100)
    """Tasks made of each row."""
    number: tuple[Annotated[float, Field(ge=0, lt=math.inf)], ...] = Field((0.6, 0.3, 0.1), min_length=1, max_length=5)
    """How likely a task has one, two, three of them."""
    without: tuple[str, ...] = ()
    """Types that are never drawn: those that an evaluation should find untrained."""
    repair: bool = False
    """Whether an answer that breaks one is put right where a program can do that."""

    @model_validator(mode="after")
    def _something_is_drawn(self) -> Self:
        strange = [name for name in self.without if name not in TYPES]
        if strange:
            raise ValueError(f"there is no type {strange[0]!r}; there are {', '.join(TYPES)}")
        if len(set(TYPES) - set(self.without)) < 2:
            raise ValueError("no types are left to draw")
        if not any(self.number):
            raise ValueError("number: not all of them 0")
        return self


class Decontaminate(Table):
    """When a record overlaps an item of a benchmark."""

    words: int = Field(13, ge=2, le=1000)
    """Words in a row that they share (13 in OPT-IML, Iyer et al. 2022)."""
    grams: int = Field(8, ge=2, le=1000)
    """Words of the runs by which an item is covered (8 in Tülu 3, Lambert et al. 2024, section 3.2)."""
    coverage: float = Field(0.5, ge=0.0, le=1.0)
    """The share of an item's words that such runs of one record may cover."""

    @model_validator(mode="after")
    def _runs_hold_grams(self) -> Self:
        if self.words < self.grams:
            raise ValueError(f"words = {self.words}, fewer than grams = {self.grams}")
        return self


class Schedule(Table):
    """What decides order. Concurrency is not here: it never changes the data."""

    lookahead: int = Field(1024, ge=4)
    """Cap of how many steps may be asked ahead of the last one judged."""
    patience: int = Field(60, ge=1)
    """Steps in a row without a kept record after which the run stops (exit 5)."""


class Requests(Table):
    extra: dict[str, Value] = Field(default_factory=dict)
    """Sent to the server verbatim with every request."""


WayOfAsking = Literal["auto", "completion", "chat", "prefill", "json"]
Column = Literal["id", "instruction", "input", "output", "system", "reasoning"]


class Recipe(Table):
    """The checked whole. Field by field it is what ``recipe.toml`` in a run folder holds."""

    name: str
    about: str = ""
    behaviour: Literal["strict", "compat"] = "strict"
    seed: int = Field(0, ge=0)
    num: int = Field(100, ge=1)
    model: str = "local"
    answer_model: str = ""
    """Another model for classification and answers; empty: the same."""
    judge_model: str = ""
    """Who is asked by rules that ask a model; empty: the model that writes."""
    style: WayOfAsking = "auto"
    answer_style: WayOfAsking = "auto"
    judge_style: WayOfAsking = "auto"
    small: Literal["auto", "yes", "no"] = "auto"
    """Whether the answering model is too small to follow worked examples: then ``STAGE/small.md`` goes first."""
    license: str = "other"
    columns: tuple[Column, ...] = ("id", "instruction", "input", "output")
    draft: Draft
    answer: Answer
    filters: Filters = Filters()
    novelty: Novelty = Novelty()
    length: Length = Length()
    wording: Wording = Wording()
    opening: Opening = Opening()
    evolve: Rounds = Rounds()
    growth: Growth = Growth()
    intent: Intent = Intent()
    difficulty: Difficulty = Difficulty()
    constraints: Constraints = Constraints()
    decontaminate: Decontaminate = Decontaminate()
    schedule: Schedule = Schedule()
    sampling: dict[str, Overrides] = Field(default_factory=dict)
    """Overrides the prompt files' sampling, by stage: ``[sampling.bootstrap] temperature = 1.0``."""
    request: Requests = Requests()
    inputs: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the files that the plan is made from: seeds, prompts, lists to vary by, system text, benchmarks."""

    @field_validator("columns")
    @classmethod
    def _columns_are_whole(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        if len(set(columns)) < len(columns) or not {"id", "instruction", "input", "output"} <= set(columns):
            raise ValueError(
                "columns are id, instruction, input and output, and may be system and reasoning, each once"
            )
        return columns


RULE = "contaminated"
"""The rule against overlaps with benchmarks."""
MAY_CHANGE = ("num", "license", "about", "schedule.patience", "evolve.rounds", "evolve.sample")
"""What a later call may change in a run that has begun: it moves the end, or words of the card, but no record."""


def load(name: str | Path, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name (a preset or a TOML file), with ``KEY=VALUE`` overrides and then ``values`` on top.

    Raises UsageError for an unknown name, key or value.
    """
    path = Path(name) if str(name).endswith(".toml") else RECIPES / f"{name}.toml"
    raw = _read(path, str(name))
    chosen = _chosen(overrides)
    _merge(chosen, values or {})
    judged = chosen.get("judge_model", raw.get("judge_model"))
    compat = chosen.get("behaviour", raw.get("behaviour")) == "compat"
    for name, wanted in (("judged", judged), ("compat", compat)):
        overlay = raw.pop(name, {})
        if not isinstance(overlay, dict):
            raise UsageError(f"{path}: {name} = {_short(overlay)}: not a table", hint="docs/recipes.md shows one")
        if wanted:
            _merge(raw, overlay)
    _merge(raw, chosen)
    return check(raw, str(path))


def with_values(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """The recipe with ``KEY=VALUE`` overrides."""
    raw = recipe.model_dump(mode="json")
    _merge(raw, _chosen(overrides))
    return check(raw, "--set")


def decontaminated(recipe: Recipe) -> Recipe:
    """The recipe with the rule ``contaminated`` at both moments. Where the recipe gives it no place of its own it goes
    first, so that everything that overlaps is told as that, whatever else is wrong with it."""
    filters = recipe.filters
    drafts, answers = (rules if RULE in rules else (RULE, *rules) for rules in (filters.draft, filters.answer))
    return recipe.model_copy(update={"filters": filters.model_copy(update={"draft": drafts, "answer": answers})})


def check(raw: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from its raw tables. Raises UsageError naming the key."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            parent = ".".join(str(part) for part in problem["loc"][:-1])
            raise UsageError(f"{source}: unknown recipe key {key!r}", hint=_keys_of(parent)) from error
        if problem["type"] == "missing":
            raise UsageError(f"{source}: the recipe lacks {key!r}", hint="docs/recipes.md says what it is") from error
        what = problem["msg"].removeprefix("Value error, ")
        if isinstance(problem["input"], dict):  # keys of a table that do not fit together
            raise UsageError(f"{source}: {key}: {what}", hint="docs/recipes.md says what the table holds") from error
        raise UsageError(
            f"{source}: {key} = {_short(problem['input'])}: {what}",
            hint='values are TOML, such as 0.6, true, "text" or ["a", "b"]; the shell may need quotes around them',
        ) from error


def parse(text: str, source: str) -> Recipe:
    """A recipe from the TOML that ``dump`` wrote."""
    return check(_toml(text, source), source)


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, every value spelt out; ``parse`` of it gives the same recipe."""
    return tomli_w.dumps(recipe.model_dump(mode="json"))


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What stands between two recipes, a line each, leaving out what may change in a run."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    # By their JSON: 1, 1.0 and true are equal in Python, but not to a server.
    changed = {key for key in before.keys() | after.keys() if _json(before.get(key)) != _json(after.get(key))}
    return [
        f"{key}: {_short(before.get(key))} -> {_short(after.get(key))}"
        for key in sorted(changed)
        if key not in MAY_CHANGE and not any(other.startswith(f"{key}.") for other in changed)
    ]


def presets() -> list[str]:
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.toml"))


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = "there are " + ", ".join(presets()) + ", or give the path of a .toml file"
        raise UsageError(f"there is no recipe {name!r}", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", hint=_FILE_HINT) from error
    return _toml(text, str(path))


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        place = re.search(r"at line (\d+)", str(error))
        where = f"{source}:{place[1]}" if place else source
        raise InputError(f"{where}: not TOML: {error}", hint=_FILE_HINT) from error


_FILE_HINT = "a recipe is a TOML file; `docs/recipes.md` shows one"
_OVERRIDE = re.compile(r"""((?:"[^"]*"|'[^']*'|[^"'=])+)=(.*)""", re.DOTALL)


def _chosen(overrides: Iterable[str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for override in overrides:
        keys, value = _override(override)
        _put(chosen, keys, value)
    return chosen


def _override(text: str) -> tuple[list[str], Any]:
    match = _OVERRIDE.fullmatch(text)
    keys = _keys(match[1].strip()) if match else []
    if not match or not all(keys) or not keys:
        raise UsageError(f"--set {text!r}: not KEY=VALUE", hint="for example --set novelty.threshold=0.6")
    try:
        found = tomllib.loads(f"v = {match[2]}")
    except ValueError:
        found = {}
    return keys, found["v"] if found.keys() == {"v"} else match[2].strip()  # a bare word is a string: behaviour=compat


def _keys(dotted: str) -> list[str]:
    """The parts of a key, which may be quoted as in TOML; a bare one may hold more than TOML lets it."""
    try:
        tree: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return [part.strip() for part in dotted.split(".")]
    keys = []
    while isinstance(tree, dict):
        ((key, tree),) = tree.items()
        keys.append(key)
    return keys


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UsageError(f"--set {'.'.join(keys)}: {key!r} is not a table", hint=_keys_of(""))
    tree[keys[-1]] = value


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value


def _keys_of(parent: str) -> str:
    model: Any = Sampling if parent.startswith("sampling.") else Recipe
    for part in filter(None, parent.split(".")):
        model = model.model_fields[part].annotation if part in model.model_fields else model
    return f"{parent or 'a recipe'} has " + ", ".join(model.model_fields)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + (key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False))
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat


_BARE = re.compile(r"[A-Za-z0-9_-]+")


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    text = "(none)" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
