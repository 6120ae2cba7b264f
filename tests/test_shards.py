"""What a run leaves on disk: loadable at every moment, the same bytes on every road, and nobody's edits overwritten."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct import state
from selfinstruct.engines import Request, Sampling
from selfinstruct.errors import InputError, StorageError, UsageError
from selfinstruct.files import replacing, write_whole
from selfinstruct.journal import Place
from selfinstruct.loop import Asked, Kept, Rejected
from selfinstruct.recipe import Recipe, load
from selfinstruct.records import Objection, Record
from selfinstruct.shards import ROWS, Shards, checksums, projections, read_kept

RECIPE = load("self-instruct", ["model=scripted/a.toml"])
RICH = load("self-instruct", ['columns=["id", "instruction", "input", "output", "system", "reasoning"]'])
ODD = ["", "über 中文 🙂", 'quotes " and \\', "two\nlines\r\n", "\u2028\x85\x00", "{x}", "null"]


def kept(number: int, *, system: str = "") -> Kept:
    record = Record(
        instruction=f"Do thing {number} {ODD[number % len(ODD)]}",
        input=ODD[number // 3 % len(ODD)],
        output=f"Done {number}" if number % 4 else "",
        system=system,
        task=f"t{number}",
        origin="bootstrap",
        parents=("seed-1", ODD[number % len(ODD)]),
    )
    place = Place("bootstrap", number, 0)
    asked = Asked(place, Request(prompt="x", sampling=Sampling(top_p=0.5), purpose="bootstrap/chat"), "scripted/a.toml")
    return Kept(record, place, {"topic": "art"}, ("image",) if number % 5 == 0 else (), (asked,))


def rejected(number: int) -> Rejected:
    objection = Objection(by="novelty", why=f"too close {ODD[number % len(ODD)]}", neighbour="t1", score=0.75)
    return Rejected(f"bootstrap:{number}.1", objection, Record(instruction=f"No {number}"), "", steer={}, asked=())


def feed(shards: Shards, first: int, last: int) -> None:
    """The part of the one endless stream of this file."""
    for number in range(first, last):
        shards.keep(kept(number))
        if number % 3 == 0:
            shards.reject(rejected(number))


def make(folder: Path, count: int, recipe: Recipe = RECIPE) -> None:
    shards = Shards(folder, recipe, {"bootstrap/chat": "abc"})
    try:
        feed(shards, 0, count)
    finally:
        shards.close()


def content(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    """A folder of 40 rows, for reading only."""
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), 40)
        yield Path(name)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """What ``datasets`` makes of a folder, always with the same cache, as a user would."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return partial(datasets.load_dataset, split="train", cache_dir=str(tmp_path / "cache"))


class TestLoading:
    def test_works_at_every_moment_once_there_is_a_row(self, tmp_path: Path, rows: Callable[[Path], Any]) -> None:
        folder = tmp_path / "run"
        shards = Shards(folder, RECIPE, {})
        assert list((folder / "data").iterdir()) == []  # `datasets` can read no file without rows
        done = 0
        for count in (1, 2, 7, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS):
            feed(shards, done, count)
            shards.flush(force=True)
            done = count
            found = rows(str(folder))
            assert found.num_rows == count
            assert found.column_names == list(RECIPE.columns)
            assert found[count - 1]["instruction"] == kept(count - 1).record.instruction
            assert {feature.dtype for feature in found.features.values()} == {"string"}
        assert [path.name for path in sorted((folder / "data").iterdir())] == [
            "train-00000.jsonl",
            "train-00001.jsonl",
        ]
        shards.close()

    def test_works_where_columns_are_empty_in_one_shard_and_full_in_the_next(
        self, tmp_path: Path, rows: Callable[[Path], Any]
    ) -> None:
        shards = Shards(tmp_path / "run", RICH, {})
        for number in range(ROWS + 1):
            shards.keep(kept(number, system="" if number < ROWS else "Be brief."))
        shards.close()
        found = rows(str(tmp_path / "run"))
        assert found.column_names == list(RICH.columns)
        assert found[0]["system"] == found[ROWS]["reasoning"] == ""
        assert found[ROWS]["system"] == "Be brief."

    def test_gives_the_records_back_with_their_lineage(self, whole: Path) -> None:
        found = list(read_kept(whole))
        assert [record for record, _ in found] == [kept(number).record for number in range(40)]
        assert [origin["id"] for _, origin in found] == [record.id for record, _ in found]


class TestResuming:
    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.integers(0, 40), max_size=4))
    def test_gives_the_bytes_of_one_go_wherever_it_was_broken_off(self, whole: Path, stops: list[int]) -> None:
        with tempfile.TemporaryDirectory() as name:
            for stop in [*stops, 40]:
                make(Path(name), stop)
            assert content(Path(name)) == content(whole)

    def test_writes_nothing_that_is_there_already(self, whole: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
        make(whole, 40)
        assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before

    def test_never_takes_anything_back_on_the_way(self, whole: Path) -> None:
        before = content(whole)
        shards = Shards(whole, RECIPE, {"bootstrap/chat": "abc"})
        for number in range(40):
            assert content(whole) == before
            feed(shards, number, number + 1)
            shards.flush(force=True)
        shards.close()
        assert content(whole) == before

    @settings(deadline=None, max_examples=60)
    @given(st.sampled_from(["lineage.jsonl", "rejected.jsonl", "data/train-00000.jsonl"]), st.floats(0, 1))
    def test_repairs_a_file_that_was_cut_at_any_byte(self, whole: Path, name: str, share: float) -> None:
        with tempfile.TemporaryDirectory() as there:
            folder = Path(there) / "run"
            shutil.copytree(whole, folder)
            os.truncate(folder / name, int(share * (folder / name).stat().st_size))
            make(folder, 40)
            assert content(folder) == content(whole)

    @settings(deadline=None, max_examples=60)
    @given(st.sampled_from(["lineage.jsonl", "rejected.jsonl", "data/train-00000.jsonl"]), st.data())
    def test_refuses_a_file_that_was_edited_and_leaves_it(self, whole: Path, name: str, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as there:
            folder = Path(there) / "run"
            shutil.copytree(whole, folder)
            path = folder / name
            edited = bytearray(path.read_bytes())
            at = data.draw(st.sampled_from([at for at, byte in enumerate(edited) if byte != ord("\n")]))
            edited[at] ^= 1 if edited[at] ^ 1 != ord("\n") else 2
            path.write_bytes(edited)
            with pytest.raises(UsageError) as caught:
                make(folder, 40)
            assert str(path) in caught.value.message
            assert "delete it" in caught.value.hint
            assert path.read_bytes() == edited

    def test_rebuilds_whatever_was_deleted(self, whole: Path, tmp_path: Path) -> None:
        for name in [*content(whole), "data"]:
            folder = tmp_path / name.replace("/", "-")
            shutil.copytree(whole, folder)
            shutil.rmtree(folder / name) if name == "data" else (folder / name).unlink()
            make(folder, 40)
            assert content(folder) == content(whole)

    def test_refuses_rows_that_were_added_to_a_full_shard(self, tmp_path: Path) -> None:
        make(tmp_path, ROWS)
        path = tmp_path / "data" / "train-00000.jsonl"
        path.write_bytes(path.read_bytes() + b'{"id": "mine"}\n')
        with pytest.raises(UsageError, match=r"train-00000\.jsonl"):
            make(tmp_path, ROWS)

    @pytest.mark.parametrize("count", [3, ROWS - 1, ROWS, ROWS + 300])
    def test_after_a_kill_every_file_is_whole_and_the_rest_follows(
        self, tmp_path: Path, count: int, rows: Callable[[Path], Any]
    ) -> None:
        folder, fresh = tmp_path / "run", tmp_path / "fresh"
        script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_shards import RECIPE, Shards, feed
shards = Shards(Path(sys.argv[1]), RECIPE, {{"bootstrap/chat": "abc"}})
feed(shards, 0, 2)
shards.flush(force=True)
feed(shards, 2, {count})
shards.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
        ended = subprocess.run([sys.executable, "-c", script, folder], timeout=60)
        assert ended.returncode == -signal.SIGKILL
        there = rows(str(folder))
        assert there.num_rows in (2, ROWS)
        assert {row["id"] for row in there} <= {line["id"] for line in lines(folder / "lineage.jsonl")}
        make(folder, count)
        make(fresh, count)
        assert content(folder) == content(fresh)


class TestPartsOfTheDead:
    def test_are_swept_away_and_are_nobodys_data(self, tmp_path: Path, rows: Callable[[Path], Any]) -> None:
        folder = tmp_path / "run"
        make(folder, 4)
        before = content(folder)
        (folder / "data" / ".train-00000.jsonl.99999.part").write_text('{"half')
        (folder / ".README.md.99998.part").write_text("---\nhalf")
        assert rows(str(folder)).num_rows == 4
        assert checksums(folder).keys() == {
            "data/train-00000.jsonl",
            "lineage.jsonl",
            "rejected.jsonl",
            "recipe.toml",
            "README.md",
        }
        make(folder, 4)
        assert content(folder) == before

    def test_are_left_alone_in_folders_that_are_not_the_runs(self, tmp_path: Path) -> None:
        other = tmp_path / "mine" / ".x.1.part"
        other.parent.mkdir()
        other.write_text("x")
        make(tmp_path, 1)
        assert other.read_text() == "x"


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """A disk on which no file can grow beyond so many bytes: the rest is a real error of the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestADiskThatIsFull:
    @pytest.mark.parametrize("size", [1, 700, 2_000, 5_000])
    def test_is_told_with_the_path_and_costs_no_line_and_no_byte(self, tmp_path: Path, whole: Path, size: int) -> None:
        shards = Shards(tmp_path, RECIPE, {"bootstrap/chat": "abc"})
        feed(shards, 0, 2)
        shards.flush(force=True)
        feed(shards, 2, 40)
        for _ in range(2):
            with no_file_beyond(size), pytest.raises(StorageError) as caught:
                shards.flush(force=True)
            assert str(tmp_path) in caught.value.message
            assert caught.value.hint
            for path in projections(tmp_path):
                assert whole.joinpath(path.relative_to(tmp_path)).read_bytes().startswith(
                    path.read_bytes()
                ) or path.name in ("README.md", "recipe.toml")
        shards.close()
        assert content(tmp_path) == content(whole)

    def test_leaves_the_old_content_and_nothing_beside_it(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        write_whole(path, b"old")
        with no_file_beyond(100), pytest.raises(StorageError, match=r"a\.json"):
            write_whole(path, b"new" * 100)
        assert content(tmp_path) == {"a.json": b"old"}


class TestFiles:
    def test_are_replaced_whole_or_not_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "a.txt"
        write_whole(path, b"old")
        with pytest.raises(ArithmeticError), replacing(path) as file:
            file.write(b"new, but")
            file.flush()
            assert path.read_bytes() == b"old"
            raise ArithmeticError
        assert content(tmp_path) == {"deep/a.txt": b"old"}
        with replacing(path) as file:
            file.write(b"new")
        assert content(tmp_path) == {"deep/a.txt": b"new"}

    def test_are_not_touched_where_they_hold_it_already(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        write_whole(path, b"same")
        os.utime(path, (1, 1))
        write_whole(path, b"same")
        assert path.stat().st_mtime == 1
        write_whole(path, b"else")
        assert path.read_bytes() == b"else"

    def test_that_cannot_be_written_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder" / "full").mkdir(parents=True)
        for path in (tmp_path / "file" / "a.txt", tmp_path / "folder"):
            with pytest.raises(StorageError) as caught:
                write_whole(path, b"x")
            assert str(path) in caught.value.message
            assert caught.value.hint
        with pytest.raises(StorageError):
            make(tmp_path / "file", 1)


class TestTheCard:
    def test_says_what_was_kept_and_rejected_and_nothing_of_the_day(self, whole: Path) -> None:
        text = (whole / "README.md").read_text()
        assert "self-instruct: 40 records" in text
        assert "| draft | novelty | 14 |" in text
        assert "| | kept | 40 |" in text
        assert "image 8" in text
        assert f"download_size: {(whole / 'data' / 'train-00000.jsonl').stat().st_size}" in text
        assert "license: other" in text
        assert "terms of `scripted/a.toml`" in text

    def test_survives_names_that_yaml_would_read_otherwise(self, tmp_path: Path, rows: Callable[[Path], Any]) -> None:
        recipe = load("alpaca", ["license=mit"], {"name": 'a: "b" #c', "model": "scripted/é\n- x: y"})
        make(tmp_path / "run", 2, recipe)
        assert rows(str(tmp_path / "run")).num_rows == 2


class TestRowsWithoutTheirLineage:
    @pytest.mark.parametrize("name", ["lineage.jsonl", "data/train-00000.jsonl"])
    def test_are_refused_in_a_finished_run_and_awaited_in_one_under_way(self, tmp_path: Path, name: str) -> None:
        make(tmp_path, 6)
        path = tmp_path / name
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
        state.write(tmp_path, {"state": "running"})
        assert len(list(read_kept(tmp_path))) == 4
        for ending in ("complete", "ended"):
            state.write(tmp_path, {"state": ending})
            with pytest.raises(InputError, match="data/, but") as caught:
                list(read_kept(tmp_path))
            assert {"4", "6"} <= set(caught.value.message.split())
