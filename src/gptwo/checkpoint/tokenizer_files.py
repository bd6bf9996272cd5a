"""The files of a tokenizer that may lie beside a checkpoint, by their names alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.table",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)


def tokenizer_in(directory: Path) -> Path | None:
    """The directory, if tokenizer files lie in it."""
    here = (directory / "tokenizer.json").is_file() or all(
        (directory / n).is_file() for n in ("vocab.json", "merges.txt")
    )
    return directory if here else None
