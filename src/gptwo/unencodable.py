"""Where in a text the character stands that a tokenizer has no token for."""

from __future__ import annotations

from gptwo.errors import TokenizerError
from gptwo.tokenizer import Tokenizer


def unencodable_line(tokenizer: Tokenizer, text: str) -> int | None:
    """The line, from 1, that cannot be encoded; None if there is none. For a message: it encodes line by line."""
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        start += len(line) + 1
        try:
            tokenizer.encode(line + text[start - 1 : start])  # with its line end, which may be what is wrong
        except TokenizerError:
            return number
    return None


def placed(error: TokenizerError, place: str, tokenizer: Tokenizer | None, text: str) -> TokenizerError:
    """The error of a text that cannot be encoded with the text's place before it, and the line."""
    line = None if tokenizer is None else unencodable_line(tokenizer, text)
    return TokenizerError(f"{place}{'' if line is None else f' line {line}'}: {error}")
