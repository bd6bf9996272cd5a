"""Texts that have to be something: each that ends is what was asked for, and nothing else about them changes."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import (
    TOKENIZER,
    VOCABULARY,
    ToyDecoder,
    answer,
    finish,
    logits_of,
    said_by,
    tiny_config,
)

import gptwo
from gptwo.engine import Completion, Engine, Failure
from gptwo.engine.request import make_request
from gptwo.errors import DecoderError, InvalidRequestError, MissingDependencyError
from gptwo.sampling import SamplingParams, StructuredOutputs, grammar
from gptwo.sampling.counter_random import uniform
from gptwo.sampling.grammar import Constraint, compile_grammar
from gptwo.sampling.sampler import choose, log_softmax, process_logits
from gptwo.tokenizer import Tokenizer

CONFIG = tiny_config(n_positions=500)
END = VOCABULARY - 1
WORDS = {"regex": r"[a-z]{1,4}( [a-z]{1,4}){0,3}[.!]"}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None, 2.5]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@functools.cache
def shakespeare() -> gptwo.LanguageModel:
    return gptwo.load("shakespeare", threads=1)


def say(
    prompt: list[int], decoder: ToyDecoder | None = None, tokenizer: Tokenizer = TOKENIZER, **values: Any
) -> Completion:
    values = {"max_tokens": 200, "seed": 0, **values}
    return said_by(ToyDecoder(CONFIG) if decoder is None else decoder, prompt, SamplingParams(**values), tokenizer)


def refusal(wanted: dict[str, Any], **values: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        say([1], structured_outputs=wanted, **values)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def allowed(constraint: Constraint) -> set[int]:
    bits = np.unpackbits(constraint.mask.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


# ---- what ends is what was asked for


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0, 20.0])
@pytest.mark.parametrize(
    "regex",
    [
        r"[A-Z]{2,10}: [a-z ,]{5,60}[.!?]",
        r"(yes|no|maybe)( and (yes|no|maybe)){0,4}",
        r"\d{1,3}(\.\d{1,3}){3}",
        r"[^a-z\n]{1,30}",
        r"(?i:romeo)[/\"\\]+\x{3b1}[^\x00-\x{ff}\s]é?",
        r"(a|b)*a(a|b){6}c",
    ],
)
def test_a_text_that_ends_matches_the_regular_expression(regex: str, temperature: float) -> None:
    params = SamplingParams(max_tokens=60, n=8, seed=3, temperature=temperature, structured_outputs={"regex": regex})
    choices = shakespeare().generate("ROMEO:", params).choices
    python = re.sub(r"\\x\{(\w+)\}", lambda found: chr(int(found[1], 16)), regex)
    for choice in choices:
        assert choice.finish_reason == ("stop" if re.fullmatch(python, choice.text) else "length"), choice.text
    assert temperature > 1.0 or any(choice.finish_reason == "stop" for choice in choices)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("name", ["json_schema", "json_object"])
def test_a_text_that_ends_is_json_of_the_schema(name: str, temperature: float) -> None:
    wanted = {name: PERSON if name == "json_schema" else True}
    params = SamplingParams(max_tokens=200, n=10, seed=1, temperature=temperature, structured_outputs=wanted)
    choices = shakespeare().generate("The king's name and age as JSON: ", params).choices
    for choice in choices:
        if choice.finish_reason == "stop":
            value = json.loads(choice.text)
            jsonschema.validate(value, PERSON if name == "json_schema" else {"type": "object"})
        else:
            with pytest.raises(ValueError):
                json.loads(choice.text)
    assert temperature != 1.0 or any(choice.finish_reason == "stop" for choice in choices)


def test_a_choice_is_one_of_them_to_the_letter() -> None:
    texts = [
        "q\"uo'te",
        "new\nline",
        "back\\slash",
        "é😀",
        "\x00\x01\x7f",
        "/x/",
        "  spaces ",
        "a",
        "ab",
        "abc",
        "\u2028",
    ]
    seen = set()
    for seed in range(60):
        completion = say([1], seed=seed, temperature=3, structured_outputs={"choice": texts})
        assert completion.finish_reason == "stop"
        seen.add(completion.text)
    assert seen <= set(texts)
    assert len(seen) > 6


def test_a_text_is_of_the_grammar() -> None:
    source = 'start: "(" start ")" | "[" start "]" start | NUMBER\nNUMBER: /[0-9]{1,3}/  // a comment\n'
    for seed in range(20):
        text = say([1], seed=seed, structured_outputs={"grammar": source}, max_tokens=60)
        if text.finish_reason == "length":
            continue
        reduced = re.sub(r"[0-9]{1,3}", "n", text.text)
        while reduced != "n":
            before, reduced = reduced, re.sub(r"\[n\]n|\(n\)", "n", reduced)
            assert before != reduced, text.text


def test_a_grammar_may_be_one_of_llama_cpps() -> None:
    source = 'root ::= name ("," ws name)*  # names\nname ::= [A-Z] [a-z]{2,3}\nws ::= " "?\n'
    for seed in range(10):
        completion = say([1], seed=seed, structured_outputs={"grammar": source}, logit_bias={END: 5})
        assert completion.finish_reason == "length" or re.fullmatch(
            r"[A-Z][a-z]{2,3}(, ?[A-Z][a-z]{2,3})*", completion.text
        )


def test_json_has_at_most_one_space_between_its_parts_unless_its_schema_says_otherwise() -> None:
    for seed in range(10):
        text = say(
            [1],
            seed=seed,
            structured_outputs={"json_schema": {"type": "array", "items": {"const": 1}, "minItems": 3}},
            max_tokens=40,
        ).text
        assert not re.search(r"\s\s|[\t\n]", text)
    schema = {"x-guidance": {"whitespace_flexible": False}, "type": "array", "items": {"const": 1}, "minItems": 3}
    assert " " not in say([1], structured_outputs={"json_schema": schema}, max_tokens=40).text


def test_special_tokens_are_no_text() -> None:
    constraint = compile_grammar(StructuredOutputs(regex=r"(?s:.)+"), TOKENIZER)
    assert END not in allowed(constraint)
    spelled = say([1], structured_outputs={"choice": ["<|endoftext|>"]})
    assert spelled.text == "<|endoftext|>"
    assert END not in spelled.token_ids


# ---- how it ends


def test_a_text_that_can_only_end_ends_at_once_with_stop() -> None:
    completion = say([1], structured_outputs={"choice": ["yes"]})
    assert completion.text == "yes"
    assert completion.finish_reason == "stop"
    assert completion.stop_reason is None
    assert END not in completion.token_ids  # nobody was asked for the end of text
    count = len(completion.token_ids)
    assert say([1], structured_outputs={"choice": ["yes"]}, max_tokens=count).finish_reason == "stop"
    assert say([1], structured_outputs={"choice": ["yes"]}, max_tokens=count - 1).finish_reason == "length"
    for values in ({"ignore_eos": True}, {"min_tokens": 150}, {"ignore_eos": True, "min_tokens": 150}):
        assert say([1], structured_outputs={"choice": ["yes"]}, **values) == completion


def test_a_text_that_may_go_on_ends_by_the_models_end_of_text() -> None:
    found = [say([1], seed=seed, structured_outputs={"regex": "[ab]+"}, logit_bias={END: 6}) for seed in range(20)]
    for completion in found:
        assert completion.finish_reason == "stop"
        assert completion.token_ids[-1] == END
        assert re.fullmatch("[ab]+", completion.text)


def test_the_end_of_text_is_not_chosen_before_the_text_is_complete() -> None:
    for seed in range(10):
        completion = say([1], seed=seed, structured_outputs={"regex": "[ab]{9}c*"}, logit_bias={END: 100})
        assert re.fullmatch("[ab]{9}c*", completion.text)
        assert completion.token_ids[-1] == END


def test_ignored_the_end_of_text_ends_nothing_and_is_not_chosen() -> None:
    completion = say([1], structured_outputs={"regex": "[ab]+"}, ignore_eos=True, logit_bias={END: 100}, max_tokens=30)
    assert completion.finish_reason == "length"
    assert END not in completion.token_ids
    assert re.fullmatch("[ab]+", completion.text)


def test_fewer_tokens_than_the_least_do_not_end_a_text_that_may_go_on() -> None:
    completion = say([1], structured_outputs={"regex": "[ab]+"}, min_tokens=20, logit_bias={END: 100})
    assert len(completion.token_ids) == 21
    assert completion.finish_reason == "stop"


def test_stop_tokens_end_a_text_where_it_may_end_or_where_they_are_text_of_it() -> None:
    (b,) = TOKENIZER.encode("b")
    values = {"structured_outputs": {"regex": "a{3}(?s:.)*"}, "stop_token_ids": [b], "logit_bias": {b: 100}}
    completion = say([1], **values)
    assert completion.text == "aaa"
    assert completion.stop_reason == b


def test_stop_strings_end_a_text_that_is_not_complete() -> None:
    completion = say([1], structured_outputs={"choice": ["one two three"]}, stop=[" tw"])
    assert completion.text == "one"
    assert completion.stop_reason == " tw"


@pytest.mark.parametrize("wanted", [{"regex": "()"}, {"grammar": 'start: ""'}], ids=str)
def test_where_only_the_empty_text_is_allowed_no_token_is_chosen(wanted: dict[str, Any]) -> None:
    completion = say([1], structured_outputs=wanted, logprobs=1, n=2)
    for choice in completion.choices:
        assert (choice.text, choice.token_ids, choice.finish_reason, choice.logprobs) == ("", (), "stop", ())
    assert say([1], structured_outputs=wanted).choices[0].logprobs is None


def test_without_tokens_to_make_nothing_is_made() -> None:
    completion = say([1], structured_outputs=WORDS, max_tokens=0)
    assert (completion.text, completion.finish_reason) == ("", "length")


# ---- nothing else changes


def plain(prompt: list[int], params: SamplingParams, index: int) -> list[int]:
    """The tokens of a text by the definition of the sampler: the logits over all that can be seen, and the mask."""
    request = make_request(0, prompt, params, config=tiny_config(), tokenizer=TOKENIZER)
    assert request.constraint is not None
    constraint, output = request.constraint.copy(), list[int]()
    while len(output) < request.max_tokens and not constraint.ended:
        processed = process_logits(
            logits_of([*prompt, *output][-64:]),
            params,
            prompt,
            output,
            bad_words=request.bad_words,
            stop_ids=request.stop_ids,
            vocab_size=VOCABULARY,
            mask=constraint.mask,
        )
        output.append(choose(processed, params, uniform(request.seed, index, len(prompt) + len(output))))
        if output[-1] in request.stop_ids:
            break
        constraint.accept(output[-1])
    return output


PARAMS = st.builds(
    SamplingParams,
    seed=st.integers(0, 2**32),
    max_tokens=st.integers(1, 25),
    overflow=st.just("slide"),
    n=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 5.0]),
    top_k=st.sampled_from([0, 1, 20]),
    top_p=st.sampled_from([1.0, 0.5]),
    min_p=st.sampled_from([0.0, 0.3]),
    typical_p=st.sampled_from([1.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    logit_bias=st.sampled_from([None, {END: 4.0, 100: 3.0}]),
    ignore_eos=st.booleans(),
    speculate=st.sampled_from([0, 4, 16]),
    structured_outputs=st.sampled_from(
        [
            WORDS,
            {"regex": "([ab]c)*"},
            {"json_schema": PERSON},
            {"json_object": True},
            {"choice": ["Before we proceed any further, hear me speak.", "Before we go", "é😀"]},
            {"grammar": 'start: ("hear me " | "speak " NAME)+ "."\nNAME: /[A-Z][a-z]*/'},
        ]
    ),
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(params=PARAMS, length=st.integers(1, 90), chunk=st.integers(1, 80))
def test_every_token_is_the_definitions_whatever_else_is_asked_for(
    params: SamplingParams, length: int, chunk: int
) -> None:
    prompt = [(7 * i) % 250 for i in range(length)]
    engine = Engine(ToyDecoder(), TOKENIZER, chunk_tokens=chunk)
    other = engine.add([9, 9], SamplingParams(seed=5, max_tokens=20))
    first = answer(engine, engine.add(prompt, params))
    again = answer(engine, engine.add(prompt, params))  # with what is held of the prompt
    assert not engine.knows(other)
    assert first == again
    for choice in first.choices:
        assert list(choice.token_ids) == plain(prompt, params, choice.index)
        made = TOKENIZER.decode(choice.token_ids, skip_special=True)
        assert choice.text == made


def test_drafts_and_text_that_is_certain_save_steps_and_change_nothing() -> None:
    schema = {"type": "object", "properties": {name: {"type": "boolean"} for name in ("hear me speak", "proceed")}}
    schema |= {"required": ["hear me speak", "proceed"], "additionalProperties": False}
    for seed in range(5):
        steps, made = [], []
        for speculate in (0, 8):
            decoder = ToyDecoder(CONFIG)
            made.append(
                say(
                    [1],
                    decoder,
                    seed=seed,
                    temperature=0.2,
                    structured_outputs={"json_schema": schema},
                    speculate=speculate,
                )
            )
            steps.append(len(decoder.batches))
        assert made[0] == made[1]
        assert steps[1] < steps[0]


def test_log_probabilities_are_those_before_the_mask() -> None:
    completion = say([1], structured_outputs={"choice": ["yes"]}, logprobs=3)
    assert completion.logprobs is not None
    held = [1]
    for entry in completion.logprobs:
        logprobs = log_softmax(logits_of(held))
        assert entry.logprob == float(logprobs[entry.token_id])
        assert entry.top[0].logprob == float(logprobs.max())
        held.append(entry.token_id)


def test_the_best_of_several_is_one_of_those_that_are_allowed() -> None:
    several = say([1], structured_outputs=WORDS, n=6, logprobs=0)
    best = say([1], structured_outputs=WORDS, best_of=6)
    means = {c.text: sum(t.logprob for t in c.logprobs or ()) / len(c.token_ids) for c in several.choices}
    assert best.text == max(means, key=means.__getitem__)


def test_allowed_tokens_and_the_grammar_both_hold() -> None:
    ids = [TOKENIZER.encode(letter)[0] for letter in "abyz"]
    completion = say([1], structured_outputs={"regex": "[a-c]+"}, allowed_token_ids=ids, max_tokens=50)
    assert set(completion.text) == {"a", "b"}
    with pytest.raises(InvalidRequestError, match=r"no token is left to choose after 0 tokens.*structured_outputs"):
        say([1], structured_outputs={"regex": "[c-e]+"}, allowed_token_ids=ids)


def test_one_that_ends_in_an_error_disturbs_no_other() -> None:
    ids = TOKENIZER.encode("a")
    bad = SamplingParams(structured_outputs={"regex": "aab"}, allowed_token_ids=ids, max_tokens=9, seed=1)
    good = SamplingParams(structured_outputs=WORDS, max_tokens=30, seed=1)
    decoder = ToyDecoder(CONFIG)
    engine = Engine(decoder, TOKENIZER)
    requests = [engine.add([1, 2], params) for params in (good, bad, good)]
    ends = {event.request_id: event for event in finish(engine) if isinstance(event, (Completion, Failure))}
    assert isinstance(ends[requests[1]], Failure)
    assert "after 2 tokens" in str(ends[requests[1]].error)
    assert ends[requests[0]] == ends[requests[2]] == said_by(ToyDecoder(CONFIG), [1, 2], good)
    assert decoder.held == {}


@pytest.mark.parametrize("call", [1, 2, 5])
def test_an_interruption_while_a_grammar_goes_on_ends_that_request_only(
    call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(structured_outputs={"choice": ["Before we proceed any further"]}, max_tokens=30, seed=1)
    expected = said_by(ToyDecoder(CONFIG), [1, 2], params)
    decoder = ToyDecoder(CONFIG)
    engine = Engine(decoder, TOKENIZER)
    requests = [engine.add([1, 2], params) for _ in range(2)]
    accept, calls = Constraint.accept, 0

    def interrupted(self: Constraint, token_id: int) -> None:
        nonlocal calls
        calls += 1
        accept(self, token_id)
        if calls == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(Constraint, "accept", interrupted)
    events: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        finish(engine, events)
    finish(engine, events)
    ends = {event.request_id: event for event in events if isinstance(event, (Completion, Failure))}
    victim = requests[(call - 1) % 2]
    assert isinstance(ends[victim], Failure)
    assert isinstance(ends[victim].error, DecoderError)
    (other,) = set(requests) - {victim}
    assert ends[other] == expected
    assert decoder.held == {}


# ---- vocabularies


def test_a_padded_vocabulary_is_as_one_that_is_not() -> None:
    config = tiny_config(n_positions=500, vocab_size=VOCABULARY + 84)
    decoder = ToyDecoder(config, lambda ids: np.concatenate([logits_of(ids), np.full(84, 40, np.float32)]))
    assert say([1], decoder, structured_outputs=WORDS) == say([1], structured_outputs=WORDS)


def test_a_tokenizer_of_characters_has_constraints_too() -> None:
    tokenizer = Tokenizer.characters(["abcdefghijklmnopqrstuvwxyz .!é"])
    decoder = ToyDecoder(
        tiny_config(n_positions=500, vocab_size=tokenizer.vocab_size, bos_token_id=None, eos_token_id=None)
    )
    for seed in range(5):
        completion = say([1], decoder, tokenizer, seed=seed, structured_outputs=WORDS)
        assert re.fullmatch(WORDS["regex"], completion.text)
    assert say([1], decoder, tokenizer, structured_outputs={"choice": ["é é"]}).text == "é é"
    with pytest.raises(InvalidRequestError, match="no text that the model's vocabulary can write"):
        say([1], decoder, tokenizer, structured_outputs={"regex": "[0-9]+"})
    with pytest.raises(InvalidRequestError, match="cannot be kept after 2 tokens"):
        say([1], decoder, tokenizer, structured_outputs={"choice": ["ab0"]})


def test_without_a_tokenizer_there_is_no_text_to_speak_of() -> None:
    with pytest.raises(InvalidRequestError, match="structured_outputs needs a tokenizer") as caught:
        said_by(ToyDecoder(), [1], SamplingParams(structured_outputs=WORDS), None)
    assert caught.value.param == "structured_outputs"


def test_an_end_of_text_that_only_the_configuration_names_may_end_a_text() -> None:
    decoder = ToyDecoder(dataclasses.replace(CONFIG, eos_token_id=250))
    completion = say([1], decoder, structured_outputs={"regex": "[ab]+"}, logit_bias={250: 10.0})
    assert completion.token_ids[-1] == 250
    assert completion.finish_reason == "stop"


def test_the_library_is_asked_for_by_name_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar._library.cache_clear()
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"needs llguidance.*pip install '\.\[grammar\]'"):
        say([1], structured_outputs=WORDS)
    grammar._library.cache_clear()


def test_a_vocabularys_table_is_made_once_and_goes_with_its_tokenizer() -> None:
    tokenizer = Tokenizer.characters(["abc"])
    before = len(grammar._tables)
    for regex in ("a", "b"):
        compile_grammar(StructuredOutputs(regex=regex), tokenizer)
    assert len(grammar._tables) == before + 1
    del tokenizer
    assert len(grammar._tables) == before
