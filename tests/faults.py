"""A loopback HTTP server that speaks like OpenAI's and misbehaves as told: for tests, standard library only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the server does with one request."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    delay: float = 0.0
    truncate: int | None = None
    """Send so many bytes of the body, under the full length, and hang up."""
    reset: bool = False
    """Drop the connection with a TCP reset, no byte sent."""
    silent: bool = False
    """Never answer."""


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any = None


Behaviour = Answer | Callable[[Seen], Answer]

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


def answer(payload: Any, status: int = 200, *, delay: float = 0.0, **headers: str) -> Answer:
    """JSON with a status; keyword headers have underscores for dashes: ``retry_after="2"``."""
    named = (("content-type", "application/json"), *((k.replace("_", "-"), v) for k, v in headers.items()))
    return Answer(status=status, body=json.dumps(payload).encode(), headers=named, delay=delay)


def error(
    status: int, message: str, *, delay: float = 0.0, headers: dict[str, str] | None = None, **more: Any
) -> Answer:
    """An error as OpenAI writes it; ``more`` goes into the error object (code, param, type)."""
    return answer({"error": {"message": message, **more}}, status, delay=delay, **(headers or {}))


def chat(text: str | None = "hello", *, finish: str | None = "stop", delay: float = 0.0, **more: Any) -> Answer:
    """A chat completion. ``message`` and ``choice`` add to those objects, everything else to the top."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": finish, **more.pop("choice", {})}
    return answer({"object": "chat.completion", "model": "served", "choices": [choice], **more}, delay=delay)


def completion(text: str = "hello", *, finish: str | None = "stop", **more: Any) -> Answer:
    """A text completion."""
    choice = {"index": 0, "text": text, "finish_reason": finish, **more.pop("choice", {})}
    return answer({"object": "text_completion", "model": "served", "choices": [choice], **more})


@dataclass
class FaultServer:
    """``async with FaultServer(error(500, "no"), chat("yes")) as server``: answers in that order, then ``always``.

    A behaviour is an Answer, or a function from the request to one.
    """

    script: list[Behaviour]
    always: Behaviour
    models: Behaviour
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    """Every POST, in order of arrival."""
    listed: int = 0
    """GET /v1/models so far."""
    in_flight: int = 0
    most_in_flight: int = 0

    def __init__(
        self,
        *script: Behaviour,
        always: Behaviour | None = None,
        models: Iterable[str] | Behaviour = ("served",),
        port: int = 0,
    ) -> None:
        self.script = list(script)
        self.always = always or chat()
        if not isinstance(models, Answer) and not callable(models):
            models = answer({"object": "list", "data": [{"id": name, "object": "model"} for name in models]})
        self.models = models
        self.port = port
        self.seen = []
        self.listed = self.in_flight = self.most_in_flight = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [seen.body for seen in self.seen]

    async def busy(self, requests: int) -> None:
        """Waits until so many requests are in flight."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.in_flight >= requests)

    async def __aenter__(self) -> FaultServer:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # a client that goes away, and the end of the test, are no news
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False when the connection is over."""
        seen = await self._read(reader)
        if seen.method == "POST":
            self.seen.append(seen)
            behaviour = self.script.pop(0) if self.script else self.always
        else:
            self.listed += 1
            behaviour = self.models
        act = behaviour if isinstance(behaviour, Answer) else behaviour(seen)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        async with self._arrived:
            self._arrived.notify_all()
        try:
            await asyncio.sleep(act.delay)
            if act.silent:
                await asyncio.Event().wait()
        finally:
            self.in_flight -= 1
        if act.reset:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        head = [f"HTTP/1.1 {act.status} {REASONS.get(act.status, 'Status')}", f"content-length: {len(act.body)}"]
        head += [f"{name}: {value}" for name, value in act.headers]
        writer.write("\r\n".join([*head, "", ""]).encode() + act.body[: act.truncate])
        await writer.drain()
        return act.truncate is None

    async def _read(self, reader: asyncio.StreamReader) -> Seen:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        return Seen(method, path, headers, json.loads(raw) if raw else None)
