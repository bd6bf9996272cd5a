"""From text files to token shards that training reads: `train.bin`, `val.bin` and their tokenizer in one directory."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptwo.checkpoint import resolve
from gptwo.errors import DataError, InvalidRequestError
from gptwo.files import replace_file
from gptwo.options import finite
from gptwo.tokenizer import Tokenizer
from gptwo.training.shards import ShardHeader, read_shard, write_shard

PIECE_CHARACTERS = 1 << 18
LARGEST_BPE = 1_000_000  # the trainer sets memory aside for as many, found or not

DESCRIPTION = "data.json"
TOKENIZER = "tokenizer"
TRAIN, VAL = "train.bin", "val.bin"

# Where a text may be cut (see `pieces`). The second place is for scripts that have few spaces.
_BEFORE_A_SPACE = re.compile(r"(?= \S)")
_BEHIND_A_LINE = re.compile(r"(?<=\S\n)(?=\S)")


@dataclass(frozen=True)
class PreparedData:
    """What `prepare` made."""

    directory: Path
    texts: tuple[str, ...]
    """The names of the files it was made from."""
    command: str
    """What makes the same again."""
    train: ShardHeader
    val: ShardHeader

    @classmethod
    def load(cls, directory: Path) -> PreparedData:
        """Read what `prepare` left. Raises DataError, naming the file, if it is not all there."""
        path = directory / DESCRIPTION
        try:
            values = json.loads(path.read_bytes())
            texts, command = tuple(map(str, values["texts"])), str(values["command"])
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); make the data with 'gptwo prepare'") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: is broken; make the data again with 'gptwo prepare'") from error
        headers = [read_shard(directory / name).header for name in (TRAIN, VAL)]
        return cls(directory, texts, command, *headers)


def prepare(
    texts: Sequence[Path],
    out: Path,
    *,
    tokenizer: str = "gpt2",
    val_fraction: float = 0.1,
    progress: Callable[[float], None] = lambda share: None,
) -> PreparedData:
    """Encode text files, the last part of them for validation.

    texts: files in UTF-8, read in order, `<|endoftext|>` between them; in their text it is plain text. tokenizer:
    `gpt2` (from the hub, or its cache), `char` (one token a character), `bpe:SIZE` (trained on the training part), or a
    directory, file or name of a model that holds one. val_fraction: the share of characters, from the end, that is kept
    for validation. progress: told the share done.

    Raises DataError for a file that cannot be read or written or holds no text, InvalidRequestError for a wrong
    argument, and what loading a tokenizer raises.
    """
    share = finite(val_fraction)
    if share is None or not 0.0 <= share < 1.0:
        raise InvalidRequestError(f"val_fraction is {val_fraction}, expected 0 to below 1", param="val_fraction")
    documents = [read_text(path) for path in texts]
    train_texts, val_texts = split_at_the_end(documents, share)
    used = choose_tokenizer(tokenizer, train_texts, documents)
    if len(documents) > 1 and used.end_of_text_id is None:
        raise InvalidRequestError(
            f"tokenizer {tokenizer} has no <|endoftext|> to stand between {len(documents)} texts; "
            "join them to one, or choose another tokenizer",
            param="tokenizer",
        )
    total = sum(map(len, documents))
    done = 0

    def encoded(parts: Sequence[str]) -> Iterator[list[int]]:
        nonlocal done
        for index, text in enumerate(parts):
            if index and used.end_of_text_id is not None:
                yield [used.end_of_text_id]
            for piece in pieces(text):
                yield used.encode(piece)
                done += len(piece)
                progress(done / total)

    def shard(name: str, parts: Sequence[str]) -> ShardHeader:
        return write_shard(
            out / name,
            encoded(parts),
            characters=sum(map(len, parts)),
            vocab_size=used.vocab_size,
            tokenizer=used.fingerprint,
        )

    names = [path.name for path in texts]
    words = ["gptwo", "prepare", *names, "--out", str(out), "--tokenizer", tokenizer, "--val-fraction", str(share)]
    command = shlex.join(words)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for place in (out, out / TOKENIZER):  # what a process that was killed here left half written
            for leftover in place.glob(".*.????????.tmp"):
                leftover.unlink(missing_ok=True)
        # The description goes first and comes last: where it is, everything is, and belongs together.
        (out / DESCRIPTION).unlink(missing_ok=True)
        used.save(out / TOKENIZER)
        headers = shard(TRAIN, train_texts), shard(VAL, val_texts)
        with replace_file(out / DESCRIPTION) as file:
            file.write((json.dumps({"texts": names, "command": command}, indent=2) + "\n").encode())
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror})") from error
    return PreparedData(out, tuple(names), command, *headers)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, its line ends as they are. Raises DataError, naming the file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from error
    if not text:
        raise DataError(f"{path}: holds no text")
    return text


def split_at_the_end(documents: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """The documents up to the last `val_fraction` of all their characters, and from there on.

    Example: (["abcd", "efgh"], 0.25) gives (["abcd", "ef"], ["gh"]).
    """
    total = sum(len(text) for text in documents)
    left = max(1, total - int(total * val_fraction))
    train, val = [], []
    for text in documents:
        if head := text[:left]:
            train.append(head)
        if tail := text[left:]:
            val.append(tail)
        left = max(0, left - len(text))
    return train, val


def choose_tokenizer(name: str, train_texts: Sequence[str], all_texts: Sequence[str]) -> Tokenizer:
    """The tokenizer that `name` means (see `prepare`). Characters are taken from all texts, merges from training's."""
    if name == "char":
        return Tokenizer.characters(all_texts)
    if name.startswith("bpe:"):
        size = name.removeprefix("bpe:")
        if not (size.isascii() and size.isdecimal() and len(size) < 10 and 257 <= int(size) <= LARGEST_BPE):
            raise InvalidRequestError(
                f"tokenizer is {name!r}, expected a size from 257 to {LARGEST_BPE} after 'bpe:'", param="tokenizer"
            )
        return Tokenizer.train(train_texts, int(size))
    return Tokenizer.load(resolve(name, progress=True))


def pieces(text: str) -> Iterator[str]:
    """Cut a text into pieces of about PIECE_CHARACTERS that encode, one by one, to what the whole would.

    So progress shows and memory stays small. GPT-2's pattern takes a run of white space but for its last character as
    one word, and that last one with what follows if it is a space. A text may thus be cut before a space that something
    else than white space follows, or, where no space is near, behind a line end that stands alone.
    Example: "a  b" may become "a " and " b", but not "a  " and "b".
    Source: Radford et al. 2019, the expression of the released encoder.
    """
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        least = start + PIECE_CHARACTERS
        place = (
            _BEFORE_A_SPACE.search(text, least, least + PIECE_CHARACTERS)
            or _BEHIND_A_LINE.search(text, least)
            or _BEFORE_A_SPACE.search(text, least)
        )
        if place is None:
            break
        yield text[start : place.start()]
        start = place.start()
    yield text[start:]
