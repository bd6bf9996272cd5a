"""The tokenizer on vocabularies that the tests make, and on files that are broken."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gptwo.errors import InvalidRequestError, TokenizerError
from gptwo.text_encoder import parts
from gptwo.tokenizer import BYTE_OF_CHARACTER, END_OF_TEXT, Tokenizer, pad

TEXT = "the cat sat on the mat; the hat is the cat's. Größe, naïve, 猫が座る 🎉🎉 the end\n" * 5
BPE = Tokenizer.train([TEXT], 300)
CHARACTERS = Tokenizer.characters([TEXT])
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


# ---- training


def test_a_trained_vocabulary_holds_every_byte_then_merges_then_the_end_of_text() -> None:
    assert BPE.vocab_size == 300
    assert BPE.end_of_text_id == 299
    assert sorted(BPE.token_bytes(i) for i in range(256)) == [bytes([byte]) for byte in range(256)]
    assert b" the" in [BPE.token_bytes(i) for i in range(256, 299)]


def test_the_smallest_vocabulary_is_the_bytes_alone() -> None:
    tokenizer = Tokenizer.train([TEXT], 257)
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode("aa") == 2 * tokenizer.encode("a")


def test_texts_without_repetition_give_fewer_tokens_than_asked_for() -> None:
    assert Tokenizer.train(["abc"], 1000).vocab_size == 257


def test_the_same_texts_train_the_same_tokenizer_in_every_process() -> None:
    program = (
        "import sys; from gptwo.tokenizer import Tokenizer; "
        "print(Tokenizer.train([sys.stdin.buffer.read().decode()], 300).fingerprint)"
    )
    outcome = subprocess.run([sys.executable, "-c", program], input=TEXT.encode(), capture_output=True, check=True)
    assert outcome.stdout.decode().strip() == BPE.fingerprint
    assert Tokenizer.train(iter([TEXT]), 300).fingerprint == BPE.fingerprint
    assert Tokenizer.train([TEXT], 299).fingerprint != BPE.fingerprint


@pytest.mark.parametrize("size", [256, 0, -5, 300.0, True, "300"])
def test_a_vocabulary_below_257_or_not_an_integer_is_refused(size: Any) -> None:
    with pytest.raises(TokenizerError, match="expected 257 or more"):
        Tokenizer.train([TEXT], size)


@pytest.mark.parametrize("make", [lambda texts: Tokenizer.train(texts, 300), Tokenizer.characters])
def test_texts_that_are_not_unicode_train_nothing(make: Callable[[list[Any]], Tokenizer]) -> None:
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at character 1"):
        make(["fine", "a\ud800"])
    with pytest.raises(TokenizerError, match="text is a str, got bytes"):
        make([b"bytes"])


def test_training_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Tokenizer.train([TEXT], 300)
    assert capfd.readouterr() == ("", "")


# ---- characters


def test_a_character_tokenizer_numbers_characters_by_code_point() -> None:
    tokenizer = Tokenizer.characters(["hello", " world\n"])
    assert [tokenizer.token_text(i) for i in range(tokenizer.vocab_size)] == [*"\n dehlorw", END_OF_TEXT]
    assert tokenizer.end_of_text_id == 9
    assert tokenizer.encode("hello") == [4, 3, 5, 5, 6]


@pytest.mark.parametrize("allow_special", [False, True])
def test_a_character_outside_the_vocabulary_is_named(allow_special: bool) -> None:
    with pytest.raises(TokenizerError, match=r"no token for 'ß' \(U\+00DF\); it knows the 4 characters"):
        Tokenizer.characters(["abcd"]).encode("abß", allow_special=allow_special)


def test_combining_marks_and_line_ends_are_characters_of_their_own() -> None:
    text = "e\u0301\r\n\r\x00👨‍👩‍👧"
    tokenizer = Tokenizer.characters([text])
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


# ---- special tokens


@pytest.mark.parametrize("tokenizer", [BPE, Tokenizer.characters([TEXT, END_OF_TEXT])], ids=["bpe", "characters"])
def test_the_end_of_text_in_a_text_is_plain_text_unless_allowed(tokenizer: Tokenizer) -> None:
    text = f"the {END_OF_TEXT} end"
    end = tokenizer.end_of_text_id
    assert end not in tokenizer.encode(text)
    assert end not in tokenizer.encode_batch([text])[0]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text, allow_special=True).count(end) == 1
    assert tokenizer.encode_batch([text], allow_special=True) == [tokenizer.encode(text, allow_special=True)]
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True), skip_special=True) == "the  end"
    assert tokenizer.is_special(end)
    assert not tokenizer.is_special(0)


def test_threads_that_allow_special_tokens_and_threads_that_do_not_may_share_a_tokenizer() -> None:
    text = f"{END_OF_TEXT} the cat " * 20

    def encode(i: int) -> bool:
        return BPE.end_of_text_id in BPE.encode(text, allow_special=i % 2 == 1)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode, range(400))) == [False, True] * 200


def test_a_file_that_calls_the_end_of_text_not_special_does_not_let_a_text_inject_it(tmp_path: Path) -> None:
    tokenizer = _loaded(tmp_path, lambda o: o["added_tokens"][0].update(special=False))
    assert tokenizer.end_of_text_id not in tokenizer.encode(END_OF_TEXT)
    assert tokenizer.is_special(tokenizer.end_of_text_id)


def test_added_tokens_that_are_not_special_are_found_in_plain_text(tmp_path: Path) -> None:
    extra = {"id": 300, "content": "<user é>", "special": False, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    tokenizer = _loaded(tmp_path, lambda o: o["added_tokens"].append(extra | flags))
    ids = tokenizer.encode(f"the <user é>{END_OF_TEXT}")
    assert ids.count(300) == 1
    assert 299 not in ids
    assert tokenizer.decode(ids) == f"the <user é>{END_OF_TEXT}"
    assert tokenizer.token_bytes(300) == "<user é>".encode()


def test_padding_truncation_and_templates_of_a_file_do_not_change_the_ids(tmp_path: Path) -> None:
    def change(o: dict[str, Any]) -> None:
        o["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
        token = {"id": END_OF_TEXT, "type_id": 0}
        o["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": token}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [299], "tokens": [END_OF_TEXT]}},
        }
        o["model"]["dropout"] = 0.9

    assert _loaded(tmp_path, change).encode(TEXT) == BPE.encode(TEXT)
    assert _loaded(tmp_path, change).encode(TEXT, allow_special=True) == BPE.encode(TEXT)


# ---- text to ids and back


@pytest.mark.parametrize("tokenizer", [BPE, Tokenizer.train([TEXT], 257)], ids=["merges", "bytes"])
@given(text=UNICODE)
def test_decoding_what_was_encoded_gives_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, "x"])[0] == ids
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@given(ids=st.lists(st.integers(0, BPE.vocab_size - 1)))
def test_decoding_any_ids_is_decoding_their_bytes_with_replacement(ids: list[int]) -> None:
    assert BPE.decode(ids) == b"".join(map(BPE.token_bytes, ids)).decode("utf-8", "replace")


def test_the_empty_text_and_the_empty_batch_are_no_ids() -> None:
    assert BPE.encode("") == []
    assert BPE.decode([]) == ""
    assert BPE.encode_batch([]) == []
    assert CHARACTERS.encode_batch(["", "cat"]) == [[], CHARACTERS.encode("cat")]


def test_ids_may_be_numpy_integers() -> None:
    assert BPE.decode(np.array(BPE.encode("the mat"))) == "the mat"


@pytest.mark.parametrize(
    "token_id", [-1, 300, 10**5000, None, 1.5, "1"], ids=lambda value: str(value)[:9] if value != 10**5000 else "huge"
)
def test_an_id_without_a_token_is_refused(token_id: Any) -> None:
    for attempt in (
        lambda: BPE.decode([0, token_id]),
        lambda: BPE.token_text(token_id),
        lambda: BPE.stream().push(token_id),
    ):
        with pytest.raises(TokenizerError, match="token id"):
            attempt()


@pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS], ids=["bpe", "characters"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    for attempt in (lambda: tokenizer.encode("cat\udfff"), lambda: tokenizer.encode_batch(["cat", "cat\udfff"])):
        with pytest.raises(TokenizerError, match=r"lone surrogate U\+DFFF at character 3"):
            attempt()


def test_a_vocabulary_without_some_bytes_refuses_the_characters_that_it_would_lose(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("abba") == [2, 1, 0]
    assert tokenizer.end_of_text_id is None
    for attempt in (lambda: tokenizer.encode("abc"), lambda: tokenizer.encode_batch(["ab", "abc"])):
        with pytest.raises(TokenizerError, match="no token for the bytes of 'c'"):
            attempt()


def test_the_alphabet_is_one_printable_character_for_each_byte() -> None:
    assert sorted(BYTE_OF_CHARACTER.values()) == list(range(256))
    assert all(character.isprintable() and not character.isspace() for character in BYTE_OF_CHARACTER)
    assert BYTE_OF_CHARACTER["Ġ"] == 0x20
    assert BYTE_OF_CHARACTER["Ċ"] == 0x0A


# ---- streaming


@given(ids=st.lists(st.integers(0, BPE.vocab_size - 1)))
def test_streamed_pieces_join_to_what_decode_gives(ids: list[int]) -> None:
    stream = BPE.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == BPE.decode(ids)
    assert stream.flush() == ""


@given(text=UNICODE.filter(lambda text: "\ufffd" not in text))
def test_a_streamed_character_is_never_cut_and_comes_with_its_last_byte(text: str) -> None:
    tokenizer = Tokenizer.train([TEXT], 257)  # a token for each byte: as many cuts as there can be
    stream = tokenizer.stream()
    for character in text:
        *first, last = tokenizer.encode(character)
        assert [stream.push(token_id) for token_id in first] == [""] * len(first)
        assert stream.push(last) == character
    assert stream.flush() == ""


@given(ids=st.lists(st.integers(0, BPE.vocab_size - 1)))
def test_a_stream_holds_back_only_what_may_still_become_a_character(ids: list[int]) -> None:
    stream, seen, emitted = BPE.stream(), b"", ""
    for token_id in ids:
        seen += BPE.token_bytes(token_id)
        emitted += stream.push(token_id)
        held = next(n for n in range(4) if seen[: len(seen) - n].decode("utf-8", "replace") == emitted)
        if held:  # the held bytes are the start of some character: with continuation bytes they become one
            tail = seen[len(seen) - held :]
            # CPython also waits for the last byte of an encoded surrogate, which no character is.
            surrogate = tail[0] == 0xED and len(tail) == 2
            endings = [bytes([byte]) * count for byte in (0x80, 0xBF) for count in (1, 2, 3)]
            assert surrogate or any(_is_character(tail + ending) for ending in endings)


def test_flush_gives_a_replacement_for_a_character_that_never_became_whole() -> None:
    tokenizer = Tokenizer.train([TEXT], 257)
    ids = tokenizer.encode("a🎉")[:-1]
    stream = tokenizer.stream()
    assert [stream.push(token_id) for token_id in ids] == ["a", "", "", ""]
    assert stream.flush() == "\ufffd"
    assert stream.push(tokenizer.encode("b")[0]) == "b"


def test_a_stream_can_leave_out_special_tokens() -> None:
    ids = BPE.encode(f"the{END_OF_TEXT}cat", allow_special=True)
    stream = BPE.stream(skip_special=True)
    assert "".join(map(stream.push, ids)) + stream.flush() == "thecat"


# ---- files


@pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS], ids=["bpe", "characters"])
def test_a_saved_tokenizer_is_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "new" / "directory")
    assert sorted(p.name for p in (tmp_path / "new" / "directory").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for path in (tmp_path / "new" / "directory", tmp_path / "new" / "directory" / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
        assert loaded.end_of_text_id == tokenizer.end_of_text_id
    assert Tokenizer.exists(tmp_path / "new" / "directory")
    assert not Tokenizer.exists(tmp_path)


def test_a_pickled_tokenizer_still_takes_the_end_of_text_for_plain_text() -> None:
    copy = pickle.loads(pickle.dumps(BPE))  # noqa: S301 - made here
    assert copy.encode(END_OF_TEXT) == BPE.encode(END_OF_TEXT)
    assert copy.fingerprint == BPE.fingerprint


def test_a_failed_save_says_where_and_leaves_the_old_file(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer_config.json").mkdir()
    with pytest.raises(TokenizerError, match="cannot be written"):
        BPE.save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    with pytest.raises(TokenizerError, match="cannot be written"):
        BPE.save(tmp_path / "tokenizer.json")


def test_tokens_of_an_added_tokens_file_are_read(tmp_path: Path) -> None:
    _write_pair(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<bot>": 301, "<pad>": 300}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("<pad><bot>the") == [300, 301, *BPE.encode("the")]
    assert tokenizer.decode([301]) == "<bot>"
    for broken in ('{"<bot>": 500}', '{"<bot>": "x"}', "[]x", "[" * 10_000, '{"<bot>": null, "<pad>": 300}'):
        (tmp_path / "added_tokens.json").write_text(broken)
        with pytest.raises(TokenizerError, match=r"added_tokens\.json"):
            Tokenizer.load(tmp_path)


def test_a_vocabulary_with_merges_is_read_when_there_is_no_tokenizer_json(tmp_path: Path) -> None:
    _write_pair(tmp_path)
    assert Tokenizer.exists(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (BPE.vocab_size, BPE.end_of_text_id)
    assert tokenizer.encode(TEXT + END_OF_TEXT) == BPE.encode(TEXT + END_OF_TEXT)


def test_a_path_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"absent: no such file"):
        Tokenizer.load(tmp_path / "absent")
    (tmp_path / "vocab.json").write_text("{}")
    assert not Tokenizer.exists(tmp_path)
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        Tokenizer.load(str(tmp_path))


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(o: dict[str, Any]) -> None:
        for key in path[:-1]:
            o = o[key]
        o[path[-1]] = to

    return change


def _drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(o: dict[str, Any]) -> None:
        for key in path[:-1]:
            o = o[key]
        del o[path[-1]]

    return change


BROKEN = {
    "no model": _drop("model"),
    "a model of another type": _set("model", to=7),
    "a merge of unknown tokens": lambda o: o["model"]["merges"].append(["zz", "qq"]),
    "a merge of three parts": lambda o: o["model"]["merges"].append(["a", "b", "c"]),
    "a negative id": _set("model", "vocab", "a", to=-1),
    "an id beyond 32 bits": _set("model", "vocab", "a", to=2**32 + 5),
    "an id that is text": _set("model", "vocab", "a", to="5"),
    "an id given twice": _set("model", "vocab", "a", to=6),
    "a hole in the ids": _drop("model", "vocab", "the"),
    "a huge id": _set("model", "vocab", "the", to=2**32 - 1),
    "an added token without content": _drop("added_tokens", 0, "content"),
    "a prefix that parts of words carry": _set("model", "continuing_subword_prefix", to="##########"),
    "a suffix that words carry": _set("model", "end_of_word_suffix", to="</w>"),
    "no decoder": _set("decoder", to=None),
    "another decoder": _set("decoder", to={"type": "WordPiece", "prefix": "##", "cleanup": True}),
    "no pre-tokenizer": _set("pre_tokenizer", to=None),
    "a pre-tokenizer that leaves no bytes": _set("pre_tokenizer", to={"type": "Whitespace"}),
    "an expression that is none": _set(
        "pre_tokenizer", to={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    ),
    "words": _set("model", to={"type": "WordLevel", "vocab": {"cat": 0}, "unk_token": "cat"}),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_tokenizer_json_is_an_error_that_names_the_file(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: ") as caught:
        _loaded(tmp_path, change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"model":' * 50_000, b"1e999", b"\x00" * 100],
    ids=lambda data: repr(data[:9]),
)
def test_a_file_that_is_no_json_object_is_an_error_that_names_it(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a tokenizer\.json that can be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("vocabulary", "merges"),
    [
        ("{", "a b\n"),
        ("[]", "a b\n"),
        ('{"a": "x"}', ""),
        ('{"a": 0, "b": 0, "ab": 1}', "a b\n"),
        ('{"a": 0, "b": 5, "ab": 2}', "a b\n"),
        ('{"a": -1}', ""),
        ('{"a": 0, "b": 1}', "a b\n"),
        ('{"a": 0, "b": 1, "ab": 2}', "a b ab\n"),
        ('{"a": 0, "b": 1, "ab": 2}', "ab\n"),
        ("[" * 100_000, ""),
        ("\x00", "\x00"),
    ],
)
def test_a_broken_vocabulary_or_merges_is_an_error_that_names_the_files(
    vocabulary: str, merges: str, tmp_path: Path
) -> None:
    (tmp_path / "vocab.json").write_text(vocabulary)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(TokenizerError, match=r"vocab\.json: "):
        Tokenizer.load(tmp_path)


def test_a_panic_in_the_library_is_still_our_error(tmp_path: Path) -> None:
    # Such a panic derives from BaseException, so that `except Exception` would let it through.
    content = json.loads(BPE._json)
    content["model"] |= {"continuing_subword_prefix": "###", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: "):
        Tokenizer.load(tmp_path)


@settings(max_examples=150)
@given(data=st.data())
def test_any_change_of_a_byte_gives_a_tokenizer_or_a_typed_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(Tokenizer.characters(["abc"])._json.encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.json"
    path.write_bytes(whole)
    try:
        assert Tokenizer.load(path).vocab_size == 4
    except TokenizerError as error:
        assert "changed.json" in str(error)  # noqa: PT017 - both outcomes are right


# ---- padding


def test_a_batch_is_padded_on_the_left_or_on_the_right() -> None:
    ids, mask = pad([[7, 8, 9], [5], []], side="left", pad_id=0)
    assert_array_equal(ids, [[7, 8, 9], [0, 0, 5], [0, 0, 0]])
    assert_array_equal(mask, [[1, 1, 1], [0, 0, 1], [0, 0, 0]])
    ids, mask = pad([[7, 8, 9], [5]], side="right", pad_id=1, length=4)
    assert_array_equal(ids, [[7, 8, 9, 1], [5, 1, 1, 1]])
    assert_array_equal(mask, [[1, 1, 1, 0], [1, 0, 0, 0]])
    assert ids.dtype == mask.dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"batch": []}, "batch"),
        ({"length": 2}, "length"),
        ({"length": 3.5}, "length"),
        ({"side": "middle"}, "side"),
        ({"pad_id": -1}, "pad_id"),
        ({"pad_id": None}, "pad_id"),
    ],
)
def test_padding_that_makes_no_sense_is_refused(arguments: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        pad(**({"batch": [[1, 2, 3]], "side": "left", "pad_id": 0} | arguments))
    assert caught.value.param == param


def _is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


def _write(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(BPE._json)
    change(content)
    (directory / "tokenizer.json").write_text(json.dumps(content))


def _loaded(directory: Path, change: Callable[[dict[str, Any]], Any]) -> Tokenizer:
    _write(directory, change)
    return Tokenizer.load(directory)


def _write_pair(directory: Path) -> None:
    model = json.loads(BPE._json)["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"] | {END_OF_TEXT: 299}))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))


@given(st.lists(st.sampled_from(["a", " ", "  ", "\n", "'s", "9", "é", "-", " the", "\u00a0", END_OF_TEXT, " x"])))
def test_a_long_text_is_cut_into_the_same_tokens_in_parts_and_whole(pieces: list[str]) -> None:
    text = "".join(pieces)
    cut = [*parts(text, 3)]
    assert "".join(cut) == text
    assert [token for part in cut for token in BPE.encode(part)] == BPE.encode(text)


def test_megabytes_are_encoded_in_parts_only_where_words_are_cut_in_any_case() -> None:
    text = "a long text of words, and 3 numbers;\n " * 2_000
    assert len([*parts(text)]) > 1
    assert BPE.decode(BPE.encode(text)) == text
    assert len([*parts("x" * 100_000)]) == 1
