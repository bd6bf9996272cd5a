"""The reference decoder keeps the protocol: what it holds, what it refuses, and the same bits in any batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_checkpoint import write_directory
from tiny_models import random_arrays, reference_decoder, tiny_config

from gptwo.checkpoint import load_checkpoint
from gptwo.decoder import open_decoder
from gptwo.decoder.reference import ReferenceDecoder
from gptwo.errors import DecoderError, InvalidRequestError, MissingDependencyError, NumericalError
from gptwo.model import GPT2

CONFIG = tiny_config(n_positions=16)


@pytest.fixture
def decoder() -> ReferenceDecoder:
    return reference_decoder(CONFIG)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def forward(decoder: ReferenceDecoder, *spans: tuple[int, Sequence[int]], rows: Sequence[int] | None = None) -> Any:
    """Append tokens to sequences; the logits of all rows, or of those wanted."""
    columns: list[list[int]] = [[], [], []]
    for sequence, ids in spans:
        held = decoder.length(sequence)
        columns[0] += ids
        columns[1] += [sequence] * len(ids)
        columns[2] += range(held, held + len(ids))
    wanted = range(len(columns[0])) if rows is None else rows
    return decoder.forward(*(np.array(column, dtype=np.int64) for column in [*columns, list(wanted)]))


def test_its_logits_are_those_of_the_model(decoder: ReferenceDecoder) -> None:
    ids = [5, 6, 7, 8, 9]
    model = GPT2.from_arrays(CONFIG, random_arrays(CONFIG))
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    found = forward(decoder, (decoder.open(), ids))
    assert found.dtype == np.float32
    assert found.shape == (5, CONFIG.vocab_size)
    assert_array_equal(found, expected)


@pytest.mark.parametrize("cuts", [[1], [2, 3], [1, 2, 3, 4, 5]])
def test_tokens_may_come_in_any_number_of_passes(decoder: ReferenceDecoder, cuts: list[int]) -> None:
    ids = [5, 6, 7, 8, 9, 10]
    whole = forward(decoder, (decoder.open(), ids))
    sequence = decoder.open()
    parts = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, 6], strict=True)]
    found = np.concatenate([forward(decoder, (sequence, part)) for part in parts])
    assert decoder.length(sequence) == 6
    assert_allclose(found, whole, atol=1e-5)


def test_in_a_ragged_batch_each_sequence_has_the_bits_it_has_alone(decoder: ReferenceDecoder) -> None:
    texts = [[5], [6, 7, 8], [9, 10], [5, 6]]
    apart = [forward(decoder, (decoder.open(), ids)) for ids in texts]
    together = forward(decoder, *((decoder.open(), ids) for ids in texts))
    assert_array_equal(together, np.concatenate(apart))


def test_only_the_rows_that_are_wanted_come_and_all_tokens_are_kept(decoder: ReferenceDecoder) -> None:
    one, other, silent = decoder.open(), decoder.open(), decoder.open()
    spans = [(one, [5, 6, 7]), (silent, [8]), (other, [9, 10])]
    found = forward(decoder, *spans, rows=[1, 2, 5])
    every = forward(decoder, *((decoder.open(), ids) for _, ids in spans))
    assert_allclose(found, every[[1, 2, 5]], atol=1e-5)
    assert [decoder.length(sequence) for sequence in (one, silent, other)] == [3, 1, 2]
    assert forward(decoder, (one, [1]), rows=[]).shape == (0, CONFIG.vocab_size)
    assert decoder.length(one) == 4


def test_a_batch_of_nothing_is_none(decoder: ReferenceDecoder) -> None:
    assert forward(decoder).shape == (0, CONFIG.vocab_size)


def test_it_reads_its_arguments_and_does_not_change_or_keep_them(decoder: ReferenceDecoder) -> None:
    sequence = decoder.open()
    columns = [np.array(c, dtype=np.int64) for c in ([5, 6], [sequence, sequence], [0, 1], [1])]
    for column in columns:
        column.setflags(write=False)
    found = decoder.forward(*columns)
    again = decoder.open()
    assert_array_equal(forward(decoder, (again, [5, 6]), rows=[1]), found)


def test_a_fork_goes_on_from_the_same_past_and_neither_sees_the_other(decoder: ReferenceDecoder) -> None:
    parent = decoder.open()
    forward(decoder, (parent, [5, 6, 7]))
    child = decoder.fork(parent)
    assert decoder.length(child) == 3
    of_child = forward(decoder, (child, [8, 9]))
    of_parent = forward(decoder, (parent, [10]))
    decoder.close(parent)
    last = forward(decoder, (child, [11]))
    plain = decoder.open()
    forward(decoder, (plain, [5, 6, 7]))
    assert_array_equal(forward(decoder, (decoder.fork(plain), [10])), of_parent)
    assert_array_equal(forward(decoder, (plain, [8, 9])), of_child)
    assert_array_equal(forward(decoder, (plain, [11])), last)
    assert decoder.length(decoder.fork(decoder.open())) == 0


def test_what_was_truncated_is_forgotten(decoder: ReferenceDecoder) -> None:
    sequence, plain = decoder.open(), decoder.open()
    forward(decoder, (sequence, [5, 6, 7, 8]))
    forward(decoder, (plain, [5, 6]))
    decoder.truncate(sequence, 2)
    assert decoder.length(sequence) == 2
    assert_allclose(forward(decoder, (sequence, [9])), forward(decoder, (plain, [9])), atol=1e-5)
    decoder.truncate(sequence, 0)
    decoder.truncate(sequence, 0)
    assert decoder.length(sequence) == 0
    assert_array_equal(forward(decoder, (sequence, [5, 6])), forward(decoder, (decoder.open(), [5, 6])))
    for length in (-1, 3):
        with pytest.raises(DecoderError, match=f"of 2 tokens to {length}"):
            decoder.truncate(sequence, length)


def test_a_sequence_that_is_not_open_is_refused_everywhere(decoder: ReferenceDecoder) -> None:
    closed = decoder.open()
    decoder.close(closed)
    for sequence in (closed, 99):
        for use in (decoder.close, decoder.fork, decoder.length, lambda s: decoder.truncate(s, 0)):
            with pytest.raises(DecoderError, match=f"sequence {sequence} is not open"):
                use(sequence)
    with pytest.raises(DecoderError, match="not open"):
        decoder.forward(*(np.array(column, dtype=np.int64) for column in ([5], [closed], [0], [0])))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([300], [0], [2], [0]), "token id 300 is out of range: the vocabulary has 300"),
        (([-1], [0], [2], [0]), "token id -1 is out of range"),
        (([5], [0], [1], [0]), "positions of sequence 0 must go on from 2"),
        (([5], [0], [3], [0]), "positions of sequence 0 must go on from 2"),
        (([5, 6], [0, 0], [2, 2], [0]), "must go on from 2"),
        (([5, 6, 7], [0, 1, 0], [2, 0, 3], [0]), "one sequence must lie together"),
        (([5], [0], [2], [1]), "rows must ascend within the 1 tokens"),
        (([5], [0], [2], [-1]), "rows must ascend"),
        (([5, 6], [0, 0], [2, 3], [1, 0]), "rows must ascend"),
        (([5, 6], [0, 0], [2, 3], [1, 1]), "rows must ascend"),
        (([], [], [], [0]), "rows must ascend within the 0 tokens"),
        (([5, 6], [0], [2], [0]), "2 token ids, 1 sequence numbers and 1 positions"),
        (([5, 6], [0, 7], [2, 0], [0]), "sequence 7 is not open"),
        (([5] * 15, [0] * 15, list(range(2, 17)), [0]), "would reach position 16; the model has 16 positions"),
    ],
)
def test_a_batch_that_breaks_the_protocol_is_refused_and_changes_nothing(
    decoder: ReferenceDecoder, columns: tuple[list[int], ...], message: str
) -> None:
    sequences = decoder.open(), decoder.open()
    assert sequences == (0, 1)
    forward(decoder, (0, [5, 6]))
    with pytest.raises(DecoderError, match=message):
        decoder.forward(*(np.array(column, dtype=np.int64) for column in columns))
    assert (decoder.length(0), decoder.length(1)) == (2, 0)
    plain = decoder.open()
    forward(decoder, (plain, [5, 6]))
    assert_array_equal(forward(decoder, (0, [7])), forward(decoder, (plain, [7])))


def test_every_position_can_be_used(decoder: ReferenceDecoder) -> None:
    sequence = decoder.open()
    assert forward(decoder, (sequence, [5] * 16)).shape == (16, CONFIG.vocab_size)
    with pytest.raises(DecoderError, match="position 16"):
        forward(decoder, (sequence, [5]))
    assert decoder.length(sequence) == 16


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_an_error_and_change_nothing(value: float, tmp_path: Path) -> None:
    arrays = random_arrays(CONFIG)
    arrays["wte.weight"][7] = value  # read by token 7, and by every row of logits
    checkpoint = load_checkpoint(write_directory(tmp_path / "model", arrays, CONFIG))
    decoder = open_decoder(checkpoint, backend="reference", threads=1)
    sequence = decoder.open()
    with pytest.raises(NumericalError, match="the weights hold NaN, infinite or far too large values"):
        forward(decoder, (sequence, [5, 7]))  # type: ignore[arg-type]
    assert decoder.length(sequence) == 0


def test_bf16_weights_are_near_to_f32_and_have_their_own_bits() -> None:
    plain, half = (reference_decoder(CONFIG, deviation=0.05, weights=weights) for weights in ("f32", "bf16"))
    rows = [forward(decoder, (decoder.open(), [5, 6, 7])) for decoder in (plain, half)]
    assert rows[1].dtype == np.float32
    assert not np.array_equal(*rows)
    assert_allclose(rows[1], rows[0], atol=0.05)


def test_threads_are_set_and_the_bits_stay(threads: None) -> None:
    rows = []
    for count in (1, 2):
        decoder = reference_decoder(CONFIG, threads=count)
        assert torch.get_num_threads() == count
        rows.append(forward(decoder, (decoder.open(), [5, 6, 7])))
    assert_array_equal(*rows)


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"backend": "refernce"}, "backend", "backend 'refernce' is not known; did you mean 'reference'"),
        ({"weights": "f16"}, "weights", "weights 'f16' is not known; did you mean 'bf16'"),
        ({"weights": None}, "weights", "weights None is not known"),
        ({"threads": 0}, "threads", "threads is 0, expected an integer from 1"),
        ({"threads": True}, "threads", "threads is True"),
        ({"threads": 10**5000}, "threads", "threads is an integer of over 40 digits"),
        ({"device": "nowhere"}, "device", "device 'nowhere' cannot be used"),
        ({"device": "cuda:97"}, "device", "device 'cuda:97' cannot be used"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, Any], param: str, message: str) -> None:
    checkpoint = load_checkpoint(write_directory(tmp_path / "model", random_arrays(CONFIG), CONFIG))
    with pytest.raises(InvalidRequestError, match=message) as caught:
        open_decoder(checkpoint, **options)
    assert caught.value.param == param
    assert "\n" not in str(caught.value)


def test_without_pytorch_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(write_directory(tmp_path / "model", random_arrays(CONFIG), CONFIG))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[torch\]'"):
        open_decoder(checkpoint, backend="reference")
