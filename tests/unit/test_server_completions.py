"""`POST /v1/completions` in this process: every form of prompt, every shape of answer, at once and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server_tools import App, assert_error, running_app, toy_model
from tiny_models import TOKENIZER, ToyDecoder, script

from gptwo.engine import Completion, request
from gptwo.language_model import LanguageModel
from gptwo.sampling import BeamParams, SamplingParams, grammar

CONTEXT = "context_length_exceeded"
END = TOKENIZER.end_of_text_id
TEXT = "Before we"


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with running_app() as running:
        yield running


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel(ToyDecoder(), TOKENIZER)


def params(**values: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 8, "seed": 3, **values})


def alone(lm: LanguageModel, prompt: Any, **values: Any) -> Completion:
    return lm.generate(prompt, params(**values))


# ---- prompts


def test_a_completion_is_that_of_the_model_alone(app: App, lm: LanguageModel) -> None:
    answer = app.complete(prompt=TEXT, max_tokens=8, seed=3)
    expected = alone(lm, TEXT)
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "shakespeare")
    assert isinstance(answer["created"], int)
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "text": expected.text,
        "logprobs": None,
        "finish_reason": expected.finish_reason,
        "stop_reason": None,
    }
    prompt, made = len(TOKENIZER.encode(TEXT)), len(expected.token_ids)
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def test_every_form_of_prompt_is_taken(app: App, lm: LanguageModel) -> None:
    texts = ["All: Speak", "hear me"]
    ids = [TOKENIZER.encode(text) for text in texts]
    expected = [alone(lm, text).text for text in texts]
    for prompt, wanted in ((texts[0], expected[:1]), (texts, expected), (ids[0], expected[:1]), (ids, expected)):
        answer = app.complete(prompt=prompt, max_tokens=8, seed=3)
        assert [choice["text"] for choice in answer["choices"]] == wanted
        assert [choice["index"] for choice in answer["choices"]] == list(range(len(wanted)))


def test_several_texts_for_each_of_several_prompts_are_numbered_prompt_by_prompt(app: App, lm: LanguageModel) -> None:
    answer = app.complete(prompt=["we", "me"], n=2, max_tokens=5, seed=3)
    expected = [choice.text for prompt in ("we", "me") for choice in alone(lm, prompt, n=2, max_tokens=5).choices]
    assert [choice["text"] for choice in sorted(answer["choices"], key=lambda one: one["index"])] == expected


def test_an_empty_prompt_begins_with_the_end_of_text(app: App, lm: LanguageModel) -> None:
    answer = app.complete(prompt="", max_tokens=8, seed=3, return_token_ids=True)
    assert answer["choices"][0]["text"] == alone(lm, [END]).text
    assert answer["choices"][0]["prompt_token_ids"] == [END]
    assert answer["usage"]["prompt_tokens"] == 1


def test_the_end_of_text_in_a_prompt_is_text(app: App) -> None:
    answer = app.complete(prompt="<|endoftext|>", max_tokens=1, return_token_ids=True)
    assert END not in answer["choices"][0]["prompt_token_ids"]


def test_sixteen_tokens_unless_asked_for_and_null_fills_the_context(app: App) -> None:
    assert app.complete(prompt="we", ignore_eos=True)["usage"]["completion_tokens"] == 16
    assert app.complete(prompt=[1, 2], ignore_eos=True, max_tokens=None)["usage"]["completion_tokens"] == 62


@pytest.mark.parametrize("keep", [1, 3])
def test_a_truncated_prompt_keeps_its_end(app: App, keep: int) -> None:
    ids = list(range(10, 20))
    answer = app.complete(prompt=ids, truncate_prompt_tokens=keep, max_tokens=3, seed=1, return_token_ids=True)
    assert answer["choices"][0]["prompt_token_ids"] == ids[-keep:]
    assert answer["choices"][0]["text"] == app.complete(prompt=ids[-keep:], max_tokens=3, seed=1)["choices"][0]["text"]


def test_a_prompt_may_be_truncated_to_what_there_is_room_for(app: App) -> None:
    answer = app.complete(
        prompt="hear me speak " * 2000, truncate_prompt_tokens=-1, max_tokens=10, ignore_eos=True, echo=True
    )
    assert answer["usage"] == {"prompt_tokens": 54, "completion_tokens": 10, "total_tokens": 64}
    assert answer["choices"][0]["text"].startswith(TOKENIZER.decode(TOKENIZER.encode("hear me speak " * 2000)[-54:]))


# ---- parameters that reach the engine


def test_sampling_parameters_have_their_effect(app: App, lm: LanguageModel) -> None:
    for values in (
        {"temperature": 0},
        {"top_k": 2},
        {"top_p": 0.3},
        {"min_p": 0.2},
        {"typical_p": 0.4},
        {"repetition_penalty": 1.8},
        {"frequency_penalty": 1.5, "presence_penalty": 0.5},
        {"no_repeat_ngram_size": 2},
        {"allowed_token_ids": [5, 6, 7]},
        {"bad_words": ["e", [65]]},
        {"min_tokens": 7},
        {"stop_token_ids": [65, 66, 67, 68]},
        {"best_of": 4},
        {"speculate": 4},
        {"overflow": "slide", "max_tokens": 60, "ignore_eos": True},
    ):
        whole = {"max_tokens": 8, "seed": 3, **values}
        expected = lm.generate(TEXT * 2, SamplingParams(**whole))
        assert app.complete(prompt=TEXT * 2, **whole)["choices"][0]["text"] == expected.text, values


def test_a_bias_of_a_hundred_decides(app: App) -> None:
    answer = app.complete(prompt="we", logit_bias={"65": 100}, max_tokens=3, temperature=0, return_token_ids=True)
    assert answer["choices"][0]["token_ids"] == [65, 65, 65]


def test_stop_strings_end_the_text_and_are_named() -> None:
    decoder = ToyDecoder(logits=script(TOKENIZER.encode("one two three"), prompt=1))
    with running_app(toy_model(decoder)) as app:
        ask = {"prompt": [1], "max_tokens": 13, "temperature": 0}
        for stop, text, reason in (("two", "one ", "two"), (["x", " th"], "one two", " th")):
            (choice,) = app.complete(**ask, stop=stop)["choices"]
            assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (text, "stop", reason)
            assert "".join(event["choices"][0]["text"] for event in app.stream(**ask, stop=stop)) == text
        kept = app.complete(**ask, stop="two", include_stop_str_in_output=True)
        assert kept["choices"][0]["text"] == "one two"


@pytest.mark.parametrize(
    "body",
    [
        {"structured_outputs": {"json": {"type": "boolean"}}},
        {"structured_outputs": {"choice": ["true", "false"]}},
        {"structured_outputs": {"regex": "true|false"}},
        {"structured_outputs": {"grammar": 'start: "true" | "false"'}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}},
    ],
    ids=str,
)
def test_a_text_may_have_to_be_of_some_shape(app: App, body: dict[str, Any]) -> None:
    ask = {"prompt": "All: ", "max_tokens": 20, "n": 3, "seed": 1, **body}
    texts = [choice["text"].strip() for choice in app.complete(**ask)["choices"]]
    assert {*texts} <= {"true", "false"}
    assert [one["text"].strip() for one in joined(app.stream(**ask), 3)] == texts


@pytest.mark.parametrize("stream", [False, True])
def test_what_several_prompts_share_is_made_once(app: App, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    body = {"max_tokens": 6, "seed": 2, "bad_words": ["e", " we"], "structured_outputs": {"regex": "[a-z ]{4,9}"}}
    prompts = ["we", "hear me", "", "so"]
    alone = [app.complete(prompt=prompt, **body)["choices"][0]["text"] for prompt in prompts]
    made: list[str] = []
    for module, name in ((grammar, "compile_grammar"), (request, "_bad_words")):
        method = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *arguments, name=name, method=method: made.append(name) or method(*arguments)
        )
    if stream:
        texts = dict.fromkeys(range(4), "")
        for event in app.stream(prompt=prompts, **body):
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
        assert [*texts.values()] == alone
    else:
        assert [choice["text"] for choice in app.complete(prompt=prompts, **body)["choices"]] == alone
    assert sorted(made) == ["_bad_words", "compile_grammar"]


@pytest.mark.parametrize("word", ["a" * 4_000, [1] * 4_000], ids=["text", "ids"])
def test_bad_words_of_a_whole_book_are_refused(app: App, word: str | list[int]) -> None:
    response = app.post("/v1/completions", {"prompt": "we", "bad_words": [word] * 30})
    assert "120,000 characters and token ids, expected at most 100,000" in assert_error(response, 400, "bad_words")


def test_beam_search_is_that_of_the_model_alone(app: App, lm: LanguageModel) -> None:
    answer = app.complete(prompt=TEXT, use_beam_search=True, n=2, best_of=4, max_tokens=6, length_penalty=0.5)
    wanted = BeamParams(num_beams=4, num_return_sequences=2, max_tokens=6, length_penalty=0.5)
    assert [choice["text"] for choice in answer["choices"]] == [one.text for one in lm.generate(TEXT, wanted).choices]
    streamed = app.stream(prompt=TEXT, use_beam_search=True, n=2, best_of=4, max_tokens=6, length_penalty=0.5)
    assert [event["choices"][0]["text"] for event in streamed] == [choice["text"] for choice in answer["choices"]]


# ---- log-probabilities


def test_log_probabilities_are_the_models_own_in_parallel_lists(app: App, lm: LanguageModel) -> None:
    lists = app.complete(prompt=TEXT, max_tokens=8, seed=3, logprobs=3)["choices"][0]["logprobs"]
    expected = alone(lm, TEXT, logprobs=3)
    assert list(map(len, lists.values())) == [8] * 4
    assert lists["token_logprobs"] == [token.logprob for token in expected.logprobs]
    for name, value, top, token in zip(
        lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], expected.logprobs, strict=True
    ):
        assert top[name] == value
        assert 3 <= len(top) <= 4
        assert list(top.values())[:3] == [other.logprob for other in token.top]


def test_logprobs_of_zero_gives_the_tokens_alone(app: App) -> None:
    lists = app.complete(prompt=TEXT, max_tokens=4, logprobs=0)["choices"][0]["logprobs"]
    assert all(list(top) == [name] for top, name in zip(lists["top_logprobs"], lists["tokens"], strict=True))


def test_offsets_say_where_a_token_begins(app: App) -> None:
    answer = app.complete(prompt="All: ", echo=True, max_tokens=20, logprobs=1, seed=5)["choices"][0]
    text, lists = answer["text"], answer["logprobs"]
    assert text.startswith("All: ")
    assert lists["text_offset"][0] == 0
    for name, offset in zip(lists["tokens"], lists["text_offset"], strict=True):
        assert name.startswith(("bytes:", "<|")) or text[offset:].startswith(name)


def test_a_part_of_a_character_is_named_by_its_bytes() -> None:
    ids = TOKENIZER.encode("öx")
    assert len(ids) == 3
    with running_app(toy_model(ToyDecoder(logits=script(ids)))) as app:
        ask = {"prompt": [1], "max_tokens": 3, "temperature": 0, "logprobs": 1}
        answer = app.complete(**ask)["choices"][0]
        assert answer["text"] == "öx"
        assert answer["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xb6", "x"]
        assert answer["logprobs"]["text_offset"] == [0, 0, 1]
        assert app.complete(**ask, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]["tokens"] == [
            f"token_id:{token}" for token in ids
        ]
        streamed = app.stream(**ask)
        assert "".join(event["choices"][0]["text"] for event in streamed) == "öx"
        assert not any("\ufffd" in event["choices"][0]["text"] for event in streamed)


@pytest.mark.parametrize("max_tokens", [0, 1, 4])
def test_an_echoed_prompt_has_its_log_probabilities(app: App, lm: LanguageModel, max_tokens: int) -> None:
    # What lm-eval asks for, and how it reads it.
    score = lm.score(TEXT)
    answer = app.complete(prompt=TEXT, temperature=0, max_tokens=max_tokens, logprobs=1, seed=1234, echo=True)
    (choice,) = answer["choices"]
    lists, length = choice["logprobs"], len(score.token_ids)
    assert choice["text"].startswith(TEXT)
    assert choice["finish_reason"] == "length"
    assert lists["token_logprobs"][:length] == list(score.logprobs)
    assert lists["top_logprobs"][0] is None
    assert {len(values) for values in lists.values()} == {length + max_tokens}
    for value, top in zip(lists["token_logprobs"][1:], lists["top_logprobs"][1:], strict=True):
        assert max(top.values()) >= value
    assert "".join(lists["tokens"][:length]) == TEXT


def test_an_empty_prompt_echoes_as_nothing(app: App) -> None:
    choice = app.complete(prompt="", echo=True, max_tokens=2, logprobs=1, ignore_eos=True)["choices"][0]
    assert choice["logprobs"]["tokens"][0] == "<|endoftext|>"
    assert choice["logprobs"]["text_offset"][:2] == [0, 0]
    assert "<|endoftext|>" not in choice["text"]


def test_echo_without_log_probabilities_is_the_text_before(app: App) -> None:
    plain = app.complete(prompt=TEXT, max_tokens=5, seed=1)["choices"][0]["text"]
    assert app.complete(prompt=TEXT, max_tokens=5, seed=1, echo=True)["choices"][0]["text"] == TEXT + plain
    ids = TOKENIZER.encode(TEXT)
    assert app.complete(prompt=ids, max_tokens=5, seed=1, echo=True)["choices"][0]["text"] == TEXT + plain


def test_prompt_logprobs_are_in_vllms_shape(app: App, lm: LanguageModel) -> None:
    choice = app.complete(prompt=TEXT, max_tokens=1, prompt_logprobs=2, echo=True, logprobs=1)["choices"][0]
    first, *rest = choice["prompt_logprobs"]
    assert first is None
    for entries, token, value in zip(rest, TOKENIZER.encode(TEXT)[1:], lm.score(TEXT).logprobs[1:], strict=True):
        assert entries[str(token)]["logprob"] == value
        assert sorted(entry["rank"] for entry in entries.values() if entry["rank"]) == [1, 2]
    assert all(len(top) <= 2 for top in choice["logprobs"]["top_logprobs"][1:])


def test_a_model_without_a_tokenizer_answers_in_ids() -> None:
    with running_app(toy_model(tokenizer=None)) as app:
        answer = app.complete(prompt=[5, 6], max_tokens=3, logprobs=1, return_token_ids=True, echo=True)
        (choice,) = answer["choices"]
        assert choice["text"] == ""
        assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in [5, 6, *choice["token_ids"]]]
        assert_error(app.post("/v1/completions", {"prompt": "text"}), 400, "prompt")


# ---- streams


def joined(events: list[Any], count: int = 1) -> list[dict[str, Any]]:
    """What the choices of a stream come to, put together."""
    found: list[dict[str, Any]] = [{"text": "", "token_ids": [], "finish_reason": None} for _ in range(count)]
    for event in events:
        for choice in event["choices"]:
            one = found[choice["index"]]
            assert one["finish_reason"] is None, "something came after the end"
            one["text"] += choice["text"]
            one["finish_reason"] = choice["finish_reason"]
            one["stop_reason"] = choice["stop_reason"]
            one["token_ids"] += choice.get("token_ids", [])
            if "prompt_token_ids" in choice:
                assert "prompt_token_ids" not in one
                one["prompt_token_ids"] = choice["prompt_token_ids"]
            for name, values in (choice["logprobs"] or {}).items():
                one.setdefault("logprobs", {}).setdefault(name, []).extend(values)
    return found


@pytest.mark.parametrize("prompt", [TEXT, ["All: ", "Speak é"]])
@pytest.mark.parametrize("extra", [{}, {"echo": True}, {"logprobs": 2}, {"echo": True, "logprobs": 2}], ids=str)
def test_a_stream_says_what_the_whole_answer_says(app: App, prompt: Any, extra: dict[str, Any]) -> None:
    ask = {"prompt": prompt, "max_tokens": 9, "seed": 3, "n": 2, "return_token_ids": True, **extra}
    whole = app.complete(**ask)["choices"]
    for expected, found in zip(whole, joined(app.stream(**ask), len(whole)), strict=True):
        del expected["index"]
        assert {"logprobs": None, **found} == expected


def test_every_event_of_a_stream_has_the_same_id(app: App) -> None:
    events = app.stream(prompt=TEXT, max_tokens=4, seed=1)
    assert len({(event["id"], event["created"], event["model"], event["object"]) for event in events}) == 1
    assert "usage" not in events[0]


def test_a_streams_usage_comes_in_a_last_event_without_choices(app: App) -> None:
    *events, last = app.stream(prompt=TEXT, max_tokens=4, seed=1, stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"] == app.complete(prompt=TEXT, max_tokens=4, seed=1)["usage"]


def test_usage_may_come_with_every_event(app: App) -> None:
    wanted = {"include_usage": True, "continuous_usage_stats": True}
    events = app.stream(prompt="we", max_tokens=4, seed=1, ignore_eos=True, logprobs=0, stream_options=wanted)
    assert [event["usage"]["completion_tokens"] for event in events] == [1, 2, 3, 4, 4]


def test_an_error_in_the_middle_of_a_stream_is_its_last_event() -> None:
    decoder = ToyDecoder(logits=script([65, 66, 67]))
    decoder.poison = 66
    with running_app(toy_model(decoder)) as app:
        ask = {"prompt": [1], "max_tokens": 5, "temperature": 0}
        response = app.post("/v1/completions", {**ask, "stream": True})
        assert response.status_code == 200
        first, *_, last = [line for line in response.text.split("\n\n") if line]
        assert TOKENIZER.token_text(65) in first
        assert last.startswith('data: {"error":{')
        assert_error(app.post("/v1/completions", ask), 500)


def test_what_fails_before_the_first_event_of_a_stream_has_its_own_status() -> None:
    decoder = ToyDecoder()
    decoder.poison = 7
    with running_app(toy_model(decoder)) as app:
        assert_error(app.post("/v1/completions", {"prompt": [7], "stream": True}), 500)
        assert_error(app.post("/v1/completions", {"prompt": [5] * 60, "stream": True}), 400, "max_tokens", CONTEXT)
