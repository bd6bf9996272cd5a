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
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from gptwo.errors import CheckpointError, InvalidRequestError, TokenizerError, one_line
from gptwo.files import replace_file
from gptwo.incremental_decoder import IncrementalDecoder as IncrementalDecoder  # for those who look for it here
from gptwo.options import shown
from gptwo.tokenizer_table import TokenTable, write_table
from gptwo.vocabulary_files import LLMC_FILE, RAW_FILE, Vocabulary, characters_of, merges_of, read_vocabulary

if TYPE_CHECKING:
    import numpy as np
    import tokenizers
    from numpy.typing import NDArray
    from tokenizers import AddedToken

# The library `tokenizers` is imported where it is used: a model with a table beside its tokenizer may do without it.

END_OF_TEXT = "<|endoftext|>"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
GGUF_SUFFIX = ".gguf"
READS = "gptwo reads byte-level BPE (GPT-2's kind) and its own character tokenizers"
LONG_TEXT = (
    2048  # characters; encoding more takes milliseconds, in which the library lets other threads run only if asked
)
_LONG_WORD = re.compile(r"\S{1000}|\s{1000}")
LONGEST_PART = 32_768  # characters that are encoded at a time; more where there is no place to cut
_BETWEEN_WORDS = re.compile("(?<=[0-9A-Za-z]) (?=[A-Za-z])")
_NO_TOKEN = "<unk>"  # WordLevel wants a name for what it doesn't know; no vocabulary of ours holds it


def _alphabet() -> dict[str, int]:
    """The printable stand-in of each byte, and the byte: Latin-1's printable characters stand for themselves,
    the other 68 bytes take U+0100 onwards in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER = _alphabet()
_CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


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
        self._characters = self._check_kind(inner)
        # The library's switch between the two is a property of the instance: with two, none is switched between calls.
        self._marked = self._encoder(added)
        self._plain = self._encoder(added)
        self._plain.encode_special_tokens = True
        for token_id in self._special if self._characters is None else ():
            if token_id in self._plain.encode(self._added[token_id]).ids:
                raise TokenizerError(f"its special token {self._added[token_id]!r} cannot be told from plain text")
        self._bytes: dict[int, bytes] = {}
        self._missing = {byte for stand_in, byte in BYTE_OF_CHARACTER.items() if inner.token_to_id(stand_in) is None}

    def _check_kind(self, inner: tokenizers.Tokenizer) -> dict[str, int] | None:
        """None for byte-level BPE; for a character tokenizer, the id of each character."""
        from tokenizers import decoders, models, pre_tokenizers

        model, splitter, decoder = inner.model, inner.pre_tokenizer, inner.decoder
        if isinstance(model, models.BPE) and isinstance(decoder, decoders.ByteLevel):
            if model.continuing_subword_prefix or model.end_of_word_suffix:
                raise TokenizerError(f"its tokens carry marks for parts of words; {READS}")
            pieces = splitter.pre_tokenize_str("\x00é") if splitter is not None else []
            if "ĀÃ©" not in "".join(piece for piece, _ in pieces):
                raise TokenizerError(f"its pre_tokenizer does not turn text into bytes; {READS}")
            model.dropout = None  # text has one encoding
            return None
        ours = isinstance(decoder, decoders.Fuse) and isinstance(splitter, pre_tokenizers.Split)
        if isinstance(model, models.WordLevel) and ours and inner.normalizer is None:
            vocabulary = inner.get_vocab(with_added_tokens=True)
            characters = {token: i for token, i in vocabulary.items() if i not in self._added}
            if all(len(token) == 1 for token in characters):
                return characters
        with_decoder = "no" if decoder is None else f"a {type(decoder).__name__}"
        raise TokenizerError(f"it is a {type(model).__name__} model with {with_decoder} decoder; {READS}")

    def _encoder(self, added: dict[int, AddedToken]) -> tokenizers.Tokenizer:
        """Another instance over the same model, which gives the ids of a text and nothing beside them."""
        import tokenizers

        encoder = tokenizers.Tokenizer(self._inner.model)
        if self._inner.normalizer is not None:
            encoder.normalizer = self._inner.normalizer
        if self._inner.pre_tokenizer is not None:
            encoder.pre_tokenizer = self._inner.pre_tokenizer
        for token_id in sorted(added):
            token = added[token_id]
            token.special = token_id in self._special
            encoder.add_tokens([token])
            if encoder.token_to_id(token.content) != token_id:
                raise TokenizerError(f"its added token {token.content!r} has id {token_id}, not the next free one")
        return encoder

    # ---- making one

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether `load(path)` would find files in a directory, or in a GGUF file; they may still be broken."""
        path = Path(path)
        if path.name.endswith(GGUF_SUFFIX):
            return path.is_file()
        return (path / "tokenizer.json").is_file() or cls._files(path) is not None

    @staticmethod
    def _files(directory: Path) -> tuple[Path, ...] | None:
        """What to read in a directory without a tokenizer.json."""
        for names in (*PAIRS, (LLMC_FILE,), (RAW_FILE,)):
            files = tuple(directory / name for name in names)
            if all(file.is_file() for file in files):
                return files
        return None

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a directory or a file.

        In a directory: tokenizer.json, else vocab.json with merges.txt, encoder.json with vocab.bpe (OpenAI's names of
        the same), llm.c's gpt2_tokenizer.bin, or the raw form's vocabulary.bin. A file: a tokenizer.json, one of the
        last two, or a GGUF with a tokenizer in it.

        Where a directory has a table of its tokenizer.json (see `save`), that is read instead, and tokenizer.json when
        it is needed. Raises TokenizerError, naming the file, if there is none, or it is broken or of another kind.
        """
        path = Path(path)
        if os.path.isdir(path):  # as Path.is_dir, but no error for a name that is too long
            files = cls._files(path)
            if not (path / "tokenizer.json").is_file():
                if files is None:
                    raise TokenizerError(f"{path}: holds no tokenizer.json, and no vocab.json with merges.txt")
                return cls._load_pair(*files) if len(files) == 2 else cls._load_bytes(files[0])
            table = TokenTable.load(path)
            path = path / "tokenizer.json"
            if table is not None:
                return _TableTokenizer(table, path)
        elif not os.path.isfile(path):
            raise TokenizerError(f"{path}: no such file or directory, so no tokenizer")
        elif path.name.endswith(GGUF_SUFFIX):
            return cls._load_gguf(path)
        elif path.name.endswith(".bin"):
            return cls._load_bytes(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from error

        def read() -> Tokenizer:
            import tokenizers

            return cls(tokenizers.Tokenizer.from_buffer(data))

        return _guarded(read, path, "a tokenizer.json")

    @classmethod
    def _load_pair(cls, vocabulary: Path, merges: Path) -> Tokenizer:
        more = vocabulary.with_name("added_tokens.json")

        def read() -> Tokenizer:
            import tokenizers
            from tokenizers import models

            inner = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
            if inner.token_to_id(END_OF_TEXT) is not None:
                _add_end_of_text(inner)
            return cls(_byte_level(inner))

        tokenizer = _guarded(read, vocabulary, "a vocabulary with its merges.txt")
        if not more.is_file():
            return tokenizer

        def read_more() -> Tokenizer:
            from tokenizers import AddedToken

            ids = json.loads(more.read_bytes())
            for token in sorted(ids, key=ids.__getitem__):
                tokenizer._inner.add_tokens([AddedToken(token, normalized=False)])
                if tokenizer._inner.token_to_id(token) != ids[token]:
                    raise TokenizerError(f"the token {token!r} has id {ids[token]}, not the next free one")
            return cls(tokenizer._inner)

        return _guarded(read_more, more, "the tokens added to vocab.json")

    @classmethod
    def _load_bytes(cls, path: Path) -> Tokenizer:
        tokens, end = read_vocabulary(path)
        merges = merges_of(tokens, end)
        if merges is None:
            characters = characters_of(tokens, end)
            if characters is None:
                raise TokenizerError(
                    f"{path}: its tokens are not of GPT-2's kind: 256 bytes, and each other one merged of two before it"
                )
            return _guarded(lambda: cls._of_characters(characters, end is not None), path, "a vocabulary")
        names = ["".join(map(_CHARACTER_OF_BYTE.__getitem__, token)) for token in tokens]
        if end is not None:
            names[end] = END_OF_TEXT
        pairs = [(names[left], names[right]) for left, right in merges]
        return _guarded(lambda: cls._of_merges(names, pairs, [] if end is None else [end]), path, "a vocabulary")

    @classmethod
    def _load_gguf(cls, path: Path) -> Tokenizer:
        from gptwo.gguf_file import read_gguf_vocabulary  # which few models need

        try:
            names, pairs, special, added = read_gguf_vocabulary(path)
        except CheckpointError as error:
            raise TokenizerError(str(error).removeprefix("checkpoint ")) from error
        return _guarded(lambda: cls._of_merges(names, pairs, special, added), path, "a GGUF with a tokenizer")

    @classmethod
    def _of_merges(
        cls,
        names: Sequence[str],
        merges: Sequence[tuple[str, str]],
        special: Sequence[int],
        added: Sequence[int] = (),
    ) -> Tokenizer:
        """GPT-2's kind of tokenizer from the name of each id, merges in order of rank, and the ids of added tokens."""
        import tokenizers
        from tokenizers import AddedToken, models

        vocabulary = {name: token_id for token_id, name in enumerate(names)}
        if len(vocabulary) != len(names):
            raise TokenizerError("a token is there twice")
        inner = tokenizers.Tokenizer(models.BPE(vocabulary, list(merges)))
        inner.add_tokens([AddedToken(names[token_id], normalized=False) for token_id in added])
        inner.add_special_tokens([AddedToken(names[token_id], special=True, normalized=False) for token_id in special])
        return cls(_byte_level(inner))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """A byte-level BPE made from texts: 256 bytes, merges in the order found, and `<|endoftext|>` as the last id.

        vocab_size counts all three and is at least 257; texts with few repetitions give fewer tokens. The same texts
        give the same tokenizer. No merge crosses from one text to the next.
        Raises TokenizerError for a vocab_size below 257 or a text that is not Unicode.
        """
        if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 257:
            raise TokenizerError(
                f"vocab_size is {shown(vocab_size)}, expected 257 or more: 256 bytes and {END_OF_TEXT}"
            )
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers

        inner = _byte_level(tokenizers.Tokenizer(models.BPE()))
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        inner.train_from_iterator(_in_short_words(_checked(texts)), trainer=trainer)
        _add_end_of_text(inner)
        return cls(inner)

    @classmethod
    def characters(cls, texts: Iterable[str]) -> Tokenizer:
        """One token for each distinct character of the texts, by code point, then `<|endoftext|>` as the last id.

        Raises TokenizerError for a text that is not Unicode.
        """
        found: set[str] = set()
        for text in _checked(texts):
            found.update(text)
        return cls._of_characters(sorted(found), True)

    @classmethod
    def _of_characters(cls, characters: Sequence[str], has_end: bool) -> Tokenizer:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        vocabulary = {character: i for i, character in enumerate(characters)}
        inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=_NO_TOKEN))
        inner.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), behavior="isolated")
        inner.decoder = decoders.Fuse()
        if has_end:
            _add_end_of_text(inner)
        return cls(inner)

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
        model = json.loads(self._json)["model"]
        merges = model.get("merges", [])
        kind: Literal["gpt2", "characters", "other"] = "other"
        if self._characters is not None:
            kind = "characters"
        elif self._cuts_words and not model.get("ignore_merges"):
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
        if self._characters is not None and not allow_special:
            try:
                return [self._characters[character] for character in text]
            except KeyError:
                self._explain(text)
        if self._missing and self._characters is None:
            self._check_bytes(text)
        encoder = self._marked if allow_special else self._plain
        try:
            if len(text) <= LONG_TEXT:
                return list(encoder.encode(text, add_special_tokens=False).ids)
            ids: list[int] = []
            for part in self._parts(text) if self._cuts_words and not allow_special else (text,):
                (encoding,) = encoder.encode_batch_fast([part], add_special_tokens=False)
                ids += encoding.ids
        except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
            self._explain(text, error)
        return ids

    @cached_property
    def _cuts_words(self) -> bool:
        """Whether text is cut into words in GPT-2's way and nothing else is done to it before."""
        from tokenizers import pre_tokenizers

        splitter = self._inner.pre_tokenizer
        return (
            self._characters is None
            and self._inner.normalizer is None
            and self._special.issuperset(self._added)
            and isinstance(splitter, pre_tokenizers.ByteLevel)
            and bool(splitter.use_regex)
            and not splitter.add_prefix_space
        )

    @staticmethod
    def _parts(text: str, longest: int = LONGEST_PART) -> Iterator[str]:
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
        if self._characters is not None or self._missing:
            return [self.encode(text, allow_special=allow_special) for text in texts]
        encoder = self._marked if allow_special else self._plain
        try:
            encodings = encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:
            for text in texts:
                _check_text(text)
            raise TokenizerError(f"the texts cannot be encoded ({one_line(error)})") from error
        return [list(encoding.ids) for encoding in encodings]

    def _explain(self, text: str, error: Exception | None = None) -> NoReturn:
        """Raise the TokenizerError that says why `text` has no encoding."""
        _check_text(text)
        known = self._characters
        for character in text if known is not None else ():
            if known is not None and character not in known:
                raise TokenizerError(
                    f"the tokenizer has no token for {character!r} (U+{ord(character):04X}); it knows the "
                    f"{len(known)} characters of its training text"
                ) from error
        raise TokenizerError(f"the text cannot be encoded ({one_line(error)})") from error

    def _check_bytes(self, text: str) -> None:
        # Without this the library would leave out in silence what the vocabulary has no byte for.
        _check_text(text)
        if getattr(self._inner.model, "unk_token", None) is None and self._inner.normalizer is None:
            for character in text:
                if not self._missing.isdisjoint(character.encode()):
                    raise TokenizerError(f"the tokenizer has no token for the bytes of {character!r}")

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

    _FROM_LIBRARY = ("_inner", "_added", "_marked", "_plain")

    def __init__(self, table: TokenTable, path: Path) -> None:
        """path: the tokenizer.json."""
        self._table, self._path = table, path
        self.vocab_size, self.end_of_text_id = table.vocab_size, table.end_of_text_id
        self._special = set(table.special_ids)
        self._characters, self._bytes, self._missing = None, {}, set()

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


def pad(
    batch: Sequence[Sequence[int]], *, side: Literal["left", "right"], pad_id: int, length: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequences of ids as one rectangle.

    Returns ids and mask, int64 (B, T): T is `length`, or that of the longest sequence; the mask is 1 where a real token
    stands and 0 where pad_id fills. Raises InvalidRequestError for an empty batch, a sequence longer than `length`,
    another side, or a pad_id below 0.

    Example: pad([[7, 8, 9], [5]], side="left", pad_id=0) == ([[7, 8, 9], [0, 0, 5]], [[1, 1, 1], [0, 0, 1]])
    """
    import numpy as np

    if side not in ("left", "right"):
        raise InvalidRequestError(f"side is {shown(side)}, expected 'left' or 'right'", param="side")
    if isinstance(pad_id, bool) or not isinstance(pad_id, int) or not 0 <= pad_id < 2**31:
        raise InvalidRequestError(f"pad_id is {shown(pad_id)}, expected a token id", param="pad_id")
    if len(batch) == 0:
        raise InvalidRequestError("the batch to pad is empty, expected at least one sequence", param="batch")
    longest = max(map(len, batch))
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < longest):
        raise InvalidRequestError(
            f"length is {shown(length)}, expected at least {longest}, that of the longest sequence", param="length"
        )
    width = longest if length is None else length
    ids = np.full((len(batch), width), pad_id, dtype=np.int64)  # (B, T)
    mask = np.zeros((len(batch), width), dtype=np.int64)  # (B, T)
    for row, sequence in enumerate(batch):
        start = width - len(sequence) if side == "left" else 0
        ids[row, start : start + len(sequence)] = sequence
        mask[row, start : start + len(sequence)] = 1
    return ids, mask


def _byte_level(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    from tokenizers import decoders, pre_tokenizers

    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    return inner


def _add_end_of_text(inner: tokenizers.Tokenizer) -> None:
    from tokenizers import AddedToken

    inner.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])


def _unpickled(data: str) -> Tokenizer:
    import tokenizers

    return Tokenizer(tokenizers.Tokenizer.from_str(data))


def _guarded(read: Callable[[], Tokenizer], path: Path, expected: str) -> Tokenizer:
    """`read()`, with whatever the library makes of a broken file as a TokenizerError that names it."""
    try:
        return read()
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except BaseException as error:
        # A panic in the library's Rust derives from BaseException, and has no importable name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{path}: not {expected} that can be read ({one_line(error)})") from error


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        _check_text(text)
        yield text


def _in_short_words(texts: Iterable[str]) -> Iterator[str]:
    """Texts, cut where a word has more than a thousand characters: the trainer's time grows with their square."""
    for text in texts:
        start = 0
        for long in _LONG_WORD.finditer(text):
            yield text[start : long.end()]
            start = long.end()
        yield text[start:]


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise TokenizerError(f"text is a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text is not Unicode: a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        ) from error
