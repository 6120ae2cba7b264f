"""The docs cannot lie: the tree of the house, the README's length, and every command that the docs show."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

from selfinstruct.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def first_lines() -> list[str]:
    """Each file of the package with its first line, as the tree of docs/house.md has it."""
    found = []
    for path in sorted((ROOT / "selfinstruct").rglob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name = path.relative_to(ROOT / "selfinstruct").as_posix()
        found.append(f"  {name:<24} {doc.splitlines()[0]}")
    return found


def tree() -> str:
    text = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    return text.split("\nselfinstruct/\n")[1].split("\n```")[0]


def test_the_tree_repeats_the_first_line_of_every_file() -> None:
    shown = [line for line in tree().splitlines() if re.match(r"  [\w/]+\.py ", line)]
    assert sorted(shown) == sorted(first_lines())


def test_the_readme_is_under_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def shown_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"^```(?:sh|console|bash)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                match = re.match(r"(?:\$ )?(selfinstruct .*)", line)
                if match:
                    found.append((page.relative_to(ROOT).as_posix(), match[1].split("  #")[0]))
    return found


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_a_command_that_the_docs_show_has_that_verb_and_those_flags(page: str, line: str) -> None:
    command: click.Command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    context = click.Context(command, info_name="selfinstruct")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_context(command.name or "", words, parent=context.parent, resilient_parsing=False).close()


def test_the_readmes_python_runs_as_it_stands(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    example = example.replace('model="local"', 'model="scripted"').replace('"seeds/', f'"{ROOT}/seeds/')
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "20 of 20" in done.stdout


def imported(path: Path) -> set[str]:
    """The files of the package that one imports when it is imported itself; what waits inside a function, and what only
    the type checker reads, does not count."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("selfinstruct"):
            folder = node.module.removeprefix("selfinstruct").strip(".").replace(".", "/")
            for name in ("", *(alias.name for alias in node.names)):
                whole = "/".join(filter(None, (folder, name)))
                found |= {file for file in (f"{whole}.py", f"{whole}/__init__.py".lstrip("/")) if file != ".py"}
    return found


def test_imports_only_point_upwards_in_the_tree() -> None:
    order = re.findall(r"^  ([\w/]+\.py) ", tree(), re.M)
    for at, name in enumerate(order):
        below = imported(ROOT / "selfinstruct" / name) & set(order[at + 1 :])
        assert not below, f"{name} imports {below}, which stands below it"
