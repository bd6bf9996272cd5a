"""The face: prompts of every kind in, answers out, from several threads at once."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import TOKENIZER, ToyDecoder, reference_decoder, tiny_config

from gptwo.engine import Completion, Piece
from gptwo.errors import (
    ContextLengthError,
    DecoderError,
    InvalidRequestError,
    TokenizerError,
)
from gptwo.language_model import LanguageModel
from gptwo.sampling import BeamParams, SamplingParams

END = 299
PARAMS = SamplingParams(max_tokens=6, seed=1, ignore_eos=True)


@pytest.fixture
def toy() -> ToyDecoder:
    return ToyDecoder()


@pytest.fixture
def lm(toy: ToyDecoder) -> Iterator[LanguageModel]:
    """Over the toy decoder; whatever a test did, nothing may be left of it."""
    model = LanguageModel(toy, TOKENIZER, name="toy")
    yield model
    assert toy.held == {}
    assert model._shared._inbox == {}
    assert model._shared._streamed == set()
    assert not model._shared.engine.has_work()


def tokens_of(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


# ---- prompts and parameters


def test_a_prompt_is_text_or_token_ids_of_any_kind(lm: LanguageModel) -> None:
    ids = TOKENIZER.encode("speak")
    expected = lm.generate("speak", PARAMS)
    assert isinstance(expected, Completion)
    assert expected.prompt_token_ids == tuple(ids)
    for prompt in (ids, tuple(ids), np.array(ids), np.array(ids, dtype=np.uint16), [np.int64(i) for i in ids]):
        found = lm.generate(prompt, PARAMS)  # type: ignore[arg-type]
        assert found.token_ids == expected.token_ids
    assert lm.generate(range(3), PARAMS).prompt_token_ids == (0, 1, 2)


def test_a_list_of_prompts_gives_a_list_of_what_each_gives_alone(lm: LanguageModel) -> None:
    prompts: list[Any] = ["speak", [5, 6, 7], "", np.array([1]), [], "We know't!"]
    assert tokens_of(lm.generate(prompts, PARAMS)) == [
        lm.generate(p, PARAMS).token_ids for p in (*prompts[:4], "", "We know't!")
    ]
    assert lm.generate(["speak"], PARAMS)[0].token_ids == lm.generate("speak", PARAMS).token_ids
    assert tokens_of(lm.generate(("speak", "All"), PARAMS)) == tokens_of(lm.generate(["speak", "All"], PARAMS))
    assert lm.generate([], PARAMS) == []
    assert lm.generate([], [PARAMS] * 0) == []


def test_parameters_are_one_for_all_or_one_for_each(lm: LanguageModel) -> None:
    params = [PARAMS, SamplingParams(temperature=0, max_tokens=3), BeamParams(num_beams=2, max_tokens=4)]
    found = lm.generate(["a", "b", "c"], params)
    assert tokens_of(found) == [lm.generate(p, q).token_ids for p, q in zip("abc", params, strict=True)]
    assert lm.generate("a", [PARAMS]).token_ids == found[0].token_ids
    assert len(lm.generate("a").token_ids) <= SamplingParams().max_tokens


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([PARAMS], "2 prompts but 1 params: give one, or one each"),
        ([PARAMS] * 3, "2 prompts but 3 params"),
        ([PARAMS, None], "params is None, expected SamplingParams or BeamParams"),
        ({"max_tokens": 3}, r"params is {'max_tokens': 3}, expected SamplingParams"),
        (5, "params is 5"),
        ("ab", "params is 'a'"),
    ],
)
def test_wrong_parameters_are_named(lm: LanguageModel, params: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        lm.generate(["a", "b"], params)
    assert caught.value.param == "params"


WRONG_PROMPTS = [
    (b"speak", r"the prompt is b'speak', expected text"),
    (bytearray(b"speak"), "the prompt is bytearray"),
    (memoryview(b"speak"), "the prompt is <memory"),
    (None, "the prompt is None, expected text, token ids, or a list of those"),
    (5, "the prompt is 5"),
    ({"speak"}, "the prompt is {'speak'}"),
    ({1: 2}, "the prompt is {1: 2}"),
    (torch.tensor([1, 2]), "the prompt is tensor"),
    (np.array([[1, 2]]), "an array has one dimension, got 2"),
    (np.array(5), "an array has one dimension, got 0"),
    ([1.0, 2.0], "the prompt holds 1.0, expected token ids"),
    (np.array([1.0]), r"the prompt holds .*1.0.*, expected token ids"),
    ([1, True], "the prompt holds True"),
    ([1, None], "the prompt holds None"),
    ([1, -1], "token id -1 is out of range: the vocabulary has 300 tokens"),
    ([300], "token id 300 is out of range"),
    ([10**5000], "token id an integer of over 40 digits is out of range"),
]


@pytest.mark.parametrize(("prompt", "message"), WRONG_PROMPTS)
@pytest.mark.parametrize("method", ["generate", "stream", "score", "top", "logits"])
def test_a_wrong_prompt_is_named_by_every_method(lm: LanguageModel, method: str, prompt: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        getattr(lm, method)(prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a", 5], "the prompts mix token ids with texts"),
        ([5, "a"], "the prompts mix token ids with texts"),
        ([[1, 2], 5], "the prompts mix token ids with texts"),
        (["a", b"b"], "the prompt is b'b', expected text"),
        ([[1, [2]]], r"the prompt holds \[2\], expected token ids"),
        ([["a", "b"]], "the prompt holds 'a', expected token ids"),
        ([[[1, 2]]], r"the prompt holds \[1, 2\], expected token ids"),
        (["a", np.array([[1]])], "one dimension, got 2"),
        (["a", None], "the prompts mix token ids with texts"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "score"])
def test_a_wrong_list_of_prompts_is_refused_as_a_whole(
    lm: LanguageModel, toy: ToyDecoder, method: str, prompts: Any, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        getattr(lm, method)(prompts)
    assert caught.value.param == "prompt"
    assert method == "score" or toy.batches == []


def test_methods_for_one_prompt_refuse_several(lm: LanguageModel) -> None:
    for prompts in ([], ["a", "b"], [[1], [2]]):
        with pytest.raises(InvalidRequestError, match="stream takes one prompt"):
            lm.stream(prompts)
    for method in (lm.top, lm.logits):
        with pytest.raises(InvalidRequestError, match="the prompt holds 'a', expected token ids"):
            method(["a", "b"])


def test_the_end_of_text_in_a_users_text_is_plain_text(lm: LanguageModel) -> None:
    assert END not in lm.generate("a<|endoftext|>b", PARAMS).prompt_token_ids
    assert END not in lm.score("a<|endoftext|>b").token_ids


def test_an_answer_in_one_piece_keeps_no_pieces_meanwhile(lm: LanguageModel, toy: ToyDecoder) -> None:
    kept, logits = [], toy.logits
    toy.logits = lambda ids: (kept.append(sum(map(len, lm._shared._inbox.values()))), logits(ids))[1]
    lm.generate(["a", "b"], SamplingParams(max_tokens=20, seed=1, ignore_eos=True))
    assert set(kept) == {0}


def test_an_error_in_one_of_several_requests_leaves_none_behind(lm: LanguageModel, toy: ToyDecoder) -> None:
    with pytest.raises(ContextLengthError, match="max_tokens is 100"):
        lm.generate(["a", "b"], [PARAMS, SamplingParams(max_tokens=100)])
    assert toy.batches == []
    nothing_left = SamplingParams(allowed_token_ids=[5], no_repeat_ngram_size=1, max_tokens=4)
    with pytest.raises(InvalidRequestError, match="no token is left to choose"):
        lm.generate(["a", "b", "c"], [PARAMS, nothing_left, PARAMS])


def test_text_that_the_tokenizer_cannot_read_is_its_error(lm: LanguageModel) -> None:
    with pytest.raises(TokenizerError, match="lone surrogate"):
        lm.generate("\ud800")


def test_without_a_tokenizer_token_ids_work_and_text_says_what_to_do(toy: ToyDecoder) -> None:
    lm = LanguageModel(toy, None, name="bare")
    found = lm.generate([1, 2], SamplingParams(max_tokens=4, seed=1, logprobs=1, prompt_logprobs=1, ignore_eos=True))
    assert (found.text, len(found.token_ids)) == ("", 4)
    assert (found.logprobs or ())[0].text == ""
    assert [
        piece.token_ids[0] for piece in lm.stream([1, 2], SamplingParams(max_tokens=4, seed=1, ignore_eos=True))
    ] == list(found.token_ids)
    assert lm.generate([1], BeamParams(max_tokens=3)).text == ""
    assert lm.score([1, 2, 3]).bytes is None
    assert lm.score([1, 2, 3]).bits_per_byte is None
    assert lm.top([1, 2], k=1)[0][0] == ""
    for use in (lm.generate, lm.stream, lm.score, lm.top, lm.logits):
        with pytest.raises(InvalidRequestError, match="bare has no tokenizer: give token ids, or name one"):
            use("text")
    with pytest.raises(InvalidRequestError, match="has no tokenizer"):
        lm.generate([[1], "text"])
    assert toy.held == {}


# ---- streams


def test_the_pieces_of_a_stream_are_the_text_of_generate(lm: LanguageModel) -> None:
    params = SamplingParams(max_tokens=20, n=3, seed=4, logprobs=2)
    whole = lm.generate("speak", params)
    pieces = list(lm.stream("speak", params))
    assert all(isinstance(piece, Piece) for piece in pieces)
    for choice in whole.choices:
        own = [piece for piece in pieces if piece.index == choice.index]
        assert "".join(piece.text for piece in own) == choice.text
        assert sum((piece.token_ids for piece in own), ()) == choice.token_ids
        assert sum((piece.logprobs or () for piece in own), ()) == choice.logprobs
        assert own[-1].finish_reason == choice.finish_reason
    beams = BeamParams(num_beams=3, num_return_sequences=2, max_tokens=5)
    texts = [choice.text for choice in lm.generate("speak", beams).choices]
    assert [piece.text for piece in lm.stream("speak", beams)] == texts


def test_a_stream_checks_its_arguments_at_once(lm: LanguageModel) -> None:
    with pytest.raises(ContextLengthError):
        lm.stream("speak", SamplingParams(max_tokens=1000))
    with pytest.raises(InvalidRequestError, match="1 prompts but 2 params"):
        lm.stream("speak", [PARAMS, PARAMS])  # type: ignore[arg-type]


def test_a_stream_that_is_left_early_is_freed_however_it_is_left(lm: LanguageModel, toy: ToyDecoder) -> None:
    params = SamplingParams(max_tokens=30, n=2, seed=4, ignore_eos=True)
    stream = lm.stream("speak", params)
    for _ in range(3):
        next(stream)
    assert len(toy.held) == 2
    stream.close()  # type: ignore[attr-defined]
    assert toy.held == {}
    for number, _ in enumerate(lm.stream("speak", params)):
        if number == 3:
            break
    assert toy.held == {}
    forgotten = lm.stream("speak", params)
    next(forgotten)
    del forgotten
    assert toy.held == {}
    unread = lm.stream("speak", params)
    assert lm._shared.engine.has_work()
    del unread
    assert not lm._shared.engine.has_work()

    def fail_at_a_piece() -> None:
        for _ in lm.stream("speak", params):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_at_a_piece()
    gc.collect()  # the error's traceback holds the stream until then
    assert toy.held == {}


def test_a_stream_may_be_forgotten_in_the_middle_of_a_step(lm: LanguageModel, toy: ToyDecoder) -> None:
    # As the garbage collector does it: in whatever thread, at whatever moment.
    streams = [lm.stream("All", PARAMS)]
    next(streams[0])
    logits = toy.logits

    def collecting(ids: list[int]) -> np.ndarray:
        streams.clear()
        return logits(ids)

    toy.logits = collecting
    found = lm.generate("speak", PARAMS)
    assert len(found.token_ids) == 6
    assert toy.held == {}


def test_a_prompt_can_be_answered_while_streams_are_half_read(lm: LanguageModel) -> None:
    params = SamplingParams(max_tokens=15, seed=4, ignore_eos=True)
    expected = [lm.generate(prompt, params).token_ids for prompt in ("speak", "All", "hear")]
    first, second = lm.stream("speak", params), lm.stream("All", params)
    said = [[next(first).token_ids for _ in range(4)], [next(second).token_ids]]
    assert lm.generate("hear", params).token_ids == expected[2]
    said[1] += [piece.token_ids for piece in second]
    said[0] += [piece.token_ids for piece in first]
    assert [sum(one, ()) for one in said] == expected[:2]


# ---- threads


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """Run all at once; their results in order, or the first error."""
    results: list[Any] = [None] * len(works)

    def run(place: int, work: Callable[[], Any]) -> None:
        try:
            results[place] = work()
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            results[place] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_threads_that_generate_at_once_each_get_their_own_answers(lm: LanguageModel) -> None:
    jobs = [(f"speak {i}", SamplingParams(max_tokens=5 + i % 7, seed=i, n=1 + i % 3)) for i in range(12)]
    expected = [[c.token_ids for c in lm.generate(prompt, params).choices] for prompt, params in jobs]

    def work(prompt: str, params: SamplingParams, streamed: bool) -> list[tuple[int, ...]]:
        if not streamed:
            return [choice.token_ids for choice in lm.generate([prompt], params)[0].choices]
        pieces = list(lm.stream(prompt, params))
        return [sum((p.token_ids for p in pieces if p.index == i), ()) for i in range(params.n)]

    found = in_threads(*(lambda j=job, s=i % 2 == 0: work(*j, s) for i, job in enumerate(jobs)))
    assert found == expected


def test_threads_over_the_real_decoder_get_the_bits_they_get_alone() -> None:
    lm = LanguageModel(reference_decoder(tiny_config()), TOKENIZER)
    params = SamplingParams(max_tokens=10, seed=3, logprobs=3)
    prompts = ["speak", "All", "hear me"]
    expected = [lm.generate(prompt, params).choices for prompt in prompts]
    assert in_threads(*(lambda p=p: lm.generate(p, params).choices for p in prompts)) == expected


def test_no_thread_waits_until_another_is_done(lm: LanguageModel, toy: ToyDecoder) -> None:
    long, order, begun = SamplingParams(max_tokens=60, seed=1, ignore_eos=True), [], threading.Event()
    logits = toy.logits

    def slow(ids: list[int]) -> np.ndarray:
        if len(ids) > 3:
            begun.set()
        time.sleep(0.002)  # as a real decoder does, it lets other threads run
        return logits(ids)

    toy.logits = slow

    def first() -> None:
        for _ in lm.stream([1], long):
            order.append(1)

    def second() -> None:
        begun.wait(60)
        for _ in lm.stream([2], SamplingParams(max_tokens=5, seed=1, ignore_eos=True)):
            order.append(2)

    in_threads(first, second)
    assert len(order) == 65
    last = 64 - order[::-1].index(2)
    assert last < 40  # the short one was done long before the long one


def test_closing_ends_streams_and_tells_those_who_wait(lm: LanguageModel, toy: ToyDecoder) -> None:
    params = SamplingParams(max_tokens=40, seed=1, ignore_eos=True)
    stream = lm.stream("speak", params)
    next(stream)
    lm.close()
    assert list(stream) == []
    assert toy.held == {}
    started, closed = threading.Event(), threading.Event()
    logits = toy.logits

    def waiting(ids: list[int]) -> np.ndarray:
        started.set()
        closed.wait(0.01)
        return logits(ids)

    toy.logits = waiting

    def close() -> None:
        started.wait(60)
        lm.close()
        closed.set()

    with pytest.raises(DecoderError, match="toy was closed before the answer was complete"):
        in_threads(lambda: lm.generate("speak", params), close)
    assert len(lm.generate("speak", PARAMS).token_ids) == 6  # and may be used again


def test_as_a_context_it_closes_itself(toy: ToyDecoder) -> None:
    with LanguageModel(toy, TOKENIZER) as lm:
        stream = lm.stream("speak", PARAMS)
        next(stream)
    assert toy.held == {}
    assert list(stream) == []
