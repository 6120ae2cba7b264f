"""A hang is a failure; slowness is none."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import settings

SECONDS = 100

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ours", deadline=None)  # a busy machine fails no test
settings.load_profile("ours")


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Fails a test that takes longer than anything could that goes on."""

    def hangs(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"nothing ended for {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
