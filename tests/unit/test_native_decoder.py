"""The compiled core behind the decoder protocol: its order, its errors, its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from random_model import all_logits, feed, native, random_arrays, stored, tiny_config

from gptwo.decoder import native as native_module
from gptwo.decoder.native import NativeDecoder
from gptwo.errors import CheckpointError, DecoderError, InvalidRequestError, NumericalError

CONFIG = tiny_config()
ARRAYS = random_arrays(CONFIG)


@pytest.fixture
def decoder():
    return native(CONFIG, ARRAYS)


def call(decoder, tokens, sequence, positions, rows):
    return decoder.forward(*(np.asarray(a, np.int64) for a in (tokens, sequence, positions, rows)))


def test_a_sequence_grows_by_what_it_is_fed_and_shrinks_by_truncation(decoder):
    sequence = decoder.open()
    assert decoder.length(sequence) == 0
    assert feed(decoder, sequence, range(10), rows=[9]).shape == (1, CONFIG.vocab_size)
    assert decoder.length(sequence) == 10
    decoder.truncate(sequence, 4)
    assert decoder.length(sequence) == 4
    decoder.close(sequence)


def test_a_batch_without_wanted_rows_or_without_tokens_gives_no_logits(decoder):
    sequence = decoder.open()
    assert feed(decoder, sequence, [1, 2, 3], rows=[]).shape == (0, CONFIG.vocab_size)
    assert decoder.length(sequence) == 3
    assert call(decoder, [], [], [], []).shape == (0, CONFIG.vocab_size)


@pytest.mark.parametrize("operation", ["close", "fork", "length"])
@pytest.mark.parametrize("sequence", [0, 7, -1])
def test_a_closed_or_unknown_sequence_is_refused(decoder, operation, sequence):
    decoder.close(decoder.open())
    with pytest.raises(DecoderError, match=f"sequence {sequence} is not open"):
        getattr(decoder, operation)(sequence)
    with pytest.raises(DecoderError, match="is not open"):
        decoder.truncate(sequence, 0)
    with pytest.raises(DecoderError, match="is not open"):
        call(decoder, [1], [sequence], [0], [0])


@pytest.mark.parametrize(
    ("tokens", "positions", "rows", "message"),
    [
        ([61], [3], [0], "token id 61 is out of range: the vocabulary has 61"),
        ([-1], [3], [0], "token id -1 is out of range"),
        ([2**62], [3], [0], "out of range"),
        ([1], [4], [0], "must go on from 3"),
        ([1], [0], [0], "must go on from 3"),
        ([1, 2], [3, 3], [0], "must go on from 3"),
        ([1], [3], [1], "rows must ascend"),
        ([1], [3], [-1], "rows must ascend"),
        ([1, 2], [3, 4], [1, 0], "rows must ascend"),
        ([1, 2], [3, 4], [1, 1], "rows must ascend"),
        ([1] * 158, list(range(3, 161)), [0], "would reach position 160; the model has 160 positions"),
        ([1, 2], [3], [0], "2 token ids, 1 sequence numbers and 1 positions"),
    ],
)
def test_a_batch_that_breaks_the_protocol_is_refused_and_changes_nothing(decoder, tokens, positions, rows, message):
    sequence = decoder.open()
    feed(decoder, sequence, [1, 2, 3])
    with pytest.raises(DecoderError, match=message):
        call(decoder, tokens, [sequence] * len(positions), positions, rows)
    assert decoder.length(sequence) == 3
    assert_array_equal(feed(decoder, sequence, [4]), all_logits(decoder, [1, 2, 3, 4])[-1:])


def test_tokens_of_one_sequence_in_two_places_are_refused(decoder):
    one, other = decoder.open(), decoder.open()
    with pytest.raises(DecoderError, match="must lie together"):
        call(decoder, [1, 2, 3], [one, other, one], [0, 0, 1], [0])
    assert decoder.length(one) == decoder.length(other) == 0


@pytest.mark.parametrize("length", [-1, 4])
def test_truncating_to_more_than_there_is_is_refused(decoder, length):
    sequence = decoder.open()
    feed(decoder, sequence, [1, 2, 3])
    with pytest.raises(DecoderError, match=f"cannot truncate sequence {sequence} of 3 tokens to {length}"):
        decoder.truncate(sequence, length)


@pytest.mark.parametrize("weights", ["f32", "bf16", "int8", "int4"])
@pytest.mark.parametrize(
    "name", ["wte.weight", "h.1.mlp.c_fc.weight", "h.0.attn.c_attn.bias", "ln_f.weight", "wpe.weight"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(weights, name, value):
    arrays = {key: array.copy() for key, array in ARRAYS.items()}
    arrays[name].flat[-1] = value
    with pytest.raises(NumericalError, match=f"tensor {name}"):
        native(CONFIG, arrays, weights)


def test_weights_too_large_for_four_bits_are_refused():
    arrays = ARRAYS | {"h.0.mlp.c_fc.weight": ARRAYS["h.0.mlp.c_fc.weight"] * np.float32(1e7)}
    with pytest.raises(NumericalError, match="too large for int4"):
        native(CONFIG, arrays, "int4")


@pytest.mark.parametrize("weights", ["f32", "bf16", "int8"])
def test_logits_that_are_not_finite_are_an_error_and_change_nothing(weights):
    arrays = ARRAYS | {"h.0.mlp.c_fc.weight": ARRAYS["h.0.mlp.c_fc.weight"] * np.float32(1e38)}
    decoder = native(CONFIG.replace(activation_function="relu"), arrays, weights)
    sequence = decoder.open()
    with pytest.raises(NumericalError, match="not finite"):
        feed(decoder, sequence, [1, 2, 3])
    assert decoder.length(sequence) == 0
    assert decoder.cache_blocks == 0


def test_forks_share_blocks_until_they_differ(decoder):
    trunk = decoder.open()
    feed(decoder, trunk, [1] * 100)
    assert decoder.cache_blocks == 2
    branches = [decoder.fork(trunk) for _ in range(5)]
    assert decoder.cache_blocks == 2
    feed(decoder, branches[0], [2])
    assert decoder.cache_blocks == 3  # its own copy of the second block
    decoder.truncate(branches[1], 64)
    feed(decoder, branches[1], [2])
    assert decoder.cache_blocks == 4
    decoder.close(trunk)
    for branch in branches:
        decoder.close(branch)
    assert decoder.cache_blocks == 0


def test_a_thousand_sequences_leave_the_cache_empty(decoder):
    draw = np.random.default_rng(0)
    held: list[int] = []
    for _ in range(1000):
        action = draw.integers(0, 4)
        if action == 0 or not held:
            held.append(decoder.open())
        elif action == 1:
            held.append(decoder.fork(int(draw.choice(held))))
        elif action == 2:
            sequence = int(draw.choice(held))
            room = CONFIG.n_positions - decoder.length(sequence)
            feed(decoder, sequence, draw.integers(0, CONFIG.vocab_size, min(room, 40)), rows=[])
        else:
            decoder.close(held.pop(int(draw.integers(len(held)))))
    for sequence in held:
        decoder.close(sequence)
    assert decoder.cache_blocks == 0


def test_two_python_threads_may_use_two_decoders_and_one(decoder):
    other = native(CONFIG, ARRAYS, "int8")
    ids = list(range(60))
    expected = [all_logits(decoder, ids), all_logits(other, ids)]
    wrong: list[int] = []

    def run(which: int) -> None:
        for _ in range(30):
            if not np.array_equal(all_logits((decoder, other)[which], ids), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=run, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FORKED = """
import os, sys
sys.path.insert(0, {tests!r})
import numpy as np
from random_model import all_logits, native, random_arrays, tiny_config
decoder = native(tiny_config(), random_arrays(tiny_config()), threads=3)
before = all_logits(decoder, range(50))
child = os.fork()
same = np.array_equal(all_logits(decoder, range(50)), before)
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_gets_threads_of_its_own():
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", FORKED.format(tests=tests)], check=True, timeout=120)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1e3", "99999999999"])
def test_a_wrong_number_of_threads_in_the_environment_is_an_error(monkeypatch, value):
    monkeypatch.setenv("GPTWO_THREADS", value)
    with pytest.raises(InvalidRequestError, match="GPTWO_THREADS"):
        native(CONFIG, ARRAYS)


def test_the_environment_sets_threads_and_instruction_set(monkeypatch):
    monkeypatch.setenv("GPTWO_THREADS", "3")
    monkeypatch.setenv("GPTWO_ISA", "portable")
    decoder = native(CONFIG, ARRAYS)
    assert (decoder.threads, decoder.tier) == (3, "portable")
    monkeypatch.setenv("GPTWO_ISA", "portabel")
    with pytest.raises(InvalidRequestError, match="this machine has: portable"):
        native(CONFIG, ARRAYS)


def test_a_missing_tensor_is_named():
    arrays = {name: array for name, array in ARRAYS.items() if name != "h.1.ln_2.bias"}
    with pytest.raises(CheckpointError, match=r"h\.1\.ln_2\.bias is missing"):
        NativeDecoder(CONFIG, stored(arrays))


def test_the_formats_take_the_memory_that_they_promise():
    config = tiny_config(vocab_size=512, n_embd=256, n_head=4)
    arrays = random_arrays(config)
    size = {w: native(config, arrays, w).weight_bytes for w in native_module.FORMATS}
    matrices = (config.vocab_size * 256 + config.n_layer * 12 * 256 * 256) * 4
    rest = size["f32"] - matrices
    assert size["bf16"] - rest == matrices / 2
    assert size["int8"] - rest == matrices / 4 * (1 + 4 / 64)
    assert size["int4"] - rest < matrices * 0.19


@pytest.mark.parametrize("wrong", [[1.7], [2**63], [[1]], ["a"]])
def test_token_ids_that_are_no_row_of_integers_are_refused(wrong):
    decoder = native(tiny_config(), random_arrays(tiny_config()))
    sequence = decoder.open()
    with pytest.raises(DecoderError, match="token ids must be a row of 64-bit integers"):
        decoder.forward(wrong, [sequence], [0], [0])
    assert decoder.length(sequence) == 0
