"""The journal: every reply of a run, kept the moment it arrived whole, with the place that asked for it.

The journal is the run: pool, index, shards and counters are projections of recipe + inputs + journal. It is one
SQLite file. A row is written when a request is sent (so that what was in flight at a crash can be counted) and
completed when its reply has arrived; both are committed at once, all that happened in one turn of the event loop in
one transaction. A reply that is here is never asked for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from selfinstruct.engines import Reply, Request
from selfinstruct.errors import InputError, SelfInstructError, StorageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS inputs (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, content BLOB);
CREATE TABLE IF NOT EXISTS replies (
  stage TEXT NOT NULL, step INTEGER NOT NULL, item INTEGER NOT NULL, attempt INTEGER NOT NULL,
  key TEXT NOT NULL, parents TEXT NOT NULL, asked INTEGER NOT NULL, sent REAL NOT NULL, arrived REAL, reply TEXT,
  PRIMARY KEY (step, item, stage, attempt)
);
"""
_VERSION = 1
_PATIENCE = 30.0
"""Seconds to wait for a reader, who can be in the way only where WAL cannot be had."""


class Place(NamedTuple):
    """Where in the plan a request stands. ``attempt`` counts planned re-asks, never transport retries."""

    stage: str
    step: int
    item: int = -1
    attempt: int = 0

    @classmethod
    def read(cls, text: str) -> Place:
        """The place that ``str`` of it wrote."""
        stage, _, rest = text.rpartition(":")
        rest, _, again = rest.partition("+")
        step, _, item = rest.partition(".")
        return cls(stage, int(step), int(item) if item else -1, int(again) if again else 0)

    def __str__(self) -> str:
        item = f".{self.item}" if self.item >= 0 else ""
        again = f"+{self.attempt}" if self.attempt else ""
        return f"{self.stage}:{self.step}{item}{again}"


class Stored(NamedTuple):
    """A reply from the journal, with the plan that it belongs to."""

    place: Place
    key: str
    parents: tuple[str, ...]
    reply: Reply


class Totals(NamedTuple):
    """What a journal holds. ``uncertain``: sent, but no reply ever arrived; the server may have charged for them."""

    replies: int
    uncertain: int


def request_key(model: str, request: Request) -> str:
    """The name of a planned request: SHA-256 over the model's name and everything that was planned, seed included."""
    later = {"samples": 1, "json_schema": None}  # keys that older journals do not know, where they say nothing
    planned = {key: value for key, value in request.model_dump().items() if (key, value) not in later.items()}
    text = f"{model}\n{json.dumps(planned, sort_keys=True)}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Journal:
    """One run's replies. One writer at a time (the run's lock sees to that); any number of readers.

    Raises StorageError where the file cannot be read or written, and InputError where it is no journal. After a
    failed write nothing more is taken: no request leaves whose reply could not be kept.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._waiting: asyncio.Future[None] | None = None
        self._failed: SelfInstructError | None = None
        if read_only and not path.is_file():
            raise StorageError(f"{path}: there is no journal here", hint="is this a run folder?")
        with _reported(path):
            self._db = _reader(path) if read_only else _writer(path)
        try:
            with _reported(path):
                new = self._is_empty()
                if not (new and not read_only):
                    self._check()
                if not read_only:
                    self._prepare(new)
        except BaseException:
            self._db.close()
            raise

    def _is_empty(self) -> bool:
        return self._version() == 0 and self._db.execute("SELECT 1 FROM sqlite_master").fetchone() is None

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _check(self) -> None:
        """Refuse what is not ours, before anything in it is changed."""
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
        if not {"inputs", "replies"} <= tables:
            raise InputError(f"{self.path}: not a journal of selfinstruct", hint=_HINT)
        if self._version() != _VERSION:
            raise InputError(
                f"{self.path}: journal version {self._version()}, this selfinstruct reads {_VERSION}",
                hint="use the version of selfinstruct that made it (run.json names it)",
            )

    def _prepare(self, new: bool) -> None:
        # WAL needs shared memory, which network file systems lack: there SQLite keeps its rollback journal, or says
        # that it has WAL and fails. Under an exclusive lock no memory needs to be shared, and the file can be had back.
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript("BEGIN IMMEDIATE; COMMIT;")
        except sqlite3.OperationalError:
            self._db.close()
            self._db = _writer(self.path)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.execute("PRAGMA locking_mode = NORMAL")
            self._version()  # reading lets the exclusive lock go
        # FULL survives a power loss; measured at 5,200 commits/s here, and a commit holds all of a turn's replies.
        self._db.execute("PRAGMA synchronous = FULL")
        if new:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def close(self) -> None:
        """Keep what arrived, and close the file. One in which nothing came to stand is removed."""
        blank = False
        try:
            self._commit()  # after a failure too: what arrived before it is paid for
            with suppress(sqlite3.Error):
                rows = "SELECT 1 FROM inputs UNION ALL SELECT 1 FROM replies LIMIT 1"
                blank = not self._read_only and self._db.execute(rows).fetchone() is None
        finally:
            self._db.close()
        if blank:
            with suppress(OSError):
                self.path.unlink()

    # Inputs: seeds, prompts and whatever else the plan was made from, so that a folder can be replayed anywhere.

    def inputs(self) -> dict[str, str]:
        """The SHA-256 of every input, by name."""
        with _reported(self.path):
            return dict(self._db.execute("SELECT name, sha256 FROM inputs ORDER BY name"))

    def input(self, name: str) -> bytes | None:
        """The content of an input, or None where only its digest was kept."""
        with _reported(self.path):
            row = self._db.execute("SELECT content FROM inputs WHERE name = ?", (name,)).fetchone()
        return zlib.decompress(row[0]) if row and row[0] is not None else None

    def keep_input(self, name: str, content: bytes, *, whole: bool = True) -> None:
        kept = zlib.compress(content) if whole else None
        row = (name, hashlib.sha256(content).hexdigest(), kept)
        self._write("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?)", row)
        self._commit()

    # Replies.

    def find(self, place: Place) -> Stored | None:
        """The reply that is here for a place, if there is one."""
        sql = "SELECT key, parents, reply FROM replies WHERE step = ? AND item = ? AND stage = ? AND attempt = ?"
        with _reported(self.path):
            row = self._db.execute(sql, (place.step, place.item, place.stage, place.attempt)).fetchone()
        return None if row is None or row[2] is None else self._stored(place, *row)

    def sending(self, place: Place, key: str, parents: tuple[str, ...]) -> None:
        """Note that a request is about to leave; durable before the next turn of the event loop."""
        sql = """
            INSERT INTO replies (stage, step, item, attempt, key, parents, asked, sent) VALUES (?, ?, ?, ?, ?, ?, 1, ?)
            ON CONFLICT DO UPDATE SET
            asked = asked + 1, sent = excluded.sent, key = excluded.key, parents = excluded.parents
        """
        self._write(sql, (*place, key, json.dumps(parents), time.time()))
        self._soon()

    async def arrived(self, place: Place, reply: Reply) -> None:
        """Keep a whole reply. Returns when it is on disk."""
        sql = "UPDATE replies SET reply = ?, arrived = ? WHERE step = ? AND item = ? AND stage = ? AND attempt = ?"
        # Not pydantic's JSON, which has no infinities: a log-probability may be one.
        text = json.dumps(reply.model_dump(exclude_defaults=True), ensure_ascii=False, separators=(",", ":"))
        text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair becomes its JSON escape
        self._write(sql, (text, time.time(), place.step, place.item, place.stage, place.attempt))
        await asyncio.shield(self._soon())  # one who is cancelled does not take the turn from the others

    def replies(self) -> Iterator[Stored]:
        """Every reply, in plan order."""
        return (stored for stored, _, _ in self.timed())

    def timed(self) -> Iterator[tuple[Stored, float, float]]:
        """Every reply in plan order, with the moments at which its request left and it arrived, in seconds since 1970.
        What is stored meanwhile is not among them."""
        columns = "stage, step, item, attempt, key, parents, reply, sent, arrived"
        sql = f"SELECT {columns} FROM replies WHERE reply IS NOT NULL ORDER BY step, item, stage, attempt"
        with _reported(self.path):
            for *place, key, parents, reply, sent, arrived in self._db.execute(sql):
                yield self._stored(Place(*place), key, parents, reply), sent, arrived

    def totals(self) -> Totals:
        with _reported(self.path):
            count, asked = self._db.execute("SELECT count(reply), coalesce(sum(asked), 0) FROM replies").fetchone()
        return Totals(replies=count, uncertain=asked - count)

    def _stored(self, place: Place, key: str, parents: str, reply: str) -> Stored:
        try:
            return Stored(place, key, tuple(json.loads(parents)), Reply.model_validate(json.loads(reply)))
        except ValueError as error:
            raise InputError(f"{self.path}: the reply at {place} is damaged: {error}", hint=_HINT) from error

    # One transaction a turn of the event loop.

    def _write(self, sql: str, values: tuple[object, ...]) -> None:
        if self._failed is not None:
            raise self._failed
        with self._latched():
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(sql, values)

    def _soon(self) -> asyncio.Future[None]:
        if self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            loop.call_soon(self._turn)
        return self._waiting

    def _turn(self) -> None:
        waiting, self._waiting = self._waiting, None
        assert waiting is not None
        if self._failed is None:
            with suppress(SelfInstructError):  # kept in _failed
                self._commit()
        if self._failed is None:
            waiting.set_result(None)
        else:  # a failed write may have undone the whole turn
            waiting.set_exception(self._failed)
            waiting.exception()  # marked as seen: a turn that only sent has nobody waiting, and the next write tells

    def _commit(self) -> None:
        with self._latched():
            if self._db.in_transaction:
                self._db.execute("COMMIT")

    @contextmanager
    def _latched(self) -> Iterator[None]:
        try:
            with _reported(self.path):
                yield
        except SelfInstructError as error:
            self._failed = error
            raise


_HINT = "put back the file as it was, or let --fresh start anew"


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise InputError(f"{path}: {error}", hint=_HINT) from error
        raise StorageError(
            f"{path}: {error}", hint="check the disk's space and permissions, then give the same command again"
        ) from error


def _writer(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)


def _reader(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing."""
    uri = path.resolve().as_uri()
    db = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None)
    try:
        db.execute("PRAGMA user_version")
    except sqlite3.OperationalError:
        db.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # In a read-only folder WAL's shared memory cannot be made; where no writer left a log, none is needed.
        return sqlite3.connect(f"{uri}?immutable=1", uri=True, isolation_level=None)
    except BaseException:
        db.close()
        raise
    return db
