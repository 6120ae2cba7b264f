"""One writer a run folder: a lock file that says who it is, and that a dead owner's successor takes over."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from selfinstruct.errors import SelfInstructError, UsageError
from selfinstruct.files import writing

try:
    import fcntl
except ImportError:  # Windows: the heartbeat alone decides
    fcntl = None  # type: ignore[assignment]

STALE = 120.0
"""Seconds without a heartbeat after which an owner on another host counts as dead."""


class Lock:
    """Held by the one process that writes a run folder.

    On this host the operating system's file lock decides, which ends with its process however that ended. Across
    hosts, where file locks cannot be trusted, and on file systems without them, the heartbeat decides. Raises
    UsageError when the folder is in use.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        with writing(self._path):
            self._file: IO[str] = self._path.open("a+", encoding="utf-8")
        self.taken_over = ""
        """Whom it was taken over from, where the last owner did not leave in order."""
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        try:
            self._take()
        except BaseException:
            self._close()
            raise

    def _take(self) -> None:
        locked = self._flock()
        before = owner(self._path.parent)
        if before is not None:
            here = before["host"] == socket.gethostname()
            if not (here and locked) and before["age"] < STALE:
                raise self._in_use(before)
            self.taken_over = f"process {before['pid']} on {before['host']}"
        with writing(self._path):
            self._file.truncate(0)
            json.dump(self._me, self._file)
            self._file.flush()

    def _flock(self) -> bool:
        """Whether the operating system's lock is ours; False where the file system has none."""
        if fcntl is None:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use(owner(self._path.parent)) from None
        except OSError:
            return False
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                return True
        raise self._in_use(None)  # its last owner took the file away while we came

    def _in_use(self, before: dict[str, Any] | None) -> UsageError:
        who = f"process {before['pid']} on {before['host']}" if before else "another process"
        return UsageError(
            f"{self._path.parent} is in use by {who}",
            hint="wait for it or stop it; `selfinstruct status` shows how far it is",
        )

    def beat(self) -> None:
        """Say that the owner lives. Raises UsageError where another host took the folder, thinking that it did not."""
        now = owner(self._path.parent)
        if now is not None and any(now[key] != value for key, value in self._me.items()):
            raise self._in_use(now)
        with suppress(OSError):
            os.utime(self._path)

    def release(self, *, remove: bool = False) -> None:
        """Leave in order. ``remove``: and take the file away."""
        with suppress(SelfInstructError):
            self.beat()
            with writing(self._path):
                self._file.truncate(0)
                if remove and os.name == "posix":  # elsewhere a file that is open stays
                    self._path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        with suppress(OSError):  # on a full disk, what was to be written is still to be written
            self._file.close()


@contextmanager
def claimed(folder: Path) -> Iterator[Lock]:
    """The lock of a folder, which is made if it is not there. Where nothing else came to stand in it, neither stays: a
    start that failed leaves nothing behind."""
    new = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    try:
        yield lock
    finally:
        empty = False
        with suppress(OSError):
            empty = {path.name for path in folder.iterdir()} <= {"lock"}
        lock.release(remove=empty)
        if new and empty:
            with suppress(OSError):  # somebody was quick to put something there
                folder.rmdir()


def owner(folder: Path) -> dict[str, Any] | None:
    """Who holds the folder's lock, as ``host``, ``pid``, ``since`` and ``age`` of the last heartbeat in seconds; None
    where nobody does, or where the last owner left in order."""
    path = folder / "lock"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        age = time.time() - path.stat().st_mtime
        return {"host": str(said["host"]), "pid": int(said["pid"]), "since": float(said["since"]), "age": age}
    except (OSError, ValueError, TypeError, LookupError):
        return None


def at_work(held: dict[str, Any]) -> bool:
    """Whether an owner is alive: its heart beats, and it is no process of this host that is gone."""
    if held["age"] > 60:
        return False
    if os.name != "posix" or held["host"] != socket.gethostname():
        return True
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
