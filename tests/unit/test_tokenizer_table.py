"""The table of a tokenizer says what the library says, is used only where it fits, and spares the library's start."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TEXT

from gptwo.errors import TokenizerError
from gptwo.tokenizer import END_OF_TEXT, Tokenizer
from gptwo.tokenizer_table import FILE, TokenTable

# Texts in which merges, contractions, runs of spaces and long words are frequent.
WORDS = st.sampled_from(
    ["speak", " we", "'ll", "'s", "'t", "  ", "\n", "\t ", "aaaa", " 12", "?!", "\x1c", "\x0b", "Citizen"]
)
ASCII = st.lists(WORDS | st.text(st.characters(max_codepoint=127), max_size=5), max_size=12).map("".join)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train([TEXT * 3], 330).save(path, table=True)
    assert (path / FILE).is_file()
    return path


@pytest.fixture(scope="module")
def whole(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory / "tokenizer.json")


@pytest.fixture(scope="module")
def table(directory: Path) -> TokenTable:
    found = TokenTable.load(directory)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def gpt2(gpt2_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, TokenTable]:
    path = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer.load(gpt2_vocabulary)
    tokenizer.save(path, table=True)
    found = TokenTable.load(path)
    assert found is not None
    return tokenizer, found


@settings(max_examples=300, deadline=None)
@given(text=ASCII)
def test_a_text_has_the_ids_that_the_library_gives(whole: Tokenizer, table: TokenTable, text: str) -> None:
    assert table.encode(text) == whole.encode(text)


@settings(max_examples=300, deadline=None)
@given(text=ASCII)
def test_a_text_has_gpt2s_ids(gpt2: tuple[Tokenizer, TokenTable], text: str) -> None:
    assert gpt2[1].encode(text) == gpt2[0].encode(text)


def test_every_token_of_gpt2_has_its_bytes_and_every_ascii_one_its_ids(gpt2: tuple[Tokenizer, TokenTable]) -> None:
    tokenizer, table = gpt2
    assert (table.vocab_size, table.end_of_text_id) == (50257, 50256)
    tokens = [tokenizer.token_bytes(token_id) for token_id in range(50257)]
    assert [table.token_bytes(token_id) for token_id in range(50257)] == tokens
    texts = [token.decode() for token in tokens if token.isascii()]
    assert [table.encode(text) for text in texts] == tokenizer.encode_batch(texts)


@pytest.mark.parametrize("text", ["", END_OF_TEXT, f"a{END_OF_TEXT} b", "é", "a" * 201, "a " * 2001, "speak 😀"])
def test_a_tokenizer_with_a_table_is_the_tokenizer_without(directory: Path, whole: Tokenizer, text: str) -> None:
    tabled = Tokenizer.load(directory)
    for special in (False, True):
        ids = tabled.encode(text, allow_special=special)
        assert ids == whole.encode(text, allow_special=special)
        for skip in (False, True):
            assert tabled.decode(ids, skip_special=skip) == whole.decode(ids, skip_special=skip)
    assert tabled.encode_batch([text]) == whole.encode_batch([text])
    assert tabled.fingerprint == whole.fingerprint
    assert (tabled.vocab_size, tabled.end_of_text_id) == (whole.vocab_size, whole.end_of_text_id)
    assert [*map(tabled.is_special, range(330))] == [*map(whole.is_special, range(330))]
    assert pickle.loads(pickle.dumps(tabled)).encode(text) == whole.encode(text)  # noqa: S301


def test_wrong_use_is_the_same_error_with_a_table(directory: Path, whole: Tokenizer) -> None:
    for tokenizer in (Tokenizer.load(directory), whole):
        for text in (5, None, "\ud800"):
            with pytest.raises(TokenizerError):
                tokenizer.encode(text)
        for token_id in (-1, 330, "a", 1.5):
            with pytest.raises(TokenizerError):
                tokenizer.token_bytes(token_id)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = tokenizer.nothing


def test_a_table_is_used_only_beside_the_tokenizer_it_was_made_from(directory: Path, tmp_path: Path) -> None:
    other = Tokenizer.train(["another text, another text"], 290)
    other.save(tmp_path)
    shutil.copy(directory / FILE, tmp_path)
    assert TokenTable.load(tmp_path) is None
    assert Tokenizer.load(tmp_path).fingerprint == other.fingerprint


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_table_is_not_used(directory: Path, place: float, value: int, cut: bool) -> None:
    damaged = directory.parent / "damaged"
    if not damaged.is_dir():
        shutil.copytree(directory, damaged)
    data = bytearray((directory / FILE).read_bytes())
    at = int(place * len(data))
    changed = cut or data[at] != value
    data[at] = value
    (damaged / FILE).write_bytes(data[:at] if cut else data)
    assert (TokenTable.load(damaged) is None) == changed


def test_kinds_that_a_table_cannot_hold_have_none(tmp_path: Path) -> None:
    Tokenizer.characters(["abc"]).save(tmp_path, table=True)
    assert not (tmp_path / FILE).exists()
    assert Tokenizer.load(tmp_path).encode("cab") == [2, 0, 1]


def test_a_short_text_in_ascii_needs_no_library(directory: Path) -> None:
    script = (
        "import sys; from gptwo.tokenizer import Tokenizer; t = Tokenizer.load(sys.argv[1]);"
        "print(t.decode(t.encode('Speak, speak')), 'tokenizers' in sys.modules); t.encode('é');"
        "print('tokenizers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, directory], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["Speak, speak False", "True"]
