"""One engine in a process of its own: opened by name, asked and answering in JSON, gone when nobody listens."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

from pydantic import Field

from selfinstruct import __version__, errors
from selfinstruct.engines import Engine, Frozen, Options, Reply, Request, Style, engine_factory
from selfinstruct.errors import SelfInstructError

GRACE = 10.0
"""Seconds in which an engine that nobody asks any more may close. Then it is killed, with all that it started."""
LOOK = 2.0
"""Seconds between two looks at an engine's facts, which may take it a while to gather."""


class Lost(Exception):
    """The engine is gone, and with it whatever was in flight. ``words`` are its process's last; ``hint`` is its own."""

    def __init__(self, how: str, words: str = "", hint: str = "") -> None:
        super().__init__(how)
        self.words, self.hint = words, hint

    def anew(self) -> Lost:
        """The same, to be raised elsewhere."""
        return Lost(str(self), self.words, self.hint)


class Opened(Frozen):
    """What an engine says of itself when it is open."""

    concurrency: int
    styles: tuple[Style, ...]
    small: bool = False
    facts: dict[str, str] = Field(default_factory=dict)


def written(model: Frozen) -> str:
    """A model as one line of JSON. Unlike pydantic's own, it holds halves of surrogate pairs and infinite numbers."""
    return json.dumps(model.model_dump(exclude_defaults=True))


def opened(answer: str) -> Opened:
    """Raises what kept the engine from opening."""
    said = json.loads(answer)
    _raise(said)
    return Opened.model_validate(said["opened"])


def answered(answer: str, facts: dict[str, str]) -> Reply:
    """The reply in an answer; facts that changed are put into ``facts``. Raises what the engine raised, or Lost."""
    said = json.loads(answer)
    _raise(said)
    if "facts" in said:
        for fact in facts.keys() - said["facts"].keys():
            del facts[fact]
        facts.update(said["facts"])  # never empty meanwhile: another thread may look
    return Reply.model_validate(said["reply"])


def _raise(said: dict[str, Any]) -> None:
    if "lost" in said:
        how, hint = said["lost"]
        raise Lost(how, hint=hint)
    if "error" in said:
        kind, message, hint = said["error"]
        raise getattr(errors, kind)(message, hint=hint)
    if "bug" in said:
        raise RuntimeError(f"in the process of an engine:\n{said['bug']}")


def _told(error: Exception) -> str:
    if isinstance(error, SelfInstructError):
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return json.dumps({"error": [kind, error.message, error.hint]})
    return json.dumps({"bug": "".join(traceback.format_exception(error))})


class Host:
    """Holds the engine. It takes and gives lines of JSON, so that it serves behind a pipe and as an actor."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._facts: dict[str, str] = {}
        self._looked = 0.0
        self._warnings: asyncio.Queue[str] = asyncio.Queue()

    async def ready(self) -> str:
        """The version, at once."""
        return __version__

    async def open(self, name: str, options: str, folder: str = "") -> str:
        """``folder``: where relative paths begin, if this machine has it."""
        log = logging.getLogger("selfinstruct")
        log.addHandler(_Warnings(self._warnings))
        log.propagate = False
        with suppress(OSError):
            os.chdir(folder or ".")
        try:
            engine = engine_factory(name)(name.partition("/")[2], Options.model_validate(json.loads(options)))
            self._facts = engine.facts()
        except Exception as error:  # noqa: BLE001 -- it is raised again where the answer is read
            return _told(error)
        self._engine = engine
        told = Opened(
            concurrency=engine.concurrency,
            styles=engine.styles,
            small=getattr(engine, "small", False),
            facts=self._facts,
        )
        return json.dumps({"opened": told.model_dump()})

    async def ask(self, request: str) -> str:
        engine = self._engine
        assert engine is not None
        try:
            reply = await engine.complete(Request.model_validate(json.loads(request)))
        except Exception as error:  # noqa: BLE001 -- it is raised again where the answer is read
            if getattr(engine, "dead", False):
                return json.dumps({"lost": [str(error), getattr(error, "hint", "")]})
            return _told(error)
        answer: dict[str, Any] = {"reply": reply.model_dump(exclude_defaults=True)}
        if time.monotonic() - self._looked > LOOK:
            facts, self._looked = engine.facts(), time.monotonic()
            if facts != self._facts:
                answer["facts"] = self._facts = facts
        return json.dumps(answer)

    async def warning(self) -> str:
        """The next one, when it comes."""
        return await self._warnings.get()

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()


class _Warnings(logging.Handler):
    """Puts what a person should know into a queue, from any thread."""

    def __init__(self, lines: asyncio.Queue[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(RuntimeError):  # the loop is closed, and so is the engine
            self._loop.call_soon_threadsafe(self._lines.put_nowait, record.getMessage())


# The pipe. Each line is a verb, the number of a request (or 0), and JSON or nothing. The coordinator says `open`, `ask`
# and `cancel`, the worker `opened`, `answer` and `warning`. When the coordinator's end is closed, on purpose or by its
# death, the worker ends.


def line(verb: str, number: int = 0, content: str = "") -> bytes:
    return f"{verb} {number} {content}\n".encode("ascii")


def parts(read: bytes) -> tuple[str, int, str]:
    verb, number, content = read.decode("ascii").rstrip("\n").split(" ", 2)
    return verb, int(number), content


class _Worker:
    """The process's end of the pipe."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._host = Host()
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._opened = False

    async def serve(self) -> None:
        # In a thread, which sees the end of the pipe even while an engine takes minutes to open, or hangs.
        listening = threading.Thread(target=self._listen, args=(asyncio.get_running_loop(),), daemon=True)
        listening.start()
        warning = asyncio.create_task(self._warn())
        while read := await self._lines.get():
            verb, number, content = parts(read)
            if verb == "open":
                asked = json.loads(content)
                answer = await self._host.open(asked["name"], json.dumps(asked["options"]))
                self._opened = True
                self._say("opened", 0, answer)
            elif verb == "ask":
                self._asked[number] = asyncio.create_task(self._answer(number, content))
            elif number in self._asked:
                self._asked[number].cancel()
        under_way = [warning, *self._asked.values()]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._host.close()

    async def _answer(self, number: int, request: str) -> None:
        try:
            self._say("answer", number, await self._host.ask(request))
        finally:
            del self._asked[number]

    async def _warn(self) -> None:
        while True:
            self._say("warning", 0, json.dumps(await self._host.warning()))

    def _say(self, verb: str, number: int, content: str) -> None:
        with suppress(ConnectionError):  # nobody is there any more; the end of the pipe says so, too
            self._pipe.sendall(line(verb, number, content))

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(ConnectionError), self._pipe.makefile("rb") as lines:
            for read in lines:
                loop.call_soon_threadsafe(self._lines.put_nowait, read)
        loop.call_soon_threadsafe(self._lines.put_nowait, b"")
        if self._opened:  # else there is nothing to close, and no knowing for how long it would go on opening
            time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)


async def _serve(pipe: socket.socket) -> None:
    await _Worker(pipe).serve()


def main() -> None:
    """Serve the socket whose number is the argument. The process leads a group of its own."""
    pipe = socket.socket(fileno=int(sys.argv[1]))
    pipe.set_inheritable(False)
    asyncio.run(_serve(pipe))
    # Whatever the engine started and did not end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    main()
