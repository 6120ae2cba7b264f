"""Reads refusals: what a server means by a 400, 401, 404 or 429, and how long it wants us to wait."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from selfinstruct.engines.replies import as_dict, sound

MOST_WORDS = 300
"""Characters of a server's message that are kept."""


class Said:
    """What a server says of a request that it refuses."""

    def __init__(self, status: int, payload: Any, scrub: Callable[[str], str] = str) -> None:
        self.status = status
        error: Any = payload
        if isinstance(payload, dict):
            error = payload.get("error") or payload.get("detail") or payload
        param = ""
        if isinstance(error, list) and error and isinstance(error[0], dict):
            # FastAPI: the first complaint; its "input" is our own prompt and stays out
            first, path = error[0], error[0].get("loc")
            path = [part for part in path if part != "body"] if isinstance(path, list | tuple) else []
            param = str(path[0]) if path else ""
            error = {"message": f"{param}: {first.get('msg')}", "code": first.get("type")}
        fields = as_dict(error)
        words = fields.get("message") or fields.get("detail") or fields.get("msg")
        if words is None:
            words = error if error else "(no message)"
        text = words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)
        if "<html" in text.lower():
            text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
        self.message: str = scrub(" ".join(sound(text).split()))[:MOST_WORDS]
        self.param = param or str(fields.get("param") or "")
        self.code = " ".join(str(fields.get(name) or "") for name in ("code", "type"))

    def matches(self, pattern: re.Pattern[str]) -> bool:
        return bool(pattern.search(f"{self.code} {self.message}"))


@dataclass(frozen=True)
class Parameter:
    """One that the server does not take."""

    name: str


Meaning = (
    Parameter
    | Literal["busy", "no credit", "bad key", "unknown model", "no template", "no api"]
    | Literal["too_long", "content_policy", "thinking", "rejected"]
)
"""What the server means. busy: waiting may help. The second line: the work cannot go on. The third: this request has
no answer."""


def meaning(said: Said, sent: Collection[str]) -> Meaning:
    """What the server means by an error status; ``sent`` are the names of the parameters that it was sent."""
    status = said.status
    if status == 402 or (status in (400, 403, 429) and said.matches(_NO_CREDIT)):
        return "no credit"
    # 429: more at once than a minute allows, so waiting is in vain
    too_long = _TOO_LARGE if status == 429 else _TOO_LONG
    if status == 413 or (status in (400, 403, 422, 429) and said.matches(too_long)):
        return "too_long"
    if status in (408, 409, 423, 425, 429) or status >= 500:
        return "busy"
    if status == 401 or (status == 400 and said.matches(_BAD_KEY)):
        return "bad key"
    if status in (400, 403, 422, 451) and said.matches(_CONTENT_POLICY):
        return "content_policy"
    if status in (400, 403, 422):
        if said.matches(_UNFINISHED):
            return "thinking"
        if (name := _refused_parameter(said, sent)) is not None:
            return Parameter(name)
    if status == 403:
        return "bad key"
    if status == 404 or (status in (400, 422) and said.matches(_UNKNOWN_MODEL)):
        return "unknown model"
    if status in (400, 422) and said.matches(_NO_TEMPLATE):
        return "no template"
    return "rejected" if status in (400, 422, 451) else "no api"


def _refused_parameter(said: Said, sent: Collection[str]) -> str | None:
    """Which of the parameters ``sent`` the server says it does not take. A value out of range is not that, but for
    ``n``: a server that gives fewer answers at once is asked for one."""
    param = said.param.partition(".")[0]
    if "n" in sent and (param == "n" or said.matches(_SEVERAL)):
        return "n"
    if not said.matches(_REFUSES):
        return None
    if param in sent:
        return param
    found: list[tuple[int, str]] = []
    for name in sent:
        head, *tail = name.split("_")
        camel = head + "".join(part.capitalize() for part in tail)
        spelled = rf"\b(?:{re.escape(name)}|{re.escape(camel)})\b"
        if "_" not in name and name not in ("temperature", "logprobs"):
            # a word of ordinary messages
            spelled = rf"(?:['\"`]|:\s*|\b(?:parameter|argument|field|property|name|option)s?:?\s+){spelled}"
        if match := re.search(spelled, said.message):
            found.append((match.end(), name))
    # the first: "property 'frequency_penalty' is unsupported, did you mean 'presence_penalty'?"
    return min(found)[1] if found else None


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_REFUSES = _pattern(
    r"unsupported|not support(ed)?\b|n't support|unrecogni[sz]ed",
    r"unknown (parameter|name|field|argument|property|option)",
    r"unknown_parameter|not permitted|not allowed|not available|not implemented|extra_forbidden|unexpected keyword",
    r"invalid schema|unavailable|must be one of|literal_error",
    r"only the default|cannot (both )?be (used|set|specified|combined)|deprecated|does not accept|no longer",
)
_SEVERAL = _pattern(
    r"(?<![\w\\])n\b['\"`]?\W{0,4}(\w+\W+){0,6}?(must|should|at most|maximum|only|support|greater|exceed|allowed)",
    r"(only (one|a single|1)|multiple|several|more than (one|1)) (choice|completion|candidate|output)s?\b",
)
_NO_CREDIT = _pattern(
    r"insufficient_quota|billing_hard_limit|billing_not_active|insufficient[ _](credit|balance)",
    r"credit balance is too low|out of credits?\b",
)
_TOO_LONG = _pattern(
    r"context_length_exceeded|exceed_context|string_above_max_length|context[ _](length|window|size)|max_model_len",
    r"maximum (context|sequence|model|input)|too many (input )?tokens|reduce the length",
    r"longer than the (maximum|model)",
    r"(prompt|input|request|messages?|max_\w*tokens'?) (is |are |was )?too (long|large)",
    r"tokens? (count|limit).{0,40}exceed",
)
_TOO_LARGE = _pattern(r"request too large")
_BAD_KEY = _pattern(
    r"api[ _-]?key.{0,20}(invalid|incorrect|not valid|missing)", r"(invalid|incorrect|missing).{0,10}api[ _-]?key"
)
_CONTENT_POLICY = _pattern(
    r"content[ _]policy|content management policy|content[ _]filter|usage polic|flagged|moderation|responsible ?ai",
    r"data_inspection_failed|inappropriate content|content exists risk|prohibited[ _]content",
    r"safety (system|reasons|policy)",
)
_UNFINISHED = _pattern(r"could not finish the message because max_tokens")
_UNKNOWN_MODEL = _pattern(
    r"model_not_found|model_decommissioned|model_not_exist|(unknown|invalid|no such) model|not a valid model",
    r"\bmodel\b.{0,120}(does not exist|not exist|not found|no longer available|decommissioned|is not available)",
)
_NO_TEMPLATE = _pattern(r"chat[ _]template")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server wants us to wait, from ``retry-after-ms`` or ``retry-after`` (seconds, or a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - now
            except (ValueError, OverflowError, OSError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
