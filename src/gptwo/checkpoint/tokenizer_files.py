"""The files of a tokenizer that may lie beside a checkpoint, by their names alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gptwo.vocabulary_files import LLMC_FILE, RAW_FILE

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.table",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)

OTHER_TOKENIZER_FILES: Final = ("encoder.json", "vocab.bpe", LLMC_FILE, RAW_FILE)
"""Those of other programs' formats."""

# What `Tokenizer.load` finds in a directory, in its order: one of these, whole.
_KINDS: Final = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    (LLMC_FILE,),
    (RAW_FILE,),
)


def tokenizer_in(directory: Path) -> Path | None:
    """The directory, if tokenizer files lie in it."""
    return directory if any(all((directory / name).is_file() for name in kind) for kind in _KINDS) else None
