"""Texts cut into pieces: each encodes, one by one, to what the whole would."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import make_text

import gptwo.training.pieces as module
from gptwo.errors import DataError
from gptwo.tokenizer import Tokenizer
from gptwo.training.pieces import pieces

TEXT = make_text(3000) + "naïve 猫が座る 🎉\r\nthe  end"
BLANK = [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\r\n\r\n",
    "\t",
    " \n ",
    "\n\n\n\n",
    "\x0b",
    "\x1c",
    "\x85",
    "\xa0",
    "\u3000",
]
BLANK += ["\u2028", "\u200b"]
PARTS = st.lists(
    st.sampled_from(
        [*BLANK, *BLANK, "a", "don't", "'s", "12", "é", "e\u0301", "猫", "?!", "🎉", "the", "<|endoftext|>"]
    ),
    max_size=80,
)
BPE = Tokenizer.train([TEXT, " \n\n\n\n  a\r\n\r\na\r\na   b   c\n\nb" * 20], 400)


@functools.cache
def gpt2_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


@settings(max_examples=200, deadline=None)
@given(PARTS.map("".join) | st.text(max_size=60), st.integers(1, 12))
def test_pieces_encode_to_what_the_whole_text_does(gpt2_vocabulary: Path, text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_CHARACTERS", size)
        cut = list(pieces([text]))
    assert "".join(cut) == text
    assert all(cut)
    for tokenizer in (BPE, gpt2_tokenizer(gpt2_vocabulary)):
        assert [token for piece in cut for token in tokenizer.encode(piece)] == tokenizer.encode(text)


@settings(max_examples=200, deadline=None)
@given(PARTS.map("".join), st.integers(1, 12), st.lists(st.integers(0, 30), max_size=20), st.booleans())
def test_pieces_do_not_depend_on_how_the_text_was_read(
    text: str, size: int, lengths: list[int], anywhere: bool
) -> None:
    blocks, rest = [], text
    for length in lengths:
        blocks.append(rest[:length])
        rest = rest[length:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_CHARACTERS", size)
        assert list(pieces([*blocks, rest], anywhere=anywhere)) == list(pieces([text], anywhere=anywhere))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n", "\n\n\n\n", " ", ". ", "猫\n"])
def test_a_long_text_is_cut_into_pieces_of_about_the_size_that_was_set(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 100)
    text = ends.join(["Speak", "of the king", "猫が座る"] * 200)
    cut = list(pieces([text]))
    assert "".join(cut) == text
    assert max(map(len, cut)) < 150
    assert [token for piece in cut for token in BPE.encode(piece)] == BPE.encode(text)


def test_a_text_without_a_place_to_cut_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 10)
    for text in ("猫" * 100, "\n" * 100, "a" + " " * 99):
        assert list(pieces([text])) == [text]
    assert list(pieces([""])) == list(pieces([])) == []


def test_a_text_of_single_characters_is_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 10)
    assert list(pieces(["猫" * 25], anywhere=True)) == ["猫" * 10, "猫" * 10, "猫" * 5]


def test_what_has_no_place_to_cut_for_too_long_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 10)
    monkeypatch.setattr(module, "LONGEST_PIECE", 1000)
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield "x" * 7

    with pytest.raises(DataError, match=r"dna\.txt: has 1,0\d\d characters without a space or a line end; is it text"):
        list(pieces(endless(), place="dna.txt"))  # type: ignore[arg-type]
    assert taken < 200
