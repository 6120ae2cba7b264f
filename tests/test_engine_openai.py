"""The engine for OpenAI-compatible servers, against a loopback server that misbehaves as told."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate
from random import Random
from typing import Any

import pytest
from faults import Answer, FaultServer, Seen, answer, chat, completion, error
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.engines import Engine, Message, Options, Reply, Request, Sampling, open_engine
from selfinstruct.engines.endpoints import Patience
from selfinstruct.engines.openai import MOST_PROMPTS, OpenAIEngine, open_openai
from selfinstruct.engines.reasoning import split_reasoning
from selfinstruct.engines.refusals import retry_after
from selfinstruct.engines.replies import cut, shared, without_prefill
from selfinstruct.errors import EngineError, UsageError

KEY = "sk-secret-1234567890"
QUICK = Patience(attempts=3, base=0.01, longest=0.05, start=0.2, outage=0.4, retry_after=0.3, rest=0.2, answer=1.0)
HELLO = Request(messages=(Message(role="user", content="Hello?"),))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # loading the certificates takes 40 ms for each client, and no server here has one
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def ask(
    server: FaultServer,
    *requests: Request,
    patience: Patience = QUICK,
    deterministic: bool = False,
    then: Callable[[OpenAIEngine], Awaitable[None]] | None = None,
) -> list[Reply | EngineError]:
    """What the engine makes of ``requests``, asked one after the other."""

    async def main() -> list[Reply | EngineError]:
        replies: list[Reply | EngineError] = []
        async with server:
            options = Options(base_urls=(server.url,), deterministic=deterministic)
            engine = OpenAIEngine("some/model", options, patience)
            for request in requests:
                try:
                    replies.append(await engine.complete(request))
                except EngineError as failure:
                    replies.append(failure)
            if then:
                await then(engine)
            await engine.close()
        return replies

    return asyncio.run(main())


def one(server: FaultServer, request: Request = HELLO, patience: Patience = QUICK) -> Reply:
    [reply] = ask(server, request, patience=patience)
    assert isinstance(reply, Reply), reply.message
    return reply


def stopped(server: FaultServer, request: Request = HELLO, patience: Patience = QUICK) -> EngineError:
    [failure] = ask(server, request, patience=patience)
    assert isinstance(failure, EngineError), failure
    assert KEY not in failure.message + failure.hint
    return failure


def sampled(**sampling: Any) -> Request:
    return HELLO.model_copy(update={"sampling": Sampling(**sampling)})


# The wire


def test_importing_the_engine_does_not_import_the_sdk() -> None:
    code = "import sys, selfinstruct.engines.openai; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_models_name_opens_the_engine_and_keeps_its_slashes() -> None:
    engine = open_engine("openai/org/name", Options(base_urls=("http://localhost:1/v1",), concurrency=7))
    assert isinstance(engine, Engine)
    assert (engine.name, engine.concurrency, engine.styles[0]) == ("openai/org/name", 7, "chat")
    assert open_openai("x", Options()).concurrency == 32


def test_messages_go_to_chat_and_a_prompt_to_completions() -> None:
    server = FaultServer(chat("a"), completion(" b"))
    replies = ask(server, HELLO, Request(prompt="Once"))
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == ["a", " b"]
    assert [seen.path for seen in server.seen] == ["/v1/chat/completions", "/v1/completions"]
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Hello?"}]
    assert server.bodies[1]["prompt"] == "Once"
    assert {body["model"] for body in server.bodies} == {"some/model"}


def test_only_what_was_asked_for_is_sent() -> None:
    server = FaultServer()
    one(server, HELLO.model_copy(update={"purpose": "evolve/deepen"}))
    assert set(server.bodies[0]) == {"model", "messages", "max_tokens"}


def test_sampling_seed_and_extra_reach_the_server() -> None:
    server = FaultServer()
    sampling = Sampling(
        temperature=0.0, top_p=0.5, top_k=4, max_tokens=9, stop=("x",), frequency_penalty=1.0, presence_penalty=0.5,
        repetition_penalty=1.1, logprobs=2,
    )  # fmt: skip
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "top_p": 0.75}
    ask(server, HELLO.model_copy(update={"sampling": sampling, "seed": 2**64 - 1, "extra": extra}), deterministic=True)
    wanted = {
        "temperature": 0.0, "top_p": 0.75, "top_k": 4, "max_tokens": 9, "stop": ["x"], "frequency_penalty": 1.0,
        "presence_penalty": 0.5, "repetition_penalty": 1.1, "logprobs": True, "top_logprobs": 2, "seed": 2**31 - 1,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert server.bodies[0].items() >= wanted.items()


def test_a_seed_goes_only_to_a_server_that_is_to_repeat_itself() -> None:
    server = FaultServer()
    ask(server, HELLO.model_copy(update={"seed": 5}))
    assert "seed" not in server.bodies[0]


def test_extra_that_asks_for_a_stream_or_several_choices_is_refused() -> None:
    for extra in ({"stream": True}, {"n": 2}):
        assert "[request.extra]" in stopped(FaultServer(), HELLO.model_copy(update={"extra": extra})).message


def test_nothing_about_this_machine_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    server = FaultServer()
    one(server)
    headers = server.seen[0].headers
    told = ("x-stainless-os", "x-stainless-arch", "x-stainless-runtime-version", "openai-organization")
    assert not set(told) & set(headers)
    assert headers["authorization"] == f"Bearer {KEY}"


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert one(FaultServer()).text == "hello"


@given(text=st.text(alphabet="ab\n ."), prefill=st.text(alphabet="ab\n ."))
def test_a_reply_never_repeats_the_prefill(text: str, prefill: str) -> None:
    assert without_prefill(prefill + text, prefill) == text


def test_a_begun_answer_is_continued_whether_or_not_the_server_repeats_it() -> None:
    prefill = " 1. Add.\n2."
    request = HELLO.model_copy(update={"prefill": prefill})
    server = FaultServer(chat(" Sort."), chat(prefill + " Sort."), chat(prefill.strip() + " Sort."))
    replies = ask(server, request, request, request)
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [" Sort."] * 3
    body = server.bodies[0]
    assert body["messages"][-1] == {"role": "assistant", "content": prefill}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


# Reading replies


def test_a_reply_carries_usage_model_and_fingerprint() -> None:
    usage = {
        "prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3},
        "prompt_tokens_details": {"cached_tokens": 8},
    }  # fmt: skip
    reply = one(FaultServer(chat("hi", usage=usage, system_fingerprint="fp1")))
    assert reply.usage.model_dump() == {"prompt": 10, "completion": 5, "reasoning": 3, "cached": 8}
    assert (reply.model, reply.fingerprint, reply.error, reply.changed) == ("served", "fp1", None, ())


@pytest.mark.parametrize("usage", [None, {}, [], {"prompt_tokens": None, "completion_tokens": "7"}])
def test_usage_that_a_server_does_not_tell_is_zero(usage: Any) -> None:
    assert one(FaultServer(chat("hi", usage=usage))).usage.model_dump() == dict.fromkeys(
        ("prompt", "completion", "reasoning", "cached"), 0
    )


@pytest.mark.parametrize(
    ("finish", "read", "noted"),
    [
        ("stop", "stop", 0),
        ("length", "length", 0),
        ("content_filter", "content_filter", 0),
        ("tool_calls", "stop", 1),
        (None, "stop", 1),
    ],
)
def test_a_finish_reason_is_read_and_a_strange_one_noted(finish: str | None, read: str, noted: int) -> None:
    reply = one(FaultServer(chat("hi", finish=finish)))
    assert (reply.finish, len(reply.changed)) == (read, noted)


def test_no_content_is_an_empty_text_and_a_refusal_is_text() -> None:
    replies = ask(FaultServer(chat(None), chat(None, message={"refusal": "I cannot."})), HELLO, HELLO)
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == ["", "I cannot."]


def test_an_answer_that_the_filter_withheld_is_a_content_policy_failure() -> None:
    reply = one(FaultServer(chat("", finish="content_filter")))
    assert reply.error is not None
    assert reply.error.kind == "content_policy"


def test_half_characters_in_a_reply_do_not_reach_the_journal() -> None:
    assert one(FaultServer(chat("a\ud800b \U0001f600"))).text == "a\ufffdb \U0001f600"


def test_the_first_tokens_alternatives_are_read_in_either_form() -> None:
    top = [{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -2.5}]
    modern = {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": top}]}
    classic = {"tokens": ["Yes", "!"], "token_logprobs": [-0.1, -1.0], "top_logprobs": [{"No": -2.5}, {}]}
    for given_ in (modern, classic):
        reply = one(FaultServer(completion("Yes!", choice={"logprobs": given_})), Request(prompt="?"))
        assert reply.first_token == {"Yes": -0.1, "No": -2.5}
    assert one(FaultServer(chat("Yes", choice={"logprobs": None}))).first_token == {}


def test_the_first_token_is_the_answers_and_not_the_thinkings() -> None:
    words = ["<think>", "Hm", ".", "</think>", "\n\n", "No"]
    logprobs = {"content": [{"token": word, "logprob": -float(i), "top_logprobs": []} for i, word in enumerate(words)]}
    assert one(FaultServer(chat("".join(words), choice={"logprobs": logprobs}))).first_token == {"No": -5.0}
    hidden = chat("No", message={"reasoning": "Hm."}, choice={"logprobs": {"content": logprobs["content"][1:3]}})
    assert one(FaultServer(hidden)).first_token == {}


# Stop strings


@given(text=st.text(alphabet="abc\n"), stops=st.lists(st.text(alphabet="abc\n", max_size=3)).map(tuple))
def test_a_cut_text_holds_no_stop_string_and_begins_the_text(text: str, stops: tuple[str, ...]) -> None:
    kept, found = cut(text, stops)
    assert text.startswith(kept)
    assert not any(stop in kept for stop in stops if stop)
    assert found == (kept != text) or (found and kept == text == "")
    assert not found or any(text[len(kept) :].startswith(stop) for stop in stops if stop)


def test_stop_strings_hold_though_the_server_takes_four_and_ignores_them() -> None:
    server = FaultServer(chat("one two five six", finish="length"))
    reply = one(server, sampled(stop=("a1", "a2", "", "a3", "a4", " five")))
    assert server.bodies[0]["stop"] == ["a1", "a2", "a3", "a4"]
    assert (reply.text, reply.finish, reply.changed) == ("one two", "stop", ())


def test_a_stop_string_inside_the_thinking_is_no_end_of_the_answer() -> None:
    reply = one(FaultServer(chat("<think>a\n\nb</think>yes\n\nno")), sampled(stop=("\n\n",)))
    assert (reply.reasoning, reply.text) == ("a\n\nb", "yes")


# Reasoning

PLAIN = st.text(alphabet="ab <>/\n").filter(lambda text: "think>" not in text)


@given(thought=PLAIN, answer_=PLAIN)
def test_thinking_and_answer_are_recovered_from_either_form(thought: str, answer_: str) -> None:
    for text in (f"<think>{thought}</think>{answer_}", f"{thought}</think>{answer_}"):
        split = split_reasoning(text)
        assert (split.reasoning, split.answer) == (thought.strip(), answer_.lstrip())
        assert text[split.start :] == split.answer


@given(answer_=PLAIN)
def test_a_text_without_thinking_is_left_untouched(answer_: str) -> None:
    assert split_reasoning(answer_).answer == answer_
    later = f"x{answer_}<think>y</think>z"
    assert split_reasoning(later).answer == later


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "b ", "\n"]), max_size=12).map("".join))
def test_no_word_is_lost_between_thinking_and_answer(text: str) -> None:
    split = split_reasoning(text)
    outer = [len(split.reasoning + split.answer), len(text)]
    assert outer[0] <= outer[1] + 2 * text.count("</think>")

    def words(said: str) -> str:
        return "".join(said.replace("</think>", "").replace("<think>", "").split())

    assert words(split.reasoning) + words(split.answer) == words(text)
    assert not (split.open and split.answer)


@pytest.mark.parametrize(
    "reply",
    [
        chat("Paris.", message={"reasoning": "Easy."}),
        chat("Paris.", message={"reasoning_content": "Easy."}),
        chat("Paris.", message={"reasoning": "Easy.", "reasoning_content": "Easy."}),
        chat("<think>\nEasy.\n</think>\n\nParis."),
        chat("Easy.\n</think>\n\nParis."),
        chat(None, message={"content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Easy."}]}, {"type": "text", "text": "Paris."},
        ]}),
    ],
)  # fmt: skip
def test_thinking_is_kept_apart_however_the_server_sends_it(reply: Answer) -> None:
    read = one(FaultServer(reply))
    assert (read.text, read.reasoning, read.error) == ("Paris.", "Easy.", None)


@pytest.mark.parametrize(
    "reply",
    [
        chat("<think>Let me see", finish="length"),
        chat("", finish="length", message={"reasoning": "Let me see"}),
        chat("Let me see</think>\n", finish="length"),
        chat("", finish="length", usage={"completion_tokens_details": {"reasoning_tokens": 512}}),
    ],
)
def test_a_budget_that_went_into_thinking_is_a_failure_of_its_own_with_a_hint(reply: Answer) -> None:
    read = one(FaultServer(reply))
    assert read.error is not None
    assert (read.text, read.error.kind) == ("", "thinking")
    assert "512" in read.error.message
    assert "max_tokens" in read.error.message


def test_a_cut_answer_after_thinking_is_no_thinking_failure() -> None:
    read = one(FaultServer(chat("<think>a</think>Par", finish="length")))
    assert (read.text, read.finish, read.error) == ("Par", "length", None)


def test_thinking_that_a_stop_string_ended_is_no_answer() -> None:
    read = one(FaultServer(chat("<think>first\n")), sampled(stop=("second",)))
    assert read.error is not None
    assert (read.text, read.reasoning, read.error.kind) == ("", "first", "thinking")


# Parameters that a server refuses


def picky(refusals: dict[str, Answer]) -> Callable[[Seen], Answer]:
    """Refuses each parameter with its answer, as long as it is sent."""
    return lambda seen: next((said for name, said in refusals.items() if name in seen.body), chat("fine"))


UNSUPPORTED = {
    "max_tokens": error(
        400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
        "instead.", param="max_tokens", code="unsupported_parameter",
    ),
    "temperature": error(
        400, "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is "
        "supported.", param="temperature", code="unsupported_value",
    ),
    "stop": error(400, "Argument not supported on this model: stop"),
    "logprobs": error(403, "You are not allowed to request logprobs from this model"),
    "top_k": error(400, "Unrecognized request argument supplied: top_k"),
    "presence_penalty": error(400, "Model m does not support parameter presencePenalty."),
    "frequency_penalty": error(400, "property 'frequency_penalty' is unsupported, did you mean 'presence_penalty'?"),
    "repetition_penalty": answer(
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "repetition_penalty"], "input": "api_key invalid",
                     "msg": "Extra inputs are not permitted"}]}, 422,
    ),
    "seed": error(400, 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'),
}  # fmt: skip
EVERYTHING = HELLO.model_copy(
    update={
        "seed": 5,
        "sampling": Sampling(
            temperature=0.7, top_p=0.5, top_k=4, stop=("x",), frequency_penalty=1.0, presence_penalty=0.5,
            repetition_penalty=1.1, logprobs=2,
        ),
    }
)  # fmt: skip


def test_every_unsupported_parameter_is_dropped_once_said_and_recorded(caplog: pytest.LogCaptureFixture) -> None:
    server = FaultServer(always=picky(UNSUPPORTED))
    facts: dict[str, str] = {}

    async def look(engine: OpenAIEngine) -> None:
        facts.update(engine.facts())

    with caplog.at_level(logging.WARNING, "selfinstruct"):
        first, second, plain = ask(server, EVERYTHING, EVERYTHING, HELLO, deterministic=True, then=look)
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert isinstance(plain, Reply)
    assert (first.text, second.text) == ("fine", "fine")
    # each costs one request, once for the engine's life
    assert len(server.seen) == len(UNSUPPORTED) + 1 + 1 + 1
    assert set(server.bodies[-2]) == {"model", "messages", "max_completion_tokens", "top_p"}
    assert first.changed == second.changed
    assert len(first.changed) == len(UNSUPPORTED) + 1  # logprobs take top_logprobs along
    assert {"max_tokens sent as max_completion_tokens", "temperature left out"} <= set(first.changed)
    assert plain.changed == ("max_tokens sent as max_completion_tokens",)
    assert len(caplog.records) == len(UNSUPPORTED)
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert "temperature left out" in facts["changed"]


def test_requests_under_way_together_learn_together(caplog: pytest.LogCaptureFixture) -> None:
    server = FaultServer(always=picky(UNSUPPORTED))

    async def more(engine: OpenAIEngine) -> None:
        replies = await asyncio.gather(*(engine.complete(EVERYTHING) for _ in range(8)))
        assert {reply.text for reply in replies} == {"fine"}

    with caplog.at_level(logging.WARNING, "selfinstruct"):
        ask(server, deterministic=True, then=more)
    assert len(caplog.records) == len(UNSUPPORTED)


def test_a_server_that_takes_no_limit_under_either_name_gets_none() -> None:
    refusals = {**UNSUPPORTED, "max_completion_tokens": error(400, "Unknown parameter: 'max_completion_tokens'.")}
    server = FaultServer(always=picky(refusals))
    assert one(server).changed == ("max_tokens left out",)
    assert set(server.bodies[-1]) == {"model", "messages"}


def test_a_value_out_of_range_is_a_rejected_request_and_drops_nothing() -> None:
    server = FaultServer(always=error(400, "Invalid 'temperature': must be at most 2.", param="temperature"))
    reply = one(server, sampled(temperature=3.0))
    assert reply.error is not None
    assert reply.error.kind == "rejected"
    assert len(server.seen) == 1


def test_a_refused_parameter_of_the_recipes_own_stops_the_run_and_names_it() -> None:
    server = FaultServer(always=error(400, "Unrecognized request argument supplied: top_a"))
    assert "'top_a'" in stopped(server, HELLO.model_copy(update={"extra": {"top_a": 1}})).hint


def test_what_the_recipe_adds_is_sent_verbatim_even_where_ours_is_left_out() -> None:
    server = FaultServer(UNSUPPORTED["temperature"])
    own = sampled(temperature=0.7).model_copy(update={"extra": {"temperature": 1}})
    first, second = ask(server, sampled(temperature=0.7), own)
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (first.changed, second.changed) == (("temperature left out",), ())
    assert server.bodies[-1]["temperature"] == 1


def test_a_server_that_cannot_continue_an_answer_is_not_asked_to_begin_a_new_one() -> None:
    server = FaultServer(always=error(400, "Unknown parameter: 'continue_final_message'.", code="unknown_parameter"))
    failure = stopped(server, HELLO.model_copy(update={"prefill": "1."}))
    assert "--style chat" in failure.hint
    assert len(server.seen) == 1


# JSON

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
JSON = HELLO.model_copy(update={"json_schema": SCHEMA})
NO_FORMAT = [
    error(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."),
    error(400, "This response_format type is unavailable now", type="invalid_request_error"),
    error(400, "'response_format.type' must be one of 'text', 'json_object'"),
    error(400, "Invalid schema for response_format 'answer': 'minimum' is required", param="response_format"),
    error(400, "bad type", param="response_format.type", code="unsupported_value"),
    answer({"detail": [{"type": "literal_error", "loc": ["body", "response_format", "type"], "msg": "Input should be "
                        "'text' or 'json_object'"}]}, 422),
]  # fmt: skip


def test_a_schema_goes_along_in_chat() -> None:
    server = FaultServer(chat('{"a": "b"}'))
    assert one(server, JSON).text == '{"a": "b"}'
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert server.bodies[0]["response_format"] == wanted


@pytest.mark.parametrize("said", NO_FORMAT)
def test_a_server_that_cannot_keep_to_a_schema_is_asked_without_and_it_is_said(
    said: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    server = FaultServer(always=picky({"response_format": said}))
    with caplog.at_level(logging.WARNING, "selfinstruct"):
        first, second = ask(server, JSON, JSON)
    for reply in (first, second):
        assert isinstance(reply, Reply)
        assert (reply.text, reply.changed) == ("fine", ("response_format left out",))
    assert (len(server.seen), len(caplog.records)) == (3, 1)


# Several answers to one prompt

THREE = HELLO.model_copy(update={"samples": 3})
NO_SEVERAL = [
    error(400, "'n' : number must be at most 1"),
    error(400, "n must be 1 when using greedy sampling, got 3."),
    error(400, "Unsupported parameter: n", param="n"),
    error(422, "only one choice is supported"),
    error(400, "Invalid 'n': integer above maximum value. Expected a value <= 1, but got 3 instead.", param="n"),
]


def served(seen: Seen) -> Answer:
    """A server of completions as it should be: an answer of each prompt's own words, in any order, all counted."""
    prompts, n = seen.body["prompt"], seen.body.get("n", 1)
    prompts = prompts if isinstance(prompts, list) else [prompts]
    choices = [
        {"index": i * n + k, "text": f"{prompt}/{k}", "finish_reason": "stop"}
        for i, prompt in enumerate(prompts)
        for k in range(n)
    ]
    usage = {"prompt_tokens": 7 * len(prompts) + 1, "completion_tokens": 5 * len(choices) + 2}
    return answer({"model": "served", "choices": choices[::-1], "usage": usage})


def chats(*texts: str, **more: Any) -> Answer:
    """A chat completion with several choices, the last first."""
    choices = [
        {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for at, text in enumerate(texts)
    ]
    return answer({"model": "served", "choices": choices[::-1], **more})


def texts(reply: Reply) -> list[str]:
    return [one.text for one in reply.each()]


def test_all_samples_come_in_the_order_of_their_index_and_are_paid_once() -> None:
    server = FaultServer(chats("a", "<think>x</think>b", "c", usage={"prompt_tokens": 4, "completion_tokens": 9}))
    reply = one(server, THREE)
    assert server.bodies[0]["n"] == 3
    assert texts(reply) == ["a", "b", "c"] and reply.more[0].reasoning == "x"
    assert (reply.usage.prompt, reply.usage.completion, reply.changed) == (4, 9, ())
    assert texts(one(FaultServer(always=served), Request(prompt="p", samples=2))) == ["p/0", "p/1"]


def test_fewer_samples_than_asked_for_are_said_and_more_are_left() -> None:
    assert (one(FaultServer(chats("a", "b")), THREE)).changed == ("2 of 3 answers came",)
    assert texts(one(FaultServer(chats(*"abcde")), THREE)) == ["a", "b", "c"]
    assert texts(one(FaultServer(chats("a", "b")))) == ["b"]  # nobody asked for two: the first that is there


def test_a_broken_sample_costs_no_other_and_a_reply_of_nothing_else_is_asked_again() -> None:
    half = {"index": 1, "message": {"content": "ha"}, "finish_reason": "abort"}
    payload = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}, half, {"index": 2}]}
    reply = one(FaultServer(answer(payload)), THREE)
    assert [(kept.text, kept.error and kept.error.kind) for kept in reply.each()] == [
        ("a", None), ("", "gave_up"), ("", "malformed"),
    ]  # fmt: skip
    assert texts(one(FaultServer(answer({"choices": [half, half]}), chats(*"abc")), THREE)) == ["a", "b", "c"]


@pytest.mark.parametrize("said", NO_SEVERAL)
def test_a_server_that_gives_one_at_a_time_is_asked_for_the_missing_ones(
    said: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    told = iter(range(100))
    usage = {"prompt_tokens": 2, "completion_tokens": 3}
    server = FaultServer(always=lambda seen: said if "n" in seen.body else chat(f"t{next(told)}", usage=usage))
    with caplog.at_level(logging.WARNING, "selfinstruct"):
        first, second = ask(server, THREE, THREE.model_copy(update={"seed": 8}), deterministic=True)
    for reply, begin in ((first, 0), (second, 3)):
        assert isinstance(reply, Reply)
        assert texts(reply) == [f"t{begin + at}" for at in range(3)]
        assert (reply.usage.prompt, reply.usage.completion, reply.changed) == (6, 9, ("n left out",))
    assert [body.get("seed") for body in server.bodies] == [None] * 4 + [8, 9, 10]
    assert len(caplog.records) == 1


def test_the_rest_of_a_refused_prompt_is_not_asked_for() -> None:
    flagged = error(400, "flagged by our content policy")
    server = FaultServer(always=lambda seen: NO_SEVERAL[0] if "n" in seen.body else flagged)
    reply = one(server, THREE)
    assert (reply.error and reply.error.kind, reply.more, len(server.seen)) == ("content_policy", (), 2)


# Several prompts in one request


def together(
    server: FaultServer, *requests: Request, options: Options | None = None, patience: Patience = QUICK
) -> list[Reply]:
    """The replies to requests that are all asked at once."""

    async def main() -> list[Reply]:
        async with server:
            given_ = (options or Options()).model_copy(update={"base_urls": (server.url,)})
            engine = OpenAIEngine("m", given_, patience)
            try:
                return await asyncio.gather(*map(engine.complete, requests))
            finally:
                await engine.close()

    return asyncio.run(main())


def prompts(count: int, **more: Any) -> list[Request]:
    return [Request(prompt=f"p{at}" + "x" * at, seed=at, **more) for at in range(count)]


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 20), samples=st.integers(1, 4), order=st.integers(0, 999))
def test_every_prompt_of_a_list_gets_its_own_answers_and_the_sums_of_usage_stay(
    count: int, samples: int, order: int
) -> None:
    def shuffled(seen: Seen) -> Answer:
        said = json.loads(served(seen).body)
        return answer(said | {"choices": Random(order).sample(said["choices"], len(said["choices"]))})

    server, requests = FaultServer(always=shuffled), prompts(count, samples=samples)
    replies = together(server, *requests)
    for request, reply in zip(requests, replies, strict=True):
        assert texts(reply) == [f"{request.prompt}/{k}" for k in range(samples)]
    sizes = [len(body["prompt"]) if isinstance(body["prompt"], list) else 1 for body in server.bodies]
    assert sum(sizes) == count and max(sizes) <= MOST_PROMPTS and len(sizes) == -(-count // MOST_PROMPTS)
    assert sum(reply.usage.prompt for reply in replies) == 7 * count + len(sizes)
    assert sum(reply.usage.completion for reply in replies) == 5 * count * samples + 2 * len(sizes)


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_what_is_shared_out_is_all_of_it_and_no_share_is_a_token_off(total: int, weights: list[int]) -> None:
    parts, whole = shared(total, weights), sum(weights)
    assert sum(parts) == total and len(parts) == len(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * (weight / whole if whole else 1 / len(weights))) < 1 + total * 1e-9


def test_only_what_differs_in_nothing_but_the_prompt_goes_together() -> None:
    warm = Sampling(temperature=1.0)
    others = [Request(prompt="w", sampling=warm), Request(prompt="s", samples=2), Request(prompt="e", extra={"k": 1})]
    server = FaultServer(always=served)
    replies = together(server, *prompts(3), *others, HELLO.model_copy(update={"prompt": "h", "messages": ()}))
    assert [reply.text for reply in replies] == ["p0/0", "p1x/0", "p2xx/0", "w/0", "s/0", "e/0", "h/0"]
    assert sorted(body["prompt"] for body in server.bodies if isinstance(body["prompt"], str)) == ["e", "s", "w"]
    assert [body["prompt"] for body in server.bodies if isinstance(body["prompt"], list)] == [
        ["p0", "p1x", "p2xx", "h"]
    ]


def test_chats_and_seeds_that_are_sent_go_one_by_one() -> None:
    server = FaultServer(always=served)
    together(server, *prompts(3), options=Options(deterministic=True))
    assert [body["seed"] for body in server.bodies] == [0, 1, 2]
    together(server := FaultServer(), HELLO, HELLO)
    assert len(server.seen) == 2


def test_prompts_count_one_by_one_whatever_they_travel_in() -> None:
    async def main() -> None:
        slow = lambda seen: replace(served(seen), delay=0.02)  # noqa: E731
        async with FaultServer(always=slow) as server, FaultServer(always=slow) as other:
            engine = OpenAIEngine("m", Options(base_urls=(server.url, other.url), concurrency=6), QUICK)
            most = 0
            tasks = [asyncio.create_task(engine.complete(request)) for request in prompts(40)]
            while not all(task.done() for task in tasks):
                counted = [endpoint.in_flight for endpoint in engine._endpoints.each]
                most = max(most, sum(counted))
                assert max(counted) - min(counted) <= 3
                await asyncio.sleep(0.002)
            assert most == 6
            assert [task.result().text for task in tasks] == [f"{request.prompt}/0" for request in prompts(40)]
            sizes = [len(body["prompt"]) for body in (*server.bodies, *other.bodies) if type(body["prompt"]) is list]
            assert max(sizes) == 3 and sum(endpoint.in_flight for endpoint in engine._endpoints.each) == 0
            await engine.close()

    asyncio.run(main())


LISTLESS = [
    error(400, "json: cannot unmarshal array into Go struct field CompletionRequest.prompt of type string"),
    answer({"detail": [{"type": "string_type", "loc": ["body", "prompt"], "msg": "Input should be a string"}]}, 422),
    completion("one for all"),
    answer({"choices": [{"text": "a", "index": 0}, {"text": "b", "index": 0}, {"text": "c", "index": 2}]}),
]


@pytest.mark.parametrize("said", LISTLESS)
def test_a_server_without_lists_is_learned_once_and_asked_one_by_one(
    said: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    server = FaultServer(always=lambda seen: said if isinstance(seen.body["prompt"], list) else served(seen))

    async def main() -> None:
        async with server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,)), QUICK)
            for _ in range(2):
                replies = await asyncio.gather(*map(engine.complete, prompts(3)))
                assert [(reply.text, reply.changed) for reply in replies] == [
                    ("p0/0", ()), ("p1x/0", ()), ("p2xx/0", ()),
                ]  # fmt: skip
            await engine.close()

    with caplog.at_level(logging.WARNING, "selfinstruct"):
        asyncio.run(main())
    assert (len(server.seen), len(caplog.records)) == (1 + 3 + 3, 1)


@pytest.mark.parametrize("kind", ["too_long", "content_policy", "rejected"])
def test_one_bad_prompt_of_a_list_costs_no_other_its_answer_and_no_other_its_list(kind: str) -> None:
    words = {"too_long": "maximum context length", "content_policy": "flagged", "rejected": "no"}[kind]
    server = FaultServer(always=lambda seen: error(400, words) if "p2xx" in seen.body["prompt"] else served(seen))

    async def main() -> None:
        async with server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,)), QUICK)
            replies = await asyncio.gather(*map(engine.complete, prompts(4)))
            assert [reply.error and reply.error.kind for reply in replies] == [None, None, kind, None]
            await asyncio.gather(*map(engine.complete, prompts(2)))
            assert server.bodies[-1]["prompt"] == ["p0", "p1x"]
            await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize("trouble", [error(500, "oops"), Answer(reset=True), Answer(body=b"<p>"), error(429, "slow")])
def test_a_list_that_failed_is_asked_again_one_by_one(trouble: Answer) -> None:
    server = FaultServer(always=lambda seen: trouble if isinstance(seen.body["prompt"], list) else served(seen))
    replies = together(server, *prompts(3))
    assert [reply.text for reply in replies] == ["p0/0", "p1x/0", "p2xx/0"]
    assert len(server.seen) == 4


def test_a_broken_answer_in_a_list_is_asked_for_again_alone() -> None:
    def breaking(seen: Seen) -> Answer:
        said = json.loads(served(seen).body)
        if isinstance(seen.body["prompt"], list):
            said["choices"][0]["finish_reason"] = "abort"
        return answer(said)

    server = FaultServer(always=breaking)
    assert [reply.text for reply in together(server, *prompts(3))] == ["p0/0", "p1x/0", "p2xx/0"]
    assert [body["prompt"] for body in server.bodies] == [["p0", "p1x", "p2xx"], "p2xx"]


def test_a_list_learns_what_a_server_refuses_and_stops_with_it() -> None:
    server = FaultServer(always=lambda seen: UNSUPPORTED["top_k"] if "top_k" in seen.body else served(seen))
    replies = together(server, *prompts(3, sampling=Sampling(top_k=4)))
    assert {reply.changed for reply in replies} == {("top_k left out",)}
    assert [type(body["prompt"]) for body in server.bodies] == [list, list]
    with pytest.raises(EngineError, match="who"):
        together(FaultServer(always=error(401, "who are you")), *prompts(3))


def test_a_call_cancelled_in_a_list_leaves_the_others_their_answers_and_the_last_ends_it() -> None:
    async def main() -> None:
        async with FaultServer(always=lambda seen: replace(served(seen), delay=0.1)) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,)), QUICK)
            tasks = [asyncio.create_task(engine.complete(request)) for request in prompts(3)]
            await server.busy(1)
            tasks[0].cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(done[0], asyncio.CancelledError)
            assert [reply.text for reply in done[1:] if isinstance(reply, Reply)] == ["p1x/0", "p2xx/0"]
            tasks = [asyncio.create_task(engine.complete(request)) for request in prompts(3)]
            await server.busy(1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)
            assert not engine._batches._sending
            assert [endpoint.in_flight for endpoint in engine._endpoints.each] == [0]
            await engine.close()

    asyncio.run(main())


# Refused requests


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (error(400, "This model's limit is 10 tokens.", code="context_length_exceeded"), "too_long"),
        (error(400, "'max_tokens' or 'max_completion_tokens' is too large: 9. It is not supported"), "too_long"),
        (error(400, "the request exceeds the available context size", type="exceed_context_size_error"), "too_long"),
        (error(429, "Request too large for m on tokens per min (TPM): Limit 1, Requested 2"), "too_long"),
        (Answer(413, b"<html><title>413</title></html>"), "too_long"),
        (error(400, "Your request was rejected", code="content_policy_violation"), "content_policy"),
        (error(400, "triggering Azure OpenAI's content management policy", code="content_filter"), "content_policy"),
        (error(403, "Your chosen model requires moderation and your input was flagged"), "content_policy"),
        (error(400, "Could not finish the message because max_tokens or model output limit was reached."), "thinking"),
        (error(400, "messages must alternate"), "rejected"),
        (answer({"detail": [{"loc": ["body", "x"], "msg": "Field required", "type": "missing"}]}, 422), "rejected"),
        (answer({"object": "error", "message": "old vLLM", "code": 400}, 400), "rejected"),
        (Answer(400, b"\xff plain"), "rejected"),
        (Answer(400, b""), "rejected"),
    ],
)  # fmt: skip
def test_a_refused_request_is_its_own_failure_after_one_attempt(said: Answer, kind: str) -> None:
    server = FaultServer(said)
    reply = one(server)
    assert reply.error is not None
    assert (reply.error.kind, len(server.seen)) == (kind, 1)
    assert reply.error.message


def test_a_rejection_tells_what_the_server_said_but_not_for_ever() -> None:
    reply = one(FaultServer(error(400, "because\n " + "x" * 1000)))
    assert reply.error is not None
    assert reply.error.message.startswith("because xxx")
    assert len(reply.error.message) <= 300


# What stops the run


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once_and_is_never_shown(status: int, caplog: pytest.LogCaptureFixture) -> None:
    server = FaultServer(always=error(status, f"Incorrect API key provided: {KEY}."))
    with caplog.at_level(logging.DEBUG, "selfinstruct"):
        failure = stopped(server)
    assert "Incorrect API key" in failure.message
    assert "OPENAI_API_KEY" in failure.hint
    assert len(server.seen) == 1
    assert KEY not in caplog.text


def test_an_unknown_model_stops_at_once_and_lists_what_there_is() -> None:
    unknown = "The model `some/model` does not exist"
    for said in (error(404, unknown, code="model_not_found"), error(400, unknown)):
        server = FaultServer(always=said, models=["other", "some/model-2"])
        failure = stopped(server)
        assert unknown in failure.message
        assert failure.hint.index("some/model-2") < failure.hint.index("other")
        assert (len(server.seen), server.listed) == (1, 1)


def test_an_unknown_model_at_a_server_that_lists_none_still_has_a_hint() -> None:
    for models in (Answer(404), Answer(200, b"<html>"), answer({"data": [{}]})):
        assert stopped(FaultServer(always=Answer(404, b"nope"), models=models)).hint


def test_a_known_model_at_the_wrong_door_hints_at_the_style() -> None:
    server = FaultServer(always=error(404, "This is a chat model"), models=["some/model"])
    assert "--style chat" in stopped(server, Request(prompt="x")).hint


def test_an_address_without_v1_hints_at_it() -> None:
    async def main() -> None:
        async with FaultServer(always=Answer(404), models=Answer(404)) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url.removesuffix("/v1"),)), QUICK)
            with pytest.raises(EngineError) as failure:
                await engine.complete(HELLO)
            assert f"{server.url}" in failure.value.hint
            await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (error(402, "Payment required"), "credit"),
        (error(429, "You exceeded your current quota", code="insufficient_quota"), "credit"),
        (error(400, "no chat template is defined for this tokenizer"), "--style completion"),
        (Answer(405, b"no"), "address"),
    ],
)
def test_what_no_waiting_mends_stops_at_once(said: Answer, word: str) -> None:
    server = FaultServer(always=said)
    assert word in stopped(server).hint
    assert len(server.seen) == 1


def test_a_fatal_answer_wakes_every_call_that_waits() -> None:
    async def main() -> None:
        script = [error(503, "wait", headers={"retry_after": "60"}), error(401, "bad key", delay=0.1)]
        patience = Patience()
        async with FaultServer(*script) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,)), patience)
            waiting = [asyncio.create_task(engine.complete(HELLO)) for _ in range(2)]
            async with asyncio.timeout(1):
                replies = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(reply) for reply in replies] == [EngineError] * 2
            assert replies[0] is not replies[1]
            await engine.close()

    asyncio.run(main())


# Trouble that passes


TRANSIENT = [
    error(408, "slow"),
    error(409, "busy"),
    error(429, "Too many tokens, please wait before trying again."),
    error(500, "oops"),
    Answer(502, b"<html><h1>Bad Gateway</h1></html>"),
    error(503, "Loading model"),
    Answer(reset=True),
    Answer(body=b'{"choices": []}', truncate=5),
    answer({"error": {"message": "upstream", "code": 502}}),
    answer({"error": "upstream"}),
    Answer(body=b""),
    Answer(body=b"<html>hello</html>"),
    Answer(body=b'{"choices": [{"mess'),
    Answer(body=b"[" * 100_000),
    Answer(body=b"\xff\xfe\xfd"),
    answer([]),
    answer({"choices": []}),
    answer({"choices": [{"finish_reason": "stop"}]}),
    chat("half an ans", finish="abort"),
    chat("", finish="error", choice={"error": {"message": "provider"}}),
]


@pytest.mark.parametrize("trouble", TRANSIENT)
def test_trouble_that_passes_leaves_no_trace_in_the_reply(trouble: Answer) -> None:
    server = FaultServer(trouble, trouble, chat("fine"))
    reply = one(server)
    assert (reply.text, reply.error, reply.changed, len(server.seen)) == ("fine", None, (), 3)


def test_an_answer_that_never_comes_is_asked_for_again() -> None:
    patience = Patience(base=0.01, answer=0.1, connect=0.1)
    assert one(FaultServer(Answer(silent=True), chat("fine")), patience=patience).text == "fine"


@pytest.mark.parametrize("header", [{"retry_after": "0.25"}, {"retry_after_ms": "250"}])
@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_the_server_asks_for_is_kept_by_everyone(header: dict[str, str], status: int) -> None:
    async def main() -> None:
        async with FaultServer(error(status, "later", headers=header)) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,)), QUICK)
            started = time.monotonic()
            first = asyncio.create_task(engine.complete(HELLO))
            await asyncio.sleep(0.1)
            await asyncio.gather(first, engine.complete(HELLO))
            assert time.monotonic() - started >= 0.25
            assert len(server.seen) == 3
            await engine.close()

    asyncio.run(main())


def test_a_wait_that_the_server_asks_for_has_a_limit() -> None:
    started = time.monotonic()
    assert one(FaultServer(error(429, "later", headers={"retry_after": "3600"}))).text == "hello"
    assert 0.3 <= time.monotonic() - started < 1.5


@given(st.one_of(st.text(), st.floats().map(str), st.integers().map(str), st.datetimes().map(lambda d: d.ctime())))
def test_any_retry_after_header_is_a_wait_or_nothing(value: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        seconds = retry_after({name: value}, 0.0)
        assert seconds is None or 0 <= seconds < float("inf")


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_retry_after_date_is_the_seconds_until_then(now: int, seconds: int) -> None:
    assert retry_after({"retry-after": formatdate(now + seconds, usegmt=True)}, now) == seconds
    assert retry_after({"retry-after": formatdate(now, usegmt=True)}, now + seconds) == 0


# One request's failure, or an outage


def poisoned(said: Answer) -> Callable[[Seen], Answer]:
    return lambda seen: said if "poison" in json.dumps(seen.body) else chat("fine", delay=0.02)


def beside(server: FaultServer, patience: Patience = QUICK) -> Reply:
    """The reply to a poisoned request while others are asked."""
    poison = Request(messages=(Message(role="user", content="poison"),))

    async def main() -> Reply:
        async with server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,), concurrency=4), patience)
            await engine.complete(HELLO)
            failing = asyncio.create_task(engine.complete(poison))
            while not failing.done():
                assert (await engine.complete(HELLO)).text == "fine"
            await engine.close()
            return await failing

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (error(500, "oops"), "gave_up"),
        (Answer(reset=True), "gave_up"),
        (answer({"error": {"message": "oops"}}), "gave_up"),
        (Answer(body=b"<p>"), "malformed"),
    ],
)
def test_a_request_that_fails_alone_is_given_up_with_its_last_message(said: Answer, kind: str) -> None:
    server = FaultServer(always=poisoned(said))
    reply = beside(server)
    assert reply.error is not None
    assert reply.error.kind == kind
    assert reply.error.message.startswith(server.url)
    assert sum("poison" in json.dumps(body) for body in server.bodies) >= QUICK.attempts


def test_a_rate_limit_is_borne_longer_than_other_trouble() -> None:
    server = FaultServer(always=poisoned(error(429, "slow down")))
    started = time.monotonic()
    reply = beside(server)
    assert reply.error is not None
    assert reply.error.kind == "gave_up"
    assert time.monotonic() - started >= QUICK.outage


def test_a_rate_limit_with_room_for_few_loses_no_request() -> None:
    window: list[float] = []

    def limiter(seen: Seen) -> Answer:
        now = time.monotonic()
        window[:] = [at for at in window if at > now - 0.2]
        if len(window) >= 5:
            return error(429, "slow down")
        window.append(now)
        return chat("fine")

    async def main() -> None:
        async with FaultServer(always=limiter) as server:
            patience = Patience(base=0.01, longest=0.2, outage=0.6)
            engine = OpenAIEngine("m", Options(base_urls=(server.url,), concurrency=16), patience)
            replies = await asyncio.gather(*(engine.complete(HELLO) for _ in range(25)))
            assert {(reply.text, reply.error) for reply in replies} == {("fine", None)}
            await engine.close()

    asyncio.run(main())


def test_an_outage_in_mid_run_stops_every_call_and_stores_nothing() -> None:
    async def main() -> None:
        async with FaultServer(chat("fine"), always=error(500, "down")) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,), concurrency=3), QUICK)
            assert (await engine.complete(HELLO)).text == "fine"
            started = time.monotonic()
            replies = await asyncio.gather(*(engine.complete(HELLO) for _ in range(9)), return_exceptions=True)
            assert QUICK.outage <= time.monotonic() - started < 1.5
            for reply in replies:
                assert isinstance(reply, EngineError)
                assert "down" in reply.message
            await engine.close()

    asyncio.run(main())


def test_a_server_that_comes_back_in_time_loses_no_request() -> None:
    async def main() -> None:
        back = time.monotonic() + 0.3
        up = lambda seen: chat("fine") if time.monotonic() > back else error(503, "restarting")  # noqa: E731
        async with FaultServer(chat("fine"), always=up) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,)), Patience(**{**vars(QUICK), "outage": 1.5}))
            await engine.complete(HELLO)
            replies = await asyncio.gather(*(engine.complete(HELLO) for _ in range(9)))
            assert {(reply.text, reply.error) for reply in replies} == {("fine", None)}
            await engine.close()

    asyncio.run(main())


def test_a_server_that_never_succeeded_stops_after_one_series_of_attempts() -> None:
    server = FaultServer(always=error(500, "CUDA out of memory"))
    failure = stopped(server)
    assert "CUDA out of memory" in failure.message
    assert "doctor" in failure.hint
    assert len(server.seen) == QUICK.attempts


def test_a_first_failure_beside_slow_answers_is_no_outage() -> None:
    async def main() -> None:
        say = lambda seen: error(500, "oops") if "poison" in json.dumps(seen.body) else chat(delay=0.3)  # noqa: E731
        async with FaultServer(always=say) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,)), QUICK)
            slow = asyncio.create_task(engine.complete(HELLO))
            await server.busy(1)
            failed = await engine.complete(Request(messages=(Message(role="user", content="poison"),)))
            assert failed.error is not None
            assert (failed.error.kind, (await slow).text) == ("gave_up", "hello")
            await engine.close()

    asyncio.run(main())


def test_a_refused_request_is_no_sign_that_the_server_is_well() -> None:
    async def main() -> None:
        say = lambda seen: error(400, "bad") if "bad" in json.dumps(seen.body) else error(500, "dead")  # noqa: E731
        bad = Request(messages=(Message(role="user", content="bad"),))
        async with FaultServer(always=say) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,)), QUICK)
            good = asyncio.create_task(engine.complete(HELLO))
            while not good.done():
                reply = await engine.complete(bad)
                assert reply.error is not None
                assert reply.error.kind == "rejected"
                await asyncio.sleep(0.01)
            with pytest.raises(EngineError, match="dead"):
                await good
            await engine.close()

    asyncio.run(main())


def test_a_server_that_is_not_running_is_said_soon() -> None:
    async def main() -> None:
        async with FaultServer() as gone:
            url = gone.url
        engine = OpenAIEngine("m", Options(base_urls=(url,)), Patience(start=0.3, base=0.05))
        started = time.monotonic()
        replies = await asyncio.gather(*(engine.complete(HELLO) for _ in range(3)), return_exceptions=True)
        assert 0.2 < time.monotonic() - started < 1.0
        for reply in replies:
            assert isinstance(reply, EngineError)
            assert url in reply.message
            assert f"is the server running? `selfinstruct doctor --model openai/m --base-url {url}`" in reply.hint
        await engine.close()

    asyncio.run(main())


# Several endpoints, concurrency, cancellation


def test_requests_are_spread_over_the_endpoints() -> None:
    async def main() -> None:
        async with FaultServer(always=chat(delay=0.02)) as one_, FaultServer(always=chat(delay=0.02)) as two:
            engine = OpenAIEngine("m", Options(base_urls=(one_.url, two.url), concurrency=8), QUICK)
            await asyncio.gather(*(engine.complete(HELLO) for _ in range(40)))
            assert abs(len(one_.seen) - len(two.seen)) <= 4
            assert one_.most_in_flight + two.most_in_flight <= 8
            await engine.close()

    asyncio.run(main())


def test_a_request_goes_to_the_endpoint_with_the_fewest_under_way() -> None:
    async def main() -> None:
        async with FaultServer(always=chat(delay=0.5)) as slow, FaultServer(always=chat(delay=0.01)) as quick:
            engine = OpenAIEngine("m", Options(base_urls=(slow.url, quick.url), concurrency=8), QUICK)
            await asyncio.gather(*(engine.complete(HELLO) for _ in range(60)))
            assert (len(slow.seen), slow.most_in_flight) == (4, 4)  # what was let in at first, and nothing since
            await engine.close()

    asyncio.run(main())


def test_an_endpoint_that_fails_is_rested_while_others_carry_on() -> None:
    async def main() -> None:
        async with FaultServer(always=error(500, "broken")) as ill, FaultServer(always=chat(delay=0.005)) as well:
            patience = Patience(base=0.01, longest=0.05, rest=60)
            engine = OpenAIEngine("m", Options(base_urls=(ill.url, well.url), concurrency=4), patience)
            replies = [await engine.complete(HELLO) for _ in range(20)]
            replies += await asyncio.gather(*(engine.complete(HELLO) for _ in range(20)))
            assert all(reply.error is None for reply in replies)
            assert len(ill.seen) == 3
            await engine.close()

    asyncio.run(main())


def test_an_endpoint_that_cannot_be_reached_costs_no_request() -> None:
    async def main() -> None:
        async with FaultServer() as gone:
            url = gone.url
        async with FaultServer() as well:
            engine = OpenAIEngine("m", Options(base_urls=(url, well.url)), QUICK)
            replies = await asyncio.gather(*(engine.complete(HELLO) for _ in range(20)))
            assert all(reply.error is None for reply in replies)
            await engine.close()

    asyncio.run(main())


def test_no_more_requests_are_under_way_than_asked_for() -> None:
    async def main() -> None:
        async with FaultServer(always=chat(delay=0.01)) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,), concurrency=3), QUICK)
            await asyncio.gather(*(engine.complete(HELLO) for _ in range(20)))
            assert server.most_in_flight == 3
            await engine.close()

    asyncio.run(main())


def test_cancelled_calls_leave_room_for_the_others() -> None:
    async def main() -> None:
        async with FaultServer(Answer(silent=True), Answer(silent=True)) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,), concurrency=2), QUICK)
            tasks = [asyncio.create_task(engine.complete(HELLO)) for _ in range(5)]
            await server.busy(2)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(reply, asyncio.CancelledError) for reply in done)
            async with asyncio.timeout(1):
                replies = await asyncio.gather(*(engine.complete(HELLO) for _ in range(4)))
            assert [reply.text for reply in replies] == ["hello"] * 4
            await engine.close()

    asyncio.run(main())


def test_a_call_cancelled_in_the_moment_it_is_let_in_gives_its_place_back() -> None:
    async def main() -> None:
        async with FaultServer(always=chat(delay=0.05)) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,), concurrency=1), QUICK)
            waiting: list[asyncio.Task[Reply]] = []

            async def first_then_cancel() -> None:
                await engine.complete(HELLO)
                waiting[0].cancel()  # let in by the line above, but not yet resumed

            first = asyncio.create_task(first_then_cancel())
            await server.busy(1)
            waiting.append(asyncio.create_task(engine.complete(HELLO)))
            await asyncio.gather(first, *waiting, return_exceptions=True)
            assert waiting[0].cancelled()
            async with asyncio.timeout(1):
                assert (await engine.complete(HELLO)).text == "hello"
            await engine.close()

    asyncio.run(main())


def test_a_request_that_is_asked_again_goes_before_younger_ones() -> None:
    async def main() -> None:
        async with FaultServer(error(500, "oops"), always=chat(delay=0.05)) as server:
            engine = OpenAIEngine("m", Options(base_urls=(server.url,), concurrency=1), QUICK)
            calls = [Request(prompt=None, messages=(Message(role="user", content=str(i)),)) for i in range(5)]
            await asyncio.gather(*(engine.complete(call) for call in calls))
            assert [body["messages"][0]["content"] for body in server.bodies] == ["0", "1", "0", "2", "3", "4"]
            await engine.close()

    asyncio.run(main())


# Keys, addresses, facts


def test_openais_own_server_wants_a_key_and_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        open_openai("gpt-5", Options())
    with pytest.raises(UsageError, match="MY_KEY"):
        open_openai("gpt-5", Options(base_urls=("http://localhost:1/v1",), api_key_env="MY_KEY"))


def test_a_server_of_ones_own_gets_a_dummy_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server = FaultServer(always=chat("none is none"))
    assert one(server).text == "none is none"
    assert server.seen[0].headers["authorization"] == "Bearer none"


def test_key_and_address_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with FaultServer() as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            monkeypatch.setenv("MY_KEY", " other-key\n")
            engine = OpenAIEngine("m", Options(api_key_env="MY_KEY"), QUICK)
            await engine.complete(HELLO)
            assert server.seen[0].headers["authorization"] == "Bearer other-key"
            await engine.close()

    asyncio.run(main())


def test_a_key_that_cannot_be_a_header_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-„quoted“")
    with pytest.raises(UsageError) as failure:
        open_openai("m", Options())
    assert "quoted" not in failure.value.message + failure.value.hint


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "me:pa55word@localhost/v1", "ftp://x/v1", "http://[::1", "http://"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as failure:
        open_openai("m", Options(base_urls=(url,)))
    assert "pa55word" not in failure.value.message


def test_an_empty_model_name_is_refused() -> None:
    with pytest.raises(UsageError):
        open_openai("", Options())


def test_a_login_in_the_address_is_used_and_never_shown() -> None:
    async def main() -> None:
        async with FaultServer(error(400, "no pa55word"), always=error(401, "who is pa55word")) as server:
            url = server.url.replace("http://", "http://me:pa55word@") + "?version=2"
            engine = OpenAIEngine("m", Options(base_urls=(url,)), QUICK)
            reply = await engine.complete(HELLO)
            with pytest.raises(EngineError) as failure:
                await engine.complete(HELLO)
            assert server.seen[0].headers["authorization"] == "Basic bWU6cGE1NXdvcmQ="
            assert server.seen[0].path == "/v1/chat/completions?version=2"
            assert "pa55word" not in f"{reply} {failure.value.message} {failure.value.hint} {engine.facts()}"
            assert engine.facts()["endpoints"] == server.url
            await engine.close()

    asyncio.run(main())


def test_facts_hold_no_key_and_drift_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    facts: dict[str, str] = {}

    async def look(engine: OpenAIEngine) -> None:
        facts.update(engine.facts())

    server = FaultServer(*(chat(system_fingerprint=f"fp{i}") for i in (1, 1, 2, 3)), always=chat(model="else"))
    with caplog.at_level(logging.WARNING, "selfinstruct"):
        ask(server, *[HELLO] * 6, then=look)
    assert facts["fingerprints"] == "fp1, fp2, fp3"
    assert facts["reported"] == "served, else"
    assert facts["drift"] == "model, fingerprint"
    assert facts["openai"]
    assert KEY not in str(facts)
    assert len(caplog.records) == 2


def test_an_engine_closes_before_it_was_used_and_twice() -> None:
    async def main() -> None:
        engine = open_openai("m", Options())
        await engine.close()
        await engine.close()

    asyncio.run(main())
