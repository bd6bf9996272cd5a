"""From texts to data: what is written, what is refused, and what a process leaves that was killed."""

from __future__ import annotations

import errno
import functools
import json
import os
import shlex
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import make_text

import gptwo.training.pieces as cutting
from gptwo.errors import DataError, GptwoError, InvalidRequestError, ModelNotFoundError, TokenizerError
from gptwo.tokenizer import Tokenizer
from gptwo.training import data_tokenizer
from gptwo.training.prepare import prepare
from gptwo.training.prepared import PreparedData
from gptwo.training.shards import read_shard

TEXT = make_text(3000) + "naïve 猫が座る 🎉\r\nthe  end"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    return path


def ids_of(data: Path, name: str) -> list[int]:
    return read_shard(data / f"{name}.bin", verify=True).tokens.tolist()


@functools.cache
def gpt2_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


BPE = Tokenizer.train([TEXT, " \n\n\n\n  a\r\n\r\na\r\na   b   c\n\nb" * 20], 400)


def test_a_text_longer_than_a_piece_is_prepared_as_a_whole(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 50)
    told: list[float] = []
    prepare([text], tmp_path / "out", tokenizer="bpe:300", progress=told.append)
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer")
    left = len(TEXT) - int(len(TEXT) * 0.1)
    assert ids_of(tmp_path / "out", "train") == tokenizer.encode(TEXT[:left])
    assert ids_of(tmp_path / "out", "val") == tokenizer.encode(TEXT[left:])
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 50


# ---- tokenizers


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.txt", "to be\nor not\n" * 60 + "to b\xe9\n", r"a\.txt line 121"),
        ("a.txt", "to be\r\n" * 90, r"a\.txt line 1"),
        ("a.jsonl", '{"text": "to be"}\n\n{"text": "not\\n to b\\u00e9"}\n', r"a\.jsonl line 3"),
        ("a.csv", 'text,n\n"to\nbe",1\n"to\nb\xe9",2\n', r"a\.csv line 5"),
    ],
)
def test_what_cannot_be_encoded_is_an_error_with_its_file_and_line(
    name: str, content: str, place: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 50)
    Tokenizer.characters(["to be or not\n"]).save(tmp_path / "known")
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    with pytest.raises(TokenizerError, match=rf"/{place}: the tokenizer has no token for '(é|\\r)'"):
        prepare([tmp_path / name], tmp_path / "out", tokenizer=str(tmp_path / "known"), workers=workers)


def test_a_tokenizer_is_trained_on_a_word_of_any_length(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("GATTACA" * 40_000 + " " * 200_000 + make_text(500))
    made = prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="bpe:300", val_fraction=0.0)
    assert len(made.train) < 200_000


def test_what_was_prepared_can_be_loaded(text: Path, tmp_path: Path) -> None:
    made = prepare([text], tmp_path / "out", tokenizer="bpe:300", val_fraction=0.2)
    assert PreparedData.load(tmp_path / "out") == made
    assert made.texts == ("text.txt",)
    assert made.train.characters + made.val.characters == len(TEXT)
    assert made.val.characters == int(len(TEXT) * 0.2)
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer")
    assert made.train.tokenizer == made.val.tokenizer == tokenizer.fingerprint
    assert made.train.vocab_size == tokenizer.vocab_size == 300
    whole = tokenizer.decode(ids_of(tmp_path / "out", "train")) + tokenizer.decode(ids_of(tmp_path / "out", "val"))
    assert whole == TEXT


def test_a_trained_tokenizer_has_not_seen_the_validation_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ab " * 300 + "xyz " * 50)
    prepare([path], tmp_path / "out", tokenizer="bpe:300", val_fraction=200 / 1100)
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer")
    tokens = {tokenizer.token_bytes(token) for token in range(256, tokenizer.vocab_size)}
    assert b" ab" in tokens
    assert b" xyz" not in tokens


def test_characters_of_the_validation_text_have_tokens_too(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ab" * 50 + "猫🎉")
    made = prepare([path], tmp_path / "out", tokenizer="char", val_fraction=0.02)
    assert (made.train.count, made.val.count, made.train.vocab_size) == (100, 2, 5)
    assert Tokenizer.load(tmp_path / "out" / "tokenizer").decode(ids_of(tmp_path / "out", "val")) == "猫🎉"


def test_the_name_gpt2_is_resolved_as_a_models(
    text: Path, tmp_path: Path, gpt2_vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def resolve(name: str, **_: Any) -> Path:
        asked.append(name)
        return gpt2_vocabulary

    monkeypatch.setattr(data_tokenizer, "resolve", resolve)
    made = prepare([text], tmp_path / "out")
    assert asked == ["gpt2"]
    assert made.train.vocab_size == 50257
    assert ids_of(tmp_path / "out", "train")[:3] == gpt2_tokenizer(gpt2_vocabulary).encode(TEXT[:100])[:3]


def test_a_directory_and_a_file_are_tokenizers(text: Path, tmp_path: Path) -> None:
    BPE.save(tmp_path / "bpe")
    for name, place in (("a", tmp_path / "bpe"), ("b", tmp_path / "bpe" / "tokenizer.json")):
        assert prepare([text], tmp_path / name, tokenizer=str(place)).train.tokenizer == BPE.fingerprint


@pytest.mark.parametrize(
    "name", ["bpe:x", "bpe:", "bpe:256", "bpe:-300", "bpe:1e3", "bpe:1000001", "bpe:" + "9" * 5000]
)
def test_a_size_that_no_vocabulary_has_is_refused(name: str, text: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="expected a size from 257 to 1000000 after 'bpe:'") as caught:
        prepare([text], tmp_path / "out", tokenizer=name)
    assert caught.value.param == "tokenizer"
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_not_there_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        prepare([text], tmp_path / "out", tokenizer="./absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        prepare([text], tmp_path / "out", tokenizer=str(tmp_path / "empty"))


def test_a_character_that_the_tokenizer_lacks_is_an_error_that_shows_it(text: Path, tmp_path: Path) -> None:
    Tokenizer.characters(["abc"]).save(tmp_path / "abc")
    with pytest.raises(TokenizerError, match=r"no token for"):
        prepare([text], tmp_path / "out", tokenizer=str(tmp_path / "abc"))
    assert not (tmp_path / "out" / "data.json").exists()


# ---- several texts


def test_the_end_of_text_stands_between_texts_and_not_elsewhere(tmp_path: Path) -> None:
    for name, content in (("a", "one <|endoftext|> two"), ("b", "three"), ("c", "four, five")):
        (tmp_path / name).write_text(content)
    made = prepare([tmp_path / name for name in "abc"], tmp_path / "out", tokenizer="bpe:257", val_fraction=6 / 36)
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer")
    end = tokenizer.end_of_text_id
    assert end is not None
    expected = [
        *tokenizer.encode("one <|endoftext|> two"),
        end,
        *tokenizer.encode("three"),
        end,
        *tokenizer.encode("four"),
    ]
    assert ids_of(tmp_path / "out", "train") == expected
    assert ids_of(tmp_path / "out", "val") == tokenizer.encode(", five")
    assert expected.count(end) == 2
    assert (made.train.characters, made.texts) == (30, ("a", "b", "c"))


def test_texts_that_nothing_can_stand_between_are_refused(text: Path, tmp_path: Path, gpt2_vocabulary: Path) -> None:
    vocabulary = json.loads((gpt2_vocabulary / "vocab.json").read_bytes())
    del vocabulary["<|endoftext|>"]
    (tmp_path / "endless").mkdir()
    (tmp_path / "endless" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "endless" / "merges.txt").write_bytes((gpt2_vocabulary / "merges.txt").read_bytes())
    prepare([text], tmp_path / "one", tokenizer=str(tmp_path / "endless"))
    with pytest.raises(InvalidRequestError, match=r"has no <\|endoftext\|> to stand between documents"):
        prepare([text, text], tmp_path / "two", tokenizer=str(tmp_path / "endless"))


# ---- what is refused


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan"), float("inf"), "0.1", True])
def test_a_share_that_is_none_is_refused(share: Any, text: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"val_fraction is .*, expected 0 to below 1") as caught:
        prepare([text], tmp_path / "out", tokenizer="char", val_fraction=share)
    assert caught.value.param == "val_fraction"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no text"), (b"caf\xe9", r"not UTF-8 text \(byte 3\)"), (None, r"cannot be read \(No such file")],
)
def test_a_file_that_holds_no_text_is_refused_by_name(
    content: bytes | None, message: str, text: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        prepare([text, path], tmp_path / "out", tokenizer="char")
    assert str(caught.value).startswith(f"{path}: ")
    assert not (tmp_path / "out").exists()


def test_an_option_that_there_is_not_is_refused_with_the_nearest(text: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no parameter 'val_fractions'; did you mean 'val_fraction'"):
        prepare([text], tmp_path / "out", val_fractions=0.1)


def test_without_validation_the_shard_for_it_is_empty(text: Path, tmp_path: Path) -> None:
    made = prepare([text], tmp_path / "out", tokenizer="char", val_fraction=0)
    assert (made.train.count, made.val.count, made.val.characters) == (len(TEXT), 0, 0)


@pytest.mark.parametrize("out", ["text.txt", "text.txt/out"])
def test_a_place_that_cannot_be_written_is_an_error_that_names_it(out: str, text: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written") as caught:
        prepare([text], tmp_path / out, tokenizer="char")
    assert str(tmp_path / out) in str(caught.value)


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_disk_that_fills_up_leaves_no_data_that_seems_whole(
    nth: int, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    prepare([text], out, tokenizer="bpe:300")
    synced = 0

    def fsync(_: int) -> None:
        nonlocal synced
        synced += 1
        if synced == nth:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(GptwoError, match="No space left on device"):
        prepare([text], out, tokenizer="char", restart=True)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"data\.json: cannot be read .*; make the data with 'gptwo prepare'"):
        PreparedData.load(out)
    assert [path for path in out.rglob("*") if path.name.endswith(".tmp")] == []
    assert prepare([text], out, tokenizer="char") == PreparedData.load(out)


# ---- loading


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"texts": 5, "command": ""}',
        b"\xff",
        b"[" * 100_000,
        b'{"texts": [], "command": "", "train": []}',
        b'{"texts": [], "command": "", "train": "train.bin"}',
        b'{"texts": [], "command": "", "val": ["../val.bin"]}',
        b'{"texts": [], "command": "", "documents": [1]}',
    ],
)
def test_a_broken_description_is_an_error_that_names_it(content: bytes, text: Path, tmp_path: Path) -> None:
    prepare([text], tmp_path / "out", tokenizer="char")
    (tmp_path / "out" / "data.json").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.json: is broken; make the data again"):
        PreparedData.load(tmp_path / "out")


def test_a_missing_shard_is_an_error_that_names_it(text: Path, tmp_path: Path) -> None:
    prepare([text], tmp_path / "out", tokenizer="char")
    (tmp_path / "out" / "val.bin").unlink()
    with pytest.raises(DataError, match=r"val\.bin: cannot be read"):
        PreparedData.load(tmp_path / "out")


def test_the_command_that_is_kept_makes_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptwo.cli import main

    path = tmp_path / "the king's text.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    monkeypatch.chdir(tmp_path)
    made = prepare([path], Path("my data"), tokenizer="bpe:300", val_fraction=0.05)
    before = (np.array(ids_of(Path("my data"), "train")), (tmp_path / "my data" / "data.json").read_bytes())
    program, *arguments = shlex.split(made.command)
    assert program == "gptwo"
    assert main(arguments) == 0
    assert np.array_equal(ids_of(Path("my data"), "train"), before[0])
    assert (tmp_path / "my data" / "data.json").read_bytes() == before[1]


@pytest.mark.parametrize("name", ["long.txt", "long.jsonl"])
def test_memory_does_not_grow_with_the_texts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 1 << 13)
    line = make_text(500).replace("\n", " ")
    path = tmp_path / name
    path.write_text((line + "\n" if name == "long.txt" else json.dumps({"text": line}) + "\n") * 2500)
    tracemalloc.start()
    try:
        made = prepare([path], tmp_path / "out", tokenizer="char")
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size // 2
    finally:
        tracemalloc.stop()
    assert made.train.count + made.val.count >= 500 * 2500
