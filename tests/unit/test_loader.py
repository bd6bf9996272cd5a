"""Which tokens a batch holds: each one a target once an epoch, whatever the sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gptwo.errors import DataError
from gptwo.training.loader import BatchLoader, validation_batches
from gptwo.training.shards import Shard, ShardHeader, read_shard, write_shard

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 100))


def shard_of(count: int) -> Shard:
    """Tokens 0, 1, 2, …: each says where it stands."""
    header = ShardHeader("uint16", count, max(count, 1), 2**16, "", "")
    return Shard(Path("numbers.bin"), header, np.arange(count, dtype=np.uint16))


def loader_of(count: int, block_size: int, batch_size: int, seed: int = 0) -> BatchLoader:
    return BatchLoader(shard_of(count), block_size=block_size, batch_size=batch_size, seed=seed)


def epoch_starts(loader: BatchLoader, epoch: int) -> list[int]:
    """Where the windows of an epoch begin, by batches of one."""
    assert loader.batch_size == 1
    first = epoch * loader.windows_per_epoch
    return [int(loader.batch(first + i)[0][0, 0]) for i in range(loader.windows_per_epoch)]


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 2**63 - 1), st.integers(0, 50))
def test_targets_are_the_tokens_after_the_inputs(sizes: tuple[int, int, int], seed: int, number: int) -> None:
    block_size, batch_size, more = sizes
    inputs, targets = loader_of(block_size + more, block_size, batch_size, seed).batch(number)
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
        assert_array_equal(used.batch(number), fresh.batch(number))


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 4), st.integers(0, 10))
def test_small_batches_together_are_a_large_one(sizes: tuple[int, int, int], parts: int, number: int) -> None:
    block_size, batch_size, more = sizes
    small = loader_of(block_size + more, block_size, batch_size)
    large = loader_of(block_size + more, block_size, batch_size * parts)
    together = [small.batch(number * parts + part)[0] for part in range(parts)]
    assert_array_equal(np.concatenate(together), large.batch(number)[0])


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
    inputs, targets = loader_of(6, 5, 3).batch(7)
    assert_array_equal(inputs, [[0, 1, 2, 3, 4]] * 3)
    assert_array_equal(targets, [[1, 2, 3, 4, 5]] * 3)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_data_of_less_than_a_window_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=f"numbers.bin: has {count} tokens, fewer than block_size \\+ 1 = 6"):
        loader_of(count, 5, 1)


def test_an_id_beyond_the_vocabulary_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write_shard(path, [[1] * 40], characters=40, vocab_size=300, tokenizer="")
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xff")
    loader = BatchLoader(read_shard(path), block_size=38, batch_size=1, seed=0)
    with pytest.raises(DataError, match="token 39 is 65535") as caught:
        list(map(loader.batch, range(20)))  # the offset decides when it comes
    assert str(path) in str(caught.value)


# ---- validation


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100), st.integers(1, 12), st.integers(1, 5))
def test_validation_covers_each_token_but_the_first_exactly_once(count: int, block_size: int, batch_size: int) -> None:
    batches = list(validation_batches(shard_of(count), block_size=block_size, batch_size=batch_size))
    assert [int(t) for _, targets in batches for t in targets.ravel()] == list(range(1, count))
    for inputs, targets in batches:
        assert_array_equal(targets, inputs + 1)
        assert inputs.shape[0] <= batch_size
        assert inputs.shape[1] <= block_size
        assert inputs.dtype == np.int64


def test_the_last_validation_window_is_shorter_and_on_its_own() -> None:
    batches = list(validation_batches(shard_of(6), block_size=2, batch_size=2))
    assert [inputs.tolist() for inputs, _ in batches] == [[[0, 1], [2, 3]], [[4]]]
