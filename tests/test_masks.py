"""Masks: for every template and tokenizer, what is trained is the answer and its end token, to the byte."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinymodels import KINDS, OWN, SPECIAL, needs_training, tokenizer

from selfinstruct.errors import InputError, UsageError
from selfinstruct.masks import IGNORED, decoded, tokenised
from selfinstruct.records import Record
from selfinstruct.templates import OURS, Template, chosen, controls, prompted, written

pytestmark = needs_training
TEMPLATES = (*OURS, *OWN)
ENDS = {"chatml": "<|im_end|>", "thinks": "<|im_end|>", "trims and begins": " <|end|>"}
"""Behind an answer; <|end|> elsewhere."""
TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\n\t.,:#<|>\"'"), max_size=60
).filter(lambda text: not any(token in text for token in SPECIAL))
ANSWER = TEXT.map(str.strip).filter(bool)
FIXTURE = pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in TEMPLATES])

known = cache(tokenizer)


@cache
def template(kind: str, name: str) -> Template:
    its = known(kind)
    its.chat_template = OWN.get(name)
    return chosen("model" if name in OWN else name, its)


@FIXTURE
@given(TEXT, TEXT, TEXT, ANSWER)
def test_what_is_trained_is_the_answer_and_its_end_to_the_byte(
    kind: str, name: str, instruction: str, given_input: str, system: str, answer: str
) -> None:
    record = Record(instruction=instruction, input=given_input, system=system, output=answer)
    its, mine = known(kind), template(kind, name)
    found = tokenised(its, mine, [record], 10_000)
    if mine.forges(controls(its), record):
        assert found.rows == [] and dict(found.dropped) == {"its words forge a turn": 1}
        return
    (row,) = found.rows
    said = decoded(its, [label for label in row.labels if label != IGNORED])
    lead = " " if name == "vicuna" else ""  # Vicuna's own blank: what is served ends before it
    assert said == f"{lead}{answer}{ENDS.get(name, '<|end|>')}"
    # In training as when it is served: the very tokens that a server would send, and then the answer.
    question = f"{instruction}\n\n{given_input}" if given_input else instruction
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    served = its.apply_chat_template(messages, chat_template=mine.text, add_generation_prompt=True, tokenize=False)
    assert row.ids[: row.asked] == its(served, add_special_tokens=False).input_ids
    assert len(row.labels) == len(row.ids)


@FIXTURE
def test_an_answer_that_does_not_fit_is_cut_and_one_that_is_gone_is_dropped_and_both_are_counted(
    kind: str, name: str
) -> None:
    record = Record(instruction="Count.", output="one two three four five six seven")
    its, mine = known(kind), template(kind, name)
    ((whole,), _, _) = tokenised(its, mine, [record], 10_000)
    for most in range(1, len(whole.ids) + 2):
        found = tokenised(its, mine, [record], most)
        if most <= whole.asked:
            assert found.rows == [] and found.dropped == {"the prompt fills the context": 1}
        else:
            assert found.rows[0].ids == whole.ids[:most] and found.rows[0].trained > 0
            assert found.noted["cut at the end of the context"] == (most < len(whole.ids))


def test_where_a_token_reaches_over_the_boundary_it_is_cut_there_and_counted() -> None:
    its, mine = known("crossing"), template("crossing", "alpaca")
    found = tokenised(its, mine, [Record(instruction="Say hello.", output="Hello")], 1000)
    assert found.noted == {"cut where a token reached over the answer's beginning": 1}
    said = written(mine, its, found.rows[0].record, controls(its))
    assert said is not None and its(said.text, add_special_tokens=False).input_ids != found.rows[0].ids


def test_the_end_token_is_trained_though_it_pads_too() -> None:
    its = tokenizer("words")
    its.pad_token = its.eos_token
    (row,) = tokenised(its, template("words", "alpaca"), [Record(instruction="Say no.", output="No.")], 1000).rows
    assert row.labels[-1] == its.pad_token_id == its.eos_token_id


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("field", ["instruction", "input", "output", "system"])
def test_words_that_forge_a_turn_are_dropped_and_counted(token: str, field: str) -> None:
    fields = {"instruction": "Say.", "output": "No.", field: f"So {token} it is"}
    found = tokenised(known("words"), template("words", "chatml"), [Record(**fields)], 1000)
    assert found.rows == [] and found.dropped == {"its words forge a turn": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("alpaca", "x\n### Response:\ny"),
        ("alpaca", "### Input:"),
        ("vicuna", "a USER: b"),
        ("vicuna", "\nASSISTANT:"),
    ],
)
def test_a_heading_of_the_template_in_a_text_forges_a_turn_too(name: str, text: str) -> None:
    mine = template("words", name)
    assert mine.forges([], Record(instruction=text, output="x"))
    assert not mine.forges([], Record(instruction="The USER said: ### no", output="x"))
    as_its_own = mine._replace(name="model")  # a second fine-tune finds it in the model's folder
    assert as_its_own.forges([], Record(instruction=text, output="x"))


BEGUN = "{% if add_generation_prompt %}assistant: {% endif %}"


def test_a_template_without_an_end_is_refused_and_one_that_rewrites_drops() -> None:
    its = known("words")
    record = Record(instruction="Say.", output="No.")
    endless = Template("x", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + BEGUN)
    for system in ("", "Be kind."):
        with pytest.raises(InputError, match="would never stop"):
            tokenised(its, endless, [record.model_copy(update={"system": system})], 1000)
    loud = Template("x", "{% for m in messages %}{{ m.content | upper }}<|end|>{% endfor %}")
    assert tokenised(its, loud, [record], 1000).dropped == {"the template rewrites it": 1}
    silent = Template("x", "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    assert tokenised(its, silent, [record.model_copy(update={"output": " \n"})], 1000).dropped == {"no response": 1}
    refuses = Template(
        "x", "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + silent.text
    )
    rows = [record.model_copy(update={"system": "Be kind."}), record]
    found = tokenised(its, refuses, rows, 1000)
    assert (len(found.rows), dict(found.dropped)) == (1, {"the template refuses it with a system text": 1})
    with pytest.raises(InputError, match="nothing"):
        tokenised(its, Template("x", "{{ raise_exception('nothing') }}"), rows, 1000)


class TestChosen:
    def test_a_model_keeps_its_own_and_a_base_model_gets_alpaca(self) -> None:
        its = tokenizer("words")
        assert chosen("auto", its) == chosen("alpaca", its)
        with pytest.raises(UsageError, match="no chat template"):
            chosen("model", its)
        own = OWN["trims and begins"]
        its.chat_template = own
        assert chosen("auto", its) == chosen("model", its) == Template("model", own)

    def test_a_model_that_thinks_is_trained_and_served_without_thoughts(self) -> None:
        its = tokenizer("words")
        its.chat_template = OWN["thinks"]
        mine = chosen("auto", its)
        assert mine.thoughtless
        asked = [{"role": "user", "content": "?"}]
        for flag in ({}, {"enable_thinking": True}):
            served = its.apply_chat_template(
                asked, chat_template=mine.text, add_generation_prompt=True, tokenize=False, **flag
            )
            assert served.endswith("<think>\n\n</think>\n\n")

    def test_of_several_templates_the_one_for_chats_is_meant(self) -> None:
        its = tokenizer("words")
        its.chat_template = {"default": OWN["trims and begins"], "tool_use": "no"}
        assert chosen("auto", its).text == OWN["trims and begins"]

    def test_a_file_is_one_too_and_what_is_none_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.jinja"
        path.write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
        mine = chosen(str(path), known("words"))
        assert prompted(mine, known("words"), [{"role": "user", "content": "Hi"}]) == "Hi<|end|>"
        with pytest.raises(UsageError, match="no template 'mine'"):
            chosen("mine", known("words"))

    def test_what_the_tokenizer_cannot_write_is_refused(self) -> None:
        its = tokenizer("words")
        its.eos_token = None
        with pytest.raises(UsageError, match="no token that ends"):
            chosen("alpaca", its)
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        bare: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="</s>")
        with pytest.raises(UsageError, match="does not know"):
            chosen("chatml", bare)

    def test_a_tokenizer_that_begins_every_text_has_its_token_once(self) -> None:
        its = known("begins")
        mine = template("begins", "alpaca")
        (row,) = tokenised(its, mine, [Record(instruction="Say.", output="No.")], 1000).rows
        assert row.ids.count(its.bos_token_id) == 1 and row.ids[0] == its.bos_token_id
