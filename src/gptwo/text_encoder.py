"""Text to token ids, by the library `tokenizers` or, for single characters, a dictionary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from gptwo.errors import TokenizerError, one_line
from gptwo.tokenizer_kinds import BYTE_OF_CHARACTER, characters_if_single, check_text

if TYPE_CHECKING:
    import tokenizers

LONG_TEXT = (
    2048  # characters; encoding more takes milliseconds, in which the library lets other threads run only if asked
)
LONGEST_PART = 32_768  # characters that are encoded at a time; more where there is no place to cut
_BETWEEN_WORDS = re.compile("(?<=[0-9A-Za-z]) (?=[A-Za-z])")


class TextEncoder:
    """The encoding of one tokenizer; never changes.

    `characters` is the id of each character for a tokenizer of single characters, None for byte-level BPE.
    """

    def __init__(self, inner: tokenizers.Tokenizer, special: set[int]) -> None:
        """special: the ids of special tokens. Raises TokenizerError for a kind that gptwo does not read."""
        self._inner = inner
        self._added = {token_id: token.content for token_id, token in inner.get_added_tokens_decoder().items()}
        self._special = special
        self.characters = characters_if_single(inner)
        if self.characters is None:
            inner.model.dropout = None  # text has one encoding
        # The library's switch between the two is a property of the instance: with two, none is switched between calls.
        self._marked = self._bare()
        self._plain = self._bare()
        self._plain.encode_special_tokens = True
        for token_id in special if self.characters is None else ():
            if token_id in self._plain.encode(self._added[token_id]).ids:
                raise TokenizerError(f"its special token {self._added[token_id]!r} cannot be told from plain text")
        self._missing = {byte for stand_in, byte in BYTE_OF_CHARACTER.items() if inner.token_to_id(stand_in) is None}

    def _bare(self) -> tokenizers.Tokenizer:
        """Another instance over the same model, which gives the ids of a text and nothing beside them."""
        import tokenizers

        encoder = tokenizers.Tokenizer(self._inner.model)
        if self._inner.normalizer is not None:
            encoder.normalizer = self._inner.normalizer
        if self._inner.pre_tokenizer is not None:
            encoder.pre_tokenizer = self._inner.pre_tokenizer
        for token_id, token in sorted(self._inner.get_added_tokens_decoder().items()):
            token.special = token_id in self._special
            encoder.add_tokens([token])
            if encoder.token_to_id(token.content) != token_id:
                raise TokenizerError(f"its added token {token.content!r} has id {token_id}, not the next free one")
        return encoder

    @cached_property
    def cuts_words(self) -> bool:
        """Whether text is cut into words in GPT-2's way and nothing else is done to it before."""
        from tokenizers import pre_tokenizers

        splitter = self._inner.pre_tokenizer
        return (
            self.characters is None
            and self._inner.normalizer is None
            and self._special.issuperset(self._added)
            and isinstance(splitter, pre_tokenizers.ByteLevel)
            and bool(splitter.use_regex)
            and not splitter.add_prefix_space
        )

    def encode(self, text: str, *, allow_special: bool) -> list[int]:
        """See `Tokenizer.encode`."""
        if self.characters is not None and not allow_special:
            try:
                return [self.characters[character] for character in text]
            except KeyError:
                self._explain(text)
        if self._missing and self.characters is None:
            self._check_bytes(text)
        encoder = self._marked if allow_special else self._plain
        try:
            if len(text) <= LONG_TEXT:
                return list(encoder.encode(text, add_special_tokens=False).ids)
            ids: list[int] = []
            for part in parts(text) if self.cuts_words and not allow_special else (text,):
                (encoding,) = encoder.encode_batch_fast([part], add_special_tokens=False)
                ids += encoding.ids
        except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
            self._explain(text, error)
        return ids

    def encode_batch(self, texts: Sequence[str], *, allow_special: bool) -> list[list[int]]:
        """See `Tokenizer.encode_batch`."""
        if self.characters is not None or self._missing:
            return [self.encode(text, allow_special=allow_special) for text in texts]
        encoder = self._marked if allow_special else self._plain
        try:
            encodings = encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:
            for text in texts:
                check_text(text)
            raise TokenizerError(f"the texts cannot be encoded ({one_line(error)})") from error
        return [list(encoding.ids) for encoding in encodings]

    def _explain(self, text: str, error: Exception | None = None) -> NoReturn:
        """Raise the TokenizerError that says why `text` has no encoding."""
        check_text(text)
        known = self.characters
        for character in text if known is not None else ():
            if known is not None and character not in known:
                raise TokenizerError(
                    f"the tokenizer has no token for {character!r} (U+{ord(character):04X}); it knows the "
                    f"{len(known)} characters of its training text"
                ) from error
        raise TokenizerError(f"the text cannot be encoded ({one_line(error)})") from error

    def _check_bytes(self, text: str) -> None:
        # Without this the library would leave out in silence what the vocabulary has no byte for.
        check_text(text)
        if getattr(self._inner.model, "unk_token", None) is None and self._inner.normalizer is None:
            for character in text:
                if not self._missing.isdisjoint(character.encode()):
                    raise TokenizerError(f"the tokenizer has no token for the bytes of {character!r}")


def parts(text: str, longest: int = LONGEST_PART) -> Iterator[str]:
    """A text in parts that are cut between two words, where its tokens are cut in any case.

    Other threads wait while the ids of one part are taken over, which for a text of megabytes is too long.
    """
    start = 0
    while len(text) - start > longest:
        cut = _BETWEEN_WORDS.search(text, start + longest)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]
