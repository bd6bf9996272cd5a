"""The engine as a scheduler: who runs when, what is freed, and that nobody notices the others."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_models import TOKENIZER, ToyDecoder, answer, finish, logits_of, reference_decoder, tiny_config

from gptwo.engine import Completion, Engine, Failure, Piece
from gptwo.errors import DecoderError, InvalidRequestError, NumericalError
from gptwo.sampling import BeamParams, SamplingParams


def make_engine(decoder: ToyDecoder | None = None, **options: int) -> tuple[Engine, ToyDecoder]:
    decoder = ToyDecoder() if decoder is None else decoder
    return Engine(decoder, TOKENIZER, **options), decoder


def alone(prompt: list[int], params: SamplingParams | BeamParams, **toy: Any) -> Completion:
    """What a request says with an engine of its own."""
    engine, decoder = make_engine(ToyDecoder(**toy))
    found = answer(engine, engine.add(prompt, params))
    assert decoder.held == {}
    return found


def drawn_params(draw: random.Random) -> SamplingParams | BeamParams:
    """Any kind of request."""
    length = draw.randrange(0, 12)
    common: dict[str, Any] = {
        "max_tokens": length,
        "min_tokens": draw.randint(0, length),
        "repetition_penalty": draw.choice([1.0, 1.2]),
        "no_repeat_ngram_size": draw.choice([0, 0, 2]),
        "bad_words": draw.choice([(), ("the", [5, 6])]),
        "stop_token_ids": draw.sample(range(VOCABULARY_USED), draw.choice([0, 0, 60])),
    }
    if draw.random() < 0.25:
        beams = draw.randint(1, 4)
        return BeamParams(num_beams=beams, num_return_sequences=draw.randint(1, beams), **common)
    n = draw.randint(1, 3)
    return SamplingParams(
        n=n,
        best_of=draw.choice([None, n, n + 2]),
        temperature=draw.choice([0.0, 0.7, 1.0, 3.0]),
        top_k=draw.choice([0, 20]),
        top_p=draw.choice([1.0, 0.8]),
        seed=draw.randrange(1000),
        stop=draw.sample("abcdefgh ", draw.choice([0, 2])),
        include_stop_str_in_output=draw.random() < 0.5,
        logprobs=draw.choice([None, 0, 2]),
        prompt_logprobs=draw.choice([None, None, 1]),
        **common,
    )


VOCABULARY_USED = 200


# ---- continuous batching


def test_requests_that_come_between_steps_say_what_they_say_alone() -> None:
    engine, decoder = make_engine()
    wanted: dict[int, Completion] = {}
    events: list[Any] = []
    for number in range(6):
        prompt, params = (
            [number, 7, number + 1],
            SamplingParams(max_tokens=9, seed=number, logprobs=1, n=1 + number % 2),
        )
        wanted[engine.add(prompt, params)] = alone(prompt, params)
        events.extend(engine.step())
    said = {event.request_id: event for event in finish(engine, events) if isinstance(event, Completion)}
    assert said.keys() == wanted.keys()
    assert all(said[request] == wanted[request] for request in wanted)
    # One prefill joins the texts that are under way in each of the first steps.
    prefills = [sum(tokens > 1 for _, _, tokens in batch) for batch in decoder.batches[:6]]
    assert prefills == [1] * 6
    assert [len(batch) for batch in decoder.batches[:6]] == [1, 2, 4, 5, 7, 8]
    assert decoder.held == {}


def test_the_pieces_of_a_text_are_its_completion() -> None:
    engine, _ = make_engine()
    requests = [engine.add([n], SamplingParams(max_tokens=12, n=2, seed=n, logprobs=1)) for n in range(5)]
    events = finish(engine)
    for request in requests:
        (completion,) = [e for e in events if isinstance(e, Completion) and e.request_id == request]
        assert events[-1].request_id in requests
        for choice in completion.choices:
            pieces = [e for e in events if isinstance(e, Piece) and (e.request_id, e.index) == (request, choice.index)]
            assert "".join(piece.text for piece in pieces) == choice.text
            assert sum((piece.token_ids for piece in pieces), ()) == choice.token_ids
            assert sum((piece.logprobs or () for piece in pieces), ()) == choice.logprobs
            assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
            assert (pieces[-1].finish_reason, pieces[-1].stop_reason) == (choice.finish_reason, choice.stop_reason)


def test_n_texts_share_one_prefill_and_beams_too() -> None:
    for params in (SamplingParams(n=4, max_tokens=3, seed=1), BeamParams(num_beams=4, max_tokens=3)):
        engine, decoder = make_engine()
        engine.add([1, 2, 3, 4, 5], params)
        finish(engine)
        assert sum(tokens for batch in decoder.batches for _, _, tokens in batch) == 5 + 4 * 2


# ---- admission


def test_requests_begin_in_the_order_in_which_they_came() -> None:
    engine, decoder = make_engine(max_sequences=2)
    requests = [engine.add([n, n], SamplingParams(max_tokens=1 + n % 3, seed=0)) for n in range(8)]
    first_pieces = list(dict.fromkeys(e.request_id for e in finish(engine) if isinstance(e, Piece)))
    assert first_pieces == requests
    assert decoder.most_open == 2


def test_no_more_sequences_are_open_than_allowed_and_none_waits_without_need() -> None:
    engine, decoder = make_engine(max_sequences=5)
    for _ in range(4):
        engine.add([1], SamplingParams(max_tokens=4, n=2, ignore_eos=True, seed=3))
    assert (engine.waiting, engine.running) == (4, 0)
    engine.step()
    assert (engine.waiting, engine.running, len(decoder.held)) == (2, 2, 4)
    finish(engine)
    assert decoder.most_open == 4


def test_a_request_that_is_wider_than_allowed_runs_by_itself_and_those_behind_it_wait() -> None:
    engine, decoder = make_engine(max_sequences=2)
    small = SamplingParams(max_tokens=3, ignore_eos=True, seed=3)
    first, wide, last = (engine.add([1], p) for p in (small, BeamParams(num_beams=6, max_tokens=2), small))
    ends = [event.request_id for event in finish(engine) if isinstance(event, Completion)]
    assert ends == [first, wide, last]
    widths = [len(batch) for batch in decoder.batches]
    assert widths == [1, 1, 1, 1, 6, 1, 1, 1]


def begun_in_each_step(decoder: ToyDecoder) -> list[list[int]]:
    """For each step, the numbers of tokens that it computed of prompts at their beginning."""
    return [[tokens for _, position, tokens in batch if position == 0] for batch in decoder.batches]


def test_a_prompt_that_may_not_be_cut_has_a_step_for_itself_if_it_is_long() -> None:
    engine, decoder = make_engine(ToyDecoder(exact=False), chunk_tokens=10)
    for length in (6, 4, 1, 12, 3):
        engine.add([1] * length, SamplingParams(max_tokens=6, ignore_eos=True, seed=3))
    finish(engine)
    assert begun_in_each_step(decoder)[:3] == [[6, 4], [1, 12], [3]]  # the long one too while others run
    assert not any(begun_in_each_step(decoder)[3:])


def test_a_prompt_beyond_the_context_counts_as_what_is_computed_of_it() -> None:
    for exact in (True, False):
        engine, decoder = make_engine(ToyDecoder(tiny_config(n_positions=8), exact=exact), chunk_tokens=16)
        for _ in range(2):
            engine.add([1] * 100, SamplingParams(max_tokens=1, overflow="slide"))
        engine.step()
        assert [tokens for _, _, tokens in decoder.batches[0]] == [8, 8]


def test_an_engine_without_work_does_nothing() -> None:
    engine, decoder = make_engine()
    assert not engine.has_work()
    assert engine.step() == []
    assert decoder.batches == []


# ---- cancelling


def test_a_request_can_be_cancelled_before_during_and_after_its_work() -> None:
    params = SamplingParams(max_tokens=5, n=2, ignore_eos=True, seed=1)
    for steps in range(8):
        engine, decoder = make_engine(max_sequences=4)
        requests = [engine.add([n], params) for n in range(3)]
        before = [event for _ in range(steps) for event in engine.step()]
        engine.cancel(requests[1])
        engine.cancel(requests[1])
        engine.cancel(12345)
        after = finish(engine)
        assert not [event for event in after if event.request_id == requests[1]]
        assert decoder.held == {}
        said = {e.request_id: e for e in before + after if isinstance(e, Completion)}
        assert said.keys() == set(requests) if steps >= 5 + 1 else {requests[0], requests[2]}
        assert said[requests[2]] == alone([2], params)


@pytest.mark.parametrize(
    "params", [SamplingParams(n=3, best_of=4, max_tokens=6), BeamParams(num_beams=3, max_tokens=6)]
)
def test_a_cancelled_request_frees_its_sequences_at_once(params: SamplingParams | BeamParams) -> None:
    for steps in range(6):
        engine, decoder = make_engine()
        request = engine.add([1, 2], params)
        for _ in range(steps):
            engine.step()
        engine.cancel(request)
        assert decoder.held == {}
        assert not engine.has_work()


# ---- failures


def test_a_request_may_be_prepared_long_before_it_is_submitted_and_is_answered_like_one_that_is_added() -> None:
    engine, decoder = make_engine()
    params = [SamplingParams(max_tokens=5, n=2, seed=3), BeamParams(num_beams=3, max_tokens=4)]
    prepared = [engine.prepare([1, 2], one) for one in params]
    assert [request.width for request in prepared] == [2, 3]
    assert not engine.has_work()
    with pytest.raises(InvalidRequestError):
        engine.prepare([300], params[0])
    added = engine.add([4], params[0])
    for request in reversed(prepared):
        engine.submit(request)
    events = {event.request_id: event for event in finish(engine) if isinstance(event, Completion)}
    assert list(events)[-1] != added
    for request, one in zip(prepared, params, strict=True):
        assert events[request.id] == alone([1, 2], one)
    assert decoder.held == {}


def test_a_closed_engine_holds_nothing_and_may_be_used_again() -> None:
    engine, decoder = make_engine(ToyDecoder(tiny_config(n_positions=200)), max_sequences=2)
    answer(engine, engine.add([1] * 150, SamplingParams(max_tokens=2)))
    for prompt in ([1], [2], [3]):
        engine.add(prompt, SamplingParams(max_tokens=9, ignore_eos=True))
    engine.step()
    assert (engine.prefix_blocks, engine.running, engine.waiting, engine.cache_blocks) == (2, 2, 1, None)
    engine.close()
    assert (engine.prefix_blocks, engine.running, engine.waiting) == (0, 0, 0)
    assert not engine.has_work()
    assert decoder.held == {}
    params = SamplingParams(max_tokens=3, seed=1)
    assert answer(engine, engine.add([1], params)) == alone([1], params)


def failing_params() -> SamplingParams:
    """Token 5 is allowed once; then no token is left."""
    return SamplingParams(allowed_token_ids=[5], no_repeat_ngram_size=1, max_tokens=4, n=2, min_tokens=1)


def test_a_request_that_fails_does_not_disturb_the_others() -> None:
    engine, decoder = make_engine()
    params = SamplingParams(max_tokens=8, seed=5, ignore_eos=True)
    first, wrong, last = (engine.add([1], p) for p in (params, failing_params(), params))
    events = finish(engine)
    (failure,) = [event for event in events if isinstance(event, Failure)]
    assert failure.request_id == wrong
    assert isinstance(failure.error, InvalidRequestError)
    assert "no token is left to choose" in str(failure.error)
    said = {e.request_id: e for e in events if isinstance(e, Completion)}
    assert said.keys() == {first, last}
    assert said[last] == alone([1], params)
    assert decoder.held == {}


def test_only_the_request_whose_tokens_break_the_model_fails() -> None:
    decoder = ToyDecoder()
    decoder.poison = 77
    engine, _ = make_engine(decoder)
    params = SamplingParams(max_tokens=8, seed=5, ignore_eos=True, logit_bias={77: -100})
    good = [engine.add([1], params), engine.add([2], BeamParams(num_beams=2, max_tokens=3, logit_bias={77: -100}))]
    bad = [
        engine.add([3, 77], params),
        engine.add([4], SamplingParams(max_tokens=5, allowed_token_ids=[9, 77], seed=3)),
    ]
    events = finish(engine)
    errors = {event.request_id: event.error for event in events if isinstance(event, Failure)}
    assert errors.keys() == set(bad)
    assert all(type(error) is NumericalError for error in errors.values())
    said = {e.request_id: e for e in events if isinstance(e, Completion)}
    assert said.keys() == set(good)
    assert said[good[0]] == alone([1], params)
    assert decoder.held == {}


@pytest.mark.parametrize("params", [SamplingParams(n=4, max_tokens=3), BeamParams(num_beams=4, max_tokens=3)])
@pytest.mark.parametrize("forks", range(4))
def test_a_fork_that_fails_leaves_no_sequence_open(params: SamplingParams | BeamParams, forks: int) -> None:
    engine, decoder = make_engine()
    decoder.forks_left = forks
    request = engine.add([1, 2], params)
    try:
        answer(engine, request)
    except DecoderError:
        pass
    else:
        assert forks >= 3  # the beams of this search continue few enough rows
    assert decoder.held == {}
    assert not engine.has_work()


def test_what_can_never_be_answered_is_refused_before_any_work() -> None:
    engine, decoder = make_engine()
    wrong: list[tuple[list[int], dict[str, Any]]] = [
        ([300], {}),
        ([-1], {}),
        ([1], {"logprobs": 301}),
        ([1], {"logit_bias": {300: 1}}),
        ([1], {"stop_token_ids": [300]}),
        ([1], {"bad_words": [[1, 300]]}),
        ([1], {"max_tokens": 64}),
    ]
    for prompt, values in wrong:
        with pytest.raises(InvalidRequestError):
            engine.add(prompt, SamplingParams(**values))
    assert not engine.has_work()
    assert decoder.opened == 0


# ---- interruption


INTERRUPTED = [
    SamplingParams(max_tokens=4, n=2, seed=3, logprobs=2, prompt_logprobs=1, ignore_eos=True),
    SamplingParams(max_tokens=12, seed=3, overflow="slide", ignore_eos=True),
    BeamParams(num_beams=3, max_tokens=5, num_return_sequences=2),
]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", range(1, 6))
def test_a_step_that_was_interrupted_is_done_again(step: int, moment: str) -> None:
    config = tiny_config(n_positions=10)
    wanted = [alone([1, 2, 3], params, config=config) for params in INTERRUPTED]
    decoder = ToyDecoder(config)
    decoder.interrupt = (step, moment)
    engine, _ = make_engine(decoder)
    requests = [engine.add([1, 2, 3], params) for params in INTERRUPTED]
    events: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        finish(engine, events)
    said = {e.request_id: e for e in finish(engine, events) if isinstance(e, Completion)}
    assert all(said[request] == one for request, one in zip(requests, wanted, strict=True))
    assert decoder.held == {}


def test_a_step_of_the_real_decoder_that_was_interrupted_gives_the_same_bits() -> None:
    params = SamplingParams(max_tokens=6, seed=3, logprobs=3, prompt_logprobs=2)
    wanted = answer(engine := Engine(reference_decoder(tiny_config())), engine.add([1, 2, 3, 4], params))
    for interrupted in range(1, 6):
        decoder = reference_decoder(tiny_config())
        engine = Engine(decoder)
        request = engine.add([1, 2, 3, 4], params)
        forward: Callable[..., Any] = decoder.forward
        calls = 0

        def broken(*arrays: Any, forward: Any = forward, last: int = interrupted) -> Any:
            nonlocal calls
            calls += 1
            logits = forward(*arrays)
            if calls == last:
                raise KeyboardInterrupt
            return logits

        decoder.forward = broken  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            finish(engine)
        assert answer(engine, request) == wanted


# ---- all of it at once


@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_random_requests_leave_nothing_open_and_say_what_they_say_alone(seed: int) -> None:
    draw = random.Random(seed)
    decoder = ToyDecoder()
    decoder.poison = 250
    engine, _ = make_engine(decoder, max_sequences=draw.choice([3, 8, 40]), chunk_tokens=draw.choice([4, 30]))
    asked: dict[int, tuple[list[int], Any]] = {}
    cancelled: set[int] = set()
    events: list[Any] = []
    while len(asked) < 100 or engine.has_work():
        if len(asked) < 100 and draw.random() < 0.6:
            prompt = [draw.randrange(VOCABULARY_USED) for _ in range(draw.randint(1, 9))]
            params = drawn_params(draw) if draw.random() > 0.05 else failing_params()
            asked[engine.add(prompt, params)] = (prompt, params)
        if asked and draw.random() < 0.1:
            request = draw.choice(list(asked))
            engine.cancel(request)
            cancelled.add(request)
        if decoder.interrupt is None and draw.random() < 0.05:
            decoder.interrupt = (len(decoder.batches) + 1, draw.choice(["before", "after"]))
        try:
            events.extend(engine.step())
        except KeyboardInterrupt:
            continue
    assert decoder.held == {}
    assert decoder.most_open <= 40
    ends = {event.request_id: event for event in events if not isinstance(event, Piece)}
    assert len(ends) == sum(not isinstance(event, Piece) for event in events)
    assert ends.keys() | cancelled == asked.keys()
    failed = 0
    for request, end in ends.items():
        prompt, params = asked[request]
        if isinstance(end, Failure):
            failed += 1
            with pytest.raises(type(end.error)):
                alone_with_poison(prompt, params)
        else:
            assert end == alone_with_poison(prompt, params)
    assert failed > 2
    assert len(ends) > 60


def alone_with_poison(prompt: list[int], params: SamplingParams | BeamParams) -> Completion:
    decoder = ToyDecoder()
    decoder.poison = 250
    engine, _ = make_engine(decoder)
    return answer(engine, engine.add(prompt, params))


@pytest.mark.parametrize("seed", range(4))
def test_in_any_batch_of_the_real_decoder_every_bit_is_that_of_the_request_alone(seed: int) -> None:
    draw = random.Random(seed)
    decoder = reference_decoder(tiny_config())
    prompts = [[draw.randrange(VOCABULARY_USED) for _ in range(draw.randint(1, 20))] for _ in range(8)]
    params = [drawn_params(draw) for _ in prompts]
    apart = []
    for prompt, wanted in zip(prompts, params, strict=True):
        engine = Engine(decoder, TOKENIZER)
        apart.append(answer(engine, engine.add(prompt, wanted, keep_logits="last")))
    engine = Engine(decoder, TOKENIZER, max_sequences=draw.choice([4, 30]))
    requests = [engine.add(prompt, wanted, keep_logits="last") for prompt, wanted in zip(prompts, params, strict=True)]
    said = {e.request_id: e for e in finish(engine) if isinstance(e, Completion)}
    for request, one in zip(requests, apart, strict=True):
        if one.prompt_logits is not None:  # beams keep none
            assert_array_equal(said[request].prompt_logits, one.prompt_logits)
        assert repr(said[request].choices) == repr(one.choices)
        assert said[request].prompt_logprobs == one.prompt_logprobs


def test_the_toy_decoder_depends_on_every_token() -> None:
    rows = [logits_of(ids) for ids in ([1, 2], [2, 1], [1], [1, 2, 3], [1, 1])]
    assert len({row.tobytes() for row in rows}) == 5
    assert all(np.isfinite(row).all() for row in rows)
