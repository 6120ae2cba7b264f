"""The journal: what arrived is there again, whatever happened to the process, the disk or the others who wait."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.engines import Failure, Message, Reply, Request, Sampling, Usage
from selfinstruct.errors import InputError, SelfInstructError, StorageError
from selfinstruct.journal import Journal, Place, Stored, Totals, request_key

KEY = "0" * 32
TEXT = st.text(max_size=12)
HALVES = st.text(st.characters(exclude_categories=()), max_size=5)
PLACES = st.builds(
    Place, st.sampled_from(["bootstrap", "classify"]), st.integers(0, 9), st.integers(-1, 3), st.integers(0, 2)
)
REPLIES = st.builds(
    Reply,
    text=HALVES,
    finish=st.sampled_from(["stop", "length", "content_filter"]),
    reasoning=TEXT,
    usage=st.builds(Usage, prompt=st.integers(0, 2**40), cached=st.integers(0, 9)),
    error=st.none() | st.builds(Failure, kind=st.just("gave_up"), message=HALVES),
    changed=st.lists(TEXT, max_size=2).map(tuple),
    model=HALVES,
    first_token=st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=3),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    yield journal
    journal.close()


async def keep(journal: Journal, place: Place, reply: Reply, parents: tuple[str, ...] = ()) -> None:
    journal.sending(place, KEY, parents)
    await asyncio.sleep(0)
    await journal.arrived(place, reply)


async def all_at_once(*jobs: Awaitable[None]) -> list[BaseException | None]:
    return await asyncio.gather(*jobs, return_exceptions=True)


def reopened(path: Path) -> list[Stored]:
    journal = Journal(path, read_only=True)
    try:
        return list(journal.replies())
    finally:
        journal.close()


class TestWhatArrived:
    @settings(deadline=None, max_examples=60)
    @given(st.dictionaries(PLACES, st.tuples(REPLIES, st.lists(HALVES, max_size=3).map(tuple)), max_size=6))
    def test_is_found_again_as_it_was_with_its_parents_in_plan_order(
        self, kept: dict[Place, tuple[Reply, tuple[str, ...]]]
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "journal.sqlite"
            journal = Journal(path)
            asyncio.run(all_at_once(*(keep(journal, place, *what) for place, what in kept.items())))
            journal.close()
            again = Journal(path)
            for place, (reply, parents) in kept.items():
                assert again.find(place) == Stored(place, KEY, parents, reply)
            in_order = sorted(kept, key=lambda place: (place.step, place.item, place.stage, place.attempt))
            assert [stored.place for stored in again.replies()] == in_order
            again.close()

    def test_is_there_after_the_process_was_killed(self, path: Path) -> None:
        script = """
import asyncio, os, signal, sys
from pathlib import Path
from selfinstruct.engines import Reply
from selfinstruct.journal import Journal, Place

async def one(journal, step):
    journal.sending(Place("b", step), "k", ())
    if step < 50:
        await journal.arrived(Place("b", step), Reply(text=str(step)))

async def main():
    journal = Journal(Path(sys.argv[1]))
    await asyncio.gather(*(one(journal, step) for step in range(60)))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
        ended = subprocess.run([sys.executable, "-c", script, path], timeout=30)
        assert ended.returncode == -signal.SIGKILL
        assert [stored.reply.text for stored in reopened(path)] == [str(step) for step in range(50)]
        journal = Journal(path)
        assert journal.totals() == Totals(replies=50, uncertain=10)
        journal.close()

    def test_needs_few_commits_when_it_comes_together(self, journal: Journal) -> None:
        commits: list[str] = []
        journal._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        failed = asyncio.run(all_at_once(*(keep(journal, Place("b", step), Reply(text="x")) for step in range(100))))
        assert failed == [None] * 100
        assert len(commits) <= 3

    def test_is_kept_for_the_others_when_one_who_waits_is_cancelled(self, path: Path, journal: Journal) -> None:
        async def main() -> list[BaseException | None]:
            complaints: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            places = [Place("b", step) for step in range(3)]
            tasks = [asyncio.ensure_future(keep(journal, place, Reply(text="x"))) for place in places]
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # all have said that theirs arrived, and wait for the turn to be committed
            tasks[1].cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert not complaints
            return ends

        first, second, third = asyncio.run(main())
        assert first is third is None
        assert isinstance(second, asyncio.CancelledError)
        assert len(reopened(path)) == 3

    def test_can_be_read_while_a_writer_writes(self, path: Path, journal: Journal) -> None:
        asyncio.run(keep(journal, Place("b", 0), Reply(text="zero")))
        reader = Journal(path, read_only=True)
        journal._db.execute("BEGIN IMMEDIATE")
        assert reader.find(Place("b", 0)) is not None
        journal._db.execute("COMMIT")
        asyncio.run(keep(journal, Place("b", 1), Reply(text="one")))
        assert [stored.reply.text for stored in reader.replies()] == ["zero", "one"]
        reader.close()


class TestTotals:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
    def test_count_each_asking_and_each_reply(self, asked: list[tuple[int, bool]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(Path(folder) / "journal.sqlite")

            async def main() -> None:
                for step, answered in asked:
                    journal.sending(Place("b", step), KEY, ())
                    if answered:
                        await journal.arrived(Place("b", step), Reply(text="x"))

            asyncio.run(main())
            there = {step for step, answered in asked if answered}
            assert journal.totals() == Totals(replies=len(there), uncertain=len(asked) - len(there))
            for step in range(4):
                assert (journal.find(Place("b", step)) is not None) == (step in there)
            journal.close()

    def test_of_what_was_sent_but_never_arrived_are_uncertain(self, journal: Journal) -> None:
        async def main() -> None:
            journal.sending(Place("b", 0), KEY, ())

        asyncio.run(main())
        asyncio.run(main())
        assert journal.totals() == Totals(replies=0, uncertain=2)
        assert journal.find(Place("b", 0)) is None
        assert list(journal.replies()) == []


class TestInputs:
    @settings(deadline=None, max_examples=30)
    @given(st.dictionaries(TEXT, st.tuples(st.binary(max_size=50), st.booleans()), max_size=4))
    def test_come_back_as_they_were(self, kept: dict[str, tuple[bytes, bool]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(Path(folder) / "journal.sqlite")
            for name, (content, whole) in kept.items():
                journal.keep_input(name, content, whole=whole)
            assert journal.inputs().keys() == kept.keys()
            for name, (content, whole) in kept.items():
                assert journal.input(name) == (content if whole else None)
            assert journal.input("never kept") is None
            journal.close()


MESSAGE = Message(role="user", content="hello")
REQUEST = Request(messages=(MESSAGE,), sampling=Sampling(stop=("\n",)), seed=1, extra={"a": 1, "b": {"c": [1]}})
CHANGES: list[dict[str, Any]] = [
    {"prompt": "hello"},
    {"messages": ()},
    {"messages": (MESSAGE, MESSAGE)},
    {"messages": (Message(role="system", content="hello"),)},
    {"messages": (Message(role="user", content="hello "),)},
    {"messages": (Message(role="user", content="hello\ud800"),)},
    {"prefill": "1."},
    {"seed": 2},
    {"seed": None},
    {"purpose": "bootstrap/chat"},
    {"extra": {}},
    {"extra": {"a": True, "b": {"c": [1]}}},
    {"extra": {"a": 1.0, "b": {"c": [1]}}},
    {"extra": {"a": 1, "b": {"c": [1, 2]}}},
    *({"sampling": Sampling(stop=("\n",), **{name: 1})} for name in Sampling.model_fields if name != "stop"),
    {"sampling": Sampling(stop=("\n", "\n"))},
    {"sampling": Sampling(stop=("\n",), temperature=float("inf"))},
    {"sampling": Sampling()},
]


class TestTheKey:
    def test_differs_for_every_change_and_every_model(self) -> None:
        requests = [REQUEST, *(REQUEST.model_copy(update=change) for change in CHANGES)]
        keys = [request_key("local", request) for request in requests] + [request_key("local/x", REQUEST)]
        assert len(set(keys)) == len(keys) == len(CHANGES) + 2

    def test_is_the_same_for_the_same_request_however_its_tables_are_ordered(self) -> None:
        other = REQUEST.model_copy(update={"extra": {"b": {"c": [1]}, "a": 1}})
        assert request_key("local", other) == request_key("local", REQUEST.model_copy(deep=True))

    @given(HALVES, HALVES, TEXT, TEXT)
    def test_tells_any_two_texts_apart(self, one: str, other: str, model: str, another: str) -> None:
        same = request_key(model, Request(prompt=one)) == request_key(another, Request(prompt=other))
        assert same == ((one, model) == (other, another))


class TestADisk:
    def full(self, journal: Journal, pages: int = 0) -> None:
        """No more than ``pages`` pages can be added."""
        there = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {there + pages}")

    def test_that_is_full_is_told_to_whoever_waits_and_loses_nothing_that_was_kept(self, path: Path) -> None:
        journal = Journal(path)
        told: list[bool] = []

        async def one(step: int) -> None:
            try:
                await keep(journal, Place("b", step), Reply(text="x" * 3000))
                told.append(True)
            except StorageError as error:
                assert str(path) in error.message
                assert error.hint
                raise

        async def main() -> list[BaseException | None]:
            ends = []
            for turn in range(8):
                if turn == 2:
                    self.full(journal, 20)
                ends += await all_at_once(*(one(turn * 5 + k) for k in range(5)))
            return ends

        ends = asyncio.run(main())
        journal.close()
        kept = {stored.place.step for stored in reopened(path)}
        reported = {step for step, end in enumerate(ends) if end is None}
        assert reported <= kept
        assert len(reported) >= 10
        assert all(isinstance(end, StorageError) for end in ends if end is not None)
        assert not any(end is None for end in ends[max(reported) + 5 :])

    def test_that_is_full_lets_no_further_request_leave(self, journal: Journal) -> None:
        self.full(journal)

        async def main() -> None:
            with pytest.raises(StorageError):
                await keep(journal, Place("b", 0), Reply(text="x" * 50_000))
            with pytest.raises(StorageError):
                journal.sending(Place("b", 1), KEY, ())

        asyncio.run(main())

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    def test_that_is_really_full_loses_nothing_that_was_kept(self, tmp_path: Path) -> None:
        # in a mount namespace of its own, which goes with the process
        mounted = 'mount -t tmpfs -o size=300k none "$0" || exit 77; exec "$1" -c "$2" "$0"'
        asked = ["unshare", "--mount", "sh", "-c", mounted, tmp_path, sys.executable, UNTIL_FULL]
        ended = subprocess.run(asked, capture_output=True, timeout=60)
        if ended.returncode in (1, 77) and b"permitted" in ended.stderr + ended.stdout:
            pytest.skip("mounting is not allowed here")
        assert not ended.stderr, ended.stderr.decode()
        reported, there = map(int, ended.stdout.split())
        assert there >= reported > 5


UNTIL_FULL = """
import asyncio, sys
from contextlib import suppress
from pathlib import Path
from selfinstruct.engines import Reply
from selfinstruct.errors import StorageError
from selfinstruct.journal import Journal, Place

path = Path(sys.argv[1]) / "journal.sqlite"
journal = Journal(path)
reported = 0

async def main():
    global reported
    while True:
        journal.sending(Place("b", reported), "k", ())
        await journal.arrived(Place("b", reported), Reply(text="x" * 3000))
        reported += 1

with suppress(StorageError):
    asyncio.run(main())
with suppress(StorageError):
    journal.close()
print(reported, len(list(Journal(path, read_only=True).replies())))
"""


class TestWithoutSharedMemory:
    """Network file systems, where WAL cannot be had."""

    def works(self, path: Path) -> None:
        journal = Journal(path)
        assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        asyncio.run(all_at_once(*(keep(journal, Place("b", step), Reply(text=str(step))) for step in range(20))))
        reader = Journal(path, read_only=True)
        assert len(list(reader.replies())) == 20
        reader.close()
        journal.close()
        again = Journal(path)
        assert again.totals() == Totals(replies=20, uncertain=0)
        again.close()

    def test_the_journal_works_where_sqlite_says_so(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        connect = sqlite3.connect

        def dotfile(database: Any, **more: Any) -> sqlite3.Connection:
            name = str(database) if more.pop("uri", False) else f"file:{database}?mode=rwc"
            return connect(f"{name}&vfs=unix-dotfile", uri=True, **more)

        monkeypatch.setattr(sqlite3, "connect", dotfile)
        self.works(path)

    def test_the_journal_works_where_sqlite_only_finds_out(self, path: Path) -> None:
        path.with_name("journal.sqlite-shm").mkdir()  # can neither be made nor opened
        self.works(path)


class TestAFileThatIsNoJournal:
    def refused(self, path: Path, kind: type[SelfInstructError], read_only: bool) -> str:
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(kind) as caught:
            Journal(path, read_only=read_only)
        assert (path.read_bytes() if path.is_file() else None) == before
        assert str(path) in caught.value.message
        assert caught.value.hint
        return caught.value.message

    @pytest.mark.parametrize("read_only", [False, True])
    def test_is_refused_and_left_as_it_was(self, path: Path, read_only: bool) -> None:
        path.write_text("This is no database, whatever its name says.\n" * 40)
        self.refused(path, InputError, read_only)

    @pytest.mark.parametrize("read_only", [False, True])
    @pytest.mark.parametrize("version", [0, 1])
    def test_is_refused_when_it_is_someone_elses_database(self, path: Path, read_only: bool, version: int) -> None:
        other = sqlite3.connect(path)
        other.executescript(f"CREATE TABLE photos (name TEXT); PRAGMA user_version = {version};")
        other.close()
        assert "not a journal" in self.refused(path, InputError, read_only)

    @pytest.mark.parametrize("read_only", [False, True])
    def test_is_refused_when_a_newer_version_made_it(self, path: Path, journal: Journal, read_only: bool) -> None:
        journal._db.execute("PRAGMA user_version = 2")
        journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert "version 2" in self.refused(path, InputError, read_only)

    def test_is_refused_when_there_is_none_to_read(self, path: Path) -> None:
        self.refused(path, StorageError, read_only=True)

    def test_is_refused_in_a_folder_that_is_not_there(self, path: Path) -> None:
        self.refused(path.parent / "nowhere" / "journal.sqlite", StorageError, read_only=False)

    def test_is_refused_when_it_is_a_folder(self, path: Path) -> None:
        path.mkdir()
        self.refused(path, StorageError, read_only=False)

    @pytest.mark.parametrize(
        "spoil",
        ["UPDATE replies SET reply = '{\"text\": 3}'", "UPDATE replies SET reply = 'half {', parents = '['"],
    )
    def test_a_damaged_reply_is_named_with_its_place(self, path: Path, journal: Journal, spoil: str) -> None:
        asyncio.run(keep(journal, Place("b", 7), Reply(text="x")))
        journal._db.execute(spoil)
        reads: list[Callable[[], object]] = [lambda: journal.find(Place("b", 7)), lambda: list(journal.replies())]
        for read in reads:
            with pytest.raises(InputError, match="b:7") as caught:
                read()
            assert str(path) in caught.value.message

    def test_a_damaged_page_is_an_error_of_the_file(self, path: Path) -> None:
        journal = Journal(path)
        jobs = (keep(journal, Place("b", step), Reply(text="x" * 3000)) for step in range(30))
        asyncio.run(all_at_once(*jobs))
        journal.close()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises(InputError) as caught:
            reopened(path)
        assert str(path) in caught.value.message


@contextmanager
def as_anyone() -> Iterator[None]:
    """root may write everywhere, so root goes as somebody else."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


class TestAFolderThatIsReadOnly:
    @pytest.fixture
    def shown(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "100% #1?" / "journal.sqlite"
            path.parent.mkdir()
            journal = Journal(path)
            asyncio.run(keep(journal, Place("b", 0), Reply(text="zero")))
            journal.close()
            path.chmod(0o444)
            path.parent.chmod(0o555)
            Path(folder).chmod(0o755)
            yield path
            path.parent.chmod(0o755)

    def test_can_be_read_from(self, shown: Path) -> None:
        with as_anyone():
            assert [stored.reply.text for stored in reopened(shown)] == ["zero"]

    def test_cannot_be_written_to(self, shown: Path) -> None:
        with as_anyone(), pytest.raises(StorageError):
            Journal(shown)


@pytest.mark.parametrize(
    "place", [Place("b", 3), Place("b", 3, 0), Place("classify", 0, 12, 2), Place("b", 10, attempt=1)]
)
def test_a_places_name_is_read_back(place: Place) -> None:
    assert Place.read(str(place)) == place


def test_a_journal_in_which_nothing_came_to_stand_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    assert list(tmp_path.iterdir()) == []
    journal = Journal(path)
    journal.keep_input("seeds", b"x", whole=False)
    journal.close()
    for read_only in (True, False):
        journal = Journal(path, read_only=read_only)
        assert list(journal.inputs()) == ["seeds"]
        journal.close()
