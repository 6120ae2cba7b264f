"""The shipped fake engine, ``scripted/<file>``: replies by rule or by a seeded grammar, defects planted by plan.

A reply is a function of script and request: all chance comes from SHA-256 over the script's seed, the request's seed
and what the model reads. So neither order, concurrency nor a restart changes a reply. The exceptions are made for
tests of failure: rules with ``calls`` and the ``[outage]`` count calls. See docs/scripted.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import struct
import time
import tomllib
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import NamedTuple, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from selfinstruct.engines import Failure, Finish, Frozen, Options, Reply, Request, Sample, Sampling, Style, Usage
from selfinstruct.engines.objects import in_json
from selfinstruct.engines.writers import (
    OF_ITEMS,
    Job,
    Planted,
    Share,
    Shares,
    Writer,
    Writers,
    Written,
    fate,
    first_words,
    write,
    writer_of,
)
from selfinstruct.errors import EngineError, InputError, StorageError, UsageError

# The script. Its tables are these models; docs/scripted.md shows them as TOML.


class Latency(Frozen):
    """How long a reply takes: log-normal. A median of 0 answers at once."""

    median_ms: float = Field(0, ge=0)
    sigma: float = Field(0.7, ge=0)


class Transient(Frozen):
    """Attempts that fail inside the engine. They cost time; where all of them fail, the request gave up."""

    rate: Share = 0
    attempts: int = Field(4, ge=1)
    wait_ms: float = Field(0, ge=0)


class Outage(Frozen):
    """After so many calls nothing is answered any more, for ``seconds`` or for good."""

    after: int = Field(ge=0)
    seconds: float | None = Field(None, ge=0)
    message: str = "the scripted outage has begun"


class TasksDefects(Frozen):
    near_duplicate: Share = 0
    exact_duplicate: Share = 0
    too_short: Share = 0
    blacklisted: Share = 0
    punctuation_first: Share = 0
    misnumbered: Share = 0
    truncated: Share = 0


class YesNoDefects(Frozen):
    unreadable: Share = 0


class InstancesDefects(Frozen):
    empty_output: Share = 0
    same_as_input: Share = 0
    ends_in_colon: Share = 0
    conflict: Share = 0
    no_marker: Share = 0
    truncated: Share = 0


class LabelsDefects(Frozen):
    same_as_input: Share = 0
    conflict: Share = 0
    no_marker: Share = 0
    truncated: Share = 0


class AlpacaDefects(Frozen):
    near_duplicate: Share = 0
    exact_duplicate: Share = 0
    too_short: Share = 0
    blacklisted: Share = 0
    misnumbered: Share = 0
    missing_field: Share = 0
    empty_output: Share = 0
    same_as_input: Share = 0
    refusal: Share = 0
    too_long: Share = 0
    truncated: Share = 0


class AnswerDefects(Frozen):
    refusal: Share = 0
    empty: Share = 0
    punctuation: Share = 0
    truncated: Share = 0


class EvolveDefects(Frozen):
    unchanged: Share = 0
    leak: Share = 0
    bloated: Share = 0
    shrunk: Share = 0
    drifted: Share = 0
    close: Share = 0
    near: Share = 0
    apology_prompt: Share = 0
    empty: Share = 0
    truncated: Share = 0


class EqualDefects(Frozen):
    equal: Share = 0
    unreadable: Share = 0


class AnswerableDefects(Frozen):
    unanswerable: Share = 0
    unreadable: Share = 0


class DifficultyDefects(Frozen):
    unreadable: Share = 0


class AnyDefects(Frozen):
    """Failures of single requests, whoever writes."""

    error: Share = 0
    content_policy: Share = 0
    malformed: Share = 0
    thinking: Share = 0


class Defects(Frozen):
    """The share of items, or of replies, that get each defect."""

    tasks: TasksDefects = TasksDefects()
    yesno: YesNoDefects = YesNoDefects()
    instances: InstancesDefects = InstancesDefects()
    labels: LabelsDefects = LabelsDefects()
    alpaca: AlpacaDefects = AlpacaDefects()
    answer: AnswerDefects = AnswerDefects()
    evolve: EvolveDefects = EvolveDefects()
    equal: EqualDefects = EqualDefects()
    answerable: AnswerableDefects = AnswerableDefects()
    difficulty: DifficultyDefects = DifficultyDefects()
    any: AnyDefects = AnyDefects()

    @model_validator(mode="after")
    def _shares_fit(self) -> Defects:
        for writer in type(self).model_fields:
            for shares in self.of(writer):
                if sum(shares.values()) > 1 + 1e-9:
                    raise ValueError(f"the shares of {writer} add up to more than 1: {', '.join(shares)}")
        return self

    def of(self, writer: str) -> Shares:
        """A writer's shares, those that are not zero."""
        shares = {defect: share for defect, share in getattr(self, writer).model_dump().items() if share}
        whole = {"conflict", "no_marker", "truncated"} if writer in OF_ITEMS else shares.keys()
        return Shares(
            {defect: share for defect, share in shares.items() if defect not in whole},
            {defect: share for defect, share in shares.items() if defect in whole},
        )


class Rule(Frozen):
    """What to do with the requests that it fits: at most one outcome; with none, the writer of the purpose answers."""

    purpose: str | None = None
    """A glob."""
    match: str | None = None
    """A regular expression, searched for in all that the model reads."""
    calls: tuple[int, ...] = ()
    """Only these calls of the engine, counted from 1."""
    reply: str | None = None
    replies: tuple[str, ...] = ()
    """One of them, by the hash."""
    write: Writer | None = None
    plant: str | None = None
    """The text of a writer with this defect, named as in a plan: ``evolve.leak``."""
    error: Failure | None = None
    fail: str | None = None
    """The engine as a whole fails, with this message."""
    finish: Finish | None = None
    """How the text ends, unless max_tokens or a stop string cuts it first."""
    delay_ms: float | None = Field(None, ge=0)
    """Instead of the drawn latency."""
    reasoning: str = ""
    model: str = "scripted"
    fingerprint: str = ""

    @field_validator("match")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @field_validator("plant")
    @classmethod
    def _is_a_defect(cls, defect: str | None) -> str | None:
        if defect is not None:
            _planting(defect)
        return defect

    @model_validator(mode="after")
    def _has_one_outcome(self) -> Rule:
        outcomes = ("reply", "replies", "write", "plant", "error", "fail")
        given = [key for key in outcomes if getattr(self, key) not in (None, ())]
        if len(given) > 1:
            raise ValueError(f"a rule has one outcome, this one has {' and '.join(given)}")
        return self

    def fits(self, request: Request, call: int | None) -> bool:
        if self.calls and call not in self.calls:
            return False
        if self.purpose is not None and not fnmatchcase(request.purpose, self.purpose):
            return False
        return self.match is None or re.search(self.match, request.text()) is not None


@cache
def _planting(defect: str) -> tuple[Writer, Shares]:
    """The writer, and the shares with which it plants this defect and no other."""
    for writer in get_args(Writer):
        key = defect.removeprefix(f"{writer}.")
        if key != defect and key in type(getattr(Defects(), writer)).model_fields:
            return writer, Defects.model_validate({writer: {key: 1}}).of(writer)
    raise ValueError("no writer has such a defect")


class Script(Frozen):
    """A whole script file."""

    seed: int = 0
    concurrency: int = Field(16, ge=1)
    styles: tuple[Style, ...] = Field(("prefill", "chat", "completion", "json"), min_length=1)
    latency: Latency = Latency()
    transient: Transient = Transient()
    outage: Outage | None = None
    writers: Writers = Writers()
    defects: Defects = Defects()
    rule: tuple[Rule, ...] = ()


DEMO = Script(
    seed=1,
    defects=Defects(
        tasks=TasksDefects(
            near_duplicate=0.04,
            exact_duplicate=0.02,
            too_short=0.02,
            blacklisted=0.03,
            punctuation_first=0.01,
            truncated=0.03,
        ),
        instances=InstancesDefects(
            empty_output=0.02, same_as_input=0.01, conflict=0.02, no_marker=0.02, truncated=0.02
        ),
        labels=LabelsDefects(no_marker=0.02, truncated=0.02),
        alpaca=AlpacaDefects(
            near_duplicate=0.04, blacklisted=0.02, missing_field=0.02, empty_output=0.02, truncated=0.03
        ),
        answer=AnswerDefects(refusal=0.02, truncated=0.01),
        evolve=EvolveDefects(unchanged=0.02, leak=0.01, bloated=0.01, shrunk=0.01, drifted=0.02, truncated=0.01),
        equal=EqualDefects(equal=0.03),
        answerable=AnswerableDefects(unanswerable=0.02),
    ),
)
"""The script of ``--model scripted``: runs anywhere, and gives every filter a little to do."""


def open_scripted(rest: str, options: Options) -> Scripted:
    """The engine for ``scripted/<rest>``: the path of a script, or ``demo``, or nothing, for the built-in one."""
    name = f"scripted/{rest}" if rest else "scripted"
    if rest in ("", "demo"):
        return Scripted(name, DEMO, concurrency=options.concurrency, facts={"script": "demo"})
    content = _content(Path(rest))
    facts = {"script": rest, "script_sha256": hashlib.sha256(content.encode()).hexdigest()}
    return Scripted(name, _script(rest, content), concurrency=options.concurrency, facts=facts)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(
            f"there is no script {str(path)!r}", hint="`scripted/<path of a TOML file>`, or `scripted` for a demo"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {error}", hint="a script is UTF-8 text") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", hint="is it readable for you?") from error


def _script(source: str, content: str) -> Script:
    try:
        return Script(**tomllib.loads(content))
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+)", str(error))
        where = f"{source}:{place[1]}" if place else source
        raise InputError(f"{where}: not TOML: {error}", hint="docs/scripted.md shows a script") from error
    except ValidationError as error:
        problem = error.errors()[0]
        # [[rule]] tables are counted as a reader counts them: from 1.
        key = ".".join(str(part + 1) if isinstance(part, int) else part for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            what = "there is no such key"
        elif not isinstance(problem["input"], dict | list | Frozen):
            what += f", not {problem['input']!r}"
        raise InputError(f"{source}: {key}: {what}", hint="docs/scripted.md lists the keys") from error


class Scripted:
    """The engine. Built from a ``Script``; ``plan`` tells what it would plant, without being asked."""

    def __init__(
        self, name: str, script: Script, *, concurrency: int | None = None, facts: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.concurrency = concurrency or script.concurrency
        self.styles: tuple[Style, ...] = script.styles
        self.calls = 0
        """How many requests have come."""
        self._script = script
        self._facts = facts or {}
        self._shares = {writer: script.defects.of(writer) for writer in type(script.defects).model_fields}
        self._out_since: float | None = None

    async def complete(self, request: Request) -> Reply:
        self.calls += 1
        self._check_outage()
        chance = _Chance.of(self._script.seed, request)
        rule = self._rule(request, self.calls)
        await asyncio.sleep(self._delay(rule, chance))
        if rule.fail is not None:
            raise EngineError(f"{self.name}: {rule.fail}", hint="a rule of the script says so")
        reply = self._outcome(request, rule, chance)[0]
        return reply if reply.error else self._with_more(reply, request, rule)

    def plan(self, request: Request) -> tuple[Planted, ...]:
        """The defects that the reply to this request holds whole, the first of its answers. Rules with ``calls`` and
        outages are left aside."""
        rule = self._rule(request, None)
        return () if rule.fail is not None else self._outcome(request, rule, _Chance.of(self._script.seed, request))[1]

    def facts(self) -> dict[str, str]:
        return dict(self._facts)

    async def close(self) -> None:
        """Nothing is held."""

    def _check_outage(self) -> None:
        outage = self._script.outage
        if outage is None or self.calls <= outage.after:
            return
        now = time.monotonic()
        self._out_since = self._out_since or now
        if outage.seconds is None or now - self._out_since < outage.seconds:
            raise EngineError(f"{self.name}: {outage.message}", hint="the script's [outage] says so")

    def _rule(self, request: Request, call: int | None) -> Rule:
        return next((rule for rule in self._script.rule if rule.fits(request, call)), _NO_RULE)

    def _failures(self, chance: _Chance) -> int:
        """Attempts that failed, geometrically distributed."""
        transient = self._script.transient
        if transient.rate in (0, 1):
            return transient.attempts * int(transient.rate)
        return min(transient.attempts, int(math.log(chance.transient) / math.log(transient.rate)))

    def _delay(self, rule: Rule, chance: _Chance) -> float:
        latency, transient = self._script.latency, self._script.transient
        one = rule.delay_ms
        if one is None:
            one = latency.median_ms and latency.median_ms * math.exp(latency.sigma * _NORMAL.inv_cdf(chance.latency))
        attempts = min(self._failures(chance) + 1, transient.attempts)
        return (one * attempts + transient.wait_ms * (attempts - 1)) / 1000

    def _with_more(self, reply: Reply, request: Request, rule: Rule) -> Reply:
        """The reply with all the samples that were asked for. The first is what it would be alone."""
        usage, more = reply.usage, []
        for number in range(1, request.samples):
            chance = _Chance.of(self._script.seed, request, number)
            other = self._outcome(request, rule, chance, spared=True)[0]
            more.append(Sample(**{name: getattr(other, name) for name in Sample.model_fields}))
            spent, thought = usage.completion + other.usage.completion, usage.reasoning + other.usage.reasoning
            usage = usage.model_copy(update={"completion": spent, "reasoning": thought})
        return reply.model_copy(update={"more": tuple(more), "usage": usage}) if more else reply

    def _outcome(
        self, request: Request, rule: Rule, chance: _Chance, *, spared: bool = False
    ) -> tuple[Reply, tuple[Planted, ...]]:
        """``spared``: by what befalls a request as a whole."""
        told = {"model": rule.model, "fingerprint": rule.fingerprint}
        read = request.text()
        prompt = len(read.split())
        error, planted = (rule.error, ()) if rule.error or spared else self._misfortune(chance)
        if error is not None:
            finish: Finish = "length" if error.kind == "thinking" else "stop"
            return Reply(error=error, finish=finish, usage=Usage(prompt=prompt), **told), planted

        budget = max(0, request.sampling.max_tokens)
        thought = len(rule.reasoning.split())
        if thought and thought >= budget:
            spent = Failure(kind="thinking", message=f"all {budget} tokens went into reasoning")
            usage = Usage(prompt=prompt, completion=budget, reasoning=budget)
            reasoning = first_words(rule.reasoning, budget)
            return Reply(error=spent, finish="length", usage=usage, reasoning=reasoning, **told), ()

        literal = rule.replies[int(chance.pick * len(rule.replies))] if rule.replies else rule.reply
        if rule.plant:
            writer, shares = _planting(rule.plant)
        else:
            writer = rule.write or writer_of(request.purpose)
            shares = self._shares[writer]
        if literal is None:
            job = Job(self._script.writers, shares, request, read, Random(chance.text).random)
            written = write(writer, job)
            if request.json_schema is not None:
                written = in_json(writer, written, request.json_schema, job)
        else:
            written = Written((literal.removeprefix(request.prefill),))
        text, finish, count, whole = written.ended(request.sampling.stop, budget - thought)
        reply = Reply(
            text=text,
            finish=rule.finish if rule.finish and whole else finish,
            reasoning=rule.reasoning,
            usage=Usage(prompt=prompt, completion=count + thought, reasoning=thought),
            first_token=_first_token(text, request.sampling, chance) if request.sampling.logprobs else {},
            **told,
        )
        return reply, written.standing(writer, text, finish) if literal is None else ()

    def _misfortune(self, chance: _Chance) -> tuple[Failure | None, tuple[Planted, ...]]:
        failures = self._failures(chance)
        if failures == self._script.transient.attempts:
            message = f"the server was busy {failures} times"
            return Failure(kind="gave_up", message=message), (Planted(None, "any.error"),)
        defect = fate(self._shares["any"].of_reply, chance.error)
        if defect is None:
            return None, ()
        return _FAILURES[defect], (Planted(None, f"any.{defect}"),)


_NO_RULE = Rule()
_NORMAL = NormalDist()
_FAILURES = {
    "error": Failure(kind="gave_up", message="the server failed every time"),
    "content_policy": Failure(kind="content_policy", message="the request was refused by the content policy"),
    "malformed": Failure(kind="malformed", message="the reply could not be read"),
    "thinking": Failure(kind="thinking", message="the budget went into reasoning"),
}


class _Chance(NamedTuple):
    """All the chance that a request has, from one hash. The numbers lie strictly between 0 and 1."""

    text: int
    """Seeds the writer's random numbers."""
    pick: float
    error: float
    latency: float
    transient: float

    @classmethod
    def of(cls, seed: int, request: Request, sample: int = 0) -> _Chance:
        said = [(message.role, message.content) for message in request.messages]
        # repr: unambiguous, fast, and encodable whatever surrogates a text holds.
        named = (seed, request.seed, request.prompt, said, request.prefill)
        whole = repr((*named, sample) if sample else named)
        digest = hashlib.sha256(whole.encode()).digest()
        pick, error, latency, transient = ((n + 0.5) / 2**32 for n in struct.unpack_from(">4I", digest, 16))
        return cls(int.from_bytes(digest[:16]), pick, error, latency, transient)


def _first_token(text: str, sampling: Sampling, chance: _Chance) -> dict[str, float]:
    """Log-probabilities where the text begins with yes or no: of what was said, then of its opposite."""
    first = text.split(None, 1)[0].strip(".,;:!") if text.strip() else ""
    opposite = {"yes": "no", "no": "yes"}.get(first.lower())
    if opposite is None:
        return {}
    opposite = opposite.upper() if first.isupper() else opposite.capitalize() if first[0].isupper() else opposite
    lead = text[: len(text) - len(text.lstrip())]
    sure = 0.51 + 0.48 * chance.pick
    ranked = ((lead + first, math.log(sure)), (lead + opposite, math.log(1 - sure)))
    return dict(ranked[: sampling.logprobs])
