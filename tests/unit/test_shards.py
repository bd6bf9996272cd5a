"""Token shards: what is written is read, and what is broken is told of by name."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gptwo.errors import DataError
from gptwo.training.shards import HEADER_BYTES, NOT_LEARNED, Shard, ShardWriter, read_shard, write_shard

IDS = list(range(0, 300, 7))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.integers(2**60, 2**70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def make(path: Path, ids: Any = IDS, vocab_size: int = 300, characters: int = 1000) -> Path:
    write_shard(path, [ids], characters=characters, vocab_size=vocab_size, tokenizer="ab" * 32)
    return path


def header_of(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_bytes()[:HEADER_BYTES])
    return values


def with_header(path: Path, header: object) -> Path:
    text = json.dumps(header).encode()[:HEADER_BYTES].ljust(HEADER_BYTES)
    path.write_bytes(text + path.read_bytes()[HEADER_BYTES:])
    return path


def refusal(path: Path) -> str:
    """The message with which a shard is refused; it names the file."""
    with pytest.raises(DataError) as caught:
        read_shard(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


# ---- writing and reading


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(1, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (2**31, "uint32")]
)
def test_ids_come_back_as_they_were(vocab_size: int, dtype: str, tmp_path: Path) -> None:
    ids = np.unique(np.linspace(0, vocab_size - 1, 50).astype(np.int64))
    path = make(tmp_path / "a.bin", ids, vocab_size)
    shard = read_shard(path, verify=True)
    assert_array_equal(shard.tokens, ids)
    assert_array_equal(shard.window(0, len(ids)), ids)
    assert shard.tokens.dtype == np.dtype(dtype)
    assert (len(shard), shard.header.characters, shard.header.vocab_size) == (len(ids), 1000, vocab_size)
    assert path.stat().st_size == HEADER_BYTES + len(ids) * shard.tokens.itemsize


def test_ids_lie_in_the_file_with_the_low_byte_first(tmp_path: Path) -> None:
    assert make(tmp_path / "a", [1, 258], 300).read_bytes()[HEADER_BYTES:] == b"\1\0\2\1"
    assert make(tmp_path / "b", [1, 258], 70_000).read_bytes()[HEADER_BYTES:] == b"\1\0\0\0\2\1\0\0"


def test_the_header_is_a_line_that_head_shows(tmp_path: Path) -> None:
    header = make(tmp_path / "a.bin").read_bytes()[:HEADER_BYTES]
    assert header.endswith(b" \n")
    assert json.loads(header)["format"] == "gptwo-tokens-1"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 299), max_size=20), max_size=5))
def test_chunks_are_written_one_after_another(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[int]]
) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.bin"
    header = write_shard(path, chunks, characters=100, vocab_size=300, tokenizer="")
    shard = read_shard(path, verify=True)
    assert shard.header == header
    assert shard.tokens.tolist() == [token for chunk in chunks for token in chunk]


def test_an_empty_shard_is_one(tmp_path: Path) -> None:
    shard = read_shard(make(tmp_path / "a.bin", [], characters=0), verify=True)
    assert len(shard) == 0
    assert shard.window(0, 5).tolist() == []


def test_a_window_ends_with_the_shard(tmp_path: Path) -> None:
    shard = read_shard(make(tmp_path / "a.bin", [5, 6, 7]))
    assert shard.window(1, 5).tolist() == [6, 7]
    assert shard.window(3, 5).tolist() == []
    assert shard.window(0, 2).dtype == np.int64


@pytest.mark.parametrize("ids", [[300], [-1], [0, 2**16 + 1], [2**32]])
def test_an_id_that_the_vocabulary_lacks_is_not_written(ids: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for a vocabulary of 300"):
        make(tmp_path / "a.bin", ids)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "a.bin"
    with pytest.raises(DataError, match="cannot be written") as caught:
        make(path)
    assert str(path) in str(caught.value)


def test_a_shard_cannot_be_changed_through_its_tokens(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        read_shard(make(tmp_path / "a.bin")).tokens[0] = 1


def test_a_shard_of_four_gigabytes_is_opened_without_reading_it(tmp_path: Path) -> None:
    count = 2**31
    path = make(tmp_path / "a.bin", [0])
    with_header(path, {**header_of(path), "count": count})
    with path.open("r+b") as file:
        file.truncate(HEADER_BYTES + 2 * count)  # a hole, which takes no space on the disk
    tracemalloc.start()
    try:
        shard = read_shard(path)
        assert isinstance(shard.tokens, np.memmap)
        assert shard.window(count - 3, 10).tolist() == [0, 0, 0]
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 299), max_size=9), st.booleans()), max_size=6),
    st.integers(0, 60),
    st.binary(max_size=20),
)
def test_a_shard_that_is_gone_on_with_is_the_one_that_was_never_left(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[list[int], bool]], left: int, behind: bytes
) -> None:
    directory = tmp_path_factory.mktemp("shard")
    about: dict[str, Any] = {"vocab_size": 300, "tokenizer": "x", "masked": True}
    flat = [(token, learned) for ids, learned in chunks for token in ids]
    left = min(left, len(flat))
    with (directory / "whole").open("w+b") as file:
        writer = ShardWriter(file, **about)
        for ids, learned in chunks:
            writer.append(ids, learned=learned)
        header = writer.finish(10)
    with (directory / "parts").open("w+b") as file:
        writer = ShardWriter(file, **about)
        for token, learned in flat[:left]:
            writer.append([token], learned=learned)
        file.write(behind)  # what came after the last saving
    with (directory / "parts").open("r+b") as file:
        writer = ShardWriter(file, count=left, **about)
        for token, learned in flat[left:]:
            writer.append([token], learned=learned)
        assert writer.finish(10) == header
    assert (directory / "parts").read_bytes() == (directory / "whole").read_bytes()
    shard = read_shard(directory / "whole", verify=True)
    assert shard.window(0, 100).tolist() == [token for token, _ in flat]
    assert shard.learned(0, 100).tolist() == [learned for _, learned in flat]
    assert [token >= NOT_LEARNED for token in shard.tokens.tolist()] == [not learned for _, learned in flat]


def test_a_shard_that_has_less_than_was_left_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.bin", [1, 2, 3])
    with path.open("r+b") as file, pytest.raises(ValueError, match="has 1030 bytes, expected at least 1032"):
        ShardWriter(file, vocab_size=300, tokenizer="", count=4)


# ---- broken files


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refusal(tmp_path / "absent.bin")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\0" * 5000, b"[" * 1024, b"{}" + b" " * 1022, b"null".ljust(2000), b"\xff" * 2000, b'"format"'],
)
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    assert "not a token shard" in refusal(path)


@pytest.mark.parametrize("cut", [1, 2, 10, -1, -2])
def test_a_file_of_another_length_than_its_header_says_is_refused(cut: int, tmp_path: Path) -> None:
    path = make(tmp_path / "a.bin")
    data = path.read_bytes()
    path.write_bytes(data[:-cut] if cut > 0 else data + b"\0" * -cut)
    assert f"has {len(data) - cut} bytes, its header says {len(data)}" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "gptwo-tokens-2"},
        {"format": None},
        {"dtype": "uint32"},
        {"dtype": "float64"},
        {"dtype": ["uint16"]},
        {"count": -1},
        {"count": 43.0},
        {"count": True},
        {"count": "43"},
        {"characters": 0},
        {"characters": -5},
        {"characters": None},
        {"vocab_size": 65_537},
        {"vocab_size": "300"},
        {"tokenizer": 5},
        {"sha256": None},
        {"another": 1},
        {"masked": True},
        {"masked": 0},
    ],
    ids=str,
)
def test_a_header_that_cannot_be_true_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = make(tmp_path / "a.bin")
    assert "not a token shard" in refusal(with_header(path, {**header_of(path), **change}))


@pytest.mark.parametrize("name", ["format", "dtype", "count", "characters", "vocab_size", "tokenizer", "sha256"])
def test_a_header_that_lacks_a_field_is_refused(name: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.bin")
    header = header_of(path)
    del header[name]
    assert "not a token shard" in refusal(with_header(path, header))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good shard, and beside it, as `fuzzed.bin`, what an example makes of it."""
    return make(tmp_path_factory.mktemp("fuzz") / "good.bin").with_name("fuzzed.bin")


@settings(max_examples=60, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(["format", "dtype", "count", "characters", "vocab_size", "sha256", "masked"]), JSON
    )
)
def test_no_header_crashes_the_reader_or_makes_it_allocate(fuzzed: Path, changes: dict[str, Any]) -> None:
    good = fuzzed.with_name("good.bin")
    fuzzed.write_bytes(good.read_bytes())
    check_fuzzed(with_header(fuzzed, {**header_of(good), **changes}))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, HEADER_BYTES - 1), byte=st.binary(min_size=1, max_size=4))
def test_no_byte_of_the_header_crashes_the_reader_or_makes_it_allocate(fuzzed: Path, place: int, byte: bytes) -> None:
    data = fuzzed.with_name("good.bin").read_bytes()
    fuzzed.write_bytes(data[:place] + byte + data[place + len(byte) :])
    check_fuzzed(fuzzed)


def check_fuzzed(path: Path) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            assert read_shard(path).window(0, 10**9).size == len(IDS)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_a_changed_id_is_found_by_verifying(tmp_path: Path) -> None:
    path = make(tmp_path / "a.bin")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    read_shard(path)
    with pytest.raises(DataError, match="not those that were written"):
        read_shard(path, verify=True)


def test_an_id_beyond_the_vocabulary_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = make(tmp_path / "a.bin", [1, 2, 3, 4])
    path.write_bytes(path.read_bytes()[:-4] + b"\x2c\x01\4\0")
    shard: Shard = read_shard(path)
    assert shard.window(0, 2).tolist() == [1, 2]
    with pytest.raises(DataError, match=r"token 2 is 300, the vocabulary has 300") as caught:
        shard.window(1, 3)
    assert str(path) in str(caught.value)
