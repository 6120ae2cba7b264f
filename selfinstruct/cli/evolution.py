"""What an evolution looks like on a terminal: who survived, in tables, and one lineage as a tree."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from selfinstruct.cli.terminal import clean, console, say
from selfinstruct.survival import WINDOW

if TYPE_CHECKING:
    from selfinstruct.lineage import Node, Tree
    from selfinstruct.survival import Price, Survival, Tally

BANDS = ((-math.inf, -1), (0, 4), (5, 9), (10, 14), (15, 20), (21, 30), (31, 40), (41, math.inf))
"""Words added: the first and last of each band of the histogram."""

Line = tuple[str, list[str]]
"""A line of a table: its label, and a cell for each column, or none where it is a heading."""


def print_survival(found: Survival, price: Price | None) -> None:
    """Tables that stand in 80 columns: a column for each operator, then for each round, then one for both."""
    rows, evolved = found.of(round=0), found.of()
    say(f"{rows.kept:,} rows; {evolved.tried:,} tries, {evolved.kept:,} kept ({_share(evolved) or 'none'})")
    operators = {operator: found.of(operator=operator) for operator in found.operators}
    rounds = {f"round {number}": found.of(round=number) for number in found.rounds}
    if operators:
        columns = {"all": evolved, **operators}
        say()
        _print_table("by operator", list(columns), [*_lines(list(columns.values()), found, price), *_bands(columns)])
    say()
    _print_table("by round", list(rounds), list(_lines(list(rounds.values()), found, price)))
    if operators:
        numbers = [number for number in found.rounds if number]
        cells = [(name, [_of_tried(found.cells.get((name, number))) for number in numbers]) for name in operators]
        say()
        _print_table("kept of tried", [f"round {number}" for number in numbers], cells)
    say()
    if not found.counted:
        say("tokens are not known: there is no journal here")
        return
    what = "tokens" if price is None else "tokens, USD"
    say(f"{what}: per kept record, of all that was asked, failed tries included")
    if found.unsettled.requests:
        more = found.unsettled
        tokens = more.prompt + more.completion
        say(f"not in it: {more.requests:,} replies ({tokens:,} tokens) to tries that no line tells of")


def _lines(tallies: Sequence[Tally], found: Survival, price: Price | None) -> Iterator[Line]:
    yield "tried", [f"{tally.tried:,}" for tally in tallies]
    yield "kept", [f"{tally.kept:,}" for tally in tallies]
    yield "share", [_share(tally) for tally in tallies]
    rejected: Counter[str] = sum((tally.rejected for tally in tallies), Counter())
    yield "rejected by", []
    for rule, _ in sorted(rejected.items(), key=lambda one: (-one[1], one[0])):
        yield f"  {rule}", [_count(tally.rejected[rule]) for tally in tallies]
    spreads = [tally.spread() for tally in tallies]
    yield "words added", []
    yield "  mean", [f"{spread.mean:.1f}" if spread else "" for spread in spreads]
    yield "  quartiles", ["/".join(map(str, spread.quartiles)) if spread else "" for spread in spreads]
    yield f"  {WINDOW[0]} to {WINDOW[1]}", [f"{spread.in_window:.0%}" if spread else "" for spread in spreads]
    for name in sorted({name for tally in tallies for name in tally.scores}):
        yield name, []
        yield "  mean", [_number(tally.score(name), ".2f") for tally in tallies]
        yield "  records", [_count(tally.scores[name].total()) if name in tally.scores else "" for tally in tallies]
    if found.counted:
        yield "tokens", []
        yield "  read", [_number(tally.per_kept(tally.prompt), ",.0f") for tally in tallies]
        yield "  written", [_number(tally.per_kept(tally.completion), ",.0f") for tally in tallies]
    if found.counted and price is not None:
        yield "USD", [_number(tally.per_kept(tally.cost(price)), ".6f") for tally in tallies]


def _bands(columns: dict[str, Tally]) -> Iterator[Line]:
    yield "kept, by words added", []
    for first, last in BANDS:
        name = "fewer" if first == -math.inf else f"{first} or more" if last == math.inf else f"{first} to {last}"
        counts = [sum(n for words, n in tally.added.items() if first <= words <= last) for tally in columns.values()]
        yield f"  {name}", [_count(count) for count in counts]


def _share(tally: Tally) -> str:
    return f"{tally.kept / tally.tried:.0%}" if tally.tried else ""


def _of_tried(tally: Tally | None) -> str:
    return f"{tally.kept:,}/{tally.tried:,}" if tally else ""


def _count(count: int) -> str:
    return f"{count:,}" if count else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _print_table(title: str, columns: Sequence[str], lines: Sequence[Line]) -> None:
    """As many columns side by side as the terminal has room for, the others below."""
    label = max(len(clean(text)) for text, cells in [(title, ["title"]), *lines] if cells)
    heads = [re.split(r"(?<=[-_ ])", clean(column)) for column in columns]  # complicate_ over input
    wide = [max(map(len, [*head, *(cells[at] for _, cells in lines if cells)])) for at, head in enumerate(heads)]
    at = 0
    while at < len(columns):
        end = at + 1
        while end < len(columns) and label + sum(2 + one for one in wide[at : end + 1]) <= console(err=False).width:
            end += 1
        tall = max(map(len, heads[at:end]))
        for row in range(tall):
            parts = [[*[""] * (tall - len(head)), *head][row] for head in heads[at:end]]
            say(_row(title if row == tall - 1 else "", parts, label, wide[at:end]), style="bold")
        for text, cells in _telling([(text, cells[at:end]) for text, cells in lines]):
            say(_row(clean(text), cells, label, wide[at:end]))
        at = end
        if at < len(columns):
            say()


def _telling(lines: Sequence[Line]) -> Iterator[Line]:
    """Without lines of empty cells, and without headings that nothing stands under."""
    heading: Line | None = None
    for line in lines:
        if not line[1]:
            heading = line
        elif any(line[1]):
            if heading and line[0].startswith(" "):
                yield heading
            heading = None
            yield line


def _row(label: str, cells: Sequence[str], first: int, wide: Sequence[int]) -> str:
    return "  ".join(
        [f"{label:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, wide, strict=False))]
    ).rstrip()


def print_tree(tree: Tree, limit: int) -> None:
    """The line of what was kept, with what was rejected beside it; of each text ``limit`` lines, 0: all."""
    answers = any(node.evolution.direction == "answer" for node in tree.nodes)
    texts: dict[str, str] = {}
    current = ""
    for at, node in enumerate(tree.nodes):
        more = at + 1 < len(tree.nodes)
        mark = "●" if not node.by else "├─✗" if more else "└─✗"
        rest = f"{'│' if more else ' '}{' ' * len(mark)}"
        head = "  ".join(filter(None, _head(node, current)))
        for number, line in enumerate(_wrapped(head, len(rest))):
            say(f"{rest if number else f'{mark} '}{line}", style="yellow" if node.by else "cyan")
        texts[node.name] = (node.output if answers else node.instruction) or node.text
        asked = "\n".join(filter(None, (node.instruction, node.input))) if answers and not node.evolution.round else ""
        for text, parent in ((asked, ""), (texts[node.name], texts.get(node.parent, ""))):
            for line in _clipped(text, parent, len(rest) + 2, limit) if limit else _wrapped(text, len(rest) + 2):
                say(f"{rest}  {line}")
        current = current if node.by else node.name
    for other in tree.others:
        say(f"also: {other}", err=True)


def _head(node: Node, current: str) -> Iterator[str]:
    known = node.evolution
    yield node.name
    yield f"{known.operator}, round {known.round}" if known.round else "the row"
    yield f"from {node.parent}" if node.parent != current else ""
    if node.by:
        yield f"{node.by}: {node.why}"
        return
    yield f"{known.added:+} words" if known.round else ""
    yield from (f"{name} {score:g}" for name, score in node.scores.items())
    yield from node.remarks
    yield node.id


def _wrapped(text: str, indent: int) -> list[str]:
    width = max(console(err=False).width - indent, 20)
    return [line.plain.rstrip() for line in Text(clean(text)).wrap(console(err=False), width)] if text else []


def _clipped(text: str, parent: str, indent: int, limit: int) -> list[str]:
    """So many lines of a text in one paragraph. Where it is too long, what it begins with like its parent goes first:
    operators add at the end."""
    most = 4 * limit * console(err=False).width  # to wrap costs time
    words, before = text.split(), parent.split()
    same = next((at for at, (one, other) in enumerate(zip(words, before, strict=False)) if one != other), len(before))
    lines = _wrapped(" ".join(words)[:most], indent)
    if len(lines) > limit and 0 < same < len(words):
        lines = _wrapped(f"… {' '.join(words[same:])[:most]}", indent)
    if len(lines) > limit:
        lines = [*lines[: limit - 1], f"{_wrapped(lines[limit - 1], indent + 2)[0]} …"]
    return lines
