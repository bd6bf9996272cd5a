"""Byte-level BPE, as GPT-2 has it, and a tokenizer of single characters.

Text becomes UTF-8 bytes; each byte has a printable stand-in (`Ġ` for the space), and merges join neighbours inside
the pieces that GPT-2's regular expression cuts. Hugging Face's `tokenizers` does that work; turning ids back into text
is done here, on bytes, so that a character spread over several tokens is never cut in two.
Source: Radford et al. 2019, section 2.2; the alphabet and the expression are those of the released encoder.

B sequences in a batch, T tokens.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptwo.errors import TokenizerError
from gptwo.files import replace_file
from gptwo.incremental_decoder import IncrementalDecoder
from gptwo.options import shown
from gptwo.padding import pad
from gptwo.text_encoder import TextEncoder
from gptwo.tokenizer_kinds import BYTE_OF_CHARACTER, END_OF_TEXT, single_characters
from gptwo.tokenizer_reading import GGUF_SUFFIX, has_tokenizer, read_tokenizer
from gptwo.tokenizer_table import TokenTable, write_table
from gptwo.tokenizer_training import distinct_characters, trained_bpe

if TYPE_CHECKING:
    import tokenizers

    from gptwo.vocabulary_files import Vocabulary

__all__ = ["BYTE_OF_CHARACTER", "END_OF_TEXT", "GGUF_SUFFIX", "IncrementalDecoder", "Tokenizer", "pad"]

# The library `tokenizers` is imported where it is used: a model with a table beside its tokenizer may do without it.


class Tokenizer:
    """Text to token ids and back. Made by `load`, `train` or `characters`; never changes, so threads may share it.

    `vocab_size` is the highest id + 1, `end_of_text_id` the id of `<|endoftext|>` or None, `fingerprint` the SHA-256 of
    the canonical tokenizer.json, the same before and after a save.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        """Take over an instance of `tokenizers`; TokenizerError if it is of a kind that gptwo does not read."""
        added = inner.get_added_tokens_decoder()
        self._inner = inner
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._special = {i for i, token in added.items() if token.special or token.content == END_OF_TEXT}
        self.vocab_size: int = inner.get_vocab_size(with_added_tokens=True)
        # As many ids as strings, and every id below that number taken: no hole, and no id given twice.
        if self.vocab_size == 0 or None in map(inner.id_to_token, range(self.vocab_size)):
            raise TokenizerError("its vocabulary is empty, or its ids are not 0, 1, 2, ... each given to one token")
        self.end_of_text_id: int | None = inner.token_to_id(END_OF_TEXT)
        self._encoder = TextEncoder(inner, self._special)
        self._characters = self._encoder.characters
        self._bytes: dict[int, bytes] = {}

    # ---- making one

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether `load(path)` would find files in a directory, or in a GGUF file; they may still be broken."""
        return has_tokenizer(Path(path))

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a directory or a file.

        In a directory: tokenizer.json, else vocab.json with merges.txt, encoder.json with vocab.bpe (OpenAI's names of
        the same), llm.c's gpt2_tokenizer.bin, or the raw form's vocabulary.bin. A file: a tokenizer.json, one of the
        last two, or a GGUF with a tokenizer in it.

        Where a directory has a table of its tokenizer.json (see `save`), that is read instead, and tokenizer.json when
        it is needed. Raises TokenizerError, naming the file, if there is none, or it is broken or of another kind.
        """
        if path == "":  # which pathlib takes for the working directory
            raise TokenizerError("a tokenizer's path is empty")
        path = Path(path)
        table = TokenTable.load(path)
        return read_tokenizer(path, cls) if table is None else _TableTokenizer(table, path / "tokenizer.json")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """A byte-level BPE made from texts: 256 bytes, merges in the order found, and `<|endoftext|>` as the last id.

        vocab_size counts all three and is at least 257; texts with few repetitions give fewer tokens. The same texts
        give the same tokenizer. No merge crosses from one text to the next.
        Raises TokenizerError for a vocab_size below 257 or a text that is not Unicode.
        """
        return cls(trained_bpe(texts, vocab_size))

    @classmethod
    def characters(cls, texts: Iterable[str]) -> Tokenizer:
        """One token for each distinct character of the texts, by code point, then `<|endoftext|>` as the last id.

        Raises TokenizerError for a text that is not Unicode.
        """
        return cls(single_characters(distinct_characters(texts), True))

    def save(self, directory: Path, *, table: bool = False) -> None:
        """Write tokenizer.json and tokenizer_config.json, from which transformers' AutoTokenizer makes its own.

        table: write tokenizer.table too, if this is a tokenizer of GPT-2's kind: `load` then takes a hundredth of the
        time. Each file appears whole or not at all. Raises TokenizerError if the directory cannot be written.
        """
        end = END_OF_TEXT if self.end_of_text_id is not None else None
        settings = {
            "add_prefix_space": False,
            "bos_token": end,
            "clean_up_tokenization_spaces": False,
            "eos_token": end,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": end if self._characters is None else None,
        }
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with replace_file(directory / "tokenizer.json") as file:
                file.write(self._json.encode())
            with replace_file(directory / "tokenizer_config.json") as file:
                file.write(json.dumps(settings, indent=2, sort_keys=True).encode() + b"\n")
            if table and self._characters is None:
                write_table(directory, list(map(self.token_bytes, range(self.vocab_size))), sorted(self._special))
        except OSError as error:
            raise TokenizerError(f"{directory}: the tokenizer cannot be written ({error.strerror})") from error

    @property
    def by_character(self) -> bool:
        """Whether there is a token for each character and none for several: text may be cut anywhere."""
        return self._characters is not None

    @property
    def _json(self) -> str:
        return str(self._inner.to_str())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the canonical tokenizer.json."""
        import hashlib

        return hashlib.sha256(self._json.encode()).hexdigest()

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer as other programs' formats write it."""
        from gptwo.vocabulary_files import Vocabulary

        model = json.loads(self._json)["model"]
        merges = model.get("merges", [])
        kind: Literal["gpt2", "characters", "other"] = "other"
        if self._characters is not None:
            kind = "characters"
        elif self._encoder.cuts_words and not model.get("ignore_merges"):
            kind = "gpt2"
        return Vocabulary(
            tokens=list(map(self.token_bytes, range(self.vocab_size))),
            names=[self._inner.id_to_token(token_id) or "" for token_id in range(self.vocab_size)],
            merges=[(left, right) for left, right in merges],
            special=frozenset(self._special),
            end_of_text_id=self.end_of_text_id,
            kind=kind,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._json,)

    # ---- text to ids

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of a text. `<|endoftext|>` in it is plain text, unless allow_special makes it the special token.

        Raises TokenizerError for text that is not Unicode (a lone surrogate), or that holds a character which the
        vocabulary does not have.
        """
        return self._encoder.encode(text, allow_special=allow_special)

    def certainly_exceeds(self, text: str, tokens: int) -> bool:
        """Whether a text has more than this many tokens by its length alone: true only where that is certain.

        For refusing a text of megabytes without the time that encoding it takes.
        """
        if len(text) <= tokens * 16:  # nearly every text; no need to look at the vocabulary
            return False
        if self._characters is None and self._inner.normalizer is not None:
            return False
        return len(text) > tokens * self._longest_token

    @cached_property
    def _longest_token(self) -> int:
        """Bytes of the longest token; as many characters at most."""
        return max(len(self.token_bytes(token_id)) for token_id in range(self.vocab_size))

    def encode_batch(self, texts: Sequence[str], *, allow_special: bool = False) -> list[list[int]]:
        """The ids of each text, as `encode` gives them, on several threads."""
        return self._encoder.encode_batch(texts, allow_special=allow_special)

    # ---- ids to text

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of ids: their bytes joined, then read as UTF-8, with U+FFFD for what is not UTF-8.

        Raises TokenizerError for an id that has no token.
        """
        return b"".join(map(self._bytes_of(skip_special), ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; TokenizerError if the id has none."""
        if type(token_id) is int and token_id in self._bytes:
            return self._bytes[token_id]
        try:
            token_id = operator.index(token_id)
        except TypeError as error:
            raise TokenizerError(f"a token id is an integer, got {shown(token_id)}") from error
        token = self._inner.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if token is None:
            last = self.vocab_size - 1
            raise TokenizerError(f"token id {shown(token_id)} is out of range, the tokenizer has ids 0 to {last}")
        plain = token_id in self._added or self._characters is not None
        try:
            found = token.encode() if plain else bytes(map(BYTE_OF_CHARACTER.__getitem__, token))
        except KeyError:  # a token of the vocabulary that is not in the alphabet stands for its own characters
            found = token.encode()
        self._bytes[token_id] = found
        return found

    def token_text(self, token_id: int) -> str:
        """One token for showing: its bytes as UTF-8, with U+FFFD where they are part of a character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def is_special(self, token_id: int) -> bool:
        """Whether the id is a special token's, such as `<|endoftext|>`."""
        return token_id in self._special

    def stream(self, *, skip_special: bool = False) -> IncrementalDecoder:
        """A decoder for ids that come one by one."""
        return IncrementalDecoder(self._bytes_of(skip_special))

    def _bytes_of(self, skip_special: bool) -> Callable[[int], bytes]:
        if not skip_special:
            return self.token_bytes
        return lambda token_id: b"" if token_id in self._special else self.token_bytes(token_id)


class _TableTokenizer(Tokenizer):
    """A tokenizer that has a table: tokenizer.json is read, and its library imported, only for what that cannot do."""

    _FROM_LIBRARY = ("_inner", "_added", "_encoder")

    def __init__(self, table: TokenTable, path: Path) -> None:
        """path: the tokenizer.json."""
        self._table, self._path = table, path
        self.vocab_size, self.end_of_text_id = table.vocab_size, table.end_of_text_id
        self._special = set(table.special_ids)
        self._characters, self._bytes = None, {}

    def __getattr__(self, name: str) -> Any:
        if name not in self._FROM_LIBRARY:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        whole = Tokenizer.load(self._path)
        for attribute in self._FROM_LIBRARY:
            setattr(self, attribute, getattr(whole, attribute))
        return getattr(self, name)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """See the class above."""
        ids = self._table.encode(text) if isinstance(text, str) and not allow_special else None
        return super().encode(text, allow_special=allow_special) if ids is None else ids

    def token_bytes(self, token_id: int) -> bytes:
        """See the class above."""
        if type(token_id) is int and 0 <= token_id < self.vocab_size:
            return self._table.token_bytes(token_id)
        return super().token_bytes(token_id)


def _unpickled(data: str) -> Tokenizer:
    import tokenizers

    return Tokenizer(tokenizers.Tokenizer.from_str(data))
