"""What is printed: words for people, in which control characters are shown and not obeyed, and data as exact JSON."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

# All control characters but the line feed and the tab, and the marks that turn the direction of what follows.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # those that JSON itself leaves as they are
_LONG = 20_000
"""Characters from which a text is left to the terminal to wrap."""

_left: set[str] = set()  # "stdout" and "stderr", once their readers are gone


def clean(text: str) -> str:
    """The text with its control characters spelt out: a model's words cannot colour, move or clear a terminal."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def say(text: str = "", *, style: str = "", indent: int = 0, err: bool = False) -> None:
    """Print a text for a person: wrapped and coloured on a terminal, line by line as it is anywhere else."""
    stream, text = sys.stderr if err else sys.stdout, clean(text)
    if ("stderr" if err else "stdout") in _left:
        return
    try:
        if stream.isatty() and 0 < len(text) < _LONG:
            from rich.padding import Padding
            from rich.text import Text

            console(err=err).print(Padding(Text(text, style=style), (0, 0, 0, indent), expand=False))
        else:
            pad = " " * indent
            typer.echo(pad + text.replace("\n", f"\n{pad}"), err=err)
    except BrokenPipeError:
        _leave("stderr" if err else "stdout")


@contextmanager
def signals(caught: list[int], stop: Callable[[], None], leave: Callable[[], None], told: str) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM calls ``stop``, and ``told`` says what happens now; the second calls ``leave``.
    ``caught`` hears of both."""

    def hear(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            leave()
            return
        stop()
        with suppress(RuntimeError):  # it came in the middle of another line
            say(f"{told}; once more to leave now", err=True)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


STOPPING = "stopping when the requests under way have arrived"


class Line:
    """A line that says how far something is: written over on a terminal, one every so often anywhere else."""

    def __init__(self, between: float) -> None:
        """``between``: seconds between two lines where none can be written over."""
        self._between = between
        self._told = 0.0

    def tell(self, text: str, *, last: bool = False, stays: bool = False) -> None:
        """``last`` ones are always told; one that ``stays`` is not written over by the next."""
        live, now = sys.stderr.isatty(), time.monotonic()
        if not (last or stays) and now - self._told < (0.2 if live else self._between):
            return
        self._told = now
        typer.echo(f"\r\x1b[2K{clean(text)}" if live else clean(text), err=True, nl=last or stays or not live)


def data(value: object) -> None:
    """Print a value as one line of JSON on stdout: exact, and harmless on a terminal too."""
    stream = sys.stdout
    if unread():
        return
    text = _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:  # another locale, or half of a surrogate pair
        text = json.dumps(value)
    exact(f"{text}\n")


def exact(text: str) -> None:
    """Print a text on stdout as it is."""
    if unread():
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _leave("stdout")


def unread() -> bool:
    """Whether whoever read stdout has left (`| head -1`): what is still to come goes nowhere."""
    return "stdout" in _left


def _leave(name: str) -> None:
    # What the stream still holds must go somewhere, or Python complains of it at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, name).fileno())
    _left.add(name)


@cache
def console(*, err: bool) -> Console:
    """Rich's console on stdout or stderr; it knows width and colours, and honours NO_COLOR and TERM=dumb."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that is being handled; Rich would exit with 1

    return Ours(stderr=err, highlight=False, markup=False, emoji=False, soft_wrap=False)


def prepare() -> None:
    """Make the three standard streams safe to use. For the process as a whole: called once, by ``main``."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: lest a file of the run's get the number, and somebody's message the file
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Notes(logging.Handler):
    """The library's warnings, each a line on stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        say(f"warning: {record.getMessage()}", err=True)
