"""The two kinds of tokenizer that gptwo has, byte-level BPE and single characters: made, and told from all others.

Both are instances of Hugging Face's `tokenizers`, which is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gptwo.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
READS = "gptwo reads byte-level BPE (GPT-2's kind) and its own character tokenizers"
_NO_TOKEN = "<unk>"  # WordLevel wants a name for what it doesn't know; no vocabulary of ours holds it


def _alphabet() -> dict[str, int]:
    """The printable stand-in of each byte, and the byte: Latin-1's printable characters stand for themselves,
    the other 68 bytes take U+0100 onwards in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER = _alphabet()


# ---- made


def byte_level_bpe(
    names: Sequence[str], merges: Sequence[tuple[str, str]], special: Sequence[int], added: Sequence[int] = ()
) -> tokenizers.Tokenizer:
    """GPT-2's kind from the name of each id, merges in order of rank, and the ids of special and of added tokens.

    Raises TokenizerError for a token that is there twice; the library raises bare Exceptions for the rest.
    """
    import tokenizers
    from tokenizers import AddedToken, models

    vocabulary = {name: token_id for token_id, name in enumerate(names)}
    if len(vocabulary) != len(names):
        raise TokenizerError("a token is there twice")
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, list(merges)))
    inner.add_tokens([AddedToken(names[token_id], normalized=False) for token_id in added])
    inner.add_special_tokens([AddedToken(names[token_id], special=True, normalized=False) for token_id in special])
    return with_byte_level(inner)


def with_byte_level(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same instance, which now cuts text and spells bytes as GPT-2 does."""
    from tokenizers import decoders, pre_tokenizers

    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    return inner


def single_characters(characters: Sequence[str], has_end: bool) -> tokenizers.Tokenizer:
    """A token for each character, in order, and, with `has_end`, `<|endoftext|>` as the last."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    vocabulary = {character: i for i, character in enumerate(characters)}
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=_NO_TOKEN))
    inner.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), behavior="isolated")
    inner.decoder = decoders.Fuse()
    if has_end:
        add_end_of_text(inner)
    return inner


def add_end_of_text(inner: tokenizers.Tokenizer) -> None:
    """Make `<|endoftext|>` a special token, with the next free id if the vocabulary does not have it."""
    from tokenizers import AddedToken

    inner.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])


# ---- told from others


def characters_if_single(inner: tokenizers.Tokenizer) -> dict[str, int] | None:
    """None for byte-level BPE; for a character tokenizer, the id of each character. TokenizerError for other kinds."""
    from tokenizers import decoders, models, pre_tokenizers

    model, splitter, decoder = inner.model, inner.pre_tokenizer, inner.decoder
    if isinstance(model, models.BPE) and isinstance(decoder, decoders.ByteLevel):
        if model.continuing_subword_prefix or model.end_of_word_suffix:
            raise TokenizerError(f"its tokens carry marks for parts of words; {READS}")
        pieces = splitter.pre_tokenize_str("\x00é") if splitter is not None else []
        if "ĀÃ©" not in "".join(piece for piece, _ in pieces):
            raise TokenizerError(f"its pre_tokenizer does not turn text into bytes; {READS}")
        return None
    ours = isinstance(decoder, decoders.Fuse) and isinstance(splitter, pre_tokenizers.Split)
    if isinstance(model, models.WordLevel) and ours and inner.normalizer is None:
        added = inner.get_added_tokens_decoder()
        vocabulary = inner.get_vocab(with_added_tokens=True)
        characters = {token: i for token, i in vocabulary.items() if i not in added}
        if all(len(token) == 1 for token in characters):
            return characters
    with_decoder = "no" if decoder is None else f"a {type(decoder).__name__}"
    raise TokenizerError(f"it is a {type(model).__name__} model with {with_decoder} decoder; {READS}")


def check_text(text: str) -> None:
    """Raise TokenizerError for what is no text, or not Unicode, which no tokenizer takes."""
    if not isinstance(text, str):
        raise TokenizerError(f"text is a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text is not Unicode: a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        ) from error
