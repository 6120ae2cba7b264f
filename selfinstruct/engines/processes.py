"""A copy of a model in a process of its own on this machine, behind a pipe, in a session that no Ctrl-C reaches."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from selfinstruct.engines import Options, Reply, Request
from selfinstruct.engines.workers import Lost, Opened, answered, line, opened, parts, written

CLOSE = 6.0
"""Seconds that a process may take to end of its own accord."""
LAST_WORDS = 40
"""Lines of what it wrote that are shown if it ends by itself."""
LONGEST = 1 << 30
"""Bytes of one line in the pipe."""
LOOK = 0.5
"""Seconds between two looks at whether a process is alive. Its end of the pipe may outlive it in its children."""

log = logging.getLogger("selfinstruct")


class Process:
    """The process and our end of the pipe."""

    def __init__(
        self, name: str, options: Options, environment: Mapping[str, str], warn: Callable[[str], None] = log.warning
    ) -> None:
        self.facts: dict[str, str] = {}
        self._name, self._options, self._environment, self._warn = name, options, environment, warn
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._said = bytearray()
        self._ending = False

    async def open(self) -> Opened:
        loop = asyncio.get_running_loop()
        self._gone: asyncio.Future[Lost] = loop.create_future()
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LONGEST)
        heard, told = os.pipe()
        said = asyncio.StreamReader()
        self._output, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(said), os.fdopen(heard, "rb", 0)
        )
        try:
            self._process = self._started(theirs, told)
        except OSError as error:
            self._writer.close()
            self._output.close()
            raise Lost(f"no process could be started: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(told)
        self._hearing = asyncio.create_task(self._hear(said))
        self._tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._watch())]
        answer = await self._exchange(
            0, "open", json.dumps({"name": self._name, "options": self._options.model_dump()})
        )
        open_now = opened(answer)
        self.facts = open_now.facts
        return open_now

    async def complete(self, request: Request) -> Reply:
        answer = await self._exchange(next(self._numbers), "ask", written(request))
        try:
            return answered(answer, self.facts)
        except Lost as lost:  # the process lives, and its engine does not
            self._end(lost)
            raise

    async def gone(self) -> Lost:
        return (await asyncio.shield(self._gone)).anew()

    async def close(self) -> None:
        """Let it end; within seconds it is made to."""
        process = self._process
        if process is None:
            return
        self._end(Lost("it was closed"))
        for task in self._tasks:
            task.cancel()
        self._writer.close()
        await self._ended(CLOSE)
        await asyncio.to_thread(_sweep, process)
        self._hearing.cancel()
        self._output.close()
        await asyncio.gather(*self._tasks, self._hearing, return_exceptions=True)
        self._process = None

    def _started(self, pipe: socket.socket, said: int) -> subprocess.Popen[bytes]:
        # What can be imported here can be there; -P: and not what lies in the folder besides.
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "selfinstruct.engines.workers", str(pipe.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=[pipe.fileno()],
            start_new_session=True,
            env={**os.environ, **self._environment, "PYTHONPATH": path},
        )

    async def _exchange(self, number: int, verb: str, content: str) -> str:
        if self._ending:
            raise await self.gone()
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._writer.write(line(verb, number, content))
        try:
            return await answer
        except asyncio.CancelledError:
            if not self._ending:
                self._writer.write(line("cancel", number))
            raise
        finally:
            del self._waiting[number]

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while (read := await reader.readline()).endswith(b"\n"):  # what broke off is no answer
                verb, number, content = parts(read)
                if verb == "warning":
                    self._warn(json.loads(content))
                elif number in self._waiting and not self._waiting[number].done():
                    self._waiting[number].set_result(content)
        await self._die()

    async def _watch(self) -> None:
        assert self._process is not None
        while self._process.poll() is None:  # noqa: ASYNC110 -- no event tells, and a thread for each is more
            await asyncio.sleep(LOOK)
        await self._die()

    async def _hear(self, said: asyncio.StreamReader) -> None:
        while some := await said.read(1 << 16):
            self._said += some
            del self._said[: -(1 << 16)]

    async def _die(self) -> None:
        """It ended, or closed its end of the pipe, and nobody told it to."""
        self._ending = True
        assert self._process is not None
        await self._ended(1.0)
        _kill(self._process)
        await asyncio.wait([self._hearing], timeout=0.5)
        status = await asyncio.to_thread(self._process.wait)
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        lines = self._said.decode("utf-8", "replace").replace("\r", "\n").splitlines()
        self._end(Lost(how, "\n".join([one for one in lines if one.strip()][-LAST_WORDS:])))

    def _end(self, lost: Lost) -> None:
        self._ending = True
        if not self._gone.done():
            self._gone.set_result(lost)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(lost.anew())

    async def _ended(self, seconds: float) -> None:
        assert self._process is not None
        until = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < until:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _sweep(process: subprocess.Popen[bytes]) -> None:
    """What the process left behind has a moment to end, if the process ended well."""
    until = time.monotonic() + (1.0 if process.poll() is not None else 0.0)
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.02)
    _kill(process)
    process.wait()
