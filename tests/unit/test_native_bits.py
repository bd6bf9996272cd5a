"""The logits of a text are the same bits however it is computed."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from random_model import all_logits, feed, instruction_set, native, random_arrays, tiny_config

from gptwo import _native

FORMATS = ("f32", "bf16", "int8", "int4")
CONFIG = tiny_config()
ARRAYS = random_arrays(CONFIG)
# An outlier in the MLP's hidden layer, so that blocks with a second term occur.
ARRAYS["h.0.mlp.c_fc.bias"][5] = 60.0
THREADS = (1, 2, 4)
texts = st.lists(st.integers(0, CONFIG.vocab_size - 1), min_size=1, max_size=150)


@pytest.fixture(scope="module", params=FORMATS)
def decoder(request):
    return native(CONFIG, ARRAYS, request.param, threads=2)


@pytest.fixture(scope="module", params=FORMATS)
def fleet(request):
    """The same model on every instruction set of this machine, with every number of threads."""
    made = {}
    for tier in _native.tiers():
        with instruction_set(tier):
            made |= {(tier, n): native(CONFIG, ARRAYS, request.param, threads=n) for n in THREADS}
    return made


@contextmanager
def closing_all(decoder):
    """A list; the sequences in it are closed at the end, also when Hypothesis gives an example up half-way."""
    opened: list[int] = []
    try:
        yield opened
    finally:
        for sequence in opened:
            decoder.close(sequence)


@settings(max_examples=25, deadline=None)
@given(batch=st.lists(texts, min_size=2, max_size=5), data=st.data())
def test_a_text_in_any_batch_and_any_chunks_says_what_it_says_alone(decoder, batch, data):
    alone = [all_logits(decoder, ids) for ids in batch]
    with closing_all(decoder) as opened:
        got = run_in_random_chunks(decoder, opened, batch, data)
    for expected, parts in zip(alone, got, strict=True):
        assert_array_equal(np.concatenate(parts), expected)
    assert decoder.cache_blocks == 0


def run_in_random_chunks(decoder, opened, batch, data):
    """The logits of each text, in the parts in which a random number of tokens of each text at a time gave them."""
    open_sequences = [decoder.open() for _ in batch]
    opened.extend(open_sequences)
    left = list(batch)
    got = [[] for _ in batch]
    while any(left):
        taken = [data.draw(st.integers(0, len(ids))) for ids in left]
        if not any(taken):
            taken = [len(ids) for ids in left]
        tokens = np.array([t for ids, n in zip(left, taken, strict=True) for t in ids[:n]], np.int64)
        sequence = np.repeat(open_sequences, taken)
        positions = np.concatenate(
            [np.arange(decoder.length(s), decoder.length(s) + n) for s, n in zip(open_sequences, taken, strict=True)]
        )
        logits = decoder.forward(tokens, sequence, positions, np.arange(len(tokens)))
        start = 0
        for i, n in enumerate(taken):
            got[i].append(logits[start : start + n])
            start += n
            left[i] = left[i][n:]
    return got


@settings(max_examples=15, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=4), data=st.data())
def test_any_batch_has_the_same_bits_on_any_instruction_set_and_number_of_threads(fleet, batch, data):
    expected = [all_logits(fleet["portable", 1], ids) for ids in batch]
    decoder = fleet[data.draw(st.sampled_from(list(fleet)))]
    with closing_all(decoder) as opened:
        got = run_in_random_chunks(decoder, opened, batch, data)
    for whole, parts in zip(expected, got, strict=True):
        assert_array_equal(np.concatenate(parts), whole)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_the_life_of_many_sequences_leaves_no_trace_in_their_bits(fleet, seed, data):
    """Steps, forks, truncations and closings in any order, on one decoder; each text is then run on another, alone."""
    decoder, other = (fleet[data.draw(st.sampled_from(list(fleet)))] for _ in range(2))
    draw = np.random.default_rng(seed)
    held: dict[int, list[int]] = {}  # the text of each open sequence
    last: dict[int, np.ndarray] = {}  # the logits of its last token, while they are known
    with closing_all(decoder) as opened:
        for _ in range(12):
            action = draw.integers(0, 4)
            if action == 0 or not held:
                opened.append(decoder.open())
                held[opened[-1]] = []
            elif action == 1:
                trunk = int(draw.choice(list(held)))
                opened.append(decoder.fork(trunk))
                held[opened[-1]] = list(held[trunk])
                if trunk in last:
                    last[opened[-1]] = last[trunk]
            elif action == 2:
                sequence = int(draw.choice(list(held)))
                held[sequence] = held[sequence][: draw.integers(0, len(held[sequence]) + 1)]
                decoder.truncate(sequence, len(held[sequence]))
                last.pop(sequence, None)
            step(decoder, draw, held, last)
        assert {s: decoder.length(s) for s in held} == {s: len(ids) for s, ids in held.items()}
    for sequence, logits in last.items():
        assert_array_equal(logits, all_logits(other, held[sequence])[-1])
    assert decoder.cache_blocks == 0


def step(decoder, draw, held, last):
    """Feed some of the sequences some tokens each, in one batch."""
    fed = [s for s in held if draw.integers(0, 2) and len(held[s]) < CONFIG.n_positions]
    if not fed:
        return
    counts = [int(draw.integers(1, min(40, CONFIG.n_positions - len(held[s])) + 1)) for s in fed]
    tokens = draw.integers(0, CONFIG.vocab_size, sum(counts))
    positions = np.concatenate([np.arange(len(held[s]), len(held[s]) + n) for s, n in zip(fed, counts, strict=True)])
    ends = np.cumsum(counts)
    logits = decoder.forward(tokens, np.repeat(fed, counts), positions, ends - 1)
    for sequence, row, start, end in zip(fed, logits, ends - counts, ends, strict=True):
        held[sequence] += tokens[start:end].tolist()
        last[sequence] = row


@settings(max_examples=15, deadline=None)
@given(ids=texts)
def test_a_text_token_by_token_says_what_it_says_at_once(decoder, ids):
    expected = all_logits(decoder, ids)
    sequence = decoder.open()
    got = np.concatenate([feed(decoder, sequence, [token]) for token in ids])
    decoder.close(sequence)
    assert_array_equal(got, expected)


@settings(max_examples=25, deadline=None)
@given(ids=texts, tails=st.lists(texts, min_size=1, max_size=4), data=st.data())
def test_forks_and_truncated_texts_go_on_as_if_they_had_always_been_alone(decoder, ids, tails, data):
    kept = [data.draw(st.integers(0, len(ids))) for _ in tails]
    ends = [tail[: CONFIG.n_positions - length] for tail, length in zip(tails, kept, strict=True)]
    with closing_all(decoder) as opened:
        trunk = decoder.open()
        opened.append(trunk)
        feed(decoder, trunk, ids)
        branches = [decoder.fork(trunk) for _ in tails]
        opened.extend(branches)
        for branch, length in zip(branches, kept, strict=True):
            decoder.truncate(branch, length)
        logits = decoder.forward(
            np.concatenate(ends),
            np.repeat(branches, [len(end) for end in ends]),
            np.concatenate([np.arange(n, n + len(end)) for n, end in zip(kept, ends, strict=True)]),
            np.arange(sum(len(end) for end in ends)),
        )
        start = 0
        for length, end in zip(kept, ends, strict=True):
            assert_array_equal(logits[start : start + len(end)], all_logits(decoder, ids[:length] + end)[length:])
            start += len(end)
        assert decoder.length(trunk) == len(ids)
        assert_array_equal(feed(decoder, trunk, [1]), all_logits(decoder, [*ids, 1])[-1:])
    assert decoder.cache_blocks == 0


@settings(max_examples=15, deadline=None)
@given(ids=texts, data=st.data())
def test_the_rows_that_are_asked_for_do_not_change_each_other(decoder, ids, data):
    rows = sorted(data.draw(st.sets(st.integers(0, len(ids) - 1))))
    sequence = decoder.open()
    got = feed(decoder, sequence, ids, rows)
    decoder.close(sequence)
    assert_array_equal(got, all_logits(decoder, ids)[rows])


@pytest.mark.parametrize("cache", ["f32", "bf16"])
@pytest.mark.parametrize("weights", FORMATS)
def test_threads_and_instruction_sets_do_not_change_the_bits(weights, cache):
    ids = np.random.default_rng(3).integers(0, CONFIG.vocab_size, CONFIG.n_positions)
    with instruction_set("portable"):
        expected = all_logits(native(CONFIG, ARRAYS, weights, cache=cache, threads=1), ids)
    assert expected.std() > 0.1
    for tier in _native.tiers():
        with instruction_set(tier):
            for threads in THREADS:
                assert_array_equal(
                    all_logits(native(CONFIG, ARRAYS, weights, cache=cache, threads=threads), ids), expected
                )


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh"])
@pytest.mark.parametrize("width", [6, 30, 144])
def test_every_activation_and_odd_widths_are_the_same_on_every_instruction_set(activation, width):
    config = tiny_config(
        n_embd=width, n_inner=width + 7, n_head=2, activation_function=activation, tie_word_embeddings=False
    )
    arrays = random_arrays(config, seed=width)
    arrays["h.0.mlp.c_fc.bias"] *= 100.0  # into the saturated ends
    ids = np.random.default_rng(4).integers(0, config.vocab_size, 70)
    for weights in FORMATS:
        with instruction_set("portable"):
            expected = all_logits(native(config, arrays, weights), ids)
        for tier in _native.tiers():
            with instruction_set(tier):
                assert_array_equal(all_logits(native(config, arrays, weights), ids), expected)


def test_a_long_batch_that_is_cut_into_slabs_has_the_same_bits(decoder):
    draw = np.random.default_rng(5)
    batch = [draw.integers(0, CONFIG.vocab_size, CONFIG.n_positions) for _ in range(7)]  # 1,120 tokens
    sequences = [decoder.open() for _ in batch]
    logits = decoder.forward(
        np.concatenate(batch),
        np.repeat(sequences, CONFIG.n_positions),
        np.tile(np.arange(CONFIG.n_positions), len(batch)),
        np.arange(len(batch) * CONFIG.n_positions),
    )
    for sequence in sequences:
        decoder.close(sequence)
    assert_array_equal(logits, np.concatenate([all_logits(decoder, ids) for ids in batch]))


def test_more_threads_than_this_machine_has_give_the_same_bits():
    ids = range(CONFIG.vocab_size)
    expected = all_logits(native(CONFIG, ARRAYS, "int8", threads=1), ids)
    assert_array_equal(all_logits(native(CONFIG, ARRAYS, "int8", threads=64), ids), expected)


def test_another_librarys_floating_point_settings_do_not_change_the_bits():
    torch = pytest.importorskip("torch", reason="needs PyTorch, to set the processor's flags")
    config = tiny_config(tie_word_embeddings=False)
    arrays = random_arrays(config)
    arrays["lm_head.weight"] *= np.float32(1e-40)  # subnormal numbers, which the flag would make zero
    ids = range(30)
    expected = all_logits(native(config, arrays, threads=2), ids)
    assert np.count_nonzero(expected) > expected.size / 2
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers to zero")
    try:
        assert_array_equal(all_logits(native(config, arrays, threads=2), ids), expected)
    finally:
        torch.set_flush_denormal(False)
