"""What each parameter of a request means, against a plain loop without engine, cache or batch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from tiny_models import (
    VOCABULARY,
    ToyDecoder,
    answer,
    finish,
    logits_of,
    reference_decoder,
    script,
    tiny_config,
    tiny_tokenizer,
)

from gptwo.engine import Completion, Engine, Piece
from gptwo.engine.request import make_request
from gptwo.errors import ContextLengthError, InvalidRequestError
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.sampling.counter_random import uniform
from gptwo.sampling.sampler import choose, log_softmax, process_logits
from gptwo.tokenizer import Tokenizer

TOKENIZER = tiny_tokenizer()
END = VOCABULARY - 1


def say(prompt: list[int], params: SamplingParams | BeamParams | None = None, **values: Any) -> Completion:
    """A request answered with the toy decoder; keywords are parameters."""
    return said_by(ToyDecoder(), prompt, SamplingParams(**values) if params is None else params)


def said_by(
    decoder: Any, prompt: list[int], params: SamplingParams | BeamParams, tokenizer: Tokenizer | None = TOKENIZER
) -> Completion:
    engine = Engine(decoder, tokenizer)
    return answer(engine, engine.add(prompt, params))


def say_script(text: str | list[int], **values: Any) -> Completion:
    """Greedy, with a model that wants to say just this, then `<|endoftext|>`; the prompt is one token."""
    ids = TOKENIZER.encode(text) if isinstance(text, str) else text
    decoder = ToyDecoder(logits=script([*ids, END]))
    return said_by(decoder, [0], SamplingParams(**{"temperature": 0, "max_tokens": 30, **values}))


def plain_loop(prompt: list[int], params: SamplingParams, index: int = 0, window: int = 64) -> list[int]:
    """The token ids of text number `index`: every token from logits over all that can be seen, computed anew."""
    request = make_request(0, prompt, params, config=tiny_config(), tokenizer=TOKENIZER)
    output: list[int] = []
    while len(output) < request.max_tokens:
        logits = logits_of([*prompt, *output][-window:])
        processed = process_logits(
            logits,
            params,
            prompt,
            output,
            bad_words=request.bad_words,
            stop_ids=request.stop_ids,
            vocab_size=VOCABULARY,
        )
        output.append(choose(processed, params, uniform(request.seed, index, len(prompt) + len(output))))
        if output[-1] in request.stop_ids:
            break
    return output


# ---- the tokens


@pytest.mark.parametrize("case", range(40))
def test_the_engine_chooses_what_a_plain_loop_chooses(case: int) -> None:
    draw = random.Random(case)
    length = draw.randint(1, 12)
    params = SamplingParams(
        n=draw.randint(1, 3),
        max_tokens=length,
        min_tokens=draw.randint(0, length),
        temperature=draw.choice([0.0, 0.5, 1.0, 2.0]),
        top_k=draw.choice([0, 1, 30]),
        top_p=draw.choice([1.0, 0.9]),
        min_p=draw.choice([0.0, 0.05]),
        typical_p=draw.choice([1.0, 0.9]),
        repetition_penalty=draw.choice([1.0, 1.3]),
        frequency_penalty=draw.choice([0.0, 0.7]),
        presence_penalty=draw.choice([0.0, -0.7]),
        no_repeat_ngram_size=draw.choice([0, 1, 2]),
        logit_bias=draw.choice([None, {1: 5.0, 2: -5.0}]),
        allowed_token_ids=draw.choice([None, range(0, 300, 2)]),
        bad_words=draw.choice([(), ["e", [4]]]),
        stop_token_ids=draw.sample(range(300), draw.choice([0, 80])),
        ignore_eos=draw.random() < 0.5,
        seed=draw.randrange(-10, 10),
    )
    prompt = [draw.randrange(300) for _ in range(draw.randint(1, 6))]
    completion = say(prompt, params)
    wanted = [plain_loop(prompt, params, index) for index in range(params.n)]
    assert [list(choice.token_ids) for choice in completion.choices] == wanted
    for choice in completion.choices:
        assert choice.finish_reason == ("stop" if choice.token_ids[-1] in (*params.stop_token_ids, END) else "length")


def test_temperature_0_always_takes_the_likeliest() -> None:
    one, other = (say([1, 2], temperature=0, max_tokens=10, seed=seed, n=2, ignore_eos=True) for seed in (1, 2))
    assert one.choices[0].token_ids == one.choices[1].token_ids == other.token_ids
    ids = [1, 2]
    for token in one.token_ids:
        assert token == int(np.argmax(logits_of(ids)))
        ids.append(token)


def test_a_seed_gives_one_text_and_no_seed_another_each_time() -> None:
    texts = [say([1], max_tokens=8, seed=seed, ignore_eos=True) for seed in (5, 5, 6, None, None)]
    assert texts[0].token_ids == texts[1].token_ids
    assert len({completion.token_ids for completion in texts}) == 4
    assert [completion.seed for completion in texts[:3]] == [5, 5, 6]
    again = say([1], max_tokens=8, seed=texts[3].seed, ignore_eos=True)
    assert again.token_ids == texts[3].token_ids


def test_the_texts_of_one_request_differ() -> None:
    assert len({choice.token_ids for choice in say([1], max_tokens=8, seed=5, n=20).choices}) == 20


def test_a_text_that_is_continued_later_with_its_seed_goes_on_as_if_never_interrupted() -> None:
    whole = say([1, 2, 3], max_tokens=20, seed=5, temperature=2.0, ignore_eos=True).token_ids
    for cut in (1, 7, 19):
        rest = say([1, 2, 3, *whole[:cut]], max_tokens=20 - cut, seed=5, temperature=2.0, ignore_eos=True)
        assert rest.token_ids == whole[cut:]


def test_logit_bias_and_allowed_token_ids_decide_what_is_chosen() -> None:
    assert say([1], max_tokens=5, logit_bias={7: 100}).token_ids == (7,) * 5
    assert 7 not in say([1], max_tokens=40, logit_bias={7: -100}, allowed_token_ids=[7, 8, 9], seed=1).token_ids
    assert set(say([1], max_tokens=40, allowed_token_ids=[7, 8, 9], seed=1).token_ids) == {7, 8, 9}


def test_bad_words_as_text_are_not_said_at_the_start_of_a_word_nor_within_one() -> None:
    word = TOKENIZER.encode("speak")
    spaced = TOKENIZER.encode(" speak")
    assert word != spaced
    for ids in (word, spaced):
        assert say_script(ids).token_ids == (*ids, END)
        banned = say_script(ids, bad_words=["speak"])
        assert banned.token_ids[: len(ids)] == (*ids[:-1], banned.token_ids[len(ids) - 1])
        assert banned.token_ids[len(ids) - 1] != ids[-1]
    assert say_script([5, 6, 7], bad_words=[[6, 7]]).token_ids[:2] == (5, 6)
    assert say_script([5, 6, 7], bad_words=[[6, 7]]).token_ids[2] != 7
    assert 6 not in say_script([5, 6, 7], bad_words=[[6]]).token_ids


def test_a_bad_word_that_the_vocabulary_cannot_spell_is_no_error() -> None:
    letters = Tokenizer.characters(["abc"])
    decoder = ToyDecoder(tiny_config(vocab_size=4, bos_token_id=3, eos_token_id=3))
    params = SamplingParams(bad_words=["z", "ab", "c"], allowed_token_ids=[0, 1, 2], max_tokens=30)
    found = said_by(decoder, [0], params, letters)
    assert set(found.text) == {"a"}  # the prompt is "a"


def test_ids_beyond_the_tokenizers_vocabulary_are_never_chosen() -> None:
    config = tiny_config(vocab_size=400)

    def padding_is_likelier(ids: list[int]) -> np.ndarray:
        logits = logits_of(ids, 400)
        logits[VOCABULARY:] += 20.0
        return logits

    decoder = ToyDecoder(config, padding_is_likelier)
    found = said_by(decoder, [1], SamplingParams(max_tokens=50, n=3, seed=1, logprobs=2, ignore_eos=True))
    assert max(token for choice in found.choices for token in choice.token_ids) < VOCABULARY
    # The log-probabilities are the raw model's all the same, and padding has no text.
    assert all(top.token_id >= VOCABULARY and top.text == "" for token in found.logprobs or () for top in token.top)
    for found in (
        said_by(decoder, [1], BeamParams(num_beams=3, max_tokens=6)),
        said_by(decoder, [1], SamplingParams(temperature=0, max_tokens=6)),
    ):
        assert max(found.token_ids) < VOCABULARY


# ---- log-probabilities


@pytest.mark.parametrize("changed", [{}, {"temperature": 0.3, "top_k": 3}, {"logit_bias": {5: 50.0}}])
def test_logprobs_are_those_of_the_model_itself(changed: dict[str, Any]) -> None:
    completion = say([1, 2, 3], max_tokens=6, logprobs=4, prompt_logprobs=2, seed=3, ignore_eos=True, **changed)
    ids = [1, 2, 3]
    assert completion.logprobs is not None
    assert completion.prompt_logprobs is not None
    assert completion.prompt_logprobs[0] is None
    described = [*completion.prompt_logprobs[1:], *completion.logprobs]
    everything = [*ids, *completion.token_ids]
    assert len(described) == len(everything) - 1
    for place, found in enumerate(described, 1):
        logprobs = log_softmax(logits_of(everything[:place]))
        assert found is not None
        assert (found.token_id, found.text) == (everything[place], TOKENIZER.token_text(everything[place]))
        assert found.logprob == float(logprobs[everything[place]])
        order = sorted(range(VOCABULARY), key=lambda i: -logprobs[i])[: 2 if place < 3 else 4]
        assert [(top.token_id, top.logprob) for top in found.top] == [(i, float(logprobs[i])) for i in order]
        assert [top.text for top in found.top] == [TOKENIZER.token_text(i) for i in order]
    assert completion.choices[0].cumulative_logprob == pytest.approx(sum(t.logprob for t in completion.logprobs))


def test_without_being_asked_for_there_are_no_logprobs() -> None:
    completion = say([1, 2], max_tokens=3, best_of=3)
    assert completion.logprobs is None
    assert completion.prompt_logprobs is None
    assert completion.choices[0].cumulative_logprob is None
    assert say([1, 2], max_tokens=3, logprobs=0).logprobs[0].top == ()  # type: ignore[index]


def test_best_of_returns_the_texts_with_the_highest_mean_logprob() -> None:
    values = {"max_tokens": 6, "seed": 4, "stop_token_ids": range(0, 300, 5), "logprobs": 0}
    every = say([1, 2], n=8, **values)
    means = {c.token_ids: sum(t.logprob for t in c.logprobs or ()) / len(c.token_ids) for c in every.choices}
    best = sorted(means, key=lambda ids: -means[ids])[:3]
    assert best != sorted(means, key=lambda ids: -sum(t for t in [means[ids] * len(ids)]))[:3]  # not by the sum
    chosen = say([1, 2], n=3, best_of=8, **values)
    assert [choice.token_ids for choice in chosen.choices] == best
    assert [choice.index for choice in chosen.choices] == [0, 1, 2]
    assert all(choice.logprobs is not None for choice in chosen.choices)


def test_the_pieces_of_a_choice_among_many_come_whole_at_the_end() -> None:
    engine = Engine(ToyDecoder(), TOKENIZER)
    engine.add([1, 2], SamplingParams(n=2, best_of=5, max_tokens=6, seed=4))
    *pieces, completion = finish(engine)
    assert isinstance(completion, Completion)
    assert [(p.index, p.text, p.token_ids, p.finish_reason) for p in pieces if isinstance(p, Piece)] == [
        (c.index, c.text, c.token_ids, c.finish_reason) for c in completion.choices
    ]


# ---- where a text ends


def test_max_tokens_0_reads_the_prompt_and_says_nothing() -> None:
    completion = say([1, 2], max_tokens=0, n=2, logprobs=1, prompt_logprobs=0)
    for choice in completion.choices:
        assert (choice.text, choice.token_ids, choice.finish_reason, choice.logprobs) == ("", (), "length", ())
        assert choice.cumulative_logprob == 0
    assert len(completion.prompt_logprobs or ()) == 2
    assert say([1], BeamParams(max_tokens=0)).token_ids == ()


def test_without_max_tokens_a_text_goes_on_until_the_context_is_full() -> None:
    completion = say([1, 2, 3], max_tokens=None, ignore_eos=True, seed=0)
    assert len(completion.token_ids) == 64 - 3
    assert completion.finish_reason == "length"
    assert len(say([1, 2, 3], BeamParams(max_tokens=None, ignore_eos=True, num_beams=2)).token_ids) == 61


def test_the_end_of_text_ends_a_text_unless_it_is_ignored() -> None:
    found = say_script("speak")
    assert (found.text, found.token_ids[-1], found.finish_reason, found.stop_reason) == ("speak", END, "stop", None)
    ignored = say_script("speak", ignore_eos=True)
    assert len(ignored.token_ids) == 30
    assert ignored.finish_reason == "length"
    asked = say_script("speak", ignore_eos=True, stop_token_ids=[END])
    assert (asked.token_ids, asked.stop_reason) == (found.token_ids, END)


def test_a_stop_token_ends_a_text_and_is_no_part_of_it_unless_asked_for() -> None:
    ids = TOKENIZER.encode("speak, All")
    for include, text in ((False, TOKENIZER.decode(ids[:2])), (True, TOKENIZER.decode(ids[:3]))):
        found = say_script(ids, stop_token_ids=[ids[2]], include_stop_str_in_output=include)
        assert (found.text, found.token_ids, found.stop_reason) == (text, tuple(ids[:3]), ids[2])


def test_a_stop_string_over_several_tokens_ends_the_text() -> None:
    found = say_script("hear me speak, further", stop=["me sp", "further"])
    assert (found.text, found.finish_reason, found.stop_reason) == ("hear ", "stop", "me sp")
    assert TOKENIZER.decode(found.token_ids).startswith("hear me sp")
    kept = say_script("hear me speak, further", stop="me sp", include_stop_str_in_output=True)
    assert kept.text == "hear me sp"
    tail = say_script("hear me s", stop="me sp")
    assert (tail.text, tail.finish_reason, tail.stop_reason) == ("hear me s", "stop", None)
    tail = say_script("hear me speak", stop="me sq", max_tokens=2)
    assert (tail.text, tail.finish_reason) == (TOKENIZER.decode(tail.token_ids), "length")


def test_a_stop_string_that_the_last_token_completes_counts_as_a_stop() -> None:
    ids = TOKENIZER.encode("speak")
    found = say_script(ids, stop=TOKENIZER.token_text(ids[-1]), max_tokens=len(ids))
    assert (found.finish_reason, found.text) == ("stop", TOKENIZER.decode(ids[:-1]))


def test_characters_of_several_tokens_are_never_cut_in_the_pieces() -> None:
    engine = Engine(ToyDecoder(logits=script([*TOKENIZER.encode("é😀字é"), END])), TOKENIZER)
    engine.add([0], SamplingParams(temperature=0, max_tokens=30))
    pieces = [event.text for event in finish(engine) if isinstance(event, Piece)]
    assert "".join(pieces) == "é😀字é"
    assert "\ufffd" not in "".join(pieces)
    cut = say_script("字", max_tokens=1)
    assert cut.text == "\ufffd"


def test_min_tokens_puts_off_every_stop() -> None:
    for count in range(1, 6):
        found = say_script([END] * 9, min_tokens=count)
        assert len(found.token_ids) == count + 1
        assert END not in found.token_ids[:-1]
    found = say_script([5, 5, 5, 5, 5], stop_token_ids=[5], min_tokens=2)
    assert found.token_ids.index(5) == 2
    text = say_script("aaaaaaaa", stop="a", min_tokens=3, max_tokens=8)
    assert text.text == "aaa"
    straddling = say_script("xyz", stop="xy", min_tokens=1, max_tokens=3)
    assert straddling.text == ""


def test_beams_end_at_stop_tokens_and_say_so() -> None:
    ids = TOKENIZER.encode("speak")
    decoder = ToyDecoder(logits=script([*ids, 7]))
    found = said_by(decoder, [0], BeamParams(num_beams=2, max_tokens=20, stop_token_ids=[7], num_return_sequences=2))
    assert (found.text, found.token_ids) == ("speak", (*ids, 7))
    assert (found.finish_reason, found.stop_reason, found.seed) == ("stop", 7, None)
    assert found.choices[0].score is not None
    assert found.choices[0].score >= (found.choices[1].score or 0)
    assert [choice.index for choice in found.choices] == [0, 1]


# ---- the prompt, and the context


def test_an_empty_prompt_begins_a_text() -> None:
    assert say([], max_tokens=3, seed=1).prompt_token_ids == (END,)
    other = ToyDecoder(tiny_config(bos_token_id=4))
    assert said_by(other, [], SamplingParams(max_tokens=1)).prompt_token_ids == (4,)


@pytest.mark.parametrize("unknown", [None, 50256])
def test_the_tokenizer_knows_the_end_of_text_where_the_configuration_does_not(unknown: int | None) -> None:
    config = tiny_config(bos_token_id=unknown, eos_token_id=unknown)
    decoder = ToyDecoder(config, script([5, END]))
    found = said_by(decoder, [], SamplingParams(temperature=0, max_tokens=9))
    assert (found.prompt_token_ids, found.token_ids, found.finish_reason) == ((END,), (5, END), "stop")
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        said_by(ToyDecoder(config), [], SamplingParams(), tokenizer=None)
    # Nothing ends the text there, and min_tokens has nothing to put off.
    found = said_by(ToyDecoder(config), [1], SamplingParams(max_tokens=9, min_tokens=5), tokenizer=None)
    assert (len(found.token_ids), found.text) == (9, "")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1, 300], "token id 300 is out of range: the vocabulary has 300 tokens"),
        ([-1], "token id -1 is out of range"),
        ([1.0], "the prompt holds 1.0, expected token ids"),
        ([True], "the prompt holds True, expected token ids"),
        ([10**50], "token id an integer of over 40 digits is out of range"),
        (["1"], "the prompt holds '1'"),
    ],
)
def test_a_prompt_is_of_token_ids_in_the_vocabulary(prompt: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        say(prompt)
    assert caught.value.param == "prompt"


def test_what_needs_a_tokenizer_says_so() -> None:
    for params, param in ((SamplingParams(stop="a"), "stop"), (SamplingParams(bad_words=["a"]), "bad_words")):
        with pytest.raises(InvalidRequestError, match="need a tokenizer") as caught:
            said_by(ToyDecoder(), [1], params, tokenizer=None)
        assert caught.value.param == param


def test_the_full_context_can_be_used_and_one_more_token_names_both_numbers() -> None:
    config = tiny_config(n_positions=1024)
    for prompt, tokens in ((1023, 1), (1000, 24), (1024, 0), (1, 1023)):
        found = said_by(ToyDecoder(config), [1] * prompt, SamplingParams(max_tokens=tokens, ignore_eos=True, seed=1))
        assert len(found.token_ids) == tokens
        with pytest.raises(ContextLengthError, match=f"{prompt} tokens and max_tokens is {tokens + 1}.*1024") as caught:
            said_by(ToyDecoder(config), [1] * prompt, SamplingParams(max_tokens=tokens + 1))
        assert caught.value.param == "max_tokens"
        both = f"{prompt + 1} tokens and max_tokens is {tokens}.*1024" if tokens else "1025 tokens, more than .* 1024"
        with pytest.raises(ContextLengthError, match=both):
            said_by(ToyDecoder(config), [1] * (prompt + 1), BeamParams(max_tokens=tokens))
    with pytest.raises(ContextLengthError, match="1024 tokens, the model 1024 positions: nothing is left"):
        said_by(ToyDecoder(config), [1] * 1024, SamplingParams(max_tokens=None))


def test_at_the_last_position_the_model_says_what_it_says_in_one_pass() -> None:
    decoder = reference_decoder(tiny_config(n_positions=1024, n_embd=8, n_head=1, n_layer=1))
    draw = random.Random(0)
    prompt = [draw.randrange(300) for _ in range(1020)]
    engine = Engine(decoder)
    found = answer(engine, engine.add(prompt, SamplingParams(max_tokens=4, logprobs=1, seed=1, ignore_eos=True)))
    whole = [*prompt, *found.token_ids]
    assert len(whole) == 1024
    said = answer(engine, engine.add(whole, SamplingParams(max_tokens=0, prompt_logprobs=1)))
    assert found.logprobs is not None
    assert said.prompt_logprobs is not None
    for one, other in zip(found.logprobs, said.prompt_logprobs[-4:], strict=True):
        assert other is not None
        assert (one.token_id, one.top[0].token_id) == (other.token_id, other.top[0].token_id)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_sliding_is_recomputing_each_token_over_the_last_window() -> None:
    config = tiny_config(n_positions=8)
    for prompt in (3, 7, 8, 9, 30):
        ids = list(range(10, 10 + prompt))
        params = SamplingParams(max_tokens=20, overflow="slide", seed=prompt, logprobs=0, ignore_eos=True)
        found = said_by(ToyDecoder(config), ids, params)
        assert list(found.token_ids) == plain_loop(ids, params, window=8)
        for place, token in enumerate(found.logprobs or (), prompt):
            seen = [*ids, *found.token_ids][max(0, place - 8) : place]
            assert token.logprob == float(log_softmax(logits_of(seen))[token.token_id])


def test_sliding_with_the_real_decoder_gives_the_bits_of_each_window() -> None:
    decoder = reference_decoder(tiny_config(n_positions=8))
    engine = Engine(decoder)
    prompt = [5, 6, 7, 8, 9, 10]
    params = SamplingParams(max_tokens=12, overflow="slide", seed=1, logprobs=0, ignore_eos=True)
    found = answer(engine, engine.add(prompt, params))
    for place in range(9, 6 + 12):
        window = [*prompt, *found.token_ids][place - 8 : place]
        alone = answer(engine, engine.add(window, SamplingParams(max_tokens=0), keep_logits="last"))
        token = (found.logprobs or ())[place - 6]
        assert alone.prompt_logits is not None
        assert token.logprob == float(log_softmax(alone.prompt_logits[-1])[token.token_id])


def test_what_sliding_cannot_do_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="goes on for ever without max_tokens") as caught:
        say([1], overflow="slide", max_tokens=None)
    assert caught.value.param == "max_tokens"
    with pytest.raises(InvalidRequestError, match="within the model's 64 positions, got 65") as caught:
        say([1] * 65, overflow="slide", prompt_logprobs=1)
    assert caught.value.param == "prompt_logprobs"
