"""Deduplication of datasets: what goes has a reason that stands, what stays is as it was, and order decides nothing."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.dedup import RULES, Dedup, Outcome, Step, Thresholds, survey
from selfinstruct.errors import InputError, UsageError
from selfinstruct.filters.novelty import rouge_l
from selfinstruct.filters.text import normal_form
from selfinstruct.formats import read_dataset, read_stored
from selfinstruct.minhash import jaccard, shingles

WORDS = [f"w{i}" for i in range(300)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def kept(out: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted((out / "data").iterdir()) for row in read(shard)]


def run(inputs: list[Path], out: Path, **settings: Any) -> dict[str, Any]:
    found = Dedup(inputs, out, **settings)
    for _ in found:
        pass
    return found.report()


def sample(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of about 110 words; half are an earlier row with up to three words replaced, in capitals, or as it was."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        row = {
            "instruction": " ".join(rng.choices(WORDS, k=8)),
            "input": "",
            "output": " ".join(rng.choices(WORDS, k=100)),
        }
        if rows and rng.random() < 0.5:
            row = dict(rng.choice(rows))
            words = row["output"].split()
            for _ in range(rng.randint(0, 3)):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
            row["output"] = " ".join(words).upper() if rng.random() < 0.3 else " ".join(words)
        rows.append({**row, "number": i})
    return rows


def said(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n{row['input']}\n{row['output']}"


def form(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(normal_form(row[key]) for key in ("instruction", "input", "output"))


# Laws


@pytest.mark.parametrize("keep", ["best", "first"])
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_every_drop_has_a_reason_that_stands_beside_a_kept_row(keep: Any, threshold: float, tmp_path: Path) -> None:
    rows = sample(200)
    path = write(tmp_path / "in.jsonl", rows)
    report = run([path], tmp_path / "out", threshold=threshold, keep=keep)
    stay, drops = kept(tmp_path / "out"), read(tmp_path / "out" / "dropped.jsonl")
    assert sorted([row["number"] for row in stay] + [drop["row"]["number"] for drop in drops]) == list(range(200))
    assert report["rows"] == 200 and report["kept"] == len(stay)
    by_place = {f"{path}:{row['number'] + 1}": row for row in stay}
    for drop in drops:
        beside = by_place[drop["neighbour"]["at"]]
        assert drop["at"] == f"{path}:{drop['row']['number'] + 1}"
        assert drop["neighbour"]["instruction"] == beside["instruction"]
        if drop["rule"] == "duplicate":
            assert form(drop["row"]) == form(beside) and drop["score"] == 1
        else:
            assert drop["rule"] == "near-duplicate"
            assert drop["score"] == jaccard(shingles(said(drop["row"])), shingles(said(beside))) >= threshold
        if keep == "first":
            assert beside["number"] < drop["row"]["number"]
        else:
            assert len(beside["output"]) >= len(drop["row"]["output"])
    assert len({form(row) for row in stay}) == len(stay)
    near = [jaccard(shingles(said(one)), shingles(said(other))) for i, one in enumerate(stay) for other in stay[:i]]
    assert max(near) < threshold
    assert report["dropped"].get("near-duplicate", 0) > 10 and report["dropped"]["duplicate"] > 5


@settings(max_examples=12)
@given(st.permutations(sample(24, seed=3)), st.integers(0, 24))
def test_the_order_of_rows_and_files_decides_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], cut: int
) -> None:
    tmp = tmp_path_factory.mktemp("order")
    files = [write(tmp / f"{i}.jsonl", part) for i, part in enumerate((rows[:cut], rows[cut:])) if part]
    run(files, tmp / "out", rouge_l=0.6)
    stay = [row["number"] for row in kept(tmp / "out")]
    assert stay == [row["number"] for row in rows if row["number"] in stay]  # in the order of the input
    run([write(tmp / "sorted.jsonl", sample(24, seed=3))], tmp / "sorted", rouge_l=0.6)
    assert sorted(stay) == [row["number"] for row in kept(tmp / "sorted")]


def test_first_prefers_earlier_rows_of_earlier_inputs(tmp_path: Path) -> None:
    row = {"instruction": "Say it.", "input": "", "output": "one two three four five six seven eight nine ten"}
    short = write(tmp_path / "b.jsonl", [row])
    long = write(tmp_path / "a.jsonl", [{**row, "output": row["output"] + " eleven"}])
    for keep, inputs, wanted in (
        ("first", [short, long], "ten"),
        ("first", [long, short], "eleven"),
        ("best", [short, long], "eleven"),
        ("best", [long, short], "eleven"),
    ):
        out = tmp_path / f"{keep}-{inputs[0].stem}"
        run(inputs, out, keep=keep)
        (stays,) = kept(out)
        assert stays["output"].endswith(wanted)


def test_the_same_bytes_on_a_second_run(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", sample(150))
    for name in ("one", "two"):
        run([path], tmp_path / name, rouge_l=0.5)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert [file.as_posix() for file in files] == ["README.md", "data/train-00000.jsonl", "dedup.json", "dropped.jsonl"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "one", "two"]  # nothing is left beside them


def test_a_higher_threshold_keeps_more_of_planted_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", sample(300, seed=8))
    tried = [Thresholds(one) for one in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    found = [news for news in survey([path], tried) if isinstance(news, Outcome)]
    assert [one.thresholds for one in found] == tried
    counts = [one.kept for one in found]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    for one in found:
        report = run([path], tmp_path / f"{one.thresholds.jaccard}", threshold=one.thresholds.jaccard)
        assert (one.kept, one.dropped) == (report["kept"], report["dropped"])


def test_chains_end_at_a_kept_row_and_so_a_higher_threshold_may_drop_more(tmp_path: Path) -> None:
    words = [f"x{i}" for i in range(100)]
    best = {"instruction": "Go.", "output": " ".join([*words, *(f"y{i}" for i in range(9))])}
    middle = {"instruction": "Go.", "output": " ".join(words)}
    far = [{"instruction": "Go.", "output": " ".join(part)} for part in (words[:-4], words[4:])]
    path = write(tmp_path / "in.jsonl", [best, middle, *far])
    low, high = (run([path], tmp_path / f"{t}", threshold=t)["kept"] for t in (0.91, 0.93))
    assert (low, high) == (3, 2)
    assert kept(tmp_path / "0.91") == [best, *far]  # near the middle, which went; not near the best
    assert kept(tmp_path / "0.93") == [best, middle]


def test_rouge_l_looks_at_instruction_and_input_alone(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = []
    for i in range(60):
        output = " ".join(rng.choices(WORDS, k=20 + i))
        text = f"Write a short poem about the {'old' if i % 2 else 'new'} {WORDS[i // 2]}."
        rows.append({"instruction": text, "input": "", "output": output, "number": i})
    path = write(tmp_path / "in.jsonl", rows)
    assert run([path], tmp_path / "without")["dropped"] == {}
    report = run([path], tmp_path / "with", rouge_l=0.8)
    stay = kept(tmp_path / "with")
    assert report["dropped"] == {"novelty": 60 - len(stay)} and len(stay) < 31
    for drop in read(tmp_path / "with" / "dropped.jsonl"):
        assert drop["rule"] == "novelty"
        assert drop["score"] == rouge_l(drop["row"]["instruction"], drop["neighbour"]["instruction"]) > 0.8
        assert drop["neighbour"]["instruction"] in [row["instruction"] for row in stay]


# What comes out


def test_rows_of_every_shape_come_out_as_they_were(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a b"},
    ]
    rows: list[dict[str, Any]] = [
        {"instruction": "One", "input": "", "output": "first", "score": 0.1, "tags": ["x", None], "n": 10**30},
        {"messages": chat, "extra": {"deep": [1, {"er": "\u2028"}]}},
        {"messages": [*chat, {"role": "user", "content": "and?"}, {"role": "assistant", "content": "so"}]},
        {"conversations": [{"from": "human", "value": "שלום"}, {"from": "gpt", "value": "语言 🙂"}]},
        {"instruction": "Ask", "context": "c", "response": "r"},
        {"prompt": "p", "completion": "c"},
        {"instruction": "T", "instances": [{"input": "1", "output": "2"}, {"input": "3", "output": "4"}], "id": "t"},
        {"instruction": "Go on", "input": "", "output": "more", "history": [["q1", "a1"]]},
        {"instruction": "No answer yet"},
        {"instruction": "half", "output": "o", "note": "\ud800"},
        {"instruction": "empty", "output": ""},
        {"instruction": "🙂", "output": "🙂"},
    ]
    path = write(tmp_path / "in.jsonl", [*rows, *rows])
    report = run([path], tmp_path / "out")
    assert kept(tmp_path / "out") == rows
    assert [list(row) for row in kept(tmp_path / "out")] == [list(row) for row in rows]
    drops = read(tmp_path / "out" / "dropped.jsonl")
    assert [drop["row"] for drop in drops] == rows and {drop["rule"] for drop in drops} == {"duplicate"}
    assert report["cluster_sizes"] == {"2": 12}
    (tmp_path / "out" / "data" / "train-00000.jsonl").read_bytes().decode("utf-8")


def test_what_is_said_decides_and_not_the_format_it_is_in(tmp_path: Path) -> None:
    alpaca = write(
        tmp_path / "a.jsonl", [{"instruction": "Add.", "input": "1 and 2", "output": "It is three, surely."}]
    )
    turns = [{"role": "user", "content": "Add.\n\n1 and 2"}, {"role": "assistant", "content": "It is three, surely."}]
    chat = write(tmp_path / "b.jsonl", [{"messages": turns}])
    assert run([alpaca, chat], tmp_path / "out")["dropped"] == {"near-duplicate": 1}


def test_every_stored_form_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = sample(60, seed=5)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "list.json").write_text(json.dumps(rows))
    (tmp_path / "lines.jsonl").write_bytes(text)
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "lines.jsonl.zst").write_bytes(zstandard.compress(text))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0.json.gz").write_bytes(gzip.compress(json.dumps(rows[:20]).encode()))
    (tmp_path / "folder" / "1.jsonl.zst").write_bytes(
        zstandard.compress(text[text.index(b'{"instruction": "' + rows[20]["instruction"].encode()) :])
    )
    found = {}
    for path in sorted(tmp_path.iterdir()):
        run([path], tmp_path / "out" / path.name)
        found[path.name] = kept(tmp_path / "out" / path.name)
    assert len(found) == 6 and 10 < len(found["list.json"]) < 60
    for stay in found.values():
        assert stay == found["list.json"]


def test_the_result_is_a_dataset_for_every_verb(tmp_path: Path) -> None:
    run([write(tmp_path / "in.jsonl", sample(50))], tmp_path / "out")
    records = list(read_dataset(tmp_path / "out"))
    assert [one.output for one in records] == [row["output"] for row in kept(tmp_path / "out")]
    report = run([tmp_path / "out"], tmp_path / "again")
    assert report["dropped"] == {} and kept(tmp_path / "again") == kept(tmp_path / "out")


@pytest.mark.filterwarnings("ignore")  # of a third party
def test_hugging_face_datasets_loads_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    import selfinstruct.dedup

    monkeypatch.setattr(selfinstruct.dedup, "ROWS", 20)  # several shards
    datasets.disable_progress_bars()
    rows = [{**row, "later": "x" if i > 60 else None, "share": 1 if i % 2 else 0.5} for i, row in enumerate(sample(80))]
    run([write(tmp_path / "in.jsonl", rows)], tmp_path / "out")
    shards = [path.name for path in sorted((tmp_path / "out" / "data").iterdir())]
    assert shards == [f"train-{i:05d}.jsonl" for i in range(len(shards))] and len(shards) > 1
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == kept(tmp_path / "out")


def test_the_report_tells_inputs_clusters_and_least_convincing_drops(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.jsonl", sample(100, 1)), write(tmp_path / "b.jsonl", sample(50, 1))
    report = run([one, other], tmp_path / "out")
    assert report == json.loads((tmp_path / "out" / "dedup.json").read_text(encoding="utf-8"))
    assert [(told["path"], told["rows"]) for told in report["inputs"]] == [(str(one), 100), (str(other), 50)]
    assert sum(told["kept"] for told in report["inputs"]) == report["kept"] == len(kept(tmp_path / "out"))
    assert all(len(told["sha256"]) == 64 for told in report["inputs"])
    sizes = {int(size): count for size, count in report["cluster_sizes"].items()}
    assert sum((size - 1) * count for size, count in sizes.items()) == sum(report["dropped"].values())
    biggest = report["biggest_clusters"]
    assert biggest[0]["rows"] == max(sizes) and list(report["dropped"]) == [r for r in RULES if r in report["dropped"]]
    assert all(one["rows"] == 1 + sum(one.get(rule, 0) for rule in RULES) for one in biggest)
    scores = sorted(d["score"] for d in read(tmp_path / "out" / "dropped.jsonl") if d["rule"] == "near-duplicate")
    assert [one["score"] for one in report["least_convincing"]] == scores[:20]
    assert report["recall_at_threshold"] == pytest.approx(1 - (1 - 0.8**5) ** 25, abs=1e-6)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"# {report['kept']} of 150 records" in card and "| duplicate |" in card


def test_steps_tell_how_far_it_is(tmp_path: Path) -> None:
    steps = list(Dedup([write(tmp_path / "in.jsonl", sample(2500))], tmp_path / "out"))
    assert all(isinstance(step, Step) for step in steps)
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages == ["reading", "sorting", "comparing", "writing"]
    for stage in stages:
        done = [step.done for step in steps if step.stage == stage]
        assert done == sorted(done) and done[-1] == [s.total for s in steps if s.stage == stage][-1]


# Rows of other shapes

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "shape",
    [
        lambda text: {"prompt": "Say it.", "response": text},
        lambda text: {"instruction": "Say it.", "answer": text},
        lambda text: {"prompt": "Say it.", "answer": text},
        lambda text: {"instruction": "Say it.", "outputs": [text]},
        lambda text: {"instruction": "Say it.", "Output": text},
        lambda text: {"prompt": "Say it.", "chosen": text, "rejected": "no"},
        lambda text: {"prompt": "Say it.", "chosen": "yes", "rejected": text},
        lambda text: {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": text}]},
        lambda text: {"instruction": "Say it.", "context": text, "output": "o"},
        lambda text: {"instruction": "Say it.", "output": "o", "explanation": f"that is so because of {text}"},
        lambda text: {"messages": [USER, {**ASSISTANT, "content": None, "tool_calls": [{"function": {"name": text}}]}]},
        lambda text: {"messages": [USER, ASSISTANT, {"role": "tool", "content": text}]},
        lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}, ASSISTANT]},
        lambda text: {"messages": [{"role": "user", "content": [{"type": "image", "url": text}]}, ASSISTANT]},
        lambda text: {"text": text},
        lambda text: {"question": "Which?", "choices": [text, "none"], "answer": 0},
    ],
)
def test_rows_that_differ_in_any_text_stay_and_those_that_do_not_go(shape: Any, tmp_path: Path) -> None:
    rows = [{**shape(text), "id": n} for n, text in enumerate(("Oslo", "Rome", "oslo!", "Rome"))]
    report = run([write(tmp_path / "in.jsonl", rows)], tmp_path / "out", keep="first")
    assert kept(tmp_path / "out") == rows[:2] and report["dropped"] == {"duplicate": 2}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Compute 2 + 3", "5"), ("Compute 2 - 3", "5")),
        (("x", "1"), ("x", "-1")),
        (
            ("Write a hello world program in C and explain it", "ok"),
            ("Write a hello world program in C++ and explain it", "ok"),
        ),
        (("Name what is new in C# of this year", "ok"), ("Name what is new in C of this year", "ok")),
        (("Is -3 < 2 ?", "yes"), ("Is 3 > 2 ?", "yes")),
        (("Draw it", "\u2192 \U0001f600"), ("Draw it", "\u2190 \U0001f600")),
    ],
)
def test_signs_are_words(one: tuple[str, str], other: tuple[str, str], tmp_path: Path) -> None:
    rows = [{"instruction": question, "output": answer} for question, answer in (one, other)]
    assert run([write(tmp_path / "a.jsonl", rows)], tmp_path / "out", threshold=1.0)["kept"] == 2


def test_a_link_leads_to_the_folder_that_is_made(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"instruction": "Name a river.", "output": "The Po."}])
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "nowhere").symlink_to(tmp_path / "made")
    for name, made in (("link", "real"), ("nowhere", "made")):
        assert run([source], tmp_path / name)["kept"] == 1
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / made / "dedup.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "link", "made", "nowhere", "real"]


def test_a_guideline_that_all_rows_repeat_makes_none_alike(tmp_path: Path) -> None:
    rng = random.Random(4)
    guide = " ".join(rng.choices(WORDS, k=200))
    rows = [
        {"instruction": " ".join(rng.choices(WORDS, k=7)), "output": " ".join(rng.choices(WORDS, k=7)), "guide": guide}
        for _ in range(100)
    ]
    assert run([write(tmp_path / "in.jsonl", [*rows, rows[3]])], tmp_path / "out")["dropped"] == {"duplicate": 1}


def test_a_filled_template_beside_the_row_changes_nothing(tmp_path: Path) -> None:
    plain = sample(40, seed=2)
    filled = [{**row, "text": f"Below is it.\n### {row['instruction']}\n### {row['output']}"} for row in plain]
    one, other = write(tmp_path / "a.jsonl", plain), write(tmp_path / "b.jsonl", filled)
    alone = run([one], tmp_path / "alone")
    both = run([one, other], tmp_path / "both")
    assert both["kept"] == alone["kept"]


# Rows that cannot be read


def test_bad_rows_are_set_aside_when_asked_and_stop_everything_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", sample(30))
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:10], "{", *rows[10:], '{"messages": "x"}', ""]))
    assert "in.jsonl:11: not JSON" in cli(path, "--out", tmp_path / "out", code=3).stderr
    assert not (tmp_path / "out").exists()
    done = cli(path, "--out", tmp_path / "out", "--skip-bad")
    assert "2  could not be read" in done.stdout and f"{tmp_path / 'out'}/unread.jsonl" in done.stdout
    assert read(tmp_path / "out" / "unread.jsonl") == [
        {
            "at": f"{path}:11",
            "why": "not JSON: Expecting property name enclosed in double quotes (column 2)",
            "row": "{",
        },
        {"at": f"{path}:32", "why": "`messages` must be a list, found text: 'x'", "row": {"messages": "x"}},
    ]
    report = json.loads((tmp_path / "out" / "dedup.json").read_text(encoding="utf-8"))
    assert (report["rows"], report["unread"], report["inputs"][0]["unread"]) == (30, 2, 2)
    assert "2 rows that could not be read" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    clean = run([write(tmp_path / "clean.jsonl", sample(30))], tmp_path / "clean")
    assert kept(tmp_path / "clean") == kept(tmp_path / "out") and clean["unread"] == 0
    assert not (tmp_path / "clean" / "unread.jsonl").exists()
    assert "30 rows, 2 more could not be read" in cli(path, "--dry-run", "--skip-bad").stdout
    cli(path, "--out", tmp_path / "out", "--skip-bad", "--fresh")
    (tmp_path / "none.jsonl").write_text("{\n")
    assert "none of its 1 rows" in cli(tmp_path / "none.jsonl", "--out", tmp_path / "x", "--skip-bad", code=3).stderr


# Refusals


def test_a_run_folder_is_no_place_for_a_result_and_a_result_is_no_run(tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", sample(10)), tmp_path / "runs" / "first"
    write(out / "lineage.jsonl", [])
    with pytest.raises(UsageError, match="first is a run folder, not a result of dedup"):
        run([path], out, fresh=True)
    cli(path, "--out", tmp_path / "result")
    for verb, wanted in (("show", "is a result of dedup, not a run folder"), ("status", "is a result of dedup")):
        told = selfinstruct(verb, tmp_path / "result", code=2).stderr
        assert wanted in told and f"{tmp_path / 'result' / 'data'}" in told
    for folder in (tmp_path, tmp_path / "runs"):
        assert f"`selfinstruct status {tmp_path / 'runs'}/*`" in selfinstruct("status", folder, code=2).stderr


def test_a_folder_that_is_not_empty_is_refused_and_stays(tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", sample(20)), tmp_path / "out"
    out.mkdir()
    run([path], out)  # an empty one will do
    before = (out / "dedup.json").read_bytes()
    with pytest.raises(UsageError, match="holds an earlier result"):
        run([path], out, threshold=0.5)
    assert (out / "dedup.json").read_bytes() == before
    report = run([path], out, threshold=0.5, fresh=True)
    assert report["parameters"]["jaccard"] == 0.5 and (out / "dedup.json").read_bytes() != before
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt, which is not ours"):
        run([path], out, fresh=True)
    other = tmp_path / "other"
    write(other / "data" / "train-00000.jsonl", [])
    with pytest.raises(UsageError, match="not ours"):
        run([path], other, fresh=True)
    assert (out / "notes.txt").read_text() == "mine" and (other / "data" / "train-00000.jsonl").exists()


def test_inputs_that_cannot_be(tmp_path: Path) -> None:
    path = write(tmp_path / "set" / "in.jsonl", sample(5))
    for inputs, out, wanted in (
        ([path, tmp_path / "set" / ".." / "set" / "in.jsonl"], tmp_path / "out", "named twice"),
        ([path], tmp_path / "set", "lies in the folder"),
        ([tmp_path / "set"], tmp_path / "set" / "out", "lies in the dataset"),
        ([path], path, "is a file"),
        ([], tmp_path / "out", "no INPUT"),
    ):
        with pytest.raises(UsageError, match=wanted):
            run(inputs, out)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="no rows"):
        run([tmp_path / "empty.jsonl"], tmp_path / "out")
    (tmp_path / "bad.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"x": 1}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: not a row of a known format"):
        run([path, tmp_path / "bad.jsonl"], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "empty.jsonl", "set"]


def test_an_input_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", sample(1500))
    steps = iter(Dedup([path], tmp_path / "out"))
    next(steps)
    with path.open("a") as file:
        file.write(json.dumps(sample(1)[0]) + "\n")
    with pytest.raises(InputError, match="changed while it was read"):
        list(steps)
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_left_halfway_it_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", sample(1500))
    steps = iter(Dedup([path], tmp_path / "out"))
    assert next(steps).stage == "reading" and len(list(tmp_path.iterdir())) == 2
    steps.close()  # type: ignore[attr-defined]
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


# The command


def selfinstruct(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "selfinstruct", *map(str, words)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    return done


def cli(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    return selfinstruct("dedup", *words, code=code)


def test_the_command_tells_what_went_and_shows_the_least_convincing(tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", sample(100)), tmp_path / "out"
    done = cli(path, "--out", out, "--show", 2)
    report = json.loads((out / "dedup.json").read_text(encoding="utf-8"))
    lines = done.stdout.splitlines()
    assert lines[0] == f"{report['kept']} of 100 rows kept in {out}/data, {100 - report['kept']} dropped"
    for rule, count in report["dropped"].items():
        assert f"{count}  {rule}" in done.stdout
    shown = [line for line in lines if line.strip().startswith("differ")]
    assert len(shown) == 2 and all("→" in line for line in shown)
    for drop in report["least_convincing"][:2]:
        assert f"{drop['score']:.3f}  {drop['at']}" in done.stdout and f"({drop['neighbour']['at']})" in done.stdout
    assert done.stderr == ""
    told = json.loads(cli(path, "--out", tmp_path / "json", "--json").stdout)
    assert told.pop("folder") == str(tmp_path / "json") and told == report


def test_dry_run_prints_kept_against_thresholds_and_writes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", sample(100))
    done = cli(path, "--dry-run", "--threshold", 0.82, "--rouge-l", 0.7)
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]
    told = json.loads(cli(path, "--dry-run", "--threshold", 0.82, "--rouge-l", 0.7, "--json", "--out", "x").stdout)
    thresholds = [one["jaccard"] for one in told["jaccard"]]
    assert thresholds == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.82, 0.85, 0.9, 0.95]
    assert [one["rouge_l"] for one in told["rouge_l"]] == [one for one in thresholds if one != 0.82]
    assert {one["jaccard"] for one in told["rouge_l"]} == {0.82} and all(
        one["recall"] >= 0.999 for one in told["jaccard"]
    )
    assert "*    0.82" in done.stdout and "*     0.7" in done.stdout
    report = run([path], tmp_path / "out", threshold=0.82, rouge_l=0.7)
    (same,) = [one for one in told["rouge_l"] if one["rouge_l"] == 0.7]
    assert (same["kept"], same["dropped"]) == (report["kept"], report["dropped"])
    assert not Path("x").exists()


def test_what_the_command_refuses(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", sample(10))
    assert "no --out" in cli(path, code=2).stderr
    assert "--threshold" in cli(path, "--out", tmp_path / "out", "--threshold", 0.3, code=2).stderr
    assert "No such file" in cli(tmp_path / "none.jsonl", "--out", tmp_path / "out", code=3).stderr
    cli(path, "--out", tmp_path / "out")
    refused = cli(path, "--out", tmp_path / "out", code=2).stderr
    assert "earlier result" in refused and "--fresh" in refused
    cli(path, "--out", tmp_path / "out", "--fresh")


def test_sigterm_leaves_nothing_half_made_and_what_kill_left_goes_next_time(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", sample(30_000))
    command = [sys.executable, "-m", "selfinstruct", "dedup", str(path), "--out", str(tmp_path / "out")]
    for number, left in ((signal.SIGTERM, 0), (signal.SIGKILL, 1)):
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".out.*.part")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(worker.pid, number)
        assert worker.wait(60) == (128 + number if number == signal.SIGTERM else -number)
        assert len(list(tmp_path.glob(".out.*"))) == left and not (tmp_path / "out").exists()
    run([write(tmp_path / "small.jsonl", sample(10))], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out", "small.jsonl"]


def test_differences_are_told_word_by_word() -> None:
    from selfinstruct.cli.dedup import differences

    assert differences("a b c d e f g h i", "a b c d e X g h i") == "…2… c d e [f → X] g h i"
    assert differences("one two", "one two three") == "one two [ → three]"
    assert differences("a b", "a b") == "…2…"


def test_stored_rows_name_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n{"instruction": "a", "output": "b"},\n{"instruction": "c"}\n]')
    found = list(read_stored(tmp_path / "a.json"))
    assert [one.where for one in found] == [f"{tmp_path / 'a.json'}:2: item 1", f"{tmp_path / 'a.json'}:3: item 2"]
    assert found[1].texts == ("c", "", "") and found[1].fields == {"instruction": "c"}
