"""Everything that `gptwo prepare` is told, with one line about each; flags carry the same names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gptwo.errors import InvalidRequestError
from gptwo.options import (
    MOST_THREADS,
    check_options,
    finite,
    integer,
    option,
    optional_text,
    refuse,
    refuse_unknown_names,
    text,
)

BPE = "bpe:"
LARGEST_BPE = 1_000_000  # the trainer sets memory aside for as many, found or not
DEFAULT_VAL_FRACTION = 0.1


def _share(name: str, value: Any) -> float | None:
    share = None if value is None else finite(value)
    if value is not None and (share is None or not 0.0 <= share < 1.0):
        refuse(name, value, "0 to below 1")
    return share


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        refuse(name, value, "a list of texts")
    return tuple(text(name, str(one)) for one in value)


@refuse_unknown_names
@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How texts become data. Raises InvalidRequestError, whose `param` names the field."""

    tokenizer: str = option(
        "gpt2",
        text,
        "gpt2, char (a token for each character), bpe:SIZE (trained on the texts), or a model or directory with one.",
    )
    val: Sequence[str] = option((), _texts, "What to validate with: a file, a directory or a set.")
    val_fraction: float | None = option(
        None, _share, "Share of the documents kept for validation, 0.1 unless a named set says otherwise."
    )
    field: str | None = option(None, optional_text, "The field of a record that holds its text; unless given, text.")
    prompt_field: str | None = option(None, optional_text, "The field with a prompt, which is read but not learned.")
    completion_field: str | None = option(None, optional_text, "The field with what follows the prompt.")
    suffix: Sequence[str] = option((), _texts, "Which files of a directory are read, such as .py.")
    max_documents: int | None = option(None, integer(1, 2**62, optional=True), "Read no more documents than these.")
    shard_tokens: int = option(
        100_000_000, integer(1000, 2**40), "Tokens after which another file is begun, in whole pieces of text."
    )
    seed: int = option(0, integer(0, 2**63 - 1), "Decides which documents are for validation.")
    workers: int | None = option(
        None, integer(1, MOST_THREADS, optional=True), "Processes that encode; none is one for each core."
    )

    def __post_init__(self) -> None:
        check_options(self)
        size = self.tokenizer.removeprefix(BPE)
        if self.tokenizer.startswith(BPE) and not (
            size.isascii() and size.isdecimal() and len(size) < 10 and 257 <= int(size) <= LARGEST_BPE
        ):
            raise InvalidRequestError(
                f"tokenizer is {self.tokenizer!r}, expected a size from 257 to {LARGEST_BPE} after 'bpe:'", "tokenizer"
            )
        if (self.prompt_field is None) != (self.completion_field is None):
            raise InvalidRequestError(
                "prompt_field and completion_field belong together, and one of them is not given",
                "prompt_field" if self.prompt_field is None else "completion_field",
            )
        if self.prompt_field is not None and self.field is not None:
            raise InvalidRequestError("field names the one text of a record, so it excludes prompt_field", "field")
        if self.val and self.val_fraction is not None:
            raise InvalidRequestError(
                "val_fraction is a share of the texts, and val names other texts to validate with", "val_fraction"
            )

    @property
    def makes_tokenizer(self) -> bool:
        """Whether the tokenizer is made from the texts."""
        return self.tokenizer == "char" or self.bpe_size is not None

    @property
    def bpe_size(self) -> int | None:
        """The vocabulary's size, if a BPE is to be trained on the texts."""
        return int(self.tokenizer.removeprefix(BPE)) if self.tokenizer.startswith(BPE) else None

    def flags(self) -> list[str]:
        """The words of a command line that ask for the same, files by their names alone.

        How many processes encode changes nothing.
        """
        words = []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "workers" and (value != one.default or one.name == "tokenizer"):
                for each in value if isinstance(value, tuple) else (value,):
                    words += ["--" + one.name.replace("_", "-"), Path(each).name if one.name == "val" else str(each)]
        return words
