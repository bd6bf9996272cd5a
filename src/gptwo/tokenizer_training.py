"""A tokenizer made from texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gptwo.errors import TokenizerError
from gptwo.options import shown
from gptwo.tokenizer_kinds import END_OF_TEXT, add_end_of_text, check_text, with_byte_level

if TYPE_CHECKING:
    import tokenizers

_LONG_WORD = re.compile(r"\S{1000}|\s{1000}")


def trained_bpe(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """See `Tokenizer.train`."""
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 257:
        raise TokenizerError(f"vocab_size is {shown(vocab_size)}, expected 257 or more: 256 bytes and {END_OF_TEXT}")
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    inner = with_byte_level(tokenizers.Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(_in_short_words(_checked(texts)), trainer=trainer)
    add_end_of_text(inner)
    return inner


def distinct_characters(texts: Iterable[str]) -> list[str]:
    """Each character of the texts once, by code point. Raises TokenizerError for a text that is not Unicode."""
    found: set[str] = set()
    for text in _checked(texts):
        found.update(text)
    return sorted(found)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        check_text(text)
        yield text


def _in_short_words(texts: Iterable[str]) -> Iterator[str]:
    """Texts, cut where a word has more than a thousand characters: the trainer's time grows with their square."""
    for text in texts:
        start = 0
        for long in _LONG_WORD.finditer(text):
            yield text[start : long.end()]
            start = long.end()
        yield text[start:]
