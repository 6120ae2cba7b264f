"""Several processes as one engine: nobody can tell from what it answers, and any of them may be killed."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runfolders import SCRIPTS, Watched, finish, found, is_prefix, plan, run_of, told
from test_engines import REQUESTS, keeps

from selfinstruct.engines import Engine, Message, Options, Reply, Request, open_engine
from selfinstruct.engines.placing import copies, visible_gpus
from selfinstruct.engines.processes import CLOSE
from selfinstruct.engines.replicas import DEATHS, LIVES
from selfinstruct.engines.workers import answered, written
from selfinstruct.errors import EngineError, UsageError

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals"),
    pytest.mark.usefixtures("no_hang"),
]

THEIRS = '''
import asyncio, logging, os, subprocess, sys, time
from selfinstruct.engines import Reply, open_engine
from selfinstruct.errors import EngineError, UsageError

class Moody:
    """The scripted engine, which notes what it is asked, and does as some prompts say."""
    def __init__(self, rest, options):
        if rest == "silent":
            print("what happened\\\\nno memory left", file=sys.stderr)
            os._exit(3)
        if rest == "refused":
            raise EngineError("the key is refused", hint="get another")
        if rest == "elsewhere":
            raise UsageError("no such file", hint="write one")
        if rest == "slow":
            time.sleep(60)
        self.inner = open_engine(f"scripted/{rest}", options)
        self.name, self.styles, self.concurrency = f"moody/{rest}", self.inner.styles, self.inner.concurrency
        self.small, self.dead = True, False

    async def complete(self, request):
        prompt = request.prompt or ""
        with open(os.environ["MOODY"], "a") as log:
            print(os.getpid(), prompt.replace("\\\\n", " ")[:60], file=log)
        verb, _, rest = prompt.partition(" ")
        if verb == "pid":
            return Reply(text=str(os.getpid()))
        if verb == "look":
            return Reply(text=os.environ.get(rest, "unset"))
        if verb == "child":
            return Reply(text=str(subprocess.Popen(["sleep", "300"]).pid))
        if verb == "warn":
            logging.getLogger("selfinstruct").warning("the server is slow")
        if verb == "die":
            await asyncio.sleep(0.05)
            print("out of patience", file=sys.stderr, flush=True)
            os._exit(7)
        if verb == "fail":
            raise EngineError("the key expired", hint="renew it")
        if verb == "perish":
            self.dead = True
            raise EngineError("the core died", hint="a smaller batch")
        if verb == "half":
            os.write(int(sys.argv[1]), f'answer {rest} {{"reply": {{"text": "ha'.encode())
            os._exit(8)
        if verb == "bug":
            raise ValueError("a bug")
        if verb == "wait":
            try:
                await asyncio.sleep(float(rest))
            except asyncio.CancelledError:
                with open(os.environ["MOODY"], "a") as log:
                    print("cancelled", file=log)
                raise
        return await self.inner.complete(request)

    def facts(self):
        return {**self.inner.facts(), "place": os.environ.get("CUDA_VISIBLE_DEVICES", "")}

    async def close(self):
        await self.inner.close()
'''
PLAIN = f"moody/{SCRIPTS / 'plain.toml'}"


@pytest.fixture
def moody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third party's engine, as pip would have installed it, and the file in which it notes what it is asked."""
    folder = tmp_path / "site"
    info = folder / "moody-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "moody.py").write_text(THEIRS.replace("\\\\", "\\"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[selfinstruct.engines]\nmoody = moody:Moody\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("MOODY", str(tmp_path / "asked.txt"))
    return tmp_path / "asked.txt"


def workers(of: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes of engines that this one started."""
    found = []
    for child in (of or psutil.Process()).children():
        with suppress(psutil.NoSuchProcess):
            if "selfinstruct.engines.workers" in child.cmdline():
                found.append(child)
    return sorted(found, key=lambda child: child.pid)


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.02)


def dead(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


@asynccontextmanager
async def opened(name: str, replicas: int = 2, **more: Any) -> AsyncIterator[Engine]:
    engine = open_engine(name, Options(replicas=replicas, **more))
    try:
        yield engine
    finally:
        await engine.close()
        assert not workers()


def ask(engine: Engine, prompt: str) -> asyncio.Task[Reply]:
    return asyncio.ensure_future(engine.complete(Request(prompt=prompt)))


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    yield
    for left in workers():
        left.kill()
        raise AssertionError(f"{left} outlived its test")


# What it answers.


def test_it_keeps_the_contract_and_answers_as_one_engine_does() -> None:
    name = f"scripted/{SCRIPTS / 'plain.toml'}"

    async def main() -> None:
        alone = open_engine(name, Options(concurrency=7))
        async with opened(name, 3, concurrency=7) as engine:
            assert isinstance(engine, Engine)
            assert (engine.name, engine.styles, engine.concurrency) == (alone.name, alone.styles, 7)
            assert engine.facts() == {**alone.facts(), "replicas": "3"}
            assert len(workers()) == 3
            for style in ("completion", "chat", "prefill"):
                keeps(await engine.complete(REQUESTS[style]), REQUESTS[style])
            asked = [Request(prompt=f"{n}", seed=n) for n in range(40)]
            together = await asyncio.gather(*map(engine.complete, asked))
            assert together == [await alone.complete(request) for request in asked]
            await engine.close()
            with pytest.raises(EngineError, match="closed"):
                await engine.complete(asked[0])

    asyncio.run(main())


def test_it_may_be_used_from_one_event_loop_after_another() -> None:
    engine = open_engine(f"scripted/{SCRIPTS / 'plain.toml'}", Options(replicas=2))
    first = asyncio.run(engine.complete(REQUESTS["chat"]))
    assert asyncio.run(engine.complete(REQUESTS["chat"])) == first
    asyncio.run(engine.close())
    asyncio.run(engine.close())


TEXTS = st.text(st.characters(exclude_categories=()))
NUMBERS = st.none() | st.floats(allow_nan=False)


@given(TEXTS, TEXTS, NUMBERS, st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS | st.lists(TEXTS)))
def test_a_request_goes_over_the_wire_whole(
    prompt: str, said: str, number: float | None, extra: dict[str, Any]
) -> None:
    for request in (
        Request(prompt=prompt, prefill=said, extra=extra, json_schema=extra, seed=1, samples=3),
        Request(messages=(Message(role="user", content=said),), sampling={"top_p": number, "stop": (said,)}),
    ):
        line = written(request)
        assert line.isascii()
        assert "\n" not in line
        assert Request.model_validate(json.loads(line)) == request


@given(TEXTS, st.dictionaries(TEXTS, st.floats(allow_nan=False)))
def test_a_reply_comes_over_the_wire_whole(text: str, first: dict[str, float]) -> None:
    reply = Reply(text=text, more=({"text": text, "finish": "length"},), first_token={**first, "no": -math.inf})
    assert answered(json.dumps({"reply": json.loads(written(reply))}), {}) == reply


@given(st.dictionaries(TEXTS, TEXTS, max_size=3), st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=3))
def test_facts_that_change_are_never_missing_meanwhile(before: dict[str, str], after: dict[str, str]) -> None:
    class Seen(dict[str, str]):
        def clear(self) -> None:
            raise AssertionError("somebody may look now")

    facts = Seen(before)
    answered(json.dumps({"reply": {}, "facts": after}), facts)
    assert facts == after


def test_the_least_busy_one_is_asked(moody: Path) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            slow = ask(engine, "wait 30")
            await asyncio.sleep(0.1)
            quick = [(await ask(engine, "pid")).text for _ in range(6)]
            assert len(set(quick)) == 1
            slow.cancel()
            one_by_one = [(await ask(engine, "pid")).text for _ in range(10)]
            assert len(set(one_by_one)) == 2

    asyncio.run(main())


# Runs.


def test_a_run_has_the_same_bytes_with_one_and_with_three_and_one_resumes_the_other(tmp_path: Path) -> None:
    recipe = plan("self-instruct", num=30)
    finish(tmp_path / "one", recipe)
    finish(tmp_path / "three", recipe, options=Options(replicas=3))
    assert found(tmp_path / "three") == found(tmp_path / "one")
    assert not workers()
    assert told(tmp_path / "three")["engines"][0]["replicas"] == "3"

    def outage() -> None:
        raise EngineError("the power went")

    with pytest.raises(EngineError, match="the power went"):
        finish(tmp_path / "both", recipe, Watched(recipe.model, at=40, strike=outage))
    assert not is_prefix(found(tmp_path / "one"), found(tmp_path / "both"))
    last = finish(tmp_path / "both", recipe, options=Options(replicas=2))
    assert last.reused > 0
    assert last.arrived > 0
    assert found(tmp_path / "both") == found(tmp_path / "one")


def striking(model: str, replicas: int, at: int, strike: Callable[[], None]) -> Watched:
    """Replicas that something happens to at the call of that number."""
    engine = Watched(model, at=at, strike=strike)
    engine.inner = open_engine(model, Options(replicas=replicas, concurrency=engine.concurrency))
    return engine


def test_a_killed_worker_costs_only_its_requests_in_flight(
    tmp_path: Path, moody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = plan("self-instruct", num=30, model=f"moody/{SCRIPTS / 'unhurried.toml'}")
    finish(tmp_path / "whole", recipe)
    moody.unlink()
    engine = striking(recipe.model, 3, 60, lambda: workers()[1].kill())
    finish(tmp_path / "struck", recipe, engine)
    lost = [record.getMessage() for record in caplog.records if "lost replica" in record.getMessage()]
    asyncio.run(engine.close())

    assert found(tmp_path / "struck") == found(tmp_path / "whole")
    (warning,) = lost
    assert "killed by SIGKILL" in warning
    again = int(warning.rpartition(": ")[2])
    asked = moody.read_text().splitlines()
    # What was on its way to the one that died was perhaps never read there.
    assert 1 <= again <= 16 / 3 + 2
    assert len(engine.asked) < len(asked) + 1 <= len(engine.asked) + again + 1
    assert told(tmp_path / "struck")["uncertain"] == 0


def test_when_all_are_killed_over_and_over_the_run_stops_and_can_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = plan("self-instruct", num=60, script="unhurried")
    run = run_of(tmp_path / "run", recipe, options=Options(replicas=2))
    killed: set[int] = set()
    with pytest.raises(EngineError, match="every replica is lost") as caught:
        for progress in run:
            if progress.arrived > 10:
                for worker in workers():
                    killed.add(worker.pid)
                    worker.kill()
    assert "killed by SIGKILL" in caught.value.message
    assert caught.value.hint
    assert len(killed) == 2 * LIVES
    assert not workers()
    last = finish(tmp_path / "run", recipe)
    assert last.kept == 60
    assert last.reused > 10


# Losses.


def test_a_lost_one_is_told_of_with_its_last_words_and_replaced(moody: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            before = [worker.pid for worker in workers()]
            workers()[0].kill()  # while it has nothing to do
            until(lambda: caplog.records)
            await asyncio.sleep(0)
            until(lambda: len(workers()) == 2)
            assert {worker.pid for worker in workers()} != set(before)
            assert "now asked again: 0" in caplog.text
            replies = await asyncio.gather(*(ask(engine, "hello") for _ in range(8)))
            assert all(reply.error is None for reply in replies)

    asyncio.run(main())


def test_a_request_that_kills_whoever_reads_it_is_given_up_and_those_beside_it_are_not(
    moody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            poison = ask(engine, "die")
            beside = [ask(engine, f"wait {0.01 * n}") for n in range(20)]
            reply = await poison
            assert reply.error is not None
            assert reply.error.kind == "gave_up"
            assert all(reply.error is None for reply in await asyncio.gather(*beside))

    asyncio.run(main())
    assert moody.read_text().count("die") == DEATHS
    assert caplog.text.count("lost replica") == DEATHS
    assert "exit status 7" in caplog.text
    assert "its last words: out of patience" in caplog.text


def test_an_engine_that_says_it_is_dead_counts_as_lost(moody: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            reply = await ask(engine, "perish")
            assert reply.error is not None
            assert reply.error.kind == "gave_up"
            assert (await ask(engine, "hello")).error is None
            until(lambda: caplog.text.count(": the core died; ") == DEATHS)

    asyncio.run(main())


def test_an_answer_that_breaks_off_with_its_worker_is_none(moody: Path) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            reply = await ask(engine, "half 1")  # the first that each copy is asked
            assert reply.error is not None
            assert reply.error.kind == "gave_up"
            assert (await ask(engine, "hello")).error is None

    asyncio.run(main())


def test_what_the_last_one_said_to_do_is_not_lost_with_it(moody: Path) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            for _ in range(2 * LIVES // DEATHS):
                assert (await ask(engine, "perish")).error is not None
            with pytest.raises(EngineError, match="every replica is lost, the last one so: the core died") as caught:
                await ask(engine, "perish")
            assert caught.value.hint.endswith("; a smaller batch")

    asyncio.run(main())


def test_where_no_process_can_be_started_any_more_nobody_waits_for_one(moody: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        async with opened(PLAIN) as engine:
            there = workers()
            assert (await ask(engine, "hello")).error is None
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                for worker in there:
                    os.kill(worker.pid, signal.SIGKILL)
                with pytest.raises(EngineError, match="every replica is lost"):
                    await asyncio.wait_for(ask(engine, "hello"), 20)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    asyncio.run(main())


def test_what_the_engine_itself_raises_is_raised_here(moody: Path) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            with pytest.raises(EngineError, match="the key expired") as caught:
                await ask(engine, "fail")
            assert caught.value.hint == "renew it"
            with pytest.raises(RuntimeError, match="ValueError: a bug"):
                await ask(engine, "bug")
            assert (await ask(engine, "hello")).error is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("rest", "kind", "message", "hint"),
    [
        ("refused", EngineError, "the key is refused", "get another"),
        ("elsewhere", UsageError, "no such file", "write one"),
        ("silent", EngineError, "exit status 3\n  what happened\n  no memory left", "doctor"),
    ],
)
def test_an_engine_that_does_not_open_is_refused_as_it_says(
    moody: Path, rest: str, kind: type[EngineError], message: str, hint: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        open_engine(f"moody/{rest}", Options(replicas=2))
    assert hint in caught.value.hint


def test_warnings_come_through_once(moody: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            await asyncio.gather(*(ask(engine, "warn") for _ in range(6)))
            until(lambda: caplog.records)
            await asyncio.sleep(0.2)

    asyncio.run(main())
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "the server is slow")
    ]


def test_facts_that_differ_are_all_told_and_it_is_as_small_as_its_engines(
    moody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc,6,7,9")

    async def main() -> None:
        async with opened(PLAIN, tensor_parallel=2) as engine:
            assert engine.facts()["place"] == "4,GPU-abc, 6,7"
            assert engine.facts()["script"].endswith("plain.toml")
            assert getattr(engine, "small", False)
            seen = await asyncio.gather(*(ask(engine, "look CUDA_VISIBLE_DEVICES") for _ in range(2)))
            assert {reply.text for reply in seen} == {"4,GPU-abc", "6,7"}

    asyncio.run(main())


# Ending.


def test_a_cancelled_request_is_cancelled_where_it_runs(moody: Path) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            asked = ask(engine, "wait 60")
            await asyncio.sleep(0)
            until(moody.exists)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            until(lambda: "cancelled" in moody.read_text())
            assert (await ask(engine, "hello")).error is None

    asyncio.run(main())


def test_it_closes_within_seconds_though_a_worker_hangs_and_nothing_becomes_a_reply(moody: Path) -> None:
    async def main() -> None:
        engine = open_engine(PLAIN, Options(replicas=2))
        asked = [ask(engine, "wait 60") for _ in range(4)]
        child = int((await ask(engine, "child")).text)
        await asyncio.sleep(0.1)
        workers()[0].suspend()
        started = time.monotonic()
        await asyncio.gather(engine.close(), engine.close())
        assert time.monotonic() - started < CLOSE + 3
        assert not workers()
        until(lambda: dead(child))
        assert all(isinstance(end, EngineError) for end in await asyncio.gather(*asked, return_exceptions=True))

    asyncio.run(main())


def test_a_lost_workers_children_go_with_it(moody: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened(PLAIN) as engine:
            child = int((await ask(engine, "child")).text)
            parent = psutil.Process(child).ppid()
            os.kill(parent, signal.SIGKILL)
            until(lambda: dead(child))
            until(lambda: "killed by SIGKILL" in caplog.text)

    asyncio.run(main())


COORDINATOR = """
import asyncio, sys
from selfinstruct.engines import Options, Request, open_engine

async def main():
    engine = open_engine(sys.argv[1], Options(replicas=2))
    for _ in range(2):
        print((await engine.complete(Request(prompt="child"))).text, flush=True)
    await asyncio.gather(*(engine.complete(Request(prompt="wait 300")) for _ in range(4)))

asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_survives_its_coordinator(moody: Path, end: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, PLAIN],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as child:
        assert child.stdout is not None
        started = [int(child.stdout.readline()) for _ in range(2)]
        started += [worker.pid for worker in workers(psutil.Process(child.pid))]
        assert len(started) == 4
        assert not any(dead(pid) for pid in started)
        # a Ctrl-C of the terminal reaches none of them
        assert all(os.getsid(pid) != os.getsid(0) for pid in started)
        child.send_signal(end)
        child.wait(timeout=20)
    until(lambda: all(dead(pid) for pid in started))


def test_no_worker_survives_a_coordinator_that_is_killed_while_an_engine_opens(moody: Path) -> None:
    script = "import sys; from selfinstruct.engines import *; open_engine('moody/slow', Options(replicas=2))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as child:
        until(lambda: len(workers(psutil.Process(child.pid))) == 2)
        started = [worker.pid for worker in workers(psutil.Process(child.pid))]
        time.sleep(0.5)
        child.kill()
        child.wait(timeout=20)
    until(lambda: all(dead(pid) for pid in started))


# Where they run.


@given(st.integers(1, 9), st.integers(1, 60))
def test_requests_under_way_are_shared_out_evenly(number: int, total: int) -> None:
    from selfinstruct.engines.placing import _shares

    shares = [share.concurrency or 0 for share in _shares(Options(concurrency=total, replicas=number), number)]
    assert sum(shares) == max(total, number)
    assert max(shares) - min(shares) <= 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="nobody knows the cores")
@given(st.integers(1, 5), st.integers(1, 3))
def test_every_core_is_given_to_one_of_vllms_processes(number: int, each: int) -> None:
    from selfinstruct.engines.placing import _core_shares

    cores = os.sched_getaffinity(0)
    shares = [share.get("VLLM_CPU_OMP_THREADS_BIND") for share in _core_shares(number, each)]
    if number == 1 or len(cores) < number * each:
        assert shares == [None] * number
        return
    ranks = [rank.split(",") for share in shares if share for rank in share.split("|")]
    assert len(ranks) == number * each
    assert sorted(int(core) for rank in ranks for core in rank) == sorted(cores)


@pytest.mark.parametrize(
    ("given", "seen"), [("", []), ("-1", []), ("0", ["0"]), ("2,5", ["2", "5"]), ("GPU-8a,1,-1,3", ["GPU-8a", "1"])]
)
def test_visible_gpus_are_those_that_cuda_would_see(
    monkeypatch: pytest.MonkeyPatch, given: str, seen: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == seen


def test_without_that_variable_the_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g.5gb'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ["0", "1"]
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert visible_gpus() == []
    tool.unlink()
    assert visible_gpus() == []


def test_by_default_a_model_of_vllm_has_as_many_copies_as_the_gpus_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert copies("vllm/x", Options()) == 5
    assert copies("vllm/x", Options(tensor_parallel=2)) == 2
    with pytest.raises(UsageError, match=r"a replica over 8 GPUs, and 5 GPUs are visible"):
        copies("vllm/x", Options(tensor_parallel=8))
    assert copies("vllm/x", Options(replicas=1)) == 1
    assert copies("local", Options()) == 1
    with pytest.raises(UsageError, match=r"3 replicas with 2 GPUs each need 6 GPUs, and 5 GPUs are visible") as caught:
        open_engine("vllm/x", Options(replicas=3, tensor_parallel=2))
    assert caught.value.hint == "--replicas 2 fits"
    assert copies("scripted", Options(replicas=9)) == 9
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert copies("vllm/x", Options()) == 1
    assert copies("vllm/x", Options(replicas=3)) == 3


@pytest.mark.parametrize("options", [Options(replicas=0), Options(tensor_parallel=0)])
def test_fewer_than_one_is_refused(options: Options) -> None:
    with pytest.raises(UsageError, match="no less than one"):
        open_engine("scripted", options)
