"""From texts to token shards that training reads: in one directory with their tokenizer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptwo.cpus import available_cpus
from gptwo.errors import DataError, GptwoError, InvalidRequestError, TokenizerError, one_line, plural
from gptwo.files import replace_file
from gptwo.tokenizer import Tokenizer
from gptwo.training import pieces as cutting
from gptwo.training.data_tokenizer import make_tokenizer, named_tokenizer
from gptwo.training.encoding import Ids, encode_in_order
from gptwo.training.foreign import find_foreign
from gptwo.training.prepare_config import PrepareConfig
from gptwo.training.prepared import DESCRIPTION, TOKENIZER, PreparedData, read_description
from gptwo.training.records import kind_of
from gptwo.training.sources import Inputs, Source, describe, find_inputs
from gptwo.training.split import Split, plan_split
from gptwo.training.unfinished import PROGRESS, PartWriter, Progress, clear, hold, shard_name
from gptwo.training.units import Position, Unit, pieces_of, units
from gptwo.unencodable import unencodable_line

VERSION = "1"  # of what is written for the same texts
SMALL = 8 << 20  # bytes of text that are encoded before other processes would have started
SAVE_SECONDS = 10.0  # the most work that is lost when the process is killed
PARTS = ("train", "val")


def prepare(
    texts: Sequence[Path | str],
    out: Path,
    *,
    restart: bool = False,
    progress: Callable[[float], None] = lambda share: None,
    notice: Callable[[str], None] = lambda words: None,
    **options: Any,
) -> PreparedData:
    """Encode texts, a part of them for validation. The same call goes on where an earlier one was stopped or killed.

    texts: files (UTF-8 text, JSONL, CSV, TSV, Parquet; all but the last also as .gz and .zst), directories of such
    files, or names of `named_sets`, read in order. A text file is a document, and so is a record: `<|endoftext|>`
    stands between two; in their text it is plain text. restart: replace what was made there, of whatever it was.
    progress: told the share done. notice: told, in words, what is fetched, what was there before, and what is odd
    about what was made. options: those of PrepareConfig. What is written hangs on neither the number of workers nor
    on where it was stopped.

    Raises DataError for what cannot be read or written or holds no text, and for a place that holds other data,
    InvalidRequestError for a wrong option, DownloadError for a set that cannot be fetched, and what loading a
    tokenizer raises.
    """
    config = PrepareConfig(**options)
    inputs = find_inputs(texts, config, notice)
    named = None if config.makes_tokenizer else named_tokenizer(config.tokenizer)
    about = [describe(inputs), config.tokenizer if named is None else named.fingerprint, config.shard_tokens]
    about += [config.seed, cutting.PIECE_CHARACTERS, VERSION]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    names = [Path(text).name or str(text) for text in texts]
    command = shlex.join(["gptwo", "prepare", *names, "--out", str(out), *config.flags()])
    with hold(out) as directory:
        for place in (out, out / TOKENIZER, directory):  # what a process that was killed left half written
            for leftover in place.glob(".*.????????.tmp"):
                with contextlib.suppress(OSError):  # of what is none of ours
                    leftover.unlink()
        if (found := _finished(out, key, restart)) is not None:
            notice(f"{out}: holds this already; nothing was done")
            with contextlib.suppress(OSError):
                clear(directory)
            return found
        try:
            before = None if restart else Progress.load(directory, key)
            if before is None:
                if (directory / PROGRESS).exists() and not restart:
                    notice(f"{out}: what was begun there was of other texts or settings, and is begun anew")
                before, used = _begin(inputs, config, named, key, out, directory)
            else:
                notice(f"{out}: going on where it was stopped")
                used = Tokenizer.load(out / TOKENIZER)
                if used.fingerprint != before.tokenizer:
                    raise DataError(f"{out / TOKENIZER}: is not as it was left; delete {directory} to start afresh")
            if not before.complete:
                _encode(inputs, config, used, out, directory, before, progress)
            _finish(out, directory, {"texts": names, "command": command}, key)
        except OSError as error:
            raise DataError(f"{out}: cannot be written ({error.strerror})") from error
        progress(1.0)
        made = PreparedData.load(out)
        for words in _oddities(made, config):
            notice(f"{out}: {words}")
        return made


def _finished(out: Path, key: str, restart: bool) -> PreparedData | None:
    """The finished data of this key in a directory, if it is whole and may stay.

    Raises DataError for other data, which nobody asked to replace, and for another program's, whoever asks.
    """
    if not (out / DESCRIPTION).exists():
        if find_foreign(out) is not None:
            raise DataError(f"{out}: holds token files of another program; choose another --out")
        return None
    if restart:
        return None
    try:
        description = read_description(out)
    except DataError:  # whose advice is to make it again
        return None
    if description.get("key") != key:
        command = description.get("command")
        made_by = f", made by {one_line(command)!r}" if command and isinstance(command, str) else ""
        raise DataError(
            f"{out}: holds finished data of other texts or settings{made_by}; --restart makes it anew, and another "
            "--out leaves it"
        )
    try:
        return PreparedData.load(out)
    except GptwoError:
        return None


def _oddities(made: PreparedData, config: PrepareConfig) -> Iterator[str]:
    """What is otherwise than a person expects of data that was made as they asked."""
    size, count = config.bpe_size, made.val.count
    if size is not None and made.train.vocab_size < size:
        yield f"{config.tokenizer} has {made.train.vocab_size:,} tokens only; the texts repeat too little for more"
    if count < 2 and config.val_fraction != 0.0:
        yield (
            f"there is nothing to validate with ({count} {plural(count, 'token')}); more text, a larger --val-fraction "
            "or --val gives something"
        )


def _begin(
    inputs: Inputs, config: PrepareConfig, named: Tokenizer | None, key: str, out: Path, directory: Path
) -> tuple[Progress, Tokenizer]:
    """Decide about the split and the tokenizer, and put both down. What was here before goes. Raises OSError."""
    split = plan_split((one for *_, one in inputs.documents(val=False)), inputs.val_fraction, config.seed)
    used = make_tokenizer(config.bpe_size, inputs, split) if named is None else named
    if _several_documents(inputs) and used.end_of_text_id is None:
        raise InvalidRequestError(
            f"tokenizer {config.tokenizer} has no <|endoftext|> to stand between documents, and there are several; "
            "join them to one, or choose another tokenizer",
            param="tokenizer",
        )
    old = []
    if (out / DESCRIPTION).exists():
        with contextlib.suppress(DataError):
            description = read_description(out)
            old = [one for part in PARTS for one in description.get(part, [f"{part}.bin"])]
    # The description goes first and comes last: where it is, everything is, and belongs together.
    (out / DESCRIPTION).unlink(missing_ok=True)
    for one in old:
        if isinstance(one, str) and Path(one).name == one:
            (out / one).unlink(missing_ok=True)
    clear(directory)
    used.save(out / TOKENIZER)
    begun = Progress(key, used.fingerprint, split.end, masked=inputs.fields.prompt is not None)
    begun.save(directory)
    return begun, used


def _several_documents(inputs: Inputs) -> bool:
    """Whether there is more than one document. Raises DataError if there is none to train with."""
    found = []
    for source, _, document in inputs.documents():
        next(iter(document.blocks))  # no further than it takes to know that it is text
        found.append(source)
        if len(found) == 2:
            break
    if not found or found[0] >= inputs.first_val:
        raise _no_text(inputs.sources[: inputs.first_val])
    return len(found) == 2


def _no_text(sources: Sequence[Source]) -> DataError:
    return DataError(f"{', '.join(one.name for one in sources)}: holds no text")


def _encode(
    inputs: Inputs,
    config: PrepareConfig,
    tokenizer: Tokenizer,
    out: Path,
    directory: Path,
    before: Progress,
    progress: Callable[[float], None],
) -> None:
    """Write all shards, from where `before` says on. Raises OSError."""
    now = replace(before)
    about: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "masked": before.masked,
    }
    small = sum(one.size for one in inputs.sources) < SMALL
    with contextlib.ExitStack() as stack:
        writers: list[PartWriter] = []
        for part, written in zip(PARTS, (before.train, before.val), strict=True):
            try:
                writers.append(PartWriter(directory, part, written, **about))
            except (ValueError, FileNotFoundError) as error:
                raise DataError(f"{directory}: is not as it was left ({error}); delete it to start afresh") from error
            stack.callback(writers[-1].close)

        def save() -> None:
            for writer in writers:
                writer.sync()
            now.save(directory)

        split = Split(inputs.val_fraction, config.seed, before.split_end)
        work = units(inputs, split, before.position, anywhere=tokenizer.by_character)
        workers = config.workers or (1 if small else available_cpus())
        saved = time.monotonic()
        try:
            for unit, ids in encode_in_order(work, tokenizer, out / TOKENIZER, workers):
                _write(unit, ids, writers, tokenizer.end_of_text_id)
                full = [writer for writer in writers if writer.written.count >= config.shard_tokens]
                for writer in full:
                    writer.finish_shard()
                now.position = unit.end
                now.train, now.val = (replace(writer.written) for writer in writers)
                if full or time.monotonic() - saved >= SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
                progress(unit.share)
        except BaseException as error:
            with contextlib.suppress(OSError):  # what was saved before still holds
                save()
            if isinstance(error, TokenizerError):
                raise _located(error, inputs, split, now.position, tokenizer) from error
            raise
        own_val = inputs.sources[inputs.first_val :]
        if own_val and not writers[1].written.documents:
            raise _no_text(own_val)
        for writer in writers:
            if writer.written.count or not writer.written.shards:
                writer.finish_shard(last=True)
        now.train, now.val = (replace(writer.written) for writer in writers)
        now.complete = True
        now.save(directory)


def _located(
    error: TokenizerError, inputs: Inputs, split: Split, start: Position, tokenizer: Tokenizer
) -> TokenizerError:
    """The error with file and line of what cannot be encoded, which is the first such text from `start` on."""
    for source, number, document in inputs.documents(start.source, start.record, start.number):
        training = 0 if source >= inputs.first_val else split.training_characters(number)
        done = start.pieces if (source, document.record) == (start.source, start.record) else 0
        before = 0
        for count, piece in enumerate(pieces_of(document, training, anywhere=tokenizer.by_character), 1):
            line = unencodable_line(tokenizer, piece.text) if count > done else None
            if line is not None:
                is_text = kind_of(inputs.sources[source].name) == "text"
                return TokenizerError(document.place + f" line {before + line}" * is_text + f": {error}")
            before += piece.text.count("\n")
    return error


def _write(unit: Unit, ids: Sequence[Ids], writers: Sequence[PartWriter], end_of_text_id: int | None) -> None:
    for piece, tokens in zip(unit.pieces, ids, strict=True):
        writer = writers[piece.val]
        if piece.opens:
            if writer.written.documents and end_of_text_id is not None:
                writer.append([end_of_text_id], 0)
            writer.written.documents += 1
        writer.append(tokens, len(piece.text), learned=piece.learned)


def _finish(out: Path, directory: Path, description: dict[str, object], key: str) -> None:
    """Move the shards to their places and say that they are there; done again if it is cut short. Raises OSError."""
    done = Progress.load(directory, key)
    assert done is not None
    names = {}
    for part, written in zip(PARTS, (done.train, done.val), strict=True):
        single = written.shards == 1
        names[part] = [f"{part}.bin" if single else shard_name(part, number) for number in range(written.shards)]
        for number, name in enumerate(names[part]):
            with contextlib.suppress(FileNotFoundError):  # it is there already
                os.replace(directory / shard_name(part, number), out / name)
    values = {**description, **names, "documents": [done.train.documents, done.val.documents], "key": key}
    with replace_file(out / DESCRIPTION) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())
    clear(directory)
