"""The engine on transformers: batches change no answer, and what is asked for is what comes back."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runfolders import sound
from tinymodels import model as tiny
from tinymodels import needs_training

from selfinstruct import Run, load_recipe
from selfinstruct.engines import Engine, Message, Options, Request, Sampling, open_engine
from selfinstruct.errors import UsageError

pytestmark = needs_training
GREEDY = Sampling(temperature=0, max_tokens=12)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny(tmp_path_factory.mktemp("hf") / "tiny")
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def opened(folder: Path, **options: Any) -> Engine:
    return open_engine(f"hf/{folder}", Options(**options))


def asking(loop: asyncio.Runner, engine: Engine, *requests: Request) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return list(await asyncio.gather(*map(engine.complete, requests)))

    return loop.run(all_at_once())


def chat(text: str, **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **{"sampling": GREEDY, **more})


def test_an_answer_is_the_same_alone_and_in_a_batch_of_prompts_of_any_length(
    folder: Path, loop: asyncio.Runner
) -> None:
    engine = opened(folder)
    requests = [chat("Hi"), chat("Name a colour of the sky, or two of them."), Request(prompt="One", sampling=GREEDY)]
    requests += [chat("Say.", prefill="1. Red"), chat("x" * 90)]
    together = asking(loop, engine, *requests)
    alone = [asking(loop, engine, request)[0] for request in requests]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert all(
        reply.usage == other.usage and reply.finish == other.finish
        for reply, other in zip(together, alone, strict=True)
    )
    assert len({reply.text for reply in together}) > 1
    loop.run(engine.close())


def test_a_neighbour_with_a_long_prompt_costs_an_answer_no_token(folder: Path, loop: asyncio.Runner) -> None:
    engine = opened(folder)
    short, long = chat("Hi", sampling=Sampling(temperature=0, max_tokens=60)), chat("x" * 490)
    alone = asking(loop, engine, short)[0]
    beside, other = asking(loop, engine, short, long)
    assert (beside.text, beside.usage) == (alone.text, alone.usage) and alone.usage.completion == 60
    assert other.usage.prompt > 400
    loop.run(engine.close())


def test_a_stop_string_is_looked_for_in_the_answer_alone(folder: Path, loop: asyncio.Runner) -> None:
    engine = opened(folder)
    (whole,) = asking(loop, engine, Request(prompt="Hi", sampling=GREEDY))
    stop = f"i{whole.text[0]}"  # begins in the prompt
    (again,) = asking(loop, engine, Request(prompt="Hi", sampling=GREEDY.model_copy(update={"stop": (stop,)})))
    assert stop in whole.text or again.usage.completion == 12
    own = whole.text[3:5]
    cut, beside = asking(loop, engine, *[Request(prompt="Hi", sampling=GREEDY.model_copy(update={"stop": (own,)}))] * 2)
    assert cut.text == beside.text == whole.text[: whole.text.index(own)]
    assert cut.usage == beside.usage and 0 < cut.usage.completion < 12  # what fills a row up is not counted
    loop.run(engine.close())


def test_sampling_is_as_asked_for(folder: Path, loop: asyncio.Runner) -> None:
    engine = opened(folder)
    (whole,) = asking(loop, engine, chat("Go on."))
    assert whole.finish == "length" and whole.usage.completion == 12
    stop = whole.text[3:5]
    (cut,) = asking(loop, engine, chat("Go on.", sampling=GREEDY.model_copy(update={"stop": (stop,)})))
    assert (cut.text, cut.finish) == (whole.text[: whole.text.index(stop)], "stop")
    hot = Sampling(temperature=5.0, max_tokens=12, logprobs=3, frequency_penalty=0.5)
    (several,) = asking(loop, engine, chat("Go on.", sampling=hot, samples=3))
    assert len({one.text for one in several.each()}) == 3 and several.usage.completion <= 36
    assert several.changed == ("frequency_penalty dropped",)
    assert 1 <= len(several.first_token) <= 3  # parts of a character all look alike
    assert sum(map(math.exp, several.first_token.values())) < 1
    (first,) = asking(loop, engine, chat("Go on.", sampling=GREEDY.model_copy(update={"logprobs": 1})))
    assert whole.text.startswith(next(iter(first.first_token)))
    loop.run(engine.close())


def test_deterministic_repeats_itself_by_the_seed(folder: Path, loop: asyncio.Runner) -> None:
    engine = opened(folder, deterministic=True)
    hot = Sampling(temperature=2.0, max_tokens=12)
    once = asking(loop, engine, *(chat("Go on.", sampling=hot, seed=seed) for seed in (1, 2, 1)))
    assert once[0].text == once[2].text != once[1].text
    loop.run(engine.close())


def test_what_cannot_be_asked_is_that_requests_own_failure(folder: Path, loop: asyncio.Runner) -> None:
    engine = opened(folder, context=64)
    long, short = asking(
        loop, engine, chat("word " * 200), chat("Hi", sampling=Sampling(temperature=0, max_tokens=500))
    )
    assert long.error is not None and long.error.kind == "too_long"
    assert short.error is None and short.usage.prompt + short.usage.completion <= 64
    loop.run(engine.close())


def test_closing_leaves_what_is_being_decoded(folder: Path, loop: asyncio.Runner) -> None:
    engine = opened(folder)

    async def close_soon() -> Any:
        asked = asyncio.ensure_future(engine.complete(chat("Hi", sampling=Sampling(temperature=0, max_tokens=450))))
        await asyncio.sleep(0.05)
        await engine.close()
        return await asked

    with pytest.raises(asyncio.CancelledError):  # half an answer is none
        loop.run(close_soon())


def test_what_it_can_be_asked_follows_from_its_template(folder: Path, tmp_path: Path) -> None:
    assert opened(folder).styles == ("prefill", "chat", "completion")
    assert opened(tiny(tmp_path / "bare")).styles == ("completion",)
    thinks = tiny(tmp_path / "thinks")
    (thinks / "chat_template.jinja").write_text(TEMPLATE.replace("assistant:", "assistant:<think>"))
    assert opened(thinks).styles == ("chat", "prefill", "completion")


@pytest.mark.parametrize("name", ["hf/", "hf/no/where/at/all"])
def test_a_model_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(UsageError, match=r"names no model|no model can be read"):
        open_engine(name)


def test_a_run_over_it_is_sound(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"instruction": f"Say {n}."}) + "\n" for n in range(6)))
    recipe = load_recipe("answer", "filters.answer=[]", "sampling.answer.max_tokens=8", model=f"hf/{folder}")
    *_, last = Run(tmp_path / "run", recipe, source=source)
    assert last.state == "complete"
    assert sound(tmp_path / "run", tmp_path / "again") + last.figures["rejected"].get("truncated", 0) == 6
