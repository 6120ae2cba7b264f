"""Answer an instruction directly (output regeneration as in GPT4-LLM, Peng et al. 2023, and `selfinstruct answer`)."""

from __future__ import annotations

from random import Random

from selfinstruct.operators import Ask, Read, Setting, Unreadable
from selfinstruct.records import Record


class Answer:
    """Asks for the output; instruction and input stay as they are."""

    stages = ("answer",)

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._attempts = setting.recipe.answer.attempts

    async def answer(self, draft: Record, ask: Ask, rng: Random) -> list[Read]:
        system = self._setting.system or draft.system
        values = {"instruction": draft.instruction, "input": draft.input}
        request = self._setting.with_system(self._setting.answer("answer", values), system)
        unread = Unreadable("unreadable", "never asked", "")
        for attempt in range(self._attempts):
            reply = await ask("answer", request, attempt)
            output = reply.text.strip()
            if reply.finish != "stop":
                unread = Unreadable("truncated", f"the answer was cut off ({reply.finish})", reply.text)
            elif not output:
                unread = Unreadable("empty", "the output is empty", reply.text)
            else:
                answered = {"output": output, "reasoning": reply.reasoning, "system": system}
                return [draft.model_copy(update=answered)]
        return [unread]
