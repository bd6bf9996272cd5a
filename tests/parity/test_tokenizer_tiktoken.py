"""GPT-2's vocabulary against tiktoken, and what a saved tokenizer is to transformers."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from gptwo.config import GPTConfig
from gptwo.tokenizer import BYTE_OF_CHARACTER, END_OF_TEXT, Tokenizer, pad

tiktoken = pytest.importorskip("tiktoken")

# The expression of the released encoder; tiktoken's own is a faster one that cuts in the same places.
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


@pytest.fixture(scope="module")
def gpt2(gpt2_vocabulary: Path) -> Tokenizer:
    return Tokenizer.load(gpt2_vocabulary)


@pytest.fixture(scope="module")
def reference(gpt2_vocabulary: Path) -> tiktoken.Encoding:
    vocabulary = json.loads((gpt2_vocabulary / "vocab.json").read_text(encoding="utf-8"))
    end = vocabulary.pop(END_OF_TEXT)
    ranks = {bytes(BYTE_OF_CHARACTER[c] for c in token): token_id for token, token_id in vocabulary.items()}
    # The ids are the ranks of the merges only if they are numbered in the order of the merges.
    merges = (gpt2_vocabulary / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    assert [vocabulary[line.replace(" ", "")] for line in merges] == list(range(256, end))
    assert sorted(map(len, ranks))[:256] == [1] * 256
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: end})


ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    " ",
    "  \t\n\r\x0b\x0c",
    "\x00\x01\x1b\x1c\x1d\x1e\x1f\x7f\x80\x85\x9f\xa0\xad",
    "\u1680\u180e\u2000\u2009\u200a\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff\ufffd\uffff",
    "0123456789٠٣६๙Ⅷ①½²〇一𝟘🄀",
    "àéîøüßİıſŒÞðŁńЖщΩάאשع",
    "e\u0301a\u0308\u20e3\u0489\u093f\u0e31\u0e34\ufe0f\u034f",
    "猫が座るカタカナ한국어ㄱ汉字漢字𠀀𪛖",
    "🎉😀👨‍👩‍👧👍🏽🇫🇷🏴\U000e0067\U000e007f❤️",
    "'\"’`.,;:!?-_()[]{}<>|/\\@#$%^&*+=~€£§¶†…–—",
    "\u0378\u0380\u2072\ua7f5\U0001fbff\U00040000\U000e0080\U000f0000\U0010ffff\ue000",
)
WORDS = (
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    "'S",
    "I'll",
    " don't",
    "  ",
    "\n\n",
    " " * 40,
    "the",
    " The",
    END_OF_TEXT,
)


def random_text(draw: random.Random) -> str:
    """One to thirty runs, each of one alphabet, of a word, or of any code points at all."""
    parts = []
    for _ in range(draw.randint(1, 30)):
        kind = draw.random()
        if kind < 0.25:
            parts.append(draw.choice(WORDS))
        elif kind < 0.9:
            parts.append("".join(draw.choices(draw.choice(ALPHABETS), k=draw.randint(1, 8))))
        else:
            code = draw.choice((0x80, 0x800, 0x10000, 0x110000))
            found = (chr(draw.randrange(code)) for _ in range(4))
            parts.append("".join(c for c in found if unicodedata.category(c) != "Cs"))
    return "".join(parts)


def test_ten_thousand_random_texts_have_the_ids_that_tiktoken_gives(
    gpt2: Tokenizer, reference: tiktoken.Encoding
) -> None:
    draw = random.Random(1)
    texts = [random_text(draw) for _ in range(10_000)]
    expected = [reference.encode_ordinary(text) for text in texts]
    assert gpt2.encode_batch(texts) == expected
    assert [gpt2.encode(text) for text in texts[:500]] == expected[:500]
    assert [gpt2.decode(ids) for ids in expected] == texts


def test_random_texts_with_special_tokens_allowed_have_the_ids_that_tiktoken_gives(
    gpt2: Tokenizer, reference: tiktoken.Encoding
) -> None:
    draw = random.Random(2)
    texts = [random_text(draw) + END_OF_TEXT + random_text(draw) for _ in range(500)]
    expected = [reference.encode(text, allowed_special="all") for text in texts]
    assert gpt2.encode_batch(texts, allow_special=True) == expected


def test_every_code_point_is_cut_as_tiktoken_cuts_it(gpt2: Tokenizer, reference: tiktoken.Encoding) -> None:
    # Letter, number, space or other decides whether it joins what stands before it. The two engines' tables of Unicode
    # agree; those of Python's `regex`, the released encoder's, differ where Unicode has since assigned a code point.
    points = [*range(0x3400), *range(0x3400, 0x20000, 3), *range(0x20000, 0x110000, 101)]
    characters = [chr(point) for point in points if not 0xD800 <= point < 0xE000]
    texts = ["".join(f"a{c}1{c}!{c} {c}\n" for c in characters[i : i + 500]) for i in range(0, len(characters), 500)]
    different = [
        text
        for text, ids in zip(texts, gpt2.encode_batch(texts), strict=True)
        if ids != reference.encode_ordinary(text)
    ]
    assert different == []


def test_decoding_any_ids_gives_what_tiktoken_gives(gpt2: Tokenizer, reference: tiktoken.Encoding) -> None:
    draw = random.Random(3)
    for _ in range(2_000):
        ids = [draw.choice((draw.randrange(256), draw.randrange(50257))) for _ in range(draw.randint(0, 20))]
        assert gpt2.decode(ids) == reference.decode(ids)
        assert [gpt2.token_bytes(i) for i in ids] == reference.decode_tokens_bytes(ids)


def test_the_facts_of_the_released_vocabulary(gpt2: Tokenizer) -> None:
    assert gpt2.vocab_size == 50257
    assert gpt2.end_of_text_id == 50256
    boy = [6511, 890, 2084, 11, 314, 373, 257, 2933, 11, 314, 1842]
    assert gpt2.encode("long long ago, I was a boy, I love") == boy
    assert gpt2.encode("gpt2.drawio") == [70, 457, 17, 13, 19334, 952]
    ids, mask = pad([boy, gpt2.encode("gpt2.drawio")], side="left", pad_id=50256, length=11)
    assert_array_equal(ids, [boy, [50256] * 5 + [70, 457, 17, 13, 19334, 952]])
    assert_array_equal(mask, [[1] * 11, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]])


def test_the_end_of_text_in_a_text_never_becomes_its_token(gpt2: Tokenizer) -> None:
    assert gpt2.encode(END_OF_TEXT) == [27, 91, 437, 1659, 5239, 91, 29]
    assert gpt2.encode(END_OF_TEXT, allow_special=True) == [50256]


@pytest.mark.parametrize("kind", ["gpt2", "trained", "characters"])
def test_transformers_reads_a_saved_tokenizer_and_gives_the_same_ids(
    kind: str, gpt2: Tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    text = "ROMEO: what's  that? naïve 猫 🎉\n\n  The end .\t\x1c'll"
    made = {
        "gpt2": lambda: gpt2,
        "trained": lambda: Tokenizer.train([text * 3], 300),
        "characters": lambda: Tokenizer.characters([text]),
    }
    tokenizer = made[kind]()
    tokenizer.save(tmp_path)
    GPTConfig(vocab_size=tokenizer.vocab_size).save(tmp_path / "config.json")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(text)
    assert theirs(text).input_ids == ids
    assert theirs.decode(ids) == text
    assert theirs.bos_token_id == theirs.eos_token_id == tokenizer.end_of_text_id
    assert theirs(text + END_OF_TEXT).input_ids == tokenizer.encode(text + END_OF_TEXT, allow_special=True)
    assert len(theirs) == tokenizer.vocab_size
