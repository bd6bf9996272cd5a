"""Which tokens a batch holds: each one a target once an epoch, whatever the sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gptwo.errors import DataError
from gptwo.training.batch import IGNORED, Batch
from gptwo.training.loader import BatchLoader, document_ids, validation_batches, validation_windows
from gptwo.training.shards import NOT_LEARNED, Shard, ShardHeader, write_shard
from gptwo.training.token_data import TokenData

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 100))

FIRST_STARTS = ([418, 368, 8, 808, 628, 238, 978, 28], [443, 123, 843, 763, 623, 413, 773, 683])


def data_of(count: int) -> TokenData:
    """Tokens 0, 1, 2, …: each says where it stands."""
    header = ShardHeader("uint16", count, max(count, 1), 2**16, "", "")
    return TokenData((Shard(Path("numbers.bin"), header, np.arange(count, dtype=np.uint16)),))


def loader_of(count: int, block_size: int, batch_size: int, seed: int = 0) -> BatchLoader:
    return BatchLoader(data_of(count), block_size=block_size, batch_size=batch_size, seed=seed)


def masked_data(learned: list[bool], end_of_text_id: int | None = None) -> TokenData:
    """Tokens 0, 1, 2, …, some of them not to be learned."""
    header = ShardHeader("uint32", len(learned), len(learned), 2**16, "", "", masked=True)
    tokens = np.arange(len(learned), dtype=np.uint32) + np.where(learned, 0, NOT_LEARNED).astype(np.uint32)
    return TokenData((Shard(Path("numbers.bin"), header, tokens),), end_of_text_id)


def assert_same(one: Batch, other: Batch) -> None:
    assert_array_equal(one.inputs, other.inputs)
    assert_array_equal(one.targets, other.targets)


def epoch_starts(loader: BatchLoader, epoch: int) -> list[int]:
    """Where the windows of an epoch begin, by batches of one."""
    assert loader.batch_size == 1
    first = epoch * loader.windows_per_epoch
    return [int(loader.batch(first + i).inputs[0, 0]) for i in range(loader.windows_per_epoch)]


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 2**63 - 1), st.integers(0, 50))
def test_targets_are_the_tokens_after_the_inputs(sizes: tuple[int, int, int], seed: int, number: int) -> None:
    block_size, batch_size, more = sizes
    batch = loader_of(block_size + more, block_size, batch_size, seed).batch(number)
    inputs, targets = batch.inputs, batch.targets
    assert batch.documents is None
    assert batch.target_count == batch_size * block_size
    assert inputs.shape == targets.shape == (batch_size, block_size)
    assert inputs.dtype == targets.dtype == np.int64
    assert_array_equal(targets, inputs + 1)
    assert_array_equal(np.diff(inputs, axis=1), np.ones((batch_size, block_size - 1)))


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 3))
def test_each_token_but_those_at_the_ends_is_a_target_once_an_epoch(sizes: tuple[int, int, int], epoch: int) -> None:
    block_size, _, more = sizes
    loader = loader_of(block_size + more, block_size, 1)
    starts = epoch_starts(loader, epoch)
    targets = sorted(start + 1 + i for start in starts for i in range(block_size))
    assert targets == list(range(targets[0], targets[0] + len(targets)))  # end to end, none twice
    assert targets[0] <= block_size + 1
    assert targets[-1] >= block_size + more - 2 * block_size
    assert targets[-1] < block_size + more


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 2**63 - 1), st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_a_batch_follows_from_the_seed_and_its_number_alone(
    sizes: tuple[int, int, int], seed: int, numbers: list[int]
) -> None:
    block_size, batch_size, more = sizes
    used = loader_of(block_size + more, block_size, batch_size, seed)
    for number in numbers:
        fresh = loader_of(block_size + more, block_size, batch_size, seed)
        assert_same(used.batch(number), fresh.batch(number))


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 4), st.integers(0, 10))
def test_small_batches_together_are_a_large_one(sizes: tuple[int, int, int], parts: int, number: int) -> None:
    block_size, batch_size, more = sizes
    small = loader_of(block_size + more, block_size, batch_size)
    large = loader_of(block_size + more, block_size, batch_size * parts)
    together = [small.batch(number * parts + part).inputs for part in range(parts)]
    assert_array_equal(np.concatenate(together), large.batch(number).inputs)


def test_windows_differ_between_epochs_and_seeds() -> None:
    loader = loader_of(2000, 10, 1)
    first, second = epoch_starts(loader, 0), epoch_starts(loader, 1)
    assert first != second
    assert sorted(first) != first
    assert first != epoch_starts(loader_of(2000, 10, 1, seed=1), 0)
    # Not the order alone: the windows begin elsewhere.
    assert len({epoch_starts(loader, epoch)[0] % 10 for epoch in range(30)}) > 5


def test_seeds_that_differ_only_beyond_32_bits_differ() -> None:
    assert epoch_starts(loader_of(2000, 10, 1, seed=7), 1) != epoch_starts(loader_of(2000, 10, 1, seed=2**32 + 7), 1)


def test_epochs_count_windows() -> None:
    loader = loader_of(101 + 10, 10, 4)
    assert loader.windows_per_epoch == 10
    assert loader.epochs(5) == 2.0


def test_data_of_one_window_is_enough() -> None:
    batch = loader_of(6, 5, 3).batch(7)
    assert_array_equal(batch.inputs, [[0, 1, 2, 3, 4]] * 3)
    assert_array_equal(batch.targets, [[1, 2, 3, 4, 5]] * 3)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_data_of_less_than_a_window_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=f"numbers.bin: has {count} tokens?, fewer than block_size \\+ 1 = 6"):
        loader_of(count, 5, 1)


def test_an_id_beyond_the_vocabulary_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write_shard(path, [[1] * 40], characters=40, vocab_size=300, tokenizer="")
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xff")
    loader = BatchLoader(TokenData.open([path]), block_size=38, batch_size=1, seed=0)
    with pytest.raises(DataError, match="token 39 is 65535") as caught:
        list(map(loader.batch, range(20)))  # the offset decides when it comes
    assert str(path) in str(caught.value)


def test_the_order_of_the_windows_is_that_of_earlier_versions() -> None:
    # Runs that were begun with them go on.
    loader = loader_of(1000, 10, 1, seed=2**40 + 3)
    assert epoch_starts(loader, 0)[:8] == FIRST_STARTS[0]
    assert epoch_starts(loader, 1)[:8] == FIRST_STARTS[1]


# ---- masks and documents


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(1, 8), st.integers(1, 3), st.integers(0, 9))
def test_a_target_is_ignored_where_it_is_not_to_be_learned_and_nowhere_else(
    learned: list[bool], block_size: int, batch_size: int, number: int
) -> None:
    data = masked_data(learned)
    batches = list(validation_batches(data, block_size=block_size, batch_size=batch_size))
    if len(learned) > block_size:
        batches.append(BatchLoader(data, block_size=block_size, batch_size=batch_size, seed=0).batch(number))
    for batch in batches:
        expected = np.where(np.array(learned)[batch.inputs + 1], batch.inputs + 1, IGNORED)
        assert_array_equal(batch.targets, expected)
        assert batch.target_count == (expected != IGNORED).sum()
        assert batch.targets.dtype == np.int64


def test_a_document_begins_at_the_end_of_text_before_it() -> None:
    inputs = np.array([[5, 9, 6, 7], [9, 5, 9, 6], [1, 2, 3, 9], [9, 9, 1, 9]])
    assert_array_equal(document_ids(inputs, 9), [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 2]])
    assert_array_equal(document_ids(inputs, None), np.zeros((4, 4)))
    assert document_ids(inputs, 9).dtype == np.int32


def test_documents_are_told_when_they_are_asked_for() -> None:
    data = TokenData(data_of(50).shards, end_of_text_id=20)
    loader = BatchLoader(data, block_size=48, batch_size=1, seed=0, documents=True)
    batch = loader.batch(0)
    assert batch.documents is not None
    assert_array_equal(batch.documents, (batch.inputs >= 20).astype(np.int32))
    for one in validation_batches(data, block_size=7, batch_size=2, documents=True):
        assert one.documents is not None
        assert one.documents.shape == one.inputs.shape


# ---- validation


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100), st.integers(1, 12), st.integers(1, 5))
def test_validation_covers_each_token_but_the_first_exactly_once(count: int, block_size: int, batch_size: int) -> None:
    batches = list(validation_batches(data_of(count), block_size=block_size, batch_size=batch_size))
    assert [int(t) for batch in batches for t in batch.targets.ravel()] == list(range(1, count))
    for batch in batches:
        inputs = batch.inputs
        assert_array_equal(batch.targets, inputs + 1)
        assert inputs.shape[0] <= batch_size
        assert inputs.shape[1] <= block_size
        assert inputs.dtype == np.int64


def test_the_last_validation_window_is_shorter_and_on_its_own() -> None:
    batches = list(validation_batches(data_of(6), block_size=2, batch_size=2))
    assert [batch.inputs.tolist() for batch in batches] == [[[0, 1], [2, 3]], [[4]]]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9))
def test_a_part_of_the_validation_data_is_whole_windows_at_even_distances(
    count: int, block_size: int, batch_size: int, most: int
) -> None:
    data = data_of(count)
    everything = list(validation_batches(data, block_size=block_size, batch_size=batch_size))
    batches = list(validation_batches(data, block_size=block_size, batch_size=batch_size, most=most))
    taken, there = validation_windows(data, block_size=block_size, batch_size=batch_size, most=most)
    starts = [int(start) for batch in batches for start in batch.inputs[:, 0]]
    if most * batch_size >= there:  # enough for all
        assert taken == there
        assert starts == [int(start) for batch in everything for start in batch.inputs[:, 0]]
        return
    assert [batch.inputs.shape for batch in batches] == [(batch_size, block_size)] * most
    assert len(starts) == taken == most * batch_size
    windows = np.array(starts) // block_size
    assert_array_equal(windows * block_size, starts)
    steps = np.diff([*windows, there + windows[0]])  # the last is as far from the end as the first from the beginning
    assert set(steps) <= {there // taken, there // taken + 1}
    assert min(steps) >= 1


def test_a_part_of_masked_validation_data_keeps_its_mask() -> None:
    data = masked_data([True, False] * 20)
    for batch in validation_batches(data, block_size=3, batch_size=2, most=2):
        assert_array_equal(batch.targets, np.where(batch.inputs % 2, batch.inputs + 1, IGNORED))
