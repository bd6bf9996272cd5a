"""What each parameter of a request means, against a plain loop without engine, cache or batch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_models import (
    TOKENIZER,
    VOCABULARY,
    ToyDecoder,
    answer,
    finish,
    logits_of,
    plain_loop,
    said_by,
    say,
    script,
    tiny_config,
)

from gptwo.engine import Completion, Engine, Piece
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.sampling.sampler import log_softmax
from gptwo.tokenizer import Tokenizer

END = VOCABULARY - 1


def say_script(text: str | list[int], **values: Any) -> Completion:
    """Greedy, with a model that wants to say just this, then `<|endoftext|>`; the prompt is one token."""
    ids = TOKENIZER.encode(text) if isinstance(text, str) else text
    decoder = ToyDecoder(logits=script([*ids, END]))
    return said_by(decoder, [0], SamplingParams(**{"temperature": 0, "max_tokens": 30, **values}))


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
    texts = [say([1], max_tokens=8, seed=seed, ignore_eos=True) for seed in (0, 0, 6, None, None)]
    assert texts[0] == texts[1]
    assert len({completion.token_ids for completion in texts}) == 4
    assert [completion.seed for completion in texts[:3]] == [0, 0, 6]
    assert say([1], max_tokens=8, seed=texts[3].seed, ignore_eos=True) == texts[3]


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


def test_the_last_row_of_the_prompts_logits_can_be_kept_or_all_of_them() -> None:
    rows = np.stack([logits_of([1, 2, 3][:end]) for end in (1, 2, 3)])
    for keep, prompt_logprobs, expected in (("last", None, rows[2:]), ("last", 0, rows[2:]), ("all", None, rows)):
        engine = Engine(ToyDecoder(), TOKENIZER)
        params = SamplingParams(max_tokens=2, n=2, prompt_logprobs=prompt_logprobs)
        found = answer(engine, engine.add([1, 2, 3], params, keep_logits=keep))  # type: ignore[arg-type]
        assert_array_equal(found.prompt_logits, expected)
    assert say([1, 2, 3]).prompt_logits is None


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
