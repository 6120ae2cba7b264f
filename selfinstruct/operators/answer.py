"""Answer an instruction directly (output regeneration as in GPT4-LLM, Peng et al. 2023, and `selfinstruct answer`)."""

from __future__ import annotations

from random import Random

from selfinstruct.engines import Reply
from selfinstruct.operators import Ask, Read, Setting, Unreadable, unread
from selfinstruct.records import Record
from selfinstruct.verifiable.repair import repaired


class Answer:
    """Asks for the output; instruction and input stay as they are. Of several samples each that differs is a record."""

    stages = ("answer",)
    reads_samples = True

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._attempts = setting.recipe.answer.attempts
        self._samples = setting.recipe.answer.samples

    async def answer(self, draft: Record, ask: Ask, rng: Random) -> list[Read]:
        system = self._setting.system or draft.system
        values = {"instruction": draft.instruction, "input": draft.input}
        request = self._setting.with_system(self._setting.answer("answer", values), system)
        request = request.model_copy(update={"samples": self._samples})
        reads: list[Read] = [Unreadable("unreadable", "never asked", "")]
        for attempt in range(self._attempts):
            reply = await ask("answer", request, attempt)
            reads = [self._read(one, draft, system) for one in reply.each()]
            if not all(isinstance(read, Unreadable) for read in reads):
                break
        return _differing(reads)

    def _read(self, reply: Reply, draft: Record, system: str) -> Read:
        output = reply.text.strip()
        if reply.error:
            return unread(reply)
        if reply.finish != "stop":
            return Unreadable("truncated", f"the answer was cut off ({reply.finish})", reply.text)
        if not output:
            return Unreadable("empty", "the output is empty", reply.text)
        done: tuple[str, ...] = ()
        if self._setting.recipe.constraints.repair:
            output, done = repaired(draft.instruction, output, draft.constraints)
        known = {"output": output, "reasoning": reply.reasoning, "system": system, "repaired": done}
        return draft.model_copy(update=known)


def _differing(reads: list[Read]) -> list[Read]:
    """What was read, where an output came twice once."""
    outputs: set[str] = set()
    found: list[Read] = []
    for read in reads:
        if isinstance(read, Record) and read.output in outputs:
            read = Unreadable("duplicate", "the same answer again", read.output)
        elif isinstance(read, Record):
            outputs.add(read.output)
        found.append(read)
    return found
