"""Reading seeds and datasets, and writing them in the field's formats."""

from __future__ import annotations

import json
import logging
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from selfinstruct.encodings import encode
from selfinstruct.errors import InputError, UsageError
from selfinstruct.files import replacing, writing
from selfinstruct.records import Record
from selfinstruct.values import CSV_HINT, JSON_HINT, Unread, is_csv, left_unread, parsed, plain, reading, values
from selfinstruct.words import words

_PACKED = ("", ".gz", ".zst")
ENDINGS = (*(f"{kind}{packed}" for kind in (".json", ".jsonl", ".ndjson") for packed in _PACKED), ".parquet")
"""Of the names of the files that a folder is looked through for."""
_OTHERS = (".csv", ".tsv", ".txt", ".xlsx", ".arrow", ".feather", ".zip", ".tar", ".gz", ".zst", ".bz2", ".xz")
"""Of files that may hold data too, and are named when a folder's are read without them."""

QUESTIONS = ("instruction", "prompt", "question", "problem", "query")
ANSWERS = ("output", "completion", "response", "solution", "answer", "chosen")
INPUTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
_HEADINGS = frozenset((*QUESTIONS, *ANSWERS))

_SEED_HINT = 'a seed is {"instruction": "…", "input": "…", "output": "…"} or a Self-Instruct task with "instances"'
_UNANSWERED_HINT = (
    "`selfinstruct answer` takes rows without an answer, and gives them one; "
    f"answers are read under {', '.join(ANSWERS)}"
)
_DATASET_HINT = (
    f"rows are messages, conversations, instances, or one of {', '.join(QUESTIONS)} with one of {', '.join(ANSWERS)}"
)

log = logging.getLogger("selfinstruct")


# Reading


def read_seeds(path: Path) -> list[Record]:
    """The seeds of a file: Self-Instruct tasks or Alpaca rows, as JSONL or as a JSON list, in any language.

    Stricter than ``read_dataset``, for a flaw in a seed is copied a thousand times: nothing blank, nothing twice.
    A seed without an id is named by its content.
    """
    seeds: list[Record] = []
    contents: dict[str, str] = {}  # where each stood, by Record.id
    tasks: dict[str, str] = {}
    for where, value in values(path, headings=_HEADINGS):
        row = _Row(_object(value, where), where, origin="seed", answered=False)
        records = _task(row) if "instances" in row.fields else [_alpaca(row)]
        for record in records:
            _check_seed(record, where)
            if record.id in contents:
                twin = contents[record.id]
                what = "two of its instances are the same" if twin == where else f"the same task as {twin}"
                raise InputError(f"{where}: {what}", hint="delete one of the two")
            contents[record.id] = where
        task = records[0].task
        if task in tasks:
            raise InputError(
                f"{where}: the id {_short(task)} is taken by {tasks[task]}",
                hint="give every task its own id, or none at all; several examples of one task go into its instances",
            )
        tasks[task] = where
        seeds += records
    if not seeds:
        raise InputError(f"{path}: no tasks", hint=_SEED_HINT)
    return seeds


def _check_seed(record: Record, where: str) -> None:
    if not record.instruction.strip():
        raise InputError(
            f"{where}: the instruction is blank: {_short(record.instruction)}", hint="write it or delete it"
        )
    for key in ("instruction", "input", "output", "system", "reasoning", "name", "task"):
        if "\0" in (text := getattr(record, key)):
            raise InputError(f"{where}: a NUL character in {_short(text)}", hint="delete the NUL character")


def read_dataset(path: Path, *, answered: bool = True) -> Iterator[Record]:
    """The rows of a dataset, one at a time: a run folder, a folder of files, or one file. A file is JSONL, a JSON list,
    either of them packed by gzip or zstd, or Parquet; its first bytes tell.

    Each row is read by the first line here whose keys it has:

    ==========================  =============================================================================
    keys                        read as
    ==========================  =============================================================================
    instances                   Self-Instruct task (instruction, id, name, is_classification): a Record for
                                each instance {input, output}
    messages, or conversations  one question and one answer, with a system turn before them or a ``system``
                                key; turns are {role, content} or {from, value}; ``reasoning_content``
    a question and an answer    the question under the first of QUESTIONS, the answer under the first of
                                ANSWERS, either of them a text or a list of turns; with the first of INPUTS,
                                the first of SYSTEMS, reasoning, id, name
    chosen                      a conversation (preferences)
    ==========================  =============================================================================

    Alpaca, Dolly, OpenOrca, GSM8K, TRL's prompt and completion, preferences and our own shards are all of the third
    kind; prompt with completion goes before instruction. The first is the first that holds something: a null is none,
    and an empty text gives way to the next. Keys not named are ignored.

    With ``answered=False`` a row may be the question alone: without its output, its completion or its last turn.
    Conversations of several turns are refused, not cut. ``task`` is the row's id, or Record.id where there is none;
    ``origin`` is ``dataset``. A path without any row is an InputError.
    """
    return (record for where, value in _rows(path) for record in _records(_row(value, where, answered=answered)))


class Stored(NamedTuple):
    """A row of a dataset as it stands there, whatever its format."""

    where: str
    """file:line, the file and the item of its list, or the file and the row of its table."""
    fields: dict[str, Any]
    """All its keys; those too that we do not read."""
    texts: tuple[str, str, str]
    """What it says: instruction, input, output."""
    more: str
    """What it says beside them, under keys that we do not read."""


def read_stored(path: Path, unread: Callable[[Unread], None] | None = None) -> Iterator[Stored]:
    """The rows of a dataset as they are stored, one at a time, each with all that it says.

    Nothing is cut here, so more can be read than by ``read_dataset``: a row may lack its answer, or be a conversation
    of several turns by whatever roles: what follows on the first question is then the output. The instances of a
    Self-Instruct task are one row, with all their inputs and outputs. A row of no known shape is all the text it has.

    ``more`` is text that was not read, lest two rows seem the same that are not: five words or more under any other
    key, and whatever stands under one that is called like those we read (``outputs``, ``final_answer``, ``rejected``,
    ``tool_calls``). Not in it: ids; system texts and reasoning; a copy of what was read; and a text that goes through
    instruction, input and output and ends there, as the filled template in Alpaca's ``text`` does.

    A row that cannot be read is an InputError, or goes to ``unread`` where that is given; then only what makes the
    rest of a file unreadable is an error, and a path of which nothing can be read.
    """
    first: Unread | None = None
    good, bad = 0, 0

    def note(found: Unread) -> None:
        nonlocal first, bad
        assert unread is not None
        first, bad = first or found, bad + 1
        unread(found)

    for where, value in _rows(path, note if unread else None):
        try:
            stored = _stored(value, where)
        except InputError as error:
            if unread is None:
                raise
            note(left_unread(error, where, value))
            continue
        good += 1
        yield stored
    if first and not good:
        raise InputError(
            f"{path}: none of its {bad:,} rows can be read; {first.where}: {first.why}", hint=_DATASET_HINT
        )


def stored_texts(value: object, where: str) -> tuple[str, str, str, str]:
    """What a row says, read as by ``read_stored``: instruction, input, output, and what is under other keys."""
    found = _stored(value, where)
    return (*found.texts, found.more)


def stored_row(fields: Mapping[str, Any]) -> str:
    """A row as one line of JSON, without its line end: its keys and values as they were, in their order. Of what is no
    JSON in a Parquet file, times become ISO 8601, decimals text, bytes base64, and what is no number null."""
    text = _ENCODE(plain(fields))
    if not text.isascii() and _half(text):  # under a key that we do not read: as an escape it stays what it is
        return json.dumps(json.loads(text))
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _rows(path: Path, unread: Callable[[Unread], None] | None = None) -> Iterator[tuple[str, object]]:
    files = dataset_files(path)
    _tell_others(path, files)

    def rows() -> Iterator[tuple[str, object]]:
        empty = True

        def note(found: Unread) -> None:
            nonlocal empty
            assert unread is not None
            empty = False
            unread(found)

        for file in files:
            for found in values(file, note if unread else None, _HEADINGS):
                empty = False
                yield found
        if empty:
            raise InputError(f"{path}: no rows", hint="name a file or folder that holds some")

    return rows()


def read_row(line: str, where: str = "row") -> Record:
    """What ``row`` wrote."""
    (record,) = _records(_row(parsed(line, where), where))
    return record


def dataset_files(path: Path) -> list[Path]:
    """The data files behind a path, in order."""
    with reading(path):
        if not path.is_dir():
            return [path]
        found = [file for file in (path / "data").glob("train-*") if file.name.lower().endswith(ENDINGS)]
        # By length first: train-100000 comes after train-99999.
        if shards := sorted(found, key=lambda file: (len(file.name), file.name)):
            return shards
        if (path / "recipe.toml").exists():  # its other files (rejects, lineage) are no dataset
            raise InputError(f"{path}: this run has kept no rows yet", hint="start the same run again to continue it")
        found = sorted(file for file in path.iterdir() if file.name.lower().endswith(ENDINGS) and file.name[0] != ".")
    if not found:
        others = _others(path)
        raise InputError(
            f"{path}: no dataset in this folder" + (f"; not read: {_cut(', '.join(others))}" if others else ""),
            hint=CSV_HINT
            if any(is_csv(Path(name)) for name in others)
            else "name a run folder, or one of .json, .jsonl, .ndjson (.gz, .zst) or .parquet files",
        )
    return found


def _others(folder: Path) -> list[str]:
    """The files of a folder that may hold data and are not read, by name."""
    with reading(folder):
        return sorted(
            file.name
            for file in folder.iterdir()
            if (name := file.name.lower()).endswith(_OTHERS) and not name.endswith(ENDINGS) and name[0] != "."
        )


_told: set[tuple[Path, tuple[str, ...]]] = set()
"""Folders whose other files have been told of: a verb may read a dataset several times."""


def _tell_others(path: Path, files: Sequence[Path]) -> None:
    """Say once which files of a folder are left out."""
    if files == [path] or not (others := tuple(_others(files[0].parent))) or (path.resolve(), others) in _told:
        return
    _told.add((path.resolve(), others))
    log.warning("%s: not read of this folder: %s", path, _cut(", ".join(others)))


# From a row to Records


@dataclass(frozen=True, slots=True)
class _Row:
    """One JSON object, where it stood, and what to call its keys when one of them is wrong."""

    fields: dict[str, Any]
    where: str
    prefix: str = ""
    origin: str = "dataset"
    answered: bool = True
    """Whether it must hold an answer. A seed may lack its output, and so may a row that is to be answered."""
    turns: bool = False
    """Whether it may be a conversation of several turns; it is then stored, and what is no text is left unread."""
    read: dict[str, str] = field(default_factory=dict)
    """The keys that were read, with their texts."""
    inner: list[_Row] = field(default_factory=list)
    """The objects in it that were read: turns, instances, parts of a content."""

    def text(self, key: str, default: str | None = None) -> str:
        """The text under a key. With a default, the key may be missing or null."""
        value = self.fields.get(key)
        self.read[key] = ""
        if value is None and default is not None:
            return default
        if key not in self.fields:
            has = ", ".join(map(repr, self.fields)) or "nothing"
            hint = _UNANSWERED_HINT if key in ANSWERS and self.origin != "seed" else self.hint
            raise InputError(f"{self.where}: no `{self.prefix}{key}`; there is {_cut(has)}", hint=hint)
        if not isinstance(value, str):
            self.wrong(key, value, "text")
        if half := _half(value):
            raise InputError(f"{self.where}: `{self.prefix}{key}` holds {half!r}, {_HALF}", hint=_HALF_HINT)
        self.read[key] = value
        return value

    def first(self, keys: Sequence[str]) -> str | None:
        """The first of the keys that holds a text or turns; where none does, the first that is there at all."""
        has = [key for key in keys if self.fields.get(key) is not None]
        said = (key for key in has if (value := self.fields[key]) and (isinstance(value, str) or _are_turns(value)))
        return next(said, has[0] if has else None)

    def either(self, keys: Sequence[str]) -> str:
        """The text under the first of the keys; nothing where they are missing or null."""
        key = self.first(keys)
        if key is None or (self.turns and key != keys[0] and not isinstance(self.fields[key], str)):
            return ""
        if not isinstance(value := self.fields[key], str):
            self.wrong(key, value, "text", hint=f"make one text of it, or give `{key}` a name that is not read")
        return self.text(key)

    @property
    def hint(self) -> str:
        return _SEED_HINT if self.origin == "seed" else _DATASET_HINT

    def output(self) -> str:
        return self.text("output", None if self.answered else "")

    def classification(self) -> bool | None:
        value = self.fields.get("is_classification")
        self.read["is_classification"] = ""
        if value is not None and not isinstance(value, bool):
            self.wrong("is_classification", value, "true, false or null")
        return value

    def id(self) -> str:
        value = self.fields.get("id")
        if isinstance(value, int) and not isinstance(value, bool):
            self.read["id"] = ""
            return str(value)
        return self.text("id", "")

    def objects(self, key: str) -> list[_Row]:
        """The list of objects under a key."""
        value = self.fields[key]
        if not isinstance(value, list):
            self.wrong(key, value, "a list")
        for i, item in enumerate(value):
            if not isinstance(item, dict):
                self.wrong(f"{key}[{i}]", item, "an object")
        self.read[key] = ""
        return [self.part(item, f"{key}[{i}].") for i, item in enumerate(value)]

    def part(self, fields: dict[str, Any], prefix: str) -> _Row:
        """An object in it."""
        part = _Row(fields, self.where, f"{self.prefix}{prefix}", self.origin, self.answered, self.turns)
        self.inner.append(part)
        return part

    def record(self, **texts: Any) -> Record:
        record = Record(**texts, task=self.id(), origin=self.origin)
        return record if record.task else record.model_copy(update={"task": record.id})

    def wrong(self, key: str, value: object, wanted: str, hint: str = "") -> NoReturn:
        if value is None and key in ANSWERS and self.origin != "seed":
            hint = _UNANSWERED_HINT
        raise InputError(
            f"{self.where}: `{self.prefix}{key}` must be {wanted}, found {_kind(value)}: {_short(value)}",
            hint=hint or f"correct `{self.prefix}{key}` in this row",
        )


def _object(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise InputError(f"{where}: a row must be an object, found {_kind(value)}: {_short(value)}", hint=JSON_HINT)


def _row(value: object, where: str, *, answered: bool = True, turns: bool = False) -> _Row:
    return _Row(_object(value, where), where, answered=answered, turns=turns)


def _records(row: _Row) -> list[Record]:
    has = {key for key, value in row.fields.items() if value is not None}  # tables have every column in every row
    if "instances" in has:
        return _task(row)
    for turns in ("messages", "conversations"):
        if turns in has:
            return [_chat(row, row.objects(turns))]
    if (record := _pair(row)) is not None:
        return [record]
    raise InputError(
        f"{row.where}: not a row of a known format; it has {_cut(', '.join(map(repr, row.fields))) or 'no keys'}",
        hint=_DATASET_HINT,
    )


def _task(row: _Row) -> list[Record]:
    """A Self-Instruct task: a Record for each instance, all sharing the task."""
    instruction, name, classification = row.text("instruction"), row.text("name", ""), row.classification()
    instances = row.objects("instances")
    if not instances:
        raise InputError(f"{row.where}: `instances` is empty", hint='write one: {"input": "…", "output": "…"}')
    records = [
        row.record(
            instruction=instruction,
            input=instance.text("input", ""),
            output=instance.output(),
            name=name,
            classification=classification,
        )
        for instance in instances
    ]
    return [record.model_copy(update={"task": records[0].task}) for record in records]


def _alpaca(row: _Row) -> Record:
    """A seed that is one row."""
    if row.fields.get("history"):
        raise InputError(f"{row.where}: `history` makes this a conversation of several turns", hint=_ONE_TURN)
    return row.record(
        instruction=row.text("instruction"),
        input=row.text("input", ""),
        output=row.output(),
        system=row.text("system", ""),
        reasoning=row.text("reasoning", ""),
        name=row.text("name", ""),
        classification=row.classification(),
    )


def _pair(row: _Row) -> Record | None:
    """A question and its answer under keys of their own; None where it has no question."""
    question, answer = row.first(QUESTIONS), row.first(ANSWERS)
    if row.fields.get("prompt") is not None and row.fields.get("completion") is not None:
        question, answer = "prompt", "completion"
    said = row.fields.get(answer) if answer else None
    if answer not in (None, "output", "completion") and not row.answered and not _says(said):
        answer = None  # whatever it is (a number, a list of texts), no answer is needed
    if answer == "chosen" and _are_turns(said) and (question is None or _is_whole(said)):
        return _chat(row, row.objects(answer))
    if question is None:
        if "output" in row.fields and row.fields["output"] is not None and not row.turns:
            row.text("instruction")  # says that there is none
        return None
    if isinstance(row.fields[question], list) or _are_turns(said) or (answer == "completion" and said == []):
        asked = isinstance(row.fields[question], list) or answer == "completion"
        turns = row.objects(question) if asked else [_turn(row, "user", row.text(question))]
        if answer and isinstance(said, list):
            turns += row.objects(answer)
        elif answer:
            turns.append(_turn(row, "assistant", row.text(answer)))
        return _chat(row, turns)
    instruction = row.text(question)
    if answer is None and row.answered:
        given = next((key for key in ANSWERS if key in row.fields), None)  # a null
        row.text(given or {"instruction": "output", "prompt": "completion"}.get(question, "answer"))
    before: list[str] = []
    if history := row.fields.get("history"):
        if not row.turns:
            raise InputError(f"{row.where}: `history` makes this a conversation of several turns", hint=_ONE_TURN)
        pairs = enumerate(_list(row, "history", history))
        earlier = {f"{i}.{j}": text for i, pair in pairs for j, text in enumerate(pair)}
        row.read["history"] = ""
        before = [_Row(earlier, row.where, "history.").text(key) for key in earlier]
    given_input = row.either(INPUTS)
    return row.record(
        instruction=instruction,
        input="\n\n".join([*before, given_input]) if before else given_input,
        output=row.text(answer) if answer else "",
        system=row.either(SYSTEMS),
        reasoning=row.text("reasoning", ""),
        name=row.text("name", ""),
        classification=row.classification(),
    )


def _says(value: object) -> bool:
    return isinstance(value, str) or _are_turns(value)


def _are_turns(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_whole(turns: Any) -> bool:
    """Whether turns begin with the question: of preferences, some have the answer alone."""
    roles = [_ROLES.get(str(turn.get("from", turn.get("role")))) for turn in turns]
    return next((role for role in roles if role != "system"), None) == "user"


def _turn(row: _Row, role: str, text: str) -> _Row:
    return _Row({"role": role, "content": text}, row.where, turns=row.turns)


def _list(row: _Row, key: str, value: object) -> list[list[object]]:
    if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
        row.wrong(key, value, "a list of pairs")
    return value


_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_ONE_TURN = "only one question with one answer can be read: cut such conversations first, or leave them out"


def _chat(row: _Row, turns: list[_Row]) -> Record:
    """One question and one answer, with at most one system turn before them."""
    said: list[tuple[str, str]] = []
    for turn in turns:
        speaker, content = ("from", "value") if "from" in turn.fields else ("role", "content")
        role = turn.text(speaker)
        if role not in _ROLES and not row.turns:
            raise InputError(
                f"{row.where}: `{turn.prefix}{speaker}` is {_short(role)}, who neither asks nor answers",
                hint=f"turns are read by {', '.join(_ROLES)}; leave out conversations in which others speak",
            )
        said.append((_ROLES.get(role, role), _content(turn, content)))
    alone = row.turns and len(said) == 1  # nothing but a system text: that is what it says
    system = said.pop(0)[1] if said and said[0][0] == "system" and not alone else row.either(SYSTEMS)
    roles = [role for role, _ in said]
    if row.turns and said:
        first = roles.index("user") if "user" in roles else 0
        others = [text for at, (_, text) in enumerate(said) if at != first and text]
        return row.record(instruction=said[first][1], output="\n\n".join(others), system=system)
    if roles[:2] == ["user", "assistant"] and len(roles) > 2:
        raise InputError(f"{row.where}: a conversation of {len(roles)} turns", hint=_ONE_TURN)
    if roles == ["user"] and not row.answered:
        return row.record(instruction=said[0][1], system=system)
    if roles != ["user", "assistant"]:
        raise InputError(
            f"{row.where}: the turns are {_cut(', '.join(roles)) or 'none'}; wanted: user, assistant",
            hint=_UNANSWERED_HINT if roles == ["user"] else _ONE_TURN,
        )
    return row.record(
        instruction=said[0][1],
        output=said[1][1],
        system=system,
        reasoning=turns[-1].text("reasoning_content", ""),
    )


def _content(turn: _Row, key: str) -> str:
    """What is said in a turn: a text, parts of which some are text, or nothing where a tool is called."""
    value = turn.fields.get(key)
    if value is None and (key in turn.fields or turn.fields.get("tool_calls") or turn.fields.get("function_call")):
        return turn.text(key, "")
    if not isinstance(value, list):
        return turn.text(key)
    turn.read[key] = ""
    found: list[str] = []
    for number, item in enumerate(value):
        part = turn.part(item, f"{key}[{number}].") if isinstance(item, dict) else None
        if part and item.get("type") == "text" and isinstance(item.get("text"), str):
            part.read["type"] = ""
            found.append(part.text("text"))
        elif part is None or not turn.turns or item.get("type") in (None, "text"):
            turn.wrong(
                key, value, "text, or parts that are text", hint="leave out conversations with images or other parts"
            )
    return "\n".join(found)


# What a row says beside that

_ASIDE = ("system", "system_prompt", "reasoning", "reasoning_content")
"""Keys that are never compared."""
_NAMES = frozenset(
    f"{' '.join((*QUESTIONS, *ANSWERS, *INPUTS))} rejected reference target label truth choice option text content "
    "message conversation history turn call image audio video".split()
)
"""What keys are called that hold what a row says."""
_TELLING = 5
"""Words from which a text under any other key is more than a label."""
_LAST_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")
_CLOSED = re.compile(r"(?:\s|<[^<>]*>)*")


def _stored(value: object, where: str) -> Stored:
    row = _row(value, where, answered=False, turns=True)
    try:
        records = _records(row)
    except InputError:
        if any(row.fields.get(key) is not None for key in ("instances", "messages", "conversations", *QUESTIONS)):
            raise
        if not (text := "\n".join(_beside(row.fields) or _all(row.fields))):
            raise
        return Stored(where, row.fields, (text, "", ""), "")
    inputs, outputs = ("\n".join(filter(None, (getattr(r, key) for r in records))) for key in ("input", "output"))
    texts = (records[0].instruction, inputs, outputs)
    return Stored(where, row.fields, texts, "\n".join(_more(row, texts)))


def _more(row: _Row, texts: tuple[str, str, str]) -> list[str]:
    """What a row says under keys that were not read."""
    rows, found, heard = [row], list[str](), set[str]()
    for one in rows:
        heard.update(text.strip() for key, text in one.read.items() if key not in ("id", "name", "role", "from"))
        unread = {key: value for key, value in one.fields.items() if key not in one.read and value is not None}
        if "type" in unread and one.prefix.endswith("].") and not one.read:  # a part that is no text
            found += _all(unread)
        elif unread:
            found += _beside(unread)
        rows += one.inner
    if not found or not texts[2]:  # a copy, too, may be the answer
        return found
    heard.add("\n\n".join(filter(None, texts[:2])).strip())
    return [text for text in found if text.strip() not in heard and not _renders(text, texts)]


def _beside(fields: Mapping[str, Any]) -> list[str]:
    """The texts among them that are more than labels, in the order of their keys."""
    found: list[str] = []
    for key in sorted(fields):
        if key in _ASIDE or fields[key] is None:
            continue
        leaves = list(_leaves(key, fields[key], named=False))
        telling = any(not named for _, named in leaves) and sum(words(text) for text, _ in leaves) >= _TELLING
        found += [text for text, named in leaves if named or telling]
    return found


def _all(fields: Mapping[str, Any]) -> list[str]:
    return [text for key in sorted(fields) for text, _ in _leaves(key, fields[key], named=False)]


def _leaves(key: str, value: object, *, named: bool) -> Iterator[tuple[str, bool]]:
    """The texts under a key, each with whether that key, or one above it, is called like one that we read."""
    called = (_LAST_WORD.findall(key) or [""])[-1].lower()
    if called == "id" or (key in ("role", "from", "type") and isinstance(value, str) and " " not in value):
        return
    named = named or called in _NAMES or called.removesuffix("s") in _NAMES
    if isinstance(value, str):
        if value.strip():
            yield value, named
    elif isinstance(value, Mapping):
        for inner in sorted(value):
            yield from _leaves(inner, value[inner], named=named)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(key, item, named=named)
    elif named and isinstance(value, bytes):
        yield blake2b(value, digest_size=16).hexdigest(), named
    elif named and value is not None:  # a number
        yield str(value), named


def _renders(text: str, texts: tuple[str, str, str]) -> bool:
    """Whether a text goes through instruction, input and output in this order, and ends there."""
    instruction, given, output = map(str.strip, texts)
    if not instruction or not output:
        return False
    at = text.find(instruction)
    if at >= 0 and given:
        at = text.find(given, at + len(instruction))
    last = text.rfind(output)
    return 0 <= at < last and _CLOSED.fullmatch(text, last + len(output)) is not None


def _half(text: str) -> str:
    """The first lone half of a surrogate pair in the text, or nothing."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


_HALF = "half of a surrogate pair, which no UTF-8 file can hold"
_HALF_HINT = "delete it, or restore the character it was part of"


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a truth value", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _short(value: object) -> str:
    return _cut(repr(value[:100])) if isinstance(value, str) else reprlib.repr(value)


def _cut(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "…"


# Writing


def row(record: Record, columns: Sequence[str]) -> str:
    """A record as one line of a shard, without its line end: ``columns`` in their order, ``id`` among them."""
    return _json({column: getattr(record, column) for column in columns}, record)


def write_dataset(records: Iterable[Record], path: Path, format: str) -> list[Path]:
    """Write records in one of FORMATS; returns the files written. They are there whole, or not at all.

    The end of the name decides: ``.json`` is one list, a row a line; ``.jsonl`` is lines; anything without an ending
    is a folder, and the file in it is named after the format. Text goes out as it is: no lineage, no template.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}", hint=f"there are {', '.join(FORMATS)}")
    form = FORMATS[format]
    with writing(path):
        if path.is_dir() or (not path.suffix and not path.exists()):
            path = path / f"{format}{form.ending}"
    kind = path.suffix.lower()
    if kind not in (".json", ".jsonl"):
        raise UsageError(f"{path}: its name tells no format", hint="end it in .json (a list) or .jsonl (lines)")
    if format == "openai" and kind == ".json":
        raise UsageError(f"{path}: the fine-tuning API takes lines, not a list", hint="end the name in .jsonl")

    lost: Counter[str] = Counter()
    count = 0

    def counted() -> Iterator[Record]:
        for record in records:
            lost.update(key for key in ("system", "reasoning") if getattr(record, key) and key not in form.keeps)
            yield record

    with replacing(path) as file:
        opening, between, closing = ("[\n", ",\n", "\n]\n") if kind == ".json" else ("", "\n", "\n")
        for count, line in enumerate(form.lines(counted()), start=1):
            file.write(((between if count > 1 else opening) + line).encode())
        file.write((closing if count else "[]\n" if kind == ".json" else "").encode())

    for key, rows in lost.items():
        log.warning("%s: %d of %d rows have a %s, which the format %s leaves out", path, rows, count, key, format)
    if format == "openai" and count < 10:
        log.warning("%s: %d rows; fine-tuning at OpenAI wants at least 10", path, count)
    return [path]


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_BREAKS = re.compile("[\x85\u2028\u2029]")


def _json(value: object, record: Record) -> str:
    text = _ENCODE(value)
    if text.isascii():
        return text
    if half := _half(text):
        raise InputError(f"record {record.id} holds {half!r}, {_HALF}", hint=_HALF_HINT)
    # Python's splitlines, JavaScript and others break lines at these; inside JSON they may as well be escaped.
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@dataclass(frozen=True, slots=True)
class Format:
    """One way of the field to write a dataset."""

    about: str
    lines: Callable[[Iterable[Record]], Iterator[str]]
    keeps: frozenset[str] = frozenset()
    """Which of ``system`` and ``reasoning`` it has a place for."""
    ending: str = ".jsonl"
    """Of the file's name when only a folder is given."""


def _each(shape: Callable[[Record], dict[str, Any]]) -> Callable[[Iterable[Record]], Iterator[str]]:
    return lambda records: (_json(shape(record), record) for record in records)


def _as_alpaca(record: Record) -> dict[str, Any]:
    return {"instruction": record.instruction, "input": record.input, "output": record.output}


def _question(record: Record) -> list[dict[str, str]]:
    asked = f"{record.instruction}\n\n{record.input}" if record.input else record.instruction
    system = [{"role": "system", "content": record.system}] if record.system else []
    return [*system, {"role": "user", "content": asked}]


def _answer(record: Record) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": record.output}]


def _as_openai(record: Record) -> dict[str, Any]:
    return {"messages": _question(record) + _answer(record)}


def _as_messages(record: Record) -> dict[str, Any]:
    (answer,) = _answer(record)
    if record.reasoning:
        answer["reasoning_content"] = record.reasoning
    return {"messages": [*_question(record), answer]}


def _as_sharegpt(record: Record) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = _question(record) + _answer(record)
    return {"conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]}


def _as_trl(record: Record) -> dict[str, Any]:
    return {"prompt": _question(record), "completion": _answer(record)}


def _as_gpt3(record: Record) -> dict[str, Any]:
    prompt, completion = encode(record, Random(record.id))  # the same encoding in every file, at every place
    return {"prompt": prompt, "completion": completion}


def _self_instruct(records: Iterable[Record]) -> Iterator[str]:
    """Tasks with their instances, in the order of each task's first record."""
    tasks: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        tasks.setdefault((record.task or record.id, record.instruction), []).append(record)
    taken: set[str] = set()
    for (task, instruction), members in tasks.items():
        first = members[0]
        name = first.id if task in taken else task  # two instructions under one task are two tasks
        taken.add(name)
        value = {
            "id": name,
            "name": first.name,
            "instruction": instruction,
            "instances": [{"input": record.input, "output": record.output} for record in members],
            "is_classification": bool(first.classification),
        }
        yield _json(value, first)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "alpaca": Format("instruction, input, output", _each(_as_alpaca), ending=".json"),
        "messages": Format(
            "chat messages with roles; reasoning as reasoning_content",
            _each(_as_messages),
            keeps=frozenset({"system", "reasoning"}),
        ),
        "sharegpt": Format("conversations of human and gpt", _each(_as_sharegpt), keeps=frozenset({"system"})),
        "openai": Format("messages for OpenAI's fine-tuning API", _each(_as_openai), keeps=frozenset({"system"})),
        "trl": Format(
            "prompt and completion for TRL, whose loss is then on the completion",
            _each(_as_trl),
            keeps=frozenset({"system"}),
        ),
        "gpt3": Format(
            "prompt and completion as Self-Instruct fine-tuned GPT-3, each record in one of 13 encodings",
            _each(_as_gpt3),
        ),
        "self-instruct": Format("seed tasks with their instances", _self_instruct),
    }
)
