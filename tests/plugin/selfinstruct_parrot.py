"""A parrot that says the words it hears in another order, an answer without a model, and two filters."""

import re
from random import Random

from selfinstruct.engines import Reply, Usage


class Parrot:
    """``--model parrot/<name>``: writes numbered tasks from the words of what it reads."""

    concurrency = 2
    styles = ("completion",)

    def __init__(self, rest, options):
        self.name = f"parrot/{rest}"

    async def complete(self, request):
        rng, words = Random(request.seed), sorted(set(re.findall("[a-z]{3,}", request.text())))
        said = [f"{rng.choice(('Say', 'Code'))} {' '.join(rng.choices(words, k=8))}." for _ in range(6)]
        text = "\n".join(f"{number}. {task}" for number, task in enumerate(said, 9))
        return Reply(text=text.removeprefix("9."), usage=Usage(completion=len(text.split())), model="grey parrot")

    def facts(self):
        return {"species": "Psittacus erithacus"}

    async def close(self):
        pass


class Backwards:
    """An answerer that asks nobody: the instruction's words from the last to the first."""

    stages = ()

    def __init__(self, setting):
        pass

    async def answer(self, draft, ask, rng):
        return [draft.model_copy(update={"output": " ".join(reversed(draft.instruction.rstrip(".").split())) + "."})]


class NoCode:
    def __init__(self, recipe):
        pass

    def objection(self, record):
        return "asks for code" if record.instruction.startswith("Code") else None


class Calm:
    """One with settings of its own and a memory: at most so many tasks may begin with the same word."""

    def __init__(self, recipe):
        self.most = recipe.filters.options.get("calm", {}).get("most", 5)
        self.seen = {}

    def objection(self, record):
        word = record.instruction.split()[1]
        return f"{word!r} again" if self.seen.get(word, 0) >= self.most else None

    def learn(self, record):
        word = record.instruction.split()[1]
        self.seen[word] = self.seen.get(word, 0) + 1

    def remarks(self, record):
        return ("short",) if len(record.instruction) < 60 else ()
