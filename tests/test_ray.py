"""Copies of a model as actors of a Ray cluster; here it is one on this machine, with two cores."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from runfolders import SCRIPTS, Watched, finish, found, plan, told
from test_engines import REQUESTS, keeps

from selfinstruct.engines import Engine, Options, Request, open_engine
from selfinstruct.errors import EngineError, UsageError

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install 'selfinstruct[ray]'")
pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster that was there before us."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()


NAME = f"scripted/{SCRIPTS / 'plain.toml'}"


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.05)


def hosts() -> list[psutil.Process]:
    """The processes of actors that hold an engine."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("ray::Host" in word for word in child.cmdline()):
                found.append(child)
    return found


OWN = """
import asyncio, sys, time
from selfinstruct.engines import Options, Request, open_engine
from selfinstruct.errors import EngineError

async def main():
    import ray
    engines = [open_engine(sys.argv[1], Options(ray="local")) for _ in range(2)]
    for engine in engines:
        assert (await engine.complete(Request(prompt="x"))).text
    await engines[0].close()
    assert (await engines[1].complete(Request(prompt="x"))).text
    await engines[1].close()
    assert not ray.is_initialized()

asyncio.run(main())
started = time.monotonic()
try:
    open_engine(sys.argv[1], Options(ray="127.0.0.1:9"))
except EngineError as error:
    assert "no Ray cluster answers" in error.message
    assert "ray start" in error.hint
    assert time.monotonic() - started < 15
    sys.exit(42)
"""


@needs_ray
def test_a_cluster_of_our_own_ends_with_the_last_engine_and_nothing_is_said() -> None:
    script = [sys.executable, "-W", "error", "-c", OWN, NAME]
    done = subprocess.run(script, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (42, "", "")


@needs_ray
def test_it_keeps_the_contract_and_answers_as_one_engine_does(ray: Any) -> None:
    async def main() -> None:
        alone = open_engine(NAME, Options(concurrency=7))
        engine = open_engine(NAME, Options(replicas=2, ray="auto", concurrency=7))
        try:
            assert isinstance(engine, Engine)
            assert (engine.name, engine.styles, engine.concurrency) == (alone.name, alone.styles, 7)
            assert engine.facts() == {**alone.facts(), "replicas": "2", "ray": ray.__version__}
            assert len(hosts()) == 2
            for style in ("completion", "chat", "prefill"):
                keeps(await engine.complete(REQUESTS[style]), REQUESTS[style])
            asked = [Request(prompt=f"{n}\ud83d", seed=n) for n in range(40)]
            together = await asyncio.gather(*map(engine.complete, asked))
            assert together == [await alone.complete(request) for request in asked]
        finally:
            await engine.close()
            await engine.close()
        until(lambda: not hosts())
        with pytest.raises(EngineError, match="closed"):
            await engine.complete(asked[0])
        assert ray.is_initialized(), "the connection was not ours"

    asyncio.run(main())


@needs_ray
def test_a_cancelled_request_frees_its_actor_and_errors_are_raised_here(ray: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(
        '[[rule]]\nmatch = "slow"\ndelay_ms = 600000\nreply = "late"\n'
        '[[rule]]\nmatch = "expired"\nfail = "the key expired"\n'
    )

    async def main() -> None:
        engine = open_engine(f"scripted/{script}", Options(ray="auto"))
        try:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(engine.complete(Request(prompt="slow")), 0.2)
            with pytest.raises(EngineError, match="the key expired") as caught:
                await engine.complete(Request(prompt="expired"))
            assert "rule of the script" in caught.value.hint
            started = time.monotonic()
            late = asyncio.ensure_future(engine.complete(Request(prompt="slow")))
            await asyncio.sleep(0.1)
            await engine.close()
            assert time.monotonic() - started < 8
            with pytest.raises(EngineError, match="closed"):
                await late
        finally:
            await engine.close()

    asyncio.run(main())
    with pytest.raises(UsageError):
        open_engine("scripted/nowhere.toml", Options(ray="auto"))
    until(lambda: not hosts())


@needs_ray
@pytest.mark.parametrize("end", ["ray.kill", "SIGKILL"])
def test_a_run_loses_an_actor_and_no_byte(ray: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str) -> None:
    recipe = plan("self-instruct", num=30, script="unhurried")
    finish(tmp_path / "alone", recipe)

    def strike() -> None:
        if end == "SIGKILL":
            hosts()[0].kill()
        else:
            ray.kill(engine.inner._seats[0].replica._actor)  # type: ignore[attr-defined]

    engine = Watched(recipe.model, at=60, strike=strike)
    engine.inner = open_engine(recipe.model, Options(replicas=2, ray="auto", concurrency=engine.concurrency))
    finish(tmp_path / "struck", recipe, engine)
    (warning,) = [record.getMessage() for record in caplog.records if "lost replica" in record.getMessage()]
    asyncio.run(engine.close())
    assert found(tmp_path / "struck") == found(tmp_path / "alone")
    assert int(warning.partition("now asked again: ")[2].split(";")[0]) >= 1
    assert told(tmp_path / "struck")["uncertain"] == 0
    assert told(tmp_path / "struck")["engines"][0]["replicas"] == "2"


@needs_ray
def test_a_cluster_without_room_is_not_waited_for_for_ever(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfinstruct.engines.cluster.PLACE", 8.0)
    with pytest.raises(EngineError, match="no room for a copy in 8 s; each takes 1 CPU") as caught:
        open_engine(NAME, Options(replicas=3, ray="auto"))
    assert "--replicas" in caught.value.hint
    until(lambda: not hosts())


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_it_is_said_how_to_get_it() -> None:
    with pytest.raises(UsageError, match="Ray is not installed") as caught:
        open_engine(NAME, Options(ray="auto"))
    assert caught.value.hint == "pip install 'selfinstruct[ray]'"
