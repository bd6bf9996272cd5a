"""The format "tensorflow": the directories in which OpenAI released GPT-2, with model.ckpt, hparams.json, encoder.json
and vocab.bpe.

Variables are called model/wte, model/h0/ln_1/g, model/h0/attn/c_attn/w, …; linear weights are (1, in, out). The
activation is GELU by tanh; the head is tied.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from gptwo.checkpoint.canonical import canonical_tensors, end_of_text_ids
from gptwo.checkpoint.json_object import MAX_BYTES, parse_object
from gptwo.checkpoint.stored import Checkpoint, StoredTensor
from gptwo.checkpoint.tensorflow_bundle import INDEX, read_bundle
from gptwo.checkpoint.tokenizer_files import tokenizer_in
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, ConfigError

HPARAMS: Final = "hparams.json"
LOOKS_LIKE: Final = f"model.ckpt{INDEX}"

_FIELDS: Final = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
_BLOCK: Final = re.compile(r"h(\d{1,9})", re.ASCII)
_KINDS: Final = {"w": "weight", "g": "weight", "b": "bias", "wte": "wte.weight", "wpe": "wpe.weight"}


def detect(path: Path) -> bool:
    """Whether a directory holds hparams.json and an index, or a file is one."""
    if path.is_dir():
        return (path / HPARAMS).is_file() and any(path.glob(f"*{INDEX}"))
    return path.is_file() and path.name.endswith(INDEX)


def read(path: Path) -> Checkpoint:
    """Map a directory's one checkpoint, or the one whose index is named; no element is read.

    Raises CheckpointError and ConfigError, naming the file.
    """
    index = _index_in(path) if path.is_dir() else path
    config = _config(index.with_name(HPARAMS))
    stored = {}
    for name, tensor in read_bundle(index).items():
        ours = _our_name(name)
        if ours in stored:
            raise CheckpointError(f"checkpoint {index}: variable {ours} is there twice")
        stored[ours] = _without_first(tensor.renamed(ours))
    config, tensors = canonical_tensors(config, stored, index)
    return Checkpoint(config, tensors, path, "tensorflow", tokenizer_in(index.parent))


def _index_in(directory: Path) -> Path:
    found = sorted(directory.glob(f"*{INDEX}"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:3])
        raise CheckpointError(f"checkpoint {directory}: several are there ({names}); name the one that is meant")
    return found[0]


def _config(path: Path) -> GPTConfig:
    if not path.is_file():  # which a pipe is not either
        raise CheckpointError(f"checkpoint {path}: is not there, and says how large the model is")
    try:
        with path.open("rb") as file:
            values: dict[str, Any] = parse_object(file.read(min(path.stat().st_size, MAX_BYTES) + 1))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from None
    missing = [name for name in _FIELDS if name not in values]
    if missing:
        raise ConfigError(f"{path}: it lacks {', '.join(missing)}")
    try:
        config = GPTConfig(**{ours: values[theirs] for theirs, ours in _FIELDS.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config.replace(**end_of_text_ids(config.vocab_size))


def _our_name(name: str) -> str:
    """Example: model/h0/attn/c_attn/w is h.0.attn.c_attn.weight."""
    *parts, last = name.removeprefix("model/").split("/")
    if parts and (block := _BLOCK.fullmatch(parts[0])):
        parts[0] = f"h.{int(block[1])}"
    return ".".join([*parts, _KINDS.get(last, last)])


def _without_first(tensor: StoredTensor) -> StoredTensor:
    """(1, in, out) -> (in, out): the weights were those of a convolution."""
    is_kernel = len(tensor.shape) == 3 and tensor.shape[0] == 1
    return replace(tensor, raw=tensor.raw[0]) if is_kernel else tensor
