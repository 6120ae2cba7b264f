"""Bootstrap new instructions from a numbered list of old ones (Self-Instruct, Wang et al. 2023, section 2.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from selfinstruct.engines import Reply, Request
from selfinstruct.errors import UsageError
from selfinstruct.operators import Pool, Read, Setting, Unreadable
from selfinstruct.records import Record


class Bootstrap:
    """Six seeds and two model-written tasks are shown, shuffled; the model continues their list."""

    stage = "bootstrap"
    stages = ("bootstrap",)
    asks = True
    reads_samples = True

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._recipe = setting.recipe.draft
        self.feeds_pool = setting.recipe.draft.pool_examples > 0
        self._strict = setting.recipe.behaviour == "strict"
        self._drawable: list[Record] | None = None

    def draw(self, pool: Pool, step: int, rng: Random) -> tuple[Record, ...]:
        if self._drawable is None:
            self._drawable = self._tasks(pool.seeds)
        written = min(self._recipe.pool_examples, pool.visible)
        fresh = self._recipe.seed_examples + self._recipe.pool_examples - written
        drawn = rng.sample(self._drawable, min(fresh, len(self._drawable)))
        drawn += [pool.drafts[at] for at in rng.sample(range(pool.visible), written)]
        rng.shuffle(drawn)
        return tuple(drawn)

    def _tasks(self, seeds: Sequence[Record]) -> list[Record]:
        """One record a task (a seed may have several instances), of the kind that the recipe asks for."""
        tasks = {seed.task: seed for seed in seeds}.values()
        if self._recipe.kind == "classification":
            tasks = [seed for seed in tasks if seed.classification]  # type: ignore[assignment]
        if not tasks:
            raise UsageError("no seed is marked as classification", hint="leave draft.kind at 'any'")
        return list(tasks)

    def ask(self, parents: Sequence[Record], steer: Mapping[str, str], rng: Random) -> Request:
        examples = [shown(parent.instruction) for parent in parents]
        last = len(examples) + self._recipe.items
        values = {"examples": examples, "last": last, "kind": self._recipe.kind, "vary": dict(steer)}
        # The originals also stop at a bare "16." in mid-sentence; strict stops only where a line begins. Whether a
        # blank line ends the list is for the prompt file to say: in chat it stands between a preamble and the list.
        beyond = last + 1
        over = (f"\n{beyond}.",) if self._strict else (f"\n{beyond}", f"{beyond}.", f"{beyond} .")
        request = self._setting.draft(self.stage, values)
        sampling = request.sampling
        stop = tuple(dict.fromkeys((*sampling.stop, *over))) if request.json_schema is None else ()
        update = {"sampling": sampling.model_copy(update={"stop": stop}), "samples": self._recipe.samples}
        return request.model_copy(update=update)

    def read(self, reply: Reply, parents: Sequence[Record], rng: Random) -> list[Read]:
        cut = reply.finish != "stop"
        prompt = self._setting.prompts[self._setting.prompt_name(self.stage, self._setting.style)]
        begun = prompt.style not in ("chat", "json")
        if self._strict:
            found = read_list(reply.text, len(parents) + 1, self._recipe.items, cut=cut, begun=begun)
        else:
            # The original knows only prompts that end in the first number; in chat the reply has it, after a preamble.
            label = None if begun else re.search(r"^[ \t#*]*+\d++\s?[.)]\**[ \t]++", reply.text, re.MULTILINE)
            found = read_list_compat(reply.text[label.end() :] if label else reply.text, cut=cut)
        origin = tuple(parent.task for parent in parents)
        return [
            item if isinstance(item, Unreadable) else Record(instruction=item, origin=self.stage, parents=origin)
            for item in found
        ]


def shown(instruction: str) -> str:
    """An instruction as it stands in the list: one line, no colon at the end."""
    return " ".join(instruction.split()).rstrip(":")


# What chat models put around what was asked for.

_FENCE = re.compile(r"^(?P<before>[^`\n]*:)?[ \t>*\-]*+(?P<fence>```+)[ \t]*+(?P<info>[^`\n]*+)$", re.MULTILINE)
_RULE = re.compile(r"-{3,}")
_OFFER = re.compile(
    r"\W*(let me know (if|whether|how|what)|feel free to|i hope (this|these|that|it)\b|hope this helps|(that|this) "
    r"(completes|concludes)|(would you like|do you want|shall i|if you('d| would| want| need))\b)",
    re.IGNORECASE,
)
_LETTER = re.compile(
    r"\b(?:Output|Class label)(?:[ \t]++\d++)?+\**+[ \t]*+:\**+\s*+((?:subject|dear|hi|hello|hey)\b)?+", re.IGNORECASE
)


def fenced(text: str) -> list[tuple[int, int]]:
    """Where code stands between a fence and the fence that closes it; what is never closed is no code."""
    spans: list[tuple[int, int]] = []
    opened: int | None = None
    for fence in _FENCE.finditer(text):
        if opened is None or fence["info"].strip() or fence["before"]:
            opened = fence.start("fence")  # a fence that names a language opens, even if the one before is still open
        else:
            spans.append((opened, fence.end()))
            opened = None
    return spans


def unfenced(text: str) -> str:
    """The text without the fence that stands around all of it, if one does."""
    bare = text.strip()
    inner = list(_FENCE.finditer(bare))
    if len(inner) < 2 or inner[0].start("fence") or inner[-1].end() < len(bare):
        return text
    first, last = inner.pop(0), inner.pop()
    closes = not (last["before"] or last["info"].strip())
    nested = not inner or (len(inner) % 2 == 0 and bool(inner[0]["info"].strip() or inner[0]["before"]))
    return bare[first.end() : last.start()].strip("\n") if closes and nested else text


def tidied(text: str) -> str:
    """The text without a rule or the fence of nothing at its end."""
    lines = text.rstrip().split("\n")
    single = len(list(_FENCE.finditer(text))) % 2 == 1
    while lines and (
        not (last := lines[-1].strip()) or (len(lines) > 1 and _RULE.fullmatch(last)) or (single and last == "```")
    ):
        single = single and last != "```"
        lines.pop()
    return "\n".join(lines)


def parted(text: str) -> tuple[str, str]:
    """The reply, and the offer or farewell to its reader that is its last paragraph; in a letter that is the text's."""
    bare = text.rstrip()
    ends, fields = list(re.finditer(r"\n[ \t]*+\n", bare)), list(_LETTER.finditer(bare))
    if not ends or not _OFFER.match(bare, ends[-1].end()) or (fields and fields[-1][1]):
        return text, ""
    head = bare[: ends[-1].start()]
    return (head, bare[ends[-1].end() :].strip()) if head.strip() else (text, "")


# "10.", "10)", "10 :", "**10.**", "### 10.", "10、"; not "10.5" or "10:30".
_NUMBER = re.compile(
    r"^[ \t#]*+(\*\*)?+[ \t]*+(\d{1,4})(?(1)(?:\*\*)?)[ \t]?[.):、\uff0e\uff09\uff1a](?!\d)(?(1)(?:\*\*)?)[ \t]*",
    re.MULTILINE,
)
_DANGLING = re.compile(r"([,:;、\uff0c\uff1a\uff1b]|\b(and|or))$")


def read_list(text: str, first: int, most: int, *, cut: bool, begun: bool = True) -> list[str | Unreadable]:
    """The items of a list that goes on with number ``first``, strictly (see docs/methods.md).

    Only the next expected number at the start of a line begins an item (a gap of at most two is allowed), so a number
    inside an item does not split it. ``begun``: the prompt has written the first number already, as it has not in
    chat; a chat reply may start again at 1, after a preamble that is no item. ``cut``: the reply did not end by
    itself, so its last item is incomplete. Items beyond ``most`` are not wanted.
    """
    text = tidied(unfenced(text))
    pieces: list[str] = []
    preamble, start, bold = "", 0, ""
    expected, numbered = first, False
    for mark in _NUMBER.finditer(text):
        number = int(mark[2])
        before = text[start : mark.start()]
        blank = not before.strip()
        anew = number == first or (number == 1 and (blank or not begun)) or (blank and first < number <= first + 2)
        if anew and not numbered:
            preamble = before.strip()
        elif expected < number <= expected + 3:
            pieces.append(bold + before)
        else:
            continue
        # Where "**10. Sort" opens bold type that the number does not close, it belongs to the item.
        bold = "**" if mark[0].count("**") == 1 else ""
        start, expected, numbered = mark.end(), number, True
    last, aside = _ended(bold + text[start:])

    items: list[str | Unreadable] = []
    if preamble:
        items.append(Unreadable("aside", "stands before the first number", preamble))
    if not numbered and not begun:
        return [Unreadable("unreadable", "the reply has no numbered task", text)]
    listed = [item for item in map(_item, pieces) if item]
    for at, item in enumerate([*listed, _item(last)]):
        is_last = at == len(listed)
        if not item:
            continue
        if is_last and cut and not aside:
            items.append(Unreadable("truncated", "the reply was cut off inside this item", item))
        elif at >= most:
            items.append(Unreadable("too-many", f"more than {most} items in one reply", item))
        elif is_last and _DANGLING.search(item):
            items.append(Unreadable("dangling", f"the last item stops at {item.split()[-1]!r}", item))
        else:
            items.append(item)
    if aside:
        items.append(Unreadable("aside", "stands after a blank line behind the last item", aside))
    return items or [Unreadable("unreadable", "the reply is empty", text)]


def _ended(piece: str) -> tuple[str, str]:
    """The last item ends at a blank line; what follows it is said to the reader of the list."""
    item, *rest = re.split(r"\n\s*\n", piece.strip(), maxsplit=1)
    return item, rest[0] if rest else ""


def _item(piece: str) -> str:
    item = " ".join(piece.split())
    item = re.sub(r"^\*\*(.+?)\*\*", r"\1", item).removeprefix("**").lstrip()
    return item[:1].upper() + item[1:]


def read_list_compat(text: str, *, cut: bool) -> list[str | Unreadable]:
    """The items as the original code reads them: it drops a cut reply whole, splits at any number that begins a line,
    and lower-cases all but the first letter."""
    if cut:
        return [Unreadable("truncated", "the reply ended for length", text)]
    pieces = re.split(r"\n\d+\s?\. ", text)
    items = [re.sub(r"\s+", " ", piece).strip().capitalize() for piece in pieces]
    return [item for item in items if item] or [Unreadable("unreadable", "the reply is empty", text)]
