"""Puts what leaves in the same moment into one: a batch holds what is waiting anyway, and waits for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

_One = TypeVar("_One")
_Result = TypeVar("_Result")


class Batches(Generic[_One, _Result]):
    """What is added under one key in the same turn of the event loop is sent together, at most so many at once.

    ``send`` gets them in order and returns for each its result, or the exception that it ends with. Whoever adds
    something may be cancelled: the others get theirs, and when nobody is left, sending is cancelled too.
    """

    def __init__(
        self,
        send: Callable[[Hashable, Sequence[_One]], Awaitable[Sequence[_Result | Exception]]],
        most: int,
    ) -> None:
        self._send = send
        self._most = most
        self._open: dict[Hashable, list[tuple[_One, asyncio.Future[_Result]]]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def add(self, key: Hashable, one: _One) -> _Result:
        loop = asyncio.get_running_loop()
        place: asyncio.Future[_Result] = loop.create_future()
        batch = self._open.get(key)
        if batch is None:
            batch = self._open[key] = []
            loop.call_soon(self._leave, key)
        batch.append((one, place))
        if len(batch) == self._most:
            self._leave(key)
        return await place

    def close(self) -> None:
        for waiting in self._open.values():
            for _, place in waiting:
                place.cancel()
        self._open.clear()
        for sending in self._sending:
            sending.cancel()

    def _leave(self, key: Hashable) -> None:
        waiting = [(one, place) for one, place in self._open.pop(key, ()) if not place.done()]
        if not waiting:
            return
        batch, places = [one for one, _ in waiting], [place for _, place in waiting]
        sending = asyncio.ensure_future(self._sent(key, batch, places))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        for place in places:
            place.add_done_callback(partial(_leave_off, sending, places))

    async def _sent(self, key: Hashable, batch: Sequence[_One], places: Sequence[asyncio.Future[_Result]]) -> None:
        try:
            results = await self._send(key, batch)
        except BaseException as error:  # a bug, or the end: nobody is to wait for ever
            for place in places:
                if not place.done():
                    place.set_exception(error)
            raise
        for place, result in zip(places, results, strict=True):
            if place.done():
                continue
            if isinstance(result, Exception):
                place.set_exception(result)
            else:
                place.set_result(result)


def _leave_off(sending: asyncio.Task[None], places: Sequence[asyncio.Future[Any]], _: object) -> None:
    if all(place.done() for place in places):
        sending.cancel()  # which nobody waits for, or which is done
