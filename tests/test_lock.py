"""One writer a folder: who is refused, who takes over, and what is said of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfinstruct.errors import StorageError, UsageError
from selfinstruct.lock import STALE, Lock, claimed, owner

HOLDER = """
import sys, time
from pathlib import Path
from selfinstruct.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
lock.release()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until it is sent a line."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def left_by(folder: Path, host: str, age: float, pid: int = 4242) -> None:
    """A lock file as another process would have left it."""
    path = folder / "lock"
    path.write_text(json.dumps({"host": host, "pid": pid, "since": 1.0}))
    then = time.time() - age
    os.utime(path, (then, then))


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    before = (tmp_path / "lock").read_text()
    with pytest.raises(UsageError) as caught:
        Lock(tmp_path)
    assert f"process {holder.pid} on {socket.gethostname()}" in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert caught.value.exit_code == 2
    assert (tmp_path / "lock").read_text() == before


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    with pytest.raises(UsageError, match=str(os.getpid())):
        Lock(tmp_path)
    lock.release()


def test_after_a_killed_owner_the_next_takes_over_and_says_so(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = Lock(tmp_path)
    assert lock.taken_over == f"process {holder.pid} on {socket.gethostname()}"
    lock.release()
    again = Lock(tmp_path)
    assert again.taken_over == ""
    again.release()


def test_after_an_owner_that_left_in_order_there_is_nothing_to_say(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.communicate("\n")
    assert owner(tmp_path) is None
    lock = Lock(tmp_path)
    assert lock.taken_over == ""
    found = owner(tmp_path)
    assert found is not None
    assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
    assert found["age"] < 10
    lock.release()
    assert owner(tmp_path) is None


def test_another_host_with_a_fresh_heartbeat_is_respected(tmp_path: Path) -> None:
    left_by(tmp_path, "elsewhere", STALE / 2)
    before = (tmp_path / "lock").read_text()
    with pytest.raises(UsageError, match="process 4242 on elsewhere"):
        Lock(tmp_path)
    assert (tmp_path / "lock").read_text() == before
    found = owner(tmp_path)
    assert found is not None
    assert found["age"] > STALE / 3


def test_another_host_without_a_heartbeat_is_taken_over_from(tmp_path: Path) -> None:
    left_by(tmp_path, "elsewhere", STALE + 5)
    lock = Lock(tmp_path)
    assert lock.taken_over == "process 4242 on elsewhere"
    lock.release()


def test_a_heartbeat_makes_the_lock_young_again(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    os.utime(tmp_path / "lock", (1.0, 1.0))
    lock.beat()
    found = owner(tmp_path)
    assert found is not None
    assert found["age"] < 10
    lock.release()


def test_an_owner_whose_folder_was_taken_learns_it_and_leaves_the_new_owners_lock(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    left_by(tmp_path, "elsewhere", 0)
    with pytest.raises(UsageError, match="process 4242 on elsewhere"):
        lock.beat()
    lock.release()
    found = owner(tmp_path)
    assert found is not None
    assert found["host"] == "elsewhere"


@pytest.mark.parametrize(("age", "refused"), [(STALE / 2, True), (STALE + 5, False)])
def test_where_the_file_system_has_no_locks_the_heartbeat_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, refused: bool
) -> None:
    def without(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    left_by(tmp_path, socket.gethostname(), age)
    if refused:
        with pytest.raises(UsageError, match="process 4242"):
            Lock(tmp_path)
    else:
        lock = Lock(tmp_path)
        assert lock.taken_over
        lock.release()


def test_a_folder_that_is_not_there_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        Lock(tmp_path / "nowhere")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["host", "pid", "since", "x"]), inner, max_size=4)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_stands_in_the_file_the_owner_can_be_asked_for_and_the_lock_be_had(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "lock"
    path.write_bytes(content)
    os.utime(path, (1.0, 1.0))
    found = owner(tmp_path)
    assert found is None or found.keys() == {"host", "pid", "since", "age"}
    lock = Lock(tmp_path)
    assert bool(lock.taken_over) == bool(found)
    lock.release()


def test_nobody_owns_a_folder_without_a_lock_or_with_a_folder_for_one(tmp_path: Path) -> None:
    assert owner(tmp_path / "nowhere") is None
    (tmp_path / "lock").mkdir()
    assert owner(tmp_path) is None
    with pytest.raises(StorageError):
        Lock(tmp_path)


def test_a_claim_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with claimed(tmp_path / "new") as lock:
        assert lock.taken_over == "" and owner(tmp_path / "new") is not None
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError), claimed(tmp_path / "there"):
        raise RuntimeError
    assert list((tmp_path / "there").iterdir()) == []


def test_a_claim_that_came_to_something_leaves_that_and_its_lock(tmp_path: Path) -> None:
    with claimed(tmp_path / "new"):
        (tmp_path / "new" / "kept").touch()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"kept", "lock"}
    assert owner(tmp_path / "new") is None


def test_who_opened_a_lock_that_was_then_taken_away_does_not_hold_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def late(file: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / "lock").unlink()  # by its owner, between our opening it and locking it
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UsageError, match="in use"):
        Lock(tmp_path)
    Lock(tmp_path).release()
