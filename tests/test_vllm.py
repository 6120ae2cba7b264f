"""vLLM for real, on the CPU: in this process and behind its own server, asked the same, killed and resumed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runfolders import replies, sound
from vllmserver import CONTEXT, MODEL, needs_vllm, vllm_server

from selfinstruct.engines import Engine, Message, Options, Request, Sampling, open_engine
from selfinstruct.errors import EngineError, UsageError

pytestmark = [pytest.mark.slow, needs_vllm]

NAME = f"vllm/{MODEL}"
SEEDS = Path(__file__).parent.parent / "seeds" / "175.jsonl"
GREEDY = Sampling(temperature=0, max_tokens=24)
QUESTION = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Name some colours, in a numbered list."),
)
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "maxLength": 20}, "warm": {"enum": ["yes", "no"]}},
    "required": ["colour", "warm"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", autouse=True)
def small_and_offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with vllm_server() as address:
        yield address


@pytest.fixture(scope="module")
def engine(loop: asyncio.Runner) -> Iterator[Engine]:
    engine = open_engine(NAME, Options(context=CONTEXT))
    yield engine
    loop.run(engine.close())


@pytest.fixture(scope="module")
def served(loop: asyncio.Runner, server: str) -> Iterator[Engine]:
    engine = open_engine("openai/smollm2", Options(base_urls=(server,), concurrency=16))
    yield engine
    loop.run(engine.close())


def asked(name: str, *requests: Request, **options: object) -> list[str]:
    """Open a model, ask, and close it."""

    async def main() -> list[str]:
        engine = open_engine(name, Options.model_validate({"context": CONTEXT, **options}))
        try:
            replies = [await engine.complete(request) for request in requests]
            assert not any(reply.error for reply in replies), replies
            return [reply.text for reply in replies]
        finally:
            await engine.close()

    return asyncio.run(main())


class TestInProcessAndServedAgree:
    @pytest.mark.parametrize(
        "request_",
        [
            Request(prompt="Colours, one a line:\n1. Red\n2. Blue\n3.", sampling=GREEDY),
            Request(messages=QUESTION, sampling=GREEDY),
            Request(messages=QUESTION, prefill="1. Red\n2.", sampling=GREEDY),
            Request(messages=QUESTION, sampling=Sampling(temperature=0, max_tokens=40, stop=("\n3.",), logprobs=2)),
            Request(messages=QUESTION, json_schema=SCHEMA, sampling=Sampling(temperature=0, max_tokens=60)),
        ],
        ids=["completion", "chat", "prefill", "stop and logprobs", "schema"],
    )
    def test_in_the_tokens_of_the_prompt_and_in_the_answer(
        self, loop: asyncio.Runner, engine: Engine, served: Engine, request_: Request
    ) -> None:
        here, there = loop.run(engine.complete(request_)), loop.run(served.complete(request_))
        assert here.error is None
        assert here.usage.prompt == there.usage.prompt
        assert here.text == there.text
        assert here.finish == there.finish
        assert here.first_token.keys() == there.first_token.keys()

    def test_in_what_is_not_said(self, loop: asyncio.Runner, engine: Engine, served: Engine) -> None:
        """Where the request leaves temperature open both fill in the model's own or vLLM's: answers differ, freely."""
        request = Request(messages=QUESTION, samples=6, sampling=Sampling(max_tokens=12))
        for one in (engine, served):
            texts = [sample.text for sample in loop.run(one.complete(request)).each()]
            assert len(texts) == 6
            assert len(set(texts)) > 1

    def test_in_what_is_too_long(self, loop: asyncio.Runner, engine: Engine, served: Engine) -> None:
        request = Request(prompt="word " * 3000, sampling=GREEDY)
        for one in (engine, served):
            reply = loop.run(one.complete(request))
            assert reply.error is not None
            assert reply.error.kind == "too_long"

    def test_a_schema_is_kept(self, loop: asyncio.Runner, engine: Engine, served: Engine) -> None:
        request = Request(messages=QUESTION, json_schema=SCHEMA, sampling=Sampling(temperature=1.0, max_tokens=200))
        for one in (engine, served):
            value = json.loads(loop.run(one.complete(request)).text)
            assert value["warm"] in ("yes", "no")

    def test_long_prompts_with_seeds_do_not_kill_an_engine(
        self, loop: asyncio.Runner, engine: Engine, served: Engine
    ) -> None:
        """They would if the seeds went out: the CPU build cannot take them in a prompt that is read in parts."""
        requests = [Request(prompt="word " * 60 * n, seed=n, sampling=Sampling(max_tokens=4)) for n in range(1, 24)]

        async def all_at_once(one: Engine) -> None:
            for reply in await asyncio.gather(*map(one.complete, requests)):
                assert reply.error is None

        for one in (engine, served):
            loop.run(all_at_once(one))


class TestInThisProcess:
    def test_what_is_wanted_no_more_is_not_decoded(self, loop: asyncio.Runner, engine: Engine) -> None:
        endless = Request(messages=QUESTION, sampling=Sampling(max_tokens=1800), extra={"ignore_eos": True})

        async def leave() -> float:
            tasks = [asyncio.create_task(engine.complete(endless)) for _ in range(4)]
            await asyncio.sleep(1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            began = time.monotonic()
            await engine.complete(Request(messages=QUESTION, sampling=GREEDY))
            return time.monotonic() - began

        assert loop.run(leave()) < 10  # and not the minute that 7,200 tokens take

    def test_a_longer_answer_than_the_context_holds_is_cut_and_said(self, loop: asyncio.Runner, engine: Engine) -> None:
        request = Request(messages=QUESTION, sampling=Sampling(temperature=0, max_tokens=9000, stop=("\n",)))
        reply = loop.run(engine.complete(request))
        assert reply.error is None
        assert reply.changed == ("max_tokens cut to what the context leaves",)

    def test_parameters_of_the_sampler_are_taken_from_the_recipe_and_others_refused(
        self, loop: asyncio.Runner, engine: Engine
    ) -> None:
        biased = Request(messages=QUESTION, sampling=GREEDY, extra={"logit_bias": {"2": -100.0}, "min_tokens": 24})
        assert loop.run(engine.complete(biased)).usage.completion == 24
        with pytest.raises(EngineError, match="no_such"):
            loop.run(engine.complete(Request(messages=QUESTION, extra={"no_such": 1})))

    def test_facts_say_what_was_loaded(self, engine: Engine) -> None:
        facts = engine.facts()
        assert facts["architecture"] == "LlamaForCausalLM"
        assert facts["context"] == str(CONTEXT)
        assert facts["dtype"] == "bfloat16"
        assert facts["vllm"]

    def test_deterministic_means_the_same_again(self) -> None:
        warm = Sampling(temperature=1.0, max_tokens=24)
        requests = [Request(messages=QUESTION, seed=seed, sampling=warm) for seed in (1, 2, 1)]
        long = Request(prompt="word " * 1500, seed=3, sampling=warm)
        first, second, again, _ = asked(NAME, *requests, long, deterministic=True)
        assert first == again
        assert first != second

    def test_an_adapter_makes_it_another_model(self, tmp_path: Path) -> None:
        torch, save_file = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch").save_file
        config = json.loads((MODEL / "config.json").read_text())
        hidden, chance = config["hidden_size"], torch.Generator().manual_seed(0)
        weights = {}
        for layer in range(config["num_hidden_layers"]):
            at = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            weights[f"{at}.lora_A.weight"] = torch.randn(4, hidden, generator=chance) * 0.1
            weights[f"{at}.lora_B.weight"] = torch.randn(hidden, 4, generator=chance) * 0.3
        save_file(weights, tmp_path / "adapter_model.safetensors")
        adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
        (tmp_path / "adapter_config.json").write_text(json.dumps(adapter | {"base_model_name_or_path": str(MODEL)}))
        request = Request(messages=QUESTION, sampling=GREEDY)
        assert asked(f"{NAME}?lora={tmp_path}", request) != asked(NAME, request)

    def test_the_grammar_of_a_schema_begins_after_the_thoughts(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype="bfloat16")
        tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
        marks = [transformers.AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")]
        tokenizer.add_tokens(marks)
        opened = "<|im_start|>assistant\n"
        assert tokenizer.chat_template.count(opened) == 1
        tokenizer.chat_template = tokenizer.chat_template.replace(opened, f"{opened}<think>\n")
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        # This one never learned to think: it is made to stop after so many tokens, and kept from ending before.
        extra = {"thinking_token_budget": 8, "logit_bias": {"2": -100.0}}
        request = Request(messages=QUESTION, json_schema=SCHEMA, sampling=Sampling(max_tokens=200), extra=extra)

        async def main() -> None:
            engine = open_engine(f"vllm/{tmp_path}", Options(context=CONTEXT))
            try:
                assert engine.facts()["reasoning parser"] == "deepseek_r1"  # by its template and its tokens
                assert engine.styles[0] == "chat"  # its turn cannot be begun for it
                for reply in [await engine.complete(request) for _ in range(4)]:
                    assert reply.reasoning
                    assert "{" not in reply.reasoning
                    if reply.finish == "stop":
                        assert json.loads(reply.text)["warm"] in ("yes", "no")
                    assert "</think>" not in reply.text
                # A begun answer, and a text to continue, have no thoughts before them.
                for other in (Request(messages=QUESTION, prefill="1. Red\n2."), Request(prompt="1. Red\n2.")):
                    reply = await engine.complete(other.model_copy(update={"sampling": GREEDY}))
                    assert reply.error is None
                    assert reply.text
                    assert not reply.reasoning
            finally:
                await engine.close()

        asyncio.run(main())


class TestWhatCannotBeServed:
    @pytest.mark.parametrize(
        ("name", "options", "told", "hint"),
        [
            ("vllm/no/such-model", {}, "could not start", "hub id"),
            (NAME, {"context": 100_000}, "max_model_len", "--context"),
            (NAME, {"tensor_parallel": 2}, "attention heads", "--tensor-parallel"),
            (f"{NAME}?quantization=awq", {}, "awq", "quant"),
            (f"{NAME}?reasoning_parser=none", {}, "Reasoning parser", "reasoning-parser"),
            (NAME, {"gpu_memory": 0.01, "context": CONTEXT}, "memory", "--gpu-memory"),
        ],
    )
    def test_is_said_with_what_to_change(
        self, name: str, options: dict[str, object], told: str, hint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
        with pytest.raises(EngineError) as raised:
            asyncio.run(open_engine(name, Options.model_validate(options)).close())
        assert told in raised.value.message
        assert hint in raised.value.hint

    def test_a_name_with_a_key_that_is_none(self) -> None:
        with pytest.raises(UsageError, match="lore"):
            open_engine(f"{NAME}?lore=x")

    def test_an_adapter_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="adapter"):
            open_engine(f"{NAME}?lora={tmp_path}")


# The command line.

SHORT = [word for stage in ("input-first", "output-first") for word in ("--set", f"sampling.{stage}.max_tokens=80")]
HERE = ["--model", NAME, "--context", str(CONTEXT)]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "selfinstruct", *map(str, words)]


def ran(*words: object) -> str:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(folder: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until so many replies of a run have arrived."""
    deadline = time.monotonic() + 300
    while replies(folder) < number:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


def family(process: subprocess.Popen[bytes]) -> list[Any]:
    """All that a run started, its engine's own processes too."""
    found = pytest.importorskip("psutil").Process(process.pid).children(recursive=True)
    assert any("EngineCore" in one.name() + "".join(one.cmdline()) for one in found)
    return list(found)


def left(found: list[Any], seconds: float) -> list[Any]:
    """Those that still run after so long."""
    deadline = time.monotonic() + seconds
    while True:
        alive = [one for one in found if one.is_running() and one.status() != "zombie"]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.1)


@pytest.mark.parametrize("where", ["in this process", "its own server"])
def test_twenty_records_and_a_round_of_evolution(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = HERE
    if where == "its own server":
        address = request.getfixturevalue("server")
        model = ["--model", "openai/smollm2", "--base-url", address, "--style", "prefill", "--set", "small=yes"]
    ran("generate", "--seeds", SEEDS, "--num", 20, "--out", tmp_path / "first", *SHORT, *model)
    assert sound(tmp_path / "first", tmp_path / "again") == 20
    few = tmp_path / "ten.jsonl"
    few.write_text("".join((SEEDS.read_text().splitlines(keepends=True))[:10]))
    folder = tmp_path / "evolved"
    options = ["--rounds", 1, "--out", folder, "--set", "sampling.answer.max_tokens=80"]
    done = subprocess.run(command("evolve", few, *options, *model), capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 5), done.stderr  # 5: so small a model may have nothing survive
    assert sound(folder, tmp_path / "evolved again") >= 10
    assert json.loads((folder / "run.json").read_text())["figures"]["evolution"]["tried"] == 10


def test_ctrl_c_stops_it_clean_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    line = command("generate", "--num", 12, "--out", folder, *SHORT, *HERE)
    process = subprocess.Popen(line, stderr=subprocess.PIPE, process_group=0)
    until(folder, 6, process)
    started = family(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all in the foreground
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert left(started, 1) == []
    before = replies(folder)
    ran("generate", "--num", 12, "--out", folder, *SHORT, *HERE)
    assert sound(folder, tmp_path / "again") == 12
    with sqlite3.connect(folder / "journal.sqlite") as database:
        assert database.execute("SELECT count(*) FROM replies WHERE sent > arrived").fetchone() == (0,)
    assert before >= 6


def test_a_model_that_is_still_loading_is_not_waited_for(tmp_path: Path) -> None:
    line = command("generate", "--num", 12, "--out", tmp_path / "run", *HERE)
    process = subprocess.Popen(line, stderr=subprocess.PIPE, process_group=0)
    psutil = pytest.importorskip("psutil")
    deadline = time.monotonic() + 60
    while not (started := psutil.Process(process.pid).children(recursive=True)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(5)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert time.monotonic() - began < 10
    assert left(started, 5) == []


def test_nothing_is_left_on_the_machine_when_a_run_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    line = command("generate", "--num", 50, "--out", folder, *HERE)
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    until(folder, 2, process)
    started = family(process)
    process.kill()
    process.wait()
    assert left(started, 20) == []


def test_one_of_two_replicas_dies_and_costs_only_what_it_had_in_flight(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    line = command("generate", "--num", 12, "--out", folder, "--replicas", 2, *SHORT, *HERE)
    process = subprocess.Popen(line, stderr=subprocess.PIPE)
    until(folder, 6, process)
    started = family(process)
    next(one for one in started if "EngineCore" in one.name() + "".join(one.cmdline())).kill()
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors.decode()
    assert sound(folder, tmp_path / "again") == 12
    assert b"lost" in errors
    assert left(started, 5) == []


def test_it_runs_on_a_ray_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    folder = tmp_path / "run"
    ran("generate", "--num", 6, "--out", folder, "--ray", "local", "--replicas", 2, *SHORT, *HERE)
    assert sound(folder, tmp_path / "again") == 6
    (engine,) = json.loads((folder / "run.json").read_text())["engines"]
    assert engine["replicas"] == "2"
    assert engine["ray"]


def test_doctor_says_what_fits_and_times_one_call() -> None:
    found = json.loads(ran("doctor", *HERE, "--json"))
    assert found["tokens"] > 0
    assert found["call_seconds"] > 0
    assert "fits" in found["facts"]
    assert found["facts"]["device"]
