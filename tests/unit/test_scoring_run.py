"""Continuations of a text: how likely each is, with the text computed once for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from random_model import native, random_arrays
from random_model import tiny_config as native_config
from tiny_models import TOKENIZER, ToyDecoder, finish, logits_of, said_by, tiny_config

from gptwo.engine import Completion, Engine, Failure, Likelihood, Scored
from gptwo.errors import ContextLengthError, InvalidRequestError, NumericalError
from gptwo.language_model import LanguageModel
from gptwo.sampling import SamplingParams
from gptwo.sampling.sampler import log_softmax

CONTEXT = [5, 6, 7, 8, 9]
ENDINGS = [[1, 2, 3], [4], [1, 9, 9, 9], [250]]


def expected(context: list[int], ending: list[int]) -> Likelihood:
    """Each token's log-probability from logits over all that is before it, computed anew."""
    rows = [logits_of([*context, *ending[:i]]) for i in range(len(ending))]
    return Likelihood(
        tuple(float(log_softmax(row)[token]) for row, token in zip(rows, ending, strict=True)),
        tuple(int(row.argmax()) == token for row, token in zip(rows, ending, strict=True)),
    )


def ask(engine: Engine, context: list[int], endings: list[list[int]], *, shares: bool = True) -> int:
    request = engine.prepare_scoring(context, endings, shares=shares)
    engine.submit(request)
    return request.id


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_each_continuation_has_the_likelihood_that_the_logits_give(exact: bool, chunk: int) -> None:
    toy = ToyDecoder(exact=exact)
    engine = Engine(toy, TOKENIZER, chunk_tokens=chunk)
    numbers = {ask(engine, CONTEXT[:n], ENDINGS): CONTEXT[:n] for n in (1, 2, 5)}
    said = {event.request_id: event.likelihoods for event in finish(engine) if isinstance(event, Scored)}
    assert said == {
        number: tuple(expected(context, ending) for ending in ENDINGS) for number, context in numbers.items()
    }
    engine.clear_prefixes()
    assert toy.held == {}


def test_the_context_is_computed_once_and_the_last_token_of_a_continuation_not_at_all() -> None:
    toy = ToyDecoder()
    engine = Engine(toy, TOKENIZER)
    ask(engine, CONTEXT, ENDINGS)
    finish(engine)
    computed = sum(tokens for batch in toy.batches for _, _, tokens in batch)
    assert computed == len(CONTEXT) + sum(len(ending) - 1 for ending in ENDINGS)
    assert len(toy.batches) == 2


def test_a_beginning_that_many_questions_share_is_computed_once() -> None:
    toy = ToyDecoder(tiny_config(n_positions=256))
    engine = Engine(toy, TOKENIZER)
    shots = [i % 290 for i in range(150)]
    for last in range(6):
        ask(engine, [*shots, last], [[1, 2], [3, 4]])
    finish(engine)
    computed = sum(tokens for batch in toy.batches for _, _, tokens in batch)
    assert computed == 128 + 6 * (150 - 128 + 1 + 2)  # two blocks of 64 once
    alone = ToyDecoder(tiny_config(n_positions=256))
    engine = Engine(alone, TOKENIZER)
    for last in range(6):
        ask(engine, [*shots, last], [[1, 2], [3, 4]], shares=False)
    finish(engine)
    assert sum(tokens for batch in alone.batches for _, _, tokens in batch) == 6 * (151 + 2)
    assert engine.prefix_blocks == 0


def test_the_native_core_finds_the_bits_of_a_text_computed_whole() -> None:
    decoder = native(native_config(), random_arrays(native_config()), threads=1)
    lm = LanguageModel(decoder, None)
    draw = np.random.default_rng(0)
    context = draw.integers(0, 61, 90).tolist()
    endings = [draw.integers(0, 61, size).tolist() for size in (1, 2, 30, 70)]
    (found,) = lm.likelihoods([(context, endings)])
    for ending, likelihood in zip(endings, found, strict=True):
        ids = [*context, *ending]
        params = SamplingParams(max_tokens=0, prompt_logprobs=1)
        logprobs = lm.generate(ids, params).prompt_logprobs
        assert logprobs is not None
        behind = [token for token in logprobs[len(context) :] if token is not None]
        assert likelihood.logprobs == tuple(token.logprob for token in behind)
        assert likelihood.greedy == tuple(token.top[0].token_id == token.token_id for token in behind)


def test_questions_and_texts_under_way_do_not_disturb_each_other() -> None:
    toy = ToyDecoder()
    engine = Engine(toy, TOKENIZER, chunk_tokens=4, max_sequences=5)
    params = SamplingParams(max_tokens=6, temperature=0.0, seed=1)
    text = engine.add([3, 4], params)
    numbers = [ask(engine, CONTEXT, ENDINGS) for _ in range(3)]
    events = finish(engine)
    found = {event.request_id: event.likelihoods for event in events if isinstance(event, Scored)}
    assert found == {number: tuple(expected(CONTEXT, ending) for ending in ENDINGS) for number in numbers}
    (completion,) = [event for event in events if isinstance(event, Completion)]
    assert completion == said_by(ToyDecoder(), [3, 4], params)
    assert completion.request_id == text


def test_what_cannot_be_scored_is_refused_before_any_work() -> None:
    engine = Engine(ToyDecoder(tiny_config(n_positions=8)), TOKENIZER)
    for context, endings in (([], [[1]]), ([1], []), ([1], [[]]), ([1], [[2], []])):
        with pytest.raises(InvalidRequestError, match="at least one token"):
            engine.prepare_scoring(context, endings)
    for context, endings in (([300], [[1]]), ([1], [[300]]), ([1], [[-1]]), ([1], [["a"]])):
        with pytest.raises(InvalidRequestError):
            engine.prepare_scoring(context, endings)
    with pytest.raises(ContextLengthError, match="10 tokens"):
        engine.prepare_scoring([1] * 8, [[1], [1, 2]])
    engine.prepare_scoring([1] * 8, [[1]])  # of which the last is only predicted


def test_a_question_that_fails_is_its_own_failure() -> None:
    toy = ToyDecoder()
    toy.poison = 77
    engine = Engine(toy, TOKENIZER)
    bad = ask(engine, [1, 77], [[2]])
    also_bad = ask(engine, [1, 2], [[3, 3], [77, 5]])
    good = ask(engine, CONTEXT, ENDINGS)
    said = {event.request_id: event for event in finish(engine)}
    for number in (bad, also_bad):
        event = said[number]
        assert isinstance(event, Failure)
        assert isinstance(event.error, NumericalError)
    assert said[good].likelihoods == tuple(expected(CONTEXT, e) for e in ENDINGS)  # type: ignore[union-attr]
    engine.clear_prefixes()
    assert toy.held == {}


def test_a_question_may_be_cancelled_at_any_step() -> None:
    for steps in range(4):
        toy = ToyDecoder()
        engine = Engine(toy, TOKENIZER, chunk_tokens=3)
        number = ask(engine, CONTEXT, ENDINGS)
        for _ in range(steps):
            engine.step()
        engine.cancel(number)
        assert finish(engine) == []
        engine.clear_prefixes()
        assert toy.held == {}


# ---- through a language model


def test_answers_come_in_order_and_as_they_are_asked_for() -> None:
    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    taken = 0

    def questions():
        nonlocal taken
        for i in range(300):
            taken += 1
            yield [i % 299], [[1, i % 200], [2]]

    answers = lm.likelihoods(questions())
    assert next(answers) == (expected([0], [1, 0]), expected([0], [2]))
    assert taken < 100  # the rest waits
    rest = list(answers)
    assert rest == [(expected([i % 299], [1, i % 200]), expected([i % 299], [2])) for i in range(1, 300)]


def test_answers_that_nobody_waits_for_any_more_cost_no_memory() -> None:
    toy = ToyDecoder()
    lm = LanguageModel(toy, TOKENIZER)
    answers = lm.likelihoods(([i], [[1, 2, 3]]) for i in range(200))
    next(answers)
    answers.close()
    assert not lm._shared.engine.has_work()
    with pytest.raises(InvalidRequestError):
        list(lm.likelihoods([([1], [[2]]), ([1], [[999]])]))
    lm.close()
    assert toy.held == {}
    assert not lm._shared.engine.has_work()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_ctrl_c_leaves_a_model_that_answers_again(moment: str) -> None:
    toy = ToyDecoder()
    lm = LanguageModel(toy, TOKENIZER)
    toy.interrupt = (2, moment)
    with pytest.raises(KeyboardInterrupt):
        list(lm.likelihoods([(CONTEXT, ENDINGS)] * 5))
    assert list(lm.likelihoods([(CONTEXT, ENDINGS)])) == [tuple(expected(CONTEXT, e) for e in ENDINGS)]
    lm.close()
    assert toy.held == {}


def test_a_likelihood_sums_up() -> None:
    likelihood = Likelihood((-1.0, -0.5), (True, False))
    assert (likelihood.total, likelihood.is_greedy) == (-1.5, False)
    assert Likelihood((-1.0,), (True,)).is_greedy
