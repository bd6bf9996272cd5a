"""From one program's checkpoint to another's: `convert`, what `gptwo convert` does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptwo.checkpoint import GELUS, TARGETS, Checkpoint, StoredTensor, Target, load_checkpoint, save_directory
from gptwo.checkpoint.saving import clear_saving_leftovers, locked
from gptwo.checkpoint.stored import Floats
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, CheckpointWarning, InvalidRequestError, TokenizerError, nearest_name
from gptwo.files import replace_file
from gptwo.tokenizer import Tokenizer

DTYPES: Final = ("f32", "f16", "bf16", "q8_0", "q4_0")
# How a directory's name never ends, and that of a file often does.
_SUFFIXES: Final = (".bin", ".pt", ".safetensors", ".json", ".gguf")


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    path: Path
    source: str
    """The format that was read, by `to`'s name where it is one of TARGETS, else `tensorflow`."""
    target: str
    """What `to` was."""
    dtype: str
    """That of the matrices."""
    tensors: int
    parameters: int
    bytes: int
    """Of all the files."""
    tokenizer: bool
    activation: str
    """The `activation_function` that the target has."""
    source_activation: str
    """That of the source; another one only with `any_gelu`."""


def convert(
    source: str | Path,
    target: Path,
    to: str,
    *,
    dtype: str = "auto",
    tokenizer: str | Path | None = None,
    with_tokenizer: bool = True,
    any_gelu: bool = False,
    force: bool = False,
    revision: str | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Conversion:
    """Write a model in another program's format, tensor by tensor.

    source: what `gptwo.load` takes. target: the directory to make, or for GGUF the file. to: one of TARGETS. dtype: one
    of DTYPES, in any case; `auto` is the source's where the format has it, else f32. tokenizer: a directory or file
    instead of the source's own; with_tokenizer false leaves it out, and only then is a source without one taken for
    GGUF, and for the others without a CheckpointWarning. any_gelu: take GELU and its approximation by tanh for the
    same. force: replace a checkpoint that is there. on_progress: told the share that is done.

    The target appears when it is whole. Raises what `load_checkpoint` and `Tokenizer.load` raise; CheckpointError for
    what the format cannot say, a target that is there or is the source, and whatever the system refuses;
    InvalidRequestError for a format or type that is not known, or that the format lacks; MissingDependencyError.
    """
    if to not in TARGETS:
        raise InvalidRequestError(f"to is {to!r}{nearest_name(to, TARGETS)}", param="to")
    form = TARGETS[to]
    _check_name(target, form)
    checkpoint = load_checkpoint(source, revision=revision, progress=True)
    if checkpoint.packed is not None:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: is packed as {checkpoint.packed.weights}, as only gptwo reads it; convert "
            "the model that it was made from"
        )
    _check_place(checkpoint, target, form, force)
    chosen = _dtype(checkpoint, form, dtype)
    words = _tokenizer(checkpoint, tokenizer) if with_tokenizer else None
    config = _config(checkpoint, words)
    if any_gelu and config.activation_function in GELUS and "activation_function" in form.fixed:
        config = config.replace(activation_function=form.fixed["activation_function"])
    form.check(config)
    if words is None and with_tokenizer:
        _tell_of_no_tokenizer(source, form)

    take = _Taking(checkpoint, on_progress)
    if form.suffix is None:
        names = frozenset(form.files)
        save_directory(target, lambda new: form.write(new, config, take, chosen, words), files=names)
    else:
        _save_file(target, lambda new: form.write(new, config, take, chosen, words))
    files = [path for path in target.iterdir() if path.is_file()] if target.is_dir() else [target]
    return Conversion(
        path=target,
        source="hf" if checkpoint.format == "transformers" else checkpoint.format,
        target=to,
        dtype=chosen.lower(),
        tensors=len(checkpoint.tensors),
        parameters=config.parameter_count,
        bytes=sum(path.stat().st_size for path in files),
        tokenizer=words is not None,
        activation=config.activation_function,
        source_activation=checkpoint.config.activation_function,
    )


class _Taking:
    """Gives tensors one at a time, and the memory of the one before back."""

    def __init__(self, checkpoint: Checkpoint, on_progress: Callable[[float], None]) -> None:
        self._tensors, self._tell = checkpoint.tensors, on_progress
        self._last: StoredTensor | None = None
        self._taken, self._all = 0, sum(tensor.raw.size for tensor in checkpoint.tensors.values())

    def __call__(self, name: str) -> Floats:
        if self._last is not None:
            self._last.release()
            self._taken += self._last.raw.size
            self._tell(self._taken / self._all)
        self._last = self._tensors[name]
        return self._last.float32()


def _check_name(target: Path, form: Target) -> None:
    if form.suffix is not None and not target.name.endswith(form.suffix):
        raise InvalidRequestError(f"{form.title} is one file, whose name ends in {form.suffix}", param="target")
    if form.suffix is None and target.name.endswith(_SUFFIXES):
        raise InvalidRequestError(
            f"{form.title} is written as a directory with {form.files[0]} in it; {target.name!r} is the name of a file",
            param="target",
        )


def _check_place(checkpoint: Checkpoint, target: Path, form: Target, force: bool) -> None:
    """Refuse to write over what is there unless told to, and over the source in any case."""
    real = Path(os.path.realpath(target))
    for file in {checkpoint.path, *(tensor.file for tensor in checkpoint.tensors.values())}:
        its = Path(os.path.realpath(file))
        if real == its or real in its.parents or its in real.parents:
            raise CheckpointError(
                f"checkpoint {target}: cannot be saved there: it is, holds or lies in what is converted"
            )
    if not os.path.lexists(target):
        return
    if not force:
        raise CheckpointError(f"checkpoint {target}: is there already; --force replaces it")
    if form.suffix is not None and not target.is_file():
        raise CheckpointError(f"checkpoint {target}: cannot be saved there: it is no file")


def _dtype(checkpoint: Checkpoint, form: Target, asked: str) -> str:
    """The type to write, by safetensors' or ggml's name."""
    if asked != "auto":
        if asked.lower() not in DTYPES:
            raise InvalidRequestError(f"dtype is {asked!r}{nearest_name(asked, DTYPES)}", param="dtype")
        if asked.upper() not in form.dtypes:
            known = ", ".join(dtype.lower() for dtype in form.dtypes)
            raise InvalidRequestError(f"{form.title} has no {asked.lower()}: its types are {known}", param="dtype")
        return asked.upper()
    there = {tensor.dtype for tensor in checkpoint.tensors.values()}
    (only,) = there if len(there) == 1 else ("F32",)
    return only if only in form.dtypes and only in ("F16", "BF16") else "F32"


def _tokenizer(checkpoint: Checkpoint, named: str | Path | None) -> Tokenizer | None:
    source = checkpoint.tokenizer_path if named is None else named
    if source is None:
        return None
    tokenizer = Tokenizer.load(source)
    if tokenizer.vocab_size > checkpoint.config.vocab_size:
        raise TokenizerError(
            f"{source}: has {tokenizer.vocab_size} tokens, more than the model's vocabulary of "
            f"{checkpoint.config.vocab_size}"
        )
    return tokenizer


def _tell_of_no_tokenizer(source: str | Path, form: Target) -> None:
    """Refuse to leave it out of a file that other programs take for a whole model; elsewhere a warning."""
    remedy = "--tokenizer names one, --no-tokenizer leaves it out"
    if form.suffix is not None:
        raise TokenizerError(
            f"model {source} brings no tokenizer, and whatever reads {form.title} expects one in the file; {remedy}"
        )
    warnings.warn(f"model {source} brings no tokenizer, and none is written; {remedy}", CheckpointWarning, stacklevel=3)


def _config(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> GPTConfig:
    """The configuration; where the source's format has no place for the end of the text, the tokenizer names it."""
    config = checkpoint.config
    end = None if tokenizer is None else tokenizer.end_of_text_id
    if checkpoint.format in ("nanogpt", "llmc", "tensorflow") and end is not None:
        return config.replace(bos_token_id=end, eos_token_id=end)
    return config


def _save_file(target: Path, write: Callable[[Path], None]) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_saving_leftovers(Path(os.path.realpath(target)))
        with replace_file(target) as file, locked(Path(file.name)):
            write(Path(file.name))
    except OSError as error:
        raise CheckpointError(f"checkpoint {target}: cannot be saved: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {target}: cannot be saved: {error}") from error
