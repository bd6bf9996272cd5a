"""Drafts from the text itself: the same tokens in fewer steps."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
from tiny_models import TOKENIZER, VOCABULARY, ToyDecoder, answer, finish, logits_of, script, tiny_config

from gptwo.engine import Completion, Engine, Piece
from gptwo.engine.speculation import LONGEST_PAUSE, Speculator
from gptwo.errors import InvalidRequestError
from gptwo.sampling import BeamParams, SamplingParams

CONFIG = tiny_config(n_positions=500)
ROUND = [5, 6, 7, 8, 9] * 60


def settled(text: list[int], speculator: Speculator, start: int = 1) -> int:
    """The steps that a text takes with its speculator."""
    length, steps = start, 0
    while length < len(text):
        drafts = speculator.draft(text[:length], len(text) - length - 1)
        right = 0
        while right < len(drafts) and drafts[right] == text[length + right]:
            right += 1
        if drafts:
            speculator.settle(len(drafts), right, length + right + 1)
        length += right + 1
        steps += 1
    return steps


# ---- the drafts


def test_what_followed_the_last_tokens_before_is_the_draft() -> None:
    assert Speculator(3).draft([1, 2, 3, 4, 5, 9, 1, 2, 3], 10) == [4, 5, 9]
    assert Speculator(3).draft([1, 2, 3, 4, 5, 9, 1, 2, 3], 2) == [4, 5]
    assert Speculator(3).draft([1, 2, 3, 4, 5, 9, 1, 2, 3], 0) == []
    assert Speculator(3).draft([1, 2, 3, 4, 5], 10) == []
    assert Speculator(3).draft([1], 10) == []


def test_a_text_that_goes_round_in_circles_is_drafted_as_going_on_so() -> None:
    assert Speculator(4).draft([1, 2, 3, 1, 2], 10) == [3, 1, 2, 3]
    assert Speculator(4).draft([7, 7, 7], 10) == [7, 7, 7, 7]


def test_the_longest_run_counts_and_of_equal_ones_the_latest() -> None:
    assert Speculator(1).draft([1, 2, 3, 4, 8, 3, 4, 9, 1, 2, 3, 4], 10) == [8]
    assert Speculator(1).draft([3, 4, 8, 0, 3, 4, 9, 0, 3, 4], 10) == [9]


def test_drafts_grow_while_they_are_right() -> None:
    speculator = Speculator(64)
    text = ROUND[:200]
    assert settled(text, speculator) < 20
    assert speculator.draft(text, 100) == (ROUND * 2)[200:264]


def test_drafts_that_are_wrong_stop_and_are_tried_again_later() -> None:
    draw = random.Random(0)
    # Every pair occurs often and is followed by anything.
    text = [draw.randrange(4) for _ in range(3000)]
    speculator = Speculator(8)
    tried: list[int] = []
    for length in range(1, len(text)):
        drafts = speculator.draft(text[:length], 8)
        if drafts:
            tried.append(length)
            speculator.settle(len(drafts), 0, length + 1)
    pauses = np.diff(tried)
    assert len(tried) < 25
    assert pauses.max() >= LONGEST_PAUSE
    # Once they are right again, they come as often as at first.
    assert settled(ROUND, speculator) < len(ROUND)
    assert settled(ROUND * 8, Speculator(8)) < len(ROUND) * 8 / 6


# ---- in the engine


def both(prompt: list[int], params: SamplingParams, decoder: ToyDecoder | None = None) -> tuple[Any, Any, Any]:
    """The completion with and without drafts, and what was counted."""
    made = []
    for speculate in (params.speculate, 0):
        engine = Engine(ToyDecoder(CONFIG) if decoder is None else decoder, TOKENIZER)
        wanted = dataclasses.replace(params, speculate=speculate)
        made.append((answer(engine, engine.add(prompt, wanted)), engine.statistics))
    return made[0][0], made[1][0], made[0][1]


def test_a_text_that_repeats_itself_takes_few_steps_and_says_the_same() -> None:
    decoder = ToyDecoder(CONFIG, script(ROUND))
    engine = Engine(decoder, TOKENIZER)
    request = engine.add([0], SamplingParams(max_tokens=200, temperature=0, seed=1, speculate=8, logprobs=1))
    events = finish(engine)
    assert 200 / 9 < len(decoder.batches) < 45
    pieces = [event for event in events if isinstance(event, Piece)]
    assert len(pieces) == 200  # each token comes by itself
    assert [token for piece in pieces for token in piece.token_ids] == ROUND[:200]
    plain = Engine(ToyDecoder(CONFIG, script(ROUND)), TOKENIZER)
    (completion,) = [event for event in events if isinstance(event, Completion)]
    assert completion.request_id == request
    assert completion == answer(
        plain, plain.add([0], SamplingParams(max_tokens=200, temperature=0, seed=1, logprobs=1))
    )
    statistics = engine.statistics
    assert statistics.accepted_tokens == 200 - len(decoder.batches)
    assert statistics.drafted_tokens >= statistics.accepted_tokens
    assert {tokens for batch in decoder.batches for _, _, tokens in batch} <= set(range(1, 10))


def drawn_logits(ids: list[int]) -> np.ndarray:
    """Logits of a text that often repeats what it said, and sometimes does not."""
    logits = logits_of(ids[-2:])
    logits[5 + len(ids) % 5] += 14.0
    return logits


@pytest.mark.parametrize("case", range(30))
def test_drafts_never_change_an_answer(case: int) -> None:
    draw = random.Random(case)
    length = draw.randint(1, 60)
    params = SamplingParams(
        n=draw.choice([1, 1, 3]),
        best_of=draw.choice([None, None, 4]),
        max_tokens=length,
        min_tokens=draw.choice([0, 0, length // 2]),
        temperature=draw.choice([0.0, 0.5, 1.0]),
        top_k=draw.choice([0, 5]),
        repetition_penalty=draw.choice([1.0, 1.0, 1.2]),
        presence_penalty=draw.choice([0.0, 0.0, 1.5]),
        no_repeat_ngram_size=draw.choice([0, 0, 4]),
        stop=draw.choice([(), (), "de", ("g", TOKENIZER.decode([8, 9, 5]))]),
        stop_token_ids=draw.choice([(), (9,), range(200, 290)]),
        include_stop_str_in_output=draw.random() < 0.5,
        logprobs=draw.choice([None, 0, 2]),
        prompt_logprobs=draw.choice([None, 0]),
        overflow=draw.choice(["error", "slide"]),
        seed=case,
        speculate=draw.choice([1, 2, 8, 64]),
    )
    decoder = ToyDecoder(tiny_config(n_positions=draw.choice([80, 500])), drawn_logits)
    found, plain, statistics = both(ROUND[: draw.randint(1, 20)], params, decoder)
    assert found == plain
    assert statistics.accepted_tokens <= statistics.drafted_tokens


def test_the_drafts_of_those_cases_are_sometimes_right_and_sometimes_wrong() -> None:
    params = SamplingParams(max_tokens=60, temperature=0.5, seed=1, speculate=8, ignore_eos=True)
    _, _, statistics = both(ROUND[:20], params, ToyDecoder(CONFIG, drawn_logits))
    assert 5 < statistics.accepted_tokens < statistics.drafted_tokens


def test_drafts_reach_neither_past_the_last_token_nor_past_the_context() -> None:
    for positions, tokens in ((30, 25), (40, 25), (1000, 1), (1000, 2)):
        decoder = ToyDecoder(tiny_config(n_positions=positions), lambda ids: script(ROUND, prompt=5)(ids))
        params = SamplingParams(max_tokens=tokens, temperature=0, seed=1, speculate=64)
        found, plain, _ = both(ROUND[:5], params, decoder)
        assert found == plain
        assert len(found.token_ids) == tokens
        for batch in decoder.batches[1:]:
            for _, position, count in batch:
                assert position + count < 5 + tokens


def test_many_texts_at_once_leave_no_room_for_drafts() -> None:
    decoder = ToyDecoder(CONFIG, script(ROUND))
    engine = Engine(decoder, TOKENIZER)
    for _ in range(14):
        engine.add([0], SamplingParams(max_tokens=30, temperature=0, seed=1, speculate=8))
    finish(engine)
    assert max(sum(tokens for _, _, tokens in batch) for batch in decoder.batches) <= 16
    assert engine.statistics.drafted_tokens > 0


def test_beam_search_has_no_drafts_and_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="BeamParams has no parameter 'speculate'"):
        BeamParams(speculate=3)  # type: ignore[call-arg]


def test_cancelling_between_drafts_frees_everything() -> None:
    for steps in range(10):
        decoder = ToyDecoder(CONFIG, script(ROUND))
        engine = Engine(decoder, TOKENIZER, prefix_blocks=0)
        request = engine.add([0], SamplingParams(max_tokens=100, temperature=0, seed=1, speculate=8, n=2))
        for _ in range(steps):
            engine.step()
        engine.cancel(request)
        assert decoder.held == {}


def test_the_end_of_text_in_a_draft_ends_the_text() -> None:
    end = VOCABULARY - 1
    said = [5, 6, 7, end]
    decoder = ToyDecoder(CONFIG, script([5, 6, 7, end, 5, 6, 7], prompt=9))
    prompt = [0, 5, 6, 7, end, 1, 2, 3, 4]
    found, plain, statistics = both(prompt, SamplingParams(max_tokens=20, temperature=0, seed=1, speculate=8), decoder)
    assert list(found.token_ids) == said
    assert found == plain
    assert statistics.accepted_tokens > 0
