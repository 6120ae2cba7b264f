"""Tasks that are there already, with constraints on their answers that a program can check (IFEval, Zhou et al. 2023).

Of the answers the rule ``follows`` keeps those that keep to every one of them: what the model that writes cannot do yet
is not taught as if it were right (rejection sampling).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from selfinstruct.engines import Reply
from selfinstruct.operators import Read, Setting
from selfinstruct.operators.given import Given
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import Recipe
from selfinstruct.records import Constraint, Record
from selfinstruct.verifiable.constraints import CHOICE, REPEAT, compose, read_material
from selfinstruct.verifiable.ifeval import TYPES, check_languages
from selfinstruct.verifiable.repair import repaired

ENOUGH = 8
"""Words of a row's answer from which on constraints on words are about them."""
_WORD = re.compile(r"\b[a-z]{5,}\b")


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
        """Raises UsageError where a package is missing that some constraints are checked with."""
        check_languages(set(TYPES) - set(recipe.constraints.without))

    def read(self, reply: Reply, parents: Sequence[Record], rng: Random) -> list[Read]:
        return [self._task(parents[0], rng) for _ in range(self._table.variants)]

    def _task(self, row: Record, rng: Random) -> Record:
        # Only who knows the task can tell whether yes or no answers it; and what stands "above" an input is not all.
        types = [name for name in self._types if name != REPEAT or not row.input]
        numbers = range(1, len(self._table.number) + 1)
        number = rng.choices(numbers, self._table.number)[0]
        said = sorted(set(_WORD.findall(row.output.casefold())))
        words = said if len(said) >= ENOUGH else ()
        drawn = compose(row.instruction, rng, self._material, number, words=words, types=types)
        constraints = tuple(
            Constraint(type=name, kwargs=kwargs) for name, kwargs in zip(drawn.ids, drawn.kwargs, strict=True)
        )
        output, done = row.output if self._own else "", tuple[str, ...]()
        if self._own and self._table.repair:
            output, done = repaired(output, constraints)
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
