"""Token files of nanoGPT and llm.c: read as they are, and never trusted."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import gptwo.training.prepared as module
from gptwo.errors import DataError, DownloadError, GptwoError, InvalidRequestError
from gptwo.tokenizer import Tokenizer
from gptwo.training.foreign import LLM_C_MAGIC, characters_of_meta
from gptwo.training.plain_pickle import read_plain_pickle
from gptwo.training.prepared import PreparedData

TEXT = "To be, or not to be: that is the question. Café 猫 🎉"
BPE = Tokenizer.train([TEXT], 300)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("bpe")
    BPE.save(directory)
    return str(directory)


def ids(*texts: str) -> list[int]:
    assert BPE.end_of_text_id is not None
    return [token for text in texts for token in [*BPE.encode(text), BPE.end_of_text_id]]


def nanogpt(directory: Path, train: list[int], val: list[int]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, tokens in (("train", train), ("val", val)):
        (directory / f"{name}.bin").write_bytes(np.array(tokens, dtype="<u2").tobytes())
    return directory


def llm_c(path: Path, tokens: list[int], magic: int = LLM_C_MAGIC, version: int = 1, count: int | None = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    header = struct.pack("<3i", magic, version, len(tokens) if count is None else count).ljust(1024, b"\0")
    path.write_bytes(header + np.array(tokens, dtype="<u2").tobytes())
    return path


def meta(characters: str, **more: Any) -> bytes:
    itos = dict(enumerate(characters))
    return pickle.dumps({"vocab_size": len(itos), "itos": itos, "stoi": {c: i for i, c in itos.items()}, **more})


# ---- nanoGPT's


def test_nanogpts_tokens_are_read_as_they_are(bpe: str, tmp_path: Path) -> None:
    train, val = ids(TEXT, "to be"), ids("be: Café 猫 🎉", "not")
    data = PreparedData.load(nanogpt(tmp_path / "shakespeare", train, val), tokenizer=bpe)
    assert_array_equal(data.train.window(0, 10**6), train)
    assert_array_equal(data.val.window(0, 10**6), val)
    assert (data.texts, data.command, data.documents) == (("shakespeare",), "", None)
    assert data.tokenizer.fingerprint == data.train.tokenizer == BPE.fingerprint
    assert data.train.end_of_text_id == BPE.end_of_text_id
    assert (data.train.characters, data.val.characters) == (None, len("be: Café 猫 🎉" + "not"))
    assert not data.train.masked


def test_gpt2s_vocabulary_is_assumed(tmp_path: Path, gpt2_vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "resolve", lambda name, **_: gpt2_vocabulary if name == "gpt2" else None)
    data = PreparedData.load(nanogpt(tmp_path / "data", [5962, 22307, 25, 50256], [198]))
    assert data.train.vocab_size == 50257
    assert data.tokenizer.decode(data.train.window(0, 3).tolist()) == "First Citizen:"


def test_a_vocabulary_beside_the_tokens_is_theirs(bpe: str, tmp_path: Path) -> None:
    directory = nanogpt(tmp_path / "data", ids(TEXT), ids("be"))
    BPE.save(directory)
    (directory / "meta.pkl").write_bytes(b"not even looked at")
    assert PreparedData.load(directory).tokenizer.fingerprint == BPE.fingerprint


def test_without_gpt2s_vocabulary_the_error_says_how_to_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(name: str, **_: Any) -> Path:
        raise DownloadError("the hub cannot be reached")

    monkeypatch.setattr(module, "resolve", resolve)
    with pytest.raises(
        DownloadError,
        match=r"holds ids of GPT-2's vocabulary, .*; put its vocab\.json and merges\.txt there, or name .* --tokenizer",
    ):
        PreparedData.load(nanogpt(tmp_path / "data", [1], [2]))
    with pytest.raises(DownloadError, match="cannot be reached"):
        PreparedData.load(tmp_path / "data", tokenizer="mine")


def test_characters_are_those_that_meta_lists(tmp_path: Path) -> None:
    characters = "".join(sorted(set(TEXT)))
    encoded = [characters.index(c) for c in TEXT]
    directory = nanogpt(tmp_path / "char", encoded, encoded[-9:])
    (directory / "meta.pkl").write_bytes(meta(characters))
    data = PreparedData.load(directory)
    assert data.tokenizer.decode(data.train.window(0, 10**6).tolist()) == TEXT
    assert (data.val.characters, data.train.vocab_size) == (9, len(characters) + 1)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_meta_of_every_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    values = {"vocab_size": 3, "itos": {0: "\n", 1: "a", 2: "猫"}, "stoi": {"\n": 0, "a": 1, "猫": 2}}
    values |= {"more": [1.5, None, True, -(2**70), [], {}, "x" * 300, 300, 70_000]}
    data = pickle.dumps(values, protocol)
    if protocol == 0:  # text, which nanoGPT never wrote
        with pytest.raises(ValueError, match="more than plain values"):
            read_plain_pickle(data)
        return
    if protocol == 1:  # whose booleans are integers
        values["more"][2] = 1  # type: ignore[index]
    assert read_plain_pickle(data) == values
    (tmp_path / "meta.pkl").write_bytes(data)
    assert characters_of_meta(tmp_path / "meta.pkl").encode("猫a\n") == [2, 1, 0]


class Trap:
    """Unpickled in the usual way it would make a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_in_meta_is_ever_run(tmp_path: Path) -> None:
    directory = nanogpt(tmp_path / "data", [0], [0])
    for content in (
        pickle.dumps({"itos": {0: "a"}, "x": Trap(tmp_path / "made")}),
        pickle.dumps(Trap(tmp_path / "made")),
    ):
        (directory / "meta.pkl").write_bytes(content)
        with pytest.raises(DataError, match=r"meta\.pkl: is not read, it holds more than plain values .* --tokenizer"):
            PreparedData.load(directory)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        b"garbage",
        pickle.dumps({"itos": {0: "ab"}}),
        pickle.dumps({"itos": {0: "b", 1: "a"}}),
        pickle.dumps({"itos": {1: "a"}}),
        pickle.dumps({"itos": ["a"]}),
        pickle.dumps({"itos": {}}),
        pickle.dumps({"vocab_size": 5}),
        pickle.dumps({"itos": {0: "\ud800"}}, 4),
        pickle.dumps([1]),
        b"\x80\x04}\x94(\x8c\x04itos]\x94\x85s.",
        b"\x80\x02}r\xff\xff\xff\xff.",  # a place in the memo for which others set memory aside
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",  # an array of 2**63 bytes
        b"\x80\x048\xff\xff\xff\xff",
    ],
)
def test_meta_that_lists_no_characters_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"meta\.pkl: .*name the tokenizer with --tokenizer"):
            characters_of_meta(tmp_path / "meta.pkl")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_no_pickle_does_more_than_fail(noise: bytes, place: int) -> None:
    good = meta("abc")
    for data in (noise, b"\x80\x04" + noise, good[:place] + noise + good[place + len(noise) :]):
        try:
            read_plain_pickle(data)
        except ValueError:
            continue
        assert data.find(b".") >= 0


def test_the_opcodes_that_are_known_are_pythons() -> None:
    import gptwo.training.plain_pickle as plain

    known = {opcode.name for opcode in pickletools.opcodes}
    assert {*plain._NOTHING, *plain._VALUES, *plain._CONSTANTS, *plain._PUTS, *plain._GETS} <= known


# ---- llm.c's


def test_llm_cs_shards_are_one_sequence(bpe: str, tmp_path: Path) -> None:
    parts = [ids("to be"), ids("or not"), ids("question")]
    for number, part in enumerate(parts):
        llm_c(tmp_path / "d" / f"fineweb_train_{number:06d}.bin", part)
    llm_c(tmp_path / "d" / "fineweb_val_000000.bin", ids("Café"))
    data = PreparedData.load(tmp_path / "d", tokenizer=bpe)
    assert_array_equal(data.train.window(0, 10**6), [token for part in parts for token in part])
    assert (len(data.train.shards), data.val.characters) == (3, 4)


def test_data_without_validation_has_none(bpe: str, tmp_path: Path) -> None:
    llm_c(tmp_path / "d" / "tiny_shakespeare_train.bin", ids(TEXT))
    data = PreparedData.load(tmp_path / "d", tokenizer=bpe)
    assert (len(data.train), len(data.val), data.val.characters) == (len(ids(TEXT)), 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "its header says 20240520, version 2, 4 tokens; expected 20240520, version 1, 4 tokens"),
        ({"magic": 20240801}, "its header says 20240801"),
        ({"count": 5}, "version 1, 5 tokens; expected .* 4 tokens"),
        ({"count": -1}, "version 1, -1 tokens"),
        ({"count": 2**31 - 1}, "version 1, 2147483647 tokens"),
    ],
)
def test_a_header_that_is_not_true_is_refused(changes: dict[str, int], message: str, bpe: str, tmp_path: Path) -> None:
    llm_c(tmp_path / "d" / "a_train.bin", [1, 2, 3])
    path = llm_c(tmp_path / "d" / "b_train.bin", [1, 2, 3, 4], **changes)
    with pytest.raises(DataError, match=message) as caught:
        PreparedData.load(tmp_path / "d", tokenizer=bpe)
    assert str(caught.value).startswith(str(path))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1100), st.binary(max_size=8), st.integers(0, 1200), st.booleans())
def test_no_damage_crashes_the_reader_or_makes_it_allocate(
    tmp_path_factory: pytest.TempPathFactory, bpe: str, place: int, noise: bytes, cut: int, with_header: bool
) -> None:
    directory = tmp_path_factory.mktemp("fuzz")
    llm_c(directory / "good_train.bin", [1, 2])
    path = llm_c(directory / "bad_train.bin", list(range(20)))
    if not with_header:
        nanogpt(directory, list(range(20)), [1])
        for name in ("good_train.bin", "bad_train.bin"):
            (directory / name).unlink()
        path = directory / "train.bin"
    data = path.read_bytes()
    damaged = data[:place] + noise + data[place + len(noise) :]
    path.write_bytes(damaged[: len(damaged) - cut] if cut < 600 else damaged)
    tracemalloc.start()
    try:
        PreparedData.load(directory, tokenizer=bpe).train.window(0, 10**9)
    except GptwoError as error:
        assert str(path) in str(error)  # noqa: PT017 - some damage is none
    finally:
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()


# ---- both


def test_an_id_beyond_the_vocabulary_is_an_error_that_names_the_file(bpe: str, tmp_path: Path) -> None:
    directory = nanogpt(tmp_path / "data", [1, 2, 60_000], [1])
    with pytest.raises(DataError, match=r"train\.bin: token 2 is 60000, the vocabulary has \d+"):
        PreparedData.load(directory, tokenizer=bpe).train.window(0, 3)
    nanogpt(tmp_path / "data", [1], [1, 60_000])
    with pytest.raises(DataError, match=r"val\.bin: token 1 is 60000"):
        PreparedData.load(directory, tokenizer=bpe)


def test_half_a_token_is_refused(bpe: str, tmp_path: Path) -> None:
    directory = nanogpt(tmp_path / "data", [1, 2], [1])
    (directory / "train.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"train\.bin: has 3 bytes, which are no uint16 ids"):
        PreparedData.load(directory, tokenizer=bpe)


def test_a_vocabulary_that_uint16_cannot_hold_is_refused(
    tmp_path: Path, bpe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "load", classmethod(lambda cls, path: _Large()))
    with pytest.raises(InvalidRequestError, match=r"the tokenizer has 70000 tokens, the ids in .* are uint16"):
        PreparedData.load(nanogpt(tmp_path / "data", [1], [1]), tokenizer=bpe)


class _Large:
    vocab_size = 70_000


def test_other_data_is_known_by_its_content(bpe: str, tmp_path: Path) -> None:
    def sha(tokens: list[int]) -> str:
        return PreparedData.load(nanogpt(tmp_path / "data", tokens, [1]), tokenizer=bpe).train.sha256

    assert len({sha([1, 2, 3]), sha([1, 2, 4]), sha([1, 2, 3, 0])}) == 3
    assert sha([1, 2, 3]) == sha([1, 2, 3])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 2000])
def test_a_directory_of_something_else_is_no_data(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    for directory in (tmp_path, tmp_path / "absent", tmp_path / "pytorch_model.bin"):
        with pytest.raises(DataError, match=r"data\.json: cannot be read .*; make the data with 'gptwo prepare'"):
            PreparedData.load(directory)


def test_what_prepare_left_unfinished_is_not_taken_for_nanogpts(bpe: str, tmp_path: Path) -> None:
    from gptwo.training.shards import write_shard

    write_shard(tmp_path / "train.bin", [[1]], characters=1, vocab_size=300, tokenizer="")
    nanogpt(tmp_path / "other", [1], [1])
    (tmp_path / "val.bin").write_bytes((tmp_path / "other" / "val.bin").read_bytes())
    for content in ((tmp_path / "train.bin").read_bytes(), b" " * 1024 + b"\1\0"):
        (tmp_path / "train.bin").write_bytes(content)
        with pytest.raises(DataError, match=r"data\.json: cannot be read"):
            PreparedData.load(tmp_path, tokenizer=bpe)


def test_io_of_pickletools_reads_no_more_than_there_is() -> None:
    # What read_plain_pickle relies on: a length of 2**60 sets no memory aside.
    stream = io.BytesIO(b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"abc")
    with pytest.raises(ValueError, match=r"expected .* bytes"):
        list(pickletools.genops(stream))
