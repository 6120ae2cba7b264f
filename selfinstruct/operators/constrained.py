"""Tasks that are there already, with constraints on their answers that a program can check (IFEval, Zhou et al. 2023).

Of the answers the rule ``follows`` keeps those that keep to every one of them: what the model that writes cannot do yet
is not taught as if it were right (rejection sampling).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from selfinstruct.engines import Reply
from selfinstruct.errors import UsageError
from selfinstruct.operators import Read, Setting
from selfinstruct.operators.given import Given
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import Recipe
from selfinstruct.records import Constraint, Record
from selfinstruct.verifiable.constraints import CHOICE, REPEAT, compose, read_material
from selfinstruct.verifiable.ifeval import TYPES, Verifiable, about_language, check_languages, language_of
from selfinstruct.verifiable.repair import repaired

ENOUGH = 8
"""Words of a row's answer from which on constraints on words are about them."""
FORBIDDEN = "keywords:forbidden_words"
_WORD = re.compile(r"\b[a-z]{5,}\b")
_OF_LANGUAGE = re.compile(
    r"\b[Tt]ranslat|\blanguages?\b|"
    r"\b(?:in|into|from|to) (?:[A-Z][a-z]+(?:ese|ish|ian|an|ic)|French|Hindi|Greek|Thai|Urdu)\b"
)


class Constrained(Given):
    """Each row gives ``constraints.variants`` tasks: its own, with one or more constraints drawn for it. The row's
    answer comes along only where nobody answers anew (``answer.operator = "as-drafted"``)."""

    stage = "constrained"
    reads_phrasings = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._table = setting.recipe.constraints
        self._material = read_material(setting.phrasings, "the phrasings")
        self._own = setting.recipe.answer.operator == "as-drafted"
        self._types = [name for name in TYPES if name not in self._table.without and name != CHOICE]

    @property
    def variants(self) -> int:
        """Tasks of a row."""
        return self._table.variants

    @staticmethod
    def check(recipe: Recipe, prompts: Prompts) -> None:
        """Raises UsageError where a package is missing that some constraints are checked with, or where every type that
        is left does not go with some rows."""
        left = set(TYPES) - set(recipe.constraints.without)
        check_languages(left)
        if not any(
            name not in (CHOICE, REPEAT, "keywords:forbidden_words") and not about_language([name]) for name in left
        ):
            raise UsageError(
                f"constraints.without leaves {', '.join(sorted(left)) or 'no type'}: none of these goes with every row",
                hint="leave fewer types out",
            )

    def read(self, reply: Reply, parents: Sequence[Record], rng: Random) -> list[Read]:
        return [self._task(parents[0], rng) for _ in range(self._table.variants)]

    def _unfit(self, row: Record) -> set[str]:
        """Types that contradict the row's own task, or may."""
        unfit = {CHOICE}  # only who knows the task can tell whether yes or no answers it
        if row.input or "\n" in row.instruction:
            unfit.add(REPEAT)  # it speaks of the first paragraph, and means all of the task
        of_language = {name for name in self._types if about_language([name])}
        if of_language and (
            _OF_LANGUAGE.search(row.instruction) or language_of(f"{row.instruction}\n{row.output}") != "en"
        ):
            unfit |= of_language
        if self._own:
            unfit.add(FORBIDDEN)  # words of the answer that is there
        return unfit

    def _composed(self, task: str, rng: Random, number: int, words: Sequence[str], types: Sequence[str]) -> Verifiable:
        """With so many constraints, or as many as go together of what is left to draw."""
        for fewer in range(number, 1, -1):
            try:
                return compose(task, rng, self._material, fewer, words=words, types=types)
            except UsageError:
                continue
        return compose(task, rng, self._material, 1, words=words, types=types)

    def _task(self, row: Record, rng: Random) -> Record:
        types = [name for name in self._types if name not in self._unfit(row)]
        numbers = range(1, len(self._table.number) + 1)
        number = rng.choices(numbers, self._table.number)[0]
        said = sorted(set(_WORD.findall(row.output.casefold())))
        words = said if len(said) >= ENOUGH else ()
        drawn = self._composed(row.instruction, rng, number, words, types)
        constraints = tuple(
            Constraint(type=name, kwargs=kwargs) for name, kwargs in zip(drawn.ids, drawn.kwargs, strict=True)
        )
        output, done = row.output if self._own else "", tuple[str, ...]()
        if self._own and self._table.repair:
            output, done = repaired(drawn.prompt, output, constraints)
        return Record(
            instruction=drawn.prompt,
            input=row.input,
            output=output,
            repaired=done,
            system=row.system,
            origin=self.stage,
            parents=(row.id,),
            constraints=constraints,
        )
