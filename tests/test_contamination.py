"""Decontamination: each rule against a reference, in any script; nothing paid for what overlaps; the same bytes."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from runfolders import GIVEN, KINDS, dataset, finish, found, lines, plan, run_of, stored_keys, told, watched

import selfinstruct.run
from selfinstruct.cli import main
from selfinstruct.cli.explain import ABOUT, about
from selfinstruct.errors import InputError, UsageError
from selfinstruct.evalsets import names_of, read_items
from selfinstruct.filters import Rules
from selfinstruct.filters.contamination import TOLD, Benchmarks, Hit, nearest, overlap
from selfinstruct.filters.novelty import tokens
from selfinstruct.lineage import lineage
from selfinstruct.recipe import Decontaminate, Recipe, decontaminated, load
from selfinstruct.records import Record
from selfinstruct.replaying import replay, verify

pytestmark = pytest.mark.usefixtures("no_hang")

USUAL = Decontaminate()


def held(*items: str, table: Decontaminate = USUAL) -> Benchmarks:
    return Benchmarks(table, {"b.jsonl": written(*items)})


def written(*items: str) -> bytes:
    return "".join(json.dumps({"question": item}) + "\n" for item in items).encode()


def only(benchmarks: Benchmarks, *texts: str) -> Hit | None:
    """What a record of these texts overlaps, if anything."""
    record = Record(**dict(zip(("instruction", "input", "output"), texts, strict=False)))
    hits = benchmarks.hits(record)
    return nearest(hits) if hits else None


# The rules, against a reference.

WORDS = st.lists(st.sampled_from("abcd"), max_size=14)


def by_hand(item: list[str], words: list[str], table: Decontaminate) -> tuple[int, int]:
    """The longest run of at least a gram that both have, and how many words of the item such runs cover."""
    longest, covered = 0, set()
    for begin in range(len(item)):
        for end in range(begin + table.grams, len(item) + 1):
            if any(item[begin:end] == words[at : at + end - begin] for at in range(len(words))):
                longest = max(longest, end - begin)
                covered |= set(range(begin, end))
    return longest, len(covered)


@settings(max_examples=300)
@given(
    items=st.lists(WORDS.filter(bool), min_size=1, max_size=5),
    words=WORDS,
    grams=st.integers(2, 4),
    more=st.integers(0, 3),
    quarters=st.integers(0, 4),
)
def test_every_hit_is_the_references(
    items: list[list[str]], words: list[str], grams: int, more: int, quarters: int
) -> None:
    table = Decontaminate(words=grams + more, grams=grams, coverage=quarters / 4)
    hits = held(*map(" ".join, items), table=table).hits(Record(instruction=" ".join(words)))
    expected = []
    for line, item in enumerate(items, 1):
        run, covered = by_hand(item, words, table)
        tests = {"exact": item == words, "run": run >= table.words, "coverage": 4 * covered > quarters * len(item)}
        if any(tests.values()):
            coverage = 1.0 if item == words else covered / len(item)
            expected.append((line, run, coverage, tuple(rule for rule, offends in tests.items() if offends)))
    assert [(hit.line, hit.run, hit.coverage, hit.rules) for hit in hits] == expected


@given(
    items=st.lists(WORDS.filter(bool), min_size=1, max_size=4),
    words=WORDS,
    gap=st.sampled_from([" ", ", ", "\n"]),
)
def test_the_words_that_are_told_stand_in_the_item_and_in_the_record(
    items: list[list[str]], words: list[str], gap: str
) -> None:
    table = Decontaminate(words=3, grams=2)
    benchmarks = held(*map(gap.join, items), table=table)
    record = Record(instruction=gap.join(words))
    for hit in benchmarks.hits(record):
        shared = benchmarks.words(hit)
        assert f" {shared} " in f" {' '.join(items[hit.line - 1])} " and f" {shared} " in f" {' '.join(words)} "
        assert len(shared.split()) == (len(items[hit.line - 1]) if hit.exact else hit.run)
        # Told of the item alone, as `explain` does, it is the same, however the file is laid out.
        for name, content in (
            ("b.jsonl", written(*map(gap.join, items))),
            ("b.json", json.dumps({"rows": [{"row_idx": 0, "row": {"q": gap.join(item)}} for item in items]}).encode()),
        ):
            told = overlap(table, content, f"{name}:{hit.line if name == 'b.jsonl' else 1}", record)
            assert told is not None and told.item in map(gap.join, items)
            if name == "b.jsonl":
                assert told == (gap.join(items[hit.line - 1]), shared, hit.run, round(hit.coverage, 4))


def test_words_that_are_told_are_cut_and_unspaced_scripts_stay_so() -> None:
    long = " ".join(f"w{n}" for n in range(50))
    benchmarks = held("谁写了这本非常有名的书？", long)  # noqa: RUF001
    (han,) = benchmarks.hits(Record(instruction="谁写了, 这本非常有名的书"))
    assert benchmarks.words(han) == "谁写了这本非常有名的书"
    (cut,) = benchmarks.hits(Record(instruction=f"So: {long}"))
    assert benchmarks.words(cut) == " ".join(long.split()[:TOLD]) + " …"


@given(before=st.text(max_size=900), after=st.text(max_size=900), gap=st.sampled_from([" ", ", ", "\n", " – "]))  # noqa: RUF001
def test_an_item_is_cut_to_what_lies_about_the_shared_words(before: str, after: str, gap: str) -> None:
    words = [f"Zebra{n}" for n in range(13)]
    text = f"{before} {gap.join(words)} {after}"
    shown = about(text, " ".join(tokens(gap.join(words), "unicode")))
    assert gap.join(words) in shown and shown.strip("…") in text
    assert len(shown) <= len(gap.join(words)) + 2 * ABOUT + 2


SCRIPTS = {
    "latin": lambda n: f"wörd{n}",
    "greek": lambda n: "σς"[n % 2] + "αβγδ"[n % 4] * (n // 4 + 1),
    "cyrillic": lambda n: "слово"[: 1 + n % 5] + "ж" * (n // 5 + 1),
    "arabic": lambda n: "كتاب" + "ب" * (n + 1),
    "hindi": lambda n: "किताब" + "की" * (n + 1),
    "korean": lambda n: "한" + "국" * (n + 1),
    "han": lambda n: chr(0x4E00 + 7 * n),
    "thai": lambda n: chr(0x0E01 + n % 46),
    "figures": lambda n: str(17 * n),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("grams", [8, 13])
@settings(max_examples=25)
@given(data=st.data())
def test_13_words_in_a_row_are_found_anywhere_and_12_are_not(script: str, grams: int, data: st.DataObject) -> None:
    word = SCRIPTS[script]
    item = [word(n) for n in range(40)]
    benchmarks = held("something else", " ".join(item), table=Decontaminate(grams=grams))
    begin = data.draw(st.integers(0, 40 - 13))
    before, after = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30))
    mark = data.draw(st.sampled_from([" ", ", ", "\n", " – ", "…\t"]))  # noqa: RUF001
    change = data.draw(st.sampled_from([str.upper, str.title, str]))
    fields = data.draw(st.integers(0, 2))  # before the planted run: instruction, input, output
    for length, overlaps in ((13, True), (12, False)):
        run = mark.join(item[begin : begin + length])
        # Thai and Arabic have no case; Greek's final sigma folds like the other.
        planted = ["nothing"] * before + [change(run)] + ["more"] * after
        hit = only(benchmarks, *(["else"] * fields), " ".join(planted))
        assert (hit is not None) == overlaps
        if hit is not None:
            assert (hit.line, hit.run, hit.rules) == (2, 13, ("run",))


@settings(max_examples=60)
@given(length=st.integers(8, 60), data=st.data())
def test_an_item_overlaps_above_half_of_its_words_and_not_at_half(length: int, data: st.DataObject) -> None:
    item = [f"w{n}" for n in range(length)]
    count = data.draw(st.integers(8, length))
    pieces = [item[begin : min(begin + 8, count)] for begin in range(0, count, 8)]  # runs of 8, none of 13
    covered = count - count % 8
    hit = only(held(" ".join(item)), " and so ".join(map(" ".join, pieces)))
    assert (hit is not None) == (2 * covered > length)
    if hit is not None:
        assert hit.rules == ("coverage",) or hit.exact
        assert hit.coverage == covered / length


def test_half_is_not_more_than_half() -> None:
    words = " ".join(f"w{n}" for n in range(17))
    for length, overlaps in ((15, True), (16, False), (17, False)):
        item = " ".join(words.split()[:length])
        hit = only(held(item), " ".join(words.split()[:8]))
        assert (hit is not None) == overlaps, length


@pytest.mark.parametrize(
    ("item", "texts", "found"),
    [
        ("What is two plus two?", ("what is TWO plus two",), True),
        ("What is two plus two?", ("What is two plus two?\n",), True),
        ("2 + 2 = ?", ("2+2=?",), False),  # blanks around signs are words' borders
        ("2 * 3 = ?", ("2 / 3 = ?",), False),
        ("yes", ("Yes!",), True),  # the whole of what is asked
        ("yes", ("Is it so?", "yes"), False),
        ("yes", ("Is it so?", "", "Yes."), False),
        ("yes", ("Say yes or no.",), False),
        ("Who wrote War and Peace?", ("Answer the question.", "Who wrote War and Peace?"), True),
        ("Who wrote War and Peace?", ("Who wrote", "War and Peace?"), True),
        ("Who wrote War and Peace?", ("Who wrote War and Peace?", "Two lines."), False),
        ("Qui a écrit cela?", ("QUI A E\u0301CRIT CELA",), True),
        ("谁写了这本书？", ("谁写了这本书",), True),  # noqa: RUF001
        ("???", ("???",), False),  # no word
    ],
)
def test_the_same_question_is_found_but_for_case_blanks_and_punctuation(
    item: str, texts: tuple[str, ...], found: bool
) -> None:
    hit = only(held(item, "Some other question altogether"), *texts)
    assert (hit is not None) == found
    if hit is not None:
        assert hit.exact and hit.rules[0] == "exact" and hit.coverage == 1.0


@settings(max_examples=25)
@given(seed=st.integers(0, 10**9))
def test_random_texts_of_common_words_never_overlap(seed: int) -> None:
    rng = Random(seed)
    common = [f"w{n}" for n in range(200)]
    texts = [" ".join(rng.choices(common, k=rng.randint(5, 120))) for _ in range(60)]
    benchmarks = held(*texts[:40])
    assert not [text for text in texts[40:] if only(benchmarks, text)]


def test_all_items_that_share_a_frame_are_hit_and_the_order_of_files_is_none() -> None:
    frame = "Answer the following question about the history of the town of Lübeck in one word:"
    contents = {"z.txt": f"{frame} one\n{frame} two\n".encode(), "a/b.json": json.dumps([frame]).encode()}
    one = Benchmarks(USUAL, contents)
    other = Benchmarks(USUAL, dict(reversed(contents.items())))
    record = Record(instruction=frame.upper())
    assert one.hits(record) == other.hits(record)
    assert [one.where(hit) for hit in one.hits(record)] == ["a/b.json:1", "z.txt:1", "z.txt:2"]
    assert one.told(nearest(one.hits(record))) == "exact: says the same as a/b.json:1"


def test_no_text_breaks_the_rules() -> None:
    for odd in ("", "\ud800", "\0", "…", "a" * 10_000, "🦆 " * 50, "\u2028"):
        only(held("a question of several words", f"{odd} and a word"), odd, odd, odd)


# Files.


@pytest.mark.parametrize(
    ("name", "text", "items"),
    [
        (
            "a.jsonl",
            '{"question": "q one", "answer": "no"}\n\n{"Problem": "p two", "id": "x"}\r\n',
            {1: ["q one"], 3: ["p two"]},
        ),
        ("a.jsonl", '"just text"\n', {1: ["just text"]}),
        ("a.jsonl", '{"a": "one", "b": {"c": ["two", 3, null]}}', {1: ["one", "two"]}),
        ("a.jsonl", '{"question": {"stem": "s", "choices": [{"text": "no"}]}}', {1: ["s"]}),
        ("a.jsonl", '{"input": "x y", "choices": [{"text": "no"}], "target": "no"}', {1: ["x y"]}),
        ("a.jsonl", '{"turns": ["first", "then"]}', {1: ["first", "then"]}),
        (
            "a.jsonl",
            '{"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "u"}, '
            '{"role": "assistant", "content": "no"}]}',
            {1: ["u"]},
        ),
        ("a.jsonl", '{"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "no"}]}', {1: ["h"]}),
        ("a.jsonl", '{"instruction": "i", "instances": [{"input": "in", "output": "no"}]}', {1: ["i", "in"]}),
        ("a.json", '[\n{"question": "a"},\n\n"b",\n{"question": "c [\\n"}\n]', {2: ["a"], 4: ["b"], 5: ["c [\n"]}),
        ("a.json", '{"canary": "z", "examples": [\n{"input": "a"},\n{"input": "b"}]}', {2: ["a"], 3: ["b"]}),
        ("a.json", '{"question": ["a",\n"b"], "answer": ["c", "d"]}', {1: ["a"], 2: ["b"]}),
        ("a.json", '{"question": "a", "choices": ["b", "c"]}', {1: ["a"]}),
        (
            "a.json",
            '{"data": [{"paragraphs": [{"context": "long", "qas": [{"question": "w", "answers": [{"text": "n"}]}]}]}]}',
            {1: ["long", "w"]},
        ),
        ("a.json", '{"question": "a"}\n{"question": "b"}\n', {1: ["a"], 2: ["b"]}),
        ("a.txt", "\ufeffone line\n\n  two\u2028lines \n", {1: ["one line"], 3: ["  two\u2028lines "]}),
        ("A.JSONL", '{"question": "a", "prompt": "a"}', {1: ["a"]}),
        (  # the hub's rows API
            "a.json",
            '{"features": [{"feature_idx": 0, "name": "question", "type": {"dtype": "string"}}],\n"rows": [\n'
            '{"row_idx": 0, "row": {"question": "a", "answer": "no"}, "truncated_cells": []},\n'
            '{"row_idx": 1, "row": {"sum": "b"}, "truncated_cells": ["no"]}]}',
            {3: ["a"], 4: ["b"]},
        ),
        (  # BIG-bench
            "a.json",
            '{"keywords": ["no"], "metrics": ["no"],\n"examples": [{"input": "a", "target": "no"}], "answers": ["no"]}',
            {2: ["a"]},
        ),
        ("a.json", '{"sizes": [1, 2],\n"first": ["a"],\n"second": [{"x": "b"}]}', {2: ["a"], 3: ["b"]}),
    ],
)
def test_what_is_compared_of_a_file(name: str, text: str, items: dict[int, list[str]]) -> None:
    packed, whole = gzip.compress(text.encode()), zstandard.compress(text.encode())
    frames = b"".join(map(zstandard.compress, (text[:5].encode(), text[5:].encode())))
    for source, content in (
        (name, text.encode()),
        (f"{name}.gz", packed),
        (f"{name}.zst", whole),
        (f"{name}.zst", frames),
        (name, packed),  # the first bytes tell
        (name, whole),
    ):
        assert {item.line: list(item.texts) for item in read_items(content, source, source)} == items


def table(rows: list[dict[str, Any]], **more: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, **more)
    return file.getvalue()


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
ROW = st.fixed_dictionaries(
    {
        "question": TEXT,
        "answer": TEXT,
        "turns": st.lists(TEXT, min_size=1, max_size=2),
        "data": st.fixed_dictionaries({"x": TEXT, "context": TEXT, "n": st.integers(0, 9)}),
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT}), min_size=1
        ),
        "image": st.fixed_dictionaries({"bytes": st.binary(max_size=4)}),
    }
)


@settings(max_examples=50)
@given(
    rows=st.lists(ROW, min_size=1, max_size=5),
    size=st.integers(1, 3),
    keys=st.sets(st.sampled_from(["question", "turns", "data", "messages"])),
)
def test_parquet_holds_the_items_that_the_same_rows_hold_as_lines(
    rows: list[dict[str, Any]], size: int, keys: set[str]
) -> None:
    rows = [{"answer": row["answer"], **{key: row[key] for key in keys}, "image": row["image"]} for row in rows]
    content = table(rows, row_group_size=size)
    lined = "".join(json.dumps({**row, "image": None}) + "\n" for row in rows).encode()

    def read(content: bytes, name: str) -> list[tuple[str, ...]] | str:
        try:
            items = list(read_items(content, name, "source"))
        except InputError as error:
            return error.message
        assert [item.line for item in items] == list(range(1, len(rows) + 1))
        return [item.texts for item in items]

    for name, packed in (
        ("b.parquet", content),
        ("B.PARQUET.ZST", zstandard.compress(content)),
        ("b.parquet.gz", gzip.compress(content)),
        ("b", content),
    ):
        assert read(packed, name) == read(lined, "b.jsonl")


@pytest.mark.parametrize(("name", "library"), [("b.jsonl.zst", "zstandard"), ("b.parquet", "pyarrow")])
def test_a_package_that_is_missing_is_named_with_its_extra(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": "What is asked here?"}]
    (tmp_path / name).write_bytes(
        table(rows) if library == "pyarrow" else zstandard.compress(json.dumps(rows).encode())
    )
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=f"{name}: reading it takes the package {library}") as error:
        run_of(tmp_path / "run", plan(num=5), decontaminate=[tmp_path / name]).check()
    assert "selfinstruct[data]" in error.value.hint


def test_items_without_a_word_do_not_count_and_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_bytes(written("???", "Which of these numbers is prime?", "", "…") + b'{"id": 7}\n' + written("Why?"))
    with caplog.at_level(logging.WARNING):
        finish(tmp_path / "run", plan(num=5), decontaminate=[bench])
        replay(tmp_path / "run", [], tmp_path / "again")
        verify(tmp_path / "run")
    assert caplog.messages == [f"{bench}: 4 items have no word, and are left out of the count"]
    (one,) = report(tmp_path / "run")["eval_sets"]
    assert one["items"] == 2
    benchmarks = Benchmarks(USUAL, {"bench.jsonl": bench.read_bytes()})
    assert only(benchmarks, "why") is not None and benchmarks.items == [2]
    assert [benchmarks.where(hit) for hit in benchmarks.hits(Record(instruction="why"))] == ["bench.jsonl:6"]
    with pytest.raises(InputError, match=r"b.txt: no text to compare with"):
        Benchmarks(USUAL, {"b.txt": b"???\n"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["question", "answer", "role", "data", "from", "x"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=12,
)


@given(rows=st.lists(JSON, max_size=4), indent=st.sampled_from([None, 0, 2]), wrapped=st.booleans())
def test_rows_are_the_same_in_every_wrapping_or_the_file_says_nothing(
    rows: list[Any], indent: int | None, wrapped: bool
) -> None:
    def read(content: str, name: str) -> list[tuple[str, ...]] | str:
        try:
            return [item.texts for item in read_items(content.encode("utf-8", "surrogatepass"), name, name)]
        except InputError as error:
            return error.message

    flat = read("".join(json.dumps(row) + "\n" for row in rows), "x.jsonl")
    listed = read(json.dumps({"rows": rows, "n": 1} if wrapped and rows else rows, indent=indent), "x.json")
    if isinstance(flat, str) or isinstance(listed, str):
        assert isinstance(flat, str) and isinstance(listed, str)
    else:
        assert flat == listed


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("b.jsonl", b'{"question": "a b c"}\n{"question": \n', "b.jsonl:2: not JSON"),
        ("b.json", b'[{"question": "a"},\n\n{]', "b.json:3: not JSON"),
        ("b.json", b"", "b.json:1: not JSON"),
        ("b.txt", b"good\nb\xff\xfe", "b.txt:2: not UTF-8"),
        ("b.parquet", b"PAR1\x15\x04\x80", "b.parquet: not Parquet that can be read, after row 0"),
        ("b.parquet", table([{"question": "a b c"}])[:40] + b"\0" * 40, "b.parquet: not Parquet that can be read"),
        ("b.parquet", table([{"n": 3}]), "b.parquet: no text to compare with"),
        ("b.jsonl.zst", b"{}", "b.jsonl.zst: damaged, or cut off"),
        ("b.jsonl.zst", zstandard.compress(b'{"question": "a b"}\n')[:-3], "b.jsonl.zst: damaged, or cut off"),
        ("b.csv", b"question,answer\na,b\n", "b.csv: CSV is not read: convert it to JSONL"),
        ("b.TSV.gz", gzip.compress(b"question\tanswer\n", mtime=0), "b.TSV.gz: TSV is not read: convert it to JSONL"),
        ("b.txt.gz", b"plain", "b.txt.gz: damaged, or cut off"),
        ("b.jsonl.gz", gzip.compress(b'{"question": "a b"}\n', mtime=0)[:-9], "b.jsonl.gz: damaged, or cut off"),
        ("b.txt", b"\n \n", "b.txt: no text to compare with"),
        ("b.jsonl", b'{"id": 3}\n', "b.jsonl: no text to compare with"),
        ("b.jsonl", b"[" * 100_000, "b.jsonl:1"),
    ],
)
def test_a_bad_file_is_told_by_its_place_before_anything_is_written(
    name: str, content: bytes, place: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        finish(tmp_path / "run", plan(num=5), decontaminate=[tmp_path / name])
    assert f"{tmp_path}/{place}" in error.value.message
    assert error.value.hint
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InputError, match=path.name):
            run_of(tmp_path / "run", plan(num=5), decontaminate=[path]).check()


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    paths = [Path("/x/math/test.jsonl"), Path("/x/gsm8k/test.jsonl"), Path("/x/ifeval.json"), Path("/x/./ifeval.json")]
    assert list(names_of(paths)) == ["math/test.jsonl", "gsm8k/test.jsonl", "ifeval.json"]
    assert set(names_of([Path("/a/t.json"), Path("/b/a/t.json"), Path("/t.json")]).values()) == {
        Path("/a/t.json"), Path("/b/a/t.json"), Path("/t.json")
    }  # fmt: skip


# Runs.


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Runs held against nothing, and beside each a benchmark of questions that it kept. Nobody writes into them."""
    folders = {}
    for kind in KINDS:
        folder = folders[kind] = tmp_path_factory.mktemp("plain") / "run"
        finish(folder, plan(kind, num=40))
        made = [row for row, line in kept(folder) if line.get("evolution", {}).get("round", 1) > 0]
        (folder.parent / "bench.jsonl").write_bytes(
            written(
                *(f"{row['instruction']}\n{row['output' if 'quality' in kind[0] else 'input']}" for row in made[::7])
            )
        )
    return folders


def kept(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    shards = sorted((folder / "data").glob("train-*.jsonl"))
    return list(zip((row for shard in shards for row in lines(shard)), lines(folder / "lineage.jsonl"), strict=True))


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "contamination.json").read_text(encoding="utf-8"))
    return content


def beside(tmp_path: Path, made: Path) -> Path:
    """Its benchmark, with the dataset that it read, in a folder of one's own."""
    if (made.parent / "source.jsonl").exists():
        shutil.copy(made.parent / "source.jsonl", tmp_path)
    return Path(shutil.copy(made.parent / "bench.jsonl", tmp_path))


def stopped(folder: Path, recipe: Recipe, at: int, files: list[Path]) -> None:
    engine = watched(recipe, jitter=at, at=at, strike=lambda: run.leave())
    run = run_of(folder, recipe, engine, decontaminate=files)
    for _ in run:
        pass


def overlapping(folder: Path, bench: Path) -> list[str]:
    """The kept records that overlap, and were not given."""
    benchmarks = Benchmarks(USUAL, {bench.name: bench.read_bytes()})
    return [
        line["id"]
        for row, line in kept(folder)
        if line.get("evolution", {}).get("round", 1) > 0
        and only(benchmarks, row["instruction"], row["input"], row["output"]) is not None
    ]


def rejects(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder / "rejected.jsonl") if line["by"] == "contaminated"]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_nothing_that_overlaps_is_kept_or_paid_for(
    kind: tuple[str, str], plain: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    bench = beside(tmp_path, plain[kind])
    folder = tmp_path / "run"
    finish(folder, plan(kind, num=40), decontaminate=[bench])
    benchmarks = Benchmarks(USUAL, {"bench.jsonl": bench.read_bytes()})
    dropped = rejects(folder)
    assert dropped and not overlapping(folder, bench)
    with closing(sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True)) as db:
        for line in dropped:
            assert only(benchmarks, line["instruction"], line["input"], line["output"]) is not None
            assert line["why"].startswith(("exact: ", "13-gram: ", "8-gram: "))
            assert line["neighbour"].startswith("bench.jsonl:") and line["neighbour"] in line["why"]
            assert 0 < line["score"] <= 1
            if line["at"] == "draft":
                stage, _, place = line["name"].rpartition(":")
                asked = db.execute("SELECT stage FROM replies WHERE step = ? AND item = ?", place.split("."))
                assert asked.fetchall() == []  # the step's own request stands at item -1
                assert stage in ("bootstrap", "alpaca", *GIVEN)
    figures = told(folder)["figures"]
    assert figures["rejected"]["contaminated"] == len(dropped)
    account = report(folder)
    assert sum(account["dropped"].values()) == account["overlapping"]["dropped"] == len(dropped)
    (one,) = account["eval_sets"]
    assert [row["train_id"] for row in one["rows"] if row["in"] == "dropped"] == [line["name"] for line in dropped]
    assert {row["eval_id"] for row in one["rows"] if row["in"] == "dropped"} <= {line["neighbour"] for line in dropped}
    assert one["items"] == len(lines(bench))
    asked = lines(bench)
    for line in dropped:
        shared = (lineage(folder, line["name"]) or {})["overlap"]
        row = next(row for row in one["rows"] if row["train_id"] == line["name"])
        assert shared["eval_id"] == line["neighbour"] == row["eval_id"]
        assert shared["item"] == asked[int(line["neighbour"].rpartition(":")[2]) - 1]["question"]
        assert (shared["words"], shared["coverage"]) == (row["words"], row["coverage"])
        said = f"{line['instruction']}\n{line['input']}\n{line['output']}"
        for text in (said, shared["item"]):
            words = shared["words"].removesuffix(" …")
            assert f" {words} " in f" {' '.join(tokens(text, 'unicode'))} "
            assert len(words.split()) <= TOLD
    assert one["overlapped"]["dropped"]["any"] <= one["items"]
    assert "contamination.json" in told(folder)["sha256"]
    assert f"| bench.jsonl | {one['sha256'][:12]} | {one['items']} |" in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[5], KINDS[7]], ids="-".join)
def test_neither_order_nor_interruption_nor_a_replay_changes_a_byte(
    kind: tuple[str, str], plain: dict[tuple[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfinstruct.run, "TICK", 0.002)
    bench = beside(tmp_path, plain[kind])
    other = tmp_path / "other.txt"
    other.write_text("A question that nobody asks in any of these runs.\n")
    recipe = plan(kind, num=40)
    finish(tmp_path / "whole", recipe, watched(recipe, concurrency=1), decontaminate=[bench, other])
    folder = tmp_path / "run"
    for at in (7, 40):
        stopped(folder, recipe, at, [other, bench])
        assert not [finding for finding in verify(folder) if not finding.right]
    finish(folder, recipe, watched(recipe, jitter=3), decontaminate=[bench, other, bench])
    assert "contamination.json" in found(folder)
    assert found(folder) == found(tmp_path / "whole")
    for path in (bench, other):  # all that the rule needs is in the journal
        path.unlink()
    replay(folder, [], tmp_path / "again")
    assert found(tmp_path / "again") == found(folder)
    assert not [finding for finding in verify(folder) if not finding.right]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_finished_run_is_held_against_a_benchmark_later(
    kind: tuple[str, str], plain: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    bench, out = plain[kind].parent / "bench.jsonl", tmp_path / "out"
    replay(plain[kind], [], out, decontaminate=[bench])
    dropped = rejects(out)
    assert not overlapping(out, bench)
    assert overlapping(plain[kind], bench)
    assert dropped and report(out)["overlapping"]["dropped"] == len(dropped)
    # The folder's own journal holds no benchmark: the words that are told are the report's.
    shared = (lineage(out, dropped[0]["name"]) or {})["overlap"]
    assert shared["item"] == "" and shared["words"]
    assert shared["words"] in [row["words"] for row in report(out)["eval_sets"][0]["rows"]]
    # Switched off, the rule drops nothing and the report still tells.
    replay(plain[kind], [], tmp_path / "told", decontaminate=[bench], without=["contaminated"])
    assert found(tmp_path / "told")["data/train-00000.jsonl"] == found(plain[kind])["data/train-00000.jsonl"]
    (one,) = report(tmp_path / "told")["eval_sets"]
    assert one["overlapped"]["data"]["any"] == one["items"]
    assert one["lines"]["exact"] == {"share": round(one["overlapped"]["data"]["exact"] / one["items"], 6)}
    assert one["lines"]["8-gram"]["above"] == (one["overlapped"]["data"]["8-gram"] > 0.02 * one["items"])
    assert report(tmp_path / "told")["overlapping"]["dropped"] == 0


def test_a_replay_adds_benchmarks_and_may_change_thresholds(plain: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    made = plain["self-instruct", "strict"]
    other = tmp_path / "other.txt"
    other.write_text("one question\n")
    finish(tmp_path / "run", plan(num=20), decontaminate=[other])
    replay(tmp_path / "run", [], tmp_path / "more", decontaminate=[made.parent / "bench.jsonl"])
    assert [one["eval_set"] for one in report(tmp_path / "more")["eval_sets"]] == ["bench.jsonl", "other.txt"]
    other.write_text("".join(f"{row['instruction']}\n" for row, _ in kept(tmp_path / "run")))
    replay(tmp_path / "run", ["decontaminate.words=20"], tmp_path / "anew", decontaminate=[other])
    assert [one["items"] for one in report(tmp_path / "anew")["eval_sets"]] == [20]
    assert set(report(tmp_path / "anew")["dropped"]) == {"exact", "20-gram", "8-gram"}
    with pytest.raises(UsageError, match=r"replay cannot change inputs"):
        replay(tmp_path / "run", ['inputs."benchmark:other.txt"="x"'], tmp_path / "no")


def test_a_begun_run_is_held_to_its_benchmarks(tmp_path: Path) -> None:
    bench = tmp_path / "bench.txt"
    bench.write_text("one question\n")
    finish(tmp_path / "run", plan(num=10), decontaminate=[bench])
    there, keys = found(tmp_path / "run"), stored_keys(tmp_path / "run")
    assert finish(tmp_path / "run", plan(num=10), decontaminate=[bench]).note.startswith("complete already")
    bench.write_text("another question\n")
    for files in ([bench], [], [bench, __file__]):
        with pytest.raises(UsageError, match=r'inputs\."benchmark:bench.txt"|inputs\."benchmark:test_') as error:
            finish(tmp_path / "run", plan(num=20), decontaminate=files)
        assert "--fresh" in error.value.hint
        assert f"`selfinstruct replay {tmp_path / 'run'} --decontaminate FILE --out NEW`" in error.value.hint
    assert (found(tmp_path / "run"), stored_keys(tmp_path / "run")) == (there, keys)
    (tmp_path / "run" / "contamination.json").write_text("{}")  # as docs/runs.md says, it is written again
    bench.write_text("one question\n")
    finish(tmp_path / "run", plan(num=10), decontaminate=[bench])
    assert found(tmp_path / "run") == there
    finish(tmp_path / "run", plan(num=10), fresh=True)
    assert "contamination.json" not in found(tmp_path / "run")


def test_seeds_and_rows_that_overlap_stay_and_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(
        "".join(
            json.dumps({"id": f"s{n}", "instruction": f"Tell what the thing number {n} does.", "output": "x"}) + "\n"
            for n in range(8)
        )
    )
    bench = tmp_path / "bench.txt"
    bench.write_text("tell what the thing, number 3, does\nSay what the number 5 is good for: case 5\n")
    with caplog.at_level(logging.WARNING):
        finish(tmp_path / "run", plan(num=5), seeds=seeds, decontaminate=[bench])
    assert f"{seeds}: task s3 overlaps a benchmark, and stays: exact: says the same as bench.txt:1" in caplog.messages
    assert report(tmp_path / "run")["overlapping"] == {"seeds": 1, "dropped": 0, "data": 0}
    caplog.clear()
    source = dataset(tmp_path, 9)
    recipe = plan("evolve/wizardlm")
    with caplog.at_level(logging.WARNING):
        run_of(tmp_path / "evolved", recipe, source=source, decontaminate=[bench]).check()
    assert caplog.messages == [
        f"{source}: row 5, counted from 0, overlaps a benchmark, and stays: exact: says the same as bench.txt:2"
    ]
    finish(tmp_path / "evolved", recipe, source=source, decontaminate=[bench])
    assert "number 5 " in (lineage(tmp_path / "evolved", "evolve:5") or {})["record"]["instruction"]
    (one,) = report(tmp_path / "evolved")["eval_sets"]
    assert [row["in"] for row in one["rows"]].count("data") == 1
    assert one["overlapped"]["data"]["exact"] == 1
    assert any(
        line["evolution"]["round"] == 0 and "number 5 " in row["instruction"]
        for row, line in kept(tmp_path / "evolved")
    )


def test_an_input_written_with_the_answer_is_judged_too(plain: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    long = [row for row, _ in kept(plain["self-instruct", "strict"]) if len(row["input"].split()) > 9]
    bench = tmp_path / "bench.jsonl"
    bench.write_bytes(written(*(row["input"] for row in long)))
    finish(tmp_path / "run", plan(num=40), decontaminate=[bench])
    assert any(line["at"] == "answer" for line in rejects(tmp_path / "run"))
    assert not [finding for finding in verify(tmp_path / "run") if not finding.right]


def test_a_rule_with_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    for recipe in (plan("self-instruct", "decontaminate.words=20"), decontaminated(plan("self-instruct"))):
        with pytest.raises(UsageError) as error:
            run_of(tmp_path / "run", recipe).check()
        assert "--decontaminate" in error.value.hint
    with pytest.raises(UsageError, match="fewer than grams"):
        load("alpaca", ["decontaminate.words=7"])


def test_a_place_of_ones_own_for_the_rule_is_kept() -> None:
    recipe = load("self-instruct", ['filters.draft=["duplicate", "contaminated"]'])
    assert decontaminated(recipe).filters.draft == ("duplicate", "contaminated")
    assert decontaminated(recipe).filters.answer[0] == "contaminated"
    assert Rules(("contaminated",), recipe, "draft").objection(Record(instruction="x")) is None  # held against nothing


# The command line.


def test_the_command_line_takes_benchmarks_and_every_verb_tells_of_the_rule(
    plain: dict[tuple[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfinstruct", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        return (left.value.code or 0, *capsys.readouterr())  # type: ignore[return-value]

    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.chdir(tmp_path)
    made = plain["self-instruct", "strict"]
    bench, model = beside(tmp_path, made), plan().model
    words = ("generate", "--model", model, "--num", 40, "--out", "run", "--decontaminate", bench)
    code, out, _ = call(*words, "--dry-run")
    assert code == 0 and "bootstrap" in out and not Path("run").exists()
    assert f"1 benchmark, {len(lines(bench))} items\n" in out
    Path("more.txt").write_text("What is said here?\n" * 1204)
    code, out, _ = call(*words, "--decontaminate", "more.txt", "--dry-run")
    assert code == 0 and f"2 benchmarks, {1204 + len(lines(bench)):,} items\n" in out
    Path("bad.jsonl").write_text("{")
    code, _, err = call(*words, "--decontaminate", "bad.jsonl", "--dry-run")
    assert code == 3 and "bad.jsonl:1: not JSON" in err
    code, out, _ = call(*words, "-q")
    assert code == 0 and "contaminated" in out
    dropped = report(Path("run"))["eval_sets"][0]["overlapped"]["dropped"]["any"]
    line = (
        f"bench.jsonl: of {len(lines(bench))} items {dropped} overlap what was rejected as contaminated, 0 what is in"
    )
    assert line in out and "run/contamination.json" in out.partition("next:")[2]
    code, out, _ = call(*words, "-q", "--json")
    assert json.loads(out)["benchmarks"] == [
        {"eval_set": "bench.jsonl", "items": len(lines(bench)), "dropped": dropped, "data": 0, "seeds": 0}
    ]
    name = rejects(Path("run"))[0]["name"]
    code, out, _ = call("show", "run", "--rejected")
    assert code == 0 and name in out and "bench.jsonl:" in out
    code, out, _ = call("explain", "run", name, "--prompt")
    assert code == 0 and "rejected at draft by contaminated" in out and "bench.jsonl:" in out
    shared = (lineage(Path("run"), name) or {})["overlap"]
    assert re.search(r"bench.jsonl:\d+ asks:\n", out) and shared["item"].split("\n")[0][:80] in out
    assert f"    {shared['words']}\n" in out
    bench.rename("moved.jsonl")  # the journal has it
    code, again, _ = call("explain", "run", name, "--json")
    assert code == 0 and json.loads(again)["overlap"] == shared
    Path("moved.jsonl").rename(bench)
    code, out, _ = call("verify", "run")
    assert code == 0 and "contamination.json" in out
    code, out, _ = call("replay", made, "--decontaminate", bench, "--out", "again")
    assert code == 0 and "bench.jsonl: of " in out
    code, _, err = call(*words[:-2], "--without", "contaminated")
    assert code == 2 and "contaminated" in err
    source = dataset(tmp_path)
    bench = tmp_path / "bench.txt"
    bench.write_text("Say what the number 4 is good for.\n")
    plan_of = ("answer", source, "--model", model, "--out", "planned", "--decontaminate", bench, "--dry-run")
    for more, asked in (((), 39), (("--without", "contaminated"), 40)):
        code, out, _ = call(*plan_of, *more)
        assert code == 0 and re.search(rf"^answer +{asked} ", out, re.MULTILINE)
        assert ("1 row overlaps one and goes unanswered" in out) == (asked == 39)
        code, out, _ = call(*plan_of, *more, "--json")
        told_us = json.loads(out)
        assert told_us["stages"][0]["requests"] == asked
        assert (told_us["benchmarks"], told_us["rows_that_overlap"]) == ({"bench.txt": 1}, 40 - asked)
    for verb in ("answer", "evolve"):
        code, out, err = call(
            verb,
            source,
            "--model",
            model,
            "--out",
            verb,
            "--decontaminate",
            bench,
            "-q",
            *(("--rounds", 1) if verb == "evolve" else ()),
        )
        assert code == 0, err
        assert report(Path(verb))["overlapping"]["dropped" if verb == "answer" else "data"] == 1
        assert "bench.txt: of 1 items " in out and f"{verb}/contamination.json" in out
