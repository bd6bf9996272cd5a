"""How a format is written, and what it cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from gptwo.checkpoint.stored import Floats
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError
from gptwo.vocabulary_files import Vocabulary

GELU_BY_TANH: Final = "gelu_new"
GELUS: Final = ("gelu", GELU_BY_TANH, "gelu_pytorch_tanh", "gelu_fast")
"""GELU, and the three names of its approximation by tanh."""

Take = Callable[[str], Floats]
"""Gives the tensor of a canonical name as float32, in its shape; it is held only until the next is asked for."""

# Of a GPT-2 as it was published, what some formats take for granted.
PUBLISHED: Final = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5,
}


class SavesTokenizer(Protocol):
    """The part of a tokenizer that saving needs."""

    def save(self, directory: Path, *, table: bool = False) -> None:
        """Write the tokenizer's files into a directory, with a table that is read fast if asked for one."""


class HasVocabulary(SavesTokenizer, Protocol):
    """The part of a tokenizer that other programs' formats need."""

    @property
    def vocabulary(self) -> Vocabulary:
        """See the class."""


@dataclass(frozen=True)
class Target:
    """How one format is written."""

    title: str
    """For messages."""
    dtypes: tuple[str, ...]
    """The types that its matrices may have; the first if none is asked for and the source has another."""
    write: Callable[[Path, GPTConfig, Take, str, HasVocabulary | None], None]
    """Write into an existing directory, or, with a suffix, the one file, a temporary name of which is given."""
    suffix: str | None = None
    """How the name of the one file ends; None if it is a directory."""
    files: tuple[str, ...] = ()
    """What lies in the directory beside config.json and the tokenizer's own files."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a configuration that have one value in this format, with that value."""

    def check(self, config: GPTConfig) -> None:
        """Raise CheckpointError if the format cannot say what the configuration says."""
        said = {name: getattr(config, name) for name in self.fixed}
        if said.get("activation_function") in GELUS[1:]:
            said["activation_function"] = GELU_BY_TANH
        for name, value in self.fixed.items():
            if said[name] != value:
                hint = ""
                if name == "activation_function" and said[name] in GELUS:
                    hint = (
                        " (--any-gelu takes GELU and its approximation by tanh for the same, and the text may differ)"
                    )
                raise CheckpointError(
                    f"{self.title} cannot hold this model: its {name} is {said[name]}, and there it is always "
                    f"{value}{hint}"
                )
        if "tie_word_embeddings" in self.fixed and config.inner_size != 4 * config.n_embd:
            raise CheckpointError(
                f"{self.title} cannot hold this model: its n_inner is {config.inner_size}, and there it is always four "
                f"times n_embd, {4 * config.n_embd}"
            )
