"""Real processes, killed: a folder survives SIGKILL at any moment, and SIGTERM and Ctrl-C leave in order.

``SELFINSTRUCT_KILLS=100 pytest tests/test_chaos.py`` kills more often.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from runfolders import (
    ROOT,
    SCRIPTS,
    SEEDS,
    dataset,
    finish,
    found,
    is_prefix,
    plan,
    replies,
    stored_keys,
    told,
    watched,
)

from selfinstruct.journal import Journal
from selfinstruct.recipe import Recipe
from selfinstruct.replaying import replay, verify

KILLS = int(os.environ.get("SELFINSTRUCT_KILLS", "12"))
MODEL = f"scripted/{SCRIPTS / 'unhurried.toml'}"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")


def command(folder: Path, recipe: str, num: int, model: str) -> list[str]:
    run = [sys.executable, "-m", "selfinstruct"]
    if recipe == "answer":
        run += ["answer", str(folder.parent / "source.jsonl")]
    elif recipe.startswith("evolve/"):
        run += [
            "evolve",
            str(folder.parent / "source.jsonl"),
            "--preset",
            recipe.removeprefix("evolve/"),
            "--rounds",
            "3",
        ]
    else:
        run += ["generate", "--seeds", str(SEEDS), "--recipe", recipe, "--num", str(num)]
    return [*run, "--model", model, "--out", str(folder)]


@contextmanager
def process(folder: Path, recipe: str, num: int, model: str = MODEL) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command(folder, recipe, num, model), cwd=ROOT, text=True, **pipes)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def expected(folder: Path, recipe: Recipe) -> dict[str, bytes]:
    """What nobody interrupted."""
    finish(folder, recipe, watched(recipe, concurrency=64))
    return found(folder)


def until(true: Any, child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not true() and child.poll() is None:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)


def right(folder: Path) -> bool:
    return all(finding.right for finding in verify(folder))


def killed(folder: Path, name: str, num: int, random: Random) -> bool:
    """Go on and be killed: mostly in the middle of the work, now and then at any moment. False where it got done."""
    have = replies(folder)
    with process(folder, name, num) as child:
        if random.random() < 0.2:
            time.sleep(random.uniform(0.2, 1.2))
        else:
            until(lambda: replies(folder) > have, child)
            time.sleep(random.expovariate(4))
        return child.poll() is None


def begun(folder: Path) -> bool:
    if not (folder / "journal.sqlite").exists():
        return False
    with closing(Journal(folder / "journal.sqlite", read_only=True)) as journal:
        return "recipe" in journal.inputs()


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Runs of every kind, each killed a few times and then resumed to its end, until all kills are spent."""
    random = Random(int(os.environ.get("SELFINSTRUCT_CHAOS", "1")))
    kinds = itertools.cycle([("self-instruct", 60), ("alpaca", 250), ("answer", 100), ("evolve/wizardlm", 100)])
    homes = (tmp_path / str(number) for number in itertools.count())
    whole: dict[str, dict[str, bytes]] = {}
    spent = inside = 0
    while spent < KILLS or len(whole) < 4:
        name, num = next(kinds)
        recipe = plan(name, num=num, script="unhurried")
        home = next(homes)
        home.mkdir()
        dataset(home, 150)
        folder = home / "run"
        if name not in whole:
            whole[name] = expected(home / "whole", recipe)
        stored: set[str] = set()
        while spent < KILLS and random.random() < 0.75 and killed(folder, name, num, random):
            spent += 1
            if begun(folder):
                assert stored <= set(stored_keys(folder)), "a stored reply was lost"
                stored = set(stored_keys(folder))
                inside += bool(stored)
                lines = {path: content[: content.rfind(b"\n") + 1] for path, content in found(folder).items()}
                assert is_prefix(lines, whole[name])
                assert right(folder)
        engine = watched(recipe, concurrency=8)
        finish(folder, recipe, engine)
        assert not set(engine.keys) & stored, "asked for again, though its reply was stored"
        assert found(folder) == whole[name]
        assert right(folder)
        assert not list(folder.rglob("*.part"))
        replay(folder, [], home / "again")
        assert found(home / "again") == whole[name]
    assert inside > KILLS // 2, "most kills came before or after the work"


def test_a_killed_run_is_behind_not_wrong_and_says_who_held_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with process(folder, "self-instruct", 500) as child:
        until(lambda: replies(folder) > 40, child)
        killed = child.pid
    assert told(folder)["state"] == "running"
    findings = verify(folder)
    assert all(finding.right for finding in findings)
    assert any("behind" in finding.figures for finding in findings)
    with process(folder, "self-instruct", 500) as child:
        until(lambda: replies(folder) > 60, child)
        child.terminate()
        assert f"taking over from process {killed}" in child.communicate(timeout=30)[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_what_is_under_way_and_the_run_goes_on_later(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    folder, recipe = tmp_path / "run", plan(num=150, script="unhurried")
    whole = expected(tmp_path / "whole", recipe)
    with process(folder, "self-instruct", 150) as child:
        until(lambda: replies(folder) > 20, child)
        child.send_signal(number)
        _, said = child.communicate(timeout=30)
        assert child.returncode == code
    assert "stopping when the requests under way have arrived" in said
    assert "Traceback" not in said
    assert told(folder)["state"] == "interrupted"
    assert told(folder)["uncertain"] == 0, "a request under way was not waited for"
    assert not (folder / "lock").read_text()
    assert is_prefix(found(folder), whole)
    assert right(folder)
    before = stored_keys(folder)
    engine = watched(recipe, concurrency=8)
    finish(folder, recipe, engine)
    assert not set(before) & set(engine.keys)
    assert found(folder) == whole


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with process(folder, "self-instruct", 150, f"scripted/{SCRIPTS / 'stuck.toml'}") as child:
        until(lambda: replies(folder) == 15, child)
        child.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert child.poll() is None, "did not wait for what is under way"
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=5)
        assert child.returncode == 130
    assert (told(folder)["state"], told(folder)["replies"]) == ("interrupted", 15)
    assert told(folder)["uncertain"] > 0
    assert right(folder)
