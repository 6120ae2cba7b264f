"""Any OpenAI-compatible server: a Request as it goes over the wire, and what comes back as a Reply or an error."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import copy
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn
from urllib.parse import parse_qsl, urlsplit

from selfinstruct.engines import Options, Reply, Request, Sample, Style, Usage
from selfinstruct.engines.batches import Batches
from selfinstruct.engines.endpoints import Adapted, Again, Endpoint, Endpoints, Patience, Refused
from selfinstruct.engines.refusals import MOST_WORDS, Parameter, Said, meaning, retry_after
from selfinstruct.engines.replies import (
    THINKING_HINT,
    Miscounted,
    as_dict,
    as_list,
    read_json,
    read_list,
    read_reply,
)
from selfinstruct.errors import EngineError, UsageError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger("selfinstruct")

OPENAI = "https://api.openai.com/v1"
MOST_STOPS = 4
"""OpenAI refuses a request with more; the rest is applied by us alone."""
MOST_PROMPTS = 8
"""Prompts in one request. All of its answers come with the last, so a list saves calls and costs waiting: few."""
NO_KEY = "none"
"""Sent to servers that want no key, since the SDK wants one."""
TELLTALES = (
    *("X-Stainless-Lang", "X-Stainless-Package-Version", "X-Stainless-OS", "X-Stainless-Arch", "X-Stainless-Runtime"),
    *("X-Stainless-Runtime-Version", "X-Stainless-Async"),
)
"""Headers by which the SDK describes this machine; not sent."""

Route = Literal["chat/completions", "completions"]


class _Prompt(NamedTuple):
    """One that may go into a list."""

    endpoint: Endpoint
    request: Request
    body: dict[str, Any]
    changed: tuple[str, ...]


def open_openai(rest: str, options: Options) -> OpenAIEngine:
    """The engine for ``openai/<name>``: ``rest`` is the model's name at the server and may hold slashes."""
    return OpenAIEngine(rest, options)


class OpenAIEngine:
    """One model behind one or more OpenAI-compatible endpoints.

    What a server cannot take is learned once and left out from then on: said through the logger, and in
    ``Reply.changed`` of every reply that it touched. ``top_k`` and ``repetition_penalty`` are sent under vLLM's names
    (llama.cpp calls the latter ``repeat_penalty``: put it into ``[request.extra]``). ``seed`` goes only to servers that
    are to be deterministic, folded to 31 bits, which every server takes. ``[request.extra]`` wins over everything of
    ours.

    Texts to continue that leave in the same moment go as one list, where nothing but the prompt is different: their
    requests count one by one all the same. OpenAI's own server gets no lists: its limits count requests in ways that
    nobody but an account's owner can see, and few of its models continue texts.
    """

    styles: tuple[Style, ...] = ("chat", "json", "completion", "prefill")

    def __init__(self, model: str, options: Options, patience: Patience | None = None) -> None:
        if not model:
            raise UsageError("openai/ names no model", hint="give its name at the server, e.g. openai/gpt-5-mini")
        self.name = f"openai/{model}"
        self.concurrency = options.concurrency or 32
        self._model = model
        self._patience = patience or Patience()
        urls = options.base_urls or (os.environ.get("OPENAI_BASE_URL") or OPENAI,)
        each = [Endpoint.at(url, self.concurrency) for url in dict.fromkeys(url.rstrip("/") for url in urls)]
        self._key_from = options.api_key_env
        self._key = _key(options, each)
        shown = "" if each[0].ours else "".join(f" --base-url {endpoint.url}" for endpoint in each)
        self._doctor = f"`selfinstruct doctor --model {self.name}{shown}` tells more"
        self._endpoints = Endpoints(each, self.concurrency, self._patience, self._doctor)
        self._wire: dict[Route, dict[str, str]] = {"chat/completions": {}, "completions": {}}
        """By parameter: the name that this server wants instead, or nothing where it refuses it."""
        self._deterministic = options.deterministic
        self._takes_lists = True
        self._batches: Batches[_Prompt, Reply] = Batches(self._together, MOST_PROMPTS)
        self._listing, self._model_hint = asyncio.Lock(), ""
        self._seen: dict[str, list[str]] = {"model": [], "fingerprint": []}

    async def complete(self, request: Request) -> Reply:
        """The reply to one request; raises EngineError where the work cannot go on."""
        reply = await self._ask(request)
        if request.answers > 1 and self._wire[_route(request)].get("n") == "":
            reply = await self._ask_on(reply, request)
        for what, value in (("model", reply.model), ("fingerprint", reply.fingerprint)):
            values = self._seen[what]
            if value and value not in values and len(values) < 20:
                values.append(value)
                if len(values) == 2:
                    log.warning("%s: the %s that the server reports changed: %s, %s", self.name, what, *values)
        return reply

    def facts(self) -> dict[str, str]:
        """Names and fingerprints that the server reported, its addresses without secrets, and what was left out."""
        known = {
            "model": self._model,
            "endpoints": " ".join(endpoint.url for endpoint in self._endpoints.each),
            "openai": version("openai"),
            "reported": ", ".join(self._seen["model"]),
            "fingerprints": ", ".join(self._seen["fingerprint"]),
            "drift": ", ".join(what for what, values in self._seen.items() if len(values) > 1),
            "changed": ", ".join(dict.fromkeys(_note(*item) for wire in self._wire.values() for item in wire.items())),
            "retries": str(self._endpoints.retries or ""),
        }
        return {name: value for name, value in known.items() if value}

    async def close(self) -> None:
        self._batches.close()
        await self._endpoints.close()

    async def _ask(self, request: Request) -> Reply:
        alone = False

        async def attempt(endpoint: Endpoint) -> Reply:
            nonlocal alone
            try:
                return await self._attempt(endpoint, request, alone=alone)
            except Again:
                alone = True  # what has failed takes no others along
                raise

        return await self._endpoints.ask(attempt)

    async def _ask_on(self, reply: Reply, request: Request) -> Reply:
        """For a server that gives one answer at a time: the answers that are missing, each for itself."""
        for at in range(1 + len(reply.more), request.answers):
            if reply.error and reply.error.kind != "thinking":
                break  # the others would fare no better
            seed = None if request.seed is None else request.seed + at
            reply = _joined(reply, await self._ask(request.model_copy(update={"samples": 1, "seed": seed})))
        return reply

    async def _attempt(self, endpoint: Endpoint, request: Request, *, alone: bool) -> Reply:
        """Asks once; raises as ``Endpoints.ask`` expects it."""
        body, changed = self._body(request, _route(request))
        one = _Prompt(endpoint, request, body, changed)
        if alone or not self._takes_lists or request.prompt is None or endpoint.ours or "seed" in body:
            return await self._alone(one)
        same = {name: value for name, value in body.items() if name != "prompt"}
        return await self._batches.add((id(endpoint), json.dumps(same, sort_keys=True)), one)

    async def _alone(self, one: _Prompt) -> Reply:
        payload = await self._post(one.endpoint, one.body, one.request)
        try:
            return read_reply(payload, one.request, one.changed, one.body.get("n", 1))
        except Again as error:
            raise self._told(one.endpoint, error) from error

    async def _together(self, _: Hashable, batch: Sequence[_Prompt]) -> Sequence[Reply | Exception]:
        """The replies to prompts that left in the same moment. If the list is refused they are asked one by one, so
        that one bad prompt costs no other its answer; if all of them are well by themselves, lists are over."""
        first, why = batch[0], ""
        if len(batch) > 1 and self._takes_lists:
            body = {**first.body, "prompt": [one.body["prompt"] for one in batch]}
            try:
                payload = await self._post(first.endpoint, body, first.request)
                replies = read_list(payload, [one.request for one in batch], first.changed, first.body.get("n", 1))
                return [self._told(first.endpoint, one) if isinstance(one, Again) else one for one in replies]
            except Refused as refused:
                why = str(refused)
            except Miscounted as miscounted:
                why = str(miscounted)
            except Adapted:
                return [Adapted() for _ in batch]
            except Again as error:
                return [copy(error) for _ in batch]
            except EngineError as failure:
                return [EngineError(failure.message, hint=failure.hint) for _ in batch]
        answers = await asyncio.gather(*map(self._by_itself, batch))
        if why and self._takes_lists and all(isinstance(answer, Reply) for answer in answers):
            self._takes_lists = False
            log.warning("%s: prompts asked one by one from now on, since the server says: %s", self.name, why)
        return answers

    async def _by_itself(self, one: _Prompt) -> Reply | Exception:
        try:
            return await self._alone(one)
        except (Adapted, Again, Refused, EngineError) as error:
            return error

    def _told(self, endpoint: Endpoint, error: Again) -> Again:
        """What was wrong with a reply, with where it came from and without secrets."""
        return Again(self._scrub(f"{endpoint.url}: {error}")[:MOST_WORDS], kind=error.kind)

    async def _post(self, endpoint: Endpoint, body: Mapping[str, Any], request: Request) -> Any:
        """What the server sends for a body; raises as ``Endpoints.ask`` expects it. ``request`` is the first one's."""
        import openai

        route, body = _route(request), dict(body)
        first = {"messages": body.pop("messages")} if request.prompt is None else {"prompt": body.pop("prompt")}
        client = self._client(endpoint)
        try:
            async with asyncio.timeout(self._patience.connect + self._patience.answer):
                ask: Any = client.chat.completions if request.prompt is None else client.completions
                # raw, since servers deviate from OpenAI's types in more ways than the SDK reads
                raw = await ask.with_raw_response.create(model=body.pop("model"), **first, extra_body=body)
        except openai.APIStatusError as error:
            self._endpoints.reached = True
            response = error.response
            said = Said(response.status_code, read_json(response.content), self._scrub)
            await self._refuse(endpoint, said, response.headers, request, route, body)
        except (openai.APITimeoutError, TimeoutError) as error:
            never = type(error.__cause__).__name__ == "ConnectTimeout"
            what = "no connection" if never else "no answer"
            raise Again(f"{endpoint.url}: {what} in time", unreached=never) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            words = self._scrub(f"{type(cause).__name__}: {cause}".rstrip(": "))
            raise Again(f"{endpoint.url}: {words}", unreached=type(cause).__name__ == "ConnectError") from error
        self._endpoints.reached = True
        payload = read_json(raw.content)
        if isinstance(payload, dict) and payload.get("error"):
            error_code = as_dict(payload["error"]).get("code")
            status = error_code if isinstance(error_code, int) and 400 <= error_code < 600 else 500
            said = Said(status, payload, self._scrub)
            await self._refuse(endpoint, said, raw.headers, request, route, body)
        return payload

    def _client(self, endpoint: Endpoint) -> AsyncOpenAI:
        if endpoint.client is None:
            import openai

            # the SDK moved from httpx to httpx2; its client's base class says which one it speaks
            http = import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
            headers: dict[str, Any] = dict.fromkeys(TELLTALES, openai.Omit())
            if not endpoint.ours:
                headers |= dict.fromkeys(("OpenAI-Organization", "OpenAI-Project"), openai.Omit())
            if endpoint.login:
                headers["Authorization"] = f"Basic {endpoint.login}"
            endpoint.client = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=endpoint.url,
                max_retries=0,
                timeout=openai.Timeout(self._patience.answer, connect=self._patience.connect),
                default_headers=headers,
                default_query=dict(parse_qsl(endpoint.query)),
                http_client=openai.DefaultAsyncHttpxClient(
                    # a proxy of the environment never stands between us and a server on this machine
                    trust_env=not endpoint.loopback,
                    # the SDK keeps 100 connections: beyond them it would reconnect for each request
                    limits=http.Limits(max_connections=None, max_keepalive_connections=self.concurrency),
                ),
            )
        return endpoint.client

    def _body(self, request: Request, route: Route) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What is sent, and what of it is not as planned."""
        chat, sampling = route == "chat/completions", request.sampling
        logprobs: dict[str, Any] = {}
        if sampling.logprobs is not None:
            logprobs = (
                {"logprobs": True, "top_logprobs": sampling.logprobs} if chat else {"logprobs": sampling.logprobs}
            )
        stops = [stop for stop in sampling.stop if stop]
        planned: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            **sampling.choosing(),
            "stop": stops[:MOST_STOPS] or None,
            "n": request.answers if request.answers > 1 else None,
            "seed": request.seed & 0x7FFFFFFF if self._deterministic and request.seed is not None else None,
            "response_format": _response_format(request.json_schema) if chat and request.json_schema else None,
            **logprobs,
        }
        if request.extra.get("stream") or request.extra.get("n", 1) != 1:
            raise EngineError(
                "[request.extra] sets stream or n, which are ours",
                hint="take it out of the recipe: draft.samples and answer.samples ask for several answers",
            )
        if "max_completion_tokens" in request.extra:
            del planned["max_tokens"]
        body: dict[str, Any] = {"model": self._model}
        if chat:
            body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
            if request.prefill:
                body["messages"].append({"role": "assistant", "content": request.prefill})
                body |= {"continue_final_message": True, "add_generation_prompt": False}
        else:
            body["prompt"] = f"{request.prompt}{request.prefill}"
        changed: list[str] = []
        wire = self._wire[route]
        for name, value in planned.items():
            if value is None or name in request.extra:
                continue
            if name in wire:
                changed.append(_note(name, wire[name]))
            if name not in wire or wire[name]:
                body[wire.get(name, name)] = value
        return body | request.extra, tuple(changed)

    async def _refuse(
        self,
        endpoint: Endpoint,
        said: Said,
        headers: Mapping[str, str],
        request: Request,
        route: Route,
        sent: dict[str, Any],
    ) -> NoReturn:
        """An error status, as one of the exceptions of ``_attempt``."""
        where = f"{endpoint.url}: {said.status} {said.message}"
        match meaning(said, sent):
            case "busy":
                raise Again(where, wait=retry_after(headers, time.time()), limited=said.status == 429)
            case Parameter(name):
                self._adapt(name, said, request, route, where)
            case "thinking":
                raise Refused("thinking", f"{said.message}; {THINKING_HINT}")
            case "too_long" | "content_policy" | "rejected" as kind:
                raise Refused(kind, said.message)
            case "no credit":
                hint = f"the account behind {self._key_from} is out of credit"
            case "bad key":
                hint = self._key_hint()
            case "unknown model":
                async with self._listing:
                    self._model_hint = self._model_hint or await self._list_models(endpoint, route)
                hint = self._model_hint
            case "no template":
                hint = "the model has no chat template: --style completion asks it without one"
            case "no api":
                hint = f"is {endpoint.url} the address of an OpenAI-compatible API? {self._doctor}"
        raise EngineError(where, hint=hint)

    def _adapt(self, name: str, said: Said, request: Request, route: Route, where: str) -> NoReturn:
        """The server refuses a parameter: raises Adapted if we can leave it out."""
        if name in request.extra:
            raise EngineError(where, hint=f"the server refuses {name!r}: take it out of the recipe's [request.extra]")
        if name in ("continue_final_message", "add_generation_prompt"):
            raise EngineError(where, hint="this server cannot continue a begun answer: --style chat")
        wire, chat = self._wire[route], route == "chat/completions"
        learned = {name: ""}
        if name == "max_tokens" and chat:
            learned = {"max_tokens": "max_completion_tokens"}
        elif name == "max_completion_tokens":
            learned = {"max_tokens": ""}
        elif name in ("logprobs", "top_logprobs"):
            learned = {"logprobs": "", "top_logprobs": ""} if chat else {"logprobs": ""}
        fresh = {old: new for old, new in learned.items() if wire.get(old) not in (new, "")}
        if fresh:
            wire.update(fresh)
            notes = " and ".join(_note(old, new) for old, new in fresh.items())
            log.warning("%s: %s from now on, since the server says: %s", self.name, notes, said.message)
        raise Adapted

    async def _list_models(self, endpoint: Endpoint, route: Route) -> str:
        """For an unknown model or address: what the server has, if it tells."""
        import difflib

        import openai

        try:
            raw = await self._client(endpoint).models.with_raw_response.list(timeout=self._patience.connect)
            payload = as_dict(read_json(raw.content))
        except openai.OpenAIError:
            payload = {}
        models = [str(as_dict(model).get("id")) for model in as_list(payload.get("data"))]
        if models and self._model in models:
            style = "chat" if route == "completions" else "completion"
            return f"the server has {self._model!r}, but not for this kind of request: try --style {style}"
        if models:
            near = difflib.get_close_matches(self._model, models, n=5, cutoff=0.3)
            shown = list(dict.fromkeys([*near, *models]))[:10]
            more = f" and {len(models) - len(shown)} more" if len(models) > len(shown) else ""
            return f"the server has {', '.join(shown)}{more}"
        if not urlsplit(endpoint.url).path.strip("/"):
            return f"does the address end in /v1? --base-url {endpoint.url}/v1"
        return f"is {self._model!r} the model's name at {endpoint.url}? {self._doctor}"

    def _scrub(self, text: str) -> str:
        """``text`` without the key, should the server have echoed it."""
        for secret in (self._key, *(endpoint.password for endpoint in self._endpoints.each)):
            if len(secret) >= 4 and secret != NO_KEY:
                text = text.replace(secret, "***")
        return text

    def _key_hint(self) -> str:
        if self._key == NO_KEY:
            return f"{self._key_from} is not set; --api-key-env VAR names another variable"
        return f"the key came from {self._key_from}; --api-key-env VAR names another variable"


def _route(request: Request) -> Route:
    return "chat/completions" if request.prompt is None else "completions"


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _joined(reply: Reply, other: Reply) -> Reply:
    """One reply of two to the same prompt."""
    usage = {name: value + getattr(other.usage, name) for name, value in reply.usage}
    sample = Sample(**{name: getattr(other, name) for name in Sample.model_fields})
    changed = tuple(dict.fromkeys((*reply.changed, *other.changed)))
    return reply.model_copy(update={"more": (*reply.more, sample), "usage": Usage(**usage), "changed": changed})


def _key(options: Options, endpoints: Iterable[Endpoint]) -> str:
    key = os.environ.get(options.api_key_env, "").strip()
    if not key and (options.api_key_env != "OPENAI_API_KEY" or any(endpoint.ours for endpoint in endpoints)):
        raise UsageError(
            f"{options.api_key_env} is not set",
            hint=f"export {options.api_key_env}=…, or name your own server with --base-url",
        )
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{options.api_key_env} holds characters that no key has", hint="copy the key again")
    return key or NO_KEY


def _note(name: str, new: str) -> str:
    return f"{name} sent as {new}" if new else f"{name} left out"
