"""What the scripted model writes where JSON is asked for: values that keep to a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from selfinstruct.engines.grammar import Toss, instruction, pick
from selfinstruct.engines.writers import OF_ITEMS, Job, Writer, Written

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_DEEP = 4
"""Arrays further down are as short as they may be: a schema may speak of itself."""


def in_json(writer: Writer, written: Written, schema: Mapping[str, Any], job: Job) -> Written:
    """What was written, as JSON that keeps to the schema: the one string property that is free holds it, an option
    or a number that the text names is taken, and the grammar says the rest. What was to be unreadable stays as it is.

    Of JSON Schema it knows types, properties, items and their bounds, options, and references.
    """
    if any(defect == "unreadable" for _, defect in written.planted):
        return written
    text = written.join.join(written.items)
    count = {"tasks": job.size.tasks, "alpaca": job.size.alpaca}.get(writer, 3)
    free = [name for name, part in schema.get("properties", {}).items() if _type(part) == "string"]
    of_items = writer in OF_ITEMS
    filler = _Filler(schema, "" if of_items else text, count, job.toss)
    value = filler.value(schema, text if len(free) == 1 and not of_items else None, 0)
    planted = () if of_items else written.planted
    return Written((json.dumps(value, ensure_ascii=False),), "\n", planted, None if written.cut is None else 0)


class _Filler(NamedTuple):
    root: Mapping[str, Any]
    named: str
    """What may name options and numbers."""
    usual: int
    """Items of an array that has no bounds of its own."""
    toss: Toss

    def value(self, schema: Any, text: str | None, depth: int) -> Any:
        """A value of the schema; ``text`` is for its free string."""
        schema = schema if isinstance(schema, Mapping) else {}
        if "$ref" in schema:
            return self.value(_found(self.root, schema["$ref"]), text, depth)
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return self.value(options[0], text, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._option(schema["enum"])
        match _type(schema):
            case "object":
                parts = schema.get("properties", {})
                return {
                    name: self.value(part, text if _type(part) == "string" else None, depth + 1)
                    for name, part in parts.items()
                }
            case "array":
                low = schema.get("minItems", 0)
                high = min(schema.get("maxItems", max(low, self.usual)), max(low, self.usual))
                many = low if depth > _DEEP else high
                return [self.value(schema.get("items"), None, depth + 1) for _ in range(many)]
            case "integer" | "number" as kind:
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return self.toss() < 0.5
            case "null":
                return None
        said = instruction(self.toss) if text is None else text
        while len(said) < schema.get("minLength", 0):
            said += f" {instruction(self.toss)}"
        return said[: schema.get("maxLength", len(said))]

    def _option(self, options: list[Any]) -> Any:
        said = f" {' '.join(self.named.casefold().split())} "
        named = [one for one in options if isinstance(one, str) and one and f" {one.casefold()}" in said]
        return max(named, key=len) if named else pick(options, self.toss)

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low = schema.get("minimum", 0)
        high = schema.get("maximum", low + 100)
        for found in _NUMBER.findall(self.named):
            number = int(found) if whole and "." not in found else float(found)
            if low <= number <= high and not (whole and isinstance(number, float)):
                return number
        drawn = low + self.toss() * (high - low)
        return int(drawn) if whole else drawn


def _type(schema: Any) -> str:
    """The type of a value: the first that is named and is not null, or else the one that its keys speak of."""
    if not isinstance(schema, Mapping) or {"$ref", "anyOf", "oneOf", "const", "enum"} & schema.keys():
        return ""
    named = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    kinds = named if isinstance(named, list) else [named]
    return str(next((kind for kind in kinds if kind != "null"), "null"))


def _found(root: Any, reference: str) -> Any:
    """Where a JSON pointer leads."""
    for part in filter(None, reference.removeprefix("#").split("/")):
        root = root[part.replace("~1", "/").replace("~0", "~")]
    return root
