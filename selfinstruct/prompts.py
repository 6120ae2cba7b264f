"""Prompt files: find, check, render, digest. Every word that a model reads stands in one of them.

A prompt is Markdown with YAML front matter::

    ---
    about: what it is for, in a line
    sampling: {temperature: 0.7, max_tokens: 512, stop: ["\\n\\n"]}
    slots: {instruction: an example value}
    ---
    <!-- system -->
    …
    <!-- user -->
    Answer this: {{ instruction }}
    <!-- assistant -->
    1.

Without a role marker the text is one to continue (completion). A last ``assistant`` section begins the model's turn
(prefill). The text is Jinja, sandboxed and strict, and otherwise used exactly as written: a section begins on the line
after its marker and ends before the newline that precedes the next marker or the end of the file. What a model wrote
is only ever a value: it is never rendered as a template, and a marker inside it stays text.

``slots`` names every variable of the text with an example value; text and slots are checked against each other.

A prompt with a ``schema`` is answered in JSON that keeps to it, and ``reads`` is the text (Jinja too) that becomes of
the answer's properties: what reads replies reads that, and never sees JSON.

A prompt may stand in a frame: ``evolve/deepen.md`` with ``frame: in-depth`` holds a method only, and the files of
``evolve/frames/in-depth/`` what is said around it, one for each way of asking. Where a frame says ``{{ method }}`` the
method's text goes; its front matter goes over the frame's. The whole has the name ``evolve/deepen/chat``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import BaseLoader, StrictUndefined, TemplateError, TemplateNotFound, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from selfinstruct.engines import Failure, Message, Reply, Request, Role, Sample, Sampling, Style
from selfinstruct.errors import InputError, UsageError
from selfinstruct.records import Direction
from selfinstruct.resources import PROMPTS

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_FRONT_MATTER = re.compile(r"\A---\n(.*?\n)---\n(.*)\Z", re.DOTALL)
_MARKER = re.compile(r"^<!-- (system|user|assistant) -->(?:\n|\Z)", re.MULTILINE)
_LIKE_A_MARKER = re.compile(r"^[ \t]*<!--[ \t]*\w+[ \t]*-->[ \t]*$", re.MULTILINE)
_MARKERS = "<!-- system -->, <!-- user --> and <!-- assistant --> begin sections, each on a line of its own"


class FrontMatter(BaseModel):
    """What stands above a prompt's text."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    about: str
    sampling: dict[str, Any] = Field(default_factory=dict)
    slots: dict[str, Any] = Field(default_factory=dict)
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    """JSON Schema that the answer keeps to: an object."""
    reads: str = ""
    """The text that an answer of the schema is read as; its variables are the object's properties."""
    frame: str = ""
    """The frame that the text stands in."""
    direction: Direction | None = None
    """Of a prompt that evolves: where it goes."""
    added: tuple[int, int] | None = None
    """Of a prompt that evolves: the words that it may add, at the least and at the most; None: the recipe's bounds."""

    @field_validator("added")
    @classmethod
    def _added_is_a_range(cls, added: tuple[int, int] | None) -> tuple[int, int] | None:
        if added and added[0] > added[1]:
            raise ValueError(f"at least {added[0]} and at most {added[1]} words: nothing can be both")
        return added


class Prompt:
    """One prompt file, checked. Build it through ``Prompts``."""

    def __init__(self, name: str, source: str, text: str, head: FrontMatter, body: str, library: Prompts) -> None:
        self.name = name
        self.source = source
        self.text = text
        self.head = head
        self._body = body
        self._library = library
        try:
            self.sampling = Sampling(**head.sampling)
        except ValidationError as error:
            raise InputError(f"{source}: sampling: {_first(error)}", hint="see docs/prompts.md") from error
        # Sections are cut before rendering, so that a marker inside a value stays text.
        self.sections = list(_sections(source, body, _first_line(text)))
        roles = [role for role, _ in self.sections]
        if "assistant" in roles[:-1]:
            raise InputError(f"{source}: an assistant section may only stand last", hint="examples go into the user's")
        if "system" in roles[1:]:
            raise InputError(f"{source}: a system section may only stand first", hint=_MARKERS)
        if "user" not in roles and roles != [None]:
            raise InputError(f"{source}: there is no user section", hint=_MARKERS)
        self.style: Style = "completion" if roles == [None] else "prefill" if roles[-1] == "assistant" else "chat"
        if bool(head.reads) != (head.json_schema is not None):
            raise InputError(f"{source}: `schema` and `reads` go together", hint="see docs/prompts.md")
        if head.json_schema is not None:
            if self.style != "chat":
                raise InputError(f"{source}: JSON is asked for in chat", hint="the last section is the user's")
            self.style = "json"
            self._validator = _validator(source, head.json_schema)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over this file and all it includes; 16 hex digits."""
        whole = hashlib.sha256()
        for name in sorted(self._library.closure(self.name)):
            whole.update(name.encode() + b"\0" + self._library.read(name)[1].encode() + b"\0")
        return whole.hexdigest()[:16]

    def request(self, values: Mapping[str, Any], *, seed: int | None = None, **sampling: Any) -> Request:
        """The request that this prompt makes of ``values``; ``sampling`` overrides the front matter's.

        Raises InputError where a slot is missing or the text cannot be rendered.
        """
        missing = self.head.slots.keys() - values.keys()
        if missing:
            raise InputError(
                f"{self.source}: no value for the slot {sorted(missing)[0]!r}",
                hint="the stage that asks with this prompt has no such value; `selfinstruct prompts` shows ours",
            )
        rendered = [(role, self._render(text, values)) for role, text in self.sections]
        if self.style == "json":  # a stop string would break the object off
            sampling["stop"] = ()
        chosen = self.sampling.model_copy(update=sampling) if sampling else self.sampling
        if self.style == "completion":
            return Request(prompt=rendered[0][1], sampling=chosen, seed=seed, purpose=self.name)
        prefill = rendered.pop()[1] if self.style == "prefill" else ""
        messages = tuple(Message(role=role, content=text) for role, text in rendered if role)
        wanted = {"sampling": chosen, "seed": seed, "json_schema": self.head.json_schema, "purpose": self.name}
        return Request(messages=messages, prefill=prefill, **wanted)

    def understood(self, reply: Reply) -> Reply:
        """The reply as it is read, each of its answers: what ``reads`` makes of JSON that keeps to the schema. What
        does not is an error of the kind malformed, and stays as it came."""
        if self.head.json_schema is None:
            return reply
        more = tuple(one.model_copy(update=self._understood(one)) for one in reply.more)
        return reply.model_copy(update={**self._understood(reply), "more": more})

    def _understood(self, answer: Sample) -> dict[str, Any]:
        """What changes about an answer."""
        if answer.error:
            return {}
        text = answer.text.strip()
        fence = _FENCE.match(text)
        text = text[fence.end() :].removesuffix("```") if fence else text
        said, what = self._said(text)
        if not what:  # whole, even if blanks behind it went on up to max_tokens
            return {"text": Sample(text=said).text, "finish": "stop"}
        if answer.finish != "stop":
            cut, broken = self._said(_closed(text))
            if not broken:  # what reads it treats its end as it does that of any text that broke off
                return {"text": Sample(text=cut).text}
            what = f"the reply was cut off ({answer.finish})"
        return {"error": Failure(kind="malformed", message=what if len(what) <= 300 else f"{what[:299]}…")}

    def _said(self, text: str) -> tuple[str, str]:
        """What ``reads`` makes of JSON, and what is wrong with it."""
        from jsonschema.exceptions import best_match

        try:
            value = json.loads(text, parse_constant=_no_constant, parse_float=_number)
            problem = best_match(self._validator.iter_errors(value))
            if problem:
                return "", f"{problem.json_path}: {problem.message}"
            return self._render(self.head.reads, value), ""
        except (ValueError, ArithmeticError, RecursionError) as error:
            return "", f"not JSON: {error}"
        except InputError as error:  # the schema lets something be missing that `reads` wants
            return "", f"cannot be read: {error.__cause__}"

    def example(self) -> Request:
        """What a model would read with the example values of the front matter."""
        return self.request(self.head.slots)

    def bare(self) -> str:
        """What a model would read with nothing in the slots."""
        return self.request(
            {slot: "" if isinstance(value, str) else value for slot, value in self.head.slots.items()}
        ).text()

    def _render(self, text: str, values: Mapping[str, Any]) -> str:
        try:
            return str(self._library.compile(text).render(values))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:  # whatever it computes
            raise InputError(f"{self.source}: {error}", hint=_JINJA) from error


class Prompts:
    """The prompts of a run: an extra folder first (``--prompts DIR``), then the package's own.

    The current folder is never searched: it would change data in silence. ``stored`` holds texts by name and stands
    for both: a run replays with the texts that it was made with, and with no others.
    """

    def __init__(self, folder: Path | None = None, *, stored: Mapping[str, str] | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise UsageError(f"--prompts: {folder} is not a folder", hint="it holds files such as bootstrap/chat.md")
        self._folders = [path for path in (folder, PROMPTS) if path is not None] if stored is None else []
        self._stored = dict(stored or {})
        self._known: dict[str, Prompt] = {}
        self._templates: dict[str, Any] = {}
        self._environment = ImmutableSandboxedEnvironment(
            loader=_Loader(self), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
        )
        # Same values, same text: what Jinja has of chance is taken out.
        del self._environment.globals["lipsum"], self._environment.filters["random"]

    def __contains__(self, name: str) -> bool:
        return name in self._stored or self._path(name) is not None or self._framed(name) is not None

    def names(self) -> list[str]:
        """Every prompt there is, by name."""
        found = {
            path.relative_to(folder).with_suffix("").as_posix()
            for folder in self._folders
            for path in folder.rglob("*.md")
        }
        return sorted(name for name in found | self._stored.keys() if not name.endswith("README"))

    def strangers(self) -> list[str]:
        """Prompts of the extra folder that the package has none of, and that none of its own includes."""
        if len(self._folders) < 2:
            return []
        own = Prompts()
        names = [name for name in self.names() if name not in own]
        included = {part for name in own.names() for part in self.closure(name)}
        return [name for name in names if name not in included]

    def __getitem__(self, name: str) -> Prompt:
        if name not in self._known:
            source, text = self.read(name)
            head, body = _split(source, text)
            prompt = Prompt(name, source, text, head, body, self)
            self._check(prompt)
            self._known[name] = prompt
        return self._known[name]

    def read(self, name: str) -> tuple[str, str]:
        """Where the prompt stands, and its whole text."""
        if name in self._stored:
            return f"journal:{name}", self._stored[name]
        framed = self._framed(name)
        if framed is not None:
            return framed
        path = self._path(name)
        if path is None:
            raise UsageError(f"there is no prompt {name!r}", hint="`selfinstruct prompts` lists them")
        return str(path), _text(path)

    def _framed(self, name: str) -> tuple[str, str] | None:
        """Where the method stands, and its text in its frame: for the name of the method (in chat) and for that name
        with a way of asking. A method without a frame is a whole prompt, and asks in its own way alone."""
        method, _, variant = name.rpartition("/")
        if self._path(name) is not None:
            method, variant = name, ""
        path = self._path(method)
        if path is None:
            return None
        source, text = str(path), _text(path)
        head, body = _split(source, text)
        if not head.frame or _MARKER.search(body):
            return (source, text) if variant and variant == _style_of(head, body) else None
        folder = f"{method.rpartition('/')[0]}/frames/{head.frame}"
        around = self._path(f"{folder}/{variant or 'chat'}")
        if around is None:
            if not any(self._path(f"{folder}/{style}") for style in ("chat", "completion", "json")):
                raise InputError(
                    f"{source}: there is no frame {head.frame!r}", hint=f"the files of {folder}/ would be its text"
                )
            return None
        outer, frame = _split(str(around), _text(around))
        if frame.count(METHOD) != 1:
            raise InputError(f"{around}: a frame has {METHOD} once", hint="there the method's text goes")
        merged = outer.model_dump(exclude_defaults=True, by_alias=True)
        for key, value in head.model_dump(exclude_defaults=True, by_alias=True).items():
            merged[key] = {**merged.get(key, {}), **value} if key in ("sampling", "slots") else value
        merged["slots"] = {slot: value for slot, value in merged.get("slots", {}).items() if slot != "method"}
        front = yaml.safe_dump(_plain(merged), allow_unicode=True, sort_keys=False)
        return source, f"---\n{front}---\n{frame.replace(METHOD, body.strip(chr(10)))}"

    def _path(self, name: str) -> Path | None:
        """The file of that name, in the folders and nowhere above them."""
        if any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in name.split("/")):
            return None
        for folder in self._folders:
            path = folder / f"{name}.md"
            try:
                if path.is_file():
                    return path
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}", hint="check the folder's permissions") from error
        return None

    def closure(self, name: str) -> set[str]:
        """The prompt and all that it includes, by name."""
        seen: set[str] = set()
        self._follow(name, (), seen)
        return seen

    def _follow(self, name: str, above: tuple[str, ...], seen: set[str]) -> None:
        seen.add(name)
        source, text = self.read(name)
        tree = self._parse(source, _split(source, text)[1], _first_line(text))
        for found in meta.find_referenced_templates(tree):
            if found is None:  # its text would be in no digest
                raise InputError(
                    f"{source}: an include that names no file", hint='{% include "classify/examples.md" %}'
                )
            part = found.removesuffix(".md")
            if part in (*above, name):
                chain = " > ".join((*above, name, part))
                raise InputError(f"{source}: includes itself: {chain}", hint="take one of these includes out")
            if part not in self:
                raise InputError(
                    f"{source}: there is no prompt {part!r} to include", hint="`selfinstruct prompts` lists them"
                )
            if part not in seen:
                self._follow(part, (*above, name), seen)

    def compile(self, text: str) -> Any:
        """The template of one section, compiled once."""
        if text not in self._templates:
            self._templates[text] = self._environment.from_string(text)
        return self._templates[text]

    def _parse(self, source: str, body: str, line: int) -> Any:
        try:
            return self._environment.parse(body)
        except TemplateError as error:
            line += getattr(error, "lineno", 1) - 1
            raise InputError(f"{source}:{line}: {error.message}", hint=_JINJA) from error

    def _check(self, prompt: Prompt) -> None:
        texts = [(prompt.source, text) for _, text in prompt.sections]
        for name in self.closure(prompt.name) - {prompt.name}:
            source, text = self.read(name)
            body = _split(source, text)[1]
            if _LIKE_A_MARKER.search(body):
                raise InputError(f"{source}: a text that {prompt.name!r} includes has no sections", hint=_MARKERS)
            texts.append((source, body))
        declared = prompt.head.slots.keys()
        used = set().union(*(self._variables(*text) for text in texts)) - (self._environment.globals.keys() - declared)
        if used != set(declared):
            odd = sorted(used ^ set(declared))[0]
            side = "is used but not declared" if odd in used else "is declared but not used"
            raise InputError(f"{prompt.source}: the slot {odd!r} {side}", hint="`slots` gives each variable an example")
        if prompt.head.json_schema is not None:
            self._check_reads(prompt, prompt.head.json_schema["properties"].keys())

    def _check_reads(self, prompt: Prompt, properties: Iterable[str]) -> None:
        reads = prompt.head.reads
        strange = self._variables(prompt.source, reads) - self._environment.globals.keys() - set(properties)
        if strange:
            named = sorted(strange)[0]
            raise InputError(f"{prompt.source}: reads: the schema has no property {named!r}", hint=_OBJECT)
        if any(True for _ in meta.find_referenced_templates(self._environment.parse(reads))):
            raise InputError(f"{prompt.source}: reads: includes another file", hint="its text stands in it whole")

    def _variables(self, source: str, text: str) -> set[str]:
        try:
            self.compile(text)
            return meta.find_undeclared_variables(self._environment.parse(text))
        except TemplateError as error:  # each section is a template of its own: no block of Jinja spans two
            raise InputError(f"{source}: {error.message}", hint=_JINJA) from error


_JINJA = "the text is a Jinja template"
_OBJECT = "a schema is JSON Schema of type object with properties, whole in itself; see docs/prompts.md"
METHOD = "{{ method }}"
"""Where a frame takes in what stands in it."""


class _Loader(BaseLoader):
    """Lets a prompt include another: ``{% include "classify/examples.md" %}``, its text without front matter."""

    def __init__(self, library: Prompts) -> None:
        self._library = library

    def get_source(self, environment: Any, template: str) -> tuple[str, str | None, Any]:
        name = template.removesuffix(".md")
        if name not in self._library:
            raise TemplateNotFound(template)
        source, text = self._library.read(name)
        return _split(source, text)[1].removesuffix("\n"), None, lambda: True


def _split(source: str, text: str) -> tuple[FrontMatter, str]:
    match = _FRONT_MATTER.match(text)
    if not match:
        raise InputError(
            f"{source}:1: no front matter", hint="a prompt begins with `---`, YAML, `---`; see docs/prompts.md"
        )
    try:
        return FrontMatter.model_validate(yaml.safe_load(match[1]) or {}), match[2]
    except ValidationError as error:
        raise InputError(f"{source}: front matter: {_first(error)}", hint="see docs/prompts.md") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
        raise InputError(f"{source}: front matter: {error}", hint="it is YAML; see docs/prompts.md") from error


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", hint="a prompt is a readable UTF-8 text file") from error


def _style_of(head: FrontMatter, body: str) -> Style:
    """The way in which a text asks, by its markers."""
    roles = [mark[1] for mark in _MARKER.finditer(body)]
    if head.json_schema is not None:
        return "json"
    return "completion" if not roles else "prefill" if roles[-1] == "assistant" else "chat"


_FENCE = re.compile(r"```(?:json)?[ \t]*\n", re.IGNORECASE)
"""What servers that ignore a schema let models put around JSON."""


def _closed(text: str) -> str:
    """JSON that broke off, with what was open closed: its last string is as much of it as there is. Empty for what did
    not just break off, or did so in a number, which reads as another one."""
    in_string = re.sub(r"\\.", "", text, flags=re.DOTALL).count('"') % 2
    if not in_string and text[-1:].isdigit():
        return ""
    with suppress(RecursionError):
        try:
            json.JSONDecoder().raw_decode(text)  # a whole value, and something behind it
        except ValueError:
            with suppress(ValueError):
                value = from_json(text, allow_partial="trailing-strings", allow_inf_nan=False)
                return json.dumps(value, ensure_ascii=False)
    return ""


def _no_constant(name: str) -> None:
    raise ValueError(f"there is no {name} in it")


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # 1e999: no schema's bounds hold it
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _validator(source: str, schema: dict[str, Any]) -> Validator:
    """What checks values by the schema. Raises InputError for one that is no schema of an object, or whose references
    lead nowhere or out of it: nothing is ever fetched."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import specification_with

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise InputError(f"{source}: schema: {error.json_path}: {error.message}", hint=_OBJECT) from error
    if schema.get("type") != "object" or not schema.get("properties"):
        raise InputError(f"{source}: schema: not an object with properties", hint=_OBJECT)
    registry: Registry[Any] = Registry()
    dialect = specification_with(kind.META_SCHEMA["$schema"].rstrip("#"))
    resolver = registry.resolver_with_root(dialect.create_resource(schema))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise InputError(f"{source}: schema: $ref {reference!r} leads nowhere", hint=_OBJECT) from error
    return kind(schema, registry=registry)


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        yield from _references(inner)


def _plain(value: Any) -> Any:
    """Lists for tuples: YAML's safe form knows no others."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _first_line(text: str) -> int:
    """The line on which the text below the front matter begins."""
    match = _FRONT_MATTER.match(text)
    return 1 + text.count("\n", 0, match.start(2)) if match else 1


def _sections(source: str, body: str, line: int) -> Iterator[tuple[Role | None, str]]:
    marks = list(_MARKER.finditer(body))
    for like in _LIKE_A_MARKER.finditer(body):
        if not _MARKER.match(body, like.start()):
            at = line + body.count("\n", 0, like.start())
            raise InputError(f"{source}:{at}: {like[0]!r} is no marker", hint=_MARKERS)
    if not marks:
        yield None, body.removesuffix("\n")
        return
    if body[: marks[0].start()].strip():
        raise InputError(f"{source}:{line}: text above the first marker", hint=_MARKERS)
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        end = after.start() if after else len(body)
        yield mark[1], body[mark.end() : end].removesuffix("\n")  # type: ignore[misc]  # the pattern admits only roles


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
