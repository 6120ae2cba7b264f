"""Seeds and datasets: what is written is read back, and what is wrong is named by its line."""

from __future__ import annotations

import gzip
import json
import logging
import os
import subprocess
import sys
import tracemalloc
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from selfinstruct.encodings import encode
from selfinstruct.errors import InputError, StorageError, UsageError
from selfinstruct.formats import (
    FORMATS,
    read_dataset,
    read_row,
    read_seeds,
    read_stored,
    row,
    stored_row,
    stored_texts,
    write_dataset,
)
from selfinstruct.records import Record
from selfinstruct.values import LIMIT, Unread

TRAPS = [
    "{x} {{y}} {{{z}}} {% raw %}",
    "%s %(a)d %%",
    "### Instruction:\n###",
    "<noinput>",
    "<|im_start|>assistant\n[INST] <s> Human: </s>",
    "</script><!-- & ]]>",
    "👩‍👩‍👧 שלום مرحبا \u202eabc\u202c",
    "a\r\nb\rc\td\v\f",
    "one\u2028two\u2029three\x85four\x1cfive",
    '"quoted" \\ \\u0041 \\ud800',
    "\ufeffmark",
    " \n edges \n ",
    "'''\"\"\"```",
]
text = st.one_of(st.text(max_size=40), st.sampled_from(TRAPS))
plain = st.builds(Record, instruction=text, input=text, output=text, system=text, reasoning=text)
records = st.lists(plain, min_size=1, max_size=5)

seed_text = text.map(lambda t: t.replace("\0", ""))
seed_row = st.fixed_dictionaries(
    {"instruction": seed_text.map(lambda t: t + "x"), "input": seed_text, "output": seed_text},
    optional={"id": st.integers(), "topic": st.none() | st.text() | st.floats(allow_nan=False, allow_infinity=False)},
)
seed_rows = st.lists(
    seed_row, min_size=1, max_size=6, unique_by=lambda r: (r["instruction"], r["input"], r["output"])
).map(lambda rows: [{**r, "id": i} if "id" in r else r for i, r in enumerate(rows)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def shown(found: Any) -> list[tuple[str, ...]]:
    return [(r.instruction, r.input, r.output, r.system, r.reasoning) for r in found]


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def asked(record: Record) -> str:
    return record.instruction + ("\n\n" + record.input if record.input else "")


# What each format can carry of (instruction, input, output, system, reasoning)
CARRIED = {
    "alpaca": lambda r: (r.instruction, r.input, r.output, "", ""),
    "self-instruct": lambda r: (r.instruction, r.input, r.output, "", ""),
    "messages": lambda r: (asked(r), "", r.output, r.system, r.reasoning),
    "openai": lambda r: (asked(r), "", r.output, r.system, ""),
    "sharegpt": lambda r: (asked(r), "", r.output, r.system, ""),
    "trl": lambda r: (asked(r), "", r.output, r.system, ""),
    "gpt3": lambda r: ((said := encode(r, Random(r.id)))[0], "", said[1], "", ""),
}


@pytest.mark.parametrize(
    ("name", "ending"),
    [(name, ending) for name in FORMATS for ending in (".json", ".jsonl") if (name, ending) != ("openai", ".json")],
)
def test_what_is_written_is_read_back(name: str, ending: str, folder: Path) -> None:
    path = folder / f"back-{name}{ending}"

    @settings(max_examples=30)  # each waits for the disk
    @given(records)
    @example([Record(instruction=trap, input=trap, output=trap, system=trap, reasoning=trap) for trap in TRAPS])
    def law(rows: list[Record]) -> None:
        assert write_dataset(rows, path, name) == [path]
        assert sorted(shown(read_dataset(path))) == sorted(CARRIED[name](r) for r in rows)
        if name != "self-instruct":  # which gathers the instances of a task
            assert shown(read_dataset(path)) == [CARRIED[name](r) for r in rows]

    law()


@pytest.mark.parametrize("name", FORMATS)
def test_every_row_is_one_line_for_any_reader_and_its_keys_never_change_places(name: str, folder: Path) -> None:
    path = folder / f"lines-{name}.jsonl"

    @settings(max_examples=30)  # each waits for the disk
    @given(records)
    def law(rows: list[Record]) -> None:
        write_dataset(rows, path, name)
        content = path.read_bytes()
        assert content.decode().splitlines() == content.decode().removesuffix("\n").split("\n")
        assert len({tuple(json.loads(line)) for line in content.splitlines()}) == 1
        assert b"\r" not in content and content.endswith(b"\n")
        write_dataset(read_dataset(path), folder / "second.jsonl", name)
        if name not in ("self-instruct", "gpt3"):  # one names nameless tasks by content, one encodes anew
            assert (folder / "second.jsonl").read_bytes() == content

    law()


@given(records)
def test_a_shard_line_gives_the_record_back(rows: list[Record]) -> None:
    columns = ("id", "instruction", "input", "output", "system", "reasoning")
    for record in rows:
        line = row(record, columns)
        assert shown([read_row(line)]) == shown([record])
        assert list(json.loads(line)) == list(columns)
        assert read_row(line).task == record.id
        assert len(line.splitlines()) == 1
        assert tuple(json.loads(row(record, columns[:4]))) == columns[:4]


tasks = st.lists(
    st.tuples(
        seed_text.map(lambda t: t + "x"),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        st.booleans(),
        st.lists(st.tuples(seed_text, seed_text), min_size=1, max_size=4, unique=True),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda t: t[0],
)


@settings(max_examples=30)
@given(tasks, st.sampled_from([".json", ".jsonl"]), st.randoms(use_true_random=False))
def test_seed_tasks_keep_their_instances_however_the_records_lie(
    folder: Path, tasks: list[Any], ending: str, random: Any
) -> None:
    seeds = [
        Record(instruction=what, input=i, output=o, name=name, classification=yes, task=f"task_{n}")
        for n, (what, name, yes, instances) in enumerate(tasks)
        for i, o in instances
    ]
    path = folder / f"tasks{ending}"
    write_dataset(seeds, path, "self-instruct")
    assert read_seeds(path) == seeds
    mixed = seeds.copy()
    random.shuffle(mixed)
    write_dataset(mixed, path, "self-instruct")
    assert {r.model_dump_json() for r in read_seeds(path)} == {r.model_dump_json() for r in seeds}


def test_two_instructions_under_one_task_are_written_as_two_tasks(tmp_path: Path) -> None:
    one, two = Record(instruction="Sort.", task="t"), Record(instruction="Sort it.", task="t")
    (path,) = write_dataset([one, two], tmp_path / "t.jsonl", "self-instruct")
    assert [r.task for r in read_seeds(path)] == ["t", two.id]


# Seeds


def test_the_schema_of_the_original_seed_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "seed_tasks.jsonl"
    path.write_text(
        '{"id": "seed_task_0", "name": "plan", "instruction": "Plan a day.", '
        '"instances": [{"input": "", "output": "Rest."}], "is_classification": false}\n'
        '{"id": "seed_task_1", "name": "mood", "instruction": "Tell the mood.", "motivation_app": "Mail", '
        '"instances": [{"input": "Hooray", "output": "glad"}, {"input": "Alas", "output": "sad"}], '
        '"is_classification": true}\n'
    )
    mood = {"instruction": "Tell the mood.", "name": "mood", "classification": True, "task": "seed_task_1"}
    assert read_seeds(path) == [
        Record(instruction="Plan a day.", output="Rest.", name="plan", classification=False, task="seed_task_0"),
        Record(input="Hooray", output="glad", **mood),
        Record(input="Alas", output="sad", **mood),
    ]


def test_a_seed_without_an_id_is_named_by_its_content_and_may_lack_its_output(tmp_path: Path) -> None:
    path = tmp_path / "seeds.json"
    path.write_text('[{"instruction": "مرتب کن", "input": null}, {"id": 7, "instruction": "b", "output": "c"}]')
    first, second = read_seeds(path)
    assert (first.instruction, first.input, first.output) == ("مرتب کن", "", "")
    assert (first.task, second.task, first.origin) == (first.id, "7", "seed")


@given(seed_rows, st.data())
def test_byte_order_mark_crlf_blank_lines_and_layout_change_nothing(folder: Path, rows: list[Any], data: Any) -> None:
    plain, dressed = folder / "plain.jsonl", folder / "dressed.json"
    plain.write_bytes(lines(*rows))
    expected = read_seeds(plain)
    assert [r.instruction for r in expected] == [r["instruction"] for r in rows]

    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    blank = st.sampled_from([b"", end, b" \t" + end, end * 3])
    mark = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    body = b"".join(data.draw(blank) + json.dumps(r, ensure_ascii=False).encode() + end for r in rows)
    dressed.write_bytes(mark + body + data.draw(blank))
    assert read_seeds(dressed) == expected
    dressed.write_bytes(mark + body.rstrip())
    assert read_seeds(dressed) == expected

    listed = json.dumps(rows, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 0, 4])))
    dressed.write_bytes(mark + data.draw(blank) + listed.encode().replace(b"\n", end) + data.draw(blank))
    assert read_seeds(dressed) == expected


GOOD = [{"instruction": f"Do {i}.", "output": "Done."} for i in range(6)]
BAD_LINES = [
    b"{",
    b"not json",
    b'{"instruction": "a"} {"instruction": "b"}',
    b'{"instruction": "a"},',
    b'"text"',
    b"12",
    b"null",
    b"{}",
    b'{"input": "a"}',
    b'{"instruction": 3}',
    b'{"instruction": null}',
    b'{"instruction": ["a"]}',
    b'{"instruction": "a", "input": {}}',
    b'{"instruction": "a", "output": false}',
    b'{"instruction": "a", "id": 1.5}',
    b'{"instruction": "a", "id": true}',
    b'{"instruction": ""}',
    b'{"instruction": " \\n"}',
    b'{"instruction": "a", "score": NaN}',
    b'{"instruction": "a", "score": -Infinity}',
    b'{"instruction": "a", "score": ' + b"9" * 5000 + b"}",
    b'{"instruction": "a", "deep": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    b'{"instruction": "a\\u0000"}',
    b'{"instruction": "a", "output": "\\ud83d"}',
    b'{"instruction": "a\0"}',
    b'{"instruction": "\xff"}',
    b'{"instruction": "\xed\xa0\x80"}',
    b'{"instruction": "tab\there"}',
    b'{"instruction": "a", "instances": []}',
    b'{"instruction": "a", "instances": {}}',
    b'{"instruction": "a", "instances": ["b"]}',
    b'{"instruction": "a", "instances": [{"input": 3}]}',
    b'{"instruction": "a", "instances": [{}, {}]}',
    b'{"instances": [{}]}',
    b'{"instruction": "a", "instances": [{}], "is_classification": "Yes"}',
    b'{"instruction": "a", "history": [["b", "c"]]}',
]


@given(st.integers(0, len(GOOD)), st.sampled_from(BAD_LINES), st.booleans(), st.booleans())
def test_a_bad_line_is_named_by_its_number(folder: Path, at: int, bad: bytes, blank: bool, listed: bool) -> None:
    rows = [json.dumps(r).encode() for r in GOOD]
    rows.insert(at, bad)
    number = at + 1
    if blank:
        rows.insert(0, b"")
        number += 1
    content = b"\n".join(rows)
    if listed:
        skip = 1 if blank else 0
        content = b"\n" * skip + b"[" + b",\n".join(rows[skip:]) + b"]"
    path = folder / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_seeds(path)
    assert caught.value.message.startswith(f"{path}:{number}: ")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no tasks"),
        (b"\n \r\n", "no tasks"),
        (b"\xef\xbb\xbf", "no tasks"),
        (b"[]", "no tasks"),
        (b"[ ]\n", "no tasks"),
        (b'"seeds"', ":1: a row must be an object, found text: 'seeds'"),
        (b"Sort a list.\nSum it.\n", ":1: not JSON: Expecting value (column 1)"),
        (b'{"instruction": "a"', ":1: not JSON: Expecting ',' delimiter (column 20)"),
        (b'[{"instruction": "a"}', ":1: not JSON: wanted a comma, or the closing bracket of the list"),
        (b'[{"instruction": "a"},\n]', ":2: not JSON: Expecting value (column 1)"),
        (b'[\n{"instruction": "a"}\n{"instruction": "b"}]', ":3: not JSON: wanted a comma"),
        (b'[\n{"instruction": "a"}]\n[]', ":3: not JSON: there is more after"),
        (b'[\n\n {"instruction" "a"}]', ":3: not JSON: Expecting ':' delimiter (column 17)"),
        (b'[{"instruction": "a"}, {"instruction": 3}]', ":1: item 2: `instruction` must be text, found a number: 3"),
        (b'[{"instruction": "a"}, {"instruction": "a"}]', "item 2: the same task as "),
        (b"\n[\n", ":3: not JSON: Expecting value"),
        (b'{"input": "x"}', ":1: no `instruction`; there is 'input'"),
        (
            b'{"instruction": "a", "instances": [{"output": 1}]}',
            "`instances[0].output` must be text, found a number: 1",
        ),
        (b'{"instruction": "a", "instances": [{}, {}]}', "two of its instances are the same"),
        (b'{"instruction": "a", "id": 1}\n\n{"instruction": "b", "id": "1"}', ":3: the id '1' is taken by "),
        (b'{"instruction": "a"}\n{"instruction": "a", "input": "", "id": "z"}', ":2: the same task as "),
        ('{"instruction": "a"}'.encode("utf-16"), ":1: not UTF-8: the byte 0xff"),
        ('{"instruction": "a"}'.encode("utf-16-le"), ":1: a NUL character"),
        (b'{"instruction": "a"}\n{"instruction": "\xc3', ":2: not UTF-8: the byte 0xc3"),
        (b'[\n{"instruction": "a"},\n"\xc3', ":3: not UTF-8: the byte 0xc3"),
    ],
)
def test_a_malformed_seed_file_says_where_and_what(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "seeds.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_seeds(path)
    assert caught.value.message.startswith(f"{path}:") and message in caught.value.message
    assert caught.value.hint


def test_both_lines_of_a_pair_of_twins_are_named(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_bytes(lines({"instruction": "a"}, {"instruction": "b"}, {"instruction": "a"}))
    with pytest.raises(InputError) as caught:
        read_seeds(path)
    assert caught.value.message == f"{path}:3: the same task as {path}:1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["instruction", "input", "output", "instances", "messages", "role", "content", "id", "prompt"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.binary(max_size=80) | st.lists(json_values, max_size=3).map(lambda v: lines(*v)) | json_values.map(lines))
def test_no_bytes_at_all_make_a_traceback(folder: Path, content: bytes) -> None:
    path = folder / "any"
    path.write_bytes(content)
    for read in (read_seeds, lambda path: list(read_dataset(path))):
        try:
            assert read(path)
        except InputError as error:
            assert error.message.startswith(f"{path}:")


@pytest.mark.parametrize("opening", [b'{"instruction": "', b'[{"instruction": "'])
def test_an_endless_line_is_refused_without_being_held(opening: bytes, tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_bytes((b"\n" if opening[:1] == b"[" else lines(GOOD[0])) + opening + b"x" * 60_000_000)
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        read_seeds(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.message.startswith(f"{path}:2: ") and f"{LIMIT:,}" in caught.value.message
    assert peak < 5 * LIMIT
    if opening[:1] == b"{":
        assert "60,000,017 bytes" in caught.value.message


def test_a_long_file_on_one_line_or_many_is_read_across_its_chunks(tmp_path: Path) -> None:
    rows = [Record(instruction=f"{i} é👍", input="…" * (i * 997 % 40_000), output=str(i)) for i in range(120)]
    rows.insert(60, Record(instruction="big", output="ü" * 4_000_000))
    listed, on_one_line = tmp_path / "list.json", tmp_path / "line.json"
    write_dataset(rows, listed, "alpaca")
    on_one_line.write_bytes(listed.read_bytes().replace(b",\n", b", "))
    write_dataset(rows, tmp_path / "lines.jsonl", "alpaca")
    assert listed.stat().st_size > LIMIT
    for path in (listed, on_one_line, tmp_path / "lines.jsonl"):
        assert shown(read_dataset(path)) == shown(rows)


@pytest.mark.parametrize("flaw", [b"\xff", b"\0", b"\x01"])
def test_a_flaw_deep_in_a_long_list_is_named_by_its_line(flaw: bytes, tmp_path: Path) -> None:
    rows = [{"instruction": str(i), "notes": ["x" * 50] * 500, "output": ""} for i in range(100)]
    content = json.dumps(rows, indent=1).encode()
    assert len(content) > 2 << 20
    path = tmp_path / "long.json"
    for at in range(100_000, len(content), 400_000):
        at = content.index(b"xxx", at)
        line = content.count(b"\n", 0, at) + 1
        path.write_bytes(content[:at] + flaw + content[at:])
        with pytest.raises(InputError) as caught:
            list(read_dataset(path))
        assert caught.value.message.startswith(f"{path}:{line}: ")


@pytest.mark.parametrize("read", [read_seeds, lambda path: list(read_dataset(path))])
def test_a_path_that_cannot_be_read_is_told_apart(read: Any, tmp_path: Path) -> None:
    for missing in (tmp_path / "none.jsonl", Path(__file__) / "none.jsonl"):
        with pytest.raises(InputError, match="no such file"):
            read(missing)
    with pytest.raises(InputError, match="folder"):
        read(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StorageError, match="cannot read"):
        read(tmp_path / "loop")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.touch(mode=0o000)
    with pytest.raises(StorageError, match="Permission denied"):
        read_seeds(path)


# Datasets


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ({"instruction": "a", "output": "b", "score": 1}, ("a", "", "b", "", "")),
        ({"instruction": "", "input": None, "output": ""}, ("", "", "", "", "")),
        ({"instruction": "a", "output": "b", "system": "s", "reasoning": "r"}, ("a", "", "b", "s", "r")),
        ({"instruction": "a", "instances": [{"input": "i", "output": "b"}]}, ("a", "i", "b", "", "")),
        ({"instruction": "a", "context": "c", "response": "b", "category": "qa"}, ("a", "c", "b", "", "")),
        ({"prompt": "a", "completion": " b"}, ("a", "", " b", "", "")),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
            ("a", "", "b", "s", ""),
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "s"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b", "reasoning_content": "r", "weight": 1},
                ],
                "prompt": "ignored",
            },
            ("a", "", "b", "s", "r"),
        ),
        (
            {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
            ("a", "", "b", "", ""),
        ),
    ],
)
def test_a_row_is_known_by_its_keys(raw: dict[str, Any], wanted: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(raw))
    (record,) = read_dataset(path)
    assert shown([record]) == [wanted]
    assert (record.task, record.origin) == (record.id, "dataset")


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        *(
            ({question: "a", answer: "b"}, ("a", "", "b", "", ""))
            for question in ("instruction", "prompt", "question", "problem", "query")
            for answer in ("output", "completion", "response", "solution", "answer", "chosen")
        ),
        ({"instruction": "a", "context": "c", "output": "b"}, ("a", "c", "b", "", "")),
        ({"instruction": "a", "input": "", "context": "c", "output": "b"}, ("a", "c", "b", "", "")),
        ({"instruction": "a", "input": "i", "context": "c", "output": "b"}, ("a", "i", "b", "", "")),
        ({"id": "niv.1", "system_prompt": "s", "question": "a", "response": "b"}, ("a", "", "b", "s", "")),
        ({"instruction": "a", "output": "", "response": "b"}, ("a", "", "b", "", "")),
        ({"instruction": "a", "output": None, "answer": "b"}, ("a", "", "b", "", "")),
        ({"problem": "a", "solution": "b", "answer": "42", "level": 5}, ("a", "", "b", "", "")),
        ({"instruction": "x", "prompt": "a", "completion": "b"}, ("a", "", "b", "", "")),
        ({"instruction": "a", "prompt": "x", "response": "b"}, ("a", "", "b", "", "")),
        ({"prompt": "x", "messages": [USER, ASSISTANT]}, ("a", "", "b", "", "")),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, ("a", "", "b", "", "")),
        ({"prompt": "x", "chosen": [USER, ASSISTANT], "rejected": [USER, USER]}, ("a", "", "b", "", "")),
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [ASSISTANT]}, ("a", "", "b", "", "")),
        ({"prompt": "a", "chosen": [ASSISTANT], "system": "s"}, ("a", "", "b", "s", "")),
        ({"chosen": [USER, ASSISTANT], "rejected": []}, ("a", "", "b", "", "")),
        ({"prompt": [USER], "answer": "b"}, ("a", "", "b", "", "")),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]}, ("a", "", "", "", "")),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}]}, ("a", "", "", "", "")),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in "ac"]}, ASSISTANT]},
            ("a\nc", "", "b", "", ""),
        ),
    ],
)
def test_the_shapes_of_the_field_are_read(raw: dict[str, Any], wanted: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(raw))
    assert shown(read_dataset(path)) == [wanted]
    (stored,) = read_stored(path)  # reads no less
    said = "\n".join((*stored.texts, stored.more))
    assert all(text in said for text in wanted[:3]) and stored.fields == raw


def test_a_row_without_an_answer_is_told_where_it_may_go(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for raw, key in (
        ({"prompt": "a"}, "no `completion`; there is 'prompt'"),
        ({"instruction": "a", "Output": "b"}, "no `output`; there is 'instruction', 'Output'"),
        ({"question": "a"}, "no `answer`; there is 'question'"),
        ({"question": "a", "answer": None}, "`answer` must be text, found null"),
        ({"messages": [USER]}, "the turns are user"),
    ):
        path.write_bytes(lines(raw))
        with pytest.raises(InputError) as caught:
            list(read_dataset(path))
        assert caught.value.message.startswith(f"{path}:1: {key}")
        assert "`selfinstruct answer` takes rows without an answer" in caught.value.hint
        assert [one.instruction for one in read_dataset(path, answered=False)] == ["a"]
    path.write_bytes(lines({"prompt": "a", "answer": 4}))  # which is to be replaced
    assert shown(read_dataset(path, answered=False)) == [("a", "", "", "", "")]


def test_the_hint_for_valid_rows_that_are_no_pair_does_not_call_them_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    for raw in (
        {"messages": [USER, ASSISTANT, {"role": "tool", "content": "5"}]},
        {"messages": [picture, ASSISTANT]},
        {"messages": [USER, ASSISTANT, USER]},
        {"instruction": "a", "output": "b", "context": ["c", "d"]},
    ):
        path.write_bytes(lines(raw))
        with pytest.raises(InputError) as caught:
            list(read_dataset(path))
        assert "correct" not in caught.value.hint and caught.value.hint
        assert [one.fields for one in read_stored(path)] == [raw]


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": "x"} for role in roles]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"messages": turns("user", "assistant", "user", "assistant")}, "a conversation of 4 turns"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "`history` makes this"),
        ({"prompt": turns("user", "assistant", "user"), "completion": turns("assistant")}, "a conversation of 4"),
        ({"messages": turns("user")}, "the turns are user; wanted: user, assistant"),
        ({"messages": []}, "the turns are none"),
        ({"messages": turns("assistant", "user")}, "the turns are assistant, user"),
        ({"messages": turns("user", "tool")}, "`messages[1].role` is 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "`messages[0].content` must be text"),
        ({"messages": "hello"}, "`messages` must be a list, found text: 'hello'"),
        ({"conversations": ["a", "b"]}, "`conversations[0]` must be an object, found text: 'a'"),
        ({"prompt": "a", "completion": turns("assistant")}, "`prompt` must be a list"),
        ({"instruction": "a"}, "no `output`; there is 'instruction'"),
        ({"instruction": "a", "output": None}, "`output` must be text, found null"),
        ({"instruction": "a", "instances": [{"input": "b"}]}, "no `instances[0].output`"),
        ({"text": "a"}, "not a row of a known format; it has 'text'"),
    ],
)
def test_a_row_that_cannot_be_read_whole_is_refused(raw: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines({"instruction": "a", "output": "b"}, raw))
    found = read_dataset(path)
    assert next(found).instruction == "a"
    with pytest.raises(InputError) as caught:
        next(found)
    assert caught.value.message.startswith(f"{path}:2: {message}")


@pytest.mark.parametrize(
    "raw",
    [
        {"instruction": "Add 2 and 3.", "id": "x"},
        {"instruction": "Add 2 and 3.", "output": None},
        {"instruction": "Add 2 and 3.", "instances": [{"input": ""}]},
        {"prompt": "Add 2 and 3."},
        {"prompt": turns("user"), "completion": []},
        {"messages": turns("user")},
        {"messages": turns("system", "user")},
    ],
)
def test_a_row_without_its_answer_is_read_where_it_is_to_be_answered(raw: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(raw))
    (found,) = read_dataset(path, answered=False)
    assert (found.instruction, found.output) == ("Add 2 and 3." if "2" in str(raw) else "x", "")
    with pytest.raises(InputError) as caught:
        list(read_dataset(path))
    assert str(path) in caught.value.message


def test_a_run_folder_is_read_by_its_shards_alone_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "rejected.jsonl").write_bytes(lines({"instruction": "no", "output": "no"}))
    with pytest.raises(InputError, match="kept no rows yet"):
        read_dataset(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    for shard in (99999, 100000, 0):
        record = Record(instruction=str(shard), output="é")
        line = row(record, ("id", "instruction", "input", "output"))
        (data / f"train-{shard:05d}.jsonl").write_text(line + "\n", encoding="utf-8")
    (data / "train-100001.jsonl.part").write_text("{")
    assert [r.instruction for r in read_dataset(tmp_path)] == ["0", "99999", "100000"]


def test_a_folder_of_json_files_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_dataset([Record(instruction="b")], tmp_path / "b.json", "alpaca")
    write_dataset([Record(instruction="a")], tmp_path / "a.jsonl", "trl")
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / ".hidden.json").write_text("no")
    assert [r.instruction for r in read_dataset(tmp_path)] == ["a", "b"]


def test_a_folder_tells_which_files_are_left_out_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.JSONL", "b.ndjson"):
        (tmp_path / name).write_bytes(lines({"instruction": name, "output": "o"}))
    for name in ("c.csv", "d.txt", "README.md", ".hidden.txt"):
        (tmp_path / name).write_text("no")
    with caplog.at_level(logging.WARNING, "selfinstruct"):
        for _ in range(2):
            assert [one.instruction for one in read_dataset(tmp_path)] == ["a.JSONL", "b.ndjson"]
    assert [one.getMessage() for one in caplog.records] == [f"{tmp_path}: not read of this folder: c.csv, d.txt"]
    for name in ("a.JSONL", "b.ndjson"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"no dataset in this folder; not read: c\.csv, d\.txt") as caught:
        list(read_dataset(tmp_path))
    assert "csv.DictReader" in caught.value.hint


@pytest.mark.parametrize(
    "read", [read_seeds, lambda path: list(read_dataset(path)), lambda path: list(read_stored(path))]
)
def test_csv_is_called_so_and_its_hint_makes_rows_of_it(read: Any, tmp_path: Path) -> None:
    content = 'instruction,output\n"Add 1, 2","It is\n3"\n'
    for name in ("data.csv", "data.txt", "data.csv.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
        with pytest.raises(InputError, match="CSV is not read") as caught:
            read(path)
    (tmp_path / "tabs.tsv").write_text('"x"\ty\n')
    with pytest.raises(InputError, match="CSV is not read"):
        read(tmp_path / "tabs.tsv")
    command = caught.value.hint.partition(" makes")[0].replace("python3", sys.executable, 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=60)
    assert shown(read(tmp_path / "data.jsonl")) if read is read_seeds else read(tmp_path / "data.jsonl")
    assert shown(read_dataset(tmp_path / "data.jsonl")) == [("Add 1, 2", "", "It is\n3", "", "")]
    (tmp_path / "rows.csv").write_bytes(lines({"instruction": "a", "output": "b"}))  # the bytes tell
    assert shown(read_dataset(tmp_path / "rows.csv")) == [("a", "", "b", "", "")]


def test_an_empty_dataset_is_told(tmp_path: Path) -> None:
    (path,) = write_dataset([], tmp_path / "empty.json", "alpaca")
    assert json.loads(path.read_text()) == []
    with pytest.raises(InputError, match="no rows"):
        list(read_dataset(path))


def test_a_dataset_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_dataset((Record(instruction=f"{i}", output="x" * 1000) for i in range(5000)), path, "alpaca")
    tracemalloc.start()
    assert sum(1 for _ in read_dataset(path)) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 < path.stat().st_size


# Writing


@pytest.mark.parametrize("name", FORMATS)
def test_a_writer_that_fails_midway_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def failing() -> Any:
        yield Record(instruction="a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(failing(), path, name)
    with pytest.raises(InputError, match="surrogate"):
        write_dataset([Record(instruction="a"), Record(instruction="b", output="\ud83d")], path, name)
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]
    assert path.read_text() == "old"


def test_a_dataset_can_be_rewritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_dataset([Record(instruction="a"), Record(instruction="b")], path, "alpaca")
    write_dataset(read_dataset(path), path, "trl")
    assert [r.instruction for r in read_dataset(path)] == ["a", "b"]


def test_a_name_without_ending_is_a_folder(tmp_path: Path) -> None:
    for name, form in FORMATS.items():
        (path,) = write_dataset([Record(instruction="a")] * 10, tmp_path / "new" / "out", name)
        assert path == tmp_path / "new" / "out" / f"{name}{form.ending}" and path.is_file()


def test_a_target_that_cannot_be_written_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in ("out.csv", "out.v1", "file"):
        with pytest.raises(UsageError, match="its name tells no format"):
            write_dataset([], tmp_path / wrong, "alpaca")
    with pytest.raises(UsageError, match="takes lines"):
        write_dataset([], tmp_path / "out.json", "openai")
    for impossible in (tmp_path / "file" / "out.json", tmp_path / ("x" * 300 + ".json")):
        with pytest.raises(StorageError, match="cannot write"):
            write_dataset([Record(instruction="a")], impossible, "alpaca")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_unknown_format_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'Alpaca'") as caught:
        write_dataset([], tmp_path / "out.json", "Alpaca")
    assert all(name in caught.value.hint for name in FORMATS)


def test_what_a_format_leaves_out_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [Record(instruction="a", system="s", reasoning="r")] * 12
    with caplog.at_level(logging.WARNING, "selfinstruct"):
        write_dataset(rows, tmp_path / "a.json", "alpaca")
        write_dataset(rows, tmp_path / "m.jsonl", "messages")
        write_dataset(rows[:9], tmp_path / "o.jsonl", "openai")
    told = [r.getMessage().partition(": ")[2] for r in caplog.records]
    assert told == [
        "12 of 12 rows have a system, which the format alpaca leaves out",
        "12 of 12 rows have a reasoning, which the format alpaca leaves out",
        "9 of 9 rows have a reasoning, which the format openai leaves out",
        "9 rows; fine-tuning at OpenAI wants at least 10",
    ]


def test_the_formats_look_as_the_trainers_want_them(tmp_path: Path) -> None:
    record = Record(instruction="a", input="b", output="c", system="s", reasoning="r", task="t", parents=("p",))
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "a\n\nb"}]
    answer = {"role": "assistant", "content": "c"}
    said = {}
    for name in FORMATS.keys() - {"self-instruct", "gpt3"}:
        (path,) = write_dataset([record] * 10, tmp_path / f"{name}.jsonl", name)
        said[name] = json.loads(path.read_bytes().splitlines()[0])
    assert said == {
        "alpaca": {"instruction": "a", "input": "b", "output": "c"},
        "messages": {"messages": [*asked, {**answer, "reasoning_content": "r"}]},
        "openai": {"messages": [*asked, answer]},
        "trl": {"prompt": asked, "completion": [answer]},
        "sharegpt": {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "a\n\nb"},
                {"from": "gpt", "value": "c"},
            ]
        },
    }
    (path,) = write_dataset([record], tmp_path / "seeds.jsonl", "self-instruct")
    assert json.loads(path.read_text()) == {
        "id": "t",
        "name": "",
        "instruction": "a",
        "instances": [{"input": "b", "output": "c"}],
        "is_classification": False,
    }


def test_a_record_is_encoded_alike_in_every_gpt3_file_and_records_differ(tmp_path: Path) -> None:
    tasks = [Record(instruction=f"Sort list {n}.", input="Words: b a", output="a b") for n in range(40)]
    (path,) = write_dataset(tasks, tmp_path / "all.jsonl", "gpt3")
    (other,) = write_dataset(reversed(tasks), tmp_path / "turned.jsonl", "gpt3")
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert path.read_bytes().splitlines() == other.read_bytes().splitlines()[::-1]
    assert all(list(row) == ["prompt", "completion"] and row["completion"].endswith("<|endoftext|>") for row in rows)
    assert len({row["prompt"].replace(task.instruction, "") for row, task in zip(rows, tasks, strict=True)}) > 7


def test_a_shard_line_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InputError, match="line 3: not JSON"):
        read_row("{", "line 3")
    with pytest.raises(InputError, match="surrogate"):
        row(Record(instruction="\ud800"), ("id", "instruction"))


@pytest.mark.filterwarnings("ignore")  # of a third party
def test_hugging_face_datasets_loads_every_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    rows = [Record(instruction=trap, input="i", output=trap, system="s" * (n % 2)) for n, trap in enumerate(TRAPS)]
    for name, columns in {
        "alpaca": ["instruction", "input", "output"],
        "messages": ["messages"],
        "openai": ["messages"],
        "sharegpt": ["conversations"],
        "trl": ["prompt", "completion"],
        "gpt3": ["prompt", "completion"],
    }.items():
        for ending in (".json", ".jsonl") if name != "openai" else (".jsonl",):
            (path,) = write_dataset(rows, tmp_path / f"{name}{ending}", name)
            loaded = datasets.load_dataset(
                "json", data_files=str(path), split="train", cache_dir=str(tmp_path / f"cache-{name}{ending}")
            )
            assert loaded.column_names == columns
            write_dataset(rows, tmp_path / "lines.jsonl", name)
            lines = (tmp_path / "lines.jsonl").read_bytes().splitlines()
            assert [loaded[i] for i in range(len(rows))] == [json.loads(line) for line in lines]


# Packed files and tables


def packed(content: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(content[:30]) + gzip.compress(content[30:])  # members, as `cat a.gz b.gz` makes them
    return zstandard.compress(content[:30]) + zstandard.compress(content[30:])


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@given(rows=records)
def test_packed_files_are_read_as_what_they_hold(
    ending: str, rows: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    for kind in (".json", ".jsonl"):
        (path,) = write_dataset(rows, folder / f"plain{kind}", "alpaca")
        (folder / f"packed{kind}{ending}").write_bytes(packed(path.read_bytes(), ending))
        assert shown(read_dataset(folder / f"packed{kind}{ending}")) == shown(read_dataset(path))
        (folder / f"misnamed{kind}").write_bytes(packed(path.read_bytes(), ending))  # the bytes tell
        assert shown(read_dataset(folder / f"misnamed{kind}")) == shown(read_dataset(path))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_packed_file_with_a_flaw_names_line_or_damage(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    good = lines(*({"instruction": f"number {n} {random_text(n)}", "output": "b"} for n in range(3000)))
    path.write_bytes(packed(good + b"{\n", ending))
    with pytest.raises(InputError, match=rf"rows\.jsonl{ending}:3001: not JSON"):
        list(read_dataset(path))
    whole = packed(good, ending)
    for cut in (len(whole) - 1, len(whole) - 5, len(whole) // 2, 12):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="damaged, or cut off"):
            list(read_dataset(path))
    path.write_bytes(whole[:200] + bytes(200) + whole[400:])
    with pytest.raises(InputError, match=r"damaged|not JSON|not UTF-8"):
        list(read_dataset(path))


def random_text(n: int) -> str:
    return f"{Random(n).random()}"


def test_seeds_may_be_packed_too(tmp_path: Path) -> None:
    (tmp_path / "seeds.json.gz").write_bytes(gzip.compress(json.dumps([{"instruction": "a", "output": "b"}]).encode()))
    assert [seed.instruction for seed in read_seeds(tmp_path / "seeds.json.gz")] == ["a"]


@given(rows=records)
def test_a_table_holds_the_rows_that_the_lines_hold(
    rows: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("table")
    for name in ("alpaca", "messages", "sharegpt", "trl", "self-instruct"):
        (path,) = write_dataset(rows, folder / f"{name}.jsonl", name)
        values = [json.loads(line) for line in path.read_bytes().splitlines()]
        parquet.write_table(pyarrow.Table.from_pylist(values), folder / f"{name}.parquet", row_group_size=2)
        assert shown(read_dataset(folder / f"{name}.parquet")) == shown(read_dataset(path))


def test_a_table_names_its_rows_and_a_null_is_no_key(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b", "messages": None}, {"instruction": "c", "output": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = read_dataset(tmp_path / "t.parquet")
    assert next(found).output == "b"
    with pytest.raises(InputError, match=r"t\.parquet: row 2: `output` must be text, found null"):
        next(found)
    assert [one.output for one in read_dataset(tmp_path / "t.parquet", answered=False)] == ["b", ""]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(InputError, match=r"bad\.parquet: not Parquet that can be read"):
        list(read_dataset(tmp_path / "bad.parquet"))
    parquet.write_table(pyarrow.table({"instruction": [], "output": []}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no rows"):
        list(read_dataset(tmp_path / "none.parquet"))


def test_a_folder_is_looked_through_for_every_ending(tmp_path: Path) -> None:
    content = lines({"instruction": "x", "output": "y"})
    for folder in (tmp_path / "flat", tmp_path / "hub" / "data"):
        folder.mkdir(parents=True)
        parquet.write_table(pyarrow.table({"instruction": ["p"], "output": ["q"]}), folder / "train-00000-of-2.parquet")
        (folder / "train-00001-of-2.jsonl.gz").write_bytes(gzip.compress(content))
        (folder / "train-readme.txt").write_text("not a row")
    for folder in (tmp_path / "flat", tmp_path / "hub"):
        assert [one.instruction for one in read_dataset(folder)] == ["p", "x"]


@pytest.mark.parametrize(("ending", "library"), [(".zst", "zstandard"), (".parquet", "pyarrow")])
def test_a_library_that_is_missing_is_named_with_its_extra(
    ending: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    if ending == ".zst":
        path.write_bytes(zstandard.compress(b'{"instruction": "a"}'))
    else:
        parquet.write_table(pyarrow.table({"instruction": ["p"]}), path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=f"takes the package {library}") as caught:
        list(read_dataset(path))
    assert "selfinstruct[data]" in caught.value.hint


def test_a_large_packed_file_and_table_are_never_held_whole(tmp_path: Path) -> None:
    content = lines({"instruction": "i" * 1000, "output": "o" * 1000}) * 20_000
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content, 1))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(content))
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_dataset(tmp_path / name)) == 20_000
            assert tracemalloc.get_traced_memory()[1] < len(content) // 4
        finally:
            tracemalloc.stop()


def test_what_is_no_json_in_a_table_is_written_as_its_nearest(tmp_path: Path) -> None:
    row = {
        "instruction": "a",
        "output": "b",
        "when": datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 - as tables have them
        "price": Decimal("1.50"),
        "blob": b"\x00\xff",
        "ratio": float("nan"),
        "parts": [{"x": 0.5}],
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "t.parquet")
    (found,) = read_stored(tmp_path / "t.parquet")
    assert json.loads(stored_row(found.fields)) == {
        "instruction": "a",
        "output": "b",
        "when": "2026-01-02T03:04:05",
        "price": "1.50",
        "blob": "AP8=",
        "ratio": None,
        "parts": [{"x": 0.5}],
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_a_stored_row_is_one_line_and_itself(fields: dict[str, Any]) -> None:
    line = stored_row(fields)
    assert json.loads(line) == fields and list(json.loads(line)) == list(fields)
    assert len(line.encode().decode().splitlines()) == 1


def test_what_a_stored_row_says(tmp_path: Path) -> None:
    system, question, answer, more = (
        {"role": role, "content": text}
        for role, text in (("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "q2"))
    )
    said = {
        ("q", "", "a"): {"messages": [system, question, answer]},
        ("q", "", "a\n\nq2"): {"messages": [question, answer, more]},
        ("q", "", ""): {"prompt": "q"},
        ("do", "1\n3", "2\n4"): {
            "instruction": "do",
            "instances": [{"input": a, "output": b} for a, b in ("12", "34")],
        },
        ("do", "q\n\na\n\ni", "o"): {"instruction": "do", "input": "i", "output": "o", "history": [["q", "a"]]},
        ("do", "", "o"): {"instruction": "do", "output": "o", "prompt": "other"},
    }
    (tmp_path / "rows.jsonl").write_bytes(lines(*said.values()))
    found = list(read_stored(tmp_path / "rows.jsonl"))
    assert [one.texts for one in found] == list(said) and [one.fields for one in found] == list(said.values())
    assert [one.where for one in found] == [f"{tmp_path / 'rows.jsonl'}:{n}" for n in range(1, 7)]
    for wrong in ({"messages": []}, {"instruction": "a", "history": ["q"]}, {"instruction": "a", "history": [[1]]}):
        (tmp_path / "wrong.jsonl").write_bytes(lines(wrong))
        with pytest.raises(InputError, match=r"wrong\.jsonl:1"):
            list(read_stored(tmp_path / "wrong.jsonl"))


# What a row says under keys that are not read


@pytest.mark.parametrize(
    ("raw", "more"),
    [
        ({"instruction": "q", "outputs": ["Paris"]}, "Paris"),
        ({"instruction": "q", "Output": "Paris"}, "Paris"),
        ({"instruction": "q", "finalAnswer": 42}, "42"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "2\na\nb"),
        ({"instruction": "q", "output": "o", "answer": "other"}, "other"),
        ({"prompt": "q", "chosen": "o", "rejected": "no"}, "no"),
        ({"prompt": "q", "chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "x", "content": "c"}]}, "q\nc"),
        ({"instruction": "q", "output": "o", "input": "i", "context": "c"}, "c"),
        ({"instruction": "q", "output": "o", "explanation": "of five words or more"}, "of five words or more"),
        ({"instruction": "q", "output": "o", "note": "too short"}, ""),
        ({"instruction": "q", "output": "o", "说明": "五个字以上"}, "五个字以上"),
        ({"instruction": "q", "output": "o", "meta": {"source": "x", "truth": "y", "id": 5, "n": 3}}, "y"),
        ({"id": "1", "prompt_id": "2", "source": "s", "url": "http://x/y", "score": 0.5, "prompt": "q"}, ""),
        ({"instruction": "q", "output": "o", "system": "a b c d e f", "reasoning": "a b c d e f"}, ""),
        ({"instruction": "q", "input": "i", "output": "o", "text": "Below is q. ### i ### Response: o</s>"}, ""),
        ({"instruction": "q", "input": "i", "output": "o", "text": "q i o and then more"}, "q i o and then more"),
        ({"instruction": "q", "text": "Below is q. ### Response: o"}, "Below is q. ### Response: o"),
        ({"prompt": "a", "messages": [USER, ASSISTANT], "chosen": [USER, ASSISTANT]}, ""),
        ({"prompt": "a", "messages": [USER, ASSISTANT], "tools": [{"description": "t"}] * 5}, "t\nt\nt\nt\nt"),
        ({"messages": [USER, {**ASSISTANT, "tool_calls": [CALL]}]}, '{"city": "Oslo"}\nweather'),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "1.png"}]}, ASSISTANT]}, "1.png"),
        ({"instruction": "q", "instances": [{"input": "i", "output": "o", "outputs": ["p"]}]}, "p"),
    ],
)
def test_text_under_keys_that_are_not_read_is_not_missed(raw: dict[str, Any], more: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(raw))
    (found,) = read_stored(tmp_path / "rows.jsonl")
    assert found.more == more


def test_a_row_of_no_known_shape_is_all_its_text(tmp_path: Path) -> None:
    rows = [
        ({"id": "3", "text": "one"}, "one"),
        ({"inputs": "a", "targets": "b", "source": "s"}, "a\nb"),
        ({"id": "4", "body": "short", "title": "t"}, "short\nt"),
        ({"chosen": "Human: x", "rejected": "y"}, "Human: x\ny"),
    ]
    (tmp_path / "rows.jsonl").write_bytes(lines(*(raw for raw, _ in rows)))
    assert [one.texts for one in read_stored(tmp_path / "rows.jsonl")] == [(text, "", "") for _, text in rows]
    (tmp_path / "none.jsonl").write_bytes(lines({"x": 1, "id": "a"}))
    with pytest.raises(InputError, match="not a row of a known format"):
        list(read_stored(tmp_path / "none.jsonl"))


answers = st.sampled_from(["outputs", "Output", "best_answer", "model_response", "rejected", "Explanation", "notes"])
said = st.text(st.characters(codec="utf-8", categories=("Ll", "Nd")), min_size=1, max_size=6)


@given(answers, st.lists(said, min_size=5, max_size=9), st.lists(said, min_size=5, max_size=9), st.booleans())
def test_rows_that_differ_in_a_text_anywhere_never_say_the_same(
    key: str, one: list[str], other: list[str], answered: bool
) -> None:
    row = {"instruction": "What is this?", **({"output": "a"} if answered else {})}
    found = [stored_texts({**row, key: value}, "row") for words in (one, other) for value in (" ".join(words), words)]
    assert (found[0] == found[2]) == (one == other) == (found[1] == found[3])
    assert stored_texts({**row, key: " ".join(one), "id": 1}, "row") == found[0]


def test_rows_that_cannot_be_read_are_handed_over_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = {"instruction": "a", "output": "b"}
    bad: list[tuple[bytes, str, object]] = [
        (b"{", "not JSON", "{"),
        (b'{"instruction": "\xff"}', "not UTF-8", '{"instruction": "\ufffd"}'),
        (b'{"instruction": "a\0"}', "a NUL character", '{"instruction": "a\0"}'),
        (b'{"instruction": "' + b"x" * LIMIT + b'"}', f"a line of {LIMIT + 20:,} bytes", None),
        (b"[1]", "a row must be an object", [1]),
        (b'{"messages": "x"}', "`messages` must be a list", {"messages": "x"}),
        (b'{"instruction": 3}', "`instruction` must be text", {"instruction": 3}),
    ]
    path.write_bytes(
        b"\n".join([json.dumps(good).encode(), b"", *(line for line, _, _ in bad), json.dumps(good).encode()])
    )
    found: list[Unread] = []
    assert [one.where for one in read_stored(path, found.append)] == [f"{path}:1", f"{path}:10"]
    assert [one.where for one in found] == [f"{path}:{n}" for n in range(3, 10)]
    assert [one.value for one in found] == [value for _, _, value in bad]
    assert all(one.why.startswith(why) for one, (_, why, _) in zip(found, bad, strict=True))
    with pytest.raises(InputError, match=r"rows\.jsonl:3: not JSON"):
        list(read_stored(path))
    path.write_bytes(b"{\n[1]\n")
    with pytest.raises(InputError, match=r"none of its 2 rows can be read; .*:1: not JSON"):
        list(read_stored(path, found.append))
    path.write_bytes(b'[{"instruction": "a"}, {"instruction": 3}, {')  # the rest of it cannot be read
    with pytest.raises(InputError, match="not JSON"):
        list(read_stored(path, found.append))
