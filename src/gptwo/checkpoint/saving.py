"""Saving a checkpoint: all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from gptwo.checkpoint import packed_format, transformers_format
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.checkpoint.safetensors_file import WRITTEN_DTYPES
from gptwo.checkpoint.stored import Array, Packed
from gptwo.checkpoint.target import SavesTokenizer
from gptwo.checkpoint.tokenizer_files import TOKENIZER_FILES
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, InvalidRequestError

CARD: Final = "README.md"

# What may lie in a directory that is replaced: the files of a checkpoint, and nothing of anybody's own.
_OURS: Final = re.compile(
    r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)|model\.packed\.safetensors|(model\.safetensors|pytorch_model\.bin)\.index\.json"
    r"|generation_config\.json|chat_template\.jinja|\.gitattributes"
)


def save_checkpoint(
    directory: Path,
    config: GPTConfig,
    tensors: Mapping[str, Array],
    tokenizer: SavesTokenizer | None,
    *,
    dtype: str = "F32",
    card: str | None = None,
) -> None:
    """Write a transformers directory: config.json, model.safetensors, the tokenizer's files and the card, README.md.

    tensors: arrays of floats by canonical name, exactly those of the configuration; linear weights (in, out).
    dtype: "F32", "F16" or "BF16"; values are rounded to the nearest, ties to even.

    A directory that is there is replaced, and only once the new one is whole and on the disk; whatever fails, the old
    one is left as it was. Raises CheckpointError for tensors that do not fit the configuration, values beyond the range
    of the dtype, a directory that holds files of other kinds, and whatever the system refuses; InvalidRequestError
    for an unknown dtype.
    """
    if dtype not in WRITTEN_DTYPES:
        raise InvalidRequestError(f"dtype is {dtype!r}, expected one of {', '.join(WRITTEN_DTYPES)}", param="dtype")
    _check_tensors(directory, config, tensors)

    def write(new: Path) -> None:
        transformers_format.write(new, config, tensors.__getitem__, dtype, tokenizer)

    save_directory(directory, write, card)


def save_packed(
    directory: Path,
    config: GPTConfig,
    tensors: Mapping[str, Array],
    packed: Packed,
    tokenizer: SavesTokenizer | None,
    *,
    card: str | None = None,
) -> None:
    """Write a directory of packed weights: config.json, model.packed.safetensors, the tokenizer's files and the card.

    tensors: what `packed_tensors` of the native decoder gives. As `save_checkpoint` otherwise.
    """

    def write(new: Path) -> None:
        packed_format.write(new, config, tensors, packed)
        if tokenizer is not None:
            tokenizer.save(new, table=True)

    save_directory(directory, write, card)


def save_directory(
    directory: Path, write: Callable[[Path], None], card: str | None = None, files: Collection[str] = ()
) -> None:
    """Have a new directory written, and put it in the place of `directory`, if that holds a checkpoint or nothing.

    files: what the directory that is replaced may hold beside the files of other checkpoints.
    """

    def write_all(new: Path) -> None:
        write(new)
        if card is not None:
            (new / CARD).write_bytes(card.encode("utf-8", "replace"))  # a path in it may be no text

    check_replaceable(Path(os.path.realpath(directory)), files)
    try:
        replace_directory(directory, write_all)
    except OSError as error:
        raise CheckpointError(f"checkpoint {directory}: cannot be saved: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {directory}: cannot be saved: {error}") from error


def replace_directory(directory: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a new directory, and put it in the place of `directory` once it is whole and on the disk.

    A link stays a link, and what it leads to is replaced. Whatever fails, the old one is left as it was, and nothing
    beside it. Raises OSError as the file system does, and what `write` raises.
    """
    target = Path(os.path.realpath(directory))
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_saving_leftovers(target)
    with _beside(target) as temporary:
        new = temporary / "new"
        new.mkdir()
        write(new)
        _settle(new)
        _put_in_place(temporary, target)


def _check_tensors(directory: Path, config: GPTConfig, tensors: Mapping[str, Array]) -> None:
    named = 0
    for name, shape in expected_shapes(config):
        if name not in tensors:
            raise CheckpointError(f"checkpoint {directory}: tensor {name} is missing from what is to be saved")
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"checkpoint {directory}: tensor {name} to be saved has shape {tensors[name].shape}, expected {shape}"
            )
        if tensors[name].dtype.kind != "f":
            raise CheckpointError(
                f"checkpoint {directory}: tensor {name} to be saved is {tensors[name].dtype}, no floats"
            )
        named += 1
    if named != len(tensors):
        unknown = tensors.keys() - {name for name, _ in expected_shapes(config)}
        raise CheckpointError(f"checkpoint {directory}: {sorted(unknown)[0]!a} is no tensor of this configuration")


def check_replaceable(target: Path, files: Collection[str] = ()) -> None:
    """Raise CheckpointError if a checkpoint cannot be saved under this name.

    Replacing a directory deletes what is in it, so that must be a checkpoint and nothing else. files: names of more
    that may be in it.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise CheckpointError(f"checkpoint {target}: cannot be saved there: it is a file, not a directory")
    own = {transformers_format.CONFIG, CARD, *TOKENIZER_FILES, *files}
    for name in os.listdir(target):
        if (name not in own and not _OURS.fullmatch(name)) or os.path.isdir(target / name):
            raise CheckpointError(
                f"checkpoint {target}: cannot be saved there: the directory holds {name!a}, which is no part of a "
                "checkpoint; choose another directory, or move it away"
            )


def _settle(directory: Path) -> None:
    """See a directory and its files onto the disk."""
    for path in (*directory.rglob("*"), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename `new` in the temporary directory to the target, which is moved aside first and comes back if that fails.

    Whoever is killed between the two leaves the target's only copy in the temporary directory, where the next save of
    it finds it.
    """
    aside = temporary / "old"
    try:
        if target.exists():
            target.rename(aside)
        (temporary / "new").rename(target)
    except BaseException:  # Ctrl-C too
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new, hidden directory next to the target, so that renaming from one to the other stays on one disk.

    It is locked for as long as its process lives, by which others can tell it from one that was left behind.
    """
    import shutil  # with all the compressors it imports, only for those who save

    directory = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        directory.mkdir()
        with locked(directory):
            yield directory
    finally:
        if target.exists() or not (directory / "old").exists():
            try:
                shutil.rmtree(directory, ignore_errors=True)
            except BaseException:  # Ctrl-C while it is removed
                shutil.rmtree(directory, ignore_errors=True)
                raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process has a file or directory for itself; the lock ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where nobody can tell, so that leftovers stay
        yield False
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def clear_saving_leftovers(target: Path) -> None:
    """Delete what processes that were killed while they saved here have left behind, but for the target's only copy."""
    import shutil

    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    found = [path for path in target.parent.iterdir() if name.fullmatch(path.name)]
    for leftover in [path for path in found if path.is_dir() or path.is_file()]:
        with contextlib.suppress(FileNotFoundError), locked(leftover) as abandoned:
            if not abandoned:
                continue
            if leftover.is_file():
                leftover.unlink()
            if not target.exists() and (leftover / "old").exists():
                (leftover / "old").rename(target)
            shutil.rmtree(leftover, ignore_errors=True)
