"""The table of formats: a later one is a new file and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptwo.checkpoint import (
    gguf_format,
    llmc_format,
    nanogpt_format,
    packed_format,
    raw_format,
    tensorflow_format,
    transformers_format,
)
from gptwo.checkpoint.stored import Checkpoint
from gptwo.checkpoint.target import Target
from gptwo.errors import CheckpointError


@dataclass(frozen=True)
class Format:
    """How one kind of checkpoint is recognised and read. (How those that are not packed are written: see TARGETS.)"""

    name: str
    looks_like: str
    """A file that shows it, for messages."""
    detect: Callable[[Path], bool]
    """Whether a path is meant to be one, by names and the first four bytes; cheap."""
    read: Callable[[Path], Checkpoint]


# llm.c's files are told from pickles of the same name by how they begin, and so stand before them.
FORMATS: Final = (
    Format("packed", packed_format.LOOKS_LIKE, packed_format.detect, packed_format.read),
    Format("llmc", llmc_format.LOOKS_LIKE, llmc_format.detect, llmc_format.read),
    Format("raw", raw_format.LOOKS_LIKE, raw_format.detect, raw_format.read),
    Format("transformers", transformers_format.LOOKS_LIKE, transformers_format.detect, transformers_format.read),
    Format("nanogpt", nanogpt_format.LOOKS_LIKE, nanogpt_format.detect, nanogpt_format.read),
    Format("gguf", gguf_format.LOOKS_LIKE, gguf_format.detect, gguf_format.read),
    Format("tensorflow", tensorflow_format.LOOKS_LIKE, tensorflow_format.detect, tensorflow_format.read),
)

TARGETS: Final[Mapping[str, Target]] = {
    "hf": transformers_format.TARGET,
    "nanogpt": nanogpt_format.TARGET,
    "llmc": llmc_format.TARGET,
    "raw": raw_format.TARGET,
    "gguf": gguf_format.TARGET,
}
"""The formats that a checkpoint is converted to, by the names that `gptwo convert --to` takes."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a path in the first format that recognises it.

    Raises CheckpointError, listing the formats, if none does, and if the system will not let it be read.
    """
    try:
        for known in FORMATS:
            if known.detect(path):
                return known.read(path)
        run = _run_around(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error
    if (path / "model" / "config.json").is_file():
        raise CheckpointError(f"checkpoint {path}: holds no model itself; did you mean {path / 'model'}?")
    if run is not None and (run / "model" / "config.json").is_file():
        raise CheckpointError(f"checkpoint {path}: is a part of a training run; its model is {run / 'model'}")
    if run is not None:
        raise CheckpointError(f"checkpoint {path}: is of a training run that has not written its model yet")
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(f"checkpoint {path}: holds an adapter (LoRA), which is no model by itself")
    if (path / "config.json").is_file():
        raise CheckpointError(f"checkpoint {path}: has a config.json but no weights (model.safetensors, or as pickle)")
    known_formats = "; ".join(f"{known.name}: {known.looks_like}" for known in FORMATS)
    raise CheckpointError(f"checkpoint {path}: no known format is there ({known_formats})")


def _run_around(path: Path) -> Path | None:
    """The directory of the training run that a path lies in, such as its adapter or one of its checkpoints."""
    whole = path.absolute()
    signs = ("train.toml", "metrics.jsonl")
    places = (whole, *whole.parents[:2])
    return next((place for place in places if all((place / name).is_file() for name in signs)), None)
