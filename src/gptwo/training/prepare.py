"""From text files to token shards that training reads: `train.bin`, `val.bin` and their tokenizer in one directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptwo.checkpoint import resolve
from gptwo.errors import DataError, InvalidRequestError
from gptwo.files import replace_file
from gptwo.tokenizer import Tokenizer
from gptwo.training.shards import ShardHeader, read_shard, write_shard

# Texts are encoded in pieces of about this many characters, cut at line ends, so that progress shows and memory stays
# small. A line end is where GPT-2's tokenizer cuts too, except inside a run of blank: those are kept whole.
PIECE_CHARACTERS = 1 << 18

DESCRIPTION = "data.json"


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
        headers = [read_shard(directory / name)[0] for name in ("train.bin", "val.bin")]
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

    texts: files in UTF-8, read in order, `<|endoftext|>` between them. tokenizer: `gpt2` (from the hub, or its cache),
    `char` (one token a character), `bpe:SIZE` (trained on the training part), or a directory or file that holds one.
    val_fraction: the share of characters, from the end, that is kept for validation. progress: told the share done.

    Raises DataError for a file that cannot be read or holds no text, InvalidRequestError for a wrong argument.
    """
    if not 0.0 <= val_fraction < 1.0:
        raise InvalidRequestError(f"val_fraction is {val_fraction}, expected 0 to below 1", param="val_fraction")
    documents = [read_text(path) for path in texts]
    train_texts, val_texts = split_at_the_end(documents, val_fraction)
    used = choose_tokenizer(tokenizer, train_texts, train_texts + val_texts)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made ({error.strerror})") from error
    total = sum(len(text) for text in train_texts + val_texts)
    done = 0

    def shard(name: str, parts: Sequence[str]) -> ShardHeader:
        nonlocal done
        ids: list[int] = []
        for index, text in enumerate(parts):
            if index and used.end_of_text_id is not None:
                ids.append(used.end_of_text_id)
            for piece in pieces(text):
                ids.extend(used.encode(piece))
                done += len(piece)
                progress(done / total)
        return write_shard(
            out / name,
            np.array(ids, dtype=np.uint32),
            characters=sum(len(text) for text in parts),
            vocab_size=used.vocab_size,
            tokenizer=used.fingerprint,
        )

    # The description comes last: where it is, everything is.
    (out / DESCRIPTION).unlink(missing_ok=True)
    used.save(out / "tokenizer")
    headers = shard("train.bin", train_texts), shard("val.bin", val_texts)
    names = " ".join(path.name for path in texts)
    command = f"gptwo prepare {names} --out {out} --tokenizer {tokenizer} --val-fraction {val_fraction}"
    prepared = PreparedData(out, tuple(path.name for path in texts), command, *headers)
    with replace_file(out / DESCRIPTION) as file:
        file.write((json.dumps({"texts": prepared.texts, "command": command}, indent=2) + "\n").encode())
    return prepared


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, its line ends as they are. Raises DataError, naming the file."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    if not text:
        raise DataError(f"{path}: holds no text")
    return text


def split_at_the_end(documents: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """The documents up to the last `val_fraction` of all their characters, and from there on.

    Example: (["abcd", "efgh"], 0.25) gives (["abcd", "ef"], ["gh"]).
    """
    total = sum(len(text) for text in documents)
    left = total - int(total * val_fraction)
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
        if not size.isdecimal():
            raise InvalidRequestError(f"tokenizer is {name!r}, expected a number after 'bpe:'", param="tokenizer")
        return Tokenizer.train(train_texts, int(size))
    return Tokenizer.load(resolve(name))


def pieces(text: str) -> list[str]:
    """Cut a text behind line ends into pieces that encode, one by one, to what the whole would.

    GPT-2's pattern keeps a run of white space together but for its last character, so a cut is made only between a
    line end and a character that is no white space. A short text is one piece.
    """
    cut: list[str] = []
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = start + PIECE_CHARACTERS
        while end < len(text) and not (text[end - 1] == "\n" and not text[end].isspace()):
            end += 1
        cut.append(text[start:end])
        start = end
    cut.append(text[start:])
    return cut
