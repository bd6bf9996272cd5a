"""Text from tokens: stop strings against a search that looks at every character, whatever the tokens are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptwo.engine.text import TextAssembler
from gptwo.tokenizer import IncrementalDecoder

# Few letters, so that texts are full of beginnings of stop strings; of one, two, three and four bytes.
LETTERS = "ab é字😀"
TEXTS = st.text(st.sampled_from(LETTERS), max_size=24)
STOPS = st.lists(st.text(st.sampled_from(LETTERS), min_size=1, max_size=5), max_size=4)


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A text, and its bytes in pieces: any cut is a tokenization, inside a character too."""
    text = draw(TEXTS)
    data = text.encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=len(data))))
    return text, [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def assembler(tokens: Sequence[bytes], stops: Sequence[str], include_stop: bool = False) -> TextAssembler:
    return TextAssembler(IncrementalDecoder(tokens.__getitem__), stops, include_stop=include_stop)


def assemble(
    tokens: Sequence[bytes], stops: Sequence[str], include_stop: bool = False, first_that_may_stop: int = 0
) -> tuple[list[str], str | None]:
    """The pieces, the one of the flush as the last, and the stop string that ended the text."""
    text, pieces = assembler(tokens, stops, include_stop), []
    for number in range(len(tokens)):
        pieces.append(text.push(number, may_stop=number >= first_that_may_stop))
        if text.stopped_by is not None:
            return pieces, text.stopped_by
    pieces.append(text.flush(may_stop=len(tokens) > first_that_may_stop))
    return pieces, text.stopped_by


def cut_at_stop(
    text: str, stops: Sequence[str], include_stop: bool = False, completed_from: int = 1
) -> tuple[str, str | None]:
    """The plainest search: character by character, the longest stop string that ends there."""
    for end in range(completed_from, len(text) + 1):
        found = max((stop for stop in stops if text[:end].endswith(stop)), key=len, default=None)
        if found is not None:
            return text[: end if include_stop else end - len(found)], found
    return text, None


@given(cut_texts(), STOPS, st.booleans())
def test_the_text_ends_at_the_stop_string_that_is_complete_first_however_it_is_cut(cut, stops, include_stop):
    text, tokens = cut
    pieces, stopped_by = assemble(tokens, stops, include_stop)
    assert ("".join(pieces), stopped_by) == cut_at_stop(text, stops, include_stop)


@given(cut_texts(), STOPS, st.booleans())
def test_no_piece_ever_goes_beyond_the_final_text_and_none_comes_later_than_it_must(cut, stops, include_stop):
    text, tokens = cut
    final, _ = cut_at_stop(text, stops, include_stop)
    pieces, stopped_by = assemble(tokens, stops, include_stop)
    for count in range(1, len(pieces)):
        emitted = "".join(pieces[:count])
        assert final.startswith(emitted)
        known = b"".join(tokens[:count]).decode(errors="ignore")  # all but a character that has only begun
        if stopped_by is None or count < len(pieces):
            held = max(
                (n for stop in stops for n in range(1, len(stop)) if known.endswith(stop[:n])),
                default=0,
            )
            assert emitted == known[: len(known) - held]


@given(cut_texts(), STOPS, st.integers(0, 12))
def test_a_stop_string_counts_if_it_is_complete_once_it_may_stop(cut, stops, first):
    text, tokens = cut
    before = b"".join(tokens[:first]).decode(errors="ignore")
    pieces, stopped_by = assemble(tokens, stops, first_that_may_stop=first)
    assert ("".join(pieces), stopped_by) == cut_at_stop(text, stops, completed_from=len(before) + 1)


@given(st.lists(st.binary(max_size=4), max_size=10), st.lists(st.text("a\ufffd", min_size=1, max_size=3), max_size=2))
@example([b"\xf0\x9f", b"a"], [])
@example([b"a\xf0\x9f"], ["\ufffd"])
def test_bytes_that_are_no_text_become_replacement_characters(tokens, stops):
    whole = b"".join(tokens).decode(errors="replace")
    pieces, stopped_by = assemble(tokens, stops)
    assert ("".join(pieces), stopped_by) == cut_at_stop(whole, stops)


@pytest.mark.parametrize(
    ("tokens", "stops", "pieces", "stopped_by"),
    [
        # A tail that only looked like a stop string is given back, at once or at the end.
        (["Hello\n", "world", "\n"], ["\n\n"], ["Hello", "\nworld", "", "\n"], None),
        (["a", "b", "c"], ["abd"], ["", "", "abc", ""], None),
        (["x", "<", "|", "end"], ["<|end|>"], ["x", "", "", "", "<|end"], None),
        # A stop string over several tokens, and what follows it within its last token.
        (["The ", "EN", "D of it"], ["END"], ["The ", "", ""], "END"),
        # Of two that end together the longest; else the first that is complete, though another began earlier.
        (["xaab"], ["b", "aab", "ab"], ["x"], "aab"),
        (["abcd"], ["abcd", "bc"], ["a"], "bc"),
        # An overlap that begins anew: the held "aa" is no lost beginning of "aab".
        (["a", "a", "a", "b"], ["aab"], ["", "", "a", ""], "aab"),
    ],
)
def test_cases_worked_out_by_hand(tokens, stops, pieces, stopped_by):
    assert assemble([token.encode() for token in tokens], stops) == (pieces, stopped_by)


def test_what_was_complete_before_it_may_stop_is_never_found_again_nor_held_back() -> None:
    tokens = [b"a", b"b", b"x"]
    assert assemble(tokens, ["b", "abc"], first_that_may_stop=2) == (["", "", "abx", ""], None)
    assert assemble(tokens, ["ab"], first_that_may_stop=2) == (["", "ab", "x", ""], None)
    assert assemble(tokens, ["ab"], first_that_may_stop=1) == (["", ""], "ab")


def test_the_stop_string_stays_where_that_is_asked_for_and_nothing_behind_it():
    assert assemble([b"one", b" st", b"op two"], ["stop"], include_stop=True) == (["one", " ", "stop"], "stop")


def test_a_character_over_four_tokens_comes_in_one_piece_and_can_end_the_text():
    bytes_of_face = [bytes([byte]) for byte in "😀".encode()]
    assert assemble([b"a", *bytes_of_face, b"b"], []) == (["a", "", "", "", "😀", "b", ""], None)
    assert assemble([b"a", *bytes_of_face, b"b"], ["😀"]) == (["a", "", "", "", ""], "😀")


def test_what_the_flush_completes_can_end_the_text():
    assert assemble([b"a\xf0\x9f"], ["a\ufffd"]) == (["", ""], "a\ufffd")
