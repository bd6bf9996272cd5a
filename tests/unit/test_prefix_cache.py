"""Requests that begin like an earlier text go on from what is held of it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tiny_models import TOKENIZER, ToyDecoder, answer, finish, tiny_config

from gptwo.engine import Completion, Engine
from gptwo.engine.prefix_cache import BLOCK, PrefixCache
from gptwo.language_model import LanguageModel
from gptwo.sampling import BeamParams, SamplingParams

CONFIG = tiny_config(n_positions=1000)
TEXT = [n * 7 % 290 for n in range(400)]
GREEDY = SamplingParams(max_tokens=1, temperature=0, seed=1, ignore_eos=True)


def make_engine(**options: int) -> tuple[Engine, ToyDecoder]:
    decoder = ToyDecoder(CONFIG)
    return Engine(decoder, TOKENIZER, **options), decoder


def computed(engine: Engine, prompt: list[int], params: SamplingParams | BeamParams = GREEDY) -> int:
    """How many tokens of a prompt were computed to answer it."""
    before = engine.statistics.computed_tokens
    answer(engine, engine.add(prompt, params))
    return engine.statistics.computed_tokens - before


def hold(decoder: ToyDecoder, ids: list[int]) -> int:
    """A sequence of the decoder with these tokens."""
    handle = decoder.open()
    decoder.held[handle] = list(ids)
    return handle


# ---- the table of blocks


def test_blocks_are_found_up_to_the_first_that_differs_and_never_all_of_a_text() -> None:
    decoder = ToyDecoder(CONFIG)
    cache = PrefixCache(decoder, 100)
    cache.keep(hold(decoder, TEXT[:300]), 300, TEXT[:300], [])
    assert len(cache) == 4
    changed = [*TEXT[:150], 299, *TEXT[151:300]]
    lengths = {64: 0, 65: 1, 128: 1, 129: 2, 256: 3, 257: 4, 300: 4}
    assert {length: len(cache.find(TEXT[:length])) for length in lengths} == lengths
    assert len(cache.find(changed)) == 2
    assert len(cache.find(TEXT[BLOCK:])) == 0  # the same tokens, but not behind the same ones
    for number, block in enumerate(cache.find(TEXT), 1):
        assert decoder.held[block.handle] == TEXT[: number * BLOCK]


def test_blocks_with_the_same_hash_are_told_apart_by_their_tokens() -> None:
    # Python's hash of -1 is that of -2, and a tuple's follows from those of its items.
    one, other = [-1] * BLOCK, [-2] * BLOCK
    assert hash(tuple(one)) == hash(tuple(other))
    decoder = ToyDecoder(CONFIG)
    cache = PrefixCache(decoder, 100)
    cache.keep(hold(decoder, one), BLOCK, one, [])
    assert len(cache.find([*one, 1])) == 1
    assert len(cache.find([*other, 1])) == 0


def test_what_was_not_used_for_longest_goes_first_and_the_end_of_a_text_before_its_beginning() -> None:
    decoder = ToyDecoder(CONFIG)
    cache = PrefixCache(decoder, 5)
    texts = [[n] * 200 for n in range(4)]
    for text in texts[:2]:
        cache.keep(hold(decoder, text), 192 if text is texts[0] else 128, text, [])
    cache.find(texts[0])
    cache.keep(hold(decoder, texts[2]), 64, texts[2], [])
    assert [len(cache.find(text)) for text in texts] == [3, 1, 1, 0]
    cache.keep(hold(decoder, texts[3]), 192, texts[3], [])
    assert [len(cache.find(text)) for text in texts] == [0, 1, 1, 3]


def test_a_text_longer_than_the_budget_has_its_beginning_held() -> None:
    decoder = ToyDecoder(CONFIG)
    cache = PrefixCache(decoder, 3)
    blocks: list[Any] = []
    cache.keep(hold(decoder, TEXT), 400, TEXT, blocks)
    assert [block.number for block in blocks] == [1, 2, 3]
    assert cache.find(TEXT) == blocks


def test_blocks_that_were_dropped_meanwhile_are_held_again() -> None:
    decoder = ToyDecoder(CONFIG)
    cache = PrefixCache(decoder, 4)
    handle, blocks = hold(decoder, TEXT[:130]), []
    cache.keep(handle, 130, TEXT, blocks)
    cache.keep(hold(decoder, [5] * 192), 192, [5] * 192, [])
    assert len(cache.find(TEXT)) == 1
    decoder.held[handle] = TEXT[:192]
    cache.keep(handle, 192, TEXT, blocks)
    assert cache.find(TEXT) == blocks
    assert [decoder.held[block.handle] for block in blocks] == [TEXT[:64], TEXT[:128], TEXT[:192]]


def test_what_is_behind_a_block_of_other_memory_is_not_held() -> None:
    decoder = ToyDecoder(CONFIG)
    cache = PrefixCache(decoder, 100)
    cache.keep(hold(decoder, TEXT[:64]), 64, TEXT, [])
    blocks: list[Any] = []
    cache.keep(hold(decoder, TEXT[:200]), 200, TEXT, blocks)
    assert blocks == []
    assert len(cache) == 1


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_kept_and_dropped_the_table_agrees_with_a_plain_list_of_texts(seed: int) -> None:
    draw = random.Random(seed)
    decoder = ToyDecoder(CONFIG)
    cache = PrefixCache(decoder, draw.choice([1, 3, 10, 1000]))
    most = cache._most_blocks
    for _ in range(200):
        ids = [token for _ in range(draw.randint(0, 5)) for token in [draw.randint(0, 1)] * BLOCK] + [7] * 10
        blocks = cache.find(ids)
        for number, block in enumerate(blocks, 1):
            assert decoder.held[block.handle] == ids[: number * BLOCK]
        if draw.random() < 0.7:
            handle = decoder.fork(blocks[-1].handle) if blocks else decoder.open()
            decoder.held[handle] = list(ids)
            cache.keep(handle, len(ids), ids, blocks)
            decoder.close(handle)
            assert len(blocks) == min(most, len(ids) // BLOCK)
        # One sequence for each block, and every block behind one that is held too.
        assert len(decoder.held) == len(cache) <= most
        held = [tuple(ids) for ids in decoder.held.values()]
        assert len(set(held)) == len(held)
        assert all(len(ids) == BLOCK or ids[:-BLOCK] in held for ids in held)
    cache.clear()
    assert decoder.held == {}


# ---- in the engine


def test_only_what_is_new_of_a_prompt_is_computed() -> None:
    engine, _ = make_engine()
    assert computed(engine, TEXT[:200]) == 200
    assert computed(engine, TEXT[:200]) == 200 - 192
    assert computed(engine, [*TEXT[:150], 1, 2, 3]) == 153 - 128
    assert computed(engine, TEXT[:192]) == 192 - 128  # the last token is always computed
    assert computed(engine, TEXT[1:200]) == 199
    assert computed(engine, TEXT[:300], BeamParams(num_beams=3, max_tokens=1)) == 300 - 192
    statistics = engine.statistics
    assert (statistics.prefix_lookups, statistics.prefix_hits, statistics.prefix_tokens) == (
        6,
        4,
        192 + 128 + 128 + 192,
    )


def test_what_was_generated_is_held_too() -> None:
    engine, _ = make_engine()
    params = SamplingParams(max_tokens=100, seed=1, ignore_eos=True)
    said = answer(engine, engine.add(TEXT[:100], params))
    assert computed(engine, [*TEXT[:100], *said.token_ids, 5]) == 201 - 192


def test_prompts_that_come_together_and_begin_alike_are_computed_once() -> None:
    engine, decoder = make_engine(chunk_tokens=100)
    prompts = [[*TEXT[:200], n] for n in range(5)]
    requests = [engine.add(prompt, GREEDY) for prompt in prompts]
    said = {e.request_id: e for e in finish(engine) if isinstance(e, Completion)}
    assert engine.statistics.computed_tokens == 201 + 4 * 9
    for request, prompt in zip(requests, prompts, strict=True):
        apart = Engine(ToyDecoder(CONFIG), TOKENIZER)
        assert said[request] == answer(apart, apart.add(prompt, GREEDY))
    engine.clear_prefixes()
    assert decoder.held == {}


def test_who_waits_for_a_beginning_that_is_cancelled_computes_it() -> None:
    engine, decoder = make_engine(chunk_tokens=10)
    first, second = (engine.add([*TEXT[:100], n], GREEDY) for n in (1, 2))
    for _ in range(3):
        engine.step()
    engine.cancel(first)
    assert len(answer(engine, second).token_ids) == 1
    engine.clear_prefixes()
    assert decoder.held == {}


def test_logits_of_the_whole_prompt_are_computed_and_neither_looked_up_nor_held() -> None:
    engine, decoder = make_engine()
    computed(engine, TEXT[:200])
    held = engine.prefix_blocks
    assert computed(engine, TEXT[:200], SamplingParams(max_tokens=1, prompt_logprobs=0)) == 200
    assert computed(engine, TEXT[200:], SamplingParams(max_tokens=1, prompt_logprobs=0)) == 200
    answer(engine, engine.add(TEXT, SamplingParams(max_tokens=0), keep_logits="all"))
    assert engine.prefix_blocks == held == 3
    assert len(decoder.held) == 3


def test_no_more_is_held_than_the_budget_and_nothing_after_clearing() -> None:
    for blocks in (0, 1, 2, 5):
        engine, decoder = make_engine(prefix_blocks=blocks)
        for n in range(5):
            answer(engine, engine.add([n] * 150, SamplingParams(max_tokens=2, n=2, seed=1)))
            assert len(decoder.held) == engine.prefix_blocks == min(blocks, 2 * n + 2)
        engine.clear_prefixes()
        assert decoder.held == {}
        assert engine.prefix_blocks == 0
        assert computed(engine, [4] * 150) == 150


def test_clearing_does_not_disturb_requests_under_way() -> None:
    engine, decoder = make_engine()
    wanted = answer(engine, engine.add(TEXT[:200], SamplingParams(max_tokens=80, seed=1)))
    engine.clear_prefixes()
    computed(engine, TEXT[:200])
    request = engine.add(TEXT[:200], SamplingParams(max_tokens=80, seed=1))
    for _ in range(3):
        engine.step()
    engine.clear_prefixes()
    assert answer(engine, request) == wanted
    engine.clear_prefixes()
    assert decoder.held == {}


def test_a_model_that_is_closed_holds_nothing() -> None:
    decoder = ToyDecoder(CONFIG)
    with LanguageModel(decoder, TOKENIZER) as lm:
        lm.generate(TEXT[:200], GREEDY)
        assert len(decoder.held) == 3
    assert decoder.held == {}


def test_by_default_as_much_is_held_as_256_mib_and_at_least_one_context() -> None:
    for width, layers, blocks in ((768, 12, 56), (1600, 48, 16)):
        config = tiny_config(n_embd=width, n_layer=layers, n_positions=1024)
        engine = Engine(ToyDecoder(config))
        assert engine._prefixes._most_blocks == blocks
