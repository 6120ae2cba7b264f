"""A third party's package, built, installed and used as its users would: by the doors that ours come in through."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from runfolders import ROOT, SEEDS, found, lines, told

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in a folder of its own; nothing is fetched, and the environment stays as it is."""
    if not (find_spec("hatchling") and find_spec("pip")):
        pytest.skip("hatchling and pip build the plugin")
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "tests" / "plugin", folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    words = [*pip, "--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert (folder / "site" / "selfinstruct_parrot-0.1.0.dist-info" / "entry_points.txt").is_file()
    return folder / "site"


@pytest.fixture
def call(installed: Path, tmp_path: Path) -> Command:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(installed), str(ROOT)])
        command = [sys.executable, "-m", "selfinstruct", *map(str, words)]
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    return run


def test_engine_operator_and_filters_of_a_plugin_make_a_run(call: Command, tmp_path: Path) -> None:
    words = (
        "generate", "--seeds", SEEDS, "--model", "parrot/polly", "--num", 30, "--out", "r", "--json", "-q",
        "--set", 'filters.draft=["length", "no-code", "calm"]', "--set", "filters.options.calm.most=2",
        "--set", "answer.operator=backwards",
    )  # fmt: skip
    said = call(*words)
    assert said.returncode == 0, said.stderr
    summary = json.loads(said.stdout)
    assert summary["kept"] == 30
    assert summary["rejected"].keys() <= {"no-code", "calm", "length"}
    assert min(summary["rejected"]["no-code"], summary["rejected"]["calm"]) > 0
    rows, origins = lines(tmp_path / "r/data/train-00000.jsonl"), lines(tmp_path / "r/lineage.jsonl")
    assert all(row["output"].split()[-1].rstrip(".") == row["instruction"].split()[0] for row in rows)
    seconds = [row["instruction"].split()[1] for row in rows]
    assert max(map(seconds.count, seconds)) <= 2
    assert {tuple(origin["remarks"]) for origin in origins} == {(), ("short",)}
    assert told(tmp_path / "r")["engines"] == [{"name": "parrot/polly", "species": "Psittacus erithacus"}]
    assert told(tmp_path / "r")["models"].keys() == {"grey parrot"}

    # What is ours by right is theirs as well: resuming, books, judging again, and the story of a reject.
    before = found(tmp_path / "r")
    assert call(*words).returncode == 0
    assert found(tmp_path / "r") == before
    assert call("verify", "r").returncode == 0
    looser = call("replay", "r", "--set", "filters.options.calm.most=500", "--out", "looser", "--json")
    assert "calm" not in json.loads(looser.stdout)["rejected"]
    reject = next(line for line in lines(tmp_path / "r/rejected.jsonl") if line["by"] == "no-code")
    assert "asks for code" in call("explain", "r", reject["name"]).stdout


def test_a_plugins_engine_is_examined_and_named_like_ours(call: Command) -> None:
    told_us = json.loads(call("doctor", "--model", "parrot/polly", "--json").stdout)
    assert told_us["facts"] == {"species": "Psittacus erithacus"}
    wrong = call("generate", "--model", "parot/polly", "--out", "r", "-q")
    assert wrong.returncode == 2
    assert "parrot" in wrong.stderr.splitlines()[-1]
    assert (
        "no-code" in call("generate", "--set", 'filters.draft=["no-cod"]', "--model", "parrot/x", "--out", "r").stderr
    )
