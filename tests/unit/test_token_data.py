"""Several shards seen as one sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gptwo.errors import DataError
from gptwo.training.shards import NOT_LEARNED, Shard, ShardHeader, read_shard, write_shard
from gptwo.training.token_data import TokenData


def shard_of(ids: list[int], *, masked: bool = False, tokenizer: str = "a") -> Shard:
    dtype = "uint32" if masked else "uint16"
    header = ShardHeader(dtype, len(ids), len(ids), 300, tokenizer, "", masked=masked)
    return Shard(Path("part.bin"), header, np.array(ids, dtype=dtype))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 299), max_size=8), min_size=1, max_size=6),
    st.integers(0, 50),
    st.integers(0, 50),
    st.booleans(),
)
def test_a_window_is_the_same_however_the_tokens_are_cut_into_shards(
    parts: list[list[int]], start: int, length: int, masked: bool
) -> None:
    whole = [token for part in parts for token in part]
    bits = [[token + NOT_LEARNED * (token % 2) for token in part] for part in parts]
    data = TokenData(tuple(shard_of(part, masked=masked) for part in (bits if masked else parts)))
    assert len(data) == data.count == len(whole)
    assert_array_equal(data.window(start, length), whole[start : start + length])
    learned = [not (masked and token % 2) for token in whole]
    assert_array_equal(data.learned(start, length), learned[start : start + length])
    assert data.window(start, length).dtype == np.int64
    assert data.learned(start, length).dtype == np.bool_


def test_shards_of_different_tokenizers_are_refused() -> None:
    for other in (shard_of([1], tokenizer="b"), shard_of([1], masked=True)):
        with pytest.raises(DataError, match=r"part\.bin: was not made together with part\.bin"):
            TokenData((shard_of([1]), other))


def test_facts_are_those_of_all_shards(tmp_path: Path) -> None:
    for name, ids in (("a", [1, 2]), ("b", [3])):
        write_shard(tmp_path / name, [ids], characters=5 * len(ids), vocab_size=300, tokenizer="x")
    data = TokenData.open([tmp_path / "a", tmp_path / "b"], end_of_text_id=7)
    assert (data.count, data.characters, data.vocab_size, data.tokenizer, data.masked) == (3, 15, 300, "x", False)
    assert data.path == tmp_path / "a"
    assert data == TokenData.open([tmp_path / "a", tmp_path / "b"], end_of_text_id=7)
    one = TokenData.open([tmp_path / "a"])
    assert one.sha256 == read_shard(tmp_path / "a").header.sha256  # as in runs that were begun before
    assert len({one.sha256, TokenData.open([tmp_path / "b"]).sha256, data.sha256}) == 3


def test_characters_that_nobody_counted_are_not_known() -> None:
    header = ShardHeader("uint16", 2, 0, 300, "a", "")
    shard = Shard(Path("part.bin"), header, np.array([1, 2], dtype=np.uint16))
    assert TokenData((shard_of([1]), shard)).characters is None
    assert TokenData((shard_of([1]), shard_of([]))).characters == 1


def test_the_file_of_an_id_beyond_the_vocabulary_is_named() -> None:
    bad = Shard(Path("second.bin"), shard_of([1, 2]).header, np.array([1, 500], dtype=np.uint16))
    data = TokenData((shard_of([1, 2, 3]), bad))
    assert data.window(0, 4).tolist() == [1, 2, 3, 1]
    with pytest.raises(DataError, match=r"second\.bin: token 1 is 500"):
        data.window(0, 5)
