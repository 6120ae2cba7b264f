"""Spreads requests over a model's endpoints, waits out their bad moments, and tells one's failure from an outage."""

from __future__ import annotations

import asyncio
import base64
import heapq
import ipaddress
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn
from urllib.parse import unquote, urlsplit

from selfinstruct.engines import Failure, Reply
from selfinstruct.errors import EngineError, UsageError

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True)
class Patience:
    """How long a server's bad moments are borne, in seconds. Constants for people; tests shrink them."""

    attempts: int = 8
    base: float = 0.5
    """The first pause after a failure is up to this long, each further one up to twice the last."""
    longest: float = 30.0
    start: float = 10.0
    """No endpoint has ever been reached for so long: it is not running."""
    outage: float = 180.0
    """Requests fail and none succeeds for so long: the run stops."""
    retry_after: float = 300.0
    """The longest pause that a server may ask for."""
    rest: float = 15.0
    """An endpoint that keeps failing is left out for so long while others carry on."""
    connect: float = 10.0
    answer: float = 600.0


class Adapted(Exception):
    """The same request will be written differently now."""


class Refused(Exception):
    """The server refuses this request, for good."""

    def __init__(self, kind: Literal["content_policy", "too_long", "rejected", "thinking"], message: str) -> None:
        super().__init__(message)
        self.reply = Reply(error=Failure(kind=kind, message=message))


class Again(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(
        self,
        message: str,
        *,
        kind: Literal["gave_up", "malformed"] = "gave_up",
        wait: float | None = None,
        limited: bool = False,
        unreached: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.wait = wait
        """Seconds that the server wants us to wait."""
        self.limited = limited
        """By a rate limit."""
        self.unreached = unreached


class Endpoints:
    """The endpoints of one model; requests are spread by what each has in flight.

    A request has several attempts. When they are used up it is given up only if others succeeded meanwhile; while
    none does it waits on, until either one succeeds or the silence counts as an outage, which raises in every call.
    """

    def __init__(self, each: list[Endpoint], most: int, patience: Patience, doctor: str) -> None:
        self.each = each
        self.retries = 0
        self.reached = False
        """Something has answered, if only with an error."""
        self._most = most
        self._patience = patience
        self._doctor = doctor
        """What to run to learn more."""
        self._queue = _Queue(each, most)
        self._alarm = _Alarm()
        self._chance = random.Random()
        self._turns = itertools.count()
        self._under_way: dict[int, float] = {}
        """By turn: when the attempt began."""
        self._answered_at: float | None = None
        self._failing_since: float | None = None

    async def ask(self, attempt: Callable[[Endpoint], Awaitable[Reply]]) -> Reply:
        """The reply of ``attempt``; raises EngineError where the work cannot go on.

        An attempt returns a reply, or raises Adapted (asking differently helps), Again (waiting may), or Refused or
        EngineError (nothing does).
        """
        turn, alarm = next(self._turns), self._alarm
        failures, failing_since = 0, 0.0
        while True:
            endpoint = await self._queue.enter(turn, alarm)
            self._under_way[turn] = time.monotonic()
            try:
                reply = await attempt(endpoint)
            except Adapted:
                continue
            except Refused as refused:
                # no sign of health: a server whose model died still counts tokens and says 400
                return refused.reply
            except Again as error:
                trouble = error
            except EngineError as error:
                self._stop(alarm, error)
            else:
                self._answered_at, self._failing_since = time.monotonic(), None
                endpoint.note_success(self._most)
                return reply
            finally:
                del self._under_way[turn]
                self._queue.leave(endpoint)
            if alarm.error is not None:
                raise alarm.again()
            now = time.monotonic()
            failures += 1
            failing_since = failing_since or now
            self._note_trouble(endpoint, trouble, now)
            self._judge_outage(alarm, trouble, now)
            if self._spent(trouble, failures, now - failing_since):
                # what was asked before the first failure may still succeed: slow is not dead
                slow = any(asked < failing_since for asked in self._under_way.values())
                if self._answered_at is None and not slow:
                    nothing = f"{endpoint.url}: every attempt failed, and no request has ever succeeded: {trouble}"
                    self._stop(alarm, EngineError(nothing, hint=self._start_hint()))
                if self._answered_at is not None and self._answered_at >= failing_since:
                    return Reply(error=Failure(kind=trouble.kind, message=str(trouble)))
            self.retries += 1
            await alarm.sleep(self._pause(trouble, failures, now))

    async def close(self) -> None:
        self._queue.close()
        for endpoint in self.each:
            if endpoint.client is not None:
                await endpoint.client.close()
                endpoint.client = None

    def _note_trouble(self, endpoint: Endpoint, trouble: Again, now: float) -> None:
        if self._failing_since is None:
            self._failing_since = now
        pause = trouble.wait
        if trouble.limited:
            pause = max(pause or 0.0, self._jitter(endpoint.limited_rounds + 1))
        endpoint.note_trouble(trouble, now, pause, self._patience)

    def _judge_outage(self, alarm: _Alarm, trouble: Again, now: float) -> None:
        assert self._failing_since is not None
        silence = now - self._failing_since
        if not self.reached and trouble.unreached and silence >= self._patience.start:
            self._stop(alarm, EngineError(str(trouble), hint=self._start_hint()))
        if silence >= self._patience.outage:
            words = f"nothing has succeeded for {silence:.0f} s; the last failure was {trouble}"
            again = "nothing of it was stored: run the same command again when the server is well"
            self._stop(alarm, EngineError(words, hint=f"{again}. {self._doctor}"))

    def _spent(self, trouble: Again, failures: int, silence: float) -> bool:
        # a rate limit is not the request's fault, so it has to last as long as an outage too
        return failures >= self._patience.attempts and (not trouble.limited or silence >= self._patience.outage)

    def _pause(self, trouble: Again, failures: int, now: float) -> float:
        """Seconds until the next attempt. The pause after a rate limit is everyone's, and kept by the queue."""
        if trouble.limited:
            return 0.0
        pause = self._jitter(failures)
        assert self._failing_since is not None
        verdict = self._patience.outage
        if trouble.unreached and not self.reached:
            verdict = min(verdict, self._patience.start)
        # awake when the verdict is due
        return max(0.0, min(pause, self._failing_since + verdict - now))

    def _jitter(self, failures: int) -> float:
        longest = min(self._patience.longest, self._patience.base * 2.0 ** min(failures - 1, 30))
        return self._chance.uniform(0, longest)

    def _stop(self, alarm: _Alarm, error: EngineError) -> NoReturn:
        """Raises ``error`` here and in every call that waits. A call made later starts afresh."""
        if alarm.error is None:
            alarm.ring(error)
            self._queue.dismiss()
            self._alarm, self._failing_since = _Alarm(), None
        raise error

    def _start_hint(self) -> str:
        return self._doctor if self.reached else f"is the server running? {self._doctor}"


@dataclass
class Endpoint:
    """One base URL, and how it fares."""

    url: str
    """Without login and query, so that people may see it."""
    ours: bool
    """OpenAI's own."""
    loopback: bool
    limit: float
    """Requests it may have in flight: halved by a rate limit, grown by success."""
    query: str = ""
    login: str = ""
    password: str = ""
    client: AsyncOpenAI | None = None
    in_flight: int = 0
    sent: int = 0
    failures: int = 0
    limited_rounds: int = 0
    paused_until: float = 0.0
    """The server asked for it: nobody goes there."""
    resting_until: float = 0.0
    """It keeps failing: nobody goes there while another endpoint is well."""

    @classmethod
    def at(cls, url: str, concurrency: int) -> Endpoint:
        """An address as people write it, perhaps with a login."""
        shown = url.rpartition("@")[2].partition("?")[0]
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.scheme not in ("http", "https"):
            raise UsageError(f"--base-url {shown!r} is no address", hint="it looks like http://localhost:8000/v1")
        name = f"[{host}]" if ":" in host else host
        shown = f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{parts.path}"
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        login = base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        return cls(
            url=shown,
            query=parts.query,
            ours=host == "api.openai.com",
            loopback=_loopback(host),
            limit=float(concurrency),
            login=login,
            password=password,
        )

    def note_success(self, concurrency: int) -> None:
        self.failures = self.limited_rounds = 0
        self.resting_until = 0.0
        self.limit = min(float(concurrency), self.limit + 1 / self.limit)

    def note_trouble(self, trouble: Again, now: float, pause: float | None, patience: Patience) -> None:
        if pause is not None:
            # the refusals of one burst are one round
            if trouble.limited and self.paused_until <= now:
                self.limit = max(1.0, self.limit / 2)
                self.limited_rounds += 1
            self.paused_until = max(self.paused_until, now + min(pause, patience.retry_after))
        if not trouble.limited:
            self.failures += 1
            if trouble.unreached or self.failures >= 3:
                self.resting_until = now + patience.rest


def _loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


class _Queue:
    """Lets requests through to the endpoints, the oldest first, so that none starves under a rate limit."""

    def __init__(self, endpoints: list[Endpoint], most: int) -> None:
        self._endpoints = endpoints
        self._most = most
        self._waiting: list[tuple[int, int, asyncio.Future[Endpoint | None]]] = []
        self._tickets = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, turn: int, alarm: _Alarm) -> Endpoint:
        """The endpoint to ask, once there is room. Raises what rang the alarm."""
        if alarm.error is not None:
            raise alarm.again()
        place: asyncio.Future[Endpoint | None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (turn, next(self._tickets), place))
        self._admit()
        try:
            endpoint = await place
        except asyncio.CancelledError:
            # cancelled in the moment it was let in
            if place.done() and not place.cancelled() and (given := place.result()) is not None:
                self.leave(given)
            raise
        if endpoint is None:
            raise alarm.again()
        return endpoint

    def leave(self, endpoint: Endpoint) -> None:
        endpoint.in_flight -= 1
        self._admit()

    def dismiss(self) -> None:
        for _, _, place in self._waiting:
            if not place.done():
                place.set_result(None)
        self.close()

    def close(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _admit(self) -> None:
        while self._waiting and sum(endpoint.in_flight for endpoint in self._endpoints) < self._most:
            if self._waiting[0][2].done():
                heapq.heappop(self._waiting)
                continue
            now = time.monotonic()
            endpoint = self._freest(now)
            if endpoint is None:
                self._admit_later(now)
                return
            endpoint.in_flight += 1
            endpoint.sent += 1
            heapq.heappop(self._waiting)[2].set_result(endpoint)

    def _freest(self, now: float) -> Endpoint | None:
        well = [endpoint for endpoint in self._endpoints if endpoint.resting_until <= now] or self._endpoints
        free = [
            endpoint for endpoint in well if endpoint.paused_until <= now and endpoint.in_flight + 1 <= endpoint.limit
        ]
        return min(free, key=lambda endpoint: (endpoint.in_flight, endpoint.sent), default=None)

    def _admit_later(self, now: float) -> None:
        times = [t for endpoint in self._endpoints for t in (endpoint.paused_until, endpoint.resting_until) if t > now]
        if self._timer is not None:
            self._timer.cancel()
        # without a time, someone is in flight and will leave
        self._timer = asyncio.get_running_loop().call_later(min(times) - now, self._admit) if times else None


@dataclass
class _Alarm:
    """Rings once, and wakes all who sleep."""

    error: EngineError | None = None
    _rung: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self, error: EngineError) -> None:
        self.error = error
        self._rung.set()

    def again(self) -> EngineError:
        """The error anew, for another call to raise."""
        assert self.error is not None
        return EngineError(self.error.message, hint=self.error.hint)

    async def sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return
        raise self.again()
