"""Serve the demo model over HTTP on loopback with llama.cpp's own server, to try the `openai/` engine against.

.venv/bin/python benchmarks/serve_demo.py --port 8080
selfinstruct generate --model openai/smollm2 --base-url http://127.0.0.1:8080/v1 --style prefill --set small=yes
"""

from __future__ import annotations

import argparse
import os
import sys
import threading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--slots", type=int, default=4)
    options = parser.parse_args()

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp

    from selfinstruct.engines import Options
    from selfinstruct.engines.local import open_local

    model = open_local("", Options(concurrency=options.slots))
    params = xllamacpp.CommonParams()
    params.model.path = str(model.path)
    params.n_parallel = options.slots
    params.n_ctx = 4096 * options.slots
    params.cache_ram_mib = 2048
    params.verbosity = -1
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}/v1\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
