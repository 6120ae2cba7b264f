"""A copy of a model as an actor of a Ray cluster that is there already; Ray finds its node."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfinstruct import __version__
from selfinstruct.engines import Options, Reply, Request
from selfinstruct.engines.workers import Host, Lost, Opened, answered, opened, written
from selfinstruct.errors import EngineError, UsageError

REACH = 10.0
"""Seconds in which the cluster's address has to take a connection."""
CONNECT = 90.0
"""Seconds in which Ray has to be connected."""
PLACE = 300.0
"""Seconds in which a node with room has to be found: some clusters start one first."""
AT_ONCE = 20_000
"""Requests that an actor takes at once: more than ours, which are held back before; Ray's own number is 1,000."""
CLOSE = 5.0
"""Seconds that an actor may take to close its engine."""
HINT = (
    "is it the address that `ray start` told, and does the cluster run? `auto` finds one on this machine; "
    "one that asks for a token wants RAY_AUTH_MODE=token here, too"
)

log = logging.getLogger("selfinstruct")


class Cluster:
    """The connection. It is shared by all engines of this process, and left by the last of them, unless somebody else
    had made it."""

    _users = 0
    _ours: _Connection | None = None
    _lock = threading.Lock()

    def __init__(self, address: str) -> None:
        """Raises UsageError where Ray is not installed, and EngineError where the address cannot be reached."""
        # What it would say on the terminal, or send to its makers, nobody asked for.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise UsageError("Ray is not installed", hint="pip install 'selfinstruct[ray]'") from error
        self._left = False
        with Cluster._lock:
            if not ray.is_initialized():
                Cluster._ours = _Connection(address)
            Cluster._users += 1
        self.gpus = int(ray.cluster_resources().get("GPU", 0))
        self.version = ray.__version__

    def leave(self) -> None:
        with Cluster._lock:
            if self._left:
                return
            self._left = True
            Cluster._users -= 1
            if not Cluster._users and Cluster._ours:
                Cluster._ours.end()
                Cluster._ours = None


class _Connection:
    """Ray connected, in a thread that lives as long: on Linux, what Ray starts dies with the thread that started it."""

    def __init__(self, address: str) -> None:
        _knock(address)
        self._given: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            self._given["include_dashboard"] = False
        self._tried = threading.Event()
        self._leave = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._live, name="ray", daemon=True)
        self._thread.start()
        if not self._tried.wait(CONNECT):
            self._leave.set()
            raise EngineError(f"the Ray cluster at {address} did not answer for {CONNECT:.0f} s", hint=HINT)
        if self._failure is not None:
            told = f"no Ray cluster at {address}: {_first_line(self._failure)}"
            raise EngineError(told, hint=HINT) from self._failure

    def end(self) -> None:
        self._leave.set()
        self._thread.join()

    def _live(self) -> None:
        import ray

        try:
            ray.init(**self._given)
        except Exception as error:  # noqa: BLE001 -- it is raised again where somebody waits
            self._failure = error
            return
        finally:
            self._tried.set()
        self._leave.wait()
        ray.shutdown()


def _knock(address: str) -> None:
    """Where nothing listens, Ray itself would try for minutes, and then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH).close()
        except OSError as error:
            raise EngineError(f"no Ray cluster answers at {address}: {error.strerror or error}", hint=HINT) from error


class Actor:
    """The actor, and what is in flight there."""

    def __init__(
        self,
        name: str,
        options: Options,
        resources: dict[str, float],
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        self.facts: dict[str, str] = {}
        self._name, self._options, self._resources, self._warn = name, options, resources, warn
        self._actor: Any = None
        self._placed = False
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> Opened:
        import ray

        self._gone: asyncio.Future[Lost] = asyncio.get_running_loop().create_future()
        at_once = max(AT_ONCE, 2 + (self._options.concurrency or 0))
        kind: Any = ray.remote(Host)
        self._actor = kind.options(max_concurrency=at_once, **self._resources).remote()
        try:
            version = await asyncio.wait_for(self._done(self._actor.ready.remote()), PLACE)
        except TimeoutError as error:
            raise EngineError(
                f"{self._name}: the Ray cluster found no room for a copy in {PLACE:.0f} s; each takes "
                + " and ".join(
                    f"{amount:g} {what.removeprefix('num_').removesuffix('s').upper()}"
                    for what, amount in self._resources.items()
                ),
                hint="`ray status` shows what is free; --replicas asks for fewer",
            ) from error
        except Lost as lost:
            if "No module named 'selfinstruct" not in lost.words:
                raise
            told = f"a node of the Ray cluster has no selfinstruct (here it is {__version__})"
            raise UsageError(told, hint="install the same version, with the model's extra, on every node") from lost
        self._placed = True
        if version != __version__:
            told = f"a node of the Ray cluster has selfinstruct {version}, and this one {__version__}"
            raise UsageError(told, hint="install the same version on every node")
        options = json.dumps(self._options.model_dump())
        open_now = opened(await self._done(self._actor.open.remote(self._name, options, str(Path.cwd()))))
        self.facts = open_now.facts
        self._watching = asyncio.create_task(self._watch())
        return open_now

    async def complete(self, request: Request) -> Reply:
        import ray

        if self._gone.done():
            raise await self.gone()
        asked = self._actor.ask.remote(written(request))
        try:
            answer = await self._done(asked)
        except asyncio.CancelledError:
            ray.cancel(asked)
            raise
        try:
            return answered(answer, self.facts)
        except Lost as lost:  # the actor lives, and its engine does not
            self._end(lost)
            raise

    async def gone(self) -> Lost:
        return (await asyncio.shield(self._gone)).anew()

    async def close(self) -> None:
        import ray

        actor, self._actor = self._actor, None
        if actor is None:
            return
        if self._watching is not None:
            self._watching.cancel()
        alive = self._placed and not self._gone.done()
        self._end(Lost("it was closed"))
        if alive:
            with suppress(Lost, TimeoutError):
                await asyncio.wait_for(self._done(actor.close.remote()), CLOSE)
        with suppress(Exception):  # a cluster that is gone has no actor to kill
            ray.kill(actor)

    async def _watch(self) -> None:
        """Passes warnings on. The call that waits for the next one is the first to hear that the actor is no more."""
        try:
            while True:
                self._warn(await self._done(self._actor.warning.remote()))
        except Lost as lost:
            self._end(lost)

    async def _done(self, asked: Any) -> Any:
        """What an actor's method returns. Raises Lost if the actor ends before."""
        import ray

        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        # Not asyncio's own way of waiting for such a future, which would cancel it: Ray's client stumbles over that.
        def settle(source: Any) -> None:
            if answer.done():
                return
            if (error := source.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(source.result())

        def arrived(source: Any) -> None:
            with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(settle, source)

        asked.future().add_done_callback(arrived)
        try:
            return await answer
        except ray.exceptions.RayError as error:
            raise Lost(_first_line(error), str(error)) from error

    def _end(self, lost: Lost) -> None:
        if not self._gone.done():
            self._gone.set_result(lost)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
